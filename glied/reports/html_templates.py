"""Self-contained HTML pages rendered from templates, safe against injected code.

Template values are escaped, and the content security policy allows only the page's own style and script, by
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
"""Colors, fonts and reset of every page."""


def render_template(name: str, **values: Any) -> str:
    """Render `templates/<name>.html` with its style and, if it has one, its script inlined.

    Args:
        name: name of the template, without suffix.
        values: values of the template.
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
    """Encode `data` of a media type such as image/png as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _inline(kind: str, *names: str) -> dict[str, str]:
    """Return the text of the existing files, and its hash for the content security policy."""
    paths = [TEMPLATES / name for name in names]
    text = "".join(path.read_text(encoding="utf-8") for path in paths if path.is_file())
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return {kind: Markup(text), f"{kind}_digest": f"sha256-{digest}"}  # trusted, so not escaped
