"""Images that are made on surrogates and shown to the models that are evaluated."""

from dataclasses import replace

import pytest
import torch

import advkit
from advkit import errors
from advkit.defenses import BitDepthReduction
from advkit.evaluation import Flag
from contracts.scenes import Passes, said_by
from evaluation.masked import EPS, Masked, trained


@pytest.fixture
def scene():
    """A robust network, an ordinary one to make images on, and batches of images that the first gets right."""
    net, images, labels = trained(True)
    return net, trained(False)[0], images, labels, list(zip(images.split(12), labels.split(12), strict=True))


def detached(net, images):
    """A network's answer with a gradient of zero: what stands in the way of its own gradient alone."""
    return net(images.detach() + 0 * images)


def test_transferred_images_by_hand(scene):
    net, surrogate, images, labels, loader = scene
    defended = BitDepthReduction(bits=3).wrap(net)
    attacks = {"MI": advkit.MIFGSM(net, eps=EPS), "DeepFool": advkit.DeepFool(net)}
    attacks["search"] = advkit.Square(net, eps=EPS, max_queries=3)
    given = {"another": surrogate}
    defenses = {"bits": BitDepthReduction(bits=3)}
    report = advkit.evaluate(net, loader, attacks, defenses, transfer_from=given, flags=False)
    shown = {"none": (net, None), "bits": (defended, "adaptive")}
    for defense, (model, protocol) in shown.items():
        right = said_by(model, images) == labels
        left = right.clone()
        for name in ("MI", "DeepFool"):
            adversarials = images.clone()
            adversarials[right] = attacks[name].on(surrogate)(images[right], labels[right])
            stands = right & (said_by(model, adversarials) == labels)
            score = report.score(name, defense, "transferred")
            assert score.accuracy == pytest.approx(float(stands.float().mean()))
            assert (score.surrogate, score.attacked) == ("another", int(right.sum()))
            within = (adversarials - images).flatten(1).abs().amax(1) <= EPS * (1 + 1e-4)
            left &= stands | ~within
        alone, whole = (
            next(worst for worst in report.worst if (worst.defense, worst.protocol) == (defense, one))
            for one in ("transferred", protocol)
        )
        assert alone.accuracy == pytest.approx(float(left.float().mean()))
        assert int(left.sum()) < int(right.sum())
        assert whole.accuracy <= alone.accuracy
    without = advkit.evaluate(net, loader, attacks, flags=False)
    assert report.attacks[0].accuracy == without.attacks[0].accuracy
    right = said_by(net, images) == labels
    by_mi = said_by(net, attacks["MI"].on(surrogate)(images, labels)) == labels
    assert torch.equal(report.robust & by_mi, report.robust)
    assert not (report.robust & ~without.robust).any()
    with pytest.raises(KeyError, match="'search' was not tried on 'none' as a transferred attack"):
        report.score("search", protocol="transferred")
    assert [score.name for score in report.transferred] == ["MI", "DeepFool"]


def test_every_form_of_a_report_tells_of_them(scene, tmp_path):
    net, surrogate, _, _, loader = scene
    masked = Masked(net, detached)
    models = {"another": surrogate, "both": advkit.Ensemble([surrogate, net])}
    attacks, defenses = [advkit.MIFGSM(net, eps=EPS)], {"bits": BitDepthReduction(bits=3)}
    report = advkit.evaluate(masked, loader, attacks, defenses, transfer_from=models, pictures=3)
    name = str(attacks[0])
    assert report.protocols == ("oblivious", "naive", "adaptive", "transferred")
    found = {score.surrogate: score.accuracy for score in report.transferred}
    assert report.score(name, protocol="transferred").accuracy == min(found.values()) < report[name].accuracy
    assert report.robust_accuracy == float(report.robust.float().mean()) <= min(found.values())
    assert not report.pictures  # nothing that was made on this model fools it
    assert advkit.RobustnessReport.from_json(report.to_json()) == report
    for words in (str(report), report.to_markdown(), report.to_html()):
        assert "transferred" in words
        assert "from both" in " ".join(words.split())
        assert "images made on another (Sequential), both (Ensemble)" in " ".join(words.split())
    numbers = report.to_dict()
    assert numbers["transferred/both/MIFGSM_eps_0.1/accuracy"] == found["both"]
    assert numbers["bits/transferred/another/MIFGSM_eps_0.1/attacked"] > 0
    assert numbers["robust_accuracy"] == report.robust_accuracy <= numbers["transferred/robust_accuracy"]
    lines = [line.split(",")[:4] for line in report.to_csv().splitlines()]
    assert ["none", name, "transferred", "both"] in lines
    single = advkit.evaluate(masked, loader, attacks, defenses, transfer_from={"another": surrogate}, flags=False)
    row = next(line for line in str(single).splitlines() if "MIFGSM" in line)
    assert len(row.split("%")) == 3  # what the bare model's own gradient leaves, and the surrogate's
    other = advkit.evaluate(masked, loader, attacks, transfer_from={"another": surrogate}, flags=False)
    compared = other.compare(report)
    assert any(
        "transferred from other models: another in the first, another and both" in one for one in compared.remarks
    )
    assert compared.attacks[f"{name} from another"] == (found["another"],) * 2 != compared.attacks[name]


def test_bars_and_comparisons_tell_surrogates_apart(scene):
    """And a flag about a defense is no reason to doubt what is compared, the bare models."""
    net, surrogate, _, _, loader = scene
    models = {"another": surrogate, "itself": net}
    attacks, defenses = {"MI": advkit.MIFGSM(net, eps=EPS)}, {"bits": BitDepthReduction(bits=3)}
    report = advkit.evaluate(net, loader, attacks, defenses, transfer_from=models, flags=False)
    report = replace(report, flags=(Flag("above clean accuracy", "an attack helps", "nobody", "bits"),))
    assert not report.compare(report).remarks
    (axes,) = advkit.evaluation.accuracy_bars(report, protocol="transferred").axes
    wanted = [score.accuracy for one in models for score in report.scores if score.surrogate == one]
    assert [bar.get_width() for bar in sorted(axes.patches, key=lambda bar: bar.get_y())][2:] == wanted
    assert [text.get_text() for text in axes.texts if "MI" in text.get_text()] == ["MI from another", "MI from itself"]


def test_they_are_made_once_and_late(scene):
    """One pass serves all models; and where attacks see what is left alone, there are few to be made."""
    net, surrogate, _, _, loader = scene
    counted = Passes(surrogate)
    attacks = [advkit.FGSM(net, eps=EPS)]
    given = {"transfer_from": {"another": counted}, "flags": False}
    report = advkit.evaluate(net, loader, attacks, {"same": net}, **given)
    assert sum(counted.backwards) == 32 == report.transferred[0].attacked
    assert report.transferred[0].forwards_per_image == 1
    counted.backwards.clear()
    fast = advkit.evaluate(net, loader, attacks, stop_when_fooled=True, **given)
    left = round(fast.attacks[0].accuracy * 32)
    assert sum(counted.backwards) == fast.transferred[0].attacked == left < 32
    assert fast.worst == report.worst[:1]
    assert torch.equal(fast.robust, report.robust)


def test_a_model_that_falls_to_the_gradients_of_another_is_flagged(scene):
    net, surrogate, _, _, loader = scene
    masked = Masked(surrogate, detached)
    attacks = {"MI": advkit.MIFGSM(net, eps=EPS), "search": advkit.Square(net, eps=EPS, max_queries=5)}
    for stop in (False, True):
        given = {"transfer_from": {"robust": net, "unmasked": surrogate}, "stop_when_fooled": stop}
        report = advkit.evaluate(masked, loader, attacks, **given)
        (flag,) = (flag for flag in report.flags if flag.name == "transfer beats white-box")
        assert "MI from unmasked" in flag.sentence
        assert flag.doubts("none", "MI", None)
        assert not flag.doubts("none", "MI", "transferred")
        honest = advkit.evaluate(surrogate, loader, attacks, transfer_from={"robust": net}, stop_when_fooled=stop)
        assert "transfer beats white-box" not in [flag.name for flag in honest.flags]


def test_of_a_verdict_what_follows_gradients_is_transferred(scene):
    net, surrogate, images, labels, _ = scene
    loader = [(images[:6], labels[:6])]
    report = advkit.evaluate(net, loader, "standard", eps=EPS, transfer_from={"another": surrogate}, flags=False)
    (score,) = report.transferred  # a second look is at this model alone
    assert (score.name, score.attacked) == ("MultiTargeted", round(6 * report.attacks[-1].accuracy))
    assert f"{score.first_to_fool} by MultiTargeted from another" in " ".join(str(report).split())


def test_a_run_goes_on_with_the_same_surrogates_alone(scene, tmp_path):
    net, surrogate, _, _, loader = scene
    shift = [0.0]

    def another(images):
        return surrogate(images + shift[0])

    attacks = [advkit.FGSM(net, eps=EPS)]
    given = {"run_folder": tmp_path, "flags": False}
    report = advkit.evaluate(net, loader, attacks, transfer_from={"net": surrogate, "other": another}, **given)
    again = advkit.evaluate(net, loader, attacks, transfer_from={"net": surrogate, "other": another}, **given)
    assert again == report
    with pytest.raises(errors.InputError, match="holds a run with other transfer_from: "):
        advkit.evaluate(net, loader, attacks, transfer_from={"net": net, "other": another}, **given)
    with pytest.raises(errors.InputError, match="holds a run with other transfer_from: "):
        advkit.evaluate(net, loader, attacks, **given)
    shift[0] = 0.5
    with pytest.raises(errors.InputError, match="the surrogate other has the same layers"):
        advkit.evaluate(net, loader, attacks, transfer_from={"net": surrogate, "other": another}, **given)


def test_what_cannot_be_transferred_is_said(scene):
    net, surrogate, _, _, loader = scene
    with pytest.raises(errors.InputError, match="transfer_from is for attacks that follow gradients"):
        advkit.evaluate(net, loader, [advkit.Square(net)], transfer_from={"another": surrogate})
    for wrong in (surrogate, [surrogate]):
        with pytest.raises(errors.DtypeError, match="transfer_from must be models by name"):
            advkit.evaluate(net, loader, [advkit.FGSM(net)], transfer_from=wrong)
    attacks = [advkit.FGSM(net), advkit.Square(net, max_queries=2)]
    blind = {"blind": lambda images: surrogate(images.detach())}
    report = advkit.evaluate(net, loader, attacks, transfer_from=blind, flags=False)
    assert "FGSM (transferred from blind) raised NoGradientError" in str(report).replace("\n", " ")
    assert report.robust_accuracy == advkit.evaluate(net, loader, attacks, flags=False).robust_accuracy
