-- jobs/ecommerce.toml
create view fields as
with docs as (select *, case when json_valid(value) then value::json end as doc from records)
select part, off, ts, value,
       doc ->> '$.event_id' as event_id, doc ->> '$.event_type' as event_type,
       doc ->> '$.timestamp' as told,
       -- Without a zone it is UTC.
       try_cast(told as timestamptz)::timestamp as timestamp,
       doc ->> '$.user_id' as user_id, doc ->> '$.session_id' as session_id,
       doc ->> '$.product.id' as product_id, doc ->> '$.product.name' as product_name,
       doc ->> '$.product.category' as product_category,
       doc ->> '$.product.price' as price_told, try_cast(price_told as decimal(14, 4)) as product_price,
       doc ->> '$.quantity' as quantity_told, try_cast(quantity_told as integer) as quantity,
       doc ->> '$.total_amount' as total_told, try_cast(total_told as decimal(14, 4)) as total_amount,
       doc ->> '$.payment_method' as payment_method
from docs;

create macro money(told, amount) as
    told is null or coalesce(amount between 0 and 99999999.99 and amount = round(amount, 2), false);

create table judged as
select *, coalesce(
    event_id is not null and user_id is not null
        and event_type in ('page_view', 'add_to_cart', 'remove_from_cart', 'purchase', 'search')
        and epoch_ms(timestamp) <= ts + 600000
        and money(price_told, product_price) and money(total_told, total_amount)
        and (quantity_told is null or coalesce(quantity >= 1, false))
        and (event_type <> 'purchase'
             or (product_id is not null and quantity is not null and total_amount is not null)),
    false) as good
from fields;

create table once as
select * from judged where good qualify row_number() over (partition by event_id order by ts, part, off) = 1;

-- none: events of one id with different values, of which any may come first
select event_id from judged where good group by all having count(distinct value) > 1

-- none: prices of one product at one time, of which any may be the newest
select product_id, timestamp from once where product_id is not null group by all
having count(distinct (product_name, product_category, product_price)) > 1

-- table: events
select event_id, event_type, timestamp, user_id, session_id from once

-- table: products
select product_id, product_name, product_category as category, product_price::decimal(10, 2) as price,
       timestamp as updated_at
from once where product_id is not null qualify row_number() over (partition by product_id order by timestamp desc) = 1

-- table: transactions
select 'TXN_' || event_id as transaction_id, event_id, product_id, quantity, total_amount::decimal(10, 2) as total_amount,
       payment_method, timestamp
from once where event_type = 'purchase'

-- table: revenue_by_category
select product_category, time_bucket(interval '1 hour', timestamp) as window_start,
       window_start + interval '1 hour' as window_end, count(*) as purchases, sum(quantity)::bigint as quantity,
       sum(total_amount::decimal(10, 2)) as revenue
from once where event_type = 'purchase' and product_category is not null group by product_category, window_start

-- table: dead_letters
select part as split, off as position, value from judged where not good
