from __future__ import annotations

import hashlib
import json
import pickle

import numpy as np
import pytest
import torch
from helpers import SHIPPED
from torch import nn

from data_load import Normalize
from models import Net, layer_table, load_model, save_model, write_atomically


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 1, 224, 224, generator=torch.Generator().manual_seed(1))


def test_four_images_give_four_times_136_numbers(net, images):
    output = net(images)
    assert tuple(output.shape) == (4, 136) and output.dtype == torch.float32


def test_the_net_is_the_card_literally(net):
    kinds = [type(layer) for layer in net.features if not isinstance(layer, nn.Dropout2d)]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d] * 4
    assert sum(isinstance(layer, nn.Dropout2d) for layer in net.modules()) == 1
    assert isinstance(list(net.modules())[-1], nn.Linear) and net.linear.out_features == 136


def test_a_batch_gives_what_single_images_give(net, images):
    with torch.no_grad():
        single = torch.cat([net(image[None]) for image in images])
        np.testing.assert_allclose(net(images), single, atol=1e-4)


def test_peaked_maps_give_the_middles_of_their_cells(net, images):
    torch.nn.init.zeros_(net.linear.weight)
    row, column = np.divmod(np.random.default_rng(0).integers(0, 28 * 28, 68), 28)
    maps = torch.zeros(1, 68, 28, 28)
    maps[0, range(68), row, column] = 1e3
    net.features = nn.Sequential(Constant(maps))
    points = Normalize.inverse(net(images[:1])).detach().numpy().reshape(68, 2)
    np.testing.assert_allclose(points, np.stack([8 * column + 3.5, 8 * row + 3.5], axis=1), atol=1e-3)


def test_moving_all_maps_by_a_cell_moves_all_points_by_a_cell(net, images):
    torch.manual_seed(0)
    torch.nn.init.normal_(net.linear.weight, std=0.1)  # the correction sees the shape only, not where it lies
    maps = torch.full((1, 68, 28, 28), -1e3)
    maps[..., 5:15, 8:18] = torch.randn(1, 68, 10, 10)
    results = []
    for moved in (maps, maps.roll((2, 1), (2, 3))):
        net.features = nn.Sequential(Constant(moved))
        results.append(Normalize.inverse(net(images[:1])).detach().numpy().reshape(68, 2))
    np.testing.assert_allclose(results[1] - results[0], np.tile([8, 16], (68, 1)), atol=1e-3)


class Constant(nn.Module):
    """Gives the same maps, whatever it sees."""

    def __init__(self, maps: torch.Tensor) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.maps.expand(len(image), -1, -1, -1)


# The table of layers --------------------------------------------------------------------------------------------------


def test_the_table_of_layers_by_hand(net):
    rows = layer_table(net)
    facts = {i: (row["output"], row["parameters"], row["receptive_field"], row["jump"]) for i, row in enumerate(rows)}
    assert len(rows) == 17
    assert facts[0] == ((32, 112, 112), 32 * 49, 7, 2)
    assert facts[1] == ((32, 112, 112), 64, 7, 2)
    assert facts[3] == ((32, 56, 56), 0, 9, 4)
    assert facts[4] == ((64, 56, 56), 64 * 32 * 25, 25, 4)
    assert facts[7] == ((64, 28, 28), 0, 29, 8)
    assert facts[8] == ((128, 28, 28), 128 * 64 * 25, 61, 8)
    assert facts[11] == ((128, 28, 28), 0, 77, 8)
    assert facts[13] == ((68, 28, 28), 68 * 128 * 49, 77 + 6 * 2 * 8, 8)
    assert facts[16] == ((68, 28, 28), 0, 189, 8)


def test_the_receptive_field_is_the_region_that_moves_an_output(net):
    row = layer_table(net)[-1]
    layers = []
    for layer in net.features:  # the same geometry, but every path carries a gradient: no ReLU, mean instead of maximum
        if isinstance(layer, nn.Conv2d):
            nn.init.ones_(layer.weight)
            layers.append(layer)
        elif isinstance(layer, nn.MaxPool2d):
            layers.append(nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding))
    image = torch.zeros(1, 1, 224, 224, dtype=torch.float64, requires_grad=True)
    maps = nn.Sequential(*layers).double()(image)
    maps[0, 0, 13, 14].backward(retain_graph=True)
    seen = image.grad[0, 0].nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [row["receptive_field"]] * 2
    first = seen.amin(0)
    image.grad = None
    maps[0, 0, 14, 14].backward()
    assert (image.grad[0, 0].nonzero().amin(0) - first).tolist() == [row["jump"], 0]


def test_the_table_leaves_the_net_as_it_was(net):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    layer_table(net)
    assert net.training and all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


# Saving and loading ---------------------------------------------------------------------------------------------------


def test_saved_and_loaded_it_gives_the_same_output(net, images, tmp_path):
    net.framing = {"scale": 1.5, "dx": 0.0}
    save_model(net, tmp_path / "net.pt")
    loaded = load_model(tmp_path / "net.pt")
    with torch.no_grad():
        assert torch.equal(loaded(images), net(images))
    assert not loaded.training and loaded.framing == net.framing and loaded.arguments == net.arguments


def test_arguments_travel_with_the_weights(tmp_path):
    save_model(Net(dropout=0.3), tmp_path / "net.pt")
    loaded = load_model(tmp_path / "net.pt")
    assert [layer.p for layer in loaded.modules() if isinstance(layer, nn.Dropout2d)] == [0.3]


def test_the_file_is_smaller_than_10_mb(net, tmp_path):
    save_model(net, tmp_path / "net.pt")
    assert (tmp_path / "net.pt").stat().st_size < 10e6


def test_a_bare_state_dict_loads(net, images, tmp_path):
    torch.save(net.state_dict(), tmp_path / "bare.pt")
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "bare.pt")(images), net(images))


def test_the_record_names_the_weights_by_their_sha256(net, tmp_path):
    net.framing = {"scale": 1.5}
    save_model(net, tmp_path / "net.pt", {"data": "sample"})
    record = json.loads((tmp_path / "net.json").read_text(encoding="utf-8"))
    assert record["weights"] == "net.pt" and record["data"] == "sample" and record["framing"] == {"scale": 1.5}
    assert record["sha256"] == hashlib.sha256((tmp_path / "net.pt").read_bytes()).hexdigest()
    assert record["parameters"] == sum(p.numel() for p in net.parameters())


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "net.pt"
    path.write_text("old")

    def interrupted(part) -> None:
        part.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


class RunsCode:
    """What a stranger's weights could hold: unpickling it writes a file."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.filterwarnings("ignore")  # torch's own remarks on files that are not its own
@pytest.mark.parametrize(
    "content",
    [b"", b"<!DOCTYPE html><html>", b"junk\n" * 100, b"\x80", b"PK\x03\x04 cut", pickle.dumps({"a": 1}), b".", b"K"],
    ids=["empty", "HTML", "junk", "half a pickle", "half a zip", "another pickle", "a dot", "a letter"],
)
def test_a_file_that_holds_no_weights_raises_a_sentence(tmp_path, content):
    path = tmp_path / "net.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"net\.pt: expected weights saved by save_model, got ") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_whatever_bytes_a_file_holds_the_error_is_a_value_error(net, tmp_path):
    random = np.random.default_rng(0)
    torch.save({"state_dict": {"a": torch.zeros(3)}}, tmp_path / "new.pt")
    torch.save({"state_dict": {"a": torch.zeros(3)}}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for path in (tmp_path / "new.pt", tmp_path / "old.pt"):
        whole = path.read_bytes()
        for _ in range(150):
            content = bytearray(whole)
            for place in random.integers(0, len(whole), 8):
                content[place] = random.integers(256)
            path.write_bytes(content[: random.integers(len(whole))] if random.random() < 0.3 else content)
            with pytest.raises(ValueError):  # at best the weights of another network
                load_model(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused_unrun(tmp_path, legacy):
    path, trace = tmp_path / "net.pt", tmp_path / "trace"
    torch.save({"state_dict": RunsCode(trace)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r"net\.pt: expected weights saved by save_model"):
        load_model(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)["state_dict"].close()  # it would have run
    assert trace.exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (nn.Linear(2, 2).state_dict(), "got weights that do not fit Net"),
        ({"network": "ResNet", "state_dict": {}}, "got weights of network 'ResNet', expected one of Net"),
        ({"network": "Net", "state_dict": {}}, "got weights that do not fit Net"),
        ({"network": "Net", "arguments": {"depth": 9}, "state_dict": {}}, "got weights that do not fit Net"),
        ({"epoch": 3}, "expected weights saved by save_model, got dict"),
        (torch.zeros(3), "expected weights saved by save_model, got Tensor"),
        ({}, "expected weights saved by save_model, got dict"),
    ],
)
def test_weights_of_another_network_raise_a_sentence(tmp_path, content, sentence):
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=sentence) as caught:
        load_model(tmp_path / "net.pt")
    assert str(caught.value).startswith(str(tmp_path / "net.pt")) and "\n" not in str(caught.value)


def test_a_missing_file_and_a_directory_are_os_errors(tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(OSError):
            load_model(path)


def test_the_shipped_weights_load_and_match_their_record():
    if not SHIPPED.exists():
        pytest.skip(f"{SHIPPED.name} is not trained yet")
    record = json.loads(SHIPPED.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["sha256"] == hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    assert load_model().framing == record["framing"] and SHIPPED.stat().st_size < 10e6
