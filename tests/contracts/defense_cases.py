"""Every defense that wraps, cheap enough for images of 8x8. Listed here, it is held to every contract.

To put a new defense under the whole suite, add one `DefenseCase` to `DEFENSES`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pytest
import torch

from advkit import Defense, defenses
from contracts.scenes import draw


@dataclass(frozen=True)
class DefenseCase:
    """One defense and what to expect of it.

    Attributes:
        name: shown in the test's id.
        defense: its class.
        settings: keyword arguments.
        bad: arguments out of their range, each with words that the error must have.
        channels: the numbers of channels that it takes, among those that are tried.
        any_shape: takes images that are no pictures.
        exports: the sizes of batches that one program of `torch.export` takes, none where it cannot follow.
        patches: takes patches of the images.
    """

    name: str
    defense: type[Defense]
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    bad: tuple[tuple[Mapping[str, Any], str], ...] = ()
    channels: tuple[int, ...] = (1, 3, 4)
    any_shape: bool = False
    exports: tuple[int, ...] = (4, 7)
    patches: bool = False

    def make(self, channels: int = 3, **overrides: Any) -> Defense:
        """The defense. What it draws, it draws from a generator that is fresh and seeded."""
        settings = {**self.settings, **overrides}
        if self.patches:
            bounds = settings.get("bounds")
            low, high = bounds if isinstance(bounds, tuple) else (0.0, 1.0)
            settings.setdefault("patches", draw(40, channels, 5, 5, seed=5, low=low, high=high))
        defense = self.defense(**settings)
        if "generator" not in overrides and hasattr(defense, "generator"):
            defense.generator = torch.Generator().manual_seed(0)
        return defense

    @property
    def stochastic(self) -> bool:
        return self.make().stochastic

    def __str__(self) -> str:
        return self.name


def each_defense(keep: Callable[[DefenseCase], object] = lambda case: True) -> pytest.MarkDecorator:
    """Run a test for every defense, or for those that ``keep`` picks."""
    return pytest.mark.parametrize("case", [case for case in DEFENSES if keep(case)], ids=str)


BAD_BOUNDS = (
    ({"bounds": (1.0, 0.0)}, "bounds must be (low, high) with low < high"),
    ({"bounds": 1.0}, "bounds must be a pair (low, high)"),
)
BAD_WINDOW = (
    ({"kernel_size": 2}, "kernel_size must be odd, so that the window has a centre; got 2"),
    ({"kernel_size": -1}, "kernel_size must be at least 1, got -1"),
    ({"kernel_size": 3.0}, "kernel_size must be an integer, got 3.0"),
    *BAD_BOUNDS,
)
BAD_DRAWS = (
    ({"eot_samples": 0}, "eot_samples must be at least 1, got 0"),
    ({"eot_samples": 2.5}, "eot_samples must be an integer, got 2.5"),
    *BAD_BOUNDS,
)

DEFENSES = [
    DefenseCase(
        "FeatureSmoothing",
        defenses.FeatureSmoothing,
        bad=(
            *BAD_WINDOW,
            ({"sigma": 0.0}, "sigma must be greater than 0"),
            ({"sigma": float("nan")}, "sigma must be greater than 0, got nan"),
        ),
    ),
    DefenseCase("MedianSmoothing", defenses.MedianSmoothing, bad=BAD_WINDOW),
    DefenseCase(
        "GradientMasking",
        defenses.GradientMasking,
        {"eps": 3.0},
        bad=(({"eps": -1.0}, "eps must be at least 0, got -1.0"), ({"eps": "1"}, "eps must be a number, got '1'")),
        any_shape=True,
    ),
    DefenseCase(
        "BitDepthReduction",
        defenses.BitDepthReduction,
        {"bits": 2},
        bad=(
            ({"bits": 0}, "bits must be at least 1 and at most 16, got 0"),
            ({"bits": 2.0}, "bits must be an integer, got 2.0"),
            *BAD_BOUNDS,
        ),
    ),
    DefenseCase(
        "JPEGCompression",
        defenses.JPEGCompression,
        {"quality": 50},
        channels=(1, 3),
        exports=(),  # torchvision's encoder wants pixels, and export has none
        bad=(
            ({"quality": 0}, "quality must be at least 1 and at most 100, got 0"),
            ({"quality": 101}, "quality must be at least 1 and at most 100, got 101"),
            ({"quality": 7.5}, "quality must be an integer, got 7.5"),
            *BAD_BOUNDS,
        ),
    ),
    DefenseCase(
        "RandomCropRescale",
        defenses.RandomCropRescale,
        {"scale": 0.875, "eot_samples": 10},
        bad=(
            ({"scale": 0.0}, "scale must be greater than 0 and at most 1, got 0.0"),
            ({"scale": 1.5}, "scale must be greater than 0 and at most 1, got 1.5"),
            *BAD_DRAWS,
        ),
    ),
    DefenseCase(
        "TotalVarianceMinimization",
        defenses.TotalVarianceMinimization,
        {"iterations": 5, "eot_samples": 2},
        bad=(
            ({"drop": -0.1}, "drop must be at least 0 and at most 1, got -0.1"),
            ({"drop": 1}, "drop must be below 1: with every pixel dropped there is no image left"),
            ({"weight": 0.0}, "weight must be greater than 0"),
            ({"iterations": 0}, "iterations must be at least 1, got 0"),
            *BAD_DRAWS,
        ),
    ),
    DefenseCase(
        "ImageQuilting",
        defenses.ImageQuilting,
        exports=(4,),
        patches=True,
        bad=(
            ({"overlap": 0}, "overlap must be at least 1 and at most 2, got 0"),
            ({"overlap": 3}, "overlap must be at least 1 and at most 2, got 3"),
            ({"neighbors": 0}, "neighbors must be at least 1 and at most 40, got 0"),
            ({"neighbors": 41}, "neighbors must be at least 1 and at most 40, got 41"),
            ({"patches": draw(40, 3, 4)}, "images must have shape (N, C, H, W), got (40, 3, 4)"),
            ({"patches": draw(0, 3, 4, 4)}, "patches must have shape (P, C, size, size), size at least 2"),
            ({"patches": draw(40, 3, 4, 5)}, "got (40, 3, 4, 5)"),
            ({"patches": draw(40, 3, 4, 4).byte()}, "must be a floating tensor"),
            *BAD_DRAWS,
        ),
    ),
    DefenseCase(
        "ImageQuilting-random", defenses.ImageQuilting, {"neighbors": 5, "eot_samples": 2}, exports=(4,), patches=True
    ),
]
