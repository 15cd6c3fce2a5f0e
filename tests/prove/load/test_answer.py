"""The parser: every framing, cut at every byte, ends as it should."""

import pytest

from stormproof.prove.load._answer import AnswerParser, MalformedAnswer

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: 1\r\n\r\n"
)
SIZED = b"HTTP/1.1 200 OK\r\nX-Other: 1\r\ncontent-length: 11\r\n\r\nhello world"


def fed(raw: bytes, *, method: str = "GET", step: int = 0) -> tuple[AnswerParser, bytes]:
    parser, body = AnswerParser(), bytearray()
    parser.begin(method, body.extend)
    for start in range(0, len(raw), step or len(raw)):
        parser.feed(raw[start : start + (step or len(raw))])
    return parser, bytes(body)


@pytest.mark.parametrize("raw", [CHUNKED, SIZED])
@pytest.mark.parametrize("step", [0, 1, 2, 3, 7, 50])
def test_body_is_the_same_however_the_bytes_are_cut(raw: bytes, step: int) -> None:
    parser, body = fed(raw, step=step)
    assert (parser.is_complete, parser.has_final_chunk, parser.is_kept) == (True, True, True)
    assert (parser.status, body, parser.size_bytes) == (200, b"hello world", 11)
    assert not parser.has_leftover


@pytest.mark.parametrize("raw", [CHUNKED, SIZED])
def test_answer_that_lacks_any_byte_is_not_complete(raw: bytes) -> None:
    for end in range(1, len(raw)):
        parser, _ = fed(raw[:end])
        assert not parser.is_complete
        assert not parser.end_of_input()
        assert parser.has_begun


def test_only_headers_that_audits_read_are_kept() -> None:
    raw = b"HTTP/1.1 503 No\r\nDate: x\r\nRetry-After: 1\r\nConnection: close\r\nServer: y\r\n"
    parser, _ = fed(raw + b"Content-Length: 0\r\n\r\n")
    assert parser.headers == {"retry-after": "1", "connection": "close"}
    assert not parser.is_kept


@pytest.mark.parametrize(
    ("method", "raw"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"),
    ],
)
def test_answer_without_a_body_ends_with_its_head(method: str, raw: bytes) -> None:
    parser, body = fed(raw, method=method)
    assert parser.is_complete
    assert parser.is_kept
    assert body == b""


def test_interim_answers_are_passed_over() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    parser, _ = fed(interim)
    assert (parser.status, parser.has_begun) == (0, False)
    parser.feed(b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED)
    assert (parser.status, parser.is_complete) == (200, True)


def test_answer_without_a_length_ends_with_its_connection() -> None:
    parser, body = fed(b"HTTP/1.0 200 OK\r\n\r\nhello", step=1)
    assert not parser.is_complete
    assert parser.end_of_input()
    assert (body, parser.has_final_chunk, parser.is_kept) == (b"hello", False, False)


def test_bytes_after_the_answer_are_seen() -> None:
    parser, body = fed(SIZED + b"HTTP")
    assert parser.is_complete
    assert parser.has_leftover
    assert body == b"hello world"


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3, 4\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\naXX",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 9000,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000,
    ],
)
def test_garbage_is_told_from_an_answer(raw: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        fed(raw)


def test_many_small_chunks_in_one_read_are_cheap() -> None:
    """65,536 chunks of one byte: with a copy of the rest for each it would be 12 GB."""
    raw = CHUNKED.partition(b"5;x")[0] + b"1\r\na\r\n" * 65536 + b"0\r\n\r\n"
    parser, body = fed(raw)
    assert parser.is_complete
    assert len(body) == 65536
