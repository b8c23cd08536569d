"""The head's pose from its 68 keypoints: a small regressor for the rotation, a linear 3-D head for all the rest.

Both know the CC0 mesh's random heads (``data/sample/geometry.py``) with the labels people give: on a turned head the
far jaw points lie on the visible outline, not on the skull, which bends a plain PnP. The regressor (two hidden layers)
takes the points aligned in the plane, so that any roll and size looks the same to it. Given the rotation, place, size
and a few shape components (identity and expression together, with a ridge: Blanz and Vetter, A morphable model for the
synthesis of 3D faces, 1999, https://doi.org/10.1145/311535.311556) follow from one linear least-squares problem,
solved a few times with weights that lower the points that do not fit (IRLS). If some fit badly, the rotation is asked
for once more with the head's own points in their place. Nothing iterates from a start, so no frontal face can flip.

The convention, as of AFLW2000-3D and its users (6DRepNet: https://github.com/thohemp/6DRepNet): in the camera frame
(x right, y down, z away) a point X of the head goes to R X with ::

    R = Rx(-pitch) · Ry(yaw) · Rz(roll)

           ⎡      cy cr              -cy sr           sy   ⎤
      R =  ⎢ cp sr - sp sy cr    cp cr + sp sy sr    sp cy ⎥     c, s: cosine and sine of y(aw), p(itch), r(oll)
           ⎣-sp sr - cp sy cr   -sp cr + cp sy sr    cp cy ⎦

Yaw > 0: the nose moves to the image's left; pitch > 0: looks up; roll > 0: clockwise on the screen. As in those data a
camera aims at the head: one that looks into the lens has the pose zero wherever in the image it is. A face is rotated
by zero where AFLW2000-3D says so, ``PoseModel.zero`` degrees of pitch from the mesh's own rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from keypoints.files import asset
from keypoints.landmarks import FLIP_INDEX, JAW, NUM_KEYPOINTS

POSE_MODEL, PREDICTIONS_REGRESSOR = asset("pose_model.npz"), asset("pose_predictions.npz")
FOCAL = 1.2  # longer sides of an image: a usual camera's focal length (a view of 45°)
DISTANCES = (16.0, 40.0)  # outer-eye distances: a face that seems nearer than 1.5 m is a cut-out of a larger image
NOISE = 0.03  # outer-eye distances: how far predicted points scatter, beside what the head's shape leaves open
YAW_STEP = 10  # degrees between the rows of PoseModel.jaw_shift
OUTLIER = 3.0  # times the typical misfit: from there a point loses weight
# Places of `Pose.points` that are no keypoints, in this order.
EXTRA = ("right_ear", "left_ear", "band_front", "band_left", "band_right", "band_back", "crown")


def rotation_matrix(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Angles in degrees → (3, 3) float64, by the convention above.

    >>> (rotation_matrix(90, 0, 0) @ [0, 0, -1]).round()  # the nose points to the image's left
    array([-1.,  0., -0.])
    """
    (cy, cp, cr), (sy, sp, sr) = (f(np.radians([yaw, pitch, roll])) for f in (np.cos, np.sin))
    return np.array(
        [
            [cy * cr, -cy * sr, sy],
            [cp * sr - sp * sy * cr, cp * cr + sp * sy * sr, sp * cy],
            [-sp * sr - cp * sy * cr, -sp * cr + cp * sy * sr, cp * cy],
        ]
    )


def rotation_angles(rotation: np.ndarray) -> tuple[float, float, float]:
    """(3, 3) → yaw in ±90, pitch and roll in ±180, degrees: the inverse of :func:`rotation_matrix`."""
    r = np.asarray(rotation)
    yaw = np.arcsin(np.clip(r[0, 2], -1, 1))
    pitch, roll = np.arctan2(r[1, 2], r[2, 2]), np.arctan2(-r[0, 1], r[0, 0])
    return float(np.degrees(yaw)), float(np.degrees(pitch)), float(np.degrees(roll))


def turn_in_order(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """The other order, Rz(roll) · Rx(-pitch) · Ry(yaw), (3, 3): that of the sample's attributes and the regressor."""
    (cy, cp, cr), (sy, sp, sr) = (f(np.radians([yaw, pitch, roll])) for f in (np.cos, np.sin))
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return about_z @ np.array([[cy, 0, sy], [-sp * sy, cp, sp * cy], [-cp * sy, -sp, cp * cy]])


@dataclass(frozen=True, eq=False)
class Pose:
    """How a head stands before the camera. Lengths are in outer-eye distances of a mean head.

    The head's frame has its origin between the outer eye corners, x to the image's right, y down, z to the back of the
    head, all for a head of pose zero.

    Attributes:
        rotation: (3, 3) float64, head's frame → camera frame.
        translation: (3,) float64, the origin in the camera frame; z is the distance.
        yaw, pitch, roll: degrees.
        error: root mean square of the distances between the keypoints and the fitted head's, in pixels, weighted.
        weights: (68,) float64 in 0..1, how far each keypoint was believed.
        points: (75, 3) float64, the fitted head's keypoints and the places of :data:`EXTRA`, in the head's frame.
        focal: pixels; from the image's size, longer where the face is too large for that.
        aim, pivot: (2,) pixels and (3,), where the camera aims: the top of the neck, in the image and in the head.
    """

    rotation: np.ndarray
    translation: np.ndarray
    yaw: float
    pitch: float
    roll: float
    error: float
    weights: np.ndarray
    points: np.ndarray
    focal: float
    aim: np.ndarray
    pivot: np.ndarray

    @property
    def distance(self) -> float:
        """From the camera to the top of the neck."""
        return float(self.translation[2] + (self.rotation @ self.pivot)[2])

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points of the head's frame, (…, 3) → pixels, (…, 2)."""
        turned = (np.asarray(points, np.float64) - self.pivot) @ self.rotation.T
        return self.aim + self.focal * turned[..., :2] / (turned[..., 2:] + self.distance)

    def rays(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The camera's place (3,) and the directions (…, 3) in which it sees pixels (…, 2), in the head's frame."""
        offset = (np.asarray(pixels, np.float64) - self.aim) / self.focal
        directions = np.concatenate([offset, np.ones_like(offset[..., :1])], axis=-1) @ self.rotation
        return self.pivot - self.distance * self.rotation[2], directions

    def place(self, name: str) -> np.ndarray:
        """One of :data:`EXTRA`, (3,), in the head's frame."""
        return self.points[NUM_KEYPOINTS + EXTRA.index(name)]


@dataclass(frozen=True, eq=False)
class PoseModel:
    """What :mod:`training.pose` has learned; lengths in outer-eye distances, the head's frame of a Pose.

    Attributes:
        mean: (75, 3), a mean head. components: (K, 75, 3), each one standard deviation long. pivot: (3,).
        zero: degrees of pitch by which the head's frame is turned from the mesh's, to AFLW2000-3D's zero.
        jaw_shift, jaw_spread: (9, 17, 2) and (9, 17): where the jaw's labels lie in the image, beside the skull's,
            on a head turned by 0, 10, … 80 degrees, and the variance of that.
        template: (68, 2), what faces are aligned to for the regressor.
        layers: weights (inputs, outputs) and biases of the regressor's three layers.
    """

    mean: np.ndarray
    components: np.ndarray
    pivot: np.ndarray
    zero: float
    jaw_shift: np.ndarray
    jaw_spread: np.ndarray
    template: np.ndarray
    layers: tuple[tuple[np.ndarray, np.ndarray], ...]

    def angles(self, aligned: np.ndarray) -> np.ndarray:
        """(N, 136) aligned points → (N, 3) yaw, pitch, roll of the mesh, degrees, for :func:`turn_in_order`."""
        for number, (weights, bias) in enumerate(self.layers):
            aligned = aligned @ weights + bias
            if number + 1 < len(self.layers):
                aligned = aligned / (1 + np.exp(-np.clip(aligned, -60, 60)))  # SiLU
        return 20 * aligned

    def jaw(self, yaw: float) -> tuple[np.ndarray, np.ndarray]:
        """The jaw's shift (17, 2) and variance (17,) for a yaw in degrees, between the rows of the table."""
        row = min(abs(yaw) / YAW_STEP, len(self.jaw_shift) - 1.001)
        low, share = int(row), row - int(row)
        shift = self.jaw_shift[low] + share * (self.jaw_shift[low + 1] - self.jaw_shift[low])
        spread = self.jaw_spread[low] + share * (self.jaw_spread[low + 1] - self.jaw_spread[low])
        return (shift, spread) if yaw >= 0 else (shift[FLIP_INDEX[JAW]] * (-1, 1), spread[FLIP_INDEX[JAW]])


@cache
def load_pose_model(path: str | Path = POSE_MODEL) -> PoseModel:
    """Read the file that :mod:`training.pose` writes."""
    with np.load(path) as data:
        names = ("mean", "components", "pivot", "jaw_shift", "jaw_spread", "template")
        arrays = {name: data[name].astype(np.float64) for name in names}
        return PoseModel(zero=float(data["zero"]), layers=_layers(data), **arrays)


@cache
def pose_model_of_predictions() -> PoseModel:
    """The shipped model with another regressor, for keypoints of the default network.

    Beyond some 50 degrees of yaw these keypoints turn less than the head does; it has learned by how much.
    """
    with np.load(PREDICTIONS_REGRESSOR) as data:
        return replace(load_pose_model(), layers=_layers(data))


def _layers(data: Mapping[str, np.ndarray]) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    return tuple((data[f"weights_{i}"].astype(np.float32), data[f"bias_{i}"].astype(np.float32)) for i in range(3))


def align(keypoints: np.ndarray, template: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn, scale and shift faces (N, 68, 2) in the plane onto a template (68, 2), by least squares.

    Returns:
        aligned: (N, 68, 2); size: (N,), pixels to a unit of the template; turn: (N,), clockwise, radians.
    """
    points = np.asarray(keypoints, np.float64)
    points = points[..., 0] + 1j * points[..., 1]  # a similarity of complex numbers is z → a z + b
    target = template[:, 0] + 1j * template[:, 1]
    centred, target = points - points.mean(axis=1, keepdims=True), target - target.mean()
    a = centred @ target.conj() / (target @ target.conj()).real
    aligned = centred / a[:, None]
    return np.stack([aligned.real, aligned.imag], axis=2), np.abs(a), np.angle(a)


def estimate_pose(keypoints: np.ndarray, image_size: tuple[int, int], model: PoseModel | None = None) -> Pose:
    """The pose of a head, and the head itself in 3-D.

    Args:
        keypoints: (68, 2) pixels, (x, y). Those that fit no head count little. The network's confidence would not
            help: where half a face is hidden its points are unsure, and yet they tell by how much the head is turned.
        image_size: width, height of the image in pixels; tells the focal length and where straight ahead is.
        model: by default that for exact keypoints; ``Face.pose`` takes :func:`pose_model_of_predictions`.

    Raises:
        ValueError: keypoints of another shape, not finite or all in one place.

    >>> from keypoints.landmarks import REFERENCE_FACE
    >>> pose = estimate_pose(100 * REFERENCE_FACE[:, :2] + 250, (500, 500))
    >>> abs(pose.yaw) < 1, abs(pose.roll) < 1
    (True, True)
    """
    points = np.asarray(keypoints, np.float64)
    if points.shape != (NUM_KEYPOINTS, 2) or not np.isfinite(points).all() or np.ptp(points, axis=0).min() <= 0:
        what = "" if points.shape != (NUM_KEYPOINTS, 2) else " that are not finite or lie in one place"
        raise ValueError(f"got keypoints of shape {points.shape}{what}, expected (68, 2), finite and apart")
    model, believed = model or load_pose_model(), points
    for last in (False, True):
        turn, yaw, roll, scale = _turn(believed, model)
        distance = float(np.clip(FOCAL * max(image_size) / scale, *DISTANCES))
        head, aim, size, seen, weights = _fit_head(points, turn, (yaw, roll), scale, distance, model)
        doubted = weights < 0.5
        if last or not doubted.any():
            break
        believed = np.where(doubted[:, None], seen, points)
    focal = size * distance
    middle = np.array([(image_size[0] - 1) / 2, (image_size[1] - 1) / 2])
    translation = np.array([*((aim - middle) / focal * distance), distance]) - turn @ model.pivot
    error = np.sqrt((weights * ((points - seen) ** 2).sum(axis=1)).sum() / weights.sum())
    yaw, pitch, roll = rotation_angles(turn)
    return Pose(turn, translation, yaw, pitch, roll, float(error), weights, head, focal, aim, model.pivot)


def _turn(points: np.ndarray, model: PoseModel) -> tuple[np.ndarray, float, float, float]:
    """The regressor's rotation (3, 3) of the head's frame, the mesh's yaw and roll, pixels to a unit, roughly."""
    aligned, scale, turn = align(points[None], model.template)
    yaw, pitch, roll = (float(v) for v in model.angles(aligned.reshape(1, -1).astype(np.float32))[0])
    roll += float(np.degrees(turn[0]))
    return turn_in_order(yaw, pitch, roll) @ turn_in_order(0, model.zero, 0), yaw, roll, float(scale[0])


def _fit_head(points, turn, yaw_roll, scale, distance, model):
    """Shape, place and size of the head whose rotation is known.

    Returns the head (75, 3), the aim (2,) in pixels, pixels to a unit, the keypoints (68, 2) it would have in the
    image, and the weights (68,).
    """
    place = (model.mean[:NUM_KEYPOINTS] - model.pivot) @ turn.T
    depth = 1 + place[:, 2:] / distance
    shift, spread = model.jaw(yaw_roll[0])
    flat = place[:, :2] / depth
    flat[JAW] += shift @ turn_in_order(0, 0, yaw_roll[1])[:2, :2].T
    count = len(model.components)
    columns = np.zeros((2 * NUM_KEYPOINTS, 3 + count))  # x and y of each point in turn
    columns[:, 0], columns[::2, 1], columns[1::2, 2] = flat.ravel(), 1, 1
    moved = model.components[:, :NUM_KEYPOINTS].reshape(-1, 3) @ turn.T
    moved = moved.reshape(count, NUM_KEYPOINTS, 3)
    # How a point moves in the picture as it moves in space, the change of perspective included.
    moved = (moved[..., :2] - (place[:, :2] / depth / distance) * moved[..., 2:]) / depth
    columns[:, 3:] = moved.reshape(count, -1).T
    variance = np.full(NUM_KEYPOINTS, NOISE**2)
    variance[JAW] += spread
    origin = points.mean(axis=0)
    target = ((points - origin) / scale).ravel()
    ridge = np.diag([0.0] * 3 + [1.0] * count)
    weights = np.ones(NUM_KEYPOINTS)
    for _ in range(2):
        weighted = columns.T * np.repeat(weights / variance, 2)
        found = np.linalg.solve(weighted @ columns + ridge, weighted @ target)
        seen = (columns @ found).reshape(-1, 2)
        misfit = np.sqrt(((seen - target.reshape(-1, 2)) ** 2).sum(axis=1) / variance)
        typical = max(1.0, float(np.median(misfit)) / 1.18)  # 1.18: the median length of two normal numbers
        weights = np.minimum(1, OUTLIER * typical / np.maximum(misfit, 1e-9)) ** 2
    head = model.mean + np.tensordot(found[3:] / found[0], model.components, 1)
    return head, origin + scale * found[1:3], scale * float(found[0]), origin + scale * seen, weights
