"""The report says what its data say, loads nothing, and comes out the same each time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from aoq_ext.metrics import ranks_from_embeddings
from aoq_ext.report.run import (
    Answer,
    Item,
    MinedImage,
    Panel,
    Query,
    ReportData,
    Round,
    Split,
    gallery,
    render_report,
    words,
    write_report,
)
from aoq_ext.report.run.figures import training_curves
from aoq_ext.report.words import duration, signed
from aoq_ext.training.pair_sample import PairSimilarities
from tests.report.elements import Elements, text_of
from tests.tiny_data import noise_pictures

SECTIONS = ("results", "method", "training", "similarity", "mined", "gallery", "limits", "settings")
HOSTILE = "<script>alert(1)</script> & \"quoted\" 'too' {{ 1 }} \u202eright to left\u200f"
EPOCHS = 6


def make_metrics(recall: float) -> dict[str, float]:
    metrics = {}
    for way in ("i2t", "t2i"):
        metrics |= {f"{way}_r1": recall, f"{way}_r5": 2 * recall, f"{way}_r10": 3 * recall}
        metrics |= {f"{way}_medr": float(int(100 / recall)), f"{way}_meanr": 200 / recall}
    return metrics | {"rsum": 12 * recall}


def make_split(name: str, title: str, before: float, after: float) -> Split:
    difference = 12 * (after - before)
    metrics = {"round 1": make_metrics(before - 1), "round 2": make_metrics(after), "control": make_metrics(before)}
    intervals = {key: (difference - 1.0, difference + 1.0) for key in metrics["control"]}
    return Split(name, title, 200, 1000, metrics, intervals)


def make_round(label: str, objective: str, gain: float, seed: int, start: str = "round 1") -> Round:
    generator = np.random.default_rng(seed)
    rsum = np.linspace(50, 200 + gain, EPOCHS)
    values = [generator.normal(mean, 0.1, 500).astype(np.float32) for mean in (0.7 + gain / 1000, 0.4, 0.6)]
    validation = {"rsum": rsum, "i2t_r1": rsum / 12, "t2i_r1": rsum / 12}
    settings = {"seed": 0, "loss": {"objective": objective}, "offline": {"lists": None}}
    losses = np.geomspace(30, 0.5, EPOCHS)
    pairs = 15_000 * np.arange(1, EPOCHS + 1)
    similarities = PairSimilarities(*values)
    return Round(label, start, pairs, losses, validation, 2, EPOCHS, similarities, settings)


def without_control(data: ReportData) -> ReportData:
    def kept(of_runs: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in of_runs.items() if name != "control"}

    splits = tuple(replace(split, metrics=kept(split.metrics)) for split in data.splits)
    return replace(data, runs=kept(data.runs), splits=splits, seconds=kept(data.seconds))


def make_item(generator: np.random.Generator, caption: str) -> Item:
    channels = int(generator.choice([1, 3]))
    return Item(generator.integers(0, 256, (channels, 32, 32), dtype=np.uint8), f"picture of {caption}", caption)


def make_query(generator: np.random.Generator, rank: int) -> Query:
    answers = tuple(
        Answer(make_item(generator, f"answer {place}"), 1 - 0.1 * place, place == rank) for place in range(1, 6)
    )
    mistaken = Answer(make_item(generator, f"mistaken at rank {rank}"), 0.9, False)
    return Query(make_item(generator, f"query with rank {rank}"), answers, rank, rank + 3, mistaken)


def make_data(*changes: float) -> ReportData:
    """`changes`: what round 2 adds to R@1 on test and test_iconoir."""
    generator = np.random.default_rng(0)
    wrong = tuple(Answer(make_item(generator, f"wrong {number}"), 0.8, False) for number in range(4))
    panel = Panel(tuple(make_query(generator, rank) for rank in (1, 1, 3, 40)), 12, 7)
    return ReportData(
        dataset="icons/train",
        train_images=3000,
        train_captions=15000,
        runs={
            "round 1": make_round("online triplets", "online_triplet", -20.0, 1, "random weights"),
            "round 2": make_round("adaptive offline quintuplets", "adaptive_quintuplet", 12 * changes[0], 2),
            "control": make_round("online triplets", "online_triplet", 0.0, 3),
        },
        splits=(
            make_split("test", "unseen names", 12.0, 12.0 + changes[0]),
            make_split("test_iconoir", "an unseen set (Iconoir)", 8.0, 8.0 + changes[1]),
        ),
        mined=(MinedImage(make_item(generator, "own caption"), 0.7, wrong),),
        mined_texts_per_image=300,
        mined_images_per_text=60,
        image_queries=panel,
        caption_queries=panel,
        gallery_split="test",
        seconds={"round 1": 60.0, "mining": 2.5, "round 2": 125.0, "control": 120.0, "evaluation": 5.0},
        date="2026-07-01 12:30 UTC",
        machine="2 CPU cores",
        versions={"aoq_ext": "0.1.0", "torch": "2.13.0"},
        seed=7,
    )


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(make_data(1.0, -0.5))


def test_every_section_is_there_and_linked(page: str) -> None:
    for name in SECTIONS:
        assert f'<section id="{name}">' in page
        assert f'href="#{name}"' in page


def test_html_is_well_formed(page: str) -> None:
    assert Elements(page).well_formed


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    elements = Elements(page).found
    tags = {tag for tag, _ in elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "video", "audio"}
    for tag, attributes in elements:
        if "src" in attributes:
            assert attributes["src"].startswith("data:image/png;base64,")
        if "href" in attributes:
            assert tag == "a"
            assert attributes["href"].startswith(("#", "https://arxiv.org/"))
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_every_image_and_panel_has_a_text(page: str) -> None:
    elements = Elements(page).found
    images = [attributes for tag, attributes in elements if tag == "img"]
    panels = [attributes for tag, attributes in elements if tag == "svg" and attributes.get("class") == "panel"]
    assert len(images) >= 10
    assert len(panels) == 7
    assert all(image["alt"] and image["title"] for image in images)
    assert all(panel["aria-label"] and panel["role"] == "img" for panel in panels)


def test_hostile_text_is_escaped() -> None:
    data = make_data(1.0, 1.0)
    generator = np.random.default_rng(0)
    item = replace(make_item(generator, HOSTILE), name=HOSTILE)
    answers = (Answer(item, 0.5, False), Answer(item, 0.4, True))
    panel = Panel((Query(item, answers, 30, 2, answers[0]),), 1, 0)
    data = replace(
        data,
        dataset=HOSTILE,
        machine=HOSTILE,
        date=HOSTILE,
        versions={HOSTILE: HOSTILE},
        seconds={HOSTILE: 1.0},
        mined=(MinedImage(item, 0.5, answers),),
        image_queries=panel,
        caption_queries=panel,
        splits=tuple(replace(split, title=HOSTILE) for split in data.splits),
        runs={
            name: replace(run, label=HOSTILE, start=HOSTILE, config={HOSTILE: {HOSTILE: HOSTILE}})
            for name, run in data.runs.items()
        },
    )
    page = render_report(data)
    assert "<script" not in page
    escaped = (
        "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#34;quoted&#34; &#39;too&#39; {{ 1 }} \u202eright to left\u200f"
    )
    assert page.count(f"<bdi>{escaped}</bdi>") == 8  # each caption that is shown, by itself in its direction
    assert Elements(page).well_formed
    assert all(set(attributes) <= {"class", "src", "width", "height", "alt", "title"}
               for tag, attributes in Elements(page).found if tag == "img")  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ((1.0, 0.5), "12.0 points higher on unseen names and 6.0 points higher on an unseen set (Iconoir)"),
        ((-1.0, -0.5), "12.0 points lower on unseen names and 6.0 points lower on an unseen set (Iconoir)"),
        ((1.0, -0.5), "12.0 points higher on unseen names and 6.0 points lower on an unseen set (Iconoir)"),
        ((0.0, 0.0), "the same to one decimal on unseen names and an unseen set (Iconoir)"),
    ],
)
def test_text_agrees_with_the_numbers(changes: tuple[float, float], sentence: str) -> None:
    text = text_of(render_report(make_data(*changes)))
    assert f"Against the control, AOQ’s rsum is {sentence}" in text
    direction = "higher than" if changes[0] > 0 else "lower than" if changes[0] < 0 else "the same to one decimal as"
    assert f"{direction} the control’s" in text


def test_differences_are_those_of_the_table() -> None:
    text = text_of(render_report(make_data(1.0, -0.5)))
    assert "rsum 132.0 144.0 156.0 +12.0 +11.0 to +13.0" in text
    assert "rsum 84.0 96.0 90.0 −6.0 −7.0 to −5.0" in text
    assert "median rank 9 8 7 −1 " in text
    assert "median rank 14 12 13 +1 " in text


def test_without_a_control_round_2_is_compared_with_round_1() -> None:
    data = without_control(make_data(1.0, -0.5))
    page = render_report(data)
    text = text_of(page)
    assert "control" not in text.replace("Without a control nobody", "")
    assert "rsum 132.0 156.0 +24.0" in text
    assert "Against round 1, AOQ’s rsum is 24.0 points higher" in text
    assert "higher than round 1’s" in text
    assert page.count('class="panel"') == 6


def test_only_clear_differences_are_coloured() -> None:
    data = make_data(1.0, 1.0)
    noisy = dict.fromkeys(data.splits[0].intervals, (-3.0, 20.0))
    assert 'class="good">+12.0' in render_report(data)
    data = replace(data, splits=tuple(replace(split, intervals=noisy) for split in data.splits))
    page = render_report(data)
    assert 'class="good">+12.0' not in page
    assert "All of this is within noise" in text_of(page)


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [(90_000, "the comparison is at equal cost"), (30_000, "see 3.0 times the pairs: the comparison is not at equal")],
)
def test_the_cost_of_every_run_is_shown(pairs: int, sentence: str) -> None:
    data = make_data(1.0, 1.0)
    control = replace(data.runs["control"], pairs=data.runs["control"].pairs * pairs // 90_000)
    text = text_of(render_report(replace(data, runs={**data.runs, "control": control})))
    assert f"control online triplets round 1 6 {pairs:,}" in text
    assert "Both begin with the best weights of round 1" in text
    assert sentence in text


def test_curves_begin_where_the_weights_were_reached() -> None:
    loss = str(training_curves(make_data(1.0, 1.0).runs)[0])
    assert loss.count("pairs encoded 15,000: ") == 1  # round 1 alone
    assert loss.count("pairs encoded 105,000: ") == loss.count("pairs encoded 180,000: ") == 2


def test_gallery_names_what_was_first_before() -> None:
    text = text_of(render_report(make_data(1.0, 1.0)))
    assert "✗ first in the control: mistaken at rank 3 0.90" in text
    assert "12 changed to right and 7 to wrong" in text


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.5, 3.0), "better, beyond the luck"),
        ((-3.0, -0.5), "worse, beyond the luck"),
        ((-1.0, 2.0), "it includes zero, so the difference is within noise"),
    ],
)
def test_certainty_follows_the_interval(interval: tuple[float, float], verdict: str) -> None:
    data = make_data(1.0, 1.0)
    intervals = {"rsum": interval}
    splits = tuple(replace(split, intervals={**split.intervals, **intervals}) for split in data.splits)
    data = replace(data, splits=splits)
    assert text_of(render_report(data)).count(verdict) == 2
    assert ("no difference stays clear of zero" in words.overall(data)) == (interval[0] < 0 < interval[1])


@pytest.mark.parametrize(
    ("epochs", "warning"),
    [
        ((3, 3), None),
        ((2, 6), "best epoch of the control lies in its warm-up"),
        ((6, 1), "best epoch of round 2 lies in its warm-up"),
        ((2, 2), "this compares nothing"),
    ],
)
def test_weights_from_the_warmup_are_owned_up_to(epochs: tuple[int, int], warning: str | None) -> None:
    data = make_data(1.0, 1.0)
    changed = {name: replace(data.runs[name], best_epoch=epoch) for name, epoch in zip(("control", "round 2"), epochs)}
    text = text_of(render_report(replace(data, runs={**data.runs, **changed})))
    assert (
        (text.count("the warm-up, which") + text.count("lies in its") == 0)
        if warning is None
        else (text.count(warning) == 2)
    )


def test_similarity_text_follows_the_medians() -> None:
    def similarities(positive: float, offline: float) -> PairSimilarities:
        return PairSimilarities(*(np.full(4, value, np.float32) for value in (positive, 0.1, offline)))

    wide, narrow, wrong = similarities(0.8, 0.3), similarities(0.8, 0.7), similarities(0.5, 0.6)

    def takeaway(before: PairSimilarities, after: PairSimilarities) -> str:
        data = make_data(1.0, 1.0)
        changed = {"control": before, "round 2": after}
        runs = {name: replace(data.runs[name], similarities=values) for name, values in changed.items()}
        return words.similarity_takeaway(replace(data, runs={**data.runs, **runs}))

    assert "From the control to round 2 the gap" in takeaway(narrow, wide)
    assert "widens from 0.10 to 0.50" in takeaway(narrow, wide)
    assert "narrows from 0.50 to 0.10" in takeaway(wide, narrow)
    assert "stays at 0.50" in takeaway(wide, wide)
    assert "100.0 % → 0.0 %" in takeaway(wrong, wide)
    assert "narrows from 0.10 to −0.10" in takeaway(narrow, wrong)


def test_same_data_same_bytes(page: str) -> None:
    assert render_report(make_data(1.0, -0.5)) == page


def test_report_is_small_and_written_whole(tmp_path, page: str) -> None:
    path = write_report(make_data(1.0, -0.5), tmp_path / "new" / "report.html")
    assert path.read_bytes() == page.encode()
    assert path.stat().st_size < 3_000_000
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_not_finite_and_flat_curves_are_drawn() -> None:
    data = make_data(0.0, 0.0)
    first = replace(data.runs["round 1"], loss=np.array([np.nan, 0.0, 1.0, 1.0, 1.0, 1.0]))
    flat = {key: np.zeros(EPOCHS) for key in first.validation}
    page = render_report(replace(data, runs=dict.fromkeys(data.runs, replace(first, validation=flat))))
    assert "nan" not in page.partition("<body>")[2]


@pytest.mark.parametrize(
    ("value", "text"), [(1.26, "+1.3"), (-1.26, "−1.3"), (0.04, "0.0"), (-0.04, "0.0"), (0.0, "0.0")]
)
def test_signed(value: float, text: str) -> None:
    assert signed(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.14, "3.1 s"), (9.96, "10 s"), (42.0, "42 s"), (59.7, "1 min"), (104.2, "1 min 44 s")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_chance_matches_a_shuffled_ranking() -> None:
    split = make_split("test", "t", 2.0, 2.0)
    generator = np.random.default_rng(0)
    best_of_own = np.array([generator.permutation(split.captions)[:5].min() for _ in range(20_000)])
    one_image = generator.integers(0, split.images, 20_000)
    simulated = sum(100 * np.mean(ranks < level) for ranks in (best_of_own, one_image) for level in (1, 5, 10))
    assert words.chance_rsum(split) == pytest.approx(simulated, abs=0.6)


def test_gallery_shows_first_what_changed_to_right_by_the_seed() -> None:
    ranks = np.array([1, 5, 1, 1, 9, 1, 2, 7, 1, 3])
    before = np.array([1, 5, 2, 1, 1, 4, 2, 7, 9, 3])
    chosen = gallery.choose(ranks, before, seed=3)
    assert len(chosen) == len(set(chosen)) == 6
    assert set(chosen[:3]) == {2, 5, 8}
    assert chosen == gallery.choose(ranks, before, seed=3)
    assert any(gallery.choose(ranks, before, seed=seed) != chosen for seed in range(5))
    assert sorted(gallery.choose(np.array([1, 1]), np.array([1, 1]), seed=0)) == [0, 1]
    assert set(gallery.choose(np.ones(9, np.int64), np.full(9, 2), seed=0)) <= set(range(9))


def test_gallery_answers_are_in_order_and_marked() -> None:
    data = noise_pictures(8)
    images = np.eye(8, dtype=np.float32)
    confused = np.roll(images, 1, axis=0)

    def answers(texts_of: np.ndarray) -> gallery.Answers:
        texts = texts_of[data.caption_image]
        ranks = ranks_from_embeddings(
            [(torch.from_numpy(images), torch.from_numpy(texts))], torch.from_numpy(data.caption_image)
        )
        return gallery.Answers(images, texts, ranks)

    panel = gallery.image_queries(data, answers(images), answers(confused), seed=0)
    assert (panel.gained, panel.lost) == (8, 0)
    for query in panel.queries:
        assert [answer.right for answer in query.answers] == [True, True, False, False, False]
        assert query.rank == 1 < query.rank_before
        assert query.answers[0].item.name == query.item.name
        assert query.mistaken is not None and not query.mistaken.right and query.mistaken.score == 1.0
    panel = gallery.caption_queries(data, answers(confused), answers(images), seed=0)
    assert (panel.gained, panel.lost) == (0, 16)
    panel = gallery.caption_queries(data, answers(images), answers(images), seed=0)
    assert (panel.gained, panel.lost) == (0, 0)
    for query in panel.queries:
        assert [answer.right for answer in query.answers] == [True, False, False, False, False]
        assert query.mistaken is None


def test_mined_examples_show_each_caption_once_hardest_first() -> None:
    data = noise_pictures(8)
    lists = np.array([[2, 0, 2, 1, 3, -1, -1]] * 8, dtype=np.int32)
    examples = gallery.mined_examples(data, lists, seed=0)
    assert len({int(data.group_ids[image]) for image, _ in examples}) == len(examples) == 4
    assert all(captions == [2, 1] or captions == [2, 0, 1, 3][: len(captions)] for _, captions in examples)
    for _, captions in examples:
        said = [data.captions[caption] for caption in captions]
        assert len(set(said)) == len(said)
    data.captions[1] = f"{data.captions[2].title()}!"  # the same words
    assert all(1 not in captions for _, captions in gallery.mined_examples(data, lists, seed=0))


def test_a_run_of_a_few_epochs_says_that_it_shows_nothing() -> None:
    data = make_data(1.0, 1.0)
    short = {name: replace(run, loss=run.loss[:2]) for name, run in data.runs.items()}
    caution = "2 epochs show that everything works, and nothing else"
    assert caution in words.overall(replace(data, runs=short))
    assert "nothing else" not in words.overall(data)
    further = {name: replace(run, loss=run.loss[:2]) for name, run in data.runs.items() if run.start == "round 1"}
    assert further and "nothing else" not in words.overall(replace(data, runs={**data.runs, **further}))
