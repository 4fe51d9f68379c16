-- jobs/health-vitals.toml: of the good records of one key the one with the greatest (record timestamp, partition, offset)
-- counts, in the table and in the averages.
create view fields as
with docs as (select *, case when json_valid(value) then value::json end as doc from records)
select part, off, ts, value, doc,
       coalesce(doc ->> '$.patientId', doc ->> '$.patient_id') as patient_id,
       case when json_type(doc, '$.timestamp') in ('UBIGINT', 'BIGINT')
            then make_timestamp((doc ->> '$.timestamp')::bigint * 1000) end as timestamp,
       coalesce(doc ->> '$.heartRate', doc ->> '$.heart_rate') as heart_told,
       try_cast(heart_told as double) as heart_rate,
       doc ->> '$.temperature' as temperature_told, try_cast(temperature_told as double) as temperature,
       coalesce(doc ->> '$.oxygenSaturation', doc ->> '$.oxygen_saturation') as oxygen_told,
       try_cast(oxygen_told as double) as oxygen_saturation,
       doc ->> '$.large_data' as large_data
from docs;

create macro within(told, number, low, high) as told is null or coalesce(number between low and high, false);

create table judged as
select *, coalesce(
    patient_id is not null and epoch_ms(timestamp) <= ts + 600000
        and within(heart_told, heart_rate, 0, 300) and within(temperature_told, temperature, 10, 50)
        and within(oxygen_told, oxygen_saturation, 0, 100)
        and coalesce(heart_rate, temperature, oxygen_saturation) is not null
        and coalesce(heart_rate, 1) > 0 and coalesce(oxygen_saturation, 1) > 0,
    false) as good
from fields;

create table once as
select * from judged where good
qualify row_number() over (partition by patient_id, timestamp order by ts desc, part desc, off desc) = 1;

-- table: health_records
select patient_id, timestamp, heart_rate, temperature, oxygen_saturation, large_data from once

-- table: vitals_by_minute
select patient_id, time_bucket(interval '1 minute', timestamp) as window_start,
       window_start + interval '1 minute' as window_end, count(*) as readings,
       list(heart_rate) filter (heart_rate is not null) as avg_heart_rate, max(temperature) as max_temperature,
       min(oxygen_saturation) as min_oxygen
from once group by patient_id, window_start

-- table: dead_letters
select part as split, off as position, value from judged where not good
