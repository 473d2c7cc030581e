"""Which code a run says it was made with."""

import os
import subprocess
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import cluster.version
from cluster.version import code_version


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose one module asks for its version."""
    (tmp_path / "cluster").mkdir()
    module = tmp_path / "cluster" / "version.py"
    module.write_text("first = 1\n")
    monkeypatch.setattr(cluster.version, "__file__", str(module))
    monkeypatch.setattr(cluster.version, "version", lambda name: f"0.7 of {name}")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    identity = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b.c"}
    identity |= {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b.c"}
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.check_output(command, text=True, env={**os.environ, **identity}).strip()


def test_a_checkout_says_its_commit_and_whether_it_was_changed(code: Path) -> None:
    git(code, "init", "--quiet")
    assert code_version() == "weft 0.7 of weft"  # nothing is committed yet
    git(code, "add", ".")
    git(code, "commit", "--quiet", "--message", "one")
    commit = code_version()
    assert len(commit) >= 12 and git(code, "rev-parse", "HEAD").startswith(commit)
    (code / "RESULTS.md").write_text("not code")
    assert code_version() == commit
    (code / "cluster" / "version.py").write_text("first = 2\n")
    assert code_version() == f"{commit} with changes"


def test_elsewhere_it_is_the_installed_version(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert code_version() == "weft 0.7 of weft"
    (code / ".git").mkdir()
    monkeypatch.setenv("PATH", "")  # a copy of a checkout, on a machine without git
    assert code_version() == "weft 0.7 of weft"

    def unknown(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(cluster.version, "version", unknown)
    assert code_version() == "unknown"
