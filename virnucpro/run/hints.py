"""What people type first, answered at once with the right command.

Knows wrong words of a command line and inputs that hold no sequences; does not read them.
"""

from __future__ import annotations

import difflib
import glob
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

URLS = ("http://", "https://", "ftp://", "s3://")
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
WANTED = "give the path of a FASTA or FASTQ file"
# options of other programs, and what says the same here
OPTIONS = {
    **dict.fromkeys(("--out", "--outdir", "--out-dir", "--output"), "--output-dir DIR"),
    **dict.fromkeys(("--fasta", "--fastq", "--contigs", "-f"), "virnucpro predict FILE, no option"),
    **dict.fromkeys(("--cpu", "--no-gpu"), "--gpus none"),
    **dict.fromkeys(("-t", "-p", "--cpus", "--cores", "-j"), "--threads N"),
    **dict.fromkeys(("--gpu", "--cuda"), "--gpus all, or --gpus 0"),
    **dict.fromkeys(("--threshold", "--cutoff", "--score"), "--min-score X"),
    **dict.fromkeys(("--min-len", "--minlength", "-l"), "--min-length N"),
    **dict.fromkeys(("--overwrite", "-F"), "--force"),
    "-v": "-V for the version, or -v after predict, summarize or merge",
}


def option_hint(name: str) -> str | None:
    """The option of this program that says what the unknown option `name` says elsewhere."""
    return OPTIONS.get(name)


def command_hint(words: Sequence[str], commands: Iterable[str]) -> str | None:
    """What to type where the first word is an input and not a command."""
    first = words[0] if words else ""
    if not first or first.startswith("-") or first in commands:
        return None
    if first == "version":
        return "version: is not a command; give: virnucpro --version"
    looks_so = os.path.exists(first) or first.startswith(URLS) or "." in Path(first).name
    if not looks_so:
        return None
    command = "summarize" if is_result(Path(first)) else "predict"
    return f"{first}: is not a command; give: virnucpro {command} {shlex.join(words)}"


def is_result(directory: Path) -> bool:
    """Whether a finished run lies in `directory`."""
    return (directory / "run.json").is_file() and any(directory.glob("contigs.*"))


def input_hint(given: str) -> str | None:
    """What is wrong with an input that cannot be read as sequences, and what to do; None where
    nothing is seen to be.
    """
    quoted, low = shlex.quote(given), given.lower()
    if given.startswith(URLS):
        return "is an address; download it first, then give the file"
    is_file = os.path.isfile(given)
    if is_file and low.endswith(ARCHIVES):
        return (
            "is a tar archive; unpack it first: mkdir unpacked && tar -xf"
            f" {quoted} -C unpacked, then give: unpacked"
        )
    if is_file and low.endswith(".zip") and _begins_with(given, b"PK"):
        return f"is a zip archive; give what is in it: unzip -p {quoted} | virnucpro predict -"
    if is_file or given in ("", "-") or not _is_missing(given):
        return None
    if glob.has_magic(given):
        return f"cannot be opened: no file matches this pattern; {WANTED}"
    return f"cannot be opened: No such file or directory{_nearest(given)}; {WANTED}"


def _is_missing(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):  # what is wrong is said where it is read
        return False
    return False


def _nearest(given: str) -> str:
    """Which file of the same directory may have been meant."""
    folder = Path(given).parent
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except OSError:
        return ""
    found = difflib.get_close_matches(Path(given).name, names, 1, 0.75)
    return f"; did you mean {folder / found[0]}?" if found else ""


def _begins_with(path: str, magic: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False
