"""What the studies share: their command lines, their files in results/, the runs that a file keeps, and rounding."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_load import Data, find_data
from keypoints.files import check_writable, lock, one_sentence, write_json
from training.weights import DEFAULT_MODEL

RESULTS = Path(__file__).resolve().parents[2] / "results"
BUILD = RESULTS.parent / "build"
SHARED = RESULTS.parent.parent / "shared"  # licensed sets that are not shipped
OPTIONS: dict[str, dict[str, Any]] = {
    "model": {"type": Path, "default": DEFAULT_MODEL, "metavar": "FILE", "help": "weights (default: the shipped ones)"},
    "bfloat16": {"action": "store_true", "help": "train the convolutions with 16 bits"},
    "threads": {"type": int, "default": 1, "help": "threads for torch (default: 1)"},
}


def make_parser(module: str, doc: str | None, *options: str, choices: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Build a study's command line.

    Args:
        module: the study's ``__name__`` or ``__spec__.name``; the last part counts.
        doc: its docstring, whose first line becomes the description.
        options: keys of :data:`OPTIONS`.
        choices: names that may follow the command, all by default; they become ``options.chosen``.
    """
    program = f"python -m training.studies.{module.rpartition('.')[2]}"
    parser = argparse.ArgumentParser(prog=program, description=(doc or "").split("\n", 1)[0])
    for name in options:
        parser.add_argument(f"--{name}", **OPTIONS[name])
    if choices:
        parser.add_argument(
            "chosen", nargs="*", metavar="NAME", help=f"{', '.join(map(repr, choices))} (default: all)",
            type=lambda name: _one_of(name, choices),
        )  # fmt: skip
    return parser


def _one_of(name: str, choices: Sequence[str]) -> str:
    if name not in choices:
        raise argparse.ArgumentTypeError(f"got {name!r}, expected one of {', '.join(choices)}")
    return name


@contextmanager
def figures_file(out: Path) -> Iterator[dict]:
    """Yield an empty dict; write what it holds at the end to ``out``, which is checked before hours of measuring.

    Errors of files and values end the command with status 2 and one sentence.
    """
    with one_sentence():
        check_writable(out)
        content: dict = {}
        yield content
        write_json(out, content)
        print(f"wrote {out}")


def official_or_sample(name: str) -> tuple[Data, Path]:
    """Return the data to study and the file for its figures: results/ holds figures of the official set alone."""
    data = find_data()
    return data, (RESULTS if data.name == "official" else BUILD) / name


def read_runs(out: Path, empty: dict) -> dict:
    """Read the runs that a file keeps; those of another ``base`` (data, recipe, network) do not count."""
    content = json.loads(out.read_text(encoding="utf-8")) if out.exists() else empty
    return content if content.get("base") == empty["base"] else json.loads(json.dumps(empty))


def kept_run(out: Path, empty: dict, key: str, run: Callable[[], dict]) -> dict:
    """Return a run's figures from a file, or do the run and add its figures to the file.

    Several processes may share the file: each adds its own runs.
    """
    if key not in read_runs(out, empty)["runs"]:
        figures = run()
        with lock(out, wait=True):
            content = read_runs(out, empty)
            content["runs"][key] = figures
            write_json(out, content)
    return read_runs(out, empty)["runs"][key]


def rounded(value: Any, digits: str) -> Any:
    """Round all floats of nested dicts and lists, to ``digits`` as of a format: ".2f" or ".4g".

    >>> rounded({"a": [1.23456, 7]}, ".3g")
    {'a': [1.23, 7]}
    """
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item, digits) for item in value]
    return float(f"{value:{digits}}") if isinstance(value, float) else value
