"""Runs a daemon of Spark's standalone cluster for the worker: daemon.py CLASS ARGUMENT…

When standard input ends, the worker has ended, and so does the daemon.
"""

import subprocess
import sys
import threading

from pyspark.find_spark_home import _find_spark_home

# How long a daemon may take to end; the worker waits longer than that.
PATIENCE_SECONDS = 5


def main() -> None:
    command = [f"{_find_spark_home()}/bin/spark-class", *sys.argv[1:]]
    daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def end_with_input() -> None:
        sys.stdin.read()
        daemon.terminate()
        try:
            daemon.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            # A worker without a master may wait for an answer. Its executors end when they miss it.
            daemon.kill()

    threading.Thread(target=end_with_input, daemon=True).start()
    sys.exit(daemon.wait())


if __name__ == "__main__":
    main()
