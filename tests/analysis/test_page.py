"""The page: names are text, not HTML; what it may load is nothing."""

from pathlib import Path

from PIL import Image

from fam_det.analysis.page import (
    CaptionedImage,
    Section,
    format_page,
    image_grid,
    map_grid,
    small_heading,
)


def test_names_of_files_and_classes_cannot_change_the_page(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (2, 2)).save(file)
    bad = '<script>"</script>'
    picture = CaptionedImage(file, bad, bad)
    grids = [image_grid([picture]), map_grid([bad, bad], {bad: [picture, None]})]
    grids.append(small_heading(bad))
    page = format_page(bad, bad, [(bad, bad)], [Section(bad, bad, grids, [("#fff", bad)], bad)])
    assert "<script" not in page
    assert page.count("<img ") == 2


def test_the_page_allows_itself_no_network() -> None:
    assert "default-src 'none'; img-src data:;" in format_page("Run", "", [], [])
