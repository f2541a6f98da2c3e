"""Makes the tables as soon as there is a file: many processes can begin in the same millisecond."""

import sys
import time
from pathlib import Path

from database import engine
from production.sql.tables import tables

print("ready", flush=True)
while not Path(sys.argv[1]).exists():
    time.sleep(0.0005)
tables.check(engine)
