"""Threads that begin at the same moment, and waiting for what others do."""

import threading
import time
from collections.abc import Callable


def at_once(number: int, act: Callable[[int], object]) -> dict[int, Exception]:
    """`act` of 0 .. number - 1, each in a thread of its own; what was raised, by number."""
    start, raised = threading.Barrier(number), {}

    def run(one: int) -> None:
        start.wait(20)
        try:
            act(one)
        except Exception as error:
            raised[one] = error

    threads = [threading.Thread(target=run, args=(one,)) for one in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)
