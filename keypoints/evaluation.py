"""Figures of a model on labelled images, by three ways of framing the face."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from data_load import FacialKeypointsDataset, evaluation_transform
from keypoints import metrics
from keypoints.detection import KeypointDetector, face_at
from keypoints.training import predict, true_keypoints

FRAMINGS = {
    "centre": "the official protocol: Rescale 250, centre crop 224",
    "haar": "the whole pipeline: Haar box, framing, network",
    "box": "framed by the true keypoints' box",
}


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
        names: N file names.
        predicted, true: (N, 68, 2) float32 pixels: of the image, or of the network's input with framing 'centre'.
        found: (N,) bool; rows of ``predicted`` that were not found hold NaN.
        figures: see :func:`keypoints.metrics.summary`.
    """

    names: list[str]
    predicted: np.ndarray
    true: np.ndarray
    found: np.ndarray
    figures: dict


def evaluate(net: nn.Module, csv_file: str | Path, root_dir: str | Path, framing: str = "centre") -> Evaluation:
    """Measure a network on labelled images of one face each.

    Args:
        framing: a key of :data:`FRAMINGS`. With 'haar' a face counts as found when the tight box of some predicted
            face holds the true points' centroid; of several the nearest counts.
    """
    if framing not in FRAMINGS:
        raise ValueError(f"got framing {framing!r}, expected one of {', '.join(FRAMINGS)}")
    if framing == "centre":
        dataset = FacialKeypointsDataset(csv_file, root_dir, evaluation_transform())
        true, predicted = true_keypoints(dataset), predict(net, dataset)
        found = np.ones(len(dataset), bool)
    else:
        dataset, detector = FacialKeypointsDataset(csv_file, root_dir), KeypointDetector(net)
        true, predicted = dataset.keypoints, np.full_like(dataset.keypoints, np.nan)
        for i in range(len(dataset)):
            image = dataset[i]["image"]
            faces = detector.keypoints(
                image, detector.framing.boxes(true[i]) if framing == "box" else detector.detect(image)
            )
            if framing == "box":
                predicted[i] = faces[0]
                continue
            chosen = face_at(np.concatenate([faces.min(axis=1), np.ptp(faces, axis=1)], axis=1), true[i])
            if chosen is not None:
                predicted[i] = faces[chosen]
        found = np.isfinite(predicted).all(axis=(1, 2))
    return Evaluation(dataset.names, predicted, true, found, metrics.summary(predicted, true, found))
