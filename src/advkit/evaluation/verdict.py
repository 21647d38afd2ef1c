"""What "standard" and "autoattack" stand for: the attacks that a verdict on a model is made of, in their order.

The fast verdict is `MultiTargeted`, or in L1 `LongSteps`, which trust gradients, and then `SecondLook`, which asks
whether they are to be trusted, and pays for more attacks where they are not. Where there are none, `Blind` searches at
random.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from advkit import hyperparameters, norms
from advkit._engine.checks import check_choice
from advkit._engine.run import Done
from advkit.attack import Attack
from advkit.attacks import APGDT, FGSM, AutoAttack, Minimal, MultiTargeted, Square, WorstOf
from advkit.errors import InputError, NoGradientError
from advkit.evaluation.arguments import named_attacks
from advkit.evaluation.audit import audit
from advkit.evaluation.flags import many
from advkit.evaluation.long_steps import SHORT, LongSteps, reached
from advkit.goals import Goal
from advkit.hyperparameters import OfRange, number
from advkit.model import Model, is_stochastic
from advkit.norms import Norm

__all__ = ["VERDICTS", "Blind", "SecondLook", "attacks_by_name", "check_reach", "verdict"]

Made = TypeVar("Made", bound=Attack)

VERDICTS = ("standard", "autoattack")
_RESTARTS = 2
_PASSES = 60  # that an audit may take, for each image that is left
_LEAST = 4  # images that an audit looks at; fewer are shown to it more than once: what it errs in costs passes alone
_BROKEN = 0.02  # the share of what is left of an honest network whose gradients promise success within the budget
_LONGER: dict[str, Any] = {"steps": 50, "target_classes": 3, "restarts": 2}  # where gradients are not to be trusted
_QUERIES = 2250
_FEW, _PART = 4, 0.2  # images that a minimal attack is tried on first: at least, and of all
_LOST = 0.03  # the share of those that it is tried on which an honest network loses


def verdict(
    name: str,
    models: Iterable[Model],
    *,
    norm: str | Norm,
    eps: float | None,
    bounds: tuple[float, float],
) -> Mapping[str, Attack]:
    """The attacks of a verdict by their names, each to be tried on what those before it left.

    Args:
        name: one of `VERDICTS`.
        models: what is to be judged, the bare model first.
        norm: of the budget.
        eps: the budget; 8/255 of the range of the pixels if None, in Linf alone.
        bounds: of the pixels.

    Raises:
        InputError: there is no such verdict, or no budget in this norm, or one beyond the range of the pixels.
    """
    check_choice("attacks, where they are given by a name,", name, VERDICTS)
    if isinstance(eps, (int, float)):
        check_reach(norms.get(norm), eps, bounds)
    if eps is None and norms.get(norm) is not norms.Linf:
        raise InputError(f'a verdict in {norms.get(norm)} needs a budget: evaluate(..., "{name}", norm=..., eps=0.5)')
    models = list(models)
    budget: dict[str, Any] = {"norm": norm, "bounds": bounds} | ({} if eps is None else {"eps": eps})
    if name == "standard":
        fast: Attack
        if norms.get(norm) is norms.L1:
            fast = LongSteps(models[0], **budget)
        else:
            fast = MultiTargeted(models[0], restarts=_RESTARTS, **budget)
        return {
            type(fast).__name__: fast,
            "second look": SecondLook(models[0], **budget),
            "no gradient": Blind(models[0], **budget),
        }
    version = "rand" if any(map(is_stochastic, models)) else "standard"
    whole = AutoAttack(models[0], version=version, **budget)
    return {str(part): part for part in whole._parts()}


def check_reach(norm: Norm, eps: float, bounds: tuple[float, float]) -> None:
    """Refuse a budget in Linf that is wider than the range of a pixel: most often one in levels of bytes.

    Raises:
        InputError: it is.
    """
    if norm is norms.Linf and eps > bounds[1] - bounds[0]:
        low, high = (f"{end:g}" for end in bounds)
        raise InputError(
            f"eps={eps:g} in Linf is wider than the range of a pixel, {low} to {high}, so that any image may become "
            "any other; where pixels lie in [0, 1], eight of the 256 levels of an 8-bit image are 8/255"
        )


def attacks_by_name(
    attacks: Sequence[Attack] | Mapping[str, Attack] | str,
    models: Iterable[Model],
    norm: str | Norm | None,
    eps: float | None,
    bounds: tuple[float, float] | None,
) -> dict[str, Attack]:
    """The attacks by name: those that were given, or those of a verdict."""
    if isinstance(attacks, str):
        where = (0.0, 1.0) if bounds is None else bounds
        return named_attacks(verdict(attacks, models, norm="linf" if norm is None else norm, eps=eps, bounds=where))
    if given := [name for name, value in {"norm": norm, "eps": eps, "bounds": bounds}.items() if value is not None]:
        raise InputError(_TWO_BUDGETS.format(given=" and ".join(given), verb="is" if len(given) == 1 else "are"))
    return named_attacks(attacks)


@dataclass(frozen=True, eq=False)
class Blind(Square):
    """`Square` on a model without a gradient to follow; on any other, the images are returned unchanged.

    Args:
        model: pixels (N, ...) to logits (N, K).
        norm: of the budget.
        eps: the budget, at least 0.
        max_queries: the most forwards for one image, at least 1.
        p_init: see `Square`.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the squares and signs; torch's default if None.

    Examples:
        >>> from advkit.evaluation.verdict import Blind
        >>> Blind(model).run(images, labels).success.any()
        tensor(False)
        >>> Blind(lambda images: model(images).detach(), eps=0.1, max_queries=200).run(images, labels).success.any()
        tensor(True)
    """

    def _carry_out(self, images: Tensor, labels: Tensor, targets: Tensor | None) -> Done:
        step = FGSM(self.model, bounds=self.bounds, adaptive=self.adaptive)
        try:
            step._carry_out(images[:1], labels[:1], None)
        except NoGradientError:
            return super()._carry_out(images, labels, targets)
        asked = torch.zeros(len(labels), dtype=torch.int64, device=labels.device)
        return Done(images.detach().clone(), asked, forwards=len(images[:1]), backwards=len(images[:1]))


@dataclass(frozen=True, eq=False)
class SecondLook(Attack):
    """More attacks on what the first one left, where gradients cannot be trusted.

    That is so where gradients promise success within the budget on more images than for an honest network, and
    `MultiTargeted` had none. If they make no such promise, an audit looks at gradients and outputs on some of the
    images, and tries other searches. If it finds nothing, the images are returned unchanged. Otherwise `APGDT` and
    `Square` are run on them; or, if it may be chance, only on those on which the audit succeeded or a promise was
    broken.

    In L2 and L1 a short run of `Minimal` comes before the audit, since it also walks back from afar: on a fifth of the
    images, at least four, and on all where it fools one of these. Where it fools more than an honest network loses,
    the whole of it, `APGDT` and `Square` are run on what is left. In L1 no promise is asked about. A random model,
    which is fooled on its boundary by luck alone, is spared `Minimal`; in L1 the other two are run on all that is left.

    Args:
        model: pixels (N, ...) to logits (N, K).
        norm: of the budget.
        eps: the budget, at least 0.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the attacks; torch's default if None.

    Examples:
        >>> from advkit.evaluation.verdict import SecondLook
        >>> SecondLook(model, eps=1 / 255).run(images, labels).images.shape
        torch.Size([12, 3, 16, 16])
    """

    independent_rows: ClassVar[bool] = False
    transferable: ClassVar[bool] = False  # a look at the gradients of this model

    norm: str | Norm = hyperparameters.norm("linf", "l2", "l1")
    eps: float | Tensor = number(OfRange(8 / 255), at_least=0)

    def _carry_out(self, images: Tensor, labels: Tensor, targets: Tensor | None) -> Done:
        if targets is not None:
            raise InputError("a second look has no targets: a verdict is about any class but the label")
        if not len(images):
            return Done(images.detach().clone(), None)
        norm, random = norms.get(self.norm), is_stochastic(self.model)
        # In L1, where a few pixels change so much, no honest network is linear, so that no promise is asked about.
        broken = torch.full((len(labels),), random, device="cpu")
        if norm is not norms.L1:
            broken = self._one(MultiTargeted).within_reach(images, labels).cpu()
        if many(int(broken.sum()), len(broken), _BROKEN):
            return self._more(images, labels, torch.ones_like(broken))
        if norm is norms.Linf or random:  # on its boundary a random model is fooled by luck alone
            return self._audited(images, labels, broken)
        return self._approached(images, labels, broken)

    def _approached(self, images: Tensor, labels: Tensor, broken: Tensor) -> Done:
        """What a search for the smallest change finds, and more attacks or an audit of the images that it leaves.

        It does not only go where gradients near the image lead, but walks back from afar, and so tells whether these
        mislead. It is tried on a part of the images, and where it fools one of these on all.
        """
        n = len(labels)
        order = torch.randperm(n, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
        tried = order[: max(_FEW, int(_PART * n))]
        done, left = self._closest(images, labels, tried)
        if len(tried) < n and not bool(left.all()):
            more, still = self._closest(done.images, labels, order[len(tried) :])
            done, left, tried = _together(done, more), left & still, order
        if many(int((~left).sum()), len(tried), _LOST):
            return _together(done, self._more(done.images, labels, left, self._minimal()))
        rest = left.nonzero().squeeze(1)
        if not len(rest):
            return done
        some = rest.to(images.device)
        then = self._audited(images[some], labels[rest.to(labels.device)], broken[rest])
        done.images[some] = then.images
        return _together(done, replace(then, images=done.images))

    def _closest(self, images: Tensor, labels: Tensor, rows: Tensor) -> tuple[Done, Tensor]:
        """A short search for the smallest change of some images, and which of all it did not fool: bool (N,)."""
        some = rows.to(images.device)
        done = self._minimal(**SHORT)._carry_out(images[some], labels[rows.to(labels.device)], None)
        fooled = reached(norms.get(self.norm), done.images, images[some], self.eps)
        found = images.detach().clone()
        found[some[fooled]] = done.images[fooled]
        left = torch.ones(len(labels), dtype=torch.bool, device="cpu").index_fill(0, rows[fooled.cpu()], False)
        return replace(done, images=found), left

    def _audited(self, images: Tensor, labels: Tensor, broken: Tensor) -> Done:
        """What is done after an audit, on images some of which broke a promise, bool (N,)."""
        n = len(labels)
        some = torch.arange(max(n, _LEAST), device="cpu") % n
        seen = audit(
            self._one(MultiTargeted),
            images[some.to(images.device)],
            labels[some.to(labels.device)],
            torch.ones(len(some), dtype=torch.bool, device="cpu"),
            passes=_PASSES * len(some),
        )
        lucky = torch.zeros(n, dtype=torch.bool, device="cpu").index_fill(0, some[seen.fooled], True)
        done = self._more(images, labels, broken | lucky if seen.believed else torch.ones_like(lucky))
        return replace(done, forwards=done.forwards + seen.forwards, backwards=done.backwards + seen.backwards)

    def _more(self, images: Tensor, labels: Tensor, wanted: Tensor, *first: Attack) -> Done:
        """Other attacks on some of the images, bool (N,), behind those that come ``first``."""
        found, rows = images.detach().clone(), wanted.nonzero().squeeze(1)
        if not len(rows):
            return Done(found, None)
        attacks = [*first, self._one(APGDT, **_LONGER), self._one(Square, max_queries=_QUERIES)]
        some = rows.to(images.device)
        done = WorstOf(attacks)._tried(images[some], labels[rows.to(labels.device)], None, looked=True)
        found[some] = done.images
        return Done(found, None, done.forwards, done.backwards, done.infinite)

    def _minimal(self, **numbers: Any) -> Minimal:
        return Minimal(self.model, norm=self.norm, bounds=self.bounds, adaptive=self.adaptive, **numbers)

    def _one(self, kind: type[Made], **numbers: Any) -> Made:
        shared: dict[str, Any] = {"norm": self.norm, "eps": self.eps, "bounds": self.bounds, "adaptive": self.adaptive}
        return kind(self.model, generator=self.generator, **shared, **numbers)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        raise NotImplementedError("a second look is made of other attacks; call it")


def _together(first: Done, then: Done) -> Done:
    """What two searches made of the same images, one after the other."""
    infinite = max(first.infinite, then.infinite)
    return Done(then.images, None, first.forwards + then.forwards, first.backwards + then.backwards, infinite)


_TWO_BUDGETS = (
    '{given} {verb} for a verdict, as in evaluate(..., "standard", norm="l2", eps=0.5). Attacks that you pass have '
    "their own: set it there, as in advkit.PGD(model, eps=4 / 255)"
)
