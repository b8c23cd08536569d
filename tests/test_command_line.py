from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from helpers import PHOTOS, ROOT, face_points, write_set
from PIL import Image

from data_load import read_image
from keypoints.__main__ import main
from keypoints.detection import Framing, KeypointDetector, framing_dict
from models import Net, load_model, save_model, sha256

HEADER = ["file", "face", "left", "top", "width", "height"] + [f"{axis}{i}" for i in range(68) for axis in "xy"]
ASTRONAUT = str(PHOTOS / "astronaut.jpg")


@pytest.fixture
def weights(tmp_path):
    """An untrained network: the command line must work, whatever the points are worth."""
    torch.manual_seed(0)
    net = Net()
    net.framing = framing_dict(Framing(1.5, 0, 0.1, 1.1, 0, -0.1))
    save_model(net, tmp_path / "net.pt")
    return str(tmp_path / "net.pt")


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
        np.testing.assert_allclose(np.array(row[6:], float).reshape(68, 2), face.keypoints, atol=0.006)


def test_a_file_that_cannot_be_read_is_reported_and_the_others_are_done(weights, tmp_path, capsys):
    note = tmp_path / "note.jpg"
    note.write_text("hello")
    files = [str(tmp_path / "none.jpg"), str(note), str(tmp_path), ASTRONAUT]
    assert main(["detect", *files, "--csv", str(tmp_path / "out.csv"), "--model", weights]) == 1
    told = capsys.readouterr()
    errors = told.err.splitlines()
    assert len(errors) == 3
    assert errors[0] == f"{files[0]}: No such file or directory"
    assert errors[1].startswith(f"{note}: expected an image, got 5 bytes")
    assert errors[2] == f"{tmp_path}: Is a directory" or sys.platform == "win32"
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


# evaluate -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["centre", "haar", "box"])
def test_evaluate_prints_and_writes_exactly_these_figures(weights, photo_set, tmp_path, capsys, framing):
    path = tmp_path / "figures.json"
    assert main(["evaluate", *photo_set, "--framing", framing, "--model", weights, "--json", str(path)]) == 0
    figures = json.loads(path.read_text(encoding="utf-8"))
    percents = ["nme_box", "nme_iod", "fr_iod_10", "fr_box_07", "auc_box_07"]
    assert list(figures) == ["n", "found", *percents, "nme_box_parts", "nme_iod_parts", "framing", "sha256"]
    assert figures["framing"] == framing and figures["sha256"] == sha256(weights)
    assert figures["n"] == 12 and (framing == "haar" or figures["found"] == 12)
    assert json.loads(capsys.readouterr().out) == figures


def no_labels(photo_set, tmp_path):
    return ["--csv", str(tmp_path / "none.csv"), *photo_set[2:]]


def no_images(photo_set, tmp_path):
    return [*photo_set[:3], str(tmp_path / "nowhere")]


def no_model(photo_set, tmp_path):
    return [*photo_set, "--model", str(tmp_path / "none.pt")]


def bad_model(photo_set, tmp_path):
    (tmp_path / "bad.pt").write_text("<html>")
    return [*photo_set, "--model", str(tmp_path / "bad.pt")]


def half_a_set(photo_set, tmp_path):
    return photo_set[:2]


BAD = {
    no_labels: r".*none\.csv: No such file or directory",
    no_images: r".*P0_00\.jpg: No such file or directory",
    no_model: r".*none\.pt: No such file or directory",
    bad_model: r".*bad\.pt: expected weights saved by save_model, got .*",
    half_a_set: "got only one of --csv and --images, expected both or none",
}


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
def test_bad_input_is_one_sentence_and_exit_status_2(weights, photo_set, tmp_path, capfd, bad):
    arguments = bad(photo_set, tmp_path)
    model = [] if "--model" in arguments else ["--model", weights]
    assert main(["evaluate", *arguments, *model]) == 2
    told = capfd.readouterr()
    [line] = told.err.splitlines()
    assert line.startswith("keypoints evaluate: ") and told.out == ""
    assert re.fullmatch(f"keypoints evaluate: {BAD[bad]}", line)


# train ----------------------------------------------------------------------------------------------------------------


def test_train_writes_weights_that_detect_takes_and_their_record(photo_set, tmp_path, capsys):
    out = tmp_path / "new" / "mine.pt"
    arguments = ["train", *photo_set, "--epochs", "1", "--hold-out", "0.25", "--seed", "3", "--out", str(out)]
    assert main(arguments) == 0
    assert "epoch 1/1: training loss" in capsys.readouterr().out
    assert sorted(file.name for file in out.parent.iterdir()) == ["mine.json", "mine.pt"]
    record = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["samples"] == 9 and len(record["held_out_people"]) == 1
    assert record["recipe"]["seed"] == 3 and record["recipe"]["epochs"] == 1
    assert record["data"] == photo_set[1] and record["framing"] == load_model(out).framing
    assert {"sha256", "versions", "seconds", "peak_memory_mb", "history"} <= set(record)
    assert main(["detect", ASTRONAUT, "--model", str(out)]) == 0


def test_an_interrupted_train_says_how_to_go_on(photo_set, tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("keypoints.__main__.fit", interrupt)
    assert main(["train", *photo_set, "--out", str(tmp_path / "mine.pt")]) == 130
    assert "the same command goes on from the last whole epoch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--hold-out", "1"], "got --hold-out 1.0, expected a share from 0 to below 1"),
        (["--epochs", "0"], "got 0 epochs, expected at least one"),
        (["--device", "cuda"], "got device 'cuda', which torch does not find on this machine"),
    ],
)
def test_bad_training_arguments_are_one_sentence_and_exit_status_2(
    photo_set, tmp_path, capsys, monkeypatch, arguments, sentence
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["train", *photo_set, "--out", str(tmp_path / "mine.pt"), *arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"keypoints train: {sentence}")


# As a command ---------------------------------------------------------------------------------------------------------


def test_the_package_runs_as_a_command(weights, tmp_path):
    command = [sys.executable, "-m", "keypoints", "detect", "none.jpg", ASTRONAUT, "--model", weights]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 1
    assert done.stderr == "none.jpg: No such file or directory\n"
    assert done.stdout.startswith(f"{ASTRONAUT}: face 0 at left ")
