"""About one hundredth of `make soak`: damaged files, kills, many callers. The whole is in results/soak.json."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parent / "soak"))
calls, fuzz = (importlib.import_module(name) for name in ("calls", "fuzz"))


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_damaged_files_end_in_a_result_or_a_sentence(kind, tmp_path):
    seeds = fuzz.KINDS[kind][1]()
    wrong = {case: fuzz.run_case(kind, case, seeds, tmp_path)[1] for case in range(fuzz.QUICK[kind])}
    assert not {case: text for case, text in wrong.items() if text}


def test_a_case_gives_the_same_bytes_each_time_and_is_damaged():
    seeds = [b"0123456789" * 20, b"abcdefghij" * 20]
    made = [fuzz.mutated(np.random.default_rng([1, case]), seeds) for case in range(50)]
    assert made == [fuzz.mutated(np.random.default_rng([1, case]), seeds) for case in range(50)]
    assert sum(case in seeds for case in made) < 10 and len(set(made)) > 40


def test_what_goes_wrong_is_told(tmp_path, monkeypatch):
    def use(file, case):
        if case == 1:
            raise ValueError("two\nlines")
        if case == 2:
            raise KeyError("x")
        if case == 3:
            raise ValueError("of no file")
        if case == 4:
            (tmp_path / "left.txt").write_text("")

    monkeypatch.setitem(fuzz.KINDS, "image", (".jpg", fuzz.image_seeds, use))
    told = [fuzz.run_case("image", case, [b"x" * 100], tmp_path)[1] for case in range(5)]
    assert told[0] is None
    for text, expected in zip(told[1:], ("no sentence", "KeyError", "names no file", "left.txt"), strict=True):
        assert expected in text


def test_cases_run_in_a_process_of_their_own():
    result = fuzz.run_kind("labels", 3)
    assert result["cases"] == 3 and result["failed"] == 0 and 0 < result["peak_memory_mb"] < fuzz.MEMORY


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_crash_a_hang_much_memory_and_a_file_elsewhere_are_found():
    result = fuzz.run_kind("planted", 6, hang=6, stuck=9)  # some machines give memory slowly
    told = [(failure["case"], failure["wrong"]) for failure in result["failures"]]
    expected = ("ended with -6", "ended with -27", "ended with -14", "grew to", "elsewhere.txt")
    assert [case for case, _ in told] == [0, 1, 2, 3, 4] and result["cases"] == 6
    for (_, text), what in zip(told, expected, strict=True):
        assert what in text


def test_the_committed_figures_of_the_soak_meet_its_goals():
    found = json.loads((fuzz.ROOT / "results" / "soak.json").read_text(encoding="utf-8"))
    assert sum(one["cases"] for one in found["fuzz"].values()) >= 100_000
    assert not any(one["failed"] or one["peak_memory_mb"] > fuzz.MEMORY for one in found["fuzz"].values())
    assert all(one["kills"] >= 100 and not one["failed"] for one in found["kills"].values())
    assert found["calls"]["calls"] >= 20_000 and found["calls"]["wrong"] == 0 and found["calls"]["processes_agree"]
    assert found["calls"]["grown_mb"] <= calls.MOST_GROWN
    mutants = importlib.import_module("mutants")
    tried, noticed = (sum(one[what] for one in found["mutants"].values()) for what in ("mutants", "killed"))
    assert set(found["mutants"]) == set(mutants.MODULES) and tried <= 300 and noticed >= mutants.GOAL * tried
    assert found["coverage"]["percent"] >= importlib.import_module("covered").GOAL


@pytest.fixture
def threads_restored():
    threads, searching = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)  # threads of a parent do not survive a fork
    cv2.setNumThreads(1)
    yield
    torch.set_num_threads(threads)
    cv2.setNumThreads(searching)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("job", ["training", "detecting", "fetching", "tracking"])
def test_killed_at_any_moment_nothing_is_lost(job, threads_restored):
    kills = importlib.import_module("kills")
    with kills.serving() as (url, manifest), kills.short_clip() as clip:
        needs = {"fetching": (url, manifest), "tracking": (clip,)}
        result = kills.torture(getattr(kills, job)(*needs.get(job, ())), 2, np.random.default_rng(0))
    assert result["kills"] == 2 and result["finished"] >= 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_job_that_leaves_half_a_file_is_noticed(tmp_path):
    kills = importlib.import_module("kills")

    def work(folder):
        (folder / "half").write_text("1")
        time.sleep(0.2)
        (folder / "half").write_text("12")

    def whole(folder):
        assert not (folder / "half").exists() or (folder / "half").read_text() == "12"

    job = kills.Job(work, whole, lambda folder: b"")
    with pytest.raises(AssertionError):
        kills.torture(job, 20, np.random.default_rng(0))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_callers_in_several_threads_get_what_one_gets(threads_restored):
    found = calls.callers(96, threads=8)
    assert found["wrong"] == 0 and found["grown_mb"] < calls.MOST_GROWN
