"""Where the shipped weights are good and where not, and what the second stage brings: writes results/slices.json.

    KEYPOINTS_WILD=DIR python -m training.studies.slices

The study measures on unseen people and photos, framed by the truth: the sample's test heads, the wild set's validation
photos where they are there, and for weights that held them out the official training set's test people. The skin's tone
of the rendered heads is known, too; a photograph does not tell it from its light.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from data_load import FacialKeypointsDataset, find_data, person_of
from models import CoarseToFine
from training import metrics
from training.evaluation import Evaluation, at_use, evaluate
from training.failures import conditions, slices
from training.splits import WILD_CSV, find_wild, people_split, wild_groups
from training.studies.common import RESULTS, figures_file, make_parser
from training.weights import MODEL_DIR

FRONTAL, TURNED = (0, 15), (30, 60)  # degrees of yaw to either side
# The individual typology angle's classes (Del Bino and Bernerd, 2013, https://doi.org/10.1111/bjd.12529), degrees; the
# two in the middle and the two lightest are one each, since few of the sample's people are of them.
SKIN = {"dark": (-90, -30), "brown": (-30, 10), "tan or intermediate": (10, 41), "light": (41, 90)}


class CoarseStage(nn.Module):
    """A network stopped after its coarse stage."""

    def __init__(self, net: CoarseToFine) -> None:
        super().__init__()
        self.net, self.framing = net, net.framing

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.net(image, every_output=True)[1]


def sets(net: nn.Module | Path) -> Iterator[tuple[str, Path, Path, list[str] | None, bool]]:
    """Yield the sets of unseen people: title, labels, images, which of them, and whether the labels are official."""
    sample, data, wild = find_data("sample"), find_data(), find_wild()
    yield "sample, test heads", sample.csv_file("test"), sample.image_dir("test"), None, False
    if data.name == "official" and not isinstance(net, CoarseToFine):  # it learned from all of them
        names = data.dataset("training").names
        chosen = [names[i] for i in people_split(names)["test"]]
        yield "official, test people", data.csv_file("training"), data.image_dir("training"), chosen, True
    if wild is not None:
        yield "wild photos", wild / WILD_CSV, wild, sorted(wild_groups("validation")), False


def turned_ratio(result: Evaluation, yaw: np.ndarray) -> dict:
    """Return the errors of frontal and of turned heads in percent, and their ratio."""
    errors = metrics.nme(result.predicted, result.true)
    of = {name: (low <= yaw) & (yaw < high) for name, (low, high) in {"frontal": FRONTAL, "turned": TURNED}.items()}
    mean = {name: float(errors[chosen].mean()) if chosen.any() else None for name, chosen in of.items()}
    ratio = mean["turned"] / mean["frontal"] if None not in mean.values() else None
    return mean | {"ratio": ratio, "faces": {name: int(chosen.sum()) for name, chosen in of.items()}}


def by_skin(result: Evaluation, angle: np.ndarray) -> list[dict]:
    """Return the error by skin tone: each class of :data:`SKIN` with its people, images, NME_box and 95 % interval.

    Args:
        angle: (N,), the skin's typology angle in degrees of each face of the evaluation.
    """
    errors, rows = metrics.nme(result.predicted, result.true), []
    people = np.array([person_of(name) for name in result.names])
    for tone, (low, high) in SKIN.items():
        chosen = (low <= angle) & (angle < high)
        rows.append(
            {
                "tone": tone,
                "people": len(set(people[chosen])),
                "images": int(chosen.sum()),
                "nme_box": float(errors[chosen].mean()) if chosen.any() else None,
                "interval": metrics.interval(errors[chosen], people[chosen]),
            }
        )
    return rows


def measure(model: Path) -> dict:
    """Return, by title of a set, its slices, the errors of turned heads and the error after either stage."""
    net, figures = at_use(model), {}
    for title, csv_file, folder, names, official in sets(net):
        who = wild_groups("validation").__getitem__ if title == "wild photos" else person_of
        stages = {"coarse": CoarseStage(net), "fine": net} if isinstance(net, CoarseToFine) else {"fine": net}
        results = {
            name: evaluate(stage, csv_file, folder, "box", names, who, official) for name, stage in stages.items()
        }
        result = results["fine"]
        dataset = FacialKeypointsDataset(csv_file, folder)
        values = conditions(dataset, [dataset.names.index(name) for name in result.names])
        rows = [
            {"by": part.by, "bin": part.label, "images": part.images, "nme_box": part.nme_box}
            for part in slices(result, values, each=1)
        ]
        of_stages = {
            name: {key: stage.figures[key] for key in ("nme_box", "nme_iod", "fr_iod_10")}
            for name, stage in results.items()
        }
        turned = turned_ratio(result, values["yaw"])
        figures[title] = {"images": len(result.names), "slices": rows, "yaw": turned, "stages": of_stages}
        if title == "sample, test heads":
            figures[title]["skin"] = by_skin(result, find_data("sample").attributes("test")["skin"].to_numpy())
        print(model.stem, title, turned, of_stages, flush=True)
    return figures


def main(arguments: list[str] | None = None) -> int:
    make_parser("slices", __doc__).parse_args(arguments)
    with figures_file(RESULTS / "slices.json") as content:
        content |= {model.stem: measure(model) for model in sorted(MODEL_DIR.glob("keypoints_model_*.safetensors"))}
    return 0


if __name__ == "__main__":
    sys.exit(main())
