"""The conformance suite for scores: ours pass it, and a user's own can be held to it."""

import dataclasses
import math

import torch
from torch import Tensor, nn

from networks.liveness import WORST
from networks.spaces.space import Genes
from trainers.scores.score import Batched, Bench, Score


def check_score(
    score: Score, bench: Bench, genes: list[Genes], dead_genes: list[Genes], *, knows_dead: bool = True
) -> None:
    """Raise AssertionError where `score` breaks a promise of `trainers.scores.score.Score`.

    genes: two or more live candidates of `bench.space`. dead_genes: dead ones; none where the space has
    none. `knows_dead`: a dead one gets `WORST`; False for scores that have a value for it (costs have one,
    and the angle is 0).
    """
    assert len(genes) >= 2 and score.supports(bench.space)
    assert score.name and isinstance(score.needs_supernet, bool)
    assert bench.supernet is not None or not score.needs_supernet, "give the bench a supernet"
    before, draws = _state(bench), torch.random.get_rng_state()
    first = [score(bench, one) for one in genes]
    for one, value in zip(genes, first, strict=True):
        assert type(value) is float and math.isfinite(value), f"{one} scores {value!r}, no finite float"
        assert score(bench, one) == value, f"{one} scores differently when asked again"
    for one in dead_genes:
        value = score(bench, one)
        assert type(value) is float and math.isfinite(value), f"dead {one} scores {value!r}"
        assert value == WORST or not knows_dead, f"dead {one} scores {value!r}, not the worst"
    anew = dataclasses.replace(bench)  # what scores remember in a bench is not in this one
    with torch.no_grad():
        reverse = [score(anew, one) for one in reversed(genes)]
    assert reverse == first[::-1], "a score depends on what was scored before it, or on gradient mode"
    if isinstance(score, Batched):
        for some in (genes, genes[:1], genes[::-1], [*genes, *dead_genes]):
            expected = [score(bench, one) for one in some]
            assert score.many(anew, some) == expected, "many at once score differently from one by one"
    assert torch.equal(torch.random.get_rng_state(), draws), "the global random state was used"
    after = _state(bench)
    assert before.keys() == after.keys(), "the supernet has other parameters or buffers than before"
    changed = [name for name, value in before.items() if not _same(value, after[name])]
    assert not changed, f"not restored bit for bit: {changed}"
    if bench.supernet is not None:
        left = [name for name, value in bench.supernet.named_parameters() if value.grad is not None]
        assert not left, f"gradients left behind: {left}"


def _state(bench: Bench) -> dict[str, object]:
    """Everything of the bench that a score could change, copied."""
    state: dict[str, object] = {f"initial {name}": value.clone() for name, value in bench.initial.items()}
    if bench.supernet is not None:
        # `named_buffers` holds those too that a state_dict leaves out.
        for name, value in (*bench.supernet.named_parameters(), *bench.supernet.named_buffers()):
            state[name] = value.detach().clone()
        state |= {f"{name} mode": _mode(module) for name, module in bench.supernet.named_modules()}
    return state


def _mode(module: nn.Module) -> tuple[object, ...]:
    parameters = tuple(one.requires_grad for one in module.parameters(recurse=False))
    hooks = len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
    return module.training, getattr(module, "executor", None), hooks, parameters


def _same(one: object, two: object) -> bool:
    """Bit for bit: NaN equals itself, and 0 is not -0."""
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return one.dtype == two.dtype and one.shape == two.shape and _bytes(one) == _bytes(two)
    return one == two


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()
