"""Adapters and bases of a few kilobytes, written without torch, and registries filled with them."""

from __future__ import annotations

import json
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from adreg.formats.safetensors_writer import SafetensorsWriter, TensorSpec
from adreg.references import parse_reference
from adreg.registry.push import plan_push
from adreg.registry.registry import Registry
from adreg.registry.store.schema import APPLICATION_ID, FIRST
from adreg.settings import Settings

RANK, WIDTH = 2, 8
MODULES = ("q_proj", "v_proj")
BASE_CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "num_attention_heads": 2}


def write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    specs = [TensorSpec(name, "F32", value.shape) for name, value in tensors.items()]
    with path.open("wb") as file:
        writer = SafetensorsWriter(file, specs, {"format": "pt"})
        for value in tensors.values():
            writer.write(value.astype("<f4").tobytes())
        writer.finish()


def small_adapter(folder: Path, seed: int, readme: str | None = None) -> Path:
    """A PEFT LoRA of rank 2 on two modules; the weights depend on `seed` only."""
    folder.mkdir(parents=True)
    dice = np.random.default_rng(seed)
    tensors = {}
    for module in MODULES:
        key = f"base_model.model.model.layers.0.self_attn.{module}"
        tensors[f"{key}.lora_A.weight"] = dice.normal(size=(RANK, WIDTH))
        tensors[f"{key}.lora_B.weight"] = dice.normal(size=(WIDTH, RANK))
    write_tensors(folder / "adapter_model.safetensors", tensors)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 4, "target_modules": list(MODULES), "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    if readme is not None:
        (folder / "README.md").write_text(readme)
    return folder


def small_base(folder: Path, seed: int = 0) -> Path:
    """A checkpoint folder with one layer's attention."""
    folder.mkdir(parents=True)
    dice = np.random.default_rng(seed)
    names = [f"model.layers.0.self_attn.{module}.weight" for module in MODULES]
    write_tensors(folder / "model.safetensors", {name: dice.normal(size=(WIDTH, WIDTH)) for name in names})
    (folder / "config.json").write_text(json.dumps(BASE_CONFIG))
    return folder


@contextmanager
def opened(home: Path) -> Iterator[Registry]:
    """The registry in `home`, with a connection of its own that is closed afterwards: none may live across a fork."""
    found = Registry(Settings(home))
    try:
        yield found
    finally:
        if "db" in vars(found):
            found.db.conn.close()


def push(home: Path, folder: Path, name: str, alias: str | None = None) -> str:
    """Push `folder`; the reference of its version."""
    with opened(home) as registry:
        return registry.adapters.push(plan_push(folder), name, alias, None).version.reference


def set_alias(home: Path, reference: str, alias: str) -> None:
    with opened(home) as registry:
        registry.adapters.set_alias(parse_reference(reference), alias)


def furnished(home: Path, folder: Path) -> Path:
    """A registry with a base, an adapter of three versions with two aliases, and a removed one; `folder` holds sources."""
    for number in (1, 2, 3):
        push(
            home, small_adapter(folder / f"voice{number}", number, f"number {number}"), "voice", "prod" if number == 2 else None
        )
    set_alias(home, "voice:1", "old")
    push(home, small_adapter(folder / "gone", 9), "gone", "prod")
    with opened(home) as registry:
        registry.adapters.remove("gone")
        registry.bases.add(str(small_base(folder / "base")), "tiny")
    return home


def age_schema(home: Path) -> None:
    """Turn the registry's database into one that the first release would have written, with the same content."""
    new, old = home / "adreg.db", home / "old.db"
    with closing(sqlite3.connect(old)) as db:
        db.executescript(FIRST)
        db.execute(f"pragma application_id={APPLICATION_ID}")
        db.execute("attach ? as new", [str(new)])
        tables = [name for (name,) in db.execute("select name from main.sqlite_master where type = 'table'")]
        for table in sorted(tables, key=["adapter", "base", "run", "blob", "version"].__contains__, reverse=True):
            columns = ", ".join(row[1] for row in db.execute(f"pragma main.table_info({table})"))
            db.execute(f"insert into main.{table} ({columns}) select {columns} from new.{table}")
        made = "select sql from new.sqlite_master where tbl_name = '_sqlite_migrations' and sql is not null order by type desc"
        for (statement,) in db.execute(made).fetchall():
            db.execute(statement)
        db.execute("insert into _sqlite_migrations select * from new._sqlite_migrations where name = 'm001_first'")
        db.execute("update base set card = json_remove(card, '$.ids.layout_id', '$.ids.vocab_id', '$.ids.tpl_sem')")
        db.commit()
    old.replace(new)
    (home / "adreg.db.seal").unlink()


def unpack(archive: tarfile.TarFile, folder: Path) -> None:
    """An archive of our own; Python 3.11.0 to 3.11.3 know no filters."""
    if hasattr(tarfile, "data_filter"):
        archive.extractall(folder, filter="data")
    else:
        archive.extractall(folder)
