"""A page to play with: `make demo`, or ``.venv-demo/bin/python -m demo [--port N] [--model FILE]``.

A photo or the webcam goes in, keypoints, pose, expression and filters come out. The page is served on 127.0.0.1 and to
nobody else; :class:`OnlyHere` has the browser refuse whatever would leave the machine. An uploaded file is deleted once
it was read, a webcam's frames never become files.

``page.js`` is the webcam: it sends a frame, shows the answer, and only then sends the next, so that no frames pile up.
Gradio's own webcam sends them at a fixed rate, and says nothing where the browser refuses the camera.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import html
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from time import perf_counter, sleep, time
from urllib.parse import urlsplit

import cv2
import numpy as np

from data_load import DATA_DIR
from keypoints import drawing, filters
from keypoints.detection import KeypointDetector
from keypoints.expression import UNSURE, Emotion, Expressions
from keypoints.images import decode_image, read_image
from keypoints.tracking import LOST, FaceTracker, TrackedFace

HERE = "127.0.0.1"
PORT = 7860
LARGEST_PHOTO, LARGEST_FRAME = 1600, 640  # pixels of the longer side; larger ones are shrunk
LARGEST_UPLOAD = 50_000_000  # bytes
LARGEST_MESSAGE = 4_000_000  # bytes of any other request: a webcam's frame has some 100,000
JPEG = "data:image/jpeg;base64,"  # how the address of one begins that is its own content
QUALITY = 88  # of the JPEGs that are shown
VISITORS = 8  # webcams that are followed at the same time; the one that was silent longest gives way
REMEMBERED = 900  # seconds for which a photo can be dressed anew
CLEAN_UP = 60  # seconds after which an upload is deleted that broke off or that nobody asked about
POINTS, POSE, EXPRESSION = "keypoints", "pose", "expression"
PHOTO_DIR = DATA_DIR / "photos"
PHOTOS = {"Eileen Collins": "astronaut.jpg", "Grace Hopper": "grace_hopper.jpg"}
NAMES = {"tophat": "top hat"}  # what a filter is called, where not as its file
HEADER = """<header><h1>Facial keypoints</h1>
<p>Finds the 68 keypoints of each face, how its head is turned and which expression it poses. Nothing leaves this
machine, and no picture is kept. Not made to identify or to judge people.</p></header>"""
WEBCAM = """<div class="start"><button type="button">Start the webcam</button> <span class="rate"></span></div>
<video muted playsinline hidden></video><img hidden alt="">
<p class="says" role="status"></p><div class="table"></div>"""
LEGEND = """<dl class="legend"><dt>Yaw</dt><dd>above 0: the nose to the left of the picture</dd>
<dt>Pitch</dt><dd>above 0: looking up</dd><dt>Roll</dt><dd>above 0: tilted clockwise</dd>
<dt>Expression</dt><dd>as the points lie; what somebody feels is another matter</dd>
<dt>Sure</dt><dd>how probable it is that a point is off by less than 5&nbsp;% of the face's size</dd>
<dt>Webcam</dt><dd>shown as in a mirror</dd></dl>"""
# Gradio's 50 to 950; 500 and up carry white text and are read on white: both with a contrast of 5 and more.
ORANGE = ["#fff7ed", "#ffedd5", "#fed7aa", "#fdba74", "#fb923c"]
ORANGE += ["#c2410c", "#b23a0a", "#9a3412", "#7c2d12", "#6b2710", "#431407"]
# Before Gradio is imported: no statistics, no look for a newer version, no model hub.
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "NO_PROXY": f"{HERE},localhost",
}
# Gradio's templates are functions made of text, hence unsafe-eval; all of it comes from this server.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; "
    "object-src 'none'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, eq=False)
class Seen:
    """A picture, (H, W, 3) uint8 RGB, its faces, and their expressions by id."""

    image: np.ndarray
    faces: list[TrackedFace]
    emotions: dict[int, Emotion | None]


class Viewer:
    """Looks at the frames of one video, or at one photo, which is a video of one frame."""

    def __init__(self, detector: KeypointDetector) -> None:
        self._track, self._read = FaceTracker(detector), Expressions()

    def __call__(self, image: np.ndarray, time: float = 0.0) -> Seen:
        """The next frame, (H, W, 3) uint8 RGB, and when it was taken, seconds."""
        faces = self._track(image, time)
        return Seen(image, faces, self._read(faces))


def viewers(detector: KeypointDetector) -> Callable[[str], Viewer]:
    """A :class:`Viewer` for each webcam, by a key that its page makes up; no more than :data:`VISITORS` are kept."""
    return lru_cache(VISITORS)(lambda visitor: Viewer(detector))


def shrink(image: np.ndarray, largest: int) -> np.ndarray:
    """The image with a longer side of at most ``largest`` pixels.

    >>> shrink(np.zeros((300, 900, 3), np.uint8), 600).shape
    (200, 600, 3)
    """
    height, width = image.shape[:2]
    scale = largest / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def draw(seen: Seen, worn: Sequence[str], shown: Sequence[str]) -> np.ndarray:
    """The picture with filters by name, and with those of POINTS, POSE and EXPRESSION that are asked for."""
    picture = filters.dress(seen.image, [face for face in seen.faces if face.state != LOST], worn)
    if not shown:
        return picture
    words = {number: emotion.label for number, emotion in seen.emotions.items() if emotion}
    words = words if EXPRESSION in shown else {}
    return drawing.draw_tracked(picture, seen.faces, points=POINTS in shown, pose=POSE in shown, words=words)


def sentence(seen: Seen) -> str:
    """How many faces were found."""
    found = sum(face.state != LOST for face in seen.faces)
    return f"{found} face{'s' * (found != 1)}." if found else "No face was found in this picture."


def table(seen: Seen) -> str:
    """A row a face, in HTML: how it is turned, its expression, how sure the network is of its points."""
    if not seen.faces:
        return ""
    head = "".join(f'<th scope="col">{word}</th>' for word in ("Face", "Yaw", "Pitch", "Roll", "Expression", "Sure"))
    rows = "".join(f"<tr>{_row(face, seen.emotions[face.id])}</tr>" for face in seen.faces)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _row(face: TrackedFace, emotion: Emotion | None) -> str:
    number = f'<th scope="row">{face.id}</th>'
    if face.state == LOST:
        return f'{number}<td colspan="5">not seen</td>'
    turn = face.pose.yaw, face.pose.pitch, face.pose.roll
    angles = "".join(f"<td>{angle:.0f}°</td>".replace("-0°", "0°") for angle in turn).replace("-", "−")
    said = "–"  # the free weights read no expression
    if emotion:
        word = f"{UNSURE}, {emotion.likeliest}" if emotion.label == UNSURE else emotion.label
        said = f"{word} {100 * emotion.probability:.0f}\N{NO-BREAK SPACE}%"
    sure = "–" if face.confidence is None else f"{100 * float(np.mean(face.confidence)):.0f}\N{NO-BREAK SPACE}%"
    return f"{number}{angles}<td>{said}</td><td>{sure}</td>"


def alt_text(seen: Seen, worn: Sequence[str], shown: Sequence[str]) -> str:
    """What a picture shows, for those who don't see it."""
    faces = [f"face {number}: {emotion.label}" for number, emotion in seen.emotions.items() if emotion]
    added = [*shown, *(NAMES.get(name, name) for name in worn)] if faces else []
    return f"The picture with {', '.join(added) or 'nothing added'}; {', '.join(faces) or 'no face'}."


def picture_url(picture: np.ndarray) -> str:
    """RGB uint8 as an address that holds it as a JPEG: nothing lies on the disk."""
    data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return JPEG + base64.b64encode(data).decode()


def photo_html(seen: Seen | None, worn: Sequence[str], shown: Sequence[str], says: str = "") -> str:
    """The stage of the photo's tab: a picture, a sentence and a table; without a picture the sentence alone."""
    says = f'<p class="says" role="status">{html.escape(says or (sentence(seen) if seen else ""))}</p>'
    if seen is None:
        return says
    height, width = seen.image.shape[:2]
    source, alt = picture_url(draw(seen, worn, shown)), html.escape(alt_text(seen, worn, shown))
    return f'<img src="{source}" alt="{alt}" width="{width}" height="{height}">{says}{table(seen)}'


def read_photo(path: str | Path) -> np.ndarray:
    """An uploaded file as an image of at most :data:`LARGEST_PHOTO` pixels; the file is deleted.

    Raises:
        ValueError: the sentence to show, with the file's name but not its folder.
    """
    path = Path(path)
    try:
        return shrink(read_image(path), LARGEST_PHOTO)
    except OSError as error:
        raise ValueError(f"{path.name}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), path.name)) from None
    finally:
        path.unlink(missing_ok=True)


def read_frame(url: object) -> np.ndarray:
    """A frame as the page sends it, of :func:`picture_url`'s kind.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(url, str) or not url.startswith(JPEG) or len(url) > LARGEST_UPLOAD:
        raise ValueError("got a frame that is no JPEG, expected one from the webcam")
    try:
        data = base64.b64decode(url.removeprefix(JPEG))
    except ValueError:
        raise ValueError("got a frame that does not decode, expected a JPEG") from None
    return shrink(decode_image(data, "the webcam's frame"), LARGEST_FRAME)


def sweep(folder: str | Path, age: float = CLEAN_UP) -> None:
    """Delete what lies in a folder of uploads and was not written to for ``age`` seconds: uploads that broke off."""
    until = time() - age
    for path in sorted(Path(folder).rglob("*"), reverse=True):  # what is in a folder before the folder
        with contextlib.suppress(OSError):  # it is gone, or the folder is not empty
            if path.lstat().st_mtime < until:
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def choices_of(frame: object) -> tuple[str, list[str], list[str]]:
    """Who sends a frame, which known filters are worn, and what is shown of POINTS, POSE and EXPRESSION.

    Raises:
        TypeError: the frame is of another kind than page.js sends.
    """
    if not isinstance(frame, dict):
        raise TypeError(f"got a frame of type {type(frame).__name__}, expected an object")
    visitor, worn, shown = frame.get("visitor"), frame.get("worn") or [], frame.get("shown") or []
    lists = isinstance(worn, list) and isinstance(shown, list)
    if not isinstance(visitor, str) or not lists or not all(isinstance(word, str) for word in (*worn, *shown)):
        raise TypeError("got a frame whose choices are of another type, expected a visitor and lists of names")
    known = filters.filter_names()
    worn = [name for name in dict.fromkeys(worn) if name in known]
    return visitor, worn, [word for word in (POINTS, POSE, EXPRESSION) if word in shown]


class _TooMuch(Exception):
    """A body is larger than what Content-Length said, or than what is read."""


class OnlyHere:
    """ASGI middleware: answers this machine's own page alone, and tells the browser to stay here.

    Another name in ``Host`` means that a name outside was made to point here, another ``Origin`` that some other page
    asks. Gradio would also fetch a file of an address for whoever asks; that is refused as well, and so is a body that
    is larger than the page ever sends.
    """

    def __init__(self, app) -> None:
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        if not self.welcome(scope):
            if scope["type"] == "websocket":
                return await send({"type": "websocket.close", "code": 1008})
            return await self.refuse(send, 403, "this page answers the browser of its own machine only")
        if scope["type"] == "websocket":
            return await self.app(scope, receive, send)
        headers, limit = self.headers(scope), self.limit(scope)
        if headers.get("content-type", "").startswith("multipart") and limit == LARGEST_MESSAGE:
            return await self.refuse(send, 400, "this page takes files as uploads only")  # they would stay on the disk
        told = headers.get("content-length", "0")
        if not told.isdecimal() or int(told) > limit:
            return await self.refuse(send, 413, f"got {told[:20]} bytes, expected at most {limit}")
        started, gone, sum_of_bytes = False, False, 0

        async def counted():
            nonlocal gone, sum_of_bytes
            message = await receive()
            gone = gone or message["type"] == "http.disconnect"
            sum_of_bytes += len(message.get("body", b""))
            if sum_of_bytes > limit:
                raise _TooMuch
            return message

        async def watched(message) -> None:
            nonlocal started
            if sum_of_bytes <= limit:  # what the app makes of the error is not sent
                started = True
                await send(message)

        try:
            await self.app(scope, counted, self.strict(watched))
        except _TooMuch:
            pass
        except Exception as error:
            if gone:  # an upload broke off, and nobody waits for an answer
                return
            # Gradio raises these for a component or a function that it does not have.
            call = scope["path"].rstrip("/").endswith("/component_server")
            if started or not call or not isinstance(error, (KeyError, TypeError)):
                raise
            await self.refuse(send, 400, "got a call of something unknown")
        if sum_of_bytes > limit and not started:
            await self.refuse(send, 413, f"got more than {limit} bytes, expected fewer")

    @staticmethod
    def headers(scope) -> dict[str, str]:
        return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}

    @staticmethod
    def limit(scope) -> int:
        """The largest body, bytes: that of an upload has some bytes around the file."""
        return LARGEST_UPLOAD + 1_000_000 if scope["path"].rstrip("/").endswith("/upload") else LARGEST_MESSAGE

    @staticmethod
    async def refuse(send, status: int, why: str) -> None:
        head = {"type": "http.response.start", "status": status}
        await send({**head, "headers": [(b"content-type", b"text/plain"), (b"connection", b"close")]})
        await send({"type": "http.response.body", "body": why.encode()})

    @classmethod
    def welcome(cls, scope) -> bool:
        headers = cls.headers(scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            named = urlsplit(f"//{host}").hostname in (HERE, "localhost")
        except ValueError:  # '[::1', for example
            return False
        elsewhere = any(f"{word}=http" in scope["path"] for word in ("file", "proxy"))
        return named and origin in (None, f"http://{host}") and not elsewhere

    @staticmethod
    def strict(send):
        async def send_with_policy(message) -> None:
            if message["type"] == "http.response.start":
                own = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        return send_with_policy


def build(detector: KeypointDetector):
    """The page, a ``gradio.Blocks``; its folder for uploads is that of GRADIO_TEMP_DIR."""
    import gradio as gr
    from gradio import route_utils
    from starlette.exceptions import HTTPException

    class Upload(route_utils.GradioUploadFile):
        """Gradio names uploads by their content: the same photo in two tabs would be one file, deleted by the first."""

        def __init__(self, *args, **options) -> None:
            super().__init__(*args, **options)
            self.sha.update(os.urandom(16))

    route_utils.GradioUploadFile = Upload
    busy, viewer_of = threading.Lock(), viewers(detector)

    def photo(image: np.ndarray, worn: list[str], shown: list[str]) -> tuple[Seen, str]:
        with busy:
            seen = Viewer(detector)(image)
            return seen, photo_html(seen, worn, shown)

    def take(path: str | None, worn: list[str], shown: list[str]):
        """An upload; the box for it is empty again at once."""
        if path is None:
            return None, gr.skip(), gr.skip()
        try:
            return None, *photo(read_photo(path), worn, shown)
        except ValueError as error:
            return None, None, photo_html(None, worn, shown, str(error))

    def again(seen: Seen | None, worn: list[str], shown: list[str]):
        if seen is None:
            return gr.skip()
        with busy:
            return photo_html(seen, worn, shown)

    def look(frame: dict) -> dict:
        """What page.js asks for each frame of the webcam."""
        try:
            visitor, worn, shown = choices_of(frame)
        except TypeError as error:
            raise HTTPException(400, str(error)) from None
        try:
            image = read_frame(frame.get("picture"))
            with busy:
                seen = viewer_of(visitor)(image, perf_counter())
                picture = picture_url(draw(seen, worn, shown))
            return {
                "picture": picture,
                "alt": alt_text(seen, worn, shown),
                "says": sentence(seen),
                "table": table(seen),
            }
        except ValueError as error:
            return {"says": str(error)}

    with gr.Blocks(title="Facial keypoints", analytics_enabled=False, delete_cache=(CLEAN_UP, CLEAN_UP)) as page:
        gr.HTML(HEADER, js_on_load=None)
        with gr.Row(elem_id="page"):
            with gr.Column(scale=3, min_width=320), gr.Tabs():
                with gr.Tab("Photo"):
                    seen = gr.State(None, time_to_live=REMEMBERED)
                    with gr.Row(elem_id="sources"):
                        upload = gr.Image(
                            label="Photo", sources=["upload", "clipboard"], height=132, buttons=[], scale=4
                        )
                        # Gradio must not open it: what is wrong with a file is ours to say.
                        upload.preprocess = lambda payload: payload and payload.path
                        with gr.Column(scale=1, min_width=170, elem_id="examples"):
                            samples = {
                                name: gr.Button(name, size="md", icon=PHOTO_DIR / file) for name, file in PHOTOS.items()
                            }
                    stage = gr.HTML(elem_id="photo", elem_classes="stage", js_on_load=None)
                with gr.Tab("Webcam"):
                    gr.HTML(
                        html_template=WEBCAM,
                        js_on_load=Path(__file__).with_suffix(".js").read_text(encoding="utf-8"),
                        server_functions=[look],
                        elem_id="webcam",
                        elem_classes="stage",
                    )
            with gr.Column(scale=1, min_width=240, elem_id="choices"):
                choices = [(NAMES.get(name, name).capitalize(), name) for name in filters.filter_names()]
                worn = gr.CheckboxGroup(choices, label="Wear", elem_id="worn")
                showable = [(word.capitalize(), word) for word in (POINTS, POSE, EXPRESSION)]
                shown = gr.CheckboxGroup(showable, value=[POINTS, EXPRESSION], label="Show", elem_id="shown")
                gr.HTML(LEGEND, js_on_load=None)
        first = next(iter(samples.values()))
        private = {"api_visibility": "private", "show_progress": "hidden"}
        upload.upload(take, [upload, worn, shown], [upload, seen, stage], **private)
        for name, button in samples.items():
            sample = partial(photo, read_image(PHOTO_DIR / PHOTOS[name]))
            opens = [page.load] if button is first else []  # the page begins with a picture
            gr.on([*opens, button.click], sample, [worn, shown], [seen, stage], **private)
        changed = [worn.change, shown.change]
        gr.on(changed, again, [seen, worn, shown], stage, trigger_mode="always_last", **private)
        remember = "(worn, shown) => { window.chosen = {worn, shown}; }"
        gr.on([page.load, *changed], None, [worn, shown], js=remember)
    return page


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m demo", description="Serve a page to play with.")
    parser.add_argument("--port", type=int, default=PORT, help=f"on {HERE}; by default {PORT}")
    parser.add_argument("--model", type=Path, help="a network's ONNX file (default: the one that comes along)")
    options = parser.parse_args(arguments)
    os.environ.update(QUIET)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the folder of uploads goes with the page
    try:
        with tempfile.TemporaryDirectory(prefix="keypoints-page-") as uploads:
            os.environ["GRADIO_TEMP_DIR"] = uploads
            serve(KeypointDetector(options.model), options.port)
    except KeyboardInterrupt:
        return 0
    except ImportError as error:
        print(f"keypoints page: {error}; 'make demo' sets up an environment with it", file=sys.stderr)
    except (OSError, ValueError) as error:
        print(f"keypoints page: {error}", file=sys.stderr)
    return 2


def serve(detector: KeypointDetector, port: int) -> None:
    """Serve the page until Ctrl-C."""
    page = build(detector)
    import gradio as gr
    from starlette.middleware import Middleware

    fonts = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]  # the machine's own, not from the network
    page.queue(default_concurrency_limit=2).launch(
        server_name=HERE,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        ssr_mode=False,
        pwa=False,
        run_history=False,
        enable_monitoring=False,
        footer_links=[],
        max_file_size=LARGEST_UPLOAD,
        app_kwargs={"middleware": [Middleware(OnlyHere)]},
        theme=gr.themes.Soft(primary_hue=gr.themes.Color(*ORANGE), font=fonts[0], font_mono=fonts[1]),
        css_paths=Path(__file__).with_suffix(".css"),
    )
    print(f"the page: http://{HERE}:{port} (Ctrl-C ends it)", flush=True)
    try:
        while True:
            sleep(CLEAN_UP / 2)
            sweep(os.environ["GRADIO_TEMP_DIR"])
    finally:
        page.close(verbose=False)


if __name__ == "__main__":
    sys.exit(main())
