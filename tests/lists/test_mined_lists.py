"""Mined lists on the disk: what is written is read; what is damaged, of others or of an earlier format is refused."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("numpy")

import numpy as np

from aoq_ext._arrays import ArrayWriter
from aoq_ext.lists import MinedFrom, MinedLists, mine_to_files
from aoq_ext.lists.manifest import Manifest

IMAGES, TEXTS = 30, 90
OWN = np.arange(TEXTS) // 3  # the image of each text


def run_lists(k_text: int = 20, k_image: int = 4, texts: str = "candidates", **problem: Any) -> MinedLists:
    """Lists as of a run; the ends of some are missing."""
    random = np.random.default_rng(0)

    def side(anchors: int, candidates: int, k: int) -> tuple[Any, Any]:
        indices = np.stack([random.permutation(candidates)[:k] for _ in range(anchors)]).astype(np.int32)
        indices[::3, k // 2 :] = -1
        return indices, np.where(indices >= 0, 0.5, -np.inf).astype(np.float32)

    manifest = Manifest({"texts": texts, "data": "d", "weights": "w", **problem}, MinedFrom("runs/a", 3, "w", "e"))
    sides = side(IMAGES, TEXTS, k_text), side(TEXTS, IMAGES, k_image)
    forward, backward = sides if texts == "candidates" else sides[::-1]
    return MinedLists(manifest, *forward, *backward, OWN)


def arrays_of(lists: MinedLists) -> dict[str, Any]:
    return {
        field.name: getattr(lists, field.name) for field in fields(lists) if field.name not in ("manifest", "folder")
    }


@pytest.mark.parametrize("texts", ["candidates", "anchors"])
def test_lists_survive_the_disk(tmp_path: Path, texts: str) -> None:
    lists = run_lists(texts=texts, k=20, margin=0.1)
    run_lists(7, 5).save(tmp_path)  # of which nothing is left
    loaded = MinedLists.load(lists.save(tmp_path))
    for name, before in arrays_of(lists).items():
        after = getattr(loaded, name)
        assert isinstance(after, np.memmap) and np.array_equal(before, after) and before.dtype == after.dtype
    assert (loaded.problem, loaded.mined_from, loaded.folder) == (lists.problem, lists.mined_from, tmp_path)
    assert loaded.texts.shape == loaded.text_scores.shape == (IMAGES, 20)
    assert loaded.images.shape == loaded.image_scores.shape == (TEXTS, 4)
    assert loaded.fingerprint() == lists.fingerprint()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["format"], manifest["complete"], manifest["problem"]["texts"]) == (3, True, texts)
    known = {"manifest.json", *(entry["file"] for entry in manifest["files"].values())}
    assert {path.name for path in tmp_path.iterdir()} == known
    replace(lists, text_image=None).save(tmp_path)
    assert MinedLists.load(tmp_path).text_image is None and not (tmp_path / "text_image.npy").exists()


def test_the_image_of_each_side_does_not_change_the_draws() -> None:
    lists = run_lists()
    turned = MinedLists(
        replace(lists.manifest, problem=lists.problem | {"texts": "anchors"}),
        lists.images, lists.image_scores, lists.texts, lists.text_scores,
    )  # fmt: skip
    assert turned.fingerprint() == lists.fingerprint()
    assert np.array_equal(turned.texts, lists.texts) and np.array_equal(turned.image_scores, lists.image_scores)


def test_lists_are_saved_over_those_of_a_run_alone(tmp_path: Path) -> None:
    lists = run_lists()
    lists.save(tmp_path)
    lists.save(tmp_path)
    for name in ("indices.npy", "reverse_scores.npy", "config.yaml"):
        folder = tmp_path / f"with {name}"
        folder.mkdir()
        (folder / name).write_bytes(b"precious")
        with pytest.raises(
            (FileExistsError, ValueError), match=r"folder must not (hold files of others|be the folder of)"
        ):
            lists.save(folder)
        assert [path.read_bytes() for path in folder.iterdir()] == [b"precious"]
    for content in ('{"format": 1, "problem": {}}', "{}", "{"):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(
            ValueError, match=r"folder must not hold what is of others, got .*manifest.json of something"
        ):
            lists.save(tmp_path)
        assert (tmp_path / "manifest.json").read_text() == content
    between_files = mine_to_files(torch.ones(3, 2), torch.ones(4, 2), tmp_path / "files", 2)
    with pytest.raises(ValueError, match="folder must not hold what is of others"):
        lists.save(tmp_path / "files")
    for others in (between_files, replace(lists, reverse_indices=None)):
        with pytest.raises(ValueError, match=r"expected lists that were mined with a run, in both directions, to save"):
            others.save(tmp_path / "new")
        assert not (tmp_path / "new").exists()


def test_saving_that_was_killed_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists, written = run_lists(), []

    def killed(self: ArrayWriter, path: Path) -> dict[str, Any]:
        written.append(path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ArrayWriter, "describe", killed)
        with pytest.raises(KeyboardInterrupt):
            lists.save(tmp_path)
    with pytest.raises(ValueError, match="folder must hold complete lists"):
        MinedLists.load(tmp_path)
    assert written and MinedLists.load(lists.save(tmp_path)).fingerprint() == lists.fingerprint()


@pytest.mark.parametrize("file", ["indices.npy", "reverse_scores.npy", "text_image.npy"])
@pytest.mark.parametrize("damage", ["shorter", "longer", "flipped", "empty", "missing"])
def test_damaged_files_are_refused(tmp_path: Path, file: str, damage: str) -> None:
    path = run_lists().save(tmp_path) / file
    content = path.read_bytes()
    path.write_bytes({
        "shorter": content[:-5],
        "longer": content + b"\0",
        "flipped": content[:-1] + bytes([content[-1] ^ 1]),
        "empty": b"",
        "missing": content,
    }[damage])  # fmt: skip
    if damage == "missing":
        path.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=rf"folder must .*{file}.*; mine again"):
        MinedLists.load(tmp_path)
    if damage != "flipped":  # what no reader could use is refused without reading it all
        with pytest.raises((ValueError, FileNotFoundError), match=rf"folder must .*{file}.*; mine again"):
            MinedLists.load(tmp_path, checksums=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 9, "problem": {}}, "expected format 3, got 9"),
        ({"format": "3"}, "expected a number as format, got '3'"),
        ({"problem": {}}, "expected a text as problem.texts, got None"),
        ({"mined_from": {"who": 1}}, "expected .*unexpected keyword argument 'who'"),
        ({"files": []}, r"expected an object as files, got \[\]"),
        ({"files": {"indices": 3}}, "expected indices and scores among files, got indices"),
        ({"files": {"indices": 3, "scores": {}}}, "expected an object as files.indices, got 3"),
        (
            {"files": {"indices": {"file": "indices.npy"}, "scores": {}}},
            "expected a list as files.indices.shape, got None",
        ),
    ],
)
def test_damaged_manifests_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = run_lists().save(tmp_path) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=rf"folder: .*manifest.json: {message}; mine again, into another folder"):
        MinedLists.load(tmp_path)
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"manifest.json: expected an object, got \[\]; mine again"):
        MinedLists.load(tmp_path)


def test_files_elsewhere_are_not_read(tmp_path: Path) -> None:
    path = run_lists().save(tmp_path) / "manifest.json"
    path.write_text(path.read_text().replace('"indices.npy"', '"../indices.npy"'))
    with pytest.raises(
        ValueError, match=r"expected indices.npy as files.indices.file, got \.\./indices.npy; mine again"
    ):
        MinedLists.load(tmp_path)


@pytest.mark.parametrize("shape", [[30, 21], [600]])
def test_arrays_must_be_what_the_manifest_says(tmp_path: Path, shape: list[int]) -> None:
    path = run_lists().save(tmp_path) / "manifest.json"
    content = json.loads(path.read_text())
    content["files"]["indices"]["shape"] = shape
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"must hold indices.npy of <i4 .*, got <i4 \[30, 20\]; mine again"):
        MinedLists.load(tmp_path)


OF_A_RUN = {
    "format": 2, "run": "runs/a", "data_fingerprint": "d", "weights_fingerprint": "w",
    "rules": {"k_text": 20, "repeated_captions": True, "skip": 2, "margin": -1e-5, "max_score": 0.9},
    "texts": {"file": "hard_texts.npy", "shape": [30, 20], "sha256": "0"},
    "images": {"file": "hard_images.npy", "shape": [90, 4], "sha256": "0"},
}  # fmt: skip
OF_THE_FIRST = {name: OF_A_RUN[name] for name in ("data_fingerprint", "texts", "images")} | {"format": 1}
BETWEEN_FILES = {
    "format": 1, "files": {},
    "problem": {"k": 300, "k_reverse": 60, "anchor_ids": "0", "anchor_labels": "0", "skip": 0, "max_score": 0.0},
}  # fmt: skip
OF_KNOWN_FILES = {
    "format": 1, "files": {}, "problem": {"k": 3, "anchors": {"sha256": "0"}, "candidates": {"sha256": "1"}},
    "fingerprints": {"t.safetensors:text": {"sha256": "1"}, "my images.npy:": {"sha256": "0"}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("manifest", "command"),
    [
        (
            OF_A_RUN,
            "--run runs/a --k-text 20 --k-image 4 --skip=2 --margin=-1e-05 --max-score=0.9 --repeated-captions --out",
        ),
        ({"format": 1, "texts": {"shape": 3}, "rules": []}, "--run RUN --k-text K --k-image K --out {} --overwrite"),
        (OF_THE_FIRST, "--run RUN --k-text 20 --k-image 4 --out {} --overwrite"),
        (
            BETWEEN_FILES,
            "--anchors ANCHORS --candidates CANDIDATES --k 300 --both --k-reverse 60 --text-image-index INDEX "
            "--captions CAPTIONS --skip=0 --max-score=0.0 --out ANOTHER_FOLDER",
        ),
        (OF_KNOWN_FILES, "--anchors 'my images.npy' --candidates t.safetensors:text --k 3 --out ANOTHER_FOLDER"),
    ],
)
def test_earlier_formats_are_refused_with_the_command_that_mines_again(
    tmp_path: Path, manifest: dict[str, Any], command: str
) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    says = re.escape(f"got format {manifest['format']} of an earlier version; mine again: aoq mine ")
    with pytest.raises(
        ValueError, match=f"expected lists of format 3 in .*{says}{re.escape(command.format(tmp_path))}"
    ):
        MinedLists.load(tmp_path)
    with pytest.raises(ValueError, match=f"out: expected lists of format 3 in .*{says}"):
        mine_to_files(torch.ones(3, 2), torch.ones(4, 2), tmp_path, 2)


def test_lists_of_a_run_in_an_earlier_format_are_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(OF_A_RUN))
    for name in ("hard_texts.npy", "hard_images.npy"):
        (tmp_path / name).write_bytes(b"old")
    assert MinedLists.load(run_lists().save(tmp_path)).texts.shape == (IMAGES, 20)
    assert not list(tmp_path.glob("hard_*"))
