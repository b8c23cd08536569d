"""The exercises of the notebooks: each solution runs, on the names that its notebook has defined before."""

from __future__ import annotations

import json
import re

import matplotlib.pyplot as plt
import pytest
from helpers import ROOT

# The cells that define what the solutions use, by id; and what makes a training short.
CELLS = {
    "1": ["cell-01", "cell-02", "cell-04", "cell-06", "cell-26", "cell-28"],
    "2": ["cell-01", "cell-02", "short", "cell-04", "simple", "cell-12", "cell-33", "few"],
    "3": ["cell-01", "cell-02", "cell-04", "haar-same", "cell-13", "cell-15"],
    "4": ["cell-01", "cell-02", "leads", "cell-04", "track-01", "track-03", "track-05"],
}
EXTRA = {
    "short": "STUDY_IMAGES = 20",
    "simple": "simple = SimpleNet()",
    "few": "validation_set, predicted = Subset(validation_set, range(4)), untrained",
}


def solutions(cells: dict[str, str]) -> list[str]:
    return re.findall(r"<summary>Solution</summary>\n\n```python\n(.*?)```", cells["exercises"], re.DOTALL)


@pytest.mark.parametrize("number", CELLS)
def test_each_notebook_has_three_exercises_whose_solutions_run(number, tmp_path, monkeypatch):
    [path] = ROOT.glob(f"{number}_*.ipynb")
    content = json.loads(path.read_text(encoding="utf-8"))
    cells = {cell["id"]: "".join(cell["source"]) for cell in content["cells"]}
    tasks, own = re.findall(r"^\*\*\d\. .+?\*\*", cells["exercises"], re.MULTILINE), solutions(cells)
    assert len(tasks) == len(own) == 3
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEYPOINTS_DATA", "sample")
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    names: dict = {}
    for source in [*(EXTRA.get(cell) or cells[cell] for cell in CELLS[number]), *own]:
        exec(compile(source, path.name, "exec"), names)
    plt.close("all")
