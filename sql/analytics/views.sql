-- What analysts query. They read this schema and nothing else: no keys, no settings' history, no journals.
--
-- In every view: unique counts messages (what `sent` counts), in every mode; only person_based hits know recipients.
-- Automated hits (prefetch, scanner, bot) are counted apart and are in no other column; mail proxies count as opens.

create or replace view mailtrail.described_links as
select
    mailing_id,
    number,
    occurrence,
    coalesce(pattern, host || ' (hidden until 5 recipients have had it)') as pattern,
    coalesce(label, '') as label,
    pattern is not null as shown
from mailtrail.links;
comment on view mailtrail.described_links is 'Links as people may see them; for the views below and the command line.';

create or replace view analytics.hits as
select
    hits.at,
    hits.id as hit_id,
    hits.kind,
    hits.mode,
    spaces.name as space,
    events.name as event,
    mailings.name as mailing,
    hits.space_id,
    hits.event_id,
    hits.mailing_id,
    hits.link,
    hits.registered as link_registered,
    links.pattern as link_pattern,
    links.label as link_label,
    links.shown as link_shown,
    hits.outcome,
    hits.agent,
    hits.agent_family,
    hits.agent in ('prefetch', 'scanner', 'bot') as automated,
    coalesce(hits.nonce, hits.pseudonym) as message,
    hits.pseudonym_gap,
    hits.recipient,
    hits.client_address,
    hits.user_agent,
    hits.url,
    hits.clock_clamped,
    hits.correlation_ids[1] as correlation_id1,
    hits.correlation_ids[2] as correlation_id2,
    hits.correlation_ids[3] as correlation_id3
from mailtrail.hits as hits
left join mailtrail.spaces as spaces on spaces.id = hits.space_id
left join mailtrail.events as events on events.space_id = hits.space_id and events.id = hits.event_id
left join mailtrail.mailings as mailings on mailings.id = hits.mailing_id and mailings.space_id = hits.space_id
left join mailtrail.described_links as links
    on links.mailing_id = mailings.id and links.number = hits.link and hits.registered and hits.kind = 'click';
comment on view analytics.hits is
    'Every hit that is kept, with the names of its settings. message tells messages apart: the nonce in person_based'
    ' hits, the pseudonym in anonymized ones; it is null in aggregate hits and once the day key is gone. correlation_id1'
    ' to 3 are the sender''s own ids of the mail, in person_based hits only.';

create or replace view analytics.mailings as
with counted as (
    select
        space_id, mailing_id,
        count(*) filter (where kind = 'open' and not automated) as opens,
        count(*) filter (where kind = 'open' and not automated and mode = 'person_based') as opens_person_based,
        count(*) filter (where kind = 'open' and not automated and mode = 'anonymized') as opens_anonymized,
        count(distinct message) filter (where kind = 'open' and not automated) as unique_opens,
        count(distinct message) filter (where kind = 'open' and not automated and mode = 'person_based')
            as unique_opens_person_based,
        count(distinct message) filter (where kind = 'open' and not automated and mode = 'anonymized')
            as unique_opens_anonymized,
        count(*) filter (where kind = 'click' and not automated) as clicks,
        count(*) filter (where kind = 'click' and not automated and mode = 'person_based') as clicks_person_based,
        count(*) filter (where kind = 'click' and not automated and mode = 'anonymized') as clicks_anonymized,
        count(distinct message) filter (where kind = 'click' and not automated) as unique_clicks,
        count(distinct message) filter (where kind = 'click' and not automated and mode = 'person_based')
            as unique_clicks_person_based,
        count(distinct message) filter (where kind = 'click' and not automated and mode = 'anonymized')
            as unique_clicks_anonymized,
        count(distinct recipient) filter (where not automated) as unique_recipients,
        count(*) filter (where kind = 'open' and automated) as automated_opens,
        count(*) filter (where kind = 'click' and automated) as automated_clicks,
        min(at) as first_hit,
        max(at) as last_hit
    from analytics.hits
    group by space_id, mailing_id
),
sent as (
    select
        mailing_id,
        sum(messages)::bigint as sent,
        coalesce(sum(messages) filter (where ceiling = 'person_based'), 0)::bigint as sent_person_based,
        coalesce(sum(messages) filter (where ceiling = 'anonymized'), 0)::bigint as sent_anonymized,
        coalesce(sum(messages) filter (where ceiling = 'aggregate'), 0)::bigint as sent_aggregate,
        coalesce(sum(messages) filter (where ceiling = 'off'), 0)::bigint as sent_untracked
    from mailtrail.sent
    group by mailing_id
)
select
    spaces.name as space,
    events.name as event,
    mailings.name as mailing,
    mailings.id as mailing_id,
    coalesce(sent.sent, 0) as sent,
    coalesce(sent.sent_person_based, 0) as sent_person_based,
    coalesce(sent.sent_anonymized, 0) as sent_anonymized,
    coalesce(sent.sent_untracked, 0) as sent_untracked,
    coalesce(counted.opens, 0) as opens,
    coalesce(counted.opens_person_based, 0) as opens_person_based,
    coalesce(counted.opens_anonymized, 0) as opens_anonymized,
    coalesce(counted.unique_opens, 0) as unique_opens,
    coalesce(counted.unique_opens_person_based, 0) as unique_opens_person_based,
    coalesce(counted.unique_opens_anonymized, 0) as unique_opens_anonymized,
    coalesce(counted.clicks, 0) as clicks,
    coalesce(counted.clicks_person_based, 0) as clicks_person_based,
    coalesce(counted.clicks_anonymized, 0) as clicks_anonymized,
    coalesce(counted.unique_clicks, 0) as unique_clicks,
    coalesce(counted.unique_clicks_person_based, 0) as unique_clicks_person_based,
    coalesce(counted.unique_clicks_anonymized, 0) as unique_clicks_anonymized,
    coalesce(counted.unique_recipients, 0) as unique_recipients,
    coalesce(counted.automated_opens, 0) as automated_opens,
    coalesce(counted.automated_clicks, 0) as automated_clicks,
    counted.first_hit,
    counted.last_hit,
    coalesce(sent.sent_aggregate, 0) as sent_aggregate
from mailtrail.mailings as mailings
join mailtrail.spaces as spaces on spaces.id = mailings.space_id
left join mailtrail.events as events on events.space_id = mailings.space_id and events.id = mailings.event_id
left join sent on sent.mailing_id = mailings.id
left join counted on counted.space_id = mailings.space_id and counted.mailing_id = mailings.id;
comment on view analytics.mailings is
    'One row a mailing: messages sent by ceiling, opens and clicks, total and unique, person-based and anonymized side'
    ' by side. From single hits: it reaches back as far as hits_retention_days.';

create or replace view analytics.sent as
select
    spaces.name as space,
    events.name as event,
    mailings.name as mailing,
    sent.mailing_id,
    case sent.ceiling when 'off' then 'untracked' else sent.ceiling end as tracking,
    nullif(sent.reason, '') as reason,
    sent.messages
from mailtrail.sent as sent
join mailtrail.mailings as mailings on mailings.id = sent.mailing_id
join mailtrail.spaces as spaces on spaces.id = mailings.space_id
left join mailtrail.events as events on events.space_id = mailings.space_id and events.id = mailings.event_id;
comment on view analytics.sent is
    'The denominators of each mailing: messages by how their tokens allow to track them, and of the untracked why: off'
    ' (the settings), declined (the sender), dkim, signed, encrypted, malformed, nothing (no link and no HTML).';

create or replace view analytics.links as
select
    spaces.name as space,
    mailings.name as mailing,
    mailings.id as mailing_id,
    links.number as link,
    links.label,
    links.pattern,
    links.shown,
    count(hits.hit_id) filter (where not hits.automated) as clicks,
    count(hits.hit_id) filter (where not hits.automated and hits.mode = 'person_based') as clicks_person_based,
    count(hits.hit_id) filter (where not hits.automated and hits.mode = 'anonymized') as clicks_anonymized,
    count(distinct hits.message) filter (where not hits.automated) as unique_clicks,
    count(distinct hits.message) filter (where not hits.automated and hits.mode = 'person_based')
        as unique_clicks_person_based,
    count(distinct hits.message) filter (where not hits.automated and hits.mode = 'anonymized')
        as unique_clicks_anonymized,
    count(distinct hits.recipient) filter (where not hits.automated) as unique_recipients,
    count(hits.hit_id) filter (where hits.automated) as automated_clicks
from mailtrail.described_links as links
join mailtrail.mailings as mailings on mailings.id = links.mailing_id
join mailtrail.spaces as spaces on spaces.id = mailings.space_id
left join analytics.hits as hits
    on hits.mailing_id = mailings.id and hits.space_id = mailings.space_id
    and hits.link = links.number and hits.link_registered and hits.kind = 'click'
group by spaces.name, mailings.name, mailings.id, links.number, links.label, links.pattern, links.shown;
comment on view analytics.links is 'One row a registered link of a mailing, also those nobody clicked.';

create or replace view analytics.hours as
select
    spaces.name as space,
    events.name as event,
    mailings.name as mailing,
    totals.mailing_id,
    totals.hour,
    coalesce(sum(totals.hits) filter (where totals.kind = 'open' and not automated), 0)::bigint as opens,
    coalesce(sum(totals.hits) filter (where totals.kind = 'open' and not automated and totals.mode = 'person_based'), 0)::bigint
        as opens_person_based,
    coalesce(sum(totals.hits) filter (where totals.kind = 'open' and not automated and totals.mode = 'anonymized'), 0)::bigint
        as opens_anonymized,
    coalesce(sum(totals.hits) filter (where totals.kind = 'click' and not automated), 0)::bigint as clicks,
    coalesce(sum(totals.hits) filter (where totals.kind = 'click' and not automated and totals.mode = 'person_based'), 0)::bigint
        as clicks_person_based,
    coalesce(sum(totals.hits) filter (where totals.kind = 'click' and not automated and totals.mode = 'anonymized'), 0)::bigint
        as clicks_anonymized,
    coalesce(sum(totals.hits) filter (where automated), 0)::bigint as automated_hits
from mailtrail.hit_totals as totals
cross join lateral (select totals.agent in ('prefetch', 'scanner', 'bot') as automated) as verdict
left join mailtrail.spaces as spaces on spaces.id = totals.space_id
left join mailtrail.events as events on events.space_id = totals.space_id and events.id = totals.event_id
left join mailtrail.mailings as mailings on mailings.id = totals.mailing_id and mailings.space_id = totals.space_id
group by spaces.name, events.name, mailings.name, totals.mailing_id, totals.hour;
comment on view analytics.hours is
    'Totals by mailing and hour (UTC). From the rollups that are written with the hits and stay when retention drops them.';

create or replace view analytics.unique_hours as
select
    space, event, mailing, mailing_id,
    date_trunc('hour', at, 'UTC') as hour,
    count(distinct message) filter (where kind = 'open') as unique_opens,
    count(distinct message) filter (where kind = 'open' and mode = 'person_based') as unique_opens_person_based,
    count(distinct message) filter (where kind = 'open' and mode = 'anonymized') as unique_opens_anonymized,
    count(distinct message) filter (where kind = 'click') as unique_clicks,
    count(distinct message) filter (where kind = 'click' and mode = 'person_based') as unique_clicks_person_based,
    count(distinct message) filter (where kind = 'click' and mode = 'anonymized') as unique_clicks_anonymized,
    count(distinct recipient) as unique_recipients
from analytics.hits
where not automated
group by space, event, mailing, mailing_id, date_trunc('hour', at, 'UTC');
comment on view analytics.unique_hours is
    'Messages active in an hour (UTC), from single hits. Uniques of hours do not add up: one message may act in several.';

create or replace view analytics.events as
select
    spaces.name as space,
    events.name as event,
    events.space_id,
    events.id as event_id,
    case when events.by_permission then 'by permission' else spaces.default_mode end as tracking,
    case when events.by_permission then 'the event' else 'the space''s default' end as decided_by
from mailtrail.events as events
join mailtrail.spaces as spaces on spaces.id = events.space_id
where spaces.deleted_at is null;
comment on view analytics.events is 'How each event tracks now, and which setting says so.';
