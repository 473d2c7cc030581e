"""A recipe made concrete: its data, its space and its candidates, all checked, nothing written yet."""

from cluster.files import AnyPath
from cluster.recipe import Recipe
from cluster.recipe_topology import NetworksSection
from cluster.recorder import Entrant
from cluster.trial import TrialConfig
from networks.errors import UserError
from networks.spaces.space import SearchSpace
from searchers.grid import GridSearcher
from searchers.searcher import Candidate
from trainers.data import Data, open_data


class Search:
    """What a recipe will search. `entrants` are its candidates in ask order."""

    def __init__(self, recipe: Recipe, space: SearchSpace, data: Data) -> None:
        self.recipe, self.space, self.data = recipe, space, data
        self.entrants = [self._entrant(ask, genes) for ask, genes in enumerate(self._genes())]
        recipe.tracking.check_runs(len(self.entrants))

    @property
    def size_text(self) -> str:
        return f"{len(self.entrants)} candidates"

    data_field = "data"

    @property
    def data_name(self) -> str:
        return self.recipe.data.name

    @property
    def data_digest(self) -> str:
        return self.data.digest

    @classmethod
    def of(cls, recipe: Recipe) -> "Search":
        """Open the data and build the space. Raises `UserError`."""
        data = open_data(recipe.data)
        try:
            data.steps_per_epoch(recipe.training.batch_size)  # refuses a batch larger than the set
        except UserError as error:
            raise error.under("training") from None
        return cls(recipe, recipe.space.build(data.image, len(data.classes)), data)

    def _genes(self) -> list[tuple[int, ...]]:
        searcher = GridSearcher(self.space)
        return searcher.ask(len(searcher))

    def _entrant(self, ask: int, genes: tuple[int, ...]) -> Entrant:
        architecture, space = self.space.decode(genes), self.recipe.space
        given = space.networks[genes[0]] if isinstance(space, NetworksSection) else None
        return Entrant(
            candidate=Candidate.of(self.recipe.identity, self.space.digest, genes, ask),
            names=self.space.names(genes),
            architecture=architecture.digest,
            cost=architecture.complexity(),
            parent=given.parent if given else "",
            edit=given.edit if given else "",
        )

    def configs(self, folder: AnyPath) -> list[TrialConfig]:
        """What each candidate's trial is set up with, in ask order. A trial's process may work in another
        folder than this one, so its data's paths are absolute."""
        recipe = self.recipe.model_copy(update={"data": self.recipe.data.from_anywhere()})
        return [
            TrialConfig(recipe=recipe, folder=folder, candidate=entrant.candidate)
            for entrant in self.entrants
        ]
