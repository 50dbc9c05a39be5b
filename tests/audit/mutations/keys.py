"""Mutations that rules of adreg/audit/rules/keys.py must find."""

from __future__ import annotations

from tests.audit.mutations import Mutation

MUTATIONS: tuple[Mutation, ...] = ()
