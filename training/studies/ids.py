"""Whether each person of a video keeps one id: `python -m training.studies.ids [--people DIR]` writes ids.json.

Scenes of moving faces are composed: heads are cut out around their 68 keypoints and drawn over a background, nearer
ones over farther ones. The heads are the sample's rendered ones and, where a folder in the official layout is at hand,
people's: each shows the frames of one video in turn (``Name_VF.jpg`` is frame F of video V). The pictures of a rendered
person differ in their light, and therefore each rendered person shows one picture. The tracker's parameters were chosen
on other scenes (``--seed 100``).
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from data_load import DATA_DIR, NUM_KEYPOINTS, read_image
from keypoints.detection import KeypointDetector
from keypoints.files import sha256
from keypoints.landmarks import face_size
from keypoints.tracking import LOST, FaceTracker
from training.studies.common import RESULTS, SHARED, figures_file, make_parser

FPS, WIDTH, HEIGHT = 25, 640, 480
STILL = 0.6  # seconds before and after a motion
LIVELY = 0.4  # seconds for which a head shows one of its pictures
SHUTTER = 0.5  # of the time between two frames: motion blur
COVERED = 0.8  # face sizes: a face whose centre is nearer to that of one in front of it need not be found


@dataclass
class Actor:
    """A person of a scene.

    Attributes:
        pictures: RGBA cut-outs with premultiplied colours, and their keypoints (68, 2).
        path: (T, 2) pixels: the centre of the keypoints on each frame, NaN while the person is away.
        size: of the face, pixels.
    """

    pictures: list[tuple[np.ndarray, np.ndarray]]
    path: np.ndarray
    size: float


Scene = Callable[[np.random.Generator, list], list[Actor]]


def cut_head(image: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut a head out of an image (H, W, 3) along a soft oval around its keypoints, forehead included."""
    size, middle = float(face_size(points)), (points.min(axis=0) + points.max(axis=0)) / 2
    axes, mask = np.ptp(points, axis=0) * [0.62, 0.8], np.zeros(image.shape[:2], np.float32)
    x, y = middle - [0, 0.2 * size]
    cv2.ellipse(mask, ((x, y), tuple(2 * axes), 0), 1.0, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), 0.05 * size)[..., None]
    return np.concatenate([image * mask, 255 * mask], axis=2).astype(np.uint8), points


def read_people(folder: Path, split: str, person: Callable[[str], str]) -> list[list]:
    """Read the heads of a folder in the official layout: for each person a list of pictures."""
    table = pd.read_csv(folder / f"{split}_frames_keypoints.csv", index_col=0)
    people = defaultdict(list)
    for name, row in table.iterrows():
        points = row.to_numpy(np.float64).reshape(NUM_KEYPOINTS, 2)
        people[person(name)].append((folder / split / name, points))
    return list(people.values())


def draw(canvas: np.ndarray, actor: Actor, frame: int, blurred: bool, shown: tuple[np.ndarray, np.ndarray]) -> None:
    """Draw an actor's head into the canvas (H, W, 3) float32."""
    picture, points = shown
    scale, roll = actor.size / float(face_size(points)), 6 * np.sin(frame / 9 + actor.size)
    matrix = cv2.getRotationMatrix2D(tuple(points.mean(axis=0)), roll, scale)
    there = actor.path[frame]
    before = actor.path[max(0, frame - 1)] if blurred else there
    way = SHUTTER * (there - np.where(np.isfinite(before), before, there))
    reach = int(2 * actor.size + np.abs(way).max())
    left, top = np.maximum(there.astype(int) - reach, 0)
    right, bottom = np.minimum(there.astype(int) + reach, [WIDTH, HEIGHT])
    if left >= right or top >= bottom:
        return
    layers = []
    for part in np.linspace(0, 1, 7 if way.any() else 1):
        moved = matrix.copy()
        moved[:, 2] += there - part * way - points.mean(axis=0) - [left, top]
        layers.append(cv2.warpAffine(picture, moved, (int(right - left), int(bottom - top)), flags=cv2.INTER_AREA))
    layer = np.mean(layers, axis=0, dtype=np.float32)
    region = canvas[top:bottom, left:right]
    region *= 1 - layer[..., 3:] / 255
    region += layer[..., :3]


def film(actors: list[Actor], random: np.random.Generator, blurred: bool) -> Iterator[np.ndarray]:
    """Yield the frames of a scene; the last actor is the nearest."""
    background = np.full((HEIGHT, WIDTH, 3), random.uniform(60, 200, 3), np.float32)
    if random.random() < 0.5:  # photographic: so blurred that the photo's face is none
        photo = read_image(DATA_DIR / "photos" / "astronaut.jpg")[..., :3].astype(np.float32)
        background = cv2.GaussianBlur(cv2.resize(photo, (WIDTH, HEIGHT)), (0, 0), 25)
    chosen, noise = [actor.pictures[0] for actor in actors], random.normal(0, 3, background.shape).astype(np.float32)
    for frame in range(len(actors[0].path)):
        canvas = background.copy()
        for i, actor in enumerate(actors):
            if frame % round(LIVELY * FPS) == 0:
                chosen[i] = actor.pictures[random.integers(len(actor.pictures))]
            if np.isfinite(actor.path[frame]).all():
                draw(canvas, actor, frame, blurred, chosen[i])
        canvas += np.roll(noise, int(random.integers(noise.size)))
        yield np.clip(canvas, 0, 255).astype(np.uint8)


# Scenes ---------------------------------------------------------------------------------------------------------------


def frames(seconds: float) -> int:
    return round(seconds * FPS)


def between(*stops: tuple[float, np.ndarray | tuple]) -> np.ndarray:
    """Return the path (T, 2) that reaches each place after its seconds, at an even pace from the place before."""
    times = np.cumsum([seconds for seconds, _ in stops])
    at = np.arange(frames(times[-1])) / FPS
    return np.stack([np.interp(at, times, [place[axis] for _, place in stops]) for axis in (0, 1)], axis=1)


def crossing(random: np.random.Generator, people: list, number: int, seconds: float, back: bool = False) -> list[Actor]:
    """People in a row change sides; with ``back`` they meet in the middle and go back to where they came from."""
    places = np.stack([np.linspace(90, WIDTH - 90, number), np.full(number, HEIGHT / 2)], axis=1)
    actors = []
    for i, pictures in enumerate(people[:number]):
        size = random.uniform(65, 85)
        start, end = places[i], places[number - 1 - i]
        start, end = start + random.normal(0, 0.15 * size, 2), end + random.normal(0, 0.15 * size, 2)
        middle = (start + end) / 2
        stops = [(0, start), (STILL, start), (seconds / 2, middle), (seconds / 2, start if back else end)]
        actors.append(Actor(pictures, between(*stops, (STILL, stops[-1][1])), size))
    return [actors[i] for i in random.permutation(number)]


def jumping(random: np.random.Generator, people: list) -> list[Actor]:
    """One face moves by 0.8 of its sizes from frame to frame, each time in another direction."""
    size, place, path = 80.0, np.array([WIDTH / 2, HEIGHT / 2]), []
    for number in range(frames(3)):
        path.append(place)
        while number >= frames(STILL):
            angle = random.uniform(0, 2 * np.pi)
            place = path[-1] + 0.8 * size * np.array([np.cos(angle), np.sin(angle)])
            if (np.abs(place - [WIDTH / 2, HEIGHT / 2]) < [WIDTH / 2 - 90, HEIGHT / 2 - 90]).all():
                break
    return [Actor(people[0], np.array(path), size)]


def returning(random: np.random.Generator, people: list, number: int, stranger: bool = False) -> list[Actor]:
    """Half of the people leave, and come back elsewhere; with ``stranger`` others come instead of them."""
    actors, places = [], np.linspace(100, WIDTH - 100, number)
    leaving, away = max(1, number // 2), 3.0  # people; seconds
    goes, stays = (frames(seconds) for seconds in (STILL + 0.6, STILL + 0.6 + away))
    for i in range(number):
        size = random.uniform(65, 85)
        place = np.array([places[i], HEIGHT / 2 + random.normal(0, 20)])
        path = between((0, place), (STILL, place), (0.6, place), (away, place), (1.2, place))
        if i < leaving:
            path = between((0, place), (STILL, place), (0.6, (place[0], -size)))
            again = np.array([places[leaving - 1 - i] + random.uniform(-60, 60), HEIGHT / 2 + random.uniform(-80, 80)])
            back = between((0, (again[0], HEIGHT + size)), (0.4, again), (0.8, again))
            nobody = np.full((stays - goes, 2), np.nan)
            if stranger:
                empty = np.full((stays, 2), np.nan)
                actors.append(Actor(people[number + i], np.concatenate([empty, back]), random.uniform(65, 85)))
                back = np.full_like(back, np.nan)
            path = np.concatenate([path, nobody, back])
        actors.append(Actor(people[i], path, size))
    return actors


SCENES: dict[str, Scene] = {
    "2 cross in 3 s": partial(crossing, number=2, seconds=3.0),
    "2 cross in 0.5 s": partial(crossing, number=2, seconds=0.5),
    "2 meet and go back": partial(crossing, number=2, seconds=2.0, back=True),
    "4 cross in 3 s": partial(crossing, number=4, seconds=3.0),
    "4 cross in 0.5 s": partial(crossing, number=4, seconds=0.5),
    "1 moves by 0.8 sizes a frame": jumping,
    "1 comes back after 3 s": partial(returning, number=1),
    "2 of 4 come back after 3 s": partial(returning, number=4),
    "1 of 2 leaves, a stranger comes": partial(returning, number=2, stranger=True),
}
BLURRED = " with motion blur"
SCENES |= {name + BLURRED: SCENES[name] for name in list(SCENES) if "0.5 s" in name or "0.8" in name}


def measure(tracker: FaceTracker, actors: list[Actor], images: Iterator[np.ndarray]) -> dict:
    """Track a scene.

    Returns:
        people: who were found. ids: how many the tracker gave. swapped: people whose id at the end was another's
        before; renewed: those whose id is new since the start. came_back: people who were away; kept: those of them
        who have the old id at the end. visible: faces on the frames that nobody covers; found: those that are tracked;
        foreign: those of them with an id that is not the person's first.
    """
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    owner: dict[int, int] = {}  # who was the first with an id
    away, back = set(), set()
    visible = found = foreign = 0
    for number, image in enumerate(images):
        faces = [face for face in tracker(image, number / FPS) if face.state != LOST]
        for i, actor in enumerate(actors):
            place = actor.path[number]
            if np.isnan(place).any():
                away |= {i} & first.keys()
                continue
            off = np.array([np.linalg.norm(face.keypoints.mean(axis=0) - place) for face in faces])
            in_front = [np.linalg.norm(place - other.path[number]) for other in actors[i + 1 :]]
            margin = np.minimum(place, np.array([WIDTH, HEIGHT]) - place).min()
            if margin < 0.5 * actor.size or np.nanmin([*in_front, np.inf]) < COVERED * actor.size:
                continue
            visible += 1
            if len(off) and off.min() < 0.4 * actor.size:
                found += 1
                last[i] = faces[int(off.argmin())].id
                if i not in first:
                    owner.setdefault(last[i], i)
                foreign += last[i] != first.setdefault(i, last[i])
                back |= {i} & away
    changed = [i for i in last if last[i] != first[i]]
    return {
        "people": len(first), "ids": tracker.faces,
        "swapped": sum(owner.get(key, i) != i for i, key in last.items()),
        "renewed": sum(last[i] not in owner for i in changed),
        "came_back": len(back), "kept": len(back - set(changed)),
        "visible": visible, "found": found, "foreign": foreign,
    }  # fmt: skip


def study(detector: KeypointDetector, people: list[list], seeds: range, names: list[str]) -> dict:
    """Measure scenes: the sums over ``seeds``."""
    content = {}
    for name in names:
        rows = []
        for seed in seeds:
            random = np.random.default_rng(seed)
            chosen = [people[i] for i in random.permutation(len(people))[:8]]
            heads = [[cut_head(read_image(path)[..., :3], points) for path, points in person] for person in chosen]
            actors = SCENES[name](random, heads)
            rows.append(measure(FaceTracker(detector), actors, film(actors, random, name.endswith(BLURRED))))
        content[name] = {"scenes": len(rows), **{key: sum(row[key] for row in rows) for key in rows[0]}}
        print(name, content[name], flush=True)
    return content


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser("ids", __doc__, "model", choices=list(SCENES))
    parser.add_argument(
        "--people", type=Path, default=SHARED / "official", metavar="DIR", help="in the official layout"
    )
    parser.add_argument("--scenes", type=int, default=10, help="of each kind (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the first scene (default: 0)")
    parser.add_argument("--out", type=Path, default=RESULTS / "ids.json", metavar="FILE")
    options = parser.parse_args(arguments)
    with figures_file(options.out) as content:
        detector, seeds = KeypointDetector(options.model), range(options.seed, options.seed + options.scenes)
        sample = read_people(DATA_DIR / "sample", "training", lambda name: name)  # each picture a person
        sources = {"rendered": sample[::4]}
        if options.people.is_dir():
            sources["people"] = read_people(options.people, "training", lambda name: name[:-5])
        content |= {"sha256": sha256(options.model)}
        for source, people in sources.items():
            print(source)
            content[source] = study(detector, people, seeds, options.chosen or list(SCENES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
