"""PhotoNet's confidence and score: logistic regressions on its features, fitted after its training.

A keypoint's confidence is the probability that its error is under 5 % of the face's size. A face's score is the
probability that the crop shows a face that the keypoints fit; its negatives are crops that miss the face, and boxes
that the Haar cascades gave off every labelled face (``results/negatives.json``). Both are fitted on people and photos
that are not in the training set, since the network is better on its own training faces, and measured on others.

Command line: ``python -m training.confidence --model FILE`` fits them and writes them into the weights, and their
figures into the record beside. ``python -m training.photo train`` ends with it where both sets are there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from data_load import DATA_DIR, Data, person_of, read_image
from keypoints.files import check_writable, lock, one_sentence, write_json
from keypoints.geometry import crop_view
from keypoints.network import CROP_FRAMING
from models import PhotoNet, logistic
from training import metrics
from training.evaluation import evaluate_framings
from training.photo import MISPLACED, Faces, random_crop, read_faces, warp_averaged
from training.splits import official_set, read_splits
from training.weights import MODEL_DIR, load_model, save_model

RIGHT_BELOW = 5.0  # percent of the face's size: a point with a smaller error counts as right
CROPS, ASTRAY = 3, 8.0  # random crops of each face; of them one with so many times a detector's usual errors
DECAY = 1e-4  # of the squared weights, on features of deviation 1, beside the mean loss; the bias is not regularised
NEGATIVES = MODEL_DIR.parent / "results" / "negatives.json"


def fit_logistic(features: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Fit logistic regressions, several at once.

    Args:
        features: (N, R, F) float32: N cases of R regressions.
        right: (N, R) float32, 0 or 1.

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
        fitted = LogisticRegression(C=1 / (2 * DECAY * len(cases)), solver="newton-cholesky", tol=1e-6)
        fitted.fit(((cases - mean) / deviation).numpy(), labels.numpy())
        weights = torch.from_numpy(fitted.coef_[0]) / deviation
        rows.append(torch.cat([weights, torch.from_numpy(fitted.intercept_) - weights @ mean]))
    return torch.stack(rows).float()


def crops_of(faces: Faces, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return :data:`CROPS` random crops of each face, (N, 1, S, S) uint8, and its keypoints in them, crop units."""
    rng, crops, true = np.random.default_rng(0), [], []
    for source, keypoints in zip(faces.crops, faces.keypoints, strict=True):
        for number in range(CROPS):
            matrix = random_crop(keypoints, rng, ASTRAY if number == 0 else None)
            crops.append(warp_averaged(source, matrix, side)[None])
            true.append((keypoints + 0.5) @ matrix[:, :2].T + matrix[:, 2])
    return np.stack(crops), np.stack(true)


def negative_crops(part: str, folders: dict[str, Path], side: int) -> np.ndarray:
    """Return crops without a face, (N, 1, S, S) uint8, of a part of :data:`NEGATIVES`; folders: its kinds' images."""
    boxes, crops = json.loads(NEGATIVES.read_text(encoding="utf-8")), []
    for kind, folder in folders.items():
        rows = boxes[kind][part]
        views = CROP_FRAMING.views(np.array([row[1:5] for row in rows], np.float64).reshape(-1, 4))
        for row, view in zip(rows, views, strict=True):
            crops.append(crop_view(read_image(folder / row[0]), view, side)[0][None])
    return np.stack(crops)


@torch.no_grad()
def features_of(net: PhotoNet, crops: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what :meth:`models.PhotoNet.features` gives for crops (N, 1, S, S) uint8."""
    parts = [net.features(torch.from_numpy(crops[i : i + 32]).float() / 255) for i in range(0, len(crops), 32)]
    points, widths, face = (torch.cat(part) for part in zip(*parts, strict=True))
    return points, widths, face


Cases = tuple[np.ndarray, np.ndarray, np.ndarray]  # crops of faces, their keypoints in crop units, crops of no face


def needed_set(folder: Path) -> Data:
    """Return the official set of a folder.

    Raises:
        ValueError: it is missing, or the photographs of wild/ are.
    """
    official = official_set(folder)
    if official is None or not (folder / "wild").exists():
        name = "wild" if official else "official"
        raise ValueError(f"{folder}: got no {name}/, expected one; the confidences stay one half without")
    return official


def calibrate(net: PhotoNet, folder: Path) -> dict:
    """Fit both regressions in place, on the validation people and photos.

    Args:
        folder: see :mod:`training.photo`; it holds official/ and wild/.

    Returns:
        confidence and face_score: their figures on the test people, who were not used for any choice.
    """
    official = needed_set(folder)
    sets, _, _ = read_faces(folder)
    folders = {"wild": folder / "wild", "official": official.image_dir("training")}
    cases = []
    for part, kinds, negatives in (("validation", ("frames", "wild"), "training"), ("test", ("frames",), "validation")):
        found = [crops_of(sets[part][kind], net.side) for kind in kinds if kind in sets[part]]
        crops, true = (np.concatenate(values) for values in zip(*found, strict=True))
        cases.append((crops, true, negative_crops(negatives, folders, net.side)))
    figures = fit_regressions(net, *cases)
    figures["confidence"]["test_people"] = len({person_of(name) for name in sets["test"]["frames"].names})
    return figures


def fit_regressions(net: PhotoNet, validation: Cases, test: Cases) -> dict:
    """Fit both regressions of a network in place on the ones, and measure them on the others."""
    found = []
    for crops, true, others in (validation, test):
        points, widths, face = features_of(net, crops)
        errors = torch.from_numpy(metrics.point_errors(points.numpy(), true))
        found.append((widths, errors, face, features_of(net, others)[2]))
    widths, errors, face, others = found[0]
    net.confidence_weights.copy_(fit_logistic(widths, (errors < RIGHT_BELOW).float()))
    good = (errors.mean(dim=1) < 100 * MISPLACED).float()
    features, labels = torch.cat([face, others]), torch.cat([good, torch.zeros(len(others))])
    net.score_weights.copy_(fit_logistic(features[:, None], labels[:, None])[0])
    widths, errors, face, others = found[1]
    right = (errors < RIGHT_BELOW).numpy()
    error, bins = metrics.calibration_error(logistic(widths, net.confidence_weights).numpy().ravel(), right.ravel())
    score, none = (logistic(values, net.score_weights).numpy() for values in (face, others))
    good = (errors.mean(dim=1) < 100 * MISPLACED).numpy()
    return {
        "confidence": {
            "right_below_percent": RIGHT_BELOW,
            "fitted_on_crops": len(validation[0]),
            "ece_test_people": round(error, 4),
            "reliability_test_people": [[round(value, 4) for value in row[1:]] for row in bins],
        },
        "face_score": {
            "negatives": len(none),
            "misplaced": int((~good).sum()),
            "roc_auc_negatives": _auc(score[good], none),
            "roc_auc_misplaced": _auc(score[good], score[~good]),
            "faces_kept": round(float((score[good] >= 0.5).mean()), 4),
            "negatives_dropped": round(float((none < 0.5).mean()), 4),
        },
    }


def _auc(positive: np.ndarray, negative: np.ndarray) -> float:
    labels = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
    return round(float(roc_auc_score(labels, np.r_[positive, negative])), 5)


def calibrate_file(model: Path, folder: Path) -> dict:
    """Calibrate a weights file: write the regressions into it, and into its record their figures and by_person's.

    by_person has the network's figures on the validation people and on the test people.
    """
    record_file = model.with_suffix(".json")
    with lock(record_file):  # the training's, too
        net, record = load_model(model), json.loads(record_file.read_text(encoding="utf-8"))
        check_writable(model)
        figures = calibrate(net, folder)
        kept = {name: value for name, value in record.items() if name not in ("weights", "sha256")}  # written anew
        save_model(net, model, kept | figures)
        data = needed_set(folder)
        files, people = (data.csv_file("training"), data.image_dir("training")), read_splits()["by_person"]
        names = data.dataset("training").names
        parts = {part: [name for name in names if person_of(name) in people[part]] for part in ("validation", "test")}
        by_person = {
            part: evaluate_framings(model, *files, names=chosen, offset=True) for part, chosen in parts.items()
        }
        held_out = sorted(people["validation"] + people["test"])
        more = {"data": "official", "held_out_people": held_out, "by_person": by_person}
        record = json.loads(record_file.read_text(encoding="utf-8")) | more
        write_json(record_file, record)
    return figures


@one_sentence()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.confidence", description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="weights of a PhotoNet")
    parser.add_argument("--folder", type=Path, default=DATA_DIR, help="holds official/ and wild/")
    options = parser.parse_args(arguments)
    print(json.dumps(calibrate_file(options.model, options.folder), indent=1))


if __name__ == "__main__":
    main()
