from __future__ import annotations

import copy
import csv
import gzip
import itertools

import cv2
import numpy as np
import pytest
import torch
from helpers import csv_header, face_points, find_dot, paint_dot, write_labels, write_set
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

# Reading labels -------------------------------------------------------------------------------------------------------

ROW = ",".join(["1.5"] * 136)


def test_labels_are_read_as_names_and_points(tmp_path):
    points = np.stack([face_points(30, 40, 20), face_points(50, 60, 30)])
    write_labels(tmp_path / "labels.csv", ["0012", "NA"], points)
    names, keypoints = read_keypoints(tmp_path / "labels.csv")
    assert names == ["0012", "NA"]  # text, whatever it looks like
    assert keypoints.dtype == np.float32
    np.testing.assert_allclose(keypoints, points, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "got no rows, expected one for each image"),
        (csv_header() + "\n", "got no rows, expected one for each image"),
        (f",0,1\na.jpg,{ROW},7\n", "got 138 columns, expected 137"),
        (f"{csv_header()}\na.jpg,{ROW},7\n", "got 138 columns, expected 137"),
        ("a,b,c\na.jpg,1,2\n", "got 3 columns, expected 137"),
        (f"{csv_header()}\na.jpg,{ROW}\nb.jpg,{ROW},7\n", "expected a CSV file of keypoints"),
        (f"{csv_header()}\na.jpg,{ROW}\nb.jpg,1,2\n", r"got 3 columns in row 2 \('b.jpg'\), expected 137 in each"),
        (f"{csv_header()}\na.jpg,nan{ROW[3:]}\n", r"got no coordinates \(nan, 1.5\) of point 0 in row 1 \('a.jpg'"),
        (f"{csv_header()}\na.jpg,inf{ROW[3:]}\n", r"got 'inf' as x of point 0 in row 1 \('a.jpg'; 1 such rows\)"),
        (f"{csv_header()}\na.jpg,here{ROW[3:]}\n", r"got 'here' as x of point 0 in row 1 \('a.jpg'; 1 such rows\)"),
        (f"{csv_header()}\na.jpg,{ROW[3:]}\n", r"got no coordinates \(, 1.5\) of point 0 in row 1 \('a.jpg'"),
    ],
)
def test_bad_labels_raise_one_sentence_that_names_the_file(tmp_path, text, sentence):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=sentence) as caught:
        read_keypoints(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_labels_that_are_no_text_raise_a_sentence(tmp_path):
    (tmp_path / "labels.csv").write_bytes(b"\x89PNG\xff\xfe\x00\n" * 50)
    with pytest.raises(ValueError, match=r"labels\.csv: "):
        read_keypoints(tmp_path / "labels.csv")


@pytest.mark.parametrize("ending", ["zip", "gz", "bz2", "xz", "zst", "tar", "tar.gz"])
def test_what_a_label_file_is_called_does_not_matter(tmp_path, ending):
    path = tmp_path / f"labels.{ending}"
    path.write_text(f"{csv_header()}\na.jpg,{ROW}\n")
    assert read_keypoints(path)[0] == ["a.jpg"]
    path.write_bytes(gzip.compress(path.read_bytes()))  # archives can hold gigabytes
    with pytest.raises(ValueError, match=rf"labels\.{ending}: got a gzip archive, expected a CSV file"):
        read_keypoints(path)


@pytest.mark.parametrize("end", [b"\n", b"\r"])
def test_a_row_of_a_million_columns_takes_no_minutes(tmp_path, end):
    (tmp_path / "labels.csv").write_bytes(csv_header().encode() + end + b"," * 1_000_000 + end)
    with pytest.raises(ValueError, match=r"labels\.csv: got a row of more than 1,000 columns, expected at most 137$"):
        read_keypoints(tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_bytes(csv_header().encode() + end + f"a.jpg,{ROW}".encode().join([b"", end]) * 20)
    assert len(read_keypoints(tmp_path / "labels.csv")[0]) == 20


def test_a_long_name_makes_no_long_sentence(tmp_path):
    (tmp_path / "labels.csv").write_text(f"{csv_header()}\n{'a' * 5000},nan{ROW[3:]}\n")
    with pytest.raises(ValueError, match="got no coordinates") as caught:
        read_keypoints(tmp_path / "labels.csv")
    assert len(str(caught.value)) < 500


def test_the_labels_offset_on_two_faces_by_hand():
    keypoints = np.zeros((2, 68, 2))
    keypoints[0, 45], keypoints[1, 8] = (100, 100), (50, 200)  # boxes of 100 × 100 and 50 × 200 pixels: both size 100
    keypoints[1] += [7, -30]  # wherever it lies
    offset = label_offset(keypoints)
    assert offset.shape == (2, 2) and offset.dtype == np.float32
    np.testing.assert_allclose(offset, [[0.33 + 1.1, 0.71]] * 2, rtol=1e-6)
    np.testing.assert_allclose(label_offset(2 * keypoints[0]), [0.33 + 2.2, 0.71], rtol=1e-6)


# Transforms -----------------------------------------------------------------------------------------------------------


def dot_sample(height: int, width: int, x: float, y: float, sigma: float = 3) -> dict:
    return {"image": paint_dot(height, width, x, y, sigma), "keypoints": np.full((68, 2), [x, y], np.float32)}


@pytest.mark.parametrize("shape", [(100, 130), (130, 100), (400, 400), (523, 611), (250, 250)])
@pytest.mark.parametrize("size", [250, 224, (180, 260), (97, 311)])
def test_rescale_moves_points_with_the_picture(shape, size):
    x, y = 0.37 * shape[1], 0.61 * shape[0]
    sample = Rescale(size)(dot_sample(*shape, x, y, sigma=shape[0] / 30))
    assert sample["keypoints"].dtype == np.float32
    np.testing.assert_allclose(sample["keypoints"][0], find_dot(sample["image"]), atol=0.1)


@pytest.mark.parametrize(("shape", "expected"), [((100, 130), (250, 325)), ((500, 400), (312, 250))])
def test_rescale_to_a_number_sets_the_shorter_side_and_keeps_the_shape(shape, expected):
    assert Rescale(250)(dot_sample(*shape, 9, 9))["image"].shape[:2] == expected


@pytest.mark.parametrize("shape", [(1, 101), (303, 3)])
def test_rescale_refuses_a_strip_that_it_would_make_huge(shape):
    height, width = shape
    with pytest.raises(
        ValueError, match=rf"^got an image of {height}×{width} pixels, expected a longer side of at most 100"
    ):
        Rescale(250)(dot_sample(*shape, 0, 0))
    assert Rescale(25)(dot_sample(*((n // 101 * 100) or n for n in shape), 0, 0))["image"].size == 25 * 2500 * 3
    assert Rescale((9, 9))(dot_sample(*shape, 0, 0))["image"].shape == (9, 9, 3)


@pytest.mark.parametrize("cache", [True, False])
def test_what_is_wrong_with_an_image_is_told_with_its_name(tmp_path, cache):
    write_set(tmp_path, "test", ["strip.jpg"], [np.zeros((30, 3100, 3), np.uint8)], face_points(90, 15, 10)[None])
    data = Data("sample", tmp_path).dataset("test", evaluation_transform(), cache)
    with pytest.raises(
        ValueError, match=r"strip\.jpg: got an image of 30×3100 pixels, expected a longer side of at most"
    ):
        data[0]


def test_rescale_and_its_inverse_meet():
    points = face_points(64.2, 50.7, 40)
    sample = {"image": np.zeros((100, 130, 3), np.uint8), "keypoints": points}
    there_and_back = Rescale((100, 130))(Rescale((311, 257))(sample))
    np.testing.assert_allclose(there_and_back["keypoints"], points, atol=1e-4)


@pytest.mark.parametrize("crop", [RandomCrop(60), CenterCrop(60), RandomCrop((50, 61)), CenterCrop((41, 70))])
def test_crops_move_points_with_the_picture(crop):
    sample = crop(dot_sample(80, 90, 44.3, 39.6))
    size = crop.output_size if isinstance(crop.output_size, tuple) else (60, 60)
    assert sample["image"].shape[:2] == size
    np.testing.assert_allclose(sample["keypoints"][0], find_dot(sample["image"]), atol=0.02)


def test_the_whole_recipe_keeps_the_dot_under_its_point():
    for transform in (training_transform(), evaluation_transform()):
        sample = transform(dot_sample(300, 360, 171.3, 148.8, sigma=5))
        assert sample["image"].shape == (1, 224, 224) and sample["image"].dtype == torch.float32
        point = Normalize.inverse(sample["keypoints"])[0].numpy()
        np.testing.assert_allclose(point, find_dot(sample["image"][0].numpy()), atol=0.1)


@pytest.mark.parametrize("crop", [RandomCrop(50), CenterCrop((50, 50))])
def test_a_crop_as_large_as_the_image_is_the_image(crop):
    sample = dot_sample(50, 50, 20, 20)
    cropped = crop(sample)
    np.testing.assert_array_equal(cropped["image"], sample["image"])
    np.testing.assert_array_equal(cropped["keypoints"], sample["keypoints"])


@pytest.mark.parametrize("crop", [RandomCrop(51), CenterCrop((51, 20)), RandomCrop((20, 61))])
def test_a_crop_larger_than_the_image_raises_a_sentence(crop):
    with pytest.raises(ValueError, match=r"got an image of 50×60 pixels, expected at least the crop's \d+×\d+"):
        crop(dot_sample(50, 60, 20, 20))


def place_sample(height: int, width: int) -> dict:
    """Each pixel holds its own column and row."""
    row, column = np.mgrid[:height, :width].astype(np.uint8)
    return {"image": np.stack([column, row, row * 0], axis=2), "keypoints": np.zeros((68, 2), np.float32)}


def test_random_crop_reaches_every_offset_about_equally_often():
    torch.manual_seed(0)
    sample, crop = place_sample(10, 12), RandomCrop(8)
    corners = [tuple(crop(sample)["image"][0, 0, :2]) for _ in range(1500)]
    counts = {(x, y): corners.count((x, y)) for x in range(5) for y in range(3)}
    assert sum(counts.values()) == 1500  # and so nothing else
    assert min(counts.values()) > 60 and max(counts.values()) < 140  # 100 expected, standard deviation 10


def test_random_crop_is_fixed_by_torchs_seed():
    def draw() -> list:
        torch.manual_seed(3)
        return [RandomCrop(20)(place_sample(50, 50))["image"][0, 0].tolist() for _ in range(5)]

    first = draw()
    np.random.seed(1)  # somebody else's generator
    assert draw() == first
    assert len({tuple(corner) for corner in first}) > 1


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 on fork beside threads
@pytest.mark.filterwarnings("ignore:This DataLoader:UserWarning")  # on one core
def test_workers_draw_different_crops(tmp_path):
    names = [f"a_{i}.jpg" for i in range(8)]
    write_set(tmp_path, "training", names, [place_sample(90, 90)["image"]] * 8, np.stack([face_points(45, 45, 30)] * 8))
    dataset = FacialKeypointsDataset(
        tmp_path / "training_frames_keypoints.csv", tmp_path / "training", Compose([RandomCrop(20), ToTensor()])
    )
    torch.manual_seed(0)
    batches = [batch["image"][:, :2, 0, 0].tolist() for batch in DataLoader(dataset, 4, num_workers=2)]
    assert batches[0] != batches[1]  # each from a worker of its own


def test_center_crop_cuts_the_middle():
    corner = CenterCrop((8, 8))(place_sample(10, 13))["image"][0, 0]
    assert corner.tolist() == [2, 1, 0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_normalize_gives_grey_from_0_to_1_whatever_comes_in(dtype, channels):
    largest = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    image = np.zeros((4, 6, *channels), dtype)
    image[1:], image[2:] = largest // 2 if largest > 1 else 0.5, largest
    grey = Normalize()({"image": image, "keypoints": np.zeros((68, 2), np.float32)})["image"]
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
def test_normalize_refuses_what_it_would_read_wrongly(image):
    with pytest.raises(ValueError, match=r"^got an? .*, expected "):
        Normalize()({"image": image, "keypoints": np.zeros((68, 2), np.float32)})


def test_normalize_and_its_inverse_meet():
    points = face_points(110, 90, 70)
    norm = Normalize()({"image": np.zeros((224, 224), np.uint8), "keypoints": points})["keypoints"]
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


def test_a_sample_is_an_rgb_image_with_its_points(small_set):
    dataset = small_set.dataset("training")
    sample = dataset[2]
    assert len(dataset) == 6 and set(sample) == {"image", "keypoints"}
    assert sample["image"].shape == (60, 70, 3) and sample["image"].dtype == np.uint8
    assert sample["keypoints"].shape == (68, 2) and sample["keypoints"].dtype == np.float32
    np.testing.assert_array_equal(sample["image"], read_image(small_set.image_dir("training") / "Bo_B_00.jpg"))


CHAINS = {
    "training": training_transform,
    "evaluation": evaluation_transform,
    "colour": lambda: Compose([Rescale(250), ToTensor()]),
    "rescale only": lambda: Compose([Rescale(80)]),
    "crop first": lambda: Compose([RandomCrop(50), Rescale(224), Normalize(), ToTensor()]),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_cached_samples_equal_uncached_ones_in_every_epoch(small_set, chain):
    cached, plain = (small_set.dataset("training", CHAINS[chain](), cache=cache) for cache in (True, False))
    for epoch in range(3):
        for i in range(len(cached)):
            torch.manual_seed(epoch)
            first = cached[i]
            torch.manual_seed(epoch)
            second = plain[i]
            np.testing.assert_array_equal(first["image"], second["image"])
            np.testing.assert_array_equal(first["keypoints"], second["keypoints"])


@pytest.mark.parametrize("chain", CHAINS)
def test_who_writes_into_a_sample_does_not_change_the_next(small_set, chain):
    dataset = small_set.dataset("test", CHAINS[chain]())
    torch.manual_seed(0)
    before = copy.deepcopy(dataset[0])
    torch.manual_seed(0)
    for value in dataset[0].values():
        value[...] = 0
    torch.manual_seed(0)
    for key, value in dataset[0].items():
        np.testing.assert_array_equal(value, before[key])


def test_the_second_epoch_reads_no_file(small_set):
    dataset = small_set.dataset("training", training_transform())
    for i in range(len(dataset)):
        dataset[i]
    for file in small_set.image_dir("training").iterdir():
        file.unlink()
    assert [dataset[i]["image"].shape for i in range(len(dataset))] == [(1, 224, 224)] * 6


def test_transforms_leave_the_sample_they_get_alone(small_set):
    sample = small_set.dataset("training")[0]
    before = {key: value.copy() for key, value in sample.items()}
    training_transform()(sample)
    for key, value in sample.items():
        np.testing.assert_array_equal(value, before[key])


# Where the data lies --------------------------------------------------------------------------------------------------


@pytest.fixture
def both_sets(small_set):
    """The folder data/ with the official set, and a sample beside it."""
    for split in ("training", "test"):
        points = np.stack([face_points(30, 30, 20)])
        write_set(small_set.root / "sample", split, ["Eve_00.jpg"], [np.zeros((60, 60, 3), np.uint8)], points)
    return small_set.root


def test_the_official_set_is_preferred_where_it_is_there(both_sets, monkeypatch):
    monkeypatch.delenv("KEYPOINTS_DATA")
    assert find_data(root=both_sets).name == "official"
    (both_sets / "test_frames_keypoints.csv").unlink()  # fetch moves the labels last, so this one isn't there yet
    assert find_data(root=both_sets).name == "sample"


def test_the_environment_overrides_and_the_argument_overrides_that(both_sets, monkeypatch):
    monkeypatch.setenv("KEYPOINTS_DATA", "sample")
    assert find_data(root=both_sets).root == both_sets / "sample"
    assert find_data("official", both_sets).root == both_sets
    monkeypatch.setenv("KEYPOINTS_DATA", "")
    assert find_data(root=both_sets).name == "official"


def test_another_name_is_refused(both_sets, monkeypatch):
    monkeypatch.setenv("KEYPOINTS_DATA", "samples")
    with pytest.raises(ValueError, match="got data set 'samples', expected 'official' or 'sample'"):
        find_data(root=both_sets)


def test_a_set_that_is_not_there_says_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m data_load fetch"):
        find_data("official", tmp_path)
    with pytest.raises(FileNotFoundError, match="git checkout data/sample"):
        find_data("sample", tmp_path)


def test_missing_images_are_counted_and_three_are_named(both_sets):
    for file in sorted((both_sets / "training").iterdir())[:4]:
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"missing: 4 \(Ann_00.jpg, Ann_01.jpg, Bo_B_00.jpg, …\)"):
        find_data("official", both_sets)


def test_unlabelled_images_are_normal(both_sets):
    (both_sets / "test" / "Zoe_00.jpg").write_bytes(b"anything")
    assert len(find_data("official", both_sets).dataset("test")) == 3


def test_a_person_is_the_name_without_its_number():
    assert [person_of(name) for name in ("Luis_Fonsi_21.jpg", "Cy_00.jpg")] == ["Luis_Fonsi", "Cy"]


NAMES = [f"Person{i % 40}_{i // 40:02d}.jpg" for i in range(130)]


def test_nobody_is_on_both_sides_of_a_split_and_everybody_on_one():
    train, held_out = split_by_person(NAMES, 0.2)
    assert sorted(train + held_out) == list(range(len(NAMES)))
    people = [{person_of(NAMES[i]) for i in side} for side in (train, held_out)]
    assert not people[0] & people[1] and len(people[1]) == 8


def test_however_much_is_held_out_somebody_is_left_to_train_on():
    train, held_out = split_by_person(["Ann_00.jpg", "Bo_00.jpg", "Bo_01.jpg"], 0.99)
    assert train and held_out
    with pytest.raises(ValueError, match="got images of 1 person, expected at least two people"):
        split_by_person(["Ann_00.jpg", "Ann_01.jpg"])


def test_a_split_depends_on_the_seed_alone():
    assert split_by_person(NAMES) == split_by_person(NAMES)
    assert split_by_person(NAMES, seed=1) != split_by_person(NAMES, seed=0)
    people = {NAMES[i] for i in split_by_person(NAMES)[1]}
    assert {NAMES[::-1][i] for i in split_by_person(NAMES[::-1])[1]} == people  # whatever the order


# The embedded sample --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "number"), [("training", 600), ("test", 150)])
def test_the_sample_has_the_images_its_labels_name(split, number):
    sample = find_data("sample")
    names, _ = read_keypoints(sample.csv_file(split))
    assert len(names) == len(set(names)) == number
    assert {file.name for file in sample.image_dir(split).iterdir()} == set(names)


def test_nobody_is_in_both_parts_of_the_sample():
    sample = find_data("sample")
    people = [{person_of(n) for n in read_keypoints(sample.csv_file(split))[0]} for split in ("training", "test")]
    assert people[0] and people[1] and not people[0] & people[1]


@pytest.mark.parametrize("split", ["training", "test"])
def test_the_samples_points_lie_mostly_inside_their_images(split):
    dataset = find_data("sample").dataset(split)
    inside = []
    for i in range(0, len(dataset), 10):
        image, points = dataset[i]["image"], dataset[i]["keypoints"]
        inside.append(((points >= 0) & (points <= np.array(image.shape[1::-1]) - 1)).all(axis=1))
    assert np.isfinite(dataset.keypoints).all() and np.mean(inside) > 0.97


def test_the_samples_attributes_cover_every_image():
    sample = find_data("sample")
    with open(sample.root / "attributes.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:6] == ["file", "person", "yaw", "pitch", "roll", "expression"]
    labelled = {f"{split}/{n}" for split in ("training", "test") for n in read_keypoints(sample.csv_file(split))[0]}
    assert {row["file"] for row in rows} == labelled and len(rows) == len(labelled)
    assert all(abs(float(row[angle])) < 90 for row in rows for angle in ("yaw", "pitch", "roll"))
    assert all(row["expression"] for row in rows)
    pairs = {(row["person"], person_of(row["file"])) for row in rows}
    assert len(pairs) == len({person for person, _ in pairs}) == len({name for _, name in pairs})


def test_the_sample_is_small():
    assert sum(file.stat().st_size for file in (DATA_DIR / "sample").rglob("*") if file.is_file()) < 12e6


def test_the_clip_has_a_row_for_every_frame_and_what_it_promises():
    sample = find_data("sample")
    with open(sample.root / "clip.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:7] == ["frame", "time", "yaw", "pitch", "roll", "blink", "mouth_open"]
    assert [int(row["frame"]) for row in rows] == list(range(250))
    blinks = [int(row["blink"]) for row in rows]
    assert sum(after > before for before, after in itertools.pairwise(blinks)) == 6
    yaw = [float(row["yaw"]) for row in rows]
    assert min(yaw) < -40 and max(yaw) > 40
    video, frames = cv2.VideoCapture(str(sample.root / "clip.mp4")), 0
    while video.read()[0]:
        frames += 1
    assert frames == 250 and video.get(cv2.CAP_PROP_FPS) == 25
    assert (sample.root / "clip.mp4").stat().st_size < 1.5e6


@pytest.mark.parametrize("transform", [Rescale, RandomCrop, CenterCrop])
def test_a_size_may_be_a_whole_number_of_any_type(transform):
    sample = {"image": np.zeros((60, 80, 3), np.uint8), "keypoints": np.zeros((68, 2), np.float32)}
    for size in (40, 40.0, np.int64(40), np.uint8(40), np.float32(40), np.array(40), torch.tensor(40)):
        made = transform(size)
        assert min(made(sample)["image"].shape[:2]) == 40 and repr(made) == repr(transform(40)), size
    for size in ((40, 30), [40, 30.0], np.array([40, 30]), (np.int64(40), 30)):
        assert transform(size)(sample)["image"].shape[:2] == (40, 30)
    for size in (40.5, "40", None, 0, -3, float("nan"), True, (40, 30.5), (40, 30, 3), np.zeros((2, 2)), [40]):
        with pytest.raises(ValueError, match=r"^got .* as a size, expected a whole number of pixels from 1 on, or "):
            transform(size)
