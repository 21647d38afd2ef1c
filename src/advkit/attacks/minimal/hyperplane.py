"""The closest point of a hyperplane that lies in the box of the pixels: in Linf, L2 and L1, exactly.

A row has to close a gap by moves of its pixels, m_i >= 0, all of them downhill: sum_i w_i m_i = gap with w_i the size
of the slope, and m_i <= r_i, the room that the box leaves. At the optimum one number says how far all have gone: in
Linf m_i = min(t, r_i), in L2 m_i = min(t w_i, r_i), and what that closes grows with t along straight pieces between the
t at which a pixel meets its end. In L1 the steepest pixels go first, each to its end. So one sort finds the answer.
"""

import torch
from torch import Tensor

from advkit import norms
from advkit.norms import Norm

__all__ = ["step_to_hyperplane"]


def step_to_hyperplane(norm: Norm, x: Tensor, slope: Tensor, gap: Tensor, bounds: tuple[float, float]) -> Tensor:
    """The smallest step d with gap + slope . d = 0 and x + d in the box: (n, ...).

    Where the box does not reach the hyperplane, the step to where it comes closest: each pixel with a slope goes to its
    end. Where nothing slopes, none. In L1 pixels as steep as each other go in the order of their places.

    Args:
        norm: L1, L2 or Linf; what is smallest.
        x: (n, ...), in the box.
        slope: (n, ...), normal to the hyperplane.
        gap: (n,), of either sign.
        bounds: the box.
    """
    flat, (low, high) = x.flatten(1), bounds
    downhill = -torch.where(gap < 0, -1, 1)[:, None] * slope.flatten(1).sign()
    steep = slope.flatten(1).abs()
    # Over the steepest: the squares of the gradients of a confident network would underflow.
    unit = steep.amax(1, keepdim=True)
    unit = unit.where(unit > 0, 1)
    steep, wanted = steep / unit, gap.abs()[:, None] / unit
    room = torch.where(downhill > 0, high - flat, flat - low).clamp_min(0).where(downhill != 0, 0)
    if norm is norms.L1:
        moves = _steepest_first(steep, room, wanted)
    else:
        moves = _together(steep, room, steep if norm is norms.L2 else torch.ones_like(steep), wanted)
    return (downhill * moves).view_as(x)


def _steepest_first(steep: Tensor, room: Tensor, wanted: Tensor) -> Tensor:
    """Pixels that go to their ends, the steepest first, until the wanted gap (n, 1) is closed: (n, d)."""
    steep, order = steep.sort(dim=1, descending=True, stable=True)
    room = room.gather(1, order)
    closed = steep * room
    before = closed.cumsum(1) - closed
    moves = ((wanted - before) / steep.clamp_min(torch.finfo(steep.dtype).tiny)).clamp_min(0).minimum(room)
    return torch.zeros_like(moves).scatter(1, order, moves)


def _together(steep: Tensor, room: Tensor, pace: Tensor, wanted: Tensor) -> Tensor:
    """Pixels that go at their paces until they are at their ends, or the wanted gap (n, 1) is closed: (n, d)."""
    largest = torch.finfo(steep.dtype).max ** 0.5  # which a sum over the pixels does not take to infinity
    ends = (room / pace.clamp_min(1 / largest)).where(steep > 0, 0)
    ends, order = ends.sort(dim=1)
    closed, speed = (steep * room).gather(1, order), (steep * pace).gather(1, order)
    before = closed.cumsum(1) - closed  # by the pixels that are at their ends
    speed = speed.flip(1).cumsum(1).flip(1)  # of the others
    last = (before + ends * speed < wanted).sum(1, keepdim=True)
    reached = last < ends.shape[1]
    last = last.clamp_max(ends.shape[1] - 1)
    tiny = torch.finfo(steep.dtype).tiny
    time = (wanted - before.gather(1, last)).clamp_min(0) / speed.gather(1, last).clamp_min(tiny)
    # Once more for what the running sums have rounded off.
    moves = (time * pace).minimum(room)
    free = steep * pace.where(moves < room, 0)
    missing = wanted - (steep * moves).sum(1, keepdim=True)
    time = (time + missing / free.sum(1, keepdim=True).clamp_min(tiny)).clamp(0, largest)
    return torch.where(reached, (time * pace).minimum(room), room)
