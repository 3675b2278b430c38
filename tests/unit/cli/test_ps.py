"""Tables of what is there."""

from __future__ import annotations

from tests.fakes.wire_server import ENVIRONMENT, FakeServer, answer
from tests.unit.cli.conftest import Corral

INTERACTION = "v1_ChBWeMAjQ1DHYX0EQK0Y0OX9EhBWeMAjQ1DHYX0EQK0Y0OX9"


def test_ids_are_whole_where_another_program_reads(corral: Corral) -> None:
    there = {
        "environments": [
            {
                "id": ENVIRONMENT,
                "project": "prj_42a9a174511358b7",
                "status": "active",
                "created": "2026-11-20T09:00:00Z",
                "since": "2026-11-20T08:00:00Z",
                "last_accessed": "2026-11-20T09:00:00Z",
                "running": [INTERACTION, INTERACTION],
            }
        ],
        "interactions": [],
    }
    (line,) = [line for line in corral("ps", server=FakeServer(answer(there))).out.splitlines() if ENVIRONMENT in line]
    assert f"{INTERACTION}, {INTERACTION}" in line
