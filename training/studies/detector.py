"""What the Haar cascades give: `python -m training.studies.detector scatter|negatives|found|speed`.

All but speed need the official set (`make data`, or --official DIR) and the wild set (KEYPOINTS_WILD, or --wild DIR).
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path

import cv2
import numpy as np

from data_load import DATA_DIR, Data, person_of, read_image, read_keypoints
from keypoints.detection import KeypointDetector, face_at
from keypoints.detectors import BOX, FaceFinder, HaarDetector, Look, overlap
from keypoints.files import check_writable, one_sentence, write_atomically, write_json
from keypoints.landmarks import LEFT_EYE, RIGHT_EYE
from training import metrics
from training.recipe import versions
from training.splits import WILD_CSV, find_wild, people_split, wild_groups

RESULTS = Path(__file__).resolve().parents[2] / "results"
NEIGHBOURS = RESULTS / "negatives_neighbours.csv"  # real faces among the boxes, found by eye


class Labelled:
    """Photos of one of the two sets, each with its labelled face: iterates over name, grey image, keypoints."""

    def __init__(self, folder: Path, names: list[str], keypoints: np.ndarray) -> None:
        self.folder, self.names, self.keypoints = folder, names, keypoints

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self):
        for name, points in zip(self.names, self.keypoints, strict=True):
            yield name, cv2.cvtColor(read_image(self.folder / name), cv2.COLOR_RGB2GRAY), points.astype(np.float64)


def wild(folder: Path, part: str) -> Labelled:
    names, keypoints = read_keypoints(folder / WILD_CSV)
    chosen = [i for i, name in enumerate(names) if name in wild_groups(part)]
    return Labelled(folder, [names[i] for i in chosen], keypoints[chosen])


def official(root: Path, part: str, each: int | None = None) -> Labelled:
    """Frames of the official training set that show people of ``part``; ``each``: at most so many of a person."""
    data = Data("official", root)
    names, keypoints = read_keypoints(data.csv_file("training"))
    seen: dict[str, int] = {}
    chosen = []
    for i in people_split(names)[part]:
        seen[person_of(names[i])] = seen.get(person_of(names[i]), 0) + 1
        if each is None or seen[person_of(names[i])] <= each:
            chosen.append(i)
    return Labelled(data.image_dir("training"), [names[i] for i in chosen], keypoints[chosen])


# Scatter of the boxes -------------------------------------------------------------------------------------------------

COLUMNS = ("dx", "dy", "log_scale", "roll")
QUANTILES = (1, 5, 25, 50, 75, 95, 99)  # percent
TYPICAL = np.array([0, -0.18, 0.16, 0])  # the frontal cascade's box, near enough to tell a hit from a miss
SAME = 0.3  # overlap with the box that would be typical of the face, from which on a box is one of this face


def measure_boxes(boxes: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """How boxes lie to the face whose points are known: (N, 5) boxes with roll, (68, 2) → (N, 4) of COLUMNS.

    All is seen upright: box and points turned back by the box's roll about its middle. dx and dy lead from the middle
    of the keypoints' tight box to that of the box, in sizes of the former (the square root of its area); log_scale is
    the natural logarithm of the box's side over that size; roll is what remains: by how many degrees the line through
    the eyes still falls clockwise.
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
    """The box of a face whose keypoints' box has the size 1 and its middle at the origin: (1, 4)."""
    side = np.exp(row[2])
    return np.array([[row[0] - side / 2, row[1] - side / 2, side, side]])


def nearest(boxes: np.ndarray, keypoints: np.ndarray, typical: np.ndarray) -> np.ndarray | None:
    """How the box that fits the face best lies to it, if any is one of this face."""
    rows = measure_boxes(boxes, keypoints)
    shared = [overlap(box_of(row), box_of(typical))[0, 0] for row in rows]
    return rows[int(np.argmax(shared))] if shared and max(shared) >= SAME else None


def describe(rows: list[np.ndarray], looked_at: int) -> dict:
    rows = np.array(rows)
    return {
        "faces": looked_at,
        "found": len(rows),
        "mean": rows.mean(axis=0).round(5).tolist(),
        "covariance": np.cov(rows.T).round(6).tolist(),
        "quantiles": {str(q): np.percentile(rows, q, axis=0).round(4).tolist() for q in QUANTILES},
    }


def scatter(options: argparse.Namespace) -> None:
    """Where the passes' boxes lie around the faces that are trained on."""
    finder = FaceFinder()
    content: dict = {
        "about": "from the keypoints' box to the detector's, see training.studies.detector.measure_boxes",
        "columns": COLUMNS,
        "first": {},
        "further": {},
    }
    for name, photos in (
        ("official", official(options.official, "training")),
        ("wild", wild(options.wild, "training")),
    ):
        first, further = [], []
        for _, grey, keypoints in photos:
            row = nearest(finder.first(grey), keypoints, TYPICAL)
            if row is not None:
                first.append(row)
            else:
                further.append(nearest(finder.further(grey), keypoints, TYPICAL))
        content["first"][name] = describe(first, len(photos))
        content["further"][name] = describe([row for row in further if row is not None], len(further))
        print(f"{name}: first pass {len(first)} of {len(photos)}, further passes {len(further)} more looked at")
    write_json(RESULTS / "detector_scatter.json", content)


# Negatives ------------------------------------------------------------------------------------------------------------

# Everything that any pass might ever take for a face: single hits, fine steps, four ways to look.
GREEDY = {"scale_factor": 1.1, "min_neighbors": 0}
LOOKS = (
    Look(HaarDetector(**GREEDY)),
    Look(HaarDetector(**GREEDY, cascade="frontalface_alt2")),
    Look(HaarDetector(1.2, 0, cascade="profileface")),  # the slowest
    Look(HaarDetector(1.2, 0, cascade="profileface"), mirrored=True),
)
OFFICIAL_FRAMES = {"training": 2, "validation": 8}  # of a person: frames of one video show the same background


def off_the_face(boxes: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Which of (N, 4) boxes are on something else: they share less than a fifth with the face (the keypoints' box, and
    as much forehead as brings it to a square), their middle isn't among its points, nor its middle in them, and what
    the network would see of them, twice the box, isn't the face again, a little off the middle."""
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
    """Of hits on one and the same thing the one that overlaps most others: (M, 4), and how many there were (M,)."""
    shared = overlap(boxes, boxes)
    left, kept, hits = np.argsort(-(shared > threshold).sum(axis=1), kind="stable"), [], []
    while len(left):
        same = shared[left[0], left] > threshold
        kept.append(left[0])
        hits.append(int(same.sum()))
        left = left[~same]
    return boxes[kept], np.array(hits, int)


def candidates(photos: Labelled) -> list[list]:
    """Boxes off the labelled face: [file, left, top, width, height, hits], whole pixels inside the photo."""
    rows = []
    for name, grey, keypoints in photos:
        boxes = np.concatenate([look(grey)[0] for look in LOOKS])[:, :BOX].round()
        boxes = boxes[off_the_face(boxes, keypoints)]
        for box, hits in zip(*thin(boxes), strict=True):
            rows.append([name, *(int(value) for value in box), int(hits)])
    return rows


def negatives(options: argparse.Namespace) -> None:
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
            faces = [
                bool(known.get(row[0])) and is_neighbour(np.array(row[1:5]), np.array(known[row[0]])) for row in rows
            ]
            content[name][part] = [row for row, face in zip(rows, faces, strict=True) if not face]
            print(f"{name} {part}: {len(labelled)} photos, {len(rows)} boxes off the face, {sum(faces)} neighbours")
    text = json.dumps(content, ensure_ascii=False).replace("[[", "[\n[").replace("], [", "],\n[") + "\n"
    write_atomically(RESULTS / "negatives.json", lambda part: part.write_text(text, encoding="utf-8"))


def is_neighbour(box: np.ndarray, faces: np.ndarray) -> bool:
    """On one of the listed faces: its middle inside of it, or overlapping it by a fifth."""
    middle = box[:2] + box[2:] / 2
    inside = ((middle > faces[:, :2]) & (middle < faces[:, :2] + faces[:, 2:])).all(axis=1)
    return bool(inside.any() or (overlap(box[None], faces) >= 0.2).any())


# What the passes find, and how fast -----------------------------------------------------------------------------------


def found(options: argparse.Namespace) -> None:
    """Faces found, and boxes that are none of the labelled face, on the two sets that nothing was tuned on.

    found: in the first pass that gives any box. found_behind_a_score: in any of the passes, as with a face score that
    knows false alarms, so that the next pass is tried. other_boxes: those of the first pass that gives any, before a
    score; neighbours' faces are among them. as_shipped: what KeypointDetector returns, its face score applied.
    """
    content: dict = {}
    detector = KeypointDetector()
    for name, photos in (
        ("wild_validation", wild(options.wild, "validation")),
        ("official_test", official_test(options.official)),
    ):
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


def official_test(root: Path) -> Labelled:
    data = Data("official", root)
    return Labelled(data.image_dir("test"), *read_keypoints(data.csv_file("test")))


def speed(options: argparse.Namespace) -> None:
    """Milliseconds of one thread for 640×480 pixels, medians, for photos that lie in the repository."""
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


@one_sentence()
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.studies.detector", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["scatter", "negatives", "found", "speed"])
    parser.add_argument("--official", type=Path, default=DATA_DIR, metavar="DIR", help="the official set")
    parser.add_argument("--wild", type=Path, metavar="DIR", help="the wild set")
    options = parser.parse_args()
    options.wild = find_wild(options.wild)
    if options.wild is None and options.what != "speed":
        raise SystemExit("expected the wild set: name its folder with --wild or KEYPOINTS_WILD")
    if options.what != "negatives":
        check_writable(RESULTS / f"detector_{options.what}.json")
    {"scatter": scatter, "negatives": negatives, "found": found, "speed": speed}[options.what](options)


if __name__ == "__main__":
    main()
