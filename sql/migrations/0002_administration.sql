-- Administration: protected mode, event definitions, dispatches, archives, people and API keys.

-- Revisions: what an editor has seen, so that the second of two changes is refused instead of undoing the first -------

create function mailtrail.next_revision() returns trigger language plpgsql as $$
begin
    new.revision := old.revision + 1;
    return new;
end $$;

alter table mailtrail.spaces add column revision bigint not null default 1;
create trigger next_revision before update on mailtrail.spaces
    for each row execute function mailtrail.next_revision();

-- Events ---------------------------------------------------------------------------------------------------------------

alter table mailtrail.events
    add column revision          bigint not null default 1,
    add column active_since      timestamptz,
    add column unprotected_until timestamptz,
    add column archived_at       timestamptz,
    add column type_id           text check (length(type_id) between 1 and 200),
    add column definition        bytea check (length(definition) <= 262144),
    add column permission_field  text,
    add constraint definition_has_its_type check ((definition is null) = (type_id is null)),
    add constraint one_event_a_type unique (space_id, type_id);
comment on column mailtrail.events.active_since is
    'Since its first message or dispatch: from then on it is in protected mode. Null: not yet active.';
comment on column mailtrail.events.unprotected_until is
    'Somebody has left protected mode: the tracking may be changed until then. Saving takes it back.';
comment on column mailtrail.events.type_id is 'The id in its XML definition; it never changes.';
comment on column mailtrail.events.permission_field is
    'The Boolean placeholder with the recipient''s permission, as Customer.Tracking. Null: nobody''s permission is known.';

create function mailtrail.keep_event_rules() returns trigger language plpgsql as $$
begin
    if old.type_id is distinct from new.type_id and old.type_id is not null then
        raise exception 'the id of an event''s definition cannot be changed' using errcode = 'MT001';
    end if;
    if (old.by_permission, old.definition) is distinct from (new.by_permission, new.definition)
        and old.active_since is not null
        and coalesce(old.unprotected_until <= clock_timestamp(), true)
    then
        raise exception 'the event is in protected mode' using errcode = 'MT002';
    end if;
    return new;
end $$;
create trigger keep_event_rules before update on mailtrail.events
    for each row execute function mailtrail.keep_event_rules();
create trigger next_revision before update on mailtrail.events
    for each row execute function mailtrail.next_revision();

create table mailtrail.dispatches (
    id           bigint primary key check (id between 1 and 281474976710655),
    space_id     bigint not null,
    event_id     bigint not null,
    mailing_id   bigint references mailtrail.mailings,
    who          text not null,
    started_at   timestamptz not null default now(),
    heartbeat_at timestamptz not null default now(),
    ended_at     timestamptz,
    foreign key (space_id, event_id) references mailtrail.events (space_id, id)
);
create index dispatches_of_event on mailtrail.dispatches (space_id, event_id, started_at desc);
comment on table mailtrail.dispatches is
    'Runs of sending, told by whoever sends. One runs while it has not ended and its heartbeat is younger than five minutes.';

create function mailtrail.activate_event(of_space bigint, of_event bigint) returns void language plpgsql as $$
begin
    if exists (select from mailtrail.events where space_id = of_space and id = of_event and active_since is null) then
        update mailtrail.events set active_since = now()
        where space_id = of_space and id = of_event and active_since is null;
    end if;
end $$;
comment on function mailtrail.activate_event is 'From now on the event is in protected mode; triggers call it.';

create function mailtrail.dispatch_activates() returns trigger language plpgsql as $$
begin
    perform mailtrail.activate_event(new.space_id, new.event_id);
    return null;
end $$;
create trigger activates after insert on mailtrail.dispatches
    for each row execute function mailtrail.dispatch_activates();

create function mailtrail.message_activates() returns trigger language plpgsql as $$
begin
    perform mailtrail.activate_event(space_id, event_id) from mailtrail.mailings
    where id = new.mailing_id and event_id is not null;
    return null;
end $$;
create trigger activates after insert on mailtrail.sent
    for each row execute function mailtrail.message_activates();

update mailtrail.events as events set active_since = now()
where exists (
    select from mailtrail.mailings as mailings join mailtrail.sent on sent.mailing_id = mailings.id
    where mailings.space_id = events.space_id and mailings.event_id = events.id
);

-- Mailings -------------------------------------------------------------------------------------------------------------

alter table mailtrail.mailings add column archived_at timestamptz;
comment on column mailtrail.mailings.archived_at is 'Not shown in lists any more; its links work and are recorded as before.';
create index mailings_of_space on mailtrail.mailings (space_id, created_at desc, id);

-- Audit: nothing in it is ever changed ---------------------------------------------------------------------------------

create index audit_of_space on mailtrail.audit (space_id, id desc);
create function mailtrail.refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'the audit log is never changed' using errcode = 'MT003';
end $$;
create trigger never_changed before update or delete on mailtrail.audit
    for each row execute function mailtrail.refuse_change();

-- People and programs --------------------------------------------------------------------------------------------------

create table vault.users (
    id            bigint generated always as identity primary key,
    name          text not null check (length(name) between 1 and 200),
    password_hash text,
    role          text not null check (role in ('admin', 'editor', 'viewer')),
    space_id      bigint references mailtrail.spaces,
    created_at    timestamptz not null default now(),
    disabled_at   timestamptz
);
create unique index users_by_name on vault.users (lower(name));
comment on column vault.users.space_id is 'The only space that they see; null: all.';
comment on column vault.users.password_hash is 'argon2id; null until they choose one after a one-time sign-in.';

create table vault.sessions (
    id         bytea primary key check (length(id) = 32),
    user_id    bigint not null references vault.users,
    created_at timestamptz not null default now(),
    seen_at    timestamptz not null default now()
);
comment on column vault.sessions.id is 'SHA-256 of what the cookie holds.';

create table vault.one_time_sign_ins (
    id         bytea primary key check (length(id) = 32),
    user_id    bigint not null references vault.users,
    expires_at timestamptz not null
);
comment on column vault.one_time_sign_ins.id is 'SHA-256 of what the link holds; the row goes when it is used.';

create table vault.failed_sign_ins (
    name text not null,
    at   timestamptz not null default now()
);
create index failed_sign_ins_by_name on vault.failed_sign_ins (name, at);
comment on table vault.failed_sign_ins is 'Of the last hour: too many for a name, and it has to wait.';

create table vault.session_key (
    only_row boolean primary key default true check (only_row),
    key      bytea not null check (length(key) = 32)
);
insert into vault.session_key (key) values (
    sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
);
comment on table vault.session_key is 'Signs session cookies and form tokens.';

create table vault.api_keys (
    id           bigint primary key check (id between 1 and 4294967295),
    secret_hash  bytea not null unique check (length(secret_hash) = 32),
    name         text not null check (length(name) between 1 and 200),
    scopes       text[] not null
        check (cardinality(scopes) > 0 and scopes <@ array['read', 'write', 'mint', 'privacy']),
    space_id     bigint references mailtrail.spaces,
    created_by   text not null,
    created_at   timestamptz not null default now(),
    last_used_at timestamptz,
    revoked_at   timestamptz
);
comment on column vault.api_keys.secret_hash is 'SHA-256; the secret has 256 random bits and is shown once.';
comment on column vault.api_keys.space_id is 'The only space that it reaches; null: all.';
