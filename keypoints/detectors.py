"""Detectors: from an image to the boxes of its faces. Any class with the one method ``__call__`` will do.

A detector takes an (H, W, 3) uint8 RGB image and returns (N, 4) boxes: left, top, width, height in pixels, framed as
the frontal Haar cascade frames a face. It may return (N, 5): the fifth number is the roll, by how many degrees the face
is turned clockwise on the screen, for a crop that shows it upright. A detector that has more to offer where this was
in vain has a method ``passes``, which yields such boxes pass by pass.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

BOX = 4  # left, top, width, height; a fifth column is the roll


class HaarDetector:
    """OpenCV's frontal Haar cascade (Viola and Jones, 2001), which opencv-python brings along.

    Args:
        scale_factor: step between the sizes looked for; smaller is slower and finds more.
        min_neighbors: overlapping hits needed; fewer finds more faces and more false alarms.
        min_size: side of the smallest face, pixels.
        max_size: … and of the largest; 0: as large as the image.
        cascade: which of OpenCV's cascades, ``haarcascade_….xml``.
    """

    def __init__(
        self,
        scale_factor: float = 1.2,
        min_neighbors: int = 2,
        min_size: int = 24,
        max_size: int = 0,
        cascade: str = "frontalface_default",
    ) -> None:
        self.scale_factor, self.min_neighbors, self.min_size = scale_factor, min_neighbors, min_size
        self.max_size = max_size
        self._cascade = _load(cascade)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB or (H, W) grey → (N, 4) float32 boxes left, top, width, height, largest first."""
        boxes, _ = self.hits(image)
        return boxes[np.argsort(-boxes[:, 2] * boxes[:, 3], kind="stable")]

    def hits(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same boxes in no order, and (N,) int64: how many overlapping hits each was made of."""
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
        boxes, hits = self._cascade.detectMultiScale2(
            grey,
            self.scale_factor,
            self.min_neighbors,
            minSize=(self.min_size, self.min_size),
            maxSize=(self.max_size, self.max_size),
        )
        return np.array(boxes, np.float32).reshape(-1, BOX), np.array(hits, np.int64).reshape(-1)


@functools.cache  # reading one takes as long as a search
def _load(cascade: str) -> cv2.CascadeClassifier:
    return cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_{cascade}.xml")


@dataclass(frozen=True)
class Look:
    """One further look at an image.

    A cascade sees only faces like those it was trained on: upright ones, and profiles that look to the left. So the
    image is turned or mirrored before, and the boxes are brought back; ``scale``, ``dx`` and ``dy`` turn the cascade's
    way to frame a face into the frontal one's, in sides of its box.
    """

    detect: HaarDetector
    roll: float = 0.0  # degrees: finds faces turned so far clockwise
    mirrored: bool = False
    scale: float = 1.0
    dx: float = 0.0
    dy: float = 0.0

    def __call__(self, grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(H, W) uint8 → (N, 5) float64 boxes with their roll, in pixels of ``grey``; (N,) int64 hits each."""
        turned, back = turn(grey, self.roll) if self.roll else (grey, None)
        boxes, hits = self.detect.hits(turned[:, ::-1].copy() if self.mirrored else turned)
        boxes = boxes.astype(np.float64)
        if self.mirrored:
            boxes[:, 0] = turned.shape[1] - boxes[:, 0] - boxes[:, 2]
        side = boxes[:, 2:]
        middle = boxes[:, :2] + side / 2 + side * [-self.dx if self.mirrored else self.dx, self.dy]
        if back is not None:
            middle = (middle - 0.5) @ back[:, :2].T + back[:, 2] + 0.5
        side = side * self.scale
        return np.column_stack([middle - side / 2, side, np.full(len(side), self.roll)]), hits


def turn(image: np.ndarray, roll: float) -> tuple[np.ndarray, np.ndarray]:
    """Turn an image anticlockwise by ``roll`` degrees about its middle, in a frame that holds all of it.

    Returns:
        turned: the image, black where there was none.
        back: (2, 3) float64: brings points (x, y, 1) of the turned image back.
    """
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), roll, 1)
    cosine, sine = np.abs(matrix[0, :2])
    size = int(np.ceil(cosine * width + sine * height)), int(np.ceil(sine * width + cosine * height))
    matrix[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
    return cv2.warpAffine(image, matrix, size), cv2.invertAffineTransform(matrix)


def overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union: (N, 4) and (M, 4) boxes → (N, M) float64 in [0, 1]."""
    a, b = (np.asarray(side, np.float64)[:, :BOX] for side in (boxes, others))
    a, b = a[:, None], b[None]
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    return shared / (a[..., 2:].prod(axis=-1) + b[..., 2:].prod(axis=-1) - shared)


def suppress(boxes: np.ndarray, threshold: float = 0.3) -> np.ndarray:
    """Non-maximum suppression: indices of the boxes that overlap no earlier kept one by more than ``threshold``.

    Args:
        boxes: (N, 4) or (N, 5), the best first.
    """
    shared, kept = overlap(boxes, boxes), []
    for i in range(len(boxes)):
        if not (shared[i, kept] > threshold).any():
            kept.append(i)
    return np.array(kept, int)


class FaceFinder:
    """The frontal Haar cascade and, only where it finds nothing, the ways of looking that cost more or err more.

    1. the frontal cascade, faces from a tenth of the image on, or 64 pixels where that is more: what most photos need;
    2. on the photo shrunk to some 80,000 pixels: finer steps, a second frontal cascade, profiles of both sides, and
       heads tilted by 30 degrees to either side; what they find of one face is one box, that of the most hits;
    3. small faces, down to ``smallest``.

    Args:
        smallest: side of the smallest face, pixels.

    >>> from data_load import read_image
    >>> FaceFinder()(read_image("data/photos/grace_hopper.jpg")).shape  # left, top, width, height, roll
    (1, 5)
    """

    def __init__(self, smallest: int = 24) -> None:
        self.smallest = smallest

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB → (N, 5) float32 boxes with their roll in degrees, of the first pass that finds any."""
        return next((boxes for boxes in self.passes(image) if len(boxes)), np.zeros((0, BOX + 1), np.float32))

    def passes(self, image: np.ndarray) -> Iterator[np.ndarray]:
        """Pass by pass (N, 5) boxes, each searched for only when asked for: whoever is satisfied stops."""
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        yield self.first(grey)
        yield self.further(grey)

    def first(self, grey: np.ndarray) -> np.ndarray:
        # Small faces cost most and are where false alarms are: a face that is looked at is seldom under a tenth.
        smallest = int(np.clip(max(grey.shape) / 10, self.smallest, max(64, self.smallest)))
        return upright(HaarDetector(min_size=smallest)(grey))

    def further(self, grey: np.ndarray) -> np.ndarray:
        scale = min(1.0, np.sqrt(FURTHER_PIXELS / grey.size))
        small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else grey
        found = [look(small) for look in FURTHER]
        boxes = np.concatenate([boxes for boxes, _ in found])
        boxes = boxes[np.argsort(-np.concatenate([hits for _, hits in found]), kind="stable")]
        boxes = boxes[suppress(boxes)]
        boxes[:, :2] *= grey.shape[1] / small.shape[1], grey.shape[0] / small.shape[0]
        boxes[:, 2:BOX] *= np.sqrt(grey.size / small.size)
        return boxes.astype(np.float32)


def upright(boxes: np.ndarray) -> np.ndarray:
    """(N, 4) boxes → (N, 5) float32 with a roll of 0; (N, 5) stay."""
    boxes = np.asarray(boxes, np.float32)
    return np.column_stack([boxes, np.zeros(len(boxes), np.float32)]) if boxes.shape[1] == BOX else boxes


FURTHER_PIXELS = 80_000
_FINE = {"scale_factor": 1.1, "min_neighbors": 1}
FURTHER = (
    Look(HaarDetector(**_FINE)),
    Look(HaarDetector(**_FINE, cascade="frontalface_alt2"), scale=1.03),
    Look(HaarDetector(**_FINE, min_size=32, cascade="profileface"), scale=0.92, dx=-0.12),
    Look(HaarDetector(**_FINE, min_size=32, cascade="profileface"), mirrored=True, scale=0.92, dx=-0.12),
    Look(HaarDetector(**_FINE, min_size=32), roll=-30),
    Look(HaarDetector(**_FINE, min_size=32), roll=30),
)
