#!/usr/bin/env bash
# Installs OpenSSH's server for the tests of engines behind SSH, as root on Debian and Ubuntu. It starts no service: the
# tests start servers of their own, on loopback. Without it those tests say that they did not run.
set -euo pipefail

[[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null || exit 0
if [[ ! -x /usr/sbin/sshd ]]; then
    printf '%s\n' "sshd: installing Debian's openssh-server; no service of it is started" >&2
    # While this file says so, packages start nothing.
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends openssh-server >&2
fi
