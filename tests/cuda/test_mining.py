"""Mining on a GPU: what the operator finds is what plain PyTorch finds on the CPU, to the bit; streams and memory.

Run with ``pytest --device cuda``. The kernels' own tests are in simt/test_mining.py, for the emulator.
"""

import itertools
import threading

import pytest
import torch

from aoq_ext.mining import plain
from aoq_ext.mining.keys import no_keys, unpack
from aoq_ext.mining.side import Ragged, Side
from aoq_ext.mining.staging import staged_blocks
from aoq_ext.mining.tile import has_kernel, mine_tile

pytestmark = pytest.mark.only_on("cuda", reason="the mining kernels and a GPU's streams and memory")

CHOOSE, PLAIN, FILTER = 0, 1, 2
EVERY_ARITHMETIC = [
    (torch.float32, PLAIN), (torch.float32, FILTER), (torch.bfloat16, CHOOSE), (torch.float16, CHOOSE),
]  # fmt: skip


def unit_rows(count, width, dtype=torch.bfloat16, seed=0, device="cpu"):
    rows = torch.randn(count, width, generator=torch.Generator(device).manual_seed(seed), device=device)
    return torch.nn.functional.normalize(rows, dim=1).to(dtype)


def clustered(count, width, dtype, seed):
    """Rows around 50 centres: scores from near 0 to near 1, as trained embeddings have them."""
    centres = torch.randn(50, width, generator=torch.Generator().manual_seed(99))
    noise = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    rows = centres[torch.arange(count) * 7 % 50] + noise
    return torch.nn.functional.normalize(rows, dim=1).to(dtype)


def to_device(side, device):
    def there(value):
        return None if value is None else value.to(device)

    labels = None if side.labels is None else Ragged(side.labels.values.to(device), side.labels.offsets.to(device))
    return Side(side.rows.to(device), side.first, there(side.ids), labels, there(side.caps))


def operator(anchors, candidates, anchor_keys, candidate_keys, arithmetic=CHOOSE, panel=0):
    labels = [(None, None) if s.labels is None else (s.labels.values, s.labels.offsets) for s in (anchors, candidates)]
    found = torch.ops.aoq.mine_tile(
        anchors.rows, candidates.rows, anchor_keys, candidate_keys, anchors.first, candidates.first, anchors.ids,
        candidates.ids, *labels[0], *labels[1], anchors.caps, candidates.caps, 0.0, arithmetic, panel,
    )  # fmt: skip
    return found[0], None if candidate_keys is None else found[1]


def check(device, anchors, candidates, k, candidate_k=None, before=None, **options):
    """The lists on the device, which equal those of plain PyTorch on the CPU."""
    keys = before or (no_keys(len(anchors), k), None if candidate_k is None else no_keys(len(candidates), candidate_k))
    expected = plain.mine_tile(anchors, candidates, *keys)
    there = [None if one is None else one.to(device) for one in keys]
    got = operator(to_device(anchors, device), to_device(candidates, device), *there, **options)
    assert torch.equal(got[0].cpu(), expected[0])
    assert (got[1] is None) == (expected[1] is None)
    assert got[1] is None or torch.equal(got[1].cpu(), expected[1])
    return got


@pytest.mark.parametrize(("dtype", "arithmetic"), EVERY_ARITHMETIC)
@pytest.mark.parametrize(("n", "m", "width"), [(1, 1, 1), (33, 70, 24), (129, 700, 37), (2000, 1500, 64)])
def test_sizes(n, m, width, dtype, arithmetic, device):
    sides = Side(unit_rows(n, width, dtype), 5), Side(unit_rows(m, width, dtype, 1), 9)
    check(device, *sides, 7, 5, arithmetic=arithmetic)


@pytest.mark.parametrize("k", [1, 100, 2000, 4096, 8192])
def test_lists_of_any_length(k, device):
    check(device, Side(clustered(40, 64, torch.bfloat16, 0)), Side(clustered(10_000, 64, torch.bfloat16, 1)), k, 30)


def test_threads_with_lists_of_different_lengths(device):
    """Each launch of the merge takes the shared memory that its own lists need."""
    sides = [to_device(Side(clustered(count, 64, torch.bfloat16, count)), device) for count in (20, 10_000)]
    lengths = (8192, 7000, 300, 6000)
    expected = {k: operator(*sides, no_keys(20, k).to(device), None)[0] for k in lengths}
    wrong = []

    def work(k):
        with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)):
            found = [operator(*sides, no_keys(20, k).to(device), None)[0] for _ in range(100)]
            wrong.extend(k for keys in found if not torch.equal(keys, expected[k]))

    torch.cuda.synchronize(device)
    threads = [threading.Thread(target=work, args=(k,)) for k in lengths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("stray", ["anchor_keys", "candidate_keys", "anchor_ids", "candidate_ids", "anchor_caps"])
def test_an_input_on_another_device_is_refused(stray, device):
    """A kernel that read it would follow a pointer of the host."""
    rows = unit_rows(5, 8, device=device)
    arguments = {
        "anchors": rows, "candidates": rows, "anchor_keys": no_keys(5, 3), "candidate_keys": no_keys(5, 3),
        "anchor_ids": torch.arange(5), "candidate_ids": torch.arange(5), "anchor_caps": torch.ones(5),
    }  # fmt: skip
    given = {name: value if name == stray else value.to(device) for name, value in arguments.items()}
    empty = dict.fromkeys(("anchor_labels", "anchor_offsets", "candidate_labels", "candidate_offsets"))
    with pytest.raises(RuntimeError, match=f"{stray} must be on the device of anchors"):
        torch.ops.aoq.mine_tile(**given, **empty, first_anchor=0, first_candidate=0, candidate_caps=None)


def test_lists_that_are_too_long_are_refused_or_mined_plainly(device):
    anchors, candidates = Side(unit_rows(3, 8, device=device)), Side(unit_rows(9, 8, device=device))
    with pytest.raises(RuntimeError, match="at most 8192"):
        operator(anchors, candidates, no_keys(3, 9000, device), None)
    assert has_kernel(device, torch.bfloat16, 8192) and not has_kernel(device, torch.bfloat16, 9000)
    assert (mine_tile(anchors, candidates, no_keys(3, 9000, device))[0][:, 9:] == no_keys(1, 1, device)).all()


@pytest.mark.parametrize(("dtype", "arithmetic"), EVERY_ARITHMETIC)
@pytest.mark.parametrize("panel", [0, 300])
def test_sampled_limits_and_blocks(panel, dtype, arithmetic, device):
    sides = Side(clustered(3000, 256, dtype, 0)), Side(clustered(20_000, 256, dtype, 1))
    check(device, *sides, 200, 20, arithmetic=arithmetic, panel=panel)


@pytest.mark.parametrize("known", ["ids", "labels", "caps", "everything"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rules(known, dtype, device):
    sides = []
    for count, seed in ((1500, 0), (5000, 1)):
        rows = clustered(count, 64, dtype, seed)
        generator = torch.Generator().manual_seed(seed)
        counts = torch.randint(0, 4, (count,), generator=generator)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
        # Distinct and ascending within a row.
        values = torch.randint(0, 9, (int(counts.sum()),), generator=generator)
        values += 10 * (torch.arange(len(values)) - torch.repeat_interleave(offsets[:-1], counts))
        caps = torch.rand(count, generator=generator) * 0.5
        caps[::9] = -torch.inf
        everything = known == "everything"
        sides.append(
            Side(
                rows,
                ids=torch.arange(count) % 50 if everything or known == "ids" else None,
                labels=Ragged(values, offsets) if everything or known == "labels" else None,
                caps=caps if everything or known == "caps" else None,
            )
        )
    check(device, *sides, 60, 25)


TIES = {
    "all equal": lambda rows: rows[:1].expand_as(rows).contiguous(),
    "three kinds": lambda rows: rows[torch.arange(len(rows)) % 3],
    "near": lambda rows: rows[:1] + torch.randn(rows.shape, generator=torch.Generator().manual_seed(5)) * 1e-6,
    "ascending": lambda rows: rows[(rows @ rows[0]).argsort()],
    "descending": lambda rows: rows[(rows @ rows[0]).argsort(descending=True)],
}


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize(("dtype", "arithmetic"), EVERY_ARITHMETIC)
def test_ties_and_orders(ties, dtype, arithmetic, device):
    rows = TIES[ties](clustered(9000, 64, torch.float32, 1)).to(dtype)
    check(device, Side(clustered(300, 64, dtype, 0)), Side(rows), 50, 20, arithmetic=arithmetic)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sums_that_tensor_cores_cut_off(dtype, device):
    """Long rows of positive terms, scores closer than the filter can tell: the bound must hold on this GPU."""
    middle = unit_rows(1, 2048, torch.float32).abs()
    rows = middle + torch.randn(4000, 2048, generator=torch.Generator().manual_seed(3)) * 1e-4
    anchors = unit_rows(200, 2048, torch.float32, 7).abs()
    check(device, Side(anchors.to(dtype)), Side(rows.to(dtype)), 40, 20)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tiles_in_any_order_and_runs_at_any_time_give_the_same_bits(dtype, device):
    ids = torch.arange(9000)
    anchors = to_device(Side(clustered(2000, 64, dtype, 0), ids=ids[:2000] // 2), device)
    candidates = to_device(Side(clustered(9000, 64, dtype, 1), ids=ids // 5), device)
    whole = operator(anchors, candidates, no_keys(2000, 70, device), no_keys(9000, 30, device))
    for _ in range(20):
        again = operator(anchors, candidates, no_keys(2000, 70, device), no_keys(9000, 30, device))
        assert torch.equal(again[0], whole[0]) and torch.equal(again[1], whole[1])
    pieces = list(itertools.product([(0, 777), (777, 2000)], [(0, 4000), (4000, 4100), (4100, 9000)]))
    for order in ([0, 1, 2, 3, 4, 5], [5, 2, 3, 0, 4, 1]):
        rows, columns = no_keys(2000, 70, device), no_keys(9000, 30, device)
        for (top, bottom), (left, right) in (pieces[number] for number in order):
            part = anchors.part(top, bottom), candidates.part(left, right)
            rows[top:bottom], columns[left:right] = operator(*part, rows[top:bottom], columns[left:right])
        assert torch.equal(rows, whole[0]) and torch.equal(columns, whole[1])


def test_rows_of_any_stride_and_alignment(device):
    wide = unit_rows(700, 90, torch.bfloat16, device=device)
    anchors, candidates = Side(wide[:200, 3:40]), Side(wide[200:, 1:75:2])
    expected = plain.mine_tile(
        to_device(anchors, "cpu"), to_device(candidates, "cpu"), no_keys(200, 9), no_keys(500, 4)
    )
    got = operator(anchors, candidates, no_keys(200, 9, device), no_keys(500, 4, device))
    assert torch.equal(got[0].cpu(), expected[0]) and torch.equal(got[1].cpu(), expected[1])


def test_another_stream_is_waited_for_and_used(device):
    """Rows that a slow kernel of the current stream is still to write."""
    anchors, candidates = (unit_rows(count, 64, device=device, seed=count) for count in (500, 3000))
    expected = operator(Side(anchors), Side(candidates), no_keys(500, 30, device), no_keys(3000, 9, device))
    torch.cuda.synchronize(device)
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        late = [torch.zeros_like(rows) for rows in (anchors, candidates)]
        torch.cuda._sleep(50_000_000)
        late = [zero + rows for zero, rows in zip(late, (anchors, candidates))]
        got = operator(*map(Side, late), no_keys(500, 30, device), no_keys(3000, 9, device))
    stream.synchronize()
    assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])


def test_more_pairs_than_an_int_counts(device):
    """3.6·10⁹ pairs; some lists, among them the last ones, against a product in float64."""
    count, k = 60_000, 50
    anchors, candidates = (unit_rows(count, 64, seed=seed, device=device) for seed in (0, 1))
    sides = (
        Side(anchors, ids=torch.arange(count, device=device)),
        Side(candidates, ids=torch.arange(count, device=device)),
    )
    rows, columns = operator(*sides, no_keys(count, k, device), no_keys(count, 10, device))
    some = torch.tensor([0, 1, 31_111, count - 2, count - 1], device=device)
    for lists, left, right in ((rows, anchors, candidates), (columns, candidates, anchors)):
        indices, scores = unpack(lists[some])
        exact = left[some].double() @ right.double().T
        exact[torch.arange(5), some] = -torch.inf
        assert not (indices == some[:, None]).any()
        torch.testing.assert_close(scores.double(), exact.gather(1, indices), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(scores.double(), exact.topk(scores.shape[1]).values, rtol=1e-6, atol=1e-9)


def test_memory_beyond_the_lists_is_bounded(device):
    """2.4·10⁹ pairs: 2 GiB of workspace, and a few dozen bytes a row."""
    anchors, candidates = Side(unit_rows(40_000, 64, device=device)), Side(unit_rows(60_000, 64, seed=1, device=device))
    keys = no_keys(40_000, 1000, device), no_keys(60_000, 500, device)
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    found = operator(anchors, candidates, *keys)
    torch.cuda.synchronize(device)
    extra = torch.cuda.max_memory_allocated(device) - before - sum(lists.nbytes for lists in found)
    assert extra <= 2 * 2**30 + 64 * 100_000 + 2**20


class Rows:
    """Rows of host memory."""

    def __init__(self, rows):
        self.all = rows

    shape = property(lambda self: tuple(self.all.shape))
    dtype = property(lambda self: self.all.dtype)

    def rows(self, start, stop):
        if stop > len(self.all):
            raise OSError("cannot be read")
        return self.all[start:stop]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_staged_blocks_wait_for_their_copy_and_for_their_use(dtype, device):
    """Each block is used late, by a kernel that sleeps first: nothing may overwrite it before."""
    source = Rows(torch.arange(40_000 * 64).reshape(-1, 64).remainder(251).to(dtype))
    ranges = [(start, min(start + 3000, 40_000)) for start in range(0, 40_000, 3000)]
    sums = []
    for block in staged_blocks(source, ranges, device):
        torch.cuda._sleep(3_000_000)
        sums.append(block.double().sum())
    expected = [source.all[start:stop].double().sum() for start, stop in ranges]
    assert [total.item() for total in sums] == [total.item() for total in expected]


def test_staging_stops_early_and_reports_errors(device):
    source = Rows(torch.zeros(10, 4))
    blocks = staged_blocks(source, [(0, 4), (4, 8), (8, 10)], device)
    assert next(blocks).device.type == "cuda"
    blocks.close()
    blocks = staged_blocks(source, [(0, 4), (4, 12)], device)
    next(blocks)
    with pytest.raises(OSError, match="cannot be read"):
        next(blocks)


def test_capture_is_refused(device):
    """The operator asks the device which lists to mine again; a graph cannot."""
    sides = Side(unit_rows(20, 8, device=device)), Side(unit_rows(30, 8, device=device))
    operator(*sides, no_keys(20, 3, device), None)
    with pytest.raises(RuntimeError, match="graph"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        operator(*sides, no_keys(20, 3, device), None)
