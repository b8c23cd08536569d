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
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import ConcatDataset, Dataset, Subset

import models
from data_load import Data, evaluation_transform, find_data, person_of, training_transform
from keypoints.files import check_writable, one_sentence
from models import Net, network_units, soft_argmax
from training import metrics
from training.augmentation import FaceCrops, framed_transform, photo_framing, photo_transform
from training.framing import framing_dict, measure_framing
from training.prediction import predict
from training.recipe import Recipe, fit, true_keypoints
from training.splits import people_split
from training.studies import common
from training.studies.common import RESULTS, kept_run, make_parser
from training.weights import save_model

EPOCHS = 4  # half the recipe's: the studies are many; 'epochs' and 'seeds' say how far that carries


class OneLook(Net):
    """Net without the second stage; its only stage sees as many pixels as the second does in Net."""

    def __init__(self, dropout: float = 0.05) -> None:
        super().__init__(dropout, whole=112)
        # Only the second stage uses these; left in, they would be counted among the weights.
        self.close_norms, self.linear = nn.ModuleList(), self.linear[:1]
        self.log_temperature = nn.Parameter(self.log_temperature[:1].detach())

    def forward(self, image: torch.Tensor, every_look: bool = False) -> torch.Tensor:
        points = network_units(self.first_look(image))
        return points[None] if every_look else points


class FullyConnectedHead(Net):
    """Net's convolutions and stages with the course's kind of head: a fully connected layer regresses coordinates."""

    def __init__(self, dropout: float = 0.05) -> None:
        super().__init__(dropout)
        maps, points = models.NUM_KEYPOINTS, 2 * models.NUM_KEYPOINTS
        self.linear = nn.ModuleList(nn.Linear(maps * 14 * 14, points) for _ in range(self.LOOKS))
        self.log_temperature.requires_grad_(False)

    def probabilities(self, view: torch.Tensor, look: int) -> torch.Tensor:
        return functional.adaptive_max_pool2d(self.maps(view, look), 14)  # few values, as course projects end

    def points(self, probability: torch.Tensor, look: int) -> torch.Tensor:
        return self.linear[look](probability.flatten(1)).unflatten(1, (models.NUM_KEYPOINTS, 2))


class MapsAlone(Net):
    """Net without the linear layers: a point is the mean position under its own heatmap."""

    def __init__(self, dropout: float = 0.05) -> None:
        super().__init__(dropout)
        self.linear = nn.ModuleList()

    def points(self, probability: torch.Tensor, look: int) -> torch.Tensor:
        return soft_argmax(probability)


class ChannelBias(nn.Module):
    """BatchNorm without statistics: only the bias of each channel is left."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps + self.bias


class WithoutBatchNorm(Net):
    """Net with the statistics of BatchNorm left out, in both stages."""

    def __init__(self, dropout: float = 0.05) -> None:
        super().__init__(dropout)
        for name, layer in list(self.features.named_children()):
            if isinstance(layer, nn.BatchNorm2d):
                setattr(self.features, name, ChannelBias(layer.num_features))
        self.close_norms = nn.ModuleList(ChannelBias(layer.num_features) for layer in self.close_norms)

    def maps(self, view: torch.Tensor, look: int) -> torch.Tensor:
        view = functional.instance_norm(view, eps=1e-3).contiguous(memory_format=torch.channels_last)
        close = iter(self.close_norms)
        with torch.autocast(view.device.type, torch.bfloat16, enabled=self.bfloat16 and self.training):
            for layer in self.features:
                view = (next(close) if look == 1 and isinstance(layer, ChannelBias) else layer)(view)
        return view.float()


NETWORKS = {
    "Net": Net,
    "one look": OneLook,
    "maps alone": MapsAlone,
    "fully connected head": FullyConnectedHead,
    "no BatchNorm": WithoutBatchNorm,
    "no Dropout": lambda: Net(dropout=0.0),
    "Dropout 0.2": lambda: Net(dropout=0.2),
}
# Study → label of a run → what it changes in the recipe; {} is the recipe itself, which runs once for all studies.
STUDIES: dict[str, dict[str, dict]] = {
    "losses": {
        "SmoothL1, beta 0.05": {},
        "SmoothL1, beta 0.2": {"beta": 0.2},
        "SmoothL1, beta 1": {"beta": 1.0},
        "MSE": {"loss": "mse"},
        "MAE": {"loss": "mae"},
        "log-cosh, beta 0.05": {"loss": "log_cosh"},
        "quantile 0.25": {"loss": "quantile_25"},
    },
    "parts": {
        "as it is": {},
        "one look": {"network": "one look"},
        "no linear layer": {"network": "maps alone"},
        "fully connected head": {"network": "fully connected head"},
        "fully connected head, rate 0.001": {"network": "fully connected head", "learning_rate": 1e-3},
        "no BatchNorm": {"network": "no BatchNorm"},
        "no Dropout": {"network": "no Dropout"},
        "Dropout 0.2": {"network": "Dropout 0.2"},
        "no averaged weights": {"weight_average": 0.0},
    },
    "batch_size": {str(size): {} if size == Recipe.batch_size else {"batch_size": size} for size in (5, 10, 20, 64)},
    "training_size": {f"{share} %": {} if share == 100 else {"share": share} for share in (10, 25, 50, 100)},
    "epochs": {str(epochs): {} if epochs == EPOCHS else {"epochs": epochs} for epochs in (1, 2, 4, 8, 16, 32)},
    "seeds": {str(seed): {"epochs": Recipe.epochs} | ({"seed": seed} if seed else {}) for seed in (0, 1, 2)},
    # Rendered heads: those of the sample alone, and --rendered folders beside the real images.
    "sample_alone": {
        "the recipe, 8 epochs": {"faces": "sample", "epochs": 8},
        "the recipe, 32 epochs": {"faces": "sample", "epochs": 32},
        "spoilt views, 48 epochs": {"faces": "sample, spoilt", "epochs": 48},
    },
    "rendered": {
        "real": {},
        "real and rendered": {"faces": "real and rendered"},
    },
}


def key_of(change: dict) -> str:
    """Return a run's name in the file, the same in every study that holds it; 'recipe' where nothing is changed."""
    return ", ".join(f"{name}={value}" for name, value in sorted(change.items())) or "recipe"


def identity() -> str:
    """Return a digest of the network's layers and crops, so that another network's figures are not taken for its."""
    net = Net()
    content = str(net), {name: tuple(value.shape) for name, value in net.state_dict().items()}
    return hashlib.sha256(repr((content, net.whole, net.close, net.spread)).encode()).hexdigest()[:12]


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
        rendered: folders of heads that data/sample/render.py wrote.
    """

    def __init__(self, data: Data, rendered: Sequence[Path], bfloat16: bool) -> None:
        self.base, self.rendered = Recipe(epochs=EPOCHS, bfloat16=bfloat16), rendered
        training = data.dataset("training", training_transform())
        people = people_split(training.names)
        names = [training.names[i] for i in people["validation"]]
        self.real = Subset(training, people["training"])
        self.validation = Subset(data.dataset("training", evaluation_transform()), people["validation"])
        self.who = [person_of(name) for name in names]
        # The same faces cropped as photographs are, their labels on the features.
        place = data.csv_file("training"), data.image_dir("training")
        self.framed = FaceCrops(*place, names, framed_transform(), official=data.name == "official")

    def faces(self, name: str) -> Dataset:
        """Return training images: 'real', 'sample', 'sample, spoilt' (PhotoNet's crops) or 'real and rendered'."""
        if name == "real":
            return self.real
        sample = find_data("sample")
        if name == "sample":
            return sample.dataset("training", training_transform())
        if name == "sample, spoilt":
            return FaceCrops(sample.csv_file("training"), sample.image_dir("training"), None, photo_transform())
        sets = [sample, *(Data("rendered", folder) for folder in self.rendered)]
        return ConcatDataset([self.real, *(part.dataset("training", training_transform()) for part in sets)])

    def run(self, change: dict, checkpoint: Path) -> dict:
        """Train one network and evaluate it.

        Args:
            change: fields of :class:`Recipe`, 'network' (a key of :data:`NETWORKS`), 'faces' (see :meth:`faces`) and
                'share' (percent of the images, drawn at random).
            checkpoint: kept until the run has ended.
        """
        fields = dict(change)
        network, share, faces = (fields.pop(*of) for of in (("network", "Net"), ("share", 100), ("faces", "real")))
        recipe = replace(self.base, **fields)
        torch.manual_seed(recipe.seed)
        net, images = NETWORKS[network](), self.faces(faces)
        if share < 100:
            drawn = np.random.default_rng(0).permutation(len(images))[: round(len(images) * share / 100)]
            images = Subset(images, sorted(drawn.tolist()))
        record = fit(net, images, None, recipe, checkpoint=checkpoint, files=[key_of(change), *map(str, self.rendered)])
        errors = metrics.nme(predict(net, self.validation), true_keypoints(self.validation))
        more = {}
        if faces != "real":
            framed = metrics.nme(predict(net, self.framed), true_keypoints(self.framed))
            more = {"nme_box_framed": float(framed.mean()), "nme_box_framed_median": float(np.median(framed))}
            samples = find_data("sample" if faces.startswith("sample") else None).dataset("training")
            framing = framing_dict(measure_framing(samples))
            net.framing = photo_framing(framing) if faces.endswith("spoilt") else framing
            save_model(net, checkpoint.with_suffix(".safetensors"), {"change": change, **record})
        checkpoint.unlink(missing_ok=True)
        return {
            "nme_box": float(errors.mean()),
            "interval": metrics.interval(errors, self.who),
            "nme_box_median": float(np.median(errors)),
            "fr_box_07": metrics.failure_rate(errors, 7),
            "training_loss": record["history"][-1]["training_loss"],
            "parameters": sum(p.numel() for p in net.parameters() if p.requires_grad),
            **more,
            **{name: record[name] for name in ("samples", "seconds", "threads", "versions")},
        }


@one_sentence()
def main(arguments: list[str] | None = None) -> int:
    options = make_parser("study", __doc__, "rendered", "bfloat16", "threads", choices=list(STUDIES))
    options = options.parse_args(arguments)
    torch.set_num_threads(options.threads)
    data, out = common.official_or_sample("studies.json")
    check_writable(out)
    study = Study(data, options.rendered, options.bfloat16)
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
