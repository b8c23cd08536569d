"""Faces through a video: each keeps its id, its points are steady, and most frames need no detector.

A face that was found once is *followed*: its points, moved on as it moved, tell where the network's crop lies (as in
MediaPipe: Bazarevsky et al., BlazeFace, 2019, https://arxiv.org/abs/1907.05047). The network's score tells when that
fails. Then the detector runs; it also does at the start and now and then, for faces that come in.

Which face is whose is one assignment over all tracks, by motion, size and look. The look is a small levelled picture of
the face, averaged over the track's frames. It tells the faces of one video apart for a few seconds. It is not stored,
and it is no recognition of persons.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from keypoints.detection import Face, KeypointDetector, candidates, distinct
from keypoints.geometry import box_iou, face_crop, five_points, inverse
from keypoints.images import as_rgb
from keypoints.landmarks import face_size
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
        state: 'new' on its first frame, 'tracked', or 'lost': hidden or gone, for as long as ``memory`` says.
        time: seconds.
        raw: (68, 2) float32, as the network placed them on this frame.
        closed: whether the right and the left eye are closed; an eye that is turned away counts as the other.
        blink, mouth_open: whether both eyes are closed, and the mouth is open.
    """

    id: int = 0
    state: str = NEW
    time: float = 0.0
    raw: np.ndarray | None = None
    closed: tuple[bool, bool] = (False, False)
    blink: bool = False
    mouth_open: bool = False


@dataclass(eq=False)
class _Track:
    """What the tracker knows of a face from frame to frame."""

    points: np.ndarray  # (68, 2) float64, raw
    time: float  # when they were seen
    smoother: Smoother | None
    look: np.ndarray  # the mean of descriptors of the face, see `_describe`
    id: int | None = None  # of a candidate that is no face yet
    face: TrackedFace | None = None
    signals: Signals = field(default_factory=Signals)
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))  # pixels a second
    lost: bool = False
    frames: int = 0  # on which it was seen
    looks: int = 0  # descriptors in the mean; before the first one `look` is that of a face of which not all was seen
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
        self.points, self.time, self.lost, self.frames = points, time, False, self.frames + 1

    def remember(self, look: np.ndarray) -> None:
        self.looks += 1
        self.look = self.look + (look - self.look) / min(self.looks, LOOKS)

    def cost(self, points: np.ndarray, look: np.ndarray, time: float) -> float:
        """How little a face resembles this one, from 0; infinite where it cannot be the same."""
        away, size, own = time - self.time, float(face_size(points)), float(face_size(self.points))
        resized = RESIZED * (1 + away)
        off = float(np.linalg.norm(points.mean(axis=0) - self.predict(time).mean(axis=0))) / own
        if not own / resized < size < own * resized or off > LEAP[0] + LEAP[1] * away:
            return np.inf
        motion = off / (REACH[0] + REACH[1] * away) + away / COAST
        unlike, known = min(UNLIKE, float(np.square(look - self.look).sum())), min(1.0, self.looks / LEARNT)
        return MOTION * min(1.0, motion) + known * unlike + (1 - known) * UNKNOWN + BACK * self.lost


COAST = 1.0  # seconds for which a motion is taken to go on
INERTIA = 0.06  # seconds: over about so long the velocity is averaged
RECALL = 5.0  # seconds after which somebody who comes back is somebody new
BACK = 0.12  # more cost of a face that was lost: the parts of two that cover each other may look like a third
REACH = 0.6, 0.8  # face sizes, and more for each second: farther off the look alone counts
LEAP = 1.5, 20.0  # face sizes, and more for each second: nobody gets farther
MOTION = 0.5  # the weight of the motion beside the look
LIMIT = 1.1  # cost from which no match is made: elsewhere than expected a face must look alike
UNLIKE, UNKNOWN = 0.9, 0.6  # the highest cost of a look, and that of one that is not known yet
LEARNT, LOOKS = 5, 50  # descriptors in the mean from which a look counts in full; over which the mean goes back
RESIZED = 1.6  # how much larger or smaller a face may be from one frame to the next
SMALLEST = 12.0  # pixels: what shrinks below that is no face any more
FRAMED = 0.5  # intersection over union of the detector's box and a followed face's from which it is that face's
SURE = 0.8  # score from which a candidate is a face at once: of 500 pictures without a face 2 reach 0.5, none this
PROBATION = 8  # frames in a row on which a candidate must be followed to become a face without that score
EVERY = 5  # a face that is alone is described on one of so many frames
APART = 1.5  # face sizes: a nearer face may cover a part of this one, whose look is not learnt then
LOOK, LOOK_FACE = 16, 76  # pixels: the side of a descriptor; that of the crop of a network in a picture of 4 times LOOK
OVAL = np.hypot(*((np.mgrid[:LOOK, :LOOK] + 0.5) / LOOK - 0.5) / [[[0.5]], [[0.4]]]) < 1
COLOUR = 3.0  # the weight of the logarithms of red to green and green to blue beside the grey pattern
CUT = 0.35  # correlation of a frame with the last one below which the scene may be another
DULL = 100.0  # the norm of a frame's 24 × 24 grey levels below which its contrast is not normalised
CHANGED = 0.02  # … if the median of the absolute differences of both, of a norm of 1, is higher
ODD_ONES = 3  # checks that a network without a score lets pass without the detector's assent
PATIENCE = 0.5  # seconds between thorough searches while nobody is found


class FaceTracker:
    """Gives the faces of a video, frame by frame.

    A tracker is for one video and one thread: each call changes its state, so frames of several videos or calls from
    several threads would mix their faces. Make one tracker for each; they may share a :class:`KeypointDetector`.

    Args:
        detector: a :class:`KeypointDetector`, or its ``model``.
        check: seconds between searches for faces that came in.
        memory: seconds for which a lost face is reported. Its id is kept longer, for 5 seconds: who comes back by then,
            anywhere in the picture, gets it again if the face looks alike.
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
        if before is not None and last is not None and (time < before or _is_cut(scene, last)):
            self.reset()
        self._time, self._scene = time, scene
        followed = self._follow(image, time)
        start = before is None or time <= before
        detected = self._detect(image, time, followed, start)
        faces = distinct([*followed.values(), *detected]) if detected else list(followed.values())
        matches = self._assign(image, faces, time)
        for track, face, _ in matches:
            if track.lost:
                track.smoother = self._smoother()
            track.see(face.keypoints.astype(np.float64), time)
        answer = []
        missing = any(track.time < time for track in self._tracks if track.id is not None)
        for track, face, look in matches:
            sure = face.score is None or face.score >= SURE
            if sure and self._whole(track, image, time):
                track.remember(look)
            # A candidate may yet prove to be no face, or somebody who was lost.
            if track.id is None and (track.frames >= PROBATION or (sure and not missing)):
                track.id, self.faces = self.faces, self.faces + 1
            if track.id is not None:
                answer.append(self._face(track, image, face))
        for track in self._tracks:
            track.lost = track.time < time
            if track.face is not None and track.lost and time - track.time <= self.memory:
                answer.append(self._expected(track, time))
        kept = max(self.memory, RECALL)
        self._tracks = [one for one in self._tracks if time - one.time <= (0 if one.id is None else kept)]
        self._answer = sorted(answer, key=lambda face: face.id)
        return list(self._answer)

    def _follow(self, image: np.ndarray, time: float) -> dict[_Track, Face]:
        """The faces that the network finds where tracked ones are expected, each once, by the tracks that led there."""
        tracks = [track for track in self._tracks if not track.lost and _inside(track.predict(time), image)]
        if not tracks:
            return {}
        found = self.detector.network.follow([image] * len(tracks), np.stack([one.predict(time) for one in tracks]))
        boxes = self.detector.framing.boxes(found.keypoints)
        followed: dict[_Track, Face] = {}
        for track, box, points, confidence, score, crop in zip(tracks, boxes, *found, strict=True):
            enough = track.unconfirmed < ODD_ONES if score is None else score >= self.detector.min_score
            if enough and _inside(points, image) and face_size(points) > SMALLEST:
                followed[track] = Face(box, points, image.shape[1::-1], confidence, score, crop=crop)
        if len(followed) < 2:
            return followed
        kept = distinct(list(followed.values()))
        return {track: face for track, face in followed.items() if face in kept}

    def _detect(self, image: np.ndarray, time: float, followed: dict[_Track, Face], start: bool) -> list[Face]:
        """What the detector finds besides the followed faces, if it is time to look for it.

        A video's first frame is searched as thoroughly as a still image, others only while nobody is found, now and
        then.
        """
        regular, thorough = time >= self._next_check, start or (not followed and time >= self._next_far)
        expected = sum(time - track.time <= self.memory for track in self._tracks)
        if not (regular or thorough or len(followed) < max(1, expected)):
            return []
        self.detections += 1
        if regular:
            self._next_check = time + self.check
        if thorough:
            self._next_far = time + PATIENCE
        found = candidates(self.detector.detect if thorough else self._fast, image)
        boxes = np.stack([face.box for face in followed.values()]) if followed else np.zeros((0, 4))
        framed = box_iou(found.boxes, boxes) > FRAMED
        if regular:
            for i, track in enumerate(followed):
                track.unconfirmed = 0 if framed[:, i].any() else track.unconfirmed + 1
        return self.detector.faces(image, found.take(np.flatnonzero(~framed.any(axis=1))))

    def _assign(self, image: np.ndarray, faces: list[Face], time: float) -> list[tuple[_Track, Face, np.ndarray]]:
        """Whose each face is, with its descriptor: the cheapest pairs of tracks and faces first, then new tracks."""
        known = [track.look for track in self._tracks if track.looks >= LEARNT and track.frames % EVERY]
        if len(self._tracks) == len(faces) == len(known) == 1:
            looks = known
        else:
            looks = [_describe(image, face.keypoints) for face in faces]
        pairs = []
        for i, track in enumerate(self._tracks):
            for j, face in enumerate(faces):
                cost = track.cost(face.keypoints.astype(np.float64), looks[j], time)
                if cost < LIMIT:  # a candidate stands back behind every face that was lost
                    pairs.append((track.id is None, cost, i, j))
        owner: dict[int, _Track] = {}
        for *_, i, j in sorted(pairs):
            if j not in owner and all(track is not self._tracks[i] for track in owner.values()):
                owner[j] = self._tracks[i]
        for j, face in enumerate(faces):
            if j not in owner:
                owner[j] = _Track(face.keypoints.astype(np.float64), time, self._smoother(), looks[j])
                self._tracks.append(owner[j])
        return [(owner[j], face, looks[j]) for j, face in enumerate(faces)]

    def _whole(self, track: _Track, image: np.ndarray, time: float) -> bool:
        """Whether all of a face is seen: it lies in the image, and no other face, hidden ones included, is near."""
        points, centre = track.points, track.points.mean(axis=0)
        recent = [one for one in self._tracks if one is not track and time - one.time < COAST]
        off = [np.linalg.norm(one.predict(time).mean(axis=0) - centre) for one in recent]
        inside = (points >= 0).all() and (points < image.shape[1::-1]).all()
        return bool(inside and min(off, default=np.inf) > APART * face_size(points))

    def _smoother(self) -> Smoother | None:
        if self.smoothing is False:
            return None
        return Smoother(None if self.smoothing is True else self.smoothing)

    def _face(self, track: _Track, image: np.ndarray, face: Face) -> TrackedFace:
        assert track.id is not None
        points = track.points if track.smoother is None else track.smoother(track.points, track.time)
        track.signals(track.points, None if face.crop is None else face.eye_openings, track.time)
        track.face = TrackedFace(
            box=self.detector.framing.boxes(points)[0],
            keypoints=points.astype(np.float32),
            image_size=(image.shape[1], image.shape[0]),
            confidence=face.confidence,
            score=None if face.score is None else float(face.score),
            crop=face.crop,
            id=track.id,
            state=NEW if track.face is None else TRACKED,
            time=track.time,
            raw=track.points.astype(np.float32),
            closed=track.signals.closed,
            blink=all(track.signals.closed),
            mouth_open=track.signals.mouth_open,
        )
        return track.face

    def _expected(self, track: _Track, time: float) -> TrackedFace:
        """A face that is not seen, where it should be."""
        assert track.face is not None  # who is not seen was seen before
        moved = (track.predict(time) - track.points).astype(np.float32)[0]
        points = track.face.keypoints + moved
        box = self.detector.framing.boxes(points)[0]
        return TrackedFace(box, points, track.face.image_size, id=track.face.id, state=LOST, time=time)


def _inside(points: np.ndarray, image: np.ndarray) -> bool:
    """Whether the middle of a face lies in the image."""
    x, y = points.mean(axis=0)
    return 0 <= x < image.shape[1] and 0 <= y < image.shape[0]


def _describe(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The look of a face: an oval of its levelled crop, grey less brightness and contrast, and its mean colour.

    Half the squared distance of two is, for the grey part, one less their correlation.

    Returns:
        (258,) float32.
    """
    matrix = inverse(face_crop(five_points(points)[None], LOOK_FACE))[0]
    matrix[:, 2] -= matrix[:, :2].sum(axis=1) * (4 * LOOK - LOOK_FACE) / 2
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    crop = cv2.warpAffine(image, matrix, (4 * LOOK, 4 * LOOK), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    tones = np.log(cv2.resize(crop, (LOOK, LOOK), interpolation=cv2.INTER_AREA) + np.float32(16))[OVAL]
    grey = tones.mean(axis=1)
    grey -= grey.mean()
    colour = (tones[:, :2] - tones[:, 1:]).mean(axis=0)
    return np.concatenate([grey / max(1e-6, np.sqrt(2) * float(np.linalg.norm(grey))), COLOUR * colour])


def _scene(image: np.ndarray) -> np.ndarray:
    """A frame as a few numbers, (24, 24), without its brightness and contrast; a plain wall's noise is not raised."""
    step = max(1, min(image.shape[:2]) // 120)
    small = cv2.resize(image[::step, ::step], (24, 24), interpolation=cv2.INTER_AREA).astype(np.float32).mean(axis=2)
    small -= small.mean()
    return small / max(DULL, float(np.linalg.norm(small)))


def _is_cut(scene: np.ndarray, last: np.ndarray) -> bool:
    """Whether most of the frame changed; before a plain wall a fast face alone changes the correlation."""
    return float((scene * last).sum()) < CUT and float(np.median(np.abs(scene - last))) > CHANGED
