"""Faces and their 68 keypoints: an image in, :class:`Face` objects out.

>>> import keypoints
>>> [face] = keypoints.KeypointDetector()("data/photos/grace_hopper.jpg")
>>> face.keypoints.shape
(68, 2)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keypoints.detection import Face, KeypointDetector
    from keypoints.detectors import HaarDetector, NetworkDetector
    from keypoints.drawing import draw_faces
    from keypoints.filters import apply_filter
    from keypoints.images import read_image
    from keypoints.tracking import FaceTracker

__version__ = "1.0.0"
_HOMES = {
    "Face": "detection",
    "FaceTracker": "tracking",
    "HaarDetector": "detectors",
    "KeypointDetector": "detection",
    "NetworkDetector": "detectors",
    "apply_filter": "filters",
    "draw_faces": "drawing",
    "read_image": "images",
}
__all__ = [
    "Face",
    "FaceTracker",
    "HaarDetector",
    "KeypointDetector",
    "NetworkDetector",
    "__version__",
    "apply_filter",
    "draw_faces",
    "read_image",
]


def __getattr__(name: str) -> object:
    """A public name, imported when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
