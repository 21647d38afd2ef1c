"""Attacks that see decisions alone, beside foolbox's and ART's, at the same number of queries.

    python benchmarks/decisions.py --data cifar10.npz --images 16 --queries 500 1500 --out decisions.json
    python benchmarks/decisions.py --linear

trains the CNN of ``networks.py`` on the first run, attacks test images that it gets right, and prints a table in
Markdown: the median distance of the closest image that fools. Of the peers that is the closest of all images that they
have asked about by then, whatever they would have returned. They attack one image at a time, as ART does in any case;
foolbox's HopSkipJump divides by the length of the whole batch's gradients, and its start goes on for all images until
each has one. Each row is written as soon as it is measured, so that the script can be stopped and started again. With
``--linear`` it is the median distance over the true one, for linear models of random weights, which takes no data and
no peers.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from networks import scene
from torch import Tensor, nn

import advkit
from advkit import norms
from advkit.norms import Norm


class EnoughError(Exception):
    """All that was to be asked has been."""


class Recorder(nn.Module):
    """A model that notes how close the images have come that fool it, and raises at the end.

    Args:
        model: the model.
        images: (1, ...), the original.
        labels: int64 (1,).
        norm: of distances.
        queries: after how many to take note of the distance, in order.
    """

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, norm: Norm, queries: Sequence[int]) -> None:
        super().__init__()
        self.model, self.norm, self.queries = model, norm, list(queries)
        self.images, self.labels, self.asked = images, labels, 0
        self.closest = torch.full((len(images),), torch.inf)
        self.noted: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, K) of candidates (n, ...)."""
        with torch.no_grad():
            logits = torch.cat([self.model(part) for part in x.to(self.images).split(64)])  # ART's are doubles
        distances = self.norm.distance(x.detach(), self.images).where(logits.argmax(1) != self.labels, torch.inf)
        for distance in distances.split(1):
            self.asked += 1
            self.closest = self.closest.minimum(distance)
            if self.asked in self.queries:
                self.noted.append(self.closest)
            if self.asked >= self.queries[-1]:
                raise EnoughError
        return logits

    def at(self) -> list[Tensor]:
        """The distances (1,) after each number of queries; the last where the attack had ended before."""
        return self.noted + [self.closest] * (len(self.queries) - len(self.noted))


Attack = Callable[[nn.Module, Tensor, Tensor, Norm, Sequence[int]], list[Tensor]]


def ours(name: str, **settings: object) -> Attack:
    def run(model: nn.Module, images: Tensor, labels: Tensor, norm: Norm, queries: Sequence[int]) -> list[Tensor]:
        found = []
        for most in queries:
            attack = getattr(advkit, name)(model, max_queries=most, **settings)
            result = attack.run(images, labels)
            assert int(result.queries.max()) <= most
            found.append(result.distance(norm).where(result.success, torch.inf))
        return found

    return run


def of_foolbox(name: str, **settings: object) -> Attack:
    def run(model: nn.Module, images: Tensor, labels: Tensor, norm: Norm, queries: Sequence[int]) -> list[Tensor]:
        import foolbox

        found = []
        for image, label in zip(images.split(1), labels.split(1), strict=True):
            recorder = Recorder(model, image, label, norm, queries)
            bounded = foolbox.PyTorchModel(recorder.eval(), bounds=(0, 1), device="cpu")
            with suppress(EnoughError, ValueError):  # it raises where it finds no start
                getattr(foolbox.attacks, name)(**settings).run(bounded, image, label)
            found.append(recorder.at())
        return [torch.cat(each) for each in zip(*found, strict=True)]

    return run


def of_art(name: str, **settings: object) -> Attack:
    def run(model: nn.Module, images: Tensor, labels: Tensor, norm: Norm, queries: Sequence[int]) -> list[Tensor]:
        import numpy as np
        from art.attacks import evasion
        from art.estimators.classification import PyTorchClassifier

        np.mat = np.asmatrix  # which GeoDA uses, and NumPy 2 lacks
        found = []
        for image, label in zip(images.split(1), labels.split(1), strict=True):
            recorder = Recorder(model, image, label, norm, queries)
            classifier = PyTorchClassifier(
                recorder, nn.CrossEntropyLoss(), tuple(image.shape[1:]), 10, clip_values=(0, 1), device_type="cpu"
            )
            with suppress(EnoughError):
                getattr(evasion, name)(classifier, verbose=False, **settings).generate(image.numpy(), label.numpy())
            found.append(recorder.at())
        return [torch.cat(each) for each in zip(*found, strict=True)]

    return run


ROWS: dict[str, tuple[str, Attack]] = {
    "advkit HopSkipJump": ("l2", ours("HopSkipJump")),
    "foolbox HopSkipJumpAttack": ("l2", of_foolbox("HopSkipJumpAttack")),
    "advkit Boundary": ("l2", ours("Boundary")),
    "foolbox BoundaryAttack": ("l2", of_foolbox("BoundaryAttack")),
    "advkit SurFree": ("l2", ours("SurFree")),
    "advkit HopSkipJump, Linf": ("linf", ours("HopSkipJump", norm="linf")),
    "foolbox HopSkipJumpAttack, Linf": ("linf", of_foolbox("HopSkipJumpAttack", constraint="linf")),
    "advkit RayS": ("linf", ours("RayS")),
    "ART HopSkipJump": ("l2", of_art("HopSkipJump")),
    "ART GeoDA": ("l2", of_art("GeoDA")),
    "ART HopSkipJump, Linf": ("linf", of_art("HopSkipJump", norm="inf")),
    "ART BoundaryAttack": ("l2", of_art("BoundaryAttack", targeted=False)),
}


LINEAR: list[tuple[str, dict[str, object]]] = [
    ("HopSkipJump", {}),
    ("Boundary", {}),
    ("SurFree", {"frequencies": 1.0}),  # of which no wave means more than another
    ("HopSkipJump", {"norm": "linf"}),
    ("RayS", {}),
]


def linear(features: int, norm: Norm, count: int = 16) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """A linear model of random weights and two classes, images, and how far they are from its boundary."""
    generator = torch.Generator().manual_seed(features)
    weights = torch.randn(features, generator=generator, dtype=torch.float64)
    images = torch.rand(count, features, generator=generator) / 2 + 0.25

    def model(x: Tensor) -> Tensor:
        score = (x.to(weights) - 0.5) @ weights
        return torch.stack([score, -score], 1)

    return model, images, model(images)[:, 0].abs() / (weights.norm() if norm is norms.L2 else weights.abs().sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="an .npz file, as examples/quickstart.py takes it; shapes if left out")
    parser.add_argument("--images", type=int, default=16, help="how many (%(default)s)")
    parser.add_argument("--queries", type=int, nargs="+", default=[500, 1500], help="for an image (%(default)s)")
    parser.add_argument("--linear", action="store_true", help="linear models instead")
    parser.add_argument("--only", nargs="+", choices=list(ROWS), help="some of the rows")
    parser.add_argument("--out", type=Path, default=Path("decisions.json"), help="what was measured (%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)

    if options.linear:
        print("| attack | features | queries | median | largest |\n| --- | --: | --: | --: | --: |")
        for name, settings in LINEAR:
            for features in (48, 192, 768):
                generator = torch.Generator().manual_seed(0)
                attack = getattr(advkit, name)(dict, max_queries=5000, generator=generator, **settings)
                norm = norms.get(attack.norm)
                model, images, true = linear(features, norm)
                result = attack.on(model).run(images, model(images).argmax(1))
                ratio = result.distance(norm) / true
                label = f"`{name}`, {norm}"
                print(f"| {label} | {features} | 5,000 | {ratio.median():.3f} | {ratio.max():.3f} |", flush=True)
        return

    network = scene("cnn", options.data, "cpu")
    images, labels = network.batch(options.images)
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name, (norm, attack) in ROWS.items():
        if name not in results and name in (options.only or ROWS):
            torch.manual_seed(0)
            found = attack(network.model, images, labels, norms.get(norm), sorted(options.queries))
            results[name] = [[float(d.median()), float(d.mean())] for d in found]
            options.out.write_text(json.dumps(results, indent=2))
            print(name, results[name], flush=True)

    heads = "".join(f" {queries} queries: median | mean |" for queries in sorted(options.queries))
    print(f"\n{len(images)} images\n\n| attack |{heads}\n| --- |" + " --: | --: |" * len(options.queries))
    for name in (name for name in ROWS if name in results):
        print(f"| {name} |" + "".join(f" {median:.4f} | {mean:.4f} |" for median, mean in results[name]))


if __name__ == "__main__":
    main()
