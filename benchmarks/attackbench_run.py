"""advkit's minimal attacks under AttackBench's protocol: 2,000 forwards and backwards per image, and their optimality.

    pip install --no-deps attackbenchlib==2.0.2
    python benchmarks/attackbench_run.py --model my.module:make --images images.npz --norm l2

``make()`` gives a model in eval mode for pixels in [0, 1]; the file has arrays ``images`` (N, ...) and ``labels`` (N,).
AttackBench (Cinà et al., AAAI 2025) notes the closest success of each image within the budget, whatever is returned.
The optimality is that of its `metrics`, against the closest of all the attacks, image by image.
"""

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
from smallest import attacks, given_model, read
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import advkit


def wrapped(attack: advkit.Attack) -> Callable[..., Tensor]:
    """Any attack as AttackBench calls it."""

    def run(model: nn.Module, inputs: Tensor, labels: Tensor, **_: Any) -> Tensor:
        return attack.on(model)(inputs, labels)

    return run


def main() -> None:
    """Run each attack, and print what AttackBench says of it."""
    if importlib.util.find_spec("wandb") is None:  # which it imports, and nothing here is downloaded
        sys.modules["wandb"] = MagicMock()
    import attackbench
    from attackbench.metrics.optimality import compute_local_optimality

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="module:function")
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--norm", required=True, choices=["l0", "l1", "l2", "linf"])
    parser.add_argument("--steps", default=300, type=int)
    given = parser.parse_args()
    model, (images, labels) = given_model(given.model), read(given.images)
    loader = DataLoader(TensorDataset(images, labels), batch_size=64)
    results = {}
    for name, attack in attacks(model, given.norm, given.steps).items():
        custom = attackbench.create_custom_attack(wrapped(attack), attack_name=name)
        device = next(model.parameters(), torch.zeros(0)).device
        results[name] = attackbench.run_attack(model, loader, custom, given.norm, device, debug=True)
    for name, result in results.items():
        found = compute_local_optimality(
            result, reference_results=list(results.values()), threat_model=given.norm, use_wandb=False
        )
        asked = sum(result["num_forwards"]) + sum(result["num_backwards"])
        success = sum(result["adv_success"]) / len(labels)
        print(f"{name}: success {success:.1%}, {asked / len(labels):.0f} passes, optimality {found['optimality']:.4f}")


if __name__ == "__main__":
    main()
