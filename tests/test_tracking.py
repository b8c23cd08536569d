"""Tracking on frames of the sample's rendered clip, whose true keypoints are known."""

from __future__ import annotations

import itertools
import os
import struct
import time
from contextlib import closing
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
import pytest
from helpers import CLIP, face_points, file_names, read_csv, refused, write_clip

from keypoints.commands import _emotion_columns, track_header
from keypoints.detection import Candidates, Face, KeypointDetector
from keypoints.expression import EXPRESSIONS, UNSURE
from keypoints.geometry import with_roll
from keypoints.landmarks import LEFT_EYE
from keypoints.signals import Signals
from keypoints.smoothing import FLAT_FACE, OneEuro, Smoother
from keypoints.tracking import LOST, NEW, TRACKED, FaceTracker
from keypoints.video import Rows, Video, VideoFile
from training.metrics import face_size, nme
from training.weights import RECIPE_MODEL

links_and_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs links and pipes")


def truth(video: Path) -> tuple[np.ndarray, pd.DataFrame]:
    table = pd.read_csv(video.with_suffix(".csv"))
    return table[[f"{axis}{i}" for i in range(68) for axis in "xy"]].to_numpy().reshape(-1, 68, 2), table


@cache
def clip() -> tuple[list[np.ndarray], np.ndarray, pd.DataFrame]:
    """Frames, true points (N, 68, 2) and the table."""
    return [frame for _, frame in Video(CLIP)], *truth(CLIP)


@pytest.fixture(scope="module")
def detector() -> KeypointDetector:
    return KeypointDetector()


@pytest.fixture
def tracker(detector) -> FaceTracker:
    return FaceTracker(detector)


def follow(tracker: FaceTracker, numbers, change=None) -> list[list]:
    """The faces of these frames of the clip, changed by ``change(frame, number)``."""
    frames = clip()[0]
    return [tracker(change(frames[n].copy(), n) if change else frames[n], n / 25) for n in numbers]


def error(faces: list, number: int) -> float:
    """NME_box in percent of the one face, infinite where there is none or several."""
    seen = [face for face in faces if face.state != LOST]
    return float(nme(seen[0].keypoints[None], clip()[1][number][None])[0]) if len(seen) == 1 else np.inf


# Filters --------------------------------------------------------------------------------------------------------------


def test_one_euro_is_the_low_pass_of_the_paper():
    steady = OneEuro(min_cutoff=2.0, beta=3.0, d_cutoff=1.0)
    steady(np.array([5.0]), 0.0)
    # dt = 0.5: speed (7 - 5) / 0.5 = 4, its low pass 4 r / (1 + r) with r = π; cutoff 2 + 3 times that.
    speed = 4 * np.pi / (1 + np.pi)
    rate = 2 * np.pi * (2 + 3 * speed) * 0.5
    assert steady(np.array([7.0]), 0.5)[0] == pytest.approx(5 + 2 * rate / (1 + rate))


def test_motion_below_the_noise_is_smoothed_as_if_it_were_none():
    still, deaf = OneEuro(1.0, 50.0, 1.0), OneEuro(1.0, 50.0, 1.0, noise=0.5)
    plain = OneEuro(1.0, 0.0, 1.0)
    for number in range(20):
        value, at = np.array([0.002 * number]), 0.04 * number  # 0.05 a second
        results = [one(value, at)[0] for one in (still, deaf, plain)]
    assert results[1] == results[2] < results[0]


def test_one_euro_follows_time_stamps_and_ignores_repeated_ones():
    slow, fast = OneEuro(1.0, 0.0), OneEuro(1.0, 0.0)
    for one, at in ((slow, 0.5), (fast, 0.02)):
        one(np.zeros(1), 0.0)
        one(np.ones(1), at)
    assert slow.value[0] > 0.7 and fast.value[0] < 0.15
    assert slow(np.full(1, 9.0), 0.5)[0] == slow.value[0] < 1


def test_smoothing_does_not_depend_on_place_size_and_roll():
    random = np.random.default_rng(0)
    faces = face_points(0, 0, 50) + random.normal(0, 0.5, (12, 68, 2)).cumsum(axis=0)
    turn = 3.0 * np.array([[np.cos(2.5), np.sin(2.5)], [-np.sin(2.5), np.cos(2.5)]])
    smoothers = Smoother(), Smoother(), Smoother()
    for number, face in enumerate(faces):
        views = face, face * 3 + [700, -300], face @ turn
        plain, moved, turned = (one(view, number / 25) for one, view in zip(smoothers, views, strict=True))
    np.testing.assert_allclose(plain * 3 + [700, -300], moved, atol=1e-6)
    # Speeds are measured in sizes of the upright box, which changes a little as a face turns.
    np.testing.assert_allclose(plain @ turn, turned, atol=0.01 * face_size(faces[0]) * 3)


def test_jitter_is_smoothed_and_a_fast_head_is_not_delayed():
    random = np.random.default_rng(1)
    at = np.arange(75) / 25
    way = 150.0 * np.clip(at - 1, 0, 1)[:, None, None] * [1, 0]  # still for a second, then 1.5 sizes a second
    true = face_points(100, 100, 50) + way
    seen = true + random.normal(0, 0.3, true.shape)
    smoother = Smoother()
    steady = np.stack([smoother(face, t) for face, t in zip(seen, at, strict=True)])
    shake = [np.diff(points[5:24], 2, axis=0).std() for points in (seen, steady)]
    assert shake[1] < 0.4 * shake[0]
    behind = (true - steady)[35:48, :, 0].mean()
    assert abs(behind) < 0.5 * 6  # half a frame's way


# Following ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "most"), [(None, 1), (RECIPE_MODEL, 3)], ids=["one stage", "two stages"])
def test_following_places_points_where_detection_does(model, most):
    detector, (frames, true, _) = KeypointDetector(model), clip()
    for number in (0, 75, 140):
        [face] = detector.faces(frames[number], Candidates(with_roll(detector.boxes(true[number]))))
        tracker = FaceTracker(detector, smoothing=False)
        tracker(frames[number], 0.0)
        [followed] = tracker(frames[number], 0.04)
        assert followed.state == TRACKED
        assert nme(followed.keypoints[None], face.keypoints[None])[0] < most


# Faces in time --------------------------------------------------------------------------------------------------------


HEAD = clip()[0][0][70:290, 60:260]
OTHER = HEAD[:, ::-1] // 2 + 30


def scene(*heads: tuple[int, np.ndarray]) -> np.ndarray:
    """Heads before a plain wall, each by its left edge; later ones cover earlier ones."""
    canvas = np.full((260, 720, 3), 170, np.uint8)
    for left, head in heads:
        canvas[20:240, left : left + 200] = head
    return canvas


def test_face_keeps_its_id_and_the_detector_runs_now_and_then(tracker):
    faces = follow(tracker, range(60))
    assert [[face.id for face in found] for found in faces] == [[0]] * 60
    assert [found[0].state for found in faces] == [NEW] + [TRACKED] * 59
    assert tracker.detections == 3 and tracker.faces == 1
    assert max(error(found, n) for n, found in enumerate(faces)) < 4
    face = faces[-1][0]
    assert face.keypoints.dtype == np.float32 and face.confidence.shape == (68,) and 0 <= face.score <= 1
    assert abs(face.pose.yaw - clip()[2].yaw[59]) < 10 and face.time == pytest.approx(59 * 0.04)


def cover_chin(frame, number):
    if 215 <= number < 223:
        x, y = clip()[1][number][8].astype(int)
        frame[y - 35 : y + 60, x - 70 : x + 70] = 128
    return frame


def change_exposure(frame, number):
    return np.uint8(np.clip(frame * 2.4, 0, 255)) if 10 <= number < 16 else frame // 3 if number >= 16 else frame


def hide_head(frame, number, until: int = 25):
    if 5 <= number < until:
        frame[60:290, 60:260] = 200  # all of the head; the wall stays: no cut
    return frame


KEPT = np.random.default_rng(0).random(60) > 0.1


@pytest.mark.parametrize(
    ("change", "numbers", "checked"),
    [
        (cover_chin, range(208, 232), 227),
        (change_exposure, range(30), 21),
        (hide_head, range(31), 29),  # for less than a second
        (None, [105, *(n for n in range(105, 165) if KEPT[n - 105] and n > 105)], 105),  # dropped frames
    ],
)
def test_face_is_recovered_with_its_id_after_a_disturbance(tracker, change, numbers, checked):
    faces = follow(tracker, numbers, change)
    assert {face.id for found in faces for face in found} == {0}
    late = [error(found, n) for n, found in zip(numbers, faces, strict=True) if n >= checked]
    assert len(late) >= 2 and max(late) < 4
    if change is hide_head:
        assert [found[0].state for found in faces[5:25]] == [LOST] * 20


def test_face_is_recovered_with_its_id_after_a_turn_to_60_degrees(tracker):
    turn = CLIP.with_name("turn.mp4")
    true, table = truth(turn)
    assert table.yaw.max() == 60 and table.yaw.iloc[-12:].max() == 0
    errors, ids = [], set()
    for number, (at, frame) in enumerate(Video(turn)):
        faces = [face for face in tracker(frame, at) if face.state != LOST]
        ids |= {face.id for face in faces}
        errors.append(nme(faces[0].keypoints[None], true[number][None])[0] if faces else np.inf)
    back = int(np.flatnonzero(table.yaw.abs() > 1)[-1]) + 1
    assert ids == {0} and max(errors[back + 5 :]) < 4


@pytest.mark.parametrize(("seconds", "id"), [(3.0, 0), (6.0, 1)])
def test_face_that_comes_back_elsewhere_has_its_id_for_five_seconds(tracker, seconds, id):
    for number in range(5):
        tracker(scene((60, HEAD)), number / 25)
    times = 0.2 + np.arange(0, seconds, 0.25)
    states = [[face.state for face in tracker(scene(), at)] for at in times]
    assert states[:4] == [[LOST]] * 4 and states[5:] == [[]] * len(states[5:])
    back = [tracker(scene((420, HEAD)), 0.2 + seconds + number / 25) for number in range(8)]
    assert [(face.id, face.state) for face in back[-1]] == [(id, TRACKED)] and tracker.faces == id + 1


def test_stranger_who_comes_instead_of_somebody_who_left_gets_a_new_id(tracker):
    for number in range(5):
        tracker(scene((60, HEAD)), number / 25)
    for number in range(5, 20):
        tracker(scene(), number / 25)
    faces = [tracker(scene((60, OTHER)), number / 25) for number in range(20, 30)]
    assert {face.id for face in faces[-1] if face.state != LOST} == {1}


def test_face_that_moves_by_most_of_its_size_from_frame_to_frame_keeps_its_id(tracker):
    random, left, ids = np.random.default_rng(0), 260, []
    for number in range(30):
        left += 80 * (1 if left < 90 else -1 if left > 420 else random.choice([-1, 1]))  # the face's size is 98
        ids += [[face.id for face in tracker(scene((left, HEAD)), number / 25) if face.state != LOST]]
    assert ids == [[0]] * 30


def test_candidate_of_a_low_score_that_is_not_seen_again_is_no_face(detector, tracker, monkeypatch):
    points = face_points(360, 120, 50)
    candidate = Face(detector.boxes(points)[0], points, score=0.55)
    calls = itertools.count()
    monkeypatch.setattr(detector, "faces", lambda *_: [candidate] if next(calls) == 0 else [])
    assert [tracker(scene(), number / 25) for number in range(3)] == [[], [], []] and tracker.faces == 0


def test_candidate_of_a_low_score_that_the_network_confirms_is_a_face(detector, tracker, monkeypatch):
    [face] = detector(scene((260, HEAD)))
    monkeypatch.setattr(detector, "faces", lambda *_: [replace(face, score=0.55)])
    faces = [tracker(scene((260, HEAD)), number / 25) for number in range(3)]
    assert [[(one.id, one.state) for one in found] for found in faces] == [[], [(0, NEW)], [(0, TRACKED)]]


def test_faces_after_a_cut_are_new(tracker):
    frames = clip()[0]
    other = np.ascontiguousarray(frames[0][::-1, ::-1][:, ::-1] // 2)
    other[:, :160] = 255 - other[:, :160]
    tracker(frames[0], 0.0), tracker(frames[1], 0.04)
    assert tracker(other, 0.08) == []
    again = tracker(frames[2], 0.12)
    assert [(face.id, face.state) for face in again] == [(1, NEW)]


def test_tilted_and_small_faces_that_come_in_later_are_found(tracker):
    frames = clip()[0]
    matrix = cv2.getRotationMatrix2D((160, 160), -30, 0.8)
    tilted = cv2.warpAffine(frames[0], matrix, (320, 320), borderValue=(170,) * 3)
    small = cv2.resize(frames[0], (80, 80), interpolation=cv2.INTER_AREA)
    for number in range(100):
        canvas = np.full((320, 740, 3), 170, np.uint8)
        canvas[:, :320] = frames[number]
        if number >= 10:
            canvas[:, 320:640], canvas[100:180, 650:730] = tilted, small
        faces = tracker(canvas, number / 25)
    assert [face.state for face in faces] == [TRACKED] * 3


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_face_is_tracked_in_a_video_that_lies_on_its_side(tracker, quarters):
    for number in range(5):
        [face] = tracker(np.rot90(clip()[0][number], quarters).copy(), number / 25)
    assert face.state == TRACKED and face.score > 0.9
    assert (face.pose.roll + 90 * quarters + 180) % 360 == pytest.approx(180, abs=20)


@pytest.mark.parametrize("back", [False, True])
def test_two_faces_that_cross_or_meet_and_go_back_keep_their_ids(tracker, back):
    wall = []
    for number in range(41):
        way = 12 * (min(number, 40 - number) if back else number)
        faces = tracker(scene((500 - way, OTHER), (20 + way, HEAD)), number / 25)
        wall.append({face.id: (face.state, float(face.keypoints[:, 0].mean())) for face in faces})
    start, end = wall[0], wall[-1]
    assert set(start) == set(end) == {0, 1}
    assert LOST in {wall[20][key][0] for key in wall[20]}  # one hides the other in the middle
    first = min(start, key=lambda key: start[key][1])
    assert (end[first][1] > end[1 - first][1]) != back and {end[0][0], end[1][0]} == {TRACKED}


def test_gap_and_restart_of_the_clock_are_survived(tracker):
    frames = clip()[0]
    assert tracker(frames[0], 10.0)[0].id == 0
    assert tracker(frames[3], 17.5)[0].keypoints.shape == (68, 2)  # a stream that stood still
    [face] = tracker(frames[0], 1.0)  # the clock starts anew: another video
    assert face.state == NEW and face.id == tracker.faces - 1 > 0


def test_repeated_time_gives_the_same_face_and_one_that_is_not_finite_is_refused(tracker):
    frame = clip()[0][0]
    [first], [again] = tracker(frame, 1.0), tracker(frame, 1.0)
    assert again is first and tracker.faces == 1
    for at in (float("nan"), float("inf"), -float("inf")):
        with refused(r"^got time -?(nan|inf), expected a finite number of seconds$"):
            tracker(frame, at)
        with refused("expected a finite number of seconds"):
            OneEuro(1.0, 0.0)(np.zeros(2), at)
    [after] = tracker(frame, 1.04)
    assert (after.id, after.state) == (first.id, TRACKED) and np.isfinite(after.keypoints).all()


def test_image_may_be_grey_and_without_faces(tracker):
    for number in range(3):
        assert tracker(np.full((120, 160), 90, np.uint8), number / 25) == []
    frames, true, _ = clip()
    for number in range(3):
        faces = tracker(cv2.cvtColor(frames[number], cv2.COLOR_RGB2GRAY), 1 + number / 25)
    assert nme(faces[0].keypoints[None], true[2][None])[0] < 4


# Signals --------------------------------------------------------------------------------------------------------------


def test_blinks_and_open_mouths_are_detected(tracker):
    frames, _, table = clip()
    faces = [tracker(frame, at)[0] for frame, at in zip(frames, table.time, strict=True)]
    blink, mouth = np.array([(face.blink, face.mouth_open) for face in faces]).T
    expected, begins = (np.flatnonzero(np.diff(np.r_[0, np.int_(b)]) > 0) for b in (table.blink, blink))
    assert len(begins) == len(expected) == 6 and np.abs(begins - expected).max() <= 2
    assert (blink == (table.blink > 0.5)).mean() > 0.95 and (mouth == table.mouth_open).mean() > 0.9


def test_an_eye_that_stays_closed_and_a_wink_are_told_and_narrow_eyes_are_not():
    face = np.float64(FLAT_FACE * 100)
    signals, usual = Signals(), np.array([0.2, 0.3])  # a person whose right eye is never wide open
    for number in range(250):
        assert signals(face, usual, number / 25).closed == (False, False)
    for number in range(250, 500):
        assert signals(face, np.array([0.04, 0.31]), number / 25).closed == (True, False)  # however long it lasts
    told = [signals(face, usual * part, 20 + number / 25).closed[0] for number, part in enumerate((0.7, 0.6, 0.4, 0.6))]
    assert told == [False, False, True, True]
    assert signals(face, None, 21).closed == (True, True) and signals(face, usual, 22).closed == (False, False)


def test_an_eye_that_is_turned_away_counts_as_the_other():
    face = np.float64(FLAT_FACE * 100)
    face[LEFT_EYE, 0] = face[LEFT_EYE, 0].mean() + (face[LEFT_EYE, 0] - face[LEFT_EYE, 0].mean()) / 2
    signals = Signals()
    assert signals(face, np.array([0.04, 0.3]), 0).closed == (True, True)
    assert signals(face, np.array([0.3, 0.04]), 1).closed == (False, False)


def test_eyes_of_a_picture_are_told_apart():
    openings = KeypointDetector()("data/photos/astronaut.jpg")[0].eye_openings
    assert openings.shape == (2,) and (openings > 0.2).all()
    with refused("got a face without a crop"):
        Face(np.zeros(4), np.zeros((68, 2))).eye_openings  # noqa: B018


def test_signals_do_not_flicker_between_the_two_thresholds():
    face = np.float64(FLAT_FACE * 100)
    signals = Signals()

    def gap(ratio):
        lips = face.copy()
        width = np.linalg.norm(lips[60] - lips[64])
        middle = lips[[60, 64]].mean(axis=0)
        for upper, lower, part in ((61, 67, -0.5), (62, 66, 0), (63, 65, 0.5)):
            lips[upper] = middle + np.array([part, -ratio / 2]) * width
            lips[lower] = middle + np.array([part, ratio / 2]) * width
        return lips

    between = (Signals.OPEN + Signals.AGAIN_SHUT) / 2
    ratios = (0.02, between, 0.2, between, 0.02, between)
    told = [signals(gap(ratio), None, number / 25).mouth_open for number, ratio in enumerate(ratios)]
    assert told == [False, False, True, True, False, False]


# Videos ---------------------------------------------------------------------------------------------------------------


def film(path: Path, images: list[np.ndarray], times: list[float] | None = None, **more) -> VideoFile:
    """Write a video of images, 25 a second or at their times."""
    out = VideoFile(path, 25, images[0].shape[1::-1], **more)
    try:
        for number, image in enumerate(images):
            out.write(image, times[number] if times else number / 25)
            assert not path.exists()
        out.close()
    except ValueError:
        out.discard()
        raise
    return out


BLACK = np.zeros((48, 64, 3), np.uint8)


def test_video_has_frames_with_their_times():
    with closing(Video(CLIP)) as video:
        found = [(at, frame.shape) for at, frame in islice(video, 4)]
    assert [at for at, _ in found] == pytest.approx([0, 0.04, 0.08, 0.12]) and {s for _, s in found} == {(320, 320, 3)}
    assert (video.fps, video.count, video.size, video.live) == (25, 250, (320, 320), False)


@pytest.mark.parametrize("suffix", [".mp4", ".MP4", ".mov", ".webm"])
def test_written_video_has_each_frame_at_its_time_and_its_name_once_it_is_complete(tmp_path, suffix):
    path, times = tmp_path / f"out{suffix}", [0.0, 0.04, 0.2, 0.21, 0.22, 0.3]  # a gap, then a burst
    out = film(path, [BLACK + np.uint8(round(40 + 600 * at)) for at in times], times)
    assert file_names(tmp_path) == [path.name] and out.codec in ("VP9", "H.264", "MPEG-4")
    found = list(Video(path))
    assert [at for at, _ in found] == pytest.approx(times, abs=2e-3)
    assert [frame.mean() for _, frame in found] == pytest.approx([40 + 600 * at for at in times], abs=4)


def test_times_that_leap_or_repeat_are_written(tmp_path):
    out = film(tmp_path / "out.mp4", [BLACK] * 5, [5.0, 5.04, 5.04, 100.0, 100.04])
    assert [at for at, _ in Video(out.path)] == pytest.approx([0, 0.04, 0.04, 10.04, 10.08], abs=2e-3)
    with refused("^got time nan, expected a finite number of seconds$"):
        film(tmp_path / "nan.mp4", [BLACK], [float("nan")])


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_odd_size_loses_no_row_and_no_column(tmp_path, suffix):
    image = np.full((49, 65, 3), 60, np.uint8)
    image[-1], image[:, -1] = 220, 220
    out = film(tmp_path / f"odd{suffix}", [image] * 3)
    [(_, frame), *_] = list(Video(out.path))
    assert frame.shape == (50, 66, 3) and frame[48, :64].mean() > 170 and frame[:48, 64].mean() > 170


MATRICES = [(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1), (0, 1, -1, 0), (0, 1, 1, 0)]


@pytest.mark.parametrize("matrix", MATRICES)
def test_video_is_turned_and_mirrored_by_its_display_matrix(tmp_path, matrix):
    a, b, c, d = matrix
    data = bytearray(CLIP.read_bytes())
    at = data.index(b"tkhd") + 44  # behind version, times, track, duration, layer and volume: ISO/IEC 14496-12, 8.3.2
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(data)
    plain, turned = (next(iter(Video(path)))[1].astype(int) for path in (CLIP, tmp_path / "turned.mp4"))
    y, x = np.mgrid[:320, :320]
    shown = np.zeros_like(plain)
    across, down = a * x + c * y, b * x + d * y
    shown[down - down.min(), across - across.min()] = plain
    assert np.array_equal(turned, shown)


def with_sound(path, frames: int, codec: str) -> None:
    """A film of grey frames and a tone."""
    with av.open(str(path), "w") as container:
        picture, tone = container.add_stream("mpeg4", rate=25), container.add_stream(codec, rate=48_000)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            container.mux(picture.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 9 * number, np.uint8))))
        container.mux(picture.encode())
        samples = np.sin(np.arange(48_000 * frames // 25) / 20).astype(np.float32)[None]
        sound = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        sound.sample_rate = 48_000
        container.mux(tone.encode(sound))
        container.mux(tone.encode())


@pytest.mark.parametrize(("suffix", "kept"), [(".mp4", True), (".webm", False)])
def test_sound_is_copied_or_its_loss_is_told(tmp_path, suffix, kept):
    with_sound(tmp_path / "talk.mp4", 25, "aac")
    frames = [frame for at, frame in Video(tmp_path / "talk.mp4") if at < 0.5]
    out = film(tmp_path / f"out{suffix}", frames, sound=tmp_path / "talk.mp4")
    assert (out.silent is None) == kept and (kept or out.silent == "its sound (aac) cannot be copied into a .webm file")
    with av.open(str(out.path)) as container:
        assert len(container.streams.audio) == kept and len(container.streams.video) == 1
        seconds = sum(frame.samples for frame in container.decode(audio=0)) / 48_000 if kept else 0
    assert seconds == pytest.approx(0.5 if kept else 0, abs=0.2)
    assert film(tmp_path / "quiet.mp4", [BLACK], sound=CLIP).silent is None  # of a film without sound


@pytest.mark.parametrize("error", [cv2.error("OpenCV: out of memory"), RuntimeError("of another kind")])
def test_error_within_a_video_reaches_the_reader(monkeypatch, error):
    reads = itertools.count()

    class Failing:
        def __init__(self, *given):
            self._capture = capture(*given)

        def read(self):
            if next(reads) == 3:
                raise error
            return self._capture.read()

        def __getattr__(self, name):
            return getattr(self._capture, name)

    capture = cv2.VideoCapture
    monkeypatch.setattr("keypoints.video.cv2.VideoCapture", Failing)
    frames = []
    with pytest.raises((ValueError, RuntimeError), match=r"clip\.mp4: .*, got a frame.*memory|^of another"):
        frames.extend(Video(CLIP))  # and it does not wait for ever
    reads = itertools.count(3)  # at its first frame
    with pytest.raises((ValueError, RuntimeError), match=r"clip\.mp4: .*, got a file without|^of another"):
        Video(CLIP)


def test_fewer_large_frames_are_decoded_ahead_and_huge_ones_are_refused(monkeypatch):
    monkeypatch.setattr("keypoints.video.AHEAD_BYTES", 3 * 320 * 320 * 3 + 5)
    video = Video(CLIP)
    assert len(list(zip(range(5), video, strict=False))) == 5
    patience = time.monotonic() + 20
    while len(video._frames) < 3 and time.monotonic() < patience:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(video._frames) == 3
    video.close()
    monkeypatch.setattr("keypoints.video.AHEAD_BYTES", 5)
    assert len([frame for _, frame in Video(CLIP)]) == 250  # one at a time
    monkeypatch.setattr("keypoints.video.MOST_PIXELS", 320 * 320)
    Video(CLIP).close()
    monkeypatch.setattr("keypoints.video.MOST_PIXELS", 320 * 320 - 1)
    with refused(r"clip\.mp4: got frames of 320×320 pixels, expected at most 102,399 pixels$"):
        Video(CLIP)


@links_and_pipes
def test_video_follows_a_link_and_may_have_any_name_except_a_pipe_s(tmp_path):
    link, target = tmp_path / "link.webm", tmp_path / f"{'é' * 120}.webm"
    link.symlink_to(target)
    out = VideoFile(link, 25, (64, 48))
    out.write(BLACK, 0.0)
    out.discard()
    assert file_names(tmp_path) == ["link.webm"]
    film(link, [BLACK])
    assert link.is_symlink() and len(list(Video(target))) == 1 and len(list(tmp_path.iterdir())) == 2
    os.mkfifo(tmp_path / "pipe.webm")
    with refused(r"pipe\.webm: got a device or a pipe, expected a file$"):
        VideoFile(tmp_path / "pipe.webm", 25, (64, 48))


@pytest.mark.parametrize("name", ["rows.csv", "a" * 251 + ".csv", "脸" * 83 + ".csv"])
def test_rows_are_on_disk_within_a_second_and_have_their_name_at_the_end(tmp_path, monkeypatch, name):
    clock, path = [100.0], tmp_path / name
    monkeypatch.setattr("keypoints.video.time.monotonic", lambda: clock[0])
    try:
        path.write_text("yesterday's")
    except OSError:
        pytest.skip("this file system does not take the name")
    unfinished = Rows(path, ["left"])
    unfinished.leave()  # keeps another name
    unfinished.close()
    [part] = [file for file in tmp_path.iterdir() if file != path]
    assert part.suffix == ".part" and part.read_text() == "left\n"
    rows = Rows(path, ["a"])
    rows.write([[1]])
    clock[0] += 0.6
    rows.write([[2]])
    assert part.read_text(encoding="utf-8") == "a\n1\n2\n" and path.read_text() == "yesterday's"
    rows.write([[3]])
    rows.close()
    rows.leave()
    assert path.read_text(encoding="utf-8") == "a\n1\n2\n3\n" and file_names(tmp_path) == [name]


@links_and_pipes
def test_rows_go_through_links_and_into_pipes_as_they_come(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "real" / "k.csv")
    Rows(tmp_path / "link.csv", ["a"]).close()
    assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "real" / "k.csv").read_text() == "a\n"
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    rows = Rows(tmp_path / "pipe", ["a"])
    assert os.read(reading, 9) == b"a\n"
    rows.close()
    os.close(reading)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link.csv", "pipe", "real"]
    if Path("/dev/full").exists():
        with pytest.raises(OSError, match="'/dev/full'"):
            Rows("/dev/full", ["a"])


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def short(tmp_path) -> str:
    """Twelve frames of the clip as a file of their own."""
    return str(write_clip(tmp_path / "short.webm"))


def test_track_writes_a_row_for_each_face_and_a_video(cli, short, tmp_path):
    out, table = tmp_path / "new" / "out.webm", tmp_path / "rows.csv"
    done = cli("track", short, "--out", out, "--csv", table, "--pose", "--filter", "sunglasses")
    header, *rows = read_csv(table)
    assert done.status == 0 and header == track_header(emotion=True) and len(header) == 4 + 4 + 136 + 3 + 2 + 2
    assert [row[0] for row in rows] == [str(n) for n in range(12)] and {row[2] for row in rows} == {"0"}
    assert [row[3] for row in rows] == [NEW] + [TRACKED] * 11 and rows[3][1] == "0.120"
    points = np.array([row[8:144] for row in rows], float).reshape(-1, 68, 2)
    assert nme(points, clip()[1][:12]).max() < 4
    first, *more = [frame for _, frame in Video(out)]
    x, y = clip()[1][0][[19, 37]].mean(axis=0).astype(int)
    assert len(more) == 11 and first[y, x].mean() < clip()[0][0][y, x].mean() - 40  # dark glass below the brow
    lines = done.out.splitlines()
    assert lines[0] == f"{short}: 12 frames, 1 face, detector on 1 of them"
    assert lines[1].startswith("tracking ") and lines[2:] == [f"wrote {out} (VP9)", f"wrote {table}"]
    assert {row[147] for row in rows} <= {*EXPRESSIONS, UNSURE}


def test_track_leaves_the_expression_out(cli, short, tmp_path):
    assert cli("track", short, "--csv", tmp_path / "rows.csv", "--no-emotion").status == 0
    assert read_csv(tmp_path / "rows.csv")[0] == track_header(emotion=False)
    assert _emotion_columns(None) == ["", ""]  # of a lost face


def test_ctrl_c_finishes_the_files(cli, short, tmp_path, monkeypatch):
    out, table, track, calls = tmp_path / "out.webm", tmp_path / "rows.csv", FaceTracker.__call__, itertools.count(1)

    def interrupted(self, image, at):
        if next(calls) == 6:
            raise KeyboardInterrupt
        return track(self, image, at)

    monkeypatch.setattr(FaceTracker, "__call__", interrupted)
    assert cli("track", short, "--out", out, "--csv", table).status == 130
    assert len(read_csv(table)) == 6 and len(list(Video(out))) == 5


def test_track_refuses_bad_arguments_in_one_sentence(refusal, short, tmp_path, monkeypatch):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "broken.mp4").write_bytes(CLIP.read_bytes()[:5000])
    for arguments, sentence in (
        (["99"], "99: expected the number of a camera, got none that gives pictures"),
        ([tmp_path / "none.mp4"], f"{tmp_path / 'none.mp4'}: No such file or directory"),
        ([tmp_path / "empty.mp4"], "a file without a frame that OpenCV can decode"),
        ([tmp_path / "broken.mp4"], "a file without a frame that OpenCV can decode"),
        ([short, "--out", tmp_path / "out.avi"], "expected a name that ends in .mp4, .mov, .webm, got '.avi'"),
        ([short, "--out", short], "the source would be overwritten, expected another file"),
        ([short, "--filter", "nose"], "got filter 'nose', expected one of"),
    ):
        assert sentence in refusal("track", *arguments)
    monkeypatch.setattr("keypoints.video.ENCODERS", {".webm": {"libnone": {}}})
    sentence = refusal("track", short, "--out", tmp_path / "out.webm")
    assert sentence.endswith("this PyAV has none of the encoders libnone")
    assert file_names(tmp_path) == ["broken.mp4", "empty.mp4", "short.webm"]
