-- version: what is polled every second
select version from mailtrail.settings_version;

-- spaces: all of them, tombstones too
select id, default_mode, relay_mode, deleted_at is not null as deleted from mailtrail.spaces;

-- events: by space and id
select space_id, id, by_permission from mailtrail.events;

-- overrides: links that go elsewhere or nowhere
select mailings.space_id, overrides.mailing_id, overrides.number, overrides.destination
from mailtrail.link_overrides as overrides
join mailtrail.mailings on mailings.id = overrides.mailing_id;

-- token_keys: oldest first
select id, space_id, secret, state from vault.token_keys order by created_at, id;

-- day_keys: every key that is there
select day, key from vault.day_keys;
