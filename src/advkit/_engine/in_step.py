"""Models that are spread over several processes, which have to ask them together."""

from torch import distributed, nn

from advkit.model import Model

__all__ = ["agreed", "in_step"]


def in_step(model: Model) -> bool:
    """Whether the model is spread over several processes, which then have to ask it together, batch by batch."""
    if not isinstance(model, nn.Module) or not distributed.is_available() or not distributed.is_initialized():
        return False
    names = {kind.__name__ for module in model.modules() for kind in type(module).__mro__}
    return distributed.get_world_size() > 1 and bool(names & {"FSDPModule", "FullyShardedDataParallel"})


def agreed(numbers: list[int], model: Model) -> list[int]:
    """The numbers that the first process has, where several work in step; they wait for each other."""
    if not in_step(model):
        return numbers
    things = [numbers]
    distributed.broadcast_object_list(things)
    distributed.barrier()
    return things[0]
