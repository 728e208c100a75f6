"""Measures a page in a real browser, Chromium or Chrome, without a window."""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--virtual-time-budget=5000", "--enable-logging=stderr"),
)
# A frame is as wide as a phone, where a window is 500 pixels at least.
MEASURE = """<script>
onload = () => document.body.dataset.seen = JSON.stringify([...document.querySelectorAll("iframe")]
  .map(frame => [frame.contentWindow, frame.contentDocument]).map(([view, page]) => ({
    window: view.innerWidth,
    width: page.documentElement.scrollWidth,
    cut: [...page.querySelectorAll("body *")].filter(x => x.scrollWidth > x.clientWidth + 1
      && x.clientWidth > 0).map(x => x.outerHTML.slice(0, 100)),
    images: page.images.length,
    drawn: [...page.images].filter(x => x.complete && x.naturalWidth > 0).length,
    loaded: view.performance.getEntriesByType("resource").map(x => x.name),
    smallest: Math.min(...[...page.querySelectorAll("body *")].filter(x => x.innerText)
      .map(x => parseFloat(view.getComputedStyle(x).fontSize))),
  })));
</script>"""


def look_at(page: Path, widths: tuple[int, ...], folder: Path) -> tuple[list[Any], list[str]]:
    """Open a page in frames of these widths.

    Args:
        page: the HTML file.
        widths: in pixels.
        folder: an empty one.

    Returns:
        The result of ``MEASURE`` for each frame, and the console: errors, refused loads.
    """
    frames = [
        f'<iframe width="{w}" height="800" srcdoc="{escape(page.read_text())}">' for w in widths
    ]
    file = folder / "frames.html"
    file.write_text(
        f"<style>iframe {{ border: 0 }}</style>{'</iframe>'.join(frames)}</iframe>{MEASURE}"
    )
    done = subprocess.run(
        [
            str(BROWSER),
            *FLAGS,
            f"--user-data-dir={folder / 'profile'}",
            "--dump-dom",
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    seen = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert seen is not None, done.stderr
    return json.loads(unescape(seen[1])), re.findall(r".*CONSOLE.*", done.stderr)
