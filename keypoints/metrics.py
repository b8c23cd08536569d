"""Errors of predicted keypoints, in percent: NME, failure rate, CED and AUC.

NME is the mean distance between predicted and true points over a size of the face, its *normaliser*: ``box`` is the
square root of the area of the true points' tight box, ``iod`` the distance of the outer eye corners (points 36 and 45,
as in 300-W: Sagonas et al., https://ibug.doc.ic.ac.uk/resources/300-W_IMAVIS/). A face that was not found has the error
infinity: a failure that NME leaves out and the other figures count.
"""

from __future__ import annotations

import numpy as np

from keypoints.landmarks import EYE_CORNERS


def face_size(keypoints: np.ndarray, normaliser: str = "box") -> np.ndarray:
    """The size of each face in pixels.

    Args:
        keypoints: (N, 68, 2) or (68, 2), pixels.
        normaliser: 'box' or 'iod'.

    Returns:
        (N,) or a scalar.
    """
    keypoints = np.asarray(keypoints, np.float64)
    if normaliser == "box":
        return np.sqrt(np.ptp(keypoints, axis=-2).prod(axis=-1))
    if normaliser == "iod":
        return np.linalg.norm(keypoints[..., EYE_CORNERS[0], :] - keypoints[..., EYE_CORNERS[1], :], axis=-1)
    raise ValueError(f"got normaliser {normaliser!r}, expected 'box' or 'iod'")


def point_errors(predicted: np.ndarray, true: np.ndarray, normaliser: str = "box") -> np.ndarray:
    """Distance of each point from the truth in percent of the face's size: (N, 68, 2) twice → (N, 68)."""
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if predicted.shape != true.shape or true.shape[-1] != 2:
        raise ValueError(
            f"got predicted keypoints of shape {predicted.shape} and true ones of shape {true.shape}, "
            "expected the same (N, 68, 2)"
        )
    return 100 * np.linalg.norm(predicted - true, axis=-1) / face_size(true, normaliser)[..., None]


def nme(predicted: np.ndarray, true: np.ndarray, normaliser: str = "box") -> np.ndarray:
    """Normalised mean error of each face in percent: (N, 68, 2) twice → (N,).

    >>> true = np.zeros((1, 68, 2)); true[0, 45] = 10, 10
    >>> nme(true + [1, 0], true, "box").round(6)
    array([10.])
    """
    return point_errors(predicted, true, normaliser).mean(axis=-1)


def failure_rate(errors: np.ndarray, threshold: float) -> float:
    """Share of faces with an error above ``threshold``, in percent; errors in percent, infinity where not found."""
    return float(100 * np.mean(np.asarray(errors) > threshold))


def auc(errors: np.ndarray, threshold: float) -> float:
    """Area under the CED up to ``threshold``, in percent of the best possible.

    The CED is a staircase, so its area is exactly the mean of ``1 - error / threshold``, floored at 0.
    """
    return float(100 * np.mean(np.clip(1 - np.asarray(errors) / threshold, 0, None)))


def ced(errors: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Cumulative error distribution: the share of faces, in percent, with an error of at most each threshold."""
    return 100 * np.searchsorted(np.sort(errors), thresholds, side="right") / len(errors)


def summary(predicted: np.ndarray, true: np.ndarray, found: np.ndarray | None = None) -> dict:
    """The figures every evaluation reports.

    Args:
        predicted, true: (N, 68, 2), pixels; rows of ``predicted`` that were not found are ignored, and rows that
            hold NaN or infinity count as not found.
        found: (N,) bool; all by default.

    Returns:
        n and found (counts); nme_box and nme_iod (mean over the found, None if there are none); fr_iod_10 (failures:
        NME_iod above 10 %), fr_box_07 and auc_box_07 (NME_box, 7 %), which count the lost. All in percent.
    """
    true = np.asarray(true, np.float64)
    found = np.ones(len(true), bool) if found is None else np.asarray(found, bool)
    found = found & np.isfinite(predicted).all(axis=(1, 2))  # NaN compares as no failure
    errors = {}
    for normaliser in ("box", "iod"):
        errors[normaliser] = np.full(len(true), np.inf)
        errors[normaliser][found] = nme(np.asarray(predicted)[found], true[found], normaliser)
    mean = {key: float(value[found].mean()) if found.any() else None for key, value in errors.items()}
    return {
        "n": len(true),
        "found": int(found.sum()),
        "nme_box": mean["box"],
        "nme_iod": mean["iod"],
        "fr_iod_10": failure_rate(errors["iod"], 10),
        "fr_box_07": failure_rate(errors["box"], 7),
        "auc_box_07": auc(errors["box"], 7),
    }
