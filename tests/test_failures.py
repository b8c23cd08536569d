from __future__ import annotations

import re

import cv2
import numpy as np
import pandas as pd
import pytest
from helpers import face_points

from data_load import DATA_DIR, FacialKeypointsDataset, find_data
from keypoints.landmarks import REGIONS, flip_keypoints
from training import failures, metrics
from training.evaluation import Evaluation


@pytest.fixture(scope="module")
def heads():
    """The sample's test heads and their true yaw in degrees."""
    data = find_data("sample")
    return data.dataset("test").keypoints, data.attributes("test")["yaw"].to_numpy()


def test_yaw_is_near_the_rendered_head_s(heads):
    keypoints, yaw = heads
    error = np.abs(failures.yaw_of(keypoints) - yaw)
    assert error.mean() < 2.5 and np.percentile(error, 95) < 8 and np.abs(yaw).max() > 45


def test_a_mirrored_head_looks_to_the_other_side_and_size_and_place_do_not_matter(heads):
    keypoints, _ = heads
    yaw = failures.yaw_of(keypoints)
    np.testing.assert_allclose(failures.yaw_of(flip_keypoints(keypoints, 200)), -yaw, atol=0.1)
    np.testing.assert_allclose(failures.yaw_of(3 * keypoints + [40, -7]), yaw, atol=0.01)


def test_a_blurred_face_is_less_sharp_wherever_the_background_is():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (120, 140, 3), dtype=np.uint8)
    points = face_points(70, 60, 25)
    blurred = cv2.GaussianBlur(image, (0, 0), 3)
    assert failures.sharpness(blurred, points) < 0.1 * failures.sharpness(image, points)
    around = blurred.copy()
    around[:10], around[-10:] = image[:10], image[-10:]  # far from the face
    assert failures.sharpness(around, points) == failures.sharpness(blurred, points)
    assert failures.sharpness(np.full_like(image, 90), points) == 0


@pytest.fixture
def result():
    """Four faces off by 1, 2, 3 pixels and lost; the mouth of the first by 21 in place of 1."""
    true = np.repeat(face_points(60, 60, 30)[None], 4, axis=0)
    predicted = true + np.array([1, 2, 3, np.nan], np.float32)[:, None, None] * np.array([1, 0], np.float32)
    predicted[0, REGIONS["mouth"], 0] += 20
    found = np.array([True, True, True, False])
    return Evaluation(["a.jpg", "b.jpg", "c.jpg", "d.jpg"], predicted, true, found, {})


def test_bins_hold_the_right_faces_with_the_worst_first(result):
    one = 100 / metrics.face_size(result.true[0])  # a pixel in percent
    bins = failures.slices(result, {"yaw": np.array([0, 9, 12, 80]), "size": np.array([1, 2, 3, 4])}, each=2)
    told = {(b.by, b.label): b for b in bins}
    assert [label for by, label in told if by == "part"] == ["jaw", "brows", "nose", "eyes", "mouth"]
    jaw, mouth = told["part", "jaw"], told["part", "mouth"]
    assert (jaw.images, jaw.found) == (4, 3) and jaw.nme_box == pytest.approx(2 * one, rel=1e-4)
    assert [i for i, _ in jaw.worst] == [2, 1] and [i for i, _ in mouth.worst] == [0, 2]
    assert mouth.worst[0][1] == pytest.approx(21 * one, rel=1e-4)
    assert {label: (b.images, b.found) for (by, label), b in told.items() if by == "yaw"} == {
        "0–10°": (2, 2),
        "10–20°": (1, 1),
        "20–30°": (0, 0),
        "30–45°": (0, 0),
        "45–90°": (1, 0),
    }
    far, empty = told["yaw", "45–90°"], told["yaw", "20–30°"]
    assert far.nme_box is None and far.worst == [] and empty.nme_box is None
    assert sum(b.images for (by, _), b in told.items() if by == "size") == 4  # quarters: everybody in one of them
    bins = [b for b in failures.slices(result, {"size": np.full(4, 50.0)}) if b.by == "size"]
    assert [(b.label, b.images) for b in bins] == [("50–50 px", 4)]  # a condition that all faces share is one bin


def test_the_page_shows_lost_faces_and_names_labels_believed_wrong(small_set, tmp_path, monkeypatch):
    dataset = FacialKeypointsDataset(small_set.csv_file("test"), small_set.image_dir("test"))
    found = np.array([True, True, False])
    predicted = np.where(found[:, None, None], dataset.keypoints + 1, np.nan)
    result = Evaluation(dataset.names, predicted, dataset.keypoints, found, {})
    monkeypatch.setattr(
        failures, "doubtful_labels", lambda: {"test/Cy_00.jpg": "a <moustache>", "test/No.jpg": "other"}
    )
    page = failures.write_page(tmp_path / "page", result, dataset).read_text(encoding="utf-8")
    assert "<h2>Not found: 1</h2>" in page and (tmp_path / "page" / "lost.png").exists()
    assert "test/Cy_00.jpg: a &lt;moustache&gt;" in page and "No.jpg" not in page
    assert [len(re.findall(f"<h2>By {by}</h2>", page)) for by in failures.CAPTIONS] == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="got an evaluation of 3 images, expected one of 6"):
        failures.write_page(tmp_path, result, small_set.dataset("training"))


def test_the_labels_believed_wrong_are_official_ones():
    official = set(pd.read_csv(DATA_DIR / "pixels.csv").iloc[:, 0])
    doubted = failures.doubtful_labels()
    assert "test/Jafar_Umar_Thalib_31.jpg" in doubted and set(doubted) <= official and all(doubted.values())
