"""Train a small CNN on PGD images, and compare it with one that never saw any.

    python examples/adversarial_training.py        # ten shapes, drawn here; less than a minute

It needs ``pip install "advkit[plot,progress]"``, like the quickstart, whose shapes and network it uses.
"""

import copy

import torch
from torch.utils.data import DataLoader, TensorDataset

import advkit
from advkit.defenses import AdversarialTraining
from quickstart import cnn, draw, train

EPS = 8 / 255


def main() -> None:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    training, test = TensorDataset(*draw(2000)), TensorDataset(*draw(150))
    plain = advkit.Normalized(cnn(channels=3, classes=10), mean=0.5, std=0.25).to(device)
    train(plain, training, epochs=5, device=device)

    # From an already good model, a few epochs more on images that fool it.
    robust = copy.deepcopy(plain)
    attack = advkit.PGD(robust, eps=EPS, alpha=EPS / 2, steps=3)
    optimizer = torch.optim.Adam(robust.parameters(), lr=1e-3)
    loader = DataLoader(training, batch_size=64, shuffle=True)
    defense = AdversarialTraining(attack, clean_ratio=0.5)
    defense.fit(robust, loader, optimizer, epochs=2)
    print(f"The mixed loss fell from {defense.history[0].loss:.2f} to {defense.history[-1].loss:.2f}.")

    # Judged by more steps than it was trained with.
    judges = [advkit.FGSM(plain, eps=EPS), advkit.PGD(plain, eps=EPS, steps=20)]
    for name, model in {"plain": plain, "robust": robust}.items():
        print(f"\n{name}\n{advkit.evaluate(model, DataLoader(test, batch_size=100), judges)}")


if __name__ == "__main__":
    main()
