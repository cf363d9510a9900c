"""The reference implementations of the course, one module a topic, in the order of the lessons."""

import os

# Read when torch is loaded. A thread that waits for others sleeps instead of spinning: beside other
# work on the machine, two spinning threads take several times as long as one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
