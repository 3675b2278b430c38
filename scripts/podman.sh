#!/usr/bin/env bash
# A Podman of one's own beside whatever engine is there, for the tests on its socket. As root on Debian and Ubuntu.
#   podman.sh ensure FOLDER   installs it if need be, starts its service; prints the URL of its socket
#   podman.sh stop FOLDER     ends that service and removes all that it kept there
set -euo pipefail

say() { printf '%s\n' "podman: $*" >&2; }

install_podman() {
    command -v podman >/dev/null && return 0
    [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null || { say "not installed"; return 1; }
    say "installing Debian's podman, crun and catatonit"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends podman crun catatonit >&2
}

# Podman raises a limit of processes to a million whatever it is told, which root may not do on every machine: this leaves
# it as it is. runc, where it is there: crun refuses machines with both versions of control groups.
make_runtime() {
    cat <<PYTHON
#!/usr/bin/python3
import json, os, sys

if "--bundle" in sys.argv:
    path = sys.argv[sys.argv.index("--bundle") + 1] + "/config.json"
    with open(path) as file:
        config = json.load(file)
    limits = config["process"].get("rlimits", [])
    config["process"]["rlimits"] = [limit for limit in limits if limit["type"] != "RLIMIT_NPROC"]
    with open(path, "w") as file:
        json.dump(config, file)
runtime = "$(command -v runc || command -v crun)"
os.execv(runtime, [runtime, *sys.argv[1:]])
PYTHON
}

ensure() {
    local folder=$1
    install_podman
    mkdir -p "$folder"
    make_runtime >"$folder/runtime"
    chmod 755 "$folder/runtime"
    # Its files below FOLDER, nothing of the machine's own Podman; neither systemd nor a journal is needed.
    setsid podman --runtime "$folder/runtime" --root "$folder/root" --runroot "$folder/run" --cgroup-manager=cgroupfs --events-backend=file \
        system service --time=0 "unix://$folder/podman.sock" >"$folder/log" 2>&1 </dev/null &
    printf '%s\n' "$!" >"$folder/pid"
    local end=$((SECONDS + 20))
    until curl --silent --fail --unix-socket "$folder/podman.sock" http://podman/_ping >/dev/null 2>&1; do
        if ((SECONDS > end)) || ! kill -0 "$(<"$folder/pid")" 2>/dev/null; then
            say "its service does not start:"
            tail -n 5 "$folder/log" >&2
            return 1
        fi
        sleep 0.2
    done
    printf '%s\n' "unix://$folder/podman.sock"
}

stop() {
    local folder=$1 pid
    [[ -f $folder/pid ]] || return 0
    pid=$(<"$folder/pid")
    rm -f "$folder/pid"
    if [[ $(cat "/proc/$pid/comm" 2>/dev/null) == podman ]]; then
        kill "$pid"
        while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
    fi
    awk -v below="$folder/" 'index($2, below) == 1 {print $2}' /proc/self/mounts | tac | while read -r at; do
        umount "$at" || umount --lazy "$at"
    done
    rm -rf "$folder/root" "$folder/run"
}

case ${1:-} in
    ensure | stop) "$1" "${2:?a folder}" ;;
    *) say "usage: podman.sh ensure|stop FOLDER"; exit 2 ;;
esac
