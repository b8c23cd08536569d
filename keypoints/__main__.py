"""Command line: ``python -m keypoints detect|evaluate|train|export``."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from pathlib import Path

import torch
from torch.utils.data import Subset

from data_load import (
    NUM_KEYPOINTS,
    FacialKeypointsDataset,
    evaluation_transform,
    find_data,
    person_of,
    read_image,
    split_by_person,
    training_transform,
)
from keypoints import distributed, metrics, plots
from keypoints.detection import KeypointDetector, framing_dict, measure_framing
from keypoints.evaluation import FRAMINGS, evaluate
from keypoints.export import export_onnx
from keypoints.training import Recipe, fit, predict, true_keypoints
from models import DEFAULT_MODEL, MODEL_DIR, Net, load_model, save_model, sha256, write_atomically, write_json

CSV_HEADER = [
    "file",
    "face",
    "left",
    "top",
    "width",
    "height",
    *(f"{axis}{i}" for i in range(NUM_KEYPOINTS) for axis in "xy"),
]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m keypoints", description="Find faces and their 68 keypoints.")
    parser.add_argument("--threads", type=int, help="threads for torch (default: as many as cores)")
    commands = parser.add_subparsers(dest="command", required=True)

    detect = commands.add_parser(
        "detect",
        help="find the faces in images",
        description="Find the faces in images: a line a face on standard output.",
    )
    detect.add_argument("images", nargs="+", metavar="IMAGE")
    detect.add_argument("--csv", type=Path, metavar="FILE", help="write file, face, box and keypoints, a row a face")
    detect.add_argument("--draw", type=Path, metavar="DIR", help="write each image with its faces drawn in")
    detect.add_argument(
        "--model", type=Path, default=DEFAULT_MODEL, metavar="FILE", help="weights (default: the shipped ones)"
    )
    detect.set_defaults(run=run_detect)

    measure = commands.add_parser(
        "evaluate", help="measure a model on labelled images", description="Measure a model on labelled images."
    )
    measure.add_argument(
        "--csv", type=Path, help="labels in the official layout, with --images (default: the test set)"
    )
    measure.add_argument("--images", type=Path, metavar="DIR", help="the folder that holds the images, with --csv")
    measure.add_argument(
        "--framing",
        choices=FRAMINGS,
        default="centre",
        help="; ".join(f"{name}: {text}" for name, text in FRAMINGS.items()),
    )
    measure.add_argument(
        "--model", type=Path, default=DEFAULT_MODEL, metavar="FILE", help="weights (default: the shipped ones)"
    )
    measure.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    measure.set_defaults(run=run_evaluate)

    train = commands.add_parser(
        "train",
        help="run the recipe",
        description="Train Net on the official set where it was fetched, else on the sample.",
    )
    train.add_argument("--csv", type=Path, help="labels of your own set, with --images")
    train.add_argument("--images", type=Path, metavar="DIR", help="images of your own set, with --csv")
    train.add_argument(
        "--hold-out",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the people kept apart to validate on (default: 0, train on all)",
    )
    train.add_argument("--epochs", type=int, default=Recipe.epochs)
    train.add_argument("--seed", type=int, default=Recipe.seed)
    train.add_argument("--device", default="cpu", choices=["auto", "cpu", "cuda", "mps"])
    train.add_argument(
        "--out",
        type=Path,
        default=MODEL_DIR / "mine.pt",
        metavar="FILE",
        help="weights; their record goes beside them as JSON (default: saved_models/mine.pt)",
    )
    train.set_defaults(run=run_train)

    export = commands.add_parser(
        "export",
        help="write the network for other runtimes",
        description="Write the network as one ONNX file with a dynamic batch; needs the packages onnx and onnxscript.",
    )
    export.add_argument("--onnx", type=Path, required=True, metavar="FILE", help="the file to write")
    export.add_argument(
        "--model", type=Path, default=DEFAULT_MODEL, metavar="FILE", help="weights (default: the shipped ones)"
    )
    export.set_defaults(run=run_export)
    return parser


def run_detect(options: argparse.Namespace) -> int:
    if options.csv and options.csv.is_dir():
        raise ValueError(f"--csv {options.csv}: got a folder, expected a file")
    if options.draw and options.draw.is_file():
        raise ValueError(f"--draw {options.draw}: got a file, expected a folder")
    if options.draw and any(options.draw.resolve() == Path(file).resolve().parent for file in options.images):
        raise ValueError(f"--draw {options.draw}: the pictures would overwrite the images, expected another folder")
    detector, rows, drawn, status = KeypointDetector(options.model), [], set(), 0
    for file in options.images:
        try:
            image = read_image(file)
            faces = detector(image)
        except (OSError, ValueError) as error:
            print(_sentence(error, file), file=sys.stderr)
            status = 1
            continue
        if not faces:
            print(f"{file}: no face found")
        for number, face in enumerate(faces):
            box = [f"{value:g}" for value in face.box]
            print(f"{file}: face {number} at left {box[0]}, top {box[1]}, {box[2]}×{box[3]} pixels")
            rows.append([file, number, *box, *(f"{value:.2f}" for value in face.keypoints.ravel())])
        if options.draw:
            name, again = Path(file).stem, 2
            while name in drawn:  # pictures of the same name from different folders
                name, again = f"{Path(file).stem}_{again}", again + 1
            drawn.add(name)
            plots.write_image(options.draw / f"{name}.jpg", plots.draw_faces(image, faces))
    if options.csv:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([CSV_HEADER, *rows])
        write_atomically(options.csv, lambda part: part.write_text(text.getvalue(), encoding="utf-8"))
    return status


def run_evaluate(options: argparse.Namespace) -> int:
    _, csv_file, images = _labelled(options, "test")
    figures = evaluate(load_model(options.model), csv_file, images, options.framing).figures
    figures |= {"framing": options.framing, "sha256": sha256(options.model)}
    print(json.dumps(figures, indent=1))
    if options.json:
        write_json(options.json, figures)
    return 0


def _labelled(options: argparse.Namespace, split: str) -> tuple[str, Path, Path]:
    """The user's own set where --csv and --images name one, else the official set or the sample: name, CSV, folder."""
    if (options.csv is None) != (options.images is None):
        raise ValueError("got only one of --csv and --images, expected both or none")
    if options.csv:
        return str(options.csv), options.csv, options.images
    data = find_data()
    return data.name, data.csv_file(split), data.image_dir(split)


def run_train(options: argparse.Namespace) -> int:
    with distributed.together(options.device) as world:
        return _train(options, world)


def _train(options: argparse.Namespace, world: distributed.World) -> int:
    if not 0 <= options.hold_out < 1:
        raise ValueError(f"got --hold-out {options.hold_out}, expected a share from 0 to below 1")
    name, csv_file, images = _labelled(options, "training")
    if world.first:
        print(f"data: {name}", flush=True)
    training_set = FacialKeypointsDataset(csv_file, images, training_transform())
    train, held_out = list(range(len(training_set))), []
    if options.hold_out:
        train, held_out = split_by_person(training_set.names, options.hold_out)
    recipe = Recipe(epochs=options.epochs, seed=options.seed)
    torch.manual_seed(recipe.seed)
    net = Net()
    raw = FacialKeypointsDataset(csv_file, images)
    net.framing = framing_dict(measure_framing(Subset(raw, train)))
    validation_set = (
        Subset(FacialKeypointsDataset(csv_file, images, evaluation_transform()), held_out) if held_out else None
    )
    record = fit(
        net, Subset(training_set, train), validation_set, recipe, options.device, options.out.with_suffix(".checkpoint")
    )
    if not world.first:
        return 0
    if validation_set is not None:
        record["validation"] = metrics.summary(predict(net, validation_set), true_keypoints(validation_set))
    people = sorted({person_of(training_set.names[i]) for i in held_out})
    save_model(net, options.out, {"data": name, "held_out_people": people, **record})
    print(f"saved {options.out} and {options.out.with_suffix('.json')}")
    return 0


def run_export(options: argparse.Namespace) -> int:
    export_onnx(load_model(options.model), options.onnx)
    print(f"wrote {options.onnx}: {options.onnx.stat().st_size / 1e6:.1f} MB")
    return 0


def _sentence(error: Exception, file: str | Path) -> str:
    """One line that names the file."""
    text = f"{error.strerror or error}" if isinstance(error, OSError) else str(error)
    return text if str(file) in text else f"{file}: {text}"


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        if options.threads is not None:
            if options.threads < 1:
                raise ValueError(f"got --threads {options.threads}, expected 1 or more")
            torch.set_num_threads(options.threads)
        return options.run(options)
    except KeyboardInterrupt:
        print(
            "interrupted; the same command goes on from the last whole epoch"
            if options.command == "train"
            else "interrupted",
            file=sys.stderr,
        )
        return 130
    except (OSError, ValueError) as error:
        print(
            f"keypoints {options.command}: {_sentence(error, getattr(error, 'filename', None) or '')}", file=sys.stderr
        )
        return 2


if __name__ == "__main__":
    sys.exit(main())
