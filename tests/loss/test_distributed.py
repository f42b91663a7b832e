"""Negatives from every rank: N processes give the loss and the gradients of one process on the concatenated batch."""

import itertools
import os
import time

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

import aoq_ext
from aoq_ext import functional, reference
from aoq_ext.distributed import merge_hardest
from tests.losses import OBJECTIVES, ONLINE, REDUCTIONS, SIMILARITIES, make_operands
from tests.processes import launch

SIZES = {2: (5, 8), 3: (4, 7, 2), 4: (3, 0, 6, 4)}  # uneven, one of them empty
TIMEOUT = 10  # seconds


def operands_of(rank, world, *arguments, **options):
    """All operands, and this rank's rows of them as leaves."""
    sizes = SIZES[world]
    first = sum(sizes[:rank])
    rows = slice(first, first + sizes[rank])
    everything = make_operands(sum(sizes), *arguments, **options)
    return everything, [operand[rows].clone().requires_grad_() for operand in everything], rows


def step(loss_fn, leaves, weight, *arguments, **options):
    """The loss, and the gradients of Σ weight · loss."""
    loss = loss_fn(*leaves, *arguments, **options)
    (loss * weight).sum().backward()
    return loss.detach(), [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]


def compare(got, expected, rows, reduction, **tolerance):
    loss, grads = got
    whole, whole_grads = expected
    torch.testing.assert_close(loss, whole[rows] if reduction == "none" else whole, **tolerance)
    for grad, whole_grad in zip(grads, whole_grads):
        torch.testing.assert_close(grad, whole_grad[rows], **tolerance)


def embeddings_of_every_option(rank, world):
    groups = torch.arange(sum(SIZES[world])) // 3 * 10**10
    for number, (objective, online, similarity) in enumerate(itertools.product(OBJECTIVES, ONLINE, SIMILARITIES)):
        options = {"objective": objective, "online": online, "similarity": similarity}
        options["reduction"] = REDUCTIONS[number % 3]
        options["margin_online"] = (0.2, 0.0)[number % 2]
        everything, leaves, rows = operands_of(rank, world, 6, candidates=number % 3, seed=number)
        group_ids = None if number % 2 else groups
        weight = torch.linspace(0.5, 1.5, len(groups), dtype=torch.float64) if number % 3 == 2 else torch.tensor(1.5)
        whole = [operand.requires_grad_() for operand in everything]
        expected = step(reference.adaptive_quintuplet_loss, whole, weight, group_ids, **options)
        own_groups = None if group_ids is None else group_ids[rows]
        own_weight = weight[rows] if weight.dim() else weight
        for loss_fn in (functional.adaptive_quintuplet_loss, reference.adaptive_quintuplet_loss):
            for leaf in leaves:
                leaf.grad = None
            got = step(loss_fn, leaves, own_weight, own_groups, gather_distributed=True, **options)
            compare(got, expected, rows, options["reduction"], rtol=1e-10, atol=1e-12)


def embeddings_in_low_precision(rank, world):
    """Against the fused loss of one process in the same dtype."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        everything, leaves, rows = operands_of(rank, world, 8, dtype=dtype)
        whole = [operand.requires_grad_() for operand in everything]
        weight = torch.tensor(1.0)
        expected = step(functional.adaptive_quintuplet_loss, whole, weight)
        got = step(aoq_ext.AdaptiveQuintupletLoss(gather_distributed=True), leaves, weight)
        compare(got, expected, rows, "sum", rtol=1e-6, atol=1e-6)
        assert [grad.dtype for grad in got[1]] == [dtype] * 6


def score_matrix(rank, world):
    for online, reduction in itertools.product(ONLINE, REDUCTIONS):
        everything, _, rows = operands_of(rank, world, 6)
        image, text = everything[:2]
        count = len(image)
        vectors = [(everything[2 + k] * text).sum(1) for k in range(4)]
        whole = [operand.clone().requires_grad_() for operand in (image @ text.T, *vectors)]
        leaves = [operand.detach()[rows].clone().requires_grad_() for operand in whole]
        weight = torch.linspace(0.5, 1.5, count, dtype=torch.float64) if reduction == "none" else torch.tensor(1.5)
        own_weight = weight[rows] if weight.dim() else weight
        groups = torch.arange(count) // 2
        options = {"online": online, "reduction": reduction}
        expected = step(reference.adaptive_quintuplet_score_loss, whole, weight, groups, **options)
        for loss_fn in (functional.adaptive_quintuplet_score_loss, reference.adaptive_quintuplet_score_loss):
            for leaf in leaves:
                leaf.grad = None
            got = step(loss_fn, leaves, own_weight, groups[rows], gather_distributed=True, **options)
            compare(got, expected, rows, reduction, rtol=1e-10, atol=1e-12)


def ties_across_ranks(rank, world):
    """Among equal scores the lowest index of the whole batch wins, whichever rank holds it; in both score widths."""
    for dtype in (torch.float32, torch.float64):
        keys = torch.tensor([[7, 7, 3, -(2**31)], [rank + 5, 9 - rank, 4 if rank == 0 else 2, -1]])
        if rank == 1:
            keys[0, 0] = 8
        merged = merge_hardest(keys.clone(), 64 if dtype == torch.float64 else 32)
        assert merged.tolist() == [[8, 7, 3, -(2**31)], [6, 9 - (world - 1), 2, -1]]


def only_one_tower(rank, world):
    everything, leaves, rows = operands_of(rank, world, 6)
    for frozen in (0, 1):
        whole = [operand.detach().requires_grad_(k != frozen) for k, operand in enumerate(everything)]
        own = [leaf.detach().requires_grad_(k != frozen) for k, leaf in enumerate(leaves)]
        functional.adaptive_quintuplet_loss(*whole).backward()
        functional.adaptive_quintuplet_loss(*own, gather_distributed=True).backward()
        assert own[frozen].grad is None
        torch.testing.assert_close(own[1 - frozen].grad, whole[1 - frozen].grad[rows])


def wrong_arguments(rank, world):
    """What one rank alone does wrong, every rank hears of; afterwards the group still works."""
    loss_fn = aoq_ext.AdaptiveQuintupletLoss(gather_distributed=True, objective="online_triplet")
    image = torch.randn(3, 4)
    with pytest.raises(ValueError if rank == 1 else RuntimeError, match="shape of image" if rank == 1 else "rank 1 "):
        loss_fn(image, torch.randn(3, 5) if rank == 1 else image)
    width = 5 if rank == 0 else 4
    with pytest.raises(ValueError, match="D must be the same on every rank"):
        loss_fn(torch.randn(3, width), torch.randn(3, width))
    other = aoq_ext.AdaptiveQuintupletLoss(
        gather_distributed=True, objective="online_triplet", margin_online=0.1 * (1 + rank)
    )
    with pytest.raises(ValueError, match="margin_online must be the same"):
        other(image, image)
    with pytest.raises(ValueError, match="requires_grad of the operands must be the same"):
        loss_fn(image.clone().requires_grad_(rank == 0), image)
    with pytest.raises(ValueError, match="requires_grad of the operands"), torch.set_grad_enabled(rank == 0):
        loss_fn(image.clone().requires_grad_(), image)
    scores = aoq_ext.AdaptiveQuintupletScoreLoss(gather_distributed=True, objective="online_triplet")
    with pytest.raises(ValueError, match="a column for every text of every rank"):
        scores(torch.randn(3, 3))
    assert loss_fn(image, image).isfinite()


def data_parallel(rank, world):
    """DDP averages: N times the loss trains as one process on the whole batch."""
    sizes = SIZES[world]
    generator = torch.Generator().manual_seed(3)
    everything = [torch.randn(sum(sizes), 7, generator=generator) for _ in range(6)]
    rows = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))

    class Towers(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.image, self.text = torch.nn.Linear(7, 5), torch.nn.Linear(7, 5)

        def forward(self, *inputs):
            towers = (self.image, self.text, self.image, self.text, self.image, self.text)
            return [torch.nn.functional.normalize(tower(x), dim=1) for tower, x in zip(towers, inputs)]

    for reduction in ("sum", "mean"):
        alone, spread = Towers(), DistributedDataParallel(Towers())
        loss_fn = aoq_ext.AdaptiveQuintupletLoss(reduction=reduction)
        gathered = aoq_ext.AdaptiveQuintupletLoss(reduction=reduction, gather_distributed=True)
        optimizers = [torch.optim.SGD(model.parameters(), lr=0.05) for model in (alone, spread)]
        for _ in range(3):
            loss = loss_fn(*alone(*everything))
            own = gathered(*spread(*(inputs[rows] for inputs in everything)))
            torch.testing.assert_close(own, loss, rtol=1e-5, atol=1e-6)
            loss.backward()
            (own * world).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        for one, other in zip(alone.parameters(), spread.parameters()):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def second_derivatives_are_refused(rank, world):
    """Rather than lacking what other ranks contribute."""
    for loss_fn in (functional.adaptive_quintuplet_loss, reference.adaptive_quintuplet_loss):
        _, leaves, _ = operands_of(rank, world, 6)
        loss = loss_fn(*leaves, gather_distributed=True)
        with pytest.raises(RuntimeError, match="no second derivative"):
            torch.autograd.grad(loss, leaves, create_graph=True)


def compiled_around_it(rank, world):
    """The graph breaks at the loss, and the rest is compiled."""
    _, leaves, _ = operands_of(rank, world, 6)
    loss_fn = aoq_ext.AdaptiveQuintupletLoss(gather_distributed=True)
    compiled = torch.compile(lambda *operands: loss_fn(*(operand * 1.5 for operand in operands)) + 1, backend="eager")
    expected = loss_fn(*(leaf * 1.5 for leaf in leaves)) + 1
    torch.testing.assert_close(compiled(*leaves), expected)


def group_ids_of_another_dtype(rank, world):
    _, leaves, rows = operands_of(rank, world, 6)
    groups = torch.arange(sum(SIZES[world]))[rows] // 2
    for loss_fn in (functional.adaptive_quintuplet_loss, reference.adaptive_quintuplet_loss):
        plain = loss_fn(*leaves, groups, gather_distributed=True)
        mixed = loss_fn(*leaves, groups.to((torch.int32, torch.int64)[rank % 2]), gather_distributed=True)
        assert torch.equal(plain, mixed)


def bitwise_repeatable(rank, world):
    for online in ONLINE:
        runs = []
        for _ in range(3):
            _, leaves, _ = operands_of(rank, world, 16, dtype=torch.float32)
            loss, grads = step(functional.adaptive_quintuplet_loss, leaves, torch.tensor(1.0), online=online,
                               gather_distributed=True)  # fmt: skip
            runs.append([loss, *grads])
        assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0]))


@pytest.mark.parametrize("world", list(SIZES))
def test_equals_one_process_on_the_concatenated_batch(world):
    launch(world, _all_of_it, world, timeout=TIMEOUT)


def _all_of_it(rank, world):
    """One start of the processes for everything that leaves them whole: starting them is what takes time."""
    embeddings_of_every_option(rank, world)
    embeddings_in_low_precision(rank, world)
    score_matrix(rank, world)
    ties_across_ranks(rank, world)
    only_one_tower(rank, world)
    bitwise_repeatable(rank, world)
    second_derivatives_are_refused(rank, world)
    compiled_around_it(rank, world)
    group_ids_of_another_dtype(rank, world)


def test_data_parallel():
    launch(2, data_parallel, 2, timeout=TIMEOUT)


def test_wrong_arguments_reach_every_rank():
    launch(3, wrong_arguments, 3, timeout=TIMEOUT)


def dying_rank(rank, folder, when):
    leaves = [operand.requires_grad_() for operand in make_operands(4, 6)]
    loss_fn = aoq_ext.AdaptiveQuintupletLoss(gather_distributed=True)
    start = time.monotonic()
    try:
        torch.distributed.barrier()  # nobody dies before all are connected
        if rank == 1 and when == "before forward":
            os._exit(0)
        loss = loss_fn(*leaves)
        if rank == 1 and when == "before backward":
            os._exit(0)
        if rank == 1 and when == "hangs":
            time.sleep(1.5 * TIMEOUT)
            os._exit(0)
        loss.backward()
    except RuntimeError:
        with open(f"{folder}/{rank}", "w") as file:
            file.write(str(time.monotonic() - start))
    os._exit(0)


@pytest.mark.parametrize("when", ["before forward", "before backward", "hangs"])
def test_a_rank_that_dies_fails_the_others_within_the_timeout(when, tmp_path):
    launch(3, dying_rank, tmp_path, when, timeout=TIMEOUT)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0", "2"]
    assert all(float(file.read_text()) < 1.5 * TIMEOUT for file in tmp_path.iterdir())


def test_one_process_needs_no_group(monkeypatch):
    operands = make_operands(6, 4)
    loss = functional.adaptive_quintuplet_loss(*operands, gather_distributed=True)
    assert torch.equal(loss, functional.adaptive_quintuplet_loss(*operands))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match=r"torch\.distributed is not initialised"):
        functional.adaptive_quintuplet_loss(*operands, gather_distributed=True)
