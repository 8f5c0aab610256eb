"""Which reference proteins `--reference` means. Imports nothing heavy: every run asks."""

from __future__ import annotations

import hashlib
from pathlib import Path

from virnucpro.errors import InputError
from virnucpro.settings import NO_REFERENCE, SHIPPED, CallSettings, Choice

LABELS = ("viral", "bacteria", "archaea", "eukaryote", "plasmid", "cellular")
SHIPPED_DIRECTORY = Path(__file__).parent / "shipped"


def find_reference(choice: str | None) -> Path | None:
    """The directory of the chosen proteins; None for `none` and without a choice."""
    if choice in (None, NO_REFERENCE):
        return None
    return SHIPPED_DIRECTORY if choice == SHIPPED else Path(choice)


def reference_choice(call: CallSettings) -> tuple[Choice, ...]:
    """What a run says of the proteins that it searches; nothing where it searches none."""
    if find_reference(call.reference) is None:
        return ()
    decide = "decide with the model" if call.call_by == "both" else "stand beside the model's call"
    reason = f"known proteins {decide}; --reference none leaves them out and is faster"
    return (Choice("reference", str(call.reference), reason),)


def reference_checksum(directory: Path) -> str:
    """The checksum of a reference, without reading its proteins. Raises InputError where there is
    none.
    """
    try:
        return hashlib.sha256((directory / "reference.json").read_bytes()).hexdigest()
    except OSError as error:
        raise no_reference(directory, error.strerror or error) from error


def no_reference(directory: Path, reason: object) -> InputError:
    """The error to raise where `directory` cannot be read as a reference."""
    return InputError(
        f"{directory}: is not a reference of proteins ({reason}); make one with `virnucpro"
        " reference build`, or say --reference none"
    )
