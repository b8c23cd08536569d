"""Label files in other layouts, with points that are none of a face's, or with points missing."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT, csv_header, face_points, write_labels, write_set

from data_load import FacialKeypointsDataset, find_data, read_keypoints, training_transform, with_all_points
from keypoints.labels import LabelWarning
from keypoints.landmarks import complete_keypoints
from models import Net
from training import metrics
from training.__main__ import main
from training.augmentation import FaceCrops, photo_transform
from training.evaluation import evaluate
from training.framing import framing_dict, measure_framing
from training.recipe import Recipe, fit, known_loss

FACES = np.stack([face_points(60 + i, 55 - i, 30) for i in range(6)])
NAMES = [f"P{i // 2}_{i:02d}.jpg" for i in range(6)]


def text_of(points, header, names=NAMES):
    rows = [",".join([name, *(f"{v:.2f}" for v in face.ravel())]) for name, face in zip(names, points, strict=True)]
    return "\n".join([*([header] if header else []), *rows]) + "\n"


def header(label, name="name"):
    return ",".join([name, *(label(i, axis) for i in range(68) for axis in "xy")])


@pytest.fixture
def folder(tmp_path):
    """Six images of 140 × 120 pixels with a face each."""
    images = np.random.default_rng(0).integers(0, 256, (6, 120, 140, 3), dtype=np.uint8)
    write_set(tmp_path, "training", NAMES, list(images), FACES)
    return tmp_path


def place(folder, points=FACES):
    write_labels(folder / "labels.csv", NAMES, points)
    return folder / "labels.csv", folder / "training"


def refusal(file, images=None, **how):
    with pytest.raises(ValueError) as caught:
        read_keypoints(file, images, **how)
    sentence = str(caught.value)
    assert sentence.startswith(f"{file}: ") and "\n" not in sentence and "expected" in sentence
    return sentence


# The header -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        csv_header(),
        "image" + csv_header(),
        "name," + ",".join(map(str, range(1, 137))),
        header(lambda i, axis: f"{axis}{i}"),
        header(lambda i, axis: f"{axis}_{i + 1}"),
        header(lambda i, axis: f" {axis.upper()}[{i}]"),
        header(lambda i, axis: f"landmark_{i}_{axis}"),
        header(lambda i, axis: f"landmark{axis.upper()}{i}"),
        header(lambda i, axis: axis),
        header(lambda i, axis: f"{axis}.{i}" if i else axis),
        header(lambda i, axis: f'"{axis}{i}"', '""'),
        ",".join(f"V{i}" for i in range(1, 138)),
    ],
)
def test_headers_that_tell_the_official_order_are_accepted(tmp_path, line):
    (tmp_path / "labels.csv").write_text("\ufeff" + text_of(FACES, line), encoding="utf-8")
    names, keypoints = read_keypoints(tmp_path / "labels.csv")
    assert names == NAMES
    np.testing.assert_allclose(keypoints, FACES, atol=0.01)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ([f"{axis}_{i}" for axis in "xy" for i in range(68)], "a header with all x before all y, as OpenFace's"),
        ([f"{axis}{i}" for i in range(68) for axis in "yx"], "a header with y before x"),
        ([f"{axis}{i}" for i in reversed(range(68)) for axis in "xy"], "a header with the points in another order"),
        ([str(i) for i in (*range(0, 136, 2), *range(1, 136, 2))], "a header with columns in another order"),
        ([f"c{chr(97 + i // 12)}{chr(97 + i % 12)}" for i in range(136)], "names of columns that do not tell x from y"),
        ([f"x{i}" for i in range(136)], "x and y in another order"),
        (["x0", "y0"], "a header of 3 columns over rows of 137"),
    ],
)
def test_a_header_that_contradicts_the_order_is_refused(tmp_path, columns, told):
    (tmp_path / "labels.csv").write_text(text_of(FACES, ",".join(["name", *columns])))
    assert told in refusal(tmp_path / "labels.csv")


@pytest.mark.parametrize("ending", ["jpg", "bmp", "webp", ""])
def test_a_first_line_of_coordinates_is_a_row(tmp_path, ending):
    names = [f"{i}.{ending}" for i in range(6)]
    (tmp_path / "labels.csv").write_text("\n\n" + text_of(FACES, None, names))
    assert read_keypoints(tmp_path / "labels.csv")[0] == names


def test_blank_lines_before_the_header_make_no_face_of_it(tmp_path):
    (tmp_path / "labels.csv").write_text("\n\r\n" + text_of(FACES, csv_header()))
    assert read_keypoints(tmp_path / "labels.csv")[0] == NAMES


# Other layouts --------------------------------------------------------------------------------------------------------

OFFICIAL = text_of(FACES, csv_header())
KAGGLE = (
    "left_eye_center_x,left_eye_center_y," + ",".join(f"p{i}" for i in range(28)) + ",Image\n" + "1.5," * 30 + "0 1"
)
OPENFACE = "frame, face_id, timestamp, confidence, success, " + ", ".join(f"{a}_{i}" for a in "xy" for i in range(68))
LAYOUTS = {
    "semicolons": (OFFICIAL.replace(",", ";"), "columns separated by semicolons"),
    "decimal commas": (OFFICIAL.replace(",", ";").replace(".", ","), "columns separated by semicolons"),
    "no header": (text_of(FACES, None).replace(",", ";").replace(".", ","), "columns separated by semicolons"),
    "tabs": (OFFICIAL.replace(",", "\t"), "columns separated by tabs"),
    "spaces": (text_of(FACES, None).replace(",", " "), "columns separated by spaces"),
    "pts": ("version: 1\nn_points: 68\n{\n1.5 2.5\n}\n", "a menpo .pts file of one face"),
    "bare pts": ("1.5 2.5\n" * 68, "two numbers a line without names"),
    "WFLW": (" ".join(["1.5"] * 196 + ["10", "10", "90", "90"] + ["0"] * 6 + ["a/b.jpg"]), "98 points, as in WFLW's"),
    "WFLW as CSV": ("a.jpg," + ",".join(["1.5"] * 196) + "\n", "got 197 columns, as of the 98 points of WFLW"),
    "Kaggle": (KAGGLE, "the 15 points of Kaggle's training.csv"),
    "OpenFace": (OPENFACE + "\n" + "1, " * 140 + "1\n", "OpenFace's columns"),
    "ours": ("file,face,left,top,width,height,x0,y0\na.jpg,0,1,2,3,4,5,6\n", "what the commands detect and track"),
    "numbered": ("\n".join(f"{i},{row}" for i, row in enumerate(OFFICIAL.splitlines()[1:])), "with a number in front"),
    "nameless": ("\n".join(row.split(",", 1)[1] for row in OFFICIAL.splitlines()[1:]), "136 columns, without the name"),
    "JSON": ('[{"file": "a.jpg"}]', "a JSON file"),
    "XML": ("<?xml version='1.0'?><dataset/>", "an XML or HTML file"),
    "LFS": ("version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    "depth": ("a.jpg," + ",".join(["1.5"] * 204) + "\n", "68 points with x, y and z"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_layout_is_named(tmp_path, layout):
    text, told = LAYOUTS[layout]
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    assert told in refusal(tmp_path / "labels.csv")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf_16_is_named(tmp_path, encoding):
    (tmp_path / "labels.csv").write_text(OFFICIAL, encoding=encoding)
    assert "got text in UTF-16" in refusal(tmp_path / "labels.csv")


def test_a_row_without_a_name_is_refused(tmp_path):
    (tmp_path / "labels.csv").write_text(OFFICIAL.replace(NAMES[2], ""))
    assert "got no name in row 3" in refusal(tmp_path / "labels.csv")


# Points that are no face's --------------------------------------------------------------------------------------------

SIZE = np.array([140, 120])
MISREAD = {
    "y before x": (FACES[..., ::-1], "looks like y before x"),
    "all x before all y": (FACES.transpose(0, 2, 1).reshape(6, 68, 2), "looks like all x before all y"),
    "fractions": (FACES / SIZE, "looks like coordinates from 0 to 1"),
    "signed fractions": (2 * FACES / SIZE - 1, "looks like coordinates from -1 to 1"),
    "y from the bottom": ([0, 119] + FACES * [1, -1], "looks like y counted from the bottom"),
    "upside down": ([139, 119] - FACES, "a face upside down"),
    "mirrored": ([139, 0] + FACES * [-1, 1], "a mirrored face"),
    "other points": (FACES[:, ::-1], "points that are not a face's in the order of the scheme"),
    "few pixels": (FACES * 0.05 + 50, "a face of 2.9 pixels"),
    "elsewhere": (FACES + np.array([100, 0]), "pixels outside its image of 140×120"),
    "of a larger image": (4 * FACES, "pixels outside its image of 140×120"),
}


@pytest.mark.parametrize("how", MISREAD)
def test_points_that_cannot_be_a_face_are_refused_or_left_out(folder, how):
    points, told = MISREAD[how]
    assert told in refusal(*place(folder, points), bad_labels="skip")  # no row is left
    mixed = FACES.copy()
    mixed[[2, 4]] = points[[2, 4]]
    file, images = place(folder, mixed)
    sentence = refusal(file, images)
    assert told in sentence and f"in row 3 ({NAMES[2]!r}; 2 such rows of 6)" in sentence and "--bad-labels" in sentence
    with pytest.warns(LabelWarning, match="left out 2 rows"):
        faces = FacialKeypointsDataset(file, images, bad_labels="skip")
    kept = [0, 1, 3, 5]
    assert faces.names == [NAMES[i] for i in kept]
    np.testing.assert_allclose(faces.keypoints, FACES[kept], atol=1e-3)


def test_one_point_outside_is_named(folder):
    points = FACES.copy()
    points[3, 20] = 200, 50
    file, images = place(folder, points)
    told = f"got point 20 at (200, 50), 61 pixels outside its image of 140×120 in row 4 ({NAMES[3]!r}; 1 such"
    assert told in refusal(file, images)
    for dataset in (FacialKeypointsDataset, FaceCrops):
        with pytest.raises(ValueError, match="got point 20 at"):
            dataset(file, images)


def test_a_face_cut_by_the_border_is_a_face(folder):
    read_keypoints(*place(folder, FACES - [FACES[0, :, 0].min() + 6, 0]))


@pytest.mark.parametrize("split", ["training", "test"])
def test_every_face_of_the_sample_is_accepted(split):
    data = find_data("sample")
    assert len(read_keypoints(data.csv_file(split), data.image_dir(split))[0]) in (600, 150)


# Missing points -------------------------------------------------------------------------------------------------------


def with_missing(folder, mark):
    """Labels in which points 5 and 40 of the second face are marked as missing."""
    lines = OFFICIAL.splitlines()
    fields = lines[2].split(",")
    for point in (5, 40):
        fields[1 + 2 * point : 3 + 2 * point] = [mark, mark]
    (folder / "labels.csv").write_text("\n".join([*lines[:2], ",".join(fields), *lines[3:]]) + "\n")
    return folder / "labels.csv"


@pytest.mark.parametrize("mark", ["", "NaN", "nan", "NA", "-1", "-1.0", "0", "-999", "null"])
def test_missing_points_are_refused_or_masked(folder, mark):
    file = with_missing(folder, mark)
    told = refusal(file)
    assert f"of point 5 in row 2 ({NAMES[1]!r}; 1 such rows)" in told and "--missing mask" in told
    _, keypoints = read_keypoints(file, folder / "training", missing="mask")
    assert np.argwhere(np.isnan(keypoints).all(axis=2)).tolist() == [[1, 5], [1, 40]]
    known = ~np.isnan(keypoints)
    np.testing.assert_allclose(keypoints[known], FACES[known], atol=0.01)


def test_a_row_that_ends_early_is_not_masked(folder):
    (folder / "labels.csv").write_text(OFFICIAL.rsplit(",", 3)[0] + "\n")
    assert "got 134 columns in row 6" in refusal(folder / "labels.csv", missing="mask")


def test_a_face_without_points_has_none_to_go_by(folder):
    points = FACES.copy()
    points[2, 5:] = -1
    told = refusal(*place(folder, points), missing="mask")
    assert "got a face with 5 known points in row 3" in told


def test_estimates_of_missing_points_keep_the_faces_size():
    face = FACES[0].astype(np.float64)
    cut = face.copy()
    cut[:9] = np.nan  # half of the jaw
    assert complete_keypoints(face) is face
    np.testing.assert_array_equal(complete_keypoints(cut)[9:], face[9:])
    assert metrics.face_size(cut) == pytest.approx(metrics.face_size(face), rel=0.15)


def test_missing_points_count_in_no_error():
    true, predicted = FACES.astype(np.float64), FACES + 3.0
    true[1, [5, 40]] = np.nan
    predicted[1, [5, 40]] += 1000
    whole = metrics.summary(FACES + 3.0, FACES)
    figures = metrics.summary(predicted, true, people=list("aabbcc"))
    assert figures["nme_box"] == pytest.approx(whole["nme_box"], rel=1e-3)
    assert figures["nme_box_parts"]["eyes"] == pytest.approx(whole["nme_box_parts"]["eyes"], rel=1e-3)
    true[:, 36:48] = np.nan
    assert metrics.summary(predicted, true)["nme_box_parts"]["eyes"] is None


def test_the_loss_is_over_known_points():
    criterion, true = torch.nn.SmoothL1Loss(beta=0.05), torch.tensor([[0.0, 1.0, float("nan"), float("nan")]])
    guesses = torch.tensor([[0.0, 2.0, 9.0, 9.0]], requires_grad=True)
    loss = known_loss(criterion, guesses, true)
    loss.backward()
    assert loss.item() == pytest.approx((1 - 0.025) / 2)
    assert guesses.grad[0, 2:].tolist() == [0, 0]
    assert known_loss(criterion, guesses, torch.full_like(true, float("nan"))).item() == 0


def test_masked_points_pass_through_training_and_evaluation(folder):
    file, images = with_missing(folder, "-1"), folder / "training"
    crops = FaceCrops(file, images, transform=photo_transform(), missing="mask")
    torch.manual_seed(0)
    assert sum(int(torch.isnan(crops[1]["keypoints"]).sum()) for _ in range(3)) == 12
    net, faces = Net(), FacialKeypointsDataset(file, images, training_transform(), missing="mask")
    record = fit(net, faces, faces, Recipe(epochs=1, batch_size=3))
    assert np.isfinite([record["history"][0][key] for key in ("training_loss", "validation_loss", "nme_box")]).all()
    assert all(torch.isfinite(part).all() for part in net.parameters())
    samples = FacialKeypointsDataset(file, images, with_all_points, missing="mask")
    whole = measure_framing(samples, lambda image: np.array([[25, 20, 80, 80]]))
    assert np.isfinite(list(framing_dict(whole).values())).all()
    net.framing = framing_dict(whole)
    for framing in ("centre", "box"):
        figures = evaluate(net, file, images, framing, missing="mask").figures
        assert figures["found"] == 6 and np.isfinite(figures["nme_box"])


# The command line -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train", "train --network PhotoNet", "evaluate", "failures"])
def test_commands_refuse_labels_and_missing_images_before_they_start(folder, capsys, command):
    file, images = place(folder, FACES[..., ::-1])
    own = [*command.split(), "--csv", str(file), "--images", str(images)]
    own += ["--json" if command == "evaluate" else "--out", str(folder / "out.x")]
    assert main(own) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"training {command.split()[0]}: {file}: got ") and "looks like y before x" in line
    place(folder)
    (images / NAMES[4]).unlink()
    assert main(own) == 2
    assert f"labelled images are missing: 1 ({NAMES[4]})" in capsys.readouterr().err
    assert not (folder / "out.x").exists()


def test_left_out_rows_are_counted_on_the_command_line(folder, capsys):
    points = FACES.copy()
    points[1, 5] = -1
    points[2] = points[2, :, ::-1]
    file, images = place(folder, points)
    own = [
        "evaluate",
        "--csv",
        str(file),
        "--images",
        str(images),
        "--framing",
        "box",
        "--json",
        str(folder / "o.json"),
    ]
    assert main(own) == 2
    assert main([*own, "--missing", "mask"]) == 2
    capsys.readouterr()
    assert main([*own, "--missing", "mask", "--bad-labels", "skip"]) == 0
    told = capsys.readouterr().err
    assert told.count("left out 1 rows: got ") == 1 and f"row 3 ({NAMES[2]!r}" in told
    assert json.loads((folder / "o.json").read_text())["models"][0]["test"]["box"]["n"] == 5


# A notebook alone -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_notebook_without_its_folder_says_what_to_do(tmp_path, number):
    [path] = ROOT.glob(f"{number}_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    (tmp_path / "cell.py").write_text("".join(next(cell for cell in cells if cell["cell_type"] == "code")["source"]))
    done = subprocess.run([sys.executable, "cell.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert (
        last.startswith("ModuleNotFoundError: this notebook needs the folder it comes from") and "pip install" in last
    )
