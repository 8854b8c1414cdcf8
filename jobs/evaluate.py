"""Score captions against references: CIDEr, BLEU-1..4, ROUGE-L (pycocoevalcap, no Java needed).

python jobs/evaluate.py --captions demo/captions --references demo/scenes/captions.json --out results.json
"""

import hashlib
import importlib.metadata
import json
from dataclasses import dataclass

from glied import storage
from glied.config import parse, run
from glied.evaluation.captions import read_captions, read_references
from glied.evaluation.text_metrics import text_metrics


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What to score."""

    captions: str
    """Run folder of jobs/caption_dataset.py, COCO results JSON, or JSONL with image_id or id, and caption."""
    references: str
    """Captions file in the COCO form; its file names or image ids match those of the captions."""
    out: str | None = None
    """Where to write the figures with their recipe, as JSON."""


def main() -> int:
    """Read, score, print, write."""
    config = parse(EvaluateConfig, description=__doc__)
    captions = read_captions(config.captions)
    references = read_references(config.references, list(captions))
    metrics = text_metrics(captions, references)
    print(f"{len(captions)} captions: " + ", ".join(f"{name} {value:.1f}" for name, value in metrics.items()))
    if config.out:
        recipe = {
            "captions": config.captions,
            "references": config.references,
            "references_sha256": hashlib.sha256(storage.read_bytes(config.references)).hexdigest(),
            "images": len(captions),
            "tokenizer": "glied.captioner.vocabulary.tokenize",
            "pycocoevalcap": importlib.metadata.version("pycocoevalcap"),
        }
        storage.write_bytes(config.out, json.dumps({"metrics": metrics, "recipe": recipe}, indent=1).encode())
    return 0


if __name__ == "__main__":
    run(main)
