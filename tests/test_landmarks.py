from __future__ import annotations

import cv2
import numpy as np
from helpers import FACE, face_points, find_dot, paint_dot

from keypoints.landmarks import (
    BONES,
    CHIN,
    EYE_CORNERS,
    FLIP_INDEX,
    LEFT_EYE,
    NOSE_TIP,
    PARTS,
    REFERENCE_FACE,
    RIGHT_EYE,
    flip_keypoints,
)


def part_of(point: int) -> str:
    return next(name for name, part in PARTS.items() if part.start <= point < part.stop)


def test_flipping_twice_is_the_identity():
    points = np.random.default_rng(0).uniform(0, 200, (5, 68, 2)).astype(np.float32)
    np.testing.assert_allclose(flip_keypoints(flip_keypoints(points, 224), 224), points, atol=1e-4)


def test_the_flip_index_is_an_involution_that_maps_parts_to_their_mirror_images():
    np.testing.assert_array_equal(FLIP_INDEX[FLIP_INDEX], np.arange(68))
    for point, other in enumerate(FLIP_INDEX):
        swapped = {"right": "left", "left": "right"}
        side, _, rest = part_of(point).partition(" ")
        assert part_of(other) == (f"{swapped[side]} {rest}" if rest else side)


def test_parts_cover_each_point_exactly_once():
    assert [i for part in PARTS.values() for i in range(part.start, part.stop)] == list(range(68))


def test_bones_stay_within_their_part_and_touch_every_point():
    assert all(len({part_of(point) for point in bone}) == 1 for bone in BONES)
    assert {point for bone in BONES for point in bone} == set(range(68))


def test_left_and_right_are_the_persons():
    assert FACE[RIGHT_EYE, 0].mean() < FACE[LEFT_EYE, 0].mean()  # the person's right is on the left of the picture


def test_a_flipped_picture_has_its_left_eye_where_the_right_one_was():
    points = face_points(90, 70, 50)
    eyes = {name: points[part].mean(axis=0) for name, part in (("right", RIGHT_EYE), ("left", LEFT_EYE))}
    picture = paint_dot(150, 201, *eyes["right"])
    mirrored = cv2.flip(picture, 1)
    points = flip_keypoints(points, 201)
    np.testing.assert_allclose(points[LEFT_EYE].mean(axis=0), find_dot(mirrored), atol=0.02)
    assert points[RIGHT_EYE].mean(axis=0)[0] < points[LEFT_EYE].mean(axis=0)[0]


def test_the_reference_face_is_symmetric():
    np.testing.assert_allclose(REFERENCE_FACE[FLIP_INDEX] * [-1, 1, 1], REFERENCE_FACE, atol=1e-3)


def test_the_reference_face_lies_between_its_outer_eye_corners_and_looks_at_the_camera():
    right, left = REFERENCE_FACE[list(EYE_CORNERS)]
    np.testing.assert_allclose((right + left) / 2, 0, atol=1e-6)
    np.testing.assert_allclose(left - right, [1, 0, 0], atol=1e-6)
    assert REFERENCE_FACE[:, 2].argmin() == NOSE_TIP and REFERENCE_FACE[:, 1].argmax() == CHIN
