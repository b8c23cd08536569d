from __future__ import annotations

import json
import shutil
import struct
import time

import cv2
import numpy as np
import pytest
from helpers import ASTRONAUT, HOPPER, file_names, png_head, refused
from PIL import Image

from data_load import find_data, read_image
from keypoints.detection import Face, KeypointDetector
from keypoints.filters import (
    FILTER_DIR,
    apply_filter,
    corners,
    dress,
    filter_names,
    load_filter,
    to_linear,
    to_srgb,
)
from keypoints.pose import estimate_pose

NAMES = ["cat", "moustache", "smile", "sunglasses", "tophat"]


@pytest.fixture(scope="module")
def head():
    """A rendered test head and its true keypoints."""
    sample = find_data("sample").dataset("test")[0]
    return sample["image"], np.asarray(sample["keypoints"], float)


@pytest.fixture
def made(tmp_path):
    """Write a filter into ``tmp_path``; ``content`` is its JSON, or a list of layers, ``picture`` an array or bytes."""

    def write(content, picture=None) -> str:
        content = content if isinstance(content, dict) or not content else {"about": "odd", "layers": content}
        (tmp_path / "odd.json").write_text(json.dumps(content))
        if picture is None:
            shutil.copy(FILTER_DIR / "sunglasses.png", tmp_path / "odd.png")
        else:
            data = picture if isinstance(picture, bytes) else cv2.imencode(".png", picture)[1].tobytes()
            (tmp_path / "odd.png").write_bytes(data)
        return "odd"

    return write


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (before != after).any(axis=2)


def anchors(*points: int, at=((0, 0), (9, 0))) -> dict:
    return {"anchors": [{"points": [point], "at": list(pixel)} for point, pixel in zip(points, at, strict=True)]}


# What a filter looks like ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_filter_changes_the_face_and_not_the_image_that_was_given(head, name):
    effect = load_filter(name)
    assert filter_names() == NAMES and effect.about and (effect.morph is not None) != bool(effect.layers)
    image, points = head
    before = image.copy()
    after = apply_filter(image, points, name)
    assert after.shape == image.shape and after.dtype == np.uint8 and (image == before).all()
    assert 0.002 < changed(image, after).mean() < 0.7
    for shift in ((-90, 0), (130, -60), (0, 150), (5000, 0)):  # at the border and beyond
        after = apply_filter(image, points + shift, name)
        assert after.shape == image.shape and (shift[0] < 5000 or (after == image).all())


def test_border_cuts_a_filter_as_it_cuts_the_image(head):
    image, points = head
    left = int(points[27, 0])  # through the nose
    whole = apply_filter(image, points, "sunglasses", estimate_pose(points, image.shape[1::-1]))
    part = apply_filter(image[:, left:], points - (left, 0), "sunglasses")
    assert np.abs(whole[:, left:].astype(int) - part.astype(int)).mean() < 2


@pytest.mark.parametrize("name", ["sunglasses", "tophat", "cat"])
def test_filter_of_a_large_image_looks_as_of_a_small_one(head, name):
    image, points = head
    large = cv2.resize(image, None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    fine = cv2.resize(
        apply_filter(large, (points + 0.5) * 4 - 0.5, name), image.shape[1::-1], interpolation=cv2.INTER_AREA
    )
    assert np.abs(apply_filter(image, points, name).astype(int) - fine).mean() < 0.6


def test_filter_takes_as_long_as_a_few_warps_of_the_image(head):
    image = cv2.resize(head[0], (512, 512))
    points = (head[1] + 0.5) * np.divide(512, head[0].shape[1::-1]) - 0.5
    light, x, y = image / np.float32(255), *np.meshgrid(*[np.arange(512, dtype=np.float32)] * 2)

    def seconds(work) -> float:  # of this thread alone, so that a busy machine counts alike for both
        times = []
        for _ in range(6):
            start = time.thread_time()
            work()
            times.append(time.thread_time() - start)
        return min(times)

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    one = seconds(lambda: cv2.remap(light, x, y, cv2.INTER_LINEAR))
    slowest = max(seconds(lambda name=name: apply_filter(image, points, name)) for name in NAMES)
    cv2.setNumThreads(threads)
    assert slowest < 60 * one


def test_anchors_lie_on_their_keypoints(head):
    image, points = head
    pose = estimate_pose(points, image.shape[1::-1])
    layer = load_filter("moustache").layers[0]
    placed = pose.project(layer.surface(pose).points(layer.at))
    expected = pose.project(np.array([pose.points[list(g)].mean(axis=0) for g in layer.places]) + layer.offsets)
    assert np.abs(placed - expected).max() < 0.12 * np.ptp(points[:, 0])


def test_rays_hit_a_surface_where_its_pixels_are(head):
    image, points = head
    pose = estimate_pose(points, image.shape[1::-1])
    for layer in [layer for name in ("sunglasses", "tophat", "cat") for layer in load_filter(name).layers]:
        surface, (height, width) = layer.surface(pose), layer.picture.shape[:2]
        pixels = np.array([[0.5, 0.4], [0.45, 0.7], [0.53, 0.2]]) * (width, height)
        place, inside = surface.hits(*pose.rays(pose.project(surface.points(pixels))))[0]
        np.testing.assert_allclose(place[:, :2] / place[:, 2:], pixels, atol=1e-6 * width)
        assert (place[:, 2] > 0).all() and (inside > 0).all()


def test_glasses_foreshorten_with_yaw():
    sample, ratios = find_data("sample"), []
    dataset, yaw = sample.dataset("test"), sample.attributes("test")["yaw"].to_numpy()
    for target in (0, 35):
        item = dataset[int(np.abs(np.abs(yaw) - target).argmin())]
        box = corners(load_filter("sunglasses").layers[0], estimate_pose(item["keypoints"], item["image"].shape[1::-1]))
        ratios.append(np.linalg.norm(box[1] - box[0]) / np.linalg.norm(box[3] - box[0]))
    assert ratios[1] < 0.93 * ratios[0]


def test_each_face_is_dressed_and_none_leaves_the_image(head):
    image, points = head
    two, width = np.hstack([image, image]), image.shape[1]
    faces = [Face(np.zeros(4), p, image_size=two.shape[1::-1]) for p in (points, points + np.array([width, 0]))]
    filtered = changed(two, dress(two, faces, ["sunglasses", "moustache"]))
    assert filtered[:, :width].sum() == pytest.approx(filtered[:, width:].sum(), rel=0.1) and filtered.any()
    assert (dress(two, [], ["sunglasses"]) == two).all()


def test_blending_is_in_linear_light():
    levels = np.arange(256, dtype=np.uint8)
    assert (to_srgb(to_linear(levels)) == levels).all()
    assert to_srgb((to_linear(np.uint8([0])) + to_linear(np.uint8([255]))) / 2)[0] == 188  # not 128


def test_own_glasses_do_not_show_through_sunglasses(head):
    image, points = head
    glasses, eye = image.copy(), np.round(points[36:42].mean(axis=0)).astype(int)
    cv2.circle(glasses, eye.tolist(), round(0.05 * np.ptp(points[:, 0])), (20, 20, 20), 1, cv2.LINE_AA)
    pairs = (image, glasses), tuple(apply_filter(one, points, "sunglasses") for one in (image, glasses))
    before, after = (np.abs(one.astype(int) - other).max() for one, other in pairs)
    assert after < 0.1 * before


def test_dark_face_gets_a_dark_filter(head):
    image, points = head
    bright, dark = (apply_filter(i, points, "cat") for i in (image, (image * 0.4).astype(np.uint8)))
    tip = tuple(np.round(points[33]).astype(int)[::-1])
    assert dark[tip].sum() < 0.8 * bright[tip].sum()


def test_smile_lifts_the_corners_of_the_mouth_alone(head):
    image, points = head
    rows = np.nonzero(changed(image, apply_filter(image, points, "smile")))[0]
    low, high = points[:, 1].min(), points[:, 1].max()
    assert rows.min() > low and rows.max() < high + 0.2 * (high - low)
    morph = load_filter("smile").morph
    assert (morph[[48, 54], 1] < 0).all() and morph[48, 0] == -morph[54, 0]


def test_what_covers_the_face_covers_the_filter(head):
    image, points = head
    hand = np.where(points[:, 1] > points[30, 1], 0.05, 1.0)  # before all that lies below the tip of the nose
    drawn = {
        name: [changed(image, apply_filter(image, points, name, confidence=own)).sum() for own in (None, hand)]
        for name in ("sunglasses", "moustache", "smile")
    }
    assert drawn["sunglasses"][1] > 0.98 * drawn["sunglasses"][0] and drawn["smile"][1] == 0 < drawn["smile"][0]
    assert drawn["moustache"][1] < 0.5 * drawn["moustache"][0]
    face = Face(np.zeros(4), points, image.shape[1::-1], confidence=hand)
    assert (dress(image, [face], ["smile"]) == image).all()


# Filters of one's own -------------------------------------------------------------------------------------------------


def test_new_filter_needs_a_picture_and_a_small_file(tmp_path, made, head):
    white, (image, points) = np.full((40, 60, 4), 255, np.uint8), head
    card = load_filter(made([anchors(36, 45, at=((0, 20), (59, 20)))], white), tmp_path)
    middle = tuple(np.round(points[[36, 45]].mean(axis=0)).astype(int)[::-1])
    assert filter_names(tmp_path) == ["odd"] and changed(image, apply_filter(image, points, card))[middle]


def test_anchors_at_one_place_of_the_head_make_a_speck(tmp_path, made, head):
    speck = load_filter(made([anchors(30, 30, at=((0, 0), (49, 0)))], np.full((40, 50, 4), 255, np.uint8)), tmp_path)
    assert changed(head[0], apply_filter(*head, speck)).sum() < 10


@pytest.mark.parametrize("options", [{"bend": 0.01}, {"round": 10, "sheet": "flat"}, {"tilt": 90, "shadow": 1}])
def test_odd_sheets_leave_the_image_in_shape(tmp_path, made, head, options):
    layers = [{**anchors(36, 45, at=((0, 0), (right, 0))), **options} for right in (1, 40_000)]
    strip = np.full((1, 40_000, 4), 255, np.uint8)  # wider than OpenCV warps
    assert apply_filter(*head, load_filter(made(layers, strip), tmp_path)).shape == head[0].shape


TWO = anchors(1, 2)
PARTS = "expected about and layers or a morph, got: "
BAD = [
    ([], None, PARTS),
    ({"layers": []}, None, PARTS + "ValueError: got a filter without 'about'"),
    ({"about": "odd", "layers": [TWO], "shadow": 0.3}, None, "got 'shadow' in a filter, expected about, layers"),
    ([{**TWO, "bent": 1}], None, "got 'bent' in a layer, expected anchors, part, sheet, bend, round, tilt, shadow"),
    ([{"anchors": [{"points": [1], "offset": [0, 0, 0]}] * 2}], None, "got an anchor without 'at'"),
    ([{"anchors": [{"at": [1, 2]}] * 2}], None, "got an anchor without 'points'"),
    ([{"anchors": [{"points": [1], "place": "crown", "at": [0, 0]}] * 2}], None, "got 'points' in an anchor"),
    ({"about": "odd", "layers": []}, None, PARTS),
    ([TWO] * 17, None, PARTS),
    ({"morph": {"48": [0, 0, 0]}}, None, PARTS),
    *(
        ({"about": "odd", "morph": morph}, None, PARTS)
        for morph in ({"48": [900, 0, 0]}, {"68": [0, 0, 0]}, {"48": [float("nan"), 0, 0]})
    ),
    ([{"anchors": TWO["anchors"][:1]}], None, "got 1 anchors, expected two or more"),
    *(([anchors(odd, 1, 2, at=((0, 0),) * 3)], None, "got an anchor of points") for odd in (99, 36.0, True, "1")),
    ([{"anchors": [{"place": "nose", "at": [0, 0]}] * 2}], None, "got place 'nose', expected one of right_ear"),
    ([{**TWO, "sheet": "odd"}], None, "got sheet 'odd'"),
    ([{**TWO, "part": [0, 0, 900, 9]}], np.zeros((5, 5, 4), np.uint8), "got part"),
    ([{**TWO, "part": [-1, 0, 2, 2]}], None, "got part"),
    ([{}], None, "anchors"),
    ([{**TWO, "bend": 1e9}], None, "got bend 1000000000.0, expected numbers from 0 to 100"),
    ([{**TWO, "bend": 1e-300}], None, "got bend 1e-300, expected 0 or at least 0.01"),
    ([{**TWO, "round": 1e-5}], None, "got round 1e-05, expected 0 or at least 0.01"),
    ([{**TWO, "tilt": float("nan")}], None, "got tilt nan, expected numbers from -90 to 90"),
    ([anchors(1, 1, at=((3, 3), (3, 3)))], None, "got anchors at one pixel"),
    ([[]], None, "got list for a layer, expected an object"),
    ([TWO], b"", r"odd\.png: expected an image, got 0 bytes"),
    ([TWO], b"\x89PNG junk", r"odd\.png: expected an image, got 9 bytes"),
    ([TWO], png_head(4000, 4000), r"odd\.png: got an image of 16,000,000 pixels"),
    ([TWO], struct.pack(">8sI4s", b"\x89PNG\r\n\x1a\n", 2**31 - 1, b"IDAT"), "expected an image, got 16 bytes"),
    ([TWO], np.zeros((9, 9, 3), np.uint8), r"odd\.png: got an image without transparency"),
    ([TWO] * 3, np.zeros((40, 50, 4), np.uint8), "got layers of 6,000 pixels, expected at most 5,999 in all"),
    ({"about": " " * 1_000_000}, None, "got more than 1,000,000 bytes"),
]


@pytest.mark.parametrize(("content", "picture", "sentence"), BAD)
def test_file_that_is_no_filter_is_refused_by_name(tmp_path, monkeypatch, made, content, picture, sentence):
    if "5,999" in sentence:
        monkeypatch.setattr("keypoints.filters.MOST_PIXELS", 5999)
    with refused(rf"odd\.json: .*{sentence}"):
        load_filter(made(content, picture), tmp_path)


# The command ----------------------------------------------------------------------------------------------------------


def test_command_lists_the_filters(cli, refusal):
    assert [line.split(":")[0] for line in cli("filter", "--list").out.splitlines()] == NAMES
    assert f"got filter 'monocle', expected one of {', '.join(NAMES)}, or the path of a .json file" in refusal(
        "filter", ASTRONAUT, "--filter", "monocle"
    )


def test_command_wears_a_filter_by_its_file(cli, tmp_path):
    for ending in ("json", "png"):
        shutil.copy(FILTER_DIR / f"sunglasses.{ending}", tmp_path / f"mine.{ending}")
    cli("filter", HOPPER, "--filter", tmp_path / "mine.json", "--out", tmp_path / "mine.jpg")
    cli("filter", HOPPER, "--filter", "sunglasses", "--out", tmp_path / "known.jpg")
    assert (tmp_path / "mine.jpg").read_bytes() == (tmp_path / "known.jpg").read_bytes()


def test_command_writes_the_filtered_image(cli, tmp_path):
    out = tmp_path / "out.png"
    done = cli("filter", HOPPER, "--filter", "sunglasses", "--out", out)
    assert done.status == 0 and done.out == f"{out}: sunglasses on 1 face\n"
    image = read_image(HOPPER)
    assert (read_image(out) == dress(image, KeypointDetector()(image), ["sunglasses"])).all()


@pytest.mark.parametrize("ending", [".png", ".webp"])
def test_transparent_pixels_stay_transparent_where_no_filter_covers_them(tmp_path, cli, ending):
    photo, source = read_image(ASTRONAUT), tmp_path / f"her{ending}"
    rgba = np.dstack([photo, np.full(photo.shape[:2], 255, np.uint8)])
    rgba[:, 300:], rgba[:60] = (0, 0, 255, 0), (0, 0, 255, 0)  # the hat goes above row 60
    Image.fromarray(rgba).save(source, lossless=True, exact=True)
    assert "on 1 face" in cli("filter", source, "--filter", "tophat", "sunglasses").out
    filtered = np.asarray(Image.open(tmp_path / f"her_tophat_sunglasses{ending}").convert("RGBA"))
    np.testing.assert_array_equal(filtered[350:, :, 3], rgba[350:, :, 3])
    hat = filtered[:60, 150:300]
    assert filtered.shape == rgba.shape and (filtered[:, 400:, 3] == 0).all()
    assert (hat[..., 3] > 250).mean() > 0.1 and (hat[..., 3] == 0).any()
    assert hat[hat[..., 3] > 250][:, :3].mean() < 120  # dark, neither white nor the hidden blue
    assert (dress(rgba, KeypointDetector()(rgba), ["tophat"])[..., 3] >= rgba[..., 3]).all()
    assert cli("filter", source, "--filter", "cat", "--out", tmp_path / "o.jpg").status == 0
    assert (read_image(tmp_path / "o.jpg")[:50, 450:] > 250).all()  # JPEG has no alpha: white


def test_command_takes_folders_and_patterns(tmp_path, cli, refusal):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("a.png", "b.PNG"):
        cv2.imwrite(str(folder / name), np.full((60, 80, 3), 90, np.uint8))
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "note.txt").write_text("not the name of an image")
    done = cli("filter", folder, "--filter", "cat", "--out", out)
    assert done.status == 1 and file_names(out) == ["a_cat.png", "b_cat.PNG"]
    assert "no face found, the picture stays as it was" in done.out
    assert (read_image(out / "a_cat.png") == 90).all()
    [error] = done.err.splitlines()
    assert error.startswith(f"keypoints filter: {folder / 'broken.jpg'}: expected an image, got 8 bytes that ")
    assert cli("filter", folder / "*.[pP]*", "--filter", "cat").status == 0
    assert (folder / "a_cat.png").exists() and (folder / "b_cat.PNG").exists()
    assert "got a file, expected a folder" in refusal("filter", folder, "--filter", "cat", "--out", folder / "a.png")
