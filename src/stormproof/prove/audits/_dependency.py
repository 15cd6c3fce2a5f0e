"""What the audits of dependencies have in common: reading the record, wording it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stormproof.prove._audit import Judgement, not_applicable, not_measured
from stormproof.prove._recording import AttackRecord, Recording, Request

ATTACK = "dependencies"
ATTACKS = (ATTACK,)


@dataclass(frozen=True, slots=True)
class Faced:
    """One dependency as the attack left it: its name, the record, what was noted of it."""

    name: str
    record: AttackRecord
    noted: Mapping[str, Any]

    def group(self, *phases: str) -> tuple[Request, ...]:
        """Return the requests of these phases of this dependency."""
        return self.record.of_group(*(f"{phase}:{self.name}" for phase in phases))

    def mark(self, name: str) -> float | None:
        """Return when a phase of this dependency began or ended."""
        return self.record.marks.get(f"{name}:{self.name}")


def faced(recording: Recording) -> Iterator[Faced]:
    """Yield each dependency that was attacked and that some route was seen to use."""
    for record in recording.measured(ATTACK):
        for name, noted in record.facts.get("dependencies", {}).items():
            if noted.get("users"):
                yield Faced(name, record, noted)


def judged_with(judge: Callable[[list[Faced]], Judgement]) -> Callable[[Recording], Judgement]:
    """Return `judge` with the answers for the runs in which there is nothing to judge."""

    def whole(recording: Recording) -> Judgement:
        if not recording.dependencies:
            return not_applicable("no dependency on this machine was found")
        record = recording.attack(ATTACK)
        if record is None or record.problem:
            why = "was not played" if record is None else f"could not be run: {record.problem}"
            return not_measured(f"the attack on the dependencies {why}")
        found = list(faced(recording))
        if not found:
            names = ", ".join(recording.dependencies)
            return not_applicable(f"no route that was asked uses {names} while it answers")
        return judge(found)

    return whole


def death(found: Iterable[Faced], words: Mapping[str, str]) -> Judgement | None:
    """Return the fail of a server that ended in one of these phases, worded; None: it did not."""
    for each in found:
        phase = each.noted.get("died", "")
        if phase in words:
            return Judgement(
                outcome="fail",
                display=f"the server ended while {each.name} {words[phase]}",
                losses=first_lines(map(told, each.group(phase, f"{phase}-others"))),
                routes=tuple(each.noted["users"]),
            )
    return None


def told(request: Request) -> str:
    """Return one request as a line of evidence."""
    took = "" if request.latency is None else f" after {request.latency:.2f} s"
    match request.ended:
        case "complete":
            end = f"answered {request.status}"
        case "timeout":
            end = "was never answered: the client gave up"
        case "truncated":
            end = f"answered {request.status}, and the answer broke off"
        case "reset":
            end = "had its connection closed without an answer"
        case "refused":
            end = "was refused: the server did not listen"
        case _:
            end = request.ended
    return f"{request.route} {end}{took}"


def first_lines(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the first five."""
    return tuple(line for line, _ in zip(lines, range(5), strict=False))


def routes_of(requests: Iterable[Request]) -> tuple[str, ...]:
    """Return the routes of these requests, each once, in their order."""
    return tuple(dict.fromkeys(request.route for request in requests))
