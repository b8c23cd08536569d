"""How well expressions are read from people left out: `python -m training.studies.expression --emotion DIR …`.

Writes results/emotion.json: accuracy, macro-F1 and confusion matrices of five folds by person (JAFFE: one person each),
baselines and what each group of features adds, how far the probabilities can be believed, "unsure" apart, the
strengths of actions against the rendered truth, and the time. Nothing of a person is in the training of their own fold:
neither the map nor its calibration. The few choices (parts, ridge, shares) were made on the same people.

`python -m training.studies.expression --emotion DIR --shipped` measures the shipped weights as they are, on people
they never saw.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_load import find_data, read_keypoints
from keypoints.expression import (
    ACTIONS,
    EXPRESSIONS,
    THRESHOLD,
    UNSURE,
    ExpressionClassifier,
    ExpressionModel,
    features,
    load_expression_model,
    register,
)
from keypoints.files import check_writable, one_sentence, sha256, write_json
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
    joined,
    learn,
    learn_actions,
    learn_map,
    measure,
    own_neutral,
    person_covariance,
    posed_names,
    read_faces,
    read_posed_kept,
    stacked,
)
from training.metrics import face_size
from training.weights import DEFAULT_MODEL

RESULTS = Path(__file__).resolve().parents[2] / "results"
FOLDS, SEED, BINS, DRAWS = 5, 0, 10, 2000
# The five actions that are asked for, and of which face units each is the mean.
UNITS = {
    "jaw open": ["jaw dropped"],
    "smile": ["mouth corners raised"],
    "brow raise": ["inner brows raised", "outer brows raised"],
    "brow lower": ["brows lowered"],
    "eye closure": ["eyes closed"],
}


def softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def scores(logits: np.ndarray, labels: np.ndarray, people: np.ndarray, folds: np.ndarray, words: list[int]) -> dict:
    """Figures of one set, in percent; the argmax is over ``words``, which the set has."""
    said = np.array(words)[logits[:, words].argmax(axis=1)]
    right = said == labels
    confusion = np.zeros((len(EXPRESSIONS), len(EXPRESSIONS)), int)
    np.add.at(confusion, (labels, said), 1)
    names = np.unique(people)
    rng = np.random.default_rng(SEED)
    sums = np.array([(right[people == name].sum(), (people == name).sum()) for name in names])
    draws = sums[rng.integers(0, len(names), (DRAWS, len(names)))].sum(axis=1)
    low, high = np.percentile(100 * draws[:, 0] / draws[:, 1], [2.5, 97.5])
    share = [100 * right[folds == fold].mean() for fold in np.unique(folds)]
    true, told, hit = confusion.sum(axis=1), confusion.sum(axis=0), np.diag(confusion)
    f1 = [200 * hit[k] / (true[k] + told[k]) for k in words if true[k]]
    return {
        "faces": len(labels),
        "people": len(names),
        "accuracy": float(np.mean(share)),
        "interval": [float(low), float(high)],
        "folds": [float(value) for value in share],
        "macro_f1": float(np.mean(f1)),
        "confusion": confusion.tolist(),
    }


def by_set(sources: Sources, found: dict, which: int) -> dict:
    """The figures of each posed set; CK+ has no neutral faces, so its argmax is over the other six, and over all."""
    result = {}
    for name, pair in found.items():
        logits, labels, people = pair[which], sources.labels[name], sources.people[name]
        there = np.isfinite(logits).all(axis=1)
        if which and NEUTRAL not in labels:
            continue  # nobody's neutral face is known
        words = sorted(set(labels.tolist()))
        folds = fold_of(people, FOLDS, SEED)
        args = labels[there], people[there], folds[there]
        result[name] = scores(logits[there], *args, words)
        if len(words) < len(EXPRESSIONS):
            result[name]["accuracy_of_seven"] = scores(logits[there], *args, list(range(7)))["accuracy"]
    return result


def cross_validated(sources: Sources, learned) -> tuple[dict, dict]:
    found = held_out(sources, FOLDS, SEED, learned)
    return by_set(sources, found, 0), found


def plain(sources: Sources) -> ExpressionModel:
    """Logistic regression on all features, standardised, each source counting alike: the baselines' classifier."""
    values, labels, weights = stacked(sources, sources.values, list(sources.values))
    variance = np.maximum(weights @ (values - weights @ values) ** 2, 1e-12)
    found, bias = learn(values, labels, weights, np.diag(variance), np.arange(values.shape[1]))
    return _model(found, bias)


def _model(weights: np.ndarray, bias: np.ndarray) -> ExpressionModel:
    none = np.zeros(0)  # no strengths of actions are asked for
    return ExpressionModel(weights, bias, weights, 0 * weights, bias, none, none, none, none, none, none)


def of_parts(*parts: np.ndarray):
    """A learner that knows some parts only."""

    def learned(sources: Sources) -> ExpressionModel:
        return _model(*learn_map(sources, parts))

    return learned


def raw_points(points: np.ndarray) -> np.ndarray:
    """(N, V, 68, 2) → (N, V, 136): the points as they are, but for place and size."""
    centred = points - points.mean(axis=2, keepdims=True)
    return (centred / face_size(points)[..., None, None]).reshape(*points.shape[:2], -1)


def without_pose(points: np.ndarray) -> np.ndarray:
    """The features with the pose left as it is, turned in the plane alone."""
    return features(register(points))


def majority(sources: Sources) -> ExpressionModel:
    counts = sum(np.bincount(sources.labels[name], minlength=7) for name in posed_names(sources))
    return _model(np.zeros((sources.values["rendered"].shape[-1], 7)), counts.astype(float))


def reliability(found: dict, sources: Sources, which: int) -> dict:
    """ECE over ten bins with as many faces each, and "unsure", of all sets together."""
    pairs = [(softmax(pair[which]), sources.labels[name]) for name, pair in found.items()]
    chances, labels = (np.concatenate(column) for column in zip(*pairs, strict=True))
    there = np.isfinite(chances).all(axis=1)
    chances, labels = chances[there], labels[there]
    top, right = chances.max(axis=1), chances.argmax(axis=1) == labels
    bins = [
        {"faces": len(rows), "probability": float(top[rows].mean()), "right": float(right[rows].mean())}
        for rows in np.array_split(np.argsort(top, kind="stable"), BINS)
    ]
    sure = top >= THRESHOLD
    return {
        "faces": len(labels),
        "ece": sum(b["faces"] * abs(b["probability"] - b["right"]) for b in bins) / len(labels),
        "bins": bins,
        "threshold": THRESHOLD,
        "coverage": 100 * float(sure.mean()),
        "accuracy_where_sure": 100 * float(right[sure].mean()),
        "accuracy_where_unsure": 100 * float(right[~sure].mean()) if (~sure).any() else None,
    }


def action_figures(sources: Sources, test: Faces, true: np.ndarray) -> dict:
    """Correlations of strengths with the rendered truth: on the sample's test people, and on all others in five folds.

    The test people's eyes are hardly ever closed, so eye closure is told by the folds. ``true`` are the labels' own
    points (N, 68, 2) of the others: what the detector's errors cost.
    """

    def correlations(found: np.ndarray, strengths: np.ndarray) -> dict:
        names, result = list(ACTIONS), {}
        for key, words in {**UNITS, **{name: [name] for name in names}}.items():
            own = [names.index(word) for word in words]
            result[key] = float(np.corrcoef(found[:, own].mean(axis=1), strengths[:, own].mean(axis=1))[0, 1])
        return result

    def told(part: Sources, values: np.ndarray, neutral: np.ndarray | None = None) -> np.ndarray:
        none = np.zeros(0)
        return ExpressionModel(none, none, none, none, none, **learn_actions(part)).actions(values, neutral)

    def in_folds(whole: Sources, known: bool) -> dict:
        values, folds = whole.values["rendered"][:, 0], fold_of(whole.people["rendered"], FOLDS, SEED)
        rest = np.isfinite(whole.neutral["rendered"]).all(axis=1)
        found = np.full_like(whole.actions, np.nan)
        for fold in range(FOLDS):
            out = (folds == fold) & rest if known else folds == fold
            part = replace(whole.part({"rendered": folds != fold}), actions=whole.actions[folds != fold])
            found[out] = told(part, values[out], whole.neutral["rendered"][out] if known else None)
        there = np.isfinite(found).all(axis=1)
        return correlations(found[there], whole.actions[there])

    exact = replace(sources, values={**sources.values, "rendered": measure(true[:, None])})
    return {
        "test_heads": len(test),
        "test": correlations(told(sources, measure(test.points)[:, 0]), test.actions),
        "folds_heads": len(sources.actions),
        "folds": in_folds(sources, known=False),
        "folds_neutral_known": in_folds(sources, known=True),
        "folds_true_points": in_folds(exact, known=False),
    }


def rendered_by_yaw(sources: Sources, rendered: Faces) -> list[dict]:
    """Rendered heads whose people were left out, by how far they are turned: what undoing the pose is worth."""
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
    """What is said of frames of people who pose nothing, in percent; learned without these people, half by half.

    Nobody has labelled them: some smile, most talk. But few will show disgust.
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


def on_test_heads(model: ExpressionModel, test: Faces) -> dict:
    """The sample's rendered test heads, whose people nothing was learned from."""
    said = model.logits(measure(test.points)[:, 0]).argmax(axis=1)
    return {"heads": len(test), "accuracy": 100 * float((said == test.labels).mean())}


def milliseconds(faces: Faces, model: ExpressionModel) -> dict:
    """Median processor time of a face whose pose is known, and of the pose."""
    classifier, took = ExpressionClassifier(model), []
    for points in faces.points[:200, 0]:
        began = time.process_time_ns()
        pose = estimate_pose(points, (256, 256))
        middle = time.process_time_ns()
        classifier(points, pose)
        took.append((middle - began, time.process_time_ns() - middle))
    pose, own = np.median(took[20:], axis=0) / 1e6
    return {"emotion": float(own), "pose": float(pose)}


def shipped(folder: Path) -> dict:
    """The shipped weights on other people's posed expressions, without and with their neutral faces."""
    posed, model, result = read_posed_kept(folder), load_expression_model(), {}
    for name, faces in posed.items():
        values, words = measure(faces.points[:, :1])[:, 0], sorted(set(faces.labels.tolist()))
        rest = own_neutral(values, faces.labels, faces.people)
        there, folds = np.isfinite(rest).all(axis=1), np.zeros(len(faces), int)
        result[name] = {"lost": len(faces.lost)} | scores(
            model.logits(values), faces.labels, faces.people, folds, words
        )
        result[name]["accuracy_of_seven"] = 100 * float((model.logits(values).argmax(axis=1) == faces.labels).mean())
        if there.any():
            known = model.logits(values, rest)[there]
            result[name]["with_neutral"] = scores(known, faces.labels[there], faces.people[there], folds[there], words)
    return result


@one_sentence()
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.studies.expression", description=__doc__.splitlines()[0])
    add_sources(parser)
    parser.add_argument("--out", type=Path, default=RESULTS / "emotion.json", metavar="FILE")
    parser.add_argument("--shipped", action="store_true", help="measure the shipped weights on the faces of --emotion")
    options = parser.parse_args()
    if options.shipped:
        print(json.dumps(shipped(options.emotion), indent=1))
        return
    check_writable(options.out)
    posed, rendered, test, people = read_faces(options)
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
    model = fit(sources)
    roots = [find_data("sample").root, *options.rendered]
    true = np.concatenate([read_keypoints(root / "training_frames_keypoints.csv")[1] for root in roots])
    result["actions"], result["test_heads"] = action_figures(sources, test, true), on_test_heads(model, test)
    result["unposed"] = unposed(sources) if people is not None else None
    result["rendered_by_yaw"] = rendered_by_yaw(sources, rendered)
    result["milliseconds"] = milliseconds(joined([rendered]), model)
    write_json(options.out, result)
    for name, row in {**result["rows"], "ours": ours, "ours, neutral known": result["with_neutral"]}.items():
        cells = [f"{key} {own['accuracy']:.1f} ({own['macro_f1']:.1f})" for key, own in row.items()]
        print(f"{name:40s} {'   '.join(cells)}")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
