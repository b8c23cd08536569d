"""Mutation testing: would the tests notice if the arithmetic were wrong? Needs the package mutmut.

    python tests/soak/mutants.py                    # writes how many were noticed into results/soak.json

mutmut (https://mutmut.readthedocs.io) changes one thing in a module, a sign, a constant, a comparison, and runs the
tests that reach it; a mutant that they let pass has survived. It works in a copy of the repository.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

SEED = 2026
GOAL = 0.85  # of the mutants are to be noticed
# Module → its tests, and which of its functions and classes (all: None).
MODULES: dict[str, tuple[list[str], tuple[str, ...] | None]] = {
    "training/metrics.py": (["tests/test_metrics.py"], None),
    "keypoints/landmarks.py": (["tests/test_landmarks.py", "tests/test_metrics.py"], None),
    "data_load.py": (
        ["tests/test_data_load.py"],
        ("Rescale", "_crop", "_slack", "RandomCrop", "CenterCrop", "Normalize", "ToTensor", "label_offset"),
    ),
    "keypoints/detection.py": (["tests/test_detection.py"], None),
    "keypoints/pose.py": (["tests/test_pose.py"], None),
}
COPIED = ("data_load.py", "models.py", "keypoints", "training", "demo")
COPIED += ("tests", "results", "saved_models", "data", "pyproject.toml")
TIMED_OUT = {-24, 24, 36, 152}  # exit codes
KILLED = {1, 3, 255, -11, -9, *TIMED_OUT}  # a test failed, a crash, a time-out


def belongs(mutant: str, names: tuple[str, ...] | None) -> bool:
    """Whether a mutant, as mutmut names it ('metrics.x_nme__mutmut_3', 'data_load.xǁRescaleǁ…'), is of these names."""
    if names is None:
        return True
    what = mutant.split(".")[-1].split("__mutmut_")[0]
    return any(what == f"x_{name}" or what.startswith(f"xǁ{name}ǁ") for name in names)


def run(module: str, most: int) -> dict:
    """Mutate one module: how many mutants were noticed, and which were not."""
    tests, names = MODULES[module]
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for name in COPIED:
            source, target = ROOT / name, Path(folder) / name
            ignored = shutil.ignore_patterns("__pycache__", "training.zip", ".fetch")
            shutil.copytree(source, target, ignore=ignored) if source.is_dir() else shutil.copy(source, target)
        also = [name for name in COPIED if name != "pyproject.toml"]
        settings = {"source_paths": [module], "pytest_add_cli_args_test_selection": tests, "also_copy": also}
        # Processes of their own see no mutant, and the packages of another environment.
        settings["pytest_add_cli_args"] = ["-k", "not huge and not command and not workers"]
        with (Path(folder) / "pyproject.toml").open("a") as file:
            lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
            file.write("\n".join(["", "[tool.mutmut]", *lines, ""]))
        mutmut = [sys.executable, "-m", "mutmut"]
        # Mutants run in forks of a process that ran the tests: threads it had would be missing in them for ever.
        alone = {**os.environ, "OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}
        # A first run of nothing makes the mutants; then those that belong here are drawn.
        done = subprocess.run([*mutmut, "run", "none.*"], cwd=folder, env=alone, capture_output=True, text=True)
        meta = Path(folder) / "mutants" / f"{module}.meta"
        if not meta.exists():
            raise RuntimeError(f"mutmut made no mutants of {module}: {done.stdout[-1500:]}{done.stderr[-1500:]}")
        made = [name for name in json.loads(meta.read_text())["exit_code_by_key"] if belongs(name, names)]
        chosen = sorted(random.Random(SEED).sample(made, min(most, len(made))))
        done = subprocess.run(
            [*mutmut, "run", "--max-children", "1", *chosen], cwd=folder, env=alone, capture_output=True, text=True
        )
        codes = json.loads(meta.read_text())["exit_code_by_key"]
        if any(codes[name] is None for name in chosen):  # the tests fail without a mutant
            raise RuntimeError(f"mutmut ran no mutants of {module}: {done.stdout[-1500:]}{done.stderr[-1500:]}")
    timed_out = [name for name in chosen if codes[name] in TIMED_OUT]
    survived = [name for name in chosen if codes[name] not in KILLED]
    return {
        "mutants": len(chosen),
        "of": len(made),
        "killed": len(chosen) - len(survived),
        "timed_out": len(timed_out),  # among the killed
        "survived": survived,
        "seconds": round(time.perf_counter() - began, 1),
    }


def main() -> int:
    from fuzz import keep

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=73, help="mutants of each module")
    parser.add_argument("--modules", nargs="+", default=list(MODULES), choices=list(MODULES))
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "soak.json")
    options = parser.parse_args()
    noticed = tried = 0
    for module in options.modules:
        result = run(module, options.most)
        noticed, tried = noticed + result["killed"], tried + result["mutants"]
        print(module, json.dumps(result), flush=True)
        keep(options.out, "mutants", {module: {"seed": SEED, **result}})
    return int(noticed < GOAL * tried)


if __name__ == "__main__":
    sys.exit(main())
