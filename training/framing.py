"""The framing of a network, measured on training images: where its view of a face lies relative to the box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np

from keypoints.detectors import HaarDetector
from keypoints.geometry import BOX, with_roll
from keypoints.landmarks import IMAGE_SIZE, face_size
from keypoints.network import Framing


def measure_framing(samples: Sequence[dict], detect: Callable[[np.ndarray], np.ndarray] | None = None) -> Framing:
    """Find the framing that shows the network faces as its training images did.

    Args:
        samples: the training set without transforms. Training sees 224 of each image's shorter side of 250 pixels, on
            average the middle ones.
        detect: a detector as :mod:`keypoints.detectors` describes it, by default :class:`HaarDetector`. A roll that
            its boxes have is left out: training images show faces upright.

    Raises:
        ValueError: the detector finds a face in none of them.
    """
    detect, rows = detect or HaarDetector(), []
    for i in range(0, len(samples), max(1, len(samples) // 500)):  # evenly spread; a median needs no more
        sample = samples[i]
        image, keypoints = sample["image"], sample["keypoints"]
        boxes = with_roll(detect(image))
        chosen = face_at(boxes, keypoints)
        if chosen is None:
            continue
        left, top, width, height = boxes[chosen, :BOX].astype(np.float64)
        haar, size = np.sqrt(width * height), face_size(keypoints)
        x, y = left + width / 2, top + height / 2
        middle = (keypoints.min(axis=0) + keypoints.max(axis=0)) / 2 + 0.5
        rows.append(
            (
                (IMAGE_SIZE / 250) * min(image.shape[:2]) / haar,
                (image.shape[1] / 2 - x) / haar,
                (image.shape[0] / 2 - y) / haar,
                haar / size,
                (x - middle[0]) / size,
                (y - middle[1]) / size,
            )
        )
    if not rows:
        raise ValueError("got no image in which the detector finds the face, expected at least one")
    return Framing(*(round(float(value), 4) for value in np.median(rows, axis=0)))


def face_at(boxes: np.ndarray, keypoints: np.ndarray) -> int | None:
    """Which of (N, 4) boxes left, top, width, height, or (N, 5) with the roll, holds the keypoints' centroid.

    Returns:
        the index of the box whose middle is nearest; None where none holds it.
    """
    boxes, centroid = with_roll(boxes).astype(np.float64), np.asarray(keypoints).mean(axis=0)
    roll, offset = np.radians(boxes[:, BOX]), centroid - boxes[:, :2] - boxes[:, 2:BOX] / 2
    along = np.stack([np.cos(roll), np.sin(roll)], axis=1)  # the box's own axes: the first, and the other
    across = np.stack([-np.sin(roll), np.cos(roll)], axis=1)
    offset = np.abs(np.stack([(offset * along).sum(axis=1), (offset * across).sum(axis=1)], axis=1))
    inside = np.flatnonzero((offset <= boxes[:, 2:BOX] / 2).all(axis=1))
    return int(inside[np.linalg.norm(offset[inside], axis=1).argmin()]) if inside.size else None


def nearest_face(faces: np.ndarray | Sequence, keypoints: np.ndarray) -> np.ndarray:
    """The one of (N, 68, 2) faces whose tight box holds the keypoints' centroid, see :func:`face_at`; else NaN."""
    faces = np.asarray(faces).reshape(-1, *np.shape(keypoints))
    chosen = face_at(np.concatenate([faces.min(axis=1), np.ptp(faces, axis=1)], axis=1), keypoints)
    return np.full_like(keypoints, np.nan) if chosen is None else faces[chosen]


def framing_dict(framing: Framing) -> dict:
    """The framing as the weights' file keeps it (``net.framing``)."""
    return asdict(framing)
