"""Removes secrets from addresses before they are shown.

Signed URLs have their signature in the query (`X-Amz-Signature`, SAS tokens), others a password before the
host. Nothing that is shown or logged may contain either: the messages of `GliedError`, the log of the
jobs, the column `error` and summary.json all pass through this module.
"""

import logging
import re

MAX_SHOWN = 200
"""Longest address that a message quotes."""

_SCHEME = r"[A-Za-z][A-Za-z0-9+.\-]{0,30}://"
_QUOTE_WITHIN = r"['\"](?=[\w%@])"
"""A quote inside an address, which does not end the quotation of the message."""
_VALUE = rf"(?:=(?:'[^\s']*'|\"[^\s\"]*\"|<[^\s<>]*>)|{_QUOTE_WITHIN}|[^\s'\"<>])"
_USER_INFO = re.compile(rf"({_SCHEME})(?:[^\s/?#'\"<>]|(?<=:)['\"]|{_QUOTE_WITHIN})*@")
_QUERY = re.compile(rf"({_SCHEME}[^\s?'\"<>]*)\?{_VALUE}*")
_LOOSE_QUERY = re.compile(rf"\?[\w.~%+\-]+(?==)(?:(?!\)){_VALUE})*")
"""A query without its host, as libraries quote it ("url: /a.png?sig=...")."""
_PARAMETER = re.compile(
    r"(?<![\w\-])((?:[\w\-]*-)?(?:x-(?:amz|goog)-[a-z\-]+|sig|signature|delegation)|"
    r"[\w\-]*(?:token|password|secret|secret[_\-]key|api[_\-]?key|access[_\-]?key(?:[_\-]?id)?|"
    r"session[_\-]?id|sessid))"
    r"=(?:'[^']*'|\"[^\"]*\"|[^\s&'\"<>)]+)",
    re.IGNORECASE,
)
"""Parameters that are secret by their names, anywhere in a text."""


def redacted(text: str) -> str:
    """A text without the queries and user infos of its addresses, and without other secrets."""
    if "://" in text:
        text = _QUERY.sub(r"\1", _USER_INFO.sub(r"\1", text))
    if "?" in text:
        text = _LOOSE_QUERY.sub("", text)
    return _PARAMETER.sub(r"\1=...", text) if "=" in text else text


def shown(uri: str) -> str:
    """A single address as messages show it: without query and user info, and not longer than `MAX_SHOWN`.

    Unlike `redacted` it knows that all of the text is one address, whatever characters the query holds.
    """
    if "://" in uri:
        uri = uri.partition("?")[0]
    uri = redacted(uri)
    return uri if len(uri) <= MAX_SHOWN else uri[: MAX_SHOWN - 3] + "..."


class RedactingFormatter(logging.Formatter):
    """Formats log records, tracebacks included, without secrets in addresses."""

    def format(self, record: logging.LogRecord) -> str:
        """The line as the base class makes it, redacted."""
        return redacted(super().format(record))
