"""Images/s of self-critical training, and where a step's time goes.

python benchmarks/scst.py
python benchmarks/scst.py --full --out scst.json

The paper's sizes with random weights: GLIED of 9,487 words over 36 regions x 2048 and 49 attributes, five
samples and the greedy caption of an image, nearly all cut at 20 words, rewarded with CIDEr-D and with CLIP-S
by a CLIP of open_clip (ViT-B-32, random weights, float32). Steps are those of jobs/train_scst.py: draw,
score, reward, update; batches are made beforehand, as training makes them beside its steps.

Seconds are those of the thread that trains: what a GPU has queued counts where it is waited for, so scoring
counts under the reward. Without an option: batches of 4, a minute on one core. With --full: batches of 256 in
bf16, meant for a GPU. The last line is one JSON object.
"""

import json
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for benchmarks/decoding.py

from benchmarks.decoding import ATTRIBUTES, FEATURES, REGIONS, STEPS, WORDS, machine
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
from glied.training.onednn import onednn_products
from glied.training.tasks.scst import SamplingConfig, ScstTask
from glied.vision.attributes import AttributePredictor, save_attributes
from glied.vision.extractors.clip_images import image_fingerprint

BATCH = 256
REFERENCES = 5
RATE = 5e-6


@dataclass(frozen=True, kw_only=True)
class Config:
    """How much, and with which CLIP."""

    full: bool = False
    """Batches of 256 in bf16, instead of 4 in fp32."""
    clip: str = "ViT-B-32"
    """Architecture of open_clip that rewards."""
    device: str = "auto"
    """Torch device; auto is a GPU where there is one."""
    rounds: int = 8
    """Steps that are measured; two more come before them."""
    threads: int = 1
    """Threads of torch on a CPU."""
    out: str | None = None
    """Where to write the JSON."""

    @property
    def batch_size(self) -> int:
        """Images of a step."""
        return BATCH if self.full else 4

    @property
    def chosen(self) -> torch.device:
        """Where to train."""
        gpu = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(gpu if self.device == "auto" else self.device)


def main() -> int:
    """Make the inputs in a temporary folder, train, print."""
    config = parse(Config, description=__doc__)
    torch.set_num_threads(config.threads)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(config, Path(folder))
    if config.out:
        Path(config.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return 0


def measure(config: Config, folder: Path) -> dict[str, Any]:
    """Images/s, and the share of each part in a step."""
    device, batch_size = config.chosen, config.batch_size
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
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else machine()
    return result | {"clip": config.clip, "device": str(device), "machine": name}


def train(
    config: Config, task: ScstTask, batches: list[Any], device: torch.device
) -> Iterator[dict[str, float]]:
    """Take steps; yields the seconds of each and of its parts."""
    model = task.build().to(device).train()
    optimizer = steps.build_optimizer(model, name="adamw", learning_rate=RATE, weight_decay=0.0)
    for step in range(config.rounds + 2):
        begun = time.perf_counter()
        with steps.autocast(device, bf16=config.full):
            loss, figures = task.loss(model, batches[step % len(batches)])
        steps.optimizer_step(loss, model, optimizer, learning_rate=RATE, clip_norm=1.0)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        told = {"seconds": time.perf_counter() - begun}
        for name, value in figures.items():
            if name.startswith("seconds_"):
                told[name.removeprefix("seconds_")] = float(value)
        yield told | {"update": told["seconds"] - sum(told[name] for name in ("draw", "score", "reward"))}


def make_task(config: Config, folder: Path) -> ScstTask:
    """A captioner, regions, references and CLIP vectors of one batch of images, all random."""
    torch.manual_seed(0)
    drawn = np.random.default_rng(0)
    vocabulary = clip_vocabulary()
    model = build_model(PAPER_SIZES["glied"], feature_size=FEATURES, vocabulary_size=len(vocabulary))
    Captioner(model, vocabulary, attribute_count=ATTRIBUTES).save(str(folder / "start"))
    words = vocabulary.words[len(SPECIAL) : len(SPECIAL) + 1000]
    save_attributes(AttributePredictor(words, feature_size=FEATURES), str(folder / "attributes"))
    clip = ClipConfig(model=config.clip, allow_random=True)
    scorer = load_clip(clip)
    names = [f"{number}.jpg" for number in range(config.batch_size)]
    write_store(folder / "regions", names, REGIONS, FEATURES, {"weights": "random"}, drawn)
    write_store(folder / "clip", names, 1, scorer.size, image_fingerprint(scorer), drawn)
    captions = {name: [sentence(vocabulary, drawn) for _ in range(REFERENCES)] for name in names}
    images = [CaptionedImage(number, name, own) for number, (name, own) in enumerate(captions.items())]
    (folder / "captions.json").write_bytes(write_captions(images))
    split = RewardedRegions(
        features=str(folder / "regions"),
        captions=str(folder / "captions.json"),
        clip_features=str(folder / "clip"),
    )
    save_frequencies(str(folder / "frequencies"), split.references, vocabulary)
    reward = RewardConfig(cider=1.0, clip_s=2.0, clip=clip, frequencies=str(folder / "frequencies"))
    return ScstTask(
        start=str(folder / "start"),
        attributes=str(folder / "attributes"),
        train=split,
        validation=split,
        reward=reward,
        sampling=SamplingConfig(samples=5, max_length=STEPS),
    )


def clip_vocabulary() -> Vocabulary:
    """Words that are one token of CLIP's, as nearly all of a captioner's are."""
    tokens = (token.removesuffix("</w>") for token in SimpleTokenizer().encoder if token.endswith("</w>"))
    words = [token for token in tokens if token.isascii() and token.isalpha()]
    return Vocabulary(words[: WORDS + 1 - len(SPECIAL)])


def sentence(vocabulary: Vocabulary, drawn: np.random.Generator) -> str:
    """A reference of 9 to 13 words, the commonest far commoner than the others."""
    numbers = drawn.zipf(1.35, int(drawn.integers(9, 14))) % (len(vocabulary) - len(SPECIAL))
    return " ".join(vocabulary.words[len(SPECIAL) + number] for number in numbers)


def write_store(
    folder: Path, names: list[str], regions: int, size: int, fingerprint: Any, drawn: np.random.Generator
) -> None:
    """A feature store of random regions."""
    folder.mkdir()
    stored = [
        Regions(
            boxes=np.tile(np.array([[0, 0, 100, 100]], np.float32), (regions, 1)),
            features=drawn.standard_normal((regions, size), np.float32),
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
