from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys

import pytest
import torch
from helpers import ROOT
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from training import distributed
from training.__main__ import main
from training.distributed import ShardedBatches, World
from training.weights import load_model


def batches(samples: int, size: int, drop_last: bool = False) -> BatchSampler:
    generator = torch.Generator().manual_seed(3)
    return BatchSampler(RandomSampler(range(samples), generator=generator), size, drop_last)


@pytest.mark.parametrize(("samples", "size", "processes"), [(24, 6, 2), (25, 6, 2), (28, 6, 2), (40, 10, 3), (5, 6, 2)])
def test_the_shares_of_a_batch_are_the_batch_that_one_process_would_take(samples, size, processes):
    shares = [ShardedBatches(batches(samples, size), World(rank, processes)) for rank in range(processes)]
    parts = [list(share) for share in shares]
    assert {len(part) for part in parts} == {len(share) for share in shares} and len(parts[0]) == len(shares[0])
    whole = [batch for batch in batches(samples, size) if len(batch) >= 2 * processes]
    assert len(whole) == len(shares[0]) >= 1
    for batch, *of_each in zip(whole, *parts, strict=True):
        assert sorted(itertools.chain(*of_each)) == sorted(batch)
        assert min(len(part) for part in of_each) >= 2


def test_one_process_alone_is_left_as_it_is():
    net, loader = torch.nn.Linear(1, 1), DataLoader(range(4), 2)
    with distributed.together() as world:
        assert world == World() == distributed.world() and world.first
        assert distributed.synchronise_gradients(net) is net and distributed.shard_batches(loader) is loader
        assert distributed.mean(3.5) == 3.5 and distributed.from_first("a") == "a"
        assert distributed.agreed(True) is True and distributed.agreed(False) is False
        assert distributed.own_device(torch.device("cpu")) == torch.device("cpu")


def test_gradients_of_all_but_the_last_part_of_a_batch_stay_here(tmp_path):
    net = torch.nn.Linear(1, 1)
    with distributed.no_sync(net, True):
        pass  # alone there is nobody to keep them from
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        shared = torch.nn.parallel.DistributedDataParallel(net)
        for held in (True, False):
            with distributed.no_sync(shared, held):
                assert shared.require_backward_grad_sync is not held
            assert shared.require_backward_grad_sync
    finally:
        torch.distributed.destroy_process_group()


def test_batches_too_small_for_the_processes_raise_a_sentence(monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: World(1, 4))
    with pytest.raises(ValueError, match=r"got 30 samples in batches of 6 for 4 processes, expected a batch of .* 8"):
        distributed.shard_batches(DataLoader(range(30), 6))


def test_two_processes_train_as_one_does(photo_set, tmp_path, capsys):
    """The command itself under torchrun: one record, one file, the loss of one process within noise."""
    train = ["train", *photo_set, "--epochs", "1", "--twin"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "training"]
    done = subprocess.run(
        [*command, *train, "--out", str(tmp_path / "two.safetensors")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("saved ") == done.stdout.count("epoch 1/1") == done.stdout.count("data: ") == 1
    two = json.loads((tmp_path / "two.json").read_text())
    assert main([*train, "--out", str(tmp_path / "one.safetensors")]) == 0
    one = json.loads((tmp_path / "one.json").read_text())
    assert (one["processes"], two["processes"]) == (1, 2) and one.keys() == two.keys()
    assert one["recipe"] == two["recipe"] and one["samples"] == two["samples"] == 6
    assert two["history"][0].keys() == one["history"][0].keys()
    assert two["history"][0]["training_loss"] == pytest.approx(one["history"][0]["training_loss"], rel=0.2)
    first, second = (load_model(tmp_path / name).state_dict() for name in ("one.safetensors", "two.safetensors"))
    assert first.keys() == second.keys() and all(torch.isfinite(value).all() for value in second.values())
