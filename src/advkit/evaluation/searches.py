"""Other searches for the images that no attack fooled: what they find tells what the attacks lacked.

They are small, and judge nothing: an image that they fool shows that an accuracy is too high, one that they do not
fool shows nothing.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from advkit._engine.ball import Ball
from advkit._engine.classifier import Classifier, own, prediction
from advkit._engine.iterate import Climb, iterate
from advkit.attack import Attack
from advkit.evaluation.flags import ATHALYE, CARLINI, FAB, SQUARE, Flag, many, number
from advkit.goals import Untargeted
from advkit.losses import margin
from advkit.model import Model, attacking, is_stochastic
from advkit.norms import L2, Linf, Norm, column

__all__ = ["Survivors", "helped"]

_GAIN = 0.05  # the share of the survivors that an honest attack may fool when it tries again
_GAIN_OF_LOSS = 0.25  # with a loss that suits robust networks better than cross-entropy does; theirs is a sixth
_GAIN_OF_NOISE = 0.1
_LEAST = 4  # images; of fewer no share is more than chance
_MORE, _MOST = 4, 100  # times as many steps for an attack that tries again, but no more than this
_STEPS = 20  # of PGD in here, each a quarter of the budget
_DRAWS = 3  # of noise that gradients are averaged over
_QUERIES = 200
_P_INIT = 0.8  # the share of the pixels in a square at first, as in the paper
_HALVED = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # of the queries, when it halves, as in the paper
_STARTS, _WALKS = 8, 40  # images of other classes to start from, and steps of each walk
_LEAN, _BACK, _OVER = 0.1, 0.9, 1.05  # alpha_max, beta and eta of FAB


@dataclass(frozen=True, eq=False)
class Survivors:
    """Images that no attack on a model fooled within a budget.

    Attributes:
        norm: of the budget.
        eps: the budget, in units of pixels.
        name: what the report calls the attack that left fewest with this budget.
        attack: that attack, pointed at the model.
        images: floating (n, ...).
        labels: int64 (n,).
    """

    norm: Norm
    eps: float
    name: str
    attack: Attack
    images: Tensor
    labels: Tensor


def helped(
    called: str,
    model: Model,
    left: Survivors,
    others: tuple[Tensor, Tensor],
    bounds: tuple[float, float],
    *,
    adaptive: bool,
) -> list[Flag]:
    """The flag for a search that fools what no attack did, within the same budget.

    Of n images: the attack itself with four times its steps, at most 100; three times 20 steps of PGD, plain, with the
    margin for its loss, and with gradients averaged over noise, which counts three times. If none of these fools more
    than an honest attack might by trying again, what is left faces 200 queries of Square Attack's search (Linf), or
    eight walks of 40 steps from images of other classes (L2). That is at most some 540 forwards and backwards an
    image. Without a PGD for the norm, and for random defenses, whom luck helps, the attack itself is all.

    Args:
        called: what sentences call the model.
        model: pixels (N, ...) to logits (N, K).
        left: the images.
        others: images that the model gets right, and their labels.
        bounds: of the pixels.
        adaptive: whether the attacker knows the model's defenses.
    """
    n = len(left.images)
    if n < _LEAST or not left.eps:
        return []
    tries = _Tries(model, left, bounds, adaptive)
    found = {"steps": (tries.longer(), 2 * _GAIN if is_stochastic(model) else _GAIN)}
    small = left.norm in (Linf, L2) and not is_stochastic(model)
    if small:
        found |= {
            "plain": (tries.climbed("ce"), _GAIN),
            "margin": (tries.climbed("margin"), _GAIN_OF_LOSS),
            "noise": (tries.climbed("ce", noisy=True), _GAIN_OF_NOISE),
        }
    counts = {name: int(fooled.sum()) for name, (fooled, share) in found.items() if many(int(fooled.sum()), n, share)}
    if counts:
        best = max(counts, key=counts.__getitem__)
        return [_flag(best, called, left, n, counts[best])]
    rest = ~torch.stack([fooled for fooled, _ in found.values()]).any(0)
    n = int(rest.sum())
    if not small or n < _LEAST:
        return []
    name, fooled = ("square", tries.square(rest)) if left.norm is Linf else ("walk", tries.walked(rest, *others))
    return [_flag(name, called, left, n, int(fooled.sum()))] if many(int(fooled.sum()), n, _GAIN) else []


def _flag(kind: str, called: str, left: Survivors, n: int, count: int) -> Flag:
    budget = f"within {left.norm} {left.eps:.4g}"
    failed = f"the attacks on {called} left {n} images {budget} that were looked at again, and"
    steps = number(left.attack, "steps")
    pgd = f"{_STEPS} steps of PGD, each a quarter of the budget,"
    sentences = {
        "steps": (
            "more steps help",
            f"{left.name} failed on {n} images of {called}, and fools {count} of them with more than its "
            f"{steps or 1:g} steps; take more steps, and several starts of a random attack, until the accuracy stays "
            "where it is.",
            CARLINI,
        ),
        "plain": (
            "more steps help",
            f"{failed} {pgd} fool {count} of them; take such steps, until the accuracy stays where it is.",
            CARLINI,
        ),
        "margin": (
            "another loss helps",
            f"{failed} {pgd} on the margin fool {count} of them; cross-entropy misleads where the logits saturate, so "
            "use attacks on the margin (CW, DeepFool).",
            CARLINI,
        ),
        "noise": (
            "averaged gradients help",
            f"{failed} {pgd} along gradients averaged over noise on the image fool {count} of them; the gradient is "
            "shattered into small pieces, so average it, or use a surrogate for what breaks it.",
            ATHALYE,
        ),
        "square": (
            "random search helps",
            f"{failed} {_QUERIES} queries of a random search, which sees nothing but answers, fool {count} of them "
            "where PGD with several losses does not; gradients mislead there, so give attacks a surrogate for what "
            "masks them, or use black-box attacks.",
            SQUARE,
        ),
        "walk": (
            "another start helps",
            f"{failed} walks back from images of other classes fool {count} of them where PGD from nearby does not; "
            "gradients near these images do not tell what changes as large as the budget do, so use attacks that start "
            "elsewhere or see answers alone, and more of them.",
            FAB,
        ),
    }
    return Flag(*sentences[kind])


class _Tries:
    """The searches, each of which says which of the n images it fools: bool (n,)."""

    def __init__(self, model: Model, left: Survivors, bounds: tuple[float, float], adaptive: bool) -> None:
        self.model, self.left, self.bounds, self.adaptive = model, left, bounds, adaptive
        self.classifier = Classifier(model, {"labels": left.labels})
        device, work = self.classifier.workplace(left.images)
        self.x, self.labels = own(left.images, device, work), own(left.labels, device, torch.int64)
        self.generator = torch.Generator().manual_seed(0)

    def longer(self) -> Tensor:
        """The attack itself, with more steps; without steps it is not tried again."""
        steps = number(self.left.attack, "steps")
        if steps is None or steps < 2:
            return torch.zeros_like(self.labels, dtype=torch.bool)
        longer = self.left.attack._with(steps=int(max(steps, min(_MORE * steps, _MOST))))
        return longer.run(self.left.images, self.left.labels).success.to(self.labels.device)

    def climbed(self, loss: str, *, noisy: bool = False) -> Tensor:
        """PGD from a random point of the ball, on a loss, or along gradients averaged over noise."""
        ball = Ball.of(self.left.norm, self.x, self.left.eps, self.bounds)
        rows = Climb(ball.sample(self.generator), Untargeted(self.labels), ball, self.left.eps / 4)
        with attacking(self.model, adaptive=self.adaptive):
            found = iterate(
                Classifier(self._averaged, {}) if noisy else self.classifier,
                rows,
                lambda rows, look: rows.stepped(ball.norm.steepest(look.gradient)),
                steps=_STEPS,
                loss=loss,
                early_stop=not noisy,
            )
        return prediction(self.model, found) != self.labels

    def _averaged(self, x: Tensor) -> Tensor:
        """Logits averaged over noise of half the budget: they are as smooth as the noise is wide."""
        noise = (self.left.norm.sample(x.detach(), self.generator) * self.left.eps / 2 for _ in range(_DRAWS))
        return torch.stack([self.classifier.logits(x + each) for each in noise]).mean(0)

    def square(self, rest: Tensor) -> Tensor:
        """Square Attack's search in Linf, on the margin, for images that ``rest``, bool (n,), names."""
        images, labels = self._canvas(self.x[rest]), self.labels[rest]
        n, channels, height, width = images.shape
        eps, (low, high) = self.left.eps, self.bounds

        def signs(*shape: int) -> Tensor:
            return torch.randint(2, shape, generator=self.generator).to(images) * 2 - 1

        def lead(candidates: Tensor) -> Tensor:
            return margin(self.classifier.logits(candidates.view_as(self.x[rest])), labels)

        with attacking(self.model), torch.no_grad():
            best = (images + eps * signs(n, channels, 1, width)).clamp(low, high)
            leads = lead(best)
            for query in range(1, _QUERIES):
                share = _P_INIT / 2 ** sum(query > at * _QUERIES for at in _HALVED)
                side = max(1, round(math.sqrt(share * height * width)))
                inside = self._window(n, height, min(side, height))[:, None, :, None]
                inside = inside & self._window(n, width, min(side, width))[:, None, None, :]
                tried = (images + eps * signs(n, channels, 1, 1)).clamp(low, high)
                tried = torch.where(inside.to(images.device), tried, best)
                now = lead(tried)
                better = now < leads
                best, leads = torch.where(column(better, best), tried, best), torch.where(better, now, leads)
        return prediction(self.model, best.view_as(self.x[rest])) != labels

    def _window(self, n: int, length: int, side: int) -> Tensor:
        """Which of so many places are in a window that starts anywhere: bool (n, length)."""
        start = torch.randint(length - side + 1, (n, 1), generator=self.generator)
        place = torch.arange(length)
        return (place >= start) & (place < start + side)

    @staticmethod
    def _canvas(images: Tensor) -> Tensor:
        """Images of any shape as (n, C, H, W)."""
        shapes = {2: (1, 1, -1), 3: (1, *images.shape[1:]), 4: images.shape[1:]}
        return images.reshape(len(images), *shapes.get(images.ndim, (images.shape[1], 1, -1)))

    def walked(self, rest: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Walks back to the images that ``rest``, bool (n,), names from images of other classes."""
        x, y = self.x[rest], self.labels[rest]
        images, labels = images.to(x), labels.to(y)
        fooled = torch.zeros_like(y, dtype=torch.bool)
        other = (labels[None] != y[:, None]).double()  # (n, m)
        if not bool(other.any(1).all()):
            return fooled
        which = torch.multinomial(other.cpu(), _STARTS, replacement=True, generator=self.generator).to(y.device)
        for start in which.unbind(1):
            with attacking(self.model, adaptive=self.adaptive):
                found = _walk(self.classifier, images[start], x, y, self.bounds)
            inside = L2.distance(found, x) <= self.left.eps * (1 + 1e-4)
            fooled = fooled | (inside & (prediction(self.model, found) != y))
        return fooled


def _walk(classifier: Classifier, start: Tensor, x: Tensor, labels: Tensor, bounds: tuple[float, float]) -> Tensor:
    """The closest (in L2) images that fool, on the way from where the model says other classes: (n, ...).

    FAB's step (Croce & Hein 2020, eq. 7): between where the linearised boundary is closest to where the walk stands,
    and where it is closest to the image; and a tenth of the way back once across. An image that is never fooled is
    where the walk began.
    """
    z, best, shortest = start, start, L2.distance(start, x)
    for _ in range(_WALKS):
        z = z.detach().requires_grad_()
        logits = classifier.logits(z)
        leads = margin(logits, labels)
        gradient = classifier.gradient(leads, z)
        z, leads = z.detach(), leads.detach()
        across, far = leads < 0, L2.distance(z, x)
        closer = across & (far < shortest)
        best, shortest = torch.where(column(closer, z), z, best), torch.where(closer, far, shortest)
        ahead = torch.where(column(across, z), x + _BACK * (z - x), z)
        height = leads + (gradient * (ahead - z)).flatten(1).sum(1)
        here = _to_plane(ahead, height, gradient, bounds) - ahead
        there = _to_plane(x, height + (gradient * (x - ahead)).flatten(1).sum(1), gradient, bounds) - x
        lean = L2.size(here) / (L2.size(here) + L2.size(there)).clamp_min(torch.finfo(z.dtype).tiny)
        lean = column(lean.clamp(max=_LEAN), z)
        z = ((1 - lean) * (ahead + _OVER * here) + lean * (x + _OVER * there)).clamp(*bounds)
    return best


def _to_plane(points: Tensor, heights: Tensor, gradient: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Nearly the closest points of the box where linear functions are zero that are ``heights`` (n,) at ``points``."""
    tiny = torch.finfo(points.dtype).tiny
    for _ in range(5):
        uphill = gradient * column(heights.sign(), gradient)
        stuck = ((points <= bounds[0]) & (uphill > 0)) | ((points >= bounds[1]) & (uphill < 0))
        free = gradient.masked_fill(stuck, 0)
        length = heights / free.square().flatten(1).sum(1).clamp_min(tiny)
        moved = (points - column(length, points) * free).clamp(*bounds)
        heights = heights + (gradient * (moved - points)).flatten(1).sum(1)
        points = moved
    return points
