"""The free weights beside the default ones: `python -m training.studies.free` writes results/free.json.

Needs the official set (`make data`); the wild set (KEYPOINTS_WILD) and --hard DIR, whose keypoints.csv labels hard
faces, are left out where they are missing. What both detectors find is counted by `training.studies.detector found`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_load import read_image
from keypoints.detection import FREE, KeypointDetector
from keypoints.geometry import with_roll
from keypoints.signals import eye_openings
from training import metrics
from training.eyes import agreement, openings_of
from training.framing import nearest_face
from training.splits import find_wild
from training.studies.benchmark import Labelled, apply_offsets, fit_offsets, labelled_sets, read_labels, spread
from training.studies.common import figures_file, make_parser, official_or_sample, rounded

CALIBRATION = 400  # training images on which the offsets are fitted
FIGURES = ("n", "found", "nme_box", "nme_iod", "fr_iod_10")


def predict(detector: KeypointDetector, labelled: Labelled, boxed: bool) -> np.ndarray:
    """The keypoints (N, 68, 2) of a whole pipeline, NaN where no face is found, or in boxes of the true points."""
    found = np.full_like(labelled.keypoints, np.nan)
    for i, (path, true) in enumerate(zip(labelled.paths, labelled.keypoints, strict=True)):
        image = read_image(path)
        if boxed:
            [found[i]] = detector.keypoints(image, detector.boxes(true))
            continue
        found[i] = nearest_face([face.keypoints for face in detector(image)], true)
    return found


def measure(detector: KeypointDetector, sets: dict[str, tuple[Labelled, Labelled | None]]) -> dict:
    """Figures by set and way: as it is, and with each point's offset fitted on training images."""
    content: dict = {}
    for name, (test, training) in sets.items():
        for way, boxed in (("pipeline", False), ("true boxes", True)):
            predicted = predict(detector, test, boxed)
            tried = {way: predicted}
            if training is not None:
                offsets = fit_offsets(predict(detector, training, boxed), training.keypoints)
                tried[f"{way}, fitted"] = apply_offsets(predicted, offsets)
            for key, points in tried.items():
                summary = metrics.summary(points, test.keypoints, people=test.who)
                chosen = {figure: summary[figure] for figure in FIGURES} | {"intervals": summary["intervals"]}
                lost = ~np.isfinite(points).all(axis=(1, 2))
                errors = np.where(lost, np.inf, metrics.nme(np.nan_to_num(points), test.keypoints, "iod"))
                chosen["failed_or_lost"] = int((errors > 10).sum())
                content.setdefault(name, {})[key] = chosen
            print(name, way, content[name], flush=True)
    return content


def lids(detector: KeypointDetector, labelled: Labelled) -> dict:
    """How well the eyes' openings are told where the faces' boxes are known; see :func:`training.eyes.agreement`."""
    told = []
    for path, true in zip(labelled.paths, labelled.keypoints, strict=True):
        [crop] = detector.network.locate([read_image(path)], with_roll(detector.boxes(true)[None])).crops
        told.append(np.full(2, np.nan) if crop is None else eye_openings(crop))
    return agreement(np.ravel(told), openings_of(labelled.keypoints).ravel())


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser(__spec__.name, __doc__)
    parser.add_argument("--hard", type=Path, metavar="DIR", help="hard faces and their keypoints.csv")
    options = parser.parse_args(arguments)
    data, out = official_or_sample("free.json")
    sets: dict[str, tuple[Labelled, Labelled | None]] = {}
    for name, (test, training) in labelled_sets(data, find_wild()).items():
        sets[name] = test, training.take(spread(len(training.paths), CALIBRATION)) if name == "people" else None
    if options.hard is not None:
        own_face: Callable[[str], str] = str
        sets["hard"] = read_labels(options.hard / "keypoints.csv", options.hard, own_face), None
    with figures_file(out) as content:
        for name, model in (("default", None), (FREE, FREE)):
            detector = KeypointDetector(model)
            content[name] = rounded(measure(detector, sets), ".4g")
            content[name]["eyes"] = {key: lids(detector, sets[key][0]) for key in ("wild", "heads") if key in sets}
    return 0


if __name__ == "__main__":
    sys.exit(main())
