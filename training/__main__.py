"""Command line: ``python -m training train|evaluate|failures|export``."""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
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
from keypoints.command import check_out, printable, run, sentence
from keypoints.files import check_writable, lock, write_json
from keypoints.labels import LabelOptions, LabelWarning
from models import Net
from training import distributed, photo
from training.evaluation import FRAMINGS, RESULTS, by_person, evaluate, evaluate_framings, evaluate_weights, table
from training.export import export_onnx
from training.failures import write_page
from training.framing import framing_dict, measure_framing
from training.recipe import PHOTO_RECIPE, Recipe, fit
from training.splits import find_wild, people_split
from training.weights import DEFAULT_MODEL, MODEL_DIR, load_model, save_model

BUILD = RESULTS.parent / "build"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description="Train networks and measure them.")
    parser.add_argument("--threads", type=int, help="threads for torch (default: as many as cores)")
    parser.set_defaults(set_threads=torch.set_num_threads)
    commands = parser.add_subparsers(dest="command", required=True)
    framings = "; ".join(f"{name}: {text}" for name, text in FRAMINGS.items())

    measure = commands.add_parser(
        "evaluate",
        help="measure weights on labelled images",
        description="Measure weights on the official test set (the sample's where that is missing), on people never "
        "seen (by their twins' records) and on photos in the wild; or, with --csv, on images of your own.",
    )
    _add_set(measure)
    measure.add_argument(
        "--model",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="weights (default: all shipped keypoints_model_*.safetensors)",
    )
    measure.add_argument(
        "--framing", choices=FRAMINGS, nargs="+", default=list(FRAMINGS), help=f"(default: all) {framings}"
    )
    measure.add_argument(
        "--wild",
        type=Path,
        metavar="DIR",
        help="photos in the wild with their wild_keypoints.csv (default: $KEYPOINTS_WILD, else data/wild if present)",
    )
    measure.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="for the figures (default: results/evaluation.json for shipped weights on the official set, "
        "else build/evaluation.json)",
    )
    measure.set_defaults(run=run_evaluate)

    worst = commands.add_parser(
        "failures",
        help="a page of the worst faces",
        description="Write a page of the worst faces of the test images, by part of the face, yaw, sharpness and size.",
    )
    _add_set(worst)
    worst.add_argument(
        "--model", type=Path, default=DEFAULT_MODEL, metavar="FILE", help="weights (default: the shipped ones)"
    )
    worst.add_argument("--framing", choices=["haar", "box"], default="haar", help=f"(default: haar) {framings}")
    worst.add_argument(
        "--out", type=Path, default=BUILD / "failures", metavar="DIR", help="for the page (default: build/failures)"
    )
    worst.set_defaults(run=run_failures)

    train = commands.add_parser(
        "train",
        help="run the recipe",
        description="Train Net on the official set where it was fetched, else on the sample.",
    )
    _add_set(train)
    train.add_argument(
        "--twin",
        action="store_true",
        help="train without the validation and the test people of data/splits.json, watch the former, measure both at "
        "the end, for figures of people never seen (of another set 15 %% of the people each, drawn by the same rule)",
    )
    train.add_argument(
        "--network",
        choices=["Net", "PhotoNet"],
        default="Net",
        help="PhotoNet learns photographs: the training people of the official set or the sample, the wild photos and "
        "rendered heads, each face turned, lit and spoilt anew every time (default: Net, the recipe)",
    )
    train.add_argument("--wild", type=Path, metavar="DIR", help="for PhotoNet: the wild photos (default: see evaluate)")
    train.add_argument(
        "--rendered",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="for PhotoNet: folders written by data/sample/render.py beside the sample",
    )
    train.add_argument("--epochs", type=int, help="(default: the recipe's)")
    train.add_argument("--seed", type=int, default=Recipe.seed)
    train.add_argument(
        "--bfloat16",
        action="store_true",
        help="train the convolutions with 16 bits: twice as fast on processors with AVX512_BF16 or AMX, slow on others",
    )
    train.add_argument("--device", default="cpu", choices=["auto", "cpu", "cuda", "mps"])
    train.add_argument(
        "--out",
        type=Path,
        default=MODEL_DIR / "mine.safetensors",
        metavar="FILE",
        help="weights; their record goes beside them as JSON (default: saved_models/mine.safetensors)",
    )
    train.set_defaults(run=run_train, interrupted="interrupted; the same command goes on from the last whole epoch")

    export = commands.add_parser(
        "export",
        help="write the network for other runtimes",
        description="Write the network's two stages as ONNX files, for any number of faces at once.",
    )
    export.add_argument(
        "--onnx", type=Path, required=True, metavar="NAME", help="NAME.coarse.onnx and NAME.fine.onnx are written"
    )
    export.add_argument(
        "--model", type=Path, default=DEFAULT_MODEL, metavar="FILE", help="weights (default: the shipped ones)"
    )
    export.set_defaults(run=run_export)
    return parser


def run_evaluate(options: argparse.Namespace) -> int:
    name, csv_file, images, how = _labelled(options, "test")
    shipped = sorted(MODEL_DIR.glob("keypoints_model_*.safetensors"))
    models = options.model or shipped
    # Beside one's own images the photos in the wild are measured only where they are asked for.
    wild = None if options.csv and not options.wild else find_wild(options.wild)
    official = name == "official"
    committed = official and models == shipped and options.framing == list(FRAMINGS)
    out = options.json or (RESULTS if committed else BUILD) / "evaluation.json"
    check_out("--json", out, [csv_file, *models])
    check_writable(out)
    measured, status = [], 0
    for model in models:
        try:
            figures = evaluate_weights(model, csv_file, images, wild, options.framing, official, **how)
            figures["by_person"] = None if options.csv else by_person(model)
        except (OSError, ValueError) as error:
            if len(models) == 1:
                raise
            print(sentence(error, model), file=sys.stderr)
            status = 1
            continue
        measured.append(figures)
    if not measured:
        return 2
    content = {"data": name, "models": measured}
    print(f"{table(content)}\n\nNME, failures and AUC (NME_box, 7 %) in percent, [95 % interval over people].")
    if not options.csv and name != "official":
        print(f"The official set is not in data/: this is the {name}'s test set.")
    if not options.csv and not all(model["by_person"] for model in measured):
        print("People never seen are missing where results/ holds no twin's record of the same recipe ('make twin').")
    if not options.csv and wild is None:
        print("The wild photos are not here: name their folder with --wild.")
    write_json(out, content)  # last, so that a full disk takes nothing from what was printed
    print(f"wrote {out}")
    return status


def run_failures(options: argparse.Namespace) -> int:
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out {options.out}: got a file, expected a folder")
    check_writable(options.out / "index.html")
    _, csv_file, images, how = _labelled(options, "test")
    result = evaluate(load_model(options.model), csv_file, images, options.framing, **how)
    print(f"wrote {write_page(options.out, result, FacialKeypointsDataset(csv_file, images, **how))}")
    return 0


def _add_set(command: argparse.ArgumentParser) -> None:
    command.add_argument("--csv", type=Path, help="labels of your own images in the official layout, with --images")
    command.add_argument("--images", type=Path, metavar="DIR", help="the folder that holds these images, with --csv")
    command.add_argument(
        "--missing",
        choices=["refuse", "mask"],
        default="refuse",
        help="what to do with points without coordinates (empty, NaN, -1): refuse them, or mask them: nothing is "
        "learnt from them, and no error counts them (default: refuse)",
    )
    command.add_argument(
        "--bad-labels",
        choices=["refuse", "skip"],
        default="refuse",
        help="what to do with points outside their image and with faces upside down, mirrored or of a few pixels: "
        "refuse them, or leave them out and say how many (default: refuse)",
    )


def _labelled(options: argparse.Namespace, split: str) -> tuple[str, Path, Path, LabelOptions]:
    """The user's own set where --csv and --images name one, else the official set or the sample.

    Returns:
        name, CSV file, folder of the images (all are there), and how the labels (which are sound) are read.
    """
    if (options.csv is None) != (options.images is None):
        raise ValueError("got only one of --csv and --images, expected both or none")
    if options.csv:
        name, csv_file, images = str(options.csv), options.csv, options.images
    else:
        data = find_data()
        name, csv_file, images = data.name, data.csv_file(split), data.image_dir(split)
    how = LabelOptions(missing=options.missing, bad_labels=options.bad_labels)
    require_images(read_keypoints(csv_file, images, **how)[0], images)
    return name, csv_file, images, how


def run_train(options: argparse.Namespace) -> int:
    out = options.out
    check_out("--out", out, [options.csv] if options.csv else [])
    # The first two are the record's and the checkpoint's beside it; the others name PyTorch's own format.
    if out.suffix.lower() in (".json", ".checkpoint", ".pt", ".pth"):
        raise ValueError(f"--out {out}: got the ending {out.suffix}, expected another for the weights: .safetensors")
    if out.exists() and not out.is_file():
        raise ValueError(f"--out {out}: got a device or a pipe, expected a file")
    for file in (out, out.with_suffix(".json"), out.with_suffix(".checkpoint")):
        check_writable(file)  # before hours of training
    with contextlib.ExitStack() as stack:
        world = stack.enter_context(distributed.together(options.device))
        if world.first:  # outs that differ in their ending alone share their record and their checkpoint
            stack.enter_context(lock(out.with_suffix(".json")))
        train = train_photo_net if options.network == "PhotoNet" else train_net
        return train(options, world)


def _recipe(options: argparse.Namespace, recipe: Recipe) -> Recipe:
    epochs = recipe.epochs if options.epochs is None else options.epochs
    return replace(recipe, bfloat16=options.bfloat16, seed=options.seed, epochs=epochs)


def train_photo_net(options: argparse.Namespace, world: distributed.World) -> int:
    if options.twin:
        raise ValueError("got --twin with PhotoNet, which holds the validation and the test people out anyway")
    name, csv_file, images, how = _labelled(options, "training")
    data = photo.photo_data(name, csv_file, images, find_wild(options.wild), options.rendered, **how)
    if world.first:
        print(f"faces an epoch: {data.counts}; {len(data.validation)} to validate on", flush=True)
    net, record = photo.train(data, _recipe(options, PHOTO_RECIPE), options.out, options.device)
    if not world.first:
        return 0
    save_model(net, options.out, {"data": name, "faces": data.counts, "held_out_people": data.held_out, **record})
    print(f"saved {options.out} and {options.out.with_suffix('.json')}")
    return 0


def train_net(options: argparse.Namespace, world: distributed.World) -> int:
    name, csv_file, images, how = _labelled(options, "training")
    if world.first:
        print(f"data: {name}", flush=True)
    training_set = FacialKeypointsDataset(csv_file, images, training_transform(), **how)
    names = training_set.names
    held_out = people_split(names) if options.twin else {}
    train = held_out.pop("training", list(range(len(names))))
    recipe = _recipe(options, Recipe())
    torch.manual_seed(recipe.seed)
    net = Net()
    samples = Subset(FacialKeypointsDataset(csv_file, images, with_all_points, **how), train)
    net.framing = framing_dict(measure_framing(samples))
    validation_set = None
    if options.twin:
        validation_set = Subset(
            FacialKeypointsDataset(csv_file, images, evaluation_transform(), **how), held_out["validation"]
        )
    record = fit(
        net, Subset(training_set, train), validation_set, recipe, options.device, options.out.with_suffix(".checkpoint")
    )
    if not world.first:
        return 0
    people = sorted({person_of(names[i]) for part in held_out.values() for i in part})
    record = {"data": name, "held_out_people": people, **record}
    if options.twin:
        record["by_person"] = {
            part: evaluate_framings(net, csv_file, images, names=[names[i] for i in members], **how)
            for part, members in held_out.items()
        }
    save_model(net, options.out, record)
    print(f"saved {options.out} and {options.out.with_suffix('.json')}")
    return 0


def run_export(options: argparse.Namespace) -> int:
    check_out("--onnx", options.onnx, [options.model])
    for file in export_onnx(load_model(options.model), options.onnx):
        print(f"wrote {file}: {file.stat().st_size / 1e6:.1f} MB")
    return 0


def _tell_warning(others: Callable[..., None]) -> Callable[..., None]:
    """Warnings about labels as one sentence on standard error, each once, and the others as before."""
    told = set()

    def show(message: Warning | str, *details: Any, **more: Any) -> None:
        if not isinstance(message, LabelWarning):
            others(message, *details, **more)
        elif str(message) not in told:
            told.add(str(message))
            print(printable(message), file=sys.stderr)

    return show


def main(arguments: list[str] | None = None) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("always", LabelWarning)
        warnings.showwarning = _tell_warning(warnings.showwarning)
        return run("training", _parser(), arguments)


if __name__ == "__main__":
    sys.exit(main())
