"""Certificates for tests, made by the `openssl` command."""

import shutil
import subprocess
from pathlib import Path

import pytest


def make_certificate(folder: Path, name: str = "site", *, passphrase: str | None = None) -> Path:
    """Write `<name>.crt` and `<name>.key` for localhost into `folder`; returns the certificate."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command is not installed")
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    secret = ["-nodes"] if passphrase is None else ["-passout", f"pass:{passphrase}"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
    command += ["ec_paramgen_curve:prime256v1", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate), *secret]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return certificate
