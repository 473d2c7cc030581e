"""What a search has committed, read from its folder while it runs."""

import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from cluster.files import AnyPath
from cluster.s3 import S3Path

SEGMENT = re.compile(r"ledger/\d{8}\.json")
CHECKPOINT = re.compile(r"((?:supernet(?:-\d+)?|candidates/[^/]+)/)epoch-(\d+)\.json")


class Mark(NamedTuple):
    """`at`: seconds by a clock that goes evenly. `steps`: of all networks' newest checkpoints together (a
    grid's are epochs). `segments`: of the ledger."""

    at: float
    steps: int
    segments: int


class Progress:
    """Looks at one run's folder; `marks` says when something was committed and how far that came."""

    def __init__(self, s3: Any) -> None:
        self._s3 = s3
        self._seen: dict[str, str] = {}
        self.marks: list[Mark] = []

    def look(self, folder: AnyPath) -> bool:
        """Add a mark when there is a checkpoint or a segment that was not there, or one was written anew.
        Whether there was."""
        kept = self._kept(folder)
        new = any(self._seen.get(name) != version for name, version in kept.items())
        if new:
            self.marks.append(_mark(kept))
        self._seen = kept
        return new

    def _kept(self, folder: AnyPath) -> dict[str, str]:
        found = self._in_bucket(folder) if isinstance(folder, S3Path) else _on_disk(folder)
        return {name: version for name, version in found.items() if _counts(name)}

    def disregard(self, folder: AnyPath) -> None:
        """What was written since the last look was no commit."""
        self._seen = self._kept(folder)

    def _in_bucket(self, folder: S3Path) -> dict[str, str]:
        asked = {"Bucket": folder.bucket, "Prefix": f"{folder.key}/"}
        return {
            one["Key"][len(folder.key) + 1 :]: f"{one['ETag']} {one['LastModified']}"
            for page in self._s3.get_paginator("list_objects_v2").paginate(**asked)
            for one in page.get("Contents", ())
        }

    def seconds_to_next(self, at: float) -> float | None:
        """From this moment to the next commit; None if there was none."""
        return next((mark.at - at for mark in self.marks if mark.at > at), None)


def _on_disk(folder: Path) -> dict[str, str]:
    found = {}
    for pattern in ("ledger/*", "supernet*/*", "candidates/*/*"):
        for path in folder.glob(pattern):
            with suppress(FileNotFoundError):  # an old checkpoint, deleted meanwhile
                found[str(path.relative_to(folder))] = str(path.stat().st_mtime_ns)
    return found


def _counts(name: str) -> bool:
    return bool(SEGMENT.fullmatch(name) or CHECKPOINT.fullmatch(name))


def _mark(names: Iterable[str]) -> Mark:
    steps: dict[str, int] = {}
    segments = 0
    for name in names:
        if found := CHECKPOINT.fullmatch(name):
            steps[found[1]] = max(steps.get(found[1], 0), int(found[2]))
        else:
            segments += 1
    return Mark(time.monotonic(), sum(steps.values()), segments)
