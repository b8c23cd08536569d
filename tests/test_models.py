from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import stat
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, SHIPPED
from torch import nn

from keypoints.detection import KeypointDetector
from keypoints.landmarks import REFERENCE_FACE
from models import (
    EYES,
    MOUTH,
    RECIPE_MODEL,
    Net,
    PhotoNet,
    cell_middles,
    check_writable,
    from_view,
    layer_table,
    load_model,
    made_fast,
    network_units,
    replaceable,
    save_model,
    shrink,
    soft_argmax,
    write_atomically,
)


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
    assert kinds == [nn.Conv2d, nn.MaxPool2d, nn.BatchNorm2d, nn.ReLU] * 4
    assert sum(isinstance(layer, nn.Conv2d) for layer in net.modules()) == 4
    assert sum(isinstance(layer, nn.Dropout2d) for layer in net.modules()) == 1
    assert isinstance(list(net.modules())[-1], nn.Linear) and net.linear[1].out_features == 136


@pytest.mark.parametrize("kind", [Net, PhotoNet])
def test_a_batch_gives_what_single_images_give(kind, images):
    net = kind().eval()
    with torch.no_grad():
        single = torch.cat([net(image[None]) for image in images])
        np.testing.assert_allclose(net(images), single, atol=1e-4)


@pytest.mark.parametrize("kind", [Net, PhotoNet])
def test_several_threads_get_what_one_gets(kind, images):
    net = kind().eval()

    def look(_) -> torch.Tensor:
        with torch.no_grad():
            return net(images)

    expected = look(0)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(result, expected) for result in pool.map(look, range(8)))


@pytest.mark.parametrize("kind", [Net, PhotoNet])
def test_brighter_everywhere_is_the_same_to_it_and_an_even_grey_gives_numbers(kind, images):
    net = kind().eval()
    with torch.no_grad():
        np.testing.assert_allclose(net(0.5 * images + 0.4), net(0.5 * images), atol=1e-3)
        assert torch.isfinite(net(torch.full((1, 1, 224, 224), 0.7))).all()


# Looking twice --------------------------------------------------------------------------------------------------------


def test_peaked_maps_give_the_middles_of_their_cells():
    row, column = np.divmod(np.random.default_rng(0).integers(0, 28 * 28, 68), 28)
    probability = torch.zeros(1, 68, 28, 28)
    probability[0, range(68), row, column] = 1
    expected = np.stack([(2 * column + 1) / 28 - 1, (2 * row + 1) / 28 - 1], axis=1)
    np.testing.assert_allclose(soft_argmax(probability)[0], expected, atol=1e-6)


def test_the_correction_sees_how_points_lie_to_each_other_and_not_where(net):
    torch.nn.init.normal_(net.linear[0].weight, std=0.1)
    probability = torch.zeros(1, 68, 28, 28)
    probability[..., 5:15, 8:18] = torch.rand(1, 68, 10, 10, generator=torch.Generator().manual_seed(0))
    probability = probability / probability.sum(dim=(2, 3), keepdim=True)
    with torch.no_grad():
        points, moved = net.points(probability, 0), net.points(probability.roll((2, 1), (2, 3)), 0)
        assert not torch.allclose(points, soft_argmax(probability), atol=1e-2)
    np.testing.assert_allclose((moved - points)[0], np.tile([2 / 28, 4 / 28], (68, 1)), atol=1e-5)


def ramps(side: int) -> torch.Tensor:
    """Two images whose grey values are the pixels' own x and y in view units: (2, 1, side, side)."""
    middles = cell_middles(side, torch.zeros(1))
    return torch.stack([middles.expand(side, side), middles[:, None].expand(side, side)])[:, None]


@pytest.mark.parametrize("side", [112, 56])
def test_a_shrunk_picture_shows_every_place_where_it_was(side):
    np.testing.assert_allclose(shrink(ramps(224), side), ramps(side), atol=1e-6)


def test_view_units_become_network_units_by_hand():
    # The left upper edge is at pixel -0.5, the middle of 224 pixels at 111.5, in units of 50 pixels from 100.
    points = torch.tensor([[[-1.0, -1.0], [0.0, 1.0]]])
    np.testing.assert_allclose(network_units(points)[0] * 50 + 100, [-0.5, -0.5, 111.5, 223.5], atol=1e-4)


@pytest.mark.parametrize(("angle", "scale", "shift"), [(0, 1, (0, 0)), (30, 0.7, (0.2, -0.1)), (-50, 1.3, (-0.1, 0.1))])
def test_the_close_view_shows_a_face_upright_in_the_middle_and_always_equally_large(net, images, angle, scale, shift):
    face = torch.tensor(REFERENCE_FACE[:, :2], dtype=torch.float32) * 0.3
    turn = np.radians(angle)
    turn = torch.tensor([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]], dtype=torch.float32)
    points = ((face - face.mean(0)) * scale) @ turn.T + torch.tensor(shift)
    view, place = net.close_view(images[:1], points[None])
    assert view.shape == (1, 1, net.close, net.close)
    seen = (points - place[0, :, 2]) @ torch.linalg.inv(place[0, :, :2]).T
    np.testing.assert_allclose(from_view(seen[None], place)[0], points, atol=1e-4)
    down = seen[MOUTH].mean(0) - seen[EYES].mean(0)
    assert abs(float(down[0])) < 1e-5 and down[1] > 0
    # The centroid is 15 % of the radius above the view's middle, and the radius 2 × spread of its half.
    np.testing.assert_allclose(seen.mean(0), [0, -0.15 * 2 * net.spread], atol=1e-5)
    centred = seen - seen.mean(0)
    assert float(centred.square().sum(1).mean().sqrt()) == pytest.approx(2 * net.spread, abs=1e-4)
    assert seen.abs().max() < 1  # all of the face is in the view
    assert torch.linalg.det(place[0, :, :2]) > 0  # the person's left stays the picture's right: no mirror image


def test_a_close_view_is_cut_where_its_place_says(net):
    turn = torch.tensor([[0.9, -0.4], [0.4, 0.9]])
    points = torch.tensor(REFERENCE_FACE[:, :2], dtype=torch.float32) * 0.2 @ turn.T + torch.tensor([0.1, -0.05])
    view, place = net.close_view(ramps(224), points.expand(2, -1, -1))  # what it shows is where it was
    cells = ramps(net.close)[:, 0].flatten(1).T  # (112 · 112, 2) view units of the close view
    expected = from_view(cells[None], place[:1])[0]
    assert expected.abs().max() < 0.99  # nothing of it is repeated border
    np.testing.assert_allclose(view.flatten(1).T, expected, atol=1e-4)


def test_points_on_one_spot_still_give_a_view(net, images):
    for spot in (0.0, 7.0):
        view, place = net.close_view(images, torch.full((4, 68, 2), spot))
        assert torch.isfinite(view).all() and torch.isfinite(place).all()


@pytest.mark.parametrize(("spread", "radius"), [(0.0, 0.1), (0.01, 0.1), (0.4, 0.4), (3.0, 0.8)])
def test_whatever_the_first_look_says_the_second_sees_a_part_of_the_picture(net, images, spread, radius):
    face = torch.tensor(REFERENCE_FACE[:, :2], dtype=torch.float32)
    face = face - face.mean(0)
    points = face / face.square().sum(1).mean().sqrt() * spread
    _, place = net.close_view(images[:1], points[None])
    scale = place[0, :, 1].norm()  # of the axis that points down; on one spot there is no direction to the right
    assert float(scale) == pytest.approx(radius / (2 * net.spread) if spread else 0, rel=1e-4)


@pytest.mark.parametrize("kind", [Net, PhotoNet])
def test_every_look_is_told_and_the_last_one_counts(kind, images):
    net = kind().eval()
    with torch.no_grad():
        looks = net(images, every_look=True)
        assert looks.shape == (2, 4, 136) and not torch.equal(looks[0], looks[1])
        assert torch.equal(net(images), looks[1])


@pytest.mark.parametrize("kind", [Net, PhotoNet])
def test_the_second_looks_error_does_not_move_the_first_ones_points(kind, images):
    net = kind().train()
    net(images).sum().backward()
    assert net.linear[0].weight.grad is None and net.linear[1].weight.grad is not None
    assert net.log_temperature.grad[0].abs().max() == 0 < net.log_temperature.grad[1].abs().max()
    net(images, every_look=True).sum().backward()
    assert net.linear[0].weight.grad is not None


def test_batch_norm_counts_for_each_look_apart(net, images):
    first = net.features[2]
    with torch.no_grad():
        before = net(images, every_look=True)
        net.close_norms[0].bias += torch.linspace(0, 1, 32)
        after = net(images, every_look=True)
        assert torch.equal(after[0], before[0]) and not torch.equal(after[1], before[1])
        net.train()(images)
    assert first.num_batches_tracked == net.close_norms[0].num_batches_tracked == 1
    assert not torch.allclose(first.running_mean, net.close_norms[0].running_mean)


def test_photo_net_s_looks_share_nothing(images):
    net = PhotoNet().eval()
    with torch.no_grad():
        before = net(images, every_look=True)
        for parameter in net.looks[1].parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        after = net(images, every_look=True)
    assert torch.equal(after[0], before[0]) and not torch.allclose(after[1], before[1])


def test_sixteen_bits_are_for_training_only(net, images):
    seen = []
    net.features[0].register_forward_hook(lambda layer, given, result: seen.append(result.dtype))
    expected = net(images)
    net.bfloat16 = True
    assert torch.equal(net(images), expected) and set(seen) == {torch.float32}
    seen.clear()
    result = net.train()(images)
    assert torch.isfinite(result).all() and result.dtype == torch.float32 and set(seen) == {torch.bfloat16}


# PhotoNet -------------------------------------------------------------------------------------------------------------


def test_what_photo_net_describes_are_the_points_it_gives(images):
    net = PhotoNet().eval()
    with torch.no_grad():
        points, confidence, score = net.describe(images)
        np.testing.assert_allclose(points, net(images), atol=1e-5)
        assert confidence.shape == (4, 68) and score.shape == (4,)
        assert (confidence == 0.5).all() and (score == 0.5).all()  # not fitted yet
        net.confidence_weights[:, -1], net.score_weights[-1] = 2.0, -2.0
        _, confidence, score = net.describe(images)
    np.testing.assert_allclose(confidence, 1 / (1 + np.exp(-2)), rtol=1e-5)
    np.testing.assert_allclose(score, 1 / (1 + np.exp(2)), rtol=1e-5)


def painting(maps: torch.Tensor) -> PhotoNet:
    """A PhotoNet that draws these maps, (1, 68, H, W), whatever it sees."""
    net = PhotoNet().eval()
    net.draw = lambda view, look: (maps.expand(len(view), -1, -1, -1), torch.zeros(len(view), net.looks[look].width))
    return net


def test_the_evidence_for_a_point_by_hand(images):
    # Each map says: as likely here as four cells to the right. The second correction moves every point down by 0.1.
    maps = torch.full((1, 68, 28, 28), -1e4)
    maps[..., 12, 10] = maps[..., 12, 14] = 0
    net = painting(maps)
    with torch.no_grad():
        net.linear[0].bias.copy_(0.3 * torch.tensor(REFERENCE_FACE[:, :2], dtype=torch.float32).flatten())
        net.linear[1].bias.copy_(torch.tensor([0.0, 0.1]).repeat(68))
        net.confidence_weights[:, 1] = 1.0  # logistic(log ½) = ⅓
        first = net.first_look(images)
        _, place = net.close_view(images, first)
        _, evidence, face = net.judged(images)
        _, confidence, _ = net.describe(images)
    spread, peak, corrected_by, moved = evidence.unbind(2)
    np.testing.assert_allclose(spread, np.log(4 / 28), atol=1e-3)
    np.testing.assert_allclose(peak, np.log(0.5), atol=1e-5)
    np.testing.assert_allclose(corrected_by, 0.1, atol=1e-5)
    seen = (first - place[:, None, :, 2]) @ torch.linalg.inv(place[:, :, :2]).transpose(1, 2)  # the first look's points
    middle = torch.tensor([2 * 12 + 1, 2 * 12 + 1]) / 28 - 1
    np.testing.assert_allclose(moved, (middle + torch.tensor([0, 0.1]) - seen).norm(dim=2), atol=1e-4)
    np.testing.assert_allclose(face[:, -4:], evidence.mean(dim=1), atol=1e-6)
    np.testing.assert_allclose(confidence, 1 / 3, atol=1e-4)


def test_even_points_on_one_spot_have_a_confidence(images):
    net = painting(torch.zeros(1, 68, 28, 28))
    with torch.no_grad():
        net.linear[0].weight.zero_()
        net.confidence_weights.fill_(0.1), net.score_weights.fill_(0.1)
        assert all(torch.isfinite(part).all() for part in net.describe(images))


def trained_a_little() -> PhotoNet:
    """A PhotoNet whose BatchNorm has counted, so that folding it changes the convolutions."""
    net = PhotoNet().train()
    with torch.no_grad():
        for _ in range(2):
            net(torch.rand(8, 1, 224, 224))
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 1.5), layer.bias.normal_(0, 0.1)
    return net.eval()


def test_a_network_made_fast_says_the_same_without_batch_norm(images):
    net = trained_a_little()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.inference_mode():
        fast = made_fast(net)
        for slow_part, fast_part in zip(net.describe(images), fast.describe(images), strict=True):
            np.testing.assert_allclose(fast_part, slow_part, atol=2e-4)
        assert torch.equal(made_fast(fast)(images), fast(images))  # twice is as good as once
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in fast.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())  # the first is untouched


def test_a_network_made_fast_with_sixteen_bits_says_nearly_the_same(images):
    net = load_model()
    with torch.inference_mode():
        fast = made_fast(net, bfloat16=True)
        points, confidence, _ = fast.describe(images)
        exact = net.describe(images)
    assert fast.looks[0].to_maps.weight.dtype == torch.bfloat16 and points.dtype == confidence.dtype == torch.float32
    assert 0 < (points - exact[0]).abs().mean() < 0.02  # network units of 50 pixels
    np.testing.assert_allclose(confidence, exact[1], atol=0.15)


def test_the_recipe_s_network_has_sixteen_bits_too(images):
    net = load_model(RECIPE_MODEL)
    with torch.inference_mode():
        fast, exact = made_fast(net, bfloat16=True)(images), net(images)
        assert torch.equal(made_fast(net)(images), exact)
    assert fast.dtype == torch.float32 and 0 < (fast - exact).abs().mean() < 0.02


def test_a_network_of_another_kind_is_left_as_it_is():
    other = nn.Linear(2, 2)
    assert made_fast(other, bfloat16=True) is other


def test_photo_net_learns_two_samples_by_heart():
    torch.manual_seed(0)
    net, images = PhotoNet().train(), torch.rand(2, 1, 224, 224)
    face = 0.3 * torch.tensor(REFERENCE_FACE[:, :2], dtype=torch.float32)
    truth = network_units(face + torch.tensor([[[-0.2, 0.0]], [[0.2, 0.0]]]))
    optimizer = torch.optim.Adam(net.parameters(), lr=4e-3)
    for _ in range(20):
        optimizer.zero_grad()
        (net(images, every_look=True) - truth).abs().mean().backward()
        optimizer.step()
    with torch.no_grad():
        errors = 50 * (net(images) - truth).abs()  # pixels; the same points for both would be 11 off
    assert errors.mean() < 5


# The table of layers --------------------------------------------------------------------------------------------------


def test_the_table_of_layers_by_hand(net):
    rows = layer_table(net)
    facts = {i: (row["output"], row["parameters"], row["receptive_field"], row["jump"]) for i, row in enumerate(rows)}
    assert len(rows) == 17
    assert facts[0] == ((32, 112, 112), 32 * 25, 5, 1)
    assert facts[1] == ((32, 56, 56), 0, 6, 2)
    assert facts[2] == ((32, 56, 56), 64, 6, 2)
    assert facts[4] == ((64, 56, 56), 64 * 32 * 9, 10, 2)
    assert facts[5] == ((64, 28, 28), 0, 12, 4)
    assert facts[8] == ((128, 28, 28), 128 * 64 * 9, 20, 4)
    assert facts[9] == ((128, 28, 28), 0, 28, 4)
    assert facts[13] == ((68, 28, 28), 68 * 128 * 25, 28 + 4 * 3 * 4, 4)
    assert facts[16] == ((68, 28, 28), 0, 84, 4)


def test_the_receptive_field_is_the_region_that_moves_an_output(net):
    row = layer_table(net)[-1]
    layers = []
    for layer in net.features:  # the same geometry, but every path carries a gradient: no ReLU, mean instead of maximum
        if isinstance(layer, nn.Conv2d):
            nn.init.ones_(layer.weight)
            layers.append(layer)
        elif isinstance(layer, nn.MaxPool2d):
            layers.append(nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding))
    image = torch.zeros(1, 1, 112, 112, dtype=torch.float64, requires_grad=True)
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


def test_weights_that_do_not_say_how_large_the_first_look_is_saw_112_pixels(net, tmp_path):
    save_model(net, tmp_path / "now.pt")
    assert load_model(tmp_path / "now.pt").whole == net.whole == 56
    content = torch.load(tmp_path / "now.pt", weights_only=True)
    del content["arguments"]["whole"]
    torch.save(content, tmp_path / "earlier.pt")
    assert load_model(tmp_path / "earlier.pt").whole == 112


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


@pytest.mark.parametrize("name", ["a" * 251 + ".csv", "脸" * 83 + ".csv", "x", "-", ".csv"])
def test_whatever_name_a_file_can_have_can_be_written(tmp_path, name):
    try:
        (tmp_path / name).touch()
    except OSError:
        pytest.skip("this file system does not take the name")
    write_atomically(tmp_path / name, lambda part: part.write_text("new"))
    check_writable(tmp_path / name)
    assert (tmp_path / name).read_text() == "new" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.name != "posix", reason="needs links, pipes and modes")
def test_links_are_followed_and_modes_kept(tmp_path):
    (tmp_path / "real").mkdir()
    file, link, new = tmp_path / "real" / "k.csv", tmp_path / "link.csv", tmp_path / "new.csv"
    file.write_text("old")
    file.chmod(0o600)
    link.symlink_to(file)
    new.symlink_to(tmp_path / "real" / "new.csv")  # leads to where nothing is yet
    for path in (link, new):
        write_atomically(path, lambda part: part.write_text("new"))
        assert path.is_symlink() and path.read_text() == "new"
    assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(file.name for file in (tmp_path / "real").iterdir()) == ["k.csv", "new.csv"]
    link.unlink()
    link.symlink_to(link)
    for write in (lambda path: write_atomically(path, None), check_writable):
        with pytest.raises(OSError, match=r"Too many levels of symbolic links: .*link\.csv"):
            write(link)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_and_a_device_are_written_to_and_stay(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(tmp_path / "pipe", lambda part: part.write_text("new"))
    assert os.read(reading, 9) == b"new" and (tmp_path / "pipe").is_fifo()
    os.close(reading)
    write_atomically(os.devnull, lambda part: part.write_text("new"))
    check_writable(os.devnull)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    if Path("/dev/stdout").exists():  # whatever it leads to, what is there already must not be replaced
        assert replaceable("/dev/stdout") is replaceable("/dev/fd/1") is None
    if Path("/dev/full").exists():
        with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
            write_atomically("/dev/full", lambda part: part.write_text("new"))


def protected(tmp_path: Path, how: str) -> Path:
    """Where a file cannot be written: its name, with what belongs there made."""
    path = tmp_path / "place" / "k.csv"
    if how == "a folder that is a file":
        path.parent.write_text("a file")
        return path
    path.parent.mkdir()
    if how == "a folder":
        path.mkdir()
        return path
    if os.name != "posix" or os.geteuid() == 0:
        pytest.skip("modes do not bind everybody here")
    path.write_text("precious")
    (path if how == "a read-only file" else path.parent).chmod(0o444 if how == "a read-only file" else 0o555)
    return path


@pytest.mark.parametrize("how", ["a folder that is a file", "a folder", "a read-only file", "a read-only folder"])
def test_what_cannot_be_written_is_told_by_name_and_stays(tmp_path, how):
    path = protected(tmp_path, how)
    before = path.read_bytes() if path.is_file() else None
    for write in (lambda path: write_atomically(path, lambda part: part.write_text("new")), check_writable):
        with pytest.raises(OSError) as caught:
            write(path)
        assert caught.value.filename == str(path) and "exists" not in str(caught.value)
    assert (path.read_bytes() if path.is_file() else None) == before
    path.parent.chmod(0o755)
    assert len(list(tmp_path.rglob("*"))) == (1 if how == "a folder that is a file" else 2)


def test_a_checkpoint_goes_only_once_the_weights_and_their_record_are_there(net, tmp_path, monkeypatch):
    checkpoint = tmp_path / "net.checkpoint"
    checkpoint.touch()
    net.checkpoints = (checkpoint,)
    (tmp_path / "net.json").mkdir()
    with pytest.raises(OSError, match=r"net\.json"):
        save_model(net, tmp_path / "net.pt", {})
    assert checkpoint.exists()
    (tmp_path / "net.json").rmdir()
    save_model(net, tmp_path / "net.pt", {})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.json", "net.pt"]


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
        ({"network": ["Net"], "state_dict": {}}, r"got weights of network \['Net'\], expected one of Net"),
        ({"network": torch.zeros(50, 50), "state_dict": {}}, r"got weights of network <?[Tt]ensor.*, expected one of"),
        ({"network": "x" * 100_000, "state_dict": {}}, r"got weights of network 'x+\.\.\.x+', expected one of"),
        ({"network": 10**400, "state_dict": {}}, r"got weights of network 10+\.\.\.0+, expected one of"),
    ],
)
def test_weights_of_another_network_raise_a_sentence(tmp_path, content, sentence):
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=sentence) as caught:
        load_model(tmp_path / "net.pt")
    assert str(caught.value).startswith(str(tmp_path / "net.pt")) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


FRAMING = {"scale": 1.5, "dx": 0.0, "dy": 0.1, "box_scale": 1.1, "box_dx": 0.0, "box_dy": -0.1}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"arguments": {"whole": 10**9}}, "got a first look of 1000000000 pixels, expected 28 to 224"),
        ({"arguments": {"dropout": 5.0}}, r"do not fit Net: .*; expected those of 'python -m keypoints train'"),
        (
            {"arguments": {"dropout": float("nan")}},
            "do not fit Net: got the arguments {'dropout': nan, .*, expected num",
        ),
        (
            {"arguments": {"dropout": torch.zeros(9, 9)}},
            "do not fit Net: got the arguments {'dropout': tensor.*, expected",
        ),
        ({"arguments": {"whole": 10**400}}, "do not fit Net: got a first look of 10+"),
        ({"arguments": [1, 2]}, "do not fit Net: "),
        ({"arguments": torch.zeros(3)}, "do not fit Net: "),
        ({"state_dict": {n: v * torch.nan for n, v in Net().state_dict().items()}}, "are not finite"),
        ({"state_dict": {n: v.to(torch.complex64) for n, v in Net().state_dict().items()}}, "fit Net: complex numbers"),
        ({"state_dict": {n: v.to("meta") for n, v in Net().state_dict().items()}}, "do not fit Net: "),
        ({"state_dict": dict.fromkeys(Net().state_dict(), "abc")}, "do not fit Net: "),
        *(
            ({"framing": framing}, r"got the framing .+, expected numbers in sides of a face's box")
            for framing in (
                torch.zeros(2),
                "x" * 100_000,
                [1.0],
                {**FRAMING, "scale": torch.zeros(2)},
                {**FRAMING, "scale": 10**400},
                {**FRAMING, "scale": 0},
                {**FRAMING, "dy": float("nan")},
                {**FRAMING, "box_dy": float("-inf")},
                {**FRAMING, "box_scale": "1.1"},
                {**FRAMING, 3: 1.0},
            )
        ),
    ],
)
def test_weights_of_this_network_with_values_it_cannot_have_raise_a_sentence(net, tmp_path, changed, sentence):
    save_model(net, tmp_path / "net.pt")
    content = torch.load(tmp_path / "net.pt", weights_only=True)
    torch.save({**content, **changed}, tmp_path / "net.pt")
    for load in (load_model, KeypointDetector):
        with pytest.raises(ValueError, match=sentence) as caught:
            load(tmp_path / "net.pt")
        text = str(caught.value)
        assert text.startswith(str(tmp_path / "net.pt")) and "\n" not in text and len(text) < 600


def test_weights_that_unpack_to_more_than_the_file_are_refused_before_they_do(tmp_path):
    torch.save({"network": "Net", "state_dict": {"a": torch.zeros(10_000_000)}}, tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as whole, zipfile.ZipFile(tmp_path / "net.pt", "w") as bomb:
        for name in whole.namelist():
            bomb.writestr(name, whole.read(name), zipfile.ZIP_DEFLATED)
    assert torch.load(tmp_path / "net.pt", weights_only=True)["state_dict"]["a"].numel() == 10_000_000  # PyTorch would
    assert (tmp_path / "net.pt").stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"net\.pt: expected weights saved by save_model, got"):
        load_model(tmp_path / "net.pt")


def test_a_missing_file_and_a_directory_are_os_errors(tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(OSError):
            load_model(path)


def test_the_shipped_weights_load_and_match_their_record():
    if not SHIPPED.exists():
        pytest.skip(f"{SHIPPED.name} is not trained yet")
    record = json.loads(SHIPPED.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["sha256"] == hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    assert load_model(SHIPPED).framing == record["framing"] and SHIPPED.stat().st_size < 10e6


def test_nothing_is_ever_unpickled():
    for file in [ROOT / "data_load.py", ROOT / "models.py", *(ROOT / "keypoints").glob("*.py")]:
        code = file.read_text(encoding="utf-8")
        loads = re.findall(r"torch\.load\(.*?\)(?=\n|\[)", code)
        assert all("weights_only=True" in load for load in loads), file
        assert not re.search(r"allow_pickle=True|pickle\.load|weights_only=False", code), file
        assert code.count("torch.load(") == len(loads)
