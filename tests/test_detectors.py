from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from helpers import PHOTOS, face_points, paint_dot

from data_load import read_image
from keypoints import detectors
from keypoints.detection import face_at
from keypoints.detectors import FaceFinder, HaarDetector, Look, YuNetDetector, overlap, suppress, turn, upright

ASTRONAUT = (222, 115)  # the middle of the face


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return read_image(PHOTOS / "astronaut.jpg")[:300, 80:380]  # smaller, as is the work


# Boxes ----------------------------------------------------------------------------------------------------------------


def test_overlap_by_hand():
    boxes = [(0, 0, 10, 10), (5, 0, 10, 10), (20, 20, 5, 5)]
    np.testing.assert_allclose(overlap(boxes, boxes), [[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 1]])
    assert overlap(np.zeros((0, 4)), boxes).shape == (0, 3)


def test_suppression_keeps_the_first_of_each_pile_and_is_idempotent():
    corners = [(0, 0), (1, 0), (50, 0), (2, 1), (50, 2), (58, 0)]
    boxes = np.array([(*corner, 10, 10) for corner in corners])
    kept = suppress(boxes)
    assert kept.tolist() == [0, 2, 5]
    assert suppress(boxes[kept]).tolist() == [0, 1, 2] and suppress(boxes[:0]).tolist() == []


def test_boxes_without_a_roll_get_one_of_zero():
    assert upright([(1, 2, 3, 4)]).tolist() == [[1, 2, 3, 4, 0]] == upright((1, 2, 3, 4)).tolist()
    assert upright([(1, 2, 3, 4, 5)]).tolist() == [[1, 2, 3, 4, 5]]
    assert upright([]).shape == (0, 5) == upright(np.zeros((0, 4))).shape
    with pytest.raises(ValueError, match=r"got boxes of shape \(1, 3\), expected \(N, 4\)"):
        upright([(1, 2, 3)])


# Looking in other ways ------------------------------------------------------------------------------------------------


class FindsTheSpot:
    """A 'cascade' that puts a box of 40×40 around the bright spot."""

    min_size = 40

    def hits(self, grey):
        (y, x), *_ = np.argwhere(grey == grey.max())
        return np.array([(x + 0.5 - 20, y + 0.5 - 20, 40, 40)], np.float32), np.array([7])


@pytest.mark.parametrize("roll", [0, -30, 30, 90])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_box_lies_on_the_spot_however_the_image_is_turned(roll, mirrored):
    image = paint_dot(120, 200, 143, 37)[..., 0]
    [box], hits = Look(FindsTheSpot(), roll, mirrored)(image)
    np.testing.assert_allclose(box[:2] + box[2:4] / 2, (143.5, 37.5), atol=1)
    assert box[2:].tolist() == [40, 40, roll] and hits.tolist() == [7]


def test_a_mirrored_look_corrects_to_the_other_side():
    image = paint_dot(120, 200, 143, 37)[..., 0]
    for mirrored, x in ((False, 143.5 + 8), (True, 143.5 - 8)):
        [box], _ = Look(FindsTheSpot(), mirrored=mirrored, scale=0.5, dx=0.2, dy=-0.1)(image)
        np.testing.assert_allclose(box, (x - 10, 37.5 - 4 - 10, 20, 20, 0), atol=1)


def test_turning_keeps_every_corner_and_knows_the_way_back():
    image = paint_dot(90, 140, 20, 60)[..., 0]
    turned, back = turn(image, 30)
    y, x = np.unravel_index(turned.argmax(), turned.shape)
    np.testing.assert_allclose(back @ [x, y, 1], (20, 60), atol=1)
    bright, _ = turn(np.full((90, 140), 200, np.uint8), 30)
    assert bright.astype(float).sum() == pytest.approx(200 * 90 * 140, rel=0.01)


# The finder -----------------------------------------------------------------------------------------------------------


def centred(boxes: np.ndarray, x: float, y: float) -> np.ndarray:
    return boxes[(np.abs(boxes[:, :2] + boxes[:, 2:4] / 2 - (x, y)) < boxes[:, 2:4] / 4).all(axis=1)]


def test_an_upright_face_is_found_in_the_first_pass_and_no_other_is_tried(astronaut, monkeypatch):
    monkeypatch.setattr(FaceFinder, "further", lambda self, grey: pytest.fail("a further pass"))
    boxes = FaceFinder()(astronaut)
    assert boxes.dtype == np.float32 and boxes.shape[1] == 5 and (boxes[:, 4] == 0).all()
    assert len(centred(boxes, 222 - 80, 115)) == 1


@pytest.mark.parametrize("roll", [-35, 35])
def test_a_tilted_face_is_found_with_its_roll(astronaut, roll):
    tilted, _ = turn(cv2.cvtColor(astronaut, cv2.COLOR_RGB2GRAY), -roll)
    matrix = cv2.invertAffineTransform(turn(astronaut[..., 0], -roll)[1])
    x, y = matrix @ [222 - 80, 115, 1]
    image = cv2.cvtColor(tilted, cv2.COLOR_GRAY2RGB)
    assert len(centred(upright(HaarDetector()(image)), x, y)) == 0  # too much for the frontal cascade
    found = centred(FaceFinder()(image), x, y)
    assert found[0, 4] == np.sign(roll) * 30


def test_a_small_face_is_found_where_there_is_no_larger_one(astronaut):
    small = cv2.resize(astronaut, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
    image = np.full((480, 640, 3), 128, np.uint8)
    image[200:320, 300:420] = small
    finder, grey, (x, y) = FaceFinder(), cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (300 + 0.4 * 142, 200 + 0.4 * 115)
    assert len(centred(finder.first(grey), x, y)) == len(centred(finder.further(grey), x, y)) == 0
    [box] = centred(finder.small(grey), x, y)
    assert 32 <= box[2] <= 50


def test_boxes_grow_with_the_image(astronaut):
    large = cv2.resize(astronaut, (1800, 1800), interpolation=cv2.INTER_LINEAR)  # above what is searched at once
    [small], [box] = (centred(FaceFinder()(image), 142 * s, 115 * s) for image, s in ((astronaut, 1), (large, 6)))
    np.testing.assert_allclose(box[:4] / 6, small[:4], atol=10)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (3, 30), (24, 24)])
def test_an_image_without_room_for_a_face_has_none(shape):
    assert FaceFinder()(np.full((*shape, 3), 90, np.uint8)).shape == (0, 5)


def test_a_panorama_is_searched_at_two_million_pixels(monkeypatch):
    seen = []
    monkeypatch.setattr(HaarDetector, "hits", lambda self, grey: (seen.append(grey.size), HaarDetector.none)[1])
    monkeypatch.setattr(HaarDetector, "none", (np.zeros((0, 4), np.float32), np.zeros(0, int)), raising=False)
    assert len(FaceFinder()(np.zeros((1000, 20000, 3), np.uint8))) == 0
    assert len(seen) == 1 + len(detectors.FURTHER) + 1 and max(seen) <= 2_001_000


# Another detector -----------------------------------------------------------------------------------------------------


def test_yunet_fits_in(monkeypatch):
    """OpenCV's class is replaced by one that answers in its way: the network's file is not part of the repository."""
    face = face_points(150, 120, 50)
    five = [face[36:42].mean(axis=0), face[42:48].mean(axis=0), face[30], face[48], face[54]]
    answer, asked = [np.array([[100, 60, 90, 120, *np.ravel(five), 0.9]], np.float32)], []
    net = SimpleNamespace(
        setInputSize=lambda size: asked.append(tuple(size)), detect=lambda image: (1, answer[0])
    )
    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *arguments: net)
    detect = YuNetDetector("yunet.onnx")
    [box] = detect(np.zeros((240, 320, 3), np.uint8))
    assert asked == [(320, 240)] and box.dtype == np.float32 and box.shape == (5,)
    assert face_at([box[:4]], face) == 0 and box[4] == pytest.approx(0, abs=1e-3) and box[2] == box[3]
    answer[0] = None  # as OpenCV tells of no face
    assert detect(np.zeros((240, 320, 3), np.uint8)).shape == (0, 5)


def test_five_points_of_a_turned_face_give_the_same_box_turned():
    face = face_points(0, 0, 50).astype(float)
    five = np.array([face[36:42].mean(axis=0), face[42:48].mean(axis=0), face[30], face[48], face[54]])
    turned = five @ np.array([[0, 1], [-1, 0]])  # a quarter clockwise
    (box,), (other,) = detectors.from_five_points(five), detectors.from_five_points(turned)
    middle, moved = (b[:2] + b[2:4] / 2 - 0.5 for b in (box, other))
    np.testing.assert_allclose(moved, [-middle[1], middle[0]], atol=1e-3)
    assert other[4] - box[4] == pytest.approx(90) and other[2] == pytest.approx(box[2])


def test_a_file_that_is_no_yunet_raises_a_sentence(tmp_path, capfd):
    (tmp_path / "net.onnx").write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"net.onnx: expected the ONNX file of YuNet, got no network"):
        YuNetDetector(tmp_path / "net.onnx")


def test_searches_in_several_threads_find_what_one_finds(astronaut):
    images = [astronaut, astronaut[:, ::-1].copy(), turn(astronaut, 30)[0], astronaut[:200, :200].copy()]
    alone = [FaceFinder()(image).tolist() for image in images]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: FaceFinder()(images[i % 4]).tolist(), range(32)))
    assert found == alone * 8


@pytest.mark.parametrize("missing", ["CascadeClassifier", "data"])
def test_an_opencv_without_cascades_is_refused_in_one_sentence(monkeypatch, missing):
    monkeypatch.delattr(cv2, missing)
    monkeypatch.setattr("keypoints.detectors._resting", defaultdict(list))
    with pytest.raises(ValueError, match=r"^got OpenCV [\d.]+.* without Haar cascades, expected OpenCV 4: [^\n]+$"):
        HaarDetector()(np.zeros((64, 64), np.uint8))
