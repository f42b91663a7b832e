"""``aoq mine``: what it writes, says and refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning_fabric")

import numpy as np

import aoq_ext
from aoq_ext import cli
from aoq_ext.lists import MinedLists

IMAGES, TEXTS = 12, 60


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Embeddings of images and five texts of each, with captions some of which say the same."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(3)
    np.save("images.npy", generator.standard_normal((IMAGES, 8)).astype(np.float32))
    np.save("texts.npy", generator.standard_normal((TEXTS, 8)).astype(np.float32))
    np.save("index.npy", np.arange(TEXTS, dtype=np.int32) // 5)
    Path("captions.txt").write_text(
        "".join(f"A  thing no {text * 7 % 25}{'.' * (text % 2)}\n" for text in range(TEXTS))
    )
    return tmp_path


MINE = ["mine", "--anchors", "images.npy", "--candidates", "texts.npy", "--k", "7", "--out", "out"]


def loaded(name: str) -> torch.Tensor:
    return torch.from_numpy(np.load(name))


def test_files_in_files_out(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(MINE) == 0
    said = capsys.readouterr()
    assert said.out == "out: 7 candidates for each of 12 anchors\n"
    assert said.err.startswith("note: an item's own pair can be listed, as nothing says what belongs together")
    assert cli.main(MINE) == 0
    assert capsys.readouterr().out == "out: mined before, 7 candidates for each of 12 anchors\n"
    expected = aoq_ext.mine_hard_negatives(loaded("images.npy"), loaded("texts.npy"), 7)
    assert np.array_equal(np.load("out/indices.npy"), expected.indices)
    assert np.array_equal(np.load("out/scores.npy"), expected.scores)


def test_help_has_both_forms_and_each_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["mine", "--help"]) == 0
    both = capsys.readouterr().out
    assert both.count("usage: aoq mine") == 2 and "--k-text" in both and "--k-reverse" in both
    for form, own, other in (("--run", "--k-text", "--k-reverse"), ("--anchors", "--k-reverse", "--k-text")):
        with pytest.raises(SystemExit):
            cli.main(["mine", form, "x", "--help"])
        said = capsys.readouterr().out
        assert own in said and other not in said


def test_every_option_reaches_the_miner(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("left.npy", np.arange(IMAGES) % 5)
    np.save("right.npy", np.arange(TEXTS) % 7)
    options = "--both --k-reverse 3 --anchor-ids left.npy --candidate-ids right.npy --skip 1 --margin -1.5"
    options += " --relative-margin 0.1 --max-score 2.5 --memory-limit 1GB --device cpu --threads 1"
    threads = torch.get_num_threads()
    try:
        assert cli.main([*MINE, *options.split()]) == 0
    finally:
        torch.set_num_threads(threads)
    said = capsys.readouterr().out
    assert said.startswith("out: 7 candidates for each of 12 anchors, 3 anchors for each of 60 candidates\n")
    expected = aoq_ext.mine_hard_negatives(
        loaded("images.npy"), loaded("texts.npy"), 7, loaded("left.npy"), loaded("right.npy"),
        direction="both", k_reverse=3, skip=1, margin=-1.5, relative_margin=0.1, max_score=2.5,
    )  # fmt: skip
    mined = MinedLists.load("out", checksums=True)
    assert np.array_equal(mined.indices, expected.indices)
    assert np.array_equal(mined.reverse_indices, expected.reverse.indices)


@pytest.mark.parametrize("texts", ["anchors", "candidates"])
def test_ids_and_labels_from_captions(files: Path, texts: str) -> None:
    sides = ["--anchors", "texts.npy", "--candidates", "images.npy"] if texts == "anchors" else MINE[1:5]
    options = ["--k", "12", "--both", "--text-image-index", "index.npy", "--captions", "captions.txt"]
    assert cli.main(["mine", *sides, *options, "--out", "out", "--texts", texts]) == 0
    mined = MinedLists.load("out")
    lists = mined.indices if texts == "candidates" else mined.reverse_indices
    words = [text * 7 % 25 for text in range(TEXTS)]
    for image, row in enumerate(lists):
        own = {words[text] for text in range(5 * image, 5 * image + 5)}
        assert not own & {words[text] for text in row if text >= 0}
        free = [text for text in range(TEXTS) if words[text] not in own]
        assert (row >= 0).sum() == min(12, len(free))


def test_a_byte_order_mark_is_no_part_of_a_caption(files: Path) -> None:
    """The twin of the first caption is no negative of its image."""
    captions = [f"thing {text}" for text in range(TEXTS)]
    captions[30] = "Thing 0!"
    Path("captions.txt").write_bytes("\n".join(captions).encode("utf-8-sig"))
    options = ["--text-image-index", "index.npy", "--captions", "captions.txt", "--k", "60"]
    assert cli.main([*MINE, *options]) == 0
    listed = MinedLists.load("out").indices[0]
    assert 30 not in listed and (listed >= 0).sum() == TEXTS - 6


def test_a_dry_run_writes_nothing(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(files.rglob("*"))
    assert cli.main([*MINE, "--both", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert sorted(files.rglob("*")) == before
    assert "anchors     12 × 8, float32: images.npy" in said
    assert "scores      720, each computed once; 1 restartable part of up to 12 anchors, 1 tile of up to" in said
    assert re.search(
        r"disk        4.03 kB in the end, .* free\ntime        about 0 s: .* on cpu in a short trial", said
    )
    assert "done        0 of 1 parts; nothing was written now" in said
    assert cli.main([*MINE, "--both"]) == 0
    done = {path: path.stat().st_mtime_ns for path in files.rglob("*")}
    assert cli.main([*MINE, "--both", "--dry-run"]) == 0
    assert "done        everything; nothing was written now" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in files.rglob("*")} == done


def test_a_report(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--both", "--text-image-index", "index.npy", "--captions", "captions.txt"]
    assert cli.main([*MINE, *options, "--max-score", "3", "--report", "first.html"]) == 0
    earlier = ["--report", "second.html", "--earlier", "out"]
    assert cli.main([*MINE[:-1], "again", *options, *earlier]) == 0
    assert "second.html: a page about these lists" in capsys.readouterr().out
    assert "negatives score at most 3.0" in Path("first.html").read_text()
    assert "No earlier mining" in Path("first.html").read_text()
    assert "No earlier mining" not in Path("second.html").read_text()


def test_what_a_report_needs_is_missed_before_the_work(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mined", "mined.page", "pages"):
        monkeypatch.delitem(sys.modules, f"aoq_ext.report.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert cli.main([*MINE, "--report", "page.html"]) == 1
    assert 'this command needs jinja2, which is not installed: pip install "aoq_ext[train]"' in capsys.readouterr().err
    assert not (files / "out").exists()


def test_the_authors_layout(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--both",
        "--text-image-index",
        "index.npy",
        "--authors-layout",
        "off/line",
        "--data-name",
        "f30k_precomp",
    ]
    assert cli.main([*MINE, *options]) == 0
    assert "off/line/i2t_f30k.npy, off/line/t2i_f30k.npy: as the authors'" in capsys.readouterr().out
    i2t, t2i = np.load("off/line/i2t_f30k.npy"), np.load("off/line/t2i_f30k.npy")
    assert i2t.dtype == t2i.dtype == np.int32
    assert i2t.shape == (IMAGES, 7)
    assert t2i.shape == (TEXTS, 7)
    assert np.array_equal(i2t, np.load("out/indices.npy"))
    scores = np.load("images.npy").astype(np.float64) @ np.load("texts.npy").T.astype(np.float64)
    scores[np.arange(TEXTS) // 5, np.arange(TEXTS)] = -9999  # as the authors' tools leave the own ones out
    assert np.array_equal(i2t, np.argsort(-scores, axis=1)[:, :7])
    assert np.array_equal(t2i, np.argsort(-scores.T, axis=1)[:, :7])


def test_the_authors_layout_says_what_belongs_together(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--both", "--k-reverse", "1", "--authors-layout", "off"]
    assert cli.main([*MINE, *options]) == 0
    assert capsys.readouterr().err == (
        "note: that code draws from lists of 300 texts and 60 images; tell it --offcandisize 5\n"
    )
    assert not (np.load("off/i2t_coco.npy") // 5 == np.arange(IMAGES)[:, None]).any()


def test_lists_that_the_rules_shorten_are_counted(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*MINE, "--both", "--text-image-index", "index.npy", "--max-score", "-3.5"]) == 0
    lists = MinedLists.load("out")
    said = capsys.readouterr().out
    for indices, what in ((lists.indices, "anchors"), (lists.reverse_indices, "candidates")):
        found = (indices >= 0).sum(axis=1)
        empty, short = int((found == 0).sum()), int(((found > 0) & (found < 7)).sum())
        assert short and (empty or what == "anchors")
        assert f"fewer than 7 for {short} of {len(found)} {what}\n" in said
        if empty:
            assert f"no negative for {empty} of {len(found)} {what}, which training refuses" in said


@pytest.mark.parametrize("name", ["indices.npy", "scores.npy", "reverse_indices.npy", "shards/mine.npy"])
def test_files_of_others_are_not_replaced(files: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = files / "out" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"precious")
    assert cli.main(MINE) == 1
    assert f"--out must not hold files of others, got out with {name} and without manifest.json" in (
        capsys.readouterr().err
    )
    assert [file for file in (files / "out").rglob("*") if file.is_file()] == [path]
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize("option", ["--anchors", "--candidates", "--text-image-index"])
def test_what_is_mined_is_not_replaced(files: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"--anchors": "images.npy", "--candidates": "texts.npy", "--text-image-index": "index.npy"}
    Path("out").mkdir()
    moved = Path(given[option]).rename("out/scores.npy")
    before = moved.read_bytes()
    given[option] = str(moved)
    command = ["mine", *(word for pair in given.items() for word in pair), "--k", "7", "--out", "out"]
    assert cli.main(command) == 1
    name = option[2:].replace("-", "_")
    assert f"--out must not hold what is mined, got out with {name}, out/scores.npy" in capsys.readouterr().err
    assert moved.read_bytes() == before and len(list(Path("out").iterdir())) == 1


@pytest.mark.parametrize("file", ["config.yaml", "last.ckpt"])
def test_the_folder_of_a_run_is_refused(files: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    Path("out", file).touch()
    assert cli.main(MINE) == 1
    assert "--out must not be the folder of a training run, got out" in capsys.readouterr().err
    assert [path.name for path in Path("out").iterdir()] == [file]


def test_hidden_files_make_no_folder_of_a_run(files: Path) -> None:
    Path("out").mkdir()
    Path("out", "._last.ckpt").touch()
    assert cli.main(MINE) == 0


def test_embeddings_that_are_refused_leave_no_folder(files: Path) -> None:
    np.save("images.npy", np.full((IMAGES, 8), np.nan, np.float32))
    assert cli.main(MINE) == 1
    assert not Path("out").exists()


def test_earlier_lists_are_opened_first(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*MINE[:-1], "first", "--both"]) == 0
    np.save("images.npy", np.load("images.npy")[:-1])
    capsys.readouterr()
    assert cli.main([*MINE, "--report", "x.html", "--earlier", "first"]) == 1
    assert "error: --earlier must be lists of the same 11 images, got first of 12" in capsys.readouterr().err
    assert not Path("out").exists()
    Path("first/indices.npy").unlink()
    assert cli.main([*MINE, "--report", "x.html", "--earlier", "first"]) == 1
    assert (
        "error: --earlier must be a folder of mined lists, got first: folder must hold ind" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--run", "x", "--anchors", "images.npy"], 2, "expected --run, --out for a training set, or --anchors"),
        (["--out", "x"], 2, "expected --run, --out for a training set, or --anchors"),
        (["--run", "x", "--out", "y", "--k", "3"], 2, "--k does not go with --run"),
        (["--run", "x", "--out", "y", "--dry-run"], 2, "--dry-run does not go with --run"),
        (["--run", "x", "--out", "y", "--kk=3"], 2, "unrecognized arguments: --kk=3"),
        (["--run", "x"], 2, "the following arguments are required: --out"),
        (["--anchors", "x", "--k", "3", "--out", "y"], 2, "the following arguments are required: --candidates"),
        ([*MINE[1:], "--k-text", "3"], 2, "--k-text does not go with --anchors"),
        ([*MINE[1:], "--k-reverse", "3"], 2, "--k-reverse needs --both"),
        ([*MINE[1:], "--captions", "captions.txt"], 2, "--captions needs --text-image-index"),
        ([*MINE[1:], "--authors-layout", "x"], 2, "--authors-layout needs --both"),
        ([*MINE[1:], "--earlier", "x"], 2, "--earlier needs --report"),
        ([*MINE[1:], "--data-name", "x"], 2, "--data-name needs --authors-layout"),
        ([*MINE[1:], "--anchor-ids", "x"], 2, "--anchor-ids and --candidate-ids go together"),
        ([*MINE[1:], "--texts", "anchors", "--report", "x"], 2, "--report with --texts anchors needs --both"),
        ([*MINE[1:], "--memory-limit", "8 apples"], 2, "expected a size such as 8GB, got '8 apples'"),
        ([*MINE[1:], "--memory-limit", "1"], 1, "error: --memory-limit must be at least"),
        ([*MINE[1:], "--skip", "-1"], 2, "--skip"),
        ([*MINE[1:], "--margin", "0.1"], 2, "--margin needs --text-image-index, or --anchor-ids and --candidate-ids"),
        ([*MINE[1:], "--margin", "inf", "--text-image-index", "index.npy"], 1, "error: --margin must be finite"),
        ([*MINE[1:-1], "captions.txt/out"], 1, "captions.txt"),
        (["--anchors", "none.npy", *MINE[3:]], 1, "error: --anchors must be a file, got none.npy, which is missing"),
        (["--anchors", "half.npy", *MINE[3:]], 1, "error: --candidates must have the dtype of anchors, float16"),
        ([*MINE[1:], "--device", "foo"], 2, "--device: expected cpu, or cuda where there is a GPU, got 'foo'"),
        ([*MINE[1:], "--device", "mps"], 2, "--device: expected cpu, or cuda where there is a GPU, got 'mps'"),
        ([*MINE[1:], "--device", "cuda:99"], 2, "--device: expected cpu, or cuda where there is a GPU, got 'c"),
        ([*MINE[1:-1], ""], 2, "--out: expected a folder, got ''"),
        ([*MINE[1:-1], "captions.txt"], 1, "error: --out must be a folder, got captions.txt, where"),
        ([*MINE[1:], "--report", "x"], 2, "--report: expected a .html file, got x"),
        ([*MINE[1:], "--report", "captions.txt/x.html"], 2, "--report: expected a folder, got captions.txt, where"),
        ([*MINE[1:], "--report", "folder.html"], 2, "--report: expected a file, got folder.html, which is a folder"),
        ([*MINE[1:], "--both", "--authors-layout", "captions.txt"], 2, "--authors-layout: expected a folder, got"),
        ([*MINE[1:], "--both", "--authors-layout", "x", "--data-name", "../x"], 1, "error: --data-name must be a name"),
        ([*MINE[1:], "--report", "x.html", "--earlier", "none"], 1, "error: --earlier must be a folder of mined lists"),
        (["--anchors", "index.npy", *MINE[3:]], 1, "float16, float32, float64, got index.npy with int32"),
        ([*MINE[1:], "--text-image-index", "images.npy"], 1, "error: --text-image-index must be integers of one dim"),
        (
            [*MINE[1:], "--text-image-index", "index.npy", "--captions", "none.txt"], 1,
            "none.txt: expected a file with one caption a line, got no such file",
        ),
        (
            [*MINE[1:], "--text-image-index", "index.npy", "--captions", "latin1.txt"], 1,
            "latin1.txt, line 2: expected UTF-8, got b'caf\\xe9'",
        ),
        ([*MINE[1:], "--text-image-index", "index.npy", "--texts", "anchors"], 1, "each of the 12 anchors, got 60"),
        ([*MINE[1:], "--texts", "anchors", "--both", "--authors-layout", "x"], 1, "anchors must be 5 texts for each"),
    ],
)  # fmt: skip
def test_errors(files: Path, options: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("half.npy", np.load("images.npy").astype(np.float16))
    Path("folder.html").mkdir()
    Path("latin1.txt").write_bytes(b"a\ncaf\xe9\n")
    assert cli.main(["mine", *options]) == status
    captured = capsys.readouterr()
    last = captured.err.splitlines()[-1]
    assert message in last and "release" not in last
    assert last.startswith("aoq mine: error: ")
    assert all(line.startswith("note: ") for line in captured.err.splitlines()[:-1])
    assert not Path("out").exists() and not Path("x").exists()


@pytest.mark.parametrize(
    ("text", "amount"), [("8GB", 8 * 10**9), ("1.5 GiB", 3 << 29), ("500m", 5 * 10**8), ("1000", 1000), ("2kb", 2000)]
)
def test_sizes(text: str, amount: int) -> None:
    from aoq_ext.commands.mine import _amount

    assert _amount(text) == amount


def test_the_examples_of_the_page(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "mining.md").read_text()
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", page, re.MULTILINE)
    command = next(block for block in blocks if block.lstrip().startswith("aoq mine"))
    words = command.partition("\n\n")[0].replace("\\\n", " ").split()
    assert cli.main(words[1:]) == 0
    written = re.findall(r"^    (mined/\S+)", command, re.MULTILINE)
    assert sorted(written) == sorted(str(path) for path in Path("mined").iterdir() if path.name != ".lock")
    code = textwrap.dedent(next(block for block in blocks if "mine_to_files(" in block))
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["lists"].indices.shape == (IMAGES, 300)
    drawn = names["sampler"].draw(torch.tensor([3]), torch.tensor([16]), step=0)
    assert drawn.hard_text.item() // 5 != 3


def launched(arguments: list[str], world: int = 1) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(world)] if world > 1 else []
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, "-m", "aoq_ext", *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, preexec_fn=_mind_interrupts, **pipes)


def _mind_interrupts() -> None:
    """Shells make their background jobs ignore them, and so would what these start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_interrupted(files: Path) -> None:
    generator = np.random.default_rng(1)
    for name, rows in (("large.npy", 60_000), ("many.npy", 400_000)):  # minutes of work
        np.save(name, generator.standard_normal((rows, 64)).astype(np.float16))
    command = ["mine", "--anchors", "large.npy", "--candidates", "many.npy", "--k", "50", "--out", "out"]
    process = launched([*command, "--threads", "1"])
    while not Path("out/manifest.json").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said.endswith("aoq mine: interrupted; the same command continues it\n")
    assert not json.loads(Path("out/manifest.json").read_text())["complete"]


def test_two_ranks(files: Path) -> None:
    assert cli.main([*MINE, "--both"]) == 0
    process = launched([*MINE[:-1], "shared", "--both"], world=2)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert said == "shared: 7 candidates for each of 12 anchors, 7 anchors for each of 60 candidates\n"
    for name in ("indices.npy", "scores.npy", "reverse_indices.npy", "reverse_scores.npy"):
        assert Path("shared", name).read_bytes() == Path("out", name).read_bytes()
    assert not list(Path("shared").rglob("*.tmp"))


def test_a_training_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.training.test_toy import trained

    run = trained(tmp_path, epochs=1)
    where: Any = ["mine", "--run", str(getattr(run, "folder", run)), "--out", str(tmp_path / "lists")]
    report = str(tmp_path / "report.html")
    assert cli.main([*where, "--k-text", "12", "--k-image", "6", "--report", report]) == 0
    said = capsys.readouterr().out.replace("\n", "")
    assert "12 texts for each of 40 images, 6 images for each of 80 texts" in said
    assert "Hard negatives of toy/train" in Path(report).read_text()
    shorter = [*where, "--k-text", "10", "--report", report, "--earlier", str(tmp_path / "lists"), "--overwrite"]
    assert cli.main(shorter) == 0  # the page compares with what was there
    assert "No earlier mining" not in Path(report).read_text()
    assert cli.main([*where, "--authors-layout", str(tmp_path / "off")]) == 1  # two texts an image, not five
    assert "error: --authors-layout: text_image_index must be 5 texts an image" in capsys.readouterr().err


def test_a_training_set_by_the_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from aoq_ext.training import OfflineLists
    from tests.training.test_toy import trained

    run = trained(tmp_path, epochs=1)
    where: Any = ["mine", "--run", str(getattr(run, "folder", run)), "--k-text", "12", "--k-image", "6", "--out"]
    assert cli.main([*where, str(tmp_path / "all")]) == 0
    assert cli.main([*where, str(tmp_path / "later"), "--skip", "2", "--k-text", "10", "--k-image", "4"]) == 0
    everything, later = (OfflineLists.load(tmp_path / name) for name in ("all", "later"))
    np.testing.assert_array_equal(later.texts, everything.texts[:, 2:])
    np.testing.assert_array_equal(later.images, everything.images[:, 2:])
    report = tmp_path / "report.html"
    rules = ["--margin", "0.05", "--max-score", "0.9", "--repeated-captions", "--report", str(report)]
    assert cli.main([*where, str(tmp_path / "by rules"), *rules]) == 0
    page = report.read_text()
    assert "less 0.05" in page and "at most 0.9" in page and "repeat a caption" not in page
    scores = OfflineLists.load(tmp_path / "by rules").text_scores
    assert scores is not None and scores.max() <= 0.9


def test_mining_a_training_set_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aoq_ext.training import mining
    from tests.training.test_toy import trained

    run = trained(tmp_path, epochs=1)
    where: Any = ["mine", "--run", str(getattr(run, "folder", run)), "--k-text", "12", "--k-image", "6", "--out"]
    assert cli.main([*where, str(tmp_path / "undisturbed")]) == 0
    whole = mining.mine_to_files
    shards: list[int] = []

    def stopped(*given: Any, **arguments: Any) -> Any:
        def progress(_: Any) -> None:
            shards.append(1)
            if len(shards) == 8:
                raise KeyboardInterrupt

        return whole(*given, **arguments | {"on_progress": progress, "shard_rows": 8})

    monkeypatch.setattr(mining, "mine_to_files", stopped)
    out = tmp_path / "stopped"
    assert cli.main([*where, str(out)]) == 130
    assert list((out / "unfinished").rglob("*.npy")) and not (out / "manifest.json").exists()
    assert cli.main([*where, str(out)]) == 0
    assert len(shards) < 16  # not all of them again
    assert not (out / "unfinished").exists()
    for path in (tmp_path / "undisturbed").iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
    shards.clear()
    assert cli.main([*where, str(tmp_path / "other")]) == 130
    assert cli.main([*where, str(tmp_path / "other"), "--k-text", "11"]) == 0  # what was done is dropped


def test_the_lists_of_a_run_are_replaced_on_purpose_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.training.test_toy import trained

    run, out = trained(tmp_path, epochs=1), tmp_path / "lists"
    where: Any = ["mine", "--run", str(run), "--out", str(out), "--k-text", "12", "--k-image", "6"]
    assert cli.main(where) == 0
    rules = json.loads((out / "manifest.json").read_text())["problem"]
    assert {name: rules[name] for name in rules if name not in ("weights", "data")} == {
        "texts": "candidates",
        "k": 12, "k_reverse": 6, "repeated_captions": False, "skip": 0, "margin": None, "relative_margin": None,
        "max_score": None, "rerank": None,
    }  # fmt: skip
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.iterdir()}
    capsys.readouterr()
    assert cli.main(where) == 0
    assert "mined before, 12 texts for each of 40 images" in capsys.readouterr().out.replace("\n", "")
    for change, message in (
        (["--k-text", "11"], "--k-text: {} holds lists mined with 12, got 11"),
        (["--skip", "1"], "--skip: {} holds lists mined with 0, got 1"),
        (["--repeated-captions"], "--repeated-captions: {} holds lists mined with False, got True"),
    ):
        assert cli.main([*where, *change]) == 1
        assert f"{message.format(out)}; --overwrite replaces them" in capsys.readouterr().err
    other = str(trained(tmp_path / "other", epochs=1, seed=5))
    assert cli.main([*where, "--run", other]) == 1
    assert f"weights: {out} holds lists mined with sha256" in (said := capsys.readouterr().err) and "--overw" in said
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.iterdir()} == before
    assert cli.main([*where, "--run", other, "--overwrite"]) == 0
    assert (out / "indices.npy").read_bytes() != before[out / "indices.npy"][1]
    (out / "indices.npy").write_bytes(b"damaged")
    assert cli.main([*where, "--run", other]) == 0  # mined again
    assert np.load(out / "indices.npy").shape == (40, 12)


def test_a_run_is_mined_into_no_folder_of_something_else(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(MINE) == 0
    before = {path: path.read_bytes() for path in Path("out").iterdir()}
    where = ["mine", "--run", "run", "--overwrite", "--out"]
    assert cli.main([*where, "out"]) == 1
    assert "--out must not hold what is of others, got out with a manifest.json of something else" in (
        capsys.readouterr().err
    )
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == before
    for name, message in (
        ("indices.npy", "--out must not hold files of others, got theirs with indices.npy"),
        ("config.yaml", "--out must not be the folder of a training run, got theirs"),
        ("unfinished/notes.txt", "--out must not hold files of others, got theirs/unfinished"),
    ):
        path = Path("theirs", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        assert cli.main([*where, "theirs"]) == 1
        assert message in capsys.readouterr().err
        path.unlink()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main([*where, "new"]) == 2
    assert "--run is mined by one process, got 2 of them from torchrun" in capsys.readouterr().err
