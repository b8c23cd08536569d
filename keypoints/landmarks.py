"""The 68-point scheme of iBUG 300-W, in one place: parts, lines between the points, mirror image, a face in 3-D.

Indices count from 0. Left and right are the *person's*: the right eye lies on the left of the picture. A picture of the
scheme is in notebook 1.
"""

from __future__ import annotations

import numpy as np

from data_load import NUM_KEYPOINTS

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


def _flip_index() -> np.ndarray:
    index = np.arange(NUM_KEYPOINTS)
    for left, right in (
        *((i, 16 - i) for i in range(8)),
        *((17 + i, 26 - i) for i in range(5)),
        (31, 35),
        (32, 34),
        (36, 45),
        (37, 44),
        (38, 43),
        (39, 42),
        (40, 47),
        (41, 46),
        (48, 54),
        (49, 53),
        (50, 52),
        (59, 55),
        (58, 56),
        (60, 64),
        (61, 63),
        (67, 65),
    ):
        index[left], index[right] = right, left
    return index


FLIP_INDEX = _flip_index()  # point i of a mirrored face is point FLIP_INDEX[i] of the face


def flip_keypoints(keypoints: np.ndarray, width: float) -> np.ndarray:
    """Mirror left and right: (…, 68, 2) pixels in an image ``width`` pixels wide."""
    flipped = np.asarray(keypoints)[..., FLIP_INDEX, :].copy()
    flipped[..., 0] = width - 1 - flipped[..., 0]
    return flipped
