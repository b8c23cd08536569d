"""PhotoNet's confidence and score are fitted on a small world of sample faces; their parts are tested by hand."""

from __future__ import annotations

import json
from pathlib import Path

import helpers
import numpy as np
import pytest
import torch

from data_load import find_data, read_image, read_keypoints
from training import confidence, splits
from training.photo import Faces
from training.weights import load_model, save_model


@pytest.fixture
def photo_file(tmp_path) -> Path:
    """The shipped network's file with a record, without its confidence."""
    net, path = load_model(), tmp_path / "photo.safetensors"
    net.confidence_weights.zero_()
    net.score_weights.zero_()
    save_model(net, path, {"recipe": "as it was", "by_person": "of the weights before"})
    return path


@pytest.fixture
def world(tmp_path, monkeypatch) -> Path:
    """A folder with faces of twelve people as the official set, eight more as photos, and boxes beside all of them."""
    sample, folder = find_data("sample"), tmp_path / "folder"
    images, (names, keypoints) = sample.image_dir("training"), read_keypoints(sample.csv_file("training"))
    chosen = [i for i, name in enumerate(names) if name.endswith("_00.jpg")][:20]
    pictures = [read_image(images / names[i]) for i in chosen]
    people = [f"Person_{number}_0_1.jpg" for number in range(12)]
    helpers.write_set(folder / "official", "training", people, pictures[:12], keypoints[chosen[:12]])
    photos = [f"helen_{number}_1.jpg" for number in range(8)]
    helpers.write_wild(folder / "wild", photos, pictures[12:], keypoints[chosen[12:]])
    corners = [(name, place, place, 40, 40, 1) for name in photos for place in (0, 12)]
    walls = [(name, 0, place, 30, 30, 1) for name in people for place in (0, 10)]
    boxes = {"wild": {"training": corners[:10], "validation": corners[10:]}}
    boxes["official"] = {"training": walls[:16], "validation": walls[16:]}
    (tmp_path / "negatives.json").write_text(json.dumps(boxes))
    monkeypatch.setattr(confidence, "NEGATIVES", tmp_path / "negatives.json")
    persons = [confidence.person_of(name) for name in people]
    parts = {
        "wild": {"training": [[name] for name in photos[:5]], "validation": [photos[5:]]},
        "by_person": {"training": persons[:6], "validation": persons[6:10], "test": persons[10:]},
    }
    for module in (confidence, splits):
        monkeypatch.setattr(module, "read_splits", lambda: parts)
    return folder


def test_fitted_scores_separate_faces_from_walls_and_are_saved_with_their_record(photo_file, world, capsys):
    before = json.loads(photo_file.with_suffix(".json").read_text())
    confidence.main(["--model", str(photo_file), "--folder", str(world)])
    printed = json.loads(capsys.readouterr().out)
    record = json.loads(photo_file.with_suffix(".json").read_text())
    assert {name: record[name] for name in printed} == printed
    assert record["recipe"] == "as it was" and set(record["by_person"]) == {"validation", "test"}
    assert record["sha256"] != before["sha256"]
    fitted = load_model(photo_file)
    assert fitted.confidence_weights.any() and fitted.score_weights.any()
    score = record["face_score"]
    assert score["negatives"] == 14 and score["roc_auc_negatives"] > 0.95 and score["negatives_dropped"] > 0.8
    # Two test people, three crops each: far from the shipped weights' 0.01, and far from what knows nothing.
    assert record["confidence"]["test_people"] == 2 and record["confidence"]["ece_test_people"] < 0.2


def test_crops_show_a_face_where_its_keypoints_say():
    source = np.zeros((320, 320), np.uint8)
    keypoints = helpers.face_points(160, 160, 120).astype(np.float32)
    x, y = keypoints[30].round().astype(int)
    source[y - 2 : y + 3, x - 2 : x + 3] = 255
    crops, true = confidence.crops_of(Faces([source], keypoints[None], ["a"]), 128)
    assert crops.shape == (3, 1, 128, 128) and crops.dtype == np.uint8
    for crop, points in zip(crops[1:, 0], true[1:], strict=True):  # the first may lie astray
        row, column = np.unravel_index(crop.argmax(), crop.shape)
        assert np.linalg.norm(points[30] * 128 - (column + 0.5, row + 0.5)) < 3


def test_negative_crop_is_the_crop_of_a_face_box(tmp_path, monkeypatch):
    picture = helpers.paint_dot(200, 300, 90.0, 110.0, sigma=2)
    helpers.write_set(tmp_path, "photos", ["dot.jpg"], [picture], helpers.face_points(90, 110, 30)[None])
    middle = confidence.CROP_FRAMING.dy * 40  # below the box's middle
    boxes = {"wild": {"training": [("dot.jpg", 70, 90 - middle, 40, 40, 3)]}}
    monkeypatch.setattr(confidence, "NEGATIVES", tmp_path / "negatives.json")
    confidence.NEGATIVES.write_text(json.dumps(boxes))
    crops = confidence.negative_crops("training", {"wild": tmp_path / "photos"}, 128)
    assert crops.shape == (1, 1, 128, 128)
    np.testing.assert_allclose(helpers.find_dot(crops[0, 0]), [63.5, 63.5], atol=2)


def test_regression_of_one_class_returns_its_odds():
    weights = confidence.fit_logistic(torch.randn(8, 2, 3), torch.stack([torch.ones(8), torch.zeros(8)], dim=1))
    assert not weights[:, :-1].any() and weights[0, -1] == -weights[1, -1] > 2


def test_calibration_without_its_sets_says_which_is_missing(tmp_path):
    with pytest.raises(ValueError, match="got no official/, expected one"):
        confidence.calibrate(load_model(), tmp_path)
