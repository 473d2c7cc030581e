"""What a space knows about its candidates beyond their genes, as counts that a model can compare."""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from functools import singledispatch

from networks.spaces.narrowed import NarrowedSpace
from networks.spaces.nasbench201 import WORDS, NasBench201Space, live_paths
from networks.spaces.space import Genes, SearchSpace

Counts = Mapping[Hashable, int]


@singledispatch
def features_of(space: SearchSpace) -> Callable[[Genes], Counts] | None:
    """The function that counts a candidate's features, or None for a space that has none of its own.

    Register another for a class of spaces: ``@features_of.register``.
    """
    return None


@features_of.register
def _(space: NasBench201Space) -> Callable[[Genes], Counts]:
    return path_words


@features_of.register
def _(space: NarrowedSpace) -> Callable[[Genes], Counts] | None:
    return features_of(space.whole)


def path_words(genes: Genes) -> Counter[Hashable]:
    """A cell's input-output paths as words of their operations, and how often each word occurs.

    Skips are left out of a word and paths with a `none` are left out whole, so that cells that compute the
    same mostly have the same words (search_quality.md).
    """
    skip = WORDS.index("skip_connect")
    return Counter(
        tuple(WORDS[genes[edge]] for edge in path if genes[edge] != skip) for path in live_paths(genes)
    )
