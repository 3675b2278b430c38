"""The demo's own checks: what they accept, and that they refuse what is not so."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import pytest

from scripts.demo import Problem, facts_of, png_size, results

TABLE = """\
date,precipitation,temp_max,temp_min,wind,weather
2012/01/01,0.0,12.8,5.0,4.7,drizzle
2012/01/02,10.5,10.6,2.8,4.5,rain
2012/07/01,0.0,30.0,15.0,2.3,sun
2012/07/02,0.0,29.0,-3.5,2.3,sun
2013/10/01,4.0,9.6,7.0,6.1,rain
"""


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, rows: list[bytes]) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")


PICTURE = png(3, 20, [bytes([0, line, line, line]) for line in range(20)])


def test_a_whole_picture_has_a_size():
    assert png_size(PICTURE) == (3, 20)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GIF89a", "not a PNG"),
        (PICTURE[:-12], "cut off"),
        (PICTURE.replace(b"IDAT", b"IDAX"), "damaged"),
        (png(3, 21, [bytes([0, line, line, line]) for line in range(20)]), "no picture"),
        (png(3, 40, [bytes(4)] * 40), "no picture"),
    ],
    ids=["another format", "cut off", "damaged", "a row short", "one colour"],
)
def test_what_is_no_picture_is_refused(data, why):
    with pytest.raises(Problem, match=why):
        png_size(data)


def test_facts_are_computed_from_the_table():
    assert facts_of(TABLE) == [
        "5 days, none missing",
        "| 2012 | 10 mm | 1 | 20.6 °C |",
        "| 2013 | 4 mm | 1 | 9.6 °C |",
        "Wettest month: Jan, 5 mm",
        "Driest month: Feb, 0 mm",
        "October to March bring 100%",
        "10.5 mm on 2012-01-02",
        "30.0 °C on 2012-07-01",
        "-3.5 °C on 2012-07-02",
        "2 days from 2012-07-01",
    ]


def test_results_are_found_where_they_came_back():
    steps: list[dict[str, Any]] = [
        {"type": "code_execution_result", "result": "text"},
        {"type": "code_execution_result", "result": [{"type": "text", "text": ""}, {"type": "image", "data": "AQI="}]},
        {"type": "function_result", "name": "write_file", "result": "created"},
        {"type": "function_result", "name": "read_file", "result": "the report"},
    ]
    assert results(steps) == (b"\1\2", "the report")
    with pytest.raises(Problem, match="got 1 and 0"):
        results(steps[:3])
