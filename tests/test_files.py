"""Files that are written whole or not at all, and locks."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from keypoints.files import check_writable, lock, replaceable, write_atomically


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_text("old")

    def interrupted(part) -> None:
        part.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a" * 251 + ".csv", "脸" * 83 + ".csv", "x", "-", ".csv"])
def test_whatever_name_a_file_can_have_can_be_written(tmp_path, name):
    try:
        (tmp_path / name).touch()
    except OSError:
        pytest.skip("this file system does not take the name")
    write_atomically(tmp_path / name, lambda part: part.write_text("new"))
    check_writable(tmp_path / name)
    assert (tmp_path / name).read_text() == "new" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.name != "posix", reason="needs links, pipes and modes")
def test_links_are_followed_and_modes_kept(tmp_path):
    (tmp_path / "real").mkdir()
    file, link, new = tmp_path / "real" / "k.csv", tmp_path / "link.csv", tmp_path / "new.csv"
    file.write_text("old")
    file.chmod(0o600)
    link.symlink_to(file)
    new.symlink_to(tmp_path / "real" / "new.csv")  # leads to where nothing is yet
    for path in (link, new):
        write_atomically(path, lambda part: part.write_text("new"))
        assert path.is_symlink() and path.read_text() == "new"
    assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(file.name for file in (tmp_path / "real").iterdir()) == ["k.csv", "new.csv"]
    link.unlink()
    link.symlink_to(link)
    for write in (lambda path: write_atomically(path, None), check_writable):
        with pytest.raises(OSError, match=r"Too many levels of symbolic links: .*link\.csv"):
            write(link)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_and_a_device_are_written_to_and_stay(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(tmp_path / "pipe", lambda part: part.write_text("new"))
    assert os.read(reading, 9) == b"new" and (tmp_path / "pipe").is_fifo()
    os.close(reading)
    write_atomically(os.devnull, lambda part: part.write_text("new"))
    check_writable(os.devnull)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    if Path("/dev/stdout").exists():  # whatever it leads to, what is there already must not be replaced
        assert replaceable("/dev/stdout") is replaceable("/dev/fd/1") is None
    if Path("/dev/full").exists():
        with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
            write_atomically("/dev/full", lambda part: part.write_text("new"))


def protected(tmp_path: Path, how: str) -> Path:
    """Where a file cannot be written: its name, with what belongs there made."""
    path = tmp_path / "place" / "k.csv"
    if how == "a folder that is a file":
        path.parent.write_text("a file")
        return path
    path.parent.mkdir()
    if how == "a folder":
        path.mkdir()
        return path
    if os.name != "posix" or os.geteuid() == 0:
        pytest.skip("modes do not bind everybody here")
    path.write_text("precious")
    (path if how == "a read-only file" else path.parent).chmod(0o444 if how == "a read-only file" else 0o555)
    return path


@pytest.mark.parametrize("how", ["a folder that is a file", "a folder", "a read-only file", "a read-only folder"])
def test_what_cannot_be_written_is_told_by_name_and_stays(tmp_path, how):
    path = protected(tmp_path, how)
    before = path.read_bytes() if path.is_file() else None
    for write in (lambda path: write_atomically(path, lambda part: part.write_text("new")), check_writable):
        with pytest.raises(OSError) as caught:
            write(path)
        assert caught.value.filename == str(path) and "exists" not in str(caught.value)
    assert (path.read_bytes() if path.is_file() else None) == before
    path.parent.chmod(0o755)
    assert len(list(tmp_path.rglob("*"))) == (1 if how == "a folder that is a file" else 2)


# Locks ----------------------------------------------------------------------------------------------------------------


def holder(path: Path) -> subprocess.Popen:
    """A process that holds the lock of ``path``."""
    script = "import sys, time; from keypoints.files import lock\n"
    script += "with lock(sys.argv[1]): print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


def test_a_second_process_is_refused_with_a_sentence_until_the_first_one_is_killed(tmp_path):
    path = tmp_path / ("a" * 240 + ".csv")
    process = holder(path)
    try:
        with pytest.raises(ValueError, match=r"\.csv: got a file that another process is writing"), lock(path):
            pass
        with lock(tmp_path / "another.csv"):
            pass
    finally:
        process.kill()
        process.communicate()
    for _ in range(2):  # what the killed one left locks nothing
        with lock(path), pytest.raises(ValueError, match="another process is writing"), lock(path):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="needs links and devices")
def test_a_link_is_locked_as_what_it_leads_to_and_devices_are_not(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with lock(tmp_path / "real"), pytest.raises(ValueError, match="another process"), lock(tmp_path / "link"):
        pass
    with lock(os.devnull), lock(os.devnull):
        pass
