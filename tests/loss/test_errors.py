"""Bad input gets an error that names the argument, what was expected and what came.

Python checks the arguments, the same way for every device; the operators check again what could harm memory.
"""

import pytest
import torch

import aoq_ext
from aoq_ext import functional
from aoq_ext._options import LossOptions
from tests.losses import make_operands

ROWS = make_operands(4, 3, dtype=torch.float32)


def changed(position, value):
    return [value if i == position else operand for i, operand in enumerate(ROWS)]


@pytest.mark.parametrize(
    ("operands", "kind", "message"),
    [
        (changed(0, ROWS[0][0]), ValueError, r"image must have shape \(B, D\), got \(3,\)"),
        (changed(1, ROWS[1][:3]), ValueError, r"text must have the shape of image, \(4, 3\), got \(3, 3\)"),
        (changed(1, ROWS[1].double()), TypeError, "text must have the dtype of image, float32, got float64"),
        (changed(0, ROWS[0].long()), TypeError, "image must be float32, float16, bfloat16 or float64, got int64"),
        (changed(0, ROWS[0].to_sparse()), TypeError, "image must be a dense tensor, got layout torch.sparse_coo"),
        (changed(0, [1.0]), TypeError, "image must be a torch.Tensor, got list"),
        (changed(2, None), TypeError, "hard_image is required by objective='adaptive_quintuplet', got None"),
        (changed(5, None), TypeError, "hard_image_text is required"),
        (changed(3, ROWS[3][:, :2]), ValueError, r"hard_text must have shape \(B, D\) = \(4, 3\).*got \(4, 2\)"),
        (changed(3, ROWS[3][:, None][:, :0]), ValueError, r"hard_text must have at least one candidate"),
        (changed(4, ROWS[4][:, None]), ValueError, r"hard_text_image must have the shape of hard_text, \(4, 3\)"),
        (changed(2, ROWS[2].to("meta")), ValueError, "hard_image must be on the device of image, cpu, got meta"),
    ],
)
def test_embeddings(operands, kind, message):
    with pytest.raises(kind, match=message):
        functional.adaptive_quintuplet_loss(*operands)


@pytest.mark.parametrize(
    ("group_ids", "kind", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), ValueError, r"group_ids must have one id a pair, shape \(B,\), \(4,\)"),
        (torch.zeros(4), TypeError, "group_ids must be an integer tensor, got float32"),
        ([0, 0, 0, 0], TypeError, "group_ids must be a torch.Tensor, got list"),
    ],
)
def test_group_ids(group_ids, kind, message):
    with pytest.raises(kind, match=message):
        functional.adaptive_quintuplet_loss(*ROWS, group_ids)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"alpha": 0.0}, ValueError, "alpha must be greater than 0, got 0.0"),
        ({"alpha": 10**400}, ValueError, "alpha must be finite, got 1000"),
        ({"alpha": float("nan")}, ValueError, "alpha must be finite, got nan"),
        ({"margin_online": float("inf")}, ValueError, "margin_online must be finite, got inf"),
        ({"beta": "1.5"}, TypeError, "beta must be a float, got str"),
        ({"objective": "triplet"}, ValueError, "objective must be one of 'online_triplet', .*got 'triplet'"),
        ({"online": 0}, TypeError, "online must be a str, got int"),
        ({"similarity": "l2"}, ValueError, "similarity must be one of 'dot', 'cosine', 'order', got 'l2'"),
        ({"reduction": None}, TypeError, "reduction must be a str, got NoneType"),
        ({"detach_weight": 1}, TypeError, "detach_weight must be True or False, got int"),
    ],
)
def test_options(options, kind, message):
    with pytest.raises(kind, match=message):
        aoq_ext.AdaptiveQuintupletLoss(**options)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.zeros(3, 4), r"scores must be square, \(B, B\), got \(3, 4\)"),
        (torch.zeros(4, 4), r"hard_text_scores must have one score a pair, shape \(B,\), \(4,\), got \(3,\)"),
    ],
)
def test_scores(scores, message):
    with pytest.raises(ValueError, match=message):
        functional.adaptive_quintuplet_score_loss(scores, *[torch.zeros(3)] * 4)


def test_what_the_objective_does_not_use_is_not_looked_at():
    expected = functional.adaptive_quintuplet_loss(*ROWS[:2], objective="online_triplet")
    given = functional.adaptive_quintuplet_loss(*ROWS[:2], "anything", torch.zeros(1), objective="online_triplet")
    assert torch.equal(given, expected)


def test_the_operators_refuse_what_would_not_be_memory_safe(device):
    rows = [operand.to(device) for operand in ROWS]
    options = LossOptions().lists()
    with pytest.raises(RuntimeError, match="text must have the shape of image"):
        torch.ops.aoq.quintuplet_forward(rows[0], rows[1][:2], *rows[2:], None, *options)
    with pytest.raises(RuntimeError, match="hard_text is required"):
        torch.ops.aoq.quintuplet_forward(*rows[:3], None, None, None, None, *options)


@pytest.mark.only_on("cpu", reason="a GPU would have to be waited for")
def test_the_operators_refuse_indices_out_of_range():
    options = LossOptions().lists()
    out = torch.ops.aoq.quintuplet_forward(*ROWS, None, *options)
    wrong = torch.full_like(out[1], 99)
    with pytest.raises(RuntimeError, match="text_index is out of range"):
        torch.ops.aoq.quintuplet_backward(out[0], *ROWS, None, wrong, *out[2:], *options, 63)
    candidates = [ROWS[2][:, None].repeat(1, 5, 1), ROWS[3], ROWS[4], ROWS[5][:, None].repeat(1, 5, 1)]
    for value in (-1, 1, 4, 5):
        choice = torch.full((2, 4), value)
        with pytest.raises(RuntimeError, match="choice is out of range"):
            torch.ops.aoq.quintuplet_backward(
                out[0], *ROWS[:2], *candidates, None, *out[1:3], choice, out[4], *options, 63
            )


@pytest.mark.parametrize("operands", [changed(2, ROWS[2][:1]), changed(2, None), changed(1, ROWS[1].double())])
def test_the_reference_refuses_the_same(operands):
    messages = []
    for form in (functional.adaptive_quintuplet_loss, aoq_ext.reference.adaptive_quintuplet_loss):
        with pytest.raises((TypeError, ValueError)) as caught:
            form(*operands)
        messages.append((type(caught.value), str(caught.value)))
    assert messages[0] == messages[1]
    with pytest.raises(TypeError, match="similarity"):
        aoq_ext.reference.adaptive_quintuplet_score_loss(ROWS[0] @ ROWS[1].T, similarity="cosine")
