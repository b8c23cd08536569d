"""The benchmark: its arithmetic, its clock, and a small run of our own rows; the peers are not installed here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import face_points

from keypoints.files import sha256
from training.evaluation import evaluate
from training.studies import benchmark, benchmark_peers, report
from training.weights import save_model


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
    result = {"image": np.array([0, 0, 1]), "points": np.concatenate([elsewhere, faces[:1] + 1, elsewhere])}
    predicted = benchmark.predictions(result, faces[:3], detects=True)
    np.testing.assert_array_equal(predicted[0], faces[0] + 1)
    assert np.isnan(predicted[1:]).all()  # another face only, and none
    given = {"image": np.array([0, 1, 2]), "points": faces[:3] + 400}  # told where to look, it has no choice
    np.testing.assert_array_equal(benchmark.predictions(given, faces[:3], detects=False), faces[:3] + 400)


class Peer:
    """Finds as many faces as the image's brightness says."""

    def __init__(self):
        self.seen = []

    def detect(self, image):
        self.seen.append(int(image[0, 0, 0]))
        return [(i, 0, 1, 1) for i in range(self.seen[-1])]

    def keypoints(self, image, box):
        return np.full((68, 2), box[0])


def test_the_warm_up_is_not_timed_and_detector_and_keypoints_are_timed_apart(monkeypatch):
    monkeypatch.setattr(benchmark_peers, "WARM_UP", 2)
    images, peer = [np.full((2, 2, 3), number, np.uint8) for number in (2, 0, 1)], Peer()
    rows = benchmark_peers.measure(peer, images, np.zeros((3, 4)))
    assert peer.seen == [2, 0, 2, 0, 1]  # two to warm up
    assert len(rows["detector_ms"]) == 3 and len(rows["keypoints_ms"]) == 3
    assert rows["image"].tolist() == [0, 0, 2] and rows["points"][:, 0, 0].tolist() == [0, 1, 0]


def test_where_nothing_is_detected_the_true_box_is_given():
    class Given(Peer):
        detect = None

    rows = benchmark_peers.measure(Given(), [np.zeros((2, 2, 3), np.uint8)] * 2, np.array([[7, 0, 1, 1], [9, 0, 1, 1]]))
    assert len(rows["detector_ms"]) == 0 and rows["points"][:, 0, 0].tolist() == [7, 9]


def test_our_rows_are_measured_as_evaluate_does_and_a_missing_peer_is_left_out(
    framed, small_set, tmp_path, monkeypatch, capsys
):
    save_model(framed, tmp_path / "mine.safetensors")
    peers = {"ours_centre": benchmark_peers.OursCentre, "dlib": benchmark_peers.Dlib}
    monkeypatch.setattr(benchmark, "PEERS", peers)
    record = benchmark.benchmark(small_set, Path(sys.executable), [tmp_path / "mine.safetensors"], threads=(1,))
    assert record["weights"] == {"mine.safetensors": sha256(tmp_path / "mine.safetensors")}
    [row] = record["rows"]
    expected = evaluate(framed, small_set.csv_file("test"), small_set.image_dir("test")).figures
    assert row["title"] == "mine, centre crop" and row["found"] == 3
    assert row["nme_box"] == pytest.approx(expected["nme_box"], rel=1e-3)  # the same, in the image's own pixels
    assert row["detector_ms"] is None and row["keypoints_ms"]["1"] > 0
    assert row["fitted"]["n"] == row["n"]
    assert list(record["left_out"]) == [benchmark_peers.Dlib.title]
    assert "No module named 'dlib'" in record["left_out"][benchmark_peers.Dlib.title]
    assert "left out: dlib 68" in capsys.readouterr().out
    with pytest.raises(benchmark.LeftOut, match=r"nowhere: .*'make benchmark' sets it up"):
        benchmark.run_peer("dlib", tmp_path / "test.npz", 1, tmp_path / "nowhere")


def test_every_point_of_the_68_has_its_mesh_points():
    groups = json.loads(benchmark_peers.MEDIAPIPE_MAP.read_text(encoding="utf-8"))
    assert len(groups) == 68 and all(0 <= point < 478 for group in groups for point in group)


def test_the_committed_benchmark_is_of_the_official_set_with_fitted_offsets_for_all():
    record = report.load(report.RESULTS / "benchmark.json")
    assert record["data"] == "official" and len(record["rows"]) + len(record["left_out"]) >= 5
    assert all(row["fitted"]["n"] == row["n"] == record["images"] for row in record["rows"])


def test_the_committed_benchmark_is_of_the_shipped_weights():
    record = report.load(report.RESULTS / "benchmark.json")
    shipped = report.MODEL_DIR.glob("keypoints_model_*.safetensors")
    assert record["weights"] == {path.name: sha256(path) for path in shipped}
