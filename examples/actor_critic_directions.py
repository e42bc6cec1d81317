"""How well do the directions of actor_critic.mlo agree with the gradient of the return?

    python examples/actor_critic_directions.py

For three linear policies, from the uniform one to one that keeps the pole up, the gradient of
the expected length of an episode is estimated by the score function from 600 episodes. Printed
are, over eight batches as the program draws them, the mean cosine between it and the two directions
in which the actors move without entropy bonus and damping, and how long these are.
"""

from __future__ import annotations

from pathlib import Path

import torch
from cartpole import rollouts
from torch import Tensor

import bettyc

HERE = Path(__file__).parent
BALANCED = torch.tensor([[0.0, 0.0], [0.0, 0.0], [-2.0, 2.0], [-2.0, 2.0]])


def of_the_return(policy: Tensor, episodes: int = 600, steps: int = 200) -> tuple[Tensor, float]:
    """The gradient of the mean length of an episode, and the length."""
    found = rollouts(policy, episodes, steps, again=False)
    done = found["done"].reshape(steps, episodes)
    live = (done.cumsum(0) - done == 0).to(policy)
    ahead = live.flip(0).cumsum(0).flip(0)
    ahead = live * (ahead - (ahead * live).sum(1, True) / live.sum(1, True).clamp(min=1))
    at = policy.clone().requires_grad_()
    log_prob = torch.distributions.Categorical(logits=found["s"] @ at).log_prob(found["a"])
    total = (ahead * log_prob.reshape(steps, episodes)).sum() / episodes
    return torch.autograd.grad(total, at)[0], float(found["score"])


def directions(plan: bettyc.CompiledPlan, policy: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """With and without the derivative through the critic, for one batch each."""
    run = plan.start(seed)
    run["actor"].assign(pi=policy)
    run["actor_plain"].assign(pi=policy)
    return run.hypergrad("actor")["pi"], run.hypergrad("actor_plain")["pi"]


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


def main() -> None:
    torch.set_num_threads(1)
    program = bettyc.load(HERE / "actor_critic.mlo", profile="undamped", set={"bonus": "1e-9"})
    plan = program.compile()
    for part in (0.0, 0.25, 1.0):
        torch.manual_seed(0)
        right, length = of_the_return(part * BALANCED)
        pairs = [directions(plan, part * BALANCED, seed) for seed in range(8)]
        print(f"policy with episodes of {length:.0f} steps")
        for name, found in zip(("star", "plain"), zip(*pairs, strict=True), strict=True):
            angles = torch.tensor([cosine(g, right) for g in found])
            size = torch.stack(found).norm(dim=(1, 2)).mean()
            print(f"  {name:5}  cosine {angles.mean():.2f} ± {angles.std() / 8**0.5:.2f}"
                  f"  length {size:.3g}")  # fmt: skip


if __name__ == "__main__":
    main()
