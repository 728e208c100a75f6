"""One HTML page with its pictures inside: it opens from a disk and needs no network."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1600px; padding: 1rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin-top: 2rem; overflow-wrap: anywhere; }
.row {
  display: grid; gap: .75rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr));
}
.wide { grid-template-columns: 1fr; }
figure { margin: 0; min-width: 0; }
img { background: white; border-radius: 4px; display: block; height: auto; max-width: 100%; }
figcaption { font-size: .9rem; }
table { border-collapse: collapse; }
td, th { overflow-wrap: anywhere; padding: .1rem .75rem .1rem 0; text-align: left; }
th { font-weight: 600; white-space: nowrap; }
"""


@dataclass(frozen=True)
class Picture:
    """A PNG file and what it shows."""

    file: Path
    caption: str


@dataclass(frozen=True)
class Section:
    """Pictures under a heading; ``wide`` ones have the whole width each."""

    heading: str
    pictures: Sequence[Picture]
    note: str = ""
    wide: bool = False


def format_page(title: str, facts: Sequence[tuple[str, str]], sections: Sequence[Section]) -> str:
    """The page.

    Args:
        title: of it, plain text, as all text here.
        facts: names and values, for the table at the top.
        sections: in order; the pictures are read from their files.
    """
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in facts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n"
        f"<table>{rows}</table>\n"
        + "".join(_section(section) for section in sections)
        + "</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    figures = "".join(_figure(picture) for picture in section.pictures)
    note = f"<p>{escape(section.note)}</p>\n" if section.note else ""
    kind = "row wide" if section.wide else "row"
    return f'<h2>{escape(section.heading)}</h2>\n{note}<div class="{kind}">\n{figures}</div>\n'


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.file.read_bytes()).decode()
    caption = escape(picture.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>\n"
    )
