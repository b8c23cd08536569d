"""Train the network that reads expressions, and find how strong movements are: half an hour on one core.

    python -m training.expression --emotion DIR --expressions DIR --rendered DIR …

``--emotion`` holds posed expressions (``labels.csv``: file, subject, label, set), ``--expressions`` press photographs
(``labels.csv``: file, person, label, and ``images.tar``) and small faces from the web (``fer_labels.csv``: file, label,
and ``fer.tar``), ``--rendered`` folders of ``data/sample/render.py`` beside the sample. Each is optional.

Three networks are trained without a third of the people each. Their predictions for these people calibrate the
probabilities and give the figures of :mod:`training.studies.expression`. The shipped network is trained with everybody.
The strengths of movements are learned from the rendered heads alone, whose face units are known.

Writes saved_models/expressions.onnx, expressions.json and actions.npz. The faces, cut out by the shipped keypoint
network, and the predictions for people left out are kept in build/emotion/.
"""

from __future__ import annotations

import argparse
import json
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, r2_score, recall_score
from torch import nn
from torch.nn import functional

from data_load import Data, find_data, read_image, read_keypoints
from keypoints.detection import KeypointDetector
from keypoints.expression import (
    ACTIONS,
    ACTIONS_MODEL,
    CLOSER,
    EXPRESSION_MODEL,
    EXPRESSIONS,
    SIDE,
    THRESHOLD,
    Actions,
    features,
    frontal_face,
)
from keypoints.files import check_writable, one_sentence, sha256, write_json
from keypoints.geometry import cut_out, face_crop, five_points, inverse, with_roll
from models import ExpressionNet
from training.augmentation import Views
from training.export import export_onnx
from training.loop import LoopRecipe, fit
from training.records import write_arrays
from training.weights import DEFAULT_MODEL

CACHE = Path(__file__).resolve().parent.parent / "build" / "emotion"
NEUTRAL = EXPRESSIONS.index("neutral")
SMALL = 100  # pixels: a smaller picture is a crop of a face, too small and too close for the detector
WIDE = 112  # pixels: side of the crops that are kept, in which the views of the training are cut out
LEAST_SCORE = 0.3  # below that a picture shows no face that the keypoints fit
FOLDS = 3
COMMON = [EXPRESSIONS.index(word) for word in ("neutral", "happiness", "surprise", "anger", "sadness")]
FALSE_ALARMS, GIVEN_UP = 0.07, 0.035
NEUTRAL_RIDGE = 0.03  # scikit-learn's C
REASONS_RIDGE = 0.03  # its alpha: without it, movements that go together get large effects that cancel
ABSENT = -20.0  # bias of an expression that no face with a known neutral one shows
HIDDEN, STEPS = 32, 800  # of the network that regresses the strengths of actions


@dataclass(frozen=True)
class ExpressionRecipe(LoopRecipe):
    """How the network is trained; ``repeats`` says how often a face of each set counts beside one of the web."""

    views: int = 180_000
    views_an_epoch: int = 18_000
    batch_size: int = 64
    average: float = 0.995
    smoothing: float = 0.1  # of the labels, many of which are arguable
    mixup: float = 0.2  # of the beta distribution: how much of a second face is mixed into a batch's faces
    repeats: tuple[tuple[str, float], ...] = (("press", 4), ("jaffe", 3), ("ck48", 1))


@dataclass(frozen=True, eq=False)
class Faces:
    """Faces of one set.

    Attributes:
        crops: (N, WIDE, WIDE) uint8 grey, as the keypoint network's.
        points: (N, 68, 2) float32, pixels of the picture. features: (N, 68) float32, distances between them.
        scores: (N,) of the keypoint network.
        labels: (N,) int, index into EXPRESSIONS. people: (N,) str.
        actions: (N, A) the strength of each of ACTIONS where it is known, else (N, 0).
    """

    crops: np.ndarray
    points: np.ndarray
    features: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    people: np.ndarray
    actions: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: np.ndarray) -> Faces:
        """Return those of an index or a mask."""
        return Faces(**{name: value[chosen] for name, value in vars(self).items()})


# Reading --------------------------------------------------------------------------------------------------------------


def find_face(detector: KeypointDetector, image: np.ndarray) -> tuple[np.ndarray, float]:
    """Predict the keypoints (68, 2) and the score of the largest face; of a small picture, of the face that it is.

    A score of 0 says that none was found.
    """
    if min(image.shape[:2]) >= SMALL:
        faces = detector(image)
        return (faces[0].keypoints, float(faces[0].score or 0)) if faces else (np.zeros((68, 2), np.float32), 0.0)
    box = np.array([[0, 0, image.shape[1], image.shape[0]]])
    found = detector.network.locate([image], with_roll(box), None)
    return found.keypoints[0], float(found.score[0])


def cut_wide(image: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Cut a face out as the keypoint network's crop frames it: (WIDE, WIDE) uint8 grey."""
    crop = cut_out(image, inverse(face_crop(five_points(keypoints)[None], WIDE))[0], WIDE)
    return np.zeros((WIDE, WIDE), np.uint8) if crop is None else crop


def read_faces(
    detector: KeypointDetector, pictures: Iterator[np.ndarray], labels: Sequence[str], people: Sequence[str]
) -> Faces:
    """Cut out the face of each picture, with its label and its person's name."""
    crops, points, scores = [], [], []
    for image in pictures:
        keypoints, score = find_face(detector, image)
        crops.append(cut_wide(image, keypoints) if score else np.zeros((WIDE, WIDE), np.uint8))
        points.append(keypoints)
        scores.append(score)
    words = np.array([EXPRESSIONS.index(label) for label in labels])
    values = [features(frontal_face(own)) if score else np.zeros(68) for own, score in zip(points, scores, strict=True)]
    arrays = np.stack(crops), np.stack(points), np.array(values, np.float32), np.array(scores)
    return Faces(*arrays, words, np.array(people, str), np.zeros((len(words), 0)))


def in_tar(path: Path, names: Sequence[str]) -> Iterator[np.ndarray]:
    """Read pictures of an archive, by name: (H, W, 3) uint8 RGB each."""
    with tarfile.open(path) as archive:
        members = {Path(member.name).name: member for member in archive.getmembers()}
        for name in names:
            file = archive.extractfile(members[name])
            data = file.read() if file else b""
            yield cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_posed(detector: KeypointDetector, folder: Path, name: str) -> Faces:
    """Read a set of a folder with ``labels.csv`` (file, subject, label, set)."""
    own = pd.read_csv(folder / "labels.csv").query("set == @name")
    return read_faces(detector, (read_image(folder / file) for file in own.file), own.label, own.subject)


ARCHIVES = {"press": ("labels.csv", "images.tar"), "web": ("fer_labels.csv", "fer.tar")}


def read_archive(detector: KeypointDetector, folder: Path, name: str) -> Faces:
    """Read one of :data:`ARCHIVES`; without names of people each face is a person of its own."""
    labels, archive = ARCHIVES[name]
    table = pd.read_csv(folder / labels)
    people = table.person if "person" in table else table.file
    return read_faces(detector, in_tar(folder / archive, table.file), table.label, people)


def read_rendered(detector: KeypointDetector, root: Path, split: str) -> Faces:
    """Read the rendered heads of a folder like ``data/sample``, with their actions."""
    data = Data("rendered", root)
    names = read_keypoints(data.csv_file(split))[0]
    table = data.attributes(split)
    pictures = (read_image(data.image_dir(split) / name) for name in names)
    faces = read_faces(detector, pictures, table.expression, table.person)
    sides = [[unit.replace("*", side) for side in ("Left", "Right")] for unit in ACTIONS.values()]
    return replace(faces, actions=np.stack([table[sorted(set(units))].mean(axis=1) for units in sides], axis=1))


def cached(name: str, table: Path, read: Callable[[KeypointDetector], Faces]) -> Faces:
    """Return what ``read`` returns, from the cache if the table of labels and the keypoint network are the same."""
    path = CACHE / f"{name}_{sha256(table)[:12]}_{sha256(DEFAULT_MODEL)[:12]}.npz"
    if not path.exists():
        write_arrays(path, vars(read(KeypointDetector())))
    with np.load(path) as data:
        faces = Faces(**{key: data[key] for key in data.files})
    return faces.take(faces.scores >= LEAST_SCORE)


def read_sets(
    emotion: Path | None = None, expressions: Path | None = None, rendered: Sequence[Path] = ()
) -> dict[str, Faces]:
    """Read all sets that there are; arguments as the options of the command line.

    Returns:
        name → faces: "jaffe", "ck48" and whatever else ``emotion`` holds, "press", "web", "rendered" and
        "rendered test".
    """
    sets: dict[str, Faces] = {}
    if emotion:
        for name in sorted(set(pd.read_csv(emotion / "labels.csv").set)):
            sets[name] = cached(name, emotion / "labels.csv", partial(read_posed, folder=emotion, name=name))
    if expressions:
        for name, (labels, _) in ARCHIVES.items():
            sets[name] = cached(name, expressions / labels, partial(read_archive, folder=expressions, name=name))
    sample = find_data("sample").root

    def heads(root: Path, split: str) -> Faces:
        table = Data("rendered", root).csv_file(split)
        return cached(f"rendered_{split}", table, partial(read_rendered, root=root, split=split))

    parts = [vars(heads(root, "training")) for root in (sample, *rendered)]
    sets["rendered"] = Faces(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    sets["rendered test"] = heads(sample, "test")
    return sets


# The network ----------------------------------------------------------------------------------------------------------


view = Views(SIDE, 1 / CLOSER, 0.1, 0.07, 0.035, mirrored=True, blurred=0.35, coarse=(20, 28, 36, 48))


def train(sets: dict[str, Faces], recipe: ExpressionRecipe, out: Path) -> tuple[ExpressionNet, dict]:
    """Train a network on faces of several sets; returns it with its record.

    After each epoch there is a checkpoint beside ``out``, from which the next start goes on.
    """
    torch.manual_seed(recipe.seed)
    repeats = dict(recipe.repeats)
    crops = torch.from_numpy(np.concatenate([faces.crops for faces in sets.values()]))
    labels = np.concatenate([faces.labels for faces in sets.values()])
    weights = np.concatenate([np.full(len(faces), float(repeats.get(name, 1))) for name, faces in sets.items()])
    mass = np.bincount(labels, weights, len(EXPRESSIONS))
    weights = torch.from_numpy(weights / np.sqrt(mass[labels]))  # rare words more often than they are, not equally
    targets = functional.one_hot(torch.from_numpy(labels), len(EXPRESSIONS)).float()
    values = torch.from_numpy(np.concatenate([faces.features for faces in sets.values()]))
    net = ExpressionNet()
    net.mean, net.spread = values.mean(dim=0), values.std(dim=0) + 1e-3

    def batches(epoch: int, progress: float) -> Iterator[tuple[torch.Tensor, ...]]:
        random = torch.Generator().manual_seed(1000 * recipe.seed + epoch)
        order = torch.multinomial(weights, recipe.views_an_epoch, replacement=True, generator=random)
        shares = np.random.default_rng([recipe.seed, epoch])
        for chosen in order.split(recipe.batch_size):
            parts = view(crops[chosen], random), values[chosen], targets[chosen]
            share = float(shares.beta(recipe.mixup, recipe.mixup))  # https://arxiv.org/abs/1710.09412
            yield tuple(share * part + (1 - share) * part.flip(0) for part in parts)

    def loss_of(net: nn.Module, batch: tuple) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss = functional.cross_entropy(net(*batch[:2]), batch[2], label_smoothing=recipe.smoothing)
        return loss, {"loss": loss}

    return fit(net, batches, loss_of, lambda net: {}, recipe, out, clip=5, measure_every=100)


@torch.no_grad()
def predict(net: ExpressionNet, faces: Faces) -> np.ndarray:
    """Return the logits (N, 7) of faces."""
    parts = zip(*(torch.from_numpy(part).split(256) for part in (faces.crops, faces.features)), strict=True)
    return torch.cat([net(view(crops), values) for crops, values in parts]).double().numpy()


def fold_of(people: np.ndarray) -> np.ndarray:
    """Assign people to :data:`FOLDS` folds of equally many people, (N,) → (N,) numbers."""
    names = np.unique(people)
    order = dict(zip(np.random.default_rng(0).permutation(names), np.arange(len(names)) % FOLDS, strict=True))
    return np.array([order[person] for person in people])


def held_out(sets: dict[str, Faces], recipe: ExpressionRecipe, folder: Path) -> dict[str, np.ndarray]:
    """Cross-validate by person; what a fold predicted is kept in ``folder``.

    Returns:
        set → logits (N, 7) of each face by the network that did not see its person.
    """
    folds = {name: fold_of(faces.people) for name, faces in sets.items()}
    result = {name: np.zeros((len(faces), len(EXPRESSIONS))) for name, faces in sets.items()}
    facts = [asdict(recipe), {name: zlib.crc32(faces.crops.tobytes()) for name, faces in sets.items()}]
    key = f"{zlib.crc32(json.dumps(facts, sort_keys=True).encode()):08x}"  # of the recipe and the faces
    for fold in range(FOLDS):
        path = folder / f"fold_{fold}_{key}.npz"
        if not path.exists():
            net, _ = train({name: faces.take(folds[name] != fold) for name, faces in sets.items()}, recipe, path)
            write_arrays(path, {name: predict(net, faces.take(folds[name] == fold)) for name, faces in sets.items()})
            path.with_suffix(".checkpoint").unlink(missing_ok=True)
        with np.load(path) as data:
            for name in sets:
                result[name][folds[name] == fold] = data[name]
    return result


# Calibration ----------------------------------------------------------------------------------------------------------


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


def calibrated(logits: np.ndarray, factor: float, bias: float) -> np.ndarray:
    """Return logits (N, 7) times the factor, plus the bias of "neutral"."""
    return factor * logits + bias * np.eye(len(EXPRESSIONS))[NEUTRAL]


def calibrate(sets: dict[str, Faces], logits: dict[str, np.ndarray]) -> tuple[float, float]:
    """Choose how sure the network may sound, by its predictions for people left out.

    The press photographs decide, or all sets where there are none: their expressions are as slight and as frequent as
    in life. Of all factors and biases under which at most :data:`FALSE_ALARMS` of the neutral faces get another word,
    and that cost at most :data:`GIVEN_UP` of the balanced accuracy over the common words: those under which most faces
    get the right word, words alike.

    Returns:
        the factor and the bias of :func:`calibrated`.
    """
    names = ["press"] if "press" in sets else list(sets)
    values, labels = (np.concatenate([of[name] for name in names]) for of in (logits, _labels(sets)))
    words = [word for word in COMMON if (labels == word).any()]
    whole = recall_score(labels, values.argmax(axis=1), labels=words, average="macro")
    chosen, neutral = [], labels == NEUTRAL
    for bias in np.arange(0, 1.5, 0.1):
        for factor in np.arange(0.5, 2.51, 0.05):
            chances = softmax(calibrated(values, factor, bias), axis=1)
            said, sure = chances.argmax(axis=1), chances.max(axis=1) >= THRESHOLD
            balanced, told = (
                float(np.mean([right[labels == word].mean() for word in words]))
                for right in (said == labels, (said == labels) & sure)
            )
            alarms = float((sure & (said != NEUTRAL))[neutral].mean()) if neutral.any() else 0.0
            chosen.append((alarms <= FALSE_ALARMS, balanced >= whole - GIVEN_UP, told, float(factor), float(bias)))
    return max(chosen)[3:]


# A known neutral face -------------------------------------------------------------------------------------------------


def differences(sets: dict[str, Faces]) -> dict[str, np.ndarray]:
    """Return how the features of each face differ from its person's neutral face, (N, 68); NaN where none is known."""
    result = {}
    for name, faces in sets.items():
        own = own_neutral(faces.features.astype(np.float64), faces.labels, faces.people)
        if np.isfinite(own).any():
            result[name] = faces.features - own
    return result


def learn_neutral(sets: dict[str, Faces], changes: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Fit a logistic regression on differences from the neutral face: weights (68, 7) and bias (7,).

    The ridge is in the space in which the differences between neutral faces of one person are white.
    """
    known = {name: np.isfinite(values[:, 0]) for name, values in changes.items()}
    values = np.concatenate([changes[name][known[name]] for name in changes])
    labels = np.concatenate([sets[name].labels[known[name]] for name in changes])
    weights = np.concatenate([np.full(rows.sum(), 1 / max(1, rows.sum())) for rows in known.values()])
    weights /= np.sqrt(np.bincount(labels, weights, len(EXPRESSIONS))[labels])
    still = [changes[name][known[name] & (sets[name].labels == NEUTRAL)] for name in changes]
    noise = sum(np.cov(own.T) for own in still if len(own) > 1) + 1e-5 * np.eye(values.shape[1])
    variance, axes = np.linalg.eigh(noise)
    white = axes / np.sqrt(variance)
    fitted = LogisticRegression(C=NEUTRAL_RIDGE, max_iter=500)
    fitted.fit(values @ white, labels, sample_weight=weights * len(weights) / weights.sum())
    result, bias = np.zeros((values.shape[1], len(EXPRESSIONS))), np.full(len(EXPRESSIONS), ABSENT)
    result[:, fitted.classes_], bias[fitted.classes_] = white @ fitted.coef_.T, fitted.intercept_
    return result, bias


def with_neutral(sets: dict[str, Faces], logits: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
    """Add what a known neutral face says to calibrated logits, for people left out, in the folds of the network.

    Returns:
        set → logits (N, 7), NaN where no neutral face is known; the share of the addition under which the faces'
        labels are most likely, all sets alike.
    """
    changes = differences(sets)
    added = {name: np.full((len(values), len(EXPRESSIONS)), np.nan) for name, values in changes.items()}
    folds = {name: fold_of(sets[name].people) for name in changes}
    for fold in range(FOLDS):
        kept = {name: folds[name] != fold for name in changes}
        parts = {name: sets[name].take(kept[name]) for name in changes}
        weights, bias = learn_neutral(parts, {name: changes[name][kept[name]] for name in changes})
        for name, values in changes.items():
            added[name][~kept[name]] = values[~kept[name]] @ weights + bias

    def loss(share: float) -> float:
        losses = []
        for name, more in added.items():
            known = np.isfinite(more[:, 0])
            chances = softmax(logits[name][known] + share * more[known], axis=1)
            losses.append(log_loss(sets[name].labels[known], chances, labels=range(len(EXPRESSIONS))))
        return float(np.mean(losses))

    share = min(np.linspace(0, 1, 21), key=loss) if changes else 0.0
    return {name: logits[name] + share * more for name, more in added.items()}, float(share)


def _labels(sets: dict[str, Faces]) -> dict[str, np.ndarray]:
    return {name: faces.labels for name, faces in sets.items()}


# Movements ------------------------------------------------------------------------------------------------------------


def learn_strengths(values: np.ndarray, strengths: np.ndarray) -> dict[str, np.ndarray]:
    """Fit a small network, features (N, F) of rendered heads → strengths of actions (N, A): fields of Actions."""
    middle, spread = values.mean(axis=0), values.std(axis=0) + 1e-9
    torch.manual_seed(0)
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
        "hidden_weights": weights,
        "hidden_bias": bias - middle @ weights,
        "weights": out.T,
        "bias": out_bias,
        "movement": movement,
    }


def learn_actions(sets: dict[str, Faces], logits: dict[str, np.ndarray], share: float) -> tuple[Actions, float]:
    """Fit all that is told by the keypoints alone.

    Args:
        logits: calibrated, of people left out. share: see :func:`with_neutral`.

    Returns:
        the actions, and the share of the logits' variance that is linear in their strengths.
    """
    weights, bias = learn_neutral(sets, differences(sets))
    model = Actions(
        **learn_strengths(sets["rendered"].features, sets["rendered"].actions),
        usual=np.zeros(len(ACTIONS)),
        effects=np.zeros((len(ACTIONS), len(EXPRESSIONS))),
        neutral_weights=share * weights,
        neutral_bias=share * bias,
    )
    strengths = np.concatenate([model.strengths(faces.features) for faces in sets.values()])
    answers = np.concatenate([log_softmax(logits[name], axis=1) for name in sets])
    answers -= answers.mean(axis=1, keepdims=True)
    labels = np.concatenate(list(_labels(sets).values()))
    alike = 1 / np.bincount(labels, minlength=len(EXPRESSIONS))[labels]  # all words count alike
    fitted = Ridge(REASONS_RIDGE).fit(strengths, answers, alike)
    usual = np.mean([strengths[labels == word].mean(axis=0) for word in np.unique(labels)], axis=0)
    explained = r2_score(answers, fitted.predict(strengths), sample_weight=alike, multioutput="variance_weighted")
    return replace(model, usual=usual, effects=fitted.coef_.T), float(explained)


# The command ----------------------------------------------------------------------------------------------------------


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the data; :func:`read_sets` takes them."""
    parser.add_argument("--emotion", type=Path, metavar="DIR", help="posed expressions: labels.csv and pictures")
    parser.add_argument("--expressions", type=Path, metavar="DIR", help="press photographs and faces from the web")
    parser.add_argument("--rendered", type=Path, nargs="+", default=[], metavar="DIR", help="beside the sample")


def save(net: ExpressionNet, factor: float, bias: float, path: Path) -> None:
    """Write the network's graph, the calibration included."""
    with torch.no_grad():
        last = net.head[-1]
        last.weight *= factor
        last.bias *= factor
        last.bias[NEUTRAL] += bias
    export_onnx(net, path)


@one_sentence()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.expression", description=__doc__.splitlines()[0])
    add_sources(parser)
    parser.add_argument("--out", type=Path, default=Path("build"), metavar="DIR", help="of the files")
    parser.add_argument("--views", type=int, default=ExpressionRecipe.views, help="faces that the network sees")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    path, actions_path = (options.out / file.name for file in (EXPRESSION_MODEL, ACTIONS_MODEL))
    check_writable(path)
    recipe = ExpressionRecipe(views=options.views)
    sets = read_sets(options.emotion, options.expressions, options.rendered)
    print({name: len(faces) for name, faces in sets.items()}, flush=True)
    test = sets.pop("rendered test")
    logits = held_out(sets, recipe, CACHE)
    factor, bias = calibrate(sets, logits)
    logits = {name: calibrated(own, factor, bias) for name, own in logits.items()}
    share = with_neutral(sets, logits)[1]
    actions, explained = learn_actions(sets, logits, share)
    net, record = train(sets, recipe, CACHE / "expressions")
    save(net, factor, bias, path)
    write_arrays(actions_path, {name: np.asarray(value, np.float32) for name, value in vars(actions).items()})
    right = predict(net, test).argmax(axis=1) == test.labels
    content = {
        "sha256": sha256(path),
        "actions_sha256": sha256(actions_path),
        "keypoints": DEFAULT_MODEL.name,
        "keypoints_sha256": sha256(DEFAULT_MODEL),
        "sets": {name: {"faces": len(own), "people": len(set(own.people))} for name, own in sets.items()},
        "folds": FOLDS,
        "calibration": {"factor": factor, "bias": bias, "neutral_share": share},
        "explained_by_actions": explained,
        "rendered_test_right": float(right.mean()),
        **record,
    }
    write_json(path.with_suffix(".json"), content)
    (CACHE / "expressions.checkpoint").unlink(missing_ok=True)
    print(f"wrote {path} and {actions_path}")


if __name__ == "__main__":
    main()
