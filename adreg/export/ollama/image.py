"""What Ollama keeps of a model: a manifest that names blobs by digest. Knows their bytes, not where they lie.

Source: ollama 0.33, server/create.go (createModel), manifest/manifest.go and types/model/config.go. The same plan gives
the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from adreg.export.ollama.blobs import Blob
from adreg.export.ollama.plan import OllamaPlan
from adreg.formats.gguf.header import GgufFile
from adreg.formats.strictjson import JsonObject

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.ollama.image."


@dataclass(frozen=True)
class Image:
    """A manifest, and the blobs that it names: `files` are copied, `texts` are written, by digest."""

    manifest: bytes
    files: tuple[Blob, ...]
    texts: dict[str, bytes]


def image_of(plan: OllamaPlan, blobs: Sequence[Blob]) -> Image:
    """The image of `plan`, whose files are `blobs`."""
    texts: dict[str, bytes] = {}
    layers = [_layer(LAYER + kind, blob.digest, blob.size) for kind, blob in zip(("model", "adapter"), blobs, strict=False)]
    for kind, content in _texts(plan):
        layers.append(_kept(texts, LAYER + kind, content))
    config = _kept(texts, CONFIG, _json(_config(plan.model, [layer["digest"] for layer in layers])))
    manifest = _json({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers})
    return Image(manifest, tuple(blobs), texts)


def _texts(plan: OllamaPlan) -> Iterator[tuple[str, bytes]]:
    """The layers beside the GGUF files, as kind and content."""
    said = plan.modelfile
    if said.template:
        yield "template", said.template.encode()
    if said.system:
        yield "system", said.system.encode()
    for text in said.licenses:
        yield "license", text.encode()
    if said.parameters:
        yield "params", _json(dict(sorted(said.parameters.items())))
    if said.messages:
        yield "messages", _json([{"role": role, "content": text} for role, text in said.messages])


def _kept(texts: dict[str, bytes], kind: str, content: bytes) -> JsonObject:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    texts[digest] = content
    return _layer(kind, digest, len(content))


def _layer(kind: str, digest: str, size: int) -> JsonObject:
    return {"mediaType": kind, "digest": digest, "size": size}


def _config(model: GgufFile, digests: list[str]) -> JsonObject:
    """What `ollama show` says of the model. Versions before 0.32 want a `rootfs`; later ones pass over it."""
    family = str(model.fields.get("general.architecture"))
    return {
        "model_format": "gguf",
        "model_family": family,
        "model_families": [family],
        "model_type": parameter_count(sum(tensor.count for tensor in model.tensors.values())),
        "file_type": file_type(model.fields.get("general.file_type")),
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": digests},
    }


def parameter_count(count: int) -> str:
    """`count` as Ollama shows it, such as `134.52M` or `8.0B`; format.HumanNumber in its format/format.go."""
    for unit, size, digits in (("B", 10**9, 1), ("M", 10**6, 2)):
        if count >= size:
            return f"{count / size:.{0 if count % size == 0 else digits}f}{unit}"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)


def file_type(number: object) -> str:
    """The name of a GGUF file's `general.file_type`, such as `Q4_K_M`."""
    from gguf import LlamaFileType

    names = {int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in LlamaFileType}
    return names.get(number, "unknown") if isinstance(number, int) else "unknown"


def _json(value: Any) -> bytes:
    """As Go's encoder writes it, so that Ollama's own blob of the same content has the same digest."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f"{text}\n".encode()
