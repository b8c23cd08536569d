"""From an image to its faces and their keypoints: detector → boxes → network → keypoints in the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from keypoints.detectors import HaarDetector, NetworkDetector, haar_boxes
from keypoints.expression import Emotion, default_classifier, expression_crop
from keypoints.files import asset
from keypoints.geometry import BOX, five_points, with_roll
from keypoints.images import as_rgb
from keypoints.landmarks import NUM_KEYPOINTS
from keypoints.network import Crop, CropNetwork, Prediction, StagedNetwork, TorchNetwork, load_network
from keypoints.pose import Pose, estimate_pose, pose_model_of_predictions
from keypoints.signals import eye_openings

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Face:
    """One face. Two faces are equal only where they are the same object, so that lists and sets may hold them.

    Attributes:
        box: (4,) float32, pixels: left, top, width, height, as the Haar cascade frames a face.
        keypoints: (68, 2) float32, pixels of the image, (x, y).
        image_size: width and height of the image, for the pose; without them the face counts as a cut-out.
        confidence: (68,) float32 in [0, 1]: how probable it is that a point's error is under 5 % of the face's size;
            None where the network does not tell.
        score: how sure it is that this is a face, in [0, 1]; None where the network does not tell.
        roll: degrees by which the box is turned clockwise about its middle; 0 below 20 degrees.
        crop: the face as the network saw it, from which the expression is read; None where there is no image of it.
    """

    box: np.ndarray
    keypoints: np.ndarray
    image_size: tuple[int, int] | None = None
    confidence: np.ndarray | None = None
    score: float | None = None
    roll: float = 0.0
    crop: Crop | None = None

    @cached_property
    def pose(self) -> Pose:
        """How the head is turned and where it is: ``.yaw``, ``.pitch``, ``.roll`` in degrees, and more."""
        size = self.image_size or tuple(self.box[:2] + self.box[2:])
        predicted = self.crop is not None and not self.crop.free
        return estimate_pose(self.keypoints, size, pose_model_of_predictions() if predicted else None)

    @cached_property
    def emotion(self) -> Emotion:
        """The expression: ``.label``, one of seven words or "unsure", ``.probabilities``, and ``.reasons``.

        No judgement of what somebody feels; :mod:`keypoints.expression` tells its limits.

        Raises:
            ValueError: the face has no crop, or is one of model="free".
        """
        crop = self._checked_crop()
        if crop.free:
            raise ValueError("got a face of model='free', expected one of weights that read expressions")
        return default_classifier()(expression_crop(crop.image, crop.keypoints), self.keypoints)  # posed as in training

    @cached_property
    def eye_openings(self) -> np.ndarray:
        """How far the lids of the right and of the left eye are apart, over the eye's width: (2,) float32.

        About 0.3 of an open eye, 0.12 and less of a closed one; see :func:`keypoints.signals.eye_openings`.

        Raises:
            ValueError: the face has no crop.
        """
        return eye_openings(self._checked_crop())

    def _checked_crop(self) -> Crop:
        if self.crop is None:
            raise ValueError("got a face without a crop, expected one of a KeypointDetector")
        return self.crop

    def to_dict(self) -> dict[str, Any]:
        """The face as plain numbers, lists, words and None, for JSON.

        Returns:
            ``box`` (4 numbers), ``box_roll``, ``keypoints`` (68 pairs), ``image_size`` (width and height or None),
            ``confidence`` (68 numbers or None), ``score`` (a number or None), ``yaw``, ``pitch`` and ``roll`` of the
            head in degrees, ``emotion``, ``emotion_probability``, ``emotion_probabilities`` (a dict of the seven words)
            and ``eye_openings`` (2 numbers). The four are None where there is no crop, and the first three with
            model="free". Of a :class:`~keypoints.tracking.TrackedFace` its own fields, too.
        """
        plain = {field.name: _plain(getattr(self, field.name)) for field in fields(self) if field.name != "crop"}
        plain["box_roll"] = plain.pop("roll")  # in every output "roll" is the head's
        angles = {name: float(getattr(self.pose, name)) for name in ("yaw", "pitch", "roll")}
        read: dict[str, Any] = dict.fromkeys(
            ("emotion", "emotion_probability", "emotion_probabilities", "eye_openings")
        )
        if self.crop is not None:
            read["eye_openings"] = _plain(self.eye_openings)
            if not self.crop.free:
                found = self.emotion
                read |= dict(zip(read, (found.label, found.probability, found.probabilities), strict=False))
        return {**plain, **angles, **read}


def _plain(value: Any) -> Any:
    """An array as a list, float32 by its shortest digits, and a NumPy number as Python's; anything else stays."""
    if isinstance(value, np.ndarray):
        return [_plain(part) for part in value]
    if isinstance(value, np.floating):
        return float(str(value))
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value


DETECTORS: dict[str, Callable[..., Callable]] = {
    "network": NetworkDetector,
    "fast": partial(NetworkDetector, effort="fast"),
    "haar": HaarDetector,
}
FREE = "free"  # names the weights that anyone may use: of keypoints and of the detector
FREE_FILES = "keypoints_free.onnx", "detector_free.onnx"
NO_PREDICTION = Prediction(np.zeros((0, NUM_KEYPOINTS, 2), np.float32), [], [], [])


class KeypointDetector:
    """Finds each face in an image and its 68 keypoints. Several threads may share one.

    Args:
        model: the stem of a network's ONNX files or one of them (see :func:`keypoints.network.load_network`), or a
            PyTorch network with a ``framing``; by default the network for photographs. "free": detector and keypoint
            network that are trained on rendered heads and photographs under CC BY alone, for any purpose, as is then
            that of the eyes; less exact, and their faces have no expression.
        detect: "network"; "fast", the same network on a small image, a tenth of the time for faces from a fifteenth of
            its longer side on; "haar"; or a function that takes an (H, W, 3) uint8 RGB image and returns (N, 4) boxes
            left, top, width, height as the Haar cascade gives them, or (N, 5) with the roll; see
            :mod:`keypoints.detectors`.
        device: where a PyTorch network runs; ONNX files run on the CPU.
        min_score: faces with a lower score are dropped, in [0, 1]; a network that gives no scores drops none.
        threads: of onnxruntime.

    >>> faces = KeypointDetector()("data/photos/grace_hopper.jpg")
    >>> len(faces), faces[0].keypoints.shape
    (1, (68, 2))
    """

    def __init__(
        self,
        model: str | Path | Any = None,
        detect: str | Callable[[np.ndarray], np.ndarray] = "network",
        device: str = "cpu",
        min_score: float = 0.5,
        threads: int = 1,
    ) -> None:
        self.network: CropNetwork | StagedNetwork | TorchNetwork
        free = isinstance(model, (str, Path)) and str(model) == FREE
        if model is None or isinstance(model, (str, Path)):
            own = asset(FREE_FILES[0] if free else "keypoints_model_2.onnx")
            self.network = load_network(own if model is None or free else model, threads)
            if isinstance(self.network, CropNetwork):
                self.network.free = free
        else:
            self.network = TorchNetwork(model, device)
        self.framing, self.caution = self.network.framing, FREE_CAUTION if free else 0.0
        self._settled = settled_score(self.caution)
        self.detect: Callable[[np.ndarray], np.ndarray]
        if isinstance(detect, str):
            if detect not in DETECTORS:
                raise ValueError(f"got the detector {detect!r}, expected one of {', '.join(map(repr, DETECTORS))}")
            weights: dict[str, Any] = {"model": asset(FREE_FILES[1]) if free else None, "threads": threads}
            self.detect = DETECTORS[detect](**(weights if detect in ("network", "fast") else {}))
        else:
            self.detect = detect
        self.min_score = min_score

    @overload
    def __call__(self, image: np.ndarray | Image | str | Path) -> list[Face]: ...

    @overload
    def __call__(self, image: list | tuple) -> list[list[Face]]: ...

    def __call__(self, image):
        """Find the faces of an image, each once, largest first; no face is an empty list.

        Where :class:`NetworkDetector` finds no certain face, the image is searched turned by 90 and 180 degrees, too.

        Args:
            image: a file's path; a PIL image; an array, (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA, uint8 or float in
                [0, 1]; see :func:`keypoints.images.as_rgb`. Or a list of these.

        Returns:
            the faces; for a list of images a list of such lists, in the same order.

        Raises:
            OSError: a file is missing or can't be read.
            ValueError: a file is no image, or an image is of another kind.
        """
        if isinstance(image, (list, tuple)):
            return [self(one) for one in image]
        image = as_rgb(image)
        faces = self.faces(image, candidates(self.detect, image))
        thorough = isinstance(self.detect, NetworkDetector) and self.detect.effort == "full"
        if thorough and best_score(faces) < self._settled:
            # An image lies one way: what another way shows must be more certain, and then counts alone.
            for roll in (90, -90, 180):
                found, enough = candidates(self.detect, image, roll), max(self._settled, best_score(faces))
                if attainable_score(found, self.caution) > enough:
                    turned = self.faces(image, found)
                    faces = turned if best_score(turned) > enough else faces
        return faces

    def faces(self, image: np.ndarray, found: Candidates) -> list[Face]:
        """The faces among what a detector found, each once, largest first.

        Args:
            image: (H, W, 3) uint8 RGB.
        """
        boxes, size = found.boxes, (image.shape[1], image.shape[0])
        points, confidence, scores, crops = self._locate(image, boxes, found.points)
        if found.points is not None:  # which may lie wrong, where the keypoints do not
            boxes = haar_boxes(five_points(points))
        if found.scores is not None:
            scores = joint_scores(scores, found.scores, self.caution)
        order = np.argsort(-boxes[:, 2] * boxes[:, 3], kind="stable")
        faces = [
            Face(boxes[i, :BOX], points[i], size, confidence[i], scores[i], float(boxes[i, BOX]), crops[i])
            for i in order
        ]
        return distinct([face for face in faces if face.score is None or face.score >= self.min_score])

    def keypoints(self, image: np.ndarray | Image | str | Path, boxes: np.ndarray) -> np.ndarray:
        """The keypoints of faces whose boxes are known; none is dropped.

        Args:
            boxes: (N, 4) left, top, width, height as the detector gives them, or (N, 5) with the roll in degrees;
                :meth:`boxes` makes such boxes of known points.

        Returns:
            (N, 68, 2) float32, pixels of the image.

        Raises:
            ValueError: a box holds NaN, has no extent, lies outside the image or is absurdly large.
        """
        return self._locate(as_rgb(image), with_roll(boxes)).keypoints

    def boxes(self, keypoints: np.ndarray) -> np.ndarray:
        """(N, 68, 2) keypoints, or (68, 2) → (N, 4) float32 boxes as the detector would typically give them."""
        return self.framing.boxes(keypoints)

    def _locate(self, image: np.ndarray, boxes: np.ndarray, five: np.ndarray | None = None) -> Prediction:
        if not np.isfinite(boxes).all() or (boxes[:, 2:BOX] <= 0).any():
            raise ValueError(f"got face boxes {boxes.tolist()}, expected finite numbers with width and height above 0")
        return self.network.locate([image] * len(boxes), boxes, five) if len(boxes) else NO_PREDICTION


def best_score(faces: Sequence[Face]) -> float:
    """The highest score of faces; 0 where there are none."""
    return max((face.score or 0.0 for face in faces), default=0.0)


@dataclass(frozen=True)
class Candidates:
    """What a detector takes for faces.

    Attributes:
        boxes: (N, 5) float32: left, top, width, height, roll, as the Haar cascade frames faces.
        scores: (N,) in [0, 1]; None of a detector that gives none.
        points: (N, 5, 2) pixels, the five points; None likewise.
    """

    boxes: np.ndarray
    scores: np.ndarray | None = None
    points: np.ndarray | None = None

    def take(self, chosen: np.ndarray) -> Candidates:
        """Those of the indices ``chosen``."""
        scores, points = (None if part is None else part[chosen] for part in (self.scores, self.points))
        return Candidates(self.boxes[chosen], scores, points)


def candidates(detect: Callable[[np.ndarray], np.ndarray], image: np.ndarray, roll: int = 0) -> Candidates:
    """What a detector finds in an image; ``roll`` as :meth:`keypoints.detectors.NetworkDetector.find` takes it."""
    if not isinstance(detect, NetworkDetector):
        return Candidates(with_roll(detect(image)))
    found = detect.find(image, roll)
    return Candidates(found.haar_boxes(), found.scores, found.points)


BEST_DETECTION = 0.85  # the detector's score is an expected IoU and reaches no more
# Weights of the keypoint network's and of the detector's log-odds, and the bias; `python -m training.studies.detector
# joint` fits them on the photographs of WIDER FACE and of people in the wild that are kept for validation.
JOINT = 0.274, 0.887, 0.579
FREE_CAUTION = 0.7  # log-odds off it with the free weights, which take more things for faces
ALONE = 0.118  # log-odds from which a detection counts that no other score confirms


def score_features(scores: Sequence | np.ndarray, detected: np.ndarray) -> np.ndarray:
    """(N, 2): log-odds of the keypoint network's scores and of the detector's."""
    probability = np.column_stack([np.asarray(scores, np.float64), np.asarray(detected, np.float64) / BEST_DETECTION])
    probability = np.clip(probability, 1e-4, 1 - 1e-4)
    return np.log(probability / (1 - probability))


def joint_scores(scores: Sequence | np.ndarray, detected: np.ndarray, caution: float = 0.0) -> list[float]:
    """Scores of faces of the keypoint network's, where it has any, and the detector's: N numbers in [0, 1].

    Args:
        caution: log-odds that are taken off.
    """
    if not len(scores) or scores[0] is None:
        return _sigmoid(score_features(detected, detected)[:, 1] - ALONE).tolist()
    return _sigmoid(score_features(scores, detected) @ JOINT[:2] + JOINT[2] - caution).tolist()


def attainable_score(found: Candidates, caution: float = 0.0) -> float:
    """The best score that a candidate could get, if the keypoint network were certain of it; 0 where there are none."""
    detected = np.zeros(0) if found.scores is None else found.scores
    return max(joint_scores(np.ones(len(detected)), detected, caution), default=0.0)


def settled_score(caution: float = 0.0) -> float:
    """The score from which on a face is certain: SETTLED, less the caution's log-odds."""
    return float(_sigmoid(np.log(SETTLED / (1 - SETTLED)) - caution))


def _sigmoid(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-value))


SAME_FACE = 0.35  # face sizes: keypoints whose centroids are nearer are of one face
WITHIN = 0.5  # part of the smaller keypoints' box that lies in the other one, from which both are one face
SETTLED = 0.99  # scores above are equal: the larger face is kept


def distinct(faces: Sequence[Face]) -> list[Face]:
    """Each face once: of those whose keypoints lie on one another the one of the best score, else the first."""
    points = np.array([face.keypoints for face in faces], np.float64).reshape(-1, NUM_KEYPOINTS, 2)
    low, high, centroid = points.min(axis=1), points.max(axis=1), points.mean(axis=1)
    size = np.sqrt((high - low).prod(axis=1))
    kept: list[int] = []
    for i in sorted(range(len(faces)), key=lambda i: -min(faces[i].score or 0, SETTLED)):
        smaller = np.minimum(size[i], size[kept])
        near = np.linalg.norm(centroid[i] - centroid[kept], axis=1) < SAME_FACE * smaller
        shared = np.clip(np.minimum(high[i], high[kept]) - np.maximum(low[i], low[kept]), 0, None).prod(axis=1)
        if not (near | (shared > WITHIN * smaller**2)).any():
            kept.append(i)
    return [faces[i] for i in sorted(kept)]
