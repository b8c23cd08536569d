"""The training loop of detector and PhotoNet: AdamW, a one-cycle rate, averaged weights, checkpoints."""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from keypoints.files import lock
from training.records import peak_memory_mb, read_checkpoint, versions, write_checkpoint


@dataclass(frozen=True)
class LoopRecipe:
    """What :func:`fit` needs to know; both trainings add more."""

    views: int
    views_an_epoch: int
    batch_size: int = 16
    learning_rate: float = 3e-3  # the highest of the cycle
    weight_decay: float = 0.02
    average: float = 0.999  # decay of the exponential moving average of the weights
    seed: int = 0


def make_parser(module: str, doc: str, recipe: LoopRecipe, out: Path) -> argparse.ArgumentParser:
    """Build the command line that both trainings have: `label` or `train`, and their options.

    Args:
        module: of training/; doc: its docstring, whose first line becomes the description.
        recipe: has the defaults.
        out: where the weights go by default.
    """
    parser = argparse.ArgumentParser(prog=f"python -m training.{module}", description=doc.split("\n")[0])
    parser.add_argument("task", choices=["label", "train"])
    parser.add_argument("--folder", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--start", type=Path, help="weights to start from")
    parser.add_argument("--batch", type=int, default=recipe.batch_size)
    parser.add_argument("--epoch", type=int, default=recipe.views_an_epoch, help="views between checkpoints")
    parser.add_argument("--rate", type=float, default=recipe.learning_rate, help="the highest learning rate")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes that make the views")
    parser.add_argument("--minutes", type=float, help="end after this time, should that be before --views")
    return parser


class Average:
    """Exponential moving average of a network's weights and buffers, warmed up."""

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net, self.decay, self.steps = copy.deepcopy(net).eval(), decay, 0

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for mine, its in zip(self.net.state_dict().values(), net.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(its, 1 - decay)
            else:
                mine.copy_(its)


def one_cycle(progress: float) -> float:
    """The learning rate at a share of the training, as a share of the highest: linear rise, cosine fall.

    Source: https://arxiv.org/abs/1708.07120.
    """
    warm_up = 0.06
    if progress < warm_up:
        return 0.04 + 0.96 * progress / warm_up
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warm_up) / (1 - warm_up))))


def fit(
    net: nn.Module,
    batches: Callable[[int, float], Iterable],
    loss_of: Callable[[nn.Module, Any], tuple[torch.Tensor, dict[str, torch.Tensor]]],
    measure: Callable[[nn.Module], dict],
    recipe: LoopRecipe,
    out: Path,
    clip: float,
    measure_every: int,
    minutes: float | None = None,
) -> tuple[nn.Module, dict]:
    """Train a network; after each epoch a checkpoint is written beside ``out``, from which the next start goes on.

    Args:
        net: on the device that it is to be trained on.
        batches: gives an epoch's batches, by the epoch's number from 0 and the share of the training that is over.
        loss_of: the loss of a network on a batch, and its parts for the log.
        measure: figures of the averaged network on the validation sets.
        clip: largest norm of the gradient.
        measure_every: epochs between two measurements; the last epoch is always measured.
        minutes: the training ends after this time, with the learning rate at 0, should that be before ``recipe.views``.

    Returns:
        the averaged network and its record: recipe, history, seconds, threads, memory and versions. The caller deletes
        the checkpoint once the weights are saved.

    Raises:
        ValueError: the checkpoint is of another recipe: the rate would then not end at zero.
    """
    average = Average(net, recipe.average)
    groups = [
        {"params": [value for value in net.parameters() if value.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [value for value in net.parameters() if value.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
    checkpoint, history, epoch, steps, spent, progress = out.with_suffix(".checkpoint"), [], 0, 0, 0.0, 0.0
    with lock(out):
        if checkpoint.exists():
            state = read_checkpoint(checkpoint)
            if state["recipe"] != asdict(recipe):
                raise ValueError(f"{checkpoint}: got the recipe {state['recipe']}, expected {asdict(recipe)}")
            net.load_state_dict(state["net"])
            average.net.load_state_dict(state["average"])
            optimizer.load_state_dict(state["optimizer"])
            history, epoch, steps, spent = (state[name] for name in ("history", "epoch", "steps", "seconds"))
            average.steps, progress = steps, state["progress"]
        while progress < 1:
            began, first = time.monotonic(), steps
            sums: dict[str, Any] = defaultdict(float)
            net.train()
            for batch in batches(epoch, progress):
                seconds = spent + time.monotonic() - began
                progress = steps * recipe.batch_size / recipe.views
                progress = max(progress, seconds / (60 * minutes)) if minutes else progress
                if progress >= 1:
                    break
                for group in optimizer.param_groups:
                    group["lr"] = recipe.learning_rate * one_cycle(progress)
                loss, parts = loss_of(net, batch)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), clip)
                optimizer.step()
                average.update(net)
                steps += 1
                for name, value in parts.items():
                    sums[name] += value.detach()
            epoch += 1
            spent += time.monotonic() - began
            progress = max(progress, steps * recipe.batch_size / recipe.views)
            row = {"epoch": epoch, "views": steps * recipe.batch_size, "progress": round(progress, 4)}
            row |= {name: round(float(value) / max(1, steps - first), 4) for name, value in sums.items()}
            if epoch % measure_every == 0 or progress >= 1:
                row |= measure(average.net)
            row["seconds"] = round(spent, 1)
            history.append(row)
            print(json.dumps(row), flush=True)
            state = {
                "net": net.state_dict(),
                "average": average.net.state_dict(),
                "optimizer": optimizer.state_dict(),
                "history": history,
                "epoch": epoch,
                "steps": steps,
                "seconds": spent,
                "progress": progress,
                "recipe": asdict(recipe),
            }
            write_checkpoint(checkpoint, state)
    record = {
        "recipe": asdict(recipe),
        "history": history,
        "seconds": round(spent, 1),
        "threads": torch.get_num_threads(),
        "peak_memory_mb": peak_memory_mb(),
        "versions": versions(),
    }
    return average.net.cpu(), record
