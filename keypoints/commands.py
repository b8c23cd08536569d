"""What the commands of ``python -m keypoints`` do: detect, track, filter."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
from tqdm import tqdm

from keypoints import drawing, filters
from keypoints.command import check_out, printable, sentence
from keypoints.detection import FREE, Face, KeypointDetector
from keypoints.expression import Emotion, Expressions
from keypoints.files import check_writable, lock
from keypoints.images import find_images, read_image
from keypoints.landmarks import NUM_KEYPOINTS
from keypoints.tracking import LOST, FaceTracker
from keypoints.video import Rows, Video, VideoFile

KEYPOINT_COLUMNS = [f"{axis}{i}" for i in range(NUM_KEYPOINTS) for axis in "xy"]
CSV_HEADER = ["file", "face", "left", "top", "width", "height", *KEYPOINT_COLUMNS, "yaw", "pitch", "roll"]
EMOTION_COLUMNS = ["emotion", "emotion_probability"]
EMOTION_KEYS = {*EMOTION_COLUMNS, "emotion_probabilities"}  # of the JSON lines


def _detector(options: argparse.Namespace) -> KeypointDetector:
    return KeypointDetector(options.model, options.detector, threads=options.threads or 1)


def run_detect(options: argparse.Namespace) -> int:
    options.images = find_images(options.images)
    options.no_emotion |= str(options.model) == FREE
    for option, file in (("--csv", options.csv), ("--json", options.json)):
        if file:
            check_out(option, file, [*options.images, options.model])
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
    detector, drawn, status = _detector(options), set(), 0
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
                print(sentence(error, file), file=sys.stderr)
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
                drawing.write_image(options.draw / f"{name}.jpg", drawing.draw_faces(image, faces))
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
        record = {name: value for name, value in record.items() if name not in EMOTION_KEYS}
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
    options.no_emotion |= str(options.model) == FREE
    for option, file in (("--out", options.out), ("--csv", options.csv)):
        if file:
            check_out(option, file, [options.source, options.model])
    if options.show and sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        raise ValueError("got --show where no window can be opened, expected a display")
    effects = [filters.load_filter(name) for name in options.filter or ()]
    tracker = FaceTracker(_detector(options))
    with contextlib.ExitStack() as stack:
        for file in (options.out, options.csv):
            if file:
                stack.enter_context(lock(file))
        if options.show:
            drawing.open_window(f"{options.source} (q ends)")  # before PyAV is loaded, or it may hang
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
                    picture = drawing.draw_tracked(picture, faces, points=not effects, pose=options.pose, words=words)
            clock.append(perf_counter())
            if out:
                out.write(picture, time)
            clock.append(perf_counter())
            for step, took in zip(seconds, np.diff(clock), strict=True):
                seconds[step].append(float(took))
            if options.show and not drawing.show_frame(picture, f"{options.source} (q ends)"):
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
        f"{printable(options.source)}: {frames} frame{'s' * (frames != 1)}, {tracker.faces} "
        f"face{'s' * (tracker.faces != 1)}, detector on {tracker.detections} of them"
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
    if not (out or options.csv or options.show):
        print("nothing was written: --out writes a video, --csv a table")


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
            name = "_".join([source.stem, *(effect.name for effect in effects)])
            # What is read need not be what can be written: HEIC, for example.
            name += source.suffix if cv2.haveImageWriter(f"a{source.suffix}") else ".jpg"
            folder = options.out or source.parent
            out = folder / name if len(images) > 1 or not options.out else options.out
            check_out("--out", out, [*images, *written, options.model])
            detector = detector or _detector(options)
            _wear(source, out, detector, effects)
            written.add(out)
        except (OSError, ValueError) as error:
            if len(images) == 1:
                raise
            print(f"keypoints filter: {sentence(error, source)}", file=sys.stderr)
            status = 1
    return status


def _wear(source: Path, out: Path, detector: KeypointDetector, effects: list[filters.Filter]) -> None:
    image = read_image(source, with_alpha=out.suffix.lower() in (".png", ".webp"))
    faces = detector(image)
    if not faces:
        print(f"{printable(source)}: no face found, the picture stays as it was")
    out.parent.mkdir(parents=True, exist_ok=True)
    drawing.write_image(out, filters.dress(image, faces, effects))
    names = ", ".join(effect.name for effect in effects)
    print(f"{printable(out)}: {names} on {len(faces)} face{'s' * (len(faces) != 1)}")
