import os
import pickle
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from advkit import FGSM, PGD
from advkit._io import shards
from advkit.data import generate, load
from advkit.errors import InputError
from contracts.scenes import draw, flat_net

N = 22
DATA = TensorDataset(draw(N, 3, 2, 2), torch.arange(N) % 4)
NET = flat_net(12)
SMALL = {"batch_size": 4, "shard_size": 6}


@pytest.fixture
def path(tmp_path):
    generate(FGSM(NET), DATA, tmp_path / "copy", **SMALL)
    return tmp_path / "copy"


def refused(data, index):
    with pytest.raises(InputError, match=rf"is damaged \(.*image {index}\b.*\); delete it and call generate again"):
        _ = data[index]
    with pytest.raises(InputError, match="is damaged"):
        _ = data.images
    with pytest.raises(InputError, match="is damaged"):
        _ = data.labels


@pytest.mark.parametrize("where", ["image", "label", "place", "check"])
def test_a_flipped_bit_is_noticed_when_its_image_is_read(path, where):
    expected = load(path).images
    file = path / "shard-00001.npy"
    record = np.load(file).dtype
    raw = bytearray(file.read_bytes())
    header = len(raw) - 6 * record.itemsize
    raw[header + 2 * record.itemsize + record.fields[where][1]] ^= 4  # the third of the shard
    file.write_bytes(raw)
    data = load(path)
    refused(data, 8)
    assert torch.equal(data[7][0], expected[7])
    assert torch.equal(data[9][0], expected[9])
    file.unlink()
    assert torch.equal(generate(FGSM(NET), DATA, path, **SMALL).images, expected)


def test_one_shard_over_another_is_noticed_at_once(path):
    shutil.copy(path / "shard-00000.npy", path / "shard-00001.npy")
    with pytest.raises(InputError, match=r"shard-00001.npy is damaged \(it has image 0 where image 6 belongs\)"):
        load(path)


def test_a_shard_of_another_copy_is_noticed(path, tmp_path):
    generate(FGSM(NET, eps=0.1), DATA, tmp_path / "other", **SMALL)
    shutil.copy(tmp_path / "other" / "shard-00001.npy", path)
    with pytest.raises(InputError, match=r"shard-00001.npy is damaged"):
        _ = load(path)[7]


def test_something_behind_the_records_is_noticed(path):
    with (path / "shard-00001.npy").open("ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match=r"shard-00001.npy is damaged \(it has \d+ bytes, not \d+\)"):
        load(path)


def test_a_file_that_cannot_be_opened_is_not_called_damaged(path, monkeypatch):
    def none_left(file, mode):
        raise OSError(24, "Too many open files")

    data = load(path)
    monkeypatch.setattr(np.lib.format, "open_memmap", none_left)
    for use in (lambda: data[0], lambda: load(path)):
        with pytest.raises(InputError, match=r"shard-00000.npy cannot be read \(Too many open files\)$"):
            use()


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs a list of what is mapped")
@pytest.mark.parametrize("open_at_a_time", [1, 2, 64])
def test_so_many_files_are_open_at_a_time(path, monkeypatch, open_at_a_time):
    expected = load(path).images
    monkeypatch.setattr(shards, "_OPEN", open_at_a_time)
    data = load(path)

    def mapped():
        with open("/proc/self/maps") as maps:
            return sum(str(path) in line for line in maps)

    assert mapped() == 0  # none before one is used
    for order in (range(N), range(-1, -N - 1, -1), torch.randperm(N, generator=torch.Generator().manual_seed(0))):
        for index in map(int, order):
            assert torch.equal(data[index][0], expected[index])
            assert 1 <= mapped() <= open_at_a_time
    assert torch.equal(data.images, expected)
    assert torch.equal(data.labels, DATA.tensors[1])
    assert mapped() <= open_at_a_time


MANY = """
    import pickle, resource, sys, torch
    import advkit._io.shards
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 10))
    data = TensorDataset(torch.rand(90, 3, 2, 2), torch.arange(90) % 10)
    expected = advkit.FGSM(net)(*data.tensors)
    resource.setrlimit(resource.RLIMIT_NOFILE, (80, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    advkit._io.shards._OPEN = 20
    copy = advkit.data.generate(advkit.FGSM(net), data, sys.argv[1], shard_size=1, batch_size=1)
    for one in (copy, advkit.data.load(sys.argv[1]), pickle.loads(pickle.dumps(copy))):
        torch.testing.assert_close(one.images, expected)
        torch.testing.assert_close(one[-2][0], expected[-2])
        torch.testing.assert_close(torch.stack([image for image, _ in one]), expected)
    loader = DataLoader(copy, 9, num_workers=2, multiprocessing_context="fork")
    torch.testing.assert_close(torch.cat([images for images, _ in loader]), expected)
"""


def run(code, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def test_more_files_than_a_process_may_open(tmp_path):
    run(MANY, tmp_path)


FULL = """
    import resource, sys, torch
    from pathlib import Path
    import advkit
    from torch import nn
    from torch.utils.data import TensorDataset
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    data = TensorDataset(torch.rand(8, 3, 32, 32), torch.arange(8) % 10)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    def said(work):
        try:
            work()
        except OSError as error:
            print(error.errno, error)
    said(lambda: advkit.data.generate(advkit.FGSM(net), data, folder / "copy", shard_size=4))
    training = advkit.defenses.AdversarialTraining(advkit.FGSM(net))
    batches, optimizer = [data.tensors], torch.optim.SGD(net.parameters(), 0.1)
    said(lambda: training.fit(net, batches, optimizer, 1, checkpoint=folder / "run.pt"))
    print(sorted(file.name for file in folder.rglob("*")))
"""


def test_a_full_disk_is_named_and_leaves_nothing_half_written(tmp_path):
    copy, checkpoint, left = run(FULL, tmp_path).splitlines()
    assert copy == f"27 [Errno 27] {tmp_path / 'copy' / 'shard-00000.npy'} could not be written: File too large"
    assert checkpoint == f"27 [Errno 27] {tmp_path / 'run.pt'} could not be written: File too large"
    assert left == "['copy', 'manifest.json']"


def test_what_was_written_before_the_disk_was_full_is_gone_on_from(tmp_path, monkeypatch):
    expected = generate(PGD(NET), DATA, **SMALL).images
    written = []

    def full(stream, header):
        written.append(header)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        header_of(stream, header)

    header_of = np.lib.format.write_array_header_1_0
    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(OSError, match=r"shard-00002.npy could not be written: No space left on device"):
        generate(PGD(NET), DATA, tmp_path, **SMALL)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["manifest.json", "shard-00000.npy", "shard-00001.npy"]
    assert torch.equal(generate(PGD(NET), DATA, tmp_path, **SMALL).images, expected)
    assert len(written) == 5


def test_workers_have_it(path):
    data = load(path)
    loader = DataLoader(data, batch_size=7, num_workers=2, multiprocessing_context="fork")
    assert torch.equal(torch.cat([images for images, _ in loader]), data.images)
    assert torch.equal(pickle.loads(pickle.dumps(data)).labels, DATA.tensors[1])
