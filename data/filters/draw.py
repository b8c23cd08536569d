"""Draw the filters' pictures: `python data/filters/draw.py`. All shapes are our own (MIT licence, as the code).

Shapes are smooth closed curves through a few hand-placed points, painted four times as large and averaged down, which
makes the edges soft.
"""

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


def write(name: str, picture: np.ndarray, anchors: list[dict]) -> None:
    rgba = np.dstack([picture[..., :3], 255 * picture[..., 3]]).round().clip(0, 255).astype(np.uint8)
    cv2.imwrite(str(HERE / f"{name}.png"), cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    lines = ",\n  ".join(json.dumps(anchor) for anchor in anchors)
    (HERE / f"{name}.json").write_text(f'{{\n "anchors": [\n  {lines}\n ]\n}}\n', encoding="utf-8")


def sunglasses() -> None:
    width, height = 1200, 460
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    outer = curve([(78, 78), (170, 48), (330, 42), (470, 58), (548, 92), (556, 150), (530, 270), (462, 366), (352, 404),
                   (220, 396), (130, 330), (88, 220), (70, 130)])  # fmt: skip
    centre = outer.mean(axis=0)
    inner = (outer - centre) * (0.885, 0.86) + centre + (0, 4)
    bridge = curve([(520, 96), (600, 78), (680, 96), (672, 150), (636, 128), (600, 122), (564, 128), (528, 150)])
    temple = curve([(8, 92), (80, 78), (116, 96), (104, 150), (60, 142), (10, 124)])
    frame = mask((width, height), outer, mirrored(outer, width), bridge, temple, mirrored(temple, width))
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
    eyes = ([36, 37, 38, 39, 40, 41], [42, 43, 44, 45, 46, 47])
    write("sunglasses", picture, [{"points": eyes[0], "at": [318, 208]}, {"points": eyes[1], "at": [881, 208]}])


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
    write(
        "moustache",
        picture,
        [{"points": [48], "at": [262, 268]}, {"points": [54], "at": [737, 268]}, {"points": [33], "at": [499.5, 62]}],
    )


if __name__ == "__main__":
    sunglasses()
    moustache()
