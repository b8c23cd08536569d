"""Command line: ``python -m training train|evaluate|failures|export``."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from data_load import FacialKeypointsDataset
from keypoints.command import check_out, printable, run, sentence
from keypoints.files import check_writable, write_json
from keypoints.labels import LabelOptions, LabelWarning
from training.evaluation import FRAMINGS, RESULTS, at_use, by_person, evaluate, evaluate_weights, table
from training.export import export_onnx
from training.failures import write_page
from training.recipe import Recipe
from training.splits import find_wild
from training.standard_sets import SETS, measure, standard_table
from training.train import LabelledSet, labelled_set, train
from training.weights import DEFAULT_MODEL, MODEL_DIR, load_model

BUILD = RESULTS.parent / "build"


# fmt: off
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description="Train networks and measure them.")
    parser.add_argument("--threads", type=int, help="threads for torch (default: as many as cores)")
    parser.set_defaults(set_threads=torch.set_num_threads)
    commands = parser.add_subparsers(dest="command", required=True)
    framings = "; ".join(f"{name}: {text}" for name, text in FRAMINGS.items())

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str, more: str, **defaults: Any) -> Callable:
        added = commands.add_parser(name, help=text, description=more)
        added.set_defaults(run=run, **defaults)
        return added.add_argument

    def add_set(add: Callable) -> None:
        add("--csv", type=Path, help="labels of your own images in the official layout, with --images")
        add("--images", type=Path, metavar="DIR", help="the folder that holds these images, with --csv")
        add("--missing", choices=["refuse", "mask"], default="refuse",
            help="what to do with points without coordinates (empty, NaN, -1): refuse them, or mask them in the loss "
            "and the errors (default: refuse)")
        add("--bad-labels", choices=["refuse", "skip"], default="refuse",
            help="what to do with points outside their image and with faces upside down, mirrored or of a few pixels: "
            "refuse them, or leave them out and say how many (default: refuse)")

    weights: dict[str, Any] = {"type": Path, "default": DEFAULT_MODEL, "metavar": "FILE",
                               "help": "weights (default: the shipped ones)"}

    add = command(
        "evaluate", run_evaluate, "measure weights on labelled images",
        "Measure weights on the official test set (the sample's where that is missing), on unseen people (by the "
        "records of by-person models) and on photos in the wild; with --csv on images of your own; with --set on a "
        "standard set.",
    )
    add_set(add)
    add("--set", nargs=2, metavar=("NAME", "DIR"),
        help=f"a standard test set in its published layout, beside the published figures of others: {', '.join(SETS)}")
    add("--model", type=Path, nargs="+", metavar="FILE",
        help="weights (default: all shipped keypoints_model_*.safetensors)")
    add("--framing", choices=FRAMINGS, nargs="+", default=list(FRAMINGS), help=f"(default: all) {framings}")
    add("--wild", type=Path, metavar="DIR",
        help="photos in the wild with their wild_keypoints.csv (default: $KEYPOINTS_WILD, else data/wild if present)")
    add("--json", type=Path, metavar="FILE",
        help="for the figures (default: results/evaluation.json for shipped weights on the official set, else "
        "build/evaluation.json)")

    add = command(
        "failures", run_failures, "a page of the worst faces",
        "Write a page of the worst faces of the test images, by part of the face, yaw, sharpness and size.",
    )
    add_set(add)
    add("--model", **weights)
    add("--framing", choices=["haar", "box"], default="haar", help=f"(default: haar) {framings}")
    add("--out", type=Path, default=BUILD / "failures", metavar="DIR", help="for the page (default: build/failures)")

    add = command(
        "train", run_train, "run the recipe",
        "Train a network on the official set where it was fetched, else on the sample.",
        interrupted="interrupted; the same command goes on from the last whole epoch",
    )
    add_set(add)
    add("--twin", action="store_true",
        help="hold out people: train without the validation and the test people of data/splits.json, validate on the "
        "former, measure both at the end (of another set: 15 %% of the people each, by the same rule)")
    add("--epochs", type=int, help="(default: the recipe's)")
    add("--seed", type=int, default=Recipe.seed)
    add("--bfloat16", action="store_true",
        help="train the convolutions with 16 bits: twice as fast on processors with AVX512_BF16 or AMX, slow on others")
    add("--device", default="cpu", choices=["auto", "cpu", "cuda", "mps"])
    add("--out", type=Path, default=MODEL_DIR / "mine.safetensors", metavar="FILE",
        help="weights; their record goes beside them as JSON (default: saved_models/mine.safetensors)")

    add = command(
        "export", run_export, "write the network for other runtimes",
        "Write the network as an ONNX file, or its two stages as two, for any number of faces at once.",
    )
    add("--onnx", type=Path, required=True, metavar="NAME",
        help="NAME.onnx is written, or NAME.coarse.onnx and NAME.fine.onnx")
    add("--model", **weights)
    return parser
# fmt: on


def _labelled(options: argparse.Namespace, split: str) -> LabelledSet:
    how = LabelOptions(missing=options.missing, bad_labels=options.bad_labels)
    return labelled_set(split, options.csv, options.images, **how)


def run_standard(options: argparse.Namespace) -> int:
    name, root = options.set
    given = [f"--{key}" for key in ("csv", "images", "wild") if getattr(options, key)]
    given += ["--model"] * (name == "wider" and bool(options.model))
    if given:
        raise ValueError(f"got {', '.join(given)} with --set {name}, expected none of these")
    out = options.json or BUILD / f"set_{name}.json"
    models = options.model or [DEFAULT_MODEL]
    check_out("--json", out, models)
    content = measure(name, Path(root), models)
    print(standard_table(content))
    print("\nFaces are given by the box of their labels; 'lost': those that the whole pipeline does not find.")
    write_json(out, content)
    print(f"wrote {out}")
    return 0


def run_evaluate(options: argparse.Namespace) -> int:
    if options.set:
        return run_standard(options)
    data = _labelled(options, "test")
    shipped = sorted(MODEL_DIR.glob("keypoints_model_*.safetensors"))
    models = options.model or shipped
    # Beside one's own images the photos in the wild are measured only where they are asked for.
    wild = None if options.csv and not options.wild else find_wild(options.wild)
    official = data.name == "official"
    committed = official and models == shipped and options.framing == list(FRAMINGS)
    out = options.json or (RESULTS if committed else BUILD) / "evaluation.json"
    check_out("--json", out, [data.csv_file, *models])
    measured, status = [], 0
    for model in models:
        try:
            figures = evaluate_weights(
                model, data.csv_file, data.images, wild, options.framing, official, **data.labels
            )  # fmt: skip
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
    if not any(figures["test"] for figures in measured):
        raise ValueError("got --framing centre alone, expected haar or box for networks that see crops of a face")
    content = {"data": data.name, "models": measured}
    print(f"{table(content)}\n\nNME, failures and AUC (NME_box, 7 %) in percent, [95 % interval over people].")
    if not options.csv and not official:
        print(f"The official set is not in data/: this is the {data.name}'s test set.")
    if not options.csv and not all(model["by_person"] for model in measured):
        print("Unseen people are missing where results/ holds no twin's record of the same recipe ('make twin').")
    if not options.csv and wild is None:
        print("The wild photos are not here: name their folder with --wild.")
    write_json(out, content)  # last, so that a full disk takes nothing from what was printed
    print(f"wrote {out}")
    return status


def run_failures(options: argparse.Namespace) -> int:
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out {options.out}: got a file, expected a folder")
    check_writable(options.out / "index.html")
    data = _labelled(options, "test")
    result = evaluate(at_use(options.model), data.csv_file, data.images, options.framing, **data.labels)
    dataset = FacialKeypointsDataset(data.csv_file, data.images, **data.labels)
    print(f"wrote {write_page(options.out, result, dataset)}")
    return 0


def run_train(options: argparse.Namespace) -> int:
    out = options.out
    check_out("--out", out, [options.csv] if options.csv else [])
    # The first two are the record's and the checkpoint's beside it; the others name PyTorch's own format.
    if out.suffix.lower() in (".json", ".checkpoint", ".pt", ".pth"):
        raise ValueError(f"--out {out}: got the ending {out.suffix}, expected another for the weights: .safetensors")
    if out.exists() and not out.is_file():
        raise ValueError(f"--out {out}: got a device or a pipe, expected a file")
    recipe = Recipe(bfloat16=options.bfloat16, seed=options.seed)
    recipe = recipe if options.epochs is None else replace(recipe, epochs=options.epochs)
    data = _labelled(options, "training")
    train(data, out, recipe, options.twin, options.device)
    return 0


def run_export(options: argparse.Namespace) -> int:
    check_out("--onnx", options.onnx, [options.model])
    for file in export_onnx(load_model(options.model), options.onnx):
        print(f"wrote {file}: {file.stat().st_size / 1e6:.1f} MB")
    return 0


def _print_warnings(others: Callable[..., None]) -> Callable[..., None]:
    """Print each warning about labels once, as one sentence on standard error; pass on the others."""
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
        warnings.showwarning = _print_warnings(warnings.showwarning)
        return run("training", _parser(), arguments)


if __name__ == "__main__":
    sys.exit(main())
