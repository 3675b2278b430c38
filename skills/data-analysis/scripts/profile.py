#!/usr/bin/env python3
"""Says what is in a table, and what of it would spoil results.

    profile.py FILE [--sheet NAME] [--rows LIMIT]

Reads CSV, TSV, JSON, JSON Lines and Excel. Exit code 1: the file cannot be read as a table.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from pathlib import Path

import pandas as pd

TOTAL = re.compile(r"\s*(grand |sub)?-?(total|sum|sums|all|gesamt|summe)\s*:?\s*", re.IGNORECASE)
NUMBER = re.compile(r"\s*[-+(]?\s*[$€£]?\s*\d{1,3}([.,' ]?\d{3})*([.,]\d+)?\s*[%$€£)]?\s*")
DATES = {
    "2024-12-31": re.compile(r"\d{4}-\d{1,2}-\d{1,2}([T ].*)?"),
    "31.12.2024": re.compile(r"\d{1,2}\.\d{1,2}\.\d{2,4}"),
    "12/31/2024": re.compile(r"\d{1,2}/\d{1,2}/\d{2,4}"),
    "20241231": re.compile(r"(19|20)\d{6}"),
}
MISSING = {"", "-", "--", "n/a", "na", "nan", "null", "none", "nil", "?", "unknown", "."}
LIMIT_ROWS = 1_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--sheet", default=0, help="of an Excel file: its name")
    parser.add_argument("--rows", type=int, default=LIMIT_ROWS, help="look at the first ones only")
    asked = parser.parse_args()
    try:
        frame = read(asked.file, asked.sheet, asked.rows)
    except Exception as error:  # whatever a reader of foreign files comes up with
        print(f"{asked.file} cannot be read as a table: {error}", file=sys.stderr)
        return 1
    print(f"{asked.file}: {len(frame):,} rows, {len(frame.columns)} columns")
    if len(frame) == asked.rows:
        print(f"! only the first {asked.rows:,} rows were looked at")
    for line in columns(frame):
        print(line)
    for line in troubles(frame):
        print(f"! {line}")
    return 0


def read(path: Path, sheet: str | int, rows: int) -> pd.DataFrame:
    """As text where the file is text: types are what this program is to find out."""
    kind = path.suffix.lower()
    if kind in (".xlsx", ".xls", ".ods"):
        return pd.read_excel(path, sheet_name=sheet, nrows=rows, dtype=object)
    if kind in (".jsonl", ".ndjson"):
        return pd.read_json(path, lines=True, nrows=rows, dtype=False)
    if kind == ".json":
        return pd.json_normalize(pd.read_json(path, typ="series", dtype=False).to_list()).head(rows)
    separator = "\t" if kind == ".tsv" else None
    return pd.read_csv(
        path, sep=separator, engine="python", nrows=rows, dtype=str, keep_default_na=False, encoding="utf-8-sig"
    )


def columns(frame: pd.DataFrame) -> list[str]:
    """A line for each column."""
    lines = []
    for name in frame.columns:
        values = frame[name]
        is_missing = values.map(missing)
        there = values[~is_missing]
        kind, spread = kind_of(there)
        count = there.map(str).nunique()
        share = f"{is_missing.mean():.0%} missing" if is_missing.any() else "none missing"
        lines.append(f"  {str(name)!r:24} {kind:8} {share:13} {count:>8,} distinct  {spread}".rstrip())
    return lines


def troubles(frame: pd.DataFrame) -> list[str]:
    """What has to be decided before anything is added up."""
    told = []
    texts = frame.map(str)
    if twice := int(texts.duplicated().sum()):
        told.append(f"{twice:,} rows are there twice (the same in every column)")
    for name in frame.columns:
        there = frame[name][~frame[name].map(missing)].map(str)
        if there.empty:
            told.append(f"{name!r} is empty")
            continue
        if totals := int(there.map(lambda text: TOTAL.fullmatch(text) is not None).sum()):
            told.append(f"{name!r}: {totals} rows look like totals among the rows")
        if padded := int((there != there.str.strip()).sum()):
            told.append(f"{name!r}: {padded:,} values have spaces around them")
        folded = there.str.strip().str.casefold()
        if folded.nunique() < there.str.strip().nunique() <= 1000:
            told.append(f"{name!r}: values differ only in upper and lower case")
        share = there.map(lambda text: NUMBER.fullmatch(text) is not None).mean()
        if 0.5 < share < 1:
            odd = there[~there.map(lambda text: NUMBER.fullmatch(text) is not None)].unique()[:3]
            told.append(f"{name!r}: numbers, but for {', '.join(map(repr, odd))}")
        elif share == 1 and pd.to_numeric(there, errors="coerce").isna().any():
            told.append(f"{name!r}: numbers as text, with signs or separators, such as {there.iloc[0]!r}")
        formats = [
            shape for shape, pattern in DATES.items() if there.map(lambda t, p=pattern: bool(p.fullmatch(t))).any()
        ]
        if len(formats) > 1:
            told.append(f"{name!r}: dates in {len(formats)} formats ({', '.join(formats)})")
    if unnamed := [name for name in frame.columns if str(name).startswith("Unnamed:") or not str(name).strip()]:
        told.append(f"{len(unnamed)} columns have no name")
    return told


def missing(value: object) -> bool:
    if isinstance(value, str):
        return value.strip().casefold() in MISSING
    return bool(pd.isna(value)) if pd.api.types.is_scalar(value) else False


def kind_of(values: pd.Series) -> tuple[str, str]:
    """What a column holds, and between which bounds; of text, how it begins."""
    if values.empty:
        return "empty", ""
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.notna().all():
        is_whole = bool((numbers % 1 == 0).all())
        low, high = numbers.min(), numbers.max()
        return ("whole", f"{int(low)} … {int(high)}") if is_whole else ("number", f"{low} … {high}")
    texts = values.map(str)
    formats = {shape for text in texts.unique() for shape, pattern in DATES.items() if pattern.fullmatch(text)}
    if texts.map(lambda text: any(pattern.fullmatch(text) for pattern in DATES.values())).all():
        if len(formats) > 1:
            return "date", ""  # which number is the month nobody can say
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dates = pd.to_datetime(texts, errors="coerce", dayfirst="31.12.2024" in formats)
        if dates.notna().all():
            return "date", f"{dates.min().date()} … {dates.max().date()}"
    return "text", f"at most {texts.str.len().max()} characters, such as {texts.iloc[0][:20]!r}"


if __name__ == "__main__":
    sys.exit(main())
