"""Paper 4: a ResNet-50 on CIFAR-10, with adversarial and with ensemble adversarial training.

Han, "Noise in the network: comparing defense methods for adversarial examples in neural networks": the table of figure
4, and its future work: three more attacks, input transformations and distillation.

    python examples/papers/paper4/run.py --data DIR --scale quick

DIR has cifar10.npz. A run that was killed goes on where it was when it is started again.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean

from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from images import Images
from networks import AlexNet, ResNet50
from plots import bars
from study import Study, left, percent, score
from training import accuracy_and_loss

import advkit
from advkit.defenses import (
    AdversarialTraining,
    BitDepthReduction,
    Defense,
    DefensiveDistillation,
    EnsembleAdversarialTraining,
    JPEGCompression,
    RandomCropRescale,
    TotalVarianceMinimization,
)

EPS = (0.3, 0.07, 0.01, 0.001)  # of the paper's FGSM images
ENSEMBLE_EPS = 8 / 255  # the paper does not say which it trained on
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

PROTOCOLS = ("oblivious", "adaptive")  # the paper's, and that of an attacker who knows the defense
BARE, ADVERSARIAL, ENSEMBLE = "ResNet-50", "adversarial training", "ensemble adversarial training"
TRANSFORMATIONS = {
    "bit depth": BitDepthReduction,
    "JPEG": JPEGCompression,
    "crop and rescale": RandomCropRescale,
    "total variance": TotalVarianceMinimization,
}


@dataclass(frozen=True)
class Scale:
    """How much is done; the defaults are the paper's."""

    width: int = 64  # of the ResNet-50's stem
    hidden: int = 4096  # neurons of AlexNet
    images: int | None = None  # to train on; all 50,000
    epochs: int = 64
    test_images: int | None = None
    attacked_images: int = 512
    further_images: int = 512  # for the future work
    transformations: tuple[str, ...] = tuple(TRANSFORMATIONS)


_NARROW = Scale(width=16, hidden=1024, test_images=1000, transformations=("bit depth", "JPEG"))
SCALES = {
    "tiny": Scale(4, 16, 32, 1, test_images=8, attacked_images=4, further_images=2, transformations=("bit depth",)),
    "quick": replace(_NARROW, images=12_000, epochs=3, attacked_images=96, further_images=24),
    "hour": replace(_NARROW, images=40_000, epochs=6, attacked_images=512, further_images=128),
    "day": Scale(epochs=8, further_images=128),
    "paper": Scale(),
}


def main(arguments: Sequence[str] | None = None) -> None:
    study: Study[Scale] = Study("paper4", SCALES, __doc__, arguments)
    train, test = study.images("cifar10", study.scale.images, study.scale.test_images)
    models = networks(study, train)
    table(study, models, test)
    study.write()
    further(study, models, train, test)
    study.write()
    print(study.report)


def networks(study: Study[Scale], train: Images) -> dict[str, nn.Module]:
    """The ResNet-50 as it is, and as the two defenses train it."""

    def alexnet() -> nn.Module:
        return advkit.Normalized(AlexNet(hidden=study.scale.hidden), MEAN, STD)

    network, fit_with = partial(resnet, study.scale.width), partial(study.training, train, study.scale.epochs)
    bare = study.trained(BARE, network, fit_with())
    source = study.trained("AlexNet", alexnet, fit_with())
    attacks = [advkit.FGSM(bare, eps) for eps in EPS]
    defenses = {
        ADVERSARIAL: AdversarialTraining(attacks),
        ENSEMBLE: EnsembleAdversarialTraining([source], advkit.FGSM(source, ENSEMBLE_EPS)),
    }
    models = {BARE: bare}
    for name, defense in defenses.items():
        models[name] = study.trained(name, network, fit_with(defense=defense))
    return models


def resnet(width: int) -> nn.Module:
    return advkit.Normalized(ResNet50(width=width), MEAN, STD)


def table(study: Study[Scale], models: dict[str, nn.Module], test: Images) -> None:
    """The paper's table: each network on clean images and under three attacks."""
    bare = models[BARE]
    fgsm = {f"FGSM, eps {eps:g}": advkit.FGSM(bare, eps) for eps in EPS}
    attacks = {**fgsm, "CW": advkit.CW(bare), "SparseL1Descent": advkit.SparseL1Descent(bare)}
    defenses = {name: model for name, model in models.items() if model is not bare}
    some = test.take(study.scale.attacked_images)
    report = study.evaluated("the paper's attacks", bare, some, attacks, defenses, PROTOCOLS)
    verdicts = [study.judged("the networks", bare, some, eps, defenses) for eps in EPS]

    rows = []
    for model, attack in product(models, ("none", "FGSM", "CW", "SparseL1Descent")):
        printed = study.paper["accuracy"].get(model, {}).get(attack)
        if attack == "none":
            clean = study.once(f"{model}: clean", lambda model=model: accuracy_and_loss(models[model], test)[0])
            rows.append([model, attack, printed, percent(clean), percent(clean), None])
            continue
        which = list(fgsm) if attack == "FGSM" else [attack]  # the paper puts its four eps into one data set
        name = "none" if model == BARE else model
        found = [[score(report, name, one, who) for one in which] for who in PROTOCOLS]
        ours = [percent(mean(one.accuracy for one in scores)) if report else None for scores in found]
        judged = [left(verdict, name) for verdict in verdicts if attack == "FGSM"]
        standing = mean(one.accuracy for one in judged) if all(judged) and judged else None
        rows.append([model, attack, printed, *ours, percent(standing)])
    study.table("Accuracy, %", ["network", "attack"], rows)
    titles = ("the paper", "ours, its protocol", "ours, adaptive")
    panels = {
        title: {model: {row[1]: row[2 + place] for row in rows if row[0] == model} for model in models}
        for place, title in enumerate(titles)
    }
    study.figure(
        "accuracy",
        "Accuracy of each network on clean images and under each attack",
        partial(bars, panels=panels, y="accuracy, %", top=100),
    )


def further(study: Study[Scale], models: dict[str, nn.Module], train: Images, test: Images) -> None:
    """The paper's future work: EAD, JSMA and DeepFool, input transformations and distillation."""
    bare = models[BARE]
    distillation = DefensiveDistillation()
    train_it = study.training(train, study.scale.epochs, defense=distillation)
    distilled = study.trained("distilled", partial(resnet, study.scale.width), train_it)
    defenses: dict[str, Defense | nn.Module] = {name: model for name, model in models.items() if model is not bare}
    defenses["distillation"] = distillation.wrap(distilled)
    defenses |= {name: TRANSFORMATIONS[name]() for name in study.scale.transformations}
    attacks = {
        "FGSM, eps 0.01": advkit.FGSM(bare, 0.01),
        "EAD": advkit.EAD(bare),
        "JSMA": advkit.JSMA(bare),
        "DeepFool": advkit.DeepFool(bare),
    }
    some = test.take(study.scale.further_images)
    report = study.evaluated("future work", bare, some, attacks, defenses, PROTOCOLS)
    verdict = study.judged("future work", bare, some, 0.01, defenses)
    rows = []
    for defense, attack in product(["none", *defenses], ["none", *attacks]):
        found = [score(report, defense, attack, who) for who in PROTOCOLS]
        found.append(left(verdict, defense) if attack.startswith("FGSM") else None)
        rows.append([defense, attack, None, *(percent(one and one.accuracy) for one in found)])
    study.table("Future work: accuracy, %", ["defense", "attack"], rows)


if __name__ == "__main__":
    main()
