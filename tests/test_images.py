"""Reading images: every format and mode comes as it is meant, and what cannot be read ends in one sentence."""

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
from helpers import PHOTOS, ROOT
from PIL import Image, ImageCms, ImageOps, features

from keypoints.images import as_rgb, decode_image, find_images, read_bytes, read_image

needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
COLOURS = np.zeros((12, 16, 3), np.uint8)  # four quarters, told apart in colour and in grey
COLOURS[:6, :8], COLOURS[:6, 8:], COLOURS[6:, :8], COLOURS[6:, 8:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), 128


def save(path, array, format="PNG", **options):
    Image.fromarray(array).save(path, format, **options)
    return path


def test_an_rgba_png_named_jpg_is_read_as_rgb(tmp_path):
    alpha = np.full((*COLOURS.shape[:2], 1), 255, np.uint8)
    path = save(tmp_path / "a.jpg", np.concatenate([COLOURS, alpha], axis=2))
    np.testing.assert_array_equal(read_image(path), COLOURS)


def test_a_grey_image_becomes_rgb(tmp_path):
    path = save(tmp_path / "a.png", COLOURS[..., 0])
    np.testing.assert_array_equal(read_image(path), np.repeat(COLOURS[..., :1], 3, axis=2))


def test_a_palette_becomes_rgb(tmp_path):
    Image.fromarray(COLOURS).quantize(4).save(tmp_path / "a.png")
    np.testing.assert_allclose(read_image(tmp_path / "a.png").astype(int), COLOURS, atol=2)


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_become_eight(tmp_path, channels):
    deep = COLOURS.astype(np.uint16)[..., :channels].squeeze() * 257
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", deep[..., ::-1] if channels == 3 else deep)[1].tobytes())
    expected = COLOURS if channels == 3 else np.repeat(COLOURS[..., :1], 3, axis=2)
    image = read_image(tmp_path / "a.png")
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image.astype(int), expected, atol=1)


def test_grey_with_alpha_becomes_rgb(tmp_path):
    Image.fromarray(COLOURS).convert("LA").save(tmp_path / "a.png")
    grey = np.asarray(Image.fromarray(COLOURS).convert("L"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.repeat(grey[..., None], 3, axis=2))


def test_a_jpeg_turned_by_its_exif_tag_comes_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90° clockwise to show"
    big = np.kron(COLOURS, np.ones((8, 8, 1), np.uint8))
    save(tmp_path / "a.jpg", np.ascontiguousarray(np.rot90(big)), format="JPEG", exif=exif, quality=95, subsampling=0)
    image = read_image(tmp_path / "a.jpg")
    assert image.shape == big.shape
    assert np.abs(image.astype(int) - big).mean() < 3


def test_a_path_that_is_not_ascii_is_read(tmp_path):
    assert read_image(save(tmp_path / "Jürgen 顔.png", COLOURS)).shape == COLOURS.shape


@pytest.mark.parametrize("content", [b"", b"hello, I am a text", b"\xff\xd8\xff\xe0 cut"])
def test_what_is_no_image_raises_one_sentence_that_names_the_file(tmp_path, content):
    path = tmp_path / "note.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"note\.jpg: expected an image, got \d+ bytes that do not decode as one$"):
        read_image(path)


def test_a_telephones_picture_is_named(tmp_path):
    path = tmp_path / "photo.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    with pytest.raises(ValueError, match=r"photo\.heic: expected an image, got a HEIC file, .*: save it as JPEG$"):
        read_image(path)


def png_of_zeros(width: int, height: int, kind: int = 0, channels: int = 1) -> bytes:
    """A PNG with 8 bits a channel; kind 0 is grey, 6 has red, green, blue and alpha."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    squeeze = zlib.compressobj(9)
    rows = b"".join(squeeze.compress(bytes(width * channels + 1)) for _ in range(height)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_small_file_that_claims_to_be_huge_is_refused_before_it_is_decoded(tmp_path):
    (tmp_path / "vast.pgm").write_bytes(b"P5\n20000 10000\n255\n")
    (tmp_path / "bomb.png").write_bytes(png_of_zeros(11_500, 11_500))  # to decode it takes 1,600 MB
    (tmp_path / "bomb.pfm").write_bytes(b"PF\n11500 11500\n-1.0\n")
    (tmp_path / "bomb.hdr").write_bytes(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 11500 +X 11500\n" + bytes(999))
    floats = cv2.imencode(".tif", np.ones((8, 8, 3), np.float32))[1].tobytes()
    sides = [struct.pack("<HHIHH", tag, 3, 1, 8, 0) for tag in (256, 257)]
    assert all(side in floats for side in sides)
    for side in sides:
        floats = floats.replace(side, side[:8] + struct.pack("<HH", 11_500, 0))
    (tmp_path / "bomb.tif").write_bytes(floats)
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
    vast, *bombs, grown = done.stdout.splitlines()
    assert vast == "vast.pgm: got an image of more pixels than are read, expected at most 134,217,728"
    for name, told in zip(("bomb.png", "bomb.pfm", "bomb.hdr", "bomb.tif"), bombs, strict=True):
        assert told.startswith(f"{name}: got an image of 132,250,000 pixels in "), told
        assert told.endswith(" bytes, expected at most 16,777,216 pixels")
    assert int(grown) < 20 and done.stderr == ""


def encoded(kind: str, **options) -> bytes:
    """A black picture of 70 × 50 pixels."""
    file = io.BytesIO()
    Image.new(options.pop("mode", "RGB"), (70, 50)).save(file, kind, **options)
    return file.getvalue()


SIZED = {
    "PNG": encoded("PNG"),
    "JPEG": encoded("JPEG"),
    "JPEG with a preview": encoded(
        "JPEG", exif=b"Exif\0\0" + encoded("JPEG"), comment=b"\xff\xc0\0\x11\x08\xff\xff\xff"
    ),
    "progressive JPEG": encoded("JPEG", progressive=True),
    "GIF": encoded("GIF"),
    "BMP": encoded("BMP"),
    "BMP from the top down": (bmp := encoded("BMP"))[:22] + struct.pack("<i", -50) + bmp[26:],
    "WebP": encoded("WEBP"),
    "WebP without loss": encoded("WEBP", lossless=True),
    "WebP with more": encoded("WEBP", exif=b"Exif\0\0"),
    "TIFF": encoded("TIFF"),
    "TIFF, big-endian": encoded("TIFF", mode="I;16B"),
    "BigTIFF": encoded("TIFF", big_tiff=True),
    "JPEG 2000": encoded("JPEG2000"),
    "JPEG 2000 without its box": encoded("JPEG2000", no_jp2=True),
}
if features.check("avif"):
    SIZED["AVIF"] = encoded("AVIF")


@pytest.mark.parametrize("kind", SIZED)
def test_the_size_is_known_from_the_header_in_every_format_that_compresses_well(kind, monkeypatch):
    assert decode_image(SIZED[kind], "it").shape == (50, 70, 3)
    monkeypatch.setattr("keypoints.images.FREE_PIXELS", 3499)
    monkeypatch.setattr("keypoints.images.PIXELS_A_BYTE", 0)
    with pytest.raises(ValueError, match=r"^it: got an image of 3,500 pixels in [\d,]+ bytes, expected at most 3,499 "):
        decode_image(SIZED[kind], "it")


def test_a_file_that_is_cut_anywhere_is_read_or_refused_in_a_sentence(capfd):
    for kind, data in SIZED.items():
        for end in range(0, len(data), max(1, len(data) // 60)):
            try:
                assert decode_image(data[:end], "it").shape == (50, 70, 3), kind
            except ValueError as error:
                assert str(error).startswith("it: expected an image, got "), kind
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("height", "width", "kind"), [(3000, 4000, ".jpg"), (4000, 6000, ".jpg"), (2160, 3840, ".png")]
)
def test_a_black_photograph_and_an_empty_screen_are_read(height, width, kind):
    data = cv2.imencode(kind, np.zeros((height, width, 3), np.uint8))[1].tobytes()
    assert decode_image(data, "it").shape == (height, width, 3)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="there is no such device")
def test_a_file_without_an_end_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^/dev/zero: got more than 2,000,000 bytes, expected a smaller file$"):
        read_bytes("/dev/zero", 2_000_000)
    (tmp_path / "exact").write_bytes(bytes(2_000_000))
    assert len(read_bytes(tmp_path / "exact", 2_000_000)) == 2_000_000
    with pytest.raises(ValueError, match=r"^/dev/zero: got more than 268,435,456 bytes"):
        read_image("/dev/zero")


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="pipes have no names here")
def test_an_image_comes_through_a_pipe():
    data = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))[1].tobytes()
    read, write = os.pipe()

    def fill() -> None:
        with open(write, "wb") as file:
            file.write(data)

    writer = threading.Thread(target=fill)
    writer.start()
    assert read_image(f"/dev/fd/{read}").shape == (300, 400, 3)
    writer.join()
    os.close(read)


def test_a_png_that_promises_gigabytes_costs_none(tmp_path):
    whole = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    place = whole.index(b"IDAT") - 4
    (tmp_path / "liar.png").write_bytes(whole[:place] + b"\x7f\xff\xff\x00" + whole[place + 4 :])
    assert read_image(tmp_path / "liar.png").shape == (8, 8, 3)  # as much is read as there is
    (tmp_path / "more.png").write_bytes(whole + b"anything behind the end")
    assert read_image(tmp_path / "more.png").shape == (8, 8, 3)


def test_a_directory_and_a_missing_file_are_os_errors(tmp_path):
    for path in (tmp_path, tmp_path / "none.jpg"):
        with pytest.raises(OSError):
            read_image(path)


# As it is meant: Pillow's ``exif_transpose`` and ``convert("RGB")`` are the reference ---------------------------------

BIG = np.kron(COLOURS, np.ones((8, 8, 1), np.uint8))
STEPS = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (32, 1))


def stored(array: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(file, kind, **options)
    return file.getvalue()


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", pytest.param("AVIF", marks=needs_avif)])
def test_an_orientation_is_applied_in_every_format(kind, orientation):
    options = {"lossless": True} if kind == "WEBP" else {}
    data = stored(BIG, kind, exif=oriented(orientation), **options)
    turned = {2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.transpose(1, 0, 2)}
    turned |= {6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: np.rot90}
    expected = turned.get(orientation, lambda a: a)(BIG)
    image = decode_image(data, "it")
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 6


def test_a_webp_whose_exif_has_the_prefix_of_jpeg_is_turned():
    exif = b"Exif\0\0" + oriented(6).tobytes().removeprefix(b"Exif\0\0")
    plain = stored(BIG, "WEBP", lossless=True, exif=exif)  # Pillow leaves the prefix out
    content = plain[12 : plain.index(b"EXIF")] + b"EXIF" + struct.pack("<I", len(exif)) + exif
    data = b"RIFF" + struct.pack("<I", 4 + len(content)) + b"WEBP" + content
    np.testing.assert_array_equal(decode_image(data, "it"), np.rot90(BIG, -1))


def test_damaged_exif_leaves_the_image_as_it_is():
    exif = oriented(6).tobytes()
    for end in range(6, len(exif)):
        with warnings.catch_warnings(record=True) as told:
            image = decode_image(stored(BIG, "JPEG", exif=exif[:end], quality=95), "it")
        assert image.shape in (BIG.shape, np.rot90(BIG).shape) and not told


@pytest.mark.parametrize("maxval", [1, 15, 100, 255, 1023, 4095, 65535])
@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
def test_a_pgm_or_ppm_of_any_maxval_has_its_full_range(kind, maxval):
    channels = 3 if kind in ("P3", "P6") else 1
    values = np.rint(STEPS[..., None] * maxval).astype(int).repeat(channels, axis=2)
    head = f"{kind}\n64 32\n{maxval}\n".encode()
    if kind in ("P5", "P6"):
        data = head + values.astype(">u2" if maxval > 255 else np.uint8).tobytes()
    else:
        data = head + " ".join(map(str, values.ravel())).encode()
    expected = (values * (255 / maxval)).repeat(4 - channels if channels == 1 else 1, axis=2)[..., :3]
    assert np.abs(decode_image(data, "it") - expected).max() <= 1


FLOATS = {
    "grey TIFF": lambda image: stored(np.ascontiguousarray(image[..., 0]), "TIFF"),
    "grey TIFF, compressed": lambda image: stored(np.ascontiguousarray(image[..., 0]), "TIFF", compression="tiff_lzw"),
    "RGB TIFF": lambda image: cv2.imencode(".tif", image[..., ::-1])[1].tobytes(),
    "grey PFM": lambda image: b"Pf\n64 32\n-1.0\n" + image[::-1, :, 0].astype("<f4").tobytes(),
    "RGB PFM": lambda image: b"PF\n64 32\n-1.0\n" + image[::-1].astype("<f4").tobytes(),
    "Radiance HDR": lambda image: cv2.imencode(".hdr", image[..., ::-1])[1].tobytes(),
}


@pytest.mark.parametrize("kind", FLOATS)
def test_floats_from_zero_to_one_have_their_full_range(kind):
    image = np.dstack([STEPS, STEPS, STEPS] if "grey" in kind else [STEPS, STEPS[:, ::-1], STEPS / 2])
    assert np.abs(decode_image(FLOATS[kind](image), "it") - 255 * image).max() <= 2


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (255 * STEPS, 255 * STEPS),
        (np.rint(255 * STEPS), 255 * STEPS),
        (65535 * STEPS, 255 * STEPS),
        (np.where(STEPS > 0.95, 7.5, STEPS), np.where(STEPS > 0.95, 255, 255 * STEPS)),  # highlights are clipped
        (np.where(STEPS > 0.95, np.nan, STEPS), np.where(STEPS > 0.95, 0, 255 * STEPS)),
        (np.where(STEPS > 0.95, -3, STEPS), np.where(STEPS > 0.95, 0, 255 * STEPS)),
        (np.rint(STEPS), 255 * np.rint(STEPS)),  # a mask
        (np.zeros((4, 5), np.float32), np.zeros((4, 5))),
        (np.rint(255 * STEPS).astype(np.int32), 255 * STEPS),
        (np.rint(65535 * STEPS).astype(np.int32), 255 * STEPS),
    ],
)
def test_a_tiff_of_floats_or_32_bits_has_the_smallest_range_that_holds_it(values, expected):
    values = values if values.dtype == np.int32 else values.astype(np.float32)
    image = decode_image(stored(values, "TIFF"), "it")
    assert image.dtype == np.uint8 and np.abs(image - expected[..., None]).max() <= 1


def hidden_under(transparency: str) -> bytes:
    """The left half is a red that shows, the right half a blue that is hidden."""
    rgba = np.zeros((8, 16, 4), np.uint8)
    rgba[:, :8], rgba[:, 8:] = (255, 0, 0, 255), (0, 0, 255, 0)
    image = Image.fromarray(rgba)
    if transparency == "a PNG's palette":
        palette = image.convert("RGB").quantize(4)
        blue = np.asarray(palette)[0, -1]
        return stored(palette, "PNG", transparency=bytes(0 if i == blue else 255 for i in range(2)))
    if transparency == "a PNG's hidden colour":
        return stored(image.convert("RGB"), "PNG", transparency=(0, 0, 255))
    if transparency == "a GIF":
        return stored(image, "GIF")
    if transparency == "a TIFF, premultiplied":
        data = stored(image, "TIFF")
        extra = struct.pack("<HHIHH", 338, 3, 1, 2, 0)
        assert extra in data
        return data.replace(extra, extra[:8] + struct.pack("<HH", 1, 0))
    return stored(image, transparency, **({"lossless": True, "exact": True} if transparency == "WEBP" else {}))


TRANSPARENT = ["PNG", "WEBP", "TIFF", "a PNG's palette", "a PNG's hidden colour", "a GIF", "a TIFF, premultiplied"]


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_what_is_transparent_is_seen_on_white_and_its_hidden_colour_never(kind):
    image = decode_image(hidden_under(kind), "it")
    assert image.shape == (8, 16, 3)
    np.testing.assert_allclose(image[:, :8], [[[255, 0, 0]] * 8] * 8, atol=1)
    assert (image[:, 8:] == 255).all()
    rgba = decode_image(hidden_under(kind), "it", with_alpha=True)
    assert rgba.shape == (8, 16, 4) and (rgba[:, :8, 3] == 255).all() and (rgba[:, 8:, 3] == 0).all()


def test_half_transparent_pixels_are_mixed_with_white():
    rgba = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    image, alpha = decode_image(stored(rgba, "PNG"), "it"), rgba[..., 3:] / 255
    assert np.abs(image - (rgba[..., :3] * alpha + 255 * (1 - alpha))).max() <= 1
    np.testing.assert_array_equal(decode_image(stored(rgba, "PNG"), "it", with_alpha=True), rgba)
    grey = rgba[..., [0, 3]]
    image = decode_image(stored(Image.fromarray(grey, "LA"), "PNG"), "it")
    assert np.abs(image - (grey[..., :1] * alpha + 255 * (1 - alpha))).max() <= 1


def test_sixteen_bit_grey_with_a_hidden_value_is_seen_on_white():
    grey = np.full((4, 6), 30_000, np.uint16)
    grey[:, 3:] = 9
    whole = cv2.imencode(".png", grey)[1].tobytes()
    chunk = b"tRNS" + struct.pack(">H", 9)
    place = whole.index(b"IDAT") - 4
    data = whole[:place] + struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk)) + whole[place:]
    image = decode_image(data, "it")
    assert (image[:, :3] == 30_000 >> 8).all() and (image[:, 3:] == 255).all()


def test_cmyk_and_ycbcr_and_lab_and_one_bit_become_rgb():
    photo = Image.open(PHOTOS / "astronaut.jpg").resize((60, 60))
    for mode, kind in (("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "TIFF"), ("1", "PNG"), ("1", "TIFF")):
        data = stored(photo.convert(mode), kind)
        expected = Image.open(io.BytesIO(data)).convert("RGB")
        np.testing.assert_array_equal(decode_image(data, "it"), np.asarray(expected))
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(photo, *profiles, outputMode="LAB")
    assert np.abs(decode_image(stored(lab, "TIFF"), "it").astype(int) - np.asarray(photo)).mean() < 4


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG", "MPO"])
def test_the_first_of_several_images_is_taken(kind):
    second = Image.fromarray(np.zeros_like(BIG))
    data = stored(BIG, kind, save_all=True, append_images=[second])
    assert np.abs(decode_image(data, "it").astype(int) - BIG).mean() < 20


def test_jpegs_have_the_pixels_of_opencv():
    for file in [*sorted((ROOT / "data" / "sample" / "test").glob("*.jpg"))[:40], PHOTOS / "astronaut.jpg"]:
        expected = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)
        np.testing.assert_array_equal(read_image(file), expected)


def test_a_jpeg_without_its_end_is_read_and_what_follows_the_end_is_ignored():
    data = stored(BIG, "JPEG")
    for changed in (data[:-2], data + b"a trailer of a telephone", data[: len(data) - 8]):
        assert decode_image(changed, "it").shape == BIG.shape


def test_an_image_that_was_read_can_be_drawn_into(tmp_path):
    for array in (BIG, np.dstack([BIG, BIG[..., 0]]), BIG[..., 0]):
        read_image(save(tmp_path / "a.png", array))[:] = 7


def test_postscript_is_not_run(monkeypatch):
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("Ghostscript was started"))
    with pytest.raises(ValueError, match=r"^it: expected an image, got \d+ bytes"):
        decode_image(stored(BIG, "EPS"), "it")


def test_codecs_write_nothing_on_stderr(capfd):
    photo, rng = Image.open(PHOTOS / "astronaut.jpg").resize((90, 90)), np.random.default_rng(0)
    files = [stored(photo, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "JPEG2000")]
    files += [stored(photo, "TIFF", compression=kind) for kind in ("tiff_lzw", "jpeg", "tiff_deflate", "packbits")]
    files += [make(np.dstack([STEPS] * 3)) for make in FLOATS.values()]
    files += [stored(photo, "AVIF")] if features.check("avif") else []
    for data in files:
        for _ in range(40):
            damaged = bytearray(data)
            for place in rng.integers(0, len(data) if rng.random() < 0.5 else min(len(data), 400), 4):
                damaged[place] = rng.integers(256)
            try:
                decode_image(bytes(damaged), "it")
            except ValueError as error:
                assert str(error).startswith("it: ") and "\n" not in str(error)
    assert capfd.readouterr() == ("", "")


def test_warnings_stay_silent_and_as_they_were_with_several_threads():
    data = stored(BIG, "JPEG", exif=oriented(6).tobytes()[:-9])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        threads = [threading.Thread(target=lambda: [decode_image(data, "it") for _ in range(20)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert warnings.filters == before and not told


def test_heic_is_read_where_pillow_heif_is_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ValueError, match=r"^it: .*, got a HEIC file, which .*pillow-heif: save it as JPEG$"):
        decode_image(b"\0\0\0\x18ftypheic\0\0\0\0", "it")

    def register() -> None:
        behind = lambda file, name: Image.open(io.BytesIO(file.read()[12:]))  # noqa: E731
        Image.register_open("HEIF", behind, lambda head: b"heic" in head)

    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=register))
    image = decode_image(b"\0\0\0\x18ftypheic" + stored(BIG, "PNG"), "it")
    np.testing.assert_array_equal(image, BIG)
    Image.OPEN.pop("HEIF")
    Image.ID.remove("HEIF")


def test_folders_and_patterns_become_the_images_in_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.jpg", "a.PNG", "note.txt", "[1].jpg", "c.webp"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "more.jpg").mkdir()
    (tmp_path / "empty").mkdir()
    join = os.path.join
    assert find_images(["."]) == [join(".", name) for name in ("[1].jpg", "a.PNG", "b.jpg", "c.webp")]
    assert find_images(["b.jpg", "*.w*", "[1].jpg"]) == ["b.jpg", "c.webp", "[1].jpg"]
    assert find_images(["none*.jpg", "empty", "none.jpg"]) == ["none*.jpg", "empty", "none.jpg"]


# What counts as an image ----------------------------------------------------------------------------------------------


def test_paths_arrays_and_pil_images_are_accepted(tmp_path):
    path = save(tmp_path / "a.png", BIG)
    rgba, grey = np.dstack([BIG, np.full(BIG.shape[:2], 255, np.uint8)]), np.repeat(BIG[..., :1], 3, axis=2)
    floats = (BIG / 255).astype(np.float32)
    for image in (path, str(path), BIG, BIG / 255, floats, rgba, rgba / 255, Image.fromarray(BIG)):
        np.testing.assert_array_equal(as_rgb(image), BIG)
    for image in (BIG[..., 0], BIG[..., :1], BIG[..., 0] / 255, Image.fromarray(BIG[..., 0])):
        np.testing.assert_array_equal(as_rgb(image), grey)
    np.testing.assert_array_equal(as_rgb(BIG[::-1, ::-1, :]), BIG[::-1, ::-1])
    rgba[:, :9, 3] = 0
    for image in (rgba, rgba / 255, Image.fromarray(rgba), Image.fromarray(rgba).convert("RGBa")):
        assert (as_rgb(image)[:, :9] == 255).all() and (as_rgb(image)[:, 9:] == BIG[:, 9:]).all()
    assert (as_rgb(Image.fromarray(BIG).quantize(4)) == BIG).mean() > 0.9


def test_the_points_of_a_pil_image_lie_in_the_image_as_it_was_given():
    image = Image.open(io.BytesIO(stored(BIG, "JPEG", exif=oriented(6))))
    assert as_rgb(image).shape == BIG.shape and as_rgb(ImageOps.exif_transpose(image)).shape == (128, 96, 3)


@pytest.mark.parametrize("values", [(0, 255), (-0.5, 1), (0, np.nan), (0, np.inf)])
def test_floats_beyond_zero_to_one_raise_a_sentence(values):
    image = np.zeros((9, 9, 3), np.float32)
    image[0, 0, 0], image[1, 1, 1] = values
    with pytest.raises(ValueError, match=r"^got a float image with values from \S+ to \S+, expected \[0, 1\]$"):
        as_rgb(image)
