"""Reads image files, and turns whatever counts as an image into RGB.

Pillow decodes. It knows the size of an image before it decodes it, so that an image that would take too much memory is
refused first. OpenCV reads the few formats with floats that Pillow lacks.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import io
import logging
import os
import re
import threading
import warnings
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin

MOST_PIXELS = 2**27  # of an image, 400 MB as RGB; telephones take up to 108 million
MOST_BYTES = 2**28  # of a file; 50 million pixels without compression are 150 MB
# More pixels than that must not come in a file of some kilobytes. A black photograph has 64 for a byte, or 85 in grey
# (JPEG's own tables); empty screens have hundreds, but seldom more pixels than 5120×2880.
FREE_PIXELS, PIXELS_A_BYTE = 2**24, 100
# Formats that photographs and drawings come in. Others are left out on purpose: EPS starts Ghostscript, ICO may hold an
# image of another size than it says, TGA and PCX have no signature, so that they match what is no image.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "PSD", "QOI", "SGI", "SUN")
END_OF_JPEG = b"\xff\xd9"
# Sizes in the headers of what OpenCV reads and Pillow does not: colour PFM and Radiance HDR.
FLOAT_FORMATS = {
    b"PF": rb"PF\s+(?P<width>\d{1,9})\s+(?P<height>\d{1,9})\s",
    b"#?": rb"(?s).{,4000}?\n[-+]Y (?P<height>\d{1,9}) [-+]X (?P<width>\d{1,9})\n",
}
# ISO/IEC 23008-12: the brands of pictures coded as HEVC, as telephones write them.
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
BACKGROUND = 255  # grey level behind transparent pixels: white, as paper and web pages are

logging.getLogger("PIL").addHandler(logging.NullHandler())  # without a handler Python writes its errors on stderr
with contextlib.suppress(AttributeError, OSError):
    # Pillow silences libtiff's warnings, but not its errors. Where libtiff is linked statically (Windows), they stay.
    _set_error_handler = ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler
    _set_error_handler.argtypes, _set_error_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
    _set_error_handler(None)


# Endings of the files that are taken from a folder.
ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif", ".gif", ".bmp", ".tif", ".tiff"),
    *(".jp2", ".j2k", ".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".hdr", ".psd", ".qoi", ".sgi"),
)


def find_images(arguments: Iterable[str]) -> list[str]:
    """The files that arguments of a command name.

    Args:
        arguments: files, folders, and patterns such as ``*.jpg``, which shells on Windows leave to the program.

    Returns:
        the files in the order of their arguments; those of a folder (not of the folders in it) whose name ends as an
        image's does, and those of a pattern, by name. What names no file stays as it is: reading it says why.
    """
    files: list[str] = []
    for argument in arguments:
        found: list[str] = []
        if os.path.isdir(argument):
            found = [os.path.join(argument, name) for name in os.listdir(argument)]
            found = [file for file in found if Path(file).suffix.lower() in ENDINGS and os.path.isfile(file)]
        elif glob.has_magic(argument) and not os.path.exists(argument):
            found = glob.glob(argument)
        files += sorted(found) or [argument]
    return files


class _NoWarnings:
    """Silences Python's warnings while at least one thread is inside: Pillow warns of damaged metadata, for example.

    ``warnings.catch_warnings`` alone mixes up its states when two threads enter and leave in turns.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._context = threading.Lock(), 0, warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._context = warnings.catch_warnings()
                self._context.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._context.__exit__(None, None, None)


_no_warnings = _NoWarnings()


def read_bytes(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """Read a file or a pipe, at most ``most`` bytes: files like ``/dev/zero`` have no end.

    Raises:
        OSError: the file is missing or can't be read.
        ValueError: "PATH: got more than … bytes, expected a smaller file".
    """
    data = bytearray()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            data += chunk
            if len(data) > most:
                raise ValueError(f"{path}: got more than {most:,} bytes, expected a smaller file")
    return bytes(data)


def read_image(path: str | Path, with_alpha: bool = False) -> np.ndarray:
    """Read an image file as RGB.

    The content decides, not the name: the official set is PNG named ``.jpg``. Grey, palette, CMYK and Lab become RGB,
    the first image of several is taken, and the orientation of the EXIF tag or of AVIF is applied. Transparent pixels
    are composited on white. 16 bits become 8; floats and 32-bit integers are scaled as :func:`to_8_bits` says. A JPEG
    that is cut off is read as far as it goes.

    Args:
        with_alpha: return RGBA where the image has transparency, instead of compositing it.

    Returns:
        (H, W, 3) uint8 RGB; with ``with_alpha``, (H, W, 4) uint8 RGBA where the image has transparency.

    Raises:
        OSError: the file is missing or can't be read.
        ValueError: "PATH: expected an image, got …", or more bytes or pixels than are read.
    """
    if os.path.isdir(path):
        reason = "got a folder, expected an image, or for a command a folder that holds some"
        raise IsADirectoryError(errno.EISDIR, reason, str(path))
    return decode_image(read_bytes(path), path, with_alpha)


def decode_image(data: bytes, name: str | Path, with_alpha: bool = False, most_pixels: int = MOST_PIXELS) -> np.ndarray:
    """Decode an image from the bytes of a file, see :func:`read_image`.

    The size is checked before the pixels are decoded, so that a small file cannot take memory out of proportion.

    Args:
        data: the content of a file.
        name: what errors call it.
        with_alpha: return RGBA where the image has transparency, instead of compositing it.
        most_pixels: refuse more.

    Returns:
        (H, W, 3) uint8 RGB; with ``with_alpha``, (H, W, 4) uint8 RGBA, not premultiplied, where it has transparency.

    Raises:
        ValueError: "NAME: expected an image, got …", or more than ``most_pixels``, or than a file so small can hold.
    """
    most = min(most_pixels, max(FREE_PIXELS, PIXELS_A_BYTE * len(data)))
    try:
        with _no_warnings:
            image = _decode(data, most)
    except _TooLargeError as error:
        raise ValueError(
            f"{name}: got an image of {error.args[0]:,} pixels in {len(data):,} bytes, "
            f"expected at most {most:,} pixels"
        ) from None
    except Image.DecompressionBombError:  # Pillow's own limit lies above ours
        raise ValueError(
            f"{name}: got an image of more pixels than are read, expected at most {MOST_PIXELS:,}"
        ) from None
    except Exception:  # a damaged file makes Pillow's decoders raise errors of any kind
        if data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS:
            raise ValueError(
                f"{name}: expected an image, got a HEIC file, which needs the package pillow-heif: save it as JPEG"
            ) from None
        raise ValueError(f"{name}: expected an image, got {len(data)} bytes that do not decode as one") from None
    return image if with_alpha else on_background(image)


class _TooLargeError(Exception):
    """The image has more pixels, ``args[0]``, than are read."""


def _decode(data: bytes, most: int) -> np.ndarray:
    """(H, W, 3) or (H, W, 4) uint8 of at most ``most`` pixels; errors are Pillow's and OpenCV's."""
    if (floats := _decode_floats(data, most)) is not None:
        return to_8_bits(floats)
    formats = (*FORMATS, "HEIF") if data[4:8] == b"ftyp" and _register_heif() else FORMATS
    if data.startswith(b"\xff\xd8"):
        data += END_OF_JPEG  # browsers read a JPEG as well that was cut off
    with Image.open(io.BytesIO(data), formats=formats) as image:
        _check_size(image.width * image.height, most)
        image.load()
        with contextlib.suppress(Exception):  # damaged metadata; the pixels are turned before the tag is deleted
            ImageOps.exif_transpose(image, in_place=True)
        return _pixels(image)


def _check_size(pixels: int, most: int) -> None:
    if pixels > most:
        raise _TooLargeError(pixels)


def _register_heif() -> bool:
    """Whether pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _pixels(image: Image.Image) -> np.ndarray:
    """The pixels of an image of any of Pillow's modes: (H, W, 3) uint8, or (H, W, 4) where it has transparency."""
    if image.mode[0] in "IF":
        values = np.asarray(image)
        # PNG, and PGM as Pillow scales it, have 16 bits here, however dark the image is.
        sixteen = image.mode.startswith("I;16") or (image.format in ("PNG", "PPM") and image.mode == "I")
        grey = (values >> 8).astype(np.uint8) if sixteen else to_8_bits(values)
        channels = [grey, grey, grey]
        if isinstance(hidden := image.info.get("transparency"), int):  # of PNG: one grey value
            channels.append(np.where(values == hidden, 0, 255).astype(np.uint8))
        return np.dstack(channels)
    if image.mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB") or image
    if image.has_transparency_data or image.mode == "La":
        if image.mode == "La":
            image = image.convert("LA")  # Pillow has no way from premultiplied grey to RGBA
        return np.array(image.convert("RGBA"))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))  # a copy: it can be drawn into


def _decode_floats(data: bytes, most: int) -> np.ndarray | None:
    """Decode a float image that Pillow cannot read: (H, W, 3) RGB or (H, W, 4) RGBA; None if it is none of them."""
    if data[:4] in (b"II*\0", b"MM\0*"):
        stream = io.BytesIO(data)
        tags = TiffImagePlugin.ImageFileDirectory_v2(stream.read(8))
        stream.seek(tags.next)
        tags.load(stream)
        if tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0] != 3 or tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1) == 1:
            return None
        _check_size(tags[TiffImagePlugin.IMAGEWIDTH] * tags[TiffImagePlugin.IMAGELENGTH], most)
    elif pattern := FLOAT_FORMATS.get(data[:2]):
        size = re.match(pattern, data)
        if not size:
            return None
        _check_size(int(size["width"]) * int(size["height"]), most)
    else:
        return None
    before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    finally:
        cv2.utils.logging.setLogLevel(before)
    if image is None:
        raise ValueError("OpenCV does not decode it")
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def to_8_bits(values: np.ndarray) -> np.ndarray:
    """Scale float or integer values of an unknown range to uint8.

    Floats count as 0–1 if they do not exceed 1, or if half of those above 0 do not and they are not all whole numbers:
    highlights of an HDR image lie far above 1. Otherwise the range is the smallest of 8, 16 and 32 bits that holds the
    largest value, whatever type holds it. What lies outside the range is clipped; NaN becomes 0.

    Args:
        values: an array of any shape and numeric dtype.

    Returns:
        uint8, of the same shape.
    """
    floats = np.issubdtype(values.dtype, np.floating)
    values = np.nan_to_num(values.astype(np.float32), nan=0.0)
    largest = float(values.max())
    bright = values[values > 0]
    if floats and (largest <= 1 or (np.median(bright) <= 1 and (values != np.round(values)).any())):
        top = 1
    else:
        top = next((top for top in (255, 65535) if largest <= top), 2**32 - 1)
    return (np.clip(values / top, 0, 1) * 255).round().astype(np.uint8)


def on_background(image: np.ndarray, level: int = BACKGROUND) -> np.ndarray:
    """Composite an image on white, or on another grey level.

    Args:
        image: (H, W, 4) uint8 RGBA, not premultiplied, or (H, W, 3) uint8 RGB, which is returned as it is.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    if image.shape[2] == 3:
        return image
    rgb, seen_through = image[..., :3].copy(), image[..., 3] < 255
    pixels = image[seen_through].astype(np.uint16)
    alpha = pixels[:, 3:]
    rgb[seen_through] = (pixels[:, :3] * alpha + level * (255 - alpha) + 127) // 255
    return rgb


def as_rgb(image: np.ndarray | Image.Image | str | Path) -> np.ndarray:
    """Turn whatever counts as an image into RGB.

    Args:
        image: a file's path, see :func:`read_image`; a Pillow image of any mode, whose EXIF orientation is not applied,
            so that keypoints fit the image as it was given; or an array: (H, W) or (H, W, 1) grey, (H, W, 3) RGB or
            (H, W, 4) RGBA, uint8 or float in [0, 1]. What is transparent is composited on white.

    Returns:
        (H, W, 3) uint8.

    Raises:
        OSError: the file is missing or can't be read.
        ValueError: the file is no image, or the image is of another kind.
    """
    if isinstance(image, (str, Path)):
        return read_image(image)
    if isinstance(image, Image.Image) and 0 not in image.size:
        with _no_warnings:
            return on_background(_pixels(image))
    if not isinstance(image, np.ndarray) or 0 in image.shape:
        raise _no_image(image)
    floats = np.issubdtype(image.dtype, np.floating)
    if not (floats or image.dtype == np.uint8) or not (
        image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))
    ):
        raise _no_image(image)
    if floats:
        if not (image.min() >= -1e-3 and image.max() <= 1 + 1e-3):  # NaN is neither
            raise ValueError(
                f"got a float image with values from {image.min():.4g} to {image.max():.4g}, expected [0, 1]"
            )
        pixels = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
    else:
        pixels = image
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_GRAY2RGB)
    return on_background(pixels)


def _no_image(image: object) -> ValueError:
    what = f"{image.dtype} array of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    return ValueError(
        f"got {what}, expected an RGB image (H, W, 3), grey (H, W) or RGBA (H, W, 4) as uint8 or float in [0, 1], "
        "a PIL image or a path"
    )
