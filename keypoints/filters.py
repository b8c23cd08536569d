"""Filters: pictures with transparency that sit on a head in space, and a morph that makes it smile.

A filter is a JSON file in ``data/filters/`` and, beside it, a PNG with alpha of the same name; no code::

    {"about": "sunglasses", "layers": [{
      "part": [0, 0, 1200, 460],                                   its rectangle of the PNG: left, top, width, height
      "anchors": [{"points": [36, 37, 38, 39, 40, 41], "at": [318, 208], "offset": [0, 0, -0.2]}, …],
      "sheet": "front", "bend": 1.6, "tilt": 4, "shadow": 0.3}]}

An anchor says that the mean of these keypoints of the head in 3-D, or a ``place`` of :data:`keypoints.pose.EXTRA`,
moved by ``offset`` (default: none), lies on that pixel of the part (default: the whole PNG). A layer needs two anchors
or more. ``shadow``, from 0 to 1, darkens the face below it. Lengths are in outer-eye distances, the frame is the head's
(:class:`keypoints.pose.Pose`: x to the image's right, y down, z to the back). The ``sheet`` stands upright before the
face (``front``), upright along its side (``side``) or level (``flat``). ``bend`` wraps a front sheet around an upright
cylinder of that radius; ``round`` closes it to a whole one, as wide as the part is long, its depth ``round`` times its
width. ``tilt`` turns the sheet about x, in degrees, its upper edge forwards.

A ``morph`` moves keypoints instead: ``{"morph": {"48": [-0.03, -0.06, 0], …}}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path

import cv2
import numpy as np

from keypoints.files import asset
from keypoints.geometry import fit_similarity
from keypoints.images import decode_image, on_background, read_bytes
from keypoints.landmarks import JAW, LEFT_BROW, NUM_KEYPOINTS, RIGHT_BROW
from keypoints.pose import EXTRA, Pose, estimate_pose

FILTER_DIR = asset("filters")
SHEETS = {"front": (0, 1, 2), "side": (2, 1, 0), "flat": (0, 2, 1)}  # the head's axes along, down and out of a sheet
LIMITS = {"bend": (0, 100), "round": (0, 10), "tilt": (-90, 90), "shadow": (0, 1)}
LEAST = {"bend": 0.01, "round": 0.01}  # where it is not 0: what is narrower is a line, and its squares underflow
# Bytes of the JSON file, layers, and pixels of the picture and of all layers together. A filter in use takes up to 40
# bytes for each pixel of its layers, and about 100 for each pixel of the image that it may cover.
MOST_TEXT, MOST_LAYERS, MOST_PIXELS = 1_000_000, 16, 2**23
GRID = 0.05  # outer-eye distances between the rays of the coarse grid
BLUR = 0.15  # outer-eye distances, of what shines through a filter
NEAR = 0.15  # outer-eye distances from a keypoint within which its confidence tells what covers the face
SOFT = 0.04  # outer-eye distances behind the head's surface over which the head begins to hide a sheet
COVERED = 0.1, 0.3  # confidence of keypoints below which a hand hides a filter, and from which on it does not
BRIGHT_SKIN = 0.42  # linear: the 90 % of a well lit face's brightness, for which the pictures are painted


@dataclass(frozen=True, eq=False)
class Layer:
    """One sheet of a filter; the fields are those of the file.

    Attributes:
        picture: (H, W, 4) uint8 RGBA, not premultiplied.
        places: for each anchor the indices of ``Pose.points`` whose mean it is. offsets: (A, 3).
        at: (A, 2) float64, pixels of the picture.
    """

    picture: np.ndarray
    places: tuple[tuple[int, ...], ...]
    offsets: np.ndarray
    at: np.ndarray
    sheet: str = "front"
    bend: float = 0.0
    round: float = 0.0
    tilt: float = 0.0
    shadow: float = 0.0

    @cached_property
    def light(self) -> np.ndarray:
        """The picture in linear light, premultiplied, (H, W, 4) float32."""
        rgba = np.dstack([to_linear(self.picture[..., :3]), self.picture[..., 3:] / np.float32(255)])
        rgba[..., :3] *= rgba[..., 3:]  # colour hidden under alpha 0 must not bleed into soft edges
        return rgba

    def surface(self, pose: Pose) -> Surface:
        """Where the sheet stands on a head: the similarity of the plane that brings the anchors to their places."""
        places = np.array([pose.points[list(group)].mean(axis=0) for group in self.places]) + self.offsets
        axes = list(SHEETS[self.sheet])
        along, out = self.at[:, 0] - self.at[:, 0].mean(), places[:, axes[2]]
        [matrix] = fit_similarity(self.at[None], places[None, :, axes[:2]])
        scale, turn = np.hypot(*matrix[:, 0]), np.arctan2(matrix[1, 0], matrix[0, 0])
        scale = max(scale, 1e-6)  # all anchors at one place make a speck
        slope = float(along @ (out - out.mean()) / (along @ along)) if along @ along > 1 else 0.0
        axis = np.eye(3)[axes]  # along, down, out
        c, s = np.cos(np.radians(self.tilt)), np.sin(np.radians(self.tilt))
        tilted = axis @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]).T
        right = np.cos(turn) * tilted[0] + np.sin(turn) * tilted[1]
        down = -np.sin(turn) * tilted[0] + np.cos(turn) * tilted[1]
        right = right + slope / scale * tilted[2]
        radius = (self.bend, self.bend)
        if self.round:
            width = self.picture.shape[1] * scale / (2 * np.pi)
            radius = (width, width * self.round)
        origin, middle = places.mean(axis=0), self.at.mean(axis=0)
        return Surface(origin, right, down, tilted[2], scale, middle, radius, bool(self.round))


@dataclass(frozen=True, eq=False)
class Surface:
    """A sheet in the head's frame: the pixel ``middle`` of its picture lies at ``origin``, ``scale`` long and wide.

    A flat one spans ``right`` and ``down``. A bent one is an elliptic cylinder about ``down`` with the half axes
    ``radius`` along ``right`` and ``out``, that touches the origin with its front; a closed one has it in its middle.
    """

    origin: np.ndarray
    right: np.ndarray
    down: np.ndarray
    out: np.ndarray
    scale: float
    middle: np.ndarray
    radius: tuple[float, float]
    closed: bool

    def points(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels of the picture (…, 2) → the head's frame (…, 3)."""
        offset = (np.asarray(pixels, np.float64) - self.middle) * self.scale
        along, out = offset[..., :1], 0.0
        if self.radius[0]:
            angle = along / self.radius[0]
            along, out = self.radius[0] * np.sin(angle), -self.radius[1] * np.cos(angle)
            out = out if self.closed else out + self.radius[1]
        return self.origin + along * self.right + offset[..., 1:] * self.down + out * self.out

    def hits(self, eye: np.ndarray, rays: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Where rays (…, 3) from the eye (3,) meet the sheet: one pair for each side of it that the eye may see.

        Returns:
            places: (…, 3) float64, (u w, v w, w): the pixel (u, v) of the picture times the inverse distance w along
                the ray. These three are linear in the image for a flat sheet, so they may be interpolated. A negative
                w lies behind the eye; u of a closed sheet may lie one width beside the picture.
            inside: (…), positive where the ray meets the sheet, see :func:`_inverse_distances`.
        """
        frame = np.linalg.inv(np.stack([self.right, self.down, self.out], axis=1))
        start, along = frame @ (eye - self.origin), rays @ frame.T
        if not self.radius[0]:
            inverse = along[..., 2] / -(start[2] or 1e-9)
            place = self.middle * inverse[..., None] + (start[:2] * inverse[..., None] + along[..., :2]) / self.scale
            return [(np.concatenate([place, inverse[..., None]], axis=-1), np.ones(inverse.shape))]
        start = start - (0 if self.closed else np.array([0, 0, self.radius[1]]))
        size = np.array([1 / self.radius[0], 0, 1 / self.radius[1]])
        *inverses, inside = _inverse_distances(start * size, along * size)
        result = []
        eye_angle = np.arctan2(start[0] * size[0], -start[2] * size[2])
        for side, inverse in zip((0, np.pi), inverses if self.closed else inverses[:1], strict=False):
            seen = start * inverse[..., None] + along  # the place times w
            # Angles from the eye's own, so that neither the near nor the far side has the jump of a full turn.
            across = (seen[..., 0] * size[0]) * 1j - seen[..., 2] * size[2]
            angle = eye_angle + side + np.angle(across * np.exp(-1j * (eye_angle + side)))
            offset = np.stack([angle * self.radius[0] * inverse, seen[..., 1], inverse * 0], axis=-1) / self.scale
            result.append((offset + np.array([*self.middle, 1]) * inverse[..., None], inside))
        return result


@dataclass(frozen=True, eq=False)
class Filter:
    """What to put on a face: layers, or a morph, (75, 3) shifts of ``Pose.points``."""

    name: str
    about: str
    layers: tuple[Layer, ...] = ()
    morph: np.ndarray | None = None


def filter_names(folder: str | Path = FILTER_DIR) -> list[str]:
    """The filters that lie in a folder, sorted."""
    return sorted(file.stem for file in Path(folder).glob("*.json"))


@cache
def load_filter(name: str, folder: str | Path = FILTER_DIR) -> Filter:
    """Read a filter.

    Args:
        name: of a filter in the folder, or the path of another one's ``.json``.

    Raises:
        ValueError: an unknown name (the known ones are listed), or a file that is not a filter's.
        OSError: the file or its picture is missing.
    """
    if name.endswith(".json"):
        folder, name = Path(name).parent, Path(name).stem
    elif name not in filter_names(folder):
        known = ", ".join(filter_names(folder))
        raise ValueError(f"got filter {name!r}, expected one of {known}, or the path of a .json file")
    file = Path(folder) / f"{name}.json"
    try:
        content = json.loads(read_bytes(file, MOST_TEXT).decode("utf-8"))
        content = _keys(content, ("about", "morph" if "morph" in content else "layers"), (), "a filter")
        if "morph" in content:
            shifts = np.zeros((NUM_KEYPOINTS + len(EXTRA), 3))
            for point, shift in content["morph"].items():
                if not 0 <= int(point) < NUM_KEYPOINTS:
                    raise ValueError(f"got a shift of point {point}, expected 0 to {NUM_KEYPOINTS - 1}")
                shifts[int(point)] = _within(shift, 1, "shift")
            return Filter(name, str(content["about"]), morph=shifts)
        picture_file = file.with_suffix(".png")
        picture = decode_image(read_bytes(picture_file), picture_file, with_alpha=True, most_pixels=MOST_PIXELS)
        if picture.shape[2] != 4:
            raise ValueError(f"{picture_file}: got an image without transparency, expected red, green, blue and alpha")
        if not 1 <= len(content["layers"]) <= MOST_LAYERS:
            raise ValueError(f"got {len(content['layers'])} layers, expected 1 to {MOST_LAYERS}")
        layers = tuple(_layer(entry, picture) for entry in content["layers"])
        if (pixels := sum(layer.picture[..., 0].size for layer in layers)) > MOST_PIXELS:
            raise ValueError(f"got layers of {pixels:,} pixels, expected at most {MOST_PIXELS:,} in all")
        return Filter(name, str(content["about"]), layers)
    except (ValueError, TypeError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise ValueError(f"{file}: expected about and layers or a morph, got: {reason}") from None


def _keys(entry: object, needed: Sequence[str], possible: Sequence[str], what: str) -> dict:
    """An object of the file, checked: it has what it needs, and nothing that would be passed over without a word."""
    if not isinstance(entry, dict):
        raise ValueError(f"got {type(entry).__name__} for {what}, expected an object")
    for key in needed:
        if key not in entry:
            raise ValueError(f"got {what} without {key!r}")
    if unknown := [key for key in entry if key not in (*needed, *possible)]:
        raise ValueError(f"got {unknown[0]!r} in {what}, expected {', '.join((*needed, *possible))}")
    return entry


def _within(values: object, limit: float, what: str, least: float | None = None) -> np.ndarray:
    """Numbers as an array, checked: a filter from a stranger must not draw for hours or fail at the first face."""
    array = np.asarray(values, np.float64)
    least = -limit if least is None else least
    if not ((array >= least) & (array <= limit)).all():
        raise ValueError(f"got {what} {values!r}, expected numbers from {least:g} to {limit:g}")
    return array


def _layer(entry: dict, picture: np.ndarray) -> Layer:
    _keys(entry, ("anchors",), ("part", "sheet", *LIMITS), "a layer")
    left, top, width, height = entry.get("part", (0, 0, *picture.shape[1::-1]))
    anchors = entry["anchors"]
    if len(anchors) < 2:
        raise ValueError(f"got {len(anchors)} anchors, expected two or more")
    for anchor in anchors:
        _keys(anchor, ("at", "place" if "place" in anchor else "points"), ("offset",), "an anchor")
        if anchor.get("place", EXTRA[0]) not in EXTRA:
            raise ValueError(f"got place {anchor['place']!r}, expected one of {', '.join(EXTRA)}")
    places = tuple(
        (NUM_KEYPOINTS + EXTRA.index(anchor["place"]),) if "place" in anchor else tuple(anchor["points"])
        for anchor in anchors
    )
    for group in places:
        if not group or not all(type(point) is int and 0 <= point < NUM_KEYPOINTS + len(EXTRA) for point in group):
            raise ValueError(f"got an anchor of points {group}, expected some of 0 to {NUM_KEYPOINTS - 1}")
    options = {key: entry[key] for key in ("sheet", *LIMITS) if key in entry}
    for key, (least, most) in LIMITS.items():
        if key in options:
            options[key] = float(_within(options[key], most, key, least))
            if 0 < options[key] < LEAST.get(key, 0):
                raise ValueError(f"got {key} {options[key]:g}, expected 0 or at least {LEAST[key]:g}")
    if options.get("sheet", "front") not in SHEETS:
        raise ValueError(f"got sheet {options['sheet']!r}, expected one of {', '.join(SHEETS)}")
    if min(left, top) < 0 or min(width, height) < 1:
        raise ValueError(f"got part {left, top, width, height}, expected left, top, width, height in pixels")
    part = picture[top : top + height, left : left + width]
    if part.shape[:2] != (height, width):
        raise ValueError(f"got part {left, top, width, height} of a picture of {picture.shape[1::-1]} pixels")
    offsets = _within([anchor.get("offset", (0, 0, 0)) for anchor in anchors], 10, "offset").reshape(len(anchors), 3)
    at = _within([anchor["at"] for anchor in anchors], 1e5, "at").reshape(len(anchors), 2)
    if np.ptp(at, axis=0).max() < 1:
        raise ValueError("got anchors at one pixel, expected two or more places")
    return Layer(part, places, offsets, at, **options)


def corners(layer: Layer, pose: Pose) -> np.ndarray:
    """Where a layer's corners lie in the image, (4, 2) pixels: top left, top right, bottom right, bottom left."""
    height, width = layer.picture.shape[:2]
    box = np.array([(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)], np.float64)
    return pose.project(layer.surface(pose).points(box))


def apply_filter(
    image: np.ndarray,
    keypoints: np.ndarray,
    effect: Filter | str,
    pose: Pose | None = None,
    confidence: np.ndarray | None = None,
) -> np.ndarray:
    """Put a filter on one face.

    Args:
        image: (H, W, 3) uint8 RGB; it stays as it is.
        keypoints: (68, 2) pixels.
        effect: a filter or its name.
        pose: of the head, estimated from the keypoints by default.
        confidence: (68,) in [0, 1], of the keypoints: where it is low something covers the face, and the filter, too.

    Returns:
        a new (H, W, 3) uint8 RGB image.
    """
    effect = load_filter(effect) if isinstance(effect, str) else effect
    pose = pose or estimate_pose(keypoints, image.shape[1::-1])
    if confidence is None:
        confidence = np.ones(NUM_KEYPOINTS)
    if effect.morph is not None:
        moved = effect.morph[:NUM_KEYPOINTS].any(axis=1)
        if (confidence[moved] < COVERED[1]).sum() > moved.sum() / 4:
            return image.copy()  # it would bend what covers the face
        return _morph(image, np.asarray(keypoints, np.float64), effect.morph, pose)
    return _apply_layers(image, np.asarray(keypoints, np.float64), effect.layers, pose, confidence)


def dress(image: np.ndarray, faces: Iterable, effects: Sequence[Filter | str]) -> np.ndarray:
    """Put filters on all faces of an image (``Face`` of a :class:`~keypoints.detection.KeypointDetector`).

    Far heads come first, so that a near one's hat covers them. No face leaves the image as it was.

    Args:
        image: (H, W, 3) uint8 RGB, or (H, W, 4) uint8 RGBA, which stays transparent where no filter covers it.
    """
    if image.shape[2] == 4:
        return _dress_transparent(image, list(faces), effects)
    for face in sorted(faces, key=lambda face: -face.pose.distance / face.pose.focal):
        for effect in effects:
            image = apply_filter(image, face.keypoints, effect, face.pose, face.confidence)
    return image


def _dress_transparent(image: np.ndarray, faces: Sequence, effects: Sequence[Filter | str]) -> np.ndarray:
    """The same for RGBA: what differs between the picture on white and on black is how far one sees through it."""
    before = [on_background(image, level) for level in (255, 0)]
    white, black = (dress(rgb, faces, effects) for rgb in before)
    changed = ((white != before[0]) | (black != before[1])).any(axis=2)
    alpha = 255 - (white.astype(np.float32) - black)[changed].mean(axis=1)
    alpha = np.clip(alpha, image[changed][:, 3], 255)[:, None]
    opaque = alpha >= 254.5
    colour = np.where(opaque, white[changed], black[changed] * 255 / np.maximum(alpha, 1))
    result = image.copy()
    result[changed] = np.clip(np.hstack([colour, alpha]), 0, 255).round()
    return result


def to_linear(image: np.ndarray) -> np.ndarray:
    """sRGB uint8 → linear light, float32 in 0..1 (IEC 61966-2-1)."""
    return cv2.LUT(np.ascontiguousarray(image), _LINEAR).reshape(image.shape)


def to_srgb(light: np.ndarray) -> np.ndarray:
    """Linear light, 0..1 → sRGB uint8."""
    return np.take(_SRGB, (np.clip(light, 0, 1) * (len(_SRGB) - 1) + 0.5).astype(np.uint16))


_LEVELS, _LIGHT = np.arange(256) / 255, np.linspace(0, 1, 2**14)
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4).astype(np.float32)
_SRGB = np.where(_LIGHT <= 0.0031308, 12.92 * _LIGHT, 1.055 * _LIGHT ** (1 / 2.4) - 0.055)
_SRGB = np.round(255 * _SRGB).astype(np.uint8)


def _inverse_distances(start: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where rays start + t along meet the unit sphere: 1 / t of its near and of its far side, and the discriminant.

    A negative discriminant is a ray beside the sphere; its inverse distances continue those at the outline.
    """
    a, b, c = (along**2).sum(axis=-1), along @ start, start @ start - 1 or 1e-9
    inside = b**2 - a * c
    root = np.sqrt(np.maximum(inside, 0))
    return (root - b) / c, (-root - b) / c, inside


def _skull(pose: Pose, eye: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse distance along rays (…, 3) at which the head begins, an ellipsoid round the brain and cheeks.

    Returns:
        inverse: (…); inside: (…), positive where the ray meets the head.
    """
    left, right = pose.place("band_left"), pose.place("band_right")
    front, back, crown = (pose.place(name) for name in ("band_front", "band_back", "crown"))
    centre = np.array([(left[0] + right[0]) / 2, front[1] + 0.3, (front[2] + back[2]) / 2])
    axes = np.array([(left[0] - right[0]) / 2, centre[1] - crown[1], (back[2] - front[2]) / 2]) * (0.99, 1.05, 1.0)
    near, _, inside = _inverse_distances((eye - centre) / axes, rays / axes)
    return near, inside


def _lamp(image: np.ndarray, keypoints: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How bright a filter shall be at pixels x (W,), y (H,), from the light on the face, (3, H, W) float32.

    Its level, a part of its colour, and its fall from one side to the other: a plane fitted to the face's brightness.
    """
    hull = cv2.convexHull(np.float32(np.concatenate([keypoints[JAW], keypoints[RIGHT_BROW], keypoints[LEFT_BROW]])))
    middle, half = hull.reshape(-1, 2).mean(axis=0), np.ptp(hull.reshape(-1, 2), axis=0).max() / 2
    every = int(np.ceil(half / 30))  # pixels between those that are looked at: about 2000 of the face
    mask = np.zeros([-(-n // every) for n in image.shape[:2]], np.uint8)
    cv2.fillConvexPoly(mask, np.round(hull / every).astype(np.int32), 1)
    rows, columns = np.nonzero(mask)
    if len(rows) < 50:
        return np.ones((3, len(y), len(x)), np.float32)
    rows, columns = rows * every, columns * every
    grey = to_linear(image[rows, columns]) @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    plane = np.column_stack([np.ones_like(grey), (columns - middle[0]) / half, (rows - middle[1]) / half])
    dark, bright, top = np.sort(grey)[(np.array([0.08, 0.9, 0.95]) * (len(grey) - 1)).astype(int)]
    kept = (grey >= dark) & (grey <= top)  # hair, nostrils and highlights tell nothing
    level, right, down = np.linalg.lstsq(plane[kept].T @ plane[kept], grey[kept] @ plane[kept], rcond=None)[0]
    gain = np.clip(bright / BRIGHT_SKIN, 0.05, 1.6) ** 0.7
    right, down = np.clip(np.array([right, down]) / max(level, 1e-3), -0.45, 0.45)
    field = 1 + np.clip(right * (x - middle[0]) / half, -0.5, 0.5)
    field = field + np.clip(down * (y - middle[1]) / half, -0.3, 0.3)[:, None]
    every = int(np.ceil(np.sqrt(image[..., 0].size / 5000)))
    cast = to_linear(image[::every, ::every]).mean(axis=(0, 1)) + 1e-3
    cast = (cast / cast.mean()) ** 0.35
    return (gain * field * cast[:, None, None]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Grid:
    """A part of the image and a coarse grid of rays: one through each cell of ``step`` × ``step`` pixels, and a border.

    Attributes:
        corner: the first pixel (x, y). shape: rows and columns of cells. x, y: pixels that the rays go through.
        eye: (3,), rays: (rows + 2, columns + 2, 3), in the head's frame.
    """

    corner: tuple[int, int]
    shape: tuple[int, int]
    step: int
    x: np.ndarray
    y: np.ndarray
    eye: np.ndarray
    rays: np.ndarray

    @classmethod
    def over(cls, low: np.ndarray, high: np.ndarray, unit: float, pose: Pose) -> _Grid:
        step = int(np.clip(GRID * unit, 1, 32))
        columns, rows = (int(n) for n in -(-(high - low) // step))
        x, y = (low[i] + (np.arange(-1, n + 1) + 0.5) * step - 0.5 for i, n in enumerate((columns, rows)))
        return cls(tuple(low), (rows, columns), step, x, y, *pose.rays(np.stack(np.meshgrid(x, y), axis=-1)))

    def part(self, mesh: np.ndarray) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """The rays and the pixels around a mesh (…, 2) of pixels."""
        inside = (mesh.reshape(-1, 2) - self.corner) / self.step
        first = np.floor(inside.min(axis=0) - 2 / self.step).clip(0, self.shape[::-1]).astype(int)
        last = np.ceil(inside.max(axis=0) + 2 / self.step).clip(first, self.shape[::-1]).astype(int)
        (left, right), (top, bottom) = zip(first, last, strict=True)
        cells = np.s_[top : bottom + 2, left : right + 2]
        return cells, np.s_[top * self.step : bottom * self.step, left * self.step : right * self.step]

    def enlarged(self, *coarse: np.ndarray) -> list[np.ndarray]:
        """Values at rays (H + 2, W + 2) → at pixels (H step, W step), float32, linear in between."""
        size = (coarse[0].shape[1] * self.step, coarse[0].shape[0] * self.step)
        inner = np.s_[self.step : -self.step, self.step : -self.step]
        return [cv2.resize(np.float32(one), size)[inner] for one in coarse]

    def inside(self, discriminant: np.ndarray) -> np.ndarray:
        """0 … 1 at pixels, with a smooth edge where a discriminant at rays changes its sign, see Surface.hits."""
        edge = discriminant / (np.hypot(*np.gradient(discriminant)) + 1e-9)  # cells from the outline
        return np.clip(self.enlarged(edge.clip(-8, 8))[0] * self.step + 0.5, 0, 1)


def _covered(points: np.ndarray, confidence: np.ndarray, x: np.ndarray, y: np.ndarray, unit: float) -> np.ndarray:
    """How far something covers the face at pixels x (W,), y (H,), (H, W) in [0, 1], by the keypoints (N, 2) nearby."""
    across, along = (np.exp(-0.5 * ((at[:, None] - points[:, i]) / (NEAR * unit)) ** 2) for i, at in enumerate((x, y)))
    low, high = COVERED
    mean = (along * confidence) @ across.T / (along @ across.T + 1e-12)
    return ((high - mean) / (high - low)).clip(0, 1)


def _apply_layers(
    image: np.ndarray, keypoints: np.ndarray, layers: Sequence[Layer], pose: Pose, confidence: np.ndarray
) -> np.ndarray:
    """Draw sheets on a head: rays are cast on a coarse grid, and their hits are interpolated for each pixel."""
    unit = pose.focal / pose.distance  # pixels
    surfaces = [layer.surface(pose) for layer in layers]
    meshes = np.stack([_mesh(layer, surface, pose) for layer, surface in zip(layers, surfaces, strict=True)])
    limit = image.shape[1::-1]
    low = np.floor(meshes.min(axis=(0, 1, 2)) - 0.25 * unit - 2).clip(0, limit).astype(int)
    high = np.ceil(meshes.max(axis=(0, 1, 2)) + 0.25 * unit + 3).clip(0, limit).astype(int)
    if (low >= high).any():
        return image.copy()
    grid = _Grid.over(low, high, unit, pose)
    # What hides a sheet: the head, and the face whatever lies behind its middle.
    skull, on_skull = _skull(pose, grid.eye, grid.rays)
    on_face = np.zeros([n * grid.step for n in grid.shape], np.uint8)
    outline = cv2.convexHull(np.float32(keypoints - low)) * 16
    cv2.fillConvexPoly(on_face, np.round(outline).astype(np.int32), 255, cv2.LINE_AA, 4)
    drawn = np.zeros((4, *on_face.shape), np.float32)  # premultiplied
    depth = np.full(on_face.shape, np.inf, np.float32)  # of the nearest sheet that is drawn
    for layer, surface, mesh in zip(layers, surfaces, meshes, strict=True):
        cells, pixels = grid.part(mesh)
        if not depth[pixels].size:
            continue
        full = np.array(layer.picture.shape[1::-1])
        size, thickness = _size(mesh)
        picture = _at_size(layer, *(2 * np.log2(full / size)).round().clip(0, 40).astype(int).tolist())
        # A sheet seen from its edge would be a row of dots: it fades.
        slope = thickness / (full.min() * surface.scale * unit)
        clear = np.float32(min(1.0, max(thickness / 2 - 1, 10 * slope)))
        tiles = 3 if surface.closed else 1
        scale = np.array(picture.shape[1::-1]) / full / (tiles, 1)
        shift = 0.5 * scale - 0.5 + (tiles // 2 * picture.shape[1] // tiles, 0)
        for place, inside in surface.hits(grid.eye, grid.rays[cells]):
            place[..., :2] = place[..., :2] * scale + place[..., 2:] * shift
            far = 1 / np.maximum(place[..., 2], 1e-6)
            hidden = np.clip((far - 1 / np.maximum(skull[cells], 1e-6)) / SOFT, 0, 1)
            behind = np.clip((far - pose.translation[2] - 0.25) / SOFT, 0, 1)
            u, v, inverse = grid.enlarged(*np.moveaxis(place, 2, 0))
            far = 1 / np.maximum(inverse, 1e-6)
            sheet = cv2.remap(picture, u * far, v * far, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
            sheet = cv2.split(sheet)
            seen = clear * (inverse > 0)
            if surface.radius[0]:
                seen *= grid.inside(inside)
            if hidden.any() or behind.any():
                hidden, behind = grid.enlarged(hidden, behind)
                hidden *= grid.inside(on_skull[cells])
                seen *= 1 - np.maximum(hidden, behind * (on_face[pixels] * np.float32(1 / 255)))
            # Over or under what is there already, pixel by pixel.
            nearer = (far < depth[pixels]).astype(np.float32)
            alpha, below = sheet[3] * seen, drawn[3][pixels]
            over, under = seen * (1 - below + nearer * below), 1 - nearer * alpha
            for plane, colour in zip(drawn, sheet, strict=True):
                plane[pixels] = plane[pixels] * under + colour * over
            depth[pixels] = np.minimum(depth[pixels], far + np.float32(1e9) * (alpha < 0.02))
    if (confidence < COVERED[1]).any():
        [covered] = grid.enlarged(_covered(keypoints, confidence, grid.x, grid.y, unit))
        drawn *= 1 - covered * (on_face * np.float32(1 / 255))
    through, coarse = 1 - drawn[3], grid.shape[::-1]
    if shade := max(layer.shadow for layer in layers):
        cover = cv2.resize(drawn[3], coarse, interpolation=cv2.INTER_AREA)
        cover = cv2.warpAffine(cover, np.array([[1, 0, 0], [0, 1, 0.07 * unit / grid.step]], np.float32), coarse)
        cover = cv2.GaussianBlur(cover, (0, 0), max(0.5, 0.06 * unit / grid.step))
        on_head = cv2.resize(on_face, coarse, interpolation=cv2.INTER_AREA) / np.float32(255)
        on_head = np.maximum(on_head, on_skull[1:-1, 1:-1] > 0)
        cover *= cv2.GaussianBlur(on_head, (0, 0), max(0.5, 0.03 * unit / grid.step))
        through *= 1 - shade * cv2.resize(cover, through.shape[::-1])
    light = grid.enlarged(*_lamp(image, keypoints, grid.x, grid.y))
    return _blend(image, (*low, *high), drawn, through, light, BLUR * unit)


def _blend(
    image: np.ndarray,
    box: tuple[int, int, int, int],
    drawn: np.ndarray,
    through: np.ndarray,
    light: Sequence[np.ndarray],
    blur: float,
) -> np.ndarray:
    """Put what is drawn, (4, H, W), lit by ``light``, over a box of the image of which the share ``through`` stays."""
    x0, y0, x1, y1 = box
    through = through[: y1 - y0, : x1 - x0]
    rows = np.flatnonzero((through < 0.999).any(axis=1))
    if not len(rows):
        return image.copy()
    *colours, alpha = (plane[rows, : x1 - x0] for plane in drawn)
    below = to_linear(image[y0 + rows, x0:x1])
    # What shines through is blurred, so that nobody's own glasses are seen through sunglasses.
    size = [int(np.ceil(n * min(1, 2 / blur))) for n in (x1 - x0, y1 - y0)]
    blurred = to_linear(cv2.resize(image[y0:y1, x0:x1], size, interpolation=cv2.INTER_AREA))
    blurred = cv2.resize(cv2.GaussianBlur(blurred, (0, 0), 2), (x1 - x0, y1 - y0))[rows]
    share = np.clip(4 * alpha - 2, 0, 1)
    below = cv2.split(cv2.blendLinear(blurred, below, share, 1 - share))
    for colour, lamp, behind in zip(colours, light, below, strict=True):
        colour *= lamp[rows, : x1 - x0]
        colour += through[rows] * behind
    result = image.copy()
    result[y0 + rows, x0:x1] = to_srgb(cv2.merge(colours))
    return result


@lru_cache(maxsize=64)
def _at_size(layer: Layer, across: int, down: int) -> np.ndarray:
    """A layer's picture, each axis averaged down by a power of √2; that of a closed sheet three times in a row."""
    height, width = layer.picture.shape[:2]
    size = [min(max(1, round(n / 2 ** (power / 2))), 10_000) for n, power in ((width, across), (height, down))]
    return np.tile(cv2.resize(layer.light, size, interpolation=cv2.INTER_AREA), (1, 3 if layer.round else 1, 1))


def _mesh(layer: Layer, surface: Surface, pose: Pose) -> np.ndarray:
    """Where a layer's picture lies in the image, (N, N, 2) pixels, from its corner to its corner."""
    grid = np.meshgrid(*(np.linspace(-0.5, n - 0.5, 17) for n in layer.picture.shape[1::-1]))
    return pose.project(surface.points(np.stack(grid, axis=-1)))


def _size(mesh: np.ndarray) -> tuple[np.ndarray, float]:
    """How many pixels of the image a picture's width and height take, (2,), and its thickness if seen at a slant."""
    right, down = np.diff(mesh, axis=1)[:-1], np.diff(mesh, axis=0)[:, :-1]
    sides = [np.hypot(*np.moveaxis(side, 2, 0)).max() * len(side) + 1e-3 for side in (right, down)]
    area = np.abs(right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0]).max() * right[..., 0].size
    thickness = area / max(sides) + 1e-3
    # The shorter side lies almost along the longer one at a slant: its whole length would be too fine for the image.
    short = int(sides[0] > sides[1])
    sides[short] = np.sqrt(sides[short] * min(thickness, sides[short]))
    return np.array(sides), thickness


def _morph(image: np.ndarray, keypoints: np.ndarray, shifts: np.ndarray, pose: Pose) -> np.ndarray:
    """Move keypoints and what lies between them: piecewise affine over a Delaunay mesh of the points and a frame."""
    move = pose.project(pose.points + shifts) - pose.project(pose.points)
    middle = keypoints.mean(axis=0)
    reach = 1.25 * np.abs(keypoints - middle).max()
    angles = np.radians(np.arange(0, 360, 30))
    frame = middle + reach * np.column_stack([np.cos(angles), np.sin(angles)])  # stays where it is
    source = np.concatenate([keypoints, frame])
    target = source + np.concatenate([move[:NUM_KEYPOINTS], np.zeros_like(frame)])
    low = np.floor(frame.min(axis=0) - 2)
    grid = cv2.Subdiv2D((0, 0, *(int(n) for n in np.ceil(np.ptp(frame, axis=0)) + 5)))
    index = {}
    for number, point in enumerate((target - low).astype(np.float32)):
        grid.insert(tuple(point.tolist()))
        index[tuple(point.tolist())] = number
    still = (target == source).all(axis=1)
    corners = []  # of the triangles that move
    for triangle in grid.getTriangleList().reshape(-1, 3, 2).tolist():
        three = [index[tuple(point)] for point in triangle if tuple(point) in index]
        if len(three) == 3 and not still[three].all():
            corners.append(three)
    if not corners:
        return image.copy()
    used = target[np.concatenate(corners)]
    low = np.floor(used.min(axis=0) - 1).clip(0, image.shape[1::-1]).astype(int)
    high = np.ceil(used.max(axis=0) + 2).clip(0, image.shape[1::-1]).astype(int)
    if (low >= high).any():
        return image.copy()
    which = np.zeros((high - low)[::-1], np.uint8)  # the triangle of each pixel; 0 stays where it is
    affine = np.tile(np.eye(2, 3), (len(corners) + 1, 1, 1))
    for number, three in enumerate(corners, 1):
        affine[number] = cv2.getAffineTransform(np.float32(target[three] - low), np.float32(source[three] - low))
        cv2.fillConvexPoly(which, np.round((target[three] - low) * 16).astype(np.int32), number, cv2.LINE_8, 4)
    affine[:, :, 2] += low
    a, b, c, d, e, f = (np.take(entry, which) for entry in np.float32(affine).reshape(-1, 6).T.copy())
    x, y = np.arange(which.shape[1], dtype=np.float32), np.arange(which.shape[0], dtype=np.float32)[:, None]
    result = image.copy()
    result[low[1] : high[1], low[0] : high[0]] = cv2.remap(
        image, a * x + b * y + c, d * x + e * y + f, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return result
