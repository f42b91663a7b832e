"""The examples run and do what they say; docs/negatives.md says what the code does."""

import doctest
import importlib.util
import math
import re
import shutil
import socket
import sys
from pathlib import Path

import pytest
import torch

import aoq_ext
from aoq_ext import cli, functional, reference
from aoq_ext.data import load_icons
from tests import vision_extra
from tests.losses import ONLINE, by_hand, make_operands

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/negatives.md").read_text(encoding="utf-8")


def load(name):
    specification = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def vision_libraries():
    vision_extra.add_libraries()


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No example may need the network."""

    def refuse(*_):
        raise AssertionError("an example opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def triplet():
    return load("triplet_loss")


@pytest.fixture(scope="module")
def metric_learning():
    pytest.importorskip("pytorch_metric_learning", reason="examples/metric_learning.py needs pytorch-metric-learning")
    return load("metric_learning")


@pytest.fixture(scope="module")
def pretrained():
    pytest.importorskip("transformers", reason="examples/pretrained_encoders.py needs transformers")
    return load("pretrained_encoders")


def test_the_triplet_loss_is_the_first_rung(triplet):
    groups = torch.arange(20) // 2
    result, expected = (
        run(loss, groups) for loss in (triplet.triplet_loss, aoq_ext.AdaptiveQuintupletLoss(objective="online_triplet"))
    )
    torch.testing.assert_close(result, expected)


def run(loss, groups):
    """The loss of fixed embeddings and its gradients."""
    image, text = (operand.requires_grad_() for operand in make_operands(len(groups), 8)[:2])
    value = loss(image, text, group_ids=groups)
    value.backward()
    return value.detach(), image.grad, text.grad


def test_the_triplet_loss_of_pairs_without_negatives_is_zero(triplet):
    value, image_slope, text_slope = run(triplet.triplet_loss, torch.zeros(5, dtype=torch.int64))
    assert value == 0 and not image_slope.any() and not text_slope.any()
    some = torch.tensor([0, 0, 0, 0, 1])  # the last row, which index −1 would take, is a negative of the others
    assert run(triplet.triplet_loss, some)[0] > 0


def test_the_triplet_example_learns_with_all_negatives_first_and_collapses_without(triplet):
    small = {"steps": 60, "batch_size": 64, "concepts": 100}
    before, after = triplet.main(**small, warm_up=40)
    assert after > 3 * before
    before, after = triplet.main(**small, warm_up=0)
    assert after < 2 * before


@pytest.mark.parametrize("groups", [list(range(12)), [0, 0, 1, 2, 2, 2, 3, 4, 5, 6, 6, 7], [3] * 12])
@pytest.mark.parametrize("cross", [True, False])
def test_mined_triplets_equal_a_search(metric_learning, groups, cross):
    image, text = make_operands(12, 3)[:2]
    image, text = image * torch.linspace(0.5, 3, 12)[:, None], text * torch.linspace(2, 0.1, 12)[:, None]
    other = text if cross else image
    labels = torch.tensor(groups)
    miner = metric_learning.HardestNegativesMiner()
    mined = miner(image, labels, other, labels) if cross else miner(image, labels)
    cosine = torch.nn.functional.cosine_similarity(image[:, None], other[None], dim=2).tolist()
    expected = []
    for i in range(12):
        negatives = [j for j in range(12) if groups[j] != groups[i]]
        positives = [j for j in range(12) if groups[j] == groups[i] and (cross or j != i)]
        if negatives:
            hardest = max(negatives, key=lambda j: cosine[i][j])
            expected += [(i, j, hardest) for j in positives]
    assert list(zip(*(index.tolist() for index in mined))) == expected
    assert miner.num_triplets == len(expected)


def test_the_miner_agrees_with_the_one_of_the_library(metric_learning):
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.miners import BatchHardMiner

    image, text = make_operands(40, 6)[:2]
    labels = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    theirs = BatchHardMiner(distance=CosineSimilarity())(image, labels, text, labels.clone())
    ours = metric_learning.HardestNegativesMiner()(image, labels, text, labels)
    assert [index.tolist() for index in ours] == [index.tolist() for index in theirs]


def test_the_miner_refuses_sides_that_are_not_pairs(metric_learning):
    image, text = make_operands(4, 3)[:2]
    with pytest.raises(ValueError, match="ref_labels must equal labels"):
        metric_learning.HardestNegativesMiner()(image, torch.arange(4), text, torch.tensor([1, 0, 2, 3]))


def test_the_metric_learning_example_learns_and_both_losses_agree(metric_learning):
    losses = metric_learning.main(steps=12, batch_size=48)
    assert all(theirs == pytest.approx(ours, rel=1e-4, abs=1e-4) for theirs, ours in losses)
    assert math.isfinite(losses[-1][0]) and losses[-1][0] < 0.5 * losses[0][0]


def test_the_encoders_example_learns(pretrained):
    losses = pretrained.main()
    assert all(map(math.isfinite, losses))
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_gradients_reach_both_encoders(pretrained):
    torch.manual_seed(0)
    pairs = pretrained.Pairs.load(16)
    towers = pretrained.make_towers(pairs.vocabulary_size)
    rows = torch.arange(8)
    hard_texts, hard_images = pretrained.mine(*towers, pairs)
    assert (hard_texts != torch.arange(16)[:, None]).all() and (hard_texts >= 0).all()
    loss_fn = aoq_ext.AdaptiveQuintupletLoss()
    pretrained.batch_loss(loss_fn, *towers, pairs, rows, hard_texts[rows, 0], hard_images[rows, 0]).backward()
    vision, language = (tower.encoder.embeddings for tower in towers)
    for first_weight in (vision.patch_embeddings.projection.weight, language.word_embeddings.weight):
        assert first_weight.grad.isfinite().all() and first_weight.grad.any()


CONFIGS = {"timm-transformers": ("timm", "transformers"), "open-clip": ("open_clip",)}


def needs(*libraries):
    """Skips only where a library is not installed, and fails where `make test` should have installed it."""
    missing = [name for name in ("lightning_fabric", *libraries) if importlib.util.find_spec(name) is None]
    if missing:
        assert not vision_extra.FOLDER.exists(), f"{vision_extra.FOLDER} is there, but not {missing}"
        pytest.skip(f"not installed: {', '.join(missing)}")


def load_few(split):
    return load_icons(split).subset(range(24))


@pytest.fixture
def encoders(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("examples.encoders")


@pytest.mark.parametrize(("name", "copied"), [("timm-transformers", False), ("open-clip", False), ("open-clip", True)])
def test_a_configuration_trains_evaluates_and_mines(name, copied, tmp_path, monkeypatch):
    needs(*CONFIGS[name])
    folder, config = ROOT, ROOT / "examples" / f"{name}.yaml"
    if copied:  # the module beside the configuration, in the folder that aoq is called from
        folder = tmp_path
        shutil.copy(ROOT / "examples/encoders.py", folder)
        text = config.read_text(encoding="utf-8").replace("examples.encoders.", "encoders.")
        config = folder / config.name
        config.write_text(text, encoding="utf-8")
    monkeypatch.chdir(folder)
    run, lists = str(tmp_path / "run"), tmp_path / "lists"
    short = (
        "--data.loader tests.docs.test_examples.load_few --epochs 2 --warmup_epochs 1 --batch_size 12 --accelerator cpu"
    )
    assert cli.main(["train", "--config", str(config), "--run", run, *short.split()]) == 0
    assert cli.main(["eval", "--run", run, "--split", "test"]) == 0
    assert cli.main(["mine", "--run", run, "--out", str(lists)]) == 0
    assert (lists / "manifest.json").is_file()
    words_are_own = name == "timm-transformers"
    assert (tmp_path / "run/vocabulary.json").is_file() == words_are_own


def test_images_are_resized_and_normalised(encoders):
    images = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 32, 32)
    resized = encoders.Resize(48, (0.5, 0.25, 0.0), (0.5, 0.25, 2.0))(images)
    assert resized.shape == (2, 3, 48, 48)
    torch.testing.assert_close(resized[:, :, 7, 9], torch.tensor([[-1.0, -1.0, 0.0], [1.0, 3.0, 0.5]]))


def test_a_pretrained_text_encoder_and_its_tokens(encoders, tmp_path):
    """From a folder, as from the hub; padding changes nothing."""
    needs("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "a", "red", "cat"]
    model = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=model, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(tmp_path)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=5, **size)).save_pretrained(tmp_path)

    tokenizer = encoders.TransformersTokens(str(tmp_path), max_length=3)
    tokens, lengths = tokenizer.encode(["a cat", "a red red cat"])
    assert (len(tokenizer), tokens.tolist(), lengths.tolist()) == (5, [[2, 4, 0], [2, 3, 3]], [2, 3])
    texts = encoders.TransformersTexts(5, dim=6, name=str(tmp_path)).eval()
    torch.testing.assert_close(texts(tokens, lengths)[:1], texts(tokens[:1, :2], lengths[:1]))


def test_clip_reads_captions_of_any_padding(encoders):
    needs("open_clip")
    size = {"context_length": 16, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 16, "patch_size": 8, "width": 16, "head_width": 8, "layers": 1}
    model = encoders.OpenClip(config={"embed_dim": 8, "vision_cfg": vision, "text_cfg": size}).eval()
    tokenizer = encoders.OpenClipTokens(context_length=16)
    tokens, lengths = tokenizer.encode(["a red cat", "!"])
    assert (tuple(tokens.shape), lengths.tolist(), len(tokenizer)) == ((2, 16), [5, 3], 49408)
    whole, cut = model.text_encoder(tokens, lengths), model.text_encoder(tokens[:, :5], lengths)
    torch.testing.assert_close(whole, cut)
    assert model.image_encoder(torch.zeros(2, 3, 32, 32)).shape == whole.shape == (2, 8)


def test_the_page_runs():
    blocks = "\n".join(re.findall(r"```pycon\n(.*?)```", PAGE, re.DOTALL))
    page = doctest.DocTestParser().get_doctest(blocks, {}, "negatives.md", "docs/negatives.md", 0)
    assert len(page.examples) > 10
    assert doctest.DocTestRunner().run(page).failed == 0


@pytest.fixture
def example():
    """The tensors of the page: scores, a, b, c, d, group_ids."""
    names: dict = {}
    code = [line[4:] for line in PAGE.split("```pycon\n")[1].split("```")[0].splitlines()]
    exec("\n".join(code), names)
    return [names[name] for name in ("scores", "a", "b", "c", "d", "group_ids")]


def test_the_table_of_the_page(example):
    """Every cell, found by a search in plain Python."""
    groups = example[-1].tolist()
    rows = []
    for side, matrix in (("image", example[0].double()), ("text", example[0].double().T)):
        scores = [[round(score, 6) for score in row] for row in matrix.tolist()]
        for i in range(4):
            p = scores[i][i]
            allowed = [j for j in range(4) if groups[j] != groups[i]]
            below = [j for j in allowed if scores[i][j] < p]
            cells = [f"{side} {i}", f"{p:.2f}", ", ".join(map(str, allowed))]
            for chosen, paid_for in ((allowed, None), (below, None), (allowed, allowed)):
                hardest = max(chosen, key=lambda j: scores[i][j], default=None)
                paid = [] if hardest is None else paid_for or [hardest]
                hinge = math.fsum(max(0.0, 0.2 + scores[i][j] - p) for j in paid)
                found = "none" if hardest is None else f"{hardest}: {scores[i][hardest]:.2f}"
                cells.append(f"{found}, H = {hinge:.2f}")
            rows.append("| " + " | ".join(cells) + " |")
    assert "\n".join(rows) in PAGE


@pytest.mark.parametrize("online", ONLINE)
def test_the_losses_of_the_page(example, online):
    *numbers, groups = (tensor.double().tolist() for tensor in example)
    expected = by_hand(*[torch.tensor(n).round(decimals=4).tolist() for n in numbers], groups, online=online)
    printed = re.findall(rf"^{online} +\[(.*)\]$", PAGE, re.MULTILINE)[-1]
    assert [float(loss) for loss in printed.split(", ")] == pytest.approx(expected, abs=6e-5)


FORMS = [reference.adaptive_quintuplet_score_loss, functional.adaptive_quintuplet_score_loss]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("online", ONLINE)
def test_the_edges_of_the_page(example, form, online):
    scores, *_, groups = (tensor.double() if tensor.is_floating_point() else tensor for tensor in example)

    def losses(scores, groups=groups, **options):
        options = {"objective": "online_triplet", "online": online, "reduction": "none", **options}
        return form(scores, group_ids=groups, **options).tolist()

    plain = losses(scores)
    assert losses(torch.full((3, 3), 0.5).double(), None) == pytest.approx(
        [{"hardest": 0.4, "semihard": 0.0, "all": 0.8}[online]] * 3  # duplicates of the positive
    )
    margin_free = losses(scores, margin_online=0.0)
    assert (sum(margin_free) == 0) == (online == "semihard")
    assert losses(scores, torch.zeros(4, dtype=torch.int64)) == [0] * 4

    unknown = scores.clone()
    unknown[3, 0] = math.nan  # of one group: nobody looks
    assert losses(unknown) == plain
    unknown[0, 1] = math.nan
    assert [math.isnan(loss) for loss in losses(unknown)] == [True, True, False, False]

    masked, absent = scores.clone(), groups.clone()
    masked[0, 1:3] = masked[1:3, 0] = -math.inf
    absent[1:3] = 0  # the same pairs, excluded as a group; pairs 1 and 2 lose each other too
    assert losses(masked)[0] == losses(scores, absent)[0] == 0


def test_candidates_of_the_page():
    """Each side chooses on its own, ties to the lowest k; partners follow; the others get no gradient."""
    image, text, hard_image, hard_text, hard_text_image, hard_image_text = make_operands(5, 4, candidates=3)
    hard_image, hard_image_text = hard_image[:, :2], hard_image_text[:, :2]
    hard_text[:, 2] = hard_text[:, 1]
    k = (image[:, None] * hard_text).sum(2).max(1).indices
    other = (text[:, None] * hard_image).sum(2).max(1).indices
    assert (k != 2).all() and (k != other).any()
    rows = torch.arange(5)
    loss = aoq_ext.AdaptiveQuintupletLoss(margin_offline=1.0)
    expected = loss(
        image, text, hard_image[rows, other], hard_text[rows, k], hard_text_image[rows, k], hard_image_text[rows, other]
    )
    hard_text.requires_grad_()
    result = loss(image, text, hard_image, hard_text, hard_text_image, hard_image_text)
    assert result.item() == pytest.approx(expected.item())
    result.backward()
    assert torch.equal(hard_text.grad.ne(0).any(2), torch.nn.functional.one_hot(k, 3).bool())
