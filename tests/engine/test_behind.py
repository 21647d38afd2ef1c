"""The modules behind a callable, however it holds them."""

import functools
from collections import UserDict, defaultdict, deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advkit._base.behind import modules_behind

NET = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
PLACES: dict[str, Any] = {"first": [NET]}


def by_global(images: Tensor) -> Tensor:
    return NET(images)


def by_another_function(images: Tensor) -> Tensor:
    return by_global(images / 2)


def by_closure(network: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda images: network(images)


class Service:
    """An engine of the user's, which has many things, and the network among them."""

    shared = NET

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.parts = SimpleNamespace(nets=[network])

    def predict(self, images: Tensor) -> Tensor:
        return self._run(images)

    def _run(self, images: Tensor) -> Tensor:
        return self.network(images)

    @property
    def engine(self) -> nn.Module:
        return self.network

    @staticmethod
    def static(images: Tensor) -> Tensor:
        return Service.shared(images)

    def __call__(self, images: Tensor) -> Tensor:
        return self.parts.nets[0](images)


class Hiding(nn.Module):
    """A module that keeps its network where modules do not look for submodules."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.held: Any = {"list": [NET], "function": lambda images: NET(images), "global": None}[how]

    def forward(self, images: Tensor) -> Tensor:
        held = self.held[0] if self.how == "list" else self.held or NET
        return held(images)


SERVICE = Service(NET)


@functools.lru_cache
def cached() -> nn.Module:
    return NET


class Slots:
    __slots__ = ("network",)

    def __init__(self) -> None:
        self.network = NET

    def __call__(self, images: Tensor) -> Tensor:
        return self.network(images)


class OfClass:
    """What all objects of a class share, and what one of them makes when it is needed."""

    shared: Any = NET

    @functools.cached_property
    def made(self) -> nn.Module:
        return NET

    def by_class(self, images: Tensor) -> Tensor:
        return self.shared(images)

    def by_cache(self, images: Tensor) -> Tensor:
        return self.made(images)


class ListOfClass(nn.Module):
    networks = [NET]  # noqa: RUF012

    def forward(self, images: Tensor) -> Tensor:
        return self.networks[0](images)


class StaticOfClass(nn.Module):
    network = staticmethod(NET)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def hooked() -> nn.Module:
    module = nn.Identity()
    module.register_forward_hook(lambda module, inputs, output: NET(output))
    return nn.Sequential(module)


QUEUE, DICT, SPACE = deque([NET]), UserDict(network=NET), SimpleNamespace(network=NET)
FACTORY: dict[str, nn.Module] = defaultdict(lambda: NET)
REGISTER: dict[Any, Any] = {**{number: number for number in range(1000)}, "network": NET}
CALLABLES: dict[str, Callable[[Tensor], Tensor]] = {
    "module": NET,
    "global": by_global,
    "another function": by_another_function,
    "lambda": lambda images: NET(images / 255),
    "lambda in a lambda": lambda images: (lambda more: NET(more))(images),
    "closure": by_closure(NET),
    "default": lambda images, network=NET: network(images),
    "method": NET.forward,
    "bound method": SERVICE.predict,
    "object": SERVICE,
    "static method": Service.static,
    "lambda of an object": lambda images: SERVICE.predict(images),
    "lambda of a property": lambda images: SERVICE.engine(images),
    "lambda of a container": lambda images: PLACES["first"][0](images),
    "partial": functools.partial(by_global),
    "partial of the network": functools.partial(lambda network, images: network(images), NET),
    "decorated": torch.no_grad()(by_global),
    "wrapped": functools.wraps(by_global)(lambda images: by_global(images)),
    "vmap": torch.vmap(by_global),
    "compiled function": torch.compile(by_global),
    "compiled module": torch.compile(NET),
    "cache": lambda images: cached()(images),
    "slots": Slots(),
    "class attribute": OfClass().by_class,
    "cached property": OfClass().by_cache,
    "list of a class": ListOfClass(),
    "static attribute": StaticOfClass(),
    "hook": hooked(),
    "deque": lambda images: QUEUE[0](images),
    "UserDict": lambda images: DICT["network"](images),
    "defaultdict": lambda images: FACTORY["any"](images),
    "large register": lambda images: REGISTER["network"](images),
    "getattr": lambda images: getattr(SPACE, "network")(images),  # noqa: B009
    "globals": lambda images: globals()["NET"](images),
    "module with a list": Hiding("list"),
    "module with a function": Hiding("function"),
    "module with a global": Hiding("global"),
    "module in a module": nn.Sequential(Hiding("function")),
}


@pytest.mark.parametrize("name", CALLABLES)
def test_the_network_is_found_wherever_it_is(name: str) -> None:
    found = modules_behind(CALLABLES[name])
    assert len(found) == len({id(module) for module in found})
    for module in NET.modules():
        assert any(module is one for one in found)


def test_what_is_not_asked_is_not_found() -> None:
    other = nn.Linear(1, 1)
    service = Service(NET)
    service.teacher = other  # type: ignore[attr-defined]
    assert not any(one is other for one in modules_behind(service.predict))
    assert modules_behind(lambda images: images * 2) == []
    assert modules_behind(torch.sin) == []


def test_what_goes_round_in_circles_ends() -> None:
    service = Service(NET)
    service.network = service  # type: ignore[assignment]
    service.parts.nets.append(service.parts.nets)
    for model in (service, service.predict):
        assert any(one is NET for one in modules_behind(model))


def test_several_models_are_looked_at_together() -> None:
    other = nn.Linear(4, 2)
    found = modules_behind((by_global, other, by_global))
    assert [module for module in found if module is NET or module is other] == [NET, other]
