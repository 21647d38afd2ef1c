import json
import math
from dataclasses import replace

import pytest
import torch

import advkit
from advkit import errors
from advkit.evaluation import AttackScore, RobustnessReport


@pytest.fixture
def report():
    nan = math.nan
    return RobustnessReport(
        images=1000,
        clean_accuracy=0.841,
        attacks=(
            AttackScore("FGSM", "FGSM", 0.032, 0.962, 1.737, 8 / 255, 0.00134, {"eps": 8 / 255, "bounds": [0.0, 1.0]}),
            AttackScore("PGD(eps=4/255, alpha=1/255, steps=100, norm='l2')", "PGD", 0.0, 1.0, 12.5, 0.5, 12.0),
            AttackScore("a|b", "FGSM", 0.841, 0.0, nan, nan, 0.001),
            AttackScore("nothing", "FGSM", 0.0, nan, nan, nan, nan),
        ),
        device="cuda:0",
        advkit_version="0.1.0",
        torch_version="2.15.0+cu132",
    )


def test_the_table_to_the_letter(report):
    assert (
        str(report)
        == """\
attack                       accuracy  success  median L2  median Linf  ms/image
--------------------------------------------------------------------------------
none                           84.1 %        -          -            -         -
FGSM                            3.2 %   96.2 %      1.737       0.0314      1.34
PGD(eps=4/255, alpha=1/255,     0.0 %  100.0 %     12.500       0.5000  12000.00
  steps=100, norm='l2')
a|b                            84.1 %    0.0 %          -            -      1.00
nothing                         0.0 %        -          -            -         -

1000 images on cuda:0, advkit 0.1.0, torch 2.15.0+cu132. Only the 841 that the
model gets right are attacked: success and time are over those, medians over the
successes, accuracy over all."""
    )


def test_the_table_fits_80_columns_whatever_the_name(report):
    long = replace(report, attacks=tuple(replace(score, name=score.name * 20) for score in report.attacks))
    assert max(map(len, str(long).splitlines())) <= 80


def test_a_table_without_attacks(report):
    assert str(replace(report, attacks=())).splitlines()[2].split() == ["none", "84.1", "%", "-", "-", "-", "-"]


def test_markdown(report, tmp_path):
    text = report.to_markdown(tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text() == text
    lines = text.splitlines()
    assert lines[0] == "| attack | accuracy | success | median L2 | median Linf | ms/image |"
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: | ---: |"
    assert lines[3] == "| FGSM | 3.2 % | 96.2 % | 1.737 | 0.0314 | 1.34 |"
    assert lines[5].startswith(r"| a\|b | 84.1 % | 0.0 % | - | - |")


def test_json_says_everything_and_has_null_for_nan(report):
    content = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert content["schema"] == 1
    assert (content["advkit_version"], content["torch_version"]) == ("0.1.0", "2.15.0+cu132")
    assert (content["images"], content["device"], content["clean_accuracy"]) == (1000, "cuda:0", 0.841)
    assert content["attacks"][0]["arguments"] == {"eps": 8 / 255, "bounds": [0.0, 1.0]}
    assert content["attacks"][3]["success_rate"] is None


def test_json_round_trip_of_text_and_of_files(report, tmp_path):
    path = tmp_path / "report.json"
    text = report.to_json(path)
    for source in (text, path, str(path)):
        back = RobustnessReport.from_json(source)
        assert back.attacks[:2] == report.attacks[:2]
        assert math.isnan(back.attacks[3].seconds_per_image)
        assert (str(back), back.to_json()) == (str(report), text)


def test_json_round_trip_of_a_measurement():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    batch = (torch.rand(20, 3, 2, 2), torch.randint(3, (20,)))
    report = advkit.evaluate(model, [batch], [advkit.FGSM(model), advkit.PGD(model, eps=0.5, norm="l2")])
    assert RobustnessReport.from_json(report.to_json()).to_json() == report.to_json()
    assert (report.advkit_version, report.torch_version) == (advkit.__version__, torch.__version__)
    assert type(report.torch_version) is str


@pytest.mark.parametrize("source", ['{"schema": 99}', "{}", "{no json"])
def test_json_that_is_no_report(source):
    with pytest.raises(errors.InputError, match="report"):
        RobustnessReport.from_json(source)


def test_an_attack_that_is_not_in_the_report(report):
    assert report["FGSM"].success_rate == 0.962
    with pytest.raises(KeyError, match="no attack is called"):
        report["CW"]
