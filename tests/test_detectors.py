from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from helpers import PHOTOS, face_points

from data_load import read_image
from keypoints import detectors
from keypoints.detectors import HaarDetector, NetworkDetector, decode
from keypoints.geometry import box_iou, five_points, nms, with_roll
from training.detector import cells
from training.detector import decode as decode_tensors

ASTRONAUT = (222, 115)  # the middle of the face


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return read_image(PHOTOS / "astronaut.jpg")


@pytest.fixture(scope="module")
def network() -> NetworkDetector:
    return NetworkDetector()


# Boxes ----------------------------------------------------------------------------------------------------------------


def test_box_iou_by_hand():
    boxes = [(0, 0, 10, 10), (5, 0, 10, 10), (20, 20, 5, 5)]
    np.testing.assert_allclose(box_iou(boxes, boxes), [[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 1]])
    assert box_iou(np.zeros((0, 4)), boxes).shape == (0, 3)


def test_nms_keeps_the_first_of_each_pile_and_is_idempotent():
    corners = [(0, 0), (1, 0), (50, 0), (2, 1), (50, 2), (58, 0)]
    boxes = np.array([(*corner, 10, 10) for corner in corners])
    kept = nms(boxes, 0.3)
    assert kept.tolist() == [0, 2, 5]
    assert nms(boxes[kept], 0.3).tolist() == [0, 1, 2] and nms(boxes[:0], 0.3).tolist() == []


def test_nms_suppresses_a_box_within_another_where_it_is_told_to():
    boxes = np.array([(0, 0, 100, 100), (10, 10, 20, 20), (90, 90, 20, 20)])
    assert nms(boxes, 0.3).tolist() == [0, 1, 2] and nms(boxes, 0.3, within=0.7).tolist() == [0, 2]


def test_nms_keeps_each_box_that_overlaps_no_better_kept_one():
    random = np.random.default_rng(0)
    boxes = np.column_stack([random.uniform(0, 100, (80, 2)), random.uniform(5, 60, (80, 2))])
    iou, area = box_iou(boxes, boxes), boxes[:, 2:].prod(axis=1)
    inside = iou / (1 + iou) * (area + area[:, None]) / np.minimum(area, area[:, None])
    kept: list[int] = []
    for i in range(len(boxes)):
        if not any(iou[i, k] > 0.4 or inside[i, k] > 0.7 for k in kept):
            kept.append(i)
    assert nms(boxes, 0.4, within=0.7).tolist() == kept and 10 < len(kept) < 70


def test_boxes_without_a_roll_get_one_of_zero():
    assert with_roll([(1, 2, 3, 4)]).tolist() == [[1, 2, 3, 4, 0]] == with_roll((1, 2, 3, 4)).tolist()
    assert with_roll([(1, 2, 3, 4, 5)]).tolist() == [[1, 2, 3, 4, 5]]
    assert with_roll([]).shape == (0, 5) == with_roll(np.zeros((0, 4))).shape
    with pytest.raises(ValueError, match=r"got boxes of shape \(1, 3\), expected \(N, 4\)"):
        with_roll([(1, 2, 3)])


# The network ----------------------------------------------------------------------------------------------------------


def test_the_library_decodes_as_the_training_does():
    output = torch.randn(126, 15, generator=torch.Generator().manual_seed(0))
    scores, boxes, points = decode(output.numpy(), 96, 64)
    corners, expected = decode_tensors(output, cells(96, 64))
    np.testing.assert_allclose(boxes[:, :2], corners[:, :2], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(boxes[:, :2] + boxes[:, 2:], corners[:, 2:], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(points, expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(scores, output[:, 0].sigmoid(), rtol=1e-5)
    certain = scores >= 0.6
    assert 0 < certain.sum() < len(scores)
    for part, whole in zip(decode(output.numpy(), 96, 64, 0.6), (scores, boxes, points), strict=True):
        np.testing.assert_allclose(part, whole[certain], rtol=1e-6)


CASES = [((0.2, 0.2), 0.15, 0), ((0.3, 0.1), 0.15, 1), ((0.3, 0.05), 0.15, 0), ((0.2, 0.2), 0.02, 1)]


@pytest.mark.parametrize(("scores", "least", "count"), CASES)
def test_one_search_at_least_must_be_certain_of_a_candidate(network, monkeypatch, scores, least, count):
    fast, left = network.fast(), list(scores)

    def search(*_: object) -> detectors.Detections:
        box, points = np.array([[10, 10, 40, 40]], np.float32), np.zeros((1, 5, 2), np.float32)
        return detectors.Detections(np.array([left.pop()], np.float32), box, points)

    monkeypatch.setattr(fast, "_search", search)
    assert len(fast.find(np.zeros((100, 100), np.uint8), least=least)) == count


@pytest.mark.parametrize("scale", [0.25, 0.5, 1, 4])
def test_a_face_of_any_size_is_found_at_its_place(network, astronaut, scale):
    image = cv2.resize(astronaut, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    boxes = network(image)
    assert boxes.dtype == np.float32 and boxes.shape[1] == 5
    x, y = scale * np.array(ASTRONAUT)
    near = np.abs(boxes[:, :2] + boxes[:, 2:4] / 2 - (x, y)) < boxes[:, 2:4] / 4
    assert near.all(axis=1).sum() == 1


@pytest.mark.parametrize("roll", [90, -90, 180])
def test_a_search_of_the_turned_image_gives_boxes_of_the_image(network, astronaut, roll):
    upright, turned = network.find(astronaut), cv2.rotate(astronaut, detectors.ROLLS[roll])
    back = network.find(turned, roll=-roll if roll != 180 else 180)
    height, width = astronaut.shape[:2]
    box = upright.boxes[0]
    x, y = box[:2] + box[2:] / 2
    expected = {90: (y, width - x), -90: (height - y, x), 180: (width - x, height - y)}[roll]
    np.testing.assert_allclose(back.boxes[0, :2] + back.boxes[0, 2:] / 2, expected, atol=3)
    assert back.scores[0] == pytest.approx(upright.scores[0], abs=0.05)


def test_fast_searches_once_and_finds_large_faces(network, astronaut):
    fast = network.fast()
    assert fast.effort == "fast" and network.effort == "full"
    assert len(fast(astronaut)) >= 1
    with pytest.raises(ValueError, match="got the effort 'slow', expected 'fast' or 'full'"):
        NetworkDetector(effort="slow")


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3, 30), (24, 24)])
def test_an_image_without_room_for_a_face_has_none(network, shape):
    assert network(np.full((*shape, 3), 90, np.uint8)).shape == (0, 5)


def test_a_large_image_is_searched_in_tiles_of_bounded_size(network, monkeypatch):
    sizes, session = [], network._session
    spy = SimpleNamespace(run=lambda names, inputs: sizes.append(inputs["image"].shape) or session.run(names, inputs))
    monkeypatch.setattr(network, "_session", spy)
    network(np.zeros((1500, 9000), np.uint8))
    assert len(sizes) > 4 and max(size[2] * size[3] for size in sizes) <= detectors.TILE**2


def test_searches_in_several_threads_find_what_one_finds(network, astronaut):
    images = [astronaut[:300], astronaut[:, ::-1].copy(), astronaut[:200, 100:300].copy()]
    for detect in (network, HaarDetector()):
        alone = [detect(image).tolist() for image in images]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda i, detect=detect: detect(images[i % 3]).tolist(), range(12)))
        assert found == alone * 4


def test_a_file_that_is_no_network_raises_a_sentence(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"net.onnx: expected the ONNX file of a network, got another"):
        NetworkDetector(tmp_path / "net.onnx")
    with pytest.raises(FileNotFoundError, match=r"none.onnx"):
        NetworkDetector(tmp_path / "none.onnx")


# Another detector -----------------------------------------------------------------------------------------------------


def test_five_points_of_a_turned_face_give_the_same_box_turned():
    five = five_points(face_points(0, 0, 50).astype(float))
    turned = five @ np.array([[0, 1], [-1, 0]])  # a quarter clockwise
    (box,), (other,) = detectors.from_five_points(five), detectors.from_five_points(turned)
    middle, moved = (b[:2] + b[2:4] / 2 - 0.5 for b in (box, other))
    np.testing.assert_allclose(moved, [-middle[1], middle[0]], atol=1e-3)
    assert other[4] - box[4] == pytest.approx(90) and other[2] == pytest.approx(box[2])


@pytest.mark.parametrize("missing", ["CascadeClassifier", "data"])
def test_an_opencv_without_cascades_is_refused_in_one_sentence(monkeypatch, missing):
    monkeypatch.delattr(cv2, missing)
    monkeypatch.setattr("keypoints.detectors._resting", [])
    with pytest.raises(ValueError, match=r"^got OpenCV [\d.]+.* without Haar cascades, expected OpenCV 4: [^\n]+$"):
        HaarDetector()(np.zeros((64, 64), np.uint8))
