"""Measure every defense against three attackers, and print the table of docs/defenses.md.

The oblivious attacker makes images that fool the undefended model, and shows them to the defended one. The naive one
attacks the defended model with the gradient that it finds there. The adaptive one knows the defense. Each number is
the share of test images that the defended model still gets right; of random defenses, in a vote of ten draws.

Each cell of the table is written to a file as soon as it is measured, and trained models and the oblivious
attacker's images are kept beside it: stop the script when you like, and start it again to go on. Nothing is
downloaded.

With ``--transfer`` it prints another table: what the defenses leave of the images that were made against a network
that no training has seen, and whether two of them differ by more than chance.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import advkit
from advkit import defenses
from advkit.evaluation.versus import mcnemar
from advkit.model import defended, is_stochastic

ATTACKERS = ("oblivious", "naive", "adaptive")
EPS = 8 / 255
DRAWS = 10  # of a random defense, to judge it


class Data:
    """Images as pixels (N, C, H, W) in [0, 1] and labels (N,), from an .npz file of bytes (N, H, W, C)."""

    def __init__(self, path: str, device: str) -> None:
        with np.load(path) as file:
            self.train, self.test = (
                (
                    torch.from_numpy(file[f"x_{split}"]).permute(0, 3, 1, 2).float().div(255).to(device),
                    torch.from_numpy(file[f"y_{split}"]).long().to(device),
                )
                for split in ("train", "test")
            )


class Batches:
    """The training images in a new order each time, half of them mirrored."""

    def __init__(self, images: Tensor, labels: Tensor, size: int = 128) -> None:
        self.images, self.labels, self.size = images, labels, size

    def __len__(self) -> int:
        return len(self.labels) // self.size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.labels), device=self.labels.device)
        for index in order[: len(self) * self.size].view(-1, self.size):
            mirrored = torch.rand(self.size, 1, 1, 1, device=index.device) < 0.5
            images = self.images[index]
            yield torch.where(mirrored, images.flip(3), images), self.labels[index]


def cnn(images: Tensor, classes: int, width: int = 32) -> nn.Module:
    """A CNN of six convolutions, for images whose sides are multiples of 8, with their normalisation inside."""
    layers: list[nn.Module] = []
    channels = images.shape[1]
    for wide in (width, 2 * width, 4 * width):
        for stride in (1, 2):
            layers += [nn.Conv2d(channels, wide, 3, stride, 1), nn.ReLU(), nn.BatchNorm2d(wide)]
            channels = wide
    features = channels * (images.shape[2] // 8) * (images.shape[3] // 8)
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, classes))
    model = advkit.Normalized(net, images.mean((0, 2, 3)).tolist(), images.std((0, 2, 3)).tolist())
    return model.to(images.device, memory_format=torch.channels_last)


class Bench:
    """The models and defenses of the table, each made when it is asked for."""

    def __init__(self, data: Data, options: argparse.Namespace) -> None:
        self.data, self.folder, self.epochs, self.eot = data, options.folder, options.epochs, options.eot
        self.autocast = torch.bfloat16 if options.autocast else None

    def wrapping(self) -> dict[str, Callable[[], defenses.Defense]]:
        """The defenses that need no training, by the names of the table."""
        patches = self.data.train[0]
        return {
            "Feature smoothing": lambda: defenses.FeatureSmoothing(kernel_size=3, sigma=1.0),
            "Median smoothing": lambda: defenses.MedianSmoothing(kernel_size=3),
            "Gradient masking": lambda: defenses.GradientMasking(eps=0.1),
            "Bit depth, 3 bits": lambda: defenses.BitDepthReduction(bits=3),
            "JPEG, quality 75": lambda: defenses.JPEGCompression(quality=75),
            "Crop and rescale": lambda: defenses.RandomCropRescale(scale=0.875, eot_samples=self.eot),
            "Total variance": lambda: defenses.TotalVarianceMinimization(drop=0.5, eot_samples=self.eot),
            "Image quilting": lambda: defenses.ImageQuilting.from_images(
                patches, count=10_000, generator=torch.Generator(patches.device).manual_seed(0)
            ),
        }

    def training(self) -> dict[str, Callable[[nn.Module], defenses.TrainingDefense]]:
        """The defenses that train, made from the undefended model."""
        return {
            "FGSM training": lambda model: defenses.AdversarialTraining(advkit.FGSM(model, eps=EPS)),
            "PGD training": lambda model: defenses.AdversarialTraining(
                advkit.PGD(model, eps=EPS, alpha=EPS / 4, steps=7), clean_ratio=0.0
            ),
            "Ensemble training": lambda model: defenses.EnsembleAdversarialTraining(
                [self._plain(f"source {seed}", seed=seed, width=24) for seed in (1, 2)], advkit.FGSM(model, eps=EPS)
            ),
            "Distillation, T=20": lambda model: defenses.DefensiveDistillation(temperature=20),
        }

    def undefended(self) -> nn.Module:
        """The model that the wrapping defenses wrap, and on which adversarial training builds."""
        return self._plain("undefended")

    def defended(self, name: str) -> nn.Module:
        """The model behind a defense of the table."""
        if name == "none":
            return self.undefended()
        if name in self.wrapping():
            return self.wrapping()[name]().wrap(self.undefended()).eval()
        if name == "Distillation, T=20":
            distillation = defenses.DefensiveDistillation(temperature=20)
            return distillation.wrap(self._trained(name, self._fresh(), lambda model: distillation)).eval()
        return self._trained(name, copy.deepcopy(self.undefended()), self.training()[name])

    def stranger(self) -> nn.Module:
        """A network that no training of the table has seen, half as wide as the others."""
        return self._plain("stranger", seed=3, width=16)

    def _plain(self, name: str, seed: int = 0, width: int = 32) -> nn.Module:
        """A model trained as usual, which is adversarial training with clean images alone."""
        as_usual = defenses.AdversarialTraining
        return self._trained(
            name, self._fresh(seed, width), lambda model: as_usual(advkit.FGSM(model), clean_ratio=1.0)
        )

    def _fresh(self, seed: int = 0, width: int = 32) -> nn.Module:
        torch.manual_seed(seed)
        images, labels = self.data.train
        return cnn(images, int(labels.max()) + 1, width)

    def _trained(
        self, name: str, model: nn.Module, recipe: Callable[[nn.Module], defenses.TrainingDefense]
    ) -> nn.Module:
        """The model with the weights that the defense gives it, from the folder if they are there."""
        path = self.folder / f"{name}.pt"
        if not path.exists():
            defense, batches = recipe(model), Batches(*self.data.train)
            rounds = 2 if isinstance(defense, defenses.DefensiveDistillation) else 1
            optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=self.epochs * len(batches))
            print(f"training: {name}, {self.epochs} epochs{' twice' if rounds == 2 else ''}", flush=True)
            defense.fit(
                model.train(),
                batches,
                optimizer,
                self.epochs,
                batch_scheduler=schedule,
                checkpoint=path.with_suffix(".training.pt"),
                autocast=self.autocast,
            )
            torch.save(model.state_dict(), path)
        model.load_state_dict(torch.load(path, map_location=next(model.parameters()).device, weights_only=True))
        return model.eval()


def attacks(model: nn.Module, options: argparse.Namespace, *, random: bool = False) -> dict[str, advkit.Attack]:
    """The attacks of the table, on a model.

    A minimal attack stops where the model is undecided. Whoever knows that a defense is random asks for more: what is
    fooled by no margin in the mean, the defense gets right in every other draw.
    """
    return {
        "FGSM": advkit.FGSM(model, eps=EPS),
        "MIFGSM": advkit.MIFGSM(model, eps=EPS),
        "DeepFool": advkit.DeepFool(model, overshoot=0.5 if random else 0.02),
        "CW": advkit.CW(model, binary_search_steps=2, steps=options.cw_steps, kappa=5.0 if random else 0.0),
        "PixelSwap": advkit.PixelSwap(model, max_swaps=options.swaps),
    }


def says(model: nn.Module, images: Tensor) -> Tensor:
    """The model's classes (N,); of a random model, the one that it says most often."""
    draws = DRAWS if is_stochastic(model) else 1
    with torch.no_grad():
        return torch.stack([model(images).argmax(1) for _ in range(draws)]).mode(0).values


class Table:
    """Cells that have been measured, each a line of a file."""

    def __init__(self, path: Path, options: argparse.Namespace) -> None:
        self.path, self.options = path, options
        lines = path.read_text().splitlines() if path.exists() else []
        self.cells = {
            self._key(cell): cell for cell in map(json.loads, lines) if self._settings(cell).items() <= cell.items()
        }

    def _key(self, cell: dict[str, object]) -> tuple[object, ...]:
        return cell["defense"], cell["attack"], cell["attacker"]

    def _settings(self, cell: dict[str, object]) -> dict[str, object]:
        """The options that the number in a cell depends on."""
        names = ["images", "seed", "eot", *{"CW": ["cw_steps"], "PixelSwap": ["swaps"]}.get(str(cell["attack"]), [])]
        return {name: getattr(self.options, name) for name in names}

    def __contains__(self, key: object) -> bool:
        return key in self.cells

    def add(self, **cell: object) -> None:
        """Keep a cell, in the file too."""
        cell |= self._settings(cell)
        self.cells[self._key(cell)] = cell
        with self.path.open("a") as file:
            print(json.dumps(cell), file=file)

    def markdown(self, names: list[str], columns: list[str]) -> str:
        """Accuracies by attacker, and how far the images were moved."""
        title = " | ".join(columns)
        lines = [f"| defense | clean | {title} |", "| --- | --: " + "| --: " * len(columns) + "|"]
        for name in names:
            cells = [self._accuracy(name, "clean", "none")]
            cells += [" / ".join(self._accuracy(name, column, who) for who in ATTACKERS) for column in columns]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        minimal = [column for column in columns if column in ("DeepFool", "CW")]
        if not minimal:
            return "\n".join(lines)
        lines += ["", f"| median L2 of what fools | {' | '.join(minimal)} |", "| --- " + "| --: " * len(minimal) + "|"]
        for name in names:
            cells = [" / ".join(self._l2(name, column, who) for who in ATTACKERS[1:]) for column in minimal]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def _accuracy(self, *key: str) -> str:
        return f"{100 * self.cells[key]['accuracy']:.1f}" if key in self.cells else "-"

    def _l2(self, *key: str) -> str:
        distance = self.cells[key]["l2"] if key in self.cells else None
        return "-" if distance is None else f"{distance:.3f}"


def measure(
    model: nn.Module, attack: advkit.Attack | None, images: Tensor, labels: Tensor, shown: Tensor | None, options
) -> dict[str, object]:
    """One cell: the accuracy on what the attack makes, or on the images that are shown."""
    torch.manual_seed(options.seed)
    start = time.perf_counter()
    right, distances = 0, []
    for index in torch.arange(len(labels)).split(options.batch):
        x, y = images[index], labels[index]
        if shown is not None:
            right += int((says(model, shown[index]) == y).sum())
        elif attack is None:
            right += int((says(model, x) == y).sum())
        else:
            result = attack.run(x, y)
            right += int((~result.success).sum())
            moved = result.distance("l2")
            distances += moved[result.success & (moved > 0)].tolist()
    return {
        "accuracy": right / len(labels),
        "l2": median(distances) if distances else None,
        "seconds": round(time.perf_counter() - start, 1),
    }


def transfer(bench: Bench, names: list[str], images: Tensor, labels: Tensor, options: argparse.Namespace) -> str:
    """What defenses leave of images made against a stranger, and whether two of them differ by more than chance."""
    known = attacks(bench.stranger(), options)
    models = {name: bench.defended(name) for name in names}
    lines = ["| defense | FGSM | MIFGSM |", "| --- | --: | --: |"]
    right: dict[str, list[Tensor]] = {name: [] for name in names}
    for column in ("FGSM", "MIFGSM"):
        path = options.folder / f"stranger {column} {len(labels)}.images.pt"
        shown = oblivious(path, known[column], images, labels, options.batch)
        for name, model in models.items():
            torch.manual_seed(options.seed)
            right[name].append(torch.cat([says(model, x) for x in shown.split(options.batch)]) == labels)
    lines += [
        f"| {name} | {' | '.join(f'{100 * float(one.float().mean()):.1f}' for one in right[name])} |" for name in names
    ]
    lines += ["", "| only the first, only the second is right; McNemar's p | FGSM | MIFGSM |", "| --- | --: | --: |"]
    for first, second in combinations(names, 2):
        cells = []
        for one, other in zip(right[first], right[second], strict=True):
            only = int((one & ~other).sum()), int((other & ~one).sum())
            cells.append(f"{only[0]}, {only[1]}; {mcnemar(*only):.2g}")
        lines.append(f"| {first}, {second} | {' | '.join(cells)} |")
    return "\n".join(lines)


def oblivious(path: Path, attack: advkit.Attack, images: Tensor, labels: Tensor, batch: int) -> Tensor:
    """Images made against an undefended model, once."""
    if not path.exists():
        made = [attack(x, y) for x, y in zip(images.split(batch), labels.split(batch), strict=True)]
        torch.save(torch.cat(made), path)
    found: Tensor = torch.load(path, map_location=images.device, weights_only=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", required=True, metavar="FILE.npz", help="uint8 x_train, x_test (N, H, W, C); y_train, y_test"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("defenses_table"), help="for models and cells (%(default)s)"
    )
    parser.add_argument("--images", type=int, default=500, help="how many test images (%(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="of each training (%(default)s)")
    parser.add_argument("--autocast", action="store_true", help="train in bfloat16 where torch holds it for safe")
    parser.add_argument("--eot", type=int, default=10, help="draws of a random defense in each step (%(default)s)")
    parser.add_argument("--cw-steps", type=int, default=50, help="of each of CW's two searches (%(default)s)")
    parser.add_argument("--swaps", type=int, default=100, help="of PixelSwap, at most (%(default)s)")
    parser.add_argument("--defenses", help="only those with one of these words in their names, with commas between")
    parser.add_argument("--attacks", help="only these, with commas between")
    parser.add_argument("--batch", type=int, default=100, help="images at a time (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (%(default)s)")
    parser.add_argument("--transfer", action="store_true", help="the table of transfer, from all test images")
    parser.add_argument("--table", action="store_true", help="print what has been measured, and measure nothing")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = Data(options.data, device)
    images, labels = (part[: options.images] for part in data.test)
    bench = Bench(data, options)

    names = ["none", *bench.wrapping(), *bench.training()]
    if options.defenses:
        names = [name for name in names if any(word.lower() in name.lower() for word in options.defenses.split(","))]
    if options.transfer:
        print(transfer(bench, names, *data.test, options))
        return
    undefended = bench.undefended()
    known = attacks(undefended, options)
    columns = options.attacks.split(",") if options.attacks else list(known)
    table = Table(options.folder / "cells.jsonl", options)

    wanted = [(name, "clean", "none") for name in names]
    wanted += [(name, column, attacker) for column in columns for name in names for attacker in ATTACKERS]
    missing = [] if options.table else [key for key in wanted if key not in table]
    models: dict[str, nn.Module] = {}
    for name, column, attacker in tqdm(missing, unit="cell", disable=None):
        if name not in models:
            models[name] = bench.defended(name)
        model = models[name]
        knowing = bool(defended(model))
        if column == "clean":
            cell = measure(model, None, images, labels, None, options)
        elif attacker == "oblivious":
            key = [column, options.images, *{"CW": [options.cw_steps], "PixelSwap": [options.swaps]}.get(column, [])]
            path = options.folder / f"{' '.join(map(str, key))}.images.pt"
            shown = oblivious(path, known[column], images, labels, options.batch)
            cell = measure(model, None, images, labels, shown, options)
        elif attacker == "adaptive" and (not knowing or known[column].access != "gradient"):
            same = table.cells[name, column, "naive"]  # nothing to know, or no gradient to take
            cell = {field: same[field] for field in ("accuracy", "l2", "seconds")}
        else:
            random = attacker == "adaptive" and is_stochastic(model)
            attack = attacks(model, options, random=random)[column].on(model, adaptive=attacker == "adaptive")
            cell = measure(model, attack, images, labels, None, options)
        table.add(defense=name, attack=column, attacker=attacker, **cell)
    print(table.markdown(names, columns))


if __name__ == "__main__":
    main()
