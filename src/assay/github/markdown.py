"""Markdown around text that somebody else wrote."""

from collections.abc import Sequence

MAX_TEXT = 80


def code(text: str, limit: int = MAX_TEXT) -> str:
    """Text as code that shows it as it is, in a table too.

    Within code GitHub makes no links, mentions or references of what it finds; escaping alone does not keep it from
    that. Every character but letters and digits becomes an entity, so nothing in it can end the code. What has no width
    or turns the direction of reading is shown as `�`.
    """
    shown = "".join(char if char.isprintable() else "�" for char in text)
    shown = shown if len(shown) <= limit else f"{shown[: limit - 1]}…"
    return f"<code>{''.join(map(_entity, shown))}</code>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table of cells that are Markdown already; none without rows."""
    if not rows:
        return []
    lines = [head, ["---"] * len(head), *rows]
    return ["", *(f"| {' | '.join(line)} |" for line in lines)]


def block(text: str) -> str:
    """Lines of text, as they are."""
    return f"<pre>{''.join(char if char == chr(10) else _entity(char) for char in text)}</pre>"


def _entity(char: str) -> str:
    return char if char.isalnum() or char in " -" else f"&#{ord(char)};"
