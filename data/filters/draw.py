"""Draw the filters' pictures: `python data/filters/draw.py`. All shapes are our own (MIT licence, as the code).

Shapes are smooth closed curves through a few hand-placed points, painted four times as large and averaged down, which
makes the edges soft.
"""

import itertools
import json
from pathlib import Path

import cv2
import numpy as np

HERE = Path(__file__).resolve().parent
LARGER = 4


def curve(points: list[tuple[float, float]], steps: int = 24) -> np.ndarray:
    """A closed Catmull-Rom curve through the points: (N, 2) pixels."""
    p = np.array(points, float)
    before, after, beyond = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
    t = np.linspace(0, 1, steps, endpoint=False)[:, None, None]
    bend = 2 * before - 5 * p + 4 * after - beyond
    spline = 0.5 * (2 * p + (after - before) * t + bend * t**2 + (3 * p - before - 3 * after + beyond) * t**3)
    return spline.transpose(1, 0, 2).reshape(-1, 2)


def mask(size: tuple[int, int], *shapes: np.ndarray) -> np.ndarray:
    """Which part of each pixel the shapes cover, (H, W) float32 in [0, 1]; size is (width, height)."""
    large = np.zeros((size[1] * LARGER, size[0] * LARGER), np.uint8)
    for shape in shapes:
        cv2.fillPoly(large, [np.round((shape + 0.5) * LARGER * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return cv2.resize(large, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def over(below: np.ndarray, colour: np.ndarray | tuple, alpha: np.ndarray) -> np.ndarray:
    """Paint a colour (RGB, 0–255) with an alpha (H, W) onto an RGBA picture of floats, alpha in [0, 1]."""
    total = alpha + below[..., 3] * (1 - alpha)
    mixed = np.asarray(colour) * alpha[..., None] + below[..., :3] * (below[..., 3] * (1 - alpha))[..., None]
    return np.dstack([mixed / np.maximum(total, 1e-6)[..., None], total])


def mirrored(shape: np.ndarray, width: int) -> np.ndarray:
    return np.column_stack([width - 1 - shape[:, 0], shape[:, 1]])


def stack(*pictures: np.ndarray) -> tuple[np.ndarray, list[list[int]]]:
    """Pictures one below the other, and their rectangles: left, top, width, height."""
    width = max(picture.shape[1] for picture in pictures)
    rows = [np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0))) for picture in pictures]
    tops = np.cumsum([0] + [len(picture) for picture in pictures])
    parts = [[0, int(top), p.shape[1], p.shape[0]] for top, p in zip(tops, pictures, strict=False)]
    return np.concatenate(rows), parts


def write(name: str, about: str, picture: np.ndarray, layers: list[dict]) -> None:
    rgba = np.dstack([picture[..., :3], 255 * picture[..., 3]]).round().clip(0, 255).astype(np.uint8)
    rgba[rgba[..., 3] == 0] = 0  # packs better
    cv2.imwrite(str(HERE / f"{name}.png"), cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    lines = []
    for layer in layers:
        anchors = ",\n   ".join(json.dumps(anchor) for anchor in layer["anchors"])
        rest = "".join(f", {json.dumps(key)}: {json.dumps(value)}" for key, value in layer.items() if key not in
                       ("part", "anchors"))  # fmt: skip
        lines.append(f'{{"part": {json.dumps(layer["part"])}{rest}, "anchors": [\n   {anchors}]}}')
    text = f'{{"about": {json.dumps(about)}, "layers": [\n  ' + ",\n  ".join(lines) + "]}\n"
    (HERE / f"{name}.json").write_text(text, encoding="utf-8")


def empty(width: int, height: int) -> np.ndarray:
    return np.zeros((height, width, 4), np.float32)


def sunglasses() -> None:
    width, height = 1200, 460
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    outer = curve([(78, 78), (170, 48), (330, 42), (470, 58), (548, 92), (556, 150), (530, 270), (462, 366), (352, 404),
                   (220, 396), (130, 330), (88, 220), (70, 130)])  # fmt: skip
    centre = outer.mean(axis=0)
    inner = (outer - centre) * (0.885, 0.86) + centre + (0, 4)
    bridge = curve([(520, 96), (600, 78), (680, 96), (672, 150), (636, 128), (600, 122), (564, 128), (528, 150)])
    hinge = curve([(8, 88), (80, 74), (118, 92), (104, 150), (60, 148), (10, 134)])
    frame = mask((width, height), outer, mirrored(outer, width), bridge, hinge, mirrored(hinge, width))
    lens = mask((width, height), inner, mirrored(inner, width))
    picture = np.zeros((height, width, 4), np.float32)
    shade = 34 + 40 * np.exp(-(((rows - 62 - 0.0002 * (columns - 600) ** 2) / 16) ** 2))  # light along the upper rim
    picture = over(picture, np.dstack([shade * 1.05, shade * 0.95, shade * 0.92]), frame)
    dark = 14 + 46 * np.clip((rows - 90) / 300, 0, 1)  # a tint that lets more light through below
    glass = np.dstack([dark * 1.1, dark * 0.95, dark * 0.8])
    picture[lens > 0] = (picture * (1 - lens[..., None]))[lens > 0] + 0  # the rim's hole
    picture[..., :3] = np.where(lens[..., None] > 0, over(picture, glass, lens)[..., :3], picture[..., :3])
    opacity = 0.93 - 0.20 * np.clip((rows - 90) / 300, 0, 1)
    picture[..., 3] = frame * (1 - lens) + lens * opacity
    for x in (190, 800):  # a reflection across each lens
        band = mask((width, height), curve([(x, 330), (x + 130, 60), (x + 190, 60), (x + 62, 345)]))
        thin = mask((width, height), curve([(x + 92, 352), (x + 218, 62), (x + 236, 62), (x + 112, 354)]))
        picture = over(picture, (255, 255, 255), 0.13 * cv2.GaussianBlur(np.maximum(band, thin), (0, 0), 3) * lens)
    arm_width, arm_height = 860, 200
    arm = curve([(6, 30), (40, 22), (400, 26), (640, 30), (730, 52), (800, 108), (842, 166), (828, 186), (800, 170),
                 (752, 108), (690, 76), (400, 80), (40, 88), (6, 80)])  # fmt: skip
    arm = mask((arm_width, arm_height), arm)
    rows = np.mgrid[:arm_height, :arm_width][0]
    shade = 30 + 34 * np.exp(-(((rows - 36) / 9) ** 2))
    temple = over(empty(arm_width, arm_height), np.dstack([shade * 1.05, shade * 0.95, shade * 0.92]), arm)
    picture, parts = stack(picture, temple)
    eyes = ([36, 37, 38, 39, 40, 41], [42, 43, 44, 45, 46, 47])
    front = [{"points": eye, "at": at, "offset": [0, 0, -0.25]} for eye, at in zip(eyes, ([318, 208], [881, 208]),
             strict=True)]  # fmt: skip
    layers = [{"part": parts[0], "bend": 1.9, "shadow": 0.3, "anchors": front}]
    for corner, side, ear in ((36, -1, "right_ear"), (45, 1, "left_ear")):
        layers.append({"part": parts[1], "sheet": "side", "anchors": [
            {"points": [corner], "at": [20, 54], "offset": [0.19 * side, -0.12, -0.16]},
            {"place": ear, "at": [700, 62], "offset": [0, -0.02, 0]}]})  # fmt: skip
    write("sunglasses", "sunglasses with temples", picture, layers)


def moustache() -> None:
    width, height = 1000, 360
    # fmt: off
    half = curve([(512, 92), (420, 58), (330, 74), (262, 132), (190, 176), (112, 168), (66, 120), (72, 78), (50, 66),
                  (30, 112), (58, 190), (140, 244), (250, 250), (350, 226), (440, 190), (512, 172)])
    # fmt: on
    shape = mask((width, height), half, mirrored(half, width))
    rng = np.random.default_rng(0)
    hair = np.zeros((height, width), np.float32)
    for _ in range(5200):  # strands that leave the middle and fall outwards
        x, y = rng.uniform(20, 500), rng.uniform(50, 260)
        slope, length = 0.75 - 1.5 * np.clip((300 - x) / 300, 0, 1), rng.uniform(30, 80)
        end = (x - length, y + slope * length)
        for a, b in (((x, y), end), ((width - 1 - x, y), (width - 1 - end[0], end[1]))):
            line = [tuple(int(16 * v) for v in point) for point in (a, b)]
            cv2.line(hair, line[0], line[1], float(rng.uniform(0, 1)), 1, cv2.LINE_AA, 4)
    hair = cv2.GaussianBlur(hair, (0, 0), 0.8)
    rows = np.mgrid[:height, :width][0]
    light = 0.55 + 0.45 * np.clip((230 - rows) / 180, 0, 1)
    colour = (np.array([46, 30, 20]) + hair[..., None] * np.array([64, 46, 34])) * light[..., None]
    edge = cv2.GaussianBlur(shape, (0, 0), 2.5)
    picture = over(np.zeros((height, width, 4), np.float32), colour, np.clip(edge * (0.86 + 0.3 * hair), 0, 1))
    places = ((48, [262, 268], -0.2), (54, [737, 268], -0.2), (33, [499, 62], -0.08))
    anchors = [{"points": [point], "at": at, "offset": [0, 0, z]} for point, at, z in places]
    layers = [{"part": [0, 0, width, height], "bend": 0.62, "shadow": 0.3, "anchors": anchors}]
    write("moustache", "a moustache, combed outwards", picture, layers)


def felt(width: int, height: int, rng: np.random.Generator, colour: tuple) -> np.ndarray:
    """A dark cloth with a fine nap, (H, W, 3)."""
    nap = cv2.GaussianBlur(rng.normal(0, 1, (height, width)).astype(np.float32), (0, 0), 1.6, sigmaY=3)
    return np.asarray(colour) * (1 + 0.5 * nap[..., None])


def tophat() -> None:
    """A crown that closes to a cylinder (its picture is the whole way round), a brim and a lid."""
    rng, width, height, side = np.random.default_rng(1), 1600, 380, 1000
    black = (40, 38, 44)
    around = np.linspace(-np.pi, np.pi, width)[None]
    gloss = 0.75 + 0.75 * np.exp(-(((around + 0.55) / 0.4) ** 2)) + 0.3 * np.exp(-(((around - 0.9) / 0.25) ** 2))
    crown = felt(width, height, rng, black) * gloss[..., None]
    rows = np.mgrid[:height, :width][0]
    band = np.clip((rows - 280) / 2, 0, 1) * np.clip((366 - rows) / 2, 0, 1)
    weave = 1 + 0.06 * np.sin(rows / 2.2)
    red = np.dstack([150 * weave, 24 * weave, 38 * weave]) * (0.62 + 0.5 * (gloss - 0.7))[..., None]
    crown += (red - crown) * band[..., None]
    crown *= (1 - 0.35 * np.exp(-(rows / 11.0) ** 2) - 0.4 * np.exp(-((height - 1 - rows) / 9.0) ** 2))[..., None]
    solid = np.clip(np.minimum(rows + 1, height - rows) / 3, 0, 1)
    crown = np.dstack([crown, solid]).astype(np.float32)
    deep = 1.17  # times as deep as wide, as heads are
    rows, columns = np.mgrid[: round(side * deep), :side].astype(np.float32)
    rows = rows / deep
    radius, angle = np.hypot(rows - 500, columns - 500), np.arctan2(columns - 500, 500 - rows)
    edge = np.clip((490 - radius) / 3, 0, 1)
    disc = felt(side, len(rows), rng, black) * (0.85 + 0.5 * np.exp(-(((angle + 0.5) / 0.7) ** 2)))[..., None]
    rim = np.exp(-(((radius - 480) / 8) ** 2))
    disc = disc * (1 + 0.7 * rim)[..., None] * (1 - 0.45 * np.exp(-(((radius - 326) / 26) ** 2)))[..., None]
    brim = np.dstack([disc, edge]).astype(np.float32)
    picture, parts = stack(crown, brim)
    tilt, up, unit = 9.0, 0.16, 2 * np.pi * 0.94 / width  # degrees; outer-eye distances above the band; … to a pixel
    c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    tall = (height - 12) * unit

    def anchors(middle: tuple, pixels: float, above: float) -> list[dict]:
        offset = [0, round(float(-up - above * c), 3), round(float(-0.12 - above * s), 3)]
        return [{"place": place, "at": [middle[0] + sign * round(pixels), middle[1]], "offset": offset}
                for place, sign in (("band_right", -1), ("band_left", 1))]  # fmt: skip

    half = 0.833  # of the band's width on a mean head
    layers = [  # the brim twice, which makes it thick
        {"part": parts[1], "sheet": "flat", "tilt": tilt, "anchors": anchors((500, 585), half * 490 / 1.39, -0.035)},
        {"part": parts[1], "sheet": "flat", "tilt": tilt, "shadow": 0.35,
         "anchors": anchors((500, 585), half * 490 / 1.4, 0)},
        {"part": parts[0], "round": deep, "tilt": tilt, "anchors": anchors((800, height - 6), half / unit, 0)},
        {"part": parts[1], "sheet": "flat", "tilt": tilt, "anchors": anchors((500, 585), half * 490 / 0.925, tall)},
    ]  # fmt: skip
    write("tophat", "a top hat with a red band", picture, layers)


def fur(size: tuple[int, int], strokes: int, spread: float, rng: np.random.Generator) -> np.ndarray:
    """Short hairs that point upwards, (H, W) in 0..1."""
    hair = np.zeros(size[::-1], np.float32)
    for _ in range(strokes):
        x, y, length = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(14, 34)
        end = (x + rng.normal(0, spread) * length, y - length)
        ends = [tuple(int(16 * v) for v in point) for point in ((x, y), end)]
        cv2.line(hair, ends[0], ends[1], float(rng.uniform(0, 1)), 1, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(hair, (0, 0), 0.8)


def cat() -> None:
    rng, width, height = np.random.default_rng(2), 1200, 520
    ear = curve([(170, 500), (136, 330), (144, 150), (172, 40), (200, 44), (290, 130), (392, 270), (470, 420),
                 (480, 510)])  # fmt: skip
    inner = curve([(230, 500), (192, 340), (190, 200), (202, 126), (272, 200), (344, 320), (392, 440), (390, 500)])
    hair = fur((width, height), 16000, 0.25, rng)
    edge = cv2.GaussianBlur(mask((width, height), ear, mirrored(ear, width)), (0, 0), 3)
    pink = cv2.GaussianBlur(mask((width, height), inner, mirrored(inner, width)), (0, 0), 12)
    ears = over(empty(width, height), np.array([78, 62, 52]) + hair[..., None] * np.array([92, 74, 60]),
                np.clip(edge * (0.75 + 0.5 * hair) * 1.15, 0, 1))  # fmt: skip
    rows = np.mgrid[:height, :width][0]
    ears = over(ears, np.array([196, 128, 124]) * (0.7 + 0.3 * hair[..., None]) * (1.06 - rows[..., None] / 1400),
                pink * 0.85)  # fmt: skip
    ears[..., 3] *= np.clip((505 - rows) / 60, 0, 1)
    size = (1200, 460)
    whiskers = empty(*size)
    line = np.zeros(size[::-1], np.float32)
    for start, control, end in (((452, 250), (250, 190), (24, 170)), ((446, 282), (240, 276), (10, 296)),
                                ((454, 314), (260, 350), (40, 418))):  # fmt: skip
        t = np.linspace(0, 1, 60)[:, None]
        path = (1 - t) ** 2 * start + 2 * t * (1 - t) * np.array(control) + t**2 * np.array(end)
        for i, (a, b) in enumerate(itertools.pairwise(path)):
            thick = max(1, round(7 * (1 - i / 62)))
            for p, q in ((a, b), ((size[0] - 1 - a[0], a[1]), (size[0] - 1 - b[0], b[1]))):
                cv2.line(line, *(tuple(int(16 * v) for v in point) for point in (p, q)), 1.0, thick, cv2.LINE_AA, 4)
    line = cv2.GaussianBlur(line, (0, 0), 0.9)
    whiskers = over(whiskers, (245, 243, 238), np.clip(line, 0, 1) * 0.95)
    nose_size = (400, 300)
    tip = mask(nose_size, curve([(200, 60), (90, 70), (50, 110), (90, 170), (160, 226), (200, 250), (240, 226),
                                 (310, 170), (350, 110), (310, 70)]))  # fmt: skip
    rows, columns = np.mgrid[:300, :400].astype(np.float32)
    round_ = 1 - 0.0000085 * ((columns - 200) ** 2 + 1.6 * (rows - 120) ** 2)
    colour = np.array([214, 128, 132]) * round_[..., None].clip(0.5, 1)
    nose = over(empty(*nose_size), colour, cv2.GaussianBlur(tip, (0, 0), 2.2))
    glint = np.exp(-(((columns - 165) / 46) ** 2) - ((rows - 98) / 16) ** 2)
    nose = over(nose, (255, 240, 240), 0.55 * glint * nose[..., 3])
    holes = mask(nose_size, curve([(128, 168), (150, 158), (176, 176), (160, 190)]),
                 mirrored(curve([(128, 168), (150, 158), (176, 176), (160, 190)]), 400))  # fmt: skip
    nose = over(nose, (92, 40, 46), 0.8 * cv2.GaussianBlur(holes, (0, 0), 4))
    picture, parts = stack(ears, whiskers, nose)
    layers = [
        {"part": parts[0], "bend": 1.6, "tilt": -6, "anchors": [
            {"place": "band_right", "at": [165, 500], "offset": [0, -0.22, -0.5]},
            {"place": "band_left", "at": [1034, 500], "offset": [0, -0.22, -0.5]}]},
        {"part": parts[1], "bend": 1.1, "anchors": [
            {"points": [31], "at": [484, 250], "offset": [0, 0, -0.13]},
            {"points": [35], "at": [715, 250], "offset": [0, 0, -0.13]}]},
        {"part": parts[2], "bend": 0.2, "shadow": 0.25, "anchors": [
            {"points": [31], "at": [62, 150], "offset": [0, 0, -0.22]},
            {"points": [35], "at": [337, 150], "offset": [0, 0, -0.22]}]},
    ]  # fmt: skip
    write("cat", "a cat's ears, nose and whiskers", picture, layers)


def smile() -> None:
    """How the points move, in outer-eye distances: x to the image's right, y down; the other half is mirrored."""
    half = {48: (-0.075, -0.10), 60: (-0.065, -0.085), 49: (-0.035, -0.035), 59: (-0.04, -0.025), 61: (-0.03, -0.02),
            67: (-0.025, 0.0), 50: (-0.01, 0.0), 58: (-0.015, 0.02), 31: (-0.012, -0.006), 41: (0.0, -0.018),
            40: (0.0, -0.018)}  # fmt: skip
    mirror = {48: 54, 60: 64, 49: 53, 59: 55, 61: 63, 67: 65, 50: 52, 58: 56, 31: 35, 41: 46, 40: 47}
    morph = {57: (0, 0.025), 66: (0, 0.015), 51: (0, 0.006), 62: (0, 0.004)} | half
    morph |= {mirror[point]: (-x, y) for point, (x, y) in half.items()}
    lines = ",\n  ".join(f'"{point}": {json.dumps([x, y, 0])}' for point, (x, y) in sorted(morph.items()))
    text = f'{{"about": "a smile: a morph, no picture", "morph": {{\n  {lines}}}}}\n'
    (HERE / "smile.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for draw in (sunglasses, moustache, tophat, cat, smile):
        draw()
