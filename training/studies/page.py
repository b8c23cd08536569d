"""How fast the page is in a real browser: `python -m training.studies.page`, after `make demo` made .venv-demo.

Chromium's fake webcam plays the rendered clip; the study counts the pictures that the page shows. The browser and the
page share the machine, as in use; the browser has no graphics card.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import numpy as np

from data_load import DATA_DIR
from demo.page import EXPRESSION, POINTS
from keypoints.files import sha256
from training.records import versions
from training.studies.browser import PATIENCE, Browser, find_chromium, write_camera
from training.studies.common import RESULTS, figures_file, make_parser
from training.weights import DEFAULT_MODEL

CLIP = DATA_DIR / "sample" / "clip.mp4"
PHOTO = DATA_DIR / "photos" / "grace_hopper.jpg"
DEMO = RESULTS.parent / ".venv-demo"
DEMO_PY = DEMO / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
WARM_UP = 3.0  # seconds
WAYS = {"keypoints and expression": [POINTS, EXPRESSION], "sunglasses": ["sunglasses"]}  # what is chosen in the page
# Records when the webcam's picture changes.
RECORD = """(() => { const times = window.times = [];
new MutationObserver(() => times.push(performance.now()))
  .observe(document.querySelector("#webcam img"), {attributes: true, attributeFilter: ["src"]}); })()"""


@dataclass(frozen=True)
class Served:
    """A page that is being served: its address, its process, its folder for temporary files and its log."""

    address: str
    process: subprocess.Popen
    folder: Path
    log: Path


@contextlib.contextmanager
def served(folder: Path, *options: str) -> Iterator[Served]:
    """Serve the page from a process of .venv-demo, on a free port, until the end of the ``with``.

    Raises:
        RuntimeError: it ends; the message is its log.
        TimeoutError: it does not answer.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "page.log"
    command = [DEMO_PY, "-m", "demo", "--port", str(port), *options]
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command,
            cwd=RESULTS.parent,
            env={**os.environ, "TMPDIR": str(folder), "TEMP": str(folder)},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        until = monotonic() + 2 * PATIENCE
        while "the page: " not in log.read_text(encoding="utf-8"):
            if process.poll() is not None:
                raise RuntimeError(f"the page ended: {log.read_text(encoding='utf-8')}")
            if monotonic() > until:
                raise TimeoutError(f"got no page in {2 * PATIENCE:.0f} s, expected one")
            sleep(0.1)
        yield Served(f"http://127.0.0.1:{port}", process, folder, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def open_tab(browser: Browser, name: str) -> None:
    """Show one of the page's tabs."""
    browser.page.get_by_role("tab", name=name, exact=True).click()


def choose(browser: Browser, names: list[str]) -> None:
    """Check those boxes of the page, by the value that Python gets, and uncheck all others."""
    browser.run(f"""(async () => {{
      for (const box of document.querySelectorAll("#choices input"))
        if (box.checked !== {json.dumps(names)}.includes(box.name)) {{
          box.click();
          await new Promise((next) => setTimeout(next, 100));
        }}
    }})()""")


def frames_per_second(browser: Browser, seconds: float, warm_up: float = WARM_UP) -> dict:
    """Count the pictures that the running webcam shows a second, and the milliseconds from one to the next."""
    sleep(warm_up)
    browser.run("times.length = 0")
    sleep(seconds)
    times = np.array(browser.run("times"))
    if len(times) < 3:
        raise RuntimeError(f"got {len(times)} pictures in {seconds:g} s, expected more: is the machine busy?")
    gaps = np.diff(times)
    return {
        "frames": len(times),
        "frames_per_second": float(1000 * len(gaps) / gaps.sum()),
        "ms_median": float(np.median(gaps)),
        "ms_95": float(np.percentile(gaps, 95)),
    }


def upload_seconds(browser: Browser) -> float:
    """Time a photo from being chosen to its picture in the page."""
    before = browser.run("document.querySelector('#photo img').src")
    began = monotonic()
    browser.page.set_input_files("#sources input[type=file]", PHOTO)
    browser.wait(f"document.querySelector('#photo img').src.length !== {len(before)}")
    return monotonic() - began


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("page", __doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="to count frames for, each way (default: 15)")
    parser.add_argument("--out", type=Path, default=RESULTS / "page.json", metavar="FILE")
    options = parser.parse_args(arguments)
    if not find_chromium() or not DEMO_PY.exists():
        raise SystemExit("got no Chromium or no .venv-demo, expected both: 'make demo' makes the latter")
    with (
        figures_file(options.out) as content,
        tempfile.TemporaryDirectory(prefix="page-") as folder,
        contextlib.ExitStack() as stack,
    ):
        camera = Path(folder) / "clip.mjpeg"
        write_camera(CLIP, camera)
        page = stack.enter_context(served(Path(folder)))
        browser = stack.enter_context(Browser(camera))
        browser.allow_webcam(page.address)
        browser.page.goto(page.address)
        browser.wait("document.querySelector('#photo img')?.complete")
        photo = upload_seconds(browser)
        open_tab(browser, "Webcam")
        browser.page.click("#webcam button")
        browser.wait("document.querySelector('#webcam .rate').textContent")
        browser.run(RECORD)
        settings = browser.run("document.querySelector('#webcam video').srcObject.getVideoTracks()[0].getSettings()")
        shown = {}
        for name, chosen in WAYS.items():
            choose(browser, chosen)
            figures = frames_per_second(browser, options.seconds)
            shown[name] = {key: round(value, 1) for key, value in figures.items()}
            print(f"{name}: {figures['frames_per_second']:.1f} frames/s", flush=True)
        gradio = re.search(r"gradio==(\S+)", (RESULTS.parent / "demo" / "requirements.txt").read_text())
        assert gradio
        content |= {
            "sha256": sha256(DEFAULT_MODEL),
            "processor": versions()["processor"],
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "browser": browser.call("Browser.getVersion")["product"],
            "gradio": gradio[1],
            "webcam": {key: settings[key] for key in ("width", "height", "frameRate")},
            "seconds": options.seconds,
            "photo_seconds": round(photo, 3),
            "webcam_shown": shown,
        }
    return 0


if __name__ == "__main__":
    sys.exit(main())
