"""Catching pictures, with a small module that has matplotlib's name and shape."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_REPOSITORY = Path(__file__).resolve().parents[3]

_FIGURE = """
import os
class Figure:
    def __init__(self, name): self.name = name
    def savefig(self, fname, *, format=None, bbox_inches=None, **options):
        if isinstance(fname, (str, os.PathLike)):
            path = os.fspath(fname)
            extension = os.path.splitext(path)[1][1:] or "png"
            if not os.path.splitext(path)[1]: path += ".png"
            if extension == "xyz": raise ValueError("unknown format")
            with open(path, "wb") as file: file.write(f"{extension}:{self.name}".encode())
            return "saved"
        fname.write(f"{format or 'png'}:{self.name}".encode())
"""
_PYPLOT = """
from matplotlib.figure import Figure
_open = {}
def figure(number=None, name=None):
    if number not in _open: _open[number if number is not None else len(_open) + 1] = Figure(name)
    return _open[number] if number in _open else list(_open.values())[-1]
def get_fignums(): return list(_open)
def close(which): _open.clear() if which == "all" else _open.pop(which)
def show(*arguments, **options): raise RuntimeError("no display")
"""


@pytest.fixture
def run(tmp_path: Path) -> Any:
    package = tmp_path / "site" / "matplotlib"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "figure.py").write_text(_FIGURE)
    (package / "pyplot.py").write_text(_PYPLOT)
    workspace = tmp_path / "workspace"
    workspace.mkdir()

    def run(*cells: str) -> list[list[list[str]]]:
        """The pictures of each cell: type and content."""
        program = (
            f"import json, sys; sys.path[:0] = [{str(_REPOSITORY)!r}, {str(tmp_path / 'site')!r}]\n"
            "from orchestrator.guest import charts\n"
            "charts.install(); found = []; namespace = {}\n"
            "for code in json.load(sys.stdin):\n"
            "    exec(code, namespace)\n"
            "    found.append([[kind, picture.decode()] for kind, picture in charts.take()])\n"
            "print(json.dumps(found))"
        )
        command, given = [sys.executable, "-c", program], json.dumps(cells)
        done = subprocess.run(command, input=given, capture_output=True, text=True, cwd=workspace, check=False)
        assert done.returncode == 0, done.stderr
        found: list[list[list[str]]] = json.loads(done.stdout)
        return found

    return run


def test_shown_figures_are_caught_and_closed(run: Any) -> None:
    assert run("import matplotlib.pyplot as plt\nplt.figure(1, 'a'); plt.figure(2, 'b')\nplt.show()", "plt.show()") == [
        [["image/png", "png:a"], ["image/png", "png:b"]],
        [],
    ]


def test_saved_figures_are_caught_with_their_own_bytes(run: Any) -> None:
    assert run("from matplotlib.figure import Figure\nassert Figure('a').savefig('chart.jpg') == 'saved'") == [
        [["image/jpeg", "jpg:a"]]
    ]


@pytest.mark.parametrize("name", ["chart.pdf", "chart.svg"])
def test_what_is_no_picture_for_a_model_is_drawn_again(run: Any, name: str) -> None:
    assert run(f"from matplotlib.figure import Figure\nFigure('a').savefig({name!r})") == [[["image/png", "png:a"]]]


def test_paths_of_every_kind(run: Any) -> None:
    code = (
        "import pathlib\nfrom matplotlib.figure import Figure\n"
        "Figure('a').savefig(pathlib.Path('x.png'))\nFigure('b').savefig('plain')"
    )
    assert run(code) == [[["image/png", "png:a"], ["image/png", "png:b"]]]


def test_saved_and_shown_counts_once(run: Any) -> None:
    code = "import matplotlib.pyplot as plt\nf = plt.figure(1, 'a')\nf.savefig('a.png')\nplt.show()"
    assert run(code) == [[["image/png", "png:a"]]]


def test_a_figure_in_the_place_of_a_saved_one_that_is_gone_is_shown(run: Any) -> None:
    code = (
        "import matplotlib.pyplot as plt\n"
        "for number in range(4):\n"
        "    f = plt.figure(1, str(number))\n"
        "    if number < 3:\n"
        "        f.savefig('a.png'); plt.close(1); del f\n"
        "plt.show()"
    )
    assert [picture for _, picture in run(code)[0]] == ["png:0", "png:1", "png:2", "png:3"]


def test_pictures_belong_to_their_cell(run: Any) -> None:
    first, second = run(
        "import matplotlib.pyplot as plt\nplt.figure(1, 'a').savefig('a.png')",
        "plt.show()",
    )
    assert first == [["image/png", "png:a"]]
    assert second == [["image/png", "png:a"]], "shown in another cell than it was saved in"


def test_there_is_a_limit(run: Any) -> None:
    code = "from matplotlib.figure import Figure\nfor n in range(20): Figure(str(n)).savefig('a.png')"
    assert len(run(code)[0]) == 8


def test_buffers_are_the_cells_own(run: Any) -> None:
    assert run("import io\nfrom matplotlib.figure import Figure\nFigure('a').savefig(io.BytesIO())") == [[]]


def test_errors_of_saving_reach_the_cell(run: Any) -> None:
    code = (
        "from matplotlib.figure import Figure\n"
        "try: Figure('a').savefig('a.xyz')\nexcept ValueError as error: caught = str(error)\n"
        "assert caught == 'unknown format'\n"
        "try: Figure('a').savefig('/no/such/folder/a.png')\nexcept OSError: pass\nelse: raise AssertionError"
    )
    assert run(code) == [[]]


def test_nothing_is_imported_before_the_cell_does(run: Any) -> None:
    assert run("import sys\nassert 'matplotlib' not in sys.modules and 'matplotlib.pyplot' not in sys.modules") == [[]]
