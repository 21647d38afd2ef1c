import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from advkit._data.samples import Choice, Sample, as_labels, check_loader
from advkit.errors import DtypeError, InputError

IMAGES = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([3, 1, 0, 2])
NET = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))


@pytest.mark.parametrize(
    "batch",
    [
        (IMAGES, LABELS.unsqueeze(1)),
        (IMAGES, LABELS.unsqueeze(1).numpy()),
        (IMAGES, LABELS.numpy()),
        {"label": LABELS.unsqueeze(1), "image": IMAGES},
        {"label": LABELS.unsqueeze(1).to(torch.uint8), "image": (IMAGES * 255).byte()},
        {"target": torch.rand(4, 7), "labels": LABELS, "image": IMAGES},
        (IMAGES, {"rest": 1}, LABELS.unsqueeze(1)),
    ],
)
def test_labels_in_a_column_are_labels_and_no_images(batch):
    sample = Sample(batch, batched=True)
    assert torch.equal(sample.labels.long(), LABELS)
    assert sample.images.shape == IMAGES.shape


def test_a_batch_of_one_has_a_column_of_one():
    for label in (LABELS[:1], LABELS[:1].unsqueeze(1), LABELS[0]):
        assert Sample((IMAGES[:1], label), batched=True).labels.tolist() == [3]


@pytest.mark.parametrize(
    "batch", [(IMAGES, torch.eye(4, dtype=torch.int64)), {"x": IMAGES, "label": np.eye(4, dtype=int)}]
)
def test_a_one_hot_code_is_refused(batch):
    with pytest.raises(InputError, match=r"integers of shape \(4, 4\) at sample\[.*give class indices of shape \(N,\)"):
        _ = Sample(batch, batched=True).labels


def test_as_labels():
    assert [as_labels(value).tolist() for value in (3, np.int8(3), np.array([3]), torch.tensor([[3], [4]]))] == [
        3,
        3,
        [3],
        [3, 4],
    ]
    for value in (
        True,
        3.0,
        "3",
        None,
        torch.tensor(3.0),
        torch.tensor(True),
        np.array([0.5]),
        torch.zeros(2, 2).long(),
    ):
        assert as_labels(value) is None
    with torch.device("meta"):
        assert as_labels(3).item() == 3


def test_what_numbers_the_images_is_no_label_and_the_choice_is_kept():
    calls = []
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    net.register_forward_hook(lambda *_: calls.append(1))
    choice = Choice(net)
    numbers = torch.tensor([17, 2, 905, 0])
    for index in (numbers, torch.tensor([0, 1, 2, 3])):  # the second alone could be the label
        sample = Sample((IMAGES, index, LABELS), batched=True, choice=choice)
        assert torch.equal(sample.labels, LABELS)
    assert len(calls) == 1
    # A class too many is no number of an image: it is there twice.
    with pytest.raises(InputError, match=r"not clear which of sample\[1\] and sample\[2\] is the label"):
        _ = Sample((IMAGES, torch.tensor([4, 4, 1, 2]), LABELS), batched=True, choice=Choice(NET)).labels
    with pytest.raises(InputError, match="not clear"):
        _ = Sample((IMAGES, numbers, LABELS), batched=True).labels


def test_a_data_set_is_no_loader():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([(IMAGES, LABELS)])

    data = TensorDataset(IMAGES, LABELS)
    with pytest.raises(
        DtypeError, match=r"the loader is a data set \(TensorDataset\), .*DataLoader\(data, batch_size=64\)"
    ):
        check_loader(data)
    for batches in (DataLoader(data), [(IMAGES, LABELS)], Stream()):
        check_loader(batches)
