"""RandWire's three random graph models and their conversion to a DAG (1904.01569; spec 1.2, 1.3).

A `RandomGraph` is theta, the parameters of a random graph model; together with a counter (seed, path) it
gives one `Wiring`: N nodes and directed edges from smaller to larger index. The extra input and output
node of a stage are not part of it.
"""

import itertools
import random
from abc import ABC, abstractmethod
from functools import cached_property
from typing import ClassVar, Literal

import networkx as nx
from pydantic import BaseModel, ConfigDict, Field

from networks.counters import counter_random
from networks.errors import UserError

CONNECTED_TRIES = 1000


class Wiring(BaseModel):
    """A DAG on nodes 0..n-1; every edge (u, v) has u < v and the edges are sorted."""

    model_config = ConfigDict(frozen=True)

    n: int
    edges: tuple[tuple[int, int], ...]

    @cached_property
    def in_degree(self) -> tuple[int, ...]:
        return self._degree(1)

    @cached_property
    def out_degree(self) -> tuple[int, ...]:
        return self._degree(0)

    def _degree(self, end: int) -> tuple[int, ...]:
        counts = [0] * self.n
        for edge in self.edges:
            counts[edge[end]] += 1
        return tuple(counts)

    @cached_property
    def sources(self) -> tuple[int, ...]:
        """Nodes without predecessors, ascending."""
        return tuple(node for node in range(self.n) if not self.in_degree[node])

    @cached_property
    def sinks(self) -> tuple[int, ...]:
        """Nodes without successors, ascending."""
        return tuple(node for node in range(self.n) if not self.out_degree[node])

    @cached_property
    def connected(self) -> bool:
        graph = nx.Graph(self.edges)
        graph.add_nodes_from(range(self.n))
        return nx.is_connected(graph)


class RandomGraph(BaseModel, ABC):
    """theta of one generator. `check(n)` refuses what the model cannot do on n nodes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]
    setting_fields: ClassVar[tuple[str, ...]]

    def wiring(self, n: int, seed: int, *path: int | str, require_connected: bool = False) -> Wiring:
        """The DAG of this generator for one counter.

        `require_connected` draws again from the same stream until the graph is connected (the paper is
        not known to); it raises `UserError` after `CONNECTED_TRIES` draws.
        """
        self.check(n)
        rng = counter_random(seed, *path, "wiring")
        for _ in range(CONNECTED_TRIES if require_connected else 1):
            edges = sorted((min(edge), max(edge)) for edge in self._indexed_edges(n, rng))
            wiring = Wiring(n=n, edges=tuple(edges))
            if not require_connected or wiring.connected:
                return wiring
        raise UserError(
            "require_connected", True, "a generator whose graphs can be connected",
            f"None of {CONNECTED_TRIES} graphs of {self.label} on {n} nodes was; raise its density.",
        )  # fmt: skip

    @property
    def label(self) -> str:
        """The paper's notation, for example ``WS(4, 0.75)``."""
        return f"{self.kind}({', '.join(f'{value:g}' for value in self.setting.values())})"

    @property
    def setting(self) -> dict[str, int | float]:
        return {field: getattr(self, field) for field in self.setting_fields}

    @abstractmethod
    def check(self, n: int) -> None:
        """Raise `UserError` naming the field when n nodes are too few."""

    @abstractmethod
    def _indexed_edges(self, n: int, rng: random.Random) -> list[tuple[int, int]]:
        """Undirected edges between nodes that already carry their index (spec 1.3)."""


class ErdosRenyi(RandomGraph):
    """ER(P): each pair of nodes is joined with probability p; indices are a random permutation."""

    kind: ClassVar[str] = "ER"
    generator: Literal["ER"] = "ER"
    p: float = Field(ge=0, le=1)
    setting_fields: ClassVar[tuple[str, ...]] = ("p",)

    def check(self, n: int) -> None:
        if n < 1:
            raise UserError("nodes", n, "1 or more")

    def _indexed_edges(self, n: int, rng: random.Random) -> list[tuple[int, int]]:
        edges = list(nx.gnp_random_graph(n, self.p, seed=rng).edges)
        index = list(range(n))
        rng.shuffle(index)
        return [(index[u], index[v]) for u, v in edges]


class BarabasiAlbert(RandomGraph):
    """BA(M): m nodes without edges, then each new node joins m distinct nodes, drawn in proportion to
    their degree. Indices are the order of insertion.

    networkx's model starts from a star instead, which has the same number of edges but one source where
    the paper's has m; hence our own.
    """

    kind: ClassVar[str] = "BA"
    generator: Literal["BA"] = "BA"
    m: int = Field(ge=1)
    setting_fields: ClassVar[tuple[str, ...]] = ("m",)

    def check(self, n: int) -> None:
        if self.m >= n:
            raise UserError("m", self.m, f"1 to {n - 1} (fewer than the {n} nodes)")

    def _indexed_edges(self, n: int, rng: random.Random) -> list[tuple[int, int]]:
        edges: list[tuple[int, int]] = []
        ends: list[int] = []  # every node once for each of its edges: a uniform draw is degree-weighted
        for new in range(self.m, n):
            # All degrees are 0 for the first new node; m distinct of m nodes are all of them.
            chosen = set(range(self.m)) if not ends else set()
            while len(chosen) < self.m:
                chosen.add(rng.choice(ends))
            edges += [(old, new) for old in sorted(chosen)]
            ends += [*sorted(chosen), *[new] * self.m]
        return edges


class WattsStrogatz(RandomGraph):
    """WS(K, P): a ring in which each node is tied to its k nearest, then each tie's far end is moved with
    probability p, one lap for each distance. Indices run clockwise around the ring."""

    kind: ClassVar[str] = "WS"
    generator: Literal["WS"] = "WS"
    k: int = Field(ge=2, multiple_of=2)
    p: float = Field(ge=0, le=1)
    setting_fields: ClassVar[tuple[str, ...]] = ("k", "p")

    def check(self, n: int) -> None:
        if self.k >= n:
            raise UserError("k", self.k, f"even numbers from 2 to {n - 1} (fewer than the {n} nodes)")

    def _indexed_edges(self, n: int, rng: random.Random) -> list[tuple[int, int]]:
        # networkx laps distance by distance and never redraws the old target, as the paper does.
        return list(nx.watts_strogatz_graph(n, self.k, self.p, seed=rng).edges)


GENERATORS: dict[str, type[RandomGraph]] = {"ER": ErdosRenyi, "BA": BarabasiAlbert, "WS": WattsStrogatz}


def paper_grid() -> list[RandomGraph]:
    """The generator settings of the paper's Fig. 3, as far as they are recovered (spec 1.7).

    ER and WS settings and BA's are recollections; the exact list of bars could not be read again.
    """
    er = [ErdosRenyi(p=p) for p in (0.2, 0.4, 0.6, 0.8)]
    ba = [BarabasiAlbert(m=m) for m in (1, 2, 3, 5, 7)]
    ws = [WattsStrogatz(k=k, p=p) for k, p in itertools.product((2, 4, 6, 8), (0.0, 0.25, 0.5, 0.75, 1.0))]
    return [*er, *ba, *ws]
