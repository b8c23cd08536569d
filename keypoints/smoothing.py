"""Steady points: the One-Euro filter, over the place of a face and over its shape.

Points jitter because each frame is predicted anew. The One-Euro filter (Casiez, Roussel and Vogel, 1€ Filter, 2012,
https://doi.org/10.1145/2207676.2208639) averages over time, the longer the slower something moves. Here it has two
parts: where the face is, how large, turned and foreshortened (an affine map of a flat face), and how its points lie to
each other in its own frame. A still head holds a mouth that talks, and a mouth at rest moves with the head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from keypoints.landmarks import NUM_KEYPOINTS, REFERENCE_FACE, face_size


class OneEuro:
    """The One-Euro filter: a low pass whose cutoff frequency rises with the speed.

    Args:
        min_cutoff: Hz, of what stands still: less is steadier.
        beta: by how many Hz the cutoff rises for a speed of one unit a second: more lags less.
        d_cutoff: Hz, of the low pass of the speed.
        noise: units a second: a speed that jitter alone brings about, and that counts as none. It is our addition;
            with 0 the filter is the paper's.

    >>> steady = OneEuro(min_cutoff=1.0, beta=0.0)
    >>> [float(steady(np.array([value]), time)[0].round(2)) for time, value in ((0, 0), (0.1, 1), (0.2, 1))]
    [0.0, 0.39, 0.62]
    """

    def __init__(self, min_cutoff: float, beta: float, d_cutoff: float = 1.0, noise: float = 0.0) -> None:
        self.min_cutoff, self.beta, self.d_cutoff, self.noise = min_cutoff, beta, d_cutoff, noise
        self.time: float | None = None

    def __call__(self, value: np.ndarray, time: float, unit: float = 1.0) -> np.ndarray:
        """The next value.

        Args:
            value: (…, D): vectors of D numbers that share a speed.
            time: seconds. A time that does not come after the last one's changes nothing.
            unit: in what the speed is measured, for instance the size of the face.

        Returns:
            (…, D) float64.

        Raises:
            ValueError: ``time`` is not finite.
        """
        check_time(time)
        value = np.asarray(value, np.float64)
        if self.time is None:
            self.time, self.value, self.velocity = time, value, np.zeros_like(value)
            return value
        seconds = time - self.time
        if seconds <= 0:
            return self.value
        velocity = (value - self.value) / (seconds * unit)
        self.velocity = self.velocity + _share(self.d_cutoff, seconds) * (velocity - self.velocity)
        speed = np.linalg.norm(self.velocity, axis=-1, keepdims=True)
        cutoff = self.min_cutoff + self.beta * np.maximum(0, speed - self.noise)
        self.value = self.value + _share(cutoff, seconds) * (value - self.value)
        self.time = time
        return self.value


def check_time(time: float) -> None:
    if not math.isfinite(time):  # NaN compares as neither earlier nor later and would make all points NaN
        raise ValueError(f"got time {time}, expected a finite number of seconds")


def _share(cutoff: np.ndarray | float, seconds: float) -> np.ndarray | float:
    """What part of the way to the new value a low pass of first order goes in this time."""
    rate = 2 * np.pi * cutoff * seconds
    return rate / (rate + 1)


@dataclass(frozen=True)
class Smoothing:
    """The parameters of both filters (cutoff, beta, d_cutoff, noise); speeds are in face sizes a second.

    ``python -m training.studies.tracking`` measures what they do and others would.
    """

    place: tuple[float, float, float, float] = (4.0, 312.0, 12.0, 0.39)
    shape: tuple[float, float, float, float] = (0.86, 70.0, 2.5, 0.044)


FLAT_FACE = REFERENCE_FACE[:, :2] - REFERENCE_FACE[:, :2].mean(axis=0)
# Points that an affine map makes of the flat face: sums of these three columns, of mean square 1 and orthogonal, so
# that the length of a change of the coefficients is how far the points move (root mean square).
_AFFINE = np.linalg.qr(np.column_stack([FLAT_FACE, np.ones(NUM_KEYPOINTS)]))[0] * np.sqrt(NUM_KEYPOINTS)


class Smoother:
    """Steadies the 68 points of one face.

    >>> smoother, points = Smoother(), np.random.default_rng(0).uniform(0, 100, (68, 2))
    >>> bool(np.allclose(smoother(points, time=0), points)), smoother(points + 1, time=0.04).shape
    (True, (68, 2))
    """

    def __init__(self, smoothing: Smoothing | None = None) -> None:
        smoothing = smoothing or Smoothing()
        self._place, self._shape = OneEuro(*smoothing.place), OneEuro(*smoothing.shape)

    def __call__(self, keypoints: np.ndarray, time: float) -> np.ndarray:
        """(68, 2) pixels and seconds → (68, 2) float64."""
        points = np.asarray(keypoints, np.float64)
        place = _AFFINE.T @ points / NUM_KEYPOINTS
        flat = _AFFINE @ place
        # What the affine map leaves, turned upright and in face sizes.
        shape = (points - flat) @ (1, 1j) / scale_and_turn(flat)
        shape = self._shape(np.column_stack([shape.real, shape.imag]), time) @ (1, 1j)
        flat = _AFFINE @ self._place(place.ravel(), time, float(face_size(points))).reshape(3, 2)
        shape = shape * scale_and_turn(flat)
        return flat + np.column_stack([shape.real, shape.imag])


def scale_and_turn(points: np.ndarray) -> complex:
    """How large the face is, pixels, and how turned: the similarity of complex numbers from the flat face."""
    flat = FLAT_FACE @ (1, 1j)
    return complex(flat.conj() @ (points @ (1, 1j)) / (flat.conj() @ flat).real * face_size(FLAT_FACE))
