from __future__ import annotations

import pytest

from orchestrator.sandboxes.escapes import ESCAPES, Exposure, exposure

LEAKED_DESCRIPTORS, MOUNT_RACES = ESCAPES


@pytest.mark.parametrize(
    ("version", "revision", "first", "second"),
    [
        ("1.1.11", "v1.1.11-0-g4bccb38", Exposure.OPEN, Exposure.OPEN),
        ("1.1.12", "", Exposure.FIXED, Exposure.OPEN),
        ("1.2.0-rc.1", "", Exposure.FIXED, Exposure.OPEN),
        ("1.2.7", "", Exposure.FIXED, Exposure.OPEN),
        ("1.2.8", "", Exposure.FIXED, Exposure.FIXED),
        ("1.3.2", "", Exposure.FIXED, Exposure.OPEN),
        ("1.3.3", "", Exposure.FIXED, Exposure.FIXED),
        ("1.4.0-rc.2", "", Exposure.FIXED, Exposure.OPEN),
        ("1.4.0-rc.3", "", Exposure.FIXED, Exposure.FIXED),
        ("1.4.0", "", Exposure.FIXED, Exposure.FIXED),
        ("2.0.1", "", Exposure.FIXED, Exposure.FIXED),
        # Debian 12 mends the first in an old version, and has not mended the others in this revision.
        ("1.1.5+ds1", "1.1.5+ds1-1+deb12u1", Exposure.FIXED, Exposure.OPEN),
        ("1.1.5+ds1", "1.1.5+ds1-1+deb12u2", Exposure.UNKNOWN, Exposure.UNKNOWN),
        ("1.1.5+ds1", "", Exposure.UNKNOWN, Exposure.UNKNOWN),
        ("1.1.7-0ubuntu1~22.04.2", "", Exposure.UNKNOWN, Exposure.UNKNOWN),
        ("unknown", "", Exposure.UNKNOWN, Exposure.UNKNOWN),
    ],
)
def test_which_versions_have_which_hole(version: str, revision: str, first: Exposure, second: Exposure) -> None:
    assert exposure(LEAKED_DESCRIPTORS, version, revision) is first
    assert exposure(MOUNT_RACES, version, revision) is second
