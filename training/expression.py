"""Make saved_models/expressions.npz, what :mod:`keypoints.expression` knows: some four minutes on one core.

    python -m training.expression --emotion ../shared/emotion --people data --rendered DIR …

From pictures of posed expressions (``labels.csv``: file, subject, label, set) and rendered heads (the sample's and
further folders of ``data/sample/render.py``) comes the map to probabilities; from the rendered heads alone, whose face
units are known, the strengths of actions. Every picture's keypoints are those that the shipped detector finds; they
are kept in build/emotion/ under the name of its weights.

Faces at rest differ, and few people pose for such pictures. How faces differ from person to person is therefore
learned from more of them, people of whom there are several frames (``--people``, in the official layout): along these
directions the map is held flat. That is ridge regression in the space in which the differences between people, and the
detector's scatter, are white. Those of their frames in which no action is strong stand for a neutral face, with little
weight: the posed pictures hold hardly any neutral face, and none as a video shows it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.functional import cross_entropy

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
from keypoints.files import check_writable, one_sentence, sha256, write_atomically, write_json
from keypoints.landmarks import JAW, LEFT_BROW, LEFT_EYE, MOUTH, RIGHT_BROW, RIGHT_EYE
from keypoints.pose import estimate_pose
from training.weights import DEFAULT_MODEL

CACHE = Path(__file__).resolve().parent.parent / "build" / "emotion"
NEUTRAL = EXPRESSIONS.index("neutral")
SMALL = 100  # pixels: a smaller picture is a crop of a face, too small and too close for the detector
LOOKS = 4  # at each real face beside the first: the detector's scatter is part of what the map must stand
FRAMES = 4  # of a person, to learn how people differ
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
SCATTER = 0.003  # outer-eye distances: what no covariance below this is believed
FACE_LEFT = 0.2  # of the differences between people: so much stays when the neutral face is taken off
RIDGE = 0.01
HIDDEN, STEPS = 32, 800  # of the network that tells the strengths of actions


def columns_of(*parts: slice) -> np.ndarray:
    """Which features are of points in these parts of the scheme; both sides' parts count."""
    return np.flatnonzero([any(p.start <= point < p.stop for p in parts) for point in FEATURE_POINTS])


UPPER, LOWER = columns_of(RIGHT_BROW, LEFT_BROW, RIGHT_EYE, LEFT_EYE), columns_of(JAW, MOUTH)
WHOLE = np.arange(NUM_FEATURES)


@dataclass(frozen=True, eq=False)
class Faces:
    """Faces of one source.

    Attributes:
        points: (N, V, 68, 2) pixels, V looks at each face; the first is the detector's as in use.
        labels: (N,) int, index into EXPRESSIONS, or -1. people: (N,) str.
        lost: the files in which the detector found no face.
        actions: (N, A) the strength of each of ACTIONS where it is known, else (N, 0).
    """

    points: np.ndarray
    labels: np.ndarray
    people: np.ndarray
    lost: tuple[str, ...] = ()
    actions: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, kept: np.ndarray) -> Faces:
        """Those of a mask or of indices."""
        actions = None if self.actions is None else self.actions[kept]
        return replace(
            self, points=self.points[kept], labels=self.labels[kept], people=self.people[kept], actions=actions
        )


def padded(image: np.ndarray) -> np.ndarray:
    """A small crop of a face, enlarged four times and with its borders repeated; other images as they are."""
    if min(image.shape[:2]) >= SMALL:
        return image
    large = cv2.resize(image, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    margin = max(large.shape[:2]) // 2
    return cv2.copyMakeBorder(large, margin, margin, margin, margin, cv2.BORDER_REPLICATE)


def look(detector: KeypointDetector, image: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """The keypoints of the largest face, (1 + LOOKS, 68, 2): as in use, then in other framings; None without a face."""
    faces = detector(image)
    if not faces:
        return None
    box = detector.framing.boxes(faces[0].keypoints)[0].astype(float)
    framings = [[*box, 0.0]]
    for _ in range(LOOKS - 1):
        scale, (dx, dy) = rng.uniform(0.9, 1.12), rng.normal(0, 0.04, 2) * box[2]
        corner = box[:2] + box[2:] * (1 - scale) / 2 + (dx, dy)
        framings.append([*corner, *(box[2:] * scale), rng.normal(0, 6)])
    return np.concatenate([faces[0].keypoints[None], detector.keypoints(image, np.array(framings))])


def read_posed(folder: Path, detector: KeypointDetector) -> dict[str, Faces]:
    """The sets of a folder with ``labels.csv`` (file, subject, label, set): name → its faces."""
    table, rng, found, lost = pd.read_csv(folder / "labels.csv"), np.random.default_rng(0), [], []
    for row in table.itertuples():
        points = look(detector, padded(read_image(folder / row.file)), rng)
        found.append(points)
        if points is None:
            lost.append((row.set, row.file))
    sets = {}
    for name in sorted(set(table.set)):
        rows = [i for i in range(len(table)) if table.set[i] == name and found[i] is not None]
        labels = np.array([EXPRESSIONS.index(table.label[i]) for i in rows])
        sets[name] = Faces(
            np.array([found[i] for i in rows]),
            labels,
            table.subject[rows].to_numpy(str),
            tuple(file for of, file in lost if of == name),
        )
    return sets


def read_rendered(root: Path, split: str, detector: KeypointDetector) -> Faces:
    """Rendered heads of a folder as of ``data/sample``: the network's points in the labels' box."""
    data = Data("rendered", root)
    names, true = read_keypoints(data.csv_file(split))
    table = pd.read_csv(root / "attributes.csv", index_col="file").loc[[f"{split}/{name}" for name in names]]
    boxes = detector.framing.boxes(true)
    points = [
        detector.keypoints(read_image(data.image_dir(split) / name), box[None])
        for name, box in zip(names, boxes, strict=True)
    ]
    sides = [[unit.replace("*", side) for side in ("Left", "Right")] for unit in ACTIONS.values()]
    actions = np.stack([table[sorted(set(units))].to_numpy().mean(axis=1) for units in sides], axis=1)
    labels = np.array([EXPRESSIONS.index(word) for word in table.expression])
    return Faces(np.stack(points), labels, table.person.to_numpy(str), (), actions)


def read_people(data: Data, detector: KeypointDetector) -> Faces:
    """Up to FRAMES training images of each person of a set in the official layout, without expressions."""
    names, true = read_keypoints(data.csv_file("training"))
    by_person: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        by_person.setdefault(person_of(name), []).append(i)
    chosen = [i for rows in by_person.values() for i in rows[:: max(1, len(rows) // FRAMES)][:FRAMES]]
    boxes = detector.framing.boxes(true[chosen])
    points = [
        detector.keypoints(read_image(data.image_dir("training") / names[i]), box[None])
        for i, box in zip(chosen, boxes, strict=True)
    ]
    return Faces(np.stack(points), np.full(len(chosen), -1), np.array([person_of(names[i]) for i in chosen]))


def kept(name: str, table: Path, read: Callable[[KeypointDetector], Any]) -> Any:
    """What ``read(detector)`` returns, from the cache where the table of labels and the shipped detector's weights are
    the same.
    """
    path = CACHE / f"{name}_{sha256(table)[:12]}_{sha256(DEFAULT_MODEL)[:12]}.npz"
    if not path.exists():
        result = read(KeypointDetector())
        sets = result if isinstance(result, dict) else {"": result}
        arrays: dict[str, np.ndarray] = {}
        for key, faces in sets.items():
            actions = np.zeros((len(faces), 0)) if faces.actions is None else faces.actions
            arrays |= {
                f"{key}/points": faces.points.astype(np.float32),
                f"{key}/labels": faces.labels,
                f"{key}/people": faces.people,
                f"{key}/lost": np.array(faces.lost, str),
                f"{key}/actions": actions,
            }
        write_atomically(path, lambda part: _save(part, arrays))
    with np.load(path) as data:
        sets = {
            key: Faces(
                data[f"{key}/points"].astype(np.float64),
                data[f"{key}/labels"],
                data[f"{key}/people"],
                tuple(data[f"{key}/lost"].tolist()),
                data[f"{key}/actions"],
            )
            for key in sorted({file.split("/")[0] for file in data.files})
        }
    return sets.get("", sets)


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:  # np.savez would add .npz to the name of a part
        np.savez_compressed(file, allow_pickle=False, **arrays)


def joined(parts: Sequence[Faces]) -> Faces:
    """Several sources as one; their people must have names of their own."""
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
        between: (F, F) how people differ. scatter: (F, F) how the detector's looks at one face differ.
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
        """Those of masks, source → (N,); sources without a mask stay whole. The covariances stay."""

        def take(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: array[kept[name]] if name in kept else array for name, array in arrays.items()}

        return replace(self, values=take(self.values), neutral=take(self.neutral), labels=take(self.labels),
                       people=take(self.people))  # fmt: skip


def measure(points: np.ndarray) -> np.ndarray:
    """(N, V, 68, 2) → (N, V, F) features."""
    return np.array([[features(frontal_face(look)) for look in looks] for looks in points])


def own_neutral(values: np.ndarray, labels: np.ndarray, people: np.ndarray) -> np.ndarray:
    """(N, F) → (N, F): the mean of the same person's neutral faces, the face itself left out; NaN without any."""
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
    """(N, F) → (F, F): the covariance of the people's means."""
    return np.cov(np.array([values[people == person].mean(axis=0) for person in np.unique(people)]).T)


def gather(posed: dict[str, Faces], rendered: Faces, people: Faces | None, measured=measure) -> Sources:
    """Bring faces to features, and find how people and looks differ.

    Args:
        people: frames of people, several of each; without them the neutral rendered heads tell how people differ.
        measured: points → features; another one for the figures of what the features are worth.
    """
    sets = {**posed, "rendered": rendered}
    values = {name: measured(faces.points) for name, faces in sets.items()}
    neutral = {name: own_neutral(values[name][:, 0], faces.labels, faces.people) for name, faces in sets.items()}
    offs = [values[name] - values[name].mean(axis=1, keepdims=True) for name in posed]
    looks = np.concatenate([off.reshape(-1, off.shape[-1]) for off in offs if off.shape[1] > 1] or [np.zeros((1, 68))])
    scatter = looks.T @ looks / max(1, len(looks) * LOOKS / (1 + LOOKS))
    if people is None:
        neutral_heads = rendered.labels == NEUTRAL
        own, whose = values["rendered"][neutral_heads, 0], rendered.people[neutral_heads]
    else:
        own, whose = measured(people.points)[:, 0], people.people
    assert rendered.actions is not None  # a renderer knows them
    sources = Sources(
        values,
        neutral,
        {name: faces.labels for name, faces in sets.items()},
        {name: faces.people for name, faces in sets.items()},
        rendered.actions,
        person_covariance(own, whose),
        scatter,
        own,
        whose,
        np.zeros(len(own), bool),
    )
    return sources if people is None else replace(sources, at_rest=find_rest(sources, people.points[:, 0]))


def find_rest(sources: Sources, points: np.ndarray) -> np.ndarray:
    """(U,) bool: which of the frames, with points (U, 68, 2), show a face at rest."""
    none = np.zeros(0)
    model = ExpressionModel(none, none, none, none, none, **learn_actions(sources))
    strengths = model.actions(sources.frames)[:, [list(ACTIONS).index(word) for word in REST_ACTIONS]]
    yaw = np.array([estimate_pose(own, tuple(np.ptp(own, axis=0))).yaw for own in points])
    return (strengths.max(axis=1) < REST_STRENGTH) & (np.abs(yaw) < REST_YAW)


def balanced(labels: np.ndarray) -> np.ndarray:
    """Weights (N,) that sum to 1: an expression's share goes with the square root of how many faces show it."""
    counts = np.bincount(labels, minlength=len(EXPRESSIONS))
    weights = 1 / np.sqrt(counts[labels])
    return weights / weights.sum()


def learn(
    values: np.ndarray, labels: np.ndarray, weights: np.ndarray, covariance: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression on some columns, with a ridge in the space where the covariance is white.

    Args:
        values: (N, F). labels: (N,). weights: (N,), sum 1. covariance: (F, F). columns: indices of features.

    Returns:
        weights (F, 7), zero for other columns, and bias (7,).
    """
    variance, axes = np.linalg.eigh(covariance[np.ix_(columns, columns)])
    white = axes / np.sqrt(variance)
    middle = weights @ values[:, columns]
    inputs = torch.from_numpy((values[:, columns] - middle) @ white)
    targets, share = torch.from_numpy(labels), torch.from_numpy(weights)
    found = torch.zeros(len(columns) + 1, len(EXPRESSIONS), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([found], max_iter=60, line_search_fn="strong_wolfe", tolerance_grad=1e-6)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        fit = cross_entropy(inputs @ found[:-1] + found[-1], targets, reduction="none") @ share
        total = fit + RIDGE * (found[:-1] ** 2).sum()
        total.backward()
        return total

    optimizer.step(loss)
    solution = found.detach().numpy()
    result = np.zeros((values.shape[1], len(EXPRESSIONS)))
    result[columns] = white @ solution[:-1]
    return result, solution[-1] - middle @ result[columns]


def stacked(
    sources: Sources, arrays: dict[str, np.ndarray], names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All looks of some sources (M, F), their labels (M,), and weights (M,) by which each source counts alike."""
    values = [arrays[name].reshape(-1, arrays[name].shape[-1]) for name in names]
    labels = [np.repeat(sources.labels[name], arrays[name].shape[1]) for name in names]
    weights = [balanced(own) / len(names) for own in labels]
    return np.concatenate(values), np.concatenate(labels), np.concatenate(weights)


def movements(sources: Sources) -> dict[str, np.ndarray]:
    """Source → (N, V, F), the differences from the neutral face, for those whose neutral face is known.

    A source without any neutral face (CK+) gets one for all: its mean over the other six expressions, less what these
    change, on the mean, in the posed sources that have neutral faces.
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
    return sources.scatter + SCATTER**2 * np.eye(len(sources.scatter))


def learn_map(sources: Sources, parts: Sequence[np.ndarray] = (UPPER, LOWER)) -> tuple[np.ndarray, np.ndarray]:
    """The map without a neutral face, weights (F, 7) and bias (7,), not yet calibrated.

    Args:
        parts: features learned apart, each with the same say.
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
    """The map without a neutral face and that with one, as the fields of ExpressionModel; not yet calibrated."""
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
    """How features tell actions and actions move features, as the fields of ExpressionModel, from rendered heads."""
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
    """(N,) → (N,) numbers of folds: each person in one, as many people in each as can be."""
    names = np.unique(people)
    order = dict(zip(np.random.default_rng(seed).permutation(names), np.arange(len(names)) % count, strict=True))
    return np.array([order[person] for person in people])


def posed_names(sources: Sources) -> list[str]:
    return [name for name in sources.values if name != "rendered"] or ["rendered"]


def held_out(sources: Sources, count: int, seed: int, learned) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Logits of faces whose people were left out: source → (N, 7) without and (N, 7) with the neutral face, NaN where
    that is not known.

    Args:
        count: of folds. learned: Sources → ExpressionModel, called once a fold.
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
    """The factor that makes probabilities of logits (N, 7) most likely."""
    factors = np.geomspace(0.3, 4, 80)
    targets, values = torch.from_numpy(labels), torch.from_numpy(logits)
    return float(factors[np.argmin([float(cross_entropy(f * values, targets)) for f in factors])])


def fit(sources: Sources, seed: int = 0, inner: int = 4) -> ExpressionModel:
    """Learn both maps, and scale them by what people left out say of their sureness, so that a probability is one."""
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
    """The options that name what is learned from; :func:`read_sources` reads them."""
    parser.add_argument("--emotion", type=Path, required=True, metavar="DIR", help="posed expressions, labels.csv")
    parser.add_argument("--people", type=Path, metavar="DIR", help="frames of people, official layout (default: data/)")
    parser.add_argument("--rendered", type=Path, nargs="+", default=[], metavar="DIR", help="beside the sample")


def read_posed_kept(folder: Path) -> dict[str, Faces]:
    """:func:`read_posed`, each picture looked at once."""
    return kept("posed", folder / "labels.csv", lambda detector: read_posed(folder, detector))


def read_faces(options: argparse.Namespace) -> tuple[dict[str, Faces], Faces, Faces, Faces | None]:
    """Posed faces by set, rendered heads to learn from and to test on, and people, each with the detector's points."""
    sample, posed = find_data("sample").root, read_posed_kept(options.emotion)

    def heads(root: Path, split: str) -> Faces:
        table = Data("rendered", root).csv_file(split)
        return kept(f"rendered_{split}", table, lambda detector: read_rendered(root, split, detector))

    rendered = joined([heads(root, "training") for root in (sample, *options.rendered)])
    people, data = None, Data("official", options.people) if options.people else find_data()
    if data.name == "official":
        people = kept("people", data.csv_file("training"), lambda detector: read_people(data, detector))
    return posed, rendered, heads(sample, "test"), people


def save_expression_model(model: ExpressionModel, path: Path) -> None:
    """Write a model as arrays of 32 bits."""
    arrays = {name: np.asarray(value, np.float32) for name, value in vars(model).items()}
    write_atomically(path, lambda part: _save(part, arrays))


@one_sentence()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.expression", description=__doc__.splitlines()[0])
    add_sources(parser)
    parser.add_argument("--out", type=Path, default=EXPRESSION_MODEL, metavar="FILE")
    options = parser.parse_args(arguments)
    check_writable(options.out)
    posed, rendered, _, people = read_faces(options)
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
        "looks": 1 + LOOKS,
        "core_seconds": round(process_time() - began),  # without the keypoints of the pictures
        "sha256": sha256(options.out),
    }
    write_json(options.out.with_suffix(".json"), record)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
