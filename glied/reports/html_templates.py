"""Self-contained HTML pages from the templates of this folder, which no text from outside can turn into code.

What a template shows is escaped, and its content security policy allows its own style and script only, by
their digests.
"""

import base64
import hashlib
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
BASE = "base.css"
"""Colors, type and reset of every page."""


def render_template(name: str, **values: Any) -> str:
    """The page of `templates/<name>.html` with its style and, where it has one, its script inside.

    Args:
        name: of the template; its files have it before their suffix.
        values: what it shows.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    values |= _inline("style", BASE, f"{name}.css") | _inline("script", f"{name}.js")
    return environment.get_template(f"{name}.html").render(values)


def data_uri(kind: str, data: bytes) -> str:
    """`data` of a media type such as image/png, as an address that needs no network."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _inline(kind: str, *names: str) -> dict[str, str]:
    """The text of the files that are there, and the hash by which a content security policy allows it."""
    paths = [TEMPLATES / name for name in names]
    text = "".join(path.read_text(encoding="utf-8") for path in paths if path.is_file())
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return {kind: Markup(text), f"{kind}_digest": f"sha256-{digest}"}  # of our own, so not escaped
