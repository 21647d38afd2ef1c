"""The recipes of papers, each against its authors' formulas and a loop written out here."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import advkit
from advkit.defenses import AWP, MART, TRADES, AdversarialTraining, FastTraining, FreeTraining, TrainingDefense
from advkit.defenses.training import Batch
from advkit.defenses.training.network import Network
from advkit.errors import AdvkitWarning, DtypeError, InputError
from contracts.scenes import conv_net, draw, flat_net

EPS = 8 / 255
LABELS = torch.arange(10) % 4
DATA = TensorDataset(draw(10, 3, 8, 8), LABELS)


class Recorded(nn.Module):
    """Answers with recorded logits, one after the other."""

    def __init__(self, *answers: Tensor) -> None:
        super().__init__()
        self.answers = [nn.Parameter(answer) for answer in answers]

    def forward(self, images: Tensor) -> Tensor:
        self.answers.append(self.answers.pop(0))
        return self.answers[-1]


def recorded(count: int = 9, classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    clean, attacked = 8 * draw(2, count, classes, seed=3).double() - 4
    return clean, attacked, torch.arange(count) % classes


def trades(clean: Tensor, attacked: Tensor, labels: Tensor) -> Tensor:
    """Zhang et al. 2019, eq. (5), with the cross-entropy and the divergence spelled out."""
    p, q = clean.exp() / clean.exp().sum(1, keepdim=True), attacked.exp() / attacked.exp().sum(1, keepdim=True)
    natural = -p[torch.arange(len(p)), labels].log().mean()
    return natural + 6 * (p * (p.log() - q.log())).sum(1).mean()


def mart(clean: Tensor, attacked: Tensor, labels: Tensor) -> Tensor:
    """Wang et al. 2020, eq. (11) with (8) and (9), and 1.0001 for 1 in the logarithm as in the authors' code."""
    total = torch.zeros((), dtype=clean.dtype)
    for row in range(len(clean)):
        p, q = clean[row].softmax(0), attacked[row].softmax(0)
        label = int(labels[row])
        wrong = max(q[other] for other in range(len(q)) if other != label)
        divergence = sum(p[k] * (p[k].log() - q[k].log()) for k in range(len(p)))
        total = total - q[label].log() - (1.0001 - wrong).log() + 6 * divergence * (1 - p[label])
    return total / len(clean)


@pytest.mark.parametrize(("recipe", "formula"), [(TRADES(), trades), (MART(), mart)])
def test_the_loss_is_the_authors(recipe: TRADES | MART, formula) -> None:
    clean, attacked, labels = recorded()
    network = Network(Recorded(clean, attacked))
    images = torch.zeros(len(labels), 3, dtype=torch.float64)
    loss = recipe.loss_on(network, Batch(images, labels), images)
    inputs = clean.clone().requires_grad_(), attacked.clone().requires_grad_()
    expected = formula(*inputs, labels)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
    found = torch.autograd.grad(loss, network.model.answers)
    for one, other in zip(found, torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def signed(model: nn.Module, x: Tensor, loss) -> Tensor:
    """The sign of the gradient of a loss of logits at x."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(loss(model(x)), x)[0].sign()


@pytest.mark.parametrize("recipe", [TRADES, MART])
def test_the_attack_is_the_authors(recipe: type[TRADES | MART]) -> None:
    model, (images, labels) = flat_net(192).double().eval(), (DATA.tensors[0].double(), LABELS)
    defense = recipe(generator=torch.Generator().manual_seed(1))
    found = defense.attacked(Network(model), Batch(images, labels))
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    p = model(images).detach().softmax(1)

    def climbed(logits: Tensor) -> Tensor:
        if recipe is MART:
            return F.cross_entropy(logits, labels)
        return (p * (p.log() - logits.log_softmax(1))).sum()

    x = images + 0.001 * noise
    for _ in range(10):
        x = x + 0.007 * signed(model, x, climbed)
        x = torch.minimum(torch.maximum(x, images - 0.031), images + 0.031).clamp(0, 1)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-12)


def recipes() -> dict[str, TrainingDefense]:
    pgd = AdversarialTraining(advkit.PGD(nn.Identity(), steps=2), clean_ratio=0)
    return {
        "TRADES": TRADES(steps=2),
        "MART": MART(steps=2),
        "PGD + AWP": AWP(pgd),
        "TRADES + AWP": AWP(TRADES(steps=2), gamma=0.005, warmup=1),
        "Free": FreeTraining(replays=3),
        "Fast": FastTraining(guard=None),
        "N-FGSM": FastTraining.n_fgsm(guard=1.0),
        "GradAlign": FastTraining(grad_align=0.2, guard=None),
    }


RECIPES = list(recipes())


class Answers(nn.Module):
    """A model, and how often it answered, and how often an answer was differentiated."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forwards, self.backwards = model, 0, 0

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        self.forwards += 1
        if logits.requires_grad:
            logits.register_hook(self.differentiated)
        return logits

    def differentiated(self, gradient: Tensor) -> None:
        self.backwards += 1


@pytest.mark.parametrize(
    ("name", "forwards", "backwards"),
    [
        ("TRADES", 5, 4),
        ("MART", 4, 4),
        ("PGD + AWP", 4, 4),
        ("Free", 3, 3),
        ("Fast", 2, 2),
    ],
)
def test_the_passes_are_those_of_the_recipe(name: str, forwards: int, backwards: int) -> None:
    """Two for each step of the attack and for learning; TRADES learns from two, and asks once for the clean answer."""
    model = Answers(flat_net(192))
    recipes()[name].fit(model, DataLoader(DATA, 10), torch.optim.SGD(model.parameters(), 0.1), 1)
    assert (model.forwards, model.backwards) == (forwards, backwards)


def test_awp_learns_at_worse_weights_and_steps_from_its_own() -> None:
    model, by_hand = flat_net(192).double(), flat_net(192).double()
    images, labels = DATA.tensors[0].double(), LABELS
    inner = AdversarialTraining(advkit.FGSM(model, eps=EPS), clean_ratio=0)
    AWP(inner, gamma=0.3).fit(model, [(images, labels)], torch.optim.SGD(model.parameters(), 0.5), 1)

    adversarials = (images + EPS * signed(by_hand, images, lambda logits: F.cross_entropy(logits, labels))).clamp(0, 1)
    weights = dict(by_hand.named_parameters())
    loss = F.cross_entropy(by_hand(adversarials), labels)
    slopes = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    moved = {
        name: weight.detach() + (0.3 * weight.norm() * slopes[name] / slopes[name].norm() if weight.ndim > 1 else 0)
        for name, weight in weights.items()
    }
    moved = {name: weight.detach().requires_grad_() for name, weight in moved.items()}
    worse = F.cross_entropy(torch.func.functional_call(by_hand, moved, (adversarials,)), labels)
    assert worse > 1.05 * loss
    for name, gradient in zip(moved, torch.autograd.grad(worse, list(moved.values())), strict=True):
        expected = weights[name].detach() - 0.5 * gradient
        torch.testing.assert_close(model.get_parameter(name).detach(), expected, rtol=0, atol=1e-12)


def test_the_weights_of_awp_come_back_to_the_bit_and_statistics_see_nothing_of_it() -> None:
    model, plain = conv_net().train(), conv_net().train()
    model[3].p = plain[3].p = 0.0  # dropout
    recipe = AdversarialTraining(advkit.FGSM(model), clean_ratio=0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    network, batch = Network(model), Batch(*DATA.tensors)
    around = AWP(recipe, gamma=0.37).around(network, batch)
    given = around.__enter__()
    assert given.adversarials.shape == batch.images.shape
    assert not torch.equal(model[0].weight, before["0.weight"])
    assert torch.equal(model[0].bias, before["0.bias"])
    assert around.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None) in (False, None)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    for one, defense in ((model, AWP(recipe, gamma=0.0)), (plain, recipe)):
        defense.fit(one, DataLoader(DATA, 5), torch.optim.SGD(one.parameters(), 0.1), 1)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, plain.state_dict()[name]), name


def test_awp_begins_after_its_warmup() -> None:
    plain, warm = (flat_net(192) for _ in range(2))
    recipe = AdversarialTraining(advkit.FGSM(plain), clean_ratio=0)
    optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in (plain, warm)]
    recipe.fit(plain, DataLoader(DATA, 5), optimizers[0], 1)
    defense = AWP(recipe, gamma=0.5, warmup=1)
    defense.fit(warm, DataLoader(DATA, 5), optimizers[1], 1)
    assert torch.equal(plain[1].weight, warm[1].weight)
    defense.fit(warm, DataLoader(DATA, 5), optimizers[1], 2)
    recipe.fit(plain, DataLoader(DATA, 5), optimizers[0], 2)
    assert not torch.equal(plain[1].weight, warm[1].weight)


def test_free_training_is_the_authors_loop() -> None:
    """The perturbation goes on from replay to replay, from batch to batch, and to one that is smaller."""
    model, by_hand = flat_net(192).double(), flat_net(192).double()
    images, labels = DATA.tensors[0].double(), LABELS
    images[:, :, :3] = images[:, :, :3].round()  # black and white, where the gradient stops at the bounds
    batches = [(images[:4], labels[:4]), (images[4:8], labels[4:8]), (images[8:], labels[8:])]
    FreeTraining(eps=EPS, replays=3).fit(model, batches, torch.optim.SGD(model.parameters(), 0.1), 2)
    delta = torch.zeros(4, 3, 8, 8, dtype=torch.float64)
    for x, y in batches * 2:
        for _ in range(3):
            noise = delta[: len(x)].clone().requires_grad_()
            loss = F.cross_entropy(by_hand((x + noise).clamp(0, 1)), y)
            slope, *gradients = torch.autograd.grad(loss, [noise, *by_hand.parameters()])
            delta[: len(x)] = (noise.detach() + EPS * slope.sign()).clamp(-EPS, EPS)
            with torch.no_grad():
                for weight, gradient in zip(by_hand.parameters(), gradients, strict=True):
                    weight -= 0.1 * gradient
    for one, other in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", ["fast", "n_fgsm"])
def test_the_images_of_fast_training_are_the_authors(variant: str) -> None:
    model, (images, labels) = flat_net(192).double().eval(), (DATA.tensors[0].double(), LABELS)
    make = {"fast": FastTraining, "n_fgsm": FastTraining.n_fgsm}[variant]
    defense = make(EPS, generator=torch.Generator().manual_seed(1))
    found = defense.attacked(Network(model), Batch(images, labels))
    reach = EPS if variant == "fast" else 2 * EPS
    noise = reach * (2 * torch.rand(images.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 1)
    delta = (images + noise).clamp(0, 1) - images
    step = signed(model, images + delta, lambda logits: F.cross_entropy(logits, labels))
    delta = (delta + 10 / 255 * step).clamp(-EPS, EPS) if variant == "fast" else delta + 8 / 255 * step
    torch.testing.assert_close(found, (images + delta).clamp(0, 1), rtol=0, atol=1e-12)
    assert ((found - images).abs().max() > 1.2 * EPS) == (variant == "n_fgsm")


def test_grad_align_is_the_authors_penalty() -> None:
    model, images = flat_net(192).double(), DATA.tensors[0].double()
    batch = Batch(images, LABELS)
    losses = []
    for weight in (0.0, 0.2):
        defense = FastTraining(EPS, grad_align=weight, generator=torch.Generator().manual_seed(1))
        losses.append(defense.loss_on(Network(model.train()), batch, images))
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    slopes = []
    for x in (images, images + EPS * (2 * noise - 1)):
        x.requires_grad_()
        slopes.append(torch.autograd.grad(F.cross_entropy(model(x), LABELS), x, create_graph=True)[0].flatten(1))
    cosine = (slopes[0] * slopes[1]).sum(1) / slopes[0].norm(dim=1) / slopes[1].norm(dim=1)
    expected = 0.2 * (1 - cosine).mean()
    torch.testing.assert_close(losses[1] - losses[0], expected, rtol=1e-9, atol=1e-12)
    for one, other in zip(
        torch.autograd.grad(losses[1] - losses[0], list(model.parameters()), allow_unused=True),
        torch.autograd.grad(expected, list(model.parameters()), allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def fgsm_trained(guard: float | None, epochs: int, checkpoint: Path | None = None) -> tuple[nn.Module, FastTraining]:
    """A network, on two classes told apart by 12 pixels, among 588 that say nothing and that a step leaves a trace in.

    In float64, so that rounding does not decide where training goes.
    """
    labels = torch.arange(256) % 2
    noise = torch.randn(256, 600, generator=torch.Generator().manual_seed(0)).double()
    images = 0.5 + 0.1 * EPS * noise
    images[:, :12] += 4 * EPS * (2 * labels[:, None] - 1)
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(600, 64), nn.ReLU(), nn.Linear(64, 2)).double()
    model = advkit.Normalized(net, 0.5, 2 * EPS)
    defense = FastTraining(EPS, alpha=EPS, noise=0, guard=guard)
    loader = DataLoader(TensorDataset(images, labels), 64, shuffle=True)
    defense.fit(model, loader, torch.optim.Adam(model.parameters(), 0.03), epochs, checkpoint=checkpoint)
    for attack in (advkit.FGSM, advkit.PGD):
        defense.holds = [*getattr(defense, "holds", []), 1 - attack(model).run(images, labels).success.double().mean()]
    return model, defense


def test_fgsm_training_overfits_without_its_guard_and_is_stopped_in_time_with_it(tmp_path: Path) -> None:
    _, overfitted = fgsm_trained(guard=None, epochs=7)
    against_fgsm, against_pgd = overfitted.holds
    assert against_fgsm > 0.95
    assert against_pgd < 0.05
    with pytest.warns(AdvkitWarning, match=r"training stopped in epoch \d: catastrophic overfitting"):
        model, guarded = fgsm_trained(guard=0.2, epochs=7, checkpoint=tmp_path / "run.pt")
    *good, last = guarded.history
    assert last.stopped.startswith("catastrophic overfitting")
    assert good[-1].guarded_accuracy - last.guarded_accuracy > 0.2
    assert guarded.holds[1] > 0.3
    before, _ = fgsm_trained(guard=None, epochs=len(good))
    assert torch.equal(model.net[0].weight, before.net[0].weight)
    again, resumed = fgsm_trained(guard=0.2, epochs=7, checkpoint=tmp_path / "run.pt")  # nothing is left to do
    assert resumed.history == guarded.history
    assert torch.equal(again.net[0].weight, model.net[0].weight)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.filterwarnings("ignore:training stopped")
def test_every_recipe_resumes_to_the_bit(name: str, tmp_path: Path) -> None:
    """With averages, a validation attack, smoothed labels and bfloat16."""
    outcomes = []
    for stops in ([2], [1, 2]):
        for epochs in stops:
            torch.manual_seed(0)
            model, defense = conv_net().train(), recipes()[name]
            optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
            defense.fit(
                model,
                DataLoader(DATA, 4, shuffle=True),
                optimizer,
                epochs,
                validation=DataLoader(DATA, 10),
                validation_attack=advkit.PGD(model, steps=1),
                checkpoint=tmp_path / f"{len(stops)}.pt",
                average=0.5,
                label_smoothing=0.1,
                autocast=torch.bfloat16,
            )
        outcomes.append((model.state_dict(), defense.history))
    (one, history), (other, resumed) = outcomes
    assert history == resumed
    for key, tensor in one.items():
        assert torch.equal(tensor, other[key]), key
    assert not torch.equal(one["6.weight"], conv_net()[6].weight)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TRADES(beta=-1), "beta must be at least 0, got -1"),
        (lambda: MART(steps=0), "steps must be at least 1, got 0"),
        (lambda: AWP(gamma=float("nan")), "gamma must be at least 0, got nan"),
        (lambda: FreeTraining(replays=0), "replays must be at least 1, got 0"),
        (lambda: FastTraining(guard=2), "fall must be at least 0 and at most 1, got 2"),
        (lambda: FastTraining(alpha=0.0), "alpha must be greater than 0, got 0.0"),
    ],
)
def test_what_is_out_of_range(make, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()
    with pytest.raises(DtypeError, match=r"recipe must make adversarial images, .*; got int"):
        AWP(3)


class Padded(nn.Module):
    """A network with two classes more, which are masked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        return torch.cat([logits, torch.full_like(logits[:, :2], -torch.inf)], 1)


@pytest.mark.parametrize("recipe", [TRADES, MART])
def test_masked_classes_play_no_part(recipe: type[TrainingDefense]) -> None:
    trained = []
    for wrap in (nn.Sequential, Padded):
        model = flat_net(192)
        torch.manual_seed(0)
        loader, optimizer = DataLoader(DATA, 5), torch.optim.SGD(model.parameters(), 0.5)
        recipe(steps=2).fit(wrap(model), loader, optimizer, 2)
        trained.append(torch.cat([one.flatten() for one in model.parameters()]))
    torch.testing.assert_close(*trained)
    assert not trained[0].equal(torch.cat([one.flatten() for one in flat_net(192).parameters()]))


WIDER = {"bounds": (-1.0, 2.0)}


@pytest.mark.parametrize(
    ("one", "other", "how", "said"),
    [
        (TRADES(steps=1), TRADES(steps=1, **WIDER), {}, "recipe's attack is"),
        (AWP(TRADES(steps=1)), AWP(TRADES(steps=1, **WIDER)), {}, "recipe's recipe is"),
        (
            FreeTraining(replays=1),
            FreeTraining(replays=1, **WIDER),
            {},
            r"bounds is \[0.0, 1.0\] there and \[-1.0, 2.0\]",
        ),
        (FastTraining(), FastTraining(guard=None), {}, "recipe's guard is"),
        (TRADES(steps=1), TRADES(steps=1), {"label_smoothing": 0.1}, r"label_smoothing is 0\.0 there and 0\.1 here"),
        (
            FreeTraining(replays=1),
            FreeTraining(replays=1),
            {"average": 0.9},
            "average is null there and 0.9 here",
        ),
    ],
    ids=str,
)
def test_a_checkpoint_knows_settings_that_its_recipe_does_not_print(
    tmp_path: Path, one: TrainingDefense, other: TrainingDefense, how: dict[str, Any], said: str
) -> None:
    def fit(defense: TrainingDefense, epochs: int, **how: Any) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        loader = [(torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 0]))]
        defense.fit(model, loader, optimizer, epochs, checkpoint=tmp_path / "run.pt", **how)

    fit(one, 1)
    fit(one, 2)  # which it is itself
    with pytest.raises(InputError, match=said):
        fit(other, 3, **how)
