"""TLS settings: each way to get them wrong is one sentence before anything starts."""

from pathlib import Path

import pytest

from stormproof.errors import InvalidSetting
from stormproof.serve._tls import Tls, checked_tls
from tests.serve.certificates import make_certificate


def test_no_files_no_tls() -> None:
    assert checked_tls(None, None) is None


def test_certificate_and_its_key_are_accepted(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    key = tmp_path / "site.key"
    assert checked_tls(str(certificate), str(key)) == Tls(certfile=certificate, keyfile=key)
    both = tmp_path / "both.pem"
    both.write_text(certificate.read_text() + key.read_text())
    assert checked_tls(str(both), None) == Tls(certfile=both)


def test_key_alone_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="--ssl-keyfile is of no use without --ssl-certfile"):
        checked_tls(None, "site.key")


@pytest.mark.parametrize("missing", ["crt", "key"])
def test_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    certificate = make_certificate(tmp_path)
    (tmp_path / f"site.{missing}").unlink()
    option = {"crt": "--ssl-certfile", "key": "--ssl-keyfile"}[missing]
    with pytest.raises(InvalidSetting, match=rf"{option} .*site.{missing} cannot be read: No such"):
        checked_tls(str(certificate), str(tmp_path / "site.key"))


def test_folder_is_no_certificate(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="cannot be read: Is a directory"):
        checked_tls(str(tmp_path), None)


def test_key_of_another_certificate_is_said_to_be_so(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    make_certificate(tmp_path, "other")
    with pytest.raises(InvalidSetting, match=r"other.key does not belong to .*site.crt"):
        checked_tls(str(certificate), str(tmp_path / "other.key"))


def test_file_that_is_no_certificate(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(InvalidSetting, match="hold no PEM certificate with its private key"):
        checked_tls(str(text), None)


def test_passphrase_is_refused_not_asked_for(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, passphrase="secret")
    with pytest.raises(InvalidSetting, match="has a passphrase; give one without"):
        checked_tls(str(certificate), str(tmp_path / "site.key"))
