"""Paper 2: a CNN on inputs in [-1, 1], trained with and without FGSM images of eps 1.0 and 0.5.

Deepthi et al., "Robust training of CNNs against adversarial attacks using FGSM": experiments 1 to 4.

    python examples/papers/paper2/run.py --data DIR --scale quick

DIR has cifar10.npz. A run that was killed goes on where it was when it is started again.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).parents[1]))

from images import Images, Item, batches
from networks import EvenDeeperCNN
from plots import bars
from study import Study, left, percent
from training import accuracy_and_loss

import advkit

BOUNDS = (-1.0, 1.0)
WIDTHS = {"1": 32, "2": 32, "3": 32, "4": 64}  # the paper increases "the depth of the convolutional layers" in 4
TRAINED = {"1": "clean images", "2": "FGSM images too", "3": "FGSM images too, another seed", "4": "FGSM images too"}


@dataclass(frozen=True)
class Scale:
    """How much is done.

    The paper does not say for how many epochs it trained: with these, clean accuracies come close to its own.
    """

    experiments: tuple[str, ...] = ("1", "2", "3", "4")
    images: int | None = None  # to train on; all 50,000
    epochs: tuple[int, ...] = (10, 20, 30, 15)  # of each of these experiments
    test_images: int | None = None
    steps: int = 20  # of the adaptive attacker's PGD


SCALES = {
    "tiny": Scale(("1", "4"), images=128, epochs=(1, 1), test_images=8, steps=2),
    "quick": Scale(("1", "2"), images=16_000, epochs=(5, 5), test_images=1000),
    "hour": Scale(("1", "2", "4"), images=50_000, epochs=(5, 5, 5), test_images=1000),
    "paper": Scale(),
}


def main(arguments: Sequence[str] | None = None) -> None:
    study: Study[Scale] = Study("paper2", SCALES, __doc__, arguments)
    train, test = study.images("cifar10", study.scale.images, study.scale.test_images)
    normalise = transforms.Normalize(0.5, 0.5)
    varied = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.RandomRotation(10), normalise])
    train, test = train.seen_through(on_image(varied)), test.seen_through(on_image(normalise))

    epochs = dict(zip(study.scale.experiments, study.scale.epochs, strict=True))
    rows, leaks = [], []
    for number, printed in study.paper["experiments"].items():
        eps = printed["eps"]
        found: dict[str, float | None] = {}
        if number in epochs:
            train_it = partial(trained_by_fgsm, study, train, epochs[number], eps if number != "1" else None)
            network = seeded(study.seed + int(number), WIDTHS[number])
            model = study.trained(f"experiment-{number}", network, train_it)
            found = study.once(f"experiment {number}", partial(tested, model, test, eps, study.scale.steps)) or {}
            verdict = left(study.judged(f"experiment {number}", model, test, eps, bounds=BOUNDS))
            found = {**found, "verdict": verdict and verdict.accuracy}
        shown = {name: percent(share) for name, share in found.items()}
        how, attack = TRAINED[number], f"FGSM, eps {eps:g}"
        rows.append([number, how, "none", printed["clean"], shown.get("clean"), shown.get("clean"), None])
        rows.append([number, how, attack, printed["FGSM"], *map(shown.get, ("FGSM", "PGD", "verdict"))])
        leaks.append([number, f"{eps:g}", *map(shown.get, ("clean", "FGSM", "FGSM, no label", "PGD"))])

    study.table("Accuracy of the EvenDeeperCNN, %", ["experiment", "trained on", "attack"], rows)
    tests = ("no attack", "FGSM", "FGSM, no label", "PGD")
    study.table("What FGSM tells the network, ours, accuracy in %", ["experiment", "eps"], leaks, tests)
    study.figure(
        "accuracy",
        "Accuracy of each experiment without an attack, under FGSM, under FGSM that has no label, and under PGD",
        lambda path: bars(
            path,
            {"": {f"experiment {row[0]}, eps {row[1]}": dict(zip(tests, row[2:], strict=True)) for row in leaks}},
            y="accuracy, %",
            top=100,
        ),
    )
    study.write()
    print(study.report)


def on_image(transform: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Item], Item]:
    """A transform of (image, label) that leaves the label alone."""
    return lambda item: (transform(item[0]), item[1])


def seeded(seed: int, width: int) -> Callable[[], nn.Module]:
    """The network, with weights of its own for each experiment: the paper's third repeats its second."""

    def network() -> nn.Module:
        torch.manual_seed(seed)
        return EvenDeeperCNN(width=width)

    return network


def trained_by_fgsm(
    study: Study[Scale], train: Images, epochs: int, eps: float | None, model: nn.Module, checkpoint: Path
) -> list[float]:
    """Train on clean images and, where there is an eps, as much on what FGSM makes of them."""
    fgsm = None if eps is None else advkit.FGSM(model, eps, bounds=BOUNDS)
    defense = None if fgsm is None else advkit.defenses.AdversarialTraining(fgsm)
    return study.fit(model, train, epochs, checkpoint, defense=defense)


def tested(model: nn.Module, test: Images, eps: float, steps: int) -> dict[str, float]:
    """The accuracy on clean images, and under three attackers."""
    fgsm = advkit.FGSM(model, eps, bounds=BOUNDS)
    pgd = advkit.PGD(model, eps, alpha=eps / 4, steps=steps, early_stop=True, bounds=BOUNDS)
    seen = {
        "clean": test,
        # All images are attacked, and a wrong answer may turn right, as in the paper.
        "FGSM": advkit.data.generate(fgsm, test, progress=False),
        "FGSM, no label": test.seen_through(without_label(test, advkit.FGSMTransform(model, eps, bounds=BOUNDS))),
    }
    accuracies = {name: accuracy_and_loss(model, data)[0] for name, data in seen.items()}
    return accuracies | {"PGD": advkit.evaluate(model, batches(test), {"PGD": pgd})["PGD"].accuracy}


def without_label(test: Images, attack: advkit.FGSMTransform) -> Callable[[Item], Item]:
    """The test's own transform and then an attack that is not told the label: it takes the model's answer for it."""
    assert test.transform is not None
    before = test.transform

    def attacked(item: Item) -> Item:
        image, label = before(item)
        return attack(image), label

    return attacked


if __name__ == "__main__":
    main()
