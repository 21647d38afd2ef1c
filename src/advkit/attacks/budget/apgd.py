"""Auto-PGD: ascent that halves its own steps, on one loss, or towards one class after another."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from advkit import hyperparameters, losses, norms
from advkit._base.random import normal_like
from advkit._engine.ball import Ball
from advkit._engine.iterate import iterate
from advkit._engine.keeps import HighestLoss, Keep, Standing
from advkit._engine.looks import Climb, Look, Peak
from advkit._engine.scatter import scattered
from advkit.attack import Attack
from advkit.attacks.budget.apgd_l1 import Sparse, phases
from advkit.goals import Goal
from advkit.hyperparameters import OfRange, number
from advkit.losses import Loss
from advkit.norms import Norm, column

__all__ = ["APGD", "APGDT"]

_NEW = 0.75  # the share of a move that is the new step's; the rest is the last move


@lru_cache(maxsize=64)
def _windows(steps: int) -> Mapping[int, int]:
    """After how many steps there is a checkpoint, and how many steps that is after the one before."""
    window, shrink, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    found, after = {}, window
    while after < steps:
        found[after] = window
        window = max(window - shrink, least)
        after += window
    return found


@dataclass
class _Halving(Climb):
    """Rows whose steps are halved where the loss no longer rises (Linf and L2).

    Args:
        windows: of the checkpoints.
        rho: the share of the steps in a window on which the loss has to rise.
        place: int64 (n,), which image of the batch each is.
        peak: where its loss was highest.
        before: (n, ...), where the last step began.
        last: (n,), the loss at the last look.
        rises: (n,), how often it has risen since the last checkpoint.
        mark: (n,), the highest loss as of the last checkpoint.
        halved: bool (n,), whether the step was halved there.
    """

    windows: Mapping[int, int]
    rho: float
    place: Tensor
    peak: Peak
    before: Tensor
    last: Tensor
    rises: Tensor
    mark: Tensor
    halved: Tensor

    @classmethod
    def of(cls, x: Tensor, goal: Goal, ball: Ball, place: Tensor, steps: int, rho: float) -> Self:
        """Rows that start at ``x``, (n, ...), with a step of twice the radius."""
        none = torch.zeros_like(x.flatten(1)[:, 0])
        alpha = none + 2 * ball.eps
        return cls(x, goal, ball, alpha, _windows(steps), rho, place, Peak.of(x), x, none, none, none, none == 0)

    def advance(self, look: Look) -> Tensor:
        """Where the rows go: (n, ...)."""
        self.peak.see(look)
        x, gradient = look.x, look.gradient
        if look.step:  # the first loss after the start is held against 0, as in the reference
            loss = look.loss.to(self.last.dtype)
            self.rises, self.last = self.rises + (loss > self.last), loss
        if look.step in self.windows:
            back = self._check(self.windows[look.step])
            x = self.peak.x.where(column(back, x), x)
            gradient = self.peak.gradient.where(column(back, x), gradient)
        move = self.ball.project(x + column(self.alpha, x) * self.ball.norm.steepest(gradient)) - x
        if look.step:
            move = _NEW * move + (1 - _NEW) * (x - self.before)
        self.before = x
        return self.ball.project(x + move)

    def _check(self, window: int) -> Tensor:
        """Halve the steps that lead nowhere; bool (n,), which these are. Their rows go back to the peak."""
        stands_still = ~self.halved & (self.mark >= self.peak.loss)
        self.halved = (self.rises <= self.rho * window) | stands_still
        self.alpha = torch.where(self.halved, self.alpha / 2, self.alpha)
        self.rises, self.mark = torch.zeros_like(self.rises), self.peak.loss
        return self.halved


@dataclass(frozen=True, eq=False)
class _ByWayOf(Goal):
    """A goal by way of one rival each, int64 (N,), whose difference of logits ratio is what is climbed."""

    goal: Goal
    rival: Tensor

    def climbed(self, loss: Loss, logits: Tensor) -> Tensor:
        return losses.targeted_dlr(logits, self.goal.held(logits).squeeze(1), self.rival)

    def margin(self, logits: Tensor) -> Tensor:
        return self.goal.margin(logits)

    def success(self, logits: Tensor) -> Tensor:
        return self.goal.success(logits)


@dataclass(frozen=True, eq=False)
class _AutoPGD(Attack):
    """What `APGD` and `APGDT` share: runs, and which images still need one."""

    independent_rows: ClassVar[bool] = True

    norm: str | Norm = hyperparameters.norm("linf", "l2", "l1")
    eps: float | Tensor = number(OfRange(8 / 255), at_least=0, per_image=True)
    steps: int = number(100, at_least=1, integer=True)
    restarts: int = number(1, at_least=1, integer=True)
    _: KW_ONLY
    eot_samples: int = number(1, at_least=1, integer=True)
    rho: float = number(0.75, at_least=0, at_most=1)

    @property
    def stops_at_success(self) -> bool:
        """Images leave as soon as they are fooled."""
        return True

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        found = Standing(images)
        with torch.no_grad():
            logits = torch.stack([self.classifier.logits(images) for _ in range(self.eot_samples)]).mean(0)
        found.leave_out(goal.success(logits))
        self._runs(images, goal, logits, found)
        return found.images

    @abstractmethod
    def _runs(self, images: Tensor, goal: Goal, logits: Tensor, found: Standing) -> None:
        """Run after run on images (N, ...), whose logits are (N, K)."""

    def _run(
        self, images: Tensor, goal: Goal, found: Standing, loss: str | Loss, possible: Tensor | None = None
    ) -> None:
        """One run from a new start, on the images that nothing has fooled yet and that it is ``possible`` on."""
        place = found.left(possible)
        if not len(place):
            return
        eps = (images.new_zeros(len(images)) + self.eps)[place]
        ball, goal = Ball.of(self.norm, images[place], eps, self.bounds), goal.rows(place)
        if ball.norm is not norms.L1:
            rows = _Halving.of(self._start(ball), goal, ball, place, self.steps, self.rho)
            self._climb(rows, self.steps, loss, found)
            return
        x = self._start(ball)
        for radius, steps in phases(self.steps):
            inside = replace(ball, eps=radius * eps)
            x = inside.project(x)
            keep = found if radius == 1 else HighestLoss(x)
            x = self._climb(Sparse.of(x, goal, inside, place, steps), steps, loss, keep)

    def _start(self, ball: Ball) -> Tensor:
        """A point for each row, in a random direction and as far out as it goes: (n, ...). For L1 far outside."""
        like = ball.originals
        if ball.norm is norms.L1:
            low, high = self.bounds
            return like + (high - low) * normal_like(like, self.generator)
        return scattered(like, ball.norm, ball.eps, self.generator).clamp_(*self.bounds)

    def _climb(self, rows: _Halving | Sparse, steps: int, loss: str | Loss, keep: Keep) -> Tensor:
        """What is kept of a climb. Rows leave it where they fool, unless their ball is larger than the budget."""
        return iterate(
            self.classifier,
            rows,
            lambda rows, look: rows.advance(look),
            steps=steps,
            loss=loss,
            keep=keep,
            early_stop=isinstance(keep, Standing),
            draws=self.eot_samples,
        )


@dataclass(frozen=True, eq=False)
class APGD(_AutoPGD):
    """Auto-PGD: projected gradient ascent with momentum and a step size that it adapts itself (Linf, L2 or L1).

    z = project(x + alpha * steepest(grad_x J)) and x <- project(x + 0.75 (z - x) + 0.25 (x - x_before)), with alpha
    twice ``eps`` at first. At checkpoints, after 22, 41, 57, 70, 80, 87, 93 and 99 of 100 steps, alpha is halved and
    x set back to the best point so far, if the loss rose on at most ``rho`` of the steps since the last checkpoint, or
    if alpha was not halved at that checkpoint and the best loss has not improved since.

    Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
    ICML 2020, algorithm 1, with the conditions of section 3.2.
    arXiv:2003.01690.

    In L1 it follows Croce & Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers",
    ICML 2021, arXiv:2103.01208: 30 % of the steps use a ball of radius 3 ``eps``, 30 % one of radius 2 ``eps``, and the
    rest the ball of radius ``eps``, each phase from the best point of the one before. A step moves only the features
    with the largest gradients, by their signs: two thirds as many as have been changed so far. There is no momentum.

    Where the papers leave something open, or differ from their authors' code (fra31/auto-attack at a392200), this
    follows the code: the start is a random direction taken to the edge of the ball; the loss after the first step
    is compared with 0 rather than with the loss at the start. Two things differ from the code: an image leaves the
    batch when it first fools the model, which changes no verdict; and with ``eot_samples`` above 1, loss and success
    are those of the mean over all draws, where the code takes them from the last draw.

    Costs one forward for the image itself, then at most ``steps`` + 1 forwards and ``steps`` backwards for each
    restart; in L1, two forwards more.

    The result is, for each image, the first point that fooled the model, or else the point of highest loss.

    Args:
        model: pixels (N, ...) to logits (N, K), K at least 2.
        norm: "linf", "l2" or "l1", or an object of `advkit.norms`.
        eps: the radius of the ball, at least 0: a number, or a tensor of shape (N,); 8/255 of the range of ``bounds``
            if not given.
        steps: the number of steps in a run, at least 1.
        restarts: the number of runs, at least 1, each on the images that those before it have not fooled.
        loss: the loss to maximise: "ce", "dlr", "margin" or "log_odds", or a function of logits (N, K) and classes (N,)
            that returns one number per image; see `advkit.losses.get`. With targets it is minimised, and "dlr" is the
            targeted DLR loss of `APGDT`. For two classes, or three with targets, "dlr" is a plain difference of
            logits: there are too few logits for its denominator.
        eot_samples: over how many passes of a random model each gradient is averaged, at least 1.
        rho: the share of steps on which the loss has to rise, in [0, 1]. Not used in L1.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the starts; torch's default if None.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> result = advkit.APGD(model, eps=8 / 255, steps=20).run(images, labels)
        >>> result
        AdversarialResult(12 of 12 successful)
        >>> sparse = advkit.APGD(model, norm="l1", eps=4.0, steps=20, loss="dlr").run(images, labels)
        >>> bool((sparse.distance("l1") <= 4 + 1e-5).all())
        True
    """

    loss: str | Loss = hyperparameters.loss()

    def _runs(self, images: Tensor, goal: Goal, logits: Tensor, found: Standing) -> None:
        for _ in range(self.restarts):
            self._run(images, goal, found, self.loss)


@dataclass(frozen=True, eq=False)
class APGDT(_AutoPGD):
    """Auto-PGD on the targeted DLR loss, towards one class after another (Linf, L2 or L1).

    The steps are those of `APGD`. The loss is (Z_t - Z_y) / (Z_(1) - (Z_(3) + Z_(4)) / 2), with Z_(k) the k-th largest
    logit and t a target class: first the runner-up on the image itself, then the class ranked third, and so on. Any
    class but the label counts as success on the way, and an image leaves the batch at its first success.

    Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
    ICML 2020, algorithm 1 and the targeted DLR loss.
    arXiv:2003.01690.

    With two or three classes there is no fourth logit, and the difference is not divided by anything. Classes whose
    logit on the image is -inf are not targeted. With ``targets``, each image has only its own target, Z_y is the
    largest other logit, and success means that the model predicts the target.

    Costs one forward for the image itself, then as much as a run of `APGD` for each restart of each target.

    The result is, for each image, the first point that fooled the model, or else the point of highest loss.

    Args:
        model: pixels (N, ...) to logits (N, K), K at least 2.
        norm: "linf", "l2" or "l1", or an object of `advkit.norms`.
        eps: the radius of the ball, at least 0: a number, or a tensor of shape (N,); 8/255 of the range of ``bounds``
            if not given.
        steps: the number of steps in a run, at least 1.
        restarts: the number of runs for each target, at least 1.
        target_classes: the number of classes to try, at least 1; all but the label if there are fewer.
        eot_samples: over how many passes of a random model each gradient is averaged, at least 1.
        rho: the share of steps on which the loss has to rise, in [0, 1]. Not used in L1.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the starts; torch's default if None.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> advkit.APGDT(model, eps=8 / 255, steps=20, target_classes=3).run(images, labels)
        AdversarialResult(12 of 12 successful)
    """

    target_classes: int = number(9, at_least=1, integer=True)

    def _runs(self, images: Tensor, goal: Goal, logits: Tensor, found: Standing) -> None:
        for rival in goal.rivals(logits, self.target_classes).unbind(1):
            towards = _ByWayOf(goal.classes, goal, rival)
            possible = logits.gather(1, rival[:, None]).squeeze(1) > -torch.inf
            for _ in range(self.restarts):
                self._run(images, towards, found, "dlr", possible)
