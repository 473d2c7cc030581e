"""The supernet: every option of a space in one module, with one set of weights.

A path is a candidate's genes. It is run by the same plans and executors as the stand-alone network
(networks/stage.py), on the operations that its genes choose, so both compute the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from networks.architecture import Shape, Stage
from networks.errors import UserError
from networks.graph import Edge, Graph
from networks.network import Head, Network, Stem, build_network, initialise, through
from networks.plan import Plan, compile_plan, edge_key
from networks.spaces.choices import ChoiceSpace
from networks.spaces.space import Genes
from networks.stage import Executor, StageModule, silent_edges, traits_of

PLANS_KEPT = 20_000


class SuperStage(StageModule):
    """A stage whose edges in `choices` (position -> registered operations) hold a module for each of them.

    Modules are keyed as the stand-alone stage's are; below the key of a searched edge comes the name of
    the operation. Batch normalisation inside options, and in the projections of two inputs, has no scale and
    shift: they would be learned by other paths than the one that uses them (SPOS, DARTS).
    """

    def __init__(
        self,
        graph: Graph,
        stage: Stage,
        entries: Sequence[Shape],
        choices: Mapping[int, tuple[str, ...]],
        plans: dict[object, dict[object, Plan]],
        twins: Mapping[int, int] = {},
    ) -> None:
        super().__init__(graph, stage, *entries)
        if len(entries) > 1:  # cells of the DARTS family, as their releases do while they search
            without_scale(self.projection)
        self.operations = nn.ModuleDict(dict(self.build_nodes()))
        self.options = nn.ModuleDict()
        self.choices = dict(choices)
        # Where the modules of a searched edge are: its own, or those of the edge that it shares them with.
        self._held = {position: edge_key(graph.edges[twins.get(position, position)]) for position in choices}
        for position, edge in enumerate(graph.edges):
            # A sum leaves `none` out (`silent_edges`); a mean counts its zeros, so there it is a module.
            averages = graph.aggregation_of[edge.target] == "mean"
            absent = {"identity"} if averages else {"identity", "none"}
            if position in choices and self._held[position] != edge_key(edge):
                continue
            if position in choices:
                built = {
                    name: without_scale(self.build_edge(edge, name))
                    for name in choices[position]
                    if name not in absent
                }
                self.options[edge_key(edge)] = nn.ModuleDict(built)
            elif edge.operation not in absent:
                self.operations[edge_key(edge)] = self.build_edge(edge, edge.operation)
        # Shared with the stages whose operations are alike; at another stride a skip may be an operation.
        traits = {key: traits_of(dict(some.items())) for key, some in self._groups.items()}
        alike = tuple((key, tuple(some.items())) for key, some in traits.items())
        self._plans = plans.setdefault((graph, alike), {})

    @property
    def _groups(self) -> dict[str, nn.ModuleDict]:
        held = {key: cast(nn.ModuleDict, module) for key, module in self.options.items()}
        return {**held, "": self.operations}

    def forward(self, *inputs: Any) -> Tensor:
        """The inputs, and last the operation of each searched edge, by its position."""
        *tensors, chosen = inputs
        return self.execute(tensors, self.chosen_operations(chosen), partial(self.plan, chosen))

    def plan(
        self,
        chosen: Mapping[int, str],
        recorded: bool = False,
        normalised: frozenset[str] = frozenset(),
        rectifies: bool = True,
    ) -> Plan:
        """The plan of this choice; compiled when it is first asked for, then kept."""
        key = (tuple(chosen.items()), recorded, normalised, rectifies)
        if key not in self._plans:
            if len(self._plans) >= PLANS_KEPT:
                self._plans.clear()
            graph = rewired(self.graph, chosen)
            self._plans[key] = compile_plan(
                graph, traits_of(self.chosen_operations(chosen)), silent_edges(graph),
                recorded=recorded, normalised=normalised, rectifies=rectifies,
            )  # fmt: skip
        return self._plans[key]

    def chosen_operations(self, chosen: Mapping[int, str]) -> dict[str, nn.Module]:
        """The modules of this choice, keyed as in a stand-alone stage."""
        operations = dict(self.operations.items())
        for position, name in chosen.items():
            options = self.held(position)
            if name in options:
                operations[edge_key(self.graph.edges[position])] = options[name]
        return operations

    def held(self, position: int) -> nn.ModuleDict:
        """The modules of a searched edge by operation: its own, or those that it shares."""
        return cast(nn.ModuleDict, self.options[self.holder(position)])

    def holder(self, position: int) -> str:
        """The key of the edge that has them."""
        return self._held[position]

    def joined_channels(self, chosen: Mapping[int, str]) -> Tensor | None:
        """The channels that this choice's own network has of a joined output; None: all of them. The others
        are zeros here."""
        graph, width = self.graph, self.stage.channels
        if graph.widths == 1:
            return None
        joined = [
            slot
            for position, edge in enumerate(graph.edges)
            if edge.target == graph.output and chosen.get(position, edge.operation) != "none"
            for slot in [edge.slot]
        ]
        if len(joined) == graph.widths:
            return None
        return torch.cat([torch.arange(slot * width, (slot + 1) * width) for slot in sorted(joined)])

    def used_operations(self, chosen: Mapping[int, str]) -> dict[str, nn.Module]:
        """Those that this choice runs: not the ones that nothing on the way to the output reads."""
        operations = self.chosen_operations(chosen)
        steps = self.plan(chosen).steps
        return {step.operation: operations[step.operation] for step in steps if step.operation}


class Supernet(nn.Module):
    """forward(x, genes): N x C x H x W images to N x classes logits, along the path of the genes.

    Weights are uninitialised until `initialise` has run: see `build_supernet`.
    """

    def __init__(self, space: ChoiceSpace) -> None:
        super().__init__()
        self.space = space
        template = space.template
        shapes = template.stage_shapes()
        self.stem = Stem(template)
        self._rules: list[dict[int, int]] = [{} for _ in template.stages]  # edge -> gene
        for site, gene in sorted(space.sites.items()):
            self._rules[site.stage][site.edge] = gene
        plans: dict[object, dict[object, Plan]] = {}
        self.stages = nn.ModuleList(
            SuperStage(
                (graph := template.graph(position)), stage, template.entries(position, shapes),
                self._choices(graph, self._rules[position]), plans, space.twins,
            )
            for position, stage in enumerate(template.stages)
        )  # fmt: skip
        self.head = Head(template, shapes[-1].c)

    def _choices(self, graph: Graph, rules: Mapping[int, int]) -> dict[int, tuple[str, ...]]:
        """What each searched edge of a graph may hold, with what those may that share its weights."""
        space, found = self.space, dict[int, dict[str, None]]()
        for edge, gene in rules.items():
            names = [space.at(gene, option, graph.edges[edge]) for option in space.kept[gene]]
            for place in {edge, space.twins.get(edge, edge)}:
                found.setdefault(place, {}).update(dict.fromkeys(names))
        return {edge: tuple(names) for edge, names in found.items()}

    def forward(self, x: Tensor, genes: Genes) -> Tensor:
        stages, chosen = zip(*self._walk(genes), strict=True)
        return self.head(through(self.stem(x), stages, chosen))

    @property
    def super_stages(self) -> list[SuperStage]:
        return [stage for stage in self.stages if isinstance(stage, SuperStage)]

    def _walk(self, genes: Genes) -> Iterator[tuple[SuperStage, dict[int, str]]]:
        """Each stage with the operations that the genes choose for it."""
        if not self.space.legal(genes):
            self.space.check(genes)
        for stage, rule in zip(self.super_stages, self._rules, strict=True):
            edges = stage.graph.edges
            yield stage, {edge: self.space.at(gene, genes[gene], edges[edge]) for edge, gene in rule.items()}

    def set_executor(self, executor: Executor) -> None:
        """As `Network.set_executor`."""
        if executor not in get_args(Executor):
            raise UserError("executor", executor, " or ".join(get_args(Executor)))
        for stage in self.super_stages:
            stage.executor = executor

    def new_step(self, seed: int, *path: int | str) -> None:
        """Draw what the next training pass needs at random (dropout) from (seed, path)."""
        self.head.draw(seed, *path)

    def used_modules(self, genes: Genes) -> Iterator[nn.Module]:
        """The modules that a path runs, in order: stem, projections, operations, head."""
        yield self.stem
        for stage, chosen in self._walk(genes):
            yield stage.projection
            yield from dict.fromkeys(stage.used_operations(chosen).values())  # twins may use one module twice
        yield self.head

    def searched_weights(self, gene: int, option: int) -> list[nn.Module]:
        """What holds the weights of one option of one gene: a module for each site that it rules."""
        found = []
        for stage, rule in zip(self.super_stages, self._rules, strict=True):
            for edge in (edge for edge, ruled_by in rule.items() if ruled_by == gene):
                name = self.space.at(gene, option, stage.graph.edges[edge])
                found += [module for key, module in stage.held(edge).items() if key == name]
        return found

    @torch.no_grad()
    def extract(self, genes: Genes) -> Network:
        """The stand-alone network of a path, with copied weights and statistics.

        Its batch normalisation has scales and shifts; where the supernet's has none, they are 1 and 0.
        """
        network = build_network(self.space.decode(genes), seed=0)  # which draws from no global state
        network.load_state_dict(self.path_state(genes), strict=False)
        return network.train(self.training)

    def path_state(self, genes: Genes) -> dict[str, Tensor]:
        """Parameters and buffers of a path, by the names that they have in the stand-alone network."""
        state = {f"stem.{name}": value for name, value in self.stem.state_dict().items()}
        puts_out: list[Tensor | None] = [None]  # of the stem and of each stage: the channels that are there
        for position, (stage, chosen) in enumerate(self._walk(genes)):
            where = f"stages.{position}"
            there = [n for n, edge in enumerate(stage.weighted_edges) if chosen.get(edge) != "none"]
            state[f"{where}.edge_values"] = stage.edge_values.detach()[there]
            reads = [puts_out[max(0, position - 1)], puts_out[position]]
            if isinstance(stage.projection, nn.ModuleList):
                for number, (one, channels) in enumerate(zip(stage.projection, reads, strict=True)):
                    state |= _reading(channels, f"{where}.projection.{number}", one)
            else:
                state |= _reading(reads[-1], f"{where}.projection", stage.projection)
            for key, module in stage.chosen_operations(chosen).items():
                state |= _reading(None, f"{where}.operations.{key}", module)
            puts_out.append(stage.joined_channels(chosen))
        return state | _reading(puts_out[-1], "head", self.head)


def _reading(channels: Tensor | None, where: str, module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by their names, below `where`, of a module that reads these channels of all that
    are there (None: all). Its weights must all read them: those of projections and plain heads do."""
    state: dict[str, Tensor] = module.state_dict()
    if channels is not None:
        there = channels.to(next(module.parameters()).device)
        state = {name: value if value.ndim < 2 else value[:, there] for name, value in state.items()}
    return {f"{where}.{name}": value for name, value in state.items()}


def rewired(graph: Graph, chosen: Mapping[int, str]) -> Graph:
    """The graph with these operations on its edges. Not validated again: only operations differ."""
    edges = tuple(
        Edge.model_construct(**{**dict(edge), "operation": chosen[i]}) if i in chosen else edge
        for i, edge in enumerate(graph.edges)
    )
    return Graph.model_construct(nodes=graph.nodes, edges=edges, inputs=graph.inputs, output=graph.output)


def without_scale(module: nn.Module) -> nn.Module:
    """The module, its batch normalisations without scale and shift."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.BatchNorm2d(child.num_features, affine=False))
        else:
            without_scale(child)
    return module


def build_supernet(space: ChoiceSpace, seed: int) -> Supernet:
    """The initialised supernet, on the CPU, in float32. No global random state is read or changed."""
    with torch.device("meta"):
        supernet = Supernet(space)
    supernet.to_empty(device="cpu")
    initialise(supernet, seed)
    for module in supernet.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked = None  # it would depend on which replica ran which path
    return supernet
