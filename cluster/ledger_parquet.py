"""The ledger as one parquet file: a row for each row, to be read with pandas or any query engine."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.files import AnyPath
from cluster.ledger import Ledger, Row, read_segment

FIXED = {
    "candidate_id": pa.string(), "ask_index": pa.int64(), "phase": pa.string(),
    "genes": pa.list_(pa.int64()), "architecture": pa.string(), "rung": pa.int64(), "epoch": pa.int64(),
    "status": pa.string(), "reason": pa.string(), "params": pa.int64(), "macs": pa.int64(),
    "activations": pa.int64(), "seconds": pa.float64(), "place": pa.string(), "time": pa.int64(),
    "curve": pa.string(),
}  # fmt: skip


def write_parquet(ledger: Ledger, path: Path) -> None:
    """Write the whole ledger, one segment in memory at a time.

    Beside the fixed columns (`time` in Unix ms, `curve` as JSON) there is ``names.X`` for each of the
    candidates' names, typed where all values agree and text otherwise, and ``metrics.X``.
    """
    files = ledger.segments()
    schema = _schema(files)
    with pq.ParquetWriter(path, schema) as writer:
        for file in files:
            records = [_record(row, schema) for row in read_segment(file)]
            writer.write_table(pa.Table.from_pylist(records, schema=schema))


def _schema(files: list[AnyPath]) -> pa.Schema:
    names: dict[str, set[type]] = {}
    metrics: dict[str, None] = {}
    for file in files:
        for row in read_segment(file):
            for name, value in row.names.items():
                names.setdefault(name, set()).add(type(value))
            metrics.update(dict.fromkeys(row.metrics))
    columns = {f"names.{name}": _arrow_type(kinds) for name, kinds in names.items()}
    columns |= {f"metrics.{metric}": pa.float64() for metric in metrics}
    return pa.schema({**FIXED, **columns})


def _arrow_type(kinds: set[type]) -> pa.DataType:
    if kinds == {int}:
        return pa.int64()
    return pa.float64() if kinds <= {int, float} else pa.string()


def _record(row: Row, schema: pa.Schema) -> dict[str, Any]:
    body = row.model_dump()
    record: dict[str, Any] = {key: body[key] for key in FIXED if key in body}
    record |= {"candidate_id": row.candidate.id, **row.cost._asdict(), "curve": json.dumps(row.curve)}
    record |= {key: getattr(row.candidate, key) for key in ("ask_index", "phase", "genes")}
    for name, value in row.names.items():
        record[f"names.{name}"] = str(value) if schema.field(f"names.{name}").type == pa.string() else value
    return {**record, **{f"metrics.{metric}": value for metric, value in row.metrics.items()}}
