#!/usr/bin/env python3
"""The rows of Parquet files of one kind, and the types of their columns, as DuckDB reads them.

    parquet.py OUT.json FILE ...

OUT.json is `{"types": {"column": "TYPE"}, "rows": [{"column": value}]}`: times are RFC 3339 in UTC, null is left out.
"""
import decimal
import json
import pathlib
import sys

import duckdb

RFC_3339 = "strftime({} at time zone 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ')"


def text(value):
    return float(value) if isinstance(value, decimal.Decimal) else str(value)


def main():
    out, *files = sys.argv[1:]
    database = duckdb.connect()
    read = database.read_parquet(files)
    types = {name: str(kind) for name, kind in zip(read.columns, read.types)}
    cells = [RFC_3339.format(f'"{name}"') if kind == "TIMESTAMP WITH TIME ZONE" else f'"{name}"'
             for name, kind in types.items()]
    rows = [{name: value for name, value in zip(types, row) if value is not None}
            for row in read.project(", ".join(cells)).fetchall()]
    pathlib.Path(out).write_text(json.dumps({"types": types, "rows": rows}, default=text))


if __name__ == "__main__":
    main()
