"""``aoq data verify``: what it finds, and that it finds nothing where nothing is wrong."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aoq_ext import cli
from aoq_ext.data import Vocabulary, load_precomputed, read_captions
from aoq_ext.data.precomputed import splits_in
from aoq_ext.data.verify import VerifyReport, detect_kind, verify
from aoq_ext.data.verify.text import check_captions
from tests.tiny_data import captions_of, edit_json, features_of, write_captions, write_karpathy, write_precomputed


@pytest.fixture
def precomp(tmp_path: Path) -> Path:
    return write_precomputed(tmp_path / "f30k_precomp", repeated=["dev"], ids=True)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    pytest.importorskip("PIL")
    return write_karpathy(tmp_path / "coco", {"train": 6, "restval": 2, "val": 3, "test": 3})


def found(report: VerifyReport) -> dict[str, str]:
    """What was found, and where."""
    assert all(all((one.where, one.expected, one.got, one.cure)) for one in report.findings)
    return {one.what: one.where for one in report.findings}


def text_of(report: VerifyReport, what: str) -> str:
    (one,) = (finding for finding in report.findings if finding.what == what)
    return str(one)


# ---- nothing is wrong


@pytest.mark.parametrize("quick", [False, True])
def test_a_good_folder_of_features(precomp: Path, quick: bool) -> None:
    seen = []
    report = verify(precomp, quick=quick, progress=lambda *step: seen.append(step))
    assert report.fine
    assert report.kind == "precomputed"
    assert [(one.name, one.images, one.captions) for one in report.splits] == [
        ("dev", 20, 100),
        ("test", 20, 100),
        ("train", 40, 200),
    ]
    assert report.splits[0].layout == "each image 5 times"
    assert report.splits[1].layout == "one row an image"
    assert report.splits[2].shape == (6, 32)
    assert report.splits[2].dtype == "float32"
    assert seen[-1] == ("reading train_ims.npy", 40, 40)
    assert any("quick" in note for note in report.notes) == quick


def test_a_good_karpathy_file(coco: Path) -> None:
    for path in (coco, coco.parent):
        report = verify(path)
        assert report.fine, report.findings
        assert report.kind == "karpathy"
        assert {one.name: (one.images, one.captions) for one in report.splits}["train"] == (6, 30)
    assert verify(coco, splits=["val"], quick=True).splits[0].layout == "5 captions each"


@pytest.mark.parametrize(
    ("captions", "noted"),
    [
        (["一只棕色的狗在草地上奔跑", "两个孩子在沙滩上玩球呢", "สุนัขสีน้ำตาลวิ่งบนสนามหญ้า"], True),
        (["一只 棕色 的 狗 在 草地 上 奔跑", "สุนัข สี น้ำตาล วิ่ง", "개가 달린다", "a dog runs"], False),
    ],
)
def test_captions_without_spaces_between_words_are_a_note(captions: list[str], noted: bool) -> None:
    report = VerifyReport("here", "precomputed")
    check_captions(report, "train", captions, None, "line")
    assert any("in a script without spaces between words" in note for note in report.notes) == noted


def test_repeated_captions_and_images_are_notes(tmp_path: Path) -> None:
    write_precomputed(tmp_path, {"train": 10})
    features = features_of(10, 0)
    features[9] = features[2]
    np.save(tmp_path / "train_ims.npy", features)
    write_captions(tmp_path, "train", [c for n in range(9) for c in captions_of(n)] + captions_of(2))
    report = verify(tmp_path)
    assert report.fine
    assert any("10 captions of 50 also describe another image" in note for note in report.notes)
    assert any("1 image with the features of an earlier image" in note for note in report.notes)


def test_coverage_is_noted(precomp: Path) -> None:
    Vocabulary.build([caption for n in range(40) for caption in captions_of(n)]).save(precomp / "f30k_vocab.json")
    report = verify(precomp)
    assert report.fine
    assert any(note.startswith("train: the vocabulary has 100.00 % of") for note in report.notes)


# ---- precomputed features


def spoil_features(change: Callable[[np.ndarray], np.ndarray | None]) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        features = np.load(folder / "dev_ims.npy")
        changed = change(features)
        np.save(folder / "dev_ims.npy", features if changed is None else changed)

    return spoil


def set_nan(features: np.ndarray) -> None:
    features[5:10, 3, 2] = np.nan
    features[35:40, 0, 0] = -np.inf


def set_zero(features: np.ndarray) -> None:
    features[10:15] = 0


def set_unlike(features: np.ndarray) -> None:
    features[51] += 1


PROBLEMS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "features-not-finite": (spoil_features(set_nan), "dev_ims.npy", "NaN or infinity in 10 rows, the first row 5"),
    "features-zero": (spoil_features(set_zero), "dev_ims.npy", "5 rows of nothing but zeros, the first row 10"),
    "features-not-repeated": (spoil_features(set_unlike), "dev_ims.npy", "1 image with different rows, the first"),
    "features-dtype": (spoil_features(lambda f: f.astype(np.float64)), "dev_ims.npy", "expected float32; got float64"),
    "features-shape": (spoil_features(lambda f: f[..., None]), "dev_ims.npy", r"got (100, 6, 32, 1)"),
    "shapes-differ": (spoil_features(lambda f: f[..., :16]), "all splits", "dev (6, 16), test (6, 32)"),
    "captions-per-image": (
        spoil_features(lambda f: f[:33]),
        "dev_ims.npy",
        "expected 20 rows, one for 5 captions each, or 100, one a caption; got 33",
    ),
    "features-file": (lambda folder: (folder / "dev_ims.npy").unlink(), "dev_ims.npy", "got no such file"),
    "missing-file": (lambda folder: (folder / "dev_caps.txt").unlink(), "dev_caps.txt", "got no such file"),
    "ids": (lambda folder: (folder / "dev_ids.txt").write_text("1\n"), "dev_ids.txt", "20 lines, one an image, or 100"),
    "splits-overlap": (
        lambda folder: (folder / "dev_ids.txt").write_text((folder / "train_ids.txt").read_text()),
        "dev_ids.txt",
        "40 ids in both, such as 0.jpg",
    ),
    "features-overlap": (
        lambda folder: np.save(folder / "test_ims.npy", np.load(folder / "train_ims.npy")[:20]),
        "test_ims.npy",
        "20 images with the features of a training image",
    ),
    "bytes-literals": (
        lambda folder: write_captions(folder, "dev", ["b'a cat'"] * 3 + ["a dog"] * 97),
        "dev_caps.txt",
        "3 captions printed from bytes, the first line 1: b'a cat'. Write it again from text",
    ),
    "empty-captions": (
        lambda folder: write_captions(folder, "dev", ["a cat"] * 98 + ["", " ..."]),
        "dev_caps.txt",
        "2 captions without a word, the first line 99",
    ),
    "encoding": (
        lambda folder: write_captions(folder, "dev", ["a cat"] * 99 + ["fenêtre".encode("latin1")]),
        "dev_caps.txt",
        "expected UTF-8; got 1 line that cannot be decoded, the first line 100. Write it again as UTF-8",
    ),
    "vocabulary": (
        lambda folder: (folder / "f30k_precomp_vocab.pkl").write_bytes(b"\x80\x04}."),
        "f30k_precomp_vocab.pkl",
        "expected a vocabulary as JSON; got a pickle",
    ),
    "vocabulary-coverage": (
        lambda folder: (folder / "f30k_precomp_vocab.json").write_text('{"cat": 0}'),
        "train",
        "expected a vocabulary with at least 90 % of the words; got",
    ),
}


@pytest.mark.parametrize("what", PROBLEMS)
def test_problems_of_features(precomp: Path, what: str) -> None:
    spoil, where, message = PROBLEMS[what]
    spoil(precomp)
    report = verify(precomp)
    findings = found(report)
    assert findings[what] == where
    assert message in [str(one) for one in report.findings if one.what == what][-1]
    expected = {"ids", "splits-overlap"} if what == "splits-overlap" else {what}
    expected |= {"shapes-differ"} if what == "features-shape" else set()
    assert findings.keys() == expected


@pytest.mark.parametrize("rows", [20, 21])
def test_one_caption_an_image(tmp_path: Path, rows: int) -> None:
    np.save(tmp_path / "train_ims.npy", features_of(rows, 0))
    write_captions(tmp_path, "train", [captions_of(image)[0] for image in range(rows)])
    (one,) = verify(tmp_path).findings
    assert one.what == ("features-not-repeated" if rows == 20 else "captions-per-image")
    assert one.cure.startswith(
        "where every image has 1 caption, pass --captions-per-image 1, and captions_per_image=1 to load_precomputed "
        "(data.args of a configuration); if it has not, take"
    )
    report = verify(tmp_path, captions_per_image=np.int64(1))
    assert report.fine
    assert (report.splits[0].images, report.splits[0].captions, report.splits[0].layout) == (
        rows,
        rows,
        "one row an image",
    )
    assert cli.main(["data", "verify", str(tmp_path)]) == 1
    assert cli.main(["data", "verify", str(tmp_path), "--captions-per-image", "1"]) == 0


def test_another_number_of_captions_an_image(tmp_path: Path) -> None:
    np.save(tmp_path / "train_ims.npy", features_of(10, 0).repeat(2, axis=0))
    write_captions(tmp_path, "train", [caption for image in range(10) for caption in captions_of(image)[:2]])
    assert verify(tmp_path, captions_per_image=2).splits[0].layout == "each image 2 times"
    np.save(tmp_path / "train_ims.npy", features_of(10, 0))
    (one,) = verify(tmp_path).findings
    assert one.cure.startswith("where every image has 2 captions, pass --captions-per-image 2, and")
    assert verify(tmp_path, captions_per_image=2).fine
    for wrong, error in ((0, ValueError), (True, TypeError), (2.0, TypeError)):
        with pytest.raises(error, match="captions_per_image"):
            verify(tmp_path, captions_per_image=wrong)


def test_few_captions_of_pictures(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    coco = write_karpathy(tmp_path, {"train": 3}, captions=2)
    assert found(verify(coco)) == {"captions-per-image": "train"}
    assert verify(coco, captions_per_image=2).fine


def test_hidden_files_are_no_data(precomp: Path) -> None:
    words = Vocabulary.build([caption for n in range(40) for caption in captions_of(n)])
    words.save(precomp / "f30k_vocab.json")
    before = verify(precomp).to_dict()
    for path in sorted(precomp.iterdir()):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7Mac OS X")
    assert splits_in(precomp) == ["dev", "test", "train"]
    assert verify(precomp).to_dict() == before
    with pytest.raises(ValueError, match="split: expected one of dev, test, train"):
        load_precomputed("._train", precomp)


def test_ids_that_number_each_split_are_no_overlap(precomp: Path) -> None:
    for split, images in (("train", 40), ("dev", 20), ("test", 20)):
        (precomp / f"{split}_ids.txt").write_text("\n".join(map(str, range(images))))
    assert verify(precomp).fine


def test_a_few_images_in_two_splits_are_a_note(tmp_path: Path) -> None:
    write_precomputed(tmp_path, {"train": 3, "dev": 200})
    features = features_of(200, 1)
    features[7] = np.load(tmp_path / "train_ims.npy")[2]
    np.save(tmp_path / "dev_ims.npy", features)
    report = verify(tmp_path)
    assert report.fine
    assert "dev_ims.npy: 1 image with the features of a training image" in report.notes


def test_a_split_of_nothing(precomp: Path) -> None:
    np.save(precomp / "dev_ims.npy", np.empty((0, 6, 32), np.float32))
    (precomp / "dev_caps.txt").write_text("")
    (precomp / "dev_ids.txt").write_text("")
    assert found(verify(precomp)) == {"features-none": "dev_ims.npy"}


def test_an_empty_folder(tmp_path: Path) -> None:
    assert found(verify(tmp_path, "precomputed")) == {"no-splits": str(tmp_path)}


# ---- Karpathy files


def test_problems_of_pictures(coco: Path) -> None:
    train = sorted((coco.parent / "train2014").iterdir())
    train[1].unlink()
    train[2].write_bytes(train[2].read_bytes()[:70])
    report = verify(coco)
    assert found(report) == {"pictures-missing": "train", "pictures-damaged": "train"}
    assert f"1 picture missing in {coco.parent}, such as train2014/{train[1].name}" in text_of(
        report, "pictures-missing"
    )
    assert f"1 picture that cannot be decoded, such as train2014/{train[2].name}" in text_of(report, "pictures-damaged")


def test_pictures_without_a_range(coco: Path) -> None:
    from PIL import Image

    first, second = sorted((coco.parent / "train2014").iterdir())[:2]
    Image.fromarray(np.zeros((4, 4), np.float32)).save(first, format="TIFF")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(second)
    report = verify(coco)
    assert found(report) == {"pictures-range": "train"}
    assert text_of(report, "pictures-range") == (
        f"train: expected pictures of 8 or 16 bits; got 1 picture without a defined range, such as "
        f"train2014/{first.name}. Save them as 8-bit pictures."
    )


def test_pictures_somewhere_else(coco: Path, tmp_path: Path) -> None:
    for name in ("train2014", "val2014"):
        (coco.parent / name).rename(tmp_path / name)
    report = verify(coco, splits=["train"])
    assert found(report) == {"pictures-missing": "train"}
    assert "name their folder with --pictures" in text_of(report, "pictures-missing")
    assert verify(coco, pictures=tmp_path).fine


def test_problems_of_entries(coco: Path) -> None:
    entries = json.loads(coco.read_text())["images"]
    edit_json(coco, 0, sentences=[{"raw": "a cat"}, {"raw": "b'a cat'"}, {"raw": "!"}])
    edit_json(coco, 13, filename=entries[12]["filename"])
    report = verify(coco)
    assert found(report) == {
        "pictures-repeated": "dataset_coco.json",
        "captions-per-image": "train",
        "bytes-literals": "train",
        "empty-captions": "train",
    }
    assert "the first sentence 3" in text_of(report, "empty-captions")
    coco.write_text('{"images": 3}')
    assert found(verify(coco)) == {"json": "dataset_coco.json"}
    assert str(verify(coco).findings[0]).startswith('dataset_coco.json: expected {"images": [...]}')


# ---- the command


def test_command_prints_and_writes(precomp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "report.json"
    assert cli.main(["data", "verify", str(precomp), "--json", str(file)]) == 0
    output = capsys.readouterr().out
    assert "nothing is wrong" in output
    assert "each image 5 times" in output
    assert "6×32 float32" in output
    content = json.loads(file.read_text())
    assert content["fine"] is True
    assert content["splits"][0]["images"] == 20

    PROBLEMS["features-not-finite"][0](precomp)
    assert cli.main(["data", "verify", str(precomp), "--split", "dev", "--json", str(file)]) == 1
    output = capsys.readouterr().out
    assert "wrong: dev_ims.npy: expected finite features; got NaN or infinity in 10 rows, the first row 5" in (
        " ".join(output.split())
    )
    assert output.endswith("1 thing wrong\n")
    (finding,) = json.loads(file.read_text())["findings"]
    assert finding["what"] == "features-not-finite"
    assert finding["count"] == 10


def test_command_without_rich(
    precomp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("rich.console", "rich.table", "rich.progress"):
        monkeypatch.setitem(sys.modules, name, None)
    assert cli.main(["data", "verify", str(precomp)]) == 0
    assert "dev    20      100       each image 5 times  6×32 float32" in capsys.readouterr().out


def test_command_with_a_karpathy_file(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "verify", str(coco), "--kind", "karpathy", "--pictures", str(coco.parent), "--quick"]
    assert cli.main(arguments) == 0
    assert "3 pictures were decoded (quick)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "required: verify"),
        (["fly"], 2, "invalid choice"),
        (["verify"], 2, "required: path"),
        (["verify", "{0}", "--kind", "tar"], 2, "--kind"),
        (["verify", "{0}", "--split", "val"], 1, "splits: expected some of dev, test, train, got 'val'"),
        (["verify", "{0}/nowhere"], 1, "path: expected a folder with either train_ims.npy"),
        (["verify", "{0}/nowhere", "--kind", "precomputed"], 1, "which does not exist"),
        (["verify", "{0}", "--pictures", "x"], 1, "pictures: expected none for precomputed features, got x"),
        (["verify", "{0}", "--vocabulary", "{0}/none.json"], 1, "none.json: expected a vocabulary as JSON"),
    ],
)
def test_command_lines_that_make_no_sense(
    precomp: Path, arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["data", *(argument.format(precomp) for argument in arguments)]) == status
    captured = capsys.readouterr()
    assert message in " ".join((captured.err + captured.out).split())


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", "verify", "--help"])
    assert stop.value.code == 0
    assert "usage: aoq data verify" in capsys.readouterr().out


def test_kind_is_one_of_the_known(precomp: Path, coco: Path) -> None:
    assert detect_kind(precomp) == "precomputed"
    with pytest.raises(ValueError, match="kind: expected one of precomputed, karpathy, got 'tar'"):
        verify(precomp, "tar")
    (precomp / "dataset_b.json").write_text("{}")
    with pytest.raises(ValueError, match="got both"):
        detect_kind(precomp)


def test_the_page_about_data_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL")
    monkeypatch.chdir(tmp_path)
    write_precomputed(Path("data/f30k_precomp"))
    Path("data/f30k_precomp/f30k_precomp_vocab.json").write_text('{"cat": 0}')
    write_karpathy(Path("data/coco"))
    write_precomputed(Path("data/other"), {"train": 10})
    np.save("data/other/train_ims.npy", features_of(10, 0).astype(np.float64))
    write_captions(Path("data/other"), "train", [repr(c.encode()) for n in range(10) for c in captions_of(n)])
    assert found(verify("data/other")).keys() == {"features-dtype", "bytes-literals"}
    Path("data/mine").mkdir()
    page = (Path(__file__).resolve().parents[2] / "docs/data.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        exec(compile(block, "docs/data.md", "exec"), {})
    assert verify("data/mine").fine
    assert read_captions("data/mine/train_caps.txt") == [c for n in range(10) for c in captions_of(n)]
