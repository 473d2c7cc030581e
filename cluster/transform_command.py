"""What `weft transform` changes in a recipe."""

import json
from collections.abc import Sequence

from cluster.cli_options import read_if_file
from cluster.recipe import load_recipe
from cluster.recipe_spaces import architecture_of
from cluster.search_recipe import SearchRecipe
from networks.errors import UserError
from networks.standard import STANDARD

CELLS_ONLY = ("auxiliary", "drop_path")


def transforming(recipe: str, given: Sequence[str], changes: Sequence[str]) -> list[str]:
    """The changes that make the recipe rewrite what is given: cells of its space, or one network, which is a
    space of its own; what the recipe says of its own space, and of wider networks at the end, then goes. The
    user's changes come after. Raises `UserError`."""
    texts = list(map(read_if_file, given))
    networks = [text for text in texts if text.startswith("{") or text in STANDARD]
    if not networks:
        return [*changes, f"searcher.transform={json.dumps(texts)}"]
    if len(texts) > 1:
        fix = "A network has weights and links of its own. Run the command once for each."
        raise UserError("CELL", f"{len(texts)} of them", "one, where it is a network", fix)
    space = {"kind": "network", "architecture": given[0]}
    ours = [f"space={json.dumps(space)}", "searcher.transform=[given]"]
    own = load_recipe(recipe)
    if isinstance(own, SearchRecipe) and own.retraining is not None:
        ours.append("retraining.space={}")
        if not has_cells(texts[0]):  # whose auxiliary head and drop-path other networks have no place for
            trained = own.retraining.training
            ours += [f"retraining.training.{name}=0" for name in CELLS_ONLY if getattr(trained, name)]
    return [*ours, *changes]


def has_cells(network: str) -> bool:
    """Whether this network, the name of a standard one or JSON, is made of cells of two inputs."""
    if network in STANDARD:
        return False
    try:
        architecture = architecture_of(json.loads(network))
    except ValueError:
        return True  # which the recipe refuses, with what is wrong with it
    return any(architecture.graph(stage).is_cell for stage in range(len(architecture.stages)))
