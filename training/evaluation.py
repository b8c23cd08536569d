"""Figures of a model on labelled images, by three ways of framing the face, and of weights on every set."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import nn
from torch.utils.data import Subset

from data_load import FacialKeypointsDataset, evaluation_transform, label_offset, person_of, require_images
from keypoints.detection import KeypointDetector
from keypoints.files import sha256
from keypoints.labels import LabelOptions
from keypoints.landmarks import REGIONS, complete_keypoints
from models import FaceDetector, PhotoNet
from training import metrics
from training.framing import nearest_face
from training.prediction import predict
from training.recipe import true_keypoints
from training.splits import WILD_CSV, wild_groups
from training.weights import MODEL_DIR, load_model

RESULTS = MODEL_DIR.parent / "results"
FRAMINGS = {
    "centre": "the official protocol: Rescale 250, centre crop 224",
    "haar": "the whole pipeline: a box as the Haar cascade frames faces, framing, network",
    "box": "framed by the true keypoints' box",
}
NO_OFFSET = "haar, labels' offset left out"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
        names: N file names.
        predicted, true: (N, 68, 2) float32 pixels: of the image, or of the network's input with framing 'centre'.
        found: (N,) bool; rows of ``predicted`` that were not found hold NaN.
        figures: see :func:`training.metrics.summary`, with intervals.
    """

    names: list[str]
    predicted: np.ndarray
    true: np.ndarray
    found: np.ndarray
    figures: dict


def evaluate(
    net: nn.Module | str | Path,
    csv_file: str | Path,
    root_dir: str | Path,
    framing: str = "centre",
    names: Iterable[str] | None = None,
    who: Callable[[str], Hashable] = person_of,
    offset: bool = False,
    **labels: Unpack[LabelOptions],
) -> Evaluation:
    """Measure a network on labelled images of one face each.

    Args:
        net: a network, or an ONNX file or the weights beside it; 'centre' takes networks that see a view of 224 pixels.
        framing: a key of :data:`FRAMINGS`. With 'haar' a face counts as found when the tight box of some predicted
            face holds the true points' centroid; of several the nearest counts.
        names: measure these images only; all by default.
        who: file name → person; the intervals are over people.
        offset: add :func:`data_load.label_offset` to the predictions of a network whose points lie on the features, as
            the official labels have it.
        labels: see :func:`data_load.read_keypoints`. Masked points count in no figure; the face's box, size and
            centroid are then those of its known points and the reference face's estimates of the others.

    Raises:
        OSError, ValueError: the labels or images can't be read, are missing, or a face has no size; or the network is
            no keypoint network.
    """
    if isinstance(net, FaceDetector):
        raise ValueError("got the weights of a face detector, expected those of a keypoint network")
    if framing not in FRAMINGS:
        raise ValueError(f"got framing {framing!r}, expected one of {', '.join(FRAMINGS)}")
    raw = FacialKeypointsDataset(csv_file, root_dir, **labels)
    chosen = _choose(raw, names)
    measured, true = [raw.names[i] for i in chosen], raw.keypoints[chosen]
    whole = complete_keypoints(true)
    if framing == "centre":
        dataset = Subset(FacialKeypointsDataset(csv_file, root_dir, evaluation_transform(), **labels), chosen)
        true, predicted = true_keypoints(dataset), predict(net, dataset)
        found = np.ones(len(dataset), bool)
        if offset:  # it is told in pixels of the image; these are those of its crop
            scale = np.array([250 / min(raw[index]["image"].shape[:2]) for index in chosen], np.float32)[:, None, None]
            predicted = predicted + scale * label_offset(predicted / scale)[:, None]
    else:
        detector = KeypointDetector(net)

        def locate(index: int, face: np.ndarray) -> np.ndarray:
            image = raw[index]["image"]
            if framing == "box":
                return detector.keypoints(image, detector.framing.boxes(face))[0]
            return nearest_face([face.keypoints for face in detector(image)], face)

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # each core has images of its own
        try:
            with ThreadPoolExecutor(threads) as pool:
                predicted = np.array(list(pool.map(locate, chosen, whole)), true.dtype).reshape(true.shape)
        finally:
            torch.set_num_threads(threads)
        found = np.isfinite(predicted).all(axis=(1, 2))
        if offset:
            predicted = predicted + label_offset(predicted)[:, None]
    figures = metrics.summary(predicted, true, found, [who(name) for name in measured])
    return Evaluation(measured, predicted, true, found, figures)


def _choose(dataset: FacialKeypointsDataset, names: Iterable[str] | None) -> list[int]:
    """Return the indices of the images to measure; check that they are there and hold a face."""
    wanted = set(dataset.names if names is None else names)
    if absent := wanted - set(dataset.names):
        raise ValueError(f"{dataset.csv_file}: got no labels of {min(absent)!r} ({len(absent)} such images)")
    chosen = [i for i, name in enumerate(dataset.names) if name in wanted]
    require_images([dataset.names[i] for i in chosen], dataset.root_dir)
    flat = np.flatnonzero(metrics.face_size(dataset.keypoints[chosen], "iod") == 0)
    if len(flat):
        name = dataset.names[chosen[flat[0]]]
        raise ValueError(
            f"{dataset.csv_file}: got a face with both outer eye corners in one place for {name!r} "
            f"({len(flat)} such), expected a size"
        )
    return chosen


# Weights on every set -------------------------------------------------------------------------------------------------


def at_use(model: str | Path) -> nn.Module | Path:
    """Return what to measure of a weights file: its network, or of a PhotoNet the file, beside which is the ONNX."""
    net = load_model(model)
    return Path(model) if isinstance(net, PhotoNet) else net


def evaluate_framings(
    net: nn.Module | str | Path,
    csv_file: str | Path,
    root_dir: str | Path,
    framings: Sequence[str] = tuple(FRAMINGS),
    **options: Any,
) -> dict[str, dict]:
    """Return framing → figures; the options are those of :func:`evaluate`. Files are not measured at 'centre'."""
    framings = framings if isinstance(net, nn.Module) else [framing for framing in framings if framing != "centre"]
    return {framing: evaluate(net, csv_file, root_dir, framing, **options).figures for framing in framings}


def evaluate_weights(
    model: str | Path,
    csv_file: str | Path,
    root_dir: str | Path,
    wild: Path | None = None,
    framings: Sequence[str] = tuple(FRAMINGS),
    official: bool = False,
    **labels: Unpack[LabelOptions],
) -> dict:
    """Measure weights on a test set and on the validation photos of the wild set.

    Args:
        model: a weights file.
        wild: see :func:`training.splits.find_wild`; None leaves the photos out.
        framings: keys of :data:`FRAMINGS`. The wild photos are never framed by the centre crop: they show less around
            the face than the official images, which it is made for.
        official: whether the labels are the official set's. A network whose points lie on the features is then
            measured with the labels' offset added, and behind Haar without it, too (:data:`NO_OFFSET`).
        labels: of the test set, see :func:`data_load.read_keypoints`.

    Returns:
        weights (the file's name), sha256, test and wild: framing → figures of :func:`evaluate`; wild None where it was
        left out.
    """
    net, groups = at_use(model), wild_groups("validation")
    in_the_wild = [framing for framing in framings if framing != "centre"]
    offset = official and not isinstance(net, nn.Module)
    test = evaluate_framings(net, csv_file, root_dir, framings, offset=offset, **labels)
    if offset and "haar" in framings:
        test[NO_OFFSET] = evaluate(net, csv_file, root_dir, "haar", **labels).figures
    return {
        "weights": Path(model).name,
        "sha256": sha256(model),
        "test": test,
        "wild": wild
        and evaluate_framings(net, wild / WILD_CSV, wild, in_the_wild, names=groups, who=groups.__getitem__),
    }


def by_person(model: str | Path) -> dict | None:
    """Read the figures of unseen people, which were measured when training ended, from a record.

    Weights that were trained on everybody have none; the record of their *twin* has them, a by-person model of the same
    recipe that was trained without some people (``python -m training train --twin``). It lies in ``results/``.

    Args:
        model: a weights file. Its own record comes first, then ``results/<its stem>_twin.json``.

    Returns:
        weights, sha256, seed and data of the measured network; validation and test: framing → figures. None where there
        is no such record, or the twin's recipe, network or data differs.
    """
    model = Path(model)
    own, twin = _record(model.with_suffix(".json")), _record(RESULTS / f"{model.stem}_twin.json")
    if own.get("sha256") != sha256(model):
        return None
    record = own if "by_person" in own else twin
    if "by_person" not in record or _kind(record) != _kind(own):
        return None
    origin = {key: record[key] for key in ("weights", "sha256", "data")}
    return origin | {"seed": record["recipe"]["seed"]} | record["by_person"]


def _record(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _kind(record: dict) -> tuple:
    """Return what twins have in common: all but the people and the seed."""
    recipe = {key: value for key, value in record.get("recipe", {}).items() if key != "seed"}
    return record["network"], record["parameters"], record.get("data"), recipe


# As a table -----------------------------------------------------------------------------------------------------------

COLUMNS = ["found", "NME_box, %", "NME_iod, %", "iod > 10 %", "AUC, %", *REGIONS]  # of :func:`table_cells`


def table_rows(content: dict) -> list[tuple[str, str, str, dict | None]]:
    """Return the lines of an evaluation's table: set, weights, framing, figures.

    Args:
        content: data (a name) and models, each what :func:`evaluate_weights` gives and by_person.

    Returns:
        Figures are None for people in the weights' training set; their twin's lines follow.
    """
    rows = []
    for model in content["models"]:
        name = Path(model["weights"]).stem
        rows += [(f"{content['data']} test set", name, *line) for line in model["test"].items()]
        people = model["by_person"] or {}
        own = people.get("sha256") == model["sha256"]
        for part in ("validation", "test"):
            title = f"{people.get('data')}, {part} people"
            if part in people:
                rows += [] if own else [(title, name, "", None)]
                rows += [(title, name if own else "its twin", *line) for line in people[part].items()]
        rows += [("wild photos", name, *line) for line in (model["wild"] or {}).items()]
    return rows


def table_cells(figures: dict | None) -> list[str]:
    """Return the cells below :data:`COLUMNS`, with 95 % intervals; the last six are NME_box by part, percent."""
    if figures is None:
        return [""] * len(COLUMNS)

    def text(value: float | None, digits: int, ends: Sequence[float] | None = None) -> str:
        if value is None:
            return ""
        return f"{value:.{digits}f}" + (f" [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]" if ends else "")

    intervals, parts = figures.get("intervals", {}), figures.get("nme_box_parts", {})
    return [
        f"{figures['found']}/{figures['n']}",
        *(text(figures[key], 2, intervals.get(key)) for key in ("nme_box", "nme_iod")),
        *(text(figures[key], 1) for key in ("fr_iod_10", "auc_box_07")),
        *(text(parts.get(name), 2) for name in REGIONS),
    ]


def table(content: dict) -> str:
    """Return the table of an evaluation as text."""
    lines = [["set", "weights", "framing", *COLUMNS]]
    lines += [[*names, *table_cells(figures)] for *names, figures in table_rows(content)]
    return aligned(lines)


def aligned(lines: list[list[str]]) -> str:
    """Return rows of cells as text in columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip() for line in lines)
