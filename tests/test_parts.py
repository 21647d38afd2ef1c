"""The parts of attacks: one list, all of it public."""

import advkit
from advkit import parts


def test_the_list_is_the_module() -> None:
    assert sorted(name for name in vars(parts) if not name.startswith("_")) == sorted(parts.__all__)


def test_every_part_says_what_it_is() -> None:
    for name in parts.__all__:
        part = getattr(parts, name)
        assert isinstance(part, int) or part.__doc__, name
    assert parts.Attack is advkit.Attack
