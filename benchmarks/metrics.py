"""Our metrics against pycocoevalcap's own on real COCO references, their time, and that of retrieval.

python benchmarks/metrics.py --captions coco_val2017_captions.jsonl
taskset -c 0 python benchmarks/metrics.py --captions coco_val2017_captions.jsonl --full --out metrics.json

Needs Java, and captions as JSON lines `{"image": name, "captions": [...]}`; without --captions it writes
some itself, in the demo world's words.

`corpus` and `by_image`: largest difference of each metric, of the corpus or of a single image, between
jobs/evaluate.py's path (our tokenizer, our calls) and pycocoevalcap's (its Java tokenizer, its scorers),
values as published (not x 100). Each image's first caption is the hypothesis, once against its first five
captions, itself included, and once against the other four. The Java tokenizer reads a whole file as one
text: whether the period after a single letter ends a sentence depends on how the next caption begins.
`otherwise` has the captions that get other tokens than ours by that; `apart_corpus` and `apart_by_image`
are the differences when it reads a neutral line between any two captions. `text_metrics_s`: BLEU, ROUGE-L
and CIDEr of 1,000 images x 5 after tokenization; `retrieval_s`: 5,000 captions among 5,000 images, 512
numbers each; both in seconds of the process's own CPU time, one thread. `retrieval_100k_peak_mb`: all
memory of a process that ranks 100,000 captions among 100,000 images; `retrieval_100k_before_mb`: before,
its two inputs of 205 MB each included.

Without --full: 500 images, no METEOR, 20,000 images for the peak; about a minute. With it: all images,
METEOR, 100,000 images; some minutes. The last line is one JSON object.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # before numpy reads them

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
from pycocoevalcap.bleu.bleu import Bleu  # noqa: E402
from pycocoevalcap.cider.cider import Cider  # noqa: E402
from pycocoevalcap.meteor.meteor import Meteor  # noqa: E402
from pycocoevalcap.rouge.rouge import Rouge  # noqa: E402
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for benchmarks/decoding.py

from benchmarks.decoding import machine, megabytes  # noqa: E402
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
"""Hypothesis and references by image."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to score."""

    captions: str | None = None
    """JSON lines of images with five or more captions each."""
    full: bool = False
    """All images, METEOR and 100,000 images for retrieval."""
    out: str | None = None
    """Where to write the JSON."""
    peak: int | None = None
    """Used by the script itself: rank so many images in this process."""


def main() -> int:
    """Compare, time, print."""
    config = parse(Config, description=__doc__)
    if config.peak:
        print(json.dumps(ranked(config.peak)))
        return 0
    captions = read(config.captions) if config.captions else spoken(TIMED_IMAGES)
    compared = captions if config.full else dict(list(captions.items())[:500])
    metrics: list[Metric] = [*WITHOUT_JAVA, "METEOR"] if config.full else list(WITHOUT_JAVA)
    many = 100_000 if config.full else 20_000
    peak = in_a_process(many)
    result = {
        "images": len(compared),
        "source": Path(config.captions).name if config.captions else "scenes",
        "otherwise": otherwise(compared),
        **parity(splits(compared), metrics, apart=False),
        **parity(splits(compared), metrics, apart=True),
        "text_metrics_s": text_metrics_seconds(captions),
        "retrieval_s": retrieval_seconds(RETRIEVED),
        f"retrieval_{many // 1000}k_peak_mb": peak["peak_mb"],
        f"retrieval_{many // 1000}k_before_mb": peak["before_mb"],
        f"retrieval_{many // 1000}k_s": peak["seconds"],
        "machine": machine(),
    }
    if config.out:
        Path(config.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return 0


# ---- parity


def read(path: str) -> Captions:
    """The first five captions of each image."""
    rows = map(json.loads, Path(path).read_text().splitlines())
    return {row["image"]: row["captions"][:REFERENCES] for row in rows}


def spoken(count: int) -> Captions:
    """Captions of scenes."""
    scenes = [sample_scene("test", index) for index in range(count)]
    return {f"{index}.jpg": list(describe(scene).references) for index, scene in enumerate(scenes)}


def splits(captions: Captions) -> list[Split]:
    """Each image's first caption, against all five and against the others."""
    first = {name: texts[0] for name, texts in captions.items()}
    return [(first, captions), (first, {name: texts[1:] for name, texts in captions.items()})]


def otherwise(captions: Captions) -> list[str]:
    """The captions that pycocoevalcap's tokenizer, reading all of them, splits otherwise than ours."""
    theirs = split_by_java(captions, apart=False)
    ours = tokenized({name: texts[0] for name, texts in captions.items()}, captions).references
    return [
        text
        for name, texts in captions.items()
        for text, one, other in zip(texts, ours[name], theirs[name], strict=True)
        if one != other
    ]


def parity(given: list[Split], metrics: list[Metric], *, apart: bool) -> dict[str, dict[str, float]]:
    """Largest absolute differences from pycocoevalcap's own, of corpora and of images."""
    corpus: dict[str, float] = {}
    images: dict[str, float] = {}
    for hypotheses, references in given:
        ours = score(tokenized(hypotheses, references), metrics)
        assert not ours.notes, ours.notes
        theirs, by_image = reference(hypotheses, references, "METEOR" in metrics, apart=apart)
        for name, value in theirs.items():
            raise_to(corpus, name, abs(ours.values[name] / 100 - value))
        for name, values in by_image.items():
            raise_to(images, name, float(np.abs(ours.by_image[name] / 100 - values).max()))
    before = "apart_" if apart else ""
    return {f"{before}corpus": corpus, f"{before}by_image": images}


def raise_to(found: dict[str, float], name: str, value: float) -> None:
    """Keep the larger value, in three digits."""
    found[name] = max(found.get(name, 0.0), float(f"{value:.3g}"))


def split_by_java(captions: Captions, *, apart: bool) -> Captions:
    """Tokens by pycocoevalcap's own tokenizer; `apart` puts a line between captions that ends no sentence."""
    every = {name: [{"caption": text} for text in texts] for name, texts in captions.items()}
    if apart:
        every = {name: [line for one in lines for line in (one, NEUTRAL)] for name, lines in every.items()}
    found = PTBTokenizer().tokenize(every)
    return {name: texts[::2] for name, texts in found.items()} if apart else found


def reference(
    hypotheses: dict[str, str], references: Captions, meteor: bool, *, apart: bool
) -> tuple[dict[str, float], dict[str, npt.NDArray[np.float64]]]:
    """What pycocoevalcap's own classes give, tokenizer included."""
    said = split_by_java({name: [text] for name, text in hypotheses.items()}, apart=apart)
    known = split_by_java(references, apart=apart)
    with contextlib.redirect_stdout(io.StringIO()):
        bleu, _ = Bleu(4).compute_score(known, said, verbose=0)
    values = dict(zip(BLEU_NAMES, map(float, bleu), strict=True))
    by_image = {}
    for name, scorer in (("ROUGE-L", Rouge()), ("CIDEr", Cider())):
        value, each = scorer.compute_score(known, said)
        values[name], by_image[name] = float(value), np.asarray(each)
    if meteor:
        values["METEOR"] = float(Meteor().compute_score(known, said)[0])
    return values, by_image


# ---- time and memory


def text_metrics_seconds(captions: Captions) -> float:
    """Of `TIMED_IMAGES` images x 5 after tokenization."""
    tokens = tokenized(*splits(dict(list(captions.items())[:TIMED_IMAGES]))[0])
    assert len(tokens.hypotheses) == TIMED_IMAGES
    return fastest(lambda: score(tokens, WITHOUT_JAVA))


def retrieval_seconds(count: int) -> float:
    """Of `count` captions among as many images."""
    given = embeddings(count)
    return fastest(lambda: retrieval(*given))


def fastest(call: Callable[[], Any], rounds: int = 3) -> float:
    """CPU seconds of this process, the fastest of some rounds."""
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return round(min(seconds), 3)


def embeddings(count: int) -> list[npt.NDArray[np.float32]]:
    """Random captions and images, each caption near its image."""
    generator = np.random.default_rng(0)
    images = generator.normal(size=(count, EMBEDDING)).astype(np.float32)
    captions = images + 4 * generator.normal(size=(count, EMBEDDING)).astype(np.float32)
    for one in (captions, images):
        one /= np.linalg.norm(one, axis=1, keepdims=True)
    return [captions, images]


def in_a_process(count: int) -> dict[str, float]:
    """`ranked` in a new process."""
    command = [sys.executable, __file__, "--peak", str(count)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def ranked(count: int) -> dict[str, float]:
    """CPU seconds of ranking, and the most memory that this process had in doing so."""
    given = embeddings(count)
    Path("/proc/self/clear_refs").write_text("5")  # making them took more: the peak starts again
    before, start = megabytes("VmHWM"), time.process_time()
    retrieval(*given)
    seconds = round(time.process_time() - start, 1)
    return {"seconds": seconds, "before_mb": before, "peak_mb": megabytes("VmHWM")}


if __name__ == "__main__":
    run(main)
