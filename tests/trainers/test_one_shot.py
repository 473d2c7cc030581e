"""Single-path training: what a step is, whom it moves, and that it does not matter who computes it.

Checks S5, S6, R1 and R2 of the one-shot spec, and the path-order rule.
"""

import copy
import json
import math
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from networks.architecture import Shape
from networks.errors import UserError
from networks.spaces.chain import ShuffleNetSettings, ShuffleNetSpace, SmallChainSettings, SmallChainSpace
from networks.spaces.choices import ChoiceSpace
from networks.spaces.nasbench201 import NasBench201Settings, NasBench201Space
from trainers import one_shot
from trainers.data import Augment, Batch, DataSettings, Split
from trainers.data.tensors import Part, Source, TensorData
from trainers.group import Alone, Group, PathWork, shares
from trainers.one_shot import OneShotTrainer
from trainers.one_shot_settings import MacBins, OneShotSettings
from trainers.schedule import cosine_rate, linear_rate
from trainers.training import Diverged

Made = TypeVar("Made", bound=TensorData)
IMAGE, CLASSES = Shape(3, 8, 8), 4
CELLS = NasBench201Space(NasBench201Settings(channels=4, cells=1), IMAGE, CLASSES)
CHAIN = SmallChainSpace(SmallChainSettings(channels=4, head_channels=8), IMAGE, CLASSES)
SHUFFLE = ShuffleNetSpace(
    ShuffleNetSettings(channels=(4, 8, 16), repeats=(2, 2), head_channels=8), IMAGE, CLASSES
)
SPACES: list[ChoiceSpace] = [CELLS, CHAIN, SHUFFLE]
over_spaces = pytest.mark.parametrize("space", SPACES, ids=lambda space: space.kind)


def made(
    train: int = 64, validation: int = 12, augment: Augment | None = None, kind: type[Made] = TensorData
) -> Made:
    """Images of noise, no two alike, whose first row is dark or bright by class."""
    draws = torch.Generator().manual_seed(0)
    parts = {}
    for split, count in (("train", train), ("validation", validation)):
        images = torch.randint(256, (count, *IMAGE), generator=draws, dtype=torch.uint8)
        labels = torch.arange(count) % CLASSES
        images[:, :, 0] = (60 * labels).view(-1, 1, 1).to(torch.uint8)
        parts[split] = Part(images, labels)
    source = Source(tuple("abcd"), parts)  # type: ignore[arg-type]
    return kind(source, DataSettings(test=0, augment=augment or Augment()))


DATA = made()


def trainer(
    space: ChoiceSpace = CELLS, seed: int = 5, data: TensorData = DATA, **given: Any
) -> OneShotTrainer:
    settings = {"steps": 20, "batch_size": 8, "paths_per_step": 4, "weight_decay": 1e-3} | given
    return OneShotTrainer(space, data, OneShotSettings.model_validate(settings), seed)


def kept(state: tuple[dict[str, Tensor], dict[str, int]]) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The state as a checkpoint holds it: its own tensors, and JSON."""
    tensors, values = state
    return {name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(values))


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# Which paths -------------------------------------------------------------------------------------


def test_s6_paths_are_uniform() -> None:
    """4 choices x 20 layers, 10^4 draws."""
    space = ShuffleNetSpace(
        ShuffleNetSettings(channels=(2, 4, 6, 8, 10), repeats=(4, 4, 8, 4), head_channels=4), IMAGE, CLASSES
    )
    one = trainer(space, paths_per_step=100)
    paths = [genes for step in range(100) for genes in one.paths(step)]
    counts = [[sum(genes[layer] == choice for genes in paths) for choice in range(4)] for layer in range(20)]
    chi = sum(stats.chisquare(some).statistic for some in counts)
    assert stats.chi2.sf(chi, 20 * 3) > 1e-3
    assert stats.chi2.cdf(chi, 20 * 3) > 1e-3, "drawn, not dealt out"
    assert len(set(paths)) > 9_990, "layers must be drawn independently of each other"


def test_paths_are_a_function_of_seed_step_and_path() -> None:
    one, two, other = trainer(), trainer(), trainer(seed=6)
    first = one.paths(7)
    one.train(2)
    assert one.paths(7) == two.paths(7) == first
    assert one.paths(8) != first != other.paths(7)
    assert trainer(paths_per_step=2).paths(7) == first[:2]


def test_mac_bins_are_uniform_and_bind() -> None:
    low, high = CHAIN.extremes("macs")
    bins = MacBins(low=low + (high - low) // 4, high=high - (high - low) // 4, bins=5)
    one = trainer(CHAIN, mac_bins=bins, paths_per_step=50)
    macs = [CHAIN.cost(genes).macs for step in range(10) for genes in one.paths(step)]
    assert all(bins.low <= value <= bins.high for value in macs)
    width = (bins.high - bins.low) / bins.bins
    counts = Counter(min(int((value - bins.low) / width), bins.bins - 1) for value in macs)
    assert stats.chisquare([counts[i] for i in range(bins.bins)]).pvalue > 1e-3
    free = trainer(CHAIN, paths_per_step=50)
    plain = Counter(
        int((CHAIN.cost(genes).macs - bins.low) // width) for step in range(10) for genes in free.paths(step)
    )
    assert stats.chisquare([plain[i] + 1 for i in range(bins.bins)]).pvalue < 1e-3, "bins must be what counts"


def test_any_path_will_do_where_no_path_falls_into_a_bin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_shot, "TRIES", 20)
    high = CHAIN.extremes("macs")[1]
    one = trainer(CHAIN, mac_bins=MacBins(low=high + 1, high=high + 10))
    assert all(CHAIN.legal(genes) for genes in one.paths(0)) and len(set(one.paths(0))) > 1


# A step ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "given"),
    [
        (CHAIN, {}),
        (CELLS, {"nesterov": True, "schedule": "linear"}),
        (CELLS, {"label_smoothing": 0.2, "clip_norm": 0.05}),
        (SHUFFLE, {"momentum": 0.0, "paths_per_step": 3}),
    ],
    ids=["chain", "nesterov", "clipped", "dropout"],
)
def test_steps_are_those_of_sgd_by_hand(space: ChoiceSpace, given: dict[str, Any]) -> None:
    """Gradients averaged over all paths, statistics over those who used them, momentum and weight decay
    (of weights, not of vectors) only where somebody did."""
    one = trainer(space, lr=0.1, **given)
    settings = one.settings
    net = copy.deepcopy(one.supernet)
    net.set_executor("modules")
    momenta: dict[str, Tensor] = {}
    count = settings.paths_per_step
    for step in range(4):
        paths = one.paths(step)
        gradients: dict[str, Tensor] = {}
        moves: dict[str, list[Tensor]] = {}
        losses = []
        for path, genes in enumerate(paths):
            x, y = one.data.train_batch(one.seed, step * count + path, settings.batch_size)
            work = copy.deepcopy(net)
            work.new_step(one.seed, step, path)
            loss = F.cross_entropy(work(x, genes), y, label_smoothing=settings.label_smoothing)
            loss.backward()
            losses.append(loss.item())
            used = {id(p) for module in work.used_modules(genes) for p in module.parameters()}
            for name, parameter in work.named_parameters():
                if id(parameter) in used:
                    share = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                    gradients[name] = gradients.get(name, torch.zeros_like(share)) + share / count
            for (name, after), before in zip(work.named_buffers(), net.buffers(), strict=True):
                if not torch.equal(after, before):
                    moves.setdefault(name, []).append(after - before)
        if settings.clip_norm is not None:
            norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))
            assert norm > settings.clip_norm
            gradients = {name: g * settings.clip_norm / norm for name, g in gradients.items()}
        share = step / settings.steps
        rate = 0.1 * (1 - share if settings.schedule == "linear" else (1 + math.cos(math.pi * share)) / 2)
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if name in gradients:
                    decay = settings.weight_decay if parameter.ndim > 1 else 0.0
                    g = gradients[name] + decay * parameter
                    momenta[name] = settings.momentum * momenta[name] + g if name in momenta else g
                    move = g + settings.momentum * momenta[name] if settings.nesterov else momenta[name]
                    parameter -= rate * move
            for name, buffer in net.named_buffers():
                if name in moves:
                    buffer += torch.stack(moves[name]).mean(0)
        report = one.train(1)
        assert report["train_loss"] == pytest.approx(sum(losses) / count, abs=1e-5)
        assert report["lr"] == pytest.approx(rate)
        found = one.supernet.state_dict()
        for name, value in net.state_dict().items():
            torch.testing.assert_close(found[name], value, atol=2e-5, rtol=1e-4)


@over_spaces
def test_s5_what_no_path_used_is_bit_identical(space: ChoiceSpace) -> None:
    one = trainer(space, paths_per_step=2, lr=0.1, weight_decay=0.01)
    one.train(8)
    idle_with_momentum = 0
    for _ in range(4):
        layouts = [one.layout(genes) for genes in one.paths(one.step)]
        used = {id(tensor) for layout in layouts for tensor in layout.tensors}
        before, _ = kept(one.state())
        named = dict(one.supernet.state_dict(keep_vars=True))
        one.train(1)
        after, _ = one.state()
        for name, tensor in named.items():
            moved = not torch.equal(after[f"supernet.{name}"], before[f"supernet.{name}"])
            if id(tensor) not in used:
                momentum = f"momentum.{name}"
                assert not moved, name
                if momentum in before:
                    idle_with_momentum += bool(before[momentum].any())
                    assert torch.equal(after[momentum], before[momentum])
            elif tensor.ndim > 1 or name.endswith("running_mean"):
                assert moved or not tensor.any(), name
    assert idle_with_momentum > 3, "momentum must have been there to move them"


@over_spaces
def test_a_contribution_leaves_everything_as_it_was(space: ChoiceSpace) -> None:
    one = trainer(space)
    one.train(2)
    before, digest = kept(one.state())[0], one.digest()
    rng = torch.random.get_rng_state()
    contributions = [one.contribution(path) for path in range(4)]
    assert one.digest() == digest and same(one.state()[0], before)
    assert [buffer.numel() for buffer in contributions] == [
        one.layout(genes).size for genes in one.paths(one.step)
    ]
    again = [one.contribution(path) for path in (3, 1, 0, 2)]
    assert all(torch.equal(contributions[path], again[i]) for i, path in enumerate((3, 1, 0, 2)))
    one.train(1)
    assert torch.equal(torch.random.get_rng_state(), rng)


def test_every_path_has_a_mini_batch_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    one = trainer()
    asked = []
    batch = one.data.train_batch

    def noted(seed: int, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        asked.append((seed, step, batch_size))
        return batch(seed, step, batch_size)

    monkeypatch.setattr(one.data, "train_batch", noted)
    one.train(3)
    assert asked == [(5, step, 8) for step in range(12)]


def test_clip_norm_bounds_the_step() -> None:
    one = trainer(clip_norm=0.01, lr=0.5, momentum=0.0, weight_decay=0.0)
    before = [parameter.detach().clone() for parameter in one.supernet.parameters()]
    one.train(1)
    after = one.supernet.parameters()
    pairs = zip(after, before, strict=True)
    moved = math.sqrt(sum(float((a.detach() - b).double().square().sum()) for a, b in pairs))
    assert moved == pytest.approx(0.5 * 0.01, rel=1e-3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_names_the_step_and_changes_nothing(value: float) -> None:
    one = trainer()
    one.train(3)
    with torch.no_grad():
        one.supernet.head.classifier.weight.fill_(value)
    before, digest = kept(one.state()), one.digest()
    with pytest.raises(Diverged, match=r"step 3;.*supernet\.lr"):
        one.train(2)
    assert one.step == 3 and one.digest() == digest
    after = one.state()[0]
    assert all(torch.equal(after[n], t) or not t.isfinite().all() for n, t in before[0].items())


def test_rates() -> None:
    linear, cosine = trainer(schedule="linear", lr=0.4), trainer(schedule="cosine", lr=0.4)
    assert [linear.rate(step) for step in (0, 5, 10, 15)] == pytest.approx([0.4, 0.3, 0.2, 0.1])
    half = 0.2 * (1 + math.sqrt(0.5))
    assert [cosine.rate(step) for step in (0, 5, 10)] == pytest.approx([0.4, half, 0.2])
    floor = trainer(schedule="cosine", lr=0.4, final_lr=0.1)
    assert [floor.rate(step) for step in (0, 10, 20, 30)] == pytest.approx([0.4, 0.25, 0.1, 0.1])
    for rate in (linear_rate, cosine_rate):
        rates = [rate(step, 20, 0.4) for step in range(31)]
        assert rates[0] == 0.4 and rates == sorted(rates, reverse=True)
        assert rates[19] > 0 and rates[20:] == pytest.approx([0.0] * 11), "never below 0, never up again"


# Who computes a path -----------------------------------------------------------------------------


class Member:
    """One of several trainers in threads, which lay their buffers on one board."""

    def __init__(self, rank: int, board: dict[int, Tensor], barrier: threading.Barrier) -> None:
        self.rank, self.size, self.board, self.barrier = rank, barrier.parties, board, barrier

    def gather(self, own: Sequence[Tensor], sizes: Sequence[int], owners: Sequence[int]) -> list[Tensor]:
        mine = [path for path, owner in enumerate(owners) if owner == self.rank]
        for path, buffer in zip(mine, own, strict=True):
            assert buffer.numel() == sizes[path]
            self.board[path] = buffer.clone()
        self.barrier.wait(60)
        found = [self.board[path].clone() for path in range(len(owners))]
        self.barrier.wait(60)
        return found


@over_spaces
@pytest.mark.parametrize("members", [2, 4])
def test_digests_do_not_depend_on_the_number_of_members(space: ChoiceSpace, members: int) -> None:
    given: dict[str, Any] = {"paths_per_step": 5, "clip_norm": 1.0}
    alone = trainer(space, **given)
    report = alone.train(3)
    barrier, board = threading.Barrier(members), dict[int, Tensor]()

    def follow(rank: int) -> tuple[str, dict[str, float], dict[str, Tensor]]:
        torch.set_num_threads(1)
        one, group = trainer(space, **given), Member(rank, board, barrier)
        try:
            found = one.train(3, group)
        except BaseException:
            barrier.abort()
            raise
        return one.digest(), found, one.state()[0]

    with ThreadPoolExecutor(members) as pool:
        results = list(pool.map(follow, range(members)))
    for digest, found, state in results:
        assert digest == alone.digest() and found == report and same(state, alone.state()[0])


class Announced(TensorData):
    """Images whose batches are only given to who announced them; counts the announcements."""

    def to(self, device: object) -> "Announced":
        self.coming: set[int] = set()
        self.announced = Counter[int]()
        return self

    def read_ahead(self, seed: int, steps: Sequence[int], batch_size: int) -> None:
        self.announced.update(set(steps) - self.coming)
        self.coming = set(steps)

    def train_batch(self, seed: int, step: int, batch_size: int) -> Batch:
        self.coming.remove(step)
        return super().train_batch(seed, step, batch_size)


def test_work_counts_what_each_operation_writes() -> None:
    """An edge of a cell: nothing, a sum, or a sum beside a convolution with its multiply-adds."""
    work, zero = PathWork(CELLS), (0,) * 6
    outputs = CELLS.cost((3, *zero[1:])).activations - CELLS.cost(zero).activations
    macs = CELLS.cost((3, *zero[1:])).macs - CELLS.cost(zero).macs
    more = [work((option, *zero[1:])) - work(zero) for option in range(5)]
    assert more[0] == 0 and more[1] == more[4] == outputs
    assert more[3] == 2 * outputs + macs // 200 > more[2] > more[1]


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_members_announce_their_own_batches_alone(rank: int) -> None:
    """What is read ahead is used, whoever has which path: nothing is decoded twice or in vain."""
    data = made(kind=Announced)
    one = trainer(data=data, steps=6, paths_per_step=7)
    for step in range(6):
        paths = one.paths(step)
        owners = shares([PathWork(CELLS)(genes) for genes in paths], 3)
        one._read_ahead([path for path, owner in enumerate(owners) if owner == rank], Seat(rank, 3))
        for path, owner in enumerate(owners):
            if owner == rank:
                one.contribution(path)
        one.step += 1
    assert not data.coming and set(data.announced.values()) == {1}


class Seat(NamedTuple):
    rank: int
    size: int

    def gather(self, own: Sequence[Tensor], sizes: Sequence[int], owners: Sequence[int]) -> list[Tensor]:
        raise AssertionError("nobody else is there")


def test_members_share_the_work() -> None:
    works = [5, 90, 10, 40, 40, 15]
    assert shares(works, 1) == [0] * 6
    for members in (2, 3, 4):
        owners = shares(works, members)
        loads = [sum(w for w, o in zip(works, owners, strict=True) if o == m) for m in range(members)]
        assert set(owners) == set(range(members))
        assert max(loads) <= max(90, sum(works) / members + 40)
    assert max(Counter(shares([1] * 8, 4)).values()) == 2


def test_alone_is_a_group() -> None:
    group: Group = Alone()
    buffers = [torch.ones(2), torch.zeros(3)]
    assert (group.rank, group.size) == (0, 1)
    assert all(map(torch.equal, group.gather(buffers, [2, 3], [0, 0]), buffers))


# Going on ----------------------------------------------------------------------------------------


@over_spaces
def test_training_goes_on_from_any_step(space: ChoiceSpace) -> None:
    whole = trainer(space)
    states = []
    for _ in range(4):
        states.append(kept(whole.state()))
        whole.train(1)
    for step, (tensors, values) in enumerate(states):
        again = trainer(space)
        again.train(1)  # what was there before must not matter
        again.load_state(tensors, values)
        assert again.step == step and same(again.state()[0], tensors)
        again.train(4 - step)
        assert again.digest() == whole.digest()
        assert same(again.state()[0], whole.state()[0])


def test_states_of_other_supernets_are_refused() -> None:
    tensors, values = trainer(CELLS).state()
    wider = NasBench201Space(NasBench201Settings(channels=6, cells=1), IMAGE, CLASSES)
    for space in (CHAIN, SHUFFLE, wider):
        with pytest.raises((KeyError, RuntimeError)):
            trainer(space).load_state(tensors, values)


def test_digests_see_weights_statistics_and_the_step() -> None:
    one = trainer()
    digests = [one.digest()]
    assert trainer().digest() == digests[0]
    with torch.no_grad():
        next(one.supernet.stem.parameters())[0, 0, 0, 0] += 1e-3
        digests.append(one.digest())
        norm = next(module for module in one.supernet.modules() if isinstance(module, nn.BatchNorm2d))
        assert norm.running_var is not None
        norm.running_var[0] += 1e-3
        digests.append(one.digest())
    one.step += 1
    digests += [one.digest(), trainer(seed=6).digest(), trainer(CHAIN).digest()]
    assert len(set(digests)) == len(digests)


def test_forgotten_layouts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    one = trainer()
    one.train(3)
    monkeypatch.setattr(one_shot, "LAYOUTS_KEPT", 2)
    two = trainer()
    two.train(3)
    assert two.digest() == one.digest() and len(two._layouts) <= 2 < len(one._layouts)


def test_initial_weights_are_those_before_training() -> None:
    one = trainer()
    before = {name: value.detach().clone() for name, value in one.supernet.named_parameters()}
    one.train(2)
    assert same(one.initial, before)
    assert not same(one.initial, dict(one.supernet.named_parameters()))


def test_augmented_batches_are_a_function_of_the_step_too() -> None:
    data = made(augment=Augment(crop=1, flip=True, cutout=2))
    one, two = trainer(data=data), trainer(data=data)
    one.train(2)
    two.train(1)
    two.train(1)
    assert one.digest() == two.digest() != trainer(data=data).digest()


# Labels ------------------------------------------------------------------------------------------


def labels_of(one: OneShotTrainer, epoch: int, seed: int = 0) -> dict[bytes, int]:
    """Each training image's label, as one epoch brings them."""
    steps = one.data.steps_per_epoch(50)
    found = {}
    for step in range(epoch * steps, (epoch + 1) * steps):
        for x, y in zip(*one.data.train_batch(seed, step, 50), strict=True):
            found[x.numpy().tobytes()] = int(y)
    return found


def test_labels_may_be_written_as_yaml_reads_them() -> None:
    """`labels: true` is a boolean there."""
    assert OneShotSettings.model_validate({"labels": True}) == OneShotSettings(labels="true")
    for other in (False, 1, "yes"):
        with pytest.raises(ValidationError):
            OneShotSettings.model_validate({"labels": other})


def test_r1_random_labels() -> None:
    data = made(train=2000)
    true = labels_of(trainer(data=data), 0)
    one = trainer(data=data, labels="random")
    drawn = labels_of(one, 0)
    assert len(drawn) == 2000 and drawn.keys() == true.keys()
    assert stats.chisquare([list(drawn.values()).count(label) for label in range(CLASSES)]).pvalue > 1e-3
    table = [[0] * CLASSES for _ in range(CLASSES)]
    for image, label in drawn.items():
        table[true[image]][label] += 1
    assert stats.chi2_contingency(table).pvalue > 1e-3
    assert labels_of(one, 1) == labels_of(one, 7, seed=3) == drawn  # drawn once, not each epoch
    assert labels_of(trainer(data=data, labels="random", lr=0.5), 0) == drawn
    other = labels_of(trainer(data=data, labels="random", seed=6), 0)
    agreeing = sum(other[image] == label for image, label in drawn.items())
    assert stats.binomtest(agreeing, 2000, 1 / CLASSES).pvalue > 1e-3
    assert labels_of(trainer(data=data), 0) == true, "the data that was given must stay as it was"


def test_r1_other_splits_keep_their_labels() -> None:
    splits: tuple[Split, ...] = ("validation", "train")
    random_, true = trainer(labels="random").data, trainer().data
    for split in splits:
        pairs = zip(random_.batches(split, 16), true.batches(split, 16), strict=True)
        equal = [(torch.equal(x, u), torch.equal(y, v)) for (x, y), (u, v) in pairs]
        assert all(x for x, _ in equal)
        assert all(y for _, y in equal) == (split == "validation")
    assert random_.digest != true.digest
    assert random_.digest != trainer(labels="random", seed=6).data.digest


# Refusals ----------------------------------------------------------------------------------------


class Plain:
    """Data whose labels cannot be replaced."""

    def __init__(self) -> None:
        self.image, self.classes, self.sizes, self.digest = DATA.image, DATA.classes, DATA.sizes, DATA.digest

    def to(self, device: object) -> "Plain":
        return self

    steps_per_epoch, train_batch, batches = DATA.steps_per_epoch, DATA.train_batch, DATA.batches


def test_refusals() -> None:
    with pytest.raises(UserError) as caught:
        trainer(precision="mixed")
    assert caught.value.field == "supernet.precision" and "cpu" in str(caught.value)
    with pytest.raises(UserError) as caught:
        trainer(batch_size=65)
    assert caught.value.field.endswith("batch_size") and "64" in caught.value.allowed
    plain: Any = Plain()
    with pytest.raises(UserError) as caught:
        trainer(data=plain, labels="random")
    assert caught.value.field == "supernet.labels"
    trainer(data=plain).train(1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"nesterov": True, "momentum": 0.0}, "nesterov"),
        ({"lr": 0.1, "final_lr": 0.2}, "final_lr"),
        ({"mac_bins": {"low": 5, "high": 5}}, "less than high"),
        ({"paths_per_step": 0}, "paths_per_step"),
        ({"batch_size": 1}, "batch_size"),
        ({"labels": "noisy"}, "labels"),
        ({"clip_norm": 0}, "clip_norm"),
        ({"epochs": 3}, "epochs"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_used_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        OneShotSettings.model_validate(given)
