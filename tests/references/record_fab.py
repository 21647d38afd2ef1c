"""Records what the authors' FAB gives, in float64, for `tests/attacks/minimal/test_fab.py` to compare with.

It wants a checkout of github.com/fra31/auto-attack at a392200 on the path, and writes ``fab.json`` beside itself:
``PYTHONPATH=tests:AUTO_ATTACK python tests/references/record_fab.py``.
"""

import json
from pathlib import Path

import torch
from autoattack.fab_pt import FABAttack_PT
from torch import Tensor, nn

from references.network import of_fab

STEPS = (1, 10, 100)
BUDGETS = {"Linf": 0.03, "L2": 0.25, "L1": 1.2}


def distances(
    norm: str, model: nn.Module, images: Tensor, labels: Tensor, steps: int, classes: int | None
) -> list[float | None]:
    """How far each image was moved by the best of its walks; None where none came to anything."""
    attack = FABAttack_PT(model, norm=norm, n_iter=steps, device="cpu")
    order = {"Linf": torch.inf, "L2": 2, "L1": 1}[norm]
    least = torch.full(labels.shape, torch.inf)
    for rank in range(2, 2 + (classes or 1)):
        attack.target_class = rank
        found = attack.attack_single_run(images, labels, is_targeted=classes is not None)
        far = (found - images).flatten(1).norm(order, dim=1)
        least = least.minimum(far.where(far > 0, torch.inf))
    return [far if far < torch.inf else None for far in least.tolist()]


def fooled(norm: str, model: nn.Module, images: Tensor, labels: Tensor, classes: int | None) -> list[bool]:
    """The verdict within a budget."""
    attack = FABAttack_PT(
        model, norm=norm, eps=BUDGETS[norm], device="cpu", targeted=classes is not None, n_target_classes=classes or 0
    )
    verdict: list[bool] = (model(attack.perturb(images, labels)).argmax(1) != labels).tolist()
    return verdict


def main() -> None:
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]  # which it rounds its images with
    model, images, labels = of_fab()
    modes = {"targeted": 4, "untargeted": None}
    record = {
        "of": "fra31/auto-attack at a392200, FABAttack_PT, in float64",
        "by": "PYTHONPATH=tests:AUTO_ATTACK python tests/references/record_fab.py",
        "distances": {
            f"{norm.lower()}, {mode}, {steps}": distances(norm, model, images, labels, steps, classes)
            for norm in BUDGETS
            for mode, classes in modes.items()
            for steps in STEPS
        },
        "fooled": {
            f"{norm.lower()}, {mode}, {eps}": fooled(norm, model, images, labels, classes)
            for norm, eps in BUDGETS.items()
            for mode, classes in modes.items()
        },
    }
    Path(__file__).with_name("fab.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
