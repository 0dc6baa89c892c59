"""Options of exploring technology."""

from __future__ import annotations

from typing import Annotated, Any

from advisor.cli.groups import flag, group
from advisor.cli.options.layout import DTYPE, PP, TP
from advisor.cli.options.workload import INPUT_LEN, OUTPUT_LEN
from catalog.errors import InputError
from catalog.quantities import COUNT


@group("Exploration")
class ExplorationOptions:
    """What is swept or compared."""

    sweep: Annotated[str, flag("--sweep", metavar="WHAT")] = "bandwidth"
    """What varies: generations of node, dram, link or network; or bandwidth, flops or capacity, times --factors."""
    to: Annotated[str | None, flag("--to", metavar="GPU")] = None
    """Instead of a sweep, break the gain of this GPU in training down into its causes."""
    task: Annotated[str, flag("--task", metavar="TASK")] = "inference"
    """inference (time of an output token) or training (time of a step with the fastest layout)."""
    factors: Annotated[str, flag("--factors", metavar="X,X,...")] = "0.25,0.5,1,2,4,8,16"
    """Multiples of the GPU's own bandwidth, flops or capacity in a sweep."""
    node: Annotated[str | None, flag("--node", metavar="NODE")] = None
    """Logic node of all points: N12, N7, N5, N3, N2, A14, A10."""
    dram: Annotated[str | None, flag("--dram", metavar="MEMORY")] = None
    """Memory of all points: GDDR6, HBM2E, HBM3, HBM3E, HBM4, HBM4E, ..."""
    area: Annotated[float | None, flag("--area", metavar="MM2")] = None
    """Area for logic, in mm2.  [default: the GPU's]"""
    power: Annotated[float | None, flag("--power", metavar="W")] = None
    """Power budget, in W.  [default: the GPU's]"""
    batch: Annotated[int, flag("--batch", metavar="N", quantity=COUNT)] = 1
    """Sequences at once per replica, or per training step."""
    tensor_parallel_size: Annotated[int | None, TP] = None
    """GPUs that split each layer.  [default: a node's in inference, searched in training]"""
    pipeline_parallel_size: Annotated[int | None, PP] = None
    """Stages of layers."""
    input_len: Annotated[int, INPUT_LEN] = 1024
    """Tokens of a prompt."""
    output_len: Annotated[int, OUTPUT_LEN] = 128
    """Tokens generated for each request."""
    sequence_length: Annotated[int | None, flag("--seq-len", metavar="N", quantity=COUNT)] = None
    """Tokens of a training sequence."""
    precision: Annotated[str, DTYPE] = "bf16"
    """Precision of training: bf16, fp8 or fp4."""
    to_precision: Annotated[str | None, flag("--to-dtype", metavar="FORMAT")] = None
    """Precision on the GPU of --to.  [default: the narrowest it has]"""

    def keywords(self) -> dict[str, Any]:
        """Return them as the Python API takes them.

        Raises:
            InputError: factors that are no numbers.

        """
        try:
            factors = [float(part) for part in self.factors.split(",")]
        except ValueError:
            raise InputError(
                f"--factors is {self.factors!r:.60}; it must be numbers with commas between, such as 0.5,1,2"
            ) from None
        return {
            "sweep": self.sweep.strip().casefold(),
            "to": self.to,
            "task": self.task.strip().casefold(),
            "factors": factors,
            "node": self.node,
            "dram": self.dram,
            "area_mm2": self.area,
            "power_w": self.power,
            "batch": self.batch,
            "tp": self.tensor_parallel_size,
            "pp": self.pipeline_parallel_size,
            "input_len": self.input_len,
            "output_len": self.output_len,
            "sequence_length": self.sequence_length,
            "precision": self.precision.strip().casefold(),
            "to_precision": self.to_precision,
        }
