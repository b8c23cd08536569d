"""Training of the network for photographs: what an epoch shows, and its two parts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from data_load import find_data
from models import PhotoNet
from training import photo
from training.augmentation import FaceCrops, framed_transform, gentle_transform, photo_transform
from training.photo import PhotoData
from training.recipe import PHOTO_RECIPE, fit, settling
from training.weights import save_model

RECIPE = replace(PHOTO_RECIPE, epochs=3, batch_size=4)


@pytest.fixture
def data() -> PhotoData:
    sample = find_data("sample")
    names = [f"person_{person:03d}_00.jpg" for person in range(12)]
    faces = FaceCrops(sample.csv_file("training"), sample.image_dir("training"), names[:8], photo_transform())
    judged = FaceCrops(sample.csv_file("training"), sample.image_dir("training"), names[8:], framed_transform())
    box = {"scale": 1.8, "dx": 0.0, "dy": 0.1, "box_scale": 1.2, "box_dx": 0.0, "box_dy": -0.2}
    return PhotoData({"rendered": [faces]}, judged, None, [], box)


def test_the_second_part_is_a_third_as_long_with_views_of_its_own_seed():
    second = settling(replace(PHOTO_RECIPE, epochs=16, seed=3))
    assert (second.epochs, second.seed) == (5, 10)
    assert second.learning_rate < PHOTO_RECIPE.learning_rate and second.batch_size == PHOTO_RECIPE.batch_size


def test_gentle_views_leave_most_images_unspoilt(data):
    torch.manual_seed(0)
    [faces] = data.training["rendered"]
    damage, view = gentle_transform().transforms[1], {"image": faces.crops[0], "keypoints": faces.keypoints[0]}
    kept = [damage(view)["image"] is view["image"] for _ in range(100)]
    assert 45 <= sum(kept) <= 75


def test_a_training_cut_off_in_its_second_part_goes_on_to_the_same_weights(data, tmp_path, monkeypatch):
    def train(name: str) -> tuple[torch.nn.Module, dict]:
        torch.manual_seed(RECIPE.seed)
        return photo.train(PhotoNet(), data, RECIPE, tmp_path / name)

    whole, record = train("whole.safetensors")
    assert len(record["history"]) == 3 and len(record["settled"]["history"]) == 1
    assert record["seconds"] > 0
    for file in photo.checkpoints(tmp_path / "whole.safetensors"):
        file.unlink(missing_ok=True)
    assert not [file for file in tmp_path.iterdir() if file.suffix != ".onnx"]

    def cut_off(net, faces, validation, recipe, *more):
        if recipe.epochs == 1:
            raise KeyboardInterrupt
        return fit(net, faces, validation, recipe, *more)

    data.show(photo_transform())
    monkeypatch.setattr(photo, "fit", cut_off)
    with pytest.raises(KeyboardInterrupt):
        train("cut.safetensors")
    trained = []
    monkeypatch.setattr(photo, "fit", lambda *given: trained.append(given[3].epochs) or fit(*given))
    data.show(photo_transform())
    resumed, _ = train("cut.safetensors")
    assert trained == [1]
    # Nor is either part trained again where only the weights could not be saved.
    monkeypatch.setattr("training.recipe.train_epoch", None)
    resumed, _ = train("cut.safetensors")
    save_model(resumed, tmp_path / "cut.safetensors")
    left = {file.name for file in tmp_path.iterdir() if file.suffix != ".onnx"} - {"cut.safetensors"}
    assert left < {file.name for file in photo.checkpoints(tmp_path / "cut.safetensors")}
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_one_epoch_is_not_settled(data, tmp_path):
    _, record = photo.train(PhotoNet(), data, replace(RECIPE, epochs=1), tmp_path / "short.safetensors")
    assert "settled" not in record and len(record["history"]) == 1
