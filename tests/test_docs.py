"""The site of `make docs`: everything is in it, and its links work."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from helpers import ROOT

import keypoints

DOCS = ROOT / ".ci" / "docs.py"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run([sys.executable, DOCS, out], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr  # a broken link included
    return out


def test_site_has_all_pages_notebooks_and_modules(site):
    names = {path.relative_to(site).with_suffix("").as_posix() for path in site.rglob("*.html")}
    assert {"index", "CONTRIBUTING", "data/README", "saved_models/README", "results/README"} <= names
    assert {notebook.stem for notebook in ROOT.glob("*.ipynb")} <= names
    assert {f"keypoints/{path.stem}" for path in (ROOT / "keypoints").glob("[!_]*.py")} <= names
    assert {"keypoints", "training", "training/train", "models", "data_load"} <= names


@pytest.mark.parametrize("name, shown", [("keypoints", "tracker(frame, time)"), ("training", "export_onnx(load_model")])
def test_examples_are_shown(site, name, shown):
    page = BeautifulSoup((site / f"{name}.html").read_bytes(), "html.parser")
    assert shown in page.find(class_="docstring").get_text()


def test_public_names_are_on_the_page_of_the_package(site):
    page = BeautifulSoup((site / "keypoints.html").read_bytes(), "html.parser")
    assert set(keypoints.__all__) - {"__version__"} <= {tag["id"] for tag in page.find_all(id=True)}


def test_broken_link_of_a_site_is_found(tmp_path):
    spec = importlib.util.spec_from_file_location("docs", DOCS)
    docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(docs)
    (tmp_path / "there.html").write_text('<h1 id="here">Here</h1>')
    (tmp_path / "page.html").write_text(
        '<a href="there.html#here">good</a> <a href="https://example.org/x">away</a> <a href="gone.html">no file</a> '
        '<a href="there.html#nowhere">no anchor</a> <img src="gone.jpg"> <a href="#top">no anchor here</a>'
    )
    links = ["gone.html", "there.html#nowhere", "gone.jpg", "#top"]
    assert sorted(docs.broken_links(tmp_path)) == sorted(f"page.html: {link}" for link in links)
