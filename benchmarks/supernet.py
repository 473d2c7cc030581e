"""A full-size supernet on one device: `python -m benchmarks.supernet --help`.

train   images a second of one-shot training (one path a step, NAS-Bench-201 with --channels and --cells)
        against a bare loop: forward, backward and SGD on the same paths and batches, and nothing else.
        Medians of --rounds interleaved rounds and the ratio within each.
rank    then trains on for --minutes and tells tau-b of angles and accuracies against the table.

Needs torch alone: no Ray. --data is the folder with CIFAR-10 as JPEG files (jpeg_npz) and nasbench201.csv.
"""

import argparse
import datetime
import json
import platform
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.randwire import RESULTS, processor
from cluster.version import code_version
from networks.counters import counter_random
from networks.spaces.nasbench201 import NasBench201Settings, NasBench201Space
from networks.supernet import build_supernet
from trainers.data import Augment, Data, DataSettings, open_data
from trainers.group import Alone
from trainers.one_shot import OneShotTrainer
from trainers.one_shot_settings import OneShotSettings
from trainers.ranking import kendall_tau_b
from trainers.scores import SCORES, Bench
from trainers.table import Table
from trainers.training import parameter_groups

TRUTH = "c10_test_200"


def opened(folder: Path) -> Data:
    """All of CIFAR-10, 1,000 images of it held out for validation."""
    parts = tuple(folder / f"cifar10_jpeg_train_{part}of2.npz" for part in (1, 2))
    augment = Augment(crop=4, flip=True)
    return open_data(DataSettings(name="jpeg_npz", path=parts, validation=1000, augment=augment))


def one_shot(trainer: OneShotTrainer, steps: int) -> None:
    for _ in range(steps):
        trainer.train_step(Alone())


class Bare:
    """The same paths and batches, trained by the fewest lines."""

    def __init__(self, trainer: OneShotTrainer) -> None:
        self.trainer, self.step = trainer, 0
        layout = torch.channels_last
        self.supernet = build_supernet(trainer.space, 0).to(trainer.device, memory_format=layout).train()
        self.supernet.set_executor("autograd")
        settings = trainer.settings
        groups = parameter_groups(self.supernet, settings.weight_decay)
        self.optimizer = torch.optim.SGD(
            groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov
        )

    def run(self, steps: int) -> None:
        trainer = self.trainer
        for _ in range(steps):
            (genes,) = trainer.paths(self.step)
            x, y = trainer.data.train_batch(trainer.seed, self.step, trainer.settings.batch_size)
            with torch.autocast(trainer.device.type, torch.bfloat16, enabled=trainer.device.type == "cuda"):
                logits = self.supernet(x.contiguous(memory_format=torch.channels_last), genes)
            F.cross_entropy(logits.float(), y).backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1


def seconds(device: torch.device, run: Any, steps: int) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run(steps)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def train(trainer: OneShotTrainer, options: argparse.Namespace) -> dict[str, Any]:
    bare = Bare(trainer)
    runs = {"one_shot": lambda steps: one_shot(trainer, steps), "bare": bare.run}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(options.rounds + 1):
        for name, run in runs.items():
            found = seconds(trainer.device, run, options.steps)
            if number:  # the first warms up
                taken[name].append(found)
    images = options.steps * options.batch
    ratios = [bare / ours for ours, bare in zip(taken["one_shot"], taken["bare"], strict=True)]
    return {
        "what": "train",
        **{
            f"{name}_images_a_second": round(images / statistics.median(some)) for name, some in taken.items()
        },
        "ratio": round(statistics.median(ratios), 3),
        "ratio_low": round(min(ratios), 3),
        "ratio_high": round(max(ratios), 3),
    }


def rank(trainer: OneShotTrainer, table: Table, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """At every quarter of the time."""
    initial = trainer.initial
    rng = counter_random(0, "benchmark")
    known = [genes for genes in table.genes if TRUTH in table.metrics(genes)]
    some = rng.sample(known, min(options.candidates, len(known)))
    for quarter in range(1, 5):
        until = time.monotonic() + 15 * options.minutes
        while time.monotonic() < until:
            trainer.train(20)
        bench = Bench(trainer.space, trainer.data, 0, 250, str(trainer.device), trainer.supernet, initial)
        row: dict[str, Any] = {"what": "rank", "step": trainer.step, "quarter": quarter}
        row["epochs"] = round(trainer.step / trainer.data.steps_per_epoch(options.batch), 2)
        for name in options.scores:
            cells = known if name.startswith("angle") else some
            values = [SCORES[name](bench, genes) for genes in cells]
            found = kendall_tau_b(values, [table.metrics(genes)[TRUTH] for genes in cells])
            row[name] = [round(found.tau or 0, 3), round(found.low or 0, 3), round(found.high or 0, 3)]
        yield row


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--cells", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--total", type=int, default=100_000, help="steps that the schedule is made for")
    parser.add_argument("--steps", type=int, default=20, help="a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--minutes", type=float, default=0, help="of training before ranks; 0 ranks nothing")
    parser.add_argument("--candidates", type=int, default=300, help="cells that accuracies are ranked on")
    parser.add_argument("--scores", nargs="+", default=["angle", "angle_searched", "accuracy"])
    parser.add_argument("--record", action="store_true", help=f"append to {RESULTS}")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.device == "cpu":
        torch.set_num_threads(1)
    data = opened(options.data)
    settings = NasBench201Settings(channels=options.channels, cells=options.cells)
    space = NasBench201Space(settings, data.image, len(data.classes))
    training = OneShotSettings(
        steps=options.total, paths_per_step=1, batch_size=options.batch, lr=options.lr, nesterov=True
    )
    lines = []

    def say(row: dict[str, Any]) -> None:
        lines.append(json.dumps(row))
        print(lines[-1], flush=True)

    say(train(OneShotTrainer(space, data, training, 1, options.device), options))
    if options.minutes:
        table = Table.read(options.data / "nasbench201.csv", space, [TRUTH])
        for row in rank(OneShotTrainer(space, data, training, 0, options.device), table, options):
            say(row)
    if options.record:
        device = torch.cuda.get_device_name() if options.device != "cpu" else processor()
        heading = f"\n## {datetime.date.today()}: one-shot training of a supernet\n\n"
        build = f"torch {torch.__version__}, Python {platform.python_version()}"
        about = f"{device}, {build}; commit {code_version()}"
        command = f"C = {options.channels}, N = {options.cells}, batch {options.batch}, lr {options.lr}"
        with RESULTS.open("a") as file:
            file.write(
                f"{heading}{about}; `benchmarks/supernet.py`, {command}\n\n```\n"
                + "\n".join(lines)
                + "\n```\n"
            )


if __name__ == "__main__":
    main()
