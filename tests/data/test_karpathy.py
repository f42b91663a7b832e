"""Karpathy's splits, with pictures that are decoded when they are asked for."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from aoq_ext.data import DataError, ImageRows, Pictures, Vocabulary, fingerprint_images, load_karpathy
from aoq_ext.data.pictures import open_picture
from tests.tiny_data import captions_of, edit_json, picture_of, write_karpathy

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_karpathy(tmp_path / "coco")


def test_training_images_with_and_without_restval(coco: Path) -> None:
    data = load_karpathy("train", coco.parent, size=18)
    assert data.name == "coco/train"
    assert data.images.shape == (40, 3, 18, 18)
    assert data.images.dtype == np.uint8
    assert data.images.ndim == 4
    assert len(data.images) == len(data) == 40
    assert isinstance(data.images, ImageRows)
    assert data.captions_of(31) == captions_of(1)
    assert data.image_names[30] == "COCO_val2014_000000001000.png"
    np.testing.assert_array_equal(data.images[31], picture_of(1, 1)[:, 3:21].transpose(2, 0, 1))
    assert len(load_karpathy("train", coco.parent, restval=False)) == 30
    assert len(load_karpathy("restval", coco.parent)) == 10
    assert len(load_karpathy("val", coco.parent)) == 20


def test_a_byte_order_mark_is_skipped(coco: Path) -> None:
    path = next(coco.parent.glob("dataset_*.json")) if coco.is_file() else next(coco.glob("dataset_*.json"))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(load_karpathy("val", path.parent)) == 20


def test_flickr_layout_and_folders(tmp_path: Path) -> None:
    path = write_karpathy(tmp_path, {"train": 4, "test": 2}, coco=False)
    assert len(load_karpathy("train", tmp_path)) == 4
    moved = tmp_path / "elsewhere"
    (tmp_path / "flickr30k-images").rename(moved)
    with pytest.raises(DataError, match=r"pictures: expected a folder with 0.png, got none in .*name the folder"):
        load_karpathy("train", tmp_path)
    assert load_karpathy("test", tmp_path, json=path.name, pictures=moved).name == "flickr30k/test"
    assert len(load_karpathy("test", tmp_path, json=path, pictures=moved, name="f30k")) == 2


def test_indexing_is_that_of_numpy(coco: Path) -> None:
    images = load_karpathy("val", coco.parent, size=12).images
    whole = np.asarray(images)
    assert whole.shape == (20, 3, 12, 12)
    for rows in (0, -1, slice(3, 9, 2), slice(None, None, -7), [4, 1, 1], np.array([2, 0]), np.arange(20) % 3 == 0):
        expected = whole[rows]
        got = images[rows]
        np.testing.assert_array_equal(got, expected)
        assert got.shape == expected.shape
        assert got.dtype == np.uint8
    for wrong in (20, -21, [0, 20], (0, 0), np.zeros((2, 2), dtype=np.int64)):
        with pytest.raises(IndexError):
            images[wrong]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(images))[3], whole[3])


def test_pictures_are_scaled_and_cut_the_same_every_time(tmp_path: Path) -> None:
    shapes = {"wide": (40, 10), "high": (10, 40), "tiny": (1, 3), "same": (16, 16)}
    for name, (width, height) in shapes.items():
        pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    Image.new("L", (20, 20), 7).save(tmp_path / "grey.png")
    Image.new("CMYK", (20, 20)).save(tmp_path / "cmyk.jpg")
    Image.new("RGBA", (20, 20)).save(tmp_path / "alpha.png")
    paths = sorted(tmp_path.iterdir())
    one, many = (Pictures(paths, size=8, shorter_side=9, threads=threads) for threads in (1, 4))
    np.testing.assert_array_equal(one[:], many[:])
    assert (one[paths.index(tmp_path / "grey.png")] == 7).all()
    same = Pictures([tmp_path / "same.png"], size=16)[0]
    np.testing.assert_array_equal(same, np.asarray(Image.open(tmp_path / "same.png")).transpose(2, 0, 1))
    assert len(Pictures([])[:]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size: expected a positive number of pixels, got 0"),
        ({"size": 9, "shorter_side": 8}, "shorter_side: expected at least size, 9 pixels, got 8"),
        ({"threads": 0}, "threads: expected a positive number or None, got 0"),
    ],
)
def test_options_of_pictures(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pictures(["a.png"], **options)


def test_captions_per_image(tmp_path: Path) -> None:
    path = write_karpathy(tmp_path, {"train": 3, "val": 2}, captions=7)
    assert len(load_karpathy("train", tmp_path).captions) == 15
    assert len(load_karpathy("train", tmp_path, captions_per_image=None).captions) == 21
    assert load_karpathy("train", tmp_path, captions_per_image=1).captions == [captions_of(n)[0] for n in range(3)]
    with pytest.raises(ValueError, match="captions_per_image: expected a positive number or None, got 0"):
        load_karpathy("train", tmp_path, captions_per_image=0)
    edit_json(path, 1, sentences=[{"raw": " two\n words "}, {"tokens": ["no", "raw"]}])
    with pytest.raises(DataError, match=r"images\[1\] \(train2014/COCO.*expected at least 5 sentences, got 2; pass"):
        load_karpathy("train", tmp_path)
    data = load_karpathy("train", tmp_path, captions_per_image=None)
    assert data.captions_of(1) == ["two words", "no raw"]
    assert np.bincount(data.caption_image).tolist() == [7, 2, 7]
    edit_json(path, 1, sentences=[])
    with pytest.raises(DataError, match=r"at least 1 sentences, got 0.*remove the image"):
        load_karpathy("train", tmp_path, captions_per_image=None)


def test_wrong_entries_are_named(coco: Path) -> None:
    with pytest.raises(ValueError, match=r"split: expected one of restval, test, train, val .*got 'dev'"):
        load_karpathy("dev", coco.parent)
    edit_json(coco, 2, sentences=[{"raw": "b'a cat'"}] * 5)
    with pytest.raises(DataError, match=r"images\[2\].*expected text, got the printed form of a bytes object"):
        load_karpathy("train", coco.parent)
    edit_json(coco, 2, filename="../../secret.png")
    with pytest.raises(DataError, match=r"images\[2\]: expected a picture below the folder"):
        load_karpathy("train", coco.parent)
    edit_json(coco, 2, sentences=[{"raw": 3}])
    with pytest.raises(DataError, match=r"images\[2\]: expected filename, split and sentences with raw"):
        load_karpathy("train", coco.parent)
    edit_json(coco, 2, sentences=[{"raw": "a cat"}] * 5, split=None)
    with pytest.raises(DataError, match=r"images\[2\]: expected filename, split .*TypeError: split is NoneType"):
        load_karpathy("train", coco.parent)
    coco.write_text("[]")
    with pytest.raises(DataError, match="got other JSON"):
        load_karpathy("train", coco.parent)
    coco.write_text("{")
    with pytest.raises(DataError, match="expected JSON in UTF-8"):
        load_karpathy("train", coco.parent)
    with pytest.raises(DataError, match=r"json: expected a file such as dataset_coco.json, got other.json"):
        load_karpathy("train", coco.parent, json="other.json")
    (coco.parent / "dataset_b.json").touch()
    with pytest.raises(DataError, match=r"expected one dataset_\*.json in .*, got dataset_b.json, dataset_coco.json"):
        load_karpathy("train", coco.parent)


def test_missing_and_damaged_pictures(coco: Path) -> None:
    pictures = sorted((coco.parent / "train2014").iterdir())
    pictures[4].write_bytes(pictures[4].read_bytes()[:60])
    data = load_karpathy("train", coco.parent, size=8)
    with pytest.raises(DataError, match=rf"{pictures[4].name}: expected a picture that Pillow can decode, got"):
        data.images[np.array([1, 4])]
    pictures[7].unlink()
    with pytest.raises(DataError, match=r"train2014/.*7.png: expected a picture, got no such file; `aoq data verify`"):
        data.images[7]
    with pytest.raises(
        DataError, match=r"the pictures of all 40 images of 'train', got none for 1, such as train2014/"
    ):
        load_karpathy("train", coco.parent)


def test_fingerprints_read_files_and_not_pixels(coco: Path) -> None:
    def fingerprint(**options: int) -> str:
        return fingerprint_images(load_karpathy("val", coco.parent, **options).images)

    known = fingerprint(size=8)
    os.utime(next((coco.parent / "val2014").iterdir()))
    assert fingerprint(size=8) == known
    assert len({known, fingerprint(size=9), fingerprint(size=8, shorter_side=9)}) == 3
    data = load_karpathy("val", coco.parent, size=8)
    assert fingerprint_images(data.subset([1, 0]).images) != fingerprint_images(data.subset([0, 1]).images)
    path = Path(data.images.paths[0])
    Image.fromarray(picture_of(5, 9)).save(path)
    assert fingerprint(size=8) != known
    path.unlink()
    with pytest.raises(DataError, match="got no file that can be read"):
        fingerprint_images(data.images)


def test_a_model_is_trained_on_pictures(coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lightning_fabric")
    from aoq_ext.training import DataConfig, evaluate_run, train
    from tests.training.test_toy import toy_config

    (tmp_path / "coco_loader.py").write_text(
        "from functools import partial\nfrom aoq_ext.data import load_karpathy\nload = partial(load_karpathy, size=8)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = DataConfig(loader="coco_loader.load", root=str(coco.parent))
    run = train(toy_config(tmp_path / "run", epochs=1, data=config))
    assert evaluate_run(run, "test")["images"] == 20


def test_training_takes_pictures_but_not_tensors(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lightning_fabric")
    from aoq_ext.training.config import ConfigError, DataConfig
    from aoq_ext.training.pairs import EncodedPairs, load_split
    from aoq_ext.training.step import RowNumbers

    data = load_split(DataConfig(loader="aoq_ext.data.load_karpathy", root=str(coco.parent)), "val")
    pairs = EncodedPairs(data, Vocabulary.build(data.captions))
    images = pairs.rows(RowNumbers(np.array([3, 1]), np.array([3, 1]), 2)).images
    assert images.shape == (2, 3, 224, 224)
    assert images.dtype == torch.uint8
    object.__setattr__(data, "images", torch.zeros(20, 3, 8, 8))
    monkeypatch.setattr("aoq_ext.data.load_karpathy", lambda split, root: data)
    with pytest.raises(ConfigError, match=r"expected images as a numpy array of uint8 or float32, got Tensor"):
        load_split(DataConfig(loader="aoq_ext.data.load_karpathy", root="."), "val")


def test_the_file_is_as_published(coco: Path) -> None:
    """The keys of Karpathy's files, so that the builder of the tests does not drift from them."""
    image = json.loads(coco.read_text())["images"][0]
    assert image.keys() == {"filepath", "filename", "split", "imgid", "sentids", "sentences", "cocoid"}
    assert image["sentences"][0].keys() == {"raw", "tokens", "imgid", "sentid"}


# ---- what files may hold

GREY8 = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
GREY16 = GREY8.astype(np.uint16) * 257


def write_tiff(path: Path, strip: bytes, bits: int, photometric: int, **more: int) -> None:
    """A grey TIFF of the size of the ramp, of a kind that Pillow does not write."""
    tags = {256: 256, 257: 16, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: 16, 279: len(strip), 339: 1}
    tags |= {int(tag[1:]): value for tag, value in more.items()}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + bytes(4) + strip)


def write_png16(path: Path, pixels: np.ndarray, colour: int) -> None:
    """pixels: (H, W, C) uint16"""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def write_16_bits(folder: Path) -> None:
    """The ramp from black to white, in every way that 16 (or 12) bits come in."""
    opaque = np.full_like(GREY16, 65535)
    for name, channels, colour in (
        ("grey", [GREY16], 0), ("grey-alpha", [GREY16, opaque], 4), ("rgb", [GREY16] * 3, 2),
        ("rgba", [GREY16] * 3 + [opaque], 6),
    ):  # fmt: skip
        write_png16(folder / f"{name}.png", np.stack(channels, axis=2), colour)
    for mode, dtype in (("I;16", "<u2"), ("I;16B", ">u2")):
        Image.frombytes(mode, (256, 16), GREY16.astype(dtype).tobytes()).save(folder / f"{mode[2:]}.tiff")
    Image.frombytes("I;16", (256, 16), GREY16.tobytes()).save(folder / "16.pgm")
    (folder / "12.pgm").write_bytes(b"P5 256 16 4095\n" + (GREY16 >> 4).astype(">u2").tobytes())
    write_tiff(folder / "white-is-zero.tiff", (65535 - GREY16).tobytes(), 16, photometric=0)
    packed = (GREY16 >> 4).reshape(-1, 2).astype(np.uint32)
    packed = packed[:, 0] << 12 | packed[:, 1]
    strip = np.stack([packed >> 16, packed >> 8, packed], axis=1).astype(np.uint8).tobytes()
    write_tiff(folder / "12.tiff", strip, 12, photometric=1)


def test_16_bits_a_sample_are_as_bright_as_8(tmp_path: Path) -> None:
    write_16_bits(tmp_path)
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 10
    for path in paths:
        pixels = np.asarray(open_picture(str(path)))
        assert pixels.shape == (16, 256, 3)
        assert np.abs(pixels - GREY8[..., None].astype(int)).max() == 0, path.name


def test_other_modes(tmp_path: Path) -> None:
    grey = Image.fromarray(GREY8)
    half = Image.fromarray(np.full_like(GREY8, 128))
    for mode, ending, most in (
        ("L", "png", 0), ("LA", "png", 0), ("P", "png", 0), ("P", "gif", 0), ("PA", "tiff", 0), ("RGB", "png", 0),
        ("RGBA", "png", 0), ("CMYK", "tiff", 0), ("CMYK", "jpg", 3), ("YCbCr", "tiff", 1), ("L", "jpg", 3),
    ):  # fmt: skip
        image = grey.convert(mode)
        if mode in ("LA", "RGBA"):
            image.putalpha(half)
        path = tmp_path / f"{mode}.{ending}"
        image.save(path, **({"transparency": 7} if (mode, ending) == ("P", "png") else {}))
        pixels = np.asarray(open_picture(str(path))).astype(int)
        assert np.abs(pixels - GREY8[..., None]).max() <= most, path.name
    bits = Image.fromarray(GREY8 > 127)
    bits.save(tmp_path / "bits.png")
    assert Image.open(tmp_path / "bits.png").mode == "1"
    np.testing.assert_array_equal(np.asarray(open_picture(str(tmp_path / "bits.png")))[..., 0], (GREY8 > 127) * 255)
    Image.frombytes("LAB", (2, 1), bytes([255, 0, 0, 0, 0, 0])).save(tmp_path / "lab.tiff")
    lab = np.asarray(open_picture(str(tmp_path / "lab.tiff")))
    assert lab[0, 0].min() > 250
    assert lab[0, 1].max() < 5
    half = np.stack([GREY8 // 2, np.full_like(GREY8, 128)], axis=2)
    write_tiff(tmp_path / "premultiplied.tiff", half.tobytes(), 8, photometric=1, t277=2, t338=1)
    pixels = np.asarray(open_picture(str(tmp_path / "premultiplied.tiff"))).astype(int)
    assert np.abs(pixels - GREY8[..., None]).max() <= 2


@pytest.mark.parametrize(
    ("values", "ending"),
    [(GREY16.astype(np.int32), "tiff"), (GREY8.astype(np.float32), "tiff"), (GREY8.astype(np.float32), "pfm")],
)
def test_numbers_without_a_range_are_refused(tmp_path: Path, values: np.ndarray, ending: str) -> None:
    image = Image.fromarray(values)
    path = tmp_path / f"picture.{ending}"
    image.save(path)
    message = (
        rf"picture.{ending}: expected a picture of 8 or 16 bits, got (TIFF|PPM) of mode {image.mode}, whose numbers "
        r"have no defined range; save it as an 8-bit picture"
    )
    with pytest.raises(DataError, match=message):
        open_picture(str(path))


@pytest.mark.parametrize("ending", ["jpg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright(tmp_path: Path, ending: str, orientation: int) -> None:
    pixels = np.kron(np.array([[0, 60, 120], [160, 200, 250]], dtype=np.uint8), np.ones((16, 16), np.uint8))
    as_stored = {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.T, 6: pixels.T[::-1],
        7: pixels.T[::-1, ::-1], 8: pixels.T[:, ::-1],
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"picture.{ending}"
    lossless = {"lossless": True} if ending == "webp" else {}
    Image.fromarray(np.ascontiguousarray(as_stored)).save(path, exif=exif.tobytes(), **lossless)
    upright = np.asarray(open_picture(str(path)))
    assert upright.shape == (32, 48, 3)
    assert np.abs(upright[..., 0] - pixels.astype(int)).max() <= 4


def test_damaged_exif_data_turns_nothing(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    Image.new("RGB", (6, 4)).save(path, exif=b"Exif\0\0nothing of that kind")
    assert open_picture(str(path)).size == (6, 4)


def test_a_tag_of_another_type_does_not_keep_a_picture_from_being_turned(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    orientation, title_as_float = struct.pack("<HHII", 0x0112, 3, 1, 6), struct.pack("<HHIf", 0x010E, 11, 1, 0.5)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + orientation + title_as_float + bytes(4)
    Image.new("RGB", (6, 4)).save(path, exif=exif)
    assert open_picture(str(path)).size == (4, 6)


@pytest.mark.parametrize("ending", ["gif", "png", "webp"])
def test_the_first_of_several_pictures_counts(tmp_path: Path, ending: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = tmp_path / f"frames.{ending}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if ending == "webp" else {}))
    assert np.asarray(open_picture(str(path)))[0, 0].tolist() == [255, 0, 0]
