"""Training views for photographs: what a view shows lies where its keypoints say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import find_dot, paint_dot, write_set

from data_load import IMAGE_SIZE, find_data, label_offset
from keypoints.landmarks import FLIP_INDEX, REFERENCE_FACE
from keypoints.network import Framing
from training.augmentation import (
    SOURCE_FACE,
    SOURCE_SIZE,
    FaceCrops,
    FramedView,
    RandomDamage,
    RandomView,
    photo_framing,
    photo_transform,
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


def test_random_views_show_the_dot_where_its_keypoint_says_and_mirrored_ones_swap_indices(source):
    dotted = {**source, "image": paint_dot(SOURCE_SIZE, SOURCE_SIZE, *source["keypoints"][36], sigma=3)[..., 0]}
    shown = []
    for seed in range(12):
        torch.manual_seed(seed)
        view = RandomView()(dotted)
        points, dot = view["keypoints"], find_dot(view["image"])
        assert view["image"].shape == (IMAGE_SIZE, IMAGE_SIZE) and points.dtype == np.float32
        assert np.linalg.norm(points - dot, axis=1).min() < 0.3
        right, left = points[36:42].mean(axis=0) - points[57], points[42:48].mean(axis=0) - points[57]
        assert right[0] * left[1] - right[1] * left[0] > 0  # seen from the mouth, however the head is turned
        shown.append(int(np.linalg.norm(points - dot, axis=1).argmin()))
    assert set(shown) == {36, FLIP_INDEX[36]}  # the dot is the right eye's corner, or in a mirror the left one's


def test_the_seed_decides_the_view_and_the_damage(source):
    def draw(seed: int) -> dict:
        torch.manual_seed(seed)
        return RandomDamage()(RandomView()(source))

    first, again, other = draw(1), draw(1), draw(2)
    assert np.array_equal(first["image"], again["image"]) and np.array_equal(first["keypoints"], again["keypoints"])
    assert not np.array_equal(first["keypoints"], other["keypoints"])


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


def test_the_framing_in_use_is_that_of_the_views(source):
    framing = Framing(**photo_framing({"box_scale": 1.18, "box_dx": -0.01, "box_dy": -0.19}))
    left, top, side, _ = framing.views(framing.boxes(source["keypoints"]))[0]
    seen = (source["keypoints"] + 0.5 - [left, top]) * IMAGE_SIZE / side - 0.5
    np.testing.assert_allclose(seen, FramedView()(source)["keypoints"], atol=1)


def test_the_faces_of_a_label_file_become_samples():
    data = find_data("sample")
    names = ["person_500_00.jpg", "person_500_01.jpg"]
    faces = FaceCrops(data.csv_file("test"), data.image_dir("test"), names, photo_transform())
    torch.manual_seed(0)
    assert faces.names == names and len(faces) == 2
    assert faces[0]["image"].shape == (1, 224, 224) and faces[0]["keypoints"].shape == (68, 2)
    assert faces[0]["image"].min() >= 0 and faces[0]["image"].max() <= 1


def test_official_labels_are_moved_back(tmp_path):
    feature = face_around(150.3, 160.8, 120.0)  # where things are; the labels lie right and below of them
    image = paint_dot(320, 300, *feature[30], sigma=5)
    write_set(tmp_path, "test", ["a.jpg"], [image], (feature + label_offset(feature))[None])
    faces = FaceCrops(tmp_path / "test_frames_keypoints.csv", tmp_path / "test", official=True)
    np.testing.assert_allclose(find_dot(faces.crops[0]), faces.keypoints[0, 30], atol=0.15)
    as_labelled = FaceCrops(tmp_path / "test_frames_keypoints.csv", tmp_path / "test")
    off = as_labelled.keypoints[0, 30] - find_dot(as_labelled.crops[0])
    np.testing.assert_allclose(off, label_offset(feature), atol=0.2)  # 1.65 and 0.71 pixels
