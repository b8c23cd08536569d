"""Filters: pictures with transparency that sit on a head in space, and a morph that makes it smile.

A filter is a JSON file in ``data/filters/`` and, beside it, a PNG with alpha of the same name; no code::

    {"about": "sunglasses", "layers": [{
      "part": [0, 0, 1200, 460],                                   its rectangle of the PNG: left, top, width, height
      "anchors": [{"points": [36, 37, 38, 39, 40, 41], "at": [318, 208], "offset": [0, 0, -0.2]}, …],
      "sheet": "front", "bend": 1.6, "tilt": 4, "shadow": 0.3}]}

An anchor says that the mean of these keypoints of the head in 3-D, or a ``place`` of :data:`keypoints.pose.EXTRA`,
moved by ``offset``, lies on that pixel of the part. Lengths are in outer-eye distances, the frame is the head's
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
from functools import cache, cached_property
from pathlib import Path

import cv2
import numpy as np

from keypoints.files import asset
from keypoints.images import decode_image, on_background, read_bytes
from keypoints.landmarks import JAW, LEFT_BROW, NUM_KEYPOINTS, RIGHT_BROW
from keypoints.pose import EXTRA, Pose, estimate_pose

FILTER_DIR = asset("filters")
SHEETS = {"front": (0, 1, 2), "side": (2, 1, 0), "flat": (0, 2, 1)}  # the head's axes along, down and out of a sheet
LIMITS = {"bend": (0, 100), "round": (0, 10), "tilt": (-90, 90), "shadow": (0, 1)}
LEAST = {"bend": 0.01, "round": 0.01}  # where it is not 0: what is narrower is a line, and its squares underflow
# Bytes of the JSON file, layers, and pixels of the picture and of all layers together: what is worn costs 16 bytes for
# each of the layers' pixels, and 24 for each of the image's and each layer.
MOST_TEXT, MOST_LAYERS, MOST_PIXELS = 1_000_000, 16, 2**23
FINER = 2  # pixels of the layer to a pixel of the image, each way: what edges are smoothed from
LARGE = 1_000_000  # pixels of the image: where more are covered, the filter's own picture is the coarser one
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
        axes = SHEETS[self.sheet]
        source = self.at[:, 0] + 1j * self.at[:, 1]
        target = places[:, axes[0]] + 1j * places[:, axes[1]]
        centred = source - source.mean()
        a = (centred.conj() @ (target - target.mean())) / (centred.conj() @ centred).real
        scale, turn = max(abs(a), 1e-6), float(np.angle(a))  # all anchors at one place make a speck
        out = places[:, axes[2]]
        along = centred.real
        slope = float(along @ (out - out.mean()) / (along @ along)) if along @ along > 1 else 0.0
        axis = np.eye(3)[list(axes)]  # along, down, out
        c, s = np.cos(np.radians(self.tilt)), np.sin(np.radians(self.tilt))
        tilted = axis @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]).T
        right = np.cos(turn) * tilted[0] + np.sin(turn) * tilted[1]
        down = -np.sin(turn) * tilted[0] + np.cos(turn) * tilted[1]
        right = right + slope / scale * tilted[2]
        origin = np.array([target.mean().real, target.mean().imag, out.mean()]) @ axis
        radius = (self.bend, self.bend)
        if self.round:
            width = self.picture.shape[1] * scale / (2 * np.pi)
            radius = (width, width * self.round)
        middle = np.array([source.mean().real, source.mean().imag])
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
        """Where rays (…, 3) from the eye (3,) meet it: pixels of the picture (…, 2) and how far along, infinite if not.

        One such pair for a flat or bent sheet, two for a closed one: its near and its far side.
        """
        frame = np.linalg.inv(np.stack([self.right, self.down, self.out], axis=1))
        start, along = frame @ (eye - self.origin), rays @ frame.T
        if not self.radius[0]:
            with np.errstate(divide="ignore", invalid="ignore"):
                far = -start[2] / along[..., 2]
            far = np.where(np.isfinite(far) & (far > 0), far, np.inf)
            seen = np.where(np.isfinite(far), far, 0)[..., None] * along + start
            return [(self.middle + seen[..., :2] / self.scale, far)]
        across, deep = self.radius
        start = start - (0 if self.closed else np.array([0, 0, deep]))
        a = (along[..., 0] / across) ** 2 + (along[..., 2] / deep) ** 2
        b = along[..., 0] * start[0] / across**2 + along[..., 2] * start[2] / deep**2
        root = b**2 - a * ((start[0] / across) ** 2 + (start[2] / deep) ** 2 - 1)
        result = []
        for sign in (-1, 1) if self.closed else (-1,):
            far = (-b + sign * np.sqrt(np.maximum(root, 0))) / a
            far = np.where((root > 0) & (far > 0), far, np.inf)
            seen = np.where(np.isfinite(far), far, 0)[..., None] * along + start
            angle = np.arctan2(seen[..., 0] / across, -seen[..., 2] / deep)
            offset = np.stack([angle * across, seen[..., 1]], axis=-1) / self.scale
            result.append((self.middle + offset, far))
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
    """Read a filter by its name.

    Raises:
        ValueError: an unknown name (the known ones are listed), or a file that is not a filter's.
        OSError: its picture is missing.
    """
    if name not in filter_names(folder):
        raise ValueError(f"got filter {name!r}, expected one of {', '.join(filter_names(folder))}")
    file = Path(folder) / f"{name}.json"
    try:
        content = json.loads(read_bytes(file, MOST_TEXT).decode("utf-8"))
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
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise ValueError(f"{file}: expected about and layers or a morph, got: {reason}") from None


def _within(values: object, limit: float, what: str, least: float | None = None) -> np.ndarray:
    """Numbers as an array, checked: a filter from a stranger must not draw for hours or fail at the first face."""
    array = np.asarray(values, np.float64)
    least = -limit if least is None else least
    if not ((array >= least) & (array <= limit)).all():
        raise ValueError(f"got {what} {values!r}, expected numbers from {least:g} to {limit:g}")
    return array


def _layer(entry: dict, picture: np.ndarray) -> Layer:
    left, top, width, height = entry.get("part", (0, 0, *picture.shape[1::-1]))
    anchors = entry["anchors"]
    if len(anchors) < 2:
        raise ValueError(f"got {len(anchors)} anchors, expected two or more")
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
    image: np.ndarray, keypoints: np.ndarray, effect: Filter | str, pose: Pose | None = None
) -> np.ndarray:
    """Put a filter on one face.

    Args:
        image: (H, W, 3) uint8 RGB; it stays as it is.
        keypoints: (68, 2) pixels.
        effect: a filter or its name.
        pose: of the head, estimated from the keypoints by default.

    Returns:
        a new (H, W, 3) uint8 RGB image.
    """
    effect = load_filter(effect) if isinstance(effect, str) else effect
    pose = pose or estimate_pose(keypoints, image.shape[1::-1])
    if effect.morph is not None:
        return _morph(image, np.asarray(keypoints, np.float64), effect.morph, pose)
    return _wear(image, np.asarray(keypoints, np.float64), effect.layers, pose)


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
            image = apply_filter(image, face.keypoints, effect, face.pose)
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
    return _LINEAR[image]


def to_srgb(light: np.ndarray) -> np.ndarray:
    """Linear light in 0..1 → sRGB uint8."""
    light = np.clip(light, 0, 1)
    curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055)
    return np.round(255 * curve).astype(np.uint8)


_LEVELS = np.arange(256) / 255
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _skull(pose: Pose, eye: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """How far along rays (…, 3) the head begins, infinite beside it; an ellipsoid round the brain and cheeks."""
    left, right = pose.place("band_left"), pose.place("band_right")
    front, back, crown = (pose.place(name) for name in ("band_front", "band_back", "crown"))
    centre = np.array([(left[0] + right[0]) / 2, front[1] + 0.3, (front[2] + back[2]) / 2])
    axes = np.array([(left[0] - right[0]) / 2, centre[1] - crown[1], (back[2] - front[2]) / 2]) * (0.99, 1.05, 1.0)
    start, along = (eye - centre) / axes, rays / axes
    a, b = (along**2).sum(axis=-1), along @ start
    root = b**2 - a * (start @ start - 1)
    return np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf)


def _lamp(light: np.ndarray, keypoints: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """How bright what is worn in a box (x0, y0, x1, y1) shall be, (H, W, 3) float32, from the light on the face.

    Its level, a part of its colour, and its fall from one side to the other: a plane fitted to the face's brightness.
    """
    hull = cv2.convexHull(np.float32(np.concatenate([keypoints[JAW], keypoints[RIGHT_BROW], keypoints[LEFT_BROW]])))
    mask = np.zeros(light.shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, np.round(hull).astype(np.int32), 1)
    rows, columns = np.nonzero(mask)
    x0, y0, x1, y1 = box
    if len(rows) < 50:
        return np.ones((y1 - y0, x1 - x0, 3), np.float32)
    step = max(1, len(rows) // 4000)
    rows, columns = rows[::step], columns[::step]
    rgb = light[rows, columns]
    grey = rgb @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    middle, half = hull.reshape(-1, 2).mean(axis=0), np.ptp(hull.reshape(-1, 2), axis=0).max() / 2
    plane = np.column_stack([np.ones_like(grey), (columns - middle[0]) / half, (rows - middle[1]) / half])
    low, high = np.percentile(grey, [8, 95])  # hair, nostrils and highlights tell nothing
    kept = (grey >= low) & (grey <= high)
    level, right, down = np.linalg.lstsq(plane[kept], grey[kept], rcond=None)[0]
    gain = np.clip(np.percentile(grey, 90) / BRIGHT_SKIN, 0.05, 1.6) ** 0.7
    right, down = np.clip(np.array([right, down]) / max(level, 1e-3), -0.45, 0.45)
    y, x = np.mgrid[y0:y1, x0:x1].astype(np.float32)
    field = 1 + np.clip(right * (x - middle[0]) / half, -0.5, 0.5) + np.clip(down * (y - middle[1]) / half, -0.3, 0.3)
    cast = light.reshape(-1, 3).mean(axis=0) + 1e-3
    cast = (cast / cast.mean()) ** 0.35
    return (gain * field[..., None] * cast).astype(np.float32)


def _wear(image: np.ndarray, keypoints: np.ndarray, layers: Sequence[Layer], pose: Pose) -> np.ndarray:
    height, width = image.shape[:2]
    unit = pose.focal / pose.distance  # pixels
    outlines = []
    for layer in layers:
        rows, columns = np.meshgrid(*(np.linspace(0, n - 1, 9) for n in layer.picture.shape[:2]), indexing="ij")
        outlines.append(pose.project(layer.surface(pose).points(np.stack([columns, rows], axis=-1))).reshape(-1, 2))
    outline = np.concatenate(outlines)
    low = np.floor(outline.min(axis=0) - 0.25 * unit - 2).astype(int).clip(0, (width, height))
    high = np.ceil(outline.max(axis=0) + 0.25 * unit + 3).astype(int).clip(0, (width, height))
    (x0, y0), (x1, y1) = low, high
    if x0 >= x1 or y0 >= y1:
        return image.copy()
    finer = FINER if (x1 - x0) * (y1 - y0) <= LARGE else 1
    columns, rows = np.meshgrid(*((np.arange(n * finer) + 0.5) / finer - 0.5 for n in (x1 - x0, y1 - y0)))
    eye, rays = pose.rays(np.stack([columns + x0, rows + y0], axis=-1))
    hull = np.zeros(columns.shape, np.uint8)  # the face itself hides what lies behind its middle
    outline = cv2.convexHull(np.float32((keypoints - (x0, y0) + 0.5) * finer - 0.5))
    cv2.fillConvexPoly(hull, np.round(outline * 16).astype(np.int32), 1, cv2.LINE_8, 4)
    head = np.minimum(_skull(pose, eye, rays), np.where(hull, pose.translation[2] + 0.25, np.inf))
    parts = []
    for layer in layers:
        surface = layer.surface(pose)
        picture, shrunk = _at_size(layer.light, unit * finer * surface.scale)
        for place, far in surface.hits(eye, rays):
            met = np.isfinite(far)
            # A soft edge where the head begins to hide it.
            near_head = np.clip((head - np.where(met, far, 0)) / 0.04 + 1, 0, 1)
            place = ((np.where(met[..., None], place, -10) + 0.5) * shrunk - 0.5).astype(np.float32)
            sheet = cv2.remap(picture, place[..., 0], place[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
            parts.append((sheet * near_head[..., None].astype(np.float32), far, layer.shadow))
    light = to_linear(image)
    lamp = _lamp(light, keypoints, (x0, y0, x1, y1))
    below = light[y0:y1, x0:x1]
    shade = max(layer.shadow for layer in layers)
    if shade:
        cover = np.max([part[0][..., 3] for part in parts], axis=0)
        cover = cv2.resize(cover, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
        shift = np.array([[1, 0, 0], [0, 1, 0.07 * unit]], np.float32)
        cover = cv2.warpAffine(cover, shift, (x1 - x0, y1 - y0))
        cover = cv2.GaussianBlur(cover, (0, 0), max(0.5, 0.06 * unit))
        on_head = cv2.resize(np.isfinite(head).astype(np.float32), (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
        on_head = cv2.GaussianBlur(on_head, (0, 0), max(0.5, 0.03 * unit))
        below = below * (1 - shade * cover * on_head)[..., None]
    covered = np.any([part[0][..., 3] > 0 for part in parts], axis=0)
    order = np.argsort([-part[1][covered] for part in parts], axis=0)  # far to near, pixel by pixel
    sheets = np.take_along_axis(np.stack([part[0][covered] for part in parts]), order[..., None], axis=0)
    over, clear = np.zeros((len(order[0]), 3), np.float32), np.ones(len(order[0]), np.float32)
    for sheet in sheets:  # premultiplied: each covers what lies behind it
        over = sheet[..., :3] + (1 - sheet[..., 3:]) * over
        clear *= 1 - sheet[..., 3]
    colour, through = np.zeros((*columns.shape, 3), np.float32), np.ones(columns.shape, np.float32)
    colour[covered], through[covered] = over, clear
    size = (x1 - x0, y1 - y0)
    colour = cv2.resize(colour, size, interpolation=cv2.INTER_AREA)
    through = cv2.resize(through, size, interpolation=cv2.INTER_AREA)
    result = image.copy()
    result[y0:y1, x0:x1] = np.where(
        ((through < 0.999) | np.any(below != light[y0:y1, x0:x1], axis=2))[..., None],
        to_srgb(colour * lamp + through[..., None] * below),
        image[y0:y1, x0:x1],
    )
    return result


def _at_size(rgba: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """A picture averaged down to about the size it is drawn at, and by which factors (2,)."""
    height, width = rgba.shape[:2]
    small = np.maximum(1, np.round(np.array([width, height]) * min(1.0, scale))).astype(int)
    if tuple(small) != (width, height):
        rgba = cv2.resize(rgba, tuple(int(n) for n in small), interpolation=cv2.INTER_AREA)
    return rgba, small / (width, height)


def _morph(image: np.ndarray, keypoints: np.ndarray, shifts: np.ndarray, pose: Pose) -> np.ndarray:
    """Move keypoints and what lies between them: piecewise affine over a Delaunay mesh of the points and a frame."""
    height, width = image.shape[:2]
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
        index[grid.insert((float(point[0]), float(point[1])))] = number
    x0, y0 = low.astype(int).clip(0, (width, height))
    x1, y1 = np.ceil(frame.max(axis=0) + 2).astype(int).clip(0, (width, height))
    if x0 >= x1 or y0 >= y1:
        return image.copy()
    columns, rows = (axis.astype(np.float32) for axis in np.meshgrid(np.arange(x0, x1), np.arange(y0, y1)))
    place = np.stack([columns, rows], axis=-1)
    for triangle in grid.getTriangleList():
        near = [grid.findNearest((float(x), float(y)))[0] for x, y in triangle.reshape(3, 2)]
        corners = [index[vertex] for vertex in near if vertex in index]
        if len(corners) < 3 or not (move[[c for c in corners if c < NUM_KEYPOINTS]] != 0).any():
            continue
        affine = cv2.getAffineTransform(np.float32(target[corners]), np.float32(source[corners]))
        mask = np.zeros(columns.shape, np.uint8)
        corner = np.round((target[corners] - (x0, y0)) * 16).astype(np.int32)
        cv2.fillConvexPoly(mask, corner, 1, cv2.LINE_8, 4)
        inside = mask > 0
        place[inside] = np.column_stack([columns[inside], rows[inside], np.ones(inside.sum())]) @ affine.T
    moved = cv2.remap(image, place[..., 0], place[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    result = image.copy()
    result[y0:y1, x0:x1] = moved
    return result
