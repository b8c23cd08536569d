"""The facial-keypoint data set: reading, transforms, where the data lies, fetching and verifying it.

Conventions used everywhere in this repository:

* A sample is ``{'image': (H, W, 3) uint8 RGB, 'keypoints': (68, 2) float32}``.
* Keypoints are (x, y) in pixels, origin top left, and an integer coordinate is the *centre* of a pixel, as in OpenCV
  and matplotlib. So scaling by ``s`` maps x to ``(x + 0.5) * s - 0.5``, cropping at column ``left`` to ``x - left``.
* The network sees grey values in [0, 1] and keypoints as ``(pixels - 100) / 50``; such values carry ``_norm`` in
  their name.

Command line: ``python -m data_load fetch`` downloads the official set into ``data/``, ``python -m data_load verify``
checks every labelled image of it.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import numbers
import operator
import os
import re
import shutil
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

MOST_PIXELS = 2**27  # of an image, 400 MB as RGB; telephones take up to 108 million
MOST_BYTES = 2**28  # of a file; 50 million pixels without compression are 150 MB
# More pixels than that must not come in a file of some kilobytes. A black photograph has 64 for a byte, or 85 in grey
# (JPEG's own tables); empty screens have hundreds, but seldom more pixels than 5120×2880.
FREE_PIXELS, PIXELS_A_BYTE = 2**24, 100
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MOST_PIXELS))  # OpenCV looks at it when it is imported

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from torch.utils.data import Dataset  # noqa: E402
from torchvision.transforms import Compose  # noqa: E402

Values = TypeVar("Values", "np.ndarray", "torch.Tensor")
NUM_KEYPOINTS = 68
DATA_DIR = Path(__file__).resolve().parent / "data"
MANIFEST = (
    DATA_DIR / "pixels.csv"
)  # one row for each labelled official image: file, width, height, SHA-1 of its RGB bytes
ARCHIVE_URL = "https://github.com/udacity/P1_Facial_Keypoints/archive/6e55adc6bd032d9fb1ad41a4c3e68aae847cdf81.zip"
IMAGE_SIZE = 224  # pixels a side of what the network sees
LONGEST = 100  # shorter sides in the longer one: with the shorter one made 250, no more than 250×25,000 pixels
KEYPOINT_MEAN, KEYPOINT_STD = (
    100.0,
    50.0,
)  # pixels; the course's constants, near enough to the labels' own in a 224 crop


# Reading --------------------------------------------------------------------------------------------------------------


def read_bytes(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """What a file or a pipe holds, with an end to it: there are files like ``/dev/zero``.

    Raises:
        OSError: the file is missing or can't be read.
        ValueError: "PATH: got more than … bytes, expected a smaller file".
    """
    data = bytearray()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            data += chunk
            if len(data) > most:
                raise ValueError(f"{path}: got more than {most:,} bytes, expected a smaller file")
    return bytes(data)


def read_image(path: str | Path) -> np.ndarray:
    """Read any image file as RGB.

    The content decides, not the name: the official set is PNG named ``.jpg``. Alpha is dropped, grey and palette
    become RGB, 16 bits become 8, and a JPEG turned by its EXIF tag comes upright.

    Returns:
        (H, W, 3) uint8.

    Raises:
        OSError: the file is missing or can't be read.
        ValueError: "PATH: expected an image, got …", or more bytes or pixels than are read.
    """
    return decode_image(read_bytes(path), path)  # not cv2.imread: it fails on non-ASCII paths on Windows


def decode_image(data: bytes, name: str | Path, with_alpha: bool = False, most_pixels: int = MOST_PIXELS) -> np.ndarray:
    """The image that bytes hold, see :func:`read_image`, refused before it takes memory out of proportion to them.

    Args:
        data: the content of a file in any format that OpenCV reads.
        name: what errors call it.
        with_alpha: expect red, green, blue and alpha of 8 bits.

    Returns:
        (H, W, 3) uint8 RGB, or (H, W, 4) uint8 RGBA, not premultiplied.

    Raises:
        ValueError: "NAME: expected an image, got …", or more than ``most_pixels``, or than a file so small can hold.
    """
    pixels, most = _promised_pixels(data), min(most_pixels, max(FREE_PIXELS, PIXELS_A_BYTE * len(data)))
    if pixels > most:
        raise ValueError(
            f"{name}: got an image of {pixels:,} pixels in {len(data):,} bytes, expected at most {most:,} pixels"
        )
    try:
        flags = cv2.IMREAD_UNCHANGED if with_alpha else cv2.IMREAD_COLOR_RGB
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data and _fits(data) else None
    except cv2.error as error:
        if "MAX_IMAGE" in str(error):
            raise ValueError(
                f"{name}: got an image of more pixels than are read, expected at most {MOST_PIXELS:,}"
            ) from None
        image = None
    if image is None:
        # ISO/IEC 23008-12: the brands of pictures coded as HEVC, as telephones write them.
        if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
            raise ValueError(f"{name}: expected an image, got a HEIC file, which OpenCV does not read: save it as JPEG")
        raise ValueError(f"{name}: expected an image, got {len(data)} bytes that do not decode as one")
    if not with_alpha:
        return image
    if image.shape[2:] != (4,) or image.dtype != np.uint8:
        channels = image.shape[2] if image.ndim == 3 else 1
        raise ValueError(
            f"{name}: expected an image with red, green, blue and alpha of 8 bits, "
            f"got {channels} channel{'s' * (channels > 1)} of {8 * image.itemsize} bits"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)


def _promised_pixels(data: bytes) -> int:
    """How many pixels its header says an image has; 0 for formats that hardly compress, or where nothing is said."""

    def number(place: int, length: int, order: Literal["little", "big"] = "little") -> int:
        return int.from_bytes(data[place : place + length], order)

    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return number(16, 4, "big") * number(20, 4, "big")
    if data.startswith(b"\xff\xd8"):  # JPEG: parts, each with its length, up to the frame's header
        place = 2
        while part := re.compile(rb"\xff+([\xc0-\xcf\xda-\xfe])").search(data, place):
            place = part.end()
            if part[1] == b"\xda":
                return 0
            if part[1] < b"\xd0" and part[1] not in b"\xc4\xc8\xcc":
                return number(place + 3, 2, "big") * number(place + 5, 2, "big")
            place += max(2, number(place, 2, "big"))
    if data.startswith(b"GIF8"):
        return number(6, 2) * number(8, 2)
    if data.startswith(b"BM") and number(14, 4) != 12:  # that old header knows no compression
        return number(18, 4) * min(number(22, 4), 2**32 - number(22, 4))  # negative: from the top down
    if data[8:12] == b"WEBP":
        if data[12:16] == b"VP8X":
            return (number(24, 3) + 1) * (number(27, 3) + 1)
        if data[12:16] == b"VP8L":
            return (number(21, 4) % 2**14 + 1) * (number(21, 4) // 2**14 % 2**14 + 1)
        return number(26, 2) % 2**14 * (number(28, 2) % 2**14)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):  # TIFF, and BigTIFF with its wider numbers
        order: Literal["little", "big"] = "little" if data[:1] == b"I" else "big"
        wide, sides = b"+" in data[2:4], {256: 0, 257: 0}
        first, count = (number(8, 8, order), 8) if wide else (number(4, 4, order), 2)
        step, lengths = 20 if wide else 12, {1: 1, 3: 2, 4: 4}
        entries = min(number(first, count, order), 2**16)
        for entry in range(first + count, min(first + count + step * entries, len(data)), step):
            if (tag := number(entry, 2, order)) in sides:
                length = lengths.get(number(entry + 2, 2, order), 8 if wide else 4)
                sides[tag] = number(entry + step - (8 if wide else 4), length, order)
        return sides[256] * sides[257]
    if b"jP  " in data[:12] or data.startswith(b"\xff\x4f"):  # JPEG 2000
        place = data.find(b"\xff\x4f\xff\x51")
        return number(place + 8, 4, "big") * number(place + 12, 4, "big") if place >= 0 else 0
    if data[4:8] == b"ftyp":  # AVIF: the picture's size, and those of its tiles or its preview
        places = [match.end() for match in re.finditer(b"ispe", data[: 2**16])]
        return max((number(place + 4, 4, "big") * number(place + 8, 4, "big") for place in places), default=0)
    return 0


def _fits(data: bytes) -> bool:
    """Whether a PNG file holds as many bytes as its parts promise: OpenCV would set aside up to 4 GB first."""
    place = 8
    while data.startswith(b"\x89PNG\r\n\x1a\n") and place + 8 <= len(data):
        length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        place += 12 + length
        if place > len(data):
            return False
        if kind == b"IEND":
            break
    return True


def _read_table(path: str | Path) -> bytes:
    """A CSV file for pandas, which by a path would unpack archives of any size and fetch addresses."""
    data = read_bytes(path)
    if re.search(rb"(?<![^\r\n])(?:[^,\r\n]*,){1000}", data):  # pandas takes minutes for a million
        raise ValueError(f"{path}: got a row of more than 1,000 columns, expected at most {1 + 2 * NUM_KEYPOINTS}")
    return data


def read_keypoints(csv_file: str | Path) -> tuple[list[str], np.ndarray]:
    """Read a label file in the official layout: the image's name, then x0, y0, …, x67, y67.

    Returns:
        names: N file names.
        keypoints: (N, 68, 2) float32, pixels, (x, y).

    Raises:
        OSError: the file is missing or can't be read.
        ValueError: no rows, a wrong number of columns, or a value that is not a finite number.
    """
    data = _read_table(csv_file)
    try:
        # The header is skipped: with it, pandas takes a row that is too long as one with an index in front.
        table = pd.read_csv(
            io.BytesIO(data), header=None, skiprows=1, dtype={0: str}, keep_default_na=False, na_values={}
        )
    except pd.errors.EmptyDataError:
        raise ValueError(f"{csv_file}: got no rows, expected one for each image") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{csv_file}: expected a CSV file of keypoints, got: {str(error).strip()}") from None
    if table.shape[1] != 1 + 2 * NUM_KEYPOINTS:
        raise ValueError(
            f"{csv_file}: got {table.shape[1]} columns, expected {1 + 2 * NUM_KEYPOINTS}: "
            f"a name, then x and y of {NUM_KEYPOINTS} points"
        )
    name = re.split(rb"[\r\n,]", data, maxsplit=1)[0].decode("utf-8", errors="replace")  # pandas skipped it unread
    if re.match(r".+\.(jpg|jpeg|png)\b", name, re.IGNORECASE):
        raise ValueError(f"{csv_file}: expected a header in the first line, got the image {name[:200]!r}")
    values = table.iloc[:, 1:].apply(pd.to_numeric, errors="coerce").to_numpy(np.float32)
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{csv_file}: got a coordinate that is not a finite number for {table.iloc[bad.argmax(), 0][:200]!r} "
            f"({bad.sum()} such rows)"
        )
    return table.iloc[:, 0].astype(str).tolist(), values.reshape(-1, NUM_KEYPOINTS, 2)


def label_offset(keypoints: np.ndarray) -> np.ndarray:
    """By how much the official set's labels lie to the right of and below what they name, in pixels of the image.

    Those labels are whole numbers, moved by something that grows with the face. The constants were fitted together with
    a network that learnt photographs and rendered heads, labelled without such an offset, beside 2,400 frames of the
    training people: two for each axis were free, and the one that came out near zero was dropped.

    Args:
        keypoints: (N, 68, 2) or (68, 2), pixels.

    Returns:
        (N, 2) or (2,) float32: subtract it from the labels, or add it to keypoints that lie where the features are.
    """
    size = np.sqrt(np.ptp(np.asarray(keypoints, np.float64), axis=-2).prod(axis=-1))  # as in keypoints.metrics
    return np.stack([0.33 + 0.011 * size, np.full_like(size, 0.71)], axis=-1).astype(np.float32)


class FacialKeypointsDataset(Dataset):
    """Images of one face each, with 68 keypoints.

    Args:
        csv_file: labels in the official layout, see :func:`read_keypoints`.
        root_dir: the folder that holds the images.
        transform: takes a sample, returns a sample; usually :func:`training_transform` or :func:`evaluation_transform`.
        cache: keep each image in memory as it is after a leading :class:`Rescale` (and grey, where the transforms turn
            it grey anyway). Samples are the same with and without; the 3,462 training images take about 200 MB, and an
            epoch no longer pays for decoding. Worker processes would each keep a cache of their own and lose it after
            every epoch: load in the main process, which needs no workers any more.

    >>> data = find_data("sample")
    >>> sample = FacialKeypointsDataset(data.csv_file("training"), data.image_dir("training"))[0]
    >>> sample["keypoints"].shape
    (68, 2)
    """

    def __init__(
        self,
        csv_file: str | Path,
        root_dir: str | Path,
        transform: Callable[[dict], dict] | None = None,
        cache: bool = True,
    ) -> None:
        self.csv_file, self.root_dir, self.transform = Path(csv_file), Path(root_dir), transform
        self.names, self.keypoints = read_keypoints(csv_file)
        steps = transform.transforms if isinstance(transform, Compose) else []
        self._first, self._rest = steps[0] if steps else None, steps[1:]
        self._cache: dict[int, dict] | None = {} if cache and isinstance(self._first, Rescale) else None
        crops = [isinstance(step, (RandomCrop, CenterCrop)) for step in steps[1:]]
        after = steps[1:][crops.index(False)] if False in crops else None
        self._grey = isinstance(after, Normalize)  # nothing between Rescale and Normalize looks at colour

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict:
        if self._cache is None or self._first is None:
            return self._apply(self.transform, index) if self.transform else self._read(index)
        if index not in self._cache:
            sample = self._apply(self._first, index)
            if self._grey:
                sample["image"] = cv2.cvtColor(sample["image"], cv2.COLOR_RGB2GRAY)
            self._cache[index] = sample
        sample = {key: value.copy() for key, value in self._cache[index].items()}  # whoever gets it may draw into it
        for step in self._rest:
            sample = step(sample)
        return sample

    def _apply(self, transform: Callable[[dict], dict], index: int) -> dict:
        sample = self._read(index)
        try:
            return transform(sample)
        except ValueError as error:  # a transform knows no file
            raise ValueError(f"{self.root_dir / self.names[index]}: {error}") from error

    def _read(self, index: int) -> dict:
        return {"image": read_image(self.root_dir / self.names[index]), "keypoints": self.keypoints[index].copy()}


# Transforms -----------------------------------------------------------------------------------------------------------


Whole = int | np.integer | float  # a whole number of any type: 250, np.int64(250), 250.0


def _whole(number: Whole) -> int:
    """A whole number of pixels, at least 1, as an int.

    Raises:
        ValueError: "got … as a size, …".
    """
    whole = isinstance(number, numbers.Real) and not isinstance(number, bool) and float(number).is_integer()
    try:
        size = int(number) if whole else operator.index(number)  # what else counts: tensors and arrays of one number
    except (TypeError, ValueError):
        size = 0
    if size < 1 or isinstance(number, bool):
        text = " ".join(repr(number).split())  # an array's has several lines
        raise ValueError(
            f"got {text} as a size, expected a whole number of pixels from 1 on, or height and width as two such"
        )
    return size


def _size(output_size: Whole | Sequence[Whole], square: bool = True) -> int | tuple[int, int]:
    """A pair of whole numbers as (height, width); one number twice, or as it is where ``square`` is False."""
    if np.ndim(output_size) == 1 and len(output_size) == 2:
        return _whole(output_size[0]), _whole(output_size[1])
    side = _whole(output_size)
    return (side, side) if square else side


@dataclass
class Rescale:
    """Resize the image; one whole number is the shorter side (the shape stays), a pair is (height, width).

    Raises:
        ValueError: "got … as a size, …": a size that is no whole number from 1 on.
        ValueError: "got an image of H×W pixels, …": a longer side of more than :data:`LONGEST` shorter ones.
    """

    output_size: Whole | Sequence[Whole]

    def __post_init__(self) -> None:
        self.output_size = _size(self.output_size, square=False)

    def __call__(self, sample: dict) -> dict:
        height, width = sample["image"].shape[:2]
        if isinstance(self.output_size, int):
            if max(height, width) > LONGEST * min(height, width):
                raise ValueError(
                    f"got an image of {height}×{width} pixels, expected a longer side of at most {LONGEST} shorter ones"
                )
            scale = self.output_size / min(height, width)
            new = round(height * scale), round(width * scale)
        else:
            new = self.output_size
        # Averaging over the source pixels keeps fine detail from turning into noise where the image shrinks.
        image = cv2.resize(sample["image"], (min(new[1], width), min(new[0], height)), interpolation=cv2.INTER_AREA)
        image = cv2.resize(image, (new[1], new[0]), interpolation=cv2.INTER_LINEAR)
        factor = np.array([new[1] / width, new[0] / height], np.float32)
        return {**sample, "image": image, "keypoints": (sample["keypoints"] + 0.5) * factor - 0.5}


def _crop(sample: dict, top: int, left: int, size: tuple[int, int]) -> dict:
    image = sample["image"][top : top + size[0], left : left + size[1]]
    return {**sample, "image": image, "keypoints": sample["keypoints"] - np.array([left, top], np.float32)}


def _slack(image: np.ndarray, size: tuple[int, int]) -> tuple[int, int]:
    """How far a crop of this size can move down and to the right; it may be as large as the image."""
    down, right = image.shape[0] - size[0], image.shape[1] - size[1]
    if down < 0 or right < 0:
        raise ValueError(
            f"got an image of {image.shape[0]}×{image.shape[1]} pixels, "
            f"expected at least the crop's {size[0]}×{size[1]}"
        )
    return down, right


@dataclass
class RandomCrop:
    """Cut a random window, each position equally likely; one whole number is a square, a pair is (height, width).

    The draw comes from torch, so ``torch.manual_seed`` fixes it and DataLoader workers differ.
    """

    output_size: Whole | Sequence[Whole]

    def __post_init__(self) -> None:
        self.output_size = _size(self.output_size)

    def __call__(self, sample: dict) -> dict:
        size = self.output_size
        top, left = (int(torch.randint(slack + 1, ())) for slack in _slack(sample["image"], size))
        return _crop(sample, top, left, size)


@dataclass
class CenterCrop:
    """Cut the middle; one whole number is a square, a pair is (height, width). Evaluation is never random."""

    output_size: Whole | Sequence[Whole]

    def __post_init__(self) -> None:
        self.output_size = _size(self.output_size)

    def __call__(self, sample: dict) -> dict:
        size = self.output_size
        top, left = (slack // 2 for slack in _slack(sample["image"], size))
        return _crop(sample, top, left, size)


@dataclass
class Normalize:
    """Grey float32 (H, W) in [0, 1], whatever the dtype that comes in; keypoints become (pixels - 100) / 50.

    uint8 and uint16 are divided by their largest value; floats must lie in [0, 1] already.
    """

    def __call__(self, sample: dict) -> dict:
        image = sample["image"]
        whole = image.dtype in (np.uint8, np.uint16)
        if not whole and not np.issubdtype(image.dtype, np.floating):
            raise ValueError(f"got an image of {image.dtype}, expected uint8, uint16 or float in [0, 1]")
        if image.ndim != 2 and (image.ndim != 3 or image.shape[2] not in (1, 3)):
            raise ValueError(f"got an image of shape {image.shape}, expected (H, W), (H, W, 1) or RGB (H, W, 3)")
        if not whole and not (image.min() >= -1e-3 and image.max() <= 1 + 1e-3):
            raise ValueError(
                f"got a float image with values from {image.min():.4g} to {image.max():.4g}, expected [0, 1]"
            )
        largest = np.iinfo(image.dtype).max if whole else 1
        image = image if whole else image.astype(np.float32)
        if image.ndim == 3:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.shape[2] == 3 else image[:, :, 0]
        image = image.astype(np.float32) / largest
        keypoints = (sample["keypoints"] - KEYPOINT_MEAN) / KEYPOINT_STD
        return {**sample, "image": image, "keypoints": keypoints.astype(np.float32)}

    @staticmethod
    def inverse(keypoints_norm: Values) -> Values:
        """Network units back to pixels of the network's 224×224 input; any shape, array or tensor."""
        return keypoints_norm * KEYPOINT_STD + KEYPOINT_MEAN


class ToTensor:
    """Arrays to tensors: image (H, W) or (H, W, C) → (C, H, W), keypoints (68, 2); values and dtypes stay."""

    def __call__(self, sample: dict) -> dict:
        image = sample["image"]
        image = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
        return {
            **sample,
            "image": torch.from_numpy(np.ascontiguousarray(image)),
            "keypoints": torch.from_numpy(sample["keypoints"]),
        }

    def __repr__(self) -> str:
        return "ToTensor()"


def training_transform() -> Compose:
    """The recipe's four transforms: Rescale 250, RandomCrop 224, Normalize, ToTensor."""
    return Compose([Rescale(250), RandomCrop(IMAGE_SIZE), Normalize(), ToTensor()])


def evaluation_transform() -> Compose:
    """The same with the crop in the middle: the official protocol."""
    return Compose([Rescale(250), CenterCrop(IMAGE_SIZE), Normalize(), ToTensor()])


# Where the data lies --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """One data set on disk, in the official layout: ``training/``, ``test/`` and a CSV file for each."""

    name: str  # 'official' or 'sample'
    root: Path

    def csv_file(self, split: str) -> Path:
        return self.root / f"{split}_frames_keypoints.csv"

    def image_dir(self, split: str) -> Path:
        return self.root / split

    def dataset(
        self, split: str, transform: Callable[[dict], dict] | None = None, cache: bool = True
    ) -> FacialKeypointsDataset:
        """The images of ``split``, 'training' or 'test'."""
        return FacialKeypointsDataset(self.csv_file(split), self.image_dir(split), transform, cache)


def find_data(name: str | None = None, root: str | Path = DATA_DIR) -> Data:
    """The official set where it was fetched, else the embedded sample of rendered heads.

    Args:
        name: 'official' or 'sample'; by default the environment variable ``KEYPOINTS_DATA``, else whichever is there.
        root: the folder ``data/``.

    Raises:
        ValueError: another name.
        FileNotFoundError: the set is missing or misses labelled images: counted, three named.
    """
    root = Path(root)
    name = name or os.environ.get("KEYPOINTS_DATA") or None
    if name not in (None, "official", "sample"):
        raise ValueError(f"got data set {name!r}, expected 'official' or 'sample'")
    official, sample = Data("official", root), Data("sample", root / "sample")
    if name is None:
        name = "official" if all(official.csv_file(split).exists() for split in ("training", "test")) else "sample"
    data = official if name == "official" else sample
    for split in ("training", "test"):
        if not data.csv_file(split).exists():
            hint = (
                "run 'python -m data_load fetch'"
                if name == "official"
                else "restore it with 'git checkout data/sample'"
            )
            raise FileNotFoundError(f"{data.csv_file(split)} is missing: {hint}")
        require_images(read_keypoints(data.csv_file(split))[0], data.image_dir(split))
    return data


def require_images(names: list[str], root_dir: str | Path) -> None:
    """Check that ``root_dir`` holds the images of these names.

    Raises:
        FileNotFoundError: some are missing, or the folder is: counted, three named.
    """
    root_dir = Path(root_dir)
    present = {entry.name for entry in os.scandir(root_dir)} if root_dir.is_dir() else set()
    missing = [name for name in names if name not in present and not (root_dir / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{root_dir}: labelled images are missing: {_count_and_name(missing)}")


def person_of(name: str) -> str:
    """Who is on an image: ``Luis_Fonsi_21.jpg`` → ``Luis_Fonsi``."""
    return Path(name).stem.rsplit("_", 1)[0]


def split_by_person(names: list[str], fraction: float = 0.15, seed: int = 0) -> tuple[list[int], list[int]]:
    """Indices to train on and to validate on, such that nobody is in both.

    Args:
        names: file names; :func:`person_of` tells who is on each.
        fraction: share of the people to hold out, in (0, 1).
        seed: which people; the same seed gives the same people everywhere (SHA-1, no random generator).

    Raises:
        ValueError: fewer than two people.
    """
    people = sorted(
        {person_of(name) for name in names}, key=lambda person: hashlib.sha1(f"{seed}/{person}".encode()).digest()
    )
    if len(people) < 2:
        raise ValueError(f"got images of {len(people)} person, expected at least two people to split by person")
    held_out = set(people[: min(max(1, round(fraction * len(people))), len(people) - 1)])
    inside = [person_of(name) in held_out for name in names]
    return [i for i, held in enumerate(inside) if not held], [i for i, held in enumerate(inside) if held]


# Fetching and verifying the official set ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What :func:`verify` found; files are named ``split/name``, since all test names exist in training too."""

    good: int
    missing: list[str]
    damaged: list[str]
    extra: int

    @property
    def ok(self) -> bool:
        return not self.missing and not self.damaged

    def __str__(self) -> str:
        return (
            f"labelled images: {self.good} good, missing {_count_and_name(self.missing)}, "
            f"damaged {_count_and_name(self.damaged)}; extra files: {self.extra}"
        )


def _count_and_name(files: list[str]) -> str:
    return f"{len(files)}" + (f" ({', '.join(files[:3])}{', …' * (len(files) > 3)})" if files else "")


def verify(root: str | Path = DATA_DIR, manifest: str | Path = MANIFEST) -> Report:
    """Compare the pixels of every labelled image with the manifest. Unlabelled images are extra, which is normal.

    Raises:
        OSError: there is no manifest.
        ValueError: it is something else.
    """
    root, facts = Path(root), _read_manifest(manifest)
    good, missing, damaged = 0, [], []
    for fact in facts.itertuples():
        try:
            image = read_image(root / fact.file)
        except FileNotFoundError:
            missing.append(fact.file)
        except (OSError, ValueError):
            damaged.append(fact.file)
        else:
            same = (
                image.shape[1::-1] == (fact.width, fact.height)
                and hashlib.sha1(image.tobytes()).hexdigest() == fact.sha1_of_rgb_bytes
            )
            good += same
            if not same:
                damaged.append(fact.file)
    known = set(facts.file)
    for split in sorted({file.split("/")[0] for file in known}):  # the labels count as well as the images
        labels = f"{split}_frames_keypoints.csv"
        try:
            names = {f"{split}/{name}" for name in read_keypoints(root / labels)[0]}
        except FileNotFoundError:
            missing.append(labels)
        except ValueError:
            damaged.append(labels)
        else:
            if names != {file for file in known if file.startswith(f"{split}/")}:
                damaged.append(labels)
    extra = sum(
        file.relative_to(root).as_posix() not in known
        for split in ("training", "test")
        for file in (root / split).glob("*")
        if file.is_file()
    )
    return Report(good, missing, damaged, extra)


def _read_manifest(manifest: str | Path) -> pd.DataFrame:
    kinds = {"file": str, "width": int, "height": int, "sha1_of_rgb_bytes": str}
    data = _read_table(manifest)
    try:
        facts = pd.read_csv(io.BytesIO(data), keep_default_na=False)[list(kinds)].astype(kinds)
    except (ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0][:200].strip("\"'")
        raise ValueError(f"{manifest}: expected a table of {', '.join(kinds)}, got: {reason}") from None
    if (facts.file == "").any():
        raise ValueError(f"{manifest}: got a row without a name, expected {', '.join(kinds)} in each")
    return facts


def fetch(url: str = ARCHIVE_URL, root: str | Path = DATA_DIR, manifest: str | Path = MANIFEST) -> Report:
    """Download the official set, unpack it, verify it, and only then move it to its place; the label files come last.

    Until then everything lies in ``root/.fetch``: half a download never looks like a whole one. A second call goes on
    with the archive that is already there; when the set is already whole, nothing is downloaded.

    Raises:
        OSError: the download failed (also when it was cut, after three tries).
        ValueError: the archive is not the expected one; it is deleted, so that the next call downloads afresh.
    """
    import pooch  # only here: nothing else needs the network

    root, work = Path(root), Path(root) / ".fetch"
    if all((root / f"{split}_frames_keypoints.csv").exists() for split in ("training", "test")):
        report = verify(root, manifest)
        if report.ok:
            return report
    source = pooch.create(
        path=work, base_url="", registry={"archive.zip": None}, urls={"archive.zip": url}, retry_if_failed=2
    )
    archive, unpacked = Path(source.fetch("archive.zip", progressbar=sys.stderr.isatty())), work / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        _unpack(archive, unpacked)
        report = verify(unpacked, manifest)
        if not report.ok:
            raise ValueError(f"{url}: the archive does not hold the official set: {report}")
    except ValueError:
        archive.unlink()
        raise
    for file in sorted(unpacked.rglob("*"), key=lambda file: (file.suffix == ".csv", file)):
        if file.is_file():
            target = root / file.relative_to(unpacked)
            target.parent.mkdir(exist_ok=True)
            os.replace(file, target)
    shutil.rmtree(work)
    return report


def _unpack(archive: Path, dest: Path) -> None:
    """Write the archive's ``data/`` folder to ``dest``: labels and images by their pattern, the rest stays out."""
    wanted = re.compile(r"[^/]+/data/((?:training|test)/[^/]+\.jpg|(?:training|test)_frames_keypoints\.csv)")
    try:
        with zipfile.ZipFile(archive) as zip_file:
            for member in zip_file.infolist():
                if ".." in re.split(r"[/\\]", member.filename) or member.filename.startswith(("/", "\\")):
                    raise ValueError(f"{archive}: expected paths inside the archive's folder, got {member.filename!r}")
                match = wanted.fullmatch(member.filename)
                if match:
                    if member.file_size > 20e6:
                        raise ValueError(
                            f"{archive}: {member.filename} has {member.file_size} bytes, expected at most 20 MB"
                        )
                    target = dest / match[1]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(zip_file.read(member))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{archive}: expected a whole ZIP archive, got: {error}") from None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data_load", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("fetch", "download the official data set into data/"),
        ("verify", "check the official data set"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--root", type=Path, default=DATA_DIR, help="where the data set lies (default: data/)")
        command.add_argument("--manifest", type=Path, default=MANIFEST, help="pixel hashes (default: data/pixels.csv)")
    commands.choices["fetch"].add_argument("--url", default=ARCHIVE_URL, help="another place of the archive")
    options = parser.parse_args(arguments)
    try:
        if options.command == "fetch":
            report = fetch(options.url, options.root, options.manifest)
        else:
            report = verify(options.root, options.manifest)
    except KeyboardInterrupt:
        print("interrupted; nothing half-done is left in place, the same command goes on", file=sys.stderr)
        return 130
    except (OSError, ValueError) as error:  # requests' errors are OSErrors
        print(f"data_load {options.command}: {error}", file=sys.stderr)
        return 1
    print(report)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
