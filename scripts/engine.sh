#!/usr/bin/env bash
# Finds a container engine, or as root installs and starts one; `stop` ends the one that this script started.
#   engine.sh ensure   exit 0 when an engine answers, 1 with what to do when none does. An engine that this script has
#                      started also gets gVisor's runtime, runsc, where that can be installed
#   engine.sh stop     ends our engine, and only ours
set -euo pipefail
cd "$(dirname "$0")/.."

state=.corral
pid_file=$state/dockerd.pid
log_file=$state/dockerd.log
network_file=$state/dockerd.network

say() { printf '%s\n' "engine: $*" >&2; }

# Asks where the server itself would ask. Prints the engine's name and version.
answers() {
    .venv/bin/python - <<'PYTHON' 2>/dev/null
import docker
from orchestrator.config import Settings
version = docker.DockerClient(base_url=Settings.load().engine_url, timeout=5, use_ssh_client=False).version()
print((version.get("Platform") or {}).get("Name") or "Docker Engine", version["Version"])
PYTHON
}

wait_for_answer() { # SECONDS [PID]: gives up early when the process is gone
    local end=$((SECONDS + $1))
    while ((SECONDS < end)); do
        answers >/dev/null && return 0
        [[ -z ${2:-} ]] || kill -0 "$2" 2>/dev/null || return 1
        sleep 0.5
    done
    return 1
}

install_docker() {
    say "no container engine answers; installing Debian's docker.io"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends docker.io iptables >&2
}

# start_dockerd [ARGUMENT...]: leaves the pid in $pid_file. `setsid`: a Ctrl-C in this terminal must not end it.
start_dockerd() {
    mkdir -p "$state"
    setsid dockerd "$@" >>"$log_file" 2>&1 </dev/null &
    printf '%s\n' "$!" >"$pid_file"
    if wait_for_answer 30 "$!"; then return 0; fi
    stop_dockerd
    return 1
}

stop_dockerd() {
    [[ -f $pid_file ]] || return 0
    local pid
    pid=$(<"$pid_file")
    rm -f "$pid_file"
    # The number may belong to something else by now.
    [[ $(cat "/proc/$pid/comm" 2>/dev/null) == dockerd ]] || return 0
    kill "$pid"
    local end=$((SECONDS + 20))
    while kill -0 "$pid" 2>/dev/null && ((SECONDS < end)); do sleep 0.2; done
    say "stopped the engine that we had started"
}

is_ours() {
    [[ -f $pid_file ]] && [[ $(cat "/proc/$(<"$pid_file")/comm" 2>/dev/null) == dockerd ]]
}

has_runsc() {
    .venv/bin/python - <<'PYTHON' 2>/dev/null
import docker
from orchestrator.config import Settings
client = docker.DockerClient(base_url=Settings.load().engine_url, timeout=5, use_ssh_client=False)
raise SystemExit("runsc" not in client.info()["Runtimes"])
PYTHON
}

# gVisor is a choice: whatever goes wrong here, the engine serves without it.
ensure_runsc() {
    if has_runsc; then return 0; fi
    if ! is_ours; then
        say "without gVisor (runtime runsc). To have it, install runsc, add to /etc/docker/daemon.json"
        say '  "runtimes": {"runsc": {"path": "/usr/bin/runsc", "runtimeArgs": ["--network=none"]}}'
        say "and reload the engine (kill -HUP). Older releases also need \"--platform=ptrace\""
        return 0
    fi
    if ! command -v runsc >/dev/null; then
        apt-cache show runsc >/dev/null 2>&1 || return 0
        say "installing gVisor's runtime, Debian's runsc"
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends runsc >&2 || return 0
    fi
    local arguments=(--network=none)
    # What releases before 2023 need on most machines; later ones have a faster way of their own.
    if runsc flags 2>&1 | grep -q 'ptrace (default)'; then arguments+=(--platform=ptrace); fi
    python3 scripts/register_runtime.py /etc/docker/daemon.json runsc "$(command -v runsc)" "${arguments[@]}" || return 0
    kill -HUP "$(<"$pid_file")" # runtimes are read again without a restart
    local end=$((SECONDS + 5))
    while ! has_runsc && ((SECONDS < end)); do sleep 0.2; done
    if has_runsc; then say "gVisor is there: runtime runsc"; else say "the engine did not take runsc: see $log_file"; fi
}

ensure() {
    ensure_engine && ensure_runsc
}

ensure_engine() {
    local found
    if found=$(answers); then
        say "using $found"
        return 0
    fi
    if [[ $(id -u) -ne 0 ]]; then
        say "no container engine answers. Install one and start it, then try again:"
        say "  Debian, Ubuntu:  sudo apt-get install docker.io && sudo usermod -aG docker $(id -un)   (log in again)"
        say "  or rootless:     sudo apt-get install podman && systemctl --user start podman.socket"
        say "An engine elsewhere: export DOCKER_HOST=unix:///path or ssh://user@host"
        return 1
    fi
    if ! command -v dockerd >/dev/null; then
        if ! command -v apt-get >/dev/null; then
            say "no container engine answers, and this is not Debian or Ubuntu: install Docker or Podman and start it"
            return 1
        fi
        install_docker
    fi
    if [[ -d /run/systemd/system ]]; then
        systemctl start docker || true
        if wait_for_answer 30; then
            say "started the docker service of this machine; it stays"
            return 0
        fi
    fi
    rm -f "$network_file"
    # Sandboxes have no network interface, so an engine without bridge and iptables serves them where neither works.
    # Image builds then use the network of this machine.
    if start_dockerd || { start_dockerd --iptables=false --ip6tables=false --bridge=none && echo host >"$network_file"; }; then
        say "started $(answers), pid $(<"$pid_file"), log $log_file. It stays; \`make clean\` stops it"
        return 0
    fi
    say "dockerd did not start; its last lines:"
    tail -n 15 "$log_file" >&2
    return 1
}

case ${1:-ensure} in
    ensure) ensure ;;
    stop) stop_dockerd ;;
    *) say "usage: engine.sh ensure|stop"; exit 2 ;;
esac
