-- users: all, or those of one space, with when they were last seen
select users.id, users.name, users.role, users.space_id, spaces.name as space_name, users.created_at, users.disabled_at,
    (select max(seen_at) from vault.sessions where user_id = users.id) as seen_at
from vault.users as users left join mailtrail.spaces as spaces on spaces.id = users.space_id
where $1::bigint is null or users.space_id = $1
order by lower(users.name);

-- user: one by name, whatever its case
select * from vault.users where lower(name) = lower($1);

-- lock_user: nobody changes them until the transaction ends
select * from vault.users where id = $1 for update;

-- create_user: without a password they can only come by a one-time sign-in
insert into vault.users (name, password_hash, role, space_id) values ($1, $2, $3, $4) on conflict do nothing returning *;

-- change_user: role and whether they may sign in
update vault.users set role = $2, disabled_at = $3 where id = $1 returning *;

-- set_password: its hash
update vault.users set password_hash = $2 where id = $1;

-- other_admins: administrators of everything who can sign in, besides one
select count(*) from vault.users where role = 'admin' and space_id is null and disabled_at is null and id <> $1;

-- has_users: whether there is anybody
select exists (select from vault.users);

-- add_session: by the hash of its secret
insert into vault.sessions (id, user_id) values ($1, $2);

-- session: its user, while it is neither idle nor old for too long and the user may sign in
select users.id, users.name, users.role, users.space_id, sessions.seen_at
from vault.sessions as sessions join vault.users as users on users.id = sessions.user_id
left join mailtrail.spaces as spaces on spaces.id = users.space_id
where sessions.id = $1 and users.disabled_at is null and spaces.deleted_at is null
    and sessions.seen_at > now() - $2::interval and sessions.created_at > now() - $3::interval;

-- see_session: it is in use
update vault.sessions set seen_at = now() where id = $1;

-- end_session: signed out
delete from vault.sessions where id = $1;

-- end_sessions: of a user, all but one
delete from vault.sessions where user_id = $1 and id is distinct from $2::bytea;

-- drop_old_sessions: nobody can use them any more
delete from vault.sessions where seen_at < now() - $1::interval or created_at < now() - $2::interval;

-- add_one_time: a link that signs in once
insert into vault.one_time_sign_ins (id, user_id, expires_at) values ($1, $2, now() + $3::interval);

-- use_one_time: takes it away; its user if it was good
with used as (delete from vault.one_time_sign_ins where id = $1 returning user_id, expires_at)
select users.* from used join vault.users as users on users.id = used.user_id
where used.expires_at > now() and users.disabled_at is null;

-- drop_old_one_times: nobody can use them any more
delete from vault.one_time_sign_ins where expires_at < now();

-- count_failures: of a name, lately
select count(*) from vault.failed_sign_ins where name = lower($1) and at > now() - $2::interval;

-- add_failure: of a name that somebody gave
insert into vault.failed_sign_ins (name) values (left(lower($1), 200));

-- forget_failures: they have signed in
delete from vault.failed_sign_ins where name = lower($1);

-- drop_old_failures: they count no more
delete from vault.failed_sign_ins where at < now() - $1::interval;

-- session_key: signs cookies and form tokens
select key from vault.session_key;
