from __future__ import annotations

import json
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from helpers import ASTRONAUT, PHOTOS, SHIPPED, face_points, faceless_pictures, find_dot, paint_dot, write_set
from PIL import Image
from torch import nn

from data_load import KEYPOINT_MEAN, KEYPOINT_STD, find_data, read_image
from keypoints import detection
from keypoints.detection import Candidates, Face, KeypointDetector, attainable_score, distinct, joint_scores
from keypoints.detectors import HaarDetector
from keypoints.geometry import crop_view, transform
from keypoints.images import as_rgb
from keypoints.landmarks import PARTS
from keypoints.network import Crop, Framing
from keypoints.tracking import TrackedFace
from models import CoarseToFine
from training.evaluation import evaluate
from training.framing import face_at, framing_dict, measure_framing
from training.metrics import face_size

FRAMING = Framing(scale=1.6, dx=0.05, dy=0.1, box_scale=1.2, box_dx=0.02, box_dy=-0.15)


class FindsTheDot(nn.Module):
    """A 'network' whose 68 points all lie on the bright spot of what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.framing = framing_dict(FRAMING)
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        points = np.stack([np.tile(find_dot(grey[0].numpy()), 68) for grey in image])
        return (torch.from_numpy(points).float() - KEYPOINT_MEAN) / KEYPOINT_STD


class Detects:
    """A 'detector' that gives these boxes, whatever the image."""

    def __init__(self, *boxes: tuple[float, ...]) -> None:
        self.boxes = boxes

    def __call__(self, image: np.ndarray) -> np.ndarray:
        assert image.ndim == 3 and image.dtype == np.uint8
        return np.array(self.boxes, np.float32)


# From the image to the crop and back ----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [60, 111.3, 224, 400, 777.7])
@pytest.mark.parametrize("roll", [0, -30, 17.5, 90])
def test_a_dot_in_the_crop_lies_where_the_matrix_says(side, roll):
    image = paint_dot(800, 900, 431.37, 402.81, sigma=max(2, side / 60))
    crop, matrix = crop_view(image, np.array([431.37 - 0.3 * side, 402.81 - 0.6 * side, side, roll]))
    assert crop.shape == (224, 224) and crop.dtype == np.uint8
    np.testing.assert_allclose(transform(find_dot(crop)[None], matrix), [[431.37, 402.81]], atol=0.15)


def test_a_turned_view_shows_upright_what_is_turned():
    astronaut, middle = read_image(PHOTOS / "astronaut.jpg"), (222, 115)
    expected, _ = crop_view(astronaut, np.array([middle[0] - 80, middle[1] - 80, 160]))
    # OpenCV turns anticlockwise, and by the middle of a pixel; a view goes by the edges.
    clockwise = cv2.getRotationMatrix2D((middle[0] - 0.5, middle[1] - 0.5), -25, 1)
    turned = cv2.warpAffine(astronaut, clockwise, astronaut.shape[1::-1])
    crop, _ = crop_view(turned, np.array([middle[0] - 80, middle[1] - 80, 160, 25]))
    assert np.abs(crop.astype(float) - expected).mean() < 3
    wrong, _ = crop_view(turned, np.array([middle[0] - 80, middle[1] - 80, 160, -25]))
    assert np.abs(wrong.astype(float) - expected).mean() > 30


@pytest.mark.parametrize("roll", [0, 20])
def test_a_huge_view_needs_little_memory_and_keeps_its_place(roll):
    image = paint_dot(1000, 1200, 700.4, 420.8, sigma=60)
    tracemalloc.start()
    crop, matrix = crop_view(image, np.array([-6000, -5000, 12000, roll]))
    peak = tracemalloc.get_traced_memory()[1]  # NumPy tells of its arrays; OpenCV's come to Python as such
    tracemalloc.stop()
    assert peak < 20e6  # the border alone would take 144 MB
    found = transform(find_dot(crop - crop.min())[None], matrix)
    np.testing.assert_allclose(found, [[700.4, 420.8]], atol=12000 / 224 / 5)


def test_a_photograph_that_shrinks_does_not_alias():
    pattern = 255 * (np.indices((950, 950)).sum(axis=0) % 2).astype(np.uint8)
    assert crop_view(pattern, np.array([0, 0, 950]))[0].std() < 15


def test_points_of_many_crops_come_back_as_those_of_single_ones():
    random, image = np.random.default_rng(0), np.zeros((300, 300), np.uint8)
    points = random.uniform(0, 224, (3, 68, 2))
    matrices = np.stack([crop_view(image, view)[1] for view in ((1, 2, 50), (-9, 4, 500, 30), (5, 5, 224, -90))])
    together = transform(points, matrices)
    for i in range(3):
        np.testing.assert_allclose(together[i], transform(points[i], matrices[i]))
    np.testing.assert_allclose(transform(np.array([[111.5, 111.5]]), matrices[1]), [[-9 + 249.5, 4 + 249.5]])


@pytest.mark.parametrize("view", [(-40, -30, 150), (30, 60, 150), (-60, -60, 300), (-5, 3, 224)])
def test_a_view_that_leaves_the_image_keeps_its_place_and_repeats_the_border(view):
    image = paint_dot(100, 120, 57.4, 71.8, sigma=3)
    crop, matrix = crop_view(image, np.array(view))
    np.testing.assert_allclose(transform(find_dot(crop)[None], matrix), [[57.4, 71.8]], atol=0.1)
    crop, _ = crop_view(np.full((100, 120, 3), 90, np.uint8), np.array(view))
    assert crop.min() == crop.max() == 90


def test_a_view_of_the_whole_image_is_the_image():
    image = np.random.default_rng(0).integers(0, 256, (224, 224), dtype=np.uint8)
    crop, matrix = crop_view(image, np.array([0, 0, 224]))
    np.testing.assert_array_equal(crop, image)
    np.testing.assert_allclose(matrix, [[1, 0, 0], [0, 1, 0]], atol=1e-9)


@pytest.mark.parametrize("place", [(120, 0), (0, 100), (-50, 0), (0, -50)])
def test_a_view_that_only_touches_the_image_lies_outside(place):
    with pytest.raises(ValueError, match=r"50×50 lies outside the image of 120×100 pixels"):
        crop_view(np.zeros((100, 120), np.uint8), np.array([*place, 50]))


@pytest.mark.parametrize("roll", [0, 45])
def test_a_view_outside_the_image_raises_a_sentence(roll):
    with pytest.raises(ValueError, match="view 200, 0, 50×50 lies outside the image of 120×100 pixels"):
        crop_view(np.zeros((100, 120), np.uint8), np.array([200, 0, 50, roll]))


@pytest.mark.parametrize("side", [0, -5, 1921, 1e30, np.inf])
def test_an_absurdly_large_view_raises_a_sentence(side):
    with pytest.raises(ValueError, match=r"side of .* pixels, expected .*at most 16 times .* image of 120×100 pixels"):
        crop_view(np.zeros((100, 120), np.uint8), np.array([0, 0, side]))


# Framing --------------------------------------------------------------------------------------------------------------


def test_views_by_hand():
    view = FRAMING.views([(100, 50, 40, 40)])
    np.testing.assert_allclose(view, [[120 + 2 - 32, 70 + 4 - 32, 64, 0]])


def test_the_view_of_a_turned_face_turns_with_it():
    view = FRAMING.views([(100, 50, 40, 40, 90)])  # the head lies: its chin points to the left
    np.testing.assert_allclose(view, [[120 - 4 - 32, 70 + 2 - 32, 64, 90]])


def test_boxes_by_hand():
    points = np.full((68, 2), (10, 20))
    points[1] = (59, 69)  # the pixels 10 to 59, so the middle of their edges is 35
    box = FRAMING.boxes(points)
    np.testing.assert_allclose(box, [[35 + 0.98 - 29.4, 45 - 7.35 - 29.4, 58.8, 58.8]], atol=1e-5)
    assert box.dtype == np.float32 and FRAMING.boxes(np.stack([points] * 3)).shape == (3, 4)


def test_boxes_and_views_move_and_grow_with_the_face():
    points = face_points(100, 90, 40)
    box, moved = FRAMING.boxes(points)[0], FRAMING.boxes((points + 0.5) * 3 - 0.5 + [7, -2])[0]
    np.testing.assert_allclose(moved, [box[0] * 3 + 7, box[1] * 3 - 2, *box[2:] * 3], atol=1e-3)
    views = FRAMING.views([box, moved])
    np.testing.assert_allclose(views[1], [views[0, 0] * 3 + 7, views[0, 1] * 3 - 2, views[0, 2] * 3, 0], atol=1e-3)


def test_measuring_finds_the_framing_that_the_data_has():
    samples, boxes, random = [], [], np.random.default_rng(0)
    for _ in range(9):
        points = face_points(*random.uniform(200, 300, 2), random.uniform(60, 100))
        box = FRAMING.boxes(points)[0].astype(float)
        left, top, side, _ = FRAMING.views(box)[0]
        side, middle = side * 250 / 224, np.array([left, top]) + side / 2  # training sees 224 of 250 pixels
        corner = np.round(middle - side / 2)  # the image that a training set would hold of this face
        shape = (np.round(2 * (middle - corner))[::-1]).astype(int)
        samples.append({"image": np.zeros((*shape, 3), np.uint8), "keypoints": points - corner.astype(np.float32)})
        boxes.append((*(box[:2] - corner), *box[2:]))
    given = iter(boxes)
    measured = measure_framing(samples, lambda image: np.array([next(given), (0, 0, 9, 9)]))
    for name, value in framing_dict(FRAMING).items():
        assert getattr(measured, name) == pytest.approx(value, abs=0.01), name


def test_measuring_by_hand():
    points = np.full((68, 2), (100, 80))
    points[1] = (149, 129)  # 50 pixels wide and high, from 100 and from 80
    sample = {"image": np.zeros((250, 300, 3), np.uint8), "keypoints": points}
    measured = measure_framing([sample], Detects((90, 60, 80, 80)))
    size = face_size(points)
    expected = [224 / 80, (150 - 130) / 80, (125 - 100) / 80, 80 / size, (130 - 125) / size, (100 - 105) / size]
    np.testing.assert_allclose(list(framing_dict(measured).values()), expected, atol=6e-5)


def test_measuring_and_face_at_take_boxes_with_a_roll():
    sample = {"image": np.zeros((250, 300, 3), np.uint8), "keypoints": face_points(100, 100, 50)}
    boxes = [(0, 0, 30, 30), (40, 40, 120, 120), (200, 0, 20, 20), (3, 3, 9, 9)]
    for some in (boxes[1:2], boxes):
        rolled = [(*box, 3) for box in some]
        assert measure_framing([sample], Detects(*rolled)) == measure_framing([sample], Detects(*some))
        assert face_at(np.array(rolled), sample["keypoints"]) == face_at(np.array(some), sample["keypoints"])
    assert face_at([], sample["keypoints"]) is None
    corner = np.full((68, 2), (88, 88))  # within the upright box, beside the one on its tip
    assert face_at([(0, 0, 100, 100)], corner) == 0 and face_at([(0, 0, 100, 100, 45)], corner) is None
    with pytest.raises(ValueError, match=r"got boxes of shape \(1, 3\), expected \(N, 4\)"):
        face_at([(1, 2, 3)], corner)


def test_measuring_looks_past_false_alarms_and_raises_where_no_face_is_found():
    sample = {"image": np.zeros((200, 200, 3), np.uint8), "keypoints": face_points(100, 100, 60)}
    right, wrong = (40.0, 40.0, 120.0, 120.0), (0.0, 0.0, 30.0, 30.0)
    samples = [sample] * 3
    assert measure_framing(samples, Detects(wrong, right)) == measure_framing(samples, Detects(right))
    for detect in (Detects(wrong), Detects()):
        with pytest.raises(ValueError, match="got no image in which the detector finds the face"):
            measure_framing(samples, detect)


def test_the_face_at_a_place_is_the_nearest_box_that_holds_it():
    points = face_points(50, 50, 20)
    centroid = points.mean(axis=0)
    far, near, beside = (0, 0, 100, 80), (*centroid - 20, 40, 40), (60, 60, 30, 30)
    assert face_at(np.array([beside, far, near]), points) == 2
    assert face_at(np.array([beside, far]), points) == 1
    assert face_at(np.array([beside]), points) is None
    assert face_at(np.zeros((0, 4)), points) is None


# The detector ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dot", "box"),
    [
        ((151.3, 142.7), (110, 100, 80, 80)),  # enlarged
        ((300.4, 250.2), (100, 60, 390, 390)),  # shrunk
        ((12.6, 140.2), (0, 110, 70, 70)),  # at the border: the view leaves the image
        ((588.9, 484.4), (540, 430, 60, 70)),
        ((20.5, 30.3), (-30, -20, 90, 90)),  # the box itself does
    ],
)
def test_points_are_mapped_back_to_the_image(dot, box):
    image = paint_dot(500, 600, *dot, sigma=max(2, box[2] / 50))
    [face] = KeypointDetector(FindsTheDot(), Detects(box))(image)
    assert face.keypoints.shape == (68, 2) and face.keypoints.dtype == np.float32
    np.testing.assert_allclose(face.keypoints, np.tile(dot, (68, 1)), atol=0.15)
    assert face.box.tolist() == list(box) and face.box.dtype == np.float32


def test_points_of_a_turned_box_are_mapped_back_to_the_image():
    image = paint_dot(500, 600, 300.4, 250.2, sigma=4)
    [face] = KeypointDetector(FindsTheDot(), Detects((260, 200, 90, 90, -30)))(image)
    np.testing.assert_allclose(face.keypoints, np.tile((300.4, 250.2), (68, 1)), atol=0.15)
    assert face.box.tolist() == [260, 200, 90, 90]


def scoring(*boxes: tuple, **options) -> KeypointDetector:
    """A detector whose network gives the score 1 to boxes on the left, 0.2 to others, and the confidence 0.7."""
    detector = KeypointDetector(FindsTheDot(), Detects(*boxes), **options)
    locate = detector.network.locate

    def scored(images: list, boxes: np.ndarray, five: np.ndarray | None):
        confidence = np.full((len(boxes), 68), 0.7, np.float32)
        return locate(images, boxes, five)._replace(confidence=confidence, score=np.where(boxes[:, 0] < 100, 1.0, 0.2))

    detector.network.locate = scored
    return detector


def test_faces_below_the_least_score_are_dropped():
    image, good, bad = paint_dot(200, 200, 120, 100), (70, 60, 70, 70), (110, 60, 70, 70)
    [face] = scoring(bad, good)(image)
    assert face.box.tolist() == list(good) and face.score == 1
    assert face.confidence.shape == (68,) and face.confidence[0] == np.float32(0.7)
    [first] = scoring(bad, min_score=0.1)(image)
    assert first.box.tolist() == list(bad) and first.score == pytest.approx(0.2)
    assert scoring(bad)(image) == []
    face = KeypointDetector(FindsTheDot(), Detects(bad))(image)[0]
    assert face.score is None and face.confidence is None


def test_a_score_of_both_networks_rises_with_either():
    rising = [0.01, 0.2, 0.5, 0.8, 1.0]
    half = np.full(5, 0.3)
    for scores in (joint_scores(rising, half), joint_scores(half, rising), joint_scores([None] * 5, rising)):
        assert scores == sorted(scores) and scores[0] < 0.3 and scores[-1] > 0.7
    assert joint_scores([], np.zeros(0)) == []


def test_of_faces_that_lie_on_one_another_the_best_score_stays():
    box = np.zeros(4, np.float32)
    places = [(100, 100, 40, 0.7), (104, 98, 42, 0.9), (110, 110, 15, 0.8), (300, 100, 40, 0.6), (100, 100, 41, None)]
    faces = [Face(box, face_points(x, y, size), score=score) for x, y, size, score in places]
    assert distinct(faces) == [faces[1], faces[3]]  # the third lies within the first
    assert distinct([faces[4], faces[3]]) == [faces[4], faces[3]] and distinct([]) == []
    settled = [Face(box, face_points(100, 100, 40), score=score) for score in (0.995, 0.999)]
    assert distinct(settled) == settled[:1]  # both are sure: the earlier pass's
    neighbours = [Face(box, face_points(x, 100, 40), score=0.9) for x in (100, 165)]  # cheek behind cheek
    assert distinct(neighbours) == neighbours


def test_faces_are_equal_to_themselves_alone():
    faces = [Face(np.zeros(4, np.float32), face_points(50, 50, 20), (100, 90), np.ones(68)) for _ in range(2)]
    tracked = [TrackedFace(face.box, face.keypoints) for face in faces]
    seen = [replace(face, crop=Crop(np.zeros((99, 99), np.uint8), face.keypoints)).emotion for face in faces]
    for one, other in (faces, tracked, [face.pose for face in faces], seen):
        assert one == one and one != other and one not in [other] and [other, one].index(one) == 1
        assert len({one, other}) == 2


def test_a_face_as_a_dict_is_plain_and_complete():
    face = Face(np.array([1.5, 2, 30, 40], np.float32), face_points(50, 50, 20), (100, 90), roll=90.0)
    plain = face.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["box"] == [1.5, 2, 30, 40] and plain["box_roll"] == 90 and plain["image_size"] == [100, 90]
    np.testing.assert_array_equal(np.float32(plain["keypoints"]), face.keypoints)
    assert plain["score"] is None and plain["confidence"] is None and plain["roll"] == face.pose.roll
    assert plain["emotion"] is None and plain["emotion_probability"] is None and not {"id", "crop"} & set(plain)
    seen = replace(face, crop=Crop(np.zeros((99, 99), np.uint8), face.keypoints))
    assert seen.to_dict()["emotion"] == seen.emotion.label
    assert seen.to_dict()["emotion_probability"] == seen.emotion.probability
    assert seen.to_dict()["emotion_probabilities"] == seen.emotion.probabilities
    tracked = TrackedFace(face.box, face.keypoints, (100, 90), np.full(68, 0.5), np.float32(0.1), id=3).to_dict()
    assert json.loads(json.dumps(tracked)) == tracked and tracked["id"] == 3 and tracked["score"] == 0.1


def test_no_face_is_an_empty_list():
    for nothing in (Detects(), HaarDetector()):
        assert KeypointDetector(FindsTheDot(), nothing)(np.zeros((90, 90, 3), np.uint8)) == []
    assert KeypointDetector(FindsTheDot()).keypoints(np.zeros((9, 9, 3), np.uint8), []).shape == (0, 68, 2)


def test_a_tiny_image_has_no_face():
    assert KeypointDetector(FindsTheDot())(np.zeros((1, 1, 3), np.uint8)) == []


def test_faces_come_largest_first():
    boxes = [(10, 10, 30, 30), (60, 60, 90, 80), (20, 90, 40, 40)]
    faces = KeypointDetector(FindsTheDot(), Detects(*boxes))(paint_dot(200, 200, 70, 70, sigma=30))
    assert [tuple(face.box) for face in faces] == [boxes[1], boxes[2], boxes[0]]


def test_a_detector_of_a_new_name_is_used(monkeypatch):
    monkeypatch.setitem(detection.DETECTORS, "middle", Middle)
    assert isinstance(KeypointDetector(detect="middle").detect, Middle)


def test_the_fast_search_has_a_name():
    for model in (None, "free"):
        fast, full = (KeypointDetector(model, name) for name in ("fast", "network"))
        assert (fast.detect.effort, full.detect.effort) == ("fast", "full")
    [face] = fast(ASTRONAUT)
    assert np.linalg.norm(face.keypoints - full(ASTRONAUT)[0].keypoints, axis=1).max() < 8


class Middle:
    """Finds one face in the middle of any image."""

    def __call__(self, image):
        return np.array([[0, 0, *image.shape[1::-1]]])


def test_a_detector_that_returns_nothing_is_told_what_it_should():
    with pytest.raises(ValueError, match=r"got boxes of shape \(\), expected \(N, 4\)"):
        KeypointDetector(FindsTheDot(), lambda image: None)(np.zeros((9, 9, 3), np.uint8))


def test_a_detector_may_return_a_list():
    box = [30, 30, 50, 50]
    for boxes, number in (([box], 1), ([], 0), ((), 0)):
        detector = KeypointDetector(FindsTheDot(), lambda image, boxes=boxes: boxes)
        assert len(detector(paint_dot(100, 100, 55, 55))) == number


@pytest.fixture
def net() -> CoarseToFine:
    torch.manual_seed(0)
    net = CoarseToFine()
    for layer in (net.coarse.linear, net.fine.linear):
        nn.init.normal_(layer.weight, std=0.1)
    net.framing = framing_dict(FRAMING)
    return net


def test_many_boxes_give_what_single_ones_give(net):
    image, detector = read_image(PHOTOS / "astronaut.jpg"), KeypointDetector(net)
    boxes = np.array([(180, 60, 90, 90), (10, 20, 200, 180), (200, 300, 70, 70), (150, 90, 120, 120)])
    together = detector.keypoints(image, boxes)
    assert together.shape == (4, 68, 2)
    for box, points in zip(boxes, together, strict=True):
        np.testing.assert_allclose(detector.keypoints(image, box)[0], points, atol=0.01)


def test_what_the_image_comes_as_does_not_matter(net, tmp_path):
    grey = cv2.cvtColor(read_image(PHOTOS / "astronaut.jpg"), cv2.COLOR_RGB2GRAY)
    path = tmp_path / "grey ü.png"
    path.write_bytes(cv2.imencode(".png", grey)[1].tobytes())
    detector = KeypointDetector(net, Detects((180, 60, 90, 90)))
    first = detector(np.repeat(grey[..., None], 3, axis=2))[0].keypoints
    for image in (grey, path, str(path), np.asfortranarray(grey)):
        np.testing.assert_array_equal(detector(image)[0].keypoints, first)
        np.testing.assert_array_equal(detector.keypoints(image, (180, 60, 90, 90))[0], first)


def test_a_list_of_images_gives_what_single_ones_give(net, tmp_path):
    photo = read_image(PHOTOS / "astronaut.jpg")
    cv2.imwrite(str(tmp_path / "a.png"), photo[..., ::-1])
    images = [photo, tmp_path / "a.png", photo[:300], Image.fromarray(photo), photo / 255, np.zeros((99, 99), np.uint8)]
    detector = KeypointDetector(net, lambda image: [(180, 60, 90, 90), (150, 90, 120, 120)] if image.any() else [])
    single = [detector(image) for image in images]
    together = detector(images)
    assert [len(faces) for faces in together] == [2, 2, 2, 2, 2, 0]
    for faces, expected in zip(together, single, strict=True):
        for face, one in zip(faces, expected, strict=True):
            np.testing.assert_array_equal(face.box, one.box)
            np.testing.assert_allclose(face.keypoints, one.keypoints, atol=0.01)
            assert face.image_size == one.image_size
    assert detector([]) == [] and len(detector((photo,) * 9)) == 9
    with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
        detector([photo, tmp_path / "none.jpg"])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((9, 9, 3), np.uint16),
        np.zeros((9, 9, 5), np.uint8),
        np.zeros((2, 9, 9, 3), np.uint8),
        np.zeros((0, 9, 3), np.uint8),
        np.zeros(9, np.uint8),
        [[1, 2], [3, 4]],
        None,
        torch.zeros(9, 9, dtype=torch.uint8),
    ],
    ids=["16 bits", "five channels", "a batch", "no rows", "a row", "a list", "None", "a tensor"],
)
def test_what_is_no_image_raises_a_sentence(image):
    with pytest.raises(ValueError, match=r"^got .*, expected an RGB image \(H, W, 3\), grey .* or a path$"):
        as_rgb(image)


@pytest.mark.parametrize("box", [(1, 2, 0, 5), (1, 2, 5, -5), (1, np.nan, 5, 5), (1, 2, np.inf, 5)])
def test_a_bad_box_raises_a_sentence(box):
    with pytest.raises(ValueError, match="expected finite numbers with width and height above 0"):
        KeypointDetector(FindsTheDot()).keypoints(np.zeros((9, 9), np.uint8), [box])


@pytest.mark.parametrize("framing", ["wide", {"scale": 1.5}, {"scale": "x"}, {"eval": 1}, [1, 2]])
def test_a_framing_that_is_none_raises_a_sentence(framing):
    net = FindsTheDot()
    net.framing = framing
    with pytest.raises(ValueError, match=r"the network: got the framing .*, expected the numbers scale, dx, dy, "):
        KeypointDetector(net)


def test_a_net_without_a_framing_raises_a_sentence():
    with pytest.raises(ValueError, match=r"the network: got .* framing, expected .*measure_framing"):
        KeypointDetector(CoarseToFine())


# Evaluation by the three framings -------------------------------------------------------------------------------------


@pytest.fixture
def dots(tmp_path):
    """Images with a dot at the centroid of their 68 points: what FindsTheDot predicts is known."""
    points = np.stack([face_points(140 + 5 * i, 120 + 3 * i, 50 + i) for i in range(4)])
    images = [paint_dot(260, 280, *face.mean(axis=0), sigma=4) for face in points]
    write_set(tmp_path, "test", [f"a_{i}.jpg" for i in range(4)], images, points)
    return tmp_path / "test_frames_keypoints.csv", tmp_path / "test", points


@pytest.mark.parametrize("framing", ["centre", "box"])
def test_evaluation_compares_in_one_frame(dots, framing):
    result = evaluate(FindsTheDot(), *dots[:2], framing)
    assert result.found.all() and result.figures["found"] == 4
    spread = np.linalg.norm(dots[2] - dots[2].mean(axis=1, keepdims=True), axis=2).mean(axis=1)
    assert result.figures["nme_box"] == pytest.approx(np.mean(100 * spread / face_size(dots[2])), rel=0.01)


def test_a_face_counts_as_found_only_where_a_box_of_points_holds_the_true_centroid(dots, monkeypatch):
    csv_file, folder, points = dots
    offsets = iter([0, 40, 500, None])  # on the face; near it; far away; nothing detected

    def call(self, image):
        near, far = points[0], points[0] + 900
        offset, box = next(offsets), np.array((0, 0, 9, 9), np.float32)
        return [] if offset is None else [Face(box, far), Face(box, near + offset)]

    monkeypatch.setattr(KeypointDetector, "__call__", call)
    monkeypatch.setattr("training.evaluation.ThreadPoolExecutor", lambda _: ThreadPoolExecutor(1))  # in their order
    result = evaluate(FindsTheDot(), csv_file, folder, "haar")
    assert result.found.tolist() == [True, True, False, False]
    assert result.figures["n"] == 4 and result.figures["found"] == 2 and result.figures["fr_box_07"] >= 50
    np.testing.assert_array_equal(result.predicted[0], points[0])
    assert np.isnan(result.predicted[2:]).all()


def test_another_framing_is_refused(dots):
    with pytest.raises(ValueError, match="got framing 'oval', expected one of centre, haar, box"):
        evaluate(FindsTheDot(), *dots[:2], "oval")


# Photographs ----------------------------------------------------------------------------------------------------------

# (left, right, top, bottom): where the face's points must lie, by eye
FACES = {"grace_hopper.jpg": (160, 380, 60, 400), "astronaut.jpg": (150, 300, 40, 230)}


@pytest.mark.parametrize("photo", FACES)
def test_haar_finds_the_face_of_a_photograph(photo):
    boxes = HaarDetector()(read_image(PHOTOS / photo))
    assert boxes.dtype == np.float32 and boxes.shape[1] == 4
    area = boxes[:, 2] * boxes[:, 3]
    assert (np.diff(area) <= 0).all()
    left, right, top, bottom = FACES[photo]
    x, y = boxes[0, :2] + boxes[0, 2:] / 2
    assert left < x < right and top < y < bottom


@pytest.mark.parametrize("photo", FACES)
def test_the_shipped_model_puts_plausible_points_on_a_photograph(photo):
    if not SHIPPED.exists():
        pytest.skip(f"{SHIPPED.name} is not trained yet")
    face, *_ = KeypointDetector()(PHOTOS / photo)
    points = face.keypoints
    left, right, top, bottom = FACES[photo]
    assert ((points > [left, top]) & (points < [right, bottom])).all()
    middle = {name: points[part].mean(axis=0) for name, part in PARTS.items()}
    assert middle["right eye"][0] < middle["nose"][0] < middle["left eye"][0]
    assert middle["right brow"][1] < middle["right eye"][1] < middle["nose"][1] < middle["mouth"][1] < points[8, 1]
    assert 0.6 < face_size(points) / face.box[2] < 1.2


def test_the_shipped_model_finds_most_faces_of_the_sample():
    if not SHIPPED.exists():
        pytest.skip(f"{SHIPPED.name} is not trained yet")
    sample, detector = find_data("sample").dataset("test"), KeypointDetector()
    errors = []
    for i in range(0, 100, 10):
        image, true = sample[i]["image"], sample[i]["keypoints"]
        predicted = detector.keypoints(image, detector.framing.boxes(true))[0]
        errors.append(100 * np.linalg.norm(predicted - true, axis=1).mean() / face_size(true))
    assert np.median(errors) < 10


# Every face, and no other ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped() -> KeypointDetector:
    return KeypointDetector()


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return read_image(PHOTOS / "astronaut.jpg")


def tile(side: int, roll: float = 0) -> np.ndarray:
    """The astronaut's head, (side, side, 3), turned clockwise by some degrees."""
    image = read_image(PHOTOS / "astronaut.jpg")
    matrix = cv2.getRotationMatrix2D((222, 125), -roll, side / 220)
    matrix[:, 2] += side / 2 - np.array([222, 125])
    return cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)


def nine_beside_one(height: int = 700, width: int = 1200) -> np.ndarray:
    image = np.full((height, width, 3), 128, np.uint8)
    image[50:650, 50:650] = tile(600)
    for i in range(9):
        top, left = 150 + 110 * (i // 3), width - 400 + 110 * (i % 3)
        image[top : top + 100, left : left + 100] = tile(100)
    return image


@pytest.mark.parametrize("size", [(700, 1200), (2250, 4000)])
def test_a_large_face_hides_no_small_ones(shipped, size):
    faces = shipped(nine_beside_one(*size))
    assert len(faces) == 10 and faces[0].box[2] > 200 and all(face.box[2] < 70 for face in faces[1:])


@pytest.mark.parametrize("rolls", [(0, 30), (0, -30), (0, 20, 20, 20), (0, -20, 40)])
def test_an_upright_face_hides_no_tilted_ones(shipped, rolls):
    image = np.hstack([tile(300, roll) for roll in rolls])
    faces = sorted(shipped(image), key=lambda face: -face.score)[: len(rolls)]
    faces = sorted(faces, key=lambda face: face.box[0])
    assert [round(face.pose.roll) for face in faces] == pytest.approx([roll + 10 for roll in rolls], abs=12)


def test_the_group_picture_of_notebook_3_shows_all_of_its_faces(shipped):
    sample = find_data("sample").dataset("test")
    pictures = [read_image(PHOTOS / name) for name in ("grace_hopper.jpg", "astronaut.jpg")]
    pictures += [sample[0]["image"], sample[len(sample) // 2]["image"]]
    assert len(shipped(np.hstack([cv2.resize(p, (round(p.shape[1] * 360 / p.shape[0]), 360)) for p in pictures]))) == 4


@pytest.mark.parametrize(("detected", "looks"), [(0.7, 1), (0.8, 4)])
def test_a_turned_search_is_looked_into_only_where_a_face_could_be_certain(shipped, monkeypatch, detected, looks):
    found = Candidates(np.array([[10, 10, 40, 40, 0]]), np.array([detected]), np.zeros((1, 5, 2)))
    rolls, looked = [], []
    monkeypatch.setattr(detection, "candidates", lambda detect, image, roll=0: rolls.append(roll) or found)
    monkeypatch.setattr(shipped, "faces", lambda image, some: looked.append(some) or [])
    assert shipped(np.zeros((100, 100, 3), np.uint8)) == []
    assert rolls == [0, 90, -90, 180] and len(looked) == looks


def test_the_attainable_score_is_never_surpassed():
    detected = np.linspace(0, 1, 21)
    for scores in ([0.3] * 21, [1.0] * 21, [None] * 21):
        for joint, one in zip(joint_scores(scores, detected), detected, strict=True):
            assert joint <= attainable_score(Candidates(np.zeros((1, 5)), np.array([one])))
    assert attainable_score(Candidates(np.zeros((0, 5)), np.zeros(0))) == 0


def off(points: np.ndarray, true: np.ndarray) -> float:
    """The mean error in percent of the face's size."""
    return 100 * float(np.linalg.norm(points - true, axis=1).mean() / face_size(true))


@pytest.mark.parametrize(("gain", "shift"), [(0.12, 0), (0.06, 0), (0.03, 0), (0.1, 115), (0.1, 10)])
def test_a_face_in_the_dark_or_in_fog_is_found(shipped, astronaut, gain, shift):
    [true], [face] = shipped(astronaut), shipped((astronaut * gain + shift).astype(np.uint8))
    assert off(face.keypoints, true.keypoints) < 1.5


@pytest.mark.parametrize("margin", [0, 0.03, 0.05, 0.1])
@pytest.mark.parametrize("photo", FACES)
def test_a_face_that_fills_the_picture_is_found(shipped, photo, margin):
    image = read_image(PHOTOS / photo)
    [true] = shipped(image)
    low, high = true.keypoints.min(axis=0), true.keypoints.max(axis=0)
    left, top = np.maximum(0, low - margin * (high - low)).astype(int)
    right, bottom = np.ceil(high + margin * (high - low)).astype(int)
    [face] = shipped(image[top:bottom, left:right])
    assert off(face.keypoints + np.array([left, top]), true.keypoints) < 2.5


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_picture_that_lies_on_its_side_gives_its_face_and_the_roll(shipped, astronaut, quarters):
    [true], [face] = shipped(astronaut), shipped(np.rot90(astronaut, quarters).copy())
    x, y = face.keypoints.T
    back = {1: (511 - y, x), 2: (511 - x, 511 - y), 3: (y, 511 - x)}[quarters]
    assert off(np.stack(back, axis=1), true.keypoints) < 1
    turned = {1: -90, 2: 180, 3: 90}[quarters]
    assert (face.pose.roll - true.pose.roll - turned + 180) % 360 == pytest.approx(180, abs=2)
    assert (face.roll - true.roll - turned + 180) % 360 == pytest.approx(180, abs=12)
    again = shipped.keypoints(np.rot90(astronaut, quarters).copy(), [(*face.box, face.roll)])[0]
    assert off(again, face.keypoints) < 1


@pytest.mark.parametrize("name", faceless_pictures())
def test_a_picture_without_a_face_gives_none(shipped, name):
    assert shipped(faceless_pictures()[name]) == []


@pytest.mark.parametrize("number", range(0, 150, 15))
def test_an_image_of_the_sample_gives_its_one_face(shipped, number):
    sample = find_data("sample").dataset("test")[number]
    [face] = shipped(sample["image"])
    assert off(face.keypoints, sample["keypoints"]) < 8
