"""Imports point one way, from `evaluation` down to `errors`, and never sideways between families of attacks."""

import ast
from pathlib import Path

import advkit

ROOT = Path(advkit.__file__).parent
LAYERS = [  # each may import from those before it, and from itself
    {"_version", "errors", "_base"},
    {"losses", "norms", "goals", "model", "outputs"},
    {"_engine"},
    {"hyperparameters"},
    {"attack"},
    {"black_box", "parts"},
    {"attacks"},
    {"compat"},
    {"_io", "_data", "transforms", "data"},
    {"defenses"},
    {"evaluation"},
    {"integrations"},
    {"_command"},
    {"cli"},
    {"__init__", "__main__"},
]
FAMILIES = {"budget", "fitted", "minimal", "queries", "transfer", "combined"}
# What is made of the attacks of other families, by name.
MADE_OF = {("attacks", "combined", "auto_attack"), ("attacks", "fitted", "universal")}
READING = ("attacks", "fitted")  # reads loaders, and keeps files


def height(room: str) -> int:
    return next(at for at, rooms in enumerate(LAYERS) if room in rooms)


def imports(file: Path) -> set[str]:
    """The modules of advkit that a file imports when it runs; what is for type checkers alone does not count."""
    found = set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "advkit":
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "advkit" else []
            found |= {*names} or {node.module}
    return found


def test_imports_point_one_way() -> None:
    files = list(ROOT.rglob("*.py"))
    assert len(files) > 100
    wrong = []
    for file in files:
        place = file.relative_to(ROOT).with_suffix("").parts
        for name in imports(file):
            other = name.split(".")[1:]
            if height(other[0]) > height("data" if place[:2] == READING else place[0]):
                wrong.append(f"{'/'.join(place)} imports {name}")
            families = {*place[1:2], *other[1:2]} if place[0] == other[0] == "attacks" else set()
            if len(families & FAMILIES) == 2 and place not in MADE_OF:
                wrong.append(f"{'/'.join(place)} imports sideways from {name}")
    assert wrong == []


def test_every_room_has_a_layer() -> None:
    rooms = {path.stem for path in ROOT.iterdir() if path.name not in ("__pycache__", "py.typed")}
    assert rooms == set().union(*LAYERS)
