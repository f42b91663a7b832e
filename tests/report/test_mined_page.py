"""The mining report counts what the lists hold, survives any input, and loads nothing."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from aoq_ext.report.mined import Lists, MinedReportData, render_mining_report, write_mining_report
from aoq_ext.report.mined import overlap as overlap_module
from aoq_ext.report.mined.blocks import sample_rows
from aoq_ext.report.mined.direction import directions
from aoq_ext.report.mined.hubness import hubness, skewness
from aoq_ext.report.mined.overlap import overlap
from aoq_ext.report.mined.scan import scan
from aoq_ext.report.mined.statistics import collect, for_machines
from aoq_ext.report.mined.suspects import caption_numbers, find_suspects
from aoq_ext.report.mined.words import percent, score

HOSTILE = "</script><script>alert(1)</script><!-- & \"quoted\" 'too'"
SECTIONS = ("hardness", "hubs", "suspects", "overlap", "making")


def lists_of(scores: np.ndarray, k: int) -> Lists:
    """The k highest of each row, ties to the lower index, −inf meaning that a pair is excluded."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(scores, order, axis=1).astype(np.float32)
    indices = np.where(np.isfinite(found), order, -1)
    if indices.shape[1] < k:
        room = ((0, 0), (0, k - indices.shape[1]))
        indices, found = np.pad(indices, room, constant_values=-1), np.pad(found, room, constant_values=-np.inf)
    return Lists(indices.astype(np.int32), found)


def make_data(images: int = 30, per_image: int = 2, k: int = 12, seed: int = 0) -> MinedReportData:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(images, 6))
    owner = np.repeat(np.arange(images), per_image)
    y = x[owner] + 0.8 * generator.normal(size=(len(owner), 6))
    scores = x @ y.T
    positive = scores[owner, np.arange(len(owner))].astype(np.float32)
    scores[owner, np.arange(len(owner))] = -np.inf
    before = scores + generator.normal(size=scores.shape)
    return MinedReportData(
        title="Mined",
        texts=lists_of(scores, k),
        text_count=len(owner),
        images=lists_of(scores.T, k),
        text_positive=positive,
        text_image_index=owner,
        captions=[f"caption {number % 7}" for number in range(len(owner))],
        image_names=[f"name {number}" for number in range(images)],
        picture=lambda image: np.full((3, 8, 8), image, np.uint8),
        earlier=lists_of(before, k - 3),
        earlier_images=lists_of(before.T, k + 5),
        seconds={"embedding": 1.0, "mining": 2.0},
        excluded=["Own captions are never listed."],
        facts={"model": "made up"},
        date="2026-07-01",
    )


class Elements(HTMLParser):
    """Every tag with its attributes, and whether all that were opened were closed in order."""

    VOID = frozenset({"meta", "img", "br", "rect", "line", "circle", "polyline", "polygon", "path"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.well_formed = True
        self.feed(page)
        self.close()
        self.well_formed = self.well_formed and not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID and (not self.open or self.open.pop() != tag):
            self.well_formed = False


def statistics_in(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="statistics">(.*?)</script>', page, re.S)[1])


def text_of(page: str) -> str:
    body = page.partition("<body>")[2].partition("<script")[0]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def check_page(data: MinedReportData) -> str:
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
def data() -> MinedReportData:
    return make_data()


def test_page_is_well_formed_and_loads_nothing(data: MinedReportData) -> None:
    page = check_page(data)
    elements = Elements(page).found
    scripts = [attributes for tag, attributes in elements if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "statistics"}]
    assert not {tag for tag, _ in elements} & {"link", "iframe", "object", "embed", "base", "form"}
    assert all(a["src"].startswith("data:image/") for _, a in elements if "src" in a)
    assert all(a["href"].startswith("#") for _, a in elements if "href" in a)
    assert "url(" not in page and "@import" not in page and "default-src 'none'" in page
    assert sum(a.get("class") == "panel" for tag, a in elements if tag == "svg") == 10


def test_same_data_same_bytes_written_whole(data: MinedReportData, tmp_path: Path) -> None:
    path = write_mining_report(data, tmp_path / "new" / "page.html")
    assert path.read_text() == render_mining_report(make_data())
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]


def test_hostile_text_is_escaped(data: MinedReportData) -> None:
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


def test_scan_agrees_with_a_loop(data: MinedReportData) -> None:
    for direction in directions(data):
        got, lists, positive = scan(direction), direction.lists, direction.positive
        assert lists.scores is not None and positive is not None
        rows = [[int(index) for index in row if index >= 0] for row in lists.indices]
        counts = Counter(index for row in rows for index in row)
        top = Counter(index for row in rows for index in row[:10])
        assert got.occurrences.tolist() == [counts[index] for index in range(direction.candidate_count)]
        assert got.top_occurrences.tolist() == [top[index] for index in range(direction.candidate_count)]
        assert got.lengths.tolist() == [len(row) for row in rows]
        above = [[score > positive[anchor] for score in lists.scores[anchor]] for anchor in range(len(rows))]
        assert got.suspects.tolist() == [sum(row) for row in above]
        assert got.suspects_at.tolist() == [sum(column) for column in zip(*above)]
        assert got.score_at(10).tolist() == lists.scores[:, 9].tolist()
        assert (got.unusable, got.unordered) == (0, 0)


def test_blocks_of_any_size_give_the_same(data: MinedReportData) -> None:
    for direction in directions(data):
        whole = scan(direction)
        for elements in (1, 12, 13, 77, 10_000):
            part = scan(direction, elements)
            for name, value in vars(whole).items():
                np.testing.assert_array_equal(getattr(part, name), value, err_msg=name)


def test_memory_mapped_lists_give_the_same_page(data: MinedReportData, tmp_path: Path) -> None:
    def mapped(lists: Lists | None, name: str) -> Lists:
        assert lists is not None and lists.scores is not None
        np.save(tmp_path / f"{name}_indices.npy", lists.indices)
        np.save(tmp_path / f"{name}_scores.npy", lists.scores)
        return Lists(*(np.load(tmp_path / f"{name}_{part}.npy", mmap_mode="r") for part in ("indices", "scores")))

    from_files = replace(
        data,
        texts=mapped(data.texts, "texts"),
        images=mapped(data.images, "images"),
        earlier=mapped(data.earlier, "earlier"),
        earlier_images=mapped(data.earlier_images, "earlier_images"),
    )
    assert render_mining_report(from_files) == render_mining_report(data)


def test_skewness_by_hand() -> None:
    # mean 1, deviations −1 −1 −1 3: third moment 24/4, variance 12/4, 6 / 3^1.5
    assert skewness(np.array([0, 0, 0, 4])) == pytest.approx(6 / 3**1.5)
    assert skewness(np.array([4, 4, 4, 0])) == pytest.approx(-6 / 3**1.5)
    assert skewness(np.array([2, 2, 2])) is None
    assert skewness(np.array([], np.int64)) is None


def test_hubness_by_hand() -> None:
    got = hubness(np.array([0, 3, 1, 0, 2]), anchors=3)
    assert (got.mean, got.most, got.never) == (1.2, 3, 0.4)
    assert got.hubs.tolist() == [1, 4, 2]
    assert got.top_share == 0.5
    chance = 6 / 15
    assert got.random_never == pytest.approx((1 - chance) ** 3)
    assert got.random_skewness == pytest.approx((1 - 2 * chance) / (3 * chance * (1 - chance)) ** 0.5)
    times, observed, random = got.at_least
    assert times.tolist() == [1, 2, 3]
    assert observed.tolist() == [3, 2, 1]
    binomial = [(1 - chance) ** 3, 3 * chance * (1 - chance) ** 2, 3 * chance**2 * (1 - chance), chance**3]
    assert random.tolist() == pytest.approx([5 * sum(binomial[x:]) for x in (1, 2, 3)])


def test_random_lists_are_like_the_random_curve() -> None:
    generator = np.random.default_rng(0)
    counts = np.zeros(400, np.int64)
    for _ in range(3000):
        counts[generator.choice(400, 20, replace=False)] += 1
    got = hubness(counts, 3000)
    assert got.skewness == pytest.approx(got.random_skewness, abs=0.35)
    _, observed, random = got.at_least
    assert np.abs(observed - random).max() < 40


def test_suspected_pairs_by_hand() -> None:
    texts = Lists(
        np.array([[3, 2, -1], [0, 1, 3], [0, 1, 2]], np.int32),
        np.array([[0.9, 0.2, -np.inf], [0.8, 0.7, 0.1], [0.5, 0.4, 0.3]], np.float32),
    )
    data = MinedReportData(
        title="t",
        texts=texts,
        text_count=4,
        text_positive=np.array([0.3, 0.4, 0.6, 0.5], np.float32),
        text_image_index=np.array([0, 0, 1, 2]),
        captions=["A  cat", "two cats", "a Cat", "bird"],
    )
    direction = directions(data)[0]
    assert direction.positive is not None
    np.testing.assert_allclose(direction.positive, [0.4, 0.6, 0.5])
    got = find_suspects(data, direction, scan(direction))
    assert got is not None
    assert (got.known, got.anchors, got.pairs) == (3, 2, 3)  # 0.5 is not above 0.5
    assert [(case.anchor, case.candidate, case.suspects) for case in got.cases] == [(0, 3, 1), (1, 0, 2)]
    assert got.same_words == 1  # image 1 owns "a Cat" and lists "A  cat"
    assert caption_numbers(["A  cat", "two cats", 'a "Cat".', "caf\u00e9", "cafe\u0301"]).tolist() == [0, 1, 0, 2, 2]
    assert "66.7 %" in text_of(check_page(data))


def test_gallery_takes_the_furthest_once_an_anchor() -> None:
    data = make_data(images=80)
    for statistics in collect(data):
        suspects, positive = statistics.suspects, statistics.direction.positive
        assert suspects is not None and positive is not None and statistics.direction.lists.scores is not None
        excess = statistics.direction.lists.scores[:, 0].astype(np.float64) - positive
        expected = [anchor for anchor in np.argsort(-excess, kind="stable") if excess[anchor] > 0][:24]
        assert [case.anchor for case in suspects.cases] == expected


def brute_overlap(now: np.ndarray, before: np.ndarray, level: int) -> tuple[list[float], list[float]]:
    shared, jaccard = [], []
    for a, b in zip(now, before):
        first, second = ({int(i) for i in row[:level] if i >= 0} for row in (a, b))
        longest = max(len(first), len(second))
        shared.append(len(first & second) / longest if longest else np.nan)
        jaccard.append(len(first & second) / len(first | second) if longest else np.nan)
    return shared, jaccard


def test_overlap_agrees_with_sets(data: MinedReportData) -> None:
    for direction in directions(data):
        got = overlap(direction)
        assert got is not None and direction.earlier is not None and not got.sampled
        assert got.levels == ((1, 9) if direction.key == "image_to_text" else (1, 10, 12))
        for column, level in enumerate(got.levels):
            shared, jaccard = brute_overlap(direction.lists.indices, direction.earlier.indices, level)
            np.testing.assert_allclose(got.shared[:, column], shared)
            np.testing.assert_allclose(got.jaccard[:, column], jaccard)


def test_rank_correlation_by_hand() -> None:
    indices = np.array([[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, -1, -1], [0, -1, -1, -1]])
    before = np.array([[3, 2, 1, 0], [0, 1, 2, 3], [5, 1, 0, 4], [0, 1, 2, 3]])
    scores = np.where(indices >= 0, -np.arange(4.0), -np.inf).astype(np.float32)
    data = MinedReportData(title="t", texts=Lists(indices, scores), text_count=6, earlier=Lists(before))
    got = overlap(directions(data)[0])
    assert got is not None
    np.testing.assert_allclose(got.correlation, [-1, 1, -1, np.nan])


def test_overlap_of_many_anchors_is_sampled(data: MinedReportData, monkeypatch: pytest.MonkeyPatch) -> None:
    direction = directions(data)[0]
    whole, part = overlap(direction), overlap(direction, most=7)
    assert whole is not None and part is not None and part.sampled and part.anchors == 7
    np.testing.assert_array_equal(part.shared, whole.shared[sample_rows(30, 7)])
    monkeypatch.setattr(overlap_module.overlap, "__defaults__", (7,))
    assert "7 images and 7 captions drawn at random (fixed seed)" in text_of(check_page(data))


def empty_lists(anchors: int, k: int) -> Lists:
    return Lists(np.full((anchors, k), -1), np.full((anchors, k), -np.inf, np.float32))


BARE = MinedReportData(title="t", texts=make_data().texts, text_count=60)
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
    "one anchor": MinedReportData(title="t", texts=lists_of(np.ones((1, 3)), 3), text_count=3),
    "one anchor, one candidate": MinedReportData(title="t", texts=lists_of(np.ones((1, 1)), 1), text_count=1),
    "no anchors": MinedReportData(title="t", texts=empty_lists(0, 3), text_count=0, images=empty_lists(0, 3)),
    "equal scores": replace(make_data(), texts=lists_of(np.full((30, 60), 0.25), 12)),
    "all equal": replace(BARE, texts=lists_of(np.zeros((30, 60)), 60), image_positive=np.zeros(30, np.float32)),
    "huge equal scores": replace(BARE, texts=lists_of(np.full((30, 60), 3e38), 12)),
    "tiny scores": replace(BARE, texts=lists_of(1e-30 * np.arange(1800.0).reshape(30, 60), 12)),
    "longer than the candidates": replace(BARE, texts=lists_of(np.random.default_rng(0).random((30, 4)), 9)),
    "empty captions": replace(make_data(), captions=[""] * 60),
    "long captions": replace(make_data(), captions=["word " * 500] * 60),
    "earlier of k = 1": replace(make_data(), earlier=Lists(np.zeros((30, 1), np.int64))),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_input_makes_a_page(name: str) -> None:
    check_page(DEGENERATE[name])


def test_damaged_lists_are_reported_and_left_out(data: MinedReportData) -> None:
    assert data.texts.scores is not None
    indices, scores = data.texts.indices.copy(), data.texts.scores.copy()
    scores[0, 0], scores[1, 3], indices[2, 2] = np.nan, np.inf, 60
    scores[4, :2] = scores[4, 1::-1].copy()
    text = text_of(check_page(replace(data, texts=Lists(indices, scores), images=None, earlier_images=None)))
    assert "3 entries without a finite score or an existing candidate" in text
    assert "rise along the list" in text
    assert "rise along the list" not in text_of(render_mining_report(data))


def test_statistics_for_machines_are_those_of_the_page(data: MinedReportData) -> None:
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


def test_large_pictures_are_reduced(data: MinedReportData) -> None:
    generator = np.random.default_rng(0)
    photo = generator.integers(0, 256, (3, 480, 640), dtype=np.uint8)
    page = check_page(replace(data, picture=lambda image: photo))
    assert 'class="photo" src="data:image/jpeg' in page and 'width="192" height="144"' in page
    assert len(page) < 3_000_000
    with pytest.raises(ValueError, match=r"picture\(\d+\): expected \(3, H, W\) uint8"):
        render_mining_report(replace(data, picture=lambda image: np.zeros((8, 8, 3), np.uint8)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts": Lists(np.zeros((30, 2), np.int32))}, "texts: expected scores"),
        ({"images": empty_lists(59, 2)}, "images: expected one list per text, 60, got 59"),
        ({"earlier": empty_lists(29, 2)}, "earlier: expected one list per image, 30, got 29"),
        ({"text_positive": np.zeros(59, np.float32)}, "text_positive: expected one score per text"),
        ({"text_image_index": np.full(60, 30)}, r"text_image_index: expected indices in \[0, 30\)"),
        ({"captions": ["one"]}, "captions: expected 60, got 1"),
    ],
)
def test_errors_name_the_argument(data: MinedReportData, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(data, **change)


def test_lists_are_checked() -> None:
    with pytest.raises(TypeError, match="indices: expected a NumPy array of integer type"):
        Lists(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="indices: expected k of at least 1"):
        Lists(np.zeros((2, 0), np.int32))
    with pytest.raises(ValueError, match="scores: expected the shape of indices"):
        Lists(np.zeros((2, 3), np.int32), np.zeros((2, 4), np.float32))


@pytest.mark.parametrize(
    ("share", "text"),
    [(None, "—"), (0.0, "0 %"), (1.0, "100 %"), (0.0001, "under 0.1 %"), (0.9999, "over 99.9 %"), (0.123, "12.3 %")],
)
def test_shares_are_not_rounded_to_all_or_nothing(share: float | None, text: str) -> None:
    assert percent(share) == text
