"""Machines within this one, which reach each other by ssh: namespaces of processes, network and mounts.

What runs in one sees no process and no port of the others or of the rest: `ray stop` may do there what it
does. The end of the test's process, however it comes, ends them and all that runs in them.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

import pytest

from tests.cluster.commands import heed_ctrl_c, private_environment, processes_of, wait_until
from tests.cluster.debian import needed

NETWORK = "10.99.0."
CLONE_NEWNET = 0x40000000  # of Linux's setns
# The first process of a machine: bash buries the orphans. It lives as long as its input.
INIT = """
mount --bind "$1" /etc/passwd
mount -t tmpfs tmpfs /run && mkdir /run/sshd
ip link set lo up
read -r started
test -z "$2" || "$2" -f "$3" -E "$4"
read -r ended
"""
SSHD = """
Port 22
HostKey {home}/.ssh/host_key
AuthorizedKeysFile {home}/.ssh/authorized_keys
PidFile none
UsePAM no
PasswordAuthentication no
Subsystem sftp internal-sftp
SetEnv {variables}
"""


class Machine:
    """`env`: what its commands get, with a home and a temporary folder of its own. `sshd`: the program, if
    others may come in, as root and with the key."""

    def __init__(self, name: str, address: str, env: dict[str, str], sshd: Path | None, key: Path) -> None:
        self.name, self.address, self.env = name, address, env
        self.home = Path(env["HOME"])
        self._write_account(sshd, key)
        config, log = self.home / ".ssh" / "sshd_config", self.home / "sshd.log"
        self._init = subprocess.Popen(
            ["unshare", "--fork", "--kill-child", "--pid", "--mount-proc", "--mount", "--net",
             "bash", "-c", INIT, "init", str(self.home / "passwd"), str(sshd or ""), str(config), str(log)],
            stdin=subprocess.PIPE, env=env,
        )  # fmt: skip
        wait_until(lambda: bool(children(self._init.pid)), 10, "the first process of a machine")
        (self.pid,) = children(self._init.pid)

    def _write_account(self, sshd: Path | None, key: Path) -> None:
        """root's, with this home; sshd and ssh ask for it there, whatever HOME says."""
        (self.home / "passwd").write_text(
            f"root:x:0:0:root:{self.home}:/bin/bash\n"
            f"sshd:x:100:65534::/run/sshd:/usr/sbin/nologin\nnobody:x:65534:65534::/nonexistent:/bin/false\n"
        )
        folder = self.home / ".ssh"
        folder.mkdir(mode=0o700)
        if sshd is None:
            shutil.copy(key, folder / "id")
            return
        shutil.copy(key.with_suffix(".pub"), folder / "authorized_keys")
        make_key(folder / "host_key")
        # Ray's own settings are for the cluster's file to make.
        kept = {name: self.env[name] for name in ("TMPDIR", "RAY_TMPDIR", "COLUMNS")}
        variables = " ".join(f"{name}={value}" for name, value in kept.items())
        (folder / "sshd_config").write_text(SSHD.format(home=self.home, variables=variables))

    def go(self) -> None:
        """Start its sshd, once its network is there."""
        assert self._init.stdin is not None
        self._init.stdin.write(b"\n")
        self._init.stdin.flush()

    def end(self) -> None:
        assert self._init.stdin is not None
        self._init.stdin.close()
        self._init.wait(20)

    def inside(self, command: Sequence[str], cwd: Path | None = None) -> list[str]:
        """The command line that runs a command in it."""
        place = [f"--target={self.pid}", "--pid", "--mount", "--net", f"--wd={cwd or self.home}"]
        return ["nsenter", *place, "--", *command]

    def run(
        self, *command: str, cwd: Path | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """To its end; `stdout` is all that it said. Through a file: ssh leaves processes behind, which would
        keep a pipe open."""
        with (self.home / "output.txt").open("w+") as output:
            done = subprocess.run(
                self.inside(command, cwd), env=self.env, timeout=timeout,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
            output.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, output.read())

    def processes(self) -> list[str]:
        """The command lines of all that runs in it."""
        return processes_of(self.env)

    @contextmanager
    def network(self) -> Iterator[None]:
        """What this thread opens meanwhile is in the machine's network."""
        with open("/proc/thread-self/ns/net") as here, open(f"/proc/{self.pid}/ns/net") as there:
            _enter_network(there.fileno())
            try:
                yield
            finally:
                _enter_network(here.fileno())


def _enter_network(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def machines(*names: str) -> Iterator[list[Machine]]:
    """So many, with addresses 10.99.0.1, …; the first is the one that the others are plugged into. It has no
    sshd but the key for the others."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs root on Linux, for namespaces")
    needed("ip", "iproute2")
    needed("rsync", "rsync")
    needed("ssh", "openssh-client")
    sshd = needed("sshd", "openssh-server")
    with ExitStack() as kept:
        envs = [kept.enter_context(private_environment()) for _ in names]
        key = Path(envs[0]["TMPDIR"]) / "key"
        make_key(key)
        made: list[Machine] = []
        for number, (name, env) in enumerate(zip(names, envs, strict=True), 1):
            made.append(Machine(name, f"{NETWORK}{number}", env, sshd if made else None, key))
            kept.callback(made[-1].end)
        _plug(made)
        for machine in made:
            machine.go()
        yield made


def _plug(made: Sequence[Machine]) -> None:
    hub = made[0]

    def there(machine: Machine, *arguments: str) -> None:
        subprocess.run(["nsenter", f"--target={machine.pid}", "--net", "ip", *arguments], check=True)

    there(hub, "link", "add", "bridge", "type", "bridge")
    there(hub, "address", "add", f"{hub.address}/24", "dev", "bridge")
    there(hub, "link", "set", "bridge", "up")
    for machine in made[1:]:
        plug = f"to-{machine.name}"[:15]
        there(hub, "link", "add", plug, "type", "veth", "peer", "name", "eth0", "netns", str(machine.pid))
        there(hub, "link", "set", plug, "master", "bridge", "up")
        there(machine, "address", "add", f"{machine.address}/24", "dev", "eth0")
        there(machine, "link", "set", "eth0", "up")
        # Leads nowhere, but by it Ray finds out which address is its own.
        there(machine, "route", "add", "default", "via", hub.address)


def make_key(file: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)


def children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def descendants(pid: int) -> list[int]:
    return [one for child in children(pid) for one in (child, *descendants(child))]


class Shell:
    """A command that runs in a machine while the test goes on: at a terminal of its own, or without any."""

    def __init__(self, machine: Machine, *command: str, cwd: Path, terminal: bool = False) -> None:
        self._file = machine.home / f"shell-{time.monotonic_ns()}.txt"
        self._keys: int | None = None
        inside = machine.inside(command, cwd)
        with ExitStack() as given:
            output = given.enter_context(self._file.open("wb")).fileno()
            keyboard = given.enter_context(open(os.devnull, "rb")).fileno()
            if terminal:
                self._keys, keyboard = os.openpty()
                os.set_blocking(self._keys, False)
                given.callback(os.close, keyboard)
                inside, output = ["setsid", "--ctty", "--wait", *inside], keyboard
            self._process = subprocess.Popen(
                inside, env=machine.env, stdin=keyboard, stdout=output, stderr=output, start_new_session=True,
                preexec_fn=heed_ctrl_c,
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for pid in (*descendants(self._process.pid), self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        if self._keys is not None:
            os.close(self._keys)

    def press_ctrl_c(self) -> None:
        assert self._keys is not None
        os.write(self._keys, b"\x03")

    def interrupt(self) -> None:
        """SIGINT to all that the command consists of here, but not to what brings it into the machine."""
        for pid in descendants(self._process.pid):
            os.kill(pid, signal.SIGINT)

    def output(self) -> str:
        """So far."""
        if self._keys is not None:
            with self._file.open("ab") as shown, suppress(OSError):  # nothing new, or nobody writes any more
                while new := os.read(self._keys, 65536):
                    shown.write(new)
        return self._file.read_text(errors="replace")

    @property
    def running(self) -> bool:
        self.output()  # or it would wait for somebody to read
        return self._process.poll() is None

    def says(self, text: str, timeout: float) -> None:
        """Wait until it does."""
        wait_until(lambda: text in self.output() or not self.running, timeout, text)
        assert text in self.output(), self.output()

    def status(self, timeout: float) -> int:
        """Wait for its end."""
        wait_until(lambda: not self.running, timeout, "its end")
        return int(self._process.returncode)
