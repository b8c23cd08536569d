"""What the Haar cascades find: `python -m training.studies.detector scatter|negatives|found|speed|sample`.

scatter, negatives and found need the official set (`make data`, or --official DIR) and the wild set (KEYPOINTS_WILD, or
--wild DIR).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from data_load import DATA_DIR, Data, find_data, person_of, read_image, read_keypoints
from keypoints.detection import KeypointDetector
from keypoints.detectors import BOX, FaceFinder, HaarDetector, Look, overlap
from keypoints.files import one_sentence, write_atomically, write_json
from keypoints.landmarks import LEFT_EYE, RIGHT_EYE
from training import metrics
from training.framing import face_at
from training.records import versions
from training.splits import WILD_CSV, people_split, require_wild, wild_groups
from training.studies.common import RESULTS, make_parser

NEIGHBOURS = RESULTS / "negatives_neighbours.csv"  # real faces among the boxes, found by eye


@dataclass
class Labelled:
    """Photos with one labelled face each; iterates over name, grey image and keypoints.

    Attributes:
        folder: holds the photos. names: N files. keypoints: (N, 68, 2) pixels.
    """

    folder: Path
    names: list[str]
    keypoints: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for name, points in zip(self.names, self.keypoints, strict=True):
            yield name, cv2.cvtColor(read_image(self.folder / name), cv2.COLOR_RGB2GRAY), points.astype(np.float64)


def wild(folder: Path, part: str) -> Labelled:
    """Return the photos of a part of the wild set."""
    names, keypoints = read_keypoints(folder / WILD_CSV)
    chosen = [i for i, name in enumerate(names) if name in wild_groups(part)]
    return Labelled(folder, [names[i] for i in chosen], keypoints[chosen])


def official(root: Path, part: str, each: int | None = None) -> Labelled:
    """Return frames of the official training set that show people of ``part``, at most ``each`` of a person."""
    data = Data("official", root)
    names, keypoints = read_keypoints(data.csv_file("training"))
    counts: Counter[str] = Counter()
    chosen = []
    for i in people_split(names)[part]:
        counts[person_of(names[i])] += 1
        if each is None or counts[person_of(names[i])] <= each:
            chosen.append(i)
    return Labelled(data.image_dir("training"), [names[i] for i in chosen], keypoints[chosen])


def official_test(root: Path) -> Labelled:
    """Return the official test set."""
    data = Data("official", root)
    return Labelled(data.image_dir("test"), *read_keypoints(data.csv_file("test")))


# Scatter of the boxes -------------------------------------------------------------------------------------------------

COLUMNS = ("dx", "dy", "log_scale", "roll")
QUANTILES = (1, 5, 25, 50, 75, 95, 99)  # percent
TYPICAL = np.array([0, -0.18, 0.16, 0])  # the frontal cascade's box, near enough to tell a hit from a miss
SAME = 0.3  # overlap with the box that would be typical of the face, from which on a box is one of this face


def measure_boxes(boxes: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Measure boxes with roll (N, 5) against the keypoints (68, 2) of a face: (N, 4) of COLUMNS.

    Box and points are first turned back by the box's roll about its centre. dx and dy lead from the centre of the
    keypoints' tight box to that of the box, in sizes of the former (the square root of its area); log_scale is the
    natural logarithm of the box's side over that size; roll is the remaining clockwise slope of the line through the
    eyes, in degrees.
    """
    rows = []
    for box in np.asarray(boxes, np.float64):
        middle, angle = box[:2] + box[2:4] / 2, np.radians(box[4])
        cosine, sine = np.cos(angle), np.sin(angle)
        points = (keypoints + 0.5 - middle) @ np.array([[cosine, -sine], [sine, cosine]])
        size, eyes = metrics.face_size(points), points[LEFT_EYE].mean(axis=0) - points[RIGHT_EYE].mean(axis=0)
        offset = -(points.min(axis=0) + points.max(axis=0)) / 2 / size
        side = np.sqrt(box[2] * box[3])
        rows.append((*offset, np.log(side / size), np.degrees(np.arctan2(eyes[1], eyes[0]))))
    return np.array(rows).reshape(-1, len(COLUMNS))


def box_of(row: np.ndarray) -> np.ndarray:
    """Return the box (1, 4) of a face whose keypoints' box has the size 1 and its centre at the origin."""
    side = np.exp(row[2])
    return np.array([[row[0] - side / 2, row[1] - side / 2, side, side]])


def nearest(boxes: np.ndarray, keypoints: np.ndarray, typical: np.ndarray) -> np.ndarray | None:
    """Return the row of :func:`measure_boxes` of the box that fits the face best; None if no box fits."""
    rows = measure_boxes(boxes, keypoints)
    shared = [overlap(box_of(row), box_of(typical))[0, 0] for row in rows]
    return rows[int(np.argmax(shared))] if shared and max(shared) >= SAME else None


def describe(found: list[np.ndarray], faces: int) -> dict:
    """Return mean, covariance and quantiles of rows of :func:`measure_boxes`."""
    rows = np.array(found)
    return {
        "faces": faces,
        "found": len(rows),
        "mean": rows.mean(axis=0).round(5).tolist(),
        "covariance": np.cov(rows.T).round(6).tolist(),
        "quantiles": {str(q): np.percentile(rows, q, axis=0).round(4).tolist() for q in QUANTILES},
    }


def scatter(options: argparse.Namespace) -> None:
    """Measure where the searches' boxes lie around the faces of the training set."""
    finder = FaceFinder()
    content: dict = {
        "about": "from the keypoints' box to the detector's, see training.studies.detector.measure_boxes",
        "columns": COLUMNS,
        "first": {},
        "further": {},
    }
    sets = {"official": official(options.official, "training"), "wild": wild(options.wild, "training")}
    for name, photos in sets.items():
        first, further = [], []
        for _, grey, keypoints in photos:
            row = nearest(finder.first(grey), keypoints, TYPICAL)
            if row is not None:
                first.append(row)
            else:
                further.append(nearest(finder.further(grey), keypoints, TYPICAL))
        content["first"][name] = describe(first, len(photos))
        content["further"][name] = describe([row for row in further if row is not None], len(further))
        print(f"{name}: first pass {len(first)} of {len(photos)}, further passes tried on {len(further)} more")
    write_json(RESULTS / "detector_scatter.json", content)


# Negatives ------------------------------------------------------------------------------------------------------------

# Everything that any search might ever take for a face: single hits, fine steps, four cascades.
GREEDY = {"scale_factor": 1.1, "min_neighbors": 0}
LOOKS = (
    Look(HaarDetector(**GREEDY)),
    Look(HaarDetector(**GREEDY, cascade="frontalface_alt2")),
    Look(HaarDetector(1.2, 0, cascade="profileface")),  # the slowest
    Look(HaarDetector(1.2, 0, cascade="profileface"), mirrored=True),
)
OFFICIAL_FRAMES = {"training": 2, "validation": 8}  # of a person: frames of one video show the same background


def off_the_face(boxes: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Tell which of (N, 4) boxes show something else than the face.

    Their IoU with the face (the keypoints' box and as much forehead as brings it to a square) is below 0.2, neither
    centre lies in the other, and the network's crop, twice the box, does not show the face either (IoU below 0.25).
    """
    low, high = keypoints.min(axis=0), keypoints.max(axis=0) + 1
    tall = max(high[1] - low[1], 1.2 * (high[0] - low[0]))
    face = np.array([[low[0], high[1] - tall, high[0] - low[0], tall]])
    middle = boxes[:, :2] + boxes[:, 2:BOX] / 2
    among = ((middle > low) & (middle < high)).all(axis=1)
    centroid = keypoints.mean(axis=0)
    holds = ((centroid > boxes[:, :2]) & (centroid < boxes[:, :2] + boxes[:, 2:BOX])).all(axis=1)
    views = np.column_stack([middle - boxes[:, 2:BOX], 2 * boxes[:, 2:BOX]])
    return ~among & ~holds & (overlap(boxes, face)[:, 0] < 0.2) & (overlap(views, face)[:, 0] < 0.25)


def thin(boxes: np.ndarray, threshold: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Keep of boxes on one spot the one that overlaps most others.

    Returns:
        the kept boxes (M, 4), and how many boxes there were on each spot (M,).
    """
    shared = overlap(boxes, boxes)
    left, kept, hits = np.argsort(-(shared > threshold).sum(axis=1), kind="stable"), [], []
    while len(left):
        same = shared[left[0], left] > threshold
        kept.append(left[0])
        hits.append(int(same.sum()))
        left = left[~same]
    return boxes[kept], np.array(hits, int)


def candidates(photos: Labelled) -> list[list]:
    """List boxes off the labelled face: [file, left, top, width, height, hits], in whole pixels."""
    rows = []
    for name, grey, keypoints in photos:
        boxes = np.concatenate([look(grey)[0] for look in LOOKS])[:, :BOX].round()
        boxes = boxes[off_the_face(boxes, keypoints)]
        for box, hits in zip(*thin(boxes), strict=True):
            rows.append([name, *(int(value) for value in box), int(hits)])
    return rows


def negatives(options: argparse.Namespace) -> None:
    """List boxes of the cascades that show no face; training/confidence.py learns from them."""
    known: dict[str, list] = {}
    if NEIGHBOURS.exists():
        with open(NEIGHBOURS, newline="", encoding="utf-8") as file:
            for name, *box in list(csv.reader(file))[1:]:
                known.setdefault(name, []).append([float(value) for value in box])
    content: dict = {
        "columns": ["file", "left", "top", "width", "height", "hits"],
        "about": "hits: how many single hits of the cascades lie on the spot",
    }
    for name, photos in (
        ("wild", {part: wild(options.wild, part) for part in ("training", "validation")}),
        ("official", {part: official(options.official, part, each) for part, each in OFFICIAL_FRAMES.items()}),
    ):
        content[name] = {}
        for part, labelled in photos.items():
            rows = candidates(labelled)
            faces = [is_neighbour(np.array(row[1:5]), np.reshape(known.get(row[0], []), (-1, 4))) for row in rows]
            content[name][part] = [row for row, face in zip(rows, faces, strict=True) if not face]
            print(f"{name} {part}: {len(labelled)} photos, {len(rows)} boxes off the face, {sum(faces)} neighbours")
    text = json.dumps(content, ensure_ascii=False).replace("[[", "[\n[").replace("], [", "],\n[") + "\n"
    write_atomically(RESULTS / "negatives.json", lambda part: part.write_text(text, encoding="utf-8"))


def is_neighbour(box: np.ndarray, faces: np.ndarray) -> bool:
    """Tell whether a box lies on one of the listed faces: its centre inside, or an IoU of at least 0.2."""
    middle = box[:2] + box[2:] / 2
    inside = ((middle > faces[:, :2]) & (middle < faces[:, :2] + faces[:, 2:])).all(axis=1)
    return bool(inside.any() or (overlap(box[None], faces) >= 0.2).any())


# What the searches find, and how fast ---------------------------------------------------------------------------------


def found(options: argparse.Namespace) -> None:
    """Count found faces, and boxes off the labelled face, on the two sets that were not used for tuning.

    found: by the first search that returns any box. found_behind_a_score: by any search, as if a perfect face score
    rejected false alarms and the next search were tried. other_boxes: those of the first search that returns any,
    before a score; neighbours' faces are among them. as_shipped: what KeypointDetector returns, its face score applied.
    """
    content: dict = {}
    detector = KeypointDetector()
    sets = {"wild_validation": wild(options.wild, "validation"), "official_test": official_test(options.official)}
    for name, photos in sets.items():
        finder, figures = FaceFinder(), {"faces": len(photos)}
        counts = dict.fromkeys(("found_in_first_pass", "found", "found_behind_a_score", "other_boxes"), 0)
        shipped = {"found": 0, "other_faces": 0}
        for _, grey, keypoints in photos:
            given, image = False, cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
            faces = [face.keypoints for face in detector(image)]
            boxes = [np.concatenate([points.min(axis=0), np.ptp(points, axis=0)]) for points in faces]
            hit = any(face_at(box, keypoints) is not None for box in boxes)
            shipped["found"] += hit
            shipped["other_faces"] += len(faces) - hit
            for number, search in enumerate(finder.passes(image)):
                boxes = search()
                hit = nearest(boxes, keypoints, TYPICAL) is not None
                if len(boxes) and not given:
                    given = True
                    counts["found"] += hit
                    counts["other_boxes"] += len(boxes) - hit
                counts["found_in_first_pass"] += hit and number == 0
                counts["found_behind_a_score"] += hit
                if hit:
                    break
        figures |= counts | {f"{key}_percent": 100 * counts[key] / len(photos) for key in counts if "found" in key}
        rates = {"found_percent": 100 * shipped["found"] / len(photos)}
        rates |= {"other_faces_an_image": shipped["other_faces"] / len(photos)}
        content[name] = figures | {"as_shipped": shipped | rates}
        print(name, json.dumps(content[name]))
    write_json(RESULTS / "detector_found.json", content)


def speed(options: argparse.Namespace) -> None:
    """Time the searches on 640×480 pixels of a photo in the repository: median milliseconds of one thread."""
    cv2.setNumThreads(1)
    finder, times = FaceFinder(), {}
    astronaut = read_image(DATA_DIR / "photos" / "astronaut.jpg")
    scenes = {
        "one face, found by the first pass": cv2.resize(astronaut[:384], (640, 480)),
        "all passes, whatever they find": cv2.resize(astronaut[250:], (640, 480)),
    }
    for name, image in scenes.items():
        rows = []
        for _ in range(15):
            began = time.thread_time()  # the thread's own time: other programs don't count
            for search in finder.passes(image):
                if len(search()) and "first" in name:
                    break
            rows.append(time.thread_time() - began)
        times[name] = {"ms": round(1000 * float(np.median(rows)), 1)}
        print(name, times[name])
    write_json(RESULTS / "detector_speed.json", {**times, "processor": versions()["processor"]})


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


STUDIES = {"scatter": scatter, "negatives": negatives, "found": found, "speed": speed, "sample": sample}


@one_sentence()
def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("detector", __doc__)
    parser.add_argument("what", choices=STUDIES)
    parser.add_argument("--official", type=Path, default=DATA_DIR, metavar="DIR", help="the official set")
    parser.add_argument("--wild", type=Path, metavar="DIR", help="the wild set")
    options = parser.parse_args(arguments)
    if options.what not in ("speed", "sample"):
        options.wild = require_wild(options.wild)
    STUDIES[options.what](options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
