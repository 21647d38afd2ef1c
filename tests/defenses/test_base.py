import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import advkit
from advkit import Attack, Defended, Defense
from advkit.defenses import InputTransformation
from advkit.errors import InputError, ModelError
from advkit.model import attacking
from contracts.scenes import Passes, Rounding, Surrogate, Whole, said_by, trained_net

ATTACKS = [advkit.FGSM, advkit.MIFGSM, advkit.PGD, advkit.DeepFool, advkit.CW, advkit.EAD, advkit.SparseL1Descent]
COARSE = {"eps": 0.3, "alpha": 0.05}


class Jitter(InputTransformation):
    stochastic = True

    def forward(self, images: Tensor) -> Tensor:
        return images + 0.1 * torch.randn(images.shape)


class NoisyLogits(Defense):
    stochastic = True
    eot_samples = 7

    def __init__(self) -> None:
        self.calls = 0

    def wrap(self, model: nn.Module) -> nn.Module:
        class Noisy(nn.Module):
            def __init__(self, defense: NoisyLogits) -> None:
                super().__init__()
                self.model = model
                self.defense = defense

            def forward(self, images: Tensor) -> Tensor:
                self.defense.calls += 1
                logits = self.model(images)
                return logits + torch.randn_like(logits)

        return Noisy(self)


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_sees_through_rounding_by_itself(attack: type[Attack]) -> None:
    net, images, labels = trained_net()
    defended = Rounding().wrap(net)
    labels = said_by(defended, images)
    strong = {advkit.FGSM: {"eps": 0.3}, advkit.MIFGSM: COARSE, advkit.PGD: COARSE}.get(attack, {})
    result = attack(defended, **strong).run(images, labels)
    naive = attack(net, **strong).on(defended, adaptive=False).run(images, labels)
    assert result.success.float().mean() > naive.success.float().mean()


def test_the_gradient_of_rounding_is_zero_to_a_naive_attacker_who_does_nothing() -> None:
    net, images, _ = trained_net()
    defended = Rounding().wrap(net)
    result = advkit.MIFGSM(net, eps=0.3).on(defended, adaptive=False).run(images, said_by(defended, images))
    torch.testing.assert_close(result.images, images, rtol=0, atol=0)
    assert not result.success.any()


@pytest.mark.parametrize("around", [nn.Sequential, lambda model: advkit.Normalized(model, 0.0, 1.0)])
def test_the_defense_may_sit_inside_a_larger_model(around: type[nn.Module]) -> None:
    net, images, _ = trained_net()
    defended = Rounding().wrap(net)
    labels = said_by(defended, images)
    whole = around(defended)
    torch.testing.assert_close(advkit.MIFGSM(whole)(images, labels), advkit.MIFGSM(defended)(images, labels))


def test_the_surrogate_answers_as_the_defended_model_does_to_the_bit() -> None:
    net, images, _ = trained_net()
    rounding = Rounding()
    with torch.no_grad():
        assert torch.equal(rounding.surrogate(net)(images), rounding.wrap(net)(images))


def test_a_wrapped_model_is_an_ordinary_module() -> None:
    net, images, _ = trained_net()
    defended = Rounding().wrap(net)
    assert isinstance(defended, Defended)
    assert isinstance(defended.defense, Rounding)
    assert defended.undefended is net
    assert sum(1 for _ in defended.parameters()) == sum(1 for _ in net.parameters())
    assert len(defended.state_dict()) == len(net.state_dict())
    for other in (copy.deepcopy(defended), pickle.loads(pickle.dumps(defended))):
        assert torch.equal(other(images), defended(images))
        parameters = [next(model.parameters()) for model in (other, other.undefended, net)]
        assert parameters[0] is parameters[1] is not parameters[2]
        assert not torch.equal(advkit.FGSM(other)(images, said_by(other, images)), images)


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_gradient_and_no_surrogate_is_an_error_and_not_robustness(attack: type[Attack]) -> None:
    net, images, labels = trained_net()
    defended = Whole().wrap(net)
    passes = Passes(defended)
    with pytest.raises(ModelError, match=r"Whole is not differentiable and has no surrogate.*define its surrogate"):
        attack(passes)(images, labels)
    assert not passes.forwards
    assert torch.equal(advkit.FGSM(net).on(defended, adaptive=False)(images, labels), images)


def test_a_defense_of_the_users_own_says_what_to_differentiate() -> None:
    net, images, labels = trained_net()
    torch.testing.assert_close(
        advkit.MIFGSM(Surrogate().wrap(net))(images, labels), advkit.MIFGSM(net)(images, labels), rtol=0, atol=0
    )


def test_black_box_attacks_ask_the_defended_model_itself() -> None:
    net, images, _ = trained_net()
    defended = Whole().wrap(net)
    labels = said_by(defended, images)
    result = advkit.PixelSwap(defended).run(images, labels)
    assert result.success.any()
    assert torch.equal(said_by(defended, result.images), result.predictions)


def test_random_defenses_are_differentiated_in_the_mean_and_judged_by_vote() -> None:
    net, images, labels = trained_net()
    defense = NoisyLogits()
    defended = defense.wrap(net)
    attack = advkit.MIFGSM(defended, steps=3)
    attack(images, labels)
    assert defense.calls == 3 * 7
    defense.calls = 0
    attack.on(defended, adaptive=False)(images, labels)
    assert defense.calls == 3
    defense.calls = 0
    attack.run(images, labels)
    assert defense.calls == 3 * 7 + 10


def test_the_vote_is_steadier_than_one_draw() -> None:
    class Coin(Defense):
        stochastic = True

        def wrap(self, model: nn.Module) -> nn.Module:
            class Flipping(nn.Module):
                def forward(self, images: Tensor) -> Tensor:
                    says_one = torch.rand(len(images)) < 0.8
                    return nn.functional.one_hot(says_one.long(), 2).float() + 0 * images.flatten(1).sum(1, True)

            return Flipping()

    images, labels = torch.rand(400, 3), torch.ones(400, dtype=torch.int64)
    result = advkit.FGSM(Coin().wrap(nn.Identity()), eps=0.0).run(images, labels)
    assert result.success.float().mean() < 0.1  # one draw says 0.2, and of ten more than half 0.03


def test_random_transformations_are_averaged_and_still_random_while_attacked() -> None:
    net, images, _ = trained_net()
    jitter = Jitter()
    mean = jitter.surrogate(net)
    jitter.eot_samples = 2000
    with torch.no_grad():
        torch.manual_seed(0)
        many = jitter.surrogate(net)(images[:4])
        one_by_one = torch.stack([net(jitter(images[:4])) for _ in range(2000)]).mean(0)
        torch.testing.assert_close(many, one_by_one, atol=0.2, rtol=0)
        assert not torch.equal(mean(images), mean(images))


def test_everything_is_as_it_was_after_an_attack_that_raised() -> None:
    net, images, _ = trained_net()
    defended = Rounding().wrap(net)
    before = defended(images)
    with pytest.raises(RuntimeError, match="half-way"), attacking(defended, adaptive=True):
        raise RuntimeError("half-way")
    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(defended(x).sum(), x)
    assert not gradient.any()
    assert torch.equal(defended(images), before)


def test_inside_an_attack_the_plain_question_gets_the_plain_answer() -> None:
    net, images, _ = trained_net()
    defended = Surrogate().wrap(net)
    plain = defended(images)
    with attacking(defended, adaptive=True):
        assert not torch.equal(defended(images), plain)
        with attacking(defended):
            assert torch.equal(defended(images), plain)
        assert not torch.equal(defended(images), plain)


def test_a_surrogate_of_its_own_modules_is_in_eval_mode_while_it_is_asked() -> None:
    net, images, labels = trained_net()
    seen: list[bool] = []

    class Aside(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(self.training)
            logits: Tensor = net(images)
            return logits

    aside = Aside()

    class With(Whole):
        def surrogate(self, model: nn.Module) -> nn.Module:
            return aside

    advkit.FGSM(With().wrap(net))(images, labels)
    assert seen == [False]
    assert aside.training


def test_a_straight_through_transformation_must_keep_the_shape() -> None:
    class Halved(InputTransformation):
        differentiable = False

        def forward(self, images: Tensor) -> Tensor:
            return images[..., ::2]

    _, images, labels = trained_net()
    with pytest.raises(ModelError, match=r"Halved turns images of shape \(8, 3, 8, 8\) into \(8, 3, 8, 4\)"):
        advkit.FGSM(Halved().wrap(nn.Flatten()))(images, labels)


def test_a_wrap_that_builds_on_another_is_marked_once() -> None:
    class Twice(Rounding):
        def wrap(self, model: nn.Module) -> nn.Module:
            return super().wrap(model)

    net, *_ = trained_net()
    defended = Twice().wrap(net)
    assert isinstance(defended, Defended)
    assert not isinstance(defended.module, Defended)


def test_defenses_that_only_wrap_or_only_train_say_so() -> None:
    with pytest.raises(InputError, match=r"Rounding does not train models, it wraps them: call wrap\(model\)"):
        Rounding().fit(nn.Identity())

    class Trains(Defense):
        def fit(self, model: nn.Module) -> nn.Module:
            return model

    with pytest.raises(InputError, match=r"Trains does not wrap models, it trains them: call fit\(model, ...\)"):
        Trains().wrap(nn.Identity())
