"""Fetching and verifying, against a server on this machine."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, csv_header, face_points, png, refused, write_labels

import data_load
from data_load import fetch, main, verify

FOLDER = "P1_Facial_Keypoints-6e55adc6bd032d9fb1ad41a4c3e68aae847cdf81"
LABELS = "test_frames_keypoints.csv"
HEADER = "file,width,height,sha1_of_rgb_bytes"
LABELLED = {"training": ["Ann_00.jpg", "Bo_00.jpg", "Bo_01.jpg"], "test": ["Ann_00.jpg", "Cy_00.jpg"]}


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def official_files() -> dict[str, bytes]:
    """A small official set, as its archive holds it: path below ``data/`` → content."""
    files, row = {}, ",".join(f"{v:.1f}" for v in face_points(20, 15, 10).ravel())
    for split, names in LABELLED.items():
        files |= {f"{split}/{name}": png(picture(i + 10 * (split == "test"))) for i, name in enumerate(names)}
        lines = [csv_header(), *(f"{name},{row}" for name in names), ""]
        files[f"{split}_frames_keypoints.csv"] = "\n".join(lines).encode()
    return files


def write_manifest(path: Path) -> Path:
    rows = [HEADER]
    for split, names in LABELLED.items():
        for i, name in enumerate(names):
            sha1 = hashlib.sha1(picture(i + 10 * (split == "test")).tobytes()).hexdigest()
            rows.append(f"{split}/{name},40,30,{sha1}")
    path.write_text("\n".join(rows) + "\n")
    return path


def archive(files: dict[str, bytes], **other: bytes) -> bytes:
    """A zip in the layout of GitHub's, with other files beside ``data/`` and in it."""
    content, unwanted = io.BytesIO(), ("README.md", "models.py", "data/notes.txt", "data/training/notes.txt")
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as zip_file:
        for name in (*unwanted, "images/training/x.jpg"):
            zip_file.writestr(f"{FOLDER}/{name}", "not wanted")
        for name, data in {**{f"{FOLDER}/data/{name}": data for name, data in files.items()}, **other}.items():
            zip_file.writestr(name, data)
    return content.getvalue()


class Server(ThreadingHTTPServer):
    """Sends ``replies`` one after the other, the last one again and again, and counts."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies, self.count = [], 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/archive.zip"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        reply = self.server.replies[min(self.server.count, len(self.server.replies) - 1)]
        self.server.count += 1
        content, sent, status = reply
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:sent])

    def log_message(self, *_: object) -> None:
        pass


def whole(content: bytes, status: int = 200) -> tuple[bytes, int, int]:
    return content, len(content), status


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the downloader waits between its tries
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def manifest(tmp_path) -> Path:
    return write_manifest(tmp_path / "pixels.csv")


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def tree(root: Path) -> set[str]:
    return {file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()}


def put(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


# fetch ----------------------------------------------------------------------------------------------------------------


def test_fetch_unpacks_images_and_labels_alone(server, root, manifest):
    files = {**official_files(), "test/Zoe_00.jpg": png(picture(99))}  # an image without labels comes along
    server.replies = [whole(archive(files))]
    report = fetch(server.url, root, manifest)
    assert report.ok and report.good == 5 and report.extra == 1
    assert {name: (root / name).read_bytes() for name in tree(root)} == files and not (root / ".fetch").exists()
    assert data_load.find_data("official", root).dataset("test")[1]["image"].shape == (30, 40, 3)
    assert fetch(server.url, root, manifest).ok and server.count == 1  # a complete set is not fetched again


@pytest.mark.parametrize("tries", [2, 3])
def test_cut_connection_is_tried_three_times(server, root, manifest, tries):
    content = archive(official_files())
    server.replies = [(content, len(content) // 2, 200)] * tries + [whole(content)]
    if tries == 3:
        with pytest.raises(OSError):
            fetch(server.url, root, manifest)
        assert server.count == 3 and tree(root) == set()
    assert fetch(server.url, root, manifest).ok


def test_missing_page_is_an_error(server, root, manifest):
    server.replies = [whole(b"Not Found", 404)]
    with pytest.raises(OSError, match="404"):
        fetch(server.url, root, manifest)
    assert tree(root) == set()


def damaged_inside() -> bytes:
    content = bytearray(archive(official_files()))
    content[content.index(b"Ann_00.jpg") + len("Ann_00.jpg")] = 0xFF  # where its compressed bytes begin
    return bytes(content)


FILES = official_files()


def without(name: str) -> bytes:
    return archive({key: value for key, value in FILES.items() if key != name})


BAD = {
    "HTML": (b"<!DOCTYPE html><html>Please log in</html>", "expected a whole ZIP archive"),
    "half a zip": (archive(FILES)[:2000], "expected a whole ZIP archive"),
    "damaged bytes": (damaged_inside(), "expected a whole ZIP archive"),
    "other pixels": (archive({**FILES, "training/Bo_00.jpg": png(picture(77))}), r"damaged 1 \(training/Bo_00.jpg\)"),
    "not an image": (archive({**FILES, "test/Cy_00.jpg": b"<html>"}), r"damaged 1 \(test/Cy_00.jpg\)"),
    "a missing image": (without("test/Ann_00.jpg"), r"missing 1 \(test/Ann_00.jpg\)"),
    "missing labels": (without("test_frames_keypoints.csv"), r"missing 1 \(test_frames_keypoints.csv\)"),
    "an empty zip": (archive({}), "missing 7"),
    "a large file": (archive(FILES, **{f"{FOLDER}/data/test/x.jpg": bytes(21_000_000)}), "expected at most 20 MB"),
}
for path in (
    f"{FOLDER}/data/training/../../../x.jpg",
    f"{FOLDER}/data/test/..\\..\\x.jpg",
    "/tmp/keypoints-escape/data/test/x.jpg",
    "\\x\\data\\test\\x.jpg",
):
    BAD[f"the path {path}"] = (archive(FILES, **{path: b"x"}), "expected paths")


@pytest.mark.parametrize("what", BAD)
def test_bad_archive_is_refused_and_deleted(server, root, manifest, tmp_path, what):
    content, sentence = BAD[what]
    outside = tree(tmp_path)
    server.replies = [whole(content), whole(archive(official_files()))]
    with pytest.raises(ValueError, match=sentence):
        fetch(server.url, root, manifest)
    assert not (root / ".fetch" / "archive.zip").exists()
    assert {name for name in tree(tmp_path) if not name.startswith("data/.fetch/")} == outside
    assert fetch(server.url, root, manifest).ok


@pytest.mark.parametrize("moved", [0, 5])
def test_interrupted_fetch_leaves_no_set_and_does_not_download_again(server, root, manifest, monkeypatch, moved):
    server.replies = [whole(archive(official_files()))]
    replace = data_load.os.replace

    def interrupted(*arguments: Path) -> None:
        if moved and arguments[1].suffix != ".csv":  # the labels are moved last
            return replace(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((data_load.os, "replace") if moved else (data_load, "verify")), interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(server.url, root, manifest)
    assert len([name for name in tree(root) if not name.startswith(".fetch/")]) == moved
    with pytest.raises(FileNotFoundError, match="python -m data_load fetch"):
        data_load.find_data("official", root)
    assert fetch(server.url, root, manifest).ok and server.count == 1


# verify ---------------------------------------------------------------------------------------------------------------


def test_verify_counts_good_missing_damaged_and_extra(root, manifest):
    files = official_files()
    put(root, {**files, "test/Zoe_00.jpg": b"", "training/Bo_01.jpg": png(picture(5)[:, ::-1])})
    (root / "test/Ann_00.jpg").unlink()
    report = verify(root, manifest)
    found = (report.good, report.missing, report.damaged, report.extra)
    assert found == (3, ["test/Ann_00.jpg"], ["training/Bo_01.jpg"], 1) and not report.ok
    told = "3 good, missing 1 (test/Ann_00.jpg), damaged 1 (training/Bo_01.jpg); extra files: 1"
    assert str(report) == f"labelled images: {told}"
    put(root, {**files, "test/Ann_00.jpg": files["training/Ann_00.jpg"]})  # of the other split, under the same name
    assert verify(root, manifest).damaged == ["test/Ann_00.jpg"]


@pytest.mark.parametrize(("point", "shift"), [(0, 1.0), (67, -0.5)])
def test_other_coordinates_are_damaged(root, manifest, point, shift):
    put(root, official_files())
    names, keypoints = data_load.read_keypoints(root / LABELS)
    with manifest.open("a") as file:
        file.write(f"{LABELS},136,2,{data_load.label_digest(names, keypoints)}\n")
    assert verify(root, manifest).ok
    keypoints[1, point, 0] += shift
    write_labels(root / LABELS, names, keypoints)
    report = verify(root, manifest)
    assert report.damaged == [LABELS] and report.good == 5


def test_labels_of_another_layout_or_other_images_are_damaged(root, manifest):
    put(root, official_files())
    names, keypoints = data_load.read_keypoints(root / LABELS)
    write_labels(root / LABELS, names, keypoints[..., ::-1])
    assert verify(root, manifest).damaged == [LABELS]
    for content in (official_files()["training_frames_keypoints.csv"], b"<html>"):
        put(root, {LABELS: content})
        assert verify(root, manifest).damaged == [LABELS]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "No columns to parse from file"),
        ("<html>", "None of"),
        ("file,width\na.jpg,1\n", "not in index"),
        (f"{HEADER}\na.jpg,wide,1,x\n", "invalid literal"),
        (f"{HEADER}\n,1,1,x\n", "a row without a name"),
        (f"{HEADER}\na.jpg,1,1,x,7,8\nb.jpg,1,1,x,7,8,9\n", "Error tokenizing data"),
    ],
)
def test_bad_manifest_is_refused(root, tmp_path, text, told, capsys):
    (tmp_path / "odd.csv").write_text(text)
    with refused(rf"odd\.csv: .*expected.*{told}|odd\.csv: .*{told}.*expected") as caught:
        verify(root, tmp_path / "odd.csv")
    assert main(["verify", "--root", str(root), "--manifest", str(tmp_path / "odd.csv")]) == 1
    assert capsys.readouterr().err == f"data_load verify: {caught.value}\n"


# The command line -----------------------------------------------------------------------------------------------------


def test_exit_status_of_fetch_and_verify_tells_the_result(server, root, manifest, capsys):
    command = ["fetch", "--url", server.url, "--root", str(root), "--manifest", str(manifest)]
    server.replies = [whole(b"<html>")]
    assert main(command) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("data_load fetch:")]
    assert len(error) == 1 and "expected a whole ZIP archive" in error[0]
    server.replies = [whole(archive(official_files()))]
    assert main(command) == 0 and "5 good" in capsys.readouterr().out
    verify_it = ["verify", "--root", str(root), "--manifest", str(manifest)]
    assert main(verify_it) == 0 and "5 good" in capsys.readouterr().out
    (root / "test/Ann_00.jpg").unlink()
    assert main(verify_it) == 1 and "missing 1 (test/Ann_00.jpg)" in capsys.readouterr().out


def test_module_runs_as_a_command(root, manifest):
    command = [sys.executable, "-m", "data_load", "verify", "--root", str(root), "--manifest", str(manifest)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 1 and not done.stderr
    assert "missing 7 (training/Ann_00.jpg, training/Bo_00.jpg, training/Bo_01.jpg, …)" in done.stdout


def test_shipped_manifest_covers_the_labelled_images_of_both_splits():
    files = [line.split(",")[0] for line in data_load.MANIFEST.read_text().splitlines()[1:]]
    assert files[-2:] == ["training_frames_keypoints.csv", "test_frames_keypoints.csv"]
    files = files[:-2]
    assert len(files) == len(set(files)) == 3462 + 770
    assert sum(file.startswith("training/") for file in files) == 3462
