"""What prints alike in every process, for whatever tells things apart by texts."""

import re
from types import FunctionType
from typing import Any

__all__ = ["held", "without_addresses"]


def without_addresses(text: str) -> str:
    """What something prints as, without where it is in memory."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def held(function: FunctionType) -> list[Any]:
    """What a function's closure holds, as far as it has been set."""
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # nothing yet
            continue
    return found
