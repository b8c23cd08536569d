"""Where a model fails: errors by part of the face, yaw, sharpness and size, and pictures of the worst faces."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from data_load import DATA_DIR, IMAGE_SIZE, NUM_KEYPOINTS, FacialKeypointsDataset, find_data, person_of, read_image
from keypoints.detection import KeypointDetector
from keypoints.files import write_atomically
from keypoints.geometry import crop_view
from keypoints.landmarks import REFERENCE_FACE, REGIONS, complete_keypoints
from training import figures, metrics
from training.evaluation import Evaluation, evaluate
from training.weights import DEFAULT_MODEL

# Labels of the official set that we believe wrong, by eye, with a sentence each; they count like all others.
DOUBTFUL_LABELS = DATA_DIR / "doubtful_labels.csv"
YAW_EDGES = (0, 10, 20, 30, 45, 90)  # degrees to either side
CAPTIONS = {
    "part": "The error of each part's points.",
    "yaw": "How far the head is turned to either side, estimated from the labels.",
    "sharpness": "Variance of the Laplacian on the face, in quarters of the faces: low is blurred, dark or flat.",
    "size": "Square root of the area of the labels' box, in quarters of the faces.",
}


@dataclass(frozen=True)
class Bin:
    """Some of the faces of an evaluation, or one part of all of them.

    Attributes:
        by: 'part', 'yaw', 'sharpness' or 'size'.
        label: which: a part's name, or the range with its unit.
        images, found: how many faces.
        nme_box: mean error of the found, of the part where it is one, in percent; None if none was found.
        worst: indices of the found faces with the largest errors, and these errors; the largest first.
    """

    by: str
    label: str
    images: int
    found: int
    nme_box: float | None
    worst: list[tuple[int, float]]


def yaw_of(keypoints: np.ndarray) -> np.ndarray:
    """Estimate the yaw of faces in degrees, (N, 68, 2) pixels → (N,); > 0 where the nose moves to the left.

    The affine camera that maps the reference face onto the points best is replaced by the nearest rotation (scaled
    orthography: Tomasi and Kanade, 1992, https://doi.org/10.1007/BF00129684). On the 750
    heads of the sample, whose true yaw is known, the mean error is 1.5° (3.6° beyond 30°), 95 % are within 4.9°.
    """
    keypoints = np.asarray(keypoints, np.float64)
    reference = REFERENCE_FACE - REFERENCE_FACE.mean(axis=0)
    cameras = np.linalg.pinv(reference) @ (keypoints - keypoints.mean(axis=1, keepdims=True))  # (N, 3, 2)
    left, _, right = np.linalg.svd(cameras, full_matrices=False)
    rows = left @ right  # (N, 3, 2): the picture's x and y axes as the head sees them
    depth = np.cross(rows[..., 0], rows[..., 1])
    return np.degrees(np.arctan2(rows[:, 2, 0], depth[:, 2]))


def sharpness(image: np.ndarray, keypoints: np.ndarray) -> float:
    """Return the variance of the Laplacian on the face, in grey levels squared (Pech-Pacheco et al., 2000,
    https://doi.org/10.1109/ICPR.2000.903548): low where it is blurred, dark or flat.

    The face is first scaled to half of 224 pixels, about its size in the network's input.
    """
    keypoints = complete_keypoints(keypoints)
    size = metrics.face_size(keypoints)
    middle = (keypoints.min(axis=0) + keypoints.max(axis=0)) / 2 + 0.5
    crop, _ = crop_view(image, np.array([*(middle - size), 2 * size]))
    face = slice(IMAGE_SIZE // 4, IMAGE_SIZE - IMAGE_SIZE // 4)
    return float(cv2.Laplacian(crop[face, face], cv2.CV_64F).var())


def conditions(dataset: FacialKeypointsDataset, indices: Sequence[int] | None = None) -> dict[str, np.ndarray]:
    """Measure what may make a face hard: yaw (degrees, either side), sharpness and size.

    Args:
        dataset: without transforms.
        indices: of N faces, all by default. Their images are read.

    Returns:
        yaw, sharpness (see :func:`sharpness`) and size (square root of the box's area, pixels), (N,) each.
    """
    chosen = np.arange(len(dataset)) if indices is None else np.asarray(indices, int)
    keypoints = complete_keypoints(dataset.keypoints[chosen])
    return {
        "yaw": np.abs(yaw_of(keypoints)),
        "sharpness": np.array([sharpness(**dataset[i]) for i in chosen]),
        "size": metrics.face_size(keypoints),
    }


def slices(result: Evaluation, values: dict[str, np.ndarray], each: int = 4) -> list[Bin]:
    """Split an evaluation by part of the face and by conditions.

    Args:
        values: see :func:`conditions`. Yaw is split at :data:`YAW_EDGES`, the others into quarters of the faces.
        each: how many of the worst faces a bin names.
    """
    points = np.full(result.true.shape[:2], np.nan)
    points[result.found] = metrics.point_errors(result.predicted[result.found], result.true[result.found])
    everyone = np.arange(len(points))
    bins = [
        _bin("part", name, everyone, metrics.mean_known(points[:, part]), each)
        for name, part in REGIONS.items()
        if name != "inner 51"
    ]
    errors = metrics.mean_known(points)
    for by, value in values.items():
        edges = np.array(YAW_EDGES) if by == "yaw" else np.unique(np.quantile(value, [0, 0.25, 0.5, 0.75, 1]))
        place = np.clip(np.searchsorted(edges, value, side="right"), 1, max(1, len(edges) - 1)) - 1
        unit = {"yaw": "°", "size": " px"}.get(by, "")
        for i in range(max(1, len(edges) - 1)):
            low, high = edges[i], edges[min(i + 1, len(edges) - 1)]
            bins.append(_bin(by, f"{low:.0f}–{high:.0f}{unit}", everyone[place == i], errors, each))
    return bins


def _bin(by: str, label: str, members: np.ndarray, errors: np.ndarray, each: int) -> Bin:
    found = members[np.isfinite(errors[members])]
    order = found[np.argsort(-errors[found], kind="stable")]
    mean = float(errors[found].mean()) if len(found) else None
    return Bin(by, label, len(members), len(found), mean, [(int(i), float(errors[i])) for i in order[:each]])


def doubtful_labels() -> dict[str, str]:
    """Read the labels of the official set that we believe wrong: ``split/file`` → why."""
    return pd.read_csv(DOUBTFUL_LABELS, index_col="file")["why"].to_dict()


def write_page(folder: str | Path, result: Evaluation, dataset: FacialKeypointsDataset) -> Path:
    """Write ``folder/index.html``: tables by part, yaw, sharpness and size with the worst faces of each bin, the lost
    faces, and which of the labels we believe wrong.

    Args:
        result: of the framing 'haar' or 'box', on all of ``dataset``, which has no transforms.

    Raises:
        ValueError: the result is not of this data set.
    """
    if result.names != dataset.names:
        raise ValueError(f"got an evaluation of {len(result.names)} images, expected one of {len(dataset)}, the same")
    folder, reasons = Path(folder), doubtful_labels()
    keys = [f"{dataset.root_dir.name}/{name}" for name in result.names]
    doubted = [i for i, key in enumerate(keys) if key in reasons]
    bins = slices(result, conditions(dataset))
    lost = np.flatnonzero(~result.found)[:16].tolist()
    folder.mkdir(parents=True, exist_ok=True)
    parts = [f"<h1>The worst of {len(keys)} faces</h1>"]
    parts.append("<p>Dots are predictions, rings the labels; errors are NME_box.</p>")
    with plt.rc_context(figures.STYLE):
        for by in dict.fromkeys(row.by for row in bins):
            rows = [row for row in bins if row.by == by]
            faces = [
                [(f"{by} {row.label}: {error:.1f} %" + "\nlabel doubted" * (i in doubted), i) for i, error in row.worst]
                for row in rows
            ]
            images = {i: dataset[i]["image"] for row in faces for _, i in row}
            _save(figures.show_faces(faces, images, result.predicted, result.true), folder / f"{by}.png")
            table = pd.DataFrame(rows).drop(columns="by")
            table["worst"] = [row.worst[0][1] if row.worst else None for row in rows]
            table["the worst"] = [", ".join(result.names[i] for i, _ in row.worst) for row in rows]
            table = table.rename(columns={"label": "bin", "nme_box": "NME_box, %", "worst": "worst, %"})
            parts.append(f"<h2>By {by}</h2>\n<p>{CAPTIONS[by]}</p>")
            parts.append(table.to_html(index=False, float_format="%.2f", na_rep="", border=0))
            parts.append(f'<img src="{by}.png" alt="the worst faces by {by}">')
        if lost:
            shown, titles = [dataset[i]["image"] for i in lost], [result.names[i] for i in lost]
            _save(figures.show_keypoints(shown, truth=result.true[lost], titles=titles), folder / "lost.png")
            parts.append(f"<h2>Not found: {(~result.found).sum()}</h2>")
            parts.append('<img src="lost.png" alt="faces that were not found">')
    if doubted:
        items = "\n".join(f"<li>{html.escape(f'{keys[i]}: {reasons[keys[i]]}')}</li>" for i in doubted)
        parts.append(f"<h2>Labels we believe wrong</h2>\n<p>They count like all others.</p>\n<ul>\n{items}\n</ul>")
    style = "body{font:16px sans-serif;max-width:70em;margin:auto}img{max-width:100%}td,th{padding:0 1em}"
    page = (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Failures</title><style>{style}</style>\n'
        + "\n".join(parts)
        + "\n</html>\n"
    )
    write_atomically(folder / "index.html", lambda part: part.write_text(page, encoding="utf-8"))
    return folder / "index.html"


def _save(figure: plt.Figure, path: Path) -> None:
    try:
        write_atomically(path, lambda part: figure.savefig(part, format="png"))
    finally:
        plt.close(figure)


def disturbed(image: np.ndarray, box: np.ndarray) -> dict[str, np.ndarray]:
    """Return a photograph (H, W, 3) uint8, made hard in six ways around the face in ``box``, which stays there."""
    left, top, width, height = box.astype(int)
    rng, results = np.random.default_rng(0), {name: image.copy() for name in ("a mask", "half covered")}
    results["a mask"][top + height // 2 : top + height, left : left + width] = (120, 160, 190)
    results["half covered"][top : top + height, left : left + width // 2] = 70
    tiny = cv2.resize(image, None, fx=9 / width, fy=9 / width, interpolation=cv2.INTER_AREA)
    results["9 pixels wide"] = cv2.resize(tiny, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    kernel = np.zeros((width // 3, width // 3), np.float32)
    np.fill_diagonal(kernel, 3 / width)
    results["motion blur"] = cv2.filter2D(image, -1, kernel)
    results["dark and noisy"] = (image * 0.05 + rng.normal(0, 20, image.shape)).clip(0, 255).astype(np.uint8)
    results["eyes covered"] = image.copy()
    results["eyes covered"][top : top + height // 2, left : left + width] = 30
    return results


def draw_failures(path: Path, photographs: Sequence[Path]) -> None:
    """Draw the worst heads of the sample, each of another person, and photographs of one face at their hardest."""
    test_set = find_data("sample").dataset("test")
    result = evaluate(DEFAULT_MODEL, test_set.csv_file, test_set.root_dir, "haar")
    errors = np.full(len(test_set), np.inf)
    errors[result.found] = metrics.nme(result.predicted[result.found], result.true[result.found])
    worst: dict[str, int] = {}  # a person's worst head
    for i in np.argsort(-errors, kind="stable"):
        worst.setdefault(person_of(test_set.names[i]), int(i))
    heads = [
        (test_set[i]["image"], result.predicted[i], result.true[i], f"{errors[i]:.0f} %")
        for i in list(worst.values())[:6]
    ]
    detector = KeypointDetector()
    hard: dict[str, tuple] = {}  # of each way the photograph with the larger error; the untouched one's points are true
    for photograph in photographs:
        image = read_image(photograph)
        true = detector(image)[0]
        for what, changed in disturbed(image, true.box).items():
            points = np.array([face.keypoints for face in detector(changed)]).reshape(-1, NUM_KEYPOINTS, 2)
            off = metrics.nme(points, np.broadcast_to(true.keypoints, points.shape))
            error = off.min() if len(off) else np.inf
            if what not in hard or error > hard[what][0]:
                nearest = points[off.argmin()] if len(off) else None
                title = f"{what}: {error:.0f} %" if len(off) else f"{what}: lost"
                hard[what] = (error, (changed, nearest, true.keypoints, title))
    with plt.rc_context(figures.STYLE):
        figure, axes = plt.subplots(2, 6, figsize=(15, 5.5))
        cells = [*heads, *(cell for _, cell in hard.values())]
        for ax, (image, points, true, title) in zip(axes.flat, cells, strict=True):
            figures.zoom(figures.draw_keypoints(ax, image, points, true, title), true)
        figure.savefig(path, dpi=70, pil_kwargs={"quality": 85})
        plt.close(figure)
