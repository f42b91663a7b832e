"""The operators as citizens of torch: opcheck, compile, autograd, autocast, memory."""

import copy
import itertools
import pickle
import subprocess
import sys
import textwrap
import threading

import pytest
import torch
import torch._dynamo.testing

import aoq_ext
from aoq_ext import functional
from aoq_ext._options import LossOptions
from tests.losses import OBJECTIVES, ONLINE, make_operands, scores_of


def forward_arguments(operands, group_ids, **options):
    opt = LossOptions.create(**options)
    used = (2, 4, 6, 6)[opt.objective]
    return (*operands[:used], *[None] * (6 - used), group_ids, *opt.lists())


@pytest.mark.parametrize(("rung", "mode"), list(itertools.product(range(4), range(3))))
def test_opcheck(rung, mode, device):
    objective, online = OBJECTIVES[rung], ONLINE[mode]
    dtype = (torch.float32, torch.float64, torch.bfloat16)[(rung + mode) % 3]
    operands = [operand.requires_grad_() for operand in make_operands(6, 4, 2, dtype=dtype, device=device)]
    reduction = "none" if online == "all" else "mean"
    groups = torch.arange(6, device=device) // 2
    arguments = forward_arguments(operands, groups, objective=objective, online=online, reduction=reduction)
    torch.library.opcheck(torch.ops.aoq.quintuplet_forward, arguments)
    with torch.no_grad():
        loss, *saved = torch.ops.aoq.quintuplet_forward(*arguments)
        *tensors, numbers, codes = arguments
        lists = numbers, codes
        backward = (torch.ones_like(loss), *tensors, *saved, *lists, 0b101011)
        torch.library.opcheck(torch.ops.aoq.quintuplet_backward, [
            value.detach() if isinstance(value, torch.Tensor) else value for value in backward
        ])  # fmt: skip


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_fullgraph(dynamic, device):
    loss_fn = aoq_ext.AdaptiveQuintupletLoss(online="all")
    compiled = torch.compile(lambda *leaves: loss_fn(*leaves) * 2, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for count in (6, 9):
        results = []
        for function in (compiled, lambda *leaves: loss_fn(*leaves) * 2):
            leaves = [operand.requires_grad_() for operand in make_operands(count, 5, device=device)]
            loss = function(*leaves)
            loss.backward()
            results.append([loss.detach(), *(leaf.grad for leaf in leaves)])
        assert all(torch.equal(a, b) for a, b in zip(*results))


def test_compile_with_inductor(device):
    loss_fn = aoq_ext.AdaptiveQuintupletLoss()
    operands = make_operands(8, 6, dtype=torch.float32, device=device)
    compiled = torch.compile(lambda *leaves: loss_fn(*(leaf * 0.5 for leaf in leaves)), fullgraph=True)
    torch.testing.assert_close(compiled(*operands), loss_fn(*(operand * 0.5 for operand in operands)))


def test_double_backward_is_refused(device):
    leaves = [operand.requires_grad_() for operand in make_operands(4, 3, device=device)]
    loss = functional.adaptive_quintuplet_loss(*leaves)
    grads = torch.autograd.grad(loss, leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        grads[0].sum().backward()


@pytest.mark.parametrize("wanted", [(0,), (1,), (2, 5), (0, 3, 4), range(6)])
@pytest.mark.parametrize("online", ONLINE)
def test_only_the_gradients_asked_for(wanted, online, device):
    operands = make_operands(12, 5, device=device)
    full = [operand.clone().requires_grad_() for operand in operands]
    functional.adaptive_quintuplet_loss(*full, online=online).backward()
    some = [operand.clone().requires_grad_(i in wanted) for i, operand in enumerate(operands)]
    functional.adaptive_quintuplet_loss(*some, online=online).backward()
    for i, (leaf, expected) in enumerate(zip(some, full)):
        assert (leaf.grad is not None) == (i in wanted)
        if i in wanted:
            assert torch.equal(leaf.grad, expected.grad)


def test_autocast_does_not_round_the_scores(device):
    operands = make_operands(30, 16, dtype=torch.float32, device=device)
    for form in (functional.adaptive_quintuplet_loss, aoq_ext.reference.adaptive_quintuplet_loss):
        expected = form(*operands)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            assert torch.equal(form(*operands), expected)


def test_meta_and_inference_mode(device):
    operands = make_operands(6, 4, dtype=torch.float32, device=device)
    meta = functional.adaptive_quintuplet_loss(*(operand.to("meta") for operand in operands), reduction="none")
    assert meta.shape == (6,)
    assert aoq_ext.hardest_negatives(operands[0].to("meta"), operands[1].to("meta")).text_index.shape == (6,)
    with torch.inference_mode():
        loss = functional.adaptive_quintuplet_loss(*[operand.clone() for operand in operands])
    assert torch.equal(loss, functional.adaptive_quintuplet_loss(*operands))


def test_deterministic_algorithms_are_accepted(device):
    try:
        torch.use_deterministic_algorithms(True)
        leaves = [operand.requires_grad_() for operand in make_operands(6, 4, device=device)]
        functional.adaptive_quintuplet_loss(*leaves).backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)


@pytest.mark.only_on("cpu", reason="the process's memory is measured")
def test_extra_memory_grows_with_b_not_with_its_square():
    """Peak memory of forward and backward, in a process of its own; 8000² scores alone would take 244 MiB."""
    program = """
        import resource, torch, aoq_ext
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        def step(count):
            rows = [torch.randn(count, 16).requires_grad_() for _ in range(6)]
            for online in ("hardest", "all"):
                aoq_ext.functional.adaptive_quintuplet_loss(*rows, online=online).backward()
        step(2048)
        before = peak()
        step(8000)
        print(peak() - before)
    """
    output = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True, timeout=300
    )
    assert float(output.stdout) < 60  # MiB


@pytest.mark.only_on("cuda", reason="the allocator's memory is measured")
@pytest.mark.parametrize("online", ["hardest", "all"])
def test_extra_memory_on_a_gpu_grows_with_b_not_with_its_square(online, device):
    leaves = [operand.requires_grad_() for operand in make_operands(12_000, 16, dtype=torch.float32, device=device)]
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    functional.adaptive_quintuplet_loss(*leaves, online=online).backward()
    assert torch.cuda.max_memory_allocated(device) - before < 12_000**2  # bytes: a quarter of the score matrix


def test_compile_does_not_recompile_for_each_batch_size(device):
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(aoq_ext.AdaptiveQuintupletLoss(), fullgraph=True, backend=counter)
    for count in (6, 9, 12, 15, 40):
        compiled(*make_operands(count, 5, device=device))
    assert counter.frame_count == 2  # one for the first size, one for every other


def test_export_with_a_dynamic_batch(device):
    loss_fn = aoq_ext.AdaptiveQuintupletLoss(online="all")
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(
        loss_fn, tuple(make_operands(6, 5, device=device)), dynamic_shapes=tuple([{0: batch}] * 6)
    )
    operands = make_operands(11, 5, seed=3, device=device)
    assert torch.equal(program.module()(*operands), loss_fn(*operands))


@pytest.mark.parametrize("transform", ["grad", "vjp", "jvp", "vmap"])
@pytest.mark.parametrize("form", ["embeddings", "scores"])
def test_function_transforms_are_refused_not_silently_wrong(transform, form, device):
    image, text = make_operands(4, 3, device=device)[:2]
    if form == "embeddings":
        loss = aoq_ext.AdaptiveQuintupletLoss(objective="online_triplet")
        operands = (image, text)
    else:
        loss = aoq_ext.AdaptiveQuintupletScoreLoss(objective="online_triplet")
        operands = (image @ text.T,)
    calls = {
        "grad": lambda: torch.func.grad(loss)(*operands),
        "vjp": lambda: torch.func.vjp(loss, *operands),
        "jvp": lambda: torch.func.jvp(loss, operands, operands),
        "vmap": lambda: torch.vmap(loss)(*(operand.expand(2, *operand.shape) for operand in operands)),
    }
    with pytest.raises(RuntimeError, match=r"do not support torch\.func transforms"):
        calls[transform]()


@pytest.mark.parametrize("module", [aoq_ext.AdaptiveQuintupletLoss, aoq_ext.AdaptiveQuintupletScoreLoss])
def test_pickle_deepcopy_and_state_dict(module):
    loss_fn = module(alpha=0.4, online="all", clamp_weight=True)
    for twin in (pickle.loads(pickle.dumps(loss_fn)), copy.deepcopy(loss_fn)):
        assert repr(twin) == repr(loss_fn)
    assert loss_fn.state_dict() == {}
    assert not list(loss_fn.parameters())


def test_many_threads_at_once(device):
    jobs = [make_operands(60 + 7 * n, 24, dtype=torch.float32, seed=n, device=device) for n in range(8)]

    def gradient(operands):
        leaves = [operand.clone().requires_grad_() for operand in operands]
        functional.adaptive_quintuplet_loss(*leaves, online="all").backward()
        return [leaf.grad for leaf in leaves]

    expected = [gradient(operands) for operands in jobs]
    results = [None] * len(jobs)

    def work(n):
        for _ in range(20):
            results[n] = gradient(jobs[n])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result, truth in zip(results, expected):
        for grad, exact in zip(result, truth):
            torch.testing.assert_close(grad, exact, rtol=1e-5, atol=1e-6)


def test_without_a_kernel_the_reference_runs_with_one_warning(monkeypatch, device):
    """What happens to tensors of a device that the library was not compiled for."""
    operands = make_operands(6, 4, device=device)
    expected = functional.adaptive_quintuplet_loss(*operands)
    monkeypatch.setattr(functional.calls, "has_kernel", lambda tensor: False)
    functional._warn_once.cache_clear()

    def run_repeatedly():
        for _ in range(3):
            torch.testing.assert_close(functional.adaptive_quintuplet_loss(*operands), expected)
            torch.testing.assert_close(functional.adaptive_quintuplet_score_loss(*scores_of(operands)), expected)

    with pytest.warns(UserWarning, match=rf"no compiled kernel for {device.type} tensors.*aoq doctor") as warned:
        run_repeatedly()
    assert len(warned) == 1
    compiled = torch.compile(aoq_ext.AdaptiveQuintupletLoss(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*operands), expected)
    functional._warn_once.cache_clear()
