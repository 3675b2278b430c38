"""Checks that each `[n]` of a text is a source that was noted, and writes the list of sources. Standard library only.

    python3 citations.py ANSWER.md SOURCES.jsonl [--write]

A source is a JSON object a line: id, title, url, by, dated, read, says. Prints a line per fault, and exits 1 then.
"""

import argparse
import json
import re
import sys
from pathlib import Path

CITED = re.compile(r"(?<![\w!])\[(\d{1,3})\](?!\()")
LISTED = re.compile(r"\n*^## Sources\n.*\Z", re.DOTALL | re.MULTILINE)
DATE = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")


def read_sources(path, faults):
    """The sources by their numbers."""
    sources = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            source = json.loads(line)
            name = str(source["id"])
        except (ValueError, KeyError, TypeError) as error:
            faults.append(f"{path}:{number}: no source: {error}")
            continue
        if name in sources:
            faults.append(f"{path}:{number}: source [{name}] is there twice")
        for field in ("title", "says"):
            if not str(source.get(field) or "").strip():
                faults.append(f"{path}:{number}: source [{name}] has no {field!r}")
        if not re.match(r"https?://[^\s/…]+\.", str(source.get("url", ""))):
            faults.append(f"{path}:{number}: source [{name}] has no address")
        if not DATE.fullmatch(str(source.get("read", ""))):
            faults.append(f"{path}:{number}: source [{name}] does not say when it was read")
        sources[name] = source
    return sources


def entry(name, source):
    """A line of the list."""
    dated = source.get("dated") or "undated"
    by = f" {source['by']}," if source.get("by") else ""
    return f"[{name}] {source.get('title')}.{by} {dated}. {source.get('url')} (read {source.get('read')})"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("answer", type=Path)
    parser.add_argument("sources", type=Path)
    parser.add_argument("--write", action="store_true", help="put the list of sources at the end of the answer")
    given = parser.parse_args()
    faults = []
    try:
        text = LISTED.sub("", given.answer.read_text(encoding="utf-8")).rstrip()
        sources = read_sources(given.sources, faults)
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(str(error))
    cited = []
    for number, line in enumerate(text.splitlines(), 1):
        for name in CITED.findall(re.sub(r"`[^`]*`", "", line)):
            if name not in sources:
                faults.append(f"{given.answer}:{number}: [{name}] is no source that was noted")
            elif name not in cited:
                cited.append(name)
    if not cited:
        faults.append(f"{given.answer}: cites nothing")
    for name in sources:
        if name not in cited:
            print(f"note: source [{name}] is cited nowhere")
    for fault in faults:
        print(fault)
    if faults:
        sys.exit(1)
    if given.write:
        listed = "\n\n".join(entry(name, sources[name]) for name in sorted(cited, key=int))
        given.answer.write_text(f"{text}\n\n## Sources\n\n{listed}\n", encoding="utf-8")
    print(f"{len(cited)} source(s) cited")


if __name__ == "__main__":
    main()
