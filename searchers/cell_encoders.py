"""What a policy sees of a cell: encoders that give each link a score for every action (NAT spec, section 3).

All take cells of one size as their links, in order, and give logits, float (cells, links, actions). Their
weights are functions of (seed, name). `GraphEncoder` is NAT's two-layer graph convolution, for cells whose
nodes have two links each; `LineEncoder` convolves over links, whatever their number at a node. The sequence
encoder stands for NAT's LSTM baseline, whose size nobody published.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init  # torch would draw weights from its global generator

from networks.cells import INPUTS, Links
from networks.counters import counter_generator
from networks.errors import UserError

Adjacency = Literal["row", "symmetric", "official"]
Ends = tuple[tuple[int, int], ...]
NODE, OPERATION, FEATURE, HIDDEN = 200, 100, 1024, 100  # the release's widths
WIDE = 256  # of the perceptron
NODES = 16  # of which a cell's numbers are looked at, unless it is said to have more


@lru_cache(maxsize=4096)
def adjacency(ends: Ends, form: Adjacency = "row") -> Tensor:
    """A[to, from] counts the links between two nodes: float32 (nodes, nodes), inputs first.

    ``official``: as released, so that a node does not see itself; then the scores of many links depend on no
    operation at all (spec 3.3). ``row``: D^-1 (A + I); ``symmetric``: D^-1/2 (A + I) D^-1/2, with D the row
    sums of A + I.
    """
    found = torch.zeros(max(target for _, target in ends) + 1, max(target for _, target in ends) + 1)
    for source, target in ends:
        found[target, source] += 1
    return normalised(found, form)


@lru_cache(maxsize=4096)
def line_adjacency(ends: Ends, form: Adjacency = "row") -> Tensor:
    """Which links see which: float32 (links, links). Those that share a node do; with ``official``, which
    knows only what flows in, a link sees those that end where it begins, and not itself."""
    found = torch.zeros(len(ends), len(ends))
    for one, (source, target) in enumerate(ends):
        for other, (before, after) in enumerate(ends):
            if form == "official":
                found[one, other] = after == source
            else:
                found[one, other] = one != other and bool({source, target} & {before, after})
    return normalised(found, form)


def normalised(neighbours: Tensor, form: Adjacency) -> Tensor:
    """With self-loops and by degree, but for ``official``."""
    if form not in get_args(Adjacency):
        raise UserError("adjacency", form, " or ".join(get_args(Adjacency)))
    if form == "official":
        return neighbours
    found = neighbours + torch.eye(len(neighbours))
    degrees = found.sum(1)
    if form == "row":
        return found / degrees[:, None]
    return found / (degrees[:, None] * degrees[None, :]).sqrt()


def propagate(
    neighbours: Tensor, x: Tensor, first: Tensor, second: Tensor,
    first_bias: Tensor | float = 0.0, second_bias: Tensor | float = 0.0,
) -> Tensor:  # fmt: skip
    """A relu(A X W0 + b0) W1 + b1: (…, nodes, features) -> (…, nodes, hidden)."""
    hidden = F.relu(neighbours @ (x @ first) + first_bias)
    return neighbours @ (hidden @ second) + second_bias


class CellEncoder(nn.Module):
    """What all have. `vocabulary`: the words of operations that are known; `actions`: how many scores a link
    gets."""

    def __init__(self, vocabulary: Sequence[str], actions: int) -> None:
        super().__init__()
        self.vocabulary, self.actions = tuple(vocabulary), actions
        self._numbers = {word: number for number, word in enumerate(vocabulary)}

    def operations(self, cells: Sequence[Links]) -> Tensor:
        """Their numbers in the vocabulary: int64 (cells, links). Raises `UserError` for one that is not in
        it."""
        unknown = sorted({word for cell in cells for word in cell.words} - set(self.vocabulary))
        if unknown:
            raise UserError("operation", ", ".join(unknown), ", ".join(self.vocabulary))
        return torch.tensor([[self._numbers[word] for word in cell.words] for cell in cells])

    def draw_weights(self, seed: int) -> None:
        """Embeddings: normal, deviation 1. All else: uniform between -1 and 1 over the root of a width, that
        of the output in graph convolutions and of the input elsewhere, as their releases do."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                draws = counter_generator(seed, "policy", name)
                if name.endswith("embedding"):
                    parameter.copy_(torch.randn(parameter.shape, generator=draws))
                else:
                    reach = 1 / math.sqrt(self._width(name, parameter))
                    parameter.copy_(reach * (2 * torch.rand(parameter.shape, generator=draws) - 1))

    def _width(self, name: str, parameter: Tensor) -> int:
        """Linear layers of torch are (out, in), and their biases are as wide as the output."""
        owner = name.rpartition(".")[0]
        if not owner:  # ours: (in, out)
            return parameter.shape[-1]
        module = self.get_submodule(owner)
        return module.in_features if isinstance(module, nn.Linear) else HIDDEN


class GraphEncoder(CellEncoder):
    """Two graph convolutions. A node's features are the embeddings of its two operations; inputs have one of
    their own. Released sizes: 320,330 weights with 9 operations and 3 actions (spec 3.2)."""

    def __init__(
        self, vocabulary: Sequence[str], actions: int, seed: int = 0, form: Adjacency = "row"
    ) -> None:
        super().__init__(vocabulary, actions)
        self.form: Adjacency = form
        self.node_embedding = nn.Parameter(torch.empty(INPUTS, NODE))
        self.operation_embedding = nn.Parameter(torch.empty(len(self.vocabulary), OPERATION))
        self.features = skip_init(nn.Linear, NODE, FEATURE)
        self.first, self.first_bias = _weights(FEATURE, HIDDEN)
        self.second, self.second_bias = _weights(HIDDEN, HIDDEN)
        self.scores = skip_init(nn.Linear, HIDDEN, INPUTS * actions)
        self.draw_weights(seed)

    def nodes(self, cells: Sequence[Links]) -> Tensor:
        """X: float (cells, nodes, features). Raises `UserError` unless every node has two links, in order."""
        for cell in cells:
            targets = [target for _, target in cell.ends]
            if targets != [INPUTS + link // INPUTS for link in range(len(targets))]:
                raise UserError("cell", cell.ends, "two links into each node, from node 2 on", "Try line.")
        chosen = self.operation_embedding[self.operations(cells)].reshape(len(cells), -1, NODE)
        inputs = self.node_embedding.expand(len(cells), INPUTS, NODE)
        found: Tensor = self.features(torch.cat((inputs, chosen), 1))
        return found

    def forward(self, cells: Sequence[Links]) -> Tensor:
        neighbours = torch.stack([adjacency(cell.ends, self.form) for cell in cells])
        return self.scored(neighbours, self.nodes(cells))

    def scored(self, neighbours: Tensor, x: Tensor) -> Tensor:
        hidden = propagate(neighbours, x, self.first, self.second, self.first_bias, self.second_bias)
        found: Tensor = self.scores(hidden[..., INPUTS:, :])
        return found.reshape(len(x), -1, self.actions)


class LinkEncoder(CellEncoder):
    """One that sees a link as the sum of three embeddings: its operation and its two ends, of so many
    `nodes`."""

    def __init__(self, vocabulary: Sequence[str], actions: int, nodes: int = NODES) -> None:
        super().__init__(vocabulary, actions)
        self.operation_embedding = nn.Parameter(torch.empty(len(self.vocabulary), OPERATION))
        self.nodes = max(nodes, NODES)
        self.source_embedding = nn.Parameter(torch.empty(self.nodes, OPERATION))
        self.target_embedding = nn.Parameter(torch.empty(self.nodes, OPERATION))

    def links(self, cells: Sequence[Links]) -> Tensor:
        """float (cells, links, OPERATION)."""
        sources, targets = torch.tensor([cell.ends for cell in cells]).unbind(2)
        if int(targets.max()) >= self.nodes:
            raise UserError("cell", int(targets.max()) + 1, f"at most {self.nodes} nodes")
        chosen = self.operation_embedding[self.operations(cells)]
        return chosen + self.source_embedding[sources] + self.target_embedding[targets]


class LineEncoder(LinkEncoder):
    """Two graph convolutions over the links; `skip`: a link's own embedding goes past them to its scores."""

    def __init__(
        self, vocabulary: Sequence[str], actions: int, seed: int = 0, form: Adjacency = "row",
        skip: bool = True, nodes: int = NODES,
    ) -> None:  # fmt: skip
        super().__init__(vocabulary, actions, nodes)
        self.form: Adjacency = form
        self.skip = skip
        self.first, self.first_bias = _weights(OPERATION, HIDDEN)
        self.second, self.second_bias = _weights(HIDDEN, HIDDEN)
        self.scores = skip_init(nn.Linear, HIDDEN + OPERATION * skip, actions)
        self.draw_weights(seed)

    def forward(self, cells: Sequence[Links]) -> Tensor:
        neighbours = torch.stack([line_adjacency(cell.ends, self.form) for cell in cells])
        x = self.links(cells)
        hidden = propagate(neighbours, x, self.first, self.second, self.first_bias, self.second_bias)
        found: Tensor = self.scores(torch.cat((hidden, x), 2) if self.skip else hidden)
        return found


class SequenceEncoder(LinkEncoder):
    """An LSTM over the links in order."""

    def __init__(self, vocabulary: Sequence[str], actions: int, seed: int = 0, nodes: int = NODES) -> None:
        super().__init__(vocabulary, actions, nodes)
        self.cells = nn.LSTM(OPERATION, HIDDEN, batch_first=True, device="meta").to_empty(device="cpu")
        self.scores = skip_init(nn.Linear, HIDDEN, actions)
        self.draw_weights(seed)

    def forward(self, cells: Sequence[Links]) -> Tensor:
        found: Tensor = self.scores(self.cells(self.links(cells))[0])
        return found


class PerceptronEncoder(CellEncoder):
    """Two hidden layers over all operations at once, for cells of so many `links` that are all wired alike:
    it does not look at the ends."""

    def __init__(self, vocabulary: Sequence[str], actions: int, seed: int = 0, *, links: int) -> None:
        super().__init__(vocabulary, actions)
        self.number = links
        self.place_embedding = nn.Parameter(torch.empty(links, len(self.vocabulary), WIDE))
        self.hidden = skip_init(nn.Linear, WIDE, WIDE)
        self.scores = skip_init(nn.Linear, WIDE, links * actions)
        self.draw_weights(seed)

    def forward(self, cells: Sequence[Links]) -> Tensor:
        operations = self.operations(cells)
        if operations.shape[1] != self.number:
            raise UserError("cell", operations.shape[1], f"{self.number} links")
        x = self.place_embedding[torch.arange(self.number), operations].sum(1) / math.sqrt(self.number)
        found: Tensor = self.scores(F.relu(self.hidden(F.relu(x))))
        return found.reshape(len(cells), self.number, self.actions)


class UniformEncoder(CellEncoder):
    """Every action alike, whatever the cell is: the baseline that learns nothing."""

    def forward(self, cells: Sequence[Links]) -> Tensor:
        return torch.zeros(*self.operations(cells).shape, self.actions)


def _weights(inputs: int, outputs: int) -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(torch.empty(inputs, outputs)), nn.Parameter(torch.empty(outputs))
