# Login shells start from Debian's PATH; sandboxes put the agent's own folders first.
PATH="/home/agent/.venv/bin:/home/agent/.npm-global/bin:$PATH"
export PATH
