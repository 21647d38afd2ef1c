"""Models that answer otherwise at the end of an evaluation than at its beginning."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from advkit._engine.classifier import predict
from advkit._io.rng import repeatable
from advkit.evaluation.audit import ANSWERS
from advkit.evaluation.flags import CARLINI, Flag, who
from advkit.evaluation.looks import differs
from advkit.evaluation.plan import Contender
from advkit.evaluation.probes import probe
from advkit.evaluation.runs import Ranks
from advkit.evaluation.signs import STALE, Sign
from advkit.model import is_stochastic, placement

__all__ = ["FirstAnswers"]

_TIMES = 10.0  # what rounding may do, since kernels may be other ones by now


@dataclass(frozen=True, eq=False)
class _Answered:
    """What a model was first asked, and its logits (n, K)."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    logits: Tensor

    def signs(self, called: str) -> list[Sign]:
        """The sign of other logits by now, of a model that is called so."""
        now, once_more = (predict(self.model, self.images, {"labels": self.labels}) for _ in range(2))
        changed = differs(self.logits, now, _TIMES) & ~differs(now, once_more)  # which is chance, and not change
        if not (count := int(changed.sum())):
            return []
        sentence = f"on {count} of {len(changed)} images {called} returns other outputs {STALE}."
        return [Sign(Flag("answers that changed", sentence, CARLINI), changed)]


class FirstAnswers:
    """What each contender answered first. It is asked the same again in the end.

    A model may have become another one meanwhile, since its answers depend on what it was run on before, or how often;
    and it need not predict other classes for that.

    Args:
        seed: of a model that turns out to be random.
    """

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        self._of: dict[str, _Answered] = {}

    def note(self, one: Contender, images: Tensor, labels: Tensor, logits: Tensor) -> None:
        """Keep the first answer of a contender that is not random.

        Args:
            one: the contender.
            images: (n, ...), what it was asked about; in one batch, since answers may depend on that.
            labels: (n,), of these.
            logits: (n, K), what it said.
        """
        if one.name not in self._of and not is_stochastic(one.model):
            self._of[one.name] = _Answered(one.model, images.detach().clone(), labels, logits.detach().clone())

    def flags(self, ranks: Ranks, known: Iterable[Flag]) -> list[Flag]:
        """A flag for each contender that answers otherwise by now. All processes have to ask.

        Args:
            ranks: the processes, each with first answers of its own.
            known: flags that were found before: none is raised for a contender whose answers are in doubt already.
        """
        doubted = {flag.defense for flag in known if flag.name in ANSWERS}
        found: dict[str, list[Flag]] = {}
        for theirs in ranks.gather({name: flags for name in self._of if (flags := self._flags(name))}):
            found |= theirs
        return [flag for name, flags in found.items() if name not in doubted for flag in flags]

    def _flags(self, name: str) -> list[Flag]:
        first, called = self._of[name], who(name)
        device = placement(first.model)[0] or first.images.device
        with repeatable(self._seed, "first answers", name, device=device):
            found = probe(f"last answers of {called}", lambda: first.signs(called))
        return [replace(sign.flag, defense=name) for sign in found if sign.flag]
