"""Write the tables of README.md and data/README.md and draw results/faces.jpg: `python -m results.report`.

Every figure comes from a JSON file that a command wrote; the pictures are ones that may be shipped.
"""

import json
from pathlib import Path

import cv2
import numpy as np

from data_load import find_data, read_image
from keypoints import plots
from keypoints.detection import Face, KeypointDetector
from keypoints.filters import apply_filter
from models import MODEL_DIR

HERE = Path(__file__).resolve().parent
NOTEBOOKS = {
    "1_Load_and_Visualize_Data": "the data, the 68 points, four transforms and two traps, framing, the error to beat",
    "2_Define_the_Network_Architecture": "the network, its training and its errors; the course's four questions, "
    "answered with figures",
    "3_Facial_Keypoint_Detection_Complete_Pipeline": "Haar box → framing → network → points on whole photographs",
    "4_Fun_with_Keypoints": "the pose of a head, and sunglasses, hats and a smile that follow it in space",
}


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def results_table() -> str:
    """How good the weights are, in Markdown."""
    shipped, twin = load(MODEL_DIR / "keypoints_model_1.json"), load(HERE / "twin_by_person.json")
    rows = [
        ("official test set, centre crop", "shipped weights", load(HERE / "official_test_centre.json")),
        ("official test set, whole pipeline (Haar)", "shipped weights", load(HERE / "official_test_haar.json")),
        (f"{len(twin['held_out_people'])} people never seen, centre crop", "their twin", twin["validation"]),
    ]
    lines = [
        "| measured on | weights | found | NME_box | NME_iod | NME_iod > 10 % | AUC (NME_box, 7 %) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, weights, figures in rows:
        lines.append(
            f"| {name} | {weights} | {figures['found']} of {figures['n']} | {figures['nme_box']:.2f} % | "
            f"{figures['nme_iod']:.2f} % | {figures['fr_iod_10']:.1f} % | {figures['auc_box_07']:.1f} % |"
        )
    threads = f"{shipped['threads']} thread" + "s" * (shipped["threads"] != 1)
    lines += [
        "",
        f"Trained in {shipped['seconds'] / 60:.0f} minutes with {threads} of a processor that calls itself "
        f"'{shipped['versions']['processor']}', {shipped['peak_memory_mb'] / 1000:.1f} GB of memory at most, "
        f"{shipped['parameters'] / 1e6:.1f} million weights, seed {shipped['recipe']['seed']}. The twin is the same "
        f"recipe without {len(twin['held_out_people'])} of the people ({twin['samples']} images).",
    ]
    return "\n".join(lines)


def notebooks_table() -> str:
    """What the notebooks are and how long they run on the sample, in Markdown; `make refresh` measured it."""
    seconds = load(HERE / "notebook_seconds.json")
    lines = ["| notebook | what happens | on the sample |", "|---|---|---|"]
    for name, text in NOTEBOOKS.items():
        number, title = name.split("_", 1)
        lines.append(f"| [{number} · {title.replace('_', ' ')}]({name}.ipynb) | {text} | {seconds[name]} s |")
    return "\n".join(lines)


def haar_table() -> str:
    """How many of the sample's heads the Haar cascade finds, by yaw, in Markdown."""
    haar = load(HERE / "sample_haar.json")
    columns = [f"{row['from']}–{row['to']}°" for row in haar["bins"]] + ["up to 30°", "all"]
    shares = [row["found"] for row in haar["bins"]] + [haar["found_within_30"], haar["found"]]
    images = [row["images"] for row in haar["bins"]]
    return "\n".join(
        [
            f"| yaw, either side | {' | '.join(columns)} |",
            f"|---|{'---|' * len(columns)}",
            f"| found | {' | '.join(f'{share:.1f} %' for share in shares)} |",
            f"| images | {' | '.join(str(number) for number in images)} | | {haar['images']} |",
        ]
    )


TABLES = {"results": results_table, "notebooks": notebooks_table, "haar": haar_table}
PAGES = {"README.md": ("results", "notebooks"), "data/README.md": ("haar",)}


def filled(page: str) -> str:
    """A page, a key of PAGES, with its tables made anew."""
    text = (HERE.parent / page).read_text(encoding="utf-8")
    for name in PAGES[page]:
        content = TABLES[name]()
        begin, end = f"<!-- {name}: written by python -m results.report -->", f"<!-- end of {name} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{content}\n{end}{rest.split(end)[1]}"
    return text


def picture(height: int = 300) -> np.ndarray:
    """Two photographs and rendered heads, with keypoints above and filters below: RGB uint8."""
    test_set, detector = find_data("sample").dataset("test"), KeypointDetector()
    images = [read_image(HERE.parent / "data" / "photos" / name) for name in ("grace_hopper.jpg", "astronaut.jpg")]
    images += [test_set[i]["image"] for i in range(0, len(test_set), len(test_set) // 10)]
    above, below = [], []
    for image in images:
        faces = detector(image)
        if not faces or sum(part.shape[1] for part in above) > 4 * height:
            continue
        left, top, side = detector.framing.views(faces[0].box[None])[0]
        x, y = np.maximum(0, [int(left), int(top)])
        view = image[y : int(top + side), x : int(left + side)]
        scale = height / view.shape[0]
        view = cv2.resize(view, (round(view.shape[1] * scale), height), interpolation=cv2.INTER_CUBIC)
        points = (faces[0].keypoints + 0.5 - [x, y]) * scale - 0.5
        box = np.array([*(faces[0].box[:2] - [x, y]), *faces[0].box[2:]]) * scale
        above.append(plots.draw_faces(view, [Face(box, points)]))
        below.append(apply_filter(view, points, "sunglasses"))
        if len(below) % 2 == 0:
            below[-1] = apply_filter(below[-1], points, "moustache")
    return np.vstack([np.hstack(above), np.hstack(below)])


def main() -> None:
    for page in PAGES:
        (HERE.parent / page).write_text(filled(page), encoding="utf-8")
    plots.write_image(HERE / "faces.jpg", picture())


if __name__ == "__main__":
    main()
