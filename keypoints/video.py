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
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from keypoints.files import part_of, replaceable

# One sentence says what is wrong; OpenCV and FFmpeg would add pages. FFmpeg asks when the first video is opened.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
PATIENCE_MS = 10_000  # for a stream's address
AHEAD, AHEAD_BYTES = 8, 2**27  # frames decoded ahead of their use, but no more bytes unless one has more
MOST_PIXELS = 40_000_000  # of a frame; films of 8192×4320 have 35 million
LONGEST_FPS = 240.0
# What browsers play, the fastest encoder first; which of them there are is the build's. Options as FFmpeg names them.
X264 = {"preset": "veryfast", "crf": "20", "bf": "0"}
H264: dict[str, dict] = {"libx264": X264, "libopenh264": {}, "h264_videotoolbox": {}, "mpeg4": {}}
VP9 = {"libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "30", "b": "0"}}
ENCODERS = {".mp4": H264, ".mov": H264, ".webm": VP9}
TICKS = 90_000  # a second, of the times of frames in a written video
LONGEST_PAUSE = 10.0  # seconds for which a frame of a written video stays; times may leap where a source is damaged


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
            self._matrix = None if self.live else _display_matrix(self.source)
            if self._matrix:
                self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)  # OpenCV takes a mirrored picture for a turned one
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
        frame = oriented(frame, self._matrix)
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
            frame = oriented(frame, self._matrix)
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


def _display_matrix(path: str) -> tuple[int, int, int, int] | None:
    """How a film's frames are to be turned and mirrored for display, see :func:`oriented`; None where they are not."""
    import av  # only here: where it comes before OpenCV's first window, that one may hang

    with contextlib.suppress(av.error.FFmpegError, OSError, ValueError), av.open(path) as film:
        stream = film.streams.video[0] if film.streams.video else None
        if stream is None or stream.width * stream.height > MOST_PIXELS:
            return None
        for data in next(film.decode(stream)).side_data:
            if data.type.name == "DISPLAYMATRIX":
                matrix = np.frombuffer(bytes(data), "=i4").reshape(3, 3)
                a, b, c, d = (int(value) for value in np.sign(matrix[:2, :2].round(-3)).ravel())
                if (b == c == 0 and a * d) or (a == d == 0 and b * c):  # other angles no camera writes
                    return None if (a, d) == (1, 1) else (a, b, c, d)
    return None


def oriented(frame: np.ndarray, matrix: tuple[int, int, int, int] | None) -> np.ndarray:
    """A frame as its film's display matrix (ISO/IEC 14496-12, 8.3.2) shows it: x' = a·x + c·y, y' = b·x + d·y."""
    if matrix is None:
        return frame
    a, b, c, d = matrix
    if a == 0:
        frame = frame.transpose(1, 0, 2)
    return np.ascontiguousarray(frame[:: (b or d), :: (a or c)])


class VideoFile:
    """Writes a video that browsers play, with PyAV. The file has its name only once it is whole.

    Each frame is shown from its own time on, so a variable frame rate stays. Sides must be even: of an odd one the
    last row or column stands there twice.

    Args:
        path: ends in .mp4, .mov (H.264) or .webm (VP9), in letters of either case.
        fps: frames a second, as a hint for players.
        size: width and height of the frames, pixels.
        sound: a film whose sound is copied, as far as the frames go.

    Attributes:
        codec: which was taken.
        silent: why the sound was left out; None where it was copied or where there is none.

    Raises:
        ValueError: another ending, or no encoder for it is here.
        OSError: the file or its folder is write-protected or can't be made.
    """

    def __init__(
        self, path: str | Path, fps: float, size: tuple[int, int], sound: str | Path | None = None
    ) -> None:
        import av

        self.path, self.size = Path(path), size
        ending = self.path.suffix.lower()
        if ending not in ENCODERS:
            raise ValueError(f"{path}: expected a name that ends in {', '.join(ENCODERS)}, got {self.path.suffix!r}")
        if self.path.is_dir():
            raise ValueError(f"{path}: got a folder, expected a file")
        target = replaceable(path)
        if target is None:
            raise ValueError(f"{path}: got a device or a pipe, expected a file")
        encoder = next((name for name in ENCODERS[ending] if name in av.codecs_available), None)
        if encoder is None:
            raise ValueError(f"{path}: this PyAV has none of the encoders {', '.join(ENCODERS[ending])}")
        self._target, self._part = target, part_of(target, f".part{ending}")
        self._file = open(self._part, "wb")  # noqa: SIM115 (closed by close); what fails to be written raises here
        self._film = av.open(self._file, "w", format=ending[1:])
        rate = Fraction(min(max(fps, 1.0), LONGEST_FPS)).limit_denominator(1001)
        self._stream = self._film.add_stream(encoder, rate=rate, options=ENCODERS[ending][encoder])
        self._stream.width, self._stream.height = (side + side % 2 for side in size)
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = Fraction(1, TICKS)
        self.codec = {"libvpx-vp9": "VP9", "mpeg4": "MPEG-4"}.get(encoder, "H.264")
        self.silent: str | None = None
        self._sound: Any = None
        self._copy: Any = None
        if sound is not None:
            self._open_sound(sound)
        self._began = self._last = 0.0  # seconds: of the source's first frame, of the newest one in the file
        self._ticks = -1  # of the newest frame in the file

    def _open_sound(self, sound: str | Path) -> None:
        import av

        try:
            self._sound = av.open(str(sound))
        except (av.error.FFmpegError, OSError):
            return  # a camera, a folder of pictures
        if not self._sound.streams.audio:
            return
        codec = self._sound.streams.audio[0].codec_context.name
        try:
            if codec not in self._film.supported_codecs:
                raise ValueError(codec)
            self._copy = self._film.add_stream_from_template(self._sound.streams.audio[0])
        except (av.error.FFmpegError, ValueError):
            self.silent = f"its sound ({codec}) cannot be copied into a {self.path.suffix} file"

    def write(self, image: np.ndarray, time: float) -> None:
        """(H, W, 3) uint8 RGB and its time in seconds, which is after the last one's.

        Raises:
            OSError: it can't be written.
            ValueError: ``time`` is not finite.
        """
        import av

        if not np.isfinite(time):
            raise ValueError(f"got time {time}, expected a finite number of seconds")
        if self._ticks < 0:
            self._began = time
        self._began += max(0.0, time - self._began - self._last - LONGEST_PAUSE)
        self._last = max(self._last, time - self._began)
        self._ticks = max(self._ticks + 1, round(self._last * TICKS))
        height, width = image.shape[:2]
        image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = self._ticks, Fraction(1, TICKS)
        self._mux(self._stream.encode(frame))

    def _mux(self, packets: Iterable) -> None:
        try:
            for packet in packets:
                self._film.mux(packet)
        except OSError as error:
            error.filename = str(self.path)  # a full disk names no file
            raise

    def _copy_sound(self) -> None:
        if self._copy is None or self._sound is None:
            return
        for packet in self._sound.demux(self._sound.streams.audio[0]):
            if packet.pts is None or packet.dts is None:
                continue
            at = float(packet.pts * packet.time_base) - self._began
            if 0 <= at <= self._last + 0.1:
                shift = round(self._began / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, self._copy
                self._film.mux(packet)

    def close(self) -> None:
        """Finish the file and give it its name.

        Raises:
            OSError: not all of it could be written; nothing is left.
        """
        try:
            if self._ticks >= 0:
                self._mux(self._stream.encode())
                self._copy_sound()
            self._film.close()
            self._file.close()
        except OSError as error:
            self.discard()
            error.filename = str(self.path)
            raise
        self._end()
        os.replace(self._part, self._target)

    def _end(self) -> None:
        if self._sound is not None:
            self._sound.close()
            self._sound = None

    def discard(self) -> None:
        """Leave nothing of a file that is not finished."""
        self._end()
        with contextlib.suppress(OSError, ValueError):
            self._film.close()
        with contextlib.suppress(OSError):
            self._file.close()
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
