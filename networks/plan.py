"""The plan of a stage: its graph lowered, once, to a flat list of steps over numbered values.

A step aggregates some values, rectifies the aggregate if asked, applies an operation if it has one, and
writes one new value. Edges with an operation become steps of their own, and so does a ReLU that several
operations share; edges that were removed, and nodes that nothing reads because of it, are not there at
all. The plan also says when a value is read for the last time, so that executors hold nothing longer
than needed, and when a step may write into the storage of a value it reads.

The stage's inputs are the first values. Executors: networks/execution.py and networks/whole_stage.py.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from networks.graph import Edge, Graph


class Traits(NamedTuple):
    """What a plan must know of a built operation.

    rectifies: it is a `PreActivated`, whose ReLU is left to the executor. fresh: its output shares no
    storage with its input.
    """

    rectifies: bool
    fresh: bool


@dataclass(frozen=True, slots=True)
class Term:
    """One value of an aggregate. `factor` is a position in the stage's `edge_values`; None weighs 1."""

    value: int
    factor: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """target = operation(relu(aggregate of terms)). The aggregate is a sum, a mean where it `averages`, and
    where it `joins` the terms side by side.

    Without terms the aggregate is zeros, of the stage input's shape where `entry_shaped` and else of the
    shape inside the stage. `positive`: the aggregate is a sum of positive multiples, and rectified.
    `overwrites` is the position of a term whose storage the aggregate may take;
    `frees` names the values that no later step reads.
    """

    target: int
    terms: tuple[Term, ...]
    averages: bool = False
    joins: bool = False
    rectifies: bool = False
    operation: str | None = None
    entry_shaped: bool = False
    positive: bool = False
    overwrites: int | None = None
    frees: tuple[int, ...] = ()

    @property
    def passes_through(self) -> bool:
        """The operation reads the one value as it is; there is nothing to aggregate."""
        plain = len(self.terms) == 1 and self.terms[0].factor is None
        return plain and not self.rectifies and self.operation is not None


@dataclass(frozen=True, slots=True)
class Implied:
    """How a sigmoid edge's gradient follows from the batch normalisation it reads.

    When every reader of a normalised value x weighs it, sum over readers w <dz, x> = <dL/dx, x> =
    gamma . dgamma + beta . dbeta, which backward has anyway: one inner product need not be computed.
    """

    factor: int
    others: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """`keeps`: values that the backward pass reads. `implied`: by normalised value; see `Implied`.
    `rectifies`: the plan applies the ReLUs of its operations; else they do so themselves."""

    steps: tuple[Step, ...]
    values: int
    output: int
    keeps: frozenset[int] = frozenset()
    implied: Mapping[int, Implied] = field(default_factory=dict)
    rectifies: bool = True


def compile_plan(
    graph: Graph,
    traits: Mapping[str, Traits],
    removed: Iterable[int] = (),
    *,
    recorded: bool = False,
    normalised: Iterable[str] = (),
    rectifies: bool = True,
) -> Plan:
    """The plan of a graph, less the removed edges (positions in `graph.edges`).

    `traits` is keyed as the stage's operations are; an operation that does nothing has no entry.
    `recorded`: a backward pass will follow. `normalised` are then the keys of those operations that end
    in a batch normalisation which the executor runs by hand, so that the backward pass has the output
    again from its input. Without `rectifies` every operation keeps its own ReLU.
    """
    if not rectifies:
        traits = {key: Traits(False, one.fresh) for key, one in traits.items()}
    lowered = _Lowering(graph, traits, frozenset(removed))
    plan = _annotated(lowered, traits, recorded, frozenset(normalised))
    return replace(plan, rectifies=rectifies)


def node_key(node: int) -> str:
    return f"node_{node}"


def edge_key(edge: Edge) -> str:
    return f"edge_{edge.source}_{edge.target}_{edge.slot}"


class _Lowering:
    """Steps in order, without what depends on liveness."""

    def __init__(self, graph: Graph, traits: Mapping[str, Traits], removed: frozenset[int]) -> None:
        self.graph, self.traits, self.removed = graph, traits, removed
        weighted = [position for position, edge in enumerate(graph.edges) if edge.weight != "none"]
        self.factors = {position: factor for factor, position in enumerate(weighted)}
        self.kinds = [graph.edges[position].weight for position in weighted]
        self.positions = {_key(edge): position for position, edge in enumerate(graph.edges)}
        self.steps: list[Step] = []
        self.values = len(graph.inputs)
        self.value_of = {node: value for value, node in enumerate(graph.inputs)}
        self.rectified: dict[int, int] = {}
        for node in self._frugal_order(self._live_nodes()):
            self.value_of[node] = self._node(node)
        self.output = self.value_of[graph.output]
        if self.output < len(graph.inputs):  # the caller's tensor is never handed back as it is
            self.output = self._emit(terms=(Term(self.output),))

    def _live_nodes(self) -> set[int]:
        """Nodes from which the output is still reached."""
        live = {self.graph.output}
        for node in reversed(self.graph.order):
            if node in live:
                live.update(edge.source for edge in self._present(node))
        return live

    def _frugal_order(self, live: set[int]) -> list[int]:
        """A topological order that keeps few values alive, and those that it reads still in the cache:
        next comes the node that ends the most values, then the one whose sources are the freshest."""
        waiting = {node: {e.source for e in self._present(node)} for node in live - {*self.graph.inputs}}
        readers = Counter(source for sources in waiting.values() for source in sources)
        done = {node: 0 for node in self.graph.inputs}
        order: list[int] = []
        while waiting:
            ready = [node for node, sources in waiting.items() if sources <= done.keys()]

            def rank(node: int) -> tuple[int, int, int]:
                sources = waiting[node]
                ended = sum(readers[source] == 1 for source in sources)
                return ended, max((done[source] for source in sources), default=0), -node

            node = max(ready, key=rank)
            readers.subtract(waiting.pop(node))
            done[node] = len(order) + 1
            order.append(node)
        return order

    def _present(self, node: int) -> list[Edge]:
        return [e for e in self.graph.incoming[node] if self.positions[_key(e)] not in self.removed]

    def _node(self, node: int) -> int:
        if self.graph.aggregation_of[node] == "concat":
            return self._joined(node)
        terms = tuple(self._term(edge) for edge in self._present(node))
        return self._apply(
            node_key(node),
            terms,
            averages=self.graph.aggregation_of[node] == "mean" and len(terms) > 1,
            entry_shaped=not terms and self._reads_entry(self.graph.incoming[node][0]),
        )

    def _joined(self, node: int) -> int:
        """Side by side; zeros where an edge was removed."""
        present = self._present(node)
        terms = tuple(
            self._term(edge) if edge in present else Term(self._emit(terms=()))
            for edge in self.graph.incoming[node]
        )
        return terms[0].value if len(terms) == 1 else self._emit(terms=terms, joins=True)

    def _term(self, edge: Edge) -> Term:
        value = self.value_of[edge.source]
        if edge.operation != "identity":
            value = self._apply(edge_key(edge), (Term(value),))
        return Term(value, self.factors.get(self.positions[_key(edge)]))

    def _reads_entry(self, edge: Edge) -> bool:
        """The edge hands the stage's input on at its own size."""
        return edge.source in self.graph.inputs and edge.operation == "identity"

    def _apply(
        self, key: str, terms: tuple[Term, ...], *, averages: bool = False, entry_shaped: bool = False
    ) -> int:
        """The value of one operation (if `key` is one) on an aggregate; a new one where work is done."""
        operation = key if key in self.traits else None
        rectifies = operation is not None and self.traits[operation].rectifies
        plain = len(terms) == 1 and terms[0].factor is None
        if plain and operation is None:
            return terms[0].value
        if plain and rectifies:
            rectifies, terms = False, (Term(self._rectified(terms[0].value)),)
        return self._emit(
            terms=terms, averages=averages, rectifies=rectifies, operation=operation,
            entry_shaped=entry_shaped,
        )  # fmt: skip

    def _rectified(self, value: int) -> int:
        """relu(value), computed once for all the operations that read it."""
        if value not in self.rectified:
            self.rectified[value] = self._emit(terms=(Term(value),), rectifies=True)
        return self.rectified[value]

    def _emit(
        self, terms: tuple[Term, ...], averages: bool = False, rectifies: bool = False,
        operation: str | None = None, entry_shaped: bool = False, joins: bool = False,
    ) -> int:  # fmt: skip
        target, self.values = self.values, self.values + 1
        signed = any(term.factor is not None and self.kinds[term.factor] != "sigmoid" for term in terms)
        positive = rectifies and bool(terms) and not averages and not signed
        self.steps.append(Step(target, terms, averages, joins, rectifies, operation, entry_shaped, positive))
        return target


def _key(edge: Edge) -> tuple[int, int]:
    return edge.target, edge.slot  # distinct for each edge of a valid graph, and cheap to hash


def _annotated(
    lowered: _Lowering, traits: Mapping[str, Traits], recorded: bool, normalised: frozenset[str]
) -> Plan:
    """Liveness, storage to write into, and what the backward pass needs."""
    steps = lowered.steps
    last_read = {term.value: index for index, step in enumerate(steps) for term in step.terms}
    by_hand = {step.target for step in steps if step.operation in normalised}
    keeps = _kept(steps, by_hand) if recorded else frozenset()
    own = {
        step.target
        for step in steps
        if step.operation is None or (step.target in by_hand if recorded else traits[step.operation].fresh)
    }
    own -= keeps | _aliased(steps, traits)
    annotated = []
    for index, step in enumerate(steps):
        read = Counter(term.value for term in step.terms)
        dies = {value for value in read if last_read[value] == index and value != lowered.output}
        reusable = [
            position
            for position, term in enumerate(step.terms)
            if not step.passes_through
            and not step.joins
            and term.value in dies & own
            and read[term.value] == 1
        ]
        overwrites = reusable[0] if reusable else None
        annotated.append(replace(step, overwrites=overwrites, frees=tuple(sorted(dies))))
    implied = _implied(steps, by_hand, lowered)
    return Plan(tuple(annotated), lowered.values, lowered.output, keeps, implied)


def _kept(steps: list[Step], by_hand: set[int]) -> frozenset[int]:
    """Values that an operation or a learned factor reads, and so does the backward pass; those that a
    batch normalisation by hand gives again need not be kept for a factor."""
    return frozenset(
        term.value
        for step in steps
        for term in step.terms
        if step.passes_through or (term.factor is not None and term.value not in by_hand)
    )


def _aliased(steps: list[Step], traits: Mapping[str, Traits]) -> set[int]:
    """Values that may share their storage with what an operation made of them."""
    return {
        step.terms[0].value
        for step in steps
        if step.passes_through and step.operation is not None and not traits[step.operation].fresh
    }


def _implied(steps: list[Step], by_hand: set[int], lowered: _Lowering) -> dict[int, Implied]:
    readers: dict[int, list[int | None]] = {value: [] for value in by_hand}
    for step in steps:
        for term in step.terms:
            if term.value in readers:
                readers[term.value].append(term.factor)
    implied = {}
    for value, read in readers.items():
        factors = [factor for factor in read if factor is not None and lowered.kinds[factor] == "sigmoid"]
        if factors and len(factors) == len(read):
            implied[value] = Implied(factors[0], tuple(factors[1:]))
    return implied
