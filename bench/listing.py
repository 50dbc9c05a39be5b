"""How long the listing commands take with 10,000 versions: whole processes, beside what Python and SQLite alone take.

python -m bench.listing [VERSIONS]
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from adreg.formats.bases.fingerprint import BaseIds
from adreg.registry.commit import Draft, version_row
from adreg.registry.manifest import FileEntry
from adreg.registry.names import index_adapter
from adreg.registry.registry import Registry
from adreg.registry.store.chain import append_event
from adreg.registry.store.database import now, transaction
from adreg.settings import Settings

ROUNDS = 5
SELECT = "import sqlite3, sys; print(len(sqlite3.connect(sys.argv[1]).execute('select * from version').fetchall()))"
SUMMARY = {
    "rank": 16, "alpha": 32.0, "rslora": False, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"], "modules": 120,
    "parameters": 4_884_480, "dtype": "BF16", "base_claim": "HuggingFaceTB/SmolLM2-135M", "evidence": "recorded",
    "tensors": "b3:" + "5" * 64,
}  # fmt: skip
IDS = BaseIds(**dict.fromkeys(BaseIds.__dataclass_fields__, "b3:" + "7" * 64))


def fill(home: Path, names: int, versions: int) -> None:
    """A registry of `names` adapters with `versions` each: real rows, and blobs that only the database knows."""
    registry = Registry(Settings(home))
    db = registry.db
    with transaction(db):
        for name_index in range(names):
            adapter_id = db.execute(
                "insert into adapter (name, created_at) values (?, ?)", [f"team/voice-{name_index:05}", now()]
            ).lastrowid
            for number in range(1, versions + 1):
                serial = name_index * versions + number
                files = {f"file-{index}": FileEntry(f"sha256:{serial * 4 + index:064x}", 1000) for index in range(4)}
                draft = Draft("x", None, files, SUMMARY, IDS, None, notes=f"the {number}th attempt")
                row = version_row(adapter_id or 0, number, draft)
                marks = ", ".join("?" * len(row))
                id_ = db.execute(f"insert into version ({', '.join(row)}) values ({marks})", list(row.values())).lastrowid
                for path, file in files.items():
                    db.execute("insert into blob (digest, size, created_at) values (?, ?, ?)", [file.digest, file.size, now()])
                    db.execute("insert into version_file values (?, ?, ?)", [id_, path, file.digest])
                append_event(db, now(), adapter_id or 0, "push", "{}")
                if number == versions:
                    alias = [adapter_id, "prod", id_, now()]
                    db.execute("insert into alias (adapter_id, name, version_id, updated_at) values (?, ?, ?, ?)", alias)
            index_adapter(db, adapter_id or 0)


def seconds(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """The least wall time of whole processes, and their largest memory in MB."""
    taken, memory = [], 0.0
    for _ in range(ROUNDS):
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        taken.append(time.perf_counter() - started)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed")
        memory = max(memory, used.ru_maxrss / 1000)
    return min(taken), memory


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        for title, names, versions, first in (
            ("empty", 0, 0, None),
            (f"{count} adapters × 1", count, 1, f"team/voice-{count // 2:05}"),
            (f"1 adapter × {count}", 1, count, "team/voice-00000"),
        ):
            measure(Path(folder) / title.replace(" ", "-"), title, (names, versions), first)


def measure(home: Path, title: str, shape: tuple[int, int], name: str | None) -> None:
    # in a process of its own: a child's memory would begin as large as this one's
    process = multiprocessing.get_context("spawn").Process(target=fill, args=(home, *shape))
    process.start()
    process.join()
    environment = {**os.environ, "ADREG_HOME": str(home)}
    floor, _ = seconds([sys.executable, "-c", "pass"], environment)
    select, _ = seconds([sys.executable, "-c", SELECT, str(home / "adreg.db")], environment)
    print(f"\n{title}: python {floor:.3f} s, python + sqlite3 select {select:.3f} s")
    many = [["ls", name], ["show", name], ["show", f"{name}:1"], ["log", name], ["search", "voice"]] if name else []
    for words in (["ls"], ["ls", "--json"], ["ls", "-q"], ["alias", "ls"], *many):
        taken, memory = seconds([sys.executable, "-m", "adreg", *map(str, words)], environment)
        ratios = f"{taken / floor:5.1f} × python   {taken / select:5.1f} × select"
        print(f"  {' '.join(map(str, words)):28} {taken:6.3f} s   {ratios}   {memory:5.0f} MB")


if __name__ == "__main__":
    main()
