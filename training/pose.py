"""Make what :mod:`keypoints.pose` knows, pose_model.npz and pose_predictions.npz: some five minutes on one core.

    build/render/bin/python data/sample/geometry.py
    python -m training.pose --geometry build/geometry.npz --photos DIR --rendered DIR …

From the random heads of ``data/sample/geometry.py`` come the mean head and its components, the shift of the jaw's
labels on turned heads, and the regressor. From photographs with reference angles (``labels.csv``: name, yaw, pitch,
roll; ``keypoints.csv``) comes one number: where the pitch is zero. Without photographs the number of the last time
stays. The second file holds a regressor that learned from what the keypoint network predicts of rendered heads, too:
the sample's and those of ``--rendered`` (folders of ``data/sample/render.py --varied``).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import torch
from torch import nn

from data_load import NUM_KEYPOINTS, Data, find_data, read_image, read_keypoints
from keypoints.detection import KeypointDetector
from keypoints.files import check_writable, one_sentence, sha256, write_json
from keypoints.landmarks import EYE_CORNERS, FLIP_INDEX, JAW, PARTS
from keypoints.pose import (
    POSE_MODEL,
    PREDICTIONS_REGRESSOR,
    YAW_STEP,
    PoseModel,
    align,
    estimate_pose,
    load_pose_model,
    turn_in_order,
)
from training.records import write_arrays
from training.weights import DEFAULT_MODEL

COMPONENTS = 24  # leaves 0.012 outer-eye distances of a random head unexplained, less than any keypoint scatters
MIRROR = np.r_[FLIP_INDEX, 69, 68, 70, 72, 71, 73, 74]  # of the 75 points: the ears and the band's sides, too
STEPS, BATCH, HIDDEN = 10_000, 512, (192, 64)
PREDICTED = 0.6  # share of a batch that is predicted keypoints, whose faces turn less than their heads
TURNED = 2.0  # how much oftener heads turned by 40 degrees are taken than those that look ahead, less one
SCATTER = 0.02  # of predicted points, in units of the template


def shape_model(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    """Mean (75, 3), components (K, 75, 3) and pivot (3,) of heads (N, 75, 3), and each head's size and the unit in dm.

    Sizes are taken out, since a picture doesn't show them; every head counts together with its mirror image.
    """
    middle = points[:, list(EYE_CORNERS)].mean(axis=1)
    unit = float(np.linalg.norm(points[:, EYE_CORNERS[0]] - points[:, EYE_CORNERS[1]], axis=1).mean())
    keypoints = points[:, :NUM_KEYPOINTS]
    size = np.linalg.norm(keypoints - keypoints.mean(axis=1, keepdims=True), axis=(1, 2))
    size /= size.mean()
    heads = (points - middle[:, None]) / (unit * size)[:, None, None]
    heads = np.concatenate([heads, heads[:, MIRROR] * (-1, 1, 1)])
    mean = heads.mean(axis=0)
    spread = (heads - mean).reshape(len(heads), -1)
    values, vectors = np.linalg.eigh(spread.T @ spread / len(spread))
    chosen = np.argsort(-values)[:COMPONENTS]
    components = (vectors[:, chosen] * np.sqrt(values[chosen])).T.reshape(COMPONENTS, -1, 3)
    pivot = (-middle / (unit * size)[:, None]).mean(axis=0)
    return mean, components, pivot, size, unit


def jaw_table(views: dict[str, np.ndarray], size: np.ndarray, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """The jaw's shift (9, 17, 2) and its variance (9, 17) by yaw: labels less the skull's points, with roll undone."""
    all_shifts, all_yaws = [], []
    for head, pose, distance, labels in zip(
        *(views[name] for name in ("head", "pose", "distance", "labels")), strict=True
    ):
        turned = views["points"][head, JAW] @ turn_in_order(*pose).T
        shift = labels[JAW] - distance * turned[:, :2] / (turned[:, 2:] + distance)
        shift = shift @ turn_in_order(0, 0, pose[2])[:2, :2] / (unit * size[head])
        all_shifts.append(shift if pose[0] >= 0 else shift[FLIP_INDEX[JAW]] * (-1, 1))
        all_yaws.append(abs(pose[0]))
    shifts, yaws = np.array(all_shifts), np.array(all_yaws)
    nodes = np.arange(0, 81, YAW_STEP)
    share = np.clip(1 - np.abs(yaws - nodes[:, None]) / YAW_STEP, 0, None)  # (9, views), a hat at each node
    share /= share.sum(axis=1, keepdims=True)
    mean = np.einsum("bn,nij->bij", share, shifts)
    variance = np.einsum("bn,nij->bi", share, shifts**2) - (mean**2).sum(axis=2)
    return mean, variance / 2


def disturb(points: torch.Tensor) -> torch.Tensor:
    """Errors like a network's on aligned points (N, 68, 2): most faces get next to none, the others a random measure.

    Single points scatter; parts of the face shift and swell as one; the jaw slides along itself; a few points are lost.
    """
    number = len(points)
    measure = torch.rand(number, 1, 1) * (torch.rand(number, 1, 1) < 0.25)
    result = points + (0.003 + 0.04 * measure) * torch.randn_like(points)
    for part in PARTS.values():
        centre = points[:, part].mean(dim=1, keepdim=True)
        result[:, part] += measure * (0.06 * torch.randn(number, 1, 2))
        result[:, part] += measure * 0.12 * torch.randn(number, 1, 2) * (points[:, part] - centre)
    along = (points[:, 2:17] - points[:, :15]) / 2
    result[:, 1:16] += 0.25 * measure * torch.randn(number, 1, 1) * along
    lost = torch.rand(number, NUM_KEYPOINTS, 1) < 0.05 * torch.rand(number, 1, 1) * (measure > 0)
    return result + lost * 0.6 * torch.randn_like(points)


def realign(points: torch.Tensor, template: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`keypoints.pose.align` in torch: flat aligned points (N, 136) and the turn (N,) in radians."""
    z = torch.view_as_complex(points.contiguous())
    target = torch.view_as_complex(template.contiguous())
    z, target = z - z.mean(dim=1, keepdim=True), target - target.mean()
    a = (z * target.conj()).sum(dim=1) / (target.abs() ** 2).sum()
    return torch.view_as_real(z / a[:, None]).reshape(len(points), -1), torch.angle(a)


def predicted_views(folders: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """What the keypoint network predicts of rendered heads in their true boxes, (N, 68, 2), and their poses (N, 3)."""
    detector, found, poses = KeypointDetector(), [], []
    for data in (Data("rendered", folder) for folder in folders):
        for name, true in zip(*read_keypoints(data.csv_file("training")), strict=True):
            image = read_image(data.image_dir("training") / name)
            found.append(detector.keypoints(image, detector.boxes(true)[None])[0])
        poses.append(data.attributes("training")[["yaw", "pitch", "roll"]].to_numpy(float))
    return np.array(found, np.float64), np.concatenate(poses)


def train_regressor(
    views: tuple[np.ndarray, np.ndarray], predicted: tuple[np.ndarray, np.ndarray] | None, template: np.ndarray
) -> nn.Sequential:
    """Aligned points (N, 136) → yaw, pitch, roll / 20°, from labels and from predictions: (N, 68, 2) and (N, 3)."""
    torch.manual_seed(0)
    sources = [views] if predicted is None else [views, predicted]
    labels, poses = (np.concatenate(parts) for parts in zip(*sources, strict=True))
    real = np.arange(len(labels)) >= len(views[0])
    weights = np.where(real, 1 + TURNED * np.clip(np.abs(poses[:, 0]) / 40, 0, 2), 1.0)
    weights *= np.where(real, PREDICTED / max(1, weights[real].sum()), (1 - PREDICTED) / weights[~real].sum())
    labels = np.concatenate([labels, labels[:, FLIP_INDEX] * (-1, 1)])
    poses = np.concatenate([poses, poses * (-1, 1, -1)])
    chances, predictions = torch.tensor(np.tile(weights, 2)), torch.tensor(np.tile(real, 2))
    aligned, _, turn = align(labels, template)
    poses = poses - np.column_stack([0 * turn, 0 * turn, np.degrees(turn)])
    points, targets = torch.tensor(aligned, dtype=torch.float32), torch.tensor(poses / 20, dtype=torch.float32)
    template = torch.tensor(template, dtype=torch.float32)
    first, second = HIDDEN
    net = nn.Sequential(
        nn.Linear(2 * NUM_KEYPOINTS, first), nn.SiLU(), nn.Linear(first, second), nn.SiLU(), nn.Linear(second, 3)
    )
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=STEPS)
    for _ in range(STEPS):
        batch = torch.multinomial(chances, BATCH, replacement=True)
        shaken = points[batch] + SCATTER * torch.randn(BATCH, NUM_KEYPOINTS, 2)
        inputs, turned = realign(torch.where(predictions[batch, None, None], shaken, disturb(points[batch])), template)
        wanted = targets[batch].clone()
        wanted[:, 2] -= torch.rad2deg(turned) / 20
        loss = (net(inputs) - wanted).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net


def layers_of(net: nn.Sequential) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Return weights (inputs, outputs) and biases of the linear layers."""
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    return tuple((layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in linear)


def write_small(path: Path, arrays: dict[str, np.ndarray], layers: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Write arrays and layers, large ones with 16 bits."""
    for i, (weights, bias) in enumerate(layers):
        arrays |= {f"weights_{i}": weights, f"bias_{i}": bias}
    write_arrays(path, {name: a.astype(np.float16 if a.size > 1000 else np.float32) for name, a in arrays.items()})


def read_photos(folder: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """Read photographs with reference angles.

    Returns:
        labels.csv (name, yaw, pitch, roll) and keypoints.csv, (N, 68, 2) in its order.
    """
    labels = pd.read_csv(folder / "labels.csv", index_col="name")
    given = pd.read_csv(folder / "keypoints.csv", index_col=0).loc[labels.index].to_numpy(float)
    return labels, given.reshape(-1, NUM_KEYPOINTS, 2)


def find_zero(model: PoseModel, photos: Path) -> float:
    """Return the zero for which the median error of the photographs' pitch is 0."""
    labels, given = read_photos(photos)
    detector, off = KeypointDetector(), []
    for name, points in zip(labels.index, given, strict=True):
        image = read_image(photos / name)
        seen = detector.keypoints(image, detector.framing.boxes(points))[0]
        off += [labels.pitch[name] - estimate_pose(p, image.shape[1::-1], model=model).pitch for p in (points, seen)]
    return round(float(np.median(off)), 1)


@one_sentence()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.pose", description=__doc__.splitlines()[0])
    parser.add_argument("--geometry", type=Path, default=Path("build/geometry.npz"), metavar="FILE")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="photographs to find the zero of the pitch with")
    parser.add_argument("--rendered", type=Path, nargs="+", default=[], metavar="DIR", help="beside the sample")
    parser.add_argument("--out", type=Path, default=Path("build") / POSE_MODEL.name, metavar="FILE")
    options = parser.parse_args(arguments)
    if not options.geometry.exists():
        raise FileNotFoundError(f"{options.geometry} is not here: data/sample/geometry.py writes it, with Blender")
    torch.set_num_threads(1)
    check_writable(options.out)
    with np.load(options.geometry, allow_pickle=False) as data:
        views = {name: data[name] for name in data.files}
    mean, components, pivot, size, unit = shape_model(views["points"].astype(np.float64))
    shift, spread = jaw_table(views, size, unit)
    template, drawn = mean[:NUM_KEYPOINTS, :2], (views["labels"].astype(np.float64), views["pose"].astype(np.float64))
    layers = layers_of(train_regressor(drawn, None, template))
    own = PoseModel(mean, components, pivot, 0.0, shift, spread, mean[:NUM_KEYPOINTS, :2], layers)
    zero = find_zero(own, options.photos) if options.photos else load_pose_model().zero
    turn = turn_in_order(0, zero, 0)  # such that the head's zero is so many degrees of pitch from the mesh's
    arrays = {"mean": mean @ turn, "components": components @ turn, "pivot": pivot @ turn}
    arrays |= {"jaw_shift": shift, "jaw_spread": spread, "template": mean[:NUM_KEYPOINTS, :2]}
    write_small(options.out, arrays | {"zero": np.array(zero), "unit": np.array(unit)}, layers)
    record = {"heads": len(views["points"]), "views": len(views["pose"]), "components": COMPONENTS, "zero": zero}
    record |= {"unit_dm": round(unit, 4), "steps": STEPS, "seed": 0, "core_seconds": round(process_time())}
    write_json(options.out.with_suffix(".json"), record)
    other = options.out.with_name(PREDICTIONS_REGRESSOR.name)
    predicted = predicted_views([find_data("sample").root, *options.rendered])
    write_small(other, {}, layers_of(train_regressor(drawn, predicted, template)))
    about = {"sha256": sha256(other), "keypoints_sha256": sha256(DEFAULT_MODEL), "predicted": len(predicted[0])}
    write_json(other.with_suffix(".json"), about | {"views": len(views["pose"]), "steps": STEPS, "seed": 0})


if __name__ == "__main__":
    main()
