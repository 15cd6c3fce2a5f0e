"""Nothing that prove prints holds a password."""

import pytest

from stormproof.prove._secrets import without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at postgresql://me:pw@db/x", "at postgresql://***@db/x"),
        ("redis://:pw@h, redis://:qw@i", "redis://***@h, redis://***@i"),
        ("'http://u:p@ss@h/a@b'", "'http://***@h/a@b'"),
        ("https://key@sentry.example.com/1", "https://***@sentry.example.com/1"),
        ("host=h password=pw dbname=d", "host=h password=*** dbname=d"),
        ("connect(password='pw', port=1)", "connect(password='***', port=1)"),
        ("http://h/?api_key=k&a=b", "http://h/?api_key=***&a=b"),
        ("http://h:80/path and me@example.com", "http://h:80/path and me@example.com"),
    ],
)
def test_password_is_starred(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
