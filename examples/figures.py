"""Run the examples and bring the table of examples/README.md up to date.

    python examples/figures.py              all of them
    python examples/figures.py ridge_hpo    some; the figures of the others stay
    python examples/figures.py data_pruning_drop_20     one of a program's VARIANTS
    python examples/figures.py --table      only write the table again

Each program runs as it stands, from the seeds 0, 1, ... that SEEDS counts; "before" is after the
first update of the top level, "after" at the end. A program with a `param seed`, which draws its
data, gets the same number there. The figures of a program are kept in
figures/NAME.json; scripts that measure something else add files of the same form.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import bettyc

HERE = Path(__file__).parent
KEPT = HERE / "figures"
README = HERE / "README.md"
BEGIN, END = "<!-- figures: made by figures.py -->", "<!-- end of figures -->"

# How many seeds each program runs from; one where nothing is said.
SEEDS = {
    "actor_critic": 5,
    "coreset": 5,
    "data_pruning": 5,
    "dirac_gan": 8,
    "gan": 8,
    "learned_optimizer": 3,
    "learning_by_ignoring": 5,
    "learning_to_reweight": 5,
    "lqr": 5,
    "meta_weight_net": 5,
    "meta_weight_net_resnet": 5,
    "mixture_gan": 8,
    "pendulum": 5,
    "portfolio": 5,
    "redundancy": 5,
    "reward_shaping": 5,
}

# Other settings under which a program is measured too, by the suffix of their figures.
VARIANTS: dict[str, dict[str, dict[str, int | float | str]]] = {
    "actor_critic": {"": {}, "_undamped": {"critic.hypergrad": "exact"}},
    "data_pruning": {
        "": {},
        "_drop_20": {"drop": 0.2},
        "_drop_40": {"drop": 0.4},
        "_drop_50": {"drop": 0.5},
    },
    "gan": {
        "": {},
        "_ten": {"critic.steps": 10, "critic_plain.steps": 10, "run.steps": 600},
    },
    "learning_to_reweight": {
        "": {},
        "_uniform": {"background": -1},
        "_uniform_early": {"background": -1, "run.steps": 200},
    },
    "mixture_gan": {"": {}, "_thick": {"spread": 1.0}, "_decayed": {"l2": 0.05}},
}

# search_cells.py, omniglot_figures.py, sinusoid_figures.py, tune_augmentation.py and
# tune_loss_weights.py measure these.
ELSEWHERE = {
    "anil_sinusoid",
    "augmentation",
    "augmentation_fixed",
    "darts",
    "darts_retrain",
    "loss_weights",
    "loss_weights_fixed",
    "maml_omniglot",
    "maml_sinusoid",
    "maml_sinusoid_first_order",
    "maml_sinusoid_imaml",
    "reptile_sinusoid",
}


def kept_by_name() -> set[str]:
    """The files of figures/ that this script and those of ELSEWHERE write, without their suffix."""
    here = {path.stem for path in HERE.glob("*.mlo")} - ELSEWHERE
    return ELSEWHERE.union(*({n + suffix for suffix in VARIANTS.get(n, {"": {}})} for n in here))


Values = dict[str, dict[str, list[float]]]
"""By metric: "before" and "after", each with one value per seed. "before" may be left out."""


def keep(
    name: str, metrics: Values, seconds: float, ran: Mapping[str, int | float | str] | None = None
) -> None:
    """Write the figures of one program to figures/NAME.json. ran: the settings, where not the
    program's own.
    """
    KEPT.mkdir(exist_ok=True)
    rounded = {
        metric: {when: [float(f"{v:.5g}") for v in values] for when, values in columns.items()}
        for metric, columns in metrics.items()
    }
    kept = {"seconds": round(seconds, 1), "metrics": rounded, **({"ran": ran} if ran else {})}
    text = json.dumps(kept, indent=1)
    (KEPT / f"{name}.json").write_text(text + "\n")


def measure(path: Path, suffix: str, values: Mapping[str, int | float | str]) -> None:
    """Run one program from each of its seeds, with other values of its settings."""
    metrics: Values = {}
    begin = time.process_time()
    count = SEEDS.get(path.stem, 1)
    model = bettyc.load(path).checked.model
    seeded = model is not None and any(p.path == "seed" for p in model.params)
    for seed in range(count):
        own = {"seed": seed} if seeded else {}
        run = bettyc.load(path, set={**own, **values}).compile().start(seed=seed)
        first = run.step()
        before = first.metrics or run.metrics()
        last = first if first.stopped else run.to_end()
        after = last.metrics or run.metrics()
        for metric in after:
            columns = metrics.setdefault(metric, {"before": [], "after": []})
            columns["before"].append(before[metric])
            columns["after"].append(after[metric])
    keep(path.stem + suffix, metrics, (time.process_time() - begin) / count, values)


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """The mean and its standard error; of one value the error is nan."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, math.nan
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return mean, spread / math.sqrt(len(values))


def cell(values: list[float]) -> str:
    """The mean, and its standard error where there are several values."""
    mean, error = mean_and_error(values)
    return f"{mean:.4f}" if len(values) == 1 else f"{mean:.4f} ± {error:.4f}"


def table() -> str:
    lines = ["| program | metric | before | after | seeds | seconds |", "|---|---|---|---|---|---|"]
    for path in sorted(KEPT.glob("*.json")):
        kept = json.loads(path.read_text())
        for metric, columns in kept["metrics"].items():
            before = cell(columns["before"]) if "before" in columns else ""
            after = columns["after"]
            lines.append(
                f"| {path.stem} | {metric} | {before} | {cell(after)} | {len(after)} "
                f"| {kept['seconds']:.0f} |"
            )
    return "\n".join(lines)


def write_table() -> None:
    text = README.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    README.write_text(f"{head}{BEGIN}\n{table()}\n{END}{tail}")


def main(arguments: list[str]) -> None:
    names = [a for a in arguments if a != "--table"]
    if "--table" not in arguments:
        for path in sorted(HERE.glob("*.mlo")):
            if path.stem in ELSEWHERE:
                continue
            for suffix, values in VARIANTS.get(path.stem, {"": {}}).items():
                name = path.stem + suffix
                if not names or {path.stem, name} & {*names}:
                    print(name, flush=True)
                    measure(path, suffix, values)
    write_table()


if __name__ == "__main__":
    main(sys.argv[1:])
