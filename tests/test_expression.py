from __future__ import annotations

import json
import shutil

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, refused
from matplotlib.quiver import Quiver

from data_load import find_data
from keypoints.detection import Face, KeypointDetector
from keypoints.drawing import write_image
from keypoints.expression import (
    ACTIONS,
    EXPRESSION_MODEL,
    EXPRESSIONS,
    NUM_FEATURES,
    UNSURE,
    ExpressionClassifier,
    ExpressionModel,
    ExpressionSmoother,
    feature_movement,
    features,
    frontal_face,
    load_expression_model,
    register,
)
from keypoints.files import sha256
from keypoints.landmarks import REFERENCE_FACE, flip_keypoints
from keypoints.pose import estimate_pose
from training import expression as trainer
from training import figures
from training.studies.expression import scores
from training.weights import DEFAULT_MODEL

FACE = 80 * REFERENCE_FACE[:, :2] + 200


@pytest.fixture(scope="module")
def classifier() -> ExpressionClassifier:
    return ExpressionClassifier()


@pytest.fixture(scope="module")
def heads() -> tuple[np.ndarray, pd.DataFrame]:
    """The keypoints of the sample's test heads and their attributes."""
    data = find_data("sample")
    dataset = data.dataset("test")
    table = pd.read_csv(data.root / "attributes.csv", index_col="file").loc[[f"test/{n}" for n in dataset.names]]
    return np.asarray(dataset.keypoints, float).reshape(-1, 68, 2), table


def chances(emotion) -> np.ndarray:
    return np.array([emotion.probabilities[word] for word in EXPRESSIONS])


# What comes out -------------------------------------------------------------------------------------------------------


def test_face_has_an_expression_with_probabilities(classifier, heads):
    for points in heads[0][:20]:
        emotion = classifier(points)
        assert list(emotion.probabilities) == list(EXPRESSIONS)
        assert chances(emotion).min() >= 0 and chances(emotion).sum() == pytest.approx(1, abs=1e-9)
        assert emotion.probability == chances(emotion).max() == emotion.probabilities[emotion.likeliest]
        face = Face(np.array([0, 0, 100, 100], np.float32), points, (300, 300))
        expected = classifier(points, estimate_pose(points, (300, 300)))
        np.testing.assert_array_equal(chances(face.emotion), chances(expected))


def test_expression_below_the_threshold_is_unsure(heads, classifier):
    emotion = classifier(heads[0][0])
    assert ExpressionClassifier(threshold=emotion.probability - 1e-6)(heads[0][0]).label == emotion.likeliest
    unsure = ExpressionClassifier(threshold=emotion.probability + 1e-6)(heads[0][0])
    assert unsure.label == UNSURE and unsure.likeliest == emotion.likeliest


def test_most_rendered_heads_are_right_and_with_higher_probability(classifier, heads):
    points, table = heads
    emotions = [classifier(own) for own in points]
    right = np.array([e.likeliest == word for e, word in zip(emotions, table.expression, strict=True)])
    probability = np.array([e.probability for e in emotions])
    assert right.mean() > 0.6  # always "neutral" is right for 38 %
    assert probability[right].mean() > probability[~right].mean() + 0.08


def test_known_neutral_face_helps(classifier, heads):
    points, table = heads
    own, words = [], []
    for _, rows in table.reset_index().groupby("person"):
        rest = rows.index[rows.expression == "neutral"]
        for i in rows.index.difference(rest):
            if len(rest):
                own.append((classifier(points[i]), classifier(points[i], neutral=points[rest])))
                words.append(table.expression.iloc[i])
    without, known = (np.mean([e[k].likeliest == word for e, word in zip(own, words, strict=True)]) for k in (0, 1))
    assert len(words) > 50 and known > without + 0.02


def test_neutral_face_may_be_one_or_several(classifier, heads):
    one, two = heads[0][:2]
    np.testing.assert_array_equal(classifier.neutral(one), classifier.neutral(one[None]))
    mean = (classifier.neutral(one) + classifier.neutral(two)) / 2
    np.testing.assert_allclose(classifier.neutral(np.stack([one, two])), mean, atol=1e-12)


# What it must not depend on -------------------------------------------------------------------------------------------


def turned(points: np.ndarray, degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return points @ np.array([[c, s], [-s, c]])


@pytest.mark.parametrize(
    ("change", "tolerance"),
    [
        (lambda p: 3.7 * p, 1e-6),
        (lambda p: p + np.array([150, -40]), 1e-6),
        (lambda p: turned(p, 35), 1e-6),
        (lambda p: flip_keypoints(p, 400), 0.03),  # the pose's regressor is mirrored approximately
    ],
    ids=["size", "place", "roll", "mirror image"],
)
def test_expression_does_not_depend_on(classifier, heads, change, tolerance):
    for points in heads[0][:20]:
        np.testing.assert_allclose(chances(classifier(change(points))), chances(classifier(points)), atol=tolerance)


def test_features_of_the_mirror_image_are_the_same():
    mirrored = register(flip_keypoints(FACE + np.array([3, 1]), 400))
    np.testing.assert_allclose(features(mirrored), features(register(FACE)), atol=1e-12)


def test_feature_movement_is_the_inverse_of_features():
    rng = np.random.default_rng(0)
    face, change = register(FACE), rng.normal(size=NUM_FEATURES)
    np.testing.assert_allclose(features(face + feature_movement(change)) - features(face), change, atol=1e-9)


def test_frontal_face_undoes_the_yaw():
    with np.load(find_data("sample").root / "test_geometry.npz") as file:
        heads = file["points"][:40, :68].astype(float)
    off = []
    for head in heads:
        views = []
        for yaw in (0, 25):
            c, s = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
            turned = head @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T
            views.append(1000 * turned[:, :2] / (turned[:, 2:] + 16))
        off.append([np.abs(np.subtract(*(f(view)[17:] for view in views))).mean() for f in (frontal_face, register)])
    undone, left_in = np.mean(off, axis=0)
    assert undone < 0.5 * left_in


# What it refuses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        (np.full((68, 2), np.nan), r"got keypoints of shape \(68, 2\) .* not finite, expected \(68, 2\), finite"),
        (FACE[:67], r"got keypoints of shape \(67, 2\) .*expected \(68, 2\)"),
        (FACE.ravel(), r"got keypoints of shape \(136,\) .*expected \(68, 2\)"),
        (np.full((68, 2), 7.0), r"got keypoints of shape .*expected .*not in one place"),
    ],
)
def test_bad_input_is_refused(classifier, points, sentence):
    with refused(sentence):
        classifier(points)
    with refused("got (neutral )?keypoints of shape .*expected"):
        classifier(FACE, neutral=points)
    with refused(r"got neutral keypoints of shape \(0, 68, 2\), expected .*N > 0"):
        classifier(FACE, neutral=np.zeros((0, 68, 2)))
    with refused(r"got a threshold of 1.5, expected one in 0..1"):
        ExpressionClassifier(threshold=1.5)


def test_shipped_weights_are_small_plain_arrays_of_their_record():
    assert EXPRESSION_MODEL.stat().st_size < 1e6
    with np.load(EXPRESSION_MODEL, allow_pickle=False) as data:  # refuses objects, which are pickled
        assert all(data[name].dtype == np.float32 and np.isfinite(data[name]).all() for name in data.files)
        assert data["weights"].shape == (NUM_FEATURES, len(EXPRESSIONS))
        assert data["action_movement"].shape == (len(ACTIONS), NUM_FEATURES)
    record = json.loads(EXPRESSION_MODEL.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["sha256"] == sha256(EXPRESSION_MODEL)
    figures = json.loads((ROOT / "results" / "emotion.json").read_text(encoding="utf-8"))
    assert figures["keypoints_sha256"] == sha256(DEFAULT_MODEL) and figures["expressions"] == list(EXPRESSIONS)


# Why ------------------------------------------------------------------------------------------------------------------


def test_reasons_of_a_smile_are_its_movements(classifier, heads):
    points, table = heads
    smiling = np.flatnonzero((table.expression == "happiness") & (table.yaw.abs() < 20))
    emotions = [classifier(points[i]) for i in smiling]
    told = [e for e in emotions if e.likeliest == "happiness"]
    assert len(told) > 0.7 * len(smiling) > 3
    for emotion in told:
        sizes = [abs(reason.effect) for reason in emotion.reasons]
        assert sizes == sorted(sizes, reverse=True) and {r.action for r in emotion.reasons} == set(ACTIONS)
    first = [emotion.reasons[0] for emotion in told]
    assert np.mean([r.action == "mouth corners raised" and r.effect > 0 for r in first]) > 0.7
    rise = np.mean([reason.movement[[48, 54], 1] for reason in first])
    assert rise < -0.03  # the corners of the mouth move up, outer-eye distances
    assert str(first[0]).startswith("mouth corners raised: for it (+")


def test_actions_correlate_with_the_rendered_truth(classifier, heads):
    points, table = heads
    found = pd.DataFrame([classifier(own).actions for own in points])
    for action, units in (("jaw dropped", ["jawOpen"]), ("brows lowered", ["browDownLeft", "browDownRight"]),
                          ("mouth corners raised", ["mouthSmileLeft", "mouthSmileRight"])):  # fmt: skip
        assert np.corrcoef(found[action], table[units].mean(axis="columns"))[0, 1] > 0.8
    assert found.to_numpy().min() >= 0


# In video -------------------------------------------------------------------------------------------------------------


def emotion_of(classifier, word: str, probability: float):
    emotion = classifier(FACE)
    rest = (1 - probability) / (len(EXPRESSIONS) - 1)
    object.__setattr__(emotion, "probabilities", {w: probability if w == word else rest for w in EXPRESSIONS})
    return emotion


def test_smoothing_follows_the_clock_and_not_the_number_of_frames(classifier):
    calm, happy = (emotion_of(classifier, word, 0.9) for word in ("neutral", "happiness"))
    ends = []
    for frames in (10, 40):
        smoother = ExpressionSmoother(seconds=0.4)
        smoother(calm, 0.0)
        for time in np.linspace(0, 0.3, frames + 1)[1:]:
            last = smoother(happy, time)
        ends.append(chances(last))
        assert ends[-1].sum() == pytest.approx(1)
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-9)
    # After the time t the logarithms have gone 1 - exp(-t / 0.4) of the way.
    odds = np.log(ends[0][1] / ends[0][0])
    assert odds == pytest.approx(np.log(0.9 / (0.1 / 6)) * (2 * (1 - np.exp(-0.3 / 0.4)) - 1), abs=1e-6)


def test_single_odd_frame_does_not_change_the_label(classifier):
    calm, odd = emotion_of(classifier, "neutral", 0.9), emotion_of(classifier, "fear", 0.9)
    smoother = ExpressionSmoother(0.3)
    assert {smoother(odd if frame == 10 else calm, frame / 25).label for frame in range(20)} == {"neutral"}


def test_time_must_go_forward(classifier):
    smoother = ExpressionSmoother()
    smoother(classifier(FACE), 2.0)
    with refused(r"got a frame at 1\.0 s after one at 2\.0 s, expected times that go forward"):
        smoother(classifier(FACE), 1.0)
    with refused(r"got a time constant of 0 seconds, expected a number above 0"):
        ExpressionSmoother(0)


# Training -------------------------------------------------------------------------------------------------------------


def made_faces(seed: int, people: int, each: int = 7) -> trainer.Faces:
    """Faces whose points move by the shipped actions, an expression each, with some scatter."""
    rng, model = np.random.default_rng(seed), load_expression_model()
    labels = np.tile(np.arange(each), people)
    strength = np.zeros((len(labels), len(ACTIONS)))
    strength[np.arange(len(labels)), 2 * labels] = 1  # each expression has one action of its own
    base = REFERENCE_FACE[:, :2] + feature_movement(strength @ model.action_movement)
    points = 80 * (base + rng.normal(0, 0.003, base.shape)) + 200
    names = np.repeat([f"{seed}-{i}" for i in range(people)], each)
    return trainer.Faces(points[:, None], labels, names, (), strength)


def test_fit_learns_made_faces_and_saves_the_model(tmp_path):
    posed, rendered, test = made_faces(0, 6), made_faces(1, 20), made_faces(2, 6)
    sources = trainer.gather({"posed": posed}, rendered, None)
    model = trainer.fit(sources)
    values = trainer.measure(test.points)[:, 0]
    assert (model.logits(values).argmax(axis=1) == test.labels).mean() > 0.9
    trainer.save_expression_model(model, tmp_path / "new.npz")
    back = load_expression_model(tmp_path / "new.npz")
    np.testing.assert_allclose(back.logits(values), model.logits(values), atol=1e-3)
    assert isinstance(back, ExpressionModel)


def test_held_out_people_are_not_trained_on():
    posed, rendered = made_faces(0, 5), made_faces(1, 12)
    sources, seen = trainer.gather({"posed": posed}, rendered, None), []

    def learned(part: trainer.Sources) -> ExpressionModel:
        seen.append(set(part.people["posed"]))
        return load_expression_model()

    trainer.held_out(sources, 5, 0, learned)
    assert [len(people) for people in seen] == [4] * 5
    assert set.intersection(*seen) == set() and set.union(*seen) == set(posed.people)


def test_own_neutral_face_leaves_the_face_itself_out():
    values = np.arange(10.0).reshape(5, 2)
    labels, people = np.array([0, 0, 1, 0, 2]), np.array(["a", "a", "a", "b", "c"])
    found = trainer.own_neutral(values, labels, people)
    np.testing.assert_array_equal(found[:3], [values[1], values[0], values[:2].mean(axis=0)])
    assert np.isnan(found[3:]).all()  # b has no other neutral face, c none at all


def test_small_crops_are_enlarged_and_padded():
    crop = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    assert trainer.padded(crop).shape == (384, 384, 3)
    large = np.zeros((256, 256, 3), np.uint8)
    assert trainer.padded(large) is large


def test_posed_images_are_read_and_lost_faces_are_named(tmp_path):
    data = find_data("sample")
    picture = data.image_dir("test") / data.dataset("test").names[1]
    shutil.copy(picture, tmp_path / "head.jpg")
    write_image(tmp_path / "black.jpg", np.zeros((48, 48, 3), np.uint8))
    rows = ["file,subject,label,set", "head.jpg,ann,fear,made", "black.jpg,bo,anger,made"]
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    detector = KeypointDetector()
    made = trainer.read_posed(tmp_path, detector)["made"]
    assert made.lost == ("black.jpg",) and made.people.tolist() == ["ann"]
    assert [EXPRESSIONS[label] for label in made.labels] == ["fear"]
    assert made.points.shape == (1, 1 + trainer.CROPS, 68, 2)
    np.testing.assert_array_equal(made.points[0, 0], detector(tmp_path / "head.jpg")[0].keypoints)
    assert np.abs(made.points[0, 1:] - made.points[0, 0]).mean() < 2  # other framings, the same face


def test_faces_are_read_again_when_their_table_has_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(trainer, "KeypointDetector", lambda: None)
    table, looks = tmp_path / "labels.csv", []

    def read(_):
        looks.append(table.read_text(encoding="utf-8"))
        return {"made": made_faces(len(looks), 2)}

    for text in ("one", "one", "two"):
        table.write_text(text, encoding="utf-8")
        last = trainer.cached("made", table, read)["made"]
    assert looks == ["one", "two"]
    np.testing.assert_allclose(last.points, made_faces(2, 2).points, atol=1e-4)


def test_scores_of_a_case_computed_by_hand():
    labels = np.array([1, 1, 2, 2])
    logits = np.full((4, 7), -9.0)
    logits[[0, 1, 2, 3], [1, 2, 2, 0]] = 1  # right, wrong, right, and neutral, which the set does not have
    figures = scores(logits, labels, np.array(list("aabb")), np.array([0, 0, 1, 1]), [1, 2])
    assert figures["accuracy"] == 50 and figures["folds"] == [50, 50]  # a tie of 1 and 2 falls to 1
    assert figures["interval"] == [50, 50]  # each person has one of two right
    assert np.array(figures["confusion"])[1:3, 1:3].tolist() == [[1, 1], [1, 1]]
    assert figures["macro_f1"] == pytest.approx(50)


# Drawings -------------------------------------------------------------------------------------------------------------


def test_arrows_of_a_smile_point_up(classifier, heads):
    points, table = heads
    i = int(np.flatnonzero((table.expression == "happiness") & (table.yaw.abs() < 10))[0])
    emotion, pose = classifier(points[i]), estimate_pose(points[i], (300, 300))
    _, ax = plt.subplots()
    figures.draw_emotion(ax, np.zeros((300, 300, 3), np.uint8), points[i], pose, emotion, reasons=1)
    [arrows] = [thing for thing in ax.collections if isinstance(thing, Quiver)]
    assert emotion.likeliest in ax.get_title() and str(emotion.reasons[0]) in ax.texts[0].get_text()
    assert emotion.reasons[0].action == "mouth corners raised" and np.mean(arrows.V) < 0  # y grows downwards
    plt.close()


def test_confusion_matrix_shows_each_count():
    counts = np.arange(49).reshape(7, 7)
    ax = figures.draw_confusion(plt.figure().add_subplot(), counts)
    assert sorted(int(text.get_text()) for text in ax.texts) == list(range(1, 49))
    plt.close()
