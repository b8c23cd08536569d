"""Faces and their 68 keypoints: an image in, :class:`Face` objects out.

Detect the faces of an image:

>>> from keypoints import FaceTracker, KeypointDetector, apply_filter, read_image
>>> detector = KeypointDetector()
>>> [face] = detector("data/sample/test/person_509_00.jpg")
>>> face.keypoints.shape, round(face.pose.yaw), face.emotion.label
((68, 2), -23, 'happiness')

Track the faces of a video; the number of a camera in place of the file reads the webcam:

>>> from keypoints.video import Video
>>> tracker = FaceTracker()
>>> frames = [tracker(frame, time) for time, frame in Video("data/sample/turn.mp4")]
>>> len(frames), {face.id for faces in frames for face in faces}
(60, {0})

Put a filter on a face; :func:`keypoints.drawing.write_image` saves the picture:

>>> image = read_image("data/sample/test/person_509_00.jpg")
>>> filtered = apply_filter(image, face.keypoints, "sunglasses", face.pose)
>>> filtered.shape == image.shape, bool((filtered != image).any())
(True, True)

``keypoints detect|track|filter`` does the same to files. :mod:`training` shows how to train and export.
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
