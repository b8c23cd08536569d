"""Paint what the rendered heads wear: skin, brows, lips, eyes, hair, clothes, and the scene behind them.

A person's colours lie on one paint map, which wraps the unshaped mesh like a cylinder: the columns are the angle about
a vertical axis through the skull (the face in the middle, the seam at the back), the rows the height. Points of the
mesh keep their place on the map whatever the shape, the expression and the pose. Lengths are decimetres, colours RGB
0..255, masks 0..1; every random choice comes from the generator `rng` that is handed in.
"""
import cv2
import numpy as np

SKIN = {"african": (126, 86, 64), "asian": (222, 178, 146), "caucasian": (229, 186, 163)}  # RGB, 0..255
HAIR = [(28, 24, 22), (46, 34, 28), (74, 50, 34), (112, 78, 48), (168, 130, 82), (122, 58, 34)]
SCENE = [(205, 196, 180), (150, 152, 156), (92, 98, 108), (140, 172, 206), (82, 108, 66), (128, 92, 62), (172, 70, 56),
         (52, 72, 104), (226, 226, 222), (48, 44, 42), (188, 160, 118), (104, 128, 124)]
IRIS = [(62, 40, 26), (84, 56, 34), (70, 96, 120), (92, 104, 74)]

AXIS_Z, MAP_LOW, MAP_HIGH, MAP_SIZE = 0.3, 4.2, 8.75, (1536, 1152)  # dm, dm, dm, (width, height) in pixels
# The angle (degrees from the front, unsigned) and the height (dm) of every pixel of the paint map.
ANGLE, HEIGHT = np.meshgrid(np.abs((np.arange(MAP_SIZE[0]) + 0.5) / MAP_SIZE[0] * 360 - 180),
                            MAP_HIGH - (np.arange(MAP_SIZE[1]) + 0.5) / MAP_SIZE[1] * (MAP_HIGH - MAP_LOW))


def map_place(points: np.ndarray) -> np.ndarray:
    """Places of points (N, 3) of the unshaped mesh on the paint map: (N, 2) pixels, (column, row)."""
    u = 0.5 + np.arctan2(points[:, 0], points[:, 2] - AXIS_Z) / (2 * np.pi)
    v = (MAP_HIGH - points[:, 1]) / (MAP_HIGH - MAP_LOW)
    return np.stack([u, v], 1) * MAP_SIZE


def noise(rng: np.random.Generator, rows: int, columns: int, size: tuple[int, int] = MAP_SIZE) -> np.ndarray:
    """Smooth noise of about unit strength from a grid of this many cells, as an image of size (width, height)."""
    grid = rng.normal(0, 1, (rows, columns)).astype(np.float32)
    return cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)


def step(low: float, high: float, values: np.ndarray) -> np.ndarray:
    """0 below low, 1 above high, smooth between."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def lay(image: np.ndarray, mask: np.ndarray, colour) -> None:
    """Paint a colour (RGB or an image) over a float image in place, where a mask 0..1 says so."""
    image += mask[..., None] * (np.asarray(colour, np.float32) - image)


def stroke_mask(lines: list[np.ndarray], thickness: int, blur: float) -> np.ndarray:
    """Mask 0..1 of the paint map with polylines (N, 2) drawn on it."""
    mask = np.zeros(MAP_SIZE[::-1], np.uint8)
    for line in lines:  # shift=4: sixteenths of a pixel
        cv2.polylines(mask, [np.round(line * 16).astype(np.int32)], False, 255, thickness, cv2.LINE_AA, shift=4)
    return cv2.GaussianBlur(mask, (0, 0), blur).astype(np.float32) / 255


def paint_face(rng, image, places, skin, hair, male: float, old: float) -> None:
    """Blotches, lips, lids, nostrils, brows and stubble, onto the float paint map; places: (68, 2) of the points."""
    blotches = 5 * noise(rng, 14, 22) + 3 * noise(rng, 60, 90) + 2 * noise(rng, 250, 340)
    image += blotches[..., None] * np.float32([0.7, 1.0, 1.0])
    flush = np.exp(-(ANGLE - 27) ** 2 / 150 - (HEIGHT - 6.92) ** 2 / 0.03).astype(np.float32)  # on the cheeks
    lay(image, flush * rng.uniform(0.05, 0.3), np.multiply(skin, (1.0, 0.72, 0.7)))

    lips = np.zeros(MAP_SIZE[::-1], np.uint8)
    cv2.fillPoly(lips, [np.round(places[48:60] * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    lipstick = male < 0.5 and rng.random() < 0.5
    colour = rng.uniform((130, 25, 40), (190, 70, 85)) if lipstick else np.multiply(skin, (0.88, 0.66, 0.66))
    lay(image, cv2.GaussianBlur(lips, (0, 0), 2.5).astype(np.float32) / 255 * (0.75 if lipstick else 0.7), colour)
    seam = [places[[60, 61, 62, 63, 64]], places[[64, 65, 66, 67, 60]]]
    lay(image, 0.5 * stroke_mask(seam, 2, 1.5), np.multiply(colour, 0.35))

    for first in (36, 42):  # shade about the eye, a dark rim, the crease of the upper lid
        eye = places[first:first + 6]
        lay(image, 0.5 * stroke_mask([eye[[0, 1, 2, 3, 4, 5, 0]]], 26, 9), np.multiply(skin, (0.66, 0.58, 0.55)))
        lay(image, 0.85 * stroke_mask([eye[:4]], 4 if male > 0.5 else 6, 1.2), np.multiply(hair, 0.4))
        lay(image, 0.5 * stroke_mask([eye[[3, 4, 5, 0]]], 3, 1.2), np.multiply(skin, 0.4))
        lay(image, 0.35 * stroke_mask([eye[:4] - (0, 13)], 3, 2), np.multiply(skin, 0.45))
        lay(image, old * 0.3 * stroke_mask([eye[[3, 4, 5, 0]] + (0, 22)], 5, 4), np.multiply(skin, 0.6))
    nostrils = [places[[32]] + [(-3, -2), (-9, -3)], places[[34]] + [(3, -2), (9, -3)]]
    lay(image, 0.75 * stroke_mask(nostrils, 7, 2.5), np.multiply(skin, 0.25))

    hairs, width = [], rng.uniform(5, 9) + 4 * male
    for brow, outward in ((places[17:22][::-1], -1), (places[22:27], 1)):  # from the nose outwards
        for t in rng.uniform(0, 4, int(rng.uniform(160, 300))):
            start = np.array([np.interp(t, range(5), brow[:, axis]) for axis in (0, 1)])
            start[1] += 3  # the points lie on the upper half of a brow
            start[1] += rng.uniform(-0.55, 0.45) * width * (1.15 - t / 4 * 0.75)
            lean = rng.uniform(0.2, 0.6) if t < 1 else rng.uniform(0.9, 1.3)  # upright hairs at the nose
            hairs.append(np.stack([start, start + rng.uniform(8, 15) * np.array([outward * lean, -0.5 + 0.24 * t])]))
    lay(image, rng.uniform(0.6, 0.9) * stroke_mask(hairs, 2, 1.0), np.multiply(hair, 0.85))

    if male > 0.5 and rng.random() < 0.5:
        ragged = HEIGHT + 0.03 * noise(rng, 40, 60) + 0.004 * (ANGLE - 30).clip(0)
        chin = step(6.95, 6.72, ragged) * step(6.0, 6.2, HEIGHT) * step(75, 62, ANGLE)
        chin *= (1 - cv2.dilate(lips, np.ones((9, 9))).astype(np.float32) / 255)
        chin *= np.maximum(step(0.18, 0.3, np.hypot(ANGLE / 60, HEIGHT - 6.6)), step(6.75, 6.66, HEIGHT))
        grain = np.clip(0.8 + 0.25 * noise(rng, 380, 500), 0, 1)
        lay(image, chin * grain * rng.choice([0.2, 0.35, 0.8]), np.multiply(hair, 0.9))


def hairline(*heights: float) -> np.ndarray:
    """The height (dm) of a line around the head at each pixel, from its heights at eight angles."""
    return np.interp(ANGLE, (0, 22, 36, 47, 56, 75, 105, 150), heights)


def paint_top(rng, image, thickness, hair, male: float, old: float):
    """Hair, a cap, a headscarf or a bald head, painted in place; returns the `curtain` of the person, if any."""
    kind = rng.choice(["short", "long", "cap", "scarf", "bald"],
                      p=[0.62, 0.06, 0.14, 0.0, 0.18] if male > 0.5 else [0.22, 0.6, 0.07, 0.11, 0.0])
    if kind in ("cap", "scarf"):
        cloth = cloth_colour(rng)
        line = (hairline(7.72, 7.72, 7.7, 7.66, 7.6, 7.5, 7.35, 7.1) if kind == "cap"
                else hairline(7.82, 7.78, 7.66, 7.35, 7.1, 6.9, 6.5, 6.2))
        mask = step(0, 0.03, HEIGHT - line)
        knit = 1 + (0.12 * np.sin(ANGLE * 2.4) if kind == "cap" else 0.05 * noise(rng, 6, 60))
        knit = knit * np.where(HEIGHT - line < 0.22, 0.85, 1) if kind == "cap" else knit
        lay(image, mask, cloth * knit[..., None].astype(np.float32))
        thickness += mask * rng.uniform(0.08, 0.14)
        return (58, 5.4, cloth) if kind == "scarf" else None
    recede = rng.uniform(0, 0.25) * male * (0.5 + old)
    line = hairline(8.0 + recede, 7.97 + recede, 7.82 + recede, 7.4 + 0.3 * recede, 7.3, 7.42, 7.2, 6.6)
    line = line + rng.uniform(-0.06, 0.05) + 0.03 * noise(rng, 2, 30) + 0.016 * noise(rng, 2, 260)
    mask = step(-0.04, 0.08, HEIGHT - line)
    if kind == "bald":
        lay(image, mask * rng.choice([0.0, 0.15, 0.35]), hair)  # shaved: a shadow is left
        return None
    strands = 1 + 0.22 * noise(rng, 8, 420) + 0.12 * noise(rng, 5, 60)
    coat = np.float32(hair) * strands[..., None]
    lay(image, mask, coat)
    thickness += step(0, 0.35, HEIGHT - line) * rng.uniform(0.04, 0.2) * (1 + 0.12 * noise(rng, 16, 40))
    return (rng.uniform(62, 80), rng.choice([6.2, 5.6, 4.6]), np.float32(hair)) if kind == "long" else None


def cloth_colour(rng) -> np.ndarray:
    """A colour of cloth, more often dull than bright: (3,) float32, RGB, 0..255."""
    colour = rng.uniform(20, 220, 3)
    return np.float32(colour + (colour.mean() - colour) * rng.uniform(0.1, 0.9))


def paint_clothes(rng, image, thickness, curtain) -> None:
    """A shirt or jumper with a round, a pointed or a high neck, painted in place."""
    low, pointed = rng.choice([5.05, 5.35, 5.9]), rng.random() < 0.4
    cut = np.interp(ANGLE, (0, 45, 70), (low - 0.35 * pointed, max(low, 5.7), 6.05))
    colour = cloth_colour(rng)
    if curtain is not None and curtain[0] < 60:  # a headscarf closes below the chin
        cut, colour = np.full_like(HEIGHT, 6.05), curtain[2]
    mask = step(0, 0.025, cut - HEIGHT)
    weave = 1 + 0.05 * noise(rng, 12, 30) + (0.18 * np.sign(np.sin(HEIGHT * rng.uniform(12, 30)))
                                             if rng.random() < 0.25 else 0)
    lay(image, mask, colour * weave[..., None].astype(np.float32))
    lay(image, 0.5 * step(0.05, 0, np.abs(cut - HEIGHT - 0.03)), colour * 0.6)
    thickness += mask * 0.07


def paint_eye(rng, origin: dict[str, float]) -> np.ndarray:
    """An eyeball from the front, (256, 256, 3) uint8: the white, an iris with its rim, the pupil."""
    radius = np.hypot(*np.mgrid[-127.5:128, -127.5:128]) / 128
    image = np.zeros((256, 256, 3), np.float32) + np.float32((232, 228, 224))
    lay(image, 0.5 * step(0.5, 1.0, radius), (190, 140, 130))
    iris = np.float32(IRIS[rng.integers(4 if origin["caucasian"] > 0.6 else 2)]) * rng.uniform(0.8, 1.2)
    angle = np.arctan2(*np.mgrid[-127.5:128, -127.5:128])
    rays = 1 + 0.18 * np.sin(angle * 37 + 3 * np.sin(angle * 11))
    lay(image, step(0.5, 0.46, radius), iris * rays[..., None])
    lay(image, step(0.38, 0.48, radius) * step(0.52, 0.47, radius) * 0.7, iris * 0.3)
    lay(image, step(0.22, 0.18, radius), (8, 8, 8))
    return np.clip(image, 0, 255).astype(np.uint8)


def paint_person(rng: np.random.Generator, places: np.ndarray, origin: dict[str, float], male: float, old: float):
    """Paint a random person.

    Args:
        places: (68, 2) where the keypoints lie on the paint map, pixels.
        origin: weights of african, asian and caucasian, their sum 1. male, old: 0..1.

    Returns the paint map, (1152, 1536, 3) uint8; the thickness of hair and cloth on it, dm; an eyeball from the front,
    (256, 256, 3) uint8; long hair or a headscarf as (angle where it begins, lowest height, colour), or None.
    """
    tone = rng.uniform(0.88, 1.08) * sum(share * np.array(SKIN[name]) for name, share in origin.items())
    skin = np.float32(tone + rng.normal(0, 4, 3)).clip(40, 245)
    hair = np.float32(HAIR[rng.integers(len(HAIR) if origin["caucasian"] > 0.6 else 2)]) * rng.uniform(0.8, 1.2)
    top_hair = hair + (rng.uniform(90, 190) - hair) * (rng.random() < old) * rng.uniform(0.4, 1)  # turns grey
    image = np.zeros((*MAP_SIZE[::-1], 3), np.float32) + skin
    thickness = np.zeros(MAP_SIZE[::-1], np.float32)
    paint_face(rng, image, places, skin, (hair + top_hair) / 2, male, old)
    curtain = paint_top(rng, image, thickness, top_hair, male, old)
    paint_clothes(rng, image, thickness, curtain)
    return np.clip(image, 0, 255).astype(np.uint8), thickness, paint_eye(rng, origin), curtain


def background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A scene out of focus: a gradient with boxes and discs, blurred; (height, width, 3) float32, 0..1."""
    first, second = (np.clip(colour / 255 * rng.uniform(0.6, 1.2) + rng.normal(0, 0.04, 3), 0.03, 0.97)
                     for colour in rng.choice(np.array(SCENE), 2))
    rows, columns = np.mgrid[0:1:height * 1j, 0:1:width * 1j]
    angle = rng.uniform(0, np.pi)
    blend = np.clip(0.5 + (rows - 0.5) * np.cos(angle) + (columns - 0.5) * np.sin(angle), 0, 1)[..., None]
    image = np.ascontiguousarray(first + (second - first) * blend, np.float32)
    for _ in range(rng.integers(0, 14)):
        colour = first if rng.random() < 0.6 else rng.choice(np.array(SCENE)) / 255
        colour = np.clip(colour + rng.normal(0, 0.05, 3) + rng.normal(0, 0.18), 0, 1).tolist()
        x, y = (rng.uniform(0, 1, 2) * (width, height)).astype(int).tolist()
        w, h = (rng.uniform(0.04, 0.5, 2) * (width, height)).astype(int).tolist()
        if rng.random() < 0.6:
            cv2.rectangle(image, (x - w // 2, y - h), (x + w // 2, y + h), colour, -1)
        else:
            cv2.circle(image, (x, y), 1 + w // 3, colour, -1)
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(1.5, 12) * width / 200)
