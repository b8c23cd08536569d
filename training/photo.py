"""Train the network for photographs: levelled crops of faces → 68 heatmaps that point, and a score.

A teacher finds the points of faces without labels, and a network learns from them, too. The teacher may be the large
network or an earlier one of the same size:

    python -m training.photo train --folder FOLDER --out build/teacher.safetensors --large
    python -m training.photo label --folder FOLDER --teacher build/teacher.safetensors
    python -m training.photo train --folder FOLDER --out build/photo.safetensors --teacher build/teacher.safetensors

A training that was cut off goes on. FOLDER holds wild/, official/, rendered/ and unlabelled/, each optional; without
any of them the sample's rendered heads are learned. Confidence and score are fitted at the end (training.confidence)
where wild/ and official/ are there, on the people and photographs that are kept for validation.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from data_load import NUM_KEYPOINTS, read_image, read_keypoints
from keypoints.detection import KeypointDetector
from keypoints.files import one_sentence
from keypoints.geometry import REFERENCE_FIVE, face_crop, five_points
from keypoints.landmarks import FLIP_INDEX
from models import PhotoNet, expected_points
from training import metrics
from training.augmentation import damage, source_crop, warp
from training.detector import grey_image, held_out_names, read_boxes
from training.detector_data import face_boxes
from training.loop import LoopRecipe, fit, make_parser
from training.records import training_facts, write_arrays
from training.splits import labelled_faces, official_set, wild_groups
from training.weights import load_model, save_model

UNLABELLED = "unlabelled", "expressions", "fer"  # folders of faces without points
STARTS_FILE = "starts.npz"  # by file: five points of the detector
TAUGHT_FILE = "taught.npz"  # by file: keypoints that a teacher found
LABEL_MAP = "rendered_labels.npy"  # (68, 2): how far labels of rendered heads are moved, see moved_labels
MISPLACED = 0.08  # of the face's size: from which mean error on keypoints do not fit the face


@dataclass(frozen=True)
class PhotoRecipe(LoopRecipe):
    """How the network for photographs is trained."""

    views: int = 240_000
    views_an_epoch: int = 6_000
    small: float = 0.75  # of the crop's side, in the first half of the training, at half the cost
    heatmap_weight: float = 0.2  # of the heatmaps' shape against their expected points
    sigma: float = 1.0  # cells: the Gaussian that a heatmap should resemble
    negatives: float = 0.1  # share of views without a face
    damage: float = 0.85  # share of views that are damaged; in the last fifth of the training 0.5


LARGE: dict = {"channels": (48, 96, 192, 320, 448), "depths": (1, 2, 3, 3, 2), "width": 96, "dense": True, "side": 192}


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


def read_faces(folder: Path, hard: Path | None = None) -> tuple[dict[str, dict[str, Faces]], list, list]:
    """Read all faces that are there.

    Returns:
        training, validation, test → kind → faces; pictures with their faces' boxes; crops that show no face.
    """
    chosen: dict[tuple[str, str], list] = defaultdict(list)
    for part, kind, file, points in labelled_faces(folder):
        chosen[part, kind].append((file, points))
    if (folder / TAUGHT_FILE).exists():
        known = np.load(folder / TAUGHT_FILE)
        for name in known.files:
            chosen["training", name.split("/")[0]].append((folder / name, known[name]))
    if hard is not None:
        for name, points in zip(*read_keypoints(hard / "keypoints.csv"), strict=True):
            chosen["validation", "hard"].append((hard / name, points))
    sets: dict[str, dict[str, Faces]] = {"training": {}, "validation": {}, "test": {}}
    if (folder / LABEL_MAP).exists():
        moved = np.load(folder / LABEL_MAP)
        for faces in (chosen["training", "rendered"], chosen["validation", "rendered"]):
            faces[:] = [(file, moved_labels(points, moved)) for file, points in faces]
    for (part, kind), faces in chosen.items():
        with ThreadPoolExecutor() as pool:
            made = list(pool.map(lambda face: source_crop(read_image(face[0]), face[1]), faces))
        sets[part][kind] = Faces([c for c, _ in made], np.stack([p for _, p in made]), [p.name for p, _ in faces])
    # Where no picture has the boxes of all its faces, those of one face serve.
    single = [faces[:: len(faces) // 1500 + 1] for (part, _), faces in chosen.items() if part == "training"]
    empty = [(grey_image(file), face_boxes(points + 0.5)) for file, points in itertools.chain(*single)]
    if (folder / "detection").exists():
        empty = []
        held, wild = held_out_names(hard), wild_groups("validation")
        for name, (boxes, _, _) in read_boxes(folder / "detection").items():
            if name not in held and name.split("/")[1] not in wild:
                empty.append((grey_image(folder / "detection" / name), boxes))
    return sets, empty, [grey_image(path) for path in sorted((folder / "false").glob("*"))]


def moved_labels(keypoints: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Keypoints (68, 2) moved to where people label them, by (68, 2) sides of the levelled crop of a frontal face.

    Sideways they move less where the face is turned away, as far as its eyes are nearer to each other.
    """
    matrix = crop_units(face_crop(five_points(keypoints)[None], 100)[0], 100)
    points = (keypoints + 0.5) @ matrix[:, :2].T + matrix[:, 2]
    right, left = five_points(points)[:2]
    frontal = np.linalg.norm(REFERENCE_FIVE[1] - REFERENCE_FIVE[0])
    points = points + by * [min(1.0, np.linalg.norm(left - right) / frontal), 1]
    return ((points - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T - 0.5).astype(np.float32)


class PhotoViews(Dataset):
    """Endless random crops of faces.

    Args:
        faces: by kind.
        empty: pictures and the boxes of their faces: windows beside them hold no face.
        false: crops of what the detector took for faces, (S, S) uint8.
        side: pixels of the crop.
        clean_side: pixels of the undamaged crop for the teacher; 0 without one.

    Each sample is the crop (1, S, S) uint8, the same without damage (1, clean_side, clean_side) uint8, the keypoints
    (68, 2) float32 in crop units from 0 to 1, NaN where there is no face, and whether people or geometry labelled them.
    """

    SHARES: ClassVar = {
        "wild": 0.33,
        "frames": 0.27,
        "ccby": 0.02,
        "rendered": 0.08,
        "unlabelled": 0.2,
        "expressions": 0.06,
        "fer": 0.06,
    }

    def __init__(
        self, faces: dict[str, Faces], empty: list, false: list, recipe: PhotoRecipe, side: int, clean_side: int = 0
    ) -> None:
        self.faces, self.empty, self.false, self.recipe, self.clean_side = faces, empty, false, recipe, clean_side
        self.start, self.damaged, self.side = 0, recipe.damage, side
        self.kinds = list(faces)
        shares = np.array([self.SHARES[kind] for kind in self.kinds])
        self.shares = shares / shares.sum()

    def __len__(self) -> int:
        return self.recipe.views_an_epoch

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, bool]:
        rng = np.random.default_rng([self.recipe.seed, self.start + index])
        kind, keypoints = "", np.full((NUM_KEYPOINTS, 2), np.nan, np.float32)
        if self.false and rng.random() < self.recipe.negatives / 2:
            source = self.false[rng.integers(len(self.false))]
            matrix = jittered(np.eye(2, 3) / len(source), rng)
        elif self.empty and rng.random() < self.recipe.negatives:
            source, matrix = self.without_face(rng)
        else:
            kind = self.kinds[rng.choice(len(self.kinds), p=self.shares)]
            faces = self.faces[kind]
            i = rng.integers(len(faces.crops))
            source, matrix, keypoints = faces.crops[i], random_crop(faces.keypoints[i], rng), faces.keypoints[i] + 0.5
        if rng.random() < 0.5:
            matrix, keypoints = mirrored(matrix), keypoints[FLIP_INDEX]
        keypoints = keypoints @ matrix[:, :2].T + matrix[:, 2]
        crop = warp_averaged(source, matrix, self.side)
        clean = warp_averaged(source, matrix, self.clean_side) if self.clean_side else crop[:0, :0]
        if rng.random() < self.damaged:
            if self.false and rng.random() < 0.2:
                crop = covered(crop, self.false[rng.integers(len(self.false))], rng)
            crop = low_light(damage(crop, rng), rng)
        crop, clean = torch.from_numpy(np.ascontiguousarray(crop)), torch.from_numpy(np.ascontiguousarray(clean))
        truth = torch.from_numpy(keypoints.astype(np.float32))
        return crop[None], clean[None], truth, kind in ("wild", "frames", "rendered")

    def without_face(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A picture and a window of it that holds no face, or the smaller part of one."""
        grey, boxes = self.empty[rng.integers(len(self.empty))]
        for _ in range(20):
            size = math.exp(rng.uniform(math.log(24), math.log(0.6 * min(grey.shape))))
            x, y = rng.uniform(size / 2, grey.shape[1] - size / 2), rng.uniform(size / 2, grey.shape[0] - size / 2)
            low = np.maximum(boxes[:, :2], [x - size / 2, y - size / 2])
            high = np.minimum(boxes[:, 2:], [x + size / 2, y + size / 2])
            shared = np.clip(high - low, 0, None).prod(axis=1)
            if (shared < 0.15 * size**2).all() and (shared < 0.5 * (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)).all():
                break
        return grey, np.array([[1, 0, size / 2 - x], [0, 1, size / 2 - y]]) / size


def random_crop(keypoints: np.ndarray, rng: np.random.Generator, wide: float | None = None) -> np.ndarray:
    """The crop that five points with a detector's errors would give: (2, 3), from pixels (edges) to crop units.

    Args:
        wide: how many times the usual errors; by default once, now and then twice.
    """
    size = metrics.face_size(keypoints)
    wide = wide or (2.0 if rng.random() < 0.25 else 1.0)
    five = five_points(keypoints).astype(np.float64)
    five = five + rng.normal(0, 0.03 * wide * size, five.shape) + rng.normal(0, 0.03 * wide * size, 2)
    middle = five.mean(axis=0)
    angle, scale = math.radians(rng.normal(0, 6 * wide)), math.exp(rng.normal(0, 0.08 * wide))
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return jittered(crop_units(face_crop(((five - middle) @ turn.T + middle)[None], 100)[0], 100), rng)


def crop_units(matrix: np.ndarray, side: int) -> np.ndarray:
    """A crop's matrix between pixels whose integers are centres → from positions with (0, 0) at the corner to 0 … 1."""
    shift = matrix[:, 2] - matrix[:, :2] @ [0.5, 0.5] + 0.5
    return np.column_stack([matrix[:, :2], shift]) / side


def mirrored(matrix: np.ndarray) -> np.ndarray:
    """A crop's matrix so that the crop is mirrored left to right."""
    return np.array([[-1, 0], [0, 1]]) @ matrix + [[0, 0, 1], [0, 0, 0]]


def jittered(matrix: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A crop's matrix with a little stretch and shear about its middle."""
    stretch = np.eye(2) + rng.normal(0, 0.025, (2, 2))
    return np.column_stack([stretch @ matrix[:, :2], stretch @ (matrix[:, 2] - 0.5) + 0.5])


def warp_averaged(image: np.ndarray, matrix: np.ndarray, side: int) -> np.ndarray:
    """The crop of a matrix from positions (0, 0 at the corner) to crop units, averaged where it shrinks."""
    return warp(image, side * matrix, side, side, cv2.BORDER_REPLICATE)


def covered(crop: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A crop (S, S) with a part of another picture (T, T) before it, in the shape of an ellipse."""
    side = len(crop)
    axes, centre = (rng.uniform(0.08, 0.3, 2) * side).astype(int), (rng.uniform(0.05, 0.95, 2) * side).astype(int)
    mask = np.zeros_like(crop)
    cv2.ellipse(mask, centre.tolist(), axes.tolist(), rng.uniform(0, 180), 0, 360, 255, -1)
    return np.where(mask > 0, cv2.resize(other, (side, side)), crop)


def low_light(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Now and then as in the dark: few grey levels, with noise."""
    if rng.random() >= 0.08:
        return image
    gain = math.exp(rng.uniform(math.log(0.04), math.log(0.5)))
    dark = image * gain + rng.normal(0, rng.uniform(0.2, 3), image.shape)
    return np.clip(dark, 0, 255).astype(np.uint8)


class Starts(Dataset):
    """Crops of faces by their keypoints as known so far, each several times: slightly differently framed, mirrored."""

    def __init__(self, crops: list[np.ndarray], five: np.ndarray, views: int, side: int) -> None:
        self.crops, self.five, self.views, self.side = crops, five, views, side

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng(index)
        matrices, crops = [], []
        for view in range(self.views):
            matrix = crop_units(face_crop(self.five[index : index + 1], 100)[0], 100)
            if view > 1:
                angle, scale = math.radians(rng.normal(0, 6)), math.exp(rng.normal(0, 0.06))
                turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
                shift = turn @ (matrix[:, 2] - 0.5) + 0.5 + rng.normal(0, 0.02, 2)
                matrix = np.column_stack([turn @ matrix[:, :2], shift])
            if view % 2:
                matrix = mirrored(matrix)
            matrices.append(matrix)
            crops.append(warp_averaged(self.crops[index], matrix, self.side))
        return torch.from_numpy(np.stack(crops)), torch.from_numpy(np.stack(matrices))


@torch.no_grad()
def placed(net: PhotoNet, starts: Starts, workers: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean keypoints (N, 68, 2) of a teacher's views, their scatter in face sizes (N,), and the lowest score (N,)."""
    device, rows = next(net.parameters()).device, []
    for crops, matrices in DataLoader(starts, 32, num_workers=workers):
        views = crops.flatten(0, 1)[:, None].to(device).float() / 255
        heatmaps, scores = net(views.contiguous(memory_format=torch.channels_last))
        points = expected_points(heatmaps)[0].cpu().numpy().reshape(len(crops), -1, NUM_KEYPOINTS, 2)
        scores = scores.sigmoid().cpu().numpy().reshape(len(crops), -1)
        for p, m, score in zip(points, matrices.numpy(), scores, strict=True):
            p[1::2] = p[1::2][:, FLIP_INDEX]
            p = np.stack([(a - b[:, 2]) @ np.linalg.inv(b[:, :2]).T - 0.5 for a, b in zip(p, m, strict=True)])
            mean = p.mean(axis=0)
            scatter = np.linalg.norm(p - mean, axis=2).mean() / metrics.face_size(mean)
            rows.append((mean, scatter, score.min()))
    mean, scatter, score = zip(*rows, strict=True)
    return np.stack(mean), np.array(scatter), np.array(score)


def find_starts(folder: Path) -> dict[str, np.ndarray]:
    """File → the five points (10,), pixels, of the face nearest to the middle of each picture without labels."""
    detector, starts = KeypointDetector(), {}
    for file in sorted(file for kind in UNLABELLED for file in (folder / kind).rglob("*.jpg")):
        image = read_image(file)
        pad = max(image.shape[:2]) // 4  # a face may fill the picture
        framed = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
        middle = np.array(framed.shape[1::-1]) / 2
        if faces := detector(framed):
            points = min((face.keypoints for face in faces), key=lambda p: np.linalg.norm(p.mean(axis=0) - middle))
            starts[file.relative_to(folder).as_posix()] = five_points(points - pad).ravel()
    return starts


def label(folder: Path, hard: Path | None, teacher: PhotoNet, workers: int = 1, agreement: float = 0.015) -> None:
    """Find the 68 points of faces without labels with a teacher; keep those on which its views agree.

    ``starts.npz`` in the folder holds each face's five points by file; it is made where it is not there.
    """
    if not (folder / STARTS_FILE).exists():
        write_arrays(folder / STARTS_FILE, find_starts(folder))
    held = {name.split("/")[1][:-4] for name in held_out_names(hard)}
    known = np.load(folder / STARTS_FILE)
    names = [name for name in known.files if name.split("/")[-1].rsplit("_b", 1)[0] not in held]
    sources, frames = [], []
    for name in names:
        frame = face_crop(known[name][:10].reshape(1, 5, 2), 200)[0]
        frame[:, 2] += 60
        frames.append(frame)
        sources.append(warp_averaged(grey_image(folder / name), crop_units(frame, 320), 320))
    five = np.tile(REFERENCE_FIVE * 200 + 59.5, (len(names), 1, 1))  # where the crops put them
    for views in (1, 2, 8):
        points, scatter, scores = placed(teacher, Starts(sources, five, views, teacher.side), workers)
        five = five_points(points)
    result = {
        name: ((p - frame[:, 2]) @ np.linalg.inv(frame[:, :2]).T).astype(np.float32)
        for name, p, frame, s, score in zip(names, points, frames, scatter, scores, strict=True)
        if s < agreement and score > 0.8
    }
    np.savez_compressed(folder / TAUGHT_FILE, **result)
    kinds = Counter(name.split("/")[0] for name in result)
    print(f"{dict(kinds)} of {len(names)} faces, median scatter {np.median(scatter):.4f}", flush=True)


# Loss -----------------------------------------------------------------------------------------------------------------


def gaussians(points: torch.Tensor, cells: int, sigma: float) -> torch.Tensor:
    """Heatmaps (N, K, cells, cells) that sum to 1 around points (N, K, 2) in crop units; sigma in cells."""
    middles = torch.arange(cells, device=points.device) + 0.5
    x, y = (torch.exp(-((middles - points[..., i, None] * cells) ** 2) / (2 * sigma**2)) for i in (0, 1))
    x, y = (part / part.sum(dim=2, keepdim=True).clamp_min(1e-6) for part in (x, y))
    return y[..., :, None] * x[..., None, :]


def photo_loss(
    output: tuple[torch.Tensor, torch.Tensor],
    truth: torch.Tensor,
    recipe: PhotoRecipe,
    taught: torch.Tensor | None = None,
    labelled: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Expected points' smooth L1, heatmaps' divergence from their targets, and the score's cross-entropy.

    Args:
        output: heatmaps' logits (N, 68, H, W) and the score's logits (N,).
        truth: (N, 68, 2) in crop units, NaN where there is no face.
        taught: a teacher's heatmaps as probabilities, (N, 68, h, w). Targets are then the mean of them and of
            Gaussians around the truth where ``labelled`` (N,) says that people or geometry gave it, else they alone.
    """
    heatmaps, score = output
    face = truth[:, 0, 0].isfinite()
    points, probability = expected_points(heatmaps[face])
    true = truth[face]
    span = (true.amax(dim=1) - true.amin(dim=1)).prod(dim=1).sqrt()
    error = (points - true) / span[:, None, None]
    landmark = functional.smooth_l1_loss(error, torch.zeros_like(error), beta=0.01, reduction="none").sum(dim=2).mean()
    target = gaussians(true, heatmaps.shape[3], recipe.sigma)
    if taught is not None and labelled is not None:
        learned = functional.interpolate(taught[face], heatmaps.shape[2:], mode="area")
        learned = learned / learned.sum(dim=(2, 3), keepdim=True).clamp_min(1e-6)
        target = torch.where(labelled[face, None, None, None], (target + learned) / 2, learned)
    middle = 0.5 * (probability + target) + 1e-9
    divergence = 0.5 * (
        (target * ((target + 1e-9) / middle).log()).sum(dim=(2, 3))
        + (probability * ((probability + 1e-9) / middle).log()).sum(dim=(2, 3))
    )
    shape = divergence.mean()
    good = torch.zeros(len(truth), device=truth.device)
    mean_error = error.detach().norm(dim=2).mean(dim=1)
    good[face] = (mean_error < MISPLACED).float()
    judged = functional.binary_cross_entropy_with_logits(score, good)
    parts = {"error": 100 * mean_error.mean(), "shape": shape, "score": judged}
    return 5 * landmark + recipe.heatmap_weight * shape + 0.05 * judged, parts


# Training -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def predict(net: PhotoNet, faces: Faces, side: int) -> np.ndarray:
    """Keypoints (N, 68, 2) in pixels of the source crops, cropped by the truth's five points."""
    device, result = next(net.parameters()).device, []
    for first in range(0, len(faces.crops), 32):
        part = slice(first, first + 32)
        matrices = [crop_units(m, 100) for m in face_crop(five_points(faces.keypoints[part]), 100)]
        crops = [warp_averaged(crop, m, side) for crop, m in zip(faces.crops[part], matrices, strict=True)]
        batch = torch.from_numpy(np.stack(crops)[:, None].astype(np.float32) / 255).to(device)
        points = expected_points(net(batch)[0])[0].cpu().numpy()
        for p, matrix in zip(points, matrices, strict=True):
            result.append((p - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T - 0.5)
    return np.stack(result)


def measure(net: PhotoNet, validation: dict[str, Faces], side: int) -> dict[str, float]:
    """NME in percent by kind: of the outer eye corners' distance for photographs, of the box for the others."""
    net.eval()
    figures = {}
    for kind, faces in validation.items():
        predicted = predict(net, faces, side)
        normaliser = "iod" if kind in ("wild", "hard") else "box"
        errors = metrics.nme(predicted, faces.keypoints, normaliser)
        figures[f"{kind}_{normaliser}"] = round(float(np.mean(errors)), 3)
    return figures


def train(
    folder: Path,
    out: Path,
    recipe: PhotoRecipe,
    net: PhotoNet,
    hard: Path | None = None,
    teacher: PhotoNet | None = None,
    device: str = "cpu",
    workers: int = 1,
    minutes: float | None = None,
    without: Sequence[str] = (),
    start: Path | None = None,
) -> dict:
    """Train the network, and save it with its record and its ONNX file.

    After each epoch there is a checkpoint beside ``out``, from which the next start goes on.

    Args:
        hard: folder of the hard validation faces.
        teacher: a network whose heatmaps of the undamaged crop ``net`` learns, too.
        workers: processes that make the crops.
        minutes: see :func:`training.loop.fit`.
        without: kinds of faces that are left out.
        start: weights to start from, a file of ``save_model``; what its record says goes into this one.

    Returns:
        the record.
    """
    torch.manual_seed(recipe.seed)
    earlier = {}
    if start is not None:
        net.load_state_dict(load_model(start).state_dict())
        earlier = {"start": training_facts(start)}
    sets, empty, false = read_faces(folder, hard)
    training, validation = sets["training"], sets["validation"]
    training = {kind: faces for kind, faces in training.items() if kind not in without}
    for faces in (training, validation):
        print({kind: len(some.crops) for kind, some in faces.items()}, flush=True)
    net = net.to(device)
    teacher = None if teacher is None else teacher.to(device).eval()
    views = PhotoViews(training, empty, false, recipe, net.side, teacher.side if teacher else 0)

    def batches(epoch: int, progress: float) -> DataLoader:
        views.start = epoch * recipe.views_an_epoch
        views.side = 32 * round(recipe.small * net.side / 32) if progress < 0.5 else net.side
        views.damaged = min(recipe.damage, 0.5) if progress >= 0.8 else recipe.damage  # in the end as at use
        return DataLoader(views, recipe.batch_size, num_workers=workers, drop_last=True)

    def heatmaps_of(net: PhotoNet, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        crops = (crops.float() / 255).contiguous(memory_format=torch.channels_last)
        with torch.autocast(crops.device.type, torch.bfloat16, enabled=crops.is_cuda):
            heatmaps, score = net(crops)
        return heatmaps.float(), score.float()

    def loss_of(net: PhotoNet, batch: list) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        crops, clean, truth, labelled = (part.to(device, non_blocking=True) for part in batch)
        taught = None
        if teacher is not None:
            with torch.no_grad():
                taught = expected_points(heatmaps_of(teacher, clean)[0])[1]
        return photo_loss(heatmaps_of(net, crops), truth, recipe, taught, labelled)

    def figures(averaged: PhotoNet) -> dict:
        return measure(averaged, validation, views.side)

    net, record = fit(net, batches, loss_of, figures, recipe, out, clip=5, measure_every=2, minutes=minutes)
    round_weights(net)
    counts = [{kind: len(some.crops) for kind, some in faces.items()} for faces in (training, validation)]
    record = {"faces": counts[0], "validation": counts[1], **earlier, **record}
    save_model(net, out, record)
    out.with_suffix(".checkpoint").unlink()
    return record


@torch.no_grad()
def round_weights(net: nn.Module) -> None:
    """Round all weights to bfloat16's precision in place: the files then pack to a third of their size."""
    for value in net.state_dict().values():
        if value.is_floating_point():
            value.copy_(value.bfloat16())


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser("photo", __doc__, PhotoRecipe(), Path("build/keypoints_model_2.safetensors"))
    parser.add_argument("--views", type=int, default=PhotoRecipe.views)
    parser.add_argument("--hard", type=Path, help="folder of the hard validation faces")
    parser.add_argument("--teacher", type=Path, help="weights of the teacher")
    parser.add_argument("--large", action="store_true", help="train the large network")
    parser.add_argument("--small", type=float, default=PhotoRecipe.small, help="of the crop's side in the first half")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with one_sentence():
        teacher = load_model(options.teacher) if options.teacher else None
        if options.task == "label":
            if teacher is None:
                raise ValueError("label: got no teacher, expected --teacher FILE")
            label(options.folder, options.hard, teacher.to(options.device), options.workers)
            return
        net = PhotoNet(**LARGE) if options.large else PhotoNet()
        recipe = PhotoRecipe(options.views, options.epoch, options.batch, options.rate, small=options.small)
        given = options.hard, teacher, options.device, options.workers, options.minutes
        train(options.folder, options.out, recipe, net, *given, start=options.start)
        if official_set(options.folder) and (options.folder / "wild").exists():
            from training.confidence import calibrate_file  # which reads faces by this module

            calibrate_file(options.out, options.folder)
        else:
            print(f"{options.folder}: got no official/ or no wild/, so every keypoint's confidence stays one half")


if __name__ == "__main__":
    main()
