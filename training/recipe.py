"""Training: the loop with its schedule, averaged weights, checkpoints and record."""

from __future__ import annotations

import hashlib
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from data_load import Normalize
from keypoints.files import brief, lock
from models import HeatmapNet
from training import distributed, metrics
from training.prediction import predict
from training.records import peak_memory_mb, read_checkpoint, versions, write_checkpoint


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; every value with the reason for it."""

    epochs: int = 8  # the course's limit of patience on a CPU
    batch_size: int = 10  # small: many steps in few epochs
    learning_rate: float = 1e-2  # the peak of OneCycle: reached after the warm-up, near zero at the end
    warm_up: float = 0.1  # share of the steps until the peak: short, since there are few steps
    beta2: float = 0.99  # Adam averages over 100 steps, not 1,000: there are only some 2,800
    loss: str = "smooth_l1"  # a key of LOSSES
    beta: float = 0.05  # SmoothL1 turns from square to absolute at 0.05 × 50 = 2.5 pixels
    weight_average: float = 0.998  # averages over about 500 steps
    clip: float | None = None  # the largest norm of a step's gradient; None: any
    bfloat16: bool = False  # convolutions with 16 bits: twice as fast on processors made for it, slower on others
    seed: int = 0  # of order, crops and dropout; the caller seeds the initial weights


class LogCosh(nn.Module):
    """Mean of ``beta · log cosh(error / beta)``: smooth everywhere; square near zero, absolute far from it.

    >>> LogCosh(beta=0.1)(torch.tensor([1.0, 0.0]), torch.zeros(2)).mul(1e4).round()  # (1 - 0.1 · log 2) / 2
    tensor(4653.)
    """

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        size = (predicted - true).abs() / self.beta  # log cosh x = |x| + log(1 + exp(-2|x|)) - log 2 never overflows
        return self.beta * (size + functional.softplus(-2 * size) - math.log(2)).mean()


# Regression losses of the course's reading list; training/studies/study.py compares them.
LOSSES = {
    "smooth_l1": lambda beta: nn.SmoothL1Loss(beta=beta),  # Huber's loss divided by beta
    "mse": lambda beta: nn.MSELoss(),
    "mae": lambda beta: nn.L1Loss(),
    "log_cosh": LogCosh,
}


def choose_device(name: str = "cpu") -> torch.device:
    """Choose a device by name; 'auto' takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        ValueError: an unknown name, or a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind = name.split(":")[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise ValueError(f"got device {name!r}, expected auto, cpu, cuda or mps")
    if (kind == "cuda" and not torch.cuda.is_available()) or (kind == "mps" and not torch.backends.mps.is_available()):
        raise ValueError(f"got device {name!r}, which torch does not find on this machine; expected auto or cpu")
    return torch.device(name)


def true_keypoints(dataset: Dataset) -> np.ndarray:
    """Return the labels of a transformed dataset in pixels of the network's input: (N, 68, 2) float32."""
    return np.stack([Normalize.inverse(dataset[i]["keypoints"]).numpy() for i in range(len(dataset))])


# Images in one forward pass. A larger batch is split into equal parts whose gradients are accumulated, so that it
# takes no more memory; BatchNorm then normalises each part alone ("ghost batches", https://arxiv.org/abs/1705.08741).
AT_ONCE = 32


def known_loss(criterion: nn.Module, predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Return the loss over the coordinates that are labelled (not NaN); 0 where none is."""
    known = ~torch.isnan(true)
    if known.all():
        return criterion(predicted, true)
    return criterion(predicted[known], true[known]) if known.any() else 0 * predicted.sum()


def train_epoch(
    net: nn.Module,
    loader: DataLoader,
    criterion: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    average: AveragedModel | None,
    report: Callable[[float], None] = lambda loss: None,
    clip: float | None = None,
    call: nn.Module | None = None,
) -> float:
    """Train on every image once.

    Args:
        schedule: sets the learning rate anew after each step.
        average: the running average of the weights, if one is kept.
        report: called after each step with the mean loss so far.
        clip: the largest norm of a step's gradient.
        call: what is called instead of ``net``, see :func:`training.distributed.synchronise_gradients`.

    Returns:
        the mean loss.
    """
    call = call or net
    net.train()
    device = next(net.parameters()).device
    total, count = 0.0, 0
    for batch in loader:
        images, keypoints = batch["image"].to(device), batch["keypoints"].to(device)
        parts = math.ceil(len(images) / AT_ONCE)
        optimizer.zero_grad(set_to_none=True)
        for number, (part, true) in enumerate(zip(images.chunk(parts), keypoints.flatten(1).chunk(parts), strict=True)):
            with distributed.no_sync(call, number + 1 < parts):
                predicted = call(part, every_output=True) if hasattr(net, "outputs") else call(part)
                loss = known_loss(criterion, predicted, true.expand_as(predicted))  # of all outputs alike
                loss = loss * (len(part) / len(images))
                loss.backward()
            total += loss.item() * len(images)
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()
        schedule.step()
        if average is not None:
            average.update_parameters(net)
        count += len(images)
        report(total / count)
    return total / count


def fit(
    net: nn.Module,
    training_set: Dataset,
    validation_set: Dataset | None = None,
    recipe: Recipe | None = None,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    files: Sequence[str] = (),
) -> dict:
    """Train ``net`` in place: the recipe's loss, Adam, OneCycle; it ends with the averaged weights, in eval mode.

    The network returned is the running average of the weights over the last few hundred steps (Izmailov et al.,
    https://arxiv.org/abs/1803.05407), which is steadier than the last step's own. The schedule is OneCycle (Smith and
    Topin, https://arxiv.org/abs/1708.07120).

    Args:
        training_set: samples with image (1, 224, 224) float32 and keypoints (68, 2) float32, network units; missing
            points are NaN, and the loss leaves them out.
        validation_set: samples of other people without random transforms; evaluated after each epoch.
        recipe: see :class:`Recipe`.
        device: 'cpu', 'cuda', 'mps' or 'auto'.
        checkpoint: a file written after each epoch. Where it exists, training continues from it, with the same result
            as without the interruption, and returns at once from a finished one. The caller deletes it once the weights
            are saved.
        files: which images the sets hold; a checkpoint of other files is refused.

    Returns:
        a record, ready for JSON: recipe, versions, seconds, peak memory, and one entry an epoch with training_loss,
        validation_loss, nme_box (percent, on the validation set) and seconds.

    Raises:
        ValueError: no samples or epochs, the checkpoint belongs to another recipe, network or other images, or another
            process is writing it.
    """
    alone = nullcontext() if checkpoint is None or not distributed.world().first else lock(checkpoint)
    with alone:
        return _fit(net, training_set, validation_set, recipe or Recipe(), device, checkpoint, files)


def _fit(net, training_set, validation_set, recipe: Recipe, device, checkpoint, files) -> dict:
    if len(training_set) == 0:
        raise ValueError("got no training samples, expected at least one")
    if recipe.epochs < 1:
        raise ValueError(f"got {recipe.epochs} epochs, expected at least one")
    if recipe.loss not in LOSSES:
        raise ValueError(f"got loss {recipe.loss!r}, expected one of {', '.join(LOSSES)}")
    world, target = distributed.world(), distributed.own_device(choose_device(device))
    net.to(target)
    for part in net.modules():
        if isinstance(part, HeatmapNet):
            part.bfloat16 = recipe.bfloat16
    average = AveragedModel(net, avg_fn=_averaging(recipe.weight_average), use_buffers=True)
    criterion = LOSSES[recipe.loss](recipe.beta)
    optimizer = torch.optim.Adam(net.parameters(), lr=recipe.learning_rate, betas=(0.9, recipe.beta2))
    # A last batch of one is dropped: its step is noisy, and BatchNorm after a linear layer refuses it.
    generator = torch.Generator()
    loader = DataLoader(
        training_set,
        recipe.batch_size,
        shuffle=True,
        generator=generator,
        drop_last=len(training_set) % recipe.batch_size == 1 and len(training_set) > 1,
    )
    loader = distributed.shard_batches(loader)
    steps = recipe.epochs * len(loader)
    warm_up = max(recipe.warm_up, min(0.3, 3 / steps))  # OneCycleLR divides by zero for a warm-up of one step
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=steps, pct_start=warm_up
    )
    state = {"net": net, "average": average, "optimizer": optimizer, "schedule": schedule}
    history: list[dict] = []
    identity = {
        **asdict(recipe),
        "network": type(net).__name__,
        "parameters": sum(p.numel() for p in net.parameters()),
        "samples": len(training_set),
        "files": hashlib.sha256("\n".join(files).encode()).hexdigest(),
        "validation": None if validation_set is None else len(validation_set),
    }
    if checkpoint is not None and distributed.agreed(Path(checkpoint).exists()):
        history = _resume(Path(checkpoint), state, identity)
        distributed.agreed(True)  # all have read it before the first may remove it

    shared = distributed.synchronise_gradients(net)
    done, total = len(history), recipe.epochs
    # A bar on a terminal; elsewhere, as in a notebook or a log file, only the line of each epoch.
    bar = tqdm(total=steps, initial=done * len(loader), unit="batch", disable=None if world.first else True)

    def report(loss: float) -> None:
        bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        bar.update()

    began_training = time.perf_counter()
    for epoch in range(done, total):
        began = time.perf_counter()
        bar.set_description(f"epoch {epoch + 1}/{total}")
        # Every epoch has its own seed, so that a resumed run draws what the uninterrupted one would have drawn.
        torch.manual_seed(recipe.seed * 1000 + epoch + 1_000_003 * world.rank)  # every process has its own crops
        generator.manual_seed(recipe.seed * 1000 + epoch)
        loss = distributed.mean(
            train_epoch(net, loader, criterion, optimizer, schedule, average, report, recipe.clip, shared)
        )
        entry = {"epoch": epoch + 1, "training_loss": loss}
        if validation_set is not None and world.first:
            predicted, true = predict(average.module, validation_set), true_keypoints(validation_set)
            difference = torch.from_numpy(predicted - true) / (Normalize.inverse(1) - Normalize.inverse(0))
            difference = difference[~torch.isnan(difference)]
            entry["validation_loss"] = criterion(difference, torch.zeros_like(difference)).item()
            entry["nme_box"] = float(metrics.nme(predicted, true, "box").mean())
        entry["seconds"] = time.perf_counter() - began
        entry = distributed.from_first(entry)
        history.append(entry)
        if checkpoint is not None and world.first:
            _save_checkpoint(Path(checkpoint), state, identity, history)
        if world.first:
            left = (time.perf_counter() - began_training) / (epoch + 1 - done) * (total - epoch - 1)
            tqdm.write(f"epoch {epoch + 1}/{total}: {_describe(entry)}, {left:.0f} s left")
            sys.stdout.flush()
    bar.close()

    net.load_state_dict(average.module.state_dict())
    net.eval()
    return {
        "recipe": {**asdict(recipe), "optimizer": "Adam", "schedule": "OneCycleLR"},
        "samples": len(training_set),
        "history": history,
        "seconds": sum(epoch["seconds"] for epoch in history),
        "peak_memory_mb": peak_memory_mb(),
        "device": str(target),
        "processes": world.size,
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def _describe(entry: dict) -> str:
    text = f"training loss {entry['training_loss']:.4f}"
    if "nme_box" in entry:
        text += f", validation loss {entry['validation_loss']:.4f}, NME_box {entry['nme_box']:.2f} %"
    return text


def _averaging(decay: float):
    """Return an exponential moving average whose memory grows with the steps, so that it soon forgets the start."""

    def average(averaged: torch.Tensor, current: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        weight = min(decay, (1 + int(steps)) / (10 + int(steps)))
        return averaged + (1 - weight) * (current - averaged) if averaged.is_floating_point() else current

    return average


def _save_checkpoint(checkpoint: Path, state: dict, identity: dict, history: list[dict]) -> None:
    content = {name: part.state_dict() for name, part in state.items()}
    write_checkpoint(checkpoint, {**content, "identity": identity, "history": history})


def _resume(checkpoint: Path, state: dict, identity: dict) -> list[dict]:
    try:
        content = read_checkpoint(checkpoint)
        made_with, history = content["identity"], content["history"]
        differs = [name for name in identity if made_with.get(name) != identity[name]]
        for name, part in ({} if differs else state).items():
            if content[name].keys() != part.state_dict().keys():
                raise ValueError(f"something of the {name} is missing")
            part.load_state_dict(content[name])
        if not history or [entry["epoch"] for entry in history] != list(range(1, len(history) + 1)):
            raise ValueError("epochs are missing")
    except OSError:
        raise
    except Exception:  # torch may raise any exception on what does not fit
        what = "expected a checkpoint of fit, of this version"
        raise ValueError(f"{checkpoint}: {what}; delete it to start anew") from None
    if differs:
        got, expected = (brief({name: of.get(name) for name in differs}) for of in (made_with, identity))
        raise ValueError(f"{checkpoint}: got a checkpoint of {got}, expected {expected}; delete it to start anew")
    return history
