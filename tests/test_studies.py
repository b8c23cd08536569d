"""The commands of results/ that train and measure: what they compare, and that they go on where they stopped."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT, face_points
from torch.utils.data import Subset

from data_load import find_data, label_offset, training_transform
from models import CoarseToFine
from training.evaluation import Evaluation
from training.recipe import Recipe, fit
from training.studies import common, cost, detector, slices, study
from training.studies import label_offset as offset_study


@pytest.fixture(scope="module")
def few() -> Subset:
    return Subset(find_data("sample").dataset("training", training_transform()), range(12))


def test_no_command_starts_to_measure_when_asked_for_help(capsys):
    names = {path.stem for path in (ROOT / "training" / "studies").glob("*.py")}
    names -= {"__init__", "common", "benchmark_peers", "browser"}  # of the benchmark's other environment, and helpers
    for name in names:
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(f"training.studies.{name}").main(["--help"])
        assert ended.value.code == 0 and f"python -m training.studies.{name}" in capsys.readouterr().out


def test_every_study_changes_one_thing():
    for name, runs in study.STUDIES.items():
        assert len({study.key_of(change) for change in runs.values()}) == len(runs), name
        if name != "sample":
            assert {} in runs.values(), name  # the recipe itself is beside them
            # Only a head that cannot learn at the recipe's rate is shown at one of its own, too.
            others = [change for label, change in runs.items() if change and "rate" not in label]
            assert all(len(change) == 1 for change in others), name


@pytest.mark.parametrize("name", study.VARIANTS)
def test_the_networks_of_the_studies_learn(name, few):
    torch.manual_seed(0)
    net = study.VARIANTS[name]()
    before = {key: value.clone() for key, value in net.named_parameters() if value.requires_grad}
    record = fit(net, few, None, Recipe(epochs=1, batch_size=6, learning_rate=1e-3))
    assert np.isfinite(record["history"][0]["training_loss"])
    still = [key for key, value in net.named_parameters() if key in before and torch.equal(value, before[key])]
    assert not still  # a weight that no step moves would be counted for nothing
    assert net(torch.rand(2, 1, 224, 224)).shape == (2, 136)


def test_without_batch_norm_nothing_depends_on_the_rest_of_the_batch():
    torch.manual_seed(0)
    images = torch.rand(4, 1, 224, 224)
    for name, alone in (("no BatchNorm", True), ("no Dropout", False)):
        net = study.VARIANTS[name]().train()
        for layer in net.modules():
            if isinstance(layer, torch.nn.Dropout2d):
                layer.p = 0.0
        with torch.no_grad():
            assert torch.allclose(net(images)[:2], net(images[:2]), atol=1e-4) == alone


def test_studies_go_on_where_they_stopped(tmp_path, monkeypatch, capsys):
    trained = []

    def run(self, change, checkpoint):
        trained.append(study.key_of(change))
        if len(trained) == 2:
            raise KeyboardInterrupt
        return {"nme_box": 1.0, "nme_box_median": 1.0, "seconds": 1.0}

    monkeypatch.setenv("KEYPOINTS_DATA", "sample")
    monkeypatch.setattr(common, "BUILD", tmp_path)
    monkeypatch.setattr(study.Study, "run", run)
    with pytest.raises(KeyboardInterrupt):
        study.main(["batch_size"])
    study.main(["batch_size"])
    assert trained == ["recipe", "batch_size=40", "batch_size=40"]
    content = json.loads((tmp_path / "studies.json").read_text())
    assert set(content["runs"]) == {"recipe", "batch_size=40"}
    study.main(["batch_size"])
    assert len(trained) == 3
    # Figures of another network say nothing about this one.
    monkeypatch.setattr(study, "identity", lambda: "another")
    study.main(["batch_size"])
    assert len(trained) == 5


def test_an_unknown_study_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        study.main(["loses"])
    assert stopped.value.code == 2
    assert "got 'loses', expected one of losses" in capsys.readouterr().err


def test_the_committed_studies_are_of_this_network_and_recipe():
    content = json.loads((study.RESULTS / "studies.json").read_text())
    recipe = {key: value for key, value in content["base"].items() if key not in ("network", "samples", "bfloat16")}
    now = {key: getattr(Recipe(epochs=study.EPOCHS), key) for key in recipe}
    assert content["base"]["network"] == study.identity()
    assert recipe == now
    listed = {study.key_of(change) for runs in study.STUDIES.values() for change in runs.values()}
    assert set(content["runs"]) <= listed


def test_the_profile_accounts_for_the_whole_epoch(monkeypatch):
    monkeypatch.setenv("KEYPOINTS_DATA", "sample")
    figures = cost.profile(images=20)
    for epoch in ("first epoch", "later epochs"):
        steps = figures[epoch]
        assert min(steps.values()) >= 0
        assert steps["backward"] > steps["optimiser"] > 0
        assert steps["rest"] < 0.2 * sum(steps.values())
    assert figures["first epoch"]["decode"] > 0 == figures["later epochs"]["decode"]


def test_offsets_of_sizes_are_those_of_faces():
    face = np.random.default_rng(0).uniform(0, 1, (68, 2))
    face = (face - face.min(axis=0)) / np.ptp(face, axis=0) * 80
    assert np.allclose(offset_study.offset_of_sizes(np.array([80.0]))[0], label_offset(face), atol=1e-5)


def faces_off_by(percents: list[float], names: list[str]) -> Evaluation:
    """Faces with a box of 100×100 pixels, predicted so many percent to the right."""
    true = np.zeros((len(names), 68, 2), np.float32)
    true[:, :, 0], true[:, 0, 1] = np.linspace(0, 100, 68), 100
    predicted = true + np.array(percents, np.float32)[:, None, None] * np.array([1, 0], np.float32)
    return Evaluation(names, predicted, true, np.ones(len(names), bool), {})


def test_turned_heads_are_set_against_frontal_ones():
    result = faces_off_by([2, 2, 5, 50], ["a"] * 4)  # frontal, frontal, turned, neither
    turned = slices.turned_ratio(result, np.array([0.0, 14, 45, 20]))
    assert turned["frontal"] == pytest.approx(2, rel=1e-3) and turned["turned"] == pytest.approx(5, rel=1e-3)
    assert turned["ratio"] == pytest.approx(2.5, rel=1e-3) and turned["faces"] == {"frontal": 2, "turned": 1}


def test_skin_is_told_by_person_and_class():
    result = faces_off_by([1, 3, 5, 5], ["a_0.jpg", "b_0.jpg", "c_0.jpg", "c_1.jpg"])
    dark, brown, _, light = slices.by_skin(result, np.array([-40, -31, 55.0, 55]))
    assert (dark["people"], dark["images"], light["people"], light["images"]) == (2, 2, 1, 2)
    assert dark["nme_box"] == pytest.approx(2, rel=1e-3) and dark["interval"] == pytest.approx((1, 3), rel=1e-3)
    assert brown["nme_box"] is None and light["interval"] is None


def test_the_skins_of_the_sample_are_of_people_and_fall_into_classes():
    table = pd.read_csv(find_data("sample").root / "attributes.csv")
    assert (table.groupby("person")["skin"].nunique() == 1).all()
    assert [sum(table["skin"].between(*ends, inclusive="left")) > 50 for ends in slices.SKIN.values()] == [True] * 4


def test_coarse_stage_is_the_network_stopped_half_way():
    torch.manual_seed(0)
    net, image = CoarseToFine().eval(), torch.rand(2, 1, 224, 224)
    with torch.no_grad():
        _, coarse, _, fine = net(image, every_output=True)
        assert torch.allclose(slices.CoarseStage(net)(image), coarse, atol=1e-6)
        assert not torch.allclose(coarse, fine, atol=1e-3)


# The detector's study -------------------------------------------------------------------------------------------------


def test_faces_are_counted_by_hand(monkeypatch):
    monkeypatch.setattr(detector, "read_image", lambda _: np.zeros((512, 256, 3), np.uint8))
    boxes = np.array([[0, 0, 30, 30], [100, 100, 150, 150], [200, 0, 210, 10], [0, 200, 90, 290]], float)
    counted = np.array([True, True, True, False])
    at = [(15, 15, 30), (16, 15, 30), (125, 126, 80), (45, 245, 200), (300, 300, 50)]
    images = [("a", boxes, counted), ("b", boxes[:1], counted[:1])]
    figures = detector.tally(images, lambda i, _: np.array([at, []][i]))
    # The second box is a double, the fourth twice as large as its face, the fifth nowhere; the third face is too small.
    assert figures == {
        "faces": 3, "found": 2, "found_percent": 66.67, "20_to_40": "1/2", "40_to_80": "1/1", "80_to_1000": "0/0",
        "images": 2, "others_an_image": 1.0,
    }  # fmt: skip


def test_a_box_lies_around_its_face_as_measured_however_both_are_turned():
    face = face_points(100, 100, 60)
    box = np.array([70.0, 60.0, 80.0, 80.0, 0.0])
    middle, size = box[:2] + 40, np.sqrt(np.ptp(face, axis=0).prod())
    expected = detector.box_offsets(box, face)
    assert expected[:2] == pytest.approx((middle - (face.min(axis=0) + face.max(axis=0)) / 2 - 0.5) / size)
    assert expected[2] == pytest.approx(np.log(80 / size))
    angle = np.radians(30)  # clockwise, as y points down
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turned, box[4] = (face + 0.5 - middle) @ matrix + middle - 0.5, 30
    assert detector.box_offsets(box, turned) == pytest.approx(expected)
    assert detector.eye_roll(turned) == pytest.approx(detector.eye_roll(face) + 30)


@pytest.mark.parametrize("degrees", [90, -90, 180])
def test_points_turn_with_their_image(degrees):
    image = np.zeros((20, 30, 3), np.uint8)
    image[4, 7] = 255
    turned, points = detector.turn(image, np.array([[7.0, 4.0], [8.0, 4.0]]), degrees)
    assert turned[tuple(points[0, ::-1].astype(int))].tolist() == [255] * 3
    across = points[1] - points[0]
    assert np.degrees(np.arctan2(across[1], across[0])) == pytest.approx(degrees)
