"""A data set that lies elsewhere than when a model was trained on it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("lightning_fabric")

from aoq_ext import cli
from aoq_ext.data import Vocabulary, load_precomputed
from aoq_ext.training import ConfigError, OfflineLists, TrainConfig, load_config, train
from aoq_ext.training.checkpoint import load_checkpoint
from aoq_ext.training.config import check_same_run, to_dict
from tests.commands.test_recipe import CONFIGS, SHORT, SMALL, Stop, recipe_of, run, stop_at
from tests.tiny_data import write_captions, write_precomputed

FLAGS = {**SMALL["vsepp"], **SHORT, "threads": 1, "run": "run", "data.root": "old/set"}


def config_of(**changes: object) -> TrainConfig:
    given = {name: str(value) for name, value in {**FLAGS, **changes}.items()}
    return load_config(CONFIGS / "f30k" / "vsepp-round1.yaml", **given)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_precomputed(tmp_path / "old" / "set")
    return tmp_path


@pytest.fixture
def moved(folder: Path) -> Path:
    """A run whose data has moved."""
    train(config_of())
    (folder / "new").mkdir()
    return (folder / "old" / "set").rename(folder / "new" / "set")


@pytest.mark.parametrize(
    "command", [["eval", "--run", "run"], ["mine", "--run", "run", "--out", "lists"]], ids="-".join
)
def test_a_run_finds_its_data_elsewhere(moved: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert cli.main(command) == 1
    assert capsys.readouterr().err == (
        f"aoq {command[0]}: error: data.root: expected the folder with the data, got old/set, which does not exist: "
        f"looked for {moved.parent.parent}/old/set (relative to the current folder, {moved.parent.parent}); where it "
        f"moved, name the new folder (--data.root of aoq train, --root of the other commands)\n"
    )
    assert cli.main([*command, "--root", "new/set"]) == 0, capsys.readouterr().err


def test_what_is_mined_and_measured_there(folder: Path) -> None:
    train(config_of())
    assert cli.main(["mine", "--run", "run", "--out", "before"]) == 0
    assert cli.main(["eval", "--run", "run", "--json", "before.json"]) == 0
    (folder / "old").rename(folder / "new")
    with_report = ["--k-text", "300", "--report", "page.html"]
    assert cli.main(["mine", "--run", "run", "--out", "after", "--root", "new/set", *with_report]) == 0
    assert cli.main(["eval", "--run", "run", "--json", "after.json", "--root", "new/set"]) == 0
    assert OfflineLists.load("after").fingerprint() == OfflineLists.load("before").fingerprint()
    before, after = (json.loads(Path(f"{name}.json").read_text())["test"] for name in ("before", "after"))
    assert after == before
    assert Path("page.html").is_file()
    shutil.copytree("run", "run2")
    for roots, status in ((["new/set"], 0), (["new/set", "new/../new/set"], 0), (["new/set"] * 3, 2)):
        options = [part for root in roots for part in ("--root", root)]
        assert cli.main(["eval", "--run", "run", "--run", "run2", *options]) == status


def test_the_option_goes_with_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", "--scores", "x.npy", "--root", "new"]) == 2
    assert "--root goes with --run" in capsys.readouterr().err
    assert (
        cli.main(["mine", "--anchors", "x.npy", "--candidates", "x.npy", "--k", "1", "--out", "o", "--root", "n"]) == 2
    )
    assert "--root does not go with --anchors" in capsys.readouterr().err


def test_a_stopped_run_goes_on_with_the_data_elsewhere(folder: Path) -> None:
    train(config_of(run="whole"))
    with pytest.raises(Stop):
        train(config_of(), on_step=stop_at(4))
    (folder / "old").rename(folder / "new")
    flags = [f"--{name}={value}" for name, value in {**FLAGS, "data.root": "new/set"}.items()]
    assert cli.main(["train", "--config", str(CONFIGS / "f30k" / "vsepp-round1.yaml"), "--resume", *flags]) == 0
    weights, expected = (load_checkpoint(f"{run}/last.ckpt")["model"] for run in ("run", "whole"))
    assert all(weights[name].equal(expected[name]) for name in expected)
    assert load_config("run/config.yaml").data.root == "new/set"


def test_other_data_is_refused(moved: Path) -> None:
    captions = load_precomputed("train", moved).captions
    write_captions(moved, "train", captions[::-1])
    with pytest.raises(
        ConfigError,
        match=r"run: the training set of the run to resume changed since it was started \(data.root was old/set, is "
        r"new/set\); name the one it was started with, or start a new run",
    ):
        train(config_of(**{"data.root": "new/set"}), resume=True)


def test_lists_and_vocabularies_may_move_too(folder: Path) -> None:
    data = load_precomputed("train", "old/set")
    Vocabulary.build(data.captions).save("old/set/set_vocab.json")
    train(config_of(run="first"))
    assert cli.main(["mine", "--run", "first", "--out", "lists", "--k-text", "30", "--k-image", "9"]) == 0
    changes = {
        "loss.objective": "adaptive_quintuplet", "offline.top_texts": 30, "offline.top_images": 9,
        "data.tokenizer.factory": "aoq_ext.data.read_vocabulary",
    }  # fmt: skip
    tokenizer = "data.tokenizer.args.path"
    with pytest.raises(Stop):
        train(
            config_of(**changes, **{"offline.lists": "lists", tokenizer: "old/set/set_vocab.json"}), on_step=stop_at(4)
        )
    (folder / "old").rename(folder / "new")
    (folder / "lists").rename(folder / "new" / "lists")
    there = {"offline.lists": "new/lists", tokenizer: "new/set/set_vocab.json", "data.root": "new/set"}
    train(config_of(**changes, **there), resume=True)


def test_other_arguments_may_not_change() -> None:
    before = to_dict(TrainConfig())
    before["data"]["args"] = {"pictures": "old/images", "size": 3}
    for args, refused in (
        ({"pictures": "new/images", "size": 3}, None),
        ({"pictures": "old/others", "size": 3}, "data.args.pictures"),
        ({"pictures": "old/images", "size": 4}, "data.args.size"),
    ):
        after = {**before, "data": {**before["data"], "args": args}}
        if refused is None:
            check_same_run(after, before)
        else:
            with pytest.raises(ConfigError, match=f"{refused}: the run to resume was started with"):
                check_same_run(after, before)


def test_a_recipe_goes_on_with_data_and_folder_elsewhere(folder: Path) -> None:
    results, _ = run(recipe_of("vsepp", "f30k", Path("old/set"), Path("out")))
    (folder / "old").rename(folder / "new")
    (folder / "out").rename(folder / "there")
    again, output = run(recipe_of("vsepp", "f30k", Path("new/set"), Path("there")), on_step=stop_at(1))
    assert again == results
    assert output.count("done before") == 5
