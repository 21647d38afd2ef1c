"""Red flags: signs that an evaluation says more about its attacks than about its model.

Each is a sentence with the numbers seen, what to do about it, and the paper that warns of it. A flag needs more than
chance: counts are held against a binomial, and attacks are compared image by image. One image of a hundred raises none.

The papers:

- Athalye, Carlini & Wagner, "Obfuscated gradients give a false sense of security: circumventing defenses to adversarial
  examples", ICML 2018
- Carlini et al., "On evaluating adversarial robustness", arXiv:1902.06705, 2019
- Tramèr, Carlini, Brendel & Mądry, "On adaptive attacks to adversarial example defenses", NeurIPS 2020
- Carlini & Wagner, "Defensive distillation is not robust to adversarial examples", arXiv:1607.04311, 2016
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from advkit import norms
from advkit._engine.ascent import LinfAscent, ascend
from advkit._engine.classifier import Classifier, own, prediction
from advkit._engine.wording import short
from advkit.attack import Attack
from advkit.goals import Untargeted
from advkit.losses import cross_entropy
from advkit.model import Model, attacking, is_stochastic
from advkit.norms import L2, Linf

__all__ = ["Flag", "Outcome", "beats", "compared", "named_norm", "probed", "rising"]

_ATHALYE = "Athalye, Carlini & Wagner 2018, section 3.1"
_CARLINI = "Carlini et al. 2019"
_TRAMER = "Tramèr et al. 2020"
_DISTILLED = "Carlini & Wagner 2016"

_CHANCE = 0.01  # how probable the numbers behind a flag may be where nothing is wrong
_FEW = 0.02  # the share of images on which an honest model may look masked
_GAIN = 0.05  # the share of the survivors that an honest attack may fool when it tries again
_STEPS = 10  # of the attack without a budget, each a quarter of the pixels' range
_MORE = 4  # times as many steps, for an attack that tries again
_AGREE = 0.99  # the least cosine of two gradients that are the same but for rounding
_SIGNAL = 0.5  # the least cosine of two means over random draws that are more than noise
_SAME = 1e-3  # how far two answers may be apart, in parts of the range of the logits


@dataclass(frozen=True)
class Flag:
    """One sign that an evaluation is not to be trusted.

    Attributes:
        name: what it is called, such as "zero gradients".
        sentence: what was seen, with numbers, and what to do.
        paper: who warns of it.
    """

    name: str
    sentence: str
    paper: str

    def __str__(self) -> str:
        """All of it as one line."""
        return f"{self.name}: {self.sentence} ({self.paper})"


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one attack did to a model, image by image.

    Attributes:
        name: what the report calls the attack.
        protocol: "adaptive", "naive" or "oblivious"; None for a model without a defense.
        attack: the attack.
        right: bool (N,), whether the model is right on each image under attack.
        distances: by the name of a norm, floating (N,): how far each image was moved, in units of pixels.
    """

    name: str
    protocol: str | None
    attack: Attack
    right: Tensor
    distances: Mapping[str, Tensor]

    def allowed(self, other: "Outcome") -> Tensor:
        """Whether this attack might have returned what the other did: bool (N,).

        A budget attack might have if that lies within its budget. A minimal one has no budget, and might have returned
        anything; but one that counts pixels stops after a number of them, and a black-box one when its queries end.
        """
        norm, eps = named_norm(self.attack), _number(self.attack, "eps")
        if self.attack.kind == "budget" and norm is not None and eps is not None:
            return other.distances[norm.name] <= eps * (1 + 1e-4)
        anything = self.attack.kind == "minimal" and norm is not norms.L0
        return torch.full_like(other.right, anything)


class _LogOdds(Untargeted):
    """The goal whose loss never saturates, log sum_{i != y} exp Z_i - Z_y.

    Cross-entropy is its softplus, so that their gradients point the same way, as long as there is one.
    """

    def loss(self, logits: Tensor) -> Tensor:
        label = self.classes[:, None]
        return logits.scatter(1, label, -torch.inf).logsumexp(1) - logits.gather(1, label).squeeze(1)


def probed(
    defense: str, model: Model, attacks: Mapping[str, Attack], images: Tensor, labels: Tensor
) -> tuple[Flag, ...]:
    """The flags that need passes of their own, on one small batch.

    A model costs two forwards, two backwards, and at most ten steps of an attack without a budget. Each iterative
    attack with a budget is run once on the batch, and again with four times the steps on the images that it failed on.

    Args:
        defense: what the report calls the model's defense; "none" for the bare model.
        model: pixels (N, ...) to logits (N, K), in any mode; it is left as it was.
        attacks: by name, pointed at the model. Gradients are looked at as these attacks take them: through the
            surrogates of the model's defenses, unless the attacker is the naive one.
        images: floating (n, ...), images that the model gets right, n at least 1; some 32 are enough.
        labels: int64 (n,).

    Returns:
        The flags. A probe that raises is one more: it looks for reasons to doubt, and must not stop what it looks at.
    """
    who = _who(defense)
    adaptive = all(attack.adaptive for attack in attacks.values())
    bounds = next((attack.bounds for attack in attacks.values()), (0.0, 1.0))
    found = _probe(f"gradients of {who}", partial(_of_model, who, model, images, labels, bounds, adaptive))
    for name, attack in attacks.items():
        found += _probe(f"steps of {name}", partial(_of_effort, who, name, attack, images, labels))
    return tuple(found)


def _probe(what: str, look: Callable[[], list[Flag]]) -> list[Flag]:
    try:
        return look()
    except Exception as error:
        sentence = f"nobody has looked at the {what}, since a probe raised {type(error).__name__}: {error}"
        return [Flag("not probed", sentence, _CARLINI)]


def compared(defense: str, clean: Tensor, outcomes: Sequence[Outcome]) -> tuple[Flag, ...]:
    """The flags that show when the attacks on one model are held against each other, image by image.

    Args:
        defense: what the report calls the model's defense; "none" for the bare model.
        clean: bool (N,), whether the model is right on each image when nobody attacks.
        outcomes: of the attacks on the same N images, each of which attacked every image that the model gets right.
    """
    who = _who(defense)
    found = []
    for one in outcomes:
        found += _of_help(who, one, clean)
        found += _of_reach(who, one)
        peers = [other for other in outcomes if other.protocol == one.protocol and other is not one]
        found += _of_steps(who, one, peers)
        found += _of_budgets(who, one, peers)
        found += _of_sight(who, one, peers)
        found += _of_knowledge(who, one, outcomes)
    return tuple(found)


def rising(name: str, eps: Sequence[float], right: Tensor) -> tuple[Flag, ...]:
    """The flag for an accuracy that rises with the budget.

    Args:
        name: of the attack.
        eps: E budgets, ascending.
        right: bool (E, N), whether the model is right on each of the same N images under attack, at each budget.
    """
    counts = right.sum(1).tolist()
    lows = [min(range(later), key=counts.__getitem__) for later in range(1, len(counts))]
    gain, low, high = max(((counts[b] - counts[a], a, b) for b, a in enumerate(lows, 1)), default=(0, 0, 0))
    if gain <= 0 or not beats(right[high], right[low]):
        return ()
    return (_rises(name, "the model", eps[low], eps[high], right[low], right[high]),)


def beats(winner: Tensor, loser: Tensor) -> bool:
    """Whether the first of two yes-or-no outcomes on the same images, bool (N,) each, has more yes than by chance.

    McNemar's test, exact and one-sided, at 1 %: of the images that tell the two apart, as many would be the winner's
    by tosses of a coin once in a hundred times at most. It takes seven images of seven.
    """
    won, lost = int((winner & ~loser).sum()), int((loser & ~winner).sum())
    return _tail(won, won + lost, 0.5) < _CHANCE


def _of_model(
    who: str, model: Model, images: Tensor, labels: Tensor, bounds: tuple[float, float], adaptive: bool
) -> list[Flag]:
    """What the answers and the gradients of the model look like."""
    classifier = Classifier(model, {"labels": labels})
    device, work = classifier.workplace(images)
    averaged = adaptive and is_stochastic(model)
    with attacking(model, adaptive=adaptive):
        x, labels = own(images, device, work).requires_grad_(), own(labels, device, torch.int64)
        goal, (low, high) = _LogOdds(labels), bounds
        logits, again = classifier.logits(x), classifier.logits(x)
        gradient, repeated = (_gradient(goal.loss(answer), x) for answer in (logits, again))
        x, logits, again = x.detach(), logits.detach().requires_grad_(), again.detach()
        of_loss = _gradient(cross_entropy(logits, labels), logits)
        logits = logits.detach()
        broken = ~gradient.isfinite().flatten(1).all(1)
        flat = (gradient == 0).flatten(1).all(1)
        climbing = ~(broken | flat)
        anywhere = x.clone()
        if bool(climbing.any()):
            anywhere[climbing] = ascend(
                classifier,
                LinfAscent(x[climbing], x[climbing], goal.rows(climbing), high - low, (high - low) / 4, bounds),
                lambda _, gradient: gradient.sign(),
                steps=_STEPS,
                early_stop=True,
            ).detach()
    standing = prediction(model, anywhere) == labels

    spread = (logits.amax(1) - logits.amin(1)).clamp_min(torch.finfo(logits.dtype).tiny)
    moody = ((logits - again).abs().amax(1) > _SAME * spread) & (not averaged)
    noisy = climbing & ~moody & (_cosine(gradient, repeated) < (_SIGNAL if averaged else _AGREE))
    saturated = climbing & (of_loss.abs().amax(1) < torch.finfo(logits.dtype).tiny)
    sums_to_one = (logits.sum(1) - 1).abs() < 1e-3
    probabilities = sums_to_one & (logits >= 0).all(1)

    noise = (
        "the gradients of {who} point elsewhere when asked for again, while its answers stay; differentiate the model "
        "without what draws random numbers in its backward pass"
    )
    mostly_noise = (
        "the gradient of {who} is mostly noise, though it is a mean over draws of its random defense; raise eot_samples"
    )
    signs = [
        (
            broken,
            0.0,
            "NaN gradients",
            "the loss of {who} has a gradient that is not finite; look for a root, a division or a logarithm of zero",
            _CARLINI,
        ),
        (
            flat,
            _FEW,
            "zero gradients",
            "the logits of {who} have a gradient of zero, so that an attack that follows it stands still; give attacks "
            "a differentiable stand-in for what rounds or cuts off (BPDA, `surrogate` of a defense), or use black-box "
            "attacks",
            _ATHALYE,
        ),
        (
            saturated,
            _FEW,
            "saturated softmax",
            "the cross-entropy of {who} has no gradient left that floats can hold, while the logits, which are huge, "
            "still have one; use attacks on the margin (CW, DeepFool), or divide the logits by a temperature",
            _DISTILLED,
        ),
        (noisy, _FEW, "gradient noise", mostly_noise if averaged else noise, _ATHALYE),
        (
            moody,
            _FEW,
            "random outputs",
            "{who} answers otherwise when asked again, so that an attack chases one draw, and luck judges it; attack "
            "the mean over draws (EOT, a defense that is `stochastic`), and judge over several answers",
            _ATHALYE,
        ),
        (
            probabilities & probabilities.all(),
            _FEW,
            "probabilities",
            "{who} returns numbers that sum to 1 where logits are due, and a softmax of a softmax is nearly flat; "
            "return the logits, or the logarithms of the probabilities",
            _CARLINI,
        ),
        (
            standing,
            _FEW,
            "unbounded attack",
            f"{{who}} is right after {_STEPS} steps of an attack that may change every pixel to anything, which should "
            "leave it right on none; its gradients mislead, so use a surrogate for what masks them, or black-box "
            "attacks",
            _ATHALYE,
        ),
    ]
    n = len(images)
    return [
        Flag(name, f"on {int(seen.sum())} of {n} images {sentence.format(who=who)}.", paper)
        for seen, share, name, sentence, paper in signs
        if _many(int(seen.sum()), n, share)
    ]


def _of_effort(who: str, name: str, attack: Attack, images: Tensor, labels: Tensor) -> list[Flag]:
    """Whether a longer attack fools where the attack failed."""
    steps = _number(attack, "steps")
    if attack.kind != "budget" or steps is None or steps < 2:
        return []
    survived = attack.run(images, labels).predictions == labels.to(images.device)
    images, labels = images[survived], labels[survived.to(labels.device)]
    n = len(images)
    fooled = n and int((attack._with(steps=_MORE * int(steps)).run(images, labels).success).sum())
    if not _many(fooled, n, _GAIN):
        return []
    sentence = (
        f"{name} failed on {n} images of {who}, and fools {fooled} of them with {_MORE} times its {steps:g} steps; "
        "take more steps, and several starts of a random attack, until the accuracy stays where it is."
    )
    return [Flag("more steps help", sentence, _CARLINI)]


def _of_help(who: str, one: Outcome, clean: Tensor) -> list[Flag]:
    """Whether the attack helps the model."""
    if not beats(one.right, clean):
        return []
    sentence = (
        f"{who} is right on {_share(one.right)} of the images under {_called(one)}, and on {_share(clean)} when nobody "
        "attacks; an attack that helps is none: it is aimed at another model, or its gradient misleads."
    )
    return [Flag("above clean accuracy", sentence, _CARLINI)]


def _of_reach(who: str, one: Outcome) -> list[Flag]:
    """Whether the attack fails though it may do anything."""
    norm, eps, (low, high) = named_norm(one.attack), _number(one.attack, "eps"), one.attack.bounds
    many_steps = (_number(one.attack, "steps") or 0) > 1
    anything = norm is Linf and eps is not None and eps >= (high - low) / 2
    count, n = int(one.right.sum()), len(one.right)
    if one.protocol == "oblivious" or not many_steps or not anything or not _many(count, n, _FEW):
        return []
    sentence = (
        f"{who} is right on {count} of {n} images under {_called(one)}, which may make every image the same grey; its "
        "gradients mislead, so use a surrogate for what masks them, or black-box attacks."
    )
    return [Flag("unbounded attack", sentence, _ATHALYE)]


def _of_steps(who: str, one: Outcome, peers: Sequence[Outcome]) -> list[Flag]:
    """Whether one step beats many, and many beat fewer."""
    found: list[Flag] = []
    steps = _number(one.attack, "steps")
    if one.attack.kind != "budget" or steps is None or one.protocol == "oblivious":
        return found
    for other in peers:
        more = _number(other.attack, "steps")
        if other.attack.kind != "budget" or more is None or more <= steps:
            continue
        if steps == 1 and (won := _beaten(other, one)):
            sentence = (
                f"{who} falls to {_called(one)}, of one step, on {won} images that {_called(other)} fails on, within "
                "its budget; an attack that takes many steps should find them, so its gradients mislead it, or its "
                "step size is wrong."
            )
            found.append(Flag("one step beats many", sentence, _ATHALYE))
        same = type(one.attack) is type(other.attack) and named_norm(one.attack) is named_norm(other.attack)
        if steps > 1 and same and _number(one.attack, "eps") == _number(other.attack, "eps"):
            n, fooled = int(one.right.sum()), int((one.right & ~other.right).sum())
            if beats(~other.right, ~one.right) and _many(fooled, n, _GAIN):
                sentence = (
                    f"{_called(one)} failed on {n} images of {who}, and {_called(other)} fools {fooled} of them; take "
                    "more steps still, until the accuracy stays where it is."
                )
                found.append(Flag("more steps help", sentence, _CARLINI))
    return found


def _of_budgets(who: str, one: Outcome, peers: Sequence[Outcome]) -> list[Flag]:
    """Whether the same attack does worse with a larger budget."""
    eps, norm = _number(one.attack, "eps"), named_norm(one.attack)
    if eps is None or one.protocol == "oblivious":
        return []
    found = []
    for other in peers:
        larger = _number(other.attack, "eps")
        alike = type(other.attack) is type(one.attack) and named_norm(other.attack) is norm
        no_shorter = (_number(other.attack, "steps") or 0) >= (_number(one.attack, "steps") or 0)
        if alike and no_shorter and larger is not None and larger > eps and _beaten(other, one):
            name = type(one.attack).__name__
            found.append(_rises(name, who, eps, larger, one.right, other.right))
    return found


def _of_sight(who: str, one: Outcome, peers: Sequence[Outcome]) -> list[Flag]:
    """Whether an attack that sees only answers beats all that see gradients."""
    seeing = [other for other in peers if other.attack.kind != "black-box"]
    if one.attack.kind != "black-box" or one.protocol == "oblivious" or not (won := _beaten_all(seeing, one)):
        return []
    sentence = (
        f"{who} falls to {_called(one)}, which sees nothing but answers, on {won} images that every attack that sees "
        "gradients fails on, though they were allowed what it found; its gradients mislead, so give attacks a "
        "surrogate for what masks them."
    )
    return [Flag("black-box beats white-box", sentence, _ATHALYE)]


def _of_knowledge(who: str, one: Outcome, outcomes: Sequence[Outcome]) -> list[Flag]:
    """Whether an attacker who knows less does better, with the same attack."""
    ranks = {"oblivious": 0, "naive": 1, "adaptive": 2}
    found = []
    for other in outcomes:
        knows_more = ranks[other.protocol or "adaptive"] > ranks[one.protocol or "adaptive"]
        if other.name != one.name or not knows_more or not (won := _beaten(other, one)):
            continue
        seen = "without knowing of the defense" if one.protocol == "oblivious" else "through the gradient as it is"
        sentence = (
            f"{who} falls to {_called(one)}, made {seen}, on {won} images that the {other.protocol} attacker fails on, "
            "within the same budget; knowing more should not hurt, so look for what masks the gradient, or for a "
            "better surrogate."
        )
        name = "transfer beats white-box" if one.protocol == "oblivious" else "naive beats adaptive"
        found.append(Flag(name, sentence, _ATHALYE if one.protocol == "oblivious" else _TRAMER))
    return found


def _rises(name: str, who: str, low: float, high: float, right_low: Tensor, right_high: Tensor) -> Flag:
    sentence = (
        f"{who} is right on {_share(right_low)} of the images under {name} with eps={short(low)}, and on "
        f"{_share(right_high)} with eps={short(high)}, which allows all that the smaller one does; take more steps, "
        "and if the accuracy still rises, look for what makes the gradients mislead."
    )
    return Flag("accuracy rises with eps", sentence, _ATHALYE)


def _beaten(stronger: Outcome, weaker: Outcome) -> int:
    """How many images only the weaker attack fools, which the stronger one was allowed; 0 where it may be chance."""
    return _beaten_all([stronger], weaker)


def _beaten_all(stronger: Sequence[Outcome], weaker: Outcome) -> int:
    """The same for several stronger attacks together, of which each image counts for the best."""
    allowed, failed = torch.zeros_like(weaker.right), torch.ones_like(weaker.right)
    for other in stronger:
        allowed = allowed | other.allowed(weaker)
        failed = failed & other.right
    fooled = ~weaker.right & (allowed | ~failed)
    return int((fooled & failed).sum()) if beats(fooled, ~failed) else 0


def _gradient(values: Tensor, images: Tensor) -> Tensor:
    """The gradient of values (n,) with respect to the images, (n, ...); zero where none flows."""
    if not values.requires_grad:
        return torch.zeros_like(images)
    (gradient,) = torch.autograd.grad(values.sum(), images, retain_graph=True, allow_unused=True)
    return torch.zeros_like(images) if gradient is None else gradient


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    """The cosine of the angle between the perturbations (n, ...) of each row, however small they are: (n,)."""
    return (L2.steepest(one) * L2.steepest(other)).flatten(1).sum(1)


def _many(count: int, of: int, share: float) -> bool:
    """Whether ``count`` of so many images are more than a share of them would give by chance."""
    return count > 0 and _tail(count, of, share) < _CHANCE


def _tail(count: int, of: int, probability: float) -> float:
    """The probability of at least ``count`` successes in so many independent trials."""
    if count <= 0 or probability in (0.0, 1.0):
        return float(count <= of * probability)
    log_p, log_q, log_all = math.log(probability), math.log1p(-probability), math.lgamma(of + 1)
    terms = (
        log_all - math.lgamma(k + 1) - math.lgamma(of - k + 1) + k * log_p + (of - k) * log_q
        for k in range(count, of + 1)
    )
    return math.fsum(map(math.exp, terms))


def _number(attack: Attack, name: str) -> float | None:
    """A number that the attack may have: its budget or its count of steps."""
    value = getattr(attack, name, None)
    return float(value) if isinstance(value, (int, float)) or (isinstance(value, Tensor) and not value.ndim) else None


def named_norm(attack: Attack) -> norms.Norm | None:
    """The norm that the attack measures in, if it says so."""
    norm = getattr(attack, "norm", None)
    return None if norm is None else norms.get(norm)


def _who(defense: str) -> str:
    return "the model" if defense == "none" else f"the model behind {defense}"


def _called(one: Outcome) -> str:
    return one.name if one.protocol in (None, "adaptive") else f"{one.name} ({one.protocol})"


def _share(right: Tensor) -> str:
    return f"{100 * int(right.sum()) / len(right):.1f} %"
