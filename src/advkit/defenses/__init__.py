"""Defenses that wrap or train a model, and what an attacker who knows them differentiates."""

from advkit.defenses.base import Defense, InputTransformation
from advkit.defenses.feature_smoothing import FeatureSmoothing, MedianSmoothing
from advkit.defenses.gradient_masking import GradientMasking
from advkit.defenses.input_transforms import (
    BitDepthReduction,
    ImageQuilting,
    JPEGCompression,
    RandomCropRescale,
    TotalVarianceMinimization,
)

__all__ = [
    "BitDepthReduction",
    "Defense",
    "FeatureSmoothing",
    "GradientMasking",
    "ImageQuilting",
    "InputTransformation",
    "JPEGCompression",
    "MedianSmoothing",
    "RandomCropRescale",
    "TotalVarianceMinimization",
]
