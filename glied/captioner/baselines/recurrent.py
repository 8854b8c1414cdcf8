"""Recurrent captioners: LSTM, SoftAtt and Up-Down.

    LSTM      h = LSTM([x; v], h)             Vinyals et al. 2015, arXiv 1411.4555; v: the mean of I
    SoftAtt   h = LSTM([x; att(h)], h)        Xu et al. 2015, arXiv 1502.03044
    Up-Down   h1 = LSTM([h2; v; x], h1)       Anderson et al. 2018, arXiv 1707.07998
              h2 = LSTM([att(h1); h1], h2)

    att(h) = sum_r a_r I_r,  a = softmax_r(w . tanh(W_i I_r + W_h h))
    p      = softmax(W_c h)                   (Up-Down: h2)

Our choices: LSTM reads v and x at each word, as common implementations do (Show and Tell reads v once);
states begin at zero; SoftAtt has no deep output layer, gate or attention penalty; I is the layer-normalized
regions projected to D, as in GLIED; W_c has no bias. These widths reproduce the paper's parameter counts at
V = 9,488 and 2048 region features (Table 2: 11.5M, 12.1M, 50.1M): for LSTM and SoftAtt, D 512, word
embeddings of 300 and attention of 512 (11.5M, 12.0M); for Up-Down, D 1000, embeddings of 1000 and attention
of 512 (50.1M).

Shapes: B images, R regions, C captions (or beams) per image, T words, D width, E width of the word
embeddings, A inner width of the attention, V vocabulary.
"""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from glied.captioner.attention import KeyValues, Packing, masked
from glied.captioner.model import REGIONS, CaptionerConfig, CaptioningModel, EncoderOutput, Trace
from glied.regions import RegionBatch


@dataclass
class State:
    """Hidden and cell states after the previous words; the cache of recurrent models.

    Attributes:
        parts: [B, C, D] each; [B, 1, D] before the first word.
    """

    parts: tuple[Tensor, ...]

    def follow(self, parents: Tensor) -> None:
        """Make beam `c` of image `b` the continuation of beam `parents[b, c]`."""
        index = parents[..., None]
        self.parts = tuple(part.gather(1, index.expand(-1, -1, part.shape[-1])) for part in self.parts)

    def select(self, rows: Tensor) -> "State":
        """Return the images `rows` (int64 indices), in that order."""
        return State(tuple(part.index_select(0, rows) for part in self.parts))


class LSTMCell(nn.Module):
    """An LSTM cell that computes all four gates with one matrix product."""

    def __init__(self, *, inputs: int, width: int) -> None:
        """`inputs` is the size of the input at each word, besides the hidden state."""
        super().__init__()
        self.gates = nn.Linear(inputs + width, 4 * width)

    def forward(
        self, inputs: Tensor, hidden: Tensor, cell: Tensor, constant: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Advance by one word.

        Args:
            inputs: [B, C, inputs].
            hidden: [B, C, D] or [B, 1, D].
            cell: shape of `hidden`.
            constant: [B, 1, 4D], added to the gates.

        Returns:
            The new hidden and cell state, [B, C, D] each.
        """
        hidden = hidden.expand(*inputs.shape[:2], -1)
        gates = self.gates(torch.cat((inputs, hidden), dim=-1))
        if constant is not None:
            gates = gates + constant
        input_gate, forget_gate, candidate, output_gate = gates.chunk(4, dim=-1)
        cell = forget_gate.sigmoid() * cell + input_gate.sigmoid() * candidate.tanh()
        return output_gate.sigmoid() * cell.tanh(), cell


class AdditiveAttention(nn.Module):
    """Additive attention: sum_r a_r I_r with a = softmax_r(w . tanh(W_i I_r + W_h h))."""

    def __init__(self, *, width: int, inner: int) -> None:
        """`inner` is A, the inner width."""
        super().__init__()
        self.key = nn.Linear(width, inner)
        self.query = nn.Linear(width, inner, bias=False)
        self.score = nn.Linear(inner, 1, bias=False)

    def project(self, image: Tensor, mask: Tensor) -> KeyValues:
        """Project `image` [B, R, D] to keys W_i I and values I; `mask` [B, R] is True where real."""
        return masked(self.key(image)[:, None], image[:, None], mask)

    def forward(self, hidden: Tensor, source: KeyValues) -> tuple[Tensor, Tensor]:
        """Attend from `hidden` [B, C, D]; return the result [B, C, D] and the weights [B, C, R]."""
        inner = (source.keys + self.query(hidden)[:, :, None]).tanh()  # [B, C, R, A]
        scores = self.score(inner).squeeze(-1)
        weights = (scores if source.bias is None else scores + source.bias[:, 0]).softmax(dim=-1)
        return weights @ source.values[:, 0], weights


class Recurrent(CaptioningModel[State]):
    """Base class of the recurrent captioners."""

    states: int
    """Total number of hidden and cell states."""

    @abstractmethod
    def advance(
        self, encoded: EncoderOutput, words: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor | None]:
        """Advance by one word.

        Args:
            encoded: encoder output of B images.
            words: [B, C, E].
            state: [B, C, D] each, or [B, 1, D].

        Returns:
            The input of W_c [B, C, D], the new state, and the attention weights of the regions [B, C, R] if
            any.
        """

    def start(self, batch: int, captions: int, maximum_length: int) -> State:
        """Return the state before the first word, which is zero whatever the number of captions and words."""
        zero = self.embedding.weight.new_zeros(batch, 1, self.config.width)
        return State((zero,) * self.states)

    def step(
        self, encoded: EncoderOutput, tokens: Tensor, cache: State, trace: Trace | None = None
    ) -> Tensor:
        """Advance by one word: return the logits [B, C, V] after `tokens` [B, C] and update the cache."""
        words = self.dropout(self._embed(tokens))
        output, cache.parts, weights = self.advance(encoded, words, cache.parts)
        if trace is not None and weights is not None:
            trace[REGIONS] = weights[:, None]  # [B, 1, C, R]: one head
        return self.classifier(self.dropout(output))

    def logits(
        self, encoded: EncoderOutput, tokens: Tensor, mask: Tensor | None = None, trace: Trace | None = None
    ) -> Tensor:
        """Score captions word by word with teacher forcing; as in `CaptioningModel.logits`."""
        captions = tokens if tokens.ndim == 3 else tokens[:, None]
        words = self.dropout(self._embed(captions))  # [B, C, T, E]
        state = self.start(len(captions), captions.shape[1], captions.shape[2]).parts
        outputs, attended = [], []
        for place in range(captions.shape[2]):
            output, state, weights = self.advance(encoded, words[:, :, place], state)
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
    """LSTM (Show and Tell), which reads the mean of the regions."""

    states = 2

    def __init__(self, config: CaptionerConfig, *, feature_size: int, vocabulary_size: int) -> None:
        """As `CaptioningModel`."""
        super().__init__(config, feature_size=feature_size, vocabulary_size=vocabulary_size)
        self.mean = nn.Linear(config.width, 4 * config.width, bias=False)
        self.cell = LSTMCell(inputs=config.embedded, width=config.width)
        self._finish()

    def encode(
        self, regions: RegionBatch, attributes: Tensor, attribute_mask: Tensor, trace: Trace | None = None
    ) -> EncoderOutput:
        """Project the mean region to the gates; attributes are ignored."""
        image = self._image(regions)
        return EncoderOutput({}, len(image), self.mean(mean(image, regions.mask)))

    def advance(
        self, encoded: EncoderOutput, words: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor | None]:
        """As in `Recurrent`."""
        state = self.cell(words, *state, encoded.vector)
        return state[0], state, None


class ShowAttendTell(Recurrent):
    """SoftAtt (Show, Attend and Tell), which attends to the regions at each word."""

    states = 2

    def __init__(self, config: CaptionerConfig, *, feature_size: int, vocabulary_size: int) -> None:
        """As `CaptioningModel`."""
        super().__init__(config, feature_size=feature_size, vocabulary_size=vocabulary_size)
        self.attention = AdditiveAttention(width=config.width, inner=config.attention_width)
        self.cell = LSTMCell(inputs=config.embedded + config.width, width=config.width)
        self._finish()

    def encode(
        self, regions: RegionBatch, attributes: Tensor, attribute_mask: Tensor, trace: Trace | None = None
    ) -> EncoderOutput:
        """Project the regions to keys; attributes are ignored."""
        image = self._image(regions)
        return EncoderOutput({REGIONS: self.attention.project(image, regions.mask)}, len(image))

    def advance(
        self, encoded: EncoderOutput, words: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor | None]:
        """As in `Recurrent`."""
        hidden, cell = (part.expand(*words.shape[:2], -1) for part in state)
        context, weights = self.attention(hidden, encoded.sources[REGIONS])
        state = self.cell(torch.cat((words, context), dim=-1), hidden, cell)
        return state[0], state, weights


class UpDown(Recurrent):
    """Up-Down, with an attention LSTM that selects regions and a language LSTM that selects words."""

    states = 4

    def __init__(self, config: CaptionerConfig, *, feature_size: int, vocabulary_size: int) -> None:
        """As `CaptioningModel`."""
        super().__init__(config, feature_size=feature_size, vocabulary_size=vocabulary_size)
        width = config.width
        self.mean = nn.Linear(width, 4 * width, bias=False)
        self.attention_lstm = LSTMCell(inputs=config.embedded + width, width=width)
        self.attention = AdditiveAttention(width=width, inner=config.attention_width)
        self.language_lstm = LSTMCell(inputs=2 * width, width=width)
        self._finish()
        self.register_load_state_dict_pre_hook(_rename_old_parameters)

    def encode(
        self, regions: RegionBatch, attributes: Tensor, attribute_mask: Tensor, trace: Trace | None = None
    ) -> EncoderOutput:
        """Project the regions to keys and their mean to the gates; attributes are ignored."""
        image = self._image(regions)
        vector = self.mean(mean(image, regions.mask))
        return EncoderOutput({REGIONS: self.attention.project(image, regions.mask)}, len(image), vector)

    def advance(
        self, encoded: EncoderOutput, words: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor | None]:
        """As in `Recurrent`; the state is (h1, c1, h2, c2)."""
        last = state[2].expand(*words.shape[:2], -1)
        attending = self.attention_lstm(torch.cat((words, last), dim=-1), *state[:2], encoded.vector)
        context, weights = self.attention(attending[0], encoded.sources[REGIONS])
        speaking = self.language_lstm(torch.cat((context, attending[0]), dim=-1), *state[2:])
        return speaking[0], (*attending, *speaking), weights


_OLD_PARAMETERS = {"looking.": "attention_lstm.", "saying.": "language_lstm."}
"""Prefixes of Up-Down's parameters in checkpoints of version 0.1."""


def _rename_old_parameters(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    for old, new in _OLD_PARAMETERS.items():
        for name in [name for name in state if name.startswith(prefix + old)]:
            state[prefix + new + name.removeprefix(prefix + old)] = state.pop(name)


def mean(image: Tensor, mask: Tensor) -> Tensor:
    """Average the real regions, [B, R, D] -> [B, 1, D]; zero for images without any."""
    total = image.masked_fill(~mask[..., None], 0.0).sum(dim=1, keepdim=True)
    return total / mask.sum(dim=1).clamp(min=1)[:, None, None]
