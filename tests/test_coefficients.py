"""What estimates depend on the machine for: by default, measured, kept, damaged; and what it changes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import triconv
from triconv import coefficients as module
from triconv.benchmark import calibrate as calibrating
from triconv.coefficients import DEFAULT, Coefficients, coefficients, depending, keep, kept, use
from triconv.dispatch import ENGINES

MEASURED = replace(DEFAULT, cycles=3e9, winograd_called=1.0, fft_started=1.0)
GEOMETRY = ("conv", (4, 64, 28, 28), (72, 64, 3, 3))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where coefficients are kept: a folder that is not there yet."""
    monkeypatch.setenv("TRICONV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_suite_uses_the_default_ones() -> None:
    assert coefficients() == DEFAULT


def test_what_is_kept_is_read_by_this_user_alone(folder: Path) -> None:
    assert kept() is None
    path = Path(keep(MEASURED))
    assert kept() == MEASURED
    assert path.parent == folder
    assert list(folder.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keep(DEFAULT) == str(path)
    assert kept() == DEFAULT


def damaged(data: dict[str, Any]) -> dict[str, Any]:
    """Contents that no coefficients are read from, by what is wrong."""
    values = data["measured"]
    return {
        "emptied": "",
        "cut": json.dumps(data)[:-9],
        "no text": b"\xff\xfe\x00",
        "a list": [],
        "deep": "[" * 100_000,
        "another format": data | {"format": module.FORMAT + 1},
        "another processor": data | {"of": ["Z80", "host"]},
        "another target": data | {"of": [data["of"][0], "sse"]},
        "a list measured": data | {"measured": []},
        "nothing measured": {name: value for name, value in data.items() if name != "measured"},
        "no names": data | {"measured": [*values.values()]},
        "one missing": data | {"measured": {name: values[name] for name in list(values)[1:]}},
        "one more": data | {"measured": values | {"more": 1.0}},
        **{f"{value!r}": data | {"measured": values | {"cycles": value}} for value in WRONG},
    }


WRONG = (0, -1.0, float("nan"), float("inf"), True, None, "4e9", [4e9], 10**400)
KINDS = sorted(damaged({"format": 1, "of": ["a", "b"], "measured": asdict(DEFAULT)}))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("what", KINDS)
def test_a_damaged_or_foreign_file_is_ignored(what: str) -> None:
    path = Path(keep(MEASURED))
    content = damaged(json.loads(path.read_text()))[what]
    text = content if isinstance(content, (str, bytes)) else json.dumps(content)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    assert kept() is None
    keep(MEASURED)
    assert kept() == MEASURED


def test_a_file_that_others_can_write_is_ignored(folder: Path) -> None:
    path = Path(keep(MEASURED))
    path.chmod(0o602)
    assert kept() is None
    path.chmod(0o600)
    assert kept() == MEASURED
    folder.chmod(0o702)
    assert kept() is None


@pytest.mark.parametrize("place", ["", "file", "file/below"])
def test_where_nothing_can_be_kept_one_line_says_so(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("TRICONV_CACHE", place and str(tmp_path / place))
    with pytest.raises(OSError, match=r"^TRICONV_CACHE=.*: expected a folder of this user's own") as raised:
        keep(MEASURED)
    assert "\n" not in str(raised.value)
    assert kept() is None
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("value", WRONG)
def test_a_coefficient_is_above_zero(value: Any) -> None:
    with pytest.raises(ValueError, match=r"cycles=.*: expected a number above zero"):
        replace(DEFAULT, cycles=value)


def test_every_coefficient_says_what_it_is() -> None:
    for one in Coefficients.__dataclass_fields__.values():
        assert one.metadata["unit"] in ("1/s", "B/s", "s", "cycles")
        assert one.metadata["meaning"]


CHOICE = f"import triconv; print(triconv.explain(*{GEOMETRY!r}, padding=1).engine.name)"


def chosen(folder: Path, calibrated: str) -> str:
    environment = {**os.environ, "TRICONV_CACHE": str(folder), "TRICONV_CALIBRATED": calibrated}
    command = [sys.executable, "-c", CHOICE]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_the_next_process_chooses_by_what_was_kept(folder: Path) -> None:
    assert chosen(folder, "") == "winograd"
    keep(MEASURED)
    assert chosen(folder, "") == "direct"
    assert chosen(folder, "0") == "winograd"


@pytest.mark.usefixtures("default")
def test_other_coefficients_change_what_is_chosen_from_then_on() -> None:
    assert triconv.explain(*GEOMETRY, padding=1).engine.name == "winograd"
    use(MEASURED)
    plan = triconv.explain(*GEOMETRY, padding=1)
    assert plan.engine.name == "direct"
    use(DEFAULT)
    assert triconv.explain(*GEOMETRY, padding=1).engine.name == "winograd"


@pytest.mark.usefixtures("default")
def test_calls_that_were_ready_are_chosen_anew() -> None:
    """Transforms leave other roundings: what has been called before is computed as if it were called first."""
    _, visible, weight = GEOMETRY
    random = np.random.default_rng(0)
    x, w = (random.standard_normal(shape, np.float32) for shape in (visible, weight))
    triconv.conv(x, w, padding=1)
    use(MEASURED)
    expected = triconv.conv(x, w, padding=1, engine="direct")
    np.testing.assert_array_equal(triconv.conv(x, w, padding=1), expected)


@pytest.mark.usefixtures("default")
def test_what_depends_on_coefficients_is_forgotten_with_them() -> None:
    asked = []

    @depending(2)
    def twice(number: float) -> float:
        asked.append(number)
        return coefficients().cycles * number

    assert (twice(2), twice(2)) == (8e9, 8e9)
    use(MEASURED)
    assert (twice(2), asked) == (6e9, [2, 2])


@pytest.mark.usefixtures("default")
@pytest.mark.parametrize("name", list(asdict(DEFAULT)))
def test_a_slower_coefficient_makes_an_estimate_longer(name: str) -> None:
    large = triconv.explain("conv", (8, 64, 8000), (1, 64, 3)).problem
    halves = triconv.explain("conv", (64, 64, 2), (1, 64, 1), dtype="float16").why_not["im2row"]
    rate = "/s" in Coefficients.__dataclass_fields__[name].metadata["unit"]
    slower = replace(DEFAULT, **{name: getattr(DEFAULT, name) * (0.1 if rate else 10)})
    match name:
        case "converted":
            use(slower)
            assert triconv.explain("conv", (64, 64, 2), (1, 64, 1), dtype="float16").why_not["im2row"] != halves
        case "moved":
            before = ENGINES["direct"].cost(large)
            use(slower)
            assert ENGINES["direct"].cost(large) > 1.5 * before
        case _:
            probe = calibrating.PROBES[name]
            if name not in calibrating.able():
                pytest.skip(f"this machine has no {probe.engine}")
            assert probe.seconds(slower) > 1.5 * probe.seconds(DEFAULT)


def _lacking() -> set[str]:
    """Coefficients of engines that this machine has not."""
    return calibrating.PROBES.keys() - calibrating.able().keys()


@pytest.mark.usefixtures("default")
def test_coefficients_are_found_from_what_probes_take() -> None:
    """Of a machine that is slower here and faster there, from the times that its estimates say."""
    factors = ((name, 1.3 if number % 2 else 0.8) for number, name in enumerate(asdict(DEFAULT)))
    truth = replace(DEFAULT, **{name: factor * getattr(DEFAULT, name) for name, factor in factors})
    took = {name: probe.seconds(truth) for name, probe in calibrating.able().items()}
    rates = {name: getattr(truth, name) for name in calibrating.RATES}
    found = calibrating.fitted(replace(DEFAULT, **rates), took)
    for name, value in {**asdict(truth), **{name: getattr(DEFAULT, name) for name in _lacking()}}.items():
        assert asdict(found)[name] == pytest.approx(value, rel=0.02), name


def test_a_call_takes_what_it_takes_in_most_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a core is slower for a while, and where it is faster."""
    for taken, most in (([3.0, 1, 1, 9, 1, 1, 1, 1], 1), ([3.0, 3, 1, 3, 3, 1, 3, 3], 3)):
        assert len(taken) == calibrating.ROUNDS
        times = iter(taken)
        monkeypatch.setattr(calibrating, "_timed", lambda _, times=times: next(times))
        assert calibrating.typical({"cycles": lambda: None}, seconds=0.0) == {"cycles": most}


def test_what_is_found_where_the_default_ones_are_from_gives_these() -> None:
    assert calibrating.scaled(Coefficients(**calibrating.FOUND)) == DEFAULT
    twice = calibrating.scaled(Coefficients(**calibrating.FOUND | {"cycles": 2 * calibrating.FOUND["cycles"]}))
    assert twice == replace(DEFAULT, cycles=2 * DEFAULT.cycles)


@pytest.mark.usefixtures("default")
def test_what_no_machine_can_take_is_not_believed() -> None:
    took = {name: probe.seconds(DEFAULT) for name, probe in calibrating.able().items()}
    found = calibrating.fitted(DEFAULT, took | {"cycles": 100.0})
    assert found.cycles == DEFAULT.cycles


@pytest.mark.usefixtures("default")
def test_a_calibration_measures_each_coefficient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrating, "BYTES", 1 << 12)
    monkeypatch.setattr(calibrating, "FAR", 1 << 12)
    monkeypatch.setattr(calibrating, "MOVED", dict.fromkeys(calibrating.RATES, 3 << 12))
    seen: list[str] = []
    found = calibrating.calibrate(seen.append, seconds=0.0)
    assert sorted([*seen, *_lacking()]) == sorted(asdict(DEFAULT))
    assert all(value > 0 for value in asdict(found).values())
    assert coefficients() == found
