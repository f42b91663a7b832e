"""Both forms of the fused loss: the numerics policy on every case, and what the promises say about edges."""

import itertools

import pytest
import torch

import aoq_ext
from aoq_ext.functional import adaptive_quintuplet_loss
from tests.losses import (
    DTYPES,
    EMBEDDINGS,
    OBJECTIVES,
    ONLINE,
    REDUCTIONS,
    SCORES,
    SIMILARITIES,
    make_operands,
    run,
    scores_of,
)
from tests.numerics import CASES, check_forward, check_gradients, check_same_every_time, error

RUNS = [
    pytest.param(case, form, dtype, id=f"{case.name}-{form.name}-{str(dtype).removeprefix('torch.')}")
    for case, form in itertools.product(CASES, (EMBEDDINGS, SCORES))
    for dtype in case.dtypes
    if case.options_of(form)
]


@pytest.mark.parametrize(("case", "form", "dtype"), RUNS)
def test_forward(case, form, dtype, device):
    operands, group_ids = case.inputs(form, dtype, device)
    for options in case.options_of(form):
        check_forward(form, operands, group_ids, exact=case.exact, **options)


@pytest.mark.parametrize(("case", "form", "dtype"), [run for run in RUNS if run.values[0].finite])
def test_gradients(case, form, dtype, device):
    operands, group_ids = case.inputs(form, dtype, device)
    for options in case.options_of(form):
        check_gradients(form, operands, group_ids, **options)


@pytest.mark.parametrize(("case", "form", "dtype"), RUNS)
def test_the_same_every_time(case, form, dtype, device):
    operands, group_ids = case.inputs(form, dtype, device)
    for options in case.options_of(form):
        check_same_every_time(form, operands, group_ids, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("online", ONLINE)
def test_the_loss_of_larger_batches(dtype, online, device):
    """A loss, unlike its gradient, hardly changes where a score rounds to the other side of a hinge."""
    check_forward(EMBEDDINGS, make_operands(700, 64, dtype=dtype, device=device), online=online)


def test_long_sums_stay_accurate(device):
    operands = make_operands(3000, 8, dtype=torch.float32, device=device)
    check_forward(EMBEDDINGS, operands, objective="online_triplet", online="all", reduction="none")


@pytest.mark.parametrize(("objective", "online"), list(itertools.product(OBJECTIVES, ONLINE)))
@pytest.mark.parametrize(("form", "similarity"), [*((EMBEDDINGS, s) for s in SIMILARITIES), (SCORES, "dot")])
@pytest.mark.parametrize("clamp_weight", [False, True])
def test_gradcheck(form, objective, online, similarity, clamp_weight, device):
    operands = make_operands(5, 4) if form is EMBEDDINGS else scores_of(make_operands(5, 4))
    groups = torch.tensor([0, 1, 2, 3, 0], device=device)
    options = {"objective": objective, "online": online, "clamp_weight": clamp_weight, "reduction": "none"}
    if form is EMBEDDINGS:
        options["similarity"] = similarity
    leaves = [operand.to(device).requires_grad_() for operand in operands]
    assert torch.autograd.gradcheck(lambda *given: form.fused(*given, groups, **options), leaves)


@pytest.mark.parametrize(("objective", "online"), list(itertools.product(OBJECTIVES, ONLINE)))
@pytest.mark.parametrize("form", [EMBEDDINGS, SCORES], ids=["embeddings", "scores"])
def test_reductions(form, objective, online, device):
    operands = make_operands(12, 6, device=device)
    operands = operands if form is EMBEDDINGS else scores_of(operands)
    each = form.fused(*operands, objective=objective, online=online, reduction="none")
    for reduction, expected in (("sum", each.sum()), ("mean", each.mean())):
        loss = form.fused(*operands, objective=objective, online=online, reduction=reduction)
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_no_pairs(reduction, device):
    result = run(adaptive_quintuplet_loss, make_operands(0, 8, device=device), reduction=reduction)
    assert result[0].shape == ((0,) if reduction == "none" else ())
    assert result[0].sum() == 0
    assert all(grad.shape == (0, 8) for grad in result[1:])


@pytest.mark.parametrize("online", ONLINE)
@pytest.mark.parametrize("count", [1, 6])
def test_one_pair_and_one_group_have_no_online_part(online, count, device):
    operands = make_operands(count, 8, device=device)
    groups = torch.zeros(count, dtype=torch.int32, device=device)
    assert adaptive_quintuplet_loss(*operands[:2], group_ids=groups, objective="online_triplet", online=online) == 0


def test_group_ids_of_any_integer_dtype(device):
    operands = make_operands(30, 6, device=device)
    groups = torch.arange(30, device=device) // 4
    expected = adaptive_quintuplet_loss(*operands, groups)
    for dtype in (torch.int32, torch.int16, torch.int8, torch.uint8):
        assert torch.equal(adaptive_quintuplet_loss(*operands, groups.to(dtype)), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_go_to_the_lowest_index(dtype, device):
    image = torch.zeros(600, 4, dtype=dtype, device=device)
    image[:, 0] = 1  # every score is 1
    text = image.clone()
    for index in EMBEDDINGS.chosen([image, text], objective="online_triplet"):
        assert index.tolist() == [1] + [0] * 599
    text[[17, 400, 599], 0] = 2
    assert EMBEDDINGS.chosen([image, text], objective="online_triplet")[0].tolist() == [17] * 17 + [400] + [17] * 582


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize(("count", "width"), [(64, 100), (301, 33), (700, 16)])
def test_a_duplicate_of_the_positive_ties_with_it(dtype, similarity, count, width, device):
    """Though its score comes from another summation order than p: never semi-hard, and no hinge at margin 0."""
    image, text = make_operands(count, width, dtype=dtype, device=device)[:2]
    options = {"objective": "online_triplet", "similarity": similarity}
    text[1::2] = text[: count - 1 : 2]
    text_index, _ = EMBEDDINGS.chosen([image, text], online="semihard", **options)
    twins = torch.arange(count, device=device) ^ 1
    assert not (text_index == twins).any()
    image[1::2] = image[: count - 1 : 2]  # now both negatives of a pair equal its positive
    image, text = (rows[: count // 2 * 2] for rows in (image, text))
    for online in ("hardest", "all"):
        value = adaptive_quintuplet_loss(image, text, online=online, margin_online=0.0, **options)
        truth = aoq_ext.reference.adaptive_quintuplet_loss(
            image.cpu().double(), text.cpu().double(), online=online, margin_online=0.0, **options
        )
        torch.testing.assert_close(value.cpu().double(), truth, rtol=1e-5, atol=1e-5)


def test_one_candidate_equals_none_bitwise(device):
    operands = make_operands(33, 12, dtype=torch.float32, device=device)
    with_axis = operands[:2] + [operand[:, None] for operand in operands[2:]]
    results = (run(adaptive_quintuplet_loss, given) for given in (operands, with_axis))
    for plain, candidate in zip(*results):
        assert torch.equal(plain, candidate.reshape(plain.shape))


def test_cosine_of_a_zero_vector_is_zero_with_zero_gradient(device):
    operands = make_operands(6, 5, device=device)
    for operand in operands:
        operand[2] = 0
    check_forward(EMBEDDINGS, operands, similarity="cosine")
    check_gradients(EMBEDDINGS, operands, similarity="cosine")
    assert all((grad[2] == 0).all() for grad in run(adaptive_quintuplet_loss, operands, similarity="cosine")[1:])


def test_an_expanded_operand_and_an_expanded_gradient(device):
    """One hard image for all anchors; and the sum of the losses hands every anchor the same 1."""
    operands = make_operands(9, 4, device=device)
    shared = operands[2][:1].clone().requires_grad_()
    loss = adaptive_quintuplet_loss(*operands[:2], shared.expand(9, 4), *operands[3:], reduction="none")
    loss.sum().backward()
    separate = operands[2][:1].repeat(9, 1).requires_grad_()
    adaptive_quintuplet_loss(*operands[:2], separate, *operands[3:]).backward()
    torch.testing.assert_close(shared.grad, separate.grad.sum(0, keepdim=True))


@pytest.mark.only_on("cpu", reason="the number of threads is the CPU's")
@pytest.mark.parametrize("online", ONLINE)
def test_any_number_of_threads(online, device):
    operands, groups = make_operands(900, 32, dtype=torch.float32), torch.arange(900) // 2
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            check_same_every_time(EMBEDDINGS, operands, groups, online=online)
            results.append(run(adaptive_quintuplet_loss, operands, groups, online=online))
    finally:
        torch.set_num_threads(threads)
    for value, expected in zip(*results):
        assert error(value, expected) <= 1e-6


def test_module_and_function_agree_and_print_their_options(device):
    operands = make_operands(8, 6, device=device)
    options = {"alpha": 0.5, "online": "all", "reduction": "mean"}
    module = aoq_ext.AdaptiveQuintupletLoss(**options)
    assert torch.equal(module(*operands), adaptive_quintuplet_loss(*operands, **options))
    assert "alpha=0.5" in repr(module)
    assert "online='all'" in repr(module)


def test_score_module_equals_the_embedding_module(device):
    operands = make_operands(9, 5, device=device)
    expected = aoq_ext.AdaptiveQuintupletLoss()(*operands)
    torch.testing.assert_close(aoq_ext.AdaptiveQuintupletScoreLoss()(*scores_of(operands)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1024, 4096])
def test_long_rows_stay_accurate(device, dtype, width):
    """Rows of one sign, the worst for a sum: the products of a score are not added one after another."""
    operands = [torch.rand(96, width, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    operands = [torch.nn.functional.normalize(rows, dim=1).to(device, dtype) for rows in operands]
    options = {"objective": "online_triplet", "reduction": "none"}
    exact = aoq_ext.reference.adaptive_quintuplet_loss(*(rows.double() for rows in operands), **options)
    eager = aoq_ext.reference.adaptive_quintuplet_loss(*operands, **options)
    ours = aoq_ext.functional.adaptive_quintuplet_loss(*operands, **options)
    assert (ours - exact).abs().mean() <= 2 * (eager - exact).abs().mean() + 1e-7
