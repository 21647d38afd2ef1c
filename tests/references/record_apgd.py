"""Records runs of AutoAttack's APGD, in float64, for `tests/attacks/budget/test_apgd.py` to compare with.

    git clone https://github.com/fra31/auto-attack && git -C auto-attack checkout a392200
    PYTHONPATH=tests:auto-attack python tests/references/record_apgd.py

writes ``apgd.json`` beside itself. For each run: the numbers that the start was made of, the loss at each look and the
length of each step where it changes, image by image, and where the images stood at some of the looks.
"""

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from autoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor

from references.smooth import dyadic_images, smooth_net

# Small enough that no image becomes its label's third choice, where the DLR is flat and a gradient is rounding alone.
EPS = {"linf": 0.06, "l2": 0.2, "l1": 0.12}
STEPS = 100
PLACES = (0, 1, 2, 23, 57, 100)  # looks
DIGITS = 8


class Watched:
    """The network, with a look at what the attack that asks it knows."""

    def __init__(self) -> None:
        self.model = smooth_net()
        self.looks: list[Tensor] = []
        self.lengths: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.looks.append(x.detach().clone())
        frame: Any = inspect.currentframe()
        while frame.f_code.co_name != "attack_single_run":
            frame = frame.f_back
        if "i" in frame.f_locals:
            self.lengths.append(frame.f_locals["step_size"].flatten().clone())
        logits: Tensor = self.model(x)
        return logits


def listed(values: Any) -> list[Any]:
    return [round(value, DIGITS) for value in torch.as_tensor(values).flatten().tolist()]


def changes(lengths: list[Tensor]) -> dict[str, list[float]]:
    """The lengths of the steps from a step on, wherever one of them is not what it was."""
    found: dict[str, list[float]] = {}
    for step, each in enumerate(lengths):
        if not step or not each.equal(lengths[step - 1]):
            found[str(step)] = listed(each)
    return found


def recorded(norm: str, loss: str, images: Tensor, labels: Tensor, targets: Tensor) -> dict[str, Any]:
    model, name = Watched(), {"linf": "Linf", "l2": "L2", "l1": "L1"}[norm]
    options: dict[str, Any] = {"n_iter": STEPS, "norm": name, "eps": EPS[norm], "device": "cpu"}
    if loss == "targeted":
        attack = APGDAttack_targeted(model, **options)
        attack.y_target = targets
    else:
        attack = APGDAttack(model, loss=loss, **options)
    attack.init_hyperparam(images)
    torch.manual_seed(0)
    noise = 2 * torch.rand(images.shape) - 1 if norm == "linf" else torch.randn(images.shape)
    torch.manual_seed(0)
    if norm == "l1":
        attack.decr_eps_pgd(images, labels, [3 * EPS[norm], 2 * EPS[norm], EPS[norm]], [30, 30, 40])
    else:
        attack.attack_single_run(images, labels)
    losses = {
        "ce": lambda z: torch.nn.functional.cross_entropy(z, labels, reduction="none"),
        "dlr": lambda z: attack.dlr_loss(z, labels),
        "targeted": lambda z: attack.dlr_loss_targeted(z, labels),
    }
    logits = [model.model(x) for x in model.looks]
    return {
        "norm": norm,
        "loss": loss,
        "eps": EPS[norm],
        "noise": noise.flatten().tolist(),
        "losses": [listed(losses[loss](z)) for z in logits],
        "lengths": changes(model.lengths),
        "places": {str(look): listed(model.looks[look]) for look in PLACES},
    }


def main() -> None:
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[assignment]  # the reference asks for float32 by name
    images = dyadic_images(4)[1:]
    ranked = smooth_net()(images).argsort(1, descending=True)
    runs = [
        recorded(norm, loss, images, ranked[:, 0], ranked[:, 2]) for norm in EPS for loss in ("ce", "dlr", "targeted")
    ]
    record = {
        "reference": "fra31/auto-attack at a392200",
        "torch": torch.__version__,
        "command": "PYTHONPATH=tests:auto-attack python tests/references/record_apgd.py",
        "runs": runs,
    }
    text = json.dumps(record).replace(', "', ',\n"').replace("], [", "],\n[")
    Path(__file__).with_name("apgd.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
