"""Red flags: signs that an evaluation says more about its attacks than about its model.

Each is a sentence with the numbers seen, what to do about it, and the paper that warns of it. A flag needs more than
chance: counts are tested against a binomial, and attacks are compared image by image. One image of a hundred raises
none. `advkit.evaluation.probes` has those that need passes of their own, and `advkit.evaluation.comparison` those that
show when attacks are compared with each other.

The papers:

- Athalye, Carlini & Wagner, "Obfuscated gradients give a false sense of security: circumventing defenses to adversarial
  examples", ICML 2018
- Carlini et al., "On evaluating adversarial robustness", arXiv:1902.06705, 2019
- Tramèr, Carlini, Brendel & Mądry, "On adaptive attacks to adversarial example defenses", NeurIPS 2020
- Carlini & Wagner, "Defensive distillation is not robust to adversarial examples", arXiv:1607.04311, 2016
- Andriushchenko, Croce, Flammarion & Hein, "Square Attack: a query-efficient black-box adversarial attack via random
  search", ECCV 2020
- Croce & Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020
- Croce, Gowal, Brunner, Shelhamer, Hein & Cemgil, "Evaluating the adversarial robustness of adaptive test-time
  defenses", ICML 2022
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from advkit import norms
from advkit._engine.wording import short
from advkit.attack import Attack
from advkit.evaluation.plan import made_elsewhere

__all__ = [
    "ATHALYE",
    "CARLINI",
    "DISTILLED",
    "FAB",
    "SQUARE",
    "TEST_TIME",
    "TRAMER",
    "Ball",
    "Flag",
    "balls",
    "beats",
    "budget",
    "many",
    "named_norm",
    "number",
    "reach",
    "rises",
    "rising",
    "share",
    "tail",
    "who",
]

ATHALYE = "Athalye, Carlini & Wagner 2018, section 3.1"
CARLINI = "Carlini et al. 2019"
TRAMER = "Tramèr et al. 2020"
DISTILLED = "Carlini & Wagner 2016"
SQUARE = "Andriushchenko et al. 2020"
FAB = "Croce & Hein 2020"
TEST_TIME = "Croce et al. 2022"

Ball = tuple[norms.Norm, float]
"""A norm and a radius in it, in units of pixels: the budget of an attack."""

CHANCE = 0.01  # how probable the numbers behind a flag may be where nothing is wrong


@dataclass(frozen=True)
class Flag:
    """One sign that an evaluation should not be trusted.

    Attributes:
        name: what it is called, such as "zero gradients".
        sentence: what was seen, with numbers, and what to do about it.
        paper: which paper warns of it.
        defense: the name of the model's defense in the report, "none" for the bare model; None if it
            is not about a model of a report.
        attack: the attack whose numbers it puts in doubt; None for all attacks on the model.
        protocol: the protocol of that attack; None for all but those whose images were made on another model.

    Examples:
        >>> report = advkit.evaluate(lambda pixels: model(pixels).softmax(1), loader, [advkit.PGD(model)])
        >>> print(report.flags[0])
        probabilities: on 12 of 12 images the model returns numbers that sum to 1 instead of logits...
        >>> report.flags[0].doubts("none", "PGD", None)  # what PGD left of the bare model
        True
    """

    name: str
    sentence: str
    paper: str
    defense: str | None = None
    attack: str | None = None
    protocol: str | None = None

    def doubts(self, defense: str, attack: str | None, protocol: str | None) -> bool:
        """Whether it puts a score in doubt; ``attack`` is None for the worst case over attacks."""
        elsewhere = made_elsewhere(protocol)  # this model's gradients have no part in it
        if self.defense != defense or (protocol != self.protocol if self.protocol else elsewhere):
            return False
        return attack is None or self.attack in (None, attack)

    def __str__(self) -> str:
        """All of it as one line."""
        return f"{self.name}: {self.sentence} ({self.paper})"


def rising(name: str, eps: Sequence[float], right: Tensor) -> tuple[Flag, ...]:
    """The flag for an accuracy that rises with the budget.

    Args:
        name: of the attack.
        eps: E budgets, ascending.
        right: bool (E, N), whether the model is right on each of the same N images under attack, at each budget.

    Examples:
        >>> right = torch.tensor([[False] * 30 + [True] * 70, [True] * 100])  # 70 % at 2/255, 100 % at 8/255
        >>> advkit.evaluation.flags.rising("PGD", [2 / 255, 8 / 255], right)[0].name
        'accuracy rises with eps'
    """
    counts = right.sum(1).tolist()
    lows = [min(range(later), key=counts.__getitem__) for later in range(1, len(counts))]
    gain, low, high = max(((counts[b] - counts[a], a, b) for b, a in enumerate(lows, 1)), default=(0, 0, 0))
    if gain <= 0 or not beats(right[high], right[low]):
        return ()
    return (rises(name, "the model", eps[low], eps[high], right[low], right[high]),)


def rises(name: str, model: str, low: float, high: float, right_low: Tensor, right_high: Tensor) -> Flag:
    """The flag for an attack that leaves more images right, bool (N,), with the larger of two budgets."""
    sentence = (
        f"{model} is right on {share(right_low)} of the images under {name} with eps={short(low)}, and on "
        f"{share(right_high)} with eps={short(high)}, which allows everything that the smaller one does; take more "
        "steps, and if the accuracy still rises, look for what makes the gradients misleading."
    )
    return Flag("accuracy rises with eps", sentence, ATHALYE)


def beats(winner: Tensor, loser: Tensor) -> bool:
    """Whether the first of two yes-or-no outcomes on the same images, bool (N,) each, is yes more often than by chance.

    McNemar's test, exact and one-sided, at 1 %: tossing a coin for each image on which the two differ would favour the
    winner as much at most once in a hundred times. Seven images of seven are enough.

    Examples:
        >>> withstood = torch.tensor([True] * 10)
        >>> [advkit.evaluation.flags.beats(withstood, torch.arange(10) >= lost) for lost in (6, 7)]
        [False, True]
    """
    won, lost = int((winner & ~loser).sum()), int((loser & ~winner).sum())
    return tail(won, won + lost, 0.5) < CHANCE


def many(count: int, of: int, share: float, *, tests: int = 1) -> bool:
    """Whether ``count`` of so many images are more than a share of them would give by chance.

    Of several tests on the same images, each has to be as much less probable, so that all together are what one is.
    """
    return count > 0 and tail(count, of, share) < CHANCE / tests


def tail(count: int, of: int, probability: float) -> float:
    """The probability of at least ``count`` successes in so many independent trials."""
    if count <= 0 or probability in (0.0, 1.0):
        return float(count <= of * probability)
    log_p, log_q, log_all = math.log(probability), math.log1p(-probability), math.lgamma(of + 1)
    terms = (
        log_all - math.lgamma(k + 1) - math.lgamma(of - k + 1) + k * log_p + (of - k) * log_q
        for k in range(count, of + 1)
    )
    return math.fsum(map(math.exp, terms))


def number(attack: Attack, name: str) -> float | None:
    """A number that the attack may have: its budget, the length or the count of its steps."""
    value = getattr(attack, name, None)
    return float(value) if isinstance(value, (int, float)) or (isinstance(value, Tensor) and not value.ndim) else None


def named_norm(attack: Attack) -> norms.Norm | None:
    """The norm that the attack measures in, if it says so."""
    norm = getattr(attack, "norm", None)
    return None if norm is None else norms.get(norm)


def budget(attack: Attack) -> Ball | None:
    """The ball that a budget attack searches, its norm and its radius; None for other attacks."""
    norm, eps = named_norm(attack), number(attack, "eps")
    return None if attack.aim != "budget" or norm is None or eps is None else (norm, eps)


def balls(attacks: Iterable[Attack]) -> list[Ball]:
    """The budgets that attacks have, of each norm the largest, by the order of the norms' names."""
    largest: dict[str, Ball] = {}
    for ball in filter(None, map(budget, attacks)):
        if ball[0].name not in largest or ball[1] > largest[ball[0].name][1]:
            largest[ball[0].name] = ball
    return [largest[name] for name in sorted(largest)]


def reach(attack: Attack) -> float:
    """How far its steps can lead a budget attack from where it starts; infinite where the attack does not say."""
    steps, alpha = number(attack, "steps"), number(attack, "alpha")
    return math.inf if steps is None or alpha is None else steps * alpha


def who(defense: str) -> str:
    """What sentences call a model behind a defense, or the bare model, whose defense is "none"."""
    return "the model" if defense == "none" else f"the model behind {defense}"


def share(right: Tensor) -> str:
    """The share of images that are right, bool (N,), as text."""
    return f"{100 * int(right.sum()) / len(right):.1f} %"
