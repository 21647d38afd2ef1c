import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import nn

import advkit
from advkit import errors, norms
from advkit.attack import AdversarialResult
from advkit.evaluation.metrics import wilson
from advkit.evaluation.plot import accuracy_bars, confusion_matrix, picture_rows, security_curves
from advkit.evaluation.report import AttackScore, DefenseScore, RobustnessReport
from advkit.evaluation.security import SecurityCurve


class Probabilities(nn.Module):
    """Answers what the first pixels of an image say."""

    def forward(self, images):
        return images.flatten(1)[:, :4].clamp_min(1e-6).log()


def result(channels=3, labels=(0, 0, 1, 1, 2)):
    """Five images; the model is right on all but the last, and the attack fails on the second."""
    labels = torch.tensor(labels)
    originals = torch.zeros(5, channels, 4, 6)
    images = originals.clone()
    for row, (before, after) in enumerate([(0, 3), (0, 0), (1, 0), (1, 2), (3, 3)]):
        originals[row].view(-1)[before] = 0.9
        images[row].view(-1)[after] = 0.8
        images[row].view(-1)[(after + 1) % 4] = 0.2
    predictions = images.flatten(1)[:, :4].argmax(1)
    return AdversarialResult(images, originals, labels, predictions, predictions != labels)


def texts(figure):
    return [[text.get_text() for text in axes.texts] for axes in figure.axes]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_is_written(tmp_path, channels):
    path = tmp_path / "rows.png"
    picture_rows(Probabilities(), result(channels), ["a", "b", "c", "a very long name indeed"], path, count=2)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 5000


def test_the_images_and_the_magnified_perturbation():
    found = result()
    figure = picture_rows(Probabilities(), found, count=1)
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]
    original, perturbation, adversarial = (torch.from_numpy(image).permute(2, 0, 1) for image in shown)
    torch.testing.assert_close(original, found.originals[0])
    torch.testing.assert_close(adversarial, found.images[0])
    # The largest change is 0.9: no factor but 1 shows it, and that clips.
    torch.testing.assert_close(perturbation, (0.5 + found.images[0] - found.originals[0]).clamp(0, 1))
    assert figure.axes[2].get_xlabel() == "\N{MULTIPLICATION SIGN} 1"


def test_the_factor_is_the_largest_round_one_that_does_not_clip():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    images, labels = torch.full((1, 3, 4, 4), 0.5), torch.tensor([0])
    for eps, factor in ((8 / 255, 10), (0.001, 500), (0.2, 2), (0.5, 1), (0.0, 1)):
        figure = picture_rows(model, advkit.FGSM(model, eps=eps).run(images, labels))
        assert figure.axes[2].get_xlabel() == f"\N{MULTIPLICATION SIGN} {factor}"
        perturbation = np.asarray(figure.axes[2].images[0].get_array())
        assert np.abs(perturbation - 0.5).max() == pytest.approx(factor * eps, abs=1e-3)


def test_the_most_confident_classes_with_their_probabilities():
    figure = picture_rows(Probabilities(), result(), ["a", "b", "c", "d"], count=1)
    assert texts(figure)[1][:2] == ["a", "100 %"]
    assert texts(figure)[1][3::2] == ["< 1 %", "< 1 %"]
    assert texts(figure)[4][:4] == ["d", "80 %", "a", "20 %"]
    lengths = [bar.get_width() for bar in figure.axes[4].patches[:3]]
    assert lengths == pytest.approx([0.8, 0.2, 0.0], abs=1e-5)
    wrong, true = (bar.get_facecolor() for bar in figure.axes[4].patches[:2])
    assert wrong != true == figure.axes[1].patches[0].get_facecolor()


def test_successes_come_first_and_every_class_once_before_any_twice():
    figure = picture_rows(Probabilities(), result(), count=4)
    answers = [axes[0] for axes in texts(figure)[1::5]]
    after = [axes[0] for axes in texts(figure)[4::5]]
    # Rows 0 and 2, of classes 0 and 1; then row 3, of class 1 again; then row 1, where the attack failed.
    assert (answers, after) == (["0", "1", "1", "0"], ["3", "0", "2", "0"])


def test_fewer_classes_and_images_than_asked_for():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    found = advkit.FGSM(model).run(torch.rand(2, 1, 4, 4), torch.tensor([0, 1]))
    assert len(picture_rows(model, found, count=9, top=5).axes) == 10


def test_other_bounds():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    found = advkit.FGSM(model, eps=25.5, bounds=(0, 255)).run(torch.full((1, 3, 4, 4), 51.0), torch.tensor([0]))
    figure = picture_rows(model, found, bounds=(0, 255))
    assert np.asarray(figure.axes[0].images[0].get_array()) == pytest.approx(0.2)
    assert figure.axes[2].get_xlabel() == "\N{MULTIPLICATION SIGN} 5"


def test_what_cannot_be_drawn():
    found = result()
    with pytest.raises(errors.InputError, match="class_names has 2"):
        picture_rows(Probabilities(), found, ["a", "b"])
    with pytest.raises(errors.InputError, match="count must be at least 1"):
        picture_rows(Probabilities(), found, count=0)
    flat = nn.Linear(4, 2)
    with pytest.raises(errors.InputError, match=r"pictures need .* got \(1, 4\)"):
        picture_rows(flat, advkit.FGSM(flat).run(torch.rand(1, 4), torch.tensor([0])))


def share(accuracy, images=100):
    low, high = wilson(accuracy, images)
    rest = dict.fromkeys(("precision", "recall", "f1", "prediction_seconds"), 0.5)
    return {"images": images, "accuracy": accuracy, "low": low, "high": high, **rest}


def report(accuracies, attacks, protocol="adaptive"):
    """A report of a defense, or none, for each row: its clean accuracy, and that under each attack."""
    measures = ("success_rate", "seconds_per_image", "forwards_per_image", "backwards_per_image")
    measures += tuple(f"{what}_{norm}" for what in ("median", "mean") for norm in ("l0", "l1", "l2", "linf"))
    scores = tuple(
        AttackScore(
            name=name,
            attack=name,
            defense=defense,
            protocol=None if defense == "none" else protocol,
            attacked=90,
            **dict.fromkeys(measures, 0.0),
            **share(accuracy),
        )
        for defense, (_, *row) in accuracies.items()
        for name, accuracy in zip(attacks, row, strict=True)
    )
    about = [known.name for known in fields(RobustnessReport) if known.type is str]
    return RobustnessReport(
        images=100,
        defenses=tuple(DefenseScore(name=name, defense=name, **share(row[0])) for name, row in accuracies.items()),
        scores=scores,
        worst=(),
        **dict.fromkeys(about, ""),
    )


def inside(figure):
    """Whether all that is drawn lies on the page, with the tolerance of a pixel."""
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    return min(box.x0, box.y0, width - box.x1, height - box.y1) > -1 / figure.dpi


def apart(texts):
    """Whether no two of these texts touch, but for the room that a font keeps above and below its letters."""
    texts[0].get_figure().draw_without_rendering()
    boxes = [text.get_window_extent().padded(0, -1.5) for text in texts if text.get_text()]
    return not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])


SMALL = {"none": (0.9, 0.1, 0.0), "Smoothing": (0.8, 0.5, 0.25), "Training": (0.7, 0.6, 1.0)}


def test_bars_are_the_accuracies_in_groups(tmp_path):
    figure = accuracy_bars(report(SMALL, ["FGSM", "PGD(steps=40)"]), tmp_path / "bars.pdf")
    assert (tmp_path / "bars.pdf").read_bytes().startswith(b"%PDF")
    (axes,) = figure.axes
    bars = sorted(axes.patches, key=lambda bar: bar.get_y())
    assert [bar.get_width() for bar in bars] == [0.9, 0.8, 0.7, 0.1, 0.5, 0.6, 0.0, 0.25, 1.0]
    assert len({bar.get_facecolor() for bar in bars}) == 3
    assert bars[0].get_facecolor() == bars[3].get_facecolor() == bars[6].get_facecolor()
    intervals = sorted(axes.get_lines(), key=lambda line: line.get_ydata()[0])
    assert [tuple(line.get_xdata()) for line in intervals] == [
        pytest.approx(wilson(bar.get_width(), 100)) for bar in bars
    ]
    words = [text.get_text() for text in axes.texts]
    assert [word for word in words if word in ("no attack", "FGSM", "PGD(steps=40)")] == [
        "no attack",
        "FGSM",
        "PGD(steps=40)",
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["1  none", "2  Smoothing", "3  Training"]
    assert [words.count(number) for number in "123"] == [3, 3, 3]


def test_bars_of_one_model_need_no_legend_and_of_another_protocol_no_other_report():
    figure = accuracy_bars(report({"none": (0.9, 0.1)}, ["FGSM"]), width=3.3)
    assert not figure.legends
    assert inside(figure)
    with pytest.raises(errors.InputError, match=r"no protocol 'naive'; it has \['adaptive'\]"):
        accuracy_bars(report(SMALL, ["FGSM", "PGD"]), protocol="naive")
    assert accuracy_bars(report(SMALL, ["FGSM", "PGD"], "naive"), protocol="naive").legends


LONG = "PGD(eps=4/255, alpha=1/255, steps=100, norm='l2', early_stop=True)"


@pytest.mark.parametrize("width", [3.3, 7.0])
def test_bars_of_many_with_long_names_stay_apart_and_on_the_page(width):
    defenses = ["none", *(f"AdversarialTraining(MIFGSM, decay={place})" for place in range(8))]
    accuracies = {name: [(row * place) % 11 / 10 for place in range(13)] for row, name in enumerate(defenses)}
    figure = accuracy_bars(report(accuracies, [f"{LONG}{place}" for place in range(12)]), width=width)
    assert figure.get_size_inches()[0] == width
    assert inside(figure)
    assert apart([*figure.axes[0].texts, *figure.legends[0].get_texts()])


def curve(name="PGD", eps=(0.0, 4 / 255, 8 / 255), counts=(90, 50, 10), norm=norms.Linf):
    return SecurityCurve(name, norm, eps, torch.stack([torch.arange(100) < count for count in counts]))


def test_curves_are_accuracies_over_budgets(tmp_path):
    figure = security_curves([curve(), curve("FGSM", counts=(90, 70, 80))], tmp_path / "curves.png")
    (axes,) = figure.axes
    first, second = axes.get_lines()
    assert first.get_xdata().tolist() == pytest.approx([0, 4 / 255, 8 / 255])
    assert first.get_ydata().tolist() == pytest.approx([0.9, 0.5, 0.1])
    assert second.get_ydata().tolist() == pytest.approx([0.9, 0.7, 0.8])  # as it is, also where it rises
    assert first.get_color() != second.get_color()
    assert first.get_marker() != second.get_marker()
    assert first.get_linestyle() != second.get_linestyle()
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(wilson(0.1, 100)[0])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["PGD", "FGSM"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "4/255", "8/255"]
    assert axes.get_xlabel() == "eps, Linf"


def test_curves_have_names_of_their_own_and_one_norm():
    figure = security_curves({"plain": curve(), "robust": curve()})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["plain", "robust"]
    assert not security_curves([curve()]).legends
    assert inside(security_curves([curve(eps=(0.5,), counts=(40,))]))
    with pytest.raises(errors.InputError, match=r"same norm; got \['L2', 'Linf'\]"):
        security_curves([curve(), curve(norm=norms.L2)])
    with pytest.raises(errors.InputError, match=r"at least one, .*; got none"):
        security_curves([])


@pytest.mark.parametrize("width", [3.3, 7.0])
def test_many_curves_stay_on_the_page_and_ticks_apart(width):
    eps = tuple(value / 255 for value in (0, 0.5, 1, 2, 3, 4, 8, 16, 17, 32))
    many = [curve(f"{LONG}{place}", eps, range(90, 10, -8)) for place in range(12)]
    figure = security_curves(many, width=width)
    assert inside(figure)
    assert apart(figure.axes[0].get_xticklabels())
    assert apart(figure.legends[0].get_texts())
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in figure.axes[0].get_lines()}
    assert len(looks) == 12


def test_a_confusion_matrix_is_in_shares_of_the_true_class(tmp_path):
    counts = torch.tensor([[9, 1, 0], [0, 4, 0], [0, 0, 0]])
    figure = confusion_matrix(counts, ["cat", "dog", "a very long name indeed"], tmp_path / "confusion.png")
    axes = figure.axes[0]
    shown = np.ma.filled(axes.images[0].get_array(), np.nan)
    np.testing.assert_allclose(shown, [[0.9, 0.1, 0], [0, 1, 0], [np.nan] * 3], rtol=1e-6)
    assert [text.get_text() for text in axes.texts] == ["90", "10", "100"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["cat", "dog", "a very long nam…"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    assert inside(figure)


def test_a_score_is_a_confusion_matrix_and_classes_that_nobody_saw_have_a_place():
    score = DefenseScore(name="none", defense="none", confusion=((0, 0, 3), (1, 0, 1)), **share(0.75))
    shown = confusion_matrix(score, ["a", "b", "c"]).axes[0].images[0].get_array()
    np.testing.assert_allclose(np.ma.filled(shown, np.nan), [[1, 0, 0], [1, 0, 0], [np.nan] * 3])


@pytest.mark.parametrize(("classes", "width"), [(1, 2), (2, 3.3), (10, 3.3), (43, 3.3), (100, 7), (1000, 7)])
@pytest.mark.parametrize("named", [True, False])
def test_a_confusion_matrix_of_any_size_is_legible(classes, width, named):
    names = [f"class number {place}" for place in range(classes)] if named else None
    figure = confusion_matrix(torch.eye(classes, dtype=torch.int64), names, width=width)
    axes = figure.axes[0]
    assert inside(figure)
    assert apart(axes.get_yticklabels())
    assert apart(axes.get_xticklabels())
    assert bool(axes.texts) is (classes <= 10 and not (named and classes == 10))  # long names leave little room


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("width", [3.3, 7])
def test_of_many_classes_the_most_confused_are_drawn(width, named):
    counts = 90 * torch.eye(1000, dtype=torch.int64)
    counts[281, 282] = counts[840, 120] = counts[639, 638] = 30  # of 120
    counts[281, 700] = 2  # one class more that others are taken for
    counts[range(500), range(1, 501)] += 1  # far more confusions than have room
    names = [f"class number {place}" for place in range(1000)] if named else None
    figure = confusion_matrix(counts, names, width=width)
    axes = figure.axes[0]
    rows, columns = (
        [text.get_text() for text in labels] for labels in (axes.get_yticklabels(), axes.get_xticklabels())
    )
    wanted = [f"class number {place}" if named else f"{place}" for place in (120, 281, 282, 638, 639, 840)]
    assert {*wanted} <= {*rows}
    assert columns == [*rows, "others"]
    shares = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    assert shares[rows.index(wanted[1]), rows.index(wanted[2])] == pytest.approx(31 / 123)
    assert shares[rows.index(wanted[5]), rows.index(wanted[0])] == pytest.approx(30 / 120)
    texts = {text.get_text() for text in axes.texts}
    assert {"25", "73"} <= texts
    assert f"{len(rows)} of 1,000 classes" in axes.get_xlabel()
    assert inside(figure)
    assert apart(axes.get_yticklabels())
    assert apart(axes.get_xticklabels())


def test_what_is_no_confusion_matrix():
    for matrix in (torch.zeros(2, 3), torch.zeros(0, 0), torch.zeros(3)):
        with pytest.raises(errors.InputError, match="has shape"):
            confusion_matrix(matrix)
    with pytest.raises(errors.InputError, match="class_names has 1"):
        confusion_matrix(torch.eye(2), ["a"])


def test_pictures_have_a_least_width():
    with pytest.raises(errors.InputError, match="width must be at least 2"):
        confusion_matrix(torch.eye(2), width=1)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: picture_rows(Probabilities(), result()),
        lambda: accuracy_bars(report(SMALL, ["FGSM", "PGD"])),
        lambda: security_curves([curve()]),
        lambda: confusion_matrix(torch.eye(2)),
    ],
)
def test_without_matplotlib(monkeypatch, draw):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(errors.MissingExtraError, match=r'pip install "advkit\[plot\]"'):
        draw()


def test_importing_advkit_imports_no_extra():
    code = "import sys, advkit; print([name for name in ('matplotlib', 'torchvision') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
