"""Finds the function that `handler = "package.module:name"` of a row names. Runs none."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

Handler: TypeAlias = Callable[[Any], Any]


class HandlerError(Exception):
    """It cannot be used; the message is the cause, for an operator."""


def find(spec: str) -> Handler:
    """The handler. Modules beside the working directory are found, as with `python -m`. Raises HandlerError."""
    here = str(Path.cwd())
    if not {"", here} & set(sys.path):
        sys.path.insert(0, here)
    module, _, name = spec.partition(":")
    try:
        found: Any = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except (Exception, SystemExit) as error:
        raise HandlerError(f"{type(error).__name__}: {error}") from error
    _check(found)
    handler: Handler = found
    return handler


def _check(found: Any) -> None:
    if not callable(found) or inspect.isclass(found):
        raise HandlerError(f"it is no function, but {type(found).__name__}")
    try:
        inspect.signature(found).bind(None)
    except TypeError as error:
        raise HandlerError(f"it does not take one argument, the Ask: {error}") from error
    except ValueError:  # a function of C has no signature that could be read
        pass


def is_async(handler: Handler) -> bool:
    """Whether calling it blocks nobody: it gives an async generator or a coroutine."""
    kinds = (inspect.isasyncgenfunction, inspect.iscoroutinefunction)
    return any(kind(each) for kind in kinds for each in (handler, getattr(handler, "__call__", None)))  # noqa: B004
