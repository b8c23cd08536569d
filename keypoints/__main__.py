"""Command line: ``python -m keypoints detect|track|filter``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from keypoints import __version__
from keypoints.command import run


def _run(options: argparse.Namespace) -> int:
    from keypoints import commands  # only here: it loads OpenCV and onnxruntime, which --help does without

    return getattr(commands, f"run_{options.command}")(options)


# fmt: off
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="keypoints", description="Find faces and their 68 keypoints.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--threads", type=int, help="threads of a network (default: 1)")
    parser.set_defaults(run=_run, set_threads=lambda number: import_module("cv2").setNumThreads(number))
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str, more: str) -> Callable:
        add = commands.add_parser(name, help=text, description=more).add_argument
        which = "a network's ONNX file, or 'free': weights for any purpose, without expressions (default: our own)"
        add("--model", type=Path, metavar="FILE", help=which)
        add("--detector", default="network", metavar="NAME",
            help="how faces are found: 'network' (the default), 'fast' (the same on a small image: a tenth of the "
            "time, no small faces) or 'haar' (OpenCV's cascade)")
        if name != "filter":
            add("--no-emotion", action="store_true", help="leave out the expression and its probability")
        return add

    add = command(
        "detect", "find the faces in images", "Find the faces in images: a line a face on standard output.",
    )
    add("images", nargs="+", metavar="IMAGE", help="files, folders, patterns such as '*.jpg'")
    add("--csv", type=Path, metavar="FILE",
        help="write file, face, box, keypoints, pose and emotion, a row a face; meanwhile FILE.part grows, and stays "
        "where the command is interrupted")
    add("--json", type=Path, metavar="FILE",
        help="write the same as --csv, confidence and score, as JSON lines: an object a face")
    add("--draw", type=Path, metavar="DIR", help="write each image with its faces drawn in")

    add = command(
        "track", "follow the faces of a video or a camera",
        "Follow the faces of a video or a camera, with steady points and ids. Ctrl-C finishes the files.",
    )
    add("source", metavar="SOURCE", help="a video file, the number of a camera, or a stream's address")
    add("--out", type=Path, metavar="VIDEO",
        help="write the video with the faces drawn in, and the source's sound: .mp4 or .mov (H.264) or .webm (VP9); it "
        "has its name once it is whole")
    add("--csv", type=Path, metavar="FILE",
        help="write frame, time, id, state, box, keypoints, pose, emotion, blink and mouth_open, a row a face; "
        "meanwhile FILE.part grows, at most a second behind, and stays where the command is killed")
    add("--filter", nargs="+", metavar="NAME", help="wear these instead of points; see filter --list")
    add("--pose", action="store_true", help="draw the head's axes, too")
    add("--show", action="store_true", help="show it in a window; q ends it")

    add = command(
        "filter", "put sunglasses, a hat or a smile on the faces of an image",
        "Put a filter on every face of images. Without a face the picture is written as it was. PNG and WebP keep "
        "their transparency.",
    )
    add("images", nargs="*", metavar="IMAGE", help="files, folders of them, or patterns such as '*.jpg'")
    add("--filter", nargs="+", metavar="NAME", help="one or more, by name or .json file; see --list")
    add("--list", action="store_true", help="list the filters and stop")
    add("--out", type=Path, metavar="FILE", help="picture, or folder for several (default: IMAGE_NAME beside each)")
    return parser
# fmt: on


def main(arguments: list[str] | None = None) -> int:
    return run("keypoints", _parser(), arguments)


def command() -> None:
    """The installed command ``keypoints``."""
    sys.exit(main())


if __name__ == "__main__":
    command()
