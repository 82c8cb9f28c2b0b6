"""History as one would copy it by hand: a loop of the Python driver. Prints the rows, the seconds, and the processor seconds that it used.

Values only: what it writes is new, with no time to live. Arguments: the origin's host and port, the target's, the workers.
"""

import sys
import time

from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.query import SimpleStatement, tuple_factory

COLUMNS = ["k", "who", "n", "body", "at"]


def connect(host, port):
    profile = ExecutionProfile(row_factory=tuple_factory, request_timeout=60)
    return Cluster([host], port=int(port), execution_profiles={EXEC_PROFILE_DEFAULT: profile}).connect("bench")


def main():
    origin, target = connect(*sys.argv[1:3]), connect(*sys.argv[3:5])
    workers = int(sys.argv[5])
    names, markers = ", ".join(COLUMNS), ", ".join("?" for _ in COLUMNS)
    insert = target.prepare(f"INSERT INTO history ({names}) VALUES ({markers})")
    began, used = time.monotonic(), time.process_time()
    page = origin.execute(SimpleStatement(f"SELECT {names} FROM history", fetch_size=5000))
    count = 0
    while True:
        written = execute_concurrent_with_args(target, insert, page.current_rows, concurrency=workers)
        count += sum(1 for success, _ in written if success)
        if not page.has_more_pages:
            break
        page.fetch_next_page()
    print(count, time.monotonic() - began, time.process_time() - used)


main()
