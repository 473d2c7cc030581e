"""Which candidates are dead: no number of theirs depends on the image; and what those score."""

from networks.architecture import Architecture
from networks.graph import Graph

# What a candidate gets that cannot be scored: a dead one, a singular kernel, no finite number. Finite, so
# that it goes through JSON, databases and sorting as any number does; but no measure of how bad it is.
WORST = -1e30


def is_dead(architecture: Architecture) -> bool:
    """In some stage no path without a `none` leads from the input to the output: the logits are the same
    for every image. Of NAS-Bench-201's 15,625 cells 341 are dead (spec 7, N6)."""
    graphs = {id(graph): graph for graph in map(architecture.graph, range(len(architecture.stages)))}
    return any(_is_cut(graph) for graph in graphs.values())


def _is_cut(graph: Graph) -> bool:
    reached = set(graph.inputs)
    for node in graph.order:
        if any(edge.operation != "none" and edge.source in reached for edge in graph.incoming[node]):
            reached.add(node)
    return graph.output not in reached
