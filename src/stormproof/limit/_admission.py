"""`Admission`: which request needs a slot or has a rate limit, before the app sees it."""

from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeAlias

from stormproof._arguments import check_count
from stormproof._core.asgi import Scope
from stormproof._core.events import Events
from stormproof._core.primitives import register
from stormproof.errors import InvalidSetting

from ._adaptive import Adaptive
from ._limiter import Limiter
from ._rate import RateLimit
from ._statistics import AdmissionStatistics
from ._works import Work

HEALTH_PATHS = ("/livez", "/readyz", "/startupz", "/healthz", "/health")
"""Where probes ask; they are never made to wait, or a busy service would look dead."""


class Gate(Protocol):
    """What hands out slots: a `Limiter` or an `Adaptive`."""

    events: Events | None

    def slot(
        self, key: Hashable | None = None, priority: int = 0, work: Work | None = None
    ) -> AbstractAsyncContextManager[None]:
        """Hold one slot inside `async with`; raises when there is none in time."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionRule:
    """What holds for the requests below one path.

    Attributes:
        prefix: The path and all below it: "/reports" is for "/reports" and "/reports/7", not
            for "/reports-old". The longest prefix that fits wins.
        priority: As for `Limiter.slot`; 0 is for what matters most.
        limiter: The limiter of these requests, if not that of the service.
        rate: The rate limit of these requests, if not that of the service.
        is_exempt: Whether they need no slot and have no rate limit at all.
    """

    prefix: str
    priority: int = 0
    limiter: Gate | None = None
    rate: RateLimit | None = None
    is_exempt: bool = False

    def __post_init__(self) -> None:
        check_count("AdmissionRule", least=0, priority=self.priority)
        if not self.prefix.startswith("/"):
            raise InvalidSetting(f"AdmissionRule(prefix={self.prefix!r}) must begin with a slash")

    def is_for(self, path: str) -> bool:
        """Return whether `path` is the prefix or below it."""
        prefix = self.prefix.rstrip("/")
        return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/")


Terms: TypeAlias = tuple[AbstractAsyncContextManager[None] | None, RateLimit | None]

_FREE: Terms = (None, None)
_NO_RULE = AdmissionRule(prefix="/")
_EXEMPT = AdmissionRule(prefix="/", is_exempt=True)


class Admission:
    """A limiter in front of the app: who gets no slot is answered 503 before anything is done.

    To be given to `install(app, admission=...)`, or to an `AdmissionMiddleware`.

    Args:
        limiter: Whose slots the requests need; None: only what a rule gives one.
        rate: What each caller may do; who is over it is answered 429 and asks for no slot.
        rules: What is different below some paths.
        exempt: Paths that need no slot; the default are those that probes ask for.
        key: Gives the key of a request (tenant, user, host) from its ASGI scope, for lines that
            take turns; None: all are in one line.
        cancel_on_disconnect: Methods whose handlers are cancelled when their client leaves
            before the response has begun; `()` for none. A handler that writes should finish,
            so the default is what only reads.
        name: What metrics call it.

    Raises:
        InvalidSetting: A priority is no whole number of 0 or more, or a prefix is no path.

    versionadded: 0.1
    """

    __slots__ = (
        "__weakref__",
        "_exempt",
        "_rules",
        "admitted",
        "cancel_on_disconnect",
        "cancelled",
        "gone",
        "key",
        "limiter",
        "name",
        "rate",
        "refusals",
        "route_of",
    )

    def __init__(
        self,
        limiter: Gate | None = None,
        *,
        rate: RateLimit | None = None,
        rules: Sequence[AdmissionRule] = (),
        exempt: Collection[str] = HEALTH_PATHS,
        key: Callable[[Scope], Hashable | None] | None = None,
        cancel_on_disconnect: Collection[str] = ("GET", "HEAD"),
        name: str = "admission",
    ) -> None:
        self.name = name
        self.admitted = self.gone = self.cancelled = 0  # counted by the middleware
        self.refusals: dict[str, int] = {}
        # Tells the route of a request, so that each has a mean of its own; `install` sets it.
        self.route_of: Callable[[Scope], Hashable | None] | None = None
        self.limiter = limiter
        self.rate = rate
        self.key = key
        self.cancel_on_disconnect = frozenset(cancel_on_disconnect)
        self._exempt = frozenset(exempt)
        self._rules = sorted(rules, key=lambda rule: -len(rule.prefix))
        register("admission", self)

    def terms(self, scope: Scope) -> Terms:
        """Return what the request of `scope` needs: a slot, a call of a rate limit, or nothing."""
        rule = self._rule_of(scope["path"])
        if rule.is_exempt:
            return _FREE
        limiter, rate = rule.limiter or self.limiter, rule.rate or self.rate
        if limiter is None:
            return None, rate
        key = None if self.key is None else self.key(scope)
        work = None if self.route_of is None else partial(self.route_of, scope)
        return limiter.slot(key, rule.priority, work), rate

    def rate_of(self, path: str) -> RateLimit | None:
        """Return the rate limit that requests for `path` are counted against, or None."""
        rule = self._rule_of(path)
        return None if rule.is_exempt else rule.rate or self.rate

    def _rule_of(self, path: str) -> AdmissionRule:
        if path in self._exempt:
            return _EXEMPT
        return next((rule for rule in self._rules if rule.is_for(path)), _NO_RULE)

    def refused(self, reason: str | None) -> None:
        """Count a request that was answered in place of the app."""
        reason = reason or "other"
        self.refusals[reason] = self.refusals.get(reason, 0) + 1

    def statistics(self) -> AdmissionStatistics:
        """Return what has become of the requests that it was for; for a scrape, at any time."""
        refusals = dict(self.refusals)
        return AdmissionStatistics(self.admitted, refusals, self.gone, self.cancelled)

    def rates(self) -> set[RateLimit]:
        """Return its rate limits, those of its rules too."""
        rates = (self.rate, *(rule.rate for rule in self._rules))
        return {rate for rate in rates if rate is not None}

    def report_to(self, events: Events) -> None:
        """Let the limits that have no listener yet tell `events` of what they refuse."""
        own: list[Gate | RateLimit | None] = [self.limiter, self.rate]
        for rule in self._rules:
            own += (rule.limiter, rule.rate)
        for limit in own:
            if limit is not None and limit.events is None:
                limit.events = events


def admission_of(given: object, events: Events) -> Admission:
    """Return `given`, or for a limiter the admission that is for all requests; tells `events`.

    Raises:
        InvalidSetting: `given` is neither.
    """
    admission = Admission(given) if isinstance(given, Limiter | Adaptive) else given
    if not isinstance(admission, Admission):
        raise InvalidSetting(
            f"admission must be an Admission or a Limiter, not {type(given).__name__}"
        )
    admission.report_to(events)
    return admission
