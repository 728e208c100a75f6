"""The page: names are text, not HTML; what it may load is nothing."""

from fam_det.analysis import page


def test_names_of_files_and_classes_cannot_change_the_page() -> None:
    bad = '<script>"</script>'
    picture = page.CaptionedImage(b"", bad, bad)
    grids = [page.image_grid([picture]), page.map_grid([bad, bad], {bad: [picture, None]})]
    section = page.Section(bad, bad, [page.small_heading(bad), *grids], [("#fff", bad)], bad)
    text = page.format_page(bad, bad, [(bad, bad)], [section])
    assert "<script" not in text
    assert text.count("<img ") == 2


def test_the_page_allows_itself_no_network() -> None:
    assert "default-src 'none'; img-src data:;" in page.format_page("Run", "", [], [])
