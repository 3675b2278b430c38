from __future__ import annotations

from orchestrator.policy.bounds import Bounds
from orchestrator.sandboxes.driver import Profile, Resources
from orchestrator.sandboxes.profiles import Profiles


def test_without_any_word_the_design_holds() -> None:
    profiles = Profiles("image", Bounds())
    assert profiles.default == Profile("image", Resources(), "")
    assert profiles.of(Bounds()) is None


def test_an_agents_profile_is_the_servers_with_its_own_wishes() -> None:
    profiles = Profiles("image", Bounds(runtime="runc", cpus=1.0, memory_bytes=5 << 30))
    profile = profiles.of(Bounds(memory_bytes=1 << 30, disk_bytes=3 << 30, open_files=300))
    assert profile == Profile("image", Resources(1 << 30, 1.0, 1024, 300, 3 << 30), "runc")


def test_limits_of_runs_need_no_sandbox_of_their_own() -> None:
    assert Profiles("image", Bounds()).of(Bounds(call_timeout_s=5)) is None


def test_processes_follow_the_runtime_of_the_agent_unless_the_operator_said_how_many() -> None:
    wish = Bounds(runtime="runsc")
    for pids, expected in ((None, 4096), (77, 77)):
        profile = Profiles("image", Bounds(pids=pids)).of(wish)
        assert profile is not None
        assert profile.resources.pids == expected
