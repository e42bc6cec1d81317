"""What recorded functions are given (`bettyc.runtime.captured`): frames, levels, trajectories and
counts, taken apart into the tensors of `Arguments`, and put together again out of what a graph has
in their place. Each function adds to the arguments, and gives the way back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from bettyc.runtime.adjoint import Lower
from bettyc.runtime.feed import Feed
from bettyc.runtime.follow import attributes
from bettyc.runtime.graphs import Arguments
from bettyc.runtime.objective import Frame
from bettyc.runtime.optimizers.rate import Clock
from bettyc.runtime.stage import Stage
from bettyc.runtime.trajectory import Record, Trajectory

Given = Mapping[str, Tensor]


def clock_of(arguments: Arguments, stage: Stage, update: int) -> Callable[[Given], Clock]:
    """The number of an update and its rates, among the scalars."""
    at = arguments.scalar(float(update))
    rates = {key: arguments.scalar(rate) for key, rate in stage.options.scheduled(update).items()}
    dtype = stage.theta[stage.name].dtype

    def clock(given: Given) -> Clock:
        scalars = given["scalars"]
        return Clock(scalars[at], {key: scalars[k].to(dtype) for key, k in rates.items()})

    return clock


def guard(arguments: Arguments, stage: Stage) -> None:
    """What the functions of a level depend on besides tensors, and tensors that nobody copies."""
    objective, networks = stage.objective, stage.linked.networks
    frozen = stage.state.buffers[stage.name]["frozen"]
    arguments.constants[f"frozen/{stage.name}"] = frozen
    arguments.key += [
        stage.name,
        repr(sorted(stage.options.fixed.items())),
        id(objective.closed),
        id(objective.around),
        objective.once,
    ]
    modules = [networks[n].module for n in objective.networks]
    arguments.key += [(m.training, repr(attributes(m))) for m in modules]
    # tensors that are neither parameters nor buffers are read where they lie
    arguments.constants |= {
        f"{stage.name}/{i}/{name}": x
        for i, part in enumerate(part for m in modules for part in m.modules())
        for name, x in vars(part).items()
        if isinstance(x, Tensor)
    }


def frame_of(
    arguments: Arguments, prefix: str, feed: Feed, frame: Frame
) -> Callable[[Given], Frame]:
    """A frame out of what is given: its batches among the arguments, whole data sets where they
    lie.
    """
    columns: dict[tuple[str, str], str] = {}
    fixed: dict[tuple[str, str], Tensor] = {}
    for key, column in frame.columns.items():
        if feed.columns.get(key) is column:
            fixed[key] = arguments.constants[f"{prefix}/{key}"] = column
        else:
            columns[key] = f"{prefix}/{key}"
            arguments.tensors[columns[key]] = column
    tasks = {
        level: [named(arguments, f"{prefix}/{level}/{i}", task) for i, task in enumerate(rows)]
        for level, rows in frame.tasks.items()
    }
    buffers = {
        owner: named(arguments, f"{prefix}/{owner}", held)
        for owner, held in frame.buffers.items()
        if "frozen" not in held
    }
    # frozen variables are constants: see `_guard`
    frozen = {owner: held for owner, held in frame.buffers.items() if "frozen" in held}
    for owner, held in frozen.items():
        arguments.constants |= {f"{owner}/{n}": x for n, x in held.items()}
    if frame.seed:
        arguments.seeds.append(frame.seed)
    seed = frame.seed

    def build(given: Given) -> Frame:
        return Frame(
            {**fixed, **{key: given[n] for key, n in columns.items()}},
            {
                level: tuple({c: given[n] for c, n in task.items()} for task in rows)
                for level, rows in tasks.items()
            },
            seed=seed,
            buffers={
                **frozen,
                **{o: {b: given[n] for b, n in held.items()} for o, held in buffers.items()},
            },
        )

    return build


def named(arguments: Arguments, prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Tensors among the arguments, by the names that they have there."""
    names = {key: f"{prefix}/{key}" for key in tensors}
    arguments.tensors |= {names[key]: x for key, x in tensors.items()}
    return names


def lower_of(arguments: Arguments, stage: Stage, lower: Lower) -> Callable[[Given], Lower]:
    """A level below the root out of what is given."""
    prefix = f"lower/{stage.name}"
    dtype = stage.theta[stage.name].dtype
    rate: int | None = None
    if isinstance(lower.lr, Tensor):
        arguments.tensors[f"{prefix}/lr"] = lower.lr
    elif lower.lr is not None:
        rate = arguments.scalar(lower.lr)
    if lower.scale is not None:
        arguments.tensors[f"{prefix}/scale"] = lower.scale
    path = None if lower.trajectory is None else path_of(arguments, stage)
    bare = replace(lower, lr=None, scale=None, trajectory=None)

    def build(given: Given) -> Lower:
        lr = given.get(f"{prefix}/lr")
        return replace(
            bare,
            lr=lr if rate is None else given["scalars"][rate].to(dtype),
            scale=given.get(f"{prefix}/scale"),
            trajectory=None if path is None else path(given),
        )

    return build


def path_of(arguments: Arguments, stage: Stage) -> Callable[[Given], Trajectory]:
    """The recorded steps of a level: where they begin, and what each of them saw."""
    path, prefix = stage.trajectory, f"path/{stage.name}"
    assert path is not None
    records, names = list(path.records), {}
    arguments.key += [prefix, len(records), path.dropped > 0, path.copied]
    if records:
        assert records[0].theta is not None
        assert records[0].state is not None
        arguments.tensors[f"{prefix}/theta"] = records[0].theta
        names = named(arguments, f"{prefix}/state", records[0].state)
    fixed = stage.feed.fixed
    frames = [
        frame_of(arguments, f"{prefix}/{k}", stage.feed, r.frame)
        for k, r in enumerate(records[:1] if fixed else records)
    ]
    # most steps saw the same variables below: one argument for each tensor
    places: dict[int, str] = {}
    below = []
    for r in records:
        for n, x in r.below.items():
            if id(x) not in places:
                places[id(x)] = f"{prefix}/below/{len(places)}/{n}"
                arguments.tensors[places[id(x)]] = x
        below.append({n: places[id(x)] for n, x in r.below.items()})
    clocks = [clock_of(arguments, stage, r.count) for r in records]
    dropped, copied = path.dropped, path.copied

    def build(given: Given) -> Trajectory:
        made: deque[Record] = deque()
        views = [frame(given) for frame in frames]
        for k, clock in enumerate(clocks):
            first = not k
            made.append(
                Record(
                    given[f"{prefix}/theta"] if first else None,
                    {n: given[a] for n, a in names.items()} if first else None,
                    views[0] if fixed else views[k],
                    {n: given[a] for n, a in below[k].items()},
                    clock(given),  # type: ignore[arg-type]
                )
            )
        return replace(path, records=made, dropped=dropped, copied=copied)

    return build
