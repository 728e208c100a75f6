"""An HTML page that includes its images: it opens from a disk and needs no network."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --quiet: #57606a; --line: #d8dee4; }
* { box-sizing: border-box; }
body {
  background: #fff; color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  margin: 0 auto; max-width: 1500px; overflow-wrap: anywhere; padding: 1rem;
}
h1 { font-size: 1.75rem; line-height: 1.2; margin: .5rem 0 .25rem; }
h2 { border-top: 1px solid var(--line); font-size: 1.3rem; }
h2 { margin: 2.5rem 0 .5rem; padding-top: 1rem; }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
p { margin: .25rem 0 .75rem; max-width: 46rem; }
.lead { font-size: 1.1rem; }
figcaption { color: var(--quiet); font-size: .9rem; padding-top: .25rem; }
figcaption b { color: var(--ink); display: block; }
nav a { color: #0b5cad; display: inline-block; margin-right: 1.25rem; padding: .4rem 0; }
table { border-collapse: collapse; margin: .75rem 0; }
td, th { border-top: 1px solid var(--line); padding: .3rem 1.25rem .3rem 0; text-align: left; }
td + td { font-variant-numeric: tabular-nums; }
th { font-weight: 600; vertical-align: top; white-space: nowrap; }
figure { margin: 0; min-width: 0; }
img { display: block; height: auto; width: 100%; }
.row { display: grid; gap: 1rem; grid-template-columns: minmax(0, 32rem); }
@media (min-width: 36rem) { .row { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@media (min-width: 64rem) {
  .row { grid-template-columns: repeat(var(--columns), minmax(0, 32rem)); }
}
.maps { display: grid; gap: .25rem .5rem; max-width: calc(var(--columns) * 14rem); }
.maps { grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); }
.maps > b { align-self: end; font-size: .9rem; line-height: 1.25; overflow-wrap: break-word; }
.maps > .level { color: var(--quiet); font-size: .9rem; grid-column: 1 / -1; padding-top: .5rem; }
.maps img { image-rendering: pixelated; }
.maps figcaption { font-size: .8rem; padding: .1rem 0 .25rem; }
.bar {
  background: linear-gradient(to right, #440154, #3b528b, #21918c, #5ec962, #fde725);
  display: inline-block; height: .7em; margin: 0 .3em; width: 5em;
}
.key { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; }
.key { list-style: none; margin: .75rem 0; padding: 0; }
.key span { border: 3px solid; border-radius: 3px; display: inline-block; height: 1em; width: 1em; }
.key span { margin-right: .4em; vertical-align: -.15em; }
@media (max-width: 40rem) { .maps > b { font-size: .75rem; } }
"""
HEAD = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
"""


@dataclass(frozen=True)
class Picture:
    """A PNG file with its name and a note for the caption."""

    file: Path
    name: str
    note: str = ""


@dataclass(frozen=True)
class Pictures:
    """Pictures under a small heading, up to ``columns`` side by side."""

    heading: str
    pictures: Sequence[Picture]
    columns: int = 4


@dataclass(frozen=True)
class Maps:
    """Feature maps under a small heading: rows by level, None where a column has no such map."""

    heading: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[Picture | None]]


@dataclass(frozen=True)
class Section:
    """A part of the page; ``key`` has colours and their names, ``bar`` the end of its scale."""

    heading: str
    note: str
    parts: Sequence[Pictures | Maps]
    key: Sequence[tuple[str, str]] = ()
    bar: str = ""


def format_page(
    title: str, lead: str, facts: Sequence[tuple[str, str]], sections: Sequence[Section]
) -> str:
    """Returns the HTML of the page.

    Args:
        title: heading; plain text, as all text here.
        lead: subtitle of one line.
        facts: names and values of the table at the top.
        sections: parts in order, whose pictures are read from their files.
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
    text = f'<h2 id="part{number}">{escape(section.heading)}</h2>\n<p>{escape(section.note)}</p>\n'
    if section.bar:
        text += f'<p>0<span class="bar"></span>{escape(section.bar)}</p>\n'
    key = "".join(
        f'<li><span style="border-color: {escape(colour)}"></span>{escape(name)}</li>'
        for colour, name in section.key
    )
    text += f'<ul class="key">{key}</ul>\n' if key else ""
    for part in section.parts:
        text += f"<h3>{escape(part.heading)}</h3>\n" if part.heading else ""
        text += _maps(part) if isinstance(part, Maps) else _pictures(part)
    return text


def _pictures(part: Pictures) -> str:
    figures = "".join(
        _figure(picture, f"<b>{escape(picture.name)}</b>{escape(picture.note)}")
        for picture in part.pictures
    )
    return f'<div class="row" style="--columns: {part.columns}">\n{figures}</div>\n'


def _maps(part: Maps) -> str:
    cells = "".join(f"<b>{escape(name)}</b>" for name in part.columns)
    for level, pictures in part.rows.items():
        cells += f'<span class="level">{escape(level)}</span>\n'
        cells += "".join(_figure(x, escape(x.note)) if x else "<span></span>" for x in pictures)
    return f'<div class="maps" style="--columns: {len(part.columns)}">\n{cells}</div>\n'


def _figure(picture: Picture, caption: str) -> str:
    data = base64.b64encode(picture.file.read_bytes()).decode()
    alt = escape(", ".join(filter(None, (picture.name, picture.note))))
    image = f'<img alt="{alt}" src="data:image/png;base64,{data}">\n'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>\n"
