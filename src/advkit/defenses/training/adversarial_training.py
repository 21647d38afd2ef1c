"""Adversarial training: training images are attacked as the model learns from them."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from advkit._data.attacking import check_attack
from advkit._data.settings import settings_of
from advkit._engine.checks import check_choice, check_model, check_number
from advkit.attack import Attack
from advkit.data import augment, generate
from advkit.defenses.training.adversarial import AdversarialRecipe
from advkit.defenses.training.loop import Training
from advkit.defenses.training.network import Network
from advkit.defenses.training.recipe import Batch
from advkit.errors import InputError
from advkit.model import Model

__all__ = ["AdversarialTraining"]


class AdversarialTraining(AdversarialRecipe):
    """Train on adversarial images, made for each batch against the current model.

    The loss is the mixed one of Goodfellow, Shlens & Szegedy, "Explaining and harnessing adversarial examples", ICLR
    2015, section 6, with J the cross-entropy and alpha the ``clean_ratio``:

        alpha * J(model(x), y) + (1 - alpha) * J(model(attack(x)), y)

    With alpha = 0 and `advkit.PGD` it is the saddle point problem of Madry et al., "Towards deep learning models
    resistant to adversarial attacks", ICLR 2018, eq. (2.1). The model sees clean and adversarial images in one batch,
    so that its BatchNorm sees the statistics of both (Kurakin, Goodfellow & Bengio, "Adversarial machine learning at
    scale", ICLR 2017, section 3). It is attacked in eval mode.

    Args:
        attacks: an attack, or several, one for each batch. They attack the model in training, whatever model
            they were made with.
        clean_ratio: alpha, the weight of clean images in the loss, from 0 to 1. 0.5 if None.
        per_batch: "random" to draw the attack of each batch, "cycle" to take them in turn. Validation takes turns.
        source: if given, attack this fixed model instead, once and before training: the loader's data set is
            copied under each attack, and the model is trained on the originals and the copies together
            (`advkit.data.augment`). The copies are in memory while training lasts.

    Raises:
        InputError: there is no attack, a number is out of range, or both ``clean_ratio`` and ``source`` are given:
            with ``source``, the copies determine the share of clean images.
        DtypeError: one of them is not an attack.

    Examples:
        >>> defense = advkit.defenses.AdversarialTraining(advkit.PGD(model, steps=3), clean_ratio=0)
        >>> trained = defense.fit(model, loader, torch.optim.Adam(model.parameters()), epochs=1)
        >>> trained is model
        True
    """

    def __init__(
        self,
        attacks: Attack | Sequence[Attack],
        *,
        clean_ratio: float | None = None,
        per_batch: Literal["random", "cycle"] = "random",
        source: Model | None = None,
    ) -> None:
        super().__init__()
        self.attacks = (attacks,) if isinstance(attacks, Attack) else tuple(attacks)
        if not self.attacks:
            raise InputError("attacks is empty; give at least one attack, such as advkit.PGD(model)")
        for attack in self.attacks:
            check_attack(attack)
        check_choice("per_batch", per_batch, ("random", "cycle"))
        if source is not None:
            check_model(source)
            if clean_ratio is not None:
                raise InputError(
                    "clean_ratio and source exclude each other: a data set with one copy for each attack has a fixed "
                    "share of clean images; omit one of them"
                )
        self.clean_ratio = 0.5 if clean_ratio is None else clean_ratio
        check_number("clean_ratio", self.clean_ratio, at_least=0, at_most=1)
        self.per_batch = per_batch
        self.source = source

    def __repr__(self) -> str:
        attacks = ", ".join(map(str, self.attacks))
        if self.source is not None:
            return f"{type(self).__name__}([{attacks}], source={type(self.source).__name__})"
        how = f"clean_ratio={self.clean_ratio:g}, per_batch={self.per_batch!r}"
        return f"{type(self).__name__}([{attacks}], {how})"

    def generators(self) -> list[torch.Generator | None]:
        """Those of the attacks; where images are attacked before training, none."""
        return [attack.generator for attack in self.attacks] if self.source is None else []

    def attacked(self, network: Network, batch: Batch) -> Tensor:
        """The images under the attack of the batch; as they are, where none is attacked."""
        if self.clean_ratio == 1 or self.source is not None:
            return batch.images
        return self._attack(network, batch.turn)(batch.images, batch.labels)

    def loss_on(self, network: Network, batch: Batch, adversarials: Tensor) -> Tensor:
        """The mixed loss of a batch; of one with copies in it already, its cross-entropy."""
        if self.clean_ratio in (0, 1) or self.source is not None:
            return batch.cross_entropy(network(adversarials)).mean()
        clean, attacked = network(torch.cat([batch.images, adversarials])).chunk(2)
        mixed: Tensor = self.clean_ratio * batch.cross_entropy(clean).mean()
        return mixed + (1 - self.clean_ratio) * batch.cross_entropy(attacked).mean()

    def _attack(self, network: Network, turn: int) -> Attack:
        """The attack of a batch, pointed at the model that it is made against."""
        if self.per_batch == "random" and network.training:
            turn = int(torch.randint(len(self.attacks), (), device="cpu"))
        return self.attacks[turn % len(self.attacks)].on(network)

    def _train(self, training: Training, loader: Iterable[Any], epochs: int) -> nn.Module:
        if self.source is None:
            return super()._train(training, loader, epochs)
        augmented = _augmented(loader, [attack.on(self.source) for attack in self.attacks], training)
        training.run(augmented, self, epochs, pairs=True)
        return training.model


def _augmented(loader: Iterable[Any], attacks: Sequence[Attack], training: Training) -> DataLoader[Any]:
    """A loader like this one, of its data set and the copies that the attacks make of it."""
    if not isinstance(loader, DataLoader):
        raise InputError(f"source= copies a data set and needs a DataLoader of it, got {type(loader).__name__}")
    if type(loader.sampler) not in (RandomSampler, SequentialSampler) or loader.batch_size is None:
        raise InputError(
            "source= makes the data set longer, which works only for a loader with a batch_size and without its own "
            "sampler; make the longer data set with advkit.data.generate and advkit.data.augment"
        )
    data = loader.dataset
    how: dict[str, Any] = {"batch_size": loader.batch_size, "progress": training.progress, "labels": training.labels}
    for number, attack in enumerate(attacks):
        data = augment(data, generate(attack, loader.dataset, **how), labels=None if number else training.labels)
    return DataLoader(data, shuffle=isinstance(loader.sampler, RandomSampler), **settings_of(loader))
