"""Paint what the rendered heads wear on their skin, their eyes and clothes, and the scenes behind them.

A person's colours lie on one paint map, which wraps the unshaped mesh like a cylinder: the columns are the angle about
a vertical axis through the skull (the face in the middle, the seam at the back), the rows the height. Points of the
mesh keep their place on the map whatever the shape, the expression and the pose. Lengths are decimetres, colours sRGB
0..255 where they are painted and linear RGB where they are lit, masks 0..1; every random choice comes from the
generator `rng` that is handed in.
"""
from dataclasses import dataclass

import cv2
import numpy as np
from shade import look_up

SKIN = {"african": (108, 75, 59), "asian": (222, 178, 148), "caucasian": (231, 188, 162)}  # sRGB, 0..255
HAIR = [(30, 25, 22), (44, 33, 27), (72, 48, 33), (108, 76, 48), (176, 138, 88), (124, 62, 36)]
IRIS = [(66, 42, 26), (92, 62, 36), (88, 116, 140), (104, 116, 84)]

AXIS_Z, MAP_LOW, MAP_HIGH, MAP_SIZE = 0.3, 4.2, 8.75, (1536, 1152)  # dm, dm, dm, (width, height) in pixels
# The angle (degrees from the front, unsigned) and the height (dm) of every pixel of the paint map.
ANGLE, HEIGHT = np.meshgrid(np.abs((np.arange(MAP_SIZE[0]) + 0.5) / MAP_SIZE[0] * 360 - 180),
                            MAP_HIGH - (np.arange(MAP_SIZE[1]) + 0.5) / MAP_SIZE[1] * (MAP_HIGH - MAP_LOW))


def map_place(points: np.ndarray) -> np.ndarray:
    """Places of points (N, 3) of the unshaped mesh on the paint map: (N, 2) pixels, (column, row)."""
    u = 0.5 + np.arctan2(points[:, 0], points[:, 2] - AXIS_Z) / (2 * np.pi)
    v = (MAP_HIGH - points[:, 1]) / (MAP_HIGH - MAP_LOW)
    return np.stack([u, v], 1) * MAP_SIZE


def on_map(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values of a map, (1152, 1536) or (1152, 1536, 3) float32, at points (N, 3) of the unshaped mesh."""
    return look_up(image, *(map_place(points).T - 0.5))


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


def hairline(angle: np.ndarray, recede: float) -> np.ndarray:
    """The height (dm) of the hairline at angles (degrees from the front, unsigned); recede: dm, at the temples."""
    return np.interp(angle, (0, 22, 36, 47, 56, 75, 105, 150),
                     (7.98 + recede, 7.96 + recede, 7.84 + recede, 7.48 + 0.4 * recede, 7.3, 7.42, 7.2, 6.75))


def hairline_at(points: np.ndarray, recede: float) -> np.ndarray:
    """The hairline's height (N,) at points (N, 3) of the unshaped mesh, a little ragged."""
    signed = np.arctan2(points[:, 0], points[:, 2] - AXIS_Z)
    ragged = 0.03 * np.sin(9 * signed + 1) + 0.02 * np.sin(31 * signed) + 0.012 * np.sin(83 * signed)
    return hairline(np.degrees(np.abs(signed)), recede) + ragged


def paint_face(rng, image, bump, places, skin, hair, male: float, old: float, pale: float) -> np.ndarray:
    """Blotches, freckles, lips, lids and wrinkles onto the float paint map and its height map (dm), in place.

    places: (68, 2) of the points on the map. Returns a mask of the lips.
    """
    blotches = 6 * noise(rng, 14, 22) + 4 * noise(rng, 50, 75) + 2 * noise(rng, 160, 220) + 1.5 * noise(rng, 400, 540)
    image += 0.8 * blotches[..., None] * np.float32([0.6, 1.0, 1.0]) * (0.5 + skin.mean() / 300)
    bump += 0.0005 * noise(rng, 500, 700) + 0.0006 * noise(rng, 220, 300)

    def glow(angle, height, wide, tall):
        return np.exp(-((ANGLE - angle) / wide) ** 2 - ((HEIGHT - height) / tall) ** 2).astype(np.float32)

    red = np.multiply(skin, (0.98, 0.74, 0.72))
    flush = rng.uniform(0.05, 0.32) * (0.4 + 0.6 * pale)
    for spot, share in ((glow(27, 6.92, 12, 0.17), 1.0), (glow(0, 6.88, 9, 0.15), 0.8), (glow(0, 6.25, 13, 0.12), 0.5),
                        (glow(75, 7.0, 13, 0.35), 0.8)):  # cheeks, nose, chin, ears
        lay(image, flush * share * spot, red)
    lay(image, 0.25 * glow(0, 7.6, 35, 0.25), np.multiply(skin, (1.03, 1.02, 0.94)))
    if pale > 0.5 and rng.random() < 0.3:
        freckles = (rng.random((MAP_SIZE[1] // 3, MAP_SIZE[0] // 3)) < 0.02).astype(np.float32)
        freckles = cv2.GaussianBlur(cv2.resize(freckles, MAP_SIZE, interpolation=cv2.INTER_LINEAR), (0, 0), 1.3)
        spots = (freckles * 2.2 * (glow(20, 6.98, 22, 0.22) + 0.1)).clip(0, 0.4)
        lay(image, spots, np.multiply(skin, (0.78, 0.62, 0.52)))
    for _ in range(rng.integers(0, 5)):  # moles
        x, y = rng.uniform(0.38, 0.62) * MAP_SIZE[0], rng.uniform(0.15, 0.6) * MAP_SIZE[1]
        cv2.circle(image, (int(x), int(y)), int(rng.uniform(2, 4)), np.multiply(skin, 0.5).tolist(), -1, cv2.LINE_AA)

    lips = np.zeros(MAP_SIZE[::-1], np.uint8)
    cv2.fillPoly(lips, [np.round(places[48:60] * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    lips = cv2.GaussianBlur(lips, (0, 0), 3.0).astype(np.float32) / 255
    lipstick = male < 0.5 and rng.random() < 0.45
    colour = rng.uniform((140, 30, 45), (190, 80, 90)) if lipstick else np.multiply(skin, (0.90, 0.66, 0.65))
    lay(image, lips * rng.uniform(0.5, 0.85), colour)
    seam = [places[[60, 61, 62, 63, 64]], places[[64, 65, 66, 67, 60]]]
    lay(image, 0.55 * stroke_mask(seam, 2, 2.0), np.multiply(colour, 0.3))
    bump += 0.004 * lips * np.sin(np.arange(MAP_SIZE[0]) * 0.9)[None].astype(np.float32) * 0.4

    for first in (36, 42):  # shade about the eye, the rim of lashes, the crease of the upper lid
        eye = places[first:first + 6]
        lay(image, 0.5 * stroke_mask([eye[[0, 1, 2, 3, 4, 5, 0]]], 26, 9), np.multiply(skin, (0.62, 0.5, 0.48)))
        dark = rng.uniform(0.2, 0.4) if male > 0.5 else rng.uniform(0.3, 0.9)
        lay(image, dark * stroke_mask([eye[:4]], 4, 1.6), (24, 18, 16))
        lay(image, 0.35 * stroke_mask([eye[[3, 4, 5, 0]]], 3, 1.4), np.multiply(skin, (0.55, 0.36, 0.34)))
        lay(image, 0.35 * stroke_mask([eye[:4] - (0, 13)], 3, 2), np.multiply(skin, 0.45))
        bag = stroke_mask([eye[[3, 4, 5, 0]] + (0, 20)], 7, 5)
        lay(image, (0.12 + old * 0.25) * bag, np.multiply(skin, (0.66, 0.55, 0.58)))
        if male < 0.5 and rng.random() < 0.3:
            lay(image, 0.4 * stroke_mask([eye[:4] - (0, 9)], 12, 4), rng.uniform((70, 40, 50), (150, 110, 120)))
        outer = eye[0] if first == 36 else eye[3]
        sign = -1 if first == 36 else 1
        feet = [outer + np.array([[sign * 9, d * 3], [sign * 34, d * 13]]) for d in (-1, 0, 1)]
        bump -= (0.008 * old * stroke_mask(feet, 2, 1.5)).astype(np.float32)
    nostrils = [places[[32]] + [(-3, -2), (-9, -3)], places[[34]] + [(3, -2), (9, -3)]]
    lay(image, 0.75 * stroke_mask(nostrils, 7, 2.5), np.multiply(skin, 0.2))
    middle = MAP_SIZE[0] / 2
    lines = [np.stack([middle + np.linspace(-75, 75, 9), row + rng.normal(0, 2, 9)], 1) for row in (205, 222, 239, 252)]
    folds = [np.stack([places[31 + 4 * i], (places[31 + 4 * i] + places[48 + 6 * i]) / 2 + (30 * s, 0),
                       places[48 + 6 * i] + (20 * s, 8)]) for i, s in ((0, -1), (1, 1))]
    bump -= np.float32(0.012 * old) * stroke_mask(lines, 3, 2.5)
    bump -= np.float32(0.004 + 0.014 * old) * stroke_mask(folds, 5, 4)
    brows = stroke_mask([brow + np.array([0, 5]) for brow in (places[17:22], places[22:27])], 9 if male > 0.5 else 6, 3)
    lay(image, rng.uniform(0.25, 0.5) * brows, np.multiply(hair, 1.0))
    return lips


def beard_mask(rng, kind: str, lips: np.ndarray) -> np.ndarray:
    """Where a beard grows on the paint map, 0..1; kind: full, goatee, moustache or stubble."""
    ragged = HEIGHT + 0.02 * noise(rng, 40, 60)
    line = np.interp(ANGLE, (0, 12, 25, 40, 62, 75), (6.98, 6.80, 6.62, 6.60, 6.85, 7.3))
    mask = step(0.06, -0.08, ragged - line) * step(86, 76, ANGLE)
    mask *= step(5.98, 6.2, ragged - 0.003 * (ANGLE - 40).clip(0))
    if kind in ("goatee", "moustache"):
        mask *= step(26, 18, ANGLE)
    if kind == "moustache":
        mask *= step(6.55, 6.62, HEIGHT)
    bare = step(0.75, 1.1, np.hypot(ANGLE / 13, (HEIGHT - 6.46) / 0.06))  # below the lower lip, beside it
    return mask * np.where(HEIGHT < 6.55, np.maximum(bare, 0.3), 1) * (1 - cv2.dilate(lips, np.ones((7, 7)))).clip(0, 1)


def cloth_colour(rng) -> np.ndarray:
    """A colour of cloth, more often dull than bright: (3,) float32, RGB, 0..255."""
    colour = rng.uniform(18, 225, 3)
    return np.float32(colour + (colour.mean() - colour) * rng.uniform(0.3, 0.9))


@dataclass
class Outfit:
    """Clothes: kind (tee, vneck, shirt, turtleneck, hood or suit), linear RGB colours, the kind of weave."""

    kind: str
    colour: np.ndarray
    second: np.ndarray
    weave: str
    phase: float

    def at(self, points: np.ndarray):
        """Mask (M,), linear RGB (M, 3) and height in dm (M,) of the cloth at points (M, 3) of the unshaped mesh."""
        x, y, z = points.T
        angle = np.degrees(np.abs(np.arctan2(x, z - AXIS_Z)))
        low = {"tee": 5.50, "vneck": 4.95, "shirt": 5.1, "suit": 5.3}.get(self.kind, 5.9)
        neck = np.interp(angle, (0, 45, 70), (low, max(low + 0.25, 5.62), 6.0))
        if self.kind in ("turtleneck", "hood"):
            neck = np.full_like(y, 6.0)
        mask = step(0, 0.02, neck - y)
        ripple = np.sin(9 * x + 4 * y + self.phase) * np.sin(5 * y - 3 * x + 2 * self.phase)
        ripple = ripple * np.sin(4 * z + self.phase)
        fold = np.sin(3.1 * x + 1.7 * y + self.phase) * np.sin(2.3 * y - 1.9 * x + 3.1 * z)
        height = 0.03 * np.abs(fold) + 0.006 * ripple
        tone = 1 + 0.04 * np.sin(37 * x + 3 * ripple) * np.sin(31 * y + 2 * z)
        colour = self.colour * tone[:, None]
        stripes = {"stripes": np.sin(2 * np.pi * y / 0.32), "pinstripes": np.sin(2 * np.pi * x / 0.14) - 0.5,
                   "checks": np.sin(2 * np.pi * x / 0.16) * np.sin(2 * np.pi * y / 0.16)}.get(self.weave)
        if stripes is not None:
            share = (0.5 if self.weave == "checks" else 0.8) * step(-0.15, 0.15, stripes)
            if self.weave == "stripes":
                share *= step(0.1, 0.4, z)
            colour = colour + share[:, None] * (self.second - colour)
        hem = np.exp(-((neck - y - 0.07) / 0.012) ** 2) * (self.kind in ("tee", "vneck"))
        colour = colour * (1 - 0.4 * hem[:, None])
        if self.kind in ("suit", "shirt"):
            front = step(0.0, 0.2, z)
            opening = 0.05 + 0.36 * (y - 4.2).clip(0) if self.kind == "suit" else np.full_like(y, -1)
            inner = step(0.02, -0.02, np.abs(x) - opening) * front
            white = np.float32((0.75, 0.76, 0.78))
            colour = colour + inner[:, None] * (white - colour)
            tie = step(0.012, -0.012, np.abs(x) - (0.07 + 0.06 * (5.4 - y).clip(0, 1))) * front * (self.kind == "suit")
            knot = tie * step(5.55, 5.45, y)
            colour = colour + knot[:, None] * (self.second - colour)
            edge = sum(np.exp(-((np.abs(x) - opening - away) / 0.02) ** 2) for away in (0.02, 0.3))
            colour = colour * (1 - 0.45 * (edge * front * (self.kind == "suit")))[:, None]
            placket = np.exp(-((np.abs(x) - 0.07) / 0.012) ** 2) * front * (self.kind == "shirt")
            colour = colour * (1 - 0.35 * placket)[:, None]
        return mask, colour.clip(0.004, 0.9), height


def random_outfit(rng, male: float) -> Outfit:
    """Clothes of a random kind and colour."""
    shares = [0.25, 0.13, 0.24, 0.08, 0.12, 0.18] if male > 0.5 else [0.25, 0.25, 0.18, 0.14, 0.1, 0.08]
    kind = str(rng.choice(["tee", "vneck", "shirt", "turtleneck", "hood", "suit"], p=shares))
    colour, second = ((cloth_colour(rng) / 255) ** 2.2 * 0.9 for _ in range(2))
    if kind == "suit":
        suits = [[0.016, 0.018, 0.03], [0.03, 0.03, 0.034], [0.09, 0.09, 0.1], [0.06, 0.045, 0.035]]
        colour = np.float32(rng.choice(suits))
        second = np.float32((rng.uniform(20, 150, 3) / 255) ** 2.2)
    if kind == "shirt" and rng.random() < 0.5:
        colour = np.float32(rng.choice([[0.75, 0.76, 0.78], [0.45, 0.58, 0.75], [0.7, 0.6, 0.6]]))
    weave = str(rng.choice(["plain", "stripes", "pinstripes", "checks"],
                           p={"tee": [0.75, 0.25, 0, 0], "shirt": [0.6, 0, 0.22, 0.18]}.get(kind, [1, 0, 0, 0])))
    return Outfit(kind, np.float32(colour), np.float32(second), weave, rng.uniform(0, 6))


def paint_eye(rng, origin: dict[str, float]) -> np.ndarray:
    """An eyeball from the front, (256, 256, 3) float32, linear RGB: the white, an iris with its rim, the pupil."""
    radius = np.hypot(*np.mgrid[-127.5:128, -127.5:128]) / 128
    image = np.zeros((256, 256, 3), np.float32) + np.float32((204, 198, 194))
    lay(image, 0.55 * step(0.42, 1.0, radius), (196, 140, 130))
    iris = np.float32(IRIS[rng.integers(4 if origin["caucasian"] > 0.6 else 2)]) * rng.uniform(0.8, 1.2)
    angle = np.arctan2(*np.mgrid[-127.5:128, -127.5:128])
    rays = 1 + 0.18 * np.sin(angle * 37 + 3 * np.sin(angle * 11))
    lay(image, step(0.49, 0.44, radius), iris * rays[..., None])
    lay(image, step(0.36, 0.46, radius) * step(0.52, 0.46, radius) * 0.75, iris * 0.25)
    lay(image, step(0.21, 0.17, radius), (6, 6, 6))
    return (np.clip(image, 0, 255) / 255) ** 2.2
