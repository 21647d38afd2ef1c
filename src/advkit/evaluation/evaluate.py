"""How much accuracy attacks leave of a model, bare and behind defenses."""

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import fields
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from advkit._engine.checks import check_choice, check_model, check_number
from advkit._engine.passes import Asked
from advkit._engine.progress import ticking
from advkit._io.identity import attack_identity, digest, is_sharded, model_identity, plain, weights
from advkit._version import __version__
from advkit.attack import Attack
from advkit.errors import DtypeError, InputError, ModelError
from advkit.evaluation.batch_evaluator import BatchEvaluator
from advkit.evaluation.batches import pairs
from advkit.evaluation.comparison import comparison
from advkit.evaluation.plan import Contender, PlannedAttack, planned_attacks
from advkit.evaluation.pool import Pool
from advkit.evaluation.records import Record
from advkit.evaluation.report import BARE, RobustnessReport
from advkit.evaluation.runs import Ranks, RunFolder, together
from advkit.evaluation.summary import hopeless, summary
from advkit.model import Model, attacking, placement

__all__ = ["PROTOCOLS", "evaluate"]

PROTOCOLS = ("oblivious", "naive", "adaptive")
"""Who attacks a defense: somebody who does not know that it is there and attacks the bare model; somebody who takes
the gradient of the defended model as it comes; and somebody who knows the defense, which is what counts."""


def evaluate(
    model: Model,
    loader: Iterable[Any],
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
            and integer (N,) or (N, 1). They may be on another device than the model. Batches that are dicts, or have
            more in them, are understood as by `advkit.data.attacked`.
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
            goes on where the last one was killed. The loader has to give the same batches again. Another model is
            refused: by its layers, its weights, and what it answers to a few of the images, asked again. So is another
            attack, by its class, fields and attributes, and the code of a class of your own.
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
    plan = planned_attacks(named, contenders, protocols, keep_generators=seed is None)
    _check_surrogates(plan)
    setup: dict[str, Any] = {
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
    batches = pairs(loader, {attack.bounds for attack in named.values()})
    folder = RunFolder(run_folder, setup if run_folder is None else {**setup, **_identities(given, models, named)})
    steps = len(loader) * len(plan) if isinstance(loader, Sized) else None
    with (
        together(share) as ranks,
        ticking(steps, "evaluate", unit="attack", progress=False if ranks.rank else progress) as tick,
    ):
        _check_whole(models.values(), ranks)
        evaluator = BatchEvaluator(contenders, plan, seed=seed, stop_when_fooled=stop_when_fooled, tick=tick)
        pool = Pool(contenders, plan, seed) if flags else None
        records = _records(batches, evaluator, folder, ranks, pool)
        if records and (error := hopeless(records.values())):
            raise evaluator.first_error() or ModelError(f"something failed on every image: {error}")
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
        data_digest=digest(*(record.digest for record in records.values())),
        advkit_version=__version__,
        torch_version=str(torch.__version__),
        python_version=platform.python_version(),
    )


def _records(
    batches: Iterable[tuple[int, Tensor, Tensor]],
    evaluator: BatchEvaluator,
    folder: RunFolder,
    ranks: Ranks,
    pool: Pool | None,
) -> dict[int, Record]:
    """The records of all batches: found in the folder, made here, or made by other processes.

    Args:
        batches: index, images and labels of each; those without images are passed over.
        evaluator: makes records.
        folder: keeps them.
        ranks: the processes that share the work.
        pool: picks the images that flags are looked for on, of each batch; None for no flags.
    """
    records = folder.load()
    stored = set(records)
    unsaved: list[int] = []
    known = not stored  # nothing is added to a run before it is known to be this one
    digests: dict[int, str] = {}
    for index, images, labels in batches:
        mine = index not in stored and index % ranks.count == ranks.rank
        if not mine or not len(images):
            evaluator.tick(len(evaluator.plan))
        if not len(images):
            continue
        is_first = not digests
        digests[index] = digest(images, labels)
        if is_first and set(ranks.gather(digests[index])) != {digests[index]}:
            raise InputError(_DIFFERENT)
        if index in stored:
            _check_same(index, digests[index], records[index], folder)
            if records[index].answers:
                _check_answers(index, images, records[index], evaluator, folder)
                records[index].answers = []
            known = True
        if mine:
            records[index] = evaluator(index, digests[index], images, labels)
            if folder.path is not None and not evaluator.first_error():  # a mistake may be mended until the run goes on
                records[index].answers = evaluator.asked(index, images)
                unsaved.append(index)
        while known and unsaved:
            folder.save(unsaved[0], records[unsaved.pop(0)])
        if pool:
            pool.offer(index, images, labels, records.get(index) if index % ranks.count == ranks.rank else None)
    everyones = ranks.gather((digests, records))
    if any(theirs != digests for theirs, _ in everyones):
        raise InputError(_DIFFERENT)
    for _, theirs in everyones:
        records |= theirs
    return {index: records[index] for index in digests}


def _check_same(index: int, name: str, record: Record, folder: RunFolder) -> None:
    """Refuse a batch that is not the one of the record."""
    if record.digest != name:
        raise InputError(
            f"batch {index} of the loader is not what it was when the run in {folder.path} began; a run that is to go "
            "on needs the same batches in the same order, so the loader must not shuffle"
        )


def _check_answers(index: int, images: Tensor, record: Record, evaluator: BatchEvaluator, folder: RunFolder) -> None:
    """Refuse models that do not answer a batch's images as those of the record did."""
    stranger = evaluator.stranger(index, record, images)
    if stranger is not None:
        what = "the model" if stranger == BARE else f"the model behind {stranger}"
        raise InputError(
            f"{folder.path} holds a run with other models: {what} has the layers and weights that it had, and answers "
            f"batch {index} otherwise than then. Something else in it is another, such as an attribute or a function; "
            "give this run a folder of its own"
        )


_DIFFERENT = (
    "the processes have loaders with different batches, and each takes a share of the batches by itself: give all of "
    "them the same loader, without shuffling and without a DistributedSampler"
)


def _check_surrogates(plan: Iterable[PlannedAttack]) -> None:
    """Refuse a defense that an adaptive attack could not differentiate, before any work is done."""
    for planned in plan:
        if planned.attack.access == "gradient":
            with attacking(planned.attack.model, adaptive=planned.attack.adaptive):
                pass


def _check_whole(models: Iterable[nn.Module], ranks: Ranks) -> None:
    """Refuse models of which each process has a part only, where each is to work by itself."""
    if ranks.count > 1 and any(is_sharded(model) for model in models):
        raise InputError(
            f"a model is sharded over processes, which can only answer together, and each of the {ranks.count} that "
            "evaluate works on batches of its own. Call evaluate(..., share=False) in all of them: each then goes "
            "through all batches, in step with the others"
        )


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


def _arguments(attack: Attack) -> dict[str, Any]:
    """An attack's hyperparameters as JSON can say them."""
    shown = [known.name for known in fields(attack) if known.repr and known.name != "adaptive"]  # which is set here
    return {name: plain(getattr(attack, name)) for name in shown}


def _settings(one: object) -> dict[str, Any]:
    """What a defense was made with, as far as it shows; and the weights, of a model as well."""
    settings = {}
    if callable(getattr(one, "wrap", None)):
        shown = {name: value for name, value in vars(one).items() if not name.startswith("_") and name != "training"}
        settings = {name: plain(value) for name, value in shown.items()}
    if isinstance(one, nn.Module) and (name := weights(one)):
        settings["weights"] = name
    return settings


def _identities(
    given: Mapping[str, Any], models: Mapping[str, nn.Module], attacks: Mapping[str, Attack]
) -> dict[str, Any]:
    """What has to be as it was for a run to go on."""
    return {
        "models": {
            name: {"class": type(given[name]).__name__, **_settings(given[name]), **model_identity(model)}
            for name, model in models.items()
        },
        "attacks": {name: attack_identity(attack) for name, attack in attacks.items()},
    }


def _hardware(model: nn.Module) -> str:
    """What computes where the model is."""
    device = placement(model)[0]
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()
