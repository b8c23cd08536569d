"""Nothing lost: processes that write are killed at random moments again and again, and go on from what they left.

    python tests/soak/kills.py --kills 100          # writes how it went into results/soak.json

Each job runs in a forked process that gets SIGKILL at a random moment, then again, until it ends by itself; what it
left is checked after every kill. Needs an operating system with fork (Linux, macOS).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).resolve().parent)]

import cv2  # noqa: E402
import torch  # noqa: E402
from fuzz import keep  # noqa: E402
from helpers import ASTRONAUT, HOPPER, command_line, write_clip  # noqa: E402
from torch.utils.data import Subset  # noqa: E402

import data_load  # noqa: E402
from data_load import find_data, training_transform  # noqa: E402
from keypoints.video import Video  # noqa: E402
from models import CoarseToFine  # noqa: E402
from training import recipe as trainer  # noqa: E402
from training.recipe import Recipe, fit  # noqa: E402
from training.records import read_checkpoint  # noqa: E402
from training.weights import load_model, save_model  # noqa: E402

SEED = 2026


@dataclass
class Job:
    """Something that writes.

    Attributes:
        work: does it in a folder, from the start or from what lies there.
        whole: raises AssertionError when what lies in the folder, after a kill or at the end, is not whole.
        same: bytes that must come out the same however often it was killed.
        told: more to say of all its runs.
    """

    work: Callable[[Path], None]
    whole: Callable[[Path], None]
    same: Callable[[Path], bytes]
    told: Callable[[], dict] = dict


def run(work: Callable[[Path], None], folder: Path, seconds: float | None) -> bool:
    """Work in a child process that is killed after so many seconds; return whether it ended by itself."""
    child = os.fork()
    if child == 0:
        try:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
            work(folder)
            os._exit(0)
        except BaseException:
            os._exit(1)
    ended, until = False, None if seconds is None else time.monotonic() + seconds
    while not ended:
        pid, status = os.waitpid(child, os.WNOHANG)
        ended = pid == child
        if not ended and until is not None and time.monotonic() >= until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.002)
    if status:
        raise AssertionError(f"a job that was not killed ended with {status} in {sorted(folder.rglob('*'))}")
    return True


def torture(job: Job, kills: int, rng: np.random.Generator) -> dict:
    """Kill a job that many times in all.

    Raises:
        AssertionError: something is lost or incomplete.
    """
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        run(job.work, Path(folder), None)
        alone = time.monotonic() - began
        job.whole(Path(folder))
        expected = job.same(Path(folder))
    killed = runs = 0
    while killed < kills:
        with tempfile.TemporaryDirectory() as folder:
            while not run(job.work, Path(folder), rng.uniform(0, 1.2 * alone) if killed < kills else None):
                killed += 1
                job.whole(Path(folder))
            job.whole(Path(folder))
            runs += 1
            if job.same(Path(folder)) != expected:
                raise AssertionError("what came out after kills is not what comes out without")
    return {"kills": killed, "finished": runs, "seconds_alone": round(alone, 2), **job.told()}


def state_bytes(file: Path) -> bytes:
    """The weights of a file as bytes; the file itself holds more."""
    return b"".join(value.numpy().tobytes() for value in load_model(file).state_dict().values())


def training() -> Job:
    """Training with a checkpoint after each epoch: no epoch is trained twice; the weights are as without a kill.

    The file ``epochs`` gets a line for each epoch whose checkpoint was written, ``starts`` one for each start that
    found a checkpoint: the number of epochs in it.
    """
    images = Subset(find_data("sample").dataset("training", training_transform()), range(8))
    images[0]
    resumed: dict[Path, list[int]] = {}  # by folder

    def lines(file: Path) -> list[int]:
        return [int(line) for line in file.read_text().splitlines()] if file.exists() else []

    def note(file: Path, number: int) -> None:
        with open(file, "a") as log:
            log.write(f"{number}\n")

    def in_checkpoint(folder: Path) -> list[dict]:
        return read_checkpoint(folder / "net.checkpoint")["history"]

    def work(folder: Path) -> None:
        save = trainer._save_checkpoint

        def saved(checkpoint: Path, state: dict, identity: dict, history: list[dict]) -> None:
            save(checkpoint, state, identity, history)
            note(folder / "epochs", len(history))

        if (folder / "net.safetensors").exists() and not (folder / "net.checkpoint").exists():
            return  # killed when all was done
        trainer._save_checkpoint = saved  # in the forked process alone
        if (folder / "net.checkpoint").exists():
            note(folder / "starts", len(in_checkpoint(folder)))
        torch.manual_seed(0)
        net = CoarseToFine()
        record = fit(net, images, None, Recipe(epochs=4, batch_size=4), checkpoint=folder / "net.checkpoint")
        time.sleep(0.5)  # that kills fall between the training and its weights, too
        save_model(net, folder / "net.safetensors", record)
        (folder / "net.checkpoint").unlink()

    def whole(folder: Path) -> None:
        done, resumed[folder] = lines(folder / "epochs"), lines(folder / "starts")
        assert len(set(done)) == len(done), f"trained again: {done}, found in checkpoints: {resumed[folder]}"
        checkpoint, saved = (folder / "net.checkpoint").exists(), (folder / "net.safetensors").exists()
        assert checkpoint or saved or not done, f"{len(done)} epochs are lost"
        if checkpoint:
            history = [entry["epoch"] for entry in in_checkpoint(folder)]
            assert history == list(range(1, len(history) + 1)) and set(done) <= set(history)
        if saved:
            load_model(folder / "net.safetensors")
        if (folder / "net.json").exists():
            history = json.loads((folder / "net.json").read_text())["history"]
            assert [entry["epoch"] for entry in history] == [1, 2, 3, 4]

    def same(folder: Path) -> bytes:
        assert not (folder / "net.checkpoint").exists(), "the checkpoint stayed behind"
        return state_bytes(folder / "net.safetensors")

    def told() -> dict:
        starts = [number for numbers in resumed.values() for number in numbers]
        return {"resumed": len(starts), "from_a_finished_one": starts.count(4)}

    return Job(work, whole, same, told)


def detecting() -> Job:
    """`detect` with a CSV file and pictures: under their names they are whole or not there."""

    def work(folder: Path) -> None:
        out = ["--csv", folder / "k.csv", "--draw", folder / "drawn"]
        assert command_line("--threads 1 detect", ASTRONAUT, HOPPER, *out) == 0

    def whole(folder: Path) -> None:
        for file in folder.rglob("*.jpg"):
            if not file.name.startswith("."):
                assert file.read_bytes()[-2:] == b"\xff\xd9", f"half a picture: {file}"
                assert cv2.imread(str(file)) is not None
        if (folder / "k.csv").exists():
            lines = (folder / "k.csv").read_text().splitlines()
            assert len(lines) == 3 and len({line.count(",") for line in lines}) == 1, lines

    return Job(work, whole, lambda folder: (folder / "k.csv").read_bytes())


@contextmanager
def short_clip() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield write_clip(f"{folder}/clip.webm")


def tracking(clip: Path) -> Job:
    """`track` with a video and a CSV file: whole or not there under their names; the part that grows has whole rows."""

    def rows(file: Path) -> list[list[str]]:
        """A CSV file's rows, as many as there are: a face a frame."""
        text = file.read_text(encoding="utf-8")
        assert text.endswith("\n") or not text, "half a row"
        rows = [line.split(",") for line in text.splitlines()]
        assert len({len(row) for row in rows}) <= 1
        assert [row[0] for row in rows[1:]] == [str(number) for number in range(len(rows[1:]))]
        return rows[1:]

    def work(folder: Path) -> None:
        out = ["--csv", folder / "k.csv", "--out", folder / "k.webm"]
        assert command_line("--threads 1 track", clip, *out) == 0

    def whole(folder: Path) -> None:
        if (folder / "k.webm").exists():
            assert len(list(Video(folder / "k.webm"))) == 12
        if (folder / "k.csv").exists():
            assert len(rows(folder / "k.csv")) == 12, "half a file has its name"
        if (folder / "k.csv.part").exists():
            rows(folder / "k.csv.part")

    return Job(work, whole, lambda folder: (folder / "k.csv").read_bytes())


@contextmanager
def serving() -> Iterator[tuple[str, Path]]:
    """A small official set behind a local address, and the list of its pixels."""
    import test_fetch

    with test_fetch.Server() as server, tempfile.TemporaryDirectory() as folder:
        server.replies = [test_fetch.whole(test_fetch.archive(test_fetch.official_files()))]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server.url, test_fetch.write_manifest(Path(folder) / "pixels.csv")
        server.shutdown()


def fetching(url: str, manifest: Path) -> Job:
    """The download: a set that looks like one is a whole one."""

    def work(folder: Path) -> None:
        data_load.fetch(url, folder, manifest)

    def whole(folder: Path) -> None:
        if all((folder / f"{split}_frames_keypoints.csv").exists() for split in ("training", "test")):
            report = data_load.verify(folder, manifest)
            assert report.ok, report

    return Job(work, whole, lambda folder: (folder / "test_frames_keypoints.csv").read_bytes())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ("training", "detecting", "fetching", "tracking")
    parser.add_argument("--kills", type=int, default=100, help="of each job")
    parser.add_argument("--jobs", nargs="+", default=names, choices=names)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "soak.json")
    options = parser.parse_args()
    torch.set_num_threads(1)  # threads of a parent do not survive a fork
    cv2.setNumThreads(1)
    failed = 0
    with serving() as (url, manifest), short_clip() as clip:
        needs = {"fetching": (url, manifest), "tracking": (clip,)}
        for name in options.jobs:
            try:
                rng = np.random.default_rng([SEED, names.index(name)])
                result = {"failed": 0, **torture(globals()[name](*needs.get(name, ())), options.kills, rng)}
            except AssertionError as error:  # it ends at the first
                result = {"failed": 1, "kills": options.kills, "finished": 0, "what": str(error)}
            failed += result["failed"]
            print(name, json.dumps(result), flush=True)
            keep(options.out, "kills", {name: {"seed": SEED, **result}})
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
