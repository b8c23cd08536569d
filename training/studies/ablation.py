"""Which ingredient of the network for photographs gives what: `python -m training.studies.ablation --rendered DIR …`.

The same network is trained with one ingredient left out, each time on as many crops, fewer than the shipped weights
were trained on, and evaluated on the validation photos and the validation people of the frames, framed by the truth.
Runs go into results/ablation.json as each ends; a second start skips those that are there and continues one that was
interrupted. Needs the official set in data/ and the wild set (KEYPOINTS_WILD).
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import asdict, replace

import numpy as np
import torch
from torch.utils.data import Subset
from torchvision.transforms import Compose

from data_load import Normalize, ToTensor, find_data
from keypoints.files import check_writable, one_sentence
from models import PhotoNet
from training import metrics
from training.augmentation import FaceCrops, RandomDamage, RandomView, photo_transform
from training.photo import FRAMES, RENDERED, WILD, PhotoData, photo_data
from training.prediction import predict
from training.recipe import PHOTO_RECIPE, Recipe, fit, true_keypoints
from training.splits import require_wild
from training.studies.common import BUILD, RESULTS, kept_run, make_parser
from training.weights import save_model

IMAGES, EPOCHS = 6000, 5  # crops an epoch
RECIPE = replace(PHOTO_RECIPE, epochs=EPOCHS, weight_average=0.995)
KINDS = (FRAMES, RENDERED, WILD)
# Label → the kinds of faces that are left, and how they are augmented.
RUNS = {
    "all": (KINDS, photo_transform),
    "no video frames": ((RENDERED, WILD), photo_transform),
    "no rendered heads": ((FRAMES, WILD), photo_transform),
    "no photographs": ((FRAMES, RENDERED), photo_transform),
    "no turning": (KINDS, lambda: Compose([RandomView(tilt=0, wide=0), RandomDamage(), Normalize(), ToTensor()])),
    "no damage": (KINDS, lambda: Compose([RandomView(), Normalize(), ToTensor()])),
}


def mean_errors(net: PhotoNet, faces: FaceCrops) -> dict:
    """Return the mean NME in percent of faces that are framed by the truth."""
    predicted, true = predict(net, faces), true_keypoints(faces)
    return {f"nme_{name}": float(metrics.nme(predicted, true, name).mean()) for name in ("box", "iod")}


def run(data: PhotoData, label: str, recipe: Recipe) -> dict:
    """Train one network of :data:`RUNS`, keep its weights in build/, and return its errors."""
    kinds, transform = RUNS[label]
    data.show(transform())
    faces = data.together(kinds)
    order = np.random.default_rng(0).permutation(len(faces))
    torch.manual_seed(recipe.seed)
    net = PhotoNet()
    net.framing = data.framing
    checkpoint = BUILD / f"ablation-{hashlib.sha256(label.encode()).hexdigest()[:8]}.checkpoint"
    training_set, files = Subset(faces, np.resize(order, IMAGES).tolist()), data.files(kinds)
    record = fit(net, training_set, None, recipe, checkpoint=checkpoint, files=files)
    save_model(net, BUILD / f"ablation {label}.safetensors".replace(" ", "_"), record)
    checkpoint.unlink()
    held_out = {"wild photos": data.wild, "frames": data.frames}
    return {title: mean_errors(net, faces) for title, faces in held_out.items()} | {"seconds": record["seconds"]}


@one_sentence()
def main(arguments: list[str] | None = None) -> int:
    options = make_parser("ablation", __doc__, "rendered", "bfloat16", "threads", choices=list(RUNS))
    options = options.parse_args(arguments)
    torch.set_num_threads(options.threads)
    frames = find_data("official")
    data = photo_data(
        frames.name, frames.csv_file("training"), frames.image_dir("training"), require_wild(), options.rendered
    )
    recipe, out = replace(RECIPE, bfloat16=options.bfloat16), RESULTS / "ablation.json"
    empty = {"base": {"recipe": asdict(recipe), "images": IMAGES, "faces": data.counts}, "runs": {}}
    check_writable(out)
    for label in options.chosen or RUNS:
        print(label, kept_run(out, empty, label, lambda label=label: run(data, label, recipe)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
