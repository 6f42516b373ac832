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
        for name, values, reference in zip(actual._fields, actual, expected, strict=True):
            if values.shape != reference.shape:
                return f"{name} must be {list(reference.shape)}, got {list(values.shape)}"
            if not torch.equal(values, reference):
                t = int((values != reference).reshape(len(values), -1).any(1).nonzero()[0])
                return f"{name}[{t}] is {values[t].tolist()}, the reference has {reference[t].tolist()}"
        self.record.record("triplets", 0.0)
        return None
