"""All scores by name."""

from collections.abc import Mapping

from networks.architecture import Shape
from networks.errors import UserError, nearest
from networks.spaces.cells import CellsSettings, CellsSpace
from networks.spaces.chain import (
    ShuffleNetSettings,
    ShuffleNetSpace,
    SmallChainSettings,
    SmallChainSpace,
)
from networks.spaces.choices import ChoiceSpace
from networks.spaces.darts import DartsSettings, DartsSpace
from networks.spaces.mobilenet import MobileNetSettings, MobileNetSpace
from networks.spaces.nasbench201 import NasBench201Settings, NasBench201Space
from networks.spaces.space import SearchSpace
from trainers.scores.accuracy import Validation
from trainers.scores.angle import Angle
from trainers.scores.costs import Cost
from trainers.scores.gradients import Fisher, GradNorm, Grasp, Snip
from trainers.scores.naswot import JacobCov, Naswot
from trainers.scores.score import Score
from trainers.scores.synflow import SynFlow
from trainers.scores.zen import Zen
from trainers.scores.zico import ZiCo

SCORES: Mapping[str, Score] = {
    score.name: score
    for score in (
        Validation("accuracy"),
        Validation("loss"),
        Validation("accuracy_unrecalibrated"),
        Angle("all"),
        Angle("searched"),
        Angle("all", "last"),
        Naswot(),
        JacobCov(),
        GradNorm(),
        Snip(),
        Grasp(),
        Fisher(),
        SynFlow(),
        Zen(),
        ZiCo(),
        Cost("params"),
        Cost("macs"),
    )
}


def find_score(name: str, field: str = "score") -> Score:
    """The score of this name, or a `UserError` that names `field` and the nearest known name."""
    if name not in SCORES:
        raise UserError(field, name, ", ".join(SCORES), nearest(name, SCORES))
    return SCORES[name]


def check_supported(score: Score, space: SearchSpace, field: str = "score") -> None:
    """Raise a `UserError` unless the score can rank candidates of this space; it names the spaces that the
    score supports, and the scores that support the space."""
    if isinstance(space, ChoiceSpace) and score.supports(space):
        return
    kinds = [known.kind for known in _one_of_each_kind() if score.supports(known)]
    fix = ""
    if isinstance(space, ChoiceSpace):
        others = [name for name, known in SCORES.items() if known.supports(space)]
        fix = f"For {space.kind} there are {', '.join(others)}."
    raise UserError(field, score.name, f"in spaces of the kinds {', '.join(kinds)}", fix)


def _one_of_each_kind() -> tuple[ChoiceSpace, ...]:
    """The smallest space of each kind that comes with the project: scores are asked about spaces."""
    image = Shape(3, 8, 8)
    return (
        NasBench201Space(NasBench201Settings(channels=2, cells=1), image, 2),
        ShuffleNetSpace(ShuffleNetSettings(channels=(2, 4), repeats=(1,), head_channels=2), image, 2),
        SmallChainSpace(SmallChainSettings(channels=2, head_channels=2), image, 2),
        MobileNetSpace(MobileNetSettings(channels=(2, 2, 4), repeats=(2,), strides=(1,)), image, 2),
        DartsSpace(DartsSettings(channels=4, cells=3, regime="cifar"), image, 2),
        CellsSpace(CellsSettings(channels=4, cells=3, nodes=2), image, 2),
    )
