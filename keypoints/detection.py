"""From an image to its faces and their keypoints: Haar box → framing → network → keypoints in the image."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, overload

import cv2
import numpy as np
import torch
from PIL.Image import Image
from torch import nn

from data_load import IMAGE_SIZE, NUM_KEYPOINTS
from keypoints.detectors import BOX, FaceFinder, HaarDetector, overlap, upright
from keypoints.expression import Emotion, ExpressionClassifier
from keypoints.images import as_rgb
from keypoints.landmarks import face_size
from keypoints.network import describe, predict
from keypoints.pose import Pose, estimate_pose
from keypoints.weights import DEFAULT_MODEL, load_model
from models import made_fast, made_for_bfloat16


@dataclass(frozen=True, eq=False)
class Face:
    """One face. Two faces are equal only where they are the same object, so that lists and sets may hold them.

    Attributes:
        box: (4,) float32, pixels: left, top, width, height, as the detector gave it.
        keypoints: (68, 2) float32, pixels of the image, (x, y).
        image_size: width and height of the image, for the pose; without them the face counts as a cut-out.
        confidence: (68,) float32 in [0, 1]: how probable it is that a point's error is under 5 % of the face's size;
            None where the network does not tell.
        score: how sure it is that this is a face, in [0, 1]; None where the network does not tell.
        roll: degrees by which the box is turned clockwise about its middle, as the detector gave it.
    """

    box: np.ndarray
    keypoints: np.ndarray
    image_size: tuple[int, int] | None = None
    confidence: np.ndarray | None = None
    score: float | None = None
    roll: float = 0.0

    @cached_property
    def pose(self) -> Pose:
        """How the head is turned and where it is: ``.yaw``, ``.pitch``, ``.roll`` in degrees, and more."""
        size = self.image_size or tuple(self.box[:2] + self.box[2:])
        return estimate_pose(self.keypoints, size, self.confidence)

    @cached_property
    def emotion(self) -> Emotion:
        """The posed expression: ``.label``, one of seven words or "unsure", ``.probabilities``, and ``.reasons``.

        Geometry alone, and no judgement of what somebody feels; :mod:`keypoints.expression` tells its limits, and reads
        a face better whose neutral one is known.
        """
        return ExpressionClassifier()(self.keypoints, self.pose)

    def to_dict(self) -> dict[str, Any]:
        """The face as plain numbers, lists, words and None, for JSON.

        Returns:
            ``box`` (4 numbers), ``box_roll``, ``keypoints`` (68 pairs), ``image_size`` (width and height or None),
            ``confidence`` (68 numbers or None), ``score`` (a number or None), ``yaw``, ``pitch`` and ``roll`` of the
            head in degrees, ``emotion`` and ``emotion_probability``; of a :class:`~keypoints.tracking.TrackedFace` its
            own fields, too.
        """
        plain = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        plain["box_roll"] = plain.pop("roll")  # in every output "roll" is the head's
        angles = {name: float(getattr(self.pose, name)) for name in ("yaw", "pitch", "roll")}
        emotion = {"emotion": self.emotion.label, "emotion_probability": float(self.emotion.probability)}
        return {**plain, **angles, **emotion}


def _plain(value: Any) -> Any:
    """An array as a list, float32 by its shortest digits, and a NumPy number as Python's; anything else stays."""
    if isinstance(value, np.ndarray):
        return [_plain(part) for part in value]
    if isinstance(value, np.floating):
        return float(str(value))
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True)
class Framing:
    """Where the network's view of a face lies, seen from its Haar box, and the box seen from the keypoints.

    The network must see a face framed as in training. The raw Haar box ends close to the chin, so the view
    is larger and lower.
    All lengths are in sides of the Haar box except ``box_*``, in sizes of the keypoints' box (square root of its area).
    Medians over training images; :func:`measure_framing` finds them, the weights' file carries them.
    """

    scale: float  # side of the view
    dx: float  # centre of the view, to the right of the Haar box's
    dy: float  # … and below it
    box_scale: float  # side of the Haar box
    box_dx: float  # centre of the Haar box, to the right of the keypoints' box's
    box_dy: float  # … and below it (negative: above)

    def views(self, boxes: np.ndarray) -> np.ndarray:
        """The squares that the network sees, which may leave the image.

        Args:
            boxes: (N, 4) left, top, width, height as the Haar cascade gives them, or (N, 5) with the roll in degrees.

        Returns:
            (N, 4) float64: left, top and side of the square as if it stood upright, and the roll by which it is turned
            clockwise about its middle, so that the face stands upright in it.
        """
        boxes = upright(boxes).astype(np.float64)
        haar, roll = np.sqrt(boxes[:, 2] * boxes[:, 3]), np.radians(boxes[:, BOX])
        side = self.scale * haar
        # "Below" is where the chin is.
        x = boxes[:, 0] + boxes[:, 2] / 2 + haar * (self.dx * np.cos(roll) - self.dy * np.sin(roll))
        y = boxes[:, 1] + boxes[:, 3] / 2 + haar * (self.dx * np.sin(roll) + self.dy * np.cos(roll))
        return np.stack([x - side / 2, y - side / 2, side, boxes[:, BOX]], axis=1)

    def boxes(self, keypoints: np.ndarray) -> np.ndarray:
        """(N, 68, 2) keypoints, or (68, 2) → (N, 4) float32: the boxes that the Haar cascade would typically give."""
        keypoints = np.asarray(keypoints, np.float64).reshape(-1, NUM_KEYPOINTS, 2)
        size = face_size(keypoints)
        middle = (keypoints.min(axis=1) + keypoints.max(axis=1)) / 2 + 0.5  # a box's edges lie between pixels
        middle += np.stack([self.box_dx * size, self.box_dy * size], axis=1)
        side = self.box_scale * size
        return np.column_stack([middle - side[:, None] / 2, side, side]).astype(np.float32)


def measure_framing(
    samples: Sequence[dict], detect: Callable[[np.ndarray], np.ndarray] | None = None, limit: int = 500
) -> Framing:
    """Find the framing that shows the network faces as its training images did.

    Args:
        samples: the training set without transforms. Training sees 224 of each image's shorter side of 250 pixels, on
            average the middle ones.
        detect: a detector as :mod:`keypoints.detectors` describes it, by default :class:`HaarDetector`. A roll that
            its boxes have is left out: training images show faces upright.
        limit: how many to look at, evenly spread; a median needs no more.

    Raises:
        ValueError: the detector finds a face in none of them.
    """
    detect, rows = detect or HaarDetector(), []
    for i in range(0, len(samples), max(1, len(samples) // limit)):
        sample = samples[i]
        image, keypoints = sample["image"], sample["keypoints"]
        boxes = upright(detect(image))
        chosen = face_at(boxes, keypoints)
        if chosen is None:
            continue
        left, top, width, height = boxes[chosen, :BOX].astype(np.float64)
        haar, size = np.sqrt(width * height), face_size(keypoints)
        x, y = left + width / 2, top + height / 2
        middle = (keypoints.min(axis=0) + keypoints.max(axis=0)) / 2 + 0.5
        rows.append(
            (
                (IMAGE_SIZE / 250) * min(image.shape[:2]) / haar,
                (image.shape[1] / 2 - x) / haar,
                (image.shape[0] / 2 - y) / haar,
                haar / size,
                (x - middle[0]) / size,
                (y - middle[1]) / size,
            )
        )
    if not rows:
        raise ValueError("got no image in which the detector finds the face, expected at least one")
    return Framing(*(round(float(value), 4) for value in np.median(rows, axis=0)))


def face_at(boxes: np.ndarray, keypoints: np.ndarray) -> int | None:
    """Which of (N, 4) boxes left, top, width, height, or (N, 5) with the roll, holds the keypoints' centroid.

    Returns:
        the index of the box whose middle is nearest; None where none holds it.
    """
    boxes, centroid = upright(boxes).astype(np.float64), np.asarray(keypoints).mean(axis=0)
    roll, offset = np.radians(boxes[:, BOX]), centroid - boxes[:, :2] - boxes[:, 2:BOX] / 2
    along = np.stack([np.cos(roll), np.sin(roll)], axis=1)  # the box's own axes: the first, and the other
    across = np.stack([-np.sin(roll), np.cos(roll)], axis=1)
    offset = np.abs(np.stack([(offset * along).sum(axis=1), (offset * across).sum(axis=1)], axis=1))
    inside = np.flatnonzero((offset <= boxes[:, 2:BOX] / 2).all(axis=1))
    return int(inside[np.linalg.norm(offset[inside], axis=1).argmin()]) if inside.size else None


LARGEST_VIEW = 16  # sides of the image: of a larger view it is a speck
WHOLE_VIEW = 2048  # pixels: up to this side a view that leaves the image is cut out as it is


def crop_view(image: np.ndarray, view: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut a square view out of an image and bring it to the network's size.

    Args:
        image: (H, W, 3) uint8 RGB, or (H, W) grey.
        view: left, top, side in pixels, and the roll in degrees where the square is turned clockwise about its middle;
            what lies outside the image repeats its border.

    Returns:
        crop: (224, 224) uint8 grey.
        cut: (4,) float64: left, top, side as cut (in whole pixels where it isn't turned) and roll;
            :func:`to_image` brings points of the crop back.

    Raises:
        ValueError: the view lies outside the image, or is more than 16 times as large.
    """
    height, width = image.shape[:2]
    view = np.asarray(view, np.float64)
    roll = float(view[3]) if len(view) > 3 else 0.0
    if not np.isfinite(view).all() or not 0 < view[2] <= LARGEST_VIEW * max(height, width):
        raise ValueError(
            f"got a face box whose view has a side of {view[2]:.6g} pixels, expected more than none and at most "
            f"{LARGEST_VIEW} times the longer side of the image of {width}×{height} pixels"
        )
    if roll:
        return _crop_turned(image, view[0], view[1], view[2], roll)
    side = max(1, round(float(view[2])))
    left, top = round(float(view[0])), round(float(view[1]))
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
    if x0 >= x1 or y0 >= y1:
        raise _outside(left, top, side, image)
    inside, margins = _grey(image[y0:y1, x0:x1]), np.array([y0 - top, top + side - y1, x0 - left, left + side - x1])
    if side > WHOLE_VIEW and margins.any():  # bounded memory, for a shift of less than a tenth of a pixel of the crop
        scale = WHOLE_VIEW / 2 / side
        small = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
        inside, margins = cv2.resize(inside, small, interpolation=cv2.INTER_AREA), (margins * scale).round().astype(int)
    crop = cv2.copyMakeBorder(inside, *(int(margin) for margin in margins), cv2.BORDER_REPLICATE)
    # As in data_load.Rescale: averaging when the view shrinks, so that a sharp photograph does not alias.
    crop = cv2.resize(
        crop, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_AREA if side > IMAGE_SIZE else cv2.INTER_LINEAR
    )
    return crop, np.array([left, top, side, 0], np.float64)


def _crop_turned(image: np.ndarray, left: float, top: float, side: float, roll: float) -> tuple[np.ndarray, np.ndarray]:
    cut = np.array([left, top, side, roll])
    # warpAffine asks where a pixel of the crop lies in the image: three points tell.
    there = to_image(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), cut)
    crop = cut_out(image, np.column_stack([there[1] - there[0], there[2] - there[0], there[0]]), IMAGE_SIZE)
    if crop is None:
        raise _outside(round(left), round(top), round(side), image)
    return crop, cut


def cut_out(image: np.ndarray, matrix: np.ndarray, side: int, finest: float = 1.0) -> np.ndarray | None:
    """Cut a square out of an image, turned and scaled in one go.

    Args:
        image: (H, W, 3) uint8 RGB, or (H, W) grey.
        matrix: (2, 3), a similarity: ``matrix @ (x, y, 1)`` is where the pixel (x, y) of the square lies in the image.
        side: of the square, pixels.
        finest: as many pixels of the image to one of the square, each way, are looked at one by one; where there are
            more, they are averaged first.

    Returns:
        (side, side) uint8 grey, which repeats the image's border outside it; None where it lies outside altogether.
    """
    height, width = image.shape[:2]
    # The part of the image that the square touches.
    corners = np.array([[-0.5, -0.5], [side - 0.5, -0.5], [-0.5, side - 0.5], [side - 0.5, side - 0.5]])
    corners = corners @ matrix[:, :2].T + matrix[:, 2] + 0.5
    x0, y0 = np.clip(np.floor(corners.min(axis=0)) - 2, 0, [width, height]).astype(int)
    x1, y1 = np.clip(np.ceil(corners.max(axis=0)) + 2, 0, [width, height]).astype(int)
    if x0 >= x1 or y0 >= y1:
        return None
    part, scale = _grey(image[y0:y1, x0:x1]), finest / np.hypot(*matrix[:, 0])
    matrix = np.array(matrix, np.float64)
    matrix[:, 2] -= x0, y0
    if scale < 1:
        size = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
        part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        shrunk = np.array([size[0] / (x1 - x0), size[1] / (y1 - y0)])
        matrix[:, 2] = (matrix[:, 2] + 0.5) * shrunk - 0.5
        matrix[:, :2] *= shrunk[:, None]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(part, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def to_image(points: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Bring points of crops back to the image.

    Args:
        points: (N, K, 2), or (K, 2), pixels of the 224×224 crops, (x, y).
        cuts: (N, 4), or (4,): what :func:`crop_view` returned.

    Returns:
        the points in pixels of the image, float64.
    """
    cuts = np.asarray(cuts, np.float64)[..., None, :]
    side, roll = cuts[..., 2:3], np.radians(cuts[..., 3])
    x, y = np.moveaxis((np.asarray(points, np.float64) + 0.5) * side / IMAGE_SIZE - side / 2, -1, 0)
    turned = np.stack([x * np.cos(roll) - y * np.sin(roll), x * np.sin(roll) + y * np.cos(roll)], axis=-1)
    return turned + side / 2 + cuts[..., :2] - 0.5


def _grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image


def _outside(left: int, top: int, side: int, image: np.ndarray) -> ValueError:
    return ValueError(
        f"got a face box whose view {left}, {top}, {side}×{side} lies outside the image of "
        f"{image.shape[1]}×{image.shape[0]} pixels"
    )


BATCH = 8  # images of a list that are held in memory, and whose faces go through the network together


class KeypointDetector:
    """Finds each face in an image and its 68 keypoints. Several threads may share one.

    Args:
        model: a weights file, or a network with a ``framing``.
        detect: takes an (H, W, 3) uint8 RGB image, returns (N, 4) boxes left, top, width, height as the Haar cascade
            gives them, or (N, 5) with the roll; see :mod:`keypoints.detectors`. By default :class:`FaceFinder`. All of
            its ``passes`` are pooled where the network gives scores, which tell faces from false alarms.
        device: where the network runs.
        min_score: faces with a lower score are dropped, in [0, 1]; a network that gives no scores drops none. What only
            the third and later searches of a detector find must have 0.95 as well.
        bfloat16: compute the convolutions with 16 bits, which moves points by some 0.1 pixels of 224; by default
            on a CPU that is made for it, where the network is a third faster. False gives the same on every machine.

    >>> faces = KeypointDetector()("data/photos/grace_hopper.jpg")
    >>> len(faces), faces[0].keypoints.shape
    (1, (68, 2))
    """

    def __init__(
        self,
        model: str | Path | nn.Module = DEFAULT_MODEL,
        detect: Callable[[np.ndarray], np.ndarray] | None = None,
        device: str = "cpu",
        min_score: float = 0.5,
        bfloat16: bool | None = None,
    ) -> None:
        net = model.to(device).eval() if isinstance(model, nn.Module) else load_model(model, device)
        if not net.framing:
            raise ValueError(
                f"{'the network' if isinstance(model, nn.Module) else model}: got weights without a framing, expected "
                "those of 'python -m training train' or a network whose .framing was set with measure_framing"
            )
        try:
            self.framing = Framing(**{name: float(value) for name, value in net.framing.items()})
        except (AttributeError, TypeError, ValueError):
            raise ValueError(
                f"{'the network' if isinstance(model, nn.Module) else model}: got the framing "
                f"{str(net.framing)[:200]!r}, expected the numbers {', '.join(Framing.__annotations__)}"
            ) from None
        self.bfloat16 = device == "cpu" and made_for_bfloat16() if bfloat16 is None else bfloat16
        self.net = made_fast(net, self.bfloat16)
        self.detect = detect or FaceFinder()
        self.min_score = min_score

    @overload
    def __call__(self, image: np.ndarray | Image | str | Path) -> list[Face]: ...

    @overload
    def __call__(self, image: list | tuple) -> list[list[Face]]: ...

    def __call__(self, image):
        """Find the faces of an image, each once, largest first; no face is an empty list.

        Where :class:`FaceFinder` finds no certain face, the image is searched turned by 90 and 180 degrees, too.

        Args:
            image: a file's path; a PIL image; an array, (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA, uint8 or float in
                [0, 1]; see :func:`keypoints.images.as_rgb`. Or a list of these, whose faces go through the network
                together.

        Returns:
            the faces; for a list of images a list of such lists, in the same order.

        Raises:
            OSError: a file is missing or can't be read.
            ValueError: a file is no image, or an image is of another kind.
        """
        if not isinstance(image, (list, tuple)):
            return self._search_all([image])[0]
        starts = range(0, len(image), BATCH)
        return [faces for start in starts for faces in self._search_all(image[start : start + BATCH])]

    def _search_all(self, images: Sequence) -> list[list[Face]]:
        """Search images side by side; the boxes that they ask about go through the network together."""
        images = [as_rgb(image) for image in images]
        searches = [self._search(image) for image in images]
        results: list[list[Face]] = [[] for _ in images]
        answers: dict = dict.fromkeys(range(len(images)))  # what each search is told; None starts it
        while answers:
            asked = {}
            for i, faces in answers.items():
                try:
                    asked[i] = searches[i].send(faces)
                except StopIteration as end:
                    results[i] = end.value
            answers = dict(zip(asked, self._faces([images[i] for i in asked], list(asked.values())), strict=True))
        return results

    def _search(self, image: np.ndarray) -> Generator[np.ndarray, list[Face], list[Face]]:
        """Yields boxes, is sent the faces among them, returns the faces of the image."""
        if not hasattr(self.net, "describe"):
            return (yield self.detect(image))
        if not hasattr(self.detect, "passes"):
            return distinct((yield self.detect(image)))
        faces = yield from self._pooled(self.detect.passes(image))
        if isinstance(self.detect, FaceFinder) and best_score(faces) < SETTLED:
            # A picture lies one way: what another way shows must be surer, and then counts alone. The network also puts
            # an upright face on one that is upside down, but is less sure of it.
            for roll in (90, -90, 180):
                turned = yield from self._pooled(self.detect.passes(image, roll), likely=0)
                if turned and best_score(turned) > best_score(faces) and (not faces or best_score(turned) >= SETTLED):
                    faces = turned
        return faces

    def _pooled(
        self, searches: Sequence[Callable[[], np.ndarray]], likely: int = 2
    ) -> Generator[np.ndarray, list[Face], list[Face]]:
        """What several searches find, each face once, largest first; after the ``likely`` ones only sure faces."""
        faces: list[Face] = []
        for number, search in enumerate(searches):
            boxes = upright(search())
            settled = np.array([face.box for face in faces if (face.score or 0) >= SETTLED]).reshape(-1, BOX)
            known = (overlap(boxes, settled) > SAME_BOX).any(axis=1)  # would give the same again
            fresh = yield boxes[~known]
            least = LIKELY[number] if number < likely else SURE
            faces = distinct(faces + [face for face in fresh if (face.score or 0) >= least])
        return sorted(faces, key=lambda face: -float(face.box[2] * face.box[3]))

    def faces(self, image: np.ndarray, boxes: np.ndarray) -> list[Face]:
        """Those of (N, 4) or (N, 5) boxes that hold a face, largest first; image as :func:`as_rgb` gives it."""
        return self._faces([image], [boxes])[0]

    def _faces(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list[list[Face]]:
        """The same for several images, each with boxes of its own."""
        boxes = [upright(some) for some in boxes]
        boxes = [some[np.argsort(-some[:, 2] * some[:, 3], kind="stable")] for some in boxes]
        owners = [image for image, some in zip(images, boxes, strict=True) for _ in some]
        looked = zip(*self._look(owners, np.concatenate([np.zeros((0, BOX + 1), np.float32), *boxes])), strict=True)
        result = []
        for image, some in zip(images, boxes, strict=True):
            size = (image.shape[1], image.shape[0])
            seen = zip(some, islice(looked, len(some)), strict=True)
            faces = [Face(box[:BOX], points, size, sure, score, float(box[BOX])) for box, (points, sure, score) in seen]
            result.append([face for face in faces if face.score is None or face.score >= self.min_score])
        return result

    def keypoints(self, image: np.ndarray | Image | str | Path, boxes: np.ndarray) -> np.ndarray:
        """The keypoints of faces whose boxes are known; none is dropped.

        Args:
            boxes: (N, 4) left, top, width, height as the Haar cascade gives them, or (N, 5) with the roll in degrees;
                ``detector.framing.boxes(points)`` makes such boxes of known points.

        Returns:
            (N, 68, 2) float32, pixels of the image.

        Raises:
            ValueError: a box holds NaN, has no extent, lies outside the image or is absurdly large.
        """
        image, boxes = as_rgb(image), upright(boxes)
        return self._look([image] * len(boxes), boxes)[0]

    def _look(self, images: Sequence[np.ndarray], boxes: np.ndarray) -> tuple[np.ndarray, Sequence, Sequence]:
        """Points, (N, 68, 2), confidences and scores of (N, 5) boxes; None for each face where the network has none.

        Args:
            images: N, the one of each box.
        """
        if not np.isfinite(boxes).all() or (boxes[:, 2:BOX] <= 0).any():
            raise ValueError(f"got face boxes {boxes.tolist()}, expected finite numbers with width and height above 0")
        if not len(boxes):
            return np.zeros((0, NUM_KEYPOINTS, 2), np.float32), [], []
        crops, cuts = zip(*map(crop_view, images, self.framing.views(boxes)), strict=True)
        batch = torch.from_numpy(np.stack(crops)[:, None]).float() / 255
        if hasattr(self.net, "describe"):
            points, confidence, score = describe(self.net, batch)
        else:
            points, confidence, score = predict(self.net, batch), [None] * len(boxes), [None] * len(boxes)
        return to_image(points, np.stack(cuts)).astype(np.float32), confidence, score


LIKELY = (0.0, 0.6)  # scores from which faces of the first and of the second search count, beside min_score
SURE = 0.95  # score from which a face counts where no face is likely: the more boxes, the more false alarms
SETTLED = 0.99  # score from which a face's place is settled: another box there would give the same face again
SAME_BOX = 0.5  # intersection over union of two boxes from which the network sees the same in both
SAME_FACE = 0.35  # face sizes: keypoints whose centroids are nearer are of one face
WITHIN = 0.5  # part of the smaller keypoints' box that lies in the other one, from which both are one face


def best_score(faces: Sequence[Face]) -> float:
    """The highest score of faces; 0 where there are none."""
    return max((face.score or 0.0 for face in faces), default=0.0)


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


def framing_dict(framing: Framing) -> dict:
    """The framing as the weights' file keeps it (``net.framing``)."""
    return asdict(framing)
