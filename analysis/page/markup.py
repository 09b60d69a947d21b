"""HTML that escapes whatever is not HTML already."""

from collections.abc import Iterable
from html import escape


class Html(str):
    """Text that is HTML; every other text is escaped where it joins some."""


def tag(name: str, *content: str | Iterable[str], **attributes: str | int | bool) -> Html:
    """An element.

    Args:
        content: Texts, which are escaped unless they are `Html`, or several of them.
        attributes: Its attributes; an underscore stands for a hyphen, one at the end for none,
            True for an attribute without a value, False for none.
    """
    written = "".join(_write_attribute(key, value) for key, value in attributes.items())
    return Html(f"<{name}{written}>{join(*content)}</{name}>")


def void_tag(name: str, **attributes: str | int | bool) -> Html:
    """An element without content, such as an image."""
    written = "".join(_write_attribute(key, value) for key, value in attributes.items())
    return Html(f"<{name}{written}>")


def join(*content: str | Iterable[str]) -> Html:
    """Puts texts one after the other, escaped unless they are `Html`."""
    parts = []
    for each in content:
        if isinstance(each, str):
            parts.append(each if isinstance(each, Html) else escape(each))
        else:
            parts.append(join(*each))
    return Html("".join(parts))


def _write_attribute(key: str, value: str | int | bool) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'
