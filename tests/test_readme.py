"""The README's tables are what the committed figures say, and the commands it names exist."""

import re

import pytest
from helpers import ROOT

from results import report

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", report.PAGES)
def test_the_tables_are_those_of_the_committed_figures(page):
    assert report.filled(page) == (ROOT / page).read_text(encoding="utf-8")


def test_the_commands_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", README, flags=re.M))
    assert {"notebooks", "test", "data", "train", "evaluate", "failures", "benchmark"} <= named <= targets
