"""Many callers: thousands of photos from several threads of several processes, the same answers and no leak.

python tests/soak/calls.py --calls 20000        # writes what it found into results/soak.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

PROCESSES, THREADS = 4, 8
MOST_GROWN = 60  # MB, of each process: one that leaks a picture each call grows by thousands
WARM_UP = 0.2  # of the calls, and at least 64: until then memory may grow, as each thread gets classifiers of its own


def callers(calls: int, threads: int) -> dict:
    """Call one detector from several threads: how many answers differ from the first, and how memory grew."""
    import cv2
    import torch

    from data_load import DATA_DIR, find_data, read_image
    from keypoints.detection import KeypointDetector
    from training.studies.tracking import resident_mb

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    detector, sample = KeypointDetector(), find_data("sample").dataset("test")
    astronaut = read_image(DATA_DIR / "photos" / "astronaut.jpg")
    matrix = cv2.getRotationMatrix2D((222, 115), 35, 1)
    tilted = cv2.warpAffine(astronaut, matrix, astronaut.shape[1::-1])
    nobody = astronaut[350:, :160].copy()  # found in none
    images = [astronaut, tilted, nobody, *(sample[i]["image"] for i in range(5))]

    def answer(image: np.ndarray) -> list:
        """All that there is to know of an image's faces."""
        faces = detector(image)
        return [
            (face.box.tolist(), face.keypoints.tolist(), face.score, face.pose.yaw, face.emotion.label)
            for face in faces
        ]

    expected = [answer(image) for image in images]
    if not expected[0] or not expected[1] or expected[2]:
        raise RuntimeError(f"got {[len(faces) for faces in expected]} faces, expected some, some and none at first")

    def call(number: int) -> bool:
        which = number % len(images)
        return answer(images[which]) == expected[which]

    warm = max(64, int(calls * WARM_UP))
    with ThreadPoolExecutor(threads) as pool:
        wrong = sum(not same for same in pool.map(call, range(warm)))
        before = resident_mb()
        wrong += sum(not same for same in pool.map(call, range(warm, calls)))
    return {"wrong": wrong, "grown_mb": resident_mb() - before, "answers": expected}


def run(calls: int, processes: int = PROCESSES, threads: int = THREADS) -> dict:
    """As many calls in all; processes start afresh, as on Windows and macOS."""
    began = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        found = pool.starmap(callers, [(calls // processes, threads)] * processes)
    return {
        "calls": calls,
        "processes": processes,
        "threads": threads,
        "wrong": sum(one["wrong"] for one in found),
        "processes_agree": all(one["answers"] == found[0]["answers"] for one in found),
        "grown_mb": round(max(one["grown_mb"] for one in found), 1),
        "seconds": round(time.perf_counter() - began, 1),
    }


def main() -> int:
    from fuzz import keep

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "soak.json")
    options = parser.parse_args()
    result = run(options.calls)
    print(json.dumps(result), flush=True)
    keep(options.out, "calls", result)
    return int(result["wrong"] > 0 or not result["processes_agree"] or result["grown_mb"] > MOST_GROWN)


if __name__ == "__main__":
    sys.exit(main())
