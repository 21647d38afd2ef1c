"""Markdown tables of what pytest-benchmark measured: python benchmarks/table.py results.json, or several of them.

Times are ratios of medians in one run, so that they mean the same on the next machine.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

HEAD = """| attack | images | success | median size | passes | advkit / this | over floor |
| --- | --: | --: | --: | --: | --: | --: |"""


def tables(runs: list[dict[str, Any]]) -> str:
    """One table for each network and batch size, under what says where each run was measured."""
    of_scene: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for bench in (bench for run in runs for bench in run["benchmarks"]):
        info = bench["extra_info"]
        of_scene[info["network"], info["batch"]].append({**info, "seconds": bench["stats"]["median"]})
    parts = [_where(run) for run in runs]
    for (network, batch), rows in sorted(of_scene.items()):
        lines = [HEAD]
        for row in rows:
            if row["library"] == "advkit":
                lines.append(f"| **{row['attack']}** ({row['norm'].capitalize()}) |" + " |" * 6)
            lines.append(_line(row))
        parts.append(f"### {network}, batch of {batch}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _where(results: dict[str, Any]) -> str:
    machine = results["machine_info"]
    ours = machine["advkit"]
    versions = ", ".join(f"{name} {number}" for name, number in ours["versions"].items())
    cpu = machine["cpu"].get("brand_raw", machine["machine"])
    return (
        f"{cpu}, {ours['cores']} cores, {ours['threads']} threads; device {ours['device']}; {versions}; "
        f"data {Path(ours['data']).name}.\n\n    {ours['command']}"
    )


def _line(row: dict[str, Any]) -> str:
    ratio = row["beside"] / row["seconds"]
    size = "" if row["size"] is None else f"{row['size']:.4g}"
    passes = f"{row['forwards']:.4g} + {row['backwards']:.4g}"
    last = f"1 | {1 / ratio:.2f}" if row["library"] == "advkit" else f"{ratio:.3f} |"
    return f"| {row['library']} | {row['images']} | {100 * row['success']:.4g} % | {size} | {passes} | {last} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Turn the JSON of pytest-benchmark into Markdown tables of ratios.")
    parser.add_argument("results", type=Path, nargs="+", help="what --benchmark-json wrote")
    print(tables([json.loads(file.read_text()) for file in parser.parse_args().results]), end="")
