"""What one pattern for all images does to a CNN on CIFAR-10: a universal perturbation and a patch, on held-out images.

``python benchmarks/fitted.py --data cifar10.npz --out docs/assets/fitted.png`` trains the CNN of
``examples/defenses_table.py``, or reads it from ``--weights``. With ``--art`` it also fits the universal perturbation
of the Adversarial Robustness Toolbox, if that is installed, on 300 images, and ours on the same.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import advkit

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from defenses_table import Batches, Data, cnn

EPS = 10 / 255


def the_model(data: Data, weights: str | None) -> nn.Module:
    """The CNN under attack."""
    torch.manual_seed(0)
    model = cnn(data.train[0], 10, 24)
    if weights is not None:
        model.load_state_dict(torch.load(weights))
        return model.eval()
    recipe = advkit.defenses.AdversarialTraining(advkit.FGSM(model), clean_ratio=1.0)
    recipe.fit(model, Batches(*data.train), torch.optim.Adam(model.parameters(), lr=2e-3), epochs=4)
    return model.eval()


def row(name: str, attack: advkit.Attack, images: Tensor, labels: Tensor, clean: Tensor) -> None:
    """A line of the table: what the attack makes the model get wrong, and how often it changes what the model says."""
    parts = zip(images.split(500), labels.split(500), strict=True)
    said = torch.cat([attack.run(*part).predictions for part in parts])
    print(
        f"{name:40} wrong {(said != labels).float().mean():.1%}, changed {(said != clean).float().mean():.1%}",
        flush=True,
    )


def of_art(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> Tensor:
    """The universal perturbation of the Adversarial Robustness Toolbox."""
    import numpy as np
    from art.attacks.evasion import UniversalPerturbation
    from art.estimators.classification import PyTorchClassifier

    wrapped = PyTorchClassifier(model, nn.CrossEntropyLoss(), tuple(images.shape[1:]), 10, clip_values=(0, 1))
    settings = {"max_iter": 10, "verbose": False}
    theirs = UniversalPerturbation(
        wrapped, attacker="deepfool", attacker_params=settings, delta=0.0, max_iter=epochs, eps=EPS, verbose=False
    )
    theirs.generate(images.numpy(), np.eye(10)[labels.numpy()])
    return torch.from_numpy(np.asarray(theirs.noise, dtype=np.float32)).reshape(images.shape[1:])


def drawn(universal: advkit.Universal, patch: advkit.Patch, images: Tensor, labels: Tensor, file: str) -> None:
    """Both patterns, and some images with them."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    for line, (name, attack) in enumerate({"Universal": universal, "Patch": patch}.items()):
        panels: list[tuple[str, Any]] = [(f"{name}.picture()", attack.picture())]
        result = attack.run(images[:4], labels[:4])
        panels += [(CLASSES[int(said)], one) for said, one in zip(result.predictions, result.images, strict=True)]
        for place, (title, picture) in enumerate(panels):
            axes = figure.add_subplot(2, 5, 5 * line + place + 1)
            axes.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set_title(title, fontsize=9)
            axes.set_axis_off()
    figure.savefig(file, dpi=110)


CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def main() -> None:
    """Fit, judge, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="CIFAR-10 as bytes, an .npz of x_train, y_train, x_test, y_test")
    parser.add_argument("--weights", help="of the CNN; it is trained if there are none")
    parser.add_argument("--images", type=int, default=2000, help="how many to fit on, and how many to judge on")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--art", action="store_true", help="fit that of ART as well")
    parser.add_argument("--out", help="a picture of both")
    options = parser.parse_args()
    data = Data(options.data, "cpu")
    model = the_model(data, options.weights)
    images, labels = (part[: options.images] for part in data.train)
    held, truth = (part[: options.images] for part in data.test)
    with torch.no_grad():
        clean = torch.cat([model(part).argmax(1) for part in held.split(500)])
    print(f"{'no attack':40} wrong {(clean != truth).float().mean():.1%}", flush=True)
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True)
    universal = advkit.Universal(model, eps=EPS).fit(loader, epochs=options.epochs)
    row("Universal", universal, held, truth, clean)
    noise = EPS * torch.randn(images.shape[1:]).sign()
    row("random signs of the same size", advkit.Universal(model, eps=EPS, pattern=noise), held, truth, clean)
    patch = advkit.Patch(model, min_scale=1).fit(loader, epochs=options.epochs)
    row("Patch, 4.8 % of the area", patch, held, truth, clean)
    blank = patch.pattern.mean() * torch.ones_like(patch.pattern)
    row("a patch of one colour", advkit.Patch(model, min_scale=1, pattern=blank), held, truth, clean)
    if options.out:
        seen = (clean == truth).nonzero().squeeze(1)
        drawn(universal, patch, held[seen], truth[seen], options.out)
    if options.art:
        few = min(options.images, 300)
        same = DataLoader(TensorDataset(images[:few], labels[:few]), batch_size=32, shuffle=True)
        row(
            f"Universal, {few} images",
            advkit.Universal(model, eps=EPS).fit(same, epochs=options.epochs),
            held,
            truth,
            clean,
        )
        theirs = of_art(model, images[:few], labels[:few], 3)
        row(f"ART's, {few} images", advkit.Universal(model, eps=EPS, pattern=theirs), held, truth, clean)


if __name__ == "__main__":
    main()
