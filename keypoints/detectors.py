"""Detectors: from an image to the boxes of its faces. Any class with the one method ``__call__`` will do.

A detector takes an (H, W, 3) uint8 RGB image and returns (N, 4) boxes: left, top, width, height in pixels, framed as
the frontal Haar cascade frames a face. It may return (N, 5): the fifth number is the roll, by how many degrees the face
is turned clockwise on the screen, for a crop that shows it upright.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from keypoints.files import asset
from keypoints.geometry import BOX, NETWORK_FIVE, box_iou, from_five_points, nms
from keypoints.network import open_session


@dataclass(frozen=True)
class Detections:
    """What a detector found, the most certain face first.

    Attributes:
        scores: (N,) float32 in [0, 1]: the geometric mean of the two searches, at different scales, that are most
            certain of the face.
        boxes: (N, 4) float32, pixels: left, top, width, height, from the hairline to the chin.
        points: (N, 5, 2) float32, pixels: right eye, left eye, nose tip, right and left corner of the mouth.
    """

    scores: np.ndarray
    boxes: np.ndarray
    points: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def haar_boxes(self) -> np.ndarray:
        """(N, 5) float32 boxes with the roll, as the Haar cascade frames faces, in whole pixels."""
        return haar_boxes(self.points)


def haar_boxes(points: np.ndarray) -> np.ndarray:
    """Five points (N, 5, 2) → (N, 5) float32 boxes with the roll, as the Haar cascade frames faces, in whole pixels."""
    boxes = from_five_points(points, *NETWORK_FIVE).round()  # finer than any detector can tell
    boxes[:, 2:BOX] = np.maximum(boxes[:, 2:BOX], 1)  # the points of what is no face may lie in one place
    boxes[np.abs(boxes[:, BOX]) < TILTED, BOX] = 0
    return boxes


TILTED = 20.0  # degrees: faces tilted by less count as upright, as the cascade sees them
FAST_SIDES = (160, 320)  # pixels of the longer side: of faces above 200 pixels the network places the points badly
FULL_SIDES = (640, 1280)  # … and small ones: twice the image's own, within these
FINEST_PIXELS = 9_000_000  # of an image that is searched at its own size
TILE, SHARED = 1280, 192  # pixels of a tile of a larger image, and those that neighbours share
BORDER = 0.3  # longer sides of the image, around it: the network was trained on faces within a picture
SMALLEST = 12  # pixels of a face in the image: of less no network tells a face from a letter
SAME_BOX = 0.45  # intersection over union from which two boxes are of one face
CANDIDATE = 0.15  # score of what the keypoint network may prove to be a face
CERTAIN = 0.22  # score that one search at least must give it: what several searches see faintly is no face
FAINT, UNSEEN = 0.1, 0.05  # score from which one search confirms another; that of a face which it does not see
INSIDE = 0.75  # part of the smaller box that lies in the other one, from which it is a part of that face
STRIDES = (8, 16, 32)
ROLLS = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, -90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180}


class NetworkDetector:
    """The face detector of this repository, :class:`models.FaceDetector`: faces of any size and tilt, with five points.

    Args:
        model: the network's ONNX file; by default the one that comes along.
        effort: "fast" searches with the image's longer side at 160 and 320 pixels: faces from a fifteenth of it on.
            "full" searches the image with a border, too, for faces that fill it, and at twice its size, at least 640
            and at most 1,280 pixels a side, in tiles where it is larger.
        min_score: from which on a face counts where no keypoint network confirms it, in [0, 1].
        threads: of onnxruntime.

    >>> from keypoints.images import read_image
    >>> NetworkDetector()(read_image("data/photos/grace_hopper.jpg")).shape  # left, top, width, height, roll
    (1, 5)
    """

    def __init__(
        self, model: str | Path | None = None, effort: str = "full", min_score: float = 0.45, threads: int = 1
    ) -> None:
        if effort not in ("fast", "full"):
            raise ValueError(f"got the effort {effort!r}, expected 'fast' or 'full'")
        self.effort, self.min_score = effort, min_score
        self._session = open_session(asset("detector.onnx") if model is None else model, threads)

    def fast(self) -> NetworkDetector:
        """The same network with ``effort="fast"``."""
        other = copy.copy(self)
        other.effort = "fast"
        return other

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB or (H, W) grey → (N, 5) float32 boxes with the roll, as the Haar cascade frames faces."""
        found = self.find(image)
        return found.haar_boxes()[found.scores >= self.min_score]

    def find(self, image: np.ndarray, roll: int = 0, least: float = CANDIDATE) -> Detections:
        """What may be a face in an image.

        Args:
            image: (H, W, 3) uint8 RGB, or (H, W) grey.
            roll: 0, 90, -90 or 180: by how many degrees the image is turned anticlockwise before the search.
            least: the lowest score that counts.
        """
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
        found = self._upright(cv2.rotate(grey, ROLLS[roll]) if roll else grey, least)
        found = _turned_back(found, roll, grey) if roll else found
        return replace(found, points=found.points - 0.5)  # until here a pixel's edge is at 0, now its centre

    def _upright(self, grey: np.ndarray, least: float) -> Detections:
        longer = max(grey.shape)
        found = [self._search(grey, least, side / longer) for side in FAST_SIDES]
        if self.effort == "full":
            border = round(BORDER * longer)  # faces that fill the image
            framed = cv2.copyMakeBorder(grey, border, border, border, border, cv2.BORDER_REPLICATE)
            found.append(self._search(framed, least, FAST_SIDES[0] / max(framed.shape), -border))
            scale = float(np.clip(2 * longer, *FULL_SIDES)) / longer
            if longer > 4 * FULL_SIDES[1]:  # faces of such an image may have thousands of pixels
                found.append(self._search(grey, least, scale))
            scale = max(scale, min(1, math.sqrt(FINEST_PIXELS / grey.size)))
            step = round((TILE - SHARED) / scale)
            for top in range(0, max(1, grey.shape[0] - round(SHARED / scale)), step):
                for left in range(0, max(1, grey.shape[1] - round(SHARED / scale)), step):
                    tile = grey[top : top + round(TILE / scale), left : left + round(TILE / scale)]
                    found.append(self._search(tile, least, scale, np.array([left, top], np.float32)))
        scores, boxes, points = (np.concatenate([getattr(some, name) for some in found]) for name in FIELDS)
        search = np.repeat(np.arange(len(found)), [len(some) for some in found])
        order = np.argsort(-scores, kind="stable")
        kept = order[nms(boxes[order], SAME_BOX, INSIDE)]
        same = box_iou(boxes[kept], boxes) > SAME_BOX
        best = np.max(np.where(same, scores, 0), axis=1, initial=0)
        second = np.max(np.where(same & (search[kept, None] != search), scores, UNSEEN), axis=1, initial=UNSEEN)
        scores = np.sqrt(scores[kept] * second)
        enough = (scores >= least) & (best >= min(1, least / CANDIDATE) * CERTAIN)
        order = np.argsort(-scores, kind="stable")
        order = order[enough[order]]
        return Detections(scores[order], boxes[kept][order], points[kept][order])

    def _search(self, grey: np.ndarray, least: float, scale: float, origin: np.ndarray | float = 0.0) -> Detections:
        size = max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale))
        small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        values = small.astype(np.float32)
        levels = (np.arange(256, dtype=np.float32) - values.mean()) / (values.std() + 1)
        padded = np.zeros((-(-size[1] // 32) * 32, -(-size[0] // 32) * 32), np.float32)
        padded[: size[1], : size[0]] = cv2.LUT(small, levels)
        output = self._session.run(None, {"image": padded[None, None]})[0][0]
        scores, boxes, points = decode(output, padded.shape[0], padded.shape[1], min(FAINT, least))
        middle = boxes[:, :2] + boxes[:, 2:] / 2
        large = boxes[:, 2:].prod(axis=1) >= (SMALLEST * scale) ** 2
        kept = large & (middle < size).all(axis=1) & (middle >= 0).all(axis=1)
        ratio = np.divide(grey.shape[::-1], size).astype(np.float32)
        boxes, points = boxes[kept] * np.tile(ratio, 2), points[kept] * ratio + origin
        boxes[:, :2] += origin
        return Detections(scores[kept], boxes, points)


FIELDS = ("scores", "boxes", "points")


def decode(
    output: np.ndarray, height: int, width: int, least: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (N,), boxes (N, 4) left, top, width, height and points (N, 5, 2), pixels, of the network's (A, 15).

    :class:`models.FaceDetector` says what the 15 numbers of a cell are. Cells that score below ``least`` are left out.
    """
    scores = 1 / (1 + np.exp(-np.clip(output[:, 0], -50, 50)))
    chosen = np.flatnonzero(scores >= least)
    output, (centres, strides) = output[chosen], (part[chosen] for part in cells(height, width))
    size = np.exp(np.clip(output[:, 3:5], -4, 6)) * strides
    boxes = np.concatenate([centres + output[:, 1:3] * strides - size / 2, size], axis=1)
    points = centres[:, None] + output[:, 5:].reshape(-1, 5, 2) * strides[:, None]
    return scores[chosen], boxes, points


@lru_cache(maxsize=8)
def cells(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres (A, 2) and strides (A, 1) of the cells of an image, float32."""
    centres, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: height // stride, : width // stride]
        centres.append((np.stack([x.ravel(), y.ravel()], axis=1) + 0.5) * stride)
        strides.append(np.full((x.size, 1), stride))
    return np.concatenate(centres).astype(np.float32), np.concatenate(strides).astype(np.float32)


def _turned_back(found: Detections, roll: int, grey: np.ndarray) -> Detections:
    """Faces of an image that was turned anticlockwise by ``roll`` degrees, in the image ``grey`` as it was."""
    height, width = grey.shape
    middle = found.boxes[:, :2] + found.boxes[:, 2:] / 2
    points = np.concatenate([middle[:, None], found.points], axis=1)
    x, y = points[..., 0], points[..., 1]
    x, y = {90: (width - y, x), -90: (y, height - x), 180: (width - x, height - y)}[roll]
    points = np.stack([x, y], axis=2)
    size = found.boxes[:, 2:] if roll == 180 else found.boxes[:, :1:-1]
    return Detections(found.scores, np.concatenate([points[:, 0] - size / 2, size], axis=1), points[:, 1:])


class HaarDetector:
    """OpenCV's frontal Haar cascade (Viola and Jones, 2001), which opencv-python brings along.

    Args:
        scale_factor: step between the sizes looked for; smaller is slower and finds more.
        min_neighbors: overlapping hits needed; fewer finds more faces and more false alarms.
        min_size: side of the smallest face, pixels.
    """

    def __init__(self, scale_factor: float = 1.2, min_neighbors: int = 2, min_size: int = 24) -> None:
        self.scale_factor, self.min_neighbors, self.min_size = scale_factor, min_neighbors, min_size
        _resting.append(_cascade())  # read now: the first search is then as fast as the others

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB or (H, W) grey → (N, 4) float32 boxes left, top, width, height, largest first."""
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
        classifier = _cascade()
        found = classifier.detectMultiScale(
            grey, self.scale_factor, self.min_neighbors, minSize=(self.min_size, self.min_size)
        )
        _resting.append(classifier)
        boxes = np.array(found, np.float32).reshape(-1, BOX)
        return boxes[np.argsort(-boxes[:, 2] * boxes[:, 3], kind="stable")]


# A search changes its classifier, so no two threads may share one; reading one takes as long as a search, so those that
# rest are kept: as many as searches ever ran at once. list.pop and list.append are atomic.
_resting: list[cv2.CascadeClassifier] = []


def _cascade() -> cv2.CascadeClassifier:
    """A classifier that rests, or a new one."""
    try:
        return _resting.pop()
    except IndexError:
        if not (hasattr(cv2, "CascadeClassifier") and hasattr(cv2, "data")):
            raise ValueError(
                f"got OpenCV {cv2.__version__} without Haar cascades, expected OpenCV 4: "
                "python -m pip install --force-reinstall 'opencv-python<5'"
            ) from None
        return cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_frontalface_default.xml")
