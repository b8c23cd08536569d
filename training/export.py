"""Export: networks as ONNX graphs, which :mod:`keypoints.network` and other runtimes run without PyTorch."""

from __future__ import annotations

import importlib.util
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from keypoints.files import check_writable, write_atomically
from keypoints.network import METADATA, network_files
from models import CoarseToFine, ExpressionNet, EyeNet, FaceDetector, PhotoNet

OPSET = 17


class _Graph(nn.Module):
    """A function of a network as a module that can be exported."""

    def __init__(self, net: nn.Module, function: Callable) -> None:
        super().__init__()
        self.net, self.function = net, function

    def forward(self, image: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        return self.function(image)


def export_onnx(net: nn.Module, path: str | Path) -> list[Path]:
    """Write a network's ONNX files, weights included, for any number of faces at once, or any size of image.

    Args:
        net: of :mod:`models`; a ``CoarseToFine`` becomes ``<stem>.coarse.onnx`` and ``<stem>.fine.onnx``, another
            ``<stem>.onnx``.
        path: any file of that stem. The weights of an ``ExpressionNet`` and an ``EyeNet`` are rounded to 16 bits: the
            file then packs to a third of its size.

    Returns:
        the files.

    Raises:
        ValueError: the package onnx is missing, or it is another network.
        OSError: a file can't be written.
    """
    if importlib.util.find_spec("onnx") is None:
        raise ValueError("export to ONNX needs the package onnx: pip install onnx")
    single, coarse, fine = network_files(path)
    net, axes = net.eval(), {0: "faces"}
    about: dict = {"network": type(net).__name__}
    if isinstance(net, CoarseToFine):
        about |= {"framing": net.framing, "spread": net.spread}
        for stage, name, file in ((net.coarse, "image", coarse), (net.fine, "crop", fine)):
            graph = _Graph(stage, lambda view, stage=stage: stage.points(view)[-1])
            _write(graph, {name: torch.rand(2, 1, stage.side, stage.side)}, ["points"], axes, file, about)
        return [coarse, fine]
    if isinstance(net, FaceDetector):
        _write(net, {"image": torch.zeros(1, 1, 96, 128)}, ["faces"], {2: "height", 3: "width"}, single, {})
        return [single]
    if not isinstance(net, (PhotoNet, ExpressionNet, EyeNet)):
        expected = "CoarseToFine, PhotoNet, FaceDetector, ExpressionNet or EyeNet"
        raise ValueError(f"got a {type(net).__name__}, expected a {expected}")
    inputs = {"crop": torch.rand(2, 1, net.side, net.side)}
    if isinstance(net, PhotoNet):
        outputs = ["keypoints", "confidence", "score"]
        _write(_Graph(net, net.predict), inputs, outputs, axes, single, about, fused=False)
    elif isinstance(net, ExpressionNet):
        inputs["features"] = torch.zeros(2, net.FEATURES)
        _write(net, inputs, ["logits"], axes, single, about, rounded=True)
    else:
        _write(net, inputs, ["opening"], axes, single, about, rounded=True)
    return [single]


@torch.no_grad()
def _write(
    net: nn.Module,
    inputs: dict[str, torch.Tensor],
    outputs: list[str],
    axes: dict[int, str],
    path: Path,
    about: dict,
    rounded: bool = False,
    fused: bool = True,
) -> None:
    """Write a graph; ``rounded`` to bfloat16's precision; not ``fused``, its weights are bit by bit the network's."""
    import onnx

    check_writable(path)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter by torch.export writes nothing below opset 18
        torch.onnx.export(
            net.eval(),  # the exporter leaves it as it was
            tuple(inputs.values()),
            buffer,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes=dict.fromkeys([*inputs, *outputs] if 0 in axes else inputs, axes),
            opset_version=OPSET,
            training=torch.onnx.TrainingMode.EVAL if fused else torch.onnx.TrainingMode.PRESERVE,
            dynamo=False,
        )
    model = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(model, {METADATA: json.dumps(about)})
    model.producer_version = ""  # equal weights give equal bytes with every PyTorch
    if rounded:
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                values = torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy()).bfloat16().float().numpy()
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    write_atomically(path, lambda part: part.write_bytes(model.SerializeToString(deterministic=True)))
