"""``advisor explore``: GPUs made of other technology, and where the bottleneck moves."""

from __future__ import annotations

from advisor.cli.options.exploring import ExplorationOptions
from advisor.cli.options.hardware import Hardware
from advisor.cli.options.output import ReportedOutput
from advisor.cli.output import answer, check_outputs, document_of


def explore(*, hardware: Hardware, exploration: ExplorationOptions, output: ReportedOutput) -> None:
    """Explore technology: nodes, memory, links and what-if GPUs.

    A sweep shows the time on each variant, what bounds it, and from where on more of it hardly helps.

    \b
    advisor explore --model llama-2-13b --gpus 1xA100 --sweep dram
    advisor explore --model gpt-3-175b --gpus 1024xA100 --task training
      --batch 1024 --sweep node
    advisor explore --model gpt-3-175b --gpus 1024xA100 --task training
      --batch 1024 --to B200
    """  # noqa: D301  Click's mark for lines that stay as they are
    from advisor.technology.exploration import explore  # brings numpy

    check_outputs(output.report)
    result = explore(**hardware.keywords(), **exploration.keywords())

    answer(output, lambda: document_of(result), body=result.to_dict, rows=result.rows)
