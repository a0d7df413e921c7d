"""A hook of the site: links to files of the repository that are not pages become the names of those files."""

from __future__ import annotations

import re
from typing import Any

OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\((?:\.\./)+([^)#\s]+)[^)]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace `[text](../path)`, which works where the repository is browsed, by the text and the path."""

    def plain(found: re.Match[str]) -> str:
        text, path = found.groups()
        return text if path in text else f"{text} (`{path}`)"

    return OUTSIDE.sub(plain, markdown)
