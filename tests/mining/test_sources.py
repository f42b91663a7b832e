"""Embeddings in files: read as they are, block by block, and refused where they are not what they should be."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("numpy")

import numpy as np

from aoq_ext import _sources as sources
from aoq_ext._sources import check_sources, open_embeddings, read_integers

FLOATS = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


def some(dtype: str = "float32", rows: int = 29, width: int = 7) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(1)).to(FLOATS[dtype])


def write_safetensors(path: Path, **tensors: torch.Tensor) -> Path:
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(tensors, path)
    return path


def check_reads(source: sources.Source, expected: torch.Tensor) -> None:
    assert source.shape == tuple(expected.shape)
    assert source.dtype == expected.dtype
    for start, stop in ((0, len(expected)), (0, 1), (11, 17), (5, 5), (len(expected) - 1, len(expected))):
        rows = source.rows(start, stop)
        assert rows.is_contiguous()
        assert rows.dtype == expected.dtype
        assert torch.equal(rows, expected[start:stop])
    index = torch.tensor([3, 28, 0, 3, 17])
    assert torch.equal(source.take(index), expected[index])
    assert source.take(index[:0]).shape == (0, expected.shape[1])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_npy(tmp_path: Path, dtype: str, order: str) -> None:
    expected = some(dtype)
    np.save(tmp_path / "x.npy", np.asarray(expected.numpy(), order=order))
    for path in (tmp_path / "x.npy", str(tmp_path / "x.npy")):
        check_reads(open_embeddings(path), expected)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_npy_versions(tmp_path: Path, version: tuple[int, int]) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, some().numpy(), version)
    check_reads(open_embeddings(tmp_path / "x.npy"), some())


@pytest.mark.parametrize("dtype", list(FLOATS))
def test_safetensors(tmp_path: Path, dtype: str) -> None:
    expected = some(dtype)
    path = write_safetensors(tmp_path / "x.safetensors", images=expected)
    check_reads(open_embeddings(path), expected)
    check_reads(open_embeddings(f"{path}:images"), expected)


def test_one_tensor_of_several(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", images=some(), texts=some()[::2].contiguous())
    check_reads(open_embeddings(f"{path}:images"), some())
    with pytest.raises(ValueError, match=r"anchors must name one tensor, as .*:NAME, got .* with images, texts"):
        open_embeddings(path, "anchors")
    with pytest.raises(ValueError, match=r"anchors must name a tensor of .*, images, texts, got 'words'"):
        open_embeddings(f"{path}:words", "anchors")


@pytest.mark.parametrize("change", [lambda x: x, lambda x: x[:, ::-1], lambda x: np.asfortranarray(x)])
def test_arrays(tmp_path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    array = change(some().numpy())
    check_reads(open_embeddings(array), torch.from_numpy(array.copy(order="C")))
    np.save(tmp_path / "x.npy", array)
    check_reads(open_embeddings(np.load(tmp_path / "x.npy", mmap_mode="r")), torch.from_numpy(array.copy(order="C")))


def test_tensors_pass_through() -> None:
    tensor = some()
    assert open_embeddings(tensor).rows(0, 29).data_ptr() == tensor.data_ptr()


def npy_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


WHOLE = npy_bytes(some().numpy())
HUGE = WHOLE.replace(b"'shape': (29, 7)", b"'shape': (9e9, )")
BAD_NPY = {
    "empty": (b"", r"must be a \.npy file, got .*bad.npy without a valid header"),
    "no magic": (b"hello" * 40, r"without a valid header"),
    "pickle": (pickle.dumps([1.0, 2.0]), r"without a valid header"),
    "header cut": (WHOLE[:30], r"without a valid header"),
    "header damaged": (WHOLE[:12] + b"\xff\x00{{" + WHOLE[16:], r"without a valid header"),
    "header that is no shape": (HUGE, r"without a valid header"),
    "version": (WHOLE[:6] + b"\x03\x00" + WHOLE[8:], r"version \(3, 0\)"),
    "cut": (WHOLE[:-1], r"must be a whole \.npy file, got .*bad.npy with 939 bytes of 940"),
    "cut to the header": (WHOLE[:128], r"with 128 bytes of 940"),
    "too long": (WHOLE + b"more", r"with 944 bytes of 940"),
    "objects": (npy_bytes(np.array([[None, 1]])), r"must be numbers, got .* with pickled objects"),
    "byte order": (npy_bytes(some().numpy().astype(">f4")), r"byte order of this machine, got .* with >f4"),
    "integers": (npy_bytes(np.zeros((3, 2), np.int32)), r"must be float16, float32, float64, got .* with int32"),
    "complex": (npy_bytes(np.zeros((3, 2), np.complex64)), r"got .* with complex64"),
    "long double": (npy_bytes(np.zeros((3, 2), np.longdouble)), r"got .* with float128"),
    "fields": (npy_bytes(np.zeros(3, [("a", "f4")])), r"must be float16"),
    "one dimension": (
        npy_bytes(np.zeros(3, np.float32)),
        r"must have shape \(rows, D\) with D ≥ 1, got .* with \(3,\)",
    ),
    "no dimensions": (npy_bytes(np.float32(3)), r"got .* with \(\)"),
    "three dimensions": (npy_bytes(np.zeros((3, 2, 2), np.float32)), r"got .* with \(3, 2, 2\)"),
    "no width": (npy_bytes(np.zeros((3, 0), np.float32)), r"with D ≥ 1, got .* with \(3, 0\)"),
}


@pytest.mark.parametrize("case", list(BAD_NPY))
def test_a_bad_npy_file_is_refused(tmp_path: Path, case: str) -> None:
    content, message = BAD_NPY[case]
    (tmp_path / "bad.npy").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        open_embeddings(tmp_path / "bad.npy", "anchors")
    assert str(caught.value).startswith("anchors must ")
    assert "bad.npy" in str(caught.value)


def safetensors_bytes(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def one(dtype: str, shape: list[int], end: int) -> dict[str, object]:
    return {"x": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}


BAD_SAFETENSORS = {
    "empty": (b"", r"must be a whole \.safetensors file, got .*bad.safetensors"),
    "no header": (b"\xff" * 64, r"must be a whole \.safetensors file"),
    "header damaged": (struct.pack("<Q", 8) + b"{{{{{{{{", r"must be a whole \.safetensors file"),
    "cut": (safetensors_bytes(one("F32", [2, 2], 16), b"\0" * 15), r"must be a whole \.safetensors file"),
    "too long": (safetensors_bytes(one("F32", [2, 2], 16), b"\0" * 17), r"must be a whole \.safetensors file"),
    "size that is not the shape's": (safetensors_bytes(one("F32", [2, 2], 8), b"\0" * 8), r"must be a whole"),
    "integers": (
        safetensors_bytes(one("I32", [2, 2], 16), b"\0" * 16),
        r"must be F16, F32, F64, BF16, got .* with I32",
    ),
    "one dimension": (safetensors_bytes(one("F32", [4], 16), b"\0" * 16), r"must have shape .* with \(4,\)"),
    "no width": (safetensors_bytes(one("F32", [4, 0], 0)), r"must have shape .* with \(4, 0\)"),
    "no tensors": (safetensors_bytes({}), r"with no tensors"),
}


@pytest.mark.parametrize("case", list(BAD_SAFETENSORS))
def test_a_bad_safetensors_file_is_refused(tmp_path: Path, case: str) -> None:
    pytest.importorskip("safetensors")
    content, message = BAD_SAFETENSORS[case]
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        open_embeddings(tmp_path / "bad.safetensors", "anchors")
    assert "bad.safetensors" in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.npy", tmp_path / "none.safetensors", f"{tmp_path}/none.safetensors:x"):
        with pytest.raises(FileNotFoundError, match=r"anchors must be a file, got .*none\.\w+, which is missing"):
            open_embeddings(path, "anchors")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(FileNotFoundError, match=r"folder.npy, which is none"):
        open_embeddings(tmp_path / "folder.npy", "anchors")
    with pytest.raises(ValueError, match=r"anchors must be a \.npy or \.safetensors file, got x\.npz"):
        open_embeddings("x.npz", "anchors")
    with pytest.raises(TypeError, match="anchors must be a tensor, a numpy array or the path of a file, got list"):
        open_embeddings([[1.0]], "anchors")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"anchors must be float16, float32, float64, got an array with int64"):
        open_embeddings(np.zeros((2, 2), np.int64), "anchors")


def test_a_file_that_is_cut_while_it_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", some().numpy())
    source = open_embeddings(tmp_path / "x.npy")
    (tmp_path / "x.npy").write_bytes(WHOLE[:500])
    with pytest.raises(OSError, match=r"x.npy was cut short while it was read"):
        source.rows(0, 29)


def test_sources_must_fit_each_other() -> None:
    left = open_embeddings(some())
    with pytest.raises(TypeError, match=r"candidates must have the dtype of anchors, float32, got float64"):
        check_sources(left, open_embeddings(some("float64")))
    with pytest.raises(ValueError, match="candidates must have the D of anchors, 7, got 6"):
        check_sources(left, open_embeddings(some(width=6)))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16", "int32", "int64", "uint32", "uint64", ">i4"])
def test_integers(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "ids.npy", np.array([3, 1, 2], dtype))
    for source in (tmp_path / "ids.npy", np.array([3, 1, 2], dtype), torch.tensor([3, 1, 2])):
        assert torch.equal(read_integers(source, "anchor_ids"), torch.tensor([3, 1, 2]))


@pytest.mark.parametrize("array", [np.zeros(3, np.float32), np.zeros((3, 1), np.int64)], ids=str)
def test_integers_that_are_none(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "ids.npy", array)
    with pytest.raises(ValueError, match=r"anchor_ids must be integers of one dimension, got .*ids.npy with"):
        read_integers(tmp_path / "ids.npy", "anchor_ids")


def test_integers_that_do_not_fit(tmp_path: Path) -> None:
    array = np.array([1, 2**63 + 5], np.uint64)
    np.save(tmp_path / "ids.npy", array)
    for source in (tmp_path / "ids.npy", array):
        with pytest.raises(
            ValueError, match=r"anchor_ids must be at most 2\*\*63 - 1, got .* with 9223372036854775813"
        ):
            read_integers(source, "anchor_ids")


STREAM = """
import sys, torch
torch.set_num_threads(1)
from aoq_ext._sources import open_embeddings

def memory():
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return [int(lines[name].split()[0]) * 1024 for name in ("RssAnon", "VmHWM")]

source = open_embeddings(sys.argv[1])
source.rows(0, 1000), source.take(torch.arange(0, 1000))
before = memory()
for start in range(0, source.shape[0], 4000):
    source.rows(start, min(start + 4000, source.shape[0])).sum()
source.take(torch.arange(0, source.shape[0], 97))
after = memory()
print(*(late - early for early, late in zip(before, after)))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the process's memory from /proc")
@pytest.mark.parametrize("kind", ["C", "F", "safetensors"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, kind: str) -> None:
    array = np.ones((400_000, 256), np.float16)  # 205 MB
    path = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.npy")
    if kind == "safetensors":
        write_safetensors(path, x=torch.from_numpy(array))
    else:
        np.save(path, np.asarray(array, order=kind))
    del array
    result = subprocess.run([sys.executable, "-c", STREAM, str(path)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    grown = list(map(int, result.stdout.split()))
    assert max(grown) < 100e6, grown
