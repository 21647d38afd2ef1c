"""Nothing that a test sees depends on how fast, how busy or how large the machine is, nor on what ran before it.

One thread for each test process: the tests run in as many processes as there are cores, and which of them a test gets
is up to who is free. So whatever is random starts anew for each. Hypothesis tries the same examples every time, and
with ``--hypothesis-profile search`` those that it has not tried yet.
"""

import gc

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("any machine", settings.get_profile("search"), derandomize=True)
settings.load_profile("any machine")
try:
    from tqdm import tqdm
except ImportError:
    pass
else:
    tqdm.monitor_interval = 0  # or a thread would stay behind, with which Python 3.12 warns of every fork


def pytest_collection_finish() -> None:
    """What has been collected stays: it need not be looked through for garbage again and again."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup() -> None:
    """What draws from torch's own generator draws the same in any order of the tests."""
    torch.manual_seed(0)
