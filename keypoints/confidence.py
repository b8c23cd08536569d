"""How sure PhotoNet is: two logistic regressions on what it saw, fitted after its training.

A point's confidence is the probability that its error is under 5 % of the face's size; it is fitted on people and
photos that the network was not trained on, since on its own training faces it is better than anywhere else. The face
score is the probability that a view shows a face at all; its negatives are boxes that the Haar cascades gave off every
labelled face (``results/negatives.json``).

Command line: ``python -m keypoints.confidence --model FILE`` fits both, writes them into the weights and what they are
worth into the record beside.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from data_load import NUM_KEYPOINTS, FacialKeypointsDataset, Normalize, ToTensor, find_data, person_of, read_image
from keypoints import metrics
from keypoints.augmentation import FaceCrops, RandomDamage, RandomView
from keypoints.detection import Framing, crop_view
from keypoints.evaluation import evaluate_framings
from keypoints.splits import WILD_CSV, find_wild, people_split, read_splits
from models import MODEL_DIR, load_model, save_model

SURE = 5.0  # percent of the face's size: a point nearer to the truth counts as right
VIEWS = 3  # random views of each face
NEGATIVES = MODEL_DIR.parent / "results" / "negatives.json"


def fit_logistic(features: torch.Tensor, right: torch.Tensor, decay: float) -> torch.Tensor:
    """Logistic regressions, several at once.

    Args:
        features: (N, R, F) float32: N cases of R regressions.
        right: (N, R) float32, 0 or 1.
        decay: weight of the squared weights, on features of deviation 1; the shift goes free.

    Returns:
        (R, F + 1): the weights, then the shift.

    >>> x = torch.linspace(-2, 2, 401)[:, None, None]
    >>> slope, shift = fit_logistic(x, (x[..., 0] > 1).float(), 1e-4)[0]
    >>> bool(0.9 < -shift / slope < 1.1)
    True
    """
    mean, deviation = features.mean(dim=0), features.std(dim=0).clamp_min(1e-6)
    standard = (features - mean) / deviation
    weights = torch.zeros(features.shape[1], features.shape[2] + 1, requires_grad=True)
    solver = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        logits = (standard * weights[:, :-1]).sum(dim=2) + weights[:, -1]
        value = functional.binary_cross_entropy_with_logits(logits, right, reduction="none").mean(dim=0).sum()
        value = value + decay * weights[:, :-1].square().sum()
        value.backward()
        return value

    solver.step(loss)
    with torch.no_grad():
        slopes = weights[:, :-1] / deviation
        return torch.cat([slopes, weights[:, -1:] - (slopes * mean).sum(dim=1, keepdim=True)], dim=1)


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 10) -> tuple[float, list[list[float]]]:
    """Expected calibration error, over bins of equal mass (Nguyen and O'Connor, 2015, https://arxiv.org/abs/1508.05154).

    Args:
        confidence: (N,) in [0, 1].
        right: (N,) 0 or 1.

    Returns:
        the mean distance between what was said and what was so, and [mean confidence, share right] of each bin.

    >>> calibration_error(np.array([0.2, 0.2, 0.9, 0.9]), np.array([0, 1, 1, 1]), bins=2)[0].__round__(6)
    0.2
    """
    order = np.array_split(np.argsort(confidence, kind="stable"), bins)
    rows = [[float(confidence[part].mean()), float(right[part].mean())] for part in order if len(part)]
    sizes = np.array([len(part) for part in order if len(part)])
    return float(np.average([abs(said - so) for said, so in rows], weights=sizes)), rows


def roc_auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """The probability that a positive case scores above a negative one; equal scores count half.

    >>> roc_auc(np.array([0.9, 0.4]), np.array([0.1, 0.4]))
    0.875
    """
    negative = np.sort(negative)
    below = (np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")) / 2
    return float(below.mean() / len(negative))


@torch.no_grad()
def judge(net: nn.Module, views: Sequence[dict]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the network saw in samples, and which points were right: evidence, face features, (N, 68) float32."""
    evidence, faces, right = [], [], []
    for start in range(0, len(views), 32):
        batch = views[start : start + 32]
        points, seen, face = net.judged(torch.stack([view["image"] for view in batch]))
        predicted = Normalize.inverse(points).unflatten(1, (NUM_KEYPOINTS, 2)).numpy()
        true = Normalize.inverse(torch.stack([view["keypoints"] for view in batch])).numpy()
        evidence.append(seen)
        faces.append(face)
        right.append(torch.from_numpy(metrics.point_errors(predicted, true) < SURE).float())
    return torch.cat(evidence), torch.cat(faces), torch.cat(right)


def random_views(faces: FaceCrops, damaged: bool) -> list[dict]:
    """:data:`VIEWS` views of each face as a detector frames them, every second one damaged if any is to be."""
    turn, damage, normalize, tensor = RandomView(tilt=8), RandomDamage(), Normalize(), ToTensor()
    views = []
    for number in range(VIEWS * len(faces)):
        view = turn(faces[number // VIEWS])
        views.append(tensor(normalize(damage(view) if damaged and number % 2 else view)))
    return views


def negative_views(boxes: Sequence[Sequence], folder: Path, framing: Framing) -> torch.Tensor:
    """What the network would see of boxes, each file, left, top, width, height, …: (N, 1, 224, 224)."""
    views = [crop_view(read_image(folder / name), framing.views([box])[0])[0] for name, *box in (b[:5] for b in boxes)]
    return torch.from_numpy(np.stack(views))[:, None].float() / 255


@torch.no_grad()
def face_features(net: nn.Module, views: torch.Tensor) -> torch.Tensor:
    return torch.cat([net.judged(batch)[2] for batch in views.split(32)])


def calibrate(net: nn.Module, seed: int = 0) -> dict:
    """Fit both regressions in place, on the official set and the wild one.

    Returns:
        confidence and face_score: what they are worth; by_person: the network's figures on the validation people, and
        on the test people, who decided nothing.
    """
    data, wild = find_data("official"), find_wild()
    if wild is None:
        raise FileNotFoundError("the wild photos are not here: name their folder in KEYPOINTS_WILD")
    csv_file, images = data.csv_file("training"), data.image_dir("training")
    names = FacialKeypointsDataset(csv_file, images, cache=False).names
    people = {part: [names[i] for i in members] for part, members in people_split(names).items()}
    groups = read_splits()["wild"]
    photos = {part: [name for group in groups[part] for name in group] for part in groups}
    torch.manual_seed(seed)

    def views(part: str, damaged: bool) -> list[dict]:
        found = random_views(FaceCrops(csv_file, images, people[part], official=True), damaged)
        if part in photos:
            found += random_views(FaceCrops(wild / WILD_CSV, wild, photos[part]), damaged)
        return found

    net.eval()
    boxes, framing = json.loads(NEGATIVES.read_text(encoding="utf-8")), Framing(**net.framing)
    negative = {
        part: torch.cat(
            [
                face_features(net, negative_views(boxes["wild"][part], wild, framing)),
                face_features(net, negative_views(boxes["official"][part], images, framing)),
            ]
        )
        for part in ("training", "validation")
    }
    _, positive, _ = judge(net, views("training", damaged=True))
    cases = torch.cat([positive, negative["training"]])
    labels = torch.cat([torch.ones(len(positive)), torch.zeros(len(negative["training"]))])
    net.score_weights.copy_(fit_logistic(cases[:, None], labels[:, None], 1e-4)[0])

    evidence, faces, right = judge(net, views("validation", damaged=False))
    net.confidence_weights.copy_(fit_logistic(evidence, right, 1e-4))
    unseen = judge(net, views("test", damaged=False))  # other people than those it was fitted on

    def confidence(seen: torch.Tensor) -> np.ndarray:
        weights = net.confidence_weights
        return ((seen * weights[:, :-1]).sum(dim=2) + weights[:, -1]).sigmoid().numpy().ravel()

    def score(features: torch.Tensor) -> np.ndarray:
        return (features @ net.score_weights[:-1] + net.score_weights[-1]).sigmoid().numpy()

    error, reliability = calibration_error(confidence(unseen[0]), unseen[2].numpy().ravel())
    at_home, _ = calibration_error(confidence(evidence), right.numpy().ravel())
    by_person = {
        part: evaluate_framings(net, csv_file, images, names=people[part], offset=True)
        for part in ("validation", "test")
    }
    of_faces, of_others = score(faces), score(negative["validation"])
    return {
        "confidence": {
            "right_below_percent": SURE,
            "fitted_on_views": len(evidence),
            "ece_fitted": round(at_home, 4),
            "ece_test_people": round(error, 4),
            "reliability_test_people": [[round(value, 4) for value in row] for row in reliability],
            "test_people": len({person_of(name) for name in people["test"]}),
        },
        "face_score": {
            "negatives": {part: len(features) for part, features in negative.items()},
            "roc_auc": round(roc_auc(of_faces, of_others), 5),
            "faces_kept": round(float((of_faces >= 0.5).mean()), 4),
            "false_alarms_dropped": round(float((of_others < 0.5).mean()), 4),
        },
        "by_person": by_person,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m keypoints.confidence", description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="weights of a PhotoNet")
    options = parser.parse_args()
    net = load_model(options.model)
    worth = calibrate(net)
    record = json.loads(options.model.with_suffix(".json").read_text(encoding="utf-8"))
    of_the_file = ("weights", "sha256")  # written anew
    save_model(net, options.model, {name: value for name, value in record.items() if name not in of_the_file} | worth)
    print(json.dumps({name: worth[name] for name in ("confidence", "face_score")}, indent=1))


if __name__ == "__main__":
    main()
