"""The fused loss on the CPU against the reference, over every option, and what the promises say about edges."""

import itertools
import math

import pytest
import torch
from losses import HALVES, OBJECTIVES, ONLINE, REDUCTIONS, SIMILARITIES, error, fused, make_operands, oracle

import aoq_ext
from aoq_ext import functional
from aoq_ext.functional import adaptive_quintuplet_loss

GRID = list(itertools.product(OBJECTIVES, ONLINE, SIMILARITIES))


def check(operands, *arguments, tolerance=1e-11, **options):
    for result, truth in zip(fused(operands, *arguments, **options), oracle(operands, *arguments, **options)):
        torch.testing.assert_close(result, truth, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("objective", "online", "similarity"), GRID)
def test_every_option_equals_the_reference(objective, online, similarity):
    options = {"objective": objective, "online": online, "similarity": similarity}
    generator = torch.Generator().manual_seed(1)
    for count, candidates in ((2, 0), (7, 3), (40, 0), (300, 0)):
        operands = make_operands(count, 19, candidates)
        groups = torch.randint(0, max(count // 2, 2), (count,), generator=generator)
        for group_ids, reduction in itertools.product((None, groups), REDUCTIONS):
            check(operands, group_ids, reduction=reduction, **options)
    for flags in ({"detach_weight": True}, {"clamp_weight": True}, {"detach_weight": True, "clamp_weight": True}):
        check(make_operands(40, 19), alpha=0.05, beta=0.2, margin_offline=0.1, **flags, **options)


@pytest.mark.parametrize(("objective", "online", "similarity"), GRID)
@pytest.mark.parametrize("flags", [{}, {"detach_weight": False, "clamp_weight": True}])
def test_gradcheck(objective, online, similarity, flags):
    operands = [operand.requires_grad_() for operand in make_operands(5, 4)]
    groups = torch.tensor([0, 1, 2, 3, 0])

    def loss(*leaves):
        return adaptive_quintuplet_loss(
            *leaves, groups, objective=objective, online=online, similarity=similarity, reduction="none", **flags
        )

    assert torch.autograd.gradcheck(loss, operands)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("online", ONLINE)
@pytest.mark.parametrize("count", [3, 128, 257, 700])
def test_precision(dtype, online, count):
    """Error against float64 at most 2× (loss) and 3× (gradients) that of the reference in the same dtype."""
    operands = make_operands(count, 64, dtype=dtype)
    truth = oracle([operand.double() for operand in operands], online=online)
    ours, theirs = fused(operands, online=online), oracle(operands, online=online)
    assert ours[0].dtype == torch.float32
    assert all(grad.dtype == dtype for grad in ours[1:])
    rounding = torch.finfo(dtype).eps
    assert error(ours[0], truth[0]) <= 2 * error(theirs[0], truth[0]) + 1e-6
    for result, reference, exact in zip(ours[1:], theirs[1:], truth[1:]):
        assert error(result, exact) <= 3 * error(reference, exact) + rounding


@pytest.mark.parametrize("count", [255, 256, 257, 511, 513, 2047, 2049, 2310])
def test_sizes_around_the_tile_edges(count):
    operands = make_operands(count, 8)
    groups = torch.arange(count) // 3
    check(operands, groups, reduction="none", tolerance=1e-10)
    check(operands, online="all", reduction="sum", tolerance=1e-10)


@pytest.mark.parametrize("width", [0, 1, 15, 16, 17, 33, 64, 100, 129])
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_widths(width, similarity, dtype):
    tolerance = 1e-11 if dtype == torch.float64 else 2e-5
    check(make_operands(6, width, dtype=dtype), similarity=similarity, tolerance=tolerance)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_no_pairs(reduction):
    result = fused(make_operands(0, 8), reduction=reduction)
    assert result[0].shape == ((0,) if reduction == "none" else ())
    assert result[0].sum() == 0
    assert all(grad.shape == (0, 8) for grad in result[1:])


@pytest.mark.parametrize("online", ONLINE)
def test_one_pair_and_one_group_have_no_online_part(online):
    for count in (1, 6):
        operands = make_operands(count, 8)
        groups = torch.zeros(count, dtype=torch.int32)
        loss = adaptive_quintuplet_loss(*operands[:2], group_ids=groups, objective="online_triplet", online=online)
        assert loss == 0
        check(operands, groups, online=online)


def test_group_ids_of_any_integer_dtype_and_size():
    operands = make_operands(30, 6)
    groups = torch.arange(30) // 4
    expected = fused(operands, groups)
    for dtype in (torch.int32, torch.int16, torch.int8, torch.uint8):
        assert torch.equal(fused(operands, groups.to(dtype))[0], expected[0])
    huge = groups * (2**58) + 7  # far outside int32
    for operand_type in (torch.float64, torch.float32):
        typed = [operand.to(operand_type) for operand in operands]
        assert torch.equal(fused(typed, huge)[0], fused(typed, groups)[0])


def chosen(operands, **options):
    """The hardest negatives: text of each image, image of each text."""
    options = functional.LossOptions.create(objective="online_triplet", **options)
    codes = [int(options.objective), int(options.online), int(options.similarity), 0, False, False]
    none = [None] * 5
    out = torch.ops.aoq.quintuplet_forward(*operands[:2], *none, 0.2, 0.0, 0.3, 1.5, *codes)
    return out[1].tolist(), out[2].tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
def test_ties_go_to_the_lowest_index(dtype):
    image = torch.zeros(600, 4, dtype=dtype)
    text = torch.zeros(600, 4, dtype=dtype)
    image[:, 0] = text[:, 0] = 1  # every score is 1
    text_index, image_index = chosen([image, text])
    assert text_index == image_index == [1] + [0] * 599
    text[[17, 400, 599], 0] = 2
    assert chosen([image, text])[0] == [17] * 17 + [400] + [17] * 582


def test_plus_and_minus_zero_tie():
    image = torch.tensor([[1.0], [1.0], [1.0]])
    text = torch.tensor([[-1.0], [-0.0], [0.0]])
    assert chosen([image, text])[0] == [1, 2, 1]


def test_a_tied_candidate_goes_to_the_lowest_k():
    operands = make_operands(5, 6, candidates=4)
    operands[3][:, 2] = operands[3][:, 1] = operands[0]  # texts equal to the image: two hardest candidates
    grad = fused(operands, margin_offline=0.3)[4]
    assert grad[:, 1].abs().sum() > 0
    assert grad[:, [0, 2, 3]].abs().sum() == 0


def test_one_candidate_equals_none_bitwise():
    operands = make_operands(33, 12, dtype=torch.float32)
    with_axis = operands[:2] + [operand[:, None] for operand in operands[2:]]
    for plain, candidate in zip(fused(operands), fused(with_axis)):
        assert torch.equal(plain, candidate.reshape(plain.shape))


def test_a_hinge_at_exactly_zero_is_inactive():
    image = torch.eye(2, dtype=torch.float64)
    text = torch.tensor([[1.0, 0.0], [0.75, 1.0]], dtype=torch.float64)  # γ + n_0 − p_0 = 0.25 + 0.75 − 1 = 0
    result = fused([image, text], objective="online_triplet", margin_online=0.25)
    assert result[0] == 0
    assert all((grad == 0).all() for grad in result[1:])


@pytest.mark.parametrize("online", ONLINE)
@pytest.mark.parametrize("operand", range(6))
def test_nan_propagates(online, operand):
    operands = make_operands(20, 8, dtype=torch.float32)
    operands[operand][3, 2] = math.nan
    assert math.isnan(adaptive_quintuplet_loss(*operands, online=online))
    each = adaptive_quintuplet_loss(*operands, online=online, reduction="none")
    expected = aoq_ext.reference.adaptive_quintuplet_loss(*operands, online=online, reduction="none")
    assert torch.equal(each.isnan(), expected.isnan())


def test_infinite_scores():
    operands = make_operands(20, 8, dtype=torch.float32)
    operands[1][4, 0], operands[1][7, 0] = math.inf, -math.inf
    for online in ONLINE:
        ours = adaptive_quintuplet_loss(*operands, online=online, reduction="none")
        theirs = aoq_ext.reference.adaptive_quintuplet_loss(*operands, online=online, reduction="none")
        torch.testing.assert_close(ours, theirs, equal_nan=True)


def test_cosine_of_a_zero_vector_is_zero_with_zero_gradient():
    operands = make_operands(6, 5)
    for operand in operands:
        operand[2] = 0
    check(operands, similarity="cosine")
    result = fused(operands, similarity="cosine")
    assert all(grad[2].abs().sum() == 0 for grad in result[1:])


def test_strided_misaligned_and_transposed_inputs():
    plain = make_operands(37, 21, dtype=torch.float32)
    expected = fused(plain)
    column_major = [operand.T.contiguous().T for operand in plain]
    padded = [torch.nn.functional.pad(operand, (3, 5))[:, 3:-5] for operand in plain]
    every_other = [operand.repeat_interleave(2, dim=0)[::2] for operand in plain]
    flat = [torch.cat([torch.zeros(1), operand.flatten()])[1:].view_as(operand) for operand in plain]
    for layout in (column_major, padded, every_other, flat):
        for result, truth in zip(fused(layout), expected):
            torch.testing.assert_close(result, truth, rtol=1e-5, atol=1e-6)


def test_expanded_operands_and_gradients():
    """One hard image for all anchors, and a gradient that arrives expanded."""
    operands = make_operands(9, 4)
    shared = operands[2][:1].detach().requires_grad_()
    loss = adaptive_quintuplet_loss(*operands[:2], shared.expand(9, 4), *operands[3:], reduction="none")
    loss.sum().backward()
    separate = operands[2][:1].repeat(9, 1).requires_grad_()
    adaptive_quintuplet_loss(*operands[:2], separate, *operands[3:]).backward()
    torch.testing.assert_close(shared.grad, separate.grad.sum(0, keepdim=True))


@pytest.mark.parametrize("online", ONLINE)
def test_bitwise_the_same_every_time(online):
    operands = make_operands(900, 32, dtype=torch.float32)
    groups = torch.arange(900) // 2
    first = fused(operands, groups, online=online)
    for _ in range(5):
        again = fused([operand.clone() for operand in operands], groups, online=online)
        assert all(torch.equal(value, expected) for value, expected in zip(again, first))


@pytest.mark.parametrize("online", ONLINE)
def test_any_number_of_threads(online):
    operands = make_operands(900, 32, dtype=torch.float64)
    expected = fused(operands, online=online)
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            for value, truth in zip(fused(operands, online=online), expected):
                torch.testing.assert_close(value, truth, rtol=1e-12, atol=1e-12)
    finally:
        torch.set_num_threads(threads)


def test_module_and_function_agree_and_print_their_options():
    operands = make_operands(8, 6)
    module = aoq_ext.AdaptiveQuintupletLoss(alpha=0.5, online="all", reduction="mean")
    assert torch.equal(
        module(*operands), adaptive_quintuplet_loss(*operands, alpha=0.5, online="all", reduction="mean")
    )
    assert "alpha=0.5" in repr(module)
    assert "online='all'" in repr(module)


def test_score_module_equals_the_embedding_module():
    x, y, xt, yt, xh, yh = make_operands(9, 5)
    scores = [x @ y.T, (x * yt).sum(1), (xt * y).sum(1), (xt * yt).sum(1), (xh * yh).sum(1)]
    expected = aoq_ext.AdaptiveQuintupletLoss()(x, y, xt, yt, xh, yh)
    torch.testing.assert_close(aoq_ext.AdaptiveQuintupletScoreLoss()(*scores), expected)


def test_order_similarity_of_infinities():
    operands = make_operands(6, 5, dtype=torch.float32)
    operands[0][1, 2], operands[1][4, 3], operands[1][5, 0] = math.inf, -math.inf, math.inf
    ours = adaptive_quintuplet_loss(*operands, similarity="order", reduction="none")
    theirs = aoq_ext.reference.adaptive_quintuplet_loss(*operands, similarity="order", reduction="none")
    torch.testing.assert_close(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize(("count", "width"), [(64, 100), (301, 33), (2100, 16)])
def test_a_duplicate_of_the_positive_ties_with_it(dtype, similarity, count, width):
    """Though its score comes from another summation order than p: never semi-hard, and no hinge at margin 0."""
    operands = make_operands(count, width, dtype=dtype)[:2]
    operands[1][1::2] = operands[1][: count - 1 : 2]
    text_index, _ = chosen(operands, online="semihard", similarity=similarity)
    twins = [i + 1 if i % 2 == 0 else i - 1 for i in range(count)]
    assert not [i for i, j in enumerate(text_index) if j == twins[i]]
    operands[0][1::2] = operands[0][: count - 1 : 2]  # now both negatives of a pair equal its positive
    operands = [operand[: count // 2 * 2] for operand in operands]
    for online in ("hardest", "all"):
        value = adaptive_quintuplet_loss(
            *operands, objective="online_triplet", similarity=similarity, online=online, margin_online=0.0
        )
        reference = aoq_ext.reference.adaptive_quintuplet_loss(
            *(operand.double() for operand in operands),
            objective="online_triplet", similarity=similarity, online=online, margin_online=0.0,
        )  # fmt: skip
        torch.testing.assert_close(value.double(), reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [4096, 8192])
def test_long_sums_stay_accurate(count):
    operands = make_operands(count, 8, dtype=torch.float32)[:2]
    options = {"objective": "online_triplet", "online": "all", "reduction": "none"}
    exact = adaptive_quintuplet_loss(*(operand.double() for operand in operands), **options)
    eager = aoq_ext.reference.adaptive_quintuplet_loss(*operands, **options)
    assert error(adaptive_quintuplet_loss(*operands, **options), exact) <= 2 * error(eager, exact) + 1e-6
