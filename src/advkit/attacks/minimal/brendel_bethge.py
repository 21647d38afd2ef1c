"""The attack of Brendel and Bethge, which follows the decision boundary from afar."""

from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from advkit import hyperparameters, norms
from advkit._base.random import uniform_like
from advkit._base.scale import magnitude, power_of_two
from advkit._engine.iterate import iterate
from advkit._engine.keeps import HighestLoss, Smallest
from advkit._engine.looks import Look, Seeking
from advkit._engine.rows import Rows
from advkit.attack import Aim, Attack
from advkit.attacks.minimal.trust_region import Rule, rule
from advkit.goals import Goal
from advkit.hyperparameters import ImageEach, declared, number
from advkit.norms import L2, Norm, column

__all__ = ["BrendelBethge"]

_GRAINS = (1, 2, 4, 8)  # pixels along a side of what noise is made of, in turn
_DRAWS = 12  # of noise, until it fools
_LEAST = 16 * torch.finfo(torch.float32).eps  # of the logits: a margin that rounding to 32 bits leaves
_LED = 40  # steps along gradients where no noise does


def _edge(look: Look) -> Tensor:
    """The margin that an answer must have, (n,): images of 32 bits may be all that is left of ones in 64."""
    return look.edge.maximum(_LEAST * look.magnitude)


class _Beyond(Smallest):
    """The closest place that is beyond the boundary by that: walks stand as near to it as they can."""

    def value(self, rows: Rows, look: Look) -> Tensor:
        size = self.norm.distance(look.x, self.originals[rows.index])
        return size.where(look.success & (look.goal.margin(look.logits) < -_edge(look)), torch.inf)


@dataclass
class _Follower(Seeking):
    """Rows that follow the boundary.

    Args:
        x: (n, ...), where each row starts, and then stands.
        goal: of the rows.
        originals: (n, ...).
        unit: (n,), what margins are measured in.
    """

    originals: Tensor
    unit: Tensor
    slope: Tensor = field(init=False)  # (n, ...), a mean over the latest gradients of the margin, over the unit

    def __post_init__(self) -> None:
        super().__post_init__()
        self.slope = torch.zeros_like(self.x)


@dataclass(frozen=True, eq=False)
class BrendelBethge(Attack):
    """Brendel and Bethge's attack: along the boundary, from an adversarial image far away (L0, L1, L2, Linf).

    The walk begins where the segment from the image to the adversarial crosses the boundary, found by
    ``binary_search_steps`` halvings. Each step linearises the margin m with the mean b of its latest gradients, and
    goes to the z closest to the image with m + b . (z - x) = 0, within the box and within a trust region around x; if
    the trust region does not reach the hyperplane, it goes as far towards it as that allows. Steps aim beyond the
    boundary by a tenth of the margin (``overshoot``). The closest adversarial met is returned.

    The problem of each step is solved for the whole batch by its dual: in L2 and Linf by projections onto the
    hyperplane within the box, in L1 and L0 pixel by pixel with one multiplier for each row, and one more for the
    radius. The hyperplane is a one-sided constraint: where the image is nearer on the other side, a step may go there.

    Costs a forward and a backward a step, one forward at the end, ``binary_search_steps`` forwards, and those that look
    for a starting point: at most 13, and 40 gradient steps if no noise is adversarial.

    Brendel, Rauber, Kümmerer, Ustyuzhaninov & Bethge, "Accurate, reliable and fast robustness evaluation",
    NeurIPS 2019, equation (3). As in the authors' code, the radius is reduced at regular intervals and gradients are
    averaged; unlike there, the radius does not depend on how many images are attacked at once.
    arXiv:1907.01003.

    Args:
        model: pixels (N, ...) to logits (N, K).
        norm: "l2", "l0", "l1" or "linf", or an object of `advkit.norms`: the norm to minimise.
        steps: the number of steps, at least 1.
        starting_points: (N, ...), an adversarial image for each image, within ``bounds``. Uniform noise, of pixels or
            of squares of them, if None, and for images whose starting point is not adversarial.
        overshoot: where to aim, 1 at the boundary, 1.1 a tenth of the margin beyond it; in [1, 2].
        lr: the first radius of the trust region in L2, positive, in units of the number of features times the range of
            ``bounds``.
        lr_decay: the factor by which the radius is reduced, in (0, 1].
        lr_num_decay: how often the radius is reduced, at least 1.
        momentum: how much of the mean gradient a step keeps, at least 0 and below 1.
        binary_search_steps: the number of halvings that find the boundary at first, at least 0.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the noise; torch's default if None.

    Raises:
        InputError: a number is out of its range, or starting points are not such images; see `Attack` for the rest.

    Examples:
        >>> result = advkit.BrendelBethge(model, norm="linf", steps=100).run(images, labels)
        >>> result
        AdversarialResult(12 of 12 successful)
        >>> others = images.roll(1, 0)  # images of other classes
        >>> advkit.BrendelBethge(model, steps=100, starting_points=others).run(images, labels)
        AdversarialResult(12 of 12 successful)
    """

    independent_rows: ClassVar[bool] = True
    aim: ClassVar[Aim] = "minimal"

    norm: str | Norm = hyperparameters.norm("l2", "l0", "l1", "linf")
    steps: int = number(1000, at_least=1, integer=True)
    starting_points: Tensor | None = declared(None, ImageEach(optional=True))
    _: KW_ONLY
    overshoot: float = number(1.1, at_least=1, at_most=2)
    lr: float = number(1e-3, above=0)
    lr_decay: float = number(0.5, above=0, at_most=1)
    lr_num_decay: int = number(20, at_least=1, integer=True)
    momentum: float = number(0.8, at_least=0, at_most=0.999)
    binary_search_steps: int = number(10, at_least=0, integer=True)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        with torch.no_grad():
            logits = self.classifier.logits(images)
        norm = norms.get(self.norm)
        solver = rule(norm, self.bounds)
        place = (~goal.success(logits)).nonzero().squeeze(1)
        far, adversarial = self._starts(images, goal, place)
        place = place[adversarial[place]]
        if not len(place):
            return images
        far, originals, goal = far[place], images[place], goal.rows(place)
        kept = _Beyond(originals, norm)
        start = self._boundary(solver, originals, far, goal)
        unit = power_of_two(magnitude(logits[place], goal.classes)).to(images.dtype)
        rows = _Follower(start, goal, originals, unit)

        def step(rows: _Follower, look: Look) -> Tensor:
            return self._step(solver, rows, look)

        found = iterate(self.classifier, rows, step, steps=self.steps, loss="margin", keep=kept)
        return images.index_copy(0, place, found.where(column(kept.least.isfinite(), found), far))

    def _step(self, solver: Rule, rows: _Follower, look: Look) -> Tensor:
        """The closest point to the image in the trust region that is beyond the boundary: (n, ...)."""
        margin, edge = ((each / rows.unit).to(look.x.dtype) for each in (-look.loss, 2 * _edge(look)))
        slope = -look.gradient / column(rows.unit, look.x)
        keeps = self.momentum if look.step else 0
        rows.slope = torch.lerp(slope, rows.slope, keeps)
        interval = max(1, self.steps // self.lr_num_decay)
        extent = (self.bounds[1] - self.bounds[0]) * look.x[0].numel()
        radius = self.lr * self.lr_decay ** ((look.step + 2) // interval) * extent
        gap = margin * torch.where(margin > 0, self.overshoot, 2 - self.overshoot) + edge
        gap = gap.where(gap.isfinite(), 0)
        return solver.step(look.x, rows.originals, rows.slope, gap, torch.full_like(gap, radius))

    def _boundary(self, solver: Rule, originals: Tensor, far: Tensor, goal: Goal) -> Tensor:
        """Where the way to what is far away becomes adversarial: (n, ...)."""
        low = torch.zeros_like(originals.flatten(1)[:, 0])
        high = torch.ones_like(low)
        for _ in range(self.binary_search_steps):
            middle = (low + high) / 2
            with torch.no_grad():
                logits = self.classifier.of(goal).logits(solver.between(originals, far, middle))
            fooled = goal.clearly(logits)
            low, high = torch.where(fooled, low, middle), torch.where(fooled, middle, high)
        return solver.between(originals, far, high).clamp(*self.bounds)

    def _starts(self, images: Tensor, goal: Goal, place: Tensor) -> tuple[Tensor, Tensor]:
        """Adversarial images, (N, ...), for the rows int64 (n,), and which have one: bool (N,)."""
        far, done = images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
        given = self.starting_points
        for turn in range(-1, _DRAWS):
            if turn < 0 and given is None:
                continue
            left = place[~done[place]]
            if not len(left):
                return far, done
            tried = given[left] if given is not None and turn < 0 else self._noise(images[left], turn)
            standing = goal.rows(left)
            with torch.no_grad():
                done[left] = standing.clearly(self.classifier.of(standing).logits(tried))
            far[left] = tried
        left = place[~done[place]]
        if len(left):
            far[left], done[left] = self._led(far[left], goal.rows(left))
        return far, done

    def _noise(self, images: Tensor, turn: int) -> Tensor:
        """Uniform noise of the pixels, or of squares of them, one for each image: (n, ...)."""
        grain, (low, high) = _GRAINS[turn % len(_GRAINS)], self.bounds
        noise = uniform_like(images, self.generator)
        if images.ndim == 4 and grain > 1:
            height, width = images.shape[2:]
            coarse = noise[:, :, : -(-height // grain), : -(-width // grain)]
            noise = interpolate(coarse, (height, width), mode="nearest")
        drawn: Tensor = low + (high - low) * noise
        return drawn

    def _led(self, start: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
        """Where gradients lead to from there, (n, ...), and whether that is adversarial: bool (n,)."""
        length = float(0.02 * (self.bounds[1] - self.bounds[0]) * start[0].numel() ** 0.5)

        def step(rows: Seeking, look: Look) -> Tensor:
            return (look.x + L2.steepest(look.gradient) * length).clamp(*self.bounds)

        rows = Seeking(start, goal)
        found = iterate(self.classifier, rows, step, steps=_LED, loss="margin", keep=HighestLoss(start))
        with torch.no_grad():
            return found, goal.clearly(self.classifier.of(goal).logits(found))
