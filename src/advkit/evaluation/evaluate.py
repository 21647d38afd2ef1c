"""How much accuracy attacks leave of a model, bare and behind defenses."""

import platform
from collections.abc import Iterable, Mapping, Sequence, Sized
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from advkit._engine.checks import check_number
from advkit._io.identity import digest, digests
from advkit._io.progress import ticking
from advkit._version import __version__
from advkit.attack import Attack
from advkit.errors import InputError, ModelError
from advkit.evaluation.arguments import (
    PROTOCOLS,
    check_surrogates,
    check_transfer,
    check_whole,
    defended_by,
    described,
    hardware,
    hookable,
    identities,
    in_order,
    named_defenses,
    named_surrogates,
    settings,
)
from advkit.evaluation.batch_evaluator import BatchEvaluator
from advkit.evaluation.batches import pairs
from advkit.evaluation.comparison import comparison
from advkit.evaluation.flags import Flag
from advkit.evaluation.keepsakes import chosen
from advkit.evaluation.kinds import carried_out, not_tried
from advkit.evaluation.plan import Contender, planned_attacks
from advkit.evaluation.pool import Pool
from advkit.evaluation.randomness import over_draws
from advkit.evaluation.records import Record
from advkit.evaluation.report import RobustnessReport
from advkit.evaluation.runs import Ranks, RunFolder, together
from advkit.evaluation.scores import BARE
from advkit.evaluation.standin import with_stand_in
from advkit.evaluation.summary import hopeless, summary
from advkit.evaluation.verdict import attacks_by_name
from advkit.evaluation.verify import contradicted, verifier_within
from advkit.model import Model
from advkit.norms import Norm

__all__ = ["PROTOCOLS", "evaluate"]


def evaluate(
    model: Model,
    loader: Iterable[Any],
    attacks: Sequence[Attack] | Mapping[str, Attack] | str,
    defenses: Sequence[Any] | Mapping[str, Any] | None = None,
    protocols: Sequence[str] = PROTOCOLS,
    *,
    norm: str | Norm | None = None,
    eps: float | None = None,
    bounds: tuple[float, float] | None = None,
    surrogate: Model | None = None,
    transfer_from: Mapping[str, Model] | None = None,
    certify: bool = False,
    stop_when_fooled: bool = False,
    draws: int = 10,
    seed: int | None = 0,
    flags: bool = True,
    run_folder: str | PathLike[str] | None = None,
    pictures: int = 0,
    share: bool = True,
    progress: bool | None = None,
) -> RobustnessReport:
    """Measure a model's accuracy, and what each attack leaves of it, bare and behind each defense.

    Every attack is pointed at the model that it is to attack, whatever model it was made with. Only images that a
    model gets right are attacked; it has already failed on the others. The loader is gone through once, everything is
    tried on each batch, and only a few numbers an image are kept: it may be a generator, and longer than memory. The
    models are left as they were, see `Attack`, and so are torch's random numbers.

    An image on which an attack or a model raises an error is lost, and the report says so. An error on every image is
    raised, after three batches at the latest; an error in the arguments at once.

    In several processes, as under ``torchrun``, each takes every n-th batch, and all return the same report. Each
    needs a loader of its own over the same batches in the same order, and the model on a device of its own.

    Args:
        model: pixels (N, ...) to logits (N, K), in any mode and on any device.
        loader: batches (images, labels), such as a `DataLoader`: floating (N, ...) within the attacks' bounds,
            and integer (N,) or (N, 1). They may be on another device than the model. Batches that are dicts, or have
            more in them, are understood as by `advkit.data.attacked`.
        attacks: attacks, which the report calls by ``str(attack)``, with a number after a name that comes again;
            or attacks by the names that the report should use. Or the name of a verdict: "standard" for the number to
            report, from few passes, and more of them where gradients are not to be trusted; or "autoattack" for that
            of AutoAttack, to compare with papers. Each of its attacks is tried on what those before it left.
        defenses: defenses to wrap around ``model``, and models that have theirs built in, such as one that was
            trained against attacks; or these by the names that the report should use. None for the bare model alone.
        protocols: who attacks the defenses, some of "oblivious" (images made against the bare model), "naive"
            (the gradient of the defended model as it comes) and "adaptive" (knows the defense; see
            `advkit.defenses.Defense`). For the bare model they are one.
        norm: of the budget of a verdict: "linf", which is also what None means, "l2" or "l1". Attacks that are given
            have norms, budgets and bounds of their own, and these three are refused beside them.
        eps: the budget of a verdict, in units of pixels; 8/255 of their range if None, in Linf alone.
        bounds: the lowest and the highest value of a pixel, for a verdict; (0, 1) if None.
        surrogate: what attacks that know of it differentiate in place of ``model``, pixels (N, ...) to logits (N, K),
            such as the same network without the step that rounds; what is attacked and judged is the model. None for
            the model's own gradient. It is for a model that stands alone; a defense brings its own.
        transfer_from: models to make images on as well, by the names that the report should use, such as a network that
            was trained on the same data, or an `advkit.Ensemble` of several. Each attack that follows gradients is
            pointed at each of them, and its images are shown to the bare model and to each defense, under the protocol
            "transferred". They count for ``robust_accuracy``, and for what the adaptive attacker leaves. A model whose
            gradients lie may withstand its own and fall to another's, which is a flag.
        certify: whether to prove as well, by bounds on what the bare model answers, of which images no attack can fool
            it within the budgets of these; see `advkit.evaluation.verify`. The report then has ``verified_accuracy``
            below ``robust_accuracy``: the truth lies between. It takes a sequential network.
        stop_when_fooled: whether an attack is only tried on the images that all attacks before it left. It takes
            less time, and only the worst case over attacks, which is the same, means what it otherwise does: the
            accuracy of an attack is what it leaves together with those before it.
        draws: how many times a model with a random defense is asked about each image. Its accuracy is the mean. A
            verdict holds a model to that too that is only found to be random, on the first images, and flags it.
        seed: what random attacks and defenses draw from, for each batch anew, so that a report can be had again,
            also by other numbers of processes and after a kill. Generators that attacks were given are not used. None
            for torch's default generators and the attacks' own.
        flags: whether to look for reasons to doubt the numbers, which takes passes of their own on some of the
            images after the last batch; see `advkit.evaluation.flags`.
        run_folder: a folder to keep the results of each batch in as they come. The same call with the same folder
            goes on where the last one was killed. The loader has to give the same batches again. Another model is
            refused: by its layers, its weights, and its outputs for a few of the images. So is another
            attack, by its class, fields and attributes, and the code of a class of your own.
        pictures: how many images to keep of those that attacks fooled the bare model with, for
            `RobustnessReport.to_html` to show: grey or RGB, one of each attack before a second of any.
        share: whether the processes of torch.distributed, where there are several, share the work. All of them have to
            call then, and wait for each other; False for one that evaluates by itself.
        progress: True for a progress bar, False for none, None for one where stderr is a terminal and tqdm is
            installed.

    Returns:
        The scores.

    Raises:
        InputError: the loader has no images, or something in it or in the other arguments cannot be used, such as
            ``norm``, ``eps`` or ``bounds`` beside attacks that have their own; or the loader gives other batches to
            another process, or than it gave before the kill.
        ModelError: the model returned NaN for every image, or something that is no batch of logits.
        NoGradientError: the model or a defense has neither a gradient nor a surrogate, and all attacks need one. Where
            some see only outputs, these are carried out, and a flag says which were not. Or a model to transfer from
            has none.
        MissingExtraError: ``progress`` is True and tqdm is not installed.

    Examples:
        >>> attacks = {"one step": advkit.FGSM(model), "ten steps": advkit.PGD(model)}
        >>> report = advkit.evaluate(model, loader, attacks, {"3 bits": advkit.defenses.BitDepthReduction(bits=3)})
        >>> report.clean_accuracy, report["ten steps"].accuracy
        (1.0, 0.0)
        >>> adaptive, naive = (report.score("ten steps", "3 bits", who).accuracy for who in ("adaptive", "naive"))
        >>> adaptive < naive
        True
        >>> report = advkit.evaluate(model, loader, "standard", norm="l2", eps=0.5)
        >>> report.robust_accuracy, report.robust.shape
        (0.0, torch.Size([12]))
        >>> masked = lambda images: model((images * 31).round() / 31)  # its gradient is zero
        >>> given = {"transfer_from": {"unmasked": model}, "flags": False}
        >>> report = advkit.evaluate(masked, loader, [advkit.MIFGSM(model)], **given)
        >>> report.score("MIFGSM", protocol="transferred").accuracy < report["MIFGSM"].accuracy
        True
    """
    check_number("draws", draws, at_least=1, integer=True)
    check_number("pictures", pictures, at_least=0, integer=True)
    if seed is not None:
        check_number("seed", seed, integer=True)
    protocols = in_order(protocols)
    given = {BARE: model, **named_defenses(defenses)}
    bare = with_stand_in(hookable(model), surrogate)
    models = {name: bare if name == BARE else defended_by(bare, name, one) for name, one in given.items()}
    surrogates = named_surrogates(transfer_from)
    called = attacks if isinstance(attacks, str) else None
    named = attacks_by_name(attacks, models.values(), norm, eps, bounds)
    batches = pairs(loader, {attack.bounds for attack in named.values()})
    undeclared: tuple[Flag, ...] = ()
    if called:
        models, batches, undeclared = over_draws(models, batches, draws)
        named = attacks_by_name(attacks, models.values(), norm, eps, bounds)
    stop_when_fooled = stop_when_fooled or called is not None
    contenders = [Contender(name, one, draws) for name, one in models.items()]
    verifier = verifier_within(model, named.values()) if certify else None
    plan = planned_attacks(named, contenders, protocols, surrogates, keep_generators=seed is None)
    check_surrogates(plan)
    check_transfer(surrogates, plan)
    how = {"protocols": protocols, "stop_when_fooled": stop_when_fooled, "draws": draws, "seed": seed, "flags": flags}
    setup = {**described(given, named, transfer_from or {}), **how, **_versions_and(certify, surrogate)}
    ids = {} if run_folder is None else identities(given, models, named, transfer_from or {})
    folder = RunFolder(run_folder, {**setup, **ids})
    steps = len(loader) * len(plan) if isinstance(loader, Sized) else None
    with (
        together(share) as ranks,
        ticking(steps, "evaluate", unit="attack", progress=False if ranks.rank else progress) as tick,
    ):
        check_whole([*models.values(), *surrogates.values()], ranks)
        evaluator = BatchEvaluator(
            *(contenders, plan, verifier, surrogates),
            seed=seed,
            stop_when_fooled=stop_when_fooled,
            tick=tick,
            pictures=pictures,
        )
        pool = Pool(contenders, plan, seed) if flags else None
        records, named_images = _records(batches, evaluator, folder, ranks, pool)
        _check_worked(records, evaluator)
        tick.doing("looking for flags")
        probed = pool.flags(records, ranks, folder.path) if pool else []
    compared = comparison(records, contenders, plan, whole=not stop_when_fooled) if flags else ()
    numbers = summary(records, contenders, plan, setup)
    return RobustnessReport(
        **numbers,
        flags=(*undeclared, *contradicted(numbers["standing"], numbers["proved"]), *probed, *compared),
        not_tried=() if called else not_tried(carried_out(records.values(), plan)),
        verdict=called,
        pictures=chosen((one for record in records.values() for one in record.pictures), pictures),
        **_circumstances(records, setup, bare),
        data_digest=digest(*named_images),
    )


def _versions_and(certify: bool, surrogate: Model | None) -> dict[str, Any]:
    """What a run is made with, and what is known of it only where somebody asked for it."""
    found: dict[str, Any] = {"advkit": __version__, "torch": str(torch.__version__)}
    found |= {"certify": True} if certify else {}
    return found | ({} if surrogate is None else {"surrogate": [type(surrogate).__name__, settings(surrogate)]})


def _circumstances(records: Mapping[int, Record], setup: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Where, when and on what a report was made, by its attributes."""
    return {
        "stop_when_fooled": setup["stop_when_fooled"],
        "seed": setup["seed"],
        "device": ", ".join(dict.fromkeys(record.device for record in records.values())),
        "hardware": hardware(model),
        "advkit_version": setup["advkit"],
        "torch_version": setup["torch"],
        "python_version": platform.python_version(),
    }


def _check_worked(records: Mapping[int, Record], evaluator: BatchEvaluator) -> None:
    """Refuse to report nothing: no images, or something that failed on all of them."""
    if not records:
        raise InputError("the loader has no images; a generator that was gone through before has none left")
    if error := hopeless(records.values(), without_gradients=evaluator.has_black_box):
        raise evaluator.first_error() or ModelError(f"something failed on every image: {error}")


def _records(
    batches: Iterable[tuple[int, Tensor, Tensor]],
    evaluator: BatchEvaluator,
    folder: RunFolder,
    ranks: Ranks,
    pool: Pool | None,
) -> tuple[dict[int, Record], list[str]]:
    """The records of all batches, found in the folder, made here, or made by other processes; and a name of each image.

    Args:
        batches: index, images and labels of each; those without images are passed over.
        evaluator: makes records.
        folder: keeps them.
        ranks: the processes that share the work.
        pool: picks the images that flags are looked for on, of each batch; None for no flags.
    """
    records = folder.load()
    evaluator.found_already(one for record in records.values() for one in record.pictures)
    stored = set(records)
    unsaved: list[int] = []
    known = not stored  # nothing is added to a run before it is known to be this one
    named: dict[int, str] = {}
    named_images: list[str] = []
    for index, images, labels in batches:
        mine = index not in stored and index % ranks.count == ranks.rank
        if not mine or not len(images):
            evaluator.tick(len(evaluator.plan))
        if not len(images):
            continue
        is_first = not named
        named_images += (each := digests(images, labels))
        named[index] = digest(*each)
        if is_first and set(ranks.gather(named[index])) != {named[index]}:
            raise InputError(_DIFFERENT)
        if index in stored:
            _check_same(index, named[index], records[index], folder)
            if records[index].answers:
                _check_answers(index, images, records[index], evaluator, folder)
                records[index].answers = []
            known = True
        if mine:
            records[index] = evaluator(index, named[index], images, labels)
            if folder.path is not None and not evaluator.first_error():  # a mistake may be mended until the run goes on
                records[index].answers = evaluator.asked(index, images)
                unsaved.append(index)
        while known and unsaved:
            folder.save(unsaved[0], records[unsaved.pop(0)])
        if pool:
            pool.offer(index, images, labels, records.get(index) if index % ranks.count == ranks.rank else None)
    everyones = ranks.gather((named, records))
    if any(theirs != named for theirs, _ in everyones):
        raise InputError(_DIFFERENT)
    for _, theirs in everyones:
        records |= theirs
    return {index: records[index] for index in named}, named_images


def _check_same(index: int, name: str, record: Record, folder: RunFolder) -> None:
    """Refuse a batch that is not the one of the record."""
    if record.digest != name:
        raise InputError(
            f"batch {index} of the loader is not what it was when the run in {folder.path} began; a run that is to go "
            "on needs the same batches in the same order, so the loader must not shuffle"
        )


def _check_answers(index: int, images: Tensor, record: Record, evaluator: BatchEvaluator, folder: RunFolder) -> None:
    """Refuse models that do not answer a batch's images as those of the record did."""
    what = evaluator.stranger(index, record, images)
    if what is not None:
        raise InputError(
            f"{folder.path} holds a run with other models: {what} has the layers and weights that it had, but answers "
            f"batch {index} otherwise. Something else in it has changed, such as an attribute or a function; give this "
            "run a folder of its own"
        )


_DIFFERENT = (
    "the processes have loaders with different batches, and each takes a share of the batches by itself: give all of "
    "them the same loader, without shuffling and without a DistributedSampler"
)
