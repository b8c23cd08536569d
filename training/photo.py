"""Training of models.PhotoNet: on video frames, photographs and rendered heads, with the same augmentation for all.

The people of ``data/splits.json`` that are held out for validation and test are in no training set here, so every
figure of the trained network is of unseen people.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn
from torch.utils.data import ConcatDataset, Subset

from data_load import Data, FacialKeypointsDataset, find_data, person_of, read_keypoints, with_all_points
from keypoints.labels import LabelOptions
from training import distributed
from training.augmentation import FaceCrops, framed_transform, gentle_transform, photo_framing, photo_transform
from training.framing import framing_dict, measure_framing
from training.recipe import Recipe, fit, settling
from training.splits import WILD_CSV, people_split, read_splits
from training.weights import load_model, save_model

FRAMES, RENDERED, WILD = "frames", "rendered", "wild"  # the kinds of faces


@dataclass(frozen=True)
class PhotoData:
    """Faces to train on by kind, and those to validate on.

    Attributes:
        training: kind → its sets; a set that is listed twice is used twice an epoch.
        frames: the validation people of the labelled frames, the labels moved onto the features.
        wild: the validation photos, None where the wild set is not there.
        held_out: the validation and the test people.
        framing: see :func:`training.augmentation.photo_framing`, measured on the training people.
    """

    training: dict[str, list[FaceCrops]]
    frames: FaceCrops
    wild: FaceCrops | None
    held_out: list[str]
    framing: dict

    @property
    def validation(self) -> FaceCrops:
        """Return the photos where they are there, else the frames."""
        return self.frames if self.wild is None else self.wild

    @property
    def counts(self) -> dict[str, int]:
        """Return the faces an epoch, by kind."""
        return {kind: sum(len(faces) for faces in sets) for kind, sets in self.training.items()}

    def together(self, kinds: Sequence[str] | None = None) -> ConcatDataset:
        """Return the training faces of these kinds, by default of all, as one set."""
        return ConcatDataset([faces for kind in kinds or self.training for faces in self.training[kind]])

    def files(self, kinds: Sequence[str] | None = None) -> list[str]:
        """Return the names of the images of :meth:`together`, then of the validation images."""
        sets = [faces for kind in kinds or self.training for faces in self.training[kind]]
        return [name for faces in [*sets, self.validation] for name in faces.names]

    def show(self, transform: Callable[[dict], dict]) -> None:
        """Set the transform of all training faces."""
        for faces in self.together().datasets:
            faces.transform = transform


def photo_data(
    name: str,
    csv_file: Path,
    images: Path,
    wild: Path | None,
    rendered: Sequence[Path] = (),
    transform: Callable[[dict], dict] | None = None,
    missing: str = "refuse",
    bad_labels: str = "refuse",
) -> PhotoData:
    """Read all sets that are there.

    Args:
        name: of the labelled frames' set; the labels of 'official' are moved to the features. Where it is 'sample',
            the frames are the sample and no rendered heads are added but ``rendered``.
        csv_file, images: the labelled frames.
        wild: the folder of the wild set, see :func:`training.splits.find_wild`.
        rendered: folders of further heads that ``data/sample/render.py`` wrote.
        transform: of the training faces (default: :func:`training.augmentation.photo_transform`).
        missing, bad_labels: of the labelled frames, see :func:`data_load.read_keypoints`.
    """
    labels = LabelOptions(missing=missing, bad_labels=bad_labels)
    transform, official = transform or photo_transform(), name == "official"
    names = read_keypoints(csv_file, images, **labels)[0]
    people = people_split(names)

    def frames(part: str, how: Callable[[dict], dict]) -> FaceCrops:
        return FaceCrops(csv_file, images, [names[i] for i in people[part]], how, official, **labels)

    training = {FRAMES: [frames("training", transform)]}
    heads = [Data(RENDERED, folder) for folder in rendered]
    heads = heads if name == "sample" else [find_data("sample"), *heads]
    if heads:
        training[RENDERED] = [
            FaceCrops(at.csv_file("training"), at.image_dir("training"), None, transform) for at in heads
        ]
    validation_photos = None
    if wild is not None:
        share = {part: [file for group in groups for file in group] for part, groups in read_splits()["wild"].items()}
        training[WILD] = [FaceCrops(wild / WILD_CSV, wild, share["training"], transform)]
        validation_photos = FaceCrops(wild / WILD_CSV, wild, share["validation"], framed_transform())
    samples = Subset(FacialKeypointsDataset(csv_file, images, with_all_points, **labels), people["training"])
    return PhotoData(
        training=balanced(training),
        frames=frames("validation", framed_transform()),
        wild=validation_photos,
        held_out=sorted({person_of(names[i]) for part in ("validation", "test") for i in people[part]}),
        framing=photo_framing(framing_dict(measure_framing(samples))),
    )


def balanced(sets: dict[str, list]) -> dict[str, list]:
    """Repeat each kind so often that an epoch has about as many faces of each.

    >>> {kind: len(parts) for kind, parts in balanced({"many": [[0] * 50], "few": [[0] * 12, [0] * 5]}).items()}
    {'many': 1, 'few': 6}
    """
    counts = {kind: sum(len(faces) for faces in parts) for kind, parts in sets.items()}
    return {kind: parts * round(max(counts.values()) / counts[kind]) for kind, parts in sets.items()}


def checkpoints(out: Path) -> list[Path]:
    """Return the files from which a training to ``out`` continues; the caller deletes them after saving the weights."""
    trained = out.with_name(f"{out.stem}_unsettled.safetensors")
    return [out.with_suffix(".checkpoint"), out.with_suffix(".settling.checkpoint"), trained,
            trained.with_suffix(".json")]  # fmt: skip


def train(net: nn.Module, data: PhotoData, recipe: Recipe, out: Path, device: str = "cpu") -> tuple[nn.Module, dict]:
    """Train a network, then fine-tune it with gentler augmentation; continue an interrupted training to ``out``.

    Args:
        net: an untrained network.
        recipe: of the training; see :func:`training.recipe.settling` for the fine-tuning.
        out: where the caller will write the weights; the files of :func:`checkpoints` lie beside it.

    Returns:
        the network and its record: as :func:`training.recipe.fit` gives it, of both parts of the training together,
        and ``settled``, the recipe and the history of the second.
    """
    settle, (checkpoint, settling_checkpoint, trained, record_file) = settling(recipe), checkpoints(out)
    net.framing = data.framing
    sets, files = (data.together(), data.validation), data.files()
    if settle.epochs == 0:
        return net, fit(net, *sets, recipe, device, checkpoint, files)
    identity = {"recipe": asdict(recipe), "faces": data.counts}
    known = json.loads(record_file.read_text(encoding="utf-8")) if trained.exists() else {}
    if distributed.agreed(all(known.get(name) == value for name, value in identity.items())):
        net, record = load_model(trained), known["record"]
    else:
        record = fit(net, *sets, recipe, device, checkpoint, files)
        if distributed.world().first:
            save_model(net, trained, {**identity, "record": record})
            checkpoint.unlink()
    data.show(gentle_transform())
    second = fit(net, *sets, settle, device, settling_checkpoint, files)
    return net, {
        **record,
        "seconds": record["seconds"] + second["seconds"],
        "peak_memory_mb": max(record["peak_memory_mb"], second["peak_memory_mb"]),
        "settled": {name: second[name] for name in ("recipe", "history")},
    }
