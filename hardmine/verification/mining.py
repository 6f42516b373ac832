"""The comparison of smart_triplets."""

from __future__ import annotations

import torch

from hardmine.verification.base import OpComparison


class MiningComparison(OpComparison):
    """One comparison of smart_triplets with its reference. Both draw the same numbers and must agree exactly."""

    row_names = ("distances",)

    def run(self) -> str | None:
        """A description of the disagreement, or None."""
        generator = self.arguments["generator"]
        actual, expected = (
            choose(**{**self.arguments, "generator": generator.clone_state()})
            for choose in (self.op, self.reference.smart_triplets)
        )
        self.outputs = actual._asdict()
        for name, values, wanted in zip(actual._fields, actual, expected, strict=True):
            if values.shape != wanted.shape:
                return f"{name} must be {list(wanted.shape)}, got {list(values.shape)}"
            if not torch.equal(values, wanted):
                t = int((values != wanted).reshape(len(values), -1).any(1).nonzero()[0])
                return f"{name}[{t}] is {values[t].tolist()} where the reference has {wanted[t].tolist()}"
        self.record.record("triplets", 0.0)
        return None
