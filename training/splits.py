"""Training, validation and test splits: by person, and for photos in the wild by photo.

``data/splits.json`` lists them: people of the official training set, and photos of the wild set in groups that stay
together. Hyperparameters are chosen on the validation people; the test people are for the final figure only. The file
holds names of files and people, nothing else of either set is in the repository.

Command line: ``python -m training.splits`` writes the file anew, from the official set and the wild one.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from data_load import (
    DATA_DIR,
    Data,
    find_data,
    label_offset,
    person_of,
    read_image,
    read_keypoints,
    require_images,
    split_by_person,
)
from keypoints.files import one_sentence, write_json
from training.metrics import face_size

SPLITS = DATA_DIR / "splits.json"
SHARE = 0.15  # of all people, for validation and for test
WILD_CSV = "wild_keypoints.csv"  # lies beside the photos

# LFPW's photos are in the order of the people that were searched for on the web. The person that was searched for
# recurs in a run of some 70 numbers, often from one sitting. So whole runs are held out: the two (found by eye) that
# hold the most different people. Somebody famous may appear in two runs.
LFPW_VALIDATION = (range(526, 600), range(747, 807))
HELEN_VALIDATION = 0.2  # share of HELEN's photos, in whole groups
# HELEN's photos carry Flickr's numbers, which count uploads: up to here apart they are often of one sitting.
HELEN_SITTING = 1_000_000
# Two photos with at least this similarity stay together. By eye: the 13 pairs from 0.70 to 0.76 are all one photograph
# or one sitting; of the 30 from 0.60 to 0.70 a third is not (dark suits on white walls); of the 48 most similar pairs
# across the split, up to 0.66, none shows one person twice. Two different people of the official set reach 0.62 at
# most, a wild photo and an official image 0.67.
SIMILARITY = 0.7


def read_splits(path: str | Path = SPLITS) -> dict:
    """Read the committed file.

    Returns:
        by_person: training, validation and test, each a list of people (as :func:`data_load.person_of` names them).
        wild: training and validation, each a list of groups, a group a list of file names.

    Raises:
        OSError, ValueError: the file is missing or is no JSON.
    """
    return json.loads(Path(path).read_text(encoding="utf-8"))


def people_split(names: list[str]) -> dict[str, list[int]]:
    """Return indices of the images to train, validate and test on; nobody is in two of them.

    People of the official training set go where ``data/splits.json`` has them. Any other set, the sample or a user's
    own, is drawn by the same rule: 15 % of the people to validate, those of :func:`data_load.split_by_person`, and as
    many of the rest to test.

    Args:
        names: file names; :func:`data_load.person_of` tells who is on each.

    Returns:
        training, validation, test: indices into ``names``.

    Raises:
        ValueError: a set of one's own with fewer than three people.
    """
    people = {person_of(name) for name in names}
    listed = read_splits()["by_person"]
    if people <= {person for part in listed.values() for person in part}:
        part_of = {person: part for part, members in listed.items() for person in members}
    else:
        part_of = draw_people(people)
    indices: dict[str, list[int]] = {"training": [], "validation": [], "test": []}
    for i, name in enumerate(names):
        indices[part_of[person_of(name)]].append(i)
    return indices


def draw_people(people: set[str]) -> dict[str, str]:
    """Draw the split of :func:`people_split`, person → 'training', 'validation' or 'test'; always the same."""
    if len(people) < 3:
        raise ValueError(f"got images of {len(people)} people, expected at least three to train, validate and test")
    names = [f"{person}_0.jpg" for person in sorted(people)]
    rest, validation = split_by_person(names, SHARE, seed=0)
    names_left = [names[i] for i in rest]
    _, test = split_by_person(names_left, SHARE / (1 - SHARE), seed=1)
    part_of = dict.fromkeys(people, "training")
    part_of |= {person_of(names[i]): "validation" for i in validation}
    return part_of | {person_of(names_left[i]): "test" for i in test}


# Photos in the wild ---------------------------------------------------------------------------------------------------


def find_wild(folder: str | Path | None = None) -> Path | None:
    """Return the folder of the wild set, with ``wild_keypoints.csv`` beside the photos; None where there is none.

    Args:
        folder: by default the environment variable ``KEYPOINTS_WILD``, else ``data/wild`` where that is.

    Raises:
        FileNotFoundError: the folder was named, and the labels or labelled photos are missing.
    """
    folder = folder or os.environ.get("KEYPOINTS_WILD") or None
    if folder is None and not (DATA_DIR / "wild" / WILD_CSV).exists():
        return None
    folder = Path(folder or DATA_DIR / "wild")
    if not (folder / WILD_CSV).exists():
        raise FileNotFoundError(f"{folder / WILD_CSV} is missing: expected it beside the photos of the wild set")
    require_images(read_keypoints(folder / WILD_CSV)[0], folder)
    return folder


def wild_groups(part: str = "validation") -> dict[str, int]:
    """Return the wild photos of 'training' or 'validation': file name → number of its group."""
    groups = read_splits()["wild"][part]
    return {name: number for number, group in enumerate(groups) for name in group}


def official_set(folder: Path) -> Data | None:
    """The official set in FOLDER/official, or in ``data/`` itself, where `make data` puts it; None where it is not."""
    if (folder / "official").exists():
        return Data("official", folder / "official")
    own = Data("official", folder)
    return own if folder.resolve() == DATA_DIR and own.csv_file("training").exists() else None


def labelled_faces(folder: Path) -> Iterator[tuple[str, str, Path, np.ndarray]]:
    """List the faces with 68 points that PhotoNet and the face detector learn from.

    Args:
        folder: holds wild/ (photos and their wild_keypoints.csv), official/ (see :func:`official_set`) and rendered/
            (folders of data/sample/render.py), each optional. The sample's heads are always there.

    Yields:
        part ('training', 'validation' or 'test'), kind ('wild', 'frames' or 'rendered'), image file, and keypoints
        (68, 2) float32, pixels, those of the official set without their offset.
    """
    if (folder / "wild").exists():
        held = wild_groups("validation")
        for name, points in zip(*read_keypoints(folder / "wild" / WILD_CSV), strict=True):
            yield "validation" if name in held else "training", "wild", folder / "wild" / name, points
    if data := official_set(folder):
        people = {person: part for part, group in read_splits()["by_person"].items() for person in group}
        names, keypoints = read_keypoints(data.csv_file("training"))
        for name, points in zip(names, keypoints - label_offset(keypoints)[:, None], strict=True):
            yield people.get(person_of(name), "training"), "frames", data.image_dir("training") / name, points
    sample = find_data("sample")
    more = [Data("rendered", path) for path in sorted((folder / "rendered").glob("*"))]
    for data, split in [*((data, "training") for data in (sample, *more)), (sample, "test")]:
        part = "validation" if split == "test" else "training"
        for name, points in zip(*read_keypoints(data.csv_file(split)), strict=True):
            yield part, "rendered", data.image_dir(split) / name, points


def group_wild(names: list[str], similarity: np.ndarray) -> list[list[str]]:
    """Group photos that must stay together: faces of one photo, photos of one sitting, one photograph twice.

    Args:
        names: ``helen_PHOTO_FACE.jpg`` or ``lfpw_image_NUMBER.jpg``.
        similarity: (N, N) of :func:`similarities`.
    """
    photos = sorted((number_of(name), i) for i, name in enumerate(names) if name.startswith("helen"))
    links = [(i, j) for (a, i), (b, j) in itertools.pairwise(photos) if b - a <= HELEN_SITTING]
    links += [(i, j) for i, j in np.argwhere(np.triu(similarity, 1) >= SIMILARITY).tolist()]
    group = np.arange(len(names))
    for i, j in links:
        group[group == group[j]] = group[i]
    return [[names[i] for i in np.flatnonzero(group == number)] for number in dict.fromkeys(group.tolist())]


def draw_wild(groups: list[list[str]]) -> dict[str, list[list[str]]]:
    """Take runs of LFPW and a share of HELEN, in whole groups, for validation; the rest for training."""
    drawn: dict[str, list[list[str]]] = {"training": [], "validation": []}
    left = round(HELEN_VALIDATION * sum(name.startswith("helen") for group in groups for name in group))
    for group in sorted(groups, key=lambda group: hashlib.sha1(f"0/{group[0]}".encode()).digest()):
        from_lfpw = [name for name in group if name.startswith("lfpw")]
        if from_lfpw:
            chosen = all(any(number_of(name) in run for run in LFPW_VALIDATION) for name in from_lfpw)
        else:
            chosen = len(group) <= left
            left -= len(group) * chosen
        drawn["validation" if chosen else "training"].append(group)
    return {part: sorted(members) for part, members in drawn.items()}


def number_of(name: str) -> int:
    """Return the photo's number in a wild file's name: ``helen_PHOTO_FACE.jpg`` or ``lfpw_image_NUMBER.jpg``.

    Raises:
        ValueError: another name.
    """
    match = re.fullmatch(r"helen_(\d+)_\d+\.jpg|lfpw_image_(\d+)\.jpg", name)
    if not match:
        raise ValueError(f"got the file {name!r}, expected helen_PHOTO_FACE.jpg or lfpw_image_NUMBER.jpg")
    return int(match[1] or match[2])


def similarities(features: np.ndarray) -> np.ndarray:
    """Return the similarity of faces, (N, D) of :func:`appearance` → (N, N) from -1 to 1.

    The mean of two correlations, of edges (HOG) and of colours, each after the mean over all faces is subtracted: what
    all faces share, such as dark eyes on a bright face, does not count.
    """
    result = np.zeros((len(features), len(features)), np.float32)
    for part in (features[:, :HOG_SIZE], features[:, HOG_SIZE:]):
        part = part - part.mean(axis=0)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        result += part @ part.T / 2
    return result


_HOG = cv2.HOGDescriptor((64, 64), (16, 16), (8, 8), (8, 8), 9)
HOG_SIZE = _HOG.getDescriptorSize()


def appearance(image: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Describe a face and its surroundings by a vector, (D,) float32.

    The square of 1.9 times the face's size around its box: its edges at 64×64 pixels as histograms of oriented
    gradients (Dalal and Triggs, 2005, https://doi.org/10.1109/CVPR.2005.177), and its colours at 24×24, their mean 0
    and their length 1, so that brightness does not count.
    """
    middle = (keypoints.min(axis=0) + keypoints.max(axis=0)) / 2
    side = 1.9 * face_size(keypoints)

    def cut(pixels: np.ndarray, size: int) -> np.ndarray:
        scale = size / side
        smooth = cv2.GaussianBlur(pixels, (0, 0), max(0.3, 0.3 / scale))  # a small picture must not alias
        turn = np.array([[scale, 0, size / 2 - middle[0] * scale], [0, scale, size / 2 - middle[1] * scale]])
        return cv2.warpAffine(smooth, turn, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    colours = cut(image, 24).astype(np.float32).ravel()
    colours -= colours.mean()
    edges = _HOG.compute(cut(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), 64)).ravel()
    return np.concatenate([edges, colours / max(float(np.linalg.norm(colours)), 1e-6)])


@one_sentence()
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.splits", description="Write data/splits.json.")
    parser.add_argument("--official", type=Path, default=DATA_DIR, metavar="DIR", help="default: data/")
    parser.add_argument("--wild", type=Path, metavar="DIR", help="default: $KEYPOINTS_WILD, else data/wild")
    parser.add_argument("--out", type=Path, default=SPLITS, metavar="FILE", help="default: data/splits.json")
    options = parser.parse_args(arguments)
    folder = find_wild(options.wild)
    if folder is None:
        raise FileNotFoundError("the wild photos are not here: name their folder in KEYPOINTS_WILD or with --wild")
    official = read_keypoints(find_data("official", options.official).csv_file("training"))[0]
    part_of = draw_people({person_of(name) for name in official})
    names, keypoints = read_keypoints(folder / WILD_CSV)
    features = [appearance(read_image(folder / name), face) for name, face in zip(names, keypoints, strict=True)]
    wild = draw_wild(group_wild(names, similarities(np.stack(features))))
    parts = ("training", "validation", "test")
    people = {part: sorted(person for person, where in part_of.items() if where == part) for part in parts}
    write_json(options.out, {"by_person": people, "wild": wild})
    photos = {part: [name for group in groups for name in group] for part, groups in wild.items()}
    for title, split in (("people", people), ("wild photos", photos)):
        print(f"{title}: " + ", ".join(f"{len(members)} {part}" for part, members in split.items()))
    print(f"wild groups: {', '.join(f'{len(groups)} {part}' for part, groups in wild.items())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
