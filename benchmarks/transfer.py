"""What images made on one network do to others: every transfer attack of the library, on three kinds of networks.

    python benchmarks/transfer.py cifar10.npz --folder nets --images 200 --out transfer.json

trains the networks on the first run (see ``surrogates.py``), attacks the images that all of them get right, and prints
a table in Markdown: the share of images that fool the networks that they were not made on. Each row is written as
soon as it is measured, so that the script can be stopped and started again.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from passes import Counted
from surrogates import KINDS, networks, read
from torch import Tensor, nn

import advkit
from advkit import Attack
from advkit.attacks.transfer import (
    Admix,
    BlockShuffle,
    BlockTransforms,
    EnhancedMomentum,
    InputDiversity,
    Momentum,
    PatchWise,
    PenalizedGradient,
    ScaleCopies,
    TranslationKernel,
)

Make = Callable[[nn.Module, float], Attack]


def short(name: str, **more: object) -> Make:
    """A shorthand with ten steps of a tenth of the budget, with momentum."""
    attack = getattr(advkit, name)
    return lambda model, eps: attack(model, eps=eps, alpha=eps / 10, steps=10, **more)


def composed(*parts: object) -> Make:
    return lambda model, eps: advkit.Transfer(model, list(parts), eps=eps, steps=10)


ATTACKS: dict[str, Make] = {
    "MIFGSM": short("MIFGSM"),
    "NIFGSM": short("NIFGSM"),
    "DIFGSM": short("DIFGSM", decay=1.0),
    "TIFGSM": short("TIFGSM", decay=1.0, len_kernel=5),
    "SINIFGSM": short("SINIFGSM"),
    "VMIFGSM, N=20": short("VMIFGSM", N=20),
    "VNIFGSM, N=20": short("VNIFGSM", N=20),
    "EnhancedMomentum": composed(EnhancedMomentum(), Momentum()),
    "Admix, ScaleCopies": composed(Admix(), ScaleCopies(), Momentum()),
    "PIFGSM": lambda model, eps: advkit.PIFGSM(model, eps=eps),
    "PIFGSMPP": lambda model, eps: advkit.PIFGSMPP(model, eps=eps),
    "GRA": short("GRA"),
    "PGN": short("PGN"),
    "SSA": short("SSA"),
    "SIA": short("SIA"),
    "BSR": short("BSR"),
    "BSR, 2 blocks": short("BSR", blocks=2),
    "DI + TI + MI": composed(InputDiversity(), TranslationKernel(size=5), Momentum()),
    "SIA + DI": composed(BlockTransforms(), InputDiversity(), Momentum()),
    "SIA + PGN": composed(BlockTransforms(copies=2), PenalizedGradient(samples=10), Momentum()),
    "BSR, 2 blocks + SIA": composed(BlockShuffle(blocks=2, copies=5), BlockTransforms(copies=4), Momentum()),
    "SIA + PI": composed(BlockTransforms(), PatchWise(amplification=2.5), Momentum()),
}
ENSEMBLED = ("MIFGSM", "DIFGSM", "SIA", "SIA + DI")


def fooled(models: Sequence[nn.Module], images: Tensor, labels: Tensor) -> list[float]:
    """The share of images that each model gets wrong."""
    with torch.no_grad():
        return [float((model(images).argmax(1) != labels).float().mean()) for model in models]


def measured(make: Make, nets: dict[str, nn.Module], ensemble: bool, eps: float, scene: tuple[Tensor, Tensor]) -> dict:
    """Each source against the others, or of each two against the third; and passes of an image through one network."""
    images, labels = scene
    found: dict[str, list[float]] = {"own": [], "other": []}
    passes = 0.0
    for name in nets:
        inside = [net for other, net in nets.items() if (other == name) != ensemble]
        outside = [net for net in nets.values() if all(net is not one for one in inside)]
        counted = [Counted(net) for net in inside]
        source = advkit.Ensemble(counted) if ensemble else counted[0]
        torch.manual_seed(0)
        adversarials = torch.cat(
            [make(source, eps)(*part) for part in zip(images.split(64), labels.split(64), strict=True)]
        )
        passes = sum(each.rows for one in counted for each in one.passes) / len(images)
        found["own"] += fooled(inside, adversarials, labels)
        found["other"] += fooled(outside, adversarials, labels)
    return {**{which: sum(rates) / len(rates) for which, rates in found.items()}, "passes": passes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="an .npz file, as examples/quickstart.py takes it")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / ".cache", help="where networks are kept")
    parser.add_argument("--images", type=int, default=200, help="how many (%(default)s)")
    parser.add_argument("--epochs", type=int, default=4, help="of training (%(default)s)")
    parser.add_argument("--eps", type=int, nargs="+", default=[8, 16], help="in 255ths (%(default)s)")
    parser.add_argument("--networks", nargs="+", default=list(KINDS), choices=list(KINDS), help="which (%(default)s)")
    parser.add_argument("--only", nargs="+", help="some of the attacks")
    parser.add_argument("--out", type=Path, default=Path("transfer.json"), help="what has been measured (%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)

    data = read(options.data)
    nets = networks(data, options.folder, options.epochs, options.networks)
    images, labels = data["test"]
    with torch.no_grad():
        said = [torch.cat([net(part).argmax(1) for part in images.split(64)]) for net in nets.values()]
    for name, one in zip(nets, said, strict=True):
        print(f"{name}: right on {float((one == labels).float().mean()):.1%}")
    right = torch.stack([one == labels for one in said]).all(0).nonzero().squeeze(1)[: options.images]
    scene = images[right], labels[right]

    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    names = [(name, False) for name in ATTACKS] + [(name, True) for name in ENSEMBLED if len(nets) > 2]
    for name, ensemble in names:
        row = f"{name}, ensemble of two" if ensemble else name
        for eps in options.eps:
            key = f"{row} at {eps}"
            if key not in results and (not options.only or name in options.only):
                results[key] = measured(ATTACKS[name], nets, ensemble, eps / 255, scene)
                options.out.write_text(json.dumps(results, indent=2))
                print(key, results[key], flush=True)

    print(f"\n{len(right)} images\n\n| attack | passes |" + "".join(f" {eps}/255 |" for eps in options.eps))
    print("| --- | --: |" + " --: |" * len(options.eps))
    for name, ensemble in names:
        row = f"{name}, ensemble of two" if ensemble else name
        cells = [results[key] for eps in options.eps if (key := f"{row} at {eps}") in results]
        if len(cells) == len(options.eps):
            print(f"| {row} | {cells[0]['passes']:.0f} |" + "".join(f" {cell['other']:.1%} |" for cell in cells))


if __name__ == "__main__":
    main()
