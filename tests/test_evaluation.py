"""Figures on every set: which images, who is on them, the twin's part, and the table."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import face_points, write_labels, write_wild

from keypoints.files import sha256
from models import FaceDetector
from training import evaluation, metrics
from training.splits import read_splits, wild_groups
from training.weights import save_model


def figures_of(error: float) -> dict:
    """The figures of two people, whose faces are off by ``error`` and twice that, in percent of the box's side."""
    true = np.zeros((2, 68, 2))
    true[:, 45] = 100, 100
    shift = np.array([[[error, 0]], [[2 * error, 0]]])
    return metrics.summary(true + shift, true, people=["Ann", "Bo"])


# One set --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["centre", "box"])
def test_a_part_of_a_set_gives_what_these_images_give_in_the_whole(framed, small_set, framing):
    place = small_set.csv_file("training"), small_set.image_dir("training")
    whole = evaluation.evaluate(framed, *place, framing)
    names = ["Bo_B_01.jpg", "Ann_00.jpg"]
    part = evaluation.evaluate(framed, *place, framing, names)
    assert part.names == ["Ann_00.jpg", "Bo_B_01.jpg"]  # in the file's order
    chosen = [whole.names.index(name) for name in part.names]
    np.testing.assert_allclose(part.predicted, whole.predicted[chosen], atol=1e-3)
    np.testing.assert_array_equal(part.true, whole.true[chosen])
    assert part.figures["n"] == part.figures["people"] == 2 and whole.figures["people"] == 4


@pytest.mark.parametrize("framing", list(evaluation.FRAMINGS))
def test_face_detector_is_refused(small_set, framing):
    with pytest.raises(ValueError, match="got the weights of a face detector, expected those of a keypoint network"):
        evaluation.evaluate(FaceDetector(), small_set.csv_file("training"), small_set.image_dir("training"), framing)


def test_the_intervals_are_over_whoever_is_said_to_be_on_an_image(framed, small_set):
    place = small_set.csv_file("training"), small_set.image_dir("training")
    alone = evaluation.evaluate(framed, *place, "centre", who=lambda name: "one")
    assert alone.figures["people"] == 1 and alone.figures["intervals"]["nme_box"] is None
    each = evaluation.evaluate(framed, *place, "centre", who=str)
    low, high = each.figures["intervals"]["nme_box"]
    assert low < each.figures["nme_box"] < high


def test_a_name_without_labels_and_a_face_without_size_are_told(framed, small_set, tmp_path):
    place = small_set.csv_file("test"), small_set.image_dir("test")
    with pytest.raises(ValueError, match=r"keypoints\.csv: got no labels of 'Zoe_00\.jpg' \(1 such images\)"):
        evaluation.evaluate(framed, *place, names=["Ann_00.jpg", "Zoe_00.jpg"])
    points = np.repeat(face_points(30, 30, 10)[None], 3, axis=0)
    points[1] = 7  # all points in one place
    write_labels(tmp_path / "flat.csv", ["Ann_00.jpg", "Cy_00.jpg", "Cy_01.jpg"], points)
    with pytest.raises(ValueError, match=r"flat\.csv: got a face of 0 pixels in row 2 \('Cy_00\.jpg'; 1 such"):
        evaluation.evaluate(framed, tmp_path / "flat.csv", place[1])


# Every set ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def shipped(framed, tmp_path, monkeypatch):
    """Weights with their record, and the record of their twin, whose figures differ."""
    monkeypatch.setattr(evaluation, "RESULTS", tmp_path)
    path, recipe = tmp_path / "mine.safetensors", {"epochs": 8, "seed": 0}
    save_model(framed, path, {"data": "official", "recipe": recipe})
    own = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    people = {"validation": {"centre": figures_of(1)}, "test": {"centre": figures_of(2)}}
    twin = own | {"weights": "twin.safetensors", "sha256": "0" * 64, "by_person": people}
    twin |= {"recipe": {**recipe, "seed": 1}}
    return path, own, twin


def write(path, record):
    path.write_text(json.dumps(record), encoding="utf-8")


def test_unseen_people_are_measured_by_the_twin_alone(shipped):
    path, _, twin = shipped
    assert evaluation.by_person(path) is None  # there is no record of a twin
    write(path.with_name("mine_twin.json"), twin)
    found = evaluation.by_person(path)
    assert (found["weights"], found["seed"], found["data"]) == ("twin.safetensors", 1, "official")
    assert found["validation"] == twin["by_person"]["validation"] and found["test"] == twin["by_person"]["test"]
    for other in ({"recipe": {"epochs": 9, "seed": 0}}, {"parameters": 1}, {"network": "Big"}, {"data": "sample"}):
        write(path.with_name("mine_twin.json"), twin | other)
        assert evaluation.by_person(path) is None, other  # of another recipe


def test_twin_has_its_own_figures_unless_its_record_is_of_other_weights(shipped):
    path, own, twin = shipped
    write(path.with_suffix(".json"), own | {"by_person": twin["by_person"]})
    assert evaluation.by_person(path)["sha256"] == sha256(path)
    write(path.with_suffix(".json"), own | {"by_person": twin["by_person"], "sha256": "1" * 64})
    assert evaluation.by_person(path) is None


def test_weights_are_measured_on_the_wild_validation_photos_and_never_by_the_centre_crop(
    framed, small_set, tmp_path, monkeypatch
):
    photos = {"validation": {"a.jpg": 0, "b.jpg": 0, "c.jpg": 1}, "training": {"d.jpg": 0}}
    monkeypatch.setattr(evaluation, "wild_groups", photos.__getitem__)
    save_model(framed, tmp_path / "mine.safetensors")
    wild, image = tmp_path / "wild", small_set.dataset("test")[0]["image"]
    names = ["d.jpg", "c.jpg", "a.jpg", "b.jpg"]
    write_wild(wild, names, [image] * 4, np.repeat(face_points(30, 30, 12)[None], 4, axis=0))
    place = small_set.csv_file("test"), small_set.image_dir("test")
    found = evaluation.evaluate_weights(tmp_path / "mine.safetensors", *place, wild, ["centre", "box"])
    assert list(found["test"]) == ["centre", "box"] and list(found["wild"]) == ["box"]
    assert (found["wild"]["box"]["n"], found["wild"]["box"]["people"]) == (3, 2)
    assert evaluation.evaluate_weights(tmp_path / "mine.safetensors", *place, None, ["box"])["wild"] is None


# The table ------------------------------------------------------------------------------------------------------------


def content(own: bool) -> dict:
    people = {"sha256": "a" if own else "b", "data": "official", "validation": {"centre": figures_of(1)}}
    model = {"weights": "net.safetensors", "sha256": "a", "test": {"centre": figures_of(3), "box": figures_of(4)}}
    return {"data": "official", "models": [model | {"by_person": people, "wild": {"box": figures_of(5)}}]}


def test_cells_of_people_trained_on_are_empty_and_the_twin_fills_its_own():
    rows = evaluation.table_rows(content(own=False))
    assert [(*names, figures and figures["nme_box"]) for *names, figures in rows] == [
        ("official test set", "net", "centre", 4.5),
        ("official test set", "net", "box", 6),
        ("official, validation people", "net", "", None),
        ("official, validation people", "its twin", "centre", 1.5),
        ("wild photos", "net", "box", 7.5),
    ]
    rows = evaluation.table_rows(content(own=True))
    assert [row[1] for row in rows if "people" in row[0]] == ["net"]  # not trained on them: no empty line


def test_a_line_of_the_table_holds_the_figures_of_its_set():
    header, first, *_ = evaluation.table(content(own=False)).splitlines()
    # The box's side is 100, the eyes' distance 141.4; Ann is off by 3, Bo by 6: drawn alone, they are the interval.
    expected = ["official test set", "net", "centre", "2/2", "4.50 [3.00, 6.00]", "3.18 [2.12, 4.24]", "0.0", "35.7"]
    assert [cell.strip() for cell in first.split("  ") if cell] == expected + ["4.50"] * 6
    assert [cell.strip() for cell in header.split("  ") if cell] == ["set", "weights", "framing", *evaluation.COLUMNS]


def test_what_was_not_found_leaves_its_cells_empty():
    true = np.zeros((2, 68, 2))
    true[:, 45] = 100, 100
    nobody = metrics.summary(np.full_like(true, np.nan), true, people=["Ann", "Bo"])
    assert evaluation.table_cells(nobody) == ["0/2", "", "", "100.0", "0.0", *[""] * 6]
    assert evaluation.table_cells(None) == [""] * len(evaluation.COLUMNS)


# What is committed ----------------------------------------------------------------------------------------------------


def test_the_committed_figures_are_of_the_shipped_weights_and_of_people_whom_the_twin_never_saw():
    recorded = json.loads((evaluation.RESULTS / "evaluation.json").read_text(encoding="utf-8"))
    shipped = sorted(evaluation.MODEL_DIR.glob("keypoints_model_*.safetensors"))
    assert recorded["data"] == "official"
    assert [model["weights"] for model in recorded["models"]] == [path.name for path in shipped]
    parts = read_splits()["by_person"]
    for model, path in zip(recorded["models"], shipped, strict=True):
        assert model["sha256"] == sha256(path)
        record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        photos = record["network"] == "PhotoNet"  # it takes five points: the centre crop has none
        framings = ["haar", "box", evaluation.NO_OFFSET] if photos else list(evaluation.FRAMINGS)
        assert list(model["test"]) == framings
        assert model["test"]["haar"]["n"] == 770 and model["wild"]["box"]["n"] == len(wild_groups("validation"))
        assert model["by_person"] == evaluation.by_person(path) is not None
        twin = evaluation.RESULTS / f"{path.stem}_twin.json"
        twin = record if "by_person" in record else json.loads(twin.read_text(encoding="utf-8"))
        for part in twin["by_person"]:
            assert set(parts[part]) <= set(twin["held_out_people"])
