import dataclasses

import pytest
import torch
from torch.nn import functional as F

from glied.captioner.config import DecodingConfig
from glied.captioner.engines.coca import CocaEngine
from glied.captioner.engines.config import CocaConfig
from glied.clip.config import ClipConfig
from glied.errors import UsageError
from glied.training.tasks.clip import ClipTask, TrainClipConfig
from glied.training.tasks.clip_model import ClipModelConfig
from glied.training.tasks.clip_texts import TextsConfig
from glied.training.tasks.coca import CocaTask, caption_loss, clip_task
from glied.vision import images
from tests.training.settings import trainer
from tests.training.tasks.pairs import ARCHITECTURE, write_pairs

COCA = {
    "embed_dim": 32,
    "vision_cfg": ARCHITECTURE["vision_cfg"]
    | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "text_cfg": ARCHITECTURE["text_cfg"] | {"context_length": 20, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    "custom_text": True,
}


@pytest.fixture
def task(tmp_path):
    pairs = write_pairs(tmp_path / "pairs", 6)
    model = ClipModelConfig(architecture=COCA, preprocess={"resize_mode": "squash"})
    texts = TextsConfig(clauses=0.0, first=1.0)
    return clip_task(
        TrainClipConfig(train=pairs, validation=pairs, model=model, texts=texts, trainer=trainer())
    )


def batch_of(task, training=True):
    rows = task.data("train").to_pylist()
    return task.collate(rows, training=training, generator=torch.Generator().manual_seed(0))


def test_the_loss_is_contrastive_plus_weighted_cross_entropy(task):
    torch.manual_seed(0)
    model, batch = task.build().eval(), batch_of(task)
    loss, figures = task.loss(model, batch)
    assert loss.item() == pytest.approx(figures["contrastive"].item() + 2 * figures["captioning"].item())
    known = model.known.tolist()
    assert {*batch.tokens.flatten().tolist()} <= {*known}
    with torch.no_grad():
        found = model.clip(task._images.normalized(batch.images), batch.tokens)["logits"]
    total, count, unknown = 0.0, 0, torch.ones(49408, dtype=torch.bool)
    unknown[known] = False
    for row, tokens in zip(found.masked_fill(unknown, -torch.inf), batch.tokens.tolist(), strict=True):
        length = tokens.index(49407)
        total += F.cross_entropy(row[:length], torch.tensor(tokens[1 : length + 1]), reduction="sum").item()
        count += length
    assert figures["captioning"].item() == pytest.approx(total / count, rel=1e-5)


def test_padding_has_no_loss():
    logits = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    known = torch.tensor([0, 4, 7, 9])
    short, padded = torch.tensor([[4, 9, 7]]), torch.tensor([[4, 9, 7, 0]])
    expected = F.cross_entropy(logits[0, :2], torch.tensor([3, 2])).item()
    assert caption_loss(logits[:, :2], short, known).item() == pytest.approx(expected)
    assert caption_loss(logits, padded, known).item() == pytest.approx(expected)


@pytest.mark.slow
def test_a_coca_learns_to_caption_its_images(task, tmp_path):
    torch.manual_seed(0)
    model, batch = task.build().train(), batch_of(task)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(80):
        loss, _ = task.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        task.constrain(model)
    with torch.no_grad():
        figures = task.validate(model.eval(), [batch_of(task, training=False)])
    assert figures["r1"] > 0.5
    task.export(model, str(tmp_path / "coca"))
    decoding = DecodingConfig(beam_size=2, max_length=18)
    engine = CocaEngine.load(CocaConfig(checkpoint=str(tmp_path / "coca")), decoding)
    rows = task.data("train").to_pylist()
    pictures = [images.decode(open(row["image"], "rb").read()) for row in rows]  # noqa: SIM115
    captions = [found[0].text for found in engine.caption(pictures)]
    assert captions == [row["texts"][0] for row in rows]


def test_a_decoder_in_the_architecture_makes_it_a_coca(task):
    assert isinstance(task, CocaTask)
    config = task.config
    plain = ClipModelConfig(architecture=ARCHITECTURE)
    trained = TrainClipConfig(train=config.train, validation=config.train, model=plain, trainer=trainer())
    assert type(clip_task(trained)) is ClipTask


def test_only_new_ones_are_trained(task):
    start = ClipModelConfig(start=ClipConfig(model="coca_ViT-B-32", allow_random=True))
    config = TrainClipConfig(
        train=task.config.train, validation=task.config.train, model=start, trainer=trainer()
    )
    with pytest.raises(UsageError, match="only new ones are trained"):
        CocaTask(config)
    with pytest.raises(UsageError, match="caption_weight: 0"):
        dataclasses.replace(config, caption_weight=0)
