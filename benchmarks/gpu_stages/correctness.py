"""Whether a GPU computes what the CPU does, in float32, and how far bfloat16 is from it.

Float32 is compared with TF32 switched off, with float64 on the CPU as the reference where that is cheap.
Captions, regions, CLIP-S and CIDEr-D are those of scenes and of the weights that ship. Captions may differ
where two beams are equal up to rounding, so that shares of equal captions have a bound a little below 1; the
log-probabilities of equal captions and the scores have absolute bounds. Each check has its bound in its row.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.decoding import FEATURES, inputs
from benchmarks.gpu_stages.inputs import BACKBONE, WEIGHTS, captioner, paper_model, vocabulary
from benchmarks.gpu_stages.measuring import tf32
from benchmarks.gpu_stages.setting import Row, Setting, check
from glied.captioner.captioner import Caption, Captioner, attribute_ids
from glied.captioner.config import DecodingConfig
from glied.captioner.decode import decode
from glied.clip.config import ClipConfig
from glied.clip.scorer import load_clip
from glied.clip.scores import clip_score
from glied.data.coco import load_captions
from glied.demo_world.dataset import write_split
from glied.regions import RegionBatch, Regions
from glied.rewards.cider_reward import CiderReward
from glied.rewards.reward import Captions
from glied.text.cider import DocumentFrequencies
from glied.text.references import EncodedReferences
from glied.text.tokenizer import tokenize
from glied.training.tasks.losses import word_cross_entropy
from glied.vision import images
from glied.vision.attributes import load_attributes
from glied.vision.extractors.config import RegionsConfig
from glied.vision.extractors.region_extractor import load_extractor

CLOSE = 1e-3
"""Bound of scores and log-probabilities."""
LOGITS = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Bounds of the relative error of logits, as the norm of the difference / the norm of the reference."""
DETECTOR = RegionsConfig(checkpoint=str(WEIGHTS / "regions"))
CELLS = RegionsConfig(kind="timm", checkpoint=str(BACKBONE), short_side=224)
EQUAL = 0.97
"""Least share of equal captions between computations in float32."""


class World:
    """Scenes, what the CPU finds in them, and the models on both devices."""

    def __init__(self, folder: Path, setting: Setting) -> None:
        """Render the scenes and extract their regions on the CPU."""
        self.device = setting.torch_device
        self.half = setting.pick(0.25, 0.7)  # least share of captions that are equal in bfloat16
        count = setting.pick(4, 96)
        write_split(folder, "test", count, 0, 1)
        self.references = load_captions(str(folder / "captions.json"))
        self.names = list(self.references)
        self.pixels = [images.decode((folder / "images" / name).read_bytes()) for name in self.names]
        self.regions = self.extract(DETECTOR, "cpu")
        predictor = load_attributes(str(WEIGHTS / "attributes"))
        with torch.inference_mode():
            self.words = predictor.top(RegionBatch.collate(self.regions), 49)

    def extract(self, config: RegionsConfig, device: str) -> list[Regions]:
        """Regions by a shipped extractor."""
        extractor = load_extractor(replace(config, device=device))
        parts = (self.pixels[place : place + 16] for place in range(0, len(self.pixels), 16))
        return [one for part in parts for one in extractor(part)]

    def captions(
        self, device: torch.device | str, search: DecodingConfig, dtype: torch.dtype = torch.float32
    ) -> list[list[Caption]]:
        """Captions of the CPU's regions by the shipped captioner."""
        shipped = Captioner.load(str(WEIGHTS / "glied"), search, device, dtype)
        return shipped.caption(self.regions, self.words, range(len(self.regions)))


def rows(setting: Setting) -> Iterator[Row]:
    """All checks; one that raises is a row as well, and the others go on."""
    checks: list[Callable[[], Iterator[Row]]] = [partial(logits, setting), partial(gradient, setting)]
    with tempfile.TemporaryDirectory() as folder, tf32(False):
        world = World(Path(folder), setting)
        parts = (caption_equality, half_precision, independence, regions, clip, cider)
        checks += [partial(part, world) for part in parts]
        for one in checks:
            try:
                yield from one()
            except Exception as error:  # the device may be fine all the same
                name = one.func.__name__ if isinstance(one, partial) else str(one)
                yield {"check": name, "ok": False, "error": f"{type(error).__name__}: {error}"[:500]}


def logits(setting: Setting) -> Iterator[Row]:
    """Logits of whole captions against float64, paper size, random weights and inputs."""
    batch, device = setting.pick(2, 16), setting.torch_device
    regions, attributes, mask = inputs(batch)
    tokens = torch.randint(4, len(vocabulary()), (batch, 3, 20))
    search, host = DecodingConfig(), torch.device("cpu")
    exact = captioner(host, torch.float64, feature_size=FEATURES, decoding=search).model
    with torch.inference_mode():
        expected = exact.logits(exact.encode(regions, attributes, mask), tokens)
        for dtype, most in LOGITS.items():
            model = captioner(device, dtype, feature_size=FEATURES, decoding=search).model
            memory = model.encode(regions.to(device), attributes.to(device), mask.to(device))
            found = model.logits(memory, tokens.to(device)).cpu().double()
            yield check(f"logits against float64: {dtype}", relative(found, expected), most=most)


def gradient(setting: Setting) -> Iterator[Row]:
    """Gradient of the cross-entropy against the CPU's, over all weights."""
    batch, device = setting.pick(2, 8), setting.torch_device
    regions, attributes, mask = inputs(batch)
    tokens = torch.randint(4, len(vocabulary()), (batch, 5, 20))
    found = []
    for place in (torch.device("cpu"), device):
        # Dropout draws other numbers on another device.
        model = copy.deepcopy(paper_model(torch.device("cpu"), torch.float32, FEATURES)).eval().to(place)
        output = model(regions.to(place), attributes.to(place), mask.to(place), tokens.to(place))
        word_cross_entropy(output, tokens.to(place), label_smoothing=0.1).backward()
        found.append(gradient_of(model).cpu())
    yield check("gradient of cross-entropy: float32", relative(found[1], found[0]), most=1e-4)


def gradient_of(model: nn.Module) -> Tensor:
    """The gradients of all weights as one vector."""
    return torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])


def caption_equality(world: World) -> Iterator[Row]:
    """Captions of GPU and CPU in float32, by search."""
    searches = {
        "greedy": DecodingConfig(beam_size=1),
        "beam 3": DecodingConfig(beam_size=3),
        "beam 5": DecodingConfig(beam_size=5),
        "samples": DecodingConfig(method="sample", n_best=5),
    }
    for name, search in searches.items():
        expected, found = world.captions("cpu", search), world.captions(world.device, search)
        yield from compared(f"captions equal the CPU's: {name}", found, expected)


def half_precision(world: World) -> Iterator[Row]:
    """Captions in bfloat16 and in float32, both on the GPU."""
    for name, beams in (("greedy", 1), ("beam 3", 3)):
        search = DecodingConfig(beam_size=beams)
        expected = world.captions(world.device, search)
        found = world.captions(world.device, search, torch.bfloat16)
        share, difference = agreement(found, expected)
        more = {"largest_difference": round(difference, 4)}
        yield check(f"bfloat16 captions equal float32: {name}", share, least=world.half, **more)


def independence(world: World) -> Iterator[Row]:
    """Captions of a batch, one by one, in reverse order, and beside padding that holds NaN."""
    shipped = Captioner.load(str(WEIGHTS / "glied"), DecodingConfig(beam_size=3), world.device)
    together = shipped.caption(world.regions, world.words)
    pairs = zip(world.regions, world.words, strict=True)
    alone = [shipped.caption([region], [words])[0] for region, words in pairs]
    yield from compared("captions alone and in a batch", alone, together)
    backward = shipped.caption(world.regions[::-1], world.words[::-1])[::-1]
    yield from compared("captions in reverse order", backward, together)
    behind = caption_batch(shipped, padded(world.regions), world.words)
    yield from compared("captions with 60 regions, padded with NaN", behind, together)


def padded(regions: Sequence[Regions]) -> RegionBatch:
    """Regions in a batch of 60 each; what is padding holds NaN."""
    batch = RegionBatch.collate(regions, length=60)
    batch.features[~batch.mask], batch.boxes[~batch.mask] = torch.nan, torch.nan
    return batch


@torch.inference_mode()
def caption_batch(
    shipped: Captioner, batch: RegionBatch, words: Sequence[Sequence[tuple[str, float]]]
) -> list[list[Caption]]:
    """As `Captioner.caption`, of a batch that is collated already."""
    device = shipped.model.embedding.weight.device
    names = [[word for word, _ in one] for one in words]
    ids, mask = attribute_ids(names, shipped.vocabulary, shipped.attribute_count)
    memory = shipped.frozen.encode(batch.to(device), ids.to(device), mask.to(device))
    return [
        [Caption(" ".join(shipped.vocabulary.decode(one.tokens)), one.log_probability) for one in image]
        for image in decode(shipped.frozen, memory, shipped.decoding)
    ]


def regions(world: World) -> Iterator[Row]:
    """Regions of the shipped extractors against the CPU's: without TF32, and with TF32 as torch's default."""
    for kind, config in (("detector", DETECTOR), ("cells", CELLS)):
        expected = world.regions if kind == "detector" else world.extract(config, "cpu")
        for name, enabled, most in (("float32", False, CLOSE), ("TF32", True, 3e-2)):
            with tf32(enabled):
                found = world.extract(config, str(world.device))
            yield from compared_regions(f"{kind}, {name}", found, expected, most)


def compared_regions(
    name: str, found: Sequence[Regions], expected: Sequence[Regions], most: float
) -> Iterator[Row]:
    """The share of images with the same labels in the same order, and how far their features are apart."""
    pairs = list(zip(found, expected, strict=True))
    same = [(one, two) for one, two in pairs if one.labels == two.labels]
    yield check(f"images with the CPU's labels in its order: {name}", len(same) / len(pairs), least=0.5)
    features = [relative(torch.from_numpy(one.features), torch.from_numpy(two.features)) for one, two in same]
    yield check(f"features where they are the same, median: {name}", median(features), most=most)


def clip(world: World) -> Iterator[Row]:
    """CLIP-S of scenes and a reference each, by the shipped CLIP; under autocast and TF32 too."""
    texts = [world.references[name][0] for name in world.names]
    found = []
    for device in ("cpu", str(world.device)):
        scorer = load_clip(ClipConfig(checkpoint=str(WEIGHTS / "clip"), device=device))
        found.append(clip_score(scorer.encode_images(world.pixels), scorer.encode_texts(texts)).cpu())
    yield check("CLIP-S against the CPU's, largest difference", largest(found[1], found[0]), most=CLOSE)
    with tf32(True), torch.autocast(world.device.type, dtype=torch.bfloat16):
        inside = clip_score(scorer.encode_images(world.pixels), scorer.encode_texts(texts)).cpu()
    yield check("CLIP-S under autocast and TF32, largest difference", largest(inside, found[1]), most=1e-5)


def cider(world: World) -> Iterator[Row]:
    """CIDEr-D rewards of captions that GPU and CPU found."""
    shipped = Captioner.load(str(WEIGHTS / "glied"))
    references = EncodedReferences(world.references, shipped.vocabulary)
    reward = CiderReward(references, DocumentFrequencies.of(references(name) for name in world.names))
    values = []
    for device in ("cpu", world.device):
        texts = [[one.text] for (one, *_) in world.captions(device, DecodingConfig(beam_size=3))]
        tokens = [[shipped.vocabulary.encode(tokenize(text)) for text in image] for image in texts]
        values.append(reward(Captions(world.names, tokens, texts)))
    same = ((values[0] - values[1]).abs() <= 1e-6).double().mean()
    yield check("images with equal CIDEr-D reward", float(same), least=EQUAL)
    difference = abs(float(values[0].mean() - values[1].mean()))
    yield check("mean CIDEr-D reward (0 to 10), difference", difference, most=0.05)


def compared(
    name: str, found: Sequence[Sequence[Caption]], expected: Sequence[Sequence[Caption]]
) -> Iterator[Row]:
    """The share of equal captions, and the largest difference of their log-probabilities."""
    share, difference = agreement(found, expected)
    yield check(name, share, least=EQUAL)
    yield check(f"{name}: log-probabilities", difference, most=CLOSE)


def agreement(
    found: Sequence[Sequence[Caption]], expected: Sequence[Sequence[Caption]]
) -> tuple[float, float]:
    """The share of images with equal captions, and the largest difference of their log-probabilities."""
    pairs = list(zip(found, expected, strict=True))
    same = [(one, two) for one, two in pairs if [a.text for a in one] == [b.text for b in two]]
    differences = [
        abs(a.log_probability - b.log_probability) for one, two in same for a, b in zip(one, two, strict=True)
    ]
    return len(same) / len(pairs), max(differences, default=0.0)


def relative(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference / the norm of what is expected."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def largest(found: Tensor, expected: Tensor) -> float:
    """The largest absolute difference."""
    return float((found.double() - expected.double()).abs().max())


def median(values: Sequence[float]) -> float:
    """Of some values; NaN of none."""
    return float(torch.tensor(values).median()) if values else float("nan")
