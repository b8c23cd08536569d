"""Write the tables of the README files and draw their pictures: `python -m training.studies.report`.

Every figure comes from a JSON file that a command wrote; the pictures are ones that may be shipped.
"""

import contextlib
import io
import json
import re
import sys
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from data_load import DATA_DIR, find_data, read_image
from keypoints import drawing
from keypoints.detection import KeypointDetector
from keypoints.filters import dress
from keypoints.landmarks import REGIONS
from keypoints.tracking import LOST, FaceTracker
from keypoints.video import Video
from training import evaluation
from training import figures as plots
from training.failures import draw_failures
from training.studies.common import RESULTS, make_parser
from training.studies.slices import SKIN
from training.studies.study import recorded
from training.weights import MODEL_DIR

ROOT = RESULTS.parent
FRAMING_NAMES = {"centre": "centre crop", "haar": "detector, as in use", "box": "true box"}
NOTEBOOKS = {
    "1_Load_and_Visualize_Data": "the data, the 68 points, four transforms and two traps, framing, the error to beat",
    "2_Define_the_Network_Architecture": "the network, its training and its errors; the course's four questions, "
    "answered with figures",
    "3_Facial_Keypoint_Detection_Complete_Pipeline": "Haar box → framing → network → points on whole photographs",
    "4_Fun_with_Keypoints": "the pose of a head, sunglasses, hats and a smile that follow it in space, and the "
    "expression",
}

FACES = {  # what the first picture shows, and what each wears
    "photos/grace_hopper.jpg": ["sunglasses"],
    "photos/astronaut.jpg": ["tophat"],
    "sample/test/person_509_00.jpg": ["sunglasses"],
    "sample/test/person_525_03.jpg": ["cat"],
    "sample/test/person_519_03.jpg": ["sunglasses", "moustache"],
    "sample/test/person_523_03.jpg": ["smile"],
}
STEPS = {  # the drawing of the pipeline: two lines of each box, the x of its left and the y of its middle
    "image": ("image", "or a video's frame", 5, 100),
    "boxes": ("face detector", "a box for each face", 155, 100),
    "crops": ("crop", "levelled, grey", 305, 100),
    "points": ("keypoint network", "68 points, confidence", 455, 100),
    "expression": ("expression", "one of seven words", 615, 30),
    "pose": ("head pose", "yaw, pitch, roll", 615, 100),
    "filters": ("filters", "placed in space", 615, 170),
}
ARROWS = ("image boxes", "boxes crops", "crops points", "points expression", "points pose", "pose filters")
FILM = (["sunglasses"], ["cat"])  # what the moving head wears, beside its keypoints


def load(path: Path) -> dict:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def number(count: int, word: str) -> str:
    """Return a count with its word: 1 thread, 2 threads."""
    return f"{count} {word}{'s' * (count != 1)}"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in [head, *rows]]
    return "\n".join([lines[0], f"|{'---|' * len(head)}", *lines[1:]])


def results_table() -> str:
    """Tabulate `make evaluate`: without the validation people, and with the true box for the wild photos only."""
    content = load(RESULTS / "evaluation.json")
    rows = [
        [where, weights, FRAMING_NAMES.get(framing, framing), *evaluation.table_cells(figures)[: -len(REGIONS)]]
        for where, weights, framing, figures in evaluation.table_rows(content)
        if "validation people" not in where and (framing != "box" or where == "wild photos")
    ]
    head = ["measured on", "weights", "framed by", *evaluation.COLUMNS[: -len(REGIONS)]]
    return "\n\n".join([markdown(head, rows), *map(_training, content["models"])])


def _training(model: dict) -> str:
    stem = Path(model["weights"]).stem
    record, twin = load(MODEL_DIR / f"{stem}.json"), RESULTS / f"{stem}_twin.json"
    rounds = [record]  # each started from the weights of the next
    while "start" in rounds[-1]:
        rounds.append(rounds[-1]["start"])
    minutes = sum(one["seconds"] for one in rounds) / 60
    core_minutes = sum(one["seconds"] * one["threads"] for one in rounds) / 60
    text = (
        f"`{stem}` was trained in {core_minutes:.0f} core-minutes: {minutes:.0f} minutes with "
        f"{number(record['threads'], 'thread')} of a processor that calls itself "
        f"'{record['versions']['processor']}', {record['peak_memory_mb'] / 1000:.1f} GB of memory at most, "
        f"{record['parameters'] / 1e6:.1f} million weights, seed {record['recipe']['seed']}."
    )
    if len(rounds) > 1:
        views = [one.get("views") or one["history"][-1]["views"] for one in rounds[::-1]]
        text += f" It was trained in {len(rounds)} rounds, of {' and '.join(f'{some:,}' for some in views)} views."
    if twin.exists():
        without, samples = len(load(twin)["held_out_people"]), load(twin)["samples"]
        text += f" Its twin is the same recipe without {without} of the people ({samples} images)."
    return text


FREE_SETS = {"people": "official, test people", "wild": "wild photos", "heads": "sample's heads", "hard": "hard faces"}


def free_table() -> str:
    """Tabulate the free weights beside the default ones; `training.studies.free` measured both."""
    content, rows = load(RESULTS / "free.json"), []
    for name, title in FREE_SETS.items():
        for way in content["free"].get(name, {}):
            for weights in ("default", "free"):
                figures = content[weights][name][way]
                cells = [f"{figures['found']}/{figures['n']}"]
                for key in ("nme_box", "nme_iod"):
                    low, high = figures["intervals"][key]
                    cells.append(f"{figures[key]:.2f} [{low:.2f}, {high:.2f}]")
                rows.append([title, way, weights, *cells, str(figures["failed_or_lost"])])
    head = ["measured on", "framed by", "weights", "found", "NME_box, %", "NME_iod, %", "iod > 10 % or lost"]
    records = [load(MODEL_DIR / f"{name}_free.json") for name in ("keypoints", "detector")]
    heads, photos = (records[0]["faces"][kind] for kind in ("rendered", "ccby"))
    rounds = [[one["history"][-1] | one, *([one["start"]] if "start" in one else [])] for one in records]
    times = [(sum(one["views"] for one in some), sum(one["seconds"] for one in some) / 60) for some in rounds]
    lids = [
        [FREE_SETS[name], weights, *(f"{content[weights]['eyes'][name][key]:.2f}" for key in EYES)]
        for name in content["free"]["eyes"]
        for weights in ("default", "free")
    ]
    tables = markdown(head, rows), markdown(["eyes of", "weights", *EYES.values()], lids)
    return "\n\n".join(tables) + (
        f"\n\n{heads:,} rendered heads and {photos} photographs; {times[0][0]:,} views of the keypoint network in "
        f"{times[0][1]:.0f} minutes of a core, {times[1][0]:,} of the detector in {times[1][1]:.0f}. *Fitted*: each "
        "point's median offset from the labels, fitted on 400 training images, is taken off, for both weights alike."
    )


SETS = {
    "official_test": "official test set",
    "official_validation": "official validation people",
    "wild_validation": "wild validation photos",
    "groups_validation": "groups, held-out photographs",
}
SIZES = ("20_to_40", "40_to_80", "80_to_1000")


def detector_table() -> str:
    """Tabulate what the face detector finds and cost; `training.studies.detector` measured it."""
    record, scatter = load(MODEL_DIR / "detector.json"), load(RESULTS / "detector_scatter.json")
    head = ["with the keypoint network", "detector", "found", "20–40 pixels", "40–80", "above 80", "others an image"]
    found = load(RESULTS / "detector_found.json")
    rows = [[SETS[name], detector, *_counts(of)] for name, kinds in found.items() for detector, of in kinds.items()]
    parts, rows = [markdown(head, rows)], []
    for name, title in SETS.items():
        for kind in ("network", "haar") if name in scatter else ():
            of = scatter[name][kind]
            cells = [f"{m:.2f} ± {d:.2f}" for m, d in zip(of["median"], of["standard_deviation"], strict=True)]
            rows.append([title, kind, f"{of['found']}/{scatter[name]['faces']}", *cells])
    head = ["boxes, median ± deviation", "detector", "found", "right", "down", "log side", "roll"]
    parts.append(markdown(head, rows))
    error = "{from}–{to} pixels {percent:.1f} ({faces})"
    told = "; ".join(
        f"{SETS[name]}: {', '.join(error.format(**size) for size in of['five_points'])}"
        for name, of in scatter.items()
        if name in SETS
    )
    parts.append(f"The five points' mean error in percent of the face's size, by that size (faces): {told}.")
    turns = {k: v for k, v in load(RESULTS / "detector_turned.json").items() if k != "roll_error"}
    told = ", ".join(f"{v['with_the_right_roll']} of {v['photographs']} by {k}°" for k, v in turns.items())
    parts.append(f"Wild validation photos turned clockwise, faces found with that roll: {told}.".replace("-", "−"))
    gpu = " ({views:,} of the views on a GPU in {seconds:.0f} seconds of these)" if "on_a_gpu" in record else ""
    gpu = gpu.format(**record.get("on_a_gpu", {}))
    images = ", ".join(f"{count:,} {kind}" for kind, count in record["images"].items())
    parts.append(
        f"{record['parameters']:,} weights learned from {record['history'][-1]['views']:,} views of "
        f"{record['recipe']['size']}×{record['recipe']['size']} pixels of these images: {images}. That took "
        f"{record['seconds'] / 60:.0f} minutes with {number(record['threads'], 'thread')}{gpu}. Not in training: "
        f"{len(record['held_out_photographs'])} photographs of groups, {len(record['held_out_people'])} people of the "
        f"official set, {record['validation_images']['wild']} wild photos."
    )
    return "\n\n".join(parts)


def _counts(of: dict) -> list[str]:
    """Return the cells of a detector's counts: found, found by size, and others an image."""
    sizes = ("" if of[size] == "0/0" else of[size] for size in SIZES)
    return [f"{of['found']}/{of['faces']}", *sizes, f"{of['others_an_image']:.2f}"]


def parts_table() -> str:
    """Tabulate NME_box by part of the face."""
    rows = [
        [where, weights, FRAMING_NAMES.get(framing, framing), *evaluation.table_cells(figures)[-len(REGIONS) :]]
        for where, weights, framing, figures in evaluation.table_rows(load(RESULTS / "evaluation.json"))
        if figures
    ]
    return markdown(["NME_box, % on", "weights", "framed by", *REGIONS], rows)


def peers_table() -> str:
    """Tabulate our networks and other tools on people who are not in our training set, in brief."""
    record = load(RESULTS / "benchmark.json")
    rows = []
    for title, row in record["tools"].items():
        if "twin" in title or "free" in title:  # both are in results/README.md
            continue
        own = row["own"]["people"]
        name = f"**{title}**" if title.startswith("ours") else title
        errors = [_error(own), f"{own['as_it_is']:.2f}", f"{row['boxed']['people']['nme_box']:.2f}"]
        rows.append([name, f"{own['found']}/{own['n']}", *errors, *_times(row)])
    count = next(iter(record["tools"].values()))["own"]["people"]
    fitted = record["calibration_images"]["people"]
    head = [f"{count['n']} images of {count['people']} people not in our training set", "found", "NME_box, % [95 %]"]
    head += ["without the fit", "in a given box", "ms, one face", "ms, ten faces"]
    find = {title: row["one"]["ms"] for title, row in record["detectors"].items()}
    return (
        f"{markdown(head, rows)}\n\nEach tool runs behind its own detector (`make benchmark`). Tools differ in where "
        f"they put a point, so each point's median offset is fitted on the same {fitted} training images for all. The "
        "given box is the one that the tool's detector would typically give of the true points. Times are those of a "
        "whole picture of 640×480 pixels on one core of a processor that calls itself "
        f"'{record['hardware']['processor']}'; the search in it takes {find['ours, full']:.0f} ms with our detector, "
        f'{find["ours, fast"]:.0f} with `detect="fast"`, and {find["OpenCV Haar cascade"]:.0f} with the Haar cascade. '
        "**Not alike**: ours learned from other people of the same videos, dlib and LBF from 300-W, MediaPipe from "
        "pictures that are not public. MediaPipe takes no box and searches the square around it."
    )


def _error(figures: dict) -> str:
    if figures["nme_box"] is None:
        return "–"
    ends = figures["interval"]
    return f"{figures['nme_box']:.2f}" + (f" [{ends[0]:.2f}, {ends[1]:.2f}]" if ends else "")


def _times(row: dict) -> list[str]:
    """Return the times of the pictures with one face and with ten, and how many were found where others were."""
    faces = {"one": 1, "ten": 10}
    return [
        f"{row[name]['ms']:.0f}" + (f" (found {row[name]['faces']})" if row[name]["faces"] != count else "")
        for name, count in faces.items()
    ]


def printed_text() -> str:
    """Run the README's first block of Python and return what it prints."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block, out = re.search(r"^```python\n(.*?)^```", text, flags=re.M | re.S)[1], io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.chdir(ROOT):
        exec(compile(block, "README.md", "exec"), {})
    return f"```\n{out.getvalue()}```"


def pose_table() -> str:
    """Tabulate the errors of the angles; `python -m training.studies.pose` measured them."""
    record = load(RESULTS / "pose.json")
    rendered, photographs = record["rendered"], record["photographs"]
    lines = {
        "rendered test heads, always zero": rendered["zero"],
        "rendered test heads, true keypoints": rendered["true_keypoints"],
        "rendered test heads, predicted keypoints": rendered["predicted"],
        "photographs (AFLW2000-3D), their keypoints, the zero from the others": photographs["given_keypoints"][
            "leave_one_out"
        ],
    }
    for name, row in record.get("turned", {}).items():
        lines[f"further rendered heads behind the detector, yaw {name.replace('_to_', '–')}°, of {row['of']}"] = row
    axes = ("yaw", "pitch", "roll")
    rows = [[name, str(row["faces"]), *(f"{row[axis]:.1f}" for axis in axes)] for name, row in lines.items()]
    return markdown(["mean absolute error, degrees", "faces", *axes], rows)


KINDS = {"people": "people not in our training set", "wild": "wild validation photos", "heads": "rendered test heads"}
FROM_300W = ("dlib 68", "OpenCV FacemarkLBF")  # learned from the wild photos, which are part of 300-W


def benchmark_table(record: dict | None = None) -> str:
    """Tabulate a record of `make benchmark`, by default the committed one."""
    record = record or load(RESULTS / "benchmark.json")
    tools, detectors = record["tools"], record["detectors"]
    kinds = [kind for kind in KINDS if kind in record["calibration_images"]]

    def error(title: str, figures: dict, kind: str) -> str:
        seen = "†" if kind == "wild" and title in FROM_300W else ""
        as_it_is = "" if figures["as_it_is"] is None else f" ({figures['as_it_is']:.2f})"
        return f"{_error(figures)}{as_it_is}{seen}"

    own, boxed = [], []
    for title, row in tools.items():
        cells = [cell for kind in kinds for of in [row["own"][kind]]
                 for cell in (f"{of['found']}/{of['n']}", error(title, of, kind))]  # fmt: skip
        areas = f"{row['own']['people']['auc_box_07']:.1f}"
        groups = _counts(row["groups"])[::4] if "groups" in row else ["", ""]
        own.append([title, *cells, areas, *groups, *_times(row)])
        boxed.append([title, *(error(title, row["boxed"][kind], kind) for kind in kinds)])
    head = [cell for kind in kinds for cell in ("found", KINDS[kind])]
    head += [f"AUC, %, {KINDS['people']}", "faces of groups", "others an image", "ms, one face", "ms, ten faces"]
    fitted = ", ".join(f"{count} ({KINDS[kind]})" for kind, count in record["calibration_images"].items())
    parts = [
        markdown(["behind its own detector", *head], own),
        markdown(["in a given box", *(KINDS[kind] for kind in kinds)], boxed),
        f"NME_box in percent, with the 95 % interval over people or sittings, after each point's median offset was "
        f"added, which is fitted on training images of the same kind: {fitted}; in round brackets without it. "
        "† The tool was trained on 300-W, to which these photos belong. AUC is that of NME_box up to 7 % and counts "
        f"lost faces. Times are medians of a whole picture of 640×480 pixels, the first call left out, on one of "
        f"{record['hardware']['cores']} cores of a processor that calls itself '{record['hardware']['processor']}'.",
    ]
    sets = [key for key in ("groups", "wild") if all(key in row for row in detectors.values())]
    columns = ["found", *(f"{size.replace('_to_', '–')} pixels" for size in SIZES), "others an image"]
    columns[3] = "above 80"
    head = [f"{SETS[f'{key}_validation']}: {name}" if i == 0 else name for key in sets
            for i, name in enumerate(columns)]  # fmt: skip
    rows = [[title, *(cell for key in sets for cell in _counts(row[key])), *_times(row)]
            for title, row in detectors.items()]  # fmt: skip
    parts.append(markdown(["the detector alone", *head, "ms, one face", "ms, ten faces"], rows))
    parts.append(f"Ours counts from a score of {record['detector_score']} on, the others as they come.")
    rows = [
        [kind, title, f"{row['ms']:.1f}", f"{row['jitter']:.0f}", f"{row['nme_box']:.2f}",
         f"{row['of'] - row['frames']}/{row['of']}"]
        for kind, ways in record["tracking"].items()
        for title, row in ways.items()
    ]  # fmt: skip
    head = ["the rendered clip", "tracking", "ms a frame", "jitter at rest, % of the face's size/s²", "NME_box, %"]
    parts.append(markdown([*head, "frames lost"], rows))
    parts += [f"Left out: {title} ({why})." for title, why in record["left_out"].items()]
    return "\n\n".join(parts)


def cost_table() -> str:
    """Tabulate what an epoch costs beside the course projects' usual network; `cost` measured it."""
    cost = load(RESULTS / "cost.json")
    course, memory = cost["course_net"], cost["memory"]
    names, rows = {"ours": "`CoarseToFine`", "course": "the usual course network, images decoded anew"}, []
    for name, seconds in course["seconds"].items():
        weights = course["parameters"]["course" if name == "course" else "ours"]
        ratio = course["ratio"] if name == "ours" else 1
        milliseconds = 1000 * np.median(seconds) / course["images"]
        rows.append([names[name], f"{weights / 1e6:.1f} million", f"{milliseconds:.0f}", f"{ratio:.1f}"])
    peak = ", ".join(f"{size}: {mb / 1000:.2f} GB" for size, mb in memory["peak"].items())
    table = markdown(["one epoch of training", "weights", "ms an image", "times faster"], rows)
    return f"{table}\n\nPeak memory of a whole training process by batch size: {peak}."


def slices_table() -> str:
    """Tabulate NME_box by yaw, sharpness, size, skin and stage, of unseen people; `slices` measured it."""
    content = load(RESULTS / "slices.json")
    rows = {"yaw": [], "sharpness": [], "size": [], "skin": [], "stage": []}
    tones: dict[str, dict] = {}
    for weights, sets in content.items():
        for title, figures in sets.items():
            for by in ("yaw", "sharpness", "size"):
                errors = [part["nme_box"] for part in figures["slices"] if part["by"] == by]
                rows[by].append([title, weights, *("" if e is None else f"{e:.2f}" for e in errors)])
            if "skin" in figures:
                tones = {part["tone"]: part for part in figures["skin"]}
                cells = [
                    f"{part['nme_box']:.2f} [{part['interval'][0]:.2f}, {part['interval'][1]:.2f}]"
                    for part in figures["skin"]
                ]
                rows["skin"].append([title, weights, *cells])
            stages = figures["stages"]
            errors = [f"{stages[stage]['nme_box']:.2f}" if stage in stages else "" for stage in ("coarse", "fine")]
            ratio = figures["yaw"]["ratio"]
            rows["stage"].append([title, weights, *errors, "" if ratio is None else f"{ratio:.2f}"])
    yaw = next(iter(next(iter(content.values())).values()))["slices"]
    quarters = ["lowest quarter", "second", "third", "highest"]
    heads = {
        "yaw": [part["bin"] for part in yaw if part["by"] == "yaw"],
        "sharpness": quarters,
        "size": quarters,
        "skin": [f"{tone} ({part['people']} people)" for tone, part in tones.items()],
        "stage": ["the coarse stage alone", "the network", "yaw 30–60° against 0–15°"],
    }
    return "\n\n".join(markdown([f"NME_box, % by {by}", "weights", *heads[by]], rows[by]) for by in rows if rows[by])


def notebooks_table() -> str:
    """Tabulate what the notebooks are and how long they run on the sample; `make refresh` measured it."""
    seconds = load(RESULTS / "notebook_seconds.json")
    rows = []
    for name, text in NOTEBOOKS.items():
        position, title = name.split("_", 1)
        rows.append([f"[{position} · {title.replace('_', ' ')}]({name}.ipynb)", text, f"{seconds[name]} s"])
    return markdown(["notebook", "what happens", "on the sample"], rows)


def tracking_table() -> str:
    """Tabulate how steady, accurate and fast tracking is; `python -m training.studies.tracking` measured it."""
    record = load(RESULTS / "tracking.json")
    kinds = {name: figures for name, figures in record["rendered"].items() if isinstance(figures, dict)}
    rows = []
    for name, figures in kinds.items():
        for way in ("frame by frame", "followed", "smoothed"):
            row = figures[way]
            numbers = [f"{100 * row['jitter_ratio']:.0f}", f"{row['nme_box']:.2f}", f"{row['lag_frames']:.2f}"]
            rows.append([name, way, *numbers])
    head = ["the rendered clip", "points", "jitter at rest, %", "NME_box, %", "lag on fast moves, frames"]
    blinks = [f"{figures['signals']['blinks_f1']:.2f} ({name})" for name, figures in kinds.items()]
    frames = [
        " and ".join(f"{figures['signals'][f'{kind}_frames_f1']:.2f}" for figures in kinds.values())
        for kind in ("closed", "mouth_open")
    ]
    lines = [
        markdown(head, rows),
        f"F1 of the clip's {next(iter(kinds.values()))['signals']['blinks']:.0f} blinks: {', '.join(blinks)}; of the "
        f"frames with closed eyes: {frames[0]}; with an open mouth: {frames[1]}.",
    ]
    if "talking" in record:
        real, speed = record["talking"], record["talking"]["frames_per_second"]
        lines.append(
            f"A real video of one person who talks ({real['frames']} frames of {real['size'][0]}×{real['size'][1]} "
            f"pixels): {real['tracked']:.1f} % of the frames within an NME_box of 5 % of a fresh detection, "
            f"{number(real['ids'], 'id')}, the detector on {real['detector_ran_on']:.1f} % of them, "
            f"{speed['median']:.0f} frames/s in the median and {speed['mean']:.0f} in the mean with "
            f"{number(real['threads'], 'thread')} of a processor that calls itself '{record['processor']}'; decoding "
            f"takes {real['decoding_ms']:.1f} ms a frame beside it."
        )
    if "memory" in record:
        memory = record["memory"]
        lines.append(
            f"Memory in use: {memory['mb_after_a_tenth']:.0f} MB after {memory['frames'] // 10:,} frames, "
            f"{memory['mb']:.0f} MB after {memory['frames']:,}."
        )
    return "\n\n".join(lines)


def alone_text() -> str:
    """Tell what model 1's network learns from the rendered heads, from the runs of `study`."""
    runs = recorded("sample")
    real, alone, both = runs.values()
    return (
        f"Trained on nothing but the sample's {alone['samples']} heads (8 epochs), `CoarseToFine` has an NME_box of "
        f"{alone['nme_box']:.2f} % on the validation people of the official set; trained on {real['samples']:,} real "
        f"frames of other people (4 epochs) {real['nme_box']:.2f} %, on both together {both['nme_box']:.2f} %. Each is "
        "a single run, and two seeds of one recipe differ by more than the last two figures "
        "(`python -m training.studies.study sample seeds`)."
    )


def sample_text() -> str:
    """Count who and what is in the sample."""
    table = pd.read_csv(find_data("sample").root / "attributes.csv")
    skin, people = table.groupby("person")["skin"].first(), table["person"].nunique()
    tones = {tone: int(skin.between(low, high, inclusive="left").sum()) for tone, (low, high) in SKIN.items()}

    def counted(counts: dict) -> str:
        return ", ".join(f"{name} {number}" for name, number in counts.items())

    return (
        f"{len(table)} pictures of {people} people. Skin, people: {counted(tones)}. Expression, pictures: "
        f"{counted(table['expression'].value_counts().to_dict())}. Light, pictures: "
        f"{counted(table['light'].value_counts().to_dict())}. With glasses: {int(table['glasses'].sum())}."
    )


def haar_table() -> str:
    """Tabulate how many of the sample's heads the Haar cascade finds, by yaw."""
    haar = load(RESULTS / "sample_haar.json")
    columns = [f"{row['from']}–{row['to']}°" for row in haar["bins"]] + ["up to 30°", "all"]
    shares = [row["found"] for row in haar["bins"]] + [haar["found_within_30"], haar["found"]]
    images = [*(str(row["images"]) for row in haar["bins"]), "", str(haar["images"])]
    rows = [["found", *(f"{share:.1f} %" for share in shares)], ["images", *images]]
    return markdown(["yaw, either side", *columns], rows)


EYES = {"correlation": "correlation", "auc": "AUC", "of_closed": "closed eyes, median", "of_others": "others, median"}


def eyes_table() -> str:
    """Tabulate how well closed eyes are told; `python -m training.eyes` measured it."""
    record = load(MODEL_DIR / "eyes.json")
    titles = {"wild": "photographs", "frames": "video frames", "rendered": "rendered heads"}
    rows = []
    for kind, title in titles.items():
        figures = record["history"][-1].get(kind)
        for name, told in (("the network", "network"), ("predicted keypoints", "keypoints")) if figures else ():
            own, cases = figures[told], f"{figures['eyes']}, {figures['closed']} closed"
            rows.append([title, cases, name, *(f"{own[key]:.2f}" for key in EYES)])
    return markdown(["validation faces", "eyes", "opening by", *EYES.values()], rows)


def emotion_table() -> str:
    """Tabulate how well expressions are read; `python -m training.studies.expression` measured it."""
    record = load(RESULTS / "emotion.json")
    titles = {"press": "press photographs", "jaffe": "JAFFE", "ck48": "CK+", "web": "web faces", "rendered": "rendered"}
    rows = {
        "keypoints alone, logistic regression": record["keypoints_alone"],
        "the network": record["ours"],
        "the network, faces whose neutral one is known": record["same_without_neutral"],
        "the same, judged against it": record["with_neutral"],
    }

    def cells(row: dict) -> list[str]:
        some = [row.get(name) for name in titles]
        accuracy = [f"{own['accuracy']:.0f} [{own['interval'][0]:.0f}, {own['interval'][1]:.0f}]" if own else ""
                    for own in some]  # fmt: skip
        return [f"{some[0]['balanced_common']:.0f}" if some[0] else "", *accuracy]

    head = ["people left out, %", "press, balanced over five words", *titles.values()]
    counted = ", ".join(
        f"{record['ours'][name]['faces']} of {record['ours'][name]['people']} people ({title})"
        for name, title in titles.items()
    )
    sure = record["reliability"]["press"]
    recall = [
        f"{word} {100 * row[i] / sum(row):.0f} %"
        for i, (word, row) in enumerate(zip(record["expressions"], record["ours"]["press"]["confusion"], strict=True))
        if sum(row) >= 50
    ]
    yaw = {name: ", ".join(f"{b['accuracy']:.0f} % at {b['from']}–{b['to']}°" for b in bins)
           for name, bins in record["by_yaw"].items()}  # fmt: skip
    units = ", ".join(f"{name} {record['actions'][name]:.2f}" for name in
                      ("jaw open", "smile", "brow raise", "brow lower", "eye closure"))  # fmt: skip
    changes = list(record["label_changes_a_minute"].values())[-1]
    seconds, faces = load(MODEL_DIR / "expressions.json")["seconds"], load(MODEL_DIR / "expressions.json")["sets"]
    return "\n\n".join(
        [
            markdown(head, [[name, *cells(row)] for name, row in rows.items()]),
            f"Faces: {counted}. {record['folds']} folds by person; in brackets the 95 % interval had other people been "
            "photographed. A face of the web counts as a person of its own. In the last two rows only faces count of "
            "whose person there is another, neutral one.",
            f"Of the press photographs it reads {', '.join(recall)} as they were labelled. The probabilities are off "
            f"by {sure['ece']:.3f} in the mean (ECE, ten bins of equally many faces). {sure['coverage']:.0f} % of the "
            f'faces get a word, of which {sure["right_where_sure"]:.0f} % are right; the others are "unsure", under '
            f"{100 * sure['threshold']:.0f} %. {sure['neutral_called_other']:.1f} % of the neutral faces get another "
            f"word. By yaw: press photographs {yaw['press']}; rendered heads {yaw['rendered']}. Strengths of movements "
            f"against the rendered truth, correlation on people left out: {units}. A face whose keypoints are known "
            f"takes {record['milliseconds']:.1f} ms on one thread. In a video the label of somebody who talks changes "
            f"{changes['smoothed']:.0f} times a minute ({changes['frame_by_frame']:.0f} frame by frame). The shipped "
            f"network was trained on {sum(own['faces'] for own in faces.values()):,} faces for {seconds / 60:.0f} "
            "minutes on one thread.",
        ]
    )


def ablation_table() -> str:
    """Tabulate what each ingredient of model 2's training gives, and where the official labels lie."""
    record, offset = load(RESULTS / "ablation.json"), load(RESULTS / "label_offset.json")
    columns = {
        "wild_iod": "wild validation photos, NME_iod",
        "hard_iod": "hard faces, NME_iod",
        "frames_box": "validation people's frames, NME_box",
        "rendered_box": "rendered test heads, NME_box",
    }
    rows = [
        ["nothing" if label == "all" else label.removeprefix("no "), *(f"{figures[key]:.2f}" for key in columns)]
        for label, figures in record["runs"].items()
    ]
    recipe = record["base"]["recipe"]
    axes = offset["axes"]
    told = ", ".join(f"{axis['constant']:.2f} + {axis['slope']:.4f}·size {name}" for name, axis in axes.items())
    means = " and ".join(f"{axis['mean_of_data_load']:.2f}" for axis in axes.values())
    seen = " and ".join(f"{axis['median']:.2f}" for axis in axes.values())
    return (
        markdown(["left out", *columns.values()], rows)
        + f"\n\nEach run saw {recipe['views']:,} views of {record['base']['side']} pixels, one run each, seed "
        + f"{recipe['seed']}, framed by the truth: small differences may be chance.\n\n"
        + f"The network without video frames finds the labels of {offset['people']} training people of the official "
        + f"set shifted by {told} (pixels; size of the face), {seen} in the median; "
        + f"`data_load.label_offset` says {means} in the mean."
    )


def page_text() -> str:
    """Tell how fast the page is in a browser; `python -m training.studies.page` measured it."""
    record = load(RESULTS / "page.json")
    webcam = record["webcam"]
    rates = [f"{way['frames_per_second']:.0f} ({name})" for name, way in record["webcam_shown"].items()]
    browser = record["browser"].split(".")[0].replace("/", " ")
    return (
        f"Frames/s in a headless {browser}, which shares {number(record['cores'], 'core')} of a processor "
        f"that calls itself '{record['processor']}' with the page: {', '.join(rates)}, of a webcam of "
        f"{webcam['width']}×{webcam['height']} pixels and {webcam['frameRate']:.0f} frames/s."
    )


def soak_table() -> str:
    """Tabulate what `make soak` tried and what went wrong, and list what was mended because of it."""
    soak, mended = load(RESULTS / "soak.json"), load(ROOT / "tests" / "soak" / "mended.json")
    rows = []
    for kind, found in soak["fuzz"].items():
        more = f"{found['read']:,} could be read; {found['peak_memory_mb']} MB at most"
        rows.append([f"damaged files: {kind}", f"{found['cases']:,}", str(found["failed"]), more])
    for job, found in soak["kills"].items():
        more = f"{found['finished']} times to the end, with the same result"
        if "resumed" in found:
            more += f"; {found['resumed']} starts went on from a checkpoint, {found['from_a_finished_one']} of the end"
        rows.append([f"kills: {job}", f"{found['kills']:,}", str(found["failed"]), more])
    calls = soak["calls"]
    more = f"{calls['processes']} processes of {calls['threads']} threads; memory grew by {calls['grown_mb']} MB"
    more += "" if calls["processes_agree"] else "; the processes differ"
    rows.append(["calls", f"{calls['calls']:,}", str(calls["wrong"]), more])
    for module, found in soak["mutants"].items():
        survived = found["mutants"] - found["killed"]
        more = f"of {found['of']}; {100 * found['killed'] / found['mutants']:.0f} % noticed"
        rows.append([f"mutants: {module}", str(found["mutants"]), f"{survived} survived", more])
    covered, lines = soak["coverage"], [f"* {one['what']}: {one['now']} ({one['part']})." for one in mended]
    return (
        f"{markdown(['tried', 'cases', 'failed', ''], rows)}\n\nThe tests run {covered['percent']} % of the "
        f"{covered['lines']:,} statements of data_load, models and keypoints, but for what `pyproject.toml` leaves "
        f"out.\n\nFound by this and by readers of the code, {len(mended)} in all, and mended:\n\n" + "\n".join(lines)
    )


TABLES = {
    "README.md": {"peers": peers_table, "printed": printed_text, "notebooks": notebooks_table},
    "saved_models/README.md": {
        "free": free_table,
        "detector": detector_table,
        "results": results_table,
        "ablation": ablation_table,
        "parts": parts_table,
        "slices": slices_table,
        "pose": pose_table,
        "emotion": emotion_table,
        "eyes": eyes_table,
    },
    "results/README.md": {
        "benchmark": benchmark_table,
        "tracking": tracking_table,
        "page": page_text,
        "cost": cost_table,
    },
    "data/README.md": {"sample": sample_text, "haar": haar_table, "alone": alone_text},
    "tests/soak/README.md": {"soak": soak_table},
}


def filled(page: str) -> str:
    """Return a page, a key of TABLES, with its tables made anew."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, table in TABLES[page].items():
        begin, end = f"<!-- {name}: written by python -m training.studies.report -->", f"<!-- end of {name} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{table()}\n{end}{rest.split(end)[1]}"
    return text


def draw_faces(path: Path) -> None:
    """Draw two photographs and rendered heads: keypoints, pose and expression above, filters below."""
    detector, shown = KeypointDetector(), []
    for name, effects in FACES.items():
        image = read_image(DATA_DIR / name)
        shown += [(name, image, detector(image)[0], effects)]
    with plt.rc_context(plots.STYLE):
        figure, axes = plt.subplots(2, len(shown), figsize=(2.1 * len(shown), 4.6), squeeze=False)
        for (above, below), (name, image, face, effects) in zip(axes.T, shown, strict=True):
            plots.draw_keypoints(above, image, face.keypoints, size=5, bones=True)
            plots.draw_pose(above, face.pose, box=False)
            # What a rendered head expresses is known; of a real person it would be a guess at somebody's face.
            word = "" if "photos" in name else f"{face.emotion.likeliest} {100 * face.emotion.probability:.0f} %, "
            above.set_title(f"{word}yaw {face.pose.yaw:.0f}°".replace("-", "−"))
            plots.draw_image(below, dress(image, [face], effects))
            for ax in (above, below):
                plots.zoom(ax, face.keypoints, lift=0.12)
        figure.savefig(path, dpi=120, pil_kwargs={"quality": 88})
        plt.close(figure)


def draw_film(path: Path) -> None:
    """Draw a rendered head that turns: its keypoints and pose, and filters, as an animated WebP."""
    tracker, frames = FaceTracker(), []
    video = Video(DATA_DIR / "sample" / "turn.mp4")
    for time, frame in video:
        faces = [face for face in tracker(frame, time) if face.state != LOST]
        parts = [drawing.draw_tracked(frame, faces, pose=True, boxes=False)]
        parts += [dress(frame, faces, effects) for effects in FILM]
        small = [cv2.resize(part, (280, 280), interpolation=cv2.INTER_AREA) for part in parts]
        frames.append(np.hstack(small))
    plots.write_film(path, frames, video.fps)


def pipeline() -> str:
    """Return a drawing of the way from an image to pose, expression and filters, as SVG."""
    parts, line = [], 'fill="none" stroke="#30506e" stroke-width="1.5" marker-end="url(#tip)"'
    for title, about, x, y in STEPS.values():
        parts.append(f'<rect x="{x}" y="{y - 24}" width="130" height="48" rx="6" fill="#eef4fb" stroke="#30506e"/>')
        parts.append(f'<text x="{x + 65}" y="{y - 4}" font-weight="bold">{title}</text>')
        parts.append(f'<text x="{x + 65}" y="{y + 13}">{about}</text>')
    for arrow in ARROWS:
        (*_, x0, y0), (*_, x1, y1) = (STEPS[name] for name in arrow.split())
        ends = f"M{x0 + 65} {y0 + 24} V{y1 - 26}" if x0 == x1 else f"M{x0 + 130} {y0} L{x1 - 2} {y1}"
        parts.append(f'<path d="{ends}" {line}/>')
    parts.append(f'<path d="M515 124 V165 H365 V126" stroke-dasharray="4 3" {line}/>')
    parts.append('<text x="440" y="182">in a video: the next crop</text>')
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 750 200" font-family="sans-serif" font-size="11" '
        'text-anchor="middle" fill="#1b2a38">\n<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto">\n<path d="M0 0 L8 4 L0 8 Z" fill="#30506e"/></marker>\n'
        '<rect width="750" height="200" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def main(arguments: list[str] | None = None) -> int:
    make_parser("report", __doc__).parse_args(arguments)
    for page in TABLES:
        (ROOT / page).write_text(filled(page), encoding="utf-8")
    (RESULTS / "pipeline.svg").write_text(pipeline(), encoding="utf-8")
    draw_faces(RESULTS / "faces.jpg")
    draw_film(RESULTS / "turn.webp")
    draw_failures(RESULTS / "failures.jpg", [DATA_DIR / name for name in list(FACES)[:2]])
    return 0


if __name__ == "__main__":
    sys.exit(main())
