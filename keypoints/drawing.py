"""Faces painted into images with OpenCV, for files, video and windows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from keypoints import landmarks
from keypoints.files import write_atomically
from keypoints.pose import Pose

PREDICTION, BOX = "#ff8c1a", "#ffe14d"  # told apart by colour-blind eyes too
AXIS = 0.7  # outer-eye distances: the length of an axis of a head


def head_axes(pose: Pose) -> list[tuple[np.ndarray, str]]:
    """Both ends of each of the head's axes, (2, 2) pixels, and its colour."""
    start = pose.points[landmarks.NOSE_TIP]
    directions = {"#ff3b30": (1, 0, 0), "#34c759": (0, -1, 0), "#0a84ff": (0, 0, -1)}
    return [
        (pose.project(np.stack([start, start + AXIS * np.array(direction)])), colour)
        for colour, direction in directions.items()
    ]


def head_box(pose: Pose) -> list[tuple[np.ndarray, float]]:
    """The lines, pixels, of a box around the head, and how thick each is."""
    low, high = pose.points.min(axis=0), pose.points.max(axis=0)
    low[2] = pose.points[landmarks.NOSE_TIP, 2]
    corners = np.array([(x, y, z) for z in (high[2], low[2]) for x, y in
                        ((low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1]))])  # fmt: skip
    flat = pose.project(corners)
    squares = [(square[[0, 1, 2, 3, 0]], width) for square, width in ((flat[:4], 0.9), (flat[4:], 2.0))]
    return squares + [(np.stack([back, front]), 0.9) for back, front in zip(flat[:4], flat[4:], strict=True)]


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def draw_tracked(
    image: np.ndarray,
    faces: Sequence,
    points: bool = True,
    pose: bool = False,
    words: dict[int, str] | None = None,
    boxes: bool = True,
) -> np.ndarray:
    """A copy of a frame with its tracked faces painted in: points, id, and the head's axes; of a lost one a thin box.

    Args:
        faces: :class:`keypoints.tracking.TrackedFace` each.
        points: paint boxes, lines and points, too.
        pose: paint the head's axes and its box, as :func:`training.figures.draw_pose`.
        words: what else to write beside a face's id, by id.
        boxes: paint boxes, ids and words, too.
    """
    seen = [face for face in faces if face.state != "lost"]
    picture = draw_faces(image, seen if points else [], boxes)
    for face in faces:
        left, top, width, height = (int(value) for value in face.box)
        thin = max(1, round(width / 150))
        if face.state == "lost":
            if boxes:
                cv2.rectangle(picture, (left, top), (left + width - 1, top + height - 1), (160, 160, 160), 1)
        elif pose:
            lines = [(ends, _rgb(BOX)) for ends, _ in head_box(face.pose)] if boxes else []
            lines += [(ends, _rgb(colour)) for ends, colour in head_axes(face.pose)]
            for ends, colour in lines:
                cv2.polylines(picture, [np.round(16 * ends).astype(np.int32)], False, colour, 2 * thin, cv2.LINE_AA, 4)
        if not boxes:
            continue
        says = f"{face.id} {(words or {}).get(face.id, '')}".strip()
        says += " blink" * face.blink + " mouth open" * face.mouth_open
        place = (left + 3, max(12, top - 4))
        cv2.putText(picture, says, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4 * thin, _rgb(BOX), thin, cv2.LINE_AA)
    return picture


def draw_faces(image: np.ndarray, faces: Sequence, boxes: bool = True) -> np.ndarray:
    """A copy of an RGB uint8 image with each face's box, lines and points painted in, for files and video."""
    picture = np.ascontiguousarray(image.copy())
    shift, unit = 4, 16  # OpenCV draws with fractions of a pixel: coordinates times 2^shift
    for face in faces:
        thin = max(1, round(float(face.box[2]) / 150))
        left, top, width, height = (int(value) for value in face.box)
        if boxes:
            cv2.rectangle(picture, (left, top), (left + width - 1, top + height - 1), _rgb(BOX), thin)
        points = np.round(np.asarray(face.keypoints, np.float64) * unit).astype(np.int32)
        cv2.polylines(
            picture, [points[list(bone)] for bone in landmarks.BONES], False, (255, 255, 255), thin, cv2.LINE_AA, shift
        )
        for point in points:
            cv2.circle(
                picture, tuple(int(v) for v in point), int(1.4 * thin * unit), _rgb(PREDICTION), -1, cv2.LINE_AA, shift
            )
    return picture


def open_window(title: str) -> None:
    """Open a window for :func:`show_frame`.

    Raises:
        ValueError: this OpenCV opens no windows.
    """
    try:
        cv2.namedWindow(title)
    except cv2.error:
        raise ValueError("got no window from OpenCV, expected one that can show pictures") from None


def show_frame(image: np.ndarray, title: str) -> bool:
    """Show an RGB uint8 frame in a window of :func:`open_window`; whether to go on: not after q or Esc."""
    cv2.imshow(title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return cv2.waitKey(1) & 0xFF not in (ord("q"), 27)


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write an RGB uint8 image, in the format that the name's ending says; RGBA where the format has alpha."""
    path = Path(path)
    try:
        code = cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR
        done, data = cv2.imencode(path.suffix, cv2.cvtColor(image, code))
    except cv2.error:
        done = False
    if not done:
        raise ValueError(f"{path}: expected a name that ends as an image's, as .jpg or .png, got {path.suffix!r}")
    write_atomically(path, lambda part: part.write_bytes(data.tobytes()))
