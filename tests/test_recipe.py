from __future__ import annotations

import itertools
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import face_points, file_names, refused
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import Dataset

from data_load import CenterCrop, Normalize, RandomCrop, ToTensor
from models import CoarseToFine, HeatmapNet
from training import metrics
from training import recipe as trainer
from training.prediction import predict
from training.recipe import LOSSES, Recipe, choose_device, fit, true_keypoints
from training.records import read_checkpoint, write_checkpoint

FAST = Recipe(epochs=4, batch_size=4, learning_rate=1e-2, weight_average=0.9)


class Tiny(nn.Module):
    """A small network with all that may make a resumed run differ: BatchNorm, dropout, random weights."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 16, 16), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2)
        )
        self.linear = nn.Linear(width * 14 * 14, 136)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.linear(self.layers(image))


class Faces(Dataset):
    """Faces of dots, each with a random crop; the reading ``interrupted_at`` raises like Ctrl-C."""

    def __init__(self, number: int, crop=RandomCrop, seed: int = 0, interrupted_at: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.points = [
            face_points(*random.uniform(100, 140, 2), random.uniform(50, 80)).clip(10, 229) for _ in range(number)
        ]
        self.crop, self.left = crop(224), interrupted_at

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> dict:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        image = np.full((240, 240), 60, np.uint8)
        for x, y in np.round(self.points[index]).astype(int):
            cv2.circle(image, (int(x), int(y)), 3, 255, -1)
        return ToTensor()(Normalize()(self.crop({"image": image, "keypoints": self.points[index].copy()})))


def tiny(seed: int = 0) -> Tiny:
    torch.manual_seed(seed)
    return Tiny()


def weights(net: nn.Module) -> dict:
    return {name: value.clone() for name, value in net.state_dict().items()}


def equal(first: dict, second: dict) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first) and first.keys() == second.keys()


# Learning -------------------------------------------------------------------------------------------------------------


def test_eight_samples_can_be_overfitted():
    faces = list(Faces(8, CenterCrop))  # the same crop each time
    torch.manual_seed(0)
    net = CoarseToFine(stage=lambda side: HeatmapNet(side, dropout=0))
    record = fit(net, faces, recipe=Recipe(epochs=40, batch_size=8, weight_average=0.5))
    assert record["history"][-1]["training_loss"] < 0.05 * record["history"][0]["training_loss"]
    net.train()  # 40 steps are too few for BatchNorm's running means: let it use the batch's own
    with torch.no_grad():
        output = net(torch.stack([face["image"] for face in faces]))
    predicted = Normalize.inverse(output).numpy().reshape(8, 68, 2)
    assert metrics.nme(predicted, true_keypoints(faces)).mean() < 5


def test_trained_network_has_the_averaged_weights_in_eval_mode():
    net, seen = tiny(), []
    hook = register_optimizer_step_post_hook(lambda *_: seen.append(net.linear.weight.detach().clone()))
    fit(net, Faces(9), recipe=FAST)
    hook.remove()
    average = seen[0]
    for step, value in enumerate(seen[1:], 1):
        decay = min(FAST.weight_average, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * value
    assert not net.training
    np.testing.assert_allclose(net.linear.weight.detach(), average, atol=1e-6)
    assert not torch.allclose(net.linear.weight, seen[-1], atol=1e-4)


def test_weights_depend_on_the_seed():
    results = []
    for seed in (0, 0, 1):
        net = tiny()
        torch.rand(7)  # whatever was drawn before
        fit(net, Faces(9), recipe=Recipe(epochs=2, batch_size=4, seed=seed))
        results.append(weights(net))
    assert equal(results[0], results[1]) and not equal(results[0], results[2])


def test_validation_set_is_measured_and_not_trained_on():
    alone, watched = tiny(), tiny()
    others = Faces(5, CenterCrop, seed=1)
    fit(alone, Faces(9), recipe=FAST)
    record = fit(watched, Faces(9), others, FAST)
    assert equal(weights(alone), weights(watched))
    last = record["history"][-1]
    assert last["nme_box"] == pytest.approx(metrics.nme(predict(watched, others), true_keypoints(others)).mean())
    errors = torch.from_numpy(predict(watched, others) - true_keypoints(others)) / 50
    expected = nn.functional.smooth_l1_loss(errors, torch.zeros_like(errors), beta=FAST.beta)
    assert last["validation_loss"] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize(("number", "batch_size"), [(9, 4), (1, 4), (5, 1)])
def test_last_batch_may_have_one_image(number, batch_size):
    net = tiny()
    if batch_size > 1 and number > 1:
        net.layers.append(nn.BatchNorm1d(4 * 14 * 14))  # refuses a batch of one
    record = fit(net, Faces(number), recipe=Recipe(epochs=2, batch_size=batch_size))
    assert all(np.isfinite(epoch["training_loss"]) for epoch in record["history"])


def test_large_batch_is_split_and_takes_the_same_step(monkeypatch):
    results, seen = [], []
    for at_once in (32, 4):
        monkeypatch.setattr(trainer, "AT_ONCE", at_once)
        torch.manual_seed(0)
        # Nothing random and no BatchNorm, which counts each part for itself.
        net = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(14 * 14, 136))
        hook = net.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
        record = fit(net, Faces(10), recipe=Recipe(epochs=1, batch_size=10))
        hook.remove()
        results.append((weights(net), record["history"][0]["training_loss"]))
    assert seen == [10, 4, 4, 2]
    (whole, loss), (parts, loss_of_parts) = results
    assert loss_of_parts == pytest.approx(loss, rel=1e-5)
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=1e-4, rtol=1e-3)


# Interruption and resumption ------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path):
    return tmp_path / "run.checkpoint"


def interrupt(at: int, **more) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(), Faces(10, interrupted_at=at), **{"recipe": FAST, **more})


@pytest.fixture(scope="module")
def uninterrupted() -> dict:
    net = tiny()
    fit(net, Faces(10), recipe=FAST)
    return weights(net)


def test_resumed_net_equals_the_uninterrupted_one_to_the_last_bit(checkpoint):
    """The rounding of CoarseToFine depends on its weights' memory format, channels-last."""

    def train(images: Dataset, **more) -> dict:
        torch.manual_seed(0)
        net = CoarseToFine()
        fit(net, images, recipe=Recipe(epochs=3, batch_size=4), **more)
        return weights(net)

    whole = train(Faces(8))
    with pytest.raises(KeyboardInterrupt):
        train(Faces(8, interrupted_at=20), checkpoint=checkpoint)
    assert equal(train(Faces(8), checkpoint=checkpoint), whole)


def test_second_training_with_the_same_checkpoint_is_refused(checkpoint):
    class StartsAnother(Faces):
        def __getitem__(self, index: int) -> dict:
            with refused(r"run\.checkpoint: got a file that another process is writing"):
                fit(tiny(), Faces(4), recipe=Recipe(epochs=1), checkpoint=checkpoint)
            return super().__getitem__(index)

    fit(tiny(), StartsAnother(4), recipe=Recipe(epochs=1), checkpoint=checkpoint)
    assert file_names(checkpoint.parent) == ["run.checkpoint"]


# In the first epoch, in the middle, just before the end, and while the second checkpoint is written.
@pytest.mark.parametrize("at", [5, 27, 40, "write"])
def test_interrupted_and_resumed_training_equals_the_uninterrupted_one(checkpoint, uninterrupted, monkeypatch, at):
    write, writes = Path.write_bytes, itertools.count(1)

    def interrupted(part: Path, content: bytes) -> int:
        if at == "write" and next(writes) == 2:
            write(part, bytes(content)[:1000])
            raise KeyboardInterrupt
        return write(part, content)

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    interrupt(0 if at == "write" else at, checkpoint=checkpoint)
    assert checkpoint.exists() == (at != 5)
    assert at != "write" or len(read_checkpoint(checkpoint)["history"]) == 1
    net = tiny(seed=0 if at == 5 else 99)  # from the second epoch on, all comes from the checkpoint
    record = fit(net, Faces(10), recipe=FAST, checkpoint=checkpoint)
    assert equal(weights(net), uninterrupted) and not net.training
    assert [epoch["epoch"] for epoch in record["history"]] == [1, 2, 3, 4]
    assert file_names(checkpoint.parent) == ["run.checkpoint"]  # the caller deletes it
    again = tiny(seed=99)  # a finished training reads no image
    assert fit(again, Faces(10, interrupted_at=1), recipe=FAST, checkpoint=checkpoint)["history"] == record["history"]
    assert equal(weights(again), uninterrupted)


@pytest.mark.parametrize("part", ["optimizer", "schedule", "average", "net", "history", "identity"])
@pytest.mark.parametrize("value", [None, {}, [1]], ids=["missing", "empty", "list"])
def test_checkpoint_that_lacks_a_part_is_refused(checkpoint, part, value):
    interrupt(25, checkpoint=checkpoint)
    content = read_checkpoint(checkpoint)
    del content[part]
    write_checkpoint(checkpoint, content if value is None else {**content, part: value})
    sentence = r"run\.checkpoint: (expected a checkpoint of fit, of this version|got a checkpoint of .*); delete it to"
    with refused(sentence):
        fit(tiny(), Faces(10), recipe=FAST, checkpoint=checkpoint)


@pytest.mark.parametrize(
    "other",
    [
        {"recipe": Recipe(epochs=5, batch_size=4)},
        {"net": Tiny(width=5)},
        {"training_set": Faces(11)},
        {"validation_set": Faces(2, CenterCrop)},
        {"validation_set": None},
        {"files": ["Bo_00.jpg"]},
    ],
    ids=["recipe", "network", "number of images", "number of validation images", "no validation", "files"],
)
def test_checkpoint_of_another_training_is_refused_and_stays(checkpoint, other):
    own = {"recipe": FAST, "checkpoint": checkpoint, "files": ["Ann_00.jpg"], "validation_set": Faces(3, CenterCrop)}
    interrupt(25, **own)
    before = checkpoint.read_bytes()
    with refused(r"run\.checkpoint: got a checkpoint of .*, expected .*; delete it"):
        fit(**{"net": tiny(), "training_set": Faces(10), **own, **other})
    assert checkpoint.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"junk", b"<html>"])
def test_file_that_is_no_checkpoint_is_refused(checkpoint, content):
    checkpoint.write_bytes(content)
    with refused(r"run\.checkpoint: expected a checkpoint of fit.*; delete it"):
        fit(tiny(), Faces(4), recipe=FAST, checkpoint=checkpoint)


# The losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "expected"),  # of the errors 0.05 and -2, by hand; beta is 0.1
    [
        ("smooth_l1", (0.5 * 0.05**2 / 0.1 + 2 - 0.05) / 2),
        ("mse", (0.05**2 + 2**2) / 2),
        ("mae", (0.05 + 2) / 2),
        ("log_cosh", 0.1 * (np.log(np.cosh(0.5)) + np.log(np.cosh(20))) / 2),
    ],
)
def test_loss_of_a_case_computed_by_hand(loss, expected):
    guess, true = torch.tensor([1.05, -1.0]), torch.tensor([1.0, 1.0])
    assert LOSSES[loss](0.1)(guess, true).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_is_zero_on_the_truth_and_finite_far_away(loss):
    far, criterion = torch.tensor([1e4], requires_grad=True), LOSSES[loss](0.1)
    criterion(far, torch.zeros(1)).backward()
    assert torch.isfinite(far.grad).all() and far.grad.item() > 0
    assert criterion(torch.ones(3), torch.ones(3)).item() == pytest.approx(0, abs=1e-7)


# What is recorded and printed -----------------------------------------------------------------------------------------


def test_record_has_what_is_needed_to_repeat_the_training():
    record = fit(tiny(), Faces(6), Faces(3, CenterCrop), FAST)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["recipe"] == {**asdict(FAST), "optimizer": "Adam", "schedule": "OneCycleLR"}
    assert record["samples"] == 6 and record["device"] == "cpu" and record["threads"] == torch.get_num_threads()
    assert [set(epoch) for epoch in record["history"]] == [
        {"epoch", "training_loss", "validation_loss", "nme_box", "seconds"}
    ] * 4
    assert record["seconds"] == pytest.approx(sum(epoch["seconds"] for epoch in record["history"]))
    assert {"python", "torch", "numpy", "opencv", "system", "processor"} <= set(record["versions"])
    if sys.platform != "win32":
        assert 50 < record["peak_memory_mb"] < 100_000


def test_without_a_terminal_each_epoch_is_a_line(capsys):
    fit(tiny(), Faces(6), Faces(3, CenterCrop), FAST)
    fit(tiny(), Faces(6), recipe=Recipe(epochs=1))
    captured, number = capsys.readouterr(), r"\d+\.\d+"
    more = rf", validation loss {number}, NME_box {number} %, \d+ s left"
    expected = [rf"epoch {i}/4: training loss {number}{more}" for i in range(1, 5)]
    expected.append(rf"epoch 1/1: training loss {number}, 0 s left")
    assert captured.err == ""
    for line, pattern in zip(captured.out.splitlines(), expected, strict=True):
        assert re.fullmatch(pattern, line)


def test_on_a_terminal_a_bar_shows_the_loss(monkeypatch, capfd):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fit(tiny(), Faces(6), recipe=Recipe(epochs=2, batch_size=2))
    told = capfd.readouterr()
    assert "epoch 1/2" in told.err and "loss=" in told.err and "6/6" in told.err


# Arguments ------------------------------------------------------------------------------------------------------------


def test_bad_arguments_are_refused():
    with refused("got no training samples, expected at least one"):
        fit(tiny(), [], recipe=FAST)
    with refused("got loss 'huge', expected one of smooth_l1, mse"):
        fit(tiny(), Faces(3), recipe=Recipe(loss="huge"))


def test_devices_are_chosen_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device() == choose_device("auto") == torch.device("cpu")
    with refused("got device 'gpu', expected auto, cpu, cuda or mps"):
        choose_device("gpu")
    for name in ("cuda", "cuda:1", "mps"):
        with refused(f"got device '{name}', which torch does not find on this machine"):
            choose_device(name)


def test_predict_returns_pixels_for_any_batch_size_and_keeps_the_mode():
    net, faces = tiny().train(), Faces(5, CenterCrop)
    images = torch.stack([faces[i]["image"] for i in range(5)])
    predicted = predict(net, faces)
    assert predicted.shape == (5, 68, 2) and predicted.dtype == np.float32 and net.training
    np.testing.assert_allclose(predict(net, images, batch_size=2), predicted, atol=1e-3)
    assert predict(net, images[:0]).shape == (0, 68, 2)
    expected = Normalize.inverse(net.eval()(images)).detach().numpy().reshape(5, 68, 2)
    np.testing.assert_allclose(predicted, expected, atol=1e-3)
