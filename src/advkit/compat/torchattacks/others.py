"""torchattacks' attacks in other norms and in several, with its arguments and defaults, and which of advkit's each is.

Arguments without a meaning in advkit are accepted and ignored: ``verbose``, ``n_classes`` where all classes are known,
``abort_early``, batch sizes (``batch_max``, ``inf_batch``), ``eps_for_division``, and ``resc_schedule``,
since the schedule of Square is AutoAttack's. A ``seed`` is for the attack alone.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from advkit import attacks
from advkit.attack import Attack
from advkit.compat.torchattacks.made import Made, drawing, named, row, untargeted
from advkit.errors import InputError
from advkit.model import Ensemble


def _auto_pgd(
    kind: Callable[..., Attack],
    model: Any,
    *,
    norm: str,
    n_restarts: int,
    seed: int | None,
    eot_iter: int,
    n_classes: int | None = None,
    **others: Any,
) -> Attack:
    given = {**others, "norm": norm.lower(), "restarts": n_restarts, "eot_samples": eot_iter}
    given |= {} if n_classes is None else {"target_classes": n_classes - 1}
    return kind(model, generator=drawing(seed), **given)


def _on_noise(
    model: Any, *, noise_type: str, noise_sd: float, noise_batch_size: int, norm: str = "linf", **others: Any
) -> Attack:
    smoothed = _smoothed(model, noise_type, noise_sd, noise_batch_size)
    return attacks.PGD(smoothed, random_start=False, norm=norm, **others)


_AUTO: dict[str, Any] = {"norm": "Linf", "eps": 8 / 255, "steps": 10, "n_restarts": 1, "seed": 0}
_NOISE = {"noise_type": "guassian", "noise_sd": 0.5, "noise_batch_size": 5, "batch_max": 2048}
_STEPS_L2: dict[str, Any] = {"eps": 1.0, "alpha": 0.2, "steps": 10}
_ELASTIC: dict[str, Any] = {
    "kappa": 0,
    "lr": 0.01,
    "binary_search_steps": 9,
    "max_iterations": 100,
    "abort_early": True,
    "initial_const": 0.001,
    "beta": 0.001,
}


def _elastic(name: str, rule: Literal["l1", "elastic"]) -> type[Made]:
    made = partial(attacks.EAD, decision_rule=rule, schedule="constant")
    renamed = {"max_iterations": "steps", "initial_const": "initial_c"}
    return named(name, made, _ELASTIC, renamed=renamed, unread=("abort_early",))


APGD = named(
    "APGD",
    partial(_auto_pgd, attacks.APGD),
    {**_AUTO, "loss": "ce", "eot_iter": 1, "rho": 0.75, "verbose": False},
    unread=("verbose",),
    aimed=False,
)
APGDT = named(
    "APGDT",
    partial(_auto_pgd, attacks.APGDT),
    {**_AUTO, "eot_iter": 1, "rho": 0.75, "verbose": False, "n_classes": 10},
    unread=("verbose",),
    aimed=False,
)
PGDL2 = named(
    "PGDL2",
    partial(attacks.PGD, norm="l2"),
    {**_STEPS_L2, "random_start": True, "eps_for_division": 1e-10},
    unread=("eps_for_division",),
)
PGDRS = named("PGDRS", _on_noise, {"eps": 8 / 255, "alpha": 2 / 255, "steps": 10, **_NOISE}, unread=("batch_max",))
PGDRSL2 = named(
    "PGDRSL2",
    partial(_on_noise, norm="l2"),
    {**_STEPS_L2, **_NOISE, "eps_for_division": 1e-10},
    unread=("batch_max", "eps_for_division"),
)
CW = named(
    "CW",
    partial(attacks.CW, binary_search_steps=1, schedule="constant"),
    {"c": 1, "kappa": 0, "steps": 50, "lr": 0.01},
    renamed={"c": "initial_c"},
)
EADL1 = _elastic("EADL1", "l1")
EADEN = _elastic("EADEN", "elastic")
JSMA = named("JSMA", partial(attacks.JSMA, pairs=1), {"theta": 1.0, "gamma": 0.1})
DeepFool = named("DeepFool", attacks.DeepFool, {"steps": 50, "overshoot": 0.02}, aimed=False)
SparseFool = named("SparseFool", attacks.SparseFool, {"steps": 10, "lam": 3, "overshoot": 0.02}, aimed=False)


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
            "advkit's Pixle draws both sides of a patch from one range of pixels, and maps pixels at random; got "
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
