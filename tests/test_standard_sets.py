"""Standard test sets: small made-up copies in the published layouts, and figures against independent computations."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import png, refused
from scipy.io import savemat

from data_load import find_data
from training import standard_sets
from training.standard_sets import PUBLISHED, SETS, SOURCES, average_precision, measure

HEADS = 4
POSES = np.array([[5.0, -10, 3], [-40, 5, 0], [70, 0, -20], [10, 100, 0]])  # yaw, pitch, roll; the last out of range


@pytest.fixture(scope="module")
def heads() -> list[tuple[np.ndarray, np.ndarray]]:
    """Rendered heads: images and keypoints."""
    data = find_data("sample").dataset("test")
    return [(data[i]["image"], data[i]["keypoints"].astype(float)) for i in range(HEADS)]


def write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(image))


def cells(values: list) -> np.ndarray:
    """A column of cells, as MATLAB has it."""
    column = np.empty((len(values), 1), object)
    column[:, 0] = values
    return column


def write_300w(root: Path, heads) -> None:
    folders = ["lfpw/testset", "helen/testset", "ibug", "300W/01_Indoor"]
    for folder, (image, points) in zip(folders, heads, strict=True):
        write_image(root / folder / "image 1.png", image)
        lines = "\n".join(f"{x:.4f} {y:.4f}" for x, y in points + 1)
        text = f"version: 1\nn_points:  68\n{{\n{lines}\n}}\n"
        (root / folder / "image 1.pts").write_text(text, encoding="utf-8")
    (root / "300W/02_Outdoor").mkdir()
    for name in ("image 1.png", "image 1.pts"):
        (root / "300W/02_Outdoor" / name).write_bytes((root / "ibug" / name).read_bytes())


# Eyes of the 98: each has eight points, of which the upper and the lower lid's middle have none in the 68.
EYES_98 = {36: 60, 37: 61, 38: 63, 39: 64, 40: 65, 41: 67, 42: 68, 43: 69, 44: 71, 45: 72, 46: 73, 47: 75}


def write_wflw(root: Path, heads) -> None:
    lines = []
    for i, (image, points) in enumerate(heads):
        dense = np.full((98, 2), -1000.0)  # a wrong map is far off
        for k in range(68):
            part = 2 * k if k < 17 else k + 16 if k < 22 else k + 20 if k < 27 else k + 24 if k < 36 else k + 28
            dense[EYES_98.get(k, part)] = points[k]
        write_image(root / "WFLW_images/37--Soccer" / f"{i}.jpg", image)
        numbers = [f"{value:.4f}" for value in dense.ravel()]
        lines.append(" ".join([*numbers, "0 0 9 9", f"{i % 2} 0 0 0 0 1", f"37--Soccer/{i}.jpg"]))
    file = root / "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_test.txt"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_cofw68(root: Path, heads) -> None:
    (root / "COFW68_Data/test_annotations").mkdir(parents=True)
    savemat(root / "COFW_test_color.mat", {"IsT": cells([image for image, _ in heads])})
    for i, (_, points) in enumerate(heads, 1):
        file = root / f"COFW68_Data/test_annotations/{i}_points.mat"
        savemat(file, {"Points": points + 1, "Occ": np.zeros((68, 1))})


def write_aflw2000(root: Path, heads) -> None:
    for i, ((image, points), (yaw, pitch, roll)) in enumerate(zip(heads, np.radians(POSES), strict=True)):
        write_image(root / f"image0000{i}.jpg", image)
        points_3d = np.column_stack([points + 1, np.zeros(68)]).T
        file = root / f"image0000{i}.mat"
        savemat(file, {"pt3d_68": points_3d, "Pose_Para": np.array([[pitch, yaw, roll, 0, 0, 0, 1]])})


WRITE = {"300w": write_300w, "wflw": write_wflw, "cofw68": write_cofw68, "aflw2000": write_aflw2000}
PARTS = {
    "300w": [{"common", "full"}, {"common", "full"}, {"challenge", "full"}, {"test"}],
    "wflw": [{"full", "blur"}, {"full", "pose", "blur"}] * 2,
    "cofw68": [{"full"}] * HEADS,
    "aflw2000": [{"yaw 0-30", "pose"}, {"yaw 30-60", "pose"}, {"yaw 60-90", "pose"}, {"yaw 0-30"}],
}


@pytest.mark.parametrize("name", WRITE)
def test_each_layout_gives_back_images_points_and_parts(heads, tmp_path, name):
    WRITE[name](tmp_path, heads)
    samples = SETS[name].read(tmp_path)
    order = [0, 1, 2, 3, 2] if name == "300w" else range(HEADS)
    for sample, i in zip(samples, order, strict=True):
        np.testing.assert_array_equal(sample.read(), heads[i][0])
        np.testing.assert_allclose(sample.keypoints, heads[i][1], atol=1e-3)
        assert set(sample.subsets) == PARTS[name][3 if len(samples) > HEADS and sample is samples[-1] else i]
        if name == "aflw2000":
            np.testing.assert_allclose(sample.angles, POSES[i])


def test_cofw_images_are_read_from_a_file_of_matlab_7_3(heads, tmp_path):
    h5py = pytest.importorskip("h5py")
    write_cofw68(tmp_path, heads)
    images = [heads[0][0], heads[1][0][..., 0]]  # a grey one among them
    with h5py.File(tmp_path / "COFW_test_color.mat", "w", userblock_size=512) as file:
        references = file.create_dataset("IsT", (1, len(images)), h5py.ref_dtype)
        for i, image in enumerate(images):
            references[0, i] = file.create_dataset(f"#refs#/{i}", data=image.T).ref
    with open(tmp_path / "COFW_test_color.mat", "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    samples = SETS["cofw68"].read(tmp_path)
    for sample, image in zip(samples, images, strict=True):
        np.testing.assert_array_equal(sample.read(), image)


def test_without_h5py_a_file_of_matlab_7_3_names_it(heads, tmp_path, monkeypatch):
    write_cofw68(tmp_path, heads)
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "COFW_test_color.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\0" * 400)
    with refused("expected h5py", tmp_path):
        SETS["cofw68"].read(tmp_path)


class FiveAway:
    """A detector whose keypoints are 5 pixels off, and which finds no face in the first of the images."""

    def __init__(self, model) -> None:
        assert model == "net"

    def boxes(self, keypoints: np.ndarray) -> np.ndarray:
        return keypoints

    def keypoints(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        return boxes[None] + [3, -4]

    def __call__(self, image: np.ndarray) -> list:
        points = next(points for other, points in self.known if np.array_equal(image, other))
        return [] if points is self.known[0][1] else [SimpleNamespace(keypoints=points + 1)]


@pytest.fixture
def five_away(heads, monkeypatch):
    monkeypatch.setattr(FiveAway, "known", heads, raising=False)
    monkeypatch.setattr(standard_sets, "KeypointDetector", FiveAway)
    monkeypatch.setattr(standard_sets, "at_use", lambda model: "net")
    monkeypatch.setattr(standard_sets, "sha256", lambda model: "0")


def expected(points: list[np.ndarray]) -> dict[str, float]:
    """Errors of 5 pixels, in percent of each face's size."""
    iod = np.array([500 / np.hypot(*(face[45] - face[36])) for face in points])
    box = np.array([500 / np.sqrt((face[:, 0].max() - face[:, 0].min()) * np.ptp(face[:, 1])) for face in points])
    limits = ((8, iod), (10, iod), (7, box))
    area = {limit: np.mean([max(0, limit - error) / limit for error in errors]) for limit, errors in limits}
    failed = {limit: np.mean(errors > limit) for limit, errors in limits}
    rates = {f"AUC_{k}": 100 * v for k, v in area.items()} | {f"FR_{k}": 100 * v for k, v in failed.items()}
    return {"NME_iod": iod.mean(), "NME_box": box.mean(), **rates}


@pytest.mark.parametrize("name", WRITE)
def test_figures_are_those_of_an_independent_computation(heads, tmp_path, five_away, name):
    WRITE[name](tmp_path, heads)
    parts = measure(name, tmp_path, [Path("net")])["models"][0]["parts"]
    members: dict[str, list[int]] = {}
    for i, names in enumerate([*PARTS[name], *([{"test"}] if name == "300w" else [])]):
        for part in names:
            members.setdefault(part, []).append(2 if i == HEADS else i)
    for part, rows in members.items():
        figures = dict(parts[part])
        assert (figures.pop("n"), figures.pop("lost")) == (len(rows), rows.count(0))
        if (name, part) != ("aflw2000", "pose"):
            assert figures == pytest.approx(expected([heads[i][1] for i in rows]), abs=1e-3), part
    if name == "aflw2000":
        mean = np.mean([parts[part]["NME_box"] for part in ("yaw 0-30", "yaw 30-60", "yaw 60-90")])
        assert parts["mean of the three"] == {"NME_box": pytest.approx(mean)}


def test_errors_of_the_pose_go_the_short_way_round(heads, tmp_path, five_away, monkeypatch):
    write_aflw2000(tmp_path, heads)
    monkeypatch.setattr(standard_sets, "estimate_pose", lambda *_: SimpleNamespace(yaw=-30, pitch=8, roll=175))
    figures = measure("aflw2000", tmp_path, [Path("net")])["models"][0]["parts"]["pose"]
    off = {"yaw": (35 + 10 + 100) / 3, "pitch": (18 + 3 + 8) / 3, "roll": (172 + 175 + 165) / 3}
    assert figures == pytest.approx({"n": 3, "lost": 1, **off, "MAE": sum(off.values()) / 3})


def test_the_shipped_network_is_near_the_labels_and_stands_beside_the_published(heads, tmp_path, cli):
    write_wflw(tmp_path / "set", heads)
    done = cli("evaluate", "--set", "wflw", tmp_path / "set", "--json", tmp_path / "figures.json")
    content = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    figures = content["models"][0]["parts"]["full"]
    assert done.status == 0 and content["set"] == "wflw" and figures["n"] == HEADS and figures["NME_box"] < 8
    lines = {tuple(line.split()[:2]): line.split() for line in done.out.splitlines() if line.startswith("full")}
    ours = lines["full", content["models"][0]["weights"]]
    assert ours[2:6] == [str(HEADS), "of", "2500", f"{figures['NME_iod']:.2f}"]
    assert lines["full", "HRNetV2-W18"][2] == "4.60"
    assert f"SPIGA: {SOURCES['SPIGA']}" in done.out


def test_published_figures_have_a_source_a_column_and_a_part():
    assert set(PUBLISHED) == set(SETS)
    for name, networks in PUBLISHED.items():
        for network, figures in networks.items():
            assert SOURCES[network].startswith("https://") and set(figures) <= set(SETS[name].columns)
            assert {part for parts in figures.values() for part in parts} <= {*SETS[name].sizes, "mean of the three"}


# WIDER FACE -----------------------------------------------------------------------------------------------------------


def write_wider(root: Path, heads) -> None:
    """Two images of two heads each, side by side, and one without a face; the last head counts as hard alone."""
    pairs = [heads[:2], heads[2:]]
    boxes, names = [], ["0_Parade_1", "0_Parade_2", "0_Parade_3"]
    for name, pair in zip(names, pairs, strict=False):
        height = max(image.shape[0] for image, _ in pair)
        padded = [np.pad(image, ((0, height - len(image)), (0, 0), (0, 0))) for image, _ in pair]
        write_image(root / "WIDER_val/images/0--Parade" / f"{name}.jpg", np.concatenate(padded, axis=1))
        shifts = [np.zeros(2), np.array([pair[0][0].shape[1], 0])]
        faces = [points + shift for (_, points), shift in zip(pair, shifts, strict=True)]
        lows, highs = (np.array([f(face, axis=0) for face in faces]) for f in (np.min, np.max))
        lows[:, 1] -= 0.33 * (highs - lows)[:, 1]  # drawn boxes begin at the hairline
        boxes.append(np.column_stack([lows, highs - lows]).round())
    write_image(root / "WIDER_val/images/0--Parade/0_Parade_3.jpg", np.zeros((90, 90, 3), np.uint8))
    boxes.append(np.zeros((0, 4)))
    none = np.zeros((0, 0), np.uint8)
    for difficulty in ("easy", "medium", "hard"):
        last = np.array([[1], [2]] if difficulty == "hard" else [[1]], np.uint8)
        content = {
            "event_list": cells(["0--Parade"]),
            "file_list": cells([cells(names)]),
            "face_bbx_list": cells([cells(boxes)]),
            "gt_list": cells([cells([np.array([[1], [2]], np.uint8), last, none])]),
        }
        file = root / f"eval_tools/ground_truth/wider_{difficulty}_val.mat"
        file.parent.mkdir(parents=True, exist_ok=True)
        savemat(file, content)


def test_wider_measures_the_detector_by_difficulty(heads, tmp_path, cli):
    write_wider(tmp_path, heads)
    done = cli("evaluate", "--set", "wider", tmp_path, "--json", tmp_path / "figures.json")
    parts = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["models"][0]["parts"]
    assert done.status == 0 and [parts[name]["faces"] for name in ("easy", "medium", "hard")] == [3, 3, 4]
    assert all(part["n"] == 3 and part["AP"] > 99 for part in parts.values()), parts
    assert "YuNet_n" in done.out and "3 of 3226" in done.out


def test_average_precision_by_hand():
    faces = np.array([[0.0, 0, 20, 20], [50, 0, 20, 20]])
    away = np.array([[200.0, 200, 20, 20]])
    # The first is right, the second false, the third right: precision 1 up to half the recall, then 2 of 3.
    detected = [(np.array([0.9, 0.5, 0.1]), np.concatenate([faces[:1], away, faces[1:]]), faces)]
    assert average_precision(detected, [np.array([True, True])]) == pytest.approx(100 * (0.5 + 0.5 * 2 / 3))
    # A double of the first is false, too, and a face in another image is missed: 1 of 1, then 2 of 4, of 3 faces.
    double = [np.array([0.9, 0.7, 0.5, 0.1]), np.concatenate([faces[[0, 0]], away, faces[1:]]), faces]
    lost = np.zeros(0), np.zeros((0, 4)), faces[:1]
    counted = [np.array([True, True]), np.array([True])]
    assert average_precision([double, lost], counted) == pytest.approx(100 * (1 + 2 / 4) / 3)
    # A face that does not count is neither right nor false.
    assert average_precision(detected, [np.array([True, False])]) == pytest.approx(100)


# Layouts that are none ------------------------------------------------------------------------------------------------

BROKEN = {
    "no such set": ("lfw", lambda root: None, "got the set 'lfw', expected one of 300w, "),
    "no folder": ("300w", lambda root: root.rename(root.with_name("away")), "got no folder, expected that of the set"),
    "empty": ("300w", lambda root: None, "got none of these folders, expected lfpw/testset, "),
    "half a set": ("300w", lambda root: (root / "ibug").mkdir(), "got no .pts files, expected one beside each image"),
    "no list": ("wflw", lambda root: None, "got 0 files or folders named list_98pt_rect_attr_test.txt"),
    "no .mat": ("aflw2000", lambda root: None, "got no .mat files"),
    "no lists": ("wider", lambda root: None, "got 0 files or folders named wider_easy_val.mat"),
}


@pytest.mark.parametrize("bad", BROKEN)
def test_another_layout_is_refused_in_one_sentence(refusal, tmp_path, bad):
    name, break_it, sentence = BROKEN[bad]
    (tmp_path / "set").mkdir()
    break_it(tmp_path / "set")
    assert sentence in refusal("evaluate", "--set", name, tmp_path / "set")


@pytest.mark.parametrize("given", [("300w", "--csv"), ("wflw", "--wild"), ("wider", "--model")])
def test_options_that_a_set_has_no_use_for_are_refused(refusal, tmp_path, given):
    name, option = given
    sentence = refusal("evaluate", "--set", name, tmp_path, option, tmp_path)
    assert sentence == f"got {option} with --set {name}, expected none of these"


def change(file: str, old: str, new: str):
    def write(root: Path) -> None:
        path = root / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return write


LIST = "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_test.txt"
DAMAGED = {
    "points missing": ("300w", change("ibug/image 1.pts", "{", "{ 1 2 }\n{"), "got no list of 68 points"),
    "no number": ("300w", change("ibug/image 1.pts", "}", "x y }"), "got no list of 68 points"),
    "no image": ("300w", lambda root: (root / "ibug/image 1.png").unlink(), "got no image beside it"),
    "a field less": ("wflw", change(LIST, " 37--Soccer", ""), "got 206 fields in line 1, expected 98 points"),
    "an image less": ("wflw", lambda root: (root / "WFLW_images/37--Soccer/0.jpg").unlink(), "images are missing"),
    "no variable": ("cofw68", lambda root: savemat(root / "COFW_test_color.mat", {"x": 1}), "got no variable IsT"),
    "no MATLAB": ("cofw68", lambda root: (root / "COFW_test_color.mat").write_text("<html>"), "got no MATLAB file"),
    "shape": (
        "aflw2000",
        lambda root: savemat(root / "image00000.mat", {"pt3d_68": np.zeros((3, 21)), "Pose_Para": np.zeros((1, 7))}),
        "got pt3d_68 of shape (3, 21)",
    ),
    "flat": (
        "cofw68",
        lambda root: savemat(root / "COFW68_Data/test_annotations/1_points.mat", {"Points": np.ones((68, 2))}),
        "both outer eye corners in one place",
    ),
}


@pytest.mark.parametrize("bad", DAMAGED)
def test_damage_is_told_in_one_sentence_that_names_the_file(refusal, heads, tmp_path, bad):
    name, damage, sentence = DAMAGED[bad]
    WRITE[name](tmp_path / "set" if name != "aflw2000" else tmp_path / "set" / "AFLW2000", heads)
    root = tmp_path / "set"
    damage(root / "AFLW2000" if name == "aflw2000" else root)
    text = refusal("evaluate", "--set", name, root)
    assert sentence in text and text.startswith(str(root))
