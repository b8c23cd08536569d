"""The networks. :mod:`training.weights` saves and loads them, :mod:`training.export` writes their ONNX files."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from data_load import IMAGE_SIZE, KEYPOINT_MEAN, KEYPOINT_STD, NUM_KEYPOINTS

__all__ = ["NETWORKS", "CoarseToFine", "FaceDetector", "HeatmapNet", "PhotoNet", "SimpleNet", "layer_table"]

EYES, MOUTH = slice(36, 48), slice(48, 68)  # of the 68 points; all parts stand in keypoints.landmarks


class SimpleNet(nn.Module):
    """The course's network to the letter: four blocks of Conv2d, ReLU, MaxPool and BatchNorm; Dropout; a linear layer.

    Input: (N, 1, 224, 224) float32, grey in [0, 1]. Output: (N, 136) float32, keypoints x0, y0, x1, … in network units,
    (pixels - 100) / 50.

    Args:
        dropout: probability that a value before the linear layer is left out in training.

    >>> SimpleNet()(torch.zeros(2, 1, 224, 224)).shape
    torch.Size([2, 136])
    """

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.arguments = {"dropout": dropout}
        self.framing: dict | None = None  # how faces are framed at use as at training, see keypoints.network.Framing

        def block(inputs: int, outputs: int, kernel: int, pool: int = 2) -> list[nn.Module]:
            convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
            return [convolution, nn.ReLU(), nn.MaxPool2d(pool), nn.BatchNorm2d(outputs)]

        self.features = nn.Sequential(*block(1, 16, 5, 4), *block(16, 32, 3), *block(32, 64, 3), *block(64, 128, 3))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(128 * 7 * 7, 2 * NUM_KEYPOINTS)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.linear(self.dropout(self.features(image).flatten(1)))


class HeatmapNet(nn.Module):
    """Four blocks of convolution, MaxPool, BatchNorm and ReLU that end in a heatmap for each keypoint.

    A softmax turns a heatmap into a probability of where the keypoint is, and the expected position is the keypoint
    (soft-argmax, Sun et al., 2018, https://arxiv.org/abs/1711.08229). A linear layer then sees the keypoints of all
    heatmaps relative to their centroid, and moves each a little by what a single heatmap cannot know: how the keypoints
    of a face lie to each other. The loss counts both, before and after the linear layer, so a heatmap must be high
    where its keypoint is.

    Input: (N, 1, 224, 224) float32, grey in [0, 1]. Output: (N, 136) float32, keypoints x0, y0, x1, … in network units,
    (pixels - 100) / 50; with ``every_output=True`` (2, N, 136): before and after the linear layer.

    Args:
        side: pixels of the view that the convolutions see; the image is averaged down to it.
        dropout: probability that one of the 128 channels before the last convolution is left out in training.
        correction: whether the linear layer is there.

    >>> HeatmapNet()(torch.zeros(2, 1, 224, 224)).shape
    torch.Size([2, 136])
    """

    outputs = 2

    def __init__(self, side: int = 112, dropout: float = 0.05, correction: bool = True) -> None:
        if not (isinstance(side, int) and 28 <= side <= IMAGE_SIZE):
            raise ValueError(f"got a view of {side!r} pixels, expected 28 to {IMAGE_SIZE}")
        super().__init__()
        self.arguments = {"side": side, "dropout": dropout, "correction": correction}
        self.side = side
        self.framing: dict | None = None
        self.bfloat16 = False  # train the convolutions with 16 bits: twice as fast on processors made for it

        def block(inputs: int, outputs: int, kernel: int, pool: nn.MaxPool2d, dilation: int = 1) -> list[nn.Module]:
            # BatchNorm follows and has a bias of its own, so the convolution needs none. Pooling first leaves a
            # quarter of the values to normalise, and where BatchNorm's factor is positive ReLU gives the same.
            convolution = nn.Conv2d(inputs, outputs, kernel, 1, dilation * (kernel // 2), dilation, bias=False)
            return [convolution, pool, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

        self.features = nn.Sequential(
            *block(1, 32, 5, nn.MaxPool2d(2)),
            *block(32, 64, 3, nn.MaxPool2d(2)),
            *block(64, 128, 3, nn.MaxPool2d(3, stride=1, padding=1)),  # stride 1: a heatmap has a cell each 4 pixels
            nn.Dropout2d(dropout),
            *block(128, NUM_KEYPOINTS, 5, nn.MaxPool2d(3, stride=1, padding=1), dilation=3),
        )
        self.log_temperature = nn.Parameter(torch.ones(NUM_KEYPOINTS, 1, 1))  # how peaked a softmax is
        self.linear = nn.Linear(2 * NUM_KEYPOINTS, 2 * NUM_KEYPOINTS) if correction else None
        if self.linear is not None:
            nn.init.normal_(self.linear.weight, std=1e-3)  # starts as no correction
            nn.init.zeros_(self.linear.bias)
        self.to(memory_format=torch.channels_last)  # convolutions on a CPU are faster so

    def heatmaps(self, view: torch.Tensor) -> torch.Tensor:
        """Logits of where in a view each keypoint is: (N, 1, S, S) → (N, 68, S/4, S/4)."""
        # Mean 0 and deviation 1, in shade as in sunlight; eps keeps the noise of an even grey from growing large.
        view = functional.instance_norm(view, eps=1e-3).contiguous(memory_format=torch.channels_last)
        with torch.autocast(view.device.type, torch.bfloat16, enabled=self.bfloat16 and self.training):
            heatmaps = self.features(view)
        return heatmaps.float() * self.log_temperature.exp()

    def points(self, view: torch.Tensor) -> torch.Tensor:
        """Keypoints of a view, before and after the correction: (N, 1, S, S) → (2, N, 68, 2) in crop units."""
        expected, _ = expected_points(self.heatmaps(view))
        if self.linear is None:
            return torch.stack([expected, expected])
        moved = self.linear((expected - expected.mean(dim=1, keepdim=True)).flatten(1))
        return torch.stack([expected, expected + moved.unflatten(1, (NUM_KEYPOINTS, 2))])

    def forward(self, image: torch.Tensor, every_output: bool = False) -> torch.Tensor:
        outputs = network_units(self.points(shrink(image, self.side)))
        return outputs if every_output else outputs[-1]


class CoarseToFine(nn.Module):
    """Two networks, one after the other: the first finds the face, the second sees it upright and always equally large.

    The coarse stage sees the whole image with few pixels. By its keypoints the face is cut out of the image: a spatial
    transformer (Jaderberg et al., 2015, https://arxiv.org/abs/1506.02025) whose transform comes from keypoints. The
    fine stage sees that crop, and its keypoints are the answer.

    Input and output as :class:`HeatmapNet`'s; with ``every_output=True`` (4, N, 136): of the coarse stage and the fine
    stage, each before and after its linear layer.

    Args:
        sides: pixels of the views of the coarse and the fine stage.
        stage: makes a stage of its side: a network that has ``points`` as :class:`HeatmapNet`.

    >>> CoarseToFine()(torch.zeros(2, 1, 224, 224)).shape
    torch.Size([2, 136])
    """

    outputs = 4
    spread = 0.27  # root mean square distance of the keypoints from their centroid, as a share of the crop's side

    def __init__(
        self, sides: tuple[int, int] = (56, 112), stage: Callable[[int], nn.Module] = HeatmapNet
    ) -> None:
        super().__init__()
        self.arguments = {"sides": list(sides)}
        self.framing: dict | None = None
        self.coarse, self.fine = (stage(side) for side in sides)

    def crop_transform(self, points: torch.Tensor) -> torch.Tensor:
        """Where the crop of keypoints (N, 68, 2), in crop units of the image, lies in the image.

        Returns:
            (N, 2, 3): the columns are the crop's sides, to the right and downwards, and its middle.
        """
        centroid = points.mean(dim=1)
        radius = (points - centroid[:, None]).square().sum(dim=2).mean(dim=1).clamp_min(1e-8).sqrt()
        radius = radius.clamp(0.05, 0.4)  # untrained keypoints may all lie on one spot, or anywhere
        down = points[:, MOUTH].mean(dim=1) - points[:, EYES].mean(dim=1)
        down = down / down.norm(dim=1, keepdim=True).clamp_min(1e-4)
        # The jaw has few points for its length: the middle of the face is below the centroid.
        middle = centroid.clamp(0, 1) + 0.15 * radius[:, None] * down
        right = torch.stack([down[:, 1], -down[:, 0]], dim=1)
        side = (radius / self.spread)[:, None]
        return torch.stack([side * right, side * down, middle], dim=2)

    def crop(self, image: torch.Tensor, transform: torch.Tensor) -> torch.Tensor:
        """Cut the face out: images (N, 1, 224, 224) and :meth:`crop_transform` → (N, 1, S, S)."""
        edges = torch.cat([transform[:, :, :2], 2 * transform[:, :, 2:] - 1], dim=2)  # PyTorch counts from -1 to 1
        shape = [len(image), 1, self.fine.side, self.fine.side]
        grid = functional.affine_grid(edges, shape, align_corners=False)
        return functional.grid_sample(image, grid, padding_mode="border", align_corners=False)

    def forward(self, image: torch.Tensor, every_output: bool = False) -> torch.Tensor:
        coarse = self.coarse.points(shrink(image, self.coarse.side))
        transform = self.crop_transform(coarse[-1].detach())  # the fine stage's error does not move the coarse points
        fine = to_image(self.fine.points(self.crop(image, transform)), transform)
        return network_units(torch.cat([coarse, fine]) if every_output else fine[-1])


def to_image(points: torch.Tensor, transform: torch.Tensor) -> torch.Tensor:
    """Points of a crop, (…, N, 68, 2), to the image that :meth:`CoarseToFine.crop` cut it from; crop units both."""
    return (points - 0.5) @ transform[:, :, :2].transpose(1, 2) + transform[:, None, :, 2]


def network_units(points: torch.Tensor) -> torch.Tensor:
    """Crop units of the image, (…, 68, 2) from 0 at an edge to 1 at the other, to the network's, (…, 136)."""
    return ((points * IMAGE_SIZE - 0.5 - KEYPOINT_MEAN) / KEYPOINT_STD).flatten(-2)


def shrink(image: torch.Tensor, side: int) -> torch.Tensor:
    """(N, 1, H, W) to (N, 1, side, side) by averaging, so that nothing aliases."""
    if image.shape[-1] % side == 0:
        return functional.avg_pool2d(image, image.shape[-1] // side)
    return functional.interpolate(image, (side, side), mode="area")


class PhotoNet(nn.Module):
    """The 68 keypoints of one levelled face: a heatmap for each, and the expected position under it is the keypoint.

    Depthwise-separable residual blocks from 1/2 down to 1/32 of the crop; a decoder joins the coarse features, which
    know the whole face, with the fine ones, which know where an edge is, at 1/4. Keypoints are read off the heatmaps
    by soft-argmax (https://arxiv.org/abs/1711.08229) with nothing behind it, so a heatmap must be high where its
    keypoint is, and its width says how certain that is (DSNT, https://arxiv.org/abs/1801.07372).

    Input: (N, 1, S, S) float32, grey in [0, 1], S a multiple of 32, cut out by :func:`keypoints.geometry.face_crop`.
    Output: heatmaps' logits (N, 68, S/4, S/4) and the logit of the score (N,): whether this is a face that the
    keypoints fit. :meth:`predict` makes keypoints, confidence and score of them.

    Args:
        channels: at strides 2, 4, 8, 16 and 32.
        depths: blocks at the same strides.
        width: channels of the decoder at stride 4; twice as many at 8.
        dense: blocks of two full 3×3 convolutions instead of separable ones, for the teacher.
        side: pixels of the crop at use, a multiple of 32.

    >>> heatmaps, score = PhotoNet()(torch.zeros(2, 1, 128, 128))
    >>> heatmaps.shape, score.shape
    (torch.Size([2, 68, 32, 32]), torch.Size([2]))
    """

    on_features = True  # its points lie where the features are, not where the official set's labels do
    framing = None

    def __init__(
        self,
        channels: tuple[int, ...] = (24, 64, 128, 224, 320),
        depths: tuple[int, ...] = (1, 3, 4, 4, 2),
        width: int = 64,
        dense: bool = False,
        side: int = 128,
    ) -> None:
        if not all(1 <= value <= 1024 for value in (*channels, *depths, width)):
            raise ValueError(f"got channels {channels}, depths {depths} and the width {width}, expected 1 to 1024")
        super().__init__()
        self.arguments = {"channels": list(channels), "depths": list(depths), "width": width}
        self.arguments |= {"dense": dense, "side": side}
        self.side = side
        block = DenseBlock if dense else SeparableBlock
        self.stem = ConvNorm(1, channels[0], 3, stride=2)
        stages, before = [], channels[0]
        for level, (after, depth) in enumerate(zip(channels, depths, strict=True)):
            blocks = [block(before, after, stride=2)] if level else [block(after, after)]
            stages.append(nn.Sequential(*blocks, *(block(after, after) for _ in range(depth - 1))))
            before = after
        self.stages = nn.ModuleList(stages)
        wide = 2 * width
        widths = (width, wide, wide, wide)
        self.laterals = nn.ModuleList(ConvNorm(*sizes, 1) for sizes in zip(channels[1:], widths, strict=True))
        self.smooth = nn.ModuleList(block(wide, wide) for _ in range(2))
        self.narrow = ConvNorm(wide, width, 1)
        self.head = nn.Sequential(block(width, width), block(width, width))
        self.heatmaps = nn.Conv2d(width, NUM_KEYPOINTS, 1)
        self.score = nn.Linear(channels[-1], 1)
        # Logistic regressions, fitted after the training by training.confidence; until then a confidence is one half.
        self.register_buffer("confidence_weights", torch.zeros(NUM_KEYPOINTS, 3))
        self.register_buffer("score_weights", torch.tensor([1.0, 0, 0, 0]))
        self.to(memory_format=torch.channels_last)

    def forward(self, crop: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        crop = functional.instance_norm(crop, eps=1e-3).contiguous(memory_format=torch.channels_last)
        features, value = [], self.stem(crop)
        for stage in self.stages:
            value = stage(value)
            features.append(value)
        fine, middle, coarse, coarsest = (
            lateral(feature) for lateral, feature in zip(self.laterals, features[1:], strict=True)
        )
        coarse = self.smooth[0](coarse + double(coarsest))
        middle = self.smooth[1](middle + double(coarse))
        fine = self.head(fine + double(self.narrow(middle)))
        return self.heatmaps(fine), self.score(features[-1].mean(dim=(2, 3)))[:, 0]

    def features(self, crop: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute the keypoints and what the regressions of confidence and score take.

        Returns:
            points: (N, 68, 2) in crop units, (x, y) from 0 to 1.
            widths: (N, 68, 2): the logarithms of the heatmap's standard deviation, in crop units, and of its peak.
            face: (N, 3): the score's logit, and the mean of the widths.
        """
        heatmaps, score = self(crop)
        points, probability = expected_points(heatmaps)
        cells = (torch.arange(heatmaps.shape[3], device=crop.device) + 0.5) / heatmaps.shape[3]
        square = probability.sum(dim=2) @ cells.square() + probability.sum(dim=3) @ cells.square()
        deviation = (square - points.square().sum(dim=2)).clamp_min(1e-8).sqrt()
        peak = probability.flatten(2).amax(dim=2).clamp_min(1e-6)
        widths = torch.stack([deviation.log(), peak.log()], dim=2)
        return points, widths, torch.cat([score[:, None], widths.mean(dim=1)], dim=1)

    def predict(self, crop: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Keypoints (N, 68, 2) in crop units, (x, y) from 0 to 1, confidence (N, 68) and score (N,) in [0, 1].

        A keypoint's confidence is the probability that its error is under 5 % of the face's size; the score is the
        probability that the crop shows a face that the keypoints fit.
        """
        points, widths, face = self.features(crop)
        return points, logistic(widths, self.confidence_weights), logistic(face, self.score_weights)


def expected_points(heatmaps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Soft-argmax: logits (N, K, H, W) → points (N, K, 2) in crop units from 0 to 1; probabilities (N, K, H, W)."""
    height, width = heatmaps.shape[2:]
    probability = heatmaps.flatten(2).softmax(dim=2).unflatten(2, (height, width))
    x = probability.sum(dim=2) @ ((torch.arange(width, device=heatmaps.device) + 0.5) / width)
    y = probability.sum(dim=3) @ ((torch.arange(height, device=heatmaps.device) + 0.5) / height)
    return torch.stack([x, y], dim=2), probability


def logistic(features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Probabilities (…,) of features (…, F) by weights (…, F + 1), of which the last is the bias."""
    return ((features * weights[..., :-1]).sum(dim=-1) + weights[..., -1]).sigmoid()


class FaceDetector(nn.Module):
    """A single-shot, anchor-free face detector: a score, a box and five points at each cell of three grids.

    A backbone of depthwise-separable residual blocks (MobileNetV2, https://arxiv.org/abs/1801.04381) down to 1/32, a
    feature pyramid (https://arxiv.org/abs/1612.03144) and one head that the strides 8, 16 and 32 share, as in YuNet
    (https://doi.org/10.1007/s11633-023-1423-y) and SCRFD (https://arxiv.org/abs/2105.04714).

    Input: (N, 1, H, W) float32, grey, mean 0 and standard deviation 1 over the image; H and W multiples of 32.
    Output: (N, A, 15) float32 for the A cells of the three grids, row by row, the finest grid first: the logit of the
    score; the box as the offset of its centre from the cell's centre in strides (x, y) and the logarithm of its width
    and height in strides; the offsets of the five points (right eye, left eye, nose tip, right and left corner of the
    mouth) from the cell's centre in strides. :func:`keypoints.detectors.decode` turns them into pixels.

    Args:
        channels: of the backbone at strides 2, 4, 8, 16 and 32.
        depths: blocks at strides 4, 8, 16 and 32, the one that halves included.
        width: channels of the pyramid and the head.

    >>> FaceDetector()(torch.zeros(1, 1, 96, 64)).shape
    torch.Size([1, 126, 15])
    """

    STRIDES = (8, 16, 32)
    OUTPUTS = 15

    def __init__(
        self,
        channels: tuple[int, ...] = (16, 32, 48, 96, 128),
        depths: tuple[int, ...] = (1, 3, 3, 2),
        width: int = 48,
    ) -> None:
        super().__init__()
        self.arguments = {"channels": list(channels), "depths": list(depths), "width": width}
        self.stem = ConvNorm(1, channels[0], 3, stride=2)
        stages = []
        for before, after, depth in zip(channels[:-1], channels[1:], depths, strict=True):
            rest = [SeparableBlock(after, after) for _ in range(depth - 1)]
            stages.append(nn.Sequential(SeparableBlock(before, after, stride=2), *rest))
        self.stages = nn.ModuleList(stages)
        self.laterals = nn.ModuleList(ConvNorm(inputs, width, 1) for inputs in channels[2:])
        self.smooth = nn.ModuleList(SeparableBlock(width, width) for _ in self.STRIDES)
        self.head = SeparableBlock(width, width)
        self.output = nn.Conv2d(width, self.OUTPUTS, 1)
        nn.init.normal_(self.output.weight, std=0.01)
        nn.init.zeros_(self.output.bias)
        nn.init.constant_(self.output.bias[:1], -4.6)  # a score of 0.01 at first: nearly all cells hold no face
        nn.init.constant_(self.output.bias[3:5], 0.7)  # boxes of two strides
        self.to(memory_format=torch.channels_last)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features, value = [], self.stem(image)
        for stage in self.stages:
            value = stage(value)
            features.append(value)
        coarser, outputs = None, []
        for lateral, smooth, feature in zip(self.laterals[::-1], self.smooth[::-1], features[:0:-1], strict=True):
            value = lateral(feature)
            if coarser is not None:
                value = value + functional.interpolate(coarser, scale_factor=2.0, mode="nearest")
            coarser = smooth(value)
            outputs.append(self.output(self.head(coarser)).flatten(2).transpose(1, 2))
        return torch.cat(outputs[::-1], dim=1)


class ExpressionNet(nn.Module):
    """The expression of one face, from its pixels and its keypoints: how probable each of seven words is.

    Input: crop, (N, 1, S, S) float32, grey in [0, 1], cut out by :func:`keypoints.expression.expression_crop`, S a
    multiple of 16; and (N, 68) float32, the distances of :func:`keypoints.expression.features`.
    Output: (N, 7) logits of :data:`keypoints.expression.EXPRESSIONS`.

    Where a wrinkle lies matters, so the last maps are not averaged but go to the linear layers as they are. In eval
    mode the answer is the mean of those to the crop and to its mirror image, whose distances are the same.

    Args:
        channels: of the convolutions at strides 2, 4, 8 and 16.
        side: pixels of the crop.
        dropout: probability with which an input of a linear layer is set to zero in training.

    >>> ExpressionNet()(torch.zeros(2, 1, 64, 64), torch.zeros(2, 68)).shape
    torch.Size([2, 7])
    """

    FEATURES, WORDS = 68, 7

    def __init__(self, channels: tuple[int, ...] = (16, 32, 64, 88), side: int = 64, dropout: float = 0.3) -> None:
        super().__init__()
        first, second, third, fourth = channels
        self.side = side
        self.register_buffer("mean", torch.zeros(self.FEATURES))
        self.register_buffer("spread", torch.ones(self.FEATURES))
        self.pixels = nn.Sequential(
            ConvNorm(1, first, 5, stride=2),
            ConvNorm(first, second, 3),
            nn.MaxPool2d(2),
            ConvNorm(second, third, 3),
            ConvNorm(third, third, 3),
            nn.MaxPool2d(2),
            ConvNorm(third, fourth, 3),
            ConvNorm(fourth, fourth, 3),
            nn.MaxPool2d(2),
            ConvNorm(fourth, 32, 1),
            nn.Flatten(),
            nn.Dropout(dropout),
        )
        self.distances = nn.Sequential(nn.Linear(self.FEATURES, 32), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Sequential(
            nn.Linear(32 * (side // 16) ** 2 + 32, 64), nn.ReLU(), nn.Dropout(dropout), nn.Linear(64, self.WORDS)
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, crop: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        crop = functional.instance_norm(crop, eps=1e-3)
        distances = self.distances(((features - self.mean) / self.spread).clamp(-4, 4))
        answers = [
            self.head(torch.cat([self.pixels(one.contiguous(memory_format=torch.channels_last)), distances], dim=1))
            for one in ([crop] if self.training else [crop, crop.flip(3)])
        ]
        return torch.stack(answers).mean(dim=0)


class EyeNet(nn.Module):
    """How far the lids of one eye are apart, over the eye's width; about 0.3 open, below 0.12 closed.

    Input: (N, 1, S, S) float32, grey in [0, 1], cut out by :func:`keypoints.signals.eye_crops`, S a multiple of 16.
    Output: (N,).

    Args:
        channels: of the convolutions at strides 1, 2, 4 and 8. side: pixels of the crop.

    >>> EyeNet()(torch.zeros(2, 1, 32, 32)).shape
    torch.Size([2])
    """

    def __init__(self, channels: tuple[int, ...] = (16, 32, 48, 64), side: int = 32) -> None:
        super().__init__()
        self.side, layers = side, []
        for inputs, outputs in itertools.pairwise((1, *channels)):
            layers += [ConvNorm(inputs, outputs, 3), nn.MaxPool2d(2)]
        self.layers = nn.Sequential(
            *layers,
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(channels[-1] * (side // 16) ** 2, 32),
            nn.ReLU(),
            nn.Linear(32, 1),
        )

    def forward(self, crop: torch.Tensor) -> torch.Tensor:
        return self.layers(functional.instance_norm(crop, eps=1e-3))[:, 0]


def double(value: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) to (N, C, 2H, 2W) by repetition."""
    return functional.interpolate(value, scale_factor=2.0, mode="nearest")


class ConvNorm(nn.Sequential):
    """Convolution, BatchNorm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class SeparableBlock(nn.Module):
    """A depthwise 3×3 convolution and a pointwise one, each with BatchNorm; a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        self.norm1 = nn.BatchNorm2d(inputs)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        result = self.norm2(self.pointwise(functional.relu(self.norm1(self.depthwise(value)))))
        return functional.relu(result + value if self.shortcut else result)


class DenseBlock(nn.Module):
    """Two 3×3 convolutions, each with BatchNorm; a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = ConvNorm(inputs, outputs, 3, stride)
        self.convolution = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        result = self.norm(self.convolution(self.first(value)))
        return functional.relu(result + value if self.shortcut else result)


NETWORKS: dict[str, type[nn.Module]] = {
    kind.__name__: kind for kind in (SimpleNet, HeatmapNet, CoarseToFine, PhotoNet, FaceDetector)
}


def layer_table(net: nn.Module) -> list[dict]:
    """Describe what each layer of ``net.features`` makes of a view.

    Args:
        net: a :class:`SimpleNet` or a :class:`HeatmapNet`.

    Returns:
        one dict a layer: layer, output (channels, height, width), parameters, receptive_field (pixels of the view that
        one output value can see) and jump (pixels of the view between neighbouring outputs), by the arithmetic of
        Dumoulin and Visin, https://arxiv.org/abs/1603.07285.
    """
    side = getattr(net, "side", IMAGE_SIZE)
    rows, field, jump, value = [], 1, 1, torch.zeros(1, 1, side, side)
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
