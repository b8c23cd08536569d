"""The entries of the benchmark, and the worker that measures one of them in an interpreter of its own.

`python -m training.studies.benchmark_peers PEER IMAGES OUT THREADS`, started by benchmark.py. PEER is a key of PEERS,
for our networks with ``:FILE`` behind it, the weights. IMAGES is an .npz file with ``boxes`` (N, 4), the true points'
tight boxes left, top, width, height, and the images ``image_0`` … as (H, W, 3) uint8 RGB, so that all entries get the
same pixels. OUT is one with what :func:`measure` returns.

Two environments run this file: ours and the baselines', which has no torch. So the module imports NumPy alone, and each
entry imports what it needs.
"""

import importlib.util
import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

WARM_UP = 20  # images before the timing: libraries plan, allocate and compile at their first calls
# For each of the 68 points the mesh points of which it is the mean.
MEDIAPIPE_MAP = Path(__file__).resolve().parents[2] / "results" / "benchmark_mediapipe68.json"


class Ours:
    """A network of this repository behind its detector, as a user calls it."""

    title = "behind its detector"
    ours = True
    packages = ("torch", "opencv-python", "numpy")

    def __init__(self, threads, model):
        import torch

        from keypoints.detection import KeypointDetector

        torch.set_num_threads(threads)
        self.detector = KeypointDetector(model)

    def detect(self, image):
        from keypoints.detection import candidates

        found = candidates(self.detector.detect, image)
        return [found.take([i]) for i in range(len(found.boxes))]

    def keypoints(self, image, box):
        return self.detector.network.locate([image], box.boxes, box.points).keypoints[0]


class OursCentre(Ours):
    """The official protocol: Rescale 250, centre crop 224. Nothing is detected."""

    title = "centre crop"
    detect = None

    def __init__(self, threads, model):
        from data_load import Normalize, evaluation_transform
        from training.prediction import predict
        from training.weights import load_model

        super().__init__(threads, model)
        self.net = load_model(model)
        self.transform, self.inverse, self.predict = evaluation_transform(), Normalize.inverse, predict

    def keypoints(self, image, box):
        # The transforms move two corners of the image along, which give the way back to its pixels.
        size = np.array(image.shape[1::-1], np.float32)
        sample = self.transform({"image": image, "keypoints": np.stack([0 * size, size]) - 0.5})
        low, high = self.inverse(sample["keypoints"]).numpy()
        return (self.predict(self.net, sample["image"][None])[0] - low) / (high - low) * size - 0.5


class Dlib:
    """dlib's HOG detector, the image upsampled once, and its ensemble of regression trees."""

    title = "dlib 68, its own HOG detector"
    ours = False
    packages = ("dlib-bin", "face_recognition_models", "numpy")

    def __init__(self, threads):
        import dlib

        self.rectangle, self.detector = dlib.rectangle, dlib.get_frontal_face_detector()
        self.predictor = dlib.shape_predictor(
            str(file_of("face_recognition_models", "models/shape_predictor_68_face_landmarks.dat"))
        )

    def detect(self, image):
        return [(r.left(), r.top(), r.width(), r.height()) for r in self.detector(image, 1)]

    def keypoints(self, image, box):
        left, top, width, height = box
        shape = self.predictor(image, self.rectangle(left, top, left + width - 1, top + height - 1))
        return np.array([(point.x, point.y) for point in shape.parts()], np.float64)


class DlibFaces(Dlib):
    """The detector alone."""

    keypoints = None
    packages = ("dlib-bin", "numpy")

    def __init__(self, threads):
        import dlib

        self.detector = dlib.get_frontal_face_detector()


class FacemarkLBF:
    """OpenCV's local binary features in the boxes of the Haar cascade, with the settings of our own HaarDetector."""

    title = "OpenCV FacemarkLBF behind Haar"
    ours = False
    packages = ("opencv-contrib-python", "GoldenFace", "numpy")

    def __init__(self, threads):
        import cv2

        self.cv2 = cv2
        self.cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
        self.facemark = cv2.face.createFacemarkLBF()
        self.facemark.loadModel(str(file_of("GoldenFace", "landmark.yaml")))  # OpenCV's own lbfmodel.yaml, renamed

    def detect(self, image):
        grey = self.cv2.cvtColor(image, self.cv2.COLOR_RGB2GRAY)
        return self.cascade.detectMultiScale(grey, 1.2, 2, minSize=(24, 24))

    def keypoints(self, image, box):
        grey = self.cv2.cvtColor(image, self.cv2.COLOR_RGB2GRAY)
        return self.facemark.fit(grey, np.array([box]))[1][0][0]


class MediaPipe:
    """The face mesh with refined eyes and lips, on a square of twice the true box's longer side.

    Its own detector runs inside, on that square, and can't be timed apart. Points are share × size, as usual; in this
    repository's pixels that is half a pixel to the right and below, and here to its advantage.
    """

    title = "MediaPipe face mesh mapped to 68, given the true box"
    ours = False
    packages = ("mediapipe", "numpy")
    detect = None

    def __init__(self, threads):
        import mediapipe

        self.mesh = mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True)
        self.groups = json.loads(MEDIAPIPE_MAP.read_text(encoding="utf-8"))

    def keypoints(self, image, box):
        middle, reach = box[:2] + box[2:] / 2, box[2:].max()
        left, top = np.maximum(np.round(middle - reach), 0).astype(int)
        right, bottom = np.minimum(np.round(middle + reach), image.shape[1::-1]).astype(int)
        crop = np.ascontiguousarray(image[top:bottom, left:right])
        faces = self.mesh.process(crop).multi_face_landmarks
        if not faces:
            return np.full((68, 2), np.nan)
        mesh = np.array([(point.x, point.y) for point in faces[0].landmark])
        return np.stack([mesh[group].mean(axis=0) for group in self.groups]) * crop.shape[1::-1] + (left, top)


class MediaPipeFaces:
    """MediaPipe's face detection: BlazeFace at 128×128 pixels, ``model`` 0, or at 192×192 for small faces, 1."""

    ours = False
    keypoints = None
    packages = ("mediapipe", "numpy")

    def __init__(self, threads, model):
        import mediapipe

        self.faces = mediapipe.solutions.face_detection.FaceDetection(model_selection=int(model))

    def detect(self, image):
        height, width = image.shape[:2]
        boxes = [face.location_data.relative_bounding_box for face in self.faces.process(image).detections or ()]
        return [(box.xmin * width, box.ymin * height, box.width * width, box.height * height) for box in boxes]


class OursFaces:
    """A detector of keypoints.detectors: "haar", or "network" with its effort and lowest score."""

    ours = True
    keypoints = None
    packages = ("onnxruntime", "opencv-python", "numpy")

    def __init__(self, threads, kind):
        from keypoints.detectors import HaarDetector, NetworkDetector

        if kind == "haar":
            self.detect = HaarDetector()
        else:
            _, effort, score = kind.split()
            network = NetworkDetector(effort=effort, min_score=float(score), threads=threads)
            self.detect = lambda image: network.find(image).boxes


# Entries that detect and place no points: training.studies.detector measures them.
FACES = {"ours_faces": OursFaces, "dlib_faces": DlibFaces, "mediapipe_faces": MediaPipeFaces}
PEERS = {"ours_centre": OursCentre, "ours_haar": Ours, "dlib": Dlib, "lbf": FacemarkLBF, "mediapipe": MediaPipe}


def file_of(package: str, name: str) -> Path:
    """Return a file of an installed package without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {package!r}")
    return Path(spec.submodule_search_locations[0]) / name


def measure(peer, images, boxes: np.ndarray) -> dict:
    """Measure an entry on the images in turn, after a warm-up.

    Args:
        peer: has ``keypoints(image, box)``, which returns (68, 2) in pixels of the image, NaN where it finds none; None
            where boxes are all it gives. And ``detect(image)``, which returns boxes as its ``keypoints`` takes them;
            None where it is given the true one.
        images: N images, by index.
        boxes: (N, 4) left, top, width, height, pixels.

    Returns:
        image: (F,) the image of each of the faces found; points: (F, 68, 2) pixels; detector_ms: (N,), empty where
        nothing is detected; keypoints_ms: (F,). Without ``keypoints`` box (F, 4) takes the place of the last two, and
        detector_ms is the time of all the process's threads: other programs don't count.
    """
    rows = {"image": [], "box": [], "points": [], "detector_ms": [], "keypoints_ms": []}
    clock = time.perf_counter if peer.keypoints else time.process_time
    order = [*range(min(WARM_UP, len(boxes))), *range(len(boxes))]
    for turn, index in enumerate(order):
        if turn == len(order) - len(boxes):
            rows = {name: [] for name in rows}
        image, found = images[index], [boxes[index]]
        if peer.detect:
            began = clock()
            found = peer.detect(image)
            rows["detector_ms"].append(1000 * (clock() - began))
        for box in found:
            rows["image"].append(index)
            if not peer.keypoints:
                rows["box"].append(box)
            else:
                began = clock()
                rows["points"].append(peer.keypoints(image, box))
                rows["keypoints_ms"].append(1000 * (clock() - began))
    rows |= {"points": np.reshape(rows["points"], (-1, 68, 2)), "box": np.reshape(rows["box"], (-1, 4))}
    return rows | {"image": np.array(rows["image"], int)}


class _Images:
    """The images of an .npz file, read one by one."""

    def __init__(self, content) -> None:
        self.content = content

    def __getitem__(self, index: int) -> np.ndarray:
        return self.content[f"image_{index}"]


def main(name: str, images: str, out: str, threads: str) -> int:
    kind, _, model = name.partition(":")
    # Linux. MediaPipe takes as many threads as it sees cores, and has no option; FACES count the time of all threads.
    if hasattr(os, "sched_setaffinity") and kind in PEERS:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    try:
        import cv2

        cv2.setNumThreads(int(threads))
        peer = (PEERS | FACES)[kind](int(threads), *([model] if model else []))
    except (ImportError, OSError, RuntimeError, AttributeError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    with np.load(images) as content:
        rows = measure(peer, _Images(content), content["boxes"])
    versions = {"python": platform.python_version(), **{package: version(package) for package in peer.packages}}
    np.savez(out, versions=json.dumps(versions), **rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
