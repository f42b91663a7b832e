"""The statistics of mined lists agree with loops and with figures worked out by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from aoq_ext.mining.statistics import MiningRecord, RankedLists, collect
from aoq_ext.mining.statistics.direction import directions
from aoq_ext.mining.statistics.hubness import hubness, skewness
from aoq_ext.mining.statistics.overlap import overlap
from aoq_ext.mining.statistics.scan import scan
from aoq_ext.mining.statistics.suspects import caption_numbers, find_suspects
from tests.mined_record import empty_lists, make_data


@pytest.fixture(scope="module")
def data() -> MiningRecord:
    return make_data()


def test_scan_agrees_with_a_loop(data: MiningRecord) -> None:
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


def test_blocks_of_any_size_give_the_same(data: MiningRecord) -> None:
    for direction in directions(data):
        whole = scan(direction)
        for elements in (1, 12, 13, 77, 10_000):
            part = scan(direction, elements)
            for name, value in vars(whole).items():
                np.testing.assert_array_equal(getattr(part, name), value, err_msg=name)


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
    texts = RankedLists(
        np.array([[3, 2, -1], [0, 1, 3], [0, 1, 2]], np.int32),
        np.array([[0.9, 0.2, -np.inf], [0.8, 0.7, 0.1], [0.5, 0.4, 0.3]], np.float32),
    )
    data = MiningRecord(
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


def test_overlap_agrees_with_sets(data: MiningRecord) -> None:
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
    data = MiningRecord(title="t", texts=RankedLists(indices, scores), text_count=6, earlier=RankedLists(before))
    got = overlap(directions(data)[0])
    assert got is not None
    np.testing.assert_allclose(got.correlation, [-1, 1, -1, np.nan])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts": RankedLists(np.zeros((30, 2), np.int32))}, "texts: expected scores"),
        ({"images": empty_lists(59, 2)}, "images: expected one list per text, 60, got 59"),
        ({"earlier": empty_lists(29, 2)}, "earlier: expected one list per image, 30, got 29"),
        ({"text_positive": np.zeros(59, np.float32)}, "text_positive: expected one score per text"),
        ({"text_image_index": np.full(60, 30)}, r"text_image_index: expected indices in \[0, 30\)"),
        ({"captions": ["one"]}, "captions: expected 60, got 1"),
    ],
)
def test_errors_name_the_argument(data: MiningRecord, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(data, **change)


def test_lists_are_checked() -> None:
    with pytest.raises(TypeError, match="indices: expected a NumPy array of integer type"):
        RankedLists(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="indices: expected k of at least 1"):
        RankedLists(np.zeros((2, 0), np.int32))
    with pytest.raises(ValueError, match="scores: expected the shape of indices"):
        RankedLists(np.zeros((2, 3), np.int32), np.zeros((2, 4), np.float32))
