-- missing_days: days from yesterday on that never had a key; yesterday because a sender's clock may be behind
select day::date as day
from generate_series(
    (now() at time zone 'UTC')::date - 1, (now() at time zone 'UTC')::date + $1::int, interval '1 day'
) as day
where not exists (select from vault.day_key_log as log where log.day = day.day::date)
order by day;

-- make: keeps a new key for a day that never had one
select vault.make_day_key($1, $2, $3);

-- overdue_days: days whose key must go, given how many days keys are kept
select day from vault.day_key_log
where destroyed_at is null and day < (now() at time zone 'UTC')::date - $1::int
order by day;

-- destroy: drops a day's key and logs it
select vault.destroy_day_key($1);

-- logged: the fingerprints of all days' keys, and which were destroyed
select day, fingerprint, destroyed_at is not null as destroyed from vault.day_key_log;

-- restore: puts a key back that a crash emptied out of its table
select vault.restore_day_key($1, $2, $3);
