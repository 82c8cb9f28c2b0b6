"""What a load was told, and what went wrong: printed as one JSON object at its end (see README.md)."""

import collections
import json
import os
import sys
import threading

WORKERS = int(sys.argv[1]) if len(sys.argv) > 1 else 0
"""How many workers, and how many connections of the pool."""
ROWS = 4
"""Rows of `versions` that each worker has."""
ACCOUNTS = 8
"""Accounts that everybody writes."""


def conninfo():
    """libpq reads the rest from its environment."""
    return {name: os.environ[f"PG{name.upper()}"] for name in ("host", "port", "user")} | {
        "dbname": os.environ["PGDATABASE"]
    }


class Ledger:
    """Shared by all workers of a program; safe between threads."""

    def __init__(self, program):
        self.program = program
        self.units = 0
        self.opened = 0
        self.moves = 0
        self.entries = []
        self.versions = {}
        self.wrong = collections.defaultdict(list)
        self.notified = set()
        self.heard = collections.Counter()
        self.lock = threading.Lock()

    def worker(self, number):
        return f"{self.program} {number}"

    def is_opened(self):
        """A connection of the pool is there; its number."""
        with self.lock:
            self.opened += 1
            return self.opened

    def acked(self):
        """A unit is done; now and then the test is told how many there were."""
        with self.lock:
            self.units += 1
            if self.units % 10 == 0:
                print(self.units, flush=True)

    def entry(self, key, worker, seq):
        self.entries.append([key, worker, seq])

    def failed(self, unit, error):
        """Any exception is an error."""
        state = getattr(error, "sqlstate", None) or type(error).__name__
        self.wrong["errors"].append(f"{unit}: {state}: {error}")

    def seen(self, worker, row, told, version):
        """A read must not be older than what was acknowledged before it began."""
        if version < told:
            self.wrong["stale"].append(f"{worker} row {row} is {version}, told {told} before")

    def setting(self, expected, found):
        if expected != found:
            self.wrong["settings"].append(f"{found}, was set to {expected}")

    def is_silent(self):
        """Everything that was notified is heard."""
        return all(self.heard[text] for text in self.notified)

    def close(self):
        """The last line."""
        unheard = [text for text in self.notified if not self.heard[text]]
        twice = [text for text, times in self.heard.items() if times > 1]
        versions = [[worker, row, version] for (worker, row), version in self.versions.items()]
        print(
            json.dumps(
                {
                    "units": self.units,
                    "moves": self.moves,
                    "notified": len(self.notified),
                    "wrong": {
                        "errors": self.wrong["errors"],
                        "stale": self.wrong["stale"],
                        "settings": self.wrong["settings"],
                        "unheard": unheard,
                        "heard_twice": twice,
                        "dropped": [f"{self.opened} connections for {WORKERS}"] if self.opened != WORKERS else [],
                    },
                    "entries": self.entries,
                    "versions": versions,
                }
            ),
            flush=True,
        )
