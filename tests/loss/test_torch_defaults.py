"""Results under other defaults of torch than float32 on the CPU: the same to the bit, the dtype and the device."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import aoq_ext
from aoq_ext import functional, metrics, mining, reference

ROOT = Path(__file__).resolve().parents[2]
FACTORIES = {
    "arange", "asarray", "empty", "eye", "full", "linspace", "logspace", "normal", "ones", "rand", "randint", "randn",
    "randperm", "scalar_tensor", "tensor", "tril_indices", "triu_indices", "zeros",
}  # fmt: skip
INTEGERS = {"arange", "randint", "randperm", "tril_indices", "triu_indices"}  # of integers, whatever the default dtype


def test_every_tensor_that_is_made_says_what_and_where() -> None:
    vague = []
    for path in sorted((ROOT / "aoq_ext").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (
                isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in FACTORIES
            ):
                continue
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "torch":
                wanted = {"device"} if node.func.attr in INTEGERS else {"device", "dtype"}
                if missing := wanted - {keyword.arg for keyword in node.keywords}:
                    vague.append(f"{path.relative_to(ROOT)}:{node.lineno}: {', '.join(sorted(missing))}")
    assert not vague, "\n".join(vague)


@pytest.fixture(params=["float64", "float16", "meta"])
def other_defaults(request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    """Sets them when it is called."""

    def change() -> None:
        if request.param == "meta":
            torch.set_default_device("meta")
        else:
            torch.set_default_dtype(getattr(torch, request.param))

    yield change
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


def rows(count: int, width: int = 8, seed: int = 0) -> Tensor:
    values = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return torch.nn.functional.normalize(torch.from_numpy(values), dim=1)


def integers(*values: int) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.int64))


OBJECTIVES = ("online_triplet", "offline_triplet", "offline_quintuplet", "adaptive_quintuplet")
OWNERS = integers(*(number // 2 for number in range(20)))
IMAGES, TEXTS = rows(10), rows(20, seed=1)
IDS = {"anchor_ids": integers(*range(10)), "candidate_ids": OWNERS}
CAPTIONS = [f"thing {number % 7}" for number in range(20)]


def losses(tmp_path: Path) -> Any:
    for objective in OBJECTIVES:
        for online in ("hardest", "semihard", "all"):
            for module in (functional, reference):
                leaves = [rows(6, seed=seed).requires_grad_() for seed in range(6)]
                options = {"objective": objective, "online": online}
                loss = module.adaptive_quintuplet_loss(*leaves, group_ids=integers(0, 1, 2, 3, 3, 4), **options)
                yield loss
                yield from torch.autograd.grad(loss, leaves, allow_unused=True)
                scores = [leaves[0] @ leaves[1].T, *(leaf[:, 0] for leaf in leaves[2:])]
                yield module.adaptive_quintuplet_score_loss(*scores, **options)
    for similarity in ("cosine", "order"):
        yield aoq_ext.AdaptiveQuintupletLoss(similarity=similarity)(*(rows(6, seed=seed) for seed in range(6)))
    yield aoq_ext.hardest_negatives(rows(6), rows(6, seed=1))


def mined(tmp_path: Path) -> Any:
    labels = mining.caption_labels(CAPTIONS, OWNERS, 10)
    yield labels
    sequences = [[0], [1], [], [2, 3]] * 5, [[number % 4] for number in range(10)]
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        pair = IMAGES.to(dtype), TEXTS.to(dtype)
        yield aoq_ext.mine_hard_negatives(*pair, 3)
        for rule in ({"margin": 0.05}, {"relative_margin": 0.1}, {"max_score": 0.3}, {"skip": 1}):
            yield aoq_ext.mine_hard_negatives(*pair, 3, **IDS, **rule, direction="both", k_reverse=2)
        for text, image in (labels, sequences):
            given = {"candidate_labels": text, "anchor_labels": image}
            yield aoq_ext.mine_hard_negatives(*pair, 3, **IDS, **given, direction="both")


def mined_in_files(tmp_path: Path) -> Any:
    np.save(tmp_path / "images.npy", IMAGES.numpy())
    np.save(tmp_path / "texts.npy", TEXTS.numpy())
    paths = tmp_path / "images.npy", tmp_path / "texts.npy"
    for folder, rule in (("lists", {"skip": 1}), ("near", {"margin": 0.05})):
        found = mining.mine_to_files(*paths, tmp_path / folder, 3, **IDS, **rule, direction="both", k_reverse=2)
        yield found.indices, found.scores, found.reverse_indices, found.reverse_scores
    yield aoq_ext.mine_hard_negatives(*paths, 3, **IDS, margin=0.05)
    yield mining.fingerprint_embeddings(IMAGES, TEXTS)
    sampler = aoq_ext.OfflineNegativeSampler.from_folder(tmp_path / "lists", OWNERS)
    yield [sampler.draw(OWNERS, integers(*range(20))) for _ in range(3)]


def measured(tmp_path: Path) -> Any:
    yield metrics.retrieval_metrics(IMAGES, TEXTS, OWNERS, folds=2)
    yield metrics.retrieval_metrics(IMAGES.half(), TEXTS.half(), OWNERS)
    yield metrics.retrieval_metrics_from_scores(IMAGES @ TEXTS.T, OWNERS)
    yield metrics.ensemble_metrics([(IMAGES, TEXTS), (TEXTS[::2], TEXTS)], OWNERS, weights=[1.0, 0.5])
    yield metrics.retrieval_ranks(IMAGES, TEXTS, *IDS.values())
    ranks = metrics.ranks_from_embeddings([(IMAGES, TEXTS)], OWNERS)
    yield ranks.i2t, ranks.t2i, ranks.report(50, 0.9, 1)


def data(tmp_path: Path) -> Any:
    from aoq_ext.data import Vocabulary, load_icons

    split = load_icons("val")
    vocabulary = Vocabulary.build(split.captions)
    yield len(vocabulary), vocabulary.encode(split.captions[:50]), vocabulary.encode([])
    yield split.images[:5], split.caption_image, split.group_ids


def encoded(tmp_path: Path) -> Any:
    """Parameters are made by torch's defaults, as those of any module: here once, before they change."""
    from aoq_ext.encoders import PackedFeatures, score_matrix

    regions = torch.stack([rows(6, 16, seed) for seed in range(4)])
    tokens, lengths = torch.stack([integers(1, 5, 2, 0)] * 3), integers(3, 4, 2)
    scan, captioning, gru, image, view = make_modules()
    images, texts = scan.encode_images(regions), scan.encode_texts(tokens, lengths)
    yield scan.scores(images, texts), score_matrix(scan, PackedFeatures([images]), PackedFeatures([texts]))
    torch.manual_seed(3)
    yield captioning(rows(18, 8).reshape(3, 6, 8), tokens, lengths), gru(tokens, lengths)
    yield image(rows(2, 3 * 32 * 32).reshape(2, 3, 32, 32)), view(rows(2, 3 * 32 * 32).reshape(2, 3, 32, 32))


@cache
def make_modules() -> list[torch.nn.Module]:
    from aoq_ext.encoders import SCAN, CaptioningLoss, ConvEncoder, GRUEncoder, RandomView

    torch.manual_seed(0)
    return [
        SCAN(10, image_dim=16, dim=8, word_dim=4),
        CaptioningLoss(10, 8, hidden=8, word_dim=4),
        GRUEncoder(10, dim=8, word_dropout=0.5, dropout=0.5),
        ConvEncoder(dim=8),
        RandomView(0.2, 0.2),
    ]


def trained(tmp_path: Path, model: str = "pictures") -> Any:
    from aoq_ext.training import LossConfig, OfflineConfig, evaluate_run, load_run, mine_run, train
    from tests.training.test_scores import config_of
    from tests.training.test_toy import toy_config

    class Stop(Exception):
        pass

    def stop(steps: int) -> None:
        if steps == 7:
            raise Stop

    changes: dict[str, Any] = {"epochs": 2, "warmup_epochs": 1, "loss": LossConfig("adaptive_quintuplet")}
    config = toy_config(tmp_path, **changes) if model == "pictures" else config_of(tmp_path, model, **changes)
    config.offline = OfflineConfig(remine_every=1, top_texts=12, top_images=6)
    with pytest.raises(Stop):
        train(config, on_step=stop)
    run = load_run(train(config, resume=True), "last")
    yield dict(run.model.named_parameters())
    yield evaluate_run(run, "val", note=False, resamples=20)
    lists = mine_run(run, 5, 3)
    yield lists.texts, lists.images
    if run.model.embeds:
        yield run.embed_texts(["a thing1"])


def trained_by_scores(tmp_path: Path) -> Any:
    yield from trained(tmp_path / "whole", "scan")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aoq_ext.training.mining.ALL_PAIRS", 0)  # more of them are reranked
        yield from trained(tmp_path / "reranked", "scan")


def trained_with_auxiliary(tmp_path: Path) -> Any:
    return trained(tmp_path, "vsrn")


def plain(result: Any) -> Any:
    """What can be compared by ``==``: everything of tensors and arrays, by value, dtype and device."""
    if isinstance(result, Tensor):
        assert result.device.type == "cpu"
        return str(result.dtype), result.detach().double().nan_to_num(7.5).tolist()
    if isinstance(result, np.ndarray):
        return str(result.dtype), result.tolist()
    if isinstance(result, dict):
        return {name: plain(value) for name, value in result.items() if name != "seconds"}
    if isinstance(result, (list, tuple)) or hasattr(result, "__next__"):
        return [plain(part) for part in result]
    if hasattr(result, "__dataclass_fields__"):
        return plain(vars(result))
    return result


@pytest.mark.parametrize(
    "compute",
    [losses, mined, mined_in_files, measured, data, encoded, trained, trained_by_scores, trained_with_auxiliary],
)
def test_results_do_not_depend_on_the_defaults(
    compute: Callable[[Path], Any], other_defaults: Callable[[], None], tmp_path: Path
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    expected = plain(compute(tmp_path / "one"))
    other_defaults()
    assert plain(compute(tmp_path / "two")) == expected
