"""The tables, as migrations that only go forward. Every table is STRICT; released migrations are never edited."""

from __future__ import annotations

import sqlite3
import uuid
from typing import TYPE_CHECKING

from adreg.registry.store.chain import link_events
from adreg.registry.store.sqlite import Database, import_sqlite_utils

if TYPE_CHECKING:
    from sqlite_utils import Migrations

APPLICATION_ID = 0x61647267  # "adrg"

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

SECOND = """
create table meta (key text primary key, value text not null) strict, without rowid;
alter table blob add column state text not null default 'ok' check (state in ('ok', 'quarantined', 'missing'));
alter table blob add column verified_at text;
alter table base add column layout_id text;
alter table base add column vocab_id text;
alter table base add column tpl_sem text;
alter table base add column sketch text references blob(digest);
create table base_relation (
    child_id integer not null references base(id), parent_id integer not null references base(id),
    verdict text not null, score real not null, evidence text not null, primary key (child_id, parent_id)
) strict, without rowid;
alter table adapter add column description text not null default '';
alter table adapter add column purged_at text;
alter table version add column weights_id text;
alter table version add column notes text not null default '';
alter table version add column origin text not null default '';
alter table version add column yanked_at text;
alter table version add column yank_reason text;
update version set weights_id = json_extract(trained_on, '$.weights_id');
create index version_weights on version(weights_id);
create index version_digest on version(digest);
create index version_blob on version_file(digest);
create index alias_version on alias(version_id);
create index artifact_digest on artifact(digest);
create index artifact_version on artifact(version_id);
create index event_adapter on event(adapter_id);
create table parent (
    version_id integer not null references version(id), digest text not null, reference text not null,
    relation text not null check (relation in ('merged', 'continued')), primary key (version_id, digest)
) strict, without rowid;
create table tag (
    version_id integer not null references version(id), name text not null, primary key (version_id, name)
) strict, without rowid;
alter table alias add column protected integer not null default 0 check (protected in (0, 1));
alter table event add column hash text not null default '';
create table lease (
    id integer primary key, owner text not null, purpose text not null, taken_at real not null, expires_at real not null
) strict;
create table token (
    id text primary key, label text not null, hash text not null unique, scopes text not null, namespace text not null,
    created_at text not null, expires_at text, last_used_at text, revoked_at text
) strict;
create table remote (name text primary key, url text not null, created_at text not null) strict;
create virtual table search using fts5(name, description, notes, tags, tokenize = 'unicode61');
insert into search (rowid, name, description, notes, tags) select id, name, '', '', '' from adapter;
drop trigger version_is_immutable;
create trigger version_is_immutable
before update of adapter_id, number, digest, trained_on, weights_id, summary, size, run_id, created_at, origin on version
begin select raise(abort, 'a version never changes'); end;
"""
SEALED_HISTORY = """
create trigger event_is_immutable before update on event begin select raise(abort, 'history never changes'); end;
create trigger event_stays before delete on event begin select raise(abort, 'history never changes'); end;
"""

THIRD = """
create table api_key (
    id integer primary key, name text not null, hash text not null unique, models text not null,
    requests_per_minute integer check (requests_per_minute >= 1), tokens_per_minute integer check (tokens_per_minute >= 1),
    concurrent integer check (concurrent >= 1), created_at text not null, expires_at text, revoked_at text
) strict;
create unique index api_key_name on api_key(name) where revoked_at is null;
"""

FOURTH = """
create table run_metric (
    run_id text primary key references run(id), steps integer not null check (steps >= 0), last text, packed blob not null
) strict, without rowid;
"""


def m001_first(db: Database) -> None:
    """Bases, adapters, versions, aliases, runs, artifacts, blobs, events and the cache of leaves."""
    for statement in _statements(FIRST):
        db.execute(statement)


def m002_trust(db: Database) -> None:
    """Leases, tokens, remotes, tags, notes, yanks, parents, search, relations of bases, and a history in a hash chain."""
    for statement in _statements(SECOND):
        db.execute(statement)
    db.execute("insert into meta values ('registry', ?)", [str(uuid.uuid4())])
    link_events(db)
    for statement in _statements(SEALED_HISTORY):
        db.execute(statement)


def m003_keys(db: Database) -> None:
    """API keys for `adreg serve`; of a name, one may be good at a time."""
    for statement in _statements(THIRD):
        db.execute(statement)


def m004_runs(db: Database) -> None:
    """What each step of a run measured, packed: a row a step would grow the file that every change is sealed with."""
    for statement in _statements(FOURTH):
        db.execute(statement)


STEPS = (m001_first, m002_trust, m003_keys, m004_runs)


def applied(db: Database) -> list[str]:
    """The names of the steps that were taken, in their order; empty for a new file."""
    if db.execute("select 1 from sqlite_master where name = '_sqlite_migrations'").fetchone() is None:
        return []
    return [row[0] for row in db.execute("select name from _sqlite_migrations where migration_set = 'adreg' order by rowid")]


def pending(db: Database) -> list[str]:
    """The names of the steps to be taken."""
    taken = applied(db)
    return [step.__name__ for step in STEPS if step.__name__ not in taken]


def migrate(db: Database) -> None:
    """Take every pending step; the caller holds the transaction."""
    import_sqlite_utils()
    from sqlite_utils import Database as Tables
    from sqlite_utils import Migrations

    _registered(Migrations("adreg"), db).apply(Tables(db.conn, execute_plugins=False))


def _registered(migrations: Migrations, db: Database) -> Migrations:
    for step in STEPS:
        migrations(name=step.__name__)(lambda _, step=step: step(db))
    return migrations


def _statements(script: str) -> list[str]:
    """The statements of `script`; `executescript` would commit the transaction that a migration runs in."""
    found, pending = [], ""
    for line in script.splitlines():
        pending += line + "\n"
        if sqlite3.complete_statement(pending):
            found.append(pending.strip())
            pending = ""
    return found
