"""The 68-point scheme of iBUG 300-W, in one place: parts, lines between the points, mirror image, a face in 3-D.

Indices count from 0. Left and right are the *person's*: the right eye lies on the left of the picture. A picture of the
scheme is in notebook 1.
"""

from __future__ import annotations

import numpy as np

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
    (-0.765, 0.083, 0.321), (-0.793, 0.253, 0.509), (-0.754, 0.431, 0.401), (-0.736, 0.661, 0.544),
    (-0.691, 0.842, 0.612), (-0.592, 1.028, 0.489), (-0.475, 1.188, 0.650), (-0.248, 1.284, 0.235),
    (0.000, 1.360, 0.372), (0.248, 1.284, 0.235), (0.475, 1.188, 0.650), (0.592, 1.028, 0.489),
    (0.691, 0.842, 0.612), (0.736, 0.661, 0.544), (0.754, 0.431, 0.401), (0.793, 0.253, 0.509),
    (0.765, 0.083, 0.321), (-0.592, -0.100, -0.001), (-0.486, -0.198, -0.119), (-0.392, -0.215, -0.169),
    (-0.293, -0.218, -0.199), (-0.123, -0.145, -0.200), (0.123, -0.145, -0.200), (0.293, -0.218, -0.199),
    (0.392, -0.215, -0.169), (0.486, -0.198, -0.119), (0.592, -0.100, -0.001), (0.000, 0.021, -0.187),
    (0.000, 0.149, -0.238), (0.000, 0.305, -0.344), (0.000, 0.461, -0.407), (-0.146, 0.508, -0.220),
    (-0.080, 0.537, -0.255), (0.000, 0.558, -0.284), (0.080, 0.537, -0.255), (0.146, 0.508, -0.220),
    (-0.500, 0.000, 0.000), (-0.439, -0.036, -0.054), (-0.312, -0.038, -0.074), (-0.188, 0.037, -0.068),
    (-0.318, 0.049, -0.080), (-0.444, 0.046, -0.061), (0.188, 0.037, -0.068), (0.312, -0.038, -0.074),
    (0.439, -0.036, -0.054), (0.500, 0.000, 0.000), (0.444, 0.046, -0.061), (0.318, 0.049, -0.080),
    (-0.298, 0.828, -0.140), (-0.166, 0.741, -0.261), (-0.059, 0.695, -0.307), (0.000, 0.727, -0.315),
    (0.059, 0.695, -0.307), (0.166, 0.741, -0.261), (0.298, 0.828, -0.140), (0.154, 0.896, -0.233),
    (0.076, 0.946, -0.244), (0.000, 0.950, -0.254), (-0.076, 0.946, -0.244), (-0.154, 0.896, -0.233),
    (-0.264, 0.821, -0.125), (-0.098, 0.798, -0.227), (0.000, 0.815, -0.210), (0.098, 0.798, -0.227),
    (0.264, 0.821, -0.125), (0.071, 0.813, -0.207), (0.000, 0.818, -0.217), (-0.071, 0.813, -0.207),
])
# fmt: on


def flip_keypoints(keypoints: np.ndarray, width: float) -> np.ndarray:
    """Mirror left and right: (…, 68, 2) pixels in an image ``width`` pixels wide."""
    flipped = np.asarray(keypoints)[..., FLIP_INDEX, :].copy()
    flipped[..., 0] = width - 1 - flipped[..., 0]
    return flipped
