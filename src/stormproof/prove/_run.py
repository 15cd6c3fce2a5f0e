"""A run: the attacks that the audits need, and again those where noise may have spoken."""

import asyncio
import os
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from stormproof.errors import CouldNotProve, InvalidSetting

from ._attack import Attack, Grounds, Scene
from ._audit import Report
from ._judge import chosen, is_to_repeat, judge
from ._options import ProveOptions
from ._play import play
from ._progress import Progress, ProgressState
from ._recording import AttackRecord, Recording, Route
from ._scenario import load_scenario, scenario_path
from .attacks import ATTACKS
from .audits import AUDITS

_BASELINE = "baseline"
_BESIDE = "patience"
"""The attack that only waits, and so may run beside those that time nothing."""

_TIMED = frozenset({"overload", "concurrency", "threads", "dependencies"})
"""Attacks whose figures need the machine for themselves."""

OnProgress = Callable[[Progress], None]


async def prove(options: ProveOptions, *, on_progress: OnProgress | None = None) -> Report:
    """Attack an app and return what was found.

    Waits about two minutes for the default set. Cancelled: the app's processes are ended and
    nothing is returned.

    Raises:
        InvalidSetting: An option is wrong; says which.
        CouldNotProve: The app could not be started or answers nothing that could be lost.
    """
    _check(options)
    run = _Run(options=options, on_progress=on_progress or (lambda _: None))
    wanted = {name for audit in chosen(options.only, options.skip) for name in audit.attacks}
    run.plan = [attack for attack in ATTACKS if attack.name in wanted or attack.name == _BASELINE]
    await run.first_round()
    await run.repetitions()
    return run.report()


def _check(options: ProveOptions) -> None:
    known = {audit.id for audit in AUDITS}
    for option, ids in (("--only", options.only), ("--skip", options.skip)):
        if unknown := sorted(set(ids) - known):
            raise InvalidSetting(f"{option}: there is no audit {unknown[0]!r}; --list shows all")
    if not chosen(options.only, options.skip):
        raise InvalidSetting("no audit is left to make; --list shows all")
    if bool(options.app) == bool(options.command):
        raise InvalidSetting("prove wants an app, module:app, or --command, and not both")
    if (path := scenario_path(options)) is not None:
        load_scenario(path)


@dataclass(slots=True)
class _Run:
    options: ProveOptions
    on_progress: OnProgress
    plan: list[Attack] = field(default_factory=list)
    routes: tuple[Route, ...] = ()
    records: list[AttackRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    zero: float = field(default_factory=time.monotonic)
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    has_agent: bool = False
    dependencies: tuple[str, ...] = ()
    done: int = 0

    async def first_round(self) -> None:
        """Play every attack once; the patient one goes on beside those that time nothing.

        In a hurry, these go on beside each other, and what only waits beside all the others.
        """
        baseline, rest = self.plan[0], self.plan[1:]
        scene = await self._play(baseline)
        if problem := self.records[-1].problem:
            raise CouldNotProve(f"the app could not be learned: {problem}")
        self._take(scene)
        beside = [attack for attack in rest if attack.name == _BESIDE]
        untimed = [attack for attack in rest if attack.name not in {_BESIDE, *_TIMED}]
        timed = [attack for attack in rest if attack.name in _TIMED]
        async with asyncio.TaskGroup() as group:
            for attack in beside:
                group.create_task(self._play_on(attack))
            if self.options.is_quick:
                await self._hurry(group, untimed)
                await self._in_turn(timed)
            else:
                await self._in_turn(untimed)
        if not self.options.is_quick:
            await self._in_turn(timed)

    async def _in_turn(self, attacks: Iterable[Attack]) -> None:
        for attack in attacks:
            await self._play_on(attack)

    async def _hurry(self, group: asyncio.TaskGroup, attacks: Iterable[Attack]) -> None:
        """Play these beside each other; go on when each has ended or only waits."""
        going: list[asyncio.Task[object]] = []
        for attack in attacks:
            resting = asyncio.Event()
            group.create_task(self._play_on(attack, resting=resting))
            going.append(group.create_task(resting.wait()))
        if going:
            await asyncio.wait(going)

    async def repetitions(self) -> None:
        """Play the attacks of timed audits that failed again, until one disagrees."""
        for number in range(1, 1 if self.options.is_quick else self.options.runs):
            failed = [finding for finding in self.report().findings if is_to_repeat(finding)]
            names = {
                name
                for finding in failed
                if finding.verdict != "unstable" and finding.rounds == number
                for name in finding.audit.attacks
                if name != _BASELINE
            }
            if not names:
                return
            self._say(_BASELINE, "note", text="what failed by the clock is tried again")
            for attack in self.plan:
                if attack.name in names:
                    await self._play_on(attack, round=number)

    def report(self) -> Report:
        return judge(self._recording(), only=self.options.only, skip=self.options.skip)

    async def _play(
        self, attack: Attack, *, round: int = 0, resting: asyncio.Event | None = None
    ) -> Scene:
        self._say(attack.name, "begun")
        record, scene = await play(
            attack,
            options=self.options,
            routes=self.routes,
            zero=self.zero,
            round=round,
            resting=resting,
        )
        self.records.append(record)
        self.done += 1
        self._say(attack.name, "ended", text=record.problem)
        return scene

    async def _play_on(
        self, attack: Attack, *, round: int = 0, resting: asyncio.Event | None = None
    ) -> None:
        """Play an attack; where it has nothing to do, or no app to do it to, that is the record."""
        resting = resting or asyncio.Event()
        try:
            if unfit := attack.fits(self._grounds()):
                self._note(attack, round, unfit=unfit)
            else:
                await self._play(attack, round=round, resting=resting)
        except CouldNotProve as error:
            self._note(attack, round, problem=str(error))
        finally:
            resting.set()

    def _note(self, attack: Attack, round: int, *, problem: str = "", unfit: str = "") -> None:
        """Record an attack that was not played."""
        now = time.monotonic() - self.zero
        self.records.append(
            AttackRecord(
                name=attack.name,
                round=round,
                began_at=now,
                ended_at=now,
                problem=problem,
                unfit=unfit,
            )
        )
        self.done += 1

    def _grounds(self) -> Grounds:
        return Grounds(routes=self.routes, dependencies=self.dependencies, has_agent=self.has_agent)

    def _take(self, scene: Scene) -> None:
        self.routes = scene.routes
        self.notes += scene.facts.get("notes", [])
        self.has_agent = scene.agent is not None
        self.dependencies = tuple(scene.proxies)
        if not self.has_agent and self.options.server != "command":
            self.notes.append(
                "the agent could not get into the app: audits that need it were not measured"
            )

    def _say(self, name: str, state: ProgressState, *, text: str = "") -> None:
        attack = next((each for each in self.plan if each.name == name), self.plan[0])
        played = {record.name for record in self.records}
        left = [each for each in self.plan if each.name not in played and each.name != _BESIDE]
        self.on_progress(
            Progress(
                attack=name,
                title=attack.title,
                done=min(self.done, len(self.plan)),
                total=len(self.plan),
                seconds=sum(each.seconds for each in left) * (0.4 if self.options.is_quick else 1),
                state=state,
                text=text,
            )
        )

    def _recording(self) -> Recording:
        options = self.options
        scenario = scenario_path(options)
        return Recording(
            app=options.app or options.command,
            server=options.server,
            stormproof=version("stormproof"),
            started=self.started,
            machine=_machine(),
            profile={
                "name": options.profile.name,
                "grace": options.profile.grace,
                "lag": options.profile.lag,
                "deadline": options.deadline,
                "quick": options.is_quick,
                "with_writes": options.with_writes,
                "scenario": str(options.scenario) if options.scenario else None,
                "scenario_used": str(scenario) if scenario else None,
            },
            has_agent=self.has_agent,
            dependencies=self.dependencies,
            routes=self.routes,
            attacks=tuple(self.records),
            notes=tuple(self.notes),
        )


def _machine() -> dict[str, str]:
    return {
        "cpu": _cpu(Path("/proc/cpuinfo")) or platform.processor() or platform.machine(),
        "cores": str(os.cpu_count() or 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _cpu(path: Path) -> str:
    if not path.is_file():
        return ""
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return ""
