from __future__ import annotations

import numpy as np
import pytest
import torch

from keypoints.geometry import with_roll
from keypoints.network import Framing, StagedNetwork, TorchNetwork, stage_files
from models import FaceDetector, Net, PhotoNet, TwoLooks
from training import export
from training.__main__ import main
from training.framing import framing_dict
from training.weights import DEFAULT_MODEL, RECIPE_MODEL, load_model, save_model

FRAMING = Framing(1.5, 0, 0.1, 1.1, 0, -0.1)


def lively(net: TwoLooks) -> TwoLooks:
    """An untrained network whose points move with the image."""
    torch.manual_seed(0)
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 2)
            torch.nn.init.normal_(layer.running_mean, std=0.1)
    net.framing = framing_dict(FRAMING)
    return net.eval()


@pytest.mark.parametrize("kind", [Net, PhotoNet])
def test_the_graphs_give_what_the_network_gives(kind, tmp_path):
    net = lively(kind())
    assert export.export_onnx(net, tmp_path / "net.onnx") == list(stage_files(tmp_path / "net"))
    staged = StagedNetwork(tmp_path / "net.safetensors")
    assert staged.name == kind.__name__ and staged.framing == FRAMING and staged.has_score == (kind is PhotoNet)
    crops = torch.rand(3, 1, net.close, net.close)
    with torch.no_grad():
        said = net.follow(crops, torch.zeros(3, 68, 2))
    inputs = {"crop": crops.numpy()}
    if kind is PhotoNet:
        width = net.score_weights.shape[0] - net.follow_score_weights.shape[0]
        inputs |= {"before": np.zeros((3, 68, 2), np.float32), "features": np.zeros((3, width), np.float32)}
    points, *more = staged._fine.run(None, inputs)
    np.testing.assert_allclose(points, said[0], atol=1e-4)  # of a crop's side of 2: 0.005 pixels
    for given, expected in zip(more[2:], said[1:], strict=True) if more else ():
        np.testing.assert_allclose(given, expected, atol=1e-4)


@pytest.mark.parametrize("path", [RECIPE_MODEL, DEFAULT_MODEL], ids=lambda path: path.stem)
def test_the_shipped_graphs_are_those_of_the_shipped_weights(path):
    net, staged = load_model(path), StagedNetwork(path)
    with torch.no_grad():
        crop = torch.rand(1, 1, net.close, net.close, generator=torch.Generator().manual_seed(1))
        expected = net.points(net.probabilities(crop, 1), 1)
        view = torch.rand(1, 1, net.whole, net.whole, generator=torch.Generator().manual_seed(2))
        rough = net.points(net.probabilities(view, 0), 0)
    feed = {"crop": crop.numpy(), "before": np.zeros((1, 68, 2), np.float32), "features": np.zeros((1, 96), np.float32)}
    given = {one.name: feed[one.name] for one in staged._fine.get_inputs()}
    np.testing.assert_allclose(staged._fine.run(["points"], given)[0], expected, atol=1e-4)
    np.testing.assert_allclose(staged._coarse.run(["points"], {"image": view.numpy()})[0], rough, atol=1e-4)


def test_the_two_ways_of_use_differ_by_no_more_than_their_resampling(astronaut_face):
    image, box = astronaut_face
    networks = TorchNetwork(load_model(DEFAULT_MODEL)), StagedNetwork(DEFAULT_MODEL)
    with_torch, without = (network.locate([image], with_roll(box)) for network in networks)
    size = np.sqrt(np.ptp(without.keypoints[0], axis=0).prod())
    assert np.linalg.norm(with_torch.keypoints - without.keypoints, axis=2).mean() < 0.01 * size
    assert without.score[0] == pytest.approx(with_torch.score[0], abs=0.02)


@pytest.fixture
def astronaut_face():
    from helpers import PHOTOS

    from data_load import read_image

    return read_image(PHOTOS / "astronaut.jpg"), [(177, 67, 93, 93)]


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

    net, files = lively(Net()), []
    for name in ("a", "b"):
        files.append(export.export_onnx(net, tmp_path / name))
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert onnx.load(one).opset_import[0].version <= 17


def test_the_command_writes_both_graphs_beside_the_weights(tmp_path):
    save_model(lively(Net()), tmp_path / "net.safetensors")
    assert main(["export", "--onnx", str(tmp_path / "net.onnx"), "--model", str(tmp_path / "net.safetensors")]) == 0
    expected = ["net.coarse.onnx", "net.fine.onnx", "net.safetensors"]
    assert sorted(file.name for file in tmp_path.iterdir()) == expected


def test_another_network_is_refused(tmp_path):
    with pytest.raises(ValueError, match="got a network of the class Linear, expected a TwoLooks or a FaceDetector"):
        export.export_onnx(torch.nn.Linear(1, 1), tmp_path / "a.onnx")
