from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT, refused
from matplotlib.quiver import Quiver

from data_load import find_data, read_image
from keypoints.detection import KeypointDetector
from keypoints.drawing import write_image
from keypoints.expression import (
    ACTIONS,
    ACTIONS_MODEL,
    EXPRESSION_MODEL,
    EXPRESSIONS,
    NUM_FEATURES,
    RESTED,
    SIDE,
    UNSURE,
    Emotion,
    ExpressionClassifier,
    ExpressionSmoother,
    Rest,
    expression_crop,
    feature_movement,
    features,
    frontal_face,
    load_actions,
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
BLANK = np.zeros((SIDE, SIDE), np.uint8)


@pytest.fixture(scope="module")
def classifier() -> ExpressionClassifier:
    return ExpressionClassifier()


@pytest.fixture(scope="module")
def heads() -> tuple[np.ndarray, list[np.ndarray], pd.DataFrame]:
    """The keypoints of the sample's test heads, their pictures and their attributes."""
    data = find_data("sample")
    dataset = data.dataset("test")
    pictures = [dataset[i]["image"] for i in range(len(dataset))]
    return dataset.keypoints.astype(float), pictures, data.attributes("test")


@pytest.fixture(scope="module")
def emotions(classifier, heads) -> list[Emotion]:
    return [classifier(expression_crop(picture, own), own) for own, picture in zip(*heads[:2], strict=True)]


def chances(emotion) -> np.ndarray:
    return np.array([emotion.probabilities[word] for word in EXPRESSIONS])


# What comes out -------------------------------------------------------------------------------------------------------


def test_face_has_an_expression_with_probabilities(classifier):
    photo = read_image(ROOT / "data" / "photos" / "grace_hopper.jpg")
    [face] = KeypointDetector()(photo)
    emotion = face.emotion
    assert list(emotion.probabilities) == list(EXPRESSIONS)
    assert chances(emotion).min() >= 0 and chances(emotion).sum() == pytest.approx(1, abs=1e-9)
    assert emotion.probability == chances(emotion).max() == emotion.probabilities[emotion.likeliest]
    expected = classifier(expression_crop(photo, face.keypoints), face.keypoints)
    np.testing.assert_allclose(chances(emotion), chances(expected), atol=0.1)  # the crop is cut out of a crop
    with refused("got a face without a crop, expected one of a KeypointDetector"):
        replace(face, crop=None).emotion  # noqa: B018 (a property that computes)


def test_expression_below_the_threshold_is_unsure(emotions):
    emotion = emotions[0]
    assert replace(emotion, threshold=emotion.probability - 1e-6).label == emotion.likeliest
    unsure = replace(emotion, threshold=emotion.probability + 1e-6)
    assert unsure.label == UNSURE and unsure.likeliest == emotion.likeliest


def test_most_rendered_heads_are_right_and_with_higher_probability(emotions, heads):
    right = np.array([e.likeliest == word for e, word in zip(emotions, heads[2].expression, strict=True)])
    probability = np.array([e.probability for e in emotions])
    assert right.mean() > 0.6  # always "neutral" is right for 38 %
    assert probability[right].mean() > probability[~right].mean() + 0.08


def test_known_neutral_face_helps(emotions, heads):
    table = heads[2].reset_index()
    without, known = [], []
    for _, rows in table.groupby("person"):
        rest = [emotions[i] for i in rows.index[rows.expression == "neutral"]]
        for i in rows.index[rows.expression != "neutral"]:
            if rest:
                without.append(emotions[i].likeliest == table.expression[i])
                known.append(emotions[i].with_neutral(*rest).likeliest == table.expression[i])
    assert len(known) > 50 and np.mean(known) > np.mean(without) + 0.02
    with refused("got no neutral face, expected the emotion of at least one"):
        emotions[0].with_neutral()


def test_neutral_faces_count_by_their_mean(emotions):
    face, one, two = emotions[:3]
    both = replace(one, features=(one.features + two.features) / 2)
    np.testing.assert_allclose(face.with_neutral(one, two).logits, face.with_neutral(both).logits, atol=1e-9)


# What it must not depend on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["size", "roll", "mirror image", "brightness"])
def test_expression_depends_little_on(classifier, emotions, heads, name):
    changes = []
    for points, picture, emotion in zip(*(part[:40] for part in (*heads[:2], emotions)), strict=True):
        matrix = np.float64([[1, 0, 0], [0, 1, 0]])
        if name == "size":
            matrix = 2 * matrix
        if name == "roll":
            matrix = cv2.getRotationMatrix2D((picture.shape[1] / 2, picture.shape[0] / 2), 35, 0.7)
        own = points @ matrix[:, :2].T + matrix[:, 2]
        other = cv2.warpAffine(picture, matrix, tuple(np.multiply(picture.shape[1::-1], 2)))
        if name == "mirror image":
            other, own = picture[:, ::-1], flip_keypoints(points, picture.shape[1])
        if name == "brightness":
            other = (0.6 * picture + 20).astype(np.uint8)
        changes.append(np.abs(chances(classifier(expression_crop(other, own), own)) - chances(emotion)).sum() / 2)
    assert np.median(changes) < 0.05 and np.mean(changes) < 0.1


def test_crop_of_a_face_outside_the_image_is_black():
    assert (expression_crop(np.full((50, 50, 3), 200, np.uint8), FACE + 500) == 0).all()


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
def test_bad_keypoints_are_refused(classifier, points, sentence):
    with refused(sentence):
        classifier(BLANK, points)


def test_bad_crops_thresholds_and_files_are_refused(tmp_path):
    with refused(r"got a crop of shape \(48, 48\) and uint8, expected \(64, 64\) uint8"):
        ExpressionClassifier()(np.zeros((48, 48), np.uint8), FACE)
    with refused(r"got a threshold of 1.5, expected one in 0..1"):
        ExpressionClassifier(threshold=1.5)
    with refused("expected an expression network exported by training.expression, got another"):
        ExpressionClassifier(ROOT / "saved_models" / "keypoints_model_2.onnx")


def test_shipped_weights_are_small_and_of_their_record():
    assert EXPRESSION_MODEL.stat().st_size < 1e6 and ACTIONS_MODEL.stat().st_size < 1e5
    with np.load(ACTIONS_MODEL, allow_pickle=False) as data:  # refuses objects, which are pickled
        assert all(data[name].dtype == np.float32 and np.isfinite(data[name]).all() for name in data.files)
        assert data["movement"].shape == (len(ACTIONS), NUM_FEATURES)
        assert data["effects"].shape == (len(ACTIONS), len(EXPRESSIONS))
    record = json.loads(EXPRESSION_MODEL.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["sha256"] == sha256(EXPRESSION_MODEL) and record["actions_sha256"] == sha256(ACTIONS_MODEL)
    figures = json.loads((ROOT / "results" / "emotion.json").read_text(encoding="utf-8"))
    assert figures["keypoints_sha256"] == sha256(DEFAULT_MODEL) and figures["expressions"] == list(EXPRESSIONS)


# Why ------------------------------------------------------------------------------------------------------------------


def test_reasons_of_a_smile_are_its_movements(emotions, heads):
    table = heads[2]
    smiling = np.flatnonzero((table.expression == "happiness") & (table.yaw.abs() < 20))
    told = [emotions[i] for i in smiling if emotions[i].likeliest == "happiness"]
    assert len(told) > 0.7 * len(smiling) > 3
    for emotion in told:
        effects = [reason.effect for reason in emotion.reasons]
        assert effects == sorted(effects, reverse=True) and {r.action for r in emotion.reasons} == set(ACTIONS)
    first = [emotion.reasons[0] for emotion in told]
    assert np.mean([r.action == "mouth corners raised" and r.strength > 0 for r in first]) > 0.7
    rise = np.mean([reason.movement[[48, 54], 1] for reason in first])
    assert rise < -0.03  # the corners of the mouth move up, outer-eye distances
    assert str(first[0]).startswith("mouth corners raised: for it (+")


def test_first_reason_speaks_for_the_word(emotions):
    assert np.mean([emotion.reasons[0].effect > 0 for emotion in emotions]) > 0.98
    calm = [emotion for emotion in emotions if emotion.likeliest == "neutral"]
    assert np.mean([emotion.reasons[0].strength < 0 for emotion in calm]) > 0.5  # that something does not move


def test_actions_correlate_with_the_rendered_truth(emotions, heads):
    table, found = heads[2], pd.DataFrame([emotion.actions for emotion in emotions])
    for action, units in (("jaw dropped", ["jawOpen"]), ("brows lowered", ["browDownLeft", "browDownRight"]),
                          ("mouth corners raised", ["mouthSmileLeft", "mouthSmileRight"])):  # fmt: skip
        assert np.corrcoef(found[action], table[units].mean(axis="columns"))[0, 1] > 0.8
    assert found.to_numpy().min() >= 0


# In video -------------------------------------------------------------------------------------------------------------


def emotion_of(classifier, word: str, probability: float) -> Emotion:
    rest = (1 - probability) / (len(EXPRESSIONS) - 1)
    logits = np.log([probability if w == word else rest for w in EXPRESSIONS])
    return replace(classifier(BLANK, FACE), logits=logits)


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


def test_word_that_was_said_is_kept_until_it_is_improbable(classifier):
    smoother = ExpressionSmoother(1e-3)  # which averages nothing
    words = [
        smoother(emotion_of(classifier, *one), time).label
        for time, one in enumerate([("anger", 0.45), ("anger", 0.6), ("anger", 0.4), ("fear", 0.6), ("anger", 0.4)])
    ]
    assert words == [UNSURE, "anger", "anger", "fear", UNSURE]


def test_face_at_rest_is_learned_and_a_smile_is_not(classifier):
    low_brows, smile = emotion_of(classifier, "anger", 0.7), emotion_of(classifier, "happiness", 0.9)
    rest = Rest()
    found = [rest(low_brows, 5.0, frame / 25) for frame in range(int(25 * RESTED) + 50)]
    assert found[10] is low_brows and found[-1].probabilities["neutral"] > 2 * low_brows.probabilities["neutral"]
    for emotion, yaw in ((smile, 0.0), (low_brows, 40.0)):
        rest = Rest()
        assert all(rest(emotion, yaw, frame / 25) is emotion for frame in range(200))


def test_time_must_go_forward(classifier):
    smoother = ExpressionSmoother()
    smoother(classifier(BLANK, FACE), 2.0)
    with refused(r"got a frame at 1\.0 s after one at 2\.0 s, expected times that go forward"):
        smoother(classifier(BLANK, FACE), 1.0)
    with refused(r"got a time constant of 0 seconds, expected a number above 0"):
        ExpressionSmoother(0)


# Training -------------------------------------------------------------------------------------------------------------


def made_faces(seed: int, people: int, name: str = "") -> trainer.Faces:
    """Seven faces of each person: a bright stripe tells the word, and the points move by an action of its own."""
    rng, actions = np.random.default_rng(seed), load_actions()
    labels = np.tile(np.arange(7), people)
    strengths = np.zeros((len(labels), len(ACTIONS)))
    strengths[np.arange(len(labels)), 2 * labels] = 1
    crops = rng.integers(60, 120, (len(labels), trainer.WIDE, trainer.WIDE))
    for crop, label in zip(crops, labels, strict=True):
        crop[24 + 9 * label : 33 + 9 * label] += 100
    base = REFERENCE_FACE[:, :2] + feature_movement(strengths @ actions.movement)
    points = 80 * (base + rng.normal(0, 0.003, base.shape)) + 200
    names = np.repeat([f"{name}{i}" for i in range(people)], 7)
    values = np.array([features(frontal_face(own)) for own in points], np.float32)
    return trainer.Faces(crops.astype(np.uint8), points, values, np.ones(len(labels)), labels, names, strengths)


SHORT = trainer.ExpressionRecipe(views=1536, views_an_epoch=768, batch_size=32)


def test_training_learns_made_faces_and_the_graph_gives_the_same(tmp_path):
    torch.set_num_threads(1)
    sets, other = {"rendered": made_faces(0, 12)}, made_faces(1, 6)
    net, record = trainer.train(sets, SHORT, tmp_path / "net")
    logits = {"rendered": trainer.predict(net, sets["rendered"])}
    assert (trainer.predict(net, other).argmax(axis=1) == other.labels).mean() > 0.9
    assert record["history"][-1]["views"] == SHORT.views
    trainer.save(net, 1.0, 0.0, tmp_path / "net.onnx")
    classifier = ExpressionClassifier(tmp_path / "net.onnx")
    views = (trainer.view(torch.from_numpy(other.crops))[:, 0] * 255).round().byte().numpy()
    found = np.array([classifier(crop, own).logits for crop, own in zip(views, other.points, strict=True)])
    np.testing.assert_allclose(found, trainer.predict(net, other), atol=0.15)  # the crops are rounded
    actions, explained = trainer.learn_actions(sets, logits, 0.5)
    assert explained > 0.7  # each word has an action of its own
    strengths = actions.strengths(other.features)
    assert np.corrcoef(strengths[:, ::2].ravel(), other.actions[:, ::2].ravel())[0, 1] > 0.9


def test_command_writes_both_files_and_their_record(tmp_path, monkeypatch, capsys):
    sets = {"press": made_faces(0, 6), "rendered": made_faces(1, 9), "rendered test": made_faces(2, 3)}
    monkeypatch.setattr(trainer, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(trainer, "read_sets", lambda *options: dict(sets))
    (tmp_path / "cache").mkdir()
    trainer.main(["--out", str(tmp_path), "--views", "128"])
    assert f"wrote {tmp_path / 'expressions.onnx'}" in capsys.readouterr().out
    record = json.loads((tmp_path / "expressions.json").read_text(encoding="utf-8"))
    assert record["sha256"] == sha256(tmp_path / "expressions.onnx")
    assert record["sets"] == {"press": {"faces": 42, "people": 6}, "rendered": {"faces": 63, "people": 9}}
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".npz"] * 3  # no checkpoint is left
    emotion = ExpressionClassifier(tmp_path / "expressions.onnx")(BLANK, FACE)
    assert sum(emotion.probabilities.values()) == pytest.approx(1)
    assert load_actions(tmp_path / "actions.npz").strengths(emotion.features).shape == (len(ACTIONS),)


def test_view_without_chance_is_what_the_classifier_sees(heads):
    for points, picture in zip(heads[0][:5], heads[1][:5], strict=True):
        wide = trainer.cut_wide(picture, points)
        seen = trainer.view(torch.from_numpy(wide[None]))[0, 0].numpy() * 255
        assert np.abs(seen - expression_crop(picture, points)).mean() < 4  # grey levels; one is sampled twice


def test_held_out_people_are_not_trained_on_and_folds_are_kept(tmp_path, monkeypatch):
    sets, seen = {"posed": made_faces(0, 6, "a"), "rendered": made_faces(1, 6, "b")}, []

    def train(part, recipe, out):
        seen.append({person for faces in part.values() for person in faces.people})
        return trainer.ExpressionNet().eval(), {}

    monkeypatch.setattr(trainer, "train", train)
    first = trainer.held_out(sets, SHORT, tmp_path)
    assert [len(people) for people in seen] == [8] * 3 and set.intersection(*seen) == set()
    again = trainer.held_out(sets, SHORT, tmp_path)
    assert len(seen) == 3 and all(np.array_equal(first[name], again[name]) for name in sets)
    trainer.held_out({name: faces.take(faces.people != "a0") for name, faces in sets.items()}, SHORT, tmp_path)
    assert len(seen) == 6  # of other faces


def test_calibration_keeps_false_alarms_rare():
    faces, rng = made_faces(0, 500), np.random.default_rng(0)
    logits = 1.5 * np.eye(7)[faces.labels] + rng.normal(0, 1, (len(faces), 7))

    def figures(factor: float, bias: float) -> tuple[float, float]:
        found = trainer.calibrated(logits, factor, bias)
        odds, said = np.exp(found), found.argmax(axis=1)
        sure = odds.max(axis=1) >= 0.5 * odds.sum(axis=1)
        return (sure & (said != 0))[faces.labels == 0].mean(), (sure & (said == faces.labels)).mean()

    factor, bias = trainer.calibrate({"press": faces}, {"press": logits})
    alarms, told = figures(factor, bias)
    assert alarms <= trainer.FALSE_ALARMS < figures(factor + 0.2, bias)[0]
    assert told > figures(factor - 0.2, bias)[1]


def test_differences_from_the_neutral_face_are_learned():
    sets = {"rendered": made_faces(0, 20), "press": made_faces(1, 12)}
    blind = {name: np.zeros((len(faces), 7)) for name, faces in sets.items()}
    found, share = trainer.with_neutral(sets, blind)
    known = np.isfinite(found["press"][:, 0])
    assert known.sum() == 12 * 6 and share > 0.5  # a person's only neutral face has no other
    assert (found["press"][known].argmax(axis=1) == sets["press"].labels[known]).mean() > 0.9


def test_own_neutral_face_leaves_the_face_itself_out():
    values = np.arange(10.0).reshape(5, 2)
    labels, people = np.array([0, 0, 1, 0, 2]), np.array(["a", "a", "a", "b", "c"])
    found = trainer.own_neutral(values, labels, people)
    np.testing.assert_array_equal(found[:3], [values[1], values[0], values[:2].mean(axis=0)])
    assert np.isnan(found[3:]).all()  # b has no other neutral face, c none at all


def test_sets_are_read_with_their_labels_and_without_pictures_that_show_no_face(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "CACHE", tmp_path / "cache")
    photo = read_image(ROOT / "data" / "photos" / "astronaut.jpg")
    [face] = KeypointDetector()(photo)
    write_image(tmp_path / "head.png", photo)
    write_image(tmp_path / "black.png", np.zeros((200, 200, 3), np.uint8))
    rows = ["file,subject,label,set", "head.png,ann,happiness,made", "black.png,bo,anger,made"]
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    made = trainer.cached(
        "made", tmp_path / "labels.csv", lambda detector: trainer.read_posed(detector, tmp_path, "made")
    )
    assert made.people.tolist() == ["ann"] and [EXPRESSIONS[label] for label in made.labels] == ["happiness"]
    np.testing.assert_array_equal(made.points[0], face.keypoints)
    # A small picture is a face without its surroundings.
    x, y, width, height = face.box.round().astype(int)
    small = cv2.resize(photo[y : y + height + 10, x : x + width], (48, 48), interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".png", small[..., ::-1])[1].tobytes()
    with tarfile.open(tmp_path / "fer.tar", "w") as archive:
        member = tarfile.TarInfo("fer/0.png")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    (tmp_path / "fer_labels.csv").write_text("file,label\n0.png,happiness\n", encoding="utf-8")
    web = trainer.read_archive(KeypointDetector(), tmp_path, "web")
    close = np.corrcoef(web.crops[0].ravel(), made.crops[0].ravel())[0, 1]
    assert web.scores[0] > 0.9 and close > 0.7  # the same face, as large


def test_faces_are_read_again_when_their_table_has_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(trainer, "KeypointDetector", lambda: None)
    table, looks = tmp_path / "labels.csv", []

    def read(_):
        looks.append(table.read_text(encoding="utf-8"))
        return made_faces(len(looks), 2)

    for text in ("one", "one", "two"):
        table.write_text(text, encoding="utf-8")
        last = trainer.cached("made", table, read)
    assert looks == ["one", "two"]
    np.testing.assert_array_equal(last.crops, made_faces(2, 2).crops)


def test_scores_of_a_case_computed_by_hand():
    labels = np.array([1, 1, 2, 2])
    logits = np.full((4, 7), -9.0)
    logits[[0, 1, 2, 3], [1, 2, 2, 0]] = 1  # right, wrong, right, and neutral, which the set does not have
    figures = scores(logits, labels, np.array(list("aabb")), [1, 2])
    assert figures["accuracy"] == figures["balanced"] == 50  # a tie of 1 and 2 falls to 1
    assert figures["balanced_common"] == 50 and tuple(figures["interval"]) == (
        50,
        50,
    )  # each person has one of two right
    assert np.array(figures["confusion"])[1:3, 1:3].tolist() == [[1, 1], [1, 1]]
    assert figures["macro_f1"] == pytest.approx(50)


# Drawings -------------------------------------------------------------------------------------------------------------


def test_arrows_of_a_smile_point_up(emotions, heads):
    points, _, table = heads
    i = int(np.flatnonzero((table.expression == "happiness") & (table.yaw.abs() < 10))[0])
    emotion, pose = emotions[i], estimate_pose(points[i], (300, 300))
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
