"""Train the free weights: faces, keypoints and eyes from rendered heads and photographs under CC BY alone.

    python -m training.free --photos DIR

renders heads (``data/sample/render.py``, its packages in ``--python``); puts many together before pictures that anyone
may use; learns to find keypoints from the heads alone, finds those of the photographs with that, and learns from
both; learns to find faces; and learns from the heads how far eyes are open. DIR holds the photographs, neutral/ and
smiling/, and their keypoints.csv. No other picture, label or network takes part, and the records list every folder that
did, with its hash.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch

from data_load import DATA_DIR, NUM_KEYPOINTS, read_keypoints
from keypoints.detection import KeypointDetector
from keypoints.files import one_sentence, sha256, write_json
from keypoints.geometry import face_crop, five_points
from keypoints.landmarks import FLIP_INDEX, JAW
from models import PhotoNet
from training import detector, eyes
from training.augmentation import warp
from training.confidence import Cases, crops_of, fit_regressions
from training.detector import POINTS_FILE, grey_image
from training.detector_data import face_boxes
from training.photo import (
    LABEL_MAP,
    STARTS_FILE,
    TAUGHT_FILE,
    Faces,
    PhotoRecipe,
    PhotoViews,
    crop_units,
    label,
    read_faces,
    train,
    warp_averaged,
)
from training.records import write_arrays
from training.splits import labelled_faces
from training.weights import load_model, save_model

CHUNK = 480  # pictures that one call of the renderer makes
FIRST_SEED = 1001  # the sample's heads have seed 0
BACKGROUNDS = ["brick.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png", "grass.png", "gravel.png"]
BACKGROUNDS += ["hubble_deep_field.jpg", "retina.jpg", "rocket.jpg", "text.png"]  # all CC0 or in the public domain
KINDS = "rendered", "false", "detection", "ccby"  # folders that the keypoint network learns from
CLOSED_EYES = "0.1", "0.2"
ALONE = PhotoRecipe(views=24_000, views_an_epoch=3_000)  # the training that then finds the photographs' keypoints


def render(folder: Path, heads: int, python: Path, jobs: int) -> None:
    """Render varied heads into FOLDER/rendered, and scenes without a head into FOLDER/false; what is there stays."""
    renderer, target = DATA_DIR / "sample" / "render.py", folder / "rendered"

    def call(out: Path, *options: str) -> None:
        command = [python, renderer, "--out", out, "--test", "0", "--no-clip", *options]
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)

    def chunk(seed: int) -> None:
        if not (target / f"r{seed}").exists():
            unfinished = folder / f"unfinished_{seed}"
            many = "--training", str(CHUNK), "--varied", "--seed", str(seed), "--closed-eyes", *CLOSED_EYES
            call(unfinished, *many)
            unfinished.rename(target / f"r{seed}")

    target.mkdir(parents=True, exist_ok=True)
    if not (folder / "false").exists():
        call(folder / "unfinished", "--training", "0", "--scenes", "600", "--seed", "1")
        (folder / "unfinished" / "scenes").rename(folder / "false")
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(chunk, range(FIRST_SEED, FIRST_SEED + -(-heads // CHUNK))))


def read_backgrounds(wheel: Path) -> list[np.ndarray]:
    """Pictures of scikit-image's wheel that show no face and that anyone may use, grey; the weights' card has terms."""
    with zipfile.ZipFile(wheel) as archive:
        files = [np.frombuffer(archive.read(f"skimage/data/{name}"), np.uint8) for name in BACKGROUNDS]
    return [cv2.imdecode(file, cv2.IMREAD_GRAYSCALE) for file in files]


def fetch_wheel(folder: Path) -> Path:
    """scikit-image's wheel, from the Python package index."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*command, "scikit-image==0.26.0"], check=True)
    return next(folder.glob("scikit_image-*.whl"))


def compose(
    folder: Path, backgrounds: list[np.ndarray], taught: dict[str, np.ndarray] | None = None, count: int = 2400
) -> None:
    """Write pictures of many heads before all sorts of things, as training.detector reads them.

    Heads are cut out with soft edges, now and then as rectangles; so are other things, that no edge means a face.

    Args:
        folder: holds rendered/ and false/, and ccby/ where photographs are taught.
        taught: keypoints of photographs, by file: half of the heads are theirs.
    """
    out, rows, points = folder / "detection" / "collage", [], {}
    out.mkdir(parents=True, exist_ok=True)
    heads = [(f, k) for part, kind, f, k in labelled_faces(folder) if (part, kind) == ("training", "rendered")]
    photographs = [(folder / name, keypoints) for name, keypoints in (taught or {}).items()]
    scenes = [grey_image(file) for file in sorted((folder / "false").glob("*.jpg"))]
    for number in range(count):
        rng = np.random.default_rng([7, number])

        def piece(width: int, height: int, rng: np.random.Generator = rng) -> np.ndarray:
            """A window of any background."""
            kind = backgrounds if rng.random() < 0.7 else scenes
            source = kind[rng.integers(len(kind))]
            most = min(source.shape[1] / width, source.shape[0] / height)
            scale = most * math.exp(rng.uniform(math.log(0.4), 0))
            across, down = max(2, int(scale * width)), max(2, int(scale * height))
            x, y = (int(rng.integers(0, n)) for n in (source.shape[1] - across + 1, source.shape[0] - down + 1))
            how = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
            window = cv2.resize(source[y : y + down, x : x + across], (width, height), interpolation=how)
            return window[:, ::-1] if rng.random() < 0.5 else window

        canvas, boxes, fives, covered = piece(640, 480).copy(), list[np.ndarray](), [], list[float]()
        for side in sorted(np.exp(rng.uniform(math.log(12), math.log(220), rng.integers(2, 30))), reverse=True):
            middle = rng.uniform(0, 1, 2) * [640, 480]
            if rng.random() < 0.35:
                source, own, five = piece(128, 128), np.array([32, 32, 96, 96.0]), None
            else:
                some = photographs if photographs and rng.random() < 0.5 else heads
                file, keypoints = some[rng.integers(len(some))]
                source, five = grey_image(file), five_points(keypoints[None] + 0.5)
                own = face_boxes(keypoints[None] + 0.5)[0]
            scale = side / math.sqrt(np.prod(own[2:] - own[:2]))
            matrix = np.column_stack([scale * np.eye(2), middle - scale * (own[:2] + own[2:]) / 2])
            mask: np.ndarray = np.zeros(source.shape, np.uint8)
            if rng.random() < 0.25:
                mask[:] = 255
            else:
                axes = (own[2:] - own[:2]) / 2 * rng.uniform(1.0, 1.5, 2)
                centre = ((own[:2] + own[2:]) / 2).round().astype(int)
                cv2.ellipse(mask, centre.tolist(), axes.astype(int).tolist(), 0, 0, 360, 255, -1)
                mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.01, 0.05) * len(source))
            mask = warp(mask, matrix, 640, 480) / 255
            pasted = np.clip(warp(source, matrix, 640, 480) * rng.uniform(0.6, 1.3) + rng.normal(0, 12), 0, 255)
            canvas = (canvas + mask * (pasted - canvas)).astype(np.uint8)
            for i, box in enumerate(boxes):
                left, top, right, bottom = np.clip(box, 0, 640).astype(int).tolist()
                inside = mask[top:bottom, left:right]
                covered[i] = max(covered[i], float(inside.mean()) if inside.size else 1.0)
            if five is not None:
                boxes.append((own.reshape(2, 2) * scale + matrix[:, 2]).ravel())
                fives.append(five[0] * scale + matrix[:, 2])
                covered.append(0.0)
        seen = [i for i, share in enumerate(covered) if share < 0.8]
        if seen:
            name = f"collage/{number:04d}.jpg"
            cv2.imwrite(str(folder / "detection" / name), canvas, [cv2.IMWRITE_JPEG_QUALITY, 92])
            for i in seen:  # partly covered ones are neither faces nor background
                certainty = "drawn" if covered[i] < 0.2 else "teacher0"
                rows.append([name, *(f"{value:.1f}" for value in boxes[i]), certainty])
            points[name] = np.array(fives, np.float32)[seen]
    write_arrays(folder / POINTS_FILE, points)
    with open(folder / "detection" / "boxes.csv", "w", encoding="utf-8", newline="") as table:
        csv.writer(table, lineterminator="\n").writerows([["name", "x0", "y0", "x1", "y1", "source"], *rows])


def detector_folder(folder: Path, wheel: Path | None) -> Path:
    """FOLDER/faces, from which the detector learns: the rendered heads, and collages of them and of the photographs."""
    own = folder / "faces"
    own.mkdir(exist_ok=True)
    for part in ("rendered", "false", "ccby"):
        if (folder / part).exists() and not (own / part).exists():
            (own / part).symlink_to((folder / part).resolve())
    if not (own / "detection" / "boxes.csv").exists():
        taught = dict(np.load(folder / TAUGHT_FILE)) if (folder / TAUGHT_FILE).exists() else {}
        compose(own, read_backgrounds(wheel or fetch_wheel(folder)), taught)
    return own


def teach(folder: Path, weights: Path) -> None:
    """Find the keypoints of the photographs in FOLDER/ccby with a network of rendered heads, and move its jaw labels.

    The photographs' own labels follow the jaw's outline well, but not the lids and lips; there the network's points,
    kept where its views agree, are better. How far the two jaws lie apart moves the labels of the rendered heads.
    """
    find, starts = KeypointDetector(weights.with_suffix(".onnx"), detect="haar"), {}
    for file in sorted((folder / "ccby").glob("*/*.jpg")):
        if faces := find(file):
            name = file.relative_to(folder).as_posix()
            starts[name] = five_points(faces[0].keypoints).ravel()
    write_arrays(folder / STARTS_FILE, starts)
    label(folder, None, load_model(weights).eval())
    taught, moved = dict(np.load(folder / TAUGHT_FILE)), []
    for name, true in zip(*read_keypoints(folder / "ccby" / "keypoints.csv"), strict=True):
        found = taught.get(f"ccby/{name}")
        if found is not None:
            matrix = crop_units(face_crop(five_points(found)[None], 100)[0], 100)
            moved.append((true - found) @ matrix[:, :2].T)
            found[JAW] = true[JAW]
    write_arrays(folder / TAUGHT_FILE, taught)
    mean = np.mean(moved, axis=0)
    by = np.zeros((NUM_KEYPOINTS, 2))
    by[JAW] = ((mean + mean[FLIP_INDEX] * [-1, 1]) / 2)[JAW]
    np.save(folder / LABEL_MAP, by)


def source(folder: Path, root: Path) -> dict:
    """A folder of pictures: its name below ``root``, their number, and one SHA-256 of them and their labels."""
    pictures, digest = sorted(folder.glob("*.jpg")), hashlib.sha256()
    for file in [*sorted(folder.parent.glob("*.csv")), *pictures]:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return {"folder": folder.relative_to(root).as_posix(), "pictures": len(pictures), "sha256": digest.hexdigest()}


def sources(folder: Path, kinds: Sequence[str]) -> list[dict]:
    """The folders of pictures that a training reads: the sample's heads, and those of these kinds in FOLDER."""
    folders = sorted({file.parent for kind in kinds for file in (folder / kind).rglob("*.jpg")})
    return [source(DATA_DIR / "sample" / "training", DATA_DIR), *(source(path, folder) for path in folders)]


def cases(folder: Path, side: int) -> tuple[Cases, Cases]:
    """Validation heads for fitting confidence and score, and others for measuring them; windows without a face."""
    sets, empty, false = read_faces(folder)
    views, rng = PhotoViews(sets["training"], empty, false, PhotoRecipe(), side), np.random.default_rng(0)
    windows = np.stack([warp_averaged(*views.without_face(rng), side)[None] for _ in range(2000)])
    faces, halves = sets["validation"]["rendered"], []
    for half in (0, 1):
        part = Faces(faces.crops[half::2], faces.keypoints[half::2], faces.names[half::2])
        halves.append((*crops_of(part, side), windows[half::2]))
    return halves[0], halves[1]


def train_free(folder: Path, out: Path, recipe: PhotoRecipe, workers: int = 1, minutes: float | None = None) -> None:
    """Train from rendered heads alone, then from photographs, too; calibrate; and list the sources in the record.

    Args:
        folder: holds rendered/ and false/ of :func:`render`, and ccby/.
        out: weights' file.
        recipe: of the second training.
        workers, minutes: see :func:`training.photo.train`.
    """
    alone = out.with_name(out.stem + "_alone.safetensors")
    if not alone.exists():
        train(folder, alone, ALONE, PhotoNet(), workers=workers)
    if (folder / "ccby").exists() and not (folder / LABEL_MAP).exists():
        teach(folder, alone)
    record = train(folder, out, recipe, PhotoNet(), workers=workers, minutes=minutes, start=alone)
    net = load_model(out)
    save_model(net, out, record | fit_regressions(net, *cases(folder, net.side)))
    complete_record(out, folder, KINDS)


def complete_record(weights: Path, folder: Path, kinds: Sequence[str]) -> None:
    """Write into the record of weights its sources, and the name and the hash of the graph, which is shipped alone."""
    file, graph = weights.with_suffix(".json"), weights.with_suffix(".onnx")
    more = {"weights": graph.name, "sha256": sha256(graph), "sources": sources(folder, kinds)}
    write_json(file, json.loads(file.read_text(encoding="utf-8")) | more)


@one_sentence()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.free", description=__doc__.split("\n\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("build/free"), help="where heads are rendered to")
    parser.add_argument("--photos", type=Path, help="photographs under CC BY and their keypoints.csv")
    parser.add_argument("--out", type=Path, default=Path("build"), help="folder for the weights")
    parser.add_argument("--heads", type=int, default=9_600, help="number of rendered pictures")
    parser.add_argument("--views", type=int, default=PhotoRecipe.views, help="of the keypoint network")
    parser.add_argument("--detector-views", type=int, default=80_000)
    parser.add_argument("--python", type=Path, default=Path("build/render/bin/python"), help="with VTK")
    parser.add_argument("--jobs", type=int, default=1, help="processes that render, and that make the views")
    parser.add_argument("--wheel", type=Path, help="scikit-image's; by default pip fetches it")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    render(options.folder, options.heads, options.python, options.jobs)
    photos = options.folder / "ccby"
    if options.photos and not photos.exists():
        photos.symlink_to(options.photos.resolve())
    if not (options.folder / "detection" / "boxes.csv").exists():
        compose(options.folder, read_backgrounds(options.wheel or fetch_wheel(options.folder)))
    names = "keypoints_free.safetensors", "detector_free.safetensors", "eyes_free.onnx"
    keypoints, faces, lids = (options.out / name for name in names)
    if not keypoints.exists():
        train_free(options.folder, keypoints, PhotoRecipe(views=options.views), options.jobs)
    own = detector_folder(options.folder, options.wheel)
    if not faces.exists():
        recipe = detector.DetectorRecipe(views=options.detector_views, views_an_epoch=4_000)
        detector.train(own, faces, recipe, workers=options.jobs)
    complete_record(faces, own, ["rendered", "detection", "ccby"])
    if not lids.exists():
        eyes.learn(options.folder, keypoints.with_suffix(".onnx"), eyes.EyeRecipe(), lids)
    complete_record(lids, options.folder, ["rendered"])


if __name__ == "__main__":
    main()
