"""The package's own matrix product, against float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from aoq_ext import _ops

# Below, at and beyond a panel of rows (12) or columns (32), 16 panels of rows, and the depth summed at once (1024).
SHAPES = [(1, 1, 1), (12, 1024, 32), (13, 33, 33), (11, 1025, 31), (193, 40, 65), (25, 2049, 7), (400, 17, 1)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def layouts(matrix: Tensor) -> list[Tensor]:
    """The same numbers by rows, by columns, as part of a larger matrix, and in no order that is dense."""
    rows, columns = matrix.shape
    inside = torch.full((rows, columns + 5), float("nan"))
    inside[:, 2 : columns + 2] = matrix
    sparse = torch.full((rows, 2 * columns), float("nan"))
    sparse[:, ::2] = matrix
    return [matrix, matrix.mT.contiguous().mT, inside[:, 2 : columns + 2], sparse[:, ::2]]


@pytest.mark.parametrize("shape", SHAPES)
def test_product_in_every_layout(shape: tuple[int, int, int]) -> None:
    rows, depth, columns = shape
    left, right, start = torch.randn(rows, depth), torch.randn(depth, columns), torch.randn(rows, columns)
    expected = left.double() @ right.double()
    sizes = left.double().abs() @ right.double().abs()  # what rounding errors are relative to
    for one, other in itertools.product(layouts(left), layouts(right)):
        assert ((_ops.matrix_product(one, other) - expected).abs() <= 1e-6 * sizes).all()
        total = torch.full((rows, columns + 3), 7.0)
        total[:, :columns] = start
        _ops.add_matrix_product_(total[:, :columns], one, other)
        assert ((total[:, :columns] - start - expected).abs() <= 1e-6 * (sizes + start.abs())).all()
        assert (total[:, columns:] == 7).all()


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0)])
def test_empty_product(shape: tuple[int, int, int]) -> None:
    rows, depth, columns = shape
    left, right, total = torch.ones(rows, depth), torch.ones(depth, columns), torch.ones(rows, columns)
    assert torch.equal(_ops.matrix_product(left, right), torch.zeros(rows, columns))
    _ops.add_matrix_product_(total, left, right)
    assert torch.equal(total, torch.ones(rows, columns))


def test_product_is_the_same_on_any_number_of_threads() -> None:
    left, right = torch.randn(500, 1100), torch.randn(1100, 70)
    found = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(_ops.matrix_product(left, right))
            if torch.equal(found[-1], left @ right):
                pytest.skip("this processor takes torch's product, which promises no order")
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_infinite_and_undefined_numbers_stay_in_their_row_and_column() -> None:
    left, right = torch.ones(15, 20), torch.ones(20, 40)
    left[14, 3], right[5, 39] = float("inf"), float("nan")
    product = _ops.matrix_product(left, right)
    assert (product[:14, :39] == 20).all() and (product[14, :39] == float("inf")).all() and product[:, 39].isnan().all()


def test_opcheck() -> None:
    left, right = torch.randn(13, 20), torch.randn(20, 33)
    torch.library.opcheck(torch.ops.aoq.matrix_product, (left, right))
    torch.library.opcheck(torch.ops.aoq.add_matrix_product_, (torch.zeros(13, 33), left, right))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(left=torch.ones(3, 4, dtype=torch.float64)), "left must be a float32 matrix"),
        (dict(right=torch.ones(4)), "right must be a float32 matrix"),
        (dict(right=torch.ones(5, 6)), "right must have 4 rows, as left has columns"),
        (dict(into=torch.ones(3, 5)), r"into must have shape \(3, 6\), and each row in one piece"),
        (dict(into=torch.ones(1, 6).expand(3, 6)), r"into must have shape \(3, 6\), and each row in one piece"),
        (dict(into=torch.ones(6, 3).mT), r"into must have shape \(3, 6\), and each row in one piece"),
    ],
)
def test_wrong_matrices_are_refused(change: dict[str, Tensor], message: str) -> None:
    tensors = {"into": torch.ones(3, 6), "left": torch.ones(3, 4), "right": torch.ones(4, 6), **change}
    with pytest.raises(RuntimeError, match=message):
        _ops.add_matrix_product_(**tensors)
    if "into" not in change:
        with pytest.raises(RuntimeError, match=message):
            _ops.matrix_product(tensors["left"], tensors["right"])
