#!/usr/bin/env bash
# An agent pushes to a private git host and asks its API, and never sees what opens them.
#
#     examples/private-push/walk.sh
#
# Ends and removes all that it made. Exit code 1 if anything is not as it should be.
set -euo pipefail
cd "$(dirname "$0")/../.."
example=examples/private-push
corral=.venv/bin/corral
work=$(mktemp -d)
shop=$work/shop
url=
finish() {
  if [ -n "$url" ]; then
    $corral env list --url "$url" | cut -d' ' -f1 | xargs -r $corral rm --url "$url" > /dev/null || true
  fi
  kill $(jobs -p) 2> /dev/null || true
  wait
  rm -rf "$work"
}
trap finish EXIT
check() { # what it shows, and a command that says whether it is so
  if "${@:2}" > "$work/why" 2>&1; then echo "✓ $1"; else echo "✗ $1"; cat "$work/why"; exit 1; fi
}
nowhere() { # grep looked and found nothing; that it could not look is something else
  local code=0
  grep "$@" || code=$?
  [ $code = 1 ]
}

# 1. The private host. It wants a secret, and its certificate is of an authority of its own.
.venv/bin/python $example/git_host.py "$shop" &
until [ -f "$shop/corral.toml" ]; do
  kill -0 $! 2> /dev/null || exit 1
  sleep 0.1
done
check "the host refuses those who have no secret" \
  grep -q 401 <(curl -s --cacert "$shop/authority.pem" -w '%{http_code}' 'https://127.0.0.2:18443/ledger.git/info/refs')

# 2. A server that may reach it, and trusts that authority, at a free port. A Ctrl-C is not for it: it is needed to clean up.
CORRAL_CONFIG=$shop/corral.toml CORRAL_LOG_LEVEL=debug setsid $corral serve --data-dir "$work/data" --port 0 2> "$work/log" &
until url=$(grep -s server_listening "$work/log" | grep -o 'http://127\.0\.0\.1:[0-9]*'); do
  kill -0 $! 2> /dev/null || { cat "$work/log"; exit 1; }
  sleep 0.2
done
export CORRAL_URL=$url

# 3. The secrets: one that a rule puts into requests, one that stands behind a variable. Nobody can read them again.
$corral credentials create git-push --type bearer_token --prefix Basic < "$shop/push-secret"
$corral credentials create git-api --type environment_variable --location header --domain 127.0.0.2 < "$shop/api-secret"

# 4. The agent, which names the credentials, and its task.
$corral agents deploy $example/agent
$corral run --agent private-push - < $example/task.md | tee "$work/said"
environment=$(sed -n 's/^environment //p' "$work/said")
interaction=$(sed -n 's/^interaction //p' "$work/said")
curl -sf "$CORRAL_URL/v1beta/interactions/$interaction" > "$work/steps"
$corral logs "$interaction" > "$work/told"
$corral logs "$environment" >> "$work/told"
$corral logs "$environment" --kind network | tee "$work/network"

# 5. What came of it.
git -C "$shop/ledger.git" log --stat --format='%h %an: %s' main
check "the commit is on the host" grep -q 'Clerk: Tea sold' <(git -C "$shop/ledger.git" log --format='%an: %s' main)
check "the API answered" grep -q 'Clerk: Tea sold.*Owner: The ledger' "$work/steps"
check "the log names the credential of the push" grep -q 'POST /ledger.git/git-receive-pack · with git-push' "$work/network"
check "the log names the credential of the API" grep -q 'GET /api/commits · with git-api' "$work/network"
check "the stranger got a greeting" grep -q '^GET / ' "$shop/stranger.log"
check "the stranger got no push" nowhere -i 'ledger\|authorization\|GEMINI' "$shop/stranger.log"
check "the model was told why" grep -q "denied 127.0.0.3:18443: credential 'git-api' does not trust 127.0.0.3" "$work/steps"
check "variables inside hold the placeholder alone" grep -q '^in variables: __GEMINI_CRED_git-api__$' "$work/said"
check "files inside hold the placeholder alone" grep -q '^in files: __GEMINI_CRED_git-api__$' "$work/said"
# Disks of sandboxes are long files with little in them, and the agent has looked there.
check "no secret is in the steps, the logs or the data folder" \
  nowhere -raF --exclude-dir=disks -f "$shop/every-form" "$work"/{said,steps,told,network,log,data}
