"""Measure the images/s of self-critical training (SCST), and the time of each part of a step.

python benchmarks/scst.py
python benchmarks/scst.py --full --out scst.json

The models have the paper's sizes and random weights: GLIED with 9,487 words, 36 regions x 2048 and 49
attributes. Each image gets five samples and a greedy caption, nearly all truncated at 20 words, and is
rewarded with CIDEr-D and with the CLIP-S of an open_clip model (ViT-B-32, float32). The steps are those of
jobs/train_scst.py: draw, score, reward, update. Batches are collated beforehand, because training does that
in parallel.

Time is that of the training thread: asynchronous GPU work counts in the part that waits for it, so that
scoring counts as reward. Without an option, batches have 4 images and the script takes a minute on one core.
With --full, batches have 256 images in bf16, which is meant for a GPU. The last line is one JSON object.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from open_clip import SimpleTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the other files of benchmarks/

from benchmarks.decoding_products import ATTRIBUTES, FEATURES, REGIONS, STEPS, WORDS
from benchmarks.measurement import print_result, torch_machine
from glied.captioner.architectures import PAPER_SIZES, build_model
from glied.captioner.captioner import Captioner
from glied.clip.config import ClipConfig
from glied.clip.scorer import load_clip
from glied.config import parse, run
from glied.data import features
from glied.data.captioned_regions import RewardedRegions
from glied.data.coco import CaptionedImage, write_captions
from glied.regions import Regions
from glied.rewards.config import RewardConfig
from glied.text.references import save_frequencies
from glied.text.vocabulary import SPECIAL, Vocabulary
from glied.training import steps
from glied.training.config import TrainerConfig
from glied.training.onednn import onednn_products
from glied.training.tasks.scst import ScstTask
from glied.training.tasks.scst_config import SamplingConfig, TrainScstConfig
from glied.vision.attributes import AttributePredictor, save_attributes
from glied.vision.extractors.clip_images import image_fingerprint

BATCH = 256
REFERENCES = 5
RATE = 5e-6


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    full: bool = False
    """Batches of 256 in bf16 instead of 4 in fp32."""
    clip: str = "ViT-B-32"
    """open_clip architecture used as reward."""
    device: str = "auto"
    """Torch device; auto is a GPU if there is one."""
    rounds: int = 8
    """Number of measured steps, after two warm-up steps."""
    threads: int = 1
    """Number of torch threads on a CPU."""
    out: str | None = None
    """File for the JSON."""

    @property
    def batch_size(self) -> int:
        """Images per step."""
        return BATCH if self.full else 4

    @property
    def torch_device(self) -> torch.device:
        """Device that trains."""
        gpu = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(gpu if self.device == "auto" else self.device)


def main() -> int:
    """Train on random inputs in a temporary folder and print the figures."""
    config = parse(Config, description=__doc__)
    torch.set_num_threads(config.threads)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(config, Path(folder))
    print_result(result, config.out)
    return 0


def measure(config: Config, folder: Path) -> dict[str, Any]:
    """Measure images/s, and the share of each part of a step."""
    device, batch_size = config.torch_device, config.batch_size
    task = make_task(config, folder)
    rows = [row for uri in task.data("train") for row in pq.read_table(uri).to_pylist()]
    batches = [
        steps.move(task.collate(rows, training=True, generator=steps.generator(number)), device)
        for number in range(2)
    ]
    with onednn_products(device):
        spent = list(train(config, task, batches, device))[2:]
    seconds = {name: float(np.median([one[name] for one in spent])) for name in spent[0]}
    total = seconds.pop("seconds")
    result = {
        "images_per_s": round(batch_size / total, 2),
        "batch_size": batch_size,
        "seconds": round(total, 4),
    }
    result |= {f"share_{name}": round(value / total, 3) for name, value in seconds.items()}
    if device.type == "cuda":
        result["peak_gb"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 2)
    machine = torch_machine(device.type)
    return result | {"clip": config.clip, "device": str(device), "machine": machine}


def train(
    config: Config, task: ScstTask, batches: list[Any], device: torch.device
) -> Iterator[dict[str, float]]:
    """Run the steps, and yield the seconds of each step and of its parts."""
    model = task.build().to(device).train()
    optimizer = steps.build_optimizer(model, name="adamw", learning_rate=RATE, weight_decay=0.0)
    for step in range(config.rounds + 2):
        start = time.perf_counter()
        with steps.autocast(device, bf16=config.full):
            loss, figures = task.loss(model, batches[step % len(batches)])
        steps.optimizer_step(loss, model, optimizer, learning_rate=RATE, clip_norm=1.0)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = {"seconds": time.perf_counter() - start}
        for name, value in figures.items():
            if name.startswith("seconds_"):
                seconds[name.removeprefix("seconds_")] = float(value)
        others = sum(seconds[name] for name in ("draw", "score", "reward"))
        yield seconds | {"update": seconds["seconds"] - others}


def make_task(config: Config, folder: Path) -> ScstTask:
    """Return a task over one batch of random images: captioner, regions, references and CLIP features."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    vocabulary = clip_vocabulary()
    model = build_model(PAPER_SIZES["glied"], feature_size=FEATURES, vocabulary_size=len(vocabulary))
    Captioner(model, vocabulary, attribute_count=ATTRIBUTES).save(str(folder / "start"))
    words = vocabulary.words[len(SPECIAL) : len(SPECIAL) + 1000]
    save_attributes(AttributePredictor(words, feature_size=FEATURES), str(folder / "attributes"))
    clip = ClipConfig(model=config.clip, allow_random=True)
    scorer = load_clip(clip)
    names = [f"{number}.jpg" for number in range(config.batch_size)]
    write_store(folder / "regions", names, REGIONS, FEATURES, {"weights": "random"}, generator)
    write_store(folder / "clip", names, 1, scorer.size, image_fingerprint(scorer), generator)
    captions = {name: [sentence(vocabulary, generator) for _ in range(REFERENCES)] for name in names}
    images = [CaptionedImage(number, name, own) for number, (name, own) in enumerate(captions.items())]
    (folder / "captions.json").write_bytes(write_captions(images))
    split = RewardedRegions(
        features=str(folder / "regions"),
        captions=str(folder / "captions.json"),
        clip_features=str(folder / "clip"),
    )
    save_frequencies(str(folder / "frequencies"), split.references, vocabulary)
    reward = RewardConfig(cider=1.0, clip_s=2.0, clip=clip, frequencies=str(folder / "frequencies"))
    job = TrainScstConfig(
        start=str(folder / "start"),
        attributes=str(folder / "attributes"),
        train=split,
        validation=split,
        reward=reward,
        sampling=SamplingConfig(samples=5, max_length=STEPS),
        trainer=TrainerConfig(output=str(folder / "run")),
    )
    return ScstTask(job)


def clip_vocabulary() -> Vocabulary:
    """Return a vocabulary of words that are one CLIP token each, as nearly all words of captions are."""
    tokens = (token.removesuffix("</w>") for token in SimpleTokenizer().encoder if token.endswith("</w>"))
    words = [token for token in tokens if token.isascii() and token.isalpha()]
    return Vocabulary(words[: WORDS + 1 - len(SPECIAL)])


def sentence(vocabulary: Vocabulary, generator: np.random.Generator) -> str:
    """Draw a reference of 9 to 13 words with Zipf-distributed frequencies."""
    numbers = generator.zipf(1.35, int(generator.integers(9, 14))) % (len(vocabulary) - len(SPECIAL))
    return " ".join(vocabulary.words[len(SPECIAL) + number] for number in numbers)


def write_store(
    folder: Path, names: list[str], regions: int, size: int, fingerprint: Any, generator: np.random.Generator
) -> None:
    """Write a feature store of random regions."""
    folder.mkdir()
    stored = [
        Regions(
            boxes=np.tile(np.array([[0, 0, 100, 100]], np.float32), (regions, 1)),
            features=generator.standard_normal((regions, size), np.float32),
            scores=np.ones(regions, np.float32),
            labels=["thing"] * regions,
            attributes=[[]] * regions,
            width=100,
            height=100,
        )
        for _ in names
    ]
    table = features.write(stored, [f"images/{name}" for name in names], fingerprint=fingerprint)
    (folder / "part.parquet").write_bytes(features.parquet_bytes(table))


if __name__ == "__main__":
    run(main)
