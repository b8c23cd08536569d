"""What drawings must hold to, beyond looking right."""

from __future__ import annotations

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers import face_points

from training import figures


def test_zoom_shows_a_square_around_the_face():
    points = face_points(300, 200, 50)
    ax = figures.zoom(plt.figure().add_subplot(), points, reach=0.9, lift=0.1)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    assert right - left == pytest.approx(bottom - top)
    assert left < points[:, 0].min() and points[:, 0].max() < right
    assert top < points[:, 1].min() and points[:, 1].max() < bottom
    assert (top + bottom) / 2 < (points[:, 1].min() + points[:, 1].max()) / 2
    plt.close("all")


def test_a_film_plays_its_frames_in_their_colours_and_at_their_speed(tmp_path):
    frames = [np.full((32, 48, 3), colour, np.uint8) for colour in ((220, 30, 30), (30, 30, 220), (30, 220, 30))]
    figures.write_film(tmp_path / "film.webp", frames, fps=25)
    done, film = cv2.imreadanimation(str(tmp_path / "film.webp"))
    assert done and list(film.durations) == [40] * 3
    for frame, written in zip(frames, film.frames, strict=True):
        assert np.abs(written[..., 2::-1].astype(int) - frame).max() < 25


def test_a_film_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"film\.mp4: expected a name that ends in \.webp, got '\.mp4'"):
        figures.write_film(tmp_path / "film.mp4", [np.zeros((8, 8, 3), np.uint8)], fps=25)
