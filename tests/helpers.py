"""Hand-made faces and painted dots for the tests."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from data_load import NUM_KEYPOINTS

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = ROOT / "data" / "photos"
SHIPPED = ROOT / "saved_models" / "keypoints_model_1.safetensors"


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
