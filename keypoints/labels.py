"""Label files: one strict reader for the official layout, and a check whether the points can be those of a face.

The official layout is a CSV file in UTF-8 with a row for each image: its name, then x0, y0, …, x67, y67 in pixels. Many
other layouts read as numbers, too, and train a network on noise. What can be told from the text is refused by
:func:`parse_labels`; what can only be told from the points and the image, by :func:`face_faults`.
"""

from __future__ import annotations

import csv
import functools
import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from PIL import Image

from keypoints.landmarks import FRONT_FACE, complete_keypoints, fit_front

if TYPE_CHECKING:
    import pandas as pd

NUM_POINTS = len(FRONT_FACE)
COLUMNS = 1 + 2 * NUM_POINTS
EXPECTED = (
    f"expected a CSV file in UTF-8 with {COLUMNS} columns: the image's name, then x and y of {NUM_POINTS} points in "
    "pixels (x0, y0, …, x67, y67)"
)
MISSING = {"", "nan", "na", "n/a", "null", "none", "?", "-"}  # what stands for no number, in small letters

# The limits of what counts as a face. Of 6,600 labelled faces (video frames, photos in the wild, rendered heads) none
# is smaller than 32 pixels, leaves its image by more than 0.14 of its size (where the border cuts it), or fits the
# reference face worse than 0.61; with columns exchanged none fits it better than 0.85.
SMALLEST_FACE = 10  # pixels, the square root of the area of the points' box
FEWEST_POINTS = 8  # known ones, by which a face's size and place can be told
OUTSIDE = 0.25  # sizes of the face that a point may lie outside its image
WORST_FIT = 0.75  # root mean square distance from the fitted reference face, over that from the centroid


class LabelOptions(TypedDict, total=False):
    """How a label file is read, by default both 'refuse': see :func:`parse_labels` and :func:`check_faces`."""

    missing: str
    bad_labels: str


class LabelWarning(UserWarning):
    """Some rows of a label file were left out."""


def parse_labels(data: bytes, file: str | Path, missing: str = "refuse") -> tuple[list[str], np.ndarray]:
    """Read labels in the official layout.

    A first line is a header where it numbers the columns (0 … 135) or names them in the order x0, y0, …, x67, y67, in
    any spelling that tells this order; a line of other numbers is a row.

    Args:
        data: the file's content.
        file: what errors call it.
        missing: of points without a number (empty, NaN) or marked by a pair (0, 0), (-1, -1) or another negative whole
            number twice: 'refuse' them, or 'mask': give them as NaN.

    Returns:
        names: N file names.
        keypoints: (N, 68, 2) float32, pixels, (x, y).

    Raises:
        ValueError: no rows, another layout (with how it begins), a missing point or a value that is no number
            (with row, counted from 1 without the header, and point, counted from 0).
    """
    import pandas as pd  # not needed at use

    if missing not in ("refuse", "mask"):
        raise ValueError(f"got missing={missing!r}, expected 'refuse' or 'mask'")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in data[:400]:
        raise ValueError(f"{file}: got UTF-16 or no text, {EXPECTED}")
    header, fields, skipped = _first_line(data)
    start = f"{', '.join(fields)[:60]!r} …"
    try:
        # The header is skipped: with it, pandas takes a row that is too long as one with an index in front.
        table = pd.read_csv(
            io.BytesIO(data), header=None, skiprows=skipped, dtype={0: str}, keep_default_na=False, na_values={}
        )
    except pd.errors.EmptyDataError:
        raise ValueError(f"{file}: got no rows, expected one for each image") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: expected a CSV file of keypoints, got: {str(error).strip()}") from None
    if table.shape[1] != COLUMNS:
        raise ValueError(f"{file}: got {table.shape[1]} columns ({start}), {EXPECTED}")
    if header and len(fields) != COLUMNS:
        raise ValueError(f"{file}: got a header of {len(fields)} columns over rows of {COLUMNS}, {EXPECTED}")
    if header and not _in_order(fields[1:]):
        raise ValueError(f"{file}: got a header with the columns in another order ({start}), {EXPECTED}")
    names = table.iloc[:, 0].astype(str)
    if (names.str.strip() == "").any():
        raise ValueError(f"{file}: got no name in row {int((names.str.strip() == '').argmax()) + 1}, {EXPECTED}")
    texts = table.iloc[:, 1:]
    values = np.array(texts.apply(pd.to_numeric, errors="coerce"), np.float32)
    _refuse_text(file, data, table, values)
    points = values.reshape(-1, NUM_POINTS, 2)
    x, y = points[..., 0], points[..., 1]
    unknown = np.isnan(points).any(axis=2) | ((x == y) & (x <= 0) & (x == np.floor(x)))
    if unknown.any() and missing == "refuse":
        row, point = np.argwhere(unknown)[0]
        pair = ", ".join(str(value) for value in texts.iloc[row, 2 * point : 2 * point + 2])
        raise ValueError(
            f"{file}: got no coordinates ({pair}) of point {point} in row {row + 1} ({names[row][:200]!r}; "
            f"{unknown.any(axis=1).sum()} such rows), expected all points; missing='mask' (--missing mask) leaves "
            "missing points out"
        )
    points[unknown] = np.nan
    return names.tolist(), points


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _first_line(data: bytes) -> tuple[bool, list[str], int]:
    """Whether the first line that is not blank is a header, its fields, and how many lines to skip."""
    text = data.lstrip()
    before = data[: len(data) - len(text)]
    line = re.split(rb"[\r\n]", text, maxsplit=1)[0][:100_000].decode("utf-8", errors="replace")  # csv takes no more
    fields = next(csv.reader([line]), [""])
    fields = [field.strip() for field in fields]
    numbers = [_number(field) for field in fields[1:]]
    told = [number for number in numbers if number is not None]
    row = len(told) > len(numbers) / 2 or all(field.lower() in MISSING for field in fields[1:])
    count = sorted(told) in ([*range(len(numbers))], [*range(1, len(numbers) + 1)])  # it numbers the columns
    header = bool(numbers) and (count or not row)
    return header, fields, len(re.findall(rb"\r\n|\r|\n", before)) + header


def _axis_and_number(label: str) -> tuple[str | None, int | None]:
    """What a column's name tells: 'x' or 'y', and the last number in it."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", label)
    axes = [match[1] for part in parts if (match := re.fullmatch(r"[pk]?([xy])(?:pos|coords?)?", part.lower()))]
    numbers = [int(part) for part in parts if part.isdigit()]
    return (axes[-1] if axes else None), (numbers[-1] if numbers else None)


def _in_order(labels: list[str]) -> bool:
    """Whether a header names or numbers its columns in the order x0, y0, …, x67, y67."""
    labels = [str(int(number)) if (number := _number(label)) is not None else label for label in labels]
    told = [_axis_and_number(label) for label in labels]
    axes, numbers = "".join(axis or "?" for axis, _ in told), [-1 if number is None else number for _, number in told]
    if numbers[:3] == [-1, -1, 1]:  # x, y, x.1, y.1, …
        numbers[:2] = [0, 0]
    points, first = numbers[::2], numbers[0]
    counted = numbers == list(range(first, first + 2 * NUM_POINTS))
    in_pairs = points == list(range(first, first + NUM_POINTS)) or len(set(points)) < NUM_POINTS  # parts count anew
    named = axes == "xy" * NUM_POINTS and (counted or (points == numbers[1::2] and in_pairs))
    return named or (counted and axes == "?" * 2 * NUM_POINTS)


def _refuse_text(file: str | Path, data: bytes, table: pd.DataFrame, values: np.ndarray) -> None:
    """Raise ValueError for values that are neither a finite number nor missing, and for rows that end early."""
    strange = ~np.isfinite(values)
    if not strange.any():
        return
    lines = [line for line in re.split(rb"[\r\n]+", data) if line.strip()][-len(table) :]
    for row, line in enumerate(lines, 1):
        if (columns := line.count(b",") + 1) < COLUMNS:  # pandas fills it up; commas in a quoted name only add to them
            raise ValueError(
                f"{file}: got {columns} columns in row {row} ({str(table.iloc[row - 1, 0])[:200]!r}), "
                f"expected {COLUMNS} in each"
            )
    for column in np.flatnonzero(strange.any(axis=0)):
        texts = table.iloc[:, column + 1].astype(str).str.strip()
        strange[:, column] &= ~texts.str.lower().isin(MISSING).to_numpy()
    if strange.any():
        row, column = np.argwhere(strange)[0]
        text = str(table.iloc[row, column + 1])
        hint = "" if _number(text) is not None else " (numbers have a point, and the name comes first)"
        raise ValueError(
            f"{file}: got {text[:200]!r} as {'xy'[column % 2]} of point {column // 2} in row {row + 1} "
            f"({str(table.iloc[row, 0])[:200]!r}; {strange.any(axis=1).sum()} such rows), "
            f"expected a finite number{hint}"
        )


# Whether the points can be a face's -----------------------------------------------------------------------------------


def image_sizes(names: Sequence[str], root_dir: str | Path) -> np.ndarray:
    """Width and height of images as they are shown, from their headers: (N, 2), NaN where unreadable."""
    sizes = np.full((len(names), 2), np.nan)
    for i, name in enumerate(names):
        path = Path(root_dir) / name
        try:
            stat = path.stat()
            sizes[i] = _image_size(path, stat.st_mtime_ns, stat.st_size)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue  # whoever reads the image says what is wrong with it
    return sizes


@functools.lru_cache(maxsize=2**14)  # a set is opened several times: for each transform, for each framing
def _image_size(path: Path, modified: int, length: int) -> tuple[int, int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            exif = Image.Image.getexif(image)  # the one of PNG would decode the whole image, in case that more follows
            turned = exif.get(0x0112, 1) in (5, 6, 7, 8)
            return image.size[::-1] if turned else image.size


def face_faults(keypoints: np.ndarray, sizes: np.ndarray) -> dict[int, str]:
    """Find labels that cannot be those of a face in its image.

    Args:
        keypoints: (N, 68, 2) pixels, NaN where missing.
        sizes: (N, 2) width and height of the images, NaN where unknown.

    Returns:
        Row (from 0) → what is wrong, for the rows that are wrong.
    """
    if not len(keypoints):
        return {}
    known = np.isfinite(keypoints).all(axis=2)
    count = known.sum(axis=1)
    faults = {int(i): f"a face with {count[i]} known points" for i in np.flatnonzero(count < FEWEST_POINTS)}
    rows = np.flatnonzero(count >= FEWEST_POINTS)
    given, borders = np.asarray(keypoints, np.float64)[rows], sizes[rows, None] - 1
    whole, known = complete_keypoints(given), known[rows]
    fit = fit_front(given)  # (N, 3, 2)
    centred = np.where(known[..., None], given - np.nanmean(given, axis=1, keepdims=True), 0)
    off = np.where(known[..., None], given - FRONT_FACE @ fit, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        misfit = np.sqrt((off**2).sum(axis=(1, 2)) / (centred**2).sum(axis=(1, 2)))
    size = np.sqrt(np.ptp(whole, axis=1).prod(axis=1))
    # One point far away makes the face's box large: what counts is the box inside the image.
    inside = np.sqrt(np.ptp(np.where(np.isnan(borders), whole, np.clip(whole, 0, borders)), axis=1).prod(axis=1))
    beyond = np.nan_to_num(np.maximum(-given, given - borders).max(axis=2), nan=-np.inf)  # (N, 68) pixels
    for i, row in enumerate(rows.tolist()):
        if size[i] < SMALLEST_FACE:
            faults[row] = f"a face of {size[i]:.2g} pixels"
        elif (far := beyond[i].max()) > max(2, OUTSIDE * inside[i]):
            width, height = sizes[row].astype(int)
            point = int(beyond[i].argmax())
            x, y = given[i, point]
            faults[row] = f"point {point} at ({x:.6g}, {y:.6g}), {far:.0f} pixels outside its image of {width}×{height}"
        elif not misfit[i] < WORST_FIT:
            faults[row] = "points that are not a face's in the order of the scheme"
        elif np.linalg.det(fit[i, :2]) < 0:
            faults[row] = "a mirrored face, with left and right or x and y exchanged,"
        elif fit[i, 1, 1] < 0:
            faults[row] = "a face upside down"
    return faults


def guess_layout(face: np.ndarray, size: np.ndarray) -> str | None:
    """Which other layout would make a face of points that are none: (68, 2) points, width and height of the image."""
    face = np.asarray(face, np.float64)
    others = {
        "y before x": face[:, ::-1],
        "all x before all y": face.reshape(2, NUM_POINTS).T,
        "coordinates from 0 to 1": face * size,
        "coordinates from -1 to 1": (face + 1) / 2 * size,
        "y counted from the bottom": [0, size[1] - 1] + face * [1, -1],
    }
    for name, other in others.items():
        fit = fit_front(other[None])[0]
        if not face_faults(other[None], size[None]) and fit[1, 1] > abs(fit[1, 0]):  # tilted by less than 45°
            return name
    return None


def check_faces(
    names: list[str], keypoints: np.ndarray, file: str | Path, root_dir: str | Path, bad_labels: str = "refuse"
) -> tuple[list[str], np.ndarray]:
    """Check the points of all images that are there, see :func:`face_faults`.

    Args:
        names, keypoints: as :func:`parse_labels` gives them.
        file: what errors call the label file.
        root_dir: the folder of the images.
        bad_labels: 'refuse' them, or 'skip': leave their rows out and tell in a :class:`LabelWarning` how many.

    Returns:
        names and keypoints of the rows that are kept.

    Raises:
        ValueError: "FILE: got POINT AT … in row …", with row (counted from 1) and point (from 0); or no row is left.
    """
    if bad_labels not in ("refuse", "skip"):
        raise ValueError(f"got bad_labels={bad_labels!r}, expected 'refuse' or 'skip'")
    sizes = image_sizes(names, root_dir)
    faults = face_faults(keypoints, sizes)
    if not faults:
        return names, keypoints
    row = min(faults)
    layout = guess_layout(keypoints[row], sizes[row])
    what = f"{faults[row]} in row {row + 1} ({names[row][:200]!r}; {len(faults)} such rows of {len(names)})"
    what += f", which looks like {layout}" if layout else ""
    if bad_labels == "refuse" or len(faults) == len(names):
        hint = "; bad_labels='skip' (--bad-labels skip) leaves such rows out" if len(faults) < len(names) else ""
        expected = "expected the points of an upright face, x0, y0, …, in pixels of its image"
        raise ValueError(f"{file}: got {what}, {expected}{hint}")
    warnings.warn(f"{file}: left out {len(faults)} rows: got {what}", LabelWarning, stacklevel=2)
    kept = [i for i in range(len(names)) if i not in faults]
    return [names[i] for i in kept], keypoints[kept]
