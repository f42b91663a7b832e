"""``~`` is the home folder in every path that a person writes, and no folder of that name is ever made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lightning_fabric")

from aoq_ext import cli
from aoq_ext._files import expanded, write_bytes_atomically
from aoq_ext.lists.files import mine_to_files
from aoq_ext.training import Component, DataConfig, OfflineLists, TrainConfig, load_run, mine_run, train
from aoq_ext.training.recipe import read_recipe
from tests.commands.test_recipe import CONFIGS, SHORT, SMALL
from tests.tiny_data import write_precomputed
from tests.training.test_toy import toy_config

FLAGS = {**SMALL["vsepp"], **SHORT, "threads": 1}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The home folder; commands are called from another, in which they leave nothing."""
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home, here):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.chdir(here)
    yield home
    assert list(here.iterdir()) == []


def test_what_is_expanded(home: Path) -> None:
    assert expanded("~/a") == f"{home}/a"
    assert expanded(Path("~")) == home
    assert expanded(["~/a", ("~/b", 3), {"path": Path("~/c"), "n": None}]) == [
        f"{home}/a", (f"{home}/b", 3), {"path": home / "c", "n": None},
    ]  # fmt: skip
    for same in ("a/~/b", "./~", "", "no~", "~nobody-of-that-name/x", Path("a/~"), Path("~nobody-of-that-name/x")):
        assert expanded(same) == same


def test_entries_of_a_configuration(home: Path) -> None:
    assert TrainConfig(run="~/runs/x").run == f"{home}/runs/x"
    assert DataConfig(root="~/data", args={"pictures": "~/images"}) == DataConfig(
        root=f"{home}/data", args={"pictures": f"{home}/images"}
    )
    assert Component("a.b", {"path": "~/words.json", "dim": 3}).args == {"path": f"{home}/words.json", "dim": 3}
    recipe = read_recipe(CONFIGS / "f30k" / "vsepp", "~/out", "~/set")
    assert recipe.lists == home / "out" / "negatives"
    assert (recipe.first.run, recipe.second.offline.lists) == (f"{home}/out/round1", f"{home}/out/negatives")


def test_every_command(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_precomputed(home / "set")
    assert cli.main(["data", "verify", "~/set", "--json=~/found/verify.json"]) == 0
    assert json.loads((home / "found" / "verify.json").read_text())["fine"]
    shutil.copy(CONFIGS / "coco" / "vsepp-round1.yaml", home / "round1.yaml")
    text = (home / "round1.yaml").read_text().replace("data/coco_precomp", "~/set")
    (home / "round1.yaml").write_text(text)
    flags = [f"--{name}={value}" for name, value in FLAGS.items()]
    for config in (["--config", "~/round1.yaml"], ["--config=~/round1.yaml", "--resume"]):
        assert cli.main(["train", *config, *flags, "--run=~/runs/first"]) == 0, capsys.readouterr().err
    run = "~/runs/first"
    report = ["--report=~/pages/mined.html", "--k-text=30", "--k-image=9"]
    assert cli.main(["mine", "--run", run, "--out=~/lists", "--root=~/set", *report]) == 0
    assert cli.main(["eval", f"--run={run}", "--root=~/set", "--json=~/result.json"]) == 0
    lists = [
        "--offline.lists=~/lists", "--loss.objective=adaptive_quintuplet", "--offline.top_texts=30",
        "--offline.top_images=9",
    ]  # fmt: skip
    assert cli.main(["train", "--config=~/round1.yaml", *flags, *lists, "--run=~/runs/second"]) == 0
    for name in ("lists/manifest.json", "pages/mined.html", "result.json", "runs/second/last.ckpt"):
        assert (home / name).is_file(), name


def test_a_recipe(home: Path) -> None:
    write_precomputed(home / "set")
    for name in ("vsepp-round1.yaml", "vsepp-aoq.yaml"):
        shutil.copy(CONFIGS / "coco" / name, home / name)
    settings = [part for name, value in FLAGS.items() for part in ("--set", f"{name}={value}")]
    assert cli.main(["recipe", "~/vsepp", "--root=~/set", "--out=~/out", *settings]) == 0
    assert (home / "out" / "metrics.json").is_file()


def test_files_of_embeddings(home: Path) -> None:
    random = np.random.default_rng(0)
    for name, rows in (("images", 4), ("texts", 20)):
        np.save(home / f"{name}.npy", random.standard_normal((rows, 8), dtype=np.float32))
    np.save(home / "index.npy", np.arange(20) // 5)
    files = ["--anchors=~/images.npy", "--candidates", "~/texts.npy", "--text-image-index=~/index.npy"]
    outputs = ["--out=~/lists", "--both", "--authors-layout=~/theirs", "--report=~/page.html"]
    assert cli.main(["mine", *files, "--k", "3", *outputs]) == 0
    assert {path.name for path in home.iterdir()} >= {"lists", "theirs", "page.html"}
    files = ["--images=~/images.npy", "--texts=~/texts.npy", "--text-image-index=~/index.npy"]
    assert cli.main(["eval", *files, "--json=~/result.json"]) == 0
    assert (home / "result.json").is_file()


def test_functions_that_write(home: Path) -> None:
    assert write_bytes_atomically("~/a/b", b"c") == home / "a" / "b"
    rows = np.eye(4, dtype=np.float32)
    assert mine_to_files(rows, rows, "~/mined", 2).folder == home / "mined"
    run = train(toy_config(Path("~/run"), epochs=1))
    assert run == home / "run"
    assert mine_run(load_run("~/run"), k_text=30, k_image=15).save("~/lists") == home / "lists"
    assert OfflineLists.load("~/lists").texts.shape == (40, 30)
