import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import advkit
from advkit import Ensemble, Normalized
from advkit._base import state as state_module
from advkit.errors import InputError, ModelError
from advkit.model import attacking, placement
from contracts.scenes import IMAGE, RowsReader, conv_net, draw, initialised, said_by

IMAGES = draw(4, *IMAGE)


def test_normalized_is_the_normalisation_and_the_network() -> None:
    network = conv_net()
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    expected = network((IMAGES - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1))
    for model in (
        Normalized(network, mean, std),
        Normalized(network, tuple(mean), torch.tensor(std)),
        Normalized(network, torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).double()),
    ):
        torch.testing.assert_close(model(IMAGES), expected)
    torch.testing.assert_close(Normalized(network, 0.5, 0.25)(IMAGES), network((IMAGES - 0.5) / 0.25))
    torch.testing.assert_close(
        Normalized(network, mean, 0.25)(IMAGES), network((IMAGES - torch.tensor(mean).view(3, 1, 1)) / 0.25)
    )


def test_normalized_takes_vectors_and_functions() -> None:
    model = Normalized(lambda x: x * 2, [0.0, 0.5], [1.0, 0.5])
    torch.testing.assert_close(model(torch.tensor([[1.0, 1.0]])), torch.tensor([[2.0, 2.0]]))


def test_normalized_is_saved_and_moved() -> None:
    model = Normalized(conv_net(), [0.4, 0.5, 0.6], 0.25)
    again = Normalized(conv_net(seed=1), [0.0, 0.0, 0.0], 1.0)
    again.load_state_dict(model.state_dict())
    assert again.eval()(IMAGES).equal(model(IMAGES))
    assert pickle.loads(pickle.dumps(model))(IMAGES).equal(model(IMAGES))
    assert model.double()(IMAGES.double()).dtype == torch.float64
    assert "mean=[0.4" in repr(model)


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ([0.1, 0.2, 0.3], [0.1, 0.2], "mean has 3 channels and std has 2"),
        (0.5, 0.0, "std must be positive, got 0.0"),
        (0.5, [0.1, -0.1], "std must be positive"),
        (float("nan"), 1.0, "mean and std must be finite"),
        (0.5, float("inf"), "mean and std must be finite"),
    ],
)
def test_normalized_refuses(mean: object, std: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Normalized(conv_net(), mean, std)


def test_normalized_for_other_images() -> None:
    model = Normalized(conv_net(1), [0.1, 0.2, 0.3], 1.0)
    with pytest.raises(InputError, match=r"a mean and std of 3 channels, and images of shape \(2, 1, 8, 8\) have 1"):
        model(draw(2, 1, 8, 8))


def test_attacking_sets_and_restores() -> None:
    model = conv_net().train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    with torch.inference_mode():
        with attacking(model):
            assert not any(module.training for module in model.modules())
            assert not any(parameter.requires_grad for parameter in model.parameters())
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
        assert torch.is_inference_mode_enabled()
        assert not torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == [True, True, False, True, True, True, True, True]
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, True, True, True, True, True]


def test_attacking_restores_after_an_exception() -> None:
    model = conv_net().train()

    def fail() -> None:
        with attacking(model):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


class Restless(nn.Module):
    """Sets flags of its own layers when it is asked, as Monte Carlo dropout does, and fails."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout()
        self.layer = nn.Linear(192, 4)

    def forward(self, images: Tensor) -> Tensor:
        self.drop.train()
        self.layer.requires_grad_(True)
        raise KeyboardInterrupt


def test_attacking_takes_back_what_the_model_did_to_itself() -> None:
    model = Restless().eval().requires_grad_(False)
    with pytest.raises(KeyboardInterrupt):
        advkit.FGSM(model)(IMAGES, torch.zeros(4, dtype=torch.long))
    assert not model.drop.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_attacking_a_function_only_records_gradients() -> None:
    with torch.no_grad(), attacking(lambda x: x):
        assert torch.is_grad_enabled()


def test_a_model_made_in_inference_mode_is_left_as_it_was() -> None:
    """Its tensors cannot take part in autograd, and their flags cannot be set back outside."""
    with torch.inference_mode():
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).train()
    with attacking(model):
        pass
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        advkit.FGSM(model)(IMAGES, torch.zeros(4, dtype=torch.long))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_recurrent_layers_that_cudnn_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """They stay in training mode with their dropout at zero, which computes what eval mode does."""
    model = initialised(RowsReader())
    labels = said_by(model, IMAGES)
    expected = advkit.MIFGSM(model).run(IMAGES, labels)
    logits = model(IMAGES)
    modes = []
    model.lstm.register_forward_pre_hook(lambda module, _: modes.append((module.training, module.dropout)))
    monkeypatch.setattr(state_module, "_needs_training_mode", lambda module: isinstance(module, nn.RNNBase))
    for training in (False, True):
        model.train(training)
        state = torch.get_rng_state()
        with attacking(model):
            assert model(IMAGES).equal(logits)
        found = advkit.MIFGSM(model).run(IMAGES, labels)
        assert found.images.equal(expected.images)
        assert found.predictions.equal(expected.predictions)
        assert torch.get_rng_state().equal(state)
        assert (model.training, model.lstm.training, model.lstm.dropout) == (training, training, 0.5)
    assert set(modes) == {(True, 0.0)}


def test_recurrent_layers_on_a_cpu_are_in_eval_mode() -> None:
    model = initialised(RowsReader()).train()
    with attacking(model):
        assert not model.lstm.training
        assert model.lstm.dropout == 0.5


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_recurrent_layers_on_cuda() -> None:
    model = initialised(RowsReader())
    labels = said_by(model, IMAGES)
    expected = advkit.FGSM(model)(IMAGES, labels)
    found = advkit.FGSM(model.cuda())(IMAGES, labels)
    assert found.device == IMAGES.device
    assert (found - expected).abs().gt(1e-6).float().mean() < 0.01
    assert not model.lstm.training


def test_placement() -> None:
    assert placement(conv_net()) == (torch.device("cpu"), torch.float32)
    assert placement(conv_net().double()) == (torch.device("cpu"), torch.float64)
    assert placement(nn.Flatten()) == (None, None)
    assert placement(lambda x: x) == (None, None)
    counter = nn.Module()
    counter.register_buffer("count", torch.zeros(1, dtype=torch.long))
    assert placement(counter) == (torch.device("cpu"), None)


class TestEnsemble:
    def test_the_mean_of_what_models_say(self) -> None:
        first, second = conv_net(seed=0), conv_net(seed=1).double()
        images = draw(3, *IMAGE)
        with torch.no_grad():
            logits = torch.stack([first(images).double(), second(images.double())])
            for mean, expected in {
                "logits": logits.mean(0),
                "probabilities": logits.softmax(2).mean(0).log(),
                "log_probabilities": logits.log_softmax(2).mean(0),
            }.items():
                found = Ensemble([first, second], mean)(images)  # type: ignore[arg-type]
                torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)

    def test_the_mean_of_losses(self) -> None:
        models, images, labels = [conv_net(seed=0), conv_net(seed=1)], draw(3, *IMAGE), torch.arange(3)
        together = Ensemble(models, "log_probabilities")(images)
        losses = torch.stack([nn.functional.cross_entropy(model(images), labels, reduction="none") for model in models])
        torch.testing.assert_close(advkit.losses.logit(together, labels), losses.mean(0))

    def test_models_stay_as_they_were(self) -> None:
        first, second = conv_net(seed=0).train(), conv_net(seed=1).eval()
        plain = conv_net(seed=2).train()
        both = Ensemble([Normalized(first, 0.5, 0.5), second, lambda x: plain(x)])
        before = [copy.deepcopy(net.state_dict()) for net in (first, second, plain)]
        advkit.MIFGSM(both)(draw(3, *IMAGE), torch.arange(3))
        assert (first.training, second.training, plain.training) == (True, False, True)
        for net, state in zip((first, second, plain), before, strict=True):
            assert all(p.requires_grad and p.grad is None for p in net.parameters())
            assert all(value.equal(state[name]) for name, value in net.state_dict().items())

    def test_each_has_its_own_normalisation(self) -> None:
        net, images = conv_net(), draw(3, *IMAGE)
        both = Ensemble([Normalized(net, 0.0, 1.0), Normalized(net, 0.5, 0.25)])
        with torch.no_grad():
            torch.testing.assert_close(both(images), (net(images) + net((images - 0.5) / 0.25)) / 2)

    @pytest.mark.parametrize(("answer", "seen"), [(lambda out: (out, out), "tuple of"), (lambda out: None, "NoneType")])
    def test_a_model_that_returns_something_else_is_named(self, answer: Any, seen: str) -> None:
        net, images = conv_net(), draw(2, *IMAGE)
        for models in ([lambda x: answer(net(x))], [net, lambda x: answer(net(x))]):
            with pytest.raises(ModelError, match=f"a model of an Ensemble returned {seen}.*key="):
                advkit.MIFGSM(Ensemble(models))(images, torch.arange(2))

    def test_models_may_come_one_by_one(self) -> None:
        models, images = [conv_net(), conv_net().eval()], draw(2, *IMAGE)
        assert Ensemble(model for model in models)(images).equal(Ensemble(models)(images))

    def test_what_makes_no_ensemble(self) -> None:
        with pytest.raises(InputError, match="models must be one or more, pixels in and logits out; got none"):
            Ensemble([])
        with pytest.raises(InputError, match=r"got \['str'\]"):
            Ensemble(["resnet"])  # type: ignore[list-item]
        with pytest.raises(InputError, match=r"a list of models, such as \[model\]; got Normalized"):
            Ensemble(Normalized(conv_net(), 0.5, 0.5))  # type: ignore[arg-type]
        with pytest.raises(InputError, match="mean must be one of"):
            Ensemble([conv_net()], "losses")  # type: ignore[arg-type]
        with pytest.raises(ModelError, match="same classes"):
            Ensemble([conv_net(classes=3), conv_net(classes=4)])(draw(2, *IMAGE))
