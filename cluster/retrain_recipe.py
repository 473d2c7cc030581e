"""What a recipe says of training the networks that a search ends with on their own."""

from typing import Any

from pydantic import Field

from cluster.recipe_base import Section
from trainers.training import TrainingSettings


class Retraining(Section):
    """`training`: as in a grid. `seeds`: how often each network is trained. `space`: in what the networks
    differ from those that were searched, usually width and depth (NAT searches with 8 cells and trains 20);
    the choices must stay the same. `best`: so many of the leaders; where candidates were given to be
    rewritten it is each of them and what it became."""

    training: TrainingSettings = TrainingSettings()
    seeds: int = Field(3, ge=1)
    space: dict[str, Any] = Field(default_factory=dict)
    best: int = Field(1, ge=1)
