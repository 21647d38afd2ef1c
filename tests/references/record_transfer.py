"""Records what torchattacks' transfer attacks give, for `tests/attacks/transfer/test_references.py` to compare with.

Run it where torchattacks 3.5.1 is installed: ``python tests/references/record_transfer.py``. It writes
``transfer.json`` beside itself. Attacks that draw nothing are recorded image by image: in float64, the patch-wise
ones in float32, which is all that they do. Of those that draw, the mean over 50 runs of the loss that they come to,
on the network itself and on another one, and its standard error.
"""

import copy
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchattacks
from network import network

HERE = Path(__file__).parent
RUNS = 50


class Mended(torchattacks.PIFGSMPP):
    """With the kernel of the paper for each channel: torchattacks takes one axis of it for the channels."""

    def gaussian_kern(self, kernlen: int = 21, nsig: float = 3) -> torch.Tensor:
        line = torch.exp(-torch.linspace(-nsig, nsig, kernlen).square() / 2)
        kernel = torch.outer(line, line)
        return (kernel / kernel.sum()).expand(3, 1, kernlen, kernlen).contiguous()


def main() -> None:
    with np.load(HERE / "peers.npz", allow_pickle=False) as stored:
        peers = {name: torch.from_numpy(stored[name]) for name in stored.files if name != "versions"}
    model = network()
    model.load_state_dict({key.removeprefix("weight_"): peers[key] for key in peers if key.startswith("weight_")})
    images, labels, targets = peers["images"], peers["labels"], peers["targets"]

    answers = {}
    for name, more in {"NIFGSM": {}, "SINIFGSM": {"m": 3}, "MIFGSM": {"decay": 0.5}}.items():
        attack = getattr(torchattacks, name)(model, eps=8 / 255, alpha=2 / 255, steps=10, **more)
        answers[name] = attack(images, labels)
        attack.set_mode_targeted_by_label(quiet=True)
        answers[f"{name}, targeted"] = attack(images, targets)
    half = copy.deepcopy(model).float()
    for name, kind in {"PIFGSM": torchattacks.PIFGSM, "PIFGSMPP": Mended}.items():
        # Sums of these steps are exact: torchattacks takes signs of what rounding leaves of others.
        answers[name] = kind(half, max_epsilon=1 / 16, num_iter_set=8, amplification=4.0)(images.float(), labels)
    changes = {
        name: ((found.detach() - images) * 255).double().round(decimals=4).flatten().tolist()
        for name, found in answers.items()
    }

    other = copy.deepcopy(half)
    with torch.no_grad():
        for tensor in other.parameters():
            tensor.add_(0.3 * tensor.std() * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
    drawing = {
        "DIFGSM": {"decay": 1.0, "resize_rate": 0.6, "diversity_prob": 0.7},
        "TIFGSM": {"decay": 1.0, "resize_rate": 0.6, "len_kernel": 5},
        "VMIFGSM": {},
        "VNIFGSM": {},
    }
    means = {}
    for name, more in drawing.items():
        attack = getattr(torchattacks, name)(half, eps=8 / 255, alpha=2 / 255, steps=10, **more)
        torch.manual_seed(0)
        found = [attack(images.float(), labels) for _ in range(RUNS)]
        losses = torch.tensor([[F.cross_entropy(net(each), labels).item() for net in (half, other)] for each in found])
        error = losses.std(0) / RUNS**0.5
        means[name] = {"settings": more, "mean": losses.mean(0).tolist(), "error": error.tolist()}

    record = {"versions": f"torchattacks {version('torchattacks')}, torch {version('torch')}"}
    text = json.dumps({**record, "means": means, "changes in 255ths": changes})
    (HERE / "transfer.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
