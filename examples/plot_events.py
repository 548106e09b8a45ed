"""A ball that is aimed by the gradient of where it lands
======================================================

Events end a solve where a function of the state is zero. The time of an event is differentiable, and so is the state
there, so that what has to happen at the event can be optimised.
"""

# %%
# A ball that is thrown with drag lands where its height is zero. How far away does that happen?

import torch
from matplotlib import pyplot as plt

from skode.solvers import solve_ivp


def flight(t, state):
    """Position and velocity, with gravity and drag."""
    velocity = state[2:]
    drag = 0.02 * torch.linalg.vector_norm(velocity) * velocity
    return torch.cat([velocity, torch.tensor([0.0, -9.81], dtype=state.dtype) - drag])


def height(t, state):
    """Zero where the ball lands."""
    return state[1]


height.terminal, height.direction = True, -1


def throw(angle, **settings):
    """A throw at 20 m/s."""
    velocity = 20 * torch.stack([torch.cos(angle), torch.sin(angle)])
    start = torch.cat([torch.tensor([0.0, 1.5], dtype=angle.dtype), velocity])
    return solve_ivp(flight, (0.0, 10.0), start, events=height, rtol=1e-6, **settings)


# %%
# The gradient of the distance goes through the event. A few steps of ascent find the angle that throws farthest; with
# drag, and from a height, it is less than 45 degrees.

angle = torch.tensor(1.1, dtype=torch.float64, requires_grad=True)
angles, landings = [], []
for _ in range(12):
    landing = throw(angle).y_events[0][0]
    (slope,) = torch.autograd.grad(landing[0], angle)
    angles.append(angle.item())
    landings.append(landing[0].item())
    angle = (angle + 0.02 * slope).detach().requires_grad_()
print(f"{torch.rad2deg(angle.detach()):.1f} degrees, {landings[-1]:.2f} m")

# %%
# The throws on the way there.

figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
with torch.no_grad():
    for k, tried in enumerate(angles):
        solution = throw(torch.tensor(tried, dtype=torch.float64), dense_output=True)
        path = solution.sol(torch.linspace(0, float(solution.t_events[0][0]), 100, dtype=torch.float64))
        ax.plot(path[:, 0], path[:, 1], color=plt.cm.viridis(k / len(angles)))
ax.set(xlabel="distance, m", ylabel="height, m")
