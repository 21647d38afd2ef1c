import copy
import pickle

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, SequentialSampler, TensorDataset

from advkit import FGSM, DeepFool
from advkit.data import AttackedLoader, attacked, generate
from advkit.errors import DtypeError, InputError
from contracts.scenes import draw, flat_net

N = 24
PIXELS, LABELS = draw(N, 3, 2, 2), torch.arange(N) * 7 % 4
NUMBERS = torch.arange(N) + 100
DATA = TensorDataset(PIXELS, LABELS, NUMBERS)
NET = flat_net(12)


def check(loader, numbers):
    """These images come, in any order, and attacked."""
    seen = []
    for images, labels, batch in loader:
        rows = batch - 100
        assert torch.equal(labels, LABELS[rows])
        torch.testing.assert_close(images, FGSM(NET)(PIXELS[rows], LABELS[rows]))
        assert not torch.equal(images, PIXELS[rows])
        seen += rows.tolist()
    assert sorted(seen) == list(numbers)


class Own(DataLoader):
    """A loader with more to it."""

    def __init__(self, data, extra, **settings):
        super().__init__(data, **settings)
        self.extra = extra

    def set_epoch(self, epoch):
        self.extra = epoch


def settings_of(loader):
    names = ("dataset", "sampler", "batch_sampler", "batch_size", "num_workers", "drop_last", "generator", "pin_memory")
    return [getattr(loader, name) for name in names]


def test_is_the_loader_to_those_who_look_at_it():
    plain = Own(DATA, 3, batch_size=5, drop_last=True, generator=torch.Generator())
    loader = attacked(plain, FGSM(NET), p=0.5, labels=1)
    assert isinstance(loader, AttackedLoader)
    assert isinstance(loader, Own)
    assert settings_of(loader) == settings_of(plain)
    assert (len(loader), loader.extra, loader.p, loader.labels) == (4, 3, 0.5, 1)
    loader.set_epoch(7)
    assert loader.extra == loader.loader.extra == 7
    assert plain.extra == 3
    with pytest.raises(ValueError, match="should not be set"):
        loader.batch_size = 3


@pytest.mark.parametrize("rank", [0, 1])
def test_made_anew_by_its_class_it_attacks(rank):
    """As Lightning does it, with what it finds among the attributes."""
    loader = attacked(Own(DATA, 3, batch_size=5, shuffle=True), FGSM(NET))
    mine = DistributedSampler(DATA, 2, rank)
    attributes = {name: value for name, value in vars(loader).items() if not name.startswith("_")}
    again = type(loader)(DATA, attributes["extra"], sampler=mine, batch_size=5, collate_fn=attributes["collate_fn"])
    assert isinstance(again, AttackedLoader)
    check(again, sorted(mine))
    by_parts = type(loader)(DATA, 3, sampler=mine, batch_size=5, collate_fn=loader.collate_fn)
    check(by_parts, sorted(mine))  # and attacks once


def test_made_anew_of_its_parts_it_attacks():
    """As accelerate and others do it."""
    loader = attacked(DataLoader(DATA, batch_size=5), FGSM(NET))
    half = BatchSampler(range(0, N, 2), 5, False)
    check(DataLoader(loader.dataset, batch_sampler=half, collate_fn=loader.collate_fn), range(0, N, 2))
    check(DataLoader(loader.dataset, batch_sampler=loader.batch_sampler, collate_fn=loader.collate_fn), range(N))


def test_an_old_copy_of_the_model_is_not_attacked():
    loader = attacked(DataLoader(DATA, batch_size=5, num_workers=1, multiprocessing_context="fork"), FGSM(NET))
    check(loader, range(N))  # its own workers only load
    of_parts = DataLoader(DATA, 5, collate_fn=loader.collate_fn, num_workers=1, multiprocessing_context="fork")
    with pytest.raises(InputError, match=r"attacks in its workers.*attacked\(prepared, attack\)"):
        next(iter(of_parts))


def test_goes_through_persistent_workers_again_and_again():
    plain = DataLoader(DATA, 5, num_workers=1, persistent_workers=True, multiprocessing_context="fork")
    loader = attacked(plain, FGSM(NET))
    for _ in range(2):
        check(loader, range(N))
        assert len(list(plain)) == 5


def test_the_same_shuffling():
    orders = []
    for wrap in (lambda loader: loader, lambda loader: attacked(loader, FGSM(NET))):
        loader = wrap(DataLoader(DATA, 5, shuffle=True, generator=torch.Generator().manual_seed(3)))
        orders.append([batch[2].tolist() for _ in range(2) for batch in loader])
    assert orders[0] == orders[1]
    assert orders[0][:5] != orders[0][5:]


def test_pickles_and_copies():
    loader = attacked(DataLoader(DATA, 5), FGSM(NET), labels=1)
    for other in (pickle.loads(pickle.dumps(loader)), copy.deepcopy(loader), copy.copy(loader)):
        assert isinstance(other, DataLoader)
        assert other.labels == 1
        check(other, range(N))


def test_attacked_twice_is_attacked_by_both():
    first, second = FGSM(NET, eps=0.1), FGSM(NET, eps=0.03)
    loader = attacked(attacked(DataLoader(DATA, N), first), second)
    expected = second(first(PIXELS, LABELS), LABELS)
    assert torch.equal(next(iter(loader))[0], expected)
    assert torch.equal(next(iter(DataLoader(DATA, N, collate_fn=loader.collate_fn)))[0], expected)


def test_what_is_no_data_loader_stays_what_it_is():
    class Batches(list):
        dataset, sampler = DATA, SequentialSampler(DATA)

        def set_epoch(self, epoch):
            self.epoch = epoch

    batches = Batches([(PIXELS, LABELS)])
    loader = attacked(batches, FGSM(NET))
    assert not isinstance(loader, DataLoader)
    assert (len(loader), loader.dataset) == (1, DATA)
    loader.set_epoch(2)
    assert batches.epoch == 2
    assert not hasattr(loader, "batch_sampler")
    assert torch.equal(next(iter(copy.copy(loader)))[0], FGSM(NET)(PIXELS, LABELS))
    assert torch.equal(next(iter(pickle.loads(pickle.dumps(attacked([(PIXELS, LABELS)], FGSM(NET))))))[1], LABELS)


def test_labels_are_where_they_are_said_to_be():
    small = torch.arange(N) % 3  # which could be labels
    batches = [(PIXELS, small, LABELS)]
    with pytest.raises(InputError, match=r"not clear which of sample\[1\] and sample\[2\] is the label"):
        next(iter(attacked(batches, FGSM(NET))))
    for labels in (2, -1, lambda batch: batch[2]):
        (found,) = attacked(batches, FGSM(NET), labels=labels)
        assert torch.equal(found[0], FGSM(NET)(PIXELS, LABELS))
        assert found[1] is small
    (found,) = attacked(batches, FGSM(NET), labels=1)
    assert torch.equal(found[0], FGSM(NET)(PIXELS, small))


def test_wherever_the_default_device_is():
    loader = attacked([(PIXELS, LABELS)], FGSM(NET), p=0.5)
    found = []
    for device in ("cpu", "meta"):
        torch.manual_seed(0)
        with torch.device(device):
            found.append(next(iter(loader))[0])
    assert torch.equal(*found)


def test_errors():
    with pytest.raises(DtypeError, match=r"the loader is a data set \(TensorDataset\)"):
        attacked(DATA, FGSM(NET))
    with pytest.raises(DtypeError, match="labels must be the key or the index"):
        attacked([], FGSM(NET), labels=[1])
    with pytest.raises(InputError, match="this loader yields attacked ones; pass the loader it was made from"):
        generate(FGSM(NET), attacked(DataLoader(DATA), DeepFool(NET)))
