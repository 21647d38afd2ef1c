"""Records what other libraries' minimal attacks give, in float64, for `test_minimal.py` to compare with.

Run it where adv-lib and the authors' sigma_zero_attack.py are: ``python tests/references/record_minimal.py``. It
writes ``minimal.json`` beside itself: the sizes of the changes, and the versions that gave them. The network, its
weights and the images are those of `peers.npz`.
"""

import json
import sys
import types
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

sys.modules["visdom"] = types.ModuleType("visdom")
sys.modules["visdom"].Visdom = object  # type: ignore[attr-defined]  # a plotter that adv-lib imports

from adv_lib.attacks import ddn, fmn, pdgd, pdpgd  # noqa: E402
from adv_lib.attacks.superdeepfool import sdf  # noqa: E402
from network import network  # noqa: E402
from sigma_zero_attack import sigma_zero  # noqa: E402

STEPS = 40
ORDER = {"l0": 0, "l1": 1, "l2": 2, "linf": float("inf")}


def main() -> None:
    with np.load(Path(__file__).with_name("peers.npz"), allow_pickle=False) as stored:
        arrays = {name: torch.from_numpy(stored[name]) for name in stored.files if name != "versions"}
    model = network()
    model.load_state_dict(
        {key.removeprefix("weight_"): value for key, value in arrays.items() if key.startswith("weight_")}
    )
    images, labels = arrays["images"], arrays["labels"]
    torch.set_default_dtype(torch.float64)
    answers = {
        "ddn": ("l2", ddn(model, images, labels, steps=STEPS, levels=None)),
        "sigma_zero": ("l0", sigma_zero(model, images, labels, steps=STEPS)),
        "superdeepfool": ("l2", sdf(model, images, labels)),
        "pdgd": ("l2", pdgd(model, images, labels, num_steps=10 * STEPS)),
    }
    for norm, order in ORDER.items():
        alpha = 10.0 if norm == "linf" else 1.0
        answers[f"fmn_{norm}"] = (norm, fmn(model, images, labels, norm=order, steps=STEPS, α_init=alpha))
        if norm != "l0":
            answers[f"pdpgd_{norm}"] = (norm, pdpgd(model, images, labels, norm=order, num_steps=10 * STEPS))
    sizes = {}
    for name, (norm, found) in answers.items():
        fooled = model(found).argmax(1) != labels
        size = (found - images).detach().flatten(1).norm(p=ORDER[norm], dim=1)
        sizes[name] = [float(one) if ok else None for one, ok in zip(size, fooled, strict=True)]
    recorded = {
        "versions": [
            f"adv-lib {version('adv-lib')}",
            "sigma0-advx/sigma-zero f79dedd",
            f"torch {version('torch')}",
        ],
        "command": "python tests/references/record_minimal.py",
        "steps": STEPS,
        "sizes": sizes,
    }
    Path(__file__).with_name("minimal.json").write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
