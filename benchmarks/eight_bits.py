"""What survives 8 bits: how many of the images that attacks fool still fool when they come back from a PNG file.

    python benchmarks/eight_bits.py cifar10.npz --images 500

Each attack is run as it is and with ``levels=256``, each of its images is written to a PNG and read again with PIL, and
the network is asked about what was read. Distances are of the images read, over those that were fooled both ways.
"""

import argparse
import io
import sys
from pathlib import Path

import torch
from networks import scene
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

import advkit

sys.path.append(str(Path(__file__).parent.parent / "examples"))
import defenses_table

ATTACKS = {
    "FGSM": lambda model: advkit.FGSM(model, eps=2 / 255),
    "PGD": lambda model: advkit.PGD(model, eps=2 / 255, generator=torch.Generator().manual_seed(0)),
    "PGD L2": lambda model: advkit.PGD(model, eps=0.25, norm="l2", generator=torch.Generator().manual_seed(0)),
    "SparseL1Descent": lambda model: advkit.SparseL1Descent(model, eps=4.0),
    "DeepFool": advkit.DeepFool,
    "CW": advkit.CW,
    "EAD": advkit.EAD,
    "JSMA": advkit.JSMA,
    "FMN Linf": lambda model: advkit.FMN(model, norm="linf"),
}


def from_png(images: Tensor) -> Tensor:
    """Images (N, C, H, W) in [0, 1] as they come back from PNG files that torchvision wrote."""
    read = []
    for image in images:
        file = io.BytesIO()
        to_pil_image((image * 255).round().to(torch.uint8)).save(file, "PNG")
        read.append(pil_to_tensor(Image.open(file)) / 255)
    return torch.stack(read)


def row(name: str, model: nn.Module, images: Tensor, labels: Tensor) -> str:
    """A line of the table for one attack."""
    attack = ATTACKS[name](model)
    calls = {"forwards": 0}
    hook = model.register_forward_hook(lambda *call: calls.update(forwards=calls["forwards"] + len(call[1][0])))
    plain = attack.run(images, labels)
    before, calls["forwards"] = calls["forwards"], 0
    on_grid = attack._with(levels=256, generator=attack.generator and attack.generator.manual_seed(0))
    found = on_grid.run(images, labels)
    hook.remove()
    read = [from_png(result.images) for result in (plain, found)]
    with torch.no_grad():
        fooled = [model(pixels).argmax(1) != labels for pixels in read]
    assert read[1].equal(found.images)
    assert fooled[1].equal(found.success)
    kept = [int((each & plain.success).sum()) / max(1, int(plain.success.sum())) for each in fooled]
    both = plain.success & fooled[1]
    far = [advkit.norms.L2.distance(pixels[both], images[both]).median() for pixels in (plain.images, read[1])]
    more = (calls["forwards"] - before) / len(images)
    return (
        f"| {name} | {int(plain.success.sum())} | {kept[0]:.1%} | {kept[1]:.1%} | {far[0]:.3f} | "
        f"{far[1] / far[0]:.3f} | {more:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="an .npz file as examples/quickstart.py takes it")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--weights", help="of the network of examples/defenses_table.py; without, one is trained")
    parser.add_argument("--attacks", nargs="*", default=list(ATTACKS), choices=ATTACKS)
    options = parser.parse_args()
    if options.weights is None:
        model, images, labels = (part := scene("cnn", options.data, "cpu")).model, *part.batch(options.images)
    else:
        data = defenses_table.Data(options.data, "cpu")
        model = defenses_table.cnn(data.train[0], 10, 24)
        model.load_state_dict(torch.load(options.weights, weights_only=True))
        images, labels = data.test[0], data.test[1]
        with torch.no_grad():
            right = (model.eval()(images).argmax(1) == labels).nonzero().squeeze(1)[: options.images]
        images, labels = images[right], labels[right]
    print("| attack | fools | after a PNG | with levels | median L2 | times | forwards more |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in options.attacks:
        print(row(name, model, images, labels), flush=True)


if __name__ == "__main__":
    main()
