"""Train one small CNN in three ways, and print how much of each is verified: the second table of docs/certificates.md.

As usual, against PGD, and on interval bounds. For each: clean accuracy, what the fast verdict leaves, and what
intervals and CROWN prove. The truth lies between the verified and the robust accuracy. Weights are kept in --folder.
Nothing is downloaded.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import advkit
from advkit.defenses import AdversarialTraining, IBPTraining, TrainingDefense
from advkit.evaluation import margin_bounds


def network(shape: tuple[int, ...]) -> nn.Sequential:
    torch.manual_seed(0)
    channels, *sides = shape
    features = 16 * (sides[0] // 4) * (sides[1] // 4)
    return nn.Sequential(
        *(nn.Conv2d(channels, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 4, 2, 1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(features, 50), nn.ReLU(), nn.Linear(50, 10)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="an .npz file with x_train, y_train, x_test and y_test")
    parser.add_argument("--folder", type=Path, default=Path("verified"), help="where work is kept")
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--images", type=int, default=200, help="test images")
    parser.add_argument("--train", type=int, default=60_000, help="training images")
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with np.load(options.data) as file:
        data = {name: torch.from_numpy(file[name]) for name in ("x_train", "y_train", "x_test", "y_test")}
    for name in ("x_train", "x_test"):
        pixels = data[name].float() / 255
        data[name] = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    images, labels = data["x_test"][: options.images], data["y_test"][: options.images].long()
    eps = options.eps
    ways: dict[str, Callable[[nn.Module], TrainingDefense]] = {
        "as usual": lambda model: AdversarialTraining(advkit.FGSM(model), clean_ratio=1.0),
        "PGD": lambda model: AdversarialTraining(advkit.PGD(model, eps=eps, alpha=eps / 2, steps=5), clean_ratio=0.0),
        "IBP": lambda model: IBPTraining(eps, warmup=options.epochs / 10, ramp=options.epochs / 2),
    }
    print("| training | clean | robust, at most | verified by CROWN | by intervals |\n| --- | --: | --: | --: | --: |")
    for name, way in ways.items():
        model = network(tuple(images.shape[1:]))
        train = TensorDataset(data["x_train"][: options.train], data["y_train"][: options.train].long())
        batches = DataLoader(train, 128, shuffle=True)
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        way(model).fit(model, batches, optimizer, options.epochs, checkpoint=options.folder / f"{name}.pt")
        model.eval()
        loader = list(zip(images.split(50), labels.split(50), strict=True))
        run = options.folder / f"run {name}"
        report = advkit.evaluate(model, loader, "standard", eps=eps, certify=True, run_folder=run)
        margins = margin_bounds(model, images, labels, eps=eps, method="interval")
        proved = margins.scatter(1, labels[:, None], torch.inf).amin(1) > 0
        shown = (report.clean_accuracy, report.robust_accuracy, report.verified_accuracy, float(proved.float().mean()))
        print(f"| {name} | " + " | ".join(f"{100 * share:.1f}" for share in shown) + " |", flush=True)


if __name__ == "__main__":
    main()
