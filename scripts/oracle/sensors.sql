-- jobs/iot-sensors.toml; variable `size` is the aggregate's, an interval.
create view fields as
with docs as (select *, case when json_valid(value) then value::json end as doc from records)
select part, off, ts, value,
       case when json_type(doc, '$.sensor_id') in ('UBIGINT', 'BIGINT')
            then try_cast(doc ->> '$.sensor_id' as integer) end as sensor_id,
       case when json_type(doc, '$.temperatura') in ('UBIGINT', 'BIGINT', 'DOUBLE')
            then (doc ->> '$.temperatura')::double end as temperatura,
       case when json_type(doc, '$.umidade') in ('UBIGINT', 'BIGINT', 'DOUBLE')
            then (doc ->> '$.umidade')::double end as umidade,
       doc ->> '$.data_hora' as told,
       -- Without a zone it is the time in São Paulo.
       case when regexp_matches(told, '(Z|[+-]\d\d:\d\d)$') then try_cast(told as timestamptz)
            else timezone('America/Sao_Paulo', try_cast(told as timestamp)) end::timestamp as data_hora,
       doc ->> '$.cidade' as cidade, doc ->> '$.status' as status
from docs;

create table judged as
select *, coalesce(
    sensor_id >= 1 and temperatura between -60 and 85 and umidade between 0 and 101 and cidade is not null
        and status in ('OK', 'ALERTA', 'CRITICO') and epoch_ms(data_hora) <= ts + 600000, false) as good
from fields;

create table once as
select * from judged where good
qualify row_number() over (partition by sensor_id, data_hora order by ts, part, off) = 1;

-- none: readings of one sensor and time with different values, of which any may come first
select sensor_id, data_hora from judged where good group by all
having count(distinct (temperatura, umidade, cidade, status)) > 1

-- table: sensores
select sensor_id, temperatura, umidade, data_hora, cidade, status from once

-- table: cidade_minuto
with windows as (select *, time_bucket(getvariable('size')::interval, data_hora) as window_start from once)
select cidade, window_start, window_start + getvariable('size')::interval as window_end, count(*) as leituras,
       list(temperatura) as temperatura_media, list(umidade) as umidade_media,
       count(*) filter (status = 'CRITICO') as criticos
from windows group by cidade, window_start

-- table: dead_letters
select part as split, off as position, value from judged where not good
