"""``aoq eval`` on files and on several runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("rich")

from aoq_ext import cli
from aoq_ext.metrics import ranks_from_embeddings, ranks_from_scores, retrieval_metrics

IMAGES, TEXTS = 8, 40


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Embeddings of two models, of widths 6 and 9, their scores, and an index that is not the usual one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    random = np.random.default_rng(0)
    for name, width in (("a", 6), ("b", 9)):
        images = random.standard_normal((IMAGES, width), dtype=np.float32)
        texts = np.repeat(images, 5, axis=0) + random.standard_normal((TEXTS, width), dtype=np.float32)
        np.save(f"images_{name}.npy", images)
        np.save(f"texts_{name}.npy", texts)
        np.save(f"scores_{name}.npy", images @ texts.T)
    np.save("index.npy", np.arange(TEXTS) % IMAGES)
    return tmp_path


def tensors(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(np.load(f"images_{name}.npy")), torch.from_numpy(np.load(f"texts_{name}.npy"))


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, dict[str, Any]]:
    """What was printed, and the only result that was written."""
    assert cli.main(["eval", *arguments, "--json", "out/result.json"]) == 0, capsys.readouterr().err
    (result,) = json.loads(Path("out/result.json").read_text()).values()
    return capsys.readouterr().out, result


def metrics_of(result: dict[str, Any], expected: dict[str, float]) -> dict[str, float]:
    return {key: result[key] for key in expected}


def test_embeddings(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, result = evaluate(capsys, "--images", "images_a.npy", "--texts", "texts_a.npy")
    expected = retrieval_metrics(*tensors("a"), torch.arange(TEXTS) // 5)
    assert metrics_of(result, expected) == expected
    assert f"{expected['rsum']:.1f}" in output
    assert "images_a.npy with texts_a.npy: 8 images and all their 40 captions" in output
    assert "5 captions an image, in order, as no --text-image-index was given" in output
    assert result["protocol"] in output
    assert result["files"] == {"images": ["images_a.npy"], "texts": ["texts_a.npy"], "scores": []}
    assert "intervals" not in result


def test_index_and_folds(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--text-image-index", "index.npy", "--folds", "4")
    output, result = evaluate(capsys, "--images", "images_a.npy", "--texts", "texts_a.npy", *options)
    expected = retrieval_metrics(*tensors("a"), torch.arange(TEXTS) % IMAGES, folds=4)
    assert metrics_of(result, expected) == expected
    assert "captions, in 4 folds, averaged" in output
    assert "captions matched to images by index.npy" in output


def test_an_ensemble_of_embeddings_with_intervals(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [option for name in "ab" for option in ("--images", f"images_{name}.npy", "--texts", f"texts_{name}.npy")]
    options = ("--weight", "0.25", "--weight", "1", "--bootstrap", "50", "--level", "0.9", "--seed", "3")
    output, result = evaluate(capsys, *pairs, *options)
    models = [tensors("a"), tensors("b")]
    ranks = ranks_from_embeddings(models, torch.arange(TEXTS) // 5, weights=[0.25, 1])
    expected = ranks.report(50, 0.9, 3)
    assert metrics_of(result, expected) == expected
    assert "scores of 2 models averaged by weights 0.25, 1" in output
    assert "90 % percentile intervals of 50 resamples of the images, each with its captions (seed 3)" in output
    low, high = expected["intervals"]["rsum"]
    lines = output.splitlines()
    assert next(line for line in lines if line.strip().startswith("from")).split()[-1] == f"{low:.1f}"
    assert next(line for line in lines if line.strip().startswith("to")).split()[-1] == f"{high:.1f}"


def test_safetensors(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    images, texts = (tensor.bfloat16() for tensor in tensors("a"))
    save_file({"image": images, "text": texts}, "both.safetensors")
    arguments = ("--images", "both.safetensors:image", "--texts", "both.safetensors:text")
    output, result = evaluate(capsys, *arguments)
    expected = retrieval_metrics(images, texts, torch.arange(TEXTS) // 5)
    assert metrics_of(result, expected) == expected
    assert "both.safetensors:image with both.safetensors:text: 8 images" in output


def test_scores_and_their_ensemble(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    owners = torch.arange(TEXTS) // 5
    scores = [torch.from_numpy(np.load(f"scores_{name}.npy")) for name in "ab"]
    for given in (scores[:1], scores):
        arguments = [part for name in "ab"[: len(given)] for part in ("--scores", f"scores_{name}.npy")]
        output, result = evaluate(capsys, *arguments)
        expected = ranks_from_scores(given, owners).metrics()
        assert metrics_of(result, expected) == expected
        assert ("scores of 2 models averaged" in output) == (len(given) == 2)


FILES = ("--images", "images_a.npy", "--texts", "texts_a.npy")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 2, "expected --run, or --images with --texts, or --scores: one of the three"),
        (("--images", "images_a.npy"), 2, "expected --run, or --images with --texts, or --scores"),
        (("--texts", "texts_a.npy"), 2, "expected --run, or --images with --texts, or --scores"),
        ((*FILES, "--scores", "scores_a.npy"), 2, "one of the three"),
        ((*FILES, "--images", "images_b.npy"), 2, "--texts: expected one file for each --images, 2, got 1"),
        ((*FILES, "--split", "test"), 2, "--split goes with --run"),
        ((*FILES, "--device", "cpu"), 2, "--device goes with --run"),
        (("--run", "r", "--text-image-index", "index.npy"), 2, "--text-image-index goes with files"),
        ((*FILES, "--weight", "1"), 2, "--weight: expected one for each of several models, got 1 for 1"),
        ((*FILES, "--bootstrap", "0"), 2, "expected a positive whole number, got '0'"),
        ((*FILES, "--bootstrap", "9", "--level", "95"), 1, "error: --level must be between 0 and 1, got 95"),
        ((*FILES, "--bootstrap", "9", "--seed", "-1"), 1, "error: --seed must be from 0"),
        ((*FILES, "--level", "0.9"), 2, "--level goes with --bootstrap"),
        ((*FILES, "--seed", "0"), 2, "--seed goes with --bootstrap"),
        ((*FILES, "--folds", "3"), 1, "error: --folds must be a positive divisor of the 8 images, got 3"),
        (
            ("--images", "images_a.npy", "--texts", "images_a.npy"),
            2,
            "8 texts are not 5 for each of 8 images, got none",
        ),
        (("--images", "images_a.npy", "--texts", "texts_b.npy"), 1, "--texts texts_b.npy must have the D of --images"),
        (("--scores", "index.npy"), 1, "--scores must be float16, float32, float64, got index.npy with int64"),
        (("--scores", "one.npy"), 1, "--scores must have shape (N, T) with T ≥ 1, got one.npy with (40,)"),
        (
            ("--images", "half.npy", *FILES[2:]),
            1,
            "error: --texts texts_a.npy must have the dtype of --images half.npy",
        ),
        ((*FILES, *FILES, "--weight", "1", "--weight", "-1"), 1, "error: --weight must be finite, none negative"),
        ((*FILES, "--json", "out"), 2, "--json: expected a file, got out, which is a folder"),
        ((*FILES, "--json", "index.npy/x.json"), 2, "--json: expected a folder, got index.npy, where"),
        (("--run", "r", "--device", "foo"), 2, "--device: expected cpu, or cuda where there is a GPU, got 'foo'"),
        (("--run", "r"), 1, "error: --run: expected the folder of a training run"),
        (("--scores", "missing.npy"), 1, "missing.npy"),
        (("--scores", "scores.txt"), 1, "--scores"),
        (("--scores", "damaged.npy"), 1, "damaged.npy"),
        ((*FILES, "--text-image-index", "images_a.npy"), 1, "--text-image-index"),
        (
            (*FILES, "--text-image-index", "short.npy"),
            1,
            "--text-image-index must have one integer per row of --texts texts_a.npy, 40, got shape (8,)",
        ),
    ],
)
def test_errors_are_one_line(
    files: Path, arguments: tuple[str, ...], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("damaged.npy").write_bytes(Path("scores_a.npy").read_bytes()[:200])
    np.save("short.npy", np.arange(IMAGES))
    np.save("one.npy", np.zeros(TEXTS, np.float32))
    np.save("half.npy", np.load("images_a.npy").astype(np.float16))
    Path("out").mkdir()
    assert cli.main(["eval", *arguments]) == status
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("aoq eval: error: ")
    assert error.count("\n") == 1


def test_not_a_number_names_the_file(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = np.load("texts_a.npy")
    texts[7, 2] = np.nan
    np.save("texts_a.npy", texts)
    assert cli.main(["eval", *FILES]) == 1
    assert "--texts texts_a.npy must be finite, got NaN or infinity in row 7" in capsys.readouterr().err


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    pytest.importorskip("lightning_fabric")
    from aoq_ext.training import train
    from tests.training.test_toy import toy_config

    folder = tmp_path_factory.mktemp("runs")
    return [train(toy_config(folder / f"seed{seed}", epochs=2, seed=seed)) for seed in (1, 2)]


def test_an_ensemble_of_runs(runs: list[Path], files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from aoq_ext.training import load_run
    from tests.training.test_toy import load_toy

    before = [sorted(run.iterdir()) for run in runs]
    arguments = [part for run in runs for part in ("--run", str(run))]
    output, result = evaluate(capsys, *arguments, "--split", "val", "--bootstrap", "20")
    data = load_toy("val")
    loaded = [load_run(run) for run in runs]
    models = [(run.embed_images(data.images), run.embed_texts(data.captions)) for run in loaded]
    expected = ranks_from_embeddings(models, torch.from_numpy(data.caption_image)).report(20)
    assert metrics_of(result, expected) == expected
    assert "toy/val: 20 images and all their 40 captions" in output
    epochs = ", ".join(str(run.epoch) for run in loaded)
    assert f"scores of 2 runs averaged, weights of epochs {epochs}" in output
    assert [member["run"] for member in result["runs"]] == [str(run) for run in runs]
    assert [sorted(run.iterdir()) for run in runs] == before, "an ensemble's result is no single run's"


def test_a_run_with_intervals(runs: list[Path], files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, result = evaluate(capsys, "--run", str(runs[0]), "--split", "val", "--bootstrap", "20")
    assert "95 % percentile intervals of 20 resamples" in output
    noted = json.loads((runs[0] / "metrics.json").read_text())["val"]
    assert noted == {key: value for key, value in result.items() if key != "protocol"}
    assert noted["intervals"].keys() == {key for key in noted if key.startswith(("i2t_", "t2i_", "rsum"))}


def test_a_result_that_cannot_be_saved_is_shown(
    runs: list[Path], files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from aoq_ext.training import evaluation

    def refuse(path: Path, content: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(evaluation, "write_json", refuse)
    assert cli.main(["eval", "--run", str(runs[1]), "--split", "val"]) == 0
    said = capsys.readouterr()
    assert "toy/val: 20 images" in said.out
    assert said.err.startswith("note: the result could not be saved with the run: [Errno 13] Permission denied: ")
    assert said.err.count("\n") == 1


def test_the_table_fits_eighty_columns(
    runs: list[Path], files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from aoq_ext.commands.evaluate import _print_results

    monkeypatch.setenv("COLUMNS", "80")
    _, result = evaluate(capsys, *FILES)
    result["protocol"] = ""
    _print_results({"testall": result})
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["i2t"] * 4 + ["t2i"] * 4
    assert lines[1].split() == ["split", *["R@1", "R@5", "R@10", "medr"] * 2, "rsum"]
    _print_results({"a_long_name_of_a_split" * 3: result})
    assert "a_long_name_of_a_split" * 3 + "  " in capsys.readouterr().out


def test_runs_of_other_data_are_no_ensemble(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from aoq_ext.training import evaluation

    load = evaluation.load_split
    loaded: list[Any] = []

    def other_every_second_time(config: Any, split: str) -> Any:
        loaded.append(load(config, "val" if len(loaded) % 2 else "train"))
        return loaded[-1]

    monkeypatch.setattr(evaluation, "load_split", other_every_second_time)
    with pytest.raises(ValueError, match=r"expected runs of the same data, got toy/train \(40 images, .* toy/val"):
        evaluation.evaluate_ensemble(runs, "val")
    with pytest.raises(ValueError, match="runs: expected at least one, got none"):
        evaluation.evaluate_ensemble([], "val")
