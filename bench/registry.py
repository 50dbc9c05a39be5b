"""Everything that the registry's speed is judged by, in one run: `python -m bench.registry` (`make bench-registry`)."""

from __future__ import annotations

from bench import fingerprint, listing, pushing


def main() -> None:
    fingerprint.main()
    print()
    pushing.main()
    listing.main()


if __name__ == "__main__":
    main()
