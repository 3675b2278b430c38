"""What the Docker driver asks the engine for, and how it reads attached streams. No engine."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import struct
from itertools import pairwise
from typing import Any

import pytest
from docker.types import HostConfig
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.sandboxes.docker.attached import AttachedProtocol
from orchestrator.sandboxes.docker.container import BRIDGE_COMMAND, GUEST_COMMAND, container_config
from orchestrator.sandboxes.docker.storage import Placement
from orchestrator.sandboxes.driver import Resources, SandboxSpec

SPEC = SandboxSpec("a" * 32, "corral/base:latest", Resources(2 << 30, 1.5, 1024, 8192), "e" * 32)


LAYER = Placement("corral/base:latest")
DISK = Placement("corral/base:latest", ("/disks/mounts/a/workspace:/workspace",), is_read_only=True)


def engine_config(spec: SandboxSpec = SPEC, placement: Placement = LAYER) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is sent to the engine: the container's part and the host's."""

    def host_config(**options: Any) -> HostConfig:
        return HostConfig(version="1.41", **options)

    config = container_config(spec, "instance", placement, host_config)
    return config, dict(config["host_config"])


# protections, one by one (design 7)


def test_no_network() -> None:
    assert engine_config()[1]["NetworkMode"] == "none"
    config, host = engine_config(placement=dataclasses.replace(DISK, has_hosts=True))
    assert host["NetworkMode"] == "none"
    assert config["network_disabled"] is True


def test_no_capability_but_those_of_the_guest() -> None:
    host = engine_config()[1]
    assert host["CapDrop"] == ["ALL"]
    assert sorted(host["CapAdd"]) == ["KILL", "SETGID", "SETPCAP", "SETUID"]


SETUP = dataclasses.replace(SPEC, is_setup=True)


def test_only_setup_has_what_installing_takes() -> None:
    config, host = engine_config(SETUP)
    ours, _ = engine_config()
    guests = {"KILL", "SETGID", "SETPCAP", "SETUID"}
    assert set(host["CapAdd"]) == guests | {"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"}
    assert set(engine_config()[1]["CapAdd"]) == guests, "nothing is left in what others share"
    assert config["command"][2] == f"{ours['command'][2]} --commands-as root"


def test_setup_has_every_other_protection() -> None:
    (config, host), (ours, theirs) = engine_config(SETUP, DISK), engine_config(SPEC, DISK)
    for changed in ("command", "host_config"):
        del config[changed], ours[changed]
    assert config == ours
    del host["CapAdd"], theirs["CapAdd"]
    assert host == theirs


def test_no_new_privileges_and_our_own_seccomp_profile() -> None:
    options = engine_config()[1]["SecurityOpt"]
    assert "no-new-privileges" in options
    (profile,) = [each.removeprefix("seccomp=") for each in options if each.startswith("seccomp=")]
    assert json.loads(profile)["defaultAction"] == "SCMP_ACT_ERRNO"
    assert len(options) == 2


def test_what_an_image_wants_to_run_or_keep_outside_of_the_limits_is_not_given() -> None:
    def host_config(**options: Any) -> HostConfig:
        return HostConfig(version="1.41", **options)

    config = container_config(SPEC, "instance", DISK, host_config, volumes=("/data", "/workspace"))
    assert config["healthcheck"] == {"test": ["NONE"]}
    assert set(config["host_config"]["Tmpfs"]) == {"/data", "/run", "/tmp"}, "the workspace is on the disk"
    assert "size=1m" in config["host_config"]["Tmpfs"]["/data"]


def test_memory_without_swap_beyond_it() -> None:
    host = engine_config()[1]
    assert host["Memory"] == host["MemorySwap"] == 2 << 30


def test_cpus_pids_files_and_cores_are_limited() -> None:
    host = engine_config()[1]
    assert host["NanoCpus"] == 1_500_000_000
    assert host["PidsLimit"] == 1024
    limits = {each["Name"]: (each["Soft"], each["Hard"]) for each in host["Ulimits"]}
    assert limits == {"nofile": (8192, 8192), "core": (0, 0)}, "never nproc: it counts a uid across containers"


@pytest.mark.parametrize("memory_bytes", [256 << 20, 2 << 30, 64 << 30])
def test_tmp_and_shared_memory_take_at_most_a_quarter_of_the_memory(memory_bytes: int) -> None:
    host = engine_config(SandboxSpec("a", "i", Resources(memory_bytes=memory_bytes)))[1]
    tmp = dict(part.split("=") for part in host["Tmpfs"]["/tmp"].split(",") if "=" in part)
    assert int(tmp["size"]) + host["ShmSize"] <= max(memory_bytes // 4, 80 << 20)


def test_temporary_file_systems_carry_no_devices_and_no_setuid() -> None:
    for options in engine_config()[1]["Tmpfs"].values():
        assert {"nosuid", "nodev"} <= set(options.split(","))
    assert "noexec" in engine_config()[1]["Tmpfs"]["/run"].split(",")


def test_an_init_reaps() -> None:
    assert engine_config()[1]["Init"] is True


def test_where_the_engines_init_would_be_hidden_the_guest_is_the_first_process() -> None:
    assert not engine_config(placement=dataclasses.replace(DISK, has_system=True))[1].get("Init")


def test_nothing_of_the_host_is_shared() -> None:
    config, host = engine_config()
    assert host["IpcMode"] == "private"
    for name in ("Privileged", "PidMode", "UTSMode", "UsernsMode", "Binds", "Devices", "VolumesFrom", "Mounts"):
        assert not host.get(name), name
    assert "volumes" not in config


def test_with_a_disk_its_folders_are_all_that_can_be_written() -> None:
    config, host = engine_config(placement=DISK)
    assert host["ReadonlyRootfs"] is True
    assert host["Binds"] == ["/disks/mounts/a/workspace:/workspace"]
    assert "volumes" not in config


def test_the_runtime_is_the_engines_unless_one_is_named() -> None:
    assert "Runtime" not in engine_config()[1]
    assert engine_config(SandboxSpec("a", "i", runtime="runsc"))[1]["Runtime"] == "runsc"


def test_the_image_decides_nothing_that_matters() -> None:
    """Entrypoint, user and working directory of an image are somebody else's (attack case E9)."""
    config, _ = engine_config()
    assert config["entrypoint"] == []
    assert config["command"] == GUEST_COMMAND
    assert config["user"] == "0:0"
    assert config["working_dir"] == "/"


def test_the_engine_keeps_no_log_of_the_streams() -> None:
    assert engine_config()[1]["LogConfig"]["Type"] == "none"


def test_labels_are_instance_and_sandbox_only() -> None:
    assert engine_config()[0]["labels"] == {"corral.instance": "instance", "corral.sandbox": "a" * 32}


def test_no_user_data_goes_into_the_container() -> None:
    assert "environment" not in engine_config()[0]


def test_names_are_for_people() -> None:
    assert engine_config()[0]["name"] == f"corral-{'e' * 32}"
    assert engine_config(SandboxSpec("a", "i"))[0]["name"] is None


@pytest.mark.parametrize("command", [GUEST_COMMAND, BRIDGE_COMMAND])
def test_what_runs_as_root_is_not_found_in_folders_of_the_agent(command: list[str]) -> None:
    assert command[:2] == ["/bin/sh", "-c"]
    assert "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin command -v python3" in command[2]
    assert " -I " in command[2]


# attached streams


def framed(channel: int, data: bytes) -> bytes:
    return struct.pack(">BxxxI", channel, len(data)) + data


class Sink:
    """Takes the place of asyncio's reader."""

    def __init__(self) -> None:
        self.data = b""

    def feed_data(self, data: bytes) -> None:
        self.data += data


def demultiplexed(pieces: list[bytes]) -> bytes:
    protocol = AttachedProtocol.__new__(AttachedProtocol)
    sink = Sink()
    protocol._reader, protocol._buffer = sink, bytearray()  # type: ignore[assignment]
    protocol._channel = protocol._missing_bytes = 0
    for piece in pieces:
        protocol.data_received(piece)
    return sink.data


parts = st.lists(st.tuples(st.sampled_from([1, 1, 1, 2]), st.binary(max_size=60)), max_size=10)


@given(parts, st.lists(st.integers(0, 1000), max_size=12))
def test_any_split_gives_the_same_standard_output(written: list[tuple[int, bytes]], at: list[int]) -> None:
    data = b"".join(framed(channel, content) for channel, content in written)
    edges = sorted({0, len(data), *(each % (len(data) + 1) for each in at)})
    pieces = [data[start:end] for start, end in pairwise(edges)]
    assert demultiplexed(pieces) == b"".join(content for channel, content in written if channel == 1)


@given(parts)
def test_byte_by_byte(written: list[tuple[int, bytes]]) -> None:
    data = b"".join(framed(channel, content) for channel, content in written)
    assert demultiplexed([bytes([byte]) for byte in data]) == b"".join(
        content for channel, content in written if channel == 1
    )


def test_a_large_piece_is_handed_on_as_it_comes() -> None:
    content = b"x" * (10 << 20)
    data = framed(1, content)
    assert demultiplexed([data[start : start + 65536] for start in range(0, len(data), 65536)]) == content


@pytest.mark.anyio
async def test_the_end_of_the_stream_is_the_readers_end() -> None:
    reader = asyncio.StreamReader()
    protocol = AttachedProtocol(reader)
    protocol.data_received(framed(1, b"last words") + framed(2, b"noise"))
    protocol.eof_received()
    assert await reader.read() == b"last words"


def test_podman_reads_the_seccomp_profile_from_a_file() -> None:
    config = container_config(
        SPEC,
        "instance",
        LAYER,
        lambda **options: HostConfig(version="1.41", **options),
        podman_profile="/engine/seccomp",
    )
    assert sorted(config["host_config"]["SecurityOpt"]) == ["no-new-privileges", "seccomp=/engine/seccomp"]
