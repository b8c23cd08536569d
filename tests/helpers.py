"""Hand-made faces, painted dots, small sets and commands for the tests."""

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
from sklearn.datasets import load_sample_images

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


def png(image: np.ndarray) -> bytes:
    """An RGB uint8 image as a PNG file."""
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def write_set(root: Path, split: str, names: list[str], images: list[np.ndarray], keypoints: np.ndarray) -> None:
    """Write one split in the official layout; images are stored without loss, as PNG named .jpg."""
    _write_images(root / split, names, images)
    write_labels(root / f"{split}_frames_keypoints.csv", names, keypoints)


def write_wild(folder: Path, names: list[str], images: list[np.ndarray], keypoints: np.ndarray) -> None:
    """Write a wild set: photos, and their labels beside them."""
    _write_images(folder, names, images)
    write_labels(folder / "wild_keypoints.csv", names, keypoints)


def _write_images(folder: Path, names: list[str], images: list[np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, images, strict=True):
        (folder / name).write_bytes(png(image))


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
    """Pictures of anything but faces, two photographs and drawings, always the same: name → (H, W, 3) uint8 RGB."""
    random, pictures = (
        np.random.default_rng(0),
        dict(zip(("temple", "flower"), load_sample_images().images, strict=True)),
    )
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
    for n, (size, thickness) in enumerate(((0.4, 1), (0.7, 1), (1.0, 2), (1.6, 3), (2.5, 4), (4.0, 9), (0.5, 1))):
        picture = np.full((360, 480, 3), 255 if n % 2 else 235, np.uint8)
        for row in range(1, int(360 / (34 * size)) + 2):
            words = "".join(random.choice(list("abcdefghijklmnopqrstuvwxyz     OQ80%&"), 70))
            font = cv2.FONT_HERSHEY_COMPLEX if n % 2 else cv2.FONT_HERSHEY_SIMPLEX
            cv2.putText(picture, words, (8, int(34 * size * row)), font, size, (30, 30, 40), thickness, cv2.LINE_AA)
        pictures[f"text {n}"] = picture
    return pictures
