"""Augmentation for photographs: faces cropped from any labelled image, then rotated, moved, lit and damaged at random.

The recipe's four transforms suit video frames. Faces in photographs are tilted, larger or smaller than the detector's
box, lit from one side, compressed or partly occluded. One warp of the source image and a few operations on its grey
values simulate that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision.transforms import Compose

from data_load import IMAGE_SIZE, Normalize, ToTensor, label_offset, read_image, read_keypoints, require_images
from keypoints.landmarks import complete_keypoints, flip_keypoints
from training import metrics

SOURCE_SIZE = (
    320  # pixels a side of the crops kept in memory; enough for a rotated crop of a face too large for its box
)
SOURCE_FACE = 120.0  # pixels: the face's size in them (root of its box's area); the wild photos have some 128
# The crop for a network for photographs, in sizes of the face: its side; its centre below that of the keypoints' box.
VIEW_SCALE, VIEW_DY = 2.1, -0.095
# How the Haar box lies around faces: standard deviations of its centre, right and down, in sizes of the face, and of
# the logarithm of its side. Measured 0.11, 0.05, 0.10 on validation people (results/detector_scatter.json); enlarged
# since trackers and other detectors are no better, and downwards as far as a profile's box may be off.
SCATTER = (0.13, 0.07, 0.13)


def source_crop(image: np.ndarray, keypoints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Crop a face with a wide margin, at one scale for all.

    Args:
        image: (H, W, 3) uint8 RGB.
        keypoints: (68, 2) pixels.

    Returns:
        (320, 320) uint8 grey, borders repeated, and the keypoints in it, (68, 2) float32.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    keypoints = np.asarray(keypoints, np.float64)
    scale = SOURCE_FACE / metrics.face_size(keypoints)
    if scale < 0.7:  # a warp alone would skip pixels: shrink by averaging first
        small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        keypoints = (keypoints + 0.5) * np.divide(small.shape[::-1], grey.shape[::-1]) - 0.5
        grey, scale = small, SOURCE_FACE / metrics.face_size(keypoints)
    middle = _middle(keypoints)
    matrix = np.column_stack([scale * np.eye(2), (SOURCE_SIZE - 1) / 2 - scale * middle])
    crop = cv2.warpAffine(grey, matrix, (SOURCE_SIZE, SOURCE_SIZE), borderMode=cv2.BORDER_REPLICATE)
    return crop, (keypoints @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


class FaceCrops(Dataset):
    """Faces of a label file as source crops in memory (100 kB each).

    Args:
        csv_file, root_dir: labels in the official layout, and the folder of their images.
        names: those to take (default: all).
        transform: takes {'image': (320, 320) uint8 grey, 'keypoints': (68, 2) float32}, returns a sample.
        official: whether the labels are the official set's, which lie right and below of the features; they are moved
            back by :func:`data_load.label_offset`.
        missing, bad_labels: see :func:`data_load.read_keypoints`.

    Raises:
        OSError, ValueError: the labels or images can't be read, are missing, or are wrong.
    """

    def __init__(
        self,
        csv_file: str | Path,
        root_dir: str | Path,
        names: Sequence[str] | None = None,
        transform: Callable[[dict], dict] | None = None,
        official: bool = False,
        missing: str = "refuse",
        bad_labels: str = "refuse",
    ) -> None:
        listed, keypoints = read_keypoints(csv_file, root_dir, missing, bad_labels)
        wanted = set(listed if names is None else names)
        if official:
            keypoints = keypoints - label_offset(complete_keypoints(keypoints))[:, None]
        chosen = [i for i, name in enumerate(listed) if name in wanted]
        self.names, self.transform = [listed[i] for i in chosen], transform
        require_images(self.names, root_dir)
        crops = [source_crop(read_image(Path(root_dir) / listed[i]), keypoints[i]) for i in chosen]
        self.crops = [crop for crop, _ in crops]
        self.keypoints = np.stack([points for _, points in crops])

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict:
        sample = {"image": self.crops[index], "keypoints": self.keypoints[index]}
        return self.transform(sample) if self.transform else sample


def cut_view(sample: dict, matrix: np.ndarray) -> dict:
    """Warp a sample to the network's size; matrix (2, 3) maps pixels of the sample to those of the crop."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    image = cv2.warpAffine(sample["image"], matrix, size, borderMode=cv2.BORDER_REPLICATE)
    keypoints = sample["keypoints"] @ matrix[:, :2].T + matrix[:, 2]
    return {**sample, "image": image, "keypoints": keypoints.astype(np.float32)}


class FramedView:
    """Crop a face as its keypoints frame it; nothing random."""

    def __call__(self, sample: dict) -> dict:
        size = metrics.face_size(sample["keypoints"])
        middle = _middle(sample["keypoints"]) + np.array([0, VIEW_DY * size])
        linear = np.eye(2) * IMAGE_SIZE / (VIEW_SCALE * size)
        return cut_view(sample, np.column_stack([linear, (IMAGE_SIZE - 1) / 2 - linear @ middle]))


def _middle(keypoints: np.ndarray) -> np.ndarray:
    keypoints = complete_keypoints(keypoints)
    return (keypoints.min(axis=0) + keypoints.max(axis=0)).astype(np.float64) / 2


def generator() -> np.random.Generator:
    """Return a NumPy generator that is seeded by PyTorch's, in the main process as in workers."""
    return np.random.default_rng(int(torch.randint(2**31, ())))


@dataclass
class RandomView:
    """Crop a face as a detector might, rotated, and mirrored half the time.

    One affine warp: rotation (normal, ``tilt`` degrees; a quarter of the crops evenly within ±``wide``), size and place
    by :data:`SCATTER`, a little stretch and shear.
    """

    tilt: float = 14.0
    wide: float = 45.0

    def __call__(self, sample: dict) -> dict:
        rng, size = generator(), metrics.face_size(sample["keypoints"])
        right, down, larger = rng.normal(0, SCATTER)
        side = VIEW_SCALE * size * math.exp(larger)
        middle = _middle(sample["keypoints"]) + np.array([right, VIEW_DY + down]) * size
        angle = math.radians(rng.normal(0, self.tilt) if rng.random() < 0.75 else rng.uniform(-self.wide, self.wide))
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        stretch = np.array([[math.exp(rng.normal(0, 0.04)), rng.normal(0, 0.03)], [0, 1]])
        linear = turn @ stretch * IMAGE_SIZE / side
        view = cut_view(sample, np.column_stack([linear, (IMAGE_SIZE - 1) / 2 - linear @ middle]))
        if rng.random() < 0.5:
            view["image"] = view["image"][:, ::-1].copy()
            view["keypoints"] = flip_keypoints(view["keypoints"], IMAGE_SIZE)
        return view


@dataclass
class RandomDamage:
    """Simulate blur, occlusion, light, noise and compression of a grey uint8 image.

    Args:
        share: of the images that are damaged.
    """

    share: float = 1.0

    def __call__(self, sample: dict) -> dict:
        if self.share < 1 and float(torch.rand(())) >= self.share:
            return sample
        rng, image = generator(), sample["image"]
        soft, occluded, uneven, noisy, coded = rng.random(5)
        if soft < 0.25:
            image = low_resolution(image, rng.uniform(0.15, 0.6))
        elif soft < 0.4:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 2.5))
        if occluded < 0.3:
            image = image.copy()
            for _ in range(rng.integers(1, 3)):
                occlude(image, rng)
        # Gamma, contrast and brightness, by a table of what becomes of each of the 256 values.
        values = np.linspace(0, 1, 256) ** math.exp(rng.normal(0, 0.25)) - 0.5
        values = values * math.exp(rng.normal(0, 0.2)) + 0.5 + rng.normal(0, 0.1)
        image = cv2.LUT(image, np.clip(255 * values, 0, 255).astype(np.uint8))
        if uneven < 0.15:
            angle, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0.2, 0.6)
            y, x = np.mgrid[-1 : 1 : image.shape[0] * 1j, -1 : 1 : image.shape[1] * 1j]
            light = 1 + strength * (x * math.cos(angle) + y * math.sin(angle))
            image = np.clip(image * light, 0, 255).astype(np.uint8)
        if noisy < 0.2:
            noise = rng.normal(0, rng.uniform(2, 12), image.shape)
            image = np.clip(image + noise, 0, 255).astype(np.uint8)
        if coded < 0.25:
            quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 70))]
            image = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_GRAYSCALE)
        return {**sample, "image": image}


def low_resolution(image: np.ndarray, share: float) -> np.ndarray:
    """Reduce the resolution to ``share`` as many pixels, at the same size."""
    height, width = image.shape
    size = max(1, round(width * share)), max(1, round(height * share))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def occlude(image: np.ndarray, rng: np.random.Generator) -> None:
    """Paint over a part of the image, in place: an ellipse or a rectangle, of one grey or of noise."""
    height, width = image.shape
    size = rng.uniform(0.07, 0.4, 2) * [width, height]
    x, y = rng.uniform(0.1, 0.9, 2) * [width, height]
    if rng.random() < 0.5:
        axes = (int(size[0] / 2), int(size[1] / 2))
        cv2.ellipse(image, (int(x), int(y)), axes, rng.uniform(0, 180), 0, 360, int(rng.integers(256)), -1)
        return
    left, top = np.maximum(0, [x - size[0] / 2, y - size[1] / 2]).astype(int)
    part = image[top : int(y + size[1] / 2), left : int(x + size[0] / 2)]
    part[:] = rng.integers(0, 256) if rng.random() < 0.5 else rng.integers(0, 256, part.shape)


def photo_framing(measured: dict) -> dict:
    """Return the crop geometry with which boxes that lie as ``measured`` give the crops of :class:`FramedView`.

    Args:
        measured: ``box_scale``, ``box_dx`` and ``box_dy`` of :func:`keypoints.detection.measure_framing`.
    """
    box = {name: measured[name] for name in ("box_scale", "box_dx", "box_dy")}
    view = {"scale": VIEW_SCALE, "dx": -box["box_dx"], "dy": VIEW_DY - box["box_dy"]}
    view = {name: round(value / box["box_scale"], 4) for name, value in view.items()}
    return {**view, **box}


def photo_transform() -> Compose:
    """Return the augmentation of a network for photographs: from source crop to sample."""
    return Compose([RandomView(), RandomDamage(), Normalize(), ToTensor()])


def gentle_transform() -> Compose:
    """Return a weaker augmentation, closer to faces in use: less rotation, and damage to two in five."""
    return Compose([RandomView(tilt=9, wide=30), RandomDamage(share=0.4), Normalize(), ToTensor()])


def framed_transform() -> Compose:
    """Return the transform without anything random, framed by the labels."""
    return Compose([FramedView(), Normalize(), ToTensor()])
