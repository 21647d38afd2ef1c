"""What a report gives: a page, a flat dict, a data frame, and a comparison with another report."""

import base64
import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest

import advkit
from advkit import errors, norms
from advkit._io.png import png
from advkit.evaluation import Flag, SecurityCurve
from advkit.evaluation.versus import mcnemar

VOID = {"meta", "img", "line", "rect", "circle", "polygon", "polyline"}


class Closed(HTMLParser):
    """Every element is closed, in order; and what there is to see is kept."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.addresses = [], [], []

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names))
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        assert tag in VOID

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 36, 4))


@pytest.fixture(scope="module")
def loader(model):
    images = (torch.rand(20, 3, 6, 6) * 255).round() / 255
    labels = model(images).argmax(1)
    labels[0] = (labels[0] + 1) % 4  # which nobody has to attack
    return [(images[:12], labels[:12]), (images[12:], labels[12:])]


@pytest.fixture(scope="module")
def report(model, loader):
    attacks = {
        "A <b>": advkit.FGSM(model, eps=12 / 255),
        "A [b]": advkit.PGD(model, eps=24 / 255, steps=4),
        "DeepFool": advkit.DeepFool(model),
    }
    return advkit.evaluate(model, loader, attacks, {"same": model}, ["adaptive"], pictures=5, flags=False)


def read(page):
    parser = Closed()
    parser.feed(page)
    assert parser.open == []
    return parser, " ".join(" ".join(parser.text).split())


def test_a_page_says_what_the_report_says_and_asks_nobody(report, tmp_path):
    names = [f"<script>alert({index})</script> & co" for index in range(4)]
    curve = SecurityCurve("PGD", norms.Linf, (0.0, 8 / 255), torch.tensor([[True, True], [True, False]]))
    flag = Flag("name", "Something <i>odd</i>.", "Somebody & 2018")
    flagged = replace(report, flags=(flag,))
    page = flagged.to_html(tmp_path / "page.html", title="<b>Mine</b>", class_names=names, curves={"<u>": curve})
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page
    parser, text = read(page)
    assert parser.addresses
    assert all(address.startswith("data:image/png;base64,") for address in parser.addresses)
    assert not re.search(r"https?:|@import|url\(|<script|<i>|<u>|<b>Mine", page)
    for said in ("<b>Mine</b>", "A <b>", "Something <i>odd</i>.", f"<script>alert({report.labels[0]})</script> & co"):
        assert said in text, said
    assert f"{report.robust_accuracy:.1%}".replace("%", " %") in text.replace("\N{NO-BREAK SPACE}", " ")
    assert f"{100 * report.worst[0].low:.1f} to {100 * report.worst[0].high:.1f}" in text
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert page.count("<img") == 2 * len(report.pictures)
    assert "A red flag was raised" in text
    with pytest.raises(errors.InputError, match="class_names has 2"):
        report.to_html(class_names=["a", "b"])
    with pytest.raises(errors.InputError, match="several norms"):
        report.to_html(curves=[curve, replace(curve, attack="other", norm=norms.L2)])


def test_a_page_of_little(report):
    bare = replace(report, defenses=report.defenses[:1], scores=(), worst=(), pictures=(), labels=(), standing=())
    for one in (bare, replace(report, pictures=())):
        _, text = read(one.to_html())
        assert "evaluate(..., pictures=8)" in text  # how to keep some


def test_pictures_are_of_images_that_were_fooled(report, model, loader):
    assert [one.attack for one in report.pictures] == ["A <b>", "A <b>", "A [b]", "A [b]", "DeepFool"]
    images = torch.cat([batch for batch, _ in loader])
    for one in report.pictures:
        sides = [
            torch.from_numpy(np.array(Image.open(io.BytesIO(base64.b64decode(data))))).permute(2, 0, 1) / 255
            for data in (one.original, one.adversarial)
        ]
        (row,) = (images - sides[0]).abs().flatten(1).amax(1).lt(1e-6).nonzero().flatten().tolist()
        said = model(images[row : row + 1])[0].softmax(0).detach()
        assert one.before == tuple(
            (int(index), pytest.approx(float(said[index]))) for index in said.argsort(descending=True)[:3]
        )
        assert one.before[0][0] == one.label != one.after[0][0]
        assert one.linf == pytest.approx(float((sides[1] - sides[0]).abs().max()), abs=0.51 / 255)
    assert advkit.RobustnessReport.from_json(report.to_json()) == report
    assert '"labels": [' + ", ".join(map(str, report.labels)) in report.to_json()


def test_pictures_survive_a_stop_and_change_no_number(report, model, loader, tmp_path):
    attack = [advkit.PGD(model, eps=48 / 255, steps=2)]
    plain = advkit.evaluate(model, loader, attack, flags=False)
    first = advkit.evaluate(model, loader, attack, flags=False, pictures=3, run_folder=tmp_path)
    again = advkit.evaluate(model, loader, attack, flags=False, pictures=3, run_folder=tmp_path)
    assert len(again.pictures) == 3
    assert again == first
    assert (plain.scores[0].confusion, plain.standing) == (
        first.scores[0].confusion,
        first.standing,
    )


def test_who_was_first_to_fool(report, model, loader):
    """By hand: the attacks one after the other, on what is left."""
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    left = model(images).argmax(1) == labels
    attacks = [advkit.FGSM(model, eps=12 / 255), None, advkit.DeepFool(model)]
    firsts = []
    for attack, score in zip(attacks, report.attacks, strict=True):
        if attack is None:  # random, so that the report alone knows
            firsts.append(score.first_to_fool)
            left = left & ~(torch.tensor(report.standing).logical_not() & left)
            continue
        result = attack.run(images, labels)
        counts = result.distance("linf") <= 24 / 255 * (1 + 1e-4)
        fooled = left & result.success & counts
        firsts.append(int(fooled.sum()))
        left = left & ~fooled
    assert [score.first_to_fool for score in report.attacks] == firsts
    assert sum(firsts) == 19 - sum(report.standing)
    chain = advkit.evaluate(
        model,
        loader,
        [advkit.FGSM(model, eps=8 / 255), advkit.FGSM(model, eps=24 / 255)],
        stop_when_fooled=True,
        flags=False,
    )
    assert [one.first_to_fool for one in chain.attacks] == [
        round(one.success_rate * one.attacked) for one in chain.attacks
    ]


def test_a_flat_dict(report):
    numbers = report.to_dict()
    assert all(type(value) in (float, int, bool, str) for value in numbers.values())
    assert all(re.fullmatch(r"[\w./ -]+", name) for name in numbers)
    fixed = [name + end for name in ("clean_accuracy", "robust_accuracy") for end in ("", "_low", "_high")]
    fixed = [
        "images",
        *fixed,
        *["flags", "failures", "verdict", "stop_when_fooled", "seed", "eps_linf", "device", "hardware", "data_digest"],
    ]
    fixed += ["advkit_version", "torch_version", "python_version"]
    assert list(numbers)[:19] == fixed
    assert numbers["robust_accuracy"] == report.robust_accuracy
    assert (numbers["A_b/accuracy"], numbers["A_b_2/accuracy"]) == tuple(one.accuracy for one in report.attacks[:2])
    assert numbers["same/adaptive/A_b_2/success_rate"] == report.score("A [b]", "same").success_rate
    assert numbers["same/adaptive/robust_accuracy"] == report.worst[1].accuracy
    assert "seed" not in replace(report, seed=None).to_dict()


def test_a_data_frame(report, monkeypatch):
    pandas = pytest.importorskip("pandas")
    frame = report.to_dataframe()
    assert len(frame) == len(report.to_csv().splitlines()) - 1
    row = frame[(frame.defense == "same") & (frame.attack == "DeepFool")].iloc[0]
    assert row.accuracy == report.score("DeepFool", "same").accuracy
    assert pandas.isna(frame.success_rate[0])
    assert frame.accuracy.dtype == float


def test_a_data_frame_without_pandas(report, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(errors.MissingExtraError, match=r'pip install "advkit\[dataframe\]"'):
        report.to_dataframe()


def test_mcnemar_is_the_exact_test():
    for one, other in product((0, 1, 3, 10, 57), (0, 2, 8, 40)):
        known = binomtest(min(one, other), one + other, 0.5).pvalue if one + other else 1.0
        assert mcnemar(one, other) == pytest.approx(known)
    assert mcnemar(3000, 5000) < 1e-100


def test_a_comparison(report):
    standing = (*[True] * 9, *[False] * 11)
    first = replace(report, standing=standing, labels=(*[0] * 12, *[1] * 8))
    second = replace(first, standing=(*[False] * 8, True, *[False] * 10, True))
    found = first.compare(second)
    assert (found.both, found.only_first, found.only_second, found.neither) == (1, 8, 1, 10)
    assert found.p_value == pytest.approx(binomtest(1, 9, 0.5).pvalue)
    assert (found.better, second.compare(first).better) == ("first", "second")
    assert found.classes == {0: (12, 9, 1), 1: (8, 0, 1)}
    assert found.attacks["DeepFool"] == (report["DeepFool"].accuracy,) * 2
    assert found.remarks == ()
    text = str(found)
    assert "The first is right on more images under attack, by more than chance" in text
    assert re.search(r"class 0 \(12 images\) +75\.0 % +8\.3 % +-66\.7", text)
    assert "no more than chance" in str(first.compare(replace(first, standing=(False, *standing[1:]))))
    assert first.compare(first).p_value == 1.0
    assert found.to_dict()["better"] == "first"
    flagged = replace(second, flags=(Flag("zero gradients", "It is flat.", "Nobody"),), scores=second.scores[:1])
    assert [words.split(" ")[1] for words in first.compare(flagged).remarks] == ["attacks", "second"]


def test_reports_on_other_images_are_not_compared(report):
    for other, words in (
        (replace(report, data_digest="0"), "about different images"),
        (replace(report, standing=report.standing[1:]), "about different images"),
        (replace(report, standing=()), "cannot be compared"),
        ("report.json", "compared with another report"),
    ):
        with pytest.raises(errors.InputError, match=words):
            report.compare(other)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_is_read_as_it_was_written(channels):
    image = torch.randint(256, (channels, 5, 7), dtype=torch.uint8)
    back = np.array(Image.open(io.BytesIO(png(image))))
    assert back.tolist() == (image[0] if channels == 1 else image.permute(1, 2, 0)).tolist()


def test_nan_stays_out_of_a_page(report):
    refused = replace(report.scores[0], accuracy=math.nan, low=math.nan, high=math.nan, success_rate=math.nan)
    page = replace(report, scores=(refused, *report.scores[1:])).to_html()
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page)
