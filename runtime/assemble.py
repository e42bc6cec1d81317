"""From a plan to stages that can run: data loaded, Python imported, formulas compiled, feeds
connected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from bettyc.diagnostics.model import Diagnostic
from bettyc.diagnostics.registry import report
from bettyc.failures import InputError
from bettyc.kernels import panels
from bettyc.model import DataSet, Draw, Level, Ref
from bettyc.model import Formula as FormulaValue
from bettyc.patterns import nothing, unmatched
from bettyc.plan import Plan, Solve, Step, updates, walk
from bettyc.runtime import externs
from bettyc.runtime.builtin import module
from bettyc.runtime.data.draw import Batches
from bettyc.runtime.data.load import Loader, Source
from bettyc.runtime.data.rows import Columns, Tasks, checked
from bettyc.runtime.data.stream import Stream
from bettyc.runtime.feed import Feed, TaskBatch, leaves, mask_seed
from bettyc.runtime.formula import Formula, build, objective, plain
from bettyc.runtime.layout import concrete
from bettyc.runtime.link import DTYPES, Linked, link
from bettyc.runtime.objective import Frame
from bettyc.runtime.optimizers.rate import Options
from bettyc.runtime.randomness import masks
from bettyc.runtime.recompute import parts
from bettyc.runtime.seeds import seed_of
from bettyc.runtime.stage import Stage
from bettyc.runtime.state import State
from bettyc.runtime.strategies.system import Sampling
from bettyc.strategies import STRATEGIES
from bettyc.types import Record, bind, number
from bettyc.types import Tensor as TensorType


@dataclass
class Assembly:
    """All parts of a run. averages: the `ema` nodes, by level: (node, decay, function)."""

    linked: Linked
    state: State
    sources: dict[str, Source]
    draws: dict[str, Batches]
    tasks: dict[str, TaskBatch]
    stages: dict[str, Stage]
    metrics: dict[str, Formula]
    metric_feed: Feed
    owners: dict[str, list[Batches | TaskBatch]]
    averages: dict[str, list[tuple[str, float, Formula]]] = field(default_factory=dict)


def device_of(word: str) -> torch.device:
    """The device a setting names. Raises InputError (MLO0802)."""
    if word == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(word)
    except RuntimeError:
        raise InputError(report("MLO0802", None, device=word)) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(report("MLO0802", None, device=word))
    return device


def assemble(
    plan: Plan,
    *,
    data: Mapping[str, Any],
    given: Mapping[str, Any],
    device: torch.device,
    seed: int,
    include: tuple[str, ...] = (),
) -> Assembly:
    """Raises InputError for everything about files, data and Python objects that does not fit."""
    if plan.model.setting("deterministic") is True:
        torch.use_deterministic_algorithms(True)  # of the process: torch has no narrower switch
    sizes = {name: size for name, size in plan.model.dims if size is not None}
    objects = {
        e.name: externs.load(e, plan.folder, given, include)
        for e in plan.model.externs
        if e.kind == "source"
    }
    loader = Loader(
        plan.model, plan.folder, given=data, objects=objects, sizes=sizes, device=device,
        dtype=DTYPES[plan.precision], seed=seed,
    )  # fmt: skip
    sources = loader.load()
    linked = link(
        plan, given={**given, **objects}, device=device, seed=seed, rows=sizes, include=include
    )
    return _Assembler(linked, loader, sources, seed).assemble()


class _Assembler:
    def __init__(
        self, linked: Linked, loader: Loader, sources: dict[str, Source], seed: int
    ) -> None:
        self.linked = linked
        self.plan = linked.plan
        self.loader = loader
        self.sources = sources
        self.seed = seed
        self.state = State()
        self.draws: dict[str, Batches] = {}
        self.tasks: dict[str, TaskBatch] = {}

    def assemble(self) -> Assembly:
        for draw in self.plan.model.draws:
            self.draws[draw.name] = self._batches(draw)
        for level in self.plan.model.levels:
            if level.task is not None:
                self.tasks[level.name] = self._task(level, level.task)
        formulas = {level.name: objective(self.linked, level) for level in self.plan.model.levels}
        reads = {
            level.name: leaves(self.linked.graph, [level.objective])
            for level in self.plan.model.levels
        }
        averages = self._averages(reads)
        stages: dict[str, Stage] = {}
        for level in self.plan.model.levels:
            wrong = unmatched(level, [s.name for s in self.linked.layouts[level.name].slots])
            wrong += self._not_recomputed(level)
            if wrong:
                raise InputError(*wrong)
            feed = self._feed(level.name, formulas[level.name], reads[level.name])
            stages[level.name] = self._stage(level, formulas[level.name], feed)
        for name in self.plan.order:
            stages[name].initialise()
        metrics = {
            m.name: build(self.linked, plain(f"metric_{m.name}"), "", [m.node], train=False)
            for m in self.plan.model.metrics
        }
        nodes = [m.node for m in self.plan.model.metrics]
        owners = self._owners(reads)
        for name, stage in stages.items():
            stage.owned = owners[name]
        feed = self._feed("", None, leaves(self.linked.graph, nodes))
        return Assembly(
            self.linked, self.state, self.sources, self.draws, self.tasks, stages, metrics,
            feed, owners, averages,
        )  # fmt: skip

    def _not_recomputed(self, level: Level) -> list[Diagnostic]:
        """MLO0618: patterns of `recompute` that name no module of the level's networks."""
        patterns = self.plan.level(level.name).recompute
        own = [n for k, n in self.linked.networks.items() if k.startswith(f"{level.name}.")]
        span = next((s.span for s in level.settings if s.path.endswith(".recompute")), None)
        names = [name for n in own for name, _ in n.module.named_modules() if name]
        return [
            nothing("recompute", pattern, level.name, span, names)
            for pattern in patterns
            if not any(parts(n.module, [pattern]) for n in own)
        ]

    def _stage(self, level: Level, formula: Formula, feed: Feed) -> Stage:
        plan = self.plan.level(level.name)
        formulas = {
            option: self._option(level, option, value.node)
            for option, value in plan.optimizer.named
            if isinstance(value, FormulaValue)
        }
        options = Options(
            plan.optimizer,
            plan.schedule,
            formulas,
            updates(self.plan.program, level.name),
            # the last group are the variables that no pattern matches
            [*(dict(g.named) for g in plan.groups), {}] if plan.groups else [],
            {name: f.call for name, f in self.linked.functions.items()},
        )
        recording = {
            p.name for p in self.plan.levels if STRATEGIES[p.strategy.name].needs == "trajectory"
        }
        task = self.tasks.get(level.name)
        stage = Stage(
            self.linked, level, self.state, formula, feed, options,
            seed=self.seed,
            replicas=None if task is None else task.size,
            recorded=level.name in recording,
            movable=not recording,
        )  # fmt: skip
        log_prob = plan.strategy.get("log_prob")
        if isinstance(log_prob, FormulaValue):
            stage.sampling = self._sampling(level, log_prob.node)
        return stage

    def _sampling(self, level: Level, node: int) -> Sampling:
        """The log-probability of what a level has drawn, and a way to draw again."""
        log_prob = build(self.linked, plain(f"{level.name}_log_prob"), level.name, [node])
        names = dict.fromkeys(name for name, _ in leaves(self.linked.graph, [node])["batch"])
        draws = [self.draws[name] for name in names if callable(self.draws[name].source)]

        def redraw(frame: Frame, number: int) -> Frame:
            columns = dict(frame.columns)
            for draw in draws:
                columns |= draw.another(number)
            return replace(frame, columns=columns)

        return Sampling(log_prob, redraw)

    def _option(
        self, level: Level, option: str, node: int
    ) -> Callable[[Mapping[str, Tensor]], Tensor]:
        formula = build(self.linked, plain(f"{level.name}_{option}"), level.name, [node])
        frame = Frame({}, buffers=self.state.buffers)
        return lambda theta: formula(theta, frame)

    def _feed(
        self, level: str, formula: Formula | None, reads: Mapping[str, list[tuple[str, str]]]
    ) -> Feed:
        columns = {}
        for name, part in reads["data"]:
            source = self.sources[name]
            columns[name, part] = source.whole()[part]  # type: ignore[union-attr]
            panels.keep(columns[name, part])
        draws = [self.draws[n] for n in dict.fromkeys(n for n, _ in reads["batch"])]
        for draw in draws:
            if isinstance(draw.source, Stream) and (draw.draw.name, "index") in reads["batch"]:
                raise InputError(report("MLO0508", draw.draw.span, batch=draw.draw.name))
        tasks = [self.tasks[n] for n in dict.fromkeys(n for n, _ in reads["task"])]
        text = "" if formula is None else formula.text
        buffered = formula is None or bool(formula.networks) or "frame.buffers" in text
        seeded = formula is not None and formula.seeded
        return Feed(
            level,
            columns,
            draws,
            tasks,
            (lambda: self.state.buffers) if buffered else None,
            (lambda: mask_seed(self.seed, level, self._clock(level))) if seeded else None,
        )

    def _clock(self, level: str) -> int:
        """A number that no two gradients of a level share."""
        return self.state.updates[level] * 1_000_003 + self.state.gradients[level]

    def _batches(self, draw: Draw) -> Batches:
        source: Source | Callable[[int], Columns]
        made = next(
            (d for d in self.plan.model.data if d.name == draw.of and d.name == draw.name), None
        )
        source = self._sampled(made) if made is not None else self.sources[draw.of]
        options = dict(draw.options)
        batch = None
        if options.get("batch") is not None:
            batch = self._leading(draw)
            count = getattr(source, "count", None)
            if count is not None and batch > count:
                raise InputError(
                    report("MLO0504", draw.span, batch=batch, name=draw.of, rows=count)
                )
        return Batches(draw, source, batch, self.seed, self.linked.device)

    def _leading(self, draw: Draw) -> int:
        batch = dict(draw.options)["batch"]
        if isinstance(batch, int):
            return batch
        first = draw.type.fields[0][1] if isinstance(draw.type, Record) else draw.type
        assert isinstance(first, TensorType)
        known = {k: number(v) for k, v in self.linked.sizes.items()}
        return concrete(bind(first, known).shape)[0]  # type: ignore[union-attr]

    def _task(self, level: Level, draw: Draw) -> TaskBatch:
        source = self.sources[draw.of]
        if not isinstance(source, Tasks):
            raise InputError(
                report("MLO0703", draw.span, name=draw.of, expected="a collection of tasks")
            )
        size = dict(draw.options).get("batch") or source.count
        assert isinstance(size, int)
        if size > source.count:
            raise InputError(
                report("MLO0504", draw.span, batch=size, name=draw.of, rows=source.count)
            )
        return TaskBatch(level.name, draw, source, size, self.seed)

    def _sampled(self, data: DataSet) -> Callable[[int], Columns]:
        """A source from Python that is called anew for each batch, with networks as they are
        then.
        """
        extern = next(e for e in self.plan.model.externs if e.name == data.source.name)
        found = self.linked.objects[extern.name]
        checker = self.loader.checker(data)

        def draw(count: int) -> Columns:
            given = {k: self._sample(v) if isinstance(v, Ref) else v for k, v in data.source.named}
            with (
                torch.no_grad(),
                masks(seed_of(self.seed, "draw", data.name, count), self.linked.device.type),
            ):
                value = externs.construct(extern, found, given)
            return checked(value, data.type, checker, None, self.linked.device)

        return draw

    def _sample(self, ref: Ref) -> Any:
        level, _, name = ref.path.partition(".")
        layout, theta = self.linked.layouts[level], self.state.theta[level]
        frozen = self.state.buffers[level]["frozen"]
        network = self.linked.networks.get(ref.path)
        built_in = [n for n in self.plan.model.level(level).networks if n.name == name]
        if network is None and built_in:
            inside = {s.name.removeprefix(f"{name}."): s for s in layout.of(name)}
            values = {n: layout.value(s, theta, frozen).detach() for n, s in inside.items()}
            return module(built_in[0], values)
        if network is None:
            return layout.value(layout.slot(name), theta, frozen)
        flat = torch.cat([layout.value(s, theta, frozen).reshape(-1) for s in layout.of(name)])
        return network.caller(False).bound(flat, Frame({}, buffers=self.state.buffers))

    def _owners(
        self, reads: Mapping[str, Mapping[str, list[tuple[str, str]]]]
    ) -> dict[str, list[Batches | TaskBatch]]:
        """By level, what is used up by its update: draws and tasks belong to the highest level
        that reads them.
        """
        found: dict[str, list[Batches | TaskBatch]] = {name: [] for name in self.plan.order}
        for name, draw in self.draws.items():
            users = [q for q in self.plan.order if any(n == name for n, _ in reads[q]["batch"])]
            # what only metrics read is drawn anew when the top level has moved
            found[(users or self.plan.order)[-1]].append(draw)
            draw.watched = not users
        for name, task in self.tasks.items():
            users = [
                q
                for q in self.plan.order
                if any(n == name for n, _ in [*reads[q]["task"], *reads[q]["owned"]])
            ]
            found[(users or [name])[-1]].append(task)
        return found

    def _averages(
        self, reads: Mapping[str, Mapping[str, list[tuple[str, str]]]]
    ) -> dict[str, list[tuple[str, float, Formula]]]:
        """The moving averages in objectives and metrics, by the level over whose steps they run."""
        found: dict[str, list[tuple[str, float, Formula]]] = {}
        graph = self.linked.graph
        roots = [(level.name, level.objective) for level in self.plan.model.levels]
        roots += [("", metric.node) for metric in self.plan.model.metrics]
        seen: set[int] = set()
        for level, root in roots:
            for index in graph.reachable([root]):
                node = graph[index]
                if node.op != "ema" or index in seen:
                    continue
                seen.add(index)
                # in a metric, the average is over the steps of the level whose variable it is
                owned = (
                    n.attr("level") for _, n in graph.leaves(index) if n.op in ("var", "module")
                )
                owner = level or next(owned, self.plan.order[-1])
                name = plain(f"{owner}_ema_{index}")
                formula = build(self.linked, name, owner, [node.args[0]], train=False)
                found.setdefault(owner, []).append((str(index), float(node.attr("decay")), formula))
        return found


def stepped(plan: Plan) -> set[str]:
    """The levels that a program updates."""
    return {i.level for i in walk(plan.program) if isinstance(i, Step | Solve)}
