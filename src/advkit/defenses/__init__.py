"""Defenses that wrap or train a model, and what an attacker who knows them differentiates.

`base` defines what a defense is. ``wrapping`` has those that go in front of a model, ``training`` those that train
it and ``certifying`` those that certify robustness, each in a file of its own; `stack` combines them.

Examples:
    >>> defended = advkit.defenses.FeatureSmoothing().wrap(model)
    >>> adversarials = advkit.PGD(defended)(images, labels)  # by an attacker who knows the defense
"""

from advkit.defenses.base import Defense, InputTransformation
from advkit.defenses.certifying.certificates import Certificates
from advkit.defenses.certifying.ibp_training import IBPTraining
from advkit.defenses.certifying.randomized_smoothing import RandomizedSmoothing
from advkit.defenses.stack import Stack
from advkit.defenses.training.adversarial_training import AdversarialTraining
from advkit.defenses.training.awp import AWP
from advkit.defenses.training.base import TrainingDefense
from advkit.defenses.training.distillation import DefensiveDistillation
from advkit.defenses.training.ensemble_training import EnsembleAdversarialTraining
from advkit.defenses.training.epoch import Epoch
from advkit.defenses.training.fast import FastTraining
from advkit.defenses.training.free import FreeTraining
from advkit.defenses.training.mart import MART
from advkit.defenses.training.trades import TRADES
from advkit.defenses.wrapping.bit_depth import BitDepthReduction
from advkit.defenses.wrapping.crop_rescale import RandomCropRescale
from advkit.defenses.wrapping.feature_smoothing import FeatureSmoothing
from advkit.defenses.wrapping.gradient_masking import GradientMasking
from advkit.defenses.wrapping.jpeg import JPEGCompression
from advkit.defenses.wrapping.median_smoothing import MedianSmoothing
from advkit.defenses.wrapping.quilting import ImageQuilting
from advkit.defenses.wrapping.total_variance import TotalVarianceMinimization

__all__ = [
    "AWP",
    "MART",
    "TRADES",
    "AdversarialTraining",
    "BitDepthReduction",
    "Certificates",
    "Defense",
    "DefensiveDistillation",
    "EnsembleAdversarialTraining",
    "Epoch",
    "FastTraining",
    "FeatureSmoothing",
    "FreeTraining",
    "GradientMasking",
    "IBPTraining",
    "ImageQuilting",
    "InputTransformation",
    "JPEGCompression",
    "MedianSmoothing",
    "RandomCropRescale",
    "RandomizedSmoothing",
    "Stack",
    "TotalVarianceMinimization",
    "TrainingDefense",
]
