"""Why does the star of pendulum.mlo do harm with a shrunk critic?

    python examples/pendulum_directions.py

For policies of a run with `--profile shrunk`, after 2 and 5 updates of the actor that leads and 20
of the one that does not, and for four critics: the value that the critic gives to the states of a
batch, and the mean cosine over six batches between the gradient of the true value and the two
directions, with the derivative through the critic (star) and without (plain). The true value is
that of the program's noisy policy from the states of all six batches, by simulation; its gradient
goes through the simulation, and is the mean over two draws of the noise.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from pendulum import REWARD, SCALE, TORQUE, features, rollouts
from torch import Tensor

import bettyc

PROGRAM = Path(__file__).parent / "pendulum.mlo"
GAMMA, SPREAD, HORIZON, BATCHES = 0.97, 0.4, 150, 6
CRITICS: dict[str, dict[str, object]] = {
    "ridge 1e-3, damping 0.1": {
        "ridge": 1e-3,
        "critic.hypergrad": "cg(iters = 60, damping = 0.1)",
    },
    "ridge 1e-3": {"ridge": 1e-3},
    "ridge 1e-6, damping 0.1": {"critic.hypergrad": "cg(iters = 60, damping = 0.1)"},
    "ridge 1e-6": {},
}


def value(f: Tensor, policy: Tensor, steps: int = HORIZON, spread: float = SPREAD) -> Tensor:
    """The discounted return from states with features f, shape (n, 20): shape (n,). The physics of
    Gymnasium's Pendulum-v1, differentiable in the policy.
    """
    angle, speed = torch.atan2(f[:, 2], f[:, 1]), SCALE[2].to(f) * f[:, 3]
    total = torch.zeros_like(angle)
    for step in range(steps):
        x = features(torch.stack([angle.cos(), angle.sin(), speed / SCALE[2]], 1))
        action = torch.tanh(x @ policy) + spread * torch.randn(len(angle)).to(f)
        torque = (TORQUE * action).clamp(-TORQUE, TORQUE)
        from_top = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
        cost = from_top**2 + 0.1 * speed**2 + 0.001 * torque**2
        total = total - GAMMA**step * cost / REWARD
        speed = (speed + 0.05 * (15 * angle.sin() + 3 * torque)).clamp(-8, 8)
        angle = angle + 0.05 * speed
    return total


def of_the_value(f: Tensor, policy: Tensor) -> tuple[float, Tensor]:
    """The mean value of states, and its gradient in the policy."""
    at = policy.clone().requires_grad_()
    mean = torch.stack([value(f, at).mean() for _ in range(2)]).mean()
    return float(mean.detach()), torch.autograd.grad(mean, at)[0]


def policies() -> dict[str, Tensor]:
    run = bettyc.load(PROGRAM, profile="shrunk").compile().start(seed=0)
    found = {}
    for step in range(1, 21):
        run.step()
        if step in (2, 5):
            found[f"leading, {step} updates"] = run["actor"].pi.detach().clone()
    return {**found, "plain, 20 updates": run["actor_plain"].pi.detach().clone()}


def directions(
    plan: bettyc.CompiledPlan, policy: Tensor, seed: int
) -> tuple[float, Tensor, Tensor]:
    """The value that the critic gives, and the directions with and without the star."""
    run = plan.start(seed)
    run["actor"].assign(pi=policy)
    run["actor_plain"].assign(pi=policy)
    star, plain = (run.hypergrad(name)["pi"] for name in ("actor", "actor_plain"))
    price = 1e-3 * float(policy.square().sum())
    return run.step().loss["actor"] + price, star, plain


def cosines(found: list[Tensor], right: Tensor) -> str:
    angles = torch.stack([g @ right / (g.norm() * right.norm()) for g in found])
    return f"{angles.mean():5.2f} ± {angles.std() / len(found) ** 0.5:.2f}"


def main() -> None:
    torch.set_num_threads(1)
    plans = {name: bettyc.load(PROGRAM, set=critic).compile() for name, critic in CRITICS.items()}
    for name, policy in policies().items():
        torch.manual_seed(0)
        drawn = [rollouts(policy, SPREAD, 4, 200)["f"] for _ in range(BATCHES)]
        true, right = of_the_value(torch.cat(drawn), policy)
        print(f"{name}: true value {true:.1f}")
        for critic, plan in plans.items():
            found = [directions(plan, policy, seed) for seed in range(BATCHES)]
            values, star, plain = zip(*found, strict=True)
            print(f"  {critic:24}  value {sum(values) / BATCHES:6.1f}"
                  f"  star {cosines(list(star), right)}  plain {cosines(list(plain), right)}",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
