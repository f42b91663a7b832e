"""The emulator itself: every primitive does what CUDA says, and every planted fault is found."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import simt
from tests.simt.build import build, environment, library_path, prefix

pytestmark = pytest.mark.skipif(
    os.environ.get("AOQ_SIMT_FLAVOUR", "plain") != "plain", reason="these tests choose the flavour themselves"
)

SEEDS = range(20)
BLOCKS, BLOCK = 5, 64
VALUES = np.arange(BLOCKS * BLOCK, dtype=np.float32)  # their sums are exact in any order
TILES = np.random.default_rng(0).standard_normal((6, 128)).astype(np.float32)


@pytest.fixture(scope="module")
def selftest():
    return simt.load("selftest")


@pytest.fixture(scope="module")
def faults():
    return simt.load("faults")


def grid_sum(module, name, seed, **options):
    ticket = np.zeros(1, np.uint32)
    return module.run(name, seed=seed, values=VALUES, ticket=ticket, **options)["total"][0]


def test_lanes_exchange_values(selftest):
    values = np.random.default_rng(1).standard_normal(32).astype(np.float32)
    lanes = np.arange(32)
    for seed in SEEDS:
        out = selftest.run("lane_exchange", seed=seed, values=values)
        told = out["results"]
        np.testing.assert_array_equal(told[0], np.full(32, values[5]))
        np.testing.assert_array_equal(told[1], values[lanes ^ 3])
        np.testing.assert_array_equal(told[2], values[np.where(lanes + 4 < 32, lanes + 4, lanes)])
        np.testing.assert_array_equal(told[3], np.full(32, (values > 0).sum()))
        np.testing.assert_array_equal(told[4], np.full(32, np.argmax(values > 0)))
        np.testing.assert_array_equal(told[5], np.where(lanes % 2 == 0, values[lanes ^ 2], 0))
        np.testing.assert_array_equal(out["wide"], np.left_shift(np.int64(1), (lanes + 1) % 32))


def test_atomics_lose_nothing(selftest):
    words = np.random.default_rng(2).integers(0, 2**32, 8 * 64, dtype=np.uint32)
    for seed in SEEDS:
        out = selftest.run(
            "histogram", seed=seed, words=words, counts=np.zeros(7, np.uint32), greatest=np.zeros(1, np.uint64)
        )
        np.testing.assert_array_equal(out["counts"], np.bincount(words % 7, minlength=7))
        assert out["greatest"][0] == words.max()


def as_operand(values, dtype):
    """The values as the kernel stores them, and what they then are worth."""
    if dtype == "half":
        stored = values.astype(np.float16)
        return stored.view(np.uint16), stored.astype(np.float64)
    kept = 0xFFFF0000 if dtype == "bfloat16" else 0xFFFFE000  # the tensor core drops the rest of a tf32 operand
    bits = values.view(np.uint32)
    worth = (bits & np.uint32(kept)).view(np.float32).astype(np.float64)
    return ((bits >> 16).astype(np.uint16), worth) if dtype == "bfloat16" else (values, worth)


@pytest.mark.parametrize("dtype", ["bfloat16", "half", "tf32"])
@pytest.mark.parametrize("row_bytes", [16, 32, 48, 160])
def test_matrix_products(selftest, dtype, row_bytes):
    rng = np.random.default_rng(row_bytes)
    columns = row_bytes // (4 if dtype == "tf32" else 2)
    a, a_worth = as_operand(rng.standard_normal((16, columns)).astype(np.float32), dtype)
    b, b_worth = as_operand(rng.standard_normal((8, columns)).astype(np.float32), dtype)
    bytes_of = {"a": a.view(np.uint8).reshape(16, -1), "b": b.view(np.uint8).reshape(8, -1)}
    for seed in range(5):
        product = selftest.run(f"product_{dtype}", seed=seed, **bytes_of)["product"]
        # One rounding to float32 for each of at most 5 steps.
        np.testing.assert_allclose(product, a_worth @ b_worth.T, rtol=0, atol=5 * 2**-24 * 40)


def test_conversions(selftest):
    halves = np.arange(2**16, dtype=np.uint16)
    rng = np.random.default_rng(3)
    values = rng.integers(0, 2**32, 2**16, dtype=np.uint32).view(np.float32)
    values[: 2**15] = (rng.standard_normal(2**15) * 10.0 ** rng.uniform(-9, 6, 2**15)).astype(np.float32)
    midway = halves[:0x7C00].view(np.float16).astype(np.float32)
    values[-0x7BFF:] = (midway[1:] + midway[:-1]) / 2  # ties
    values[:6] = (np.nan, np.inf, -np.inf, 0.0, -0.0, np.nan)
    out = selftest.run("conversions", values=values, halves=halves)
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    np.testing.assert_array_equal(out["to_half"].view(np.float16), expected)
    np.testing.assert_array_equal(np.signbit(out["to_half"].view(np.float16))[3:5], [False, True])
    np.testing.assert_array_equal(out["from_half"], halves.view(np.float16).astype(np.float32))
    np.testing.assert_array_equal(out["greater"], np.maximum(values, np.roll(values, -1)))
    finite = np.isfinite(values) & (np.abs(values) < 1e38)
    tf32 = out["tf32"].view(np.float32)[finite].astype(np.float64)
    exact = values[finite].astype(np.float64)
    _, exponent = np.frexp(exact)
    unit = np.ldexp(1.0, np.maximum(exponent, -125) - 11)  # of the last of 11 bits; subnormals share the smallest
    np.testing.assert_array_equal(tf32, np.sign(exact) * np.floor(np.abs(exact) / unit + 0.5) * unit)


def test_the_same_seed_gives_the_same_schedule(faults):
    def trace(**options):
        grid_sum(faults, "sum", **options)
        return faults.last_report()

    traces = {trace(seed=seed) for seed in SEEDS}
    assert len(traces) == len(SEEDS)
    assert {trace(seed=seed) for seed in SEEDS} == traces
    assert trace(seed=0, resident_blocks=1) != trace(seed=0)


def test_sound_kernels_pass(faults):
    for seed in SEEDS:
        for resident in (1, 3, BLOCKS):
            assert grid_sum(faults, "sum", seed, resident_blocks=resident) == VALUES.sum()
        np.testing.assert_array_equal(faults.run("pipeline", seed=seed, values=TILES)["reversed"], TILES[:, ::-1])
        np.testing.assert_array_equal(faults.run("neighbours", seed=seed)["result"], (np.arange(32) + 1) % 32)


def test_no_blocks_no_launch(faults):
    out = faults.run("sum", values=np.zeros(0, np.float32), ticket=np.zeros(1, np.uint32))
    assert np.isnan(out["total"][0])  # outputs are poisoned


def test_a_missing_barrier_gives_wrong_results(faults):
    assert any(grid_sum(faults, "sum_without_barrier", seed) != VALUES.sum() for seed in SEEDS)


@pytest.mark.parametrize("fault", ["that_waits_for_too_little", "without_barrier_before", "without_barrier_after"])
def test_a_wrong_pipeline_gives_wrong_results(faults, fault):
    def is_right(seed):
        return np.array_equal(faults.run(f"pipeline_{fault}", seed=seed, values=TILES)["reversed"], TILES[:, ::-1])

    assert not all(is_right(seed) for seed in SEEDS)


# In the order of the cases of Misuse in bind_faults.cpp.
MISUSE = (
    "divergent barrier",
    "(exited, but thread .* waits for it at this barrier|cannot reach: they have exited)",
    "deadlock.*warp collective.*barrier",
    "lane [0-9]+ calls with mask 0000ffff, which lacks it",
    "shuffle from lane [0-9]+, which mask 0000ffff lacks",
    "(exited, but thread .* waits for it here|holds lane 3, which has exited)",
    "ldmatrix from byte .* not 16-byte aligned",
    "ldmatrix from byte 1024 of 1024 bytes",
    "asynchronous copy to byte .* not 16-byte aligned",
    "asynchronous copy from .* not 16-byte aligned",
    "stuck after 100000 switches",
)


@pytest.mark.parametrize("fault", range(len(MISUSE)))
def test_misuse_is_an_error(faults, fault):
    for seed in SEEDS:
        with pytest.raises(faults.Error, match=f"(?s)selftest::Misuse.*{MISUSE[fault]}"):
            faults.run("misuse", seed=seed, fault=fault, word=np.zeros(2, np.uint64), most_switches=100_000)
        # What was abandoned does not harm the next launch.
        assert grid_sum(faults, "sum", seed) == VALUES.sum()


def test_a_launch_takes_no_more_shared_memory_than_the_kernel_declares(faults):
    """The limit of a kernel is set from its declaration, the same for every launch."""
    with pytest.raises(RuntimeError, match="a launch with 1025 bytes of shared memory; the kernel declares 1024"):
        faults.run("more_shared_memory_than_declared")


def test_errors_name_the_place(faults):
    lines = Path(simt.__file__).with_name("bind_faults.cpp").read_text().splitlines()
    line = next(i for i, text in enumerate(lines, 1) if "ballot(true, kLowerHalf)" in text)
    with pytest.raises(faults.Error, match=rf"Misuse, block [01], thread \d+, \S*bind_faults.cpp:{line} "):
        faults.run("misuse", fault=3, word=np.zeros(2, np.uint64))


def test_wrong_arguments_are_named(selftest):
    with pytest.raises(KeyError, match="nothing_like_this"):
        selftest.run("nothing_like_this")
    with pytest.raises(ValueError, match="'values': expected an array"):
        selftest.run("conversions")
    with pytest.raises(ValueError, match="'values': expected items of 4 bytes, got 8"):
        selftest.run("lane_exchange", values=np.zeros(32))


SCRIPT = """
import sys, numpy as np
from tests import simt
module, name = simt.load("faults"), sys.argv[1]
for seed in range(3):
    arguments = {"values": np.ones((6, 128), np.float32)} if name.startswith("pipeline") else {}
    if name.startswith("sum"):
        arguments = {"values": np.ones(320, np.float32), "ticket": np.zeros(1, np.uint32)}
    if name == "misuse":
        arguments = {"fault": 0, "word": np.zeros(2, np.uint64)}
    module.run(name, seed=seed, **arguments)
print("no complaint")
"""


@pytest.fixture(scope="module")
def sanitized():
    def run(flavour, name):
        if not Path(library_path(f"lib{flavour}.so")).is_absolute():
            pytest.skip(f"the compiler comes without lib{flavour}.so")
        build("faults", flavour)
        variables = environment(flavour) | {"PYTHONPATH": str(Path(__file__).parents[2])}
        command = [*prefix(flavour), sys.executable, "-c", SCRIPT, name]
        result = subprocess.run(command, env=variables, capture_output=True, text=True)
        return result.returncode, result.stdout + result.stderr

    return run


@pytest.mark.parametrize("flavour", ["asan", "tsan"])
@pytest.mark.parametrize("name", ["sum", "pipeline", "neighbours"])
def test_sanitizers_pass_sound_kernels(sanitized, flavour, name):
    assert sanitized(flavour, name) == (0, "no complaint\n")


@pytest.mark.parametrize("flavour", ["asan", "tsan"])
def test_errors_come_through_the_sanitizers(sanitized, flavour):
    status, output = sanitized(flavour, "misuse")
    assert status == 1 and "Error: aoq::selftest::Misuse" in output and "Sanitizer" not in output, output


@pytest.mark.parametrize(
    ("flavour", "name", "complaint"),
    [
        ("asan", "sum_with_shared_overrun", "heap-buffer-overflow"),
        ("asan", "sum_with_global_overrun", "heap-buffer-overflow"),
        ("tsan", "sum_without_barrier", "data race"),
        ("tsan", "sum_without_fence", "data race"),
        ("tsan", "sum_with_early_fence", "data race"),
        ("tsan", "pipeline_without_barrier_before", "data race"),
        ("tsan", "pipeline_without_barrier_after", "data race"),
        ("tsan", "neighbours_without_sync", "data race"),
    ],
)
def test_sanitizers_find_faults(sanitized, flavour, name, complaint):
    status, output = sanitized(flavour, name)
    assert status != 0
    assert complaint in output and "bind_faults.cpp" in output, output
