"""A recording in a file: it comes back exactly, and a wrong file is one clear sentence."""

import gzip
import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stormproof.errors import InvalidSetting
from stormproof.prove._recording import (
    AgentEvent,
    AttackRecord,
    Exit,
    Probe,
    Recording,
    Request,
    Route,
    Sample,
)
from stormproof.prove._store import load_recording, save_recording

words = st.text(max_size=12)
seconds = st.floats(allow_nan=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | seconds | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
few = st.dictionaries(words, words, max_size=2)
requests = st.builds(
    Request,
    intended_at=seconds,
    route=words,
    group=words,
    sent_at=st.none() | seconds,
    headers=few,
    note=words,
)
attacks = st.builds(
    AttackRecord,
    name=words,
    marks=st.dictionaries(words, seconds, max_size=2),
    requests=st.lists(requests, max_size=4).map(tuple),
    canary=st.lists(st.builds(Probe), max_size=4).map(tuple),
    samples=st.lists(st.builds(Sample), max_size=4).map(tuple),
    events=st.lists(
        st.builds(AgentEvent, facts=st.dictionaries(words, json_values, max_size=3)), max_size=3
    ).map(tuple),
    facts=st.dictionaries(words, json_values, max_size=3),
    exit=st.none() | st.builds(Exit),
    problem=words,
)
recordings = st.builds(
    Recording,
    machine=few,
    profile=st.dictionaries(words, json_values, max_size=3),
    dependencies=st.lists(words, max_size=2).map(tuple),
    routes=st.lists(st.builds(Route, uses=st.lists(words).map(tuple)), max_size=3).map(tuple),
    attacks=st.lists(attacks, max_size=3).map(tuple),
    schema=st.just(1),
)
st.register_type_strategy(float, seconds)


def small_recording(**changes: Any) -> Recording:
    rows = tuple(
        Request(
            id=number,
            route="GET /",
            group="steady",
            intended_at=number / 7,
            sent_at=None,
            first_byte_at=None,
            last_byte_at=None,
            status=200,
            ended="complete",
        )
        for number in range(50)
    )
    attack = AttackRecord(name="drain", requests=rows, samples=(Sample(0.1, 5, 1, 2, 0.0, 1),))
    fields: dict[str, Any] = {
        "app": "main:app",
        "server": "uvicorn",
        "stormproof": "0.1.0",
        "started": "2026-01-01T00:00:00Z",
        "machine": {"cores": "2"},
        "profile": {"grace": 30.0},
        "attacks": (attack,),
    }
    return Recording(**(fields | changes))


@pytest.mark.parametrize("name", ["run.json", "run.json.gz"])
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(recording=recordings)
def test_recording_comes_back_exactly_as_it_was(
    tmp_path: Path, name: str, recording: Recording
) -> None:
    path = tmp_path / name
    save_recording(recording, path)
    again = load_recording(path)
    assert again == recording
    assert repr(again) == repr(recording), "an int came back as a float, or a list as a tuple"


def test_zero_keeps_its_sign(tmp_path: Path) -> None:
    attack = AttackRecord(name="drain", canary=(Probe(0.0, 0.0, 0), Probe(-0.0, 0.0, 0)))
    save_recording(small_recording(attacks=(attack,)), tmp_path / "run.json")
    again = load_recording(tmp_path / "run.json").attacks[0].canary
    assert [math.copysign(1, probe.at) for probe in again] == [1, -1]


def test_times_that_never_end_survive(tmp_path: Path) -> None:
    recording = small_recording(profile={"grace": math.inf})
    save_recording(recording, tmp_path / "run.json")
    assert load_recording(tmp_path / "run.json") == recording


def test_name_decides_about_gzip_and_the_content_about_reading(tmp_path: Path) -> None:
    plain, packed = tmp_path / "run.json", tmp_path / "run.json.gz"
    save_recording(small_recording(), plain)
    save_recording(small_recording(), packed)
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    renamed = packed.rename(tmp_path / "other.json")
    assert load_recording(renamed) == small_recording()


def test_requests_are_stored_by_column(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    save_recording(small_recording(), path)
    stored = json.loads(path.read_text())["attacks"][0]["requests"]
    assert stored["count"] == 50
    assert stored["columns"]["route"] == {"all": "GET /"}
    assert len(stored["columns"]["id"]) == 50


def content_of(recording: Recording) -> bytes:
    with TemporaryDirectory() as folder:
        save_recording(recording, Path(folder, "run.json"))
        return Path(folder, "run.json").read_bytes()


def damaged(change: str) -> bytes:
    """Return the bytes of a recording with one thing wrong."""
    value = json.loads(content_of(small_recording()))
    attack = value["attacks"][0]
    columns = attack["requests"]["columns"]
    match change:
        case "other-schema":
            value["schema"] = 99
        case "no-attacks":
            del value["attacks"]
        case "unknown-field":
            value["<script>"] = 1
        case "text-for-number":
            attack["began_at"] = "noon"
        case "yes-for-number":
            attack["round"] = True
        case "short-column":
            columns["id"].pop()
        case "no-count":
            attack["requests"]["count"] = -1
        case "missing-column":
            del columns["status"]
        case "unknown-ending":
            columns["ended"] = {"all": "vanished"}
        case "list-for-object":
            value["machine"] = []
        case "object-for-list":
            value["routes"] = {}
    return json.dumps(value).encode()


DAMAGED = {
    "other-schema": "schema 99",
    "no-attacks": "not a recording",
    "unknown-field": "does not know",
    "text-for-number": "recording.attacks[0].began_at is 'noon', not float",
    "yes-for-number": "not int",
    "short-column": "does not hold 50 values",
    "no-count": "count",
    "missing-column": "has no 'status'",
    "unknown-ending": "vanished",
    "list-for-object": "not an object",
    "object-for-list": "not a list",
}


@pytest.mark.parametrize("change", DAMAGED)
def test_wrong_recording_is_one_clear_sentence(tmp_path: Path, change: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(damaged(change))
    assert_one_sentence(path, DAMAGED[change])


CONTENTS = {
    "empty": (b"", "not a recording"),
    "text": (b"hello\nworld", "not a recording"),
    "bytes": (bytes(range(128, 256)), "not a recording"),
    "a list": (b"[1, 2]", "not a recording"),
    "deep": (b"[" * 200_000, "not a recording"),
    "half of a gzip": (gzip.compress(b"x" * 100_000)[:60], "ends too early"),
    "not quite gzip": (b"\x1f\x8bnothing of the kind", "cannot be read"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_damaged_file_is_one_clear_sentence(tmp_path: Path, name: str) -> None:
    content, said = CONTENTS[name]
    path = tmp_path / "run.json.gz"
    path.write_bytes(content)
    assert_one_sentence(path, said)


def test_missing_file_and_folder_are_one_clear_sentence(tmp_path: Path) -> None:
    assert_one_sentence(tmp_path / "nowhere.json", "No such file")
    assert_one_sentence(tmp_path, "Is a directory")


def test_file_that_cannot_be_written_is_one_clear_sentence_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    target = tmp_path / "taken"
    target.mkdir()
    with pytest.raises(InvalidSetting, match="cannot be written"):
        save_recording(small_recording(), target)
    with pytest.raises(InvalidSetting, match="cannot be written"):
        save_recording(small_recording(), tmp_path / "nowhere" / "run.json")
    assert list(tmp_path.iterdir()) == [target]


def test_failed_write_keeps_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    save_recording(small_recording(), path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_recording(small_recording(profile={"grace": object()}), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def assert_one_sentence(path: Path, said: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        load_recording(path)
    assert said in str(caught.value)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
