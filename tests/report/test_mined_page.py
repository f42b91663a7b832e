"""The mining report counts what the lists hold, survives any input, and loads nothing."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aoq_ext.mining.statistics import MiningRecord, RankedLists, collect, for_machines
from aoq_ext.mining.statistics import overlap as overlap_module
from aoq_ext.mining.statistics.blocks import sample_rows
from aoq_ext.mining.statistics.direction import directions
from aoq_ext.mining.statistics.overlap import overlap
from aoq_ext.report.mined import render_mining_report, write_mining_report
from aoq_ext.report.mined.words import percent, score
from tests.mined_record import empty_lists, lists_of, make_data
from tests.report.elements import Elements, text_of

HOSTILE = "</script><script>alert(1)</script><!-- & \"quoted\" 'too' {{ 1 }} \u202eright to left\u200f"
SECTIONS = ("hardness", "hubs", "suspects", "overlap", "making")


def statistics_in(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="statistics">(.*?)</script>', page, re.S)[1])


def check_page(data: MiningRecord) -> str:
    """What holds for every page."""
    page = render_mining_report(data)
    elements = Elements(page)
    assert elements.well_formed
    for name in SECTIONS:
        assert f'<section id="{name}">' in page and f'href="#{name}"' in page
    seen = text_of(page).replace(data.title, "")
    assert not re.search(r"\b(nan|inf|None)\b", seen), seen
    geometry = [
        value for _, attributes in elements.found for key, value in attributes.items() if key != "alt" and value
    ]
    assert not any(re.search(r"\b(nan|inf)\b", value) for value in geometry)
    assert all(attributes["alt"] and attributes["title"] for tag, attributes in elements.found if tag == "img")
    assert all(a["aria-label"] for tag, a in elements.found if tag == "svg" and a.get("role") == "img")
    statistics_in(page)
    return page


@pytest.fixture(scope="module")
def data() -> MiningRecord:
    return make_data()


def test_page_is_well_formed_and_loads_nothing(data: MiningRecord) -> None:
    page = check_page(data)
    elements = Elements(page).found
    scripts = [attributes for tag, attributes in elements if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "statistics"}]
    assert not {tag for tag, _ in elements} & {"link", "iframe", "object", "embed", "base", "form"}
    assert all(a["src"].startswith("data:image/") for _, a in elements if "src" in a)
    assert all(a["href"].startswith("#") for _, a in elements if "href" in a)
    assert "url(" not in page and "@import" not in page and "default-src 'none'" in page
    assert sum(a.get("class") == "panel" for tag, a in elements if tag == "svg") == 10


def test_same_data_same_bytes_written_whole(data: MiningRecord, tmp_path: Path) -> None:
    path = write_mining_report(data, tmp_path / "new" / "page.html")
    assert path.read_text() == render_mining_report(make_data())
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]


def test_a_title_that_is_no_utf8_is_written(data: MiningRecord, tmp_path: Path) -> None:
    path = write_mining_report(replace(data, title="caf\udce9"), tmp_path / "page.html")  # a folder named in Latin-1
    assert "<h1>caf?</h1>" in path.read_text(encoding="utf-8")


def test_hostile_text_is_escaped(data: MiningRecord) -> None:
    hostile = replace(
        data,
        title=HOSTILE,
        captions=[HOSTILE] * data.text_count,
        image_names=[HOSTILE] * data.image_count,
        seconds={HOSTILE: 1.0},
        excluded=[HOSTILE],
        facts={HOSTILE: HOSTILE},
        date=HOSTILE,
    )
    page = render_mining_report(hostile)
    elements = Elements(page)
    assert elements.well_formed
    assert [tag for tag, _ in elements.found].count("script") == 1
    assert page.count("</script>") == 1 and "<!--" not in page
    assert all(
        set(a) <= {"class", "src", "width", "height", "alt", "title"} for tag, a in elements.found if tag == "img"
    )
    assert statistics_in(page)["title"] == HOSTILE
    # Captions and names stand by themselves in their direction, beside our own words.
    cards = page.partition('class="cards"')[2].partition('id="overlap"')[0]
    shown = re.sub(r'="[^"]*"', "", cards).split("\u202e")
    assert len(shown) > 50 and all(part.rpartition("<bdi>")[2].startswith("&lt;/script&gt;") for part in shown[:-1])


def test_memory_mapped_lists_give_the_same_page(data: MiningRecord, tmp_path: Path) -> None:
    def mapped(lists: RankedLists | None, name: str) -> RankedLists:
        assert lists is not None and lists.scores is not None
        np.save(tmp_path / f"{name}_indices.npy", lists.indices)
        np.save(tmp_path / f"{name}_scores.npy", lists.scores)
        return RankedLists(*(np.load(tmp_path / f"{name}_{part}.npy", mmap_mode="r") for part in ("indices", "scores")))

    from_files = replace(
        data,
        texts=mapped(data.texts, "texts"),
        images=mapped(data.images, "images"),
        earlier=mapped(data.earlier, "earlier"),
        earlier_images=mapped(data.earlier_images, "earlier_images"),
    )
    assert render_mining_report(from_files) == render_mining_report(data)


def test_overlap_of_many_anchors_is_sampled(data: MiningRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    direction = directions(data)[0]
    whole, part = overlap(direction), overlap(direction, most=7)
    assert whole is not None and part is not None and part.sampled and part.anchors == 7
    np.testing.assert_array_equal(part.shared, whole.shared[sample_rows(30, 7)])
    monkeypatch.setattr(overlap_module.overlap, "__defaults__", (7,))
    assert "7 images and 7 captions drawn at random (fixed seed)" in text_of(check_page(data))


BARE = MiningRecord(title="t", texts=make_data().texts, text_count=60)
DEGENERATE = {
    "only lists": BARE,
    "no captions": replace(make_data(), captions=None),
    "no pictures": replace(make_data(), picture=None),
    "no picture of some": replace(make_data(), picture=lambda image: None),
    "no owners": replace(make_data(), text_image_index=None),
    "no positives": replace(make_data(), text_positive=None),
    "best own scores alone": replace(BARE, image_positive=np.zeros(30, np.float32)),
    "unknown positives": replace(make_data(), text_positive=np.full(60, np.nan, np.float32)),
    "some unknown": replace(make_data(), text_positive=np.where(np.arange(60) < 9, -np.inf, 1).astype(np.float32)),
    "k = 1": replace(make_data(), texts=lists_of(np.eye(30, 60), 1), images=None, earlier_images=None),
    "k = 2": replace(BARE, texts=lists_of(np.eye(30, 60), 2)),
    "all lists empty": replace(make_data(), texts=empty_lists(30, 5), images=empty_lists(60, 5)),
    "one direction empty": replace(make_data(), images=empty_lists(60, 5)),
    "both minings empty": replace(BARE, texts=empty_lists(30, 5), earlier=empty_lists(30, 2)),
    "one anchor": MiningRecord(title="t", texts=lists_of(np.ones((1, 3)), 3), text_count=3),
    "one anchor, one candidate": MiningRecord(title="t", texts=lists_of(np.ones((1, 1)), 1), text_count=1),
    "no anchors": MiningRecord(title="t", texts=empty_lists(0, 3), text_count=0, images=empty_lists(0, 3)),
    "equal scores": replace(make_data(), texts=lists_of(np.full((30, 60), 0.25), 12)),
    "all equal": replace(BARE, texts=lists_of(np.zeros((30, 60)), 60), image_positive=np.zeros(30, np.float32)),
    "huge equal scores": replace(BARE, texts=lists_of(np.full((30, 60), 3e38), 12)),
    "tiny scores": replace(BARE, texts=lists_of(1e-30 * np.arange(1800.0).reshape(30, 60), 12)),
    "longer than the candidates": replace(BARE, texts=lists_of(np.random.default_rng(0).random((30, 4)), 9)),
    "empty captions": replace(make_data(), captions=[""] * 60),
    "long captions": replace(make_data(), captions=["word " * 500] * 60),
    "earlier of k = 1": replace(make_data(), earlier=RankedLists(np.zeros((30, 1), np.int64))),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_input_makes_a_page(name: str) -> None:
    check_page(DEGENERATE[name])


def test_damaged_lists_are_reported_and_left_out(data: MiningRecord) -> None:
    assert data.texts.scores is not None
    indices, scores = data.texts.indices.copy(), data.texts.scores.copy()
    scores[0, 0], scores[1, 3], indices[2, 2] = np.nan, np.inf, 60
    scores[4, :2] = scores[4, 1::-1].copy()
    text = text_of(check_page(replace(data, texts=RankedLists(indices, scores), images=None, earlier_images=None)))
    assert "3 entries without a finite score or an existing candidate" in text
    assert "rise along the list" in text
    assert "rise along the list" not in text_of(render_mining_report(data))


def test_statistics_for_machines_are_those_of_the_page(data: MiningRecord) -> None:
    page = render_mining_report(data)
    tree = statistics_in(page)
    assert tree == json.loads(json.dumps(for_machines(data, collect(data))))
    way = tree["directions"]["image_to_text"]
    assert (way["anchors"], way["candidates"], way["k"], way["negatives"]) == (30, 60, 12, 360)
    hubs, suspects = way["hubness"]["whole_list"], way["suspected_false_negatives"]
    text = text_of(page)
    assert f"the skewness is {hubs['skewness']:.2f}".replace("-", "−") in text
    assert f"{suspects['anchors']} images of 30" in text and f"{suspects['pairs']} pairs in all" in text
    assert (
        f"half of the images have a hardest negative of at least {score(way['score_percentiles']['hardest']['50'])}"
        in text
    )


@pytest.mark.parametrize("side", [32, 300])
def test_pictures_may_be_grey(data: MiningRecord, side: int) -> None:
    page = check_page(replace(data, picture=lambda image: np.full((1, side, side), 7, np.uint8)))
    source = re.search(r'src="data:image/\w+;base64,([^"]+)"', page)
    assert source is not None
    drawn = Image.open(io.BytesIO(base64.b64decode(source[1])))
    assert drawn.mode == "L"
    assert drawn.getpixel((0, 0)) == 7


def test_large_pictures_are_reduced(data: MiningRecord) -> None:
    generator = np.random.default_rng(0)
    photo = generator.integers(0, 256, (3, 480, 640), dtype=np.uint8)
    page = check_page(replace(data, picture=lambda image: photo))
    assert 'class="photo" src="data:image/jpeg' in page and 'width="192" height="144"' in page
    assert len(page) < 3_000_000
    with pytest.raises(ValueError, match=r"picture\(\d+\): expected \(C, H, W\) uint8 with C = 1 or 3"):
        render_mining_report(replace(data, picture=lambda image: np.zeros((8, 8, 3), np.uint8)))


@pytest.mark.parametrize(
    ("share", "text"),
    [(None, "—"), (0.0, "0 %"), (1.0, "100 %"), (0.0001, "under 0.1 %"), (0.9999, "over 99.9 %"), (0.123, "12.3 %")],
)
def test_shares_are_not_rounded_to_all_or_nothing(share: float | None, text: str) -> None:
    assert percent(share) == text
