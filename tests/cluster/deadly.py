"""A data set that ends the process which opens it."""

import os
import signal


def die(settings: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
