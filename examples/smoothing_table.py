"""Certify a smoothed network, attack it within the same radii, and print the table of docs/certificates.md.

For each sigma a small CNN is trained on noise of that size. Certified is the share of test images whose class is right
and proved as far as the radius; attacked is the share on which the smoothed classifier, asked anew,
does not say another class after an attack within the radius that knows the noise. The first can never be above the
second but for errors of probability alpha: the script checks image by image.

Weights, certificates and attacked images are kept in --folder: stop the script when you like, and start it again to go
on. Nothing is downloaded.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn

import advkit
from advkit.defenses import Certificates, RandomizedSmoothing
from defenses_table import Batches, Data, cnn


def trained(smoothing: RandomizedSmoothing, data: Data, options: argparse.Namespace) -> nn.Module:
    """A CNN trained on noise; the checkpoint goes on where it was stopped."""
    torch.manual_seed(0)
    images, labels = data.train
    model = cnn(images, int(labels.max()) + 1, options.width)
    if options.start:
        model.load_state_dict(torch.load(options.start, weights_only=True)["model"])
    batches = Batches(images[: options.train], labels[: options.train])
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=options.epochs * len(batches))
    file = options.folder / f"{smoothing.sigma:g}.pt"
    how = {"batch_scheduler": schedule, "checkpoint": file, "progress": options.progress}
    smoothing.fit(model, batches, optimizer, options.epochs, **how)
    return model.eval()


def attacked(
    smoothing: RandomizedSmoothing,
    model: nn.Module,
    found: Certificates,
    data: Data,
    eps: float,
    options: argparse.Namespace,
) -> Tensor:
    """What the smoothed classifier says of images attacked within eps: int64 (N,), -1 where it abstains."""
    file = options.folder / f"{smoothing.sigma:g}-{eps:g}-{options.images}-{options.judge}-{options.steps}.json"
    if not file.exists():
        images, labels = data.test[0][: options.images], data.test[1][: options.images]
        right = found.classes == found.labels
        said = found.classes.clone()
        attack = advkit.PGD(smoothing.wrap(model), norm="l2", eps=eps, alpha=eps / 5, steps=options.steps)
        rows = right.nonzero().squeeze(1)
        for some in rows.split(50):
            said[some] = smoothing.predict(model, attack(images[some], labels[some]), n=options.judge)
        file.write_text(json.dumps(said.tolist()), encoding="utf-8")
    return torch.tensor(json.loads(file.read_text(encoding="utf-8")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="an .npz file with x_train, y_train, x_test and y_test")
    parser.add_argument("--folder", type=Path, default=Path("smoothing"), help="where work is kept")
    parser.add_argument("--sigmas", type=float, nargs="+", default=[0.25, 0.5])
    parser.add_argument("--radii", type=float, nargs="+", default=[0.25, 0.5, 0.75])
    parser.add_argument("--images", type=int, default=200, help="test images")
    parser.add_argument("--n", type=int, default=1000, help="draws that certify")
    parser.add_argument("--judge", type=int, default=1000, help="draws that judge an attacked image")
    parser.add_argument("--steps", type=int, default=20, help="of PGD")
    parser.add_argument("--train", type=int, default=50_000, help="training images")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--start", type=Path, help="weights to train on from: the .pt of another sigma, in its folder")
    parser.add_argument("--width", type=int, default=16, help="of the CNN")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--progress", action="store_true", default=None)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    data = Data(options.data, options.device)
    images, labels = data.test[0][: options.images], data.test[1][: options.images]
    loader = list(zip(images.split(20), labels.split(20), strict=True))
    print("| sigma | radius | certified | attacked | abstains |\n| --- | --- | --: | --: | --: |")
    for sigma in options.sigmas:
        smoothing = RandomizedSmoothing(sigma)
        model = trained(smoothing, data, options)
        run = options.folder / f"certify-{sigma:g}-{options.images}-{options.n}"
        found = smoothing.certify_loader(model, loader, n=options.n, run_folder=run, progress=options.progress)
        print(f"| {sigma:g} | 0 | {100 * found.accuracy(0):.1f} | | |", flush=True)
        for eps in options.radii:
            torch.manual_seed(0)
            said = attacked(smoothing, model, found, data, eps, options)
            certified = (found.classes == found.labels) & (found.radii >= eps)
            stands = (found.classes == found.labels) & ((said == found.labels) | (said == -1))
            shown = [100 * float(part.double().mean()) for part in (certified, stands, stands & (said == -1))]
            print(f"| {sigma:g} | {eps:g} | " + " | ".join(f"{share:.1f}" for share in shown) + " |", flush=True)
            if wrong := int((certified & ~stands).sum()):
                print(f"{wrong} certified images were fooled: one of the two is wrong")


if __name__ == "__main__":
    main()
