"""Scenes: what is seen behind a head, out of focus, and the light that goes with it.

Colours are linear RGB, 1 being a white wall in full light; highlights go far above. Directions are those of the camera
frame: x right, y down, z away from the camera.
"""
import cv2
import numpy as np
from shade import Lights, to_linear, unit

KINDS = {"office": 0.24, "shelf": 0.14, "outdoor": 0.22, "street": 0.12, "studio": 0.14, "dim": 0.14}  # shares


def towards(azimuth: float, elevation: float) -> np.ndarray:
    """The direction to a lamp: degrees from the camera's side of the head to the image's right, and upwards."""
    a, e = np.radians([azimuth, elevation])
    return np.array([np.sin(a) * np.cos(e), -np.sin(e), -np.cos(a) * np.cos(e)])


def grey(rng, low: float, high: float, tint: float = 0.08) -> np.ndarray:
    """A dull random colour of this brightness."""
    return np.float32(rng.uniform(low, high) * (1 + rng.normal(0, tint, 3)).clip(0.5, 1.5))


def bright(rng, colour) -> tuple:
    """A colour (sRGB 0..255), linear and varied."""
    return tuple(float(c) for c in to_linear(colour) * rng.uniform(0.6, 1.4) * (1 + rng.normal(0, 0.06, 3)))


def box(image, x0: float, y0: float, x1: float, y1: float, colour) -> None:
    """Fill a rectangle given in widths and heights of the image."""
    height, width = image.shape[:2]
    corner = [(int(x * width), int(y * height)) for x, y in ((x0, y0), (x1, y1))]
    cv2.rectangle(image, *corner, tuple(float(c) for c in colour), -1)


def paint_office(rng, image) -> None:
    """A wall, a window or a door, pictures, furniture and a lamp."""
    wall = grey(rng, 0.25, 0.75)
    image[:] = wall * np.linspace(1.15, 0.75, image.shape[1])[None, :, None]
    if rng.random() < 0.65:
        x, wide = rng.uniform(-0.2, 0.9), rng.uniform(0.25, 0.55)
        outside = np.float32((0.9, 1.05, 1.25)) * rng.uniform(1.2, 2.6)
        box(image, x, -0.1, x + wide, rng.uniform(0.45, 0.75), outside)
        box(image, x, 0.30, x + wide, 0.5, outside * grey(rng, 0.3, 0.6, 0.15))
        for part in (0, 0.5, 1):
            box(image, x + part * wide - 0.012, -0.1, x + part * wide + 0.012, 0.75, wall * 0.9)
    else:
        x = rng.uniform(-0.1, 0.8)
        box(image, x, 0.05, x + 0.35, 1, grey(rng, 0.1, 0.5, 0.15))
    for _ in range(rng.integers(0, 4)):
        x, y, s = rng.uniform(0, 1), rng.uniform(0.02, 0.4), rng.uniform(0.05, 0.13)
        box(image, x - s - 0.015, y - 0.015, x + s + 0.015, y + 2.2 * s + 0.015, grey(rng, 0.02, 0.2))
        box(image, x - s, y, x + s, y + 2.2 * s, grey(rng, 0.1, 0.7, 0.3))
    for _ in range(rng.integers(1, 5)):
        x, s = rng.uniform(-0.1, 1), rng.uniform(0.08, 0.3)
        box(image, x, rng.uniform(0.55, 0.8), x + s, 1.1, grey(rng, 0.03, 0.4, 0.2))
    if rng.random() < 0.4:
        x, y = (rng.uniform(0, 1, 2) * (image.shape[1], 0.4 * image.shape[0])).astype(int)
        cv2.circle(image, (int(x), int(y)), int(0.06 * image.shape[1]), (4.0, 3.0, 1.8), -1)


def paint_shelf(rng, image) -> None:
    """Shelves with books."""
    image[:] = grey(rng, 0.03, 0.12, 0.2)
    spines = [(150, 60, 50), (60, 80, 110), (200, 190, 170), (70, 90, 70), (120, 90, 60), (40, 42, 50), (180, 140, 70)]
    y, wood = -rng.uniform(0, 0.2), grey(rng, 0.08, 0.35, 0.1) * (1.2, 1.0, 0.75)
    while y < 1:
        tall, x = rng.uniform(0.24, 0.34), -0.05
        while x < 1:
            wide = rng.uniform(0.015, 0.05)
            if rng.random() < 0.9:
                box(image, x, y + tall * rng.uniform(0.08, 0.35), x + wide, y + tall,
                    bright(rng, spines[rng.integers(len(spines))]))
            x += wide * 1.03
        box(image, -0.1, y + tall, 1.1, y + tall + 0.025, wood)
        y += tall + 0.025
    image *= rng.uniform(0.7, 1.6)


def paint_outdoor(rng, image) -> None:
    """Sky above, trees and bushes, grass below, sun between the leaves."""
    height, width = image.shape[:2]
    sky = np.float32(rng.choice([[0.9, 1.1, 1.4], [1.2, 1.2, 1.2], [1.3, 1.15, 0.9]])) * rng.uniform(0.6, 1.4)
    image[:] = sky
    skyline = rng.uniform(-0.1, 0.5)
    box(image, -0.1, 0.72, 1.1, 1.1, bright(rng, rng.choice([[110, 130, 70], [150, 140, 110], [120, 120, 118]])))
    for _ in range(240):
        x, y, s = rng.uniform(-0.1, 1.1), skyline + abs(rng.normal(0, 0.35)), rng.uniform(0.02, 0.11)
        leaf = bright(rng, rng.choice([[70, 96, 46], [98, 120, 60], [48, 66, 40], [120, 130, 70]]))
        if y < 0.85:
            cv2.circle(image, (int(x * width), int(y * height)), int(s * width), leaf, -1, cv2.LINE_AA)
    for _ in range(rng.integers(0, 5)):
        x = rng.uniform(0, 1)
        box(image, x, skyline, x + rng.uniform(0.01, 0.05), 0.9, bright(rng, (70, 56, 46)))
    for _ in range(rng.integers(0, 60)):
        x, y = rng.uniform(0, 1), rng.uniform(0, 0.7)
        cv2.circle(image, (int(x * width), int(y * height)), 1 + int(rng.uniform(0, 0.012) * width),
                   tuple(float(c) for c in sky * rng.uniform(1.5, 5)), -1)


def paint_street(rng, image) -> None:
    """Houses with windows under the sky, a pavement, something passing."""
    image[:] = np.float32((1.0, 1.1, 1.25)) * rng.uniform(0.7, 1.3)
    x = -0.1
    while x < 1.1:
        wide, top, wall = rng.uniform(0.2, 0.5), rng.uniform(-0.3, 0.3), grey(rng, 0.15, 0.6, 0.15)
        box(image, x, top, x + wide, 0.9, wall)
        pane = grey(rng, 0.03, 0.25, 0.2)
        for column in np.arange(x + 0.03, x + wide - 0.05, rng.uniform(0.08, 0.13)):
            for row in np.arange(top + 0.05, 0.7, rng.uniform(0.13, 0.2)):
                box(image, column, row, column + 0.045, row + 0.09, pane if rng.random() < 0.8 else (1.6, 1.3, 0.8))
        x += wide
    box(image, -0.1, 0.8, 1.1, 1.1, grey(rng, 0.15, 0.35))
    for _ in range(rng.integers(0, 5)):
        x, s = rng.uniform(0, 1), rng.uniform(0.06, 0.3)
        box(image, x, 0.72, x + s, 0.9, bright(rng, rng.uniform(20, 220, 3)))


def paint_studio(rng, image) -> None:
    """A plain backdrop with a pool of light."""
    height, width = image.shape[:2]
    row, column = np.mgrid[0:1:height * 1j, 0:1:width * 1j]
    x, y = rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.7)
    pool = np.exp(-((row - y) ** 2 + (column - x) ** 2) / rng.uniform(0.15, 0.8))[..., None]
    image[:] = grey(rng, 0.05, 0.6, 0.12) * (0.35 + pool)


def paint_dim(rng, image) -> None:
    """A room or a street in the evening: darkness with warm lights."""
    height, width = image.shape[:2]
    image[:] = grey(rng, 0.02, 0.10, 0.2) * np.float32((1.2, 1.0, 0.85))
    for _ in range(rng.integers(2, 7)):
        x, y, s = rng.uniform(-0.1, 1), rng.uniform(0, 1), rng.uniform(0.1, 0.4)
        box(image, x, y, x + s, y + 1.5 * s, grey(rng, 0.02, 0.16, 0.3))
    for _ in range(rng.integers(5, 26)):
        x, y = rng.uniform(0, 1) * width, rng.uniform(0, 0.8) * height
        glow = np.float32(rng.choice([[1.6, 1.0, 0.45], [1.5, 1.3, 1.0], [0.5, 0.8, 1.5], [1.6, 0.5, 0.35]]))
        cv2.circle(image, (int(x), int(y)), 1 + int(rng.uniform(0, 0.014) * width),
                   tuple(float(c) for c in glow * rng.uniform(1, 6)), -1)


def disc_blur(image: np.ndarray, radius: float) -> np.ndarray:
    """The blur of an open lens: every point becomes a disc of this radius in pixels."""
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach:reach + 1, -reach:reach + 1]
    disc = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
    return cv2.filter2D(image, -1, disc / disc.sum(), borderType=cv2.BORDER_REFLECT)


def make_scene(rng: np.random.Generator, width: int, height: int) -> tuple[np.ndarray, Lights]:
    """A scene out of focus, (height, width, 3) float32, and its light."""
    kind = str(rng.choice(list(KINDS), p=np.array(list(KINDS.values())) / sum(KINDS.values())))
    margin = 1.25  # painted larger: a crop has no fixed corners
    image = np.zeros((int(height * margin), int(width * margin), 3), np.float32)
    {"office": paint_office, "shelf": paint_shelf, "outdoor": paint_outdoor, "street": paint_street,
     "studio": paint_studio, "dim": paint_dim}[kind](rng, image)
    image = disc_blur(image, max(1.5, rng.uniform(0.022, 0.065) * width))
    image = cv2.GaussianBlur(image, (0, 0), 1.0)
    top, left = (int(rng.uniform(0, n)) for n in (image.shape[0] - height + 1, image.shape[1] - width + 1))
    image = np.ascontiguousarray(image[top:top + height, left:left + width])

    image *= rng.uniform(0.55, 1.0)
    side = rng.choice([-1, 1])
    mean = np.minimum(image.reshape(-1, 3).mean(0), 1.2)
    mean = mean + 0.35 * (mean.mean() - mean)
    warm, cool, plain = np.float32((1.0, 0.86, 0.70)), np.float32((0.86, 0.94, 1.0)), np.float32((1.0, 0.97, 0.93))
    if kind == "outdoor" or kind == "street":
        name, sunny = "outdoor", rng.random() < 0.45
        key = (towards(side * rng.uniform(15, 70), rng.uniform(25, 60)), np.float32((1.15, 1.03, 0.86))
               * (rng.uniform(0.8, 1.2) if sunny else rng.uniform(0.3, 0.5)))
        soft, sky = (0.05, 0.28) if sunny else (0.3, 0.5)
        around = {"above": sky * np.float32((0.85, 0.97, 1.15)), "below": 0.22 * mean, "left": 0.5 * sky + 0.15 * mean,
                  "right": 0.5 * sky + 0.15 * mean}
        rim = (towards(-side * rng.uniform(100, 150), 35), plain * rng.uniform(0.1, 0.6))
        fill = (towards(-side * 40, 5), cool * 0.06)
    elif kind == "dim":
        name = "dim"
        key = (towards(side * rng.uniform(20, 75), rng.uniform(0, 35)), warm * rng.uniform(0.6, 0.9))
        soft = rng.uniform(0.08, 0.25)
        around = {"above": 0.10 * warm, "below": 0.07 * warm, "left": 0.10 * cool + 0.1 * mean, "right": 0.10 * warm}
        fill = (towards(-side * rng.uniform(30, 70), 0), cool * rng.uniform(0.06, 0.2))
        rim = (towards(-side * rng.uniform(100, 150), 20),
               np.float32(rng.choice([[1.0, 0.6, 0.3], [0.4, 0.6, 1.0], [1, 0.9, 0.8]])) * rng.uniform(0.1, 0.7))
    elif kind == "studio":
        name = "studio"
        key = (towards(side * rng.uniform(20, 55), rng.uniform(20, 45)), plain * rng.uniform(0.7, 0.95))
        soft = rng.uniform(0.12, 0.25)
        around = dict.fromkeys(("above", "below", "left", "right"), 0.16 * plain)
        fill = (towards(-side * rng.uniform(20, 60), 10), plain * rng.uniform(0.12, 0.35))
        rim = (towards(-side * rng.uniform(110, 150), 40), plain * rng.uniform(0.2, 0.9))
    else:
        name = "window" if rng.random() < 0.5 else "room"
        if name == "window":
            key = (towards(side * rng.uniform(35, 85), rng.uniform(5, 30)), cool * rng.uniform(0.7, 1.0))
        else:
            key = (towards(side * rng.uniform(0, 40), rng.uniform(40, 65)), plain * rng.uniform(0.45, 0.7))
        soft = rng.uniform(0.2, 0.35)
        around = {"above": 0.32 * plain, "below": 0.14 * plain, "left": 0.2 * plain + 0.1 * mean,
                  "right": 0.2 * plain + 0.1 * mean}
        fill = (towards(-side * rng.uniform(20, 60), 5), plain * rng.uniform(0.05, 0.18))
        rim = (towards(-side * rng.uniform(110, 150), 25), plain * rng.uniform(0.0, 0.3))
    contrast = rng.uniform(0.48, 0.9)
    around = {name: light * contrast for name, light in around.items()}
    return image, Lights(name, (unit(key[0]), key[1]), fill, rim, soft, around)
