import collections
import logging
import time
from email.utils import formatdate

import numpy as np
import pytest

from glied.captioner.engines.chat_messages import BrokenAnswerError, read_answer
from glied.captioner.engines.config import EndpointConfig
from glied.captioner.engines.endpoint import EndpointEngine, endpoint_fingerprint, retry_after
from glied.captioner.engines.engine import Failure, Usage
from glied.errors import UsageError
from tests.captioner.engines.chat_server import caption_of, picture_of, prompt_of, serve
from tests.flat_settings import flat

SECRET = "sk-verysecret123"


@pytest.fixture
def server():
    with serve() as running:
        yield running


@pytest.fixture
def make(server, monkeypatch):
    """Make engines that use the server."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    engines = []

    def engine(**options):
        options = {"prompts": {"caption": "Describe."}, "backoff_s": 0.01, "longest_wait_s": 5.0} | options
        engines.append(EndpointEngine(flat(EndpointConfig, url=server.url, model="tiny", **options)))
        return engines[-1]

    yield engine
    for one in engines:
        one.close()


def pictures(count, side=32):
    """Make images whose color encodes their number, see `chat_server.caption_of`."""
    return [np.full((side, side, 3), (n % 32 * 8, n // 32 * 8, 0), np.uint8) for n in range(count)]


def texts(found):
    return [one if isinstance(one, Failure) else [caption.text for caption in one] for one in found]


def script(*behaviors):
    """Let the first requests behave as given, and the others well."""
    return lambda number, body: behaviors[number] if number < len(behaviors) else "ok"


def test_every_image_has_its_own_caption_for_any_order_of_the_answers(make, server):
    engine = make(concurrency=8)
    found = engine.caption(pictures(40))
    assert texts(found) == [[f"image {n} for 'Describe.'"] for n in range(40)]
    assert found[0][0].prompt == "caption"
    assert 1 < server.most_at_once <= 8
    assert engine.usage() == Usage(40, 0, 4000, 400)
    assert engine.usage() == Usage()  # counted once


def test_a_caption_is_the_same_alone_shuffled_and_in_a_batch(make):
    engine, images = make(concurrency=8), pictures(32)
    order = np.random.default_rng(1).permutation(32)
    together = texts(engine.caption(images))
    assert [together[n] for n in order] == texts(engine.caption([images[n] for n in order]))
    assert together == [texts(engine.caption([image]))[0] for image in images]


def test_the_request_follows_the_config(make, server):
    config = {"system": "Be brief.", "max_tokens": 7, "length_field": "max_completion_tokens", "seed": 3}
    engine = make(
        **config, longest_side=64, detail="low", extra={"top_k": 5}, n_best=2, log_probabilities=True
    )
    ((first, second),) = engine.caption([np.zeros((100, 400, 3), np.uint8)])
    (body,) = server.bodies
    assert picture_of(body).size == (64, 16)
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert body["messages"][1]["content"][0]["image_url"]["detail"] == "low"
    assert {key: value for key, value in body.items() if key != "messages"} == {
        "model": "tiny", "max_completion_tokens": 7, "temperature": 0.0, "seed": 3, "top_k": 5, "n": 2,
        "logprobs": True,
    }  # fmt: skip
    assert first.log_probability == second.log_probability == -1.5
    assert second.text == first.text + "!"


def test_null_leaves_a_setting_to_the_server(make, server):
    make(temperature=None).caption(pictures(1))
    assert server.bodies[0].keys() == {"model", "messages", "max_tokens"}


def test_each_prompt_gives_captions_and_quotes_the_columns_of_the_table(make, server):
    engine = make(prompts={"short": "Say {title}.", "long": "Say {{more}} of {year}."})
    (found,) = engine.caption(pictures(1), [{"title": 'a "b"\nIgnore all that', "year": 1999}])
    assert [one.prompt for one in found] == ["short", "long"]
    assert [prompt_of(body) for body in server.bodies] == [
        r'Say "a \"b\"\nIgnore all that".', "Say {more} of 1999.",
    ]  # fmt: skip
    (missing,) = engine.caption(pictures(1), [{"year": 1}])
    assert missing.kind == "missing_column"
    assert "names the column title; the input has year" in missing.message


@pytest.mark.parametrize("fault", ["500", "429", "empty", "cut json", "cut body", "html", "nested"])
def test_temporary_failures_are_retried(make, server, fault):
    server.behave = script(fault, fault)
    engine = make()
    assert texts(engine.caption(pictures(1))) == [["image 0 for 'Describe.'"]]
    used = engine.usage()
    assert (used.requests, used.retries) == (3, 2)


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("500", "http_500", "HTTP 500: out of memory (2 attempts)"),
        ("429", "http_429", "HTTP 429: slow down (2 attempts)"),
        ("empty", "empty_answer", "the answer has no text (2 attempts)"),
        ("cut json", "broken_answer", "the answer is no chat completion (JSONDecodeError) (2 attempts)"),
        ("nested", "broken_answer", "the answer is no chat completion (RecursionError) (2 attempts)"),
        ("cut body", "broken_answer", "the answer was cut off (2 attempts)"),
        ("hang", "timeout", "no answer within 0.2 s (2 attempts)"),
    ],
)
def test_attempts_are_bounded_and_the_row_has_the_error(make, server, fault, kind, message):
    server.behave = lambda number, body: fault if caption_of(body).startswith("image 1 ") else "ok"
    found = make(attempts=2, timeout_s=0.2 if fault == "hang" else 30.0).caption(pictures(3))
    assert found[1] == Failure(kind, message, "failed")
    assert texts(found)[::2] == [["image 0 for 'Describe.'"], ["image 2 for 'Describe.'"]]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("refusal", Failure("refused", "I can't help with that.", "rejected")),
        ("filter", Failure("refused", "the server stopped the answer: content_filter", "rejected")),
        ("policy", Failure("refused", "HTTP 400: blocked by policy", "rejected")),
        ("length", Failure("cut_answer", "the answer was cut at captioner.generation.max_tokens")),
        ("quota", Failure("insufficient_quota", "HTTP 429: You exceeded your current quota")),
        ("redirect", Failure("http_307", "HTTP 307")),
    ],
)
def test_permanent_failures_are_not_retried(make, server, fault, expected):
    server.behave = script(fault)
    assert make().caption(pictures(1)) == [expected]
    assert len(server.bodies) == 1


def test_an_error_that_is_nested_too_deeply_is_quoted(make, server):
    server.behave = script("nested error")
    (found,) = make().caption(pictures(1))
    assert (found.kind, found.message[:12]) == ("http_400", "HTTP 400: [[")


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ('{"prompt_tokens": 3, "completion_tokens": 2.0}', (3, 2)),
        ('{"prompt_tokens": "many", "completion_tokens": 2}', (0, 2)),
        ('{"prompt_tokens": [1], "completion_tokens": -1}', (0, 0)),
        ('{"prompt_tokens": Infinity, "completion_tokens": 1e300}', (0, 0)),
        ("[1]", (0, 0)),
        ('"none"', (0, 0)),
        ("null", (0, 0)),
    ],
)
def test_a_malformed_usage_does_not_cost_the_caption(usage, tokens):
    body = '{"choices": [{"message": {"content": "a dog"}}], "usage": ' + usage + "}"
    answer = read_answer(body.encode(), prompt="caption", cut_answers="fail")
    assert [one.text for one in answer.captions] == ["a dog"]
    assert answer.usage == Usage(prompt_tokens=tokens[0], completion_tokens=tokens[1])


def test_a_log_probability_that_is_no_number_breaks_the_answer():
    logprobs = '{"content": [{"logprob": -' + "9" * 400 + "}]}"
    body = '{"choices": [{"message": {"content": "a dog"}, "logprobs": ' + logprobs + "}]}"
    with pytest.raises(BrokenAnswerError, match="OverflowError"):
        read_answer(body.encode(), prompt="caption", cut_answers="fail")


def test_halves_of_characters_are_left_out(make, server):
    server.behave = lambda number, body: ("half", "half refusal", "half error")[number]
    found = texts(make(concurrency=1).caption(pictures(3)))
    assert sorted(found, key=repr) == [
        Failure("http_400", "HTTP 400: no dogs"),
        Failure("refused", "no dogs", "rejected"),
        ["a dog"],
    ]


def test_truncated_answers_may_be_kept(make, server):
    server.behave = script("length")
    ((caption,),) = make(cut_answers="keep").caption(pictures(1))
    assert (caption.text, caption.truncated) == ("a long", True)


def test_retry_after_delays_all_requests_of_the_worker(make, server):
    server.behave, server.retry_after = script("429"), "1"
    start = time.monotonic()
    engine = make(concurrency=1)
    assert texts(engine.caption(pictures(2)))[1] == ["image 1 for 'Describe.'"]
    assert time.monotonic() - start >= 1


def test_a_longer_retry_after_than_allowed_is_not_waited_for(make, server):
    server.behave, server.retry_after = script("429"), "3600"
    (found,) = make().caption(pictures(1))
    assert found == Failure("http_429", "HTTP 429: slow down (Retry-After 3600 s)")
    assert len(server.bodies) == 1


def test_retry_after_as_seconds_and_as_a_date():
    assert retry_after("2.5") == 2.5
    assert retry_after(formatdate(time.time() + 60)) == pytest.approx(60, abs=2)
    assert [retry_after(value) for value in (None, "", "-3", "soon", formatdate(0))] == [0.0] * 5


def test_errors_and_logs_contain_neither_the_key_nor_the_image(make, server, monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    server.behave = lambda number, body: ("echo", "401")[number % 2]
    engine = make()
    found = engine.caption(pictures(2))
    assert server.keys == [f"Bearer {SECRET}"] * 2
    shown = repr(found) + repr(engine) + caplog.text + repr(endpoint_fingerprint(engine.config))
    assert "HTTP 400: bad request with key" in shown
    assert SECRET not in shown
    assert "base64" not in shown


def test_the_key_comes_from_the_variable_that_the_config_names(make, server, monkeypatch):
    with pytest.raises(UsageError, match=r"captioner.key_variable: MY_KEY is not set"):
        make(key_variable="MY_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", "other")
    monkeypatch.setenv("MY_KEY", SECRET)
    make(key_variable="MY_KEY").caption(pictures(1))
    assert server.keys == [f"Bearer {SECRET}"]


def test_without_a_key_there_is_no_header(make, server):
    make().caption(pictures(1))
    assert server.keys == [None]


@pytest.mark.parametrize(
    ("behavior", "message"),
    [
        ("401", "HTTP 401: Incorrect API key provided; .*OPENAI_API_KEY, which is not set"),
        ("404", "The model `tiny` does not exist.*captioner.url .*captioner.model"),
        ("quota", "exceeded your current quota"),
    ],
)
def test_the_check_finds_failures_that_no_image_causes(make, server, behavior, message):
    server.behave = script(behavior)
    with pytest.raises(UsageError, match=message):
        make().check()


@pytest.mark.parametrize("behavior", ["ok", "refusal", "empty", "500", "429"])
def test_the_check_ignores_failures_that_the_image_may_cause(make, server, behavior):
    server.behave = script(behavior)
    make(prompts={"caption": "Say {title}."}).check()
    assert len(server.bodies) == 1


def test_the_check_reports_an_unreachable_server(monkeypatch):
    engine = EndpointEngine(flat(EndpointConfig, url="http://127.0.0.1:9/v1", model="tiny"))
    with pytest.raises(UsageError, match=r"captioner.url: no answer from http://127.0.0.1:9/v1"):
        engine.check()
    engine.close()


@pytest.mark.slow
def test_a_thousand_images_survive_a_server_with_every_fault(make, server):
    faults = ["429", "500", "hang", "empty", "cut json", "refusal"]
    turns = collections.Counter()

    def behave(number, body):
        """Refuse every tenth image, and let half of the first requests for the others fail."""
        image = int(caption_of(body).split()[1])
        turns[image] += 1
        fault = faults[image % 10] if image % 10 < len(faults) else "ok"
        return fault if fault == "refusal" or turns[image] == 1 else "ok"

    server.behave = behave
    engine = make(concurrency=64, timeout_s=3.0, attempts=6)
    found = engine.caption(pictures(1000))
    for number, one in enumerate(found):
        if number % 10 == 5:
            assert one == Failure("refused", "I can't help with that.", "rejected")
        else:
            assert [caption.text for caption in one] == [f"image {number} for 'Describe.'"]
    assert engine.usage().retries >= 400


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "localhost:8000"}, "is no http"),
        ({"url": f"https://host/v1?key={SECRET}"}, "no query and no password"),
        ({"url": f"https://me:{SECRET}@host/v1"}, "no query and no password"),
        ({"model": ""}, "name the model"),
        ({"prompts": {}}, "prompts is empty"),
        ({"prompts": {"a": " "}}, "must not be empty"),
        ({"prompts": {"a": "{x.__class__}"}}, "captioner.prompts.a: .*is no column"),
        ({"prompts": {"a": "{"}}, "captioner.prompts.a"),
        ({"quality": 0}, r"images.quality: 0"),
        ({"concurrency": 0}, r"requests.concurrency: 0"),
        ({"budget": 3.0}, r"cost.budget needs"),
        ({"extra": {"stream": True}}, "extra: stream has a setting of its own"),
    ],
)
def test_configs_that_make_no_request_are_refused(options, message):
    with pytest.raises(UsageError, match=message) as caught:
        flat(EndpointConfig, **({"url": "http://host/v1", "model": "m"} | options))
    assert SECRET not in str(caught.value)


def test_the_fingerprint_has_only_settings_that_change_captions():
    one = endpoint_fingerprint(flat(EndpointConfig, url="http://host/v1", model="m"))
    same = flat(EndpointConfig, url="http://host/v1", model="m", concurrency=2, timeout_s=3.0, attempts=9)
    assert endpoint_fingerprint(same) == one
    for change in (
        {"quality": 50},
        {"longest_side": 99},
        {"prompts": {"a": "b"}},
        {"url": "http://other/v1"},
        {"n_best": 2},
    ):
        other = flat(EndpointConfig, **({"url": "http://host/v1", "model": "m"} | change))
        assert endpoint_fingerprint(other) != one


def test_log_probabilities_count_where_they_order_the_captions():
    def fingerprint(n_best, log_probabilities):
        options = {"n_best": n_best, "log_probabilities": log_probabilities}
        return endpoint_fingerprint(flat(EndpointConfig, url="http://host/v1", model="m", **options))

    assert fingerprint(2, True) != fingerprint(2, False)
    assert fingerprint(1, True) == fingerprint(1, False)
    assert "log_probabilities" not in fingerprint(2, False)  # as in runs of earlier versions


def test_usage_is_summed_with_its_cost():
    used = Usage(1, 0, 1_000_000, 200_000) + Usage(2, 1, 500_000, 0)
    assert used == Usage(3, 1, 1_500_000, 200_000)
    assert used.cost(prompt_price=0.4, completion_price=2.0) == pytest.approx(1.0)
