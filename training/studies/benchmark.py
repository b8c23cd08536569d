"""Compare our networks with the baselines on the same images in the same run: `make benchmark` writes the JSON.

Each entry of benchmark_peers.py runs alone in a separate process, first with one thread, then with two. A baseline that
can't run on this machine is left out with a sentence. Figures are those of training.metrics, in pixels of the original
images; of several faces in an image the one counts as in training.evaluation: the nearest whose points' box holds the
true centroid. Every tool has its own idea of where a point lies, so each entry is measured twice: as it is, and
``fitted``, with the median offset of each point, fitted on the same training images for all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from data_load import Data, FacialKeypointsDataset, find_data, person_of
from keypoints.files import sha256
from keypoints.landmarks import EYE_CORNERS
from training import metrics
from training.evaluation import at_use
from training.framing import nearest_face
from training.records import versions
from training.studies import report
from training.studies.benchmark_peers import PEERS, WARM_UP
from training.studies.common import BUILD, RESULTS, figures_file, make_parser
from training.weights import MODEL_DIR

CALIBRATION_IMAGES = 400


class LeftOut(Exception):
    """A baseline can't be measured here; the text says why."""


def prepare(path: Path, dataset: FacialKeypointsDataset, chosen: Sequence[int]) -> np.ndarray:
    """Write decoded images into the file that all entries read; return their keypoints, (N, 68, 2) float64."""
    true = dataset.keypoints[chosen].astype(np.float64)
    boxes = np.concatenate([true.min(axis=1), np.ptp(true, axis=1)], axis=1)
    images = {f"image_{turn}": dataset[int(index)]["image"] for turn, index in enumerate(chosen)}
    np.savez(path, boxes=boxes, **images)
    return true


def run_peer(name: str, images: Path, threads: int, interpreter: Path) -> dict:
    """Measure one entry in a separate process: what benchmark_peers.measure returns, and ``versions``.

    Raises:
        LeftOut: its interpreter or a package is missing, or it failed.
    """
    out = images.with_name("out.npz")
    command = [str(interpreter), "-m", "training.studies.benchmark_peers", name, str(images), str(out), str(threads)]
    # OpenMP and the BLAS libraries read their number of threads once, at the start.
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    try:
        process = subprocess.run(
            command,
            cwd=RESULTS.parent,
            env=os.environ | limits,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        raise LeftOut(f"{interpreter}: {error.strerror}; 'make benchmark' sets it up") from None
    if process.returncode:
        said = process.stderr.strip().splitlines() or [f"exit status {process.returncode}"]
        raise LeftOut(f"its process failed: {said[-1]}")
    with np.load(out) as content:
        return {**content, "versions": json.loads(str(content["versions"]))}


def predictions(result: dict, true: np.ndarray, detects: bool) -> np.ndarray:
    """Choose one face an image from a result: (N, 68, 2), NaN where it found none or another one."""
    predicted = np.full_like(true, np.nan)
    for i in range(len(true)):
        faces = result["points"][result["image"] == i]
        chosen = nearest_face(faces, true[i]) if detects else 0
        if chosen is not None:
            predicted[i] = faces[chosen]
    return predicted


def eye_distance(points: np.ndarray) -> np.ndarray:
    """Return the distance of the outer eye corners, (N, 68, 2) → (N, 1, 1), NaN where there are no points."""
    return np.linalg.norm(points[:, EYE_CORNERS[1]] - points[:, EYE_CORNERS[0]], axis=1)[:, None, None]


def fit_offsets(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the median offset from predictions to labels, (68, 2), in predicted eye distances."""
    return np.nanmedian((true - predicted) / eye_distance(predicted), axis=0)


def apply_offsets(predicted: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Move predictions (N, 68, 2) by the offsets of :func:`fit_offsets`."""
    return predicted + offsets * eye_distance(predicted)


def benchmark(data: Data, interpreter: Path, models: Sequence[Path], threads: Sequence[int] = (1, 2)) -> dict:
    """Measure all entries on a test set; return the content of results/benchmark.json.

    Args:
        interpreter: the Python that has the baselines' packages; this one measures our networks.
        models: weights files of ours, each measured by the centre crop and behind its detector.
        threads: the figures come from the run with the first number; times from each.

    Raises:
        ValueError: one of our own networks can't be measured.
    """
    with tempfile.TemporaryDirectory() as name:
        images, training = Path(name) / "test.npz", Path(name) / "training.npz"
        test_set, training_set = data.dataset("test"), data.dataset("training")
        true = prepare(images, test_set, range(len(test_set)))
        count = min(CALIBRATION_IMAGES, len(training_set))
        chosen = np.random.default_rng(1).choice(len(training_set), count, replace=False)
        record = {
            "data": data.name,
            "images": len(test_set),
            "calibration_images": count,
            "warm_up_images": min(WARM_UP, len(test_set)),
            "weights": {model.name: sha256(model) for model in models},
            "hardware": {key: versions()[key] for key in ("processor", "system")} | {"cores": os.cpu_count()},
            "threads": list(threads),
            "rows": [],
            "left_out": {},
        }
        who = [person_of(name) for name in test_set.names]
        ours = {key: kind for key, kind in PEERS.items() if kind.ours}
        on_features = [model for model in models if not isinstance(at_use(model), nn.Module)]
        peers = [
            (f"{key}:{model}", kind, f"{model.stem}, {kind.title}")
            for model in models
            for key, kind in ours.items()
            if kind.detect or model not in on_features
        ]
        peers += [(key, kind, kind.title) for key, kind in PEERS.items() if not kind.ours]
        known = prepare(training, training_set, chosen)
        for peer, kind, title in peers:
            python = Path(sys.executable) if kind.ours else interpreter
            try:
                results = [_run(peer, images, number, python) for number in threads]
                predicted = predictions(results[0], true, bool(kind.detect))
                calibration = predictions(_run(peer, training, threads[0], python), known, bool(kind.detect))
                moved = apply_offsets(predicted, fit_offsets(calibration, known))
                row = {"title": title, "ours": kind.ours, "versions": results[0]["versions"]}
                row |= metrics.summary(predicted, true, people=who)
                row |= {"fitted": metrics.summary(moved, true, people=who)}
                row |= {key: _medians(results, key, threads) for key in ("detector_ms", "keypoints_ms")}
                record["rows"].append(row)
            except LeftOut as reason:
                if kind.ours:
                    raise ValueError(f"{title}: {reason}") from None
                print(f"left out: {title}: {reason}", flush=True)
                record["left_out"][title] = str(reason)
    return record


def _run(peer: str, images: Path, threads: int, interpreter: Path) -> dict:
    began = time.perf_counter()
    result = run_peer(peer, images, threads, interpreter)
    seconds = time.perf_counter() - began
    print(f"{peer.split(':')[0]}, {images.stem} images, threads: {threads}: {seconds:.0f} s", flush=True)
    return result


def _medians(results: list[dict], key: str, threads: Sequence[int]) -> dict | None:
    """Return median milliseconds by the number of threads, as strings (JSON's keys); None where nothing was timed."""
    if not all(len(result[key]) for result in results):
        return None
    return {str(n): round(float(np.median(result[key])), 3) for n, result in zip(threads, results, strict=True)}


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("benchmark", __doc__)
    parser.add_argument("--python", type=Path, required=True, help="the interpreter that has the baselines' packages")
    options = parser.parse_args(arguments)
    data = find_data()
    hint = " of rendered heads; 'make data' fetches the official set" if data.name == "sample" else ""
    print(f"data: {data.name}{hint}", flush=True)
    # The committed file, and with it the README's table, is only ever of the official set.
    out = RESULTS / "benchmark.json" if data.name == "official" else BUILD / "benchmark_sample.json"
    with figures_file(out) as content:
        # absolute, not resolve: through its link, an environment's interpreter would no longer know its packages
        models = sorted(MODEL_DIR.glob("keypoints_model_*.safetensors"))
        content |= benchmark(data, options.python.absolute(), models)
        print(report.benchmark_table(content))
    return 0


if __name__ == "__main__":
    sys.exit(main())
