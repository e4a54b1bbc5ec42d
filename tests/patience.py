"""How long tests wait for what has to come true: as long as the contract says, or some times that on a shared machine.

A wait ends as soon as it comes true, so patience costs nothing but where a test fails. `TEST_PATIENCE` is the factor;
CI sets it, for its cores are lent to others by halves.
"""

import os

PATIENCE = float(os.environ.get("TEST_PATIENCE", "1"))
