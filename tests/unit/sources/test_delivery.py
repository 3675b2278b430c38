"""Names that come from outside: cases F3 and F8 of the attacks, whoever gives them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import SourceFailed
from orchestrator.sources.delivery import Link, _parts, _stays_inside, shown
from orchestrator.sources.fetch import FetchLimits
from tests.unit.sources.conftest import Basket


def add(basket: Basket, *names: str) -> None:
    for name in names:
        if name.endswith("/"):
            basket.tree.add_folder(name)
        else:
            basket.tree.add_file(name, io.BytesIO(b"x"), 1)


def test_files_and_folders_lie_below_the_target(basket: Basket) -> None:
    add(basket, "a", "./b//c", "empty/", "b/")
    basket.tree.add_file("run", io.BytesIO(b"#!"), 2, is_executable=True)
    assert basket.files() == {
        "workspace/in/a": b"x",
        "workspace/in/b/c": b"x",
        "workspace/in/empty": None,
        "workspace/in/b": None,
        "workspace/in/run": b"#!",
    }


@pytest.mark.parametrize(
    "name",
    ["", ".", "/", "..", "../x", "a/../x", "a/../../x", "/etc/passwd", "a\0b", "a\nb", "a\x1b[2Jb", "a\x7f", "x" * 256,
     "/".join("a" * 65), "/".join(["y" * 200] * 20)],
)  # fmt: skip
def test_f3_f8_names_that_are_none_are_refused(basket: Basket, name: str) -> None:
    with pytest.raises(SourceFailed):
        basket.tree.add_file(name, io.BytesIO(b"x"), 1)
    assert basket.files() == {}


@pytest.mark.parametrize(
    "names",
    [
        ("a", "a"),
        ("a", "./a"),
        ("README", "readme"),
        ("straße", "STRASSE"),
        ("caf\u00e9", "cafe\u0301"),
        ("Docs/a", "docs/b"),
        ("a", "a/b"),
        ("a/b", "a"),
        ("a", "a/"),
        ("a/", "a"),
        ("A", "a/b"),
    ],
)
def test_f3_names_that_meet_are_refused(basket: Basket, names: tuple[str, str]) -> None:
    with pytest.raises(SourceFailed):
        add(basket, *names)


def test_folders_may_be_told_twice(basket: Basket) -> None:
    add(basket, "a/", "a/", "a/b", "a/")


def test_names_of_a_repository_may_differ_in_case_only(tmp_path: Path, limits: FetchLimits) -> None:
    exact = Basket(tmp_path, limits, folds_names=False, may_link_out=True)
    with exact.fetch:
        add(exact, "xt_TCPMSS.h", "xt_tcpmss.h")
        exact.tree.add_link("out", "/etc/passwd")
        with pytest.raises(SourceFailed, match="twice"):
            add(exact, "xt_tcpmss.h")
        with pytest.raises(SourceFailed, match="lies below"):
            add(exact, "out/x")
    assert len(exact.files()) == 2


@pytest.mark.parametrize(
    ("name", "target", "is_inside"),
    [
        ("link", "a", True),
        ("a/link", "../b", True),
        ("a/b/link", "../../c", True),
        ("link", "a/b", True),
        ("link", "..", False),
        ("a/link", "../..", False),
        ("link", "/etc/passwd", False),
        ("link", "a/../b", False),
        ("a/link", "./../b", True),
        ("link", ".", True),
    ],
)
def test_f3_links_stay_inside(basket: Basket, name: str, target: str, is_inside: bool) -> None:
    if is_inside:
        basket.tree.add_link(name, target)
        assert basket.links == [Link(f"/workspace/in/{name}", target)]
    else:
        with pytest.raises(SourceFailed, match="leads out"):
            basket.tree.add_link(name, target)


def test_f3_nothing_goes_through_a_link(basket: Basket) -> None:
    basket.tree.add_link("a", "b")
    with pytest.raises(SourceFailed, match="which is a file or a link"):
        add(basket, "a/x")


@pytest.mark.parametrize("target", ["", "a\0b", "x" * 4096])
def test_links_to_nothing_are_refused(basket: Basket, target: str) -> None:
    with pytest.raises(SourceFailed, match="link"):
        basket.tree.add_link("link", target)


def test_size_and_members_have_limits(tmp_path: Path) -> None:
    small = Basket(tmp_path, FetchLimits(size_bytes=10, max_members=3, timeout_s=30))
    with small.fetch:
        small.tree.add_file("a", io.BytesIO(b"x" * 10), 10)
        with pytest.raises(SourceFailed, match="larger than 10 bytes"):
            small.tree.add_file("b", io.BytesIO(b"x"), 1)
        small.tree.add_folder("c")
        with pytest.raises(SourceFailed, match="more than 3 files"):
            small.tree.add_folder("d")
    small.close()


@given(st.text(max_size=30), st.lists(st.sampled_from(["..", ".", "a", "b", ""]), max_size=6).map("/".join))
def test_links_that_stay_inside_do_so_by_the_usual_rules(name: str, target: str) -> None:
    try:
        depth = len(_parts(name)) - 1
    except SourceFailed:
        return
    if _stays_inside(name, target):
        for part in target.split("/"):
            depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
            assert depth >= 0


@given(st.text(max_size=300))
def test_shown_names_are_one_short_printable_line(name: str) -> None:
    text = shown(name)
    assert text.isprintable()
    assert len(text) <= 900
