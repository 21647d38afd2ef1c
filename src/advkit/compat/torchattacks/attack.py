"""The base of torchattacks' attacks: modes, normalisation, saving and loading."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from advkit.errors import AdvkitWarning, InputError
from advkit.model import Normalized, attacking

__all__ = ["Attack"]

Targets = Callable[[Tensor, Tensor | None], Tensor]

_DIFFERS = (
    "advkit.compat.torchattacks implements torchattacks' interface with advkit's attacks. By design, results differ "
    "in places: AutoAttack takes its authors' numbers of steps; attacks that look for the closest image, or see "
    "only outputs, return an image unchanged where they fail; images outside [0, 1] are refused; torch is not "
    "reseeded; and the model is attacked in eval mode and then restored. The page 'Moving from torchattacks' says "
    "more. This warning appears once"
)
_said = False


def _say_once() -> None:
    global _said
    if not _said:
        _said = True
        warnings.warn(_DIFFERS, AdvkitWarning, stacklevel=4)


def _as_given(inputs: Tensor, labels: Tensor | None) -> Tensor:
    if labels is None:
        raise InputError("this mode targets the labels that are given, but there are none; pass labels as well")
    return labels


class Attack:
    """Base of all attacks, including your own: call the constructor with a name and a model, and override `forward`.

    Examples:
        >>> import advkit.compat.torchattacks as torchattacks
        >>> class Darker(torchattacks.Attack):
        ...     def __init__(self, model):
        ...         super().__init__("Darker", model)
        ...
        ...     def forward(self, images, labels):
        ...         return 0.9 * images
        >>> torch.equal(Darker(model)(images, labels), 0.9 * images)
        True
    """

    def __init__(self, name: str, model: Any) -> None:
        _say_once()
        self.attack = name
        self.set_model(model)
        parameter = next(model.parameters(), None) if hasattr(model, "parameters") else None
        self.device: Any = None if parameter is None else parameter.device
        self.attack_mode = "default"
        self.supported_mode = ["default"]
        self.targeted = False
        self.normalization_used: dict[str, Tensor] | None = None
        self.return_type = "float"
        self._target_map_function: Targets | None = None
        self._normalization_applied: bool | None = None
        self._kth_min = 1

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        """The attack itself: pixels (N, ...) and labels (N,) to pixels. `get_logits` runs the model on pixels."""
        raise NotImplementedError

    def __call__(self, inputs: Tensor, labels: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        """Attack a batch, (N, ...), normalised if normalisation is used; the result is on the attack's device."""
        with attacking(self.model):
            if not self._normalization_applied:
                return self.to_type(self.forward(inputs, labels, *args, **kwargs), self.return_type)
            pixels = self.inverse_normalize(inputs)
            self._set_normalization_applied(False)
            try:
                found = self.forward(pixels, labels, *args, **kwargs)
            finally:
                self._set_normalization_applied(True)
            return self.normalize(found) if self.return_type == "float" else self.to_type(found, "int")

    # Attacks inside of this one follow what is set here.

    def _inside(self) -> Iterator["Attack"]:
        for value in vars(self).values():
            held = value if isinstance(value, (list, tuple)) else [value]
            yield from (each for each in held if isinstance(each, Attack))

    def set_model(self, model: Any) -> None:
        """Attack another model."""
        self.model = model
        self.model_name = type(model).__name__
        for each in self._inside():
            each.set_model(model)

    def set_device(self, device: Any) -> None:
        """The device on which images are attacked; by default the model's."""
        self.device = device
        for each in self._inside():
            each.set_device(device)

    def set_return_type(self, type: str) -> None:
        """The type of the result: "float", or "int" for uint8, rounded to the nearest."""
        self.to_type(torch.zeros(1, device="cpu"), type)
        self.return_type = type

    def set_model_training_mode(
        self, model_training: bool = False, batchnorm_training: bool = False, dropout_training: bool = False
    ) -> None:
        """Has no effect: advkit attacks models in eval mode, including recurrent ones on a GPU."""
        if model_training or batchnorm_training or dropout_training:
            warnings.warn(
                "set_model_training_mode has no effect: advkit attacks models in eval mode, including recurrent ones",
                AdvkitWarning,
                stacklevel=2,
            )

    # Normalisation.

    def set_normalization_used(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Declare that inputs are normalised by the mean and the standard deviation of each channel."""
        shape = (1, len(mean), 1, 1)
        self.normalization_used = {
            "mean": torch.as_tensor(mean, dtype=torch.float32, device="cpu").reshape(shape),
            "std": torch.as_tensor(std, dtype=torch.float32, device="cpu").reshape(shape),
        }
        self._normalization_applied = True
        for each in self._inside():
            each.set_normalization_used(mean, std)

    def _set_normalization_applied(self, flag: bool) -> None:
        self._normalization_applied = flag
        for each in self._inside():
            each._set_normalization_applied(flag)

    def normalize(self, inputs: Tensor) -> Tensor:
        """Pixels, normalised."""
        mean, std = self._moments(inputs)
        return (inputs - mean) / std

    def inverse_normalize(self, inputs: Tensor) -> Tensor:
        """Normalised inputs as pixels."""
        mean, std = self._moments(inputs)
        return inputs * std + mean

    def _moments(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        assert self.normalization_used is not None
        return self.normalization_used["mean"].to(inputs), self.normalization_used["std"].to(inputs)

    @property
    def on_pixels(self) -> Any:
        """The model that `forward` attacks, which takes pixels."""
        if self.normalization_used is None:
            return self.model
        return Normalized(self.model, *(each.flatten() for each in self.normalization_used.values()))

    def get_logits(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        """The model's logits, (N, K), for pixels inside `forward`, and for inputs as given elsewhere."""
        logits: Tensor = self.model(self.normalize(inputs) if self._normalization_applied is False else inputs)
        return logits

    def get_output_with_eval_nograd(self, inputs: Tensor) -> Tensor:
        """`get_logits` in eval mode and without gradients."""
        with attacking(self.model), torch.no_grad():
            return self.get_logits(inputs)

    # Modes.

    def get_mode(self) -> str:
        """The mode, in words."""
        return self.attack_mode

    def set_mode_default(self) -> None:
        """Untargeted: labels are the true classes."""
        self._set_mode("default", None, quiet=False)

    def set_mode_targeted_by_function(self, target_map_function: Targets, quiet: bool = False) -> None:
        """Target the classes that a function of inputs and labels returns."""
        self._set_mode("targeted(custom)", target_map_function, quiet)

    def set_mode_targeted_random(self, quiet: bool = False) -> None:
        """Target a random class other than the label."""
        self._set_mode("targeted(random)", self.get_random_target_label, quiet)

    def set_mode_targeted_least_likely(self, kth_min: int = 1, quiet: bool = False) -> None:
        """Target the k-th least likely class, apart from the label."""
        assert kth_min > 0
        self._kth_min = kth_min
        self._set_mode("targeted(least-likely)", self.get_least_likely_label, quiet)

    def set_mode_targeted_by_label(self, quiet: bool = False) -> None:
        """Target the labels that are given."""
        self._set_mode("targeted(label)", _as_given, quiet)

    def _set_mode(self, mode: str, targets: Targets | None, quiet: bool) -> None:
        if targets is not None and "targeted" not in self.supported_mode:
            raise ValueError("Targeted mode is not supported.")
        self.attack_mode, self.targeted, self._target_map_function = mode, targets is not None, targets
        for each in self._inside():
            each._set_mode(mode, targets, quiet=True)
        if not quiet:
            print(f"Attack mode is changed to '{mode}'.")

    def get_target_label(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        """The target classes, (N,)."""
        if self._target_map_function is None:
            raise ValueError("no targeted mode is set; call set_mode_targeted_by_label(), or another of these")
        return self._target_map_function(inputs, labels)

    def get_least_likely_label(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        """The k-th least likely class, apart from the label."""
        logits, labels = self._said(inputs, labels)
        return logits.scatter(1, labels[:, None], torch.inf).kthvalue(self._kth_min, dim=1).indices

    def get_random_target_label(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        """A random class other than the label."""
        logits, labels = self._said(inputs, labels)
        return (labels + torch.randint(1, logits.shape[1], labels.shape, device=labels.device)) % logits.shape[1]

    def _said(self, inputs: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        logits = self.get_output_with_eval_nograd(inputs)
        return logits, logits.argmax(1) if labels is None else labels.to(logits.device, torch.int64)

    # Files.

    def save(
        self,
        data_loader: Any,
        save_path: Any = None,
        verbose: bool = True,
        return_verbose: bool = False,
        save_predictions: bool = False,
        save_clean_inputs: bool = False,
        save_type: str = "float",
    ) -> Any:
        """Attack a loader, and save pixels and labels for `load`. With "int", pixels are rounded to uint8."""
        kept: dict[str, list[Tensor]] = {"adv_inputs": [], "labels": []}
        kept |= {"preds": []} if save_predictions else {}
        kept |= {"clean_inputs": []} if save_clean_inputs else {}
        right, total, lengths, elapsed, progress = 0, 0, [torch.empty(0, device="cpu")], 0.0, ""
        for step, (inputs, labels) in enumerate(data_loader, 1):
            start = time.perf_counter()
            found = self(inputs, labels)
            shown = found if found.is_floating_point() else self.to_type(found, "float")
            said = self.get_output_with_eval_nograd(shown).argmax(1).cpu()
            elapsed = time.perf_counter() - start
            correct = said == labels.cpu()
            right, total = right + int(correct.sum()), total + len(labels)
            change = (shown.cpu() - inputs.cpu()).flatten(1)[~correct]
            lengths.append(torch.linalg.vector_norm(change, dim=1).cpu().float())
            batch = {"adv_inputs": shown, "labels": labels, "preds": said, "clean_inputs": inputs}
            for name, each in kept.items():
                each.append(batch[name].detach().cpu())
            progress = (
                f"- Save progress: {100 * step / len(data_loader):.2f} % / Robust accuracy: {100 * right / total:.2f} %"
                f" / L2: {torch.cat(lengths).mean():.5f} ({elapsed:.3f} it/s) \t"
            )
            if verbose:
                print(progress, end="\r")
        if verbose:
            print(progress)
        if save_path is not None:
            self._write(save_path, {name: torch.cat(each) for name, each in kept.items()}, save_type)
        return (100 * right / total, float(torch.cat(lengths).mean()), elapsed) if return_verbose else None

    def _write(self, path: Any, kept: dict[str, Any], save_type: str) -> None:
        for name in {"adv_inputs", "clean_inputs"} & kept.keys():
            pixels = kept[name] if self.normalization_used is None else self.inverse_normalize(kept[name])
            kept[name] = self.to_type(pixels, save_type)
        torch.save({**kept, "save_type": save_type}, path)

    @staticmethod
    def load(
        load_path: Any,
        batch_size: int = 128,
        shuffle: bool = False,
        normalize: Any = None,
        load_predictions: bool = False,
        load_clean_inputs: bool = False,
    ) -> DataLoader[tuple[Tensor, ...]]:
        """What `save` saved, as a loader of images, labels, and predictions and clean images if requested."""
        saved = torch.load(load_path, weights_only=True)
        names = ["adv_inputs", "labels"]
        names += ["preds"] if load_predictions else []
        names += ["clean_inputs"] if load_clean_inputs else []
        for name in {"adv_inputs", "clean_inputs"} & {*names}:
            saved[name] = Attack.to_type(saved[name], "float")
            if normalize is not None:
                mean, std = (torch.tensor(normalize[key], device="cpu").reshape(1, -1, 1, 1) for key in ("mean", "std"))
                saved[name] = (saved[name] - mean) / std
        print(f"Data is loaded in the following order: [{', '.join(names)}]")
        return DataLoader(TensorDataset(*(saved[name] for name in names)), batch_size=batch_size, shuffle=shuffle)

    @staticmethod
    def to_type(inputs: Tensor, type: str) -> Tensor:
        """Pixels in [0, 1] rounded to uint8 for "int", and uint8 as pixels in [0, 1] for "float"."""
        if type not in ("int", "float"):
            raise ValueError(f"{type} is not a valid type. [Options: float, int]")
        if type == "int":
            return (inputs * 255).round().clamp(0, 255).to(torch.uint8) if inputs.is_floating_point() else inputs
        return inputs if inputs.is_floating_point() else inputs.float() / 255

    def __repr__(self) -> str:
        hidden = {"model", "attack", "supported_mode", "attack_mode", "normalization_used"}
        shown = {name: value for name, value in vars(self).items() if name[0] != "_" and name not in hidden}
        shown |= {"attack_mode": self.attack_mode, "normalization_used": self.normalization_used is not None}
        return f"{self.attack}({', '.join(f'{name}={value}' for name, value in shown.items())})"
