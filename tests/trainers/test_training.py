"""Training: the schedule and the step by their formulas, exact resume at any step, and that it learns."""

import copy
import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from networks.cells import CellSettings, cell_architecture
from networks.errors import UserError
from networks.generators import WattsStrogatz
from networks.genotypes import published
from networks.network import Network, build_network
from networks.randwire import RandWireTemplate
from trainers.data import Augment, Data, DataSettings, open_data
from trainers.schedule import cosine_rate
from trainers.training import Diverged, Trainer, TrainingSettings, parameter_groups

BATCH = 32


@pytest.fixture(scope="module")
def data() -> Data:
    """240 images to train on: 7 steps of 32 an epoch, augmented."""
    return open_data(DataSettings(limit=300, augment=Augment(crop=1, cutout=2)))


def network_for(data: Data, seed: int = 0, nodes: int = 5, channels: int = 4, **changes: Any) -> Network:
    template = RandWireTemplate(
        regime="cifar", nodes=nodes, channels=channels, head_channels=16, image=data.image,
        classes=len(data.classes), **changes,
    )  # fmt: skip
    return build_network(template.architecture(WattsStrogatz(k=4, p=0.75), 1), seed)


def trainer_for(data: Data, seed: int = 0, regular: bool = False, **changes: Any) -> Trainer:
    """`regular`: with the edge-drop and dropout of the regular regime, at rates that show."""
    drops = {"edge_drop": 0.6, "dropout": 0.3} if regular else {}
    settings = TrainingSettings(**{"epochs": 3, "batch_size": BATCH, **changes})
    return Trainer(network_for(data, **drops), data, settings, seed)


def through_a_file(trainer: Trainer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, values = trainer.state()
    return load(save({name: tensor.contiguous() for name, tensor in tensors.items()})), values


def everything(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.state()[0].items()}


def assert_bit_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not one[name].equal(other[name])]
    assert not different


# Schedule -------------------------------------------------------------------------------------------


def test_the_rate_is_half_a_cosine_from_base_to_0() -> None:
    assert cosine_rate(0, 100, 0.1) == 0.1
    assert cosine_rate(50, 100, 0.1) == pytest.approx(0.05)
    assert cosine_rate(25, 100, 0.1) == pytest.approx(0.1 * (1 + math.sqrt(0.5)) / 2)
    assert cosine_rate(99, 100, 0.1) == pytest.approx(0.1 * math.sin(math.pi / 200) ** 2)
    assert cosine_rate(100, 100, 0.1) == pytest.approx(0, abs=1e-12)


def test_the_rate_warms_up_in_a_line_and_then_falls_from_base() -> None:
    rates = [cosine_rate(step, 20, 0.4, warmup=4) for step in range(20)]
    assert rates[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert rates[4] == 0.4
    assert rates[12] == pytest.approx(0.2)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[4:]))


def test_every_step_is_taken_at_its_own_rate(data: Data) -> None:
    trainer = trainer_for(data, warmup_epochs=1)
    assert trainer.steps_per_epoch == 7
    for step in range(3):
        reported = trainer.train_steps(1)["lr"]
        assert reported == pytest.approx(0.1 * (step + 1) / 7)
        assert {group["lr"] for group in trainer.optimizer.param_groups} == {reported}


# One step -------------------------------------------------------------------------------------------


def scatter(network: nn.Module) -> None:
    """Every parameter away from 0 and 1, so that decay would move it."""
    draws = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(2 + torch.rand(parameter.shape, generator=draws))


def test_decay_reaches_the_weights_of_convolutions_and_linear_layers_alone(data: Data) -> None:
    network = network_for(data)
    scatter(network)
    decays = {
        f"{name}.weight"
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    assert any(name.endswith("edge_values") and value.numel() for name, value in before.items())
    optimizer = torch.optim.SGD(parameter_groups(network, 0.5), lr=0.1, momentum=0.9)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in network.named_parameters():
        if name in decays:
            torch.testing.assert_close(parameter.detach(), before[name] * (1 - 0.1 * 0.5))
        else:
            assert parameter.detach().equal(before[name]), name


@pytest.mark.parametrize("nesterov", [False, True], ids=["heavy ball", "nesterov"])
def test_steps_are_smoothed_cross_entropy_and_sgd_by_the_formula(data: Data, nesterov: bool) -> None:
    smoothing, decay, momentum = 0.2, 0.01, 0.8
    trainer = trainer_for(
        data, label_smoothing=smoothing, weight_decay=decay, momentum=momentum, nesterov=nesterov, seed=4
    )
    network = copy.deepcopy(trainer.network).train()
    velocity = {name: torch.zeros_like(one) for name, one in network.named_parameters()}
    losses, hits = [], 0
    for step in range(3):
        x, y = data.train_batch(4, step, BATCH)
        logits = network(x.contiguous(memory_format=torch.channels_last))
        log_p = F.log_softmax(logits, 1)
        true = -log_p[torch.arange(BATCH), y]
        loss = ((1 - smoothing) * true - smoothing * log_p.mean(1)).mean()
        losses.append(loss.item())
        hits += int((logits.argmax(1) == y).sum())
        named = dict(network.named_parameters())
        gradients = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
        rate = 0.1 * 0.5 * (1 + math.cos(math.pi * step / 21))
        with torch.no_grad():
            for name, parameter in named.items():
                decays = parameter.ndim > 1
                g = gradients[name] + decay * parameter if decays else gradients[name]
                velocity[name] = v = momentum * velocity[name] + g
                parameter -= rate * (g + momentum * v if nesterov else v)
    found = trainer.train_steps(3)
    assert found["train_loss"] == pytest.approx(sum(losses) / 3, rel=1e-5)
    assert found["train_accuracy"] == hits / (3 * BATCH)
    for name, parameter in trainer.network.named_parameters():
        torch.testing.assert_close(
            parameter, dict(network.named_parameters())[name], rtol=1e-4, atol=1e-5, msg=name
        )


def change_of_one_step(data: Data, clip_norm: float | None) -> Tensor:
    trainer = trainer_for(data, clip_norm=clip_norm, momentum=0.0, weight_decay=0.0)
    before = [parameter.detach().clone() for parameter in trainer.network.parameters()]
    trainer.train_steps(1)
    after = trainer.network.parameters()
    return torch.cat([(b - a.detach()).flatten() for a, b in zip(after, before, strict=True)]) / 0.1


def test_clipping_shortens_the_gradient_and_keeps_its_direction(data: Data) -> None:
    whole = change_of_one_step(data, None)
    length = whole.norm().item()
    clipped = change_of_one_step(data, length / 5)
    assert clipped.norm().item() == pytest.approx(length / 5, rel=1e-3)
    assert F.cosine_similarity(whole, clipped, dim=0).item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(change_of_one_step(data, length * 5), whole, rtol=1e-4, atol=1e-6)


def test_both_memory_formats_train_alike(data: Data) -> None:
    states = {}
    for channels_last in (True, False):
        trainer = trainer_for(data, channels_last=channels_last)
        weight = next(m for m in trainer.network.modules() if isinstance(m, nn.Conv2d)).weight
        trainer.train_steps(2)
        assert weight.is_contiguous(
            memory_format=torch.channels_last if channels_last else torch.contiguous_format
        )
        states[channels_last] = everything(trainer)
    for name, tensor in states[True].items():
        torch.testing.assert_close(tensor, states[False][name], rtol=1e-3, atol=1e-4, msg=name)


# No numbers -----------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_ends_training_and_names_the_step(data: Data) -> None:
    trainer = trainer_for(data, lr=1e30)
    with pytest.raises(Diverged, match=r"training loss is not a number at or before step 7 \(epoch 1\.00\)"):
        trainer.train_epoch()


def test_weights_spoilt_by_the_last_step_are_found_in_evaluation(data: Data) -> None:
    trainer = trainer_for(data)
    trainer.train_steps(3)
    with torch.no_grad():
        next(trainer.network.parameters()).fill_(math.nan)
    with pytest.raises(Diverged, match="validation loss is not a number at or before step 3"):
        trainer.evaluate("validation")


def test_a_gradient_that_is_no_number_does_not_stay_hidden(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of that step is still one: the step is found by the next look at a loss."""
    trainer = trainer_for(data, clip_norm=1.0)
    next(trainer.network.parameters()).register_hook(lambda gradient: gradient * math.inf)
    assert math.isfinite(trainer.train_steps(1)["train_loss"])
    with pytest.raises(Diverged):
        trainer.evaluate("test")


# Resume ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "channels_last"), [(0, True), (1, True), (5, True), (7, True), (9, True), (5, False)]
)
def test_a_resumed_training_is_bit_equal_to_an_undisturbed_one(
    data: Data, stop: int, channels_last: bool
) -> None:
    """An epoch has 7 steps: within it, at its end and beyond; with edge-drop and dropout on."""
    changes = {"regular": True, "seed": 3, "clip_norm": 5.0, "warmup_epochs": 0.5}
    undisturbed = trainer_for(data, channels_last=channels_last, **changes)
    undisturbed.train_steps(10)
    first = trainer_for(data, channels_last=channels_last, **changes)
    first.train_steps(stop)
    second = trainer_for(data, channels_last=channels_last, **changes)
    second.train_steps(2)  # of which nothing may be left
    second.load_state(*through_a_file(first))
    assert second.step == stop
    second.train_steps(10 - stop)
    assert_bit_equal(everything(second), everything(undisturbed))
    assert any("momentum." in name for name in everything(second))
    assert any("running_var" in name for name in everything(second))
    assert second.evaluate("validation") == undisturbed.evaluate("validation")


def test_an_epoch_begun_is_trained_to_its_end(data: Data) -> None:
    trainer = trainer_for(data)
    trainer.train_steps(3)
    trainer.train_epoch()
    assert (trainer.step, trainer.epoch) == (7, 1)
    trainer.train_epoch()
    assert (trainer.step, trainer.epoch) == (14, 2)


def test_saving_changes_nothing_and_the_state_is_of_its_moment(data: Data) -> None:
    saving, plain = trainer_for(data), trainer_for(data)
    for _ in range(4):
        saving.train_steps(1)
        through_a_file(saving)
    plain.train_steps(4)
    assert_bit_equal(everything(saving), everything(plain))


def test_the_state_of_another_network_is_refused(data: Data) -> None:
    wide = Trainer(network_for(data, channels=6), data, TrainingSettings(batch_size=BATCH), 0)
    with pytest.raises(RuntimeError):
        trainer_for(data).load_state(*wide.state())


def mixed_trainer(data: Data, half: torch.dtype, scale: float = 2.0**10) -> Trainer:
    """What a GPU runs, forced on the CPU. float16 scales its loss, bfloat16 does not."""
    trainer = trainer_for(data, regular=True, clip_norm=5.0)
    trainer._mixed, trainer._half = True, half
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=half == torch.float16)
    return trainer


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_mixed_precision_is_resumed_bit_for_bit(data: Data, half: torch.dtype) -> None:
    undisturbed, first = mixed_trainer(data, half), mixed_trainer(data, half)
    second = mixed_trainer(data, half, scale=2.0**30)
    start = everything(undisturbed)
    undisturbed.train_steps(6)
    first.train_steps(3)
    second.load_state(*through_a_file(first))
    second.train_steps(3)
    assert second.scaler.state_dict() == undisturbed.scaler.state_dict()
    assert_bit_equal(everything(second), everything(undisturbed))
    assert {parameter.dtype for parameter in undisturbed.network.parameters()} == {torch.float32}
    exact = trainer_for(data, regular=True, clip_norm=5.0)
    exact.train_steps(6)
    weight = "network.head.classifier.weight"
    moved = (everything(exact)[weight] - start[weight]).norm()
    assert 0 < (everything(undisturbed)[weight] - everything(exact)[weight]).norm() < 0.3 * moved


def test_a_step_whose_scaled_gradients_overflow_is_left_out(data: Data) -> None:
    trainer = mixed_trainer(data, torch.float16, scale=2.0**30)
    before = [parameter.detach().clone() for parameter in trainer.network.parameters()]
    trainer.train_steps(1)
    assert trainer.scaler.get_scale() == 2.0**29
    assert all(one.equal(other) for one, other in zip(trainer.network.parameters(), before, strict=True))


# Randomness and evaluation --------------------------------------------------------------------------


def test_no_global_random_state_is_read_or_changed(data: Data) -> None:
    states = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        random.seed(global_seed)
        before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
        trainer = trainer_for(data, regular=True)
        trainer.train_steps(3)
        trainer.evaluate("validation")
        assert torch.get_rng_state().equal(before[0])
        assert (np.random.get_state()[1] == before[1]).all()
        assert random.getstate() == before[2]
        states.append(everything(trainer))
    assert_bit_equal(*states)


def test_every_step_drops_edges_of_its_own(data: Data) -> None:
    trainer, drawn = trainer_for(data, regular=True, seed=6), trainer_for(data, regular=True).network
    seen = set()
    for step in range(12):
        trainer.train_steps(1)
        drawn.new_step(6, step)
        dropped = [stage.dropped for stage in trainer.network.graph_stages]
        assert dropped == [stage.dropped for stage in drawn.graph_stages]
        seen.add(tuple(dropped))
    assert len(seen) > 6


def test_the_trainers_seed_decides_the_order_of_images(data: Data) -> None:
    one, other = trainer_for(data, seed=1), trainer_for(data, seed=2)
    assert one.train_steps(1)["train_loss"] != other.train_steps(1)["train_loss"]


def test_evaluation_leaves_everything_as_it_was(data: Data) -> None:
    plain, looking = trainer_for(data, regular=True), trainer_for(data, regular=True)
    plain.train_steps(6)
    for _ in range(6):
        looking.train_steps(1)
        before = everything(looking)
        first = looking.evaluate("validation")
        assert looking.evaluate("validation") == first
        assert_bit_equal(everything(looking), before)
    assert_bit_equal(everything(looking), everything(plain))


def test_edge_drop_and_dropout_are_of_training_alone(data: Data) -> None:
    """What the last step dropped is back in evaluation; a network without both gives the same."""
    dropping = Trainer(
        network_for(data, edge_drop=1.0, dropout=0.5), data, TrainingSettings(batch_size=BATCH), 0
    )
    dropping.train_steps(1)
    plain = Trainer(network_for(data), data, TrainingSettings(batch_size=BATCH), 0)
    plain.load_state(*dropping.state())
    assert dropping.evaluate("validation") == plain.evaluate("validation")


def test_evaluation_does_not_depend_on_the_batch_size() -> None:
    halved = open_data(DataSettings(limit=1000, validation=0.7))
    found = []
    for batch_size in (32, 290):
        trainer = Trainer(network_for(halved), halved, TrainingSettings(batch_size=32), 0)
        trainer.train_steps(2)
        trainer.settings = trainer.settings.model_copy(update={"batch_size": batch_size})
        found.append(trainer.evaluate("validation"))
    ((x, y),) = halved.batches("validation", 700)
    with torch.no_grad():
        logits = trainer.network.eval()(x)
    assert found[0]["validation_loss"] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)
    assert found[0]["validation_loss"] == pytest.approx(found[1]["validation_loss"], rel=1e-5)
    hits = int((logits.argmax(1) == y).sum())
    assert found[0]["validation_accuracy"] == found[1]["validation_accuracy"] == hits / 700


def test_digits_are_learnt() -> None:
    digits = open_data(DataSettings())
    settings = TrainingSettings(epochs=5, batch_size=64, warmup_epochs=0.5)
    trainer = Trainer(network_for(digits, nodes=6, channels=8), digits, settings, 0)
    before = trainer.evaluate("validation")["validation_accuracy"]
    losses = [trainer.train_epoch()["train_loss"] for _ in range(5)]
    assert before < 0.3
    assert losses[-1] < losses[0] / 1.5
    assert trainer.evaluate("validation")["validation_accuracy"] > 0.9
    assert trainer.evaluate("test")["test_accuracy"] > 0.9


# Settings -------------------------------------------------------------------------------------------


def test_mixed_precision_is_refused_without_a_gpu(data: Data) -> None:
    with pytest.raises(UserError, match=r"training\.precision: 'mixed'.*auto or float32 on cpu"):
        trainer_for(data, precision="mixed")
    found = [everything(trainer_for(data, precision=name)) for name in ("auto", "float32")]
    assert_bit_equal(*found)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"epochs": 2, "warmup_epochs": 2}, "warmup_epochs"),
        ({"momentum": 0, "nesterov": True}, "nesterov"),
        ({"lr": 0}, "lr"),
        ({"label_smoothing": 1}, "label_smoothing"),
        ({"clip_norm": 0}, "clip_norm"),
        ({"batch_size": 1}, "batch_size"),
        ({"optimizer": "adam"}, "optimizer"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        TrainingSettings(**settings)


def cell_trainer(data: Data, name: str = "DARTS_V2", **changes: Any) -> Trainer:
    genotype, settings = published(name), CellSettings(channels=4, cells=3, regime="cifar")
    made = cell_architecture(
        settings, data.image, len(data.classes), genotype.normal.graph, genotype.reduction.graph
    )
    settings_of = TrainingSettings(**{"epochs": 3, "batch_size": BATCH, **changes})
    return Trainer(build_network(made, 1), data, settings_of, seed=1)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Images of 32 x 32, as an auxiliary head needs them: 4 steps of 32 an epoch."""
    path, draws = tmp_path_factory.mktemp("large") / "images.npz", np.random.default_rng(0)
    images = {
        f"{part}_{split}": draws.integers(0, 256, (number, 32, 32, 3), np.uint8)
        if part == "x"
        else np.arange(number) % 10
        for split, number in (("train", 128), ("test", 32))
        for part in "xy"
    }
    np.savez(path, **images)
    return open_data(DataSettings(name="npz", path=path))


def test_the_auxiliary_loss_is_added(large: Data) -> None:
    """At step 0: cross entropy of the logits plus 0.4 of that of the head's, on the second reduction."""
    trainer, plain = cell_trainer(large, auxiliary=0.4), cell_trainer(large)
    assert trainer.auxiliary is not None
    x, y = large.train_batch(1, 0, BATCH)
    x = x.contiguous(memory_format=torch.channels_last)
    twin = copy.deepcopy(trainer)
    assert twin.auxiliary is not None
    logits, tapped = twin.network.with_output_of(2, x)
    expected = [
        F.cross_entropy(one, y, label_smoothing=0.1).item() for one in (logits, twin.auxiliary(tapped))
    ]
    assert trainer.train_steps(1)["train_loss"] == pytest.approx(expected[0] + 0.4 * expected[1], rel=1e-6)
    assert plain.train_steps(1)["train_loss"] == pytest.approx(expected[0], rel=1e-6)
    names = {name.split(".")[0] for name in trainer.state()[0]}
    assert names == {"network", "auxiliary", "momentum"}
    assert not any("auxiliary" in name for name in trainer.network.state_dict())


@pytest.mark.parametrize("after", [1, 5])
def test_resumes_with_auxiliary_and_drop_path(large: Data, after: int) -> None:
    """Bit for bit, also inside an epoch, with both drawn or learnt beside the network."""
    changes = {"auxiliary": 0.4, "drop_path": 0.5, "clip_norm": 5.0}
    whole, first, second = (cell_trainer(large, **changes) for _ in range(3))
    whole.train_steps(9)
    first.train_steps(after)
    second.load_state(*through_a_file(first))
    second.train_steps(9 - after)
    assert_bit_equal(everything(whole), everything(second))


def test_drop_path_grows_by_the_epoch(large: Data) -> None:
    trainer, found = cell_trainer(large, drop_path=0.6), []
    for _ in range(3):
        trainer.train_steps(trainer.steps_per_epoch)
        found.append(trainer.network.graph_stages[0].path_drop)
    assert found == pytest.approx([0.0, 0.2, 0.4])


@pytest.mark.parametrize("changes", [{"auxiliary": 0.4}, {"drop_path": 0.2}])
def test_what_needs_cells_is_refused_for_other_networks(data: Data, changes: dict[str, float]) -> None:
    (field,) = changes
    with pytest.raises(UserError, match=f"training.{field}"):
        trainer_for(data, **changes)
