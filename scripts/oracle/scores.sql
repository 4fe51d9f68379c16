-- jobs/early-warning.toml: NEWS2 by the chart of the Royal College of Physicians (2017), SpO2 scale 1, without oxygen and
-- alert, as these records do not tell of either.
create table judged as
select part, off, ts, value::json ->> '$.patientId' as patient_id,
       make_timestamp((value::json ->> '$.timestamp')::bigint * 1000) as timestamp,
       (value::json ->> '$.heartRate')::double as pulse, (value::json ->> '$.temperature')::double as celsius,
       (value::json ->> '$.oxygenSaturation')::double as spo2,
       (value::json ->> '$.respiratoryRate')::double as breaths, (value::json ->> '$.systolic')::double as systolic
from records;

create table once as
select * from judged
where pulse > 0 and pulse <= 300 and celsius between 10 and 50 and spo2 > 0 and spo2 <= 100 and breaths > 0
  and breaths <= 120 and systolic between 0 and 400
qualify row_number() over (partition by patient_id, timestamp order by ts desc, part desc, off desc) = 1;

-- Points of a band, by the lowest value of each.
create macro points(value, bands) as
    list_filter(bands, band -> band.from_value <= value)[-1].points;

-- table: news2_scores
select patient_id, timestamp,
       points(round(breaths), [{from_value: 0, points: 3}, {from_value: 9, points: 1}, {from_value: 12, points: 0},
                               {from_value: 21, points: 2}, {from_value: 25, points: 3}])
     + points(round(spo2), [{from_value: 0, points: 3}, {from_value: 92, points: 2}, {from_value: 94, points: 1},
                            {from_value: 96, points: 0}])
     + points(round(systolic), [{from_value: 0, points: 3}, {from_value: 91, points: 2}, {from_value: 101, points: 1},
                                {from_value: 111, points: 0}, {from_value: 220, points: 3}])
     + points(round(pulse), [{from_value: 0, points: 3}, {from_value: 41, points: 1}, {from_value: 51, points: 0},
                             {from_value: 91, points: 1}, {from_value: 111, points: 2}, {from_value: 131, points: 3}])
     + points(round(celsius, 1), [{from_value: 0, points: 3}, {from_value: 35.1, points: 1}, {from_value: 36.1, points: 0},
                                  {from_value: 38.1, points: 1}, {from_value: 39.1, points: 2}]) as news2
from once
