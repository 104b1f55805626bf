-- Sending: parameters of a mailing's links, why mails went out untracked, ids of single mails, and the mail relay.

-- Mailings -------------------------------------------------------------------------------------------------------------

alter table mailtrail.mailings
    add column url_parameters text check (length(url_parameters) between 1 and 1000);
comment on column mailtrail.mailings.url_parameters is
    'Added to the destinations of its tracked links, where they are not there yet, e.g. utm_source=newsletter. Null: none.';

alter table mailtrail.sent
    add column reason text not null default '',
    add constraint only_untracked_has_a_reason check (ceiling = 'off' or reason = ''),
    drop constraint sent_pkey,
    add primary key (mailing_id, ceiling, reason);
comment on column mailtrail.sent.reason is
    'Why untracked mails went out so: off (the settings), declined (the sender), dkim, signed, encrypted, malformed,'
    ' nothing (no link and no HTML), already_tracked. Empty: tracked, or counted before reasons were.';

-- Hits: adding a column that is null everywhere rewrites no row ---------------------------------------------------------

alter table mailtrail.hits
    add column correlation_ids text[] check (cardinality(correlation_ids) between 1 and 3),
    add constraint ids_of_single_mails_of_persons_only check (mode = 'person_based' or correlation_ids is null);
comment on column mailtrail.hits.correlation_ids is
    'The sender''s own ids of the mail, X-inx-correlationId1 to 3; null where there are none, and in every other mode.';

-- The mail relay -------------------------------------------------------------------------------------------------------

alter table vault.api_keys
    drop constraint api_keys_scopes_check,
    add constraint api_keys_scopes_check
        check (cardinality(scopes) > 0 and scopes <@ array['read', 'write', 'mint', 'privacy', 'relay']);

create table mailtrail.relayed (
    envelope  bytea not null check (length(envelope) = 32),
    recipient bytea not null check (length(recipient) = 32),
    reply     text not null,
    at        timestamptz not null default now(),
    primary key (envelope, recipient)
);
create index relayed_by_time on mailtrail.relayed (at);
comment on table mailtrail.relayed is
    'Mails that only some of their recipients could be given: who has it already, so that nobody gets it twice when it is'
    ' sent again. Hashes of the mail and of the recipient; kept for a week.';
