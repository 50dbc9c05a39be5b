"""The catalog of a live registry: names become immutable versions at the moment they are asked for, and bytes are verified."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import pytest

from adreg.cli.serving import make_offer
from adreg.errors import AuditRefused, ConflictError, IntegrityError, NotFoundError, UsageError, YankedError
from adreg.references import parse_reference
from adreg.registry.labels import Labels
from adreg.registry.push import plan_push
from adreg.registry.records import BaseRecord, VersionRecord
from adreg.registry.registry import Registry
from adreg.serve.models.registered import Pins, RegisteredModels
from adreg.serve.models.verified import VerifiedAdapters
from adreg.settings import Settings
from tests.registry.small import small_adapter, small_base


class Library:
    """A registry with a base "tiny", another base "other", and what the tests push."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.registry, self.folder, self.pushed = Registry(Settings(home)), folder, 0
        self.tiny = self.registry.bases.add(str(small_base(folder / "tiny")))
        self.other = self.registry.bases.add(str(small_base(folder / "other", seed=1)))

    def push(self, name: str, alias: str | None = None, base: BaseRecord | None = None, unknown: bool = False) -> VersionRecord:
        self.pushed += 1
        folder = small_adapter(self.folder / str(self.pushed), seed=self.pushed)
        known = None if unknown else base or self.tiny
        return self.registry.adapters.push(plan_push(folder), name, alias, known).version

    def models(self, *refs: str, allow: tuple[str, ...] = ()) -> RegisteredModels:
        return RegisteredModels(make_offer(self.registry, self.tiny, refs, allow))

    def adapters(self, *refs: str, allow: tuple[str, ...] = ()) -> VerifiedAdapters:
        return VerifiedAdapters(make_offer(self.registry, self.tiny, refs, allow))

    def blob(self, version: VersionRecord) -> Path:
        return self.registry.blobs.path(version.files["adapter_model.safetensors"])


@pytest.fixture
def library(home: Path, tmp_path: Path) -> Library:
    return Library(home, tmp_path)


def test_every_reference_means_its_version_and_the_base_is_none_of_them(library: Library) -> None:
    one, two = library.push("team/sql", "prod"), library.push("team/sql")
    models = library.models()
    short = f"team/sql@{two.digest[:19]}"
    means = {"team/sql": two, "team/sql:1": one, "team/sql:prod": one, "team/sql:2": two, short: two}
    for name, version in means.items():
        found = models.resolve(name)
        assert (found.id, found.adapter, found.reference) == (name, version.digest, version.reference)
        assert (found.root, found.parent, found.rank) == (version.digest, "tiny", 4)
    for name in ("base", "tiny"):
        assert models.resolve(name).adapter is None
        assert models.resolve(name).root == library.tiny.card.digest
    assert [model.id for model in models] == ["tiny", "team/sql", "team/sql:2", "team/sql:1", "team/sql:prod"]


def test_a_listing_holds_what_is_of_the_base_and_no_bare_name_of_what_moved_to_another(library: Library) -> None:
    library.push("mine")
    library.push("moved", "old")
    library.push("moved", base=library.other)
    library.push("theirs", base=library.other)
    library.push("nobodys", unknown=True)
    assert [model.id for model in library.models()] == ["tiny", "mine", "mine:1", "moved:1", "moved:old"]
    assert [model.id for model in library.models("moved:old")] == ["tiny", "moved:1", "moved:old"]


def test_a_push_and_a_moved_alias_count_from_the_next_question_on(library: Library) -> None:
    one = library.push("sql", "prod")
    models, pins = library.models(), Pins(library.models(), ("sql:prod",))
    before = models.resolve("sql:prod")
    assert set(pins) == {one.digest}
    two = Library.push(library, "sql", "prod")
    assert models.resolve("sql").adapter == models.resolve("sql:prod").adapter == two.digest
    assert before.adapter == one.digest
    assert set(pins) == {two.digest}
    library.registry.adapters.remove("sql")
    assert set(pins) == set()


@pytest.mark.parametrize(
    "name", ["nope", "sql:9", "sql:dev", "GPT-4", "../../etc/passwd", "/tmp/x", "sql@sha256:" + 12 * "0", ""]
)
def test_an_unknown_name_is_never_the_base(library: Library, name: str) -> None:
    library.push("sql", "prod")
    with pytest.raises(NotFoundError) as unknown:
        library.models().resolve(name)
    assert (unknown.value.kind, unknown.value.name) == ("model", name)
    assert not name.startswith("sql:") or "sql:prod" in unknown.value.close


def test_an_adapter_of_another_base_is_refused_in_the_audits_words_and_not_listed(library: Library) -> None:
    library.push("sql", base=library.other)
    library.push("orphan", unknown=True)
    models = library.models()
    with pytest.raises(AuditRefused, match="cannot serve sql:1: B-ID-1 tiny has the shape of its base, but other weights"):
        models.resolve("sql")
    with pytest.raises(AuditRefused, match="cannot serve orphan:1: B-ID-1 nobody recorded which base"):
        models.resolve("orphan")
    assert [model.id for model in models] == ["tiny"]


def test_references_narrow_what_is_served(library: Library) -> None:
    library.push("sql", "prod")
    library.push("sql")
    library.push("voice")
    models = library.models("sql:prod", "voice")
    assert {model.id for model in models} == {"tiny", "sql:1", "sql:prod", "voice", "voice:1"}
    for name in ("sql", "sql:2"):
        with pytest.raises(NotFoundError) as unknown:
            models.resolve(name)
        assert "sql:prod" in unknown.value.close
    third = library.push("sql", "prod")
    assert models.resolve("sql").adapter == models.resolve("sql:prod").adapter == third.digest
    with pytest.raises(NotFoundError):
        models.resolve("sql:1")


def test_an_allowed_finding_lets_a_named_adapter_in_and_the_history_says_so_once(library: Library) -> None:
    library.push("orphan", unknown=True)
    with pytest.raises(AuditRefused):
        library.models("orphan")
    with pytest.raises(UsageError, match="about adapters that are named"):
        library.models(allow=("B-ID-1",))
    adapters = library.adapters("orphan", allow=("B-ID-1",))
    digest = RegisteredModels(adapters.offer).resolve("orphan").adapter
    assert digest is not None
    before = len(library.registry.adapters.log("orphan"))
    for _ in range(2):
        assert adapters.open(digest)[0] == "orphan:1"
    assert len(library.registry.adapters.log("orphan")) == before + 1


def test_a_yanked_version_is_served_by_its_digest_alone_with_a_warning(
    library: Library, caplog: pytest.LogCaptureFixture
) -> None:
    version = library.push("sql")
    Labels(library.registry.db).yank(parse_reference("sql:1"), "wrong data")
    models = library.models()
    with pytest.raises(YankedError, match="wrong data"):
        models.resolve("sql:1")
    assert models.resolve(f"sql@{version.digest}").adapter == version.digest
    assert "sql:1 is served by its digest; it was yanked: wrong data" in caplog.text
    assert [model.id for model in models] == ["tiny"]


def test_a_name_that_the_base_and_an_adapter_share_is_refused(library: Library) -> None:
    library.push("tiny")
    models = library.models()
    with pytest.raises(ConflictError, match="name of the base and of an adapter") as refused:
        models.resolve("tiny")
    assert refused.value.hint == "ask for tiny:1 or base"
    assert models.resolve("tiny:1").adapter is not None
    assert models.resolve("base").adapter is None


def test_damaged_and_unreadable_files_are_refused_and_removed_ones_unknown(library: Library) -> None:
    tampered, broken, gone, removed = (library.push(name) for name in ("tampered", "broken", "gone", "removed"))
    adapters = library.adapters()
    assert adapters.open(tampered.digest)[1].ranks == [4]
    blob = library.blob(tampered)
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    library.blob(broken).unlink()
    library.blob(broken).mkdir()
    library.blob(gone).unlink()
    library.registry.adapters.remove("removed")
    for version, said in ((tampered, "is damaged"), (broken, "cannot be read: Is a directory"), (gone, "is missing")):
        with pytest.raises(IntegrityError, match=said):
            adapters.open(version.digest)
    with pytest.raises(NotFoundError):
        adapters.open(removed.digest)
    with pytest.raises(NotFoundError):
        adapters.own_tokenizer(removed.digest)


def test_resolving_a_name_takes_far_less_than_a_millisecond(library: Library) -> None:
    for number in range(30):
        library.push(f"a{number % 3}", "prod")
    models = library.models()
    seconds = []
    for _ in range(50):
        began = time.process_time()
        models.resolve("a1:prod")
        seconds.append(time.process_time() - began)
    assert median(seconds) < 0.001
