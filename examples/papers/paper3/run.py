"""Paper 3: networks trained on FGSM images of a baseline, and tested on others of the same baseline.

Liu & Qian, "Developing robust networks to defend against adversarial examples": tables 1 and 2, figures 2 to 7.

    python examples/papers/paper3/run.py --data DIR --scale quick

DIR has cifar10.npz. A run that was killed goes on where it was when it is started again.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).parents[1]))

from images import Images, batches
from networks import CNN, CNNLSTM
from plots import Curve, curves
from study import Study, left, percent
from training import accuracy_and_loss

import advkit

NETWORKS = {"CNN": CNN, "CNN-LSTM": CNNLSTM}


@dataclass(frozen=True)
class Scale:
    """How much is done; the defaults are the paper's."""

    images: int | None = None  # the baseline learns from; all 50,000
    epochs: int = 10
    copied_images: int | None = None  # that each robust network learns from, together with their FGSM copies
    copied_epochs: int = 10
    training_eps: tuple[float, ...] = (0.005, 0.01, 0.015, 0.2)
    test_images: int | None = None


SCALES = {
    "tiny": Scale(images=128, epochs=1, copied_images=64, copied_epochs=1, training_eps=(0.2,), test_images=8),
    "quick": Scale(images=50_000, epochs=6, copied_images=40_000, copied_epochs=2, test_images=1000),
    "hour": Scale(epochs=8, copied_epochs=3, test_images=2000),
    "paper": Scale(),
}


def main(arguments: Sequence[str] | None = None) -> None:
    study: Study[Scale] = Study("paper3", SCALES, __doc__, arguments)
    found = {}
    for architecture in NETWORKS:
        found[architecture] = reproduce(study, architecture)
        study.write()
    compare(study, found)
    study.write()
    print(study.report)


def reproduce(study: Study[Scale], architecture: str) -> dict[str, Curve]:
    """The table of one architecture, and its figures. Returns its accuracies on the baseline's images."""
    train, test = study.images("cifar10", study.scale.images, study.scale.test_images)
    models = networks(study, architecture, train)
    testing = study.paper["testing eps"]

    @cache
    def seen_by_the_baseline(eps: float) -> TensorDataset:
        """The test images as the paper makes them: through a transform that attacks the baseline, one by one."""
        pipeline = transforms.Compose([advkit.FGSMTransform(models["baseline"], eps)])
        images, labels = zip(*test.seen_through(pipeline), strict=True)
        return TensorDataset(torch.stack(images), torch.tensor(labels))

    transferred, losses, adaptive, judged = {}, {}, {}, {}
    for name, model in models.items():
        # All images are attacked, and a wrong answer may turn right, as in the paper.
        tests = [
            study.once(
                f"{architecture} {name}: images made against the baseline, eps {eps}",
                lambda eps=eps, model=model: accuracy_and_loss(model, seen_by_the_baseline(eps)),
            )
            for eps in testing
        ]
        transferred[name] = [percent(test and test[0]) for test in tests]
        losses[name] = [test and test[1] for test in tests]
        itself = study.once(
            f"{architecture} {name}: images made against itself", partial(against_itself, model, test, testing)
        )
        adaptive[name] = [percent(itself and itself[place]) for place in range(len(testing))]
        verdicts = [eps and left(study.judged(f"{architecture} {name}", model, test, eps)) for eps in testing]
        judged[name] = [percent(verdict.accuracy) if verdict else None for verdict in verdicts]

    printed = study.paper["accuracy"][architecture]
    rows = [
        [name, f"{eps:g}", *(found[name][place] for found in (printed, transferred, adaptive, judged))]
        for name in models
        for place, eps in enumerate(testing)
    ]
    study.table(f"Accuracy of the {architecture}, %", ["trained on eps", "tested at eps"], rows)
    panels = {"the paper": printed, "ours, its protocol": transferred, "ours, adaptive": adaptive}
    study.figure(
        f"accuracy-{architecture.lower()}",
        f"Accuracy of the {architecture} over the testing eps: the paper's, ours on the baseline's images, and ours "
        "on images made against the network itself",
        lambda path: curves(path, panels, testing, x="testing eps", y="accuracy, %", limits=(0, 100)),
    )
    study.figure(
        f"loss-{architecture.lower()}",
        f"Loss of the {architecture} on the baseline's images, over the testing eps",
        lambda path: curves(path, {"ours, its protocol": losses}, testing, x="testing eps", y="cross-entropy"),
    )
    return transferred


def compare(study: Study[Scale], found: Mapping[str, Mapping[str, Curve]]) -> None:
    """Figures 2 and 3: the baselines and the best networks of both architectures, and what training gains."""
    best = str(study.scale.training_eps[-1])
    panels: dict[str, dict[str, Curve]] = {}
    changes: dict[str, dict[str, Curve]] = {}
    for title, numbers in {"the paper": study.paper["accuracy"], "ours, its protocol": found}.items():
        panels[title] = {f"{a}, {name}": numbers[a][name] for a in found for name in ("baseline", best)}
        changes[title] = {a: differences(numbers[a][best], numbers[a]["baseline"]) for a in found}
    testing = study.paper["testing eps"]
    study.figure(
        "comparison",
        f"Accuracy of the baselines and of the networks trained at eps {best}, on images made against the baseline",
        lambda path: curves(path, panels, testing, x="testing eps", y="accuracy, %", limits=(0, 100)),
    )
    study.figure(
        "change",
        f"What training at eps {best} gains over the baseline, on images made against the baseline",
        lambda path: curves(path, changes, testing, x="testing eps", y="points of accuracy"),
    )


def differences(these: Curve, those: Curve) -> Curve:
    """Those that there are."""
    pairs = zip(these, those, strict=True)
    return [None if this is None or that is None else this - that for this, that in pairs]


def networks(study: Study[Scale], architecture: str, train: Images) -> dict[str, nn.Module]:
    """The baseline, and the networks trained on its FGSM images, by the eps of these."""
    scale, network = study.scale, NETWORKS[architecture]
    baseline = study.trained(f"{architecture}-baseline", network, study.training(train, scale.epochs))
    models: dict[str, nn.Module] = {"baseline": baseline}
    clean = train.take(scale.copied_images)
    for eps in scale.training_eps:
        copies = study.work / f"{architecture}-{eps}-copies"

        def train_on_both(model: nn.Module, checkpoint: Path, eps: float = eps, copies: Path = copies) -> list[float]:
            both = advkit.data.augment(clean, advkit.data.generate(advkit.FGSM(baseline, eps), clean, copies))
            history = study.fit(model, both, scale.copied_epochs, checkpoint)
            shutil.rmtree(copies)
            return history

        models[str(eps)] = study.trained(f"{architecture}-{eps}", network, train_on_both)
    return models


def against_itself(model: nn.Module, test: Images, testing: Sequence[float]) -> list[float]:
    """The accuracy at each eps on FGSM images that are made against this very network."""
    attacks = {str(eps): advkit.FGSM(model, eps) for eps in testing}
    report = advkit.evaluate(model, batches(test), attacks)
    return [report[name].accuracy for name in attacks]


if __name__ == "__main__":
    main()
