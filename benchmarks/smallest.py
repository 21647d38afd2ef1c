"""How close `Minimal` comes to the best of all minimal attacks, image by image, and for how many of their passes.

    python benchmarks/smallest.py --model my.module:make --images images.npz --norm l2 --out results

``make()`` gives a model in eval mode for pixels in [0, 1]; the file has arrays ``images`` (N, ...) and ``labels`` (N,).
Each attack's distances are kept in the folder, and a run that was cut off goes on where it stopped.
"""

import argparse
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from passes import Counted
from torch import Tensor, nn

import advkit


def attacks(model: nn.Module, norm: str, steps: int) -> Mapping[str, advkit.Attack]:
    """The house's own, and then all that are measured against it."""
    named = {
        "l0": [
            advkit.FMN(model, norm="l0", steps=steps),
            advkit.SigmaZero(model, steps=steps),
            advkit.SparseFool(model),
        ],
        "l1": [
            advkit.FMN(model, norm="l1", steps=steps),
            advkit.PDPGD(model, norm="l1", steps=steps),
            advkit.FAB(model, norm="l1", steps=steps // 9),
            advkit.EAD(model),
        ],
        "l2": [
            advkit.DDN(model, steps=steps),
            advkit.FMN(model, norm="l2", steps=steps),
            advkit.PDPGD(model, norm="l2", steps=steps),
            advkit.FAB(model, norm="l2", steps=steps // 9),
            advkit.SuperDeepFool(model),
            advkit.CW(model),
        ],
        "linf": [
            advkit.FMN(model, norm="linf", steps=steps),
            advkit.PDPGD(model, norm="linf", steps=steps),
            advkit.FAB(model, norm="linf", steps=steps // 9),
        ],
    }
    along = advkit.BrendelBethge(model, norm=norm, steps=steps)
    return {str(attack): attack for attack in [advkit.Minimal(model, norm=norm), *named[norm], along]}


def given_model(where: str) -> nn.Module:
    """What ``module:function`` makes."""
    module, _, make = where.partition(":")
    model: nn.Module = getattr(importlib.import_module(module), make)()
    return model.requires_grad_(False)


def read(path: Path) -> tuple[Tensor, Tensor]:
    """The images and labels of a file."""
    with np.load(path) as file:
        return torch.from_numpy(file["images"]).float(), torch.from_numpy(file["labels"]).long()


def measured(attack: advkit.Attack, images: Tensor, labels: Tensor, norm: str) -> dict[str, Any]:
    """The distances (N,), infinite where the attack failed, and the passes for an image."""
    counted = Counted(attack.model)
    found = attack.on(counted)(images, labels)
    passes = sum(one.rows * (1 + one.backwards) for one in counted.passes) / len(images)
    with torch.no_grad():
        fooled = attack.model(found).argmax(1) != labels
    distance = advkit.norms.get(norm).distance(found, images)
    return {"distance": distance.where(fooled, torch.inf), "passes": passes}


def main() -> None:
    """Measure what has not been measured, and print what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="module:function")
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--norm", required=True, choices=["l0", "l1", "l2", "linf"])
    parser.add_argument("--steps", default=300, type=int)
    parser.add_argument("--out", required=True, type=Path)
    given = parser.parse_args()
    model, (images, labels) = given_model(given.model), read(given.images)
    given.out.mkdir(parents=True, exist_ok=True)
    results = []
    for place, (name, attack) in enumerate(attacks(model, given.norm, given.steps).items()):
        path = given.out / f"{given.norm}-{place}-{type(attack).__name__}.pt"
        if not path.exists():
            torch.save(measured(attack, images, labels, given.norm), path)
        result = torch.load(path)
        results.append(result)
        distance = result["distance"]
        fooled = distance.isfinite()
        print(f"{name}: {fooled.float().mean():.1%}, mean {distance[fooled].mean():.5f}, {result['passes']:.0f} passes")
    own, *others = results
    best = torch.stack([other["distance"] for other in others]).amin(0)
    together = sum(other["passes"] for other in others)
    print(f"best of the others, image by image: mean {best.mean():.5f}, {together:.0f} passes together")
    print(
        f"Minimal over that: {own['distance'].mean() / best.mean():.4f}, {own['passes'] / together:.1%} of the passes"
    )


if __name__ == "__main__":
    main()
