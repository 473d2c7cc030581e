"""Which code it is that runs."""

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def code_version() -> str:
    """The commit of a checkout, ``with changes`` where a Python file differs from it; elsewhere the version
    of the installed distribution."""
    root = Path(__file__).parents[1]
    if (root / ".git").exists():  # of this very folder: a checkout around a virtual environment is not meant
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        if commit:
            changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", "*.py")
            return f"{commit} with changes" if changed else commit
    try:
        return f"weft {version('weft')}"
    except PackageNotFoundError:
        return "unknown"


def _git(root: Path, *arguments: str) -> str:
    """What git says; nothing where there is none, or where it refuses."""
    try:
        command = ["git", "-C", str(root), *arguments]
        said = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return said.stdout.strip() if said.returncode == 0 else ""
