"""The report: terminal, HTML, JSON, JUnit and Markdown, all from one `Report`."""

from ._files import check_writable as check_writable
from ._files import write_whole as write_whole
from ._html import as_html as as_html
from ._json import as_json as as_json
from ._junit import as_junit as as_junit
from ._markdown import as_markdown as as_markdown
from ._terminal import as_text as as_text
from ._words import exit_code as exit_code
from ._words import one_line as one_line

__all__ = (
    "as_html",
    "as_json",
    "as_junit",
    "as_markdown",
    "as_text",
    "check_writable",
    "exit_code",
    "one_line",
    "write_whole",
)
