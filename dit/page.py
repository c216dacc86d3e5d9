"""HTML pages that open offline: the one door to their templates, and the style that all of them share."""

import base64
import functools
import hashlib
from importlib.resources import files


def render(package: str, name: str, **values) -> str:
    """The page that a package's template makes of values, all of it inside; `style` is the pages' own."""
    return _template(package, name).render(style=_text("dit", "page.css"), **values)


def script(package: str, name: str) -> tuple[str, str]:
    """A package's script, and the word that lets a page's policy run it and no other."""
    text = _text(package, name)
    return text, f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@functools.cache
def _template(package: str, name: str):
    """A package's template."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_text(package, name))


@functools.cache
def _text(package: str, name: str) -> str:
    """A file of a package."""
    return files(package).joinpath(name).read_text(encoding="utf-8")
