"""Hand-made faces and painted dots for the tests."""

from __future__ import annotations

import csv
import struct
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_load import NUM_KEYPOINTS

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = ROOT / "data" / "photos"
SHIPPED = ROOT / "saved_models" / "keypoints_model_1.safetensors"
ASTRONAUT, HOPPER = PHOTOS / "astronaut.jpg", PHOTOS / "grace_hopper.jpg"
CLIP = ROOT / "data" / "sample" / "clip.mp4"
TRAINING = ("train", "evaluate", "failures", "export")  # commands of `python -m training`


def package_of(command: str) -> str:
    return "training" if command.split()[0] in TRAINING else "keypoints"


def command_line(command: str, *arguments: object) -> int:
    """Run `python -m keypoints` or `python -m training` in this process; ``command`` may hold options, too."""
    from keypoints.__main__ import main as keypoints
    from training.__main__ import main as training

    main = training if package_of(command) == "training" else keypoints
    return main([*command.split(), *map(str, arguments)])


@contextmanager
def refused(sentence: str, start: object = "") -> Iterator[pytest.ExceptionInfo]:
    """Expect a ValueError of one line, at most 1,000 letters long, that matches and begins with ``start``."""
    with pytest.raises(ValueError, match=sentence) as caught:
        yield caught
    text = str(caught.value)
    assert text.startswith(str(start)) and "\n" not in text and len(text) < 1000, text


def read_csv(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def write_clip(path: str | Path, frames: int = 12) -> Path:
    """Write the first frames of the sample's clip into a video of their own."""
    from keypoints.video import Video, VideoFile

    out = VideoFile(path, 25, (320, 320))
    with closing(Video(CLIP)) as video:
        for time, frame in islice(video, frames):
            out.write(frame, time)
    out.close()
    return out.path


def file_names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def _ellipse(x: float, y: float, width: float, height: float, start: float, end: float, number: int) -> np.ndarray:
    angle = np.radians(np.linspace(start, end, number))
    return np.stack([x - width * np.cos(angle), y - height * np.sin(angle)], axis=1)


# A frontal face with its tight box from -1 to 1, roughly; angles run from the left of the picture over the top.
FACE = np.concatenate(
    [
        _ellipse(0, -0.3, 1, 1.3, 0, -180, 17),
        _ellipse(-0.5, -0.75, 0.32, 0.15, 20, 160, 5),
        _ellipse(0.5, -0.75, 0.32, 0.15, 20, 160, 5),
        np.stack([np.zeros(4), np.linspace(-0.45, 0.05, 4)], axis=1),
        _ellipse(0, 0.15, 0.22, 0.08, 0, -180, 5),
        _ellipse(-0.45, -0.45, 0.18, 0.08, 0, 300, 6),
        _ellipse(0.45, -0.45, 0.18, 0.08, 0, 300, 6),
        _ellipse(0, 0.5, 0.4, 0.2, 0, 330, 12),
        _ellipse(0, 0.5, 0.28, 0.08, 0, 315, 8),
    ]
).astype(np.float32)
assert FACE.shape == (NUM_KEYPOINTS, 2)


def face_points(x: float, y: float, size: float) -> np.ndarray:
    """The 68 points of a face around (x, y), about twice ``size`` pixels wide."""
    return (FACE * size + np.array([x, y])).astype(np.float32)


def paint_dot(height: int, width: int, x: float, y: float, sigma: float = 3) -> np.ndarray:
    """A bright Gaussian spot on black with its middle at (x, y), fractions of a pixel included: (H, W, 3) uint8."""
    row, column = np.mgrid[:height, :width]
    spot = np.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * sigma**2))
    return np.repeat(np.round(255 * spot).astype(np.uint8)[..., None], 3, axis=2)


def find_dot(image: np.ndarray) -> np.ndarray:
    """(x, y) of a spot's middle, by the centre of mass of the brightness."""
    grey = np.asarray(image, np.float64)
    grey = grey.mean(axis=2) if grey.ndim == 3 else grey
    row, column = np.mgrid[: grey.shape[0], : grey.shape[1]]
    return np.array([(column * grey).sum(), (row * grey).sum()]) / grey.sum()


def write_set(root: Path, split: str, names: list[str], images: list[np.ndarray], keypoints: np.ndarray) -> None:
    """Write one split in the official layout; images are stored without loss, as PNG named .jpg."""
    (root / split).mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, images, strict=True):
        png = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
        (root / split / name).write_bytes(png.tobytes())
    write_labels(root / f"{split}_frames_keypoints.csv", names, keypoints)


def write_labels(path: Path, names: list[str], keypoints: np.ndarray) -> None:
    rows = [f"{name},{','.join(f'{v:.4f}' for v in k.ravel())}" for name, k in zip(names, keypoints, strict=True)]
    path.write_text("\n".join([csv_header(), *rows]) + "\n", encoding="utf-8")


def csv_header() -> str:
    return "," + ",".join(str(i) for i in range(2 * NUM_KEYPOINTS))


def png_head(width: int, height: int) -> bytes:
    """The beginning of a PNG that promises an image of this size and holds nothing of it."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return head + struct.pack(">I4s", 99, b"IDAT")


@cache
def faceless_pictures() -> dict[str, np.ndarray]:
    """43 pictures of anything but faces, drawn by code: name → (360, 480, 3) uint8 RGB. They are always the same."""
    random, pictures = np.random.default_rng(0), {}
    y, x = np.mgrid[:360, :480].astype(np.float32)

    def colour(grey: np.ndarray, tint: tuple[float, float, float] = (1, 1, 1)) -> np.ndarray:
        return np.clip(grey[..., None] * np.array(tint), 0, 255).astype(np.uint8)

    def clouds(octaves: int) -> np.ndarray:
        layers = [
            cv2.resize(random.random((3 * 2**n, 4 * 2**n)), (480, 360), interpolation=cv2.INTER_CUBIC) / 2**n
            for n in range(octaves)
        ]
        return np.clip(cv2.normalize(sum(layers), None, 0, 1, cv2.NORM_MINMAX), 0, 1)

    for n in range(6):
        sky = 255 * (0.45 + 0.35 * y / 360 + 0.3 * (clouds(3 + n) - 0.5))
        pictures[f"sky {n}"] = colour(sky, (0.7 + 0.05 * n, 0.85, 1))
    for n, slope in enumerate((x / 480, y / 360, (x + y) / 840, np.hypot(x - 240, y - 180) / 300)):
        pictures[f"gradient {n}"] = colour(255 * slope, (1, 0.9, 0.7))
    for n in range(6):
        pictures[f"texture {n}"] = colour(255 * clouds(7) ** (1 + n / 3), (0.9, 0.8, 0.6 + n / 20))
    for n, sigma in enumerate((0, 1, 2, 4, 8)):
        grain = random.normal(0, 1, (360, 480)).astype(np.float32)
        grain = cv2.GaussianBlur(grain, (0, 0), sigma) if sigma else grain
        pictures[f"noise {n}"] = colour(128 + 50 * grain / grain.std())
    for n, (angle, period) in enumerate(((0, 12), (90, 30), (45, 18), (20, 60), (70, 7))):
        along = x * np.cos(np.radians(angle)) + y * np.sin(np.radians(angle))
        pictures[f"stripes {n}"] = colour(128 + 110 * np.sin(2 * np.pi * along / period), (1, 0.95, 0.9))
    for n, side in enumerate((8, 20, 45, 90)):
        pictures[f"checkerboard {n}"] = colour(255.0 * ((x // side + y // side) % 2))
    for n, animal in enumerate((_fish, _bird, _horse, _butterfly, _snail, _elephant)):
        picture = colour(200 + 40 * clouds(5), (0.8, 1, 0.75))
        pictures[f"animal {n}"] = animal(picture, (90 + 10 * n, 70, 50))
    for n, (size, thickness) in enumerate(((0.4, 1), (0.7, 1), (1.0, 2), (1.6, 3), (2.5, 4), (4.0, 9), (0.5, 1))):
        picture = np.full((360, 480, 3), 255 if n % 2 else 235, np.uint8)
        for row in range(1, int(360 / (34 * size)) + 2):
            words = "".join(random.choice(list("abcdefghijklmnopqrstuvwxyz     OQ80%&"), 70))
            font = cv2.FONT_HERSHEY_COMPLEX if n % 2 else cv2.FONT_HERSHEY_SIMPLEX
            cv2.putText(picture, words, (8, int(34 * size * row)), font, size, (30, 30, 40), thickness, cv2.LINE_AA)
        pictures[f"text {n}"] = picture
    assert len(pictures) == 43
    return pictures


def _ellipses(picture: np.ndarray, colour: tuple[int, int, int], *shapes: tuple[int, int, int, int, int]) -> None:
    """Filled ellipses: middle x and y, both half axes, and the angle in degrees."""
    for x, y, width, height, angle in shapes:
        cv2.ellipse(picture, (x, y), (width, height), angle, 0, 360, colour, -1, cv2.LINE_AA)


def _fish(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    _ellipses(picture, colour, (230, 180, 130, 60, 0))
    cv2.fillPoly(picture, [np.array([(340, 180), (430, 110), (430, 250)])], colour, cv2.LINE_AA)
    _ellipses(picture, (255, 255, 255), (150, 165, 12, 12, 0))
    _ellipses(picture, (0, 0, 0), (148, 165, 6, 6, 0))
    return picture


def _bird(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    _ellipses(picture, colour, (260, 200, 100, 50, -20), (170, 150, 36, 34, 0), (290, 180, 70, 24, 30))
    cv2.fillPoly(picture, [np.array([(140, 145), (140, 165), (95, 160)])], (230, 170, 40), cv2.LINE_AA)
    _ellipses(picture, (0, 0, 0), (160, 142, 5, 5, 0))
    for x in (250, 280):
        cv2.line(picture, (x, 245), (x, 320), (120, 80, 30), 4, cv2.LINE_AA)
    return picture


def _horse(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    _ellipses(picture, colour, (260, 190, 110, 50, 0), (150, 140, 26, 70, 35), (110, 95, 42, 20, 25))
    for x in (180, 210, 310, 345):
        cv2.line(picture, (x, 210), (x, 330), colour, 16, cv2.LINE_AA)
    _ellipses(picture, (0, 0, 0), (100, 88, 4, 4, 0))
    return picture


def _butterfly(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    for side in (-1, 1):
        _ellipses(picture, (230, 140, 40), (240 + side * 80, 130, 80, 55, side * 35), (240 + side * 60, 240, 55, 45, 0))
        _ellipses(picture, (250, 240, 220), (240 + side * 100, 120, 20, 16, 0), (240 + side * 65, 245, 14, 14, 0))
    _ellipses(picture, colour, (240, 190, 12, 90, 0))
    return picture


def _snail(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    _ellipses(picture, colour, (230, 260, 150, 28, 0))
    for radius in range(90, 10, -16):
        shade = (150 + radius % 32 * 3, 110, 70)
        _ellipses(picture, shade, (250, 180, radius, radius, 0))
    cv2.line(picture, (95, 250), (70, 190), colour, 6, cv2.LINE_AA)
    cv2.line(picture, (110, 245), (100, 185), colour, 6, cv2.LINE_AA)
    return picture


def _elephant(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    _ellipses(picture, (140, 140, 150), (290, 170, 120, 80, 0), (150, 140, 62, 58, 0), (100, 230, 18, 80, 10))
    for x in (220, 260, 330, 370):
        cv2.line(picture, (x, 220), (x, 335), (140, 140, 150), 34, cv2.LINE_AA)
    _ellipses(picture, colour, (185, 140, 34, 48, 0))
    _ellipses(picture, (0, 0, 0), (125, 125, 5, 5, 0))
    return picture
