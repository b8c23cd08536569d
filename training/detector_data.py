"""Training views for the face detector: windows of whole pictures at every size, tilt and light.

A picture is grey, with a box for each face and, where they are known, five points. Positions are continuous: the pixel
in column 0 reaches from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from data_load import NUM_KEYPOINTS
from training.augmentation import warp

FLIPPED = [1, 0, 2, 4, 3]  # which of the five points each becomes in a mirror
SMALLEST = 7.0  # pixels: smaller faces are neither faces nor background


@dataclass
class Picture:
    """One picture with all its faces.

    Attributes:
        grey: (H, W) uint8.
        boxes: (M, 4) float32, pixels: left, top, right, bottom; hairline to chin.
        points: (M, 5, 2) float32, pixels: right eye, left eye, nose tip, right and left corner of the mouth; NaN where
            they are not known.
        sure: (M,) bool: whether the box is certain. A face that is not sure is neither face nor background.
    """

    grey: np.ndarray
    boxes: np.ndarray
    points: np.ndarray
    sure: np.ndarray


# Where a box that people draw lies around the 68 points' own, in widths and heights of that: medians over the drawn
# boxes in which the points network is sure (`python -m training.detector label`).
DRAWN_BOX = np.array([0.0, -0.33, 0.0, 0.0])  # left, top, right, bottom


def face_boxes(keypoints: np.ndarray) -> np.ndarray:
    """The boxes that people would draw around faces of known points: (N, 68, 2) → (N, 4) left, top, right, bottom."""
    keypoints = np.asarray(keypoints, np.float64).reshape(-1, NUM_KEYPOINTS, 2)
    low, high = keypoints.min(axis=1), keypoints.max(axis=1)
    size = np.tile(high - low, 2)
    return (np.concatenate([low, high], axis=1) + DRAWN_BOX * size).astype(np.float32)


class DetectorViews(Dataset):
    """Endless random views of pictures, ``size`` pixels a side.

    Args:
        groups: pictures by kind, and how probable each kind is.
        length: views an epoch.
        seed: each view depends on this and its index alone, so that a training can go on where it was cut off.

    Each sample is the view (1, size, size) uint8, boxes (M, 4), points (M, 5, 2), and sure (M,) bool.
    """

    def __init__(
        self, groups: Sequence[tuple[Sequence[Picture], float]], length: int, size: int = 320, seed: int = 0
    ) -> None:
        self.groups, self.length, self.size, self.seed = groups, length, size, seed
        self.start = 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([self.seed, self.start + index])
        view = self._mosaic(rng) if rng.random() < 0.3 else self._window(rng, self.size, self.size)
        grey = spoil(view.grey, rng)
        faces = torch.from_numpy(view.boxes), torch.from_numpy(view.points), torch.from_numpy(view.sure)
        return torch.from_numpy(grey)[None], *faces

    def _window(self, rng: np.random.Generator, width: int, height: int) -> Picture:
        chances = np.array([chance for _, chance in self.groups])
        pictures = self.groups[rng.choice(len(chances), p=chances / chances.sum())][0]
        return random_window(pictures[int(rng.integers(len(pictures)))], width, height, rng)

    def _mosaic(self, rng: np.random.Generator) -> Picture:
        """Four windows side by side, so that many sizes and lights meet in one view."""
        x, y = (rng.uniform(0.25, 0.75, 2) * self.size).astype(int)
        canvas = np.zeros((self.size, self.size), np.uint8)
        parts = []
        for left, right in ((0, x), (x, self.size)):
            for top, bottom in ((0, y), (y, self.size)):
                part = self._window(rng, right - left, bottom - top)
                canvas[top:bottom, left:right] = part.grey
                shift = np.array([left, top], np.float32)
                parts.append((part.boxes + np.tile(shift, 2), part.points + shift, part.sure))
        return Picture(canvas, *(np.concatenate(values) for values in zip(*parts, strict=True)))


def random_window(picture: Picture, width: int, height: int, rng: np.random.Generator) -> Picture:
    """A window of a picture around one of its faces, or anywhere: scaled, turned, mirrored."""
    image_height, image_width = picture.grey.shape
    boxes, side = picture.boxes, min(width, height)
    whole = side / max(image_width, image_height)
    chosen = None
    if len(boxes) and rng.random() < 0.85:
        chosen = rng.integers(len(boxes))
        face = math.sqrt(float(np.prod(boxes[chosen, 2:] - boxes[chosen, :2])))
        scale = math.exp(rng.uniform(math.log(9), math.log(0.95 * side))) / max(face, 1)
        scale = float(np.clip(scale, 0.6 * whole, 2.5))
    else:
        scale = whole * math.exp(rng.uniform(math.log(0.6), math.log(3)))
    draw = rng.random()
    angle = rng.normal(0, 10) if draw < 0.5 else rng.uniform(-45, 45) if draw < 0.92 else rng.uniform(-180, 180)
    cosine, sine = scale * math.cos(math.radians(angle)), scale * math.sin(math.radians(angle))
    linear = np.array([[cosine, -sine], [sine, cosine]])
    if rng.random() < 0.5:
        linear = linear * [[-1, -1], [1, 1]]  # mirrored
    if chosen is not None:
        middle = (boxes[chosen, :2] + boxes[chosen, 2:]) / 2
        place = rng.uniform(0.02, 0.98, 2) * [width, height]
    else:
        middle = rng.uniform(0, 1, 2) * [image_width, image_height]
        place = np.array([width, height]) / 2
    matrix = np.column_stack([linear, place - linear @ middle])
    border = (cv2.BORDER_REPLICATE, cv2.BORDER_CONSTANT)[int(rng.random() < 0.7)]
    grey = warp(picture.grey, matrix, width, height, border, int(rng.integers(256)))
    return move(picture, matrix, grey)


def move(picture: Picture, matrix: np.ndarray, grey: np.ndarray) -> Picture:
    """The faces of a picture in a window, ``grey``, that a similarity brings it into.

    A face is kept where its middle lies in the window. It is not sure where less than 45 % of it is visible, or where
    it is too small or a small one that was enlarged.
    """
    height, width = grey.shape
    linear = matrix[:, :2]
    half = (picture.boxes[:, 2:] - picture.boxes[:, :2]) / 2
    middle = (picture.boxes[:, :2] + half) @ linear.T + matrix[:, 2]
    # A face is more like an ellipse than like a box: the box around the turned ellipse.
    half = np.sqrt(half**2 @ (linear**2).T)
    points = picture.points @ linear.T + matrix[:, 2]
    if np.linalg.det(linear) < 0:
        points = points[:, FLIPPED]
    boxes = np.concatenate([middle - half, middle + half], axis=1)
    visible = np.clip(boxes, 0, [width, height, width, height])
    area = (visible[:, 2:] - visible[:, :2]).prod(axis=1) / np.maximum((4 * half.prod(axis=1)), 1e-6)
    kept = area > 0.02
    size = np.sqrt(4 * half.prod(axis=1))
    sharp = size >= 6 * abs(np.linalg.det(linear))  # of six pixels a window may show six, of twelve 24: else a stain
    sure = picture.sure & (area > 0.45) & (size >= SMALLEST) & sharp
    return Picture(grey, boxes[kept].astype(np.float32), points[kept].astype(np.float32), sure[kept])


def spoil(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What cameras, lamps and codecs do to a grey uint8 image, each now and then; the light a little always."""
    soft, dark, hidden, noisy, coded, flipped = rng.random(6)
    if soft < 0.12:
        grey = cv2.GaussianBlur(grey, (0, 0), rng.uniform(0.5, 2))
    elif soft < 0.2:
        length = int(rng.integers(3, 10))
        kernel = np.zeros((length, length), np.float32)
        angle = rng.uniform(0, math.pi)
        end = (length / 2 * np.array([math.cos(angle), math.sin(angle)])).round().astype(int)
        middle = length // 2
        cv2.line(kernel, (middle - end[0], middle - end[1]), (middle + end[0], middle + end[1]), 1.0)
        grey = cv2.filter2D(grey, -1, kernel / max(float(kernel.sum()), 1.0))
    elif soft < 0.35:
        share = rng.uniform(0.4, 0.9)
        small = cv2.resize(grey, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
        grey = cv2.resize(small, grey.shape[::-1], interpolation=cv2.INTER_LINEAR)
    if hidden < 0.15:
        grey = grey.copy()
        for _ in range(rng.integers(1, 4)):
            axes = (rng.uniform(0.02, 0.12, 2) * grey.shape[0]).astype(int) + 1
            x, y = rng.integers(0, grey.shape[0], 2)
            cv2.ellipse(grey, (int(x), int(y)), axes.tolist(), rng.uniform(0, 180), 0, 360, int(rng.integers(256)), -1)
    values = np.linspace(0, 1, 256) ** math.exp(rng.normal(0, 0.3)) - 0.5
    values = values * math.exp(rng.normal(0, 0.25)) + 0.5 + rng.normal(0, 0.1)
    if dark < 0.12:  # dim or flat: few grey levels are left
        values = values * math.exp(rng.uniform(math.log(0.04), math.log(0.6))) + rng.uniform(0, 0.3)
    if flipped < 0.02:
        values = 1 - values
    grey = cv2.LUT(grey, np.clip(255 * values, 0, 255).astype(np.uint8))
    if noisy < 0.2:
        noise = rng.normal(0, rng.uniform(1, 12) * (0.2 if dark < 0.12 else 1), grey.shape)
        grey = np.clip(grey + noise, 0, 255).astype(np.uint8)
    if coded < 0.3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 80))]
        grey = cv2.imdecode(cv2.imencode(".jpg", grey, quality)[1], cv2.IMREAD_GRAYSCALE)
    return grey


def normalise(grey: torch.Tensor) -> torch.Tensor:
    """(…, H, W) uint8 → float32 of mean 0 and standard deviation 1; less where the image is nearly even."""
    value = grey.float()
    mean = value.mean(dim=(-2, -1), keepdim=True)
    return (value - mean) / (value.std(dim=(-2, -1), keepdim=True, correction=0) + 1)


def collate(samples: list) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A batch: images (N, 1, H, W) uint8, boxes (N, M, 4), points (N, M, 5, 2) and sure (N, M), M the most faces.

    Images with fewer faces have boxes of no extent and points of NaN there, and those are sure: nothing to ignore.
    """
    images, boxes, points, sure = zip(*samples, strict=True)
    pad = partial(nn.utils.rnn.pad_sequence, batch_first=True)
    return torch.stack(images), pad(boxes), pad(points, padding_value=torch.nan), pad(sure, padding_value=True)
