"""How much of a model's accuracy attacks leave, bare and behind defenses."""

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from os import PathLike
from typing import Any

import torch
from torch import nn

from advkit._engine.checks import check_number
from advkit._io.progress import ticking
from advkit._version import __version__
from advkit.attack import Attack
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
from advkit.evaluation.collect import check_worked, collect
from advkit.evaluation.comparison import comparison
from advkit.evaluation.flags import Flag
from advkit.evaluation.keepsakes import chosen
from advkit.evaluation.kinds import carried_out, not_tried
from advkit.evaluation.plan import Contender, planned_attacks
from advkit.evaluation.pool import Pool
from advkit.evaluation.randomness import Batch, over_draws
from advkit.evaluation.records import Record
from advkit.evaluation.report import RobustnessReport
from advkit.evaluation.runs import RunFolder, together
from advkit.evaluation.scores import BARE
from advkit.evaluation.standin import with_stand_in
from advkit.evaluation.summary import summary
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

    Every attack is run against the model under evaluation, whatever model it was made with. Only images that a model
    gets right are attacked; it has already failed on the others. The loader is iterated over once, everything is tried
    on each batch, and only a few numbers per image are kept: it may be a generator, and larger than memory. The models
    are left as they were (see `Attack`), and so is torch's random state.

    An image on which an attack or a model raises an error is lost, and the report says so. An error on every image is
    raised, after three batches at the latest; an error in the arguments, immediately.

    In several processes, as under ``torchrun``, each takes every n-th batch, and all return the same report. Each
    needs its own loader over the same batches in the same order, and the model on its own device.

    Args:
        model: pixels (N, ...) to logits (N, K), in any mode and on any device.
        loader: batches (images, labels), such as a `DataLoader`: floating (N, ...) within the attacks' bounds,
            and integer (N,) or (N, 1). They may be on another device than the model. Batches that are dicts, or contain
            more, are understood as by `advkit.data.attacked`.
        attacks: attacks, which the report calls by ``str(attack)``, with a number after a name that occurs again;
            or a dict of attacks by the names that the report should use. Or the name of a verdict: "standard" for the
            number to report, which takes few passes, and more of them where gradients cannot be trusted; or
            "autoattack" for that of AutoAttack, to compare with papers. Each of its attacks is tried only on the images
            that those before it have not fooled.
        defenses: defenses to wrap around ``model``, and models with a built-in defense, such as one that was
            adversarially trained; or a dict of these by the names that the report should use. None for the bare model
            alone.
        protocols: who attacks the defenses, any of "oblivious" (images made against the bare model), "naive"
            (the gradient of the defended model as it is) and "adaptive" (knows the defense; see
            `advkit.defenses.Defense`). For the bare model they are the same.
        norm: of the budget of a verdict: "linf", which is also what None means, "l2" or "l1". Attacks that are given
            have their own norms, budgets and bounds, and these three arguments are refused together with them.
        eps: the budget of a verdict, in units of pixels; 8/255 of their range if None, in Linf alone.
        bounds: the lowest and the highest value of a pixel, for a verdict; (0, 1) if None.
        surrogate: what an adaptive attacker differentiates in place of ``model``, pixels (N, ...) to logits (N, K),
            such as the same network without the step that rounds; what is attacked and judged is the model. None for
            the model's own gradient. It is for the bare model; a defense brings its own.
        transfer_from: models to make images on as well, by the names that the report should use, such as a network that
            was trained on the same data, or an `advkit.Ensemble` of several. Each attack that follows gradients is
            pointed at each of them, and its images are shown to the bare model and to each defense, under the protocol
            "transferred". They count for ``robust_accuracy``, and for what the adaptive attacker leaves. A model with
            misleading gradients may withstand its own and fall to another's, which raises a flag.
        certify: whether to prove as well, by bounds on the outputs of the bare model, on which images no attack can
            fool it within the budgets of ``attacks``; see `advkit.evaluation.verify`. The report then has
            ``verified_accuracy`` below ``robust_accuracy``: the truth lies between. It takes a sequential network.
        stop_when_fooled: whether each attack is tried only on the images that no attack before it has fooled. It takes
            less time. The worst case over attacks stays the same, but the accuracy of an attack is then what it and
            those before it leave together.
        draws: how many times a model with a random defense is run on each image. Its accuracy is the mean. A
            verdict treats a model that turns out to be random on the first images in the same way, and flags it.
        seed: for random attacks and defenses, for each batch anew, so that a report can be reproduced, even with
            another number of processes or after an interruption. Generators that attacks were given are not used. None
            for torch's default generators and the attacks' own.
        flags: whether to look for reasons to doubt the numbers, which takes extra passes on some of the
            images after the last batch; see `advkit.evaluation.flags`.
        run_folder: a folder for the results of each batch, written as they come. The same call with the same folder
            resumes an interrupted run. The loader has to yield the same batches again. Another model is
            recognised by its layers, its weights, and its outputs for a few of the images, and refused. So is another
            attack, by its class, fields and attributes, and by the code of a class of your own.
        pictures: how many of the images with which attacks fooled the bare model to keep, for
            `RobustnessReport.to_html` to show: grey or RGB, one of each attack before a second of any.
        share: whether the processes of torch.distributed, if there are several, share the work. All of them then have
            to call this, and wait for each other; False for a process that evaluates by itself.
        progress: True for a progress bar, False for none, None for one if stderr is a terminal and tqdm is installed.

    Returns:
        The report: the scores, flags, and verdicts image by image.

    Raises:
        InputError: the loader has no images, or something in it or in the other arguments cannot be used, such as
            ``norm``, ``eps`` or ``bounds`` with attacks that have their own; or the loader yields other batches in
            another process, or than before an interruption.
        ModelError: the model returned NaN for every image, or something that is not a batch of logits.
        NoGradientError: the model or a defense has neither a gradient nor a surrogate, and all attacks need one. If
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
    _check_numbers(draws, pictures, seed)
    protocols = in_order(protocols)
    given = {BARE: model, **named_defenses(defenses)}
    bare = with_stand_in(hookable(model), surrogate)
    models = {name: bare if name == BARE else defended_by(bare, name, one) for name, one in given.items()}
    surrogates = named_surrogates(transfer_from)
    called = attacks if isinstance(attacks, str) else None
    named, models, batches, undeclared = _settled(attacks, models, norm, eps, bounds, loader, draws)
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
        pool = Pool(contenders, plan, seed) if flags else None
        evaluator = BatchEvaluator(
            *(contenders, plan, verifier, surrogates),
            seed=seed,
            stop_when_fooled=stop_when_fooled,
            tick=tick,
            pictures=pictures,
            first_answers=pool.first if pool else None,
        )
        records, data_digest = collect(batches, evaluator, folder, ranks, pool)
        check_worked(records, evaluator)
        tick.doing("looking for flags")
        probed = pool.flags(records, ranks, folder.path) if pool else []
    return _report(records, data_digest, evaluator, setup, [*undeclared, *probed], called)


def _settled(
    attacks: Sequence[Attack] | Mapping[str, Attack] | str,
    models: dict[str, nn.Module],
    norm: str | Norm | None,
    eps: float | None,
    bounds: tuple[float, float] | None,
    loader: Iterable[Any],
    draws: int,
) -> tuple[dict[str, Attack], dict[str, nn.Module], Iterator[Batch], tuple[Flag, ...]]:
    """The attacks by name, the models, the batches, and a flag for each model that only turned out to be random."""
    named = attacks_by_name(attacks, models.values(), norm, eps, bounds)
    batches = pairs(loader, {attack.bounds for attack in named.values()})
    if not isinstance(attacks, str):
        return named, models, batches, ()
    models, batches, undeclared = over_draws(models, batches, draws)
    if undeclared:  # other attacks are for random models
        named = attacks_by_name(attacks, models.values(), norm, eps, bounds)
    return named, models, batches, undeclared


def _check_numbers(draws: int, pictures: int, seed: int | None) -> None:
    check_number("draws", draws, at_least=1, integer=True)
    check_number("pictures", pictures, at_least=0, integer=True)
    if seed is not None:
        check_number("seed", seed, integer=True)


def _versions_and(certify: bool, surrogate: Model | None) -> dict[str, Any]:
    """What a run is made with, and what is known of it only where somebody asked for it."""
    found: dict[str, Any] = {"advkit": __version__, "torch": str(torch.__version__)}
    found |= {"certify": True} if certify else {}
    return found | ({} if surrogate is None else {"surrogate": [type(surrogate).__name__, settings(surrogate)]})


def _report(
    records: Mapping[int, Record],
    data_digest: str,
    evaluator: BatchEvaluator,
    setup: Mapping[str, Any],
    probed: Iterable[Flag],
    called: str | None,
) -> RobustnessReport:
    """What the records say, with the flags that comparing them raises behind those that probing did."""
    contenders, plan, whole = evaluator.contenders, evaluator.plan, not setup["stop_when_fooled"]
    compared = comparison(records, contenders, plan, whole=whole) if setup["flags"] else ()
    numbers = summary(records, contenders, plan, setup)
    return RobustnessReport(
        **numbers,
        flags=(*contradicted(numbers["standing"], numbers["proved"]), *probed, *compared),
        not_tried=() if called else not_tried(carried_out(records.values(), plan)),
        verdict=called,
        pictures=chosen((one for record in records.values() for one in record.pictures), evaluator.pictures),
        **_circumstances(records, setup, contenders[0].model),
        data_digest=data_digest,
    )


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
