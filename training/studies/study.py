"""The studies behind the recipe's choices, each one command: `python -m training.studies.study [losses batch_size …]`.

Every run differs from the recipe in one thing. It trains without the validation and the test people of
``data/splits.json`` and is evaluated on the validation people, by the centre crop. Runs go into results/studies.json as
each ends; a second start skips those that are there and continues one that was interrupted from its last epoch. Where
the official set is missing the sample is studied instead, in build/.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import ConcatDataset, Subset

from data_load import Data, evaluation_transform, find_data, person_of, training_transform
from keypoints.files import check_writable, one_sentence
from models import CoarseToFine, HeatmapNet, SimpleNet
from training import metrics
from training.prediction import predict
from training.recipe import Recipe, fit, true_keypoints
from training.splits import people_split
from training.studies import common
from training.studies.common import RESULTS, kept_run, make_parser

EPOCHS = 4  # half the recipe's: the studies are many; 'epochs' and 'seeds' say how far that carries


class ChannelBias(nn.Module):
    """BatchNorm without statistics: only the bias of each channel is left."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features + self.bias


def without_batch_norm(net: CoarseToFine) -> CoarseToFine:
    """Leave the statistics of BatchNorm out of both stages."""
    for stage in (net.coarse, net.fine):
        for name, layer in list(stage.features.named_children()):
            if isinstance(layer, nn.BatchNorm2d):
                setattr(stage.features, name, ChannelBias(layer.num_features))
    return net


def with_stages(**options: Any) -> CoarseToFine:
    """Make both stages of a :class:`models.CoarseToFine` with these options of :class:`models.HeatmapNet`."""
    return CoarseToFine(stage=lambda side: HeatmapNet(side, **options))


class UnsupervisedHeatmaps(HeatmapNet):
    """A stage whose loss counts only the keypoints after the linear layer: its heatmaps need not point."""

    def points(self, view: torch.Tensor) -> torch.Tensor:
        return super().points(view)[-1:]


VARIANTS: dict[str, Callable[[], nn.Module]] = {
    "CoarseToFine": CoarseToFine,
    "SimpleNet": SimpleNet,
    "HeatmapNet": HeatmapNet,
    "no linear layer": lambda: with_stages(correction=False),
    "heatmaps not supervised": lambda: CoarseToFine(stage=UnsupervisedHeatmaps),
    "no BatchNorm": lambda: without_batch_norm(CoarseToFine()),
    "no Dropout": lambda: with_stages(dropout=0.0),
}
# Study → label of a run → what it changes in the recipe; {} is the recipe itself, which runs once for all studies.
STUDIES: dict[str, dict[str, dict]] = {
    "losses": {
        "SmoothL1, beta 0.05": {},
        "SmoothL1, beta 1": {"beta": 1.0},
        "MSE": {"loss": "mse"},
        "MAE": {"loss": "mae"},
        "log-cosh, beta 0.05": {"loss": "log_cosh"},
    },
    "parts": {
        "as it is": {},
        "SimpleNet, rate 0.001": {"network": "SimpleNet", "learning_rate": 1e-3},
        "one stage": {"network": "HeatmapNet"},
        "heatmaps not supervised": {"network": "heatmaps not supervised"},
        "no linear layer": {"network": "no linear layer"},
        "no BatchNorm": {"network": "no BatchNorm"},
        "no Dropout": {"network": "no Dropout"},
    },
    "batch_size": {str(size): {} if size == Recipe.batch_size else {"batch_size": size} for size in (10, 40)},
    "training_size": {f"{share} %": {} if share == 100 else {"share": share} for share in (10, 25, 100)},
    "epochs": {str(epochs): {} if epochs == EPOCHS else {"epochs": epochs} for epochs in (1, 2, 4)},
    "seeds": {str(seed): {"seed": seed} if seed else {} for seed in (0, 1)},
    # What the sample's rendered heads teach, alone and beside the real frames.
    "sample": {
        "real frames": {},
        "rendered heads": {"faces": "sample", "epochs": Recipe.epochs},
        "real frames and rendered heads": {"faces": "real and sample"},
    },
}


def key_of(change: dict) -> str:
    """Return a run's name in the file, the same in every study that holds it; 'recipe' where nothing is changed."""
    return ", ".join(f"{name}={value}" for name, value in sorted(change.items())) or "recipe"


def identity() -> str:
    """Return a digest of the network's layers and crops, so that another network's figures are not taken for its."""
    net = CoarseToFine()
    content = str(net), {name: tuple(value.shape) for name, value in net.state_dict().items()}
    return hashlib.sha256(repr((content, net.arguments, net.spread, net.outputs)).encode()).hexdigest()[:12]


def recorded(name: str) -> dict[str, dict]:
    """Read a study from results/studies.json.

    Returns:
        label → figures, see :meth:`Study.run`; runs still to come are missing.

    Raises:
        ValueError: there is no such study.
    """
    if name not in STUDIES:
        raise ValueError(f"got study {name!r}, expected one of {', '.join(STUDIES)}")
    runs = json.loads((RESULTS / "studies.json").read_text(encoding="utf-8"))["runs"]
    return {label: runs[key_of(change)] for label, change in STUDIES[name].items() if key_of(change) in runs}


class Study:
    """The data that all runs share, and one run.

    Args:
        data: the official set, or the sample where that is missing.
        bfloat16: see :class:`Recipe`.
    """

    def __init__(self, data: Data, bfloat16: bool) -> None:
        self.base = Recipe(epochs=EPOCHS, bfloat16=bfloat16)
        training = data.dataset("training", training_transform())
        people = people_split(training.names)
        self.real = Subset(training, people["training"])
        self.validation = Subset(data.dataset("training", evaluation_transform()), people["validation"])
        self.who = [person_of(training.names[i]) for i in people["validation"]]
        self.sample = find_data("sample").dataset("training", training_transform())

    def run(self, change: dict, checkpoint: Path) -> dict:
        """Train one network and evaluate it.

        Args:
            change: fields of :class:`Recipe`, 'network' (a key of :data:`VARIANTS`), 'faces' (real, sample, or
                real and sample) and 'share' (percent of the images, drawn at random).
            checkpoint: kept until the run has ended.
        """
        fields = dict(change)
        network, faces = fields.pop("network", "CoarseToFine"), fields.pop("faces", "real")
        share = fields.pop("share", 100)
        recipe = replace(self.base, **fields)
        torch.manual_seed(recipe.seed)
        sets = {"real": self.real, "sample": self.sample, "real and sample": ConcatDataset([self.real, self.sample])}
        net, images = VARIANTS[network](), sets[faces]
        if share < 100:
            drawn = np.random.default_rng(0).permutation(len(images))[: round(len(images) * share / 100)]
            images = Subset(images, sorted(drawn.tolist()))
        record = fit(net, images, None, recipe, checkpoint=checkpoint, files=[key_of(change)])
        errors = metrics.nme(predict(net, self.validation), true_keypoints(self.validation))
        checkpoint.unlink(missing_ok=True)
        return {
            "nme_box": float(errors.mean()),
            "interval": metrics.interval(errors, self.who),
            "nme_box_median": float(np.median(errors)),
            "fr_box_07": metrics.failure_rate(errors, 7),
            "training_loss": record["history"][-1]["training_loss"],
            "parameters": sum(p.numel() for p in net.parameters() if p.requires_grad),
            **{name: record[name] for name in ("samples", "seconds", "threads", "versions")},
        }


@one_sentence()
def main(arguments: list[str] | None = None) -> int:
    options = make_parser("study", __doc__, "bfloat16", "threads", choices=list(STUDIES))
    options = options.parse_args(arguments)
    torch.set_num_threads(options.threads)
    data, out = common.official_or_sample("studies.json")
    check_writable(out)
    study = Study(data, options.bfloat16)
    base = {**asdict(study.base), "network": identity(), "samples": len(study.real)}
    empty = {"data": data.name, "validation_images": len(study.validation), "base": base, "runs": {}}
    for name in options.chosen or STUDIES:
        for label, change in STUDIES[name].items():
            key = key_of(change)
            checkpoint = common.BUILD / f"study-{hashlib.sha256(key.encode()).hexdigest()[:12]}.checkpoint"
            figures = kept_run(out, empty, key, lambda change=change, at=checkpoint: study.run(change, at))
            said = f"NME_box {figures['nme_box']:.2f} %, median {figures['nme_box_median']:.2f} %"
            print(f"{name}: {label}: {said}, {figures['seconds']:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
