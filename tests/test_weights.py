"""Weights in files: what is saved is loaded, and a file of any content does no harm."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers import ROOT, refused
from torch import nn

from data_load import DATA_DIR
from keypoints.detection import KeypointDetector
from keypoints.files import sha256
from models import CoarseToFine, FaceDetector, HeatmapNet, SimpleNet
from training import weights
from training.weights import DEFAULT_MODEL, MODEL_DIR, RECIPE_MODEL, load_model, save_model, write_tensors


def test_saved_and_loaded_network_gives_the_same_output(net, images, tmp_path):
    net.framing = {"scale": 1.5, "dx": 0.0}
    for name in "abc":  # safetensors itself writes the keys of metadata in any order
        save_model(net, tmp_path / name)
    assert len({(tmp_path / name).read_bytes() for name in "abc"}) == 1
    loaded = load_model(tmp_path / "a")
    safetensors.torch.save_file({n: v.contiguous() for n, v in net.state_dict().items()}, tmp_path / "bare.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded(images), net(images))
        assert torch.equal(load_model(tmp_path / "bare.safetensors")(images), net(images))
    assert not loaded.training and loaded.framing == net.framing and loaded.arguments == net.arguments


def test_arguments_are_saved_with_the_weights(tmp_path):
    save_model(HeatmapNet(dropout=0.3), tmp_path / "net.safetensors")
    loaded = load_model(tmp_path / "net.safetensors")
    assert [layer.p for layer in loaded.modules() if isinstance(layer, nn.Dropout2d)] == [0.3]


class Deeper(CoarseToFine):
    pass


@pytest.mark.parametrize("make", [Deeper, lambda: CoarseToFine(stage=lambda side: HeatmapNet(side, correction=False))])
def test_weights_that_could_not_be_loaded_again_are_not_saved(make, tmp_path):
    with pytest.raises(ValueError, match=r"would not build again.*expected a class of models\.NETWORKS"):
        save_model(make(), tmp_path / "net.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [SimpleNet, HeatmapNet])
def test_network_without_graphs_is_saved_and_used_in_pytorch(kind, tmp_path):
    torch.manual_seed(0)
    single = kind().eval()
    single.framing = load_model(RECIPE_MODEL).framing
    save_model(single, tmp_path / "net.safetensors", {"data": "sample"})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.json", "net.safetensors"]
    record = json.loads((tmp_path / "net.json").read_text(encoding="utf-8"))
    assert record["weights"] == "net.safetensors" and record["sha256"] == sha256(tmp_path / "net.safetensors")
    assert record["data"] == "sample" and record["framing"] == single.framing
    assert record["parameters"] == sum(p.numel() for p in single.parameters())
    [face] = KeypointDetector(load_model(tmp_path / "net.safetensors"))(DATA_DIR / "photos" / "astronaut.jpg")
    assert face.keypoints.shape == (68, 2)


@pytest.mark.parametrize("whole", ["bare", "a record's"])
def test_file_of_torch_save_is_refused_with_the_command_that_converts_it(net, images, tmp_path, capsys, whole):
    path, content = tmp_path / "net.pt", net.state_dict()
    if whole != "bare":
        about = {"network": "CoarseToFine", "arguments": {"sides": [56, 112]}, "framing": {"scale": 1.5}}
        content = about | {"state_dict": content}
    torch.save(content, path)
    with refused(r"net\.pt: got a file of torch\.save, .* with 'python -m training\.weights"):
        load_model(path)
    weights.main([str(path)])
    loaded = load_model(tmp_path / "net.safetensors")
    assert loaded.framing == (None if whole == "bare" else {"scale": 1.5})
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("content", [b"junk", pickle.dumps({"a": 1}), None])
def test_file_that_cannot_be_converted_is_named(tmp_path, capsys, content):
    path = tmp_path / "net.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        weights.main([str(path)])
    assert caught.value.code == 2 and "net.pt" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "content",
    [b"", b"<!DOCTYPE html><html>", b"junk\n" * 100, b"\x80", pickle.dumps({"a": 1}), b".", bytes(8), b"\xff" * 8],
    ids=["empty", "HTML", "junk", "half a pickle", "a pickle", "a letter", "no header", "a huge header"],
)
def test_file_without_weights_is_refused(tmp_path, content):
    (tmp_path / "net.safetensors").write_bytes(content)
    with refused(r"net\.safetensors: expected weights saved by save_model, got ", tmp_path):
        load_model(tmp_path / "net.safetensors")


class RunsCode:
    """Unpickling it writes a file."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


class TakesMemory:
    """Unpickling it takes 4 GB, which ``weights_only=True`` allows."""

    def __reduce__(self):
        return (bytearray, (4_000_000_000,))


def header(about: str, **tensors: tuple) -> bytes:
    """A safetensors file without data: its header claims tensors, each a dtype, a shape and the ends of its bytes."""
    content = {name: dict(zip(("dtype", "shape", "data_offsets"), of, strict=True)) for name, of in tensors.items()}
    text = json.dumps({"__metadata__": {"keypoints": about}} | content).encode()
    return len(text).to_bytes(8, "little") + text


def bombs(folder: Path) -> dict[str, Path]:
    """Small files, and what is no file, that could take any memory or time."""
    names = ("bytearray", "compressed", "claims", "nested", "names", "list", "sparse", "code")
    paths = {name: folder / name for name in names}
    torch.save({"state_dict": TakesMemory()}, paths["bytearray"])
    torch.save({"state_dict": RunsCode(folder / "trace")}, paths["code"])
    torch.save({"network": "CoarseToFine", "state_dict": {"a": torch.zeros(30_000_000)}}, folder / "whole")
    with zipfile.ZipFile(folder / "whole") as whole, zipfile.ZipFile(paths["compressed"], "w") as bomb:
        for name in whole.namelist():
            bomb.writestr(name, whole.read(name), zipfile.ZIP_DEFLATED)
    (folder / "whole").unlink()
    with paths["compressed"].open("ab") as file:
        file.write(bytes(66_000))  # Python's zipfile no longer sees the archive, PyTorch does
    paths["claims"].write_bytes(header("{}", a=("F32", [10**9], [0, 4 * 10**9])))
    paths["nested"].write_bytes(header("[" * 10**6))
    paths["names"].write_bytes(header("{}", **{str(i): ("F32", [0], [0, 0]) for i in range(100_000)}))
    paths["list"].write_bytes(header("[" + "[]," * 10**6 + "0]"))
    with paths["sparse"].open("wb") as file:  # 4 GB of which the disk holds one page
        file.write(header("{}", a=("F32", [10**9], [0, 4 * 10**9])))
        file.truncate(file.tell() + 4 * 10**9)
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe")
        paths["pipe"] = folder / "pipe"
    return paths | {name: Path("/dev") / name for name in ("zero", "random", "stdin") if Path(f"/dev/{name}").exists()}


MEASURED = """
import resource, sys
from training.weights import load_model
load_model()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        load_model(path)
    except ValueError as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measures the memory as Linux tells it")
def test_no_file_takes_much_memory_or_time(tmp_path):
    paths = [str(path) for path in bombs(tmp_path).values()]
    how = {"cwd": ROOT, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "stdin": subprocess.PIPE, "timeout": 120}
    done = subprocess.run([sys.executable, "-c", MEASURED, *paths], **how, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    *sentences, kilobytes = done.stdout.splitlines()
    assert len(sentences) == len(paths) and all(": got " in s or ": expected " in s for s in sentences), sentences
    assert int(kilobytes) < 50_000 and not (tmp_path / "trace").exists()


FRAMING = {"scale": 1.5, "dx": 0.0, "dy": 0.1, "box_scale": 1.1, "box_dx": 0.0, "box_dy": -0.1}
FIT = "got weights that do not fit CoarseToFine"
SIDES = "got the framing .+, expected numbers in sides of a face's box"
WRONG = [  # what the file says instead of the network's own, or the whole of it; the sentence
    ({"network": "ResNet"}, "got weights of network 'ResNet', expected one of SimpleNet, HeatmapNet"),
    ({"network": None}, "got weights of network None, expected one of SimpleNet, HeatmapNet"),
    ({"network": ["CoarseToFine"]}, r"got weights of network \['CoarseToFine'\], expected one of SimpleNet"),
    ({"network": "x" * 100_000}, r"got weights of network 'x+\.\.\.x+', expected one of"),
    ({"network": 10**400}, r"got weights of network 10+\.\.\.0+, expected one of"),
    ([1, 2], r"expected weights saved by save_model, got \[1, 2\]"),
    ("CoarseToFine", "expected weights saved by save_model, got 'CoarseToFine'"),
    ({"arguments": {"depth": 9}}, FIT),
    ({"arguments": {"sides": [10**9, 112]}}, f"{FIT}: got the arguments .*, expected at most"),
    ({"arguments": {"sides": [56.0, 112]}}, f"{FIT}: got a view of 56.0 pixels, expected 28 to 224"),
    ({"arguments": {"sides": [300, 112]}}, f"{FIT}: got a view of 300 pixels, expected 28 to 224"),
    ({"arguments": {"sides": [56]}}, FIT),
    ({"arguments": {"dropout": 5.0}}, f"{FIT}: .*; expected those of 'python -m training train'"),
    ({"arguments": {"dropout": float("nan")}}, f"{FIT}: got the arguments {{'dropout': nan}}, expected numbers"),
    ({"arguments": {"dropout": "0.1"}}, f"{FIT}: got the arguments {{'dropout': '0.1'}}, expected numbers"),
    ({"arguments": [1, 2]}, FIT),
    ({"arguments": "whole"}, FIT),
    *(({"framing": framing}, SIDES) for framing in ("x" * 100_000, [1.0], {**FRAMING, "scale": 0})),
    *(({"framing": {**FRAMING, "scale": scale}}, SIDES) for scale in (10**400, "1.1", [1.1], float("nan"))),
    ({"framing": {**FRAMING, "box_dy": float("-inf")}}, SIDES),
]


def refuse(path: Path, tensors: dict, about: object, sentence: str) -> None:
    write_tensors(path, tensors, about)
    with refused(sentence, path) as caught:
        load_model(path)
    assert len(str(caught.value)) < 600


DETECTOR = MODEL_DIR / "detector.safetensors"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("changed", "sentence"), WRONG)
def test_record_that_does_not_fit_the_network_is_refused(net, tmp_path, changed, sentence):
    about = {"network": "CoarseToFine", "arguments": net.arguments, "framing": FRAMING}
    about = about | changed if isinstance(changed, dict) else changed
    refuse(tmp_path / "net.safetensors", net.state_dict(), about, sentence)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda value: value * torch.nan, "are not finite"),
        (lambda value: value.to(torch.complex64), f"{FIT}: complex numbers"),
        (lambda value: value[..., None], FIT),
        (None, FIT),
    ],
)
def test_tensors_that_do_not_fit_the_network_are_refused(net, tmp_path, change, sentence):
    tensors = {name: change(value) for name, value in net.state_dict().items()} if change else {}
    for about in ({"network": "CoarseToFine", "arguments": net.arguments}, {}):
        refuse(tmp_path / "net.safetensors", tensors, about, sentence)


def test_missing_file_and_directory_are_os_errors(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(OSError):
            load_model(path)


@pytest.mark.parametrize("shipped", [RECIPE_MODEL, DEFAULT_MODEL, DETECTOR])
def test_shipped_weights_load_and_match_their_record(shipped):
    record = json.loads(shipped.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["weights"] == shipped.name
    assert record["sha256"] == sha256(shipped)
    assert load_model(shipped).framing == record["framing"] and shipped.stat().st_size < 10e6


def test_the_shipped_detector_s_graph_is_written_from_its_weights_byte_for_byte(tmp_path):
    save_model(load_model(DETECTOR), tmp_path / "detector.safetensors")
    assert (tmp_path / "detector.onnx").read_bytes() == DETECTOR.with_suffix(".onnx").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["detector.onnx", "detector.safetensors"]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"channels": [500] * 5, "depths": [20] * 4}, "do not fit FaceDetector: "),  # 80 MB of weights
        ({"width": 10**6}, "do not fit FaceDetector: "),
        ({"depths": [10**9] * 4}, "do not fit FaceDetector: got the arguments .* expected at most 512 in a list"),
        ({"channels": [[16]]}, "do not fit FaceDetector: got the arguments .* expected numbers"),
    ],
)
def test_a_detector_s_sizes_take_no_memory_unless_the_tensors_have_them(tmp_path, monkeypatch, changed, sentence):
    net, path, built = FaceDetector(), tmp_path / "net.safetensors", []
    forward = FaceDetector.__init__

    def watched(self, *given, **named):
        forward(self, *given, **named)
        built.append(next(self.parameters()).device.type)

    monkeypatch.setattr(FaceDetector, "__init__", watched)
    write_tensors(path, net.state_dict(), {"network": "FaceDetector", "arguments": net.arguments | changed})
    with pytest.raises(ValueError, match=sentence):
        load_model(path)
    assert "cpu" not in built


# By file of training/, each with weights_only: what main converts, and the trainings' own checkpoints.
LOADS = {"training/weights.py": 1, "training/records.py": 1}


def test_nothing_is_unpickled_except_what_the_user_converts():
    folders = [path for name in ("keypoints", "training", "demo") for path in (ROOT / name).rglob("*.py")]
    for file in [ROOT / "data_load.py", ROOT / "models.py", *folders]:
        code = file.read_text(encoding="utf-8")
        assert not re.search(r"allow_pickle=True|pickle\.load|weights_only=False", code), file
        loads = re.findall(r"torch\.load\(.*\)", code)
        assert len(loads) == LOADS.get(file.relative_to(ROOT).as_posix(), 0), file
        assert all("weights_only=True" in load for load in loads), file
