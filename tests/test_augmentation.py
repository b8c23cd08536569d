"""Source crops and damage: a crop shows the face where its keypoints say, and damage moves nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import find_dot, paint_dot

from keypoints.landmarks import REFERENCE_FACE
from training.augmentation import (
    SOURCE_FACE,
    SOURCE_SIZE,
    RandomDamage,
    source_crop,
)
from training.metrics import face_size


def face_around(x: float, y: float, size: float) -> np.ndarray:
    """A face of this size whose point 30 lies at (x, y): (68, 2) float32."""
    face = REFERENCE_FACE[:, :2] * size / face_size(REFERENCE_FACE[:, :2])
    return (face - face[30] + [x, y]).astype(np.float32)


@pytest.fixture
def source() -> dict:
    """A source crop with a dot at point 30 alone."""
    keypoints = face_around(165.3, 170.8, SOURCE_FACE)
    return {"image": paint_dot(SOURCE_SIZE, SOURCE_SIZE, *keypoints[30], sigma=3)[..., 0], "keypoints": keypoints}


@pytest.mark.parametrize("size", [60.0, 120.0, 300.0])  # enlarged, as it is, shrunk by averaging first
def test_a_source_crop_shows_the_face_in_its_middle_at_one_size(size):
    keypoints = face_around(403.2, 391.7, size)
    crop, points = source_crop(paint_dot(800, 900, *keypoints[30], sigma=size / 20), keypoints)
    assert crop.shape == (SOURCE_SIZE, SOURCE_SIZE) and crop.dtype == np.uint8
    assert face_size(points) == pytest.approx(SOURCE_FACE, rel=1e-4)
    np.testing.assert_allclose(points.min(axis=0) + points.max(axis=0), SOURCE_SIZE - 1, atol=1e-2)
    np.testing.assert_allclose(find_dot(crop), points[30], atol=0.15)


def test_the_seed_decides_the_damage(source):
    def draw(seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        return RandomDamage()(source)["image"]

    assert np.array_equal(draw(1), draw(1)) and not np.array_equal(draw(1), draw(2))


def test_damage_keeps_size_dtype_keypoints_and_what_it_was_given(source):
    before = source["image"].copy()
    changed = 0
    for seed in range(20):
        torch.manual_seed(seed)
        damaged = RandomDamage()(source)
        assert damaged["image"].shape == before.shape and damaged["image"].dtype == np.uint8
        assert damaged["keypoints"] is source["keypoints"]
        changed += not np.array_equal(damaged["image"], before)
    assert np.array_equal(source["image"], before) and changed == 20
