from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import ROOT

from data_load import find_data
from keypoints.detection import KeypointDetector
from keypoints.files import sha256
from keypoints.landmarks import FLIP_INDEX, JAW, NOSE_TIP, flip_keypoints
from keypoints.pose import (
    EXTRA,
    PREDICTIONS_REGRESSOR,
    align,
    estimate_pose,
    load_pose_model,
    pose_model_of_predictions,
    rotation_angles,
    rotation_matrix,
    turn_in_order,
)
from training import pose as trainer
from training.studies import pose as study
from training.weights import DEFAULT_MODEL

SIZE = (400, 300)
TURNS = [(0, 0, 0), (25, 0, 0), (-35, 8, 5), (10, -18, -12), (40, 12, 20)]


def seen(yaw: float, pitch: float, roll: float, size: float = 60.0, middle=(200.0, 150.0)) -> np.ndarray:
    """The mean head's 68 points from far away, with the jaw where people label it."""
    model = load_pose_model()
    turn = rotation_matrix(yaw, pitch, roll)
    place = model.mean[:68] @ turn.T
    flat = 20 * place[:, :2] / (20 + place[:, 2:])
    flat[JAW] += model.jaw(yaw)[0] @ turn_in_order(0, 0, roll)[:2, :2].T
    return size * flat + middle


@pytest.fixture(scope="module")
def heads() -> tuple[np.ndarray, np.ndarray, list]:
    """Keypoints, true angles in the zero and order of poses, and sizes of the sample's test heads."""
    data = find_data("sample")
    dataset = data.dataset("test")
    zero = turn_in_order(0, load_pose_model().zero, 0)
    angles = data.attributes("test")[["yaw", "pitch", "roll"]].to_numpy()
    truth = np.array([rotation_angles(turn_in_order(*row) @ zero) for row in angles])
    points = np.asarray(dataset.keypoints, float).reshape(-1, 68, 2)
    return points, truth, [tuple(int(v) for v in np.ceil(p.max(axis=0) * 1.3)) for p in points]


def angles_of(points: np.ndarray, sizes: list) -> np.ndarray:
    poses = [estimate_pose(p, size) for p, size in zip(points, sizes, strict=True)]
    return np.array([(pose.yaw, pose.pitch, pose.roll) for pose in poses])


# The convention -------------------------------------------------------------------------------------------------------


def test_rotation_matrix_is_that_of_the_docstring():
    yaw, pitch, roll = 20.0, -35.0, 50.0
    x, y, z = (turn_in_order(0, pitch, 0), turn_in_order(yaw, 0, 0), turn_in_order(0, 0, roll))
    np.testing.assert_allclose(rotation_matrix(yaw, pitch, roll), x @ y @ z, atol=1e-12)
    np.testing.assert_allclose(turn_in_order(yaw, pitch, roll), z @ x @ y, atol=1e-12)


@pytest.mark.parametrize("angles", [*TURNS, (-80, 60, 170), (89, -70, -100)])
def test_angles_come_back_from_the_matrix(angles):
    np.testing.assert_allclose(rotation_angles(rotation_matrix(*angles)), angles, atol=1e-9)


def test_signs_of_the_angles():
    nose, crown, left_eye = np.array([0, 0, -1.0]), np.array([0, -1.0, 0]), np.array([1.0, 0, 0])
    assert (rotation_matrix(30, 0, 0) @ nose)[0] < 0  # to the image's left
    assert (rotation_matrix(0, 30, 0) @ nose)[1] < 0  # up
    assert (rotation_matrix(0, 0, 30) @ crown)[0] > 0  # clockwise: the crown to the right, …
    assert (rotation_matrix(0, 0, 30) @ left_eye)[1] > 0  # … the person's left eye down


# The estimate ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("angles", TURNS)
def test_pose_of_the_mean_head_is_estimated(angles):
    pose = estimate_pose(seen(*angles), SIZE)
    assert np.abs(np.subtract((pose.yaw, pose.pitch, pose.roll), angles)).max() < 4
    np.testing.assert_allclose(pose.rotation, rotation_matrix(pose.yaw, pose.pitch, pose.roll), atol=1e-9)
    assert pose.error < 2


def test_pose_of_rendered_heads_is_estimated(heads):
    points, truth, sizes = heads
    error = np.abs(angles_of(points, sizes) - truth).mean(axis=0)
    assert error[0] < 1.5 and error[1] < 2 and error[2] < 1  # results/pose.json has the figures


def test_two_percent_of_noise_add_less_than_two_degrees(heads):
    points, truth, sizes = (part[:60] for part in heads)
    face = np.sqrt(np.ptp(points, axis=1).prod(axis=1))[:, None, None]
    noisy = points + 0.02 * face * np.random.default_rng(0).normal(size=points.shape)
    clean, dirty = (np.abs(angles_of(p, sizes) - truth).mean(axis=0) for p in (points, noisy))
    assert (dirty - clean < 2).all()


def test_outliers_are_found_and_left_out(heads):
    points, _, sizes = (part[:20] for part in heads)
    rng, moved = np.random.default_rng(0), points.copy()
    for face in moved:
        lost = rng.permutation(68)[:8]
        face[lost] += 0.4 * np.sqrt(np.ptp(face, axis=0).prod()) * rng.choice([-1, 1], (8, 2))
        pose = estimate_pose(face, SIZE)
        assert pose.weights[lost].max() < 0.5 < np.median(pose.weights)
    assert np.abs(angles_of(moved, sizes) - angles_of(points, sizes)).mean() < 2.5


def test_roll_size_and_place_change_nothing_but_the_roll(heads):
    points = heads[0][0]
    pose = estimate_pose(points, SIZE)
    c, s = np.cos(np.radians(70)), np.sin(np.radians(70))
    turned = 3 * points @ np.array([[c, s], [-s, c]]) + 500
    other = estimate_pose(turned, (1200, 900))
    np.testing.assert_allclose(other.rotation, rotation_matrix(0, 0, 70) @ pose.rotation, atol=1e-3)
    assert other.error == pytest.approx(3 * pose.error, rel=0.05)


def test_mirrored_face_has_the_mirrored_pose(heads):
    pairs = np.array([[angles_of([p], [SIZE])[0] for p in (face, flip_keypoints(face, 400))] for face in heads[0][:60]])
    yaw, pitch, roll = np.moveaxis(pairs, -1, 0).transpose(0, 2, 1)
    assert max(abs(yaw.sum(axis=0))) < 3.5 and max(abs(np.subtract(*pitch))) < 4.5 and max(abs(roll.sum(axis=0))) < 2.5
    assert abs(yaw.mean()) < 0.3 and abs(roll.mean()) < 0.3


def test_noise_does_not_flip_a_frontal_face():
    rng, points = np.random.default_rng(0), seen(0, 0, 0)
    shaken = np.array([estimate_pose(points + rng.normal(0, 1.0, points.shape), SIZE).yaw for _ in range(50)])
    assert np.abs(shaken).max() < 6


def test_projection_and_rays_agree():
    pose = estimate_pose(seen(-20, 5, 10), SIZE)
    points = pose.points[[0, 8, NOSE_TIP, 68 + EXTRA.index("crown")]]
    pixels = pose.project(points)
    eye, rays = pose.rays(pixels)
    depth = ((points - eye) @ pose.rotation.T)[:, 2:]
    np.testing.assert_allclose(eye + depth * rays, points, atol=1e-9)
    np.testing.assert_allclose((points @ pose.rotation.T + pose.translation)[:, 2:], depth, atol=1e-9)
    assert pose.translation[2] > 10 and pose.distance > 10


def test_fitted_head_projects_onto_the_keypoints(heads):
    for points, size in zip(heads[0][:20], heads[2][:20], strict=True):
        pose = estimate_pose(points, size)
        inner = np.setdiff1d(np.arange(68), JAW)  # the jaw is labelled where it is seen to end, not where it is
        off = np.linalg.norm(pose.project(pose.points[inner]) - points[inner], axis=1)
        assert np.median(off) < 0.02 * np.sqrt(np.ptp(points, axis=0).prod())


@pytest.mark.parametrize("size", [(400, 300), (300, 400)])
def test_aim_is_the_projected_neck(size):
    pose = estimate_pose(seen(20, 5, 10, middle=(120, 180)), size)
    neck = pose.rotation @ pose.pivot + pose.translation
    pixel = np.subtract(size, 1) / 2 + pose.focal * neck[:2] / neck[2]
    np.testing.assert_allclose(pixel, pose.aim, atol=1e-9)
    assert neck[2] == pytest.approx(pose.distance)


def test_aligned_keypoints_lie_on_the_template():
    template = load_pose_model().template
    turned = 7 * template @ turn_in_order(0, 0, 33)[:2, :2].T + 9
    aligned, size, turn = align(turned[None], template)
    np.testing.assert_allclose(aligned[0], template - template.mean(axis=0), atol=1e-9)
    assert size[0] == pytest.approx(7) and np.degrees(turn[0]) == pytest.approx(33)


def test_mean_head_is_symmetric():
    mean = load_pose_model().mean
    np.testing.assert_allclose(mean[:68][FLIP_INDEX] * (-1, 1, 1), mean[:68], atol=2e-3)


@pytest.mark.parametrize("points", [np.zeros((68, 2)), np.ones((5, 2)), np.full((68, 2), np.nan)])
def test_keypoints_of_another_shape_or_value_are_refused(points):
    with pytest.raises(ValueError, match=r"got keypoints of shape .*, expected \(68, 2\)"):
        estimate_pose(points, SIZE)


def test_committed_figures_belong_to_the_committed_model():
    figures = json.loads((ROOT / "results" / "pose.json").read_text())
    assert figures["photographs"]["zero_calibrated_on_these"] == pytest.approx(load_pose_model().zero)
    record = json.loads(PREDICTIONS_REGRESSOR.with_suffix(".json").read_text())
    assert record["sha256"] == sha256(PREDICTIONS_REGRESSOR) and record["keypoints_sha256"] == sha256(DEFAULT_MODEL)


def test_of_a_turned_head_the_yaw_of_its_predicted_keypoints_comes_out_nearer_to_the_truth():
    """Heads of the sample turned by more than 35 degrees, none of which the regressor was trained on."""
    figures = json.loads((ROOT / "results" / "pose.json").read_text())
    assert figures["turned"]["40_to_60"]["yaw"] < 10 and figures["turned"]["60_to_90"]["yaw"] < 15
    data, detector = find_data("sample"), KeypointDetector()
    table = data.attributes("test").reset_index()
    turned = table.index[table.yaw.abs() > 35]
    assert len(turned) >= 10
    off = {model: [] for model in (load_pose_model, pose_model_of_predictions)}
    for i in turned:
        item = data.dataset("test")[i]
        [points] = detector.keypoints(item["image"], detector.boxes(item["keypoints"])[None])
        for model, errors in off.items():
            errors.append(abs(estimate_pose(points, item["image"].shape[1::-1], model()).yaw) - abs(table.yaw[i]))
    plain, better = (np.abs(errors).mean() for errors in off.values())
    assert better < plain - 0.5


# Training and study ---------------------------------------------------------------------------------------------------


def test_the_regressor_learns_that_predicted_faces_turn_less_than_their_heads(monkeypatch):
    monkeypatch.setattr(trainer, "STEPS", 500)
    monkeypatch.setattr(trainer, "BATCH", 128)
    template, rng = load_pose_model().template, np.random.default_rng(0)
    yaw = rng.uniform(-60, 60, 400)
    labels = np.array([seen(angle, 0, 0) for angle in yaw])
    less = np.array([seen(angle / 2, 0, 0) + [0, 20] * (np.arange(68) > 47)[:, None] for angle in yaw])
    poses = np.column_stack([yaw, np.zeros((400, 2))])
    net = trainer.train_regressor((labels, poses), (less, poses), template)
    for points in (labels, less):
        aligned = align(points, template)[0].reshape(-1, 136)
        told = 20 * net(trainer.torch.tensor(aligned, dtype=trainer.torch.float32)).detach().numpy()[:, 0]
        assert np.abs(told - yaw).mean() < 6


def test_turned_heads_are_measured_by_yaw(monkeypatch):
    sample, lost = find_data("sample"), np.full((68, 2), np.nan)
    monkeypatch.setattr(study, "Data", lambda kind, folder: sample)
    monkeypatch.setattr(study, "predict", lambda detector, image, points: points if points[0, 0] > 40 else lost)
    rows = study.turned(None, [sample.root])
    assert sum(row["of"] for row in rows.values()) == len(sample.dataset("training")) > sum(
        row["faces"] for row in rows.values()
    )
    assert list(rows) == ["0_to_20", "20_to_40", "40_to_60"] and all(row["yaw"] < 2 for row in rows.values())
