"""On a GPU, what is promised elsewhere too, and what only a GPU can break.

pytest -m cuda                                   # where there is one
ADVKIT_TEST_DEVICE=cpu pytest -m cuda            # a rehearsal: the same tests on the CPU
"""

import copy
import dataclasses
import itertools
import os
import pickle
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import advkit
from advkit.errors import AdvkitWarning, InputError, ModelError
from contracts.cases import CASES, Case, each
from contracts.defense_cases import DefenseCase, each_defense
from contracts.scenes import (
    IMAGE,
    Passes,
    RowsReader,
    conv_net,
    draw,
    easy_images,
    initialised,
    judge,
    linear_net,
    said_by,
    trained_net,
)
from contracts.waits import host_waits

NAME = os.environ.get("ADVKIT_TEST_DEVICE", "cuda")
DEVICE = torch.device(NAME, 0) if NAME != "cpu" else torch.device("cpu")
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(NAME == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
needs_gpu = pytest.mark.skipif(NAME == "cpu", reason="a CPU has nothing of the kind")


def there(model: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A copy of a model on the GPU."""
    return copy.deepcopy(model).to(DEVICE, dtype)


@each()
@pytest.mark.parametrize("targeted", [False, True])
def test_images_on_the_cpu_come_back_to_it(case: Case, targeted: bool) -> None:
    """And what is found is as good as what the CPU finds."""
    if targeted and not case.targetable:
        pytest.skip("takes no targets")
    model = linear_net(offset=0.5).double()  # so that a rounding decides no step
    images, labels = easy_images(model)
    targets = (labels + 1) % 3 if targeted else None
    expected = case.make(model).run(images, labels, targets=targets)
    found = case.make(there(model, torch.float64)).run(images, labels, targets=targets)
    judge(case, found, images, labels, model=model, targets=targets)
    if case.deterministic:
        assert found.success.equal(expected.success)
    if case.deterministic and case.name != "SparseL1Descent":  # to which a pixel at a bound, less a rounding, is free
        assert ((found.images - expected.images).abs() > 1e-4).float().mean() < 0.02


@each()
def test_images_on_the_gpu_stay_there(case: Case) -> None:
    model, images, labels = trained_net()
    model, images, labels = there(model), images.to(DEVICE), labels.to(DEVICE)
    judge(case, case.make(model).run(images, labels), images, labels, model=model)


@each(lambda case: case.needs_gradient)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_models_of_other_precision(case: Case, dtype: torch.dtype) -> None:
    model, images, labels = trained_net()
    reference = case.make(model).run(images, labels)
    model = there(model, dtype)
    found = case.make(model).run(images.to(DEVICE), labels.to(DEVICE))
    assert found.images.dtype == images.dtype
    assert found.success.sum() >= reference.success.sum() - 1


@each(lambda case: case.needs_gradient)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_images_of_16_bits(case: Case, dtype: torch.dtype) -> None:
    model, images, labels = trained_net()
    model, images = there(model, dtype), images.to(DEVICE, dtype)
    labels = said_by(model, images)
    judge(case, case.make(model).run(images, labels), images, labels, model=model)


@each(lambda case: case.needs_gradient)
@pytest.mark.parametrize("autocast", [torch.bfloat16])
def test_autocast(case: Case, autocast: torch.dtype) -> None:
    model, images, labels = trained_net()
    exact = case.make(model).run(images, labels)
    model, images, labels = there(model), images.to(DEVICE), labels.to(DEVICE)
    found = case.make(model, autocast=autocast).run(images, labels)
    judge(case, found, images, labels, model=model)
    assert found.success.sum() >= exact.success.sum() - 1


@each(lambda case: case.needs_gradient)
def test_channels_last(case: Case) -> None:
    model = there(conv_net()).to(memory_format=torch.channels_last)
    images = draw(4, *IMAGE).to(DEVICE).to(memory_format=torch.channels_last)
    labels = said_by(model, images)
    judge(case, case.make(model).run(images, labels), images, labels, model=model)


@each(lambda case: case.needs_gradient)
@pytest.mark.parametrize("training", [False, True])
def test_recurrent_layers(case: Case, training: bool) -> None:
    """cuDNN refuses their backward in eval mode."""
    model = there(initialised(RowsReader()))
    images = draw(4, *IMAGE).to(DEVICE)
    labels = said_by(model, images)
    model.train(training)
    found = case.make(model)(images, labels)
    assert found.isfinite().all()
    assert (model.training, model.lstm.training, model.lstm.dropout) == (training, training, 0.5)


@each(lambda case: not case.deterministic)
@pytest.mark.parametrize("place", ["cpu", "there"])
def test_the_generator_says_what_is_drawn(case: Case, place: str) -> None:
    """Wherever it is, and whatever else has been drawn on the device."""
    model, images, labels = trained_net()
    model, images, labels = there(model), images.to(DEVICE), labels.to(DEVICE)
    found = []
    for _ in range(2):
        generator = torch.Generator(DEVICE if place == "there" else "cpu").manual_seed(3)
        torch.rand(7, device=DEVICE)
        found.append(case.make(model, generator=generator)(images, labels))
    torch.testing.assert_close(found[0], found[1])


@each()
def test_an_empty_batch(case: Case) -> None:
    model = there(linear_net())
    found = case.make(model)(torch.rand(0, *IMAGE, device=DEVICE), torch.zeros(0, dtype=torch.long, device=DEVICE))
    assert (found.shape, found.device) == ((0, *IMAGE), DEVICE)


@each(lambda case: case.deterministic)
def test_the_default_device_is_not_in_the_way(case: Case) -> None:
    model = linear_net(offset=0.5)
    images, labels = easy_images(model)
    expected = case.make(model)(images, labels)
    before = torch.get_default_device()
    torch.set_default_device(DEVICE)
    try:
        found = case.make(model)(images, labels)
    finally:
        torch.set_default_device(before)
    assert found.equal(expected)


def spread() -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model, and images that fall one after the other."""
    model = linear_net(offset=0.5)
    images = draw(1024, *IMAGE, seed=2, low=0.1, high=0.9)
    with torch.no_grad():
        logits = model(images)
    top = logits.topk(2).values
    order = (top[:, 0] - top[:, 1]).argsort()[::16]
    return there(model), images[order].to(DEVICE), logits[order].argmax(1).to(DEVICE)


@needs_gpu
@pytest.mark.parametrize("make", [advkit.PGD, advkit.MIFGSM, advkit.SparseL1Descent, advkit.DeepFool, advkit.CW])
def test_batches_shrink_by_halves(make: type[advkit.Attack]) -> None:
    """So that shapes are few: kernels are chosen, and graphs captured, for each."""
    model, images, labels = spread()
    counted = Passes(model)
    known = {field for field in ("early_stop",) if field in make.__dataclass_fields__}
    result = make(counted, **dict.fromkeys(known, True)).run(images, labels)
    rows = [count for count in counted.forwards if count]
    assert result.success.any()
    assert len(set(rows)) <= len(images).bit_length()


@needs_gpu
def test_a_side_stream() -> None:
    """What is found there is what the default stream finds, with nothing but its own stream waited for."""
    model, images, labels = trained_net()
    model, images, labels = there(model), images.to(DEVICE), labels.to(DEVICE)
    attacks = [case.make(model) for case in CASES if case.deterministic]
    expected = [attack(images, labels) for attack in attacks]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        found = [attack(images, labels) for attack in attacks]
    torch.cuda.current_stream().wait_stream(side)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@needs_gpu
def test_two_streams_in_two_threads() -> None:
    model, images, labels = trained_net()
    models = [there(model), there(model)]
    expected = advkit.MIFGSM(models[0])(images, labels)
    torch.cuda.synchronize()
    found: dict[int, Tensor] = {}

    def attack(number: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(5):
                found[number] = advkit.MIFGSM(models[number])(images, labels)

    threads = [threading.Thread(target=attack, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in (found[0], found[1]):
        torch.testing.assert_close(one, expected)


def synchronisations(attack: advkit.Attack, images: Tensor, labels: Tensor) -> int:
    """How often the host waits for the device in a call."""
    attack(images, labels)
    return host_waits(lambda: attack(images, labels))


@needs_gpu
@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (advkit.IFGSM, {}),
        (advkit.MIFGSM, {}),
        (advkit.PGD, {"random_start": False}),
        (advkit.PGD, {"norm": "l2", "eps": 1.0, "alpha": 0.2}),
        (advkit.SparseL1Descent, {}),
    ],
)
def test_no_step_waits_for_the_device(make: type[advkit.Attack], settings: dict[str, Any]) -> None:
    model, images, labels = trained_net()
    model, images, labels = there(model), images.to(DEVICE), labels.to(DEVICE)
    few, many = (synchronisations(make(model, **settings, steps=steps), images, labels) for steps in (3, 23))
    assert few == many


@needs_gpu
def test_a_call_waits_for_the_device_a_handful_of_times() -> None:
    """For the checks of the caller's images and labels, of the first answer, and of what was watched."""
    model, images, labels = trained_net()
    model, images, labels = there(model), images.to(DEVICE), labels.to(DEVICE)
    assert synchronisations(advkit.MIFGSM(model), images, labels) <= 9


@each_defense()
def test_defenses(case: DefenseCase) -> None:
    model, images, labels = trained_net()
    model, images, labels = there(model), images.to(DEVICE), labels.to(DEVICE)
    wrapped = case.make().wrap(model)
    assert wrapped(images).device == DEVICE
    result = advkit.PGD(wrapped, eps=0.1, alpha=0.05, steps=3).run(images, labels)
    assert result.images.device == DEVICE
    assert result.distance("linf").max() <= 0.1 + 1e-6


@pytest.mark.parametrize("pinned", [False, True])
def test_evaluate(pinned: bool) -> None:
    model, images, labels = trained_net()
    attacks = [advkit.PGD(model, eps=0.2, alpha=0.05, random_start=False), advkit.DeepFool(model)]
    expected = advkit.evaluate(model, [(images, labels)], attacks, progress=False)
    model = there(model)
    loader = DataLoader(TensorDataset(images, labels), batch_size=4, pin_memory=pinned and NAME == "cuda")
    found = advkit.evaluate(model, loader, [attack.on(model) for attack in attacks], progress=False)
    assert [score.accuracy for score in found.scores] == [score.accuracy for score in expected.scores]


@needs_gpu
def test_a_model_that_runs_out_of_memory_says_so_and_leaves_everything_as_it_was() -> None:
    class Greedy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(192, 4)
            self.calls = 0

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            if self.calls > 2:
                torch.empty(1 << 45, dtype=torch.uint8, device=images.device)
            logits: Tensor = self.inner(images.flatten(1))
            return logits

    model = Greedy().to(DEVICE).train()
    images, labels = draw(4, *IMAGE).to(DEVICE), torch.zeros(4, dtype=torch.long)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        advkit.PGD(model)(images, labels)
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def of_pixels(dataset: Any) -> tuple[Tensor, Tensor]:
    """A batch from a loader with two workers."""
    images, labels = next(iter(dataset))
    return images, labels


@needs_gpu
def test_a_transform_in_a_forked_worker_says_what_to_do() -> None:
    model, images, labels = trained_net()
    torch.zeros(1, device=DEVICE)  # a process that has used the GPU

    class Attacked(TensorDataset):
        def __init__(self, transform: Any) -> None:
            super().__init__(images, labels)
            self.transform = transform

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            return self.transform(images[index]), labels[index]

    transform = advkit.FGSMTransform(there(model), eps=0.1)
    loader = DataLoader(Attacked(transform), batch_size=4, num_workers=2, multiprocessing_context="fork")
    with pytest.raises(Exception, match=r"(?i)worker"):
        of_pixels(loader)


def test_an_infinite_gradient() -> None:
    class Root(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: Tensor) -> Tensor:
            return self.inner(images.sqrt())

    model, images, labels = trained_net()
    model = there(Root(model))
    images = images.to(DEVICE)
    images[:, 0, 0, 0] = 0
    labels = said_by(model, images)
    with pytest.warns(AdvkitWarning, match="infinite"):
        found = advkit.PGD(model, eps=0.2, alpha=0.05, random_start=False).run(images, labels)
    assert found.success.any()


@needs_gpu
@pytest.mark.parametrize("how", ["trace", "compile"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of torch's own
def test_compiled_models(how: str) -> None:
    model, images, labels = trained_net()
    model, images, labels = there(model), images.to(DEVICE), labels.to(DEVICE)
    expected = advkit.MIFGSM(model)(images, labels)
    compiled: Any = torch.compile(model) if how == "compile" else torch.jit.trace(model, images)
    found = advkit.MIFGSM(compiled)(images, labels)
    assert ((found - expected).abs() > 1e-4).float().mean() < 0.02


RECORDED = [
    case for case in CASES if case.needs_gradient and not case.make(linear_net()).stops_at_success and case.budget
]


def recorded(attack: advkit.Attack) -> advkit.Attack:
    """Compiled; on a CPU that would wait for a compiler, and it has no graphs."""
    return attack.compile() if DEVICE.type == "cuda" else dataclasses.replace(attack, compiled=True)


def compiled(case: Case, model: nn.Module, **overrides: Any) -> advkit.Attack:
    """Its searches are recorded at the second batch of a shape, and played from the third on."""
    return recorded(case.make(model, generator=None, **overrides))


@pytest.mark.parametrize("case", RECORDED, ids=str)
def test_what_is_recorded_finds_what_the_attack_finds(case: Case) -> None:
    model, images, labels = trained_net()
    model, images, labels = there(model), images.to(DEVICE), labels.to(DEVICE)
    attack, plain = compiled(case, model), case.make(model, generator=None)
    for turn in range(4):
        shown, said = images.roll(turn, 0), labels.roll(turn, 0)
        result = attack.run(shown, said)
        judge(case, result, shown, said, model=model)
        if case.deterministic:
            torch.testing.assert_close(result.images, plain(shown, said))
        else:
            assert result.success.sum() >= plain.run(shown, said).success.sum() - 2


@pytest.mark.parametrize("case", [case for case in RECORDED if case.per_row], ids=str)
def test_what_is_recorded_takes_values_of_each_image(case: Case) -> None:
    model, images, labels = trained_net()
    model, images, labels = there(model), images.to(DEVICE), labels.to(DEVICE)
    for eps in (0.1, 0.05, 0.2, 0.0):
        size = torch.linspace(0, eps * (case.budget or 1), len(images), device=DEVICE)
        attack = compiled(case, model, eps=size)
        for _ in range(3):
            distance = attack.run(images, labels).distance(case.norm)
            assert (distance <= size + 1e-5 * size.amax().clamp_min(1)).all()


def test_what_is_recorded_follows_the_weights() -> None:
    """Those that are trained in place, and those that are other tensors."""
    model, images, labels = trained_net()
    model, images, labels = there(model), images.to(DEVICE), labels.to(DEVICE)
    attack = recorded(advkit.MIFGSM(model))
    for turn in range(6):
        for parameter in model.parameters():
            if turn % 2:
                parameter.data = parameter.data + 0.1 * torch.randn_like(parameter)
            else:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
        for _ in range(3):
            torch.testing.assert_close(attack(images, labels), advkit.MIFGSM(model)(images, labels))


def test_what_is_recorded_is_that_attacks_alone() -> None:
    model, images, labels = trained_net()
    model, images, labels = there(model), images.to(DEVICE), labels.to(DEVICE)
    attack = recorded(advkit.IFGSM(model, eps=0.1, alpha=0.05))
    for _ in range(3):
        attack(images, labels)
    other = dataclasses.replace(attack, eps=0.02)
    for _ in range(3):
        assert other.run(images, labels).distance("linf").max() <= 0.02 + 1e-6
        assert attack.run(images, labels).distance("linf").max() > 0.05
    assert pickle.loads(pickle.dumps(attack))(images, labels).equal(attack(images, labels))


def test_draws_differ_from_one_play_to_the_next() -> None:
    model, images, labels = trained_net()
    model, images, labels = there(model), images.to(DEVICE), labels.to(DEVICE)
    for generator in (None, torch.Generator(DEVICE).manual_seed(0)):
        attack = recorded(advkit.PGD(model, eps=0.1, alpha=1e-4, steps=2, generator=generator))
        found = [attack(images, labels) for _ in range(5)]
        assert all(not one.equal(other) for one, other in itertools.combinations(found, 2))


def test_wrong_labels_are_found_out_when_it_is_played() -> None:
    model, images, labels = trained_net()
    model, images, labels = there(model), images.to(DEVICE), labels.to(DEVICE)
    attack = recorded(advkit.MIFGSM(model))
    for _ in range(3):
        attack(images, labels)
    with pytest.raises(InputError, match=r"labels must lie in \[0, 4\)"):
        attack(images, labels + 3)


def test_a_model_that_turns_to_nan_is_found_out_when_it_is_played() -> None:
    model, images, labels = trained_net()
    model, images, labels = there(model), images.to(DEVICE), labels.to(DEVICE)
    attack = recorded(advkit.MIFGSM(model))
    for _ in range(3):
        attack(images, labels)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(ModelError, match="NaN logits"):
        attack(images, labels)


class Turning(nn.Module):
    """Another model at every other call."""

    def __init__(self, inner: nn.Module, how: str) -> None:
        super().__init__()
        self.inner, self.how, self.calls = inner, how, 0

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images)
        self.calls += 1
        if self.how == "waits":
            return logits if float(logits.detach().sum()) else -logits
        return logits if self.calls < 25 else -logits


@needs_gpu
@pytest.mark.parametrize(("how", "why"), [("waits", "cannot be recorded"), ("turns", "is not deterministic")])
def test_what_cannot_be_recorded_says_so_and_runs(how: str, why: str) -> None:
    model, images, labels = trained_net()
    model, images, labels = Turning(there(model), how).to(DEVICE).eval(), images.to(DEVICE), labels.to(DEVICE)
    attack = advkit.MIFGSM(model, eps=0.1, alpha=0.02).compile()
    attack(images, labels)
    with pytest.warns(AdvkitWarning, match=why):
        attack(images, labels)
    model.calls = -1000
    torch.testing.assert_close(attack(images, labels), advkit.MIFGSM(model, eps=0.1, alpha=0.02)(images, labels))
