"""The encoders of VSE++ and VSRN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from aoq_ext.encoders import CaptioningLoss, GlobalImageEncoder, GRUTextEncoder, RegionGraphLayer, VSRNEncoder


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def tokens() -> tuple[Tensor, Tensor]:
    return torch.tensor([[1, 7, 2, 0, 0], [1, 7, 8, 9, 2]]), torch.tensor([3, 5])


def with_nan_padding(lengths: Tensor, regions: int = 6, width: int = 8) -> Tensor:
    images = torch.randn(len(lengths), regions, width)
    for row, length in enumerate(lengths.tolist()):
        images[row, length:] = float("nan")
    return images


def woken(encoder: VSRNEncoder) -> VSRNEncoder:
    """With graph convolutions that do something: they start as the identity."""
    for layer in encoder.graph:
        assert isinstance(layer, RegionGraphLayer)
        torch.nn.init.normal_(layer.norm.weight)
    return encoder


def test_a_global_vector_and_its_regions_are_encoded_alike() -> None:
    encoder = GlobalImageEncoder(8, dim=5)
    images = torch.randn(3, 6, 8)
    embedding = encoder(images)
    torch.testing.assert_close(embedding, encoder(images.mean(1)))
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(3))


def test_the_mean_is_that_of_real_regions() -> None:
    lengths = torch.tensor([6, 1, 4])
    images, encoder = with_nan_padding(lengths), GlobalImageEncoder(8, dim=5)
    each = [encoder(image[:length].unsqueeze(0)) for image, length in zip(images, lengths.tolist())]
    torch.testing.assert_close(encoder(images, lengths), torch.cat(each))


def test_a_text_is_the_state_after_its_last_word() -> None:
    encoder = GRUTextEncoder(10, dim=5, word_dim=4)
    padded, lengths = tokens()
    _, state = encoder.gru(encoder.words(padded[:1, :3]))
    torch.testing.assert_close(encoder(padded, lengths)[:1], F.normalize(state[0], dim=-1))


def test_a_graph_layer_is_the_papers_equation() -> None:
    layer = RegionGraphLayer(8).eval()
    torch.nn.init.normal_(layer.norm.weight)
    regions = torch.randn(2, 5, 8)
    expected = []
    for image in regions:
        affinity = torch.stack([torch.stack([layer.query(a) @ layer.key(b) for b in image]) for a in image]) / 5
        expected.append(layer.norm(layer.out(affinity @ layer.value(image))) + image)
    torch.testing.assert_close(layer(regions), torch.stack(expected))


def test_graph_layers_start_as_the_identity() -> None:
    regions = torch.randn(2, 5, 8)
    assert torch.equal(RegionGraphLayer(8)(regions), regions)


@pytest.mark.parametrize("flickr", [False, True])
@pytest.mark.parametrize("region_norm", ["regions", "features", "none"])
def test_padded_regions_change_nothing(region_norm: Any, flickr: bool) -> None:
    lengths = torch.tensor([6, 2, 4])
    images = with_nan_padding(lengths)
    encoder = VSRNEncoder(
        8, dim=5, layers=2, region_norm=region_norm, norm_before_graph=not flickr, scene_batch_norm=flickr
    )
    encoder = woken(encoder).eval()
    embedding, regions = encoder.encode(images, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone, alone_regions = encoder.encode(images[row : row + 1, :length])
        torch.testing.assert_close(embedding[row : row + 1], alone)
        torch.testing.assert_close(regions[row, :length], alone_regions[0])
        assert not regions[row, length:].any()
    embedding.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_batch_statistics_are_those_of_real_regions() -> None:
    lengths = torch.tensor([6, 2, 4])
    images = with_nan_padding(lengths)
    one, two = RegionGraphLayer(8), RegionGraphLayer(8)
    two.load_state_dict(one.state_dict())
    mask = torch.arange(6) < lengths.unsqueeze(1)
    one(images.masked_fill(~mask.unsqueeze(-1), 0.0), mask)
    messages = []
    for image, length in zip(images, lengths.tolist()):
        real = image[:length]
        messages.append(two.out((two.query(real) @ two.key(real).T / length) @ two.value(real)))
    two.norm(torch.cat(messages))
    torch.testing.assert_close(one.norm.running_var, two.norm.running_var)


def test_the_normalisations_differ_in_what_has_length_one() -> None:
    images = torch.randn(2, 6, 8)
    _, over_regions = VSRNEncoder(8, dim=5).encode(images)
    _, over_features = VSRNEncoder(8, dim=5, region_norm="features").encode(images)
    torch.testing.assert_close(over_regions.norm(dim=1), torch.ones(2, 5))
    torch.testing.assert_close(over_features.norm(dim=2), torch.ones(2, 6))
    with pytest.raises(ValueError, match="region_norm: expected"):
        VSRNEncoder(8, dim=5, region_norm="all")  # type: ignore[arg-type]


class Released:
    """The image side of the released VSRN and AOQ code, from its formulas, on the weights of a `VSRNEncoder`."""

    def __init__(self, encoder: VSRNEncoder, flickr: bool, training: bool) -> None:
        self.encoder, self.flickr, self.training = encoder, flickr, training

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images: (B, R, F) -> (B, D) and (B, R, D)"""
        weights = dict(self.encoder.named_parameters())
        regions = images @ weights["project.weight"].T + weights["project.bias"]
        if not self.flickr:
            regions = self.over_dimension_1(regions)
        for number, layer in enumerate(self.encoder.graph):
            query, key, value, out = (
                lambda x, name=f"graph.{number}.{part}": x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
                for part in ("query", "key", "value", "out")
            )
            affinity = torch.einsum("bid,bjd->bij", query(regions), key(regions)) / regions.shape[1]
            message = out(torch.einsum("bij,bjd->bid", affinity, value(regions)))
            regions = self.batch_norm(message, layer.norm) + regions
        regions = self.over_dimension_1(regions)
        state = images.new_zeros(len(images), regions.shape[2])
        names = [f"gru.{kind}_l0" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        for region in regions.unbind(1):
            state = torch.gru_cell(region, state, *(weights[name] for name in names))
        if self.flickr:
            state = self.batch_norm(state, self.encoder.scene_norm)
        return self.over_dimension_1(state), regions

    @staticmethod
    def over_dimension_1(x: Tensor) -> Tensor:
        return x / x.pow(2).sum(1, keepdim=True).sqrt()

    def batch_norm(self, x: Tensor, norm: Any) -> Tensor:
        """x: (..., D)"""
        if self.training:
            mean = x.flatten(0, -2).mean(0)
            variance = (x - mean).flatten(0, -2).pow(2).mean(0)
        else:
            mean, variance = norm.running_mean, norm.running_var
        return (x - mean) / (variance + 1e-5).sqrt() * norm.weight + norm.bias


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("data", ["coco", "f30k"])
def test_the_recipes_image_encoder_is_the_released_one(data: str, training: bool) -> None:
    yaml = pytest.importorskip("yaml")
    file = Path(__file__).resolve().parents[2] / "configs" / data / "vsrn-round1.yaml"
    options = yaml.safe_load(file.read_text())["model"]["image_encoder"]["args"]
    encoder = VSRNEncoder(**(options | {"image_dim": 8, "dim": 5})).double()
    for name, parameter in encoder.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter)
    images = torch.randn(7, 6, 8, dtype=torch.float64)
    for _ in range(20):  # running statistics near those of the batch
        encoder(images)
    encoder.train(training)
    expected, expected_regions = Released(encoder, flickr=data == "f30k", training=training)(images)
    embedding, regions = encoder.encode(images)
    torch.testing.assert_close(regions, expected_regions, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(embedding, expected, rtol=1e-10, atol=1e-12)


def test_gradients_reach_every_parameter() -> None:
    image, text = woken(VSRNEncoder(8, dim=5, scene_batch_norm=True)), GRUTextEncoder(10, dim=5, word_dim=4)
    caption = CaptioningLoss(10, region_dim=5, hidden=4, word_dim=4)
    embedding, regions = image.encode(torch.randn(2, 6, 8))
    loss = (embedding * text(*tokens())).square().sum() + caption(regions, *tokens())
    loss.backward()
    for module in (image, text, caption):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
        assert all(
            p.grad is not None and p.grad.any() for name, p in module.named_parameters() if "key.bias" not in name
        )


def test_the_captioning_loss_is_the_surprise_of_each_next_word() -> None:
    loss = CaptioningLoss(10, region_dim=5, hidden=4, word_dim=4).eval()
    regions = torch.randn(2, 6, 5)
    padded, lengths = tokens()
    total = torch.zeros(())
    for caption, length, image in zip(padded, lengths.tolist(), regions):
        encoded, state = loss.encoder(loss.project(image))
        hidden = state[0]
        for position in range(length - 1):
            energy = loss.attention(torch.tanh(loss.from_region(encoded) + loss.from_state(hidden)))
            context = (energy.softmax(0) * encoded).sum(0)
            hidden = loss.decoder(torch.cat([loss.words(caption[position]), context]), hidden)
            total = total - loss.out(hidden).log_softmax(0)[caption[position + 1]]
    torch.testing.assert_close(loss(regions, padded, lengths), total / 2)


def test_the_released_captioning_loss_also_guesses_the_first_padding() -> None:
    """Padding the captions by one and calling that a word gives the released value."""
    loss = CaptioningLoss(10, region_dim=5, hidden=4, word_dim=4).eval()
    regions, (padded, lengths) = torch.randn(2, 6, 5), tokens()
    released = loss(regions, F.pad(padded, (0, 1)), lengths + 1)
    rows = torch.arange(2)
    encoded, state = loss.encoder(loss.project(regions))
    states = loss._states(encoded, None, state[0], loss.words(F.pad(padded, (0, 1))[:, :-1]))
    surprise = -loss.out(torch.stack(states, 1)[rows, lengths - 1]).log_softmax(1)[:, 0]
    torch.testing.assert_close(released - loss(regions, padded, lengths), surprise.mean())


def test_the_captioning_loss_starts_as_the_released_one() -> None:
    loss = CaptioningLoss(50, region_dim=96, hidden=64, word_dim=4)
    attention = torch.cat([loss.from_region.weight, loss.from_state.weight], dim=1)  # of 128 inputs
    linear = torch.nn.Linear(128, 64)
    for weight, like in ((attention, linear.weight), (loss.from_region.bias, linear.bias)):
        assert weight.abs().max() <= 128**-0.5
        torch.testing.assert_close(weight.std(), like.std(), rtol=0.2, atol=0.0)
    for weight in (loss.project.weight, loss.out.weight):
        torch.testing.assert_close(float(weight.detach().std()), (2 / sum(weight.shape)) ** 0.5, rtol=0.1, atol=0.0)
        assert weight.abs().max() > 3 * weight.std()  # normal, not uniform


def test_padding_does_not_change_the_captioning_loss() -> None:
    loss = CaptioningLoss(10, region_dim=8, hidden=4, word_dim=4).eval()
    padded, lengths = tokens()
    region_lengths = torch.tensor([6, 3])
    regions = with_nan_padding(region_lengths)
    short = [
        loss(regions[row : row + 1, :count], padded[row : row + 1, :length], lengths[row : row + 1])
        for row, (count, length) in enumerate(zip(region_lengths.tolist(), lengths.tolist()))
    ]
    result = loss(regions, F.pad(padded, (0, 3), value=5), lengths, region_lengths)
    torch.testing.assert_close(result, torch.stack(short).mean())
    result.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in loss.parameters())


def test_the_captioning_loss_learns_what_an_image_says() -> None:
    torch.manual_seed(0)
    loss = CaptioningLoss(6, region_dim=4, hidden=16, word_dim=8, dropout=0.0)
    regions = torch.randn(2, 3, 4)
    captions, lengths = torch.tensor([[1, 4, 2], [1, 5, 2]]), torch.tensor([3, 3])
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(regions, captions, lengths)
        value.backward()
        optimizer.step()
    assert value < 0.1
