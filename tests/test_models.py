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
    CoarseToFine,
    HeatmapNet,
    PhotoNet,
    SimpleNet,
    expected_points,
    layer_table,
    network_units,
    shrink,
    to_image,
)

COURSE = [SimpleNet, HeatmapNet, CoarseToFine]


@pytest.mark.parametrize("kind", COURSE)
def test_four_images_give_four_times_136_numbers(kind, images):
    output = kind()(images)
    assert tuple(output.shape) == (4, 136) and output.dtype == torch.float32


@pytest.mark.parametrize("kind", [SimpleNet, HeatmapNet])
def test_network_is_the_card_literally(kind):
    net = kind()
    layers = [type(layer) for layer in net.features if not isinstance(layer, nn.Dropout2d)]
    blocks = [set(layers[i : i + 4]) for i in range(0, len(layers), 4)]
    assert blocks == [{nn.Conv2d, nn.MaxPool2d, nn.BatchNorm2d, nn.ReLU}] * 4
    assert [type(layer) for layer in net.modules()].count(nn.Conv2d) == 4
    assert sum(isinstance(layer, (nn.Dropout, nn.Dropout2d)) for layer in net.modules()) == 1
    assert net.linear.out_features == 136


def keypoints_of(net: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return net.predict(images)[0] if isinstance(net, PhotoNet) else net(images)


@pytest.mark.parametrize("kind", [*COURSE, PhotoNet])
def test_batch_gives_what_single_images_give(kind, images):
    net = kind().eval()
    single = torch.cat([keypoints_of(net, image[None]) for image in images])
    np.testing.assert_allclose(keypoints_of(net, images), single, atol=1e-4)


@pytest.mark.parametrize("kind", [*COURSE, PhotoNet])
def test_several_threads_get_what_one_gets(kind, images):
    net = kind().eval()
    expected = keypoints_of(net, images)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(result, expected) for result in pool.map(lambda _: keypoints_of(net, images), range(8)))


@pytest.mark.parametrize("kind", [HeatmapNet, CoarseToFine, PhotoNet])
def test_brightness_changes_nothing_and_even_grey_gives_finite_keypoints(kind, images):
    net = kind().eval()
    expected = keypoints_of(net, 0.5 * images)
    np.testing.assert_allclose(keypoints_of(net, 0.5 * images + 0.4), expected, atol=1e-3)
    assert torch.isfinite(keypoints_of(net, torch.full((1, 1, 224, 224), 0.7))).all()


# Heatmaps and stages --------------------------------------------------------------------------------------------------


def test_peaked_heatmaps_give_the_middles_of_their_cells():
    row, column = np.divmod(np.random.default_rng(0).integers(0, 28 * 28, 68), 28)
    heatmaps = torch.full((1, 68, 28, 28), -100.0)
    heatmaps[0, range(68), row, column] = 0
    expected = np.stack([(column + 0.5) / 28, (row + 0.5) / 28], axis=1)
    np.testing.assert_allclose(expected_points(heatmaps)[0][0], expected, atol=1e-6)


def test_correction_depends_on_the_shape_of_the_face_and_not_on_its_place(monkeypatch):
    net = HeatmapNet().eval()
    nn.init.normal_(net.linear.weight, std=0.1)
    heatmaps = torch.full((1, 68, 28, 28), -100.0)
    heatmaps[..., 5:15, 8:18] = torch.rand(1, 68, 10, 10, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        monkeypatch.setattr(net, "heatmaps", lambda view: view)
        before, points = net.points(heatmaps)
        _, moved = net.points(heatmaps.roll((2, 1), (2, 3)))
    assert not torch.allclose(points, before, atol=1e-3)
    np.testing.assert_allclose((moved - points)[0], np.tile([1 / 28, 2 / 28], (68, 1)), atol=1e-5)


def ramps(side: int) -> torch.Tensor:
    """Two images whose grey values are the pixels' own x and y in crop units: (2, 1, side, side)."""
    middles = (torch.arange(side) + 0.5) / side
    return torch.stack([middles.expand(side, side), middles[:, None].expand(side, side)])[:, None]


@pytest.mark.parametrize("side", [112, 56])
def test_shrunk_image_shows_every_place_where_it_was(side):
    np.testing.assert_allclose(shrink(ramps(224), side), ramps(side), atol=1e-6)


def test_crop_units_become_network_units_by_hand():
    # The left upper edge is at pixel -0.5, the middle of 224 pixels at 111.5, in units of 50 pixels from 100.
    points = torch.tensor([[[0.0, 0.0], [0.5, 1.0]]])
    np.testing.assert_allclose(network_units(points)[0] * 50 + 100, [-0.5, -0.5, 111.5, 223.5], atol=1e-4)


@pytest.mark.parametrize(("angle", "scale", "shift"), [(0, 1, (0, 0)), (30, 0.7, (0.1, -0.05)), (-50, 1.3, (-0.05, 0))])
def test_crop_shows_a_face_upright_in_the_middle_and_always_equally_large(net, angle, scale, shift):
    face = torch.tensor(REFERENCE_FACE[:, :2], dtype=torch.float32) * 0.15
    turn = np.radians(angle)
    turn = torch.tensor([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]], dtype=torch.float32)
    points = ((face - face.mean(0)) * scale) @ turn.T + torch.tensor(shift) + 0.5
    transform = net.crop_transform(points[None])
    inside = (points - transform[0, :, 2]) @ torch.linalg.inv(transform[0, :, :2]).T + 0.5
    np.testing.assert_allclose(to_image(inside[None], transform)[0], points, atol=1e-4)
    down = inside[MOUTH].mean(0) - inside[EYES].mean(0)
    assert abs(float(down[0])) < 1e-5 and down[1] > 0
    # The centroid is 15 % of the radius above the crop's middle, and the radius is the spread.
    np.testing.assert_allclose(inside.mean(0), [0.5, 0.5 - 0.15 * net.spread], atol=1e-5)
    centred = inside - inside.mean(0)
    assert float(centred.square().sum(1).mean().sqrt()) == pytest.approx(net.spread, abs=1e-4)
    assert inside.min() > 0 and inside.max() < 1  # all of the face is in the crop
    assert torch.linalg.det(transform[0, :, :2]) > 0  # the person's left stays the picture's right: no mirror image
    # What the crop shows is where the transform says.
    crop = net.crop(ramps(224), transform.expand(2, -1, -1))
    cells = ramps(net.fine.side)[:, 0].flatten(1).T  # (112 · 112, 2) crop units
    expected = to_image(cells[None], transform)[0]
    visible = ((expected > 0.01) & (expected < 0.99)).all(dim=1)  # the rest is repeated border
    assert crop.shape == (2, 1, 112, 112) and visible.sum() > 5000
    np.testing.assert_allclose(crop.flatten(1).T[visible], expected[visible], atol=1e-4)


@pytest.mark.parametrize(("spread", "radius"), [(0.0, 0.05), (0.005, 0.05), (0.2, 0.2), (1.5, 0.4)])
def test_whatever_the_coarse_stage_says_the_fine_one_gets_a_part_of_the_image(net, images, spread, radius):
    face = torch.tensor(REFERENCE_FACE[:, :2], dtype=torch.float32)
    face = face - face.mean(0)
    points = face / face.square().sum(1).mean().sqrt() * spread + 3.0
    transform = net.crop_transform(points[None])
    side = transform[0, :, 1].norm()  # of the axis that points down; on one spot there is no direction to the right
    assert float(side) == pytest.approx(radius / net.spread if spread else 0, rel=1e-4)
    assert torch.isfinite(net.crop(images[:1], transform)).all() and (transform[0, :, 2] < 1.5).all()


def test_every_output_is_given_and_the_last_one_counts(net, images):
    with torch.no_grad():
        outputs = net(images, every_output=True)
        assert outputs.shape == (net.outputs, 4, 136) and not torch.equal(outputs[1], outputs[3])
        assert torch.equal(net(images), outputs[-1])


def test_error_of_the_fine_stage_does_not_move_the_coarse_stage(net, images):
    net.train()
    net(images).sum().backward()
    assert net.coarse.linear.weight.grad is None and net.fine.linear.weight.grad is not None
    net(images, every_output=True).sum().backward()
    assert net.coarse.linear.weight.grad is not None


def test_sixteen_bits_are_for_training_only(images):
    net, seen = HeatmapNet().eval(), []
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


def test_table_of_layers_by_hand():
    rows = layer_table(HeatmapNet())
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


def test_table_leaves_the_network_as_it_was():
    net = HeatmapNet()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    layer_table(net)
    assert net.training and all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
