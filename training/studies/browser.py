"""A headless Chromium, driven over its own protocol: for the page's test and its measurement.

https://chromedevtools.github.io/devtools-protocol/; ``websocket-client`` comes with Jupyter, so that this needs a
Chromium and nothing else.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from urllib.request import urlopen

import cv2
import websocket

from keypoints.video import Video

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60.0  # seconds for whatever the page or the browser is waited for
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--remote-debugging-port=0",
)
KEYS = {"Tab": (9, ""), " ": (32, " "), "Enter": (13, "\r"), "ArrowDown": (40, ""), "ArrowRight": (39, "")}


def find_chromium() -> str | None:
    """Where a Chromium is, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def write_camera(clip: str | Path, path: str | Path) -> int:
    """Write a video as what Chromium's fake webcam plays, one JPEG after the other (``.mjpeg``); how many frames."""
    frames, video = 0, Video(clip)
    with open(path, "wb") as file:
        for _, frame in video:
            file.write(cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])[1])
            frames += 1
    video.close()
    return frames


class Browser:
    """A Chromium with a user's folder of its own, on one page; to be used in a ``with``.

    Args:
        size: of the window, pixels.
        camera: what the fake webcam plays, of :func:`write_camera`; without it there is Chromium's own test picture.

    Attributes:
        complaints: what the page threw or wrote into the console as an error.
        requests: the addresses that were asked for.
    """

    def __init__(self, size: tuple[int, int] = (1280, 900), camera: Path | None = None) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._folder = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        options = [f"--user-data-dir={self._folder.name}", f"--window-size={size[0]},{size[1]}"]
        if camera:
            options.append(f"--use-file-for-fake-video-capture={camera}")
        # Google's services are not called anyway; without keys it does not even say so.
        environment = {**os.environ, "GOOGLE_API_KEY": "no", "NO_PROXY": "127.0.0.1"}
        self._process = subprocess.Popen(
            [find_chromium(), *FLAGS, *options, "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        self._number = 0
        try:
            self._socket = websocket.create_connection(self._page(), timeout=PATIENCE, suppress_origin=True)
            for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _page(self) -> str:
        """The address of the page's socket; the browser writes its port into a file."""
        port = Path(self._folder.name) / "DevToolsActivePort"
        until = monotonic() + PATIENCE
        while monotonic() < until and self._process.poll() is None:
            if port.exists() and (lines := port.read_text(encoding="utf-8").split()):
                with urlopen(f"http://127.0.0.1:{lines[0]}/json/list", timeout=PATIENCE) as answer:
                    pages = [target for target in json.load(answer) if target["type"] == "page"]
                if pages:
                    return pages[0]["webSocketDebuggerUrl"]
            sleep(0.1)
        raise TimeoutError(f"got no page from Chromium in {PATIENCE:.0f} s, expected one")

    def close(self) -> None:
        if hasattr(self, "_socket"):
            self._socket.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def call(self, method: str, **parameters: object) -> dict:
        """One command of the protocol and its answer; events that come meanwhile are noted."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self._note(message.get("method"), message.get("params", {}))

    def _note(self, event: str | None, content: dict) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(content["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            details = content["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif event == "Runtime.consoleAPICalled" and content["type"] in ("error", "assert"):
            said = (str(part.get("value", part.get("description"))) for part in content["args"])
            self.complaints.append(" ".join(said))
        elif event == "Log.entryAdded" and content["entry"]["level"] == "error":
            self.complaints.append(f"{content['entry']['text']} {content['entry'].get('url', '')}".strip())

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    def allow_webcam(self, address: str, allowed: bool = True) -> None:
        """Answer for the user whether the pages of an address get the webcam."""
        setting = "granted" if allowed else "denied"
        self.call("Browser.setPermission", permission={"name": "camera"}, setting=setting, origin=address)

    def resize(self, width: int, height: int) -> None:
        """Show the page as on a screen of this size; a phone's, with touch, below 600 pixels."""
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def run(self, script: str) -> object:
        """The value of a JavaScript expression; a promise is awaited."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{script}: {found['exceptionDetails'].get('exception', {}).get('description')}")
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = PATIENCE) -> None:
        """Until an expression is true."""
        until = monotonic() + seconds
        while monotonic() < until:
            if self.run(f"!!({script})"):
                return
            sleep(0.05)
        raise TimeoutError(f"got {self.run(script)!r} of {script} after {seconds:g} s, expected it to become true")

    def upload(self, selector: str, file: str | Path) -> None:
        """Choose a file in an ``<input type="file">``."""
        root = self.call("DOM.getDocument", depth=0)["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(file)], nodeId=node)

    def press(self, key: str) -> None:
        """Press a key of :data:`KEYS` and let it go."""
        code, text = KEYS[key]
        common = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def picture(self, path: str | Path, whole: bool = False) -> None:
        """Write what is to be seen as a PNG, or the whole page however long it is."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        Path(path).write_bytes(base64.b64decode(data))
