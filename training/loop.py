"""The training loop of the detector and of the fine network: AdamW, OneCycle, averaged weights, checkpoints."""

from __future__ import annotations

import copy
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from keypoints.files import lock, write_atomically


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


def fit(
    net: nn.Module,
    batches: Callable[[int], Iterable],
    loss_of: Callable[[Any], tuple[torch.Tensor, dict[str, float]]],
    measure: Callable[[nn.Module], dict],
    recipe: Any,
    out: Path,
    clip: float,
    measure_every: int,
) -> nn.Module:
    """Train a network; after each epoch a checkpoint is written beside ``out``, from which the next start goes on.

    Args:
        batches: gives an epoch's batches, by the epoch's number from 0.
        loss_of: a batch's loss and its parts, for the log.
        measure: figures of the averaged network on the validation sets.
        recipe: a dataclass with views, views_an_epoch, batch_size, learning_rate, weight_decay and average.
        clip: largest norm of the gradient.
        measure_every: epochs between two measurements; the last epoch is always measured.

    Returns:
        the averaged network.

    Raises:
        ValueError: the checkpoint is of another recipe: OneCycle would then end at a rate that is not zero.
    """
    average = Average(net, recipe.average)
    groups = [
        {"params": [value for value in net.parameters() if value.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [value for value in net.parameters() if value.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
    steps, epochs = recipe.views_an_epoch // recipe.batch_size, recipe.views // recipe.views_an_epoch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=epochs * steps, pct_start=0.08
    )
    checkpoint, history, first = out.with_suffix(".checkpoint"), [], 0
    with lock(out):
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True)
            if state["recipe"] != asdict(recipe):
                raise ValueError(f"{checkpoint}: got the recipe {state['recipe']}, expected {asdict(recipe)}")
            net.load_state_dict(state["net"])
            average.net.load_state_dict(state["average"])
            average.steps = state["steps"]
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
            history, first = state["history"], state["epoch"]
        for epoch in range(first, epochs):
            began, sums = time.time(), defaultdict(float)
            net.train()
            for batch in batches(epoch):
                loss, parts = loss_of(batch)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), clip)
                optimizer.step()
                schedule.step()
                average.update(net)
                for name, value in parts.items():
                    sums[name] += value / steps
            row = {"epoch": epoch + 1, **{name: round(value, 4) for name, value in sums.items()}}
            if (epoch + 1) % measure_every == 0 or epoch + 1 == epochs:
                row |= measure(average.net)
            row["seconds"] = round(time.time() - began, 1)
            history.append(row)
            print(json.dumps(row), flush=True)
            state = {
                "net": net.state_dict(),
                "average": average.net.state_dict(),
                "steps": average.steps,
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "history": history,
                "epoch": epoch + 1,
                "recipe": asdict(recipe),
            }
            write_atomically(checkpoint, lambda part, state=state: torch.save(state, part))
        torch.save(average.net.state_dict(), out)
    return average.net
