"""Options that are set after construction: honoured and checked as if they had been given to it."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch

import aoq_ext
from aoq_ext.encoders import BFAN, SCAN, CrossAttention, Features

SET = {
    "margin_online": 0.9,
    "margin_offline": 0.4,
    "alpha": 0.7,
    "beta": 2.5,
    "objective": "offline_quintuplet",
    "online": "all",
    "similarity": "cosine",
    "reduction": "none",
    "detach_weight": True,
    "clamp_weight": True,
    "gather_distributed": True,
}
WRONG = {
    "margin_online": float("nan"),
    "margin_offline": "far",
    "alpha": 0.0,
    "beta": float("inf"),
    "objective": "triplet",
    "online": "hard",
    "similarity": 3,
    "reduction": "max",
    "detach_weight": 1,
    "clamp_weight": None,
    "gather_distributed": "yes",
}
LOSSES = (aoq_ext.AdaptiveQuintupletLoss, aoq_ext.AdaptiveQuintupletScoreLoss)
CASES = [
    pytest.param(make, name, id=f"{make.__name__}-{name}")
    for make in LOSSES
    for name in SET
    if (make, name) != (LOSSES[1], "similarity")
]


def operands(make: type) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    if make is aoq_ext.AdaptiveQuintupletLoss:
        return list(torch.randn(6, 7, 5, generator=generator) / 3)
    return [torch.randn(7, 7, generator=generator), *torch.randn(4, 7, generator=generator)]


def value_and_gradient(loss: Any) -> list[torch.Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in operands(type(getattr(loss, "_orig_mod", loss)))]
    value = loss(*leaves)
    return [value, *torch.autograd.grad(value.sum(), leaves, allow_unused=True, materialize_grads=True)]


def assert_same(loss: Any, model: Any) -> None:
    assert all(torch.equal(*pair) for pair in zip(value_and_gradient(loss), value_and_gradient(model), strict=True))


@pytest.mark.parametrize(("make", "name"), CASES)
def test_a_loss_honours_what_is_set(make: Any, name: str) -> None:
    loss, given = make(), make(**{name: SET[name]})
    assert getattr(loss, name) == getattr(make(), name) != SET[name]
    setattr(loss, name, SET[name])
    assert getattr(loss, name) == SET[name]
    assert repr(loss) == repr(given)
    assert_same(loss, given)
    for copied in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert getattr(copied, name) == SET[name]
        assert_same(copied, given)


@pytest.mark.parametrize(("make", "name"), CASES)
def test_a_loss_refuses_what_construction_refuses(make: Any, name: str) -> None:
    with pytest.raises((TypeError, ValueError)) as refused:
        make(**{name: WRONG[name]})
    loss = make(alpha=0.6)
    with pytest.raises(refused.type) as error:
        setattr(loss, name, WRONG[name])
    assert str(error.value) == str(refused.value)
    assert repr(loss) == repr(make(alpha=0.6))
    assert_same(loss, make(alpha=0.6))


@pytest.mark.parametrize("make", LOSSES)
def test_what_is_no_option_is_an_ordinary_attribute(make: Any) -> None:
    loss = make()
    loss.margin_onlin = 0.9
    assert loss.margin_onlin == 0.9
    with pytest.raises(AttributeError):
        _ = loss.margin_offlin
    assert_same(loss, make())
    assert hasattr(loss, "similarity") == (make is aoq_ext.AdaptiveQuintupletLoss)


@pytest.mark.parametrize("make", LOSSES)
def test_a_compiled_loss_honours_what_is_set(make: Any) -> None:
    torch._dynamo.reset()
    loss = make(online="all")
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert_same(compiled, make(online="all"))
    loss.online, loss.margin_online = "hardest", 0.9
    assert_same(compiled, make(margin_online=0.9))


ATTENTION = dict(
    direction="i2t", feature_norm="softmax", lambda_softmax=4.0, pooling="mean", lambda_lse=5.0, focal="equal"
)


def features(dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images, texts = torch.randn(3, 4, dim, generator=generator), torch.randn(2, 5, dim, generator=generator)
    return images, texts, torch.tensor([5, 3])


@pytest.mark.parametrize("name", ATTENTION)
def test_cross_attention_honours_what_is_set(name: str) -> None:
    attention, given = CrossAttention(), CrossAttention(**{name: ATTENTION[name]})
    setattr(attention, name, ATTENTION[name])
    assert getattr(attention, name) == ATTENTION[name]
    assert repr(attention) == repr(given)
    assert torch.equal(attention(*features(8)), given(*features(8)))
    assert not torch.equal(attention(*features(8)), CrossAttention()(*features(8)))
    with pytest.raises(ValueError, match=f"{name}: expected"):
        setattr(attention, name, -1.0)
    assert torch.equal(attention(*features(8)), given(*features(8)))


@pytest.mark.parametrize(("make", "name", "value"), [(SCAN, "lambda_softmax", 1.0), (BFAN, "focal", "equal")])
def test_models_of_cross_attention_honour_what_is_set(make: Any, name: str, value: Any) -> None:
    model = make(9, image_dim=6, dim=8, word_dim=4)
    images, texts, lengths = features(8)
    arguments = Features(images), Features(texts, lengths)
    before = model.scores(*arguments)
    setattr(model, name, value)
    assert getattr(model, name) == getattr(model.attention, name) == value
    assert not torch.equal(model.scores(*arguments), before)
    assert torch.equal(model.scores(*arguments), copy.deepcopy(model).scores(*arguments))


def test_a_sampler_honours_what_is_set() -> None:
    lists = torch.tensor([[2, 3], [0, 1]]), torch.tensor([[1, -1], [1, -1], [0, -1], [0, -1]])
    sampler = aoq_ext.OfflineNegativeSampler(*lists, torch.tensor([0, 0, 1, 1]))

    def drawn() -> set[int]:
        pair = torch.tensor([0]), torch.tensor([1])
        return {int(sampler.draw(*pair, step=step).hard_text) for step in range(50)}

    assert drawn() == {2, 3}
    sampler.top_texts = 1
    assert (sampler.top_texts, sampler.top_images) == (1, 60)
    assert drawn() == {2}
    for name in ("top_texts", "top_images"):
        with pytest.raises(ValueError, match=f"{name} must be from 1"):
            setattr(sampler, name, 0)
    assert (sampler.top_texts, sampler.top_images) == (1, 60)
    assert pickle.loads(pickle.dumps(sampler)).top_texts == 1


class Doubled(aoq_ext.AdaptiveQuintupletLoss):
    """A loss of a user's own."""

    def forward(self, *operands: Any) -> Any:
        return 2 * super().forward(*operands)


class Lenient(Doubled):
    def __init__(self, lenience: float) -> None:
        super().__init__(0.2 - lenience)


def test_a_loss_may_be_derived_from() -> None:
    image, text = operands(aoq_ext.AdaptiveQuintupletLoss)[:2]
    ours = Lenient(0.1)
    ours.objective = "online_triplet"
    model = aoq_ext.AdaptiveQuintupletLoss(0.1, objective="online_triplet")
    assert torch.equal(ours(image, text), 2 * model(image, text))
    assert repr(ours) == repr(model).replace("AdaptiveQuintupletLoss", "Lenient")
    assert inspect.signature(Doubled) == inspect.signature(aoq_ext.AdaptiveQuintupletLoss)
    assert list(inspect.signature(Lenient).parameters) == ["lenience"]


@pytest.mark.parametrize("make", [*LOSSES, Doubled])
def test_what_is_no_option_is_refused_with_the_name_of_the_loss(make: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{make.__name__}\(\) got an unexpected keyword argument 'margin'$"):
        make(margin=0.2)
    assert inspect.signature(make).parameters["margin_online"].annotation is float
