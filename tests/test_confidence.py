"""PhotoNet's confidence is fitted on a small world of sample faces; its parts are tested by hand."""

from __future__ import annotations

import json

import helpers
import numpy as np
import pytest
import torch

from data_load import Data, find_data, read_image, read_keypoints
from keypoints.landmarks import REFERENCE_FACE
from keypoints.network import Framing
from training import confidence
from training.metrics import face_size, nme
from training.splits import WILD_CSV
from training.weights import load_model, save_model

REGRESSIONS = ("confidence_weights", "score_weights", "follow_confidence_weights", "follow_score_weights")


@pytest.fixture
def photo_net(tmp_path):
    """The shipped network without its confidence, and its file with a record."""
    net, path = load_model(), tmp_path / "photo.safetensors"
    for name in REGRESSIONS:
        getattr(net, name).zero_()
    save_model(net, path, {"recipe": "as it was", "by_person": "of the weights before"})
    return net, path


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Faces of twelve people as the official set, of eight more as photos in the wild, and boxes beside all of them."""
    sample = find_data("sample")
    images, (names, keypoints) = sample.image_dir("training"), read_keypoints(sample.csv_file("training"))
    chosen = [i for i, name in enumerate(names) if name.endswith("_00.jpg")][:20]
    pictures = [read_image(images / names[i]) for i in chosen]
    official = Data("official", tmp_path / "official")
    helpers.write_set(official.root, "training", [names[i] for i in chosen[:12]], pictures[:12], keypoints[chosen[:12]])
    wild = tmp_path / "wild"
    photos = [f"helen_{number}_1.jpg" for number in range(8)]
    helpers.write_set(wild, "photos", photos, pictures[12:], keypoints[chosen[12:]])
    for photo in photos:
        (wild / "photos" / photo).rename(wild / photo)
    (wild / "photos_frames_keypoints.csv").rename(wild / WILD_CSV)
    corners = [(name, place, place, 40, 40, 1) for name in photos for place in (0, 12)]
    walls = [(names[i], 0, place, 30, 30, 1) for i in chosen[:12] for place in (0, 10)]
    negatives = tmp_path / "negatives.json"
    boxes = {"wild": {"training": corners[:10], "validation": corners[10:]}}
    boxes["official"] = {"training": walls[:16], "validation": walls[16:]}
    negatives.write_text(json.dumps(boxes))
    monkeypatch.setenv("KEYPOINTS_WILD", str(wild))
    monkeypatch.setattr(confidence, "NEGATIVES", negatives)
    monkeypatch.setattr(confidence, "find_data", lambda name: official)
    groups = {"training": [[photo] for photo in photos[:5]], "validation": [photos[5:]]}
    monkeypatch.setattr(confidence, "read_splits", lambda: {"wild": groups})


def test_fitted_scores_separate_faces_from_walls_and_are_saved_with_their_record(photo_net, world, capsys):
    _, path = photo_net
    before = json.loads(path.with_suffix(".json").read_text())
    confidence.main(["--model", str(path)])
    printed = json.loads(capsys.readouterr().out)
    record = json.loads(path.with_suffix(".json").read_text())
    assert {name: record[name] for name in printed} == printed
    assert record["recipe"] == "as it was" and set(record["by_person"]) == {"validation", "test"}
    assert record["sha256"] != before["sha256"]  # load_model compares it with the file's
    fitted = load_model(path)
    assert all(getattr(fitted, name).any() for name in REGRESSIONS)
    assert record["face_score"]["negatives"] == {"training": 26, "validation": 14}
    for worth in (record["face_score"], record["following"]):
        assert worth["roc_auc"] > 0.95 and worth["faces_kept"] > 0.75
    assert record["face_score"]["false_alarms_dropped"] > 0.8 and record["following"]["lost_dropped"] > 0.8
    # Two test people, three views each: far from the shipped weights' 0.01, and far from what knows nothing.
    assert record["confidence"]["test_people"] == 2 and record["confidence"]["ece_test_people"] < 0.15


def test_without_the_photos_nothing_is_fitted(photo_net, monkeypatch):
    monkeypatch.delenv("KEYPOINTS_WILD", raising=False)
    monkeypatch.setattr(confidence, "find_data", lambda name: None)
    with pytest.raises(FileNotFoundError, match="name their folder in KEYPOINTS_WILD"):
        confidence.calibrate(photo_net[0])


def test_moved_points_lie_near_and_lost_ones_do_not():
    face = 100 + 80 * (REFERENCE_FACE[:, :2] / face_size(REFERENCE_FACE[:, :2]))
    there = np.repeat(face[None].astype(np.float32), 400, axis=0)
    torch.manual_seed(0)
    errors = {far: nme(confidence.moved(torch.from_numpy(there), far).numpy(), there) for far in (False, True)}
    assert (errors[False] < confidence.ASTRAY).all() and 2 < np.median(errors[False]) < confidence.STILL_ON
    assert np.mean(errors[True] > confidence.ASTRAY) > 0.8


def test_negative_crop_is_the_crop_of_a_face_box(tmp_path):
    picture = helpers.paint_dot(200, 300, 90.0, 110.0, sigma=2)
    helpers.write_set(tmp_path, "photos", ["dot.jpg"], [picture], helpers.face_points(90, 110, 30)[None])
    framing = Framing(scale=1.5, dx=0.0, dy=0.1, box_scale=1.2, box_dx=0.0, box_dy=-0.15)
    views = confidence.negative_crops([("dot.jpg", 70, 86, 40, 40, 3)], tmp_path / "photos", framing)
    assert views.shape == (1, 1, 224, 224) and views.dtype == torch.float32 and float(views.max()) <= 1
    # The view is 1.5 boxes wide, its middle a tenth of the box below the box's: (90, 110) is in its middle.
    np.testing.assert_allclose(helpers.find_dot(views[0, 0].numpy()), [111.5, 111.5], atol=2)


def test_points_far_from_the_labels_count_as_wrong(photo_net, world):
    sample = find_data("sample")
    faces = confidence.FaceCrops(sample.csv_file("training"), sample.image_dir("training"), ["person_000_00.jpg"])
    torch.manual_seed(0)
    views = confidence.random_crops(faces, damaged=False)
    evidence, _, right = confidence.predict_features(photo_net[0], views)
    assert evidence.shape == (3, 68, 4) and right.mean() > 0.9
    moved = [{**view, "keypoints": view["keypoints"] + 0.5} for view in views]
    assert confidence.predict_features(photo_net[0], moved)[2].mean() < 0.1


def test_regression_of_one_class_returns_its_odds():
    weights = confidence.fit_logistic(torch.randn(8, 2, 3), torch.stack([torch.ones(8), torch.zeros(8)], dim=1))
    assert not weights[:, :-1].any() and weights[0, -1] == -weights[1, -1] > 2


def test_auc_counts_ties_half():
    assert confidence.binary_auc(np.array([0.9, 0.4]), np.array([0.1, 0.4])) == 0.875
