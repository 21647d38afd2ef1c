"""The interface of torchattacks 3.5.1 (names, arguments, order and defaults), implemented by advkit's attacks.

Change the import, and code written for torchattacks runs. The classes wrap those of `advkit.attacks`, and their
results differ from those of torchattacks only by design: `AutoAttack` takes as many steps as its authors' code, ten
times those of torchattacks; attacks that look for the closest image, or see only outputs, return an image unchanged
where they fail; images outside [0, 1] are refused; torch is not reseeded, and a ``seed`` is for the attack alone;
the model is attacked in eval mode, and each of its modules is restored. A warning says so once.

Examples:
    >>> import advkit.compat.torchattacks as torchattacks
    >>> attack = torchattacks.PGD(model, eps=8 / 255, alpha=2 / 255, steps=10, random_start=True)
    >>> adversarials = attack(images, labels)
"""

from advkit.compat.torchattacks.attack import Attack as Attack
from advkit.compat.torchattacks.linf import (
    BIM,
    DIFGSM,
    EOTPGD,
    FFGSM,
    FGSM,
    MIFGSM,
    NIFGSM,
    PGD,
    PIFGSM,
    PIFGSMPP,
    RFGSM,
    SINIFGSM,
    SPSA,
    TIFGSM,
    TPGD,
    UPGD,
    VMIFGSM,
    VNIFGSM,
    Jitter,
)
from advkit.compat.torchattacks.others import (
    APGD,
    APGDT,
    CW,
    EADEN,
    EADL1,
    FAB,
    JSMA,
    PGDL2,
    PGDRS,
    PGDRSL2,
    AutoAttack,
    DeepFool,
    OnePixel,
    Pixle,
    SparseFool,
    Square,
)
from advkit.compat.torchattacks.wrappers import GN, LGV, VANILA, MultiAttack

__version__ = "3.5.1"
__all__ = [  # noqa: RUF022  # in torchattacks' order
    "VANILA",
    "GN",
    "FGSM",
    "BIM",
    "RFGSM",
    "PGD",
    "EOTPGD",
    "FFGSM",
    "TPGD",
    "MIFGSM",
    "UPGD",
    "APGD",
    "APGDT",
    "DIFGSM",
    "TIFGSM",
    "Jitter",
    "NIFGSM",
    "PGDRS",
    "SINIFGSM",
    "VMIFGSM",
    "VNIFGSM",
    "SPSA",
    "JSMA",
    "EADL1",
    "EADEN",
    "PIFGSM",
    "PIFGSMPP",
    "CW",
    "PGDL2",
    "DeepFool",
    "PGDRSL2",
    "SparseFool",
    "OnePixel",
    "Pixle",
    "FAB",
    "AutoAttack",
    "Square",
    "MultiAttack",
    "LGV",
]
__wrapper__ = ["LGV", "MultiAttack"]
