import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import advkit
from advkit import errors
from advkit.attack import AdversarialResult
from advkit.evaluation import picture_rows


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


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(errors.MissingExtraError, match=r'pip install "advkit\[plot\]"'):
        picture_rows(Probabilities(), result())


def test_importing_advkit_imports_no_extra():
    code = "import sys, advkit; print([name for name in ('matplotlib', 'torchvision') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
