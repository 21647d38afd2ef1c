"""How `advkit.data.generate` copies a data set: batch by batch, into the shards that are missing."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advkit._data.attacking import attack_batch
from advkit._data.in_step import in_step, on_first
from advkit._data.sources import Batch, Source
from advkit._io import manifest as manifests
from advkit._io.claims import Claims
from advkit._io.fingerprint import digest, fingerprint, plain
from advkit._io.progress import ticking
from advkit._io.rng import DefaultGenerators
from advkit._io.shards import Layout, Records, ShardFiles, as_numpy
from advkit._io.witness import introduced
from advkit._version import __version__
from advkit.attack import Attack
from advkit.errors import InputError
from advkit.model import placement

__all__ = ["Copying"]


@dataclass(frozen=True)
class Copying:
    """An adversarial copy in the making.

    Args:
        attack: the attack, without a generator.
        source: where the clean images come from.
        shard_size: how many images a shard holds.
        seed: what random attacks draw depends on it.
        progress: whether to show a bar; None for one where somebody is watching.
    """

    attack: Attack
    source: Source
    shard_size: int
    seed: int
    progress: bool | None

    @cached_property
    def layout(self) -> Layout:
        """Which shards there are, and what they hold."""
        images = self._first.images
        return Layout(self.source.count, self.shard_size, tuple(images.shape[1:]), images.dtype)

    def in_memory(self) -> list[Records]:
        """All shards."""
        numbers = range(self.layout.files)
        return [records for _, records in self._shards(numbers, self.layout.count)]

    def write(self, folder: Path) -> None:
        """Write the shards that are missing in a folder, together with others that do the same."""
        layout, manifest, model = self.layout, self._manifest(), self.attack.model
        files = ShardFiles(folder, layout, manifests.identity(manifest))

        def claimed() -> list[int]:
            manifests.claim(folder, manifest)
            return files.missing()

        missing = on_first(claimed, model)
        with Claims(folder, missing, share=not in_step(model)) as claims:
            for numbers, most in chain([(claims.free(), missing)], ((one, one) for one in claims.left())):
                count = sum(len(layout.span(number)) for number in most)
                for number, records in self._shards(numbers, count):
                    on_first(partial(files.write, number, records), model)
                    claims.done(number)

    @cached_property
    def _first(self) -> Batch:
        return self.source.first()

    def _shards(self, numbers: Iterable[int], count: int) -> Iterator[tuple[int, Records]]:
        """The shards with these numbers, one after the other; ``count`` is how many images they have at most."""
        layout, source = self.layout, self.source
        spans = (
            range(start, min(start + source.batch_size, shard.stop))  # no batch crosses from a shard to the next
            for shard in map(layout.span, numbers)
            for start in range(shard.start, shard.stop, source.batch_size)
        )
        with ticking(count, str(self.attack), unit="image", progress=self.progress) as tick:
            for span, batch in source.batches(spans):
                number = span.start // layout.shard_size
                shard = layout.span(number)
                if span.start == shard.start:
                    records = layout.empty(number)
                if batch.images.shape != (len(span), *layout.shape) or batch.images.dtype != layout.dtype:
                    raise InputError(
                        f"images {span.start} to {span.stop - 1} of the data set are {batch.images.dtype} of shape "
                        f"{tuple(batch.images.shape)}, but its first is {layout.dtype} of shape {layout.shape}; give "
                        "it a transform that makes them alike"
                    )
                rows = slice(span.start - shard.start, span.stop - shard.start)
                records["image"][rows] = as_numpy(self._attacked(batch, span.start))
                records["label"][rows] = batch.labels.cpu().numpy()
                tick(len(span))
                if span.stop == shard.stop:
                    yield number, records

    def _attacked(self, batch: Batch, start: int) -> Tensor:
        """A batch, attacked with random numbers that depend on the seed and the batch's place only."""
        own, default = map(int, np.random.SeedSequence([self.seed, start]).generate_state(2, np.uint64))
        attack = self.attack._with(generator=torch.Generator("cpu").manual_seed(own))
        # A model may draw too, and it knows nothing of the attack's generator.
        with DefaultGenerators(placement(self.attack.model)[0]).seeded(default):
            return attack_batch(attack, batch.images, batch.labels)

    def _manifest(self) -> dict[str, Any]:
        """All that the copy depends on, as JSON."""
        attack, layout, first = self.attack, self.layout, self._first
        names = [known.name for known in fields(attack) if known.name not in ("model", "generator")]
        manifest = {
            "advkit": __version__,
            "format": manifests.FORMAT,
            "attack": type(attack).__qualname__,
            **{f"attack.{name}": plain(getattr(attack, name)) for name in names},
            **fingerprint(attack.model),
            "images": layout.count,
            "image shape": layout.shape,
            "image dtype": str(layout.dtype).removeprefix("torch."),
            "first images": digest(first.images, first.labels),
            "batch_size": self.source.batch_size,
            "shard_size": layout.shard_size,
            "seed": self.seed,
            manifests.ANSWERS: introduced(attack.model, first.images),
        }
        return dict(json.loads(json.dumps(manifest)))
