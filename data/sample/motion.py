"""The clip: ten seconds of one person who talks, turns, nods, blinks and passes a hand before the chin. And a turn.

A movement is a track: (second, value) pairs with smooth steps between them. Angles are degrees, times seconds.
"""
import subprocess
from dataclasses import dataclass
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
from heads import Camera, HeadModel, expand_units, outlined, posed
from people import develop, draw, make_person, meter
from scenes import make_scene
from shade import Surface, unit

PERSON, FPS = 907, 25
FACE = 0.36  # the square root of the face's box, in sides of the picture, while it looks into the camera
STILL = ((0, 0), (1, 0))


@dataclass(frozen=True)
class Motion:
    """What happens in a clip of ``seconds``, ``side`` pixels square; blinks are where they begin."""

    seconds: float
    side: int
    yaw: tuple = STILL
    pitch: tuple = STILL
    roll: tuple = STILL
    hand: tuple = STILL  # 0 below on the right, 0.5 at the chin, 1 gone
    light: tuple = ((0, 1), (1, 1))
    blinks: tuple = ()
    talking: tuple = ()


CLIP = Motion(
    seconds=10.0, side=320,
    yaw=((0, 0), (1.6, -4), (2.0, -4), (2.9, 45), (3.3, 45), (4.2, 0), (4.4, 0), (5.3, -45), (5.7, -45), (6.5, 0),
         (8, 6), (10, -5)),
    pitch=((0, 0), (1, 3), (2, -2), (6.5, 0), (6.75, -13), (7.0, 7), (7.25, -13), (7.5, 7), (7.75, -8), (8.0, 0),
           (10, 2)),
    roll=((0, 0), (1.2, 4), (2.4, -3), (4, 2), (5.5, -2), (8, 0), (9, 5), (10, 0)),
    hand=((0, 0), (7.9, 0), (8.5, 0.5), (8.9, 0.5), (9.5, 1), (10, 1)),
    light=((0, 1), (5.95, 1), (6.0, 2.1), (6.2, 2.1), (7.0, 1), (10, 1)),  # the exposure jumps and is found again
    blinks=(0.8, 2.4, 3.8, 5.0, 7.1, 9.2), talking=((0.2, 2.3), (3.4, 6.2), (7.9, 9.8)),
)
TURN = Motion(seconds=2.4, side=200, yaw=((0, 0), (0.2, 0), (0.9, 60), (1.2, 60), (1.9, 0), (2.4, 0)))
BLINK_SHAPE = (0.35, 0.85, 1.0, 1.0, 0.8, 0.45, 0.15)  # lid weights, frame by frame
MOUTHS = ({"jawOpen": 0.45, "mouthLowerDown*": 0.3}, {"mouthPucker": 0.7, "jawOpen": 0.1},
          {"mouthStretch*": 0.5, "jawOpen": 0.15, "mouthUpperUp*": 0.3}, {"mouthFunnel": 0.8, "jawOpen": 0.3},
          {"mouthSmile*": 0.5, "jawOpen": 0.2, "mouthUpperUp*": 0.2}, {"mouthPress*": 0.5}, {"jawOpen": 0.28}, {})
MOUTH_OPEN = 0.05  # gap between the inner lips, in outer-eye distances, from which mouth_open is 1


def track(points: tuple, time: float) -> float:
    """The value of a track, with smooth steps from point to point."""
    times, values = np.array(points, float).T
    after = int(np.clip(np.searchsorted(times, time), 1, len(times) - 1))
    share = np.clip((time - times[after - 1]) / (times[after] - times[after - 1]), 0, 1)
    return float(values[after - 1] + (values[after] - values[after - 1]) * share * share * (3 - 2 * share))


def face_units(rng: np.random.Generator, motion: Motion) -> list[dict[str, float]]:
    """The face units' weights, frame by frame."""
    frames = [{"mouthSmileLeft": 0.12, "mouthSmileRight": 0.12} for _ in range(int(FPS * motion.seconds))]
    for begin, end in motion.talking:
        time = begin
        while time < end:
            mouth, half = expand_units(MOUTHS[rng.integers(len(MOUTHS))]), rng.uniform(0.10, 0.16)
            strength = rng.uniform(0.7, 1.1)
            for number, frame in enumerate(frames):  # each sound swells and fades, overlapping its neighbours
                bump = np.cos(np.clip((number / FPS - time) / (2 * half), -0.5, 0.5) * np.pi) ** 2
                for name, weight in mouth.items():
                    frame[name] = frame.get(name, 0) + float(weight * strength * bump)
            time += 1.4 * half
    for begin in motion.blinks:
        for number, weight in enumerate(BLINK_SHAPE):
            frame = frames[round(begin * FPS) + number]
            frame["eyeBlinkLeft"] = frame["eyeBlinkRight"] = weight
    for number, frame in enumerate(frames):
        raised = max(0.0, np.sin(number / FPS * 1.9)) ** 4 * 0.4
        frame["browInnerUp"] = frame["browOuterUpLeft"] = frame["browOuterUpRight"] = raised
    return frames


def hand_surface(model: HeadModel, vertices: np.ndarray, chin: np.ndarray, progress: float) -> list[Surface]:
    """The left hand on its way before the chin, (3,) in the camera frame; nothing at the ends of the way."""
    if progress in (0.0, 1.0):
        return []
    quads = model.faces["hand"]
    used, compact = np.unique(quads[:, [0, 1, 2, 0, 2, 3]], return_inverse=True)
    points = vertices[used]
    tip = points[np.argmax(points[:, 0])]
    fingers = unit(tip - points[points[:, 0] < np.percentile(points[:, 0], 20)].mean(0))
    back = unit(np.array([0, 1.0, 0]) - fingers[1] * fingers)
    own = np.stack([fingers, back, np.cross(fingers, back)], 1)
    ahead = unit(np.array([-0.75, -0.66, 0]))
    away = np.array([0, 0, -1.0])
    now = np.stack([ahead, away, np.cross(ahead, away)], 1)
    swing = progress - 0.5
    place = chin + np.array([-0.75 + 3.0 * abs(swing), 5.5 * abs(swing) + 0.6 * swing, -0.75])
    points = (points - tip) @ own @ now.T + place
    forehead = np.tile([0.0, 7.75, 1.2], (len(used), 1))
    return [Surface("skin", points, compact.reshape(-1, 3), forehead)]


def write_clip(model: HeadModel, skull, path: Path, seed: int, motion: Motion = CLIP) -> tuple[list, list]:
    """Write a clip as H.264 and return the header and the rows of its table, a row a frame."""
    rng, side = np.random.default_rng([seed, PERSON]), motion.side
    person = make_person(model, skull, rng)
    scene, lights = make_scene(np.random.default_rng([seed, PERSON, 1]), side, side)
    distance, header, rows = 15.0, ["frame", "time", "yaw", "pitch", "roll", "blink", "mouth_open"], []
    header += [f"{axis}{point}" for point in range(68) for axis in "xy"]
    rest = posed(model.at(model.shaped(person.shape), model.keypoints), np.ones(68), (0, 0, 0), (0, 0, 0), distance)
    flat = rest[:, :2] / rest[:, 2:]
    focal = FACE * side / np.sqrt(np.prod(np.ptp(flat, axis=0)))
    camera = Camera(focal, np.array([0.5, 0.57]) * side - focal * (flat.min(0) + flat.max(0)) / 2, side, side)
    encoder = subprocess.Popen(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s",
         f"{side}x{side}", "-r", str(FPS), "-i", "-", "-c:v", "libx264", "-crf", "20", "-preset", "slow",
         "-threads", "1", "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(path)], stdin=subprocess.PIPE)
    factor = None
    for number, units in enumerate(face_units(rng, motion)):
        time = number / FPS
        pose = tuple(track(points, time) for points in (motion.yaw, motion.pitch, motion.roll))
        body = (0.25 * pose[0], 0.1 * pose[1], 0.2 * pose[2])
        vertices = model.shaped({**person.shape, **units})

        def place_points(points, turn, pose=pose, body=body):
            return posed(points, turn, pose, body, distance)

        mesh = model.at(vertices, model.keypoints)
        own = place_points(mesh, np.ones(68))
        paths = place_points(model.at(vertices, model.outlines).reshape(-1, 3), np.ones(16 * 33)).reshape(16, 33, 3)
        keypoints = outlined(own, paths, pose[0], camera)
        gaze = np.array([0.0016 * pose[0], -0.002 * pose[1]])  # the eyes stay with the camera for a while
        hand = hand_surface(model, vertices, own[8], track(motion.hand, time))
        head = draw(model, person, vertices, place_points, gaze, camera, lights, 0.3, hand)
        image = head[..., :3] + (1 - head[..., 3:4]) * scene
        factor = factor or meter(image, head[..., 5], person.brightness)
        image = cv2.GaussianBlur(develop(image, factor * track(motion.light, time)), (0, 0), 0.45)
        image = image + rng.normal(0, 0.004, image.shape)
        encoder.stdin.write(np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8).tobytes())
        gap = np.linalg.norm(mesh[62] - mesh[66]) / np.linalg.norm(mesh[45] - mesh[36])
        blink = int(units.get("eyeBlinkLeft", 0) > 0.5)
        rows.append([number, f"{time:.2f}", *(f"{angle:.1f}" for angle in pose), blink, int(gap > MOUTH_OPEN),
                     *(f"{value:.2f}" for value in keypoints.ravel())])
    encoder.stdin.close()
    if encoder.wait():
        raise RuntimeError(f"got exit status {encoder.returncode} from ffmpeg, expected 0 ({path})")
    print(f"clip: {len(rows)} frames in {path}")
    return header, rows
