"""Properties that hold for whatever faces, boxes, sizes and files hypothesis comes up with."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from helpers import FACE, csv_header
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_load import read_keypoints
from keypoints.geometry import crop_view, transform
from keypoints.network import Framing

settings.register_profile("repository", deadline=None, derandomize=True, max_examples=60)  # the same cases each time
settings.load_profile("repository")

FRAMING = Framing(scale=1.7, dx=0.01, dy=0.05, box_scale=1.18, box_dx=-0.01, box_dy=-0.19)
numbers = {"allow_nan": False, "allow_infinity": False, "width": 32}


@st.composite
def faces(draw) -> np.ndarray:
    """(68, 2) float64: a face of any size, place and tilt."""
    size, angle = draw(st.floats(8, 400)), np.radians(draw(st.floats(-180, 180)))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = draw(st.tuples(st.floats(-500, 1500), st.floats(-500, 1500)))
    return FACE.astype(np.float64) * size @ turn.T + shift


@given(faces())
def test_the_view_of_a_face_holds_it_whatever_its_size_and_place(face):
    upright = face[:1] + (FACE - FACE[0]) * np.ptp(face[:, 0]) / 2  # boxes are of upright faces
    left, top, side, roll = FRAMING.views(FRAMING.boxes(upright))[0]
    assert roll == 0 and side > 0
    assert (upright.min(axis=0) > [left, top]).all() and (upright.max(axis=0) < [left + side, top + side]).all()


@given(
    st.tuples(st.integers(20, 200), st.integers(20, 200)),
    st.floats(5, 300),
    st.tuples(st.floats(-0.4, 1.2), st.floats(-0.4, 1.2)),
    st.sampled_from([0.0, 30.0, -45.0, 90.0]),
)
def test_a_crop_shows_what_lies_where_it_says(shape, side, place, roll):
    """An image whose values are its own coordinates tells where each pixel of a crop comes from."""
    height, width = shape
    y, x = np.mgrid[:height, :width]
    view = np.array([place[0] * width - side / 2, place[1] * height - side / 2, side, roll])
    for axis, values in enumerate((x, y)):
        image = np.clip(values, 0, 255).astype(np.uint8)
        try:
            crop, cut = crop_view(image, view)
        except ValueError as error:
            assert "lies outside the image" in str(error)
            return
        at = np.stack(np.meshgrid(np.arange(8, 216, 16), np.arange(8, 216, 16)), axis=-1).reshape(-1, 2)
        origin = transform(at, cut)
        inside = ((origin > 1) & (origin < np.array([width, height]) - 2)).all(axis=1)
        shown = crop[at[:, 1], at[:, 0]].astype(float)
        tolerance = 1.0 + side / 224  # rounding to whole values, and pixels that are averages
        assert np.abs(shown - origin[:, axis])[inside].max(initial=0) <= tolerance


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=12), max_size=4),
    st.integers(0, 2**31),
)
def test_labels_come_back_whatever_the_files_are_called(tmp_path, names, seed):
    points = np.random.default_rng(seed).uniform(-10, 500, (len(names), 68, 2)).astype(np.float32)
    path = tmp_path / "labels.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(csv_header() + "\n")
        csv.writer(file, lineterminator="\n").writerows(
            [[name, *face.ravel()] for name, face in zip(names, points.astype(float), strict=True)]
        )
    if not names:
        with pytest.raises(ValueError, match="no rows"):
            read_keypoints(path)
        return
    read, keypoints = read_keypoints(path)
    assert read == names
    np.testing.assert_allclose(keypoints, points, atol=1e-4)


@example([0.0, 1e19, 1.0, 1.0])
@example([0.0, -1e19, 1.0, 1.0])
@given(st.lists(st.floats(**numbers), min_size=4, max_size=4))
def test_a_view_anywhere_is_cut_or_refused_in_a_sentence(view):
    image = np.zeros((40, 50), np.uint8)
    try:
        crop, cut = crop_view(image, np.array(view))
    except ValueError as error:
        assert str(error).startswith("got a face box") and "\n" not in str(error)
        return
    assert crop.shape == (224, 224) and np.isfinite(cut).all()
