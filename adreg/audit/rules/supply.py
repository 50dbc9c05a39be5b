"""S: where it comes from and what travels with it."""

from __future__ import annotations

from adreg.audit.rules.broken import format_rule

s_pkl_1 = format_rule(
    "S-PKL-1",
    "a pickle where safetensors belong",
    why="loading it could run code, so nothing here ever opens it",
    fix="convert it to safetensors where it came from",
)
