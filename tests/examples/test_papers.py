"""The four reproductions at a scale of seconds: they run from end to end, and go on after a kill."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

PAPERS = Path(__file__).parents[2] / "examples" / "papers"
SHARED = ("images", "networks", "plots", "study", "summary", "training")
CLASSES = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images that tell their class by their brightness, in the files that the scripts read."""
    folder = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    for name, shape in {"cifar10": (32, 32, 3), "mnist": (28, 28), "gtsrb": (32, 32, 3)}.items():
        arrays = {}
        for split, count in (("train", 200), ("test", 20)):
            labels = draw.integers(CLASSES, size=count)
            arrays[f"y_{split}"] = np.sort(labels) if (name, split) == ("gtsrb", "train") else labels
            light = 90 * arrays[f"y_{split}"].reshape(-1, *[1] * len(shape))
            arrays[f"x_{split}"] = (light + draw.integers(50, size=(count, *shape))).astype(np.uint8)
        np.savez(folder / f"{name}.npz", **arrays)
    return folder


@pytest.fixture
def example(monkeypatch):
    """The modules of the examples by name, imported anew and forgotten afterwards."""
    monkeypatch.syspath_prepend(str(PAPERS))

    def load(name):
        if name in SHARED:
            return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location(name, PAPERS / name / "run.py")
        # A verdict on paper 1's six defenses takes 20 seconds an image: of its 43 classes none is near.
        monkeypatch.setattr(load("study"), "JUDGED", 0 if name == "paper1" else 1)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in SHARED:
        sys.modules.pop(name, None)


@pytest.fixture
def started(example, monkeypatch):
    """The names of the measurements, as they begin; the one whose name is put into the set is killed."""
    study = example("study")
    names, killed = [], set()
    once = study.Study.once

    def watched(self, name, measure):
        def measured():
            names.append(name)
            if name in killed:
                raise KeyboardInterrupt
            return measure()

        return once(self, name, measured)

    monkeypatch.setattr(study.Study, "once", watched)
    return names, killed


@pytest.mark.parametrize("paper", ["paper1", "paper2", "paper3", "paper4"])
def test_it_runs_and_goes_on_after_a_kill(paper, data, tmp_path, example, started, capsys):
    names, killed = started
    run = example(paper)
    arguments = ["--data", str(data), "--scale", "tiny", "--device", "cpu", "--out", str(tmp_path)]
    run.main(arguments)
    done, names[:] = list(names), []
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert list(results["measured"]) == done == list(dict.fromkeys(done))
    assert (results["about"]["paper"], results["about"]["scale"]["name"]) == (paper, "tiny")
    report = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == report.strip()
    assert str(data) not in report + json.dumps(results)
    for table in results["tables"]:
        assert table["title"] in report
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert len(pictures) == report.count("![") > 0
    assert all(f"]({picture})" in report for picture in pictures)

    # A run that was killed in the middle: what it had measured stays, the rest is measured by the next run.
    middle = len(done) // 2
    results["measured"] = {name: results["measured"][name] for name in done[:middle]}
    (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
    killed.add(done[middle + 1])
    with pytest.raises(KeyboardInterrupt):
        run.main(arguments)
    assert names == done[middle : middle + 2]
    killed.clear()
    names.clear()
    run.main(arguments)
    assert names == done[middle + 1 :]
    again = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert list(again["measured"]) == done


def test_a_report_measures_nothing(data, tmp_path, example, started):
    names, _ = started
    arguments = ["--data", str(data), "--scale", "tiny", "--device", "cpu", "--out", str(tmp_path)]
    run = example("paper2")
    run.main(arguments)
    before = (tmp_path / "results.md").read_text(encoding="utf-8")
    here, elsewhere = f"torch {torch.__version__}:", "torch 9.9:"
    assert here in before
    results = tmp_path / "results.json"
    results.write_text(results.read_text(encoding="utf-8").replace(torch.__version__, "9.9"), encoding="utf-8")
    names.clear()
    run.main([*arguments, "--report"])
    assert not names
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == before.replace(here, elsewhere)


def test_autocast_is_what_networks_are_trained_in(data, tmp_path, example):
    arguments = ["--data", str(data), "--scale", "tiny", "--device", "cpu", "--out"]
    run = example("paper2")
    losses = []
    for folder, options in (("plain", []), ("rounded", ["--autocast"])):
        run.main([*arguments, str(tmp_path / folder), *options])
        results = json.loads((tmp_path / folder / "results.json").read_text(encoding="utf-8"))
        losses.append(results["measured"]["train experiment-1"]["value"])
    plain, rounded = losses
    assert results["about"]["autocast"] == "bfloat16"
    assert rounded != plain
    assert rounded == pytest.approx(plain, rel=0.02)
    with pytest.raises(SystemExit, match="another autocast"):
        run.main([*arguments, str(tmp_path / "rounded")])


def test_a_report_of_nothing_has_dashes(data, tmp_path, example, capsys):
    arguments = ["--data", str(data), "--scale", "tiny", "--device", "cpu", "--out", str(tmp_path), "--report"]
    example("paper2").main(arguments)
    report = capsys.readouterr().out
    assert "Nothing has been measured yet" in report
    assert "| 1 | clean images | none | 80.58 | \N{EN DASH} | \N{EN DASH} | \N{EN DASH} |" in report


def test_the_summary_of_the_papers_is_a_table_of_what_is_kept(example, capsys):
    example("summary").main()
    printed = capsys.readouterr().out
    cells = {line.count("|") for line in printed.splitlines()}
    assert len(cells) == 1
    assert printed == (PAPERS.parents[1] / "docs" / "papers" / "summary.md").read_text(encoding="utf-8")


def test_what_is_not_as_it_was_is_refused(data, tmp_path, example):
    arguments = ["--data", str(data), "--scale", "tiny", "--device", "cpu", "--out", str(tmp_path), "--report"]
    run = example("paper2")
    run.main(arguments)
    with pytest.raises(SystemExit, match="measured with another seed"):
        run.main([*arguments, "--seed", "1"])
    with pytest.raises(SystemExit, match=r"there is no .*--download"):
        run.main([*arguments, "--data", str(tmp_path)])


def test_every_network_takes_32x32_and_gives_logits(example):
    networks = example("networks")
    images = torch.rand(2, 3, 32, 32)
    for name in networks.__all__:
        small = {"AlexNet": {"hidden": 32}, "ResNet50": {"width": 4}}.get(name, {})
        network = getattr(networks, name)(classes=7, **small).eval()
        logits = network(images)
        assert logits.shape == (2, 7), name
        assert torch.allclose(logits[:1], network(images[:1]), atol=1e-5), name  # images don't see each other
    assert torch.allclose(networks.SmallCNN()(images).exp().sum(1), torch.ones(2))


def test_the_resnet_is_torchvisions(example):
    from torchvision.models import resnet50

    theirs = resnet50(num_classes=10).eval()
    ours = example("networks").ResNet50().eval()

    # Both have a block's way first and its shortcut last.
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    for size in (32, 40):  # maps of 1 to 8 pixels a side, even and odd
        images = torch.rand(2, 3, size, size)
        with torch.no_grad():
            assert torch.allclose(ours(images), theirs(images), atol=1e-4)


def test_no_track_is_in_both_parts(example):
    images = example("images")
    pixels = torch.zeros(105, 3, 1, 1, dtype=torch.uint8)
    pixels[:, 0, 0, 0] = torch.arange(105)
    labels = torch.tensor([0] * 45 + [1] * 60)
    parts = images.split_by_track(images.Images(pixels, labels), share=0.3)
    tracks = [set((part.pixels[:, 0, 0, 0] // 15).tolist()) for part in parts]
    assert len(tracks[0]) == 5
    assert len(tracks[1]) == 2
    assert not tracks[0] & tracks[1]
    assert sum(map(len, parts)) == 105


def test_grey_images_of_other_sizes_become_rgb_of_32x32(data, example):
    train, _ = example("images").load("mnist", data)
    assert train.pixels.shape == (200, 3, 32, 32)
    assert torch.equal(train.pixels[:, 0], train.pixels[:, 2])
    image, label = train[0]
    assert image.dtype == torch.float32
    assert 0 <= float(image.min()) <= float(image.max()) <= 1
    assert label == int(train.labels[0])
