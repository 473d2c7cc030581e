"""What every search strategy is: something that is asked for candidates and told how they did."""

import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

from networks.architecture import canonical_json
from networks.spaces.space import Genes

Status = Literal["ok", "stopped", "failed"]


class Candidate(BaseModel):
    """One thing that was asked for. `ask_index` counts the asks of a search from 0; `phase` names the part
    of the search that asked. `id` = hash of (search, space, genes, phase, ask index): a genotype that is
    asked for twice is two candidates."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    genes: Genes
    phase: str
    ask_index: int

    @classmethod
    def of(
        cls, search: str, space_digest: str, genes: Genes, ask_index: int, phase: str = "search"
    ) -> "Candidate":
        text = canonical_json([search, space_digest, list(genes), phase, ask_index])
        digest = hashlib.sha256(text.encode()).hexdigest()
        return cls(id=digest[:16], genes=genes, phase=phase, ask_index=ask_index)


class Evaluation(BaseModel):
    """How a candidate did. ok: finished. stopped: ended early by a scheduler, metrics as far as it came.
    failed: no usable metrics, `reason` says why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidate: Candidate
    status: Status
    metrics: dict[str, float] = {}
    reason: str = ""


class Part(NamedTuple):
    """Some of the batches that candidates are scored on: `batches` of them, drawn for this `number`."""

    number: int
    batches: int


@runtime_checkable
class Rewriter(Protocol):
    """A searcher that makes candidates from others that it asked for."""

    def parent(self, genes: Genes) -> Genes | None:
        """What these, just asked for, were made from; None: from nothing."""
        ...

    @property
    def learnt(self) -> int:
        """How often it has learnt from what it was told."""
        ...

    @property
    def learning(self) -> bool:
        """What it asks for now is only learnt from: nobody will ask what it costs to measure."""
        ...

    @property
    def part(self) -> "Part | None":
        """What those just asked for are to be scored on; None: on everything."""
        ...


@runtime_checkable
class Searcher(Protocol):
    """A strategy over a space's genes.

    `ask(n)` gives at most n genes, fewer only when it is exhausted or waits for scores, and `finished`
    tells which. Every asked candidate is told exactly once, in ask order, failed ones included; a search
    may tell evaluations that it never asked for (a warm start). The state is JSON-ready: after
    `load_state_dict(state_dict())` a searcher asks what the saved one would have asked. Held to
    `searchers.testing.check_searcher`.
    """

    def ask(self, n: int) -> list[Genes]: ...

    def tell(self, evaluations: Sequence[Evaluation]) -> None: ...

    @property
    def finished(self) -> bool: ...

    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state: dict[str, object]) -> None: ...
