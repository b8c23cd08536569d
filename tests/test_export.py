from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import PHOTOS

from data_load import read_image
from keypoints.geometry import with_roll
from keypoints.network import Framing, TorchNetwork, load_network
from models import CoarseToFine, FaceDetector, PhotoNet
from training import export
from training.__main__ import main
from training.framing import framing_dict
from training.weights import DEFAULT_MODEL, RECIPE_MODEL, load_model, save_model

FRAMING = Framing(1.5, 0, 0.1, 1.1, 0, -0.1)


def lively(net: torch.nn.Module) -> torch.nn.Module:
    """An untrained network whose points move with the image."""
    torch.manual_seed(0)
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 2)
            torch.nn.init.normal_(layer.running_mean, std=0.1)
    net.framing = framing_dict(FRAMING)
    return net.eval()


def check_graphs(net: torch.nn.Module, path: Path) -> None:
    """Graphs and network agree within 1e-4 of the crop's side: 0.01 pixels."""
    network = load_network(path)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        if isinstance(net, PhotoNet):
            crop = torch.rand(3, 1, net.side, net.side, generator=generator)
            outputs = network._session.run(None, {"crop": crop.numpy()})
            # Confidence and score: logistic regressions are steep, and both come from noise here.
            for given, expected, most in zip(outputs, net.predict(crop), (1e-4, 1e-3, 1e-3), strict=True):
                np.testing.assert_allclose(given, expected, atol=most)
            return
        for session, stage in ((network._coarse, net.coarse), (network._fine, net.fine)):
            view = torch.rand(3, 1, stage.side, stage.side, generator=generator)
            expected = stage.points(view)[-1]
            np.testing.assert_allclose(
                session.run(None, {session.get_inputs()[0].name: view.numpy()})[0], expected, atol=1e-4
            )


@pytest.mark.parametrize("kind", [CoarseToFine, PhotoNet])
def test_graphs_give_what_the_network_gives(kind, tmp_path):
    net = lively(kind())
    written = export.export_onnx(net, tmp_path / "net.onnx")
    assert sorted(written) == sorted(tmp_path.iterdir())
    check_graphs(net, tmp_path / "net.safetensors")
    assert load_network(tmp_path / "net").name == kind.__name__


@pytest.mark.parametrize("path", [RECIPE_MODEL, DEFAULT_MODEL], ids=lambda path: path.stem)
def test_shipped_graphs_are_those_of_the_shipped_weights(path):
    check_graphs(load_model(path), path)


def test_onnx_and_torch_differ_by_no_more_than_their_resampling():
    image, box = read_image(PHOTOS / "astronaut.jpg"), with_roll([(177, 67, 93, 93)])
    with_torch, without = (
        network.locate([image], box).keypoints[0]
        for network in (TorchNetwork(load_model(RECIPE_MODEL)), load_network(RECIPE_MODEL))
    )
    size = np.sqrt(np.ptp(without, axis=0).prod())
    assert np.linalg.norm(with_torch - without, axis=1).mean() < 0.01 * size


def test_the_detector_s_graph_gives_what_the_network_gives_at_any_size(tmp_path):
    import onnxruntime

    torch.manual_seed(0)
    net = FaceDetector().eval()
    [path] = export.export_onnx(net, tmp_path / "detector.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for height, width in ((96, 64), (128, 320)):
        image = torch.randn(1, 1, height, width)
        with torch.no_grad():
            np.testing.assert_allclose(session.run(None, {"image": image.numpy()})[0], net(image), atol=1e-4)


def test_the_graphs_are_written_for_older_runtimes_and_equal_weights_give_equal_bytes(tmp_path):
    import onnx

    net, files = lively(CoarseToFine()), []
    for name in ("a", "b"):
        files.append(export.export_onnx(net, tmp_path / name))
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert onnx.load(one).opset_import[0].version <= 17


def test_the_command_writes_both_graphs_beside_the_weights(tmp_path):
    save_model(lively(CoarseToFine()), tmp_path / "net.safetensors")
    assert main(["export", "--onnx", str(tmp_path / "net.onnx"), "--model", str(tmp_path / "net.safetensors")]) == 0
    expected = ["net.coarse.onnx", "net.fine.onnx", "net.safetensors"]
    assert sorted(file.name for file in tmp_path.iterdir()) == expected


def test_another_network_is_refused(tmp_path):
    with pytest.raises(ValueError, match="got a Linear, expected a CoarseToFine"):
        export.export_onnx(torch.nn.Linear(1, 1), tmp_path / "a.onnx")
