"""Nothing that a test sees depends on how fast, how busy or how large the machine is.

One thread for each test process: the tests run in as many processes as there are cores.
"""

import gc

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
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
