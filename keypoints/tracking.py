"""Faces through a video: each keeps its id, its points are steady, and most frames cost one pass of half the network.

A face that was found once is *followed*: its points, moved on as it moved, tell where the close view of the network's
second look lies, so that neither the detector nor the first look is needed (as MediaPipe does: Bazarevsky et al.,
BlazeFace, 2019, https://arxiv.org/abs/1907.05047). The network's score tells when that fails. Then it looks twice near
the place, and the detector runs: it also does at the start and now and then, for faces that come in. A video's first
frame is searched as thoroughly as a still image; later frames run one of the detector's searches each at most, in turn.

Points tremble because each frame is judged anew. The One-Euro filter (Casiez, Roussel and Vogel, 1€ Filter, 2012,
https://doi.org/10.1145/2207676.2208639) averages over time, the longer the slower something moves. Here it has two
parts: where the face is, how large, turned and foreshortened (an affine map of a flat face), and how its points lie to
each other in its own frame. A still head holds a mouth that talks, and a mouth at rest moves with the head.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from data_load import NUM_KEYPOINTS
from keypoints.detection import SURE, Face, KeypointDetector, cut_out
from keypoints.detectors import FaceFinder, overlap
from keypoints.detectors import upright as with_roll
from keypoints.expression import Emotion, ExpressionSmoother
from keypoints.images import as_rgb
from keypoints.landmarks import LEFT_EYE, MOUTH, REFERENCE_FACE, RIGHT_EYE, face_size, nme

NEW, TRACKED, LOST = "new", "tracked", "lost"


class OneEuro:
    """The One-Euro filter: a low pass whose cutoff frequency rises with the speed.

    Args:
        min_cutoff: Hz, of what stands still: less is steadier.
        beta: by how many Hz the cutoff rises for a speed of one unit a second: more lags less.
        d_cutoff: Hz, of the low pass of the speed.
        noise: units a second: a speed that trembling alone brings about, and that counts as none. It is our addition;
            with 0 the filter is the paper's.

    >>> steady = OneEuro(min_cutoff=1.0, beta=0.0)
    >>> [float(steady(np.array([value]), time)[0].round(2)) for time, value in ((0, 0), (0.1, 1), (0.2, 1))]
    [0.0, 0.39, 0.62]
    """

    def __init__(self, min_cutoff: float, beta: float, d_cutoff: float = 1.0, noise: float = 0.0) -> None:
        self.min_cutoff, self.beta, self.d_cutoff, self.noise = min_cutoff, beta, d_cutoff, noise
        self.time: float | None = None

    def __call__(self, value: np.ndarray, time: float, unit: float = 1.0) -> np.ndarray:
        """The next value.

        Args:
            value: (…, D): vectors of D numbers that share a speed.
            time: seconds. A time that does not come after the last one's changes nothing.
            unit: in what the speed is measured, for instance the size of the face.

        Returns:
            (…, D) float64.

        Raises:
            ValueError: ``time`` is not finite.
        """
        _check_time(time)
        value = np.asarray(value, np.float64)
        if self.time is None:
            self.time, self.value, self.velocity = time, value, np.zeros_like(value)
            return value
        seconds = time - self.time
        if seconds <= 0:
            return self.value
        velocity = (value - self.value) / (seconds * unit)
        self.velocity = self.velocity + _share(self.d_cutoff, seconds) * (velocity - self.velocity)
        speed = np.linalg.norm(self.velocity, axis=-1, keepdims=True)
        cutoff = self.min_cutoff + self.beta * np.maximum(0, speed - self.noise)
        self.value = self.value + _share(cutoff, seconds) * (value - self.value)
        self.time = time
        return self.value


def _check_time(time: float) -> None:
    if not math.isfinite(time):  # NaN compares as neither earlier nor later and would make all points NaN
        raise ValueError(f"got time {time}, expected a finite number of seconds")


def _share(cutoff: np.ndarray | float, seconds: float) -> np.ndarray | float:
    """What part of the way to the new value a low pass of first order goes in this time."""
    rate = 2 * np.pi * cutoff * seconds
    return rate / (rate + 1)


@dataclass(frozen=True)
class Smoothing:
    """The parameters of both filters (cutoff, beta, d_cutoff, noise); speeds are in face sizes a second.

    ``python -m training.studies.tracking`` measures what they do and others would.
    """

    place: tuple[float, float, float, float] = (4.0, 312.0, 12.0, 0.39)
    shape: tuple[float, float, float, float] = (0.86, 70.0, 2.5, 0.044)


_FLAT = REFERENCE_FACE[:, :2] - REFERENCE_FACE[:, :2].mean(axis=0)
# Points that an affine map makes of the flat face: sums of these three columns, of mean square 1 and orthogonal, so
# that the length of a change of the coefficients is how far the points move (root mean square).
_AFFINE = np.linalg.qr(np.column_stack([_FLAT, np.ones(NUM_KEYPOINTS)]))[0] * np.sqrt(NUM_KEYPOINTS)

_TO_AFFINE = np.linalg.pinv(np.column_stack([_FLAT, np.ones(NUM_KEYPOINTS)]))  # points → its matrix, (3, 2)


class Smoother:
    """Steadies the 68 points of one face.

    >>> smoother, points = Smoother(), np.random.default_rng(0).uniform(0, 100, (68, 2))
    >>> bool(np.allclose(smoother(points, time=0), points)), smoother(points + 1, time=0.04).shape
    (True, (68, 2))
    """

    def __init__(self, smoothing: Smoothing | None = None) -> None:
        smoothing = smoothing or Smoothing()
        self._place, self._shape = OneEuro(*smoothing.place), OneEuro(*smoothing.shape)

    def __call__(self, keypoints: np.ndarray, time: float) -> np.ndarray:
        """(68, 2) pixels and seconds → (68, 2) float64."""
        points = np.asarray(keypoints, np.float64)
        place = _AFFINE.T @ points / NUM_KEYPOINTS
        flat = _AFFINE @ place
        # What the affine map leaves, turned upright and in face sizes.
        shape = (points - flat) @ (1, 1j) / _scale_and_turn(flat)
        shape = self._shape(np.column_stack([shape.real, shape.imag]), time) @ (1, 1j)
        flat = _AFFINE @ self._place(place.ravel(), time, float(face_size(points))).reshape(3, 2)
        shape = shape * _scale_and_turn(flat)
        return flat + np.column_stack([shape.real, shape.imag])


def _scale_and_turn(points: np.ndarray) -> complex:
    """How large the face is, pixels, and how turned: the similarity of complex numbers from the flat face."""
    flat = _FLAT @ (1, 1j)
    return complex(flat.conj() @ (points @ (1, 1j)) / (flat.conj() @ flat).real * face_size(_FLAT))


class Signals:
    """Whether the eyes are shut and the mouth is open, by aspect ratios with hysteresis.

    Both are measured on the face's points with turn and foreshortening taken out. How high open eyes are differs from
    person to person, and predicted points follow a blink only part of the way. So the eyes' ratio (Soukupová and Čech,
    Real-time eye blink detection using facial landmarks, 2016) is compared with its own median of the last moments.
    That finds blinks; eyes that stay shut are told only where the ratio falls by half.

    Attributes:
        blink, mouth_open: as of the last look.
    """

    SHUT, AGAIN_OPEN = 0.88, 0.93  # of the median: below the first a blink begins, above the second it ends
    DEEP = 0.5  # of the open eyes' ratio: below that they are shut however long it lasts
    LOOK_BACK, LEARN = 0.32, 5.0  # seconds of the median; in which the open eyes' ratio is learned
    OPEN, AGAIN_SHUT = 0.12, 0.105  # the mouth: gap to width

    def __init__(self) -> None:
        self.blink = self.mouth_open = False
        self._past: deque[tuple[float, float]] = deque()  # times and ratios
        self._open_eyes = 0.0

    def __call__(self, keypoints: np.ndarray, time: float) -> Signals:
        """Look at the points of the next frame, (68, 2), not smoothed."""
        own = upright(keypoints)
        eyes, mouth = eye_ratio(own), mouth_ratio(own)
        self.mouth_open = mouth > (self.AGAIN_SHUT if self.mouth_open else self.OPEN)
        last, seconds = (self._past[-1][1], time - self._past[-1][0]) if self._past else (eyes, 0.0)
        self._past.append((time, eyes))
        while self._past[0][0] < time - self.LOOK_BACK - 1e-6:
            self._past.popleft()
        if eyes > self._open_eyes or not self.blink:
            self._open_eyes += (1 - np.exp(-seconds / self.LEARN)) * (eyes - self._open_eyes) if seconds else eyes
        usual, now = float(np.median([ratio for _, ratio in self._past])), (eyes + last) / 2
        dips = now < (self.AGAIN_OPEN if self.blink else self.SHUT) * usual
        self.blink = bool(dips or now < self.DEEP * self._open_eyes)
        return self


def upright(keypoints: np.ndarray) -> np.ndarray:
    """The points (68, 2) in the face's own frame, (68, 2): turned, sized and stretched as the mean face from ahead."""
    affine = _TO_AFFINE @ np.asarray(keypoints, np.float64)
    return (keypoints - affine[2]) @ np.linalg.pinv(affine[:2])


def eye_ratio(own: np.ndarray) -> float:
    """Height of the eyes, both taken together, to the width of the mean face's; of :func:`upright` points.

    >>> eye_ratio(upright(_FLAT)).__round__(2)
    0.29
    """
    eyes, usual = (np.stack([face[RIGHT_EYE], face[LEFT_EYE]]) for face in (own, _FLAT))
    height = np.linalg.norm(eyes[:, 1:3] - eyes[:, [5, 4]], axis=2).mean()
    return float(height / np.linalg.norm(usual[:, 0] - usual[:, 3], axis=1).mean())


def mouth_ratio(own: np.ndarray) -> float:
    """The gap between the inner lips to their width."""
    inner = own[MOUTH][12:]
    gap = np.linalg.norm(inner[1:4] - inner[[7, 6, 5]], axis=1).mean()
    return float(gap / max(1e-6, np.linalg.norm(inner[0] - inner[4])))


@dataclass(frozen=True, eq=False)
class TrackedFace(Face):
    """One face of one frame of a video.

    Attributes:
        box: as the Haar cascade would frame the points.
        keypoints: (68, 2) float32, steadied; of a lost face, where they are expected.
        id: the same from frame to frame, from 0.
        state: 'new' on its first frame, 'tracked', or 'lost': hidden or gone, until it is forgotten.
        time: seconds.
        raw: (68, 2) float32, as the network placed them on this frame.
        blink, mouth_open: whether the eyes are shut, and the mouth is open.
    """

    id: int = 0
    state: str = NEW
    time: float = 0.0
    raw: np.ndarray | None = None
    blink: bool = False
    mouth_open: bool = False


@dataclass(eq=False)
class _Track:
    """What the tracker knows of a face from frame to frame."""

    id: int
    points: np.ndarray  # (68, 2) float64, raw
    time: float  # when they were seen
    smoother: Smoother | None
    face: TrackedFace | None = None
    signals: Signals = field(default_factory=Signals)
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))  # pixels a second
    lost: bool = False
    unconfirmed: int = 0  # checks in a row at which the detector did not find it

    def predict(self, time: float) -> np.ndarray:
        """Where the points are expected."""
        return self.points + self.velocity * min(time - self.time, COAST)

    def see(self, points: np.ndarray, time: float) -> None:
        seconds = time - self.time
        if self.lost or seconds > COAST:
            self.velocity = np.zeros(2)
        elif seconds > 0:
            now = (points.mean(axis=0) - self.points.mean(axis=0)) / seconds
            self.velocity = self.velocity + (1 - np.exp(-seconds / INERTIA)) * (now - self.velocity)
        self.points, self.time, self.lost = points, time, False

    @property
    def size(self) -> float:
        return float(face_size(self.points))


class _Seen(NamedTuple):
    """A face found on this frame, and whose it is."""

    track: _Track
    points: np.ndarray  # (68, 2) float64
    confidence: np.ndarray | None
    score: float | None


COAST = 1.0  # seconds for which a motion is taken to go on
INERTIA = 0.06  # seconds: over about so long the velocity is averaged
SAME = 0.35  # face sizes: two faces' centroids nearer than that are one face
RETURN = 0.6, 0.8  # face sizes, and more for each second: how far from where it is expected a lost face may come back
RESIZED = 1.6  # how much larger or smaller a face may be from one look to the next
SMALLEST = 12.0  # pixels: what shrinks below that is no face any more
FRAMED = 0.5  # intersection over union of the detector's box and a followed face's from which it is that face's
SAMPLED = 1.0  # pixels to one of the close view, each way, beyond which they are averaged: noise and jitter are less
ASTRAY = 12.0  # percent of the face's size: followed points that are off a fresh look's by more start anew
TURNED = np.radians(25)  # a face tilted by more is cut out turned, as the detector's searches do
CUT = 0.35  # correlation of a frame with the last one below which the scene is another
ODD_ONES = 3  # checks that a network without a score lets pass without the detector's assent
PATIENCE = 0.1  # seconds between the detector's further searches while nobody is seen
SEARCHES = 2  # further searches after each check, on a frame each, so that the time for a frame has a bound
SEARCHED_PIXELS = 500_000  # of a frame, in a further search


class FaceTracker:
    """Gives the faces of a video, frame by frame.

    A tracker is for one video and one thread: each call changes its state, so frames of several videos or calls from
    several threads would mix their faces. Make one tracker for each; they may share a :class:`KeypointDetector`.

    Start further processes with ``multiprocessing.get_context("spawn")``. A process that is forked after PyTorch has
    computed with several threads hangs at its first pass, because the threads of PyTorch's pool are not copied.

    Args:
        detector: a :class:`KeypointDetector`, or weights for one; its network must look twice.
        check: seconds between looks of the detector for faces that came in.
        memory: seconds for which a lost face keeps its id.
        smoothing: the filters' parameters; False leaves the points as the network places them.

    Attributes:
        faces: how many different faces there were so far.
        detections: on how many frames the detector ran.

    >>> tracker = FaceTracker()
    >>> for number in range(2):
    ...     [face] = tracker("data/photos/grace_hopper.jpg", time=number / 25)
    >>> face.id, face.state, face.keypoints.shape
    (0, 'tracked', (68, 2))
    """

    def __init__(
        self,
        detector: KeypointDetector | str | Path | None = None,
        check: float = 1.0,
        memory: float = 1.0,
        smoothing: Smoothing | bool = True,
    ) -> None:
        if not isinstance(detector, KeypointDetector):
            detector = KeypointDetector(detector) if detector else KeypointDetector()
        if not hasattr(detector.net, "follow"):
            name = type(detector.net).__name__
            raise ValueError(f"got a {name}, expected a network that looks twice (models.TwoLooks)")
        self.detector, self.net = detector, detector.net
        self.check, self.memory, self.smoothing = check, memory, smoothing
        self.faces = self.detections = 0
        self._turn = 0  # how many further searches there were: which one is next
        self.reset()

    def reset(self) -> None:
        """Forget all faces, as at a cut; ids go on."""
        self._tracks: list[_Track] = []
        self._time: float | None = None
        self._next_check = -np.inf
        self._next_far = -np.inf
        self._due = 0  # further searches to come
        self._scene: np.ndarray | None = None
        self._answer: list[TrackedFace] = []

    def __call__(self, image: np.ndarray | str | Path, time: float | None = None) -> list[TrackedFace]:
        """The faces of the next frame, by id; lost ones come along until they are forgotten.

        Args:
            image: an array, a PIL image or a file's path, see :func:`keypoints.images.as_rgb`.
            time: seconds, when the frame was taken; by default 1/25 after the last. The last one's time again gives
                the last answer again. An earlier time begins a new video.

        Raises:
            ValueError: ``time`` is not finite.
        """
        image = as_rgb(image)
        if time is None:
            time = 0.0 if self._time is None else self._time + 0.04
        _check_time(time)
        if time == self._time:
            return list(self._answer)
        scene = _scene(image)
        before, last = self._time, self._scene
        if before is not None and last is not None and (time < before or _correlation(scene, last) < CUT):
            self.reset()
        self._time, self._scene = time, scene
        seen = self._follow(image, time)
        seen += self._again(image, time, seen)
        start = before is None or time <= before
        seen += self._place(self._search_all(image, time), time, seen) if start else self._detect(image, time, seen)
        faces = []
        for track, points, confidence, score in seen:
            if track.lost:
                track.smoother = self._smoother()
            track.see(points, time)
            faces.append(self._face(track, image, confidence, score))
        found = {face.id for face in faces}
        kept = []
        for track in self._tracks:
            if track.id not in found:
                track.lost = True
                if time - track.time > self.memory:
                    continue
                faces.append(self._expected(track, time))
            kept.append(track)
        self._tracks = kept
        self._answer = sorted(faces, key=lambda face: face.id)
        return list(self._answer)

    def _follow(self, image: np.ndarray, time: float) -> list[_Seen]:
        """Those of the tracked faces that the second look finds where they are expected."""
        tracks, views, places, expected = [], [], [], []
        for track in self._tracks:
            if track.lost:
                continue
            points = track.predict(time)
            view, place = self._view(image, points)
            if view is not None:
                tracks.append(track)
                views.append(view)
                places.append(place)
                expected.append(points)
        if not tracks:
            return []
        place = np.stack(places)
        shifted = np.stack(expected) - place[:, None, :, 2]
        before = np.linalg.solve(place[:, :, :2], shifted.swapaxes(1, 2)).swapaxes(1, 2)
        device = next(self.net.parameters()).device
        with torch.inference_mode():
            batch = torch.from_numpy(np.stack(views)[:, None]).to(device).float() / 255
            said = self.net.follow(batch, torch.from_numpy(before).float().to(device))
        points = said[0].cpu().numpy().astype(np.float64) @ place[:, :, :2].swapaxes(1, 2) + place[:, None, :, 2]
        none = [None] * len(tracks)
        confidence, score = (none if part is None else part.cpu().numpy() for part in said[1:])
        seen = []
        for one in map(_Seen, tracks, points, confidence, score):
            enough = one.track.unconfirmed < ODD_ONES if one.score is None else one.score >= self.detector.min_score
            if enough and _likely(one.track, one.points, time) and _inside(one.points, image):
                seen.append(one)
        return _each_once(seen, time)

    def _view(self, image: np.ndarray, points: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
        """The close view of points, and where it lies: (2, 3) from view units to pixels."""
        centre = points.mean(axis=0)
        unit = 2.5 * np.sqrt(((points - centre) ** 2).sum(axis=1).mean())  # well inside what TwoLooks.place takes
        place = self.net.place(torch.from_numpy((points - centre) / unit)[None].float())[0].double().numpy() * unit
        place[:, 2] += centre
        side = self.net.close
        matrix = np.column_stack([place[:, :2] * 2 / side, place[:, 2] + place[:, :2].sum(axis=1) * (1 / side - 1)])
        return cut_out(image, matrix, side, finest=SAMPLED), place

    def _again(self, image: np.ndarray, time: float, seen: list[_Seen]) -> list[_Seen]:
        """Both looks near the place of faces that could not be followed: moved too fast, or hidden for a moment."""
        missing = [track for track in self._tracks if all(track is not other.track for other in seen)]
        found: list[_Seen] = []
        for track in missing:
            expected = track.predict(time)
            if not _inside(expected, image) or time - track.time > self.memory:
                continue
            for face in self.detector.faces(image, self._box(expected)):
                points = face.keypoints.astype(np.float64)
                sure = face.score is not None and face.score >= SURE
                if sure and _likely(track, points, time) and not _taken(points, seen + found):
                    found.append(_Seen(track, points, face.confidence, face.score))
        return found

    def _box(self, points: np.ndarray) -> np.ndarray:
        """The detector's box of a face, (1, 5), turned with it where it is far from upright."""
        roll = np.angle(_scale_and_turn(points))
        turn = np.exp(1j * roll) if abs(roll) > TURNED else 1
        centre = points.mean(axis=0) @ (1, 1j)
        flat = (points @ (1, 1j) - centre) / turn
        box = self.detector.framing.boxes(np.column_stack([flat.real, flat.imag]))[0]
        middle = (box[:2] + box[2:] / 2) @ (1, 1j) * turn + centre
        place = np.array([middle.real, middle.imag]) - box[2:] / 2
        return np.array([[*place, *box[2:], np.degrees(np.angle(turn))]])

    def _search_all(self, image: np.ndarray, time: float) -> list[Face]:
        """The faces of a video's first frame."""
        self.detections += 1
        self._next_check = time + self.check
        return self.detector(image)

    def _detect(self, image: np.ndarray, time: float, seen: list[_Seen]) -> list[_Seen]:
        """Faces that come in or back, and followed ones that a fresh look corrects, if it is time to look for them."""
        regular, hurry = time >= self._next_check, len(seen) < max(1, len(self._tracks))
        if regular:
            self._next_check = time + self.check
        alone = not seen and time >= self._next_far
        if alone:
            self._next_far = time + PATIENCE
        further = alone or (self._due > 0 and not regular)
        self._due = SEARCHES if regular else max(0, self._due - further)
        if not (regular or hurry or further):
            return []
        self.detections += 1
        first, others = self._searches(image, turned=not seen)
        fresh: list[Face] = []
        if regular or hurry:
            boxes, confirmed = self._strange(with_roll(first()), seen)
            if regular:
                for track in (one.track for one in seen):
                    track.unconfirmed = 0 if track.id in confirmed else track.unconfirmed + 1
            fresh = self.detector.faces(image, boxes)
        if further and others and not fresh:
            boxes, _ = self._strange(with_roll(others[self._turn % len(others)]()), seen)
            self._turn += 1
            fresh = [face for face in self.detector.faces(image, boxes) if (face.score or 0) >= SURE]
        return self._place(fresh, time, seen)

    def _searches(self, image: np.ndarray, turned: bool) -> tuple[Callable, list[Callable]]:
        """The detector's first search, and the others, of the image turned by 90 and 180 degrees as well."""
        detect = self.detector.detect
        if not hasattr(detect, "passes"):
            return partial(detect, image), []
        first, *others = detect.passes(image)
        if isinstance(detect, FaceFinder):
            others = detect.passes(image, most_pixels=SEARCHED_PIXELS)[1:]
            for roll in (90, -90, 180) if turned else ():
                others += detect.passes(image, roll, SEARCHED_PIXELS)
        return first, others

    def _strange(self, boxes: np.ndarray, seen: list[_Seen]) -> tuple[np.ndarray, set[int]]:
        """Those boxes that frame no followed face as it should be framed; ids of the faces that are framed so."""
        if not seen or not len(boxes):
            return boxes, set()
        known = self.detector.framing.boxes(np.stack([one.points for one in seen]))
        shared = overlap(boxes, known)
        confirmed = {seen[i].track.id for i in np.flatnonzero(shared.max(axis=0) > FRAMED)}
        return boxes[shared.max(axis=1) <= FRAMED], confirmed

    def _place(self, fresh: list[Face], time: float, seen: list[_Seen]) -> list[_Seen]:
        """Which face is whose: lost ones that are back, and new ones. Followed ones that went astray are put right."""
        found: list[_Seen] = []
        missing = [track for track in self._tracks if all(track is not other.track for other in seen)]
        for face in sorted(fresh, key=lambda face: -(face.score or 0)):
            points = face.keypoints.astype(np.float64)
            if _taken(points, found):
                continue
            same = [i for i, other in enumerate(seen) if _taken(points, [other])]
            if same:
                old = seen[same[0]]
                if nme(old.points[None], points[None])[0] > ASTRAY and face.score is not None:
                    seen[same[0]] = _Seen(old.track, points, face.confidence, face.score)
                continue
            near = [(_off(track, points, time), track) for track in missing if _likely(track, points, time)]
            if near:
                track = min(near, key=lambda pair: pair[0])[1]
                missing.remove(track)
            else:
                track = _Track(self.faces, points, time, self._smoother())
                self._tracks.append(track)
                self.faces += 1
            found.append(_Seen(track, points, face.confidence, face.score))
        return found

    def _smoother(self) -> Smoother | None:
        if self.smoothing is False:
            return None
        return Smoother(None if self.smoothing is True else self.smoothing)

    def _face(
        self, track: _Track, image: np.ndarray, confidence: np.ndarray | None, score: float | None
    ) -> TrackedFace:
        points = track.points if track.smoother is None else track.smoother(track.points, track.time)
        track.signals(track.points, track.time)
        track.face = TrackedFace(
            box=self.detector.framing.boxes(points)[0],
            keypoints=points.astype(np.float32),
            image_size=(image.shape[1], image.shape[0]),
            confidence=confidence,
            score=None if score is None else float(score),
            id=track.id,
            state=NEW if track.face is None else TRACKED,
            time=track.time,
            raw=track.points.astype(np.float32),
            blink=track.signals.blink,
            mouth_open=track.signals.mouth_open,
        )
        return track.face

    def _expected(self, track: _Track, time: float) -> TrackedFace:
        """A face that is not seen, where it should be."""
        assert track.face is not None  # who is not seen was seen before
        moved = (track.predict(time) - track.points).astype(np.float32)[0]
        points = track.face.keypoints + moved
        box = self.detector.framing.boxes(points)[0]
        return TrackedFace(box, points, track.face.image_size, id=track.id, state=LOST, time=time)


class Expressions:
    """The expressions of tracked faces, each smoothed over its own time.

    >>> [face] = FaceTracker()("data/photos/grace_hopper.jpg")
    >>> sorted(Expressions()([face])) == [face.id]
    True
    """

    def __init__(self) -> None:
        self._smoothers: dict[int, ExpressionSmoother] = {}

    def __call__(self, faces: Sequence[TrackedFace]) -> dict[int, Emotion | None]:
        """Of the next frame's faces: id → expression, of a lost face None."""
        known = self._smoothers
        self._smoothers = {face.id: known.get(face.id) or ExpressionSmoother() for face in faces}
        return {
            face.id: None if face.state == LOST else self._smoothers[face.id](face.emotion, face.time)
            for face in faces
        }


def _off(track: _Track, points: np.ndarray, time: float) -> float:
    """How far points lie from where the face is expected, in its sizes."""
    return float(np.linalg.norm(points.mean(axis=0) - track.predict(time).mean(axis=0))) / track.size


def _likely(track: _Track, points: np.ndarray, time: float) -> bool:
    """Whether points may be those of a face, by place and size."""
    away, size = time - track.time, float(face_size(points))
    resized = RESIZED * (1 + away)
    near = _off(track, points, time) < RETURN[0] + RETURN[1] * away
    return near and size > SMALLEST and track.size / resized < size < track.size * resized


def _taken(points: np.ndarray, entries: list[_Seen]) -> bool:
    """Whether a face is one of those already seen on this frame."""
    centroid, size = points.mean(axis=0), face_size(points)
    return any(
        np.linalg.norm(centroid - one.points.mean(axis=0)) < SAME * min(size, face_size(one.points)) for one in entries
    )


def _inside(points: np.ndarray, image: np.ndarray) -> bool:
    """Whether the middle of a face lies in the image."""
    x, y = points.mean(axis=0)
    return 0 <= x < image.shape[1] and 0 <= y < image.shape[0]


def _each_once(seen: list[_Seen], time: float) -> list[_Seen]:
    """Where two tracks have come to lie on one face: whom it is nearer to keeps it."""
    kept: list[_Seen] = []
    for one in sorted(seen, key=lambda one: _off(one.track, one.points, time)):
        if not _taken(one.points, kept):
            kept.append(one)
    return kept


def _scene(image: np.ndarray) -> np.ndarray:
    """A frame as a few numbers, (24, 24), without its brightness and contrast."""
    step = max(1, min(image.shape[:2]) // 120)
    small = cv2.resize(image[::step, ::step], (24, 24), interpolation=cv2.INTER_AREA).astype(np.float32).mean(axis=2)
    small -= small.mean()
    return small / max(1e-6, float(np.linalg.norm(small)))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum())
