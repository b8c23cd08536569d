"""Lint of the four committed notebooks; nbval runs them."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from helpers import ROOT
from nbconvert import HTMLExporter
from nbval.plugin import get_sanitize_patterns

import keypoints

NOTEBOOKS = [
    "1_Load_and_Visualize_Data.ipynb",
    "2_Define_the_Network_Architecture.ipynb",
    "3_Facial_Keypoint_Detection_Complete_Pipeline.ipynb",
    "4_Fun_with_Keypoints.ipynb",
]
SANITIZE = Path(__file__).with_name("nbval_sanitize.cfg")


@pytest.fixture(params=NOTEBOOKS)
def path(request) -> Path:
    return ROOT / request.param


@pytest.fixture
def notebook(path) -> dict:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


@pytest.fixture
def code(notebook) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.fixture
def prose(notebook) -> list[str]:
    return [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "markdown"]


def parse(cell: dict) -> ast.Module:
    """A cell's syntax tree; lines for the notebook alone (%magic, !shell) are left out."""
    return ast.parse("\n".join(re.sub(r"^(\s*)[%!].*", r"\1pass", line) for line in cell["source"].splitlines()))


def outputs(code: list[dict]) -> list[dict]:
    return [output for cell in code for output in cell["outputs"]]


def texts(code: list[dict]) -> str:
    """All text that was printed or shown."""
    found = []
    for output in outputs(code):
        found.append("".join(output.get("text", "")))
        found += ["".join(value) for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    # Pictures and videos within a page are not text: one line of a million letters.
    return re.sub(r"base64,[A-Za-z0-9+/=]+", "base64,", "\n".join(found))


# As executed ----------------------------------------------------------------------------------------------------------


def test_cells_were_executed_once_from_top_to_bottom(code):
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))


def test_no_cell_has_an_error_or_prints_to_stderr(code):
    assert [output for output in outputs(code) if output["output_type"] == "error"] == []
    assert [output["text"] for output in outputs(code) if output.get("name") == "stderr"] == []


def test_no_output_has_an_address_or_a_path_of_the_machine(code):
    places = r"\b0x[0-9a-fA-F]{6,}|/work/|/home/|/root/|/Users/|/tmp/|[A-Z]:\\"
    assert [line for line in texts(code).splitlines() if re.search(places, line)] == []


def test_outputs_come_from_the_sample(notebook, code, path):
    printed = texts(code)
    assert re.search(r"^data: sample$", printed, re.MULTILINE) and "data: official" not in printed
    assert notebook["metadata"]["kernelspec"]["name"] == "python3" and path.stat().st_size < 1.5e6


# How the code is written ----------------------------------------------------------------------------------------------


def names_of_modules() -> set[str]:
    """Every function and class that data_load, models or keypoints.* defines."""
    modules = ["data_load", "models", *(f"keypoints.{m.name}" for m in pkgutil.iter_modules(keypoints.__path__))]
    return {
        name
        for module in map(importlib.import_module, modules)
        for name, thing in vars(module).items()
        if (inspect.isfunction(thing) or inspect.isclass(thing)) and thing.__module__ == module.__name__
    }


def test_no_cell_defines_what_a_module_has(code):
    defined = {
        node.name
        for cell in code
        for node in ast.walk(parse(cell))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    assert defined & names_of_modules() == set()


def lines_of_code(cell: dict) -> int:
    """Lines that are neither blank, a comment nor part of an import."""
    imported = {
        line
        for node in ast.walk(parse(cell))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for line in range(node.lineno, node.end_lineno + 1)
    }
    lines = enumerate(cell["source"].splitlines(), 1)
    return sum(i not in imported and bool(line.strip()) and not line.strip().startswith("#") for i, line in lines)


def test_no_cell_has_more_than_15_lines_of_code(code):
    assert [cell["source"] for cell in code if lines_of_code(cell) > 15] == []


def test_each_plot_cell_ends_in_plt_show(code):
    plots = [
        cell
        for cell in code
        if any("image/png" in o.get("data", {}) or "image/jpeg" in o.get("data", {}) for o in cell["outputs"])
    ]
    assert plots or not code
    assert [cell["source"] for cell in plots if cell["source"].strip().splitlines()[-1] != "plt.show()"] == []


def test_only_marker_of_nbval_ignores_an_output(code):
    for cell in code:
        mentions = [line for line in cell["source"].splitlines() if re.search("nbval", line, re.IGNORECASE)]
        assert mentions in ([], ["# NBVAL_IGNORE_OUTPUT"])  # nothing is skipped or allowed to fail
        assert not mentions or (cell["outputs"] and cell["source"].startswith(mentions[0]))


# How the story is told ------------------------------------------------------------------------------------------------


def test_notebook_opens_with_its_place_and_ends_with_where_to_go_on(notebook, path):
    number, first, last = NOTEBOOKS.index(path.name), notebook["cells"][0], notebook["cells"][-1]["source"]
    assert first["cell_type"] == "markdown" and first["source"].startswith(f"# {number + 1} · ")
    [places] = re.findall(r"^\*\*Where we are:\*\*((?:.+\n?)+)", first["source"], re.MULTILINE)
    for place, name in zip(places.split("·"), NOTEBOOKS, strict=True):
        link = rf"\*\*{name[0]} \w+\*\*" if name == path.name else rf"\[{name[0]} \w+\]\({re.escape(name)}\)"
        assert re.fullmatch(link, place.strip())
    assert re.search(r"^\*\*Takes\*\* .+\(README\.md#the-notebooks\)", first["source"], re.MULTILINE)
    assert "## What we learned\n" in last and "**An open question:**" in last
    around = NOTEBOOKS[max(0, number - 1) : number + 2]
    assert all(f"({name})" in last for name in around if name != path.name)


def test_each_picture_has_an_alt_text(code):
    pictures = [cell for cell in code if any("image/jpeg" in output.get("data", {}) for output in cell["outputs"])]
    assert [cell["id"] for cell in pictures if len(cell["metadata"].get("alt", "")) < 30] == []


def test_html_of_a_notebook_has_the_alt_texts():
    picture = nbformat.v4.new_output("display_data", {"image/jpeg": "aGVsbG8="})
    cell = nbformat.v4.new_code_cell("plt.show()", outputs=[picture], metadata={"alt": 'a "head"'})
    exporter = HTMLExporter(template_name="alt", extra_template_basedirs=[str(ROOT / ".ci" / "html")])
    page, _ = exporter.from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    assert [image["alt"] for image in BeautifulSoup(page, "html.parser").find_all("img")] == ['a "head"']


def test_seconds_that_a_notebook_prints_are_part_of_its_own(code, path):
    took = json.loads((ROOT / "results" / "notebook_seconds.json").read_text(encoding="utf-8"))[path.stem]
    printed = [int(seconds) for seconds in re.findall(r"\b(\d+) s\b", texts(code))]
    assert max(printed, default=0) < took  # both are of one run of `make refresh`


# nbval's rules --------------------------------------------------------------------------------------------------------


def rules() -> list[tuple[str, str, str, str, str]]:
    """Regex, replacement, example, what becomes of it, and what the rule leaves alone."""
    text = SANITIZE.read_text(encoding="utf-8")
    pairs = get_sanitize_patterns(text)
    examples = re.findall(r"^example: (.*) → (.*)$", text, re.MULTILINE)
    left = re.findall(r"^leaves: (.*)$", text, re.MULTILINE)
    return [(*p, *e, leaves) for p, e, leaves in zip(pairs, examples, left, strict=True)]


def test_nbval_reads_every_rule():
    text = SANITIZE.read_text(encoding="utf-8")
    numbers = len(re.findall(r"^\[regex\d+\]$", text, re.MULTILINE))
    patterns = get_sanitize_patterns(text)
    assert numbers == len(re.findall(r"^\s*regex\s*:", text, re.MULTILINE)) == len(patterns) == len(dict(patterns)) > 0


@pytest.mark.parametrize(("regex", "replace", "before", "after", "leaves"), rules())
def test_rule_matches_its_example_and_nothing_else(regex, replace, before, after, leaves):
    assert re.sub(regex, replace, before) == after
    assert re.sub(regex, replace, leaves) == leaves


def test_nbval_finds_a_wrong_shape(tmp_path):
    file = str(ROOT / "saved_models" / "pose_model.npz")
    code = f"import numpy as np\n\nprint(np.load({file!r})['template'].shape, '3.2 s')"
    cells = []
    for number, shape in enumerate(("(68, 2)", "(68, 3)"), 1):
        cells.append(nbformat.v4.new_code_cell(code, execution_count=number))
        cells[-1].outputs = [nbformat.v4.new_output("stream", text=f"{shape} 4 s\n")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "a.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "--nbval"]
    command += ["--nbval-current-env", "--nbval-sanitize-with", str(SANITIZE), "--rootdir", str(tmp_path), "a.ipynb"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "1 failed, 1 passed" in done.stdout and "a.ipynb::Cell 1" in done.stdout, done.stdout + done.stderr
