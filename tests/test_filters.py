from __future__ import annotations

import json
import shutil
import struct

import cv2
import numpy as np
import pytest
from helpers import PHOTOS, png_head
from PIL import Image

from data_load import find_data, read_image
from keypoints.__main__ import main
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
    """A rendered test head and its true points."""
    sample = find_data("sample").dataset("test")[0]
    return sample["image"], np.asarray(sample["keypoints"], float)


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (before != after).any(axis=2)


def test_the_shipped_filters_load():
    assert filter_names() == NAMES
    for name in NAMES:
        effect = load_filter(name)
        assert effect.about and (effect.morph is not None) != bool(effect.layers)
        file = FILTER_DIR / f"{name}.png"
        assert effect.morph is not None or cv2.imread(str(file), cv2.IMREAD_UNCHANGED).shape[1] >= 1000


@pytest.mark.parametrize("name", NAMES)
def test_a_filter_changes_the_face_and_not_the_image_given(head, name):
    image, points = head
    before = image.copy()
    after = apply_filter(image, points, name)
    assert after.shape == image.shape and after.dtype == np.uint8
    assert (image == before).all()
    assert 0.002 < changed(image, after).mean() < 0.7


def test_on_a_large_picture_a_filter_looks_as_on_a_small_one(head, monkeypatch):
    image, points = head
    large = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    at = (points + 0.5) * 2 - 0.5
    fine = apply_filter(large, at, "sunglasses")
    monkeypatch.setattr("keypoints.filters.LARGE", 1000)
    coarse = apply_filter(large, at, "sunglasses")
    assert 0 < np.abs(coarse.astype(int) - fine).mean() < 0.5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shift", [(-90, 0), (130, -60), (0, 150), (5000, 0)])
def test_at_and_beyond_the_border_nothing_breaks(head, name, shift):
    image, points = head
    after = apply_filter(image, points + shift, name)
    assert after.shape == image.shape
    assert shift[0] < 5000 or (after == image).all()


def test_the_border_cuts_a_filter_as_it_would_cut_a_photograph(head):
    image, points = head
    left = int(points[27, 0])  # through the nose
    pose = estimate_pose(points, image.shape[1::-1])
    whole = apply_filter(image, points, "sunglasses", pose)
    part = apply_filter(image[:, left:], points - (left, 0), "sunglasses")
    assert np.abs(whole[:, left:].astype(int) - part.astype(int)).mean() < 2


def test_anchors_lie_on_their_points_of_the_image(head):
    image, points = head
    pose = estimate_pose(points, image.shape[1::-1])
    layer = load_filter("moustache").layers[0]
    placed = pose.project(layer.surface(pose).points(layer.at))
    wanted = pose.project(np.array([pose.points[list(g)].mean(axis=0) for g in layer.places]) + layer.offsets)
    assert np.abs(placed - wanted).max() < 0.12 * np.ptp(points[:, 0])


def test_rays_meet_a_surface_where_its_pixels_are(head):
    image, points = head
    pose = estimate_pose(points, image.shape[1::-1])
    for name in ("sunglasses", "tophat", "cat"):
        for layer in load_filter(name).layers:
            surface = layer.surface(pose)
            height, width = layer.picture.shape[:2]
            pixels = np.array([[0.5, 0.4], [0.45, 0.7], [0.53, 0.2]]) * (width, height)
            eye, rays = pose.rays(pose.project(surface.points(pixels)))
            found, far = surface.hits(eye, rays)[0]
            np.testing.assert_allclose(found, pixels, atol=1e-6 * width)
            assert (far > 0).all()


def test_glasses_foreshorten_with_yaw_and_the_far_temple_hides():
    sample = find_data("sample")
    import pandas as pd

    dataset = sample.dataset("test")
    yaw = pd.read_csv(sample.root / "attributes.csv", index_col="file")["yaw"]
    yaw = np.array([yaw[f"test/{name}"] for name in dataset.names])
    ratios = {}
    for target in (0, 35):
        item = dataset[int(np.abs(np.abs(yaw) - target).argmin())]
        pose = estimate_pose(item["keypoints"], item["image"].shape[1::-1])
        box = corners(load_filter("sunglasses").layers[0], pose)
        ratios[target] = np.linalg.norm(box[1] - box[0]) / np.linalg.norm(box[3] - box[0])
    assert ratios[35] < 0.93 * ratios[0]


def test_several_faces_are_dressed_and_none_leaves_the_image(head):
    image, points = head
    two = np.hstack([image, image])
    width = image.shape[1]
    faces = [Face(np.zeros(4), p, image_size=two.shape[1::-1]) for p in (points, points + np.array([width, 0]))]
    worn = changed(two, dress(two, faces, ["sunglasses", "moustache"]))
    assert worn[:, :width].sum() == pytest.approx(worn[:, width:].sum(), rel=0.1) and worn.any()
    assert (dress(two, [], ["sunglasses"]) == two).all()


def test_blending_is_in_linear_light():
    levels = np.arange(256, dtype=np.uint8)
    assert (to_srgb(to_linear(levels)) == levels).all()
    half = (to_linear(np.uint8([0])) + to_linear(np.uint8([255]))) / 2
    assert to_srgb(half)[0] == 188  # not 128


def test_dark_faces_get_dark_filters(head):
    image, points = head
    dark = (image * 0.4).astype(np.uint8)
    bright_nose, dark_nose = (apply_filter(i, points, "cat") for i in (image, dark))
    tip = tuple(np.round(points[33]).astype(int)[::-1])
    assert dark_nose[tip].sum() < 0.8 * bright_nose[tip].sum()


def test_a_smile_lifts_the_corners_and_leaves_the_rest(head):
    image, points = head
    after = apply_filter(image, points, "smile")
    rows = np.nonzero(changed(image, after))[0]
    low, high = points[:, 1].min(), points[:, 1].max()
    assert rows.min() > low and rows.max() < high + 0.2 * (high - low)
    effect = load_filter("smile")
    assert (effect.morph[[48, 54], 1] < 0).all() and effect.morph[48, 0] == -effect.morph[54, 0]


def test_a_new_filter_needs_a_picture_and_a_small_file(tmp_path, head):
    picture = np.full((40, 60, 4), 255, np.uint8)
    cv2.imwrite(str(tmp_path / "card.png"), picture)
    anchors = [{"points": [36], "at": [0, 20]}, {"points": [45], "at": [59, 20]}]
    (tmp_path / "card.json").write_text(json.dumps({"about": "a card", "layers": [{"anchors": anchors}]}))
    assert filter_names(tmp_path) == ["card"]
    image, points = head
    after = apply_filter(image, points, load_filter("card", tmp_path))
    middle = tuple(np.round(points[[36, 45]].mean(axis=0)).astype(int)[::-1])
    assert changed(image, after)[middle]


TWO = [{"points": [1], "at": [0, 0]}, {"points": [2], "at": [9, 0]}]


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"layers": []},
        {"about": "odd", "layers": []},
        {"about": "odd", "layers": [{"anchors": [{"points": [1], "at": [0, 0]}, {"points": [2], "at": [9, 0]}]}] * 17},
        {"morph": {"48": [0, 0, 0]}},
        {"about": "odd", "morph": {"48": [900, 0, 0]}},
        {"about": "odd", "morph": {"68": [0, 0, 0]}},
        {"about": "odd", "morph": {"48": [float("nan"), 0, 0]}},
    ],
)
def test_a_file_without_a_filter_s_parts_or_with_numbers_out_of_range_is_refused(tmp_path, content):
    shutil.copy(FILTER_DIR / "sunglasses.png", tmp_path / "odd.png")
    (tmp_path / "odd.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"odd\.json: expected about and layers or a morph, got: "):
        load_filter("odd", tmp_path)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"anchors": [{"points": [36], "at": [0, 0]}]}, "got 1 anchors, expected two or more"),
        ({"anchors": [{"points": [99], "at": [0, 0]}] * 2}, "got an anchor of points"),
        ({"anchors": [{"points": [1], "at": [0, 0]}] * 2, "sheet": "odd"}, "got sheet 'odd'"),
        ({"anchors": [{"points": [1], "at": [0, 0]}] * 2, "part": [0, 0, 900, 9]}, "got part"),
        ({}, "anchors"),
        ({"anchors": TWO, "bend": 1e9}, "got bend 1000000000.0, expected numbers from 0 to 100"),
        ({"anchors": TWO, "tilt": float("nan")}, "got tilt nan, expected numbers from -90 to 90"),
        ({"anchors": [{"points": [1], "at": [3, 3]}] * 2}, "got anchors at one pixel"),
        *(
            ({"anchors": [{"points": [odd], "at": [0, 0]}, *TWO]}, "got an anchor of points")
            for odd in (36.0, True, "1")
        ),
        ({"anchors": TWO, "bend": 1e-300}, "got bend 1e-300, expected 0 or at least 0.01"),
        ({"anchors": TWO, "round": 1e-5}, "got round 1e-05, expected 0 or at least 0.01"),
        ({"anchors": TWO, "part": [-1, 0, 2, 2]}, "got part"),
        ([], "AttributeError"),
    ],
)
def test_a_file_that_is_no_filter_is_refused_by_name(tmp_path, layer, message):
    shutil.copy(FILTER_DIR / "sunglasses.png", tmp_path / "odd.png")
    if "part" in layer and layer["part"][0] == 0:
        cv2.imwrite(str(tmp_path / "odd.png"), np.zeros((5, 5, 4), np.uint8))
    (tmp_path / "odd.json").write_text(json.dumps({"about": "odd", "layers": [layer]}))
    with pytest.raises(ValueError, match=rf"odd\.json: .*{message}"):
        load_filter("odd", tmp_path)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (b"", "expected an image, got 0 bytes"),
        (b"\x89PNG junk", "expected an image, got 9 bytes"),
        (png_head(4000, 4000), "got an image of 16,000,000 pixels"),
        (struct.pack(">8sI4s", b"\x89PNG\r\n\x1a\n", 2**31 - 1, b"IDAT"), "expected an image, got 16 bytes"),
        (cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes(), "got an image without transparency"),
    ],
)
def test_a_picture_that_is_none_or_too_large_is_refused_by_name(tmp_path, picture, message):
    (tmp_path / "odd.png").write_bytes(picture)
    (tmp_path / "odd.json").write_text(json.dumps({"about": "odd", "layers": [{"anchors": TWO}]}))
    with pytest.raises(ValueError, match=rf"odd\.json: .*odd\.png: {message}"):
        load_filter("odd", tmp_path)


def test_layers_hold_no_more_pixels_than_are_read_at_once(tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "odd.png"), np.zeros((40, 50, 4), np.uint8))
    (tmp_path / "odd.json").write_text(json.dumps({"about": "odd", "layers": [{"anchors": TWO}] * 3}))
    monkeypatch.setattr("keypoints.filters.MOST_PIXELS", 5999)
    with pytest.raises(ValueError, match=r"odd\.json: .*got layers of 6,000 pixels, expected at most 5,999 in all"):
        load_filter("odd", tmp_path)
    (tmp_path / "odd.json").write_text(" " * 1_000_001)
    with pytest.raises(ValueError, match=r"odd\.json: .*got more than 1,000,000 bytes"):
        load_filter("odd", tmp_path)


def test_anchors_at_one_place_of_the_head_make_a_speck(tmp_path, head):
    cv2.imwrite(str(tmp_path / "speck.png"), np.full((40, 50, 4), 255, np.uint8))
    anchors = [{"points": [30], "at": [0, 0]}, {"points": [30], "at": [49, 0]}]
    (tmp_path / "speck.json").write_text(json.dumps({"about": "a speck", "layers": [{"anchors": anchors}]}))
    image, points = head
    assert changed(image, apply_filter(image, points, load_filter("speck", tmp_path))).sum() < 10


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_lists_the_filters(capsys):
    assert main(["filter", "--list"]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == NAMES


def test_an_unknown_filter_lists_the_known_ones(capsys):
    assert main(["filter", str(PHOTOS / "astronaut.jpg"), "--filter", "monocle"]) == 2
    told = capsys.readouterr().err
    assert "got filter 'monocle', expected one of cat, moustache, smile, sunglasses, tophat" in told


def test_the_command_writes_the_picture(tmp_path, capsys):
    photo, out = PHOTOS / "grace_hopper.jpg", tmp_path / "worn.png"
    assert main(["filter", str(photo), "--filter", "sunglasses", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: sunglasses on 1 face\n"
    image = read_image(photo)
    assert (read_image(out) == dress(image, KeypointDetector()(image), ["sunglasses"])).all()


def test_without_a_face_the_picture_stays_and_that_is_said(tmp_path, capsys):
    grey = tmp_path / "grey.png"
    cv2.imwrite(str(grey), np.full((60, 80, 3), 90, np.uint8))
    assert main(["filter", str(grey), "--filter", "cat"]) == 0
    assert "no face found, the picture stays as it was" in capsys.readouterr().out
    assert (read_image(tmp_path / "grey_cat.png") == read_image(grey)).all()
    assert main(["filter", str(grey), "--filter", "cat", "--out", str(grey)]) == 2


@pytest.mark.parametrize("ending", [".png", ".webp"])
def test_what_is_transparent_stays_so_where_no_filter_covers_it(tmp_path, capsys, ending):
    photo = read_image(PHOTOS / "astronaut.jpg")
    rgba = np.dstack([photo, np.full(photo.shape[:2], 255, np.uint8)])
    rgba[:, 300:] = (0, 0, 255, 0)
    rgba[:60] = (0, 0, 255, 0)  # the hat goes there
    Image.fromarray(rgba).save(tmp_path / f"her{ending}", lossless=True, exact=True)
    assert main(["filter", str(tmp_path / f"her{ending}"), "--filter", "tophat", "sunglasses"]) == 0
    assert "on 1 face" in capsys.readouterr().out
    worn = np.asarray(Image.open(tmp_path / f"her_tophat_sunglasses{ending}").convert("RGBA"))
    assert worn.shape == rgba.shape
    np.testing.assert_array_equal(worn[350:, :, 3], rgba[350:, :, 3])
    assert (worn[:, 400:, 3] == 0).all()
    hat = worn[:60, 150:300]
    assert (hat[..., 3] > 250).mean() > 0.1 and (hat[..., 3] == 0).any()
    assert hat[hat[..., 3] > 250][:, :3].mean() < 120  # dark, neither white nor the hidden blue
    faces = KeypointDetector()(rgba)
    assert (dress(rgba, faces, ["tophat"])[..., 3] >= rgba[..., 3]).all()
    assert main(["filter", str(tmp_path / f"her{ending}"), "--filter", "cat", "--out", str(tmp_path / "o.jpg")]) == 0
    assert (read_image(tmp_path / "o.jpg")[:50, 450:] > 250).all()  # JPEG knows no alpha: white


def test_several_images_and_folders_and_patterns_are_filtered(tmp_path, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("a.png", "b.PNG"):
        cv2.imwrite(str(folder / name), np.full((60, 80, 3), 90, np.uint8))
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "note.txt").write_text("no image's name")
    assert main(["filter", str(folder), "--filter", "cat", "--out", str(out)]) == 1
    assert sorted(file.name for file in out.iterdir()) == ["a_cat.png", "b_cat.PNG"]
    told = capsys.readouterr()
    assert told.err.startswith(f"keypoints filter: {folder / 'broken.jpg'}: expected an image, got 8 bytes that ")
    assert told.err.count("\n") == 1
    assert main(["filter", str(folder / "*.[pP]*"), "--filter", "cat"]) == 0
    assert (folder / "a_cat.png").exists() and (folder / "b_cat.PNG").exists()
    assert main(["filter", str(folder), "--filter", "cat", "--out", str(folder / "a.png")]) == 2
    assert "got a file, expected a folder" in capsys.readouterr().err


def test_a_face_has_a_pose():
    [face] = KeypointDetector()(PHOTOS / "grace_hopper.jpg")
    assert face.pose is face.pose
    assert abs(face.pose.yaw) < 25 and abs(face.pose.pitch) < 25 and abs(face.pose.roll) < 15
