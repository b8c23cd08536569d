"""The benchmark: its arithmetic, its clock, and a small run of our own rows; the other tools are not installed here."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
from helpers import face_points

from data_load import DATA_DIR, find_data
from keypoints.detection import FREE_FILES
from keypoints.files import sha256
from training.evaluation import evaluate
from training.studies import benchmark, benchmark_peers, report
from training.weights import MODEL_DIR

SHIPPED = MODEL_DIR / "keypoints_model_2.safetensors"


@pytest.fixture
def faces():
    rng = np.random.default_rng(0)
    return np.stack([face_points(100 + 5 * i, 90, 30 + 4 * i) + rng.normal(0, 1, (68, 2)) for i in range(5)])


def test_offsets_are_found_and_taken_off_whatever_the_face_s_size(faces):
    offsets = np.random.default_rng(1).normal(0, 0.05, (68, 2))
    labels = benchmark.apply_offsets(faces, offsets)
    np.testing.assert_allclose(benchmark.fit_offsets(faces, labels), offsets, atol=1e-9)
    lost = np.concatenate([faces, np.full((1, 68, 2), np.nan)])  # a face that was not found teaches nothing
    known = np.concatenate([labels, faces[:1]])
    np.testing.assert_allclose(benchmark.fit_offsets(lost, known), offsets, atol=1e-9)
    assert np.isnan(benchmark.apply_offsets(lost, offsets)[-1]).all()


def test_of_several_faces_the_one_at_the_true_place_counts(faces):
    elsewhere = faces[:1] + 400
    points = np.concatenate([elsewhere, faces[:1] + 1, elsewhere])
    predicted = benchmark.predictions(points, np.array([0, 0, 1]), faces[:3])
    np.testing.assert_array_equal(predicted[0], faces[0] + 1)
    assert np.isnan(predicted[1:]).all()  # another face only, and none


def test_given_boxes_lie_as_the_tool_s_own_whatever_else_it_finds():
    true = np.array([[25.0, 35, 30], [80, 35, 60], [10, 10, 20]])
    own = benchmark_peers.apply_framing(np.array([0.1, -0.2, 1.5]), true)
    np.testing.assert_allclose(own[0], [25 + 3 - 22.5, 35 - 6 - 22.5, 45, 45])
    found = np.concatenate([own, [[500, 500, 9, 9]]])  # and something that is no face
    framing = benchmark_peers.fit_framing(found, np.concatenate([true, true[:1]]))
    np.testing.assert_allclose(benchmark_peers.apply_framing(framing, true), own)


class Tool(benchmark_peers.Entry):
    """Finds as many faces as the image's brightness says; places all points at the box's left."""

    framing = np.array([0, 0, 1])

    def detect(self, image):
        return [(i, 0, 1, 1) for i in range(int(image[0, 0, 0]))]

    def keypoints(self, image, box):
        return np.full((68, 2), box[0])


def test_whole_pictures_are_measured_and_labelled_faces_in_their_boxes_too():
    images, places = [np.full((2, 2, 3), number, np.uint8) for number in (2, 0, 1)], np.array([[7.5, 0.5, 1]] * 3)
    result = benchmark_peers.measure(Tool(), {"labelled": (images, places), "others": (images, None)})
    assert result["labelled.image"].tolist() == [0, 0, 2] and result["labelled.points"][:, 0, 0].tolist() == [0, 1, 0]
    assert result["labelled.boxed"][:, 0, 0].tolist() == [7, 7, 7] and "others.boxed" not in result
    assert len(result["others.ms"]) == 3


def test_the_first_call_is_not_timed():
    result = {f"{name}.ms": np.array([900.0, 2, 3, 4]) for name in ("one", "ten")}
    result |= {f"{name}.image": np.array([0, 0, 1]) for name in ("one", "ten")}
    assert benchmark.timed(result) == {name: {"ms": 3.0, "faces": 2} for name in ("one", "ten")}


def test_our_weights_must_not_have_seen_the_people(tmp_path):
    twin = tmp_path / "twin.safetensors"
    weights, left_out = benchmark.own_weights(twin, {"Somebody"})
    assert not weights and "was trained on people" in left_out["ours, model 2"] and "make twin" in str(left_out)
    twin.write_bytes(b"")
    twin.with_suffix(".json").write_text('{"held_out_people": ["Somebody", "Somebody_else"]}')
    assert benchmark.own_weights(twin, {"Somebody"})[0] == {"ours, model 1's twin": twin}


def test_our_rows_are_measured_as_evaluate_does_and_a_missing_tool_is_left_out(tmp_path, monkeypatch, capsys):
    data = find_data("sample")
    monkeypatch.setattr(benchmark, "REPEATS", 3)
    monkeypatch.setattr(benchmark, "TOOLS", {"dlib 68": "dlib"})
    monkeypatch.setattr(benchmark, "DETECTORS", {"OpenCV Haar cascade": "ours_faces:haar"})
    options = argparse.Namespace(official=DATA_DIR, wild=None, detection=None, hard=None, images=3, yunet=None)
    options.twin, options.python = tmp_path / "twin.safetensors", tmp_path / "nowhere"
    record = benchmark.benchmark(options, data)
    files = SHIPPED, *(MODEL_DIR / name for name in FREE_FILES)
    assert record["weights"] == {file.name: sha256(file) for file in files}
    row, fast, free = record["tools"].values()
    assert fast["one"]["ms"] < row["one"]["ms"]
    assert free["own"]["people"]["found"] == 3 and free["own"]["people"] != row["own"]["people"]
    test = benchmark.labelled_sets(data, None, 3)["people"][0]
    names = [path.name for path in test.paths]
    expected = evaluate(SHIPPED, data.csv_file("test"), data.image_dir("test"), "haar", names).figures
    assert row["own"]["people"]["found"] == row["boxed"]["people"]["found"] == 3
    assert row["own"]["people"]["as_it_is"] == pytest.approx(expected["nme_box"], rel=1e-3)
    assert row["boxed"]["people"]["as_it_is"] == pytest.approx(expected["nme_box"], rel=0.3)
    assert row["one"]["faces"] == 1 and row["ten"] == {"faces": 10, "ms": pytest.approx(row["ten"]["ms"])}
    assert record["tracking"]["as it is"]["ours, model 2"]["frames"] == 15
    assert record["detectors"]["OpenCV Haar cascade"]["one"]["ms"] > 0
    assert "'make benchmark' sets it up" in record["left_out"]["dlib 68"] and "OpenCV YuNet" in record["left_out"]
    assert "left out: dlib 68" in capsys.readouterr().out
    assert "| ours, model 2 | 3/3 |" in report.benchmark_table(record)


def test_every_point_of_the_68_has_its_mesh_points():
    groups = json.loads(benchmark_peers.MEDIAPIPE_MAP.read_text(encoding="utf-8"))
    assert len(groups) == 68 and all(0 <= point < 478 for group in groups for point in group)


def test_the_committed_benchmark_is_of_people_whom_the_shipped_weights_have_not_seen():
    record = report.load(report.RESULTS / "benchmark.json")
    assert record["data"] == "official" and "ours, model 2" in record["tools"]
    images = {row[way]["people"]["n"] for row in record["tools"].values() for way in ("own", "boxed")}
    assert len(images) == 1  # the same for all
    twin = report.load(report.RESULTS / "keypoints_model_1_twin.json")
    allowed = {file.name: sha256(file) for file in (SHIPPED, *(MODEL_DIR / name for name in FREE_FILES))}
    allowed[twin["weights"]] = twin["sha256"]
    assert record["weights"].items() <= allowed.items()
