"""Compare our networks with other tools on the same images in the same run: `make benchmark` writes the JSON.

Each entry of benchmark_peers.py runs alone in a separate process on one core. A tool that can't run on this machine is
left out with a sentence, and so is a set of images that isn't here. Figures are those of training.metrics, in pixels of
the original images; of several faces in an image the one counts as in training.evaluation: the nearest whose points'
box holds the true centroid. Every tool has its own idea of where a point lies, so each point's median offset is fitted
on the same training images for all; ``as_it_is`` is the error without it. ``own`` is measured behind the tool's own
detector, ``boxed`` in the box that this detector would typically give: a square around the true points.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from data_load import DATA_DIR, Data, find_data, person_of, read_image, read_keypoints
from keypoints.detection import FREE, FREE_FILES
from keypoints.files import asset, sha256
from keypoints.landmarks import EYE_CORNERS, face_size
from training import metrics
from training.framing import nearest_face
from training.records import versions
from training.splits import WILD_CSV, people_split, wild_groups
from training.studies import detector, report, tracking
from training.studies.benchmark_peers import ENTRIES, places
from training.studies.common import BUILD, RESULTS, figures_file, make_parser, rounded
from training.weights import MODEL_DIR

CALIBRATION = {"people": 400, "wild": 100, "heads": 100}  # training images on which offsets are fitted
REPEATS = 15  # of a picture that is timed
TOOLS = {"dlib 68": "dlib", "OpenCV FacemarkLBF": "lbf", "MediaPipe face mesh": "mediapipe"}
DETECTORS = {
    "ours, full": f"ours_faces:full {detector.ALONE}",
    "ours, fast": f"ours_faces:fast {detector.ALONE}",
    "OpenCV Haar cascade": "ours_faces:haar",
    "dlib HOG, image enlarged by 2": "dlib_faces",
    "MediaPipe (BlazeFace), short range": "mediapipe_faces:0",
    "MediaPipe (BlazeFace), full range": "mediapipe_faces:1",
}
MODEL_2, TWIN = "ours, model 2", "ours, model 1's twin"
FREE_WEIGHTS = "ours, free weights"
WHOLE = ("groups", "wild")  # whole pictures in which detectors alone are counted


class LeftOut(Exception):
    """Something can't be measured here; the text says why."""


# The images -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images of one labelled face each.

    Attributes:
        paths: N files. keypoints: (N, 68, 2) pixels. who: N labels, whom or which sitting each shows, for intervals.
    """

    paths: list[Path]
    keypoints: np.ndarray
    who: list[Hashable]

    def take(self, chosen: Iterable[int]) -> Labelled:
        """Return some of the images."""
        chosen = list(chosen)
        return Labelled([self.paths[i] for i in chosen], self.keypoints[chosen], [self.who[i] for i in chosen])


def read_labels(csv_file: Path, folder: Path, who: Callable[[str], Hashable] = person_of) -> Labelled:
    """Read the labelled images of a folder."""
    names, keypoints = read_keypoints(csv_file)
    return Labelled([folder / name for name in names], keypoints.astype(np.float64), [who(name) for name in names])


def spread(length: int, most: int | None) -> list[int]:
    """Return at most so many indices, evenly spread."""
    return np.unique(np.linspace(0, length - 1, min(length, most or length)).round().astype(int)).tolist()


def labelled_sets(data: Data, wild: Path | None, most: int | None = None) -> dict[str, tuple[Labelled, Labelled]]:
    """Return name → images to measure and training images: ``people``, ``wild`` where it is here, and ``heads``.

    The people are the official set's test people of data/splits.json; of other data, the heads stand in for them.

    Args:
        most: images of each.
    """
    sample = find_data("sample")
    heads, others = (read_labels(sample.csv_file(part), sample.image_dir(part)) for part in ("test", "training"))
    pairs = {"people": (heads, others)}
    if data.name == "official":
        people = read_labels(data.csv_file("training"), data.image_dir("training"))
        split = people_split([path.name for path in people.paths])
        pairs["people"] = people.take(split["test"]), people.take(split["training"])
    if wild is not None:
        groups = wild_groups("validation"), wild_groups("training")
        photos = read_labels(wild / WILD_CSV, wild, (groups[0] | groups[1]).get)
        test, training = ([i for i, path in enumerate(photos.paths) if path.name in part] for part in groups)
        pairs["wild"] = photos.take(test), photos.take(training)
    pairs["heads"] = heads, others
    result = {}
    for name, (test, training) in pairs.items():
        count = min(most or CALIBRATION[name], CALIBRATION[name], len(training.paths))
        chosen = np.random.default_rng(1).choice(len(training.paths), count, replace=False)
        result[name] = test.take(spread(len(test.paths), most)), training.take(chosen)
    return result


def pictures() -> dict[str, np.ndarray]:
    """Return two pictures of 640×480 pixels to be timed: ``one`` face, and ``ten`` of the sample's heads."""
    sample, size = find_data("sample"), 160
    heads = read_labels(sample.csv_file("test"), sample.image_dir("test"))
    turned = sample.attributes("test")[["yaw", "pitch", "roll"]].abs().sum(axis="columns")
    cells = [np.full((size, size, 3), 128, np.uint8)] * 12
    for cell, i in enumerate(np.argsort(turned, kind="stable")[:10]):
        points = heads.keypoints[i]
        scale = size / (1.8 * face_size(points))
        moved = size / 2 - scale * (points.min(axis=0) + points.max(axis=0)) / 2
        frame = np.array([[scale, 0, moved[0]], [0, scale, moved[1]]])
        cells[cell] = cv2.warpAffine(read_image(heads.paths[i]), frame, (size, size), borderMode=cv2.BORDER_REPLICATE)
    one = cv2.resize(read_image(DATA_DIR / "photos" / "astronaut.jpg")[:384], (640, 480))
    return {"one": one, "ten": np.vstack([np.hstack(cells[row : row + 4]) for row in (0, 4, 8)])}


def write_set(file: Path, images: Iterable[np.ndarray], keypoints: np.ndarray | None = None) -> Path:
    """Write images, and the places of their keypoints, as benchmark_peers reads them."""
    more = {f"image_{i}": image for i, image in enumerate(images)}
    if keypoints is not None:
        more["places"] = np.column_stack([keypoints.mean(axis=1), face_size(keypoints)])
    np.savez(file, **more)
    return file


# One entry ------------------------------------------------------------------------------------------------------------


def run_entry(entry: str, files: Sequence[Path], interpreter: Path) -> dict:
    """Measure one entry in a separate process: what benchmark_peers.measure returns, and ``versions``.

    Raises:
        LeftOut: its interpreter or a package is missing, or it failed.
    """
    python = sys.executable if ENTRIES[entry.split(":")[0]].ours else str(interpreter)
    out = files[0].with_name("out.npz")
    command = [python, "-m", "training.studies.benchmark_peers", entry, str(out), *map(str, files)]
    # OpenMP and the BLAS libraries read their number of threads once, at the start.
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    try:
        process = subprocess.run(command, cwd=RESULTS.parent, env=os.environ | limits, capture_output=True,
                                 encoding="utf-8", errors="replace")  # fmt: skip
    except OSError as error:
        raise LeftOut(f"{interpreter}: {error.strerror}; 'make benchmark' sets it up") from None
    if process.returncode:
        said = process.stderr.strip().splitlines() or [f"exit status {process.returncode}"]
        raise LeftOut(f"its process failed: {said[-1]}")
    with np.load(out) as content:
        return {**content, "versions": json.loads(str(content["versions"]))}


def predictions(points: np.ndarray, image: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Choose one face an image of those found: (N, 68, 2), NaN where there is none or another one.

    Args:
        points: (F, 68, 2). image: (F,) the image of each. true: (N, 68, 2).
    """
    return np.stack([nearest_face(points[image == i], face) for i, face in enumerate(true)])


def eye_distance(points: np.ndarray) -> np.ndarray:
    """Return the distance of the outer eye corners, (N, 68, 2) → (N, 1, 1), NaN where there are no points."""
    return np.linalg.norm(points[:, EYE_CORNERS[1]] - points[:, EYE_CORNERS[0]], axis=1)[:, None, None]


def fit_offsets(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the median offset from predictions to labels, (68, 2), in predicted eye distances."""
    return np.nanmedian((true - predicted) / eye_distance(predicted), axis=0)


def apply_offsets(predicted: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Move predictions (N, 68, 2) by the offsets of :func:`fit_offsets`."""
    return predicted + offsets * eye_distance(predicted)


def figures(result: dict, key: str, test: Labelled, training: Labelled, way: str) -> dict:
    """Return the figures of one entry on one set: fitted on training images, and ``as_it_is`` the NME without.

    Args:
        way: "own", the entry's own detector, or "boxed".
    """

    def points_of(name: str, labelled: Labelled) -> np.ndarray:
        if way == "boxed":
            return result[f"{name}.boxed"]
        return predictions(result[f"{name}.points"], result[f"{name}.image"], labelled.keypoints)

    predicted = points_of(key, test)
    moved = apply_offsets(predicted, fit_offsets(points_of(f"{key}_training", training), training.keypoints))
    fitted = metrics.summary(moved, test.keypoints, people=test.who)
    chosen = {key: fitted[key] for key in ("n", "found", "people", "nme_box", "auc_box_07")}
    as_it_is = metrics.summary(predicted, test.keypoints)["nme_box"]
    return chosen | {"interval": fitted["intervals"]["nme_box"], "as_it_is": as_it_is}


def tally(result: dict, key: str, images: list[detector.Labelled], of_points: bool = False) -> dict:
    """Count the faces of whole pictures that an entry finds, by its boxes or by the boxes of its points."""
    points, found = result[f"{key}.points"], places(result[f"{key}.box"])
    if of_points:
        found = np.column_stack([points.mean(axis=1), np.sqrt(np.ptp(points, axis=1).prod(axis=1))])
    return detector.tally(images, lambda i, _: found[result[f"{key}.image"] == i])


def timed(result: dict) -> dict:
    """Return the median milliseconds of the pictures that are timed, without the first call, and the faces found."""
    return {key: {"ms": float(np.median(result[f"{key}.ms"][1:])), "faces": int((result[f"{key}.image"] == 0).sum())}
            for key in ("one", "ten")}  # fmt: skip


# All of them ----------------------------------------------------------------------------------------------------------


def own_weights(twin: Path, people: set[str]) -> tuple[dict[str, Path], dict[str, str]]:
    """Return our networks that saw none of the people in training, title → weights, and why the others are left out."""
    weights, left_out = {}, {}
    shipped = MODEL_DIR / "keypoints_model_2.safetensors"
    for title, file in {MODEL_2: shipped, TWIN: twin}.items():
        if not file.exists():
            left_out[title] = f"{file.name} is missing: 'make twin' trains it"
        elif people - set(json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))["held_out_people"]):
            left_out[title] = f"{file.name} was trained on people who are measured here"
        else:
            weights[title] = file.absolute()
    return weights, left_out


def benchmark(options: argparse.Namespace, data: Data) -> dict:
    """Measure all entries; return the content of results/benchmark.json."""
    sets = labelled_sets(data, options.wild, options.images)
    whole = {name.split("_")[0]: images for name, images in detector.labelled_sets(options)}
    whole = {key: [whole[key][i] for i in spread(len(whole[key]), options.images)] for key in WHOLE if key in whole}
    # No network of ours was trained on the sample's test heads.
    weights, left_out = own_weights(options.twin, set(sets["people"][0].who) if data.name == "official" else set())
    left_out |= {f"pictures: {key}": "not here (see --help)" for key in WHOLE if key not in whole}
    entries = {title: f"ours:full {file}" for title, file in weights.items()}
    if MODEL_2 in weights:
        entries[f"{MODEL_2}, fast search"] = f"ours:fast {weights[MODEL_2]}"
    entries |= {FREE_WEIGHTS: f"ours:full {FREE}"} | TOOLS
    detectors, trackers = dict(DETECTORS), {title: f"ours_tracking:full {file}" for title, file in weights.items()}
    trackers["MediaPipe face mesh"] = "mediapipe:tracking"
    if options.yunet:
        detectors["OpenCV YuNet"] = f"yunet:{options.yunet.absolute()}"
    else:
        left_out["OpenCV YuNet"] = "its file is not named (--yunet)"
    content: dict = {
        "data": data.name,
        "calibration_images": {key: len(training.paths) for key, (_, training) in sets.items()},
        "weights": {file.name: sha256(file) for file in (*weights.values(), *map(asset, FREE_FILES))},
        "hardware": {key: versions()[key] for key in ("processor", "system")} | {"cores": os.cpu_count()},
        "detector_score": detector.ALONE,
        **{part: {} for part in ("tools", "detectors", "tracking")},
        "left_out": left_out,
    }
    with tempfile.TemporaryDirectory() as name:
        folder, files = Path(name), {}
        for key, pair in sets.items():
            for stem, part in zip((f"{key}_training", key), pair[::-1], strict=True):
                files[stem] = write_set(folder / f"{stem}.npz", map(read_image, part.paths), part.keypoints)
        if "groups" in whole:
            files["groups"] = write_set(folder / "groups.npz", (read_image(path) for path, *_ in whole["groups"]))
        for key, picture in pictures().items():
            files[key] = write_set(folder / f"{key}.npz", [picture] * REPEATS)
        for title, result in run_all(entries, list(files.values()), options.python.absolute(), left_out):
            row = {"versions": result["versions"], **timed(result)}
            for way in ("own", "boxed"):
                row[way] = {key: figures(result, key, *pair, way) for key, pair in sets.items()}
            if "groups" in whole:
                row["groups"] = tally(result, "groups", whole["groups"], of_points=True)
            content["tools"][title] = row
        some = [files[key] for key in (*whole, "one", "ten")]
        for title, result in run_all(detectors, some, options.python.absolute(), left_out):
            counts = {key: tally(result, key, images) for key, images in whole.items()}
            content["detectors"][title] = {"versions": result["versions"], **timed(result), **counts}
        frames, table, true = tracking.read_clip()
        frames = frames[: options.images and 5 * options.images]
        clip = tracking.ClipMetrics(true[: len(frames)], table.time.to_numpy()[: len(frames)])
        for kind, images in {"as it is": frames, "noise and compression": tracking.spoilt(frames, 0)}.items():
            file = write_set(folder / "clip.npz", images)
            rows = content["tracking"][kind] = {}
            for title, result in run_all(trackers, [file], options.python.absolute(), left_out):
                points = predictions(result["clip.points"], result["clip.image"], clip.true)
                error = metrics.nme(points, clip.true)
                rows[title] = {"frames": int(np.isfinite(error).sum()), "of": len(frames)}
                rows[title] |= {"nme_box": float(np.nanmean(error)), "jitter": clip.jitter(points)}
                rows[title]["ms"] = float(result["clip.ms"][1:].mean())  # not the median: detectors run now and then
    return rounded(content, ".4g")


def run_all(entries: dict[str, str], files: list[Path], python: Path, left_out: dict) -> Iterator[tuple[str, dict]]:
    """Run entries, title → entry, in turn; note in ``left_out`` why one can't run."""
    for title, entry in entries.items():
        began = time.perf_counter()
        try:
            result = run_entry(entry, files, python)
        except LeftOut as reason:
            print(f"left out: {title}: {reason}", flush=True)
            left_out[title] = str(reason)
            continue
        print(f"{title}: {', '.join(file.stem for file in files)}: {time.perf_counter() - began:.0f} s", flush=True)
        yield title, result


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("benchmark", __doc__)
    detector.add_sets(parser)
    parser.add_argument("--python", type=Path, required=True, help="the interpreter that has the other tools' packages")
    parser.add_argument("--twin", type=Path, default=BUILD / "keypoints_model_1_twin.safetensors", metavar="FILE",
        help="model 1 without the people who are measured (default: where 'make twin' puts it)")  # fmt: skip
    parser.add_argument("--yunet", type=Path, metavar="FILE", help="face_detection_yunet_*.onnx of OpenCV's model zoo")
    parser.add_argument("--images", type=int, metavar="N", help="of each set, for a trial: build/benchmark.json")
    options = parser.parse_args(arguments)
    data = find_data()
    hint = " of rendered heads; 'make data' fetches the official set" if data.name == "sample" else ""
    print(f"data: {data.name}{hint}", flush=True)
    # The committed file, and with it the README's table, is only ever of the whole official set.
    whole = data.name == "official" and options.images is None
    with figures_file((RESULTS if whole else BUILD) / "benchmark.json") as content:
        content |= benchmark(options, data)
        print(report.benchmark_table(content))
    return 0


if __name__ == "__main__":
    sys.exit(main())
