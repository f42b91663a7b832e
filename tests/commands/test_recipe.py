"""The papers' recipes: their files, and the whole of them on a tiny set of the same format."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml  # type: ignore[import-untyped]

pytest.importorskip("lightning_fabric")

from rich.console import Console

from aoq_ext import cli
from aoq_ext.data import ImageTextData, load_icons, load_precomputed
from aoq_ext.encoders import GridBackbone
from aoq_ext.training import (
    ConfigError,
    DataConfig,
    OfflineLists,
    TrainConfig,
    evaluate_run,
    evaluation,
    load_config,
    load_run,
)
from aoq_ext.training.checkpoint import load_checkpoint
from aoq_ext.training.config import check, check_same_run, to_dict
from aoq_ext.training.evaluation import evaluate_folds
from aoq_ext.training.mining import mine_run
from aoq_ext.training.model import build_model
from aoq_ext.training.pairs import load_split
from aoq_ext.training.recipe import Evaluation, Recipe, _evaluate, read_recipe, run_recipe
from aoq_ext.training.run import RunFiles
from aoq_ext.training.schedule import learning_rate
from tests.tiny_data import WIDTH, write_precomputed

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MODELS = ("scan", "bfan", "vsrn", "vsepp")
DATA = ("coco", "f30k")
DIMS = {"scan": 1024, "bfan": 1024, "vsepp": 1024, "vsrn": 2048}
# The epochs of the authors, after how many lr drops, and lr: those of the AOQ paper, but for BFAN those of the code.
SCHEDULES = {(model, data): (20, 10, 2e-4) for model in MODELS for data in DATA}
SCHEDULES |= {("bfan", "coco"): (20, 10, 5e-4), ("bfan", "f30k"): (15, 10, 2e-4)}
VSRN_OPTIONS: dict[str, dict[str, Any]] = {
    "coco": {"region_norm": "regions"},
    "f30k": {"region_norm": "regions", "norm_before_graph": False, "scene_batch_norm": True},
}

# The smallest model of each kind.
MATCHING = {
    f"model.matching.args.{name}": value for name, value in {"dim": 16, "word_dim": 16, "image_dim": WIDTH}.items()
}
ENCODERS = {
    "model.image_encoder.args.image_dim": WIDTH,
    "model.image_encoder.args.dim": 16,
    "model.text_encoder.args.dim": 16,
    "model.text_encoder.args.word_dim": 16,
}
CAPTIONING = {f"model.auxiliary.args.{name}": 16 for name in ("region_dim", "hidden", "word_dim")}
SMALL = {
    "scan": MATCHING,
    "bfan": MATCHING,
    "vsepp": ENCODERS,
    "vsrn": {**ENCODERS, **CAPTIONING, "model.image_encoder.args.layers": 1},
}
SHORT = {
    "epochs": 3,
    "batch_size": 16,
    "log_every": 2,
    "optimizer.lr": 0.01,
    "accelerator": "cpu",
    "data.min_count": 1,
}


Finished = tuple[str, str, Path, dict[str, Any], str]
EVALUATIONS = {"coco": ["testall, 5 folds", "testall"], "f30k": ["test"]}


class Stop(Exception):
    """A killed process."""


def stop_at(step: int) -> Callable[[int], None]:
    def stop(steps: int) -> None:
        if steps == step:
            raise Stop

    return stop


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    sizes = {"train": 40, "dev": 20, "test": 20}
    return {
        "coco": write_precomputed(folder / "coco_precomp", {**sizes, "testall": 40}, repeated=("dev",)),
        "f30k": write_precomputed(folder / "f30k_precomp", sizes),
    }


def recipe_of(model: str, data: str, root: Path, out: Path, **changes: Any) -> Recipe:
    entries = {name: str(value) for name, value in {**SMALL[model], **SHORT, **changes}.items()}
    return read_recipe(CONFIGS / data / model, out, root, entries)


def run(recipe: Recipe, on_step: Callable[[int], None] | None = None) -> tuple[dict[str, Any], str]:
    """The results and what was printed."""
    output = io.StringIO()
    results = run_recipe(recipe, console=Console(file=output, width=160, color_system=None), on_step=on_step)
    return results, output.getvalue()


def configs_of(model: str, data: str) -> tuple[TrainConfig, TrainConfig]:
    first, second = (load_config(CONFIGS / data / f"{model}-{name}.yaml") for name in ("round1", "aoq"))
    return first, second


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("model", MODELS)
def test_files_have_the_papers_parameters(model: str, data: str) -> None:
    first, second = configs_of(model, data)
    for config in (first, second):
        check(config)
        epochs, drop, lr = SCHEDULES[model, data]
        assert (config.batch_size, config.epochs, config.warmup_epochs) == (128, 5 * epochs, 0)
        assert (config.optimizer.schedule, config.optimizer.clip_norm) == ("step", 2.0)
        steps = 5 * epochs * (29000 // 128)
        dropped = steps * drop // epochs
        rates = [learning_rate(config.optimizer, step, steps) for step in (0, dropped - 1, dropped, steps - 1)]
        assert rates == pytest.approx([lr, lr, lr / 10, lr / 10])
        assert config.data.root == f"data/{data}_precomp"
        assert config.loss.margin_online == 0.2
        with torch.device("meta"):
            built = build_model(config.model, 9)
        assert built.embeds == (model in ("vsrn", "vsepp"))
        parts = (
            [config.model.matching]
            if config.model.matching
            else [config.model.image_encoder, config.model.text_encoder]
        )
        assert {part.args["dim"] for part in parts} == {DIMS[model]}
        if model == "vsrn":
            assert config.model.image_encoder.args == {
                "image_dim": 2048, "dim": 2048, "layers": 4, **VSRN_OPTIONS[data]
            }  # fmt: skip
    assert first.loss.objective == "online_triplet"
    assert second.loss.objective == "adaptive_quintuplet"
    assert (second.loss.margin_offline, second.loss.alpha, second.loss.beta) == (0.0, 0.3, 1.5)
    assert (second.offline.top_texts, second.offline.top_images) == (300, 60)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("model", MODELS)
def test_rounds_differ_in_run_loss_and_offline_alone(model: str, data: str) -> None:
    first, second = configs_of(model, data)
    assert replace(second, run=first.run, loss=first.loss, offline=first.offline) == first
    folder = Path(f"runs/{data}-{model}")
    assert [first.run, second.run] == [str(folder / "round1"), str(folder / "round2")]
    recipe = read_recipe(CONFIGS / data / model)
    assert recipe.folder == folder
    assert (recipe.first, recipe.second) == (first, second)


@pytest.fixture(scope="module", params=[(model, data) for data in DATA for model in MODELS], ids="-".join)
def finished(
    request: pytest.FixtureRequest, roots: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Finished:
    model, data = request.param
    folder = tmp_path_factory.mktemp(model) / "out"
    return model, data, folder, *run(recipe_of(model, data, roots[data], folder))


def test_a_recipe_runs_to_the_end(finished: Finished) -> None:
    _, data, folder, results, output = finished
    assert "done before" not in output
    lists = OfflineLists.load(folder / "negatives")
    assert (lists.texts.shape, lists.images.shape) == ((40, 200), (200, 40))  # fewer than are asked for
    assert list(results) == ["round 1", "round 2"]
    for step in results:
        assert list(results[step]) == EVALUATIONS[data]
        for result in results[step].values():
            assert 0 < result["rsum"] <= 600
    for name in EVALUATIONS[data]:
        epochs = " and ".join(str(results[step][name]["epoch"]) for step in results)
        assert f"{name}: {results['round 1'][name]['images']} images, weights of epochs {epochs}" in output
    assert json.loads((folder / "metrics.json").read_text()) == results
    assert not (folder / "negatives" / "unfinished").exists()


def test_the_same_command_again_does_nothing(finished: Finished, roots: dict[str, Path]) -> None:
    model, data, folder, results, _ = finished
    again, output = run(recipe_of(model, data, roots[data], folder), on_step=stop_at(1))
    assert again == results
    assert output.count("done before") == 3 + 2 * len(EVALUATIONS[data])


def test_other_settings_are_refused(finished: Finished, roots: dict[str, Path]) -> None:
    model, data, folder, _, _ = finished
    for changes, message in (
        ({"seed": 1}, r"holds a round 1 with other settings; .* \(seed: .* started with 0, got 1"),
        ({"loss.alpha": 0.2}, r"round 1 with other settings; .*loss.alpha"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(recipe_of(model, data, roots[data], folder, **changes))


@pytest.fixture(scope="module")
def whole(roots: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole") / "out"
    return folder, run(recipe_of("vsepp", "f30k", roots["f30k"], folder))[0]


def test_rounds_start_from_another_run(
    whole: tuple[Path, dict[str, Any]], roots: dict[str, Path], tmp_path: Path
) -> None:
    begun = str(whole[0] / "round1")
    recipe = recipe_of("vsepp", "f30k", roots["f30k"], tmp_path / "set", init=begun)
    assert recipe.first.init == recipe.second.init == begun
    recipe.first.init = None  # as where only PREFIX-aoq.yaml has it
    recipe.second.init = recipe.first.run
    text = " ".join(run(recipe)[1].split())
    assert "round 2: adaptive quintuplets, 3 epochs from the weights of round1" in text
    assert load_checkpoint(RunFiles(recipe.second.run).last)["inputs"]["initial weights"] != "none"


def test_a_stopped_recipe_ends_with_the_same_figures(
    whole: tuple[Path, dict[str, Any]], roots: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(on_step: Callable[[int], None] | None = None) -> tuple[dict[str, Any], str]:
        return run(recipe_of("vsepp", "f30k", roots["f30k"], tmp_path / "out"), on_step)

    with pytest.raises(Stop):  # in round 1
        again(stop_at(3))

    def killed(*arguments: Any, **options: Any) -> Any:
        (tmp_path / "out" / "negatives" / "unfinished").mkdir(parents=True)
        raise Stop

    def killed_as_it_wrote(*arguments: Any, **options: Any) -> Any:
        raise Stop

    for place, stop in (("training.mining.mine_model", killed), ("lists.mined_lists.write_lists", killed_as_it_wrote)):
        with monkeypatch.context() as patch:
            patch.setattr(f"aoq_ext.{place}", stop)
            with pytest.raises(Stop):
                again()
    rounds = 0

    def in_round_2(steps: int) -> None:
        nonlocal rounds
        rounds += steps == 1
        if steps == 4:
            raise Stop

    with pytest.raises(Stop):
        again(in_round_2)
    assert rounds == 1  # round 1 was done
    with monkeypatch.context() as patch:
        patch.setattr("aoq_ext.training.recipe.evaluate_folds", killed_after(1))
        with pytest.raises(Stop):
            again()
    results, output = again()
    assert output.count("done before") == 4  # and one of the two evaluations
    assert results == whole[1]


def killed_after(calls: int) -> Callable[..., Any]:
    made = 0

    def evaluate(*arguments: Any) -> Any:
        nonlocal made
        made += 1
        if made > calls:
            raise Stop
        return evaluate_folds(*arguments)

    return evaluate


def test_what_belongs_to_something_else_is_refused(
    whole: tuple[Path, dict[str, Any]], roots: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole[0], out)
    shutil.rmtree(out / "round2")
    recipe = recipe_of("vsepp", "f30k", roots["f30k"], out)

    def of_others(lists: OfflineLists, **other: str) -> OfflineLists:
        return replace(lists, manifest=replace(lists.manifest, problem=lists.problem | other))

    def refused(recipe: Recipe, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            run(recipe)

    lists = OfflineLists.load(out / "negatives")
    of_others(lists, weights="other").save(out / "negatives")
    refused(
        recipe, "expected negatives of the weights of round 1 in .*negatives, got those of another; delete the folder"
    )
    of_others(lists, data="other").save(out / "negatives")
    refused(recipe, "expected negatives of the training set in .*, got those of another")
    texts, scores = (np.array(part[:, :30]) for part in (lists.texts, lists.text_scores))
    replace(lists, indices=texts, scores=scores).save(out / "negatives")
    refused(recipe, "expected negatives with 200 texts per image in .*, got 30")
    with pytest.raises(ValueError, match=r"split: expected one of dev, test, train .*, got 'nope'"):
        run(replace(recipe, folder=tmp_path / "new", evaluations=(Evaluation("nope"),)))
    assert not (tmp_path / "new").exists()


def write_files(folder: Path, **entries: dict[str, Any]) -> Path:
    """VSE++ on Flickr30K with a round 2 and a control from round 1's weights; returns the prefix."""
    base = {"base": str(CONFIGS / "f30k/vsepp-round1.yaml")}
    from_first = {**base, "run": "runs/second", "init": "runs/f30k-vsepp/round1"}
    files = {
        "round1": base,
        "aoq": {**from_first, "loss": {"objective": "adaptive_quintuplet"}},
        "control": from_first,
    }
    for name, content in files.items():
        (folder / f"small-{name}.yaml").write_text(yaml.safe_dump({**content, **entries.get(name, {})}))
    return folder / "small"


def with_control(folder: Path, root: Path, **entries: dict[str, Any]) -> Recipe:
    prefix = write_files(folder, **entries)
    given = {name: str(value) for name, value in {**SMALL["vsepp"], **SHORT, "epochs": 2}.items()}
    return read_recipe(prefix, folder / "out", root, given)


def test_a_control_is_trained_evaluated_and_compared_with(roots: dict[str, Path], tmp_path: Path) -> None:
    recipe = with_control(tmp_path, roots["f30k"])
    assert recipe.control is not None
    assert recipe.control.run == str(tmp_path / "out/control")
    assert recipe.control.init == recipe.second.init == recipe.first.run == str(tmp_path / "out/round1")
    results, output = run(recipe)
    assert list(results) == ["round 1", "round 2", "control"]
    assert "control: online triplets, 2 epochs from the weights of round1" in output
    gain = results["round 2"]["test"]["rsum"] - results["control"]["test"]["rsum"]
    assert f"{gain:+.1f}" in next(line for line in output.splitlines() if "round 2 − control" in line)
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == results

    shutil.rmtree(tmp_path / "out/control")
    again, output = run(with_control(tmp_path, roots["f30k"]))
    assert again == results
    assert output.count("done before") == 6  # three steps, and three evaluations


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"control": {"init": None}}, "control: init: expected that of round 2, .*round1, got None"),
        ({"control": {"loss": {"objective": "offline_triplet"}, "offline": {"lists": "a"}}}, "control: loss.objective"),
        ({"round1": {"init": "runs/f30k-vsepp/round1"}}, "round 1: init: expected another run or null"),
    ],
)
def test_a_control_that_controls_nothing_is_refused(
    roots: dict[str, Path], tmp_path: Path, entries: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        with_control(tmp_path, roots["f30k"], **entries)


def test_evaluation_is_of_the_weights_there_are(whole: tuple[Path, dict[str, Any]], roots: dict[str, Path]) -> None:
    noted = json.loads((whole[0] / "metrics.json").read_text())
    noted["round 1"]["test"] |= {"weights_fingerprint": "other", "rsum": 1.0}
    recipe = recipe_of("vsepp", "f30k", roots["f30k"], whole[0])
    (whole[0] / "metrics.json").write_text(json.dumps(noted))
    results, output = run(recipe)
    assert results == whole[1]
    assert "done before: round 1" not in output
    assert "done before: round 2 on test" in output


def test_evaluation_is_of_the_data_there_is(
    whole: tuple[Path, dict[str, Any]], roots: dict[str, Path], tmp_path: Path
) -> None:
    root, out = (Path(shutil.copytree(path, tmp_path / path.name)) for path in (roots["f30k"], whole[0]))
    for config in out.glob("round*/config.yaml"):
        config.write_text(config.read_text().replace(str(roots["f30k"]), str(root)))
    captions = root / "test_caps.txt"
    captions.write_text("".join(reversed(captions.read_text().splitlines(keepends=True))))
    recipe = read_recipe(
        CONFIGS / "f30k" / "vsepp", out, root, {k: str(v) for k, v in {**SMALL["vsepp"], **SHORT}.items()}
    )
    results = _evaluate(recipe, "cpu", Console(file=io.StringIO()))
    assert results != whole[1]
    expected = evaluate_run(recipe.first.run, "test")
    assert results["round 1"]["test"]["rsum"] == expected["rsum"] != whole[1]["round 1"]["test"]["rsum"]
    output = io.StringIO()
    assert _evaluate(recipe, "cpu", Console(file=output)) == results
    assert output.getvalue().count("done before") == 2


def test_a_split_is_scored_once_for_all_its_folds(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    _, data, folder, results, _ = finished
    if data != "coco":
        pytest.skip("evaluated in one way")
    encoded = []
    original = evaluation.EncodedPairs
    monkeypatch.setattr(evaluation, "EncodedPairs", lambda *given: encoded.append(given) or original(*given))
    both = evaluate_folds(folder / "round1", "testall", [5, 1], note=False)
    assert len(encoded) == 1
    assert both == [evaluate_run(folder / "round1", "testall", folds, note=False) for folds in (5, 1)]
    for found, expected in zip(both, results["round 1"].values(), strict=True):
        assert found.items() <= expected.items()


def test_negatives_are_reranked_as_round_2_has_it(
    roots: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aoq_ext.training.mining.ALL_PAIRS", 0)
    few = {"offline.top_texts": 8, "offline.top_images": 4, "epochs": 1}
    recipe = recipe_of("scan", "f30k", roots["f30k"], tmp_path / "out", **few)
    recipe.second.offline.rerank = 2
    run(recipe)
    lists = OfflineLists.load(recipe.lists)
    assert lists.problem["rerank"] == 2
    expected = mine_run(recipe.first.run, 8, 4, rerank=2)
    assert lists.fingerprint() == expected.fingerprint() != mine_run(recipe.first.run, 8, 4).fingerprint()
    shutil.rmtree(tmp_path / "out/round2")
    recipe.second.offline.rerank = 3
    with pytest.raises(ConfigError, match=r"expected negatives with 3 as offline.rerank in .*negatives, got 2; delete"):
        run(recipe)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": "a"}, "run: expected by --out, got --set"),
        ({"data.root": "a"}, "data.root: expected by --root, got --set"),
        ({"batch_size": "1"}, "round 1: batch_size: expected at least 2"),
        ({"loss.objective": "offline_triplet", "offline.lists": "a"}, "offline.lists: expected by --out"),
        ({"loss.objective": "online_triplet"}, "round 2: loss.objective: expected one with offline negatives"),
        ({"warmup_epochs": "100"}, "round 2: loss.objective: .* with 100 of 100 epochs of warming up"),
        ({"nothing": "1"}, "vsepp-round1.yaml: .*nothing"),
    ],
)
def test_overrides_that_cannot_work_are_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_recipe(CONFIGS / "f30k" / "vsepp", overrides=changes)


def test_command(whole: tuple[Path, dict[str, Any]], roots: dict[str, Path], capsys: Any, monkeypatch: Any) -> None:
    settings = [f"--set={name}={value}" for name, value in {**SMALL["vsepp"], **SHORT}.items()]
    command = ["recipe", str(CONFIGS / "f30k/vsepp"), "--root", str(roots["f30k"]), "--out", str(whole[0]), *settings]
    assert cli.main([*command, "--evaluate", "test", "--evaluate", "dev:2"]) == 0
    output = capsys.readouterr().out
    assert "done before: round 2 on test" in output
    assert "dev, 2 folds: 20 images" in output
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(command) == 1
    assert "expected one process for a recipe, got several" in capsys.readouterr().err
    monkeypatch.delenv("WORLD_SIZE")

    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("aoq_ext.training.recipe.train", interrupted)
    assert cli.main(command) == 130
    assert capsys.readouterr().err == "aoq recipe: interrupted; the same command continues it\n"
    for bad, message in (
        (["recipe"], "prefix"),
        (["recipe", "a", "--set", "epochs"], "expected NAME=VALUE, got 'epochs'"),
        (["recipe", "a", "--evaluate", "test:0"], "expected SPLIT or SPLIT:FOLDS, got 'test:0'"),
    ):
        assert cli.main(bad) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["recipe", "nowhere/scan"]) == 1
    assert "expected a YAML file, but nowhere/scan-round1.yaml does not exist" in capsys.readouterr().err


def test_a_loader_gets_its_arguments(roots: dict[str, Path]) -> None:
    config = DataConfig(
        loader="aoq_ext.data.load_precomputed", root=str(roots["f30k"]), args={"captions_per_image": 5, "name": "tiny"}
    )
    assert load_split(config, "train").name == "tiny/train"
    assert load_split(replace(config, args={}), "train").name == load_precomputed("train", roots["f30k"]).name
    with pytest.raises(ConfigError, match=r"data.args: expected arguments of aoq_ext.data.load_precomputed\(split"):
        load_split(replace(config, args={"captions": 5}), "train")
    with pytest.raises(ConfigError, match=r"data.args: expected arguments other than split and root, got root"):
        load_split(replace(config, args={"root": "a"}), "train")


def test_a_loaders_arguments_belong_to_the_run(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("data:\n  args: {name: a}\n")
    assert load_config(file).data.args == {"name": "a"}
    assert load_config(file, **{"data.args.name": "b"}).data.args == {"name": "b"}
    with pytest.raises(ConfigError, match=r"data.args.name: the run to resume was started with 'a', got None"):
        check_same_run(to_dict(TrainConfig()), to_dict(load_config(file)))


def load_few(split: str) -> ImageTextData:
    return load_icons(split).subset(range(40))


def test_the_recipes_of_the_bundled_data_make_regions_by_a_backbone(tmp_path: Path) -> None:
    dims = {"dim": 16, "word_dim": 16, "image_dim": 10}
    small = {f"model.matching.args.{name}": value for name, value in dims.items()}
    entries = {**small, "model.backbone.args.channels": [4, 4, 8], "data.loader": "tests.commands.test_recipe.load_few"}
    entries |= {"epochs": 2, "warmup_epochs": 1, "batch_size": 20, "accelerator": "cpu"}
    recipe = read_recipe(
        CONFIGS / "icons/scan", tmp_path / "out", overrides={name: str(value) for name, value in entries.items()}
    )
    results, _ = run(recipe)
    assert list(results) == ["round 1", "round 2"]
    loaded = load_run(recipe.second.run)
    assert not loaded.model.embeds and isinstance(loaded.model.backbone, GridBackbone)
    for step in results:
        assert results[step]["test"]["images"] == 40


@pytest.mark.parametrize("model", ["scan", "bfan", "vsrn"])
def test_the_recipes_of_the_bundled_data_fit_together(model: str) -> None:
    first, second = configs_of(model, "icons")
    for config in (first, second):
        check(config)
        assert config.model.backbone is not None
        build_model(config.model, 9)
    own = ("run", "init", "epochs", "warmup_epochs", "loss", "offline", "optimizer")
    assert replace(second, **{name: getattr(first, name) for name in own}) == first
    assert (second.init, second.loss.objective) == (first.run, "adaptive_quintuplet")
    assert read_recipe(CONFIGS / "icons" / model).folder == Path(f"runs/icons-{model}")
