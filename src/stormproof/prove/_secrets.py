"""What must not be printed: passwords in URLs and in connection strings."""

import re

_SECRETS = (
    re.compile(r"(?<=://)[^\s/@:'\"]*:[^\s/'\"]*(?=@)"),  # user:password in an authority
    re.compile(r"(?i)(?<=password=)[^\s&'\"]+"),
    re.compile(r"(?i)(?<=[?&]token=)[^\s&'\"]+"),
)


def without_secrets(text: str) -> str:
    """Return `text` with `***` where a URL or a connection string holds a password."""
    for secret in _SECRETS:
        text = secret.sub("***", text)
    return text
