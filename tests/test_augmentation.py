"""Source crops and damage: a crop shows the face where its keypoints say."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import find_dot, paint_dot

from keypoints.landmarks import REFERENCE_FACE
from training.augmentation import SOURCE_FACE, SOURCE_SIZE, damage, source_crop
from training.metrics import face_size


def face_around(x: float, y: float, size: float) -> np.ndarray:
    """A face of this size whose point 30 lies at (x, y): (68, 2) float32."""
    face = REFERENCE_FACE[:, :2] * size / face_size(REFERENCE_FACE[:, :2])
    return (face - face[30] + [x, y]).astype(np.float32)


@pytest.mark.parametrize("size", [60.0, 120.0, 300.0])  # enlarged, as it is, shrunk by averaging first
def test_a_source_crop_shows_the_face_in_its_middle_at_one_size(size):
    keypoints = face_around(403.2, 391.7, size)
    crop, points = source_crop(paint_dot(800, 900, *keypoints[30], sigma=size / 20), keypoints)
    assert crop.shape == (SOURCE_SIZE, SOURCE_SIZE) and crop.dtype == np.uint8
    assert face_size(points) == pytest.approx(SOURCE_FACE, rel=1e-4)
    np.testing.assert_allclose(points.min(axis=0) + points.max(axis=0), SOURCE_SIZE - 1, atol=1e-2)
    np.testing.assert_allclose(find_dot(crop), points[30], atol=0.15)


def test_damage_depends_on_the_seed_and_keeps_size_dtype_and_the_image_that_was_given():
    source = paint_dot(SOURCE_SIZE, SOURCE_SIZE, 165.3, 170.8)[..., 0]
    before, damaged = source.copy(), [damage(source, np.random.default_rng(seed)) for seed in range(20)]
    assert np.array_equal(source, before)
    assert all(image.shape == before.shape and image.dtype == np.uint8 for image in damaged)
    assert all(not np.array_equal(image, before) for image in damaged)
    assert np.array_equal(damage(source, np.random.default_rng(3)), damaged[3])
