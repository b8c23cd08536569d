from __future__ import annotations

import numpy as np
import pytest
from helpers import face_points

from keypoints import landmarks
from training.metrics import auc, ced, face_size, failure_rate, interval, nme, point_errors, summary

TRUE = np.zeros((1, 68, 2))  # a box of 30 × 40 pixels, outer eye corners 10 apart
TRUE[0, 0], TRUE[0, 1] = (-10, -20), (20, 20)
TRUE[0, 36], TRUE[0, 45] = (-4, 3), (2, -5)


@pytest.fixture
def faces() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    true = np.stack([face_points(*random.uniform(80, 120, 2), random.uniform(40, 90)) for _ in range(20)]).astype(float)
    return true + random.normal(0, random.uniform(0.5, 8, (20, 1, 1)), true.shape), true


def test_face_size_computed_by_hand():
    assert face_size(TRUE[0], "box") == pytest.approx(np.sqrt(30 * 40))
    assert face_size(TRUE[0], "iod") == pytest.approx(10)
    assert face_size(TRUE, "box").shape == (1,) and face_size(TRUE) == face_size(TRUE, "box")


def test_nme_computed_by_hand():
    predicted = TRUE + np.array([3, 4])  # each point 5 pixels off
    assert nme(predicted, TRUE, "iod") == pytest.approx([50])
    assert nme(predicted, TRUE, "box") == pytest.approx([500 / np.sqrt(1200)])
    predicted = TRUE.copy()
    predicted[0, 7] += [0, 2]  # one of 68 points 2 pixels off
    assert nme(predicted, TRUE, "iod") == pytest.approx([20 / 68])
    assert point_errors(predicted, TRUE, "iod")[0, 7] == pytest.approx(20)


@pytest.mark.parametrize("normaliser", ["box", "iod"])
def test_nme_equals_a_loop_at_any_scale_and_place(faces, normaliser):
    predicted, true = faces
    expected = []
    for p, t in zip(predicted, true, strict=True):
        width, height = t.max(axis=0) - t.min(axis=0)
        size = (width * height) ** 0.5 if normaliser == "box" else np.hypot(*(t[36] - t[45]))
        expected.append(100 * sum(np.hypot(*(p[i] - t[i])) for i in range(68)) / 68 / size)
    np.testing.assert_allclose(nme(predicted, true, normaliser), expected)
    np.testing.assert_allclose(nme(predicted * 3.7 + [50, -20], true * 3.7 + [50, -20], normaliser), expected)
    np.testing.assert_array_equal(nme(true, true, normaliser), 0)


ERRORS = np.array([1.0, 3.0, 7.0, 8.0, np.inf])


def test_curves_computed_by_hand():
    assert failure_rate(ERRORS, 7) == pytest.approx(40)  # 7 is no failure, the lost face is one
    assert failure_rate(ERRORS, 100) == pytest.approx(20)
    np.testing.assert_allclose(ced(ERRORS, np.array([0, 1, 5, 7, 100])), [0, 20, 40, 60, 80])
    assert auc(ERRORS, 7) == pytest.approx(100 * (6 / 7 + 4 / 7) / 5)
    assert auc(np.zeros(3), 7) == 100 and auc(np.full(3, np.inf), 7) == 0


def test_lost_faces_are_failures_and_not_part_of_the_nme(faces):
    _, true = faces
    found = np.arange(20) >= 5
    predicted = true + 0.01
    predicted[~found] = np.nan
    figures = summary(predicted, true, found)
    percents = ["nme_box", "nme_iod", "fr_iod_10", "fr_box_07", "auc_box_07"]
    assert list(figures) == ["n", "found", *percents, "nme_box_parts", "nme_iod_parts"]
    assert (figures["n"], figures["found"]) == (20, 15)
    assert figures["fr_iod_10"] == figures["fr_box_07"] == 25
    assert 0 < figures["nme_box"] < figures["nme_iod"] < 0.1
    assert 74 < figures["auc_box_07"] < 75


def test_prediction_that_is_nan_counts_as_lost(faces):
    predicted, true = faces
    predicted = predicted.copy()
    predicted[0, 5] = np.nan
    found = np.ones(len(true), bool)
    found[0] = False
    assert summary(predicted, true) == summary(predicted, true, found)


def test_nme_of_lost_faces_alone_is_none(faces):
    figures = summary(np.full_like(faces[1], np.nan), faces[1], np.zeros(20, bool))
    assert figures["nme_box"] is None and figures["nme_iod"] is None
    assert figures["fr_box_07"] == 100 and figures["auc_box_07"] == 0


def test_bad_arguments_are_refused(faces):
    predicted, true = faces
    with pytest.raises(ValueError, match="got normaliser 'eyes', expected 'box' or 'iod'"):
        nme(predicted, true, "eyes")
    with pytest.raises(ValueError, match=r"got predicted keypoints of shape \(19, 68, 2\) and true .* \(20, 68, 2\)"):
        nme(predicted[:19], true)


# By part of the face, and with other people ---------------------------------------------------------------------------


def test_regions_cover_the_face_and_the_inner_51_is_all_but_the_jaw():
    parts = [set(range(68)[landmarks.REGIONS[name]]) for name in ("jaw", "brows", "nose", "eyes", "mouth")]
    assert sum(map(len, parts)) == 68 and set.union(*parts) == set(range(68))
    assert set(range(68)[landmarks.REGIONS["inner 51"]]) == set(range(17, 68))


def test_error_of_one_part_counts_for_that_part_alone():
    true = np.zeros((1, 68, 2))
    true[0, 45] = 100, 100  # the face is 100 pixels
    predicted = true.copy()
    predicted[0, landmarks.MOUTH, 0] += 5
    parts = summary(predicted, true)["nme_box_parts"]
    assert parts == pytest.approx({"jaw": 0, "brows": 0, "nose": 0, "eyes": 0, "mouth": 5, "inner 51": 5 * 20 / 51})


def test_interval_draws_people_and_not_images():
    values, people = np.array([1.0] * 9 + [3.0]), ["Ann"] * 9 + ["Bo"]
    assert interval(values, people) == (1.0, 3.0)  # two people: Ann twice, both, or Bo twice
    low, high = interval(values, list("abcdefghij"))
    assert low == 1.0 and 1.3 < high < 1.9  # ten people: the 97.5 % point of a mean of ten, of which 3.0 has a tenth


def test_interval_of_many_people_is_that_of_their_mean():
    values = np.random.default_rng(3).normal(5, 1, 400)
    low, high = interval(values, range(400))
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)
    assert low < values.mean() < high


def test_interval_needs_two_people_and_a_label_for_each_face():
    assert interval(np.ones(3), ["Ann"] * 3) is None
    with pytest.raises(ValueError, match="got 2 people's labels for 3 faces"):
        interval(np.ones(3), ["Ann", "Bo"])


def test_each_interval_is_that_of_its_own_figure(faces):
    predicted, true = faces
    people, found = np.repeat(list("abcde"), 4), [1] * 18 + [0, 0]
    figures = summary(predicted, true, found, people)
    box, iod = (nme(predicted, true, normaliser) for normaliser in ("box", "iod"))
    assert figures["found"] == 18
    by_hand = {
        "nme_box": np.append(box[:18], [np.nan] * 2),
        "nme_iod": np.append(iod[:18], [np.nan] * 2),
        "fr_iod_10": np.append(100.0 * (iod[:18] > 10), [100] * 2),
        "fr_box_07": np.append(100.0 * (box[:18] > 7), [100] * 2),
        "auc_box_07": np.append([100 * max(0, 1 - error / 7) for error in box[:18]], [0] * 2),
    }
    assert {key: figures[key] for key in by_hand} == {key: pytest.approx(np.nanmean(v)) for key, v in by_hand.items()}
    assert figures["intervals"] == {key: pytest.approx(interval(v, people), rel=1e-9) for key, v in by_hand.items()}
    assert 0 < figures["fr_box_07"] < 100 and 0 < figures["auc_box_07"] < 100  # neither all nor none
