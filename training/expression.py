"""Make saved_models/expressions.npz, what :mod:`keypoints.expression` knows: some four minutes on one core.

    python -m training.expression --emotion ../shared/emotion --people data --rendered DIR …

From pictures of posed expressions (``labels.csv``: file, subject, label, set) and rendered heads (the sample's and
further folders of ``data/sample/render.py``) comes the map to probabilities; from the rendered heads alone, whose face
units are known, the strengths of actions. Every picture's keypoints are those of the shipped detector; they are cached
in build/emotion/ under the digest of its weights.

Faces at rest differ, and few people pose for such pictures. The covariance of faces between people is therefore
estimated from more of them, people of whom there are several frames (``--people``, in the official layout). The map is
a logistic regression with a ridge in the space in which this covariance and that of the detector's errors are white.
The frames in which no action is strong stand for a neutral face, with little weight: the posed pictures hold hardly any
neutral face, and none as a video shows it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import process_time
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import nn

from data_load import Data, find_data, person_of, read_image, read_keypoints
from keypoints.detection import KeypointDetector
from keypoints.expression import (
    ACTIONS,
    EXPRESSION_MODEL,
    EXPRESSIONS,
    FEATURE_POINTS,
    NUM_FEATURES,
    ExpressionModel,
    features,
    frontal_face,
)
from keypoints.files import check_writable, one_sentence, sha256, write_json
from keypoints.landmarks import JAW, LEFT_BROW, LEFT_EYE, MOUTH, RIGHT_BROW, RIGHT_EYE
from keypoints.pose import estimate_pose
from training.records import write_arrays
from training.weights import DEFAULT_MODEL

CACHE = Path(__file__).resolve().parent.parent / "build" / "emotion"
NEUTRAL = EXPRESSIONS.index("neutral")
SMALL = 100  # pixels: a smaller picture is a crop of a face, too small and too close for the detector
CROPS = 4  # of each real face beside the first: the map must be robust to the detector's errors
FRAMES = 4  # of a person, for the covariance between people
# A frame in which none of these actions has this strength, and that is turned by no more, shows a face at rest.
REST_ACTIONS = (
    "brows lowered",
    "nose wrinkled",
    "upper lip raised",
    "mouth corners raised",
    "mouth stretched",
    "jaw dropped",
)
REST_STRENGTH, REST_YAW = 0.3, 25  # degrees
REST_SHARE = 0.03  # of such frames, beside 1 of all else: more costs expressions, less calls people at rest disgusted
NOISE = 0.003  # outer-eye distances: standard deviation that is added to the covariances
FACE_LEFT = 0.2  # share of the covariance between people that remains when the neutral face is subtracted
RIDGE = 0.01
ABSENT = -20.0  # bias of an expression that no face of the training set shows
HIDDEN, STEPS = 32, 800  # of the network that regresses the strengths of actions


def columns_of(*parts: slice) -> np.ndarray:
    """Return the indices of the features of points in these parts of the scheme."""
    return np.flatnonzero([any(p.start <= point < p.stop for p in parts) for point in FEATURE_POINTS])


UPPER, LOWER = columns_of(RIGHT_BROW, LEFT_BROW, RIGHT_EYE, LEFT_EYE), columns_of(JAW, MOUTH)
WHOLE = np.arange(NUM_FEATURES)


@dataclass(frozen=True, eq=False)
class Faces:
    """Faces of one source.

    Attributes:
        points: (N, V, 68, 2) pixels, V crops of each face; the first is the detector's as in use.
        labels: (N,) int, index into EXPRESSIONS, or -1. people: (N,) str.
        lost: the files in which the detector found no face.
        actions: (N, A) the strength of each of ACTIONS where it is known, else (0, 0).
    """

    points: np.ndarray
    labels: np.ndarray
    people: np.ndarray
    lost: tuple[str, ...] = ()
    actions: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    def __len__(self) -> int:
        return len(self.labels)


def padded(image: np.ndarray) -> np.ndarray:
    """Enlarge a small crop of a face four times and repeat its borders; return other images as they are."""
    if min(image.shape[:2]) >= SMALL:
        return image
    large = cv2.resize(image, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    margin = max(large.shape[:2]) // 2
    return cv2.copyMakeBorder(large, margin, margin, margin, margin, cv2.BORDER_REPLICATE)


def predict_crops(detector: KeypointDetector, image: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Predict the keypoints of the largest face, (1 + CROPS, 68, 2): as in use, then in random crops.

    Returns:
        None where no face is found.
    """
    faces = detector(image)
    if not faces:
        return None
    box = detector.framing.boxes(faces[0].keypoints)[0].astype(float)
    framings = [[*box, 0.0]]
    for _ in range(CROPS - 1):
        scale, (dx, dy) = rng.uniform(0.9, 1.12), rng.normal(0, 0.04, 2) * box[2]
        corner = box[:2] + box[2:] * (1 - scale) / 2 + (dx, dy)
        framings.append([*corner, *(box[2:] * scale), rng.normal(0, 6)])
    return np.concatenate([faces[0].keypoints[None], detector.keypoints(image, np.array(framings))])


def read_posed(folder: Path, detector: KeypointDetector) -> dict[str, Faces]:
    """Read the sets of a folder with ``labels.csv`` (file, subject, label, set): name → its faces."""
    table, rng = pd.read_csv(folder / "labels.csv"), np.random.default_rng(0)
    found = [predict_crops(detector, padded(read_image(folder / file)), rng) for file in table.file]
    seen = np.array([points is not None for points in found])
    sets = {}
    for name in sorted(set(table.set)):
        own = (table.set == name).to_numpy()
        rows = np.flatnonzero(own & seen)
        points, labels = np.array([found[i] for i in rows]), np.array([EXPRESSIONS.index(table.label[i]) for i in rows])
        sets[name] = Faces(points, labels, table.subject[rows].to_numpy(str), tuple(table.file[own & ~seen]))
    return sets


def read_rendered(root: Path, split: str, detector: KeypointDetector) -> Faces:
    """Read the rendered heads of a folder like ``data/sample``: the keypoints predicted in the labels' box."""
    data = Data("rendered", root)
    names, points = _predict_in_boxes(data, split, detector)
    table = pd.read_csv(root / "attributes.csv", index_col="file").loc[[f"{split}/{name}" for name in names]]
    sides = [[unit.replace("*", side) for side in ("Left", "Right")] for unit in ACTIONS.values()]
    actions = np.stack([table[sorted(set(units))].to_numpy().mean(axis=1) for units in sides], axis=1)
    labels = np.array([EXPRESSIONS.index(word) for word in table.expression])
    return Faces(points, labels, table.person.to_numpy(str), (), actions)


def read_people(data: Data, detector: KeypointDetector) -> Faces:
    """Read up to FRAMES training images of each person of a set in the official layout, without expressions."""
    by_person: dict[str, list[int]] = {}
    for i, name in enumerate(read_keypoints(data.csv_file("training"))[0]):
        by_person.setdefault(person_of(name), []).append(i)
    chosen = [i for rows in by_person.values() for i in rows[:: max(1, len(rows) // FRAMES)][:FRAMES]]
    names, points = _predict_in_boxes(data, "training", detector, chosen)
    return Faces(points, np.full(len(names), -1), np.array([person_of(name) for name in names]))


def _predict_in_boxes(
    data: Data, split: str, detector: KeypointDetector, chosen: Sequence[int] | None = None
) -> tuple[list[str], np.ndarray]:
    """Predict the keypoints of images, all by default, in their labels' boxes: names and (N, 1, 68, 2)."""
    names, true = read_keypoints(data.csv_file(split))
    rows = list(range(len(names))) if chosen is None else list(chosen)
    boxes = detector.framing.boxes(true[rows])
    images = (read_image(data.image_dir(split) / names[i]) for i in rows)
    points = [detector.keypoints(image, box[None]) for image, box in zip(images, boxes, strict=True)]
    return [names[i] for i in rows], np.stack(points)


def cached(name: str, table: Path, read: Callable[[KeypointDetector], dict[str, Faces]]) -> dict[str, Faces]:
    """Return what ``read(detector)`` returns, from the cache if the table of labels and the weights are the same."""
    path = CACHE / f"{name}_{sha256(table)[:12]}_{sha256(DEFAULT_MODEL)[:12]}.npz"
    if not path.exists():
        sets = read(KeypointDetector())
        write_arrays(path, {f"{key}/{of}": np.asarray(value) for key in sets for of, value in vars(sets[key]).items()})
    sets = {}
    with np.load(path) as data:
        for key in sorted({file.split("/")[0] for file in data.files}):
            points, labels, people, lost, actions = (data[f"{key}/{of}"] for of in Faces.__dataclass_fields__)
            sets[key] = Faces(points.astype(float), labels, people, tuple(map(str, lost)), actions)
    return sets


def joined(parts: Sequence[Faces]) -> Faces:
    """Join several sources, whose people must have different names."""
    points, labels, people, actions = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("points", "labels", "people", "actions")
    )
    return Faces(points, labels, people, sum((part.lost for part in parts), ()), actions)


@dataclass(frozen=True, eq=False)
class Sources:
    """All that a map is learned from, as features.

    Attributes:
        values: source → (N, V, F). neutral: source → (N, F), the mean of the person's other neutral faces, NaN where
            there is none. labels, people: source → (N,).
        actions: (N, A) of the source "rendered".
        between: (F, F) covariance between people. scatter: (F, F) covariance between the crops of a face.
        frames: (U, F) of people without labels. frame_people: (U,). at_rest: (U,) which of them show a face at rest.
    """

    values: dict[str, np.ndarray]
    neutral: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    people: dict[str, np.ndarray]
    actions: np.ndarray
    between: np.ndarray
    scatter: np.ndarray
    frames: np.ndarray
    frame_people: np.ndarray
    at_rest: np.ndarray

    def part(self, kept: dict[str, np.ndarray]) -> Sources:
        """Return the faces of masks, source → (N,), and all of sources without a mask. The covariances stay."""

        def take(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: array[kept[name]] if name in kept else array for name, array in arrays.items()}

        parts: dict[str, Any] = {key: take(getattr(self, key)) for key in ("values", "neutral", "labels", "people")}
        return replace(self, **parts)


def measure(points: np.ndarray) -> np.ndarray:
    """Compute features, (N, V, 68, 2) → (N, V, F)."""
    return np.array([[features(frontal_face(crop)) for crop in crops] for crops in points])


def own_neutral(values: np.ndarray, labels: np.ndarray, people: np.ndarray) -> np.ndarray:
    """Return the mean of the same person's other neutral faces, (N, F) → (N, F); NaN without any."""
    result = np.full_like(values, np.nan)
    for person in np.unique(people):
        rows = np.flatnonzero(people == person)
        rest = rows[labels[rows] == NEUTRAL]
        for i in rows:
            others = rest[rest != i]
            if len(others):
                result[i] = values[others].mean(axis=0)
    return result


def person_covariance(values: np.ndarray, people: np.ndarray) -> np.ndarray:
    """Return the covariance (F, F) of the people's means of (N, F)."""
    return np.cov(np.array([values[people == person].mean(axis=0) for person in np.unique(people)]).T)


def gather(posed: dict[str, Faces], rendered: Faces, people: Faces | None, measured=measure) -> Sources:
    """Compute features and the covariances between people and between crops.

    Args:
        people: frames of people, several of each; without them the neutral rendered heads give the covariance.
        measured: points → features; another one for the figures of what the features are worth.
    """
    sets = {**posed, "rendered": rendered}
    values = {name: measured(faces.points) for name, faces in sets.items()}
    offs = [values[name] - values[name].mean(axis=1, keepdims=True) for name in posed]
    crops = np.concatenate([off.reshape(-1, off.shape[-1]) for off in offs if off.shape[1] > 1] or [np.zeros((1, 68))])
    if people is None:
        own, whose = (of[rendered.labels == NEUTRAL] for of in (values["rendered"][:, 0], rendered.people))
    else:
        own, whose = measured(people.points)[:, 0], people.people
    sources = Sources(
        values=values,
        neutral={name: own_neutral(values[name][:, 0], faces.labels, faces.people) for name, faces in sets.items()},
        labels={name: faces.labels for name, faces in sets.items()},
        people={name: faces.people for name, faces in sets.items()},
        actions=rendered.actions,
        between=person_covariance(own, whose),
        scatter=crops.T @ crops / max(1, len(crops) * CROPS / (1 + CROPS)),
        frames=own,
        frame_people=whose,
        at_rest=np.zeros(len(own), bool),
    )
    return sources if people is None else replace(sources, at_rest=find_rest(sources, people.points[:, 0]))


def find_rest(sources: Sources, points: np.ndarray) -> np.ndarray:
    """Tell which of the frames, with points (U, 68, 2), show a face at rest: (U,) bool."""
    none = np.zeros(0)
    model = ExpressionModel(none, none, none, none, none, **learn_actions(sources))
    strengths = model.actions(sources.frames)[:, [list(ACTIONS).index(word) for word in REST_ACTIONS]]
    yaw = np.array([estimate_pose(own, tuple(np.ptp(own, axis=0))).yaw for own in points])
    return (strengths.max(axis=1) < REST_STRENGTH) & (np.abs(yaw) < REST_YAW)


def balanced(labels: np.ndarray) -> np.ndarray:
    """Return weights (N,) of sum 1; an expression's share is proportional to the square root of its number of faces."""
    counts = np.bincount(labels, minlength=len(EXPRESSIONS))
    weights = 1 / np.sqrt(counts[labels])
    return weights / weights.sum()


def learn(
    values: np.ndarray, labels: np.ndarray, weights: np.ndarray, covariance: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a multinomial logistic regression on some columns, with a ridge in the space where the covariance is white.

    Args:
        values: (N, F). labels: (N,). weights: (N,), sum 1. covariance: (F, F).
        columns: indices of features.

    Returns:
        weights (F, 7), zero for other columns, and bias (7,).
    """
    variance, axes = np.linalg.eigh(covariance[np.ix_(columns, columns)])
    white = axes / np.sqrt(variance)
    mean = weights @ values[:, columns]
    fitted = LogisticRegression(C=1 / (2 * RIDGE), solver="newton-cholesky", tol=1e-6)
    fitted.fit((values[:, columns] - mean) @ white, labels, sample_weight=weights)
    result, bias = np.zeros((values.shape[1], len(EXPRESSIONS))), np.full(len(EXPRESSIONS), ABSENT)
    result[np.ix_(columns, fitted.classes_)] = white @ fitted.coef_.T
    bias[fitted.classes_] = fitted.intercept_
    return result, bias - mean @ result[columns]


def stacked(
    sources: Sources, arrays: dict[str, np.ndarray], names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stack all crops of some sources (M, F), their labels (M,), and weights (M,) with equal sums for all sources."""
    values = [arrays[name].reshape(-1, arrays[name].shape[-1]) for name in names]
    labels = [np.repeat(sources.labels[name], arrays[name].shape[1]) for name in names]
    weights = [balanced(own) / len(names) for own in labels]
    return np.concatenate(values), np.concatenate(labels), np.concatenate(weights)


def movements(sources: Sources) -> dict[str, np.ndarray]:
    """Subtract the neutral face where it is known: source → (N, V, F).

    A source without any neutral face (CK+) gets one for all: its mean over the other six expressions, less their mean
    change in the posed sources that have neutral faces.
    """
    result, changes = {}, []
    for name, values in sources.values.items():
        there = np.isfinite(sources.neutral[name]).all(axis=1)
        if there.any():
            result[name] = values - sources.neutral[name][:, None]  # NaN where it is not known
            if name != "rendered":
                changes.append(_mean_of_six(result[name][there, 0], sources.labels[name][there]))
    for name, values in sources.values.items():
        if name not in result and changes:
            rest = _mean_of_six(values[:, 0], sources.labels[name]) - np.mean(changes, axis=0)
            result[name] = values - rest
    return result


def _mean_of_six(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.mean([values[labels == k].mean(axis=0) for k in np.unique(labels) if k != NEUTRAL], axis=0)


def _floor(sources: Sources) -> np.ndarray:
    """Return the covariance of the detector's errors."""
    return sources.scatter + NOISE**2 * np.eye(len(sources.scatter))


def learn_map(sources: Sources, parts: Sequence[np.ndarray] = (UPPER, LOWER)) -> tuple[np.ndarray, np.ndarray]:
    """Fit the map without a neutral face, weights (F, 7) and bias (7,), not yet calibrated.

    Args:
        parts: features that are fitted separately; their logits are averaged.
    """
    values, labels, weights = stacked(sources, sources.values, list(sources.values))
    rest = sources.frames[sources.at_rest]
    if len(rest):
        values, labels = np.concatenate([values, rest]), np.append(labels, np.full(len(rest), NEUTRAL))
        weights = np.append(weights, np.full(len(rest), REST_SHARE / len(rest))) / (1 + REST_SHARE)
    data = values, labels, weights
    maps = [learn(*data, sources.between + _floor(sources), columns) for columns in parts]
    weights, bias = (np.mean(found, axis=0) for found in zip(*maps, strict=True))
    return weights, bias


def learn_maps(sources: Sources) -> dict[str, np.ndarray]:
    """Fit the maps without and with a neutral face, as the fields of ExpressionModel; not yet calibrated."""
    weights, bias = learn_map(sources)
    # Where the neutral face is known, no other face at rest need stand for it.
    own, own_bias = learn_map(replace(sources, at_rest=np.zeros_like(sources.at_rest)))
    moved = movements(sources)
    known = {name: np.isfinite(values[:, 0]).all(axis=1) for name, values in moved.items()}
    data = stacked(sources.part(known), {name: values[known[name]] for name, values in moved.items()}, list(moved))
    movement, movement_bias = learn(*data, FACE_LEFT * sources.between + _floor(sources), WHOLE)
    return {
        "weights": weights,
        "bias": bias,
        "neutral_weights": own / 2,
        "movement_weights": movement / 2,
        "neutral_bias": (own_bias + movement_bias) / 2,
    }


def learn_actions(sources: Sources, seed: int = 0) -> dict[str, np.ndarray]:
    """Fit actions from features and features from actions, as the fields of ExpressionModel, on rendered heads."""
    values, labels, strengths = sources.values["rendered"][:, 0], sources.labels["rendered"], sources.actions
    middle, spread = values.mean(axis=0), values.std(axis=0) + 1e-9
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(values.shape[1], HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, strengths.shape[1]))
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=STEPS)
    inputs, targets = (torch.tensor(a, dtype=torch.float32) for a in ((values - middle) / spread, strengths))
    for _ in range(STEPS):
        batch = torch.randint(len(inputs), (256,))
        loss = ((net(inputs[batch]) - targets[batch]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    weights, bias, out, out_bias = (own.detach().numpy().astype(np.float64) for own in net.parameters())
    weights = weights.T / spread[:, None]
    movement = np.linalg.lstsq(np.column_stack([strengths, np.ones(len(strengths))]), values, rcond=None)[0][:-1]
    return {
        "mean": values[labels == NEUTRAL].mean(axis=0),
        "hidden_weights": weights,
        "hidden_bias": bias - middle @ weights,
        "action_weights": out.T,
        "action_bias": out_bias,
        "action_movement": movement,
    }


def fold_of(people: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Assign people to folds of equally many people, (N,) → (N,) numbers.

    scikit-learn's GroupKFold would draw other folds than those of the committed figures.
    """
    names = np.unique(people)
    order = dict(zip(np.random.default_rng(seed).permutation(names), np.arange(len(names)) % count, strict=True))
    return np.array([order[person] for person in people])


def posed_names(sources: Sources) -> list[str]:
    """Return the names of the posed sources; "rendered" where there is none."""
    return [name for name in sources.values if name != "rendered"] or ["rendered"]


def held_out(sources: Sources, count: int, seed: int, learned) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Cross-validate by person.

    Args:
        count: of folds. learned: Sources → ExpressionModel, called once a fold.

    Returns:
        source → logits (N, 7) without and (N, 7) with the neutral face, NaN where that is not known.
    """
    names = posed_names(sources)
    folds = {name: fold_of(sources.people[name], count, seed) for name in names}
    found = {name: np.full((2, len(sources.labels[name]), len(EXPRESSIONS)), np.nan) for name in names}
    for fold in range(count):
        model = learned(sources.part({name: folds[name] != fold for name in names}))
        for name in names:
            out = folds[name] == fold
            values, rest = sources.values[name][out, 0], sources.neutral[name][out]
            found[name][0, out], found[name][1, out] = model.logits(values), model.logits(values, rest)
    return {name: (pair[0], pair[1]) for name, pair in found.items()}


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the factor on logits (N, 7) that makes the labels most likely."""
    factors, words = np.geomspace(0.3, 4, 80), range(len(EXPRESSIONS))
    return float(factors[np.argmin([log_loss(labels, softmax(f * logits, axis=1), labels=words) for f in factors])])


def fit(sources: Sources, seed: int = 0, inner: int = 4) -> ExpressionModel:
    """Fit both maps and calibrate their probabilities on held-out people."""
    actions = learn_actions(sources)

    def learned(part: Sources) -> ExpressionModel:
        return ExpressionModel(**learn_maps(part), **actions)

    out = held_out(sources, inner, seed + 1, learned)
    maps = learn_maps(sources)
    for which, names in ((0, ("weights", "bias")), (1, ("neutral_weights", "movement_weights", "neutral_bias"))):
        pairs = [(out[name][which], sources.labels[name]) for name in posed_names(sources)]
        logits, labels = (np.concatenate(column) for column in zip(*pairs, strict=True))
        there = np.isfinite(logits).all(axis=1)
        factor = temperature(logits[there], labels[there])
        maps |= {name: factor * maps[name] for name in names}
    return ExpressionModel(**maps, **actions)


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the data; :func:`read_faces` takes them."""
    parser.add_argument("--emotion", type=Path, required=True, metavar="DIR", help="posed expressions, labels.csv")
    parser.add_argument("--people", type=Path, metavar="DIR", help="frames of people, official layout (default: data/)")
    parser.add_argument("--rendered", type=Path, nargs="+", default=[], metavar="DIR", help="beside the sample")


def read_posed_cached(folder: Path) -> dict[str, Faces]:
    """Return :func:`read_posed` of a folder; predict each picture once."""
    return cached("posed", folder / "labels.csv", lambda detector: read_posed(folder, detector))


def read_faces(
    emotion: Path, people: Path | None = None, rendered: Sequence[Path] = ()
) -> tuple[dict[str, Faces], Faces, Faces, Faces | None]:
    """Read all faces, with the detector's points.

    Args:
        emotion: the folder of posed expressions. people: frames of people in the official layout (default: the
            official set, where it is there). rendered: folders of heads beside the sample.

    Returns:
        posed faces by set, rendered heads to train on and to test on, and people.
    """
    sample, posed = find_data("sample").root, read_posed_cached(emotion)

    def heads(root: Path, split: str) -> Faces:
        table = Data("rendered", root).csv_file(split)
        return cached(f"rendered_{split}", table, lambda detector: {"": read_rendered(root, split, detector)})[""]

    training = joined([heads(root, "training") for root in (sample, *rendered)])
    frames, data = None, Data("official", people) if people else find_data()
    if data.name == "official":
        frames = cached("people", data.csv_file("training"), lambda detector: {"": read_people(data, detector)})[""]
    return posed, training, heads(sample, "test"), frames


def save_expression_model(model: ExpressionModel, path: Path) -> None:
    """Write a model as arrays of 32 bits."""
    write_arrays(path, {name: np.asarray(value, np.float32) for name, value in vars(model).items()})


@one_sentence()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.expression", description=__doc__.splitlines()[0])
    add_sources(parser)
    parser.add_argument("--out", type=Path, default=EXPRESSION_MODEL, metavar="FILE")
    options = parser.parse_args(arguments)
    check_writable(options.out)
    posed, rendered, _, people = read_faces(options.emotion, options.people, options.rendered)
    sources = gather(posed, rendered, people)
    began = process_time()
    save_expression_model(fit(sources), options.out)
    record = {
        "keypoints": DEFAULT_MODEL.name,
        "keypoints_sha256": sha256(DEFAULT_MODEL),
        "posed": {
            name: {"faces": len(faces), "people": len(set(faces.people)), "lost": len(faces.lost)}
            for name, faces in posed.items()
        },
        "rendered": {"faces": len(rendered), "people": len(set(rendered.people))},
        "people": None if people is None else {"frames": len(people), "people": len(set(people.people))},
        "ridge": RIDGE,
        "at_rest": {"frames": int(sources.at_rest.sum()), "share": REST_SHARE},
        "looks": 1 + CROPS,
        "core_seconds": round(process_time() - began),  # without the keypoints of the pictures
        "sha256": sha256(options.out),
    }
    write_json(options.out.with_suffix(".json"), record)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
