from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from keypoints.landmarks import REFERENCE_FACE
from models import (
    EYES,
    MOUTH,
    Net,
    PhotoNet,
    cell_middles,
    from_view,
    layer_table,
    network_units,
    shrink,
    soft_argmax,
)


def test_four_images_give_four_times_136_numbers(net, images):
    output = net(images)
    assert tuple(output.shape) == (4, 136) and output.dtype == torch.float32


def test_the_net_is_the_card_literally(net):
    kinds = [type(layer) for layer in net.features if not isinstance(layer, nn.Dropout2d)]
    assert kinds == [nn.Conv2d, nn.MaxPool2d, nn.BatchNorm2d, nn.ReLU] * 4
    assert sum(isinstance(layer, nn.Conv2d) for layer in net.modules()) == 4
    assert sum(isinstance(layer, nn.Dropout2d) for layer in net.modules()) == 1
    assert isinstance(list(net.modules())[-1], nn.Linear) and net.linear[1].out_features == 136


def keypoints_of(net: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return net.predict(images)[0] if isinstance(net, PhotoNet) else net(images)


@pytest.mark.parametrize("kind", [Net, PhotoNet])
def test_batch_gives_what_single_images_give(kind, images):
    net = kind().eval()
    single = torch.cat([keypoints_of(net, image[None]) for image in images])
    np.testing.assert_allclose(keypoints_of(net, images), single, atol=1e-4)


@pytest.mark.parametrize("kind", [Net, PhotoNet])
def test_several_threads_get_what_one_gets(kind, images):
    net = kind().eval()
    expected = keypoints_of(net, images)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(result, expected) for result in pool.map(lambda _: keypoints_of(net, images), range(8)))


@pytest.mark.parametrize("kind", [Net, PhotoNet])
def test_brightness_changes_nothing_and_even_grey_gives_finite_keypoints(kind, images):
    net = kind().eval()
    expected = keypoints_of(net, 0.5 * images)
    np.testing.assert_allclose(keypoints_of(net, 0.5 * images + 0.4), expected, atol=1e-3)
    assert torch.isfinite(keypoints_of(net, torch.full((1, 1, 224, 224), 0.7))).all()


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


def test_every_look_is_told_and_the_last_one_counts(net, images):
    with torch.no_grad():
        looks = net(images, every_look=True)
        assert looks.shape == (2, 4, 136) and not torch.equal(looks[0], looks[1])
        assert torch.equal(net(images), looks[1])


def test_the_second_looks_error_does_not_move_the_first_ones_points(net, images):
    net.train()
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


@pytest.fixture
def crops():
    return torch.rand(4, 1, 96, 96, generator=torch.Generator().manual_seed(0))


def painting(heatmaps: torch.Tensor) -> PhotoNet:
    """A PhotoNet that predicts these heatmaps (1, 68, H, W) for any crop."""
    net = PhotoNet().eval()
    net.forward = lambda crop: (heatmaps.expand(len(crop), -1, -1, -1), torch.full((len(crop),), 1.5))
    return net


def test_keypoint_is_expected_position_under_its_heatmap(crops):
    net = PhotoNet().eval()
    with torch.no_grad():
        heatmaps, score = net(crops)
        points, confidence, probability = net.predict(crops)
    weights = heatmaps[2, 7].flatten().softmax(0).reshape(24, 24)
    middles = (torch.arange(24) + 0.5) / 24
    expected = [float((weights.sum(0) * middles).sum()), float((weights.sum(1) * middles).sum())]
    assert points[2, 7].tolist() == pytest.approx(expected, abs=1e-5)
    assert (confidence == 0.5).all()  # not fitted yet
    np.testing.assert_allclose(probability, score.sigmoid(), atol=1e-6)


def test_confidence_follows_width_and_peak_of_the_heatmap(crops):
    # Each heatmap says: as likely here as four cells to the right.
    heatmaps = torch.full((1, 68, 28, 28), -1e4)
    heatmaps[..., 12, 10] = heatmaps[..., 12, 14] = 0
    net = painting(heatmaps)
    net.confidence_weights[:, 1] = 1.0  # logistic(log ½) = ⅓
    points, widths, face = net.features(crops)
    np.testing.assert_allclose(points, np.full((4, 68, 2), 12.5 / 28), atol=1e-6)
    np.testing.assert_allclose(widths, np.tile(np.log([2 / 28, 0.5]), (4, 68, 1)), atol=1e-3)
    np.testing.assert_allclose(face, np.tile([1.5, *np.log([2 / 28, 0.5])], (4, 1)), atol=1e-3)
    np.testing.assert_allclose(net.predict(crops)[1], 1 / 3, atol=1e-4)


def test_photo_net_has_the_size_that_was_promised():
    net = PhotoNet()
    assert sum(parameter.numel() for parameter in net.parameters()) * 4 < 6e6  # bytes


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
