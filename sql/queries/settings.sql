-- audit: who did what to which object; the states before and after as JSON
insert into mailtrail.audit (who, action, space_id, object, old, new) values ($1, $2, $3, $4, $5, $6);

-- audit_page: of one space or, with null, of all; newest first
select audit.*, spaces.name as space_name
from mailtrail.audit as audit left join mailtrail.spaces as spaces on spaces.id = audit.space_id
where ($1::bigint is null or audit.space_id = $1) and ($2::bigint is null or audit.id < $2)
order by audit.id desc
limit $3;

-- spaces: all that are not deleted, with their number of events
select spaces.*, (select count(*) from mailtrail.events where space_id = spaces.id) as events
from mailtrail.spaces as spaces
where deleted_at is null
order by name;

-- space: one by name, or by id in hex
select * from mailtrail.spaces
where deleted_at is null and (name = $1 or to_hex(id) = ltrim(lower($1), '0'))
order by name = $1 desc limit 1;

-- create_space: with the defaults of the schema
insert into mailtrail.spaces (id, name, default_mode, relay_mode, tracking_url) values ($1, $2, $3, $4, $5)
on conflict do nothing returning *;

-- spaces_page: by name; only those whose name contains a text, or one space
with page as (
    select * from mailtrail.spaces
    where deleted_at is null and ($1::bigint is null or id = $1)
        and ($2::text is null or (name, id) > ($2, $3::bigint))
        and ($4 = '' or position(lower($4) in lower(name)) > 0)
    order by name, id
    limit $5
)
select page.*, counted.events, counted.inheriting_events
from page cross join lateral (
    select count(*) as events, count(*) filter (where not by_permission) as inheriting_events
    from mailtrail.events where space_id = page.id and archived_at is null
) as counted
order by name, id;

-- change_space: all that can be changed
update mailtrail.spaces set name = $2, default_mode = $3, relay_mode = $4, tracking_url = $5 where id = $1 returning *;

-- lock_space: nobody changes it until the transaction ends
select * from mailtrail.spaces where id = $1 for update;

-- space_by_id: one that is not deleted
select * from mailtrail.spaces where id = $1 and deleted_at is null;

-- shown_space: one that is not deleted, with its numbers of events
select spaces.*, counted.events, counted.inheriting_events
from mailtrail.spaces as spaces cross join lateral (
    select count(*) as events, count(*) filter (where not by_permission) as inheriting_events
    from mailtrail.events where space_id = spaces.id and archived_at is null
) as counted
where id = $1 and deleted_at is null;

-- delete_space: leaves the tombstone; its name may be used again
update mailtrail.spaces set deleted_at = now(), name = left(name, 180) || ' (deleted ' || lpad(to_hex(id), 8, '0') || ')'
where id = $1 returning *;

-- mailings: of one space, newest first
select mailings.*, events.name as event_name,
    coalesce((select sum(messages) from mailtrail.sent where mailing_id = mailings.id), 0)::bigint as sent,
    (select count(*) from mailtrail.links where mailing_id = mailings.id) as links
from mailtrail.mailings as mailings
left join mailtrail.events as events on events.space_id = mailings.space_id and events.id = mailings.event_id
where mailings.space_id = $1 and mailings.archived_at is null
order by mailings.created_at desc, mailings.id;

-- mailings_page: of one space, or of one of its events, newest first; only what contains a text
select mailings.*, events.name as event_name,
    coalesce((select sum(messages) from mailtrail.sent where mailing_id = mailings.id), 0)::bigint as sent,
    (select count(*) from mailtrail.links where mailing_id = mailings.id) as links
from mailtrail.mailings as mailings
left join mailtrail.events as events on events.space_id = mailings.space_id and events.id = mailings.event_id
where mailings.space_id = $1 and ($2::bigint is null or mailings.event_id = $2)
    and ($3::timestamptz is null or (mailings.created_at, mailings.id) < ($3, $4::bigint))
    and ($5 = '' or position(lower($5) in lower(mailings.name)) > 0)
    and ($6 or mailings.archived_at is null)
order by mailings.created_at desc, mailings.id desc
limit $7;

-- change_mailing: its name, whether lists show it, and its links' parameters
update mailtrail.mailings set name = $3, archived_at = $4, url_parameters = $5 where space_id = $1 and id = $2 returning *;

-- lock_mailing_of_space: nobody changes it until the transaction ends
select * from mailtrail.mailings where space_id = $1 and id = $2 for update;

-- mailing: one of an event by name, or by id in hex
select * from mailtrail.mailings
where space_id = $1 and event_id = $2 and (name = $3 or to_hex(id) = ltrim(lower($3), '0'))
order by name = $3 desc limit 1;

-- mailing_by_name: the one of exactly this name, of an event or, with null, of the relay; each half uses the index
select * from mailtrail.mailings where space_id = $1 and event_id = $2::bigint and name = $3
union all
select * from mailtrail.mailings where space_id = $1 and event_id is null and $2::bigint is null and name = $3;

-- mailings_named: of a space, whatever their event, by name or by id in hex
select mailings.*, events.name as event_name
from mailtrail.mailings as mailings
left join mailtrail.events as events on events.space_id = mailings.space_id and events.id = mailings.event_id
where mailings.space_id = $1 and (mailings.name = $2 or to_hex(mailings.id) = ltrim(lower($2), '0'))
order by event_name;

-- mailing_of_space: one of a space by its id
select * from mailtrail.mailings where space_id = $1 and id = $2;

-- shown_mailing: one of a space by its id, as lists show it
select mailings.*, events.name as event_name,
    coalesce((select sum(messages) from mailtrail.sent where mailing_id = mailings.id), 0)::bigint as sent,
    (select count(*) from mailtrail.links where mailing_id = mailings.id) as links
from mailtrail.mailings as mailings
left join mailtrail.events as events on events.space_id = mailings.space_id and events.id = mailings.event_id
where mailings.space_id = $1 and mailings.id = $2;

-- terms: what decides about a mail: its space, its event if that is there, and whether the mailing is theirs
select spaces.default_mode, spaces.relay_mode, spaces.deleted_at is not null as deleted, spaces.tracking_url,
    events.by_permission, mailings.id is not null as has_mailing, mailings.url_parameters
from mailtrail.spaces as spaces
left join mailtrail.events as events on events.space_id = spaces.id and events.id = $2
left join mailtrail.mailings as mailings
    on mailings.id = $3 and mailings.space_id = spaces.id and mailings.event_id is not distinct from $2
where spaces.id = $1;

-- create_mailing: of an event
insert into mailtrail.mailings (id, space_id, event_id, name, url_parameters) values ($1, $2, $3, $4, $5)
on conflict do nothing returning *;

-- lock_mailing: one numbering of its links at a time; whoever only refers to the mailing does not wait
select id from mailtrail.mailings where id = $1 for no key update;

-- links: of a mailing with what overrides them
select links.*, overrides.number is not null as overridden, overrides.destination
from mailtrail.described_links as links
left join mailtrail.link_overrides as overrides using (mailing_id, number)
where links.mailing_id = $1
order by links.number;

-- link_key: what makes the fingerprints of links
select key from vault.link_key;

-- link_numbers: of these (fingerprint, occurrence), where they have one, whether this recipient's mark is due, or none is
select links.fingerprint, links.occurrence, links.number,
    coalesce(position($4::bytea in links.marks) = 0, false) as is_due, links.marks is null as is_shown
from unnest($2::bytea[], $3::integer[]) as wanted (fingerprint, occurrence)
join mailtrail.links as links
    on links.mailing_id = $1 and links.fingerprint = wanted.fingerprint and links.occurrence = wanted.occurrence;

-- register_links: gives the next numbers, in the order of the lists, to hidden links that this recipient is the first to have
insert into mailtrail.links (mailing_id, number, fingerprint, occurrence, host, label_fingerprint, marks)
select $1, (select coalesce(max(number), 0) from mailtrail.links where mailing_id = $1) + new.place,
    new.fingerprint, new.occurrence, new.host, new.label_fingerprint, $6
from unnest($2::bytea[], $3::integer[], $4::text[], $5::bytea[])
    with ordinality as new (fingerprint, occurrence, host, label_fingerprint, place)
on conflict (mailing_id, fingerprint, occurrence) do nothing;

-- mark_links: one more recipient has had these hidden links; rows are locked by number, or two senders wait for each other
with due as (
    select links.number, seen.label_fingerprint
    from unnest($2::integer[], $3::bytea[]) as seen (number, label_fingerprint)
    join mailtrail.links as links on links.mailing_id = $1 and links.number = seen.number
    where position($4::bytea in links.marks) = 0
    order by links.number
    for no key update of links
)
update mailtrail.links as links set
    marks = links.marks || $4,
    label_fingerprint = case
        when links.marks = '' or links.label_fingerprint = due.label_fingerprint then due.label_fingerprint
    end
from due
where links.mailing_id = $1 and links.number = due.number
returning links.number, length(links.marks) as recipients, links.label_fingerprint is not null as same_label;

-- show_links: keeps the texts of links that enough recipients have had, and drops their marks
update mailtrail.links as links set
    pattern = shown.pattern, label = shown.label, marks = null, label_fingerprint = null
from unnest($2::integer[], $3::text[], $4::text[]) as shown (number, pattern, label)
where links.mailing_id = $1 and links.number = shown.number;

-- count_sent: more messages made under this ceiling, or untracked for this reason
insert into mailtrail.sent (mailing_id, ceiling, messages, reason) values ($1, $2, $3, $4)
on conflict (mailing_id, ceiling, reason) do update set messages = sent.messages + excluded.messages;

-- sent: a mailing's denominators
select ceiling, messages, reason from mailtrail.sent where mailing_id = $1
order by array_position(array['person_based', 'anonymized', 'aggregate', 'off'], ceiling), reason;

-- override_link: sends a link elsewhere, or switches it off with null
insert into mailtrail.link_overrides (mailing_id, number, destination) values ($1, $2, $3)
on conflict (mailing_id, number) do update set destination = excluded.destination;

-- restore_link: back to the destination in the token
delete from mailtrail.link_overrides where mailing_id = $1 and number = $2;

-- keys: of one space or, with null, of all; never the secrets
select keys.id, keys.space_id, spaces.name as space_name, keys.state, keys.created_at, keys.exported_at
from vault.token_keys as keys join mailtrail.spaces as spaces on spaces.id = keys.space_id
where $1::bigint is null or keys.space_id = $1
order by spaces.name, keys.created_at;

-- key_secrets: what an export holds
select keys.id, keys.space_id, spaces.name as space_name, spaces.deleted_at is not null as space_deleted,
    keys.secret, keys.state, keys.created_at
from vault.token_keys as keys join mailtrail.spaces as spaces on spaces.id = keys.space_id
where $1::bigint is null or keys.space_id = $1
order by keys.created_at;

-- ring_keys: a space's own and those of these ids, with their secrets, oldest first
select id, space_id, secret, state from vault.token_keys
where space_id = $1 or id = any($2::integer[])
order by created_at, id;

-- retire_minting: the key that minted so far only decodes from now on
update vault.token_keys set state = 'decoding' where space_id = $1 and state = 'minting' returning id;

-- add_key: a new key, or an imported one
insert into vault.token_keys (id, space_id, secret, state) values ($1, $2, $3, $4) on conflict do nothing returning id;

-- key: one by its id
select id, space_id, secret, state from vault.token_keys where id = $1;

-- change_key: its state
update vault.token_keys set state = $2 where id = $1;

-- mark_exported: for doctor, which warns until a key was exported once
update vault.token_keys set exported_at = now() where id = any($1::integer[]);

-- import_space: so that imported keys have their space; one that is there, or its tombstone, stays as it is
insert into mailtrail.spaces (id, name, deleted_at)
values (
    $1,
    case when exists (select from mailtrail.spaces where name = $2)
        then left($2, 180) || ' ' || lpad(to_hex($1::bigint), 8, '0') else $2 end,
    case when $3 then now() end
)
on conflict (id) do nothing;
