"""Early stopping: `stop = early(test_acc, patience = 10, mode = max)`."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, isnan

from bettyc.model import Call, Ref


@dataclass
class Early:
    """Stops after `patience` looks without an improvement by more than `min_delta`.

    of: `level.loss` or a metric. A look is an update of the top level at which the number is known.
    """

    of: str
    patience: int = 10
    mode: str = "min"
    min_delta: float = 0.0
    best: float = field(default=inf)
    waited: int = 0

    @staticmethod
    def of_call(call: Call) -> Early:
        options = dict(zip(("of", "patience", "mode", "min_delta"), call.positional, strict=False))
        options |= dict(call.named)
        of = options.pop("of")
        name = of.path if isinstance(of, Ref) else of.name  # type: ignore[union-attr]
        mode = options.get("mode", "min")
        if isinstance(mode, Call):
            options["mode"] = mode.name
        return Early(name, **options)  # type: ignore[arg-type]

    def look(self, value: float) -> bool:
        """Take a new number; True when it is time to stop."""
        score = value if self.mode == "min" else -value
        if not isnan(score) and score < self.best - self.min_delta:
            self.best, self.waited = score, 0
        else:
            self.waited += 1
        return self.waited >= self.patience
