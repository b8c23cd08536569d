"""How accurate poses are: `python -m training.studies.pose [--model FILE] [--photos DIR] [--turned DIR …]`.

Writes pose.json: rendered test heads, with the points of their labels, the same with noise, and predicted points;
photographs with reference angles, where they are at hand; and, by yaw, further heads (``data/sample/render.py
--varied``) that neither the keypoint network nor the pose model has seen. The zero of the heads' pitch is that of their
mesh. Their angles are therefore turned to AFLW2000-3D's zero and order by the one constant of the pose model, which is
not fitted on the test heads.
"""

import sys
from pathlib import Path

import numpy as np

from data_load import Data, find_data, read_image
from keypoints.detection import KeypointDetector
from keypoints.files import sha256
from keypoints.pose import estimate_pose, load_pose_model, pose_model_of_predictions, rotation_angles, turn_in_order
from training import metrics
from training.framing import face_at
from training.pose import read_photos
from training.studies.common import RESULTS, SHARED, figures_file, make_parser, rounded

AXES = ("yaw", "pitch", "roll")
NOISE = 2.0  # percent of the face's size
YAWS = ((0, 20), (20, 40), (40, 60), (60, 90))  # degrees


def angles(keypoints: np.ndarray, sizes: np.ndarray, predicted: bool = False) -> np.ndarray:
    """Estimate yaw, pitch, roll (N, 3) of faces (N, 68, 2) in images of these sizes (N, 2); NaN where no face is."""
    rows, model = [], pose_model_of_predictions() if predicted else load_pose_model()
    for points, size in zip(keypoints, sizes, strict=True):
        pose = estimate_pose(points, tuple(size), model) if np.isfinite(points).all() else None
        rows.append([np.nan] * 3 if pose is None else [pose.yaw, pose.pitch, pose.roll])
    return np.array(rows)


def errors(found: np.ndarray, truth: np.ndarray) -> dict:
    """Return the mean absolute error by axis and over the axes, of the faces that were found."""
    there = np.isfinite(found).all(axis=1)
    off = np.abs((found - truth + 180) % 360 - 180)[there]
    return {"faces": int(there.sum()), **dict(zip(AXES, off.mean(axis=0).tolist(), strict=True)), "mean": off.mean()}


def predict(detector: KeypointDetector, image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Predict the keypoints (68, 2) of the face with these labels; NaN where it is not found."""
    faces = detector(image)
    chosen = face_at(np.array([face.box for face in faces]), points)
    return np.full((68, 2), np.nan) if chosen is None else faces[chosen].keypoints


def read_heads(data: Data, split: str, detector: KeypointDetector) -> tuple[np.ndarray, ...]:
    """Read rendered heads: true and predicted keypoints (N, 68, 2), sizes of images (N, 2) and angles (N, 3)."""
    dataset = data.dataset(split)
    truth = np.asarray(dataset.keypoints, float).reshape(-1, 68, 2)
    images = [dataset[i]["image"] for i in range(len(dataset))]
    found = np.array([predict(detector, *pair) for pair in zip(images, truth, strict=True)])
    zero = turn_in_order(0, load_pose_model().zero, 0)
    labelled = data.attributes(split)[list(AXES)].to_numpy(float)
    reference = np.array([rotation_angles(turn_in_order(*row) @ zero) for row in labelled])
    return truth, found, np.array([image.shape[1::-1] for image in images]), reference


def turned(detector: KeypointDetector, folders: list[Path]) -> dict:
    """Measure the training pictures of folders of rendered heads, by their yaw, behind the detector."""
    parts = [read_heads(Data("rendered", folder), "training", detector)[1:] for folder in folders]
    found, sizes, reference = (np.concatenate(part) for part in zip(*parts, strict=True))
    own, yaw = angles(found, sizes, predicted=True), np.abs(reference[:, 0])
    result = {}
    for low, high in YAWS:
        chosen = (yaw >= low) & (yaw < high)
        if chosen.any():
            result[f"{low}_to_{high}"] = errors(own[chosen], reference[chosen]) | {"of": int(chosen.sum())}
    return result


def rendered(detector: KeypointDetector) -> dict:
    """Measure the sample's test heads."""
    truth, found, sizes, reference = read_heads(find_data("sample"), "test", detector)
    noise = np.random.default_rng(0).normal(size=truth.shape) * NOISE / 100 * metrics.face_size(truth)[:, None, None]
    kinds = {"true_keypoints": truth, "noise_2_percent": truth + noise, "predicted": found}
    result = {name: errors(angles(points, sizes, name == "predicted"), reference) for name, points in kinds.items()}
    return {**result, "zero": errors(np.zeros_like(reference), reference)}


def photographs(detector: KeypointDetector, folder: Path) -> dict:
    """Measure photographs, see :func:`training.pose.read_photos`; their keypoints tell which face is meant."""
    labels, given = read_photos(folder)
    images, truth = [read_image(folder / name) for name in labels.index], labels[list(AXES)].to_numpy(float)
    sizes = np.array([image.shape[1::-1] for image in images])
    found = np.array([predict(detector, *pair) for pair in zip(images, given, strict=True)])
    result = {"zero_calibrated_on_these": load_pose_model().zero}
    for name, points in {"given_keypoints": given, "predicted": found}.items():
        own = angles(points, sizes, name == "predicted")
        # One number, the pitch's zero, was chosen on these photographs; here the others' choose it for each photograph.
        off, there = (truth - own)[:, 1], np.isfinite(own[:, 1])
        others = [np.median(off[there & (np.arange(len(off)) != i)]) for i in range(len(off))]
        left_out = own + np.column_stack([np.zeros(len(own)), others, np.zeros(len(own))])
        result[name] = errors(own, truth) | {"leave_one_out": errors(left_out, truth)}
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("pose", __doc__, "model")
    parser.add_argument("--photos", type=Path, default=SHARED / "pose", metavar="DIR")
    parser.add_argument("--turned", type=Path, nargs="+", metavar="DIR", help="heads that no training saw")
    parser.add_argument("--out", type=Path, default=RESULTS / "pose.json", metavar="FILE")
    options = parser.parse_args(arguments)
    with figures_file(options.out) as content:
        detector = KeypointDetector(options.model)
        content |= {"sha256": sha256(options.model), "rendered": rounded(rendered(detector), ".2f")}
        if options.turned:
            content["turned"] = rounded(turned(detector, options.turned), ".2f")
        if options.photos.is_dir():
            content["photographs"] = rounded(photographs(detector, options.photos), ".2f")
    return 0


if __name__ == "__main__":
    sys.exit(main())
