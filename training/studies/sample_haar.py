"""How many of the sample's heads the Haar cascade finds, by yaw: `python -m training.studies.sample_haar`."""

import argparse
import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from data_load import find_data
from keypoints.detectors import HaarDetector
from keypoints.files import check_writable, one_sentence, write_json
from training.framing import face_at

OUT = Path(__file__).resolve().parents[2] / "results" / "sample_haar.json"
EDGES = (0, 10, 20, 30, 45, 60)  # degrees of |yaw|


@one_sentence()
def main() -> None:
    check_writable(OUT)
    data, detect = find_data("sample"), HaarDetector()
    yaw = pd.read_csv(data.root / "attributes.csv", index_col="file")["yaw"].abs()
    found, false_boxes = {}, 0
    for split in ("training", "test"):
        dataset = data.dataset(split)
        for i, name in enumerate(dataset.names):
            boxes = detect(dataset[i]["image"])
            found[f"{split}/{name}"] = face_at(boxes, dataset.keypoints[i]) is not None
            false_boxes += len(boxes) - found[f"{split}/{name}"]
    found = pd.Series(found)[yaw.index]
    bins = []
    for low, high in itertools.pairwise(EDGES):
        inside = (yaw >= low) & (yaw < high)
        bins.append({"from": low, "to": high, "images": int(inside.sum()), "found": float(100 * found[inside].mean())})
    write_json(
        OUT,
        {
            "scale_factor": detect.scale_factor,
            "min_neighbors": detect.min_neighbors,
            "images": len(found),
            "found": float(100 * np.mean(found)),
            "found_within_30": float(100 * found[yaw <= 30].mean()),
            "false_boxes": int(false_boxes),
            "bins": bins,
        },
    )


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m training.studies.sample_haar", description=__doc__.split("\n", 1)[0]
    ).parse_args()
    main()
