"""Options of commands: checks that every stage makes, and which of two records' values differ."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from pipeline.contract.errors import CnlabError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def option_name(field: str, prefix: str = "--") -> str:
    """``image_size`` -> ``--image-size``."""
    return prefix + field.replace("_", "-")


def check_finite(options: DataclassInstance, prefix: str = "--") -> None:
    """Raise CnlabError for numbers that are infinite or no numbers, in nested groups and dicts too."""
    for f in fields(options):
        value, name = getattr(options, f.name), option_name(f.name, prefix)
        if is_dataclass(value) and not isinstance(value, type):
            check_finite(value, f"{name}.")
        numbers = value.items() if isinstance(value, dict) else [("", value)]
        for key, number in numbers:
            if isinstance(number, float) and not math.isfinite(number):
                raise CnlabError(f"{name}{f' {key}' if key else ''} {number} is no finite number")


def check_least(options: DataclassInstance, prefix: str, least: dict[str, int]) -> None:
    """Raise CnlabError for options (by field name) below their least value."""
    for name, low in least.items():
        if getattr(options, name) < low:
            raise CnlabError(f"{option_name(name, prefix)} must be at least {low}")


def differing(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Names of the values of ``new`` that differ in ``old``, those of groups as ``group.name``."""
    names = []
    for key, value in new.items():
        there = old.get(key)
        if isinstance(value, dict) and isinstance(there, dict):
            names += [f"{key}.{name}" for name in differing(there, value)]
        elif _plain(there) != _plain(value):
            names.append(key)
    return names


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
