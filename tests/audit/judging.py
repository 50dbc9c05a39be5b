"""An adapter folder audited without a registry, as most tests need it."""

from __future__ import annotations

from pathlib import Path

from adreg.audit.basecard import BaseCard
from adreg.audit.findings import AuditReport
from adreg.audit.run import judge
from adreg.audit.subject import Subject
from adreg.formats.adapters.inspection import inspect_folder
from adreg.formats.bases.fingerprint import BaseIds


def audit_folder(folder: Path, trained_on: BaseIds | None = None, base: BaseCard | None = None) -> AuditReport:
    """Every rule over an adapter folder, sound or not."""
    return judge(Subject(inspect_folder(folder), trained_on, base))
