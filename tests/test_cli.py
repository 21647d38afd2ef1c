"""The command, in this process but for one test."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import advkit
from advkit._command.images import images_named, left_behind
from advkit._command.loading import model_named
from advkit._command.saving import _folders
from advkit._command.written import arguments, made, number
from advkit.attacks.transfer import Momentum
from advkit.cli import main
from advkit.errors import InputError

MODULE = """
import torch

def make(classes=4):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 36, classes))

def fails():
    raise RuntimeError("no weights here")

def leaves():
    raise SystemExit(3)

def three():
    return 3

number = 3
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a module, weights, and the same images as a folder of PNGs and as arrays."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "nets_of_a_user.py").write_text(MODULE)
    scope = {}
    exec(MODULE, scope)
    torch.manual_seed(1)
    model = scope["make"]()
    with torch.no_grad():
        model[1].weight.sub_(model[1].weight.mean(1, keepdim=True))  # which the weights have and the factory does not
    images = torch.randint(256, (24, 3, 6, 6), dtype=torch.uint8)
    labels = model(images / 255).argmax(1)
    assert len(set(labels.tolist())) > 1
    labels[0] = (labels[0] + 1) % 4
    for row, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        (folder / "photos" / "abcd"[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "photos" / "abcd"[label] / f"{row:02d}.png")
    for name in "abcd":
        (folder / "photos" / name).mkdir(exist_ok=True)
    np.savez(folder / "arrays.npz", images=images.permute(0, 2, 3, 1).numpy(), labels=labels.numpy())
    np.savez(folder / "floats.npz", images=images.numpy().astype(np.float32) / 255, labels=labels.numpy()[:, None])
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, folder / "net.pt")
    torch.save(model, folder / "whole.pt")
    (folder / "junk.pt").write_text("junk")
    return folder


@pytest.fixture
def run(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(*words):
        code = main(list(words))
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


MODEL = ["--model", "nets_of_a_user:make", "--weights", "net.pt"]
OTHER = "nets_of_a_user:make(classes=4)"


def test_evaluate_writes_a_report_and_goes_on(run, place):
    words = ["evaluate", *MODEL, "--model-args", "classes=4", "--data", "photos", "--eps", "12/255", "--out", "report"]
    words += ["--curve", "0,12/255"]
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    report = advkit.RobustnessReport.from_json(place / "report" / "report.json")
    assert str(report) in out
    assert "PGD(eps=12/255, steps=20)" in out
    assert (report.verdict, report.worst[0].within) == ("standard", {"linf": 12 / 255})
    assert (report.images, report.clean_accuracy) == (24, 23 / 24)
    assert 0 < report.robust_accuracy < report.clean_accuracy
    assert report.pictures
    assert {one.name for one in (place / "report").iterdir()} >= {"report.html", "report.md", "report.csv", "run"}
    page = (place / "report" / "report.html").read_text(encoding="utf-8")
    assert "Robustness of nets_of_a_user:make(classes=4)" in page
    assert '<svg class="chart"' in page
    before = (place / "report" / "report.json").read_text()
    assert run(*words)[0] == 0
    assert (place / "report" / "report.json").read_text() == before  # seconds and all: nothing was measured again
    code, _, err = run(*words[:-2], "--attacks", "FGSM")
    assert code == 2
    assert "holds a run with other" in err


def test_arrays_hold_the_images_of_the_folder(run):
    found = []
    for data in ("arrays.npz", "floats.npz"):
        code, out, _ = run("evaluate", *MODEL, "--data", data, "--attacks", "FGSM(eps=12/255)", "--json")
        assert code == 0
        found.append(json.loads(out))
    folder = json.loads(
        run("evaluate", *MODEL, "--data", "photos", "--attacks", "FGSM", "--eps", "12/255", "--json")[1]
    )
    name = "FGSM_eps_12_255/accuracy"
    assert found[0]["clean_accuracy"] == found[1]["clean_accuracy"] == folder["clean_accuracy"] == 23 / 24
    assert found[0][name] == found[1][name] == folder[name] < 23 / 24
    assert isinstance(found[0]["red_flags"], list)


def test_exit_codes_for_scripts(run):
    words = ["evaluate", *MODEL, "--data", "arrays.npz", "--attacks", "PGD(eps=0.5)", "--json"]
    assert run(*words, "--fail-under", "0")[0] == 0
    code, out, err = run(*words, "--fail-under", "40%")
    assert code == 1
    assert json.loads(out)["robust_accuracy"] < 0.4
    assert "is below 40" in err
    assert run(*words, "--fail-under", "140")[0] == 2
    assert run("evaluate")[0] == 2
    assert run("--help")[0] == 0
    assert run()[0] == 2


def test_images_from_another_model(run):
    words = ["evaluate", *MODEL, "--data", "arrays.npz", "--attacks", "FGSM(eps=12/255)", "--json"]
    code, out, err = run(*words, "--transfer-from", "nets_of_a_user:make", "net.pt", "--transfer-from", OTHER)
    assert (code, err) == (0, "")
    numbers = json.loads(out)
    key = "{}FGSM_eps_12_255/accuracy".format
    assert numbers[key("transferred/nets_of_a_user_make_net.pt/")] == numbers[key("")]  # the same weights
    assert numbers[key("")] < numbers[key("transferred/nets_of_a_user_make_classes_4/")]
    for wrong, sentence in (
        (["net.pt", "net.pt"], "got 2 files"),
        (["--transfer-from", OTHER], f"names {OTHER} twice"),
    ):
        code, _, err = run(*words, "--transfer-from", OTHER, *wrong)
        assert code == 2
        assert sentence in err


def test_half_of_the_images_are_spread_over_all(run):
    code, out, _ = run("evaluate", *MODEL, "--data", "arrays.npz", "--attacks", "FGSM", "--images", "3", "--json")
    assert (code, json.loads(out)["images"]) == (0, 3)
    assert json.loads(out)["clean_accuracy"] == pytest.approx(2 / 3)  # of images 0, 8 and 16


@pytest.mark.parametrize("attack", ["PGD(eps=24/255, steps=5)", "CW"])
def test_pngs_still_fool(run, place, tmp_path, attack):
    folder = tmp_path / "adversarial"
    code, out, _ = run("attack", *MODEL, "--data", "photos", "--attack", attack, "--out", str(folder), "--json")
    said = json.loads(out)
    assert (code, said["images"], said["right"]) == (0, 24, 23)
    assert said["fooled"] > 10
    model = model_named("nets_of_a_user:make", weights=str(place / "net.pt"))
    fooled = 0
    rows = list(csv.DictReader((folder / "index.csv").read_text().splitlines()))
    for row in rows:
        pixels = [
            np.array(Image.open(base / row[name])) for base, name in ((folder, "file"), (place / "photos", "original"))
        ]
        was, now = (int(model(torch.from_numpy(one).permute(2, 0, 1)[None] / 255).argmax()) for one in reversed(pixels))
        assert (str(was), str(now)) == (row["before"], row["after"])
        assert (row["fooled"] == "True") == (was == int(row["label"]) != now)
        fooled += row["fooled"] == "True"
        if attack.startswith("PGD"):
            assert np.abs(pixels[0].astype(int) - pixels[1]).max() <= 24
    assert fooled == said["fooled"]
    assert sorted(one.name for one in folder.iterdir() if one.is_dir()) == list("abcd")
    code, out, _ = run("evaluate", *MODEL, "--data", str(folder), "--attacks", "FGSM", "--json")
    assert json.loads(out)["clean_accuracy"] == pytest.approx(said["accuracy"])
    code, _, err = run("attack", *MODEL, "--data", "photos", "--attack", attack, "--out", str(folder))
    assert code == 2
    assert "is not empty" in err


def test_arrays_that_were_attacked_are_read_again(run, tmp_path):
    file = str(tmp_path / "adversarial.npz")
    code, out, _ = run("attack", *MODEL, "--data", "arrays.npz", "--attack", "CW", "--out", file)
    assert code == 0
    assert "23 of the 23 images" in out
    code, out, _ = run("evaluate", *MODEL, "--data", file, "--attacks", "FGSM", "--json")
    assert json.loads(out)["clean_accuracy"] == 0


def test_list_says_what_attacks_say(run):
    code, out, _ = run("list")
    assert code == 0
    assert all(name in out for name in advkit.attacks.__all__)
    code, out, _ = run("list", "PGD")
    assert "steps = 10\n      an integer, at least 1\n      how many steps" in out
    code, out, _ = run("list", "--json")
    described = {one["name"]: one for one in json.loads(out)}
    assert described.keys() == set(advkit.attacks.__all__)
    assert described["PGD"]["arguments"][0]["default"] == "8/255"
    assert described["PGD"]["link"] == "https://arxiv.org/abs/1706.06083"
    assert run("list", "PDG")[0] == 2


def test_compare(run, tmp_path):
    for name, eps in (("strong", "24/255"), ("weak", "1/255")):
        run(
            "evaluate", *MODEL, "--data", "arrays.npz", "--attacks", "FGSM", "--eps", eps, "--out", str(tmp_path / name)
        )
    files = [str(tmp_path / "weak"), str(tmp_path / "strong" / "report.json")]
    code, out, _ = run("compare", *files)
    assert code == 0
    assert "The budgets differ: Linf 1/255 in the first, Linf 24/255 in the second." in out
    index = re.search(r"^class (\d) \(", out, re.MULTILINE)[1]
    assert f"\n{'abcd'[int(index)]} (" in run("compare", *files, "--data", "photos")[1]
    assert run("compare", *files, "--fail-if-worse")[0] == 1
    code, out, _ = run("compare", *reversed(files), "--json", "--fail-if-worse")
    assert (code, json.loads(out)["better"]) == (0, "second")
    run(
        "evaluate",
        *MODEL,
        "--data",
        "arrays.npz",
        "--images",
        "9",
        "--attacks",
        "FGSM",
        "--out",
        str(tmp_path / "other"),
    )
    code, _, err = run("compare", files[0], str(tmp_path / "other" / "report.json"))
    assert code == 2
    assert "about different images" in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model", "net.pt", "--data", "photos"], "A file of weights goes to --weights"),
        (["--model", "no_such_module:make", "--data", "photos"], "there is no module 'no_such_module'"),
        (["--model", "nets_of_a_user:nope", "--data", "photos"], "has no 'nope'"),
        (["--model", "nets_of_a_user:number", "--data", "photos"], "is a int, not a function"),
        (["--model", "nets_of_a_user:fails", "--data", "photos"], "raised RuntimeError: no weights here"),
        (["--model", "nets_of_a_user:leaves", "--data", "photos"], "raised SystemExit: 3"),
        (
            ["--model", "nets_of_a_user:make", "--weights", "junk.pt", "--data", "photos"],
            "is not a file of weights that torch",
        ),
        ([*MODEL, "--data", "nets_of_a_user:fails"], "raised RuntimeError: no weights here"),
        ([*MODEL, "--data", "nets_of_a_user:three"], "returned a int; images come from"),
        ([*MODEL, "--data", "photos", "--device", "cuda:99"], "cannot be put on cuda:99"),
        ([*MODEL, "--data", "photos", "--batch-size", "0"], "must be an integer, at least 1; got 0"),
        ([*MODEL, "--data", "photos", "--workers", "-1"], "must be an integer, at least 0; got -1"),
        (["--model", "nets_of_a_user:make", "--weights", "whole.pt", "--data", "photos"], "holds more than tensors"),
        (
            ["--model", "nets_of_a_user:make", "--model-args", "5", "--weights", "net.pt", "--data", "photos"],
            "does not fit",
        ),
        (["--model", "torch.nn:Identity", "--weights", "net.pt", "--data", "photos"], "weights of another network"),
        ([*MODEL, "--data", "nowhere"], "is neither a folder of class folders"),
        ([*MODEL, "--data", "torchvision:Nope"], "has no data set 'Nope'"),
        ([*MODEL, "--data", "photos", "--mean", "0.5"], "needs both --mean and --std"),
        ([*MODEL, "--data", "photos", "--attacks", "PGD(step=5)"], "did you mean steps? It takes"),
        ([*MODEL, "--data", "photos", "--attacks", "Sqare"], "did you mean Square?"),
        ([*MODEL, "--data", "photos", "--attacks", "PGD(steps=0)"], "steps must be at least 1, got 0"),
        ([*MODEL, "--data", "photos", "--attacks", "FGSM", "--norm", "l2"], "FGSM is in Linf, but --norm is l2"),
        ([*MODEL, "--data", "photos", "--norm", "l2"], "needs a budget"),
        ([*MODEL, "--data", "photos", "--eps", "8"], "eight of the 256 levels of an 8-bit image are 8/255"),
        (
            [*MODEL, "--data", "photos", "--attacks", "CW, PGD(eps=2)"],
            "eps=2 in Linf is wider than the range",
        ),
    ],
)
def test_mistakes_are_sentences(run, words, sentence):
    code, out, err = run("evaluate", *words)
    assert (code, out) == (2, "")
    assert sentence in err
    assert "Traceback" not in err


def test_what_lies_about_in_a_folder_is_no_image(tmp_path):
    picture = np.full((4, 4), 128, np.uint8)
    for name in ("a", "b", "__MACOSX", ".cache"):
        (tmp_path / name).mkdir()
        Image.fromarray(picture).save(tmp_path / name / "one.png")
    (tmp_path / "a" / "._one.png").write_bytes(b"Mac OS X")
    (tmp_path / "a" / "folder.png").mkdir()
    Image.fromarray(picture.astype(np.uint16) * 257).save(tmp_path / "b" / "sixteen_bits.png")
    found = images_named(str(tmp_path), batch_size=9)
    assert (found.classes, found.files) == (["a", "b"], ["a/one.png", "b/one.png", "b/sixteen_bits.png"])
    ((images, labels),) = found.loader
    assert labels.tolist() == [0, 1, 1]
    assert images.unique().tolist() == [pytest.approx(128 / 255)]


def test_a_class_of_any_name_has_a_folder_that_is_read_again(tmp_path):
    for names in (["..", "a"], [".hidden", "a"], ["", "a"], ["__MACOSX", "a"]):
        folders = _folders(names, 1)
        for name in folders:
            (tmp_path / "".join(names) / name).mkdir(parents=True)
        images = [one for one in sorted((tmp_path / "".join(names)).iterdir()) if not left_behind(one)]
        assert [one.name for one in images] == folders


def test_files_that_are_no_reports(run, tmp_path):
    for content in (b"[1]", b"\xff\xfe"):
        (tmp_path / "it.json").write_bytes(content)
        code, _, err = run("compare", str(tmp_path / "it.json"), "photos")
        assert code == 2
        assert "not a report that advkit wrote" in err


def test_arrays_that_are_none_or_lie_otherwise(tmp_path):
    file = tmp_path / "it.npz"
    for images in (np.zeros((2, 8, 8, 3), np.float32), np.zeros((2, 3, 8, 8), np.uint8)):
        np.savez(file, images=images, labels=[0, 1])
        with pytest.raises(InputError, match="they must be uint8"):
            images_named(str(file), batch_size=2)
    file.write_bytes(file.read_bytes()[:400])
    with pytest.raises(InputError, match="cannot be read as arrays of numbers"):
        images_named(str(file), batch_size=2)


def test_attacks_are_read_and_not_run(place):
    model = torch.nn.Flatten()
    found = made(
        "PGD(8/255, steps=40, norm='l2'), WorstOf([FGSM, CW(steps=3)]), Transfer([Momentum(0.5)])", model, {"eps": 0.1}
    )
    pgd, worst, transfer = found
    assert (pgd.eps, pgd.steps, pgd.norm, pgd.model) == (8 / 255, 40, "l2", model)
    assert [type(one).__name__ for one in worst.attacks] == ["FGSM", "CW"]
    assert worst.attacks[0].eps == 0.1  # which it was not given itself
    assert isinstance(transfer.parts[0], Momentum)
    assert number("-8/255") == -8 / 255
    assert arguments("'resnet18', sizes=[1, (2, 3)], x=None") == (["resnet18"], {"sizes": [1, (2, 3)], "x": None})
    for text in (
        "open('x')",
        "PGD(eps=open('x'))",
        "PGD(eps=2**9)",
        "PGD(**{})",
        "[].append",
        "lambda: 1",
        "PGD(",
        "3",
        "",
    ):
        with pytest.raises(InputError):
            made(text, model, {})


def test_weights_that_fill_a_part_alone_are_refused(place, tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    torch.save(torch.nn.Linear(3, 3).state_dict(), tmp_path / "part.pt")
    from advkit._command.loading import load_weights

    with pytest.raises(InputError, match="another network"):
        load_weights(model, str(tmp_path / "part.pt"))
    inner = torch.nn.Linear(3, 3)
    torch.save(inner.state_dict(), tmp_path / "inner.pt")
    normalised = advkit.Normalized(torch.nn.Linear(3, 3), 0.5, 0.5)
    load_weights(normalised, str(tmp_path / "inner.pt"))
    assert torch.equal(normalised.net.weight, inner.weight)


def test_a_normalisation_is_given_or_read_off_the_model():
    given = model_named("torch.nn:Identity", mean=[0.5], std=[0.25])
    assert isinstance(given, advkit.Normalized)
    assert float(given(torch.ones(1, 1, 1, 1))) == 2
    with pytest.raises(InputError, match="omit --mean and --std"):
        model_named("torch.nn:Identity", mean=[0.5], std=[0.25], own_normalisation=True)
    with pytest.raises(InputError):
        model_named("torch.nn:Identity", own_normalisation=True)  # which says nothing of it


def test_safetensors(place, tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    from advkit._command.loading import load_weights

    inner, model = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    save_file(inner.state_dict(), tmp_path / "net.safetensors")
    load_weights(model, str(tmp_path / "net.safetensors"))
    assert torch.equal(model.weight, inner.weight)


def test_as_a_program(place):
    """In a process of its own, by ``python -m advkit``, from a directory that only it knows as its own."""
    paths = [str(Path(advkit.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    words = ["evaluate", *MODEL, "--data", "arrays.npz", "--attacks", "FGSM(eps=0.5)", "--fail-under", "50"]
    done = subprocess.run(
        [sys.executable, "-m", "advkit", *words],
        cwd=place,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "FGSM(eps=0.5)" in done.stdout
