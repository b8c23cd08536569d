"""What our detectors find and cost: `python -m training.studies.detector found|scatter|turned|sample`.

`found`, `scatter` and `turned` need the official set (`make data`, or --official DIR), the wild set
(KEYPOINTS_WILD, or --wild DIR) and, for groups, --detection DIR with boxes.csv beside its pictures; sets that are
missing are left out. `make benchmark` times ours and measures other tools' detectors.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from sklearn.linear_model import LogisticRegression

from data_load import DATA_DIR, Data, find_data, label_offset, read_image, read_keypoints
from keypoints.detection import FREE, KeypointDetector, candidates, score_features
from keypoints.detectors import ROLLS, HaarDetector, NetworkDetector
from keypoints.files import one_sentence, write_json
from keypoints.geometry import five_points, with_roll
from keypoints.landmarks import face_size
from training.detector import face_boxes, held_out_names, read_boxes
from training.framing import face_at
from training.splits import WILD_CSV, find_wild, people_split, wild_groups
from training.studies.benchmark_peers import places
from training.studies.common import RESULTS

LONG_SIDE, SMALLEST = 512, 20  # pixels: a face counts from 20 on, with the image's longer side at 512
BINS = ((20, 40), (40, 80), (80, 1000))
FACE_SIZES = (0, 80, 120, 160, 200, 1000)  # pixels of the image: bins of the five points' error
ROLL_ERROR = 20  # degrees: a face found with more is turned wrongly
CAUTION = 0.2  # log-odds off the joint score: from a score of 0.5 on, less than one group in ten shows a false face
ALONE = 0.45  # of the network's score: from which on KeypointDetector counts what no keypoint network confirms

Labelled = tuple[Path, np.ndarray, np.ndarray]  # an image, boxes (M, 4) left, top, right, bottom, which of them count


def faces(options: argparse.Namespace) -> Iterator[tuple[str, list[Path], np.ndarray]]:
    """Sets by name: images, and the keypoints (N, 68, 2) of their one labelled face."""
    official = Data("official", options.official)
    for name, split in (("official_test", "test"), ("official_validation", "training")):
        if official.csv_file(split).exists():
            names, keypoints = read_keypoints(official.csv_file(split))
            if split == "training":
                chosen = people_split(names)["validation"]
                names = [names[i] for i in chosen]
                keypoints = keypoints[chosen] - label_offset(keypoints[chosen])[:, None]
            yield name, [official.image_dir(split) / n for n in names], keypoints
    if options.wild is not None:
        names, keypoints = read_keypoints(options.wild / WILD_CSV)
        held = wild_groups("validation")
        chosen = [i for i, name in enumerate(names) if name in held]
        yield "wild_validation", [options.wild / names[i] for i in chosen], keypoints[chosen]


def labelled_sets(options: argparse.Namespace) -> Iterator[tuple[str, list[Labelled]]]:
    """Sets by name."""
    for name, paths, keypoints in faces(options):
        if name != "official_validation":
            boxes = face_boxes(keypoints)[:, None]
            yield name, [(path, box, np.ones(1, bool)) for path, box in zip(paths, boxes, strict=True)]
    if options.detection is not None:
        held = held_out_names(options.hard)
        groups = []
        for name, (boxes, _, sources) in read_boxes(options.detection).items():
            if name in held:
                groups.append((options.detection / name, boxes, np.array([s == "drawn" for s in sources])))
        yield "groups_validation", groups


def matches(centre: np.ndarray, size: float, boxes: np.ndarray) -> np.ndarray:
    """Which boxes (M, 4) a found face may be of, by its centre and its size, the root of its area: (M,) bool."""
    sizes = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    away = np.abs(centre - (boxes[:, :2] + boxes[:, 2:]) / 2)
    ratio = size / np.maximum(sizes, 1)
    return (away < sizes[:, None] / 2).all(axis=1) & (ratio > 0.4) & (ratio < 1.8)


def tally(images: list[Labelled], find: Callable[[int, np.ndarray], np.ndarray]) -> dict:
    """Count labelled faces that are found, by size, and others.

    Args:
        find: takes an image's number and the image; returns (N, 3): x and y of the centre and the size of what was
            found, the most certain first.
    """
    hits, others = [], 0
    for i, (path, boxes, counted) in enumerate(images):
        image = read_image(path)
        sizes = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)) * LONG_SIDE / max(image.shape[:2])
        free = np.ones(len(boxes), bool)
        for *centre, size in find(i, image):
            possible = matches(np.array(centre), size, boxes)
            others += not possible.any()
            if (possible & free).any():
                free[np.flatnonzero(possible & free)[0]] = False
        hits += [(s, not f) for s, f, c in zip(sizes, free, counted, strict=True) if c and s >= SMALLEST]
    size, hit = np.array(hits, float).T
    figures = {"faces": len(hit), "found": int(hit.sum()), "found_percent": round(100 * hit.mean(), 2)}
    for low, high in BINS:
        inside = (size >= low) & (size < high)
        figures[f"{low}_to_{high}"] = f"{int(hit[inside].sum())}/{int(inside.sum())}"
    return figures | {"images": len(images), "others_an_image": round(others / len(images), 4)}


def found(options: argparse.Namespace) -> None:
    """Count labelled faces that KeypointDetector finds behind each detector and with the free weights, and others."""
    detectors = {"network": KeypointDetector(), "haar": KeypointDetector(detect="haar"), FREE: KeypointDetector(FREE)}
    content: dict = {}
    for name, images in labelled_sets(options):
        content[name] = {}
        for kind, detector in detectors.items():

            def find(_: int, image: np.ndarray, detector: KeypointDetector = detector) -> np.ndarray:
                points = [face.keypoints for face in sorted(detector(image), key=lambda face: -(face.score or 0))]
                return np.array([(*face.mean(axis=0), np.sqrt(np.ptp(face, axis=0).prod())) for face in points])

            content[name][kind] = tally(images, find)
            print(name, kind, json.dumps(content[name][kind]), flush=True)
    write_json(RESULTS / "detector_found.json", content)


def joint(options: argparse.Namespace) -> None:
    """Fit the weights that join both networks' scores, :data:`keypoints.detection.JOINT`, on the validation sets."""
    detector, features, labels = KeypointDetector(), [], []
    for name, images in labelled_sets(options):
        for path, boxes, _ in images if name != "official_test" else []:
            image = read_image(path)
            some = candidates(detector.detect, image)
            scores = detector.network.locate([image] * len(some.boxes), some.boxes, some.points).score
            features.append(score_features(scores, some.scores))
            labels += [matches(np.array(centre), size, boxes).any() for *centre, size in places(some.boxes)]
    cases, true = np.concatenate(features), np.array(labels)
    fitted = LogisticRegression(C=1e3).fit(cases, true)
    bias = (fitted.intercept_ - CAUTION).round(3)
    print("JOINT =", *fitted.coef_[0].round(3), bias, f"of {true.sum()} faces in {len(true)}")


# How boxes and points lie around faces --------------------------------------------------------------------------------


def box_offsets(box: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """How a box (5,) with its roll lies around a face's keypoints (68, 2): (4,).

    Both are first turned back by the box's roll about its centre. The box's centre from that of the keypoints' tight
    box, right and down, in sizes of the latter; the natural logarithm of its side over that size; and by how many
    degrees the line through the eyes still falls clockwise.
    """
    middle, angle = box[:2] + box[2:4] / 2, np.radians(box[4])
    cosine, sine = np.cos(angle), np.sin(angle)
    points = (keypoints + 0.5 - middle) @ np.array([[cosine, -sine], [sine, cosine]])
    size = face_size(points)
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    return np.array([*-centre / size, np.log(np.sqrt(box[2] * box[3]) / size), eye_roll(points)])


def eye_roll(points: np.ndarray) -> float:
    """By how many degrees the line from the right eye to the left one falls clockwise, of (68, 2)."""
    across = np.subtract(*five_points(points)[[1, 0]])
    return float(np.degrees(np.arctan2(across[1], across[0])))


def scatter(options: argparse.Namespace) -> None:
    """Measure how the detectors' boxes, and the network's five points, lie around labelled faces."""
    network, haar = NetworkDetector(), HaarDetector()
    content: dict = {"columns": ["right", "down", "log_side", "roll"]}
    for name, paths, labels in faces(options):
        if name == "official_test":
            continue
        rows: dict[str, list] = {"network": [], "haar": []}
        errors = []
        for path, keypoints in zip(paths, labels.astype(np.float64), strict=True):
            image, truth = read_image(path), face_boxes(keypoints[None])
            detections = network.find(image)
            for kind, boxes in (("network", detections.haar_boxes()), ("haar", with_roll(haar(image)))):
                hits = [i for i, (*centre, size) in enumerate(places(boxes)) if matches(centre, size, truth).any()]
                if not hits:
                    continue
                rows[kind].append(box_offsets(boxes[hits[0]].astype(np.float64), keypoints))
                if kind == "network":
                    away = np.linalg.norm(detections.points[hits[0]] - five_points(keypoints), axis=1).mean()
                    errors.append((face_size(keypoints), 100 * away / face_size(keypoints)))
        size, error = np.array(errors).T
        content[name] = {"faces": len(paths)} | {
            kind: {
                "found": len(of),
                "median": np.median(of, axis=0).round(3).tolist(),
                "standard_deviation": np.std(of, axis=0).round(3).tolist(),
            }
            for kind, of in rows.items()
        }
        content[name]["five_points"] = [
            {"from": low, "to": high, "faces": int(inside.sum()), "percent": round(float(error[inside].mean()), 2)}
            for low, high in itertools.pairwise(FACE_SIZES)
            if (inside := (size >= low) & (size < high)).any()
        ]
        print(name, json.dumps(content[name]), flush=True)
    write_json(RESULTS / "detector_scatter.json", content)


def turn(image: np.ndarray, points: np.ndarray, degrees: int) -> tuple[np.ndarray, np.ndarray]:
    """Turn an image and points in it (N, 2) clockwise by 90, -90 or 180 degrees."""
    height, width = image.shape[:2]
    x, y = points.T
    x, y = {90: (height - 1 - y, x), -90: (y, width - 1 - x), 180: (width - 1 - x, height - 1 - y)}[degrees]
    return cv2.rotate(image, ROLLS[-degrees if degrees < 180 else 180]), np.stack([x, y], axis=1)


def turned(options: argparse.Namespace) -> None:
    """Count the faces of turned photographs that KeypointDetector finds where they are and as they are turned."""
    detector, content = KeypointDetector(), {}
    [(paths, labels)] = [(paths, labels) for name, paths, labels in faces(options) if name == "wild_validation"]
    for degrees in (90, -90, 180):
        rolls = []  # of the faces found at the right place: the error
        for path, keypoints in zip(paths, labels, strict=True):
            image, points = turn(read_image(path), keypoints, degrees)
            size, truth = face_size(points), points.mean(axis=0)
            near = [face for face in detector(image) if np.linalg.norm(face.keypoints.mean(axis=0) - truth) < size / 2]
            errors = [(eye_roll(face.keypoints) - eye_roll(points) + 180) % 360 - 180 for face in near]
            rolls += [min(map(abs, errors))] if errors else []
        right = int((np.array(rolls) <= ROLL_ERROR).sum())
        content[str(degrees)] = {"photographs": len(paths), "found": len(rolls), "with_the_right_roll": right}
        print(degrees, json.dumps(content[str(degrees)]), flush=True)
    write_json(RESULTS / "detector_turned.json", content | {"roll_error": ROLL_ERROR})


def sample(options: argparse.Namespace) -> None:
    """Count how many of the sample's heads the frontal cascade finds, by yaw."""
    data, detect, hits, yaws, false_boxes = find_data("sample"), HaarDetector(), [], [], 0
    for split in ("training", "test"):
        dataset = data.dataset(split)
        yaws += data.attributes(split)["yaw"].abs().tolist()
        for i in range(len(dataset)):
            boxes = detect(dataset[i]["image"])
            hits.append(face_at(boxes, dataset.keypoints[i]) is not None)
            false_boxes += len(boxes) - hits[-1]
    found, yaw, bins = np.array(hits), np.array(yaws), []
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


def add_sets(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the labelled sets."""
    parser.add_argument("--official", type=Path, default=DATA_DIR, metavar="DIR", help="the official set")
    parser.add_argument("--wild", type=Path, default=find_wild(), metavar="DIR", help="the wild set")
    parser.add_argument("--detection", type=Path, metavar="DIR", help="photographs of groups, with boxes.csv")
    parser.add_argument("--hard", type=Path, metavar="DIR", help="its attributes.csv names the photographs held out")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.studies.detector", description=__doc__.split("\n")[0])
    commands = {work.__name__: work for work in (found, joint, scatter, turned, sample)}
    parser.add_argument("command", choices=list(commands))
    add_sets(parser)
    options = parser.parse_args(arguments)
    with one_sentence():
        commands[options.command](options)


if __name__ == "__main__":
    main()
