"""Whether a folder of wheels has everything that is pinned."""

import importlib
from pathlib import Path

import pytest

wheels = importlib.import_module("image_build.wheels")
problem = importlib.import_module("image_build.problem")

PINS = {"python-dateutil": "4.0.0", "pyyaml": "6.0.3"}
DATEUTIL = "python_dateutil-4.0.0-py3-none-any.whl"
YAML = "PyYAML-6.0.3-cp311-cp311-manylinux2014_x86_64.whl"


def test_pins_are_normalised_and_comments_dropped() -> None:
    assert wheels.pins("# all\nPython_Dateutil==4.0.0  # why\n\nPyYAML==6.0.3\n") == PINS


@pytest.mark.parametrize(
    "line", ["numpy", "numpy>=2", "numpy==2.*", "-r other.txt", "numpy==2.1; python_version > '3'"]
)
def test_anything_but_a_pin_is_refused(line: str) -> None:
    with pytest.raises(problem.BuildProblem, match="not a pin"):
        wheels.pins(line)


@pytest.mark.parametrize(
    ("present", "absent"),
    [
        ([DATEUTIL, YAML], []),
        ([YAML], ["python-dateutil==4.0.0"]),
        ([DATEUTIL, "PyYAML-6.0.2-cp311-cp311-manylinux2014_x86_64.whl"], ["pyyaml==6.0.3"]),
        ([], ["python-dateutil==4.0.0", "pyyaml==6.0.3"]),
    ],
)
def test_missing_names_each_pin_without_its_wheel(present: list[str], absent: list[str]) -> None:
    assert wheels.missing(PINS, present) == absent


def test_selected_leaves_old_versions_behind() -> None:
    kept = [Path(DATEUTIL), Path(YAML)]
    assert (
        wheels.selected(PINS, [*kept, Path("python_dateutil-3.9.0-py3-none-any.whl"), Path("numpy-2.1-x.whl")]) == kept
    )


def test_an_unknown_architecture_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(problem.BuildProblem, match="riscv64"):
        wheels.download(tmp_path / "requirements.txt", tmp_path / "wheels", "riscv64")
    assert list(tmp_path.iterdir()) == []


def test_the_base_image_pins_what_it_promises() -> None:
    requirements = Path(__file__).resolve().parents[3] / "sandbox-images/base/requirements.txt"
    pinned = wheels.pins(requirements.read_text())
    assert {"numpy", "pandas", "matplotlib", "requests", "beautifulsoup4", "pyyaml"} <= set(pinned)
