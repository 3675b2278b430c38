#!/usr/bin/env bash
# An agent from its folder to a call by name and back to an earlier version. The server: CORRAL_URL, else this machine's.
set -euo pipefail
cd "$(dirname "$0")/../.."
corral=.venv/bin/corral
folder=$(mktemp -d)/ledger-clerk
trap 'rm -r "$(dirname "$folder")"' EXIT
cp -r examples/agents/ledger-clerk "$folder"

# A fault would be told with file and line. The examples run without anything being deployed.
$corral agents validate "$folder"
$corral agents examples run "$folder"

# Deployed, it is called by its name; each call with a new environment begins with the files of the folder.
$corral agents deploy "$folder"
# shellcheck disable=SC2016  # the backticks are Markdown
$corral run --agent ledger-clerk '```bash
ls; cat statement.csv
```'

# A change: what differs, and a second version. Calls that name no version have it from now on.
echo 'inv-003,45.50' >> "$folder/workspace/statement.csv"
$corral agents diff "$folder" || true
$corral agents deploy "$folder"
# shellcheck disable=SC2016
$corral run --agent ledger-clerk@1 '```bash
wc -l statement.csv
```'
$corral agents rollback ledger-clerk 1
$corral agents versions ledger-clerk
$corral agents delete ledger-clerk
