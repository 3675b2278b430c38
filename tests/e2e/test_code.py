"""What code in a sandbox finds: state, charts, variables, sources, files, others beside it."""

from __future__ import annotations

import base64
import struct
import time
import zlib

import pytest

from tests.e2e.caller import Caller
from tests.e2e.programs import (
    bash,
    call,
    images_of,
    only_result,
    python,
    results,
    run_bash,
    run_python,
    script,
    text_of,
)

_FILLER = "# " + "x" * 97 + "\n"


def test_python_keeps_its_state_across_calls_and_interactions(caller: Caller, environment: str) -> None:
    program = script(run_python("import math\nnumber = 6"), run_python("def double(x): return 2 * x\ndouble(number)"))
    first = caller.create(program, environment)
    assert [text_of(step) for step in results(first)] == ["", "12\n"]
    assert only_result(caller.create(python("print(double(number), math.floor(2.5))"), environment)) == "12 2\n"


def test_python_error_is_a_traceback_and_the_state_stays(caller: Caller, environment: str) -> None:
    program = script(run_python("a = 1"), run_python("b = 2\n1 / 0"), run_python("a + b"))
    ended = caller.create(program, environment)
    assert ended["status"] == "completed"
    fine, broken, after = results(ended)
    assert (fine["is_error"], broken["is_error"], after["is_error"]) == (False, True, False)
    assert "ZeroDivisionError" in text_of(broken)
    assert "line 2" in text_of(broken)
    assert "guest" not in text_of(broken), "our own frames are of no use to a model"
    assert text_of(after) == "3\n"


def test_python_that_exits_does_not_take_the_environment_with_it(caller: Caller, environment: str) -> None:
    program = script(run_python("import os\nprint('going', flush=True)\nos._exit(7)"), run_python("1 + 1"))
    gone, after = results(caller.create(program, environment))
    assert gone["is_error"] is True
    assert "variables are gone" in text_of(gone)
    assert text_of(after) == "2\n"


@pytest.mark.parametrize("size_kb", [90, 120, 400, 2_000])
def test_long_shell_code_reaches_the_sandbox_whole(caller: Caller, environment: str, size_kb: int) -> None:
    code = _FILLER * (size_kb * 10) + "echo end of shell; read line; echo rest: $line"
    assert only_result(caller.create(script(run_bash(code)), environment)) == "end of shell\nrest:\n"


@pytest.mark.parametrize("size_kb", [120, 400, 2_000])
def test_long_python_code_reaches_the_sandbox_whole(caller: Caller, environment: str, size_kb: int) -> None:
    running = caller.start(script(run_python(_FILLER * (size_kb * 10) + "print('end of cell')")), environment)
    try:
        assert only_result(caller.wait(running, timeout_s=5)) == "end of cell\n"
    finally:
        caller.cancel(running)


def test_shown_and_saved_charts_come_back_as_png(caller: Caller, environment: str) -> None:
    shown = "import matplotlib.pyplot as plt\nplt.figure(figsize=(3, 2))\nplt.plot([1, 3])\nplt.show()\nprint('shown')"
    saved = "plt.figure(figsize=(4, 2))\nplt.bar([1, 2], [3, 4])\nplt.savefig('chart.png', dpi=50)\nprint('saved')"
    program = script(run_python(shown), run_python(saved), run_bash("file chart.png"), run_python("print('none')"))
    first, second, file, none = results(caller.create(program, environment))
    for step, text in ((first, "shown\n"), (second, "saved\n")):
        assert text_of(step) == text
        (image,) = images_of(step)
        assert image["mime_type"] == "image/png"
        _check_png(base64.b64decode(image["data"], validate=True))
    assert "200 x 100" in text_of(file)
    assert none["result"] == "none\n"


def test_two_charts_of_one_cell(caller: Caller, environment: str) -> None:
    code = (
        "import matplotlib.pyplot as plt\nplt.close('all')\n"
        "for n in (1, 2):\n    plt.figure()\n    plt.plot([n])\nplt.show()"
    )
    (step,) = results(caller.create(python(code), environment))
    assert len(images_of(step)) == 2


def test_a_picture_is_read_as_image(caller: Caller, environment: str) -> None:
    draw = "import matplotlib.pyplot as plt\nplt.figure(figsize=(1, 1))\nplt.savefig('dot.png')\nplt.close('all')"
    _, read = results(caller.create(script(run_python(draw), call("read_file", path="dot.png")), environment))
    (image,) = images_of(read)
    _check_png(base64.b64decode(image["data"]))


def test_variables_reach_both_languages_and_later_calls(caller: Caller) -> None:
    value = "two words, 'quotes', $HOME and ü"
    made = caller.create(
        script(run_bash('printf %s "$NOTE"'), run_python("import os\nprint(os.environ['NOTE'])")),
        {"type": "remote", "env": {"NOTE": value, "OTHER": ""}},
    )
    assert [text_of(step) for step in results(made)] == [value, f"{value}\n"]
    assert value not in str(made["environment"]), "variables may be secrets"
    environment = made["environment_id"]
    assert only_result(caller.create(bash("echo ${OTHER-unset}:$NOTE"), environment)) == f":{value}\n"
    changed = {"type": "remote", "environment_id": environment, "env": {"NOTE": "new"}}
    program = script(run_bash("echo $NOTE ${OTHER-unset}"), run_python("print(os.environ['NOTE'])"))
    assert [text_of(step) for step in results(caller.create(program, changed))] == ["new\n", "new\n"]
    caller.delete_environment(environment)


def test_variables_that_break_python_break_only_python(caller: Caller) -> None:
    made = caller.create(
        script(run_python("1"), run_bash("echo fine")), {"type": "remote", "env": {"PYTHONHOME": "/nowhere"}}
    )
    assert made["status"] == "completed"
    broken, fine = results(made)
    assert broken["is_error"] is True
    assert text_of(fine) == "fine\n"
    caller.delete_environment(made["environment_id"])


def test_sources_as_text_and_base64_are_there_before_the_first_call(caller: Caller) -> None:
    binary = bytes(range(256)) * 40
    sources = [
        {"type": "inline", "target": "workspace/text/näme with space.txt", "content": "Zeile ✓\n"},
        {
            "type": "inline",
            "target": "/workspace/-rf",
            "content": base64.b64encode(binary).decode(),
            "encoding": "base64",
        },
        {"type": "inline", "target": ".agents/AGENTS.md", "content": "Be kind."},
        {"type": "inline", "target": "home/agent/.config/tool.ini", "content": ""},
        {"type": "inline", "target": "tmp/scratch", "content": "x"},
    ]
    listing = "cat 'text/näme with space.txt'; sha256sum ./-rf | cut -c1-8; cat /.agents/AGENTS.md /tmp/scratch; echo"
    owners = "stat -c '%U %n' text ./-rf /.agents/AGENTS.md ~/.config ~/.config/tool.ini /tmp/scratch"
    made = caller.create(
        script(run_bash(listing), run_bash(owners), run_bash("echo more >>./-rf && echo writable")),
        {"type": "remote", "sources": sources},
    )
    import hashlib

    content, owned, writable = [text_of(step) for step in results(made)]
    assert content == f"Zeile ✓\n{hashlib.sha256(binary).hexdigest()[:8]}\nBe kind.x\n"
    assert {line.split()[0] for line in owned.splitlines()} == {"agent"}
    assert writable == "writable\n"
    assert "Zeile" not in str(made["environment"])
    shown = caller.http.get(f"/v1/environments/{made['environment_id']}").json()
    assert [source["target"] for source in shown["sources"]] == [source["target"] for source in sources]
    caller.delete_environment(made["environment_id"])


def test_large_source_arrives_whole(caller: Caller) -> None:
    made = caller.create(
        bash("wc -c <big; tail -c 4 big"),
        {
            "type": "remote",
            "sources": [{"type": "inline", "target": "workspace/big", "content": "0123456789" * 1_500_000}],
        },
    )
    assert only_result(made) == "15000000\n6789"
    caller.delete_environment(made["environment_id"])


def test_two_interactions_work_in_one_environment_at_once(caller: Caller, environment: str) -> None:
    wait_for_other = "touch {0}; for i in $(seq 100); do [ -e {1} ] && break; sleep 0.1; done; [ -e {1} ] && echo met"
    caller.create(bash("rm -f one two"), environment)
    first = caller.start(bash(wait_for_other.format("one", "two")), environment)
    second = caller.start(bash(wait_for_other.format("two", "one")), environment)
    assert [only_result(caller.wait(each)) for each in (first, second)] == ["met\n", "met\n"]


def test_cells_of_two_interactions_queue(caller: Caller, environment: str) -> None:
    caller.create(python("order = []"), environment)
    cell = "import time\norder.append('{0} in')\ntime.sleep(0.5)\norder.append('{0} out')"
    running = [caller.start(python(cell.format(name)), environment) for name in "ab"]
    for each in running:
        assert caller.wait(each)["status"] == "completed"
    order = only_result(caller.create(python("order"), environment))
    assert order in ("['a in', 'a out', 'b in', 'b out']\n", "['b in', 'b out', 'a in', 'a out']\n")


def test_first_calls_of_two_interactions_share_one_new_sandbox(caller: Caller) -> None:
    begun = caller.create(bash("echo a >a; sleep 0.5; cat b"), "remote", background=True)
    other = caller.create(bash("echo b >b; sleep 0.5; cat a"), begun["environment_id"])
    assert only_result(other) == "a\n"
    assert only_result(caller.wait(begun["id"])) == "b\n"
    caller.delete_environment(begun["environment_id"])


def test_background_processes_outlive_their_call(caller: Caller) -> None:
    own = caller.new_environment(bash("python3 -m http.server 8000 >/dev/null 2>&1 &"))
    before = time.monotonic()
    fetched = caller.create(bash("sleep 0.5; curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8000/"), own)
    assert only_result(fetched) == "200"
    assert time.monotonic() - before < 10
    caller.delete_environment(own)


def test_file_tools(caller: Caller, environment: str) -> None:
    program = script(
        call("write_file", path="files/a.txt", content="eins\nzwei\ndrei\n"),
        call("edit_file", path="files/a.txt", old_text="zwei", new_text="2"),
        call("read_file", path="files/a.txt", first_line=2, line_count=1),
        call("search_files", pattern="d.ei", path="files"),
        call("list_files", path="files"),
        call("delete_file", path="files"),
        call("read_file", path="files/a.txt"),
        call("read_file", path="../../etc/shadow"),
        call("write_file", path="/etc/passwd", content="x"),
        call("edit_file", path="nothing", old="x"),
        call("no_such_tool"),
    )
    ended = caller.create(program, environment)
    assert ended["status"] == "completed"
    steps = results(ended)
    assert {step["type"] for step in steps} == {"function_result"}
    assert [step["is_error"] for step in steps] == [False] * 6 + [True] * 5
    texts = [text_of(step) for step in steps]
    assert texts[2] == "2\n"
    assert texts[3] == "/workspace/files/a.txt:3: drei\n"
    assert "a.txt" in texts[4]
    assert "files/a.txt" in texts[6]
    # Where sandboxes have disks, the image's own files are read-only for everybody.
    assert all("ermission denied" in text or "Read-only" in text for text in texts[7:9]), texts[7:9]
    assert "old_text" in texts[9]
    assert "code_execution" in texts[10]


def _check_png(data: bytes) -> None:
    """A valid PNG: signature, chunks with right checksums, image data that unpacks, an end."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, kinds, packed = 8, [], b""
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        assert zlib.crc32(kind + body) == checksum, kind
        packed += body if kind == b"IDAT" else b""
        kinds.append(kind)
        at += 12 + length
    assert (kinds[0], kinds[-1]) == (b"IHDR", b"IEND")
    assert zlib.decompress(packed)
