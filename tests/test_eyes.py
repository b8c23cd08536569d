"""The network that tells how far eyes are open, and its training."""

import json
from itertools import islice

import numpy as np
import torch

from data_load import find_data
from keypoints.detection import KeypointDetector
from keypoints.files import sha256
from keypoints.geometry import five_points
from keypoints.landmarks import FLIP_INDEX
from keypoints.network import open_session
from keypoints.signals import EYE_MODEL, EYE_SIDE, eye_crops, eye_openings
from models import EyeNet
from training import eyes as trainer
from training.export import export_onnx


def test_the_record_is_of_the_shipped_file_and_the_network_tells_closed_eyes_better_than_the_keypoints():
    record = json.loads(EYE_MODEL.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["sha256"] == sha256(EYE_MODEL) and EYE_MODEL.stat().st_size < 3e5
    figures = record["history"][-1]["wild"]
    assert figures["network"]["auc"] > figures["keypoints"]["auc"]
    assert figures["network"]["of_closed"] < 0.12 < figures["keypoints"]["of_closed"]


def test_crops_are_levelled_and_the_right_eye_is_mirrored():
    data = find_data("sample").dataset("test")
    image, keypoints = data[0]["image"].mean(axis=2).astype(np.uint8), data.keypoints[0]
    right, left = eye_crops(image, keypoints)
    assert right.shape == left.shape == (EYE_SIDE, EYE_SIDE)
    flipped = keypoints * [-1, 1] + [image.shape[1] - 1, 0]
    other = eye_crops(np.ascontiguousarray(image[:, ::-1]), flipped[FLIP_INDEX])
    assert np.abs(np.float64(other) - [left, right]).mean() < 3
    turned = np.ascontiguousarray(np.rot90(image))  # (x, y) → (y, width - 1 - x)
    points = np.stack([keypoints[:, 1], image.shape[1] - 1 - keypoints[:, 0]], axis=1)
    assert np.abs(np.float64(eye_crops(turned, points)) - [right, left]).mean() < 3
    assert np.ptp(five_points(points)[:2, 0]) < np.ptp(five_points(points)[:2, 1])


def test_shipped_network_tells_how_far_eyes_of_the_samples_heads_are_open():
    data, detector = find_data("sample").dataset("test"), KeypointDetector()
    true, told = trainer.openings_of(data.keypoints), []
    for number in range(60):
        image = data[number]["image"]
        prediction = detector.network.locate(
            [image], np.column_stack([detector.boxes(data.keypoints[number]), [0.0]]), None
        )
        told.append(eye_openings(prediction.crops[0]))
    assert np.corrcoef(np.ravel(told), true[:60].ravel())[0, 1] > 0.7


def test_export_gives_what_the_network_says(tmp_path):
    torch.manual_seed(0)
    net = EyeNet().eval()
    [file] = export_onnx(net, tmp_path / "eyes.onnx")
    crops = torch.rand(5, 1, EYE_SIDE, EYE_SIDE)
    [told] = open_session(file).run(None, {"crop": crops.numpy()})
    assert told.shape == (5,) and np.allclose(told, net(crops).detach(), atol=2e-3)  # weights are rounded to 16 bits


def test_training_reads_labelled_faces_and_writes_network_and_record(tmp_path, monkeypatch):
    real = trainer.labelled_faces

    def some(folder):
        for part in ("training", "validation"):
            yield from islice((face for face in real(folder) if face[0] == part), 12)

    monkeypatch.setattr(trainer, "labelled_faces", some)
    trainer.main(["--folder", str(tmp_path), "--out", str(tmp_path / "eyes.onnx"), "--views", "256"])
    record = json.loads((tmp_path / "eyes.json").read_text(encoding="utf-8"))
    assert record["sha256"] == sha256(tmp_path / "eyes.onnx")
    assert record["eyes"] == {"training rendered": 24, "validation rendered": 24}
    assert record["history"][-1]["rendered"]["eyes"] == 24 and not (tmp_path / "eyes.checkpoint").exists()
