#!/usr/bin/env bash
# Makes .venv with Corral and everything its tests and its demo need. Does nothing when that is up to date.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/corral-installed
if [[ $stamp -nt pyproject.toml && $stamp -nt constraints.txt ]]; then
    exit 0
fi

say() { printf '%s\n' "setup: $*" >&2; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    say "Python 3.11 or newer is needed. On Debian and Ubuntu: apt-get install python3 python3-venv"
    return 1
}

python=$(find_python)
if [[ ! -x .venv/bin/python ]]; then
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        # Debian and Ubuntu ship Python without what makes a virtual environment.
        if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
            version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
            say "installing python$version-venv"
            apt-get update -qq
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "python$version-venv" >&2
        else
            say "this Python cannot make virtual environments; install its venv package (apt-get install python3-venv)"
            exit 1
        fi
    fi
    say "making .venv with $("$python" --version)"
    "$python" -m venv .venv
fi

say "installing Corral and its dependencies (a minute or two the first time)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,demo]'
touch "$stamp"
