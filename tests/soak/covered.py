"""Line coverage: how much of data_load, models and keypoints the tests run. Needs the package coverage.

    python tests/soak/covered.py                    # writes the shares into results/soak.json

The tests are those of `make test`: pytest, and the notebooks on the sample. Processes that they start count, too, and
the page's where .venv-demo is there. What is left out, and why, stands in pyproject.toml.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

GOAL = 90  # percent
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]
# Read after the file that shows .venv-demo the packages of .venv, coverage among them.
DEMO_START = "import os; 'COVERAGE_PROCESS_CONFIG' in os.environ and __import__('coverage').process_startup(slug='pth')"


@contextlib.contextmanager
def page_counts() -> Iterator[None]:
    """Let processes of .venv-demo count, too; that environment is as it was afterwards."""
    started = [path.with_name("venv_coverage.pth") for path in (ROOT / ".venv-demo").glob("**/site-packages/venv.pth")]
    for path in started:
        path.write_text(DEMO_START + "\n", encoding="utf-8")
    try:
        yield
    finally:
        for path in started:
            path.unlink()


def main() -> int:
    from fuzz import keep

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kept", action="store_true", help="take build/coverage of the last run, run no tests")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "soak.json")
    options = parser.parse_args()
    coverage, build = [sys.executable, "-m", "coverage"], ROOT / "build"
    build.mkdir(exist_ok=True)
    if not options.kept:
        subprocess.run([*coverage, "erase"], cwd=ROOT, check=True)
        notebooks = sorted(path.name for path in ROOT.glob("[1-9]_*.ipynb"))
        # Not nbval: it kills its kernels, and what a killed process ran is not known.
        execute = ["nbconvert", "--execute", "--to", "notebook", "--output-dir", str(build / "covered"), *notebooks]
        environment = {**os.environ, "KEYPOINTS_DATA": "sample"}
        with page_counts():
            for tests in (["pytest"], ["jupyter", *execute]):
                subprocess.run([*coverage, "run", "-m", *tests], cwd=ROOT, env=environment, check=True)
        subprocess.run([*coverage, "combine", "--quiet"], cwd=ROOT, check=True)
    subprocess.run([*coverage, "json", "--quiet", "-o", str(build / "covered.json")], cwd=ROOT, check=True)
    report = json.loads((build / "covered.json").read_text(encoding="utf-8"))
    shares = {file: round(one["summary"]["percent_covered"], 1) for file, one in report["files"].items()}
    total = report["totals"]
    result = {"lines": total["num_statements"], "percent": round(total["percent_covered"], 1), "files": shares}
    print(json.dumps(result, indent=1))
    keep(options.out, "coverage", result)
    return int(result["percent"] < GOAL)


if __name__ == "__main__":
    sys.exit(main())
