"""Training in several processes, on one machine or more, with PyTorch's DistributedDataParallel.

``torchrun --nproc_per_node=2 -m training train …`` starts the same program twice. Each process takes its part of every
batch; after each backward pass the gradients are averaged (Li et al., 2020, https://arxiv.org/abs/2006.15704), so that
all of them take the same step. Only the first one prints and writes files. Without torchrun these functions do nothing.

On GPUs BatchNorm uses the whole batch (SyncBatchNorm, which PyTorch has for GPUs only). On CPUs it uses the process's
own part, and the first process's running means are kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.utils.data import DataLoader


@dataclass(frozen=True)
class World:
    """The processes of a training.

    Attributes:
        rank: the number of this process, from 0.
        size: how many there are.
        local_rank: the number of this process on its machine, and of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Tell whether this is the process that prints and writes."""
        return self.rank == 0


def world() -> World:
    """Return the processes that train together now; a single one outside :func:`together`."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return World()
    return World(distributed.get_rank(), distributed.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def together(device: str = "cpu") -> Iterator[World]:
    """Join the process group of the processes that torchrun started, and leave it at the end.

    Args:
        device: 'cuda' and 'auto' on a machine with CUDA use nccl, all others gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield World()
        return
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield world()
    finally:
        distributed.destroy_process_group()


def own_device(device: torch.device) -> torch.device:
    """Return the GPU of this process, if there are several processes and no GPU was named."""
    here = world()
    return torch.device("cuda", here.local_rank) if here.size > 1 and str(device) == "cuda" else device


def synchronise_gradients(net: nn.Module) -> nn.Module:
    """Wrap ``net`` for training: the wrapper has the same weights and averages their gradients over the processes.

    All processes start with the first one's weights. On GPUs the BatchNorm layers of ``net`` become SyncBatchNorm;
    names and values of the weights stay.
    """
    if world().size == 1:
        return net
    device = next(net.parameters()).device
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(net)
    return nn.parallel.DistributedDataParallel(net, [device] if device.type == "cuda" else None)


def no_sync(net: nn.Module, wait: bool) -> AbstractContextManager:
    """Do not average gradients yet if ``wait``: more of the same batch follow."""
    wrapped = isinstance(net, nn.parallel.DistributedDataParallel)
    return net.no_sync() if wrapped and wait else nullcontext()


class ShardedBatches:
    """A batch sampler of this process's part of every batch.

    Args:
        batches: a batch sampler, seeded alike in all processes.
        of: the processes. A batch with less than two samples for one of them is dropped, as BatchNorm needs two; that
            can only be the last.
    """

    def __init__(self, batches, of: World) -> None:
        self.batches, self.world = batches, of

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            if len(batch) >= 2 * self.world.size:
                yield batch[self.world.rank :: self.world.size]

    def __len__(self) -> int:
        size, samples = self.batches.batch_size, len(self.batches.sampler)
        last = 0 if self.batches.drop_last else samples % size
        return (samples // size if size >= 2 * self.world.size else 0) + (last >= 2 * self.world.size)


def shard_batches(loader: DataLoader) -> DataLoader:
    """Return a loader of this process's part of the batches of ``loader``, in the same order.

    Raises:
        ValueError: the batches are too small for so many processes, or there is none.
    """
    here = world()
    if here.size == 1:
        return loader
    shares = ShardedBatches(loader.batch_sampler, here)
    if not len(shares):
        raise ValueError(
            f"got {len(loader.batch_sampler.sampler)} samples in batches of {loader.batch_size} for {here.size} "
            f"processes, expected a batch of at least {2 * here.size}: two samples for each"
        )
    return DataLoader(loader.dataset, batch_sampler=shares, generator=loader.generator)


def mean(value: float) -> float:
    """Return the mean of the processes' values."""
    if world().size == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64, device=_backend_device())
    distributed.all_reduce(total)
    return total.item() / world().size


def from_first(value):
    """Return the first process's value in all of them; anything that pickles."""
    if world().size == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, device=_backend_device())
    return values[0]


def agreed(value: bool) -> bool:
    """Check that a boolean is the same in all processes, and return it.

    Raises:
        ValueError: it is not.
    """
    share = mean(float(value))
    if share not in (0, 1):
        raise ValueError("got a checkpoint that only some processes find, expected a folder that all machines share")
    return value


def _backend_device() -> torch.device:
    return torch.device("cuda", world().local_rank) if distributed.get_backend() == "nccl" else torch.device("cpu")
