"""Compiled kernels beside their numpy twins."""

import importlib
import os
from types import ModuleType
from typing import Any

import pytest


def compiled(name: str) -> ModuleType:
    """Skip if no kernel was compiled; in CI fail."""
    try:
        return importlib.import_module(f"modelfs.codecs.kernels.{name}")
    except ImportError:
        if "CI" in os.environ:
            raise
        pytest.skip(f"{name} is not compiled")


def both_of(one: ModuleType, other: ModuleType, name: str, *args: object) -> Any:
    """Return the common result of both modules' function; None if both refuse."""
    outcomes = []
    for module in (one, other):
        try:
            outcomes.append(getattr(module, name)(*args))
        except ValueError:
            outcomes.append(None)
    assert outcomes[0] == outcomes[1]
    return outcomes[0]
