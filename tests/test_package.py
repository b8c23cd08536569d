"""The installed package: what it imports, and that its wheel works alone, without PyTorch."""

from __future__ import annotations

import ast
import csv
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import PHOTOS, ROOT

from keypoints import KeypointDetector, __version__

FORBIDDEN = {"torch", "torchvision", "pandas", "matplotlib", "data_load", "models", "training", "demo"}


def imports(path: Path) -> set[str]:
    """The packages that a file names in an import, wherever it stands."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in names}


def test_data_and_networks_import_nothing_of_training():
    for name in ("data_load.py", "models.py"):
        assert not imports(ROOT / name) & {"training", "demo"}, name


def test_no_module_of_the_library_names_one_of_training_in_an_import():
    for path in (ROOT / "keypoints").glob("*.py"):
        allowed = {"pandas"} if path.name == "labels.py" else set()  # training's alone, and not in the wheel
        assert not imports(path) & (FORBIDDEN - allowed), path.name


def loaded(code: str, names: set[str]) -> set[str]:
    """Which of these modules are loaded once ``code`` ran in a process of its own."""
    code += f"; import sys; print(*{names} & set(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.split())


def test_the_whole_library_loads_nothing_of_training():
    names = sorted(path.stem for path in (ROOT / "keypoints").glob("*.py") if path.stem != "__init__")
    code = "import keypoints; [getattr(keypoints, name) for name in keypoints.__all__]; "
    code += "; ".join(f"import keypoints.{name}" for name in names)
    assert loaded(code, FORBIDDEN | {"keypoints.video"}) == {"keypoints.video"}


def test_help_and_the_bare_package_load_no_library():
    assert loaded("import keypoints.__main__", {"keypoints", "numpy", "cv2", "onnxruntime"}) == {"keypoints"}


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
    stems = "detector", "keypoints_model_2", "detector_free", "keypoints_free", "expressions", "eyes", "eyes_free"
    saved = {f"{stem}.onnx" for stem in stems} | {"pose_model.npz", "pose_predictions.npz", "actions.npz"}
    assert {f"keypoints/assets/{name}" for name in saved | {"filters/cat.png"}} | {"keypoints/py.typed"} <= set(names)
    assert {"keypoints/labels.py", "keypoints/assets/filters/draw.py"}.isdisjoint(names)


def test_the_wheel_works_alone_from_any_folder_and_without_pytorch(wheel, tmp_path):
    """It is installed with what it requires into an environment of its own, and made read-only."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    bin_dir = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")
    install = [bin_dir / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    photo, work = (PHOTOS / "astronaut.jpg").resolve(), tmp_path / "work"
    work.mkdir()
    [package] = (tmp_path / "env").rglob("site-packages/keypoints")
    files = {path: path.stat().st_mtime_ns for path in [package, *package.rglob("*")]}
    for path in files:
        path.chmod(0o555 if path.is_dir() else 0o444)

    def run(*command: str | Path) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
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
    assert {path: path.stat().st_mtime_ns for path in [package, *package.rglob("*")]} == files  # root may write all


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_lock_agrees_with_the_requirements_and_the_licences():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    entry = r"^([\w.-]+)==([^\s;]+)(?: ;[^\n\\]*)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$"
    lock = {name: version for name, version, _ in re.findall(entry, text, re.M)}
    lines = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert len(lock) == len(lines) > 100  # each package once, and none without a hash
    pins = []
    for file in ("requirements.txt", "tests/requirements.txt"):
        pins += re.findall(r"^([\w.-]+)==(\S+)", (ROOT / file).read_text(encoding="utf-8"), re.M)
    assert len(pins) > 20
    for name, version in pins:
        assert lock.get(canonical(name)) == version, f"{name}: run 'make lock'"
    with open(ROOT / "tests" / "licences.csv", newline="", encoding="utf-8") as file:
        for name, version, licence in list(csv.reader(file))[1:]:
            assert lock.get(canonical(name)) == version and licence, f"{name}: run 'make packages'"
