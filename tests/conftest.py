"""One thread a test process: the processes are what runs in parallel."""

from threadpoolctl import threadpool_limits
from torch import set_num_threads

set_num_threads(1)
threadpool_limits(1)
