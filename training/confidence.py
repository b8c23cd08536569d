"""How sure PhotoNet is: two logistic regressions on what it saw, fitted after its training.

A point's confidence is the probability that its error is under 5 % of the face's size; it is fitted on people and
photos that the network was not trained on, since on its own training faces it is better than anywhere else. The face
score is the probability that a view shows a face at all; its negatives are boxes that the Haar cascades gave off every
labelled face (``results/negatives.json``). A face that is followed through a video is looked at once and not twice, so
it has two regressions of its own, fitted on close views cut by points that are moved as a head moves between frames.

Command line: ``python -m training.confidence --model FILE`` fits both, writes them into the weights and what they are
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

from data_load import (
    IMAGE_SIZE,
    NUM_KEYPOINTS,
    FacialKeypointsDataset,
    Normalize,
    ToTensor,
    find_data,
    person_of,
    read_image,
)
from keypoints.files import check_writable, lock, one_sentence
from keypoints.geometry import crop_view
from keypoints.network import Framing
from models import from_view, logistic
from training import metrics
from training.augmentation import FaceCrops, RandomDamage, RandomView
from training.evaluation import evaluate_framings
from training.splits import WILD_CSV, find_wild, people_split, read_splits
from training.weights import MODEL_DIR, load_model, save_model

SURE = 5.0  # percent of the face's size: a point nearer to the truth counts as right
VIEWS = 3  # random views of each face
STILL_ON, ASTRAY = 10.0, 25.0  # percent of the face's size, the NME of a followed face: up to it tracked; lost from it
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
    places = framing.views(np.array([box[1:5] for box in boxes], np.float64))
    views = [crop_view(read_image(folder / box[0]), place)[0] for box, place in zip(boxes, places, strict=True)]
    return torch.from_numpy(np.stack(views))[:, None].float() / 255


def hidden(samples: Sequence[dict], seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Samples whose faces are painted over: views (N, 1, 224, 224), and the points, (N, 68, 2), that were there."""
    rng, views = np.random.default_rng(seed), []
    true = Normalize.inverse(torch.stack([sample["keypoints"] for sample in samples])).numpy()
    for sample, points in zip(samples, true, strict=True):
        view, margin = sample["image"].clone(), rng.uniform(0.05, 0.5) * metrics.face_size(points)
        left, top = np.maximum(points.min(axis=0) - margin, 0).astype(int)
        right, bottom = np.maximum(points.max(axis=0) + margin, 1).astype(int)
        part = view[:, top:bottom, left:right]
        noise = rng.choice([0.0, 0.0, rng.uniform(0, 0.1)]) * rng.standard_normal(part.shape)
        part[:] = torch.from_numpy(np.clip(rng.random() + noise, 0, 1))
        views.append(view)
    return torch.stack(views), true


@torch.no_grad()
def face_features(net: nn.Module, views: torch.Tensor) -> torch.Tensor:
    return torch.cat([net.judged(batch)[2] for batch in views.split(32)])


def moved(points: torch.Tensor, far: bool) -> torch.Tensor:
    """Points (N, 68, 2) as a video's last frame would have left them: shifted, turned, scaled and scattered.

    Args:
        far: as when the face was lost: most lie beside it, or are of another size.
    """
    size, middle = (points.amax(dim=1) - points.amin(dim=1)).prod(dim=1).sqrt()[:, None, None], points.mean(1, True)
    shift, turn, scale = (0.6, 0.5, 0.5) if far else (0.04, 0.04, 0.03)
    angle = turn * torch.randn(len(points), 1, 1)
    x, y = ((points - middle) * (scale * torch.randn(len(points), 1, 1)).exp()).split(1, dim=2)
    turned = torch.cat([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], dim=2)
    return middle + turned + size * (shift * torch.randn(len(points), 1, 2) + 0.01 * torch.randn_like(points))


@torch.no_grad()
def judge_followed(
    net: nn.Module,
    views: torch.Tensor,
    true: np.ndarray | None = None,
    far: bool = False,
    was: np.ndarray | None = None,
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """What the network sees of views (N, 1, 224, 224) whose points it had in the frame before.

    Args:
        true: (N, 68, 2) pixels of the views; without them they show no face.
        was: (N, 68, 2) pixels: the points of the frame before, where the network can't find them any more.

    Returns:
        evidence (N, 68, 4), face features (N, 196), point errors (N, 68) in percent, infinite without a face.
    """
    parts = []
    for start in range(0, len(views), 32):
        image = views[start : start + 32]
        points = Normalize.inverse(net(image)).unflatten(1, (NUM_KEYPOINTS, 2))
        points = points if was is None else torch.from_numpy(was[start : start + 32])
        points = (points + 0.5) / (IMAGE_SIZE / 2) - 1
        before = moved(points, far)
        view, place = net.close_view(image, before)
        inside = torch.linalg.solve(place[:, :, :2], (before - place[:, None, :, 2]).mT).mT
        points, evidence, face = net.followed(view, inside)
        found = ((from_view(points, place) + 1) * (IMAGE_SIZE / 2) - 0.5).numpy()
        labels = None if true is None else true[start : start + 32]
        errors = np.full(found.shape[:2], np.inf) if labels is None else metrics.point_errors(found, labels)
        parts.append((evidence, face, torch.from_numpy(errors)))
    evidence, face, errors = (torch.cat(part) for part in zip(*parts, strict=True))
    return evidence, face, errors.numpy()


def calibrate_following(
    net: nn.Module, training: Sequence[dict], validation: Sequence[dict], test: Sequence[dict], negative: dict
) -> dict:
    """Fit the regressions of followed faces in place; samples and (N, 1, 224, 224) negatives as in :func:`calibrate`.

    Returns:
        what they are worth: of the confidence as on single images, of the score on validation faces and negatives.
    """

    def followed(samples: Sequence[dict], far: bool) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        true = Normalize.inverse(torch.stack([sample["keypoints"] for sample in samples])).numpy()
        return judge_followed(net, torch.stack([sample["image"] for sample in samples]), true, far)

    def cases(samples: Sequence[dict], others: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
        """Face features and mean errors: faces still followed, faces lost, hidden ones, and what never was one."""
        covered, was = hidden(samples)
        seen = [followed(samples, False), followed(samples, True), judge_followed(net, covered, was=was)]
        seen.append(judge_followed(net, others))
        features = torch.cat([part[1] for part in seen])
        errors = np.concatenate([part[2].mean(axis=1) for part in seen])
        clear = (errors <= STILL_ON) | (errors >= ASTRAY)
        return features[clear], errors[clear]

    features, errors = cases(training, negative["training"])
    labels = torch.from_numpy(errors <= STILL_ON).float()
    net.follow_score_weights.copy_(fit_logistic(features[:, None], labels[:, None], 1e-4)[0])
    evidence, _, off = followed(validation, False)
    net.follow_confidence_weights.copy_(fit_logistic(evidence, torch.from_numpy(off < SURE).float(), 1e-4))
    evidence, _, off = followed(test, False)
    confidence = logistic(evidence, net.follow_confidence_weights).numpy().ravel()
    error, reliability = calibration_error(confidence, (off < SURE).ravel())
    features, errors = cases(validation, negative["validation"])
    score = logistic(features, net.follow_score_weights).numpy()
    on, off = score[errors <= STILL_ON], score[errors >= ASTRAY]
    return {
        "ece_test_people": round(error, 4),
        "reliability_test_people": [[round(value, 4) for value in row] for row in reliability],
        "faces": len(on),
        "lost": len(off),
        "roc_auc": round(roc_auc(on, off), 5),
        "faces_kept": round(float((on >= 0.5).mean()), 4),
        "lost_dropped": round(float((off < 0.5).mean()), 4),
    }


def calibrate(net: nn.Module, seed: int = 0) -> dict:
    """Fit all regressions in place, on the official set and the wild one.

    Returns:
        confidence, face_score and following: what they are worth; by_person: the network's figures on the validation
        people, and on the test people, who decided nothing.
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
    no_faces = {
        part: torch.cat(
            [negative_views(boxes[of][part], at, framing) for of, at in (("wild", wild), ("official", images))]
        )
        for part in ("training", "validation")
    }
    negative = {part: face_features(net, there) for part, there in no_faces.items()}
    training = views("training", damaged=True)
    _, positive, _ = judge(net, training)
    off = torch.cat([negative["training"], face_features(net, hidden(training[:: 2 * VIEWS])[0])])
    cases = torch.cat([positive, off])
    labels = torch.cat([torch.ones(len(positive)), torch.zeros(len(off))])
    net.score_weights.copy_(fit_logistic(cases[:, None], labels[:, None], 1e-4)[0])

    validation = views("validation", damaged=False)
    evidence, faces, right = judge(net, validation)
    net.confidence_weights.copy_(fit_logistic(evidence, right, 1e-4))
    test = views("test", damaged=False)
    unseen = judge(net, test)  # other people than those it was fitted on

    def confidence(seen: torch.Tensor) -> np.ndarray:
        return logistic(seen, net.confidence_weights).numpy().ravel()

    def score(features: torch.Tensor) -> np.ndarray:
        return logistic(features, net.score_weights).numpy()

    error, reliability = calibration_error(confidence(unseen[0]), unseen[2].numpy().ravel())
    at_home, _ = calibration_error(confidence(evidence), right.numpy().ravel())
    following = calibrate_following(net, training[::VIEWS], validation, test, no_faces)
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
        "following": following,
        "by_person": by_person,
    }


@one_sentence()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.confidence", description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="weights of a PhotoNet")
    options = parser.parse_args(arguments)
    record_file = options.model.with_suffix(".json")
    with lock(record_file):  # the training's, too
        net, record = load_model(options.model), json.loads(record_file.read_text(encoding="utf-8"))
        check_writable(options.model)
        worth = calibrate(net)
        of_the_file = ("weights", "sha256")  # written anew
        kept = {name: value for name, value in record.items() if name not in of_the_file}
        save_model(net, options.model, kept | worth)
    print(json.dumps({name: worth[name] for name in ("confidence", "face_score", "following")}, indent=1))


if __name__ == "__main__":
    main()
