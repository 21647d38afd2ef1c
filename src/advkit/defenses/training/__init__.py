"""Defenses that train a model: one loop, and one recipe a file.

`base` says what the user may ask for, `recipe` what a defense has to say, and `loop` does the rest.
"""

from advkit.defenses.training.adversarial import AdversarialRecipe
from advkit.defenses.training.base import TrainingDefense
from advkit.defenses.training.epoch import Epoch
from advkit.defenses.training.guard import Guard
from advkit.defenses.training.recipe import Batch, Recipe

__all__ = ["AdversarialRecipe", "Batch", "Epoch", "Guard", "Recipe", "TrainingDefense"]
