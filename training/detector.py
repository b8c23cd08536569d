"""Train the face detector: pictures with boxes → random views → SimOTA assignment → scores, boxes, five points.

`python -m training.detector label --folder FOLDER` finds five points for drawn boxes with the points network;
`python -m training.detector train --folder FOLDER --out FILE.safetensors` trains, writes the weights, their record and
the ONNX file, and goes on with what was cut off. FOLDER holds detection/ (boxes.csv beside the pictures), wild/ (with
wild_keypoints.csv), official/ and rendered/ (folders of data/sample/render.py), each optional; without any of them the
sample's rendered heads are learned.
"""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision.ops import box_iou, generalized_box_iou_loss

from data_load import read_image
from keypoints import detectors
from keypoints.geometry import five_points, nms, with_roll
from models import FaceDetector
from training.detector_data import DetectorViews, Picture, collate, face_boxes, normalise
from training.loop import LoopRecipe, fit, make_parser
from training.records import training_facts, write_arrays
from training.splits import labelled_faces, official_set, read_splits, wild_groups
from training.weights import load_model, save_model

POINTS_FILE = "detection_points.npz"
FOUND_FILE = "found.json"  # by file: boxes that an earlier detector found
SHARES = {"wider": 0.6, "photos": 0.13, "wild": 0.14, "frames": 0.08, "heads": 0.05}  # of the views, by kind
SHARES["collage"] = 0.6  # of the free detector's, beside heads; see training.free
SAMPLE_VIEWS = 16_000  # where there is nothing but the sample
SURE_SCORE = 0.9  # of the points network: from which on a drawn box gets its five points


@dataclass(frozen=True)
class DetectorRecipe(LoopRecipe):
    """How the detector is trained."""

    views: int = 400_000
    views_an_epoch: int = 8_000
    size: int = 320  # pixels a side of a view
    points_weight: float = 3.0  # of the five points' loss; with 0.5 they end 9 % of the box's size off


# Data -----------------------------------------------------------------------------------------------------------------


def grey_image(path: Path) -> np.ndarray:
    """(H, W) uint8 of any image file."""
    return cv2.cvtColor(read_image(path), cv2.COLOR_RGB2GRAY)


def labelled(grey: np.ndarray, keypoints: np.ndarray, found: Sequence = ()) -> Picture:
    """A picture of one face with 68 points, (68, 2) in pixels whose integers are pixels' centres; see with_unsure."""
    keypoints = np.asarray(keypoints, np.float32)[None] + 0.5
    picture = Picture(grey, face_boxes(keypoints), five_points(keypoints).astype(np.float32), np.ones(1, bool))
    return with_unsure(picture, found)


def with_unsure(picture: Picture, found: Sequence) -> Picture:
    """Add what an earlier detector found beside the labelled faces, (M, 4), as faces that are not sure."""
    boxes = np.array(found, np.float32).reshape(-1, 4)
    known = torch.from_numpy(picture.boxes)
    boxes = boxes[(box_iou(torch.from_numpy(boxes), known) < 0.3).all(dim=1).numpy()]
    return Picture(
        picture.grey,
        np.concatenate([picture.boxes, boxes]),
        np.concatenate([picture.points, np.full((len(boxes), 5, 2), np.nan, np.float32)]),
        np.concatenate([picture.sure, np.zeros(len(boxes), bool)]),
    )


def read_boxes(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray, list[str]]]:
    """Of each picture of ``boxes.csv``: (M, 4) float32 boxes, (M, 5, 2) points or NaN, and M sources."""
    rows = defaultdict(list)
    with open(folder / "boxes.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            rows[row["name"]].append(row)
    known = folder.parent / POINTS_FILE
    points = dict(np.load(known)) if known.exists() else {}
    result = {}
    for name, faces in rows.items():
        boxes = np.array([[float(face[side]) for side in ("x0", "y0", "x1", "y1")] for face in faces], np.float32)
        found = points.get(name, np.full((len(faces), 5, 2), np.nan, np.float32))
        result[name] = boxes, found, [face["source"] for face in faces]
    return result


def read_folder(folder: Path, held_out: set[str]) -> tuple[dict[str, list[Picture]], dict[str, list[Picture]]]:
    """The training pictures and the validation pictures, each by kind: a key of SHARES.

    Args:
        held_out: pictures of ``detection/`` that are for validation.
    """
    known, wild = folder / FOUND_FILE, wild_groups("validation")
    found = json.loads(known.read_text()) if known.exists() else {}
    sets: dict[str, dict[str, list[Picture]]] = {"training": defaultdict(list), "validation": defaultdict(list)}
    if (folder / "detection").exists():
        for name, (boxes, points, sources) in read_boxes(folder / "detection").items():
            kind, file = name.split("/")
            sure = np.array([not s.startswith("teacher") or float(s.removeprefix("teacher")) >= 0.6 for s in sources])
            if kind == "photos":  # those boxes are of 68 points or like them: brows to chin
                boxes = boxes.copy()
                boxes[:, 1] -= 0.33 * (boxes[:, 3] - boxes[:, 1])
            picture = Picture(grey_image(folder / "detection" / name), boxes, points, sure)
            held = name in held_out or file in wild
            if not held:
                picture = with_unsure(picture, found.get(f"detection/{name}", ()))
            sets["validation" if held else "training"][kind].append(picture)
    for part, kind, path, points in labelled_faces(folder):
        if part != "test":
            name = path.as_posix().removeprefix(f"{folder.as_posix()}/")
            picture = labelled(grey_image(path), points, found.get(name, ()) if part == "training" else ())
            sets[part]["heads" if kind == "rendered" else kind].append(picture)
    training, validation = dict(sets["training"]), dict(sets["validation"])
    if len(validation) > 1:
        del validation["heads"]  # they stand in where nothing else is
    return training, validation


def label(folder: Path) -> None:
    """Find the five points of the faces in ``detection/boxes.csv`` and write them beside that folder."""
    from keypoints.detection import KeypointDetector

    detector = KeypointDetector()
    result, relations = {}, []
    for count, (name, (boxes, _, sources)) in enumerate(read_boxes(folder / "detection").items()):
        image = read_image(folder / "detection" / name)
        points = np.full((len(boxes), 5, 2), np.nan, np.float32)
        for i, box in enumerate(boxes):
            width, height = box[2:] - box[:2]
            if min(width, height) < 16:
                continue
            size = 0.88 * math.sqrt(width * height)
            middle = np.array([(box[0] + box[2]) / 2, box[1] + (0.6 if sources[i] == "drawn" else 0.5) * height])
            side = detector.framing.box_scale * size
            centre = middle + size * np.array([detector.framing.box_dx, detector.framing.box_dy])
            haar = np.array([[*(centre - side / 2), side, side]])
            try:
                for _ in range(2):
                    points68, _, scores, _ = detector.network.locate([image], with_roll(haar))
                    haar = detector.framing.boxes(points68)
            except ValueError:
                continue
            points68 = points68[0] + 0.5
            low, high = points68.min(axis=0), points68.max(axis=0)
            inside = ((points68.mean(axis=0) > box[:2]) & (points68.mean(axis=0) < box[2:])).all()
            ratio = math.sqrt(float(np.prod(high - low))) / math.sqrt(width * height)
            if scores[0] >= SURE_SCORE and inside and 0.6 < ratio < 1.25:
                points[i] = five_points(points68)
                if sources[i] == "drawn" and min(width, height) > 40:
                    relations.append((box - np.concatenate([low, high])) / np.tile(high - low, 2))
        result[name] = points
        if count % 100 == 0:
            print(count, flush=True)
    write_arrays(folder / POINTS_FILE, result)
    found = np.concatenate(list(result.values()))
    print(f"five points of {np.isfinite(found[:, 0, 0]).sum()} of {len(found)} faces")
    print("drawn boxes around those of 68 points, medians:", np.median(relations, axis=0).round(3).tolist())


# Loss -----------------------------------------------------------------------------------------------------------------


def cells(height: int, width: int) -> torch.Tensor:
    """Centres and strides of all cells of an image: (A, 3) float32, pixels."""
    return torch.from_numpy(np.hstack(detectors.cells(height, width)))


def decode(output: torch.Tensor, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes (…, A, 4) left, top, right, bottom and points (…, A, 5, 2) of the network's output (…, A, 15), pixels."""
    centre, stride = grid[:, :2], grid[:, 2:]
    middle = centre + output[..., 1:3] * stride
    half = output[..., 3:5].clamp(-4, 6).exp() * stride / 2
    points = centre[:, None] + output[..., 5:].unflatten(-1, (5, 2)) * stride[:, None]
    return torch.cat([middle - half, middle + half], dim=-1), points


@torch.no_grad()
def assign(
    logits: torch.Tensor, boxes: torch.Tensor, grid: torch.Tensor, truth: torch.Tensor, sure: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """SimOTA (YOLOX, https://arxiv.org/abs/2107.08430): which cells learn which face.

    Args:
        logits, boxes: (N, A) and (N, A, 4), predicted.
        grid: (A, 3) from :func:`cells`.
        truth: (N, M, 4); an image with fewer than M faces has boxes of no extent.
        sure: (N, M) bool.

    Returns:
        chosen: (N, A) int64: the face that a cell learns, or -1.
        iou: (N, A) of its box with the truth's, 0 where it learns none.
        ignored: (N, A) bool: cells within faces that are not sure.
    """
    if not truth.shape[1]:
        return torch.full_like(logits, -1, dtype=torch.long), torch.zeros_like(logits), torch.zeros_like(logits).bool()
    centre, stride = grid[:, :2], grid[:, 2:]
    inside = ((centre > truth[:, :, None, :2]) & (centre < truth[:, :, None, 2:])).all(dim=3)  # (N, M, A)
    ious = box_iou(truth, boxes)
    unsure = (inside | (ious > 0.4)) & ~sure[..., None]
    middle = (truth[..., :2] + truth[..., 2:]) / 2
    near = ((centre - middle[:, :, None]).abs() < 2 * stride).all(dim=3)
    faces = sure & (truth[..., 2:] > truth[..., :2]).all(dim=2)
    candidates = (near | inside) & faces[..., None]
    cost = functional.softplus(-logits)[:, None] - 3 * ious.clamp_min(1e-6).log() + 1e3 * ~(near & inside)
    cost = cost.masked_fill(~candidates, torch.inf)
    most = min(10, ious.shape[2])
    count = ious.masked_fill(~candidates, 0).topk(most, dim=2).values.sum(dim=2).int().clamp_min(1)
    lowest = cost.topk(most, dim=2, largest=False)
    taken = torch.arange(most, device=cost.device) < count[..., None]
    matched = torch.zeros_like(candidates).scatter(2, lowest.indices, taken) & candidates
    best, chosen = cost.masked_fill(~matched, torch.inf).min(dim=1)
    chosen = chosen.masked_fill(best.isinf(), -1)
    quality = ious.gather(1, chosen.clamp_min(0)[:, None])[:, 0].masked_fill(chosen < 0, 0)
    return chosen, quality, unsure.any(dim=1) & (chosen < 0)


def detector_loss(
    output: torch.Tensor,
    grid: torch.Tensor,
    truth: torch.Tensor,
    points: torch.Tensor,
    sure: torch.Tensor,
    points_weight: float = DetectorRecipe.points_weight,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Quality focal loss (https://arxiv.org/abs/2006.04388) of scores, GIoU of boxes
    (https://arxiv.org/abs/1902.09630), L1 of points.

    Args:
        output: (N, A, 15) of the network.
        truth: (N, M, 4); points: (N, M, 5, 2), NaN where unknown; sure: (N, M) bool, as :func:`assign` takes them.
    """
    predicted_boxes, predicted_points = decode(output, grid)
    logits = output[..., 0]
    chosen, quality, ignored = assign(logits, predicted_boxes, grid, truth, sure)
    score = functional.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    score = (score * (quality - logits.sigmoid()).abs().square()).masked_fill(ignored, 0).sum()
    image, cell = (chosen >= 0).nonzero(as_tuple=True)
    count = max(1, len(cell))
    face = chosen[image, cell]
    true, true_points = truth[image, face], points[image, face]
    box = generalized_box_iou_loss(predicted_boxes[image, cell], true, reduction="sum") / count
    size = (true[:, 2:] - true[:, :2]).prod(dim=1).clamp_min(1e-6).sqrt()[:, None, None]
    known = true_points[:, 0, 0].isfinite()
    error = functional.smooth_l1_loss(
        predicted_points[image, cell] / size, torch.nan_to_num(true_points) / size, reduction="none", beta=0.05
    ).sum(dim=(1, 2))
    landmark = (error * known).sum() / known.sum().clamp_min(1)
    score = score / count
    return 2 * score + 2 * box + points_weight * landmark, {"score": score, "box": box, "points": landmark}


# Training -------------------------------------------------------------------------------------------------------------


def train(
    folder: Path,
    out: Path,
    recipe: DetectorRecipe,
    hard: Path | None = None,
    device: str = "cpu",
    workers: int = 1,
    minutes: float | None = None,
    start: Path | None = None,
) -> FaceDetector:
    """Train a detector and save it with :func:`training.weights.save_model`.

    After each epoch there is a checkpoint beside ``out``, from which the next start goes on.

    Args:
        hard: folder whose ``attributes.csv`` names the faces that are kept for validation.
        workers: processes that make the views.
        minutes: see :func:`training.loop.fit`.
        start: weights to start from, a file of ``save_model``; what its record says goes into this one.
    """
    torch.manual_seed(recipe.seed)
    held_out = held_out_names(hard)
    training, validation = read_folder(folder, held_out)
    about = data_record(training, validation, held_out)
    earlier = {} if start is None else {"start": training_facts(start)}
    print(json.dumps({name: about[name] for name in ("images", "validation_images")}), flush=True)
    net = (FaceDetector() if start is None else load_model(start)).to(device)
    groups = [(pictures, SHARES[kind]) for kind, pictures in training.items()]
    views = DetectorViews(groups, recipe.views_an_epoch, recipe.size, recipe.seed)
    grid = cells(recipe.size, recipe.size).to(device)

    def batches(epoch: int, progress: float) -> DataLoader:
        views.start = epoch * recipe.views_an_epoch
        return DataLoader(views, recipe.batch_size, num_workers=workers, collate_fn=collate, drop_last=True)

    def loss_of(net: FaceDetector, batch: tuple) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        images, boxes, points, sure = (part.to(device, non_blocking=True) for part in batch)
        images = normalise(images).contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
            output = net(images)
        return detector_loss(output.float(), grid, boxes, points, sure, recipe.points_weight)

    def figures(averaged: FaceDetector) -> dict:
        return {kind: measure(averaged, pictures[:150]) for kind, pictures in validation.items()}

    net, record = fit(net, batches, loss_of, figures, recipe, out, clip=10, measure_every=5, minutes=minutes)
    save_model(net, out, about | earlier | record)
    out.with_suffix(".checkpoint").unlink()
    return net


def data_record(training: dict, validation: dict, held_out: set[str]) -> dict:
    """What the record says about the data."""
    splits = read_splits()["by_person"]
    frames = {"held_out_people": sorted(splits["validation"] + splits["test"])} if "frames" in training else {}
    return {
        "images": {kind: len(pictures) for kind, pictures in training.items()},
        "faces": {kind: sum(int(picture.sure.sum()) for picture in pictures) for kind, pictures in training.items()},
        "validation_images": {kind: len(pictures) for kind, pictures in validation.items()},
        "held_out_photographs": sorted(held_out),
        **frames,
    }


def held_out_names(hard: Path | None) -> set[str]:
    """The pictures of ``detection/`` that hard faces were cut from: they are for validation."""
    if hard is None:
        return set()
    with open(hard / "attributes.csv", encoding="utf-8", newline="") as file:
        names = [row["name"].removeprefix("wflw_") for row in csv.DictReader(file)]
    return {f"wider/{name[:-4].rsplit('_', 1)[0]}.jpg" for name in names}


# Measuring ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def detect(net: FaceDetector, grey: np.ndarray, long_side: int = 512) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (N,), boxes (N, 4) and points (N, 5, 2) in pixels of a grey image, the best first, doubles suppressed."""
    scale = long_side / max(grey.shape)
    size = max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale))
    small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    padded = np.zeros((-(-size[1] // 32) * 32, -(-size[0] // 32) * 32), np.float32)
    padded[: size[1], : size[0]] = normalise(torch.from_numpy(small))
    device = next(net.parameters()).device
    output = net(torch.from_numpy(padded)[None, None].to(device))[0].cpu()
    scores, (boxes, points) = output[:, 0].sigmoid(), decode(output, cells(*padded.shape))
    order = scores.argsort(descending=True)[: int((scores >= 0.05).sum())]
    sides = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)
    order = order[nms(sides[order].numpy(), 0.45)]
    ratio = np.array([grey.shape[1] / size[0], grey.shape[0] / size[1]], np.float32)
    return scores[order].numpy(), boxes[order].numpy() * np.tile(ratio, 2), points[order].numpy() * ratio


def measure(net: FaceDetector, pictures: list[Picture], long_side: int = 512) -> dict:
    """Recall of faces of at least 20 pixels where 0.1 and 1 other things are found in an image."""
    net.eval()
    scores, hits, faces = [], [], 0
    for picture in pictures:
        found, boxes, _ = detect(net, picture.grey, long_side)
        sizes = np.sqrt(np.prod(picture.boxes[:, 2:] - picture.boxes[:, :2], axis=1))
        sizes = sizes * long_side / max(picture.grey.shape)
        counted = picture.sure & (sizes >= 20)
        faces += int(counted.sum())
        ious = box_iou(torch.from_numpy(boxes), torch.from_numpy(picture.boxes)).numpy()
        free = np.ones(len(picture.boxes), bool)
        for i, score in enumerate(found):
            match = int(np.where(free, ious[i], 0).argmax()) if len(free) else -1
            if match >= 0 and free[match] and ious[i, match] >= 0.4:
                free[match] = False
                if counted[match]:
                    scores.append(score)
                    hits.append(True)
            else:
                scores.append(score)
                hits.append(False)
    order = np.argsort(-np.array(scores))
    hits_sorted = np.array(hits)[order] if len(hits) else np.zeros(0, bool)
    recall, wrong = hits_sorted.cumsum() / max(1, faces), (~hits_sorted).cumsum() / max(1, len(pictures))
    at = {rate: float(recall[wrong <= rate].max(initial=0)) for rate in (0.03, 0.1, 1.0)}
    return {"faces": faces, **{f"recall at {rate}": round(value, 4) for rate, value in at.items()}}


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser("detector", __doc__, DetectorRecipe(), Path("build/detector.safetensors"))
    default = f"(default: {DetectorRecipe.views}, of the sample alone {SAMPLE_VIEWS})"
    parser.add_argument("--views", type=int, help=default)
    parser.add_argument("--hard", type=Path, help="folder whose attributes.csv names validation faces")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    if options.task == "label":
        label(options.folder)
        return
    pictures = [options.folder / name for name in ("detection", "wild")]
    photographs = official_set(options.folder) or any(map(Path.exists, pictures))
    views = options.views or (DetectorRecipe.views if photographs else SAMPLE_VIEWS)
    recipe = DetectorRecipe(views, options.epoch, options.batch, options.rate)
    given = options.hard, options.device, options.workers, options.minutes, options.start
    train(options.folder, options.out, recipe, *given)


if __name__ == "__main__":
    main()
