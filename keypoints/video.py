"""Videos and cameras: frames with their times, and files that are whole or not there."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from keypoints.files import part_of, replaceable

# One sentence says what is wrong; OpenCV and FFmpeg would add pages. FFmpeg asks when the first video is opened.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
PATIENCE_MS = 10_000  # for a stream's address
AHEAD, AHEAD_BYTES = 8, 2**27  # frames decoded ahead of their use, but no more bytes unless one has more
MOST_PIXELS = 40_000_000  # of a frame; films of 8192×4320 have 35 million
LONGEST_FPS = 240.0
# What browsers play; which of them there are is the OpenCV build's. Its VP8 takes a seventh of the time of its VP9.
CODECS = {".mp4": {"vp09": "VP9", "avc1": "H.264"}, ".webm": {"VP80": "VP8", "VP90": "VP9"}}


class Video:
    """The frames of a video file, a camera or a stream, each with its time.

    A thread decodes ahead; of a camera or a stream only the newest frame is kept, so that what is shown is now.

    Args:
        source: a file's path, the number of a camera, or an address with ``://``.

    Attributes:
        live: whether frames come in real time.
        fps: frames a second, as the source says; 25 where it does not.
        count: frames of a file as its header says; 0 where it does not.
        size: width and height, pixels.
        decoding: seconds spent on decoding so far.

    Raises:
        OSError: no such file.
        ValueError: no such camera, an address that does not answer, a file that is no video, or one of larger frames
            than are read; while it is read, a frame that OpenCV gives up at.

    >>> video = Video("data/sample/clip.mp4")
    >>> time, frame = next(iter(video))
    >>> time, frame.shape, video.fps
    (0.0, (320, 320, 3), 25.0)
    >>> video.close()
    """

    def __init__(self, source: str | int | Path) -> None:
        self.source = str(source)
        camera, address = self.source.isdecimal(), "://" in self.source
        self.live = camera or address
        if not self.live:
            with open(self.source, "rb"):  # says what is wrong: no such file, a folder, no right to read
                pass
        with _Quiet():
            if camera:
                self._capture = cv2.VideoCapture(int(self.source))
            else:
                waits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, PATIENCE_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, PATIENCE_MS]
                self._capture = cv2.VideoCapture(self.source, cv2.CAP_FFMPEG, waits)
            began = time.perf_counter()
            sides = cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT
            width, height = (int(self._capture.get(side)) for side in sides)  # as the header says: nothing is decoded
            done, frame = False, None
            if self._capture.isOpened() and width * height <= MOST_PIXELS:
                with contextlib.suppress(cv2.error):
                    done, frame = self._capture.read()
        if width * height > MOST_PIXELS:
            self._capture.release()
            raise ValueError(
                f"{self.source}: got frames of {width}×{height} pixels, expected at most {MOST_PIXELS:,} pixels"
            )
        if not done or frame is None:
            self._capture.release()
            if camera:
                raise ValueError(f"{self.source}: expected the number of a camera, got none that gives pictures")
            if address:
                raise ValueError(f"{self.source}: expected a stream, got no picture within {PATIENCE_MS // 1000} s")
            raise ValueError(f"{self.source}: expected a video, got a file without a frame that OpenCV can decode")
        self.decoding = time.perf_counter() - began
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = float(fps) if 1 <= fps <= LONGEST_FPS else 25.0
        self.count = 0 if self.live else max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.size = (frame.shape[1], frame.shape[0])
        self._started = time.monotonic()
        first = self._stamp(-1.0)
        self._frames: deque = deque([(first, frame)])
        self._ready, self._ended = threading.Condition(), False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._decode, args=(first, frame.nbytes), daemon=True)
        self._thread.start()

    def _stamp(self, last: float) -> float:
        """The time of the frame read last, in seconds; after ``last`` in any case."""
        if self.live:
            return max(last + 1e-3, time.monotonic() - self._started)
        now = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        return now if now > last else max(0.0, last + 1 / self.fps)  # files without time stamps

    def _decode(self, first: float, frame_bytes: int) -> None:
        try:
            self._decode_all(first, min(AHEAD, max(1, AHEAD_BYTES // frame_bytes)))
        except cv2.error as error:
            reason = str(error).strip().splitlines()[-1]
            self._error = ValueError(f"{self.source}: expected a video, got a frame that OpenCV gives up at: {reason}")
        except Exception as error:  # whoever reads the frames is told
            self._error = error
        finally:
            with self._ready:
                self._ended = True
                self._ready.notify_all()
            self._capture.release()

    def _decode_all(self, last: float, ahead: int) -> None:
        while not self._ended:
            began = time.perf_counter()
            done, frame = self._capture.read()
            self.decoding += time.perf_counter() - began
            if not done:
                return
            with self._ready:
                if frame.shape[1::-1] == self.size:
                    last = self._stamp(last)
                    if self.live:
                        self._frames.clear()
                    self._frames.append((last, frame))
                self._ready.notify_all()
                while len(self._frames) >= ahead and not self.live and not self._ended:
                    self._ready.wait()

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        """Time in seconds and (H, W, 3) uint8 RGB, frame by frame."""
        while True:
            with self._ready:
                while not self._frames and not self._ended:
                    self._ready.wait(0.2)  # wakes up for Ctrl-C
                if not self._frames:
                    if self._error:
                        raise self._error
                    return
                stamp, frame = self._frames.popleft()
                self._ready.notify_all()
            yield stamp, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    def close(self) -> None:
        with self._ready:
            self._ended = True
            self._frames.clear()
            self._ready.notify_all()
        self._thread.join(timeout=2)


class VideoFile:
    """Writes a video that browsers play. The file has its name only once it is whole.

    It has a fixed number of frames a second. Where the source's differ, a frame is shown until the next one's time.

    Args:
        path: ends in .mp4 (VP9, or H.264 where OpenCV has no VP9) or .webm (VP8, which is written faster).

    Attributes:
        codec: which was taken.

    Raises:
        ValueError: another ending, or OpenCV can't write such a video here.
        OSError: the file or its folder is write-protected or can't be made.
    """

    def __init__(self, path: str | Path, fps: float, size: tuple[int, int]) -> None:
        self.path, self.fps, self._written = Path(path), fps, 0
        if self.path.suffix not in CODECS:
            raise ValueError(f"{path}: expected a name that ends in {' or '.join(CODECS)}, got {self.path.suffix!r}")
        if self.path.is_dir():
            raise ValueError(f"{path}: got a folder, expected a file")
        target = replaceable(path)
        if target is None:
            raise ValueError(f"{path}: got a device or a pipe, expected a file")
        self._target, self._part = target, part_of(target, f".part{self.path.suffix}")
        codecs = CODECS[self.path.suffix]
        for code, self.codec in codecs.items():
            with _Quiet():
                self._writer = cv2.VideoWriter(str(self._part), cv2.VideoWriter.fourcc(*code), fps, size)
            if self._writer.isOpened():
                break
        else:
            self._part.unlink(missing_ok=True)
            raise ValueError(f"{path}: this OpenCV writes neither {' nor '.join(codecs.values())} into such a file")
        self._began: float | None = None
        self._frames = 0  # in the file

    def write(self, image: np.ndarray, time: float) -> None:
        """(H, W, 3) uint8 RGB and its time in seconds."""
        if self._began is None:
            self._began = time
        due = round((time - self._began) * self.fps) + 1  # frames there should be by now
        frame = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        for _ in range(min(due - self._written, round(10 * self.fps))):
            self._writer.write(frame)
            self._written += 1
            self._frames += 1
        self._written = max(self._written, due)  # a pause of more than 10 s is cut short

    def close(self) -> None:
        """Finish the file and give it its name.

        Raises:
            OSError: not all of it could be written; nothing is left.
        """
        with _Quiet():
            self._writer.release()
            finished = cv2.VideoCapture(str(self._part), cv2.CAP_FFMPEG)  # the writer tells of no full disk
            whole = finished.get(cv2.CAP_PROP_FRAME_COUNT) >= self._frames - 1
            finished.set(cv2.CAP_PROP_POS_FRAMES, self._frames - 1)
            whole = finished.read()[0] and whole
            finished.release()
        if self._frames and not whole:
            self._part.unlink(missing_ok=True)
            raise OSError(f"{self.path}: the video could not be written whole, expected room on the disk")
        os.replace(self._part, self._target)

    def discard(self) -> None:
        """Leave nothing of a file that is not finished."""
        self._writer.release()
        self._part.unlink(missing_ok=True)


class Rows:
    """A CSV file, or with the header None one of JSON lines, that has its name only once it is whole.

    Until then it grows by whole rows as ``NAME.part`` beside it: what is older than a second is on disk there, whatever
    ends the process, and stays until the next file of this name is begun. A device or a pipe is written to itself.

    Raises:
        ValueError: ``path`` is a folder.
        OSError: it can't be written; the error names it.
    """

    def __init__(self, path: str | Path, header: Sequence[str] | None) -> None:
        self._path = path = Path(path)
        if path.is_dir():
            raise ValueError(f"{path}: got a folder, expected a file")
        self._target = replaceable(path)
        self._part = path
        if self._target:
            name = self._target.name
            name = name if len(os.fsencode(name)) <= 250 else name[:60]  # folders take names of 255 bytes
            self._part = self._target.with_name(f"{name}.part")
        try:
            self._file = open(self._part, "wb", buffering=0)  # noqa: SIM115 (closed by close)
        except OSError as error:
            error.filename = str(path)
            raise
        self._size = 0  # bytes, of whole rows
        self._waiting = io.StringIO(newline="")  # a file's own buffer would be written out in the middle of a row
        self._csv = csv.writer(self._waiting, lineterminator="\n")
        if header is not None:
            self._csv.writerow(header)
        try:
            self.flush()
        except OSError:
            self.leave()
            if self._target:
                self._part.unlink()
            raise

    def write(self, rows: Iterable[Sequence]) -> None:
        self._csv.writerows(rows)
        if time.monotonic() - self._flushed > 0.5:
            self.flush()

    def write_json(self, value: dict) -> None:
        """A line of JSON; NaN, which JSON lacks, is refused."""
        self._waiting.write(json.dumps(value, ensure_ascii=True, allow_nan=False) + "\n")

    def flush(self) -> None:
        rows = self._waiting.getvalue().encode("utf-8", "surrogateescape")  # a file's name may be no UTF-8
        data = memoryview(rows)
        self._waiting.seek(0)
        self._waiting.truncate()
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:  # a full disk names no file
            error.filename = str(self._path)
            if self._target:
                written = rows[: len(rows) - len(data)]
                self._file.truncate(self._size + written.rfind(b"\n") + 1)  # half a row goes
            raise
        self._size += len(rows)
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Finish the file and give it its name; nothing happens once :meth:`leave` was called."""
        if self._file.closed:
            return
        self.flush()
        self._file.close()
        if self._target:
            os.replace(self._part, self._target)

    def leave(self) -> None:
        """Stop where it is: what is not finished stays ``NAME.part``."""
        self._file.close()


class _Quiet:
    """What OpenCV and FFmpeg write to the standard error meanwhile is left out."""

    def __enter__(self) -> None:
        sys.stderr.flush()
        self._kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)

    def __exit__(self, *_: object) -> None:
        os.dup2(self._kept, 2)
        os.close(self._kept)
