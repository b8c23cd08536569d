"""The 68-point scheme of iBUG 300-W, in one place: parts, lines between the points, mirror image, a face in 3-D.

Indices count from 0. Left and right are the *person's*: the right eye lies on the left of the picture. A picture of the
scheme is in notebook 1.
"""

from __future__ import annotations

import numpy as np

NUM_KEYPOINTS = 68
IMAGE_SIZE = 224  # pixels a side of the view that a network for whole faces sees
KEYPOINT_MEAN, KEYPOINT_STD = 100.0, 50.0  # pixels: network units are (pixels - 100) / 50

JAW = slice(0, 17)  # from the person's right ear over the chin (8) to the left ear
RIGHT_BROW = slice(17, 22)
LEFT_BROW = slice(22, 27)
NOSE = slice(27, 36)  # bridge 27–30 downwards, nostrils 31–35
RIGHT_EYE = slice(36, 42)  # outer corner 36, inner corner 39
LEFT_EYE = slice(42, 48)  # inner corner 42, outer corner 45
MOUTH = slice(48, 68)  # outer lips 48–59, inner lips 60–67

PARTS: dict[str, slice] = {
    "jaw": JAW,
    "right brow": RIGHT_BROW,
    "left brow": LEFT_BROW,
    "nose": NOSE,
    "right eye": RIGHT_EYE,
    "left eye": LEFT_EYE,
    "mouth": MOUTH,
}

# What errors are told for: both brows and both eyes together, and all points but the jaw's, which are the hardest to
# label.
REGIONS: dict[str, slice] = {
    "jaw": JAW,
    "brows": slice(RIGHT_BROW.start, LEFT_BROW.stop),
    "nose": NOSE,
    "eyes": slice(RIGHT_EYE.start, LEFT_EYE.stop),
    "mouth": MOUTH,
    "inner 51": slice(JAW.stop, MOUTH.stop),
}

NOSE_TIP, CHIN = 30, 8
EYE_CORNERS = (36, 45)  # the outer ones: NME_iod's normaliser

# Lines to draw through the points; eyes and lips are closed.
BONES: tuple[tuple[int, ...], ...] = (
    tuple(range(17)),
    tuple(range(17, 22)),
    tuple(range(22, 27)),
    tuple(range(27, 31)),
    tuple(range(31, 36)),
    (*range(36, 42), 36),
    (*range(42, 48), 42),
    (*range(48, 60), 48),
    (*range(60, 68), 60),
)


# Point i of a mirrored face is point FLIP_INDEX[i] of the face.
# fmt: off
FLIP_INDEX = np.array([
    16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0,  # jaw
    26, 25, 24, 23, 22,  # right brow
    21, 20, 19, 18, 17,  # left brow
    27, 28, 29, 30, 35, 34, 33, 32, 31,  # nose
    45, 44, 43, 42, 47, 46,  # right eye
    39, 38, 37, 36, 41, 40,  # left eye
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55,  # outer lips
    64, 63, 62, 61, 60, 67, 66, 65,  # inner lips
])
# fmt: on

# A neutral adult head in 3-D: the mean over sexes, ages and origins of the CC0 mesh that data/sample/render.py
# shapes. x to the right of the picture (the face looks at the camera), y down, z away from the camera; the origin is
# the middle of the outer eye corners, the unit their distance. Left-right symmetric.
# fmt: off
REFERENCE_FACE = np.array([
    (-0.785, -0.003, 0.464), (-0.797, 0.202, 0.519), (-0.761, 0.414, 0.389), (-0.739, 0.608, 0.509),
    (-0.688, 0.812, 0.562), (-0.543, 0.982, 0.254), (-0.411, 1.166, 0.431), (-0.205, 1.254, 0.181),
    (0.000, 1.295, 0.240), (0.205, 1.254, 0.181), (0.411, 1.166, 0.431), (0.543, 0.982, 0.254),
    (0.688, 0.812, 0.562), (0.739, 0.608, 0.509), (0.761, 0.414, 0.389), (0.797, 0.202, 0.519),
    (0.785, -0.003, 0.464), (-0.680, -0.149, 0.129), (-0.572, -0.233, -0.035), (-0.428, -0.249, -0.140),
    (-0.280, -0.232, -0.195), (-0.139, -0.179, -0.202), (0.139, -0.179, -0.202), (0.280, -0.232, -0.195),
    (0.428, -0.249, -0.140), (0.572, -0.233, -0.035), (0.680, -0.149, 0.129), (0.000, 0.012, -0.181),
    (0.000, 0.138, -0.231), (0.000, 0.295, -0.334), (0.000, 0.450, -0.395), (-0.146, 0.505, -0.214),
    (-0.080, 0.536, -0.248), (0.000, 0.559, -0.276), (0.080, 0.536, -0.248), (0.146, 0.505, -0.214),
    (-0.500, 0.000, 0.000), (-0.439, -0.041, -0.052), (-0.312, -0.046, -0.072), (-0.188, 0.031, -0.066),
    (-0.317, 0.047, -0.077), (-0.444, 0.045, -0.059), (0.188, 0.031, -0.066), (0.312, -0.046, -0.072),
    (0.439, -0.041, -0.052), (0.500, 0.000, 0.000), (0.444, 0.045, -0.059), (0.317, 0.047, -0.077),
    (-0.298, 0.786, -0.135), (-0.164, 0.720, -0.251), (-0.058, 0.682, -0.292), (0.000, 0.709, -0.298),
    (0.058, 0.682, -0.292), (0.164, 0.720, -0.251), (0.298, 0.786, -0.135), (0.152, 0.861, -0.222),
    (0.075, 0.907, -0.232), (0.000, 0.910, -0.241), (-0.075, 0.907, -0.232), (-0.152, 0.861, -0.222),
    (-0.264, 0.780, -0.122), (-0.097, 0.773, -0.220), (0.000, 0.787, -0.203), (0.097, 0.773, -0.220),
    (0.264, 0.780, -0.122), (0.070, 0.785, -0.200), (0.000, 0.790, -0.210), (-0.070, 0.785, -0.200),
])
# fmt: on
# (68, 3): its x and y, and 1.
FRONT_FACE = np.column_stack([REFERENCE_FACE[:, :2], np.ones(len(REFERENCE_FACE))])


def fit_front(keypoints: np.ndarray) -> np.ndarray:
    """Fit the reference face's front view to known points by least squares.

    Args:
        keypoints: (N, 68, 2) pixels, NaN where missing.

    Returns:
        (N, 3, 2) float64 affine maps: ``FRONT_FACE @ maps[i]`` lies nearest to face i.
    """
    keypoints = np.asarray(keypoints, np.float64)
    known = np.isfinite(keypoints).all(axis=-1)
    if known.all():
        return np.linalg.pinv(FRONT_FACE) @ keypoints
    fits = [np.linalg.pinv(FRONT_FACE[has]) @ face[has] for face, has in zip(keypoints, known, strict=True)]
    return np.stack(fits)


def complete_keypoints(keypoints: np.ndarray) -> np.ndarray:
    """Put estimates where points are missing: those of the reference face, fitted to the known points.

    They are good enough for a face's box and size, and for nothing else.

    Args:
        keypoints: (N, 68, 2) or (68, 2) pixels, NaN where missing.

    Returns:
        the same shape and dtype; the array itself where nothing is missing. A face without any known point stays NaN.
    """
    keypoints = np.asarray(keypoints)
    missing = ~np.isfinite(keypoints).all(axis=-1, keepdims=True)
    if not missing.any():
        return keypoints
    faces = keypoints.reshape(-1, *keypoints.shape[-2:])
    estimates = (FRONT_FACE @ fit_front(faces)).reshape(keypoints.shape).astype(keypoints.dtype)
    hopeless = missing.all(axis=-2, keepdims=True)
    return np.where(missing & ~hopeless, estimates, keypoints)


def flip_keypoints(keypoints: np.ndarray, width: float) -> np.ndarray:
    """Mirror left and right: (…, 68, 2) pixels in an image ``width`` pixels wide."""
    flipped = np.asarray(keypoints)[..., FLIP_INDEX, :].copy()
    flipped[..., 0] = width - 1 - flipped[..., 0]
    return flipped


def face_size(keypoints: np.ndarray, normaliser: str = "box") -> np.ndarray:
    """The size of each face in pixels.

    Args:
        keypoints: (N, 68, 2) or (68, 2), pixels; missing points (NaN) are estimated from the known ones.
        normaliser: 'box' or 'iod'.

    Returns:
        (N,) or a scalar.
    """
    keypoints = complete_keypoints(np.asarray(keypoints, np.float64))
    if normaliser == "box":
        return np.sqrt(np.ptp(keypoints, axis=-2).prod(axis=-1))
    if normaliser == "iod":
        return np.linalg.norm(keypoints[..., EYE_CORNERS[0], :] - keypoints[..., EYE_CORNERS[1], :], axis=-1)
    raise ValueError(f"got normaliser {normaliser!r}, expected 'box' or 'iod'")
