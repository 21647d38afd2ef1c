"""Checks that no attack exercises by itself; the rest is in ``contracts/test_errors.py``."""

import numpy as np
import pytest
import torch

import advkit
from advkit._engine.checks import check_number
from advkit.errors import DtypeError, InputError
from contracts.scenes import IMAGE, conv_net, draw, said_by


@pytest.mark.parametrize(
    ("value", "limits", "words"),
    [
        (1.5, {"at_least": 0, "at_most": 1}, "p must be at least 0 and at most 1, got 1.5"),
        (0, {"above": 0}, "p must be greater than 0, got 0"),
        (float("nan"), {}, "p must be finite, got nan"),
        (float("-inf"), {"at_most": 1}, "p must be at most 1, got -inf"),
    ],
)
def test_numbers_out_of_range(value: float, limits: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_number("p", value, **limits)


def test_numbers_of_numpy_are_numbers() -> None:
    for value in (np.float16(0.5), np.float32(0.5), np.float64(0.5), np.int64(1), np.uint8(1)):
        check_number("p", value, at_least=0)
    check_number("p", np.int64(3), integer=True)
    for wrong in (np.float64(3), np.bool_(True)):
        with pytest.raises(DtypeError, match="p must be an integer"):
            check_number("p", wrong, integer=True)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_attacks_with_numbers_of_numpy(kind: type) -> None:
    model, images = conv_net(), draw(2, *IMAGE)
    labels = said_by(model, images)
    for make, more in ((advkit.FGSM, {}), (advkit.MIFGSM, {"steps": np.int64(2)}), (advkit.PGD, {"norm": "l2"})):
        options = {**more, "random_start": False} if make is advkit.PGD else more
        found = make(model, eps=kind(0.125), **options)(images, labels)
        assert found.equal(make(model, eps=0.125, **options)(images, labels))
        assert found.dtype == torch.float32
