"""The tables, as migrations that only go forward. Every table is STRICT; released migrations are never edited."""

from __future__ import annotations

import sqlite3

from adreg.registry.sqlite import Database, Migrations

APPLICATION_ID = 0x61647267  # "adrg"

migrations = Migrations("adreg")

FIRST = """
create table base (
    id integer primary key, name text not null unique, folder text not null, origin text not null,
    arch_id text not null, weights_id text not null, content_id text not null, values_id text not null,
    cfg_id text not null, tok_id text, tpl_id text,
    card text not null, leaves text not null, added_at text not null
) strict;
create index base_weights on base(weights_id);
create table adapter (
    id integer primary key, name text not null unique, created_at text not null, deleted_at text
) strict;
create table run (
    id text primary key, outcome text not null, started_at text not null, weights_id text, record text not null
) strict;
create table blob (
    digest text primary key, size integer not null check (size >= 0), created_at text not null
) strict, without rowid;
create table version (
    id integer primary key, adapter_id integer not null references adapter(id),
    number integer not null check (number >= 1), digest text not null, base_id integer references base(id),
    trained_on text, summary text not null, size integer not null, run_id text references run(id), created_at text not null,
    unique (adapter_id, number), unique (adapter_id, digest)
) strict;
create table version_file (
    version_id integer not null references version(id), path text not null, digest text not null references blob(digest),
    primary key (version_id, path)
) strict, without rowid;
create table alias (
    adapter_id integer not null references adapter(id), name text not null,
    version_id integer not null references version(id), updated_at text not null, primary key (adapter_id, name)
) strict, without rowid;
create table event (
    id integer primary key, at text not null, adapter_id integer not null references adapter(id),
    verb text not null, detail text not null
) strict;
create table artifact (
    id integer primary key, kind text not null, path text not null, digest text not null, size integer not null,
    version_id integer not null references version(id), recipe text not null, verification text, created_at text not null
) strict;
create table leaf_cache (
    device integer not null, inode integer not null, size integer not null, mtime_ns integer not null,
    ctime_ns integer not null, algorithm text not null, leaves text not null,
    primary key (device, inode, size, mtime_ns, ctime_ns, algorithm)
) strict, without rowid;
create trigger version_is_immutable before update of adapter_id, number, digest, trained_on, summary on version
begin select raise(abort, 'a version never changes'); end;
create trigger version_file_is_immutable before update on version_file
begin select raise(abort, 'a version never changes'); end;
"""


@migrations()
def m001_first(db: Database) -> None:
    """Bases, adapters, versions, aliases, runs, artifacts, blobs, events and the cache of leaves."""
    for statement in _statements(FIRST):
        db.execute(statement)


def _statements(script: str) -> list[str]:
    """The statements of `script`; `executescript` would commit the transaction that a migration runs in."""
    found, pending = [], ""
    for line in script.splitlines():
        pending += line + "\n"
        if sqlite3.complete_statement(pending):
            found.append(pending.strip())
            pending = ""
    return found
