"""Makes all pages in `build/docs/pages`, and from these pages the site in `build/docs/site`. A broken link is an error.

python -m docs.site            makes everything
python -m docs.site --drawing  makes only docs/architecture.svg, which is kept in the repository
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path

from docs.site import ROOT
from docs.site.architecture import DRAWING, drawing
from docs.site.pages import write_pages

PLACE = ROOT / "build" / "docs"


def main(arguments: list[str]) -> int:
    """Write the drawing, the pages and the site; return the exit status."""
    DRAWING.write_text(drawing(), "utf-8")
    if "--drawing" in arguments:
        return 0
    return build(PLACE)


def build(place: Path) -> int:
    """Make the pages and the site in a folder, which is emptied first. Return 0, or 1 if a link or a docstring is broken."""
    os.environ["NO_MKDOCS_2_WARNING"] = "1"  # the theme prints an advertisement, which would count as a warning
    from mkdocs.commands.build import build as build_site
    from mkdocs.config import load_config
    from mkdocs.exceptions import Abort

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    shutil.rmtree(place, ignore_errors=True)
    nav = write_pages(place / "pages")
    config = load_config(
        str(Path(__file__).with_name("mkdocs.yml")),
        docs_dir=str(place / "pages"),
        site_dir=str(place / "site"),
        nav=nav,
        strict=True,
    )
    try:
        build_site(config)
    except Abort as error:
        print(error, file=sys.stderr)
        return 1
    print(
        f"{place / 'site' / 'index.html'}\nThe search needs a web server: python3 -m http.server --directory {place / 'site'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
