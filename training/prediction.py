"""Predictions of a PyTorch network for many images: keypoints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from data_load import NUM_KEYPOINTS, Normalize


@torch.no_grad()
def predict(net: nn.Module, images: Dataset | Sequence | torch.Tensor, batch_size: int = 16) -> np.ndarray:
    """Keypoints of many images, in pixels of the network's 224×224 input; the network's mode stays.

    Args:
        images: a dataset of samples, or a tensor (N, 1, 224, 224) float32 in [0, 1].

    Returns:
        (N, 68, 2) float32.
    """
    training, device = net.training, next(net.parameters()).device
    net.eval()
    results = []
    try:
        for start in range(0, len(images), batch_size):
            if isinstance(images, torch.Tensor):
                batch = images[start : start + batch_size]
            else:
                batch = torch.stack([images[i]["image"] for i in range(start, min(start + batch_size, len(images)))])
            results.append(net(batch.to(device)).cpu())
    finally:
        net.train(training)
    return (
        Normalize.inverse(torch.cat(results)).unflatten(1, (NUM_KEYPOINTS, 2)).numpy()
        if results
        else np.zeros((0, NUM_KEYPOINTS, 2), np.float32)
    )
