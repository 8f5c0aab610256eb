"""Dataclasses to JSON and back, checked: what `run.json` and its parts are."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

MORE = "more"  # the field that keeps keys which this version does not know
KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def typed(kind: Any, value: Any, where: str) -> Any:
    """`value`, from JSON, as the annotated type `kind`: dataclasses, tuples, mappings and scalars.

    where: its keys so far. Raises ValueError naming the key that is missing or of another type.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or (value is None and type(None) in arguments):
        return value
    if origin in (Union, types.UnionType):
        known = [one for one in arguments if one is not type(None)]
        return typed(known[0], value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(typed(arguments[0], one, f"{where}[{i}]") for i, one in enumerate(value))
    if origin is Mapping and isinstance(value, dict):
        return {key: typed(arguments[1], one, f"{where}.{key}") for key, one in value.items()}
    if is_dataclass(kind) and isinstance(value, dict):
        return _typed_fields(kind, value, where)
    if kind is float and type(value) is int and abs(value) < 1 << 53:
        value = float(value)
    if type(value) is not kind:
        what = KINDS.get(kind, "a list" if origin is tuple else "an object")
        raise ValueError(f"{where.lstrip('.')[:100]} is not {what}")
    return value


def _typed_fields(kind: Any, value: dict[str, Any], where: str) -> Any:
    given, hints = dict(value), get_type_hints(kind)
    found = {}
    for entry in fields(kind):
        if entry.name == MORE:
            continue
        if entry.name in given:
            key = f"{where}.{entry.name}"
            found[entry.name] = typed(hints[entry.name], given.pop(entry.name), key)
        elif entry.default is MISSING and entry.default_factory is MISSING:
            raise ValueError(f"{f'{where}.{entry.name}'.lstrip('.')[:100]} is missing")
    return kind(**found, **({MORE: given} if MORE in hints else {}))


def plain(value: Any) -> Any:
    """`value` as JSON knows it; numbers that are no number as null. Raises TypeError for what has
    no plain form.
    """
    if is_dataclass(value) and not isinstance(value, type):
        known = {entry.name: getattr(value, entry.name) for entry in fields(value)}
        return plain({**known.pop(MORE, {}), **known})
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [plain(item) for item in items]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()  # a numpy scalar
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"{type(value).__name__} has no place in run.json")
