"""Accuracy with and without attacks."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import isfinite, nan
from statistics import median

import torch
from torch import Tensor

from advkit._engine.checks import check_classes, check_images, check_model
from advkit._engine.classifier import answer
from advkit._engine.progress import track
from advkit._version import __version__
from advkit.attack import Attack
from advkit.errors import DtypeError, InputError
from advkit.evaluation.report import AttackScore, RobustnessReport
from advkit.model import Model, placement
from advkit.norms import L2, Linf

__all__ = ["evaluate"]


def evaluate(
    model: Model,
    loader: Iterable[tuple[Tensor, Tensor]],
    attacks: Sequence[Attack] | Mapping[str, Attack],
    *,
    progress: bool | None = None,
) -> RobustnessReport:
    """Measure a model's accuracy, and what each attack leaves of it.

    Every attack is pointed at ``model`` with ``attack.on(model)``, whatever model it was made with. Only images
    that the model gets right are attacked; it has already failed on the others. The loader is gone through
    once, all attacks on each batch, and only a few numbers an image are kept: it may be a generator, and longer
    than memory. The model is left as it was, see `Attack`.

    Args:
        model: pixels (N, ...) to logits (N, K), in any mode and on any device.
        loader: batches (images, labels), such as a `DataLoader`: floating (N, ...) within the attacks' bounds,
            and int64 (N,). They may be on another device than the model.
        attacks: attacks, which the report calls by ``str(attack)``, with a number after a name that comes again;
            or attacks by the names that the report should use.
        progress: True for a progress bar, False for none, None for one where stderr is a terminal and tqdm is
            installed.

    Returns:
        The scores. Times are those of the attacks alone, without the forward that judges them.

    Raises:
        InputError: the loader has no images, or something in it or in the attacks cannot be used.
        ModelError: the model returned NaN, or something that is no batch of logits.
        MissingExtraError: ``progress`` is True and tqdm is not installed.
    """
    check_model(model)
    named = {name: attack.on(model) for name, attack in _named(attacks).items()}
    tallies = {name: _Tally() for name in named}
    bounds = {attack.bounds for attack in named.values()}
    total = right = 0
    device = placement(model)[0]
    for index, batch in enumerate(track(loader, "evaluate", unit="batch", progress=progress)):
        images, labels = _pair(batch, index, bounds)
        if not len(images):
            continue
        device = device or images.device
        correct = answer(model, images, {"labels": labels}).argmax(1).to(labels.device) == labels
        total += len(labels)
        right += int(correct.count_nonzero())
        images, labels = images[correct.to(images.device)], labels[correct]
        for name, attack in named.items():
            tallies[name].add(attack, images, labels, device)
    if not total:
        raise InputError("the loader has no images; a generator that was gone through before has none left")
    return RobustnessReport(
        images=total,
        clean_accuracy=right / total,
        attacks=tuple(tallies[name].score(name, attack, total) for name, attack in named.items()),
        device=str(device),
        advkit_version=__version__,
        torch_version=str(torch.__version__),
    )


@dataclass
class _Tally:
    """What is remembered of one attack: a few numbers for each image."""

    attacked: int = 0
    seconds: float = 0.0
    l2: list[float] = field(default_factory=list)  # of each success
    linf: list[float] = field(default_factory=list)

    def add(self, attack: Attack, images: Tensor, labels: Tensor, device: torch.device) -> None:
        """Attack images (n, ...) that the model gets right."""
        if not len(images):
            return
        _wait_for(device)
        start = time.perf_counter()
        adversarials = attack(images, labels)
        _wait_for(device)
        self.seconds += time.perf_counter() - start
        self.attacked += len(images)
        fooled = answer(attack.model, adversarials).argmax(1) != labels.to(images.device)
        work = torch.promote_types(images.dtype, torch.float32)
        adversarials, images = adversarials[fooled].to(work), images[fooled].to(work)
        self.l2 += L2.distance(adversarials, images).tolist()
        self.linf += Linf.distance(adversarials, images).tolist()

    def score(self, name: str, attack: Attack, total: int) -> AttackScore:
        fooled = len(self.l2)
        return AttackScore(
            name=name,
            attack=type(attack).__name__,
            accuracy=(self.attacked - fooled) / total,
            success_rate=fooled / self.attacked if self.attacked else nan,
            median_l2=median(self.l2) if fooled else nan,
            median_linf=median(self.linf) if fooled else nan,
            seconds_per_image=self.seconds / self.attacked if self.attacked else nan,
            arguments={known.name: _plain(getattr(attack, known.name)) for known in fields(attack) if known.repr},
        )


def _named(attacks: object) -> dict[str, Attack]:
    """The attacks by names that differ."""
    if isinstance(attacks, Mapping):
        named = dict(attacks)
    elif isinstance(attacks, Iterable):
        attacks = list(attacks)
        seen: Counter[str] = Counter()
        named = {}
        for attack in attacks:
            name = str(attack)
            seen[name] += 1
            named[name if seen[name] == 1 else f"{name} #{seen[name]}"] = attack
    else:
        raise DtypeError(f"attacks must be a list of attacks, or attacks by name; got {type(attacks).__name__}")
    for name, attack in named.items():
        if not isinstance(attack, Attack):
            raise DtypeError(f"attacks must be objects such as advkit.FGSM(model); {name!r} is {attack!r}")
        if attack._per_row():
            raise InputError(
                f"{name} has {' and '.join(attack._per_row())} for each image of one batch; to evaluate it, give one "
                "number for all images"
            )
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


def _wait_for(device: torch.device) -> None:
    """Until the device has done what it was asked for: what runs in the background has to be timed as well."""
    if device.type in ("cuda", "xpu"):
        getattr(torch, device.type).synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _plain(value: object) -> object:
    """A hyperparameter as JSON can say it."""
    if isinstance(value, Tensor):
        return _plain(value.item())
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    return value if value is None or isinstance(value, (bool, int, str)) else repr(value)
