from __future__ import annotations

import csv
import itertools

import cv2
import numpy as np
import pytest
import torch
from helpers import CLIP, face_points, find_dot, paint_dot, refused, write_set
from torch.utils.data import DataLoader
from torchvision.transforms import Compose

from data_load import (
    DATA_DIR,
    CenterCrop,
    Data,
    FacialKeypointsDataset,
    Normalize,
    RandomCrop,
    Rescale,
    ToTensor,
    evaluation_transform,
    find_data,
    label_offset,
    person_of,
    read_image,
    read_keypoints,
    split_by_person,
    training_transform,
)


def test_label_offset_of_two_faces_computed_by_hand():
    keypoints = np.zeros((2, 68, 2))
    keypoints[0, 45], keypoints[1, 8] = (100, 100), (50, 200)  # boxes of 100 × 100 and 50 × 200 pixels: both size 100
    keypoints[1] += [7, -30]  # does not depend on the place
    offset = label_offset(keypoints)
    assert offset.shape == (2, 2) and offset.dtype == np.float32
    np.testing.assert_allclose(offset, [[0.33 + 1.1, 0.71]] * 2, rtol=1e-6)
    np.testing.assert_allclose(label_offset(2 * keypoints[0]), [0.33 + 2.2, 0.71], rtol=1e-6)


# Transforms -----------------------------------------------------------------------------------------------------------


def dot_sample(height: int, width: int, x: float, y: float, sigma: float = 3) -> dict:
    return {"image": paint_dot(height, width, x, y, sigma), "keypoints": np.full((68, 2), [x, y], np.float32)}


def blank(*shape: int, dtype: type = np.uint8) -> dict:
    return {"image": np.zeros(shape, dtype), "keypoints": np.zeros((68, 2), np.float32)}


def coordinate_sample(height: int, width: int) -> dict:
    """Each pixel holds its own column and row."""
    row, column = np.mgrid[:height, :width].astype(np.uint8)
    return {**blank(), "image": np.stack([column, row, row * 0], axis=2)}


@pytest.mark.parametrize("shape", [(100, 130), (130, 100), (400, 400), (523, 611), (250, 250)])
@pytest.mark.parametrize("size", [250, 224, (180, 260), (97, 311)])
def test_rescale_moves_keypoints_with_the_image(shape, size):
    sample = Rescale(size)(dot_sample(*shape, 0.37 * shape[1], 0.61 * shape[0], sigma=shape[0] / 30))
    assert sample["keypoints"].dtype == np.float32
    np.testing.assert_allclose(sample["keypoints"][0], find_dot(sample["image"]), atol=0.1)


@pytest.mark.parametrize(("shape", "expected"), [((100, 130), (250, 325)), ((500, 400), (312, 250))])
def test_rescale_to_a_number_sets_the_shorter_side_and_keeps_the_aspect_ratio(shape, expected):
    assert Rescale(250)(blank(*shape, 3))["image"].shape[:2] == expected


@pytest.mark.parametrize(("height", "width"), [(1, 101), (303, 3)])
def test_rescale_refuses_a_strip_that_would_become_huge(height, width):
    with refused(rf"^got an image of {height}×{width} pixels, expected a longer side of at most 100"):
        Rescale(250)(blank(height, width, 3))
    longest = [(n // 101 * 100) or n for n in (height, width)]
    assert Rescale(25)(blank(*longest, 3))["image"].size == 25 * 2500 * 3
    assert Rescale((9, 9))(blank(height, width, 3))["image"].shape == (9, 9, 3)


@pytest.mark.parametrize("cache", [True, False])
def test_error_of_a_transform_names_the_image(tmp_path, cache):
    write_set(tmp_path, "test", ["strip.jpg"], [np.zeros((30, 3100, 3), np.uint8)], face_points(90, 15, 10)[None])
    dataset = Data("sample", tmp_path).dataset("test", evaluation_transform(), cache)
    with refused(r"strip\.jpg: got an image of 30×3100 pixels, expected a longer side of at most"):
        dataset[0]


@pytest.mark.parametrize("crop", [RandomCrop(60), CenterCrop(60), RandomCrop((50, 61)), CenterCrop((41, 70))])
def test_crop_moves_keypoints_with_the_image(crop):
    sample = crop(dot_sample(80, 90, 44.3, 39.6))
    assert sample["image"].shape[:2] == (crop.output_size if isinstance(crop.output_size, tuple) else (60, 60))
    np.testing.assert_allclose(sample["keypoints"][0], find_dot(sample["image"]), atol=0.02)


def test_whole_transform_moves_keypoints_with_the_image():
    for transform in (training_transform(), evaluation_transform()):
        sample = transform(dot_sample(300, 360, 171.3, 148.8, sigma=5))
        assert sample["image"].shape == (1, 224, 224) and sample["image"].dtype == torch.float32
        point = Normalize.inverse(sample["keypoints"])[0].numpy()
        np.testing.assert_allclose(point, find_dot(sample["image"][0].numpy()), atol=0.1)


@pytest.mark.parametrize("crop", [RandomCrop(50), CenterCrop((50, 50))])
def test_crop_of_full_image_returns_image(crop):
    sample = dot_sample(50, 50, 20, 20)
    for key, value in crop(sample).items():
        np.testing.assert_array_equal(value, sample[key])


@pytest.mark.parametrize("crop", [RandomCrop(51), CenterCrop((51, 20)), RandomCrop((20, 61))])
def test_crop_larger_than_the_image_is_refused(crop):
    with refused(r"got an image of 50×60 pixels, expected at least the crop's \d+×\d+"):
        crop(blank(50, 60, 3))


def test_random_crop_has_uniform_offsets():
    torch.manual_seed(0)
    sample, crop = coordinate_sample(10, 12), RandomCrop(8)
    corners = [tuple(crop(sample)["image"][0, 0, :2]) for _ in range(1500)]
    counts = {(x, y): corners.count((x, y)) for x in range(5) for y in range(3)}
    assert sum(counts.values()) == 1500  # no other offset
    assert min(counts.values()) > 60 and max(counts.values()) < 140  # 100 expected, standard deviation 10


def test_random_crop_depends_on_torch_seed_alone():
    def offsets() -> list:
        torch.manual_seed(3)
        return [RandomCrop(20)(coordinate_sample(50, 50))["image"][0, 0].tolist() for _ in range(5)]

    first = offsets()
    np.random.seed(1)
    assert offsets() == first and len({tuple(corner) for corner in first}) > 1


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 on fork beside threads
@pytest.mark.filterwarnings("ignore:This DataLoader:UserWarning")  # on one core
def test_workers_draw_different_crops(tmp_path):
    images, points = [coordinate_sample(90, 90)["image"]] * 8, np.stack([face_points(45, 45, 30)] * 8)
    write_set(tmp_path, "training", [f"a_{i}.jpg" for i in range(8)], images, points)
    dataset = Data("sample", tmp_path).dataset("training", Compose([RandomCrop(20), ToTensor()]))
    torch.manual_seed(0)
    batches = [batch["image"][:, :2, 0, 0].tolist() for batch in DataLoader(dataset, 4, num_workers=2)]
    assert batches[0] != batches[1]  # each is of another worker


def test_center_crop_cuts_the_middle():
    assert CenterCrop((8, 8))(coordinate_sample(10, 13))["image"][0, 0].tolist() == [2, 1, 0]


@pytest.mark.parametrize("transform", [Rescale, RandomCrop, CenterCrop])
def test_size_may_be_a_whole_number_of_any_type(transform):
    for size in (40, np.int64(40), np.uint8(40), np.array(40), torch.tensor(40)):
        made = transform(size)
        assert min(made(blank(60, 80, 3))["image"].shape[:2]) == 40 and repr(made) == repr(transform(40)), size
    for size in ((40, 30), [40, 30], np.array([40, 30]), (np.int64(40), 30)):
        assert transform(size)(blank(60, 80, 3))["image"].shape[:2] == (40, 30)
    for size in (40.0, 40.5, "40", None, 0, -3, float("nan"), True, (40, 30.5), (40, 30, 3), np.zeros((2, 2)), [40]):
        with refused("^got .* as a size, expected a whole number of pixels from 1 on, or "):
            transform(size)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_normalize_returns_grey_from_0_to_1(dtype, channels):
    largest = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    sample = blank(4, 6, *channels, dtype=dtype)
    sample["image"][1:], sample["image"][2:] = largest // 2 if largest > 1 else 0.5, largest
    grey = Normalize()(sample)["image"]
    assert grey.dtype == np.float32 and grey.shape == (4, 6)
    np.testing.assert_allclose(grey[:3, 0], [0, 0.5, 1], atol=0.003)


@pytest.mark.parametrize(
    "image",
    [
        np.full((4, 4), 200, np.float32),
        np.full((4, 4, 3), -1, np.float64),
        np.full((4, 4), np.nan, np.float32),
        np.full((4, 4), 200, np.int64),  # 200 of 2^63: black
        np.zeros((4, 4, 4), np.uint8),
    ],
    ids=["float 0-255", "negative", "NaN", "int64", "four channels"],
)
def test_normalize_refuses_other_types_and_ranges(image):
    with refused("^got an? .*, expected "):
        Normalize()({**blank(), "image": image})


def test_normalize_and_its_inverse_meet():
    points = face_points(110, 90, 70)
    norm = Normalize()({**blank(224, 224), "keypoints": points})["keypoints"]
    np.testing.assert_allclose(norm, (points - 100) / 50, atol=1e-6)
    np.testing.assert_allclose(Normalize.inverse(norm), points, atol=1e-4)
    np.testing.assert_allclose(Normalize.inverse(torch.from_numpy(norm)).numpy(), points, atol=1e-4)


@pytest.mark.parametrize(("shape", "expected"), [((5, 7), (1, 5, 7)), ((5, 7, 3), (3, 5, 7)), ((5, 7, 1), (1, 5, 7))])
def test_to_tensor_puts_channels_first_and_keeps_values(shape, expected):
    image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    sample = ToTensor()({"image": image, "keypoints": face_points(3, 3, 2)})
    assert tuple(sample["image"].shape) == expected and sample["image"].dtype == torch.uint8
    assert sample["image"][0, 2, 3] == image[2, 3].ravel()[0]
    assert tuple(sample["keypoints"].shape) == (68, 2) and sample["keypoints"].dtype == torch.float32


# The dataset and its cache --------------------------------------------------------------------------------------------


def test_sample_is_an_rgb_image_with_its_keypoints(small_set):
    dataset = small_set.dataset("training")
    sample = dataset[2]
    assert len(dataset) == 6 and set(sample) == {"image", "keypoints"}
    assert sample["image"].shape == (60, 70, 3) and sample["image"].dtype == np.uint8
    assert sample["keypoints"].shape == (68, 2) and sample["keypoints"].dtype == np.float32
    np.testing.assert_array_equal(sample["image"], read_image(small_set.image_dir("training") / "Bo_B_00.jpg"))
    before = {key: value.copy() for key, value in sample.items()}
    training_transform()(sample)
    for key, value in sample.items():
        np.testing.assert_array_equal(value, before[key])  # transforms do not write into what they get


@pytest.mark.parametrize(
    "transform",
    [
        training_transform(),
        evaluation_transform(),
        Compose([Rescale(250), ToTensor()]),
        Compose([Rescale(80)]),
        Compose([RandomCrop(50), Rescale(224), Normalize(), ToTensor()]),
    ],
    ids=["training", "evaluation", "colour", "rescale only", "crop first"],
)
def test_cached_samples_equal_uncached_ones(small_set, transform):
    def epoch(dataset: FacialKeypointsDataset, seed: int) -> list[dict]:
        torch.manual_seed(seed)
        return [dataset[i] for i in range(len(dataset))]

    plain, cached = (small_set.dataset("training", transform, cache=cache) for cache in (False, True))
    expected = [epoch(plain, seed) for seed in range(3)]
    for seed in range(3):
        for sample, other in zip(epoch(cached, seed), expected[seed], strict=True):
            for key, value in sample.items():
                np.testing.assert_array_equal(value, other[key])
                value[...] = 0  # does not change the next epoch's
        if not isinstance(transform.transforms[0], RandomCrop):  # then the next epochs read no file
            for file in small_set.image_dir("training").iterdir():
                file.unlink()


# Where the data is ----------------------------------------------------------------------------------------------------


@pytest.fixture
def both_sets(small_set):
    """The folder data/ with the official set, and a sample in it."""
    for split in ("training", "test"):
        points = np.stack([face_points(30, 30, 20)])
        write_set(small_set.root / "sample", split, ["Eve_00.jpg"], [np.zeros((60, 60, 3), np.uint8)], points)
    return small_set.root


def test_argument_then_environment_then_official_set_decide(both_sets, monkeypatch):
    monkeypatch.setenv("KEYPOINTS_DATA", "sample")
    assert find_data(root=both_sets).root == both_sets / "sample"
    assert find_data("official", both_sets).root == both_sets
    monkeypatch.setenv("KEYPOINTS_DATA", "")
    assert find_data(root=both_sets).name == "official"
    (both_sets / "test" / "Zoe_00.jpg").write_bytes(b"images without labels are normal")
    assert len(find_data("official", both_sets).dataset("test")) == 3
    monkeypatch.delenv("KEYPOINTS_DATA")
    (both_sets / "test_frames_keypoints.csv").unlink()  # fetch moves the labels last, so this one is not complete
    assert find_data(root=both_sets).name == "sample"
    monkeypatch.setenv("KEYPOINTS_DATA", "samples")
    with refused("got data set 'samples', expected 'official' or 'sample'"):
        find_data(root=both_sets)


def test_missing_set_says_how_to_get_it(both_sets, tmp_path):
    for name, sentence in (("official", "python -m data_load fetch"), ("sample", "git checkout data/sample")):
        with pytest.raises(FileNotFoundError, match=sentence):
            find_data(name, tmp_path)
    for file in sorted((both_sets / "training").iterdir())[:4]:
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"missing: 4 \(Ann_00.jpg, Ann_01.jpg, Bo_B_00.jpg, …\)"):
        find_data("official", both_sets)


# People ---------------------------------------------------------------------------------------------------------------

NAMES = [f"Person{i % 40}_{i // 40:02d}.jpg" for i in range(130)]


def test_person_is_the_name_without_its_number():
    assert [person_of(name) for name in ("Luis_Fonsi_21.jpg", "Cy_00.jpg")] == ["Luis_Fonsi", "Cy"]


def test_split_puts_each_person_on_one_side():
    train, held_out = split_by_person(NAMES, 0.2)
    assert sorted(train + held_out) == list(range(len(NAMES)))
    people = [{person_of(NAMES[i]) for i in side} for side in (train, held_out)]
    assert not people[0] & people[1] and len(people[1]) == 8
    assert all(split_by_person(["Ann_00.jpg", "Bo_00.jpg", "Bo_01.jpg"], 0.99))  # somebody is left to train on
    with refused("got images of 1 person, expected at least two people"):
        split_by_person(["Ann_00.jpg", "Ann_01.jpg"])


def test_split_depends_on_the_seed_and_not_on_the_order():
    assert split_by_person(NAMES) == split_by_person(NAMES) != split_by_person(NAMES, seed=1)
    people = {NAMES[i] for i in split_by_person(NAMES)[1]}
    assert {NAMES[::-1][i] for i in split_by_person(NAMES[::-1])[1]} == people


# The embedded sample --------------------------------------------------------------------------------------------------


def test_sample_is_small_and_has_each_labelled_image():
    sample, people = find_data("sample"), []
    for split, number in (("training", 600), ("test", 150)):
        names, keypoints = read_keypoints(sample.csv_file(split), sample.image_dir(split))
        assert {file.name for file in sample.image_dir(split).iterdir()} == set(names) and len(names) == number
        people.append({person_of(name) for name in names})
        sizes = np.array([read_image(sample.image_dir(split) / name).shape[1::-1] for name in names[::10]])
        assert np.mean((keypoints[::10] >= 0) & (keypoints[::10] <= sizes[:, None] - 1)) > 0.97
    assert not people[0] & people[1]
    assert sum(file.stat().st_size for file in (DATA_DIR / "sample").rglob("*") if file.is_file()) < 12e6


def test_attributes_cover_each_image_of_the_sample():
    sample = find_data("sample")
    with open(sample.root / "attributes.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:6] == ["file", "person", "yaw", "pitch", "roll", "expression"]
    labelled = [f"{split}/{n}" for split in ("training", "test") for n in read_keypoints(sample.csv_file(split))[0]]
    assert sorted(row["file"] for row in rows) == sorted(labelled)
    assert all(abs(float(row[angle])) < 90 and row["expression"] for row in rows for angle in ("yaw", "pitch", "roll"))
    pairs = {(row["person"], person_of(row["file"])) for row in rows}
    assert len(pairs) == len({person for person, _ in pairs}) == len({name for _, name in pairs})


def test_clip_has_a_row_for_each_frame():
    with open(CLIP.with_suffix(".csv"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:7] == ["frame", "time", "yaw", "pitch", "roll", "blink", "mouth_open"]
    video = cv2.VideoCapture(str(CLIP))
    frames = sum(1 for _ in iter(lambda: video.read()[0], False))
    assert [int(row["frame"]) for row in rows] == list(range(frames)) and frames == 250
    assert video.get(cv2.CAP_PROP_FPS) == 25 and CLIP.stat().st_size < 1.5e6
    yaw, blinks = [float(row["yaw"]) for row in rows], [int(row["blink"]) for row in rows]
    assert min(yaw) < -40 and max(yaw) > 40 and sum(b > a for a, b in itertools.pairwise(blinks)) == 6
