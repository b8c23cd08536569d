"""Which ingredient of the network for photographs gives what: `python -m training.studies.ablation --folder DIR`.

The same network is trained with one ingredient left out, each time on as many crops, fewer and smaller than the shipped
weights were trained on, and evaluated on the validation photos, the hard ones and the validation people of the frames.
Runs go into results/ablation.json as each ends; a second start skips those that are there and continues one that was
interrupted.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import torch

from data_load import DATA_DIR
from keypoints.files import check_writable, one_sentence
from models import PhotoNet
from training.photo import PhotoRecipe, train
from training.studies.common import BUILD, RESULTS, kept_run, make_parser

SIDE = 96  # pixels of the crops: half the cost of the shipped network's
RECIPE = PhotoRecipe(views=20_000, small=1.0, learning_rate=2e-3)
# Label → what is left out: kinds of faces, or fields of the recipe.
RUNS: dict[str, tuple[tuple[str, ...], dict]] = {
    "all": ((), {}),
    "no video frames": (("frames",), {}),
    "no rendered heads": (("rendered",), {}),
    "no photographs": (("wild",), {}),
    "no faces that a teacher labelled": (("unlabelled", "expressions", "fer"), {}),
    "no loss of the heatmaps' shape": ((), {"heatmap_weight": 0.0}),
    "no damage": ((), {"damage": 0.0}),
    "no views without a face": ((), {"negatives": 0.0}),
}


def run(folder: Path, hard: Path | None, label: str) -> dict:
    """Train one network of :data:`RUNS`, keep its weights in build/, and return its errors."""
    without, fields = RUNS[label]
    out = BUILD / f"ablation {label}.safetensors".replace(" ", "_")
    record = train(folder, out, replace(RECIPE, **fields), PhotoNet(side=SIDE), hard, without=without)
    last = record["history"][-1]
    return {name: value for name, value in last.items() if name.endswith(("_iod", "_box"))} | {
        "seconds": last["seconds"]
    }


@one_sentence()
def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("ablation", __doc__, choices=list(RUNS))
    parser.add_argument("--folder", type=Path, default=DATA_DIR, help="see training.photo")
    parser.add_argument("--hard", type=Path, help="folder of the hard validation faces")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    out, empty = RESULTS / "ablation.json", {"base": {"recipe": asdict(RECIPE), "side": SIDE}, "runs": {}}
    check_writable(out)
    BUILD.mkdir(exist_ok=True)
    for label in options.chosen or RUNS:
        figures = kept_run(out, empty, label, lambda label=label: run(options.folder, options.hard, label))
        print(label, figures, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
