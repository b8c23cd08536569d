"""What training costs: `python -m training.studies.cost [profile memory course_net]` writes results/cost.json.

`profile` tells where an epoch's time goes; `memory` is the peak of a process that trains at batch 1 to 256;
`course_net` trains one epoch of the network of most course projects and one of ours, in turn. Each part is written as
it ends. Where the official set is missing the sample is measured instead, in build/.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Subset

from data_load import find_data, training_transform
from keypoints.files import check_writable, lock, one_sentence, write_json
from models import CoarseToFine
from training.recipe import Recipe, fit, train_epoch
from training.records import peak_memory_mb, versions
from training.studies.common import RESULTS, make_parser, official_or_sample

BATCH_SIZES = (1, 4, 10, 16, 32, 64, 128, 256)
LOADING = ("decode", "Rescale", "RandomCrop", "Normalize", "ToTensor")
LEARNING = ("forward", "loss", "backward", "optimiser", "average")


class CourseNet(nn.Module):
    """The network of most course projects: four convolutions, then 30,976 → 2,048 → 2,048 → 136 fully connected.

    Kernels of 5, 5, 5 and 3 are those that leave 11×11 cells of 256 maps: 30,976 values.

    >>> CourseNet()(torch.zeros(2, 1, 224, 224)).shape
    torch.Size([2, 136])
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, kernel in ((1, 32, 5), (32, 64, 5), (64, 128, 5), (128, 256, 3)):
            layers += [nn.Conv2d(inputs, outputs, kernel), nn.ReLU(), nn.MaxPool2d(2)]
        layers.append(nn.Flatten())
        for inputs, outputs in ((30_976, 2_048), (2_048, 2_048)):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(0.4)]
        self.layers = nn.Sequential(*layers, nn.Linear(2_048, 136))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image)


class Clock:
    """Seconds by name, summed over calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, name: str, step: Callable) -> Callable:
        """Return ``step`` such that its time counts under ``name``."""

        def call(*arguments, **options):
            began = time.perf_counter()
            try:
                return step(*arguments, **options)
            finally:
                self.seconds[name] += time.perf_counter() - began

        return call


def profile(images: int = 600) -> dict:
    """Measure each step of training, milliseconds an image, in the first epoch (which decodes) and in a later one."""
    data, recipe, clock = find_data(), Recipe(), Clock()
    dataset = data.dataset("training", training_transform())
    # The dataset checks its transforms' types when it is made, so they may be wrapped now.
    dataset._read = clock.timed("decode", dataset._read)
    steps = [clock.timed(type(step).__name__, step) for step in dataset.transform.transforms]
    dataset.transform.transforms = steps
    part = Subset(dataset, range(min(images, len(dataset))))
    torch.manual_seed(recipe.seed)
    net = CoarseToFine().train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
    criterion, average = nn.SmoothL1Loss(beta=recipe.beta), AveragedModel(net)
    result = {}
    for epoch in ("first epoch", "later epochs"):
        clock.seconds.clear()
        began = time.perf_counter()
        batches = iter(DataLoader(part, recipe.batch_size, shuffle=True))
        next_batch = clock.timed("loading", lambda batches=batches: next(batches, None))
        while (batch := next_batch()) is not None:
            guesses = clock.timed("forward", net)(batch["image"], every_output=True)
            true = batch["keypoints"].flatten(1).expand_as(guesses)
            loss = clock.timed("loss", criterion)(guesses, true)
            optimizer.zero_grad(set_to_none=True)
            clock.timed("backward", loss.backward)()
            clock.timed("optimiser", optimizer.step)()
            clock.timed("average", average.update_parameters)(net)
        total = time.perf_counter() - began
        spent = {name: clock.seconds[name] for name in LOADING}
        spent["rest of loading"] = clock.seconds["loading"] - sum(spent.values())
        spent |= {name: clock.seconds[name] for name in LEARNING}
        spent["rest"] = total - sum(spent.values())
        result[epoch] = {name: round(1000 * seconds / len(part), 3) for name, seconds in spent.items()}
    return {"unit": "ms an image", "images": len(part), "batch_size": recipe.batch_size, **result}


def memory() -> dict:
    """Measure the peak of a whole process (Python, PyTorch, the cached images and all) in MB, by batch size."""
    result = {}
    for size in BATCH_SIZES:
        command = [sys.executable, "-m", "training.studies.cost", "--one-batch-size", str(size)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=RESULTS.parent)
        result[str(size)] = float(done.stdout.split()[-1])
        print(f"batch {size}: {result[str(size)]:.0f} MB", flush=True)
    return {"unit": "MB", "peak": result}


def one_batch_size(size: int) -> float:
    """Load all images, as the first epoch does, and train some steps of this size; return the process's peak in MB."""
    dataset = find_data().dataset("training", training_transform())
    for i in range(len(dataset)):
        dataset[i]
    part = Subset(dataset, range(min(3 * size, len(dataset))))
    fit(CoarseToFine(), part, recipe=Recipe(epochs=1, batch_size=size))
    return peak_memory_mb()


def course_net() -> dict:
    """Time an epoch in seconds: the course's net, whose images are decoded anew each epoch, and ours with its cache."""
    data, recipe = find_data(), Recipe()
    cached = data.dataset("training", training_transform())
    images = min(200, len(cached))
    for i in range(images):
        cached[i]  # ours decodes in its first epoch only; later ones are measured here
    fresh = data.dataset("training", training_transform(), cache=False)
    runs = {"course": (CourseNet, fresh), "ours": (CoarseToFine, cached)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(3):
        for name, (network, dataset) in runs.items():
            torch.manual_seed(recipe.seed)
            net = network()
            optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
            schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
            average = AveragedModel(net) if name == "ours" else None  # course projects keep the last step's weights
            loader = DataLoader(Subset(dataset, range(images)), recipe.batch_size, shuffle=True)
            began = time.perf_counter()
            train_epoch(net, loader, nn.SmoothL1Loss(beta=recipe.beta), optimizer, schedule, average)
            seconds[name].append(round(time.perf_counter() - began, 2))
            print(f"{name}: {seconds[name][-1]} s", flush=True)
            del net, optimizer, average
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    kinds = {"course": CourseNet, "ours": CoarseToFine}
    sizes = {name: sum(p.numel() for p in kind().parameters()) for name, kind in kinds.items()}
    return {
        "images": images,
        "batch_size": recipe.batch_size,
        "parameters": sizes,
        "seconds": seconds,
        "ratio": round(median["course"] / median["ours"], 2),
    }


PARTS = {"profile": profile, "memory": memory, "course_net": course_net}


@one_sentence()
def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("cost", __doc__, "threads", choices=list(PARTS))
    parser.add_argument("--one-batch-size", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.one_batch_size:
        print(one_batch_size(options.one_batch_size))
        return 0
    data, out = official_or_sample("cost.json")
    check_writable(out)
    for part in options.chosen or PARTS:
        about = {"data": data.name, "threads": options.threads, "versions": versions()}
        figures = {**about, **PARTS[part]()}
        with lock(out, wait=True):  # another process may measure another part
            content = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
            write_json(out, {**content, part: figures})
        print(part, json.dumps(figures, indent=1), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
