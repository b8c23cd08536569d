"""From an image to its faces and their keypoints: Haar box → framing → network → keypoints in the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from data_load import IMAGE_SIZE, NUM_KEYPOINTS, read_image
from keypoints import metrics
from keypoints.pose import Pose, estimate_pose
from keypoints.training import predict
from models import DEFAULT_MODEL, load_model


@dataclass(frozen=True)
class Face:
    """One face.

    Attributes:
        box: (4,) float32, pixels: left, top, width, height, as the detector gave it.
        keypoints: (68, 2) float32, pixels of the image, (x, y).
        image_size: width and height of the image, for the pose; without them the face counts as a cut-out.
    """

    box: np.ndarray
    keypoints: np.ndarray
    image_size: tuple[int, int] | None = None

    @cached_property
    def pose(self) -> Pose:
        """How the head is turned and where it is: ``.yaw``, ``.pitch``, ``.roll`` in degrees, and more."""
        return estimate_pose(self.keypoints, self.image_size or tuple(self.box[:2] + self.box[2:]))


class HaarDetector:
    """OpenCV's frontal Haar cascade (Viola and Jones, 2001), which opencv-python brings along.

    Args:
        scale_factor: step between the sizes looked for; smaller is slower and finds more.
        min_neighbors: overlapping hits needed; fewer finds more faces and more false alarms.
        min_size: side of the smallest face, pixels.
    """

    def __init__(self, scale_factor: float = 1.2, min_neighbors: int = 2, min_size: int = 24) -> None:
        self.scale_factor, self.min_neighbors, self.min_size = scale_factor, min_neighbors, min_size
        self._cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB → (N, 4) float32 boxes left, top, width, height, largest first."""
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        found = self._cascade.detectMultiScale(
            grey, self.scale_factor, self.min_neighbors, minSize=(self.min_size, self.min_size)
        )
        boxes = np.array(found, np.float32).reshape(-1, 4)
        return boxes[np.argsort(-boxes[:, 2] * boxes[:, 3], kind="stable")]


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
        """(N, 4) Haar boxes → (N, 3) float64 left, top, side of the square the network sees; may leave the image."""
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        haar = np.sqrt(boxes[:, 2] * boxes[:, 3])
        side = self.scale * haar
        x = boxes[:, 0] + boxes[:, 2] / 2 + self.dx * haar
        y = boxes[:, 1] + boxes[:, 3] / 2 + self.dy * haar
        return np.stack([x - side / 2, y - side / 2, side], axis=1)

    def boxes(self, keypoints: np.ndarray) -> np.ndarray:
        """(N, 68, 2) keypoints, or (68, 2) → (N, 4) float32: the boxes that the Haar cascade would typically give."""
        keypoints = np.asarray(keypoints, np.float64).reshape(-1, NUM_KEYPOINTS, 2)
        size = metrics.face_size(keypoints)
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
        limit: how many to look at, evenly spread; a median needs no more.

    Raises:
        ValueError: the detector finds a face in none of them.
    """
    detect, rows = detect or HaarDetector(), []
    for i in range(0, len(samples), max(1, len(samples) // limit)):
        sample = samples[i]
        image, keypoints = sample["image"], sample["keypoints"]
        boxes = detect(image)
        chosen = face_at(boxes, keypoints)
        if chosen is None:
            continue
        left, top, width, height = boxes[chosen]
        haar, size = np.sqrt(width * height), metrics.face_size(keypoints)
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
    """Which of (N, 4) boxes left, top, width, height holds the keypoints' centroid: the nearest, or None."""
    boxes, centroid = np.asarray(boxes).reshape(-1, 4), np.asarray(keypoints).mean(axis=0)
    offset = np.abs(boxes[:, :2] + boxes[:, 2:] / 2 - centroid)
    inside = np.flatnonzero((offset <= boxes[:, 2:] / 2).all(axis=1))
    return int(inside[np.linalg.norm(offset[inside], axis=1).argmin()]) if inside.size else None


def crop_view(image: np.ndarray, view: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut a square view out of an image and bring it to the network's size.

    Args:
        image: (H, W, 3) uint8 RGB, or (H, W) grey.
        view: left, top, side in pixels; what lies outside the image repeats its border.

    Returns:
        crop: (224, 224) uint8 grey.
        cut: (3,) float64: left, top, side as cut, in whole pixels. ``(x + 0.5) * side / 224 - 0.5 + left`` brings a
            point of the crop back to the image.
    """
    height, width = image.shape[:2]
    side = max(1, round(float(view[2])))
    left, top = round(float(view[0])), round(float(view[1]))
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
    if x0 >= x1 or y0 >= y1:
        raise ValueError(
            f"got a face box whose view {left}, {top}, {side}×{side} lies outside the image of {width}×{height} pixels"
        )
    inside = image[y0:y1, x0:x1]
    if inside.ndim == 3:
        inside = cv2.cvtColor(inside, cv2.COLOR_RGB2GRAY)
    crop = cv2.copyMakeBorder(inside, y0 - top, top + side - y1, x0 - left, left + side - x1, cv2.BORDER_REPLICATE)
    # As in data_load.Rescale: averaging when the view shrinks, so that a sharp photograph does not alias.
    crop = cv2.resize(
        crop, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_AREA if side > IMAGE_SIZE else cv2.INTER_LINEAR
    )
    return crop, np.array([left, top, side], np.float64)


class KeypointDetector:
    """Finds each face in an image and its 68 keypoints.

    Args:
        model: a weights file, or a network with a ``framing``.
        detect: takes an (H, W, 3) uint8 RGB image, returns (N, 4) boxes left, top, width, height as the Haar cascade
            gives them.
        device: where the network runs.

    >>> faces = KeypointDetector()("data/photos/grace_hopper.jpg")
    >>> len(faces), faces[0].keypoints.shape
    (1, (68, 2))
    """

    def __init__(
        self,
        model: str | Path | nn.Module = DEFAULT_MODEL,
        detect: Callable[[np.ndarray], np.ndarray] | None = None,
        device: str = "cpu",
    ) -> None:
        self.net = model.to(device).eval() if isinstance(model, nn.Module) else load_model(model, device)
        if not self.net.framing:
            raise ValueError(
                f"{'the network' if isinstance(model, nn.Module) else model}: got weights without a framing, expected "
                "those of 'python -m keypoints train' or a network whose .framing was set with measure_framing"
            )
        self.framing = Framing(**self.net.framing)
        self.detect = detect or HaarDetector()

    def __call__(self, image: np.ndarray | str | Path) -> list[Face]:
        """Find the faces of an image, largest first; no face is an empty list.

        Args:
            image: (H, W, 3) uint8 RGB, (H, W) uint8 grey, or a file's path.
        """
        image = as_rgb(image)
        boxes = np.asarray(self.detect(image), np.float32).reshape(-1, 4)
        boxes = boxes[np.argsort(-boxes[:, 2] * boxes[:, 3], kind="stable")]
        size = (image.shape[1], image.shape[0])
        return [
            Face(box, points, image_size=size) for box, points in zip(boxes, self.keypoints(image, boxes), strict=True)
        ]

    def keypoints(self, image: np.ndarray | str | Path, boxes: np.ndarray) -> np.ndarray:
        """The keypoints of faces whose boxes are known.

        Args:
            boxes: (N, 4) left, top, width, height as the Haar cascade gives them; ``detector.framing.boxes(points)``
                makes such boxes of known points.

        Returns:
            (N, 68, 2) float32, pixels of the image.
        """
        image, boxes = as_rgb(image), np.asarray(boxes, np.float64).reshape(-1, 4)
        if not np.isfinite(boxes).all() or (boxes[:, 2:] <= 0).any():
            raise ValueError(f"got face boxes {boxes.tolist()}, expected finite numbers with width and height above 0")
        if not len(boxes):
            return np.zeros((0, NUM_KEYPOINTS, 2), np.float32)
        crops, cuts = zip(*(crop_view(image, view) for view in self.framing.views(boxes)), strict=True)
        points = predict(self.net, torch.from_numpy(np.stack(crops)[:, None]).float() / 255)
        cuts = np.stack(cuts)[:, None]  # (N, 1, 3)
        return ((points + 0.5) * cuts[..., 2:] / IMAGE_SIZE - 0.5 + cuts[..., :2]).astype(np.float32)


def as_rgb(image: np.ndarray | str | Path) -> np.ndarray:
    """A path is read, grey becomes RGB; (H, W, 3) uint8."""
    if isinstance(image, (str, Path)):
        return read_image(image)
    if (
        not isinstance(image, np.ndarray)
        or image.dtype != np.uint8
        or image.ndim not in (2, 3)
        or (image.ndim == 3 and image.shape[2] != 3)
        or 0 in image.shape
    ):
        what = f"{image.dtype} array of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"got {what}, expected an RGB image (H, W, 3) or grey (H, W) as uint8, or a path")
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image


def framing_dict(framing: Framing) -> dict:
    """The framing as the weights' file keeps it (``net.framing``)."""
    return asdict(framing)
