"""Paper 1: four attacks and four defenses on MNIST, CIFAR-10 and GTSRB.

Campbell & Lasselle, "Enhancing the robustness of deep neural networks", WPI 2024: tables 2 to 14, figures 3 to 18, and
of its future work targeted attacks and two defenses together.

    python examples/papers/paper1/run.py --data DIR --scale quick

DIR has mnist.npz, cifar10.npz and gtsrb.npz. A run that was killed goes on where it was when it is started again.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from images import Images, batches, load, split_by_track
from networks import SmallCNN
from plots import bars, curves
from study import Study
from training import fit

import advkit
from advkit.defenses import AdversarialTraining, DefensiveDistillation, FeatureSmoothing, GradientMasking
from advkit.evaluation import RobustnessReport, picture_rows

CLASSES = {"mnist": 10, "cifar10": 10, "gtsrb": 43}
TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10", "gtsrb": "GTSRB"}
# The paper has none of these numbers: the usual budgets, noise as large as a gradient, and the temperature of
# Papernot et al. that advkit has too.
EPS = {"mnist": 0.3, "cifar10": 8 / 255, "gtsrb": 8 / 255}
NOISE = 0.01
TEMPERATURE = 20.0

# Whose images the paper shows to a defense, as its text has it: those made against the bare network, but where the
# defense sits on gradients, those made through it.
PROTOCOLS = {"gradient masking": "naive"}


@dataclass(frozen=True)
class Scale:
    """How much is done; the defaults are the paper's."""

    images: int | None = None  # of each data set to train on, besides those to validate with
    epochs: int = 20
    attacked_images: int | None = None  # to go on training with, under attack
    attacked_epochs: int = 5
    test_images: int | None = None
    targeted_images: int = 1000


SCALES = {
    "tiny": Scale(images=96, epochs=1, attacked_images=16, attacked_epochs=1, test_images=4, targeted_images=2),
    "quick": Scale(
        images=10_000, epochs=5, attacked_images=2000, attacked_epochs=3, test_images=200, targeted_images=100
    ),
    "paper": Scale(),
}


def main(arguments: Sequence[str] | None = None) -> None:
    study: Study[Scale] = Study("paper1", SCALES, __doc__, arguments)
    reports = {name: reproduce(study, name) for name in CLASSES}
    summarise(study, reports)
    study.write()
    print(study.report)


def attacks(model: nn.Module, name: str, *, brief: bool = False) -> dict[str, advkit.Attack]:
    """The paper's four attacks; as little of each as still fools most images where they are ``brief``."""
    eps, steps = EPS[name], 5 if brief else 20
    return {
        "IFGSM": advkit.MIFGSM(model, eps, alpha=2 * eps / steps, steps=steps, early_stop=True, accumulate="sign"),
        "DeepFool": advkit.DeepFool(model, steps=5 if brief else 50),
        "CW": advkit.CW(model, binary_search_steps=1, steps=20) if brief else advkit.CW(model),
        "PixelSwap": advkit.PixelSwap(model, max_swaps=64 if brief else None),
    }


def reproduce(study: Study[Scale], name: str) -> RobustnessReport | None:
    """All of the paper on one data set."""
    train, validation, test = split(study, name)
    defenses = defended(study, name, train, validation)
    bare = defenses.pop("none")

    def evaluate() -> Any:
        loader = batches(test)
        report = advkit.evaluate(
            bare, loader, attacks(bare, name), defenses, run_folder=study.work / f"{name}-evaluation"
        )
        return json.loads(report.to_json())

    found = study.once(f"{name}: evaluation", evaluate)
    report = found and RobustnessReport.from_json(json.dumps(found))
    names = ["none", *defenses]
    tables(study, name, names, report)
    target(study, name, bare, {"none": bare, **wrapped(bare, defenses)}, test)
    if name == "mnist":
        pictures(study, bare, test)
    return report


def split(study: Study[Scale], name: str) -> tuple[Images, Images, Images]:
    """Images to train, to validate and to test with."""
    train, test = study.images(name, None, study.scale.test_images)
    if name == "gtsrb":
        train, validation = split_by_track(train, seed=study.seed)
    else:
        some = len(train) * 4 // 5
        train, validation = train.take(torch.arange(some)), train.take(torch.arange(some, len(train)))
    count = study.scale.images
    return train.take(count), validation.take(count and count // 4), test
