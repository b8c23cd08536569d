"""How well poses and filters fit: `python -m training.studies.pose [--model FILE] [--photos DIR]` writes pose.json.

Rendered test heads, with the points of their labels, the same with noise, and the network's; photographs with reference
angles, where they are at hand; the corners of the sunglasses against those on the true heads in space; the time.

The heads' own zero of the pitch is that of their mesh, so their angles are turned to AFLW2000-3D's zero and order by
the one constant of the pose model, which no test head has seen; `as_labelled` gives the errors without that.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd

from data_load import find_data, read_image
from keypoints.detection import KeypointDetector
from keypoints.files import check_writable, one_sentence, sha256, write_json
from keypoints.filters import corners, load_filter
from keypoints.pose import Pose, estimate_pose, load_pose_model, rotation_angles, turn_in_order
from training import metrics
from training.framing import face_at
from training.weights import DEFAULT_MODEL

RESULTS = Path(__file__).resolve().parents[2] / "results"
AXES = ("yaw", "pitch", "roll")
NOISE = 2.0  # percent of the face's size


def angles(keypoints: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Yaw, pitch, roll (N, 3) of faces (N, 68, 2) in images of these sizes (N, 2); NaN where no face is."""
    rows = []
    for points, size in zip(keypoints, sizes, strict=True):
        pose = estimate_pose(points, tuple(size)) if np.isfinite(points).all() else None
        rows.append([np.nan] * 3 if pose is None else [pose.yaw, pose.pitch, pose.roll])
    return np.array(rows)


def errors(found: np.ndarray, truth: np.ndarray) -> dict:
    """Mean absolute error by axis and over the axes, of the faces that were found."""
    there = np.isfinite(found).all(axis=1)
    off = np.abs((found - truth + 180) % 360 - 180)[there]
    return {"faces": int(there.sum()), **dict(zip(AXES, off.mean(axis=0).tolist(), strict=True)), "mean": off.mean()}


def see(detector: KeypointDetector, image: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The network's points on a face: (68, 2) in its labels' box and in the cascade's, NaN without one."""
    given = detector.keypoints(image, detector.framing.boxes(points))[0]
    faces = detector(image)
    chosen = face_at(np.array([face.box for face in faces]), points)
    return given, np.full_like(given, np.nan) if chosen is None else faces[chosen].keypoints


def true_pose(heads: dict, i: int) -> Pose:
    """How a test head truly stands, with its own points, as a Pose; the frame as in keypoints/pose.py."""
    model, unit = load_pose_model(), load_pose_model().unit
    zero = turn_in_order(0, model.zero, 0)
    points = heads["points"][i].astype(float)
    origin = points[[36, 45]].mean(axis=0)
    turn = turn_in_order(*heads["pose"][i]) @ zero
    distance = float(heads["distance"][i]) / unit
    pivot = -origin @ zero / unit
    translation = np.array([0, 0, distance]) - turn @ pivot
    return Pose(turn, translation, *rotation_angles(turn), 0.0, np.ones(68), (points - origin) @ zero / unit,
                float(heads["focal"][i]), heads["centre"][i].astype(float), pivot)  # fmt: skip


def glasses(heads: dict, seen: np.ndarray, sizes: np.ndarray) -> dict:
    """Where the corners of the sunglasses come to lie, against the true head's, in percent of its projected width."""
    layer, off, yaws = load_filter("sunglasses").layers[0], [], []
    for i, points in enumerate(seen):
        truth = true_pose(heads, i)
        if not np.isfinite(points).all() or abs(truth.yaw) > 40:
            continue
        width = np.linalg.norm(np.diff(truth.project(truth.points[[0, 16]]), axis=0))
        own = corners(layer, estimate_pose(points, tuple(sizes[i])))
        off.append(100 * np.linalg.norm(own - corners(layer, truth), axis=1) / width)
        yaws.append(abs(truth.yaw))
    off, yaws = np.array(off), np.array(yaws)
    return {
        "heads": len(off),
        "mean": off.mean(),
        "median": np.median(off),
        "worst_corner_median": np.median(off.max(axis=1)),
        "corners_within_3": 100 * (off <= 3).mean(),
        "heads_with_all_within_3": 100 * (off.max(axis=1) <= 3).mean(),
        "mean_yaw_20_to_40": off[yaws > 20].mean(),
    }


def milliseconds(keypoints: np.ndarray, sizes: np.ndarray) -> float:
    """The processor's median time of estimate_pose for a face."""
    estimate_pose(keypoints[0], tuple(sizes[0]))
    took = []
    for points, size in zip(keypoints, sizes, strict=True):
        began = time.process_time()
        estimate_pose(points, tuple(size))
        took.append(time.process_time() - began)
    return 1000 * float(np.median(took))


def rendered(detector: KeypointDetector) -> dict:
    data = find_data("sample")
    with np.load(data.root / "test_geometry.npz") as file:
        heads = {name: file[name] for name in file.files}
    dataset = data.dataset("test")
    images = [dataset[i]["image"] for i in range(len(dataset))]
    sizes = np.array([image.shape[1::-1] for image in images])
    truth = np.asarray(dataset.keypoints, float).reshape(-1, 68, 2)
    attributes = pd.read_csv(data.root / "attributes.csv", index_col="file").loc[[f"test/{n}" for n in dataset.names]]
    labelled = attributes[list(AXES)].to_numpy(float)
    zero = turn_in_order(0, load_pose_model().zero, 0)
    reference = np.array([rotation_angles(turn_in_order(*row) @ zero) for row in labelled])
    given, found = map(np.array, zip(*(see(detector, *pair) for pair in zip(images, truth, strict=True)), strict=True))
    scatter = np.random.default_rng(0).normal(size=truth.shape)
    noisy = truth + scatter * NOISE / 100 * metrics.face_size(truth)[:, None, None]
    kinds = {"true_keypoints": truth, "noise_2_percent": noisy, "predicted_in_true_box": given, "predicted": found}
    result = {}
    for name, points in kinds.items():
        own = angles(points, sizes)
        result[name] = errors(own, reference) | {"as_labelled": errors(own, labelled)}
    result["zero"] = errors(np.zeros_like(reference), reference)
    result["glasses_true_keypoints"] = glasses(heads, truth, sizes)
    result["glasses_predicted"] = glasses(heads, found, sizes)
    result["milliseconds"] = milliseconds(truth, sizes)
    return result


def photographs(detector: KeypointDetector, folder: Path) -> dict:
    """Photographs with labels.csv (name, yaw, pitch, roll) and keypoints.csv; the second tells which face is meant."""
    labels = pd.read_csv(folder / "labels.csv", index_col="name")
    given = pd.read_csv(folder / "keypoints.csv", index_col=0).loc[labels.index].to_numpy(float).reshape(-1, 68, 2)
    images, truth = [read_image(folder / name) for name in labels.index], labels[list(AXES)].to_numpy(float)
    sizes = np.array([image.shape[1::-1] for image in images])
    boxed, found = map(np.array, zip(*(see(detector, *pair) for pair in zip(images, given, strict=True)), strict=True))
    result = {"zero_calibrated_on_these": load_pose_model().zero}
    for name, points in {"given_keypoints": given, "predicted_in_true_box": boxed, "predicted": found}.items():
        own = angles(points, sizes)
        result[name] = errors(own, truth)
        # One number, the pitch's zero, was chosen on these photographs; here each photograph is judged by the others'.
        off, there = (truth - own)[:, 1], np.isfinite(own[:, 1])
        others = [np.median(off[there & (np.arange(len(off)) != i)]) for i in range(len(off))]
        left_out = own + np.column_stack([np.zeros(len(own)), others, np.zeros(len(own))])
        result[name]["leave_one_out"] = errors(left_out, truth)
        near = np.abs(truth[:, 0]) <= 45
        result[name]["yaw_to_45"] = errors(own[near], truth[near])
    result["zero"] = errors(np.zeros_like(truth), truth)
    return result


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return round(float(value), 2) if isinstance(value, float) else value


@one_sentence()
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.studies.pose", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL, metavar="FILE", help="weights of the keypoints")
    parser.add_argument("--photos", type=Path, default=RESULTS.parent.parent / "shared" / "pose", metavar="DIR")
    parser.add_argument("--out", type=Path, default=RESULTS / "pose.json", metavar="FILE")
    options = parser.parse_args()
    check_writable(options.out)
    detector = KeypointDetector(options.model)
    result = {"sha256": sha256(options.model), "rendered": rendered(detector)}
    if options.photos.is_dir():
        result["photographs"] = photographs(detector, options.photos)
    write_json(options.out, rounded(result))


if __name__ == "__main__":
    main()
