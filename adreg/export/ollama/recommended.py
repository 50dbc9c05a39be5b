"""The Modelfile that suits a merge or a GGUF file: texts to stop at, system prompt, licence, and a Go template.

The template is written only where it is proven to render as the Jinja one in the file does. Without one, Ollama takes its
own template for the most similar Jinja text that it knows, or else runs the Jinja template of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adreg.export.ollama.chatml import GO_TEMPLATE, chatml_of
from adreg.export.ollama.modelfile import Modelfile, can_hold
from adreg.export.ollama.parameters import STOP
from adreg.formats.bases.checkpoint import Checkpoint
from adreg.formats.gguf.header import GgufFile
from adreg.formats.strictjson import read_object

if TYPE_CHECKING:
    from adreg.export.plan import MergePlan

LICENSE_FILES, LICENSE_LIMIT = ("LICENSE*", "LICENCE*", "COPYING*"), 1 << 18
LICENSE_FIELDS = ("license", "license_name", "license_link")
END_TOKENS = ("eos", "eot", "eom")


def modelfile_of(plan: MergePlan) -> Modelfile:
    """The Modelfile for the GGUF file of `plan`, to lie beside it."""
    base = plan.request.base
    return _modelfile(plan.path, plan.chat_template, stop_texts(base), licenses(base), plan.request.system)


def modelfile_of_gguf(file: GgufFile) -> Modelfile:
    """The Modelfile for a GGUF model of which nothing else is known, to lie beside it."""
    fields = file.fields
    stops = list(dict.fromkeys(token for role in END_TOKENS if (token := _token(fields, role))))
    told = {name: fields.get(f"general.{name.replace('_', '.')}") for name in LICENSE_FIELDS}
    template = fields.get("tokenizer.chat_template")
    return _modelfile(file.path, template if isinstance(template, str) else None, stops, _card_license(told))


def _token(fields: Mapping[str, Any], role: str) -> str | None:
    """The text of the token that a GGUF file has in this role."""
    tokens, id_ = fields.get("tokenizer.ggml.tokens"), fields.get(f"tokenizer.ggml.{role}_token_id")
    if not isinstance(tokens, list) or type(id_) is not int or not 0 <= id_ < len(tokens):
        return None
    return str(tokens[id_])


def _modelfile(
    path: Path, template: str | None, stops: list[str], licenses: tuple[str, ...], system: str | None = None
) -> Modelfile:
    known = chatml_of(template) if template else None
    if known and not can_hold(known.system or ""):
        known = None
    reason = "Ollama uses the Jinja chat template inside the GGUF file." if template else "the model has no chat template."
    return Modelfile(
        model=f"./{path.name}",
        template=GO_TEMPLATE if known else None,
        system=system or (known.system if known else None),
        parameters={STOP: stops} if stops else {},
        licenses=licenses,
        comment="" if known else f"No TEMPLATE: {reason}",
    )


def stop_texts(base: Checkpoint) -> list[str]:
    """The texts of the end tokens that the tokenizer, the configuration and the generation settings name."""
    path = base.folder / "generation_config.json"
    generation = read_object(path, "B-CFG-0") if path.is_file() else {}
    ids = [*_as_list(generation.get("eos_token_id")), *_as_list(base.config.get("eos_token_id"))]
    added = {token["id"]: token["content"] for token in (base.tokenizer.definition or {}).get("added_tokens") or []}
    named = base.tokenizer.special_token("eos_token")
    return list(dict.fromkeys([*([named] if named else []), *(added[id_] for id_ in ids if id_ in added)]))


def licenses(base: Checkpoint) -> tuple[str, ...]:
    """The texts of the base's licence files; where it has none, what its model card calls the licence."""
    files = sorted({path for pattern in LICENSE_FILES for path in base.folder.glob(pattern) if path.is_file()})
    texts = [_license_text(path) for path in files if path.stat().st_size <= LICENSE_LIMIT]
    if texts:
        return tuple(texts)
    from gguf import Metadata

    return _card_license(Metadata.load_model_card(base.folder))


def _license_text(path: Path) -> str:
    """A licence as a Modelfile can hold it: without form feeds, and with plain quotes where three follow each other."""
    text = path.read_text(encoding="utf-8", errors="replace").replace('"""', "'''")
    return "".join(character for character in text if character.isprintable() or character in "\n\t").strip() + "\n"


def _card_license(told: dict[str, Any]) -> tuple[str, ...]:
    """What a card's `license`, `license_name` and `license_link` say, as one text."""
    said = [str(told[name]) for name in LICENSE_FIELDS if told.get(name)]
    return ("\n".join(dict.fromkeys(said)),) if said else ()


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
