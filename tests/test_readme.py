"""The README's tables are what the committed figures say, and the commands it names exist."""

import re

import pytest
from helpers import ROOT, SHIPPED

from results import report

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", report.PAGES)
def test_the_tables_are_those_of_the_committed_figures(page):
    assert report.filled(page) == (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("framing", ["centre", "haar", "box"])
def test_the_figures_are_those_of_the_shipped_weights(framing):
    figures = report.load(ROOT / "results" / f"official_test_{framing}.json")
    assert figures["framing"] == framing
    assert figures["sha256"] == report.load(SHIPPED.with_suffix(".json"))["sha256"]


def test_the_commands_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", README, flags=re.M))
    assert {"notebooks", "test", "data", "train", "evaluate"} <= named <= targets
