"""What mkdocs does beside its settings: links to files outside docs/ become their paths."""

import re

OUTSIDE = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+)([^)#]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, page, config, files) -> str:
    """The page without links that lead out of the site."""
    depth = page.file.src_uri.count("/")

    def shown(link: re.Match) -> str:
        leads_out = len(link[2]) // 3 > depth
        return f"{link[1]} (`{link[3]}`)" if leads_out else link[0]

    return OUTSIDE.sub(shown, markdown)
