"""Several processes, or threads, that make one copy together."""

import os
import subprocess
import sys
import textwrap
import threading

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from advkit import FGSM
from advkit._io.locks import Lock, held
from advkit.data import generate, load
from advkit.errors import InputError
from contracts.scenes import draw, flat_net

N = 24
DATA = TensorDataset(draw(N, 3, 2, 2), torch.arange(N) % 4)
SMALL = {"batch_size": 3, "shard_size": 6}  # four shards
pytest.importorskip("fcntl")


class Watched(nn.Module):
    """A model that counts the images it sees, and does something at its first."""

    def __init__(self, at_first=lambda: None):
        super().__init__()
        self.model, self.seen, self.at_first = flat_net(12), 0, at_first

    def forward(self, images):
        if torch.is_grad_enabled():  # else it is asked whether it is the same model
            self.seen += len(images)
            if self.seen == len(images):
                self.at_first()
        return self.model(images)


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_two_at_a_time_share_the_shards(tmp_path):
    """The second takes the shards that the first is not in, and waits for that one."""
    expected = generate(FGSM(Watched()), DATA, **SMALL).images
    others, done, begun = Watched(lambda: begun.set()), [], threading.Event()
    second = threading.Thread(target=lambda: done.append(generate(FGSM(others), DATA, tmp_path, **SMALL)))

    def start():
        second.start()
        while second.is_alive() and not begun.wait(1):
            pass
        assert begun.is_set()

    own = Watched(start)
    copy = generate(FGSM(own), DATA, tmp_path, **SMALL)
    second.join()
    assert torch.equal(copy.images, expected)
    assert torch.equal(done[0].images, expected)
    assert own.seen + others.seen == N  # each image once
    assert min(own.seen, others.seen) >= 6
    assert names(tmp_path) == ["manifest.json", *(f"shard-0000{number}.npy" for number in range(4))]


def test_what_others_did_not_finish_is_made_here(tmp_path):
    """As if a process that had a shard were killed while this one makes another."""
    generate(FGSM(Watched()), DATA, tmp_path, **SMALL)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for number in (0, 2):
        (tmp_path / f"shard-0000{number}.npy").unlink()
    theirs = Lock(tmp_path / "shard-00000.npy.lock")
    assert theirs.take(wait=False)
    half = tmp_path / "shard-00000.npy.abc.tmp"
    half.write_bytes(b"half")
    left_alone = []
    model = Watched(lambda: (left_alone.append(half.exists()), theirs.release()))
    generate(FGSM(model), DATA, tmp_path, **SMALL)
    assert left_alone == [True]
    assert model.seen == 12
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_other_arguments_at_the_same_time_are_refused(tmp_path):
    said = []

    def start():
        with pytest.raises(InputError) as error:
            generate(FGSM(Watched(), eps=0.5), DATA, tmp_path, **SMALL)
        said.append(str(error.value))

    generate(FGSM(Watched(start)), DATA, tmp_path, **SMALL)
    assert "made with other arguments: attack.eps" in said[0]
    assert len(load(tmp_path)) == N


def test_a_lock_is_held_by_one_and_gone_afterwards(tmp_path):
    path = tmp_path / "lock"
    with held(path) as lock:
        assert lock.exclusive
        assert not Lock(path).take(wait=False)
        assert path.exists()
    assert not path.exists()
    with pytest.raises(KeyError), held(path):
        raise KeyError
    again = Lock(path)
    assert again.take(wait=False)
    again.release()


def test_without_locks_everybody_makes_all_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr("advkit._io.locks.fcntl", None)
    other = Watched()
    model = Watched(lambda: generate(FGSM(other), DATA, tmp_path, **SMALL))
    copy = generate(FGSM(model), DATA, tmp_path, **SMALL)
    assert other.seen == N
    assert torch.equal(copy.images, generate(FGSM(Watched()), DATA, **SMALL).images)
    assert len(names(tmp_path)) == 5


RANKS = r"""
    import os, sys, torch, advkit
    from torch import distributed, nn
    from torch.utils.data import TensorDataset
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.rand(22, 3, 2, 2, generator=generator), torch.arange(22) % 5)
    path, kind = sys.argv[1:]

    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5))

    net, seen = make(), []
    if kind == "sharded":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        distributed.init_process_group("gloo")
        net = fully_shard(net, mesh=init_device_mesh("cpu", (distributed.get_world_size(),)))
    net[0].register_forward_hook(lambda module, inputs, output: torch.is_grad_enabled() and seen.append(len(output)))
    attack = advkit.FGSM(net)
    copy = advkit.data.generate(attack, data, path, batch_size=4, shard_size=4)
    total = sum(seen)
    plain = advkit.data.generate(attack.on(make()), data, batch_size=4)
    torch.testing.assert_close(copy.images, plain.images)
    assert copy.labels.tolist() == data.tensors[1].tolist()
    said = ""
    try:
        advkit.data.generate(advkit.PGD(net), data, path, batch_size=4, shard_size=4)
    except advkit.errors.InputError as error:
        said = str(error)
    assert "attack is 'FGSM' there and 'PGD' here" in said
    sys.stdout.write(f"{total}\n")
    sys.stdout.flush()
    if kind == "sharded":
        distributed.barrier()
        os._exit(0)  # the threads of gloo may end after what they use, and take the process with them
"""


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("kind", ["plain", "sharded"])
def test_ranks_of_torchrun(tmp_path, processes, kind):
    """Models in each process, and one that is spread over them (FSDP2), whose weights are distributed tensors."""
    if kind == "sharded" and not hasattr(pytest.importorskip("torch.distributed.fsdp"), "fully_shard"):
        pytest.skip("needs FSDP2")
    script = tmp_path / "ranks.py"
    script.write_text(textwrap.dedent(RANKS))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    out = subprocess.run(
        [*torchrun, str(script), str(tmp_path / "copy"), kind],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert out.returncode == 0, out.stderr
    seen = [int(line) for line in out.stdout.split()]
    assert len(seen) == processes
    assert sum(seen) == (22 * processes if kind == "sharded" else 22)
    assert names(tmp_path / "copy") == ["manifest.json", *(f"shard-0000{number}.npy" for number in range(6))]
