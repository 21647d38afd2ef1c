"""What the pages show of two small networks on CIFAR-10: the tables of evaluation.md, and the gallery.

``python docs/measured.py evaluate --data cifar10.npz --weights DIR`` prints the tables, ``flags`` how many passes flags
take, and ``gallery`` draws docs/assets/gallery.png. DIR keeps the two networks; they are trained where it has none yet.
"""

import argparse
import copy
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import advkit
from advkit.defenses import AdversarialTraining, InputTransformation

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

from defenses_table import Batches, Data, cnn  # noqa: E402

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def trained(data: Data, folder: Path) -> tuple[nn.Module, nn.Module]:
    """A network trained on images as they are, and the same after training against PGD."""
    torch.manual_seed(0)
    images, labels = data.train
    plain = cnn(images, 10, width=24)
    robust = copy.deepcopy(plain)
    for net, name, attack, clean, count in (
        (plain, "plain", advkit.FGSM(plain), 1.0, len(labels)),
        (robust, "robust", advkit.PGD(robust, steps=3, alpha=4 / 255), 0.0, 30_000),
    ):
        file = folder / f"{name}.pt"
        if not file.exists():
            if net is robust:
                net.load_state_dict(plain.state_dict())
            batches = Batches(images[:count], labels[:count])
            optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=4 * len(batches))
            recipe = AdversarialTraining(attack, clean_ratio=clean)
            recipe.fit(net.train(), batches, optimizer, 4, batch_scheduler=schedule, autocast=torch.bfloat16)
            torch.save(net.state_dict(), file)
        net.load_state_dict(torch.load(file, weights_only=True))
    return plain.eval(), robust.eval()


class Rounding(InputTransformation):
    """Eight levels per channel."""

    differentiable = False

    def forward(self, images: Tensor) -> Tensor:
        """The nearest level."""
        return (images * 7).round() / 7


def evaluate(plain: nn.Module, robust: nn.Module, images: Tensor, labels: Tensor) -> None:
    """The two tables of evaluation.md."""
    loader = DataLoader(TensorDataset(images[:200], labels[:200]), batch_size=100)
    attacks = [advkit.FGSM(plain, eps=4 / 255), advkit.PGD(plain, eps=4 / 255), advkit.DeepFool(plain)]
    print(advkit.evaluate(plain, loader, attacks))
    print(advkit.evaluate(plain, loader, attacks[:2], {"rounding": Rounding(), "trained": robust}))


class Counting(nn.Module):
    """A network that counts the images that go through it, forwards and backwards."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.passes = net, 0

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        self.passes += len(images)
        logits: Tensor = self.net(images)
        if logits.requires_grad:
            logits.register_hook(self._backward)
        return logits

    def _backward(self, slope: Tensor) -> None:
        self.passes += len(slope)


def flags(_: nn.Module, robust: nn.Module, images: Tensor, labels: Tensor) -> None:
    """The passes of attacks and of flags, on images that the network gets right."""
    with torch.no_grad():
        right = torch.cat([robust(some).argmax(1) for some in images.split(500)]) == labels
    images, labels = images[right], labels[right]
    three = "FGSM, PGD with 20 steps, MIFGSM"
    for named, count in (
        ("FGSM", 256),
        ("PGD, 10 steps", 64),
        ("PGD, 10 steps", 600),
        (three, 64),
        (three, 256),
        (three, 600),
        ("PGD with 20 steps in Linf and in L2", 256),
        ("PGD with 20 steps, CW, DeepFool", 256),
    ):
        passes = []
        for flagged in (False, True):
            model = Counting(robust).eval()
            pgd = advkit.PGD(model, steps=20)
            attacks = {
                "FGSM": [advkit.FGSM(model)],
                "PGD, 10 steps": [advkit.PGD(model)],
                three: [advkit.FGSM(model), pgd, advkit.MIFGSM(model)],
                "PGD with 20 steps in Linf and in L2": [pgd, advkit.PGD(model, eps=0.5, steps=20, norm="l2")],
                "PGD with 20 steps, CW, DeepFool": [pgd, advkit.CW(model), advkit.DeepFool(model)],
            }[named]
            loader = DataLoader(TensorDataset(images[:count], labels[:count]), batch_size=128)
            advkit.evaluate(model, loader, attacks, flags=flagged)
            passes.append(model.passes)
        print(f"| {named} | {count:,} | {passes[0]:,} | {passes[1] - passes[0]:,} |", flush=True)


def shown(model: nn.Module, loader: DataLoader[tuple[Tensor, ...]]) -> list[tuple[str, str, advkit.Attack]]:
    """The attacks of the gallery: a name, the norm to give its distance in, and the attack."""
    seed = torch.Generator().manual_seed(0)
    return [
        ("FGSM", "linf", advkit.FGSM(model)),
        ("PGD", "linf", advkit.PGD(model, generator=seed)),
        ("Square", "linf", advkit.Square(model, generator=seed)),
        ("Universal", "linf", advkit.Universal(model, eps=16 / 255).fit(loader, epochs=3)),
        ("DeepFool", "l2", advkit.DeepFool(model)),
        ("HopSkipJump", "l2", advkit.HopSkipJump(model, max_queries=3000, generator=seed)),
        ("EAD", "l1", advkit.EAD(model)),
        ("SigmaZero", "l0", advkit.SigmaZero(model)),
        ("OnePixel", "l0", advkit.OnePixel(model, pixels=3, generator=seed)),
        ("PixelSwap", "l0", advkit.PixelSwap(model)),
        ("Patch", "l0", advkit.Patch(model, area=0.1, target=3, generator=seed).fit(loader, epochs=5)),
        ("Spatial", "", advkit.Spatial(model)),
    ]


def gallery(plain: nn.Module, images: Tensor, labels: Tensor, fitted_on: tuple[Tensor, Tensor], path: Path) -> None:
    """The same few images under a dozen attacks: what the model is shown, and the change beside it, magnified."""
    from matplotlib.figure import Figure
    from PIL import Image

    right = (plain(images[:400]).argmax(1) == labels[:400]).nonzero().flatten().tolist()
    chosen = [next(index for index in right if labels[index] == kind) for kind in (8, 5, 6, 7)]
    images, labels = images[chosen], labels[chosen]
    loader = DataLoader(TensorDataset(fitted_on[0][:1000], fitted_on[1][:1000]), batch_size=100)
    attacks = shown(plain, loader)
    figure = Figure(figsize=(9.2, 0.98 * (len(attacks) + 1)), dpi=100, facecolor="white")
    axes = figure.subplots(len(attacks) + 1, 2 * len(images))
    figure.subplots_adjust(0.135, 0.004, 0.998, 0.98, wspace=0.04, hspace=0.24)

    def draw(row: int, column: int, image: Tensor, title: str = "", color: str = "black") -> None:
        axis = axes[row, column]
        axis.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
        axis.set_title(title, fontsize=7.5, pad=2, color=color)

    for axis in axes.flat:
        axis.axis("off")
    for row, (name, norm, attack) in enumerate([("no attack", "", None), *attacks]):
        result = attack.run(images, labels) if attack else None
        said = result.predictions if result else labels
        told = name
        if result is not None:
            told += f"\n{length(norm, result) if norm else 'turned, shifted'}"
            print(told.replace("\n", ": "), f"({int(result.success.sum())} of {len(labels)})")
        axes[row, 0].text(-0.08, 0.5, told, transform=axes[row, 0].transAxes, ha="right", va="center", fontsize=8.5)
        for column, image in enumerate(result.images if result else images):
            fooled = bool(said[column] != labels[column])
            draw(row, 2 * column, image, NAMES[int(said[column])], "#b00020" if fooled else "black")
            if result is not None:
                change = image - images[column]
                draw(row, 2 * column + 1, 0.5 + change / (2 * change.abs().max().clamp_min(1e-9)))
    kept = io.BytesIO()
    figure.savefig(kept, format="png")
    Image.open(kept).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def length(norm: str, result: advkit.AdversarialResult) -> str:
    """The median distance of the images that fool, as one says it in the norm."""
    if norm == "l0":
        sizes = (result.images != result.originals).any(1).flatten(1).sum(1).float()  # pixels, whatever their channels
    else:
        sizes = result.distance(norm)
    middle = float(sizes[result.success].median())
    return {
        "linf": f"Linf {middle * 255:.0f}/255",
        "l2": f"L2 {middle:.2f}",
        "l1": f"L1 {middle:.1f}",
        "l0": f"{middle:.0f} pixel{'s' * (middle != 1)}",
    }[norm]


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["evaluate", "flags", "gallery"])
    parser.add_argument("--data", required=True, help="an .npz file of bytes: x_train, y_train, x_test, y_test")
    parser.add_argument("--weights", type=Path, required=True, help="a folder for plain.pt and robust.pt")
    asked = parser.parse_args(arguments)
    data = Data(asked.data, "cpu")
    plain, robust = trained(data, asked.weights)
    images, labels = data.test
    if asked.what == "gallery":
        gallery(plain, images, labels, data.train, ROOT / "docs" / "assets" / "gallery.png")
    else:
        {"evaluate": evaluate, "flags": flags}[asked.what](plain, robust, images, labels)


if __name__ == "__main__":
    main()
