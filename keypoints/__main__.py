"""Command line: ``python -m keypoints detect|track|filter|evaluate|failures|train|export``."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import Subset
from tqdm import tqdm

from data_load import (
    NUM_KEYPOINTS,
    FacialKeypointsDataset,
    evaluation_transform,
    find_data,
    person_of,
    read_keypoints,
    require_images,
    training_transform,
    with_all_points,
)
from keypoints import distributed, filters, photo_training, plots
from keypoints.detection import Face, KeypointDetector, framing_dict, measure_framing
from keypoints.emotion import Emotion
from keypoints.evaluation import FRAMINGS, RESULTS, by_person, evaluate, evaluate_framings, evaluate_weights, table
from keypoints.export import export_onnx
from keypoints.failures import write_page
from keypoints.files import check_writable, lock, write_json
from keypoints.images import find_images, read_image
from keypoints.labels import LabelOptions, LabelWarning
from keypoints.splits import find_wild, people_split
from keypoints.tracking import LOST, Expressions, FaceTracker
from keypoints.training import PHOTO_RECIPE, Recipe, fit
from keypoints.video import Rows, Video, VideoFile
from keypoints.weights import DEFAULT_MODEL, MODEL_DIR, load_model, save_model
from models import Net

BUILD = RESULTS.parent / "build"
CSV_HEADER = [
    "file",
    "face",
    "left",
    "top",
    "width",
    "height",
    *(f"{axis}{i}" for i in range(NUM_KEYPOINTS) for axis in "xy"),
    "yaw",
    "pitch",
    "roll",
]
EMOTION_COLUMNS = ["emotion", "emotion_probability"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m keypoints", description="Find faces and their 68 keypoints.")
    parser.add_argument("--threads", type=int, help="threads for torch (default: as many as cores)")
    commands = parser.add_subparsers(dest="command", required=True)
    framings = "; ".join(f"{name}: {text}" for name, text in FRAMINGS.items())

    detect = commands.add_parser(
        "detect",
        help="find the faces in images",
        description="Find the faces in images: a line a face on standard output.",
    )
    detect.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders, patterns such as '*.jpg'")
    detect.add_argument(
        "--csv",
        type=Path,
        metavar="FILE",
        help="write file, face, box, keypoints, pose and emotion, a row a face; meanwhile FILE.part grows, and stays "
        "where the command is interrupted",
    )
    detect.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the same as --csv, confidence and score, as JSON lines: an object a face",
    )
    detect.add_argument(
        "--no-emotion", action="store_true", help="leave out the posed expression and how probable it is"
    )
    detect.add_argument("--draw", type=Path, metavar="DIR", help="write each image with its faces drawn in")
    detect.add_argument(
        "--model", type=Path, default=DEFAULT_MODEL, metavar="FILE", help="weights (default: the shipped ones)"
    )
    detect.set_defaults(run=run_detect)

    track = commands.add_parser(
        "track",
        help="follow the faces of a video or a camera",
        description="Follow the faces of a video or a camera, with steady points and ids. Ctrl-C finishes the files.",
    )
    track.add_argument("source", metavar="SOURCE", help="a video file, the number of a camera, or a stream's address")
    track.add_argument(
        "--out",
        type=Path,
        metavar="VIDEO",
        help="write the video with the faces drawn in, and the source's sound: .mp4 or .mov (H.264) or .webm (VP9); it "
        "has its name once it is whole",
    )
    track.add_argument(
        "--csv",
        type=Path,
        metavar="FILE",
        help="write frame, time, id, state, box, keypoints, pose, emotion, blink and mouth_open, a row a face; "
        "meanwhile FILE.part grows, at most a second behind, and stays where the command is killed",
    )
    track.add_argument(
        "--no-emotion", action="store_true", help="leave out the posed expression and how probable it is"
    )
    track.add_argument("--filter", nargs="+", metavar="NAME", help="wear these instead of points; see filter --list")
    track.add_argument("--pose", action="store_true", help="draw the head's axes, too")
    track.add_argument("--show", action="store_true", help="show it in a window; q ends it")
    track.add_argument(
        "--model", type=Path, default=DEFAULT_MODEL, metavar="FILE", help="weights (default: the shipped ones)"
    )
    track.set_defaults(run=run_track)

    wear = commands.add_parser(
        "filter",
        help="put sunglasses, a hat or a smile on the faces of an image",
        description="Put a filter on every face of images. Without a face the picture is written as it was. PNG and "
        "WebP keep their transparency.",
    )
    wear.add_argument(
        "images", nargs="*", metavar="IMAGE", help="files, folders of them, or patterns such as '*.jpg'"
    )
    wear.add_argument("--filter", nargs="+", metavar="NAME", help="one or more; see --list")
    wear.add_argument("--list", action="store_true", help="list the filters and stop")
    wear.add_argument(
        "--out", type=Path, metavar="FILE", help="picture, or folder for several (default: IMAGE_NAME beside each)"
    )
    wear.add_argument(
        "--model", type=Path, default=DEFAULT_MODEL, metavar="FILE", help="weights (default: the shipped ones)"
    )
    wear.set_defaults(run=run_filter)

    measure = commands.add_parser(
        "evaluate",
        help="measure weights on labelled images",
        description="Measure weights on the official test set (the sample's where that is missing), on people never "
        "seen (by their twins' records) and on photos in the wild; or, with --csv, on images of your own.",
    )
    _add_set(measure)
    measure.add_argument(
        "--model",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="weights (default: all shipped keypoints_model_*.safetensors)",
    )
    measure.add_argument(
        "--framing", choices=FRAMINGS, nargs="+", default=list(FRAMINGS), help=f"(default: all) {framings}"
    )
    measure.add_argument(
        "--wild",
        type=Path,
        metavar="DIR",
        help="photos in the wild with their wild_keypoints.csv (default: $KEYPOINTS_WILD, else data/wild if present)",
    )
    measure.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="for the figures (default: results/evaluation.json for shipped weights on the official set, "
        "else build/evaluation.json)",
    )
    measure.set_defaults(run=run_evaluate)

    worst = commands.add_parser(
        "failures",
        help="a page of the worst faces",
        description="Write a page of the worst faces of the test images, by part of the face, yaw, sharpness and size.",
    )
    _add_set(worst)
    worst.add_argument(
        "--model", type=Path, default=DEFAULT_MODEL, metavar="FILE", help="weights (default: the shipped ones)"
    )
    worst.add_argument("--framing", choices=["haar", "box"], default="haar", help=f"(default: haar) {framings}")
    worst.add_argument(
        "--out", type=Path, default=BUILD / "failures", metavar="DIR", help="for the page (default: build/failures)"
    )
    worst.set_defaults(run=run_failures)

    train = commands.add_parser(
        "train",
        help="run the recipe",
        description="Train Net on the official set where it was fetched, else on the sample.",
    )
    _add_set(train)
    train.add_argument(
        "--twin",
        action="store_true",
        help="train without the validation and the test people of data/splits.json, watch the former, measure both at "
        "the end, for figures of people never seen (of another set 15 %% of the people each, drawn by the same rule)",
    )
    train.add_argument(
        "--network",
        choices=["Net", "PhotoNet"],
        default="Net",
        help="PhotoNet learns photographs: the training people of the official set or the sample, the wild photos and "
        "rendered heads, each face turned, lit and spoilt anew every time (default: Net, the recipe)",
    )
    train.add_argument("--wild", type=Path, metavar="DIR", help="for PhotoNet: the wild photos (default: see evaluate)")
    train.add_argument(
        "--rendered",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="for PhotoNet: folders written by data/sample/render.py beside the sample",
    )
    train.add_argument("--epochs", type=int, help="(default: the recipe's)")
    train.add_argument("--seed", type=int, default=Recipe.seed)
    train.add_argument(
        "--bfloat16",
        action="store_true",
        help="train the convolutions with 16 bits: twice as fast on processors with AVX512_BF16 or AMX, slow on others",
    )
    train.add_argument("--device", default="cpu", choices=["auto", "cpu", "cuda", "mps"])
    train.add_argument(
        "--out",
        type=Path,
        default=MODEL_DIR / "mine.safetensors",
        metavar="FILE",
        help="weights; their record goes beside them as JSON (default: saved_models/mine.safetensors)",
    )
    train.set_defaults(run=run_train)

    export = commands.add_parser(
        "export",
        help="write the network for other runtimes",
        description="Write the network as one ONNX file with a dynamic batch; needs the packages onnx and onnxscript.",
    )
    export.add_argument("--onnx", type=Path, required=True, metavar="FILE", help="the file to write")
    export.add_argument(
        "--model", type=Path, default=DEFAULT_MODEL, metavar="FILE", help="weights (default: the shipped ones)"
    )
    export.set_defaults(run=run_export)
    return parser


def run_detect(options: argparse.Namespace) -> int:
    options.images = find_images(options.images)
    for option, file in (("--csv", options.csv), ("--json", options.json)):
        if file:
            _check_out(option, file, [*options.images, options.model])
            check_writable(file)  # before many images
    if options.csv and options.json and options.csv.resolve() == options.json.resolve():
        raise ValueError(f"--json {options.json}: got the file of --csv, expected another")
    if options.draw and options.draw.exists():
        if not options.draw.is_dir():
            raise ValueError(f"--draw {options.draw}: got a file, expected a folder")
        images = {Path(file).resolve() for file in options.images}
        if any(file.resolve() in images for file in options.draw.iterdir()):  # links are followed when written to
            raise ValueError(f"--draw {options.draw}: the pictures would overwrite the images, expected another folder")
    if options.draw:
        check_writable(options.draw / "picture.jpg")
    detector, drawn, status = KeypointDetector(options.model), set(), 0
    header = CSV_HEADER if options.no_emotion else CSV_HEADER + EMOTION_COLUMNS
    with contextlib.ExitStack() as stack:
        table = Rows(options.csv, header) if options.csv else None
        lines = Rows(options.json, None) if options.json else None
        outputs = [output for output in (table, lines) if output]
        for output in outputs:
            stack.callback(output.leave)  # nothing, once it has its name
        for file in options.images:
            try:
                image = read_image(file)
                faces = detector(image)
                told = [_tell_face(file, number, face, options) for number, face in enumerate(faces)]
            except (OSError, ValueError, MemoryError, cv2.error) as error:
                print(_sentence(error, file), file=sys.stderr)
                status = 1
                continue
            if not faces:
                print(f"{printable(file)}: no face found")
            for line, row, record in told:
                print(line)
                if table:
                    table.write([row])
                if lines:
                    lines.write_json(record)
            for output in outputs:
                output.flush()
            if options.draw:
                name, again = Path(file).stem, 2
                while name in drawn:  # pictures of the same name from different folders
                    name, again = f"{Path(file).stem}_{again}", again + 1
                drawn.add(name)
                plots.write_image(options.draw / f"{name}.jpg", plots.draw_faces(image, faces))
        for output in outputs:
            output.close()
    return status


def _tell_face(file: str, number: int, face: Face, options: argparse.Namespace) -> tuple[str, list, dict]:
    """What is said of a face: the line on standard output, its row of the CSV, and its record of the JSON lines."""
    box = [f"{value:g}" for value in face.box]
    line = f"{printable(file)}: face {number} at left {box[0]}, top {box[1]}, {box[2]}×{box[3]} pixels"
    row = [file, number, *_columns(face)]
    if not options.no_emotion:
        line += f", {face.emotion.label}"
        row += _emotion_columns(face.emotion)
    record = {"file": file, "face": number, **face.to_dict()} if options.json else {}
    if options.no_emotion:
        record = {name: value for name, value in record.items() if name not in EMOTION_COLUMNS}
    return line, row, record


def _emotion_columns(emotion: Emotion | None) -> list[str]:
    """An expression's columns of EMOTION_COLUMNS; empty for a face that is not seen."""
    return ["", ""] if emotion is None else [emotion.label, f"{emotion.probability:.2f}"]


def _columns(face: Face) -> list[str]:
    """A face's columns of CSV_HEADER, but for the file and its number."""
    box = [f"{value:g}" for value in face.box]
    angles = (face.pose.yaw, face.pose.pitch, face.pose.roll)
    return [*box, *(f"{value:.2f}" for value in (*face.keypoints.ravel(), *angles))]


def track_header(emotion: bool) -> list[str]:
    """The columns of `track`, with or without those of the expression."""
    own = [*CSV_HEADER[2:], *(EMOTION_COLUMNS if emotion else ())]
    return ["frame", "time", "id", "state", *own, "blink", "mouth_open"]


def run_track(options: argparse.Namespace) -> int:
    for option, file in (("--out", options.out), ("--csv", options.csv)):
        if file:
            _check_out(option, file, [options.source, options.model])
    if options.show and sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        raise ValueError("got --show where no window can be opened, expected a display")
    effects = [filters.load_filter(name) for name in options.filter or ()]
    tracker = FaceTracker(options.model)
    with contextlib.ExitStack() as stack:
        for file in (options.out, options.csv):
            if file:
                stack.enter_context(lock(file))
        if options.show:
            plots.open_window(f"{options.source} (q ends)")  # before PyAV is loaded, or it may hang
        video = Video(options.source)
        stack.callback(video.close)
        rows = out = None
        if options.out:
            out = VideoFile(options.out, video.fps, video.size, sound=None if video.live else options.source)
            stack.callback(out.discard)  # nothing, once it has its name
        if options.csv:
            rows = Rows(options.csv, track_header(not options.no_emotion))
            stack.callback(rows.leave)
        seconds, interrupted = _track(options, video, tracker, effects, rows, out)
        if rows:
            rows.close()
        if out:
            out.close()
    _tell(options, video, tracker, seconds, out)
    return 130 if interrupted and not video.live else 0


def _track(options, video, tracker, effects, rows, out) -> tuple[dict[str, list[float]], bool]:
    """Frame by frame; what each step took, seconds a frame, and whether Ctrl-C or a polite kill ended it."""
    seconds: dict[str, list[float]] = {"tracking": [], "rows": [], "drawing": [], "writing": []}
    expressions = Expressions()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt) if threading.current_thread() is threading.main_thread() else None
    try:
        # A live source goes on for ever: its length says nothing.
        for number, (time, frame) in enumerate(
            tqdm(video, total=video.count or None, unit=" frames", leave=False, mininterval=1)
        ):
            clock = [perf_counter()]
            faces = tracker(frame, time)
            clock.append(perf_counter())
            emotions = expressions(faces) if not options.no_emotion and (rows or out or options.show) else {}
            if rows:
                for face in faces:
                    more = _emotion_columns(emotions[face.id]) if emotions else []
                    signals = [int(face.blink), int(face.mouth_open)]
                    rows.write([[number, f"{time:.3f}", face.id, face.state, *_columns(face), *more, *signals]])
            clock.append(perf_counter())
            if out or options.show:
                picture = filters.dress(frame, [face for face in faces if face.state != LOST], effects)
                if not effects or options.pose:
                    words = {number: emotion.label for number, emotion in emotions.items() if emotion}
                    picture = plots.draw_tracked(picture, faces, points=not effects, pose=options.pose, words=words)
            clock.append(perf_counter())
            if out:
                out.write(picture, time)
            clock.append(perf_counter())
            for step, took in zip(seconds, np.diff(clock), strict=True):
                seconds[step].append(float(took))
            if options.show and not plots.show_frame(picture, f"{options.source} (q ends)"):
                break
        return seconds, False
    except KeyboardInterrupt:
        return seconds, True
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _tell(options, video, tracker, seconds, out) -> None:
    """What was done, and how long each step took."""
    frames = len(seconds["tracking"])
    if not frames:
        return
    milliseconds = {step: 1000 * float(np.median(took)) for step, took in seconds.items()}
    print(
        f"{printable(options.source)}: {frames} frames, {tracker.faces} face{'s' * (tracker.faces != 1)}, detector on "
        f"{tracker.detections} frames"
    )
    print(
        f"tracking {1000 / milliseconds['tracking']:.0f} frames/s (median; mean "
        f"{frames / sum(seconds['tracking']):.0f}); beside it, ms a frame: "
        f"decoding {1000 * video.decoding / frames:.1f}, pose, emotion and rows {milliseconds['rows']:.1f}, drawing "
        f"{milliseconds['drawing']:.1f}, writing {milliseconds['writing']:.1f}"
    )
    if video.count and frames < video.count and not video.live:
        print(f"{printable(options.source)}: the file promises {video.count} frames", file=sys.stderr)
    if out:
        print(f"wrote {printable(options.out)} ({out.codec})")
        if out.silent:
            print(f"{printable(options.source)}: {out.silent}", file=sys.stderr)
    if options.csv:
        print(f"wrote {printable(options.csv)}")


def run_filter(options: argparse.Namespace) -> int:
    if options.list:
        for name in filters.filter_names():
            print(f"{name}: {filters.load_filter(name).about}")
        return 0
    if not options.images or not options.filter:
        raise ValueError("got no IMAGE or no --filter, expected both, IMAGE first, or --list")
    images = find_images(options.images)
    effects = [filters.load_filter(name) for name in options.filter]
    if len(images) > 1 and options.out and options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out {options.out}: got a file, expected a folder for {len(images)} images")
    written: set[Path] = set()
    detector, status = None, 0
    for source in map(Path, images):
        try:
            name = f"{source.stem}_{'_'.join(options.filter)}"
            # What is read need not be what can be written: HEIC, for example.
            name += source.suffix if cv2.haveImageWriter(f"a{source.suffix}") else ".jpg"
            folder = options.out or source.parent
            out = folder / name if len(images) > 1 or not options.out else options.out
            _check_out("--out", out, [*images, *written, options.model])
            check_writable(out)
            detector = detector or KeypointDetector(options.model)
            _wear(source, out, detector, effects)
            written.add(out)
        except (OSError, ValueError) as error:
            if len(images) == 1:
                raise
            print(f"keypoints filter: {_sentence(error, source)}", file=sys.stderr)
            status = 1
    return status


def _wear(source: Path, out: Path, detector: KeypointDetector, effects: list[filters.Filter]) -> None:
    image = read_image(source, with_alpha=out.suffix.lower() in (".png", ".webp"))
    faces = detector(image)
    if not faces:
        print(f"{printable(source)}: no face found, the picture stays as it was")
    out.parent.mkdir(parents=True, exist_ok=True)
    plots.write_image(out, filters.dress(image, faces, effects))
    names = ", ".join(effect.name for effect in effects)
    print(f"{printable(out)}: {names} on {len(faces)} face{'s' * (len(faces) != 1)}")


def run_evaluate(options: argparse.Namespace) -> int:
    name, csv_file, images, how = _labelled(options, "test")
    shipped = sorted(MODEL_DIR.glob("keypoints_model_*.safetensors"))
    models = options.model or shipped
    # Beside one's own images the photos in the wild are measured only where they are asked for.
    wild = None if options.csv and not options.wild else find_wild(options.wild)
    official = name == "official"
    committed = official and models == shipped and options.framing == list(FRAMINGS)
    out = options.json or (RESULTS if committed else BUILD) / "evaluation.json"
    _check_out("--json", out, [csv_file, *models])
    check_writable(out)
    measured, status = [], 0
    for model in models:
        try:
            figures = evaluate_weights(model, csv_file, images, wild, options.framing, official, **how)
            figures["by_person"] = None if options.csv else by_person(model)
        except (OSError, ValueError) as error:
            if len(models) == 1:
                raise
            print(_sentence(error, model), file=sys.stderr)
            status = 1
            continue
        measured.append(figures)
    if not measured:
        return 2
    content = {"data": name, "models": measured}
    print(f"{table(content)}\n\nNME, failures and AUC (NME_box, 7 %) in percent, [95 % interval over people].")
    if not options.csv and name != "official":
        print(f"The official set is not in data/: this is the {name}'s test set.")
    if not options.csv and not all(model["by_person"] for model in measured):
        print("People never seen are missing where results/ holds no twin's record of the same recipe ('make twin').")
    if not options.csv and wild is None:
        print("The wild photos are not here: name their folder with --wild.")
    write_json(out, content)  # last, so that a full disk takes nothing from what was printed
    print(f"wrote {out}")
    return status


def run_failures(options: argparse.Namespace) -> int:
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out {options.out}: got a file, expected a folder")
    check_writable(options.out / "index.html")
    _, csv_file, images, how = _labelled(options, "test")
    result = evaluate(load_model(options.model), csv_file, images, options.framing, **how)
    print(f"wrote {write_page(options.out, result, FacialKeypointsDataset(csv_file, images, **how))}")
    return 0


def _add_set(command: argparse.ArgumentParser) -> None:
    command.add_argument("--csv", type=Path, help="labels of your own images in the official layout, with --images")
    command.add_argument("--images", type=Path, metavar="DIR", help="the folder that holds these images, with --csv")
    command.add_argument(
        "--missing",
        choices=["refuse", "mask"],
        default="refuse",
        help="what to do with points without coordinates (empty, NaN, -1): refuse them, or mask them: nothing is "
        "learnt from them, and no error counts them (default: refuse)",
    )
    command.add_argument(
        "--bad-labels",
        choices=["refuse", "skip"],
        default="refuse",
        help="what to do with points outside their image and with faces upside down, mirrored or of a few pixels: "
        "refuse them, or leave them out and say how many (default: refuse)",
    )


def _labelled(options: argparse.Namespace, split: str) -> tuple[str, Path, Path, LabelOptions]:
    """The user's own set where --csv and --images name one, else the official set or the sample.

    Returns:
        name, CSV file, folder of the images (all are there), and how the labels (which are sound) are read.
    """
    if (options.csv is None) != (options.images is None):
        raise ValueError("got only one of --csv and --images, expected both or none")
    if options.csv:
        name, csv_file, images = str(options.csv), options.csv, options.images
    else:
        data = find_data()
        name, csv_file, images = data.name, data.csv_file(split), data.image_dir(split)
    how = LabelOptions(missing=options.missing, bad_labels=options.bad_labels)
    require_images(read_keypoints(csv_file, images, **how)[0], images)
    return name, csv_file, images, how


def run_train(options: argparse.Namespace) -> int:
    out = options.out
    _check_out("--out", out, [options.csv] if options.csv else [])
    # The first two are the record's and the checkpoint's beside it; the others name PyTorch's own format.
    if out.suffix.lower() in (".json", ".checkpoint", ".pt", ".pth"):
        raise ValueError(f"--out {out}: got the ending {out.suffix}, expected another for the weights: .safetensors")
    if out.exists() and not out.is_file():
        raise ValueError(f"--out {out}: got a device or a pipe, expected a file")
    for file in (out, out.with_suffix(".json"), out.with_suffix(".checkpoint")):
        check_writable(file)  # before hours of training
    with contextlib.ExitStack() as stack:
        world = stack.enter_context(distributed.together(options.device))
        if world.first:  # outs that differ in their ending alone share their record and their checkpoint
            stack.enter_context(lock(out.with_suffix(".json")))
        train = train_photo_net if options.network == "PhotoNet" else train_net
        return train(options, world)


def _recipe(options: argparse.Namespace, recipe: Recipe) -> Recipe:
    epochs = recipe.epochs if options.epochs is None else options.epochs
    return replace(recipe, bfloat16=options.bfloat16, seed=options.seed, epochs=epochs)


def train_photo_net(options: argparse.Namespace, world: distributed.World) -> int:
    if options.twin:
        raise ValueError("got --twin with PhotoNet, which holds the validation and the test people out anyway")
    name, csv_file, images, how = _labelled(options, "training")
    data = photo_training.photo_data(name, csv_file, images, find_wild(options.wild), options.rendered, **how)
    if world.first:
        print(f"faces an epoch: {data.counts}; {len(data.validation)} to validate on", flush=True)
    net, record = photo_training.train(data, _recipe(options, PHOTO_RECIPE), options.out, options.device)
    if not world.first:
        return 0
    save_model(net, options.out, {"data": name, "faces": data.counts, "held_out_people": data.held_out, **record})
    print(f"saved {options.out} and {options.out.with_suffix('.json')}")
    return 0


def train_net(options: argparse.Namespace, world: distributed.World) -> int:
    name, csv_file, images, how = _labelled(options, "training")
    if world.first:
        print(f"data: {name}", flush=True)
    training_set = FacialKeypointsDataset(csv_file, images, training_transform(), **how)
    names = training_set.names
    held_out = people_split(names) if options.twin else {}
    train = held_out.pop("training", list(range(len(names))))
    recipe = _recipe(options, Recipe())
    torch.manual_seed(recipe.seed)
    net = Net()
    samples = Subset(FacialKeypointsDataset(csv_file, images, with_all_points, **how), train)
    net.framing = framing_dict(measure_framing(samples))
    validation_set = None
    if options.twin:
        validation_set = Subset(
            FacialKeypointsDataset(csv_file, images, evaluation_transform(), **how), held_out["validation"]
        )
    record = fit(
        net, Subset(training_set, train), validation_set, recipe, options.device, options.out.with_suffix(".checkpoint")
    )
    if not world.first:
        return 0
    people = sorted({person_of(names[i]) for part in held_out.values() for i in part})
    record = {"data": name, "held_out_people": people, **record}
    if options.twin:
        record["by_person"] = {
            part: evaluate_framings(net, csv_file, images, names=[names[i] for i in members], **how)
            for part, members in held_out.items()
        }
    save_model(net, options.out, record)
    print(f"saved {options.out} and {options.out.with_suffix('.json')}")
    return 0


def run_export(options: argparse.Namespace) -> int:
    _check_out("--onnx", options.onnx, [options.model])
    export_onnx(load_model(options.model), options.onnx)
    print(f"wrote {options.onnx}: {options.onnx.stat().st_size / 1e6:.1f} MB")
    return 0


def _check_out(option: str, out: Path, sources: Iterable[str | Path]) -> None:
    """Refuse a folder, and to write over what is read."""
    if out.is_dir():
        raise ValueError(f"{option} {out}: got a folder, expected a file")
    if out.is_file() and any(Path(source).exists() and out.samefile(source) for source in sources):
        raise ValueError(f"{option} {out}: the source would be overwritten, expected another file")


def _sentence(error: Exception, file: str | Path) -> str:
    """One line that names the file."""
    text = f"{error.strerror or error}" if isinstance(error, OSError) else str(error)
    return printable(text if str(file) in text else f"{file}: {text}")


def _tell_warning(others: Callable[..., None]) -> Callable[..., None]:
    """Warnings about labels as one sentence on standard error, each once, and the others as before."""
    told = set()

    def show(message: Warning | str, *details: Any, **more: Any) -> None:
        if not isinstance(message, LabelWarning):
            others(message, *details, **more)
        elif str(message) not in told:
            told.add(str(message))
            print(printable(message), file=sys.stderr)

    return show


def printable(text: object) -> str:
    r"""Text for one line of a terminal: a file's name may hold line ends and bytes that are no characters.

    >>> printable("a\nb ü.jpg")
    'a\\nb ü.jpg'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def main(arguments: list[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's are none
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal can't show ends nothing
    options = _parser().parse_args(arguments)
    try:
        if options.threads is not None:
            if options.threads < 1:
                raise ValueError(f"got --threads {options.threads}, expected 1 or more")
            torch.set_num_threads(options.threads)
        with warnings.catch_warnings():
            warnings.simplefilter("always", LabelWarning)
            warnings.showwarning = _tell_warning(warnings.showwarning)
            return options.run(options)
    except KeyboardInterrupt:
        print(
            "interrupted; the same command goes on from the last whole epoch"
            if options.command == "train"
            else "interrupted",
            file=sys.stderr,
        )
        return 130
    except (OSError, ValueError) as error:
        print(
            f"keypoints {options.command}: {_sentence(error, getattr(error, 'filename', None) or '')}", file=sys.stderr
        )
        return 2


if __name__ == "__main__":
    sys.exit(main())
