"""Run simulations for some minutes: ``python -m tests.simulation.soak 10``."""

from __future__ import annotations

import sys
import time

from consensus.testing.simulation import soak
from tests.support.simulations import scenario_of


def main() -> int:
    """Do as the command line says: minutes, then the first seed."""
    arguments = [float(each) for each in sys.argv[1:]]
    minutes = arguments[0] if arguments else 10.0
    # Another beginning each time: whoever soaks wants to see something new.
    first = int(arguments[1]) if len(arguments) > 1 else int(time.time()) * 1000
    return 1 if soak(scenario_of, minutes, first=first) else 0


if __name__ == "__main__":
    sys.exit(main())
