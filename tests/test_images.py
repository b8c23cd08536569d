"""Reading images: every format becomes upright RGB on white, and what cannot be read is refused in one sentence."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import types
import warnings
import zlib

import cv2
import numpy as np
import pytest
from helpers import ASTRONAUT, ROOT, refused
from PIL import Image, ImageCms, ImageOps, features

from keypoints.images import as_rgb, decode_image, find_images, read_bytes, read_image

COLOURS = np.zeros((12, 16, 3), np.uint8)  # four quarters, different in colour and in grey
COLOURS[:6, :8], COLOURS[:6, 8:], COLOURS[6:, :8], COLOURS[6:, 8:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), 128
BIG = np.kron(COLOURS, np.ones((8, 8, 1), np.uint8))
STEPS = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (32, 1))
AVIF = ["AVIF"] if features.check("avif") else []


def encoded(image: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def by_opencv(image: np.ndarray, ending: str) -> bytes:
    return cv2.imencode(ending, image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def decoded(data: bytes) -> np.ndarray:
    """An image as integers that may be subtracted; errors call it 'it'."""
    image = decode_image(data, "it")
    assert image.dtype == np.uint8
    return image.astype(int)


# Modes and depths -----------------------------------------------------------------------------------------------------

PHOTO = Image.open(ASTRONAUT).resize((60, 60))
GREY = np.repeat(COLOURS[..., :1], 3, axis=2)
LAB = ImageCms.profileToProfile(PHOTO, *map(ImageCms.createProfile, ("sRGB", "LAB")), outputMode="LAB")
MODES = {  # a file, the pixels it must have, the largest difference
    "grey": (encoded(COLOURS[..., 0], "PNG"), GREY, 0),
    "palette": (encoded(Image.fromarray(COLOURS).quantize(4), "PNG"), COLOURS, 2),
    "RGBA": (encoded(np.dstack([COLOURS, np.full(COLOURS.shape[:2], 255, np.uint8)]), "PNG"), COLOURS, 0),
    "16 bits": (by_opencv(COLOURS.astype(np.uint16) * 257, ".png"), COLOURS, 1),
    "16 bits, grey": (by_opencv(COLOURS[..., 0].astype(np.uint16) * 257, ".png"), GREY, 1),
    "LAB": (encoded(LAB, "TIFF"), np.asarray(PHOTO), 40),
}
for mode, kind in (("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "TIFF"), ("1", "PNG"), ("1", "TIFF"), ("LA", "PNG")):
    data = encoded(PHOTO.convert(mode), kind)
    MODES[f"{mode} {kind}"] = (data, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), 0)


@pytest.mark.parametrize("mode", MODES)
def test_image_of_any_mode_becomes_rgb(mode):
    data, expected, most = MODES[mode]
    assert np.abs(decoded(data) - expected).max() <= most


def test_jpeg_has_the_pixels_of_opencv():
    for file in [*sorted((ROOT / "data" / "sample" / "test").glob("*.jpg"))[:40], ASTRONAUT]:
        expected = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)
        np.testing.assert_array_equal(read_image(file), expected)


@pytest.mark.parametrize("maxval", [1, 15, 100, 255, 1023, 4095, 65535])
@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
def test_pgm_and_ppm_of_any_maxval_use_the_full_range(kind, maxval):
    channels = 3 if kind in ("P3", "P6") else 1
    values = np.rint(STEPS[..., None] * maxval).astype(int).repeat(channels, axis=2)
    binary = values.astype(">u2" if maxval > 255 else np.uint8).tobytes()
    text = " ".join(map(str, values.ravel())).encode()
    data = f"{kind}\n64 32\n{maxval}\n".encode() + (binary if kind in ("P5", "P6") else text)
    assert np.abs(decoded(data) - values * (255 / maxval)).max() <= 1


FLOATS = {
    "grey TIFF": lambda image: encoded(np.ascontiguousarray(image[..., 0]), "TIFF"),
    "grey TIFF, compressed": lambda image: encoded(np.ascontiguousarray(image[..., 0]), "TIFF", compression="tiff_lzw"),
    "RGB TIFF": lambda image: by_opencv(image, ".tif"),
    "grey PFM": lambda image: b"Pf\n64 32\n-1.0\n" + image[::-1, :, 0].astype("<f4").tobytes(),
    "RGB PFM": lambda image: b"PF\n64 32\n-1.0\n" + image[::-1].astype("<f4").tobytes(),
    "Radiance HDR": lambda image: by_opencv(image, ".hdr"),
}


@pytest.mark.parametrize("kind", FLOATS)
def test_floats_from_0_to_1_use_the_full_range(kind):
    image = np.dstack([STEPS, STEPS, STEPS] if "grey" in kind else [STEPS, STEPS[:, ::-1], STEPS / 2])
    assert np.abs(decoded(FLOATS[kind](image)) - 255 * image).max() <= 2


BRIGHT = STEPS > 0.95


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (255 * STEPS, 255 * STEPS),
        (np.rint(255 * STEPS), 255 * STEPS),
        (65535 * STEPS, 255 * STEPS),
        (np.where(BRIGHT, 7.5, STEPS), np.where(BRIGHT, 255, 255 * STEPS)),  # highlights are clipped
        (np.where(BRIGHT, np.nan, STEPS), np.where(BRIGHT, 0, 255 * STEPS)),
        (np.where(BRIGHT, -3, STEPS), np.where(BRIGHT, 0, 255 * STEPS)),
        (np.rint(STEPS), 255 * np.rint(STEPS)),  # a mask
        (np.zeros((4, 5)), np.zeros((4, 5))),
        (np.rint(255 * STEPS).astype(np.int32), 255 * STEPS),
        (np.rint(65535 * STEPS).astype(np.int32), 255 * STEPS),
    ],
)
def test_tiff_of_32_bits_gets_the_smallest_range_that_holds_its_values(values, expected):
    values = values if values.dtype == np.int32 else values.astype(np.float32)
    assert np.abs(decoded(encoded(values, "TIFF")) - expected[..., None]).max() <= 1


# Orientation ----------------------------------------------------------------------------------------------------------


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


TURNED = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.transpose(1, 0, 2)}
TURNED |= {6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: np.rot90}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", *AVIF])
def test_orientation_is_applied_in_every_format(kind, orientation):
    options = {"lossless": True} if kind == "WEBP" else {}
    image, expected = decoded(encoded(BIG, kind, exif=oriented(orientation), **options)), TURNED[orientation](BIG)
    assert image.shape == expected.shape and np.abs(image - expected).mean() < 6


def test_exif_of_webp_may_have_the_prefix_of_jpeg():
    exif = b"Exif\0\0" + oriented(6).tobytes().removeprefix(b"Exif\0\0")
    plain = encoded(BIG, "WEBP", lossless=True, exif=exif)  # Pillow leaves the prefix out
    content = b"WEBP" + plain[12 : plain.index(b"EXIF")] + b"EXIF" + struct.pack("<I", len(exif)) + exif
    np.testing.assert_array_equal(decoded(b"RIFF" + struct.pack("<I", len(content)) + content), np.rot90(BIG, -1))


def test_damaged_exif_is_ignored_without_a_warning():
    exif = oriented(6).tobytes()
    for end in range(6, len(exif)):
        with warnings.catch_warnings(record=True) as caught:
            assert decoded(encoded(BIG, "JPEG", exif=exif[:end])).shape in (BIG.shape, np.rot90(BIG).shape)
        assert not caught


def test_threads_that_read_images_leave_the_warning_filters_alone():
    data = encoded(BIG, "JPEG", exif=oriented(6).tobytes()[:-9])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        threads = [threading.Thread(target=lambda: [decoded(data) for _ in range(20)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert warnings.filters == before and not caught


# Transparency ---------------------------------------------------------------------------------------------------------


def half_transparent(kind: str) -> bytes:
    """The left half is opaque red, the right half transparent blue."""
    rgba = np.zeros((8, 16, 4), np.uint8)
    rgba[:, :8], rgba[:, 8:] = (255, 0, 0, 255), (0, 0, 255, 0)
    image = Image.fromarray(rgba)
    if kind == "PNG palette":
        palette = image.convert("RGB").quantize(4)
        blue = np.asarray(palette)[0, -1]
        return encoded(palette, "PNG", transparency=bytes(0 if i == blue else 255 for i in range(2)))
    if kind == "PNG colour key":
        return encoded(image.convert("RGB"), "PNG", transparency=(0, 0, 255))
    if kind == "TIFF premultiplied":
        data, extra = encoded(image, "TIFF"), struct.pack("<HHIHH", 338, 3, 1, 2, 0)
        assert extra in data
        return data.replace(extra, extra[:8] + struct.pack("<HH", 1, 0))
    return encoded(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF", "PNG palette", "PNG colour key", "TIFF premultiplied"])
def test_transparent_pixels_are_white(kind):
    data = half_transparent(kind)
    image, rgba = decoded(data), decode_image(data, "it", with_alpha=True)
    np.testing.assert_allclose(image[:, :8], np.broadcast_to([255, 0, 0], (8, 8, 3)), atol=1)
    assert image.shape == (8, 16, 3) and (image[:, 8:] == 255).all()
    assert rgba.shape == (8, 16, 4) and (rgba[:, :8, 3] == 255).all() and (rgba[:, 8:, 3] == 0).all()


def test_translucent_pixels_are_mixed_with_white():
    rgba = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    alpha = rgba[..., 3:] / 255
    for data, shown in (
        (encoded(rgba, "PNG"), rgba[..., :3]),
        (encoded(Image.fromarray(rgba[..., [0, 3]], "LA"), "PNG"), rgba[..., :1]),
    ):
        assert np.abs(decoded(data) - (shown * alpha + 255 * (1 - alpha))).max() <= 1
    np.testing.assert_array_equal(decode_image(encoded(rgba, "PNG"), "it", with_alpha=True), rgba)


def test_transparent_value_of_16_bit_grey_is_white():
    grey = np.full((4, 6), 30_000, np.uint16)
    grey[:, 3:] = 9
    whole = by_opencv(grey, ".png")
    place = whole.index(b"IDAT") - 4
    image = decoded(whole[:place] + chunk(b"tRNS", struct.pack(">H", 9)) + whole[place:])
    assert (image[:, :3] == 30_000 >> 8).all() and (image[:, 3:] == 255).all()


# Large, damaged and odd files -----------------------------------------------------------------------------------------


def test_image_that_claims_to_be_huge_is_refused_before_it_is_decoded(tmp_path):
    (tmp_path / "vast.pgm").write_bytes(b"P5\n20000 10000\n255\n")
    (tmp_path / "bomb.pfm").write_bytes(b"PF\n11500 11500\n-1.0\n")
    (tmp_path / "bomb.hdr").write_bytes(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 11500 +X 11500\n" + bytes(999))
    squeeze = zlib.compressobj(9)
    rows = b"".join(squeeze.compress(bytes(11_501)) for _ in range(11_500)) + squeeze.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 11_500, 11_500, 8, 0, 0, 0, 0))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    tiff = by_opencv(np.ones((8, 8, 3), np.float32), ".tif")
    for side in [struct.pack("<HHIHH", tag, 3, 1, 8, 0) for tag in (256, 257)]:
        assert side in tiff
        tiff = tiff.replace(side, side[:8] + struct.pack("<HH", 11_500, 0))
    (tmp_path / "bomb.tif").write_bytes(tiff)
    code = """if True:
        import data_load, pathlib
        def peak():
            status = pathlib.Path("/proc/self/status")
            return int(status.read_text().split("VmHWM:")[1].split()[0]) // 1024 if status.exists() else 0
        before = peak()
        for name in ("vast.pgm", "bomb.png", "bomb.pfm", "bomb.hdr", "bomb.tif"):
            try:
                data_load.read_image(name)
            except ValueError as error:
                print(error)
        print(peak() - before)"""
    command, environment = [sys.executable, "-W", "error", "-c", code], {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    vast, *bombs, megabytes = done.stdout.splitlines()
    assert vast == "vast.pgm: got an image of more pixels than are read, expected at most 134,217,728"
    for name, sentence in zip(("bomb.png", "bomb.pfm", "bomb.hdr", "bomb.tif"), bombs, strict=True):
        assert sentence.startswith(f"{name}: got an image of 132,250,000 pixels in "), sentence
        assert sentence.endswith(" bytes, expected at most 16,777,216 pixels")
    assert int(megabytes) < 20 and done.stderr == ""


BLACK, LITTLE = Image.new("RGB", (70, 50)), b"\xff\xc0\0\x11\x08\xff\xff\xff"
BMP = encoded(BLACK, "BMP")
SIZED = {kind: encoded(BLACK, kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "JPEG2000", *AVIF)} | {
    "JPEG with a thumbnail": encoded(BLACK, "JPEG", exif=b"Exif\0\0" + encoded(BLACK, "JPEG"), comment=LITTLE),
    "progressive JPEG": encoded(BLACK, "JPEG", progressive=True),
    "BMP from the top down": BMP[:22] + struct.pack("<i", -50) + BMP[26:],
    "lossless WebP": encoded(BLACK, "WEBP", lossless=True),
    "WebP with EXIF": encoded(BLACK, "WEBP", exif=b"Exif\0\0"),
    "big-endian TIFF": encoded(Image.new("I;16B", (70, 50)), "TIFF"),
    "BigTIFF": encoded(BLACK, "TIFF", big_tiff=True),
    "JPEG 2000 without its box": encoded(BLACK, "JPEG2000", no_jp2=True),
}


@pytest.mark.parametrize("kind", SIZED)
def test_size_is_known_from_the_header(kind, monkeypatch):
    assert decoded(SIZED[kind]).shape == (50, 70, 3)
    monkeypatch.setattr("keypoints.images.FREE_PIXELS", 3499)
    monkeypatch.setattr("keypoints.images.PIXELS_A_BYTE", 0)
    with refused(r"^it: got an image of 3,500 pixels in [\d,]+ bytes, expected at most 3,499 "):
        decode_image(SIZED[kind], "it")


@pytest.mark.parametrize(
    ("height", "width", "kind"), [(3000, 4000, ".jpg"), (4000, 6000, ".jpg"), (2160, 3840, ".png")]
)
def test_black_photograph_and_empty_screen_are_read(height, width, kind):
    assert decode_image(by_opencv(np.zeros((height, width, 3), np.uint8), kind), "it").shape == (height, width, 3)


def test_damaged_image_is_read_or_refused_and_codecs_print_nothing(capfd):
    def try_to_read(data: bytes) -> tuple | None:
        try:
            return decode_image(data, "it").shape
        except ValueError as error:
            assert str(error).startswith("it: ") and "\n" not in str(error)

    for kind, data in SIZED.items():
        for end in range(0, len(data), max(1, len(data) // 60)):
            assert try_to_read(data[:end]) in (None, (50, 70, 3)), kind
    photo, rng = PHOTO.resize((90, 90)), np.random.default_rng(0)
    files = [encoded(photo, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "JPEG2000", *AVIF)]
    files += [encoded(photo, "TIFF", compression=kind) for kind in ("tiff_lzw", "jpeg", "tiff_deflate", "packbits")]
    for data in [*files, *(make(np.dstack([STEPS] * 3)) for make in FLOATS.values())]:
        for _ in range(40):
            damaged = bytearray(data)
            for place in rng.integers(0, len(data) if rng.random() < 0.5 else min(len(data), 400), 4):
                damaged[place] = rng.integers(256)
            try_to_read(bytes(damaged))
    assert capfd.readouterr() == ("", "")


def test_incomplete_end_and_trailing_bytes_are_accepted():
    jpeg, png = encoded(BIG, "JPEG"), encoded(BIG, "PNG")
    place = png.index(b"IDAT") - 4
    too_long = png[:place] + b"\x7f\xff\xff\x00" + png[place + 4 :]  # as much is read as there is
    for data in (jpeg[:-2], jpeg[:-8], jpeg + b"a telephone's trailer", png + b"a trailer", too_long):
        assert decoded(data).shape == BIG.shape


@pytest.mark.parametrize("content", [b"", b"hello, I am a text", b"\xff\xd8\xff\xe0 cut", encoded(BIG, "EPS")])
def test_file_that_is_no_image_is_refused_by_name(tmp_path, monkeypatch, content):
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("Ghostscript was started"))
    (tmp_path / "note.jpg").write_bytes(content)
    with refused(r"note\.jpg: expected an image, got [\d,]+ bytes that do not decode as one$"):
        read_image(tmp_path / "note.jpg")


def test_directory_and_missing_file_are_os_errors(tmp_path):
    for path in (tmp_path, tmp_path / "none.jpg"):
        with pytest.raises(OSError):
            read_image(path)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="there is no such device")
def test_no_more_bytes_are_read_than_the_limit(tmp_path):
    with refused("^/dev/zero: got more than 2,000,000 bytes, expected a smaller file$"):
        read_bytes("/dev/zero", 2_000_000)
    (tmp_path / "exact").write_bytes(bytes(2_000_000))
    assert len(read_bytes(tmp_path / "exact", 2_000_000)) == 2_000_000
    with refused("^/dev/zero: got more than 268,435,456 bytes"):
        read_image("/dev/zero")


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="pipes have no names here")
def test_image_may_come_through_a_pipe():
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)  # more than a pipe holds
    read, write = os.pipe()
    writer = threading.Thread(target=lambda: (os.write(write, by_opencv(noise, ".png")), os.close(write)))
    writer.start()
    np.testing.assert_array_equal(read_image(f"/dev/fd/{read}"), noise)
    writer.join()
    os.close(read)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG", "MPO"])
def test_first_of_several_images_is_taken(kind):
    data = encoded(BIG, kind, save_all=True, append_images=[Image.fromarray(np.zeros_like(BIG))])
    assert np.abs(decoded(data) - BIG).mean() < 20


def test_heic_is_read_where_pillow_heif_is_installed(monkeypatch):
    head = b"\0\0\0\x18ftypheic"
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with refused(r"^it: expected an image, got a HEIC file, which .*pillow-heif: save it as JPEG$"):
        decode_image(head + bytes(4), "it")

    def register() -> None:
        behind = lambda file, name: Image.open(io.BytesIO(file.read()[12:]))  # noqa: E731
        Image.register_open("HEIF", behind, lambda head: b"heic" in head)

    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=register))
    np.testing.assert_array_equal(decoded(head + encoded(BIG, "PNG")), BIG)
    Image.OPEN.pop("HEIF")
    Image.ID.remove("HEIF")


def test_folders_and_patterns_become_the_images_in_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.jpg", "a.PNG", "note.txt", "[1].jpg", "c.webp"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "more.jpg").mkdir()
    (tmp_path / "empty").mkdir()
    assert find_images(["."]) == [os.path.join(".", name) for name in ("[1].jpg", "a.PNG", "b.jpg", "c.webp")]
    assert find_images(["b.jpg", "*.w*", "[1].jpg"]) == ["b.jpg", "c.webp", "[1].jpg"]
    assert find_images(["none*.jpg", "empty", "none.jpg"]) == ["none*.jpg", "empty", "none.jpg"]


# What counts as an image ----------------------------------------------------------------------------------------------


def test_paths_arrays_and_pil_images_become_rgb(tmp_path):
    path, opaque = tmp_path / "a.png", np.full(BIG.shape[:2], 255, np.uint8)
    path.write_bytes(encoded(BIG, "PNG"))
    rgba, grey = np.dstack([BIG, opaque]), np.repeat(BIG[..., :1], 3, axis=2)
    for image in (path, str(path), BIG, BIG / 255, np.float32(BIG / 255), rgba, rgba / 255, Image.fromarray(BIG)):
        np.testing.assert_array_equal(as_rgb(image), BIG)
    for image in (BIG[..., 0], BIG[..., :1], BIG[..., 0] / 255, Image.fromarray(BIG[..., 0])):
        np.testing.assert_array_equal(as_rgb(image), grey)
    np.testing.assert_array_equal(as_rgb(BIG[::-1, ::-1, :]), BIG[::-1, ::-1])
    rgba[:, :9, 3] = 0
    for image in (rgba, rgba / 255, Image.fromarray(rgba), Image.fromarray(rgba).convert("RGBa")):
        assert (as_rgb(image)[:, :9] == 255).all() and (as_rgb(image)[:, 9:] == BIG[:, 9:]).all()
    assert (as_rgb(Image.fromarray(BIG).quantize(4)) == BIG).mean() > 0.9


def test_images_that_were_read_can_be_written_to(tmp_path):
    for array in (BIG, np.dstack([BIG, BIG[..., 0]]), BIG[..., 0]):
        (tmp_path / "a.png").write_bytes(encoded(array, "PNG"))
        read_image(tmp_path / "a.png")[:] = 7


def test_orientation_of_a_pil_image_is_the_callers():
    image = Image.open(io.BytesIO(encoded(BIG, "JPEG", exif=oriented(6))))
    assert as_rgb(image).shape == BIG.shape and as_rgb(ImageOps.exif_transpose(image)).shape == (128, 96, 3)


@pytest.mark.parametrize("values", [(0, 255), (-0.5, 1), (0, np.nan), (0, np.inf)])
def test_floats_outside_0_to_1_are_refused(values):
    image = np.zeros((9, 9, 3), np.float32)
    image[0, 0, 0], image[1, 1, 1] = values
    with refused(r"^got a float image with values from \S+ to \S+, expected \[0, 1\]$"):
        as_rgb(image)
