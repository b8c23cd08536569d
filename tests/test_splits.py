from __future__ import annotations

import helpers
import numpy as np
import pandas as pd
import pytest

from data_load import DATA_DIR, Data, find_data, person_of, read_image, read_keypoints, split_by_person
from training import splits


def test_committed_people_are_in_one_part_each_as_drawn():
    parts = splits.read_splits()["by_person"]
    people = [person for members in parts.values() for person in members]
    listed = pd.read_csv(DATA_DIR / "pixels.csv").iloc[:, 0].astype(str)  # training/Name_12.jpg
    assert sorted(people) == sorted({person_of(name) for name in listed[listed.str.startswith("training/")]})
    drawn = splits.draw_people(set(people))
    assert {part: sorted(p for p, where in drawn.items() if where == part) for part in parts} == parts


def test_people_split_follows_the_file_for_official_people_and_the_rule_for_others():
    parts = splits.read_splits()["by_person"]
    official = [f"{members[0]}_{i}.jpg" for members in parts.values() for i in (3, 7)]
    assert splits.people_split(official) == {"training": [0, 1], "validation": [2, 3], "test": [4, 5]}

    names = find_data("sample").dataset("training").names
    found = splits.people_split(names)
    assert sorted(i for indices in found.values() for i in indices) == list(range(len(names)))
    assert found["validation"] == split_by_person(names)[1]  # what choices were made on so far
    people = {part: {person_of(names[i]) for i in indices} for part, indices in found.items()}
    assert not people["test"] & (people["training"] | people["validation"])
    assert abs(len(people["test"]) - len(people["validation"])) <= 1


def test_split_needs_three_people():
    with pytest.raises(ValueError, match="got images of 2 people, expected at least three"):
        splits.people_split(["Ann_1.jpg", "Bo_1.jpg"])


def test_no_wild_photo_is_in_two_parts():
    names = {part: [n for group in groups for n in group] for part, groups in splits.read_splits()["wild"].items()}
    listed = names["training"] + names["validation"]
    assert len(listed) == len(set(listed)) == 1672 and 0.15 < len(names["validation"]) / 1672 < 0.25
    training, validation = (
        {name.rsplit("_", 1)[0] if name.startswith("helen") else name for name in names[part]}
        for part in ("training", "validation")
    )
    assert not training & validation


def test_faces_of_one_photo_neighbours_and_look_alikes_stay_together():
    names = ["helen_5_1.jpg", "lfpw_image_0002.jpg", "helen_5_2.jpg", "helen_9000000_1.jpg", "lfpw_image_0700.jpg"]
    similarity = np.eye(5)
    similarity[1, 4] = similarity[4, 1] = splits.SIMILARITY
    groups = splits.group_wild(names, similarity)
    assert sorted(map(sorted, groups)) == [
        ["helen_5_1.jpg", "helen_5_2.jpg"],
        ["helen_9000000_1.jpg"],
        ["lfpw_image_0002.jpg", "lfpw_image_0700.jpg"],
    ]


def test_similarity_ignores_the_brightness():
    rng = np.random.default_rng(0)
    keypoints = rng.uniform(40, 80, (68, 2)).astype(np.float32)
    pictures = [rng.integers(0, 120, (120, 120, 3)).astype(np.uint8) for _ in range(5)]
    pictures.append(pictures[0] + 60)
    alike = splits.similarities(np.stack([splits.appearance(picture, keypoints) for picture in pictures]))
    assert alike[0, 5] > 0.95 and abs(alike[0, 1:5]).max() < splits.SIMILARITY


def test_official_set_is_found_where_it_was_fetched_and_in_a_folder_of_its_own(tmp_path, monkeypatch):
    assert splits.official_set(tmp_path) is None
    (tmp_path / "training_frames_keypoints.csv").touch()  # a folder of rendered heads has one, too
    assert splits.official_set(tmp_path) is None
    monkeypatch.setattr(splits, "DATA_DIR", tmp_path)
    assert splits.official_set(tmp_path).root == tmp_path
    (tmp_path / "official").mkdir()
    assert splits.official_set(tmp_path).root == tmp_path / "official"


def test_wild_folder_without_labels_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("KEYPOINTS_WILD", raising=False)
    with pytest.raises(FileNotFoundError, match=r"wild_keypoints\.csv is missing"):
        splits.find_wild(tmp_path)
    with pytest.raises(ValueError, match=r"got the file 'me\.jpg'"):
        splits.number_of("me.jpg")


def test_the_command_writes_people_and_photos_of_sets_that_are_there(tmp_path, monkeypatch, capsys):
    sample = find_data("sample")
    names, keypoints = read_keypoints(sample.csv_file("training"))
    chosen = [i for i, name in enumerate(names) if name.endswith("_00.jpg")][:12]
    pictures = [read_image(sample.image_dir("training") / names[i]) for i in chosen]
    official, wild = Data("official", tmp_path / "official"), tmp_path / "wild"
    helpers.write_set(official.root, "training", [names[i] for i in chosen], pictures, keypoints[chosen])
    # Two faces of one photo, one photograph twice under two numbers, and others; runs 526 and 747 are held out.
    photos = ["helen_70000000_1.jpg", "helen_70000000_2.jpg", "helen_90000000_1.jpg"]
    photos += [f"lfpw_image_{number:04d}.jpg" for number in (3, 300, 530, 750)]
    shown = [*pictures[:3], pictures[3], pictures[3], *pictures[4:6]]
    helpers.write_wild(wild, photos, shown, keypoints[[*chosen[:4], *chosen[3:6]]])
    monkeypatch.setattr(splits, "find_data", lambda name, root: official)
    out = tmp_path / "splits.json"
    assert splits.main(["--wild", str(wild), "--out", str(out)]) == 0
    assert "people: 8 training, 2 validation, 2 test" in capsys.readouterr().out
    written = splits.read_splits(out)
    people = [person for members in written["by_person"].values() for person in members]
    assert sorted(people) == sorted(person_of(names[i]) for i in chosen)
    groups = {tuple(group): part for part, groups in written["wild"].items() for group in groups}
    assert ("helen_70000000_1.jpg", "helen_70000000_2.jpg") in groups
    assert groups[("lfpw_image_0003.jpg", "lfpw_image_0300.jpg")] == "training"
    assert groups[("lfpw_image_0530.jpg",)] == groups[("lfpw_image_0750.jpg",)] == "validation"

    with pytest.raises(SystemExit):
        splits.main(["--wild", str(tmp_path), "--out", str(out)])
    assert capsys.readouterr().err.startswith(f"{tmp_path / splits.WILD_CSV} is missing")
    assert splits.read_splits(out) == written
