"""How well expressions of unseen people are classified: `python -m training.studies.expression --emotion DIR …`.

Writes results/emotion.json: accuracy, macro-F1 and confusion matrices of five folds by person (JAFFE: one person each),
baselines and what each group of features adds, the calibration of the probabilities, the strengths of actions against
the rendered truth, and the time. A fold is trained and calibrated without its people. The few hyperparameters (parts,
ridge, shares) were chosen on the same people.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.special import softmax
from sklearn.metrics import confusion_matrix, f1_score

from data_load import find_data, read_keypoints
from keypoints.expression import (
    ACTIONS,
    EXPRESSIONS,
    THRESHOLD,
    UNSURE,
    ExpressionClassifier,
    ExpressionModel,
    features,
    register,
)
from keypoints.files import sha256
from keypoints.pose import estimate_pose
from training.expression import (
    LOWER,
    NEUTRAL,
    UPPER,
    WHOLE,
    Faces,
    Sources,
    add_sources,
    fit,
    fold_of,
    gather,
    held_out,
    learn,
    learn_actions,
    learn_map,
    measure,
    person_covariance,
    posed_names,
    read_faces,
    stacked,
)
from training.metrics import calibration_error, face_size
from training.studies.common import RESULTS, figures_file, make_parser
from training.weights import DEFAULT_MODEL

FOLDS, SEED, DRAWS = 5, 0, 2000
# Five common actions, each the mean of these face units.
UNITS = {
    "jaw open": ["jaw dropped"],
    "smile": ["mouth corners raised"],
    "brow raise": ["inner brows raised", "outer brows raised"],
    "brow lower": ["brows lowered"],
    "eye closure": ["eyes closed"],
}


def scores(logits: np.ndarray, labels: np.ndarray, people: np.ndarray, folds: np.ndarray, words: list[int]) -> dict:
    """Return the figures of one set, in percent; the argmax is over ``words``, which the set has."""
    said = np.array(words)[logits[:, words].argmax(axis=1)]
    right, names = said == labels, np.unique(people)
    sums = np.array([(right[people == name].sum(), (people == name).sum()) for name in names])
    draws = sums[np.random.default_rng(SEED).integers(0, len(names), (DRAWS, len(names)))].sum(axis=1)
    share = [float(100 * right[folds == fold].mean()) for fold in np.unique(folds)]
    present = [word for word in words if word in labels]
    return {
        "faces": len(labels),
        "people": len(names),
        "accuracy": float(np.mean(share)),
        "interval": np.percentile(100 * draws[:, 0] / draws[:, 1], [2.5, 97.5]).tolist(),
        "folds": share,
        "macro_f1": float(100 * f1_score(labels, said, labels=present, average="macro")),
        "confusion": confusion_matrix(labels, said, labels=range(len(EXPRESSIONS))).tolist(),
    }


def by_set(sources: Sources, found: dict, which: int) -> dict:
    """Return the figures of each posed set; CK+ has no neutral faces: its argmax is over the others."""
    result = {}
    for name, pair in found.items():
        logits, labels, people = pair[which], sources.labels[name], sources.people[name]
        there = np.isfinite(logits).all(axis=1)
        if which and NEUTRAL not in labels:
            continue  # nobody's neutral face is known
        words = sorted(set(labels.tolist()))
        folds = fold_of(people, FOLDS, SEED)
        result[name] = scores(logits[there], labels[there], people[there], folds[there], words)
    return result


def cross_validated(sources: Sources, learned) -> tuple[dict, dict]:
    """Return the figures of each posed set, and the logits of :func:`training.expression.held_out`."""
    found = held_out(sources, FOLDS, SEED, learned)
    return by_set(sources, found, 0), found


def plain(sources: Sources) -> ExpressionModel:
    """Fit the baselines' classifier: logistic regression on all features, standardised, sources weighted equally."""
    values, labels, weights = stacked(sources, sources.values, list(sources.values))
    variance = np.maximum(weights @ (values - weights @ values) ** 2, 1e-12)
    found, bias = learn(values, labels, weights, np.diag(variance), np.arange(values.shape[1]))
    return _model(found, bias)


def _model(weights: np.ndarray, bias: np.ndarray) -> ExpressionModel:
    none = np.zeros(0)  # no strengths of actions are asked for
    return ExpressionModel(weights, bias, weights, 0 * weights, bias, none, none, none, none, none, none)


def of_parts(*parts: np.ndarray):
    """Return a learner of some parts only."""

    def learned(sources: Sources) -> ExpressionModel:
        return _model(*learn_map(sources, parts))

    return learned


def raw_points(points: np.ndarray) -> np.ndarray:
    """Return the centred and scaled points as features, (N, V, 68, 2) → (N, V, 136)."""
    centred = points - points.mean(axis=2, keepdims=True)
    return (centred / face_size(points)[..., None, None]).reshape(*points.shape[:2], -1)


def without_pose(points: np.ndarray) -> np.ndarray:
    """Return the features without undoing yaw and pitch."""
    return features(register(points))


def majority(sources: Sources) -> ExpressionModel:
    """Return the model that always says the most frequent expression."""
    counts = sum(np.bincount(sources.labels[name], minlength=7) for name in posed_names(sources))
    return _model(np.zeros((sources.values["rendered"].shape[-1], 7)), counts.astype(float))


def reliability(found: dict, sources: Sources, which: int) -> dict:
    """Measure the calibration over ten bins of equally many faces, and "unsure", of all sets together."""
    pairs = [(softmax(pair[which], axis=1), sources.labels[name]) for name, pair in found.items()]
    chances, labels = (np.concatenate(column) for column in zip(*pairs, strict=True))
    known = np.isfinite(chances).all(axis=1)
    top, right = chances[known].max(axis=1), chances[known].argmax(axis=1) == labels[known]
    error, bins = calibration_error(top, right)
    sure = top >= THRESHOLD
    return {
        "faces": len(top),
        "ece": error,
        "bins": [dict(zip(("faces", "probability", "right"), row, strict=True)) for row in bins],
        "threshold": THRESHOLD,
        "coverage": 100 * float(sure.mean()),
        "accuracy_where_sure": 100 * float(right[sure].mean()),
        "accuracy_where_unsure": 100 * float(right[~sure].mean()) if (~sure).any() else None,
    }


def action_figures(sources: Sources, true: np.ndarray) -> dict:
    """Correlate the strengths of actions with the rendered truth, in folds by person.

    Args:
        true: the labels' points (N, 68, 2) of the heads; they show what the detector's errors cost.
    """

    def correlations(whole: Sources) -> dict:
        values, folds = whole.values["rendered"][:, 0], fold_of(whole.people["rendered"], FOLDS, SEED)
        found, none, names = np.full_like(whole.actions, np.nan), np.zeros(0), list(ACTIONS)
        for fold in range(FOLDS):
            part = replace(whole.part({"rendered": folds != fold}), actions=whole.actions[folds != fold])
            model = ExpressionModel(none, none, none, none, none, **learn_actions(part))
            found[folds == fold] = model.actions(values[folds == fold])
        result = {}
        for key, words in {**UNITS, **{name: [name] for name in names}}.items():
            own = [names.index(word) for word in words]
            result[key] = float(np.corrcoef(found[:, own].mean(axis=1), whole.actions[:, own].mean(axis=1))[0, 1])
        return result

    exact = replace(sources, values={**sources.values, "rendered": measure(true[:, None])})
    return {
        "folds_heads": len(sources.actions),
        "folds": correlations(sources),
        "folds_true_points": correlations(exact),
    }


def rendered_by_yaw(sources: Sources, rendered: Faces) -> list[dict]:
    """Return the accuracy on rendered heads of unseen people by yaw."""
    values, labels = sources.values["rendered"][:, 0], sources.labels["rendered"]
    folds, right = fold_of(sources.people["rendered"], FOLDS, SEED), np.zeros(len(labels), bool)
    for fold in range(FOLDS):
        weights, bias = learn_map(sources.part({"rendered": folds != fold}))
        out = folds == fold
        right[out] = (values[out] @ weights + bias).argmax(axis=1) == labels[out]
    yaw = np.abs([estimate_pose(points, tuple(np.ptp(points, axis=0))).yaw for points in rendered.points[:, 0]])
    ranges = [(low, high, (yaw >= low) & (yaw < high)) for low, high in ((0, 15), (15, 30), (30, 45), (45, 90))]
    return [
        {"from": low, "to": high, "heads": int(there.sum()), "accuracy": 100 * float(right[there].mean())}
        for low, high, there in ranges
    ]


def unposed(sources: Sources) -> dict:
    """Return the shares of the predictions on frames of people who do not pose, in percent, in two folds by person.

    The frames have no labels: some people smile, most talk. But few will show disgust.
    """
    half, said = fold_of(sources.frame_people, 2, SEED), np.zeros(len(sources.frames), int)
    for fold in (0, 1):
        out = half == fold
        chances = fit(replace(sources, at_rest=sources.at_rest & ~out)).probabilities(sources.frames[out])
        said[out] = np.where(chances.max(axis=1) >= THRESHOLD, chances.argmax(axis=1), len(EXPRESSIONS))
    words = [*EXPRESSIONS, UNSURE]

    def shares(rows: np.ndarray) -> dict:
        counts = np.bincount(said[rows], minlength=len(words))
        return {word: 100 * float(count) / rows.sum() for word, count in zip(words, counts, strict=True)}

    return {
        "frames": len(said),
        "people": len(set(sources.frame_people)),
        "all": shares(np.ones(len(said), bool)),
        "frames_at_rest": int(sources.at_rest.sum()),
        "at_rest": shares(sources.at_rest),
    }


def milliseconds(faces: Faces, model: ExpressionModel) -> dict:
    """Return the median processor time of a face whose pose is known, and of the pose."""
    classifier, took = ExpressionClassifier(model), []
    for points in faces.points[:200, 0]:
        began = time.process_time_ns()
        pose = estimate_pose(points, (256, 256))
        middle = time.process_time_ns()
        classifier(points, pose)
        took.append((middle - began, time.process_time_ns() - middle))
    pose, own = np.median(took[20:], axis=0) / 1e6
    return {"emotion": float(own), "pose": float(pose)}


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("expression", __doc__)
    add_sources(parser)
    parser.add_argument("--out", type=Path, default=RESULTS / "emotion.json", metavar="FILE")
    options = parser.parse_args(arguments)
    with figures_file(options.out) as content:
        content |= measure_all(options.emotion, options.people, options.rendered)
        rows = {**content["rows"], "ours": content["ours"], "ours, neutral known": content["with_neutral"]}
        for name, row in rows.items():
            cells = [f"{key} {own['accuracy']:.1f} ({own['macro_f1']:.1f})" for key, own in row.items()]
            print(f"{name:40s} {'   '.join(cells)}")
    return 0


def measure_all(emotion: Path, people_folder: Path | None, rendered_folders: list[Path]) -> dict:
    """Return the content of results/emotion.json; arguments as of :func:`training.expression.read_faces`."""
    posed, rendered, _, people = read_faces(emotion, people_folder, rendered_folders)
    sources = gather(posed, rendered, people)
    result = {
        "expressions": list(EXPRESSIONS),
        "keypoints": DEFAULT_MODEL.name,
        "keypoints_sha256": sha256(DEFAULT_MODEL),
        "sets": {
            name: {"faces": len(faces), "people": len(set(faces.people)), "lost": len(faces.lost)}
            for name, faces in posed.items()
        },
        "rendered": {"heads": len(rendered), "people": len(set(rendered.people))},
    }
    ours, found = cross_validated(sources, fit)
    result["ours"], result["with_neutral"] = ours, by_set(sources, found, 1)
    result["reliability"] = {"without_neutral": reliability(found, sources, 0), "with_neutral": None}
    known = {name: pair for name, pair in found.items() if NEUTRAL in sources.labels[name]}
    if known:
        result["reliability"]["with_neutral"] = reliability(known, sources, 1)
    flat = gather(posed, rendered, people, without_pose)
    raw = gather(posed, rendered, people, raw_points)
    real = replace(sources, values={name: sources.values[name] for name in posed})
    at_rest = rendered.labels == NEUTRAL
    between = person_covariance(sources.values["rendered"][at_rest, 0], rendered.people[at_rest])
    unreal = replace(sources, between=between)
    restless = replace(sources, at_rest=np.zeros_like(sources.at_rest))
    rows = {
        "majority": (sources, majority),
        "raw points, logistic regression": (raw, plain),
        "features, logistic regression": (sources, plain),
        "brows and eyes alone": (sources, of_parts(UPPER)),
        "mouth and jaw alone": (sources, of_parts(LOWER)),
        "whole face as one part": (sources, of_parts(WHOLE)),
        "ours, pose left in": (flat, of_parts(UPPER, LOWER)),
        "ours without real people's differences": (unreal, of_parts(UPPER, LOWER)),
        "ours without rendered heads": (real, of_parts(UPPER, LOWER)),
        "ours without faces at rest": (restless, of_parts(UPPER, LOWER)),
    }
    result["rows"] = {name: cross_validated(*how)[0] for name, how in rows.items()}
    roots = [find_data("sample").root, *rendered_folders]
    true = np.concatenate([read_keypoints(root / "training_frames_keypoints.csv")[1] for root in roots])
    result["actions"] = action_figures(sources, true)
    result["unposed"] = unposed(sources) if people is not None else None
    result["rendered_by_yaw"] = rendered_by_yaw(sources, rendered)
    result["milliseconds"] = milliseconds(rendered, fit(sources))
    return result


if __name__ == "__main__":
    sys.exit(main())
