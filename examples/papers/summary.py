"""A few figures of each paper in one table, from the results that are kept with the documentation.

python examples/papers/summary.py > docs/papers/summary.md
"""

import json
from pathlib import Path

from study import COLUMNS, as_text

RESULTS = Path(__file__).parents[2] / "docs" / "papers"

# What a row is about, and where it is: a table of the paper's and the heads of a row of it.
HEADLINES = {
    "paper1": [
        ("F1 on CIFAR-10 under DeepFool, no defense", "CIFAR-10: macro F1", ["none", "DeepFool"]),
        ("the same, feature smoothing", "CIFAR-10: macro F1", ["feature smoothing", "DeepFool"]),
        ("the same, distillation", "CIFAR-10: macro F1", ["distillation", "DeepFool"]),
        ("the same, adversarial examples", "CIFAR-10: macro F1", ["adversarial examples", "DeepFool"]),
    ],
    "paper2": [
        (
            "accuracy under FGSM at eps 1, plain training, %",
            "Accuracy of the EvenDeeperCNN, %",
            ["1", "clean images", "FGSM, eps 1"],
        ),
        ("the same, FGSM training", "Accuracy of the EvenDeeperCNN, %", ["2", "FGSM images too", "FGSM, eps 1"]),
        (
            "FGSM at eps 0.5, FGSM training",
            "Accuracy of the EvenDeeperCNN, %",
            ["4", "FGSM images too", "FGSM, eps 0.5"],
        ),
    ],
    "paper3": [
        ("accuracy of the CNN, no attack, %", "Accuracy of the CNN, %", ["baseline", "0"]),
        ("the same under FGSM at eps 0.1", "Accuracy of the CNN, %", ["baseline", "0.1"]),
        ("the same, trained at eps 0.2", "Accuracy of the CNN, %", ["0.2", "0.1"]),
    ],
    "paper4": [
        ("accuracy of the ResNet-50 under FGSM, %", "Accuracy, %", ["ResNet-50", "FGSM"]),
        ("the same, ensemble adversarial training", "Accuracy, %", ["ensemble adversarial training", "FGSM"]),
        ("SparseL1Descent, no defense", "Accuracy, %", ["ResNet-50", "SparseL1Descent"]),
        (
            "the same, ensemble adversarial training",
            "Accuracy, %",
            ["ensemble adversarial training", "SparseL1Descent"],
        ),
    ],
}


def main() -> None:
    lines = [["paper", "what", *COLUMNS, "scale"], ["---", "---", *["--:"] * len(COLUMNS), "---"]]
    for paper, headlines in HEADLINES.items():
        results = json.loads((RESULTS / paper / "results.json").read_text(encoding="utf-8"))
        tables = {table["title"]: table for table in results["tables"]}
        scale = results["about"]["scale"]["name"] if results["measured"] else as_text(None)
        for what, title, heads in headlines:
            (row,) = [row for row in tables[title]["rows"] if row[: len(heads)] == heads]
            numbers = map(as_text, row[len(heads) : len(heads) + len(COLUMNS)])
            lines.append([f"[{paper[-1]}]({paper}/index.md)", what, *numbers, scale])
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))


if __name__ == "__main__":
    main()
