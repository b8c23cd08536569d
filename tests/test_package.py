"""The installed package: what it imports, and that its wheel works alone, without PyTorch."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import PHOTOS

from keypoints import KeypointDetector, __version__

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {"torch", "torchvision", "pandas", "matplotlib", "data_load", "models", "training", "demo"}


def test_no_module_of_the_library_imports_what_learns():
    for path in (ROOT / "keypoints").glob("*.py"):
        # labels.py, which is of training alone, imports pandas within a function.
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & FORBIDDEN, path.name


def test_the_library_loads_none_of_it_either():
    modules = sorted(path.stem for path in (ROOT / "keypoints").glob("*.py") if not path.stem.startswith("__"))
    code = (
        f"import sys, importlib; [importlib.import_module('keypoints.' + name) for name in {modules}];"
        "import keypoints;"
        f"[getattr(keypoints, name) for name in keypoints.__all__]; print(sorted({FORBIDDEN} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_public_name_that_there_is_not_is_an_attribute_error():
    import keypoints

    with pytest.raises(AttributeError, match="module 'keypoints' has no attribute 'FaceFinder'"):
        _ = keypoints.FaceFinder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = out.glob("*.whl")
    return path


def test_the_wheel_holds_the_library_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.stat().st_size < 25e6
    assert {name.split("/")[0] for name in names} == {"keypoints", f"facial_keypoints-{__version__}.dist-info"}
    assets = ("detector.onnx", "keypoints_model_2.fine.onnx", "pose_model.npz", "expressions.npz", "filters/cat.png")
    assert {f"keypoints/assets/{name}" for name in assets} | {"keypoints/py.typed"} <= set(names)


def test_the_wheel_works_alone_from_any_folder_and_without_pytorch(wheel, tmp_path):
    """It is installed with what it requires into an environment of its own, and made read-only."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    bin_dir = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")
    install = [bin_dir / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    photo, work = (PHOTOS / "astronaut.jpg").resolve(), tmp_path / "work"
    work.mkdir()
    for path in sorted((tmp_path / "env").rglob("keypoints/**/*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)

    def run(*command: str | Path) -> str:
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": ""}
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run(bin_dir / "keypoints", "--version").split() == ["keypoints", __version__]
    assert run(bin_dir / "python", "-c", "import importlib.util as u; print(u.find_spec('torch'))").strip() == "None"
    run(bin_dir / "keypoints", "detect", photo, "--json", "faces.json")
    [face] = [json.loads(line) for line in (work / "faces.json").read_text(encoding="utf-8").splitlines()]
    [expected] = KeypointDetector()(photo)
    np.testing.assert_allclose(face["keypoints"], expected.keypoints, atol=1e-2)
    run(bin_dir / "keypoints", "filter", photo, "--filter", "sunglasses", "--out", "worn.png")
    assert (work / "worn.png").stat().st_size > 10_000
