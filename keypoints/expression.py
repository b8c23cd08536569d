"""The expression that a face shows, read from its pixels: seven words, how probable each is, and which movements go
with them.

It tells what a face *does*, not what somebody feels, and it must not be used to judge people. It learned from press
photographs, faces from the web, people who were asked to make a face, and rendered heads; others gave the words, and
they often disagree. Slight expressions, fear, disgust, and faces turned by more than some 40° are where it fails most.

How: :class:`models.ExpressionNet` sees the grey face, levelled and sized by its keypoints, and distances between the
keypoints once the pose (:mod:`keypoints.pose`) is undone: the eyes' corners and the nose are laid on those of the mean
head, the left and right half are averaged, and each point's distance from the line of the eyes and from the face's
middle is taken. Faces at rest differ from person to person; where one is known (:meth:`Emotion.with_neutral`), how the
distances differ from its own counts as well, by a linear map whose answer is added to the network's (a product of
experts: Hinton, 2002, https://doi.org/10.1162/089976602760128018). The same distances tell how strong fourteen
movements are, and :attr:`Emotion.reasons` says which of them go with the word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keypoints.files import asset
from keypoints.geometry import REFERENCE_FIVE, cut_out, fit_similarity, five_points, inverse, transform
from keypoints.landmarks import EYE_CORNERS, FLIP_INDEX, NOSE, NUM_KEYPOINTS, REFERENCE_FACE
from keypoints.network import open_session, read_metadata
from keypoints.pose import Pose, estimate_pose

if TYPE_CHECKING:
    from keypoints.tracking import TrackedFace

EXPRESSION_MODEL, ACTIONS_MODEL = asset("expressions.onnx"), asset("actions.npz")
EXPRESSIONS = ("neutral", "happiness", "sadness", "surprise", "anger", "disgust", "fear")
UNSURE = "unsure"
THRESHOLD = 0.5  # less probable than all others together is not said
KEPT = 0.3  # in a video a word that was said stays while it is as probable as this
SIDE, CLOSER = 64, 1.4  # of the crop: pixels; how much larger the face is in it than in the keypoint network's
# Movements after the face units of the rendered heads; * stands for Left and Right.
ACTIONS: dict[str, str] = {
    "inner brows raised": "browInnerUp",
    "outer brows raised": "browOuterUp*",
    "brows lowered": "browDown*",
    "eyes wide open": "eyeWide*",
    "eyes narrowed": "eyeSquint*",
    "eyes closed": "eyeBlink*",
    "nose wrinkled": "noseSneer*",
    "upper lip raised": "mouthUpperUp*",
    "mouth corners raised": "mouthSmile*",
    "mouth corners lowered": "mouthFrown*",
    "mouth stretched": "mouthStretch*",
    "lips pressed": "mouthPress*",
    "chin raised": "mouthShrugLower",
    "jaw dropped": "jawOpen",
}

ANCHORS = [36, 39, 42, 45, *range(NOSE.start, NOSE.stop)]  # what moves least in an expression
RIGHT_HALF = np.flatnonzero(np.arange(NUM_KEYPOINTS) <= FLIP_INDEX)  # one of each pair, and the points of the middle
PAIRED = RIGHT_HALF[FLIP_INDEX[RIGHT_HALF] != RIGHT_HALF]
NUM_FEATURES = len(PAIRED) + len(RIGHT_HALF)  # first x of pairs, then y
LEVELLED = (REFERENCE_FIVE - 0.5) * CLOSER + 0.5  # the five points in a crop of side 1


def expression_crop(image: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Cut out what the network sees: the face, levelled and sized by its keypoints.

    Args:
        image: (H, W, 3) uint8 RGB, or (H, W) grey.
        keypoints: (68, 2) pixels.

    Returns:
        (64, 64) uint8 grey; black where the face lies outside the image.
    """
    matrix = inverse(fit_similarity(five_points(keypoints)[None], LEVELLED * SIDE - 0.5))[0]
    crop = cut_out(image, matrix, SIDE) if matrix[:, :2].any() else None  # points in one place have no size
    return np.zeros((SIDE, SIDE), np.uint8) if crop is None else crop


def frontal_face(keypoints: np.ndarray, pose: Pose | None = None) -> np.ndarray:
    """The face seen from the front, its eyes' corners and nose laid on the mean head's.

    Args:
        keypoints: (68, 2) pixels, (x, y).
        pose: of this face; estimated by default.

    Returns:
        (68, 2) float64, outer-eye distances; the origin between the outer eye corners, x to the image's right, y down.

    Raises:
        ValueError: keypoints of another shape, not finite or all in one place.

    >>> frontal_face(80 * REFERENCE_FACE[:, :2] + 200)[[36, 45], 0].round(1)
    array([-0.5,  0.5])
    """
    points = _checked(keypoints)
    if pose is None:
        pose = estimate_pose(points, tuple(np.ptp(points, axis=0)))  # as a cut-out: no place in an image
    camera, rays = pose.rays(points)
    depth = (pose.points[:NUM_KEYPOINTS, 2] - camera[2]) / rays[:, 2]  # each point lies as deep as the fitted head's
    return register(camera[:2] + depth[:, None] * rays[:, :2])


def register(points: np.ndarray) -> np.ndarray:
    """Shift, turn and scale a flat face (68, 2) such that :data:`ANCHORS` lie best on the mean head's."""
    [matrix] = fit_similarity(points[None, ANCHORS], REFERENCE_FACE[ANCHORS, :2])
    return transform(points, matrix)


def features(face: np.ndarray) -> np.ndarray:
    """Frontal faces (…, 68, 2) → (…, 68) distances: a pair's from the middle, then each point's below the eyes' line.

    Left and right are averaged, so that a face and its mirror image have the same features.
    """
    both = (face + face[..., FLIP_INDEX, :] * (-1, 1)) / 2
    return np.concatenate([-both[..., PAIRED, 0], both[..., RIGHT_HALF, 1]], axis=-1)


def feature_movement(values: np.ndarray) -> np.ndarray:
    """Changes of features (…, 68) → how the points of a frontal face move, (…, 68, 2)."""
    moved = np.zeros((*values.shape[:-1], NUM_KEYPOINTS, 2))
    pairs = len(PAIRED)
    moved[..., PAIRED, 0], moved[..., FLIP_INDEX[PAIRED], 0] = -values[..., :pairs], values[..., :pairs]
    moved[..., RIGHT_HALF, 1] = moved[..., FLIP_INDEX[RIGHT_HALF], 1] = values[..., pairs:]
    return moved


def _checked(keypoints: np.ndarray) -> np.ndarray:
    points = np.asarray(keypoints, np.float64)
    if points.shape != (NUM_KEYPOINTS, 2) or not np.isfinite(points).all() or np.ptp(points, axis=0).min() <= 0:
        what = "with values that are not finite" if points.size and not np.isfinite(points).all() else "of one face"
        raise ValueError(f"got keypoints of shape {points.shape} {what}, expected (68, 2), finite, not in one place")
    if np.linalg.norm(points[EYE_CORNERS[0]] - points[EYE_CORNERS[1]]) <= 0:
        raise ValueError("got both outer eye corners in one place, expected them apart")
    return points


@dataclass(frozen=True, eq=False)
class Actions:
    """What :mod:`training.expression` has learned of movements; F features, H hidden units, A actions.

    Attributes:
        hidden_weights, hidden_bias, weights, bias: (F, H), (H,), (H, A), (A,), two layers: features → how strong each
            of ACTIONS is, about 0..1.
        movement: (A, F), how an action of strength 1 moves the features.
        usual: (A,), the strengths in the mean over the seven expressions.
        effects: (A, 7), by how much the network's logits rise with a strength, by ridge regression.
        neutral_weights, neutral_bias: (F, 7), (7,): what is added to the network's logits where the person's neutral
            face is known, of the features' differences from it.
    """

    hidden_weights: np.ndarray
    hidden_bias: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    movement: np.ndarray
    usual: np.ndarray
    effects: np.ndarray
    neutral_weights: np.ndarray
    neutral_bias: np.ndarray

    def strengths(self, values: np.ndarray) -> np.ndarray:
        """Features (…, F) → (…, A), about 0..1, not clipped."""
        return np.tanh(values @ self.hidden_weights + self.hidden_bias) @ self.weights + self.bias


@cache
def load_actions(path: str | Path = ACTIONS_MODEL) -> Actions:
    """Read the file that :mod:`training.expression` writes: arrays alone, no pickle."""
    with np.load(path, allow_pickle=False) as data:
        return Actions(**{name: data[name].astype(np.float64) for name in data.files})


@dataclass(frozen=True, eq=False)
class Reason:
    """A movement that goes with an expression, or does not.

    Attributes:
        action: a word of :data:`ACTIONS`.
        strength: how strong it is beside what is usual; less than 0 is weaker.
        effect: what it adds to the logarithm of the odds of the expression against the other six (their mean), were
            the network linear in the strengths.
        movement: (68, 2), how it moves the points of a frontal face, outer-eye distances.
    """

    action: str
    strength: float
    effect: float
    movement: np.ndarray

    def __str__(self) -> str:
        contrary = "" if self.strength >= 0 else "not "
        return f"{contrary}{self.action}: {'for' if self.effect >= 0 else 'against'} it ({self.effect:+.1f})"


@dataclass(frozen=True, eq=False)
class Emotion:
    """The expression of one face.

    Attributes:
        logits: (7,) float64, logarithms of the probabilities, but for a constant.
        threshold: from which probability on the most probable word is said.
        features: (68,) distances between the keypoints, see :func:`features`.
        said: the word that is kept while it is probable enough, see :class:`ExpressionSmoother`.
    """

    logits: np.ndarray
    threshold: float
    features: np.ndarray
    said: str | None = None

    @cached_property
    def probabilities(self) -> dict[str, float]:
        """Word → number, for each of :data:`EXPRESSIONS`; they sum to 1."""
        odds = np.exp(self.logits - self.logits.max())
        return dict(zip(EXPRESSIONS, (odds / odds.sum()).tolist(), strict=True))

    @property
    def likeliest(self) -> str:
        """The most probable of :data:`EXPRESSIONS`, however unsure."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def probability(self) -> float:
        """Of the label, and where that is "unsure" of the likeliest word."""
        return self.probabilities.get(self.label, self.probabilities[self.likeliest])

    @property
    def label(self) -> str:
        """The likeliest word, or "unsure" where it is less probable than the threshold."""
        if self.said in self.probabilities and self.probabilities[self.said] >= min(KEPT, self.threshold):
            return self.said
        return self.likeliest if self.probabilities[self.likeliest] >= self.threshold else UNSURE

    def with_neutral(self, *neutral: Emotion) -> Emotion:
        """This expression, judged against the same person's neutral face, of which one picture or several are known.

        Raises:
            ValueError: none was given.
        """
        if not neutral:
            raise ValueError("got no neutral face, expected the emotion of at least one")
        model, own = load_actions(), np.mean([face.features for face in neutral], axis=0)
        return replace(self, logits=self.logits + (self.features - own) @ model.neutral_weights + model.neutral_bias)

    @cached_property
    def _strengths(self) -> np.ndarray:
        return load_actions().strengths(self.features)

    @cached_property
    def actions(self) -> dict[str, float]:
        """How strong each of :data:`ACTIONS` is, 0 (not there) to about 1, by the keypoints."""
        return dict(zip(ACTIONS, np.clip(self._strengths, 0, None).tolist(), strict=True))

    @cached_property
    def reasons(self) -> list[Reason]:
        """The movements that go with the likeliest word, the one that speaks most for it first.

        The network sees the face and not these movements; they are what it usually answers to in this way.
        """
        model, chosen = load_actions(), EXPRESSIONS.index(self.likeliest)
        beside = self._strengths - model.usual
        effects = beside * (model.effects[:, chosen] - np.delete(model.effects, chosen, axis=1).mean(axis=1))
        moved = self._strengths[:, None] * model.movement
        return [
            Reason(action, float(beside[i]), float(effects[i]), feature_movement(moved[i]))
            for i, action in sorted(enumerate(ACTIONS), key=lambda entry: -effects[entry[0]])
        ]


class ExpressionClassifier:
    """Reads the expression of a face; see the limits at the top of this module. Several threads may share one.

    Args:
        model: the ONNX file of :mod:`training.expression`.
        threshold: under this probability the label is "unsure", 0..1.
        threads: of onnxruntime.
    """

    def __init__(self, model: str | Path = EXPRESSION_MODEL, threshold: float = THRESHOLD, threads: int = 1) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"got a threshold of {threshold}, expected one in 0..1")
        self.threshold, self._session = threshold, open_session(model, threads)
        about = read_metadata(self._session, Path(model))
        if about["network"] != "ExpressionNet":
            raise ValueError(f"{model}: expected an expression network exported by training.expression, got another")

    def __call__(self, crop: np.ndarray, keypoints: np.ndarray, pose: Pose | None = None) -> Emotion:
        """The expression of one face.

        Args:
            crop: (64, 64) uint8 grey, see :func:`expression_crop`; ``Face.crop``.
            keypoints: (68, 2) pixels, (x, y). pose: of this face, as ``Face.pose``; estimated where it is missing.

        Raises:
            ValueError: a crop or keypoints of another shape, or keypoints that are not finite or all in one place.
        """
        if crop.shape != (SIDE, SIDE) or crop.dtype != np.uint8:
            raise ValueError(f"got a crop of shape {crop.shape} and {crop.dtype}, expected ({SIDE}, {SIDE}) uint8")
        values = features(frontal_face(keypoints, pose))
        inputs = {"crop": crop[None, None].astype(np.float32) / 255, "features": values[None].astype(np.float32)}
        [logits] = self._session.run(None, inputs)
        return Emotion(logits[0].astype(np.float64), self.threshold, values)


@cache
def default_classifier() -> ExpressionClassifier:
    """The classifier of the shipped weights, loaded once."""
    return ExpressionClassifier()


class ExpressionSmoother:
    """Smooths the expression of one person over the frames of a video: an exponential average in real time.

    The logarithms of the probabilities are averaged, so that a frame that is sure counts more than one that is not. A
    word that was said is kept until it is improbable. A new person needs a new smoother.

    Args:
        seconds: the time constant: so much later an old frame counts 1/e as much.
    """

    def __init__(self, seconds: float = 0.8) -> None:
        if not (np.isfinite(seconds) and seconds > 0):
            raise ValueError(f"got a time constant of {seconds} seconds, expected a number above 0")
        self.seconds = seconds
        self._last: Emotion | None = None
        self._time = 0.0

    def __call__(self, emotion: Emotion, time: float) -> Emotion:
        """The same emotion with the smoothed probabilities.

        Args:
            time: of the frame, in seconds, from any start; frames may be missing.

        Raises:
            ValueError: a time before that of the last frame, or not finite.
        """
        last = self._last
        if not np.isfinite(time) or (last is not None and time < self._time):
            raise ValueError(f"got a frame at {time} s after one at {self._time} s, expected times that go forward")
        now = np.log(np.maximum(list(emotion.probabilities.values()), 1e-6))
        if last is not None:
            share = 1 - np.exp((self._time - time) / self.seconds)
            emotion = replace(emotion, logits=last.logits + share * (now - last.logits), said=last.label)
        else:
            emotion = replace(emotion, logits=now)
        self._last, self._time = emotion, time
        return emotion


RESTED, FORGOTTEN = 3.0, 30.0  # seconds of rest until it counts; the time constant of its average
CALM, FRONTAL = 0.3, 20.0  # the most that happiness and surprise together may have at rest; degrees of yaw


class Rest:
    """One person's face at rest, learned from the frames on which it is calm."""

    def __init__(self) -> None:
        self._mean: Emotion | None = None
        self._seconds, self._time = 0.0, 0.0

    def __call__(self, emotion: Emotion, yaw: float, time: float) -> Emotion:
        """The expression of the next frame, judged against the face at rest once that is known."""
        away, self._time = min(max(0.0, time - self._time), 0.2), time  # a face that was away did not rest meanwhile
        lively = emotion.probabilities["happiness"] + emotion.probabilities["surprise"]
        if lively < CALM and abs(yaw) < FRONTAL:
            mean = emotion.features if self._mean is None else self._mean.features
            self._seconds += away
            share = away / min(FORGOTTEN, self._seconds) if self._seconds else 0.0  # at first the mean of all so far
            self._mean = replace(emotion, features=mean + share * (emotion.features - mean))
        if self._mean is None or self._seconds < RESTED:
            return emotion
        return emotion.with_neutral(self._mean)


class Expressions:
    """The expressions of tracked faces, each smoothed over its own time and judged against the face's own rest.

    Somebody whose brows lie low looks angry at rest. What a face usually looks like while it is calm and seen from
    the front is therefore learned, and counts as its neutral face after :data:`RESTED` seconds.

    >>> from keypoints.tracking import FaceTracker
    >>> [face] = FaceTracker()("data/photos/grace_hopper.jpg")
    >>> sorted(Expressions()([face])) == [face.id]
    True
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[ExpressionSmoother, Rest]] = {}

    def __call__(self, faces: Sequence[TrackedFace]) -> dict[int, Emotion | None]:
        """Of the next frame's faces: id → expression, of a lost face None."""
        self._known = {face.id: self._known.get(face.id) or (ExpressionSmoother(), Rest()) for face in faces}
        result: dict[int, Emotion | None] = {}
        for face in faces:
            smoother, rest = self._known[face.id]
            seen = face.crop is not None and not face.crop.free
            result[face.id] = smoother(rest(face.emotion, face.pose.yaw, face.time), face.time) if seen else None
        return result
