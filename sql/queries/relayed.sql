-- done: the replies that an envelope's recipients were given before
select recipient, reply from mailtrail.relayed where envelope = $1;

-- note: replies of an envelope that is to be sent again; what is known stays
insert into mailtrail.relayed (envelope, recipient, reply)
select $1, noted.recipient, noted.reply from unnest($2::bytea[], $3::text[]) as noted (recipient, reply)
on conflict do nothing;

-- forget: an envelope that is done
delete from mailtrail.relayed where envelope = $1;

-- forget_old: what nobody will send again
delete from mailtrail.relayed where at < now() - interval '7 days';
