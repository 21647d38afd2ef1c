"""An evaluation of models that torch.distributed has changed, as the only process of a group.

sharded.py FOLDER    # prints the scores of the plain model, of the sharded one, and of one inside of DDP
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import advkit
from advkit.defenses import InputTransformation


class Dimmed(InputTransformation):
    def forward(self, images):
        return 0.9 * images


def evaluated(model, loader, folder):
    attacks = [advkit.PGD(model, eps=0.1), advkit.DeepFool(model)]
    defenses = {"dimmed": Dimmed().wrap(model)}
    report, again = (advkit.evaluate(model, loader, attacks, defenses, run_folder=folder) for _ in range(2))
    assert again == report
    scores = [(one.accuracy, one.forwards_per_image, one.backwards_per_image) for one in report.scores]
    return {"scores": scores, "weights": report.defenses[0].arguments["weights"]}


def main():
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=0, world_size=1)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 4))
    images = torch.rand(12, 3, 4, 4)
    loader = [(images, net(images).argmax(1))]
    found = {"plain": evaluated(net, loader, folder / "plain")}
    found["ddp"] = evaluated(advkit.Normalized(DistributedDataParallel(net), 0.0, 1.0), loader, folder / "ddp")
    fully_shard(net, mesh=init_device_mesh("cpu", (1,)))
    found["fsdp"] = evaluated(net, loader, folder / "fsdp")
    print(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
