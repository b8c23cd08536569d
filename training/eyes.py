"""Train the network that tells how far eyes are open: `python -m training.eyes --folder DIR`, some minutes on one core.

``DIR`` is the folder of :mod:`training.photo`: wild/, official/ and rendered/, each optional; the sample's heads are
always there. The labels are the keypoints' own: the distance of the lids over the eye's width. The eyes are cut out by
the keypoints of the shipped network, as at use. Writes saved_models/eyes.onnx and eyes.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional

from data_load import read_image
from keypoints.detection import KeypointDetector
from keypoints.files import check_writable, one_sentence, sha256, write_json
from keypoints.geometry import with_roll
from keypoints.landmarks import LEFT_EYE, RIGHT_EYE
from keypoints.signals import EYE_MODEL, EYE_SIDE, eye_crops
from models import EyeNet
from training.augmentation import Views
from training.export import export_onnx
from training.loop import LoopRecipe, fit
from training.splits import labelled_faces
from training.weights import DEFAULT_MODEL

WIDER = 1.5  # how much more of the face the crops show from which the views are cut
CLOSED, NARROW = 0.12, 0.18  # openings
WIDEST = 0.45  # wider open eyes are as this


@dataclass(frozen=True)
class EyeRecipe(LoopRecipe):
    """How the network is trained; ``closed`` and ``narrow`` say how much oftener such eyes are seen than open ones."""

    views: int = 220_000
    views_an_epoch: int = 22_000
    batch_size: int = 64
    average: float = 0.995
    closed: float = 10
    narrow: float = 4
    kinds: tuple[tuple[str, float], ...] = (("wild", 2), ("frames", 0.5), ("rendered", 1))


@dataclass(frozen=True, eq=False)
class Eyes:
    """Eyes of one kind: crops (N, W, W) uint8, their labelled openings (N,), and those of the predicted keypoints."""

    crops: np.ndarray
    openings: np.ndarray
    of_keypoints: np.ndarray


def openings_of(keypoints: np.ndarray) -> np.ndarray:
    """Return the distance of the lids over the eye's width, (N, 68, 2) → (N, 2) of the right and the left eye."""
    eyes = np.stack([keypoints[:, RIGHT_EYE], keypoints[:, LEFT_EYE]], axis=1)
    height = np.linalg.norm(eyes[:, :, 1:3] - eyes[:, :, [5, 4]], axis=3).mean(axis=2)
    return height / np.maximum(np.linalg.norm(eyes[:, :, 0] - eyes[:, :, 3], axis=2), 1e-6)


def read_eyes(folder: Path, detector: KeypointDetector) -> dict[tuple[str, str], Eyes]:
    """Read the eyes of all labelled faces, cut out by the keypoints that are found: (part, kind) → eyes."""
    side = round(EYE_SIDE * WIDER)
    found: dict[tuple[str, str], list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
    for part, kind, file, points in labelled_faces(folder):
        image = read_image(file)
        prediction = detector.network.locate([image], with_roll(detector.boxes(points)), None)
        [crop] = prediction.crops
        if crop is not None:
            crops = eye_crops(crop.image, crop.keypoints, side, WIDER)
            of_keypoints = openings_of(prediction.keypoints)[0]
            found.setdefault((part, kind), []).append((crops, openings_of(points[None])[0], of_keypoints))
    return {key: Eyes(*map(np.concatenate, zip(*rows, strict=True))) for key, rows in found.items()}


view = Views(EYE_SIDE, 1 / WIDER, 0.12, 0.1, 0.08, mirrored=False, blurred=0.4, coarse=(6, 8, 12, 16))


def train(eyes: dict[tuple[str, str], Eyes], recipe: EyeRecipe, out: Path) -> tuple[EyeNet, dict]:
    """Train a network; returns it with its record, which holds its figures on the validation faces."""
    torch.manual_seed(recipe.seed)
    shares = dict(recipe.kinds)
    own = {kind: faces for (part, kind), faces in eyes.items() if part == "training"}
    crops = torch.from_numpy(np.concatenate([faces.crops for faces in own.values()]))
    openings = np.concatenate([faces.openings for faces in own.values()]).clip(0, WIDEST)
    weights = np.concatenate([np.full(len(faces.openings), float(shares[kind])) for kind, faces in own.items()])
    weights *= np.select([openings < CLOSED, openings < NARROW], [recipe.closed, recipe.narrow], 1.0)
    weights, targets = torch.from_numpy(weights), torch.from_numpy(openings).float()

    def batches(epoch: int, progress: float) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        random = torch.Generator().manual_seed(1000 * recipe.seed + epoch)
        order = torch.multinomial(weights, recipe.views_an_epoch, replacement=True, generator=random)
        for chosen in order.split(recipe.batch_size):
            yield view(crops[chosen], random), targets[chosen]

    def loss_of(net: nn.Module, batch: tuple) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss = functional.smooth_l1_loss(net(batch[0]), batch[1], beta=0.05)
        return loss, {"loss": loss}

    held = {kind: faces for (part, kind), faces in eyes.items() if part == "validation"}

    def figures(net: nn.Module) -> dict:
        return {kind: measure(net, faces) for kind, faces in held.items()}

    return fit(EyeNet(), batches, loss_of, figures, recipe, out, clip=5, measure_every=5)


@torch.no_grad()
def measure(net: nn.Module, eyes: Eyes) -> dict:
    """Return :func:`agreement` with the labels, of the network and of the predicted keypoints alone."""
    told = torch.cat([net(view(part)) for part in torch.from_numpy(eyes.crops).split(512)]).numpy()
    counts = {"eyes": len(eyes.openings), "closed": int((eyes.openings < CLOSED).sum())}
    both = {"network": told, "keypoints": eyes.of_keypoints}
    return counts | {name: agreement(values, eyes.openings) for name, values in both.items()}


def agreement(told: np.ndarray, openings: np.ndarray) -> dict:
    """Return how well openings (N,) are told: correlation with the labels (N,), area under the ROC curve for closed
    eyes, and the median opening of closed and of other eyes."""
    figures, closed = {"correlation": float(np.corrcoef(told, openings)[0, 1])}, openings < CLOSED
    if closed.any():
        figures["auc"] = float(roc_auc_score(closed, -told))
        figures |= {"of_closed": float(np.median(told[closed])), "of_others": float(np.median(told[~closed]))}
    return {key: round(value, 4) for key, value in figures.items()}


def learn(folder: Path, keypoints: Path, recipe: EyeRecipe, out: Path) -> None:
    """Train a network on the faces of a folder; write its graph and its record.

    Args:
        keypoints: ONNX file of the network by whose keypoints the eyes are cut out.
        out: ONNX file.
    """
    eyes = read_eyes(folder, KeypointDetector(keypoints))
    print({" ".join(key): len(own.openings) for key, own in eyes.items()}, flush=True)
    net, record = train(eyes, recipe, out)
    export_onnx(net, out)
    counts = {f"{part} {kind}": len(own.openings) for (part, kind), own in eyes.items()}
    content = {"sha256": sha256(out), "keypoints_sha256": sha256(keypoints), "eyes": counts, **record}
    write_json(out.with_suffix(".json"), content)
    out.with_suffix(".checkpoint").unlink(missing_ok=True)


@one_sentence()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.eyes", description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("data"), metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("build") / EYE_MODEL.name, metavar="FILE.onnx")
    parser.add_argument("--views", type=int, default=EyeRecipe.views, help="eyes that the network sees")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    check_writable(options.out)
    learn(options.folder, DEFAULT_MODEL, EyeRecipe(views=options.views), options.out)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
