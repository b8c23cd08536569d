"""The expression of a face from its 68 keypoints: seven words, how probable each is, and which movements say so.

What it reads is the *posed* expression: where brows, lids and lips have moved. It does not see what somebody feels,
and it must not be used to judge people. It was learned from seventy-five people who were asked to make a face, five
women from Japan and seventy people from the United States, and from rendered heads. Faces at rest differ as much from
person to person as a slight expression differs from none: low brows are taken for anger, drooping corners for
sadness. With the person's own neutral face (``neutral=``) that is much better. Subtle expressions, fear, disgust with
a closed mouth, heads turned by more than some 30° and people unlike those it learned from are where it fails.

How: the pose (:mod:`keypoints.pose`) is undone, the eyes' corners and the nose are laid on those of the mean head, and
the left and right half are averaged. What remains are distances: from the line of the eyes and from the face's middle,
in outer-eye distances. One linear map turns them into the logarithms of the probabilities: the upper face (brows,
eyes) and the lower face (mouth, jaw) are learned apart and have the same say (a product of experts: Hinton, Training
products of experts, 2002, https://doi.org/10.1162/089976602760128018). With a neutral face, half of the say goes to
the differences from it. Since all is linear, a decision is a sum, and :attr:`Emotion.reasons` names its terms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from keypoints.files import asset
from keypoints.landmarks import EYE_CORNERS, FLIP_INDEX, NOSE, NUM_KEYPOINTS, REFERENCE_FACE
from keypoints.pose import Pose, estimate_pose

EXPRESSION_MODEL = asset("expressions.npz")
EXPRESSIONS = ("neutral", "happiness", "sadness", "surprise", "anger", "disgust", "fear")
UNSURE = "unsure"
THRESHOLD = 0.5  # less probable than all others together is not said
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
FEATURE_POINTS = np.concatenate([PAIRED, RIGHT_HALF])  # the point that a feature is of: first x of pairs, then y
NUM_FEATURES = len(FEATURE_POINTS)


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
    """Shift, turn and scale flat faces (…, 68, 2) such that :data:`ANCHORS` lie best on the mean head's."""
    plane, target = np.asarray(points, np.float64) @ (1, 1j), REFERENCE_FACE[ANCHORS, :2] @ (1, 1j)
    middle = plane[..., ANCHORS].mean(axis=-1, keepdims=True)
    held, wanted = plane[..., ANCHORS] - middle, target - target.mean()
    factor = (held.conj() * wanted).sum(axis=-1, keepdims=True) / (np.abs(held) ** 2).sum(axis=-1, keepdims=True)
    plane = factor * (plane - middle) + target.mean()
    return np.stack([plane.real, plane.imag], axis=-1)


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
class ExpressionModel:
    """What :mod:`training.expression` has learned; F features, 7 expressions, A actions.

    Attributes:
        weights, bias: (F, 7) and (7,): features → logarithms of the probabilities, but for a constant.
        neutral_weights, movement_weights, neutral_bias: (F, 7), (F, 7), (7,): the same with a known neutral face,
            for the features and for their differences from the neutral face's.
        mean: (F,) a mean neutral face.
        hidden_weights, hidden_bias, action_weights, action_bias: (F, H), (H,), (H, A), (A,), two layers: features →
            how strong each of ACTIONS is, 0..1.
        action_movement: (A, F), how an action of strength 1 moves the features.
    """

    weights: np.ndarray
    bias: np.ndarray
    neutral_weights: np.ndarray
    movement_weights: np.ndarray
    neutral_bias: np.ndarray
    mean: np.ndarray
    hidden_weights: np.ndarray
    hidden_bias: np.ndarray
    action_weights: np.ndarray
    action_bias: np.ndarray
    action_movement: np.ndarray

    def logits(self, values: np.ndarray, neutral: np.ndarray | None = None) -> np.ndarray:
        """Features (…, F), and those of neutral faces (…, F) where they are known → (…, 7)."""
        if neutral is None:
            return values @ self.weights + self.bias
        return values @ self.neutral_weights + (values - neutral) @ self.movement_weights + self.neutral_bias

    def probabilities(self, values: np.ndarray, neutral: np.ndarray | None = None) -> np.ndarray:
        """As :meth:`logits`, brought to probabilities that sum to 1."""
        logits = self.logits(values, neutral)
        odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return odds / odds.sum(axis=-1, keepdims=True)

    def actions(self, values: np.ndarray, neutral: np.ndarray | None = None) -> np.ndarray:
        """As :meth:`logits` → (…, A), the strength of each of :data:`ACTIONS`, about 0..1, not clipped."""
        own = values if neutral is None else values - neutral + self.mean  # as if the mean head moved so
        hidden = np.tanh(own @ self.hidden_weights + self.hidden_bias)
        return hidden @ self.action_weights + self.action_bias


@cache
def load_expression_model(path: str | Path = EXPRESSION_MODEL) -> ExpressionModel:
    """Read the file that :mod:`training.expression` writes: arrays alone, no pickle."""
    with np.load(path, allow_pickle=False) as data:
        return ExpressionModel(**{name: data[name].astype(np.float64) for name in data.files})


@dataclass(frozen=True, eq=False)
class Reason:
    """A movement that spoke for or against an expression.

    Attributes:
        action: a word of :data:`ACTIONS`.
        strength: how strong it is, about 0..1; less than 0 is its contrary.
        effect: what it adds to the logarithm of the odds of the expression against the other six (their mean).
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
        probabilities: word → number, for each of :data:`EXPRESSIONS`; they sum to 1.
        threshold: from which probability on the most probable word is said.
        features, neutral: (68,) what was measured, and the same of the neutral face where that is known.
        model: what it was judged with.
    """

    probabilities: dict[str, float]
    threshold: float
    features: np.ndarray
    neutral: np.ndarray | None
    model: ExpressionModel

    @property
    def likeliest(self) -> str:
        """The most probable of :data:`EXPRESSIONS`, however unsure."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def probability(self) -> float:
        """Of the likeliest word."""
        return max(self.probabilities.values())

    @property
    def label(self) -> str:
        """The likeliest word, or "unsure" where it is less probable than the threshold."""
        return self.likeliest if self.probability >= self.threshold else UNSURE

    @cached_property
    def actions(self) -> dict[str, float]:
        """How strong each of :data:`ACTIONS` is, 0 (not there) to about 1."""
        strengths = np.clip(self.model.actions(self.features, self.neutral), 0, None)
        return dict(zip(ACTIONS, strengths.tolist(), strict=True))

    @cached_property
    def reasons(self) -> list[Reason]:
        """What moved the decision for the likeliest word, the largest effect first.

        An effect is that of the movement alone: what the map makes of the points that this action moves, at the
        strength found. What no action explains (the shape of the face) is left out.
        """
        model, chosen = self.model, EXPRESSIONS.index(self.likeliest)
        weights = model.weights if self.neutral is None else model.neutral_weights + model.movement_weights
        against = np.delete(weights, chosen, axis=1).mean(axis=1)
        strengths = model.actions(self.features, self.neutral)
        moved = strengths[:, None] * model.action_movement
        effects = moved @ (weights[:, chosen] - against)
        return [
            Reason(action, float(strengths[i]), float(effects[i]), feature_movement(moved[i]))
            for i, action in sorted(enumerate(ACTIONS), key=lambda entry: -abs(effects[entry[0]]))
        ]


class ExpressionClassifier:
    """Reads the posed expression of a face from its keypoints; see the limits at the top of this module.

    Args:
        model: the file of :mod:`training.expression`, or what it holds.
        threshold: under this probability the label is "unsure", 0..1.

    >>> emotion = ExpressionClassifier()(80 * REFERENCE_FACE[:, :2] + 200)
    >>> emotion.label, round(sum(emotion.probabilities.values()), 6)
    ('neutral', 1.0)
    """

    def __init__(self, model: str | Path | ExpressionModel = EXPRESSION_MODEL, threshold: float = THRESHOLD) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"got a threshold of {threshold}, expected one in 0..1")
        self.model = model if isinstance(model, ExpressionModel) else load_expression_model(model)
        self.threshold = threshold

    def __call__(self, keypoints: np.ndarray, pose: Pose | None = None, neutral: np.ndarray | None = None) -> Emotion:
        """The expression of one face.

        Args:
            keypoints: (68, 2) pixels, (x, y).
            pose: of this face, as ``Face.pose``; estimated where it is missing.
            neutral: (68, 2), or (N, 68, 2) for several: keypoints of the same person with a neutral face, any pose.

        Raises:
            ValueError: keypoints of another shape, not finite or all in one place.
        """
        values = features(frontal_face(keypoints, pose))
        rest = None if neutral is None else self.neutral(neutral)
        found = self.model.probabilities(values, rest).tolist()
        return Emotion(dict(zip(EXPRESSIONS, found, strict=True)), self.threshold, values, rest, self.model)

    @staticmethod
    def neutral(keypoints: np.ndarray) -> np.ndarray:
        """The mean features (68,) of neutral faces (68, 2) or (N, 68, 2)."""
        faces = np.asarray(keypoints, np.float64)
        faces = faces[None] if faces.ndim == 2 else faces
        if faces.ndim != 3 or not len(faces):
            raise ValueError(f"got neutral keypoints of shape {faces.shape}, expected (68, 2) or (N, 68, 2), N > 0")
        return np.mean([features(frontal_face(face)) for face in faces], axis=0)


class ExpressionSmoother:
    """Smooths the expression of one person over the frames of a video: an exponential average in real time.

    The logarithms of the probabilities are averaged, so that a frame that is sure counts more than one that is not. A
    new person needs a new smoother.

    Args:
        seconds: the time constant: so much later an old frame counts 1/e as much.
    """

    def __init__(self, seconds: float = 0.3) -> None:
        if not (np.isfinite(seconds) and seconds > 0):
            raise ValueError(f"got a time constant of {seconds} seconds, expected a number above 0")
        self.seconds = seconds
        self._logs: np.ndarray | None = None
        self._time = 0.0

    def __call__(self, emotion: Emotion, time: float) -> Emotion:
        """The same emotion with the smoothed probabilities.

        Args:
            time: of the frame, in seconds, from any start; frames may be missing.

        Raises:
            ValueError: a time before that of the last frame, or not finite.
        """
        logs = np.log(np.maximum(list(emotion.probabilities.values()), 1e-6))
        if not np.isfinite(time) or (self._logs is not None and time < self._time):
            raise ValueError(f"got a frame at {time} s after one at {self._time} s, expected times that go forward")
        if self._logs is None:
            self._logs = logs
        else:
            share = 1 - np.exp((self._time - time) / self.seconds)
            self._logs = self._logs + share * (logs - self._logs)
        self._time = time
        odds = np.exp(self._logs - self._logs.max())
        smoothed = (odds / odds.sum()).tolist()
        return replace(emotion, probabilities=dict(zip(EXPRESSIONS, smoothed, strict=True)))
