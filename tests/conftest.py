"""What all tests share: always the sample, two threads, and small data sets made on the spot."""

from __future__ import annotations

import os
from types import SimpleNamespace

os.environ["KEYPOINTS_DATA"] = "sample"  # before anything asks: the tests never touch an official set
os.environ["MPLBACKEND"] = "Agg"

import helpers
import numpy as np
import pytest
import torch

from data_load import Data, read_image
from keypoints.network import Framing
from models import CoarseToFine
from training.framing import framing_dict


@pytest.fixture(scope="session", autouse=True)
def two_threads() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))


@pytest.fixture(autouse=True)
def always_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYPOINTS_DATA", "sample")


@pytest.fixture
def net() -> CoarseToFine:
    torch.manual_seed(0)
    return CoarseToFine().eval()


@pytest.fixture
def framed(net) -> CoarseToFine:
    """An untrained network that a detector can use, however wrong its keypoints are."""
    net.framing = framing_dict(Framing(1.5, 0, 0.1, 1.1, 0, -0.1))
    return net


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 1, 224, 224, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def small_set(tmp_path) -> Data:
    """Six training and three test images of four people, in the official layout, under a path that is not ASCII."""
    root = tmp_path / "Gesichter ü"
    random = np.random.default_rng(0)
    for split, names in (
        ("training", ["Ann_00.jpg", "Ann_01.jpg", "Bo_B_00.jpg", "Bo_B_01.jpg", "Cy_00.jpg", "Dee_00.jpg"]),
        ("test", ["Ann_00.jpg", "Cy_00.jpg", "Cy_01.jpg"]),
    ):
        images = [random.integers(0, 256, (60, 70, 3), dtype=np.uint8) for _ in names]
        points = np.stack([helpers.face_points(30 + i, 32 - i, 20) for i in range(len(names))])
        helpers.write_set(root, split, names, images, points)
    return Data("official", root)


@pytest.fixture
def photo_set(tmp_path) -> list[str]:
    """Twelve crops of one photograph with rough labels: the options that name them."""
    photo, points, images, labels = read_image(helpers.ASTRONAUT), helpers.face_points(222, 115, 48), [], []
    for i in range(12):
        left, top = 110 + 3 * i, 15 + 2 * i
        images.append(photo[top : top + 220, left : left + 220])
        labels.append(points - [left, top])
    helpers.write_set(tmp_path, "training", [f"P{i // 3}_{i:02d}.jpg" for i in range(12)], images, np.stack(labels))
    return ["--csv", str(tmp_path / "training_frames_keypoints.csv"), "--images", str(tmp_path / "training")]


@pytest.fixture
def cli(capfd):
    """Run a command of `python -m keypoints` or `python -m training`: its exit status, and what it printed."""

    def run(*arguments) -> SimpleNamespace:
        status = helpers.command_line(*arguments)
        return SimpleNamespace(status=status, **capfd.readouterr()._asdict())

    return run


@pytest.fixture
def refusal(cli):
    """Run a command that must end with status 2 and one sentence on stderr alone: the sentence without the name."""

    def run(*arguments) -> str:
        done = cli(*arguments)
        [line] = done.err.splitlines()
        name = f"{helpers.package_of(arguments[0])} {arguments[0].split()[0]}: "
        assert done.status == 2 and done.out == "" and line.startswith(name), done
        return line.removeprefix(name)

    return run
