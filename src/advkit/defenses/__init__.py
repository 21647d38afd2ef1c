"""Defenses that wrap or train a model, and what an attacker who knows them differentiates."""

from advkit.defenses.adversarial_training import AdversarialTraining
from advkit.defenses.base import Defense, InputTransformation
from advkit.defenses.distillation import DefensiveDistillation
from advkit.defenses.ensemble_training import EnsembleAdversarialTraining
from advkit.defenses.stack import Stack
from advkit.defenses.training import Epoch, TrainingDefense

__all__ = [
    "AdversarialTraining",
    "Defense",
    "DefensiveDistillation",
    "EnsembleAdversarialTraining",
    "Epoch",
    "InputTransformation",
    "Stack",
    "TrainingDefense",
]
