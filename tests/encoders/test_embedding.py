"""The bundled encoders."""

from __future__ import annotations

import pytest
import torch

from aoq_ext.encoders import ConvEncoder, GridBackbone, GRUEncoder, RandomView


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([[1, 7, 2, 0, 0], [1, 7, 8, 9, 2]]), torch.tensor([3, 5])


def test_embeddings_have_the_asked_size_and_length_one() -> None:
    for embedding in (ConvEncoder(dim=24)(torch.randn(4, 3, 32, 32)), GRUEncoder(10, dim=24)(*tokens())):
        assert embedding.shape[1] == 24
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(len(embedding)))


@pytest.mark.parametrize(("channels", "size"), [((8,), 2), ((8, 16), 8), ((4, 8, 8, 16), 64)])
def test_conv_encoder_takes_other_sizes(channels: tuple[int, ...], size: int) -> None:
    encoder = ConvEncoder(dim=5, channels=channels, image_size=size)
    assert encoder(torch.randn(2, 3, size, size)).shape == (2, 5)


def test_conv_encoder_refuses_a_size_it_cannot_halve() -> None:
    with pytest.raises(ValueError, match=r"image_size: expected a multiple of 8 \(3 stages halve it\), got 36"):
        ConvEncoder(image_size=36)


def test_grid_cells_are_the_regions_row_by_row_with_their_places() -> None:
    backbone = GridBackbone(channels=(4, 8), geometry=0.0, colour=0.0).eval()
    images = torch.randn(2, 3, 8, 12)
    cells = backbone(images)
    assert cells.shape == (2, 2 * 3, 8 + 2)
    torch.testing.assert_close(cells[..., :8], backbone.features(images).flatten(2).mT)
    places = [(row, column) for row in (-0.5, 0.5) for column in (-2 / 3, 0.0, 2 / 3)]
    torch.testing.assert_close(cells[..., 8:], torch.tensor(places).expand(2, -1, -1))


def test_padding_does_not_change_a_caption() -> None:
    encoder = GRUEncoder(10).eval()
    padded, lengths = tokens()
    torch.testing.assert_close(encoder(padded, lengths)[0], encoder(padded[:1, :3], lengths[:1])[0])


def test_word_dropout_forgets_words_only_while_training() -> None:
    encoder = GRUEncoder(10, word_dropout=1.0)
    padded, lengths = tokens()
    forgotten = padded.where(padded <= 3, 3)  # padding, start and end stay
    torch.testing.assert_close(encoder(padded, lengths), encoder.eval()(forgotten, lengths))
    assert not torch.allclose(encoder(padded, lengths), encoder(forgotten, lengths))


def test_random_view_is_the_identity_in_evaluation_and_when_off() -> None:
    images = torch.randn(3, 3, 8, 8)
    assert torch.equal(RandomView(0.2, 0.2).eval()(images), images)
    assert torch.equal(RandomView()(images), images)


def test_random_view_changes_each_image_on_its_own_and_follows_the_seed() -> None:
    images = torch.rand(1, 3, 16, 16).expand(4, -1, -1, -1)
    view = RandomView(0.2, 0.3)
    torch.manual_seed(0)
    first = view(images)
    torch.manual_seed(0)
    assert torch.equal(view(images), first)
    assert first.shape == images.shape
    assert not torch.allclose(first[0], first[1])


def test_random_view_moves_little() -> None:
    """A smooth picture, a small move: nearly the same picture."""
    ramp = torch.linspace(-1, 1, 32).expand(1, 3, 32, 32).contiguous()
    for _ in range(20):
        assert (RandomView(geometry=0.05)(ramp) - ramp).abs().max() < 0.25


def test_gradients_reach_every_parameter() -> None:
    for encoder, inputs in ((ConvEncoder(), (torch.randn(4, 3, 32, 32),)), (GRUEncoder(10), tokens())):
        embedding = encoder(*inputs)
        (embedding * torch.randn_like(embedding)).sum().backward()
        assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in encoder.parameters())
