import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from stormproof._core.deadline import Deadline, in_force, remaining
from stormproof.errors import InvalidSetting, UpstreamFailed, UpstreamTimeout
from stormproof.upstream import FanOut, Upstream, fan_out
from tests.virtual_time import LoopClock, run_virtually, ticks

from .script import Script, Step, play


class Parts:
    """Makes parts that take their time, and knows when they began and what became of them."""

    def __init__(self) -> None:
        self.began: list[tuple[str, float]] = []
        self.ended: list[str] = []
        self.running = self.most_running = 0

    def part(
        self, name: str, seconds: float, error: Exception | None = None
    ) -> Callable[[], Awaitable[str]]:
        async def run() -> str:
            self.began.append((name, round(asyncio.get_running_loop().time() - 1000.0, 6)))
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            try:
                await asyncio.sleep(seconds)
            finally:
                self.running -= 1
                self.ended.append(name)
            if error is not None:
                raise error
            return name.upper()

        return run


@pytest.fixture
def parts() -> Parts:
    return Parts()


def test_values_come_in_the_order_of_the_calls(parts: Parts) -> None:
    async def main() -> FanOut[str]:
        return await fan_out({"a": parts.part("a", 3), "b": parts.part("b", 1)})

    result = run_virtually(main())
    assert list(result.values.items()) == [("a", "A"), ("b", "B")]
    assert result.is_complete
    assert parts.ended == ["b", "a"]


def test_optional_part_that_fails_comes_back_with_its_reason_and_fallback(parts: Parts) -> None:
    error = ValueError("no prices")

    async def main() -> FanOut[str]:
        return await fan_out(
            {
                "user": parts.part("user", 2),
                "prices": parts.part("prices", 1, error),
                "news": parts.part("news", 1, error),
            },
            required=("user",),
            fallback={"prices": "none"},
        )

    result = run_virtually(main())
    assert dict(result.values) == {"user": "USER", "prices": "none"}
    assert dict(result.errors) == {"prices": error, "news": error}
    assert not result.is_complete


def test_required_part_that_fails_cancels_the_rest_and_is_raised(parts: Parts) -> None:
    async def main() -> float:
        with pytest.raises(ValueError, match="no user"):
            await fan_out(
                {
                    "slow": parts.part("slow", 60),
                    "user": parts.part("user", 1, ValueError("no user")),
                    "later": parts.part("later", 60),
                },
                required=["user"],
                width=2,
            )
        assert parts.running == 0
        assert len(asyncio.all_tasks()) == 1
        return asyncio.get_running_loop().time()

    assert run_virtually(main()) == pytest.approx(1001.0)
    assert [name for name, _ in parts.began] == ["slow", "user"]


def test_first_failure_of_the_required_is_the_one_raised(parts: Parts) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="second"):
            await fan_out(
                {
                    "a": parts.part("a", 2, ValueError("first")),
                    "b": parts.part("b", 1, ValueError("second")),
                },
                required={"a", "b"},
            )

    run_virtually(main())


def test_width_bounds_how_many_run_and_keeps_their_order(parts: Parts) -> None:
    async def main() -> FanOut[str]:
        return await fan_out({name: parts.part(name, 1) for name in "abcde"}, width=2)

    assert list(run_virtually(main()).values) == list("abcde")
    assert parts.most_running == 2
    assert parts.began == [("a", 0.0), ("b", 0.0), ("c", 1.0), ("d", 1.0), ("e", 2.0)]


def test_time_over_keeps_what_came_and_names_the_rest(parts: Parts) -> None:
    async def main() -> FanOut[str]:
        return await fan_out(
            {name: parts.part(name, n) for n, name in enumerate("abc", start=1)},
            timeout=2.5,
            fallback={"c": "old"},
        )

    result = run_virtually(main())
    assert dict(result.values) == {"a": "A", "b": "B", "c": "old"}
    assert isinstance(result.errors["c"], UpstreamTimeout)
    assert "'c'" in str(result.errors["c"])
    assert parts.running == 0


def test_required_part_that_is_late_is_a_timeout(parts: Parts) -> None:
    async def main() -> None:
        with pytest.raises(UpstreamTimeout, match=r"'a' .* not done in 1\.000 s"):
            await fan_out({"a": parts.part("a", 9)}, required=["a"], timeout=1.0)

    run_virtually(main())


def test_parts_share_the_deadline_and_know_it(parts: Parts) -> None:
    async def told() -> float | None:
        return remaining()

    async def main() -> None:
        clock = LoopClock()
        assert (await fan_out({"a": told}, timeout=3.0)).values["a"] == pytest.approx(3.0)
        with in_force(Deadline(clock.now() + 2.0, clock=clock)):
            result = await fan_out({"a": told, "slow": parts.part("slow", 9)}, timeout=3.0)
            assert result.values["a"] == pytest.approx(2.0)
            assert isinstance(result.errors["slow"], UpstreamTimeout)
            assert (await fan_out({"a": told})).errors  # the deadline has passed by now

    run_virtually(main())


def test_part_that_is_cancelled_from_inside_is_a_failure_of_that_part(parts: Parts) -> None:
    async def killed() -> str:
        task = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        task.cancel()
        await task
        return "never"

    async def main() -> FanOut[str]:
        return await fan_out({"a": killed, "b": parts.part("b", 1)}, width=1)

    result = run_virtually(main())
    assert dict(result.values) == {"b": "B"}
    assert isinstance(result.errors["a"], UpstreamFailed)


def test_nothing_to_do_is_complete() -> None:
    async def main() -> FanOut[str]:
        return await fan_out({})

    assert run_virtually(main()).is_complete


@pytest.mark.parametrize("after", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("more_ticks", range(6))
@pytest.mark.parametrize("width", [None, 1])
def test_cancelled_at_any_moment_leaves_nothing_behind(
    after: float, more_ticks: int, width: int | None
) -> None:
    parts = Parts()

    async def main() -> None:
        calls = {"a": parts.part("a", 1), "b": parts.part("b", 2, ValueError())}
        waiting = asyncio.create_task(fan_out(calls, required=["b"], width=width))
        await asyncio.sleep(after)
        await ticks(more_ticks)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError, ValueError):
            await waiting
        assert parts.running == 0
        assert len(asyncio.all_tasks()) == 1

    run_virtually(main())


def test_cancelled_while_it_reaps_still_reaps_and_stays_cancelled() -> None:
    """A part that cleans up for 5 s; a required one fails; the caller leaves meanwhile."""
    cleaned: list[float] = []

    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(5)
            cleaned.append(asyncio.get_running_loop().time())

    async def fails() -> None:
        await asyncio.sleep(1)
        raise ValueError

    async def main() -> None:
        waiting = asyncio.create_task(fan_out({"a": stubborn, "b": fails}, required=["b"]))
        await asyncio.sleep(2)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert len(asyncio.all_tasks()) == 1

    run_virtually(main())
    assert len(cleaned) <= 1  # the second cancellation may cut the clean-up, never leave it alone


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"required": ["b"]}, "required has 'b'"),
        ({"required": "a"}, "collection of names"),
        ({"fallback": {"b": 1}}, "fallback has 'b'"),
        ({"required": ["a"], "fallback": {"a": 1}}, "fallback has 'a'"),
        ({"timeout": 0}, "timeout"),
        ({"width": 0}, "width"),
    ],
)
async def test_unusable_arguments_are_named(
    parts: Parts, settings: dict[str, object], words: str
) -> None:
    with pytest.raises(InvalidSetting, match=words):
        await fan_out({"a": parts.part("a", 1)}, **settings)  # type: ignore[arg-type]
    assert parts.began == []


def test_gather_raises_what_a_required_call_failed_by_and_cancels_the_rest() -> None:
    async def main(upstream: Upstream) -> None:
        with pytest.raises(UpstreamFailed, match="answered 503 on GET http://a/user"):
            await upstream.gather({"news": "/news", "user": "/user"}, required=["user"])
        assert upstream.statistics().in_flight == 0

    script = Script([Step(200, delay=9.0), Step(503, delay=1.0)])
    play(script, main)
    assert (script.cancelled, script.running) == (1, 0)


def test_gather_of_a_width_keeps_one_time_for_all() -> None:
    async def main(upstream: Upstream) -> None:
        results = await upstream.gather("/a", "/b", "/c", width=1, timeout=2.5)
        assert list(results.values) == ["/a", "/b"]
        assert "within 0.500 s" in str(results.errors["/c"])

    script = Script([Step(200, delay=1.0)])
    play(script, main)
    assert script.asked_at == [0.0, 1.0, 2.0]
    assert script.told == ["2.500", "1.500", "0.500"]


async def test_gather_names_what_it_cannot_use(upstream: Upstream) -> None:
    with pytest.raises(InvalidSetting, match="required has 'c'"):
        await upstream.gather("/a", required=["c"])
    with pytest.raises(InvalidSetting, match="width"):
        await upstream.gather("/a", width=0)
