"""The entries of the benchmark, and the worker that measures one of them in an interpreter of its own.

`python -m training.studies.benchmark_peers ENTRY OUT SET ...`, started by benchmark.py. ENTRY is a key of ENTRIES, with
``:ARGUMENT`` behind it where its class takes one. Each SET is an .npz file with the images ``image_0`` … as (H, W, 3)
uint8 RGB, so that all entries get the same pixels, and, where each shows one labelled face, ``places`` (N, 3), the true
points' centroid and size. OUT gets what :func:`measure` returns.

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

# For each of the 68 points the mesh points of which it is the mean.
MEDIAPIPE_MAP = Path(__file__).resolve().parents[2] / "results" / "benchmark_mediapipe68.json"
MOST_FACES = 20  # that MediaPipe's face mesh may find in a picture; it has no other way to say "all"
CLIP_FPS = 25


class Entry:
    """A tool: ``detect(image)`` returns boxes, and ``keypoints(image, box)`` (68, 2) points in pixels of the image."""

    ours = False
    framing = None  # how its boxes lie around faces, see fit_framing, where that isn't found out by its own detector
    keypoints = None  # of detectors alone

    def faces(self, image):
        """Return the faces of a whole picture: a list of (box, points)."""
        none = np.full((68, 2), np.nan)
        return [(box, self.keypoints(image, box) if self.keypoints else none) for box in self.detect(image)]


class Ours(Entry):
    """A network of this repository behind its detector, as a user calls it: ``EFFORT FILE``."""

    ours = True
    packages = ("onnxruntime", "opencv-python", "numpy")

    def __init__(self, argument):
        from keypoints.detection import KeypointDetector
        from keypoints.detectors import NetworkDetector

        effort, model = argument.split(" ", 1)
        self.detector = KeypointDetector(model, "network" if effort == "full" else NetworkDetector(effort=effort))

    def faces(self, image):
        return [(face.box, face.keypoints) for face in self.detector(image)]

    def keypoints(self, image, box):
        return self.detector.keypoints(image, box[None])[0]


class OursTracking(Ours):
    """A network of this repository in a FaceTracker."""

    keypoints = None

    def __init__(self, argument):
        from keypoints.tracking import FaceTracker

        super().__init__(argument)
        self.tracker, self.frames = FaceTracker(self.detector), 0

    def faces(self, image):
        self.frames += 1
        faces = self.tracker(image, self.frames / CLIP_FPS)
        return [(face.box, face.keypoints) for face in faces if face.state != "lost"]


class Dlib(Entry):
    """dlib's HOG detector, the image upsampled once, and its ensemble of regression trees."""

    packages = ("dlib-bin", "face_recognition_models", "numpy")

    def __init__(self):
        import dlib

        self.rectangle, self.detector = dlib.rectangle, dlib.get_frontal_face_detector()
        self.predictor = dlib.shape_predictor(
            str(file_of("face_recognition_models", "models/shape_predictor_68_face_landmarks.dat"))
        )

    def detect(self, image):
        return [(r.left(), r.top(), r.width(), r.height()) for r in self.detector(image, 1)]

    def keypoints(self, image, box):
        left, top, width, height = np.round(box).astype(int).tolist()
        shape = self.predictor(image, self.rectangle(left, top, left + width - 1, top + height - 1))
        return np.array([(point.x, point.y) for point in shape.parts()], np.float64)


class DlibFaces(Dlib):
    """The detector alone."""

    keypoints = None
    packages = ("dlib-bin", "numpy")

    def __init__(self):
        import dlib

        self.detector = dlib.get_frontal_face_detector()


class FacemarkLBF(Entry):
    """OpenCV's local binary features in the boxes of the Haar cascade, with the settings of our own HaarDetector."""

    packages = ("opencv-contrib-python", "GoldenFace", "numpy")

    def __init__(self):
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
        return self.facemark.fit(grey, np.round([box]).astype(np.int32))[1][0][0]


class MediaPipe(Entry):
    """The face mesh with refined eyes and lips.

    It takes no box: instead of one it gets a square around the face, with a margin, in which it searches itself.
    Points are share × size, as usual; in this repository's pixels that is half a pixel to the right and below.
    """

    framing = np.array([0, 0, 2.4])
    packages = ("mediapipe", "numpy")

    def __init__(self, mode="still"):
        import mediapipe

        still = mode == "still"  # else it follows one face; looking for more it would detect on every frame
        self.mesh = mediapipe.solutions.face_mesh.FaceMesh(
            static_image_mode=still, max_num_faces=MOST_FACES if still else 1, refine_landmarks=True
        )
        self.groups = json.loads(MEDIAPIPE_MAP.read_text(encoding="utf-8"))

    def faces(self, image):
        faces = []
        for face in self.mesh.process(image).multi_face_landmarks or ():
            mesh = np.array([(point.x, point.y) for point in face.landmark])
            points = np.stack([mesh[group].mean(axis=0) for group in self.groups]) * image.shape[1::-1]
            faces.append((np.concatenate([points.min(axis=0), np.ptp(points, axis=0)]), points))
        return faces

    def keypoints(self, image, box):
        middle = box[:2] + box[2:] / 2
        left, top = np.maximum(np.round(box[:2]), 0).astype(int)
        right, bottom = np.minimum(np.round(box[:2] + box[2:]), image.shape[1::-1]).astype(int)
        crop, none = np.ascontiguousarray(image[top:bottom, left:right]), np.full((68, 2), np.nan)
        faces = [np.add(points, (left, top)) for _, points in self.faces(crop)]
        return min(faces, key=lambda points: np.linalg.norm(points.mean(axis=0) - middle), default=none)


class MediaPipeFaces(Entry):
    """MediaPipe's face detection: BlazeFace at 128×128 pixels, ``model`` 0, or at 192×192 for small faces, 1."""

    packages = ("mediapipe", "numpy")

    def __init__(self, model):
        import mediapipe

        self.detector = mediapipe.solutions.face_detection.FaceDetection(model_selection=int(model))

    def detect(self, image):
        height, width = image.shape[:2]
        boxes = [face.location_data.relative_bounding_box for face in self.detector.process(image).detections or ()]
        return [(box.xmin * width, box.ymin * height, box.width * width, box.height * height) for box in boxes]


class YuNet(Entry):
    """OpenCV's face detector, with its default score, on the image as it is."""

    packages = ("opencv-contrib-python", "numpy")

    def __init__(self, file):
        import cv2

        self.detector = cv2.FaceDetectorYN.create(file, "", (320, 320))

    def detect(self, image):
        self.detector.setInputSize(image.shape[1::-1])
        faces = self.detector.detect(np.ascontiguousarray(image[..., ::-1]))[1]
        return [] if faces is None else faces[:, :4]


class OursFaces(Entry):
    """A detector of keypoints.detectors: "haar", or the effort and lowest score of the network."""

    ours = True
    packages = ("onnxruntime", "opencv-python", "numpy")

    def __init__(self, kind):
        from keypoints.detectors import HaarDetector, NetworkDetector

        if kind == "haar":
            self.detect = HaarDetector()
        else:
            effort, score = kind.split()
            network = NetworkDetector(effort=effort)
            self.detect = lambda image: network.find(image, least=float(score)).boxes


ENTRIES = {
    "ours": Ours,
    "dlib": Dlib,
    "lbf": FacemarkLBF,
    "mediapipe": MediaPipe,
    "ours_tracking": OursTracking,
    "ours_faces": OursFaces,
    "dlib_faces": DlibFaces,
    "mediapipe_faces": MediaPipeFaces,
    "yunet": YuNet,
}


def file_of(package: str, name: str) -> Path:
    """Return a file of an installed package without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {package!r}")
    return Path(spec.submodule_search_locations[0]) / name


def places(boxes: np.ndarray) -> np.ndarray:
    """Boxes (N, 4) left, top, width, height → (N, 3) centre and size, the root of the area."""
    return np.column_stack([boxes[:, :2] + boxes[:, 2:4] / 2, np.sqrt(boxes[:, 2] * boxes[:, 3])])


def fit_framing(boxes: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return how a tool's boxes (N, 4) typically lie around faces.

    A box is related to the points' centroid, not to their tight box, which lies to one side of a turned head: on 60
    training images Haar's and dlib's boxes were off sideways by 0.02 to 0.03 sizes in the median, of the tight box 0.1.

    Args:
        true: (N, 3) the centroids of the true points, and their sizes.

    Returns:
        (3,) medians, in sizes of the face: by how much the box's centre is to the right and below, and its side.
    """
    found = places(boxes)
    relation = np.column_stack([(found[:, :2] - true[:, :2]) / true[:, 2:], found[:, 2] / true[:, 2]])
    return np.median(relation[(np.abs(relation[:, :2]) < 0.5).all(axis=1)], axis=0)  # without boxes of other things


def apply_framing(framing: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the square boxes (N, 4) that the tool's detector would typically give of faces (N, 3)."""
    side = framing[2] * true[:, 2:]
    return np.hstack([true[:, :2] + framing[:2] * true[:, 2:] - side / 2, side, side])


def measure(entry, sets: dict) -> dict:
    """Measure an entry on sets of images; the framing of boxes is fitted on the first labelled one.

    Args:
        entry: an :class:`Entry`.
        sets: name → images, a sequence of N, and the faces' places (N, 3) or None.

    Returns:
        NAME.image: (F,) the image of each of the faces found by the whole pipeline; NAME.box: (F, 4); NAME.points:
        (F, 68, 2) pixels, NaN of detectors; NAME.ms: (N,) the processor time of each image, all threads added up, so
        other programs don't count; NAME.boxed: (N, 68, 2) the points in the given boxes, of labelled sets alone.
    """
    result, framing = {}, entry.framing
    for name, (images, true) in sets.items():
        faces, times = [], []
        for i in range(len(images)):
            image = images[i]
            began = time.process_time()
            found = entry.faces(image)
            times.append(1000 * (time.process_time() - began))
            faces += [(i, *face) for face in found]
        result[f"{name}.image"] = image_of = np.array([face[0] for face in faces], int)
        result[f"{name}.box"] = found = np.reshape([face[1] for face in faces], (-1, 4))
        result[f"{name}.points"] = np.reshape([face[2] for face in faces], (-1, 68, 2))
        result[f"{name}.ms"] = np.array(times)
        if true is not None and entry.keypoints:
            framing = fit_framing(found, true[image_of]) if framing is None else framing
            given = apply_framing(framing, true)
            result[f"{name}.boxed"] = np.stack([entry.keypoints(images[i], given[i]) for i in range(len(images))])
    return result


class _Images:
    """The images of an .npz file, read one by one."""

    def __init__(self, content) -> None:
        self.content = content

    def __len__(self) -> int:
        return sum(name.startswith("image_") for name in self.content.files)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.content[f"image_{index}"]


def main(name: str, out: str, *files: str) -> int:
    kind, _, argument = name.partition(":")
    if hasattr(os, "sched_setaffinity"):  # Linux. MediaPipe takes as many threads as it sees cores, and has no option
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    import cv2

    cv2.setNumThreads(1)
    entry = ENTRIES[kind](*([argument] if argument else []))
    content = {Path(file).stem: np.load(file) for file in files}
    sets = {name: (_Images(of), of.get("places")) for name, of in content.items()}
    versions = {"python": platform.python_version(), **{package: version(package) for package in entry.packages}}
    np.savez(out, versions=json.dumps(versions), **measure(entry, sets))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
