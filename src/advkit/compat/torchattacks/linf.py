"""torchattacks' attacks in Linf, with its arguments and defaults, and which of advkit's each of them is.

Arguments without a meaning in advkit are accepted and ignored: the batch size (``max_batch_size``), and
``momentum`` and ``prob``, which torchattacks does not read either.
"""

from typing import Any

from advkit import attacks
from advkit.attack import Attack
from advkit.attacks.transfer import EOT, Momentum, RandomStart
from advkit.compat.torchattacks.made import named, row

_STEPS: dict[str, Any] = {"eps": 8 / 255, "alpha": 2 / 255, "steps": 10}
_DIVERSE = {"resize_rate": 0.9, "diversity_prob": 0.5, "random_start": False}
_PATCHES = {"max_epsilon": 16 / 255, "num_iter_set": 10, "momentum": 1.0, "amplification": 10.0, "prob": 0.7}
_OF_PATCHES = {"max_epsilon": "eps", "num_iter_set": "steps"}

FGSM = named("FGSM", attacks.FGSM, {"eps": 8 / 255})
PGD = named("PGD", attacks.PGD, {**_STEPS, "random_start": True})
EOTPGD = named(
    "EOTPGD", attacks.PGD, {**_STEPS, "eot_iter": 2, "random_start": True}, renamed={"eot_iter": "eot_samples"}
)
TPGD = named("TPGD", attacks.TPGD, _STEPS, aimed=False)
Jitter = named("Jitter", attacks.Jitter, {**_STEPS, "scale": 10, "std": 0.1, "random_start": True})
MIFGSM = named("MIFGSM", attacks.MIFGSM, {**_STEPS, "decay": 1.0})
NIFGSM = named("NIFGSM", attacks.NIFGSM, {**_STEPS, "decay": 1.0})
SINIFGSM = named("SINIFGSM", attacks.SINIFGSM, {**_STEPS, "decay": 1.0, "m": 5})
VMIFGSM = named("VMIFGSM", attacks.VMIFGSM, {**_STEPS, "decay": 1.0, "N": 5, "beta": 3 / 2})
VNIFGSM = named("VNIFGSM", attacks.VNIFGSM, {**_STEPS, "decay": 1.0, "N": 5, "beta": 3 / 2})
DIFGSM = named("DIFGSM", attacks.DIFGSM, {**_STEPS, "decay": 0.0, **_DIVERSE})
TIFGSM = named(
    "TIFGSM",
    attacks.TIFGSM,
    {**_STEPS, "decay": 0.0, "kernel_name": "gaussian", "len_kernel": 15, "nsig": 3, **_DIVERSE},
)
PIFGSM = named("PIFGSM", attacks.PIFGSM, _PATCHES, renamed=_OF_PATCHES, unread=("momentum", "prob"), aimed=False)
PIFGSMPP = named(
    "PIFGSMPP",
    attacks.PIFGSMPP,
    {**_PATCHES, "project_factor": 0.8},
    renamed=_OF_PATCHES,
    unread=("momentum", "prob"),
)
SPSA = named(
    "SPSA",
    attacks.SPSA,
    {"eps": 0.3, "delta": 0.01, "lr": 0.01, "nb_iter": 1, "nb_sample": 128, "max_batch_size": 64},
    renamed={"nb_iter": "steps", "nb_sample": "samples"},
    unread=("max_batch_size",),
)


@row
def BIM(model: Any, eps: float = 8 / 255, alpha: float = 2 / 255, steps: int = 10) -> Attack:
    steps = steps or int(min(255 * eps + 4, 1.25 * 255 * eps))
    return attacks.IFGSM(model, eps, alpha, steps)


@row
def RFGSM(model: Any, eps: float = 8 / 255, alpha: float = 2 / 255, steps: int = 10) -> Attack:
    start = RandomStart(min(1.0, alpha / eps) if eps else 0.0, signs=True)
    return attacks.Transfer(model, [start], eps, alpha, steps)


@row
def FFGSM(model: Any, eps: float = 8 / 255, alpha: float = 10 / 255) -> Attack:
    return attacks.PGD(model, eps, alpha, steps=1)


@row
def UPGD(
    model: Any,
    eps: float = 8 / 255,
    alpha: float = 2 / 255,
    steps: int = 10,
    random_start: bool = False,
    loss: Any = "ce",
    decay: float = 1.0,
    eot_iter: int = 1,
) -> Attack:
    start = [RandomStart()] if random_start else []
    parts = [*start, EOT(eot_iter), Momentum(decay)]
    return attacks.Transfer(model, parts, eps, alpha, steps, loss=loss)
