"""Export: the network as one ONNX file, for runtimes without PyTorch."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from pathlib import Path

import torch
from torch import nn

from data_load import IMAGE_SIZE, Normalize
from keypoints.files import check_writable, write_atomically

NEEDED = ("onnx", "onnxscript")  # torch.onnx builds on them; they are not among the requirements
OPSET = 20  # the first with AffineGrid and with GridSample for any number of axes


class _InPixels(nn.Module):
    """The network with its points in pixels, which need no constants of ours to be read."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return Normalize.inverse(self.net(image)).unflatten(1, (-1, 2))


def export_onnx(net: nn.Module, path: str | Path) -> None:
    """Write ``net`` as ONNX: one file, weights included, for any number of faces at once.

    The file takes ``image``: (N, 1, 224, 224) float32, grey in [0, 1], a face framed as ``net.framing`` says, and gives
    ``keypoints``: (N, 68, 2) float32, (x, y) in pixels of that image.

    Raises:
        ValueError: a package is missing, ``path`` is a folder, or the network's ``forward`` takes the number of images
            for a constant; nothing is written then.
        OSError: ``path`` can't be written.
    """
    path = Path(path)
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ValueError(f"export to ONNX needs the packages {' and '.join(NEEDED)}: pip install {' '.join(missing)}")
    if path.is_dir():
        raise ValueError(f"--onnx {path}: got a folder, expected a file")
    check_writable(path)
    wrapped = _InPixels(net).cpu().eval()
    # Two images: with one, the exporter would take the batch's 1 for a constant.
    example = torch.rand(2, 1, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    log, level = logging.getLogger("torch.onnx"), logging.getLogger("torch.onnx").level
    log.setLevel(logging.ERROR)  # it advertises optional packages
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # about PyTorch's own insides
            program = torch.onnx.export(
                wrapped,
                (example,),
                dynamo=True,
                dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
                input_names=["image"],
                output_names=["keypoints"],
                opset_version=OPSET,
                verbose=False,
            )
    finally:
        log.setLevel(level)
    if program.model.graph.inputs[0].shape.is_static(0):
        raise ValueError(
            f"got a network ({type(net).__name__}) whose forward fixes the number of images, expected it "
            "to be read from image.shape[0]: len(image) does not do for an export"
        )
    write_atomically(path, lambda part: program.save(part, external_data=False))
