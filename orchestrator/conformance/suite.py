"""All checks as one class."""

from __future__ import annotations

from orchestrator.conformance.archives import ArchiveChecks
from orchestrator.conformance.calls import CallChecks
from orchestrator.conformance.cells import CellChecks
from orchestrator.conformance.commands import CommandChecks
from orchestrator.conformance.files import FileChecks
from orchestrator.conformance.integrity import IntegrityChecks
from orchestrator.conformance.isolation import IsolationChecks
from orchestrator.conformance.lifecycle import LifecycleChecks
from orchestrator.conformance.limits import LimitChecks
from orchestrator.conformance.names import NameChecks
from orchestrator.conformance.output import OutputChecks
from orchestrator.conformance.pausing import PausingChecks
from orchestrator.conformance.setup import SetupChecks
from orchestrator.conformance.snapshots import SnapshotChecks
from orchestrator.conformance.streams import StreamChecks


class DriverSuite(
    IntegrityChecks,
    SetupChecks,
    SnapshotChecks,
    PausingChecks,
    LimitChecks,
    IsolationChecks,
    ArchiveChecks,
    NameChecks,
    FileChecks,
    CellChecks,
    OutputChecks,
    CommandChecks,
    CallChecks,
    StreamChecks,
    LifecycleChecks,
):
    """Everything that a driver must do. Subclass it, name the class `Test…`, and fill in `Platform`."""
