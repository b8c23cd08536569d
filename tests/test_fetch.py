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

import cv2
import numpy as np
import pytest
from helpers import ROOT, csv_header, face_points, write_labels

import data_load
from data_load import fetch, main, verify

FOLDER = "P1_Facial_Keypoints-6e55adc6bd032d9fb1ad41a4c3e68aae847cdf81"
HEADER = "file,width,height,sha1_of_rgb_bytes"
LABELLED = {"training": ["Ann_00.jpg", "Bo_00.jpg", "Bo_01.jpg"], "test": ["Ann_00.jpg", "Cy_00.jpg"]}


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def official_files() -> dict[str, bytes]:
    """A small official set, as its archive holds it: path below ``data/`` → content."""
    files = {}
    for split, names in LABELLED.items():
        for i, name in enumerate(names):
            files[f"{split}/{name}"] = png(picture(i + 10 * (split == "test")))
        row = ",".join(f"{v:.1f}" for v in face_points(20, 15, 10).ravel())
        files[f"{split}_frames_keypoints.csv"] = "\n".join(
            [csv_header(), *(f"{name},{row}" for name in names), ""]
        ).encode()
    return files


def archive(files: dict[str, bytes], **other: bytes) -> bytes:
    """A zip in the layout of GitHub's, with other files beside ``data/`` and in it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as zip_file:
        zip_file.writestr(f"{FOLDER}/README.md", "# Facial keypoints")
        zip_file.writestr(f"{FOLDER}/models.py", "raise SystemExit('do not unpack me')")
        zip_file.writestr(f"{FOLDER}/data/notes.txt", "not wanted")
        zip_file.writestr(f"{FOLDER}/data/training/notes.txt", "not wanted")
        zip_file.writestr(f"{FOLDER}/images/training/x.jpg", "not wanted")
        for name, data in files.items():
            zip_file.writestr(f"{FOLDER}/data/{name}", data)
        for name, data in other.items():
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


def cut(content: bytes) -> tuple[bytes, int, int]:
    return content, len(content) // 2, 200


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
    rows = ["file,width,height,sha1_of_rgb_bytes"]
    for split, names in LABELLED.items():
        for i, name in enumerate(names):
            sha1 = hashlib.sha1(picture(i + 10 * (split == "test")).tobytes()).hexdigest()
            rows.append(f"{split}/{name},40,30,{sha1}")
    path = tmp_path / "pixels.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


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


def test_fetch_brings_images_and_labels_and_nothing_else(server, root, manifest):
    server.replies = [whole(archive(official_files()))]
    report = fetch(server.url, root, manifest)
    assert report.ok and report.good == 5 and report.extra == 0
    assert {name: (root / name).read_bytes() for name in tree(root)} == official_files()
    assert not (root / ".fetch").exists()
    assert data_load.find_data("official", root).dataset("test")[1]["image"].shape == (30, 40, 3)


def test_unlabelled_images_come_along(server, root, manifest):
    server.replies = [whole(archive({**official_files(), "test/Zoe_00.jpg": png(picture(99))}))]
    report = fetch(server.url, root, manifest)
    assert report.ok and report.extra == 1 and (root / "test/Zoe_00.jpg").exists()


def test_a_cut_connection_is_tried_again(server, root, manifest):
    content = archive(official_files())
    server.replies = [cut(content), whole(content)]
    assert fetch(server.url, root, manifest).ok and server.count == 2


def test_a_download_that_stays_cut_leaves_nothing_and_the_next_call_succeeds(server, root, manifest):
    content = archive(official_files())
    server.replies = [cut(content)]
    with pytest.raises(OSError):
        fetch(server.url, root, manifest)
    assert server.count == 3 and tree(root) == set()
    server.replies = [whole(content)]
    assert fetch(server.url, root, manifest).ok


def test_half_an_archive_that_claims_to_be_whole_is_refused(server, root, manifest):
    content = archive(official_files())
    server.replies = [whole(content[: len(content) // 2])]
    with pytest.raises(ValueError, match="expected a whole ZIP archive"):
        fetch(server.url, root, manifest)
    assert tree(root) == set()


def test_a_missing_page_is_an_error(server, root, manifest):
    server.replies = [whole(b"Not Found", 404)]
    with pytest.raises(OSError, match="404"):
        fetch(server.url, root, manifest)
    assert tree(root) == set()


def damaged_inside() -> bytes:
    content = bytearray(archive(official_files()))
    content[content.index(b"Ann_00.jpg") + len("Ann_00.jpg")] = 0xFF  # where its compressed bytes begin
    return bytes(content)


FILES = official_files()
BAD = {
    "a page of HTML": (b"<!DOCTYPE html><html>Please log in</html>", "expected a whole ZIP archive"),
    "a zip with damaged bytes": (damaged_inside(), "expected a whole ZIP archive"),
    "other pixels": (archive({**FILES, "training/Bo_00.jpg": png(picture(77))}), r"damaged 1 \(training/Bo_00.jpg\)"),
    "an image that is none": (archive({**FILES, "test/Cy_00.jpg": b"<html>"}), r"damaged 1 \(test/Cy_00.jpg\)"),
    "a missing image": (
        archive({k: v for k, v in FILES.items() if k != "test/Ann_00.jpg"}),
        r"missing 1 \(test/Ann_00.jpg\)",
    ),
    "missing labels": (
        archive({k: v for k, v in FILES.items() if k != "test_frames_keypoints.csv"}),
        r"missing 1 \(test_frames_keypoints.csv\)",
    ),
    "an empty zip": (archive({}), "missing 7"),
    "a path out of the folder": (archive(FILES, **{f"{FOLDER}/data/training/../../../x.jpg": b"x"}), "expected paths"),
    "an absolute path": (archive(FILES, **{"/tmp/keypoints-escape/data/test/x.jpg": b"x"}), "expected paths"),
    "a path out with backslashes": (archive(FILES, **{f"{FOLDER}/data/test/..\\..\\x.jpg": b"x"}), "expected paths"),
    "an absolute path with a backslash": (archive(FILES, **{"\\x\\data\\test\\x.jpg": b"x"}), "expected paths"),
    "a file of 21 MB": (archive(FILES, **{f"{FOLDER}/data/test/x.jpg": bytes(21_000_000)}), "expected at most 20 MB"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_archive_is_an_error_and_deleted_and_the_next_call_succeeds(server, root, manifest, tmp_path, what):
    content, sentence = BAD[what]
    outside = tree(tmp_path)
    server.replies = [whole(content)]
    with pytest.raises(ValueError, match=sentence):
        fetch(server.url, root, manifest)
    assert not (root / ".fetch" / "archive.zip").exists()
    assert {name for name in tree(root) if not name.startswith(".fetch/")} == set()
    assert {name for name in tree(tmp_path) if not name.startswith("data/.fetch/")} == outside
    server.replies = [whole(archive(official_files()))]
    assert fetch(server.url, root, manifest).ok


def test_after_an_interruption_the_archive_is_not_downloaded_again(server, root, manifest, monkeypatch):
    server.replies = [whole(archive(official_files()))]

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(data_load, "verify", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch(server.url, root, manifest)
    assert {name for name in tree(root) if not name.startswith(".fetch/")} == set()
    assert fetch(server.url, root, manifest).ok and server.count == 1


def test_the_labels_are_moved_last_so_that_an_interrupted_move_is_not_taken_for_the_set(
    server, root, manifest, monkeypatch
):
    server.replies = [whole(archive(official_files()))]
    moved, replace = [], data_load.os.replace

    def move(source: Path, target: Path) -> None:
        if Path(target).suffix == ".csv":
            raise KeyboardInterrupt
        replace(source, target)
        moved.append(target)

    with monkeypatch.context() as patch:
        patch.setattr(data_load.os, "replace", move)
        with pytest.raises(KeyboardInterrupt):
            fetch(server.url, root, manifest)
    assert len(moved) == 5
    with pytest.raises(FileNotFoundError, match="python -m data_load fetch"):
        data_load.find_data("official", root)
    assert fetch(server.url, root, manifest).ok and server.count == 1


def test_a_set_that_is_whole_is_not_fetched_again(server, root, manifest):
    put(root, official_files())
    assert fetch(server.url, root, manifest).ok and server.count == 0


# verify ---------------------------------------------------------------------------------------------------------------


def test_verify_counts_good_missing_damaged_and_extra(root, manifest):
    put(root, {**official_files(), "test/Zoe_00.jpg": b"", "training/Bo_01.jpg": png(picture(5)[:, ::-1])})
    (root / "test/Ann_00.jpg").unlink()
    report = verify(root, manifest)
    assert (report.good, report.missing, report.damaged, report.extra) == (
        3,
        ["test/Ann_00.jpg"],
        ["training/Bo_01.jpg"],
        1,
    )
    assert not report.ok
    assert str(report) == (
        "labelled images: 3 good, missing 1 (test/Ann_00.jpg), damaged 1 (training/Bo_01.jpg); extra files: 1"
    )


def test_an_image_of_the_other_split_with_the_same_name_is_damaged(root, manifest):
    files = official_files()
    put(root, {**files, "test/Ann_00.jpg": files["training/Ann_00.jpg"]})
    assert verify(root, manifest).damaged == ["test/Ann_00.jpg"]


@pytest.mark.parametrize("change", [(0, 1.0), (67, -0.5)])
def test_other_coordinates_are_damaged(root, manifest, change):
    files, labels = official_files(), "test_frames_keypoints.csv"
    put(root, files)
    names, keypoints = data_load.read_keypoints(root / labels)
    with manifest.open("a") as file:
        file.write(f"{labels},136,2,{data_load.label_digest(names, keypoints)}\n")
    assert verify(root, manifest).ok
    point, by = change
    keypoints[1, point, 0] += by
    write_labels(root / labels, names, keypoints)
    report = verify(root, manifest)
    assert report.damaged == [labels] and report.good == 5


def test_labels_with_y_before_x_are_damaged_whatever_the_manifest_knows(root, manifest):
    put(root, official_files())
    names, keypoints = data_load.read_keypoints(root / "test_frames_keypoints.csv")
    write_labels(root / "test_frames_keypoints.csv", names, keypoints[..., ::-1])
    assert verify(root, manifest).damaged == ["test_frames_keypoints.csv"]


def test_labels_of_other_images_are_damaged(root, manifest):
    files = official_files()
    put(root, {**files, "test_frames_keypoints.csv": files["training_frames_keypoints.csv"]})
    assert verify(root, manifest).damaged == ["test_frames_keypoints.csv"]
    put(root, {"test_frames_keypoints.csv": b"<html>"})
    assert verify(root, manifest).damaged == ["test_frames_keypoints.csv"]


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
def test_what_is_no_manifest_is_refused_in_a_sentence(root, tmp_path, text, told, capsys):
    (tmp_path / "odd.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"odd\.csv: .*{told}") as caught:
        verify(root, tmp_path / "odd.csv")
    assert "\n" not in str(caught.value) and "expected" in str(caught.value)
    assert main(["verify", "--root", str(root), "--manifest", str(tmp_path / "odd.csv")]) == 1
    assert capsys.readouterr().err == f"data_load verify: {caught.value}\n"


def test_a_report_names_three_of_many(root, manifest):
    assert "missing 7 (training/Ann_00.jpg, training/Bo_00.jpg, training/Bo_01.jpg, …)" in str(verify(root, manifest))


# The command line -----------------------------------------------------------------------------------------------------


def test_verify_tells_its_result_by_its_exit_status(root, manifest, capsys):
    put(root, official_files())
    command = ["verify", "--root", str(root), "--manifest", str(manifest)]
    assert main(command) == 0 and "5 good" in capsys.readouterr().out
    (root / "test/Ann_00.jpg").unlink()
    assert main(command) == 1 and "missing 1 (test/Ann_00.jpg)" in capsys.readouterr().out


def test_fetch_reports_a_failure_in_one_sentence_and_by_its_exit_status(server, root, manifest, capsys):
    command = ["fetch", "--url", server.url, "--root", str(root), "--manifest", str(manifest)]
    server.replies = [whole(b"<html>")]
    assert main(command) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("data_load fetch:")]
    assert len(error) == 1 and "expected a whole ZIP archive" in error[0]
    server.replies = [whole(archive(official_files()))]
    assert main(command) == 0 and "5 good" in capsys.readouterr().out


def test_the_module_runs_as_a_command(root, manifest):
    command = [sys.executable, "-m", "data_load", "verify", "--root", str(root), "--manifest", str(manifest)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 1 and "missing 7" in done.stdout and not done.stderr


def test_the_manifest_that_ships_covers_the_labelled_images_of_both_splits():
    files = [line.split(",")[0] for line in data_load.MANIFEST.read_text().splitlines()[1:]]
    assert files[-2:] == ["training_frames_keypoints.csv", "test_frames_keypoints.csv"]
    files = files[:-2]
    assert len(files) == len(set(files)) == 3462 + 770
    assert sum(file.startswith("training/") for file in files) == 3462
