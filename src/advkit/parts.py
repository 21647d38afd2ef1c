"""The building blocks for attacks of your own, in one place: ``from advkit.parts import Attack, iterate``.

"Write your own attack" in the documentation shows how they fit together.
"""

from advkit._base.random import normal_like, uniform_like
from advkit._engine.ball import Ball, L0Ball, L1Ball, L2Ball, LinfBall
from advkit._engine.classifier import Classifier
from advkit._engine.iterate import iterate
from advkit._engine.keeps import FirstSuccess, HighestLoss, Keep, Last, Smallest, Standing, Worst
from advkit._engine.looks import Climb, Look, Peak, Seeking
from advkit._engine.rows import Rows
from advkit.attack import Attack
from advkit.black_box import NO_LIMIT, Asking, BlackBox, Oracle, OutOfQueries, as_pixels, canvas, overwrite, places
from advkit.goals import Goal, Targeted, Untargeted
from advkit.hyperparameters import (
    Hyperparameter,
    OfEps,
    OfRange,
    choice,
    declared,
    flag,
    loss,
    norm,
    number,
    tensor,
)
from advkit.model import attacking
from advkit.norms import column

__all__ = [
    "NO_LIMIT",
    "Asking",
    "Attack",
    "Ball",
    "BlackBox",
    "Classifier",
    "Climb",
    "FirstSuccess",
    "Goal",
    "HighestLoss",
    "Hyperparameter",
    "Keep",
    "L0Ball",
    "L1Ball",
    "L2Ball",
    "Last",
    "LinfBall",
    "Look",
    "OfEps",
    "OfRange",
    "Oracle",
    "OutOfQueries",
    "Peak",
    "Rows",
    "Seeking",
    "Smallest",
    "Standing",
    "Targeted",
    "Untargeted",
    "Worst",
    "as_pixels",
    "attacking",
    "canvas",
    "choice",
    "column",
    "declared",
    "flag",
    "iterate",
    "loss",
    "norm",
    "normal_like",
    "number",
    "overwrite",
    "places",
    "tensor",
    "uniform_like",
]
