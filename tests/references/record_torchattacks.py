"""Records torchattacks' classes and what some of them give, for `tests/compat/test_torchattacks.py` to compare with.

Run it where torchattacks 3.5.1 is installed: ``PYTHONPATH=tests python tests/references/record_torchattacks.py``. It
writes ``torchattacks.json`` beside itself: the arguments with their defaults, and the modes, of each class; the methods
of the base class; and what attacks give that draw nothing, in float64, on numbers whose sums are exact.
"""

import inspect
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torchattacks
from smooth import dyadic_images, smooth_net

STEPS = {"eps": 1 / 4, "alpha": 1 / 16, "steps": 6}
RUN: dict[str, dict[str, Any]] = {
    "FGSM": {"eps": 1 / 8},
    "BIM": STEPS,
    "PGD": {**STEPS, "random_start": False},
    "EOTPGD": {**STEPS, "random_start": False},
    "PGDL2": {"eps": 1.0, "alpha": 0.25, "steps": 6, "random_start": False},
    "MIFGSM": STEPS,
    "NIFGSM": STEPS,
    "SINIFGSM": STEPS,
    "UPGD": {**STEPS, "decay": 0.5},
    "DeepFool": {},
}


def one(kind: Any, model: Any, **settings: Any) -> Any:
    if kind is torchattacks.MultiAttack:
        return kind([torchattacks.FGSM(model), torchattacks.FGSM(model)])
    return kind(model, [], **settings) if kind is torchattacks.LGV else kind(model, **settings)


def main() -> None:
    model, images = smooth_net(), dyadic_images(4)
    labels = model(images).argmax(1)
    classes, answers = {}, {}
    for name in torchattacks.__all__:
        kind = getattr(torchattacks, name)
        known = inspect.signature(kind).parameters.values()
        defaults = {each.name: each.default for each in known if each.default is not each.empty}
        classes[name] = {
            "needs": [each.name for each in known if each.default is each.empty and each.kind is not each.VAR_KEYWORD],
            "defaults": {key: getattr(each, "__name__", each) for key, each in defaults.items()},
            "modes": one(kind, model).supported_mode,
        }
    for name, settings in RUN.items():
        attack = one(getattr(torchattacks, name), model, **settings)
        answers[name] = attack(images, labels)
        if "targeted" in attack.supported_mode:
            attack.set_mode_targeted_least_likely(kth_min=2, quiet=True)
            answers[f"{name}, targeted"] = attack(images, labels)
    record = {
        "version": f"torchattacks {version('torchattacks')}",
        "classes": classes,
        "methods": sorted(name for name in vars(torchattacks.attack.Attack) if not name.startswith("_")),
        "settings": RUN,
        "changes": {name: (found - images).double().flatten().tolist() for name, found in answers.items()},
    }
    for name, changes in record["changes"].items():
        record["changes"][name] = [round(each, 7) for each in changes]
    Path(__file__).with_name("torchattacks.json").write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
