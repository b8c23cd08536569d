"""Blink and mouth-open detectors of a face that is followed through a video."""

from __future__ import annotations

from collections import deque

import numpy as np

from keypoints.landmarks import LEFT_EYE, MOUTH, NUM_KEYPOINTS, RIGHT_EYE
from keypoints.smoothing import FLAT_FACE

_TO_AFFINE = np.linalg.pinv(np.column_stack([FLAT_FACE, np.ones(NUM_KEYPOINTS)]))  # points → its matrix, (3, 2)


class Signals:
    """Whether the eyes are shut and the mouth is open, by aspect ratios with hysteresis.

    Both are measured on the face's points with turn and foreshortening taken out. How high open eyes are differs from
    person to person, and predicted points follow a blink only part of the way. So the eyes' ratio (Soukupová and Čech,
    Real-time eye blink detection using facial landmarks, 2016) is compared with its own median of the last moments.
    That finds blinks; eyes that stay shut are told only where the ratio falls by half.

    Attributes:
        blink, mouth_open: as of the last frame.
    """

    SHUT, AGAIN_OPEN = 0.88, 0.93  # of the median: below the first a blink begins, above the second it ends
    DEEP = 0.5  # of the open eyes' ratio: below that they are shut however long it lasts
    LOOK_BACK, LEARN = 0.32, 5.0  # seconds of the median; in which the open eyes' ratio is learned
    OPEN, AGAIN_SHUT = 0.12, 0.105  # the mouth: gap to width

    def __init__(self) -> None:
        self.blink = self.mouth_open = False
        self._past: deque[tuple[float, float]] = deque()  # times and ratios
        self._open_eyes = 0.0

    def __call__(self, keypoints: np.ndarray, time: float) -> Signals:
        """Look at the points of the next frame, (68, 2), not smoothed."""
        own = upright(keypoints)
        eyes, mouth = eye_ratio(own), mouth_ratio(own)
        self.mouth_open = mouth > (self.AGAIN_SHUT if self.mouth_open else self.OPEN)
        last, seconds = (self._past[-1][1], time - self._past[-1][0]) if self._past else (eyes, 0.0)
        self._past.append((time, eyes))
        while self._past[0][0] < time - self.LOOK_BACK - 1e-6:
            self._past.popleft()
        if eyes > self._open_eyes or not self.blink:
            self._open_eyes += (1 - np.exp(-seconds / self.LEARN)) * (eyes - self._open_eyes) if seconds else eyes
        usual, now = float(np.median([ratio for _, ratio in self._past])), (eyes + last) / 2
        dips = now < (self.AGAIN_OPEN if self.blink else self.SHUT) * usual
        self.blink = bool(dips or now < self.DEEP * self._open_eyes)
        return self


def upright(keypoints: np.ndarray) -> np.ndarray:
    """The points (68, 2) in the face's own frame, (68, 2): turned, sized and stretched as the mean face from ahead."""
    affine = _TO_AFFINE @ np.asarray(keypoints, np.float64)
    return (keypoints - affine[2]) @ np.linalg.pinv(affine[:2])


def eye_ratio(own: np.ndarray) -> float:
    """Height of the eyes, both taken together, to the width of the mean face's; of :func:`upright` points.

    >>> eye_ratio(upright(FLAT_FACE)).__round__(2)
    0.29
    """
    eyes, usual = (np.stack([face[RIGHT_EYE], face[LEFT_EYE]]) for face in (own, FLAT_FACE))
    height = np.linalg.norm(eyes[:, 1:3] - eyes[:, [5, 4]], axis=2).mean()
    return float(height / np.linalg.norm(usual[:, 0] - usual[:, 3], axis=1).mean())


def mouth_ratio(own: np.ndarray) -> float:
    """The gap between the inner lips to their width."""
    inner = own[MOUTH][12:]
    gap = np.linalg.norm(inner[1:4] - inner[[7, 6, 5]], axis=1).mean()
    return float(gap / max(1e-6, np.linalg.norm(inner[0] - inner[4])))
