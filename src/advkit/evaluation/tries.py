"""The searches that are tried on images on which every attack failed."""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from advkit._engine.ball import Ball
from advkit._engine.classifier import Classifier, own, prediction
from advkit._engine.iterate import iterate
from advkit._engine.looks import Climb
from advkit.attack import Attack
from advkit.evaluation.flags import number
from advkit.goals import Untargeted
from advkit.losses import margin
from advkit.model import Model, attacking
from advkit.norms import L2, Norm, column

__all__ = ["DRAWS", "QUERIES", "STARTS", "STEPS", "WALKS", "Survivors", "Tries"]

_MORE, _MOST = 4, 100  # times as many steps for an attack that tries again, but no more than this
STEPS = 20  # of PGD in here, each a quarter of the budget
DRAWS = 3  # of noise that gradients are averaged over
QUERIES = 200
_P_INIT = 0.8  # the share of the pixels in a square at first, as in the paper
_HALVED = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # of the queries, when it halves, as in the paper
STARTS, WALKS = 8, 40  # images of other classes to start from, and steps of each walk
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


class Tries:
    """The searches, each of which says which of some rows of the survivors it fools: int64 (m,) to bool (m,)."""

    def __init__(
        self,
        model: Model,
        left: Survivors,
        others: tuple[Tensor, Tensor],
        bounds: tuple[float, float],
        adaptive: bool,
    ) -> None:
        self.model, self.left, self.others, self.bounds, self.adaptive = model, left, others, bounds, adaptive
        self.classifier = Classifier(model, {"labels": left.labels})
        device, work = self.classifier.workplace(left.images)
        self.x, self.labels = own(left.images, device, work), own(left.labels, device, torch.int64)
        self.generator = torch.Generator("cpu").manual_seed(0)
        steps = number(left.attack, "steps")
        self.more_steps = 0 if steps is None or steps < 2 else int(max(steps, min(_MORE * steps, _MOST)))
        self.most_passes = 2 * self.more_steps * int(number(left.attack, "target_classes") or 1)  # of these, in one run

    def longer(self, rows: Tensor) -> Tensor:
        """One run of the attack itself, with more steps; without steps it is not tried again."""
        if not self.more_steps:
            return torch.zeros_like(rows, dtype=torch.bool)
        once = {} if number(self.left.attack, "restarts") is None else {"restarts": 1}
        longer = self.left.attack._with(steps=self.more_steps, **once)
        images, labels = self.left.images, self.left.labels
        return longer.run(images[rows.to(images.device)], labels[rows.to(labels.device)]).success

    def climbed(self, rows: Tensor, loss: str, *, noisy: bool = False) -> Tensor:
        """PGD from a random point of the ball, on a loss, or along gradients averaged over noise."""
        x, labels = self._of(rows)
        ball = Ball.of(self.left.norm, x, self.left.eps, self.bounds)
        start = ball.sample(self.generator)

        def climb(classifier: Classifier) -> Tensor:
            return iterate(
                classifier,
                Climb(start, Untargeted(labels), ball, self.left.eps / 4),
                lambda rows, look: rows.stepped(ball.norm.steepest(look.gradient)),
                steps=STEPS,
                loss=loss,
                early_stop=not noisy,
            )

        with attacking(self.model, adaptive=self.adaptive):
            found = (Classifier(self._averaged, {}) if noisy else self.classifier).verified(climb)
        return prediction(self.model, found) != labels

    def _averaged(self, x: Tensor) -> Tensor:
        """Logits averaged over noise of half the budget: they are as smooth as the noise is wide."""
        noise = (self.left.norm.sample(x.detach(), self.generator) * self.left.eps / 2 for _ in range(DRAWS))
        return torch.stack([self.classifier.logits(x + each) for each in noise]).mean(0)

    def square(self, rows: Tensor) -> Tensor:
        """Square Attack's search in Linf, on the margin."""
        x, labels = self._of(rows)
        images = self._canvas(x)
        n, channels, height, width = images.shape
        eps, (low, high) = self.left.eps, self.bounds

        def signs(*shape: int) -> Tensor:
            return torch.randint(2, shape, generator=self.generator, device="cpu").to(images) * 2 - 1

        def lead(candidates: Tensor) -> Tensor:
            return margin(self.classifier.logits(candidates.view_as(x)), labels)

        with attacking(self.model), torch.no_grad():
            best = (images + eps * signs(n, channels, 1, width)).clamp(low, high)
            leads = lead(best)
            for query in range(1, QUERIES):
                share = _P_INIT / 2 ** sum(query > at * QUERIES for at in _HALVED)
                side = max(1, round(math.sqrt(share * height * width)))
                inside = self._window(n, height, min(side, height))[:, None, :, None]
                inside = inside & self._window(n, width, min(side, width))[:, None, None, :]
                tried = (images + eps * signs(n, channels, 1, 1)).clamp(low, high)
                tried = torch.where(inside.to(images.device), tried, best)
                now = lead(tried)
                better = now < leads
                best, leads = torch.where(column(better, best), tried, best), torch.where(better, now, leads)
        return prediction(self.model, best.view_as(x)) != labels

    def _window(self, n: int, length: int, side: int) -> Tensor:
        """Which of so many places are in a window that starts anywhere: bool (n, length)."""
        start = torch.randint(length - side + 1, (n, 1), generator=self.generator, device="cpu")
        place = torch.arange(length, device="cpu")
        return (place >= start) & (place < start + side)

    def _of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Some of the images and their labels."""
        rows = rows.to(self.x.device)
        return self.x[rows], self.labels[rows]

    @staticmethod
    def _canvas(images: Tensor) -> Tensor:
        """Images of any shape as (n, C, H, W)."""
        shapes = {2: (1, 1, -1), 3: (1, *images.shape[1:]), 4: images.shape[1:]}
        return images.reshape(len(images), *shapes.get(images.ndim, (images.shape[1], 1, -1)))

    def walked(self, rows: Tensor) -> Tensor:
        """Walks back to the images from images of other classes."""
        x, y = self._of(rows)
        images, labels = self.others[0].to(x), self.others[1].to(y)
        fooled = torch.zeros_like(y, dtype=torch.bool)
        other = (labels[None] != y[:, None]).double()  # (n, m)
        if not bool(other.any(1).all()):
            return fooled
        which = torch.multinomial(other.cpu(), STARTS, replacement=True, generator=self.generator).to(y.device)
        for start in which.unbind(1):
            walk = partial(_walk, start=images[start], x=x, labels=y, bounds=self.bounds)
            with attacking(self.model, adaptive=self.adaptive):
                found = self.classifier.verified(walk)
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
    for _ in range(WALKS):
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
    """Nearly the closest points of the box where linear functions are zero that are ``heights`` (n,) at ``points``.

    Points whose slope is zero, as far as the box lets them move, stay where they are.
    """
    for _ in range(5):
        uphill = gradient * column(heights.sign(), gradient)
        stuck = ((points <= bounds[0]) & (uphill > 0)) | ((points >= bounds[1]) & (uphill < 0))
        free = gradient.masked_fill(stuck, 0)
        steepness = free.square().flatten(1).sum(1)
        length = heights / steepness
        length = length.where(length.isfinite(), 0)
        moved = (points - column(length, points) * free).clamp(*bounds)
        heights = heights + (gradient * (moved - points)).flatten(1).sum(1)
        points = moved
    return points
