"""Settings of the whole test run."""

import os

# The models here are small: more threads only wait for each other, and for those of other workers. Set before any
# library of matrices is loaded, for this process, for workers and for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)  # also where the user's setting, or a library loaded earlier, says more
