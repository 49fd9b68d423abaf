"""Argument types for argparse. Each raises ArgumentTypeError with what was expected."""

from __future__ import annotations

import argparse
from pathlib import Path

from tokenrelay.protocol.errors import TokenrelayError
from tokenrelay.protocol.models import scripted


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def file(text: str) -> Path:
    """One that can be written: its folder is there."""
    path = Path(text)
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.absolute().parent}")
    return path


def model(text: str) -> str:
    """A model's name; that of a scripted one must be one that can be read."""
    try:
        if scripted.is_scripted(text):
            scripted.parse(text)
    except TokenrelayError as error:
        raise argparse.ArgumentTypeError(error.message) from None
    return text
