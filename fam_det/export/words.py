"""Words for people."""


def one_line(error: BaseException, length: int = 200) -> str:
    """The first line of a message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= length else text[: length - 3] + "..."
