"""Check that a GPU computes the same as the CPU in float32, and measure the differences in bfloat16.

TF32 is off in float32; the reference is float64 on the CPU where that is cheap. Captions, regions, CLIP-S and
CIDEr-D are computed for scenes with the shipped weights. Captions may differ where two beams are equal up to
rounding, so the bounds for shares of equal captions are a little below 1; the log-probabilities of equal
captions and the scores have absolute bounds. Each row contains its bound.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.decoding import inputs
from benchmarks.decoding_products import FEATURES, WORDS
from benchmarks.gpu_stages.inputs import BACKBONE, WEIGHTS, captioner, paper_model
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
"""Maximum difference of scores and log-probabilities."""
LOGITS = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Maximum relative error of logits: norm of the difference / norm of the reference."""
DETECTOR = RegionsConfig(checkpoint=str(WEIGHTS / "regions"))
CELLS = RegionsConfig(kind="timm", checkpoint=str(BACKBONE), short_side=224)
EQUAL = 0.97
"""Minimum share of equal captions between computations in float32."""


class World:
    """Scenes, their regions and attributes computed on the CPU, and the shipped models."""

    def __init__(self, folder: Path, setting: Setting) -> None:
        """Render the scenes and extract their regions on the CPU."""
        self.device = setting.torch_device
        self.half = setting.pick(0.25, 0.7)  # minimum share of captions that are equal in bfloat16
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
        """Extract regions with a shipped extractor."""
        extractor = load_extractor(replace(config, device=device))
        parts = (self.pixels[place : place + 16] for place in range(0, len(self.pixels), 16))
        return [one for part in parts for one in extractor(part)]

    def captions(
        self, device: torch.device | str, search: DecodingConfig, dtype: torch.dtype = torch.float32
    ) -> list[list[Caption]]:
        """Caption the regions of the CPU with the shipped captioner."""
        shipped = Captioner.load(str(WEIGHTS / "glied"), search, device, dtype)
        return shipped.caption(self.regions, self.words, range(len(self.regions)))


def rows(setting: Setting) -> Iterator[Row]:
    """Yield the rows of all checks; a check that raises becomes a failed row, and the others still run."""
    checks: list[Callable[[], Iterator[Row]]] = [partial(logits, setting), partial(gradient, setting)]
    with tempfile.TemporaryDirectory() as folder, tf32(False):
        world = World(Path(folder), setting)
        parts = (caption_equality, half_precision, independence, regions, clip, cider)
        checks += [partial(part, world) for part in parts]
        for one in checks:
            try:
                yield from one()
            except Exception as error:  # the other checks may still pass
                name = one.func.__name__ if isinstance(one, partial) else str(one)
                yield {"check": name, "ok": False, "error": f"{type(error).__name__}: {error}"[:500]}


def logits(setting: Setting) -> Iterator[Row]:
    """Compare the logits of whole captions with float64, at paper size with random weights and inputs."""
    batch, device = setting.pick(2, 16), setting.torch_device
    regions, attributes, mask = inputs(batch)
    tokens = torch.randint(4, WORDS + 1, (batch, 3, 20))
    search, host = DecodingConfig(), torch.device("cpu")
    exact = captioner(host, torch.float64, feature_size=FEATURES, decoding=search).model
    with torch.inference_mode():
        expected = exact.logits(exact.encode(regions, attributes, mask), tokens)
        for dtype, most in LOGITS.items():
            model = captioner(device, dtype, feature_size=FEATURES, decoding=search).model
            memory = model.encode(regions.to(device), attributes.to(device), mask.to(device))
            output = model.logits(memory, tokens.to(device)).cpu().double()
            yield check(f"logits against float64: {dtype}", relative_error(output, expected), most=most)


def gradient(setting: Setting) -> Iterator[Row]:
    """Compare the gradient of the cross-entropy over all weights with the CPU's."""
    batch, device = setting.pick(2, 8), setting.torch_device
    regions, attributes, mask = inputs(batch)
    tokens = torch.randint(4, WORDS + 1, (batch, 5, 20))
    gradients = []
    for place in (torch.device("cpu"), device):
        # Without dropout, whose random numbers depend on the device.
        model = copy.deepcopy(paper_model(torch.device("cpu"), torch.float32, FEATURES)).eval().to(place)
        output = model(regions.to(place), attributes.to(place), mask.to(place), tokens.to(place))
        word_cross_entropy(output, tokens.to(place), label_smoothing=0.1).backward()
        gradients.append(gradient_of(model).cpu())
    error = relative_error(gradients[1], gradients[0])
    yield check("gradient of cross-entropy: float32", error, most=1e-4)


def gradient_of(model: nn.Module) -> Tensor:
    """Return the gradients of all weights as one vector."""
    return torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])


def caption_equality(world: World) -> Iterator[Row]:
    """Compare the captions of GPU and CPU in float32 for several searches."""
    searches = {
        "greedy": DecodingConfig(beam_size=1),
        "beam 3": DecodingConfig(beam_size=3),
        "beam 5": DecodingConfig(beam_size=5),
        "samples": DecodingConfig(method="sample", n_best=5),
    }
    for name, search in searches.items():
        expected, captions = world.captions("cpu", search), world.captions(world.device, search)
        yield from compare(f"captions equal the CPU's: {name}", captions, expected)


def half_precision(world: World) -> Iterator[Row]:
    """Compare captions in bfloat16 with those in float32, both on the GPU."""
    for name, beams in (("greedy", 1), ("beam 3", 3)):
        search = DecodingConfig(beam_size=beams)
        expected = world.captions(world.device, search)
        captions = world.captions(world.device, search, torch.bfloat16)
        share, difference = agreement(captions, expected)
        more = {"largest_difference": round(difference, 4)}
        yield check(f"bfloat16 captions equal float32: {name}", share, least=world.half, **more)


def independence(world: World) -> Iterator[Row]:
    """Compare the captions of a batch with those one by one, in reverse order, and with NaN as padding."""
    shipped = Captioner.load(str(WEIGHTS / "glied"), DecodingConfig(beam_size=3), world.device)
    together = shipped.caption(world.regions, world.words)
    pairs = zip(world.regions, world.words, strict=True)
    single = [shipped.caption([region], [words])[0] for region, words in pairs]
    yield from compare("captions alone and in a batch", single, together)
    reverse = shipped.caption(world.regions[::-1], world.words[::-1])[::-1]
    yield from compare("captions in reverse order", reverse, together)
    padded = caption_batch(shipped, pad_with_nan(world.regions), world.words)
    yield from compare("captions with 60 regions, padded with NaN", padded, together)


def pad_with_nan(regions: Sequence[Regions]) -> RegionBatch:
    """Collate regions, padded with NaN to 60 per image."""
    batch = RegionBatch.collate(regions, length=60)
    batch.features[~batch.mask], batch.boxes[~batch.mask] = torch.nan, torch.nan
    return batch


@torch.inference_mode()
def caption_batch(
    shipped: Captioner, batch: RegionBatch, words: Sequence[Sequence[tuple[str, float]]]
) -> list[list[Caption]]:
    """Caption a collated batch, as `Captioner.caption` does."""
    device = shipped.model.embedding.weight.device
    names = [[word for word, _ in one] for one in words]
    ids, mask = attribute_ids(names, shipped.vocabulary, shipped.attribute_count)
    memory = shipped.frozen.encode(batch.to(device), ids.to(device), mask.to(device))
    return [
        [Caption(" ".join(shipped.vocabulary.decode(one.tokens)), one.log_probability) for one in image]
        for image in decode(shipped.frozen, memory, shipped.decoding)
    ]


def regions(world: World) -> Iterator[Row]:
    """Compare the regions of the shipped extractors with the CPU's, without TF32 and with TF32."""
    for kind, config in (("detector", DETECTOR), ("cells", CELLS)):
        expected = world.regions if kind == "detector" else world.extract(config, "cpu")
        for name, enabled, most in (("float32", False, CLOSE), ("TF32", True, 3e-2)):
            with tf32(enabled):
                extracted = world.extract(config, str(world.device))
            yield from compare_regions(f"{kind}, {name}", extracted, expected, most)


def compare_regions(
    name: str, extracted: Sequence[Regions], expected: Sequence[Regions], most: float
) -> Iterator[Row]:
    """Check the share of images with equal labels in equal order, and the error of their features."""
    pairs = list(zip(extracted, expected, strict=True))
    same = [(one, two) for one, two in pairs if one.labels == two.labels]
    yield check(f"images with the CPU's labels in its order: {name}", len(same) / len(pairs), least=0.5)
    errors = [
        relative_error(torch.from_numpy(one.features), torch.from_numpy(two.features)) for one, two in same
    ]
    yield check(f"features where they are the same, median: {name}", median(errors), most=most)


def clip(world: World) -> Iterator[Row]:
    """Compare the CLIP-S of scenes with a reference each, also under autocast and TF32."""
    texts = [world.references[name][0] for name in world.names]
    scores = []
    for device in ("cpu", str(world.device)):
        scorer = load_clip(ClipConfig(checkpoint=str(WEIGHTS / "clip"), device=device))
        scores.append(clip_score(scorer.encode_images(world.pixels), scorer.encode_texts(texts)).cpu())
    difference = largest_difference(scores[1], scores[0])
    yield check("CLIP-S against the CPU's, largest difference", difference, most=CLOSE)
    with tf32(True), torch.autocast(world.device.type, dtype=torch.bfloat16):
        within = clip_score(scorer.encode_images(world.pixels), scorer.encode_texts(texts)).cpu()
    difference = largest_difference(within, scores[1])
    yield check("CLIP-S under autocast and TF32, largest difference", difference, most=1e-5)


def cider(world: World) -> Iterator[Row]:
    """Compare the CIDEr-D rewards of the captions of GPU and CPU."""
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


def compare(
    name: str, captions: Sequence[Sequence[Caption]], expected: Sequence[Sequence[Caption]]
) -> Iterator[Row]:
    """Check the share of equal captions, and the largest difference of their log-probabilities."""
    share, difference = agreement(captions, expected)
    yield check(name, share, least=EQUAL)
    yield check(f"{name}: log-probabilities", difference, most=CLOSE)


def agreement(
    captions: Sequence[Sequence[Caption]], expected: Sequence[Sequence[Caption]]
) -> tuple[float, float]:
    """Return the share of images with equal captions, and their largest log-probability difference."""
    pairs = list(zip(captions, expected, strict=True))
    same = [(one, two) for one, two in pairs if [a.text for a in one] == [b.text for b in two]]
    differences = [
        abs(a.log_probability - b.log_probability) for one, two in same for a, b in zip(one, two, strict=True)
    ]
    return len(same) / len(pairs), max(differences, default=0.0)


def relative_error(values: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference divided by the norm of the expected values."""
    return float((values.double() - expected.double()).norm() / expected.double().norm())


def largest_difference(values: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference."""
    return float((values.double() - expected.double()).abs().max())


def median(values: Sequence[float]) -> float:
    """Return the median, or NaN if there are no values."""
    return float(torch.tensor(values).median()) if values else float("nan")
