"""Defenses that certify robustness: for an image, a radius within which no attack changes the prediction."""

from advkit.defenses.certifying.certificates import Certificates
from advkit.defenses.certifying.ibp_training import IBPTraining
from advkit.defenses.certifying.randomized_smoothing import RandomizedSmoothing

__all__ = ["Certificates", "IBPTraining", "RandomizedSmoothing"]
