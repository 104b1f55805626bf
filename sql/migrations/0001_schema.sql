-- Settings, keys, hits: everything that Mailtrail keeps. Ids of spaces and events are 32 random bits, of mailings 48.

create schema vault;
create schema analytics;

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
    mailing_id bigint not null references mailtrail.mailings,
    number     integer not null check (number > 0),
    pattern    text not null,
    occurrence integer not null check (occurrence > 0),
    label      text not null default '',
    primary key (mailing_id, number),
    unique (mailing_id, pattern, occurrence)
);
comment on column mailtrail.links.pattern is 'Scheme, host, path with placeholders, names of parameters; never values.';

create table mailtrail.link_overrides (
    mailing_id  bigint not null,
    number      integer not null,
    destination text,
    primary key (mailing_id, number),
    foreign key (mailing_id, number) references mailtrail.links
);
comment on column mailtrail.link_overrides.destination is 'The URL to go to instead; null: switched off (410).';

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
) partition by range (at);
create index hits_by_mailing on mailtrail.hits (mailing_id, at);

create table mailtrail.journals (
    id          text not null,
    stream      text not null check (stream in ('identified', 'reduced')),
    segment     integer not null,
    byte_offset bigint not null,
    updated_at  timestamptz not null default now(),
    primary key (id, stream)
);
comment on table mailtrail.journals is 'How far each journal is shipped; moved in the transaction that writes the rows.';

create table mailtrail.quarantine (
    id         bigint generated always as identity primary key,
    at         timestamptz not null default now(),
    stream     text not null,
    reason     text not null,
    line       bytea not null
);
comment on table mailtrail.quarantine is 'Journal lines that are damaged or that the database refuses for their data.';
