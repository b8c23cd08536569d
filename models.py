"""The network, and how its weights are saved and loaded."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from data_load import IMAGE_SIZE, KEYPOINT_MEAN, KEYPOINT_STD, NUM_KEYPOINTS

MODEL_DIR = Path(__file__).resolve().parent / "saved_models"
DEFAULT_MODEL = MODEL_DIR / "keypoints_model_1.pt"


class Net(nn.Module):
    """Four convolutions, each with BatchNorm, ReLU and MaxPool; Dropout; a linear layer at the end.

    The fourth convolution draws one map for each keypoint. A softmax turns a map into a probability of where the point
    is, and the expected coordinate is the point (soft-argmax: Sun et al., Integral Human Pose Regression, 2018,
    https://arxiv.org/abs/1711.08229). That costs no weights and reads off positions between the map's cells, where a
    fully connected layer would have to learn each position by heart. The linear layer then sees the 68 points relative
    to their centroid and corrects what single maps can't know: how the points of a face lie to each other.

    Args:
        dropout: probability that one of the 128 maps before the last convolution is left out in training.

    Input: (N, 1, 224, 224) float32, grey in [0, 1]. Output: (N, 136) float32, keypoints x0, y0, x1, … in network units,
    (pixels - 100) / 50.

    >>> Net()(torch.zeros(2, 1, 224, 224)).shape
    torch.Size([2, 136])
    """

    def __init__(self, dropout: float = 0.05) -> None:
        super().__init__()
        self.arguments = {"dropout": dropout}
        self.framing: dict | None = None  # how faces are framed at use as at training, see keypoints.detection.Framing

        def block(
            inputs: int, outputs: int, kernel: int, pool: nn.MaxPool2d, stride: int = 1, dilation: int = 1
        ) -> list[nn.Module]:
            # BatchNorm follows and has a shift of its own, so the convolution needs no bias.
            convolution = nn.Conv2d(inputs, outputs, kernel, stride, dilation * (kernel // 2), dilation, bias=False)
            return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True), pool]

        self.features = nn.Sequential(
            *block(1, 32, 7, nn.MaxPool2d(2), stride=2),
            *block(32, 64, 5, nn.MaxPool2d(2)),
            *block(64, 128, 5, nn.MaxPool2d(3, stride=1, padding=1)),  # stride 1: the maps keep their 28×28 cells
            nn.Dropout2d(dropout),
            *block(128, NUM_KEYPOINTS, 7, nn.MaxPool2d(3, stride=1, padding=1), dilation=2),
        )
        self.log_temperature = nn.Parameter(torch.ones(NUM_KEYPOINTS, 1))  # how peaked each point's softmax is
        self.linear = nn.Linear(2 * NUM_KEYPOINTS, 2 * NUM_KEYPOINTS)
        nn.init.normal_(self.linear.weight, std=1e-3)  # starts as no correction
        nn.init.zeros_(self.linear.bias)
        # The middle of each cell, in network units: 28 cells cover 224 pixels, cell i the pixels 8i … 8i + 7.
        cell = IMAGE_SIZE / 28
        middle = torch.arange(28) * cell + (cell - 1) / 2
        self.register_buffer("cells", (middle - KEYPOINT_MEAN) / KEYPOINT_STD, persistent=False)
        # Convolutions on a CPU are faster with channels last.
        self.to(memory_format=torch.channels_last)

    def probabilities(self, image: torch.Tensor) -> torch.Tensor:
        """Where each point may be: (N, 68, 28, 28), each map sums to 1 over its cells."""
        # Mean 0 and deviation 1, in shade as in sunlight; eps keeps the noise of an even grey from growing large.
        maps = self.features(functional.instance_norm(image, eps=1e-3))
        scores = maps.flatten(2) * self.log_temperature.exp()
        return scores.softmax(dim=2).unflatten(2, maps.shape[2:])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        probability = self.probabilities(image)
        x = probability.sum(dim=2) @ self.cells  # (N, 68): the expected column …
        y = probability.sum(dim=3) @ self.cells  # … and row
        points = torch.stack([x, y], dim=2)  # (N, 68, 2)
        centroid = points.mean(dim=1, keepdim=True)
        return points.flatten(1) + self.linear((points - centroid).flatten(1))


NETWORKS: dict[str, type[nn.Module]] = {"Net": Net}


def layer_table(net: nn.Module) -> list[dict]:
    """What each layer of ``net.features`` makes of a 224×224 image.

    Returns:
        one dict a layer: layer, output (channels, height, width), parameters, receptive_field (pixels of the input that
        one output value can see) and jump (pixels of the input between neighbouring outputs), by the arithmetic of
        Dumoulin and Visin, https://arxiv.org/abs/1603.07285.
    """
    rows, field, jump, value = [], 1, 1, torch.zeros(1, 1, IMAGE_SIZE, IMAGE_SIZE)
    training = net.training
    net.eval()
    with torch.no_grad():
        for layer in net.features:
            value = layer(value)
            if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):
                kernel, stride, dilation = (
                    (v if isinstance(v, int) else v[0]) for v in (layer.kernel_size, layer.stride, layer.dilation)
                )
                field += (kernel - 1) * dilation * jump
                jump *= stride
            rows.append(
                {
                    "layer": str(layer),
                    "output": tuple(value.shape[1:]),
                    "parameters": sum(p.numel() for p in layer.parameters()),
                    "receptive_field": field,
                    "jump": jump,
                }
            )
    net.train(training)
    return rows


def save_model(net: nn.Module, path: str | Path, record: dict | None = None) -> None:
    """Write the weights to ``path`` and their record beside it as JSON; neither is ever there half-written.

    Args:
        record: facts to keep, for instance what :func:`keypoints.training.fit` returned; the file's SHA-256 and the
            framing are added.
    """
    path = Path(path)
    content = {
        "network": type(net).__name__,
        "arguments": net.arguments,
        "framing": net.framing,
        "state_dict": {name: value.detach().cpu() for name, value in net.state_dict().items()},
    }
    write_atomically(path, lambda part: torch.save(content, part))
    if record is not None:
        record = {
            "weights": path.name,
            "sha256": sha256(path),
            "network": content["network"],
            "parameters": sum(p.numel() for p in net.parameters()),
            "framing": net.framing,
            **record,
        }
        write_json(path.with_suffix(".json"), record)


def load_model(path: str | Path = DEFAULT_MODEL, device: str | torch.device = "cpu") -> nn.Module:
    """Build the network that ``path`` holds the weights of, in eval mode.

    Only tensors and plain values are read (``weights_only=True``): a file from a stranger can't run code.

    Args:
        path: a file of :func:`save_model`, or a bare ``state_dict`` of :class:`Net` as the course saves it.

    Raises:
        OSError: the file is missing or can't be read.
        ValueError: it holds no weights, or those of another network.
    """
    path = Path(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # on arbitrary bytes torch raises nearly anything, and its text advises to switch the check off
        raise ValueError(f"{path}: expected weights saved by save_model, got another or a damaged file") from None
    if isinstance(content, dict) and content and all(isinstance(value, torch.Tensor) for value in content.values()):
        content = {"network": "Net", "state_dict": content}
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise ValueError(f"{path}: expected weights saved by save_model, got {type(content).__name__}")
    if content.get("network") not in NETWORKS:
        raise ValueError(
            f"{path}: got weights of network {content.get('network')!r}, expected one of {', '.join(NETWORKS)}"
        )
    try:
        net = NETWORKS[content["network"]](**(content.get("arguments") or {}))
        net.load_state_dict(content["state_dict"])
    except (TypeError, RuntimeError, AttributeError) as error:
        raise ValueError(
            f"{path}: got weights that do not fit {content['network']}: {' '.join(str(error).split())[:300]}"
        ) from None
    net.framing = content.get("framing")
    return net.to(device).eval()


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def write_json(path: str | Path, content: dict) -> None:
    """Write indented JSON (floats as they are) such that a half-written file never carries the name."""
    write_atomically(
        path, lambda part: part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    )


def write_atomically(path: str | Path, write) -> None:
    """Let ``write(part)`` fill a neighbour of ``path`` and rename it when it is whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
