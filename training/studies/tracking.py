"""How steady, true and fast tracking is: `python -m training.studies.tracking` writes tracking.json and tracking.png.

The sample's rendered clip, whose points are known on every frame, as it is and with noise and compression added; and a
real video of one person who talks, where it is at hand, against fresh detections on its frames. The filters' parameters
were chosen on other noise than the figures'.
"""

import itertools
import os
import sys
import time
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.metrics import f1_score

from data_load import DATA_DIR, NUM_KEYPOINTS
from keypoints.detection import KeypointDetector
from keypoints.files import sha256, write_atomically
from keypoints.tracking import LOST, FaceTracker, Smoother, Smoothing
from keypoints.video import Video
from training import figures as plots
from training import metrics
from training.records import peak_memory_mb, versions
from training.studies.common import RESULTS, SHARED, figures_file, make_parser, rounded

CLIP = DATA_DIR / "sample" / "clip.mp4"
NOISE, QUALITY = 8.0, 30  # grey levels (standard deviation) added to each colour, then JPEG's quality
STILL, FAST = 10.0, 50.0  # percent of the face's size a second: a point below the first rests, a head above the other
LAGS = np.arange(-0.5, 2.501, 0.02)  # frames
SEEDS = (0, 2, 3)  # of the noise; the parameters were chosen on 1
# Of the plot: beta and noise of the place, beta of the shape; the rest is as chosen.
GRID = itertools.product((10.0, 20.0, 40.0, 80.0, 160.0, 320.0), (0.0, 0.2, 0.39), (10.0, 25.0, 70.0, 140.0))


def read_clip() -> tuple[list[np.ndarray], pd.DataFrame, np.ndarray]:
    """Read the rendered clip: RGB frames, its table, and the true points (N, 68, 2)."""
    table = pd.read_csv(CLIP.with_suffix(".csv"))
    columns = [f"{axis}{i}" for i in range(NUM_KEYPOINTS) for axis in "xy"]
    return [frame for _, frame in Video(CLIP)], table, table[columns].to_numpy().reshape(-1, NUM_KEYPOINTS, 2)


def spoilt(frames: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """Return the frames with noise and compression added."""
    random, result = np.random.default_rng(seed), []
    for frame in frames:
        noisy = np.clip(frame + random.normal(0, NOISE, frame.shape), 0, 255).astype(np.uint8)
        coded = cv2.imencode(".jpg", noisy[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
        result.append(cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1].copy())
    return result


def one_by_one(detector: KeypointDetector, frames: list[np.ndarray]) -> np.ndarray:
    """Detect each frame's largest face as on a still: (N, 68, 2), NaN where none is found."""
    faces = [detector(frame)[:1] for frame in frames]
    return np.stack([face[0].keypoints if face else np.full((NUM_KEYPOINTS, 2), np.nan) for face in faces])


def followed(
    detector: KeypointDetector, frames: list[np.ndarray], table: pd.DataFrame
) -> tuple[np.ndarray, dict[str, float]]:
    """Track the face without smoothing: its keypoints (N, 68, 2), the filters' input, and how well blinks are told."""
    tracker, found, signals = FaceTracker(detector, smoothing=False), [], np.zeros((len(frames), 2), bool)
    for number, (frame, at) in enumerate(zip(frames, table.time, strict=True)):
        faces = [face for face in tracker(frame, at) if face.state != LOST]
        found.append(faces[0].keypoints if faces else np.full((NUM_KEYPOINTS, 2), np.nan))
        if faces:
            signals[number] = faces[0].blink, faces[0].mouth_open
    return np.stack(found), score(*signals.T, table)


def smoothed(points: np.ndarray, times: np.ndarray, smoothing: Smoothing | None = None) -> np.ndarray:
    """Filter tracked points (N, 68, 2)."""
    smoother = Smoother(smoothing)
    return np.stack([smoother(face, at) for face, at in zip(points, times, strict=True)])


class ClipMetrics:
    """Jitter, error and lag of the clip's points, (N, 68, 2) each.

    Args:
        true: (N, 68, 2) pixels. times: (N,) seconds.
    """

    def __init__(self, true: np.ndarray, times: np.ndarray) -> None:
        self.true, self.step, self.size = true, float(np.diff(times).mean()), float(np.median(metrics.face_size(true)))
        speed = 100 * np.linalg.norm(np.gradient(true, self.step, axis=0), axis=2) / self.size
        rests = speed < STILL
        self.still = rests[:-2] & rests[1:-1] & rests[2:]  # on three frames: an acceleration
        self.fast = speed[:, :36].mean(axis=1) > FAST  # of the head: eyes and mouth left out
        frames = np.arange(len(true))
        self.late = [
            np.stack(
                [[np.interp(frames - lag, frames, column) for column in axis.T] for axis in np.moveaxis(true, 2, 0)]
            )
            for lag in LAGS
        ]

    def jitter(self, points: np.ndarray) -> float:
        """Return the standard deviation of the acceleration of points at rest, percent of the face's size per s²."""
        acceleration = 100 * np.diff(points, 2, axis=0) / self.step**2 / self.size
        return float(np.nanstd(acceleration[self.still]))

    def lag(self, points: np.ndarray) -> float:
        """Return by how many frames the truth must be delayed to fit best while the head moves fast."""
        found = points[self.fast].transpose(2, 1, 0)
        return float(LAGS[np.argmin([np.nanmean((late[..., self.fast] - found) ** 2) for late in self.late])])

    def __call__(self, points: np.ndarray) -> dict:
        error = metrics.nme(points, self.true)
        return {
            "jitter": self.jitter(points),
            "nme_box": float(np.nanmean(error)),
            "lag_frames": self.lag(points),
            "frames": int(np.isfinite(error).sum()),
        }


def rendered(detector: KeypointDetector) -> tuple[dict, list[dict]]:
    """Return the clip's figures, and those of the grid for the plot."""
    frames, table, true = read_clip()
    times, clip = table.time.to_numpy(), ClipMetrics(true, table.time.to_numpy())
    result = {
        "frames": len(frames),
        "still_accelerations": int(clip.still.sum()),
        "fast_frames": int(clip.fast.sum()),
    }
    kinds = {"as it is": [frames], "noise and compression": (spoilt(frames, seed) for seed in SEEDS)}
    for name, takes in kinds.items():
        single, raw, told = [], [], []
        for images in takes:
            single.append(one_by_one(detector, images))
            points, signals = followed(detector, images, table)
            raw.append(points)
            told.append(signals)
        steady = [smoothed(points, times) for points in raw]
        ways = {"frame by frame": single, "followed": raw, "smoothed": steady}
        result[name] = {way: average([clip(points) for points in found]) for way, found in ways.items()}
        base = result[name]["frame by frame"]["jitter"]
        for figures in result[name].values():
            figures["jitter_ratio"] = figures["jitter"] / base
        result[name]["signals"] = average(told)
    grid = []
    for beta, noise, shape_beta in GRID:
        (cutoff, _, d_cutoff, _), (*_, d_shape, shape_noise) = Smoothing().place, Smoothing().shape
        place, shape = (cutoff, beta, d_cutoff, noise), (Smoothing().shape[0], shape_beta, d_shape, shape_noise)
        figures = clip(smoothed(raw[0], times, Smoothing(place, shape)))
        first = clip.jitter(single[0])
        grid.append({"place": place, "shape": shape, "jitter_ratio": figures["jitter"] / first, **figures})
    return result, grid


def average(rows: list[dict]) -> dict:
    """Return the mean of each figure."""
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def score(blink: np.ndarray, mouth: np.ndarray, table: pd.DataFrame) -> dict[str, float]:
    """Score what was told of each frame, (N,) bool each: F1 of blinks as events, and of frames."""
    return {
        "blinks": len(events(table.blink)),
        "blinks_f1": f1_of_events(blink, table.blink.to_numpy()),
        "closed_frames_f1": float(f1_score(table.blink > 0.5, blink)),
        "mouth_open_frames_f1": float(f1_score(table.mouth_open > 0, mouth)),
    }


def events(signal: np.ndarray) -> list[tuple[int, int]]:
    """List where a signal is on: first frame and the one after the last."""
    edges = np.flatnonzero(np.diff(np.r_[0, np.asarray(signal, int), 0]))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def f1_of_events(said: np.ndarray, true: np.ndarray) -> float:
    """Return the F1 score of events; a prediction matches a free true event at most two frames away."""
    left, hits = events(true), 0
    told = events(said)
    for begin, end in told:
        near = [event for event in left if begin - 2 < event[1] and event[0] < end + 2]
        if near:
            left.remove(near[0])
            hits += 1
    return 2 * hits / max(1, len(told) + len(events(true)))


def talking(detector: KeypointDetector, path: Path) -> dict:
    """Track a real video of one person: errors against fresh detections, and speed."""
    tracker, video, errors, ids, took = FaceTracker(detector), Video(path), [], set(), []
    for at, frame in video:
        began = time.perf_counter()
        faces = tracker(frame, at)
        took.append(time.perf_counter() - began)
        ids |= {face.id for face in faces}
        fresh = [face.keypoints for face in detector(frame)]
        tracked = [face.keypoints for face in faces if face.state != LOST]
        pairs = itertools.product(tracked, fresh)
        errors.append(min((float(metrics.nme(one[None], other[None])[0]) for one, other in pairs), default=np.inf))
    return {
        "frames": len(errors),
        "size": list(video.size),
        "tracked": 100 * float((np.array(errors) <= 5).mean()),
        "ids": len(ids),
        "detector_ran_on": 100 * tracker.detections / len(errors),
        "frames_per_second": {"median": 1 / float(np.median(took)), "mean": len(took) / float(np.sum(took))},
        "decoding_ms": 1000 * video.decoding / len(errors),
        "threads": torch.get_num_threads(),
    }


def memory(detector: KeypointDetector, frames: int = 10_000) -> dict:
    """Measure the memory in use after a tenth of so many frames, and after all."""
    clip, tracker, used = read_clip()[0], FaceTracker(detector), []
    there_and_back = [*range(len(clip)), *range(len(clip) - 2, 0, -1)]  # without a cut
    for number in range(frames):
        tracker(clip[there_and_back[number % len(there_and_back)]], number / 25)
        if number + 1 in (frames // 10, frames):
            used.append(resident_mb())
    return {"frames": frames, "mb_after_a_tenth": used[0], "mb": used[1], "ids": tracker.faces}


def resident_mb() -> float:
    """Return the memory of this process in MB; on systems without /proc, its peak."""
    pages = Path("/proc/self/statm")
    if not pages.exists():
        return peak_memory_mb()
    return int(pages.read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def draw(grid: list[dict], chosen: dict, path: Path) -> None:
    """Plot jitter against lag and against error, over the parameters."""
    with plt.rc_context(plots.STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
        for ax, key, label in (
            (axes[0], "lag_frames", "lag on fast moves (frames)"),
            (axes[1], "nme_box", "NME_box (%)"),
        ):
            for noise in sorted({entry["place"][3] for entry in grid}):
                rows = [entry for entry in grid if entry["place"][3] == noise]
                ax.scatter(
                    [r[key] for r in rows], [100 * r["jitter_ratio"] for r in rows], s=12, label=f"noise {noise:g}"
                )
            for way, marker in (("frame by frame", "s"), ("followed", "D"), ("smoothed", "*")):
                ax.scatter(chosen[way][key], 100 * chosen[way]["jitter_ratio"], s=70, marker=marker, label=way,
                           facecolors="none", edgecolors="black")  # fmt: skip
            ax.axhline(35, color="black", linewidth=0.8, linestyle=":")
            ax.set(xlabel=label, ylim=(0, None))
        axes[0].set_ylabel("jitter at rest (% of frame by frame)")
        axes[1].legend(fontsize=8)
        figure.suptitle(
            "The rendered clip with noise and compression: each dot is one choice of parameters", fontsize=10
        )
        write_atomically(path, lambda part: figure.savefig(part, format="png", dpi=90))
        plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("tracking", __doc__, "model", "threads")
    parser.set_defaults(threads=2)
    parser.add_argument("--video", type=Path, default=SHARED / "video" / "talking.mp4")
    parser.add_argument("--memory", type=int, default=10_000, metavar="FRAMES", help="0 leaves memory out")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "tracking.json", metavar="FILE", help="the plot goes beside it"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with figures_file(options.out) as content:
        detector = KeypointDetector(options.model)
        clip, grid = rendered(detector)
        content |= {"sha256": sha256(options.model), "processor": versions()["processor"], "rendered": clip}
        if options.video.is_file():
            content["talking"] = talking(detector, options.video)
        if options.memory:
            content["memory"] = memory(detector, options.memory)
        content["grid"] = grid
        content.update(rounded(content, ".4g"))
        draw(grid, clip["noise and compression"], options.out.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
