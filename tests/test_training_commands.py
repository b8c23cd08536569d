"""Every command that trains, on a fresh clone: a step on the sample, or a sentence that says what it needs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from data_load import find_data
from training import confidence, expression, pose
from training import recipe as trainer
from training.__main__ import main
from training.studies import common, label_offset, study


@pytest.fixture
def few(tmp_path, monkeypatch) -> Path:
    """The sample with every twelfth image, as everything that asks for the sample sees it."""
    sample, root = find_data("sample"), tmp_path / "data" / "sample"
    for split in ("training", "test"):
        (root / split).mkdir(parents=True)
        header, *rows = sample.csv_file(split).read_text(encoding="utf-8").splitlines()
        rows = rows[::12]
        (root / sample.csv_file(split).name).write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        for row in rows:
            name = row.split(",")[0]
            shutil.copy(sample.image_dir(split) / name, root / split / name)
    monkeypatch.setattr(find_data, "__defaults__", (None, tmp_path / "data"))
    monkeypatch.delenv("KEYPOINTS_WILD", raising=False)
    return root


def test_a_study_works_on_the_sample_alone(few, tmp_path, monkeypatch):
    monkeypatch.setattr(common, "BUILD", tmp_path)
    monkeypatch.setattr(study, "STUDIES", {"epochs": {"1": {"epochs": 1}}})
    assert study.main(["epochs"]) == 0
    assert list(json.loads((tmp_path / "studies.json").read_text(encoding="utf-8"))["runs"]) == ["epochs=1"]


@pytest.mark.parametrize(
    ("command", "arguments", "sentence"),
    [
        (confidence.main, ["--model", "none.safetensors", "--folder", "none"], "none"),
        (expression.main, ["--emotion", "none", "--out", "out.npz"], "none"),
        (pose.main, ["--geometry", "none.npz"], "none.npz is not here: data/sample/geometry.py writes it"),
        (label_offset.main, ["--model", str(ROOT / "saved_models" / "keypoints_model_1.safetensors")], "is missing"),
    ],
    ids=["confidence", "emotion", "pose", "label_offset"],
)
def test_a_training_that_needs_more_says_what(few, tmp_path, monkeypatch, capsys, command, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        command(arguments)
    [line] = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and sentence in line


def test_train_works_on_the_sample_alone_and_a_second_one_with_the_same_out_is_refused(
    few, tmp_path, monkeypatch, capsys
):
    out, refused = tmp_path / "mine.safetensors", []
    train_epoch = trainer.train_epoch

    def train_another(*given):
        refused.append(main(["train", "--epochs", "1", "--out", str(out)]))
        return train_epoch(*given)

    monkeypatch.setattr(trainer, "train_epoch", train_another)
    assert main(["train", "--epochs", "1", "--out", str(out)]) == 0
    record = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["data"] == "sample" and len(record["history"]) == 1
    assert refused == [2] and "another process is writing" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "data",
        "mine.coarse.onnx",
        "mine.fine.onnx",
        "mine.json",
        "mine.safetensors",
    ]


def test_threads_sleep_while_they_wait_unless_the_environment_says_otherwise():
    script = """if True:
        import importlib, os
        os.environ.pop("OMP_WAIT_POLICY", None)
        import data_load
        print(os.environ["OMP_WAIT_POLICY"])
        os.environ["OMP_WAIT_POLICY"] = "ACTIVE"
        importlib.reload(data_load)
        print(os.environ["OMP_WAIT_POLICY"])"""
    assert subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True).split() == ["PASSIVE", "ACTIVE"]
