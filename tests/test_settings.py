"""Where settings come from, and what is said about a bad one."""

from pathlib import Path

import pytest

from stormproof.errors import InvalidSetting
from stormproof.settings import Settings, load_settings


def write_pyproject(folder: Path, text: str) -> Path:
    (folder / "pyproject.toml").write_text(text)
    return folder


def test_defaults_stand_where_nothing_is_set(tmp_path: Path) -> None:
    assert load_settings(environ={}, directory=tmp_path) == Settings(
        grace=30.0, prestop=5.0, deadline=30.0
    )


def test_call_goes_before_environment_goes_before_pyproject(tmp_path: Path) -> None:
    write_pyproject(tmp_path, "[tool.stormproof]\ngrace = 11\nprestop = 1\ndeadline = 3")
    environ = {"STORMPROOF_GRACE": "22", "STORMPROOF_PRESTOP": "2"}
    settings = load_settings(environ=environ, directory=tmp_path, grace=33.0, prestop=None)
    assert settings == Settings(grace=33.0, prestop=2.0, deadline=3.0)


@pytest.mark.parametrize("text", ["", "abc", "-1", "nan", "inf", "0"])
def test_bad_value_names_its_variable(text: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"STORMPROOF_GRACE must be a number of seconds"):
        load_settings(environ={"STORMPROOF_GRACE": text}, directory=tmp_path)


def test_zero_prestop_is_fine(tmp_path: Path) -> None:
    assert load_settings(environ={}, directory=tmp_path, prestop=0.0).prestop == 0.0


def test_prestop_must_be_less_than_grace(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"prestop .* must be less than grace"):
        load_settings(environ={"STORMPROOF_GRACE": "3"}, directory=tmp_path)


def test_unknown_name_in_pyproject_is_told_with_the_known_ones(tmp_path: Path) -> None:
    write_pyproject(tmp_path, "[tool.stormproof]\ngrce = 11")
    with pytest.raises(InvalidSetting, match=r"no setting 'grce'; there are deadline, grace"):
        load_settings(environ={}, directory=tmp_path)


def test_broken_pyproject_is_told(tmp_path: Path) -> None:
    write_pyproject(tmp_path, "[tool")
    with pytest.raises(InvalidSetting, match="is not valid TOML"):
        load_settings(environ={}, directory=tmp_path)


def test_text_where_a_number_belongs_is_told(tmp_path: Path) -> None:
    write_pyproject(tmp_path, "[tool.stormproof]\ngrace = [1]")
    with pytest.raises(InvalidSetting, match=r"\[tool.stormproof\] grace must be a number"):
        load_settings(environ={}, directory=tmp_path)
