"""What a policy sees of a cell: encoders that give each link a score for every action (NAT spec, section 3).

All take a cell's links in order (two a node) and give logits, float (links, actions). Their weights are
functions of (seed, name). `GraphEncoder` is NAT's two-layer graph convolution; the sequence encoder stands
for its LSTM baseline, whose size nobody published.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init  # torch would draw weights from its global generator

from networks.cells import INPUTS, Cell
from networks.counters import counter_generator
from networks.errors import UserError

Adjacency = Literal["row", "symmetric", "official"]
NODE, OPERATION, FEATURE, HIDDEN = 200, 100, 1024, 100  # the release's widths


def adjacency(cell: Cell, form: Adjacency = "row") -> Tensor:
    """A[to, from] counts the links between two nodes: float32 (nodes, nodes), inputs first.

    ``official``: as released, so that a node does not see itself; then the scores of many links depend on no
    operation at all (spec 3.3). ``row``: D^-1 (A + I); ``symmetric``: D^-1/2 (A + I) D^-1/2, with D the row
    sums of A + I.
    """
    if form not in get_args(Adjacency):
        raise UserError("adjacency", form, " or ".join(get_args(Adjacency)))
    nodes = INPUTS + len(cell.nodes)
    found = torch.zeros(nodes, nodes)
    for target, links in enumerate(cell.nodes, start=INPUTS):
        for link in links:
            found[target, link.source] += 1
    if form == "official":
        return found
    found += torch.eye(nodes)
    degrees = found.sum(1)
    if form == "row":
        return found / degrees[:, None]
    return found / (degrees[:, None] * degrees[None, :]).sqrt()


def propagate(
    neighbours: Tensor, x: Tensor, first: Tensor, second: Tensor,
    first_bias: Tensor | float = 0.0, second_bias: Tensor | float = 0.0,
) -> Tensor:  # fmt: skip
    """A relu(A X W0 + b0) W1 + b1: (nodes, features) -> (nodes, hidden)."""
    hidden = F.relu(neighbours @ (x @ first) + first_bias)
    return neighbours @ (hidden @ second) + second_bias


class CellEncoder(nn.Module):
    """What all have. `vocabulary`: the words of operations that are known; `actions`: how many scores a link
    gets."""

    def __init__(self, vocabulary: Sequence[str], actions: int) -> None:
        super().__init__()
        self.vocabulary, self.actions = tuple(vocabulary), actions
        self._numbers = {word: number for number, word in enumerate(vocabulary)}

    def operations(self, cell: Cell) -> Tensor:
        """Their numbers in the vocabulary: int64 (links,). Raises `UserError` for one that is not in it."""
        unknown = sorted(set(cell.operations) - set(self.vocabulary))
        if unknown:
            raise UserError("operation", ", ".join(unknown), ", ".join(self.vocabulary))
        return torch.tensor([self._numbers[word] for word in cell.operations])

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

    def nodes(self, cell: Cell) -> Tensor:
        """X: float (nodes, features)."""
        chosen = self.operation_embedding[self.operations(cell)].reshape(len(cell.nodes), NODE)
        found: Tensor = self.features(torch.cat((self.node_embedding, chosen)))
        return found

    def forward(self, cell: Cell) -> Tensor:
        return self.scored(adjacency(cell, self.form), self.nodes(cell))

    def scored(self, neighbours: Tensor, x: Tensor) -> Tensor:
        hidden = propagate(neighbours, x, self.first, self.second, self.first_bias, self.second_bias)
        found: Tensor = self.scores(hidden[INPUTS:])
        return found.reshape(-1, self.actions)


class SequenceEncoder(CellEncoder):
    """An LSTM over the links in order, each the sum of three embeddings: its operation and its two ends."""

    def __init__(self, vocabulary: Sequence[str], actions: int, seed: int = 0, nodes: int = 16) -> None:
        super().__init__(vocabulary, actions)
        self.operation_embedding = nn.Parameter(torch.empty(len(self.vocabulary), OPERATION))
        self.source_embedding = nn.Parameter(torch.empty(nodes, OPERATION))
        self.target_embedding = nn.Parameter(torch.empty(nodes, OPERATION))
        self.cells = nn.LSTM(OPERATION, HIDDEN, batch_first=True, device="meta").to_empty(device="cpu")
        self.scores = skip_init(nn.Linear, HIDDEN, actions)
        self.draw_weights(seed)

    def forward(self, cell: Cell) -> Tensor:
        ends = [(link.source, target) for target, links in enumerate(cell.nodes, INPUTS) for link in links]
        sources, targets = torch.tensor(ends).T
        x = (
            self.operation_embedding[self.operations(cell)]
            + self.source_embedding[sources]
            + self.target_embedding[targets]
        )
        found: Tensor = self.scores(self.cells(x[None])[0][0])
        return found


class UniformEncoder(CellEncoder):
    """Every action alike, whatever the cell is: the baseline that learns nothing."""

    def forward(self, cell: Cell) -> Tensor:
        return torch.zeros(len(self.operations(cell)), self.actions)


def _weights(inputs: int, outputs: int) -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(torch.empty(inputs, outputs)), nn.Parameter(torch.empty(outputs))
