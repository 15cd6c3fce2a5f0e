"""TLS: the certificate and its key, tried before anything is started."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from stormproof.errors import InvalidSetting


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """A certificate and its key, both PEM files.

    Attributes:
        certfile: The certificate, with what lies between it and the authority.
        keyfile: Its private key without a passphrase; None: it is in `certfile`, too.
    """

    certfile: Path
    keyfile: Path | None = None


def checked_tls(certfile: str | None, keyfile: str | None) -> Tls | None:
    """Return what to serve TLS with, or None when neither file is given.

    Raises:
        InvalidSetting: A file is missing or cannot be read, is no PEM file of its kind, wants
            a passphrase, or the key does not belong to the certificate.
    """
    if certfile is None:
        if keyfile is not None:
            raise InvalidSetting("--ssl-keyfile is of no use without --ssl-certfile")
        return None
    tls = Tls(certfile=Path(certfile), keyfile=None if keyfile is None else Path(keyfile))
    _check_readable("--ssl-certfile", tls.certfile)
    if tls.keyfile is not None:
        _check_readable("--ssl-keyfile", tls.keyfile)
    _check_pair(tls)
    return tls


def _check_readable(option: str, path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as exc:
        raise InvalidSetting(f"{option} {path} cannot be read: {exc.strerror}") from exc


def _check_pair(tls: Tls) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    key = tls.keyfile or tls.certfile
    try:
        # Without a password function the library would ask for one at the terminal.
        context.load_cert_chain(tls.certfile, tls.keyfile, password=_refuse_passphrase)
    except _PassphraseWanted:
        raise InvalidSetting(f"the key in {key} has a passphrase; give one without") from None
    except ssl.SSLError as exc:
        if "KEY_VALUES_MISMATCH" in str(exc):
            reason = f"the key in {key} does not belong to the certificate in {tls.certfile}"
        else:
            reason = f"{tls.certfile} and {key} hold no PEM certificate with its private key"
        raise InvalidSetting(f"{reason} (--ssl-certfile, --ssl-keyfile)") from exc


class _PassphraseWanted(Exception):
    """OpenSSL has asked for a passphrase."""


def _refuse_passphrase() -> str:
    raise _PassphraseWanted
