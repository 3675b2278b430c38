"""Prints a report in Markdown of lines `SHOP CITY EUROS`."""

import sys
from pathlib import Path

rows = [line.split() for line in Path(sys.argv[1]).read_text().splitlines()]
print("# Takings\n\n| shop | city | EUR |\n|---|---|---:|")
for shop, city, euros in rows:
    print(f"| {shop} | {city} | {'missing' if euros == '-' else f'{float(euros):.2f}'} |")
print(f"\nIn all: {sum(float(euros) for _, _, euros in rows if euros != '-'):.2f} EUR")
