"""What importing the ops imports."""

import pytest

from support.processes import output_of, run_python


@pytest.mark.subprocess
@pytest.mark.parametrize(
    "script",
    [
        "import torch",  # else the next cases would blame hardmine
        "import hardmine.ops, hardmine.losses, hardmine.mining, hardmine.metrics",
        "import torch; from hardmine import ops; x = torch.eye(4, requires_grad=True); "
        "ops.tuplet_loss(x, torch.tensor([0, 0, 1, 1])).backward()",
    ],
    ids=["torch", "import", "call"],
)
def test_import_and_eager_call_do_not_import_dynamo(script):
    """``torch._dynamo`` takes longer to import than all of hardmine."""
    done = run_python("-c", f"{script}; import sys; print('torch._dynamo' in sys.modules)")
    assert output_of(done).split() == ["False"]
