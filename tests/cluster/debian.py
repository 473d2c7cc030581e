"""Programs of Debian packages that tests need, installed when they are missing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

APT = ["apt-get", "--quiet", "--yes", "-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=3"]
PATIENCE_S = 300


def needed(command: str, package: str) -> Path:
    """The program; its package is installed if it is missing. Skips the test where that cannot be done."""
    found = _found(command)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        for arguments in (["update"], ["install", "--no-install-recommends", package]):
            subprocess.run(
                [*APT, *arguments], env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                capture_output=True, check=True, timeout=PATIENCE_S,
            )  # fmt: skip
        found = _found(command)
        assert found is not None, f"{package} brought no {command}"
    if found is None:
        pytest.skip(f"needs {command} (Debian's {package}), or root and apt-get to install it")
    return found


def _found(command: str) -> Path | None:
    """On PATH, or where servers and their tools lie (/usr/lib/postgresql/15/bin/initdb)."""
    packaged = sorted(str(folder) for folder in Path("/usr/lib").glob("*/*/bin"))
    places = [os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", *packaged]
    place = shutil.which(command, path=os.pathsep.join(places))
    return None if place is None else Path(place)
