"""Weights in files: :func:`save_model` and :func:`load_model`.

The format is safetensors (https://huggingface.co/docs/safetensors): a JSON header with the name, type and shape of each
tensor, then their bytes. It cannot hold code, and it cannot claim more numbers than the file has.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from keypoints.files import brief, sha256, write_atomically, write_json
from models import NETWORKS, CoarseToFine, FaceDetector, PhotoNet
from training.export import export_onnx

MODEL_DIR = Path(__file__).resolve().parents[1] / "saved_models"
RECIPE_MODEL = MODEL_DIR / "keypoints_model_1.safetensors"  # the course's recipe
DEFAULT_MODEL = MODEL_DIR / "keypoints_model_2.safetensors"  # the network for photographs
MOST_BYTES = 2**26  # of a weights file: eight times the largest network's here
MOST_IN_LIST = 512  # channels or blocks at a stride
ABOUT = "keypoints"  # the one key of the metadata, whose order safetensors does not keep: its value is JSON


def write_tensors(path: str | Path, tensors: dict[str, torch.Tensor], about: dict) -> None:
    """Write named tensors, and ``about``, anything that JSON can hold, as a safetensors file.

    Equal tensors and ``about`` give equal bytes. Memory formats are not kept.

    Raises:
        OSError: it can't be written; no half-written file carries the name.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    data = safetensors.torch.save(tensors, {ABOUT: json.dumps(about)})
    write_atomically(path, lambda part: part.write_bytes(data))


def read_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], Any]:
    """Read what :func:`write_tensors` wrote: named tensors in memory of their own, and ``about``.

    ``about`` is {} for a safetensors file of another program, and any JSON value in a file from a stranger.

    Raises:
        OSError: the file is missing, a folder, or can't be read.
        ValueError: it is a device or a pipe, too large, a file of PyTorch's own format, or damaged.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path}: got a device or a pipe, expected a regular file")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path}: got {path.stat().st_size:,} bytes, expected weights of at most {MOST_BYTES:,}")
    with path.open("rb") as file:
        start = file.read(8)
    small = int.from_bytes(start, "little") <= MOST_BYTES // 64  # a header takes some 25 times its size when it is read
    if not small and start.startswith((b"PK\x03\x04", b"\x80\x02")):
        raise ValueError(
            f"{path}: got a file of torch.save, which could take any amount of memory, expected a safetensors file; "
            f"if you trust it, convert it with 'python -m training.weights {path}'"
        )
    try:
        if not small:
            raise ValueError("a header too large")
        with safetensors.safe_open(path, "pt") as content:
            metadata = content.metadata() or {}
            tensors = {name: content.get_tensor(name).clone() for name in content.keys()}  # noqa: SIM118 (no dict)
        return tensors, json.loads(metadata.get(ABOUT, "{}"))
    except OSError:
        raise
    except (safetensors.SafetensorError, ValueError, RecursionError, TypeError, RuntimeError):
        raise ValueError(f"{path}: expected weights saved by save_model, got another or a damaged file") from None


def save_model(net: nn.Module, path: str | Path, record: dict | None = None) -> None:
    """Write the weights to ``path``, and beside it their record as JSON and the ONNX files.

    ONNX files are for what :mod:`keypoints` runs without PyTorch: a CoarseToFine that has its framing, a PhotoNet, a
    FaceDetector. Other networks are used by ``KeypointDetector(load_model(path))``.

    None of them is ever there half-written.

    Args:
        path: where to; by custom it ends in ``.safetensors``.
        record: facts to keep, for instance what :func:`training.recipe.fit` returned; the file's SHA-256 and the
            framing are added.

    Raises:
        OSError: it can't be written.
        ValueError: nothing of :data:`models.NETWORKS` could load the weights again.
    """
    path = Path(path)
    kind = NETWORKS.get(type(net).__name__)
    shapes = {name: value.shape for name, value in net.state_dict().items()}
    if kind is None or shapes != {name: value.shape for name, value in kind(**net.arguments).state_dict().items()}:
        raise ValueError(
            f"got a {type(net).__name__} that its arguments {brief(net.arguments)} would not build again, so that its "
            "weights could not be loaded; expected a class of models.NETWORKS"
        )
    framing = getattr(net, "framing", None)  # a face detector has none
    about = {"network": type(net).__name__, "arguments": net.arguments, "framing": framing}
    write_tensors(path, net.state_dict(), about)
    if isinstance(net, (PhotoNet, FaceDetector)) or (isinstance(net, CoarseToFine) and framing is not None):
        export_onnx(net, path)
    if record is not None:
        record = {
            "weights": path.name,
            "sha256": sha256(path),
            "network": about["network"],
            "parameters": sum(p.numel() for p in net.parameters()),
            "framing": framing,
            **record,
        }
        write_json(path.with_suffix(".json"), record)


def load_model(path: str | Path = DEFAULT_MODEL) -> nn.Module:
    """Build the network that ``path`` holds the weights of, in eval mode.

    A file from a stranger can't run code, and takes no more memory than some times its size.

    Args:
        path: a file of :func:`save_model`, or a bare ``state_dict`` of :class:`models.CoarseToFine` as
            ``safetensors.torch.save_file`` writes it. ``.pt`` files are converted first, see :func:`main`.

    Raises:
        OSError: the file is missing or can't be read.
        ValueError: it holds no weights, those of another network, or values that no training gives.
    """
    tensors, about = read_tensors(path)
    return build(path, tensors, about or {"network": "CoarseToFine"})


def build(path: str | Path, tensors: dict[str, torch.Tensor], about: Any) -> nn.Module:
    """The network of tensors and of what is said about them: network, arguments, framing; in eval mode.

    Args:
        path: the file that all this is from, for the errors.

    Raises:
        ValueError: as :func:`load_model`.
    """
    if not isinstance(about, dict):
        raise ValueError(f"{path}: expected weights saved by save_model, got {brief(about)}")
    network, framing, arguments = about.get("network"), about.get("framing"), about.get("arguments") or {}
    if not isinstance(network, str) or network not in NETWORKS:
        raise ValueError(f"{path}: got weights of network {brief(network)}, expected one of {', '.join(NETWORKS)}")
    if framing is not None and not _is_framing(framing):
        raise ValueError(f"{path}: got the framing {brief(framing)}, expected numbers in sides of a face's box")
    try:
        arguments = dict(arguments)
        lists = [number for value in arguments.values() if isinstance(value, list) for number in value]
        numbers = lists + [value for value in arguments.values() if not isinstance(value, list)]
        if not all(isinstance(value, (int, float)) and value == value for value in numbers):
            raise ValueError(f"got the arguments {brief(arguments)}, expected numbers")
        if any(number > MOST_IN_LIST for number in lists):
            raise ValueError(f"got the arguments {brief(arguments)}, expected at most {MOST_IN_LIST} in a list")
        if any(value.is_complex() for value in tensors.values()):
            raise ValueError("complex numbers")  # PyTorch would take their real parts
        with torch.device("meta"):  # sizes that the tensors do not have take no memory
            NETWORKS[network](**arguments).load_state_dict(tensors, assign=True)
        net = NETWORKS[network](**arguments)
        net.load_state_dict(tensors)
    except (TypeError, RuntimeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path}: got weights that do not fit {network}: {' '.join(str(error).split())[:300]}; expected "
            "those of 'python -m training train' of this version"
        ) from None
    if not all(value.isfinite().all() for value in net.state_dict().values()):
        raise ValueError(f"{path}: got weights that are not finite, expected those of a training that did not fail")
    net.framing = framing
    return net.eval()


def _is_framing(framing: object) -> bool:
    """Whether it holds nothing but sizes and places near a face's box; which ones, its user knows."""
    return isinstance(framing, dict) and all(
        isinstance(value, (int, float)) and (0.1 if name.endswith("scale") else -10) <= value <= 10  # nor is it NaN
        for name, value in framing.items()
    )


def main(arguments: list[str] | None = None) -> None:
    """Convert a file of torch.save: a bare ``state_dict`` of CoarseToFine, or what save_model once wrote.

    No check here protects from a file that was made to take all memory, so it is a step of its own.
    """
    parser = argparse.ArgumentParser(prog="python -m training.weights", description=main.__doc__)
    parser.add_argument("file", type=Path, metavar="FILE.pt", help="one that you trust; FILE.safetensors is written")
    path = parser.parse_args(arguments).file
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        about = {name: value for name, value in content.items() if name != "state_dict"}
        if "state_dict" not in content:
            content, about = {"state_dict": content}, {"network": "CoarseToFine"}
        out = path.with_suffix(".safetensors")
        save_model(build(path, content["state_dict"], about), out)
    except OSError as error:
        parser.error(str(error))
    except Exception as error:  # torch raises nearly anything, and its text advises to switch the check off
        parser.error(str(error) if str(path) in str(error) else f"{path}: expected weights saved by torch.save")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
