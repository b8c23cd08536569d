"""How far the official labels lie from what they name: fits the constants of `data_load.label_offset`.

    python -m training.studies.label_offset --model build/ablation_no_video_frames.safetensors

The network must have learnt from photographs and rendered heads only (`python -m training.studies.ablation
'no video frames'`), whose points lie where the features are. Where it sees points on the frames of the official set's
*training* people, their labels lie elsewhere by a shift, right and down, of `constant + slope · size` pixels; size is
the square root of the area of the labels' box. A face's shift is the median over its 68 points, of the picture and its
mirror image, so that a leaning of the network to one side cancels; the line through all faces is fitted by least
absolute differences.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from data_load import IMAGE_SIZE, FacialKeypointsDataset, find_data, label_offset, person_of
from keypoints.files import check_writable, one_sentence, write_json
from keypoints.landmarks import flip_keypoints
from training import metrics
from training.augmentation import FaceCrops, framed_transform
from training.prediction import predict
from training.recipe import true_keypoints
from training.splits import read_splits
from training.weights import load_model

OUT = Path(__file__).resolve().parents[2] / "results" / "label_offset.json"


def line(size: np.ndarray, shift: np.ndarray, rounds: int = 50) -> tuple[float, float]:
    """Constant and slope of the line with the least absolute differences (iteratively reweighted least squares).

    >>> x = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    >>> constant, slope = line(x, np.array([1.1, 1.2, 1.3, 9.0, 1.5]))
    >>> round(constant, 2), round(slope, 2)
    (1.0, 0.1)
    """
    columns, weights = np.column_stack([np.ones_like(size), size]), np.ones_like(size)
    for _ in range(rounds):
        found = np.linalg.lstsq(columns * weights[:, None], shift * weights, rcond=None)[0]
        weights = 1 / np.sqrt(np.maximum(np.abs(shift - columns @ found), 1e-3))
    return float(found[0]), float(found[1])


def shifts(model: Path, every: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The labels' shift of some training people's frames: (N, 2) pixels of the image, size (N,), and who."""
    data, people = find_data("official"), set(read_splits()["by_person"]["training"])
    labels = FacialKeypointsDataset(data.csv_file("training"), data.image_dir("training"))
    chosen = [name for name in labels.names if person_of(name) in people][::every]
    faces = FaceCrops(labels.csv_file, labels.root_dir, chosen, framed_transform())  # labels as published
    net = load_model(model)
    views = torch.stack([faces[i]["image"] for i in range(len(faces))])
    straight = predict(net, views)
    mirrored = np.stack([flip_keypoints(points, IMAGE_SIZE) for points in predict(net, views.flip(3))])
    guessed = (straight + mirrored) / 2
    true = true_keypoints(faces)
    size = metrics.face_size(labels.keypoints[[labels.names.index(name) for name in faces.names]])
    scale = size / metrics.face_size(true)
    return np.median(true - guessed, axis=1) * scale[:, None], size, [person_of(name) for name in faces.names]


@one_sentence()
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.studies.label_offset", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("--model", type=Path, required=True, help="weights that never saw the official labels")
    parser.add_argument("--every", type=int, default=2, help="take every so many-th frame (default: 2)")
    options = parser.parse_args(arguments)
    check_writable(OUT)
    shift, size, who = shifts(options.model, options.every)
    content = {"weights": options.model.name, "faces": len(size), "people": len(set(who)), "axes": {}}
    for axis, name in enumerate(("right", "down")):
        constant, slope = line(size, shift[:, axis])
        content["axes"][name] = {
            "constant": constant,
            "slope": slope,
            "mean": float(shift[:, axis].mean()),
            "median": float(np.median(shift[:, axis])),
            "interval_of_the_mean": metrics.interval(shift[:, axis], who),
            "mean_of_data_load": float(label_offset_of(size)[:, axis].mean()),
        }
        print(name, content["axes"][name])
    write_json(OUT, content)
    print(f"wrote {OUT}")
    return 0


def label_offset_of(size: np.ndarray) -> np.ndarray:
    """What :func:`data_load.label_offset` says of faces of these sizes."""
    squares = np.zeros((len(size), 68, 2))
    squares[:, 0] = size[:, None]
    return label_offset(squares)


if __name__ == "__main__":
    sys.exit(main())
