"""What mkdocs does beside its settings: links to files outside docs/ become their paths, pictures
follow the site's own switch between light and dark, and unused assets are left out.
"""

import re
from pathlib import Path

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


def on_post_build(config) -> None:
    """Leave out what no reader loads: source maps, and the search in other languages."""
    assets = Path(config.site_dir) / "assets"
    for path in [*assets.rglob("*.map"), *assets.glob("javascripts/lunr/min/*")]:
        path.unlink()
