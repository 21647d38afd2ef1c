"""What images made on one network do to others: every transfer attack of the library, on three kinds of networks.

    python benchmarks/transfer.py cifar10.npz --folder nets --images 200 --out transfer.json

trains the networks on the first run (see ``surrogates.py``), attacks the images that all of them get right, and prints
a table in Markdown: the share of images that fool the networks that they were not made on, and how much more that is
than MIFGSM's on the same images, with 95 % intervals over the images. Each row is written as soon as it is measured, so
that the script can be stopped and started again.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from passes import Counted
from surrogates import KINDS, networks, read, vicinity
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
    ScaleCopies,
    TranslationKernel,
)

Make = Callable[[nn.Module, float], Attack]
VICINITIES: dict[nn.Module, list[nn.Module]] = {}  # of each network, for LGV


def short(name: str, **more: object) -> Make:
    """A shorthand with ten steps of a tenth of the budget, with momentum."""
    attack = getattr(advkit, name)
    return lambda model, eps: attack(model, eps=eps, alpha=eps / 10, steps=10, **more)


def composed(*parts: object) -> Make:
    return lambda model, eps: advkit.Transfer(model, list(parts), eps=eps, steps=10)


def along_sgd(source: Counted, eps: float) -> Attack:
    """LGV's fifty steps, each on the next of the models near a network: passes through them are passes of it."""
    near = [Counted(each, source.passes) for each in VICINITIES[source.model]]
    return advkit.LGV(source, models=near, eps=eps, alpha=eps / 10)


ATTACKS: dict[str, Make] = {
    "MIFGSM": short("MIFGSM"),
    "IFGSM, 50 steps": lambda model, eps: advkit.IFGSM(model, eps=eps, alpha=eps / 10, steps=50),
    "LGV": along_sgd,
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
    "PGN, 10 places": short("PGN", samples=10),
    "SSA": short("SSA"),
    "SIA": short("SIA"),
    "BSR": short("BSR"),
    "BSR, 2 blocks": short("BSR", blocks=2),
    "DI + TI + MI": composed(InputDiversity(), TranslationKernel(size=5), Momentum()),
    "SIA + DI": composed(BlockTransforms(), InputDiversity(), Momentum()),
    "BSR, 2 blocks + SIA": composed(BlockShuffle(blocks=2, copies=5), BlockTransforms(copies=4), Momentum()),
    "SIA + DI + TI": composed(BlockTransforms(), InputDiversity(), TranslationKernel(size=5), Momentum()),
}
ENSEMBLED = ("MIFGSM", "DIFGSM", "SIA", "SIA + DI")


def fooled(models: Sequence[nn.Module], images: Tensor, labels: Tensor) -> Tensor:
    """Whether each model gets each image wrong, bool (M, N)."""
    with torch.no_grad():
        return torch.stack([model(images).argmax(1) != labels for model in models])


def measured(
    make: Make,
    nets: dict[str, nn.Module],
    sources: Sequence[str],
    ensemble: bool,
    eps: float,
    scene: tuple[Tensor, Tensor],
) -> dict:
    """Each source against the others, or the others against it; and passes of an image through one network.

    "other" is, for each image, the share of networks that it fools and was not made on.
    """
    images, labels = scene
    own, other = [], []
    passes = 0.0
    for name in sources:
        inside = [net for other, net in nets.items() if (other == name) != ensemble]
        outside = [net for net in nets.values() if all(net is not one for one in inside)]
        counted = [Counted(net) for net in inside]
        source = advkit.Ensemble(counted) if ensemble else counted[0]
        torch.manual_seed(0)
        adversarials = torch.cat(
            [make(source, eps)(*part) for part in zip(images.split(64), labels.split(64), strict=True)]
        )
        passes = sum(each.rows for one in counted for each in one.passes) / len(images)
        own.append(fooled(inside, adversarials, labels))
        other.append(fooled(outside, adversarials, labels))
    shares = torch.cat(other).double().mean(0)
    return {"own": float(torch.cat(own).double().mean()), "other": shares.tolist(), "passes": passes}


def interval(shares: Sequence[float], less: Sequence[float] | None = None) -> str:
    """The mean over images, or that of the differences, in percent, and half of its 95 % interval."""
    each = 100 * torch.tensor(shares).double()
    if less is None:
        return f"{each.mean():.1f} ± {1.96 * each.std() / len(each) ** 0.5:.1f}"
    each -= 100 * torch.tensor(less).double()
    return f"{each.mean():+.1f} ± {1.96 * each.std() / len(each) ** 0.5:.1f}"


def printed(results: dict, rows: Sequence[str], budgets: Sequence[int]) -> None:
    """The table, as far as it has been measured."""
    print("| attack | passes |" + "".join(f" {eps}/255 | over MI |" for eps in budgets))
    print("| --- | --: |" + " --: | --: |" * len(budgets))
    for row in rows:
        cells = {eps: results[f"{row} at {eps}"] for eps in budgets if f"{row} at {eps}" in results}
        if cells:
            print(f"| {row} | {next(iter(cells.values()))['passes']:.0f} |", end="")
            for eps in budgets:
                base, found = results.get(f"MIFGSM at {eps}"), cells.get(eps)
                print(f" {interval(found['other'])} |" if found else " |", end="")
                same = base["other"][: len(found["other"])] if found and base else None
                print(f" {interval(found['other'], same)} |" if same else " |", end="")
            print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="an .npz file, as examples/quickstart.py takes it")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / ".cache", help="where networks are kept")
    parser.add_argument("--images", type=int, default=200, help="how many (%(default)s)")
    parser.add_argument("--epochs", type=int, default=4, help="of training (%(default)s)")
    parser.add_argument("--eps", type=int, nargs="+", default=[8, 16], help="in 255ths (%(default)s)")
    parser.add_argument("--networks", nargs="+", default=list(KINDS), choices=list(KINDS), help="which (%(default)s)")
    parser.add_argument("--sources", nargs="+", help="those that images are made on, each against all others (all)")
    parser.add_argument("--lr", type=float, default=0.05, help="of LGV (%(default)s)")
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

    sources = options.sources or list(nets)
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    names = [(name, False) for name in ATTACKS] + [(name, True) for name in ENSEMBLED if len(nets) > 2]
    rows = {f"{name}, ensemble of two" if ensemble else name: (name, ensemble) for name, ensemble in names}
    for row, (name, ensemble) in rows.items():
        if options.only and row not in options.only:
            continue
        if name == "LGV" and any(f"{row} at {eps}" not in results for eps in options.eps):
            for of in sources:
                file = options.folder / f"{of}-{options.lr}.lgv"
                VICINITIES[nets[of]] = vicinity(nets[of], data["train"], file, options.lr)
        for eps in options.eps:
            key = f"{row} at {eps}"
            if key not in results:
                results[key] = measured(ATTACKS[name], nets, sources, ensemble, eps / 255, scene)
                options.out.write_text(json.dumps(results))
                print(key, interval(results[key]["other"]), flush=True)

    print(f"\n{len(right)} images\n")
    printed(results, list(rows), options.eps)


if __name__ == "__main__":
    main()
