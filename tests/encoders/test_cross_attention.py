"""Cross attention against a plain loop over captions that forms every attended vector, as the papers write it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from aoq_ext.encoders import CrossAttention
from aoq_ext.encoders.attention import FEATURE_NORMS, FOCAL, POOLINGS, refocus
from tests.attention_loop import plain

DIRECTIONS = ("t2i", "i2t", "both")


def batch(dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """4 images of 6 regions, 5 texts of up to 7 words; features neither of length one nor independent"""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(4, 6, 16, generator=generator, dtype=torch.float64)
    texts = 0.7 * torch.randn(5, 7, 16, generator=generator, dtype=torch.float64) + images.mean((0, 1))
    return images.to(dtype), texts.to(dtype), torch.tensor([3, 7, 2, 5, 2])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def leaves(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().clone().requires_grad_() for tensor in tensors)


@pytest.mark.parametrize("focal", [None, "equal", "prob"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_scores_and_pairs_are_those_of_the_loop(
    direction: str, focal: str | None, dtype: torch.dtype, tolerance: float
) -> None:
    images, texts, lengths = batch(dtype)
    images, texts = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)
    for feature_norm, pooling in itertools.product(FEATURE_NORMS, POOLINGS):
        attention = CrossAttention(direction, feature_norm, 9.0, pooling, 6.0, focal, chunk_elements=150)
        expected = plain(attention.rule, images, texts, lengths)
        torch.testing.assert_close(attention(images, texts, lengths), expected, rtol=tolerance, atol=tolerance)
        pairs = attention.pairs(images, texts[:4], lengths[:4])
        torch.testing.assert_close(pairs, expected.diagonal(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kept", [0, 10**6])
@pytest.mark.parametrize("few", [False, True], ids=["blocks", "pairs"])
@pytest.mark.parametrize("focal", [None, "equal", "prob"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradients_are_those_of_the_loop(direction: str, focal: str | None, few: bool, kept: int) -> None:
    """Both ways back: through blocks, and through the few pairs that have a gradient."""
    images, texts, lengths = batch()
    weight = torch.randn(4, 5, dtype=torch.float64)
    if few:
        weight = torch.zeros_like(weight).index_put_(
            (torch.tensor([1, 3]), torch.tensor([3, 0])), torch.tensor(1.5).double()
        )
    for feature_norm, pooling in zip(FEATURE_NORMS, itertools.cycle(POOLINGS)):
        attention = CrossAttention(
            direction, feature_norm, 2.0, pooling, 6.0, focal, chunk_elements=150, kept_elements=kept
        )
        inputs, others = leaves(images, texts), leaves(images, texts)
        (attention(*inputs, lengths) * weight).sum().backward()
        (plain(attention.rule, *others, lengths) * weight).sum().backward()
        for mine, other in zip(inputs, others):
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("feature_norm", FEATURE_NORMS)
@pytest.mark.parametrize(("direction", "focal"), [("t2i", None), ("i2t", "equal"), ("both", "prob")])
def test_gradcheck(direction: str, feature_norm: str, focal: str | None) -> None:
    torch.manual_seed(3)
    images = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    texts = torch.randn(3, 4, 4, dtype=torch.float64, requires_grad=True)
    lengths, image_lengths = torch.tensor([2, 4, 3]), torch.tensor([3, 2])
    attention = CrossAttention(direction, feature_norm, 3.0, focal=focal, chunk_elements=20)
    weight = torch.randn(2, 3, dtype=torch.float64)

    def every(images: Tensor, texts: Tensor) -> Tensor:
        return attention(images, texts, lengths, image_lengths)

    def each(images: Tensor, texts: Tensor) -> Tensor:
        return attention.pairs(images, texts[:2], lengths[:2], image_lengths)

    assert torch.autograd.gradcheck(lambda *inputs: every(*inputs)[1, 0], (images, texts))  # through a single pair
    assert torch.autograd.gradcheck(lambda *inputs: (every(*inputs) * weight).sum(), (images, texts))  # through blocks
    assert torch.autograd.gradcheck(each, (images, texts))


@pytest.mark.parametrize("feature_norm", FEATURE_NORMS)
@pytest.mark.parametrize("focal", [None, "prob"])
@pytest.mark.parametrize("few", [False, True], ids=["blocks", "pairs"])
def test_what_padding_holds_changes_no_bit(feature_norm: str, focal: str | None, few: bool) -> None:
    images, texts, lengths = batch(torch.float32)
    image_lengths = torch.tensor([6, 2, 4, 5])
    attention = CrossAttention("both", feature_norm, focal=focal, chunk_elements=150)
    results = []
    for filling, extra in ((0.0, 0), (float("nan"), 0), (1e30, 3)):
        dirty_images, dirty_texts = images.clone(), F.pad(texts, (0, 0, 0, extra), value=filling)
        for row, length in enumerate(image_lengths.tolist()):
            dirty_images[row, length:] = filling
        for row, length in enumerate(lengths.tolist()):
            dirty_texts[row, length:] = filling
        dirty_images.requires_grad_()
        dirty_texts.requires_grad_()
        scores = attention(dirty_images, dirty_texts, lengths, image_lengths)
        pairs = attention.pairs(dirty_images, dirty_texts[:4], lengths[:4], image_lengths)
        (scores[1, 2] if few else scores.square().sum() + pairs.sum()).backward()
        assert dirty_images.grad is not None and dirty_texts.grad is not None
        assert not dirty_images.grad[1, 2:].any() and not dirty_texts.grad[2, 2:].any()
        results.append((scores, pairs, dirty_images.grad, dirty_texts.grad[:, :7]))
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other))
    assert all(tensor.isfinite().all() for tensor in results[0])


def test_padded_regions_are_not_there() -> None:
    images, texts, lengths = batch()
    for direction, focal in itertools.product(DIRECTIONS, (None, *FOCAL)):
        attention = CrossAttention(direction, focal=focal)
        padded = attention(images, texts, lengths, torch.tensor([4, 4, 4, 4]))
        torch.testing.assert_close(padded, attention(images[:, :4], texts, lengths), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("chunk", [1, 40, 333, 10**9])
def test_blocks_do_not_show(chunk: int) -> None:
    images, texts, lengths = batch()
    whole, cut = (CrossAttention("both", chunk_elements=size) for size in (None, chunk))
    inputs, others = leaves(images, texts), leaves(images, texts)
    torch.testing.assert_close(whole(*inputs, lengths), cut(*others, lengths), rtol=1e-13, atol=1e-13)
    whole(*inputs, lengths).exp().sum().backward()
    cut(*others, lengths).exp().sum().backward()
    for one, two in zip(inputs, others):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-11, atol=1e-12)


def test_equal_fragments_are_all_kept() -> None:
    """A single fragment, or all alike: none stands out, and none is dropped."""
    for focal, size in itertools.product(FOCAL, (1, 4)):
        equal = torch.full((2, size), 1 / size)
        assert torch.equal(refocus(equal, focal, size), equal)
    images, texts, _ = batch()
    for focal in FOCAL:
        assert CrossAttention("both", focal=focal)(images, texts, torch.ones(5, dtype=torch.long)).isfinite().all()


def test_a_context_that_cancels_scores_zero() -> None:
    vector = F.normalize(torch.randn(1, 1, 64), dim=-1)
    images = torch.cat([vector, -vector], dim=1).requires_grad_()
    texts = torch.zeros(1, 1, 64).index_fill_(2, torch.tensor([3]), 1.0).requires_grad_()
    score = CrossAttention("t2i", "no_norm", 1e-6, pooling="mean")(images, texts, torch.tensor([1]))
    score.sum().backward()
    assert score.abs().max() < 1e-3
    assert images.grad is not None and images.grad.isfinite().all()


@pytest.mark.parametrize("feature_norm", FEATURE_NORMS)
def test_vanishing_features_give_finite_gradients(feature_norm: str) -> None:
    images, texts, lengths = batch(torch.float32)
    images[0], texts[1] = 0, 0
    inputs = leaves(images, texts)
    CrossAttention("both", feature_norm)(*inputs, lengths).sum().backward()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in inputs)


@pytest.mark.parametrize("spread", [1.0, 0.1, 0.01])
def test_float32_error_when_regions_nearly_agree_or_nearly_cancel(spread: float) -> None:
    """Regions in opposite halves: the attended vector is as short as ``spread`` makes it."""
    torch.manual_seed(0)
    half = F.normalize(torch.randn(3, 8, 256, dtype=torch.float64), dim=-1)
    images = torch.cat([half, -half + spread * F.normalize(torch.randn_like(half), dim=-1)], dim=1)
    texts = F.normalize(torch.randn(4, 5, 256, dtype=torch.float64), dim=-1)
    lengths = torch.tensor([5, 4, 3, 2])
    attention = CrossAttention("t2i", "no_norm", 1.0, pooling="mean")
    truth = plain(attention.rule, images, texts, lengths)
    error = (attention(images.float(), texts.float(), lengths) - truth).abs().max()
    assert error < 1e-5


def test_low_precision_is_computed_in_float32() -> None:
    images, texts, lengths = batch(torch.bfloat16)
    inputs = leaves(images, texts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = CrossAttention()(*inputs, lengths)
    torch.testing.assert_close(scores, CrossAttention()(images.float(), texts.float(), lengths))
    scores.sum().backward()
    assert inputs[0].grad is not None and inputs[0].grad.dtype == torch.bfloat16


def spread_out(features: Tensor) -> list[Tensor]:
    """The same numbers in other strides: of a feature map, of sequences that come first, of every second item."""
    twice = features.repeat_interleave(2, dim=0)
    return [features.mT.contiguous().mT, features.transpose(0, 1).contiguous().transpose(0, 1), twice[::2]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_features_in_any_strides(direction: str, dtype: torch.dtype) -> None:
    images, texts, lengths = batch(dtype)
    weight = torch.randn(4, 5, dtype=dtype)
    found = []
    for image, text in zip([images, *spread_out(images)], [texts, *spread_out(texts)]):
        inputs = image.detach().requires_grad_(), text.detach().requires_grad_()
        scores = CrossAttention(direction)(*inputs, lengths)
        found.append([scores, *torch.autograd.grad(scores, inputs, weight)])
    for got in found[1:]:
        torch.testing.assert_close(got, found[0])


@pytest.mark.parametrize("few", [False, True], ids=["blocks", "pairs"])
def test_frozen_features_get_no_gradient(few: bool) -> None:
    images, texts, lengths = batch()

    def loss(image: Tensor, text: Tensor) -> Tensor:
        scores = CrossAttention("both")(image, text, lengths)
        return scores[1, 2] if few else scores.square().sum()

    expected = torch.autograd.grad(loss(*(inputs := leaves(images, texts))), inputs)
    for frozen in (0, 1):
        one, other = leaves(images, texts)
        (one, other)[frozen].requires_grad_(False)
        loss(one, other).backward()
        assert (one, other)[frozen].grad is None
        torch.testing.assert_close((one, other)[1 - frozen].grad, expected[1 - frozen])


class MatrixProducts(TorchDispatchMode):
    """How many there have been since."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm_.default)
        return func(*args, **(kwargs or {}))


def test_no_product_is_computed_for_frozen_features() -> None:
    images, texts, lengths = batch()

    def products(image: Tensor, text: Tensor) -> int:
        scores = CrossAttention()(image, text, lengths)
        with MatrixProducts() as made:
            scores.sum().backward()
        return made.count

    assert products(*leaves(images, texts)) == 2
    assert products(*leaves(images), texts) == products(images, *leaves(texts)) == 1


@pytest.mark.parametrize("few", [False, True], ids=["blocks", "pairs"])
def test_the_gradient_is_as_exact_under_autocast(few: bool) -> None:
    images, texts, lengths = batch(torch.float32)
    found = []
    for enabled in (False, True):
        inputs = leaves(images, texts)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            scores = CrossAttention()(*inputs, lengths)
            (scores[1, 2] if few else scores.sum()).backward()
        found.append([tensor.grad for tensor in inputs])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_results_are_the_same_every_time() -> None:
    images, texts, lengths = batch(torch.float32)

    def run() -> list[Tensor]:
        inputs = leaves(images, texts)
        scores = CrossAttention("both", chunk_elements=100)(*inputs, lengths)
        scores.logsumexp(1).sum().backward()
        return [scores, *(tensor.grad for tensor in inputs if tensor.grad is not None)]

    assert all(torch.equal(one, two) for one, two in zip(run(), run()))


def test_double_backward_is_refused() -> None:
    images, texts, lengths = batch()
    inputs = leaves(images, texts)
    gradients = torch.autograd.grad(CrossAttention()(*inputs, lengths).sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradients[0].sum().backward()


def test_no_images_or_no_texts() -> None:
    images, texts, lengths = batch()
    attention = CrossAttention()
    assert attention(images[:0], texts, lengths).shape == (0, 5)
    assert attention(images, texts[:0], lengths[:0]).shape == (4, 0)
    assert attention.pairs(images[:0], texts[:0], lengths[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(lengths=torch.tensor([3, 0, 2, 5, 2])), r"lengths: expected integers from 1 to 7, got 0 to 5"),
        (dict(lengths=torch.tensor([3, 8, 2, 5, 2])), r"lengths: expected integers from 1 to 7, got 2 to 8"),
        (dict(lengths=torch.ones(4, dtype=torch.long)), r"lengths: expected integers of shape \(5,\)"),
        (dict(image_lengths=torch.tensor([1.0])), r"image_lengths: expected integers of shape \(4,\)"),
        (dict(images=torch.ones(4, 16)), r"images: expected floating-point features of shape \(N, R, D\)"),
        (dict(texts=torch.ones(5, 7, 8).double()), r"texts: expected features as wide as images"),
    ],
)
def test_wrong_input_is_named(change: dict[str, Tensor], message: str) -> None:
    images, texts, lengths = batch()
    arguments = {"images": images, "texts": texts, "lengths": lengths, **change}
    with pytest.raises(ValueError, match=message):
        CrossAttention()(**arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(direction="up"), "direction: expected one of"),
        (dict(feature_norm="l3"), "feature_norm: expected one of"),
        (dict(pooling="median"), "pooling: expected one of"),
        (dict(focal="soft"), "focal: expected one of"),
        (dict(lambda_softmax=0.0), "lambda_softmax: expected a positive number, got 0.0"),
        (dict(lambda_lse=float("inf")), "lambda_lse: expected a positive number, got inf"),
        (dict(chunk_elements=0), "chunk_elements: expected a positive integer or None, got 0"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CrossAttention(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("focal", [None, "equal", "prob"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_float32_has_the_gradients_of_float64(direction: str, focal: str | None) -> None:
    """With padded images and texts, in blocks and for pairs."""
    images, texts, lengths = batch()
    images, texts = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)
    image_lengths = torch.tensor([6, 2, 4, 5])
    weight = torch.randn(4, 5, dtype=torch.float64)
    for feature_norm, pooling in itertools.product(FEATURE_NORMS, POOLINGS):
        attention = CrossAttention(direction, feature_norm, 4.0, pooling, 6.0, focal, chunk_elements=150)
        found = []
        for dtype in (torch.float32, torch.float64):
            inputs = leaves(images.to(dtype), texts.to(dtype))
            scores = attention(*inputs, lengths, image_lengths)
            (scores * weight.to(dtype)).sum().backward()
            pairs = attention.pairs(inputs[0], inputs[1][:4], lengths[:4], image_lengths)
            (pairs * weight[0, :4].to(dtype)).sum().backward()
            found.append([scores.double(), pairs.double(), *(tensor.grad.double() for tensor in inputs)])
        for got, expected in zip(*found):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
