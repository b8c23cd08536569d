"""PhotoNet's confidence: logistic regressions on its features, fitted after its training.

A point's confidence is the probability that its error is under 5 % of the face's size; it is fitted on people and
photos that are not in the training set, since the network is better on its own training faces. The face score is the
probability that a crop shows a face; its negatives are boxes that the Haar cascades gave off every labelled face
(``results/negatives.json``). A tracked face passes the fine stage alone, so it has two regressions of its own, fitted
on crops around keypoints that are moved as a head moves between frames.

Command line: ``python -m training.confidence --model FILE`` fits all of them and writes them into the weights, and
their figures into the record beside.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import nn

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
from training.recipe import true_keypoints
from training.splits import WILD_CSV, people_split, read_splits, require_wild
from training.weights import MODEL_DIR, load_model, save_model

RIGHT_BELOW = 5.0  # percent of the face's size: a point with a smaller error counts as right
CROPS = 3  # random crops of each face
STILL_ON, ASTRAY = (
    10.0,
    25.0,
)  # percent of the face's size: a tracked face is on track up to one NME, lost from the other
NEGATIVES = MODEL_DIR.parent / "results" / "negatives.json"


def fit_logistic(features: torch.Tensor, right: torch.Tensor, decay: float = 1e-4) -> torch.Tensor:
    """Fit logistic regressions, several at once.

    Args:
        features: (N, R, F) float32: N cases of R regressions.
        right: (N, R) float32, 0 or 1.
        decay: weight of the squared weights, on features of deviation 1, beside the mean loss; the bias is not
            regularised.

    Returns:
        (R, F + 1): the weights, then the bias.

    >>> x = torch.linspace(-2, 2, 401)[:, None, None]
    >>> slope, bias = fit_logistic(x, (x[..., 0] > 1).float())[0]
    >>> bool(0.9 < -bias / slope < 1.1)
    True
    """
    rows = []
    for cases, labels in zip(features.double().unbind(1), right.unbind(1), strict=True):
        mean, deviation = cases.mean(dim=0), cases.std(dim=0).clamp_min(1e-6)
        if labels.min() == labels.max():  # one class: its odds, were there half a case of the other
            rows.append(torch.cat([0 * mean, (2 * labels[:1].double() - 1) * np.log(2 * len(labels) + 1)]))
            continue
        fitted = LogisticRegression(C=1 / (2 * decay * len(cases)), solver="newton-cholesky", tol=1e-6)
        fitted.fit(((cases - mean) / deviation).numpy(), labels.numpy())
        weights = torch.from_numpy(fitted.coef_[0]) / deviation
        rows.append(torch.cat([weights, torch.from_numpy(fitted.intercept_) - weights @ mean]))
    return torch.stack(rows).float()


def binary_auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the probability that a positive case scores above a negative one; equal scores count half."""
    labels = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
    return float(roc_auc_score(labels, np.r_[positive, negative]))


@torch.no_grad()
def predict_features(net: nn.Module, crops: Sequence[dict]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Predict crops.

    Returns:
        the points' features (N, 68, 4), the face features (N, F), and which points were right, (N, 68) float32.
    """
    evidence, faces, right = [], [], []
    for start in range(0, len(crops), 32):
        batch = crops[start : start + 32]
        points, of_points, of_face = net.judged(torch.stack([crop["image"] for crop in batch]))
        predicted = Normalize.inverse(points).unflatten(1, (NUM_KEYPOINTS, 2)).numpy()
        evidence.append(of_points)
        faces.append(of_face)
        right.append(torch.from_numpy(metrics.point_errors(predicted, true_keypoints(batch)) < RIGHT_BELOW).float())
    return torch.cat(evidence), torch.cat(faces), torch.cat(right)


def random_crops(faces: FaceCrops, damaged: bool) -> list[dict]:
    """Return :data:`CROPS` random crops of each face as a detector's box gives them, every second one damaged if
    ``damaged``."""
    turn, damage, normalize, tensor = RandomView(tilt=8), RandomDamage(), Normalize(), ToTensor()
    crops = []
    for number in range(CROPS * len(faces)):
        crop = turn(faces[number // CROPS])
        crops.append(tensor(normalize(damage(crop) if damaged and number % 2 else crop)))
    return crops


def negative_crops(boxes: Sequence[Sequence], folder: Path, framing: Framing) -> torch.Tensor:
    """Return the network's input (N, 1, 224, 224) of boxes, each file, left, top, width, height, …"""
    places = framing.views(np.array([box[1:5] for box in boxes], np.float64))
    crops = [crop_view(read_image(folder / box[0]), place)[0] for box, place in zip(boxes, places, strict=True)]
    return torch.from_numpy(np.stack(crops))[:, None].float() / 255


def occluded(samples: Sequence[dict], seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Paint over the faces of samples: crops (N, 1, 224, 224), and the points, (N, 68, 2), that were there."""
    rng, crops, true = np.random.default_rng(seed), [], true_keypoints(samples)
    for sample, points in zip(samples, true, strict=True):
        crop, margin = sample["image"].clone(), rng.uniform(0.05, 0.5) * metrics.face_size(points)
        left, top = np.maximum(points.min(axis=0) - margin, 0).astype(int)
        right, bottom = np.maximum(points.max(axis=0) + margin, 1).astype(int)
        part = crop[:, top:bottom, left:right]
        noise = rng.choice([0.0, 0.0, rng.uniform(0, 0.1)]) * rng.standard_normal(part.shape)
        part[:] = torch.from_numpy(np.clip(rng.random() + noise, 0, 1))
        crops.append(crop)
    return torch.stack(crops), true


@torch.no_grad()
def face_features(net: nn.Module, crops: torch.Tensor) -> torch.Tensor:
    """Return the face features of crops (N, 1, 224, 224)."""
    return torch.cat([net.judged(batch)[2] for batch in crops.split(32)])


def moved(points: torch.Tensor, far: bool) -> torch.Tensor:
    """Move points (N, 68, 2) as a head moves between frames: shifted, rotated, scaled and jittered.

    Args:
        far: so far that the face is lost: most points lie beside it, or have another scale.
    """
    size, middle = (points.amax(dim=1) - points.amin(dim=1)).prod(dim=1).sqrt()[:, None, None], points.mean(1, True)
    shift, turn, scale = (0.6, 0.5, 0.5) if far else (0.04, 0.04, 0.03)
    angle = turn * torch.randn(len(points), 1, 1)
    x, y = ((points - middle) * (scale * torch.randn(len(points), 1, 1)).exp()).split(1, dim=2)
    turned = torch.cat([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], dim=2)
    return middle + turned + size * (shift * torch.randn(len(points), 1, 2) + 0.01 * torch.randn_like(points))


@torch.no_grad()
def predict_tracked(
    net: nn.Module,
    crops: torch.Tensor,
    true: np.ndarray | None = None,
    far: bool = False,
    before: np.ndarray | None = None,
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Predict crops (N, 1, 224, 224) by the fine stage alone, from the points of the frame before.

    Args:
        true: (N, 68, 2) pixels of the crops; without them the crops show no face.
        far: see :func:`moved`.
        before: (N, 68, 2) pixels: the points to start from (default: those that the network finds).

    Returns:
        the points' features (N, 68, 4), face features (N, 196), point errors (N, 68) in percent, infinite without a
        face.
    """
    parts = []
    for start in range(0, len(crops), 32):
        image = crops[start : start + 32]
        points = Normalize.inverse(net(image)).unflatten(1, (NUM_KEYPOINTS, 2))
        points = points if before is None else torch.from_numpy(before[start : start + 32])
        points = moved((points + 0.5) / (IMAGE_SIZE / 2) - 1, far)
        crop, place = net.close_view(image, points)
        inside = torch.linalg.solve(place[:, :, :2], (points - place[:, None, :, 2]).mT).mT
        points, evidence, face = net.followed(crop, inside)
        found = ((from_view(points, place) + 1) * (IMAGE_SIZE / 2) - 0.5).numpy()
        labels = None if true is None else true[start : start + 32]
        errors = np.full(found.shape[:2], np.inf) if labels is None else metrics.point_errors(found, labels)
        parts.append((evidence, face, torch.from_numpy(errors)))
    evidence, face, errors = (torch.cat(part) for part in zip(*parts, strict=True))
    return evidence, face, errors.numpy()


def confidence_figures(evidence: torch.Tensor, weights: torch.Tensor, right: np.ndarray) -> dict:
    """Return the expected calibration error on test people, and (mean confidence, accuracy) of each bin."""
    error, bins = metrics.calibration_error(logistic(evidence, weights).numpy().ravel(), right.ravel())
    return {
        "ece_test_people": round(error, 4),
        "reliability_test_people": [[round(value, 4) for value in row[1:]] for row in bins],
    }


def score_figures(positive: np.ndarray, negative: np.ndarray, dropped: str) -> dict:
    """Return the area under the ROC curve, and the shares of faces kept and of others dropped at a score of 0.5."""
    return {
        "roc_auc": round(binary_auc(positive, negative), 5),
        "faces_kept": round(float((positive >= 0.5).mean()), 4),
        dropped: round(float((negative < 0.5).mean()), 4),
    }


def calibrate_tracking(
    net: nn.Module, training: Sequence[dict], validation: Sequence[dict], test: Sequence[dict], negative: dict
) -> dict:
    """Fit the regressions of tracked faces in place.

    Args:
        training, validation, test: samples. negative: 'training' and 'validation': (N, 1, 224, 224) without faces.

    Returns:
        figures: of the confidence on test people, of the score on validation faces and negatives.
    """

    def tracked(samples: Sequence[dict], far: bool = False) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        return predict_tracked(net, torch.stack([sample["image"] for sample in samples]), true_keypoints(samples), far)

    def cases(samples: Sequence[dict], others: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
        """Return face features and mean errors of faces on track, lost faces, occluded faces and no faces."""
        covered, before = occluded(samples)
        kinds = [tracked(samples), tracked(samples, far=True), predict_tracked(net, covered, before=before)]
        kinds.append(predict_tracked(net, others))
        features = torch.cat([part[1] for part in kinds])
        errors = np.concatenate([part[2].mean(axis=1) for part in kinds])
        clear = (errors <= STILL_ON) | (errors >= ASTRAY)
        return features[clear], errors[clear]

    features, errors = cases(training, negative["training"])
    labels = torch.from_numpy(errors <= STILL_ON).float()
    net.follow_score_weights.copy_(fit_logistic(features[:, None], labels[:, None])[0])
    evidence, _, off = tracked(validation)
    net.follow_confidence_weights.copy_(fit_logistic(evidence, torch.from_numpy(off < RIGHT_BELOW).float()))
    evidence, _, off = tracked(test)
    confidence = confidence_figures(evidence, net.follow_confidence_weights, off < RIGHT_BELOW)
    features, errors = cases(validation, negative["validation"])
    score = logistic(features, net.follow_score_weights).numpy()
    on, lost = score[errors <= STILL_ON], score[errors >= ASTRAY]
    return {**confidence, "faces": len(on), "lost": len(lost), **score_figures(on, lost, "lost_dropped")}


def calibrate(net: nn.Module, seed: int = 0) -> dict:
    """Fit all regressions in place, on the official set and the wild one.

    Returns:
        confidence, face_score and following (of tracked faces): their figures; by_person: the network's figures on the
        validation people, and on the test people, which were not used for any choice.
    """
    data, wild = find_data("official"), require_wild()
    csv_file, images = data.csv_file("training"), data.image_dir("training")
    names = FacialKeypointsDataset(csv_file, images, cache=False).names
    people = {part: [names[i] for i in members] for part, members in people_split(names).items()}
    photos = {part: [name for group in groups for name in group] for part, groups in read_splits()["wild"].items()}
    torch.manual_seed(seed)

    def crops(part: str, damaged: bool) -> list[dict]:
        found = random_crops(FaceCrops(csv_file, images, people[part], official=True), damaged)
        if part in photos:
            found += random_crops(FaceCrops(wild / WILD_CSV, wild, photos[part]), damaged)
        return found

    net.eval()
    boxes, framing = json.loads(NEGATIVES.read_text(encoding="utf-8")), Framing(**net.framing)
    no_faces = {
        part: torch.cat(
            [negative_crops(boxes[of][part], at, framing) for of, at in (("wild", wild), ("official", images))]
        )
        for part in ("training", "validation")
    }
    negative = {part: face_features(net, there) for part, there in no_faces.items()}
    training = crops("training", damaged=True)
    _, positive, _ = predict_features(net, training)
    others = torch.cat([negative["training"], face_features(net, occluded(training[:: 2 * CROPS])[0])])
    labels = torch.cat([torch.ones(len(positive)), torch.zeros(len(others))])
    net.score_weights.copy_(fit_logistic(torch.cat([positive, others])[:, None], labels[:, None])[0])

    validation = crops("validation", damaged=False)
    evidence, faces, right = predict_features(net, validation)
    net.confidence_weights.copy_(fit_logistic(evidence, right))
    test = crops("test", damaged=False)
    of_test, _, right_of_test = predict_features(net, test)
    fitted = confidence_figures(evidence, net.confidence_weights, right.numpy())
    of_faces, of_others = (logistic(f, net.score_weights).numpy() for f in (faces, negative["validation"]))
    return {
        "confidence": {
            "right_below_percent": RIGHT_BELOW,
            "fitted_on_views": len(evidence),
            "ece_fitted": fitted["ece_test_people"],
            **confidence_figures(of_test, net.confidence_weights, right_of_test.numpy()),
            "test_people": len({person_of(name) for name in people["test"]}),
        },
        "face_score": {
            "negatives": {part: len(features) for part, features in negative.items()},
            **score_figures(of_faces, of_others, "false_alarms_dropped"),
        },
        "following": calibrate_tracking(net, training[::CROPS], validation, test, no_faces),
        "by_person": {
            part: evaluate_framings(net, csv_file, images, names=people[part], offset=True)
            for part in ("validation", "test")
        },
    }


@one_sentence()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.confidence", description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="weights of a PhotoNet")
    options = parser.parse_args(arguments)
    calibrate_file(options.model)


def calibrate_file(model: Path) -> None:
    """Calibrate a weights file: write the regressions into it and their figures into its record, and print these."""
    record_file = model.with_suffix(".json")
    with lock(record_file):  # the training's, too
        net, record = load_model(model), json.loads(record_file.read_text(encoding="utf-8"))
        check_writable(model)
        figures = calibrate(net)
        kept = {name: value for name, value in record.items() if name not in ("weights", "sha256")}  # written anew
        save_model(net, model, kept | figures)
    print(json.dumps({name: figures[name] for name in ("confidence", "face_score", "following")}, indent=1))


if __name__ == "__main__":
    main()
