"""Captions through `transformers serve` are those of the model itself."""

import io

import numpy as np
import pytest
from PIL import Image

from glied.captioner.engines.config import EndpointConfig, TransformersConfig
from glied.captioner.engines.endpoint import EndpointEngine
from glied.captioner.engines.engine import Failure
from glied.errors import UsageError

pytest.importorskip("transformers")
pytest.importorskip("uvicorn", reason="transformers serve needs transformers[serving]")

from glied.captioner.engines.hugging_face import TransformersEngine
from tests.captioner.engines import tiny_models, transformers_server
from tests.flat_settings import flat

PROMPTS = {"short": "word1 word2", "long": "word3"}
QUALITY = 95


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_models.only_words(tiny_models.llava(tmp_path_factory.mktemp("llava")))


@pytest.fixture(scope="module")
def url(model, tmp_path_factory):
    with transformers_server.serve(model, tmp_path_factory.mktemp("server") / "log") as running:
        yield running


@pytest.fixture
def endpoint(url, model):
    """Make engines that use the server."""
    engines = []

    def make(**options):
        options = {"prompts": PROMPTS, "max_tokens": 8, "quality": QUALITY} | options
        engines.append(EndpointEngine(flat(EndpointConfig, **({"url": url, "model": model} | options))))
        return engines[-1]

    yield make
    for one in engines:
        one.close()


def pictures(count=6):
    random = np.random.default_rng(5)
    return [random.integers(0, 256, (48, 40 + 8 * (n % 2), 3), dtype=np.uint8) for n in range(count)]


def as_sent(image):
    """Return the pixels of an image after its trip as JPEG."""
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "JPEG", quality=QUALITY)
    return np.array(Image.open(sink))


@pytest.mark.timeout(300)
def test_captions_equal_those_of_the_model_here(endpoint, model):
    engine, images = endpoint(cut_answers="keep"), pictures()
    engine.check()
    here = TransformersEngine.load(flat(TransformersConfig, model=model, prompts=PROMPTS, max_tokens=8))
    expected = here.caption([as_sent(image) for image in images])
    assert texts(engine.caption(images)) == texts(expected)
    assert texts(engine.caption(images[::-1])[::-1]) == texts(expected)
    assert texts(engine.caption([image])[0] for image in images[:2]) == texts(expected[:2])
    assert len({one[0].text for one in expected}) > 1  # otherwise the test would prove nothing


def texts(outcomes):
    """Without `truncated`: the server also says it of captions whose last token ends them."""
    return [[(one.prompt, one.text) for one in outcome] for outcome in outcomes]


@pytest.mark.timeout(300)
def test_tokens_are_counted_and_cut_answers_fail(endpoint):
    engine = endpoint(prompts={"a": "word1 word2"}, max_tokens=3)
    found = engine.caption(pictures(4))
    assert found == [Failure("cut_answer", "the answer was cut at captioner.generation.max_tokens")] * 4
    used = engine.usage()
    assert (used.requests, used.retries, used.completion_tokens) == (4, 0, 12)
    assert used.prompt_tokens == 4 * engine_tokens()


def engine_tokens():
    """Return the tokens of the prompt: USER:, 4 of the image, 2 words, ASSISTANT:."""
    return 1 + 4 + 2 + 1


@pytest.mark.timeout(300)
def test_the_check_reports_what_the_server_refuses(endpoint):
    with pytest.raises(UsageError, match=r"refuses a request: HTTP 422: .*Unexpected fields.*top_k"):
        endpoint(extra={"top_k": 5}).check()
    with pytest.raises(UsageError, match=r"refuses a request: HTTP 4\d\d: .*requested 'someone/else'"):
        endpoint(model="someone/else").check()


@pytest.mark.timeout(300)
def test_log_probabilities_that_the_server_ignores_are_null(endpoint):
    ((caption,),) = endpoint(prompts={"a": "word1"}, log_probabilities=True, cut_answers="keep").caption(
        pictures(1)
    )
    assert caption.log_probability is None
