-- hits: how many of the mailing are in the database
select count(*) from mailtrail.hits where mailing_id = $1;

-- messages: what the database knows of each message
select
    mode,
    coalesce(recipient, '–') as recipient,
    substr(encode(message, 'hex'), 1, 8) || '…' as message,
    count(*) filter (where kind = 'open') as opens,
    count(*) filter (where kind = 'click') as clicks,
    coalesce(string_agg(distinct coalesce(url, 'link ' || link), E'\n') filter (where kind = 'click'), '–') as clicked,
    min(to_char(at at time zone 'UTC', case mode when 'anonymized' then 'HH24:MI' else 'HH24:MI:SS.MS' end)) as first
from analytics.hits
where mailing_id = $1
group by mode, recipient, message
order by mode desc, clicks desc;

-- mailing: the figures that do not depend on the kind of tracking
select sent, sent_person_based, sent_anonymized, opens, unique_opens, clicks, unique_clicks, unique_recipients
from analytics.mailings
where mailing_id = $1;
