"""Files: written whole or not at all, checked before long work, locked for one process; no PyTorch in here."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import reprlib
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


def brief(value: object) -> str:
    """What a stranger's file holds, for a sentence: one line, shortened."""
    return " ".join(reprlib.repr(value).split())[:200]


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def write_json(path: str | Path, content: dict) -> None:
    """Write indented JSON (floats as they are) such that a half-written file never carries the name."""
    write_atomically(
        path, lambda part: part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    )


def write_atomically(path: str | Path, write) -> None:
    """Let ``write(part)`` fill a hidden neighbour of ``path`` and rename it when it is whole.

    Links are followed, a file that was there keeps its mode, and what is no regular file, as a device or a pipe, is
    written to as it is.

    Raises:
        OSError: it can't be written; the error names the file.
    """
    given, target = Path(path), replaceable(path)
    part = part_of(target) if target else given
    try:
        write(part)
        if target:
            if target.exists():
                shutil.copymode(target, part)
            os.replace(part, target)
    except OSError as error:  # a full disk names no file
        error.filename = str(given)
        raise
    finally:
        if target:
            part.unlink(missing_ok=True)


def part_of(target: Path, ending: str = ".part") -> Path:
    """A neighbour's name of its own: short, so that no name that the folder takes is too long to be written."""
    return target.with_name(f".{secrets.token_hex(6)}{ending}")


def replaceable(path: str | Path) -> Path | None:
    """The regular file that writing to ``path`` is to replace, links followed; its folder is made.

    None where ``path`` is a device, a pipe, an open stream or the like, which must be written to itself.

    Raises:
        OSError: it is a folder or write-protected, or its folder can't be made; the error names ``path``.
    """
    path = Path(path)
    try:
        folder = os.path.realpath(path.parent)
        stream = path.is_symlink() and (folder == "/dev" or folder.startswith("/proc/"))  # as /dev/stdout
        if stream or (path.exists() and not path.is_file() and not path.is_dir()):
            return None
        target = Path(os.path.realpath(path))
        if os.path.lexists(target):
            open(target, "r+b").close()  # a file that its owner protected; a folder; a link that leads to itself
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        # That a folder's name is taken by a file, mkdir tells with "file exists".
        code = errno.ENOTDIR if isinstance(error, FileExistsError) else error.errno or errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from None
    return target


def check_writable(path: str | Path) -> None:
    """Before long work: raise the OSError that :func:`write_atomically` would raise at its end, as far as one can tell.

    Nothing is left, nor a folder that was not there.
    """
    missing = [folder for folder in Path(path).parents if not folder.exists()]
    try:
        target = replaceable(path)
        if target:
            part = part_of(target)
            part.touch()
            part.unlink()
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        for folder in missing:  # the innermost first
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def lock(path: str | Path, wait: bool = False) -> Iterator[None]:
    """Keep other processes that call this from writing ``path`` meanwhile.

    The lock is a hidden file beside ``path``. The system frees it however the process ends, and a left-over file of a
    killed process locks nothing.

    Args:
        wait: wait for a process that has the lock instead of raising.

    Raises:
        ValueError: another process, or another call in this one, has the lock.
        OSError: as :func:`check_writable`.
    """
    target = replaceable(path)
    if target is None:  # devices and pipes may have several writers
        yield
        return
    name = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]  # no name that fits a folder is too long here
    held = FileLock(target.with_name(f".{name}.lock"))
    try:
        held.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise ValueError(
            f"{path}: got a file that another process is writing, expected one that is free; wait for the other to end "
            "or name another file"
        ) from None
    try:
        yield
    finally:
        if os.name == "posix":  # Windows removes no open file; filelock removes it there
            Path(held.lock_file).unlink(missing_ok=True)  # while it is held: filelock locks no file without a name
        held.release()


@contextmanager
def one_sentence() -> Iterator[None]:
    """End the command with status 2 and the error as one line where a file or a value is not as expected."""
    try:
        yield
    except (OSError, ValueError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(2) from None


PACKAGE = Path(__file__).resolve().parent


def asset(name: str) -> Path:
    """A file that comes along: beside the installed package, or in a checkout in ``saved_models/`` or ``data/``."""
    folders = (PACKAGE / "assets", PACKAGE.parent / "saved_models", PACKAGE.parent / "data")
    return next((folder / name for folder in folders if (folder / name).exists()), folders[0] / name)
