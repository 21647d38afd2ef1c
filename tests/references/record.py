"""Records what other libraries give, in float64, for `test_references.py` to compare with.

Run it where torchattacks and foolbox are installed: ``python tests/references/record.py``. It writes
``peers.npz`` beside itself: weights, images, labels, answers, and the versions that gave them.
"""

from importlib.metadata import version
from pathlib import Path

import foolbox
import numpy as np
import torch
import torchattacks
from network import network

EPS, ALPHA, STEPS = 8 / 255, 2 / 255, 10


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    model = network()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            spread = 2 / max(1.0, tensor[0].numel() ** 0.5) if tensor.ndim > 1 else 0.2
            tensor.copy_(spread * torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
    images = torch.rand(8, 3, 8, 8, generator=generator, dtype=torch.float64)
    images[0, :, :2], images[1, :, :2] = 0.0, 1.0
    labels = model(images).argmax(1)
    labels[-2:] = (labels[-2:] + 1) % 5
    targets = (labels + 2) % 5

    made = {
        "fgsm": torchattacks.FGSM(model, eps=EPS),
        "mifgsm": torchattacks.MIFGSM(model, eps=EPS, alpha=ALPHA, steps=STEPS, decay=1.0),
        "pgd": torchattacks.PGD(model, eps=EPS, alpha=ALPHA, steps=STEPS, random_start=False),
        "pgd_l2": torchattacks.PGDL2(model, eps=0.5, alpha=0.1, steps=STEPS, random_start=False, eps_for_division=0.0),
    }
    answers = {f"torchattacks_{name}": attack(images, labels) for name, attack in made.items()}
    for name, attack in made.items():
        attack.set_mode_targeted_by_label(quiet=True)
        answers[f"torchattacks_{name}_targeted"] = attack(images, targets)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    linf = foolbox.attacks.LinfPGD(abs_stepsize=ALPHA, steps=STEPS, random_start=False)
    answers["foolbox_pgd"] = linf.run(wrapped, images, labels, epsilon=EPS)
    l2 = foolbox.attacks.L2PGD(abs_stepsize=0.1, steps=STEPS, random_start=False)
    answers["foolbox_pgd_l2"] = l2.run(wrapped, images, labels, epsilon=0.5)

    assert all(answer.dtype == torch.float64 for answer in answers.values())
    packages = ("torchattacks", "foolbox", "torch")
    np.savez_compressed(
        Path(__file__).with_name("peers.npz"),
        versions=np.array([f"{package} {version(package)}" for package in packages]),
        images=images.numpy(),
        labels=labels.numpy(),
        targets=targets.numpy(),
        **{f"weight_{name}": tensor.numpy() for name, tensor in model.state_dict().items()},
        **{name: answer.detach().numpy() for name, answer in answers.items()},
    )


if __name__ == "__main__":
    main()
