"""What the command lines share: outputs that are refused, errors as one sentence, the exit status."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterable
from pathlib import Path

from keypoints.files import check_writable


def check_out(option: str, out: Path, sources: Iterable[str | Path | None]) -> None:
    """Refuse a folder, a place that cannot be written, and to write over what is read: before long work."""
    if str(out) == "-":
        raise ValueError(f"{option} -: expected a file's name, for standard output /dev/stdout")
    if out.is_dir():
        raise ValueError(f"{option} {out}: got a folder, expected a file")
    if out.is_file() and any(source and Path(source).exists() and out.samefile(source) for source in sources):
        raise ValueError(f"{option} {out}: the source would be overwritten, expected another file")
    check_writable(out)


def sentence(error: Exception, file: str | Path) -> str:
    """One line that names the file."""
    text = f"{error.strerror or error}" if isinstance(error, OSError) else str(error)
    return printable(text if str(file) in text else f"{file}: {text}")


def printable(text: object) -> str:
    r"""Text for one line of a terminal: a file's name may hold line ends and bytes that are no characters.

    >>> printable("a\nb ü.jpg")
    'a\\nb ü.jpg'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def run(program: str, parser: argparse.ArgumentParser, arguments: list[str] | None) -> int:
    """Read a command line and do what it says: ``options.run(options)``; returns the exit status.

    An error is one sentence on standard error and status 2, Ctrl-C status 130 and ``options.interrupted``, where the
    command sets it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's are none
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal can't show ends nothing
    options = parser.parse_args(arguments)
    try:
        if options.threads is not None:
            if options.threads < 1:
                raise ValueError(f"got --threads {options.threads}, expected 1 or more")
            options.set_threads(options.threads)
        return options.run(options)
    except KeyboardInterrupt:
        print(getattr(options, "interrupted", "interrupted"), file=sys.stderr)
        return 130
    except (OSError, ValueError) as error:
        print(
            f"{program} {options.command}: {sentence(error, getattr(error, 'filename', None) or '')}", file=sys.stderr
        )
        return 2
