"""Dependencies are found in the environment, only on this machine, and rerouted by it."""

import asyncio
import socket

import pytest

from stormproof.errors import InvalidSetting
from stormproof.prove.faults import dependencies, rerouted

FOUND = [
    ("postgresql+asyncpg://user:pw@localhost:5433/db?ssl=off", "localhost", 5433),
    ("postgresql://127.0.0.1/db", "127.0.0.1", 5432),
    ("redis://:secret@127.0.0.1", "127.0.0.1", 6379),
    ("rediss://[::1]:7000/0", "::1", 7000),
    ("http://localhost/base", "localhost", 80),
    ("https://127.1.2.3", "127.1.2.3", 443),
    ("amqp://guest:guest@localhost//", "localhost", 5672),
    ("mysql+aiomysql://root@LOCALHOST:3307", "LOCALHOST", 3307),
    ("odd://127.0.0.1:99", "127.0.0.1", 99),
    ("http://0.0.0.0:8080", "0.0.0.0", 8080),
    ("smtp://us%40er:p%40ss@localhost:1025", "localhost", 1025),
    ("postgresql://u:p@ss@localhost/db", "localhost", 5432),
    ("postgresql://u:p/s?s#s@localhost:5/db", "localhost", 5),
    ("postgresql://:/p/ss@[::1]:5/db", "::1", 5),
]

NONE = [
    "sqlite:///app.db",
    "sqlite+aiosqlite:////var/lib/app.db",
    "sqlite://",
    "file:///etc/hosts",
    "postgresql+asyncpg://user:pw@localhost/db?host=/run/socket",
    "postgresql+asyncpg://user:pw@/db?host=/run/socket",
    "postgresql://user@%2Frun%2Fsocket/db",
    "redis+unix:///run/redis.sock",
    "unix:/run/docker.sock",
    "odd://localhost",
    "/just/a/path",
    "127.0.0.1:80",
    "see https://example.com for more",
    "",
]


@pytest.mark.parametrize(("url", "host", "port"), FOUND)
def test_url_on_this_machine_is_a_dependency(url: str, host: str, port: int) -> None:
    (found,) = dependencies({"STORE_URL": url, "HOME": "/root"}, {})
    assert (found.name, found.host, found.port, found.url) == ("STORE_URL", host, port, url)


@pytest.mark.parametrize("value", NONE)
def test_what_is_not_reached_over_tcp_is_none(value: str) -> None:
    assert dependencies({"STORE_URL": value}, {}) == ()


@pytest.mark.parametrize("name", ["DATABASE_URL", "PEERS", "SENTRY_DSN", "BROKER", "store_uri"])
def test_any_variable_whose_value_is_a_url_counts(name: str) -> None:
    (found,) = dependencies({name: "redis://localhost"}, {})
    assert found.name == name


@pytest.mark.parametrize(
    "name",
    [
        *("HTTPS_PROXY", "http_proxy", "PIP_INDEX_URL", "UV_INDEX_URL", "GITHUB_SERVER_URL"),
        *("DB_PORT", "DB_PORT_5432_TCP", "DOCKER_HOST", "SSH_AUTH_SOCK", "CORS_ORIGINS"),
    ],
)
def test_variables_of_tools_and_platforms_are_left_alone(name: str) -> None:
    assert dependencies({name: "tcp://10.0.0.1:5432"}, {}) == ()


def test_list_gives_a_dependency_for_each() -> None:
    value = "http://127.0.0.1:1, http://localhost:2/a?b=c,d ,redis://127.0.0.1"
    found = dependencies({"UPSTREAMS": value}, {})
    assert [(one.name, one.port) for one in found] == [
        ("UPSTREAMS[0]", 1),
        ("UPSTREAMS[1]", 2),
        ("UPSTREAMS[2]", 6379),
    ]


def test_list_as_pydantic_settings_reads_it_gives_a_dependency_for_each() -> None:
    value = '["http://127.0.0.1:1/a", "http://localhost:2"]'
    found = dependencies({"UPSTREAMS": value}, {})
    assert [(one.name, one.url) for one in found] == [
        ("UPSTREAMS[0]", "http://127.0.0.1:1/a"),
        ("UPSTREAMS[1]", "http://localhost:2"),
    ]
    begin, end = found[1].span
    assert value[begin:end] == "localhost:2"


def test_url_of_several_hosts_gives_a_dependency_for_each() -> None:
    found = dependencies({"MONGO_URL": "mongodb://u:p@localhost:1,127.0.0.1/db"}, {})
    assert [(one.name, one.host, one.port) for one in found] == [
        ("MONGO_URL[0]", "localhost", 1),
        ("MONGO_URL[1]", "127.0.0.1", 27017),
    ]


@pytest.mark.parametrize(
    "value",
    [
        "postgresql://me:hunter2@db.example.com/x",
        "redis://10.0.0.7",
        "postgresql://me:hunter2/x@db.example.com/x",
        "redis://:hunter2/x@db.example.com",
        "http://127.0.0.1:1,http://192.168.1.9:2",
        "mongodb://localhost,other.example.com",
        "postgresql://me:hunter2@/x?host=db.example.com",
        "http://localhost.example.com",
        "http://127.0.0.1.example.com",
        "http://localhost@example.com",
        "http://[2001:db8::1]:80",
        '["http://127.0.0.1:1", "http://example.com"]',
        "postgresql://me:hunter2'[\"x@db.example.com/x",
    ],
)
def test_url_elsewhere_is_one_sentence_without_its_password(value: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        dependencies({"STORE_URL": value}, {})
    said = str(refused.value)
    assert "STORE_URL" in said
    assert "--allow-remote STORE_URL" in said
    assert "hunter2" not in said
    assert dependencies({"STORE_URL": value}, {}, allow_remote=("STORE_URL",)) == ()


def test_unknown_scheme_elsewhere_is_refused_by_the_name_of_its_variable() -> None:
    with pytest.raises(InvalidSetting, match=r"queue\.example\.com"):
        dependencies({"QUEUE_URL": "odd://queue.example.com"}, {})
    assert dependencies({"MOTTO": "odd://queue.example.com"}, {}) == ()


def test_one_of_a_list_may_be_allowed_to_be_remote() -> None:
    environ = {"UPSTREAMS": "http://127.0.0.1:1,http://example.com"}
    (found,) = dependencies(environ, {}, allow_remote=("UPSTREAMS[1]",))
    assert found.name == "UPSTREAMS[0]"


def test_given_dependency_takes_the_place_of_the_environments() -> None:
    environ = {"CACHE_URL": "redis://cache.example.com"}
    (found,) = dependencies(environ, {"CACHE_URL": "redis://localhost:7"}, allow_remote=())
    assert found.port == 7
    with pytest.raises(InvalidSetting, match="'CACHE_URL' is no URL"):
        dependencies({}, {"CACHE_URL": "localhost"})


def test_password_is_not_in_what_is_printed_of_a_dependency() -> None:
    (found,) = dependencies({"STORE_URL": "redis://:hunter2@localhost"}, {})
    assert "hunter2" not in repr(found)


async def test_rerouted_environment_leads_through_the_proxies() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        ports = [server.getsockname()[1] for server in (one, two)]
        environ = {
            "DATABASE_URL": f"postgresql+asyncpg://me:p%40ss@localhost:{ports[0]}/db?a=b",
            "UPSTREAMS": f"http://127.0.0.1:{ports[0]}/x,http://127.0.0.1:{ports[1]}",
            "OTHER": "1",
        }
        async with rerouted(dependencies(environ, {})) as (proxies, rewritten):
            assert set(proxies) == {"DATABASE_URL", "UPSTREAMS[0]", "UPSTREAMS[1]"}
            database, first, second = proxies.values()
            assert rewritten == {
                "DATABASE_URL": f"postgresql+asyncpg://me:p%40ss@127.0.0.1:{database.port}/db?a=b",
                "UPSTREAMS": f"http://127.0.0.1:{first.port}/x,http://127.0.0.1:{second.port}",
            }
            assert database.url == rewritten["DATABASE_URL"]
            assert second.url == f"http://127.0.0.1:{second.port}"
            await _passes(second.port, two)
            await _passes(first.port, one)
            assert (database.attempts, first.attempts, second.attempts) == (0, 1, 1)


async def test_both_families_of_localhost_are_tried() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"redis://localhost:{server.getsockname()[1]}"
        async with rerouted(dependencies({"CACHE_URL": url}, {})) as (proxies, _):
            await _passes(proxies["CACHE_URL"].port, server)


async def _passes(port: int, server: socket.socket) -> None:
    server.setblocking(False)
    loop = asyncio.get_running_loop()
    with socket.create_connection(("127.0.0.1", port)) as near:
        near.sendall(b"through")
        far, _ = await asyncio.wait_for(loop.sock_accept(server), 5.0)
        with far:
            assert await asyncio.wait_for(loop.sock_recv(far, 16), 5.0) == b"through"
