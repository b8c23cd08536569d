"""Label files: the official layout is read, other layouts and keypoints that are no face's are refused by name."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT, csv_header, face_points, refused, write_labels, write_set

from data_load import FacialKeypointsDataset, read_keypoints, training_transform, with_all_points
from keypoints.labels import LabelWarning
from keypoints.landmarks import complete_keypoints
from models import CoarseToFine
from training import metrics
from training.evaluation import evaluate
from training.framing import framing_dict, measure_framing
from training.recipe import Recipe, fit, known_loss

FACES = np.stack([face_points(60 + i, 55 - i, 30) for i in range(6)])
NAMES = [f"P{i // 2}_{i:02d}.jpg" for i in range(6)]
ROW = ",".join(["1.5"] * 136)


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


@pytest.fixture
def labels(tmp_path):
    """Write a label file; return its path."""

    def write(content: str | bytes | np.ndarray):
        path = tmp_path / "labels.csv"
        if isinstance(content, np.ndarray):
            write_labels(path, NAMES, content)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def refuse(sentence: str, file, images=None, **how) -> str:
    """The error of reading labels: it names the file, holds the sentence, and says what was expected."""
    with refused("expected", f"{file}: ") as caught:
        read_keypoints(file, images, **how)
    assert sentence in str(caught.value)
    return str(caught.value)


# The table ------------------------------------------------------------------------------------------------------------


def test_labels_are_names_and_keypoints(labels):
    names, keypoints = read_keypoints(labels(text_of(FACES[:2], csv_header(), ["0012", "NA"])))
    assert names == ["0012", "NA"] and keypoints.dtype == np.float32  # names are text, whatever they look like
    np.testing.assert_allclose(keypoints, FACES[:2], atol=0.01)


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
        None,
    ],
)
@pytest.mark.parametrize("before", ["\ufeff", "\n\r\n"])
def test_header_of_the_official_order_or_none_is_accepted(labels, line, before):
    names, keypoints = read_keypoints(labels(before + text_of(FACES, line)))
    assert names == NAMES
    np.testing.assert_allclose(keypoints, FACES, atol=0.01)


@pytest.mark.parametrize("ending", ["jpg", "bmp", "webp", ""])
def test_first_line_of_coordinates_is_a_row(labels, ending):
    names = [f"{i}.{ending}" for i in range(6)]
    assert read_keypoints(labels("\n\n" + text_of(FACES, None, names)))[0] == names


@pytest.mark.parametrize(
    "columns",
    [
        [f"{axis}_{i}" for axis in "xy" for i in range(68)],
        [f"{axis}{i}" for i in range(68) for axis in "yx"],
        [f"{axis}{i}" for i in reversed(range(68)) for axis in "xy"],
        [str(i) for i in (*range(0, 136, 2), *range(1, 136, 2))],
        [f"c{chr(97 + i // 12)}{chr(97 + i % 12)}" for i in range(136)],
        [f"x{i}" for i in range(136)],
    ],
)
def test_header_of_another_order_is_refused(labels, columns):
    refuse("a header with the columns in another order ('name, ", labels(text_of(FACES, ",".join(["name", *columns]))))


def test_header_of_another_length_or_with_the_name_last_is_refused(labels):
    name_last = header(lambda i, axis: f"{axis}{i}").removeprefix("name,") + ",name"
    refuse("a header with the columns in another order ('x0, y0, ", labels(text_of(FACES, name_last)))
    refuse("a header of 3 columns over rows of 137", labels(text_of(FACES, "name,x0,y0")))


OFFICIAL = text_of(FACES, csv_header())
HEAD = csv_header() + "\n"
ROWS = OFFICIAL.splitlines()[1:]
LAYOUTS = {
    "empty": ("", "got no rows, expected one for each image"),
    "a header alone": (HEAD, "got no rows, expected one for each image"),
    "a column too many": (f",0,1\na.jpg,{ROW},7\n", "got 138 columns ('"),
    "a column too many under a header": (f"{HEAD}a.jpg,{ROW},7\n", "got 138 columns ('"),
    "three columns": ("a,b,c\na.jpg,1,2\n", "got 3 columns ('a, b, c' …), expected a CSV file in UTF-8"),
    "a longer row": (f"{HEAD}a.jpg,{ROW}\nb.jpg,{ROW},7\n", "expected a CSV file of keypoints, got: "),
    "a shorter row": (f"{HEAD}a.jpg,{ROW}\nb.jpg,1,2\n", "got 3 columns in row 2 ('b.jpg'), expected 137 in each"),
    "not a number": (f"{HEAD}a.jpg,nan{ROW[3:]}\n", "got no coordinates (nan, 1.5) of point 0 in row 1 ('a.jpg'"),
    "infinite": (f"{HEAD}a.jpg,inf{ROW[3:]}\n", "got 'inf' as x of point 0 in row 1 ('a.jpg'; 1 such rows)"),
    "a word": (f"{HEAD}a.jpg,here{ROW[3:]}\n", "got 'here' as x of point 0 in row 1 ('a.jpg'; 1 such rows)"),
    "a blank": (f"{HEAD}a.jpg,{ROW[3:]}\n", "got no coordinates (, 1.5) of point 0 in row 1 ('a.jpg'"),
    "a long name": (f"{HEAD}{'a' * 5000},nan{ROW[3:]}\n", "got no coordinates"),
    "no name": (OFFICIAL.replace(NAMES[2], ""), "got no name in row 3"),
    "a picture": (b"\x89PNG\xff\xfe\x00\n" * 50, ""),
    "a row of a million columns": (f"{HEAD}{',' * 1_000_000}\n", "got a row of more than 1,000 columns"),
    "the same with \\r": (f"{csv_header()}\r{',' * 1_000_000}\r", "got a row of more than 1,000 columns"),
    "semicolons": (OFFICIAL.replace(",", ";"), "got 1 columns (';0;1;2"),
    "decimal commas": (OFFICIAL.replace(",", ";").replace(".", ","), "expected a CSV file of keypoints, got: "),
    "tabs": (OFFICIAL.replace(",", "\t"), "got 1 columns"),
    "spaces": (text_of(FACES, None).replace(",", " "), f"got 1 columns ('{NAMES[0]} "),
    "pts": ("version: 1\nn_points: 68\n{\n1.5 2.5\n}\n", "got 1 columns ('version: 1'"),
    "WFLW": ("a.jpg," + ",".join(["1.5"] * 196) + "\n", "got 197 columns"),
    "Kaggle": ("left_eye_center_x,left_eye_center_y,Image\n1.5,1.5,0 1", "got 3 columns ('left_eye_center_x, left"),
    "ours": ("file,face,left,top,width,height,x0,y0\na.jpg,0,1,2,3,4,5,6\n", "got 8 columns ('file, face, left"),
    "numbered": ("\n".join(f"{i},{row}" for i, row in enumerate(ROWS)), "got 138 columns ('0, P0"),
    "nameless": ("\n".join(row.split(",", 1)[1] for row in ROWS), "got 136 columns"),
    "a long line": ("[" * 200_000, "got 1 columns"),
    "XML": ("<?xml version='1.0'?><dataset/>", 'got 1 columns ("<?xml'),
} | {code: (OFFICIAL.encode(code), "got UTF-16 or no text") for code in ("utf-16", "utf-16-le", "utf-16-be", "utf-32")}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_layout_is_refused_with_its_beginning(labels, layout):
    content, sentence = LAYOUTS[layout]
    assert len(refuse(sentence, labels(content))) < 700


def test_lines_may_end_in_carriage_returns(labels):
    assert len(read_keypoints(labels("\r".join([csv_header(), *[f"a.jpg,{ROW}"] * 20])))[0]) == 20


@pytest.mark.parametrize("ending", ["zip", "gz", "bz2", "xz", "zst", "tar", "tar.gz"])
def test_file_is_text_whatever_its_ending(tmp_path, ending):
    path = tmp_path / f"labels.{ending}"
    path.write_text(f"{HEAD}a.jpg,{ROW}\n")
    assert read_keypoints(path)[0] == ["a.jpg"]
    path.write_bytes(gzip.compress(path.read_bytes()))  # archives can hold gigabytes
    refuse("got UTF-16 or no text", path)


# Keypoints that are no face's -----------------------------------------------------------------------------------------

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
    "one place": (FACES * 0 + 5, "a face of 0 pixels"),
    "elsewhere": (FACES + np.array([100, 0]), "pixels outside its image of 140×120"),
    "of a larger image": (4 * FACES, "pixels outside its image of 140×120"),
}


@pytest.mark.parametrize("how", MISREAD)
def test_keypoints_that_are_no_face_are_refused_or_skipped(folder, labels, how):
    points, sentence = MISREAD[how]
    images, mixed = folder / "training", FACES.copy()
    refuse(sentence, labels(points), images, bad_labels="skip")  # no row is left
    mixed[[2, 4]] = points[[2, 4]]
    error = refuse(sentence, labels(mixed), images)
    assert f"in row 3 ({NAMES[2]!r}; 2 such rows of 6)" in error and "--bad-labels" in error
    with pytest.warns(LabelWarning, match="left out 2 rows"):
        faces = FacialKeypointsDataset(folder / "labels.csv", images, bad_labels="skip")
    kept = [0, 1, 3, 5]
    assert faces.names == [NAMES[i] for i in kept]
    np.testing.assert_allclose(faces.keypoints, FACES[kept], atol=1e-3)


def test_one_keypoint_outside_is_named(folder, labels):
    points = FACES.copy()
    points[3, 20] = 200, 50
    sentence = rf"got point 20 at \(200, 50\), 61 pixels outside its image of 140×120 in row 4 \({NAMES[3]!r}; 1 such"
    for read in (read_keypoints, FacialKeypointsDataset):
        with refused(sentence):
            read(labels(points), folder / "training")


def test_face_cut_by_the_border_is_accepted(folder, labels):
    read_keypoints(labels(FACES - [FACES[0, :, 0].min() + 6, 0]), folder / "training")


# Missing keypoints ----------------------------------------------------------------------------------------------------


def with_missing(mark: str) -> str:
    """Labels in which points 5 and 40 of the second face are marked as missing."""
    lines = OFFICIAL.splitlines()
    fields = lines[2].split(",")
    for point in (5, 40):
        fields[1 + 2 * point : 3 + 2 * point] = [mark, mark]
    return "\n".join([*lines[:2], ",".join(fields), *lines[3:]]) + "\n"


@pytest.mark.parametrize("mark", ["", "NaN", "nan", "NA", "-1", "-1.0", "0", "-999", "null"])
def test_missing_keypoints_are_refused_or_masked(folder, labels, mark):
    file = labels(with_missing(mark))
    assert "--missing mask" in refuse(f"of point 5 in row 2 ({NAMES[1]!r}; 1 such rows)", file)
    _, keypoints = read_keypoints(file, folder / "training", missing="mask")
    assert np.argwhere(np.isnan(keypoints).all(axis=2)).tolist() == [[1, 5], [1, 40]]
    known = ~np.isnan(keypoints)
    np.testing.assert_allclose(keypoints[known], FACES[known], atol=0.01)


def test_short_row_and_face_with_few_keypoints_are_not_masked(folder, labels):
    refuse("got 134 columns in row 6", labels(OFFICIAL.rsplit(",", 3)[0] + "\n"), missing="mask")
    points = FACES.copy()
    points[2, 5:] = -1
    refuse("got a face with 5 known points in row 3", labels(points), folder / "training", missing="mask")


def test_completed_keypoints_keep_the_size_of_the_face():
    face = FACES[0].astype(np.float64)
    cut = face.copy()
    cut[:9] = np.nan  # half of the jaw
    assert complete_keypoints(face) is face
    np.testing.assert_array_equal(complete_keypoints(cut)[9:], face[9:])
    assert metrics.face_size(cut) == pytest.approx(metrics.face_size(face), rel=0.15)


def test_missing_keypoints_do_not_count_in_the_error():
    true, predicted = FACES.astype(np.float64), FACES + 3.0
    true[1, [5, 40]] = np.nan
    predicted[1, [5, 40]] += 1000
    whole = metrics.summary(FACES + 3.0, FACES)
    figures = metrics.summary(predicted, true, people=list("aabbcc"))
    assert figures["nme_box"] == pytest.approx(whole["nme_box"], rel=1e-3)
    assert figures["nme_box_parts"]["eyes"] == pytest.approx(whole["nme_box_parts"]["eyes"], rel=1e-3)
    true[:, 36:48] = np.nan
    assert metrics.summary(predicted, true)["nme_box_parts"]["eyes"] is None


def test_missing_keypoints_do_not_count_in_the_loss():
    criterion, true = torch.nn.SmoothL1Loss(beta=0.05), torch.tensor([[0.0, 1.0, float("nan"), float("nan")]])
    predicted = torch.tensor([[0.0, 2.0, 9.0, 9.0]], requires_grad=True)
    loss = known_loss(criterion, predicted, true)
    loss.backward()
    assert loss.item() == pytest.approx((1 - 0.025) / 2) and predicted.grad[0, 2:].tolist() == [0, 0]
    assert known_loss(criterion, predicted, torch.full_like(true, float("nan"))).item() == 0


def test_masked_keypoints_pass_through_training_and_evaluation(folder, labels):
    file, images = labels(with_missing("-1")), folder / "training"
    torch.manual_seed(0)
    net, faces = CoarseToFine(), FacialKeypointsDataset(file, images, training_transform(), missing="mask")
    record = fit(net, faces, faces, Recipe(epochs=1, batch_size=3))
    assert np.isfinite([record["history"][0][key] for key in ("training_loss", "validation_loss", "nme_box")]).all()
    assert all(torch.isfinite(part).all() for part in net.parameters())
    samples = FacialKeypointsDataset(file, images, with_all_points, missing="mask")
    framing = measure_framing(samples, lambda image: np.array([[25, 20, 80, 80]]))
    net.framing = framing_dict(framing)
    assert np.isfinite(list(net.framing.values())).all()
    for framing in ("centre", "box"):
        figures = evaluate(net, file, images, framing, missing="mask").figures
        assert figures["found"] == 6 and np.isfinite(figures["nme_box"])


# The command line -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train", "evaluate", "failures"])
def test_commands_check_labels_and_images_before_they_start(folder, labels, refusal, command):
    file, images, out = labels(FACES[..., ::-1]), folder / "training", folder / "out.x"
    own = [command, "--csv", file, "--images", images, "--json" if command == "evaluate" else "--out", out]
    sentence = refusal(*own)
    assert sentence.startswith(f"{file}: got ") and "looks like y before x" in sentence
    labels(FACES)
    (images / NAMES[4]).unlink()
    assert f"labelled images are missing: 1 ({NAMES[4]})" in refusal(*own) and not out.exists()


def test_command_line_counts_skipped_rows(folder, labels, cli, refusal):
    points = FACES.copy()
    points[1, 5] = -1
    points[2] = points[2, :, ::-1]
    own = ["evaluate --framing box --csv", labels(points), "--images", folder / "training", "--json", folder / "o.json"]
    assert "of point 5 in row 2" in refusal(*own) and "in row 3" in refusal(*own, "--missing", "mask")
    done = cli(*own, "--missing", "mask", "--bad-labels", "skip")
    assert done.status == 0 and done.err.count("left out 1 rows: got ") == 1 and f"row 3 ({NAMES[2]!r}" in done.err
    assert json.loads((folder / "o.json").read_text())["models"][0]["test"]["box"]["n"] == 5


# A notebook alone -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_notebook_without_its_folder_says_what_to_do(tmp_path, number):
    [path] = ROOT.glob(f"{number}_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    (tmp_path / "cell.py").write_text("".join(next(cell for cell in cells if cell["cell_type"] == "code")["source"]))
    done = subprocess.run([sys.executable, "cell.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert "pip install" in last and "ModuleNotFoundError: this notebook needs the folder it comes from" in last
