"""HTML of pages: elements, tables, badges, and the document. It needs no figures, so that its import is quick.

``report`` writes one document with everything in it; ``watch`` serves one that loads its style sheets and scripts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources

from ssltool.config.fields import STATES
from ssltool.files.text import escape_xml

SIGNS = dict(zip(STATES, "●◐○", strict=True))
"""Symbols of the verdicts, in addition to colour."""


def element(tag: str, content: str = "", **attributes: object) -> str:
    """``<tag name="value">content</tag>``; ``content`` is HTML, values of attributes are escaped. ``class_``
    means class, and ``data_x`` data-x; attributes that are None are omitted."""
    present = {name.rstrip("_").replace("_", "-"): v for name, v in attributes.items() if v is not None}
    inside = "".join(f' {name}="{escape_xml(v)}"' for name, v in present.items())
    return f"<{tag}{inside}>" if tag in ("img", "input", "link") else f"<{tag}{inside}>{content}</{tag}>"


def lead(text: str) -> str:
    """An introductory sentence of a section."""
    return element("p", escape_xml(text), class_="lead")


def sizes(numbers: Iterable[int]) -> str:
    """The different ``numbers`` in order, such as ``512 or 1,000``."""
    return " or ".join(f"{number:,}" for number in sorted(set(numbers)))


def legend(names: Sequence[str], samples: Sequence[str]) -> str:
    """A legend: a list of names, each with its symbol."""
    items = [element("li", sample + escape_xml(name)) for name, sample in zip(names, samples, strict=True)]
    return element("ul", "".join(items), class_="legend")


def columns(titles: Sequence[str], rows: Sequence[str], **attributes: object) -> str:
    """A table that scrolls horizontally if it is wider than the page; ``titles`` and ``rows`` are HTML."""
    body = element("thead", element("tr", "".join(titles))) + element("tbody", "\n".join(rows))
    return element("div", element("table", body, **attributes), class_="scroll", tabindex=0)


def state_words(state: str) -> str:
    """The state of a verdict with its symbol, in words."""
    return f"{SIGNS[state]} {state}" + (" collapse" if state != STATES[0] else "")


def badge(state: str) -> str:
    """The state of a verdict as symbol, words and colour."""
    return element("span", state_words(state), class_=f"badge {state}")


def caption_below(text: str, **attributes: object) -> str:
    """A caption below a picture; ``text`` is HTML."""
    return element("span", text, **attributes)


def image_caption(name: str) -> str:
    """The name of an image below a picture: of a path its last part, the whole path as a tooltip."""
    return caption_below(escape_xml(name.rsplit("/", 1)[-1]), title=name, class_="name")


def grid(heading: str, pictures: str, caption: str) -> str:
    """Pictures below a heading, with an optional caption; all arguments are HTML."""
    return element("figure", heading + pictures + (element("figcaption", caption) if caption else ""))


def section(name: str, title: str, content: str) -> str:
    """A section of a page, which links lead to by its ``name``; ``content`` is HTML."""
    return element("section", element("h2", escape_xml(title)) + content, id=name)


def masthead(title: str, beside: str = "") -> str:
    """The first line of a page: its ``title``, what stands ``beside`` it as HTML, and the button of the theme."""
    toggle = element("button", "dark / light", type="button", id="theme", hidden="hidden")
    return element("div", element("p", title, class_="eyebrow") + beside + toggle, class_="masthead")


def document(title: str, head: str, body: str) -> str:
    """The complete document; ``head`` and ``body`` are HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape_xml(title)}</title>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def asset(name: str, package: str = __name__.rpartition(".")[0]) -> str:
    """The text of a style sheet or script beside the modules of a ``package``."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")
