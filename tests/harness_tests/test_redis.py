"""The real Valkey: it answers, stalls, dies, and comes back on its port."""

import pytest

from tests.harness import RedisServer, running_redis


def test_a_real_server_answers_and_is_empty(redis_server: RedisServer) -> None:
    assert redis_server.say("SET greeting hello") == b"+OK\r\n"
    redis_server.clear()
    assert redis_server.say("GET greeting") == b"$-1\r\n"


def test_it_dies_stalls_and_comes_back_on_its_port() -> None:
    with running_redis() as server:
        url = server.url
        server.kill()
        with pytest.raises(ConnectionRefusedError):
            server.say("PING")
        server.start()
        assert (server.say("PING"), server.url) == (b"+PONG\r\n", url)
        server.stall()  # and is killed all the same
    with pytest.raises(ConnectionRefusedError):
        server.say("PING")
