"""What verdicts leave of a model, what they cost in passes, and how long they take: advkit's and its peers'.

    python benchmarks/verdicts.py --model my.module:make --images images.npz --norm linf --eps 8/255 --out results

``make()`` gives a model in eval mode for pixels in [0, 1]; the file has arrays ``images`` (N, ...) and ``labels`` (N,).
Times are of this process on one thread. Each verdict is kept in the folder, and a run that was cut off goes on where it
stopped. The peers that are not installed are left out: torchattacks, adversarial-robustness-toolbox, and the authors'
own code, https://github.com/fra31/auto-attack, from a checkout on PYTHONPATH.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from passes import Counted
from smallest import given_model, read
from torch import Tensor, nn

import advkit

Verdict = Callable[[nn.Module, Tensor, Tensor, str, float], Tensor]
"""A model, images, labels, norm and eps, to which images it gets right under attack: bool (N,)."""


def by_name(name: str) -> Verdict:
    """A verdict of advkit's."""

    def verdict(model: nn.Module, images: Tensor, labels: Tensor, norm: str, eps: float) -> Tensor:
        batches = [(images, labels)]
        return advkit.evaluate(model, batches, name, norm=norm, eps=eps, flags=False, progress=False).robust

    return verdict


def authors(model: nn.Module, images: Tensor, labels: Tensor, norm: str, eps: float) -> Tensor:
    """AutoAttack as its authors have it."""
    from autoattack import AutoAttack  # type: ignore[import-not-found]

    name = {"linf": "Linf", "l2": "L2", "l1": "L1"}[norm]
    attack = AutoAttack(model, norm=name, eps=eps, version="standard", device=images.device, verbose=False, seed=0)
    found = attack.run_standard_evaluation(images, labels, bs=len(images))
    return right(model, found, labels)


def torchattacks(model: nn.Module, images: Tensor, labels: Tensor, norm: str, eps: float) -> Tensor:
    """AutoAttack as torchattacks has it."""
    import torchattacks as peer

    attack = peer.AutoAttack(model, norm={"linf": "Linf", "l2": "L2"}[norm], eps=eps, n_classes=10, seed=0)
    return right(model, attack(images, labels), labels)


def art(model: nn.Module, images: Tensor, labels: Tensor, norm: str, eps: float) -> Tensor:
    """AutoAttack as the Adversarial Robustness Toolbox has it."""
    from art.attacks.evasion import AutoAttack
    from art.estimators.classification import PyTorchClassifier

    estimator = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), tuple(images.shape[1:]), 10, clip_values=(0.0, 1.0), device_type="cpu"
    )
    order: float = {"linf": np.inf, "l2": 2}[norm]
    attack = AutoAttack(estimator, norm=order, eps=eps, eps_step=eps / 4, batch_size=len(images))
    return right(model, torch.from_numpy(attack.generate(images.numpy(), labels.numpy())), labels)


def right(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Which images the model gets right: bool (N,)."""
    with torch.no_grad():
        return model(images).argmax(1) == labels


VERDICTS: Mapping[str, tuple[str, Verdict]] = {
    'advkit, "standard"': ("advkit", by_name("standard")),
    'advkit, "autoattack"': ("advkit", by_name("autoattack")),
    "AutoAttack, its authors": ("autoattack", authors),
    "torchattacks, AutoAttack": ("torchattacks", torchattacks),
    "ART, AutoAttack": ("art", art),
}


def main() -> None:
    """Measure what has not been measured, and print what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="module:function")
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--norm", default="linf", choices=["linf", "l2", "l1"])
    parser.add_argument("--eps", required=True, type=lambda text: float(Fraction(text)))
    parser.add_argument("--out", required=True, type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, (images, labels) = given_model(given.model), read(given.images)
    given.out.mkdir(parents=True, exist_ok=True)
    print("| verdict | left | passes per image | CPU seconds | over the authors' |\n| --- | --: | --: | --: | --: |")
    rows = {}
    for place, (name, (package, verdict)) in enumerate(VERDICTS.items()):
        path = given.out / f"{given.norm}-{place}.json"
        if not path.exists():
            if find_spec(package) is None:
                continue
            counted = Counted(model)
            begin = time.process_time()
            left = verdict(counted, images, labels, given.norm, given.eps)
            seconds = time.process_time() - begin
            passes = sum(one.rows * (1 + one.backwards) for one in counted.passes) / len(images)
            path.write_text(json.dumps({"left": left.float().mean().item(), "passes": passes, "seconds": seconds}))
        rows[name] = json.loads(path.read_text())
    theirs = rows.get("AutoAttack, its authors", {}).get("seconds", float("nan"))
    for name, row in rows.items():
        ratio = row["seconds"] / theirs
        print(f"| {name} | {row['left']:.1%} | {row['passes']:,.0f} | {row['seconds']:.1f} | {ratio:.3f} |")


if __name__ == "__main__":
    main()
