"""Training in two processes, of which the second is forked by the first.

ranks.py FOLDER    # writes weights, histories and what was said of it
"""

import os
import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import advkit
from advkit.defenses import AWP, AdversarialTraining, FastTraining, FreeTraining


def recipes():
    """None of them draws random numbers, of which each process has its own."""
    pgd = AdversarialTraining(advkit.PGD(nn.Identity(), steps=2, random_start=False), clean_ratio=0.5)
    return {
        "AWP": AWP(pgd, gamma=0.1),
        "Free": FreeTraining(replays=2),
        "Fast": FastTraining(noise=0.0, guard=1.0),
    }


def data(count=18):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    return TensorDataset(0.3 * labels[:, None] + 0.3 * torch.rand(count, 12, generator=generator).double(), labels)


def fresh():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double()
    net[1].eval()  # it has buffers of two dtypes, and frozen it is the same in all
    return net


def trained(name, wrap, loader, validation, path, stops=(3,)):
    for epochs in stops:
        model = wrap(fresh())
        torch.manual_seed(5)
        defense = recipes()[name]
        optimizer = torch.optim.SGD(model.parameters(), 0.3, momentum=0.9)
        defense.fit(
            model,
            loader,
            optimizer,
            epochs,
            validation=validation,
            validation_attack=advkit.FGSM(model),
            checkpoint=path,
            average=0.5,
            progress=True,
        )
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    return inner.state_dict(), [vars(epoch) for epoch in defense.history]


def alone(name, folder):
    """By one process, on the batches that two processes share."""
    images, labels = data().tensors
    shares = [torch.arange(rank, 18, 2).split(3) for rank in range(2)]
    order = [torch.cat(both) for both in zip(*shares, strict=True)]
    batches = [(images[at], labels[at]) for at in order]
    return trained(name, lambda model: model, batches, batches, folder / f"alone-{name}.pt")


def main(folder):
    rank = 0 if os.fork() else 1
    file = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=file, rank=rank, world_size=2)
    sampler = DistributedSampler(data(), shuffle=False)
    loader = DataLoader(data(), 3, sampler=sampler)
    found = {}
    sys.stderr = (folder / f"bars{rank}.txt").open("w")
    for name in recipes():
        stops = (1, 3) if name in ("Free", "AWP") else (3,)
        found[name] = trained(name, DistributedDataParallel, loader, loader, folder / f"{name}.pt", stops)
    torch.save(found, folder / f"rank{rank}.pt")
    try:
        model = DistributedDataParallel(fresh())
        optimizer = torch.optim.SGD(model.parameters(), 0.3)
        recipes()["Free"].fit(model, list(loader)[: 1 + rank], optimizer, 1)
    except advkit.errors.InputError as error:
        (folder / f"refused{rank}.txt").write_text(str(error))
    sys.stderr.flush()
    distributed.destroy_process_group()
    if rank:
        os._exit(0)
    os.wait()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
