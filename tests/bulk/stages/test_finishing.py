"""How captions are finished, whatever captioner gave them."""

import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from glied.bulk import row_schemas
from glied.bulk.plan.sources.fetch import SIDECAR
from glied.bulk.stages.describe import Row
from glied.bulk.stages.finishing import CaptionStage, Entry, FinishCaptions
from glied.bulk.stages.quality import QualityConfig
from glied.bulk.stages.stage import DecodeImages
from glied.clip.config import ClipConfig
from glied.clip.scorer import load_clip
from glied.clip.scores import clip_score
from glied.clock import Clock
from glied.text.caption_rules import TextRules
from glied.text.existing_captions import ExistingConfig
from glied.vision.decoder_pool import DecoderPool
from glied.vision.images import Picture

CAPTIONS = ["This image shows a dog.", "a red ball", "a big cat"]


class Said:
    """Gives each image the same captions; the first image of an odd size is declined."""

    schema = row_schemas.CAPTIONS
    model = "said"

    def __init__(self, captions: Sequence[str] = CAPTIONS) -> None:
        self.captions = captions
        self.seen: list[Entry[Picture]] = []

    def __call__(self, batch: Sequence[Entry[Picture]], clock: Clock) -> list[Row]:
        self.seen += batch
        return [self.row(one.item) for one in batch]

    def row(self, image: Picture) -> Row:
        if image.width % 2:
            return {"status": "rejected", "error_kind": "refused", "error": "no"}
        captions = [{"text": text, "log_probability": -1.0, "truncated": True} for text in self.captions]
        return {"captions": captions, "width": image.width, "height": image.height}


def entry(width: int = 8, **columns) -> Entry[Picture]:
    pixels = np.random.default_rng(width).integers(0, 256, (8, width, 3), dtype=np.uint8)
    return Entry(Picture(pixels, width, 8), columns)


def png(image: Entry[Picture]) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(image.item.pixels).save(sink, "PNG")
    return sink.getvalue()


def finish(*entries: Entry[Picture], **options) -> list[Row]:
    return FinishCaptions(Said(), **options)(list(entries), Clock())


def test_the_first_caption_is_the_rows_and_flags_tell_of_it():
    (row,) = finish(entry())
    assert (row["caption"], row["caption_source"]) == (CAPTIONS[0], "model")
    assert (row["repeats"], row["truncated"], row["clip_score"], row["low_clip_score"]) == (
        False,
        True,
        None,
        None,
    )
    assert [one["raw_text"] for one in row["captions"]] == [None] * 3


def test_text_rules_keep_the_raw_text_where_they_change_it():
    (row,) = finish(entry(), text=TextRules(strip_openings=True))
    assert row["caption"] == row["captions"][0]["text"] == "A dog."
    assert [one["raw_text"] for one in row["captions"]] == [CAPTIONS[0], None, None]


def test_rows_without_captions_stay_as_they_are():
    (row,) = finish(entry(width=9), text=TextRules(prefix="x"))
    assert row["status"] == "rejected"
    assert "caption" not in row


@pytest.mark.parametrize(
    ("mode", "caption", "source", "raw"),
    [
        ("keep", "an old dog", "input", None),
        ("replace", CAPTIONS[0], "model", None),
        ("append", f"an old dog {CAPTIONS[0]}", "input+model", CAPTIONS[0]),
        ("prepend", f"{CAPTIONS[0]} an old dog", "model+input", CAPTIONS[0]),
    ],
)
def test_existing_captions(mode, caption, source, raw):
    text = TextRules(existing=ExistingConfig(column="old", mode=mode))
    said = Said()
    rows = FinishCaptions(said, text=text)(
        [entry(old=" an old dog\n"), entry(old=" "), entry(old=None)], Clock()
    )
    assert (rows[0]["caption"], rows[0]["caption_source"]) == (caption, source)
    assert rows[0]["captions"][0].get("raw_text") == raw
    assert (rows[0]["width"], rows[0]["height"]) == (8, 8)
    assert [row["caption"] for row in rows[1:]] == [CAPTIONS[0]] * 2
    assert len(said.seen) == (2 if mode == "keep" else 3)


@pytest.mark.parametrize(
    ("mode", "old", "caption"),
    [
        ("keep", "an old dog", "an old dog"),
        ("replace", "an old dog", "sks, a red ball"),
        ("append", "an old dog", "sks, an old dog a red ball"),
        ("append", "sks, an old dog", "sks, an old dog a red ball"),
        ("prepend", "an old dog", "sks, a red ball an old dog"),
        ("append", None, "sks, a red ball"),
    ],
)
def test_a_trigger_begins_the_whole_caption(mode, old, caption):
    text = TextRules(trigger="sks", existing=ExistingConfig(column="old", mode=mode))
    (row,) = FinishCaptions(Said(["a red ball"]), text=text)([entry(old=old)], Clock())
    assert row["caption"] == caption


@pytest.mark.parametrize(
    "text", [TextRules(), TextRules(trigger="sks"), TextRules(suffix=", photo"), TextRules(prefix="photo: ")]
)
@pytest.mark.parametrize("blank", ["", " \n"])
def test_nothing_is_added_to_an_empty_caption(text, blank):
    (row,) = FinishCaptions(Said([blank]), text=text)([entry()], Clock())
    assert (row["caption"], row["caption_source"]) == ("", "model")


@pytest.mark.parametrize("mode", ["keep", "replace", "append", "prepend"])
def test_an_empty_caption_never_takes_the_place_of_an_existing_one(mode):
    text = TextRules(trigger="sks", suffix="!", existing=ExistingConfig(column="old", mode=mode))
    (row,) = FinishCaptions(Said(["", " "]), text=text)([entry(old="an old dog")], Clock())
    assert (row["caption"], row["caption_source"]) == ("an old dog", "input")
    assert [one["text"] for one in row["captions"]] == ["an old dog"]


def test_empty_captions_are_left_out_where_others_are_added_to_an_existing_one():
    text = TextRules(existing=ExistingConfig(column="old", mode="append"))
    (row,) = FinishCaptions(Said(["", "a ball"]), text=text)([entry(old="an old dog")], Clock())
    assert [one["text"] for one in row["captions"]] == ["an old dog a ball"]
    assert row["caption_source"] == "input+model"


@pytest.fixture(scope="module")
def clip():
    return load_clip(ClipConfig(model="RN50", allow_random=True))


def test_every_caption_is_scored_and_the_best_may_come_first(clip):
    images = [entry(), entry(width=12)]
    as_found = finish(*images, clip=clip)
    best = finish(*images, clip=clip, quality=QualityConfig(best_by="clip_score", low_clip_score=100.0))
    for image, row, chosen in zip(images, as_found, best, strict=True):
        vectors = clip.encode_images([image.item.pixels] * 3)
        expected = clip_score(vectors, clip.encode_texts(CAPTIONS)).tolist()
        assert [one["clip_score"] for one in row["captions"]] == pytest.approx(expected, abs=1e-5)
        assert row["clip_score"] == pytest.approx(expected[0], abs=1e-5)
        ranked = sorted(zip(expected, CAPTIONS, strict=True), reverse=True)
        assert [one["text"] for one in chosen["captions"]] == [text for _, text in ranked]
        assert chosen["caption"] == ranked[0][1]
        assert (row["low_clip_score"], chosen["low_clip_score"]) == (None, True)


def test_choice_and_flags_do_not_depend_on_the_batch(clip):
    images = [entry(width=2 * number) for number in range(4, 12)]
    quality = QualityConfig(best_by="clip_score", low_clip_score=0.01)
    alone = [finish(image, clip=clip, quality=quality)[0] for image in images]
    for batch in (images, images[::-1]):
        together = {row["width"]: row for row in finish(*batch, clip=clip, quality=quality)}
        for row in alone:
            other = together[row["width"]]
            assert [one["text"] for one in other["captions"]] == [one["text"] for one in row["captions"]]
            assert other["clip_score"] == pytest.approx(row["clip_score"], abs=1e-5)
    assert CAPTIONS[0] not in {row["caption"] for row in alone}  # otherwise the test would prove nothing


def test_the_best_is_chosen_prompt_by_prompt():
    captions = [
        {"text": text, "prompt": prompt, "clip_score": score}
        for text, prompt, score in [
            ("a", "short", 0.1),
            ("b", "short", 0.3),
            ("c", "long", 0.2),
            ("d", "long", 0.9),
            ("e", "long", None),
        ]
    ]
    ordered = QualityConfig(best_by="clip_score").ordered(captions)
    assert [one["text"] for one in ordered] == ["b", "a", "d", "c", "e"]


def test_kept_captions_are_scored_too(clip):
    text = TextRules(existing=ExistingConfig(column="old"))
    (row,) = finish(entry(old="a red ball"), text=text, clip=clip)
    assert row["clip_score"] == finish(entry(), clip=clip)[0]["captions"][1]["clip_score"]
    assert row["caption_source"] == "input"


def test_the_stage_reads_only_the_columns_that_are_named():
    said = Said()
    text = TextRules(existing=ExistingConfig(column="caption"))
    pictures = [png(entry()), b"no image", png(entry(width=12))]
    table = pa.table(
        {
            "id": ["a", "b", "c"], "uri": ["a", "b", "c"], "data": pa.array(pictures, pa.large_binary()),
            "kind": [None] * 3, "error": [None] * 3, "title": ["one", "two", "three"],
            "input_caption": [None, "x", "old"], "unread": [1, 2, 3],
        }
    )  # fmt: skip
    with DecoderPool(1) as pool:
        stage = CaptionStage(DecodeImages(pool), FinishCaptions(said, text=text), columns=["title", "absent"])
        found = stage(table)
    assert [one.columns for one in said.seen] == [{"title": "one", "caption": None}]
    assert found["caption"].to_pylist() == [CAPTIONS[0], None, "old"]
    assert found["status"].to_pylist() == ["ok", "rejected", "ok"]
    assert found.column_names == [*row_schemas.CAPTIONS.names, "title", "input_caption", "unread"]


def test_texts_of_sidecars_are_read_as_a_column():
    stage = CaptionStage(
        DecodeImages(DecoderPool(1)),
        FinishCaptions(Said(), text=TextRules(existing=ExistingConfig(sidecar="txt"))),
    )
    assert stage.read.columns == [SIDECAR]
