"""Boxes, similarities and crops. Positions are (x, y) in pixels, and integers are the centres of pixels."""

from __future__ import annotations

import numpy as np

from keypoints.landmarks import LEFT_EYE, REFERENCE_FACE, RIGHT_EYE

FIVE = (30, 48, 54)  # beside the eyes: tip of the nose, right and left corner of the mouth
FACE_SHARE = 0.6  # of the crop's side: the size of the face in it (square root of the area of its keypoints' box)


def five_points(keypoints: np.ndarray) -> np.ndarray:
    """Right eye, left eye, nose tip, right and left corner of the mouth: (…, 68, 2) → (…, 5, 2)."""
    keypoints = np.asarray(keypoints)
    eyes = [keypoints[..., part, :].mean(axis=-2) for part in (RIGHT_EYE, LEFT_EYE)]
    return np.stack([*eyes, *(keypoints[..., i, :] for i in FIVE)], axis=-2)


def _reference_crop() -> np.ndarray:
    """Where the five points of an upright neutral face lie in a crop of side 1: (5, 2) float64."""
    face = REFERENCE_FACE[:, :2]
    low, high = face.min(axis=0), face.max(axis=0)
    side = np.sqrt(np.prod(high - low)) / FACE_SHARE
    return (five_points(face) - (low + high) / 2) / side + 0.5


REFERENCE_FIVE = _reference_crop()


def fit_similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation, scale and shift that bring points nearest to others, by least squares (Umeyama, 1991).

    Args:
        source: (N, K, 2); target: (N, K, 2) or (K, 2).

    Returns:
        (N, 2, 3) float64: ``matrix @ (x, y, 1)`` of a source point is near its target.
    """
    source = np.asarray(source, np.float64)
    target = np.broadcast_to(np.asarray(target, np.float64), source.shape)
    middle, there = source.mean(axis=1), target.mean(axis=1)
    a, b = source - middle[:, None], target - there[:, None]
    spread = np.maximum((a**2).sum(axis=(1, 2)), 1e-12)
    cosine = (a * b).sum(axis=(1, 2)) / spread
    sine = (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]).sum(axis=1) / spread
    linear = np.stack([np.stack([cosine, -sine], axis=1), np.stack([sine, cosine], axis=1)], axis=1)
    shift = there - (linear @ middle[..., None])[..., 0]
    return np.concatenate([linear, shift[..., None]], axis=2)


def face_crop(five: np.ndarray, side: int) -> np.ndarray:
    """The similarity from an image to the levelled crop of a face, ``side`` pixels wide.

    Args:
        five: (N, 5, 2) pixels of the image: right eye, left eye, nose tip, right and left corner of the mouth.

    Returns:
        (N, 2, 3) float64.
    """
    return fit_similarity(five, REFERENCE_FIVE * side - 0.5)
