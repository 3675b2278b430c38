"""Looks through a data file: size, columns, and what usually spoils results.

    python look.py FILE [--rows N]

Reads .csv, .tsv, .json, .jsonl and the same with .gz. Prints text; exits 1 if the file cannot be read as a table.
"""

import argparse
import gzip
import re
import sys
from pathlib import Path

import pandas as pd

PLAIN_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
NUMBER_AS_TEXT = re.compile(r"[^\d\-+]{0,3}[-+]?\d[\d.,' ]*\s?[^\d\s]{0,4}")
DATES = {
    "year first": re.compile(r"\d{4}-\d{1,2}-\d{1,2}"),
    "with points": re.compile(r"\d{1,2}\.\d{1,2}\.\d{2,4}"),
    "with slashes": re.compile(r"\d{1,2}/\d{1,2}/\d{2,4}"),
}
TOTAL = re.compile(r"\b(?:grand )?(?:total|sum|subtotal|all|gesamt|summe)\b", re.IGNORECASE)
ABSENT = {"", "-", "--", "n/a", "na", "nan", "none", "null", "unknown", "?", "."}


def separator_of(path):
    """What the first line has most of; a comma if it has nothing of the kind."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        first = file.readline()
    return max(",;\t|", key=first.count)


def read(path, rows):
    """The file as a frame, of text as it stands there unless the format itself has numbers."""
    kind = next((part for part in reversed(path.suffixes) if part != ".gz"), "")
    if kind in (".jsonl", ".ndjson"):
        return pd.read_json(path, lines=True, nrows=rows, dtype=False)
    if kind == ".json":
        return pd.read_json(path, dtype=False).head(rows)
    separator = "\t" if kind == ".tsv" else separator_of(path)
    # Only what is empty is missing: words for it are told, not swallowed.
    return pd.read_csv(path, sep=separator, nrows=rows, dtype=str, keep_default_na=False, na_values=[""])


def look_at(column):
    """A line about a column, and warnings."""
    warnings = []
    missing = int(column.isna().sum())
    values = column.dropna()
    distinct = int(values.astype(str).nunique())
    zeros = int(values.astype(str).str.fullmatch(r"0\d+").sum())
    if zeros:
        warnings.append(f"{zeros} value(s) with leading zeros: read it as text, it is no number")
    elif len(values) and values.astype(str).str.fullmatch(PLAIN_NUMBER).all():
        column, values = pd.to_numeric(column), pd.to_numeric(values)
    is_number = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    line = f"{'number' if is_number else 'text':7} {missing:>8} missing {distinct:>8} distinct  "
    if is_number and len(values):
        low, high = values.quantile(0.25), values.quantile(0.75)
        line += f"{values.min():g} … {values.max():g}, median {values.median():g}"
        width = high - low
        out = int(((values < low - 3 * width) | (values > high + 3 * width)).sum())
        if width and 0 < out <= max(1, len(values) // 100):
            warnings.append(f"{out} value(s) far out")
        return line, warnings
    texts = values.astype(str)
    line += ", ".join(repr(each[:30]) for each in texts.unique()[:4])
    stripped = texts.str.strip()
    absent = stripped[stripped.str.lower().isin(ABSENT)]
    if len(absent):
        warnings.append(f"{len(absent)} value(s) say that nothing is there: {sorted(set(absent))[:5]}")
    if (texts != stripped).any():
        warnings.append("spaces at the ends of values")
    if 1 < stripped.nunique() != stripped.str.lower().nunique():
        warnings.append("values that differ in upper and lower case only")
    rest = stripped.drop(absent.index)
    dates = {name: int(rest.str.fullmatch(pattern).sum()) for name, pattern in DATES.items()}
    found = {name: count for name, count in dates.items() if count}
    if len(found) > 1:
        warnings.append(f"two date formats: {found}")
    numbers = int(rest.str.fullmatch(NUMBER_AS_TEXT).sum())
    if len(rest) and not (found or zeros) and numbers / len(rest) > 0.5:
        strange = [each for each in rest if not PLAIN_NUMBER.fullmatch(each)][:3]
        warnings.append(f"numbers as text, such as {strange}")
    totals = rest[rest.str.contains(TOTAL)]
    if 0 < len(totals) < max(2, len(rest) / 5):
        warnings.append(f"{len(totals)} row(s) may be totals: {list(totals.unique()[:3])}")
    return line, warnings


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000, help="read no more than these")
    given = parser.parse_args()
    try:
        frame = read(given.file, given.rows)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        sys.exit(f"{given.file}: not readable as a table: {error}")
    print(f"{given.file}: {given.file.stat().st_size} bytes, {len(frame)} rows, {len(frame.columns)} columns")
    if len(frame) >= given.rows:
        print(f"! only the first {given.rows} rows were read")
    twice = int(frame.astype(str).duplicated().sum())
    if twice:
        print(f"! {twice} row(s) are there twice")
    names = [str(name) for name in frame.columns]
    if any(name.startswith("Unnamed") or not name.strip() for name in names):
        print("! columns without a name: is the first line the header?")
    for name in frame.columns:
        line, warnings = look_at(frame[name])
        print(f"  {str(name)[:24]:24} {line}")
        for warning in warnings:
            print(f"    ! {warning}")


if __name__ == "__main__":
    main()
