"""The networks at use: ONNX graphs in onnxruntime, from images and boxes to keypoints. PyTorch is not needed.

The network for photographs sees a crop that is levelled and sized by the five points of the detector, or by the points
of the frame before. The course's has two stages: the coarse one sees a square view around a box and finds roughly where
the points are, the fine one a crop by these points.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

from keypoints.geometry import (
    BOX,
    FACE_SHARE,
    REFERENCE_FIVE,
    crop_to_image,
    crop_view,
    cut_out,
    face_crop,
    fit_similarity,
    five_points,
    inverse,
    transform,
    with_roll,
)
from keypoints.landmarks import (
    IMAGE_SIZE,
    KEYPOINT_MEAN,
    KEYPOINT_STD,
    LEFT_EYE,
    MOUTH,
    NUM_KEYPOINTS,
    RIGHT_EYE,
    face_size,
)

METADATA = "keypoints"  # the key of the graphs' metadata; its value is JSON
CHUNK = 16  # faces that go through a network together
MOST_BYTES = 2**26  # of a network's file


class Crop(NamedTuple):
    """A face as the keypoint network saw it: (S, S) uint8 grey, and its keypoints (68, 2) in the crop's pixels.

    ``free`` says that it is one of the weights for any purpose: they read its eyes, but no expression.
    """

    image: np.ndarray
    keypoints: np.ndarray
    free: bool = False


class Prediction(NamedTuple):
    """What a network predicts of N faces.

    Attributes:
        keypoints: (N, 68, 2) float32, pixels of the image.
        confidence: N arrays (68,) float32 in [0, 1]; None for each face where the network has none.
        score: N numbers in [0, 1], likewise.
        crops: N of :class:`Crop`; None for each face that lies outside its image.
    """

    keypoints: np.ndarray
    confidence: Any
    score: Any
    crops: Sequence[Crop | None]


@dataclass(frozen=True)
class Framing:
    """Where the network's view of a face lies relative to its box, and the box relative to the keypoints.

    The view must frame a face as in training. The Haar cascade's box ends close to the chin, so the view is larger and
    lower. Lengths are in sides of the box except ``box_*``, in sizes of the keypoints' box (square root of its area).
    Medians over training images; :func:`training.framing.measure_framing` finds them, the network's file carries them.
    """

    scale: float  # side of the view
    dx: float  # centre of the view, to the right of the box's
    dy: float  # … and below it
    box_scale: float  # side of the box
    box_dx: float  # centre of the box, to the right of the keypoints' box's
    box_dy: float  # … and below it (negative: above)

    @classmethod
    def of(cls, values: Any, name: str) -> Framing:
        """A framing of a dict of numbers.

        Raises:
            ValueError: they are not these six numbers.
        """
        try:
            return cls(**{key: float(value) for key, value in values.items()})
        except (AttributeError, TypeError, ValueError):
            expected = ", ".join(cls.__annotations__)
            got = str(values)[:200]
            raise ValueError(f"{name}: got the framing {got!r}, expected the numbers {expected}") from None

    def views(self, boxes: np.ndarray) -> np.ndarray:
        """The squares that the network sees, which may leave the image.

        Args:
            boxes: (N, 4) left, top, width, height as the Haar cascade gives them, or (N, 5) with the roll in degrees.

        Returns:
            (N, 4) float64: left, top and side of the square as if it stood upright, and the roll by which it is turned
            clockwise about its middle, so that the face stands upright in it.
        """
        boxes = with_roll(boxes).astype(np.float64)
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


def open_session(path: str | Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """An ONNX file in onnxruntime, on the CPU.

    Args:
        threads: one is best for single small faces; more only wait for each other.

    Raises:
        OSError: the file is missing or can't be read.
        ValueError: it is no network, or it is larger than 64 MB.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > MOST_BYTES or not path.is_file():
        raise ValueError(f"{path}: got {size:,} bytes, expected an ONNX file of at most {MOST_BYTES:,}")
    data = path.read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning stalls beside other programs
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception:  # onnxruntime's own classes have no common base
        raise ValueError(f"{path}: expected the ONNX file of a network, got another or a damaged file") from None


def load_network(path: str | Path, threads: int = 1) -> CropNetwork | StagedNetwork:
    """The keypoint network of ONNX files.

    Args:
        path: one of its files, their common stem, or the weights beside them.
        threads: of onnxruntime.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is no such network.
    """
    single, coarse, fine = network_files(path)
    if single.exists():
        return CropNetwork(single, threads)
    for file in (coarse, fine):
        if not file.exists():
            command = "python -m training export --onnx NAME --model WEIGHTS"
            raise FileNotFoundError(f"{file}: no such file, nor {single.name}; '{command}' writes them")
    return StagedNetwork(coarse, fine, threads)


def network_files(path: str | Path) -> tuple[Path, Path, Path]:
    """The files of a network of one stage, and of the coarse and the fine stage of another, given any of them."""
    stem = str(path)
    for ending in (".coarse.onnx", ".fine.onnx", ".onnx", ".safetensors"):
        stem = stem.removesuffix(ending)
    return Path(f"{stem}.onnx"), Path(f"{stem}.coarse.onnx"), Path(f"{stem}.fine.onnx")


def read_metadata(session: onnxruntime.InferenceSession, path: Path) -> dict:
    """What :mod:`training.export` wrote into a graph, and ``side``, the pixels of its input.

    Raises:
        ValueError: it is another graph.
    """
    try:
        about = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])
        return {"network": str(about["network"]), **about, "side": int(session.get_inputs()[0].shape[2])}
    except (KeyError, TypeError, ValueError, IndexError):
        raise ValueError(f"{path}: expected a network exported by training.export, got another") from None


# The Haar box of a face, and the crop that is right for an upright neutral face with that box.
CROP_FRAMING = Framing(1 / (FACE_SHARE * 1.18), 0.0, 0.196 / 1.18, 1.18, 0.0, -0.196)
AGAIN = 0.08  # of the crop's side: a face that lies farther from where it should, at a point of it, is cut out again
PASSES = 3  # at most


class CropNetwork:
    """:class:`models.PhotoNet` as an ONNX graph: a levelled crop of a face → keypoints, confidence and score.

    Where the keypoints say that the crop lay wrong, it is cut out again by them.
    """

    framing, has_score = CROP_FRAMING, True
    free = False  # of the crops that it predicts

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        self._session = open_session(path, threads)
        about = read_metadata(self._session, Path(path))
        self.name, self.side = about["network"], about["side"]

    def locate(self, images: Sequence[np.ndarray], boxes: np.ndarray, five: np.ndarray | None = None) -> Prediction:
        """Keypoints, confidence and score of N faces.

        Args:
            images: N, the one of each face: (H, W, 3) uint8 RGB or (H, W) grey.
            boxes: (N, 5) left, top, width, height, roll.
            five: (N, 5, 2) pixels: the five points of the detector, where it gives any; the boxes then count for
                nothing.

        Raises:
            ValueError: a box's view lies outside the image, or is more than 16 times as large.
        """
        if five is None:
            views = self.framing.views(boxes)
            cut = [crop_view(image, view, self.side) for image, view in zip(images, views, strict=True)]
            matrices = np.stack([matrix for _, matrix in cut])
        else:
            matrices = inverse(face_crop(five, self.side))
        return self._predict(images, matrices)

    def follow(self, images: Sequence[np.ndarray], points: np.ndarray) -> Prediction:
        """The same where points (N, 68, 2) are expected; NaN where a face is not in the image."""
        return self._predict(images, inverse(face_crop(five_points(points), self.side)))

    def _predict(self, images: Sequence[np.ndarray], matrices: np.ndarray) -> Prediction:
        """Predict crops, and again those that lay wrong; matrices (N, 2, 3) bring their pixels to the images'."""
        count = len(matrices)
        points = np.full((count, NUM_KEYPOINTS, 2), np.nan)
        confidence, score = np.zeros((count, NUM_KEYPOINTS), np.float32), np.zeros(count, np.float32)
        matrices, todo = np.array(matrices, np.float64), np.arange(count)
        seen: list[Crop | None] = [None] * count
        for _ in range(PASSES):
            cut = [cut_out(images[i], matrices[i], self.side) for i in todo.tolist()]
            todo, crops = todo[[crop is not None for crop in cut]], [crop for crop in cut if crop is not None]
            if not len(todo):
                break
            units, confidence[todo], score[todo] = _run(self._session, "crop", _batch(crops))
            pixels = _pixels(units, self.side)
            points[todo] = transform(pixels, matrices[todo])
            for i, crop, own in zip(todo.tolist(), crops, pixels, strict=True):
                seen[i] = Crop(crop, own, self.free)
            todo = todo[_misplaced(five_points(units)) > AGAIN]
            matrices[todo] = inverse(face_crop(five_points(points[todo]), self.side))
        return Prediction(points.astype(np.float32), confidence, score.tolist(), seen)


def _misplaced(five: np.ndarray) -> np.ndarray:
    """How far a face's edge lies from where it should, (N,), in sides of the crop; five points (N, 5, 2) likewise."""
    corners = np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]]) * FACE_SHARE + 0.5
    moved = transform(np.broadcast_to(corners, (len(five), 4, 2)), fit_similarity(five, REFERENCE_FIVE))
    return np.linalg.norm(moved - corners, axis=2).max(axis=1)


class StagedNetwork:
    """:class:`models.CoarseToFine` as the ONNX graphs of its two stages; see :mod:`training.export`."""

    has_score = False

    def __init__(self, coarse: str | Path, fine: str | Path, threads: int = 1) -> None:
        self._coarse, self._fine = open_session(coarse, threads), open_session(fine, threads)
        about = read_metadata(self._fine, Path(fine))
        self.view_side, self.crop_side = read_metadata(self._coarse, Path(coarse))["side"], about["side"]
        self.name, self.spread = about["network"], float(about["spread"])
        self.framing = Framing.of(about.get("framing"), str(fine))

    def locate(self, images: Sequence[np.ndarray], boxes: np.ndarray, five: np.ndarray | None = None) -> Prediction:
        """As :meth:`CropNetwork.locate`, by the boxes alone: both stages."""
        views = self.framing.views(boxes)
        cut = [crop_view(image, view, self.view_side) for image, view in zip(images, views, strict=True)]
        [points] = _run(self._coarse, "image", _batch([crop for crop, _ in cut]))
        points = transform(_pixels(points, self.view_side), np.stack([matrix for _, matrix in cut]))
        return self._refine(images, points, views[:, 2])

    def follow(self, images: Sequence[np.ndarray], points: np.ndarray) -> Prediction:
        """The fine stage alone, where points (N, 68, 2) are expected; NaN where a face is not in the image."""
        return self._refine(images, np.asarray(points, np.float64), None)

    def _refine(self, images: Sequence[np.ndarray], points: np.ndarray, sides: np.ndarray | None) -> Prediction:
        to_image = self._crops(points, sides)
        crops = [cut_out(image, matrix, self.crop_side) for image, matrix in zip(images, to_image, strict=True)]
        empty = np.zeros((self.crop_side, self.crop_side), np.uint8)
        [found] = _run(self._fine, "crop", _batch([empty if crop is None else crop for crop in crops]))
        pixels = _pixels(found, self.crop_side)
        keypoints = transform(pixels, to_image).astype(np.float32)
        keypoints[[crop is None for crop in crops]] = np.nan
        seen = [None if crop is None else Crop(crop, own) for crop, own in zip(crops, pixels, strict=True)]
        return Prediction(keypoints, [None] * len(points), [None] * len(points), seen)

    def _crops(self, points: np.ndarray, sides: np.ndarray | None) -> np.ndarray:
        """Similarities (N, 2, 3) from pixels of the fine crop to the image's, for points (N, 68, 2) of the image.

        The crop is levelled by the line from eyes to mouth and sized by the points' root mean square distance from
        their centroid, within a tenth and four fifths of half a view's side.
        """
        centroid = points.mean(axis=1)
        radius = np.sqrt(np.square(points - centroid[:, None]).sum(axis=2).mean(axis=1))
        if sides is not None:
            radius = np.clip(radius, 0.05 * sides, 0.4 * sides)
        radius = np.maximum(radius, 1e-3)
        eyes = points[:, RIGHT_EYE.start : LEFT_EYE.stop].mean(axis=1)
        down = points[:, MOUTH].mean(axis=1) - eyes
        down = down / np.maximum(np.linalg.norm(down, axis=1, keepdims=True), 1e-4)
        # The jaw has few points for its length: the middle of the face is below the centroid.
        middle = centroid + 0.15 * radius[:, None] * down
        return crop_to_image(middle, down, radius / (2 * self.spread), self.crop_side)


class TorchNetwork:
    """A PyTorch network that somebody hands over: a 224-pixel view of a face in, 136 numbers out, in one stage.

    Args:
        net: maps (N, 1, 224, 224) float32, grey in [0, 1], to (N, 136) in network units. It has a ``framing``.
    """

    has_score = False

    def __init__(self, net: Any, device: str = "cpu") -> None:
        self.net, self.device, self.name = net.to(device).eval(), device, type(net).__name__
        if not getattr(net, "framing", None):
            raise ValueError(
                "the network: got none of the numbers of a framing, expected a network whose .framing was set with "
                "measure_framing"
            )
        self.framing = Framing.of(net.framing, "the network")

    def locate(self, images: Sequence[np.ndarray], boxes: np.ndarray, five: np.ndarray | None = None) -> Prediction:
        """As :meth:`StagedNetwork.locate`."""
        torch = sys.modules["torch"]  # loaded by whoever made the network
        views = self.framing.views(boxes)
        cut = [crop_view(image, view, IMAGE_SIZE) for image, view in zip(images, views, strict=True)]
        crops, parts = [crop for crop, _ in cut], []
        with torch.no_grad():
            for i in range(0, len(crops), CHUNK):
                batch = torch.from_numpy(_batch(crops[i : i + CHUNK])).to(self.device)
                parts.append(self.net(batch).float().cpu().numpy())
        points = np.concatenate(parts).reshape(-1, NUM_KEYPOINTS, 2).astype(np.float64) * KEYPOINT_STD + KEYPOINT_MEAN
        keypoints = transform(points, np.stack([matrix for _, matrix in cut])).astype(np.float32)
        return Prediction(keypoints, [None] * len(points), [None] * len(points), list(map(Crop, crops, points)))

    def follow(self, images: Sequence[np.ndarray], points: np.ndarray) -> Prediction:
        """The network has no second stage: its view lies where the box of the points would be."""
        return self.locate(images, with_roll(self.framing.boxes(points)))


def _run(session: onnxruntime.InferenceSession, name: str, values: np.ndarray) -> list[np.ndarray]:
    parts = [session.run(None, {name: values[i : i + CHUNK]}) for i in range(0, len(values), CHUNK)]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _batch(crops: Sequence[np.ndarray]) -> np.ndarray:
    """Grey crops as a network takes them: (N, 1, S, S) float32 in [0, 1]."""
    return np.stack(crops)[:, None].astype(np.float32) / 255


def _pixels(points: np.ndarray, side: int) -> np.ndarray:
    """From 0 at the crop's one edge to 1 at the other, to pixels."""
    return points.astype(np.float64) * side - 0.5
