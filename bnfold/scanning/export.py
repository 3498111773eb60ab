"""A store's models as a table for other tools: CSV, or Parquet by pyarrow."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from bnfold.errors import MissingExtraError, UsageError
from bnfold.formats.atomic import resolve_target, staged_file
from bnfold.scanning.records import ScanStore

SUFFIXES = (".parquet", ".csv")
_BATCH = 10_000
_QUERY = (
    "select path, status, sentence, size, format, batchnorms, foldable, nodes, nodes_after, parameters, "
    "parameters_after, bytes, bytes_after, worst, (select count(*) from findings where job = models.id) as findings, "
    "seconds, peak, attempts, read_bytes, read_requests, read_seconds, identity, "
    "(select output from folds where job = models.id) as folded_to from models order by path"
)
#: The columns that are not whole numbers.
_TEXT = frozenset({"path", "status", "sentence", "format", "worst", "identity", "folded_to"})
_REAL = frozenset({"seconds", "read_seconds"})


def check_export(path: str | PathLike[str]) -> None:
    """Before anything is scanned: can the table be written?

    Raises UsageError for a suffix that is neither, MissingExtraError where pyarrow is needed and not there, and
    OutputError.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{fspath(path)}: a table is written as .parquet or .csv")
    if suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise MissingExtraError.of(f"{fspath(path)}: Parquet needs pyarrow", "scan") from error
    resolve_target(path)


def export(store: ScanStore, path: str | PathLike[str]) -> None:
    """Write a row a model, atomically. Raises as :func:`check_export` does, and OutputError."""
    check_export(path)
    with staged_file(path) as staged:
        if Path(path).suffix.lower() == ".csv":
            with staged.writing() as out:
                for text in _csv(store):
                    out.write(text.encode("utf-8", "surrogateescape"))
        else:
            data = _parquet(store)
            with staged.writing() as out:
                out.write(data)
        staged.commit()


def _batches(store: ScanStore) -> Iterator[tuple[list[str], list[tuple[Any, ...]]]]:
    cursor = store.query(_QUERY)
    names = [column[0] for column in cursor.description]
    yield names, []
    while rows := cursor.fetchmany(_BATCH):
        yield names, rows


def _csv(store: ScanStore) -> Iterator[str]:
    for number, (names, rows) in enumerate(_batches(store)):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows if number else [names])
        yield text.getvalue()


def _parquet(store: ScanStore) -> memoryview:
    import pyarrow
    import pyarrow.parquet

    kinds = {True: pyarrow.string(), False: pyarrow.int64()}
    sink, writer = pyarrow.BufferOutputStream(), None
    for names, rows in _batches(store):
        types = [pyarrow.float64() if name in _REAL else kinds[name in _TEXT] for name in names]
        schema = pyarrow.schema(list(zip(names, types, strict=True)))
        writer = writer or pyarrow.parquet.ParquetWriter(sink, schema)
        columns = list(zip(*rows, strict=True)) or [()] * len(names)
        writer.write_table(pyarrow.table([list(column) for column in columns], schema=schema))
    assert writer is not None
    writer.close()
    return memoryview(sink.getvalue())
