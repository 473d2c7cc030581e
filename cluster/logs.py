"""Logs that programs read: a JSON object a line, with the run and, where it is about one, the candidate."""

import json
import logging
import logging.handlers
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from cluster.run import Run

FILE = "log.jsonl"
BYTES, KEPT = 10_000_000, 3
WEFT = "cluster"  # all that weft says while a search runs comes from this floor
CANDIDATE = "candidate"  # a record's extra: log.warning(…, extra={CANDIDATE: row.candidate.id})


class JsonLines(logging.Formatter):
    """``{"time": …, "level": …, "logger": …, "run": …, "candidate": …, "message": …}``; time is UTC."""

    def __init__(self, run: str) -> None:
        super().__init__()
        self._run = run

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "run": self._run,
            "message": record.getMessage(),
        }
        if hasattr(record, CANDIDATE):
            said["candidate"] = getattr(record, CANDIDATE)
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        return json.dumps(said)


class LogFile(logging.handlers.RotatingFileHandler):
    """Where there is no room for a line it is lost: what matters is told where it happens, and a traceback
    of logging itself would hide it."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Nothing."""


@contextmanager
def logged(run: Run) -> Iterator[None]:
    """While this process drives the run: what weft says goes to ``log.jsonl`` in the run's folder of this
    machine, which is renamed when it is long. What the terminal shows stays as it is."""
    handler = LogFile(run.work / FILE, maxBytes=BYTES, backupCount=KEPT, encoding="utf-8")
    handler.setFormatter(JsonLines(run.name))
    logger, before = logging.getLogger(WEFT), logging.getLogger(WEFT).level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        handler.close()


def log_as_worker(run: str) -> None:
    """In a process of Ray's: the same lines on standard error, which Ray keeps among its logs. Said again,
    for another run, it holds for that one."""
    logger = logging.getLogger(WEFT)
    for old in [one for one in logger.handlers if isinstance(one.formatter, JsonLines)]:
        logger.removeHandler(old)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(run))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
