"""What the training tools share on their command lines."""

import argparse


def add_unsafe_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-unsafe-config``."""
    parser.add_argument(
        "--allow-unsafe-config",
        action="store_true",
        help="let the config file run code (!!python tags), as Detectron2 does",
    )


def add_strict_flag(parser: argparse.ArgumentParser, also: str = "") -> None:
    """Add ``--strict``.

    Args:
        parser: of the tool.
        also: what else ends the run.
    """
    parser.add_argument(
        "--strict", action="store_true", help=f"end at the first image that cannot be read{also}"
    )


def one_line(file: str, error: BaseException) -> str:
    """What went wrong before a training, with the config file in it."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    text = " ".join(text.split()) or type(error).__name__
    return text if file in text else f"{file}: {text}"
