"""Built-in networks as torch modules, for whoever takes them out of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from bettyc.model import Network

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": lambda: nn.Softplus(threshold=40),
    "elu": nn.ELU,
    "identity": nn.Identity,
}


def module(network: Network, values: Mapping[str, Tensor]) -> nn.Module | None:
    """The module of the same formula, with parameters of the same names; None where torch has none.

    values: its parameters, `0.weight` and so on.
    """
    build = {"mlp": _mlp, "linear": _linear}.get(network.arguments.name)
    if build is None:
        return None
    made = build(network, values)
    made.load_state_dict(values)
    return made.eval()


def _mlp(network: Network, values: Mapping[str, Tensor]) -> nn.Module:
    options = dict(network.arguments.named)
    names = [n.partition(".")[0] for n in values if n.endswith(".weight")]
    layers: list[nn.Module] = []
    for k, name in enumerate(names):
        layers.append(_affine(values[f"{name}.weight"], values.get(f"{name}.bias")))
        act = str(options["act"] if k + 1 < len(names) else options["out"])
        if k + 1 < len(names) or act != "identity":
            layers.append(ACTIVATIONS[act]())
    return nn.Sequential(*layers)


def _linear(network: Network, values: Mapping[str, Tensor]) -> nn.Module:
    return _affine(values["weight"], values.get("bias"))


def _affine(weight: Tensor, bias: Tensor | None) -> nn.Module:
    outputs, inputs = weight.shape
    # skip_init: torch's generator stays where it is
    return nn.utils.skip_init(
        nn.Linear, inputs, outputs, bias=bias is not None, dtype=weight.dtype, device=weight.device
    )
