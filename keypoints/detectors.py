"""Detectors: from an image to the boxes of its faces. Any class with the one method ``__call__`` will do.

A detector takes an (H, W, 3) uint8 RGB image and returns (N, 4) boxes: left, top, width, height in pixels, framed as
the frontal Haar cascade frames a face. It may return (N, 5): the fifth number is the roll, by how many degrees the face
is turned clockwise on the screen, for a crop that shows it upright.

A detector may also have a method ``passes``: it takes the image and returns a list of functions without arguments, each
of which runs one search and returns such boxes. Several of them may be of one face, and others of none: the network's
score and the keypoints decide.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

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
        self.cascade = cascade
        _give_back(cascade, _borrow(cascade))  # read now: the first search is then as fast as the others

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB or (H, W) grey → (N, 4) float32 boxes left, top, width, height, largest first."""
        boxes, _ = self.hits(image)
        return boxes[np.argsort(-boxes[:, 2] * boxes[:, 3], kind="stable")]

    def hits(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same boxes in no order, and (N,) int64: how many overlapping hits each was made of."""
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
        classifier = _borrow(self.cascade)
        boxes, hits = classifier.detectMultiScale2(
            grey,
            self.scale_factor,
            self.min_neighbors,
            minSize=(self.min_size, self.min_size),
            maxSize=(self.max_size, self.max_size),
        )
        _give_back(self.cascade, classifier)
        return np.array(boxes, np.float32).reshape(-1, BOX), np.array(hits, np.int64).reshape(-1)


# A search changes its classifier, so no two threads may share one; reading one takes as long as a search, so those that
# rest are kept: as many as searches ever ran at once. list.pop and list.append are atomic.
_resting: defaultdict[str, list[cv2.CascadeClassifier]] = defaultdict(list)


def _borrow(cascade: str) -> cv2.CascadeClassifier:
    try:
        return _resting[cascade].pop()
    except IndexError:
        if not (hasattr(cv2, "CascadeClassifier") and hasattr(cv2, "data")):
            raise ValueError(
                f"got OpenCV {cv2.__version__} without Haar cascades, expected OpenCV 4: "
                "python -m pip install --force-reinstall 'opencv-python<5'"
            ) from None
        return cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_{cascade}.xml")


def _give_back(cascade: str, classifier: cv2.CascadeClassifier) -> None:
    _resting[cascade].append(classifier)


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
        if min(grey.shape) < self.detect.min_size:  # a stripe, turned, would lie in a large empty frame
            return np.zeros((0, BOX + 1)), np.zeros(0, np.int64)
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
    shared = overlap(boxes, boxes)
    kept: list[int] = []
    for i in range(len(boxes)):
        if not (shared[i, kept] > threshold).any():
            kept.append(i)
    return np.array(kept, int)


MOST_PIXELS, FURTHER_PIXELS, SMALLEST_FURTHER = 2_000_000, 50_000, 28
# Chosen on the wild training share, with the time for an image of 640×480 pixels in view. Only the first look goes down
# to the smallest: from 40 pixels on, a fifth of such an image's height, the others are cheap.
FURTHER = (
    Look(HaarDetector(1.1, 1, SMALLEST_FURTHER, cascade="frontalface_alt2"), scale=1.03),
    Look(HaarDetector(1.1, 1, 40)),
    Look(HaarDetector(1.2, 1, 48, cascade="profileface"), scale=0.92, dx=-0.12),
    Look(HaarDetector(1.2, 1, 48, cascade="profileface"), scale=0.92, dx=-0.12, mirrored=True),
    Look(HaarDetector(1.2, 1, 40, cascade="frontalface_alt2"), scale=1.03, roll=-30),
    Look(HaarDetector(1.2, 1, 40, cascade="frontalface_alt2"), scale=1.03, roll=30),
)
FINEST_PIXELS = 9_000_000  # with faces of 24 pixels a second or two; a telephone's photograph has 12 million
FILLING_PIXELS, DIM_PIXELS = 10_000, 300_000
WINDOW = 20  # pixels: the cascades know nothing smaller
BORDER = 0.4  # shorter sides of the image, on each side
TILT = 30  # degrees; the cascades find faces within some 15 of it


class FaceFinder:
    """Searches for faces with OpenCV's Haar cascades, frontal and profile, in the image as it is, tilted and lit up.

    Called, it returns the boxes of the first of three searches that finds any:

    1. :meth:`first`: the frontal cascade, faces from a tenth of the image's longer side on, at least 24 and at most 64
       pixels.
    2. :meth:`further`: on the image shrunk to 50,000 pixels, finer steps, a second frontal cascade, profiles of both
       sides, and heads tilted by 30 degrees to either side. What they find of one face is one box, that of most hits.
    3. :meth:`small`: faces that are too small for the second search, down to ``smallest``.

    :meth:`passes` offers all searches that there are, for a caller who can tell faces from false alarms.

    Args:
        smallest: side of the smallest face, pixels.

    >>> from data_load import read_image
    >>> FaceFinder()(read_image("data/photos/grace_hopper.jpg")).shape  # left, top, width, height, roll
    (1, 5)
    """

    def __init__(self, smallest: int = 24) -> None:
        self.smallest = smallest

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB → (N, 5) float32 boxes with their roll in degrees, of the first search that finds any."""
        grey = cv2.cvtColor(shrink(image, MOST_PIXELS), cv2.COLOR_RGB2GRAY)
        found = (_search(find, grey, image) for find in (self.first, self.further, self.small))
        return next((boxes for boxes in found if len(boxes)), np.zeros((0, BOX + 1), np.float32))

    def passes(
        self, image: np.ndarray, roll: float = 0.0, most_pixels: int = FINEST_PIXELS
    ) -> list[Callable[[], np.ndarray]]:
        """All searches, from the cheapest and likeliest on; each runs when it is called and returns (N, 5) boxes.

        Args:
            image: (H, W, 3) uint8 RGB.
            roll: degrees by which the image is turned anticlockwise before each search; the boxes are of the image as
                it is given, and their roll counts from there.
            most_pixels: of the image that is searched; in a larger image faces must be larger. Only the last search,
                for the smallest faces, takes more than 2 million.
        """
        finest = cv2.cvtColor(shrink(image, most_pixels), cv2.COLOR_RGB2GRAY)
        grey = shrink(finest, MOST_PIXELS)
        finds: list[Callable[[np.ndarray], np.ndarray]] = [self.first, self.further, self.fine, self.filling, self.dim]
        if not roll:  # the dearest two
            finds += [partial(self.tilted, tilt=tilt) for tilt in (-TILT, TILT)]
        searches: list[Callable[[], np.ndarray]] = [partial(_search, find, grey, image, roll) for find in finds]
        return searches if finest is grey else [*searches, partial(_search, self.tiny, finest, image, roll)]

    def first(self, grey: np.ndarray) -> np.ndarray:
        """(H, W) uint8 → (N, 5): the pass that most photos need."""
        side = int(np.clip(max(grey.shape) / 10, self.smallest, max(64, self.smallest)))
        # The cascade's window has 24 pixels; at more than 32 it steps as finely as at 24, for four times the work.
        small = shrink(grey, grey.size * min(1, (32 / side) ** 2))
        boxes = HaarDetector(min_size=round(side * small.shape[1] / grey.shape[1]))(small)
        return rescale(upright(boxes), small, grey)

    def further(self, grey: np.ndarray) -> np.ndarray:
        """(H, W) uint8 → (N, 5): finer, tilted and from the side."""
        small = shrink(grey, FURTHER_PIXELS)
        return rescale(pooled(FURTHER, small), small, grey)

    def small(self, grey: np.ndarray) -> np.ndarray:
        """(H, W) uint8 → (N, 5): what is too small for :meth:`further`."""
        most = round(SMALLEST_FURTHER * np.sqrt(grey.size / FURTHER_PIXELS))
        if most <= self.smallest:
            return np.zeros((0, BOX + 1), np.float32)
        return pooled((_frontal(1.3, 2, self.smallest, most),), grey)

    def fine(self, grey: np.ndarray) -> np.ndarray:
        """(H, W) uint8 → (N, 5): upright faces of every size, in fine steps."""
        return pooled((_frontal(1.15, 2, self.smallest),), grey)

    def filling(self, grey: np.ndarray) -> np.ndarray:
        """(H, W) uint8 → (N, 5): faces that fill the image; the cascade wants to see what is around them."""
        small = shrink(grey, FILLING_PIXELS)
        border = round(BORDER * min(small.shape)) + 1
        framed = cv2.copyMakeBorder(small, border, border, border, border, cv2.BORDER_REPLICATE)
        smallest = max(WINDOW, round(min(small.shape) / 2))
        looks = tuple(_frontal(1.1, 2, smallest, roll=tilt) for tilt in (0, -TILT, TILT))
        boxes = pooled((*looks, Look(HaarDetector(1.1, 2, smallest))), framed)
        boxes[:, :2] -= border
        return rescale(boxes, small, grey)

    def dim(self, grey: np.ndarray) -> np.ndarray:
        """(H, W) uint8 → (N, 5): faces in the dark or in fog; a cascade passes over windows of little contrast."""
        small = shrink(grey, DIM_PIXELS)
        low, high = np.percentile(small, [0.5, 99.5])
        stretched = np.clip((small - low) * (255 / max(1, high - low)), 0, 255).astype(np.uint8)
        lit = cv2.createCLAHE(clipLimit=4, tileGridSize=(4, 4)).apply(stretched)
        return rescale(pooled((_frontal(1.15, 2, self.smallest),), lit), small, grey)

    def tilted(self, grey: np.ndarray, tilt: float) -> np.ndarray:
        """(H, W) uint8 → (N, 5): faces tilted by about so many degrees clockwise, of every size."""
        return pooled((_frontal(1.2, 2, self.smallest, roll=tilt),), grey)

    def tiny(self, grey: np.ndarray) -> np.ndarray:
        """(H, W) uint8 → (N, 5): faces of a large image that are too small for the others."""
        most = round(1.3 * self.smallest * np.sqrt(grey.size / MOST_PIXELS))
        return pooled((_frontal(1.2, 2, self.smallest, most),), grey)


def _frontal(scale_factor: float, min_neighbors: int, min_size: int, max_size: int = 0, roll: float = 0.0) -> Look:
    """A look with the better of the frontal cascades, whose boxes are a little smaller than the default one's."""
    detect = HaarDetector(scale_factor, min_neighbors, min_size, max_size, cascade="frontalface_alt2")
    return Look(detect, roll, scale=1.03)


def _search(
    find: Callable[[np.ndarray], np.ndarray], grey: np.ndarray, image: np.ndarray, roll: float = 0.0
) -> np.ndarray:
    """What ``find`` finds in ``grey``, turned anticlockwise by ``roll`` degrees: (N, 5) in pixels of ``image``."""
    if not roll:
        boxes = find(grey)
    else:
        turned, back = turn(grey, roll)
        boxes = find(turned)
        middle, side = boxes[:, :2] + boxes[:, 2:BOX] / 2, boxes[:, 2:BOX]
        middle = (middle - 0.5) @ back[:, :2].T + back[:, 2] + 0.5
        rolls = 180 - (180 - boxes[:, BOX:] - roll) % 360  # above -180, up to 180
        boxes = np.column_stack([middle - side / 2, side, rolls])
    boxes = rescale(boxes, grey, image)
    boxes[:, :BOX] = boxes[:, :BOX].round()  # finer than any pass can tell, and shorter to read
    return boxes


def pooled(looks: tuple[Look, ...], grey: np.ndarray) -> np.ndarray:
    """What several looks find, one box a face: (N, 5) float32, the most hits first; none whose middle is outside."""
    found = [look(grey) for look in looks]
    boxes, hits = (np.concatenate(parts) for parts in zip(*found, strict=True))
    middle = boxes[:, :2] + boxes[:, 2:BOX] / 2
    inside = ((middle >= 0) & (middle < grey.shape[::-1])).all(axis=1)
    boxes = boxes[inside][np.argsort(-hits[inside], kind="stable")]
    return boxes[suppress(boxes)].astype(np.float32)


def shrink(image: np.ndarray, pixels: float) -> np.ndarray:
    """The image with at most so many pixels, averaged; as it is where it has no more."""
    height, width = image.shape[:2]
    scale = np.sqrt(pixels / (height * width))
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def rescale(boxes: np.ndarray, seen: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Boxes found in the shrunk image ``seen``, in pixels of ``image``; they stay square."""
    x, y = image.shape[1] / seen.shape[1], image.shape[0] / seen.shape[0]
    middle, side = (boxes[:, :2] + boxes[:, 2:BOX] / 2) * [x, y], boxes[:, 2:BOX] * np.sqrt(x * y)
    return np.column_stack([middle - side / 2, side, boxes[:, BOX:]]).astype(np.float32)


def upright(boxes: np.ndarray) -> np.ndarray:
    """Boxes with a roll: (N, 4) get one of 0, (N, 5) stay; float32."""
    boxes = np.asarray(boxes, np.float32)
    columns = boxes.shape[-1] if boxes.size else BOX
    if columns not in (BOX, BOX + 1):
        raise ValueError(f"got boxes of shape {boxes.shape}, expected (N, 4) or, with the roll, (N, 5)")
    boxes = boxes.reshape(-1, columns)
    return boxes if columns > BOX else np.column_stack([boxes, np.zeros(len(boxes), np.float32)])


class YuNetDetector:
    """YuNet (Wu, Peng and Yu, 2023, https://doi.org/10.1007/s11633-023-1423-y) through OpenCV, given its file.

    Args:
        model: ``face_detection_yunet_….onnx`` of https://github.com/opencv/opencv_zoo; not part of this repository.
        score: from which on a face counts, in [0, 1].

    Raises:
        ValueError: the file is missing or is no such network.
    """

    def __init__(self, model: str | Path, score: float = 0.7) -> None:
        try:
            self._net = cv2.FaceDetectorYN.create(str(model), "", (320, 320), score)
        except cv2.error:
            raise ValueError(f"{model}: expected the ONNX file of YuNet, got no network that OpenCV reads") from None
        self._alone = threading.Lock()  # the size is the network's own

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB → (N, 5) float32 boxes with their roll, as the frontal Haar cascade frames faces."""
        with self._alone:
            self._net.setInputSize(image.shape[1::-1])
            faces = self._net.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]  # x, y, w, h, five points, score
        points = np.zeros((0, 5, 2)) if faces is None else faces[:, 4:14].reshape(-1, 5, 2)
        return from_five_points(points)


FIVE_SIDE, FIVE_DOWN = 2.38, 0.3  # landmarks.REFERENCE_FACE's, with the first pass's medians in detector_scatter.json


def from_five_points(points: np.ndarray) -> np.ndarray:
    """Boxes of faces whose right eye, left eye, nose tip and right and left corner of the mouth are known.

    Args:
        points: (N, 5, 2) pixels, as YuNet, RetinaFace and MTCNN give them.

    Returns:
        (N, 5) float32: left, top, width, height, roll.
    """
    points = np.asarray(points, np.float64).reshape(-1, 5, 2)
    across = points[:, 1] - points[:, 0]  # from eye to eye
    middle, mouth = points[:, :2].mean(axis=1), points[:, 3:].mean(axis=1)
    roll = np.degrees(np.arctan2(across[:, 1], across[:, 0]))
    # A turned head's eyes come closer, a nodding one's mouth comes closer to them: the longer of both tells the size.
    size = np.maximum(np.linalg.norm(across, axis=1), np.linalg.norm(mouth - middle, axis=1))[:, None]
    centre, side = middle + FIVE_DOWN * (mouth - middle) + 0.5, FIVE_SIDE * size
    return np.column_stack([centre - side / 2, side, side, roll]).astype(np.float32)
