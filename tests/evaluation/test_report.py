import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import advkit
from advkit import errors
from advkit.evaluation import AttackScore, DefenseScore, Failure, Flag, RobustnessReport, WorstCase

NAN = math.nan


def clean(name, accuracy, low, high, **rest):
    return DefenseScore(
        name=name, defense="Net", images=1000, accuracy=accuracy, low=low, high=high, precision=0.8, recall=0.8, f1=0.8,
        prediction_seconds=1e-4, **rest,
    )  # fmt: skip


def score(name, accuracy, low, high, success=NAN, l2=NAN, linf=NAN, seconds=NAN, **rest):
    fixed = dict.fromkeys(["median_l0", "median_l1", "mean_l0", "mean_l1", "mean_l2", "mean_linf"], NAN)
    values = {"attack": "FGSM", "attacked": 841, "forwards_per_image": 1.0, "backwards_per_image": 1.0} | fixed | rest
    return AttackScore(
        name=name, images=1000, accuracy=accuracy, low=low, high=high, precision=0.1, recall=0.1, f1=0.1,
        success_rate=success, median_l2=l2, median_linf=linf, seconds_per_image=seconds,
        prediction_seconds=seconds + 1e-4, **values,
    )  # fmt: skip


@pytest.fixture
def report():
    return RobustnessReport(
        images=1000,
        defenses=(clean("none", 0.841, 0.817, 0.862, confusion=((0, 0, 3), (1, 2, 1)), arguments={"weights": "ab"}),),
        scores=(
            score(
                "FGSM", 0.032, 0.023, 0.045, 0.962, 1.737, 8 / 255, 0.00134,
                arguments={"eps": 8 / 255, "bounds": [0.0, 1.0]},
            ),
            score("PGD(eps=4/255, alpha=1/255, steps=100, norm='l2')", 0.0, 0.0, 0.004, 1.0, 12.5, 0.5, 12.0),
            score("a|b", 0.841, 0.817, 0.862, 0.0, seconds=0.001),
            score("nothing", NAN, NAN, NAN),
        ),
        worst=(WorstCase(images=1000, accuracy=0.0, low=0.0, high=0.004),),
        device="cuda:0",
        hardware="some GPU",
        data_digest="12ab",
        advkit_version="0.1.0",
        torch_version="2.15.0+cu132",
        python_version="3.12.1",
    )  # fmt: skip


@pytest.fixture
def defended(report):
    fgsm = report["FGSM"]
    return replace(
        report,
        defenses=(*report.defenses, clean("smoothing", 0.8, 0.774, 0.824, draws=10)),
        scores=(
            fgsm,
            replace(fgsm, defense="smoothing", protocol="oblivious", accuracy=0.5, low=0.469, high=0.531),
            replace(fgsm, defense="smoothing", protocol="naive", accuracy=0.3, low=0.272, high=0.329),
            replace(fgsm, defense="smoothing", protocol="adaptive", accuracy=0.1, low=0.083, high=0.12),
        ),
        worst=tuple(
            WorstCase(images=1000, accuracy=0.1, low=0.083, high=0.12, defense="smoothing", protocol=protocol)
            for protocol in ("oblivious", "naive", "adaptive")
        ),
        flags=(Flag("name", "Something is odd.", "Somebody 2018"),),
        failures=(
            Failure(batch=3, rows=(1,), attack="FGSM", defense="smoothing", protocol="naive", error="ValueError: no"),
            Failure(batch=4, rows=(0, 5), attack="FGSM", defense="smoothing", protocol="naive", error="ValueError: no"),
            Failure(batch=4, rows=(2,), attack=None, defense="none", protocol=None, error="ModelError: NaN"),
        ),
    )


def test_the_table_to_the_letter(report):
    assert (
        str(report)
        == """\
attack                accuracy  95 % interval  success      L2    Linf  ms/image
--------------------------------------------------------------------------------
none                    84.1 %   81.7 to 86.2        -       -       -         -
FGSM                     3.2 %     2.3 to 4.5   96.2 %   1.737  0.0314      1.34
PGD(eps=4/255,           0.0 %     0.0 to 0.4  100.0 %  12.500  0.5000  12000.00
  alpha=1/255,
  steps=100,
  norm='l2')
a|b                     84.1 %   81.7 to 86.2    0.0 %       -       -      1.00
nothing                      -              -        -       -       -         -
all together             0.0 %     0.0 to 0.4        -       -       -         -

1000 images on cuda:0, advkit 0.1.0, torch 2.15.0+cu132. Only the 841 that the
model gets right are attacked: success and time are over those, L2 and Linf
medians over the successes, accuracy over all."""
    )


def test_the_table_of_defenses_to_the_letter(defended):
    assert (
        str(defended)
        == """\
defense    attack     oblivious   naive  adaptive
-------------------------------------------------
none       no attack                       84.1 %
           FGSM                             3.2 %
smoothing  no attack                       80.0 %
           FGSM          50.0 %  30.0 %    10.0 %

1000 images on cuda:0, advkit 0.1.0, torch 2.15.0+cu132. Accuracy over all
images; 95 % intervals reach 3.1 points at most to either side.

3 images lost: FGSM against smoothing (naive) raised ValueError: no

1 image lost: the model, without an attack, raised ModelError: NaN

Flag, name: Something is odd. (Somebody 2018)"""
    )


def test_the_table_fits_80_columns_whatever_the_names(report, defended):
    for one in (report, defended):
        scores = tuple(replace(score, name=score.name * 20) for score in one.scores)
        assert max(map(len, str(replace(one, scores=scores)).splitlines())) <= 80
    wide = replace(defended, defenses=(defended.defenses[0], replace(defended.defenses[1], name="smoothing " * 9)))
    assert max(map(len, str(wide).splitlines())) <= 80


def test_a_table_without_attacks(report):
    bare = replace(report, scores=(), worst=())
    assert str(bare).splitlines()[2].split() == ["none", "84.1", "%", "81.7", "to", "86.2", "-", "-", "-", "-"]


def test_markdown(report, defended, tmp_path):
    text = report.to_markdown(tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text() == text
    lines = text.splitlines()
    assert lines[0] == "| attack | accuracy | 95 % interval | success | L2 | Linf | ms/image |"
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    assert lines[3] == "| FGSM | 3.2 % | 2.3 to 4.5 | 96.2 % | 1.737 | 0.0314 | 1.34 |"
    assert lines[5].startswith(r"| a\|b | 84.1 % | 81.7 to 86.2 | 0.0 % | - | - |")
    lines = defended.to_markdown().splitlines()
    assert lines[1] == "| --- | --- | ---: | ---: | ---: |"
    assert lines[3] == "|  | FGSM |  |  | 3.2 % (2.3 to 4.5) |"
    assert lines[5] == "|  | FGSM | 50.0 % (46.9 to 53.1) | 30.0 % (27.2 to 32.9) | 10.0 % (8.3 to 12.0) |"
    assert "Flag, name: Something is odd. (Somebody 2018)" in lines


def test_csv_has_a_line_for_each_score_and_all_its_numbers(report, defended, tmp_path):
    text = defended.to_csv(tmp_path / "report.csv")
    assert (tmp_path / "report.csv").read_text() == text
    lines = list(csv.DictReader(text.splitlines()))
    names = [(line["defense"], line["attack"], line["protocol"], line["class"]) for line in lines]
    assert names == [
        ("none", "", "", "Net"),
        ("none", "FGSM", "", "FGSM"),
        ("smoothing", "", "", "Net"),
        ("smoothing", "FGSM", "oblivious", "FGSM"),
        ("smoothing", "FGSM", "naive", "FGSM"),
        ("smoothing", "FGSM", "adaptive", "FGSM"),
        ("smoothing", "all together", "oblivious", ""),
        ("smoothing", "all together", "naive", ""),
        ("smoothing", "all together", "adaptive", ""),
    ]
    assert (lines[5]["accuracy"], lines[5]["low"], lines[5]["median_l0"]) == ("0.1", "0.083", "")
    assert json.loads(lines[1]["arguments"]) == {"eps": 8 / 255, "bounds": [0.0, 1.0]}
    assert len(list(csv.DictReader(report.to_csv().splitlines()))) == 6


def test_accuracies_in_doubt_are_marked(defended):
    of_naive = Flag("steps too short", "It stops.", "Nobody", defense="smoothing", attack="FGSM", protocol="naive")
    of_model = Flag("zero gradients", "It is flat.", "Nobody", defense="smoothing")
    marked = replace(defended, flags=(of_naive,))
    table = str(marked).splitlines()
    assert table[5] == "           FGSM         50.0 %   30.0 %*   10.0 %"
    assert table[3].endswith(" 3.2 %")
    assert "Accuracies with a * are in doubt: see the flags below." in " ".join(table)
    flags = [line["flags"] for line in csv.DictReader(marked.to_csv().splitlines())]
    assert flags == ["", "", "", "", "steps too short", "", "", "steps too short", ""]
    both = replace(defended, flags=(of_naive, of_model))
    assert str(both).splitlines()[5] == "           FGSM         50.0 %   30.0 %*   10.0 %*"  # the model was not seen
    flags = [line["flags"] for line in csv.DictReader(both.to_csv().splitlines())]
    assert flags[3:6] == ["", "steps too short; zero gradients", "zero gradients"]
    assert r"30.0 %\* (27.2 to 32.9)" in both.to_markdown()
    assert RobustnessReport.from_json(both.to_json()).flags == both.flags
    assert "*" not in str(defended)  # a flag that names no model marks nothing


def test_json_says_everything_and_has_null_for_nan(report):
    content = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert content["schema"] == 2
    assert (content["advkit_version"], content["torch_version"]) == ("0.1.0", "2.15.0+cu132")
    assert (content["images"], content["device"], content["seed"]) == (1000, "cuda:0", 0)
    assert content["scores"][0]["arguments"] == {"eps": 8 / 255, "bounds": [0.0, 1.0]}
    assert content["scores"][3]["success_rate"] is None
    assert "[0, 0, 3],\n" in report.to_json()


def test_json_round_trip_of_text_and_of_files(report, defended, tmp_path):
    path = tmp_path / "report.json"
    for one in (report, defended):
        text = one.to_json(path)
        for source in (text, path, str(path)):
            back = RobustnessReport.from_json(source)
            assert (back.defenses, back.flags, back.failures) == (one.defenses, one.flags, one.failures)
            assert math.isnan(back["FGSM"].median_l0)
            assert (str(back), back.to_csv(), back.to_json()) == (str(one), one.to_csv(), text)


def test_a_full_disk_names_the_report(report, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*report\.md'"):
        report.to_markdown(tmp_path / "report.md")


def test_json_round_trip_of_a_measurement():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    batch = (torch.rand(20, 3, 2, 2), torch.randint(3, (20,)))
    report = advkit.evaluate(model, [batch], [advkit.FGSM(model), advkit.PGD(model, eps=0.5, norm="l2")], [model])
    assert RobustnessReport.from_json(report.to_json()).to_json() == report.to_json()
    assert (report.advkit_version, report.torch_version) == (advkit.__version__, torch.__version__)
    assert type(report.torch_version) is str


@pytest.mark.parametrize(
    "source", ['{"schema": 99}', "{}", "{no json", "[\n" + 999 * "9", '{"schema": 2}', '{"schema": 2, "scores": 1}']
)
def test_json_that_is_no_report(source):
    with pytest.raises(errors.InputError, match="report"):
        RobustnessReport.from_json(source)


def test_scores_are_found_by_their_names(defended):
    assert defended["FGSM"] is defended.attacks[0] is defended.score("FGSM", "none", "naive")
    assert defended.score("FGSM", "smoothing").accuracy == 0.1
    assert defended.score("FGSM", "smoothing", "naive").accuracy == 0.3
    assert defended.protocols == ("oblivious", "naive", "adaptive")
    assert defended.clean_accuracy == 0.841
    for words, wanted in (
        ("no attack is called 'CW'", ("CW",)),
        ("no defense is called 'rounding'", ("FGSM", "rounding")),
        ("no protocol 'black-box'", ("FGSM", "smoothing", "black-box")),
    ):
        with pytest.raises(KeyError, match=words):
            defended.score(*wanted)


def test_a_confusion_matrix(report):
    assert report.defenses[0].confusion_matrix().tolist() == [[3, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert report["nothing"].confusion_matrix().shape == (0, 0)


def test_the_worst_case_over_attacks_with_and_without_a_budget_is_explained():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    loader = [(torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 0, 1]))]
    pgd, deepfool, cw = advkit.PGD(model), advkit.DeepFool(model), advkit.CW(model)
    for attacks, words in (
        (
            [pgd, deepfool],
            '"All together" counts DeepFool, which has no budget, only where images were moved no further than '
            "Linf 8/255.",
        ),
        ([pgd, deepfool, cw], '"All together" counts DeepFool, CW, which have no budget, only where images were moved'),
        ([pgd, advkit.FGSM(model)], None),
        ([deepfool, cw], None),
    ):
        text = " ".join(str(advkit.evaluate(model, loader, attacks, flags=False)).split())
        assert words in text if words else "no budget" not in text
