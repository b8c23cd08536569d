"""Augmentation: crops that are kept in memory; blur, occlusion, light, noise and compression; varied views of crops."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.nn import functional

from keypoints.landmarks import complete_keypoints
from training import metrics

# Pixels a side of the crops kept in memory: enough for a rotated crop of a face too large for its box.
SOURCE_SIZE = 320
SOURCE_FACE = 120.0  # pixels: the face's size in them (root of its box's area); the wild photos have some 128


def source_crop(image: np.ndarray, keypoints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Crop a face with a wide margin, at one scale for all.

    Args:
        image: (H, W, 3) uint8 RGB.
        keypoints: (68, 2) pixels.

    Returns:
        (320, 320) uint8 grey, borders repeated, and the keypoints in it, (68, 2) float32.
    """
    keypoints = np.asarray(keypoints, np.float64)
    scale, complete = SOURCE_FACE / metrics.face_size(keypoints), complete_keypoints(keypoints)
    middle = (complete.min(axis=0) + complete.max(axis=0) + 1) / 2
    matrix = np.column_stack([scale * np.eye(2), SOURCE_SIZE / 2 - scale * middle])
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    crop = warp(grey, matrix, SOURCE_SIZE, SOURCE_SIZE, cv2.BORDER_REPLICATE)
    return crop, ((keypoints + 0.5) @ matrix[:, :2].T + matrix[:, 2] - 0.5).astype(np.float32)


def warp(
    grey: np.ndarray, matrix: np.ndarray, width: int, height: int, border: int = cv2.BORDER_CONSTANT, value: int = 0
) -> np.ndarray:
    """Bring an image into a window by a similarity in continuous positions, averaged where it shrinks."""
    scale = math.sqrt(abs(np.linalg.det(matrix[:, :2])))
    matrix = np.array(matrix, np.float64)
    if scale < 0.7:
        size = max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale))
        matrix[:, :2] /= np.divide(size, grey.shape[::-1])
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    matrix[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5
    return cv2.warpAffine(grey, matrix, (width, height), borderMode=border, borderValue=value)


def damage(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Simulate blur, occlusion, light, noise and compression of a grey uint8 image; a new one is returned."""
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
    return image


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


@dataclass(frozen=True)
class Views:
    """Cuts what a network sees out of wider crops, as at use or varied.

    Attributes:
        side: of the views, pixels. share: the part of the crop's side that they show.
        turn, size, shift: standard deviations of what varies: radians, the logarithm of the size, half sides of a crop.
        mirrored: whether every other view is mirrored.
        blurred: which share of the views is reduced to one of the sides ``coarse``, pixels, and enlarged again.
    """

    side: int
    share: float
    turn: float
    size: float
    shift: float
    mirrored: bool
    blurred: float
    coarse: tuple[int, ...]

    def __call__(self, crops: torch.Tensor, random: torch.Generator | None = None) -> torch.Tensor:
        """(N, W, W) uint8 → (N, 1, S, S) float32 in [0, 1].

        Args:
            random: turns, shifts, sizes, mirrors, darkens, blurs and roughens the views; without it they are as at use.
        """
        count = len(crops)
        angle, mirror, shift = torch.zeros(count), torch.ones(count), torch.zeros(count, 2)
        size = torch.full((count,), self.share)
        if random is not None:
            angle = self.turn * torch.randn(count, generator=random)
            size = size * torch.exp(self.size * torch.randn(count, generator=random))
            if self.mirrored:
                mirror = torch.where(torch.rand(count, generator=random) < 0.5, -1.0, 1.0)
            shift = self.shift * torch.randn(count, 2, generator=random)
        cosine, sine = size * angle.cos(), size * angle.sin()
        linear = torch.stack([torch.stack([mirror * cosine, -sine], 1), torch.stack([mirror * sine, cosine], 1)], 1)
        shape = [count, 1, self.side, self.side]
        grid = functional.affine_grid(torch.cat([linear, shift[:, :, None]], 2), shape, align_corners=False)
        images = crops[:, None].float() / 255
        views = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
        return views if random is None else self._roughened(views, random)

    def _roughened(self, views: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        """Darken or lighten views, blur some of them, and add noise."""
        count = len(views)
        views = views.clamp(1e-3, 1) ** torch.exp(0.25 * torch.randn(count, 1, 1, 1, generator=random))
        blurred = torch.rand(count, generator=random) < self.blurred
        small = self.coarse[int(torch.randint(len(self.coarse), (1,), generator=random))]
        reduced = functional.interpolate(views[blurred], size=(small, small), mode="bilinear", antialias=True)
        views[blurred] = functional.interpolate(reduced, size=views.shape[2:], mode="bilinear")
        noise = 0.04 * torch.rand(count, 1, 1, 1, generator=random)
        return views + noise * torch.randn(views.shape, generator=random)
