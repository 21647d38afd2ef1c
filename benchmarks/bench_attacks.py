"""Every attack beside its peers.

The rounds of a contender are interleaved with those of what it is compared to, which is run before each of them: a
peer with advkit, and advkit with its own bare passes. So a machine that slows down slows both.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from statistics import median
from typing import TypeVar

import pytest
import torch
from contests import Contender, Contest, seed
from networks import Scene
from passes import Counted, Replay
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from advkit import norms
from advkit.model import attacking

Result = TypeVar("Result")

MOST_ROUNDS = 25


def bench_attack(
    benchmark: BenchmarkFixture,
    network: str,
    count: int,
    contest: Contest,
    contender: Contender,
    stage: Scene,
    request: pytest.FixtureRequest,
) -> None:
    images, labels = stage.batch(count if contender.most is None else min(count, contender.most))
    counted = Counted(stage.model).eval()
    ours = contest.contenders[0]
    attack = contender.start(counted if contender.slow else stage.model)
    rounds, found = 1, images
    if not contender.slow:
        seed()
        found, seconds = _timed(lambda: contender.start(counted)(images, labels), images)
        rounds = min(MOST_ROUNDS, max(3, int(request.config.getoption("--seconds") / seconds)))
    if contender is ours:
        beside, state = Replay(stage.model, images, list(counted.passes)), partial(attacking, stage.model)
    else:
        beside, state = partial(ours.start(stage.model), images, labels), nullcontext
    besides: list[float] = []

    def before() -> None:
        seed()
        with state():
            besides.append(_timed(beside, images)[1])
        seed()

    benchmark.group = f"{network}, {contest.name}, batch of {count}"
    answer = benchmark.pedantic(lambda: _timed(lambda: attack(images, labels), images), setup=before, rounds=rounds)
    success, size = _judge(contest, stage, images, labels, answer[0] if contender.slow else found)
    benchmark.extra_info.update(
        network=network,
        batch=count,
        attack=contest.name,
        norm=contest.norm,
        library=str(contender),
        images=len(images),
        success=success,
        size=size,
        forwards=sum(each.rows for each in counted.passes) / len(images),
        backwards=sum(each.rows * each.backwards for each in counted.passes) / len(images),
        beside=median(besides),
    )


def _timed(job: Callable[[], Result], images: Tensor) -> tuple[Result, float]:
    """What it returns, and the seconds it takes, to the end of what it left a GPU to do."""
    start = time.perf_counter()
    result = job()
    if images.device.type == "cuda":
        torch.cuda.synchronize(images.device)
    return result, time.perf_counter() - start


def _judge(contest: Contest, stage: Scene, images: Tensor, labels: Tensor, found: Tensor) -> tuple[float, float | None]:
    """The share of successes and their median size, by the same judge for all.

    A success is an image that the model takes for what it should, inside the box and the budget.
    """
    found = found.detach().to(images)
    size = norms.get(contest.norm).distance(found, images)
    with torch.no_grad():
        fooled = contest.success(stage.model(found), labels)
    fooled &= ((found >= -1e-6) & (found <= 1 + 1e-6)).flatten(1).all(1)
    if contest.budget is not None:
        fooled &= size <= contest.budget * (1 + 1e-4)
    return fooled.float().mean().item(), size[fooled].median().item() if fooled.any() else None
