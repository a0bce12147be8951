"""A cluster on a real reactor does not mind what the wall clock does."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import time
offset = 0.0
real = time.time
time.time = lambda: real() + offset

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import react

# Twisted took its clock from the time module when it was imported.
reactor.seconds = time.time

from consensus import start_peer, stop_peer, set_configuration, leader, read, write
from consensus.clock import monotonic_clock
from tests.support.servers import Register

async def main(reactor):
    global offset
    names = ["s1", "s2", "s3"]
    for name in names:
        await start_peer(Register, name=name)
    await set_configuration("s1", names)
    chief = await leader("s1", timeout=5)
    for step in (-3600.0, 7200.0):
        offset += step
        # Heartbeats go on: nobody is deposed in ten election timeouts.
        waiting = Deferred()
        monotonic_clock(reactor).callLater(2.5, waiting.callback, None)
        await waiting
        assert await leader("s1") == chief, "the clock deposed a leader"
        await write(chief, ["set", "step", step])
        assert await read(chief, "step") == step
    # With the clock back again, a dead leader is still replaced.
    offset -= 3600.0
    await stop_peer(chief)
    rest = [name for name in names if name != chief]
    heir = await leader(rest[0], timeout=5)
    assert await read(heir, "step") == 7200.0
    for name in rest:
        await stop_peer(name)
    print("all is well")

react(main)
"""


def test_steps_of_the_wall_clock_depose_nobody() -> None:
    """An hour back or two ahead, leaders stay, and elections still work."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("all is well\n", "")
