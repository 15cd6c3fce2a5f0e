"""What must not be printed: passwords in URLs and in connection strings."""

import re

_IN_URL = re.compile(r"(?<=://)[^\s/'\"]+(?=@)")
_IN_SETTING = re.compile(
    r"(?i)\b((?:password|passwd|pwd|secret|token|api_?key)\s*=\s*['\"]?)[^\s&;,'\"]+"
)


def without_secrets(text: str) -> str:
    """Return `text` with `***` where a URL has a user, or a connection string a password."""
    return _IN_SETTING.sub(r"\1***", _IN_URL.sub("***", text))
