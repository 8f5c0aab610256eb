"""What mkdocs does beside its settings: links to files outside docs/ become their paths, and
pictures follow the site's own switch between light and dark.
"""

import re

OUTSIDE = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+)([^)#]+)(#[^)]*)?\)")

PICTURE = re.compile(
    r'<picture>\s*<source [^>]*srcset="([^"]+)">\s*<img alt="([^"]+)"\s+src="([^"]+)">\s*</picture>'
)


def on_page_markdown(markdown: str, page, config, files) -> str:
    """The page as the site shows it; on GitHub it is shown as it is."""
    depth = page.file.src_uri.count("/")

    def shown(link: re.Match) -> str:
        leads_out = len(link[2]) // 3 > depth
        return f"{link[1]} (`{link[3]}`)" if leads_out else link[0]

    markdown = PICTURE.sub(r"![\2](\3#only-light)\n![\2](\1#only-dark)", markdown)
    return OUTSIDE.sub(shown, markdown)
