-- mailing: what happened to its messages, total and unique, by mode
select * from analytics.mailings where mailing_id = $1;

-- links: what happened to its links
select link, clicks, clicks_person_based, clicks_anonymized, unique_clicks, unique_clicks_person_based,
    unique_clicks_anonymized, automated_clicks
from analytics.links where mailing_id = $1;

-- names: of mailings by their ids
select id, name from mailtrail.mailings where id = any($1::bigint[]);
