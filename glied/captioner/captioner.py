"""A trained captioner: model, vocabulary and decoding settings, loaded from a checkpoint folder."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from glied import checkpoint
from glied.captioner.architectures import build_model
from glied.captioner.config import DecodingConfig
from glied.captioner.cuda_graphs import GraphDecoder
from glied.captioner.decode import decode
from glied.captioner.explain import Explanation, explain
from glied.captioner.familiarity import Familiarity, load_familiarity
from glied.captioner.inference import freeze
from glied.captioner.model import CaptionerConfig, CaptioningModel
from glied.captioner.search_state import Hypothesis
from glied.config_keys import from_record
from glied.errors import UsageError
from glied.regions import RegionBatch, Regions
from glied.text.tokenizer import tokenize
from glied.text.vocabulary import PAD, Vocabulary

KIND = "captioner"


@dataclass(frozen=True)
class Caption:
    """A caption as text with the natural logarithm of its probability.

    Attributes:
        text: words separated by spaces.
        log_probability: of the caption with its end token.
        truncated: it was cut at the maximum length.
    """

    text: str
    log_probability: float
    truncated: bool = False


class Captioner:
    """Generates captions from regions and attributes."""

    def __init__(
        self,
        model: CaptioningModel,
        vocabulary: Vocabulary,
        *,
        attribute_count: int = 49,
        decoding: DecodingConfig | None = None,
        digest: str = "",
        extractor: Mapping[str, Any] | None = None,
        familiarity: Familiarity | None = None,
        cuda_graphs: bool = False,
    ) -> None:
        """Create a captioner; the weights must not change once it has generated captions.

        Args:
            model: the model; it is put into evaluation mode.
            vocabulary: vocabulary of the model.
            attribute_count: N, the maximum number of attribute words per image.
            decoding: how captions are generated.
            digest: identifies the weights.
            extractor: fingerprint of the extractor whose regions the model was trained on, if known.
            familiarity: rates how similar an image is to the training images, if known.
            cuda_graphs: decode with CUDA graphs; the model must be on a GPU.

        Raises:
            UsageError: a word to suppress is not in the vocabulary.
        """
        self.model = model.eval()
        self.vocabulary = vocabulary
        self.attribute_count = attribute_count
        self.decoding = decoding or DecodingConfig()
        self.digest = digest
        self.extractor = extractor
        self.familiarity = familiarity
        self.cuda_graphs = cuda_graphs
        unknown = [word for word in self.decoding.suppress if word not in vocabulary]
        if unknown:
            raise UsageError(f"suppress: the captioner has no word {unknown[0]!r}")
        self._suppressed = [vocabulary.ids[word] for word in self.decoding.suppress]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.embedding.weight.device

    @cached_property
    def frozen(self) -> CaptioningModel:
        """The inference copy of the model, created on first use."""
        return freeze(self.model)

    @cached_property
    def _graph_decoder(self) -> GraphDecoder:
        return GraphDecoder(self.frozen, self.decoding, self._suppressed)

    @classmethod
    def load(
        cls,
        uri: str,
        decoding: DecodingConfig | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        cuda_graphs: bool = False,
    ) -> "Captioner":
        """Load a checkpoint folder that `save` wrote; computes in `dtype`. Other arguments as in `__init__`.

        Raises:
            UsageError: there is no captioner in the folder.
        """
        loaded = checkpoint.load(uri, KIND)
        metadata = loaded.metadata
        familiarity = load_familiarity(uri)
        if familiarity and familiarity.feature_size != metadata["feature_size"]:
            sizes = f"{familiarity.feature_size} values, the captioner reads {metadata['feature_size']}"
            raise UsageError(f"{uri}: its familiarity was computed from features of {sizes}")
        vocabulary = Vocabulary.from_json(metadata["vocabulary"], metadata["vocabulary_digest"])
        model = build_model(
            from_record(CaptionerConfig, metadata["config"]),
            feature_size=metadata["feature_size"],
            vocabulary_size=len(vocabulary),
        )
        model.load_state_dict(loaded.tensors)
        return cls(
            model.to(device, dtype),
            vocabulary,
            attribute_count=metadata["attribute_count"],
            decoding=decoding,
            digest=loaded.digest,
            extractor=loaded.extractor,
            familiarity=familiarity,
            cuda_graphs=cuda_graphs,
        )

    def save(self, uri: str, *, half: bool = False, **extra: Any) -> None:
        """Write the checkpoint folder, with `extra` as additional metadata."""
        metadata = extra | {
            "kind": KIND,
            "config": dataclasses.asdict(self.model.config),
            "feature_size": self.model.feature_size,
            "attribute_count": self.attribute_count,
            "vocabulary": self.vocabulary.to_json(),
            "vocabulary_digest": self.vocabulary.digest,
        }
        checkpoint.save(uri, self.model.state_dict(), metadata, half=half, extractor=self.extractor)
        if self.familiarity is not None:
            self.familiarity.save(uri)

    def caption(
        self,
        regions: Sequence[Regions],
        attributes: Sequence[Sequence[tuple[str, float]]],
        seeds: Sequence[int] | None = None,
    ) -> list[list[Caption]]:
        """Caption images.

        Args:
            regions: the regions of each image.
            attributes: (word, probability) pairs of each image, most probable first; words outside the
                vocabulary are dropped.
            seeds: one per image, for sampling; by default each image uses the seed of the decoding config.

        Returns:
            The `n_best` captions of each image, best first.
        """
        if not regions:
            return []
        return self.caption_batch(RegionBatch.collate(regions).to(self.device), attributes, seeds)

    def caption_batch(
        self,
        batch: RegionBatch,
        attributes: Sequence[Sequence[tuple[str, float]]],
        seeds: Sequence[int] | None = None,
    ) -> list[list[Caption]]:
        """As `caption`, of regions that are collated and on the model's device; of one image at least."""
        device = self.device
        words = [[word for word, _ in one] for one in attributes]
        ids, mask = attribute_ids(words, self.vocabulary, self.attribute_count)
        with torch.inference_mode():
            encoded = self.frozen.encode(batch, ids.to(device), mask.to(device))
        if self.cuda_graphs:
            results = self._graph_decoder.decode(encoded, seeds)
        else:
            results = decode(self.frozen, encoded, self.decoding, suppressed=self._suppressed, seeds=seeds)
        return [[self._caption(one) for one in hypotheses] for hypotheses in results]

    def _caption(self, found: Hypothesis) -> Caption:
        text = " ".join(self.vocabulary.decode(found.tokens))
        return Caption(text, found.log_probability, truncated=not found.finished)

    def explain(self, regions: Regions, attributes: Sequence[tuple[str, float]], caption: str) -> Explanation:
        """Return what each word of a caption attended to; the caption need not come from this captioner.

        Args:
            regions: the regions of the image.
            attributes: (word, probability) pairs, as in `caption`.
            caption: the caption as text.
        """
        device = self.device
        ids, _ = attribute_ids([[word for word, _ in attributes]], self.vocabulary, self.attribute_count)
        tokens = self.vocabulary.encode(tokenize(caption))
        return explain(
            self.frozen,
            RegionBatch.collate([regions]).to(device),
            ids.to(device),
            tokens,
            words=[self.vocabulary.words[token] for token in tokens],
            attribute_words=[self.vocabulary.words[index] for index in ids[0].tolist()],
        )


def attribute_ids(
    words: Sequence[Sequence[str]], vocabulary: Vocabulary, count: int
) -> tuple[Tensor, Tensor]:
    """Return the first `count` known words of each image: ids and mask (True where real), [B, N] each."""
    known = [[vocabulary.ids[word] for word in one if word in vocabulary][:count] for one in words]
    longest = max((len(one) for one in known), default=0)
    ids = torch.full((len(known), longest), PAD)
    for row, one in zip(ids, known, strict=True):
        row[: len(one)] = torch.tensor(one, dtype=torch.int64)
    lengths = torch.tensor([len(one) for one in known])
    return ids, torch.arange(longest) < lengths[:, None]
