"""torchattacks' attacks in other norms and in several, with its arguments and defaults, and which of advkit's each is.

Arguments that say nothing to advkit are taken and not read: ``verbose``, ``n_classes`` where all classes are known,
``abort_early``, how much is asked at once (``batch_max``, ``inf_batch``), ``eps_for_division``, and ``resc_schedule``,
since the schedule of Square is AutoAttack's. A ``seed`` is that of the attack alone.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from advkit import attacks
from advkit.attack import Attack
from advkit.compat.torchattacks.made import drawing, row, untargeted
from advkit.errors import InputError
from advkit.model import Ensemble


@untargeted
def APGD(
    model: Any,
    norm: str = "Linf",
    eps: float = 8 / 255,
    steps: int = 10,
    n_restarts: int = 1,
    seed: int | None = 0,
    loss: str = "ce",
    eot_iter: int = 1,
    rho: float = 0.75,
    verbose: bool = False,
) -> Attack:
    return attacks.APGD(
        model,
        norm.lower(),
        eps,
        steps,
        n_restarts,
        loss=loss,
        eot_samples=eot_iter,
        rho=rho,
        generator=drawing(seed),
    )


@untargeted
def APGDT(
    model: Any,
    norm: str = "Linf",
    eps: float = 8 / 255,
    steps: int = 10,
    n_restarts: int = 1,
    seed: int | None = 0,
    eot_iter: int = 1,
    rho: float = 0.75,
    verbose: bool = False,
    n_classes: int = 10,
) -> Attack:
    return attacks.APGDT(
        model,
        norm.lower(),
        eps,
        steps,
        n_restarts,
        target_classes=n_classes - 1,
        eot_samples=eot_iter,
        rho=rho,
        generator=drawing(seed),
    )


@row
def PGDRS(
    model: Any,
    eps: float = 8 / 255,
    alpha: float = 2 / 255,
    steps: int = 10,
    noise_type: str = "guassian",
    noise_sd: float = 0.5,
    noise_batch_size: int = 5,
    batch_max: int = 2048,
) -> Attack:
    smoothed = _smoothed(model, noise_type, noise_sd, noise_batch_size)
    return attacks.PGD(smoothed, eps, alpha, steps, random_start=False)


@row
def JSMA(model: Any, theta: float = 1.0, gamma: float = 0.1) -> Attack:
    return attacks.JSMA(model, theta, gamma, pairs=1)


@row
def EADL1(
    model: Any,
    kappa: float = 0,
    lr: float = 0.01,
    binary_search_steps: int = 9,
    max_iterations: int = 100,
    abort_early: bool = True,
    initial_const: float = 0.001,
    beta: float = 0.001,
) -> Attack:
    return attacks.EAD(
        model,
        kappa=kappa,
        initial_c=initial_const,
        binary_search_steps=binary_search_steps,
        steps=max_iterations,
        lr=lr,
        beta=beta,
        decision_rule="l1",
        schedule="constant",
    )


@row
def EADEN(
    model: Any,
    kappa: float = 0,
    lr: float = 0.01,
    binary_search_steps: int = 9,
    max_iterations: int = 100,
    abort_early: bool = True,
    initial_const: float = 0.001,
    beta: float = 0.001,
) -> Attack:
    return attacks.EAD(
        model,
        kappa=kappa,
        initial_c=initial_const,
        binary_search_steps=binary_search_steps,
        steps=max_iterations,
        lr=lr,
        beta=beta,
        decision_rule="elastic",
        schedule="constant",
    )


@row
def CW(model: Any, c: float = 1, kappa: float = 0, steps: int = 50, lr: float = 0.01) -> Attack:
    return attacks.CW(
        model,
        kappa=kappa,
        initial_c=c,
        binary_search_steps=1,
        steps=steps,
        lr=lr,
        schedule="constant",
    )


@row
def PGDL2(
    model: Any,
    eps: float = 1.0,
    alpha: float = 0.2,
    steps: int = 10,
    random_start: bool = True,
    eps_for_division: float = 1e-10,
) -> Attack:
    return attacks.PGD(model, eps, alpha, steps, random_start, norm="l2")


@untargeted
def DeepFool(model: Any, steps: int = 50, overshoot: float = 0.02) -> Attack:
    return attacks.DeepFool(model, steps, overshoot)


@row
def PGDRSL2(
    model: Any,
    eps: float = 1.0,
    alpha: float = 0.2,
    steps: int = 10,
    noise_type: str = "guassian",
    noise_sd: float = 0.5,
    noise_batch_size: int = 5,
    batch_max: int = 2048,
    eps_for_division: float = 1e-10,
) -> Attack:
    smoothed = _smoothed(model, noise_type, noise_sd, noise_batch_size)
    return attacks.PGD(smoothed, eps, alpha, steps, random_start=False, norm="l2")


@untargeted
def SparseFool(model: Any, steps: int = 10, lam: float = 3, overshoot: float = 0.02) -> Attack:
    return attacks.SparseFool(model, steps, lam, overshoot)


@row
def OnePixel(model: Any, pixels: int = 1, steps: int = 10, popsize: int = 10, inf_batch: int = 128) -> Attack:
    return attacks.OnePixel(model, pixels, steps, max(5, popsize))  # of which it takes five at least


@row
def Pixle(
    model: Any,
    x_dimensions: Any = (2, 10),
    y_dimensions: Any = (2, 10),
    pixel_mapping: str = "random",
    restarts: int = 20,
    max_iterations: int = 10,
    update_each_iteration: bool = False,
) -> Attack:
    sides = [(each, each) if isinstance(each, int) else each for each in (x_dimensions, y_dimensions)]
    if tuple(sides[0]) != tuple(sides[1]) or pixel_mapping != "random":
        raise InputError(
            "advkit's Pixle draws both sides of a patch from one range of pixels, and maps at random; got "
            f"x_dimensions={x_dimensions}, y_dimensions={y_dimensions} and "
            f"pixel_mapping={pixel_mapping!r}"
        )
    rounds, tries = restarts, max_iterations
    if update_each_iteration:
        rounds, tries = rounds * tries, 1
    return attacks.Pixle(model, rounds, tries, tuple(sides[0]))


@row
def FAB(
    model: Any,
    norm: str = "Linf",
    eps: float | None = 8 / 255,
    steps: int = 10,
    n_restarts: int = 1,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    verbose: bool = False,
    seed: int | None = 0,
    multi_targeted: bool = False,
    n_classes: int = 10,
) -> Attack:
    return attacks.FAB(
        model,
        norm.lower(),
        {"Linf": 0.3, "L2": 1.0, "L1": 5.0}[norm] if eps is None else eps,
        steps,
        n_restarts,
        n_classes - 1 if multi_targeted else None,
        alpha_max=alpha_max,
        eta=eta,
        beta=beta,
        generator=drawing(seed),
    )


@untargeted
def AutoAttack(
    model: Any,
    norm: str = "Linf",
    eps: float = 8 / 255,
    version: str = "standard",
    n_classes: int = 10,
    seed: int | None = None,
    verbose: bool = False,
) -> Attack:
    return attacks.AutoAttack(model, norm.lower(), eps, version, generator=drawing(seed))


@row
def Square(
    model: Any,
    norm: str = "Linf",
    eps: float = 8 / 255,
    n_queries: int = 5000,
    n_restarts: int = 1,
    p_init: float = 0.8,
    loss: str = "margin",
    resc_schedule: bool = True,
    seed: int | None = 0,
    verbose: bool = False,
) -> Attack:
    square = attacks.Square(
        model,
        norm.lower(),
        eps,
        n_queries,
        p_init,
        loss,
        generator=drawing(seed),
    )
    return square if n_restarts == 1 else attacks.Restarts(square, n_restarts)


def _smoothed(model: Any, noise_type: str, size: float, draws: int) -> Ensemble:
    """The mean of a model's probabilities over noise on its pixels."""
    kinds: dict[str, Callable[[Tensor], Tensor]] = {
        "guassian": torch.randn_like,  # as torchattacks spells it
        "gaussian": torch.randn_like,
        "uniform": lambda pixels: 2 * torch.rand_like(pixels) - 1,
    }
    if noise_type not in kinds:
        raise InputError(f"noise_type must be one of {', '.join(map(repr, kinds))}; got {noise_type!r}")
    noise = kinds[noise_type]

    def noisy(pixels: Tensor) -> Any:
        return model(pixels + size * noise(pixels))

    return Ensemble([noisy] * draws, mean="probabilities")
