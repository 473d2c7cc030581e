"""The file that `ray submit` ships: where it finds recipes, what it runs, and how it lets go."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import submit
from cluster.submit import main, resolved, search_command
from tests.cluster.commands import ROOT, heed_ctrl_c, wait_until, write_recipe


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a project in ~/weft; the working folder is another."""
    (tmp_path / "home" / "weft" / "recipes").mkdir(parents=True)
    (tmp_path / "cwd").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path


def test_recipes_are_found_where_a_user_has_them(head: Path) -> None:
    project = head / "home" / "weft" / "recipes"
    write_recipe(project, "mine.yaml")
    assert resolved("recipes/mine.yaml") == str(project / "mine.yaml")
    (head / "cwd" / "recipes").mkdir()
    write_recipe(head / "cwd" / "recipes", "mine.yaml")
    assert resolved("recipes/mine.yaml") == str(head / "cwd" / "recipes" / "mine.yaml")
    assert resolved(str(project / "mine.yaml")) == str(project / "mine.yaml")
    assert resolved("quickstart") == "quickstart", "weft knows its own"


def test_it_joins_the_cluster_unless_told_otherwise(head: Path) -> None:
    assert search_command("quickstart", ["--set", "seed=1"])[1:] == [
        "-m", "cluster.cli", "search", "quickstart", "--address", "auto", "--set", "seed=1",
    ]  # fmt: skip
    for other in (["--local"], ["--address", "1.2.3.4:6379"], ["--address=1.2.3.4:6379"]):
        assert search_command("quickstart", other)[5:] == other


@pytest.mark.parametrize(("given", "status"), [([], 2), (["--detach"], 2), (["--help"], 0)])
def test_without_a_recipe_it_says_how(
    given: list[str], status: int, head: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(given) == status
    assert "ray submit CLUSTER.yaml cluster/submit.py -- RECIPE" in capsys.readouterr().err


# Attached: in a process of its own, with a search that notes which signals it is sent ----------------

SEARCH = """
import signal, sys, time
def heard(number, frame):
    with open("heard", "a") as file:
        print(signal.Signals(number).name, file=file)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, heard)
print("begun", flush=True)
while True:
    time.sleep(0.05)
    try:
        status = int(open("end").read())
    except (FileNotFoundError, ValueError):
        continue
    print("ended", flush=True)
    sys.exit(status)
"""
SUBMIT = """
import sys
from cluster import submit
search = sys.argv[1]
submit.search_command = lambda *of: [sys.executable, "-c", search]
sys.exit(submit.main(["recipes/mine.yaml"]))
"""


class Attached:
    def __init__(self, head: Path) -> None:
        self._cwd, self._logs = head / "cwd", head / "home" / "weft-logs"
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUBMIT, SEARCH], stdout=subprocess.PIPE, cwd=self._cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True, preexec_fn=heed_ctrl_c,
        )  # fmt: skip
        wait_until(lambda: "begun" in self.log, 20, "the search")

    @property
    def log(self) -> str:
        """What the search has said."""
        return "".join(file.read_text() for file in self._logs.glob("mine-*.log"))

    @property
    def heard(self) -> list[str]:
        """The signals that the search was sent."""
        notes = self._cwd / "heard"
        return notes.read_text().split() if notes.exists() else []

    def end(self, status: int) -> None:
        """Have the search end."""
        (self._cwd / "end").write_text(str(status))


@pytest.fixture
def attached(head: Path) -> Iterator[Attached]:
    made = Attached(head)
    with made.process:
        yield made
        made.end(0)


@pytest.mark.parametrize("status", [0, 1, 2, 130])
def test_it_shows_what_the_search_says_and_passes_on_its_status(attached: Attached, status: int) -> None:
    attached.end(status)
    said, _ = attached.process.communicate(timeout=20)
    assert attached.process.returncode == status
    assert said == b"begun\nended\n"


@pytest.mark.parametrize(
    ("sent", "heard"),
    [
        ([signal.SIGINT], ["SIGINT"]),
        ([signal.SIGTERM], ["SIGTERM"]),
        ([signal.SIGHUP, signal.SIGHUP, signal.SIGTERM], ["SIGTERM"]),
        ([signal.SIGKILL], ["SIGTERM"]),
    ],
    ids=["Ctrl-C", "kill", "the connection ends", "kill -9"],
)
def test_the_search_is_told_to_end(attached: Attached, sent: list[signal.Signals], heard: list[str]) -> None:
    """Once, and by nothing else: it is in another process group."""
    for number in sent:
        os.killpg(attached.process.pid, number)
    wait_until(lambda: attached.heard == heard, 20, "the search hears of it")
    attached.end(130)
    wait_until(lambda: "ended" in attached.log, 20, "its end")
    assert attached.process.wait(20) == (-signal.SIGKILL if signal.SIGKILL in sent else 130)
    assert attached.heard == heard


def test_nobody_needs_to_listen(attached: Attached) -> None:
    assert attached.process.stdout is not None
    attached.process.stdout.close()
    attached.end(0)
    assert attached.process.wait(20) == 0
    assert attached.log == "begun\nended\n"


# Detached -----------------------------------------------------------------------------------------


def test_what_is_detached_goes_on(
    head: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    done = head / "done"
    script = f"import time; print('begun', flush=True); time.sleep(3); open({str(done)!r}, 'w').close()"
    monkeypatch.setattr(submit, "search_command", lambda *of: [sys.executable, "-c", script])
    monkeypatch.setattr(submit, "REFUSED_S", 1.0)
    assert main(["recipes/mine.yaml", "--detach"]) == 0
    said = capfd.readouterr().out
    (log,) = (head / "home" / "weft-logs").iterdir()
    assert said.startswith("begun\ndetached; ") and str(log) in said
    assert log.name.startswith("mine-") and not done.exists()
    wait_until(done.exists, 20, "the search")
    assert log.read_text() == "begun\n"


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("print('why'); raise SystemExit(2)", 2),
        ("print('why', flush=True); import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137),
    ],
)
def test_what_ends_at_once_is_told(
    script: str,
    status: int,
    head: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(submit, "search_command", lambda *of: [sys.executable, "-c", script])
    assert main(["nothing", "--detach"]) == status
    assert capfd.readouterr().out == "why\n"
