from __future__ import annotations

import numpy as np
import pytest
import torch

from data_load import Normalize
from keypoints.detection import Framing, framing_dict
from models import Net
from training import export
from training.__main__ import main
from training.weights import save_model


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    net = Net().eval()
    for layer in net.modules():  # an untrained network's points would hardly move with the image
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 2)
            torch.nn.init.normal_(layer.running_mean, std=0.1)
    net.framing = framing_dict(Framing(1.5, 0, 0.1, 1.1, 0, -0.1))
    return net


def test_the_exported_file_gives_the_same_points_for_any_number_of_faces(net, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    save_model(net, tmp_path / "net.safetensors")
    assert main(["export", "--onnx", str(tmp_path / "net.onnx"), "--model", str(tmp_path / "net.safetensors")]) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.onnx", "net.safetensors"]  # weights included
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    for number in (1, 2, 5):
        images = torch.rand(number, 1, 224, 224, generator=torch.Generator().manual_seed(number))
        images[:, :, 40:90, 30 : 60 + 20 * number] = 0.9
        with torch.no_grad():
            expected = Normalize.inverse(net(images)).reshape(number, 68, 2).numpy()
        [points] = session.run(["keypoints"], {"image": images.numpy()})
        assert points.shape == (number, 68, 2) and points.dtype == np.float32
        np.testing.assert_allclose(points, expected, atol=1e-3)
    assert np.ptp(expected, axis=0).max() > 0.1  # the faces differ, so equal points are no accident


def test_missing_packages_are_named_and_nothing_is_written(net, tmp_path, capsys, monkeypatch):
    save_model(net, tmp_path / "net.safetensors")
    monkeypatch.setattr(export, "NEEDED", ("torch", "no_such_package"))
    assert main(["export", "--onnx", str(tmp_path / "net.onnx"), "--model", str(tmp_path / "net.safetensors")]) == 2
    expected = "export to ONNX needs the packages torch and no_such_package: pip install no_such_package\n"
    assert capsys.readouterr().err.endswith(expected)
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]


def test_a_folder_is_refused(net, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "NEEDED", ())
    with pytest.raises(ValueError, match="got a folder, expected a file"):
        export.export_onnx(net, tmp_path)
