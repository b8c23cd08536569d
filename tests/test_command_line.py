"""The commands: what they print and write, and that each error is one sentence that leaves the user's files alone."""

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
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import (
    ASTRONAUT,
    CLIP,
    HOPPER,
    ROOT,
    TRAINING,
    command_line,
    file_names,
    package_of,
    read_csv,
)

from data_load import Data, person_of, read_image
from keypoints.command import printable
from keypoints.detection import Face, KeypointDetector
from keypoints.files import sha256
from keypoints.video import VideoFile
from training import recipe as trainer
from training.evaluation import evaluate
from training.splits import people_split
from training.weights import DEFAULT_MODEL, load_model, save_model

not_on_windows = pytest.mark.skipif(sys.platform == "win32", reason="it has no such devices, and links need a right")
HEADER = ["file", "face", "left", "top", "width", "height"] + [f"{axis}{i}" for i in range(68) for axis in "xy"]
HEADER += ["yaw", "pitch", "roll", "emotion", "emotion_probability"]


@pytest.fixture
def weights(framed, tmp_path) -> Path:
    save_model(framed, tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


@pytest.fixture
def few_frames(tmp_path) -> Path:
    out = VideoFile(tmp_path / "few.webm", 25, (160, 120))
    for i in range(3):
        out.write(np.random.default_rng(i).integers(0, 256, (120, 160, 3), np.uint8), i / 25)
    out.close()
    return out.path


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


# detect ---------------------------------------------------------------------------------------------------------------


def test_detect_prints_and_writes_each_face(cli, tmp_path):
    table, records, files = tmp_path / "o.csv", tmp_path / "o.jsonl", [str(ASTRONAUT), str(HOPPER)]
    done = cli("detect", *files, "--csv", table, "--json", records)
    assert done.status == 0 and done.err == ""
    assert [line.split(" at left ")[0] for line in done.out.splitlines()] == [f"{file}: face 0" for file in files]
    (header, *rows), lines = read_csv(table), [json.loads(line) for line in records.read_text().splitlines()]
    assert header == HEADER and [row[:2] for row in rows] == [[file, "0"] for file in files]
    for row, line, file in zip(rows, lines, files, strict=True):
        [face] = KeypointDetector()(file)
        assert line == {"file": file, "face": 0, **face.to_dict()}
        np.testing.assert_array_equal(np.float32(line["keypoints"]), face.keypoints)
        np.testing.assert_array_equal(np.array(row[2:6], float), face.box)
        np.testing.assert_allclose(np.array(row[6:142], float).reshape(68, 2), face.keypoints, atol=0.006)
        assert row[145] == face.emotion.label and float(row[146]) == pytest.approx(face.emotion.probability, abs=0.006)


def test_detect_leaves_the_expression_out(cli, refusal, tmp_path):
    table, records = tmp_path / "o.csv", tmp_path / "o.jsonl"
    assert "got the file of --csv, expected another" in refusal("detect", ASTRONAUT, "--csv", table, "--json", table)
    assert cli("detect", ASTRONAUT, "--no-emotion", "--csv", table, "--json", records).out.endswith("pixels\n")
    assert [len(row) for row in read_csv(table)] == [len(HEADER) - 2] * 2
    assert "emotion" not in json.loads(records.read_text())


@not_on_windows
def test_unreadable_files_are_reported_and_the_others_are_done(cli, weights, tmp_path):
    for name, target in (("good", ASTRONAUT), ("broken", tmp_path / "none"), ("loop", tmp_path / "loop")):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.jpg").write_text("hello")
    (tmp_path / "half.jpg").write_bytes(ASTRONAUT.read_bytes()[:300])
    (tmp_path / "pictures").mkdir()
    cv2.imwrite(str(tmp_path / "pictures" / "b.png"), np.full((9, 9), 90, np.uint8))
    for name in ("b.png", "a.PNG", "note.txt"):
        shutil.copy(tmp_path / "pictures" / "b.png", tmp_path / name)
    bad = dict.fromkeys(("none.jpg", "broken", "*.gif"), "No such file or directory")
    bad["empty"] = "got a folder, expected an image, or for a command a folder that holds some"
    bad |= {"loop": "Too many levels of symbolic links", "half.jpg": "expected an image"}
    bad["note.jpg"] = "expected an image, got 5 bytes"
    files = [tmp_path / name for name in (*bad, "good", "pictures", "*.[pP][nN]*")]
    done = cli("detect", *files, "--csv", tmp_path / "out.csv", "--model", weights)
    assert done.status == 1 and {row[0] for row in read_csv(tmp_path / "out.csv")[1:]} == {str(tmp_path / "good")}
    assert f"{tmp_path / 'good'}: face 0 " in done.out
    blank = [f"{tmp_path / name}: no face found" for name in ("pictures/b.png", "a.PNG", "b.png")]
    assert [line for line in done.out.splitlines() if "no face" in line] == blank
    for (name, sentence), line in zip(bad.items(), done.err.splitlines(), strict=True):
        assert line.startswith(f"{tmp_path / name}: {sentence}")


def test_no_face_is_no_failure(cli, weights, tmp_path):
    files = []
    for shape in ((1, 1), (1, 6_000), (80, 90)):
        files.append(str(tmp_path / f"{shape}.png"))
        cv2.imwrite(files[-1], np.full(shape, 90, np.uint8))
    done = cli("detect", *files, "--csv", tmp_path / "out.csv", "--model", weights)
    assert done.status == 0 and done.err == "" and read_csv(tmp_path / "out.csv") == [HEADER]
    assert done.out.splitlines() == [f"{file}: no face found" for file in files]


def test_error_within_one_file_is_reported_and_the_others_are_done(cli, weights, tmp_path, monkeypatch):
    pose, errors = Face.pose.func, [ValueError("odd"), cv2.error("odd"), MemoryError("odd")]

    def failing(self):
        if errors:
            raise errors.pop()
        return pose(self)

    monkeypatch.setattr(Face, "pose", property(failing))
    options = ["--csv", tmp_path / "o.csv", "--no-emotion", "--model", weights]
    done = cli("detect", *[ASTRONAUT] * 4, HOPPER, *options)
    assert done.status == 1 and done.err == 3 * f"{ASTRONAUT}: odd\n"
    assert [row[0] for row in read_csv(tmp_path / "o.csv")[1:]] == [str(ASTRONAUT), str(HOPPER)]


def test_interrupted_detect_leaves_the_rows_it_has(cli, weights, tmp_path, monkeypatch):
    reads = itertools.count()

    def interrupted(file):
        if next(reads):
            raise KeyboardInterrupt
        return read_image(file)

    monkeypatch.setattr("keypoints.commands.read_image", interrupted)
    outputs = ["--csv", tmp_path / "o.csv", "--json", tmp_path / "o.jsonl"]
    assert cli("detect", ASTRONAUT, ASTRONAUT, *outputs, "--model", weights).status == 130
    assert [name for name in file_names(tmp_path) if name.startswith("o.")] == ["o.csv.part", "o.jsonl.part"]
    assert len(read_csv(tmp_path / "o.csv.part")) == 2 and len(read_csv(tmp_path / "o.jsonl.part")) == 1


def test_drawn_images_have_the_same_size_and_a_name_each(cli, weights, tmp_path):
    files, names = [], ["face.jpg", "face_2.jpg", "face_3.jpg"]
    for folder, photo in (("a", ASTRONAUT), ("b", HOPPER), ("c", ASTRONAUT)):
        (tmp_path / folder).mkdir()
        files.append(shutil.copy(photo, tmp_path / folder / "face.jpg"))
    drawn = tmp_path / "new" / "drawn"
    assert cli("detect", *files, "--draw", drawn, "--model", weights).status == 0 and file_names(drawn) == names
    for file, name in zip(files, names, strict=True):
        before, after = read_image(file), read_image(drawn / name)
        assert before.shape == after.shape and 0.1 < np.abs(before.astype(int) - after).mean() < 20


@pytest.mark.parametrize("command", ["detect", "detect --draw", "filter", "evaluate", "export", "track", "train"])
def test_no_file_that_is_read_is_written_over(refusal, weights, photo_set, tmp_path, command):
    photo, labels = shutil.copy(ASTRONAUT, tmp_path / "b.jpg"), photo_set[1]
    (tmp_path / "drawn").mkdir()
    with contextlib.suppress(OSError):  # links need a right on Windows
        (tmp_path / "drawn" / "b.jpg").symlink_to(photo)
    for arguments, kept in {
        "detect": [([photo, "--csv", photo], photo), ([photo, "--csv", weights], weights)],
        "detect --draw": [([photo, "--draw", tmp_path / name], photo) for name in ("", "drawn")],  # by a link
        "filter": [([photo, "--filter", "cat", "--out", photo], photo)],
        "evaluate": [([*photo_set, "--json", labels], labels), ([*photo_set, "--json", weights], weights)],
        "export": [(["--onnx", weights], weights)],
        "track": [([CLIP, "--csv", weights], weights)],
        "train": [([*photo_set, "--out", labels], labels)],
    }[command]:
        before = Path(kept).read_bytes()
        model = [] if command == "train" else ["--model", weights]
        sentence = refusal(command.split()[0], *arguments, *model)
        assert Path(kept).read_bytes() == before and "overwrit" in sentence
        assert str(kept) in sentence or sentence.startswith("--draw")


# evaluate and failures ------------------------------------------------------------------------------------------------


@pytest.fixture
def build(tmp_path, monkeypatch) -> Path:
    """The folder that the commands write into by default."""
    monkeypatch.setattr("training.__main__.BUILD", tmp_path / "build")
    monkeypatch.setattr("training.__main__.RESULTS", tmp_path / "results")
    return tmp_path / "build"


def test_evaluate_prints_and_writes_the_figures_of_each_framing_and_network(cli, weights, photo_set, tmp_path):
    path, second = tmp_path / "figures.json", shutil.copy(weights, tmp_path / "second.safetensors")
    (tmp_path / "bad.pt").write_text("hello")
    done = cli("evaluate", *photo_set, "--model", weights, tmp_path / "bad.pt", second, "--json", path)
    [error] = done.err.splitlines()  # one that cannot be read keeps no others from being measured
    assert done.status == 1 and "bad.pt" in error
    content = read_json(path)
    model, other = content["models"]
    assert content["data"] == photo_set[1] and list(model["test"]) == ["centre", "haar", "box"]
    assert (model["weights"], model["sha256"]) == ("net.safetensors", sha256(weights))
    assert model["wild"] is model["by_person"] is None
    assert other["weights"] == "second.safetensors" and other["test"] == model["test"]
    for framing, figures in model["test"].items():
        assert figures == evaluate(load_model(weights), photo_set[1], photo_set[3], framing).figures
        assert figures["n"] == 12 and figures["people"] == 4 and (framing == "haar" or figures["found"] == 12)
    header, *lines, blank, _, wrote = done.out.splitlines()
    assert header.split()[:3] == ["set", "weights", "framing"] and blank == "" and wrote == f"wrote {path}"
    assert [line.split("  ")[1].strip() for line in lines] == ["net"] * 3 + ["second"] * 3


def test_evaluate_without_a_set_measures_the_test_set_and_names_missing_ones(
    cli, refusal, weights, small_set, build, monkeypatch
):
    monkeypatch.setattr("training.train.find_data", lambda: Data("sample", small_set.root))
    monkeypatch.setattr("training.__main__.find_wild", lambda folder: None)
    assert "expected haar or box" in refusal("evaluate", "--framing", "centre", "--model", DEFAULT_MODEL)
    done = cli("evaluate", "--framing", "centre", "--model", weights)
    content = read_json(build / "evaluation.json")
    assert done.status == 0 and content["data"] == "sample" and list(content["models"][0]["test"]) == ["centre"]
    for sentence in ("The official set is not in data/", "Unseen people are missing", "The wild photos are not here"):
        assert sentence in done.out
    assert not (build.parent / "results").exists()  # committed figures are of the official set only


BAD = {
    "no labels": (["--csv", "none.csv", "--images", "training"], r"none\.csv: No such file or directory"),
    "half a set": (["--csv", "none.csv"], "got only one of --csv and --images, expected both or none"),
    "labels": (["--csv", "note", "--images", "training"], r"note: got 1 columns \('<html>' .*"),
    "folder": ([..., "--images", "empty"], r"empty: labelled images are missing: 12.*P0_00\.jpg.*"),
    "wild": ([..., "--wild", "training"], r"training/wild_keypoints\.csv is missing: expected it beside the photos .*"),
    "no model": ([..., "--model", "none.pt"], r"none\.pt: No such file or directory"),
    "bad model": ([..., "--model", "note"], r"note: expected weights saved by save_model, got .*"),
    "image": ([...], r"training/P0_02\.jpg: expected an image, got 6 bytes that do not decode as one"),
}


@pytest.mark.parametrize("bad", BAD)
def test_evaluate_refuses_bad_input_in_one_sentence(refusal, weights, photo_set, build, tmp_path, monkeypatch, bad):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "note").write_text("<html>")
    if bad == "image":
        (tmp_path / "training" / "P0_02.jpg").write_text("<html>")
    given, sentence = BAD[bad]
    arguments = [*photo_set, *given[1:]] if given[0] is ... else given
    model = [] if "--model" in arguments else ["--model", weights]
    assert (
        re.fullmatch(f".*{sentence}", refusal("evaluate", *arguments, *model).replace(os.sep, "/"))
        and not build.exists()
    )


def test_evaluate_prints_its_figures_before_it_writes_them(cli, weights, photo_set, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("training.__main__.write_json", full)
    done = cli("evaluate --framing box --model", weights, *photo_set, "--json", tmp_path / "e.json")
    assert done.status == 2 and "NME_box" in done.out and "No space left" in done.err


def test_failures_writes_a_page_with_its_pictures(cli, weights, photo_set, tmp_path):
    out = tmp_path / "page"
    done = cli("failures --framing box --model", weights, *photo_set, "--out", out)
    assert done.status == 0 and done.out == f"wrote {out / 'index.html'}\n"
    pictures = re.findall(r'<img src="([^"]+)"', (out / "index.html").read_text(encoding="utf-8"))
    assert pictures == ["part.png", "yaw.png", "sharpness.png", "size.png"]
    assert file_names(out) == sorted(["index.html", *pictures])
    assert all(min(read_image(out / name).shape[:2]) > 100 for name in pictures)


# train ----------------------------------------------------------------------------------------------------------------

WRITTEN = ["mine.coarse.onnx", "mine.fine.onnx", "mine.json", "mine.safetensors"]


def test_train_writes_weights_that_detect_takes_and_their_record(cli, photo_set, tmp_path):
    out = tmp_path / "new" / "mine.safetensors"
    done = cli("train --epochs 1 --seed 3", *photo_set, "--out", out)
    assert done.status == 0 and "epoch 1/1: training loss" in done.out and file_names(out.parent) == WRITTEN
    record = read_json(out.with_suffix(".json"))
    assert record["samples"] == 12 and record["held_out_people"] == [] and "by_person" not in record
    assert record["recipe"]["seed"] == 3 and record["recipe"]["epochs"] == 1
    assert record["data"] == photo_set[1] and record["framing"] == load_model(out).framing
    assert {"sha256", "versions", "seconds", "peak_memory_mb", "history"} <= set(record)
    assert cli("detect", ASTRONAUT, "--model", out).status == 0


def test_by_person_model_is_measured_on_the_people_that_it_was_not_trained_on(cli, photo_set, tmp_path):
    out = tmp_path / "twin.safetensors"
    assert cli("train --epochs 1 --twin", *photo_set, "--out", out).status == 0
    record, names = read_json(out.with_suffix(".json")), [row[0] for row in read_csv(photo_set[1])[1:]]
    parts = people_split(names)
    assert record["samples"] == len(parts["training"]) == 6 and "nme_box" in record["history"][0]
    held_out = {part: [names[i] for i in parts[part]] for part in ("validation", "test")}
    assert record["held_out_people"] == sorted({person_of(name) for part in held_out.values() for name in part})
    assert list(record["by_person"]) == ["validation", "test"]
    for part, members in held_out.items():
        measured = record["by_person"][part]
        assert list(measured) == ["centre", "haar", "box"] and measured["box"]["n"] == len(members) == 3
        assert measured["centre"] == evaluate(load_model(out), photo_set[1], photo_set[3], names=members).figures


def test_interrupted_train_says_how_to_resume(cli, photo_set, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("training.train.fit", interrupt)
    done = cli("train", *photo_set, "--out", tmp_path / "mine.safetensors")
    assert done.status == 130 and "the same command goes on from the last whole epoch" in done.err


ENDING = "got the ending {}, expected another for the weights: .safetensors"


@pytest.mark.parametrize(
    ("out", "more", "sentence"),
    [
        ("w.safetensors", "--epochs 0", "got 0 epochs, expected at least one"),
        ("w.safetensors", "--device cuda", "got device 'cuda', which torch does not find on this machine"),
        ("", "", "got a folder, expected a file"),
        ("w.json", "", ENDING.format(".json")),
        ("w.pt", "", ENDING.format(".pt")),
        ("w.checkpoint", "", ENDING.format(".checkpoint")),
        ("note/w.safetensors", "", "note/w.safetensors: Not a directory"),
        ("with_record/w.safetensors", "", "with_record/w.json: Is a directory"),
        pytest.param("/dev/null", "", "/dev/null: got a device or a pipe, expected a file", marks=not_on_windows),
    ],
)
def test_train_refuses_bad_arguments_before_it_starts(cli, photo_set, tmp_path, monkeypatch, out, more, sentence):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("training.recipe.train_epoch", None)
    (tmp_path / "note").write_text("a file")
    (tmp_path / "with_record" / "w.json").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    done = cli("train", *photo_set, *more.split(), "--out", tmp_path / out)
    [line] = done.err.replace(os.sep, "/").splitlines()
    assert done.status == 2 and line.startswith("training train: ") and sentence in line
    assert sorted(tmp_path.rglob("*")) == before


def test_full_disk_at_the_very_end_loses_no_training(cli, refusal, photo_set, tmp_path, monkeypatch):
    out = tmp_path / "new" / "mine.safetensors"
    train, train_epoch, trained = ["train --epochs 2", *photo_set, "--out", out], trainer.train_epoch, []
    monkeypatch.setattr(trainer, "train_epoch", lambda *given: trained.append(1) or train_epoch(*given))

    def full(path, *content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr("training.weights.write_tensors", full)
        assert cli(*train).err.splitlines()[-1] == f"training train: {out}: No space left on device"
    assert len(trained) == 2 and file_names(out.parent) == ["mine.checkpoint"]
    assert "got a checkpoint of {'seed': 0}, expected {'seed': 1}; delete it" in cli(*train, "--seed", 1).err
    assert cli(*train).status == 0 and len(trained) == 2 and file_names(out.parent) == WRITTEN
    assert [epoch["epoch"] for epoch in read_json(out.with_suffix(".json"))["history"]] == [1, 2]
    assert cli(*train, "--seed", 1).status == 0 and len(trained) == 4  # no checkpoint is left to resume


# Names, places and full disks -----------------------------------------------------------------------------------------


def test_package_runs_as_a_command_on_a_terminal_of_another_encoding(weights, tmp_path):
    try:
        photo = shutil.copy(ASTRONAUT, tmp_path / "脸.jpg")
    except OSError:
        pytest.skip("this file system does not take the name")
    command = [sys.executable, "-m", "keypoints", "detect", "none.jpg", photo, "--csv", tmp_path / "k.csv"]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([*command, "--model", weights], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == 1 and done.stderr.splitlines() == [b"none.jpg: No such file or directory"]
    assert b"\\u8138.jpg: face 0 at left " in done.stdout and read_csv(tmp_path / "k.csv")[1][0] == str(photo)


NAMES = ["a b.jpg", "Gesicht ü 脸.jpg", "photo.txt", "no ending", "-x.jpg", "a'b\"c,d.jpg"]


@pytest.mark.parametrize("name", [*NAMES, *([] if sys.platform == "win32" else ["line\nend.jpg", "\udcff.jpg"])])
def test_image_may_have_any_name(cli, weights, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    try:
        shutil.copy(ASTRONAUT, name)
    except OSError:
        pytest.skip("this file system does not take the name")
    done = cli("detect", f"./{name}", f"./none {name}", "--csv", "k.csv", "--draw", "drawn", "--model", weights)
    assert done.out.count("\n") == 1 and done.out.startswith(f"./{printable(name)}: face 0")
    assert done.status == 1 and done.err == f"./none {printable(name)}: No such file or directory\n"
    with open("k.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert next(csv.DictReader(file))["file"] == f"./{name}"
    assert (tmp_path / "drawn" / f"{Path(name).stem}.jpg").exists()


WRITING = ["detect --csv", "detect --draw", "filter --out", "track --out", "track --csv"]


@pytest.mark.parametrize("place", ["/proc/self", "a file"])  # not even root can write there
@pytest.mark.parametrize("what", [*WRITING, "train --out", "evaluate --json", "failures --out", "export --onnx"])
def test_place_that_cannot_be_written_is_named(cli, weights, photo_set, few_frames, tmp_path, monkeypatch, place, what):
    if not Path("/proc/self").exists():
        pytest.skip("needs Linux")
    command, option = what.split()
    folder = tmp_path / place  # an absolute place stays as it is
    if place == "a file":
        folder.write_text("a file")
        monkeypatch.setattr("training.__main__.evaluate_weights", None)  # found before anything is computed
    source = {"track": [few_frames], "train": [*photo_set, "--epochs", "1"], "export": []}.get(command, [ASTRONAUT])
    if command in ("evaluate", "failures"):
        source = [*photo_set, "--framing", "box"]
    name = {"--draw": "drawn", "--csv": "k.csv", "--json": "e.json"}.get(option, "out.png")
    target = folder / ("out.webm" if what == "track --out" else name)
    more = [
        *(["--filter", "cat"] if command == "filter" else []),
        *([] if command == "train" else ["--model", weights]),
    ]
    done = cli(command, *source, option, target, *more)
    last = done.err.strip().splitlines()[-1]
    assert done.status == 2 and "Error" not in last
    assert last.startswith(f"{package_of(command)} {command}: {folder}")


@contextlib.contextmanager
def no_room(size: int = 500) -> Iterator[None]:
    """As on a full disk, no file grows beyond ``size`` bytes; not even pytest's own."""
    resource = pytest.importorskip("resource", reason="needs a limit on the size of files")
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize(
    ("command", "option", "name"),
    [
        ("detect", "--csv", "k.csv"),
        ("detect", "--draw", "astronaut.jpg"),
        ("filter", "--filter cat --out", "c.png"),
        ("train", "--epochs 1 --out", "net.checkpoint"),
        ("evaluate", "--json", "e.json"),
        ("failures", "--out", "part.png"),
        ("track", "--csv", "r.csv"),
        ("track", "--out", "v.webm"),
    ],
)
def test_full_disk_is_one_sentence_and_leaves_no_half_file(
    weights, photo_set, few_frames, tmp_path, capsys, command, option, name
):
    out = tmp_path / "out"
    out.mkdir()
    source = [CLIP if name == "r.csv" else few_frames if command == "track" else ASTRONAUT]
    target = out if name in ("astronaut.jpg", "part.png") else out / name.replace("checkpoint", "safetensors")
    more = [] if command == "train" else ["--model", weights]
    with no_room():
        status = command_line(command, *(photo_set if command in TRAINING else source), *option.split(), target, *more)
        left = file_names(out)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 2 and left == [] and "Traceback" not in last
    assert last.startswith(f"{package_of(command)} {command}: {out / name}: ")


def test_rows_written_before_the_disk_was_full_keep_another_name(weights, tmp_path, capsys):
    (tmp_path / "r.csv").write_text("yesterday's")
    with no_room(20_000):
        assert command_line("track", CLIP, "--csv", tmp_path / "r.csv", "--model", weights) == 2
    assert f"{tmp_path / 'r.csv'}: File too large" in capsys.readouterr().err
    assert (tmp_path / "r.csv").read_text() == "yesterday's"
    header, *rows = read_csv(tmp_path / "r.csv.part")
    assert len(rows) > 10 and {len(row) for row in rows} == {len(header)}
