"""One HTML page with its pictures inside: it opens from a disk and needs no network."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from fam_det.analysis.visualize.page_style import POLICY, STYLE

HEAD = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
"""


@dataclass(frozen=True)
class Picture:
    """A PNG file, what it shows, and what is to be said of it."""

    file: Path
    name: str
    note: str = ""


@dataclass(frozen=True)
class Pictures:
    """Pictures under a small heading, ``columns`` of them side by side where there is room."""

    heading: str
    pictures: Sequence[Picture]
    columns: int = 4


@dataclass(frozen=True)
class MapRow:
    """Maps of one level; None where a column has no such map."""

    name: str
    pictures: Sequence[Picture | None]


@dataclass(frozen=True)
class Maps:
    """Rows of maps under a small heading."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[MapRow]


@dataclass(frozen=True)
class Section:
    """A part of the page; ``key`` has colours and their meaning, ``bar`` adds that of maps."""

    heading: str
    note: str
    parts: Sequence[Pictures | Maps]
    key: Sequence[tuple[str, str]] = ()
    bar: str = ""


def format_page(
    title: str, lead: str, facts: Sequence[tuple[str, str]], sections: Sequence[Section]
) -> str:
    """The page.

    Args:
        title: of it, plain text, as all text here.
        lead: what it is about, in a line.
        facts: names and values, for the table at the top.
        sections: in order; the pictures are read from their files.
    """
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
    key = "".join(
        f'<li><span style="border-color: {escape(colour)}"></span>{escape(name)}</li>'
        for colour, name in section.key
    )
    return (
        f'<h2 id="part{number}">{escape(section.heading)}</h2>\n<p>{escape(section.note)}</p>\n'
        + (f'<p>0<span class="bar"></span>{escape(section.bar)}</p>\n' if section.bar else "")
        + (f'<ul class="key">{key}</ul>\n' if key else "")
        + "".join(
            _maps(part) if isinstance(part, Maps) else _pictures(part) for part in section.parts
        )
    )


def _pictures(part: Pictures) -> str:
    figures = "".join(_figure(picture) for picture in part.pictures)
    style = f'style="--columns: {part.columns}"'
    return f'{_heading(part.heading)}<div class="row" {style}>\n{figures}</div>\n'


def _maps(part: Maps) -> str:
    cells = "".join(f"<b>{escape(name)}</b>" for name in part.columns)
    for row in part.rows:
        cells += f'<span class="level">{escape(row.name)}</span>\n'
        cells += "".join(_map(x) if x else "<span></span>" for x in row.pictures)
    style = f"--columns: {len(part.columns)}"
    return f'{_heading(part.heading)}<div class="maps" style="{style}">\n{cells}</div>\n'


def _heading(text: str) -> str:
    return f"<h3>{escape(text)}</h3>\n" if text else ""


def _map(picture: Picture) -> str:
    caption = escape(picture.note)
    return f"<figure>{_image(picture)}<figcaption>{caption}</figcaption></figure>\n"


def _figure(picture: Picture) -> str:
    caption = f"<b>{escape(picture.name)}</b>{escape(picture.note)}"
    return f"<figure>{_image(picture)}<figcaption>{caption}</figcaption></figure>\n"


def _image(picture: Picture) -> str:
    data = base64.b64encode(picture.file.read_bytes()).decode()
    alt = escape(", ".join(filter(None, (picture.name, picture.note))))
    return f'<img alt="{alt}" src="data:image/png;base64,{data}">\n'
