"""The free weights: what they learned from, how their pictures are made, and their use."""

from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import pytest
from helpers import HOPPER, ROOT, command_line, face_points, write_labels

from data_load import find_data, read_image
from keypoints import Face, FaceTracker, KeypointDetector
from keypoints.expression import Expressions
from keypoints.files import sha256
from keypoints.geometry import five_points
from keypoints.landmarks import FLIP_INDEX, JAW
from keypoints.signals import FREE_EYE_MODEL
from models import PhotoNet
from training import free
from training.detector import read_folder
from training.photo import LABEL_MAP, TAUGHT_FILE, moved_labels
from training.studies import free as study
from training.studies.benchmark import eye_distance, read_labels
from training.weights import MODEL_DIR

FREE_KINDS = {"rendered", "ccby", "heads", "collage"}


@pytest.mark.parametrize("name", ["keypoints_free", "detector_free"])
def test_the_free_weights_learned_from_nothing_but_what_is_free(name):
    record = json.loads((MODEL_DIR / f"{name}.json").read_text())
    counts = record["faces"]
    assert set(counts) <= FREE_KINDS
    assert record["sha256"] == sha256(MODEL_DIR / f"{name}.onnx")
    start = record
    while start := start.get("start"):  # the training before, if these weights began as another's
        assert set(start["faces"]) <= FREE_KINDS
    folders = {source["folder"]: source for source in record["sources"]}
    kinds = {folder.split("/")[0] for folder in folders}
    assert kinds <= {"sample", "rendered", "false", "ccby", "detection"} and {"sample", "rendered"} <= kinds
    heads = [folder for folder in folders if folder.startswith(("sample", "rendered"))]
    pictures = sum(folders[folder]["pictures"] for folder in heads)
    assert counts.get("rendered", counts.get("heads")) == pictures
    assert folders["sample/training"] == free.source(ROOT / "data" / "sample" / "training", ROOT / "data")


def test_the_free_eyes_learned_from_rendered_heads_alone():
    record = json.loads(FREE_EYE_MODEL.with_suffix(".json").read_text())
    assert record["sha256"] == sha256(FREE_EYE_MODEL)
    assert record["keypoints_sha256"] == sha256(MODEL_DIR / "keypoints_free.onnx")
    assert set(record["eyes"]) == {"training rendered", "validation rendered"}
    folders = {source["folder"]: source["pictures"] for source in record["sources"]}
    assert {folder.split("/")[0] for folder in folders} == {"sample", "rendered"}
    assert sum(folders.values()) * 2 == record["eyes"]["training rendered"]


def test_a_source_is_told_by_its_pictures_and_labels(tmp_path):
    folder = tmp_path / "heads" / "training"
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(b"a picture")
    (tmp_path / "heads" / "keypoints.csv").write_text("labels")
    first = free.source(folder, tmp_path)
    assert (first["folder"], first["pictures"]) == ("heads/training", 1)
    (tmp_path / "heads" / "keypoints.csv").write_text("others")
    assert free.source(folder, tmp_path)["sha256"] != first["sha256"]


def test_photographs_teach_their_own_jaw_and_what_a_network_of_rendered_heads_finds_beside(tmp_path, monkeypatch):
    drawn = face_points(160, 160, 120).astype(np.float32)
    by = np.random.default_rng(0).normal(0, 0.02, (68, 2))
    by = (by + by[FLIP_INDEX] * [-1, 1]) / 2  # as on a symmetric face
    people = moved_labels(drawn, by)
    assert np.abs(people - drawn).max() > 0.5
    (tmp_path / "ccby" / "neutral").mkdir(parents=True)
    (tmp_path / "ccby" / "neutral" / "a.jpg").symlink_to(HOPPER)
    write_labels(tmp_path / "ccby" / "keypoints.csv", ["neutral/a.jpg"], people[None])
    face = Face(np.zeros(4, np.float32), drawn, score=1.0)
    monkeypatch.setattr(free, "KeypointDetector", lambda file, detect: lambda image: [face])
    monkeypatch.setattr(free, "load_model", lambda file: PhotoNet())
    found = {"ccby/neutral/a.jpg": drawn}
    monkeypatch.setattr(free, "label", lambda folder, *_: np.savez(folder / TAUGHT_FILE, **found))
    free.teach(tmp_path, tmp_path / "alone.safetensors")
    taught = np.load(tmp_path / TAUGHT_FILE)["ccby/neutral/a.jpg"]
    assert taught[JAW] == pytest.approx(people[JAW], abs=0.01) and np.array_equal(taught[17:], drawn[17:])
    moved = np.load(tmp_path / LABEL_MAP)
    assert moved[JAW] == pytest.approx(by[JAW], abs=1e-3) and not moved[17:].any()


def test_collages_say_where_their_faces_are_and_which_are_covered(tmp_path):
    (tmp_path / "false").mkdir()
    (tmp_path / "false" / "scene.jpg").symlink_to(HOPPER)
    stripes = np.tile(np.uint8([[0, 255] * 80]), (120, 1))
    free.compose(tmp_path, [stripes], count=4)
    with open(tmp_path / "detection" / "boxes.csv") as table:
        rows = list(csv.DictReader(table))
    assert {row["source"] for row in rows} == {"drawn", "teacher0"}
    pictures = read_folder(tmp_path, set())[0]["collage"]
    sure = np.concatenate([picture.sure for picture in pictures])
    assert sure.sum() == sum(row["source"] == "drawn" for row in rows) and 0 < sure.sum() < len(sure)
    for picture in pictures:
        inside = (picture.points > picture.boxes[:, None, :2]) & (picture.points < picture.boxes[:, None, 2:])
        assert inside.mean() > 0.9  # of turned heads a corner of the mouth may lie outside
    files = sorted((tmp_path / "detection" / "collage").glob("*.jpg"))
    heads_alone = [file.read_bytes() for file in files]
    free.compose(tmp_path, [stripes], {"false/scene.jpg": face_points(256, 180, 140)}, 4)
    assert [file.read_bytes() for file in files] != heads_alone


def test_the_free_weights_find_a_face_whose_eyes_they_read_but_no_expression(capsys):
    [face] = KeypointDetector(model="free")(HOPPER)
    [usual] = KeypointDetector()(HOPPER)
    size = np.ptp(usual.keypoints, axis=0).max()
    assert np.abs(five_points(face.keypoints) - five_points(usual.keypoints)).max() < 0.06 * size
    told = face.to_dict()
    assert told["emotion"] is None and told["emotion_probabilities"] is None
    assert told["eye_openings"] == pytest.approx(usual.eye_openings, abs=0.12) and min(told["eye_openings"]) > 0.15
    assert told["eye_openings"] != usual.to_dict()["eye_openings"]  # another network's
    with pytest.raises(ValueError, match="model='free'"):
        _ = face.emotion
    assert command_line("detect --model free", HOPPER) == 0
    assert capsys.readouterr().out.count("face 0 at") == 1
    [tracked] = FaceTracker("free")(cv2.imread(str(HOPPER))[..., ::-1])
    assert Expressions()([tracked]) == {tracked.id: None} and not tracked.blink


def test_the_detector_learns_from_photographs_too_once_their_points_are_taught(tmp_path, monkeypatch):
    (tmp_path / "ccby" / "neutral").mkdir(parents=True)
    (tmp_path / "ccby" / "neutral" / "a.jpg").symlink_to(HOPPER)
    drawn = face_points(160, 160, 120).astype(np.float32)
    np.savez(tmp_path / TAUGHT_FILE, **{"ccby/neutral/a.jpg": drawn})
    monkeypatch.setattr(free, "read_backgrounds", lambda wheel: [np.full((120, 160), 90, np.uint8)])
    seen = []

    def compose(folder, backgrounds, taught):
        seen.append((folder, {name: (folder / name).exists() for name in taught}))
        (folder / "detection").mkdir()
        (folder / "detection" / "boxes.csv").write_text("name\n")

    monkeypatch.setattr(free, "compose", compose)
    own = free.detector_folder(tmp_path, tmp_path / "any.whl")
    assert own == free.detector_folder(tmp_path, None)  # what is there stays
    assert seen == [(own, {"ccby/neutral/a.jpg": True})]


class Shifted:
    """Finds each face at its label, moved by 8 % of the eyes' distance, but for the last one."""

    def __init__(self, labelled):
        pairs = labelled.paths, labelled.keypoints
        self.known = {tuple(read_image(path)[0, 0]): points for path, points in zip(*pairs, strict=True)}
        self.lost = read_image(labelled.paths[-1])[0, 0]

    def __call__(self, image):
        points = self.known[tuple(image[0, 0])]
        if (image[0, 0] == self.lost).all():
            return []
        return [Face(np.zeros(4), points + [0.08, 0] * eye_distance(points[None])[0])]

    def boxes(self, keypoints):
        return keypoints[None]

    def keypoints(self, image, boxes):
        return boxes


def test_weights_are_measured_as_they_are_and_with_fitted_offsets():
    sample = find_data("sample")
    heads = read_labels(sample.csv_file("test"), sample.image_dir("test")).take(range(0, 40, 4))
    figures = study.measure(Shifted(heads), {"heads": (heads, heads)})["heads"]
    assert figures["pipeline"]["nme_iod"] == pytest.approx(8) and figures["pipeline"]["found"] == 9
    assert figures["pipeline, fitted"]["nme_iod"] < 0.1 and figures["pipeline, fitted"]["failed_or_lost"] == 1
    assert figures["true boxes"]["nme_iod"] == 0 and figures["true boxes"]["failed_or_lost"] == 0
