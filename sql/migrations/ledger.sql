-- What the migrator itself needs before the first migration.
create schema if not exists mailtrail;
create table if not exists mailtrail.migrations (
    number     integer primary key,
    name       text not null,
    checksum   text not null,
    applied_at timestamptz not null default now()
);
