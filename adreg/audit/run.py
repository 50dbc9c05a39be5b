"""Runs the rules over an adapter and says which operations the result forbids."""

from __future__ import annotations

from pathlib import Path

from adreg.audit.basecard import BaseCard
from adreg.audit.findings import AuditReport, Severity, Verdict, report
from adreg.audit.rules import HEADER_RULES, TENSOR_RULES, Subject, finding_of_error, verdict
from adreg.errors import AuditRefused, FormatError
from adreg.formats.adapter import Adapter, open_adapter
from adreg.formats.fingerprint import BaseIds

FORBIDS = {"push": Severity.BLOCK, "merge": Severity.ERR, "serve": Severity.ERR}


def audit(adapter: Adapter, trained_on: BaseIds | None = None, base: BaseCard | None = None) -> AuditReport:
    """Every rule over `adapter`; `trained_on` are the ids recorded at training, `base` is the base at hand."""
    subject = Subject(adapter, trained_on, base)
    return report(verdict(subject), (finding for rule in HEADER_RULES + TENSOR_RULES for finding in rule(subject)))


def audit_folder(folder: Path, trained_on: BaseIds | None = None, base: BaseCard | None = None) -> AuditReport:
    """As `audit`; a file that breaks its format becomes a blocking finding instead of an error."""
    try:
        adapter = open_adapter(folder)
    except FormatError as error:
        return report(Verdict.UNKNOWN, [finding_of_error(error)])
    return audit(adapter, trained_on, base)


def require(operation: str, name: str, found: AuditReport, accept_quantised: bool = False) -> None:
    """Raise `AuditRefused` when `found` forbids `operation` (push, merge or serve) on the adapter `name`.

    A merge into a copy or the original of the base of the training needs `accept_quantised`.
    """
    against = found.at_least(FORBIDS[operation])
    if operation == "merge" and found.verdict is Verdict.QUANT_OF and not accept_quantised:
        against += tuple(finding for finding in found.findings if finding.rule == "B-QNT-1")
    if against:
        raise AuditRefused(operation, name, against)
