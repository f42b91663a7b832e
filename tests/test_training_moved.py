"""Data that moved after a run was trained on it, and paths in the user's home."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("lightning_fabric")

from test_training_toy import load_toy, toy_config

from aoq_ext import cli
from aoq_ext.data import ImageTextData
from aoq_ext.training import (
    ConfigError,
    DataConfig,
    History,
    OfflineConfig,
    OfflineLists,
    load_config,
    load_run,
    train,
)
from aoq_ext.training.config import to_dict
from aoq_ext.training.run import RunFiles


def load_stored(split: str, root: str | Path = ".") -> ImageTextData:
    """The toy data, of which the images are files below ``root``."""
    data = load_toy(split)
    return ImageTextData(**{**vars(data), "images": np.load(Path(root) / f"{split}.npy")})


def store(folder: Path, add: int = 0) -> Path:
    folder.mkdir(parents=True)
    for split in ("train", "val"):
        np.save(folder / f"{split}.npy", load_toy(split).images + np.uint8(add))
    return folder


class Stop(Exception):
    pass


def stop(steps: int) -> None:
    if steps == 7:
        raise Stop


@pytest.fixture
def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run on data that has another place now; it was stopped after its first checkpoints."""
    monkeypatch.chdir(tmp_path)
    store(Path("before"))
    config = toy_config(Path("run"), data=DataConfig(loader="test_training_moved.load_stored", root="before"))
    with pytest.raises(Stop):
        train(config, on_step=stop)
    shutil.move("before", "after")
    Path("config.yaml").write_text(RunFiles("run").config.read_text())
    return tmp_path


def test_a_run_finds_its_data_elsewhere(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = ["mine", "--run", "run", "--out", "lists", "--k-text", "9", "--k-image", "5"]
    evaluate = ["eval", "--run", "run", "--split", "val"]
    for command in (mine, evaluate):
        assert cli.main(command) == 1
        said = capsys.readouterr().err
        assert "expected the folder of the data, got before, which is not there, relative to " in said
        assert f"the current folder, {moved}" in said
        assert "--root" in said
        assert cli.main([*command, "--root", "after"]) == 0, capsys.readouterr().err
    assert OfflineLists.load("lists").texts.shape == (40, 9)
    assert load_run("run", root="after").config.data.root == "after"


def test_training_goes_on_where_the_data_is_now(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = ["train", "--config", "config.yaml", "--resume"]
    assert cli.main(again) == 1
    assert "data.root: expected the folder of the data, got before, which is not there" in capsys.readouterr().err
    store(Path("other"), add=1)
    assert cli.main([*again, "--data.root", "other"]) == 1
    assert "run: the training set of the run to resume changed" in capsys.readouterr().err
    assert cli.main([*again, "--data.root", "after"]) == 0
    assert len(History.load(RunFiles("run").history).epochs) == 3
    assert cli.main(["eval", "--run", "run", "--split", "val"]) == 0  # it looks where training looked last


def test_paths_in_the_home_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    store(home / "data")
    changes = {"data": DataConfig(loader="test_training_moved.load_stored", root="~/data"), "epochs": 1}
    entries = to_dict(toy_config(Path("~/run"), offline=OfflineConfig(lists="~/lists"), **changes))
    given = {"weights": "~/w", "name": "a~b", "tilde": "~x/y"}
    other = {"factory": "aoq_ext.encoders.ConvEncoder", "args": given}
    Path("config.yaml").write_text(yaml.safe_dump({**entries, "model": {"image_encoder": other}}))
    config = load_config("config.yaml")
    assert config.run == f"{home}/run" and config.data.root == f"{home}/data"
    assert config.offline.lists == f"{home}/lists"
    assert config.model.image_encoder.args == {"weights": f"{home}/w", "name": "a~b", "tilde": "~x/y"}
    Path("config.yaml").write_text(yaml.safe_dump(entries))
    assert cli.main(["train", "--config", "~/../config.yaml"]) == 0
    assert cli.main(["eval", "--run=~/run", "--root=~/data", "--split", "val", "--json=~/result.json"]) == 0
    assert cli.main(["mine", "--run=~/run", "--out=~/lists", "--k-text=9", "--k-image=5"]) == 0
    assert sorted(path.name for path in home.iterdir()) == ["data", "lists", "result.json", "run"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("~")] == []


def test_a_place_that_is_no_folder_is_for_the_loader(tmp_path: Path) -> None:
    config = toy_config(tmp_path / "run", data=DataConfig(loader="test_training_toy.load_toy", root="s3://bucket/data"))
    train(config)
    with pytest.raises(ConfigError, match="got gone, which is not there, relative to"):
        train(toy_config(tmp_path / "two", data=DataConfig(loader="test_training_toy.load_toy", root="gone")))
