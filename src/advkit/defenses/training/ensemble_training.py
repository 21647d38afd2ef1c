"""Ensemble adversarial training: on images that fool other models."""

from collections.abc import Sequence

from advkit._engine.checks import check_model
from advkit.attack import Attack
from advkit.defenses.training.adversarial_training import AdversarialTraining
from advkit.defenses.training.network import Network
from advkit.errors import InputError
from advkit.model import Model

__all__ = ["EnsembleAdversarialTraining"]


class EnsembleAdversarialTraining(AdversarialTraining):
    """Train on adversarial images made against other, pre-trained models and the model itself, batch by batch in turn.

    A model that is trained on its own one-step adversarial images learns to make them weak (its loss becomes curved
    around the images) and stays vulnerable to those of other models. Tramèr, Kurakin, Papernot, Goodfellow, Boneh
    & McDaniel, "Ensemble adversarial training: attacks and defenses", ICLR 2018, section 3.4. The loss is that of
    `AdversarialTraining`.

    Args:
        sources: the other models, pixels (N, ...) to logits (N, K), as they are: they are not trained.
        attack: the attack on all of them, a one-step one in the paper.
        clean_ratio: the weight of clean images in the loss, from 0 to 1.

    Raises:
        InputError: there is no source, or the ratio is out of range.
        DtypeError: ``attack`` is not an attack, or a source cannot be called.

    Examples:
        >>> from copy import deepcopy
        >>> defense = advkit.defenses.EnsembleAdversarialTraining([deepcopy(model)], advkit.FGSM(model))
        >>> trained = defense.fit(model, loader, torch.optim.Adam(model.parameters()), epochs=1)
    """

    def __init__(self, sources: Sequence[Model], attack: Attack, *, clean_ratio: float = 0.5) -> None:
        super().__init__([attack], clean_ratio=clean_ratio)
        self.sources = tuple(sources)
        if not self.sources:
            raise InputError("sources is empty; give at least one model, or use AdversarialTraining")
        for source in self.sources:
            check_model(source)

    def __repr__(self) -> str:
        sources = ", ".join(type(source).__name__ for source in self.sources)
        return f"{type(self).__name__}([{sources}], {self.attacks[0]}, clean_ratio={self.clean_ratio:g})"

    def _attack(self, network: Network, turn: int) -> Attack:
        models: tuple[Model, ...] = (*self.sources, network)
        return self.attacks[0].on(models[turn % len(models)])
