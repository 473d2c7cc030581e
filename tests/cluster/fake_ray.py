"""Ray's calls, in this process: actors are threads, and a test says when and of what one dies."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from cluster import actors, members, ray_pool

Ref = Future[Any]


class FakeActor:
    """An instance, whose calls one thread makes in turn; pings and `leave` are answered at once."""

    def __init__(self, owner: "FakeRay", made: Callable[[], Any]) -> None:
        self._owner, self._instance = owner, made()
        self._work = ThreadPoolExecutor(1)
        self._open: list[Ref] = []
        self._end: RayError | None = None
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: self._call(name, arguments))

    def _call(self, name: str, arguments: Sequence[Any]) -> Ref:
        ref: Ref = Future()
        with self._lock:
            if self._end is not None:
                ref.set_exception(self._end)
                return ref
            self._open.append(ref)
        if name in ("ping", "leave"):
            self._answer(ref, name, arguments)
        else:
            self._work.submit(self._answer, ref, name, arguments)
        return ref

    def _answer(self, ref: Ref, name: str, arguments: Sequence[Any]) -> None:
        if self._end is None:
            self._owner.before(self, name)
        if self._end is not None:
            return
        try:
            given = [one.result() if isinstance(one, Future) else one for one in arguments]
            found, failure = getattr(self._instance, name)(*given), None
        except Exception as error:
            found, failure = None, RayTaskError(name, "", error)
        with self._lock:
            if ref in self._open:
                self._open.remove(ref)
                ref.set_exception(failure) if failure is not None else ref.set_result(found)

    def die(self, of: RayError | None = None) -> None:
        """Calls that are not answered yet never will be."""
        with self._lock:
            if self._end is None:
                self._end = of or ActorDiedError()
                for ref in self._open:
                    ref.set_exception(self._end)
                self._open.clear()

    def join(self) -> None:
        """Die, and wait until what is under way has ended."""
        self.die()
        self._work.shutdown()


class FakeRay:
    """`actors` that were created, in order, and those that were `killed`. `before` is called with an actor
    and the name of its method, on the actor's thread, before each call."""

    def __init__(self) -> None:
        self.actors: list[FakeActor] = []
        self.killed: list[FakeActor] = []
        self.before: Callable[[FakeActor, str], None] = lambda actor, name: None

    def remote(self, **options: Any) -> Any:
        def of(kind: type) -> Any:
            return SimpleNamespace(options=lambda **more: SimpleNamespace(remote=lambda: self._create(kind)))

        return of

    def _create(self, kind: Any) -> FakeActor:
        # The class as it is; Ray's own marks on methods change nothing here.
        self.actors.append(FakeActor(self, kind))
        return self.actors[-1]

    def get(self, ref: Ref, timeout: float | None = None) -> Any:
        return ref.result(timeout)

    def wait(
        self, refs: list[Ref], num_returns: int = 1, timeout: float | None = None
    ) -> tuple[list[Ref], list[Ref]]:
        if num_returns == 1:
            done = wait(refs, timeout, return_when="FIRST_COMPLETED").done
        else:
            done = wait(refs, timeout).done
        ready = [ref for ref in refs if ref in done][:num_returns]
        return ready, [ref for ref in refs if ref not in ready]

    def put(self, value: Any) -> Ref:
        ref: Ref = Future()
        ref.set_result(value)
        return ref

    def end_process(self, actor: Any, node: str = "", pid: int = 0, grace: float = 0) -> None:
        self.killed.append(actor)
        actor.die()


def install(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    """Put a fake in Ray's place, for a test."""
    fake = FakeRay()
    context = SimpleNamespace(get_node_id=lambda: "here")
    for name in ("remote", "get", "wait", "put"):
        monkeypatch.setattr(ray, name, getattr(fake, name))
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr(actors, "kill", lambda *of: pytest.fail("a fake has no process of its own"))
    monkeypatch.setattr(members, "end_process", fake.end_process)
    monkeypatch.setattr(members, "LOOK_S", 0.02)
    monkeypatch.setattr(ray_pool, "check_replicas", lambda *of: None)
    return cast(FakeRay, fake)
