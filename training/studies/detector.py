"""What the detectors find and cost: `python -m training.studies.detector found|speed|sample`.

`found` needs the official set (`make data`, or --official DIR), the wild set (KEYPOINTS_WILD, or --wild DIR) and, for
groups, --detection DIR with boxes.csv beside its pictures; sets that are missing are left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from data_load import DATA_DIR, Data, find_data, read_image, read_keypoints
from keypoints.detection import KeypointDetector
from keypoints.detectors import HaarDetector, NetworkDetector
from keypoints.files import one_sentence, write_json
from training.detector import face_boxes, held_out_names, read_boxes
from training.framing import face_at
from training.recipe import versions
from training.splits import WILD_CSV, find_wild, wild_groups
from training.studies.common import RESULTS

LONG_SIDE, SMALLEST = 512, 20  # pixels: a face counts from 20 on, with the image's longer side at 512
BINS = ((20, 40), (40, 80), (80, 1000))


def labelled_sets(options: argparse.Namespace) -> Iterator[tuple[str, list[tuple[Path, np.ndarray, np.ndarray]]]]:
    """Sets by name: for each image its path, boxes (M, 4) left, top, right, bottom, and which of them count."""
    if (options.official / "test_frames_keypoints.csv").exists():
        data = Data("official", options.official)
        names, keypoints = read_keypoints(data.csv_file("test"))
        yield "official_test", [_one(data.image_dir("test") / n, k) for n, k in zip(names, keypoints, strict=True)]
    if options.wild is not None:
        names, keypoints = read_keypoints(options.wild / WILD_CSV)
        held = wild_groups("validation")
        faces = [_one(options.wild / n, k) for n, k in zip(names, keypoints, strict=True) if n in held]
        yield "wild_validation", faces
    if options.detection is not None:
        held = held_out_names(options.hard)
        groups = []
        for name, (boxes, _, sources) in read_boxes(options.detection).items():
            if name in held:
                groups.append((options.detection / name, boxes, np.array([s == "drawn" for s in sources])))
        yield "groups_validation", groups


def _one(path: Path, keypoints: np.ndarray) -> tuple[Path, np.ndarray, np.ndarray]:
    return path, face_boxes(keypoints[None]), np.ones(1, bool)


def matches(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Which boxes (M, 4) a face's keypoints (68, 2) may be of, by place and size: (M,) bool."""
    size = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    away = np.abs(points.mean(axis=0) - (boxes[:, :2] + boxes[:, 2:]) / 2)
    ratio = np.sqrt(np.ptp(points, axis=0).prod()) / np.maximum(size, 1)
    return (away < size[:, None] / 2).all(axis=1) & (ratio > 0.4) & (ratio < 1.8)


def found(options: argparse.Namespace) -> None:
    """Count labelled faces that KeypointDetector finds behind each detector, and other faces an image."""
    detectors = {"network": KeypointDetector(), "haar": KeypointDetector(detect="haar")}
    content: dict = {}
    for name, images in labelled_sets(options):
        content[name] = {}
        for kind, detector in detectors.items():
            hits, others = [], 0
            for path, boxes, counted in images:
                image = read_image(path)
                sizes = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)) * LONG_SIDE / max(image.shape[:2])
                free = np.ones(len(boxes), bool)
                for face in sorted(detector(image), key=lambda face: -(face.score or 0)):
                    possible = matches(face.keypoints, boxes)
                    others += not possible.any()
                    if (possible & free).any():
                        free[np.flatnonzero(possible & free)[0]] = False
                hits += [(s, not f) for s, f, c in zip(sizes, free, counted, strict=True) if c and s >= SMALLEST]
            size, hit = np.array(hits, float).T
            figures = {"faces": len(hit), "found": int(hit.sum()), "found_percent": round(100 * hit.mean(), 2)}
            for low, high in BINS:
                inside = (size >= low) & (size < high)
                figures[f"{low}_to_{high}"] = f"{int(hit[inside].sum())}/{int(inside.sum())}"
            content[name][kind] = figures | {"images": len(images), "others_an_image": round(others / len(images), 4)}
            print(name, kind, json.dumps(content[name][kind]), flush=True)
    write_json(RESULTS / "detector_found.json", content)


def speed(options: argparse.Namespace) -> None:
    """Time the detectors on 640×480 pixels with one face: median milliseconds of one thread, in turn."""
    cv2.setNumThreads(1)
    image = cv2.resize(read_image(DATA_DIR / "photos" / "astronaut.jpg")[:384], (640, 480))
    full = NetworkDetector()
    ways = {"haar": HaarDetector(), "network, fast": full.fast(), "network, full": full}
    keypoints = KeypointDetector()
    boxes = keypoints.detect(image)[:1]
    ways["keypoints of one face"] = lambda image: keypoints.keypoints(image, boxes)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(25):
        for name, detect in ways.items():
            began = time.thread_time()  # the thread's own time: other programs don't count
            detect(image)
            times[name].append(1000 * (time.thread_time() - began))
    content: dict = {name: {"ms": round(float(np.median(values)), 2)} for name, values in times.items()}
    print(json.dumps(content))
    write_json(RESULTS / "detector_speed.json", content | {"processor": versions()["processor"]})


def sample(options: argparse.Namespace) -> None:
    """Count how many of the sample's heads the frontal cascade finds, by yaw."""
    data, detect = find_data("sample"), HaarDetector()
    yaw = pd.read_csv(data.root / "attributes.csv", index_col="file")["yaw"].abs()
    hits, false_boxes = {}, 0
    for split in ("training", "test"):
        dataset = data.dataset(split)
        for i, name in enumerate(dataset.names):
            boxes = detect(dataset[i]["image"])
            hits[f"{split}/{name}"] = face_at(boxes, dataset.keypoints[i]) is not None
            false_boxes += len(boxes) - hits[f"{split}/{name}"]
    found, bins = pd.Series(hits)[yaw.index], []
    for low, high in itertools.pairwise((0, 10, 20, 30, 45, 60)):
        inside = (yaw >= low) & (yaw < high)
        bins.append({"from": low, "to": high, "images": int(inside.sum()), "found": float(100 * found[inside].mean())})
    content = {
        "scale_factor": detect.scale_factor,
        "min_neighbors": detect.min_neighbors,
        "images": len(found),
        "found": float(100 * np.mean(found)),
        "found_within_30": float(100 * found[yaw <= 30].mean()),
        "false_boxes": int(false_boxes),
        "bins": bins,
    }
    write_json(RESULTS / "sample_haar.json", content)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.studies.detector", description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=["found", "speed", "sample"])
    parser.add_argument("--official", type=Path, default=DATA_DIR, metavar="DIR", help="the official set")
    parser.add_argument("--wild", type=Path, default=find_wild(), metavar="DIR", help="the wild set")
    parser.add_argument("--detection", type=Path, metavar="DIR", help="photographs of groups, with boxes.csv")
    parser.add_argument("--hard", type=Path, metavar="DIR", help="its attributes.csv names the photographs held out")
    options = parser.parse_args(arguments)
    with one_sentence():
        {"found": found, "speed": speed, "sample": sample}[options.command](options)


if __name__ == "__main__":
    main()
