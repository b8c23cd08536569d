"""All plots: keypoints on images, grids of samples, curves, learned filters.

A prediction is a filled dot, the truth a hollow ring: they differ in shape, not only in colour. Functions that take
``ax`` draw into it and return it; the others return a figure.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_load import IMAGE_SIZE, NUM_KEYPOINTS
from keypoints import landmarks
from keypoints.drawing import BOX, PREDICTION, head_axes, head_box
from keypoints.expression import EXPRESSIONS, Emotion
from keypoints.files import write_atomically
from keypoints.pose import Pose
from training import metrics

TRUTH = "#27e0ff"  # told apart from a prediction's colour and a box's by colour-blind eyes too
FOR, AGAINST = "#35e06a", "#ff4fd8"  # arrows of movements for and against an expression
ARROWS, STRETCH = 8, 2  # for each movement, at the points that it moves most; longer than it is
STYLE = {
    "figure.dpi": 90,
    "savefig.dpi": 90,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "image.cmap": "gray",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "legend.frameon": False,
    "font.size": 10,
}


def use_style() -> None:
    """Set the style of all figures of this process; in a notebook also keep its file small."""
    plt.rcParams.update(STYLE)
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        # A grid of photographs is six times larger as PNG.
        set_matplotlib_formats("jpeg", pil_kwargs={"quality": 75, "optimize": True})


def draw_image(ax: Axes, image: np.ndarray, title: str = "") -> Axes:
    """Draw an image without axes: (H, W, 3) uint8, (H, W) grey of any dtype, or a tensor (1, H, W)."""
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[0] == 1:
        image = image[0]
    ax.imshow(image, vmin=0, vmax=255 if image.dtype == np.uint8 else None, interpolation="bilinear")
    ax.set_axis_off()
    ax.set_title(title)
    return ax


def zoom(ax: Axes, keypoints: np.ndarray, reach: float = 0.9, lift: float = 0.0) -> Axes:
    """Show the square around a face, (68, 2) pixels.

    Args:
        reach: from its middle to its edges, in longer sides of the points' box.
        lift: by which it lies higher than the points, in the same unit.
    """
    low, high = np.nanmin(keypoints, axis=0), np.nanmax(keypoints, axis=0)
    side = max(high - low)
    x, y = (low + high) / 2 - [0, lift * side]
    ax.set(xlim=(x - reach * side, x + reach * side), ylim=(y + reach * side, y - reach * side))
    return ax


def draw_keypoints(
    ax: Axes,
    image: np.ndarray,
    keypoints: np.ndarray | None = None,
    truth: np.ndarray | None = None,
    title: str = "",
    size: float = 8,
    bones: bool = False,
) -> Axes:
    """Draw an image with predicted keypoints as dots and true ones as rings.

    Args:
        keypoints, truth: (68, 2) pixels, or (N, 68, 2) for several faces.
        size: of a dot, in square points, as matplotlib's ``scatter`` takes it.
        bones: draw lines between the predicted points, too.
    """
    draw_image(ax, image, title)
    if bones and keypoints is not None:
        for face in np.asarray(keypoints).reshape(-1, NUM_KEYPOINTS, 2):
            for bone in landmarks.BONES:
                ax.plot(*face[list(bone)].T, color="white", linewidth=1, zorder=1)
    if truth is not None:
        points = np.asarray(truth).reshape(-1, 2)
        ax.scatter(
            points[:, 0], points[:, 1], s=2.5 * size, facecolors="none", edgecolors=TRUTH, linewidths=0.9, label="truth"
        )
    if keypoints is not None:
        points = np.asarray(keypoints).reshape(-1, 2)
        ax.scatter(points[:, 0], points[:, 1], s=size, color=PREDICTION, linewidths=0, label="prediction", zorder=2)
    return ax


def _grid(number: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``number`` cells of this size in inches, row by row."""
    columns = min(columns, number)
    rows = -(-number // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(columns * width, rows * height), squeeze=False)
    for ax in axes.flat[number:]:
        ax.set_visible(False)
    return figure, list(axes.flat[:number])


def show_keypoints(
    images: Sequence[np.ndarray],
    keypoints: Sequence | None = None,
    truth: Sequence | None = None,
    titles: Sequence[str] | None = None,
    columns: int = 4,
    side: float = 2.6,
    bones: bool = False,
    closer: bool = False,
) -> Figure:
    """Show a grid of images with their keypoints; arguments as in :func:`draw_keypoints`, one of each an image.

    Args:
        side: of a cell, inches.
        closer: show the face alone, by the truth where it is given, and not the whole image.
    """
    figure, axes = _grid(len(images), columns, side, side + 0.25)
    for i, ax in enumerate(axes):
        predicted, true = (None if values is None else values[i] for values in (keypoints, truth))
        draw_keypoints(ax, images[i], predicted, true, "" if titles is None else titles[i], bones=bones)
        around = predicted if true is None else true
        if closer and around is not None:
            zoom(ax, around, reach=0.7, lift=0.05)
    return figure


def show_scheme(face: np.ndarray) -> Figure:
    """Draw the 68-point scheme on a face, (68, 2): each point with its index, each part in its colour.

    The mouth is drawn open: on closed lips the inner points and their numbers lie on each other.
    """
    face = np.array(face)
    opened = np.interp(np.arange(len(face)), [2, 6, 10, 14], [0, 1, 1, 0])  # most at the chin
    opened[[*range(55, 60), *range(65, 68)]] = 1  # both outlines of the lower lip
    face[:, 1] += 0.13 * np.ptp(face[:, 1]) * opened
    figure, ax = plt.subplots(figsize=(6.2, 6.2))
    for bone in landmarks.BONES:
        ax.plot(*face[list(bone)].T, color="#b5b5b5", linewidth=1, zorder=1)
    for name, part in landmarks.PARTS.items():
        ax.scatter(*face[part].T, s=22, label=name, zorder=2)
        for i in range(part.start, part.stop):
            away = face[i] - face[landmarks.MOUTH if i >= 48 else part].mean(axis=0)  # numbers stand outside a part,
            away *= (7, -7) / np.linalg.norm(away).clip(1e-6) * (-1 if i >= 60 else 1)  # those of the inner lip inside
            style = {"textcoords": "offset points", "fontsize": 7, "ha": "center", "va": "center"}
            ax.annotate(str(i), face[i], xytext=away, **style)
    ax.invert_yaxis()
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0.03), ncols=4, fontsize=8)
    return figure


def show_best_median_worst(images: Sequence[np.ndarray], predicted: np.ndarray, truth: np.ndarray) -> Figure:
    """Show faces at fixed ranks of the errors: the best, the median and the worst, equally large.

    Args:
        images: N images (or anything indexed by number); predicted, truth: (N, 68, 2), pixels of them.
    """
    errors = metrics.nme(predicted, truth, "box")
    order, each = np.argsort(errors, kind="stable"), min(4, len(errors))
    first = (len(order) - each) // 2
    kinds = {"best": order[:each], "median": order[first : first + each], "worst": order[-each:][::-1]}
    title = "{} of {}: NME_box {:.1f} %"
    rows = [[(title.format(name, len(order), errors[i]), i) for i in chosen] for name, chosen in kinds.items()]
    return show_faces(rows, images, predicted, truth)


def show_faces(
    rows: Sequence[Sequence[tuple[str, int]]],
    images: Sequence[np.ndarray] | dict[int, np.ndarray],
    predicted: np.ndarray,
    truth: np.ndarray,
) -> Figure:
    """Show rows of faces with a title each, every picture zoomed to the face.

    Args:
        rows: of each face its title and its index into the others.
        images: by index; predicted, truth: (N, 68, 2), pixels of them.
    """
    columns = max(1, *(len(row) for row in rows))
    figure, axes = plt.subplots(len(rows), columns, figsize=(columns * 2.5, len(rows) * 8 / 3), squeeze=False)
    for row, line in zip(rows, axes, strict=True):
        for ax in line:
            ax.set_axis_off()
        for ax, (title, i) in zip(line, row, strict=False):
            zoom(draw_keypoints(ax, images[i], predicted[i], truth[i], title), truth[i], reach=0.7, lift=0.05)
    return figure


def show_curves(history: Sequence[dict], title: str = "") -> Figure:
    """Plot loss and error over the epochs of a record: training solid, validation dash-dotted."""
    values = {key: [entry[key] for entry in history] for key in history[0]}
    validated = "nme_box" in values
    figure, axes = plt.subplots(1, 1 + validated, figsize=(4.4 * (1 + validated), 3), squeeze=False)
    loss, error = axes[0, 0], axes[0, -1]
    epochs, label = values["epoch"], "training (random crops, dropout)"
    loss.plot(epochs, values["training_loss"], "-", marker=".", label=label)
    if validated:
        label = "validation (centre crop, averaged weights)"
        loss.plot(epochs, values["validation_loss"], "-.", marker=".", label=label)
        error.plot(epochs, values["nme_box"], "-.", marker=".", color="C1")
        error.set(xlabel="epoch", ylabel="validation NME_box (%)", ylim=(0, None))
    loss.set(xlabel="epoch", ylabel="SmoothL1 loss", yscale="log")
    loss.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def show_study(runs: dict[str, dict], base: str | None = None, label: str = "") -> Figure:
    """Plot one line a run, the first at the top: its mean error as a dot, the 95 % interval over people as a line.

    Args:
        runs: label → figures with nme_box and interval (low, high or None), percent; nme_box_median, where it is there,
            is a bar.
        base: the label of the run that the others are compared with; drawn filled.
        label: what the labels are, where they do not say it.
    """
    figure, ax = plt.subplots(figsize=(6.4, 0.8 + 0.36 * len(runs)))
    for row, (name, run) in enumerate(runs.items()):
        if run["interval"]:
            ax.plot(run["interval"], (row, row), "-", color="C0", linewidth=1.2)
        ax.plot(run["nme_box"], row, "o", color="C0", markerfacecolor="C0" if name == base else "white")
        if "nme_box_median" in run:
            ax.plot(run["nme_box_median"], row, "|", color="C0", markersize=9, markeredgewidth=2)
        place = {"xytext": (0, 5), "textcoords": "offset points", "ha": "center", "fontsize": 8}
        ax.annotate(f"{run['nme_box']:.2f}", (run["nme_box"], row), **place)
    ax.set_yticks(range(len(runs)), list(runs))
    ax.set(xlabel="NME_box (%) of unseen people", ylabel=label, ylim=(len(runs) - 0.4, -0.8))
    ax.grid(axis="y", visible=False)
    return figure


def show_profile(epochs: dict[str, dict[str, float]], unit: str = "ms an image") -> Figure:
    """Plot where an epoch's time goes: name of the epoch → step → time; one bar an epoch, steps below 1 % together."""
    figure, ax = plt.subplots(figsize=(7.6, 0.9 + 0.5 * len(epochs)))
    names = list(dict.fromkeys(name for steps in epochs.values() for name in steps))
    small = {n for n in names if all(steps.get(n, 0) < 0.01 * sum(steps.values()) for steps in epochs.values())}
    kept = [name for name in names if name not in small]
    left = np.zeros(len(epochs))
    for name in [*kept, f"{len(small)} other steps"]:
        members = small if name not in kept else {name}
        widths = np.array([sum(steps.get(n, 0) for n in members) for steps in epochs.values()])
        ax.barh(range(len(epochs)), widths, left=left, height=0.6, label=name)
        left += widths
    ax.set_yticks(range(len(epochs)), list(epochs))
    ax.set(xlabel=unit, ylim=(len(epochs) - 0.5, -0.5))
    ax.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=5, fontsize=8)
    return figure


def show_ced(errors: dict[str, np.ndarray], limit: float = 10) -> Figure:
    """Plot cumulative error distributions: name → (N,) errors in percent, infinity where no face was found."""
    figure, ax = plt.subplots(figsize=(4.6, 3.2))
    thresholds = np.linspace(0, limit, 200)
    for name, values in errors.items():
        ax.plot(thresholds, metrics.ced(values, thresholds), label=name)
    ax.set(xlabel="NME_box (%)", ylabel="faces with at most this error (%)", xlim=(0, limit), ylim=(0, 101))
    ax.legend()
    return figure


def show_kernels(kernels: np.ndarray) -> Figure:
    """Show convolution kernels (N, h, w) on one symmetric scale: red positive, blue negative, white zero."""
    figure, axes = _grid(len(kernels), 8, 0.95, 1.1)
    for i, ax in enumerate(axes):
        draw_signed(ax, kernels[i], str(i), np.abs(kernels).max())
    return figure


def draw_signed(ax: Axes, values: np.ndarray, title: str = "", limit: float | None = None) -> Axes:
    """Draw numbers around zero, (H, W), on a scale from -limit (blue) over zero (white) to limit (red)."""
    limit = np.abs(values).max() if limit is None else limit
    ax.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    ax.set_axis_off()
    ax.set_title(title)
    return ax


def draw_map(ax: Axes, values: np.ndarray, title: str = "", alpha: float = 1.0) -> Axes:
    """Draw a heatmap of the network, (28, 28), over the 224×224 pixels that it covers."""
    ax.imshow(values, extent=(-0.5, IMAGE_SIZE - 0.5, IMAGE_SIZE - 0.5, -0.5), cmap="magma", alpha=alpha)
    ax.grid(False)
    ax.set_title(title)
    return ax


def draw_boxes(ax: Axes, boxes: np.ndarray, color: str = BOX, label: str | None = None) -> Axes:
    """Draw boxes (N, 4) left, top, width, height as outlines."""
    for i, (left, top, *size) in enumerate(np.asarray(boxes).reshape(-1, 4)):
        style = {"fill": False, "edgecolor": color, "linewidth": 1.8, "label": None if i else label}
        ax.add_patch(plt.Rectangle((left - 0.5, top - 0.5), *size, **style))
    return ax


def draw_pose(ax: Axes, pose: Pose, box: bool = True) -> Axes:
    """Draw the head's axes, from the tip of the nose, and a box around the head, both in perspective.

    Red to the person's left, green up, blue where the nose points. The box's front, around the face, is drawn thick.
    """
    if box:
        for ends, width in head_box(pose):
            ax.plot(*ends.T, color=BOX, linewidth=width, solid_joinstyle="round")
    for ends, colour in head_axes(pose):
        ax.plot(*ends.T, color="white", linewidth=4.4, solid_capstyle="round", alpha=0.8)
        ax.plot(*ends.T, color=colour, linewidth=2.8, solid_capstyle="round")
    return ax


def draw_emotion(
    ax: Axes,
    image: np.ndarray,
    keypoints: np.ndarray,
    pose: Pose,
    emotion: Emotion,
    title: str = "",
    reasons: int = 3,
) -> Axes:
    """Draw an expression with the movements that explain it: arrows on the face, words below it.

    An arrow shows how an action moved the points; green for the expression, magenta against it.

    Args:
        keypoints: (68, 2) pixels; pose, emotion: of the same face. title: what to write before the word.
        reasons: how many to show, the largest effects first.
    """
    points = np.asarray(keypoints)
    unsure = "" if emotion.label == emotion.likeliest else f"{emotion.label}: "
    draw_image(ax, image, f"{title}{unsure}{emotion.likeliest} {100 * emotion.probability:.0f} %")
    ax.scatter(points[:, 0], points[:, 1], s=4, color=PREDICTION, linewidths=0)
    shown = emotion.reasons[:reasons]
    for reason in shown:
        length = np.linalg.norm(reason.movement, axis=1)
        moved = np.argsort(-length, kind="stable")[:ARROWS]
        ahead = pose.points[moved]
        before = ahead - STRETCH * np.hstack([reason.movement[moved], np.zeros((ARROWS, 1))])
        way = pose.project(ahead) - pose.project(before)
        colour = FOR if reason.effect >= 0 else AGAINST
        start = points[moved] - way
        ax.quiver(*start.T, *way.T, color=colour, angles="xy", scale_units="xy", scale=1, width=0.009, zorder=3)
    zoom(ax, points, 0.75)
    ax.text(0.5, -0.02, "\n".join(map(str, shown)), transform=ax.transAxes, ha="center", va="top", fontsize=7.5)
    return ax


def draw_confusion(ax: Axes, confusion: np.ndarray, title: str = "") -> Axes:
    """Draw a confusion matrix: true (row) and predicted (column) expressions, (7, 7) counts; shades are row shares."""
    counts = np.asarray(confusion)
    ax.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    ax.grid(False)
    for row, column in np.argwhere(counts):
        dark = counts[row, column] > 0.5 * counts[row].sum()
        ax.text(column, row, counts[row, column], ha="center", va="center", color="white" if dark else "black")
    places = range(len(EXPRESSIONS))
    ax.set_xticks(places, EXPRESSIONS, rotation=45, ha="right", fontsize=8)
    ax.set_yticks(places, EXPRESSIONS, fontsize=8)
    ax.set(title=title, xlabel="called", ylabel="labelled")
    return ax


def show_expression_curve(times: Sequence[float], emotions: Sequence[Emotion]) -> Figure:
    """Plot the probabilities of the seven expressions over time, in seconds."""
    figure, ax = plt.subplots(figsize=(9, 2.8))
    for number, word in enumerate(EXPRESSIONS):
        ax.plot(times, [emotion.probabilities[word] for emotion in emotions], color=f"C{number}", label=word)
    ax.axhline(emotions[0].threshold, color="#909090", linewidth=0.8, linestyle=":")
    ax.set(xlabel="time (s)", ylabel="probability", ylim=(0, 1))
    ax.legend(ncols=7, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.2))
    return figure


def write_film(path: str | Path, frames: Sequence[np.ndarray], fps: float) -> None:
    """Write RGB uint8 frames of one size as an animated WebP that plays for ever."""
    film = cv2.Animation()
    film.frames = [cv2.cvtColor(frame, cv2.COLOR_RGB2BGR) for frame in frames]
    film.durations = [round(1000 / fps)] * len(frames)
    path = Path(path)
    if path.suffix.lower() != ".webp":
        raise ValueError(f"{path}: expected a name that ends in .webp, got {path.suffix!r}")
    data = cv2.imencodeanimation(path.suffix, film, [cv2.IMWRITE_WEBP_QUALITY, 75])[1]
    write_atomically(path, lambda part: part.write_bytes(data.tobytes()))
