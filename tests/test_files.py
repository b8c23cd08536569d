"""Files are complete or not there; locks."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, refused

from keypoints.files import check_writable, lock, replaceable, write_atomically


def test_interrupted_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_text("old")

    def interrupted(part) -> None:
        part.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a" * 251 + ".csv", "脸" * 83 + ".csv", "x", "-", ".csv"])
def test_file_of_any_name_can_be_written(tmp_path, name):
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
def test_pipe_and_device_are_written_to_and_stay(tmp_path):
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


@pytest.mark.parametrize("how", ["folder that is a file", "folder", "read-only file", "read-only folder"])
def test_place_that_cannot_be_written_is_named_and_stays(tmp_path, how):
    path = tmp_path / "place" / "k.csv"
    if how == "folder that is a file":
        path.parent.write_text("a file")
    else:
        path.parent.mkdir()
        path.mkdir() if how == "folder" else path.write_text("precious")
    if how.startswith("read-only"):
        if os.name != "posix" or os.geteuid() == 0:
            pytest.skip("modes do not bind everybody here")
        (path if how == "read-only file" else path.parent).chmod(0o444 if how == "read-only file" else 0o555)
    before = sorted(tmp_path.rglob("*"))
    for write in (lambda path: write_atomically(path, lambda part: part.write_text("new")), check_writable):
        with pytest.raises(OSError) as caught:
            write(path)
        assert caught.value.filename == str(path) and "exists" not in str(caught.value)
    assert not path.is_file() or path.read_text() == "precious"
    path.parent.chmod(0o755)
    assert sorted(tmp_path.rglob("*")) == before


# Locks ----------------------------------------------------------------------------------------------------------------


HOLDER = """
import sys, time
from keypoints.files import lock
with lock(sys.argv[1]):
    print(flush=True)
    time.sleep(60)
"""


def test_locked_file_is_refused_until_the_process_that_holds_it_is_killed(tmp_path):
    path = tmp_path / ("a" * 240 + ".csv")
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
    process.stdout.readline()
    try:
        with refused(r"\.csv: got a file that another process is writing"), lock(path):
            pass
        with lock(tmp_path / "another.csv"):
            pass
    finally:
        process.kill()
        process.communicate()
    for _ in range(2):  # what the killed one left locks nothing
        with lock(path), refused("another process is writing"), lock(path):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="needs links and devices")
def test_link_is_locked_as_its_target_and_devices_are_not(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with lock(tmp_path / "real"), refused("another process"), lock(tmp_path / "link"):
        pass
    with lock(os.devnull), lock(os.devnull):
        pass
