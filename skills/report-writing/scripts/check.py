"""Checks a Markdown report for what is easy to miss. Standard library only.

    python3 check.py REPORT.md

Prints a line per fault, with its line number, and exits 1 if there are any.
"""

import re
import sys
from pathlib import Path
from urllib.parse import unquote

PLACEHOLDER = re.compile(r"\{\{.*?\}\}|\b(TODO|TBD|FIXME|XXX|lorem ipsum)\b", re.IGNORECASE)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(\s*<?([^)\s>]+)>?[^)]*\)")
CITED = re.compile(r"(?<![\w\]!])\[(\d{1,3})\](?!\()")
SOURCE = re.compile(r"^\s*(?:[-*]\s+)?\[(\d{1,3})\]:?\s+\S")
HEADING = re.compile(r"^(#{1,6})\s+(.*)$")


def cells(row):
    """How many a row of a table has."""
    return len(re.split(r"(?<!\\)\|", row.strip().strip("|")))


def faults(path):
    """Line numbers and what is wrong there."""
    lines, in_code, in_sources = path.read_text(encoding="utf-8").splitlines(), False, False
    heading, has_text, columns, level = None, True, None, 0
    cited, sources = {}, {}
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith(("```", "~~~")):
            in_code, has_text = not in_code, True
            continue
        if in_code:
            continue
        if PLACEHOLDER.search(line):
            yield number, f"not filled in: {line.strip()[:60]}"
        if found := HEADING.match(line):
            # A heading right above one of its own sections needs no text.
            if heading and not has_text and len(found[1]) <= level:
                yield heading, "a section without text"
            if level and len(found[1]) > level + 1:
                yield number, "a heading leaves out a level"
            heading, has_text, level = number, False, len(found[1])
            in_sources = found[2].strip().lower() in ("sources", "references", "quellen")
            columns = None
            continue
        has_text = has_text or bool(line.strip())
        if line.strip().startswith("|"):
            if columns is not None and cells(line) != columns:
                yield number, f"a row of {cells(line)} cells in a table of {columns}"
            columns = columns or cells(line)
        else:
            columns = None
        for is_picture, text, target in LINK.findall(line):
            if is_picture and not text.strip():
                yield number, "a picture without a description"
            is_elsewhere = re.match(r"[a-z][a-z0-9+.-]*:|#", target, re.IGNORECASE)
            if not is_elsewhere and not (path.parent / unquote(target.partition("#")[0])).exists():
                yield number, f"there is no file {target}"
        if in_sources and (found := SOURCE.match(line)):
            if found[1] in sources:
                yield number, f"source [{found[1]}] is there twice"
            sources[found[1]] = number
        else:
            for name in CITED.findall(re.sub(r"`[^`]*`", "", line)):
                cited.setdefault(name, number)
    if in_code:
        yield len(lines), "a block of code has no end"
    if heading and not has_text:
        yield heading, "a section without text"
    for name, number in cited.items():
        if name not in sources:
            yield number, f"[{name}] is cited, and not among the sources"
    for name, number in sources.items():
        if name not in cited:
            yield number, f"source [{name}] is cited nowhere"
    if not lines or not lines[0].startswith("# "):
        yield 1, "the first line is no title"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    path = Path(sys.argv[1])
    try:
        found = sorted(faults(path))
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"{path}: {error}")
    for number, what in found:
        print(f"{path}:{number}: {what}")
    words = len(path.read_text(encoding="utf-8").split())
    print(f"{words} words, {len(found)} fault(s)")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
