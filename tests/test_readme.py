"""The pages are true: tables, printed results, commands and links."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from helpers import ROOT

from keypoints.__main__ import _parser as keypoints_parser
from training.__main__ import _parser as training_parser
from training.studies import report

CONTRIBUTING = ".github/CONTRIBUTING.md"
COURSE = "docs/course.md"
PAGES = [*report.TABLES, CONTRIBUTING, COURSE, "docs/training.md"]
NOTEBOOKS = [f"{name}.ipynb" for name in report.NOTEBOOKS]


def text_of(path: Path) -> str:
    """A page, or the Markdown cells of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    return "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")


def blocks(text: str, language: str = "") -> list[str]:
    """What stands between fences, of one language."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [code for of, code in fenced if of == language]


def prose(text: str) -> str:
    """The text without code: what looks like a heading or a link in there is none."""
    return re.sub(r"`[^`\n]*`", lambda code: code[0].strip("`").replace("[", "").replace("#", ""),
                  re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))  # fmt: skip


# What the figures say -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", report.TABLES)
def test_tables_are_those_of_the_committed_figures(page):
    assert report.filled(page) == (ROOT / page).read_text(encoding="utf-8")


def test_drawing_of_the_pipeline_is_the_committed_one():
    assert report.pipeline() == (ROOT / "results" / "pipeline.svg").read_text(encoding="utf-8")


def test_each_file_of_figures_is_named():
    text = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    assert [file.name for file in (ROOT / "results").glob("*.json") if f"`{file.name}`" not in text] == []


@pytest.mark.parametrize("page", ["results/README.md", CONTRIBUTING])
def test_python_of_the_pages_prints_what_they_say(page, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    [code] = blocks((ROOT / page).read_text(encoding="utf-8"), "python")
    exec(compile(code, page, "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    said = re.findall(r"^print\(.*  # (.*)$", code, re.MULTILINE)
    assert printed[: len(said)] == said and printed


# Commands -------------------------------------------------------------------------------------------------------------


def named(pattern: str) -> set[str]:
    """What the pages name: the matches of a pattern."""
    return {match for page in PAGES for match in re.findall(pattern, text_of(ROOT / page), re.MULTILINE)}


def test_make_commands_and_modules_of_the_pages_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    commands = named(r"(?:^|`)make ([a-z]+)")
    assert {"setup", "notebooks", "test", "data", "train", "evaluate", "failures", "benchmark"} <= commands <= targets
    modules = named(r"python -m ((?:training|keypoints)(?:\.\w+)+)")
    assert "training.studies.slices" in modules
    assert [name for name in modules if not (ROOT / f"{name.replace('.', '/')}.py").exists()] == []


COMMANDS = {
    (package, arguments.replace("NAME", "tophat"))
    for page in [*PAGES, *NOTEBOOKS]
    for block in blocks(text_of(ROOT / page))
    for package, arguments in re.findall(r"(?:-m |^)(keypoints|training) (.+)$", block, re.MULTILINE)
}


@pytest.mark.parametrize("package, arguments", sorted(COMMANDS))
def test_command_line_takes_the_commands_of_the_pages(package, arguments):
    parser = {"keypoints": keypoints_parser, "training": training_parser}[package]()
    parser.parse_args(shlex.split(arguments, comments=True))


def test_citation_has_what_cff_1_2_requires():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"authors", "message", "title", "license"} <= set(citation)
    assert all({"type", "title", "authors"} <= set(work) for work in citation["references"])
    people = [author for work in [citation, *citation["references"]] for author in work["authors"]]
    assert all("name" in author or "family-names" in author for author in people)


# Links ----------------------------------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """What a link can point to in a page or a notebook: Jupyter's anchors, GitHub's, and explicit ones."""
    text = prose(text_of(path))
    titles = re.findall(r"^#{1,6} +(.+?) *$", text, re.MULTILINE)
    github = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return {title.replace(" ", "-") for title in titles} | github | set(re.findall(r'(?:id|name)="([^"]+)"', text))


def broken_links(path: Path) -> list[str]:
    """The relative links and pictures of a page or notebook whose file or anchor is missing."""
    broken, text = [], prose(text_of(path))
    for link in re.findall(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text):
        if re.match(r"(https?|mailto|attachment|data):", link):
            continue
        file, _, anchor = unquote(link).partition("#")
        target = path.parent / file if file else path
        known = target.suffix in (".md", ".ipynb")
        if not target.exists() or (anchor and not (known and anchor in anchors(target))):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS])
def test_relative_links_and_anchors_resolve(page):
    assert broken_links(ROOT / page) == []


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS])
def test_each_picture_has_an_alt_text(page):
    pictures = re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", text_of(ROOT / page))
    assert [file for text, file in pictures if len(text) < 20] == []


def test_makefile_refuses_pythons_without_wheels():
    [code] = re.findall(r'\$\(PYTHON\) -c "(import sys; v = .*)" \\', (ROOT / "Makefile").read_text(encoding="utf-8"))
    versions = [(3, 10, 9), (3, 11, 0), (3, 12, 3), (3, 14, 0), (3, 14, 1), (3, 14, 2), (3, 15, 0)]
    refused = []
    for version in versions:
        with pytest.raises(SystemExit) as ended:
            exec(code.replace("import sys; v = sys.version_info[:3]", f"import sys; v = {version}"))
        refused.append(bool(ended.value.code))
    assert refused == [True, False, False, False, True, False, True]


def test_actions_are_pinned_by_commit():
    for file in (ROOT / ".github" / "workflows").glob("*.yml"):
        for used in re.findall(r"uses: *(.*)", file.read_text(encoding="utf-8")):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), f"{file.name}: {used}"


def cells_under(notebook: Path, anchor: str) -> list[int]:
    """The execution counts of the code cells under a heading of a notebook, the headings below it included."""
    inside, found = 0, []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            for level, heading in re.findall(r"^(#+) (.+)$", source, re.MULTILINE):
                if heading.replace(" ", "-") == anchor:
                    inside = len(level)
                elif inside and len(level) <= inside:
                    inside = 0
        elif inside:
            found.append(cell["execution_count"])
    return found


def test_rubric_names_the_cells_of_each_section():
    table = (ROOT / COURSE).read_text(encoding="utf-8").split("| criterion | where |")[1].split("\n## ")[0]
    told = re.findall(r"\]\(\.\./(\d_[^#)]+)#([^)]+)\), cells? (\d+)(?:–(\d+))?", table)
    assert len(told) == table.count(".ipynb#") > 8
    for notebook, anchor, first, last in told:
        found = cells_under(ROOT / notebook, unquote(anchor))
        assert (found[0], found[-1]) == (int(first), int(last or first)), anchor
