-- Settings, keys, hits: everything that Mailtrail keeps. Ids of spaces and events are 32 random bits, of mailings 48.

create schema vault;
revoke all on schema vault from public;

-- Settings' version: what collectors poll, and are notified of --------------------------------------------------------

create table mailtrail.settings_version (
    only_row boolean primary key default true check (only_row),
    version  bigint not null
);
insert into mailtrail.settings_version (version) values (1);

create function mailtrail.settings_changed() returns void language sql as $$
    update mailtrail.settings_version set version = version + 1;
    select pg_notify('mailtrail_settings', '');
$$;
comment on function mailtrail.settings_changed is 'Makes every collector load its snapshot anew; triggers call it.';

create function mailtrail.settings_changed_trigger() returns trigger language plpgsql as $$
begin
    perform mailtrail.settings_changed();
    return null;
end $$;

-- Settings -----------------------------------------------------------------------------------------------------------

create table mailtrail.spaces (
    id           bigint primary key check (id between 1 and 4294967295),
    name         text not null unique check (length(name) between 1 and 200),
    default_mode text not null default 'anonymized' check (default_mode in ('anonymized', 'person_based')),
    relay_mode   text not null default 'off' check (relay_mode in ('off', 'anonymized', 'person_based')),
    tracking_url text,
    created_at   timestamptz not null default now(),
    deleted_at   timestamptz
);
comment on table mailtrail.spaces is 'Tenants. A deleted space is a tombstone: its links still redirect and record nothing.';

create table mailtrail.events (
    id            bigint not null check (id between 1 and 4294967295),
    space_id      bigint not null references mailtrail.spaces,
    name          text not null check (length(name) between 1 and 200),
    by_permission boolean not null default false,
    created_at    timestamptz not null default now(),
    primary key (space_id, id),
    unique (space_id, name)
);
comment on column mailtrail.events.by_permission is 'Tracks by the recipient''s permission; false: inherits the space''s default.';

create table mailtrail.mailings (
    id         bigint primary key check (id between 1 and 281474976710655),
    space_id   bigint not null references mailtrail.spaces,
    event_id   bigint,
    name       text not null check (length(name) between 1 and 200),
    created_at timestamptz not null default now(),
    foreign key (space_id, event_id) references mailtrail.events (space_id, id),
    unique nulls not distinct (space_id, event_id, name)
);
comment on column mailtrail.mailings.event_id is 'Null: a group of relay mails.';

create table mailtrail.links (
    mailing_id        bigint not null references mailtrail.mailings,
    number            integer not null check (number > 0),
    fingerprint       bytea not null check (length(fingerprint) = 16),
    occurrence        integer not null check (occurrence > 0),
    host              text not null,
    marks             bytea check (length(marks) <= 5),
    label_fingerprint bytea,
    pattern           text,
    label             text,
    primary key (mailing_id, number),
    unique (mailing_id, fingerprint, occurrence),
    constraint hidden_or_shown check (
        case when pattern is null
            then marks is not null and label is null
            else marks is null and label is not null and label_fingerprint is null
        end
    )
);
comment on table mailtrail.links is
    'What a mailing''s links are. A link''s text is hidden until five different recipients have had it: what only one'
    ' got could name whom nobody may know, and nothing is ever deleted here.';
comment on column mailtrail.links.fingerprint is 'Keyed hash of the pattern: finds the number again while the pattern is not here.';
comment on column mailtrail.links.host is 'Scheme and host, {value} for subdomains.';
comment on column mailtrail.links.marks is 'While hidden: one byte for each of the recipients that had it, which of 256 groups they are in.';
comment on column mailtrail.links.label_fingerprint is 'While hidden: keyed hash of what readers saw; null once they saw different things.';
comment on column mailtrail.links.pattern is
    'Scheme, host, path with placeholders, names of parameters; never values. Null: hidden.';

create table mailtrail.link_overrides (
    mailing_id  bigint not null,
    number      integer not null,
    destination text,
    primary key (mailing_id, number),
    foreign key (mailing_id, number) references mailtrail.links
);
comment on column mailtrail.link_overrides.destination is 'The URL to go to instead; null: switched off (410).';

create table mailtrail.sent (
    mailing_id bigint not null references mailtrail.mailings,
    ceiling    text not null check (ceiling in ('off', 'aggregate', 'anonymized', 'person_based')),
    messages   bigint not null check (messages > 0),
    primary key (mailing_id, ceiling)
);
comment on table mailtrail.sent is 'The denominators: messages made for a mailing, by the ceiling sealed into their tokens; off: untracked.';

create table mailtrail.audit (
    id       bigint generated always as identity primary key,
    at       timestamptz not null default now(),
    who      text not null,
    action   text not null,
    space_id bigint,
    object   text not null,
    old      jsonb,
    new      jsonb
);

-- Vault: closed to everyone but the owner ------------------------------------------------------------------------------

create table vault.token_keys (
    id         integer primary key check (id between 1 and 16777215),
    space_id   bigint not null references mailtrail.spaces,
    secret     bytea not null check (length(secret) = 64),
    state      text not null default 'minting' check (state in ('minting', 'decoding', 'revoked')),
    created_at timestamptz not null default clock_timestamp(),
    exported_at timestamptz
);
create unique index one_minting_key_per_space on vault.token_keys (space_id) where state = 'minting';

create table vault.link_key (
    only_row boolean primary key default true check (only_row),
    key      bytea not null check (length(key) = 32)
);
-- PostgreSQL's own source of strong randomness: 122 bits in each.
insert into vault.link_key (key) values (
    sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
);
comment on table vault.link_key is 'Makes the fingerprints of hidden links: without it they tell nothing. Made once, for ever.';

-- The partitions are unlogged, one a day: dropping one unlinks its file, and its key was never in the WAL.
create table vault.day_keys (
    day date not null,
    key bytea not null check (length(key) = 32)
) partition by list (day);

create table vault.day_key_log (
    day          date primary key,
    fingerprint  bytea not null,
    made_at      timestamptz not null default now(),
    destroyed_at timestamptz
);
comment on table vault.day_key_log is
    'Outlives the keys: says that a day had one, recognises it when a collector puts it back after a crash, and when it was destroyed.';

create function vault.make_day_key(of_day date, new_key bytea, new_fingerprint bytea) returns boolean
language plpgsql as $$
begin
    insert into vault.day_key_log (day, fingerprint) values (of_day, new_fingerprint) on conflict do nothing;
    if not found then
        return false;
    end if;
    perform vault.keep_day_key(of_day, new_key);
    return true;
end $$;
comment on function vault.make_day_key is 'Keeps a new key for a day that never had one; false if it had.';

create function vault.restore_day_key(of_day date, old_key bytea, its_fingerprint bytea) returns boolean
language plpgsql as $$
begin
    perform from vault.day_key_log
        where day = of_day and fingerprint = its_fingerprint and destroyed_at is null for update;
    if not found or exists (select from vault.day_keys where day = of_day) then
        return false;
    end if;
    perform vault.keep_day_key(of_day, old_key);
    return true;
end $$;
comment on function vault.restore_day_key is 'Puts back a key that a crash emptied out of its unlogged table; false if it is there or not the one.';

create function vault.keep_day_key(of_day date, its_key bytea) returns void language plpgsql as $$
begin
    execute format(
        'create unlogged table if not exists vault.%I partition of vault.day_keys for values in (%L)',
        'day_key_' || to_char(of_day, 'YYYYMMDD'), of_day
    );
    insert into vault.day_keys (day, key) values (of_day, its_key);
end $$;

create function vault.destroy_day_key(of_day date) returns boolean language plpgsql as $$
begin
    update vault.day_key_log set destroyed_at = now() where day = of_day and destroyed_at is null;
    if not found then
        return false;
    end if;
    execute format('drop table if exists vault.%I', 'day_key_' || to_char(of_day, 'YYYYMMDD'));
    perform mailtrail.settings_changed();
    return true;
end $$;
comment on function vault.destroy_day_key is 'Drops the key''s own table, which unlinks its file, and logs that; false if it was destroyed already.';

-- Hits ---------------------------------------------------------------------------------------------------------------

create table mailtrail.hits (
    at             timestamptz not null,
    id             bigint not null,
    kind           text not null check (kind in ('open', 'click')),
    mode           text not null check (mode in ('aggregate', 'anonymized', 'person_based')),
    space_id       bigint not null,
    event_id       bigint not null,
    mailing_id     bigint not null,
    link           integer not null,
    registered     boolean not null,
    agent          text not null,
    agent_family   text,
    recipient      text,
    nonce          bytea,
    pseudonym      bytea,
    pseudonym_gap  text check (pseudonym_gap in ('key_destroyed', 'key_missing')),
    client_address inet,
    user_agent     text,
    url            text,
    outcome        text not null default 'served' check (outcome in ('served', 'corrected', 'gone')),
    clock_clamped  boolean not null default false,
    constraint only_what_the_mode_allows check (
        mode = 'person_based'
        or (recipient is null and nonce is null and client_address is null and user_agent is null and url is null)
    ),
    constraint no_pseudonym_of_a_person check (mode = 'anonymized' or (pseudonym is null and pseudonym_gap is null)),
    constraint reduced_times_are_coarse check (
        mode = 'person_based'
        or at = date_trunc(case mode when 'anonymized' then 'minute' else 'hour' end, at, 'UTC')
    )
) partition by list (mode);
create index hits_by_mailing on mailtrail.hits (mailing_id, at);
comment on table mailtrail.hits is
    'Single hits, by mode and then by month. Each mode has tables of its own: in one table a coarsely timed row between two'
    ' exactly timed ones would be timed by its neighbours, since rows lie in the order in which they came.';

create table mailtrail.hits_person_based partition of mailtrail.hits for values in ('person_based') partition by range (at);
create table mailtrail.hits_anonymized partition of mailtrail.hits for values in ('anonymized') partition by range (at);
create table mailtrail.hits_aggregate partition of mailtrail.hits for values in ('aggregate') partition by range (at);

create function mailtrail.make_month(of_day date) returns boolean language plpgsql as $$
declare
    month date := date_trunc('month', of_day);
    of_mode text;
    partition text;
    made boolean := false;
begin
    perform pg_advisory_xact_lock(hashtext('mailtrail.hits months'));
    foreach of_mode in array array['hits_person_based', 'hits_anonymized', 'hits_aggregate'] loop
        partition := of_mode || to_char(month, '_YYYY_MM');
        continue when to_regclass('mailtrail.' || partition) is not null;
        -- Made beside and attached: a new partition in one step would wait for every reader, and every shipper for it.
        execute format('create table mailtrail.%I (like mailtrail.%I including all)', partition, of_mode);
        execute format(
            'alter table mailtrail.%I attach partition mailtrail.%I for values from (%L) to (%L)',
            of_mode, partition, month::timestamp at time zone 'UTC', (month + interval '1 month') at time zone 'UTC'
        );
        made := true;
    end loop;
    return made;
end $$;
comment on function mailtrail.make_month is 'Makes the partitions for the UTC month of a day; false if they are there.';

create function mailtrail.drop_months_before(first_kept date) returns setof text language plpgsql as $$
declare
    partition text;
begin
    perform pg_advisory_xact_lock(hashtext('mailtrail.hits months'));
    for partition in
        select months.relname
        from pg_inherits as of_mode
        join pg_inherits as of_month on of_month.inhparent = of_mode.inhrelid
        join pg_class as months on months.oid = of_month.inhrelid
        where of_mode.inhparent = 'mailtrail.hits'::regclass
            and right(months.relname, 7) < to_char(first_kept, 'YYYY_MM')
        order by 1
    loop
        execute format('drop table mailtrail.%I', partition);
        return next partition;
    end loop;
end $$;
comment on function mailtrail.drop_months_before is 'Retention: drops whole months before the month of a day, gives their tables'' names.';

create table mailtrail.hit_totals (
    hour       timestamptz not null,
    space_id   bigint not null,
    event_id   bigint not null,
    mailing_id bigint not null,
    kind       text not null,
    link       integer not null,
    registered boolean not null,
    mode       text not null,
    agent      text not null,
    hits       bigint not null check (hits > 0),
    primary key (mailing_id, hour, kind, link, registered, mode, agent, space_id, event_id)
);
comment on table mailtrail.hit_totals is 'Counts by hour, written with the hits and kept when retention drops them.';

create table mailtrail.journals (
    id          text not null,
    stream      text not null check (stream in ('identified', 'reduced')),
    segment     integer not null,
    byte_offset bigint not null,
    updated_at  timestamptz not null default now(),
    primary key (id, stream)
);
comment on table mailtrail.journals is 'How far each journal is shipped; moved in the transaction that writes the rows.';
comment on column mailtrail.journals.updated_at is 'Of reduced streams the whole hour: it would time their last hit.';

create table mailtrail.quarantine (
    id         bigint generated always as identity primary key,
    at         timestamptz not null default now(),
    stream     text not null,
    reason     text not null,
    line       bytea not null
);
comment on table mailtrail.quarantine is
    'Journal lines that are damaged or that the database refuses for their data, each up to its first 64 kB.';
comment on column mailtrail.quarantine.at is 'When it was put here; of reduced streams the whole hour.';

-- Who is told of what ------------------------------------------------------------------------------------------------

do $$
declare
    watched text;
begin
    foreach watched in array array[
        'mailtrail.spaces', 'mailtrail.events', 'mailtrail.link_overrides', 'vault.token_keys', 'vault.day_keys'
    ] loop
        execute format(
            'create trigger settings_changed after insert or update or delete on %s
                 for each statement execute function mailtrail.settings_changed_trigger()', watched
        );
    end loop;
end $$;

-- Analysts read the schema analytics and nothing else.
do $$
begin
    if not exists (select from pg_roles where rolname = 'mailtrail_analyst') then
        create role mailtrail_analyst nologin;
        -- Since PostgreSQL 16 who creates a role may grant it, but not take it on: `mailtrail sql` does.
        execute format('grant mailtrail_analyst to %I', current_user)
            || case when current_setting('server_version_num')::int >= 160000 then ' with set true' else '' end;
    end if;
exception
    when duplicate_object or unique_violation then null;  -- another database of this server was faster
    when insufficient_privilege then
        raise exception 'the role mailtrail_analyst is missing and may not be created by %', current_user
            using hint = 'let an administrator run: create role mailtrail_analyst nologin';
end $$;
create schema analytics;
grant usage on schema analytics to mailtrail_analyst;
alter default privileges in schema analytics grant select on tables to mailtrail_analyst;
