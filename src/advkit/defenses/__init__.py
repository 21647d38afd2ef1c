"""Defenses that wrap or train a model, and what an attacker who knows them differentiates."""

from advkit.defenses.adversarial_training import AdversarialTraining
from advkit.defenses.base import Defense, InputTransformation
from advkit.defenses.distillation import DefensiveDistillation
from advkit.defenses.ensemble_training import EnsembleAdversarialTraining
from advkit.defenses.feature_smoothing import FeatureSmoothing, MedianSmoothing
from advkit.defenses.gradient_masking import GradientMasking
from advkit.defenses.input_transforms import (
    BitDepthReduction,
    ImageQuilting,
    JPEGCompression,
    RandomCropRescale,
    TotalVarianceMinimization,
)
from advkit.defenses.stack import Stack
from advkit.defenses.training import Epoch, TrainingDefense

__all__ = [
    "AdversarialTraining",
    "BitDepthReduction",
    "Defense",
    "DefensiveDistillation",
    "EnsembleAdversarialTraining",
    "Epoch",
    "FeatureSmoothing",
    "GradientMasking",
    "ImageQuilting",
    "InputTransformation",
    "JPEGCompression",
    "MedianSmoothing",
    "RandomCropRescale",
    "Stack",
    "TotalVarianceMinimization",
    "TrainingDefense",
]
