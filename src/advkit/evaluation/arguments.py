"""The arguments of `evaluate`: checked, under distinct names, and as JSON can hold them."""

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from advkit._engine.checks import check_choice, check_model
from advkit._engine.wording import for_all
from advkit._io.identity import attack_identity, is_sharded, model_identity, plain, weights
from advkit.attack import Attack
from advkit.errors import DtypeError, InputError
from advkit.evaluation.passes import Asked
from advkit.evaluation.plan import PlannedAttack
from advkit.evaluation.runs import Ranks
from advkit.evaluation.scores import BARE
from advkit.model import Model, attacking, placement

__all__ = [
    "PROTOCOLS",
    "check_surrogates",
    "check_transfer",
    "check_whole",
    "defended_by",
    "described",
    "hardware",
    "hookable",
    "identities",
    "in_order",
    "named_attacks",
    "named_defenses",
    "named_surrogates",
    "settings",
]

PROTOCOLS = ("oblivious", "naive", "adaptive")
"""Who attacks a defense: the attacker who does not know that it is there and attacks the bare model; the one who takes
the gradient of the defended model as it comes; and the one who knows the defense, which is the result that counts."""


def check_surrogates(plan: Iterable[PlannedAttack]) -> None:
    """Refuse a defense that an adaptive attack could not differentiate, before any work is done.

    Where other attacks need no gradient, they are carried out, and the report says which were not. But a model to
    transfer images from is there for its gradients alone.
    """
    plan = list(plan)
    blind = any(planned.attack.access != "gradient" for planned in plan)
    for planned in plan:
        if planned.attack.access == "gradient" and not (blind and planned.cells[0].surrogate is None):
            with attacking(planned.attack.model, adaptive=planned.attack.adaptive):
                pass


def check_transfer(surrogates: Mapping[str, nn.Module], plan: Iterable[PlannedAttack]) -> None:
    """Refuse surrogates that no attack makes images on."""
    if surrogates and not any(planned.cells[0].surrogate for planned in plan):
        raise InputError(
            "transfer_from is for attacks that follow gradients, but none of these does: those that see only outputs "
            "query the model that they attack; give evaluate another attack as well, such as advkit.MIFGSM"
        )


def check_whole(models: Iterable[nn.Module], ranks: Ranks) -> None:
    """Refuse models of which each process has a part only, where each is to work by itself."""
    if ranks.count > 1 and any(is_sharded(model) for model in models):
        raise InputError(
            f"a model is sharded over processes, which can only run it together, but each of the {ranks.count} that "
            "evaluate works on batches of its own. Call evaluate(..., share=False) in all of them: each then goes "
            "through all batches, in step with the others"
        )


def defended_by(model: nn.Module, name: str, one: Any) -> nn.Module:
    """What is to be attacked: a defense around the model, or a model that has its own."""
    if callable(getattr(one, "wrap", None)):
        one = one.wrap(model)
    if not isinstance(one, nn.Module):
        raise DtypeError(
            "defenses must be defenses, such as advkit.defenses.FeatureSmoothing(), or defended models; "
            f"{name!r} is {one!r}"
        )
    return hookable(one)


def hookable(model: Model) -> nn.Module:
    """The model as a module whose passes can be counted."""
    check_model(model)
    if isinstance(model, DistributedDataParallel):
        (model,) = model.children()  # each process asks its own replica as often as it likes
    if isinstance(model, torch.jit.ScriptModule):
        return nn.Sequential(model)
    return model if isinstance(model, nn.Module) else Asked(model)


def in_order(protocols: Sequence[str]) -> list[str]:
    """The protocols in the order of their tables."""
    protocols = [protocols] if isinstance(protocols, str) else list(protocols)
    for protocol in protocols:
        check_choice("each of the protocols", protocol, PROTOCOLS)
    return [protocol for protocol in PROTOCOLS if protocol in protocols]


def named_attacks(attacks: object) -> dict[str, Attack]:
    """The attacks by names that differ."""
    named = _named("attacks", attacks, str)
    for name, attack in named.items():
        if not isinstance(attack, Attack):
            raise DtypeError(f"attacks must be objects such as advkit.FGSM(model); {name!r} is {attack!r}")
        for each, value in attack._per_row().items():
            raise InputError(f"{name} has {each} for each image of one batch; to evaluate it, {for_all(each, value)}")
    return named


def named_defenses(defenses: object) -> dict[str, Any]:
    """The defenses by names that differ."""
    named = _named("defenses", defenses or {}, lambda defense: type(defense).__name__)
    if BARE in named:
        raise InputError(f"no defense can be called {BARE!r}: that is the bare model, which is always in the report")
    return named


def named_surrogates(surrogates: object) -> dict[str, nn.Module]:
    """The models that images are transferred from, by name."""
    if surrogates is not None and not isinstance(surrogates, Mapping):
        raise DtypeError(
            f'transfer_from must be models by name, as in transfer_from={{"another": model}}; got '
            f"{type(surrogates).__name__}"
        )
    return {str(name): hookable(one) for name, one in (surrogates or {}).items()}


def _named(what: str, things: object, name_of: Callable[[Any], str]) -> dict[str, Any]:
    """The things by the names they were given, or by names that differ."""
    if isinstance(things, Mapping):
        return dict(things)
    if not isinstance(things, Iterable) or isinstance(things, nn.Module):
        raise DtypeError(f"{what} must be a list of {what}, or {what} by name; got {type(things).__name__}")
    seen: Counter[str] = Counter()
    named = {}
    for thing in things:
        name = name_of(thing)
        seen[name] += 1
        named[name if seen[name] == 1 else f"{name} #{seen[name]}"] = thing
    return named


def arguments(attack: Attack) -> dict[str, Any]:
    """An attack's hyperparameters as JSON can say them."""
    apart = ("adaptive", "compiled")  # which is set here, and which changes no answer
    shown = [known.name for known in fields(attack) if known.repr and known.name not in apart]
    return {name: plain(getattr(attack, name)) for name in shown}


def settings(one: object) -> dict[str, Any]:
    """What a defense was made with, as far as it shows; and the weights, of a model as well."""
    found: dict[str, Any] = {}
    if callable(getattr(one, "wrap", None)):
        shown = {name: value for name, value in vars(one).items() if not name.startswith("_") and name != "training"}
        found = {name: plain(value) for name, value in shown.items()}
    if isinstance(one, nn.Module) and (name := weights(one)):
        found["weights"] = name
    return found


def described(given: Mapping[str, Any], attacks: Mapping[str, Attack], surrogates: Mapping[str, Any]) -> dict[str, Any]:
    """The class and arguments of each model, attack and surrogate, for a report."""
    more = {name: [type(one).__name__, settings(one)] for name, one in surrogates.items()}
    return {
        **({"transfer_from": more} if more else {}),
        "models": {name: [type(one).__name__, settings(one)] for name, one in given.items()},
        "attacks": {name: [type(attack).__name__, arguments(attack)] for name, attack in attacks.items()},
    }


def identities(
    given: Mapping[str, Any],
    models: Mapping[str, nn.Module],
    attacks: Mapping[str, Attack],
    surrogates: Mapping[str, Any],
) -> dict[str, Any]:
    """What has to be as it was for a run to go on."""
    more = {name: {"class": type(one).__name__, **model_identity(one)} for name, one in surrogates.items()}
    return {
        **({"transfer_from": more} if more else {}),
        "models": {
            name: {"class": type(given[name]).__name__, **settings(given[name]), **model_identity(model)}
            for name, model in models.items()
        },
        "attacks": {name: attack_identity(attack) for name, attack in attacks.items()},
    }


def hardware(model: nn.Module) -> str:
    """What computes where the model is."""
    device = placement(model)[0]
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()
