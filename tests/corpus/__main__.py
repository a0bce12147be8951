"""
Writes the bytes of this release: ``python -m tests.corpus 0.2``.

For who makes a release, once, when its number is set.  What is there is never
written again: it is what servers out there have on their disks.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.corpus.making import make


def main(version: str) -> None:
    """Write the corpus of *version*."""
    target = Path(__file__).parent / version
    if target.exists():
        sys.exit(f"{target} exists; the bytes of a release never change")
    make(target)
    size = sum(path.stat().st_size for path in target.iterdir())
    sys.stdout.write(f"{target}: {size} bytes\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
