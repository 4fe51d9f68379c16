#!/usr/bin/env python3
"""The tables that a job must have written, by DuckDB from the records as read back from its topic.

    expected.py JOB.sql RECORDS.jsonl OUT.json [NAME=VALUE ...]

A file of SQL reads table `records` (ts, part, off, value), in it `getvariable('NAME')`. Its part under `-- table: NAME` is
a table's rows, the part under `-- none: TEXT` a query that must find nothing, or the answer would not be determined.
OUT.json is `{"table": [row, ...]}` for PostgreSQL's `json_populate_recordset`: times without zone are UTC, and a list of
numbers stands for their average, rounded once.
"""
import datetime
import decimal
import json
import math
import pathlib
import re
import sys

import duckdb


def cell(value):
    if isinstance(value, list):
        value = math.fsum(value) / len(value)
    if isinstance(value, float):
        # As text: not every reader of JSON takes a number as it is written.
        return repr(value)
    if isinstance(value, datetime.datetime):
        return value.isoformat() + "Z"
    if isinstance(value, decimal.Decimal):
        return str(value)
    return value


def rows(database, query):
    result = database.execute(query)
    names = [column[0] for column in result.description]
    return [dict(zip(names, map(cell, row))) for row in result.fetchall()]


def main():
    job, records, out, *variables = sys.argv[1:]
    database = duckdb.connect()
    database.execute("set TimeZone = 'UTC'")
    for name, value in (variable.split("=", 1) for variable in variables):
        database.execute(f"set variable {name} = {value}")
    database.execute(
        f"create table records as select * from read_json('{records}', format = 'newline_delimited', columns = "
        "{ts: 'BIGINT', part: 'INTEGER', off: 'BIGINT', value: 'VARCHAR'})")
    sql = pathlib.Path(__file__).with_name(job).read_text()
    start, *parts = re.split(r"^-- (table|none): (.*)$", sql, flags=re.MULTILINE)
    database.execute(start)
    tables = {}
    for kind, name, query in zip(parts[::3], parts[1::3], parts[2::3]):
        found = rows(database, query)
        if kind == "table":
            tables[name] = found
        elif found:
            sys.exit(f"{job}: {name}: {found[:3]}")
    pathlib.Path(out).write_text(json.dumps(tables, allow_nan=False))


if __name__ == "__main__":
    main()
