"""`ro-crate`: a finished run described as an RO-Crate of the Process Run profile, from its
`run.json`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from virnucpro.errors import StoreError, UsageError
from virnucpro.files import digest, write_text, xxh3_of
from virnucpro.reporting.outputs import Outputs
from virnucpro.reporting.record import RunRecord, read_record
from virnucpro.reporting.typed import plain

if TYPE_CHECKING:
    from rocrate.rocrate import ROCrate

NAME = "ro-crate-metadata.json"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
PROGRAM = "https://github.com/Li-Jing-1997/VirNucPro"
KINDS = {
    ".tsv": "text/tab-separated-values",
    ".txt": "text/plain",
    ".log": "text/plain",
    ".html": "text/html",
    ".json": "application/json",
    ".fna": "text/x-fasta",
}


def write_crate(directory: Path) -> Path:
    """Write `ro-crate-metadata.json` in the output directory of a finished run; its path. Errors:
    UsageError without the library, StoreError where there is no finished run.
    """
    try:
        from rocrate.rocrate import ROCrate
    except ImportError:
        raise UsageError(
            "ro-crate: needs the package rocrate; run `pip install rocrate` first"
        ) from None
    record = read_record(directory / "run.json")
    if record is None:
        raise StoreError(f"{directory}: no finished run in here; run predict first")
    crate = ROCrate()
    crate.name = f"VirNucPro: {', '.join(entry.source for entry in record.inputs)}"
    crate.description = (
        f"Which sequences are viral, by VirNucPro {record.version} with the model"
        f" {record.model.name}"
    )
    crate.datePublished = record.finished
    crate.root_dataset["conformsTo"] = {"@id": PROFILE}
    results = [crate.add_file(**entry) for entry in _results(directory, record)]
    _add_run(crate, record, results)
    path = directory / NAME
    if path.is_file() and PROGRAM not in path.read_text(errors="replace"):
        raise StoreError(f"{path}: is there already and not of this program; move it away")
    text = json.dumps(crate.metadata.generate(), indent=2, sort_keys=True, ensure_ascii=False)
    write_text(path, [text.encode("utf-8", "backslashreplace").decode()])
    return path


def _results(directory: Path, record: RunRecord) -> Iterator[dict[str, Any]]:
    """What `ROCrate.add_file` wants to know of each file."""
    outputs = Outputs(directory, record.stems, record.call.get("--table-format", "tsv"))
    for name, phrase in outputs.tree(existing_only=True):
        path = directory / name
        properties = {
            "name": name,
            "description": phrase,
            "contentSize": str(path.stat().st_size),
            "identifier": f"xxh3_128:{xxh3_of(path)}",
        }
        if kind := KINDS.get(path.suffix):
            properties["encodingFormat"] = kind
        yield {"source": path, "dest_path": name, "properties": properties}


def _add_run(crate: ROCrate, record: RunRecord, results: list[Any]) -> None:
    """The program, the model, the inputs, and the action that made `results` with them."""

    def add(identifier: str, kind: str, **properties: Any) -> Any:
        return crate.add_jsonld({"@id": identifier, "@type": kind, **properties})

    def values(prefix: str, facts: dict[str, Any]) -> list[Any]:
        return [
            add(f"#{prefix}/{quote(name)}", "PropertyValue", name=name, value=str(value))
            for name, value in facts.items()
        ]

    program = add(PROGRAM, "SoftwareApplication", name="VirNucPro", url=PROGRAM)
    program["softwareVersion"] = record.version
    model = record.model
    hashes = {f"sha256 of {part}": value for part, value in model.sha256.items()}
    if model.calibration is not None:
        hashes["sha256 of the calibration"] = digest(plain(model.calibration))
    made_with = add("#model", "CreativeWork", name=f"model {model.name}")
    made_with["additionalProperty"] = values("model", {**hashes, **model.sources})
    inputs = []
    for entry in record.inputs:
        given = add(f"#input/{quote(entry.stem)}", "CreativeWork", name=entry.source)
        given["description"] = f"{entry.n_records:,} records, at {entry.path}"
        given["identifier"] = f"sha256:{entry.sha256 or 'unreadable'}"
        inputs.append(given)
    facts = {
        "device": record.device,
        "precision": record.precision,
        "processes": record.processes,
        "python": record.python,
        **{f"version of {name}": version for name, version in record.libraries.items()},
        **{choice.name: f"{choice.value} ({choice.reason})" for choice in record.choices},
    }
    run = crate.add_action(program, identifier="#run", object=[*inputs, made_with], result=results)
    run["name"] = shlex.join(["virnucpro", *record.command[1:]])
    run["endTime"] = record.finished
    run["actionStatus"] = "http://schema.org/CompletedActionStatus"
    run["additionalProperty"] = [
        *values("settings", {**record.identity, **record.call}),
        *values("environment", facts),
    ]
    crate.root_dataset["mentions"] = run
