"""What a run does: values, the schedule, domains, starts, metrics, stopping, divergence."""

from __future__ import annotations

import pytest
import torch
from toys import classification, parts, regression, ridge, start

from bettyc.failures import DivergedError
from bettyc.runtime.stopping import Early


def test_inner_steps_are_torch_s_steps():
    """The lower level after one period has the bits of torch.optim on the same data."""
    run = ridge("optimizer = adam(lr = 0.05)  steps = 9", opt=0)
    log_wd = run["tune"].log_wd
    train = parts(run, "train")
    w = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
    optimizer = torch.optim.Adam([w], lr=0.05)
    for _ in range(9):
        optimizer.zero_grad()
        loss = 0.5 * torch.mean((train["x"] @ w - train["y"]) ** 2.0)
        (loss + 0.5 * torch.sum(torch.exp(log_wd) * w**2.0)).backward()
        optimizer.step()
    run.step()

    assert torch.equal(run["fit"].w, w.detach())


def test_outputs_number_the_updates_of_the_top_level():
    run = ridge("optimizer = sgd(lr = 0.1)  steps = 3")
    outputs = list(run)

    assert [out.step for out in outputs] == [0, 1, 2, 3]
    assert set(outputs[0].loss) == {"fit", "tune"}
    assert run.state.updates == {"fit": 12, "tune": 4}
    with pytest.raises(StopIteration):
        run.step()


def test_two_runs_have_the_same_bits():
    runs = [start(NOISY, {"all": classification()}) for _ in range(2)]
    for run in runs:
        run.to_end()

    assert torch.equal(runs[0]["fit"].W, runs[1]["fit"].W)
    assert torch.equal(runs[0]["tune"].score, runs[1]["tune"].score)


def test_another_seed_gives_another_run():
    runs = [start(NOISY, {"all": classification()}, seed=s) for s in (0, 1)]
    for run in runs:
        run.to_end()

    assert not torch.equal(runs[0]["fit"].W, runs[1]["fit"].W)


NOISY = """
mlo 0.1
dim n, d, C = 2
data all : { x: real[n, d], y: int<C>[n] } from memory()
split all into train = 0.6, val = 0.2, test = 0.2 with (seed = 0)
level fit {
  var W : real[d, C] = gaussian(std = 0.1)
  draw b from train(batch = 8, shuffle = true)
  minimize mean(sigmoid(tune.score[b.index]) * xent(b.x @ W, b.y)) + 0.01 * sumsq(W)
  optimizer = sgd(lr = 0.5, momentum = 0.9)
  steps = 5
  hypergrad = cg(iters = 5, damping = 0.01)
}
level tune {
  var score : real[36] = zeros
  minimize mean(xent(val.x @ fit*.W, val.y))
  optimizer = adam(lr = 0.1)
}
metric acc = accuracy(test.x @ fit.W, test.y)
run { steps = 6  eval = every(2)  precision = fp64 }
"""


def test_metrics_come_when_asked_for():
    run = start(NOISY, {"all": classification()})
    outputs = list(run)
    test = parts(run, "test")
    expected = float(((test["x"] @ run["fit"].W).argmax(1) == test["y"]).double().mean())

    assert [bool(out.metrics) for out in outputs] == [False, True] * 3
    assert outputs[-1].metrics == {"acc": expected}


def test_early_stopping():
    stop = "early(acc, patience = 1, mode = max, min_delta = 2.0)"
    run = start(NOISY, {"all": classification()}, set={"run.stop": stop})
    outputs = list(run)

    # the first look is an improvement on nothing, the second is none
    assert len(outputs) == 4
    assert "acc" in outputs[-1].stopped
    assert run.finished


BALL = """
mlo 0.1
dim n, d
data all : { x: real[n, d], y: real[n] } from memory()
level attack {
  var delta : real[d] in ball(inf, 0.1) = uniform(-0.1, 0.1)
  maximize mean(((all.x + delta) @ defend.w - all.y)^2)
  optimizer = sign_sgd(lr = 0.04)
  steps = 5
  start = reset
}
level defend {
  var w : real[d] = ones
  minimize mean(((all.x + attack*.delta) @ w - all.y)^2)
  optimizer = sgd(lr = 0.01)
}
run { steps = 3  precision = fp64 }
"""


def test_a_maximizing_level_climbs_inside_its_ball():
    run = start(BALL, {"all": regression()})
    begin = run["attack"].delta
    out = run.step()
    found = run["attack"].delta
    data, w = parts(run, "all"), torch.ones(5, dtype=torch.float64)

    def loss(delta):
        return float(((data["x"] + delta) @ w - data["y"]).square().mean())

    assert float(found.abs().max()) <= 0.1
    assert loss(found) > loss(begin)
    assert out.loss["attack"] > 0


def test_reset_draws_anew_each_time():
    run = start(BALL, {"all": regression()})
    stage = run.stages["attack"]
    seen = []
    for _ in range(2):
        stage.start()
        seen.append(run["attack"].delta)

    assert not torch.equal(seen[0], seen[1])


def test_divergence_names_level_step_and_cause():
    run = ridge("optimizer = sgd(lr = 1e60)  steps = 20")
    with pytest.raises(
        DivergedError, match=r"`fit` diverged in step 0.*objective is (inf|nan)"
    ) as raised:
        run.to_end()

    assert raised.value.level == "fit"
    assert raised.value.inner is not None
    assert 0 < raised.value.inner < 20
    assert "optimizer.lr" in str(raised.value)


def test_a_gradient_that_is_not_finite_is_found():
    """The square root is finite at zero, its derivative is not."""
    run = start("""
mlo 0.1
level fit {
  var w : real = 0
  minimize sqrt(w) * tune.v^2
  optimizer = sgd(lr = 0.1)
}
level tune {
  var v : real = 1
  minimize fit*.w + v^2
  optimizer = sgd(lr = 0.1)
  }
run { steps = 2  precision = fp64 }
""")
    with pytest.raises(DivergedError, match=r"`fit`.*`fit.w`"):
        run.to_end()


def test_stop_ends_the_inner_loop():
    run = ridge("optimizer = sgd(lr = 0.3)  steps = 1000  stop = grad_norm < 1e-3")
    run.step()

    assert run.state.updates["fit"] < 200
    loss, grad = run.stages["fit"].own_gradient(run.stages["fit"].feed.current())
    assert float(loss) > 0
    run2 = ridge("optimizer = sgd(lr = 0.3)  steps = 3  stop = grad_norm < 1e-12")
    run2.step()
    assert run2.state.updates["fit"] == 3
    assert grad.norm() >= 0


def test_variables_are_copies():
    run = ridge("hypergrad = exact")
    run["fit"].w.fill_(7.0)

    assert float(run["fit"].w.abs().max()) == 0.0
    with pytest.raises(AttributeError, match="it has w"):
        _ = run["fit"].nothing
    with pytest.raises(KeyError, match="no level"):
        _ = run["nothing"]


def test_tracebacks_show_the_emitted_line():
    import traceback

    run = ridge("optimizer = sgd(lr = 0.1)", opt=0)
    stage = run.stages["fit"]
    run.state.theta["fit"] = torch.zeros(3, dtype=torch.float64)
    with pytest.raises(RuntimeError) as raised:
        stage.step()

    assert "train_x @ fit_w" in "".join(traceback.format_tb(raised.value.__traceback__))


SHARED = """
mlo 0.1
dim n, d
data all : { x: real[n, d], y: real[n] } from memory()
draw b from all(batch = 8, shuffle = true)
level attack {
  var delta : real[d] in ball(2, 0.1) = zeros
  maximize mean(((b.x + delta) @ defend.w - b.y)^2)
  optimizer = sgd(lr = 0.04)
  steps = 3
}
level defend {
  var w : real[d] = ones
  minimize mean(((b.x + attack*.delta) @ w - b.y)^2)
  optimizer = sgd(lr = 0.01)
}
run { steps = 4  precision = fp64 }
"""


def test_a_shared_batch_lasts_a_whole_period():
    run = start(SHARED, {"all": regression()})
    seen: dict[str, list[list[int]]] = {"attack": [], "defend": []}
    for name, stage in run.stages.items():
        own = stage.feed.next

        def note(own=own, name=name):
            frame = own()
            seen[name].append(frame.columns["b", "index"].tolist())
            return frame

        stage.feed.next = note
    run.to_end()

    assert len(seen["defend"]) == 4
    assert len({tuple(rows) for rows in seen["defend"]}) == 4
    for k, rows in enumerate(seen["defend"]):
        assert seen["attack"][3 * k : 3 * k + 3] == [rows] * 3


def test_a_draw_that_only_metrics_read_is_new_after_every_update():
    more = "draw m from all(batch = 5, shuffle = true)\nmetric rows = sum(2.0 ^ real(m.index))\n"
    text = SHARED.replace("run {", more + "run { eval = every(1)")
    run = start(text, {"all": regression(20)})
    found = []
    for out in run:
        found.append(int(out.metrics["rows"]))
        # the same until the top level moves
        assert int(run.metrics()["rows"]) == found[-1]

    # the sets of an epoch's rows, as bits: disjoint, and all of them together
    assert len(found) == 4
    assert sum(found) == 2**20 - 1


def test_running_leaves_torch_s_generator_alone():
    run = start(NOISY.replace("xent(b.x @ W, b.y)", "dropout(xent(b.x @ W, b.y), p = 0.3)"),
                {"all": classification()})  # fmt: skip
    before = torch.get_rng_state()
    run.to_end()

    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("mode", "values", "stops_at"),
    [
        ("min", [3, 2, 2.2, 1.95, 1.95], 3),
        ("max", [1, 2, 3, 2, 3.05], 4),
        ("min", [1, float("nan"), 0.5], None),
    ],
)
def test_patience(mode, values, stops_at):
    early = Early("acc", patience=2, mode=mode, min_delta=0.1)
    stops = [k for k, value in enumerate(values) if early.look(value)]

    assert (stops[0] if stops else None) == stops_at


def test_every_start_from_a_copy_is_differentiated():
    """w_T = 1 + 0.8^3 (w_0 - 1) from the copied w_0, so d (w_T + 1)^2 / d w_0 = 2 0.8^3 (w_T + 1),
    at the first update of the level above as at all others.
    """
    text = """
level adapt {
  var w : real = 0
  minimize (w - 1)^2
  optimizer = sgd(lr = 0.1)
  steps = 3
  start = copy(meta.w)
  hypergrad = unroll
}
level meta {
  var w : real = 5
  minimize (adapt*.w + 1)^2
  optimizer = sgd(lr = 0.01)
}
run { steps = 4  precision = fp64 }
"""
    found = [out.grad_norm["meta"] for out in start(text)]

    w, expected = 5.0, []
    for _ in range(4):
        expected.append(2 * 0.8**3 * (2 + 0.8**3 * (w - 1)))
        w -= 0.01 * expected[-1]
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("opt", [0, 1])
@pytest.mark.parametrize("strategy", ["unroll", "unroll(recompute = true)", "forward"])
def test_a_variable_without_a_counterpart_starts_where_it_was(strategy, opt):
    """Not where the steps have brought it: against the same steps by autograd."""
    run = start(
        f"""
level adapt {{
  var w : real[3] = zeros
  var b : real = 0.5
  minimize 0.5 * sumsq(w - 1.0) + b * sum(w^2) + 0.3 * b^2
  optimizer = sgd(lr = 0.1)
  steps = 3
  start = copy(meta.w)
  hypergrad = {strategy}
}}
level meta {{
  var w : real[3] = fill(0.2)
  minimize sumsq(adapt*.w - 0.4) + 0.1 * adapt*.b
  optimizer = sgd(lr = 0.1)
}}
run {{ steps = 3  precision = fp64 }}
""",
        opt=opt,
    )
    b, m = torch.tensor(0.5).double(), torch.full((3,), 0.2, dtype=torch.float64)
    for _ in range(2):
        first = m.clone().requires_grad_()
        w, b = first, b.detach().clone().requires_grad_()
        for _ in range(3):
            loss = 0.5 * ((w - 1) ** 2).sum() + b * (w**2).sum() + 0.3 * b**2
            grads = torch.autograd.grad(loss, [w, b], create_graph=True)
            w, b = w - 0.1 * grads[0], b - 0.1 * grads[1]
        (want,) = torch.autograd.grad(((w - 0.4) ** 2).sum() + 0.1 * b, first)
        torch.testing.assert_close(run.hypergrad("meta").flat, want, rtol=1e-12, atol=1e-14)
        run.step()
        m = m - 0.1 * want


SHARES = """
data d : { y: int<3>[9] } from memory()
level fit {
  var w : real = 0
  minimize (w - 1)^2
}
metric share  = mean(d.y == 1)
metric thirds = mean(real(d.y) / 3)
metric number = 1 / 3
"""


@pytest.mark.parametrize("precision", ["fp64", "fp32"])
def test_a_metric_without_a_real_operand_has_the_precision_of_the_run(precision):
    wide = {"fp64": torch.float64, "fp32": torch.float32}[precision]
    third = float(torch.ones((), dtype=wide) / 3)
    run = start(SHARES, {"d": {"y": torch.tensor([0, 1, 2] * 3)}}, set={"run.precision": precision})

    assert run.step().metrics == {"share": third, "thirds": third, "number": third}
