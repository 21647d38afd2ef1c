"""Whether a model's gradient predicts its outputs: how the change of the log-odds correlates with it."""

import torch
from torch import Tensor

from advkit._engine.ball import Ball
from advkit._engine.classifier import Classifier, own
from advkit.evaluation.flags import ATHALYE, Flag, many
from advkit.evaluation.looks import spacing
from advkit.evaluation.signs import RANDOM, Sign
from advkit.evaluation.tries import Survivors
from advkit.goals import Untargeted
from advkit.losses import log_odds
from advkit.model import Model, attacking, defended, is_stochastic

__all__ = ["borne_out", "foretold"]

_SHARE = 0.25  # of the images that are left, on which the gradient of an honest model may foretell little so far away
_SHARE_CUT = 0.05  # or be zero where pixels matter, or the answers stand still: of few images, most tell
_SHARE_BENT = 0.02  # or foretell less than all, however short the way
_DIRECTIONS, _THERE = (8, 24), (4, 8)  # random ones, of signs: how many, or of few images; two forwards each
_ENOUGH = 32  # images; of fewer, more directions
_AGAIN = 9  # times that a model is asked whether its answers last
_FEWER = 2  # of the directions, for what has to be told apart
_SHORT, _LONG = 1 / 255, 4 / 255  # half of the budget, but no shorter and no longer, in parts of the pixels' range
_AWAY = 0.25  # how far from the image to look, in parts of that length
_LITTLE = 0.5  # a correlation below which a gradient foretells little; honest ones have 0.8 and more,
_ALL, _NEARER = 0.9, 1 / 32  # or nearly 1 on so short a part of the way
_OFF = 2.0  # how many times as much, or as little, outputs may change as the gradient says; honest ones seldom over 1.7
_UNEVEN = 2.0  # how much more outputs may change alike both ways than from end to end; honest ones seldom do more
_UNSEEN = 0.02  # of the pixels: an honest gradient may be zero in more, but not where they matter
_TINY = 1 / 100  # of the length; the change of a smooth function falls as much


def foretold(called: str, model: Model, left: Survivors, bounds: tuple[float, float], *, adaptive: bool) -> list[Sign]:
    """The sign for gradients that do not predict how the outputs change along random directions.

    They are looked at beside the images, and where these show nothing, where one step leads that takes the whole
    budget. Through the surrogate of a defense that has no gradient this is not asked: that it is another function than
    the defense is known. Nor is it asked of a defense that says it is random.

    Args:
        called: what sentences call the model.
        model: pixels (N, ...) to logits (N, K).
        left: the images on which to look.
        bounds: of the pixels.
        adaptive: whether the attacker knows the model's defenses.
    """
    known = defended(model)
    if is_stochastic(model) or (adaptive and not all(getattr(one.defense, "differentiable", True) for one in known)):
        return []
    classifier = Classifier(model, {"labels": left.labels})
    device, work = classifier.workplace(left.images)
    x, labels = own(left.images, device, work), own(left.labels, device, torch.int64)
    with attacking(model, adaptive=adaptive):
        look = _Directions(classifier, x, Untargeted(labels), left.eps, bounds)
        if found := look.signs(called, *_DIRECTIONS):
            return found
        ball = Ball.of(left.norm, x, left.eps, bounds)
        look.at(ball.project(x + left.eps * ball.norm.steepest(look.gradient)))
        return look.signs(called, *_THERE)


def borne_out(classifier: Classifier, x: Tensor, goal: Untargeted, bounds: tuple[float, float]) -> Tensor:
    """Where the gradient of the log-odds does predict how these change beside images (n, ...): bool (n,)."""
    look = _Directions(classifier, x, goal, 0.0, bounds)
    came, fore, _ = look.changes(_DIRECTIONS[0], look.length)
    return look.finite & (_size(came) > look.floor) & (_correlation(came, fore) >= _ALL)


class _Directions:
    """Random directions, and what the model says along them.

    Args:
        classifier: pixels to logits.
        x: (n, ...).
        goal: of the n images.
        eps: the budget.
        bounds: of the pixels.
    """

    def __init__(
        self, classifier: Classifier, x: Tensor, goal: Untargeted, eps: float, bounds: tuple[float, float]
    ) -> None:
        self.classifier, self.goal, self.bounds = classifier, goal, bounds
        self.generator = torch.Generator("cpu").manual_seed(0)
        self.length = (bounds[1] - bounds[0]) * min(max(eps / (bounds[1] - bounds[0]) / 2, _SHORT), _LONG)
        away = torch.rand(x.shape, generator=self.generator, device="cpu").to(x) * 2 - 1
        # Where attacks soon are: a gradient may be right at the image alone, whose pixels have few levels.
        self.at((x + away * self.length * _AWAY).clamp(*bounds))

    def at(self, x: Tensor) -> None:
        """Look from these points, (n, ...)."""
        x = x.detach().requires_grad_()
        logits = self.classifier.logits(x)
        odds = log_odds(logits, self.goal.classes)
        gradient = self.classifier.gradient(odds, x)
        self.finite = gradient.isfinite().flatten(1).all(1)  # of what is not, there is a flag already
        self.gradient = gradient.nan_to_num()
        self.x, self.odds, logits = x.detach(), odds.detach(), logits.detach()
        self.floor = 16 * spacing(logits) * logits.abs().amax(1)  # a change that may be rounding

    def signs(self, called: str, directions: int, most: int) -> list[Sign]:
        n = len(self.x)
        count = max(directions, min(most, directions * _ENOUGH // n))
        came, fore, alike = self.changes(count, self.length)
        size, told = _size(came), _correlation(came, fore)
        still = self.finite & (came == 0).all(0) & (_size(fore) > self.floor)
        low = self.finite & (size > self.floor) & (told < _LITTLE)
        bent = self.finite & (size > self.floor) & (told < _ALL)
        times = size / _size(fore).clamp_min(torch.finfo(size.dtype).tiny)
        times = times.maximum(1 / times)
        off = self.finite & (size > self.floor) & (times > _OFF)
        if many(int(bent.sum()), n, _SHARE_BENT):
            # Which a steep network's may be so far away, but no nearer.
            came, fore, _ = self.changes(count, self.length * _NEARER)
            near = _correlation(came, fore)
            bent, told = bent & (_size(came) > self.floor) & (near < _ALL), told.maximum(near)
        cut, unseen = self.cut(size)
        uneven = self.finite & (_size(alike) > self.floor.maximum(_UNEVEN * size))
        doubted = low | still | cut | bent | uneven | off
        often = many(int(doubted.sum()), n, _SHARE) or many(int((still | cut).sum()), n, _SHARE_CUT)
        if not often and not many(int(bent.sum()), n, _SHARE_BENT):
            return []
        wavering = self.wavering()
        if bool(wavering.any()):
            return [_sign("random outputs", RANDOM.format(who=called), wavering)]
        jumpy = torch.zeros_like(low)
        if bool((low | bent).any()):
            jumpy = (low | bent) & (_size(self.changes(_FEWER, self.length * _TINY)[0]) > size / 2)
        kinds = {"still": still, "jumpy": jumpy, "cut": cut & ~jumpy, "low": (low | bent) & ~jumpy & ~cut}
        kinds["uneven"] = uneven & ~(still | cut | low | bent)
        kinds["off"] = off & ~(still | cut | low | bent | uneven)
        kind = max(kinds, key=lambda name: int(kinds[name].sum()))
        rows = still if kind == "still" else low | bent | kinds[kind]
        return [_sign(*self.said(kind, called, unseen[cut], told[low | bent], times[off]), rows)]

    def cut(self, size: Tensor) -> tuple[Tensor, Tensor]:
        """Where pixels matter that have no gradient, bool (n,), and the share of the pixels that have none, (n,)."""
        n, none = len(size), self.gradient == 0
        unseen = none.flatten(1).double().mean(1)
        sparse = self.finite & (unseen > _UNSEEN) & (size > self.floor)
        if not many(int(sparse.sum()), n, _SHARE_CUT):
            return torch.zeros_like(sparse), unseen
        hidden = _size(self.changes(max(_FEWER, _ENOUGH // n), self.length, where=none)[0])
        # As much as that many pixels change of the outputs of an ordinary network, or half of it.
        return sparse & (hidden > size * unseen.sqrt().to(size) / 2) & (hidden > self.floor), unseen

    def said(self, kind: str, called: str, unseen: Tensor, told: Tensor, times: Tensor) -> tuple[str, str]:
        """The name of the flag, and what it says."""
        if kind == "still":
            return "answers that stand still", (
                f"{called} returns exactly the same logits when every pixel moves by {self.length:.3g}, although "
                "its gradient is not zero; it caches earlier images or looks up its outputs, so evaluate a fresh "
                "copy, and attack the model behind it"
            )
        if kind == "jumpy":
            return "answers that jump", (
                f"the outputs of {called} change just as much when the pixels move by {self.length * _TINY:.2g} as by "
                f"{self.length:.2g}, so its gradient predicts nothing; it draws random numbers that depend on the "
                "image, or is discontinuous everywhere, so attack the model behind it, or the mean over such draws"
            )
        if kind == "cut":
            return "partly zero gradients", (
                f"the gradient of {called} is zero in {100 * float(unseen.median()):.0f} % of the pixels, "
                "although these change the outputs; give attacks a differentiable stand-in for the operation that "
                "rounds, clips or detaches"
            )
        if kind == "uneven":
            return "misleading gradients", (
                f"the outputs of {called} change alike when the pixels move by {self.length:.2g} along a random "
                "direction and when they move against it, of which its gradient says nothing; fine waves or steps are "
                "hidden in it, so give attacks a smooth stand-in for them, or use black-box attacks"
            )
        if kind == "off":
            return "misleading gradients", (
                f"the outputs of {called} change along random directions by {float(times.median()):.2g} times as much, "
                "or as little, as its gradient says, which is near 1 for an ordinary network; steps or waves are "
                "hidden in it, so give attacks a smooth stand-in for them, or use black-box attacks"
            )
        return "misleading gradients", (
            f"the gradient of {called} does not say how its outputs change along random directions: the "
            f"correlation, which is near 1 for an ordinary network, is {float(told.median()):.2f}; part of the "
            "model is hidden from it (rounded, detached, or replaced by another gradient), so give attacks a "
            "differentiable stand-in for that part, or use black-box attacks"
        )

    def wavering(self) -> Tensor:
        """Where the answers change when nothing does, so that there was nothing to foretell: bool (n,)."""
        with torch.no_grad():
            first, *others = (self.classifier.logits(self.x) for _ in range(_AGAIN))
        allowed = 1e-3 * (first.abs() + first.abs().max())
        return torch.stack([((first - other).abs() > allowed).any(1) for other in others]).any(0)

    def changes(self, count: int, length: float, where: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """How much the log-odds change from end to end of so many directions, and by the gradient: (count, n) each.

        And how much they change to both ends alike, beyond what the gradient says: (count, n).

        Args:
            count: how many directions.
            length: how far a pixel moves to either side.
            where: bool (n, ...), the pixels that move; all if None.
        """
        came, fore, alike = [], [], []
        with torch.no_grad():
            for _ in range(count):
                signs = torch.randint(2, self.x.shape, generator=self.generator, device="cpu").to(self.x) * 2 - 1
                signs = signs if where is None else signs * where
                up, down = ((self.x + way * length * signs).clamp(*self.bounds) for way in (1, -1))
                ends = [log_odds(self.classifier.logits(end), self.goal.classes) for end in (up, down)]
                came.append(ends[0] - ends[1])
                # Pixels at a bound move one way alone, so that gradients foretell some of this as well.
                lean = (self.gradient * (up + down - 2 * self.x)).flatten(1).sum(1)
                both = ends[0] + ends[1] - 2 * self.odds
                alike.append(((both - lean).abs() - _UNEVEN * lean.abs()).clamp_min(0))
                fore.append((self.gradient * (up - down)).flatten(1).sum(1))
        return torch.stack(came), torch.stack(fore), torch.stack(alike)


def _size(changes: Tensor) -> Tensor:
    """The root of the mean square over directions: (count, n) to (n,)."""
    return changes.square().mean(0).sqrt()


def _correlation(came: Tensor, fore: Tensor) -> Tensor:
    """Of the changes that came with those that were foretold, (count, n) each: (n,)."""
    return (came * fore).mean(0) / (_size(came) * _size(fore)).clamp_min(torch.finfo(came.dtype).tiny)


def _sign(name: str, what: str, rows: Tensor) -> Sign:
    return Sign(Flag(name, f"on {int(rows.sum())} of {len(rows)} images that no attack fooled, {what}.", ATHALYE), rows)
