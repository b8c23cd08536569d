"""How well expressions of unseen people are read: `python -m training.studies.expression --emotion DIR …`.

Writes results/emotion.json, from the predictions that three folds by person made of the people left out (see
:mod:`training.expression`, whose options these are): accuracy, balanced accuracy, macro-F1 and confusion matrices, the
same with the person's own neutral face, the calibration, and how often a neutral face gets another word. Beside it, in
the same folds, a logistic regression on the keypoints' distances. The strengths of actions are compared with the
rendered truth; changes of the label are counted in two videos of people who talk. The network, its recipe and the
threshold were chosen on press photographs of a third of the people.
"""

import argparse
import sys
import time
from collections import defaultdict
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, f1_score, recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_load import DATA_DIR
from keypoints.expression import ACTIONS, EXPRESSIONS, SIDE, THRESHOLD, ExpressionClassifier, Expressions
from keypoints.files import sha256
from keypoints.landmarks import REFERENCE_FACE
from keypoints.pose import estimate_pose
from keypoints.tracking import FaceTracker
from keypoints.video import Video
from training.expression import (
    CACHE,
    COMMON,
    FOLDS,
    NEUTRAL,
    ExpressionRecipe,
    Faces,
    add_sources,
    calibrate,
    calibrated,
    fold_of,
    held_out,
    learn_strengths,
    read_sets,
    with_neutral,
)
from training.metrics import calibration_error, interval
from training.studies.common import RESULTS, SHARED, figures_file, make_parser
from training.weights import DEFAULT_MODEL

VIDEOS = DATA_DIR / "sample" / "clip.mp4", SHARED / "video" / "talking.mp4"
# Five common actions, each the mean of these face units.
UNITS = {
    "jaw open": ["jaw dropped"],
    "smile": ["mouth corners raised"],
    "brow raise": ["inner brows raised", "outer brows raised"],
    "brow lower": ["brows lowered"],
    "eye closure": ["eyes closed"],
}


def scores(logits: np.ndarray, labels: np.ndarray, people: np.ndarray, words: list[int]) -> dict:
    """Return the figures of one set, in percent; the argmax is over ``words``, which the set has."""
    said = np.array(words)[logits[:, words].argmax(axis=1)]
    right, present = said == labels, [word for word in words if word in labels]
    common = [word for word in present if word in COMMON]
    return {
        "faces": len(labels),
        "people": len(set(people)),
        "accuracy": 100 * float(right.mean()),
        "interval": interval(100.0 * right, people),
        "balanced": 100 * float(recall_score(labels, said, labels=present, average="macro", zero_division=0)),
        "balanced_common": 100 * float(recall_score(labels, said, labels=common, average="macro", zero_division=0)),
        "macro_f1": 100 * float(f1_score(labels, said, labels=present, average="macro")),
        "confusion": confusion_matrix(labels, said, labels=range(len(EXPRESSIONS))).tolist(),
    }


def of_each_set(sets: dict[str, Faces], logits: dict[str, np.ndarray]) -> dict:
    """Return the figures of each set; faces without logits (NaN) do not count."""
    result = {}
    for name, faces in sets.items():
        known = np.isfinite(logits[name]).all(axis=1)
        if known.any():
            words = sorted(set(faces.labels.tolist()))
            result[name] = scores(logits[name][known], faces.labels[known], faces.people[known], words)
    return result


def by_keypoints(sets: dict[str, Faces]) -> dict[str, np.ndarray]:
    """Return the logits of a logistic regression on the keypoints' distances, of people left out."""
    folds = {name: fold_of(faces.people) for name, faces in sets.items()}
    result = {name: np.zeros((len(faces), len(EXPRESSIONS))) for name, faces in sets.items()}
    for fold in range(FOLDS):
        fitted = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=300))
        kept = {name: folds[name] != fold for name in sets}
        fitted.fit(
            np.concatenate([faces.features[kept[name]] for name, faces in sets.items()]),
            np.concatenate([faces.labels[kept[name]] for name, faces in sets.items()]),
        )
        for name, faces in sets.items():
            result[name][~kept[name]] = fitted.decision_function(faces.features[~kept[name]])
    return result


def reliability(logits: np.ndarray, labels: np.ndarray) -> dict:
    """Measure the calibration, "unsure", and how often a neutral face gets another word, in percent."""
    chances = softmax(logits, axis=1)
    top, said = chances.max(axis=1), chances.argmax(axis=1)
    error, bins = calibration_error(top, said == labels)
    sure, neutral = top >= THRESHOLD, labels == NEUTRAL
    return {
        "faces": len(labels),
        "ece": error,
        "bins": [dict(zip(("faces", "probability", "right"), row, strict=True)) for row in bins],
        "threshold": THRESHOLD,
        "coverage": 100 * float(sure.mean()),
        "right_where_sure": 100 * float((said == labels)[sure].mean()),
        "neutral_called_other": 100 * float((sure & (said != NEUTRAL))[neutral].mean()) if neutral.any() else None,
    }


def action_figures(heads: Faces) -> dict:
    """Correlate the strengths of actions with the rendered truth, in folds by person."""
    folds, found, names = fold_of(heads.people), np.full_like(heads.actions, np.nan), list(ACTIONS)
    values = heads.features
    for fold in range(FOLDS):
        kept = folds != fold
        model = learn_strengths(values[kept], heads.actions[kept])
        hidden = np.tanh(values[~kept] @ model["hidden_weights"] + model["hidden_bias"])
        found[~kept] = hidden @ model["weights"] + model["bias"]
    result = {}
    for key, words in {**UNITS, **{name: [name] for name in names}}.items():
        own = [names.index(word) for word in words]
        result[key] = float(np.corrcoef(found[:, own].mean(axis=1), heads.actions[:, own].mean(axis=1))[0, 1])
    return result


def by_yaw(faces: Faces, logits: np.ndarray) -> list[dict]:
    """Return the accuracy by yaw."""
    right = logits.argmax(axis=1) == faces.labels
    yaw = np.abs([estimate_pose(points, tuple(np.ptp(points, axis=0))).yaw for points in faces.points])
    ranges = [(low, high, (yaw >= low) & (yaw < high)) for low, high in ((0, 15), (15, 30), (30, 45), (45, 90))]
    return [
        {"from": low, "to": high, "faces": int(there.sum()), "accuracy": 100 * float(right[there].mean())}
        for low, high, there in ranges
        if there.any()
    ]


def milliseconds() -> float:
    """Return the median processor time of a face that is cut out already and whose pose is known."""
    classifier, took = ExpressionClassifier(), []
    crop, points = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), np.uint8), 80 * REFERENCE_FACE[:, :2]
    pose = estimate_pose(points, (200, 200))
    for _ in range(220):
        began = time.process_time_ns()
        classifier(crop, points, pose)
        took.append(time.process_time_ns() - began)
    return float(np.median(took[20:]) / 1e6)


def label_changes(path: Path) -> dict:
    """Count the changes of the label of the longest followed face of a video, smoothed and frame by frame."""
    tracker, read = FaceTracker(), Expressions()
    labels: dict[int, list[tuple[str, str]]] = defaultdict(list)
    with closing(Video(path)) as video:
        for time_of, frame in video:
            faces = tracker(frame, time_of)
            for number, emotion in read(faces).items():
                if emotion is not None:
                    [face] = [face for face in faces if face.id == number]
                    labels[number].append((emotion.label, face.emotion.label))
        minutes = time_of / 60
    longest = max(labels.values(), key=len)
    changes = [sum(a != b for a, b in pairwise(run)) / minutes for run in zip(*longest, strict=True)]
    return {"minutes": minutes, "smoothed": changes[0], "frame_by_frame": changes[1]}


def measure_all(options: argparse.Namespace) -> dict:
    """Return the content of results/emotion.json."""
    sets = read_sets(options.emotion, options.expressions, options.rendered)
    sets.pop("rendered test")
    raw = held_out(sets, ExpressionRecipe(), CACHE)
    factor, bias = calibrate(sets, raw)
    logits = {name: calibrated(own, factor, bias) for name, own in raw.items()}
    known = with_neutral(sets, logits)[0]
    return {
        "expressions": list(EXPRESSIONS),
        "keypoints": DEFAULT_MODEL.name,
        "keypoints_sha256": sha256(DEFAULT_MODEL),
        "folds": FOLDS,
        "ours": of_each_set(sets, logits),
        "with_neutral": of_each_set({name: sets[name] for name in known}, known),
        "same_without_neutral": of_each_set(
            {name: sets[name] for name in known},
            {name: np.where(np.isfinite(own), logits[name], np.nan) for name, own in known.items()},
        ),
        "keypoints_alone": of_each_set(sets, by_keypoints(sets)),
        "reliability": {name: reliability(logits[name], faces.labels) for name, faces in sets.items()},
        "by_yaw": {name: by_yaw(sets[name], logits[name]) for name in ("press", "rendered") if name in sets},
        "actions": action_figures(sets["rendered"]),
        "label_changes_a_minute": {path.name: label_changes(path) for path in VIDEOS if path.exists()},
        "milliseconds": milliseconds(),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("expression", __doc__)
    add_sources(parser)
    options = parser.parse_args(arguments)
    with figures_file(RESULTS / "emotion.json") as content:
        content |= measure_all(options)
        for name in ("keypoints_alone", "ours", "same_without_neutral", "with_neutral"):
            cells = [f"{key} {own['accuracy']:.1f}, {own['balanced_common']:.1f}" for key, own in content[name].items()]
            print(f"{name:20s} {'; '.join(cells)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
