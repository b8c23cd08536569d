"""The page: what it says and draws; and whole, in a real Chromium, where there is one beside .venv-demo."""

from __future__ import annotations

import asyncio
import base64
import re
import shutil
import signal
import socket
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from helpers import PHOTOS, SHIPPED

from data_load import read_image
from keypoints import page
from keypoints.detection import KeypointDetector
from results.browser import Browser, find_chromium, write_camera
from results.page import CLIP, DEMO, choose, frames_per_second, open_tab, served

HOPPER = PHOTOS / "grace_hopper.jpg"
ALL = [page.POINTS, page.POSE, page.EXPRESSION]


@pytest.fixture(scope="module")
def detector() -> KeypointDetector:
    return KeypointDetector(SHIPPED)


@pytest.fixture(scope="module")
def hopper(detector) -> page.Seen:
    return page.Viewer(detector)(read_image(HOPPER))


# What it says and draws -----------------------------------------------------------------------------------------------


def test_a_photo_has_the_faces_of_the_detector(detector, hopper):
    [face], [expected] = hopper.faces, detector(HOPPER)
    np.testing.assert_array_equal(face.keypoints, expected.keypoints)
    assert hopper.emotions[face.id].probabilities == pytest.approx(expected.emotion.probabilities)


def test_each_choice_changes_the_picture_and_none_leaves_it(hopper):
    assert page.draw(hopper, [], []) is hopper.image
    pictures = [page.draw(hopper, [], [word]) for word in ALL] + [page.draw(hopper, ["sunglasses"], [])]
    assert all((picture != hopper.image).any() for picture in pictures)
    assert all((a != b).any() for i, a in enumerate(pictures) for b in pictures[:i])
    assert page.draw(hopper, ["../no such filter"], []) is hopper.image


def test_the_table_and_the_sentence_tell_of_each_face(hopper):
    assert page.sentence(hopper) == "1 face."
    table = page.table(hopper)
    face, emotion = hopper.faces[0], hopper.emotions[0]
    assert table.count("<tr>") == 2
    assert f"{emotion.likeliest} {100 * emotion.probability:.0f}\N{NO-BREAK SPACE}%" in table
    yaw = int(re.search(r"<td>(−?\d+)°", table)[1].replace("−", "-"))
    assert yaw == round(face.pose.yaw)
    nobody = page.Seen(hopper.image, [], {})
    assert page.sentence(nobody) == "No face was found in this picture." and page.table(nobody) == ""


def test_the_picture_s_text_says_what_it_shows(hopper):
    says = page.alt_text(hopper, ["tophat"], [page.POSE])
    assert says == f"The picture with pose, top hat; face 0: {hopper.emotions[0].label}."


def test_an_upload_is_deleted_whether_it_can_be_read_or_not(tmp_path):
    shutil.copy(HOPPER, tmp_path / "her.jpg")
    assert max(page.read_photo(tmp_path / "her.jpg").shape) <= page.LARGEST_PHOTO
    (tmp_path / "<b>.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"^<b>.jpg: expected an image, got 8 bytes") as error:
        page.read_photo(tmp_path / "<b>.jpg")
    assert list(tmp_path.iterdir()) == []
    assert "<b>" not in page.photo_html(None, [], [], str(error.value))


def test_large_pictures_are_shrunk(tmp_path):
    cv2.imwrite(str(tmp_path / "large.png"), np.zeros((4000, 1000, 3), np.uint8))
    assert page.read_photo(tmp_path / "large.png").shape == (1600, 400, 3)
    frame = cv2.imencode(".jpg", np.zeros((400, 1280, 3), np.uint8))[1]
    assert page.read_frame(page.JPEG + base64.b64encode(frame).decode()).shape == (200, 640, 3)


@pytest.mark.parametrize("frame", [None, "file:///etc/passwd", *(page.JPEG + end for end in ("", "AAAA", "no base64"))])
def test_what_is_no_frame_is_refused_in_a_sentence(frame):
    with pytest.raises(ValueError, match="expected"):
        page.read_frame(frame)


def test_a_frame_that_promises_gigabytes_is_refused_as_a_file_of_the_kind_is():
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", 13, b"IHDR")
    for data, told in (
        (png + struct.pack(">II", 11_500, 11_500), "132,250,000 pixels"),
        (png[:8] + b"\x7f" * 9, "17 bytes"),
    ):
        with pytest.raises(ValueError, match=rf"^the webcam's frame: .*got .*{told}"):
            page.read_frame(page.JPEG + base64.b64encode(data).decode())


def test_a_picture_s_address_holds_the_picture(hopper):
    again = page.read_frame(page.picture_url(page.shrink(hopper.image, 400)))
    assert np.abs(again.astype(int) - page.shrink(hopper.image, 400)).mean() < 4


def test_each_webcam_has_its_own_faces_and_the_oldest_gives_way(detector):
    visitors = page.Visitors(detector)
    first = visitors["first"]
    for number in range(page.VISITORS - 1):
        visitors[f"other {number}"]
    assert visitors["first"] is first and len(visitors) == page.VISITORS
    visitors["one more"]  # "other 0" was silent longest
    assert visitors["first"] is first and len(visitors) == page.VISITORS


@pytest.mark.parametrize(
    ("host", "origin", "path", "status"),
    [
        ("127.0.0.1:7860", None, "/", 200),
        ("localhost:7860", "http://localhost:7860", "/gradio_api/upload", 200),
        ("attacker.example:7860", None, "/", 403),  # a name that was made to point here
        ("127.0.0.1:7860", "http://attacker.example", "/gradio_api/queue/join", 403),
        ("127.0.0.1:7860", "http://127.0.0.1:8888", "/gradio_api/queue/join", 403),
        ("127.0.0.1:7860", None, "/gradio_api/file=http://attacker.example/?secret", 403),
        ("127.0.0.1:7860", None, "/gradio_api/proxy=https://attacker.example/", 403),
        ("", None, "/", 403),
    ],
)
def test_only_this_machine_s_own_page_is_answered(host, origin, path, status):
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    headers = [(b"host", host.encode())] + ([(b"origin", origin.encode())] if origin else [])
    asyncio.run(page.OnlyHere(app)({"type": "http", "path": path, "headers": headers}, None, send))
    assert sent[0]["status"] == status
    if status == 200:
        assert b"default-src 'self'" in dict(sent[0]["headers"])[b"content-security-policy"]


def test_without_gradio_a_sentence_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(page, "KeypointDetector", lambda model: None)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert page.main([]) == 2
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert "make demo" in capsys.readouterr().err


def test_a_rate_counts_pictures_not_gaps():
    class Clock:
        def run(self, script):
            return [0.0, 100.0, 200.0, 400.0]

    figures = frames_per_second(Clock(), seconds=0.0, warm_up=0.0)
    assert figures == pytest.approx({"frames": 4, "frames_per_second": 7.5, "ms_median": 100.0, "ms_95": 190.0})


# In a browser ---------------------------------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(
    not find_chromium() or not (DEMO / "made").exists(),
    reason="no Chromium, or no .venv-demo ('make demo' makes it)",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def server(folder):
    """Served until the last test; then it ends without a word, and leaves nothing."""
    with served(folder) as server:
        assert list(folder.glob("keypoints-page-*"))
        yield server
    assert server.log.read_text(encoding="utf-8") == f"the page: {server.address} (Ctrl-C ends it)\n"
    assert server.process.returncode == 0 and not list(folder.glob("keypoints-page-*"))


@pytest.fixture(scope="module")
def chromium(folder):
    write_camera(CLIP, folder / "clip.mjpeg")
    with Browser(camera=folder / "clip.mjpeg") as browser:
        yield browser


@pytest.fixture
def browser(server, chromium):
    """The page, just opened: it shows its first example. Afterwards the browser has nothing to complain of."""
    chromium.resize(1280, 900)
    chromium.allow_webcam(server.address)
    chromium.open("about:blank")  # the last test's page complains of being left
    chromium.wait("location.href === 'about:blank'")
    chromium.complaints.clear()
    chromium.open(server.address)
    chromium.wait("document.querySelector('#photo table') && window.chosen")
    yield chromium
    # An upload is deleted as soon as it is read; a slow browser may ask for its preview after that.
    gone = re.compile(r"status of 40[34] .*/gradio_api/file=\S*/keypoints-page-")
    complaints = [complaint for complaint in chromium.complaints if not gone.search(complaint)]
    assert not complaints, "\n".join(complaints)


def photo(browser: Browser) -> str:
    return browser.run("document.querySelector('#photo img')?.src ?? ''")


def upload(browser: Browser, file: Path) -> None:
    """Choose a file and wait until the page shows or says something else."""
    shown = "['img', '.says'].map((name) => document.querySelector('#photo ' + name)?.outerHTML).join()"
    browser.run(f"window.stage = () => {shown}; window.before = stage()")
    browser.upload("#sources input[type=file]", file)
    browser.wait("stage() !== before")


@needs_browser
def test_a_photo_is_drawn_and_told_of_and_its_file_is_gone(browser, server, folder):
    before = photo(browser)
    upload(browser, HOPPER)
    assert photo(browser) != before
    assert browser.run("document.querySelector('#photo .says').textContent") == "1 face."
    rows = browser.run("[...document.querySelectorAll('#photo tbody tr')].map((row) => row.innerText.split('\\t'))")
    [[number, yaw, *_, sure]] = rows
    assert number == "0" and abs(int(yaw.replace("−", "-").rstrip("°"))) < 15
    assert int(sure.rstrip("\N{NO-BREAK SPACE}%")) > 50
    assert browser.run("document.querySelector('#photo img').alt").startswith("The picture with keypoints, expression;")
    assert not list(folder.rglob(HOPPER.name))
    browser.wait("document.querySelector('#sources input[type=file]')")  # there is room for the next


@needs_browser
def test_a_broken_file_and_a_photo_without_a_face_end_in_a_sentence(browser, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    upload(browser, tmp_path / "broken.jpg")
    says = browser.run("document.querySelector('#photo .says').textContent")
    assert re.match(r"broken\.jpg: expected an image, got 10 bytes", says) and photo(browser) == ""
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((200, 300, 3), 128, np.uint8))
    upload(browser, tmp_path / "grey.png")
    assert "No face was found" in browser.run("document.querySelector('#photo .says').textContent")
    assert photo(browser).startswith("data:image/jpeg")


@needs_browser
def test_the_keyboard_is_enough(browser):
    before, seen = photo(browser), []
    for _ in range(30):
        browser.press("Tab")
        seen.append(browser.run("document.activeElement.name || document.activeElement.innerText"))
        if seen[-1] == "sunglasses":
            break
    assert seen[-1] == "sunglasses", seen
    assert browser.run("getComputedStyle(document.activeElement.closest('label')).outlineStyle") == "solid"
    browser.press(" ")
    browser.wait(f"document.querySelector('#photo img').src.length !== {len(before)}")
    assert "sunglasses" in browser.run("document.querySelector('#photo img').alt")
    assert any("Grace Hopper" in name for name in seen)


@needs_browser
def test_whatever_can_be_used_has_a_name(browser):
    for tab in ("Webcam", "Photo"):
        open_tab(browser, tab)
        browser.call("Accessibility.enable")
        nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
        used = [node for node in nodes if node.get("role", {}).get("value") in ("button", "checkbox", "tab")]
        names = [node.get("name", {}).get("value", "").strip() for node in used]
        assert len(names) > 10 and all(names), names


@needs_browser
def test_the_webcam_is_followed_until_it_is_stopped(browser):
    open_tab(browser, "Webcam")
    for _ in range(3):  # by keyboard, from the tab's title
        if browser.run("document.activeElement.closest('#webcam') !== null"):
            break
        browser.press("Tab")
    browser.press(" ")
    browser.wait("document.querySelector('#webcam .rate').textContent.endsWith(' frames/s')")
    assert browser.run("document.querySelector('#webcam .says').textContent") == "1 face."
    rate = float(browser.run("document.querySelector('#webcam .rate').textContent").split()[0])
    assert rate > 0 and browser.run("document.querySelectorAll('#webcam tbody tr').length") == 1
    picture = "document.querySelector('#webcam img')"
    assert browser.run(f"[{picture}.naturalWidth, {picture}.naturalHeight]") == [320, 320]
    choose(browser, ["tophat", page.POSE])
    browser.wait(f"{picture}.alt.startsWith('The picture with pose, top hat; face 0: ')")
    browser.press(" ")
    browser.wait("document.querySelector('#webcam video').srcObject === null")
    assert browser.run("document.querySelector('#webcam button').textContent") == "Start the webcam"


@needs_browser
def test_leaving_the_tab_lets_the_webcam_go(browser):
    open_tab(browser, "Webcam")
    browser.run("document.querySelector('#webcam button').click()")
    browser.wait("document.querySelector('#webcam .rate').textContent")
    browser.run("window.tracks = document.querySelector('#webcam video').srcObject.getTracks()")
    open_tab(browser, "Photo")
    browser.wait("tracks.every((track) => track.readyState === 'ended')")


@needs_browser
def test_a_webcam_that_is_refused_is_explained(browser, server):
    browser.allow_webcam(server.address, False)
    open_tab(browser, "Webcam")
    browser.run("document.querySelector('#webcam button').click()")
    browser.wait("document.querySelector('#webcam .says').textContent.includes('does not let this page use')")
    assert browser.run("document.querySelector('#webcam button').textContent") == "Start the webcam"


@needs_browser
@pytest.mark.parametrize("tab", ["Photo", "Webcam"])
def test_a_phone_shows_all_of_it(browser, tab):
    browser.resize(375, 740)
    open_tab(browser, tab)
    if tab == "Webcam":
        browser.run("document.querySelector('#webcam button').click()")
        browser.wait("document.querySelector('#webcam table')")
    assert browser.run("document.documentElement.scrollWidth") == 375
    wide = "(e) => e.offsetParent && e.getBoundingClientRect().right > 376"
    assert browser.run(f"[...document.querySelectorAll('body *')].filter({wide}).map((e) => e.outerHTML)") == []


@needs_browser
def test_nothing_leaves_the_machine(browser, server):
    elsewhere = [url for url in browser.requests if not url.startswith((server.address, "data:", "blob:"))]
    assert len(browser.requests) > 20 and set(elsewhere) <= {"about:blank"}
    family = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
    connections = [connection for process in family for connection in process.net_connections("inet")]
    assert {c.laddr.ip for c in connections if c.status == "LISTEN"} == {"127.0.0.1"}
    assert {c.raddr.ip for c in connections if c.raddr} <= {"127.0.0.1"}


@needs_browser
def test_the_browser_itself_refuses_to_send_anything_elsewhere(browser):
    other = "http://127.0.0.1:9/"  # not the page's port, and nobody is there
    blocked = browser.run(f"""new Promise((tell) => {{
      addEventListener("securitypolicyviolation", (event) => tell(event.blockedURI));
      fetch("{other}").catch(() => setTimeout(() => tell("was asked"), 1000));
    }})""")
    assert blocked.startswith("http://127.0.0.1:9")
    browser.wait("true")
    browser.complaints.clear()  # it says so in the console, too


@needs_browser
@pytest.mark.skipif(sys.platform != "linux", reason="all of 127.0.0.0/8 is this machine on Linux alone")
def test_another_address_of_the_machine_is_refused(server):
    port = int(server.address.rsplit(":", 1)[1])
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5)
