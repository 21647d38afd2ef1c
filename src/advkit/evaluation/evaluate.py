"""How much accuracy attacks leave of a model, bare and behind defenses."""

import platform
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import fields
from hashlib import blake2b
from math import isfinite
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from advkit._engine.checks import check_choice, check_classes, check_images, check_model, check_number
from advkit._engine.passes import Asked
from advkit._engine.progress import ticking
from advkit._version import __version__
from advkit.attack import Attack
from advkit.errors import DtypeError, InputError, ModelError
from advkit.evaluation.comparison import comparison
from advkit.evaluation.pool import Pool
from advkit.evaluation.report import BARE, RobustnessReport
from advkit.evaluation.runs import Ranks, RunFolder, together
from advkit.evaluation.summary import hopeless, summary
from advkit.evaluation.trial import Assault, Contender, Record, Trial, assaults
from advkit.model import Model, attacking, placement

__all__ = ["PROTOCOLS", "evaluate"]

PROTOCOLS = ("oblivious", "naive", "adaptive")
"""Who attacks a defense: somebody who does not know that it is there and attacks the bare model; somebody who takes
the gradient of the defended model as it comes; and somebody who knows the defense, which is what counts."""


def evaluate(
    model: Model,
    loader: Iterable[tuple[Tensor, Tensor]],
    attacks: Sequence[Attack] | Mapping[str, Attack],
    defenses: Sequence[Any] | Mapping[str, Any] | None = None,
    protocols: Sequence[str] = PROTOCOLS,
    *,
    stop_when_fooled: bool = False,
    draws: int = 10,
    seed: int | None = 0,
    flags: bool = True,
    run_folder: str | PathLike[str] | None = None,
    share: bool = True,
    progress: bool | None = None,
) -> RobustnessReport:
    """Measure a model's accuracy, and what each attack leaves of it, bare and behind each defense.

    Every attack is pointed at the model that it is to attack, whatever model it was made with. Only images that a
    model gets right are attacked; it has already failed on the others. The loader is gone through once, everything is
    tried on each batch, and only a few numbers an image are kept: it may be a generator, and longer than memory. The
    models are left as they were, see `Attack`, and so are torch's random numbers.

    An image on which an attack or a model raises is lost, and the report says so. What fails on everything is raised,
    after three batches at the latest; so is what is wrong with the arguments, at once.

    In several processes, as under ``torchrun``, each takes every n-th batch, and all return the same report. Each
    needs a loader of its own over the same batches in the same order, and the model on a device of its own.

    Args:
        model: pixels (N, ...) to logits (N, K), in any mode and on any device.
        loader: batches (images, labels), such as a `DataLoader`: floating (N, ...) within the attacks' bounds,
            and integer (N,). They may be on another device than the model.
        attacks: attacks, which the report calls by ``str(attack)``, with a number after a name that comes again;
            or attacks by the names that the report should use.
        defenses: defenses to wrap around ``model``, and models that have theirs built in, such as one that was
            trained against attacks; or these by the names that the report should use. None for the bare model alone.
        protocols: who attacks the defenses, some of "oblivious" (images made against the bare model), "naive"
            (the gradient of the defended model as it comes) and "adaptive" (knows the defense; see
            `advkit.defenses.Defense`). For the bare model they are one.
        stop_when_fooled: whether an attack is only tried on the images that all attacks before it left. It takes
            less time, and only the worst case over attacks, which is the same, means what it otherwise does: the
            accuracy of an attack is what it leaves together with those before it.
        draws: how many times a model with a random defense is asked about each image. Its accuracy is the mean.
        seed: what random attacks and defenses draw from, for each batch anew, so that a report can be had again,
            also by other numbers of processes and after a kill. Generators that attacks were given are not used. None
            for torch's default generators and the attacks' own.
        flags: whether to look for reasons to doubt the numbers, which takes passes of their own on some of the
            images after the last batch; see `advkit.evaluation.flags`.
        run_folder: a folder to keep the results of each batch in as they come. The same call with the same folder
            goes on where the last one was killed. The loader has to give the same batches again.
        share: whether the processes of torch.distributed, where there are several, share the work. All of them have to
            call then, and wait for each other; False for one that evaluates by itself.
        progress: True for a progress bar, False for none, None for one where stderr is a terminal and tqdm is
            installed.

    Returns:
        The scores.

    Raises:
        InputError: the loader has no images, or something in it or in the other arguments cannot be used; or the
            loader gives other batches to another process, or than it gave before the kill.
        ModelError: the model returned NaN for every image, or something that is no batch of logits; or a defense has
            neither a gradient nor a surrogate.
        MissingExtraError: ``progress`` is True and tqdm is not installed.
    """
    check_number("draws", draws, at_least=1, integer=True)
    if seed is not None:
        check_number("seed", seed, integer=True)
    protocols = _protocols(protocols)
    named = _attacks(attacks)
    given = {BARE: model, **_defenses(defenses)}
    bare = _hookable(model)
    models = {name: bare if name == BARE else _defended(bare, name, one) for name, one in given.items()}
    contenders = [Contender(name, one, draws) for name, one in models.items()]
    plan = assaults(named, contenders, protocols, keep_generators=seed is None)
    _check_surrogates(plan)
    setup = {
        "advkit": __version__,
        "torch": str(torch.__version__),
        "models": {name: [type(one).__name__, _settings(one)] for name, one in given.items()},
        "attacks": {name: [type(attack).__name__, _arguments(attack)] for name, attack in named.items()},
        "protocols": protocols,
        "stop_when_fooled": stop_when_fooled,
        "draws": draws,
        "seed": seed,
        "flags": flags,
    }
    folder = RunFolder(run_folder, setup)
    bounds = {attack.bounds for attack in named.values()}
    batches = ((index, *_pair(batch, index, bounds)) for index, batch in enumerate(loader))
    steps = len(loader) * len(plan) if isinstance(loader, Sized) else None
    with (
        together(share) as ranks,
        ticking(steps, "evaluate", unit="attack", progress=False if ranks.rank else progress) as tick,
    ):
        trial = Trial(contenders, plan, seed=seed, stop_when_fooled=stop_when_fooled, tick=tick)
        pool = Pool(contenders, plan, seed) if flags else None
        records = _records(batches, trial, folder, ranks, pool)
        if records and (error := hopeless(records.values())):
            raise trial.first_error() or ModelError(f"something failed on every image: {error}")
        probed = pool.flags(records, ranks, folder.path) if pool and records else []
    if not records:
        raise InputError("the loader has no images; a generator that was gone through before has none left")
    compared = comparison(records, contenders, plan, whole=not stop_when_fooled) if flags else ()
    return RobustnessReport(
        **summary(records, contenders, plan, setup),
        flags=(*probed, *compared),
        stop_when_fooled=stop_when_fooled,
        seed=seed,
        device=", ".join(dict.fromkeys(record.device for record in records.values())),
        hardware=_hardware(bare),
        data_digest=_digest(*(record.digest for record in records.values())),
        advkit_version=__version__,
        torch_version=str(torch.__version__),
        python_version=platform.python_version(),
    )


def _records(
    batches: Iterable[tuple[int, Tensor, Tensor]], trial: Trial, folder: RunFolder, ranks: Ranks, pool: Pool | None
) -> dict[int, Record]:
    """The records of all batches: found in the folder, made here, or made by other processes.

    Args:
        batches: index, images and labels of each; those without images are passed over.
        trial: makes records.
        folder: keeps them.
        ranks: the processes that share the work.
        pool: picks the images that flags are looked for on, of each batch; None for no flags.
    """
    records = folder.load()
    digests: dict[int, str] = {}
    for index, images, labels in batches:
        is_first = not digests
        if len(images):
            digests[index] = digest = _digest(images, labels)
            if is_first and set(ranks.gather(digest)) != {digest}:
                raise InputError(_DIFFERENT)
            if index in records and records[index].digest != digest:
                raise InputError(
                    f"batch {index} of the loader is not what it was when the run in {folder.path} began; a run that "
                    "is to go on needs the same batches in the same order, so the loader must not shuffle"
                )
            if index not in records and index % ranks.count == ranks.rank:
                records[index] = trial(index, digest, images, labels)
                if not trial.first_error():  # the caller's mistake may be mended until the run goes on
                    folder.save(index, records[index])
            else:
                trial.tick(len(trial.plan))
            if pool:
                pool.offer(index, images, labels, records.get(index) if index % ranks.count == ranks.rank else None)
            continue
        trial.tick(len(trial.plan))
    everyones = ranks.gather((digests, records))
    if any(theirs != digests for theirs, _ in everyones):
        raise InputError(_DIFFERENT)
    for _, theirs in everyones:
        records |= theirs
    return {index: records[index] for index in digests}


_DIFFERENT = (
    "the processes have loaders with different batches, and each takes a share of the batches by itself: give all of "
    "them the same loader, without shuffling and without a DistributedSampler"
)


def _check_surrogates(plan: Iterable[Assault]) -> None:
    """Refuse a defense that an adaptive attack could not differentiate, before any work is done."""
    for assault in plan:
        if assault.attack.kind != "black-box":
            with attacking(assault.attack.model, adaptive=assault.attack._adaptive):
                pass


def _defended(model: nn.Module, name: str, one: Any) -> nn.Module:
    """What is to be attacked: a defense around the model, or a model that has its own."""
    if callable(getattr(one, "wrap", None)):
        one = one.wrap(model)
    if not isinstance(one, nn.Module):
        raise DtypeError(
            "defenses must be defenses, such as advkit.defenses.FeatureSmoothing(), or models that have one; "
            f"{name!r} is {one!r}"
        )
    return _hookable(one)


def _hookable(model: Model) -> nn.Module:
    """The model as a module whose passes can be counted."""
    check_model(model)
    if isinstance(model, DistributedDataParallel):
        (model,) = model.children()  # each process asks its own replica as often as it likes
    if isinstance(model, torch.jit.ScriptModule):
        return nn.Sequential(model)
    return model if isinstance(model, nn.Module) else Asked(model)


def _protocols(protocols: Sequence[str]) -> list[str]:
    """The protocols in the order of their tables."""
    protocols = [protocols] if isinstance(protocols, str) else list(protocols)
    for protocol in protocols:
        check_choice("each of the protocols", protocol, PROTOCOLS)
    return [protocol for protocol in PROTOCOLS if protocol in protocols]


def _attacks(attacks: object) -> dict[str, Attack]:
    """The attacks by names that differ."""
    named = _named("attacks", attacks, str)
    for name, attack in named.items():
        if not isinstance(attack, Attack):
            raise DtypeError(f"attacks must be objects such as advkit.FGSM(model); {name!r} is {attack!r}")
        if attack._per_row():
            raise InputError(
                f"{name} has {' and '.join(attack._per_row())} for each image of one batch; to evaluate it, give one "
                "number for all images"
            )
    return named


def _defenses(defenses: object) -> dict[str, Any]:
    """The defenses by names that differ."""
    named = _named("defenses", defenses or {}, lambda defense: type(defense).__name__)
    if BARE in named:
        raise InputError(f"no defense can be called {BARE!r}: that is the bare model, which is always in the report")
    return named


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


def _pair(batch: object, index: int, bounds: Iterable[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    """The images and labels of a batch."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not all(isinstance(part, Tensor) for part in batch):
        parts = f" of {', '.join(type(part).__name__ for part in batch)}" if isinstance(batch, (tuple, list)) else ""
        raise DtypeError(
            f"the loader must yield pairs (images, labels) of tensors; batch {index} is a {type(batch).__name__}{parts}"
        )
    images, labels = batch
    for allowed in bounds:
        check_images(images, allowed)
    check_classes("labels", labels, images)
    return images, labels


def _digest(*parts: Tensor | str) -> str:
    """A name for what tensors hold, or for names."""
    digest = blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
            part = part.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(part.numpy().data)
        else:
            digest.update(part.encode())
    return digest.hexdigest()


def _arguments(attack: Attack) -> dict[str, Any]:
    """An attack's hyperparameters as JSON can say them."""
    return {known.name: _plain(getattr(attack, known.name)) for known in fields(attack) if known.repr}


def _settings(one: object) -> dict[str, Any]:
    """What a defense was made with, as far as it shows; and the weights, of a model as well."""
    settings = {}
    if callable(getattr(one, "wrap", None)):
        shown = {name: value for name, value in vars(one).items() if not name.startswith("_") and name != "training"}
        settings = {name: _plain(value) for name, value in shown.items()}
    if isinstance(one, nn.Module):
        tensors = [tensor for tensor in one.state_dict().values() if isinstance(tensor, Tensor)]
        plain = [tensor for tensor in tensors if tensor.layout == torch.strided and not tensor.is_quantized]
        settings |= {"weights": _digest(*plain)} if plain else {}
    return settings


def _plain(value: object) -> object:
    """A hyperparameter as JSON can say it, the same in every process."""
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _hardware(model: nn.Module) -> str:
    """What computes where the model is."""
    device = placement(model)[0]
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()
