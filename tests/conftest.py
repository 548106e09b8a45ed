"""Settings of the whole test run."""

import torch

torch.set_num_threads(1)  # the models here are small: more threads only wait for each other
