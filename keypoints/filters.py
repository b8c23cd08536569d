"""Filters: pictures with transparency that sit on a face and follow its place, size and roll.

A filter is a PNG with alpha and, beside it, a JSON file of the same name that says which points of the face hold it:
``{"anchors": [{"points": [36, 37, 38, 39, 40, 41], "at": [340, 205]}, …]}``: the mean of these keypoints lies on that
pixel of the picture. A new one in ``data/filters/`` needs no code.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from data_load import DATA_DIR, NUM_KEYPOINTS

FILTER_DIR = DATA_DIR / "filters"


@dataclass(frozen=True)
class Filter:
    """A picture to put on a face.

    Attributes:
        picture: (H, W, 4) uint8 RGBA, not premultiplied.
        points: one tuple of keypoint indices for each anchor, at least two anchors.
        at: (A, 2) float64, pixels of the picture: where each anchor lies.
    """

    name: str
    picture: np.ndarray
    points: tuple[tuple[int, ...], ...]
    at: np.ndarray


def filter_names(folder: str | Path = FILTER_DIR) -> list[str]:
    """The filters that lie in a folder, sorted."""
    return sorted(file.stem for file in Path(folder).glob("*.json"))


def load_filter(name: str, folder: str | Path = FILTER_DIR) -> Filter:
    """Read a filter by its name.

    Raises:
        ValueError: an unknown name (the known ones are listed), or a file that is not a filter's.
    """
    if name not in filter_names(folder):
        raise ValueError(f"got filter {name!r}, expected one of {', '.join(filter_names(folder))}")
    description, picture_file = Path(folder) / f"{name}.json", Path(folder) / f"{name}.png"
    try:
        anchors = json.loads(description.read_text(encoding="utf-8"))["anchors"]
        points = tuple(tuple(int(i) for i in anchor["points"]) for anchor in anchors)
        at = np.array([anchor["at"] for anchor in anchors], np.float64).reshape(len(points), 2)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{description}: expected anchors with points and at, got: {error!r}") from None
    if len(points) < 2 or not all(group and set(group) <= set(range(NUM_KEYPOINTS)) for group in points):
        raise ValueError(
            f"{description}: got anchors {points}, expected two or more of keypoints 0 to {NUM_KEYPOINTS - 1}"
        )
    picture = cv2.imdecode(np.frombuffer(picture_file.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.ndim != 3 or picture.shape[2] != 4 or picture.dtype != np.uint8:
        raise ValueError(f"{picture_file}: expected a PNG with red, green, blue and alpha of 8 bits")
    return Filter(name, cv2.cvtColor(picture, cv2.COLOR_BGRA2RGBA), points, at)


def filter_matrix(effect: Filter, keypoints: np.ndarray) -> np.ndarray:
    """How the picture comes onto the face: turned, scaled and moved, such that the anchors fit best.

    Args:
        keypoints: (68, 2) pixels of the image.

    Returns:
        (2, 3) float64: pixel of the picture (x, y, 1) → pixel of the image.
    """
    source = effect.at[:, 0] + 1j * effect.at[:, 1]
    target = np.array([np.asarray(keypoints, np.float64)[list(group)].mean(axis=0) for group in effect.points])
    target = target[:, 0] + 1j * target[:, 1]
    # With points as complex numbers a similarity is z → a z + b, and least squares has a closed form.
    centred = source - source.mean()
    a = (centred.conj() @ (target - target.mean())) / (centred.conj() @ centred).real
    b = target.mean() - a * source.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def apply_filter(image: np.ndarray, keypoints: np.ndarray, effect: Filter | str) -> np.ndarray:
    """Put a filter on one face.

    Args:
        image: (H, W, 3) uint8 RGB; it stays as it is.
        keypoints: (68, 2) pixels.
        effect: a filter or its name.

    Returns:
        a new (H, W, 3) uint8 RGB image.
    """
    effect = load_filter(effect) if isinstance(effect, str) else effect
    matrix = filter_matrix(effect, keypoints)
    picture = effect.picture.astype(np.float32) / 255
    picture[..., :3] *= picture[..., 3:]  # premultiplied: colour hidden under alpha 0 must not bleed into soft edges
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < 1:  # a warp alone would skip pixels: bring the picture near its final size first, by averaging
        small = np.maximum(1, np.round(np.array(picture.shape[1::-1]) * scale)).astype(int)
        factor = small / picture.shape[1::-1]
        picture = cv2.resize(picture, (int(small[0]), int(small[1])), interpolation=cv2.INTER_AREA)
        # x_small = (x + 0.5) factor - 0.5, undone before the matrix applies
        undo = np.array(
            [[1 / factor[0], 0, 0.5 / factor[0] - 0.5], [0, 1 / factor[1], 0.5 / factor[1] - 0.5], [0, 0, 1]]
        )
        matrix = matrix @ undo
    layer = cv2.warpAffine(picture, matrix, image.shape[1::-1], flags=cv2.INTER_LINEAR)
    blended = layer[..., :3] * 255 + image * (1 - layer[..., 3:])
    return np.clip(np.round(blended), 0, 255).astype(np.uint8)
