"""torchattacks' attacks in Linf, with its arguments and defaults, and which of advkit's each of them is.

Arguments that say nothing to advkit are taken and not read: how much is asked at once (``max_batch_size``), and
``momentum`` and ``prob``, which torchattacks does not read either.
"""

from typing import Any

from advkit import attacks
from advkit.attack import Attack
from advkit.attacks.transfer import EOT, Momentum, RandomStart
from advkit.compat.torchattacks.made import row, untargeted


@row
def FGSM(model: Any, eps: float = 8 / 255) -> Attack:
    return attacks.FGSM(model, eps)


@row
def BIM(model: Any, eps: float = 8 / 255, alpha: float = 2 / 255, steps: int = 10) -> Attack:
    steps = steps or int(min(255 * eps + 4, 1.25 * 255 * eps))
    return attacks.IFGSM(model, eps, alpha, steps)


@row
def RFGSM(model: Any, eps: float = 8 / 255, alpha: float = 2 / 255, steps: int = 10) -> Attack:
    start = RandomStart(min(1.0, alpha / eps) if eps else 0.0, signs=True)
    return attacks.Transfer(model, [start], eps, alpha, steps)


@row
def PGD(model: Any, eps: float = 8 / 255, alpha: float = 2 / 255, steps: int = 10, random_start: bool = True) -> Attack:
    return attacks.PGD(model, eps, alpha, steps, random_start)


@row
def EOTPGD(
    model: Any,
    eps: float = 8 / 255,
    alpha: float = 2 / 255,
    steps: int = 10,
    eot_iter: int = 2,
    random_start: bool = True,
) -> Attack:
    return attacks.PGD(model, eps, alpha, steps, random_start, eot_samples=eot_iter)


@row
def FFGSM(model: Any, eps: float = 8 / 255, alpha: float = 10 / 255) -> Attack:
    return attacks.PGD(model, eps, alpha, steps=1)


@untargeted
def TPGD(model: Any, eps: float = 8 / 255, alpha: float = 2 / 255, steps: int = 10) -> Attack:
    return attacks.TPGD(model, eps, alpha, steps)


@row
def MIFGSM(model: Any, eps: float = 8 / 255, alpha: float = 2 / 255, steps: int = 10, decay: float = 1.0) -> Attack:
    return attacks.MIFGSM(model, eps, alpha, steps, decay)


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


@row
def DIFGSM(
    model: Any,
    eps: float = 8 / 255,
    alpha: float = 2 / 255,
    steps: int = 10,
    decay: float = 0.0,
    resize_rate: float = 0.9,
    diversity_prob: float = 0.5,
    random_start: bool = False,
) -> Attack:
    return attacks.DIFGSM(
        model,
        eps,
        alpha,
        steps,
        decay=decay,
        resize_rate=resize_rate,
        diversity_prob=diversity_prob,
        random_start=random_start,
    )


@row
def TIFGSM(
    model: Any,
    eps: float = 8 / 255,
    alpha: float = 2 / 255,
    steps: int = 10,
    decay: float = 0.0,
    kernel_name: Any = "gaussian",
    len_kernel: int = 15,
    nsig: float = 3,
    resize_rate: float = 0.9,
    diversity_prob: float = 0.5,
    random_start: bool = False,
) -> Attack:
    return attacks.TIFGSM(
        model,
        eps,
        alpha,
        steps,
        decay=decay,
        kernel_name=kernel_name,
        len_kernel=len_kernel,
        nsig=nsig,
        resize_rate=resize_rate,
        diversity_prob=diversity_prob,
        random_start=random_start,
    )


@row
def Jitter(
    model: Any,
    eps: float = 8 / 255,
    alpha: float = 2 / 255,
    steps: int = 10,
    scale: float = 10,
    std: float = 0.1,
    random_start: bool = True,
) -> Attack:
    return attacks.Jitter(model, eps, alpha, steps, scale, std, random_start)


@row
def NIFGSM(model: Any, eps: float = 8 / 255, alpha: float = 2 / 255, steps: int = 10, decay: float = 1.0) -> Attack:
    return attacks.NIFGSM(model, eps, alpha, steps, decay=decay)


@row
def SINIFGSM(
    model: Any, eps: float = 8 / 255, alpha: float = 2 / 255, steps: int = 10, decay: float = 1.0, m: int = 5
) -> Attack:
    return attacks.SINIFGSM(model, eps, alpha, steps, decay=decay, m=m)


@row
def VMIFGSM(
    model: Any,
    eps: float = 8 / 255,
    alpha: float = 2 / 255,
    steps: int = 10,
    decay: float = 1.0,
    N: int = 5,
    beta: float = 3 / 2,
) -> Attack:
    return attacks.VMIFGSM(model, eps, alpha, steps, decay=decay, N=N, beta=beta)


@row
def VNIFGSM(
    model: Any,
    eps: float = 8 / 255,
    alpha: float = 2 / 255,
    steps: int = 10,
    decay: float = 1.0,
    N: int = 5,
    beta: float = 3 / 2,
) -> Attack:
    return attacks.VNIFGSM(model, eps, alpha, steps, decay=decay, N=N, beta=beta)


@row
def SPSA(
    model: Any,
    eps: float = 0.3,
    delta: float = 0.01,
    lr: float = 0.01,
    nb_iter: int = 1,
    nb_sample: int = 128,
    max_batch_size: int = 64,
) -> Attack:
    return attacks.SPSA(model, eps, delta, lr, nb_iter, nb_sample)


@untargeted
def PIFGSM(
    model: Any,
    max_epsilon: float = 16 / 255,
    num_iter_set: int = 10,
    momentum: float = 1.0,
    amplification: float = 10.0,
    prob: float = 0.7,
) -> Attack:
    return attacks.PIFGSM(model, max_epsilon, steps=num_iter_set, amplification=amplification)


@row
def PIFGSMPP(
    model: Any,
    max_epsilon: float = 16 / 255,
    num_iter_set: int = 10,
    momentum: float = 1.0,
    amplification: float = 10.0,
    prob: float = 0.7,
    project_factor: float = 0.8,
) -> Attack:
    return attacks.PIFGSMPP(
        model,
        max_epsilon,
        steps=num_iter_set,
        amplification=amplification,
        project_factor=project_factor,
    )
