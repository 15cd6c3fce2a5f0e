"""Scenario files: what is read from them, and one sentence for each thing that is wrong."""

from pathlib import Path

import pytest

from stormproof.errors import InvalidSetting
from stormproof.prove import ProveOptions, Route
from stormproof.prove._scenario import load_scenario, merged, scenario_path

GOOD = """
[[request]]
path = "/items"
weight = 3

[[request]]
method = "post"
path = "/items"
json = { name = "a" }
kept = { path = "/items", contains = "a" }

[[request]]
path = "/items/7?full=1"
headers = { Authorization = "Bearer x" }
"""


def route(id: str) -> Route:
    method, path = id.split()
    return Route(id=id, method=method, path=path, url=path)


def written(folder: Path, text: str) -> Path:
    path = folder / "prove.toml"
    path.write_text(text)
    return path


def test_requests_belong_to_the_routes_whose_template_they_fit(tmp_path: Path) -> None:
    asked = load_scenario(written(tmp_path, GOOD))
    templates = tuple(route(id) for id in ("GET /items", "POST /items", "GET /items/{id}"))
    found = merged(asked, templates=templates, rest=(route("GET /items"), route("GET /other")))
    assert [each.id for each in found] == [
        "GET /items",
        "POST /items",
        "GET /items/{id}",
        "GET /other",
    ]
    read, write, one, _ = found
    assert (read.weight, read.is_promise) == (3.0, False)
    assert (write.body, write.is_promise) == ('{"name": "a"}', True)
    assert write.headers == {"content-type": "application/json"}
    assert write.kept == {"path": "/items", "contains": "a"}
    assert (one.url, one.headers) == ("/items/7?full=1", {"authorization": "Bearer x"})


def test_second_request_of_one_route_is_told_apart(tmp_path: Path) -> None:
    text = '[[request]]\npath = "/q?a=1"\n[[request]]\npath = "/q?a=2"\n'
    found = merged(load_scenario(written(tmp_path, text)), templates=(route("GET /q"),), rest=())
    assert [each.id for each in found] == ["GET /q", "GET /q #2"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no request"),
        ("[[request]\n", "is not valid TOML"),
        ('[[request]]\npath = "items"\n', 'begins with "/"'),
        ('[[request]]\npath = "/"\nmethod = "BREW"\n', "'BREW' is none of"),
        ('[[request]]\npath = "/"\nweight = 0\n', "weight must be a number above 0"),
        ('[[request]]\npath = "/"\nwieght = 1\n', "no key 'wieght'"),
        ('[[request]]\npath = "/"\nheaders = "a: b"\n', "headers must be a table"),
        ('[[request]]\npath = "/"\nkept = 1\n', "kept must be a table"),
        ('[[request]]\npath = "/"\nkept = { contains = "a" }\n', "kept must be a table"),
        ('[[request]]\npath = "/"\nkept = { path = "/", in = 1 }\n', "kept has no key 'in'"),
        ('[[request]]\npath = "/"\nkept = { path = "/", within = 0 }\n', "kept.within must be"),
    ],
)
def test_wrong_file_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidSetting, match=r"prove\.toml") as raised:
        load_scenario(written(tmp_path, text))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value).strip() or said == "is not valid TOML"


def test_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="cannot read scenario"):
        load_scenario(tmp_path / "none.toml")


def test_scenario_beside_the_module_is_found(tmp_path: Path) -> None:
    package = tmp_path / "shop"
    package.mkdir()
    path = written(package, GOOD)
    assert scenario_path(ProveOptions(app="shop.main:app", directory=tmp_path)) == path
    given = tmp_path / "other.toml"
    options = ProveOptions(app="shop.main:app", directory=tmp_path, scenario=given)
    assert scenario_path(options) == given
    assert scenario_path(ProveOptions(app="elsewhere:app", directory=tmp_path)) is None
