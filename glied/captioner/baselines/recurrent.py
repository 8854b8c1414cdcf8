"""LSTM, SoftAtt and Up-Down: captioners that carry a state from word to word.

    LSTM      h = LSTM([x; v], h)             Vinyals et al. 2015, arXiv 1411.4555; v: the mean of I
    SoftAtt   h = LSTM([x; att(h)], h)        Xu et al. 2015, arXiv 1502.03044
    Up-Down   h1 = LSTM([h2; v; x], h1)       Anderson et al. 2018, arXiv 1707.07998
              h2 = LSTM([att(h1); h1], h2)

    att(h) = sum_r a_r I_r,  a = softmax_r(w . tanh(W_i I_r + W_h h))
    p      = softmax(W_c h)                   (Up-Down: h2)

Ours: v and x enter LSTM at each word, as in the implementations that the field compares with (Show and Tell
shows v once); states begin at zero; no deep output layer, gate or attention penalty in SoftAtt; I is the
layer-normalized regions, projected to D, as in GLIED; W_c has no bias. The widths that explain the paper's
parameters at V = 9,488 and regions of 2048 (Table 2: 11.5M, 12.1M, 50.1M) are, for LSTM and SoftAtt, D 512,
word embeddings of 300 and an attention of 512 (11.5M, 12.0M); for Up-Down D 1000, embeddings of 1000 and an
attention of 512 (50.1M).

Shapes: B images, R regions, C captions (or beams) of an image, T words, D width, E width of the word
embeddings, A inner width of the attention, V vocabulary.
"""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from glied.captioner.attention import KeyValues, Packing, masked
from glied.captioner.model import REGIONS, CaptionerConfig, CaptioningModel, Memory, Trace
from glied.regions import RegionBatch


@dataclass
class State:
    """Hidden and cell states after the words so far; all that a recurrent model keeps of them.

    Attributes:
        parts: [B, C, D] each; [B, 1, D] before the first word.
    """

    parts: tuple[Tensor, ...]

    def follow(self, parents: Tensor) -> None:
        """Make beam `c` of image `b` the continuation of beam `parents[b, c]`."""
        index = parents[..., None]
        self.parts = tuple(part.gather(1, index.expand(-1, -1, part.shape[-1])) for part in self.parts)

    def select(self, rows: Tensor) -> "State":
        """Keep the images `rows` (int64 indices), in that order."""
        return State(tuple(part.index_select(0, rows) for part in self.parts))


class Cell(nn.Module):
    """An LSTM cell; all four gates are one product."""

    def __init__(self, *, inputs: int, width: int) -> None:
        """`inputs` is the size of what is given at each word besides the hidden state."""
        super().__init__()
        self.gates = nn.Linear(inputs + width, 4 * width)

    def forward(
        self, given: Tensor, hidden: Tensor, cell: Tensor, constant: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One word further.

        Args:
            given: [B, C, inputs].
            hidden: [B, C, D] or [B, 1, D].
            cell: like `hidden`.
            constant: [B, 1, 4D], added to the gates.

        Returns:
            The new hidden and cell state, [B, C, D] each.
        """
        hidden = hidden.expand(*given.shape[:2], -1)
        gates = self.gates(torch.cat((given, hidden), dim=-1))
        if constant is not None:
            gates = gates + constant
        let_in, keep, new, out = gates.chunk(4, dim=-1)
        cell = keep.sigmoid() * cell + let_in.sigmoid() * new.tanh()
        return out.sigmoid() * cell.tanh(), cell


class AdditiveAttention(nn.Module):
    """sum_r a_r I_r with a = softmax_r(w . tanh(W_i I_r + W_h h))."""

    def __init__(self, *, width: int, inner: int) -> None:
        """`inner` is A."""
        super().__init__()
        self.key = nn.Linear(width, inner)
        self.query = nn.Linear(width, inner, bias=False)
        self.score = nn.Linear(inner, 1, bias=False)

    def project(self, image: Tensor, mask: Tensor) -> KeyValues:
        """W_i I and I of [B, R, D]; `mask` [B, R] is True where real."""
        return masked(self.key(image)[:, None], image[:, None], mask)

    def forward(self, hidden: Tensor, source: KeyValues) -> tuple[Tensor, Tensor]:
        """Attend from `hidden` [B, C, D]; returns [B, C, D] and the weights [B, C, R]."""
        inner = (source.keys + self.query(hidden)[:, :, None]).tanh()  # [B, C, R, A]
        scores = self.score(inner).squeeze(-1)
        weights = (scores if source.bias is None else scores + source.bias[:, 0]).softmax(dim=-1)
        return weights @ source.values[:, 0], weights


class Recurrent(CaptioningModel[State]):
    """What the three have in common."""

    states: int
    """Number of hidden and cell states together."""

    @abstractmethod
    def advance(
        self, memory: Memory, words: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor | None]:
        """One word further.

        Args:
            memory: of B images.
            words: [B, C, E].
            state: [B, C, D] each, or [B, 1, D].

        Returns:
            What W_c reads [B, C, D], the new state, and the weights of the regions [B, C, R] if any.
        """

    def start(self, batch: int, captions: int, maximum_length: int) -> State:
        """The state before the first word: zero, however many captions and words there are to be."""
        zero = self.embedding.weight.new_zeros(batch, 1, self.config.width)
        return State((zero,) * self.states)

    def step(self, memory: Memory, tokens: Tensor, cache: State, trace: Trace | None = None) -> Tensor:
        """One word further: the logits [B, C, V] after `tokens` [B, C]; the cache changes in place."""
        words = self.dropout(self._embed(tokens))
        output, cache.parts, weights = self.advance(memory, words, cache.parts)
        if trace is not None and weights is not None:
            trace[REGIONS] = weights[:, None]  # [B, 1, C, R]: one head
        return self.classifier(self.dropout(output))

    def logits(
        self, memory: Memory, tokens: Tensor, mask: Tensor | None = None, trace: Trace | None = None
    ) -> Tensor:
        """Teacher forcing, word after word; as in `CaptioningModel.logits`."""
        captions = tokens if tokens.ndim == 3 else tokens[:, None]
        words = self.dropout(self._embed(captions))  # [B, C, T, E]
        state = self.start(len(captions), captions.shape[1], captions.shape[2]).parts
        outputs, attended = [], []
        for place in range(captions.shape[2]):
            output, state, weights = self.advance(memory, words[:, :, place], state)
            outputs.append(output)
            attended.append(weights)
        if trace is not None and attended[0] is not None:
            trace[REGIONS] = torch.stack([one for one in attended if one is not None], dim=2)[:, None]
        output = torch.stack(outputs, dim=2)  # [B, C, T, D]
        if mask is not None:
            output = Packing.of(mask.view_as(captions)).pack(output)
        logits = self.classifier(self.dropout(output))
        return logits.view(*tokens.shape, -1) if mask is None else logits


class ShowAndTell(Recurrent):
    """LSTM: sees the mean of the regions."""

    states = 2

    def __init__(self, config: CaptionerConfig, *, feature_size: int, vocabulary_size: int) -> None:
        """As `CaptioningModel`."""
        super().__init__(config, feature_size=feature_size, vocabulary_size=vocabulary_size)
        self.mean = nn.Linear(config.width, 4 * config.width, bias=False)
        self.cell = Cell(inputs=config.embedded, width=config.width)
        self._finish()

    def encode(
        self, regions: RegionBatch, attributes: Tensor, attribute_mask: Tensor, trace: Trace | None = None
    ) -> Memory:
        """The mean region as the gates take it; attributes are not looked at."""
        image = self._image(regions)
        return Memory({}, len(image), self.mean(mean(image, regions.mask)))

    def advance(
        self, memory: Memory, words: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor | None]:
        """As in `Recurrent`."""
        state = self.cell(words, *state, memory.vector)
        return state[0], state, None


class ShowAttendTell(Recurrent):
    """SoftAtt: sees the regions, weighted anew at each word."""

    states = 2

    def __init__(self, config: CaptionerConfig, *, feature_size: int, vocabulary_size: int) -> None:
        """As `CaptioningModel`."""
        super().__init__(config, feature_size=feature_size, vocabulary_size=vocabulary_size)
        self.attention = AdditiveAttention(width=config.width, inner=config.attention_width)
        self.cell = Cell(inputs=config.embedded + config.width, width=config.width)
        self._finish()

    def encode(
        self, regions: RegionBatch, attributes: Tensor, attribute_mask: Tensor, trace: Trace | None = None
    ) -> Memory:
        """Keys of the regions; attributes are not looked at."""
        image = self._image(regions)
        return Memory({REGIONS: self.attention.project(image, regions.mask)}, len(image))

    def advance(
        self, memory: Memory, words: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor | None]:
        """As in `Recurrent`."""
        hidden, cell = (part.expand(*words.shape[:2], -1) for part in state)
        context, weights = self.attention(hidden, memory.sources[REGIONS])
        state = self.cell(torch.cat((words, context), dim=-1), hidden, cell)
        return state[0], state, weights


class UpDown(Recurrent):
    """Up-Down: one LSTM decides where to look, the other what to say."""

    states = 4

    def __init__(self, config: CaptionerConfig, *, feature_size: int, vocabulary_size: int) -> None:
        """As `CaptioningModel`."""
        super().__init__(config, feature_size=feature_size, vocabulary_size=vocabulary_size)
        width = config.width
        self.mean = nn.Linear(width, 4 * width, bias=False)
        self.looking = Cell(inputs=config.embedded + width, width=width)
        self.attention = AdditiveAttention(width=width, inner=config.attention_width)
        self.saying = Cell(inputs=2 * width, width=width)
        self._finish()

    def encode(
        self, regions: RegionBatch, attributes: Tensor, attribute_mask: Tensor, trace: Trace | None = None
    ) -> Memory:
        """Keys of the regions, and their mean as the gates take it; attributes are not looked at."""
        image = self._image(regions)
        vector = self.mean(mean(image, regions.mask))
        return Memory({REGIONS: self.attention.project(image, regions.mask)}, len(image), vector)

    def advance(
        self, memory: Memory, words: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor | None]:
        """As in `Recurrent`; the state is (h1, c1, h2, c2)."""
        last = state[2].expand(*words.shape[:2], -1)
        looking = self.looking(torch.cat((words, last), dim=-1), *state[:2], memory.vector)
        context, weights = self.attention(looking[0], memory.sources[REGIONS])
        saying = self.saying(torch.cat((context, looking[0]), dim=-1), *state[2:])
        return saying[0], (*looking, *saying), weights


def mean(image: Tensor, mask: Tensor) -> Tensor:
    """Mean of the real regions, [B, R, D] -> [B, 1, D]; zero where there are none."""
    total = image.masked_fill(~mask[..., None], 0.0).sum(dim=1, keepdim=True)
    return total / mask.sum(dim=1).clamp(min=1)[:, None, None]
