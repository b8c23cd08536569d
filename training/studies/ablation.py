"""Which ingredient of the network for photographs gives what: `python -m training.studies.ablation --rendered DIR …`.

The same network is trained with one ingredient left out, each time on as many views, fewer than the shipped weights
saw, and judged by the validation photos and the validation people of the frames, framed by the truth. Runs go into
results/ablation.json as each ends; a second start skips those that are there and goes on with one that was cut off.
Needs the official set in data/ and the wild set (KEYPOINTS_WILD).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Subset
from torchvision.transforms import Compose

from data_load import Normalize, ToTensor, find_data
from keypoints.files import check_writable, lock, one_sentence, write_json
from models import PhotoNet
from training import metrics
from training.augmentation import FaceCrops, RandomDamage, RandomView, photo_transform
from training.photo import FRAMES, RENDERED, WILD, PhotoData, photo_data
from training.prediction import predict
from training.recipe import PHOTO_RECIPE, fit, true_keypoints
from training.splits import find_wild
from training.weights import save_model

OUT = Path(__file__).resolve().parents[2] / "results" / "ablation.json"
BUILD = OUT.parents[1] / "build"
IMAGES, EPOCHS = 6000, 5  # views an epoch
RECIPE = replace(PHOTO_RECIPE, epochs=EPOCHS, weight_average=0.995)


KINDS = (FRAMES, RENDERED, WILD)
# Label → the kinds of faces that are left, and what is done to them.
RUNS = {
    "all": (KINDS, photo_transform),
    "no video frames": ((RENDERED, WILD), photo_transform),
    "no rendered heads": ((FRAMES, WILD), photo_transform),
    "no photographs": ((FRAMES, RENDERED), photo_transform),
    "no turning": (KINDS, lambda: Compose([RandomView(tilt=0, wide=0), RandomDamage(), Normalize(), ToTensor()])),
    "no damage": (KINDS, lambda: Compose([RandomView(), Normalize(), ToTensor()])),
}


def error_of(net: PhotoNet, faces: FaceCrops) -> dict:
    """NME in percent of faces framed by the truth, over all."""
    predicted, true = predict(net, faces), true_keypoints(faces)
    return {f"nme_{name}": float(metrics.nme(predicted, true, name).mean()) for name in ("box", "iod")}


def run(data: PhotoData, label: str, bfloat16: bool) -> dict:
    kinds, transform = RUNS[label]
    data.show(transform())
    faces = data.together(kinds)
    order = np.random.default_rng(0).permutation(len(faces))
    recipe = replace(RECIPE, bfloat16=bfloat16)
    torch.manual_seed(recipe.seed)
    net = PhotoNet()
    net.framing = data.framing
    checkpoint = BUILD / f"ablation-{hashlib.sha256(label.encode()).hexdigest()[:8]}.checkpoint"
    record = fit(net, Subset(faces, np.resize(order, IMAGES).tolist()), None, recipe, checkpoint=checkpoint)
    save_model(net, BUILD / f"ablation {label}.safetensors".replace(" ", "_"), record)
    judged = {"wild photos": data.wild, "frames": data.frames}
    return {title: error_of(net, held_out) for title, held_out in judged.items()} | {"seconds": record["seconds"]}


@one_sentence()
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.studies.ablation", description=__doc__.split("\n", 1)[0])
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"{', '.join(map(repr, RUNS))} (default: all)")
    parser.add_argument("--rendered", type=Path, nargs="+", default=[], metavar="DIR", help="folders of rendered heads")
    parser.add_argument("--bfloat16", action="store_true", help="train the convolutions with 16 bits")
    parser.add_argument("--threads", type=int, default=1, help="threads for torch (default: 1)")
    options = parser.parse_args(arguments)
    for label in options.runs:
        if label not in RUNS:
            parser.error(f"got run {label!r}, expected one of {', '.join(RUNS)}")
    torch.set_num_threads(options.threads)
    frames, wild = find_data("official"), find_wild()
    if wild is None:
        parser.error("the wild set is not here: name its folder with KEYPOINTS_WILD")
    data = photo_data(frames.name, frames.csv_file("training"), frames.image_dir("training"), wild, options.rendered)
    base = {"recipe": asdict(replace(RECIPE, bfloat16=options.bfloat16)), "images": IMAGES, "faces": data.counts}
    check_writable(OUT)
    for label in options.runs or RUNS:
        content = _read(base)
        if label not in content["runs"]:
            print(label, flush=True)
            result = run(data, label, options.bfloat16)
            with lock(OUT, wait=True):
                content = _read(base)  # another process may have added its runs meanwhile
                content["runs"][label] = result
                write_json(OUT, content)
        print(label, content["runs"][label], flush=True)
    return 0


def _read(base: dict) -> dict:
    """The figures so far; those of other data or another recipe say nothing about these."""
    content = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    return content if content.get("base") == base else {"base": base, "runs": {}}


if __name__ == "__main__":
    sys.exit(main())
