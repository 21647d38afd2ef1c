import functools
import re

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from advkit._io.fingerprint import description, differences, digest, fingerprint


class Wrapping(Tensor):
    """A tensor that is distributed, as far as one process can tell: it has no numbers of its own."""

    @staticmethod
    def __new__(cls, inner):
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    def to_local(self):
        return self.inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        def unwrap(value):
            return value.inner if isinstance(value, Wrapping) else value

        return tree_map(
            lambda value: cls(value) if isinstance(value, Tensor) else value,
            func(*tree_map(unwrap, args), **tree_map(unwrap, kwargs or {})),
        )


def test_a_distributed_tensor_is_told_by_what_is_in_it():
    values = torch.arange(6.0).view(2, 3)
    wrapped = Wrapping(values)
    with pytest.raises(RuntimeError):
        wrapped.numpy()
    assert digest(wrapped) == digest(values)
    assert digest(Wrapping(values + 1)) != digest(values)
    net = nn.Linear(3, 2)
    before = fingerprint(net)
    net.weight = nn.Parameter(Wrapping(net.weight.detach()), requires_grad=False)
    assert fingerprint(net) == before


class Net(nn.Module):
    def __init__(self, **attributes):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("mean", torch.zeros(3))
        self.slope, self.act, self._place = 0.1, torch.relu, "cpu"
        for name, value in attributes.items():
            setattr(self, name, value)


class Other(Net):
    pass


def described(kind=Net, **attributes):
    return description(kind(**attributes))


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (described(), described(Other), "class is .*Net there and .*Other here"),
        (described(slope=0.1), described(slope=0.2), "slope is 0.1 there and 0.2 here"),
        (described(_hidden=(1, 2)), described(_hidden=(1, 3)), "_hidden is"),
        (described(scale=torch.ones(2)), described(scale=torch.zeros(2)), "scale is tensor"),
        (described(act=lambda x: x * 2), described(act=lambda x: x * 3), "act is"),
        (
            described(act=functools.partial(torch.clamp, min=0)),
            described(act=functools.partial(torch.clamp, min=1)),
            "a",
        ),
        (described(mean=torch.zeros(3)), described(mean=torch.ones(3)), "mean is"),
        (described(linear=nn.Linear(3, 2)), described(linear=nn.Linear(3, 4)), "linear.weight .size mismatch. is"),
        (described(act=nn.LeakyReLU(0.1)), described(act=nn.LeakyReLU(0.2)), "layers is"),
        (described(act=nn.ReLU()), described(act=nn.Tanh()), "layers is"),
    ],
)
def test_what_is_told_apart(one, other, said):
    found = differences(one, other)
    assert found
    assert any(re.search(said, text) for text in found)


def test_what_is_not():
    scale = 2.0
    assert described() == described()  # of other weights
    assert described(act=lambda x: x * scale) == described(act=lambda x: x * scale)
    assert described(_place="cpu", device=torch.device("cpu")) == described(
        _place="cuda:0", device=torch.device("meta")
    )
    net = Net()
    assert description(net) == description(net.eval().requires_grad_(False))
