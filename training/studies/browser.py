"""A headless Chromium with a fake webcam, driven by Playwright: for the page's test and its measurement."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
from playwright.sync_api import ConsoleMessage, sync_playwright

from keypoints.video import Video

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60.0  # seconds that the page or the browser may take for anything
FLAGS = ("--disable-quic", "--use-fake-device-for-media-stream")


def find_chromium() -> str | None:
    """Return the path of an installed Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def write_camera(clip: str | Path, path: str | Path) -> int:
    """Write a video in the format of Chromium's fake webcam, one JPEG after the other (``.mjpeg``).

    Returns:
        the number of frames.
    """
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
        camera: what the fake webcam plays, of :func:`write_camera`; by default Chromium's own test picture.

    Attributes:
        page: Playwright's page, for all that is not here.
        complaints: what the page threw or wrote into the console as an error.
        requests: the addresses that were asked for.
    """

    def __init__(self, camera: Path | None = None) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        arguments = [*FLAGS, f"--use-file-for-fake-video-capture={camera}"] if camera else [*FLAGS]
        self._playwright = sync_playwright().start()
        try:
            self._browser = self._playwright.chromium.launch(
                executable_path=find_chromium(), args=arguments, chromium_sandbox=False
            )
            self.page = self._browser.new_page(viewport={"width": 1280, "height": 900})
        except BaseException:
            self._playwright.stop()
            raise
        self.page.set_default_timeout(1000 * PATIENCE)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._note)
        self._session = self.page.context.new_cdp_session(self.page)

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "assert"):
            self.complaints.append(f"{message.text} {message.location.get('url', '')}".strip())

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._browser.close()
        self._playwright.stop()

    def call(self, method: str, **parameters: object) -> dict:
        """Send a command of Chromium's own protocol, https://chromedevtools.github.io/devtools-protocol/."""
        return self._session.send(method, parameters)

    def allow_webcam(self, address: str, allowed: bool = True) -> None:
        """Answer for the user whether the pages of an address get the webcam."""
        context = self.call("Target.getTargetInfo")["targetInfo"]["browserContextId"]
        setting = {"permission": {"name": "camera"}, "setting": "granted" if allowed else "denied", "origin": address}
        # Playwright can grant permissions, but not deny them.
        self._browser.new_browser_cdp_session().send("Browser.setPermission", {**setting, "browserContextId": context})

    def resize(self, width: int, height: int) -> None:
        """Show the page as on a screen of this size; a phone's below 600 pixels."""
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression; a promise is awaited."""
        return self.page.evaluate(script)

    def wait(self, script: str) -> None:
        """Wait until a JavaScript expression is true."""
        self.page.wait_for_function(script)
