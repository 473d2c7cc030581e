"""Worker processes that decode images, in the order they were asked to."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from networks.errors import UserError
from trainers.data import decoding
from trainers.data.progress import Progress

MOST_WORKERS = 8
CHUNK = 256  # images a request where many are decoded at once


class Image(NamedTuple):
    """A file, or bytes with a name to complain about."""

    name: str
    content: bytes | None = None


class Fit(NamedTuple):
    """How an image becomes height x width pixels. check: nothing is decoded. exact: it must have this size.
    center: the middle box of this shape, times `fraction`. resized_crop: a box drawn from one of `seeds`."""

    rule: Literal["check", "exact", "center", "resized_crop"]
    height: int = 0
    width: int = 0
    fraction: float = 1.0
    scale: tuple[float, float] = (1.0, 1.0)
    seeds: tuple[int, ...] = ()


def default_workers() -> int:
    return min(MOST_WORKERS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)


class Decoders:
    """`workers` processes, each behind a thread that waits for it; with 0, images are decoded at once by
    the caller. What comes out does not depend on the number."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._threads = ThreadPoolExecutor(workers, "decoder") if workers else None
        self._local = threading.local()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._end = weakref.finalize(self, _end, self._processes)

    def close(self) -> None:
        """Nothing more can be asked. Who forgets it loses nothing: the processes go with the object."""
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
        self._end()

    def submit(self, images: Sequence[Image], fit: Fit) -> Future[Tensor]:
        """uint8 N x 3 x height x width to come. It raises `UserError` ("path") for an unreadable image."""
        if self._threads is not None:
            return self._threads.submit(_ask, self._local, self._processes, images, fit)
        future: Future[Tensor] = Future()
        try:
            future.set_result(_here(images, fit))
        except UserError as error:
            future.set_exception(error)
        return future

    def run(self, images: Sequence[Image], fit: Fit, what: str) -> Tensor:
        """Many images, with a progress line."""
        chunks = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
        results: list[Tensor] = []
        with Progress(what, len(images), "images") as progress:
            ahead = max(1, 2 * self.workers)
            coming = deque(self.submit(chunk, fit) for chunk in chunks[:ahead])
            for position, chunk in enumerate(chunks):
                results.append(coming.popleft().result())
                progress.add(len(chunk))
                if position + ahead < len(chunks):
                    coming.append(self.submit(chunks[position + ahead], fit))
        return torch.cat(results) if results else _planes(np.empty(0, np.uint8), images, fit)


def _request(fit: Fit) -> dict[str, Any]:
    return fit._asdict()


def _here(images: Sequence[Image], fit: Fit) -> Tensor:
    sources = [image.name if image.content is None else image.content for image in images]
    try:
        pixels = b"".join(decoding.decode_all(_request(fit), sources))
    except decoding.BadImage as bad:
        raise _unreadable(images, *bad.args) from bad
    return _planes(np.frombuffer(bytearray(pixels), np.uint8), images, fit)


def _ask(
    local: threading.local, processes: list[subprocess.Popen[bytes]], images: Sequence[Image], fit: Fit
) -> Tensor:
    """One request to the process of this thread, which is started where there is none."""
    process: subprocess.Popen[bytes] | None = getattr(local, "process", None)
    if process is None or process.poll() is not None:
        # -P: the folder of that file must not shadow other modules.
        command = [sys.executable, "-P", decoding.__file__]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        local.process = process
        processes.append(process)
    assert process.stdin is not None and process.stdout is not None
    names = [image.name if image.content is None else len(image.content) for image in images]
    try:
        process.stdin.write(json.dumps(_request(fit) | {"images": names}).encode() + b"\n")
        process.stdin.writelines(image.content for image in images if image.content is not None)
        process.stdin.flush()
        answer = json.loads(process.stdout.readline() or b"null")
        pixels = np.empty(answer["bytes"] if answer else 0, np.uint8)
        whole = answer is not None and process.stdout.readinto(pixels.data) == len(pixels)  # type: ignore[attr-defined]
    except (OSError, ValueError):  # a pipe without its other end, an answer that was cut off
        whole = False
    if not whole:
        process.kill()
        raise RuntimeError(f"an image decoder ended with code {process.wait()}, at {images[0].name} or after")
    if answer["error"] is not None:
        raise _unreadable(images, *answer["error"])
    return _planes(pixels, images, fit)


def _planes(pixels: np.ndarray[Any, np.dtype[np.uint8]], images: Sequence[Image], fit: Fit) -> Tensor:
    count = 0 if fit.rule == "check" else len(images)
    return torch.from_numpy(pixels.reshape(count, fit.height, fit.width, 3)).permute(0, 3, 1, 2).contiguous()


def _unreadable(images: Sequence[Image], number: int, reason: str) -> UserError:
    return UserError("path", images[number].name, "an image that Pillow can read", f"{reason}.")


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Also called by the garbage collector, amid whatever its thread was doing. So it takes no lock that this
    thread may hold: not those of an executor, whose threads end by themselves when it is collected."""
    for process in processes:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError, RuntimeError):  # what it did not read; a read just going on
                    pipe.close()
