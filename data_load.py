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
from typing import Any, TypeVar, cast

# PyTorch's threads sleep while they wait for each other. By default they spin, and beside another program that computes
# each of their steps then waits for a thread that has no core. Has to be set before PyTorch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset
from torchvision.transforms import Compose

from keypoints.images import decode_image, read_bytes, read_image  # noqa: F401  names that callers know
from keypoints.labels import check_faces, parse_labels
from keypoints.landmarks import IMAGE_SIZE, KEYPOINT_MEAN, KEYPOINT_STD, NUM_KEYPOINTS, complete_keypoints

Values = TypeVar("Values", "np.ndarray", "torch.Tensor")
DATA_DIR = Path(__file__).resolve().parent / "data"
MANIFEST = (
    DATA_DIR / "pixels.csv"
)  # one row for each labelled official image: file, width, height, SHA-1 of its RGB bytes; and for each label file
ARCHIVE_URL = "https://github.com/udacity/P1_Facial_Keypoints/archive/6e55adc6bd032d9fb1ad41a4c3e68aae847cdf81.zip"
LONGEST = 100  # shorter sides in the longer one: with the shorter one made 250, no more than 250×25,000 pixels


# Reading labels -------------------------------------------------------------------------------------------------------


def _read_table(path: str | Path) -> bytes:
    """A CSV file for pandas, which by a path would unpack archives of any size and fetch addresses."""
    data = read_bytes(path)
    if re.search(rb"(?<![^\r\n])(?:[^,\r\n]*,){1000}", data):  # pandas takes minutes for a million
        raise ValueError(f"{path}: got a row of more than 1,000 columns, expected at most {1 + 2 * NUM_KEYPOINTS}")
    return data


def read_keypoints(
    csv_file: str | Path,
    root_dir: str | Path | None = None,
    missing: str = "refuse",
    bad_labels: str = "refuse",
) -> tuple[list[str], np.ndarray]:
    """Read a label file in the official layout: the image's name, then x0, y0, …, x67, y67.

    Args:
        csv_file: see :func:`keypoints.labels.parse_labels`.
        root_dir: the folder of the images. Where it is given, the points are checked: whether they lie in their image,
            and are those of an upright face (see :func:`keypoints.labels.face_faults`). Images that are not there are
            :func:`require_images`'s business.
        missing: 'refuse' missing points (empty, NaN, a pair of -1), or 'mask' them: NaN in ``keypoints``.
        bad_labels: 'refuse' points that the check finds wrong, or 'skip' their rows with a
            :class:`keypoints.labels.LabelWarning` that counts them.

    Returns:
        names: N file names.
        keypoints: (N, 68, 2) float32, pixels, (x, y).

    Raises:
        OSError: the file is missing or can't be read.
        ValueError: no rows, another layout, a value that is no finite number, missing points or wrong ones.
    """
    names, keypoints = parse_labels(_read_table(csv_file), csv_file, missing)
    return (names, keypoints) if root_dir is None else check_faces(names, keypoints, csv_file, root_dir, bad_labels)


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
    size = np.sqrt(np.ptp(np.asarray(keypoints, np.float64), axis=-2).prod(axis=-1))  # as in training.metrics
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
        missing, bad_labels: what to do with missing points and with wrong ones, see :func:`read_keypoints`. Masked
            points are NaN in ``keypoints``; :func:`training.recipe.fit` learns from the others.

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
        missing: str = "refuse",
        bad_labels: str = "refuse",
    ) -> None:
        self.csv_file, self.root_dir, self.transform = Path(csv_file), Path(root_dir), transform
        self.names, self.keypoints = read_keypoints(csv_file, root_dir, missing, bad_labels)
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


def with_all_points(sample: dict) -> dict:
    """Estimate missing keypoints (:func:`keypoints.landmarks.complete_keypoints`), where the face's box is needed."""
    return {**sample, "keypoints": complete_keypoints(sample["keypoints"])}


Whole = int | np.integer


def _whole(number: Any) -> int:
    """A whole number of pixels of any type, at least 1, as an int.

    Raises:
        ValueError: "got … as a size, …".
    """
    try:
        size = operator.index(number)
    except TypeError:
        size = 0
    if size < 1 or isinstance(number, bool):
        text = " ".join(repr(number).split())  # an array's has several lines
        raise ValueError(
            f"got {text} as a size, expected a whole number of pixels from 1 on, or height and width as two such"
        )
    return size


def _size(output_size: Any, square: bool = True) -> int | tuple[int, int]:
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
            new = cast(tuple[int, int], self.output_size)
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
        size = cast(tuple[int, int], self.output_size)
        top, left = (int(torch.randint(slack + 1, ())) for slack in _slack(sample["image"], size))
        return _crop(sample, top, left, size)


@dataclass
class CenterCrop:
    """Cut the middle; one whole number is a square, a pair is (height, width). Evaluation is never random."""

    output_size: Whole | Sequence[Whole]

    def __post_init__(self) -> None:
        self.output_size = _size(self.output_size)

    def __call__(self, sample: dict) -> dict:
        size = cast(tuple[int, int], self.output_size)
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

    def attributes(self, split: str) -> pd.DataFrame:
        """What else is known of each labelled head of a rendered set, in the labels' order."""
        names = read_keypoints(self.csv_file(split))[0]
        return pd.read_csv(self.root / "attributes.csv", index_col="file").loc[[f"{split}/{name}" for name in names]]


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
    """Compare the pixels of every labelled image, and the labels, with the manifest. Unlabelled images are extra, which
    is normal.

    The manifest's rows of label files hold the number of values and of images, and :func:`label_digest`. Without such a
    row the labels must name the images and be plausible, see :func:`read_keypoints`.

    Raises:
        OSError: there is no manifest.
        ValueError: it is something else.
    """
    root, facts = Path(root), _read_manifest(manifest)
    of_labels = facts.file.str.endswith(".csv")
    digests = dict(zip(facts.file[of_labels], facts.sha1_of_rgb_bytes[of_labels], strict=True))
    facts = facts[~of_labels]
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
            listed, keypoints = read_keypoints(root / labels, root / split)
        except FileNotFoundError:
            missing.append(labels)
        except ValueError:
            damaged.append(labels)
        else:
            same = {f"{split}/{name}" for name in listed} == {file for file in known if file.startswith(f"{split}/")}
            digest = label_digest(listed, keypoints)
            if not same or digests.get(labels, digest) != digest:
                damaged.append(labels)
    extra = sum(
        file.relative_to(root).as_posix() not in known
        for split in ("training", "test")
        for file in (root / split).glob("*")
        if file.is_file()
    )
    return Report(good, missing, damaged, extra)


def label_digest(names: list[str], keypoints: np.ndarray) -> str:
    """SHA-1 of the names, a line each, and of the coordinates as little-endian float32: however they are written."""
    text = "".join(f"{name}\n" for name in names)
    return hashlib.sha1(text.encode() + keypoints.astype("<f4").tobytes()).hexdigest()


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
            from keypoints.files import lock  # keypoints itself imports this module

            with lock(options.root / "fetch"):  # another fetch would remove what this one unpacks
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
