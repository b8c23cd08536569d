"""How far the official labels lie from what they name: fits the constants of `data_load.label_offset`.

    python -m training.studies.label_offset --model build/ablation_no_video_frames.safetensors

The network must have been trained on photographs and rendered heads only (`python -m training.studies.ablation
'no video frames'`), whose labels lie on the features. On the frames of the official set's *training* people its
predictions and the labels differ by an offset, right and down, of `constant + slope · size` pixels; size is the square
root of the area of the labels' box. A face's offset is the median over its 68 points, averaged over the image and its
mirror image, so that a bias of the network to one side cancels. The line has the least absolute error.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import QuantileRegressor

from data_load import FacialKeypointsDataset, find_data, label_offset, person_of
from keypoints.detection import KeypointDetector
from keypoints.landmarks import flip_keypoints
from training import metrics
from training.splits import read_splits
from training.studies.common import RESULTS, figures_file, make_parser


def fit_line(size: np.ndarray, offset: np.ndarray) -> tuple[float, float]:
    """Fit the line with the least absolute error; return its constant and its slope.

    >>> x = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    >>> constant, slope = fit_line(x, np.array([1.1, 1.2, 1.3, 9.0, 1.5]))
    >>> round(constant, 2), round(slope, 2)
    (1.0, 0.1)
    """
    line = QuantileRegressor(quantile=0.5, alpha=0).fit(size[:, None], offset)
    return float(line.intercept_), float(line.coef_[0])


def offsets(model: Path, every: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Measure the labels' offset on every so many-th frame of the training people.

    Returns:
        offsets (N, 2) and face sizes (N,), pixels of the image, and the people on the frames.
    """
    data, people = find_data("official"), set(read_splits()["by_person"]["training"])
    labels = FacialKeypointsDataset(data.csv_file("training"), data.image_dir("training"))
    chosen = [name for name in labels.names if person_of(name) in people][::every]
    detector, rows = KeypointDetector(model), []
    for name in chosen:
        index = labels.names.index(name)
        image, true = labels[index]["image"], labels.keypoints[index]  # labels as published
        width = image.shape[1]
        direct = detector.keypoints(image, detector.boxes(true))[0]
        boxes = detector.boxes(flip_keypoints(true, width))
        mirrored = flip_keypoints(detector.keypoints(np.ascontiguousarray(image[:, ::-1]), boxes)[0], width)
        rows.append(np.median(true - (direct + mirrored) / 2, axis=0))
    size = metrics.face_size(labels.keypoints[[labels.names.index(name) for name in chosen]])
    return np.stack(rows), size, [person_of(name) for name in chosen]


def offset_of_sizes(size: np.ndarray) -> np.ndarray:
    """Return what :func:`data_load.label_offset` says of faces of these sizes, (N,) → (N, 2)."""
    squares = np.zeros((len(size), 68, 2))
    squares[:, 0] = size[:, None]
    return label_offset(squares)


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("label_offset", __doc__)
    parser.add_argument("--model", type=Path, required=True, help="weights that were not trained on official labels")
    parser.add_argument("--every", type=int, default=2, help="take every so many-th frame (default: 2)")
    options = parser.parse_args(arguments)
    with figures_file(RESULTS / "label_offset.json") as content:
        offset, size, who = offsets(options.model, options.every)
        content |= {"weights": options.model.name, "faces": len(size), "people": len(set(who)), "axes": {}}
        for axis, name in enumerate(("right", "down")):
            constant, slope = fit_line(size, offset[:, axis])
            content["axes"][name] = {
                "constant": constant,
                "slope": slope,
                "mean": float(offset[:, axis].mean()),
                "median": float(np.median(offset[:, axis])),
                "interval_of_the_mean": metrics.interval(offset[:, axis], who),
                "mean_of_data_load": float(offset_of_sizes(size)[:, axis].mean()),
            }
            print(name, content["axes"][name])
    return 0


if __name__ == "__main__":
    sys.exit(main())
