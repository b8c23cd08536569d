"""Damaged files: reading any bytes ends in a result or in one sentence.

    python tests/soak/fuzz.py --cases 100000          # writes what it found into results/soak.json

A case is a file of the repository (an image, labels, weights, a filter, a video) with damaged bytes: flipped bits, or
parts overwritten, cut, doubled or copied from another file. Every other case passes the format's first checks: it
changes a number of a text or corrects a PNG's checksums. `(seed, kind, case)` gives the same bytes each time. Cases run
in a process of their own, so that a crash, a hang, much memory and files written elsewhere are found as well.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import itertools
import json
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import torch  # noqa: E402

from data_load import DATA_DIR, find_data, read_image, read_keypoints  # noqa: E402
from keypoints.detection import KeypointDetector  # noqa: E402
from keypoints.files import write_json  # noqa: E402
from keypoints.filters import FILTER_DIR, apply_filter, load_filter  # noqa: E402
from keypoints.video import Video  # noqa: E402
from models import CoarseToFine  # noqa: E402
from training.weights import MODEL_DIR, load_model, save_model  # noqa: E402

SEED = 2026
HANG, STUCK = 10, 30  # seconds of computing, and of waiting, after which a case counts as hanging
MEMORY = 1000  # MB of the process without the libraries that are mapped from files
SHARES = {"image": 0.7, "labels": 0.1, "weights": 0.1, "filter": 0.09, "video": 0.01}
QUICK = {"image": 400, "labels": 150, "weights": 50, "filter": 150, "video": 5}  # cases of the ordinary tests
SPECIAL = [bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"nan", b"-1", b"1e999", b'"', b",,", b"\n"]
MILD = [b"0", b"1", b"-1", b"0.3", b"7", b"-40", b"150.5"]  # what might be meant, and what never is
NUMBERS = [*MILD, *MILD, b"1e999", b"-1e300", b"nan", b"1e-300", b"99999999999999999999", b'""', b"null", b"[]", b"x"]


def mutated(rng: np.random.Generator, seeds: list[bytes]) -> bytes:
    """Damage one of the seeds in one to four ways."""
    data = bytearray(seeds[rng.integers(len(seeds))])
    for _ in range(rng.integers(1, 5)):
        place, length = (int(rng.integers(max(1, len(data)))) for _ in range(2))
        length = min(length, int(2 ** rng.uniform(0, 10)))
        what = rng.integers(8)
        if what == 0:
            for spot in rng.integers(0, max(1, len(data)), 6):
                data[spot : spot + 1] = bytes([data[spot] ^ (1 << rng.integers(8))]) if data else b""
        elif what == 1:
            data[place : place + length] = rng.bytes(length)
        elif what == 2:
            del data[place:]
        elif what == 3:
            del data[place : place + length]
        elif what == 4:
            data[place:place] = data[place : place + length]
        elif what == 5:
            special = SPECIAL[rng.integers(len(SPECIAL))]
            data[place : place + len(special)] = special
        elif what == 6:
            other = seeds[rng.integers(len(seeds))]
            start = int(rng.integers(max(1, len(other))))
            data[place : place + length] = other[start : start + length]
        else:  # near the beginning are the headers
            data[: 1 + place % 64] = bytes(data[: 1 + place % 64])[::-1]
    return bytes(data)


def deeper(rng: np.random.Generator, seeds: list[bytes]) -> bytes:
    """Damage one of the seeds past the first checks of its format."""
    data = seeds[rng.integers(len(seeds))]
    if data.startswith(b"\x89PNG"):
        return _checked_png(mutated(rng, [data]))
    spots = [match.span() for match in re.finditer(rb"-?\d+(\.\d+)?", data)] if b"\0" not in data else []
    if spots:
        for start, end in sorted((spots[i] for i in rng.integers(len(spots), size=rng.integers(1, 4))), reverse=True):
            data = data[:start] + NUMBERS[rng.integers(len(NUMBERS))] + data[end:]
        return data
    return mutated(rng, [data])


def _checked_png(data: bytes) -> bytes:
    """Correct the checksums of all chunks."""
    place, chunks = 8, [data[:8]]
    while place + 12 <= len(data):
        length = struct.unpack(">I", data[place : place + 4])[0]
        content = data[place + 4 : place + 8 + length]
        chunks.append(data[place : place + 4] + content + struct.pack(">I", zlib.crc32(content)))
        place += 12 + length
    return b"".join([*chunks, data[place:]])


def image_seeds() -> list[bytes]:
    """Return small images of each format that OpenCV writes."""
    image = cv2.resize(read_image(DATA_DIR / "photos" / "astronaut.jpg"), (96, 96))
    kinds = dict.fromkeys((".jpg", ".png", ".bmp", ".tiff", ".webp", ".ppm", ".gif", ".jp2"), image)
    kinds |= {".pgm": image[..., 0], ".hdr": image.astype(np.float32) / 255}
    pairs = [*kinds.items(), (".png", np.dstack([image, image[..., :1]])), (".png", image.astype(np.uint16) * 257)]
    return [cv2.imencode(kind, picture)[1].tobytes() for kind, picture in pairs]


def labels_seeds() -> list[bytes]:
    lines = find_data("sample").csv_file("test").read_bytes().splitlines(keepends=True)
    return [b"".join(lines[:n]) for n in (2, 6)] + [b"\xef\xbb\xbf" + b"".join(lines[:3]), b"".join(lines[1:3])]


def weights_seeds() -> list[bytes]:
    torch.manual_seed(0)
    net = CoarseToFine()
    net.framing = load_model().framing  # a detector is built of what loads
    with tempfile.TemporaryDirectory() as folder:
        save_model(net, Path(folder) / "net.safetensors")
        files = [(Path(folder) / "net.safetensors").read_bytes()]
    for new in (True, False):  # PyTorch's own formats, which are refused
        buffer = io.BytesIO()
        torch.save({"a": torch.zeros(3)}, buffer, _use_new_zipfile_serialization=new)
        files.append(buffer.getvalue())
    return [*files, (MODEL_DIR / "pose_model.npz").read_bytes()[:2000]]


@functools.cache
def small_filters() -> list[tuple[bytes, bytes, bytes]]:
    """Return the filters at an eighth of their size: about, the JSON file, the picture."""
    filters = []
    for file in sorted(FILTER_DIR.glob("*.json")):
        content, picture = json.loads(file.read_bytes()), b""
        for layer in content.get("layers", []):
            layer.update({"part": [n // 8 for n in layer["part"]]} if "part" in layer else {})
            layer["anchors"] = [{**anchor, "at": [n / 8 for n in anchor["at"]]} for anchor in layer["anchors"]]
            large = cv2.imread(str(file.with_suffix(".png")), cv2.IMREAD_UNCHANGED)
            picture = cv2.imencode(".png", cv2.resize(large, None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_AREA))[1]
        filters.append((json.dumps(content["about"]).encode(), json.dumps(content).encode(), bytes(picture)))
    return filters


def filter_seeds() -> list[bytes]:
    return [text for _, text, _ in small_filters()]


def video_seeds() -> list[bytes]:
    return [(DATA_DIR / "sample" / "clip.mp4").read_bytes()]


detector = functools.cache(KeypointDetector)


def use_image(file: Path, case: int) -> None:
    image = read_image(file)
    if case % 100 < 2:
        detector()(image)


def use_labels(file: Path, case: int) -> None:
    names, keypoints = read_keypoints(file)
    assert keypoints.shape == (len(names), 68, 2) and np.isfinite(keypoints).all()


def use_weights(file: Path, case: int) -> None:
    if load_model(file).framing:
        KeypointDetector(file)


@functools.cache
def small_face() -> tuple[np.ndarray, np.ndarray]:
    sample = find_data("sample").dataset("test")[0]
    image = cv2.resize(sample["image"], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return image, (sample["keypoints"] + 0.5) / 2 - 0.5


def use_filter(file: Path, case: int) -> None:
    """Apply a filter to a face. Every fourth case has a whole filter with a damaged picture."""
    data, filters = file.read_bytes(), [entry for entry in small_filters() if entry[2]]
    _, text, picture = next((entry for entry in filters if entry[0] in data), filters[case % len(filters)])
    if case % 4 == 3:
        file.write_bytes(text)
        picture = (deeper if case % 8 == 3 else mutated)(np.random.default_rng([SEED, case]), [picture])
    file.with_suffix(".png").write_bytes(picture)
    effect = load_filter.__wrapped__(file.stem, file.parent)  # without its cache: every case has the same name
    image, keypoints = small_face()
    assert apply_filter(image, keypoints, effect).shape == image.shape


def use_video(file: Path, case: int) -> None:
    with contextlib.closing(Video(file)) as video:
        list(itertools.islice(video, 6))


_held: list[bytes] = []
KINDS: dict[str, tuple[str, Callable[[], list[bytes]], Callable[[Path, int], None]]] = {
    "image": (".jpg", image_seeds, use_image),
    "labels": (".csv", labels_seeds, use_labels),
    "weights": (".safetensors", weights_seeds, use_weights),
    "filter": (".json", filter_seeds, use_filter),
    "video": (".mp4", video_seeds, use_video),
}


def use_planted(file: Path, case: int) -> None:
    """One planted fault a case; tests/test_soak.py checks that each is found."""
    if case == 0:
        os.abort()
    while case == 1:
        pass
    if case == 2:
        time.sleep(600)
    if case == 3:
        _held.append(b"x" * (MEMORY * 800_000))  # beside what Python and PyTorch hold
    if case == 4:
        Path("elsewhere.txt").write_text("")


PLANTED = {"planted": (".txt", lambda: [b"planted"], use_planted)}


def run_case(
    kind: str, case: int, seeds: list[bytes], folder: Path, seed: int = SEED, data: bytes | None = None
) -> tuple[bool, str | None]:
    """Run one case: whether the file could be read, and what is wrong with how it ended, or None.

    The file holds ``data`` where given, else damaged seeds.
    """
    kinds = {**KINDS, **PLANTED}
    ending, _, use = kinds[kind]
    rng = np.random.default_rng([seed, list(kinds).index(kind), case])
    file = folder / f"a case{ending}"
    file.write_bytes((deeper if case % 2 else mutated)(rng, seeds) if data is None else data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            use(file, case)
        read = True
    except (OSError, ValueError) as error:
        read = False
        text = f"{error}"
        if not text.strip() or "\n" in text or len(text) > 1000:
            return False, f"{type(error).__name__} that is no sentence: {text[:300]!r}"
        if file.stem not in text and not isinstance(error, OSError):
            return False, f"{type(error).__name__} that names no file: {text[:300]!r}"
    except Exception:
        return False, traceback.format_exc(limit=-3)
    own = {file.name, file.with_suffix(".png").name} if kind == "filter" else {file.name}
    if extra := sorted({path.name for path in folder.iterdir()} - own) + _elsewhere:
        _elsewhere.clear()
        return read, f"files were written: {extra}"
    return read, None


_elsewhere: list[str] = []


def watch(folder: Path) -> None:
    """Note what Python writes, renames or removes outside a folder, for the rest of this process."""

    def note(event: str, arguments: tuple) -> None:
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.link", "os.symlink"):
            path = os.path.abspath(os.fsdecode(arguments[0])) if isinstance(arguments[0], (str, bytes)) else ""
            inside = path.startswith(f"{folder}{os.sep}") or path == os.devnull or "__pycache__" in path
            if path and not inside:
                _elsewhere.append(path)

    sys.addaudithook(note)


def work(kind: str, cases: range, out: Path, hang: float, stuck: int) -> int:
    """Do cases in this process; `out` gets a line for each case, and one for each that was read or went wrong."""
    torch.set_num_threads(1)
    for name in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(name, signal.SIG_DFL)  # a case that hangs ends the process
    seeds = {**KINDS, **PLANTED}[kind][1]()
    with tempfile.TemporaryDirectory() as folder, out.open("a", encoding="utf-8") as file:
        watch(Path(folder))
        for case in cases:
            file.write(json.dumps({"case": case}) + "\n")
            file.flush()
            signal.setitimer(signal.ITIMER_PROF, hang)
            signal.alarm(stuck)
            read, wrong = run_case(kind, case, seeds, Path(folder))
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
            peak = peak_mb()
            if peak > MEMORY:
                wrong = f"the process grew to {peak:.0f} MB"
            if read or wrong:
                file.write(json.dumps({"case": case, **({"wrong": wrong} if wrong else {"read": True})}) + "\n")
            if peak > MEMORY:
                return 3  # the peak never falls: go on in a new process
        file.write(json.dumps({"peak": round(peak)}) + "\n")
    return 0


def peak_mb() -> float:
    """Return the most memory that this process held so far, without mapped files, in MB (10^6 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held when it started this process
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return (int(lines["VmHWM"].split()[0]) - int(lines["RssFile"].split()[0])) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def run_kind(kind: str, cases: int, hang: float = HANG, stuck: int = STUCK) -> dict:
    """Do all cases of a kind, in a new process after each crash."""
    began, first, failures, peak, read = time.perf_counter(), 0, [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        while first < cases:
            out = Path(folder) / f"{first}.jsonl"
            work_on = [kind, str(first), str(cases), str(out), str(hang), str(stuck)]
            command = [sys.executable, __file__, "--work", *work_on]
            done = subprocess.run(command, cwd=folder, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] if out.exists() else []
            failures += [line for line in lines if "wrong" in line]
            read += sum("read" in line for line in lines)
            peak = max([peak, *(line["peak"] for line in lines if "peak" in line)])
            if done.returncode == 0:
                break
            if not lines:
                raise RuntimeError(f"the fuzz process of {kind} does not start: {done.stderr.decode()[-2000:]}")
            last = max(line["case"] for line in lines if "case" in line)
            if done.returncode != 3:
                failures.append({"case": last, "wrong": f"the process ended with {done.returncode}"})
            first = last + 1
    return {
        "cases": cases,
        "read": read,
        "failed": len(failures),
        "failures": failures[:20],
        "seconds": round(time.perf_counter() - began, 1),
        "peak_memory_mb": peak,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "soak.json")
    parser.add_argument("--work", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        kind, first, last, out, hang, stuck = options.work
        return work(kind, range(int(first), int(last)), Path(out), float(hang), int(stuck))
    failed = 0
    for kind in options.kinds:
        result = run_kind(kind, max(1, round(options.cases * SHARES[kind])))
        print(kind, json.dumps(result, indent=1), flush=True)
        keep(options.out, "fuzz", {kind: {"seed": SEED, **result}})
        failed += result["failed"]
    return int(failed > 0)


def keep(out: Path, part: str, figures: dict) -> None:
    """Put figures into a part of the soak's JSON file, beside those that are there."""
    content = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    content[part] = {**content.get(part, {}), **figures}
    write_json(out, content)


if __name__ == "__main__":
    sys.exit(main())
