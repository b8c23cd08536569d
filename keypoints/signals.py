"""Closed eyes and the open mouth: of one picture, and of a face that is followed through a video."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

from keypoints.files import asset
from keypoints.geometry import REFERENCE_FIVE, face_crop, five_points, inverse
from keypoints.landmarks import LEFT_EYE, MOUTH, RIGHT_EYE, fit_front
from keypoints.network import Crop, open_session, read_metadata

EYE_MODEL, FREE_EYE_MODEL = asset("eyes.onnx"), asset("eyes_free.onnx")
EYE_SIDE = 32  # pixels of an eye's crop
EYE_WIDTH = 0.7 * float(REFERENCE_FIVE[1, 0] - REFERENCE_FIVE[0, 0])  # what it shows, in sides of a levelled face


def eye_crops(image: np.ndarray, keypoints: np.ndarray, side: int = EYE_SIDE, wider: float = 1.0) -> np.ndarray:
    """Cut out both eyes, levelled and sized by the face: (2, side, side) uint8, the right one mirrored.

    Args:
        image: (H, W) uint8 grey. keypoints: (68, 2) pixels of it.
        wider: how much more of the face the crops show than the network sees.
    """
    linear = inverse(face_crop(five_points(keypoints)[None], 1))[0, :, :2] * wider * EYE_WIDTH / side
    flags, crops = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, []
    for eye, mirror in ((RIGHT_EYE, -1), (LEFT_EYE, 1)):
        turned = linear * [mirror, 1]
        corner = keypoints[eye].mean(axis=0) - turned.sum(axis=1) * (side - 1) / 2
        matrix = np.column_stack([turned, corner])
        crops.append(cv2.warpAffine(image, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE))
    return np.stack(crops)


@cache
def _session(path: Path) -> onnxruntime.InferenceSession:
    session = open_session(path)
    if read_metadata(session, path)["network"] != "EyeNet":
        raise ValueError(f"{path}: expected an eye network exported by training.eyes, got another")
    return session


def eye_openings(crop: Crop) -> np.ndarray:
    """How far the lids of the right and of the left eye are apart, over the eye's width: (2,) float32.

    About 0.3 of an open eye, 0.12 and less of a closed one. :class:`models.EyeNet` sees the pixels: keypoints follow
    lids only part of the way.
    """
    crops = eye_crops(crop.image, crop.keypoints)[:, None].astype(np.float32) / 255
    return _session(FREE_EYE_MODEL if crop.free else EYE_MODEL).run(None, {"crop": crops})[0]


class Signals:
    """Which eyes are closed and whether the mouth is open, with hysteresis.

    How wide open eyes are differs from person to person, so an eye's opening is compared with that of the track's own
    open eyes, which is learned.

    Attributes:
        closed: of the right and the left eye; mouth_open: both as of the last frame.
    """

    CLOSED, AGAIN_OPEN = 0.5, 0.65  # of the open eye: below the first it closes, above the second it opens
    USUAL, LEARN = 0.28, 5.0  # the opening that open eyes are taken to have at first; seconds in which it is learned
    TURNED = 0.75  # an eye whose width is a smaller part of the other's is turned away, and counts as the other
    OPEN, AGAIN_SHUT = 0.12, 0.105  # the mouth: gap to width

    def __init__(self) -> None:
        self.closed, self.mouth_open = (False, False), False
        self._usual, self._time = np.full(2, self.USUAL), 0.0

    def __call__(self, keypoints: np.ndarray, openings: np.ndarray | None, time: float) -> Signals:
        """Look at the next frame.

        Args:
            keypoints: (68, 2), not smoothed.
            openings: (2,) of :func:`eye_openings`; without them the eyes stay as they were.
            time: seconds.
        """
        mouth = mouth_ratio(upright(keypoints))
        self.mouth_open = mouth > (self.AGAIN_SHUT if self.mouth_open else self.OPEN)
        if openings is not None:
            ratios = openings / self._usual
            closed = ratios < np.where(self.closed, self.AGAIN_OPEN, self.CLOSED)
            widths = np.linalg.norm([keypoints[eye][0] - keypoints[eye][3] for eye in (RIGHT_EYE, LEFT_EYE)], axis=1)
            turned = widths < self.TURNED * widths[::-1]
            share = 1 - np.exp(-np.clip(time - self._time, 0, 0.2) / self.LEARN)
            self._usual = np.where(closed | turned, self._usual, self._usual * (1 + share * (ratios - 1)))
            closed = np.where(turned, closed[::-1], closed)
            self.closed, self._time = (bool(closed[0]), bool(closed[1])), time
        return self


def upright(keypoints: np.ndarray) -> np.ndarray:
    """The points (68, 2) in the face's own frame, (68, 2): turned, sized and stretched as the mean face from ahead."""
    affine = fit_front(keypoints[None])[0]
    return (keypoints - affine[2]) @ np.linalg.pinv(affine[:2])


def mouth_ratio(own: np.ndarray) -> float:
    """The gap between the inner lips to their width."""
    inner = own[MOUTH][12:]
    gap = np.linalg.norm(inner[1:4] - inner[[7, 6, 5]], axis=1).mean()
    return float(gap / max(1e-6, np.linalg.norm(inner[0] - inner[4])))
