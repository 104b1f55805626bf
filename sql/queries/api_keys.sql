-- list: all, or those of one space, never a secret
select keys.id, keys.name, keys.scopes, keys.space_id, spaces.name as space_name, keys.created_by, keys.created_at,
    keys.last_used_at, keys.revoked_at
from vault.api_keys as keys left join mailtrail.spaces as spaces on spaces.id = keys.space_id
where $1::bigint is null or keys.space_id = $1
order by keys.created_at desc, keys.id;

-- create: by the hash of its secret
insert into vault.api_keys (id, secret_hash, name, scopes, space_id, created_by) values ($1, $2, $3, $4, $5, $6)
on conflict do nothing returning *;

-- find: by the hash of its secret, while it is good, and whether its use is to be noted
select keys.*, coalesce(last_used_at < now() - interval '1 minute', true) as is_use_due
from vault.api_keys as keys left join mailtrail.spaces as spaces on spaces.id = keys.space_id
where keys.secret_hash = $1 and keys.revoked_at is null and spaces.deleted_at is null;

-- use: noted now
update vault.api_keys set last_used_at = now() where id = $1;

-- revoke: at once and for good
update vault.api_keys set revoked_at = now()
where id = $1 and revoked_at is null and ($2::bigint is null or space_id = $2) returning *;
