"""Transfer attacks: on the gradients of a surrogate, for another model. One loop, and parts that compose.

Each part is one idea; `Transfer` combines a list of them. The shorthands are such lists, named as in their papers.
"""

from advkit.attacks.transfer.ascent import Ascent
from advkit.attacks.transfer.blocks import SIA, BlockTransforms
from advkit.attacks.transfer.diversity import DIFGSM, InputDiversity
from advkit.attacks.transfer.expectation import EOT
from advkit.attacks.transfer.lgv import LGV, InTurn, along_sgd
from advkit.attacks.transfer.momentum import EnhancedMomentum, Momentum, Nesterov
from advkit.attacks.transfer.part import Part
from advkit.attacks.transfer.patch_wise import PIFGSM, PIFGSMPP, PatchWise
from advkit.attacks.transfer.penalty import PGN, PenalizedGradient
from advkit.attacks.transfer.relevance import GRA, GradientRelevance
from advkit.attacks.transfer.scale import NIFGSM, SINIFGSM, Admix, ScaleCopies
from advkit.attacks.transfer.shuffle import BSR, BlockShuffle
from advkit.attacks.transfer.spectrum import SSA, SpectrumTransform
from advkit.attacks.transfer.start import RandomStart
from advkit.attacks.transfer.transfer import Transfer
from advkit.attacks.transfer.translation import TIFGSM, TranslationKernel
from advkit.attacks.transfer.variance import VMIFGSM, VNIFGSM, VarianceTuning

__all__ = [
    "BSR",
    "DIFGSM",
    "EOT",
    "GRA",
    "LGV",
    "NIFGSM",
    "PGN",
    "PIFGSM",
    "PIFGSMPP",
    "SIA",
    "SINIFGSM",
    "SSA",
    "TIFGSM",
    "VMIFGSM",
    "VNIFGSM",
    "Admix",
    "Ascent",
    "BlockShuffle",
    "BlockTransforms",
    "EnhancedMomentum",
    "GradientRelevance",
    "InTurn",
    "InputDiversity",
    "Momentum",
    "Nesterov",
    "Part",
    "PatchWise",
    "PenalizedGradient",
    "RandomStart",
    "ScaleCopies",
    "SpectrumTransform",
    "Transfer",
    "TranslationKernel",
    "VarianceTuning",
    "along_sgd",
]
