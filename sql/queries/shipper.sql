-- clock: the database's, which hits must agree with
select now();

-- watermarks: how far a journal's streams are shipped
select stream, segment, byte_offset from mailtrail.journals where id = $1;

-- set_watermark: a stream's first one; no row if another shipper was first
insert into mailtrail.journals (id, stream, segment, byte_offset, updated_at)
values ($1, $2, $3, $4, case $2 when 'reduced' then date_trunc('hour', now(), 'UTC') else now() end)
on conflict do nothing
returning true;

-- move_watermark: on from where it was read; no row if another shipper moved it
update mailtrail.journals
set segment = $3, byte_offset = $4,
    updated_at = case $2 when 'reduced' then date_trunc('hour', now(), 'UTC') else now() end
where id = $1 and stream = $2 and segment = $5 and byte_offset = $6
returning true;

-- forget_journal: its segments are gone
delete from mailtrail.journals where id = $1;

-- quarantine: lines of one stream, all for one reason
insert into mailtrail.quarantine (at, stream, reason, line)
select case $1 when 'reduced' then date_trunc('hour', now(), 'UTC') else now() end, $1, $2, line
from unnest($3::bytea[]) as line;

-- add_totals: in the order of the lists, which all shippers sort alike so that none waits for another in a circle
insert into mailtrail.hit_totals as totals
    (hour, mailing_id, kind, link, registered, mode, agent, space_id, event_id, hits)
select * from unnest(
    $1::timestamptz[], $2::bigint[], $3::text[], $4::integer[], $5::boolean[], $6::text[], $7::text[], $8::bigint[],
    $9::bigint[], $10::bigint[]
)
on conflict (mailing_id, hour, kind, link, registered, mode, agent, space_id, event_id)
do update set hits = totals.hits + excluded.hits;

-- make_month: the partition of a day
select mailtrail.make_month($1);

-- make_coming_months: today's partition and tomorrow's
select mailtrail.make_month((now() at time zone 'UTC')::date + ahead) from generate_series(0, 1) as ahead;

-- wait_briefly: until the transaction ends, for locks that make every reader behind them wait too
select set_config('lock_timeout', '2s', true);

-- drop_months: that lie wholly before the first day kept
select mailtrail.drop_months_before((now() at time zone 'UTC')::date - $1::integer) as month;

-- clear_quarantine: of lines older than these days
delete from mailtrail.quarantine where at < now() - make_interval(days => $1::integer);
