"""A line on standard error that tells how far something slow has come."""

import sys
import time
from types import TracebackType
from typing import Self

PATIENCE = 1.0  # seconds; what ends sooner says nothing
EVERY = 0.2


class Progress:
    """Use as a context, and call `add`. A terminal gets one line that moves, a log a line each quarter."""

    def __init__(self, what: str, total: int, unit: str, divisor: int = 1) -> None:
        self._what, self._total, self._unit, self._divisor = what, total, unit, divisor
        self._done = self._quarter = 0
        self._start = self._last = time.monotonic()
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown and sys.stderr.isatty():
            sys.stderr.write("\n")

    def add(self, done: int) -> None:
        self._done += done
        now = time.monotonic()
        if now - self._start < PATIENCE:
            return
        finished = self._done >= self._total > 0
        if sys.stderr.isatty():
            if now - self._last >= EVERY or finished:
                self._show("\r", "")
                self._last = now
        elif finished or (self._total and 4 * self._done // self._total > self._quarter):
            self._quarter = 4 * self._done // self._total
            self._show("", "\n")

    def _show(self, before: str, after: str) -> None:
        share = f" ({100 * self._done // self._total}%)" if self._total else ""
        total = f" of {self._total // self._divisor:,}" if self._total else ""
        done = self._done // self._divisor
        sys.stderr.write(f"{before}{self._what}: {done:,}{total} {self._unit}{share}{after}")
        sys.stderr.flush()
        self._shown = True
