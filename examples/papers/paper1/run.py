"""Paper 1: four attacks and four defenses on MNIST, CIFAR-10 and GTSRB.

Campbell & Lasselle, "Enhancing the robustness of deep neural networks", WPI 2024: tables 2 to 14, figures 3 to 18, and
of its future work targeted attacks and two defenses together.

    python examples/papers/paper1/run.py --data DIR --scale quick

DIR has mnist.npz, cifar10.npz and gtsrb.npz. A run that was killed goes on where it was when it is started again.
"""

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1]))

from images import Images, split_by_track
from networks import SmallCNN
from plots import bars, curves
from study import COLUMNS, Study, left, percent, score

import advkit
from advkit.defenses import (
    AdversarialTraining,
    Defense,
    DefensiveDistillation,
    FeatureSmoothing,
    GradientMasking,
)
from advkit.evaluation import PROTOCOLS, RobustnessReport, picture_rows

CLASSES = {"mnist": 10, "cifar10": 10, "gtsrb": 43}
TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10", "gtsrb": "GTSRB"}
# The paper has none of these numbers: the usual budgets, noise as large as a gradient, and the temperature of
# Papernot et al. that advkit has too.
EPS = {"mnist": 0.3, "cifar10": 8 / 255, "gtsrb": 8 / 255}
NOISE = 0.01
TEMPERATURE = 20.0

# Whose images the paper shows to a defense, as its text has it: those made against the bare network, but where the
# defense sits on gradients, those made through it.
OBLIVIOUS_BUT = {"gradient masking": "naive"}

ATTACKS = ("IFGSM", "DeepFool", "CW", "PixelSwap")
STACK = "adversarial examples and smoothing"
DEFENSES = ("none", "adversarial examples", "feature smoothing", "gradient masking", "distillation", STACK)


@dataclass(frozen=True)
class Scale:
    """How much is done; the defaults are the paper's."""

    data_sets: tuple[str, ...] = ("mnist", "cifar10", "gtsrb")
    images: int | None = None  # of each data set to train on, besides those to validate with
    epochs: int = 20
    attacked_images: int | None = None  # to go on training with, under attack
    attacked_epochs: int = 5
    test_images: int | None = None
    targeted_images: int = 1000
    brief: bool = False  # whether attacks search for as short a time in the test as in training


SCALES = {
    "tiny": Scale(
        data_sets=("gtsrb",),
        images=96,
        epochs=1,
        attacked_images=8,
        attacked_epochs=1,
        test_images=3,
        targeted_images=1,
        brief=True,
    ),
    "quick": Scale(
        images=10_000, epochs=5, attacked_images=2000, attacked_epochs=3, test_images=200, targeted_images=100
    ),
    "hour": Scale(
        images=20_000, epochs=8, attacked_images=4000, attacked_epochs=3, test_images=300, targeted_images=100
    ),
    "day": Scale(attacked_images=16_000, test_images=1000, targeted_images=200),
    "paper": Scale(),
}


def main(arguments: Sequence[str] | None = None) -> None:
    study: Study[Scale] = Study("paper1", SCALES, __doc__, arguments)
    reports = {name: reproduce(study, name) for name in study.scale.data_sets}
    summarise(study, reports)
    study.write()
    print(study.report)


def attacks(model: nn.Module, name: str, *, brief: bool = False) -> dict[str, advkit.Attack]:
    """The paper's four attacks; as little of each as still fools most images where they are ``brief``."""
    eps, steps = EPS[name], 5 if brief else 20
    return {
        "IFGSM": advkit.MIFGSM(model, eps, alpha=2 * eps / steps, steps=steps, early_stop=True, accumulate="sign"),
        "DeepFool": advkit.DeepFool(model, steps=5 if brief else 50),
        "CW": advkit.CW(model, binary_search_steps=1, steps=10) if brief else advkit.CW(model),
        "PixelSwap": advkit.PixelSwap(model, max_swaps=32 if brief else None),
    }


def reproduce(study: Study[Scale], name: str) -> RobustnessReport | None:
    """All of the paper on one data set."""
    train, validation, test = split(study, name)
    bare, defenses = defended(study, name, train, validation)
    against = attacks(bare, name, brief=study.scale.brief)
    report = study.evaluated(name, bare, test, against, defenses, PROTOCOLS)
    verdict = study.judged(name, bare, test, EPS[name], defenses)
    tables(study, name, ["none", *defenses], report, verdict)
    targeted(study, name, bare, defenses, test)
    if name == study.scale.data_sets[0] and report is not None:
        pictures(study, name, bare, test)
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


def defended(
    study: Study[Scale], name: str, train: Images, validation: Images
) -> tuple[nn.Module, dict[str, Defense | nn.Module]]:
    """The bare network, and the paper's four defenses and one stack of two, as `advkit.evaluate` takes them."""
    scale = study.scale
    pixels = train.pixels.float() / 255
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3)).clamp_min(0.01)

    def network() -> nn.Module:
        return advkit.Normalized(SmallCNN(CLASSES[name]), mean, std)

    def train_further(model: nn.Module, checkpoint: Path) -> list[float]:
        """From the good network on, each batch under one of the four attacks."""
        defense = AdversarialTraining(list(attacks(model, name, brief=True).values()), clean_ratio=0)
        some = train.take(scale.attacked_images)
        return study.fit(model, some, scale.attacked_epochs, checkpoint, defense=defense, learning_rate=3e-4)

    fit_with = partial(study.training, train, scale.epochs, validation=validation)
    bare = study.trained(f"{name}-bare", network, fit_with())
    distillation = DefensiveDistillation(TEMPERATURE)
    adversarial = study.trained(f"{name}-adversarial", lambda: copy.deepcopy(bare), train_further)
    distilled = study.trained(f"{name}-distilled", network, fit_with(defense=distillation))
    return bare, {
        "adversarial examples": adversarial,
        "feature smoothing": FeatureSmoothing(),
        "gradient masking": GradientMasking(NOISE),
        "distillation": distillation.wrap(distilled),
        # What Stack([AdversarialTraining(...), FeatureSmoothing()]).fit returns, without training once more.
        STACK: FeatureSmoothing().wrap(adversarial),
    }


def tables(
    study: Study[Scale],
    name: str,
    defenses: Sequence[str],
    report: RobustnessReport | None,
    verdict: RobustnessReport | None,
) -> None:
    """F1 and prediction times on one data set; the verdict's budget is that of IFGSM."""
    kinds = {"F1": ("f1", 3), "prediction time": ("prediction_seconds", 5)}
    for kind, (attribute, digits) in kinds.items():
        rows = []
        for defense, attack in product(defenses, ["none", *ATTACKS]):
            printed = study.paper[kind].get(defense, {}).get(attack, {}).get(name)
            found = [
                score(report, defense, attack, who) for who in (OBLIVIOUS_BUT.get(defense, "oblivious"), "adaptive")
            ]
            ours = [one and round(getattr(one, attribute), digits) for one in found]
            rows.append([defense, attack, printed, *ours])
        if kind == "F1":
            standing = {defense: one and round(one.f1, 3) for defense in defenses for one in [left(verdict, defense)]}
            rows = [[*row, standing[row[0]] if row[1] == "IFGSM" else None] for row in rows]
            study.table(f"{TITLES[name]}: macro F1", ["defense", "attack"], rows)
        else:
            rows = [[*row, row[2] / row[3] if row[2] and row[3] else None] for row in rows]
            columns = (*COLUMNS[:3], "times as fast")
            study.table(
                f"{TITLES[name]}: seconds for a prediction, attack included", ["defense", "attack"], rows, columns
            )


def targeted(
    study: Study[Scale], name: str, bare: nn.Module, defenses: Mapping[str, Defense | nn.Module], test: Images
) -> None:
    """The paper's future work: how often an image is taken for a class that was drawn for it."""
    images, labels = next(iter(DataLoader(test, study.scale.targeted_images)))
    draw = torch.Generator().manual_seed(study.seed)
    targets = (labels + torch.randint(1, CLASSES[name], labels.shape, generator=draw)) % CLASSES[name]
    every = attacks(bare, name, brief=study.scale.brief)
    chosen = {attack: every[attack] for attack in ("IFGSM", "CW")}

    def measure(defense: Defense | nn.Module | None, attack: advkit.Attack) -> list[float]:
        model = defense.wrap(bare) if isinstance(defense, Defense) else defense or bare
        adversarials = attack(images, labels, targets=targets)
        with torch.no_grad():
            oblivious = model.eval()(adversarials.to(study.device)).argmax(1).cpu() == targets
        return [
            float(oblivious.float().mean()),
            float(attack.on(model).run(images, labels, targets=targets).success.float().mean()),
        ]

    rows = []
    for (defense, one), attack in product({"none": None, **defenses}.items(), chosen):
        found = study.once(f"{name}: targeted {attack}, {defense}", partial(measure, one, chosen[attack]))
        rows.append([defense, attack, None, *map(percent, found or (None, None))])
    columns = ("the paper", "ours, images made against the bare network", "ours, adaptive")
    study.table(f"{TITLES[name]}: taken for the target, %", ["defense", "attack"], rows, columns)


def pictures(study: Study[Scale], name: str, model: nn.Module, test: Images) -> None:
    """Figures 7 to 11: what each attack does to a seven."""
    seven = (test.labels == 7).int().argmax().view(1)
    images, labels = next(iter(DataLoader(test.take(seven))))
    for title, attack in attacks(model, name, brief=study.scale.brief).items():
        draw = partial(picture_rows, model, attack.run(images, labels), None)
        study.figure(f"seven-{title.lower()}", f"A seven, and what {title} makes of it", draw, f"{name}-bare")


def summarise(study: Study[Scale], reports: Mapping[str, RobustnessReport | None]) -> None:
    """Figures 3 to 6 and 12 to 18: the losses of training, and F1 for all data sets, attacks and defenses."""
    epochs = range(1, study.scale.epochs + 1)
    losses = {TITLES[name]: study.once(f"train {name}-bare", list) or [None] * len(epochs) for name in reports}
    study.figure(
        "training",
        "Training loss of the bare networks",
        lambda path: curves(path, {"": losses}, epochs, x="epoch", y="cross-entropy"),
    )
    for who, title in (
        ("paper", "on the images of the paper's protocol"),
        ("adaptive", "against an adaptive attacker"),
    ):
        panels: dict[str, dict[str, dict[str, float | None]]] = {}
        for name, report in reports.items():
            panels[TITLES[name]] = {
                attack: {
                    defense: found and found.f1
                    for defense in DEFENSES
                    for protocol in [OBLIVIOUS_BUT.get(defense, "oblivious") if who == "paper" else who]
                    for found in [score(report, defense, attack, protocol)]
                }
                for attack in ("none", *ATTACKS)
            }
        study.figure(f"f1-{who}", f"Macro F1 of each defense {title}", partial(bars, panels=panels, y="macro F1"))


if __name__ == "__main__":
    main()
