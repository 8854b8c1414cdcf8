import io
import logging

import pytest

from glied.errors import ImageError, StorageError, UsageError
from glied.redaction import MAX_SHOWN, RedactingFormatter, redacted, shown

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"no https://u:{SECRET}@h/a.png?X-Amz-Signature={SECRET}&b: x", "no https://h/a.png x"),
        (f"'s3://k:{SECRET}@b/x?versionId={SECRET}' and 'http://h/?sig={SECRET}'", "'s3://b/x' and 'http://h/'"),
        (f"Max retries exceeded with url: /v1/x?delegation={SECRET} (Caused by X)",
         "Max retries exceeded with url: /v1/x (Caused by X)"),
        (f"HTTPS://h/a?SAS={SECRET}%3D", "HTTPS://h/a"),
        (f"no: delegation={SECRET}, X-Amz-Signature={SECRET}", "no: delegation=... X-Amz-Signature=..."),
        (f"no https://h/a.png?x='{SECRET}': y", "no https://h/a.png y"),
        (f'no https://h/a.png?x="{SECRET}"&b="{SECRET}", y', "no https://h/a.png y"),
        (f"'https://h/a.png?a=b&x='{SECRET}'&c=d' is no image", "'https://h/a.png' is no image"),
        (f"no https://h/a.png?x=a'{SECRET} y", "no https://h/a.png y"),
        (f"no https://h/a.png?x=<{SECRET}> y", "no https://h/a.png y"),
        (f"Max retries exceeded with url: /a?sig='{SECRET}' (Caused by X)",
         "Max retries exceeded with url: /a (Caused by X)"),
        (f"no https://u:'{SECRET}'@h/a and ftp://u:\"{SECRET}\"@h/b", "no https://h/a and ftp://h/b"),
        (f"aws_secret_access_key={SECRET} aws_access_key_id='{SECRET}'",
         "aws_secret_access_key=... aws_access_key_id=..."),
        (f"password=\"{SECRET} {SECRET}\", client-secret={SECRET}", "password=..., client-secret=..."),
        (f"no https://h/a;jsessionid={SECRET} or /b;PHPSESSID={SECRET}?c",
         "no https://h/a;jsessionid=... or /b;PHPSESSID=..."),
        (f"['https://h/a?sig={SECRET}', 'b.png'] {{\"uri\": \"https://h/a?sig={SECRET}\", \"b\": 1}}",
         "['https://h/a', 'b.png'] {\"uri\": \"https://h/a\", \"b\": 1}"),
        ("beam_size=3, tokens 4, token = 5", "beam_size=3, tokens 4, token = 5"),
        ("what?.png in /in/what?.png, 3 > 2? yes", "what?.png in /in/what?.png, 3 > 2? yes"),
        ("user@host and https://h/@user/a.png", "user@host and https://h/@user/a.png"),
    ],
)  # fmt: skip
def test_texts(text, expected):
    assert redacted(text) == expected


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (f"https://h/a b.png?q=ü x&sig={SECRET}", "https://h/a b.png"),
        (f"https://u:{SECRET}@h:8/a", "https://h:8/a"),
        (f"https://h/a;jsessionid={SECRET}", "https://h/a;jsessionid=..."),
        (f"https://h/a?x='{SECRET}'", "https://h/a"),
        ("s3://b/t.csv#3", "s3://b/t.csv#3"),
        ("/in/what?.png", "/in/what?.png"),
        ("x" * 500, "x" * (MAX_SHOWN - 3) + "..."),
    ],
)
def test_addresses(uri, expected):
    assert shown(uri) == expected


@pytest.mark.parametrize("kind", [UsageError, StorageError, lambda text: ImageError("bad_url", text)])
def test_errors_of_the_project_hold_no_secrets(kind):
    error = kind(f"cannot read https://u:{SECRET}@h/a?sig={SECRET}")
    assert SECRET not in str(error)
    assert SECRET not in getattr(error, "message", "")
    assert "https://h/a" in str(error)


def test_logs_hold_no_secrets():
    sink = io.StringIO()
    handler = logging.StreamHandler(sink)
    handler.setFormatter(RedactingFormatter("%(message)s"))
    log = logging.Logger("test")
    log.addHandler(handler)
    try:
        raise OSError(f"no https://h/a?token={SECRET}")
    except OSError:
        log.exception("reading %s", f"https://u:{SECRET}@h/a?sig={SECRET}")
    assert SECRET not in sink.getvalue()
    assert "reading https://h/a\n" in sink.getvalue()
