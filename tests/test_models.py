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
    made_fast,
    network_units,
    shrink,
    soft_argmax,
)
from training.weights import RECIPE_MODEL, load_model


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
