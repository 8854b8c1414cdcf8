"""Compare our text metrics with pycocoevalcap's on real COCO references, and measure their time and memory.

python benchmarks/metrics.py --captions coco_val2017_captions.jsonl
taskset -c 0 python benchmarks/metrics.py --captions coco_val2017_captions.jsonl --full --out metrics.json

The script needs Java, and captions as JSON lines `{"image": name, "captions": [...]}`; without --captions it
generates captions of the demo world.

`corpus` and `by_image` are the largest differences of each metric, for the corpus and for single images,
between the code of jobs/evaluate.py and pycocoevalcap's own classes with its Java tokenizer, in published
units (not x 100). The hypothesis is the first caption of each image, compared once with the first five
captions, itself included, and once with the other four.

The Java tokenizer reads a whole file as one text, so that it depends on the next caption whether a period
after a single letter ends a sentence. `different_tokens` lists the captions that it therefore tokenizes
differently; `separated_corpus` and `separated_by_image` are the differences with a neutral line between any
two captions.

`text_metrics_s` is the time of BLEU, ROUGE-L and CIDEr for 1,000 images x 5 after tokenization; `retrieval_s`
that of ranking 5,000 captions among 5,000 images with vectors of 512 numbers; both are CPU seconds of one
thread. `retrieval_100k_peak_mb` is the peak memory of a process that ranks 100,000 captions among 100,000
images, `retrieval_100k_before_mb` its memory before that, with its two inputs of 205 MB each.

Without --full, the script uses 500 images, no METEOR and 20,000 images for the peak; this takes about a
minute. With --full, it uses all images, METEOR and 100,000 images; this takes some minutes. The last line is
one JSON object.
"""

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # before numpy is imported

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
from pycocoevalcap.bleu.bleu import Bleu  # noqa: E402
from pycocoevalcap.cider.cider import Cider  # noqa: E402
from pycocoevalcap.meteor.meteor import Meteor  # noqa: E402
from pycocoevalcap.rouge.rouge import Rouge  # noqa: E402
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the other files of benchmarks/

from benchmarks.measurement import (  # noqa: E402
    json_from_subprocess,
    memory_mb,
    print_result,
    reset_peak_memory,
    torch_machine,
)
from glied.config import parse, run  # noqa: E402
from glied.demo_world.language import describe  # noqa: E402
from glied.demo_world.world import sample_scene  # noqa: E402
from glied.metrics.retrieval import retrieval  # noqa: E402
from glied.metrics.text_metrics import WITHOUT_JAVA, Metric, score, tokenized  # noqa: E402

REFERENCES, TIMED_IMAGES, RETRIEVED, EMBEDDING = 5, 1000, 5000, 512
NEUTRAL = {"caption": "x"}
BLEU_NAMES = tuple(f"BLEU-{order}" for order in (1, 2, 3, 4))

Captions = dict[str, list[str]]
Split = tuple[dict[str, str], Captions]
"""Hypothesis by image, references by image."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to compare and measure."""

    captions: str | None = None
    """JSON lines of images with five or more captions each."""
    full: bool = False
    """Use all images, METEOR, and 100,000 images for retrieval."""
    out: str | None = None
    """File for the JSON."""
    peak: int | None = None
    """Used by the script itself: rank this number of images in this process."""


def main() -> int:
    """Compare the metrics, measure time and memory, and print the figures."""
    config = parse(Config, description=__doc__)
    if config.peak:
        print(json.dumps(measure_ranking(config.peak)))
        return 0
    captions = read(config.captions) if config.captions else scene_captions(TIMED_IMAGES)
    compared = captions if config.full else dict(list(captions.items())[:500])
    metrics: list[Metric] = [*WITHOUT_JAVA, "METEOR"] if config.full else list(WITHOUT_JAVA)
    many = 100_000 if config.full else 20_000
    peak = json_from_subprocess(__file__, "--peak", str(many))
    result = {
        "images": len(compared),
        "source": Path(config.captions).name if config.captions else "scenes",
        "different_tokens": different_tokens(compared),
        **parity(splits(compared), metrics, separated=False),
        **parity(splits(compared), metrics, separated=True),
        "text_metrics_s": text_metrics_seconds(captions),
        "retrieval_s": retrieval_seconds(RETRIEVED),
        f"retrieval_{many // 1000}k_peak_mb": peak["peak_mb"],
        f"retrieval_{many // 1000}k_before_mb": peak["before_mb"],
        f"retrieval_{many // 1000}k_s": peak["seconds"],
        "machine": torch_machine(),
    }
    print_result(result, config.out)
    return 0


# ---- parity


def read(path: str) -> Captions:
    """Read the first five captions of each image."""
    rows = map(json.loads, Path(path).read_text().splitlines())
    return {row["image"]: row["captions"][:REFERENCES] for row in rows}


def scene_captions(count: int) -> Captions:
    """Generate the reference captions of scenes."""
    scenes = [sample_scene("test", index) for index in range(count)]
    return {f"{index}.jpg": list(describe(scene).references) for index, scene in enumerate(scenes)}


def splits(captions: Captions) -> list[Split]:
    """Pair each image's first caption with all five captions, and with the other four."""
    first = {name: texts[0] for name, texts in captions.items()}
    return [(first, captions), (first, {name: texts[1:] for name, texts in captions.items()})]


def different_tokens(captions: Captions) -> list[str]:
    """Return the captions that the Java tokenizer, reading all of them as one text, splits differently."""
    theirs = tokenize_with_java(captions, separated=False)
    ours = tokenized({name: texts[0] for name, texts in captions.items()}, captions).references
    return [
        text
        for name, texts in captions.items()
        for text, one, other in zip(texts, ours[name], theirs[name], strict=True)
        if one != other
    ]


def parity(pairs: list[Split], metrics: list[Metric], *, separated: bool) -> dict[str, dict[str, float]]:
    """Return the largest absolute differences from pycocoevalcap, for corpora and for images."""
    corpus: dict[str, float] = {}
    images: dict[str, float] = {}
    for hypotheses, references in pairs:
        ours = score(tokenized(hypotheses, references), metrics)
        assert not ours.notes, ours.notes
        theirs, by_image = reference_scores(hypotheses, references, "METEOR" in metrics, separated=separated)
        for name, value in theirs.items():
            keep_maximum(corpus, name, abs(ours.values[name] / 100 - value))
        for name, values in by_image.items():
            keep_maximum(images, name, float(np.abs(ours.by_image[name] / 100 - values).max()))
    prefix = "separated_" if separated else ""
    return {f"{prefix}corpus": corpus, f"{prefix}by_image": images}


def keep_maximum(maxima: dict[str, float], name: str, value: float) -> None:
    """Keep the larger value, rounded to three digits."""
    maxima[name] = max(maxima.get(name, 0.0), float(f"{value:.3g}"))


def tokenize_with_java(captions: Captions, *, separated: bool) -> Captions:
    """Tokenize with pycocoevalcap's tokenizer; `separated` puts a line after each caption to isolate it."""
    lines = {name: [{"caption": text} for text in texts] for name, texts in captions.items()}
    if separated:
        lines = {name: [line for one in own for line in (one, NEUTRAL)] for name, own in lines.items()}
    tokens = PTBTokenizer().tokenize(lines)
    return {name: texts[::2] for name, texts in tokens.items()} if separated else tokens


def reference_scores(
    hypotheses: dict[str, str], references: Captions, meteor: bool, *, separated: bool
) -> tuple[dict[str, float], dict[str, npt.NDArray[np.float64]]]:
    """Score captions with pycocoevalcap's own classes, tokenizer included."""
    tokens = tokenize_with_java({name: [text] for name, text in hypotheses.items()}, separated=separated)
    known = tokenize_with_java(references, separated=separated)
    with contextlib.redirect_stdout(io.StringIO()):
        bleu, _ = Bleu(4).compute_score(known, tokens, verbose=0)
    values = dict(zip(BLEU_NAMES, map(float, bleu), strict=True))
    by_image = {}
    for name, scorer in (("ROUGE-L", Rouge()), ("CIDEr", Cider())):
        value, each = scorer.compute_score(known, tokens)
        values[name], by_image[name] = float(value), np.asarray(each)
    if meteor:
        values["METEOR"] = float(Meteor().compute_score(known, tokens)[0])
    return values, by_image


# ---- time and memory


def text_metrics_seconds(captions: Captions) -> float:
    """Return the CPU seconds of scoring `TIMED_IMAGES` images x 5 after tokenization."""
    tokens = tokenized(*splits(dict(list(captions.items())[:TIMED_IMAGES]))[0])
    assert len(tokens.hypotheses) == TIMED_IMAGES
    return fastest(lambda: score(tokens, WITHOUT_JAVA))


def retrieval_seconds(count: int) -> float:
    """Return the CPU seconds of ranking `count` captions among `count` images."""
    vectors = embeddings(count)
    return fastest(lambda: retrieval(*vectors))


def fastest(call: Callable[[], Any], rounds: int = 3) -> float:
    """Return the CPU seconds of the fastest round."""
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return round(min(seconds), 3)


def embeddings(count: int) -> list[npt.NDArray[np.float32]]:
    """Return random caption and image vectors, each caption near its image."""
    generator = np.random.default_rng(0)
    images = generator.normal(size=(count, EMBEDDING)).astype(np.float32)
    captions = images + 4 * generator.normal(size=(count, EMBEDDING)).astype(np.float32)
    for one in (captions, images):
        one /= np.linalg.norm(one, axis=1, keepdims=True)
    return [captions, images]


def measure_ranking(count: int) -> dict[str, float]:
    """Measure the CPU seconds and the peak memory of ranking in this process."""
    vectors = embeddings(count)
    reset_peak_memory()  # making the vectors took more
    before, start = memory_mb("VmHWM"), time.process_time()
    retrieval(*vectors)
    seconds = round(time.process_time() - start, 1)
    return {"seconds": seconds, "before_mb": before, "peak_mb": memory_mb("VmHWM")}


if __name__ == "__main__":
    run(main)
