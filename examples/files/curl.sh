#!/usr/bin/env bash
# Files of an environment with curl alone: send one, let an agent work on it, list, fetch the result, fetch the folder.
# The server: CORRAL_URL, else http://127.0.0.1:8080 (make serve). Where it has keys: CORRAL_API_KEY.
set -euo pipefail
url=${CORRAL_URL:-http://127.0.0.1:8080}

ask() { # METHOD PATH [CURL ARGUMENT...]
    local method=$1 path=$2
    shift 2
    curl --silent --show-error --fail-with-body --noproxy 127.0.0.1,localhost --request "$method" "$url$path" \
        --header "content-type: application/json" --header "x-goog-api-key: ${CORRAL_API_KEY:-none}" "$@"
}
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
environment=$(ask POST /v1beta/environments --data '{}' | field id)
files=/v1beta/environments/$environment/files

# One request puts a file in its place. `overwrite=true` replaces one that is there, `extract=true` unpacks an archive.
printf 'item,amount\ntea,3\ncoffee,5\ntea,4\n' | ask PUT "/upload$files/workspace/data/sales.csv" --data-binary @-
echo

ask POST /v1beta/interactions --data @- >/dev/null <<JSON
{"agent": "antigravity-preview-09-2026", "environment": "$environment",
 "input": "Sort.\n\n\`\`\`bash\nmkdir -p out && sort -t, -k2 -n data/sales.csv > out/sorted.csv\n\`\`\`"}
JSON

ask GET "$files/workspace?recursive=true"
echo
ask GET "$files/workspace/out/sorted.csv?alt=media"
ask GET "$files/workspace?alt=media&recursive=true" --output "$folder/workspace.tar"
tar --list --file "$folder/workspace.tar"
ask DELETE "/v1beta/environments/$environment"
echo
