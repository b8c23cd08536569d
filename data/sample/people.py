"""People: who is in a picture, the surfaces they are drawn with, and the camera that takes them.

Units, frames and the pose convention are those of heads.py.
"""
from dataclasses import dataclass, replace

import cv2
import hair as h
import numpy as np
from heads import ORIGINS, HeadModel, random_shape
from paint import (
    HAIR,
    HEIGHT,
    MAP_SIZE,
    SKIN,
    Outfit,
    beard_mask,
    cloth_colour,
    lay,
    map_place,
    on_map,
    paint_eye,
    paint_face,
    random_outfit,
    step,
)
from shade import Surface, render_surfaces, shrink, to_linear, unit


@dataclass
class Person:
    """Who is in the picture: all that the pictures of a person share."""

    shape: dict[str, float]  # target -> weight
    skin: np.ndarray  # the paint map, (1152, 1536, 3) float32, linear RGB
    bump: np.ndarray  # its height, (1152, 1536) float32, dm
    brightness: float  # of the skin, linear luminance
    tone: float  # of the skin, see `skin_angle`
    eye: np.ndarray  # an eyeball from the front, (256, 256, 3) float32, linear RGB
    strands: list[h.Strands]
    covers: list[h.Cover]
    outfit: Outfit
    glasses: dict | None  # `look` of `hair.glasses`, with colour

    def skin_at(self, points: np.ndarray):
        """Linear RGB (M, 3), height (M,) in dm, gloss (M,) and bareness (M,) at points (M, 3) of the unshaped mesh."""
        colour, height = on_map(self.skin, points), on_map(self.bump, points)
        cloth, cloth_rgb, cloth_height = self.outfit.at(points)
        angle = np.abs(np.arctan2(points[:, 0], points[:, 2] - 0.3))
        gloss = 0.55 + 0.45 * np.exp(-(angle / 0.35) ** 2) * step(6.1, 6.6, points[:, 1])  # forehead, nose, lips, chin
        worn = cloth[:, None]
        return (colour + worn * (cloth_rgb - colour), height + cloth * (cloth_height - height),
                gloss + cloth * (0.08 - gloss), 1 - cloth)


def pick_style(rng: np.random.Generator, african: float, male: float, old: float) -> tuple[str, str]:
    """A hair style and a head cover ('' for none)."""
    cover = str(rng.choice(["", "beanie", "headscarf"], p=[0.92, 0.08, 0.0] if male > 0.5 else [0.86, 0.04, 0.10]))
    if male > 0.5:
        styles = {"crop": 0.28, "short": 0.3, "parted": 0.2, "curls": 0.08, "waves": 0.03, "shaved": 0.11}
    else:
        styles = {"short": 0.08, "parted": 0.05, "curls": 0.1, "bob": 0.18, "long": 0.2, "waves": 0.17, "tied": 0.12,
                  "bun": 0.1}
    if african > 0.5:
        styles = ({"crop": 0.45, "afro": 0.3, "shaved": 0.25} if male > 0.5 else
                  {"afro": 0.4, "curls": 0.15, "tied": 0.1, "bun": 0.2, "long": 0.15})
    style = str(rng.choice(list(styles), p=list(styles.values())))
    if cover:
        style = {"headscarf": "none"}.get(cover, "crop" if male > 0.5 else str(rng.choice(["crop", "long"])))
    return style, cover


def skin_angle(skin: np.ndarray) -> float:
    """The individual typology angle of a skin colour, sRGB (3,) in 0..255: degrees, low for dark skin, high for pale.

    Chardon, Cretois and Hourseau, 1991, https://doi.org/10.1111/j.1467-2494.1991.tb00561.x
    """
    lightness, _, yellow = cv2.cvtColor(np.float32(skin)[None, None] / 255, cv2.COLOR_RGB2LAB)[0, 0]
    return float(np.degrees(np.arctan2(lightness - 50, yellow)))


def random_traits(rng: np.random.Generator) -> tuple[dict[str, float], float, float, dict[str, float], np.ndarray]:
    """What a person begins with: shares of origins, male and old in 0..1, shape targets, the skin's sRGB (3,)."""
    origin = dict(zip(ORIGINS, rng.dirichlet([0.35] * 3), strict=True))
    male = float(rng.beta(0.25, 0.25))
    old = float(rng.choice([rng.uniform(0, 0.3), rng.uniform(0.3, 1)], p=[0.65, 0.35]))
    shape = random_shape(rng, origin, male, old)
    tone = sum(share * np.array(SKIN[name]) for name, share in origin.items()) * rng.uniform(0.84, 1.06)
    return origin, male, old, shape, np.float32(tone + rng.normal(0, 3, 3)).clip(40, 245)


def make_person(model: HeadModel, skull: h.Skull, rng: np.random.Generator, varied: bool = False) -> Person:
    """A random person; varied: now and then with sunglasses."""
    origin, male, old, shape, skin = random_traits(rng)
    dark = np.float32(HAIR[rng.integers(len(HAIR) if origin["caucasian"] > 0.6 else 2)]) * rng.uniform(0.8, 1.2)
    grey = (rng.random() < 0.8 * old) * rng.uniform(0.3, 1)
    top = dark + (rng.uniform(120, 205) - dark) * grey
    brow = dark + (top - dark) * 0.4
    image = np.zeros((*MAP_SIZE[::-1], 3), np.float32) + skin
    bump = np.zeros(MAP_SIZE[::-1], np.float32)
    lips = paint_face(rng, image, bump, map_place(model.at(model.base, model.keypoints)), skin, brow, male, old,
                      1 - origin["african"])
    style, cover = pick_style(rng, origin["african"], male, old)
    recede, shift = float(rng.choice([0, rng.uniform(0, 0.28)])) * (male > 0.5) * (0.5 + old), rng.uniform(-0.05, 0.06)
    if style != "none":  # the scalp between the hairs
        signed = (np.arange(MAP_SIZE[0]) + 0.5) / MAP_SIZE[0] * 2 * np.pi - np.pi
        line = h.hairline_at(np.stack([np.sin(signed), 0 * signed, np.cos(signed) + 0.3], 1), recede) + shift
        scalp = step(-0.03, 0.14, HEIGHT - line[None])
        lay(image, scalp * (rng.choice([0.1, 0.3, 0.5]) if style == "shaved" else 0.9), top * 0.75)

    strands, covers = h.brows_and_lashes(rng, model, to_linear(brow), male), []
    if style not in ("none", "shaved"):
        strands += h.head_hair(rng, skull, style, to_linear(top), recede, shift)
    if male > 0.5 and rng.random() < 0.5:
        kind = str(rng.choice(["full", "goatee", "moustache", "stubble"], p=[0.35, 0.13, 0.12, 0.4]))
        mask = beard_mask(rng, "full" if kind == "stubble" else kind, lips)
        lay(image, mask * (0.28 if kind == "stubble" else 0.5), np.multiply(brow, 0.9))
        if kind != "stubble" or rng.random() < 0.6:
            length = rng.choice([0.06, 0.12, 0.22 if kind == "full" else 0.1])
            length = rng.uniform(0.015, 0.03) if kind == "stubble" else length
            density = 0.5 if kind == "stubble" else 1.0
            strands.append(h.beard_hair(rng, skull, to_linear(dark + (top - dark) * 0.7),
                                        lambda points: density * on_map(mask, points), length))
    if cover:
        covers.append((h.beanie if cover == "beanie" else h.headscarf)(rng, skull, to_linear(cloth_colour(rng))))
    outfit = random_outfit(rng, male)
    if cover == "headscarf":
        outfit = replace(outfit, kind="turtleneck", colour=covers[0].colour.mean(0))
    elif outfit.kind in ("shirt", "suit", "turtleneck", "hood"):
        kind = "shirt" if outfit.kind == "suit" else outfit.kind
        covers.append(h.collar(rng, model, kind, (0.75, 0.76, 0.78) if outfit.kind == "suit" else outfit.colour))
    glasses = None
    if rng.random() < 0.16 + 0.2 * old:
        frame = rng.choice([[0.012, 0.012, 0.012], [0.05, 0.025, 0.012], [0.35, 0.33, 0.3], [0.4, 0.3, 0.12]])
        glasses = {"half_width": rng.uniform(0.225, 0.265), "half_height": rng.uniform(0.15, 0.21),
                   "square": rng.choice([2.0, 2.6, 3.5]), "thick": rng.choice([0.011, 0.016, 0.024]), "colour": frame}
        if varied and rng.random() < 0.3:
            glasses["tint"] = rng.uniform(0.5, 0.95)
    return Person(shape, to_linear(image.clip(0, 255)), bump, float(to_linear(skin) @ (0.21, 0.72, 0.07)),
                  skin_angle(skin), paint_eye(rng, origin), strands, covers, outfit, glasses)


def ribbons(points: np.ndarray, strands: h.Strands, least: float) -> Surface:
    """Strands (n, m, 3) of the camera frame as bands that face the camera, at least this wide (dm)."""
    n, m = points.shape[:2]
    along = unit(np.gradient(points, axis=1))
    across = unit(np.cross(along, points))
    taper = np.linspace(1, 0.45, m)[None, :, None] * np.maximum(strands.width, least)[:, None, None] / 2
    edges = np.stack([points - taper * across, points + taper * across], 2).reshape(-1, 3)
    start = (np.arange(n)[:, None] * 2 * m + 2 * np.arange(m - 1)[None]).reshape(-1, 1)
    triangles = np.concatenate([start + np.array(corners) for corners in ((0, 1, 3), (0, 3, 2))])
    shade = np.linspace(0.65, 1.1, m)[None, :, None] * strands.colour[:, None]
    shade, along = (np.repeat(values, 2, 1).reshape(-1, 3) for values in (shade, along))
    return Surface("hair", edges, triangles, shade, along)


def build_surfaces(model: HeadModel, person: Person, vertices: np.ndarray, place_points, gaze, least: float):
    """All surfaces of a head, the skin first, and the outlines of its lenses, in the camera frame.

    Args:
        vertices: (19158, 3) the shaped mesh. place_points: function of points (N, 3) and turn (N,) to the camera frame.
        gaze: how far the irises look to the image's right and down, shares of the eye. least: width of a strand, dm.
    """
    def part(name: str, kind: str, data) -> Surface:
        quads = model.faces[name]
        used, compact = np.unique(quads[:, [0, 1, 2, 0, 2, 3]], return_inverse=True)
        return Surface(kind, points[used], compact.reshape(-1, 3), data(used))

    points, surfaces = place_points(vertices, model.turn), []
    skin = part("skin", "skin", lambda used: model.base[used])
    skin.points += (0.07 * person.outfit.at(skin.data)[0])[:, None] * skin.normals
    surfaces.append(skin)
    for name in ("left_eye", "right_eye"):
        def place(used):
            flat = model.base[used, :2]
            flat = (flat - (flat.min(0) + flat.max(0)) / 2) / np.ptp(flat, axis=0)
            return np.c_[0.5 + flat * (1, -1) - gaze, 0 * used]
        surfaces.append(part(name, "eye", place))
    for name, colour in (("mouth", (0.09, 0.016, 0.016)), ("tongue", (0.26, 0.07, 0.07)), ("teeth", (0.55, 0.5, 0.4))):
        surfaces.append(part(name, "wet", lambda used, colour=colour: np.tile(colour, (len(used), 1))))
    # What is worn and the hair follow the head's shape: the best affine map, for strands from their own roots.
    skull = (model.base[:, 1] > 6.2) & (model.turn > 0.9)
    fit = np.linalg.lstsq(np.c_[model.base[skull], np.ones(skull.sum())], vertices[skull], rcond=None)[0]
    neck = (model.base[:, 1] > 4.9) & (model.base[:, 1] < 6.1) & (np.abs(model.base[:, 0]) < 0.9)
    fit_neck = np.linalg.lstsq(np.c_[model.base[neck], np.ones(neck.sum())], vertices[neck], rcond=None)[0]
    for strands in person.strands:
        roots = model.at(vertices, (strands.vertices, strands.weights))
        at_rest = model.at(model.base, (strands.vertices, strands.weights))[:, None, 1] + strands.offsets[..., 1]
        run = roots[:, None] + strands.offsets @ fit[:3]
        turn = strands.sway + (1 - strands.sway) * step(5.4, 7.0, at_rest)
        n, m = run.shape[:2]
        surfaces.append(ribbons(place_points(run.reshape(-1, 3), turn.ravel()).reshape(n, m, 3), strands, least))
    for cover in person.covers:
        on_head = step(5.9, 6.6, cover.points[:, 1])[:, None]
        shaped = np.c_[cover.points, np.ones(len(cover.points))]
        shaped = on_head * (shaped @ fit) + (1 - on_head) * (shaped @ fit_neck)
        surfaces.append(Surface("plain", place_points(shaped, cover.turn), cover.triangles, cover.colour))
    lenses = []
    if person.glasses is not None:
        frame, triangles, lenses = h.glasses(model, vertices, person.glasses)
        colour = np.tile(person.glasses["colour"], (len(frame), 1))
        surfaces.append(Surface("plain", place_points(frame, np.ones(len(frame))), triangles, colour))
        lenses = [place_points(lens, np.ones(len(lens))) for lens in lenses]
    return surfaces, lenses


def add_lenses(image: np.ndarray, lenses: list, camera, scale: int, lights, strength: float, tint: float) -> None:
    """Lay the tint and the mirror image of lenses over a picture of `render_surfaces`, in place.

    tint: the share of the light that the lenses keep back.
    """
    for lens in lenses:
        outline = (camera.project(lens) + 0.5) * scale - 0.5
        mask = np.zeros(image.shape[:2], np.uint8)
        cv2.fillPoly(mask, [np.round(outline).astype(np.int32)], 255, cv2.LINE_AA)
        seen = (mask / 255 * (image[..., 4] > lens[:, 2].mean() - 0.08)).astype(np.float32)[..., None]
        low, high = outline.min(0), outline.max(0) + 1e-3
        y, x = np.mgrid[:image.shape[0], :image.shape[1]]
        across = (x - low[0]) / (high[0] - low[0]) - 0.7 * (y - low[1]) / (high[1] - low[1])
        streak = np.exp(-((across - 0.12) / 0.16) ** 2)[..., None]
        light = 0.015 + strength * (0.02 + 0.16 * streak)
        image[..., :3] += seen * (light * np.float32(lights.around["above"]) * 2 - tint * image[..., :3])
        image[..., 3:4] = np.maximum(image[..., 3:4], seen * (tint + 0.03))


def meter(image: np.ndarray, skin: np.ndarray, brightness: float) -> float:
    """The factor that exposes a linear picture for the face as a camera does, dark skin darker than middle grey.

    Args:
        skin: (H, W), how much of each pixel is bare skin. brightness: the skin's linear luminance.
    """
    light = image[skin > 0.9] @ np.float32((0.21, 0.72, 0.07)) if (skin > 0.9).any() else np.float32([0.4])
    return float(0.38 * (brightness / 0.5) ** 0.5 / np.maximum(np.percentile(light, 60), 1e-3))


def develop(image: np.ndarray, factor: float) -> np.ndarray:
    """sRGB 0..1 from linear RGB times a factor, highlights rolled off."""
    image, bend = image * factor, 0.45
    image = np.where(image > bend, bend + (1 - bend) * (1 - np.exp(-(image - bend) / (1 - bend))), image)
    return image.clip(0, 1) ** (1 / 2.2)


def finish(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Colour, blur and noise of a camera; (H, W, 3) uint8 from sRGB 0..1."""
    image = image * (1 + rng.normal(0, 0.02, 3))
    grey = image.mean(2, keepdims=True)
    image = grey + (image - grey) * rng.uniform(0.86, 1.12)
    curve = rng.uniform(0, 0.35)
    image = image + curve * (image.clip(0, 1) ** 2 * (3 - 2 * image.clip(0, 1)) - image)
    height, width = image.shape[:2]
    if rng.random() < 0.25:  # a small face in a frame, enlarged
        share = rng.uniform(0.65, 0.9)
        small = cv2.resize(image, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
        image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.25, 0.5))
    if rng.random() < 0.04:  # the head or the camera moved
        kernel = np.zeros((9, 9), np.float32)
        cv2.line(kernel, (int(rng.integers(2, 4)), 4), (int(rng.integers(5, 7)), 4), 1.0)
        image = cv2.filter2D(image, -1, kernel / kernel.sum())
    strength = rng.uniform(0.003, 0.016)
    noise = rng.normal(0, 1, image.shape) * strength * (1.3 - 0.7 * image.clip(0, 1))
    return np.clip((image + noise) * 255 + 0.5, 0, 255).astype(np.uint8)


def draw(model, person, vertices, place_points, gaze, camera, lights, mirror: float, extra=()) -> np.ndarray:
    """The head without its background: (H, W, 6), see `render_surfaces`; extra: more surfaces."""
    area = camera.width * camera.height
    scale = 3 if area < 32000 else 2 if area < 90000 else 1
    distance = place_points(np.array([[0.0, 7, 0]]), np.ones(1))[0, 2]
    least = 0.9 * distance / camera.focal / scale
    surfaces, lenses = build_surfaces(model, person, vertices, place_points, gaze, least)
    head = render_surfaces([*surfaces, *extra], camera, lights, scale, person.skin_at, person.eye)
    tint = (person.glasses or {}).get("tint", 0.07)
    add_lenses(head, lenses, camera, scale, lights, mirror, tint)
    return shrink(head, camera.width, camera.height)
