"""The process's limit of open files: the one place that raises it, for loads of many sockets."""

import resource

_OTHERS = 256
"""Left for everything that is no connection of the load."""


def allow_connections(count: int) -> None:
    """Raise the soft limit of open files so that `count` connections fit, as far as is allowed.

    It is never lowered again: loads may run side by side. The app does not inherit it: `target`
    gives it the limit this process began with.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _OTHERS
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
