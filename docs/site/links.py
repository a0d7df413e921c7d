"""A hook of the site: links to files of the repository that are not pages become the names of those files.

Links to notebooks, which lead to scripts where the repository is browsed, lead to their pages.
"""

from __future__ import annotations

import re
from typing import Any

NOTEBOOK = re.compile(r"\]\((tutorials/\w+)\.py\)")
OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\((?:\.\./)+([^)#\s]+)[^)]*\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace `[text](../path)`, which works where the repository is browsed, by the text and the path."""
    if "/" in page.file.src_uri:
        return markdown  # of a folder in docs/, where such a path leads to a page

    def plain(found: re.Match[str]) -> str:
        text, path = found.groups()
        return text if path in text else f"{text} (`{path}`)"

    return OUTSIDE.sub(plain, NOTEBOOK.sub(r"](\1.md)", markdown))
