-- server: its version and how far its clock is ahead of ours, in seconds
select current_setting('server_version') as version, extract(epoch from clock_timestamp()) - $1::float8 as clock_ahead;

-- keys: spaces without a minting key, and keys that were never exported
select
    (select count(*) from mailtrail.spaces as spaces where deleted_at is null and not exists (
        select from vault.token_keys as keys where keys.space_id = spaces.id and keys.state = 'minting'
    )) as spaces_without_key,
    (select count(*) from vault.token_keys where exported_at is null and state <> 'revoked') as keys_not_exported,
    (select count(*) from mailtrail.spaces where deleted_at is null) as spaces;

-- day_keys: whether today has its key, and how many that should exist are missing
select
    exists (select from vault.day_keys where day = (now() at time zone 'UTC')::date) as has_today,
    (select count(*) from vault.day_key_log as log where destroyed_at is null
        and not exists (select from vault.day_keys as keys where keys.day = log.day)) as missing,
    (select count(*) from vault.day_key_log
        where destroyed_at is null and day < (now() at time zone 'UTC')::date - $1::int) as overdue;

-- quarantine: journal lines that somebody should look at
select reason, count(*) as lines from mailtrail.quarantine group by reason order by reason;

-- shipped: how far each journal's streams are shipped
select id, stream, segment, byte_offset from mailtrail.journals;

-- tracking_urls: bases of tracked links that spaces have of their own
select name, tracking_url from mailtrail.spaces where deleted_at is null and tracking_url is not null order by name;
