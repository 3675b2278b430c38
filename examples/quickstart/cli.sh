#!/usr/bin/env bash
# One agent from the command line. The server: CORRAL_URL, else http://127.0.0.1:8080 (make serve).
set -euo pipefail
cd "$(dirname "$0")/../.."
corral=.venv/bin/corral

# A new sandbox with this repository's README in it. Steps are shown as they come; the last line has the environment's id.
environment=$($corral run --file README.md - <<'PROMPT' | tee /dev/stderr | sed -n 's/^environment //p'
How long is the README?

```bash
wc README.md
```

```python
words = open("README.md").read().split()
len(words)
```
PROMPT
)

# In the background, in the same sandbox: the variable is still there.
# shellcheck disable=SC2016  # the backticks are Markdown
interaction=$($corral run --background --env "$environment" '```python
print("the longest word:", max(words, key=len))
```')
$corral logs --follow "$interaction"
$corral ps
$corral rm "$environment"
