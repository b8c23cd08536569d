"""What was tested together, and under which licences: `.venv/bin/python -m training.studies.environment`.

Writes tests/constraints.txt, every installed package at its version (`PIP_CONSTRAINT=tests/constraints.txt make test`
installs exactly these), and tests/licences.csv, what each package says of its licence.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import io
import re
from pathlib import Path

from keypoints.files import write_atomically

TESTS = Path(__file__).resolve().parents[2] / "tests"
NOT_OURS = {"pip", "setuptools", "wheel"}  # what makes an environment, not what is in it


def packages() -> dict[str, importlib.metadata.Distribution]:
    """Name → installed distribution, in alphabetical order; names as PyPI compares them."""
    found = {}
    for distribution in importlib.metadata.distributions():
        found[re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()] = distribution
    return {name: found[name] for name in sorted(found) if name not in NOT_OURS}


def public_version(version: str) -> str:
    """Without what a builder adds: constraints are for any build.

    >>> public_version("2.15.0+cu132")
    '2.15.0'
    """
    return version.split("+")[0]


def licence(distribution: importlib.metadata.Distribution) -> str:
    """What a package's metadata says: an SPDX expression where it has one, else classifiers, else its own words."""
    metadata = distribution.metadata
    if expression := metadata.get("License-Expression"):
        return expression
    classifiers = [c.split(" :: ")[-1] for c in metadata.get_all("Classifier") or [] if c.startswith("License ::")]
    classifiers = [name for name in classifiers if name != "OSI Approved"]
    words = (metadata.get("License") or "").strip().splitlines()
    return "; ".join(classifiers) or (words[0][:80] if words else "not stated")


def main() -> None:
    installed = packages()
    head = (
        "# Everything that was installed when the tests last passed; "
        "written by python -m training.studies.environment.\n"
    )
    lines = [f"{name}=={public_version(found.version)}\n" for name, found in installed.items()]
    table = io.StringIO()
    rows = [[name, public_version(found.version), licence(found)] for name, found in installed.items()]
    csv.writer(table, lineterminator="\n").writerows([["package", "version", "licence"], *rows])
    for name, text in (("constraints.txt", head + "".join(lines)), ("licences.csv", table.getvalue())):
        write_atomically(TESTS / name, lambda part, text=text: part.write_text(text, encoding="utf-8"))
        print(f"wrote tests/{name}: {len(rows)} packages")


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m training.studies.environment", description=__doc__.split("\n", 1)[0]
    ).parse_args()
    main()
