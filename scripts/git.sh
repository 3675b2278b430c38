#!/usr/bin/env bash
# Installs git for the tests of sources, as root on Debian and Ubuntu.
set -euo pipefail

command -v git >/dev/null && exit 0
if [[ $(id -u) -ne 0 ]] || ! command -v apt-get >/dev/null; then
    printf '%s\n' "git: it is not here; install it, or tests of sources of the type repository fail" >&2
    exit 0
fi
printf '%s\n' "git: installing it" >&2
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends git >&2
