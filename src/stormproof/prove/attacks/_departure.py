"""Departure: SIGTERM to the server, and the wait for its end that a platform grants."""

from stormproof.errors import CouldNotProve
from stormproof.prove._attack import Scene


async def send_signal(scene: Scene) -> float:
    """Send SIGTERM to the first process, as a platform does, and return when.

    Raises:
        CouldNotProve: The server is not there any more.
    """
    if (exit := await scene.target.ended(0.0)) is not None:
        raise CouldNotProve(f"the server ended by itself before SIGTERM, with code {exit.code}")
    at = scene.mark("signal")
    scene.target.signal()
    return at


async def wait_for_end(scene: Scene, signal: float) -> None:
    """Wait until the whole process tree has gone; at the end of the grace, kill it."""
    scene.resting.set()
    left = signal + scene.options.profile.grace - scene.ledger.now()
    if await scene.target.ended(max(left, 0.0)) is None:
        scene.mark("killed")
        await scene.target.kill()


def patience(scene: Scene) -> float:
    """Return the seconds that clients wait: beyond the grace, so that only the end cuts them."""
    profile = scene.options.profile
    return profile.grace + profile.lag + 5.0
