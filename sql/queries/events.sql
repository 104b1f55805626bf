-- page: of one space, by name; only what contains a text, without the archived unless asked for; definitions are large
select events.id, events.space_id, events.name, events.by_permission, events.created_at, events.revision, events.active_since,
    events.unprotected_until, events.archived_at, events.type_id, events.permission_field,
    running.id is not null as is_running
from mailtrail.events as events
left join lateral (
    select id from mailtrail.dispatches
    where dispatches.space_id = events.space_id and dispatches.event_id = events.id
        and ended_at is null and heartbeat_at > now() - $6::interval
    limit 1
) as running on true
where events.space_id = $1 and ($2::text is null or (events.name, events.id) > ($2, $3::bigint))
    and ($4 = '' or position(lower($4) in lower(events.name)) > 0)
    and ($5 or archived_at is null)
order by events.name, events.id
limit $7;

-- all: of one space
select * from mailtrail.events where space_id = $1 and archived_at is null order by name;

-- inheriting: how many of a space's events follow its default
select count(*) from mailtrail.events where space_id = $1 and not by_permission and archived_at is null;

-- find: one of a space by name, or by id in hex
select * from mailtrail.events
where space_id = $1 and (name = $2 or to_hex(id) = ltrim(lower($2), '0'))
order by name = $2 desc limit 1;

-- one: by its id
select * from mailtrail.events where space_id = $1 and id = $2;

-- shown: one by its id, as pages have it
select events.id, events.space_id, events.name, events.by_permission, events.created_at, events.revision, events.active_since,
    events.unprotected_until, events.archived_at, events.type_id, events.permission_field,
    exists (
        select from mailtrail.dispatches
        where dispatches.space_id = events.space_id and dispatches.event_id = events.id
            and ended_at is null and heartbeat_at > now() - $3::interval
    ) as is_running
from mailtrail.events as events
where space_id = $1 and id = $2;

-- of_type: by the id in its definition
select * from mailtrail.events where space_id = $1 and type_id = $2;

-- create: inherits the space's default unless it tracks by permission
insert into mailtrail.events (space_id, id, name, by_permission, type_id, definition, permission_field)
values ($1, $2, $3, $4, $5, $6, $7)
on conflict do nothing returning *;

-- lock: nobody changes it until the transaction ends
select * from mailtrail.events where space_id = $1 and id = $2 for update;

-- change: what is shown, how it tracks; back into protected mode
update mailtrail.events set name = $3, by_permission = $4, archived_at = $5,
    type_id = $6, definition = $7, permission_field = $8
where space_id = $1 and id = $2 returning *;

-- protect: what was left for this change is over
update mailtrail.events set unprotected_until = null where space_id = $1 and id = $2 returning *;

-- unprotect: for a while
update mailtrail.events set unprotected_until = now() + $3::interval where space_id = $1 and id = $2 returning *;

-- running: dispatches of an event that have not ended, newest first
select * from mailtrail.dispatches
where space_id = $1 and event_id = $2 and ended_at is null and heartbeat_at > now() - $3::interval
order by started_at desc;

-- dispatches: the latest of an event
select *, ended_at is null and heartbeat_at > now() - $3::interval as is_running from mailtrail.dispatches
where space_id = $1 and event_id = $2 order by started_at desc limit 20;

-- dispatch: one of a space
select *, ended_at is null and heartbeat_at > now() - $3::interval as is_running
from mailtrail.dispatches where space_id = $1 and id = $2;

-- start_dispatch: whoever sends tells it
insert into mailtrail.dispatches (id, space_id, event_id, mailing_id, who) values ($1, $2, $3, $4, $5)
on conflict do nothing returning *;

-- beat: the dispatch still runs; an ended one stays ended
update mailtrail.dispatches set heartbeat_at = now() where space_id = $1 and id = $2 and ended_at is null returning *;

-- end_dispatch: once
update mailtrail.dispatches set ended_at = now() where space_id = $1 and id = $2 and ended_at is null returning *;
