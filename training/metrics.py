"""Errors of predicted keypoints, in percent: NME, also by part of the face, failure rate, CED and AUC, with intervals.

NME is the mean distance between predicted and true points over a size of the face, its *normaliser*: ``box`` is the
square root of the area of the true points' tight box, ``iod`` the distance of the outer eye corners (points 36 and 45,
as in 300-W: Sagonas et al., https://ibug.doc.ic.ac.uk/resources/300-W_IMAVIS/). A face that was not found has the error
infinity: a failure that NME leaves out and the other figures count.

Points whose truth is missing (NaN) are left out of every mean. The size of such a face is that of its known points
together with the reference face's estimates of the others, see :func:`keypoints.landmarks.complete_keypoints`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keypoints.landmarks import REGIONS, face_size

RESAMPLES = 2000  # of the bootstrap: with other seeds the interval's ends waver by about a fiftieth of its width


def point_errors(predicted: np.ndarray, true: np.ndarray, normaliser: str = "box") -> np.ndarray:
    """Distance of each point from the truth in percent of the face's size: (N, 68, 2) twice → (N, 68).

    NaN where the truth is missing.
    """
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
    return mean_known(point_errors(predicted, true, normaliser))


def mean_known(errors: np.ndarray) -> np.ndarray:
    """The mean of each row's errors that are not NaN: (N, M) → (N,); NaN where a row has none."""
    errors, known = np.asarray(errors), np.isfinite(errors)
    if known.all():
        return errors.mean(axis=-1)
    with np.errstate(invalid="ignore"):
        return np.where(known, errors, 0).sum(axis=-1) / known.sum(axis=-1)


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


def calibration_error(
    confidence: np.ndarray, right: np.ndarray, bins: int = 10
) -> tuple[float, list[tuple[int, float, float]]]:
    """Return the expected calibration error, over bins of equally many cases (Nguyen and O'Connor, 2015,
    https://arxiv.org/abs/1508.05154).

    scikit-learn's ``calibration_curve`` does not return the sizes of the bins, and ties at quantiles make them uneven.

    Args:
        confidence: (N,) in [0, 1].
        right: (N,) 0 or 1.

    Returns:
        the mean distance between confidence and accuracy, and (cases, mean confidence, accuracy) of each bin.

    >>> calibration_error(np.array([0.2, 0.2, 0.9, 0.9]), np.array([0, 1, 1, 1]), bins=2)[0].__round__(6)
    0.2
    """
    parts = [part for part in np.array_split(np.argsort(confidence, kind="stable"), bins) if len(part)]
    rows = [(len(part), float(confidence[part].mean()), float(right[part].mean())) for part in parts]
    return sum(number * abs(said - so) for number, said, so in rows) / len(confidence), rows


def interval(values: np.ndarray, people: Sequence) -> tuple[float, float] | None:
    """The 95 % interval of the mean over faces, were other people of the same kind measured.

    Images of one person, often of one video, are alike, so it is people that are drawn with replacement, each with all
    their images, and the mean over the drawn images is taken each time; the middle 95 % of :data:`RESAMPLES` such
    means are the interval (the percentile interval of the cluster bootstrap: Field and Welsh, Bootstrapping clustered
    data, 2007, https://doi.org/10.1111/j.1467-9868.2007.00593.x).

    Args:
        values: (N,), one a face, in percent; NaN where a face has none.
        people: N labels: who, or which photo or sitting, each face is of.

    Returns:
        low, high, in percent; None for fewer than two people with values.

    >>> low, high = interval(np.array([1.0, 1.0, 4.0, 4.0]), ["Ann", "Ann", "Bo", "Bo"])
    >>> (float(low), float(high))  # Ann alone, Bo alone
    (1.0, 4.0)
    """
    values = np.asarray(values, np.float64)
    if len(people) != len(values):
        raise ValueError(f"got {len(people)} people's labels for {len(values)} faces, expected one a face")
    has = np.isfinite(values)
    who = np.unique(np.asarray(people)[has], return_inverse=True)[1]
    number = int(who.max()) + 1 if has.any() else 0
    if number < 2:
        return None
    total, images = np.bincount(who, values[has]), np.bincount(who)
    # How often each of the people is drawn, resample by resample: (RESAMPLES, people).
    drawn = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), RESAMPLES)
    low, high = np.percentile(drawn @ total / (drawn @ images), [2.5, 97.5])
    return float(low), float(high)


def summary(
    predicted: np.ndarray, true: np.ndarray, found: np.ndarray | None = None, people: Sequence | None = None
) -> dict:
    """The figures every evaluation reports.

    Args:
        predicted, true: (N, 68, 2), pixels; rows of ``predicted`` that were not found are ignored, and rows that
            hold NaN or infinity count as not found.
        found: (N,) bool; all by default.
        people: N labels, who each face is of, for the intervals.

    Returns:
        n and found (counts); nme_box and nme_iod (mean over the found, None if there are none); fr_iod_10 (failures:
        NME_iod above 10 %), fr_box_07 and auc_box_07 (NME_box, 7 %), which count the lost; nme_box_parts and
        nme_iod_parts: the mean over the points of each of :data:`keypoints.landmarks.REGIONS` (over the found). All in
        percent. Where ``people`` are given also people (how many there are) and intervals: :func:`interval` of nme_box,
        nme_iod, fr_iod_10, fr_box_07 and auc_box_07, each [low, high] or None.
    """
    true = np.asarray(true, np.float64)
    found = np.ones(len(true), bool) if found is None else np.asarray(found, bool)
    found = found & np.isfinite(predicted).all(axis=(1, 2))  # NaN compares as no failure
    errors, parts = {}, {}
    for normaliser in ("box", "iod"):
        of_points = point_errors(np.asarray(predicted)[found], true[found], normaliser)
        errors[normaliser] = np.full(len(true), np.inf)
        errors[normaliser][found] = mean_known(of_points)
        parts[normaliser] = {
            name: None if np.isnan(of_points[:, part]).all() else float(np.nanmean(of_points[:, part]))
            for name, part in REGIONS.items()
        }
    mean = {key: float(value[found].mean()) if found.any() else None for key, value in errors.items()}
    figures: dict = {
        "n": len(true),
        "found": int(found.sum()),
        "nme_box": mean["box"],
        "nme_iod": mean["iod"],
        "fr_iod_10": failure_rate(errors["iod"], 10),
        "fr_box_07": failure_rate(errors["box"], 7),
        "auc_box_07": auc(errors["box"], 7),
        "nme_box_parts": parts["box"],
        "nme_iod_parts": parts["iod"],
    }
    if people is not None:
        # Each figure is a mean over faces; the lost have no NME, and are failures without area under the CED.
        values = {
            "nme_box": np.where(found, errors["box"], np.nan),
            "nme_iod": np.where(found, errors["iod"], np.nan),
            "fr_iod_10": 100.0 * (errors["iod"] > 10),
            "fr_box_07": 100.0 * (errors["box"] > 7),
            "auc_box_07": 100 * np.clip(1 - errors["box"] / 7, 0, None),
        }
        figures["people"] = len(set(people))
        bounds = {key: interval(value, people) for key, value in values.items()}
        figures["intervals"] = {key: list(ends) if ends else None for key, ends in bounds.items()}
    return figures
