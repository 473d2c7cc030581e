"""A trial: what goes wrong inside it is a report, what it leaves is enough to go on, and nothing clings."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cluster import trial as trial_module
from cluster.checkpoints import CheckpointStore
from cluster.preparation import Search
from cluster.recipe import Recipe
from cluster.trial import Report, TrainingTrial, TrialConfig, candidate_folder, reason_of
from networks.errors import CannotGoOn, UserError
from tests.cluster.rows import candidate
from tests.cluster.searches import small_recipe
from trainers.training import Diverged, Trainer

QUICK = {"training": {"epochs": 3, "batch_size": 32}}


def configs(storage: Path, **changes: Any) -> list[TrialConfig]:
    recipe = small_recipe(storage, **{**QUICK, **changes})
    return Search.of(recipe).configs(storage / "small-001")


def ready(config: TrialConfig) -> TrainingTrial:
    trial = TrainingTrial()
    trial.setup(config)
    return trial


def content(report: Report) -> dict[str, Any]:
    """What a report says, but for when and where."""
    return report.model_dump(exclude={"seconds", "place", "time"})


def state(trial: TrainingTrial) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trial.trainer.state()[0].items()}


def assert_bit_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def test_a_step_is_an_epoch_scored_and_saved(tmp_path: Path) -> None:
    config = configs(tmp_path)[0]
    trial = ready(config)
    for epoch in range(1, 4):
        report = trial.step()
        assert (report.ask_index, report.epoch, report.status) == (0, epoch, "running")
        assert [point["epoch"] for point in report.curve] == list(range(1, epoch + 1))
        assert {"train_loss", "train_accuracy", "lr", "validation_loss", "validation_accuracy"} <= set(
            report.metrics
        )
        assert ("test_accuracy" in report.metrics) == (epoch == 3)
        assert config.checkpoints.epochs()[-1] == epoch
        assert Report.model_validate_json(report.model_dump_json()) == report
    assert content(trial.step()) == content(report)  # it is finished
    assert trial.trainer.epoch == 3
    assert torch.get_num_threads() == 1


def test_a_set_without_test_images_is_searched_without_test_metrics(tmp_path: Path) -> None:
    data = {"name": "digits", "limit": 300, "test": 0}
    trial = ready(configs(tmp_path, data=data, training={"epochs": 1, "batch_size": 32})[0])
    report = trial.step()
    assert report.status == "running" and "validation_accuracy" in report.metrics
    assert "test_accuracy" not in report.metrics


# Death and repetition -------------------------------------------------------------------------------


def test_a_new_process_repeats_the_last_report_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    undisturbed = ready(configs(tmp_path / "a")[1])
    expected = [content(undisturbed.step()) for _ in range(3)]
    config = configs(tmp_path / "b")[1]
    first = ready(config)
    assert content(first.step()) == expected[0]
    for epoch in (1, 2, 3):
        again = ready(config)
        assert content(again.step()) == expected[epoch - 1]
        assert again.trainer.epoch == epoch
        if epoch < 3:
            assert content(again.step()) == expected[epoch]
    assert_bit_equal(state(again), state(undisturbed))


def test_a_death_before_the_checkpoint_costs_one_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configs(tmp_path)[0]
    trial = ready(config)
    trial.step()

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("cluster.checkpoints.write_atomically", die)
        with pytest.raises(Killed):
            trial.step()
    undisturbed = ready(configs(tmp_path / "other")[0])
    reports = [content(undisturbed.step()) for _ in range(2)]
    again = ready(config)
    assert [content(again.step()) for _ in range(2)] == reports


def test_seconds_are_of_all_processes_together(tmp_path: Path) -> None:
    config = configs(tmp_path)[0]
    first = ready(config).step()
    again = ready(config)
    assert again.step().seconds == first.seconds > 0
    assert again.step().seconds > first.seconds


# Failures -------------------------------------------------------------------------------------------


def failing(error: BaseException):
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def assert_failed(trial: TrainingTrial, epoch: int, *words: str) -> None:
    for _ in range(2):  # it stays so
        report = trial.step()
        assert (report.status, report.epoch, len(report.curve)) == ("failed", epoch, epoch)
        for word in words:
            assert word in report.reason
        assert "\n" not in report.reason


@pytest.mark.parametrize(
    ("place", "error", "words"),
    [
        ("open_data", UserError("path", "x.npz", "a file", "It is gone."), ["path: 'x.npz'", "It is gone."]),
        ("build_network", torch.OutOfMemoryError("CUDA out of memory."), ["out of memory", "batch_size"]),
        ("Trainer", KeyError("surprise"), ["KeyError", "surprise"]),
    ],
)
def test_a_set_up_that_fails_is_a_failed_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception, words: list[str]
) -> None:
    config = configs(tmp_path)[2]
    monkeypatch.setattr(trial_module, place, failing(error))
    trial = TrainingTrial()
    trial.setup(config)
    assert trial.step().ask_index == 2
    assert_failed(trial, 0, *words)
    with pytest.raises(type(error)):
        _ = trial.trainer
    monkeypatch.undo()
    trial.reset(config)
    assert trial.step().status == "running"


def test_a_gpu_that_is_not_there_is_a_failed_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert_failed(ready(configs(tmp_path, resources={"gpus": 1})[0]), 0, "resources.gpus", "sees no GPU")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n 20.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you "
            "tried to allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"
        ),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_out_of_memory_ends_the_candidate_with_a_proposal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    config = configs(tmp_path)[0]
    trial = ready(config)
    trial.step()
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", failing(error))
        trial.step()
    assert_failed(trial, 1, "out of memory", "smaller training.batch_size", "space.channels", "space.nodes")
    assert config.checkpoints.epochs() == [1]


def test_the_real_text_of_the_cpus_allocator_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert reason_of(caught.value).startswith("out of memory (")


def test_other_errors_are_named_by_their_kind() -> None:
    assert reason_of(RuntimeError("a\n  b")) == "RuntimeError: a b"
    assert reason_of(RuntimeError()) == "RuntimeError: RuntimeError"
    assert reason_of(Diverged("no number at step 3")) == "no number at step 3"


@pytest.mark.parametrize("when", ["training", "evaluation"])
def test_no_numbers_end_the_candidate_at_its_last_good_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A report never holds what JSON cannot: no NaN gets into a curve, from training or from scoring."""
    config = configs(tmp_path)[0]
    trial = ready(config)
    trial.step()
    weight = trial.trainer.network.head.classifier.weight
    if when == "training":
        with torch.no_grad():
            weight[0, 0] = torch.inf
    else:
        real = trial.trainer.train_epoch

        def spoil() -> dict[str, float]:
            metrics = real()
            with torch.no_grad():
                weight[0, 0] = torch.nan
            return metrics

        monkeypatch.setattr(trial.trainer, "train_epoch", spoil)
    report = trial.step()
    assert Report.model_validate_json(report.model_dump_json()) == report
    assert_failed(trial, 1, "not a number", "step")
    assert config.checkpoints.epochs() == [1]


def test_a_failed_candidates_memory_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gc
    import weakref

    trial = ready(configs(tmp_path)[0])
    gone = weakref.ref(trial.trainer.network)

    def run_out(trainer: Trainer) -> None:
        held = trainer.network  # as a frame of the traceback would hold activations
        raise torch.OutOfMemoryError(f"for {len(list(held.parameters()))} parameters")

    monkeypatch.setattr(Trainer, "train_epoch", run_out)
    assert trial.step().status == "failed"
    gc.collect()
    assert gone() is None


def test_interruption_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = ready(configs(tmp_path)[0])
    monkeypatch.setattr(Trainer, "train_epoch", failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        trial.step()


def test_a_checkpoint_of_another_network_fails_the_candidate(tmp_path: Path) -> None:
    first, second = configs(tmp_path)[0], configs(tmp_path, space={**_space(), "channels": 6})[0]
    ready(first).step()
    folder = candidate_folder(second.folder, second.candidate)
    candidate_folder(first.folder, first.candidate).rename(folder)
    assert_failed(ready(second), 0, "RuntimeError")


def _space() -> dict[str, Any]:
    from tests.cluster.searches import SMALL

    space = SMALL["space"]
    assert isinstance(space, dict)
    return space


# One trial after another ----------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["trained", "failed", "broken set-up", "of other data", "finished"])
def test_a_reset_leaves_no_trace_of_the_candidate_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    fresh = ready(configs(tmp_path / "fresh")[3])
    expected = [content(fresh.step()) for _ in range(2)]
    one, other = configs(tmp_path / "reused")[0], configs(tmp_path / "reused")[3]
    used = TrainingTrial()
    if before == "of other data":
        one = configs(tmp_path / "elsewhere", data={"name": "digits", "limit": 200})[0]
    if before == "broken set-up":
        with monkeypatch.context() as patch:
            patch.setattr(trial_module, "build_network", failing(MemoryError()))
            used.setup(one)
    else:
        used.setup(one)
    if before == "failed":
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "train_epoch", failing(Diverged("no number")))
            used.step()
    for _ in range({"finished": 4, "trained": 2}.get(before, 1)):
        used.step()
    used.reset(other)
    assert used.epoch == 0
    assert [content(used.step()) for _ in range(2)] == expected
    assert_bit_equal(state(used), state(fresh))


def test_candidates_start_from_weights_of_their_own(tmp_path: Path) -> None:
    """Ask 0 and 1 are one setting with two seeds; the draws follow the ask, not the process."""
    weights = [ready(config).trainer.network.head.classifier.weight for config in configs(tmp_path)[:2]]
    again = ready(configs(tmp_path)[0]).trainer.network.head.classifier.weight
    assert not weights[0].equal(weights[1]) and weights[0].equal(again)


def test_data_is_opened_once_for_all_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = 0
    real = trial_module.open_data

    def counting(settings: Any) -> Any:
        nonlocal opened
        opened += 1
        return real(settings)

    monkeypatch.setattr(trial_module, "open_data", counting)
    trial = TrainingTrial()
    for config in configs(tmp_path)[:3]:
        trial.reset(config)
    assert opened == 1
    trial.reset(configs(tmp_path / "b", data={"name": "digits", "limit": 200})[0])
    assert opened == 2


def test_a_trials_configuration_goes_to_json_and_back(tmp_path: Path) -> None:
    config = TrialConfig(recipe=small_recipe(tmp_path), folder=tmp_path, candidate=candidate(3))
    again = TrialConfig.model_validate_json(config.model_dump_json())
    assert again == config and isinstance(again.recipe, Recipe)
    assert again.checkpoints.folder == tmp_path / "candidates" / f"000003-{candidate(3).id}"


def test_a_storage_that_fails_while_it_is_read_leaves_the_candidate_to_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configs(tmp_path)[0]
    ready(config).step()

    def silent(store: CheckpointStore) -> None:
        raise CannotGoOn("s3://bucket/key does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(CheckpointStore, "newest", silent)
        cut_off = ready(config)
        for _ in range(2):
            with pytest.raises(CannotGoOn, match="does not answer"):
                cut_off.step()
    cut_off.reset(config)
    assert cut_off.step().epoch == 1
