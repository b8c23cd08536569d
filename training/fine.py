"""Train the fine network: levelled crops of faces → 68 heatmaps that point, and a score.

`python -m training.fine label --folder FOLDER` finds 68 points for the faces without labels with today's network, and
`python -m training.fine train --folder FOLDER --out fine.pt` trains and goes on with what was cut off.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from data_load import NUM_KEYPOINTS, find_data, label_offset, person_of, read_image, read_keypoints
from keypoints.detection import KeypointDetector
from keypoints.geometry import face_crop, five_points
from keypoints.landmarks import FLIP_INDEX
from models import FineNet
from training import metrics
from training.augmentation import RandomDamage, source_crop
from training.detector import held_out_names, read_boxes
from training.loop import fit
from training.splits import read_splits

MISPLACED = 0.08  # of the face's size: from which mean error on keypoints do not fit the face


@dataclass(frozen=True)
class FineRecipe:
    """How the fine network is trained."""

    views: int = 240_000
    views_an_epoch: int = 6_000
    batch_size: int = 16
    side: int = 128  # pixels of the crop
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    average: float = 0.999
    heatmap_weight: float = 0.2  # of the heatmaps' shape against their expected points
    sigma: float = 1.0  # cells: the Gaussian that a heatmap should resemble
    negatives: float = 0.08  # share of views without a face
    seed: int = 0


# Data -----------------------------------------------------------------------------------------------------------------


@dataclass
class Faces:
    """Faces of one kind as source crops of 320 pixels in which the face has 120.

    Attributes:
        crops: N arrays (320, 320) uint8.
        keypoints: (N, 68, 2) float32, pixels of the crops.
        names: of their files.
    """

    crops: list[np.ndarray]
    keypoints: np.ndarray
    names: list[str]


def read_faces(folder: Path, hard: Path | None) -> tuple[dict[str, Faces], dict[str, Faces], list[np.ndarray]]:
    """Faces to train on and to validate on, by kind; and pictures without their faces, for the score."""
    splits = read_splits()
    wild = {part: {file for group in groups for file in group} for part, groups in splits["wild"].items()}
    people = {person: part for part, group in splits["by_person"].items() for person in group}
    chosen: dict[tuple[str, str], list] = defaultdict(list)
    if (folder / "wild").exists():
        for name, points in zip(*read_keypoints(folder / "wild" / "wild_keypoints.csv"), strict=True):
            part = "validation" if name in wild["validation"] else "training"
            chosen[part, "wild"].append((folder / "wild" / name, points))
    if (folder / "official").exists():
        names, keypoints = read_keypoints(folder / "official" / "training_frames_keypoints.csv")
        keypoints = keypoints - label_offset(keypoints)[:, None]
        for name, points in zip(names, keypoints, strict=True):
            part = people[person_of(name)]
            if part != "test":
                chosen[part, "frames"].append((folder / "official" / "training" / name, points))
    heads = [find_data("sample"), *(find_data(path) for path in sorted((folder / "rendered").glob("*")))]
    for data in heads:
        for name, points in zip(*read_keypoints(data.csv_file("training")), strict=True):
            chosen["training", "rendered"].append((data.image_dir("training") / name, points))
    sample = find_data("sample")
    for name, points in zip(*read_keypoints(sample.csv_file("test")), strict=True):
        chosen["validation", "rendered"].append((sample.image_dir("test") / name, points))
    if (folder / "unlabelled.npz").exists():
        known = np.load(folder / "unlabelled.npz")
        for name in known.files:
            chosen["training", "unlabelled"].append((folder / "unlabelled" / name, known[name]))
    if hard is not None and (folder / "hard").exists():
        for name, points in zip(*read_keypoints(hard / "keypoints.csv"), strict=True):
            chosen["validation", "hard"].append((folder / "hard" / name, points))
    sets: dict[str, dict[str, Faces]] = {"training": {}, "validation": {}}
    for (part, kind), faces in chosen.items():
        made = [source_crop(read_image(path), points) for path, points in faces]
        sets[part][kind] = Faces([c for c, _ in made], np.stack([p for _, p in made]), [p.name for p, _ in faces])
    empty = []
    if (folder / "detection").exists():
        held = held_out_names(hard)
        for name, (boxes, _, _) in list(read_boxes(folder / "detection").items()):
            file = name.split("/")[1]
            if name not in held and file not in wild["validation"]:
                grey = cv2.cvtColor(read_image(folder / "detection" / name), cv2.COLOR_RGB2GRAY)
                empty.append((grey, boxes))
    return sets["training"], sets["validation"], empty


class FineViews(Dataset):
    """Endless random crops of faces: (crop, keypoints, kind) with crop (1, S, S) float32 in [0, 1].

    ``keypoints`` are (68, 2) float32 in crop units from 0 to 1, all NaN where there is no face.
    """

    SHARES: ClassVar = {"wild": 0.42, "frames": 0.2, "rendered": 0.2, "unlabelled": 0.18}

    def __init__(self, faces: dict[str, Faces], empty: list, recipe: FineRecipe, gentle: float = 0.0) -> None:
        self.faces, self.empty, self.recipe, self.start, self.gentle = faces, empty, recipe, 0, gentle
        self.kinds = list(faces)
        shares = np.array([self.SHARES[kind] for kind in self.kinds])
        self.shares = shares / shares.sum()
        self.damage = RandomDamage()

    def __len__(self) -> int:
        return self.recipe.views_an_epoch

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([self.recipe.seed, self.start + index])
        torch.manual_seed(int(rng.integers(2**31)))  # RandomDamage draws from PyTorch's generator
        side = self.recipe.side
        if self.empty and rng.random() < self.recipe.negatives:
            crop, keypoints = self._without_face(rng), np.full((NUM_KEYPOINTS, 2), np.nan, np.float32)
        else:
            faces = self.faces[self.kinds[rng.choice(len(self.kinds), p=self.shares)]]
            i = rng.integers(len(faces.crops))
            crop, keypoints = random_crop(faces.crops[i], faces.keypoints[i], side, rng)
            keypoints = ((keypoints + 0.5) / side).astype(np.float32)
        if rng.random() >= self.gentle:
            crop = low_light(self.damage({"image": crop})["image"], rng)
        return torch.from_numpy(crop[None].astype(np.float32) / 255), torch.from_numpy(keypoints)

    def _without_face(self, rng: np.random.Generator) -> np.ndarray:
        """A window of a picture that holds no face, or the smaller part of one."""
        side = self.recipe.side
        grey, boxes = self.empty[rng.integers(len(self.empty))]
        for _ in range(20):
            size = math.exp(rng.uniform(math.log(24), math.log(0.6 * min(grey.shape))))
            x, y = rng.uniform(size / 2, grey.shape[1] - size / 2), rng.uniform(size / 2, grey.shape[0] - size / 2)
            low = np.maximum(boxes[:, :2], [x - size / 2, y - size / 2])
            high = np.minimum(boxes[:, 2:], [x + size / 2, y + size / 2])
            shared = np.clip(high - low, 0, None).prod(axis=1)
            if (shared < 0.15 * size**2).all() and (shared < 0.5 * (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)).all():
                break
        matrix = np.array([[side / size, 0, side / 2 - x * side / size], [0, side / size, side / 2 - y * side / size]])
        return warp_averaged(grey, matrix, side)


def random_crop(
    source: np.ndarray, keypoints: np.ndarray, side: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The crop that five points with a detector's errors would give, mirrored half the time."""
    size = metrics.face_size(keypoints)
    wide = 2.0 if rng.random() < 0.25 else 1.0
    five = five_points(keypoints).astype(np.float64)
    five = five + rng.normal(0, 0.03 * wide * size, five.shape) + rng.normal(0, 0.03 * wide * size, 2)
    middle = five.mean(axis=0)
    angle, scale = math.radians(rng.normal(0, 6 * wide)), math.exp(rng.normal(0, 0.08 * wide))
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    five = (five - middle) @ turn.T + middle
    matrix = face_crop(five[None], side)[0]
    stretch = np.eye(2) + rng.normal(0, 0.025, (2, 2))
    centre = np.full(2, (side - 1) / 2)
    matrix = np.column_stack([stretch @ matrix[:, :2], stretch @ (matrix[:, 2] - centre) + centre])
    crop = warp_averaged(source, matrix, side)
    keypoints = keypoints @ matrix[:, :2].T + matrix[:, 2]
    if rng.random() < 0.5:
        crop = crop[:, ::-1].copy()
        keypoints = keypoints[FLIP_INDEX]
        keypoints[:, 0] = side - 1 - keypoints[:, 0]
    return crop, keypoints


def warp_averaged(image: np.ndarray, matrix: np.ndarray, side: int) -> np.ndarray:
    """A crop by a similarity, averaged where it shrinks by more than a third."""
    scale = math.sqrt(abs(np.linalg.det(matrix[:, :2])))
    matrix = np.array(matrix, np.float64)
    if scale < 0.67:
        size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        ratio = np.divide(size, image.shape[::-1])
        matrix[:, 2] -= matrix[:, :2] @ ((0.5 - 0.5 * ratio) / ratio)
        matrix[:, :2] = matrix[:, :2] / ratio
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.warpAffine(image, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)


def low_light(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Now and then as in the dark: few grey levels, with noise."""
    if rng.random() >= 0.08:
        return image
    gain = math.exp(rng.uniform(math.log(0.04), math.log(0.5)))
    dark = image * gain + rng.normal(0, rng.uniform(0.2, 3), image.shape)
    return np.clip(dark, 0, 255).astype(np.uint8)


def label(folder: Path, hard: Path | None) -> None:
    """Find the 68 points of the faces in ``unlabelled/`` by averaging four crops; keep those on which they agree."""
    detector = KeypointDetector(bfloat16=False)
    held, result = {name.split("/")[1][:-4] for name in held_out_names(hard)}, {}
    with open(folder / "unlabelled" / "boxes.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for count, row in enumerate(rows):
        name = row["name"]
        if name.split("/")[1].rsplit("_b", 1)[0] in held:
            continue
        image = read_image(folder / "unlabelled" / name)
        pad = max(image.shape) // 2
        image = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
        box = np.array([float(row[side]) for side in ("x0", "y0", "x1", "y1")]) + pad
        width, height = box[2:] - box[:2]
        size = 0.88 * math.sqrt(width * height)
        middle = np.array([(box[0] + box[2]) / 2, box[1] + 0.6 * height])
        framing = detector.framing
        haar = [*(middle + size * np.array([framing.box_dx, framing.box_dy]) - framing.box_scale * size / 2)]
        boxes = np.array([[*haar, *[framing.box_scale * size] * 2, 0]], np.float32)
        points, _, scores = detector._look(image, boxes)
        around = framing.boxes(points[0])[0]
        views = []
        for dx, dy, grow in ((0, 0, 1), (0.06, 0.04, 1.08), (-0.06, 0.04, 0.95), (0, -0.06, 1)):
            side = around[2] * grow
            centre = around[:2] + around[2:] / 2 + around[2] * np.array([dx, dy])
            views.append([*(centre - side / 2), side, side, 0])
        points, _, scores = detector._look(image, np.array(views, np.float32))
        mean = points.mean(axis=0)
        scatter = np.linalg.norm(points - mean, axis=2).mean() / metrics.face_size(mean)
        if min(scores) >= 0.8 and scatter < 0.015:
            result[name] = (mean - pad).astype(np.float32)
        if count % 300 == 0:
            print(count, len(result), flush=True)
    np.savez_compressed(folder / "unlabelled.npz", **result)
    print(f"{len(result)} of {len(rows)} faces")


# Loss -----------------------------------------------------------------------------------------------------------------


def expected_points(heatmaps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Soft-argmax: logits (N, K, H, W) → points (N, K, 2) in crop units from 0 to 1; probabilities (N, K, H, W)."""
    height, width = heatmaps.shape[2:]
    probability = heatmaps.flatten(2).softmax(dim=2).unflatten(2, (height, width))
    x = probability.sum(dim=2) @ ((torch.arange(width) + 0.5) / width)
    y = probability.sum(dim=3) @ ((torch.arange(height) + 0.5) / height)
    return torch.stack([x, y], dim=2), probability


def gaussians(points: torch.Tensor, cells: int, sigma: float) -> torch.Tensor:
    """Heatmaps (N, K, cells, cells) that sum to 1 around points (N, K, 2) in crop units; sigma in cells."""
    middles = torch.arange(cells) + 0.5
    x, y = (torch.exp(-((middles - points[..., i, None] * cells) ** 2) / (2 * sigma**2)) for i in (0, 1))
    x, y = (part / part.sum(dim=2, keepdim=True).clamp_min(1e-6) for part in (x, y))
    return y[..., :, None] * x[..., None, :]


def fine_loss(output: tuple[torch.Tensor, torch.Tensor], truth: torch.Tensor, recipe: FineRecipe) -> tuple:
    """Expected points' smooth L1, heatmaps' cross-entropy to Gaussians, and the score's cross-entropy."""
    heatmaps, score = output
    face = truth[:, 0, 0].isfinite()
    points, probability = expected_points(heatmaps[face])
    true = truth[face]
    span = (true.amax(dim=1) - true.amin(dim=1)).prod(dim=1).sqrt()
    error = (points - true) / span[:, None, None]
    landmark = functional.smooth_l1_loss(error, torch.zeros_like(error), beta=0.01, reduction="none").sum(dim=2).mean()
    target = gaussians(true, heatmaps.shape[3], recipe.sigma)
    middle = 0.5 * (probability + target) + 1e-9
    divergence = 0.5 * (
        (target * ((target + 1e-9) / middle).log()).sum(dim=(2, 3))
        + (probability * ((probability + 1e-9) / middle).log()).sum(dim=(2, 3))
    )
    shape = divergence.mean()
    good = torch.zeros(len(truth))
    mean_error = error.detach().norm(dim=2).mean(dim=1)
    good[face] = (mean_error < MISPLACED).float()
    judged = functional.binary_cross_entropy_with_logits(score, good)
    parts = {"error": 100 * mean_error.mean().item(), "shape": shape.item(), "score": judged.item()}
    return 5 * landmark + recipe.heatmap_weight * shape + 0.05 * judged, parts


# Training -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def predict(net: FineNet, faces: Faces, side: int) -> np.ndarray:
    """Keypoints (N, 68, 2) in pixels of the source crops, cropped by the truth's five points."""
    result = []
    for first in range(0, len(faces.crops), 32):
        part = slice(first, first + 32)
        matrices = face_crop(five_points(faces.keypoints[part]), side)
        crops = [warp_averaged(crop, m, side) for crop, m in zip(faces.crops[part], matrices, strict=True)]
        batch = torch.from_numpy(np.stack(crops)[:, None].astype(np.float32) / 255)
        points = expected_points(net(batch)[0])[0].numpy() * side - 0.5
        for p, matrix in zip(points, matrices, strict=True):
            result.append((p - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T)
    return np.stack(result)


def measure(net: FineNet, validation: dict[str, Faces], side: int) -> dict[str, float]:
    """NME in percent by kind: of the outer eye corners' distance for photographs, of the box for the others."""
    net.eval()
    figures = {}
    for kind, faces in validation.items():
        predicted = predict(net, faces, side)
        normaliser = "iod" if kind in ("wild", "hard") else "box"
        errors = metrics.nme(predicted, faces.keypoints, normaliser)
        figures[f"{kind}_{normaliser}"] = round(float(np.mean(errors)), 3)
    return figures


def train(folder: Path, out: Path, recipe: FineRecipe, hard: Path | None = None) -> FineNet:
    """Train the fine network; a checkpoint after each epoch beside ``out``, from which the next start goes on."""
    torch.manual_seed(recipe.seed)
    training, validation, empty = read_faces(folder, hard)
    for sets in (training, validation):
        print({kind: len(faces.crops) for kind, faces in sets.items()}, flush=True)
    net = FineNet()
    views = FineViews(training, empty, recipe)

    def batches(epoch: int) -> DataLoader:
        views.start = epoch * recipe.views_an_epoch
        views.gentle = 0.5 if epoch >= 0.8 * (recipe.views // recipe.views_an_epoch) else 0.15
        return DataLoader(views, recipe.batch_size, num_workers=1, drop_last=True)

    def loss_of(batch: list) -> tuple[torch.Tensor, dict[str, float]]:
        crops, truth = batch
        return fine_loss(net(crops.contiguous(memory_format=torch.channels_last)), truth, recipe)

    def figures(averaged: FineNet) -> dict:
        return measure(averaged, validation, recipe.side)

    return fit(net, batches, loss_of, figures, recipe, out, clip=5, measure_every=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task", choices=["label", "train"])
    parser.add_argument("--folder", type=Path, default=Path("data"))
    parser.add_argument("--hard", type=Path, help="folder of the hard validation faces")
    parser.add_argument("--out", type=Path, default=Path("build/fine.pt"))
    parser.add_argument("--views", type=int, default=FineRecipe.views)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if arguments.task == "label":
        label(arguments.folder, arguments.hard)
    else:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        train(arguments.folder, arguments.out, FineRecipe(views=arguments.views), arguments.hard)


if __name__ == "__main__":
    main()
