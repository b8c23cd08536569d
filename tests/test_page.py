"""The page: its functions, and all of it in Chromium where there is one beside .venv-demo."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from time import sleep
from urllib.request import urlopen

import cv2
import numpy as np
import psutil
import pytest
from helpers import HOPPER, SHIPPED, file_names, png_head, refused

from data_load import read_image
from demo import page
from keypoints.detection import KeypointDetector
from keypoints.tracking import LOST
from training.studies.browser import Browser, find_chromium, write_camera
from training.studies.page import CLIP, DEMO, choose, frames_per_second, open_tab, served

ALL = [page.POINTS, page.POSE, page.EXPRESSION]


@pytest.fixture(scope="module")
def detector() -> KeypointDetector:
    return KeypointDetector(SHIPPED)


@pytest.fixture(scope="module")
def hopper(detector) -> page.Seen:
    return page.Viewer(detector)(read_image(HOPPER))


# Its functions --------------------------------------------------------------------------------------------------------


def test_photo_has_the_faces_of_the_detector(detector, hopper):
    [face], [expected] = hopper.faces, detector(HOPPER)
    np.testing.assert_array_equal(face.keypoints, expected.keypoints)
    assert hopper.emotions[face.id].probabilities == pytest.approx(expected.emotion.probabilities)


def test_each_choice_changes_the_image_and_none_leaves_it(hopper):
    assert page.draw(hopper, [], []) is hopper.image
    images = [page.draw(hopper, [], [word]) for word in ALL] + [page.draw(hopper, ["sunglasses"], [])]
    assert all((image != hopper.image).any() for image in images)
    assert all((a != b).any() for i, a in enumerate(images) for b in images[:i])


def test_table_sentence_and_alt_text_describe_each_face(hopper):
    assert page.sentence(hopper) == "1 face."
    table, face, emotion = page.table(hopper), hopper.faces[0], hopper.emotions[0]
    assert table.count("<tr>") == 2
    assert f"{emotion.likeliest} {100 * emotion.probability:.0f}\N{NO-BREAK SPACE}%" in table
    assert int(re.search(r"<td>(−?\d+)°", table)[1].replace("−", "-")) == round(face.pose.yaw)
    unread = page.table(page.Seen(hopper.image, [face], {face.id: None}))  # as with the free weights
    assert "not seen" not in unread and f"{abs(face.pose.pitch):.0f}°" in unread and "<td>–</td>" in unread
    gone = page.table(page.Seen(hopper.image, [replace(face, state=LOST)], {face.id: None}))
    assert "not seen" in gone
    nobody = page.Seen(hopper.image, [], {})
    assert page.sentence(nobody) == "No face was found in this picture." and page.table(nobody) == ""
    text = page.alt_text(hopper, ["tophat"], [page.POSE])
    assert text == f"The picture with pose, top hat; face 0: {emotion.label}."


def test_upload_is_deleted_whether_it_can_be_read_or_not(tmp_path):
    shutil.copy(HOPPER, tmp_path / "her.jpg")
    assert max(page.read_photo(tmp_path / "her.jpg").shape) <= page.LARGEST_PHOTO
    (tmp_path / "<b>.jpg").write_bytes(b"no image")
    with refused(r"^<b>.jpg: expected an image, got 8 bytes") as error:
        page.read_photo(tmp_path / "<b>.jpg")
    assert file_names(tmp_path) == [] and "<b>" not in page.photo_html(None, [], [], str(error.value))


def test_large_images_are_shrunk(tmp_path):
    cv2.imwrite(str(tmp_path / "large.png"), np.zeros((4000, 1000, 3), np.uint8))
    assert page.read_photo(tmp_path / "large.png").shape == (1600, 400, 3)
    assert page.read_frame(page.picture_url(np.zeros((400, 1280, 3), np.uint8))).shape == (200, 640, 3)


def as_frame(data: bytes) -> str:
    return page.JPEG + base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        *((frame, "expected") for frame in (None, "file:///etc/passwd", page.JPEG, page.JPEG + "no base64")),
        (as_frame(b"AAA"), "expected"),
        (as_frame(png_head(11_500, 11_500)), "^the webcam's frame: .*got .*132,250,000 pixels"),
        (as_frame(png_head(1, 1)[:8] + b"\x7f" * 9), "^the webcam's frame: .*got .*17 bytes"),
    ],
)
def test_bad_frame_is_refused(frame, sentence):
    with refused(sentence):
        page.read_frame(frame)


def test_picture_url_holds_the_image(hopper):
    again = page.read_frame(page.picture_url(page.shrink(hopper.image, 400)))
    assert np.abs(again.astype(int) - page.shrink(hopper.image, 400)).mean() < 4


def test_each_webcam_has_its_own_faces_and_the_oldest_is_dropped(detector):
    viewer_of = page.viewers(detector)
    first, other = viewer_of("first"), viewer_of("other 0")
    for number in range(1, page.VISITORS - 1):
        viewer_of(f"other {number}")
    assert viewer_of("first") is first
    viewer_of("one more")  # "other 0" was silent longest
    assert viewer_of("first") is first and viewer_of("other 0") is not other


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
        ("[::1", None, "/", 403),  # urlsplit raises
        ("[::1]:7860", None, "/", 403),
        ("127.0.0.1:port", None, "/", 200),
        ("127.0.0.1]", None, "/", 403),
        ("\xff", "\xff", "/", 403),
    ],
)
def test_only_requests_of_this_machine_are_answered(host, origin, path, status):
    headers = {"host": host} | ({"origin": origin} if origin else {})
    [start, *_] = exchange([], path, headers)[0]
    assert start["status"] == status
    assert status == 403 or b"default-src 'self'" in dict(start["headers"])[b"content-security-policy"]


def exchange(
    body: list[bytes], path: str, headers: dict[str, str], error: type[Exception] | None = None, kind: str = "http"
) -> tuple[list[dict], int]:
    """What OnlyHere sends, and how many bytes the app behind it gets; without a body the client disconnects."""
    sent, read, parts = [], [], iter(body)

    async def app(scope, receive, send):
        while data := (await receive()).get("body"):
            read.append(len(data))
        if error:
            raise error
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive():
        return {"type": "http.request", "body": next(parts, b"")} if body else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    lines = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    asyncio.run(page.OnlyHere(app)({"type": kind, "path": path, "headers": lines}, receive, send))
    return sent, sum(read)


UPLOAD = "/gradio_api/upload"


def ask(body: list[bytes], path: str = "/gradio_api/component_server", error=None, **headers) -> tuple[int, int]:
    """The status of a request from this machine, and how many bytes of it were read."""
    sent, read = exchange(body, path, {"host": "localhost", **headers}, error)
    assert [message["type"] for message in sent].count("http.response.start") == 1
    return sent[0]["status"], read


def test_large_body_is_refused_by_its_length_and_while_it_comes():
    assert ask([b"x" * 1000], content_length="1000") == (200, 1000)
    assert ask([b"x"], content_length="500000000") == ask([b"x"], content_length="-1") == (413, 0)
    status, read = ask([b"x" * 100_000] * 5000)  # chunked, without a length
    assert status == 413 and read <= page.LARGEST_MESSAGE
    assert ask([b"x" * 100_000] * 300, UPLOAD) == (200, 30_000_000)
    assert ask([b"x" * 100_000] * 900, UPLOAD)[0] == 413
    assert ask([b"x"], UPLOAD, content_length=str(page.LARGEST_UPLOAD + 2_000_000)) == (413, 0)


def test_files_come_as_uploads_only():
    form = {"content_type": "multipart/form-data; boundary=a"}
    assert ask([b"x"], **form) == (400, 0) and ask([b"x"], UPLOAD, **form)[0] == 200


def test_errors_of_requests():
    assert ask([b"{}"], error=KeyError)[0] == 400  # a call of what does not exist
    with pytest.raises(KeyError):
        ask([b"{}"], "/gradio_api/queue/join", error=KeyError)
    disconnected = exchange([], UPLOAD, {"host": "localhost"}, RuntimeError)  # Starlette's ClientDisconnect
    assert disconnected == ([], 0)
    websocket = exchange([], "/", {"host": "attacker.example"}, kind="websocket")
    assert websocket == ([{"type": "websocket.close", "code": 1008}], 0)


@pytest.mark.parametrize(
    "frame",
    [
        *(None, 5, "text", [], {}, {"visitor": {}}, {"worn": ["cat"]}),
        *({"visitor": "a", "worn": 5}, {"visitor": "a", "worn": [["cat"]]}),
        *({"visitor": "a", "shown": {"a": 1}}, {"visitor": "a", "shown": [1]}),
    ],
)
def test_frame_of_other_types_is_refused(frame):
    with pytest.raises(TypeError, match=r"^got a frame .*, expected "):
        page.choices_of(frame)


def test_unknown_and_repeated_choices_are_left_out():
    worn = ["cat", "nothing", "sunglasses"] * 700
    frame = {"visitor": "a", "worn": worn, "shown": ["expression", "x", "keypoints"] * 9}
    assert page.choices_of(frame) == ("a", ["cat", "sunglasses"], [page.POINTS, page.EXPRESSION])
    assert page.choices_of({"visitor": "a"}) == ("a", [], [])


def test_old_uploads_are_swept(tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("part", "folder/old.jpg", "new"):
        (tmp_path / name).write_bytes(b"x")
    for path in (tmp_path / "part", tmp_path / "folder" / "old.jpg"):
        os.utime(path, (1, 1))
    page.sweep(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", "new"]
    os.utime(tmp_path / "folder", (1, 1))
    page.sweep(tmp_path)
    page.sweep(tmp_path / "none")
    assert [file.name for file in tmp_path.iterdir()] == ["new"]


def test_missing_gradio_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(page, "KeypointDetector", lambda model: None)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert page.main([]) == 2
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert "make demo" in capsys.readouterr().err


def test_rate_counts_frames_and_not_gaps():
    class Clock:
        def run(self, script):
            return [0.0, 100.0, 200.0, 400.0]

    figures = frames_per_second(Clock(), seconds=0.0, warm_up=0.0)
    assert figures == pytest.approx({"frames": 4, "frames_per_second": 7.5, "ms_median": 100.0, "ms_95": 190.0})


# In a browser ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def server(folder):
    """The served page; after the last test it ends silently and leaves no file."""
    if not (DEMO / "made").exists():
        pytest.skip("no .venv-demo ('make demo' makes it)")
    with served(folder) as server:
        assert list(folder.glob("keypoints-page-*"))
        yield server
    assert server.log.read_text(encoding="utf-8") == f"the page: {server.address} (Ctrl-C ends it)\n"
    assert server.process.returncode == 0 and not list(folder.glob("keypoints-page-*"))


@pytest.fixture(scope="module")
def chromium(folder):
    if not find_chromium():
        pytest.skip("no Chromium")
    write_camera(CLIP, folder / "clip.mjpeg")
    with Browser(folder / "clip.mjpeg") as browser:
        yield browser


@pytest.fixture
def browser(server, chromium):
    """The page, just opened with its first example; the browser must not complain of anything."""
    chromium.resize(1280, 900)
    chromium.allow_webcam(server.address)
    chromium.page.goto("about:blank")  # the last test's page complains of being left
    chromium.complaints.clear()
    chromium.page.goto(server.address)
    chromium.wait("document.querySelector('#photo table') && window.chosen")
    yield chromium
    # An upload is deleted as soon as it is read; a slow browser may ask for its preview after that.
    gone = re.compile(r"status of 40[34] .*/gradio_api/file=\S*/keypoints-page-")
    complaints = [complaint for complaint in chromium.complaints if not gone.search(complaint)]
    assert not complaints, "\n".join(complaints)


def says(browser: Browser, tab: str, part: str = ".says") -> str:
    return browser.run(f"document.querySelector('#{tab} {part}').textContent")


def photo(browser: Browser) -> str:
    return browser.run("document.querySelector('#photo img')?.src ?? ''")


def upload(browser: Browser, file: Path) -> None:
    """Choose a file and wait until the page shows or says something else."""
    shown = "['img', '.says'].map((name) => document.querySelector('#photo ' + name)?.outerHTML).join()"
    browser.run(f"window.stage = () => {shown}; window.before = stage()")
    browser.page.set_input_files("#sources input[type=file]", file)
    browser.wait("stage() !== before")


def send_raw(server, text: bytes, answer: bool = True) -> bytes:
    """What the server answers to bytes; without ``answer`` the connection is broken off."""
    with socket.create_connection(("127.0.0.1", int(server.address.rsplit(":", 1)[1])), timeout=30) as one:
        one.sendall(text)
        told = b""
        while answer and (part := one.recv(2000)):  # head and body may come apart
            told += part
            head, end, body = told.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
            if end and (not length or len(body) >= int(length[1])):
                break
        return told


def form(name: str, data: bytes, missing: int = 0) -> bytes:
    """A request that uploads a file; its length promises some bytes more than it has."""
    body = b'--a\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n' % name.encode()
    body += data + b"\r\n--a--\r\n"
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body) + missing}\r\n"
    return head.encode() + b"Content-Type: multipart/form-data; boundary=a\r\n\r\n" + (body[:-9] if missing else body)


def test_same_photo_in_several_tabs_is_several_files(server, folder):
    names = {send_raw(server, form("her.jpg", b"the same")).split(b"\r\n\r\n")[1] for _ in range(3)}
    assert len(names) == 3 and all(name.endswith(b'her.jpg"]') for name in names)


def test_interrupted_upload_is_swept(server, folder):
    before = set(folder.rglob("*"))
    send_raw(server, form("her.jpg", b"x" * 100_000, missing=10_000), answer=False)
    for _ in range(100):
        if left := [file for file in set(folder.rglob("*")) - before if file.is_file()]:
            break
        sleep(0.1)
    assert left
    [uploads] = folder.glob("keypoints-page-*")
    page.sweep(uploads, age=-1)
    assert not any(file.exists() for file in left)


def test_malformed_requests_have_statuses_of_their_own(server):
    def post(body: bytes, length: int | None = None, host: str = "localhost") -> bytes:
        head = f"POST /gradio_api/component_server HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body) if length is None else length}\r\n\r\n"
        return send_raw(server, head.encode() + body).split()[1]

    config = json.loads(urlopen(f"{server.address}/config").read())
    [webcam] = [c["id"] for c in config["components"] if c["props"].get("elem_id") == "webcam"]
    call = {"session_hash": "a", "component_id": webcam, "fn_name": "look"}
    for data in (None, 5, "x", [], {"visitor": 1}, {"visitor": "a", "worn": 5}, {"visitor": "a", "shown": [{}]}):
        assert post(json.dumps({**call, "data": data}).encode()) == b"400", data
    assert post(json.dumps({**call, "data": {"visitor": "a"}}).encode()) == b"200"  # a sentence: no frame
    assert post(json.dumps({**call, "component_id": 10**6, "data": {}}).encode()) == b"400"
    assert post(b"", length=500_000_000) == b"413"
    assert post(b"{}", host="[::1") == b"403"


def test_photo_is_drawn_and_described_and_its_file_is_deleted(browser, server, folder):
    before = photo(browser)
    upload(browser, HOPPER)
    assert photo(browser) != before
    assert says(browser, "photo") == "1 face."
    rows = browser.run("[...document.querySelectorAll('#photo tbody tr')].map((row) => row.innerText.split('\\t'))")
    [[number, yaw, *_, sure]] = rows
    assert number == "0" and abs(int(yaw.replace("−", "-").rstrip("°"))) < 15
    assert int(sure.rstrip("\N{NO-BREAK SPACE}%")) > 50
    assert browser.run("document.querySelector('#photo img').alt").startswith("The picture with keypoints, expression;")
    assert not list(folder.rglob(HOPPER.name))
    browser.wait("document.querySelector('#sources input[type=file]')")  # there is room for the next


def test_broken_file_and_photo_without_a_face_end_in_a_sentence(browser, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    upload(browser, tmp_path / "broken.jpg")
    assert says(browser, "photo").startswith("broken.jpg: expected an image, got 10 bytes") and photo(browser) == ""
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((200, 300, 3), 128, np.uint8))
    upload(browser, tmp_path / "grey.png")
    assert "No face was found" in says(browser, "photo")
    assert photo(browser).startswith("data:image/jpeg")


def test_keyboard_is_enough(browser):
    before, seen = photo(browser), []
    for _ in range(30):
        browser.page.keyboard.press("Tab")
        seen.append(browser.run("document.activeElement.name || document.activeElement.innerText"))
        if seen[-1] == "sunglasses":
            break
    assert seen[-1] == "sunglasses", seen
    assert browser.run("getComputedStyle(document.activeElement.closest('label')).outlineStyle") == "solid"
    browser.page.keyboard.press(" ")
    browser.wait(f"document.querySelector('#photo img').src.length !== {len(before)}")
    assert "sunglasses" in browser.run("document.querySelector('#photo img').alt")
    assert any("Grace Hopper" in name for name in seen)


def test_each_control_has_a_name(browser):
    for tab in ("Webcam", "Photo"):
        open_tab(browser, tab)
        browser.call("Accessibility.enable")
        nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
        used = [node for node in nodes if node.get("role", {}).get("value") in ("button", "checkbox", "tab")]
        names = [node.get("name", {}).get("value", "").strip() for node in used]
        assert len(names) > 10 and all(names), names


def test_webcam_is_tracked_until_it_is_stopped(browser):
    open_tab(browser, "Webcam")
    for _ in range(3):  # by keyboard, from the tab's title
        if browser.run("document.activeElement.closest('#webcam') !== null"):
            break
        browser.page.keyboard.press("Tab")
    browser.page.keyboard.press(" ")
    browser.wait("document.querySelector('#webcam .rate').textContent.endsWith(' frames/s')")
    assert says(browser, "webcam") == "1 face."
    rate = float(says(browser, "webcam", ".rate").split()[0])
    assert rate > 0 and browser.run("document.querySelectorAll('#webcam tbody tr').length") == 1
    picture = "document.querySelector('#webcam img')"
    assert browser.run(f"[{picture}.naturalWidth, {picture}.naturalHeight]") == [320, 320]
    choose(browser, ["tophat", page.POSE])
    browser.wait(f"{picture}.alt.startsWith('The picture with pose, top hat; face 0: ')")
    browser.page.keyboard.press(" ")
    browser.wait("document.querySelector('#webcam video').srcObject === null")
    assert says(browser, "webcam", "button") == "Start the webcam"


def test_leaving_the_tab_stops_the_webcam(browser):
    open_tab(browser, "Webcam")
    browser.page.click("#webcam button")
    browser.wait("document.querySelector('#webcam .rate').textContent")
    browser.run("window.tracks = document.querySelector('#webcam video').srcObject.getTracks()")
    open_tab(browser, "Photo")
    browser.wait("tracks.every((track) => track.readyState === 'ended')")


def test_refused_webcam_is_explained(browser, server):
    browser.allow_webcam(server.address, False)
    open_tab(browser, "Webcam")
    browser.page.click("#webcam button")
    browser.wait("document.querySelector('#webcam .says').textContent.includes('does not let this page use')")
    assert says(browser, "webcam", "button") == "Start the webcam"


@pytest.mark.parametrize("tab", ["Photo", "Webcam"])
def test_phone_shows_the_whole_page(browser, tab):
    browser.resize(375, 740)
    open_tab(browser, tab)
    if tab == "Webcam":
        browser.page.click("#webcam button")
        browser.wait("document.querySelector('#webcam table')")
    assert browser.run("document.documentElement.scrollWidth") == 375
    wide = "(e) => e.offsetParent && e.getBoundingClientRect().right > 376"
    assert browser.run(f"[...document.querySelectorAll('body *')].filter({wide}).map((e) => e.outerHTML)") == []


def test_nothing_leaves_the_machine(browser, server):
    elsewhere = [url for url in browser.requests if not url.startswith((server.address, "data:", "blob:"))]
    assert len(browser.requests) > 20 and set(elsewhere) <= {"about:blank"}
    family = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
    connections = [connection for process in family for connection in process.net_connections("inet")]
    assert {c.laddr.ip for c in connections if c.status == "LISTEN"} == {"127.0.0.1"}
    assert {c.raddr.ip for c in connections if c.raddr} <= {"127.0.0.1"}


def test_browser_refuses_to_send_anything_elsewhere(browser):
    other = "http://127.0.0.1:9/"  # not the page's port, and nobody is there
    blocked = browser.run(f"""new Promise((tell) => {{
      addEventListener("securitypolicyviolation", (event) => tell(event.blockedURI));
      fetch("{other}").catch(() => setTimeout(() => tell("was asked"), 1000));
    }})""")
    assert blocked.startswith("http://127.0.0.1:9")
    browser.wait("true")
    browser.complaints.clear()  # it says so in the console, too


@pytest.mark.skipif(sys.platform != "linux", reason="all of 127.0.0.0/8 is this machine on Linux alone")
def test_other_address_of_the_machine_is_refused(server):
    port = int(server.address.rsplit(":", 1)[1])
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5)
