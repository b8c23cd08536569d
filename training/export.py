"""Export: networks as ONNX graphs, which :mod:`keypoints.network` and other runtimes run without PyTorch."""

from __future__ import annotations

import importlib.util
import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from keypoints.files import check_writable, write_atomically
from keypoints.landmarks import NUM_KEYPOINTS
from keypoints.network import METADATA, stage_files
from models import FaceDetector, PhotoNet, TwoLooks, logistic, made_fast

OPSET = 17


class _Coarse(nn.Module):
    """The coarse stage: a view → points in its units, and features of the face where the network has a score."""

    def __init__(self, net: TwoLooks) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        heatmaps, features = self.net.seen(image, 0)
        points = self.net.points(heatmaps, 0)
        return points if features is None else (points, features.float())


class _Fine(nn.Module):
    """The fine stage of a network without confidence: a crop → points in its units."""

    def __init__(self, net: TwoLooks) -> None:
        super().__init__()
        self.net = net

    def forward(self, crop: torch.Tensor) -> torch.Tensor:
        return self.net.points(self.net.seen(crop, 1)[0], 1)


class _FineWithScore(nn.Module):
    """The fine stage: a crop and the points known before → points, confidence and score, at first and when followed."""

    def __init__(self, net: PhotoNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, crop: torch.Tensor, before: torch.Tensor, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        heatmaps, close = self.net.seen(crop, 1)
        points = self.net.points(heatmaps, 1)
        moved = (points - before).square().sum(dim=2).sqrt()
        evidence = self.net.evidence(heatmaps, points, moved)
        followed = torch.cat([close.float(), evidence.mean(dim=1)], dim=1)
        return (
            points,
            logistic(evidence, self.net.confidence_weights),
            logistic(torch.cat([features, followed], dim=1), self.net.score_weights),
            logistic(evidence, self.net.follow_confidence_weights),
            logistic(followed, self.net.follow_score_weights),
        )


def export_onnx(net: nn.Module, path: str | Path) -> list[Path]:
    """Write a network's ONNX files, weights included, for any number of faces at once, or any size of image.

    Args:
        net: a :class:`models.TwoLooks`, which becomes ``<stem>.coarse.onnx`` and ``<stem>.fine.onnx``, or a
            :class:`models.FaceDetector`, which becomes ``<stem>.onnx``.
        path: any file of that stem.

    Returns:
        the files.

    Raises:
        ValueError: the package onnx is missing, or it is another network.
        OSError: a file can't be written.
    """
    if importlib.util.find_spec("onnx") is None:
        raise ValueError("export to ONNX needs the package onnx: pip install onnx")
    coarse, fine = stage_files(path)
    if isinstance(net, FaceDetector):
        out = Path(f"{str(coarse).removesuffix('.coarse.onnx')}.onnx")
        _write(net.eval(), {"image": torch.zeros(1, 1, 96, 128)}, ["faces"], {2: "height", 3: "width"}, out, {})
        return [out]
    if not isinstance(net, TwoLooks):
        raise ValueError(f"got a network of the class {type(net).__name__}, expected a TwoLooks or a FaceDetector")
    with_score = isinstance(net, PhotoNet)
    about = {"network": type(net).__name__, "framing": net.framing, "spread": net.spread}
    net = made_fast(net.eval())
    image, crop = torch.rand(2, 1, net.whole, net.whole), torch.rand(2, 1, net.close, net.close)
    outputs = ["points", "features"] if with_score else ["points"]
    _write(_Coarse(net), {"image": image}, outputs, {0: "faces"}, coarse, about)
    if with_score:
        width = net.score_weights.shape[0] - net.follow_score_weights.shape[0]
        inputs = {"crop": crop, "before": torch.rand(2, NUM_KEYPOINTS, 2), "features": torch.rand(2, width)}
        outputs = ["points", "confidence", "score", "followed_confidence", "followed_score"]
        _write(_FineWithScore(net), inputs, outputs, {0: "faces"}, fine, about)
    else:
        _write(_Fine(net), {"crop": crop}, ["points"], {0: "faces"}, fine, about)
    return [coarse, fine]


@torch.no_grad()
def _write(
    net: nn.Module, inputs: dict[str, torch.Tensor], outputs: list[str], axes: dict[int, str], path: Path, about: Any
) -> None:
    import onnx

    check_writable(path)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter by torch.export writes nothing below opset 18
        torch.onnx.export(
            net,
            tuple(inputs.values()),
            buffer,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes=dict.fromkeys(inputs, axes),
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(model, {METADATA: json.dumps(about)})
    model.producer_version = ""  # equal weights give equal bytes with every PyTorch
    write_atomically(path, lambda part: part.write_bytes(model.SerializeToString(deterministic=True)))
