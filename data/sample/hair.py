"""Hair and what people wear: strands of hair, brows, lashes and beards, caps and scarves, collars, glasses.

Everything is grown about the unshaped mesh, once per person; `Strands` and `Cover` then follow the shaped head. Lengths
are decimetres in the mesh's frame (x to the person's left, y up, z forward), colours linear RGB.
"""
from dataclasses import dataclass

import cv2
import numpy as np
from paint import hairline_at, map_place, noise, step
from shade import look_up, unit

CENTRE = np.array([0.0, 7.5, 0.1])  # of the skull
DIRECTIONS = (128, 96)  # columns (azimuth from the front) and rows (polar angle from the top) of the skull's radius map


@dataclass
class Strands:
    """n strands of m points: where they root in the skin, and how they run from there.

    vertices, weights: (n, 3) the root's place on the mesh. offsets: (n, m, 3) from the root on the unshaped head.
    width: (n,) at the root. colour: (n, 3). sway: how much of the head's turn the tips that lie below it follow.
    """

    vertices: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray
    width: np.ndarray
    colour: np.ndarray
    sway: float = 1.0


@dataclass
class Cover:
    """A worn surface: points (N, 3) about the unshaped mesh, triangles (T, 3), colours (N, 3), and whether the head
    (its shape and its turn) or the body carries each point: turn (N,), 0..1."""

    points: np.ndarray
    triangles: np.ndarray
    colour: np.ndarray
    turn: np.ndarray


class Skull:
    """How far the unshaped head, neck and shoulders reach in each direction from the skull's centre."""

    def __init__(self, model):
        self.model = model
        used = np.unique(model.faces["skin"])
        used = used[~model.is_ear[used]]
        offset = model.base[used] - CENTRE
        radius = np.linalg.norm(offset, axis=1)
        azimuth, polar = np.meshgrid((np.arange(DIRECTIONS[0]) + 0.5) / DIRECTIONS[0] * 2 * np.pi - np.pi,
                                     (np.arange(DIRECTIONS[1]) + 0.5) / DIRECTIONS[1] * np.pi)
        grid = np.stack([np.sin(polar) * np.sin(azimuth), np.cos(polar), np.sin(polar) * np.cos(azimuth)], 2)
        offset, radius = offset[::2], radius[::2]
        nearness = grid.reshape(-1, 3).astype(np.float32) @ (offset / radius[:, None]).T.astype(np.float32)
        best = np.argpartition(-nearness, 6, axis=1)[:, :6]
        near = np.exp(600 * (np.take_along_axis(nearness, best, 1) - 1)) + 1e-9
        self.map = ((near * radius[best]).sum(1) / near.sum(1)).reshape(DIRECTIONS[::-1]).astype(np.float32)
        below = (self.map > 1.6) | ((self.map > 1.1) & (polar > 1.8))  # neck and shoulders bar no hair
        self.hard = cv2.GaussianBlur(np.where(below, 0.95, self.map), (0, 0), 1)
        most = np.float32(1.35 + 0.5 * step(0.2, 0.8, np.cos(azimuth)))  # cloth falls to the shoulders, not over them
        wide = cv2.copyMakeBorder(np.minimum(self.map, most), 0, 0, 12, 12, cv2.BORDER_WRAP)
        self.loose = cv2.GaussianBlur(cv2.dilate(wide, np.ones((3, 3))), (0, 0), 2)[:, 12:-12]  # as cloth would hang

        triangles = model.triangles
        middle = model.base[triangles].mean(1)
        self.scalp = triangles[(middle[:, 1] > 6.3) & ~model.is_ear[triangles].any(1)]
        corners = model.base[self.scalp]
        across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        self.area, self.normal = np.linalg.norm(across, axis=1) / 2, unit(across)

    def radius(self, points: np.ndarray, of: np.ndarray) -> np.ndarray:
        """The radius (N,) in the direction of points (N, 3), of the map `hard` (for hair) or `loose` (for cloth)."""
        d = unit(points - CENTRE).astype(np.float32)
        column = (np.arctan2(d[:, 0], d[:, 2]) + np.pi) / (2 * np.pi) * DIRECTIONS[0] - 0.5
        row = np.arccos(d[:, 1].clip(-1, 1)) / np.pi * DIRECTIONS[1] - 0.5
        return look_up(of, column, row)

    def roots(self, rng: np.random.Generator, count: int, wanted):
        """Random roots: vertices (n, 3), weights (n, 3), points (n, 3), normals (n, 3).

        wanted: function of points (N, 3) of the unshaped mesh to the probability (N,) of keeping a root there.
        """
        chosen = rng.choice(len(self.scalp), 4 * count, p=self.area / self.area.sum())
        weights = rng.dirichlet([1, 1, 1], 4 * count)
        points = np.einsum("nk,nkc->nc", weights, self.model.base[self.scalp[chosen]])
        keep = np.flatnonzero(rng.random(4 * count) < wanted(points))[:count]
        return self.scalp[chosen[keep]], weights[keep], points[keep], self.normal[chosen[keep]]

    def grow(self, rng, points, normals, length, flow, *, lift, weight, curl=0.0, wild=0.1, steps=10, close=0.03,
             cling=0.0):
        """Let strands grow: offsets (n, steps + 1, 3) from their roots.

        Args:
            points, normals: (n, 3) roots. length: (n,). flow: function of points to the direction (n, 3) of combing.
            lift: how far strands leave the skin at once, 0..1. weight: pull downwards. curl: radius of curls.
            wild: disorder. close: how far the lowest layer lies above the skin.
            cling: how strongly strands are drawn to the skull, 0..1.
        """
        low = 0.15 + 0.85 * step(7.0, 7.6, points[:, 1:2])  # hair lies close to the nape
        at, direction, path = points.copy(), unit(normals * lift * low + flow(points) * (1 - lift * low)), [points]
        layer = close + rng.uniform(0, 1, len(points)) * (0.03 + 0.09 * lift)
        lean = rng.normal(0, wild, (len(points), 3))
        for number in range(steps):
            done = number / steps
            fall = np.array([0, 0.3 * weight * (0.6 + done), 0])
            direction = unit(0.6 * direction + 0.55 * flow(at) * (1 - 0.7 * done) + lean * low - fall)
            at = at + direction * (length / steps)[:, None]
            outward = at - CENTRE
            far, least = np.linalg.norm(outward, axis=1), self.radius(at, self.hard) + layer * min(1, (number + 1) / 2)
            inward = cling * (far - least - 0.04).clip(0) * step(6.3, 6.9, at[:, 1])
            at = at + unit(outward) * (np.maximum(least - far, 0) - inward)[:, None]
            path.append(at)
        path = np.stack(path, 1)
        for _ in range(2):
            path[:, 1:-1] = 0.5 * path[:, 1:-1] + 0.25 * (path[:, :-2] + path[:, 2:])
        if curl:
            phase, t = rng.uniform(0, 2 * np.pi, (len(points), 1)), np.linspace(0, 1, steps + 1)[None]
            turns = 2 * np.pi * t * (length / (5.5 * curl))[:, None] + phase
            swing = np.stack([np.cos(turns), 0.6 * np.sin(2 * turns + 1), np.sin(turns)], 2)
            path = path + curl * swing * np.minimum(1, 4 * t)[..., None]
        # Wisps: neighbours lean towards a guide, more so at the tips.
        guides = rng.choice(len(points), max(len(points) // 14, 1), replace=False)
        nearest = guides[np.argmin(((points[:, None] - points[guides][None]) ** 2).sum(2), 1)]
        pull = np.linspace(0, 0.55, steps + 1)[None, :, None] * rng.uniform(0.3, 1, (len(points), 1, 1))
        wisp = path[nearest] + (points - points[nearest])[:, None] * 0.6
        return path + pull * (wisp - path) - points[:, None]


def head_hair(rng, skull: Skull, style: str, colour: np.ndarray, recede: float, shift: float) -> list[Strands]:
    """Strands of a hair style: crop, short, parted, curls, afro, bob, long, waves, tied or bun."""
    part, crown = rng.choice([-0.3, 0.0, 0.25]), np.array([0.05, 8.4, -0.45])

    def on_scalp(points):
        return step(0.0, 0.06, points[:, 1] - hairline_at(points, recede) - shift)

    def from_crown(points):
        flow = points - crown
        outward = unit(points - CENTRE)
        return unit(flow - (flow * outward).sum(1, keepdims=True) * outward)

    def to_sides(points):
        side = np.where(points[:, :1] > part, 1.0, -1.0)
        front = step(0.2, 0.9, points[:, 2:])
        sideways = np.concatenate([side, np.full_like(side, -0.35), -0.35 - 0.5 * front], 1)
        below = step(7.9, 7.4, points[:, 1:2])
        clear = (np.abs(np.arctan2(points[:, :1], points[:, 2:] - 0.1)) < 1.15) & (points[:, 1:2] < 8.0)
        push = clear * np.concatenate([np.sign(points[:, :1]) * 0.7, np.zeros_like(side), -1.2 + 0 * side], 1)
        return unit(sideways * (1 - below) + below * np.array([0, -1.0, -0.12]) + push)

    def to_fringe(points):
        return unit(np.stack([0.35 * np.sign(part + 0.1) + 0 * points[:, 0], -0.4 + 0 * points[:, 0],
                              1.0 + 0 * points[:, 0]], 1))

    tie = np.array([0.0, rng.uniform(7.5, 8.2), -1.05])

    def to_tie(points):
        return unit(tie - points)

    random_length, parts = rng.uniform(0.85, 1.15), []

    def add(count, lengths, flow, keep=on_scalp, width=0.011, sway=1.0, **grown):
        vertices, weights, points, normals = skull.roots(rng, count, keep)
        length = lengths(points) * rng.uniform(0.75, 1.1, len(points))
        offsets = skull.grow(rng, points, normals, length, flow, **grown)
        shade = np.exp(rng.normal(0, 0.22, (len(points), 1)) + 0.3 * np.sin(9 * points[:, :1] + 7 * points[:, 2:]))
        widths = width * rng.uniform(0.7, 1.3, len(points))
        parts.append(Strands(vertices, weights, offsets, widths, np.clip(colour * shade, 0.002, 0.8), sway))

    def top_longer(low, high):
        return lambda points: ((low + (high - low) * step(7.4, 8.2, points[:, 1])) * random_length
                               * (0.12 + 0.88 * step(6.9, 7.6, points[:, 1])))

    if style == "crop":
        add(6500, top_longer(0.06, 0.16), from_crown, lift=0.55, weight=0.0, wild=0.2, steps=4, close=0.01, width=0.013)
    elif style == "short":
        flow = from_crown if rng.random() < 0.5 else to_fringe
        add(6000, top_longer(0.16, rng.uniform(0.3, 0.6)), flow, lift=0.4, weight=0.1, wild=0.22, steps=7, width=0.012)
    elif style == "parted":
        add(6000, top_longer(0.2, rng.uniform(0.5, 0.9)), to_sides, lift=0.3, weight=0.25, wild=0.12, steps=9,
            width=0.012, cling=0.2)
    elif style == "curls":
        add(5000, top_longer(0.35, rng.uniform(0.5, 0.9)), from_crown, lift=0.6, weight=0.1, wild=0.35, curl=0.06,
            steps=12, width=0.013)
    elif style == "afro":
        add(6500, top_longer(0.16, rng.uniform(0.2, 0.6)), from_crown, lift=0.95, weight=-0.1, wild=0.5, curl=0.03,
            steps=9, close=0.02, width=0.013)
    elif style in ("bob", "long", "waves"):
        fall = {"bob": rng.uniform(1.5, 1.9), "long": rng.uniform(2.6, 3.6), "waves": rng.uniform(2.2, 3.2)}[style]
        add(6000, lambda points: (fall + 0.5 * step(7.2, 8.4, points[:, 1])) * random_length, to_sides, lift=0.25,
            weight=0.8, wild=0.06, cling=0.35, curl=0.05 if style == "waves" else 0.0, steps=16, width=0.014, sway=0.4)
        if rng.random() < 0.4:
            add(2200, lambda points: 0.62 + 0.5 * (1.1 - points[:, 2]).clip(0, 0.5), to_fringe, lift=0.3, weight=0.5,
                wild=0.12, steps=8, width=0.012,
                keep=lambda points: on_scalp(points) * (points[:, 2] > 0.55) * (np.abs(points[:, 0]) < 0.5))
    else:  # tied, bun
        add(6000, lambda points: np.linalg.norm(points - tie, axis=1) * 1.15, to_tie, lift=0.12, weight=0.0,
            wild=0.04, cling=0.6, steps=12, width=0.012)
        knot = rng.normal(0, 1, (900, 3))
        if style == "bun":
            start = tie + (0, 0.1, -0.12) + 0.32 * unit(knot)
            spin = np.cross(unit(knot), unit(rng.normal(0, 1, (900, 3)))) * 0.12
            run = np.linspace(-1, 1, 6)[None, :, None] * spin[:, None]
        else:
            start, t = tie + 0.09 * knot, np.linspace(0, 1, 10)[None, :, None]
            arc = 0.3 * np.sin(t * np.pi) * np.array([0, 0, -1])
            run = t * np.array([0, -1.9, -0.25]) + arc + 0.1 * t * knot[:, None]
        back = int(np.argmin(np.linalg.norm(skull.model.base - tie, axis=1)))
        parts.append(Strands(np.full((900, 3), back), np.tile([1.0, 0, 0], (900, 1)), start[:, None] + run
                             - skull.model.base[back], np.full(900, 0.014),
                             np.clip(colour * np.exp(rng.normal(0, 0.2, (900, 1))), 0.002, 0.8), 0.8))
    return parts


def brows_and_lashes(rng, model, colour: np.ndarray, male: float) -> list[Strands]:
    """Brows as short hairs along the points 17..26, lashes along the upper lids."""
    places = map_place(model.at(model.base, model.keypoints))
    starts, runs = [], []
    height, count = rng.uniform(5, 9) + 4 * male, int(rng.uniform(70, 130))
    angle = rng.uniform(-0.1, 0.15)
    for brow, outward in ((places[17:22][::-1], -1), (places[22:27], 1)):  # from the nose outwards
        t = rng.uniform(0, 4, count)
        start = np.stack([np.interp(t, range(5), brow[:, axis]) for axis in (0, 1)], 1)
        start[:, 1] += 5 + rng.uniform(-0.55, 0.5, count) * height * (1.2 - t / 4 * 0.85)
        lean = np.where(t < 0.7, rng.uniform(0.1, 0.6, count), rng.uniform(0.85, 1.3, count))
        starts.append(start)
        runs.append(np.stack([outward * lean, 0.42 - 0.27 * t + angle, -0.16 * t], 1))
    vertices, weights = model.place(np.concatenate(starts))
    run = unit(np.concatenate(runs)) * rng.uniform(0.05, 0.09, (2 * count, 1))
    out = np.array([0, 0, 0.006])
    offsets = out + np.linspace(0, 1, 4)[None, :, None] * run[:, None]
    shade = np.exp(rng.normal(0, 0.25, (2 * count, 1)))
    brows = Strands(vertices, weights, offsets, rng.uniform(0.004, 0.007, 2 * count), (colour + 0.012) * shade)

    lashes, count = [], 34
    for lid, sign in (((36, 37, 38, 39), -1), ((45, 44, 43, 42), 1)):
        t = np.sort(rng.uniform(0, 2.9, count))
        first = np.array(lid)[t.astype(int)]
        second = np.array(lid)[np.minimum(t.astype(int) + 1, 3)]
        part = (t % 1)[:, None]
        vertices = np.concatenate([model.keypoints[0][first], model.keypoints[0][second]], 1)
        weights = np.concatenate([model.keypoints[1][first] * (1 - part), model.keypoints[1][second] * part], 1)
        reach = (0.024 + 0.02 * (1 - male)) * rng.uniform(0.7, 1.1, (count, 1))
        outward = sign * (0.9 - 0.5 * t)
        s = np.linspace(0, 1, 4)[None, :, None]
        offsets = reach[:, None] * (s * np.stack([outward, 0 * t, 0 * t + 0.9], 1)[:, None]
                                    + s ** 2 * np.array([0, 0.7, -0.2])) + (0, 0.008, 0.012)
        lashes.append(Strands(vertices, weights, offsets, np.full(count, 0.007), np.full((count, 3), 0.012)))
    return [brows, *lashes]


def beard_hair(rng, skull: Skull, colour: np.ndarray, beard_at, length: float) -> Strands:
    """A beard; beard_at: function of points (N, 3) of the unshaped mesh to its density (N,), 0..1."""
    vertices, weights, points, normals = skull.roots(rng, 4200, lambda p: beard_at(p) * (p[:, 1] > 5.95))
    t = np.linspace(0, 1, 5)[None, :, None]
    down = np.stack([0.15 * np.sign(points[:, 0]), -1 + 0 * points[:, 0], 0.1 + 0 * points[:, 0]], 1)
    down = down + rng.normal(0, 0.2, down.shape)
    reach = length * rng.uniform(0.5, 1.2, (len(points), 1, 1))
    offsets = reach * (t * (0.3 * normals[:, None] + 0.65 * down[:, None]) + t ** 2 * 0.3 * down[:, None])
    return Strands(vertices, weights, offsets, np.full(len(points), 0.006),
                   np.clip((colour + 0.006) * np.exp(rng.normal(0, 0.3, (len(points), 1))), 0.002, 0.7))


def sheet(rows: int, columns: int, closed: bool = False):
    """Triangles of a grid of points, row by row; closed joins the last column to the first."""
    row, column = np.meshgrid(np.arange(rows - 1), np.arange(columns - (not closed)), indexing="ij")
    right = (column + 1) % columns
    corner = [row * columns + column, row * columns + right, (row + 1) * columns + right, (row + 1) * columns + column]
    a, b, c, d = (x.ravel() for x in corner)
    return np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


def beanie(rng, skull: Skull, colour) -> Cover:
    """A knitted cap with a turned-up brim."""
    rows, columns, low = 26, 120, rng.uniform(1.28, 1.42)
    polar, azimuth = np.meshgrid(np.linspace(0.02, 1, rows), np.arange(columns) / columns * 2 * np.pi, indexing="ij")
    polar = polar * (low + 0.28 * (1 - np.cos(azimuth)) / 2)
    d = np.stack([np.sin(polar) * np.sin(azimuth), np.cos(polar), np.sin(polar) * np.cos(azimuth)], 2).reshape(-1, 3)
    level = np.repeat(np.linspace(0.02, 1, rows), columns)
    brim = step(0.74, 0.78, level) * step(1.02, 0.97, level)
    ribs = np.sin(np.tile(np.arange(columns), rows) / columns * 2 * np.pi * 40)
    radius = skull.radius(CENTRE + d, skull.loose) + 0.05 + 0.06 * brim + 0.1 * step(0.5, 0, level) + 0.008 * ribs
    shade = (1 + 0.15 * ribs) * (1 - 0.35 * np.exp(-((level - 0.75) / 0.02) ** 2))
    points = CENTRE + d * radius[:, None]
    return Cover(points, sheet(rows, columns, closed=True), np.float32(colour) * shade[:, None], np.ones(len(points)))


def headscarf(rng, skull: Skull, colour) -> Cover:
    """A scarf that leaves the face free and closes below the chin, hanging to the shoulders."""
    rows, columns = 34, 120
    roll = np.arange(columns) / columns * 2 * np.pi  # about the axis that looks forward, from the top
    opening = np.interp(np.abs(np.angle(np.exp(1j * roll))), (0, 0.9, 1.8, 2.5, np.pi), (0.50, 0.66, 0.76, 0.84, 0.82))
    level = np.linspace(0, 1, rows)[:, None]
    angle = opening + (2.9 - opening) * level
    d = np.stack([np.sin(angle) * np.sin(roll), np.sin(angle) * np.cos(roll), np.cos(angle) + 0 * roll], 2)
    d = d @ np.array([[1, 0, 0], [0, 0.985, 0.174], [0, -0.174, 0.985]])  # the opening looks a little down
    d = d.reshape(-1, 3)
    level = np.repeat(level[:, 0], columns)
    folds = noise(rng, 5, 14, (columns, rows)).ravel() * 0.035 + 0.02 * np.sin(np.tile(roll, rows) * 9 + level * 8)
    edge = 0.05 * np.exp(-(level / 0.05) ** 2)
    near, loose = (skull.radius(CENTRE + d, of) for of in (skull.map, skull.loose))
    radius = np.minimum(near, loose) + 0.035 + (0.04 + folds) * step(0, 0.25, level) + edge
    radius += step(0.05, 0.4, level) * (loose - np.minimum(near, loose))
    radius += 0.16 * step(0.62, 0.85, np.abs(d[:, 0]))  # over the ears
    points = CENTRE + d * radius[:, None]
    shade = 1 + 2.5 * folds
    return Cover(points, sheet(rows, columns, closed=True), np.float32(colour) * shade[:, None],
                 step(5.0, 6.6, points[:, 1]))


def neck_ring(model, angles: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How far the neck reaches (N,) from the axis x = 0, z = 0.25 at angles from the front and heights."""
    used = np.unique(model.faces["skin"])
    base = model.base[used]
    used = base[(base[:, 1] > 4.6) & (base[:, 1] < 6.1) & (np.abs(base[:, 0]) < 1.6)]
    azimuth, radius = np.arctan2(used[:, 0], used[:, 2] - 0.25), np.hypot(used[:, 0], used[:, 2] - 0.25)
    gap = (np.angle(np.exp(1j * (angles[:, None] - azimuth))) / 0.25) ** 2 + ((y[:, None] - used[:, 1]) / 0.16) ** 2
    near = np.exp(-gap) + 1e-12
    return np.minimum((near * radius).sum(1) / near.sum(1), 0.53 + 1.3 * (5.8 - y).clip(0))  # not the jaw's


def collar(rng, model, kind: str, colour) -> Cover:
    """A shirt's collar, a turtleneck or the thick ring of a hood or scarf."""
    columns = 72
    if kind == "shirt":
        angles = np.radians(np.linspace(11, 349, columns))
        front = np.cos(angles)
        tip = step(0.6, 0.95, front)
        heights = np.stack([5.70 + 0 * front, 5.97 - 0.03 * tip, 5.90 - 0.06 * tip, 5.70 - 0.15 * tip]) - 0.2 * front
        margins = np.array([0.03, 0.04, 0.10, 0.15])[:, None] + 0 * angles
    else:
        angles = np.arange(columns) / columns * 2 * np.pi
        front, t = np.cos(angles), np.linspace(0, 1, 9)[:, None]
        tall, thick = (0.4, 0.05) if kind == "turtleneck" else (0.4, 0.16)
        heights = 5.95 - 0.16 * front - tall * t
        margins = 0.05 + thick * np.sin(np.pi * np.minimum(t * 1.1, 1)) ** 0.7 + 0.04 * t + 0 * angles
        margins = margins + 0.012 * noise(rng, 5, 16, (columns, 9)) * (kind != "turtleneck")
    rows = len(heights)
    flat_angles = np.tile(angles, rows)
    level = np.tile(5.86 - 0.2 * front, rows) if kind == "shirt" else heights.ravel()
    radius = neck_ring(model, flat_angles, level) + margins.ravel()
    points = np.stack([np.sin(flat_angles) * radius, heights.ravel(), np.cos(flat_angles) * radius + 0.25], 1)
    shade = 1 + 0.06 * rng.normal(0, 1, (len(points), 1)) * (kind != "shirt")
    return Cover(points, sheet(rows, columns, closed=kind != "shirt"), np.float32(colour) * shade,
                 np.full(len(points), 0.12) * step(5.4, 6.0, points[:, 1]))


def tube(line: np.ndarray, radius: float, sides: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Points and triangles of a tube about a polyline (N, 3)."""
    along = unit(np.gradient(line, axis=0))
    first = unit(np.cross(along, (0.3, 0.9, 0.31)))
    second = np.cross(along, first)
    turn = np.arange(sides) / sides * 2 * np.pi
    around = np.cos(turn)[None, :, None] * first[:, None] + np.sin(turn)[None, :, None] * second[:, None]
    return (line[:, None] + radius * around).reshape(-1, 3), sheet(len(line), sides, closed=True)


def glasses(model, vertices: np.ndarray, look: dict) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Glasses that fit a shaped head: points (N, 3) and triangles (T, 3) of the frame, and two lens outlines (M, 3).

    look: half_width and half_height of a lens, square (the outline's exponent), thick (radius of the frame), all dm.
    """
    key = model.at(vertices, model.keypoints)
    front = max(key[[36, 39, 42, 45, 27, 28], 2].max(), key[[19, 24], 2].max() - 0.02) + 0.06
    pieces, lenses = [], []
    turn = np.linspace(0, 2 * np.pi, 41)
    for eye, sign in ((key[36:42], -1), (key[42:48], 1)):
        centre = eye.mean(0)
        x, y = (np.sign(f) * np.abs(f) ** (2 / look["square"]) for f in (np.cos(turn), np.sin(turn)))
        rim = np.stack([centre[0] + sign * 0.02 + look["half_width"] * x, centre[1] - 0.03 + look["half_height"] * y,
                        front - 0.10 * np.abs(centre[0] + look["half_width"] * x) ** 2], 1)
        pieces.append(tube(rim, look["thick"]))
        lenses.append(rim)
        corner = rim[np.argmax(sign * rim[:, 0])] + (0, 0.08, 0)
        ear = vertices[model.is_ear & (np.sign(model.base[:, 0]) == sign)]
        hook = np.array([sign * (np.abs(ear[:, 0]).min() + 0.03), ear[:, 1].max() - 0.12, np.median(ear[:, 2])])
        pieces.append(tube(np.linspace(corner, hook, 8), look["thick"] * 1.1))
    bridge = np.linspace(lenses[0][np.argmax(lenses[0][:, 0])], lenses[1][np.argmin(lenses[1][:, 0])], 9)
    bridge += np.stack([0 * turn[:9], 0.05 + 0.05 * np.sin(np.linspace(0, np.pi, 9)), 0.03 + 0 * turn[:9]], 1)
    pieces.append(tube(bridge, look["thick"]))
    starts = np.cumsum([0] + [len(points) for points, _ in pieces])
    return (np.concatenate([points for points, _ in pieces]),
            np.concatenate([tri + start for (_, tri), start in zip(pieces, starts, strict=False)]), lenses)
