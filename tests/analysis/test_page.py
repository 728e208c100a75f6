"""The page: names are text, not HTML; what it may load is nothing."""

from pathlib import Path

from PIL import Image

from fam_det.analysis.page import CaptionedImage, ImageGrid, MapGrid, Section, format_page


def test_names_of_files_and_classes_cannot_change_the_page(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (2, 2)).save(file)
    bad = '<script>"</script>'
    picture = CaptionedImage(file, bad, bad)
    parts = [ImageGrid(bad, [picture]), MapGrid(bad, [bad, bad], {bad: [picture, None]})]
    page = format_page(bad, bad, [(bad, bad)], [Section(bad, bad, parts, [("#fff", bad)], bad)])
    assert "<script" not in page
    assert page.count("<img ") == 2


def test_the_page_allows_itself_no_network() -> None:
    assert "default-src 'none'; img-src data:;" in format_page("Run", "", [], [])
