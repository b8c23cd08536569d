"""Training of the network for photographs: crops, loss, and a short training with all that it leaves."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from helpers import PHOTOS, face_points

from keypoints.detection import KeypointDetector
from keypoints.geometry import FACE_SHARE, REFERENCE_FIVE, five_points
from keypoints.landmarks import REFERENCE_FACE
from models import PhotoNet, expected_points
from training import photo
from training.photo import Faces, PhotoRecipe, PhotoViews, gaussians, photo_loss
from training.weights import load_model, save_model


def test_view_shows_a_mark_where_its_keypoint_says():
    random = np.random.default_rng(0)
    crops, points = [], []
    for _ in range(4):
        face = face_points(160, 160, 120) + random.normal(0, 2, 2)
        crop = np.zeros((320, 320), np.uint8)
        x, y = face[36].round().astype(int)  # an outer eye corner: the mirror must make it the other eye's
        crop[y - 2 : y + 3, x - 2 : x + 3] = 255
        crops.append(crop)
        points.append(face.astype(np.float32))
    recipe = PhotoRecipe(negatives=0.0, damage=0.0)
    views = PhotoViews({"wild": Faces(crops, np.stack(points), [""] * 4)}, [], [], recipe, 128)
    sides = set()
    for crop, _, truth, by_people in (views[i] for i in range(12)):
        y, x = np.unravel_index(crop[0].numpy().astype(float).argmax(), crop.shape[1:])
        distances = np.linalg.norm(truth[[36, 45]].numpy() * 128 - (x + 0.5, y + 0.5), axis=1)
        assert distances.min() < 3 and by_people
        sides.add(int(distances.argmin()))
    assert sides == {0, 1}


def test_heatmaps_around_a_point_are_expected_there():
    points = torch.tensor([[[0.3, 0.6], [0.52, 0.47]]])
    heatmaps = gaussians(points, 32, 1.0)
    assert heatmaps.sum(dim=(2, 3)).flatten().tolist() == pytest.approx([1, 1])
    found, _ = expected_points((heatmaps + 1e-9).log())
    assert torch.allclose(found, points, atol=2e-3)


def test_the_loss_of_perfect_heatmaps_is_small_and_a_crop_without_a_face_teaches_the_score_alone():
    truth = torch.tensor(np.stack([face_points(0.5, 0.5, 0.35), np.full((68, 2), np.nan)]), dtype=torch.float32)
    heatmaps = torch.stack([(gaussians(truth[:1], 32, 1.0)[0] + 1e-9).log(), torch.zeros(68, 32, 32)])
    good, parts = photo_loss((heatmaps, torch.tensor([9.0, -9.0])), truth, PhotoRecipe())
    assert parts["error"].item() < 1 and good < 0.05
    bad, _ = photo_loss((heatmaps, torch.tensor([-9.0, 9.0])), truth, PhotoRecipe())
    assert bad > good + 0.3


def test_eight_crops_are_learned_by_heart():
    torch.manual_seed(0)
    net = PhotoNet((8, 16, 24, 32, 32), (1, 1, 1, 1, 1), 16)
    random = np.random.default_rng(0)
    points = np.stack([face_points(*random.uniform(0.45, 0.55, 2), 0.5) for _ in range(8)])
    truth, crops = torch.tensor(points, dtype=torch.float32), torch.zeros(8, 1, 128, 128)
    for crop, face in zip(crops, points, strict=True):
        x, y = np.clip(face * 128, 1, 126).astype(int).T
        crop[0, y, x] = 1
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    errors = []
    for _ in range(60):
        loss, parts = photo_loss(net(crops), truth, PhotoRecipe())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(parts["error"].item())
    assert errors[-1] < 3 < errors[0]  # percent of the face's size


def test_training_leaves_weights_a_record_and_a_usable_onnx_file(tmp_path, monkeypatch, few_heads, capsys):
    monkeypatch.setattr(photo, "read_faces", lambda *_: ({"training": few_heads, "validation": few_heads}, [], []))
    out = tmp_path / "photo.safetensors"
    photo.main(["train", "--views", "16", "--epoch", "8", "--batch", "4", "--out", str(out), "--folder", str(tmp_path)])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["photo.json", "photo.onnx", "photo.safetensors"]
    record = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["recipe"]["views"] == 16 and len(record["history"]) == 2 and "rendered_box" in record["history"][-1]
    assert KeypointDetector(out, min_score=0)(PHOTOS / "grace_hopper.jpg")
    assert capsys.readouterr().out.endswith("no wild/, so every keypoint's confidence stays one half\n")


def test_training_ends_with_the_confidence_where_its_sets_are_there(tmp_path, monkeypatch, few_heads):
    monkeypatch.setattr(photo, "read_faces", lambda *_: ({"training": few_heads, "validation": few_heads}, [], []))
    fitted = []
    monkeypatch.setattr("training.confidence.calibrate_file", lambda *given: fitted.append(given))
    for name in ("official", "wild"):
        (tmp_path / name).mkdir()
    out = tmp_path / "photo.safetensors"
    photo.main(["train", "--views", "4", "--epoch", "4", "--batch", "4", "--out", str(out), "--folder", str(tmp_path)])
    assert fitted == [(out, tmp_path)]


def test_teacher_labels_faces_on_which_its_views_agree(tmp_path, monkeypatch):
    teacher = PhotoNet((8, 8, 8, 8, 8), (1, 1, 1, 1, 1), 8, side=64)
    # It always finds the reference face in the middle, so the next crop lies where the last one did.
    face = REFERENCE_FACE[:, :2]
    low, high = face.min(axis=0), face.max(axis=0)
    face = (face - (low + high) / 2) / (np.sqrt(np.prod(high - low)) / FACE_SHARE) + 0.5
    truth = torch.tensor(face, dtype=torch.float32)[None]
    heatmaps = (gaussians(truth, 16, 0.7) + 1e-9).log()
    teacher.forward = lambda crop: (heatmaps.expand(len(crop), -1, -1, -1), torch.full((len(crop),), 9.0))
    five = REFERENCE_FIVE * 100 + 49.5
    np.savez(tmp_path / "starts.npz", **{"unlabelled/a.jpg": np.append(five.ravel(), 0.9)})
    monkeypatch.setattr(photo, "grey_image", lambda path: np.zeros((240, 240), np.uint8))
    monkeypatch.setattr(photo, "held_out_names", lambda hard: set())
    photo.label(tmp_path, None, teacher, workers=0, agreement=1.0)
    [(name, points)] = np.load(tmp_path / photo.TAUGHT_FILE).items()
    assert name == "unlabelled/a.jpg" and points.shape == (68, 2)
    assert np.abs(points - (face * 100 + 50)).max() < 5


def test_starts_are_the_five_points_of_the_face_in_the_middle(tmp_path):
    (tmp_path / "unlabelled" / "some").mkdir(parents=True)
    shutil.copy(PHOTOS / "grace_hopper.jpg", tmp_path / "unlabelled" / "some")
    [(name, five)] = photo.find_starts(tmp_path).items()
    [face] = KeypointDetector()(PHOTOS / "grace_hopper.jpg")
    assert name == "unlabelled/some/grace_hopper.jpg"
    assert np.abs(five.reshape(5, 2) - five_points(face.keypoints)).max() < 3


def test_weights_of_other_sizes_are_loaded_again(tmp_path):
    net = PhotoNet((8, 8, 8, 8, 8), (1, 1, 1, 1, 1), 8, side=64)
    save_model(net, tmp_path / "small.safetensors")
    again = load_model(tmp_path / "small.safetensors")
    assert again.side == 64 and again.arguments == net.arguments
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


@pytest.fixture
def few_heads() -> dict[str, Faces]:
    points = np.stack([face_points(160, 160, 120)] * 4).astype(np.float32)
    crops = list(np.random.default_rng(0).integers(0, 256, (4, 320, 320), dtype=np.uint8))
    return {"rendered": Faces(crops, points, ["a.jpg"] * 4)}


def test_training_that_starts_from_weights_tells_of_theirs(tmp_path, monkeypatch, few_heads):
    monkeypatch.setattr(photo, "read_faces", lambda *_: ({"training": few_heads, "validation": few_heads}, [], []))
    recipe, records, start = photo.PhotoRecipe(views=8, views_an_epoch=8, batch_size=4), [], None
    for name in ("first", "second"):
        net = PhotoNet((8, 8, 8, 8, 8), (1, 1, 1, 1, 1), 8, side=64)
        records.append(photo.train(tmp_path, tmp_path / f"{name}.safetensors", recipe, net, workers=0, start=start))
        start = tmp_path / f"{name}.safetensors"
    first, second = records
    assert "start" not in first and second["start"]["seconds"] == first["seconds"]
    assert second["start"]["views"] == first["history"][-1]["views"] == 8
    assert second["start"]["recipe"] == first["recipe"] and second["faces"] == {"rendered": 4}
