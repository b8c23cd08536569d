"""Crops, assignment, loss and the loop of the detector's training."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import face_points

from keypoints.detectors import NetworkDetector
from keypoints.files import sha256
from keypoints.geometry import REFERENCE_FIVE, face_crop, fit_similarity
from models import FaceDetector
from training.detector import DetectorRecipe, assign, cells, decode, detector_loss, labelled, main, train
from training.detector_data import DetectorViews, Picture, collate, move
from training.export import export_onnx
from training.weights import load_model


def test_a_similarity_is_found_again():
    angle, points = np.radians(33), np.random.default_rng(0).random((1, 5, 2)) * 90
    turn = 1.7 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = fit_similarity(points, points @ turn.T + [5, -8])[0]
    assert matrix == pytest.approx(np.column_stack([turn, [5, -8]]))


def test_a_crop_shows_the_reference_face_where_it_should():
    five = REFERENCE_FIVE * 70 + [300, 40]
    matrix = face_crop(five[None], 128)[0]
    assert five @ matrix[:, :2].T + matrix[:, 2] == pytest.approx(REFERENCE_FIVE * 128 - 0.5)


def output_of(box: torch.Tensor, points: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """What a network would have to say for each cell to give this box and these points."""
    stride, size = grid[:, 2:], box[2:] - box[:2]
    parts = [torch.full((len(grid), 1), -9.0), ((box[:2] + box[2:]) / 2 - grid[:, :2]) / stride, (size / stride).log()]
    return torch.cat([*parts, ((points[None] - grid[:, None, :2]) / stride[:, None]).flatten(1)], dim=1)


def test_a_perfect_answer_costs_nothing_but_its_score():
    grid, box = cells(96, 96), torch.tensor([30.0, 20.0, 70.0, 74.0])
    points = torch.tensor([[40.0, 40], [60, 40], [50, 50], [42, 60], [58, 60]])
    output = output_of(box, points, grid)
    assert torch.allclose(decode(output, grid)[0], box.expand(len(grid), 4), atol=1e-3)
    faces = box[None, None], points[None, None], torch.tensor([[True]])
    chosen, quality, ignored = assign(output[None, :, 0], decode(output, grid)[0][None], grid, faces[0], faces[2])
    assert 1 <= (chosen == 0).sum() <= 10 and not ignored.any()
    assert quality[chosen == 0].tolist() == pytest.approx([1] * int((chosen == 0).sum()), abs=1e-3)
    _, parts = detector_loss(output[None], grid, *faces)
    assert parts["box"].item() == pytest.approx(0, abs=1e-3) and parts["points"].item() == pytest.approx(0, abs=1e-3)
    _, worse = detector_loss(output[None], grid, faces[0] + 9, faces[1] + 9, faces[2])
    assert worse["box"] > 0.2 and worse["points"] > 0.2


def test_a_face_that_is_not_sure_is_neither_face_nor_background():
    grid, box = cells(96, 96), torch.tensor([[30.0, 20.0, 70.0, 74.0]])
    output = torch.zeros(len(grid), 15)
    predicted = decode(output, grid)[0]
    chosen, _, ignored = assign(output[None, :, 0], predicted[None], grid, box[None], torch.tensor([[False]]))
    inside = ((grid[:, :2] > box[0, :2]) & (grid[:, :2] < box[0, 2:])).all(dim=1)
    assert (chosen == -1).all() and ignored[0, inside].all() and not ignored.all()


def test_images_with_different_numbers_of_faces_share_a_batch_and_padding_is_no_face():
    grid, few, many = cells(96, 96), torch.tensor([[30.0, 20.0, 70.0, 74.0]]), torch.rand(3, 2) * 60
    many = torch.cat([many, many + 25], dim=1)
    unknown = [torch.full((n, 5, 2), torch.nan) for n in (1, 3)]
    image, sure = torch.zeros(1, 96, 96, dtype=torch.uint8), [torch.ones(n, dtype=torch.bool) for n in (1, 3)]
    _, *faces = collate([(image, few, unknown[0], sure[0]), (image, many, unknown[1], sure[1])])
    output = torch.randn(2, len(grid), 15, generator=torch.Generator().manual_seed(0)) * 0.1
    boxes = decode(output, grid)[0]
    together = assign(output[..., 0], boxes, grid, faces[0], faces[2])
    alone = assign(output[:1, :, 0], boxes[:1], grid, few[None], sure[0][None])
    assert all(torch.equal(a[:1], b) for a, b in zip(together, alone, strict=True))


def test_a_mirror_swaps_the_points_of_both_sides():
    face = labelled(np.zeros((200, 200), np.uint8), face_points(100, 100, 60))
    mirror = np.array([[-1.0, 0.0, 200.0], [0.0, 1.0, 0.0]])
    moved = move(face, mirror, np.zeros((200, 200), np.uint8))
    expected = face.points[:, [1, 0, 2, 4, 3]] * [-1, 1] + [200, 0]
    assert moved.points == pytest.approx(expected, abs=1e-3) and moved.sure.all()


def test_a_view_depends_on_its_number_alone():
    picture = Picture(
        np.random.default_rng(0).integers(0, 256, (120, 160), dtype=np.uint8),
        np.array([[40, 30, 90, 95]], np.float32),
        np.full((1, 5, 2), np.nan, np.float32),
        np.ones(1, bool),
    )
    first, again, later = (DetectorViews([([picture], 1.0)], 4, 96) for _ in range(3))
    later.start = 2
    assert all(torch.equal(a, b) for a, b in zip(first[2][:2], again[2][:2], strict=True))
    assert torch.equal(first[2][0], later[0][0]) and not torch.equal(first[1][0], first[2][0])


@pytest.fixture
def recipe() -> DetectorRecipe:
    return DetectorRecipe(views=32, views_an_epoch=8, batch_size=4, size=96)


def test_a_detector_s_training_goes_on_to_the_same_weights(tmp_path, monkeypatch, recipe):
    pictures = [labelled(np.full((120, 120), 90, np.uint8), face_points(60, 60, 50))] * 2
    monkeypatch.setattr("training.detector.read_folder", lambda *_: ({"heads": pictures}, {"heads": pictures}))
    whole = train(tmp_path, tmp_path / "whole.safetensors", recipe)
    calls, measured = [], train.__globals__["measure"]

    def interrupted(*given):
        calls.append(given)
        raise KeyboardInterrupt

    monkeypatch.setattr("training.detector.measure", interrupted)
    with pytest.raises(KeyboardInterrupt):  # measured at the end of the last epoch only: three are on disk
        train(tmp_path, tmp_path / "cut.safetensors", recipe)
    monkeypatch.setattr("training.detector.measure", measured)
    assert calls and not (tmp_path / "cut.safetensors").exists()
    with pytest.raises(ValueError, match=r"cut\.checkpoint: got the recipe .*, expected "):
        train(tmp_path, tmp_path / "cut.safetensors", replace(recipe, views=64))
    resumed = train(tmp_path, tmp_path / "cut.safetensors", recipe)
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not list(tmp_path.glob("*.checkpoint"))
    train(tmp_path, tmp_path / "further.safetensors", recipe, start=tmp_path / "cut.safetensors")
    first, further = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("cut", "further"))
    assert further["start"]["sha256"] == first["sha256"] != further["sha256"] and "start" not in first


def test_a_detector_trained_on_the_sample_finds_faces_without_pytorch(tmp_path, capsys):
    out = tmp_path / "tiny.safetensors"
    main(["train", "--folder", str(tmp_path), "--out", str(out), "--views", "8", "--epoch", "8", "--batch", "4"])
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["network"] == "FaceDetector" and record["images"] == {"heads": 600} and record["seconds"] > 0
    assert record["sha256"] == sha256(out) and record["history"][-1]["heads"]["faces"] == 150
    image = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    found = NetworkDetector(model=out.with_suffix(".onnx")).find(image, least=0.0)
    assert len(found) and found.points.shape == (len(found), 5, 2)
    export_onnx(load_model(out), tmp_path / "again")
    assert (tmp_path / "again.onnx").read_bytes() == out.with_suffix(".onnx").read_bytes()


def test_the_detector_is_within_its_budget():
    net, products = FaceDetector().eval(), []
    for layer in net.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(lambda m, _, out: products.append(m.weight.numel() * out[0, 0].numel()))
    net(torch.zeros(1, 1, 256, 320))
    assert sum(p.numel() for p in net.parameters()) <= 300_000 and sum(products) * 240 / 256 <= 40e6
