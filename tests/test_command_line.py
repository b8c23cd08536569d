from __future__ import annotations

import contextlib
import csv
import errno
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import PHOTOS, ROOT, face_points, write_set
from PIL import Image

from data_load import Data, person_of, read_image
from keypoints.__main__ import main as keypoints_main
from keypoints.command import printable
from keypoints.detection import Face, KeypointDetector
from keypoints.files import sha256
from keypoints.network import Framing
from keypoints.video import VideoFile
from models import Net
from training import recipe as trainer
from training.__main__ import main as training_main
from training.evaluation import evaluate
from training.framing import framing_dict
from training.splits import people_split
from training.weights import load_model, save_model, write_tensors

HEADER = ["file", "face", "left", "top", "width", "height"] + [f"{axis}{i}" for i in range(68) for axis in "xy"]
HEADER += ["yaw", "pitch", "roll", "emotion", "emotion_probability"]
ASTRONAUT, CLIP = str(PHOTOS / "astronaut.jpg"), str(ROOT / "data" / "sample" / "clip.mp4")

TRAINING = ("train", "evaluate", "failures", "export")


def main(arguments: list[str]) -> int:
    """`python -m keypoints` or `python -m training`, whichever has the command."""
    return (training_main if arguments[0] in TRAINING else keypoints_main)(arguments)


@pytest.fixture
def weights(tmp_path):
    """An untrained network: the command line must work, whatever the points are worth."""
    torch.manual_seed(0)
    net = Net()
    net.framing = framing_dict(Framing(1.5, 0, 0.1, 1.1, 0, -0.1))
    save_model(net, tmp_path / "net.safetensors")
    return str(tmp_path / "net.safetensors")


@pytest.fixture
def photo_set(tmp_path):
    """Twelve small images of one real face at different places, with its rough points."""
    photo, points, images, labels = read_image(ASTRONAUT), face_points(222, 115, 48), [], []
    for i in range(12):
        left, top = 110 + 3 * i, 15 + 2 * i
        images.append(photo[top : top + 220, left : left + 220])
        labels.append(points - [left, top])
    write_set(tmp_path, "training", [f"P{i // 3}_{i:02d}.jpg" for i in range(12)], images, np.stack(labels))
    return ["--csv", str(tmp_path / "training_frames_keypoints.csv"), "--images", str(tmp_path / "training")]


@pytest.fixture
def few_frames(tmp_path) -> Path:
    out = VideoFile(tmp_path / "few.webm", 25, (160, 120))
    for i in range(3):
        out.write(np.random.default_rng(i).integers(0, 256, (120, 160, 3), np.uint8), i / 25)
    out.close()
    return out.path


def rows(path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


# detect ---------------------------------------------------------------------------------------------------------------


def test_detect_prints_a_line_a_face_and_writes_a_row_a_face(weights, tmp_path, capsys):
    assert main(["detect", ASTRONAUT, "--csv", str(tmp_path / "out.csv"), "--model", weights]) == 0
    faces, (header, *table) = KeypointDetector(weights)(ASTRONAUT), rows(tmp_path / "out.csv")
    assert header == HEADER and len(table) == len(faces) >= 1
    told = capsys.readouterr()
    assert [line.startswith(f"{ASTRONAUT}: face {i} ") for i, line in enumerate(told.out.splitlines())] == [True] * len(
        faces
    )
    assert told.err == ""
    for i, (row, face) in enumerate(zip(table, faces, strict=True)):
        assert row[:2] == [ASTRONAUT, str(i)]
        np.testing.assert_array_equal(np.array(row[2:6], float), face.box)
        np.testing.assert_allclose(np.array(row[6:142], float).reshape(68, 2), face.keypoints, atol=0.006)
        assert row[145] == face.emotion.label and float(row[146]) == pytest.approx(face.emotion.probability, abs=0.006)


def test_a_face_of_which_hardly_a_point_is_believed_ends_no_batch(tmp_path, capsys, monkeypatch):
    find = KeypointDetector.__call__
    doubt = np.full(68, 0.3, np.float32)
    monkeypatch.setattr(
        KeypointDetector, "__call__", lambda self, image: [replace(f, confidence=doubt) for f in find(self, image)]
    )
    files = [ASTRONAUT, str(PHOTOS / "grace_hopper.jpg")]
    assert main(["detect", *files, "--csv", str(tmp_path / "o.csv"), "--json", str(tmp_path / "o.jsonl")]) == 0
    told = capsys.readouterr()
    assert [line.split(": face")[0] for line in told.out.splitlines()] == files and told.err == ""
    assert [row[0] for row in rows(tmp_path / "o.csv")[1:]] == files
    assert main(["filter", ASTRONAUT, "--filter", "sunglasses", "--out", str(tmp_path / "worn.png")]) == 0


@pytest.mark.parametrize("error", [ValueError("odd"), cv2.error("odd"), MemoryError("odd")])
def test_an_error_of_one_file_s_face_is_told_and_the_others_are_done(weights, tmp_path, capsys, monkeypatch, error):
    made, calls = Face.pose.func, itertools.count()

    def pose(self):
        if next(calls) == 1:
            raise error
        return made(self)

    monkeypatch.setattr(Face, "pose", property(pose))
    files = [ASTRONAUT, ASTRONAUT, str(PHOTOS / "grace_hopper.jpg")]
    options = ["--csv", str(tmp_path / "o.csv"), "--no-emotion", "--model", weights]
    assert main(["detect", *files, *options]) == 1
    assert capsys.readouterr().err == f"{ASTRONAUT}: odd\n"
    assert [row[0] for row in rows(tmp_path / "o.csv")[1:]] == [files[0], files[2]]


def test_rows_are_on_disk_as_they_come_and_stay_when_detect_is_interrupted(weights, tmp_path, monkeypatch):
    seen = []

    def read(file):
        if seen:
            raise KeyboardInterrupt
        seen.append(file)
        return read_image(file)

    monkeypatch.setattr("keypoints.commands.read_image", read)
    outputs = ["--csv", str(tmp_path / "o.csv"), "--json", str(tmp_path / "o.jsonl")]
    assert main(["detect", ASTRONAUT, ASTRONAUT, *outputs, "--model", weights]) == 130
    assert sorted(file.name for file in tmp_path.glob("o.*")) == ["o.csv.part", "o.jsonl.part"]
    assert len(rows(tmp_path / "o.csv.part")) == 2 and len((tmp_path / "o.jsonl.part").read_text().splitlines()) == 1


def test_detect_writes_a_json_object_a_face(tmp_path, capsys):
    names = [ASTRONAUT, str(PHOTOS / "grace_hopper.jpg")]
    assert main(["detect", *names, "--json", str(tmp_path / "o.jsonl")]) == 0
    records = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [record["file"] for record in records] == names and [record["face"] for record in records] == [0, 0]
    [face] = KeypointDetector()(ASTRONAUT)
    assert records[0] == {"file": ASTRONAUT, "face": 0, **face.to_dict()}
    np.testing.assert_array_equal(np.float32(records[0]["keypoints"]), face.keypoints)
    assert main(["detect", ASTRONAUT, "--no-emotion", "--json", str(tmp_path / "o.jsonl")]) == 0
    assert "emotion" not in json.loads((tmp_path / "o.jsonl").read_text())
    assert main(["detect", ASTRONAUT, "--csv", str(tmp_path / "o"), "--json", str(tmp_path / "o")]) == 2
    assert "got the file of --csv, expected another" in capsys.readouterr().err


def test_weights_that_cannot_be_read_keep_no_others_from_being_measured(weights, photo_set, tmp_path, capsys):
    (tmp_path / "bad.pt").write_text("hello")
    models = [str(tmp_path / "bad.pt"), weights]
    out = tmp_path / "e.json"
    assert main(["evaluate", *photo_set, "--model", *models, "--framing", "box", "--json", str(out)]) == 1
    assert len(json.loads(out.read_text())["models"]) == 1
    [error] = capsys.readouterr().err.splitlines()
    assert "bad.pt" in error


def test_detect_leaves_the_emotion_out_when_told_to(weights, tmp_path, capsys):
    assert main(["detect", ASTRONAUT, "--no-emotion", "--csv", str(tmp_path / "out.csv"), "--model", weights]) == 0
    header, *table = rows(tmp_path / "out.csv")
    assert header == HEADER[:-2] and {len(row) for row in table} == {len(header)}
    assert capsys.readouterr().out.endswith("pixels\n")


def test_a_file_that_cannot_be_read_is_reported_and_the_others_are_done(weights, tmp_path, capsys):
    note = tmp_path / "note.jpg"
    note.write_text("hello")
    (empty := tmp_path / "empty").mkdir()
    files = [str(tmp_path / "none.jpg"), str(note), str(empty), ASTRONAUT]
    assert main(["detect", *files, "--csv", str(tmp_path / "out.csv"), "--model", weights]) == 1
    told = capsys.readouterr()
    errors = told.err.splitlines()
    assert len(errors) == 3
    assert errors[0] == f"{files[0]}: No such file or directory"
    assert errors[1].startswith(f"{note}: expected an image, got 5 bytes")
    assert errors[2] == f"{empty}: Is a directory" or sys.platform == "win32"
    assert {row[0] for row in rows(tmp_path / "out.csv")[1:]} == {ASTRONAUT}
    assert f"{ASTRONAUT}: face 0 " in told.out


@pytest.mark.parametrize("kind", ["cmyk", "alpha", "16 bits"])
def test_a_photo_of_another_kind_gives_the_face_of_the_common_one(weights, tmp_path, capsys, kind):
    photo, file = Image.open(ASTRONAUT), tmp_path / "photo.jpg"
    if kind == "cmyk":
        photo.convert("CMYK").save(file, "JPEG", quality=95)
    elif kind == "alpha":
        photo.putalpha(200)
        photo.save(file, "PNG")
    else:
        deep = cv2.cvtColor(np.asarray(photo), cv2.COLOR_RGB2BGR).astype(np.uint16) * 257
        file.write_bytes(cv2.imencode(".png", deep)[1].tobytes())
    assert main(["detect", str(file), "--model", weights]) == 0
    detector = KeypointDetector(weights)
    (expected, *_), boxes = detector(ASTRONAUT), [face.box for face in detector(file)]
    # CMYK has slightly other greys: the box may move a little, and false alarms come and go.
    assert min(np.abs(box - expected.box).max() for box in boxes) <= 6


def test_a_pixel_and_a_stripe_hold_no_face(weights, tmp_path, capsys):
    for name, shape in (("pixel.png", (1, 1)), ("stripe.png", (1, 20_000))):
        (tmp_path / name).write_bytes(cv2.imencode(".png", np.full(shape, 90, np.uint8))[1].tobytes())
    files = [str(tmp_path / name) for name in ("pixel.png", "stripe.png")]
    assert main(["detect", *files, "--model", weights]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines() == [f"{file}: no face found" for file in files] and told.err == ""


def test_detect_takes_folders_and_patterns(weights, tmp_path, capsys):
    for name in ("b.png", "a.PNG", "note.txt"):
        (tmp_path / name).write_bytes(cv2.imencode(".png", np.full((9, 9), 90, np.uint8))[1].tobytes())
    a, b, none = (str(tmp_path / name) for name in ("a.PNG", "b.png", "*.jpg"))
    assert main(["detect", str(tmp_path), str(tmp_path / "*.png"), none, "--model", weights]) == 1
    told = capsys.readouterr()
    assert told.out.splitlines() == [f"{file}: no face found" for file in (a, b, b)]
    assert told.err == f"{none}: No such file or directory\n"


def test_no_face_is_said_and_is_no_failure(weights, tmp_path, capsys):
    write_set(tmp_path, "test", ["black.jpg"], [np.zeros((80, 90, 3), np.uint8)], np.zeros((1, 68, 2)))
    black = str(tmp_path / "test" / "black.jpg")
    assert main(["detect", black, "--csv", str(tmp_path / "out.csv"), "--model", weights]) == 0
    assert capsys.readouterr().out == f"{black}: no face found\n"
    assert rows(tmp_path / "out.csv") == [HEADER]


def test_drawn_pictures_have_the_same_size_and_one_name_each(weights, tmp_path):
    files = []
    for folder, photo in (("a", "astronaut.jpg"), ("b", "grace_hopper.jpg"), ("c", "astronaut.jpg")):
        (tmp_path / folder).mkdir()
        files.append(shutil.copy(PHOTOS / photo, tmp_path / folder / "face.jpg"))
    drawn = tmp_path / "new" / "drawn"
    assert main(["detect", *map(str, files), "--draw", str(drawn), "--model", weights]) == 0
    assert {file.name for file in drawn.iterdir()} == {"face.jpg", "face_2.jpg", "face_3.jpg"}
    for file, name in zip(files, ("face.jpg", "face_2.jpg", "face_3.jpg"), strict=True):
        before, after = read_image(file), read_image(drawn / name)
        assert before.shape == after.shape
        assert 0.1 < np.abs(before.astype(int) - after).mean() < 20  # the same picture with something drawn in


def test_drawing_never_overwrites_the_photographs(weights, tmp_path, capsys):
    photo = tmp_path / "face.jpg"
    shutil.copy(ASTRONAUT, photo)
    before = photo.read_bytes()
    assert main(["detect", str(photo), "--draw", str(tmp_path), "--model", weights]) == 2
    assert photo.read_bytes() == before
    assert "would overwrite" in capsys.readouterr().err


def test_a_link_among_the_drawn_pictures_does_not_lead_to_the_photographs(weights, tmp_path, capsys):
    shutil.copy(ASTRONAUT, tmp_path / "face.png")
    before = (tmp_path / "face.png").read_bytes()
    (tmp_path / "drawn").mkdir()
    try:
        (tmp_path / "drawn" / "face.jpg").symlink_to(tmp_path / "face.png")
    except OSError:
        pytest.skip("links need a right here")
    drawing = ["--draw", str(tmp_path / "drawn"), "--model", weights]
    assert main(["detect", str(tmp_path / "face.png"), *drawing]) == 2
    assert (tmp_path / "face.png").read_bytes() == before and "would overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["detect", "filter", "evaluate", "export", "track", "train"])
def test_no_file_that_is_read_is_written_over(weights, photo_set, tmp_path, capsys, command):
    photo, labels = shutil.copy(ASTRONAUT, tmp_path / "b.jpg"), photo_set[1]
    for arguments, kept in {
        "detect": [([str(photo), "--csv", str(photo)], photo), ([str(photo), "--csv", weights], weights)],
        "filter": [([str(photo), "--filter", "cat", "--out", str(photo)], photo)],
        "evaluate": [([*photo_set, "--json", labels], labels), ([*photo_set, "--json", weights], weights)],
        "export": [(["--onnx", weights], weights)],
        "track": [([CLIP, "--csv", weights], weights)],
        "train": [([*photo_set, "--out", labels], labels)],
    }[command]:
        before = Path(kept).read_bytes()
        assert main([command, *arguments, *([] if command == "train" else ["--model", weights])]) == 2
        assert Path(kept).read_bytes() == before
        [line] = capsys.readouterr().err.splitlines()
        assert str(kept) in line and line.endswith("the source would be overwritten, expected another file")


@pytest.mark.skipif(sys.platform == "win32", reason="has no such devices")
def test_rows_for_nobody_leave_the_device_in_its_place(weights, few_frames):
    assert main(["detect", ASTRONAUT, "--csv", "/dev/null", "--model", weights]) == 0
    assert main(["track", str(few_frames), "--csv", "/dev/null", "--model", weights]) == 0
    assert Path("/dev/null").is_char_device() and not Path("/dev/null.part").exists()


# evaluate -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_figures_written(tmp_path, monkeypatch):
    """Where the command writes by default, and has no business in a test."""
    monkeypatch.setattr("training.__main__.BUILD", tmp_path / "build")
    monkeypatch.setattr("training.__main__.RESULTS", tmp_path / "results")
    return tmp_path


def test_evaluate_prints_a_line_a_framing_of_one_s_own_images_and_writes_their_figures(
    weights, photo_set, tmp_path, capsys
):
    path = tmp_path / "figures.json"
    assert main(["evaluate", *photo_set, "--model", weights, "--json", str(path)]) == 0
    content = json.loads(path.read_text(encoding="utf-8"))
    [model] = content["models"]
    assert content["data"] == photo_set[1] and list(model["test"]) == ["centre", "haar", "box"]
    assert (model["weights"], model["sha256"]) == ("net.safetensors", sha256(weights))
    assert model["wild"] is model["by_person"] is None
    for framing, figures in model["test"].items():
        net = load_model(weights)
        assert figures == evaluate(net, photo_set[1], photo_set[3], framing).figures
        assert figures["n"] == 12 and figures["people"] == 4 and (framing == "haar" or figures["found"] == 12)
    header, *lines, blank, _, wrote = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["set", "weights", "framing"] and blank == "" and wrote == f"wrote {path}"
    assert [line.split("  ")[1].strip() for line in lines] == ["net"] * 3


def test_without_a_set_the_test_set_is_measured_and_what_is_missing_is_said(
    weights, small_set, no_figures_written, monkeypatch, capsys
):
    monkeypatch.setattr("training.train.find_data", lambda: Data("sample", small_set.root))
    monkeypatch.setattr("training.__main__.find_wild", lambda folder: None)
    assert main(["evaluate", "--framing", "centre", "--model", weights]) == 0
    content = json.loads((no_figures_written / "build" / "evaluation.json").read_text(encoding="utf-8"))
    assert content["data"] == "sample" and list(content["models"][0]["test"]) == ["centre"]
    told = capsys.readouterr().out
    for sentence in (
        "The official set is not in data/",
        "Unseen people are missing",
        "The wild photos are not here",
    ):
        assert sentence in told
    assert not (no_figures_written / "results").exists()  # committed figures are of the official set only


def test_several_weights_are_measured_one_after_the_other(weights, photo_set, tmp_path):
    second = shutil.copy(weights, tmp_path / "second.safetensors")
    path = tmp_path / "figures.json"
    arguments = ["--framing", "box", "--json", str(path), "--model", weights, str(second)]
    assert main(["evaluate", *photo_set, *arguments]) == 0
    models = json.loads(path.read_text(encoding="utf-8"))["models"]
    assert [model["weights"] for model in models] == ["net.safetensors", "second.safetensors"]
    assert models[0]["test"] == models[1]["test"]


def no_labels(photo_set, tmp_path):
    return ["--csv", str(tmp_path / "none.csv"), *photo_set[2:]]


def no_images(photo_set, tmp_path):
    return [*photo_set[:3], str(tmp_path / "nowhere")]


def no_image_in_the_folder(photo_set, tmp_path):
    (tmp_path / "empty").mkdir()
    return [*photo_set[:3], str(tmp_path / "empty")]


def changed(photo_set, change):
    """The set with its labels' lines changed."""
    path = Path(photo_set[1])
    path.write_text("\n".join(change(path.read_text(encoding="utf-8").splitlines())), encoding="utf-8")
    return photo_set


def a_column_too_few(photo_set, tmp_path):
    return changed(photo_set, lambda lines: [line.rsplit(",", 1)[0] for line in lines])


def a_column_too_many(photo_set, tmp_path):
    return changed(photo_set, lambda lines: [line + ",1" for line in lines])


def a_longer_line(photo_set, tmp_path):
    return changed(photo_set, lambda lines: [*lines[:5], lines[5] + ",1", *lines[6:]])


def not_a_number(photo_set, tmp_path):
    return changed(photo_set, lambda lines: [*lines[:2], ",".join([lines[2].rsplit(",", 1)[0], "nan"]), *lines[3:]])


def empty_file(photo_set, tmp_path):
    return changed(photo_set, lambda lines: [])


def header_only(photo_set, tmp_path):
    return changed(photo_set, lambda lines: lines[:1])


def no_size(photo_set, tmp_path):
    return changed(photo_set, lambda lines: [*lines[:4], lines[4].split(",")[0] + ",5" * 136, *lines[5:]])


def an_image_that_is_none(photo_set, tmp_path):
    (tmp_path / "training" / "P0_02.jpg").write_text("<html>")
    return photo_set


def no_wild_photos(photo_set, tmp_path):
    return [*photo_set, "--wild", str(tmp_path / "training")]


def no_model(photo_set, tmp_path):
    return [*photo_set, "--model", str(tmp_path / "none.safetensors")]


def bad_model(photo_set, tmp_path):
    (tmp_path / "bad.safetensors").write_text("<html>")
    return [*photo_set, "--model", str(tmp_path / "bad.safetensors")]


def weights_of_another_net(photo_set, tmp_path):
    write_tensors(tmp_path / "other.safetensors", {"fc.weight": torch.zeros(3, 3)}, {})
    return [*photo_set, "--model", str(tmp_path / "other.safetensors")]


def weights_of_an_unknown_net(photo_set, tmp_path):
    write_tensors(tmp_path / "other.safetensors", {}, {"network": "ResNet"})
    return [*photo_set, "--model", str(tmp_path / "other.safetensors")]


def half_a_set(photo_set, tmp_path):
    return photo_set[:2]


COLUMNS = "columns, expected 137: a name, then x and y of 68 points"
BAD = {
    no_labels: r".*none\.csv: No such file or directory",
    no_images: r".*nowhere: labelled images are missing: 12.*P0_00\.jpg.*",
    no_image_in_the_folder: r".*empty: labelled images are missing: 12.*P0_00\.jpg.*",
    a_column_too_few: rf".*keypoints\.csv: got 136 {COLUMNS}",
    a_column_too_many: rf".*keypoints\.csv: got 138 {COLUMNS}",
    a_longer_line: r".*keypoints\.csv: expected a CSV file of keypoints, got: .*Expected 137 fields in line 6, saw 138",
    not_a_number: r".*keypoints\.csv: got no coordinates \(.*, nan\) of point 67 in row 2 \('P0_01\.jpg'; 1 .*",
    empty_file: r".*keypoints\.csv: got no rows, expected one for each image",
    header_only: r".*keypoints\.csv: got no rows, expected one for each image",
    no_size: r".*keypoints\.csv: got a face of 0 pixels in row 4 \('P1_03\.jpg'; 1 such rows of 12\).*",
    an_image_that_is_none: r".*P0_02\.jpg: expected an image, got 6 bytes that do not decode as one",
    no_wild_photos: r".*wild_keypoints\.csv is missing: expected it beside the photos of the wild set",
    no_model: r".*none\.safetensors: No such file or directory",
    bad_model: r".*bad\.safetensors: expected weights saved by save_model, got .*",
    weights_of_another_net: r".*other\.safetensors: got weights that do not fit Net: .*",
    weights_of_an_unknown_net: r".*other\.safetensors: got weights of network 'ResNet', expected one of Net, PhotoNet",
    half_a_set: "got only one of --csv and --images, expected both or none",
}


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
def test_bad_input_is_one_sentence_and_exit_status_2(weights, photo_set, no_figures_written, tmp_path, capfd, bad):
    arguments = bad(photo_set, tmp_path)
    model = [] if "--model" in arguments else ["--model", weights]
    assert main(["evaluate", *arguments, *model]) == 2
    told = capfd.readouterr()
    [line] = told.err.splitlines()
    assert line.startswith("training evaluate: ") and told.out == ""
    assert re.fullmatch(f"training evaluate: {BAD[bad]}", line)
    assert not (tmp_path / "build").exists()


# failures -------------------------------------------------------------------------------------------------------------


def test_failures_writes_a_page_with_its_pictures(weights, photo_set, tmp_path, capsys):
    out = tmp_path / "page"
    assert main(["failures", *photo_set, "--framing", "box", "--model", weights, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote {out / 'index.html'}\n"
    pictures = re.findall(r'<img src="([^"]+)"', (out / "index.html").read_text(encoding="utf-8"))
    assert pictures == ["part.png", "yaw.png", "sharpness.png", "size.png"]
    assert {file.name for file in out.iterdir()} == {"index.html", *pictures}
    for name in pictures:
        assert min(read_image(out / name).shape[:2]) > 100


def test_evaluate_checks_that_it_can_write_before_it_computes(weights, photo_set, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("training.__main__.evaluate_weights", None)
    (tmp_path / "note").write_text("a file")
    assert main(["evaluate", "--model", weights, *photo_set, "--json", str(tmp_path / "note" / "e.json")]) == 2
    assert capsys.readouterr().err == f"training evaluate: {tmp_path / 'note' / 'e.json'}: Not a directory\n"


def test_evaluate_prints_its_figures_before_it_writes_them(weights, photo_set, tmp_path, capsys, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("training.__main__.write_json", full)
    arguments = ["evaluate", "--model", weights, *photo_set, "--framing", "box", "--json", str(tmp_path / "e.json")]
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert "NME_box" in told.out and "No space left" in told.err


# train ----------------------------------------------------------------------------------------------------------------


def test_train_writes_weights_that_detect_takes_and_their_record(photo_set, tmp_path, capsys):
    out = tmp_path / "new" / "mine.safetensors"
    arguments = ["train", *photo_set, "--epochs", "1", "--seed", "3", "--out", str(out)]
    assert main(arguments) == 0
    assert "epoch 1/1: training loss" in capsys.readouterr().out
    written = [f"mine.{kind}" for kind in ("coarse.onnx", "fine.onnx", "json", "safetensors")]
    assert sorted(file.name for file in out.parent.iterdir()) == written
    record = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["samples"] == 12 and record["held_out_people"] == [] and "by_person" not in record
    assert record["recipe"]["seed"] == 3 and record["recipe"]["epochs"] == 1
    assert record["data"] == photo_set[1] and record["framing"] == load_model(out).framing
    assert {"sha256", "versions", "seconds", "peak_memory_mb", "history"} <= set(record)
    assert main(["detect", ASTRONAUT, "--model", str(out)]) == 0


def test_a_twin_is_trained_without_the_people_it_is_measured_on(photo_set, tmp_path):
    out = tmp_path / "twin.safetensors"
    assert main(["train", *photo_set, "--epochs", "1", "--twin", "--out", str(out)]) == 0
    record = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    names = [row[0] for row in rows(photo_set[1])[1:]]
    parts = people_split(names)
    assert record["samples"] == len(parts["training"]) == 6 and "nme_box" in record["history"][0]
    held_out = {part: [names[i] for i in parts[part]] for part in ("validation", "test")}
    assert record["held_out_people"] == sorted({person_of(name) for part in held_out.values() for name in part})
    assert list(record["by_person"]) == ["validation", "test"]
    for part, members in held_out.items():
        measured = record["by_person"][part]
        assert list(measured) == ["centre", "haar", "box"] and measured["box"]["n"] == len(members) == 3
        assert measured["centre"] == evaluate(load_model(out), photo_set[1], photo_set[3], names=members).figures


def test_an_interrupted_train_says_how_to_go_on(photo_set, tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("training.train.fit", interrupt)
    assert main(["train", *photo_set, "--out", str(tmp_path / "mine.safetensors")]) == 130
    assert "the same command goes on from the last whole epoch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--epochs", "0"], "got 0 epochs, expected at least one"),
        (["--device", "cuda"], "got device 'cuda', which torch does not find on this machine"),
    ],
)
def test_bad_training_arguments_are_one_sentence_and_exit_status_2(
    photo_set, tmp_path, capsys, monkeypatch, arguments, sentence
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["train", *photo_set, "--out", str(tmp_path / "mine.safetensors"), *arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"training train: {sentence}")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("", "got a folder, expected a file"),
        ("w.json", "got the ending .json, expected another for the weights: .safetensors"),
        ("w.pt", "got the ending .pt, expected another for the weights: .safetensors"),
        ("w.checkpoint", "got the ending .checkpoint, expected another for the weights: .safetensors"),
        ("note/w.safetensors", "Not a directory"),
        ("with_record/w.safetensors", "Is a directory"),
        pytest.param(
            "/dev/null",
            "got a device or a pipe, expected a file",
            marks=pytest.mark.skipif(sys.platform == "win32", reason="has no such devices"),
        ),
    ],
)
def test_where_the_weights_cannot_be_written_nothing_is_trained(
    photo_set, tmp_path, capsys, monkeypatch, name, sentence
):
    monkeypatch.setattr("training.train.fit", None)
    (tmp_path / "note").write_text("a file")
    (tmp_path / "with_record" / "w.json").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / name
    assert main(["train", *photo_set, "--out", str(out)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    named = out.with_suffix(".json") if name.startswith("with_record") else out
    assert line.startswith("training train: ") and line.endswith(f"{named}: {sentence}")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_disk_full_at_the_very_end_costs_no_training(photo_set, tmp_path, capsys, monkeypatch):
    out = tmp_path / "new" / "net.safetensors"
    arguments = ["train", *photo_set, "--epochs", "2", "--out", str(out)]
    train_epoch, trained = trainer.train_epoch, []
    monkeypatch.setattr(trainer, "train_epoch", lambda *given: trained.append(1) or train_epoch(*given))

    def full(path, *content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr("training.weights.write_tensors", full)
        assert main(arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"training train: {out}: No space left on device"
    assert len(trained) == 2 and [file.name for file in out.parent.iterdir()] == ["net.checkpoint"]
    assert main([*arguments, "--seed", "1"]) == 2  # of other settings it is not taken
    assert "got a checkpoint of {'seed': 0}, expected {'seed': 1}; delete it" in capsys.readouterr().err
    assert main(arguments) == 0
    assert len(trained) == 2 and sorted(file.name for file in out.parent.iterdir()) == [
        f"net.{kind}" for kind in ("coarse.onnx", "fine.onnx", "json", "safetensors")
    ]
    record = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert [epoch["epoch"] for epoch in record["history"]] == [1, 2]
    assert main([*arguments, "--seed", "1"]) == 0  # nothing is left that another training could take
    assert len(trained) == 4


# As a command ---------------------------------------------------------------------------------------------------------


def test_the_package_runs_as_a_command(weights, tmp_path):
    command = [sys.executable, "-m", "keypoints", "detect", "none.jpg", ASTRONAUT, "--model", weights]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 1
    assert done.stderr == "none.jpg: No such file or directory\n"
    assert done.stdout.startswith(f"{ASTRONAUT}: face 0 at left ")


def test_a_terminal_that_cannot_show_a_name_ends_nothing(weights, tmp_path):
    try:
        photo = shutil.copy(ASTRONAUT, tmp_path / "脸.jpg")
    except OSError:
        pytest.skip("this file system does not take the name")
    command = [sys.executable, "-m", "keypoints", "detect", photo, "--csv", tmp_path / "k.csv", "--model", weights]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == 0 and done.stderr == b"" and b"\\u8138.jpg: face 0 at left " in done.stdout
    assert rows(tmp_path / "k.csv")[1][0] == str(photo)


# Names and places of all kinds ----------------------------------------------------------------------------------------

NAMES = ["a b.jpg", "Gesicht ü 脸.jpg", "photo.txt", "no ending", "-x.jpg", "a'b\"c,d.jpg"]


@pytest.mark.parametrize("name", [*NAMES, *([] if sys.platform == "win32" else ["line\nend.jpg", "\udcff.jpg"])])
def test_a_photograph_may_have_any_name(weights, tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    try:
        shutil.copy(ASTRONAUT, name)
    except OSError:
        pytest.skip("this file system does not take the name")
    assert main(["detect", f"./{name}", "--csv", "k.csv", "--draw", "drawn", "--model", weights]) == 0
    told = capsys.readouterr()
    assert told.out.count("\n") == 1 and told.out.startswith(f"./{printable(name)}: face 0") and told.err == ""
    with open("k.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert next(csv.DictReader(file))["file"] == f"./{name}"
    assert (tmp_path / "drawn" / f"{Path(name).stem}.jpg").exists()
    assert main(["detect", f"./none {name}", "--model", weights]) == 1
    assert capsys.readouterr().err == f"./none {printable(name)}: No such file or directory\n"


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_links_are_followed_and_what_leads_nowhere_is_one_sentence(weights, tmp_path, capsys):
    for name, target in (("good", ASTRONAUT), ("broken", tmp_path / "none"), ("loop", tmp_path / "loop")):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "half.jpg").write_bytes(Path(ASTRONAUT).read_bytes()[:300])
    names = ["good", "broken", "loop", "empty.jpg", "half.jpg"]
    assert main(["detect", *(str(tmp_path / name) for name in names), "--model", weights]) == 1
    told = capsys.readouterr()
    assert told.out.startswith(f"{tmp_path / 'good'}: face 0") and told.out.count("\n") == 1
    assert [line.split(": ")[0] for line in told.err.splitlines()] == [str(tmp_path / name) for name in names[1:]]


WRITING = ["detect --csv", "detect --draw", "filter --out", "track --out", "track --csv", "train --out"]
WRITING += ["evaluate --json", "failures --out", "export --onnx"]


@pytest.fixture(params=["/proc/self", "a file", "a read-only folder", "a read-only disk"])
def no_place(request, tmp_path) -> Iterator[Path]:
    """Where nothing can be written, in several ways."""
    place, mounted = tmp_path / "place", False
    if request.param == "/proc/self":  # not even root can
        place = Path("/proc/self")
        if not place.exists():
            pytest.skip("needs Linux")
    elif request.param == "a file":
        place.write_text("a file")
    else:
        place.mkdir()
        if request.param == "a read-only folder":
            if sys.platform == "win32" or os.geteuid() == 0:
                pytest.skip("modes do not bind everybody here")
            place.chmod(0o555)
        else:
            mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(place)]
            if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
                pytest.skip("no disk can be mounted here: that takes root on Linux")
            mounted = True
    yield place
    if mounted:
        subprocess.run(["umount", str(place)], check=True)
    elif place.is_dir() and place.parent == tmp_path:
        place.chmod(0o755)


@pytest.mark.parametrize("what", WRITING)
def test_where_nothing_can_be_written_one_sentence_says_so(weights, photo_set, few_frames, capsys, no_place, what):
    command, option = what.split()
    source = {"track": [str(few_frames)], "train": [*photo_set, "--epochs", "1"], "export": []}.get(
        command, [ASTRONAUT]
    )
    if command in ("evaluate", "failures"):
        source = [*photo_set, "--framing", "box"]
    target = no_place / {"--draw": "drawn", "--csv": "k.csv", "--json": "e.json"}.get(option, "out.png")
    target = target.with_suffix(".webm") if what == "track --out" else target
    more = ["--filter", "cat"] if command == "filter" else []
    more += [] if command == "train" else ["--model", weights]
    assert main([command, *source, option, str(target), *more]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    package = "training" if command in TRAINING else "keypoints"
    assert last.startswith(f"{package} {command}: {no_place}") and "Error" not in last


def test_a_write_protected_file_stays(weights, tmp_path, capsys):
    file = tmp_path / "k.csv"
    file.write_text("precious")
    file.chmod(0o444)
    if os.access(file, os.W_OK):
        pytest.skip("modes do not bind everybody here")
    for command in (["detect", ASTRONAUT], ["track", CLIP]):
        assert main([*command, "--csv", str(file), "--model", weights]) == 2
        assert capsys.readouterr().err.endswith(f"{file}: Permission denied\n")
    assert file.read_text() == "precious" and not (tmp_path / "k.csv.part").exists()


# A full disk ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def no_room(size: int = 500) -> Iterator[None]:
    """As on a full disk, no file grows beyond ``size`` bytes; not even pytest's own, so that it lasts no test long."""
    resource = pytest.importorskip("resource", reason="needs a limit on the size of files")
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """A disk of four pages at ``folder``, all taken by another file."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here: that takes root on Linux")
    try:
        (folder / "other").write_bytes(bytes(16 * 1024))
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("disk", ["limit", "tmpfs"])
@pytest.mark.parametrize(
    "what", ["CSV", "pictures", "a filter's picture", "weights", "figures", "failures", "rows of a video", "a video"]
)
def test_a_full_disk_is_one_sentence_that_names_the_file_and_leaves_no_half_one(
    weights, photo_set, few_frames, tmp_path, capsys, what, disk
):
    out = tmp_path / "out"
    out.mkdir()
    arguments, file = {
        "CSV": (["detect", ASTRONAUT, "--csv", str(out / "k.csv")], "k.csv"),
        "pictures": (["detect", ASTRONAUT, "--draw", str(out)], "astronaut.jpg"),
        "a filter's picture": (["filter", ASTRONAUT, "--filter", "cat", "--out", str(out / "c.png")], "c.png"),
        "weights": (["train", *photo_set, "--epochs", "1", "--out", str(out / "net.safetensors")], "net.checkpoint"),
        "figures": (["evaluate", "--model", weights, *photo_set, "--json", str(out / "e.json")], "e.json"),
        "failures": (["failures", "--model", weights, *photo_set, "--out", str(out)], "part.png"),
        "rows of a video": (["track", CLIP, "--csv", str(out / "r.csv"), "--model", weights], "r.csv"),
        "a video": (["track", str(few_frames), "--out", str(out / "v.webm"), "--model", weights], "v.webm"),
    }[what]
    with no_room() if disk == "limit" else full_disk(out):
        assert main(arguments) == 2
        left = {path.name for path in out.iterdir()} - {"other"}
    last = capsys.readouterr().err.strip().splitlines()[-1]
    package = "training" if arguments[0] in TRAINING else "keypoints"
    assert last.startswith(f"{package} {arguments[0]}: {out / file}: ") and "Traceback" not in last
    assert left == set()


def test_rows_written_before_the_disk_was_full_stay_whole_under_another_name(weights, tmp_path, capsys):
    (tmp_path / "r.csv").write_text("yesterday's")
    with no_room(20_000):
        assert main(["track", CLIP, "--csv", str(tmp_path / "r.csv"), "--model", weights]) == 2
    assert f"{tmp_path / 'r.csv'}: File too large" in capsys.readouterr().err
    assert (tmp_path / "r.csv").read_text() == "yesterday's"
    header, *table = rows(tmp_path / "r.csv.part")
    assert len(table) > 10 and {len(row) for row in table} == {len(header)}


@pytest.mark.parametrize("arguments", [["train"], ["--threads", "2", "evaluate", "--csv", "a"], ["export", "--help"]])
def test_a_command_that_has_moved_says_where_to(arguments, capsys):
    assert keypoints_main(arguments) == 2
    [command] = set(arguments) & set(TRAINING)
    told = capsys.readouterr()
    assert told.err == f"keypoints {command}: it is 'python -m training {command}' now\n" and told.out == ""
