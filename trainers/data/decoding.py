"""One image file to pixels, and the program that does it in a process of its own.

This file imports nothing of weft and, until the first image, nothing but the standard library. It is run by
its path, so the processes start in a tenth of a second, have no torch or CUDA state, and need no importable
``__main__``. They read requests from standard input and end when it closes, so the death of their parent,
however sudden, ends them too.

A request is a line of JSON, then the bytes of the images that are not files; the answer is a line of JSON,
then the pixels. See `decode_all` for its fields.
"""

import io
import json
import math
import random
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO

RATIOS = (3 / 4, 4 / 3)
ATTEMPTS = 10
# What the last bytes of a whole file hold. Where they do not, the file is decoded to be sure.
ENDINGS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
Box = tuple[float, float, float, float]


class BadImage(Exception):
    """(number in the request, reason)"""


def decode_all(request: dict[str, Any], images: list[str | bytes]) -> Iterator[bytes]:
    """The pixels of each image, or empty bytes where they are only checked; `BadImage` for the first bad one.

    request: {"rule": check, exact, center or resized_crop, "height", "width", "fraction" (center),
    "scale" (resized_crop), "seeds" (resized_crop: one an image)}. Pixels are RGB, height x width x 3.
    """
    for number, image in enumerate(images):
        try:
            if request["rule"] == "check":
                check(image)
                yield b""
            else:
                yield decode(image, request, number)
        except Exception as error:  # Pillow's plugins raise many kinds for damaged files
            raise BadImage(number, f"{type(error).__name__}: {error}") from error


def check(image: str | bytes) -> None:
    """Raise unless the header can be read and the end looks whole."""
    from PIL import Image

    with _file(image) as file, Image.open(file) as opened:
        ending = ENDINGS.get(opened.format or "")
        file.seek(0, io.SEEK_END)
        file.seek(-min(12, file.tell()), io.SEEK_END)
        if ending is not None and ending not in file.read():
            opened.load()


def decode(image: str | bytes, request: dict[str, Any], number: int) -> bytes:
    from PIL import Image

    target = request["width"], request["height"]
    with _file(image) as file, Image.open(file) as opened:
        if request["rule"] == "exact":
            if opened.size != target:
                raise ValueError("it has {}x{} pixels, the first one {}x{}".format(*opened.size, *target))
            return opened.convert("RGB").tobytes()
        width, height = opened.size
        if request["rule"] == "center":
            box = center_box(width, height, target, request["fraction"])
        else:
            box = random_box(width, height, target, request["scale"], request["seeds"][number])
        # A JPEG can be read at 1/2, 1/4 or 1/8 of its size; never below what the box needs.
        needed = (width * target[0] / (box[2] - box[0]), height * target[1] / (box[3] - box[1]))
        opened.draft(None, (math.ceil(needed[0]), math.ceil(needed[1])))
        across, down = opened.width / width, opened.height / height
        right, bottom = min(box[2] * across, opened.width), min(box[3] * down, opened.height)
        scaled = (box[0] * across, box[1] * down, right, bottom)
        return opened.convert("RGB").resize(target, Image.Resampling.BILINEAR, box=scaled).tobytes()


def center_box(width: int, height: int, target: tuple[int, int], fraction: float) -> Box:
    """The largest box of the target's shape in the middle, times `fraction`."""
    scale = fraction * min(width / target[0], height / target[1])
    w, h = target[0] * scale, target[1] * scale
    return ((width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2)


def random_box(
    width: int, height: int, target: tuple[int, int], scale: tuple[float, float], seed: int
) -> Box:
    """A box of a random share of the area and a random aspect ratio (1409.4842, section 6); the middle where
    ten of them do not fit."""
    draw = random.Random(seed)
    for _ in range(ATTEMPTS):
        area = width * height * draw.uniform(*scale)
        ratio = math.exp(draw.uniform(math.log(RATIOS[0]), math.log(RATIOS[1])))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = draw.uniform(0, width - w), draw.uniform(0, height - h)
            return (left, top, left + w, top + h)
    return center_box(width, height, target, 1.0)


def _file(image: str | bytes) -> BinaryIO:
    return io.BytesIO(image) if isinstance(image, bytes) else open(image, "rb")


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more. "images" holds a path, or the number of bytes that follow."""
    while line := requests.readline():
        request = json.loads(line)
        images = [requests.read(image) if isinstance(image, int) else image for image in request["images"]]
        error, pixels = None, b""
        try:
            pixels = b"".join(decode_all(request, images))
        except BadImage as bad:
            error = bad.args
        answers.write(json.dumps({"error": error, "bytes": len(pixels)}).encode() + b"\n")
        answers.write(pixels)
        answers.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    warnings.simplefilter("ignore")
    serve(sys.stdin.buffer, sys.stdout.buffer)
