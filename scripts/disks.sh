#!/usr/bin/env bash
# Installs what makes disks for sandboxes, as root on Debian and Ubuntu. Without it sandboxes still run: `corral doctor` says
# how. `release` unmounts what a server that was killed has left below this folder.
set -euo pipefail
cd "$(dirname "$0")/.."

ensure() {
    [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null || return 0
    local missing=()
    command -v mkfs.ext4 >/dev/null || missing+=(e2fsprogs)
    command -v mkfs.xfs >/dev/null || missing+=(xfsprogs)
    ((${#missing[@]})) || return 0
    printf '%s\n' "disks: installing ${missing[*]}" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
}

release() {
    # Last mounted first: disks lie on the pool. Folders' names hold no spaces where this matters: they are ours.
    awk -v below="$PWD/" 'index($2, below) == 1 {print $2}' /proc/self/mounts | tac | while read -r at; do
        umount "$at" || umount --lazy "$at"
    done
}

case ${1:-ensure} in
    ensure) ensure ;;
    release) release ;;
    *) printf '%s\n' "usage: disks.sh [ensure|release]" >&2; exit 2 ;;
esac
