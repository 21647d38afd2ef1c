"""A search as one CUDA graph: recorded once for each shape of batch, and played for the batches that follow.

A step of an attack on a small network is some hundred kernels of microseconds, and the host takes longer to launch them
than a GPU to run them; a graph is launched at once. It holds what was done, not what led to it. So a search that waits
for the device to decide something cannot be recorded, nor one that draws random numbers on the CPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from advkit._base.behind import modules_behind
from advkit._engine.classifier import Classifier, Watched
from advkit.errors import AdvkitWarning
from advkit.model import Model

if TYPE_CHECKING:
    from advkit.attack import Attack

__all__ = ["Search", "searched"]

Search = Callable[[Classifier, Sequence[Tensor]], Tensor]
"""From the model and the tensors that a search begins with, images first, to what it finds: (N, ...)."""

_MOST = 8  # shapes of batches whose recordings are kept: each holds the memory of a search
_ASTRAY = 0.05  # of the pixels; kernels that sum in any order turn the sign of a hundredth


def searched(attack: Attack, model: Classifier, inputs: Sequence[Tensor], search: Search) -> Tensor:
    """What a search of a compiled attack finds, (N, ...): played from its recording, if it can be recorded.

    A shape of batch is recorded when it comes a second time. Weights may be trained on in between. Where a tensor of
    the model is another one, the search is recorded anew; what else the model keeps is as it was when it was recorded.

    Args:
        attack: whose search it is; a copy with other numbers, or on another model, has recordings of its own.
        model: the attack's.
        inputs: the images (N, ...), the classes of the goal (N,), and the attack's values for each image (N,).
        search: the search.
    """
    if inputs[0].device.type != "cuda" or model.careful:
        return search(model, inputs)
    recordings = _OF.setdefault(attack, _Recordings())
    key = _key(attack.model, inputs)
    if key in recordings.known:
        return recordings.known[key].play(model, inputs)
    found = search(model, inputs)
    if key in recordings.seen and not recordings.refused:
        recordings.record(key, attack, model, inputs, search, found)
    recordings.seen.add(key)
    return found


@dataclass(frozen=True)
class _Recording:
    """One search, recorded.

    Attributes:
        graph: what is launched.
        inputs: where it reads what the search begins with.
        found: where it leaves what the search finds, (N, ...).
        watched: the numbers that `Classifier.verify` looks at, where it leaves them.
        classes: how many logits an image has.
        passes: how many images the model answers, and how many answers are differentiated.
    """

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    found: Tensor
    watched: list[Watched]
    classes: int
    passes: tuple[int, int]

    def play(self, model: Classifier, inputs: Sequence[Tensor]) -> Tensor:
        """What the search finds from other inputs of the same shapes: (N, ...)."""
        model.check_classes(self.classes)
        for place, value in zip(self.inputs, inputs, strict=True):
            place.copy_(value)
        self.graph.replay()
        model.forwards, model.backwards = model.forwards + self.passes[0], model.backwards + self.passes[1]
        model.watched.extend(self.watched)
        return self.found.clone()


@dataclass
class _Recordings:
    """The recordings of one attack.

    Attributes:
        known: by what they hold for.
        seen: what was searched, and would be recorded if it came again.
        refused: whether one could not be recorded, which is not tried again.
        pool: the memory that they share, of which one at a time makes use.
    """

    known: dict[object, _Recording] = field(default_factory=dict)
    seen: set[object] = field(default_factory=set)
    refused: bool = False
    pool: Any = None

    def record(
        self,
        key: object,
        attack: Attack,
        model: Classifier,
        inputs: Sequence[Tensor],
        search: Search,
        found: Tensor,
    ) -> None:
        """Record a search that has just found something, or warn that this one cannot be."""
        ours, before = [tensor.clone() for tensor in inputs], list(model.watched)
        graph = torch.cuda.CUDAGraph()
        if attack.generator is not None and attack.generator.device.type == "cuda":
            graph.register_generator_state(attack.generator)
        draws = [generator.get_state() for generator in _generators(attack)]
        spent = model.forwards, model.backwards
        try:
            with _beside():
                search(model, ours)
            undrawn = all(map(torch.equal, draws, [generator.get_state() for generator in _generators(attack)]))
            model.watched.clear()
            model.forwards = model.backwards = 0
            with torch.cuda.graph(graph, pool=self.pool):
                result = search(model, ours)
                watched = [(meaning, value.clone(), error) for meaning, value, error in model.watched]
            passes = model.forwards, model.backwards
        except RuntimeError as error:
            self._refuse(attack, f"it cannot be recorded as a CUDA graph: {str(error).splitlines()[0]}")
            return
        finally:
            for generator, state in zip(_generators(attack), draws, strict=True):
                generator.set_state(state)
            model.watched[:] = before
            model.forwards, model.backwards = spent
        recording = _Recording(graph, ours, result, watched, model.count, passes)
        if undrawn:
            again = recording.play(model, inputs)
            model.watched[:] = before
            model.forwards, model.backwards = spent
            if float((again - found).abs().gt(1e-3 * (attack.bounds[1] - attack.bounds[0])).float().mean()) > _ASTRAY:
                self._refuse(attack, "its recording gives another result: the model is not deterministic")
                return
        self.pool = graph.pool()
        self.known[key] = recording
        while len(self.known) > _MOST:
            del self.known[next(iter(self.known))]

    def _refuse(self, attack: Attack, why: str) -> None:
        self.refused = True
        warnings.warn(f"{attack} was compiled, but runs as if it were not, since {why}", AdvkitWarning, stacklevel=10)


_OF: WeakKeyDictionary[Attack, _Recordings] = WeakKeyDictionary()


def _key(model: Model, inputs: Sequence[Tensor]) -> tuple[object, ...]:
    """What a recording holds for: tensors of these shapes, and these weights, wherever they are."""
    weights = [
        weight.data_ptr()
        for module in modules_behind(model)
        for owned in (module._parameters, module._buffers)
        for weight in owned.values()
        if weight is not None
    ]
    return (*((each.shape, each.stride(), each.dtype, each.device) for each in inputs), tuple(weights))


def _generators(attack: Attack) -> list[torch.Generator]:
    """All that a search may draw from on the GPU."""
    own = [] if attack.generator is None else [attack.generator]
    return [torch.cuda.default_generators[torch.cuda.current_device()], *own]


@contextmanager
def _beside() -> Iterator[None]:
    """In a stream of its own, as a recording wants its rehearsal; and whatever waits for the device is an error."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the mode is new, which it was some years ago
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            with torch.cuda.stream(side):
                yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
    torch.cuda.current_stream().wait_stream(side)
