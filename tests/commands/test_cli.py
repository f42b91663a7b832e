"""The command line, end to end on a toy data set."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lightning_fabric")

import yaml

import aoq_command
from aoq_ext import cli
from aoq_ext.training.config import to_dict
from aoq_ext.training.parse import load_config, parse_config
from tests.training.test_toy import toy_config


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(to_dict(toy_config(tmp_path / "round1", epochs=2))))
    return path


def test_train_mine_train_again_and_evaluate(
    tmp_path: Path, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "--config", str(config_file)]) == 0
    output = capsys.readouterr().out
    assert "epoch   2/2" in output
    assert f"the run is in {tmp_path / 'round1'}" in output.replace("\n", "")

    lists = str(tmp_path / "lists")
    assert (
        cli.main(["mine", "--run", str(tmp_path / "round1"), "--out", lists, "--k-text", "12", "--k-image", "6"]) == 0
    )
    assert "12 texts for each of 40 images, 6 images for each of 80 texts" in capsys.readouterr().out

    second = ["--run", str(tmp_path / "round2"), "--loss.objective", "adaptive_quintuplet", "--offline.lists", lists]
    assert cli.main(["train", "--config", str(config_file), *second]) == 0
    assert cli.main(["train", "--config", str(config_file), *second, "--resume"]) == 0
    assert cli.main(["train", "--config", str(config_file), *second]) == 1
    capsys.readouterr()

    assert cli.main(["eval", "--run", str(tmp_path / "round2"), "--split", "val", "--split", "train"]) == 0
    output = capsys.readouterr().out
    assert "rsum" in output
    assert "toy/val: 20 images and all their 40 captions" in output
    assert json.loads((tmp_path / "round2" / "metrics.json").read_text()).keys() == {"val", "train"}


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ([], 2, "usage: aoq COMMAND"),
        (["fly"], 2, "there is no command 'fly'"),
        (["train", "--epochs", "x"], 2, "epochs"),
        (["train", "--epoch", "3"], 2, "--epoch"),
        (["train", "--config", "missing.yaml"], 2, "missing.yaml"),
        (["train", "--run", "unused", "--warmup_epochs", "99"], 1, "warmup_epochs: expected a number from 0 to epochs"),
        (["mine"], 2, "--run, --out"),
        (["mine", "--run", "a", "--out", "b", "--k-text", "0"], 2, "expected a positive whole number, got '0'"),
        (["eval", "--run", "nowhere"], 1, "expected the folder of a training run, but nowhere/config.yaml is missing"),
        (["demo", "--fast"], 2, "--fast"),
    ],
)
def test_errors_are_one_line_with_the_right_status(
    command: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(command) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    if command and command[0] != "fly":
        assert captured.err.startswith(f"aoq {command[0]}: error: ")
        assert captured.err.count("\n") == 1


def test_an_unknown_split_names_the_known_ones(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "--config", str(config_file), "--epochs", "1"]) == 0
    assert cli.main(["eval", "--run", str(tmp_path / "round1"), "--split", "nope"]) == 1
    assert "split: expected train or val, got 'nope'" in capsys.readouterr().err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="training run"):
        cli.main(["eval", "--run", "nowhere", "--debug"])
    monkeypatch.setenv("AOQ_DEBUG", "1")
    with pytest.raises(ValueError, match="training run"):
        cli.main(["eval", "--run", "nowhere"])


def test_a_missing_extra_names_the_cure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    assert cli.main(["train"]) == 1
    assert 'jsonargparse, which is not installed: pip install "aoq_ext[train]"' in capsys.readouterr().err


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    output = capsys.readouterr().out
    assert all(f"  {name}" in output for name in NAMES)


def test_python_dash_m_is_the_same(tmp_path: Path) -> None:
    result = run_python("-m", "aoq_ext", "fly")
    assert result.returncode == 2
    assert "there is no command 'fly'" in result.stderr


HEAVY = ("torch", "numpy", "PIL", "lightning_fabric", "rich", "safetensors", "tensorboard")
NAMES = ("train", "mine", "eval", "recipe", "data", "demo", "doctor")


def run_command(code: str, *arguments: str, **settings: str | None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, which then executes ``code``."""
    start = f"import sys, atexit, aoq_command; atexit.register(exec, {code!r}, globals()); sys.exit(aoq_command.main())"
    return run_python("-c", start, *arguments, **settings)


def run_python(*arguments: str, **settings: str | None) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **settings}
    environment = {name: value for name, value in variables.items() if value is not None}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


@pytest.mark.parametrize(
    "command",
    [[], ["--help"], ["--version"], ["fly", "-h"], ["data", "verify", "--help"], *([name, "--help"] for name in NAMES)],
    ids=" ".join,
)
def test_looking_at_the_command_line_imports_nothing_heavy(command: list[str]) -> None:
    result = run_command(f"print('heavy:', *[name for name in {HEAVY} if name in sys.modules])", *command)
    assert result.returncode == (2 if command in ([], ["fly", "-h"]) else 0)
    assert "heavy:\n" in result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["--help", "doctor"])
def test_a_missing_package_is_said_in_a_line(command: str, tmp_path: Path) -> None:
    (tmp_path / "aoq_command.py").write_bytes(Path(aoq_command.__file__).read_bytes())
    code = f"import sys; sys.path[0] = {str(tmp_path)!r}; import aoq_command; sys.exit(aoq_command.main())"
    result = run_python("-S", "-E", "-c", code, command)  # without installed packages
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "✗ aoq_ext cannot be imported: No module named 'aoq_ext'\n"


def test_help_of_training_lists_every_entry() -> None:
    output = run_command("", "train", "--help").stdout
    assert all(text in output for text in ("--resume", "--offline.remine_every", "--loss.margin_online"))


WAIT = dict.fromkeys(("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"))
DOCTOR = (("-c", "import aoq_command; raise SystemExit(aoq_command.main())"), ("-u", "-m", "aoq_ext"))


@pytest.mark.parametrize("start", DOCTOR, ids=("aoq", "python -m aoq_ext"))
def test_waiting_threads_sleep_soon_unless_the_user_says_otherwise(start: tuple[str, ...]) -> None:
    """OpenMP says what it read when torch was loaded."""
    for own, read, shown in (
        ({}, "1000", "GOMP_SPINCOUNT=1000"),
        ({"OMP_WAIT_POLICY": "active"}, "30000000000", "OMP_WAIT_POLICY=active"),
        ({"GOMP_SPINCOUNT": "777"}, "777", "GOMP_SPINCOUNT=777"),
    ):
        result = run_python(*start, "doctor", **WAIT | {"OMP_DISPLAY_ENV": "verbose"} | own)
        assert result.returncode == 0, result.stdout
        assert read in re.findall("GOMP_SPINCOUNT = '(.*)'", result.stderr)
        assert re.search(rf"✓ waiting threads +{shown},", result.stdout)


def test_the_library_leaves_the_environment_alone() -> None:
    code = "import os, sys, aoq_ext; sys.exit(any(name in os.environ for name in sys.argv[1:]))"
    assert run_python("-c", code, *WAIT, **WAIT).returncode == 0


def test_help_after_two_dashes_is_a_path() -> None:
    result = run_command("", "data", "verify", "--", "--help")
    assert result.returncode == 1
    assert result.stderr.startswith("aoq data: error: ")
    assert "--help" in result.stderr


def test_readme_names_what_the_configurations_name() -> None:
    root = Path(__file__).resolve().parents[2]
    first, second = (load_config(root / f"configs/icons/{name}.yaml") for name in ("round1", "aoq"))
    readme = (root / "README.md").read_text()
    assert f"aoq mine --run {first.run} --out {second.offline.lists}" in readme
    assert f"aoq eval --run {second.run}" in readme


def test_flags_win_wherever_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("epochs: 7\nwarmup_epochs: 1\nseed: 3\n")
    for arguments in (["--epochs", "5", "--config", str(file)], [f"--config={file}", "--epochs", "5"]):
        config = parse_config(arguments)
        assert (config.epochs, config.seed) == (5, 3)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("aoq_ext ")
