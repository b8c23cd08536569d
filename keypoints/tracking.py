"""Faces through a video: each keeps its id, its points are steady, and most frames need no detector.

A face that was found once is *followed*: its points, moved on as it moved, tell where the network's crop lies (as in
MediaPipe: Bazarevsky et al., BlazeFace, 2019, https://arxiv.org/abs/1907.05047). The network's score tells when that
fails. Then the detector runs; it also does at the start and now and then, for faces that come in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from keypoints.detection import Face, KeypointDetector, candidates
from keypoints.expression import Emotion, ExpressionSmoother, expression_crop
from keypoints.geometry import box_iou
from keypoints.images import as_rgb
from keypoints.landmarks import face_size, nme
from keypoints.signals import Signals
from keypoints.smoothing import Smoother, Smoothing, check_time

NEW, TRACKED, LOST = "new", "tracked", "lost"


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
ASTRAY = 12.0  # percent of the face's size: followed points that are off a fresh look's by more start anew
CUT = 0.35  # correlation of a frame with the last one below which the scene is another
ODD_ONES = 3  # checks that a network without a score lets pass without the detector's assent
PATIENCE = 0.5  # seconds between thorough searches while nobody is found


class FaceTracker:
    """Gives the faces of a video, frame by frame.

    A tracker is for one video and one thread: each call changes its state, so frames of several videos or calls from
    several threads would mix their faces. Make one tracker for each; they may share a :class:`KeypointDetector`.

    Args:
        detector: a :class:`KeypointDetector`, or its ``model``.
        check: seconds between searches for faces that came in.
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
        self.detector, self._fast = detector, getattr(detector.detect, "fast", lambda: detector.detect)()
        self.check, self.memory, self.smoothing = check, memory, smoothing
        self.faces = self.detections = 0
        self.reset()

    def reset(self) -> None:
        """Forget all faces, as at a cut; ids go on."""
        self._tracks: list[_Track] = []
        self._time: float | None = None
        self._next_check = -np.inf
        self._next_far = -np.inf
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
        check_time(time)
        if time == self._time:
            return list(self._answer)
        scene = _scene(image)
        before, last = self._time, self._scene
        if before is not None and last is not None and (time < before or _correlation(scene, last) < CUT):
            self.reset()
        self._time, self._scene = time, scene
        seen = self._follow(image, time)
        start = before is None or time <= before
        seen += self._detect(image, time, seen, start)
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
        """Those of the tracked faces that the network finds where they are expected."""
        tracks = [track for track in self._tracks if not track.lost]
        if not tracks:
            return []
        expected = np.stack([track.predict(time) for track in tracks])
        inside = [i for i, points in enumerate(expected) if _inside(points, image)]
        if not inside:
            return []
        tracks = [tracks[i] for i in inside]
        points, confidence, score = self.detector.network.follow([image] * len(inside), expected[inside])
        seen = []
        for one in map(_Seen, tracks, points.astype(np.float64), confidence, score):
            enough = one.track.unconfirmed < ODD_ONES if one.score is None else one.score >= self.detector.min_score
            if enough and _likely(one.track, one.points, time) and _inside(one.points, image):
                seen.append(one)
        return _each_once(seen, time)

    def _detect(self, image: np.ndarray, time: float, seen: list[_Seen], start: bool) -> list[_Seen]:
        """Faces that come in or back, and followed ones that a new detection corrects, if it is time to look for them.

        A video's first frame is searched as thoroughly as a still image, others only while nobody is found, now and
        then.
        """
        regular, thorough = time >= self._next_check, start or (not seen and time >= self._next_far)
        if not (regular or thorough or len(seen) < max(1, len(self._tracks))):
            return []
        self.detections += 1
        if regular:
            self._next_check = time + self.check
        if thorough:
            self._next_far = time + PATIENCE
        found = candidates(self.detector.detect if thorough else self._fast, image)
        strange, confirmed = self._strange(found.boxes, seen)
        if regular:
            for track in (one.track for one in seen):
                track.unconfirmed = 0 if track.id in confirmed else track.unconfirmed + 1
        return self._place(self.detector.faces(image, found.take(strange)), time, seen)

    def _strange(self, boxes: np.ndarray, seen: list[_Seen]) -> tuple[np.ndarray, set[int]]:
        """Indices of the boxes that frame no followed face as it should be; ids of the faces that are framed so."""
        if not seen or not len(boxes):
            return np.arange(len(boxes)), set()
        known = self.detector.framing.boxes(np.stack([one.points for one in seen]))
        shared = box_iou(boxes, known)
        confirmed = {seen[i].track.id for i in np.flatnonzero(shared.max(axis=0) > FRAMED)}
        return np.flatnonzero(shared.max(axis=1) <= FRAMED), confirmed

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
            crop=expression_crop(image, track.points),
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
    """The expressions of tracked faces, each smoothed over its own time and judged against the face's own rest.

    Somebody whose brows lie low looks angry at rest. What a face usually looks like while it is calm and seen from
    the front is therefore learned, and counts as its neutral face after :data:`LEARNT` seconds.

    >>> [face] = FaceTracker()("data/photos/grace_hopper.jpg")
    >>> sorted(Expressions()([face])) == [face.id]
    True
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[ExpressionSmoother, Rest]] = {}

    def __call__(self, faces: Sequence[TrackedFace]) -> dict[int, Emotion | None]:
        """Of the next frame's faces: id → expression, of a lost face None."""
        self._known = {face.id: self._known.get(face.id) or (ExpressionSmoother(), Rest()) for face in faces}
        result: dict[int, Emotion | None] = {}
        for face in faces:
            smoother, rest = self._known[face.id]
            seen = face.state != LOST
            result[face.id] = smoother(rest(face.emotion, face.pose.yaw, face.time), face.time) if seen else None
        return result


LEARNT, FORGOTTEN = 3.0, 30.0  # seconds of rest until it counts; the time constant of its average
CALM, FRONTAL = 0.3, 20.0  # the most that happiness and surprise together may have at rest; degrees of yaw


class Rest:
    """One person's face at rest, learned from the frames on which it is calm."""

    def __init__(self) -> None:
        self._mean: Emotion | None = None
        self._seconds, self._time = 0.0, 0.0

    def __call__(self, emotion: Emotion, yaw: float, time: float) -> Emotion:
        """The expression of the next frame, judged against the face at rest once that is known."""
        away, self._time = min(max(0.0, time - self._time), 0.2), time  # a face that was away did not rest meanwhile
        lively = emotion.probabilities["happiness"] + emotion.probabilities["surprise"]
        if lively < CALM and abs(yaw) < FRONTAL:
            mean = emotion.features if self._mean is None else self._mean.features
            self._seconds += away
            share = away / min(FORGOTTEN, self._seconds) if self._seconds else 0.0  # at first the mean of all so far
            self._mean = replace(emotion, features=mean + share * (emotion.features - mean))
        if self._mean is None or self._seconds < LEARNT:
            return emotion
        return emotion.with_neutral(self._mean)


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
