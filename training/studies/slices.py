"""Where the shipped weights are good and where not, and what the second look brings: writes results/slices.json.

    KEYPOINTS_WILD=DIR python -m training.studies.slices

Measured on people and photos that the weights never saw, framed by the truth: the sample's test heads, the wild set's
validation photos where they are there, and for weights that held them out the official training set's test people.
Of the rendered heads the skin's tone is known, too; a photograph does not tell it from its light.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from data_load import FacialKeypointsDataset, find_data, person_of
from keypoints.files import check_writable, one_sentence, write_json
from models import TwoLooks, network_units
from training import metrics
from training.evaluation import Evaluation, evaluate
from training.failures import conditions, slices
from training.splits import WILD_CSV, find_wild, people_split, wild_groups
from training.weights import MODEL_DIR, load_model

OUT = Path(__file__).resolve().parents[2] / "results" / "slices.json"
FRONTAL, TURNED = (0, 15), (30, 60)  # degrees of yaw to either side
# The individual typology angle's classes (Del Bino and Bernerd, 2013, https://doi.org/10.1111/bjd.12529), degrees; the
# two in the middle and the two lightest are one each, since few of the sample's people are of them.
SKIN = {"dark": (-90, -30), "brown": (-30, 10), "tan or intermediate": (10, 41), "light": (41, 90)}


class FirstLook(nn.Module):
    """A network stopped after its first look."""

    def __init__(self, net: TwoLooks) -> None:
        super().__init__()
        self.net, self.framing = net, net.framing

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return network_units(self.net.first_look(image))


def sets(net: nn.Module) -> Iterator[tuple[str, Path, Path, list[str] | None, bool]]:
    """What a network can be measured on honestly: title, labels, images, which of them, whether labelled officially."""
    sample, data, wild = find_data("sample"), find_data(), find_wild()
    yield "sample, test heads", sample.csv_file("test"), sample.image_dir("test"), None, False
    if data.name == "official" and getattr(net, "on_features", False):
        names = data.dataset("training").names
        chosen = [names[i] for i in people_split(names)["test"]]
        yield "official, test people", data.csv_file("training"), data.image_dir("training"), chosen, True
    if wild is not None:
        yield "wild photos", wild / WILD_CSV, wild, sorted(wild_groups("validation")), False


def turned_ratio(result: Evaluation, yaw: np.ndarray) -> dict:
    """Errors of frontal and of turned heads in percent, and how many times larger the second is."""
    errors = metrics.nme(result.predicted, result.true)
    of = {name: (low <= yaw) & (yaw < high) for name, (low, high) in {"frontal": FRONTAL, "turned": TURNED}.items()}
    mean = {name: float(errors[chosen].mean()) if chosen.any() else None for name, chosen in of.items()}
    ratio = mean["turned"] / mean["frontal"] if None not in mean.values() else None
    return mean | {"ratio": ratio, "faces": {name: int(chosen.sum()) for name, chosen in of.items()}}


def by_skin(result: Evaluation, angle: np.ndarray) -> list[dict]:
    """The error by the skin's tone: each class of :data:`SKIN` with its people, images, NME_box and 95 % interval.

    Args:
        angle: (N,), the skin's typology angle in degrees, a face of the evaluation each.
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
    """Title of a set → its slices, the turned heads' ratio and the error of either look."""
    net, figures = load_model(model), {}
    for title, csv_file, folder, names, official in sets(net):
        who = wild_groups("validation").__getitem__ if title == "wild photos" else person_of
        result = evaluate(net, csv_file, folder, "box", names, who, official)
        first = evaluate(FirstLook(net), csv_file, folder, "box", names, who, official).figures
        dataset = FacialKeypointsDataset(csv_file, folder)
        chosen = [dataset.names.index(name) for name in result.names]
        values = conditions(dataset, chosen)
        rows = [
            {"by": part.by, "bin": part.label, "images": part.images, "nme_box": part.nme_box}
            for part in slices(result, values, each=1)
        ]
        looks = {
            name: {key: seen[key] for key in ("nme_box", "nme_iod", "fr_iod_10")}
            for name, seen in (("first", first), ("second", result.figures))
        }
        turned = turned_ratio(result, values["yaw"])
        figures[title] = {"images": len(chosen), "slices": rows, "yaw": turned, "looks": looks}
        if title == "sample, test heads":
            attributes = pd.read_csv(csv_file.parent / "attributes.csv", index_col="file")
            angle = attributes["skin"].loc[[f"test/{name}" for name in result.names]].to_numpy()
            figures[title]["skin"] = by_skin(result, angle)
        print(model.stem, title, turned, looks, flush=True)
    return figures


@one_sentence()
def main() -> int:
    check_writable(OUT)
    content = {model.stem: measure(model) for model in sorted(MODEL_DIR.glob("keypoints_model_*.safetensors"))}
    write_json(OUT, content)
    print(f"wrote {OUT}")
    return 0


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m training.studies.slices", description=__doc__.split("\n", 1)[0]
    ).parse_args()
    sys.exit(main())
