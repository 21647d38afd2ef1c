"""torchattacks' attacks without a counterpart in advkit: no attack at all, and combined ones."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from advkit.attacks.transfer import InTurn, along_sgd
from advkit.compat.torchattacks.attack import Attack
from advkit.compat.torchattacks.linf import BIM
from advkit.model import Normalized

__all__ = ["GN", "LGV", "VANILA", "MultiAttack"]


class VANILA(Attack):
    """No attack: images are returned unchanged.

    Examples:
        >>> import advkit.compat.torchattacks as torchattacks
        >>> torch.equal(torchattacks.VANILA(model)(images, labels), images)
        True
    """

    def __init__(self, model: Any) -> None:
        super().__init__("VANILA", model)

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        """A copy."""
        return inputs.detach().clone().to(device=self.device)


class GN(Attack):
    """Gaussian noise.

    Examples:
        >>> import advkit.compat.torchattacks as torchattacks
        >>> round(float((torchattacks.GN(model, std=0.01)(0 * images + 0.5) - 0.5).std()), 3)
        0.01
    """

    def __init__(self, model: Any, std: float = 0.1) -> None:
        super().__init__("GN", model)
        self.std = std

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        """Pixels with noise on them."""
        images = inputs.detach().to(device=self.device)
        return (images + self.std * torch.randn_like(images)).clamp(0, 1)


class MultiAttack(Attack):
    """Several attacks on one model, each on the images that those before it have not fooled.

    What any of them finds counts, whatever its budget; `advkit.WorstOf` limits those without one to that of the others.
    An image that none fools is returned unchanged.

    Examples:
        >>> import advkit.compat.torchattacks as torchattacks
        >>> attack = torchattacks.MultiAttack([torchattacks.FGSM(model), torchattacks.PGD(model)])
        >>> attack(images, labels).shape == images.shape
        True
    """

    def __init__(self, attacks: Sequence[Attack], verbose: bool = False) -> None:
        super().__init__("MultiAttack", attacks[0].model)
        self.attacks = attacks
        self.verbose = verbose
        if len(attacks) < 2:
            raise ValueError("MultiAttack takes two attacks or more")
        if any(each.model is not self.model for each in attacks):
            raise ValueError("the attacks of MultiAttack must have one model")
        self._left = [0] * (1 + len(attacks))

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        """Pixels to pixels, on the attack's device."""
        assert labels is not None
        found = inputs.detach().clone().to(device=self.device)
        labels, rows = labels.to(found.device), torch.arange(len(found), device=found.device)
        left = [len(rows)] + [0] * len(self.attacks)
        for place, each in enumerate(self.attacks, 1):
            if not len(rows):
                break
            tried = each(found[rows], labels[rows])
            fooled = self.get_output_with_eval_nograd(tried).argmax(1) != labels[rows]
            found[rows[fooled]] = tried[fooled]
            rows = rows[~fooled]
            left[place] = len(rows)
        self._left = [before + now for before, now in zip(self._left, left, strict=True)]
        if self.verbose:
            print(f"Attack success rate: {' | '.join(f'{rate:.2f} %' for rate in _rates(left))}")
        return found

    def save(  # type: ignore[override]  # its arguments are torchattacks'
        self,
        data_loader: Any,
        save_path: Any = None,
        verbose: bool = True,
        return_verbose: bool = False,
        save_predictions: bool = False,
        save_clean_images: bool = False,
    ) -> Any:
        """`Attack.save`; with ``return_verbose`` also the share that the attacks up to each of them have fooled."""
        self._left, spoken, self.verbose = [0] * len(self._left), self.verbose, False
        try:
            said = super().save(data_loader, save_path, verbose, return_verbose, save_predictions, save_clean_images)
        finally:
            self.verbose = spoken
        return (said[0], _rates(self._left), *said[1:]) if return_verbose else None


def _rates(left: Sequence[int]) -> list[float]:
    return [100 * (1 - count / max(1, left[0])) for count in left[1:]]


class LGV(Attack):
    """An attack on the models from a few epochs of SGD, in turn: see `advkit.LGV`.

    Copies of the model are trained, not the model itself. They are made at the first call, by `collect_models`.

    Examples:
        >>> import advkit.compat.torchattacks as torchattacks
        >>> attack = torchattacks.LGV(model, loader, epochs=1, nb_models_epoch=1, verbose=False, steps=3)
        >>> attack(images, labels).shape == images.shape, len(attack.list_models)
        (True, 1)
    """

    def __init__(
        self,
        model: Any,
        trainloader: Any,
        lr: float = 0.05,
        epochs: int = 10,
        nb_models_epoch: int = 4,
        wd: float = 1e-4,
        n_grad: int = 1,
        verbose: bool = True,
        attack_class: Any = BIM,
        **kwargs: Any,
    ) -> None:
        super().__init__("LGV", model)
        self.trainloader, self.lr, self.epochs, self.nb_models_epoch = trainloader, lr, epochs, nb_models_epoch
        self.wd, self.n_grad, self.verbose = wd, n_grad, verbose
        self.attack_class, self.kwargs_att = attack_class, kwargs
        self.supported_mode = ["default", "targeted"]
        self.list_models: list[Any] = []
        self._turns: InTurn | None = None

    def collect_models(self) -> None:
        """Continue training a copy of the model, and keep copies along the way."""
        made = along_sgd(
            self.on_pixels,
            self.trainloader,
            lr=self.lr,
            epochs=self.epochs,
            models_per_epoch=self.nb_models_epoch,
            weight_decay=self.wd,
        )
        found: list[Any] = list(made)
        self.load_models([each.net for each in found] if isinstance(self.on_pixels, Normalized) else found)

    def load_models(self, list_models: list[Any]) -> None:
        """Use models that were collected before."""
        if not isinstance(list_models, list):
            raise ValueError("list_models should be a list of models")
        self.list_models, self._turns = list_models, None

    def save_models(self, path: Any) -> None:
        """Save the weights of each collected model in a folder."""
        if not self.list_models:
            raise RuntimeError("there are no models to save; call collect_models() first")
        os.makedirs(path, exist_ok=True)
        for place, each in enumerate(self.list_models):
            torch.save({"state_dict": each.state_dict()}, os.path.join(path, f"lgv_model_{place:05}.pt"))

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        """Pixels to pixels, on the attack's device."""
        if not self.list_models:
            if self.verbose:
                print(f"Phase 1: collect models for {self.epochs} epochs")
            self.collect_models()
        if self._turns is None:
            if self.verbose:
                print(f"Phase 2: craft adversarial examples with {self.attack_class.__name__}")
            at_once = self.n_grad if self.n_grad > 0 else len(self.list_models)
            self._turns = InTurn([each.to(self.device) for each in self.list_models], at_once)
        attack: Attack = self.attack_class(self._turns, **self.kwargs_att)
        attack.normalization_used, attack._normalization_applied = self.normalization_used, self._normalization_applied
        if self.targeted:
            attack.set_mode_targeted_by_label(quiet=True)
            labels = self.get_target_label(inputs, labels)
        return attack(inputs, labels)
