"""CLIP's last map as regions equals the output of a hook in a direct forward pass."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from open_clip.model import resize_pos_embed
from PIL import Image

from glied.bulk.chunks import run_here
from glied.bulk.extraction import ExtractRegionsConfig, extract_factory, extract_job
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.run import bulk_run
from glied.clip.config import ClipConfig
from glied.clip.model import build_clip, save_clip
from glied.clip.scorer import load_clip
from glied.config import parse
from glied.data import features
from glied.errors import UsageError
from glied.training.tasks.attributes import AttributesTask, TrainAttributesConfig
from glied.vision.extractors.clip_grid import ClipGrid, grid_boxes
from glied.vision.extractors.region_extractor import load_extractor
from tests.clip.test_clip import TINY
from tests.stores import StoredRegions
from tests.vision.extractors.regions_config import regions_config
from tests.vision.extractors.test_torchvision_regions import assert_same, photo


def squashed(image: np.ndarray, side: int) -> torch.Tensor:
    """Apply CLIP's preprocessing without its crop."""
    picture = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    return ((pixels - mean) / std)[None]


@pytest.mark.slow
def test_rn50_at_448_pixels_is_the_papers_input():
    torch.manual_seed(0)
    clip = ClipConfig(model="RN50", allow_random=True)
    extractor = load_extractor(regions_config(kind="clip_grid", clip=clip, short_side=448))
    assert isinstance(extractor, ClipGrid)
    assert extractor.resolution[0] == 448
    image = photo(90, 60)
    found = extractor([image])[0]
    assert found.features.shape == (196, 2048)
    seen = []
    visual = extractor.trunk.module.visual
    visual.layer4.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(squashed(image, 448))))))
    expected = seen[0][0]  # [2048, 14, 14]
    np.testing.assert_allclose(found.features[15], expected[:, 1, 1].numpy(), atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(found.features, expected.flatten(1).t().numpy(), atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(found.boxes[15], [90 / 14, 60 / 14, 180 / 14, 120 / 14], rtol=1e-6)


@pytest.mark.slow
def test_patch_tokens_of_a_vit_at_twice_its_size():
    torch.manual_seed(0)
    scorer = load_clip(ClipConfig(model="ViT-B-32", allow_random=True))
    visual = scorer.model.visual
    before = visual.positional_embedding.detach().clone()
    extractor = ClipGrid(
        scorer, regions_config(kind="clip_grid", clip=ClipConfig(checkpoint="x"), short_side=448)
    )
    image = photo(50, 80)
    found = extractor([image])[0]
    assert found.features.shape == (196, 768)
    seen = []
    visual.transformer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        visual(squashed(image, 448))
    np.testing.assert_allclose(found.features, seen[0][0, 1:].numpy(), atol=1e-4, rtol=1e-4)
    weights = {"visual.positional_embedding": before}
    resize_pos_embed(weights, SimpleNamespace(visual=SimpleNamespace(grid_size=(14, 14))))  # open_clip's own
    torch.testing.assert_close(visual.positional_embedding.data, weights["visual.positional_embedding"])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    torch.manual_seed(0)
    folder = str(tmp_path_factory.mktemp("clip"))
    save_clip(folder, build_clip(TINY, preprocess={"resize_mode": "squash"}), TINY)
    return folder


def test_a_store_of_grids_from_the_bulk_job(checkpoint, photos, tmp_path):
    options = ["--config=configs/extract/clip_grid_tiny.yaml", f"--regions.clip.checkpoint={checkpoint}"]
    options += [f"--input.uri={photos}", f"--output.uri={tmp_path / 'run'}"]
    config = parse(ExtractRegionsConfig, options)
    summary = bulk_run.execute(extract_job(config), run_here(Fetch(), extract_factory(config).build()))
    assert summary.statuses == {"ok": 58, "rejected": 2}
    store = StoredRegions(str(tmp_path / "run" / "features"))
    turned = store["turned.jpg"]
    assert (turned.width, turned.height) == (40, 60)
    assert turned.features.shape == (64, 32)
    assert store.fingerprint["kind"] == "clip_grid"
    losses = losses_of_words(tmp_path)
    assert losses[2] < losses[1] < losses[0]


def losses_of_words(folder: Path) -> list[float]:
    """Train the attribute predictor for three steps on the grids with configs/attributes/grid_tiny.yaml."""
    names = features.image_ids(str(folder / "run"))
    images = [{"id": i, "file_name": name, "width": 1, "height": 1} for i, name in enumerate(names)]
    words = ["a dog on grass", "a cat"]
    annotations = [{"id": i, "image_id": i, "caption": words[i % 2]} for i in range(len(names))]
    captions = folder / "captions.json"
    captions.write_text(json.dumps({"images": images, "annotations": annotations}))
    options = ["--config=configs/attributes/grid_tiny.yaml"]
    for split in ("train", "validation"):
        options += [f"--{split}.features={folder / 'run'}", f"--{split}.captions={captions}"]
    task = AttributesTask(config=parse(TrainAttributesConfig, options))
    model = task.build()
    rows = [row for uri in task.data("train") for row in pq.read_table(uri).to_pylist()][:8]
    batch = task.collate(rows, training=True, generator=torch.Generator())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(3):
        loss, _ = task.loss(model, batch)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


def test_images_of_any_shape_in_batches(checkpoint):
    def extractor(**change):
        clip = ClipConfig(checkpoint=checkpoint, batch_size=2)
        return load_extractor(regions_config(kind="clip_grid", clip=clip, **change))

    images = [photo(30, 40), photo(300, 2, seed=1), photo(1, 1, seed=2)]
    plain = extractor(short_side=64)
    for image, found in zip(images, plain(images), strict=True):
        assert_same(plain([image])[0], found)
    assert plain([]) == []
    assert np.isfinite(extractor(short_side=64, dtype="bfloat16")(images)[0].features).all()
    prints = [extractor(**change).fingerprint for change in ({}, {"short_side": 64}, {"dtype": "bfloat16"})]
    assert len({str(one) for one in prints}) == 3
    with pytest.raises(UsageError, match="must be a multiple of"):
        extractor(short_side=50)


def test_cells_divide_the_image():
    boxes = grid_boxes(3, 30, 60)
    assert boxes[1].tolist() == [10, 0, 20, 20]
    assert boxes[8].tolist() == [20, 40, 30, 60]
    assert ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)).sum() == 30 * 60
