"""Train one small CNN by every recipe, at equal compute, and print the table of docs/training.md.

Every training is given the same number of forwards and backwards of an image, ``--passes`` of each, whatever its recipe
makes of them: one that takes fewer for a batch sees more batches. Each is measured twice, with the weights of the last
step and with their moving average, on clean images and by the number to report at 8/255,
``evaluate(model, loader, "standard", norm="linf", eps=8 / 255)``.

Each cell, a recipe and a seed, is written to a file of its own when it is done, and trainings are saved as they go on:
stop the script when you like, and start it again to go on. Several may share the cells out among themselves:

    for part in 0/2 1/2; do
        OMP_NUM_THREADS=1 python examples/training_table.py --data cifar10.npz --part $part &
    done; wait
    python examples/training_table.py --table

Nothing is downloaded. bfloat16 and channels_last make it fast on a CPU with AMX.
"""

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import advkit
from advkit.defenses import AWP, MART, TRADES, AdversarialTraining, FastTraining, FreeTraining, TrainingDefense
from advkit.errors import AdvkitWarning
from defenses_table import Data, cnn

EPS, ALPHA = 8 / 255, 2 / 255
BATCH = 128
WEIGHTS = ("last", "averaged")


@dataclass(frozen=True)
class Row:
    """A recipe, and the forwards and backwards of an image each time that a batch comes."""

    make: Callable[[], TrainingDefense]
    forwards: int
    backwards: int


def rows(steps: int, replays: int) -> dict[str, Row]:
    """The recipes of the table, with attacks of so many steps."""

    def pgd() -> AdversarialTraining:
        return AdversarialTraining(advkit.PGD(nn.Identity(), eps=EPS, alpha=ALPHA, steps=steps), clean_ratio=0)

    return {
        "PGD": Row(pgd, steps + 1, steps + 1),
        "TRADES, beta 1": Row(lambda: TRADES(1.0, EPS, ALPHA, steps), steps + 3, steps + 2),
        "TRADES, beta 6": Row(lambda: TRADES(6.0, EPS, ALPHA, steps), steps + 3, steps + 2),
        "MART": Row(lambda: MART(6.0, EPS, ALPHA, steps), steps + 2, steps + 2),
        "PGD + AWP": Row(lambda: AWP(pgd(), gamma=0.01), steps + 2, steps + 2),
        "Free": Row(lambda: FreeTraining(EPS, replays), replays, replays),
        "Fast": Row(FastTraining, 2, 2),
        "N-FGSM": Row(FastTraining.n_fgsm, 2, 2),
    }


class Batches:
    """So many batches of training images in random order, half of them mirrored; one time through is an epoch here."""

    def __init__(self, images: Tensor, labels: Tensor, count: int) -> None:
        self.images, self.labels, self.count = images, labels, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        wanted, there = self.count * BATCH, len(self.labels)
        order = torch.cat([torch.randperm(there) for _ in range(math.ceil(wanted / there))])[:wanted]
        for index in order.view(-1, BATCH):
            images, mirrored = self.images[index], torch.rand(BATCH, 1, 1, 1) < 0.5
            yield torch.where(mirrored, images.flip(3), images), self.labels[index]


def trained(
    row: Row, data: Data, path: Path, seed: int, options: argparse.Namespace
) -> tuple[dict[str, nn.Module], dict]:
    """The model with its last weights and with their average, and what is to be said of the training."""
    images, labels = (part[: options.train] for part in data.train)
    torch.manual_seed(seed)
    model = cnn(images, int(labels.max()) + 1, options.width).train()
    defense = row.make()
    a_batch = BATCH * (row.forwards + row.backwards) / 2  # passes, of which a forward and a backward are one
    steps = max(1, round(options.passes / a_batch / options.epochs))  # batches an epoch
    batches = Batches(images, labels, steps)
    optimizer = torch.optim.SGD(model.parameters(), options.lr, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=steps * options.epochs)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(options.decay), use_buffers=True)
    last = average.module.state_dict()
    start, stopped = time.process_time(), None
    done = len(torch.load(path, weights_only=True)["history"]) if path.exists() else 0
    for epoch in range(max(1, done), options.epochs + 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AdvkitWarning)  # the history says it too
            defense.fit(
                model,
                batches,
                optimizer,
                epoch,
                batch_scheduler=schedule,
                checkpoint=path,
                autocast=torch.bfloat16,
                average=average,
            )
        stopped = defense.history[-1].stopped
        if stopped:
            break  # the weights of the epoch before are those to measure
        last = torch.load(path, weights_only=True)["model"]
    models = {name: cnn(images, int(labels.max()) + 1, options.width).eval() for name in WEIGHTS}
    models["last"].load_state_dict(last)
    models["averaged"].load_state_dict(model.state_dict())
    seen = steps * len(defense.history) * BATCH
    return models, {
        "stopped": stopped,
        "epochs": len(defense.history),
        "images seen": seen,
        "forwards": seen * row.forwards,
        "backwards": seen * row.backwards,
        "training seconds": round(time.process_time() - start),
    }


def measured(model: nn.Module, data: Data, options: argparse.Namespace) -> dict[str, float]:
    """Accuracy on clean images, and the number to report."""
    images, labels = data.test
    start = time.process_time()
    with torch.no_grad():
        right = [int((model(images[at]).argmax(1) == labels[at]).sum()) for at in torch.arange(len(labels)).split(1000)]
    clean = sum(right) / len(labels)
    images, labels = images[: options.images], labels[: options.images]
    loader = list(zip(images.split(64), labels.split(64), strict=True))
    report = advkit.evaluate(model, loader, "standard", norm="linf", eps=EPS, flags=False, progress=False)
    robust = report.robust_accuracy
    return {"clean": clean, "robust": robust, "seconds": round(time.process_time() - start)}


def table(folder: Path, names: list[str]) -> str:
    """The mean over seeds of what there is, and its standard deviation."""
    cells = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    lines = [
        "| recipe | clean | robust | clean, averaged | robust, averaged | stopped | seeds |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    for name in names:
        own = [cell for cell in cells if cell["recipe"] == name]
        if not own:
            continue
        shown = [_spread([cell[its][what] for cell in own]) for its in WEIGHTS for what in ("clean", "robust")]
        stopped = sum(cell["stopped"] is not None for cell in own)
        lines.append(f"| {name} | {' | '.join(shown)} | {stopped} | {len(own)} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{100 * mean(values):.1f}" + (f" ± {100 * stdev(values):.1f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="FILE.npz", help="uint8 x_train, x_test (N, H, W, C); y_train, y_test")
    parser.add_argument("--folder", type=Path, default=Path("training_table"), help="for cells (%(default)s)")
    parser.add_argument(
        "--passes", type=int, default=1_400_000, help="a training's forwards, of an image (%(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=10, help="in how many parts, each saved (%(default)s)")
    parser.add_argument("--steps", type=int, default=7, help="of the attacks of many steps (%(default)s)")
    parser.add_argument("--replays", type=int, default=8, help="of a batch by Free (%(default)s)")
    parser.add_argument("--width", type=int, default=16, help="of the CNN (%(default)s)")
    parser.add_argument("--lr", type=float, default=0.1, help="at its highest (%(default)s)")
    parser.add_argument("--decay", type=float, default=0.99, help="of the average, by step (%(default)s)")
    parser.add_argument("--train", type=int, default=50_000, help="how many training images (%(default)s)")
    parser.add_argument("--images", type=int, default=512, help="test images under attack (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="how many (%(default)s)")
    parser.add_argument("--recipes", help="only those with one of these words in their names, with commas between")
    parser.add_argument("--part", default="0/1", help="of the cells, such as the first half: 0/2 (%(default)s)")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal of seconds")
    parser.add_argument("--table", action="store_true", help="print what there is, and train nothing")
    options = parser.parse_args()
    if options.tiny:
        vars(options).update(passes=4 * BATCH, epochs=2, steps=1, replays=2, width=4, images=8, seeds=1)
    options.folder.mkdir(parents=True, exist_ok=True)
    known = rows(options.steps, options.replays)
    if options.recipes:
        words = options.recipes.lower().split(",")
        known = {name: row for name, row in known.items() if any(word in name.lower() for word in words)}
    cells = [(seed, name) for seed in range(options.seeds) for name in known]
    part, parts = map(int, options.part.split("/"))
    data = None
    for seed, name in [] if options.table else cells[part::parts]:
        path = options.folder / f"{name.replace(', ', ' ').replace(' + ', '+').replace(' ', '-')}-{seed}.json"
        if path.exists():
            continue
        if data is None:
            data = Data(options.data, "cpu")
        saved = path.with_suffix(".training.pt")
        models, cell = trained(known[name], data, saved, seed, options)
        cell |= {"recipe": name, "seed": seed} | {its: measured(model, data, options) for its, model in models.items()}
        path.with_suffix(".tmp").write_text(json.dumps(cell, indent=1))
        path.with_suffix(".tmp").replace(path)
        saved.unlink()
        print(path.name, json.dumps(cell), flush=True)
    print(table(options.folder, list(known)))


if __name__ == "__main__":
    main()
