"""HTML pages with embedded images, which need no other files and no network."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
HEAD = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
"""


@dataclass(frozen=True)
class CaptionedImage:
    """An encoded image with its name and a note for the caption."""

    data: bytes
    name: str
    note: str = ""
    kind: str = "png"  # or "jpeg"


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    heading: str
    note: str
    grids: Sequence[str]  # as image_grid or map_grid returns them
    key: Sequence[tuple[str, str]] = ()  # colours and their names
    bar: str = ""  # end of the colour scale


def format_page(
    title: str, lead: str, facts: Sequence[tuple[str, str]], sections: Sequence[Section]
) -> str:
    """Returns the HTML of a page of plain texts; ``facts`` are a table at its top."""
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in facts)
    links = "".join(
        f'<a href="#part{i}">{escape(section.heading)}</a>' for i, section in enumerate(sections)
    )
    return (
        f"{HEAD}<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n'
        f"<table>{rows}</table>\n<nav>{links}</nav>\n"
        + "".join(_section(i, section) for i, section in enumerate(sections))
        + "</body>\n</html>\n"
    )


def _section(number: int, section: Section) -> str:
    text = f'<h2 id="part{number}">{escape(section.heading)}</h2>\n<p>{escape(section.note)}</p>\n'
    if section.bar:
        text += f'<p>0<span class="bar"></span>{escape(section.bar)}</p>\n'
    key = "".join(
        f'<li><span style="border-color: {escape(colour)}"></span>{escape(name)}</li>'
        for colour, name in section.key
    )
    text += f'<ul class="key">{key}</ul>\n' if key else ""
    return text + "".join(section.grids)


def image_grid(images: Sequence[CaptionedImage], columns: int = 4) -> str:
    """Returns images, up to ``columns`` side by side."""
    figures = "".join(_figure(x, f"<b>{escape(x.name)}</b>{escape(x.note)}") for x in images)
    return f'<div class="row" style="--columns: {columns}">\n{figures}</div>\n'


def map_grid(columns: Sequence[str], rows: Mapping[str, Sequence[CaptionedImage | None]]) -> str:
    """Returns feature maps in rows by level; None where a column has no such map."""
    cells = "".join(f"<b>{escape(name)}</b>" for name in columns)
    for level, images in rows.items():
        cells += f'<span class="level">{escape(level)}</span>\n'
        cells += "".join(_figure(x, escape(x.note)) if x else "<span></span>" for x in images)
    return f'<div class="maps" style="--columns: {len(columns)}">\n{cells}</div>\n'


def small_heading(text: str) -> str:
    """Returns a heading for a grid."""
    return f"<h3>{escape(text)}</h3>\n"


def _figure(image: CaptionedImage, caption: str) -> str:
    data = base64.b64encode(image.data).decode()
    alt = escape(", ".join(filter(None, (image.name, image.note))))
    element = f'<img alt="{alt}" src="data:image/{image.kind};base64,{data}">\n'
    return f"<figure>{element}<figcaption>{caption}</figcaption></figure>\n"
