"""Between candidates of a space and what a policy sees of them and does to them."""

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

from networks.cells import Links
from networks.complexity import Complexity
from networks.counters import counter_random
from networks.errors import UserError
from networks.spaces.choices import ChoiceSpace
from networks.spaces.space import Genes, SearchSpace
from searchers.constraints import Constraint
from searchers.transformer import words_of
from searchers.transitions import Actions, Rule, never_costlier

LOOKED_AT = 20  # candidates


class Rewriting:
    """What turns candidates of a space into cells for a policy, and what a policy does to them into
    candidates. Raises `UserError` for a space that is none of cells."""

    def __init__(self, space: SearchSpace, rule: Rule, *, strict: bool) -> None:
        if not isinstance(space, ChoiceSpace):
            raise UserError("space.kind", type(space).__name__, "a space of cells, such as nasbench201")
        self.space, self.strict = space, strict
        words = {
            word
            for gene, options in enumerate(space.kept[: space.linked])
            for option in options
            for word in space.becomes(gene, option)
        }
        self.actions = Actions(rule, sorted(words))

    def cells(self, candidates: Iterable[Genes]) -> list[Links]:
        """Of all of them, one candidate after the other."""
        return [cell for genes in candidates for cell in self.space.cells(genes)]

    def legal(self, candidates: Sequence[Genes]) -> np.ndarray:
        """What each action may do here, beside what the rule says: bool (cells, links, actions)."""
        cells = self.space.cells(candidates[0])
        found = [
            [table[gene] for table, gene in zip(self._tables, genes[: self.space.linked], strict=True)]
            for genes in candidates
        ]
        return np.array(found, bool).reshape(len(candidates) * len(cells), -1, len(self.actions.names))

    @cached_property
    def wired_alike(self) -> bool:
        """Whether all candidates have their links at the same ends, by a look at some."""
        rng = counter_random(0, "wiring")
        drawn = [self.space.sample(rng) for _ in range(LOOKED_AT)]
        return len({tuple(cell.ends for cell in self.space.cells(genes)) for genes in drawn}) == 1

    def prices(self, genes: Genes) -> np.ndarray:
        """What each action costs at each link of a candidate, (links, actions): multiply-adds, and parameters
        where those are equal, from 0 for the cheapest to 1 for the dearest of all."""
        found = np.zeros((self.space.linked, len(self.actions.names)))
        for gene, option in enumerate(genes[: self.space.linked]):
            some, costs = self.space.becomes(gene, option), self.space.cost_table[gene]
            (word,) = (word for word, number in some.items() if number == option)
            for action, after in enumerate(self.actions.becomes(word)):
                if after is not None and after in some:
                    found[gene, action] = costs[some[after]].macs + costs[some[after]].params
        found -= found.min(initial=0)
        return found / (found.max(initial=0) or 1)

    @cached_property
    def _tables(self) -> list[np.ndarray]:
        """For each gene: bool (options, actions)."""
        found = []
        for gene, costs in enumerate(self.space.cost_table[: self.space.linked]):
            cheap = np.ones((len(costs),) * 2, bool)  # from, to
            if self.strict:
                for name in ("params", "macs"):
                    row = np.array([getattr(one, name) for one in costs])
                    cheap = never_costlier(cheap, np.broadcast_to(row, cheap.shape), range(len(costs)))
            table = np.zeros((len(costs), len(self.actions.names)), bool)
            for option in self.space.kept[gene]:
                some = self.space.becomes(gene, option)
                (word,) = (word for word, number in some.items() if number == option)
                for action, after in enumerate(self.actions.becomes(word)):
                    if after is not None and after in some and cheap[option, some[after]]:
                        table[option, action] = True
            found.append(table)
        return found

    def cheapest(self, genes: Genes, cost: str) -> Genes:
        """Of all that these can be rewritten to, that with the least `params`, `macs` or `activations`."""
        found = []
        for gene, option in enumerate(genes[: self.space.linked]):
            some, costs = self.space.becomes(gene, option), self.space.cost_table[gene]
            (word,) = (word for word, number in some.items() if number == option)
            allowed = zip(self.actions.becomes(word), self._tables[gene][option], strict=True)
            after = [some[other] for other, legal in allowed if other is not None and legal]
            found.append(min(after, key=lambda other: (getattr(costs[other], cost), other != option)))
        return tuple(found) + genes[self.space.linked :]

    def after(self, genes: Genes, actions: Sequence[int]) -> Genes:
        """actions: of all cells' links, in order."""
        return self.space.rewritten(genes, self.actions.after(words_of(self.space.cells(genes)), actions))


def check_bounds(rewriting: Rewriting, genes: Genes, constraints: Sequence[Constraint], which: str) -> None:
    """Raise `UserError` for a bound below the cheapest that a candidate can be rewritten to; names that."""
    for number, one in enumerate(constraints):
        if one.at_most is None or one.cost not in Complexity._fields:
            continue
        cheapest = rewriting.cheapest(genes, one.cost)
        least = getattr(rewriting.space.cost(cheapest), one.cost)
        if one.at_most < least:
            edit = rewriting.space.edit(genes, cheapest) or "what it is"
            fix = f"That is the cheapest that {which} can be rewritten to: {edit}."
            raise UserError(f"constraints.{number}.at_most", one.at_most, f"{least:,} or more", fix)
