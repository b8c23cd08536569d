"""Train a network on labelled images and save it with its record: what `python -m training train` calls."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

import torch
from torch import nn
from torch.utils.data import Subset

from data_load import (
    FacialKeypointsDataset,
    evaluation_transform,
    find_data,
    person_of,
    read_keypoints,
    require_images,
    training_transform,
    with_all_points,
)
from keypoints.files import check_writable, lock
from keypoints.labels import LabelOptions
from models import CoarseToFine
from training import distributed
from training.evaluation import evaluate_framings
from training.framing import framing_dict, measure_framing
from training.recipe import Recipe, fit
from training.splits import people_split
from training.weights import save_model


@dataclass(frozen=True)
class LabelledSet:
    """Labelled images, and how their labels are read.

    Attributes:
        name: 'official', 'sample' or the CSV file's path.
        csv_file, images: labels in the official layout, and the folder of the images.
        labels: see :func:`data_load.read_keypoints`.
    """

    name: str
    csv_file: Path
    images: Path
    labels: LabelOptions = field(default_factory=LabelOptions)


def labelled_set(
    split: str, csv_file: Path | None = None, images: Path | None = None, **labels: Unpack[LabelOptions]
) -> LabelledSet:
    """Return a set of one's own where it is named, else the official set or the sample; all images are there.

    Args:
        split: 'training' or 'test', of the official set or the sample.
        csv_file, images: labels in the official layout and the folder of the images: both or none.
        labels: see :func:`data_load.read_keypoints`.

    Raises:
        OSError, ValueError: labels or images are missing or wrong.
    """
    if (csv_file is None) != (images is None):
        raise ValueError("got only one of --csv and --images, expected both or none")
    name = str(csv_file)
    if csv_file is None or images is None:
        data = find_data()
        name, csv_file, images = data.name, data.csv_file(split), data.image_dir(split)
    require_images(read_keypoints(csv_file, images, **labels)[0], images)
    return LabelledSet(name, csv_file, images, labels)


def train(
    data: LabelledSet,
    out: Path,
    recipe: Recipe | None = None,
    hold_out: bool = False,
    device: str = "cpu",
) -> dict | None:
    """Train a :class:`models.CoarseToFine`, save it and its record; continue an interrupted training to ``out``.

    Args:
        data: labelled images.
        out: the weights file.
        hold_out: train without the validation and the test people and measure both at the end.
        device: 'cpu', 'cuda', 'mps' or 'auto'.

    Returns:
        the record; None in all processes but the first.

    Raises:
        OSError, ValueError: something can't be read, trained or written, or another process trains to ``out``.
    """
    for file in (out, out.with_suffix(".json"), out.with_suffix(".checkpoint")):
        check_writable(file)  # before hours of training
    recipe = recipe or Recipe()
    with contextlib.ExitStack() as stack:
        world = stack.enter_context(distributed.together(device))
        if world.first:  # outs that differ in their ending alone share their record and their checkpoint
            stack.enter_context(lock(out.with_suffix(".json")))
        torch.manual_seed(recipe.seed)
        net = CoarseToFine()
        record = _train(net, data, recipe, out, hold_out, device)
        if not world.first:
            return None
        save_model(net, out, record)
        out.with_suffix(".checkpoint").unlink(missing_ok=True)
        print(f"saved {out} and {out.with_suffix('.json')}")
        return record


def _train(net: nn.Module, data: LabelledSet, recipe: Recipe, out: Path, hold_out: bool, device: str) -> dict:
    first = distributed.world().first
    if first:
        print(f"data: {data.name}", flush=True)
    place, how = (data.csv_file, data.images), data.labels
    training_set = FacialKeypointsDataset(*place, training_transform(), **how)
    names, validation_set = training_set.names, None
    held_out = people_split(names) if hold_out else {}
    train = held_out.pop("training", list(range(len(names))))
    whole_faces = Subset(FacialKeypointsDataset(*place, with_all_points, **how), train)
    net.framing = framing_dict(measure_framing(whole_faces))
    if hold_out:
        validation_set = FacialKeypointsDataset(*place, evaluation_transform(), **how)
        validation_set = Subset(validation_set, held_out["validation"])
    files = [names[i] for i in [*train, *held_out.get("validation", [])]]
    checkpoint = out.with_suffix(".checkpoint")
    record = fit(net, Subset(training_set, train), validation_set, recipe, device, checkpoint, files)
    people = sorted({person_of(names[i]) for part in held_out.values() for i in part})
    record = {"data": data.name, "held_out_people": people, **record}
    if hold_out and first:
        record["by_person"] = {
            part: evaluate_framings(net, *place, names=[names[i] for i in members], **how)
            for part, members in held_out.items()
        }
    return record
