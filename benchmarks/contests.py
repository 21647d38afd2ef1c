"""Each attack, and how every library is called to make it on the same model, images and budget.

A peer that is not installed is skipped. Where a library cannot be given the same settings, or is better served by
others, its contender says which.
"""

import importlib.util
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import advkit

Run = Callable[[Tensor, Tensor], Tensor]
EPS, ALPHA, STEPS = 8 / 255, 2 / 255, 10


@dataclass(frozen=True)
class Contender:
    """One library's attack.

    Attributes:
        library: its name in the tables.
        start: from a model in eval mode to a function of images (N, ...) and labels (N,).
        needs: the module that has to be there.
        settings: what is not as in advkit's.
        most: the most images it is given, where it is much slower than the others; it is then timed once, while
            its passes are counted.
    """

    library: str
    start: Callable[[nn.Module], Run]
    needs: str
    settings: str = ""
    most: int | None = None

    @property
    def slow(self) -> bool:
        """Whether once is enough."""
        return self.most is not None

    @property
    def installed(self) -> bool:
        """Whether the library is there."""
        return importlib.util.find_spec(self.needs) is not None

    def __str__(self) -> str:
        return f"{self.library} {self.settings}".strip()


@dataclass(frozen=True)
class Contest:
    """An attack in several libraries.

    Attributes:
        name: of advkit's attack.
        norm: the one that success is measured in.
        contenders: advkit's first.
        most: the most images for each network on a CPU; a network that is not named is left out there.
        budget: how far an image may move in that norm.
    """

    name: str
    norm: str
    contenders: tuple[Contender, ...]
    most: Mapping[str, int] = field(default_factory=lambda: {"cnn": 256, "resnet18": 8})
    budget: float | None = None
    targeted: bool = False  # at the class after the label

    def success(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Where the model's answer is what the attack was after: bool (N,)."""
        said = logits.argmax(1)
        return said == following(labels) if self.targeted else said != labels


def following(labels: Tensor) -> Tensor:
    """The targets of a targeted contest. torchattacks' JSMA knows no others, and no other number of classes."""
    return (labels + 1) % 10


def seed() -> None:
    """Every library draws from one of these."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


def ours(attack: type[advkit.Attack], *, targeted: bool = False, says: str = "", **settings: Any) -> Contender:
    def start(model: nn.Module) -> Run:
        made = attack(model, **settings)
        return lambda images, labels: made(images, labels, targets=following(labels) if targeted else None)

    return Contender("advkit", start, "advkit", says)


def torchattacks(name: str, *, says: str = "", most: int | None = None, **settings: Any) -> Contender:
    def start(model: nn.Module) -> Run:
        import torchattacks

        return getattr(torchattacks, name)(model, **settings)

    return Contender("torchattacks", start, "torchattacks", says, most)


def foolbox(
    name: str, *, epsilon: float | None = None, says: str = "", most: int | None = None, **settings: Any
) -> Contender:
    def start(model: nn.Module) -> Run:
        import foolbox

        attack = getattr(foolbox.attacks, name)(**settings)
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=next(model.parameters()).device)
        return lambda images, labels: attack(wrapped, images, labels, epsilons=epsilon)[1]

    return Contender("foolbox", start, "foolbox", says, most)


def adv_lib(name: str, *, says: str = "", most: int | None = None, **settings: Any) -> Contender:
    def start(model: nn.Module) -> Run:
        from adv_lib import attacks

        return partial(getattr(attacks, name), model, **settings)

    return Contender("adv_lib", start, "adv_lib", says, most)


def art(name: str, *, targeted: bool = False, says: str = "", most: int | None = None, **settings: Any) -> Contender:
    def start(model: nn.Module) -> Run:
        run = partial(_art, model, name, settings)
        return lambda images, labels: run(images, following(labels) if targeted else labels)

    return Contender("ART", start, "art", says, most)


def _art(model: nn.Module, name: str, settings: Mapping[str, Any], images: Tensor, labels: Tensor) -> Tensor:
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    device = images.device
    classifier = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=int(model(images[:1]).shape[1]),
        clip_values=(0.0, 1.0),
        device_type="cpu" if device.type == "cpu" else "gpu",
    )
    make = getattr(evasion, name)
    attack = make(classifier, **settings)
    quietly = {"batch_size": len(images), "verbose": False}
    attack.set_params(**{known: value for known, value in quietly.items() if known in attack.attack_params})
    found = attack.generate(images.cpu().numpy(), labels.cpu().numpy())
    return torch.from_numpy(np.asarray(found, dtype=np.float32)).to(device)


CONTESTS = [
    Contest(
        "FGSM",
        "linf",
        (
            ours(advkit.FGSM, eps=EPS),
            torchattacks("FGSM", eps=EPS),
            foolbox("LinfFastGradientAttack", epsilon=EPS),
            art("FastGradientMethod", eps=EPS),
        ),
        most={"cnn": 256, "resnet18": 32},
        budget=EPS,
    ),
    Contest(
        "MIFGSM",
        "linf",
        (
            ours(advkit.MIFGSM, eps=EPS, alpha=ALPHA, steps=STEPS),
            torchattacks("MIFGSM", eps=EPS, alpha=ALPHA, steps=STEPS),
            foolbox(
                "LinfMomentumIterativeFastGradientMethod",
                epsilon=EPS,
                steps=STEPS,
                abs_stepsize=ALPHA,
                random_start=False,
            ),
            art("MomentumIterativeMethod", eps=EPS, eps_step=ALPHA, max_iter=STEPS),
        ),
        budget=EPS,
    ),
    Contest(
        "PGD",
        "linf",
        (
            ours(advkit.PGD, eps=EPS, alpha=ALPHA, steps=STEPS, random_start=False),
            torchattacks("PGD", eps=EPS, alpha=ALPHA, steps=STEPS, random_start=False),
            foolbox("LinfPGD", epsilon=EPS, steps=STEPS, abs_stepsize=ALPHA, random_start=False),
            adv_lib(
                "pgd_linf",
                **{"\N{GREEK SMALL LETTER EPSILON}": EPS},
                steps=STEPS,
                absolute_step_size=ALPHA,
                random_init=False,
            ),
            art("ProjectedGradientDescentPyTorch", eps=EPS, eps_step=ALPHA, max_iter=STEPS),
        ),
        budget=EPS,
    ),
    Contest(
        "DeepFool",
        "l2",
        (
            ours(advkit.DeepFool),
            torchattacks("DeepFool", steps=50, overshoot=0.02, most=16),
            foolbox("L2DeepFoolAttack", steps=50, overshoot=0.02, candidates=10),
            adv_lib("df", steps=50, overshoot=0.02),
            art("DeepFool", max_iter=50, epsilon=0.02, nb_grads=10, most=8),
        ),
        most={"cnn": 64},
    ),
    Contest(
        "CW",
        "l2",
        (
            ours(advkit.CW),
            torchattacks("CW", c=1, steps=1000, lr=0.01, says="c=1, 1000 steps"),
            foolbox("L2CarliniWagnerAttack", binary_search_steps=9, steps=1000, says="9 x 1000 steps", most=8),
            adv_lib("carlini_wagner_l2", max_iterations=1000, says="9 x 1000 steps", most=8),
            art("CarliniL2Method", says="10 x 10 steps", most=8),
        ),
        most={"cnn": 8},
    ),
    Contest(
        "EAD",
        "l1",
        (
            ours(advkit.EAD),
            torchattacks("EADL1", max_iterations=100, says="9 x 100 steps"),
            foolbox("EADAttack", binary_search_steps=9, steps=100, decision_rule="L1", says="9 x 100 steps"),
            art("ElasticNet", binary_search_steps=9, max_iter=100, decision_rule="L1", says="9 x 100 steps", most=1),
        ),
        most={"cnn": 8},
    ),
    Contest(
        "JSMA",
        "l0",
        (
            ours(advkit.JSMA, targeted=True, theta=1.0, gamma=0.1),
            ours(advkit.JSMA, targeted=True, theta=1.0, gamma=0.1, pairs=1, says="pairs=1"),
            torchattacks("JSMA", theta=1.0, gamma=0.1, most=2),
            art("SaliencyMapMethod", targeted=True, theta=1.0, gamma=0.1),
            art("SaliencyMapMethod", targeted=True, theta=0.1, gamma=1.0, says="theta 0.1, gamma 1"),
        ),
        most={"cnn": 8},
        targeted=True,
    ),
    Contest(
        "SparseL1Descent",
        "l1",
        (
            ours(advkit.SparseL1Descent, eps=12.0, steps=50),
            foolbox("SparseL1DescentAttack", epsilon=12.0, steps=50, quantile=0.99, rel_stepsize=0.2),
        ),
        most={"cnn": 32},
        budget=12.0,
    ),
    Contest(
        "OnePixel",
        "l0",
        (
            ours(advkit.OnePixel, pixels=1, steps=10, popsize=10),
            torchattacks("OnePixel", pixels=1, steps=10, popsize=10),
            art("PixelAttack", th=1, es=1, max_iter=10, says="its own population", most=2),
        ),
        most={"cnn": 64},
    ),
    Contest(
        "Pixle",
        "l0",
        (
            ours(advkit.Pixle, restarts=20, iterations=10, patch=(2, 10)),
            torchattacks("Pixle", restarts=20, max_iterations=10, x_dimensions=(2, 10), y_dimensions=(2, 10)),
        ),
        most={"cnn": 16},
    ),
    Contest("PixelSwap", "l0", (ours(advkit.PixelSwap),), most={"cnn": 16}),
]
