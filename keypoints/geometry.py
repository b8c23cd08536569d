"""Boxes, similarities and crops. Positions are (x, y) in pixels, and integers are the centres of pixels."""

from __future__ import annotations

import cv2
import numpy as np

from keypoints.landmarks import IMAGE_SIZE, LEFT_EYE, REFERENCE_FACE, RIGHT_EYE

FIVE = (30, 48, 54)  # beside the eyes: tip of the nose, right and left corner of the mouth
FACE_SHARE = 0.6  # of the crop's side: the size of the face in it (square root of the area of its keypoints' box)


def five_points(keypoints: np.ndarray) -> np.ndarray:
    """Right eye, left eye, nose tip, right and left corner of the mouth: (…, 68, 2) → (…, 5, 2)."""
    keypoints = np.asarray(keypoints)
    eyes = [keypoints[..., part, :].mean(axis=-2) for part in (RIGHT_EYE, LEFT_EYE)]
    return np.stack([*eyes, *(keypoints[..., i, :] for i in FIVE)], axis=-2)


def _reference_crop() -> np.ndarray:
    """Where the five points of an upright neutral face lie in a crop of side 1: (5, 2) float64."""
    face = REFERENCE_FACE[:, :2]
    low, high = face.min(axis=0), face.max(axis=0)
    side = np.sqrt(np.prod(high - low)) / FACE_SHARE
    return (five_points(face) - (low + high) / 2) / side + 0.5


REFERENCE_FIVE = _reference_crop()


def fit_similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation, scale and shift that bring points nearest to others, by least squares (Umeyama, 1991).

    Args:
        source: (N, K, 2); target: (N, K, 2) or (K, 2).

    Returns:
        (N, 2, 3) float64: ``matrix @ (x, y, 1)`` of a source point is near its target.
    """
    source = np.asarray(source, np.float64)
    target = np.broadcast_to(np.asarray(target, np.float64), source.shape)
    middle, there = source.mean(axis=1), target.mean(axis=1)
    a, b = source - middle[:, None], target - there[:, None]
    spread = np.maximum((a**2).sum(axis=(1, 2)), 1e-12)
    cosine = (a * b).sum(axis=(1, 2)) / spread
    sine = (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]).sum(axis=1) / spread
    linear = np.stack([np.stack([cosine, -sine], axis=1), np.stack([sine, cosine], axis=1)], axis=1)
    shift = there - (linear @ middle[..., None])[..., 0]
    return np.concatenate([linear, shift[..., None]], axis=2)


def face_crop(five: np.ndarray, side: int) -> np.ndarray:
    """The similarity from an image to the levelled crop of a face, ``side`` pixels wide.

    Args:
        five: (N, 5, 2) pixels of the image: right eye, left eye, nose tip, right and left corner of the mouth.

    Returns:
        (N, 2, 3) float64.
    """
    return fit_similarity(five, REFERENCE_FIVE * side - 0.5)


def inverse(matrices: np.ndarray) -> np.ndarray:
    """The inverses of similarities (N, 2, 3); where a scale is 0 a very large one."""
    a, b = matrices[:, 0, 0], matrices[:, 1, 0]
    square = np.maximum(a**2 + b**2, 1e-12)
    linear = np.stack([np.stack([a, b], axis=1), np.stack([-b, a], axis=1)], axis=1) / square[:, None, None]
    return np.concatenate([linear, -linear @ matrices[:, :, 2:]], axis=2)


# Boxes ----------------------------------------------------------------------------------------------------------------

BOX = 4  # left, top, width, height; a fifth column is the roll


def with_roll(boxes: np.ndarray) -> np.ndarray:
    """Boxes with a roll: (N, 4) get one of 0, (N, 5) stay; float32."""
    boxes = np.asarray(boxes, np.float32)
    columns = (boxes.shape[-1] if boxes.ndim else 0) if boxes.size else BOX  # None becomes one NaN without a shape
    if columns not in (BOX, BOX + 1):
        raise ValueError(f"got boxes of shape {boxes.shape}, expected (N, 4) or, with the roll, (N, 5)")
    boxes = boxes.reshape(-1, columns)
    return boxes if columns > BOX else np.column_stack([boxes, np.zeros(len(boxes), np.float32)])


def box_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union: boxes left, top, width, height, (N, 4) and (M, 4) → (N, M) float64 in [0, 1]."""
    a, b = (np.asarray(side, np.float64)[:, :BOX].T for side in (boxes, others))
    a = a[:, :, None]  # by column: NumPy is slow over axes of two numbers
    width, height = (np.minimum(a[i] + a[i + 2], b[i] + b[i + 2]) - np.maximum(a[i], b[i]) for i in (0, 1))
    shared = np.clip(width, 0, None) * np.clip(height, 0, None)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def nms(boxes: np.ndarray, threshold: float, within: float = 1.0) -> np.ndarray:
    """Non-maximum suppression: indices of the boxes that overlap no earlier kept one.

    Args:
        boxes: (N, 4) or (N, 5), the best first.
        threshold: intersection over union above which a box is suppressed.
        within: the same for the intersection over the smaller one's area: a box inside another.
    """
    area = np.asarray(boxes[:, 2] * boxes[:, 3], np.float64)
    kept: list[int] = []
    left = np.arange(len(boxes))
    while len(left):
        first, left = left[0], left[1:]
        kept.append(first)
        [iou] = box_iou(boxes[[first]], boxes[left])
        shared = iou / (1 + iou) * (area[first] + area[left]) / np.minimum(area[first], area[left])
        left = left[~((iou > threshold) | (shared > within))]
    return np.array(kept, int)


# The Haar cascade's box by five points: its side in the longer of the distances from eye to eye and from the eyes to
# the mouth; its centre below the eyes' as a share of the way to the mouth's. For REFERENCE_FACE's points, and for those
# of this repository's detector, whose boxes then lie where the cascade's would, in the median of 400 training frames.
OTHER_FIVE, NETWORK_FIVE = (2.38, 0.3), (2.69, 0.24)


def from_five_points(points: np.ndarray, side: float = OTHER_FIVE[0], down: float = OTHER_FIVE[1]) -> np.ndarray:
    """Boxes as the Haar cascade frames faces, of their five points.

    Args:
        points: (N, 5, 2) pixels, as YuNet, RetinaFace and MTCNN give them.
        side, down: see :data:`NETWORK_FIVE`.

    Returns:
        (N, 5) float32: left, top, width, height, roll.
    """
    points = np.asarray(points, np.float64).reshape(-1, 5, 2)
    across = points[:, 1] - points[:, 0]  # from eye to eye
    middle, mouth = points[:, :2].mean(axis=1), points[:, 3:].mean(axis=1)
    roll = np.degrees(np.arctan2(across[:, 1], across[:, 0]))
    # A turned head's eyes come closer, a nodding one's mouth comes closer to them: the longer of both tells the size.
    size = np.maximum(np.linalg.norm(across, axis=1), np.linalg.norm(mouth - middle, axis=1))[:, None]
    centre, sides = middle + down * (mouth - middle) + 0.5, side * size
    return np.column_stack([centre - sides / 2, sides, sides, roll]).astype(np.float32)


# Crops ----------------------------------------------------------------------------------------------------------------


def transform(points: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Points (N, K, 2) by affine maps (N, 2, 3), or (K, 2) by one (2, 3)."""
    return points @ matrices[..., :2].swapaxes(-1, -2) + matrices[..., None, :, 2]


def crop_to_image(middle: np.ndarray, down: np.ndarray, half: np.ndarray, side: int) -> np.ndarray:
    """Similarities from pixels of square crops to pixels of the image.

    Args:
        middle: (N, 2) pixels of the image.
        down: (N, 2) unit vectors: where the crop's lower edge lies.
        half: (N,) pixels of the image: half the crop's side.
        side: pixels of the crop.

    Returns:
        (N, 2, 3) float64.
    """
    right = np.stack([down[:, 1], -down[:, 0]], axis=1)
    linear = np.stack([right, down], axis=2) * (half * 2 / side)[:, None, None]
    shift = middle + linear.sum(axis=2) * (0.5 - side / 2)
    return np.concatenate([linear, shift[..., None]], axis=2)


LARGEST_VIEW = 16  # sides of the image: in a larger view the image is a speck


def crop_view(image: np.ndarray, view: np.ndarray, side: int = IMAGE_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Cut a square view out of an image.

    Args:
        image: (H, W, 3) uint8 RGB, or (H, W) grey.
        view: (3,) or (4,): left, top and side in pixels as if the square stood upright, and the roll in degrees by
            which it is turned clockwise about its middle.
        side: of the crop, pixels.

    Returns:
        crop: (side, side) uint8 grey, which repeats the image's border outside it.
        matrix: (2, 3) float64, brings pixels of the crop to the image, see :func:`transform`.

    Raises:
        ValueError: the view lies outside the image, or is more than 16 times as large.
    """
    left, top, size, roll = (float(value) for value in (*view, 0.0)[:4])
    height, width = image.shape[:2]
    if not np.isfinite([left, top, size, roll]).all() or not 0 < size <= LARGEST_VIEW * max(height, width):
        raise ValueError(
            f"got a face box whose view has a side of {size:.6g} pixels, expected more than none and at most "
            f"{LARGEST_VIEW} times the longer side of the image of {width}×{height} pixels"
        )
    middle = np.array([[left, top]]) + size / 2 - 0.5  # a square's edges lie between pixels
    down = np.array([[-np.sin(np.radians(roll)), np.cos(np.radians(roll))]])
    matrix = crop_to_image(middle, down, np.array([size / 2]), side)[0]
    crop = cut_out(image, matrix, side)
    if crop is None:
        raise ValueError(
            f"got a face box whose view {left:.0f}, {top:.0f}, {size:.0f}×{size:.0f} lies outside the image of "
            f"{width}×{height} pixels"
        )
    return crop, matrix


def cut_out(image: np.ndarray, matrix: np.ndarray, side: int) -> np.ndarray | None:
    """Cut a square out of an image, turned and scaled in one step.

    Args:
        image: (H, W, 3) uint8 RGB, or (H, W) grey.
        matrix: (2, 3), a similarity: ``matrix @ (x, y, 1)`` is where the pixel (x, y) of the square lies in the image.
        side: of the square, pixels.

    Returns:
        (side, side) uint8 grey, which repeats the image's border outside it; None where it lies outside altogether.
    """
    height, width = image.shape[:2]
    # The part of the image that the square touches.
    corners = np.array([[-0.5, -0.5], [side - 0.5, -0.5], [-0.5, side - 0.5], [side - 0.5, side - 0.5]])
    corners = transform(corners, matrix) + 0.5
    low, high = corners.min(axis=0), corners.max(axis=0)
    if not ((low < [width, height]) & (high > 0)).all():  # or NaN
        return None
    x0, y0 = np.clip(np.floor(low) - 2, 0, [width, height]).astype(int)
    x1, y1 = np.clip(np.ceil(high) + 2, 0, [width, height]).astype(int)
    part, scale = image[y0:y1, x0:x1], 1 / np.hypot(*matrix[:, 0])
    matrix = np.array(matrix, np.float64)
    matrix[:, 2] -= x0, y0
    if scale < 1:
        size = max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale))
        part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        shrunk = np.array([size[0] / (x1 - x0), size[1] / (y1 - y0)])
        matrix[:, 2] = (matrix[:, 2] + 0.5) * shrunk - 0.5
        matrix[:, :2] *= shrunk[:, None]
    if part.ndim == 3:
        part = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(part, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)
